//! Damages files and watches their readers: a replacement for cargo-fuzz that needs only stable Rust.
//!
//! The same seed gives the same inputs in the same order. Each target runs in its own process, so that even the input
//! of a stack overflow is known.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use clap::{Args, Parser, Subcommand};
use lat_fuzz::mutate::{Dice, mutated};
use lat_fuzz::{TARGETS, Target, images, memory, target};

/// Inputs kept beside the seeds because they gave new messages.
const MOST_KEPT: usize = 4096;
/// Inputs to save per finding.
const MOST_SAVED: u64 = 3;
/// Attempts to shrink the input of a panic.
const SMALLER_TRIES: usize = 4000;
/// Bytes that the heap may grow by after the first tenth of the time, without the kept inputs.
const HEAP_GAIN: usize = 8 << 20;
/// Bytes that the process may grow by in that time.
const RESIDENT_GAIN: usize = 512 << 20;

#[derive(Parser)]
#[command(about = "Damages files and watches their readers")]
struct Arguments {
    #[command(subcommand)]
    command: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Lists the targets.
    List,
    /// Tries damaged inputs; exits with 1 if there are findings.
    Run(Run),
    /// Runs one process of `run`.
    #[command(hide = true)]
    Work(Work),
    /// Feeds files to a target and prints its messages.
    Replay {
        #[arg(long)]
        target: String,
        files: Vec<PathBuf>,
    },
    /// Writes the seeds and words of every target for libFuzzer: DIR/TARGET/ and DIR/TARGET.dict.
    Seeds { dir: PathBuf },
    /// Feeds damaged images to the decoder and to `lat-wgpu embed`.
    Images(images::Arguments),
}

#[derive(Args)]
struct Run {
    /// Target to run; may be repeated [default: all in sequence].
    #[arg(long)]
    target: Vec<String>,
    /// Seconds per target.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Seconds after which an input counts as hanging.
    #[arg(long, default_value_t = 10)]
    patience: u64,
    /// Folder for the inputs of findings.
    #[arg(long, default_value = "findings")]
    out: PathBuf,
}

#[derive(Args, Clone)]
struct Work {
    #[arg(long)]
    target: String,
    #[arg(long)]
    seconds: u64,
    #[arg(long)]
    seed: u64,
    #[arg(long)]
    patience: u64,
    #[arg(long)]
    out: PathBuf,
    /// Number of the first input.
    #[arg(long)]
    first: u64,
    /// File with the number and the bytes of the current input.
    #[arg(long)]
    running: PathBuf,
}

fn main() -> ExitCode {
    let found = match Arguments::parse().command {
        Action::List => {
            TARGETS.iter().for_each(|target| println!("{}", target.name));
            0
        }
        Action::Run(arguments) => run(&arguments),
        Action::Work(arguments) => work(&arguments),
        Action::Replay { target, files } => replay(known(&target), &files),
        Action::Seeds { dir } => {
            TARGETS.iter().for_each(|target| write_seeds(target, &dir));
            0
        }
        Action::Images(arguments) => images::run(&arguments),
    };
    let _ = std::fs::remove_dir_all(lat_fuzz::files::folder());
    if found == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn known(name: &str) -> &'static Target {
    target(name).unwrap_or_else(|| {
        eprintln!("error: no target {name}\nhint: `lat-fuzz list` lists them");
        std::process::exit(2)
    })
}

/// Runs the targets, and returns the number of findings.
fn run(arguments: &Run) -> usize {
    let names = match arguments.target.is_empty() {
        true => TARGETS.iter().map(|target| target.name.to_string()).collect(),
        false => arguments.target.clone(),
    };
    names.iter().map(|name| watch(known(name), arguments)).sum()
}

/// Runs a target in a process. If the process dies, another one continues from the next input.
fn watch(target: &Target, arguments: &Run) -> usize {
    // In memory if the system has such a folder, since writing to a disk takes longer than reading.
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    let folder = folder.expect("a folder for the files that are read");
    let running = folder.path().join("running");
    let end = Instant::now() + Duration::from_secs(arguments.seconds);
    let (mut first, mut deaths) = (0, 0);
    loop {
        let left = end.saturating_duration_since(Instant::now()).as_secs();
        let status = Command::new(std::env::current_exe().expect("this program"))
            .args(["work", "--target", target.name, "--seconds", &left.to_string()])
            .args(["--seed", &arguments.seed.to_string(), "--patience", &arguments.patience.to_string()])
            .args(["--first", &first.to_string()])
            .arg("--out")
            .arg(&arguments.out)
            .arg("--running")
            .arg(&running)
            .env("LAT_FUZZ_DIR", folder.path())
            .stderr(Stdio::inherit())
            .status()
            .expect("this program");
        if let Some(code) = status.code() {
            return code as usize + deaths;
        }
        let bytes = std::fs::read(&running).unwrap_or_default();
        let Some((number, input)) = bytes.split_first_chunk() else { return deaths + 1 };
        let number = u64::from_le_bytes(*number);
        let what = if folder.path().join("hang").exists() { "hang" } else { "death" };
        let _ = std::fs::remove_file(folder.path().join("hang"));
        let path = save(&arguments.out, target.name, &format!("{what}-{number}"), input);
        println!("FINDING {}: {what} ({status}) at input {number}: {}", target.name, path.display());
        deaths += 1;
        first = number + 1;
        if left == 0 || deaths > 50 {
            return deaths;
        }
    }
}

fn save(out: &Path, target: &str, name: &str, input: &[u8]) -> PathBuf {
    let folder = out.join(target);
    std::fs::create_dir_all(&folder).expect("the folder of findings");
    let path = folder.join(name);
    std::fs::write(&path, input).expect("room for a finding");
    path
}

/// Location and message of the last panic.
static LAST_PANIC: Mutex<Option<(String, String)>> = Mutex::new(None);
/// Numbers of panics by location, including those that a reader catches.
static PANICS: Mutex<BTreeMap<String, u64>> = Mutex::new(BTreeMap::new());

/// Records panics instead of printing them.
fn remember_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map_or("nowhere".to_string(), |at| {
            let file = at.file().rsplit_once("/registry/src/").map_or(at.file(), |(_, rest)| rest);
            format!(
                "{}:{}",
                file.split_once('/').filter(|_| file != at.file()).map_or(file, |(_, rest)| rest),
                at.line()
            )
        });
        let text = panic.payload_as_str().unwrap_or_default().lines().next().unwrap_or_default().to_string();
        if let (Ok(mut last), Ok(mut panics)) = (LAST_PANIC.lock(), PANICS.lock()) {
            *panics.entry(place.clone()).or_default() += 1;
            *last = Some((place, text));
        }
    }));
}

/// Feeds one input. Returns the message, or location and message of a panic.
fn feed(target: &Target, input: &[u8]) -> Result<String, (String, String)> {
    catch_unwind(AssertUnwindSafe(|| (target.fuzz)(input)))
        .map_err(|_| LAST_PANIC.lock().ok().and_then(|mut last| last.take()).unwrap_or_default())
}

/// The kind of a message: the words up to the first number or name in each of its parts.
fn kind_of(message: &str) -> String {
    let parts = message.split("; ").take(6).map(|part| {
        // The error of a configuration shows the line first.
        let part = part.lines().last().unwrap_or_default();
        let part = part.split_once(": ").map_or(part, |(_, rest)| rest);
        let end = part
            .find(|letter: char| !letter.is_ascii() || letter.is_ascii_digit() || "\"`'[{(".contains(letter));
        &part[..end.unwrap_or(part.len()).min(60)]
    });
    parts.collect::<Vec<_>>().join("; ")
}

/// Shrinks an input that panics at `place`.
fn smaller(target: &Target, input: &[u8], place: &str) -> Vec<u8> {
    let mut best = input.to_vec();
    let mut piece = best.len().div_ceil(2);
    let mut tries = 0;
    while piece > 0 {
        let mut at = 0;
        let mut shrank = false;
        while at < best.len() && tries < SMALLER_TRIES {
            tries += 1;
            let mut candidate = best.clone();
            candidate.drain(at..(at + piece).min(best.len()));
            (target.repair)(&mut candidate);
            if feed(target, &candidate).is_err_and(|(other, _)| other == place) {
                best = candidate;
                shrank = true;
            } else {
                at += piece;
            }
        }
        if !shrank || tries >= SMALLER_TRIES {
            piece = if piece == 1 || tries >= SMALLER_TRIES { 0 } else { piece / 2 };
        }
    }
    best
}

/// Tries inputs until the time is up, and returns the number of findings.
fn work(arguments: &Work) -> usize {
    let Work { seconds, seed, patience, out, first, running, .. } = arguments.clone();
    let target = known(&arguments.target);
    remember_panics();
    let start = Instant::now();
    // Milliseconds from `start` to the start of the current input; 0 between inputs.
    let began = Arc::new(AtomicU64::new(0));
    let mark = running.with_file_name("hang");
    let watched = began.clone();
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(Duration::from_millis(200));
            let since = watched.load(Relaxed);
            if since > 0 && start.elapsed().as_millis() as u64 > since + 1000 * patience {
                let _ = std::fs::write(&mark, b"");
                std::process::abort();
            }
        }
    });

    let mut files = (target.seeds)();
    let seeds = files.len();
    let mut kinds: HashSet<String> = HashSet::new();
    for bytes in &files {
        kinds.insert(kind_of(&feed(target, bytes).unwrap_or_default()));
    }
    let running = File::create(&running).expect("a file for the input");
    let mut findings: BTreeMap<String, u64> = BTreeMap::new();
    let (mut number, mut slowest, mut kept_bytes) = (first, (Duration::ZERO, 0), 0);
    let warm: OnceLock<(usize, usize)> = OnceLock::new();
    let end = start + Duration::from_secs(seconds);
    while Instant::now() < end {
        let input =
            mutated(&files, target.words, target.longest, target.repair, &mut Dice::new(seed, number));
        let header = number.to_le_bytes();
        let length = header.len() as u64 + input.len() as u64;
        let written = running.write_all_at(&header, 0).and_then(|()| running.write_all_at(&input, 8));
        written.and_then(|()| running.set_len(length)).expect("room for the input");

        let before = Instant::now();
        began.store((start.elapsed().as_millis() as u64).max(1), Relaxed);
        let answer = feed(target, &input);
        began.store(0, Relaxed);
        if before.elapsed() > slowest.0 {
            slowest = (before.elapsed(), number);
        }
        match answer {
            Ok(message) => {
                let kind = kind_of(&message);
                let length = kind.len();
                if files.len() < seeds + MOST_KEPT && kinds.insert(kind) {
                    kept_bytes += input.capacity() + length;
                    files.push(input);
                }
            }
            Err((place, text)) => {
                let count = findings.entry(place.clone()).or_default();
                *count += 1;
                if *count <= MOST_SAVED {
                    began.store(0, Relaxed);
                    let small = smaller(target, &input, &place);
                    let name = format!("panic-{}-{count}", place.replace(['/', ':'], "_"));
                    let path = save(&out, target.name, &name, &small);
                    println!(
                        "FINDING {}: {place}: {text} at input {number}, {} bytes: {}",
                        target.name,
                        small.len(),
                        path.display()
                    );
                }
            }
        }
        number += 1;
        if start.elapsed().as_secs() * 10 >= seconds {
            warm.get_or_init(|| (memory::live() - kept_bytes, memory::resident()));
        }
    }
    let now = (memory::live().saturating_sub(kept_bytes), memory::resident());
    let then = *warm.get_or_init(|| now);
    let gain = |now: usize, then: usize| now.saturating_sub(then);
    let mebi = |bytes: usize| bytes as f64 / f64::from(1 << 20);
    println!(
        "{}: {} inputs in {:.0} s, {} kinds of answers, slowest {:.2} s (input {}), heap {:.1} -> {:.1} MiB, \
         resident {:.0} -> {:.0} MiB, {} findings",
        target.name,
        number - first,
        start.elapsed().as_secs_f64(),
        kinds.len(),
        slowest.0.as_secs_f64(),
        slowest.1,
        mebi(then.0),
        mebi(now.0),
        mebi(then.1),
        mebi(now.1),
        findings.len()
    );
    let caught: BTreeSet<String> = PANICS
        .lock()
        .map(|panics| {
            panics
                .iter()
                .filter(|(place, _)| !findings.contains_key(*place))
                .map(|(place, count)| format!("{place} ({count})"))
                .collect()
        })
        .unwrap_or_default();
    if !caught.is_empty() {
        println!(
            "{}: panics that the reader catches: {}",
            target.name,
            caught.into_iter().collect::<Vec<_>>().join(", ")
        );
    }
    let grew = gain(now.0, then.0) > HEAP_GAIN || gain(now.1, then.1) > RESIDENT_GAIN;
    if grew {
        println!("FINDING {}: memory grows", target.name);
    }
    let _ = std::io::stdout().flush();
    // Used as exit status, which holds no larger numbers.
    (findings.len() + usize::from(grew)).min(100)
}

fn replay(target: &Target, files: &[PathBuf]) -> usize {
    let mut failed = 0;
    for path in files {
        let input = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let start = Instant::now();
        let (answer, peak) = memory::peak_of(|| catch_unwind(AssertUnwindSafe(|| (target.fuzz)(&input))));
        let seconds = start.elapsed().as_secs_f64();
        failed += usize::from(answer.is_err());
        let message = answer.unwrap_or_else(|_| "a panic".to_string());
        println!(
            "{}: {message} ({seconds:.2} s, {:.1} MiB)",
            path.display(),
            peak as f64 / f64::from(1 << 20)
        );
    }
    failed
}

fn write_seeds(target: &Target, dir: &Path) {
    let folder = dir.join(target.name);
    std::fs::create_dir_all(&folder).expect("a folder for the seeds");
    for (number, bytes) in (target.seeds)().iter().enumerate() {
        std::fs::write(folder.join(format!("{number:03}")), bytes).expect("room for a seed");
    }
    let escaped = |word: &&[u8]| {
        format!("\"{}\"\n", word.iter().map(|byte| format!("\\x{byte:02x}")).collect::<String>())
    };
    let words: String = target.words.iter().map(escaped).collect();
    std::fs::write(dir.join(format!("{}.dict", target.name)), words).expect("room for the words");
}
