//! Writes `--json FILE`: one JSON value, to stdout if FILE is `-`.

use crate::error::{Error, Result};
use crate::storage::json;
use std::io::Write;
use std::path::Path;

/// Writes a value and a newline.
pub fn write(target: &Path, value: &serde_json::Value) -> Result<()> {
    if target == Path::new("-") {
        let mut out = std::io::stdout().lock();
        out.write_all(json::text(value).as_bytes())
            .and_then(|()| out.flush())
            .map_err(Error::io("write", "stdout"))
    } else {
        json::write(target, value)
    }
}

/// Prints a text, and writes JSON if `target` is set. If the JSON goes to stdout, the text is not printed.
pub fn print_or_write(
    target: Option<&Path>,
    text: &str,
    value: impl FnOnce() -> serde_json::Value,
) -> Result<()> {
    if target != Some(Path::new("-")) {
        // A closed pager is no failure.
        let _ = std::io::stdout().lock().write_all(text.as_bytes());
    }
    target.map_or(Ok(()), |target| write(target, &value()))
}
