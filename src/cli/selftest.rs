//! `lat-wgpu selftest`: compares every kernel on an adapter with the reference.

use super::arguments::AdapterArgument;
use super::json;
use super::paths::Paths;
use super::progress::Progress;
use super::signals::Signals;
use super::words::named;
use crate::error::Result;
use crate::gpu::Precision;
use crate::selftest::{self, Options, Report};
use clap::Args;
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;

/// `lat-wgpu selftest`.
#[derive(Debug, Args)]
pub struct SelftestArguments {
    /// Only rows whose kernel, variant and shape contain this, such as "gemm nt" [default: all]
    #[arg(long = "match", value_name = "TEXT")]
    pub matching: Option<String>,
    /// Only rows of this storage of activations; f16 is native, packed, and on matrix units [default: both]
    #[arg(long, value_name = "STORAGE", value_parser = named::<Precision>())]
    pub precision: Option<Precision>,
    /// One shape of each kernel in each storage
    #[arg(long)]
    pub quick: bool,
    /// Writes adapter, limits and rows as JSON; - for stdout
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    #[command(flatten)]
    pub adapter: AdapterArgument,
}

pub fn run(arguments: &SelftestArguments) -> Result<ExitCode> {
    Paths::new().writes("--json", &arguments.json).check()?;
    let signals = Signals::listen()?;
    // f16 includes matrix units, where the adapter has them. Each row chooses its own storage.
    let context = arguments.adapter.open(Precision::F16)?;
    let options = Options {
        filter: arguments.matching.as_deref().unwrap_or_default(),
        precision: arguments.precision,
        quick: arguments.quick,
    };
    let progress = Progress::new(Some(signals));
    let report = selftest::run(&context, options, &progress)?;
    progress.finish();
    json::print_or_write(arguments.json.as_deref(), &report.table(), || json!(report))?;
    Ok(code(&report))
}

/// Returns 1 if a row failed.
fn code(report: &Report) -> ExitCode {
    if report.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::selftest::{Adapter, Limits};

    #[test]
    fn a_failed_row_is_exit_code_1() {
        let mut report = Report {
            version: "0",
            adapter: Adapter {
                name: String::new(),
                backend: String::new(),
                kind: "CPU",
                driver: String::new(),
                features: Vec::new(),
                subgroup_min: 1,
                subgroup_max: 1,
                kernels: String::new(),
            },
            limits: Limits {
                max_buffer_bytes: 0,
                max_binding_bytes: 0,
                max_storage_buffers: 0,
                max_workgroup_bytes: 0,
                max_invocations: 0,
            },
            rows: Vec::new(),
            passed: 300,
            failed: 0,
        };
        assert_eq!(code(&report), ExitCode::SUCCESS);
        report.failed = 1;
        assert_eq!(code(&report), ExitCode::FAILURE);
    }
}
