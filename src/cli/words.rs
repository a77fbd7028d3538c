//! The words for the variants of an enum: those that serde gives them, in flags as in configurations and metadata.

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use serde::de::value::Error;
use serde::de::{DeserializeOwned, Deserializer, Error as _, IntoDeserializer, Visitor};
use serde::{Serialize, forward_to_deserialize_any};
use serde_json::json;

/// The word for a value.
pub fn word(value: &impl Serialize) -> String {
    json!(value).as_str().unwrap_or_default().to_string()
}

/// Reads a value of an enum by its word.
pub fn named<T>() -> impl TypedValueParser<Value = T>
where
    T: Serialize + DeserializeOwned + Clone + Send + Sync + 'static,
{
    described(&[])
}

/// The same with a line of help for each word.
pub fn described<T>(help: &[&'static str]) -> impl TypedValueParser<Value = T>
where
    T: Serialize + DeserializeOwned + Clone + Send + Sync + 'static,
{
    let values = words::<T>().into_iter().enumerate();
    let values = values.map(|(place, word)| PossibleValue::new(word).help(help.get(place).copied()));
    PossibleValuesParser::new(values).try_map(|word| read::<T>(&word))
}

/// The words of an enum, as it declares them; further ones that it reads, of earlier versions, are left out.
pub fn words<T: Serialize + DeserializeOwned>() -> Vec<&'static str> {
    let mut words: &[&str] = &[];
    // It fails in any case: what counts are the words that the enum asks for.
    let _ = T::deserialize(Asked(&mut words));
    let is_written = |asked: &&str| read::<T>(asked).is_ok_and(|value| word(&value) == *asked);
    words.iter().copied().filter(is_written).collect()
}

fn read<T: DeserializeOwned>(word: &str) -> Result<T, Error> {
    T::deserialize(word.into_deserializer())
}

/// Notes the variants that an enum can be read from.
struct Asked<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for Asked<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        Err(Error::custom("not an enum"))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Error> {
        *self.0 = variants;
        Err(Error::custom("no value"))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::{Activation, PartLayout};

    #[test]
    fn words_are_those_of_serde_without_earlier_ones() {
        assert_eq!(words::<Activation>(), ["gelu", "quick-gelu"]);
        assert_eq!(words::<PartLayout>(), ["rows", "1"]);
        assert_eq!(word(&Activation::QuickGelu), "quick-gelu");
        assert_eq!(read("quick_gelu"), Ok(Activation::QuickGelu));
        assert!(read::<PartLayout>("2").is_err());
    }
}
