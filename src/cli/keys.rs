//! Flags for the keys of the configuration: names, values, help and completions come from the keys.

use crate::checkpoint::Settings;
use crate::datasets::LoadOptions;
use crate::error::Result;
use crate::train::config::{Config, Key, Kind, Layers, keys};
use clap::builder::{PossibleValuesParser, ValueParser};
use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, ValueHint};

/// Headings of the help of a command that trains, after that of its own flags.
const HEADINGS: [&str; 9] = [
    "Clusters",
    "Data",
    "Optimization",
    "Schedule",
    "Loss",
    "Validation and output",
    "Device",
    "Part classifiers",
    "Network",
];

/// Returns the index of the heading of a key's flag; `None` for the command's own options.
fn heading(key: &Key) -> Option<usize> {
    let heading = match key.name.split_once('.')? {
        (_, "backbone" | "dir") => return None,
        (_, "save_every" | "eval_every" | "log" | "best" | "refit" | "val_fraction" | "val_persons") => {
            "Validation and output"
        }
        ("model", _) => "Network",
        ("data", _) => "Data",
        ("optim", _) => "Optimization",
        ("schedule", _) => "Schedule",
        ("head", _) => "Part classifiers",
        ("loss", _) => "Loss",
        ("cluster", _) => "Clusters",
        _ => "Device",
    };
    HEADINGS.iter().position(|known| *known == heading)
}

/// Returns the flag of a key. A switch has a second flag that disables it; the later one wins.
fn args(key: &'static Key, heading: Option<&'static str>, default: Option<String>) -> Vec<Arg> {
    let flag = key.flag();
    let arg = Arg::new(key.name).long(flag.clone()).help_heading(heading);
    if let Kind::Switch = key.kind {
        let off = format!("no-{flag}");
        let both = [key.name.to_string(), off.clone()];
        let switch =
            |arg: Arg| arg.action(ArgAction::SetTrue).overrides_with_all(both.clone()).help_heading(heading);
        let mark = if default.is_some_and(|default| default == "true") { " [default]" } else { "" };
        let on = arg.help(format!("{}{mark}", key.help()));
        let off = Arg::new(off.clone()).long(off.clone()).help(format!("Disables --{flag}"));
        return vec![switch(on), switch(off)];
    }
    let default = default.map_or(String::new(), |default| format!(" [default: {default}]"));
    let (name, parser) = match key.kind {
        Kind::Text(name) => (name, ValueParser::string()),
        Kind::Word(words, _) => ("NAME", PossibleValuesParser::new(words()).into()),
        Kind::Size => ("HxW", value_parser(key)),
        Kind::Parts => ("rows|N", value_parser(key)),
        Kind::ClusterRadius => ("auto|F", value_parser(key)),
        Kind::Number(_) => ("F", value_parser(key)),
        _ => ("N", value_parser(key)),
    };
    let hint = match name {
        "FILE" => ValueHint::FilePath,
        "DIR" => ValueHint::AnyPath,
        _ => ValueHint::Unknown,
    };
    let arg = arg.value_name(name).value_parser(parser).value_hint(hint).overrides_with(key.name);
    vec![arg.help(format!("{}{default}", key.help()))]
}

/// Checks a value as the configuration does, so that the error names the flag.
fn value_parser(key: &'static Key) -> ValueParser {
    ValueParser::new(move |text: &str| key.parse(text))
}

/// Returns the keys that flags set, with their values as typed.
fn given(matches: &ArgMatches, has: fn(&str) -> bool) -> Vec<(String, String)> {
    let value = |key: &Key| match key.kind {
        Kind::Switch => {
            let [on, off] = [key.name, &format!("no-{}", key.flag())].map(|id| matches.get_flag(id));
            (on || off).then(|| on.to_string())
        }
        _ => Some(matches.get_raw(key.name)?.next_back()?.to_str()?.to_string()),
    };
    keys().filter(|key| has(key.name)).filter_map(|key| Some((key.name.to_string(), value(key)?))).collect()
}

/// A command that trains: its own arguments, and the layers of the configuration from `--config`, `--set` and flags.
#[derive(Debug)]
pub struct Training<T> {
    pub arguments: T,
    pub layers: Layers,
}

/// The own arguments of a command that trains, among them `config` and `set`.
pub trait Trains: Args {
    /// Keys with required flags.
    const REQUIRED: &'static [&'static str] = &[];

    /// True if the command has a flag for this key.
    fn has(key: &str) -> bool;

    /// The value of a key without its flag, if it has one.
    fn default(key: &Key) -> Option<String> {
        key.default()
    }
}

impl<T: Trains> FromArgMatches for Training<T> {
    fn from_arg_matches(matches: &ArgMatches) -> std::result::Result<Self, clap::Error> {
        let layers = Layers {
            base: Vec::new(),
            file: matches.get_one("config").cloned(),
            flags: given(matches, T::has),
            set: matches.get_many("set").into_iter().flatten().cloned().collect(),
        };
        Ok(Training { arguments: T::from_arg_matches(matches)?, layers })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> std::result::Result<(), clap::Error> {
        Self::from_arg_matches(matches).map(|given| *self = given)
    }
}

impl<T: Trains> Args for Training<T> {
    fn augment_args(command: Command) -> Command {
        let mut keys: Vec<&Key> = keys().filter(|key| T::has(key.name)).collect();
        keys.sort_by_key(|key| heading(key));
        let flags = keys
            .into_iter()
            .flat_map(|key| args(key, heading(key).map(|place| HEADINGS[place]), T::default(key)));
        let command = T::augment_args(command).args(flags);
        T::REQUIRED.iter().fold(command, |command, key| command.mut_arg(key, |arg| arg.required(true)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

/// A group of flags for keys, read into a struct of the library.
#[derive(Debug)]
pub struct Group<T>(T);

/// Settings of the network: a flag wins over the model's metadata, which wins over the default.
pub type NetworkArguments = Group<Settings>;

/// The data set, and which of its splits.
pub type SetArguments = Group<LoadOptions>;

/// Values that a [`Group`] reads.
trait FromKeys: Sized {
    const HEADING: &'static str;

    fn has(key: &str) -> bool;

    fn read(flags: Vec<(String, String)>) -> Result<Self>;
}

impl FromKeys for Settings {
    const HEADING: &'static str = "Network (defaults: those of the model's metadata, else as shown)";

    fn has(key: &str) -> bool {
        key.starts_with("model.")
            && ![
                "model.backbone",
                "model.embed_tokens",
                "model.drop_path",
                "model.camera_embedding",
                "model.jigsaw",
            ]
            .contains(&key)
    }

    fn read(flags: Vec<(String, String)>) -> Result<Settings> {
        let config = Config::resolve(&Layers { flags: flags.clone(), ..Layers::default() })?;
        let is_given = |name: &str| flags.iter().any(|(key, _)| key == name);
        let Settings { lambda, lambda_on, tokens, parts, .. } = config.settings();
        Ok(Settings {
            lambda: lambda.filter(|_| is_given("model.lambda")),
            lambda_on: lambda_on.filter(|_| is_given("model.lambda_on")),
            tokens: tokens.filter(|_| is_given("model.tokens")),
            parts: parts.filter(|_| is_given("model.parts")),
            // The model's own.
            head_embed: None,
            no_cameras: false,
            no_jigsaw: false,
            no_statistics: false,
            ..config.settings()
        })
    }
}

impl Group<Settings> {
    /// Reads the group among the flags of a command that trains.
    ///
    /// # Errors
    /// Those of the configuration.
    pub fn among(flags: &[(String, String)]) -> Result<Self> {
        Settings::read(flags.iter().filter(|(key, _)| Settings::has(key)).cloned().collect()).map(Group)
    }

    /// True if it has a flag for this key.
    pub fn has(key: &str) -> bool {
        Settings::has(key)
    }

    /// Returns the settings for loading a checkpoint.
    pub fn settings(&self) -> Settings {
        self.0.clone()
    }
}

impl FromKeys for LoadOptions {
    const HEADING: &'static str = "Data set";

    fn has(key: &str) -> bool {
        let keys = ["layout", "boxes", "cuhk03", "split", "split_seed", "follow_links"];
        key.strip_prefix("data.").is_some_and(|name| keys.contains(&name))
    }

    fn read(flags: Vec<(String, String)>) -> Result<LoadOptions> {
        Ok(Config::resolve(&Layers { flags, ..Layers::default() })?.data.load_options())
    }
}

impl Group<LoadOptions> {
    /// Returns the options for loading a data set.
    pub fn options(&self) -> LoadOptions {
        self.0
    }

    /// True if it has a flag for this key.
    pub fn has(key: &str) -> bool {
        LoadOptions::has(key)
    }
}

impl<T: FromKeys> FromArgMatches for Group<T> {
    fn from_arg_matches(matches: &ArgMatches) -> std::result::Result<Self, clap::Error> {
        let read = T::read(given(matches, T::has));
        read.map(Group).map_err(|error| clap::Error::raw(ErrorKind::ValueValidation, format!("{error}\n")))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> std::result::Result<(), clap::Error> {
        Self::from_arg_matches(matches).map(|given| *self = given)
    }
}

impl<T: FromKeys> Args for Group<T> {
    fn augment_args(command: Command) -> Command {
        let keys = keys().filter(|key| T::has(key.name));
        command.args(keys.flat_map(|key| args(key, Some(T::HEADING), key.default())))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

#[cfg(test)]
mod tests {
    use crate::cli::{Arguments, Command, command};
    use clap::FromArgMatches;

    fn parse(line: &str) -> Result<Command, clap::Error> {
        let matches = command().try_get_matches_from(line.split(' '))?;
        Arguments::from_arg_matches(&matches).map(|arguments| arguments.command)
    }

    #[test]
    fn the_later_of_a_switch_and_its_opposite_wins() {
        for (flags, value) in [
            ("--shuffle --no-shuffle", Some("false")),
            ("--no-shuffle --shuffle", Some("true")),
            ("--no-shuffle --shuffle --no-shuffle --no-shuffle", Some("false")),
            ("--lr 1 --lr 2", None),
        ] {
            let Ok(Command::Train(train)) = parse(&format!("lat-wgpu train --dry-run {flags}")) else {
                panic!("{flags}")
            };
            let found = train.layers.flags.iter().find(|(key, _)| key == "data.shuffle");
            assert_eq!(found.map(|(_, value)| value.as_str()), value, "{flags}");
        }
    }

    #[test]
    fn a_wrong_value_names_its_flag() {
        for (flag, value) in [("normalize", "foo"), ("size", "0x1"), ("ln-eps", "0"), ("lambda", "nan")] {
            for line in [format!("train --out run --{flag} {value}"), format!("inspect m --{flag} {value}")] {
                let error = parse(&format!("lat-wgpu {line}")).unwrap_err().to_string();
                assert!(error.contains(&format!("invalid value '{value}' for '--{flag} <")), "{error}");
            }
        }
        assert!(parse("lat-wgpu ablate --backbone b").unwrap_err().to_string().contains("--data <DIR>"));
    }

    #[test]
    fn flags_of_the_network_leave_the_rest_to_the_model() {
        let Ok(Command::Inspect(inspect)) = parse("lat-wgpu inspect m --heads 2 --lambda-on local") else {
            panic!()
        };
        let settings = inspect.network.settings();
        assert_eq!((settings.heads, settings.lambda, settings.tokens), (Some(2), None, None));
        assert!(settings.lambda_on.is_some());
    }
}
