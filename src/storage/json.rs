//! Files of JSON, and the comparison of JSON values.

use super::atomic::write_atomically;
use crate::error::Result;
use serde_json::Value;
use std::path::Path;

/// Returns a value as the text of a file.
pub fn text(value: &Value) -> String {
    format!("{value:#}\n")
}

/// Writes a file that appears only when it is complete.
///
/// # Errors
/// [`Error::Io`](crate::error::Error::Io) if it cannot be written.
pub fn write(path: &Path, value: &Value) -> Result<()> {
    write_atomically(path, text(value).as_bytes())
}

/// Describes the innermost differences of two values.
pub fn differences(one: &Value, other: &Value) -> Vec<String> {
    let mut found = Vec::new();
    compare("", one, other, &mut found);
    found
}

/// Compares two values. `_` equals `-` in strings, because earlier versions wrote words with `_`.
pub fn is_same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::String(one), Value::String(other)) => one.replace('_', "-") == other.replace('_', "-"),
        _ => one == other,
    }
}

fn compare(place: &str, one: &Value, other: &Value, found: &mut Vec<String>) {
    match (one, other) {
        (Value::Object(a), Value::Object(b)) => {
            let mut keys: Vec<&String> = a.keys().chain(b.keys()).collect();
            keys.sort();
            keys.dedup();
            for key in keys {
                let place = if place.is_empty() { key.clone() } else { format!("{place}.{key}") };
                let at = |map: &serde_json::Map<String, Value>| map.get(key).cloned().unwrap_or_default();
                compare(&place, &at(a), &at(b), found);
            }
        }
        _ if !is_same(one, other) => found.push(format!("{place}: {one}, not {other}")),
        _ => {}
    }
}
