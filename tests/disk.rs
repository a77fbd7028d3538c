//! Every writing command on a full disk, in a read-only folder, with a closed pipe, without a home folder, and with
//! unusual file names. The error names the cause, the file and a remedy, an older file stays unchanged, and no
//! temporary file is left.

#![cfg(target_os = "linux")]

#[path = "common/program.rs"]
mod program;

use lat_wgpu::embeddings;
use lat_wgpu::embeddings::index::Manifest;
use program::{PROGRAM, expect, finish, program};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use tempfile::TempDir;

/// Content of every output file before a run.
const OLD: &[u8] = b"an older file";
/// More space than any run needs, in KiB.
const ENOUGH: u64 = 15_000;

/// A way to simulate a full disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Disk {
    /// A file system in memory that only the program sees, with the option of `unshare` that makes it.
    Mounted(&'static str),
    /// A limit on the size of each file, if the system permits no such file system.
    Limited,
}

fn disk() -> Disk {
    static DISK: OnceLock<Disk> = OnceLock::new();
    *DISK.get_or_init(|| {
        let grants = |how: &str| {
            let folder = tempfile::tempdir().unwrap();
            let script = "mount -t tmpfs -o size=64k tmpfs \"$0\"";
            let done = Command::new("unshare").args([how, "sh", "-c", script]).arg(folder.path()).output();
            done.is_ok_and(|output| output.status.success())
        };
        let disk = match ["-m", "-rm"].into_iter().find(|how| grants(how)) {
            Some(how) => Disk::Mounted(how),
            None => Disk::Limited,
        };
        eprintln!("full disks by {disk:?}");
        disk
    })
}

/// Runs in `folder` with `full/` on a disk with `room` KiB left, or on a read-only one (`None`). `full/` starts with
/// the files of `old/`; its final files are copied to `after/`.
fn on_disk(folder: &Path, room: Option<u64>, arguments: &[&str]) -> Output {
    for name in ["full", "after"] {
        let _ = std::fs::remove_dir_all(folder.join(name));
        std::fs::create_dir(folder.join(name)).unwrap();
    }
    let script = match (disk(), room) {
        (Disk::Mounted(_), Some(_)) => {
            "mount -t tmpfs -o size=16m tmpfs full && cp -a old/. full && dd if=/dev/zero of=full/fill bs=4k 2>/dev/null; \
             truncate -s -\"$ROOM\"K full/fill; \"$@\"; code=$?; rm full/fill; cp -a full/. after; exit $code"
        }
        (Disk::Mounted(_), None) => {
            "mount -t tmpfs -o size=16m tmpfs full && cp -a old/. full && mount -o remount,ro full && \"$@\"; code=$?; \
             cp -a full/. after; exit $code"
        }
        // Beyond the limit a write fails as on a full disk, if the signal that comes with it is ignored.
        (Disk::Limited, Some(_)) => {
            "cp -a old/. full; (trap '' XFSZ; ulimit -f $((2 * ROOM)); exec \"$@\"); code=$?; cp -a full/. after; exit $code"
        }
        (Disk::Limited, None) => {
            "cp -a old/. full; chmod -R a-w full; \"$@\"; code=$?; chmod -R u+w full; cp -a full/. after; exit $code"
        }
    };
    let mut command = match disk() {
        Disk::Mounted(how) => {
            let mut command = Command::new("unshare");
            command.args([how, "sh"]);
            command
        }
        Disk::Limited => Command::new("sh"),
    };
    command.args(["-c", script, "sh", PROGRAM]).args(arguments).current_dir(folder).stdin(Stdio::null());
    // The choices of `autotune` go to the full disk.
    command.env("LAT_CACHE", "full/cache");
    command.env("ROOM", room.unwrap_or_default().to_string()).output().unwrap()
}

/// All files below a folder.
fn tree(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in
        walkdir::WalkDir::new(folder).into_iter().map(Result::unwrap).filter(|e| e.file_type().is_file())
    {
        let name = entry.path().strip_prefix(folder).unwrap().to_string_lossy().into_owned();
        found.insert(name, std::fs::read(entry.path()).unwrap());
    }
    found
}

/// Synthetic images, a model, embeddings, and an index.
fn inputs() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let lat = |arguments: &[&str]| expect(0, folder.path(), arguments);
    std::fs::create_dir(folder.path().join("old")).unwrap();
    lat(&["synth", "set", "--persons", "4", "--cameras", "2", "--images", "2", "--seed", "3"]);
    let size = ["--size", "64x32", "--patch", "8", "--dim", "64", "--depth", "1", "--heads", "4"];
    lat(&[&["init", "--out", "m.safetensors"], &size[..]].concat());
    lat(&["embed", "--model", "m.safetensors", "set/query", "--out", "q.npy"]);
    lat(&["embed", "--model", "m.safetensors", "set/bounding_box_test", "--out", "g.npy"]);
    lat(&["embed", "--model", "m.safetensors", "set", "--out", "index", "--append"]);
    folder
}

/// One image of the data set.
fn a_query(folder: &Path) -> PathBuf {
    std::fs::read_dir(folder.join("set/query")).unwrap().next().unwrap().unwrap().path()
}

/// Runs a command at `levels` fill levels, which are 4 KiB or a fraction of `most` KiB apart, then with enough space.
/// `outputs` exist before each run.
fn fill(folder: &Path, arguments: &[&str], outputs: &[&str], levels: u64, most: u64) {
    for name in outputs {
        std::fs::create_dir_all(folder.join("old").join(name).parent().unwrap()).unwrap();
        std::fs::write(folder.join("old").join(name), OLD).unwrap();
    }
    let before = tree(&folder.join("old"));
    let step = (most / levels / 4).max(1) * 4;
    for room in (0..levels).map(|level| level * step).chain([ENOUGH]) {
        let output = on_disk(folder, Some(room), arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        let case = format!("{arguments:?} with {room} KiB: {:?}\n{stderr}", output.status.code());
        let after = tree(&folder.join("after"));
        let temporary = after.keys().find(|name| name.contains(".lat-wgpu-"));
        assert_eq!(temporary, None, "{case}");
        assert!(!stderr.contains("panicked"), "{case}");
        match output.status.code() {
            Some(0) => {
                assert!(room > 0, "it succeeded without space: {case}");
                assert!(outputs.iter().all(|name| after[*name] != OLD), "{case}");
            }
            Some(1) => {
                assert!(room < ENOUGH, "{case}");
                assert!(stderr.contains("error: cannot ") && stderr.contains("full"), "{case}");
                assert!(stderr.contains("No space left") || stderr.contains("File too large"), "{case}");
                assert!(stderr.contains("hint: does the folder exist"), "{case}");
                for (name, bytes) in &before {
                    assert!(after.get(name) == Some(bytes), "{name} was changed: {case}");
                }
            }
            _ => panic!("{case}"),
        }
    }
    for name in outputs {
        std::fs::remove_file(folder.join("old").join(name)).unwrap();
    }
}

#[test]
fn a_full_disk_is_reported_and_harms_nothing() {
    let inputs = inputs();
    let folder = inputs.path();
    const MODEL: [&str; 2] = ["--model", "m.safetensors"];
    let with_model = |words: &[&'static str]| [&words[..1], &MODEL, &words[1..]].concat();
    // Twenty levels for each command that needs no adapter.
    fill(
        folder,
        &[
            "init",
            "--dim",
            "64",
            "--depth",
            "1",
            "--heads",
            "4",
            "--size",
            "32x32",
            "--out",
            "full/m.safetensors",
        ],
        &["m.safetensors"],
        20,
        480,
    );
    fill(
        folder,
        &with_model(&["export", "--to", "timm", "--out", "full/t.safetensors"]),
        &["t.safetensors"],
        20,
        320,
    );
    fill(folder, &["merge", "index", "--out", "full/i.npy"], &["i.npy", "i.paths.txt"], 20, 80);
    fill(folder, &["data", "set", "--json", "full/d.json"], &["d.json"], 3, 12);
    fill(folder, &["inspect", "m.safetensors", "--json", "full/i.json"], &["i.json"], 3, 12);
    // Also for the most common commands.
    fill(folder, &with_model(&["embed", "set", "--out", "full/e.safetensors"]), &["e.safetensors"], 20, 80);
    fill(folder, &with_model(&["embed", "set", "--out", "full/e.npy"]), &["e.npy"], 3, 36);
    fill(folder, &with_model(&["embed", "set", "--out", "full/e.parquet"]), &["e.parquet"], 3, 36);
    let scored = ["eval", "--query-embeddings", "q.npy", "--gallery-embeddings", "g.npy"];
    fill(folder, &[&scored[..], &["--json", "full/e.json"]].concat(), &["e.json"], 2, 8);
    fill(
        folder,
        &[&scored[..], &["--html", "full/e.html", "--images", "set/bounding_box_test"]].concat(),
        &["e.html"],
        3,
        36,
    );
    fill(folder, &["reduce", "g.npy", "--dim", "2", "--out", "full/r.safetensors"], &["r.safetensors"], 2, 8);
    let searched = ["search", "--gallery", "g.npy", "--query", "set/query"];
    fill(folder, &[&with_model(&searched)[..], &["--json", "full/s.json"]].concat(), &["s.json"], 2, 8);
    let explained = ["explain", "set/query", "--out", "full/x.png"];
    let image = a_query(folder);
    let explained = explained.map(|word| if word == "set/query" { image.to_str().unwrap() } else { word });
    fill(folder, &[&explained[..], &MODEL].concat(), &["x.png"], 2, 8);
    fill(folder, &with_model(&["export", "--to", "web", "--out", "full/web"]), &[], 4, 400);
    let bench = ["bench", "--match", "l2norm", "--samples", "1"];
    fill(folder, &[&bench[..], &["--json", "full/b.json"]].concat(), &["b.json"], 1, 4);
    fill(folder, &[&bench[..], &["--svg", "full/b.svg"]].concat(), &["b.svg"], 1, 4);
    fill(folder, &with_model(&["export", "--to", "onnx", "--out", "full/o.onnx"]), &["o.onnx"], 4, 320);
}

#[test]
fn figures_are_complete_or_missing() {
    let inputs = inputs();
    let folder = inputs.path();
    fill(folder, &["synth", "full/set", "--persons", "2", "--cameras", "1", "--images", "2"], &[], 20, 80);
    let whole = tree(&folder.join("after/set"));
    on_disk(folder, Some(24), &["synth", "full/set", "--persons", "2", "--cameras", "1", "--images", "2"]);
    for (name, bytes) in tree(&folder.join("after/set")) {
        assert!(whole[&name] == bytes, "{name} is cut off");
    }
}

#[test]
fn an_index_on_a_full_disk_stays_readable() {
    let inputs = inputs();
    let folder = inputs.path();
    let embed =
        ["embed", "--model", "m.safetensors", "set", "--out", "full/index", "--append", "--part-rows", "4"];
    let mut rows = Vec::new();
    for room in [0, 12, 24, 36, 48, ENOUGH] {
        let output = on_disk(folder, Some(room), &embed);
        let stderr = String::from_utf8_lossy(&output.stderr);
        // In between, the result depends on how the disk is limited.
        let wanted = if room == 0 { 1..=1 } else { 0..=i32::from(room != ENOUGH) };
        assert!(output.status.code().is_some_and(|code| wanted.contains(&code)), "{room} KiB: {stderr}");
        let index = folder.join("after/index");
        assert!(tree(&folder.join("after")).keys().all(|name| !name.contains(".lat-wgpu-")), "{room} KiB");
        let manifest = if index.is_dir() { Manifest::read(&index).unwrap() } else { None };
        let parts = manifest.map(|manifest| manifest.segments).unwrap_or_default();
        // All rows that it lists exist.
        let read = parts.iter().map(|part| embeddings::read(&index.join(&part.file)).unwrap().paths.len());
        rows.push(read.sum::<usize>());
    }
    assert!(rows.is_sorted() && rows[0] == 0 && rows[5] == 18, "{rows:?}");
}

#[test]
fn a_run_on_a_full_disk_resumes_with_enough_space() {
    let inputs = inputs();
    let folder = inputs.path();
    let words =
        "train --backbone m.safetensors --data set --out full/run --epochs 2 --batch-size 4 --max-steps 2";
    let train: Vec<&str> = words.split(' ').collect();
    for room in [0, 4, 60, 300, ENOUGH] {
        let output = on_disk(folder, Some(room), &train);
        let stderr = String::from_utf8_lossy(&output.stderr);
        let case = format!("{room} KiB: {stderr}");
        assert_eq!(output.status.code(), Some(i32::from(room != ENOUGH)), "{case}");
        assert!(tree(&folder.join("after")).keys().all(|name| !name.contains(".lat-wgpu-")), "{case}");
        if room != ENOUGH {
            assert!(
                stderr.contains("error: cannot ") && stderr.contains("full/run") && stderr.contains("hint: "),
                "{case}"
            );
            assert!(!stderr.contains("panicked"), "{case}");
        }
    }
    // An older state is kept, and the run resumes from it.
    std::fs::rename(folder.join("after/run"), folder.join("old/run")).unwrap();
    let state = tree(&folder.join("old"))["run/last.safetensors"].clone();
    let more: Vec<&str> =
        words.replace("--max-steps 2", "--max-steps 4").leak().split(' ').chain(["--resume"]).collect();
    let output = on_disk(folder, Some(60), &more);
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    let after = tree(&folder.join("after"));
    assert!(after["run/last.safetensors"] == state, "the older state was changed");
    assert!(after.keys().all(|name| !name.contains(".lat-wgpu-")));
    assert_eq!(on_disk(folder, Some(ENOUGH), &more).status.code(), Some(0));
}

#[test]
fn tune_reports_a_full_disk() {
    let inputs = inputs();
    let folder = inputs.path();
    let output = on_disk(
        folder,
        Some(0),
        &["autotune", "--model", "m.safetensors", "--batch-size", "1", "--seconds", "1"],
    );
    let stderr = String::from_utf8_lossy(&output.stderr);
    // If no other tiles are faster, nothing is written.
    if !stderr.contains("the built-in tiles stay") {
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains("error: cannot ") && stderr.contains("full/cache"), "{stderr}");
        assert!(stderr.contains("hint: "), "{stderr}");
    }
    assert_eq!(tree(&folder.join("after")), BTreeMap::new());
}

#[test]
fn a_read_only_folder_is_named() {
    let inputs = inputs();
    let folder = inputs.path();
    if disk() == Disk::Limited
        && std::fs::metadata("/proc/self").is_ok_and(|me| std::os::unix::fs::MetadataExt::uid(&me) == 0)
    {
        eprintln!("not tested: without a mount, nothing is read-only for the superuser");
        return;
    }
    std::fs::write(folder.join("old/e.npy"), OLD).unwrap();
    let image = a_query(folder);
    std::fs::copy(image, folder.join("crop.png")).unwrap();
    let cases: [&[&str]; 17] = [
        &["autotune", "--model", "m.safetensors"],
        &["eval", "--model", "m.safetensors", "--data", "set", "--json", "full/e.npy"],
        &["eval", "--model", "m.safetensors", "--data", "set", "--html", "full/e.npy"],
        &[
            "search",
            "--model",
            "m.safetensors",
            "--gallery",
            "g.npy",
            "--query",
            "set/query",
            "--html",
            "full/e.npy",
        ],
        &["explain", "--model", "m.safetensors", "crop.png", "--out", "full/e.png"],
        &["reduce", "g.npy", "--dim", "2", "--out", "full/e.npy"],
        &["bench", "--match", "l2norm", "--json", "full/e.npy"],
        &["export", "--model", "m.safetensors", "--to", "onnx", "--out", "full/e.npy"],
        &["init", "--out", "full/e.npy"],
        &["synth", "full/set"],
        &["merge", "index", "--out", "full/e.npy"],
        &["data", "set", "--json", "full/e.npy"],
        &["embed", "--model", "m.safetensors", "set", "--out", "full/e.npy"],
        &["embed", "--model", "m.safetensors", "set", "--out", "full/index", "--append"],
        &["train", "--backbone", "m.safetensors", "--data", "set", "--out", "full/run"],
        &["export", "--model", "m.safetensors", "--to", "timm", "--out", "full/e.npy"],
        &["export", "--model", "m.safetensors", "--to", "web", "--out", "full/web"],
    ];
    for arguments in cases {
        let output = on_disk(folder, None, arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {stderr}");
        assert!(stderr.contains("error: cannot ") && stderr.contains("full/"), "{arguments:?}: {stderr}");
        assert!(stderr.contains("Read-only") || stderr.contains("denied"), "{arguments:?}: {stderr}");
        assert!(stderr.contains("hint: ") && !stderr.contains("panicked"), "{arguments:?}: {stderr}");
        let after = tree(&folder.join("after"));
        assert_eq!(after, BTreeMap::from([("e.npy".to_string(), OLD.to_vec())]), "{arguments:?}");
    }
}

#[test]
fn a_closed_pipe_is_no_panic() {
    let inputs = inputs();
    let folder = inputs.path();
    let cases: [&[&str]; 10] = [
        &["--help"],
        &["info"],
        &["completions", "bash"],
        &["inspect", "m.safetensors"],
        &["inspect", "m.safetensors", "--json", "-"],
        &["data", "set"],
        &["eval", "--query-embeddings", "q.npy", "--gallery-embeddings", "g.npy"],
        &["train", "--backbone", "m.safetensors", "--data", "set", "--out", "run", "--dry-run"],
        &["embed", "--model", "m.safetensors", "set", "--out", "e.npy"],
        &["nonsense"],
    ];
    for arguments in cases {
        for both in [false, true] {
            let mut command = program(folder, arguments);
            command.stderr(Stdio::piped());
            // The reader closes before the program starts.
            let closed = || std::io::pipe().unwrap().1;
            command.stdout(closed());
            if both {
                command.stderr(closed());
            }
            let output = command.spawn().unwrap().wait_with_output().unwrap();
            let stderr = String::from_utf8_lossy(&output.stderr);
            let case = format!("{arguments:?}, both {both}: {:?} {stderr}", output.status);
            assert!(!stderr.contains("panicked"), "{case}");
            let wanted: &[i32] = match arguments[0] {
                "nonsense" => &[2],
                // The lost output is reported.
                "completions" => &[1],
                "inspect" if arguments.contains(&"-") => &[1],
                _ => &[0],
            };
            assert!(output.status.code().is_some_and(|code| wanted.contains(&code)), "{case}");
        }
    }
    assert_eq!(embeddings::read(&folder.join("e.npy")).unwrap().paths.len(), 18);
}

#[test]
fn everything_but_tune_works_without_a_home_folder() {
    let inputs = inputs();
    let folder = inputs.path();
    let lat = |code, arguments: &[&str]| {
        let mut command = program(folder, arguments);
        for name in [
            "HOME",
            "XDG_CACHE_HOME",
            "XDG_CONFIG_HOME",
            "XDG_DATA_HOME",
            "XDG_RUNTIME_DIR",
            "LAT_CACHE",
            "USER",
        ] {
            command.env_remove(name);
        }
        finish(code, &mut command).1
    };
    lat(0, &["embed", "--model", "m.safetensors", "set", "--out", "e.npy"]);
    lat(0, &["info"]);
    let stderr = lat(2, &["autotune", "--model", "m.safetensors", "--batch-size", "1", "--seconds", "1"]);
    assert!(stderr.contains("set HOME or LAT_CACHE"), "{stderr}");
}

#[test]
fn unusual_names_work() {
    let inputs = inputs();
    let folder = inputs.path();
    let lat = |arguments: &[OsString]| {
        let output = program(folder, arguments).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!stderr.contains("panicked"), "{stderr}");
        (output.status.code(), stderr)
    };
    let words = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
    let name = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
    let image = a_query(folder);

    let odd = folder.join(name(b"odd \"'\n$(x)\xff"));
    std::fs::create_dir(&odd).unwrap();
    let longest = [&b"l"[..].repeat(251)[..], b".png"].concat();
    let names: [&[u8]; 5] =
        [b"line\nbreak.png", b"q\"u'o`te.png", b"\xff\xfe.png", b"-dash;|&.png", &longest];
    for file in names {
        std::fs::copy(&image, odd.join(name(file))).unwrap();
    }
    let place = odd.strip_prefix(folder).unwrap();
    for extension in ["npy", "safetensors", "parquet"] {
        let out = place.join(name(format!("out \"\n{extension}.{extension}").as_bytes()));
        let embed = words("embed --model m.safetensors --out");
        let (code, stderr) = lat(&[&embed[..], &[out.clone().into(), place.into()]].concat());
        assert_eq!(code, Some(0), "{stderr}");
        let mut names = embeddings::read(&folder.join(&out)).unwrap().paths;
        names.sort();
        let long = String::from_utf8(longest.clone()).unwrap();
        assert_eq!(
            names,
            ["-dash;|&.png", "\\xff\\xfe.png", "line\nbreak.png", &long, "q\"u'o`te.png"],
            "{extension}"
        );
    }
    for arguments in
        [words("init --size 32x32 --dim 64 --heads 1 --depth 1 --out"), words("synth --persons 2 --images 1")]
    {
        let out = place.join(name(b"new\n\xff\"'.safetensors"));
        let (code, stderr) = lat(&[&arguments[..], &[out.clone().into()]].concat());
        assert_eq!(code, Some(i32::from(arguments[0] == "synth")), "{stderr}");
        assert!(folder.join(out).is_file(), "the second finds a file where it needs a folder");
    }

    // A whole data set in such a folder, and all outputs made from it. A run's configuration is text, so its folder's
    // name must be text too.
    let train = words("train --backbone m.safetensors --out run --data");
    let (code, stderr) = lat(&[&train[..], &[place.into()]].concat());
    assert!(code == Some(2) && stderr.contains("invalid UTF-8"), "{stderr}");
    let set = name(b"a set \"'\n$(x)");
    std::fs::create_dir(folder.join(&set)).unwrap();
    let inside = |file: &str| Path::new(&set).join(file).into_os_string();
    let commands = [
        ("synth --persons 4 --cameras 2 --images 2 --seed 3", "", "set"),
        ("data", "set", ""),
        (
            "train --preset paper --epochs 1 --batch-size 4 --backbone m.safetensors --data",
            "set",
            "--out run",
        ),
        ("eval --model m.safetensors --data", "set", "--html eval.html"),
        ("embed --model m.safetensors", "set/query", "--out q.npy"),
        ("embed --model m.safetensors", "set/bounding_box_test", "--out g.npy"),
        ("eval --gallery-embeddings", "g.npy", "--query-embeddings q.npy"),
        ("search --model m.safetensors --gallery", "g.npy", "--query set/query --html search.html"),
        ("reduce --dim 2", "g.npy", "--out pca.safetensors"),
    ];
    for (command, input, rest) in commands {
        // Arguments without dashes exist.
        let rest = rest.split(' ').filter(|word| !word.is_empty());
        let rest = rest.map(|word| if word.starts_with("--") { word.into() } else { inside(word) });
        let input = Some(input).filter(|input| !input.is_empty()).map(inside);
        let (code, stderr) = lat(&words(command).into_iter().chain(input).chain(rest).collect::<Vec<_>>());
        assert_eq!(code, Some(0), "{command}: {stderr}");
    }
    for page in ["eval.html", "search.html"] {
        assert!(std::fs::metadata(folder.join(inside(page))).unwrap().len() > 1000, "{page}");
    }

    // The deepest possible path, and a deeper one.
    let mut deep = PathBuf::from(folder);
    while deep.as_os_str().len() < 3800 {
        deep.push("d".repeat(100));
    }
    std::fs::create_dir_all(&deep).unwrap();
    std::fs::copy(&image, deep.join("a.png")).unwrap();
    let out = deep.join("e.npy");
    let embed = words("embed --model m.safetensors --out");
    let (code, stderr) = lat(&[&embed[..], &[out.clone().into(), deep.clone().into()]].concat());
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(embeddings::read(&out).unwrap().paths, ["a.png"]);
    while deep.as_os_str().as_bytes().len() < 4096 {
        deep.push("d".repeat(100));
    }
    for (out, input) in [(deep.join("e.npy"), folder.join("set")), (folder.join("e.npy"), deep.clone())] {
        let (code, stderr) = lat(&[&embed[..], &[out.into(), input.into()]].concat());
        assert_eq!(code, Some(1), "{stderr}");
        assert!(stderr.contains("File name too long") && stderr.contains("hint: "), "{stderr}");
    }
}
