//! Words of flags and messages. Names of enum variants are serde's, as in configurations and metadata.

pub use crate::train::config::word;
use crate::train::config::{read, words};
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Parses a value of an enum by its name.
pub fn named<T>() -> impl TypedValueParser<Value = T>
where
    T: Serialize + DeserializeOwned + Clone + Send + Sync + 'static,
{
    described(&[])
}

/// Parses a value of an enum by its name. `help` has a line for each name.
pub fn described<T>(help: &[&'static str]) -> impl TypedValueParser<Value = T>
where
    T: Serialize + DeserializeOwned + Clone + Send + Sync + 'static,
{
    let values = words::<T>().into_iter().enumerate();
    let values = values.map(|(i, word)| PossibleValue::new(word).help(help.get(i).copied()));
    PossibleValuesParser::new(values).try_map(|word| read::<T>(&word))
}

/// Writes a count with its noun: 1 image, 2 images.
pub fn counted(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}
