//! `lat-wgpu completions`: prints a completion script for a shell.

use crate::error::{Error, Result};
use clap::Args;
use std::io::Write;
use std::process::ExitCode;

/// `lat-wgpu completions`.
#[derive(Debug, Args)]
pub struct CompletionsArguments {
    /// Which shell
    #[arg(value_name = "SHELL")]
    pub shell: clap_complete::Shell,
}

pub fn run(arguments: &CompletionsArguments) -> Result<ExitCode> {
    let mut command = super::command();
    let name = command.get_name().to_string();
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut command, name, &mut script);
    let mut out = std::io::stdout().lock();
    out.write_all(&script).and_then(|()| out.flush()).map_err(Error::io("write", "stdout"))?;
    Ok(ExitCode::SUCCESS)
}
