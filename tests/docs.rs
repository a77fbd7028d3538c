//! Runs every command block of the documentation, in order, with the program that was built for the tests.
//!
//! A command block is fenced: `sh` holds commands, `console` holds commands behind `$ ` and the lines that they print,
//! in which `…` matches any text. The blocks of a file run one after the other in a folder of their own, which has the
//! repository's top-level entries as links. A comment on the line before the fence changes that:
//!
//! - `<!-- skip NAME: download, REASON -->` skips the block; `gpu` and `hours` are the other kinds;
//! - `<!-- background -->` starts the block, waits until it listens on port 8080, and ends it after the file's last
//!   block.
//!
//! Without the standard harness, so that the list of skipped blocks and the counts are always printed.

use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

#[path = "common/documents.rs"]
mod documents;

/// Blocks that run, and blocks that are marked to be skipped, in all documents together.
const COUNTS: (usize, usize) = (44, 23);

/// Words that a command begins with: an indented block must not hide one from this test.
const COMMANDS: [&str; 9] =
    ["$ ", "lat-wgpu ", "tools/", "cargo ", "python3 ", "pip ", "curl ", "hf ", "benches/peers/run.sh"];

/// One fenced block of commands.
struct Block {
    /// Line of its opening fence, from 1.
    line: usize,
    /// Commands, one a line, continued ones in one piece.
    commands: Vec<String>,
    /// Lines that the block says are printed; `…` matches any text.
    printed: Vec<String>,
    mark: Mark,
}

/// The comment before a block.
#[derive(PartialEq)]
enum Mark {
    None,
    Background,
    /// Name and reason.
    Skip(String, String),
}

fn main() -> ExitCode {
    // Names of tests are given on the command line where single ones are wanted.
    let filters: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let listing = std::env::args().any(|word| word == "--list");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let documents = documents::below(root);
    let (mut run, mut skipped, mut failed) = (0, 0, 0);
    for document in documents {
        let name = document.strip_prefix(root).unwrap_or(&document).display().to_string();
        if listing {
            println!("{name}: test");
            continue;
        }
        if !filters.is_empty() && !filters.iter().any(|filter| name.contains(filter.as_str())) {
            continue;
        }
        let blocks = match blocks(&fs::read_to_string(&document).unwrap()) {
            Ok(blocks) => blocks,
            Err(reason) => {
                println!("FAILED {name}: {reason}");
                failed += 1;
                continue;
            }
        };
        if !blocks.is_empty() {
            let (a, b, c) = run_document(root, &name, &blocks);
            (run, skipped, failed) = (run + a, skipped + b, failed + c);
        }
    }
    if listing {
        return ExitCode::SUCCESS;
    }
    println!("{run} command blocks run, {skipped} skipped, {failed} failed");
    if filters.is_empty() && (run + failed, skipped) != COUNTS {
        println!("FAILED: COUNTS in tests/docs.rs says {COUNTS:?}");
        return ExitCode::FAILURE;
    }
    ExitCode::from(u8::from(failed > 0))
}

/// The command blocks of a document.
fn blocks(text: &str) -> Result<Vec<Block>, String> {
    let mut blocks = Vec::new();
    let mut lines = text.lines().enumerate();
    let mut before = "";
    while let Some((number, line)) = lines.next() {
        let Some(language) = line.trim_start().strip_prefix("```") else {
            let indented = line.strip_prefix("    ").map(str::trim_start);
            if indented.is_some_and(|line| COMMANDS.iter().any(|word| line.starts_with(word))) {
                return Err(format!("line {}: fence the command with ```sh or ```console", number + 1));
            }
            before = line;
            continue;
        };
        let body: Vec<&str> =
            lines.by_ref().map(|(_, line)| line).take_while(|line| line.trim() != "```").collect();
        let (commands, printed) = match language {
            "sh" => (joined(body.iter().copied()), Vec::new()),
            "console" => {
                let (typed, printed): (Vec<&str>, Vec<&str>) =
                    body.iter().partition(|line| line.starts_with("$ "));
                let printed = printed.into_iter().map(str::to_string).collect();
                (joined(typed.into_iter().map(|line| &line[2..])), printed)
            }
            "text" | "python" | "rust" | "json" | "toml" | "http" | "wgsl" => continue,
            other => return Err(format!("line {}: unknown language {other:?}", number + 1)),
        };
        let mark = mark(before).map_err(|reason| format!("line {number}: {reason}"))?;
        blocks.push(Block { line: number + 1, commands, printed, mark });
        before = "";
    }
    Ok(blocks)
}

/// Commands with those that end in a backslash and their next lines in one piece.
fn joined<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut commands: Vec<String> = Vec::new();
    let mut continues = false;
    for line in lines {
        match commands.last_mut().filter(|_| continues) {
            Some(last) => last.push_str(&format!("\n{line}")),
            None => commands.push(line.to_string()),
        }
        continues = line.ends_with('\\');
    }
    commands
}

/// Reads the comment before a block.
fn mark(line: &str) -> Result<Mark, String> {
    let Some(comment) = line.trim().strip_prefix("<!--").and_then(|rest| rest.strip_suffix("-->")) else {
        return Ok(Mark::None);
    };
    let comment = comment.trim();
    if comment == "background" {
        return Ok(Mark::Background);
    }
    let Some((name, reason)) = comment.strip_prefix("skip ").and_then(|rest| rest.split_once(": ")) else {
        return Err(format!("unknown mark {comment:?}"));
    };
    match reason.split_once(", ") {
        Some(("download" | "gpu" | "hours", _)) => Ok(Mark::Skip(name.to_string(), reason.to_string())),
        _ => Err(format!("{reason:?} begins with none of download, gpu and hours")),
    }
}

/// Runs a document's blocks and counts those that ran, were skipped, and failed.
fn run_document(root: &Path, name: &str, blocks: &[Block]) -> (usize, usize, usize) {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(root).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name() != "target" {
            link(&entry.path(), &folder.path().join(entry.file_name()));
        }
    }
    let program = Path::new(env!("CARGO_BIN_EXE_lat-wgpu"));
    let path = format!("{}:{}", program.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let bash = |text: &str| {
        let mut command = Command::new("bash");
        command.args(["-euo", "pipefail", "-c", text]).current_dir(folder.path()).stdin(Stdio::null());
        command.env("PATH", &path).env("LAT_PROGRAM", program);
        command
    };
    let (mut run, mut skipped, mut failed) = (0, 0, 0);
    let mut servers: Vec<Child> = Vec::new();
    for block in blocks {
        let place = format!("{name}:{}", block.line);
        let text = block.commands.join("\n");
        let start = Instant::now();
        let outcome = match &block.mark {
            Mark::Skip(title, reason) => {
                println!("skipped {place} {title}: {reason}");
                skipped += 1;
                continue;
            }
            Mark::Background => {
                let server =
                    bash(&format!("exec {text}")).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
                servers.push(server.unwrap());
                listens().then_some(()).ok_or_else(|| "nothing listens on port 8080".to_string())
            }
            Mark::None => {
                let output = bash(&format!("{{ {text}\n}} 2>&1")).output().unwrap();
                let said = String::from_utf8_lossy(&output.stdout);
                match output.status.success() {
                    true => compare(&block.printed, &said),
                    false => Err(format!("{}\n{said}", output.status)),
                }
            }
        };
        let seconds = start.elapsed().as_secs_f64();
        match outcome {
            Ok(()) => {
                println!(
                    "ran {place} ({seconds:.1} s): {}",
                    block.commands.first().map_or("", String::as_str)
                );
                run += 1;
            }
            Err(reason) => {
                println!("FAILED {place}: {text}\n{reason}");
                failed += 1;
            }
        }
    }
    for mut server in servers {
        let _ = server.kill();
        let _ = server.wait();
    }
    (run, skipped, failed)
}

#[cfg(unix)]
fn link(from: &Path, to: &Path) {
    std::os::unix::fs::symlink(from, to).unwrap();
}

#[cfg(not(unix))]
fn link(from: &Path, to: &Path) {
    if from.is_dir() {
        fs::create_dir(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            link(&entry.path(), &to.join(entry.file_name()));
        }
    } else {
        fs::copy(from, to).unwrap();
    }
}

/// Waits for a server, two minutes at most.
fn listens() -> bool {
    let end = Instant::now() + Duration::from_secs(120);
    while Instant::now() < end {
        if TcpStream::connect("127.0.0.1:8080").is_ok() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    false
}

/// Finds each line that a block prints in the output, in order.
fn compare(printed: &[String], said: &str) -> Result<(), String> {
    let mut lines = said.lines();
    for wanted in printed {
        if !lines.any(|line| matches(line, wanted)) {
            return Err(format!("no such line, or not in this order: {wanted}\nprinted:\n{said}"));
        }
    }
    Ok(())
}

/// Compares a line with a pattern in which `…` matches any text.
fn matches(line: &str, pattern: &str) -> bool {
    let mut pieces = pattern.trim_end().split('…');
    let Some(mut rest) = pieces.next().and_then(|first| line.trim_end().strip_prefix(first)) else {
        return false;
    };
    let mut last = None;
    for piece in pieces {
        last = Some(piece);
        match rest.find(piece) {
            Some(at) => rest = &rest[at + piece.len()..],
            None => return false,
        }
    }
    match last {
        None => rest.is_empty(),
        Some(piece) => piece.is_empty() || rest.is_empty() || line.trim_end().ends_with(piece),
    }
}
