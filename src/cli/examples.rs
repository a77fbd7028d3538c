//! The groups of commands in `lat-wgpu --help`, and two examples for each command.

use clap::Command;

/// A command with two examples, which lack the name of program and command.
type Examples = (&'static str, [&'static str; 2]);

/// Groups of commands.
const GROUPS: [(&str, &[Examples]); 5] = [
    (
        "Use",
        &[
            ("demo", ["", "-o demo --epochs 4"]),
            (
                "embed",
                [
                    "--model dinov2-s14 crops -o crops.safetensors",
                    "--model run/best.safetensors crops -o index --append",
                ],
            ),
            ("merge", ["shards -o crops.safetensors", "index -o crops.parquet"]),
            (
                "reduce",
                [
                    "crops.safetensors --dim 64,128,256 -o pca.safetensors",
                    "crops.safetensors --apply pca.safetensors -o small.safetensors",
                ],
            ),
            (
                "search",
                [
                    "--model run/best.safetensors --gallery crops.safetensors --query person.jpg",
                    "--model run/best.safetensors --gallery index --query queries --html found.html",
                ],
            ),
            (
                "compare",
                [
                    "--model run/best.safetensors a.jpg b.jpg",
                    "--model run/best.safetensors a.jpg b.jpg --json -",
                ],
            ),
            ("index", ["remove index --filter path=0002_*", "remove index --names person.txt --dry-run"]),
            (
                "cluster",
                [
                    "--gallery crops.safetensors -o crops/groups.csv",
                    "--gallery crops.safetensors -o groups.csv --html groups.html --eps 0.5",
                ],
            ),
            (
                "adapt",
                [
                    "--model m.safetensors --images crops --out run",
                    "--statistics-only --model m.safetensors --images crops -o a.safetensors",
                ],
            ),
            (
                "serve",
                [
                    "--model run/best.safetensors --gallery index",
                    "--model run/best.safetensors --gallery index --images crops --port 0",
                ],
            ),
            (
                "explain",
                [
                    "--model run/best.safetensors person.jpg -o person.png",
                    "--model run/best.safetensors person.jpg -o person.png --json -",
                ],
            ),
        ],
    ),
    (
        "Train",
        &[
            (
                "train",
                [
                    "--backbone vit.safetensors --data Market-1501 -o run",
                    "--preset strong --backbone vit.safetensors --data Market-1501 -o run --lr 1e-4",
                ],
            ),
            (
                "eval",
                [
                    "--model run/best.safetensors --data Market-1501",
                    "--query-embeddings q.safetensors --gallery-embeddings g.safetensors --rerank",
                ],
            ),
            (
                "ablate",
                [
                    "--backbone vit.safetensors --data Market-1501",
                    "--backbone vit.safetensors --data Market-1501 --epochs 10 -o ablation",
                ],
            ),
            ("runs", ["run other", "run-1 run-2 run-3 --svg runs.svg"]),
            ("models", ["", "fetch dinov2-s14"]),
            (
                "convert",
                [
                    "personvit.pth -o personvit.safetensors",
                    "vit.bin -o vit.safetensors --size 256x128 --normalize half",
                ],
            ),
            ("init", ["-o vit.safetensors", "--size 256x128 --dim 384 --heads 6 -o vit.safetensors"]),
        ],
    ),
    (
        "Data",
        &[
            ("data", ["Market-1501", "crops --layout folders --strict"]),
            ("synth", ["figures", "figures --persons 64 --cameras 6"]),
        ],
    ),
    (
        "Deploy",
        &[
            (
                "export",
                [
                    "--model run/best.safetensors --to timm -o timm.safetensors",
                    "--model run/best.safetensors --to web --batch-size 4 -o web",
                ],
            ),
            ("autotune", ["--model run/best.safetensors", "--clear"]),
            ("completions", ["bash", "zsh"]),
        ],
    ),
    (
        "Diagnose",
        &[
            ("doctor", ["", "--json -"]),
            ("info", ["", "--json -"]),
            ("inspect", ["run/best.safetensors", "demo --json -"]),
            ("selftest", ["--quick", "--match gemm --json report.json"]),
            ("bench", ["--match layernorm", "--steps --quick"]),
        ],
    ),
];

/// Adds the groups to the help of the program, and the examples to the help of its commands.
pub fn add(command: Command) -> Command {
    let mut groups = String::new();
    let mut command = command;
    for (group, commands) in GROUPS {
        groups.push_str(&format!("\n{group}:\n"));
        for (name, examples) in commands {
            // Some commands need a feature of the build.
            let Some(about) = command.find_subcommand(name).and_then(Command::get_about) else { continue };
            groups.push_str(&format!("  {name:<13}{about}\n"));
            let lines =
                examples.map(|example| format!("\n  {}", format!("lat-wgpu {name} {example}").trim_end()));
            let examples = format!("Examples:{}", lines.concat());
            command = command.mut_subcommand(name, |command| {
                let other = command.get_after_help().map(|help| format!("\n\n{help}")).unwrap_or_default();
                command.after_help(examples + &other)
            });
        }
    }
    command.help_template(format!(
        "{{about-with-newline}}\n{{usage-heading}} {{usage}}\n{groups}\nOptions:\n{{options}}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::command;

    #[test]
    fn the_help_has_every_command_once() {
        let mut command = command();
        let help = command.render_help().to_string();
        for name in command.get_subcommands().map(Command::get_name).filter(|name| *name != "help") {
            assert_eq!(help.matches(&format!("\n  {name} ")).count(), 1, "{name} in:\n{help}");
        }
        let names = GROUPS.iter().flat_map(|(_, commands)| commands.iter().map(|(name, _)| *name));
        let all = cfg!(all(feature = "reduce", feature = "serve"));
        assert!(!all || names.clone().all(|name| command.find_subcommand(name).is_some()));
        assert!(
            !all || names.count()
                == command.get_subcommands().filter(|other| other.get_name() != "help").count()
        );
    }

    #[test]
    fn every_command_has_two_examples_that_parse() {
        for subcommand in command().get_subcommands_mut().filter(|command| command.get_name() != "help") {
            let help = subcommand.render_help().to_string();
            let (_, examples) = help.split_once("Examples:\n").unwrap();
            let lines = examples.lines().map_while(|line| line.strip_prefix("  "));
            let lines: Vec<&str> = lines.filter(|line| line.starts_with("lat-wgpu ")).collect();
            assert_eq!(lines.len(), 2, "{help}");
            for line in lines {
                let parsed = command().try_get_matches_from(line.split(' '));
                parsed.unwrap_or_else(|error| panic!("{line}: {error}"));
            }
        }
    }
}
