//! `lat-wgpu`: parse, run, report, exit code.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    silence_wayland();
    lat_wgpu::cli::main()
}

/// Names a place without sockets where the system names none: a graphics driver looks for a display there, and
/// complains on stderr of a variable that isn't set.
fn silence_wayland() {
    let is_named = std::env::var_os("XDG_RUNTIME_DIR").is_some_and(|place| Path::new(&place).is_absolute());
    if cfg!(unix) && !is_named {
        // SAFETY: nothing has run before, so there is no other thread that may read the environment meanwhile.
        unsafe { std::env::set_var("XDG_RUNTIME_DIR", "/dev/null") };
    }
}
