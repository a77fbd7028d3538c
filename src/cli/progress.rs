//! The bar that shows how far the work of a command has come.

use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;

/// Hidden unless stderr is a terminal.
pub(super) fn progress_bar(length: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(length);
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {per_sec} {eta} left {msg}");
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
