//! The reference of commands and keys in `docs/reference` is what the program says of itself.
//!
//! `UPDATE_REFERENCE=1 cargo test --test reference` writes it again.

#![cfg(all(feature = "download", feature = "parquet", feature = "reduce", feature = "serve"))]

use lat_wgpu::cli;
use lat_wgpu::train::config::{Config, Kind, Preset, keys};
use std::fmt::Write;
use std::fs;
use std::path::Path;

/// The head of `cli.md`.
const COMMANDS: &str = "\
# Commands

Generated from the program; `lat-wgpu COMMAND --help` prints the same. The keys of `train` and `ablate` are in
[Training keys](config.md).
";

/// The head of `config.md`.
const KEYS: &str = "\
# Training keys

Generated from the program. `train`, `ablate` and `adapt` read these keys from `--config FILE.toml` and
`--set KEY=VALUE`. Each has a flag of `train`, those of `cluster` one of `adapt`, and a switch also one with `--no-`. The
order is default < preset < file < flags < `--set`. An unknown key is an error. Defaults are those of the preset `paper`.
";

/// Compares a page with what the code says, or writes it.
fn check(page: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference").join(page);
    if std::env::var_os("UPDATE_REFERENCE").is_some() {
        fs::write(&path, text).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap();
    assert!(
        found == text,
        "{page} is outdated: UPDATE_REFERENCE=1 cargo test --test reference writes it again"
    );
}

/// Text as a cell of a table.
fn cell(text: &str) -> String {
    text.replace('\n', " ").replace('|', "\\|").replace('*', "\\*").replace('<', "&lt;")
}

/// The names of an argument with its value: `` `-o`, `--out FILE` ``.
fn names(argument: &clap::Arg) -> String {
    let values: Vec<_> =
        argument.get_value_names().unwrap_or_default().iter().map(|name| name.as_str()).collect();
    let value = match (argument.get_action().takes_values(), argument.is_require_equals_set()) {
        (false, _) => String::new(),
        (true, false) => format!(" {}", values.join(" ")),
        (true, true) => format!("[={}]", values.join(" ")),
    };
    let short = argument.get_short().map(|short| format!("`-{short}`, ")).unwrap_or_default();
    match argument.get_long() {
        Some(long) => format!("{short}`--{long}{}`", value.replace('|', "\\|")),
        None => format!("`{}`", value.trim_start()),
    }
}

/// The words that a value may be, after its help.
fn one_of(words: &[&str]) -> String {
    let words: Vec<_> = words.iter().map(|word| format!("`{word}`")).collect();
    if words.is_empty() { String::new() } else { format!("; one of {}", words.join(", ")) }
}

/// Help of an argument, its possible values and its default.
fn help(argument: &clap::Arg) -> String {
    let mut text = cell(&argument.get_help().map(ToString::to_string).unwrap_or_default());
    let values = argument.get_possible_values();
    if argument.get_action().takes_values() {
        text.push_str(&one_of(&values.iter().map(|value| value.get_name()).collect::<Vec<_>>()));
    }
    let defaults: Vec<_> =
        argument.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    if argument.get_action().takes_values() && !defaults.is_empty() && !argument.is_hide_default_value_set() {
        let _ = write!(text, " [default: {}]", cell(&defaults.join(" ")));
    }
    text
}

#[test]
fn commands() {
    let mut command = cli::command();
    command.build();
    let mut text = COMMANDS.to_string();
    let mut commands = Vec::new();
    for command in command.get_subcommands().filter(|command| command.get_name() != "help") {
        let name = command.get_name().to_string();
        let actions = command.get_subcommands().filter(|action| action.get_name() != "help");
        let actions: Vec<_> =
            actions.map(|action| (format!("{name} {}", action.get_name()), action.clone())).collect();
        if !command.is_subcommand_required_set() {
            commands.push((name, command.clone()));
        }
        commands.extend(actions);
    }
    for (name, mut command) in commands {
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        let usage = command.render_usage().to_string().replace("Usage: ", "");
        let _ = write!(text, "\n## {name}\n\n{about}.\n\n```text\n{}\n```\n", usage.trim());
        let mut heading = None;
        let shown = |argument: &&clap::Arg| argument.get_id() != "help" && !argument.is_hide_set();
        let mut arguments: Vec<_> = command.get_arguments().filter(shown).collect();
        arguments.sort_by_key(|argument| (!argument.is_positional(), argument.get_help_heading().is_some()));
        for argument in arguments {
            let own = argument.get_help_heading().unwrap_or(match argument.is_positional() {
                true => "Arguments",
                false => "Options",
            });
            if heading != Some(own) {
                heading = Some(own);
                let _ = write!(text, "\n| {own} | |\n|---|---|\n");
            }
            let _ = writeln!(text, "| {} | {} |", names(argument), help(argument));
        }
    }
    check("cli.md", &text);
}

#[test]
fn training_keys() {
    let mut text = KEYS.to_string();
    let mut section = None;
    for key in keys() {
        let own = key.name.split_once('.').map_or("", |(section, _)| section);
        if section != Some(own) {
            if !own.is_empty() {
                let _ = write!(text, "\n## {own}\n");
            }
            text.push_str("\n| key | flag | default | meaning |\n|---|---|---|---|\n");
            section = Some(own);
        }
        let default = key.default().map_or(String::new(), |default| format!("`{default}`"));
        let values = match key.kind {
            Kind::Word(words, _) => one_of(&words()),
            _ => String::new(),
        };
        let (name, flag, help) = (key.name, key.flag(), cell(key.help()));
        let _ = writeln!(text, "| `{name}` | `--{flag}` | {default} | {help}{values} |");
    }

    text.push_str("\n## Presets\n\nKeys in which the presets differ:\n\n");
    text.push_str("| key | `paper` | `released-code` | `full` | `strong` |\n|---|---|---|---|---|\n");
    let presets = [Preset::Paper, Preset::ReleasedCode, Preset::Full, Preset::Strong];
    let tables = presets.map(|preset| toml::Table::try_from(Config::preset(preset)).unwrap());
    for key in keys().map(|key| key.name).filter(|key| *key != "preset") {
        let (section, name) = key.split_once('.').unwrap();
        let value = |table: &toml::Table| table.get(section)?.get(name).map(ToString::to_string);
        let values = tables.each_ref().map(|table| value(table).unwrap_or_default());
        if values.iter().any(|value| *value != values[0]) {
            let _ = writeln!(text, "| `{key}` | {} |", values.join(" | "));
        }
    }
    check("config.md", &text);
}
