//! The choices of tuning: which variant of a kernel is quickest on an adapter for a class of shapes.
//!
//! One JSON file for each adapter and driver, in the user's cache folder. The engine knows keys and variants as words
//! alone; kernels give them a meaning and pass over those that they don't know.

use super::adapter::AdapterSummary;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Variants by key.
pub type Choices = BTreeMap<String, String>;

/// The content of a file; adapter and driver are there to be read by people, and compared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct File {
    adapter: String,
    backend: String,
    driver: String,
    choices: Choices,
}

/// The folder that this program may fill and anybody may empty: `LAT_CACHE`, else that of the operating system.
pub(super) fn folder() -> Option<PathBuf> {
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

/// A name of few letters for files about an adapter and its driver. Two long names may meet in one.
pub(super) fn file_name(adapter: &AdapterSummary) -> String {
    let name: String = format!("{} {} {}", adapter.backend, adapter.name, adapter.driver)
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '.' { c.to_ascii_lowercase() } else { '-' })
        .collect();
    name.get(..120).unwrap_or(&name).to_string()
}

/// Where the choices for an adapter are kept; `None` where the system names no cache folder.
pub fn file(adapter: &AdapterSummary) -> Option<PathBuf> {
    Some(folder()?.join("tune").join(file_name(adapter) + ".json"))
}

/// The choices kept for an adapter: none if there is no file, or none that can be used.
pub fn load(adapter: &AdapterSummary) -> Choices {
    let text = file(adapter).and_then(|path| std::fs::read_to_string(path).ok());
    let file = text.and_then(|text| serde_json::from_str::<File>(&text).ok());
    // Two long names may meet in one file name.
    let same = |file: &File| {
        (&file.adapter, &file.backend, &file.driver) == (&adapter.name, &adapter.backend, &adapter.driver)
    };
    file.filter(same).map(|file| file.choices).unwrap_or_default()
}

/// The text of the file that keeps choices for an adapter.
///
/// # Errors
/// Never for choices of words.
pub fn text(adapter: &AdapterSummary, choices: &Choices) -> serde_json::Result<String> {
    let file = File {
        adapter: adapter.name.clone(),
        backend: adapter.backend.clone(),
        driver: adapter.driver.clone(),
        choices: choices.clone(),
    };
    Ok(serde_json::to_string_pretty(&file)? + "\n")
}
