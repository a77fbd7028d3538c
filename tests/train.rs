//! `lat-wgpu train`: run folder, bit-identical resuming, signals and errors.

#[path = "common/program.rs"]
mod program;

use program::{TINY, expect, figures, finish, program, signal};
use safetensors::SafeTensors;
use serde_json::Value;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// `train` on the synthetic images in `figures`: 4 persons (of 8) × 2 cameras × 3 images. One image of each person
/// validates; batches have 7 images, the last one 6.
fn train(folder: &Path, more: &[&str]) -> Command {
    let mut arguments = vec!["train", "--backbone", TINY, "--heads", "2", "--data", "figures"];
    arguments.extend(["--batch-size", "7", "--epochs", "4", "--lr", "0.01", "--best", "accuracy"]);
    arguments.extend(more);
    program(folder, &arguments)
}

fn lines(run: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(run.join("log.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn losses(run: &Path) -> Vec<f64> {
    lines(run).iter().filter_map(|line| line["loss"].as_f64()).collect()
}

fn bytes(run: &Path, name: &str) -> Vec<u8> {
    std::fs::read(run.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

#[test]
fn presets_are_listed_with_what_they_set() {
    let folder = tempfile::tempdir().unwrap();
    let (list, _) = expect(0, folder.path(), &["train", "--list-presets"]);
    let sections: Vec<&str> = list.split("\n\n").collect();
    let names = [
        "paper (default)",
        "released-code",
        "full",
        "strong",
        "transreid",
        "transreid-full",
        "personvit",
        "prototypes",
        "cluster-contrast",
    ];
    for (name, section) in names.iter().zip(&sections) {
        assert_eq!(section.lines().next(), Some(*name), "{section}");
        let scored = section.contains("; not reproduced here") && section.contains("mAP");
        assert_eq!(scored, *name != "strong", "{section}");
    }
    assert!(!sections[0].contains(" = "), "{}", sections[0]);
    for (section, line) in [
        (4, "head.kind = \"bnneck\""),
        (4, "optim.lr = 0.008"),
        (4, "model.size = \"256x128\""),
        (5, "model.jigsaw = true"),
        (5, "model.stride = 12"),
        (6, "optim.lr_epoch_offset = 1"),
        (7, "loss.prototypes = 1.0"),
    ] {
        assert!(sections[section].contains(line), "{line}: {}", sections[section]);
    }
}

#[test]
fn bnneck_trains_resumes_and_embeds_on_either_side() {
    let folder = figures("3");
    let here = folder.path();
    let recipe = ["--head-kind", "bnneck", "--triplet", "--preset", "full", "--lr", "0.001"];
    let run = |more: &[&str]| finish(0, &mut train(here, &[&recipe, more].concat()));
    run(&["--out", "before"]);
    run(&["--out", "after", "--head-embed", "after"]);
    run(&["--out", "halves", "--head-embed", "after", "--max-steps", "5"]);
    finish(0, &mut program(here, &["train", "--out", "halves", "--resume"]));
    assert_eq!(
        bytes(&here.join("after"), "last.safetensors"),
        bytes(&here.join("halves"), "last.safetensors")
    );
    assert_eq!(losses(&here.join("before")), losses(&here.join("after")));
    assert!(losses(&here.join("after")).windows(8).any(|w| w[7] < 0.9 * w[0]), "the loss falls");

    let (about, _) = expect(0, here, &["inspect", "after/best.safetensors"]);
    for present in ["after the BatchNorm of the heads", "heads.0.bn.running_var", "heads.0.classifier.weight"]
    {
        assert!(about.contains(present), "{present}: {about}");
    }
    assert!(!about.contains("heads.0.bn.bias") && !about.contains("heads.0.fc"), "{about}");

    // The same weights embed differently, and galleries of the two don't mix.
    let embed = |model: &str, out: &str| {
        expect(0, here, &["embed", "--model", model, "figures/query", "--out", out]);
        std::fs::read(here.join(out)).unwrap()
    };
    let after = embed("after/best.safetensors", "after.npy");
    assert_ne!(embed("before/best.safetensors", "before.npy"), after);
    // Without classifiers the BatchNorm stays.
    let export = ["export", "--model", "after/best.safetensors", "--to", "timm", "--backbone-only"];
    expect(0, here, &[&export[..], &["--out", "plain.safetensors"]].concat());
    assert_eq!(embed("plain.safetensors", "plain.npy"), after);
    // A run that begins with the model keeps its BatchNorm.
    let again =
        ["--backbone", "plain.safetensors", "--head-embed", "after", "--out", "again", "--max-steps", "0"];
    run(&again);
    assert_eq!(embed("again/last.safetensors", "again.npy"), after);

    let (_, refused) = expect(
        2,
        here,
        &["train", "--backbone", TINY, "--data", "figures", "--out", "x", "--head-embed", "after"],
    );
    assert!(refused.contains("head.embed must be before unless head.kind is bnneck"), "{refused}");
    let other = ["train", "--out", "after", "--resume", "--head-kind", "parts"];
    assert!(expect(2, here, &other).1.contains("head.kind"), "kind");
}

#[test]
fn prototypes_are_rebuilt_each_epoch_and_saved_within_one() {
    let folder = figures("3");
    let here = folder.path();
    let recipe = ["--prototypes", "1", "--preset", "full", "--lr", "0.001", "--dropout", "0"];
    let after = ["--head-kind", "bnneck", "--head-embed", "after", "--hard-update"];
    let run = |more: &[&str]| finish(0, &mut train(here, &[&recipe, more].concat()));
    for (name, kind) in [("before", &[][..]), ("after", &after[..])] {
        run(&[kind, &["--out", name]].concat());
        // A stop within an epoch and a stop at its end.
        for steps in ["5", "6"] {
            let halves = format!("{name}-{steps}");
            run(&[kind, &["--out", &halves, "--max-steps", steps]].concat());
            finish(0, &mut program(here, &["train", "--out", &halves, "--resume"]));
            let [whole, halves] = [name, &halves].map(|run| bytes(&here.join(run), "last.safetensors"));
            assert!(whole == halves, "{name} resumed after {steps} steps");
        }
    }
    let losses = losses(&here.join("before"));
    assert!(losses[losses.len() - 1] < 0.9 * losses[0], "{losses:?}");
    let (about, _) = expect(0, here, &["inspect", "before/last.safetensors"]);
    assert!(about.contains("state.prototypes"), "{about}");
    // The loss is part of the run.
    let other = ["train", "--out", "before", "--resume", "--prototypes", "0.5"];
    assert!(expect(2, here, &other).1.contains("loss.prototypes"));
}

#[test]
fn a_run_writes_its_files_and_learns() {
    let folder = figures("3");
    let here = folder.path();
    finish(
        0,
        &mut train(
            here,
            &["--out", "run", "--epochs", "12", "--preset", "full", "--dropout", "0", "--lr", "0.001"],
        ),
    );
    let run = here.join("run");
    for name in ["config.toml", "log.jsonl", "curves.svg", "last.safetensors", "best.safetensors"] {
        assert!(run.join(name).exists(), "{name}");
    }
    let lines = lines(&run);
    let steps: Vec<&Value> = lines.iter().filter(|line| line.get("step").is_some()).collect();
    // 24 images without one of each of 4 persons: three batches per epoch.
    assert_eq!(steps.len(), 36);
    for (i, line) in steps.iter().enumerate() {
        assert_eq!((line["step"].as_u64(), line["epoch"].as_u64()), (Some(i as u64 + 1), Some(i as u64 / 3)));
        for key in ["loss", "lr", "trainable_params", "images_per_s", "gpu_bytes"] {
            assert!(line[key].is_number(), "{key} in {line}");
        }
    }
    let epochs: Vec<&Value> = lines.iter().filter(|line| line["kind"] == "epoch").collect();
    assert_eq!(epochs.len(), 12);
    for line in &epochs {
        assert!(line.get("step").is_none() && line.get("loss").is_none(), "{line}");
        for key in ["train_loss", "val_loss", "val_accuracy", "seconds"] {
            assert!(line[key].is_number(), "{key} in {line}");
        }
    }
    let losses = losses(&run);
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    assert!(mean(&losses[30..]) < 0.3 * mean(&losses[..3]), "{losses:?}");

    // A trained model embeds and serves as a backbone.
    let embed = ["embed", "--model", "run/best.safetensors", "figures", "--out", "e.npy"];
    expect(0, here, &embed);
    let mut again = program(here, &["train", "--backbone", "run/last.safetensors", "--data", "figures"]);
    finish(0, again.args(["--out", "again", "--max-steps", "1"]));
}

#[test]
fn a_resumed_run_equals_an_uninterrupted_one() {
    let folder = figures("3");
    let here = folder.path();
    finish(0, &mut train(here, &["--out", "whole"]));
    finish(0, &mut train(here, &["--out", "twice"]));
    let whole = here.join("whole");
    let last = bytes(&whole, "last.safetensors");
    assert!(last == bytes(&here.join("twice"), "last.safetensors"), "same seed, same bits");
    // In the middle of an epoch, at its end, and at the start.
    for stops in [&["1", "5"][..], &["3"], &["0", "2", "7"]] {
        let run = format!("stopped-{}", stops.join("-"));
        for stop in stops {
            finish(0, &mut train(here, &["--out", &run, "--resume", "--max-steps", stop]));
        }
        finish(0, &mut train(here, &["--out", &run, "--resume"]));
        let run = here.join(run);
        assert!(bytes(&run, "last.safetensors") == last, "{stops:?}: last.safetensors differs");
        assert!(bytes(&run, "best.safetensors") == bytes(&whole, "best.safetensors"), "{stops:?}: best");
        assert_eq!(losses(&run), losses(&whole), "{stops:?}");
    }
    // Resuming a finished run does nothing.
    let before = std::fs::metadata(whole.join("last.safetensors")).unwrap().modified().unwrap();
    finish(0, &mut train(here, &["--out", "whole", "--resume"]));
    assert_eq!(std::fs::metadata(whole.join("last.safetensors")).unwrap().modified().unwrap(), before);
}

#[test]
fn a_resumed_run_finishes_an_epoch_stopped_while_scoring() {
    let folder = figures("3");
    let here = folder.path();
    let recipe = ["--epochs", "1", "--eval-every", "1", "--best", "test-map", "--out"];
    finish(0, train(here, &recipe).arg("whole"));
    let mut command = train(here, &recipe);
    let mut child = command.arg("run").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let log = here.join("run/log.jsonl");
    // Scoring takes long enough to see the third and last step first.
    while std::fs::read_to_string(&log).unwrap_or_default().lines().count() < 3 {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    signal(&child, "-TERM");
    assert_eq!(child.wait().unwrap().code(), Some(143));
    assert!(!here.join("run/best.safetensors").exists());
    finish(0, train(here, &recipe).args(["run", "--resume"]));
    for name in ["last.safetensors", "best.safetensors"] {
        assert!(bytes(&here.join("whole"), name) == bytes(&here.join("run"), name), "{name}");
    }
    let scores = |run: &str| lines(&here.join(run)).iter().find_map(|line| line["map"].as_f64());
    assert_eq!(scores("run"), scores("whole"));
    assert!(scores("run").is_some());
}

#[test]
fn initial_model_depends_on_seed_and_shapes_only() {
    let folder = figures("3");
    let here = folder.path();
    for (out, more) in [("a", ["--lr", "0.01"]), ("b", ["--lr", "0.5"]), ("c", ["--seed", "9"])] {
        let mut command = program(here, &["train", "--backbone", TINY, "--heads", "2", "--data", "figures"]);
        finish(0, command.args(["--out", out, "--max-steps", "0"]).args(more));
    }
    let model = |run: &str| {
        let bytes = bytes(&here.join(run), "last.safetensors");
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        file.tensor("heads.2.fc1.weight").unwrap().data().to_vec()
    };
    assert_eq!(model("a"), model("b"));
    assert_ne!(model("a"), model("c"));
}

#[cfg(unix)]
#[test]
fn a_signal_saves_and_a_kill_loses_only_steps_since_the_last_save() {
    let folder = figures("3");
    let here = folder.path();
    let long = ["--epochs", "60", "--save-every", "2"];
    let mut whole = train(here, &["--out", "whole"]);
    finish(0, whole.args(long));
    let started = |arguments: &[&str]| -> Child {
        let mut command = train(here, arguments);
        command.args(long).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    let wait_for = |steps: usize| {
        let log = here.join("run/log.jsonl");
        let written = || std::fs::read_to_string(&log).unwrap_or_default().lines().count();
        while written() < steps {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    };
    let mut child = started(&["--out", "run"]);
    wait_for(5);
    // One trainer per run folder.
    let refused =
        finish(2, &mut train(here, &["--out", "run", "--resume", "--epochs", "60", "--save-every", "2"]));
    assert!(refused.1.contains("another process"), "{refused:?}");
    signal(&child, "-TERM");
    assert_eq!(child.wait().unwrap().code(), Some(143));
    for steps in [20, 45, 70, 90] {
        let mut child = started(&["--out", "run", "--resume"]);
        wait_for(steps);
        child.kill().unwrap();
        child.wait().unwrap();
        let opened = lat_wgpu::checkpoint::list(&here.join("run/last.safetensors"));
        assert!(opened.is_ok(), "an unreadable checkpoint: {opened:?}");
    }
    let mut rest = train(here, &["--out", "run", "--resume"]);
    finish(0, rest.args(long));
    let (run, whole) = (here.join("run"), here.join("whole"));
    assert!(bytes(&run, "last.safetensors") == bytes(&whole, "last.safetensors"));
    assert_eq!(losses(&run), losses(&whole));
    let orphans = std::fs::read_dir(&run).unwrap().map(|e| e.unwrap().file_name());
    assert!(orphans.into_iter().all(|name| !name.to_string_lossy().starts_with(".lat-wgpu-")));
}

#[test]
fn impossible_settings_are_refused_with_a_reason() {
    let folder = figures("3");
    let here = folder.path();
    std::fs::create_dir(here.join("full")).unwrap();
    std::fs::write(here.join("full/notes.txt"), "mine").unwrap();
    finish(0, &mut train(here, &["--out", "run", "--max-steps", "2"]));
    let cases: [(&[&str], &str); 9] = [
        (&["--out", "full"], "not empty"),
        (&["--out", "run"], "--resume"),
        (&["--out", "run", "--resume", "--lr", "0.02"], "optim.lr"),
        (&["--out", "new", "--batch-size", "1"], "BatchNorm"),
        (&["--out", "new", "--set", "optim.momentum=1"], "optim.momentum"),
        (&["--out", "new", "--preset", "best"], "preset"),
        (&["--out", "new", "--dropout", "two"], "--dropout"),
        (&["--out", "new", "--normalize", "foo"], "--normalize"),
        (&["--out", "new", "--lr", "0"], "'--lr <F>': expected a number above 0"),
    ];
    for (arguments, word) in cases {
        let (_, stderr) = finish(2, &mut train(here, arguments));
        assert!(stderr.contains(word), "{arguments:?}: {stderr}");
    }
    for (arguments, words) in [
        (&["train"][..], "missing --backbone, --data, --out"),
        (&["train", "--resume"], "missing --out"),
        (&["train", "--set", "data.dir=set", "--dry-run"], "missing --backbone\n"),
    ] {
        let (_, stderr) = expect(2, here, arguments);
        assert!(stderr.contains(words), "{arguments:?}: {stderr}");
    }
    let [help, of_clusters] = ["train", "adapt"].map(|command| expect(0, here, &[command, "--help"]).0);
    for key in lat_wgpu::train::config::keys() {
        let help = if key.name.starts_with("cluster.") { &of_clusters } else { &help };
        let flag = format!("  --{} ", key.flag());
        assert!(help.contains(&flag) || help.contains(&flag.replace(' ', "\n")), "--help lacks {flag}");
    }
}

#[test]
fn strong_preset_trains_and_resumes() {
    let folder = figures("3");
    let here = folder.path();
    let strong =
        ["--preset", "strong", "--set", "data.persons_per_batch=3", "--set", "data.images_per_person=2"];
    let run = |out: &str, more: &[&str]| {
        let mut command = train(here, &strong);
        finish(0, command.args(["--batch-size", "6", "--out", out]).args(more))
    };
    run("whole", &[]);
    // 20 images train, in three batches of equal size per epoch.
    assert_eq!(losses(&here.join("whole")).len(), 12);
    run("stopped", &["--max-steps", "4"]);
    run("stopped", &["--resume"]);
    for name in ["last.safetensors", "best.safetensors"] {
        assert!(bytes(&here.join("whole"), name) == bytes(&here.join("stopped"), name), "{name}");
    }
    // Its settings matter.
    for set in ["data.erasing=0", "data.crop_pad=0", "loss.triplet=false", "loss.margin=0.5"] {
        run(set, &["--set", set]);
        assert!(losses(&here.join(set)) != losses(&here.join("whole")), "{set}");
    }
    let mut many = train(here, &["--preset", "strong", "--batch-size", "64", "--out", "many"]);
    let (_, stderr) = finish(2, &mut many);
    assert!(stderr.contains("there are 4 persons"), "{stderr}");
}

#[test]
fn parts_of_recipes_matter_and_resume() {
    let folder = figures("3");
    let here = folder.path();
    let strong = ["--preset", "strong", "--batch-size", "6", "--set", "data.images_per_person=2"];
    let run = |out: &str, more: &[&str]| {
        let mut command = train(here, &strong);
        finish(0, command.args(["--persons-per-batch", "3", "--out", out]).args(more))
    };
    run("plain", &["--max-steps", "6"]);
    for set in [
        "data.erasing_fill=noise",
        "data.erasing_area_max=0.1",
        "data.erasing_aspect=log",
        "data.sampler=chunks",
        "data.sampler=cameras",
        "model.drop_path=0.5",
        "model.parts=3",
    ] {
        run(set, &["--max-steps", "6", "--set", set]);
        assert!(losses(&here.join(set)) != losses(&here.join("plain")), "{set}");
    }
    let all = ["--erasing-fill", "noise", "--sampler", "chunks", "--drop-path", "0.5", "--parts", "3"];
    let all = [&all[..], &["--micro-batch", "4"]].concat();
    run("whole", &all);
    // In the middle of an epoch.
    run("stopped", &[&all[..], &["--max-steps", "2"]].concat());
    run("stopped", &["--resume"]);
    for name in ["last.safetensors", "best.safetensors"] {
        assert!(bytes(&here.join("whole"), name) == bytes(&here.join("stopped"), name), "{name}");
    }
    let (_, stderr) = finish(
        2,
        train(here, &strong).args(["--persons-per-batch", "0", "--sampler", "chunks", "--out", "new"]),
    );
    assert!(stderr.contains("data.sampler must be balanced unless"), "{stderr}");
    expect(0, here, &["synth", "one", "--persons", "8", "--cameras", "1", "--images", "3"]);
    let mut one = train(here, &strong);
    one.args(["--persons-per-batch", "3", "--data", "one", "--sampler", "cameras", "--out", "new"]);
    let (_, stderr) = finish(2, &mut one);
    assert!(stderr.contains("no person is in images of two cameras"), "{stderr}");
    let (_, stderr) =
        finish(2, train(here, &strong).args(["--persons-per-batch", "3", "--parts", "5", "--out", "new"]));
    assert!(stderr.contains("--parts 5: more than the 4 rows"), "{stderr}");
}

#[test]
fn a_camera_embedding_trains_resumes_and_needs_cameras_afterwards() {
    let folder = figures("3");
    let here = folder.path();
    let recipe = ["--preset", "full", "--camera-embedding", "3", "--eval-every", "4"];
    let run = |out: &str, more: &[&str]| {
        let mut command = train(here, &recipe);
        finish(0, command.args(["--out", out]).args(more))
    };
    run("whole", &["--micro-batch", "4"]);
    // In the middle of an epoch.
    run("stopped", &["--micro-batch", "4", "--max-steps", "2"]);
    run("stopped", &["--micro-batch", "4", "--resume"]);
    for name in ["last.safetensors", "best.safetensors"] {
        assert!(bytes(&here.join("whole"), name) == bytes(&here.join("stopped"), name), "{name}");
    }
    for weight in ["0", "1"] {
        run(weight, &["--camera-embedding", weight]);
        assert!(losses(&here.join(weight)) != losses(&here.join("whole")), "{weight}");
    }
    let model = "whole/best.safetensors";
    let (about, _) = expect(0, here, &["inspect", model]);
    for words in ["camera embedding: 2 cameras, factor 3", "sie_embed", "[2, 1, "] {
        assert!(about.contains(words), "{words}: {about}");
    }
    // The epoch's scores are those of eval, which takes the cameras of the labels.
    let last = lines(&here.join("whole")).into_iter().rev().find(|line| line["map"].is_number()).unwrap();
    let eval = ["eval", "--model", "whole/last.safetensors", "--data", "figures", "--json", "s.json"];
    expect(0, here, &eval);
    let scores: Value = serde_json::from_slice(&bytes(here, "s.json")).unwrap();
    assert_eq!(scores["map"], last["map"]);
    let embed = |more: &[&str]| {
        let (_, stderr) = expect(
            0,
            here,
            &[&["embed", "--model", model, "figures/query", "--out", "e.npy"], more].concat(),
        );
        (bytes(here, "e.npy"), stderr)
    };
    let (by_name, _) = embed(&[]);
    let (one, _) = embed(&["--camera", "c1"]);
    let (none, stderr) = embed(&["--camera", "none"]);
    assert!(by_name != one && by_name != none && one != none);
    assert!(one == embed(&["--camera", "1"]).0);
    assert!(stderr.contains("camera embedding is left out"), "{stderr}");
    // Galleries with and without it don't mix.
    let none_given = ["--camera", "none"];
    for (out, more) in [("by.safetensors", &[][..]), ("none.safetensors", &none_given)] {
        let words = ["embed", "--model", model, "figures/bounding_box_test", "--out", out];
        expect(0, here, &[&words[..], more].concat());
    }
    for (code, gallery, more) in [
        (0, "by.safetensors", &[][..]),
        (1, "by.safetensors", &none_given),
        (1, "none.safetensors", &[]),
        (0, "none.safetensors", &none_given),
    ] {
        let words = ["search", "--model", model, "--gallery", gallery, "--query", "figures/query"];
        expect(code, here, &[&words[..], more].concat());
    }

    // Each command that can't know the camera names the flag.
    let photo = std::fs::read_dir(here.join("figures/query")).unwrap().next().unwrap().unwrap().path();
    std::fs::copy(&photo, here.join("photo.png")).unwrap();
    std::fs::copy(&photo, here.join("0001_c9s1_000001_01.png")).unwrap();
    for (code, command, words) in [
        (1, &["embed", "photo.png", "--out", "x.npy"][..], "photo.png doesn't say its camera"),
        (
            1,
            &["embed", "0001_c9s1_000001_01.png", "--out", "x.npy"],
            "by camera 9; the model has rows for c1, c2",
        ),
        (
            2,
            &["embed", "photo.png", "--out", "x.npy", "--camera", "c9"],
            "--camera c9: the model has rows for c1, c2",
        ),
        (1, &["explain", "photo.png", "--out", "x.png"], "photo.png doesn't say its camera"),
        (1, &["serve", "--gallery", "by.safetensors", "--port", "0"], "a posted image doesn't say"),
        (2, &["export", "--to", "timm", "--out", "x.safetensors"], "exports have no camera embedding"),
        (2, &["export", "--to", "web", "--out", "x"], "exports have no camera embedding"),
    ] {
        let (_, stderr) = expect(code, here, &[command, &["--model", model]].concat());
        assert!(stderr.contains(words) && stderr.contains("--camera"), "{command:?}: {stderr}");
    }
    expect(0, here, &["explain", "photo.png", "--out", "x.png", "--model", model, "--camera", "c2"]);
    expect(
        0,
        here,
        &["export", "--to", "timm", "--out", "x.safetensors", "--model", model, "--camera", "none"],
    );
    let plain = ["embed", "--model", "x.safetensors", "figures/query", "--out", "e.npy"];
    expect(0, here, &plain);
    assert!(bytes(here, "e.npy") == none);
    let (_, stderr) = expect(2, here, &[&plain[..], &["--camera", "c1"]].concat());
    assert!(stderr.contains("--camera c1: the model has no camera embedding"), "{stderr}");
    expect(
        2,
        here,
        &["eval", "--query-embeddings", "e.npy", "--gallery-embeddings", "e.npy", "--camera", "c1"],
    );
    // As a backbone it gives its table up; other cameras are another run.
    let (_, stderr) = run("again", &["--backbone", model, "--camera-embedding", "0", "--max-steps", "1"]);
    assert!(stderr.contains("camera embedding is left out"), "{stderr}");
    for (words, dir) in [("isn't known", "unknown"), ("two cameras or more", "one")] {
        for person in ["a", "b"] {
            std::fs::create_dir_all(here.join(dir).join(person)).unwrap();
            for image in 0..2 {
                let name = if dir == "one" { format!("c1_{image}.png") } else { format!("{image}.png") };
                std::fs::copy(&photo, here.join(dir).join(person).join(name)).unwrap();
            }
        }
        let mut command = train(here, &["--camera-embedding", "3", "--data", dir, "--out", "new"]);
        let (_, stderr) = finish(2, &mut command);
        assert!(stderr.contains("model.camera_embedding needs") && stderr.contains(words), "{stderr}");
    }
}

#[test]
fn transreid_full_trains_resumes_and_embeds() {
    let folder = figures("3");
    let here = folder.path();
    let recipe = ["--preset", "transreid-full", "--size", "32x32", "--stride", "4", "--warmup-epochs", "1"];
    let batch = ["--persons-per-batch", "3", "--images-per-person", "2", "--batch-size", "6"];
    let run = |out: &str, more: &[&str]| {
        let mut command = train(here, &[&recipe[..], &batch].concat());
        finish(0, command.args(["--best", "last", "--out", out]).args(more))
    };
    run("whole", &["--micro-batch", "4"]);
    run("stopped", &["--micro-batch", "4", "--max-steps", "2"]);
    run("stopped", &["--micro-batch", "4", "--resume"]);
    for name in ["last.safetensors", "best.safetensors"] {
        assert!(bytes(&here.join("whole"), name) == bytes(&here.join("stopped"), name), "{name}");
    }
    run("plain", &["--no-jigsaw"]);
    assert!(losses(&here.join("plain")) != losses(&here.join("whole")));
    let model = "whole/best.safetensors";
    let (about, _) = expect(0, here, &["inspect", model]);
    for words in ["jigsaw", "b2.0.attn.qkv.weight", "heads.4.classifier.weight", "5 parts × 32 = 160"] {
        assert!(about.contains(words), "{words}: {about}");
    }
    let (text, _) = expect(0, here, &["eval", "--model", model, "--data", "figures", "--flip"]);
    assert!(text.contains("mAP"), "{text}");
    let embed = |precision: &str| {
        let words = ["embed", "--model", model, "figures/query", "--out", "e.npy", "--precision", precision];
        expect(0, here, &words);
        let bytes = bytes(here, "e.npy");
        let start = bytes.len() - bytes.len() / 4 / 160 * 640;
        bytemuck::pod_collect_to_vec::<u8, f32>(&bytes[start..])
    };
    let (wide, narrow) = (embed("f32"), embed("f16"));
    for (wide, narrow) in wide.chunks(160).zip(narrow.chunks(160)) {
        let product = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
        assert!((product(wide, wide) - 1.0).abs() < 1e-5 && product(wide, narrow) > 0.9995);
    }
    run("f16", &["--precision", "f16", "--max-steps", "3"]);
    for (code, command, words) in [
        (2, &["explain", "figures/query", "--out", "x.png"][..], "can't be explained"),
        (
            2,
            &["export", "--to", "timm", "--out", "x.safetensors", "--camera", "none"],
            "exports have no jigsaw",
        ),
    ] {
        let photo = std::fs::read_dir(here.join("figures/query")).unwrap().next().unwrap().unwrap().path();
        let photo = photo.to_string_lossy().into_owned();
        let command: Vec<&str> =
            command.iter().map(|word| if *word == "figures/query" { &photo } else { *word }).collect();
        let (_, stderr) = expect(code, here, &[&command[..], &["--model", model]].concat());
        assert!(stderr.contains(words), "{command:?}: {stderr}");
    }
    let (_, stderr) = finish(2, &mut train(here, &["--jigsaw", "--out", "new"]));
    assert!(stderr.contains("model.jigsaw must be false unless head.kind is bnneck"), "{stderr}");
}

#[test]
fn reattention_trains_resumes_and_embeds() {
    let folder = figures("3");
    let here = folder.path();
    let sizes = ["--size", "32x16", "--patch", "8", "--dim", "32", "--depth", "2", "--heads", "4"];
    expect(0, here, &[&["init", "--reattention", "--out", "start.safetensors"], &sizes[..]].concat());
    let train = |more: &[&str]| {
        let words = ["train", "--backbone", "start.safetensors", "--data", "figures", "--batch-size", "7"];
        let recipe = ["--epochs", "4", "--lr", "0.003", "--best", "last", "--ema", "0.9"];
        program(here, &[&words[..], &recipe, more].concat())
    };
    // Blocks open one by one; the running statistics of frozen ones change, too.
    finish(0, &mut train(&["--out", "whole", "--unfreeze-every", "2"]));
    finish(0, &mut train(&["--out", "stopped", "--unfreeze-every", "2", "--max-steps", "3"]));
    finish(0, &mut program(here, &["train", "--out", "stopped", "--resume"]));
    for name in ["last.safetensors", "best.safetensors"] {
        assert!(bytes(&here.join("whole"), name) == bytes(&here.join("stopped"), name), "{name}");
    }
    finish(0, &mut train(&["--out", "full", "--preset", "full"]));
    assert!(losses(&here.join("full")).windows(8).any(|w| w[7] < 0.9 * w[0]), "the loss falls");
    let model = "full/best.safetensors";
    let (about, _) = expect(0, here, &["inspect", model]);
    for words in ["re-attention", "blocks.1.attn.var_norm.running_var", "heads 4"] {
        assert!(about.contains(words), "{words}: {about}");
    }
    let (text, _) = expect(0, here, &["eval", "--model", model, "--data", "figures", "--flip"]);
    assert!(text.contains("mAP"), "{text}");
    finish(0, &mut train(&["--out", "f16", "--precision", "f16", "--max-steps", "3"]));
    let photo = std::fs::read_dir(here.join("figures/query")).unwrap().next().unwrap().unwrap().path();
    let photo = photo.to_string_lossy();
    expect(0, here, &["export", "--to", "web", "--model", model, "--out", "web"]);
    for (command, words) in [
        (&["explain", &photo, "--out", "x.png"][..], "no attention rollout"),
        (&["export", "--to", "timm", "--out", "x.safetensors"], "timm has no re-attention"),
        (&["embed", "figures/query", "--out", "x.npy", "--heads", "2"], "reatten_matrix"),
    ] {
        let code = if command[0] == "embed" { 1 } else { 2 };
        let (_, stderr) = expect(code, here, &[command, &["--model", model]].concat());
        assert!(stderr.contains(words), "{command:?}: {stderr}");
    }
    let (_, stderr) = finish(2, &mut train(&["--out", "new", "--micro-batch", "4"]));
    assert!(stderr.contains("--micro-batch 4: re-attention normalises over"), "{stderr}");
}

#[test]
fn a_crowd_is_drawn_while_it_trains() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let sizes = ["--size", "32x16", "--patch", "8", "--dim", "32", "--depth", "1", "--heads", "2"];
    expect(0, here, &[&["init", "--out", "start.safetensors"], &sizes[..]].concat());
    let train = |more: &[&str]| {
        let words =
            ["train", "--backbone", "start.safetensors", "--data", "synth:persons=16,cameras=8,seed=2"];
        let batch = ["--persons-per-batch", "4", "--images-per-person", "4", "--batch-size", "16"];
        let recipe =
            ["--sampler", "cameras", "--epochs", "2", "--best", "last", "--lr", "0.003", "--triplet"];
        program(here, &[&words[..], &batch, &recipe, more].concat())
    };
    finish(0, &mut train(&["--out", "whole"]));
    // 16 persons by six cameras each, in batches of 16.
    assert_eq!(losses(&here.join("whole")).len(), 12);
    finish(0, &mut train(&["--out", "stopped", "--max-steps", "3"]));
    finish(0, &mut program(here, &["train", "--out", "stopped", "--resume"]));
    for name in ["last.safetensors", "best.safetensors"] {
        assert!(bytes(&here.join("whole"), name) == bytes(&here.join("stopped"), name), "{name}");
    }
    for (more, words) in [
        (["--val-persons", "0.7", "--best", "val-map"], "no files to score"),
        (["--eval-every", "1", "--best", "last"], "no files to score"),
        (["--data", "synth:persons=x", "--best", "last"], "persons must be a number"),
    ] {
        let (_, stderr) = finish(2, &mut train(&[&more[..], &["--out", "new"]].concat()));
        assert!(stderr.contains(words), "{stderr}");
    }
    // The same persons as files.
    expect(0, here, &["synth", "files", "--crowd", "persons=16,cameras=8,seed=2", "--images", "2"]);
    let (text, _) = expect(0, here, &["eval", "--model", "whole/best.safetensors", "--data", "files"]);
    assert!(text.contains("mAP"), "{text}");
    let (_, stderr) = expect(2, here, &["synth", "other", "--crowd", "persons=2"]);
    assert!(stderr.contains("4 persons and 2 cameras"), "{stderr}");
}

#[test]
fn sgd_with_averaged_weights_trains_and_resumes() {
    let folder = figures("3");
    let here = folder.path();
    // Blocks open one by one, and each epoch's model is validated.
    let recipe = [
        "--optimizer=sgd",
        "--lr=0.01",
        "--ema=0.9",
        "--bias-lr-factor=2",
        "--layer-decay=0.75",
        "--lr-step=epoch",
        "--warmup-epochs=2",
        "--cosine",
        "--best=last",
        "--val-fraction=0.3",
        "--unfreeze-every=1",
    ];
    let run = |out: &str, more: &[&str]| finish(0, train(here, &recipe).args(["--out", out]).args(more));
    run("whole", &[]);
    let steps = losses(&here.join("whole")).len();
    assert!(steps > 6, "{steps}");
    for stop in ["1", "4"] {
        run("stopped", &["--resume", "--max-steps", stop]);
    }
    run("stopped", &["--resume"]);
    for name in ["last.safetensors", "best.safetensors"] {
        assert!(bytes(&here.join("whole"), name) == bytes(&here.join("stopped"), name), "{name}");
    }
    assert_eq!(losses(&here.join("whole")), losses(&here.join("stopped")));
    // The best model is the average, and only the last checkpoint has both.
    let [last, best] =
        ["last", "best"].map(|name| bytes(&here.join("whole"), &format!("{name}.safetensors")));
    let [last, best] = [&last, &best].map(|bytes| SafeTensors::deserialize(bytes).unwrap());
    let data = |file: &SafeTensors<'_>, name: &str| file.tensor(name).map(|tensor| tensor.data().to_vec());
    for name in ["norm.weight", "heads.0.fc1.bias", "heads.0.bn.running_var"] {
        let average = format!("state.average.{name}");
        assert!(data(&best, name).unwrap() == data(&last, &average).unwrap(), "{name}");
        assert!(data(&best, name).unwrap() != data(&last, name).unwrap(), "{name}");
        assert!(data(&best, &average).is_err());
    }
    assert!(data(&last, "state.m.norm").is_ok() && data(&last, "state.v.norm").is_err());
    // The embeddings are frozen.
    assert!(data(&last, "state.average.pos_embed").is_err());
    // Without averages, the same steps, and the last model is the best.
    run("plain", &["--ema=0"]);
    assert_eq!(losses(&here.join("whole")), losses(&here.join("plain")));
    let plain = here.join("plain");
    assert!(bytes(&plain, "last.safetensors") == bytes(&plain, "best.safetensors"));
    let of_validation = |run: &str| {
        let lines = lines(&here.join(run)).into_iter();
        lines.filter_map(|line| line["val_loss"].as_f64()).collect::<Vec<f64>>()
    };
    assert!(of_validation("whole").len() > 1 && of_validation("whole") != of_validation("plain"));
    // Each setting matters.
    for set in [
        "--momentum=0.5",
        "--bias-lr-factor=1",
        "--layer-decay=1",
        "--lr-step=step",
        "--warmup-factor=0.5",
        "--lr-min-factor=0.5",
        "--lr-epoch-offset=1",
    ] {
        let out = set.trim_start_matches('-');
        run(out, &[set]);
        assert!(losses(&here.join(out)) != losses(&here.join("whole")), "{set}");
    }
}

#[test]
fn micro_batches_take_less_memory_and_give_the_same_losses() {
    let folder = figures("3");
    let here = folder.path();
    let recipe = ["--preset", "full", "--lr", "0.0001", "--out"];
    finish(0, train(here, &recipe).arg("whole"));
    let (_, stderr) = finish(0, train(here, &recipe).args(["pieces", "--micro-batch", "2", "--verbose"]));
    assert!(
        stderr.contains("micro-batch 2: a step of 7 images needs") && stderr.contains("times the work"),
        "{stderr}"
    );
    let (whole, pieces) = (here.join("whole"), here.join("pieces"));
    for (a, b) in losses(&whole).iter().zip(losses(&pieces)) {
        assert!((a - b).abs() < 1e-3 * a, "{a} {b}");
    }
    let bytes = |run: &Path| lines(run)[0]["gpu_bytes"].as_u64().unwrap();
    assert!(bytes(&pieces) < bytes(&whole));
    // A resumed run may take other pieces, and says what that means.
    finish(0, train(here, &recipe).args(["half", "--max-steps", "7"]));
    let resumed = ["train", "--resume", "--out", "half", "--micro-batch", "3"];
    let (_, stderr) = expect(0, here, &resumed);
    assert!(stderr.contains("the saved run had micro-batches of 7, and this one has 3"), "{stderr}");
    for (a, b) in losses(&whole).iter().zip(losses(&here.join("half"))) {
        assert!((a - b).abs() < 1e-3 * a, "{a} {b}");
    }
}

#[test]
fn retrieval_scores_choose_the_best_epoch() {
    let folder = figures("3");
    let here = folder.path();
    let scored =
        ["--out", "run", "--epochs", "3", "--eval-every", "2", "--best", "test-map", "--preset", "full"];
    finish(0, &mut train(here, &scored));
    let run = here.join("run");
    let epochs: Vec<Value> = lines(&run).into_iter().filter(|line| line["kind"] == "epoch").collect();
    let keys = ["rank1", "rank5", "rank10", "rank20", "map", "minp"];
    assert_eq!(epochs.len(), 3);
    for (epoch, line) in epochs.iter().enumerate() {
        for key in keys {
            assert_eq!(line[key].is_number(), epoch > 0, "{key} in {line}");
        }
    }
    // Every second epoch and the last one.
    let best = if epochs[2]["map"].as_f64() > epochs[1]["map"].as_f64() { &epochs[2] } else { &epochs[1] };
    finish(
        0,
        &mut program(
            here,
            &["eval", "--model", "run/best.safetensors", "--data", "figures", "--json", "s.json"],
        ),
    );
    let scores: Value = serde_json::from_slice(&bytes(here, "s.json")).unwrap();
    for key in keys {
        assert_eq!(scores[key], best[key], "{key}");
    }
    let curves = String::from_utf8(bytes(&run, "curves.svg")).unwrap();
    assert!(curves.contains("rank-1 and mAP"));

    let flat = ["--out", "flat", "--data", "figures/bounding_box_train", "--eval-every", "1"];
    let (_, stderr) = expect(2, here, &[&["train", "--backbone", TINY, "--heads", "2"], &flat[..]].concat());
    assert!(stderr.contains("has no query and gallery"), "{stderr}");
    finish(2, &mut train(here, &["--out", "other", "--best", "test-map"]));
}

#[test]
fn ablation_fills_the_papers_table_and_resumes() {
    let folder = figures("3");
    let here = folder.path();
    let arguments =
        ["ablate", "--data", "figures", "--backbone", TINY, "--set", "model.heads=2", "--epochs", "1"];
    let ablate = || finish(0, program(here, &arguments).args(["--batch-size", "7"]));
    let table = ablate().0;
    let rows: Vec<&str> = table.lines().skip(2).collect();
    assert_eq!(rows.len(), 6, "{table}");
    assert!(rows[0].starts_with("| 1 | ViT | 1 | Global |"), "{table}");
    assert!(rows[5].starts_with("| 6 | LA | 4 | Global+Local |"), "{table}");
    let value: Value = serde_json::from_slice(&bytes(&here.join("ablation"), "table.json")).unwrap();
    assert!(value["rows"][5]["with_blockwise"]["map"].is_number(), "{value}");
    // The second time nothing is trained or changed.
    let trained = bytes(&here.join("ablation/la-gelt-paper"), "log.jsonl");
    std::fs::remove_file(here.join("ablation/la-gelt-paper/scores.json")).unwrap();
    assert_eq!(ablate().0, table);
    assert!(trained == bytes(&here.join("ablation/la-gelt-paper"), "log.jsonl"));
}

#[test]
fn a_dry_run_predicts_the_plan_and_writes_nothing() {
    let folder = figures("3");
    let here = folder.path();
    let (text, _) = finish(0, &mut train(here, &["--dry-run"]));
    for words in ["20 images train, 4 validate, 4 classes, 12 steps", "GFLOP/s", "0-1", "2-3", "about"] {
        assert!(text.contains(words), "{words} in {text}");
    }
    assert_eq!(std::fs::read_dir(here).unwrap().count(), 1);
    // The prediction agrees with a run.
    finish(0, &mut train(here, &["--out", "run"]));
    let last = lines(&here.join("run")).iter().rev().find_map(|line| line["gpu_bytes"].as_u64()).unwrap();
    let foretold = text.lines().find(|line| line.starts_with("2-3")).unwrap();
    let foretold: u64 = foretold.split_whitespace().nth(4).unwrap().parse().unwrap();
    assert_eq!(foretold, last.div_ceil(1 << 20), "{text}");

    let (_, stderr) = finish(1, &mut train(here, &["--out", "small", "--memory", "2M", "--preset", "full"]));
    assert!(stderr.contains("--memory allows 2 MiB"), "{stderr}");
    let fitting = stderr.split("--micro-batch ").nth(1);
    assert!(fitting.is_some(), "{stderr}");
}

#[test]
fn an_infinite_loss_stops_the_run_and_names_its_images() {
    let folder = figures("3");
    let here = folder.path();
    let (_, stderr) = finish(1, &mut train(here, &["--out", "run", "--lr", "1e38", "--preset", "full"]));
    assert!(stderr.contains("not finite") && stderr.contains(".png") && stderr.contains("hint:"), "{stderr}");
    assert!(lat_wgpu::checkpoint::list(&here.join("run/last.safetensors")).is_ok());
}
