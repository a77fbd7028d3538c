//! Names of enum variants: serde's names, in flags, configurations and metadata.

use serde::de::value::Error;
use serde::de::{DeserializeOwned, Deserializer, Error as _, IntoDeserializer, Visitor};
use serde::{Serialize, forward_to_deserialize_any};
use serde_json::json;

/// Returns the name of a value.
pub fn word(value: &impl Serialize) -> String {
    json!(value).as_str().unwrap_or_default().to_string()
}

/// Returns the names of an enum's variants in the order of declaration, without the aliases of earlier versions.
pub fn words<T: Serialize + DeserializeOwned>() -> Vec<&'static str> {
    let mut words: &[&str] = &[];
    // This always fails; it records the names that the enum requests.
    let _ = T::deserialize(Recorder(&mut words));
    let is_name = |name: &&str| read::<T>(name).is_ok_and(|value| word(&value) == *name);
    words.iter().copied().filter(is_name).collect()
}

/// Reads a value by its name.
///
/// # Errors
/// If it is no name of the enum.
pub fn read<T: DeserializeOwned>(word: &str) -> Result<T, Error> {
    T::deserialize(word.into_deserializer())
}

/// A deserializer that records the names of an enum's variants.
struct Recorder<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for Recorder<'_> {
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
    use crate::shape::{Activation, PartTokens};

    #[test]
    fn words_are_the_names_of_serde_without_aliases() {
        assert_eq!(words::<Activation>(), ["gelu", "quick-gelu"]);
        assert_eq!(words::<PartTokens>(), ["gelt", "local", "global"]);
        assert_eq!(word(&Activation::QuickGelu), "quick-gelu");
        assert_eq!(read("quick_gelu"), Ok(Activation::QuickGelu));
        assert!(read::<PartTokens>("2").is_err());
    }
}
