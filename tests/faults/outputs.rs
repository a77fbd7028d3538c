//! No output replaces an input, no two outputs are one file, and unwritable outputs are found before the work.

use super::common::{assert_says, copies, copy, expect, input, paint, write};
use std::collections::BTreeMap;
use std::path::Path;
use tempfile::TempDir;

/// A command with inputs, and output flags to try.
struct Route {
    /// The command without the tested output.
    command: &'static str,
    /// Arguments that the command needs with another flag, or empty.
    needed: &'static str,
    /// Flags that take an output.
    outputs: &'static [&'static str],
    /// Files that the command reads, directly or in a folder.
    inputs: &'static [&'static str],
}

const ROUTES: [Route; 27] = [
    Route {
        command: "embed --model m.safetensors --reduce pca.safetensors --cameras l.csv crops p.png",
        needed: "--out new.npy",
        outputs: &["--out", "--json", "--profile"],
        inputs: &[
            "m.safetensors",
            "pca.safetensors",
            "l.csv",
            "p.png",
            "crops/a/1_0.jpg",
            "crops/old.npy",
            "crops/notes.txt",
        ],
    },
    Route {
        command: "embed --append --model m.safetensors crops",
        needed: "--out new",
        outputs: &["--json", "--profile"],
        inputs: &["m.safetensors", "crops/a/1_0.jpg"],
    },
    Route {
        command: "merge index",
        needed: "--out new.npy",
        outputs: &["--out", "--json"],
        inputs: &["index/manifest.json", "index/part-000001.safetensors"],
    },
    Route {
        command: "reduce e.npy --dim 2 --query-embeddings q.safetensors --labels l.csv",
        needed: "--out new.safetensors",
        outputs: &["--out", "--json"],
        inputs: &["e.npy", "e.paths.txt", "q.safetensors", "l.csv"],
    },
    Route {
        command: "reduce e.npy --apply pca.safetensors",
        needed: "--out new.safetensors",
        outputs: &["--out", "--json"],
        inputs: &["e.npy", "e.paths.txt", "pca.safetensors"],
    },
    Route {
        command: "cluster --gallery e.npy",
        needed: "--out new.csv",
        outputs: &["--out", "--json", "--html"],
        inputs: &["e.npy", "e.paths.txt"],
    },
    Route {
        command: "adapt --statistics-only --model m.safetensors --images crops --cameras l.csv",
        needed: "--out new.safetensors",
        outputs: &["--out", "--json"],
        inputs: &["m.safetensors", "crops/a/1_0.jpg", "l.csv"],
    },
    Route {
        command: "adapt --model m.safetensors --images crops --cameras l.csv --data crops --config c.toml",
        needed: "--out new",
        outputs: &["--out", "--profile"],
        inputs: &["m.safetensors", "c.toml", "l.csv", "crops/a/1_0.jpg"],
    },
    Route { command: "inspect m.safetensors", needed: "", outputs: &["--json"], inputs: &["m.safetensors"] },
    Route {
        command: "bench --baseline base.json",
        needed: "",
        outputs: &["--json", "--svg"],
        inputs: &["base.json"],
    },
    Route {
        command: "train --backbone m.safetensors --data crops --config c.toml",
        needed: "--out new",
        outputs: &["--out", "--profile"],
        inputs: &["m.safetensors", "c.toml", "crops/a/1_0.jpg"],
    },
    Route {
        command: "train --config places.toml --out new",
        needed: "",
        outputs: &["--profile"],
        inputs: &["m.safetensors", "places.toml", "crops/a/1_0.jpg"],
    },
    Route {
        command: "runs done",
        needed: "",
        outputs: &["--svg", "--json"],
        inputs: &["done/config.toml", "done/log.jsonl"],
    },
    Route {
        command: "ablate --backbone m.safetensors --data crops --config c.toml",
        needed: "--out new",
        outputs: &["--json", "--out"],
        inputs: &["m.safetensors", "c.toml", "crops/a/1_0.jpg"],
    },
    Route {
        command: "eval --model m.safetensors --data crops",
        needed: "",
        outputs: &["--json", "--html"],
        inputs: &["m.safetensors", "crops/b/2_1.jpg", "crops/old.npy"],
    },
    Route {
        command: "eval --query-embeddings q.safetensors --gallery-embeddings e.npy --labels l.csv --images crops",
        needed: "--html new.html",
        outputs: &["--json", "--html"],
        inputs: &["q.safetensors", "e.npy", "e.paths.txt", "l.csv", "crops/a/1_0.jpg"],
    },
    Route {
        command: "search --model m.safetensors --gallery e.npy --query p.png --query crops --reduce pca.safetensors",
        needed: "",
        outputs: &["--json", "--html"],
        inputs: &["m.safetensors", "e.npy", "e.paths.txt", "p.png", "crops/a/1_0.jpg", "pca.safetensors"],
    },
    Route {
        command: "search --model m.safetensors --gallery index --query p.png --images crops",
        needed: "--html new.html",
        outputs: &["--json", "--html"],
        inputs: &["index/part-000001.safetensors", "crops/a/1_0.jpg"],
    },
    Route {
        command: "compare --model m.safetensors p.png crops/a/1_0.jpg",
        needed: "",
        outputs: &["--json"],
        inputs: &["m.safetensors", "p.png", "crops/a/1_0.jpg"],
    },
    Route {
        command: "data crops",
        needed: "",
        outputs: &["--json"],
        inputs: &["crops/a/1_0.jpg", "crops/old.npy"],
    },
    Route {
        command: "data table/set.csv",
        needed: "",
        outputs: &["--json"],
        inputs: &["table/set.csv", "table/p0.jpg"],
    },
    Route {
        command: "export --model m.safetensors --to timm",
        needed: "",
        outputs: &["--out"],
        inputs: &["m.safetensors"],
    },
    Route {
        command: "export --model m.safetensors --to onnx",
        needed: "",
        outputs: &["--out"],
        inputs: &["m.safetensors"],
    },
    Route { command: "convert m.safetensors", needed: "", outputs: &["--out"], inputs: &["m.safetensors"] },
    Route {
        command: "explain --model m.safetensors p.png",
        needed: "--out new.png",
        outputs: &["--out", "--json"],
        inputs: &["p.png"],
    },
    Route {
        command: "explain --model m.safetensors crops/a/1_0.jpg --against p.png",
        needed: "--out new.png",
        outputs: &["--out", "--json"],
        inputs: &["p.png"],
    },
    Route {
        command: "autotune --model m.safetensors",
        needed: "",
        outputs: &["--json"],
        inputs: &["m.safetensors"],
    },
];

/// Outputs of commands that read nothing or may replace their input.
const WITHOUT_INPUT: [(&str, &str, &str); 9] = [
    ("doctor", "--json", "doctor"),
    ("info", "--json", "info"),
    ("models", "--json", "models"),
    ("selftest", "--json", "selftest --match nothing"),
    ("bench", "--save-baseline", "bench --baseline base.json"),
    ("bench", "--write-tiles", "bench --lab"),
    ("init", "--out", "init"),
    ("synth", "DIR", ""),
    ("demo", "--out", ""),
];

/// Flags that name an input.
const READ: [&str; 16] = [
    "--model",
    "--reduce",
    "--apply",
    "--query-embeddings",
    "--gallery-embeddings",
    "--labels",
    "--images",
    "--cameras",
    "--baseline",
    "--data",
    "--backbone",
    "--config",
    "--gallery",
    "--against",
    "--query",
    "--filter",
];

/// The inputs of all routes.
fn inputs() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    copy(&input("tiny/tiny.safetensors"), &at("m.safetensors"));
    copy(&input("two_p"), &at("crops"));
    copy(&input("csv_split"), &at("table"));
    copy(&input("emb/ok.npy"), &at("e.npy"));
    copy(&input("emb/ok.paths.txt"), &at("e.paths.txt"));
    copy(&input("emb/ok.safetensors"), &at("q.safetensors"));
    copy(&input("emb/ok.csv"), &at("l.csv"));
    paint(&at("p.png"), [200, 30, 30]);
    write(&at("c.toml"), "preset = \"full\"\n");
    write(&at("done/config.toml"), "preset = \"full\"\n");
    write(&at("places.toml"), "[model]\nbackbone = \"m.safetensors\"\n[data]\ndir = \"crops\"\n");
    for name in ["pca.safetensors", "base.json", "crops/old.npy", "crops/notes.txt", "done/log.jsonl"] {
        write(&at(name), name);
    }
    for name in ["index/manifest.json", "index/part-000001.safetensors"] {
        write(&at(name), name);
    }
    folder
}

/// All files below a folder, with links followed.
fn tree(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in walkdir::WalkDir::new(folder).into_iter().flatten() {
        let name = entry.path().strip_prefix(folder).unwrap().to_string_lossy().into_owned();
        found.insert(name, std::fs::read(entry.path()).unwrap_or_default());
    }
    found
}

/// The words of a command with one more output.
fn with_output<'w>(command: &'w str, needed: &'w str, output: &'w str, path: &'w str) -> Vec<String> {
    let needed = if needed.starts_with(output) { "" } else { needed };
    let mut words: Vec<String> = command
        .split(' ')
        .chain(needed.split(' '))
        .filter(|word| !word.is_empty())
        .map(String::from)
        .collect();
    // The only flag that takes its value only after `=`.
    if output == "--profile" {
        words.push(format!("--profile={path}"));
    } else {
        words.extend([output.to_string(), path.to_string()]);
    }
    words
}

#[track_caller]
fn refused(code: i32, folder: &Path, words: &[String]) -> String {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    expect(code, folder, &words).1
}

#[test]
fn no_output_replaces_an_input() {
    let inputs = inputs();
    let folder = inputs.path();
    let before = tree(folder);
    for Route { command, needed, outputs, inputs } in ROUTES {
        for output in outputs {
            for input in inputs {
                let words = with_output(command, needed, output, input);
                let stderr = refused(2, folder, &words);
                assert!(stderr.starts_with("error: "), "{words:?}:\n{stderr}");
                // The output as given, and the input that it would replace or is in.
                let read = input.split('/').next().unwrap();
                assert_says(&stderr, &[&format!("{output} {input}"), read, "which is an input"]);
                assert_eq!(tree(folder), before, "{words:?}");
            }
        }
    }
}

#[test]
fn every_output_flag_is_tried() {
    let tried = |command: &str, flag: &str| {
        ROUTES
            .iter()
            .any(|route| route.command.split(' ').next() == Some(command) && route.outputs.contains(&flag))
            || WITHOUT_INPUT.iter().any(|&(known, output, _)| (known, output) == (command, flag))
    };
    let mut seen = 0;
    for command in lat_wgpu::cli::command().get_subcommands() {
        for argument in command.get_arguments() {
            let (Some(long), Some(values)) = (argument.get_long(), argument.get_value_names()) else {
                continue;
            };
            let (name, flag) = (command.get_name(), format!("--{long}"));
            let kinds = ["FILE", "DIR", "PATH", "FOLDER", "RUN", "CSV", "IMG"];
            let is_path = values.iter().any(|value| kinds.iter().any(|kind| value.contains(kind)));
            let is_path = is_path && argument.get_action().takes_values();
            if is_path && !READ.contains(&flag.as_str()) {
                assert!(tried(name, &flag), "{name} {flag} {values:?} is in no route");
                seen += 1;
            }
        }
    }
    assert!(seen >= 25, "{seen} flags were found");
}

#[cfg(unix)]
#[test]
fn inputs_are_recognised_under_every_name() {
    use std::os::unix::fs::symlink;
    let inputs = inputs();
    let folder = inputs.path();
    let at = |name: &str| folder.join(name);
    symlink("m.safetensors", at("soft.safetensors")).unwrap();
    symlink("soft.safetensors", at("softer.safetensors")).unwrap();
    symlink(".", at("here")).unwrap();
    symlink("crops", at("folder")).unwrap();
    symlink("../p.png", at("crops/linked.png")).unwrap();
    std::fs::hard_link(at("m.safetensors"), at("hard.safetensors")).unwrap();
    std::fs::hard_link(at("crops/a/1_0.jpg"), at("hard.jpg")).unwrap();
    let absolute = at("m.safetensors");
    let before = tree(folder);
    let names = [
        "./m.safetensors",
        "crops/../m.safetensors",
        absolute.to_str().unwrap(),
        "here/m.safetensors",
        "soft.safetensors",
        "softer.safetensors",
        "hard.safetensors",
    ];
    for output in names {
        for model in ["m.safetensors", "softer.safetensors", "hard.safetensors"] {
            let (_, stderr) = expect(2, folder, &["inspect", model, "--json", output]);
            assert_says(
                &stderr,
                &[&format!("--json {output}"), &format!("MODEL {model}"), "which is an input"],
            );
        }
    }
    // A file of an input folder by a hard link and through a linked folder, and the target of a link in the folder.
    for output in ["hard.jpg", "folder/old.npy", "crops/b/../old.npy", "p.png", "crops/linked.png"] {
        for set in ["crops", "folder", "./crops/"] {
            let (_, stderr) = expect(2, folder, &["data", set, "--json", output]);
            assert_says(&stderr, &[&format!("--json {output}"), &format!("DIR {set}"), "which is an input"]);
        }
    }
    assert_eq!(tree(folder), before);
    // The target of a link behind a followed link is an input too.
    write(&at("far.jpg"), "far");
    std::fs::create_dir(at("elsewhere")).unwrap();
    symlink("../far.jpg", at("elsewhere/near.jpg")).unwrap();
    symlink("../elsewhere", at("crops/more")).unwrap();
    let (_, stderr) = expect(2, folder, &["data", "crops", "--follow-links", "--json", "far.jpg"]);
    assert_says(&stderr, &["--json far.jpg", "DIR crops", "which is an input"]);
    assert_eq!(std::fs::read(at("far.jpg")).unwrap(), b"far");
}

#[test]
fn images_listed_in_a_table_are_inputs() {
    let inputs = inputs();
    let folder = inputs.path();
    write(&folder.join("lists/set.csv"), "path,person,camera\n../p.png,1,1\n../crops/a/1_0.jpg,1,2\n");
    write(&folder.join("free.json"), "old");
    let before = tree(folder);
    // Given by the table, or by a folder that holds only the table.
    for set in ["lists/set.csv", "lists"] {
        for image in ["p.png", "crops/a/1_0.jpg"] {
            let (_, stderr) = expect(2, folder, &["data", set, "--json", image]);
            assert_says(&stderr, &[&format!("--json {image}"), "listed by DIR lists", "which is an input"]);
        }
    }
    assert_eq!(tree(folder), before);
    expect(0, folder, &["data", "lists/set.csv", "--json", "free.json"]);
}

#[test]
fn no_two_outputs_are_one_file() {
    let inputs = inputs();
    let folder = inputs.path();
    write(&folder.join("there.json"), "old");
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("there.json", folder.join("link.json")).unwrap();
        std::os::unix::fs::symlink("missing.json", folder.join("dangling.json")).unwrap();
        std::os::unix::fs::symlink(".", folder.join("here")).unwrap();
        std::fs::hard_link(folder.join("there.json"), folder.join("hard.json")).unwrap();
    }
    let before = tree(folder);
    let mut cases = vec![
        ("embed --model m.safetensors crops --out o.npy --json o.npy", ["--out o.npy", "--json o.npy"]),
        (
            "embed --model m.safetensors crops --out o.npy --json o.paths.txt",
            ["--out o.npy", "--json o.paths.txt"],
        ),
        (
            "embed --model m.safetensors crops --out o.npy --json ./t --profile=index/../t",
            ["--json ./t", "index/../t"],
        ),
        (
            "embed --model m.safetensors crops --out o.npy --profile --json trace.json",
            ["trace.json", "--profile"],
        ),
        (
            "embed --append --model m.safetensors crops --out new --json new/manifest.json",
            ["--out new", "manifest"],
        ),
        (
            "embed --append --model m.safetensors crops --out new --json new/part-000007.json",
            ["--out new", "part-"],
        ),
        (
            "embed --shard 1/2 --model m.safetensors crops --out new --json new/shard-1-of-2/manifest.json",
            ["new", "man"],
        ),
        ("merge index --out new.npy --json ./new.npy", ["--out new.npy", "--json ./new.npy"]),
        ("merge index --out new.npy --json new.paths.txt", ["--out new.npy", "--json new.paths.txt"]),
        ("reduce e.npy --dim 2 --out r.safetensors --json r.safetensors", ["--out r.saf", "--json r.saf"]),
        (
            "reduce e.npy --apply pca.safetensors --out r.npy --json r.paths.txt",
            ["--out r.npy", "--json r.paths.txt"],
        ),
        ("bench --json b --svg b", ["--json b", "--svg b"]),
        ("bench --save-baseline base.json --svg base.json", ["--save-baseline base.json", "--svg base.json"]),
        ("bench --save-baseline new.json --json new.json", ["--save-baseline new.json", "--json new.json"]),
        (
            "train --backbone m.safetensors --data crops --out run --profile=run",
            ["--out run", "--profile run"],
        ),
        (
            "train --backbone m.safetensors --data crops --out run --profile=run/log.jsonl",
            ["--out run", "log.jsonl"],
        ),
        (
            "train --backbone m.safetensors --data crops --out . --profile=best.safetensors",
            ["--out .", "best.saf"],
        ),
        (
            "ablate --backbone m.safetensors --data crops --out abl --json abl/table.json",
            ["--out abl", "table.json"],
        ),
        (
            "ablate --backbone m.safetensors --data crops --out abl --json abl/vit-global-full/scores.json",
            ["--out abl/vit-global-full", "scores.json"],
        ),
        (
            "eval --model m.safetensors --data crops --json s --html crops/../s",
            ["--json s", "--html crops/../s"],
        ),
        (
            "eval --model m.safetensors --data crops --fpr 0.1 --store-threshold --json m.safetensors",
            ["--model m.safetensors", "--json m.safetensors"],
        ),
        (
            "search --model m.safetensors --gallery e.npy --query p.png --json s --html ./s",
            ["--json s", "--html ./s"],
        ),
        (
            "explain --model m.safetensors p.png --out new.png --json ./new.png",
            ["--out new.png", "--json ./new.png"],
        ),
    ];
    if cfg!(unix) {
        cases.extend([
            ("bench --json there.json --svg link.json", ["--json there.json", "--svg link.json"]),
            ("bench --json hard.json --svg link.json", ["--json hard.json", "--svg link.json"]),
            ("bench --json missing.json --svg dangling.json", ["--json missing.json", "--svg dangling.json"]),
            (
                "bench --json missing.json --svg here/missing.json",
                ["--json missing.json", "--svg here/missing.json"],
            ),
        ]);
    }
    for (command, names) in cases {
        let (_, stderr) = expect(2, folder, &command.split(' ').collect::<Vec<_>>());
        assert_says(&stderr, &names);
        assert_eq!(tree(folder), before, "{command}");
    }
}

#[test]
fn unwritable_outputs_are_found_before_the_work() {
    let inputs = inputs();
    let folder = inputs.path();
    // Unreadable weights: opening them would give another error.
    write(&folder.join("m.safetensors"), "no weights");
    std::fs::create_dir(folder.join("empty")).unwrap();
    let before = tree(folder);
    let routes = ROUTES
        .iter()
        .flat_map(|route| route.outputs.iter().map(move |flag| (route.command, route.needed, *flag)));
    let others = WITHOUT_INPUT.iter().filter(|(_, _, command)| !command.is_empty());
    for (command, needed, flag) in routes.chain(others.map(|&(_, flag, command)| (command, "", flag))) {
        // Run folders are created with their parents.
        let makes_folder = flag == "--out"
            && (command.starts_with("train")
                || command.starts_with("ablate")
                || command.starts_with("adapt --model"));
        let file = if command.starts_with("explain") { "o.png" } else { "o.npy" };
        let (missing, below) = (format!("nodir/{file}"), format!("c.toml/{file}"));
        if !makes_folder {
            let stderr = refused(1, folder, &with_output(command, needed, flag, &missing));
            assert_says(&stderr, &[&format!("cannot create {missing}"), "there is no folder nodir"]);
        }
        let stderr = refused(1, folder, &with_output(command, needed, flag, &below));
        assert_says(&stderr, &[&format!("cannot create {below}")]);
        if !makes_folder && !command.starts_with("explain") {
            let stderr = refused(1, folder, &with_output(command, needed, flag, "empty"));
            assert_says(&stderr, &["cannot create empty", "directory"]);
        }
        assert_eq!(tree(folder), before, "{command} {flag}");
    }
}

#[test]
fn documented_updates_work() {
    let inputs = inputs();
    let folder = inputs.path();
    let run = |command: &str| expect(0, folder, &command.split(' ').collect::<Vec<_>>());
    // New files in an input folder, and repeated devices.
    run("data crops --json crops/new.json");
    run("embed --model m.safetensors crops --out crops/new.npy --json /dev/null --profile=/dev/null");
    assert!(!Path::new("/dev/null").is_file(), "the device was replaced");
    // In an input folder, and a second time.
    for _ in 0..2 {
        run("embed --append --model m.safetensors crops --out crops/index --json -");
    }
    run("synth set --persons 4 --cameras 2 --images 2");
    let train = "train --backbone m.safetensors --data set --out set/run --batch-size 4 --epochs 1";
    run(&format!("{train} --max-steps 1 --profile"));
    // The run's own files are no obstacle.
    let trace = refused(2, folder, &with_output(train, "--resume", "--profile", "set/run/trace.json"));
    assert_says(&trace, &["--profile set/run/trace.json", "--data set"]);
    run(&format!("{train} --resume --config set/run/config.toml"));
    run("eval --model m.safetensors --data crops --fpr 0.5 --store-threshold");
    // The baseline may be replaced. This one fails because it can't be read, not as an output.
    let (_, stderr) =
        expect(1, folder, &["bench", "--baseline", "base.json", "--save-baseline", "./base.json"]);
    assert!(!stderr.contains("which is an input"), "{stderr}");
}

#[test]
fn a_new_run_keeps_inputs_in_its_own_folder() {
    let inputs = inputs();
    let folder = inputs.path();
    // With --resume a folder need not be empty; without a saved state the run starts over.
    write(&folder.join("crops/config.toml"), "old");
    copy(&folder.join("m.safetensors"), &folder.join("run/best.safetensors"));
    let before = tree(folder);
    for (words, names) in [
        (
            "train --resume --backbone run/best.safetensors --data crops --out run",
            ["--backbone run/best", "--out run"],
        ),
        ("train --resume --backbone m.safetensors --data crops --out crops", ["config.toml", "--data crops"]),
        (
            "ablate --backbone m.safetensors --data table --out m.safetensors",
            ["--out m.safetensors", "--backbone"],
        ),
    ] {
        let (_, stderr) = expect(2, folder, &words.split(' ').collect::<Vec<_>>());
        assert_says(&stderr, &names);
        assert_eq!(tree(folder), before, "{words}");
    }
}

#[test]
fn draw_needs_an_empty_folder() {
    let folder = copies(&["two_p"]);
    let here = folder.path();
    std::fs::create_dir(here.join("empty")).unwrap();
    write(&here.join("hidden/.DS_Store"), "");
    write(&here.join("other/notes.txt"), "");
    let draw = |code: i32, dir: &str| {
        let before = tree(here);
        let (_, stderr) =
            expect(code, here, &["synth", dir, "--persons", "2", "--cameras", "1", "--images", "1"]);
        assert_eq!(code == 0, tree(here) != before, "{dir}");
        stderr
    };
    for dir in ["new", "empty", "hidden", "above/below"] {
        draw(0, dir);
        // Drawing twice into one folder would mix two data sets.
        assert_says(&draw(2, dir), &[&format!("{dir} is not empty"), "new or an empty folder"]);
    }
    for dir in ["two_p", "other", "./new/"] {
        assert_says(&draw(2, dir), &["is not empty"]);
    }
    assert_says(&draw(1, "other/notes.txt"), &["cannot create other/notes.txt"]);
}
