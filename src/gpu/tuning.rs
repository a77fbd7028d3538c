//! The choices of tuning: the fastest variant of a kernel on an adapter for a class of shapes.
//!
//! Each adapter and driver has a JSON file in the user's cache folder. The engine treats keys and variants as text;
//! kernels interpret them and ignore unknown ones.

use super::adapter::AdapterSummary;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Variants by key.
pub type Choices = BTreeMap<String, String>;

/// The content of a file. Adapter, backend and driver are compared when it is loaded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct ChoicesFile {
    adapter: String,
    backend: String,
    driver: String,
    choices: Choices,
}

/// Returns the cache folder: `LAT_CACHE`, or else a folder in the operating system's cache folder.
pub fn folder() -> Option<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let system = || {
        if cfg!(target_os = "windows") {
            variable("LOCALAPPDATA")
        } else if cfg!(target_os = "macos") {
            variable("HOME").map(|home| home.join("Library/Caches"))
        } else {
            variable("XDG_CACHE_HOME").or_else(|| variable("HOME").map(|home| home.join(".cache")))
        }
    };
    variable("LAT_CACHE").or_else(|| system().map(|cache| cache.join("lat-wgpu")))
}

/// Returns the name for files about an adapter and its driver: at most 120 characters, so long names may collide.
pub(super) fn file_name(adapter: &AdapterSummary) -> String {
    let name: String = format!("{} {} {}", adapter.backend, adapter.name, adapter.driver)
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '.' { c.to_ascii_lowercase() } else { '-' })
        .collect();
    name.get(..120).unwrap_or(&name).to_string()
}

/// Returns the path of an adapter's choices; `None` if there is no cache folder.
pub fn file(adapter: &AdapterSummary) -> Option<PathBuf> {
    Some(folder()?.join("tune").join(file_name(adapter) + ".json"))
}

/// Loads an adapter's choices; empty if the file is missing, invalid or of another adapter.
pub fn load(adapter: &AdapterSummary) -> Choices {
    let text = file(adapter).and_then(|path| std::fs::read_to_string(path).ok());
    let file = text.and_then(|text| serde_json::from_str::<ChoicesFile>(&text).ok());
    // File names of long names may collide.
    let same = |file: &ChoicesFile| {
        (&file.adapter, &file.backend, &file.driver) == (&adapter.name, &adapter.backend, &adapter.driver)
    };
    file.filter(same).map(|file| file.choices).unwrap_or_default()
}

/// Returns the text of the file of an adapter's choices.
///
/// # Errors
/// Never for choices of text.
pub fn text(adapter: &AdapterSummary, choices: &Choices) -> serde_json::Result<String> {
    let file = ChoicesFile {
        adapter: adapter.name.clone(),
        backend: adapter.backend.clone(),
        driver: adapter.driver.clone(),
        choices: choices.clone(),
    };
    Ok(serde_json::to_string_pretty(&file)? + "\n")
}
