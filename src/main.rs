//! `lat-wgpu`: parse, run, report, exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    lat_wgpu::cli::main()
}
