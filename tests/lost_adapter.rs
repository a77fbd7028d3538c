//! Commands whose adapter is lost, runs out of memory or never answers, simulated by `LAT_REHEARSE`.

#[path = "common/program.rs"]
mod program;

use program::{PROGRAM, Server, TINY, answer, finish, program};
use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

/// Runs with this `LAT_REHEARSE`, asserts the exit code and returns stderr.
fn lat(code: i32, folder: &Path, rehearse: &str, arguments: &[&str]) -> String {
    let mut command = program(folder, arguments);
    finish(code, command.env("LAT_REHEARSE", rehearse).env("LAT_PATIENCE", "2")).1
}

fn draw(folder: &Path) {
    lat(0, folder, "", &["synth", "figures", "--persons", "4", "--cameras", "2", "--images", "2"]);
}

fn embed<'a>(out: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut arguments =
        vec!["embed", "--model", TINY, "--heads", "2", "figures/bounding_box_train", "--out", out];
    arguments.extend(more);
    arguments
}

/// Numbers from 1 to `most`: all of them, or spaced by a step unlike any pattern of dispatches.
fn numbers(most: u64, count: u64) -> impl Iterator<Item = u64> {
    (1..=most).step_by((most / count).max(1) as usize)
}

#[test]
fn embed_neither_loses_nor_repeats_rows() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    draw(folder);
    // A skipped file before the images that follow a failure.
    std::fs::write(folder.join("figures/bounding_box_train/zzz.jpg"), b"no image").unwrap();
    lat(0, folder, "", &embed("whole.npy", &["--batch-size", "4"]));
    let read = |name: &str| {
        let rows = std::fs::read(folder.join(format!("{name}.npy"))).unwrap();
        (rows, std::fs::read_to_string(folder.join(format!("{name}.paths.txt"))).unwrap())
    };
    let whole = read("whole");
    assert!(whole.1.lines().count() >= 8, "{}", whole.1);

    // Refuses each buffer in turn, until none is left.
    let (mut halved, mut opened) = (0, 0);
    for number in 1.. {
        let said = lat(0, folder, &format!("refuse@{number}"), &embed("out.npy", &["--batch-size", "4"]));
        assert!(read("out") == whole, "refuse@{number}: {said}");
        assert!(said.contains("(1 skipped)"), "refuse@{number}: {said}");
        halved += usize::from(said.contains("continuing with batches of 2"));
        opened += usize::from(said.contains("opened again"));
        if !said.contains("as rehearsed") {
            break;
        }
        assert!(number < 500, "embed allocates without end");
    }
    assert!(
        halved > 2 && opened > 2,
        "{halved} went on with half a batch, {opened} opened the adapter again"
    );

    // `tools/rehearse.sh` tries 50. Images named twice have two rows.
    let twice = ["figures/bounding_box_train", "--batch-size", "2"];
    lat(0, folder, "", &embed("whole.npy", &twice));
    let doubled = read("whole");
    assert_eq!(doubled.1.lines().count(), 2 * whole.1.lines().count());
    let mut lost = 0;
    for number in numbers(140, 12) {
        let said = lat(0, folder, &format!("lose@{number}"), &embed("out.npy", &twice));
        assert!(read("out") == doubled, "lose@{number}: {said}");
        assert!(said.contains("(2 skipped)"), "lose@{number}: {said}");
        lost += usize::from(said.contains("was lost: as rehearsed; the adapter is opened again"));
    }
    assert!(lost >= 8, "{lost} losses happened");
}

#[test]
fn a_halved_batch_stays_halved_after_a_lost_adapter() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    draw(folder);
    // The first buffer that depends on the batch.
    let (number, halved) = (1..100)
        .find_map(|number| {
            let said = lat(0, folder, &format!("refuse@{number}"), &embed("out.npy", &[]));
            let (_, halved) = said.split_once("continuing with batches of ")?;
            Some((number, halved.lines().next()?.to_string()))
        })
        .unwrap();
    let said = lat(0, folder, &format!("refuse@{number},lose@3"), &embed("out.npy", &["--verbose"]));
    assert!(said.contains("opened again"), "{said}");
    assert!(said.contains(&format!("\nbatches of {halved},")), "{said}");
    assert!(said.matches("is a CPU adapter").count() <= 1, "{said}");
}

#[test]
fn a_second_loss_is_an_error_and_leaves_nothing_behind() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    draw(folder);
    let said = lat(1, folder, "lose@3,lose@9", &embed("out.npy", &[]));
    assert!(said.contains("opened again") && said.contains("error: the adapter was lost"), "{said}");
    let left: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["figures"], "{said}");
    lat(2, folder, "loose@3", &embed("out.npy", &[]));
}

#[test]
fn hanging_dispatches_are_named() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    draw(folder);
    let said = lat(1, folder, "hang@1", &embed("out.npy", &["--batch-size", "2"]));
    assert!(said.contains("no answer within 2 s; it hangs in dispatches 1 to "), "{said}");
}

/// A run of three epochs of two steps, which unfreezes a block and saves at every step.
fn train(out: &str) -> Vec<&str> {
    vec![
        "train",
        "--backbone",
        TINY,
        "--heads",
        "2",
        "--data",
        "figures",
        "--out",
        out,
        "--preset",
        "paper",
        "--epochs",
        "3",
        "--batch-size",
        "4",
        "--set",
        "schedule.save_every=1",
    ]
}

/// All outputs of a run that must stay the same.
fn left(folder: &Path, run: &str) -> Vec<Vec<u8>> {
    let log = std::fs::read_to_string(folder.join(run).join("log.jsonl")).unwrap();
    let losses: Vec<String> = log
        .lines()
        .map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            format!("{} {} {}", line["step"], line["loss"], line["train_loss"])
        })
        .collect();
    let files = ["last.safetensors", "best.safetensors"]
        .map(|file| std::fs::read(folder.join(run).join(file)).unwrap());
    files.into_iter().chain([losses.join("\n").into_bytes()]).collect()
}

#[test]
fn train_ends_the_same_after_a_lost_adapter() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    draw(folder);
    lat(0, folder, "", &train("whole"));
    let whole = left(folder, "whole");
    // `tools/rehearse.sh` tries every buffer and many more dispatches.
    let failures = numbers(1000, 8).map(|number| format!("lose@{number}"));
    let failures = failures.chain(numbers(120, 8).map(|number| format!("refuse@{number}")));
    let mut passed = 0;
    for failure in failures {
        let run = failure.replace('@', "-");
        let said = lat(0, folder, &failure, &train(&run));
        assert!(left(folder, &run) == whole, "{failure}: {said}");
        passed += usize::from(said.contains("as rehearsed; the adapter is opened again"));
    }
    assert!(passed >= 10, "{passed} failures happened");
    let said = lat(1, folder, "lose@5,lose@20", &train("twice"));
    assert!(said.contains("opened again") && said.contains("error: the adapter was lost"), "{said}");
}

#[test]
fn search_restarts_once() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    draw(folder);
    lat(0, folder, "", &embed("gallery.safetensors", &[]));
    let search = ["search", "--model", TINY, "--heads", "2", "--gallery", "gallery.safetensors"];
    let search = [&search[..], &["--query", "figures/query", "--json", "found.json"]].concat();
    let mut found = Vec::new();
    for rehearse in ["", "lose@5"] {
        let said = lat(0, folder, rehearse, &search);
        assert_eq!(said.contains("again, and the search begins again"), !rehearse.is_empty(), "{said}");
        found.push(std::fs::read(folder.join("found.json")).unwrap());
    }
    assert!(found[0] == found[1]);
    lat(1, folder, "lose@5,lose@9", &search);
}

#[test]
fn eval_begins_again_once() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    draw(folder);
    let embeddings = |images: &str, out: &str| {
        lat(0, folder, "", &["embed", "--model", TINY, "--heads", "2", images, "--out", out]);
    };
    embeddings("figures/query", "q.npy");
    embeddings("figures/bounding_box_test", "g.npy");
    let model = ["eval", "--model", TINY, "--heads", "2", "--data", "figures", "--json", "scores.json"];
    let files =
        ["eval", "--query-embeddings", "q.npy", "--gallery-embeddings", "g.npy", "--json", "scores.json"];
    for (command, losses) in [(&model[..], ["", "lose@5", "lose@40"]), (&files, ["", "lose@2", "refuse@3"])] {
        let mut scores = Vec::new();
        for rehearse in losses {
            let said = lat(0, folder, rehearse, command);
            assert_eq!(
                said.contains("again, and the evaluation begins again"),
                !rehearse.is_empty(),
                "{said}"
            );
            scores.push(std::fs::read(folder.join("scores.json")).unwrap());
        }
        assert!(scores.iter().all(|other| *other == scores[0]));
    }
    let said = lat(1, folder, "lose@5,lose@9", &model);
    assert!(said.contains("error: the adapter was lost"), "{said}");
    // The first set fails twice; the second one is scored.
    let said = lat(1, folder, "lose@5,lose@9", &[&model[..], &["--data", "figures"]].concat());
    assert!(said.contains("error: figures was not scored: the adapter was lost"), "{said}");
    let scores = std::fs::read_to_string(folder.join("scores.json")).unwrap();
    let scores: serde_json::Value = serde_json::from_str(&scores).unwrap();
    assert_eq!([&scores["sets"], &scores["failed"]].map(|list| list.as_array().unwrap().len()), [1, 1]);
}

/// Posts an image; returns the status and the body.
#[cfg(unix)]
fn post(server: &Server, image: &[u8]) -> (u16, String) {
    let mut stream = TcpStream::connect(&server.address).unwrap();
    let head = format!(
        "POST /search HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        image.len()
    );
    stream.write_all(&[head.as_bytes(), image].concat()).unwrap();
    let (status, _, body) = answer(stream);
    (status, String::from_utf8(body).unwrap())
}

#[cfg(unix)]
#[test]
fn serve_answers_the_search_that_lost_the_adapter() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    draw(folder);
    lat(0, folder, "", &embed("g.npy", &[]));
    let image = std::fs::read_dir(folder.join("figures/query")).unwrap().next().unwrap().unwrap().path();
    let image = std::fs::read(image).unwrap();
    let start = |rehearse: &str| {
        let mut command = Command::new("sh");
        command.args([
            "-c",
            "exec \"$0\" \"$@\" 2>said.txt",
            PROGRAM,
            "serve",
            "--model",
            TINY,
            "--heads",
            "2",
        ]);
        command.args(["--gallery", "g.npy", "--port", "0"]).current_dir(folder);
        Server::spawn(command.env("LAT_REHEARSE", rehearse).env("LAT_TUNED", "0"))
    };
    let said = || std::fs::read_to_string(folder.join("said.txt")).unwrap();
    let wanted = post(&start(""), &image);
    assert_eq!(wanted.0, 200, "{}", wanted.1);

    // More launches than a search without an image has, and fewer than one with an image.
    let server = start("lose@20");
    for _ in 0..2 {
        assert_eq!(post(&server, &image), wanted, "{}", said());
    }
    assert!(said().contains("again, and the last search is repeated"), "{}", said());
    drop(server);

    let mut server = start("lose@20,lose@30");
    let (status, body) = post(&server, &image);
    assert!(status == 500 && body.contains("the adapter was lost"), "{status} {body}");
    assert_eq!(server.child.wait().unwrap().code(), Some(1), "{}", said());
}
