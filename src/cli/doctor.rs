//! `lat-wgpu doctor`: checks the machine.

use super::json;
use super::paths::Paths;
use crate::error::Result;
use crate::tasks::doctor::{Finding, Machine, State};
use clap::Args;
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;

/// `lat-wgpu doctor`.
#[derive(Debug, Args)]
pub struct DoctorArguments {
    /// Writes the findings as JSON; - for stdout
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// Exit code 1 if there is a problem.
pub fn run(arguments: &DoctorArguments) -> Result<ExitCode> {
    Paths::new().writes("--json", &arguments.json).check()?;
    let findings = Machine::examine().findings();
    json::print_or_write(arguments.json.as_deref(), &text(&findings), || json!(findings))?;
    let has_problem = findings.iter().any(|finding| finding.state == State::Problem);
    Ok(if has_problem { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// A line for each finding, and one for its advice.
fn text(findings: &[Finding]) -> String {
    let mut text = String::new();
    for Finding { check, state, text: facts, advice } in findings {
        let state = match state {
            State::Ok => "ok",
            State::Warning => "warning",
            State::Problem => "problem",
        };
        text.push_str(&format!("{state:<8} {check:<12} {facts}\n"));
        if let Some(advice) = advice {
            text.push_str(&format!("{:<21} → {advice}\n", ""));
        }
    }
    text
}
