//! `lat-wgpu completions`: what a shell sources to complete commands and flags.

use super::args::{Arguments, CompletionsArguments};
use crate::error::{Error, Result};
use clap::CommandFactory;
use std::io::Write;
use std::process::ExitCode;

pub fn run(arguments: &CompletionsArguments) -> Result<ExitCode> {
    let mut command = Arguments::command();
    let name = command.get_name().to_string();
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut command, name, &mut script);
    let mut out = std::io::stdout().lock();
    out.write_all(&script).and_then(|()| out.flush()).map_err(Error::io("write", "stdout"))?;
    Ok(ExitCode::SUCCESS)
}
