//! Exports a network as ONNX.

use crate::checkpoint::{self, Network};
use crate::embeddings::Dtype;
use crate::error::{Error, Result};
use crate::storage::atomic::{publish, temporary_beside};
use std::ffi::OsString;
use std::fs::File;
use std::path::Path;
use std::process::Command;

/// Converts a model file in timm's names to ONNX.
const SCRIPT: &str = include_str!("../../tools/export_onnx.py");

/// Hint if Python or a package is missing.
const PACKAGES: &str = "ONNX needs Python with three packages: pip install onnx numpy safetensors; to use another Python, set \
                        LAT_PYTHON=PATH";

/// Writes a network from pixels to embedding as ONNX. Python converts a temporary model file: `LAT_PYTHON`, or
/// `python3`. Returns the number of tensors.
///
/// # Errors
/// [`Error::Python`] if Python or a package is missing, or the conversion fails; [`Error::Io`] if a file cannot be
/// written.
pub fn export(source: &Path, network: &Network, out: &Path) -> Result<usize> {
    let mut target = temporary_beside(out)?;
    let folder = tempfile::tempdir().map_err(Error::io("create", std::env::temp_dir()))?;
    let [plain, made] = ["model.safetensors", "model.onnx"].map(|name| folder.path().join(name));
    checkpoint::export(source, network, false, Dtype::F32, &plain)?;

    let named = std::env::var_os("LAT_PYTHON").filter(|name| !name.is_empty());
    let python = named.unwrap_or_else(|| OsString::from("python3"));
    let shown = Path::new(&python).display();
    let output = Command::new(&python)
        .args(["-c", SCRIPT])
        .args([&plain, &made])
        .output()
        .map_err(|error| Error::Python(format!("cannot run {shown}: {error}")).hinted(PACKAGES))?;
    if !output.status.success() {
        // The last line of a traceback is the message.
        let stderr = String::from_utf8_lossy(&output.stderr);
        let reason = stderr.trim().lines().last().unwrap_or("no message").trim_start_matches("error: ");
        let error = Error::Python(format!("{shown} (export_onnx.py): {reason}"));
        let lacks_package = reason.contains("No module named") || reason.contains("ImportError");
        return Err(if lacks_package { error.hinted(PACKAGES) } else { error });
    }
    // Copied here, so that a full disk is reported as such and not by a traceback.
    let mut made = File::open(&made).map_err(Error::io("read", &made))?;
    std::io::copy(&mut made, &mut target).map_err(Error::io("write", out))?;
    publish(target, out)?;
    Ok(network.tensors.len())
}
