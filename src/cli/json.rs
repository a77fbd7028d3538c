//! `--json FILE`, the same everywhere: one JSON value, to stdout if FILE is `-`.

use crate::data::files::write_atomically;
use crate::error::{Error, Result};
use std::io::Write;
use std::path::Path;

/// Writes a value, with a newline at its end.
pub fn write(target: &Path, value: &serde_json::Value) -> Result<()> {
    let text = format!("{value:#}\n");
    if target == Path::new("-") {
        let mut out = std::io::stdout().lock();
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Error::io("write", "stdout"))
    } else {
        write_atomically(target, text.as_bytes())
    }
}
