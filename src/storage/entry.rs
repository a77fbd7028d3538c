//! The `lat_wgpu` entry of a file's metadata: settings of the network and of its images, and changes to the rows.

use super::json::is_same;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Key of the entry.
pub const KEY: &str = "lat_wgpu";

/// The entry as its file has it. Text that isn't JSON has no values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    text: String,
    value: Value,
}

impl Entry {
    /// Parses the text of an entry.
    pub fn new(text: String) -> Entry {
        let value = serde_json::from_str(&text).unwrap_or_default();
        Entry { text, value }
    }

    /// Sets the value of `key`.
    pub fn with(self, key: &str, value: Value) -> Entry {
        let mut map = match self.value {
            Value::Object(map) => map,
            _ => Map::new(),
        };
        map.insert(key.to_string(), value);
        let value = Value::Object(map);
        Entry { text: value.to_string(), value }
    }

    /// Text to store.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The parsed entry; `Null` if the text isn't JSON.
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// Returns whether rows are means of an image's and its mirror image's embeddings.
    pub fn is_flipped(&self) -> bool {
        self.value["flip"] == Value::Bool(true)
    }

    /// Returns the first setting of network, images or projection that both entries have and that differs, with both
    /// values.
    pub fn difference(&self, other: &Entry) -> Option<(String, [Value; 2])> {
        let mut others = other.leaves();
        // Settings of images come first: their size decides the grid.
        self.leaves().into_iter().rev().find_map(|(key, own)| {
            let other = others.remove(&key).filter(|other| !is_same(other, &own))?;
            Some((key, [own, other]))
        })
    }

    fn leaves(&self) -> BTreeMap<String, Value> {
        let mut leaves = BTreeMap::new();
        for key in ["model", "preprocess", "reduction"] {
            collect_leaves(key, &self.value[key], &mut leaves);
        }
        leaves
    }
}

/// Collects the values inside `value` that aren't objects, by their paths with dots.
fn collect_leaves(path: &str, value: &Value, leaves: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                collect_leaves(&format!("{path}.{key}"), value, leaves);
            }
        }
        // Not set.
        Value::Null => {}
        leaf => {
            leaves.insert(path.to_string(), leaf.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_compared_where_both_have_them() {
        let difference =
            |one: &str, other: &str| Entry::new(one.to_string()).difference(&Entry::new(other.to_string()));
        let own = r#"{"format":1,"model":{"heads":2,"gelt":{"lambda":0.8}},"preprocess":{"size":[32,16]}}"#;
        for same in [own, "{}", "no JSON", r#"{"format":9,"model":{"new":1,"heads":null}}"#] {
            assert_eq!(difference(same, own), None, "{same}");
        }
        let (key, values) =
            difference(r#"{"model":{"heads":2,"gelt":{"lambda":8}},"preprocess":{}}"#, own).unwrap();
        assert_eq!((key.as_str(), values), ("model.gelt.lambda", [8.into(), 0.8.into()]));
        let (key, _) = difference(r#"{"preprocess":{"size":[32,32]}}"#, own).unwrap();
        assert_eq!(key, "preprocess.size");
    }
}
