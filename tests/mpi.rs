//! Training and adapting by several processes that MPI connects, on one adapter: bit for bit as one process with
//! micro-batches. Needs `mpirun`.

#[path = "common/program.rs"]
mod program;

use program::{TINY, expect, figures, finish, program};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Time after which the processes must have ended when one of them did.
const PATIENCE: Duration = Duration::from_secs(60);

/// The program with these arguments in `folder`, started as `ranks` processes.
fn mpirun(ranks: usize, folder: &Path, arguments: &[&str]) -> Command {
    let alone = program(folder, arguments);
    let mut command = Command::new("mpirun");
    command.args(["--oversubscribe", "-n", &ranks.to_string()]);
    // Containers run tests as root. Each rank has few threads, so none is bound to a core.
    command.args(["--allow-run-as-root", "--bind-to", "none", "-x", "LAT_TUNED=0"]);
    command.arg(alone.get_program()).args(alone.get_args());
    // Some containers forbid a process to read another's memory.
    command.env("OMPI_MCA_btl_vader_single_copy_mechanism", "none");
    command.current_dir(folder).stdin(Stdio::null());
    command
}

/// Arguments of a run of three epochs on `figures/`.
fn training<'a>(out: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut arguments = vec!["train", "--backbone", TINY, "--heads", "2", "--data", "figures", "--out", out];
    arguments.extend(["--epochs", "3", "--lr", "1e-3", "--set", "schedule.save_every=2"]);
    arguments.extend(more);
    arguments
}

/// Asserts that two run folders hold the same models, states and losses.
#[track_caller]
fn assert_same(folder: &Path, one: &str, other: &str) {
    for file in ["best.safetensors", "last.safetensors"] {
        let [a, b] = [one, other].map(|run| std::fs::read(folder.join(run).join(file)).unwrap());
        assert!(a == b, "{file} of {one} and {other}");
    }
    assert_eq!(losses(&folder.join(one)), losses(&folder.join(other)));
}

/// The lines of a run's log.
fn log(run: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(run.join("log.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The values of each line of the log that are the same in equal runs.
fn losses(run: &Path) -> Vec<String> {
    let keys = ["epoch", "step", "loss", "train_loss", "val_accuracy", "clusters", "lr"];
    log(run).iter().map(|line| keys.map(|key| line[key].to_string()).join(" ")).collect()
}

/// Bytes per step of each stage, as a run notes them.
fn traffic(stderr: &str) -> Vec<u64> {
    let lines = stderr.lines().filter(|line| line.contains(" bytes per step: "));
    lines
        .map(|line| line.split(" sends ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap())
        .collect()
}

/// The errors that a command prints.
fn errors(stderr: &str) -> Vec<&str> {
    stderr.lines().filter(|line| line.starts_with("error: ")).collect()
}

/// Keys of a recipe with BNNeck, triplets, prototypes, averages, stochastic depth and random erasing.
const RECIPE: &str = "head.kind=bnneck loss.triplet=true loss.soft_margin=true loss.prototypes=0.5 optim.ema=0.9 \
                      model.drop_path=0.2 data.erasing=0.5 data.erasing_fill=noise data.persons_per_batch=4 \
                      data.images_per_person=2 schedule.blockwise=false";

fn settings(keys: &str) -> Vec<&str> {
    keys.split_whitespace().flat_map(|key| ["--set", key]).collect()
}

#[test]
fn ranks_equal_one_process_with_micro_batches() {
    let folder = figures("5");
    let here = folder.path();
    let recipe = settings(RECIPE);
    let adam = ["--set", "data.val_fraction=0.2", "--set", "head.dropout=0.5"];
    // The batches of 7 leave 5 of 40 images for the last one of an epoch; of three pieces of 3, 3 and 1 images the last
    // one then has none.
    for (name, ranks, batch, micro_batch, more) in [
        ("paper", 2, "8", "4", &adam[..]),
        ("uneven", 3, "7", "3", &[]),
        ("recipe", 2, "8", "4", &recipe),
        ("recipe", 3, "8", "3", &recipe),
        ("f16", 2, "4", "2", &["--precision", "f16"]),
    ] {
        let [one, all] = ["one", "all"].map(|run| format!("{name}-{ranks}-{run}"));
        let both = [&["--batch-size", batch], more].concat();
        let alone = training(&one, &[&both[..], &["--micro-batch", micro_batch]].concat());
        expect(0, here, &alone);
        let (_, stderr) = finish(0, &mut mpirun(ranks, here, &training(&all, &both)));
        assert_same(here, &one, &all);
        let steps = log(&here.join(&all));
        assert!(steps.iter().all(|line| line["kind"] == "epoch" || line["ranks"] == ranks), "{name}");
        // The first rank alone prints, and frozen blocks cost nothing.
        let sent = traffic(&stderr);
        let stages = if more == recipe { 1 } else { 2 };
        assert_eq!((stderr.matches("run folder:").count(), sent.len()), (1, stages), "{stderr}");
        assert!(sent.is_sorted_by(|a, b| a < b), "{sent:?}");
    }
}

#[test]
fn pieces_of_ranks_may_be_cut_into_micro_batches() {
    let folder = figures("4");
    let here = folder.path();
    let more = ["--batch-size", "8", "--micro-batch", "2"];
    for run in ["a", "b"] {
        finish(0, &mut mpirun(2, here, &training(run, &more)));
    }
    assert_same(here, "a", "b");
    expect(0, here, &training("one", &more));
    // Sums of sums round differently, by little.
    let [one, two] =
        ["one", "a"].map(|run| log(&here.join(run)).last().unwrap()["train_loss"].as_f64().unwrap());
    assert!((one - two).abs() < 1e-4, "{one} {two}");
}

#[test]
fn ranks_adapt_as_one_process() {
    let folder = figures("4");
    let here = folder.path();
    let clustered = |out| {
        let mut arguments = vec!["adapt", "--model", TINY, "--heads", "2", "--out", out];
        arguments.extend([
            "--images",
            "figures/bounding_box_train",
            "--k1",
            "8",
            "--k2",
            "2",
            "--min-samples",
            "2",
        ]);
        arguments.extend([
            "--epochs",
            "3",
            "--passes",
            "2",
            "--persons-per-batch",
            "3",
            "--images-per-person",
            "2",
        ]);
        arguments.extend(["--batch-size", "6", "--lr", "1e-3"]);
        arguments
    };
    expect(0, here, &[&clustered("one")[..], &["--micro-batch", "3"]].concat());
    let (_, stderr) = finish(0, &mut mpirun(2, here, &clustered("two")));
    assert_same(here, "one", "two");
    assert_eq!(stderr.matches(" clusters of ").count(), 3, "{stderr}");
    finish(0, &mut mpirun(3, here, &clustered("three")));
    expect(0, here, &[&clustered("one-3")[..], &["--micro-batch", "2"]].concat());
    assert_same(here, "one-3", "three");
}

/// Processes of the program that `mpirun` started.
fn children(mpirun: &Child) -> Vec<String> {
    let found = Command::new("pgrep").args(["-P", &mpirun.id().to_string()]).output().unwrap();
    String::from_utf8(found.stdout).unwrap().lines().map(str::to_string).collect()
}

#[test]
fn a_killed_rank_ends_all_and_the_run_resumes() {
    let folder = figures("4");
    let here = folder.path();
    let long = ["--batch-size", "8", "--epochs", "60"];
    finish(0, &mut mpirun(2, here, &training("whole", &long)));

    let mut command = mpirun(2, here, &training("killed", &long));
    let mut running = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let last = here.join("killed/last.safetensors");
    let start = Instant::now();
    while !last.exists() {
        assert!(start.elapsed() < PATIENCE && running.try_wait().unwrap().is_none(), "no checkpoint");
        std::thread::sleep(Duration::from_millis(20));
    }
    let ranks = children(&running);
    assert!(ranks.len() >= 2, "{ranks:?}");
    assert!(Command::new("kill").args(["-KILL", ranks.last().unwrap()]).status().unwrap().success());
    let start = Instant::now();
    let status = running.wait().unwrap();
    assert!(!status.success() && start.elapsed() < PATIENCE, "{status:?} after {:?}", start.elapsed());

    // Another number of ranks goes on, too.
    let copy = here.join("other");
    std::fs::create_dir(&copy).unwrap();
    for entry in std::fs::read_dir(here.join("killed")).unwrap().map(Result::unwrap) {
        std::fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
    }
    let (_, stderr) =
        finish(0, &mut mpirun(2, here, &training("killed", &[&long[..], &["--resume"]].concat())));
    assert!(!stderr.contains("the bits may differ"), "{stderr}");
    assert_same(here, "whole", "killed");
    for (ranks, before) in [(3, "2 processes"), (1, "3 processes")] {
        let steps = if ranks == 3 { "100" } else { "110" };
        let more = [&long[..], &["--resume", "--max-steps", steps]].concat();
        let mut command = match ranks {
            1 => program(here, &training("other", &more)),
            _ => mpirun(ranks, here, &training("other", &more)),
        };
        let (_, stderr) = finish(0, &mut command);
        let note = format!("the saved run had {before}, and this one has {ranks}");
        assert!(stderr.contains(&note) && stderr.contains("the bits may differ"), "{stderr}");
    }
}

#[test]
fn a_signal_to_one_rank_saves_the_state_of_all() {
    let folder = figures("4");
    let here = folder.path();
    let long = ["--batch-size", "8", "--epochs", "400", "--set", "schedule.save_every=0"];
    let mut command = mpirun(2, here, &training("run", &long));
    let mut running = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let log = here.join("run/log.jsonl");
    let start = Instant::now();
    while std::fs::metadata(&log).map_or(0, |file| file.len()) == 0 {
        assert!(start.elapsed() < PATIENCE, "no step");
        std::thread::sleep(Duration::from_millis(20));
    }
    let ranks = children(&running);
    assert!(Command::new("kill").args(["-TERM", ranks.last().unwrap()]).status().unwrap().success());
    let status = running.wait().unwrap();
    let mut stderr = String::new();
    std::io::Read::read_to_string(&mut running.stderr.take().unwrap(), &mut stderr).unwrap();
    assert_eq!(status.code(), Some(143), "{stderr}");
    assert_eq!(stderr.matches("error: ").count(), 1, "{stderr}");
    assert!(stderr.contains("the state is saved; --resume continues"), "{stderr}");
    let more = [&long[..2], &["--epochs", "400", "--resume", "--max-steps", "1"]].concat();
    finish(0, &mut mpirun(2, here, &training("run", &more)));
}

#[test]
fn an_image_that_one_rank_cannot_read_ends_all() {
    let folder = figures("4");
    let here = folder.path();
    let images = std::fs::read_dir(here.join("figures/bounding_box_train")).unwrap();
    let image = images.map(|entry| entry.unwrap().path()).max().unwrap();
    let size = std::fs::metadata(&image).unwrap().len() as usize;
    std::fs::write(&image, vec![b'x'; size]).unwrap();
    let start = Instant::now();
    let (_, stderr) = finish(1, &mut mpirun(2, here, &training("run", &["--batch-size", "8"])));
    let errors = errors(&stderr);
    let name = image.file_name().unwrap().to_str().unwrap();
    assert!(
        errors.len() == 1 && errors[0].starts_with("error: rank ") && errors[0].contains(name),
        "{stderr}"
    );
    assert!(start.elapsed() < PATIENCE);
}

#[test]
fn a_lost_adapter_of_one_rank_ends_all() {
    let folder = figures("4");
    let here = folder.path();
    let training = training("run", &["--batch-size", "8", "--epochs", "60"]);
    let alone = program(here, &training);
    let mut command = mpirun(1, here, &training);
    command
        .args([":", "-n", "1", "-x", "LAT_REHEARSE=lose@400"])
        .arg(alone.get_program())
        .args(alone.get_args());
    let start = Instant::now();
    let (_, stderr) = finish(1, &mut command);
    assert!(stderr.contains("error: rank 1: ") && stderr.contains("as rehearsed"), "{stderr}");
    assert!(start.elapsed() < PATIENCE);
}

#[test]
fn errors_are_printed_once_with_the_code_of_one_process() {
    let folder = figures("2");
    let here = folder.path();
    let refused = |code, more: &[&str], wanted: &str| {
        let (_, stderr) = finish(code, &mut mpirun(2, here, more));
        let errors = errors(&stderr);
        assert!(errors.len() == 1 && errors[0].contains(wanted), "{stderr}");
    };
    refused(2, &["train"], "missing --backbone, --data, --out");
    refused(2, &training("a", &["--set", "optim.lr=x"]), "optim.lr");
    refused(1, &training("a", &["--backbone", "none.safetensors"]), "cannot open");
    refused(2, &training("a", &["--dry-run"]), "--dry-run and --profile measure one process");
    let statistics = ["adapt", "--statistics-only", "--images", "figures", "--out", "a.safetensors"];
    refused(2, &statistics, "--statistics-only is the work of one process");
    std::fs::create_dir(here.join("full")).unwrap();
    std::fs::write(here.join("full/a.txt"), "").unwrap();
    refused(2, &training("full", &[]), "is not empty");
    refused(1, &training("b", &["--adapter", "none"]), "no adapter's name contains");
}
