//! Training runs: P×K batches from few images, resuming on other images, seeds, the choice of the best epoch, and the
//! record of training images in a model.

use crate::common::{TINY, assert_says, copies, copy, expect, write};
use serde_json::Value;
use std::path::Path;

/// `train` on `data` with the tiny backbone.
fn train(code: i32, folder: &Path, data: &str, out: &str, more: &[&str]) -> String {
    let mut arguments = vec!["train", "--backbone", TINY, "--data", data, "--out", out];
    arguments.extend(more);
    expect(code, folder, &arguments).1
}

fn lines(folder: &Path, run: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(folder.join(run).join("log.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Draws persons, of which every second trains.
fn draw(folder: &Path, name: &str, persons: &str, more: &[&str]) {
    expect(
        0,
        folder,
        &[&["synth", name, "--persons", persons, "--cameras", "2", "--images", "2"], more].concat(),
    );
}

/// Settings for batches of P persons with K images each.
fn p_by_k(persons: usize, images: usize) -> Vec<String> {
    vec![
        "--preset".to_string(),
        "strong".to_string(),
        "--set".to_string(),
        format!("data.persons_per_batch={persons}"),
        "--set".to_string(),
        format!("data.images_per_person={images}"),
        "--batch-size".to_string(),
        format!("{}", persons * images),
        "--epochs".to_string(),
        "1".to_string(),
    ]
}

#[test]
fn p_by_k_trains_or_reports_what_is_missing() {
    let folder = copies(&["single", "two_p"]);
    let here = folder.path();
    // Three images of three persons, eight of two.
    let mut number = 0;
    for (data, persons, images, more, code) in [
        ("single", 2, 4, &[][..], 0),
        ("single", 3, 2, &["--micro-batch", "2"], 0),
        ("single", 1, 2, &["--val-fraction", "0.5"], 0),
        ("single", 3, 5, &["--max-steps", "0"], 0),
        ("single", 4, 2, &[], 2),
        ("two_p", 2, 8, &["--val-fraction", "0.9"], 0),
        ("two_p", 2, 3, &["--micro-batch", "5", "--val-fraction", "0"], 0),
        ("two_p", 1, 9, &["--set", "loss.triplet=false"], 0),
        ("two_p", 2, 1, &[], 2),
        ("two_p", 3, 2, &[], 2),
    ] {
        number += 1;
        let recipe = p_by_k(persons, images);
        let recipe: Vec<&str> = recipe.iter().map(String::as_str).chain(more.iter().copied()).collect();
        let said = train(code, here, data, &format!("run-{number}"), &recipe);
        if code == 0 {
            // A dry run predicts the recorded plan.
            let mut dry = vec!["train", "--backbone", TINY, "--data", data, "--dry-run"];
            dry.extend(&recipe);
            expect(0, here, &dry);
            let steps = usize::from(!more.contains(&"0") || !more.contains(&"--max-steps"));
            let log = lines(here, &format!("run-{number}"));
            assert_eq!(log.iter().filter(|line| line.get("loss").is_some()).count(), steps, "{said}");
        } else {
            assert_says(&said, &["per"]);
        }
    }
    // Numbers with an overflowing product are refused like others.
    let huge = ["--preset", "strong", "--set", "data.persons_per_batch=9000000000000000000"];
    assert_says(&train(2, here, "single", "huge", &huge), &["persons_per_batch"]);
    // Batches of two and three with triplets, including the last one of an epoch.
    train(0, here, "two_p", "few", &["--epochs", "1", "--batch-size", "3", "--set", "loss.triplet=true"]);
    // The batch is at most as large as the data set.
    train(0, here, "two_p", "large", &["--epochs", "1", "--batch-size", "100000"]);
}

#[test]
fn a_run_is_not_resumed_on_other_images() {
    let folder = copies(&["two_p"]);
    let here = folder.path();
    let recipe = ["--epochs", "2", "--batch-size", "4", "--max-steps", "1"];
    train(0, here, "two_p", "run", &recipe);
    let resume = |code: i32| train(code, here, "two_p", "run", &["--resume"]);
    let last = here.join("run/last.safetensors");
    let before = std::fs::read(&last).unwrap();

    copy(&here.join("two_p/a/1_0.jpg"), &here.join("two_p/a/3_9.jpg"));
    assert_says(&resume(2), &["1 added", "a/3_9.jpg"]);
    std::fs::rename(here.join("two_p/a/1_0.jpg"), here.join("away.jpg")).unwrap();
    std::fs::remove_file(here.join("two_p/b/1_1.jpg")).unwrap();
    assert_says(&resume(2), &["1 added", "a/3_9.jpg", "2 removed", "a/1_0.jpg"]);
    // One image fewer of each person, which once caused a panic.
    std::fs::remove_file(here.join("two_p/a/3_9.jpg")).unwrap();
    assert_says(&resume(2), &["2 removed", "a/1_0.jpg"]);
    copy(&crate::common::input("two_p/b/1_1.jpg"), &here.join("two_p/b/1_1.jpg"));
    copy(&crate::common::input("two_p/a/1_0.jpg"), &here.join("two_p/a/1_0.jpg"));
    let bytes = std::fs::read(here.join("two_p/b/2_0.jpg")).unwrap();
    write(&here.join("two_p/b/2_0.jpg"), [&bytes[..], b"more"].concat());
    assert_says(&resume(2), &["1 changed", "b/2_0.jpg"]);
    assert!(std::fs::read(&last).unwrap() == before, "a refused run changes nothing");

    // It resumes with the same images under another folder name. Then it is finished, but not for other images.
    write(&here.join("two_p/b/2_0.jpg"), bytes);
    std::fs::remove_file(here.join("run/images.jsonl")).unwrap();
    resume(0);
    assert_says(&resume(0), &["finished"]);
    std::fs::remove_file(here.join("two_p/b/2_0.jpg")).unwrap();
    assert_says(&resume(2), &["1 removed", "b/2_0.jpg"]);
    std::fs::remove_file(here.join("run/images.jsonl")).unwrap();
    assert_says(&resume(2), &["images differ", "images.jsonl"]);
}

#[test]
fn seeds_are_any_u64() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let (highest, next) = (u64::MAX.to_string(), (1u64 << 63).to_string());
    draw(here, "figures", "8", &["--seed", &highest]);
    for (i, seed) in [&highest, &next].into_iter().enumerate() {
        let (run, set) = (format!("run-{i}"), format!("data.seed={seed}"));
        let steps = ["--epochs", "1", "--batch-size", "4", "--max-steps"];
        train(0, here, "figures", &run, &[&steps[..], &["1", "--seed", seed]].concat());
        train(0, here, "figures", &run, &[&steps[..], &["2", "--resume", "--set", &set]].concat());
        train(0, here, "figures", &run, &[&steps[..], &["9", "--resume", "--seed", seed]].concat());
        let config = std::fs::read_to_string(here.join(&run).join("config.toml")).unwrap();
        assert_says(&config, &[&format!("seed = \"{seed}\"")]);
        let said = train(2, here, "figures", &run, &["--resume", "--seed", "7"]);
        assert_says(&said, &["data.seed", seed]);
    }
    assert_ne!(
        lines(here, "run-0")[0]["loss"].as_f64(),
        lines(here, "run-1")[0]["loss"].as_f64(),
        "another seed, another run"
    );
    expect(
        0,
        here,
        &["init", "--out", "start.safetensors", "--seed", &highest, "--size", "64x32", "--depth", "1"],
    );
    let eval =
        ["eval", "--model", TINY, "--data", "figures", "--protocol", "cuhk03-single-shot", "--json", "-"];
    let (json, _) = expect(0, here, &[&eval[..], &["--seed", &highest, "--split-seed", &next]].concat());
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["seed"].as_u64(), Some(u64::MAX));
    expect(0, here, &["demo", "--persons", "4", "--epochs", "1", "--seed", &next, "--out", "demo"]);
}

#[test]
fn every_step_logs_its_own_rate() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    draw(here, "figures", "24", &[]);
    // 48 images in batches of 8, of 7 with a last one of 6, and in P×K batches.
    for (run, more) in [
        ("even", &["--batch-size", "8", "--epochs", "6"][..]),
        ("odd", &["--batch-size", "7", "--epochs", "5", "--preset", "full"]),
        (
            "p-by-k",
            &[
                "--batch-size",
                "6",
                "--preset",
                "strong",
                "--epochs",
                "4",
                "--set",
                "data.persons_per_batch=3",
                "--set",
                "data.images_per_person=2",
            ],
        ),
    ] {
        train(0, here, "figures", run, more);
        let log = lines(here, run);
        let rates: Vec<f64> = log.iter().filter_map(|line| line["images_per_s"].as_f64()).collect();
        let mut sorted = rates.clone();
        sorted.sort_by(f64::total_cmp);
        let median = sorted[sorted.len() / 2];
        assert!(rates.len() >= 20, "{run}: {rates:?}");
        // Steps take most of the time of an epoch without a new stage.
        for epoch in log.iter().filter(|line| line["kind"] == "epoch").skip(1).step_by(2) {
            let steps =
                log.iter().filter(|line| line["epoch"] == epoch["epoch"] && line.get("loss").is_some());
            let size = |line: &Value| if run == "odd" { line["step"].as_u64().unwrap() } else { 0 };
            let images = |line: &Value| match run {
                "even" => 8.0,
                "p-by-k" => 6.0,
                _ if size(line) % 7 == 0 => 6.0,
                _ => 7.0,
            };
            let sum: f64 = steps.map(|line| images(line) / line["images_per_s"].as_f64().unwrap()).sum();
            let seconds = epoch["seconds"].as_f64().unwrap();
            assert!(sum > 0.5 * seconds && sum < 1.05 * seconds, "{run}: {sum} of {seconds} s");
        }
        for rate in &rates {
            // A busy machine slows steps. The last step of an epoch was once logged as thousands of times faster.
            assert!(*rate < 6.0 * median && *rate > 0.0, "{run}: {rate} of {rates:?}");
        }
    }
}

/// Names and bytes of a model's tensors that embedding reads.
fn weights(path: &Path) -> Vec<(String, Vec<u8>)> {
    let bytes = std::fs::read(path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: Vec<_> =
        file.tensors().into_iter().filter(|(name, _)| !name.starts_with("state.")).collect();
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    tensors.into_iter().map(|(name, tensor)| (name, tensor.data().to_vec())).collect()
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn the_last_epoch_is_best_by_default() {
    let folder = copies(&["two_p"]);
    let here = folder.path();
    let recipe = ["--epochs", "2", "--batch-size", "4"];
    let said = train(0, here, "two_p", "last", &recipe);
    assert_says(
        &said,
        &["epoch 1, the last one", "last", "lat-wgpu eval --model last/best.safetensors --data"],
    );
    assert!(read(&here.join("last/best.safetensors")) == read(&here.join("last/last.safetensors")));
    // All images train: four steps of four.
    assert_eq!(lines(here, "last").iter().filter(|line| line.get("loss").is_some()).count(), 4);
    let config = std::fs::read_to_string(here.join("last/config.toml")).unwrap();
    assert_says(&config, &["best = \"last\"", "refit = false"]);
    assert!(lines(here, "last").iter().all(|line| line.get("chosen_on_test_set").is_none()));

    let said = train(0, here, "two_p", "stopped", &[&recipe[..], &["--max-steps", "3"]].concat());
    assert_says(&said, &["stopped after 3 of 4 steps", "best.safetensors: the model after 3 steps"]);

    // As in the released code, one image of each person validates.
    let code = [&recipe[..], &["--preset", "released-code"]].concat();
    let said = train(0, here, "two_p", "code", &code);
    assert_says(&said, &["the best by accuracy", "validation loss"]);
    assert!(lines(here, "code").iter().any(|line| line["val_accuracy"].is_number()));
    let said = train(0, here, "two_p", "accuracy", &[&recipe[..], &["--best", "accuracy"]].concat());
    assert_says(&said, &["the best by accuracy"]);
    let none = ["--best", "accuracy", "--val-fraction", "0"];
    assert_says(&train(0, here, "two_p", "none", &[&recipe[..], &none].concat()), &["no validation images"]);

    for (more, words) in [
        (&["--best", "map", "--eval-every", "1"][..], &["test-map"][..]),
        (&["--set", "schedule.best=map"], &["test-map"]),
        (&["--best", "test-map"], &["schedule.eval_every"]),
        (&["--best", "val-map"], &["val_persons"]),
        (&["--val-persons", "0.5"], &["val_persons", "val-map"]),
        (&["--refit"], &["schedule.refit", "val-map"]),
        (&["--best", "val-map", "--val-persons", "1.5"], &["--val-persons", "below 1"]),
        (&["--best", "val-map", "--val-persons", "0.5"], &["2 persons is 1", "10"]),
        (&["--best", "loss"], &["val-map", "test-map"]),
    ] {
        assert_says(&train(2, here, "two_p", "refused", &[&recipe[..], more].concat()), words);
    }
    write(&here.join("old.toml"), "[schedule]\nbest = \"map\"\neval_every = 1\n");
    assert_says(&train(2, here, "two_p", "old", &["--config", "old.toml"]), &["test-map"]);
}

#[test]
fn a_choice_on_the_test_set_is_reported_on_every_line() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    draw(here, "figures", "8", &[]);
    let recipe = ["--epochs", "3", "--batch-size", "4", "--best", "test-map", "--eval-every", "2"];
    let said = train(0, here, "figures", "run", &recipe);
    let marked = said.lines().filter(|line| line.starts_with("epoch ") && line.contains("on the test set"));
    assert_eq!(marked.count(), 3, "{said}");
    assert_says(&said, &["the best by mAP on the test set", "--data figures"]);
    let epochs: Vec<Value> = lines(here, "run").into_iter().filter(|line| line["kind"] == "epoch").collect();
    assert!(epochs.iter().all(|line| line["chosen_on_test_set"] == true), "{epochs:?}");
}

#[test]
fn held_out_persons_choose_the_epoch_and_then_train_too() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    // 26 persons train, with four images each.
    draw(here, "figures", "52", &[]);
    let recipe =
        ["--epochs", "3", "--batch-size", "16", "--best", "val-map", "--val-persons", "0.4", "--lr", "0.01"];
    let said = train(0, here, "figures", "run", &recipe);
    assert_says(
        &said,
        &["10 persons with 40 images are held out", "the best by mAP among 10 persons held out"],
    );
    let log = lines(here, "run");
    let epochs: Vec<&Value> = log.iter().filter(|line| line["kind"] == "epoch").collect();
    assert_eq!(epochs.len(), 3);
    let score = |line: &Value| line["val_map"].as_f64().unwrap();
    assert!(epochs.iter().all(|line| line["val_rank1"].is_number() && score(line) > 0.0), "{epochs:?}");
    let best = (0..3).fold(0, |best, i| if score(epochs[i]) > score(epochs[best]) { i } else { best });
    assert_says(
        &said,
        &[&format!("best.safetensors: epoch {best}, the best by mAP among 10 persons held out")],
    );
    // 16 persons with 64 images train: four steps.
    assert_eq!(log.iter().filter(|line| line.get("loss").is_some()).count(), 12);
    let metadata = lat_wgpu::checkpoint::list(&here.join("run/best.safetensors")).unwrap().1;
    let metadata: Value = serde_json::from_str(&metadata["lat_wgpu"]).unwrap();
    assert_eq!(metadata["class_names"].as_array().unwrap().len(), 16);

    let refit = [&recipe[..], &["--refit"]].concat();
    let said = train(0, here, "figures", "whole", &refit);
    assert_says(&said, &[&format!("all persons, trained for {} epochs", best + 1)]);
    assert!(lines(here, "whole").iter().any(|line| line["kind"] == "refit" && line["epochs"] == best + 1));
    // The result is that of a plain run with the same number of epochs.
    let epochs = (best + 1).to_string();
    let plain = ["--epochs", &epochs, "--batch-size", "16", "--lr", "0.01"];
    train(0, here, "figures", "plain", &plain);
    let model = here.join("whole/best.safetensors");
    assert!(weights(&model) == weights(&here.join("plain/best.safetensors")));
    // A run stopped in both phases and resumed ends the same.
    for (stop, words) in
        [("5", "stopped after 5 of 12 steps"), ("14", "stopped before all persons were trained")]
    {
        let more = [&refit[..], &["--max-steps", stop, "--resume"]].concat();
        assert_says(&train(0, here, "figures", "stopped", &more), &[words]);
    }
    assert_says(&train(0, here, "figures", "stopped", &["--resume"]), &["all persons, trained for"]);
    for name in ["best.safetensors", "last.safetensors"] {
        assert!(read(&here.join("whole").join(name)) == read(&here.join("stopped").join(name)), "{name}");
    }
    // A finished run stays unchanged.
    let time = || std::fs::metadata(&model).unwrap().modified().unwrap();
    let before = time();
    train(0, here, "figures", "whole", &["--resume"]);
    assert_eq!(time(), before);
}

#[test]
fn a_model_records_its_training_images() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    draw(here, "figures", "12", &[]);
    draw(here, "others", "12", &["--seed", "5"]);
    train(0, here, "figures", "run", &["--epochs", "1", "--batch-size", "8"]);
    // The folder is moved and renamed.
    std::fs::rename(here.join("figures"), here.join("moved")).unwrap();
    let eval = |model: &str, data: &str| -> (Value, String) {
        let (json, said) = expect(0, here, &["eval", "--model", model, "--data", data, "--json", "-"]);
        (serde_json::from_str(&json).unwrap(), said)
    };
    for model in ["run/best.safetensors", "run/last.safetensors"] {
        let (json, said) = eval(model, "moved/bounding_box_train");
        assert_says(
            &said,
            &[
                "24 of 24 evaluated images were used in training",
                "6 of 6 evaluated persons were used in training",
            ],
        );
        assert_eq!(json["trained_on"]["images"], 24, "{json}");
        assert_eq!(json["trained_on"]["of_persons"], 6);
    }
    // Other persons of the same data set, the same names in another one, and a model without a record.
    for (model, data) in [
        ("run/best.safetensors", "moved"),
        ("run/best.safetensors", "others/bounding_box_train"),
        ("run/best.safetensors", "others"),
        (TINY, "moved/bounding_box_train"),
    ] {
        let (json, said) = eval(model, data);
        assert!(!said.contains("trained on"), "{model} {data}: {said}");
        let known = &json["trained_on"];
        assert!(
            if model == TINY { known.is_null() } else { known["images"] == 0 && known["persons"] == 0 },
            "{json}"
        );
    }
    // Some of the images under other names, and new images of one training person.
    let images: Vec<_> = std::fs::read_dir(here.join("moved/bounding_box_train")).unwrap().collect();
    let mut names: Vec<String> =
        images.into_iter().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    for (i, name) in names.iter().take(3).enumerate() {
        copy(
            &here.join("moved/bounding_box_train").join(name),
            &here.join(format!("some/zoe/{}_{i}.png", i % 2)),
        );
    }
    for i in 0..2 {
        let new = here.join(format!("some/new/{i}_{i}.png"));
        crate::common::paint(&new, [200, 10 * i, 90]);
    }
    let (json, said) = eval("run/best.safetensors", "some");
    assert_says(&said, &["3 of 5 evaluated images were used in training"]);
    assert_eq!(json["trained_on"]["persons"], 0);
    // A trained model passes its record on as a backbone; an exported one doesn't.
    let more =
        ["train", "--backbone", "run/best.safetensors", "--data", "others", "--out", "more", "--epochs", "1"];
    expect(0, here, &[&more[..], &["--batch-size", "8"]].concat());
    let (_, said) = eval("more/best.safetensors", "moved/bounding_box_train");
    assert_says(&said, &["24 of 24 evaluated images were used in training"]);
    expect(
        0,
        here,
        &["export", "--model", "run/best.safetensors", "--to", "timm", "--out", "plain.safetensors"],
    );
    let (json, said) = eval("plain.safetensors", "moved/bounding_box_train");
    assert!(json["trained_on"].is_null() && !said.contains("trained on"), "{said}");
}

#[test]
fn a_run_that_cannot_resume_replaces_no_model() {
    let folder = copies(&["two_p"]);
    let here = folder.path();
    let train =
        ["train", "--backbone", TINY, "--data", "two_p", "--batch-size", "4", "--epochs", "2", "--out"];
    expect(0, here, &[&train[..], &["run"]].concat());
    std::fs::create_dir(here.join("mine")).unwrap();
    std::fs::copy(here.join("run/best.safetensors"), here.join("mine/best.safetensors")).unwrap();
    // A run without its last save, and a model that belongs to no run.
    std::fs::remove_file(here.join("run/last.safetensors")).unwrap();
    for out in ["run", "mine"] {
        let best = std::fs::read(here.join(out).join("best.safetensors")).unwrap();
        let (_, stderr) = expect(2, here, &[&train[..], &[out, "--resume"]].concat());
        assert_says(&stderr, &[out, "no last.safetensors", "best.safetensors"]);
        assert_eq!(std::fs::read(here.join(out).join("best.safetensors")).unwrap(), best);
    }
}

#[test]
fn a_run_that_never_saved_is_no_obstacle() {
    let folder = copies(&["two_p"]);
    let here = folder.path();
    let train =
        ["train", "--backbone", TINY, "--data", "two_p", "--batch-size", "4", "--epochs", "1", "--out"];
    // After a refusal for memory, the corrected command runs in the same folder.
    expect(1, here, &[&train[..], &["run", "--memory", "1M"]].concat());
    expect(0, here, &[&train[..], &["run"]].concat());
    // Killed before its first save: --resume needs no flags.
    expect(1, here, &[&train[..], &["early", "--memory", "1M"]].concat());
    expect(0, here, &["train", "--resume", "--out", "early"]);
    assert!(here.join("early/best.safetensors").exists());
}

#[test]
fn the_suggested_command_reads_the_same_data_set() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    for person in 1..=8 {
        for image in 1..=4u8 {
            let colour = [30 * person as u8, 60 * image, 90];
            crate::common::paint(&here.join(format!("set/campus/{person:04}{image:03}.png")), colour);
        }
    }
    let train = ["train", "--backbone", TINY, "--data", "set", "--batch-size", "4", "--epochs", "1"];
    let options = ["--split", "3", "--split-seed", "9223372036854775808"];
    let (_, stderr) = expect(0, here, &[&train[..], &options, &["--out=-run"]].concat());
    let next = "next: lat-wgpu eval --model ./-run/best.safetensors --data set --split 3 --split-seed 9223372036854775808";
    assert_says(&stderr, &[next]);
    let (_, stderr) = expect(0, here, &next["next: lat-wgpu ".len()..].split(' ').collect::<Vec<_>>());
    assert!(!stderr.contains("trained on"), "{stderr}");
    let (_, stderr) = expect(0, here, &[&train[..], &["--max-steps", "1", "--out", "short"]].concat());
    assert_says(&stderr, &["next: lat-wgpu train --resume --out short"]);
}
