//! `lat-wgpu info`: lists adapters, their features and limits.

use super::json;
use super::paths::Paths;
use super::words::word;
use crate::error::Result;
use crate::gpu::{self, AdapterSummary, Context, ContextOptions, KernelChoice, MatrixUnit, Precision};
use crate::kernels;
use clap::Args;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

/// `lat-wgpu info`.
#[derive(Debug, Args)]
pub struct InfoArguments {
    /// Writes the list as JSON; - for stdout
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

pub fn run(arguments: &InfoArguments) -> Result<ExitCode> {
    Paths::new().writes("--json", &arguments.json).check()?;
    let (adapters, options) = (gpu::adapters(), ContextOptions::from_environment(None));
    if let Some(target) = &arguments.json {
        json::write(target, &adapters.iter().map(|adapter| as_json(adapter, &options)).collect())?;
    }
    if adapters.is_empty() {
        return Err(gpu::Error::NoAdapter.into());
    }
    if arguments.json.is_none() {
        for (i, adapter) in adapters.iter().enumerate() {
            print(&format!("{} {i}:", if i == 0 { "*" } else { " " }), adapter, &options);
        }
        println!(
            "* is the default; --adapter or LAT_ADAPTER selects another one by its index or a part of its name"
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn print(mark: &str, adapter: &AdapterSummary, options: &ContextOptions) {
    let AdapterSummary { name, backend, kind, driver, subgroup: (low, high), .. } = adapter;
    println!("{mark} {name}");
    println!("    {kind}, {backend}, {driver}");
    println!("    features: {}; subgroups of {low} to {high}", adapter.features.join(", "));
    let units: Vec<String> = adapter.matrix_units.iter().map(MatrixUnit::to_string).collect();
    println!("    matrix units: {}", if units.is_empty() { "none".to_string() } else { units.join(", ") });
    println!(
        "    memory: {}, largest allocation {}",
        adapter.memory.map_or("unknown".to_string(), mebibytes),
        mebibytes(adapter.largest_allocation)
    );
    println!(
        "    limits: buffer {}, binding {}, {} storage buffers, workgroup {} bytes and {} invocations",
        mebibytes(adapter.max_buffer),
        mebibytes(adapter.max_binding),
        adapter.max_storage_buffers,
        adapter.max_workgroup_bytes,
        adapter.max_invocations
    );
    if let Some(compiler) = adapter.shader_compiler {
        println!("    shader compiler: {compiler}");
    }
    let (state, file, bytes) = pipeline_cache(adapter, options);
    match (file, bytes) {
        (Some(file), Some(bytes)) => println!("    pipeline cache: {} in {file}", mebibytes(bytes)),
        (Some(file), None) => println!("    pipeline cache: {state}, {file}"),
        (None, _) => println!("    pipeline cache: {state}"),
    }
    for choice in adapter.kernels(options) {
        let KernelChoice { kernels, precision, family, reason } = choice;
        println!("    {} {kernels}: {family} ({reason})", word(&precision));
    }
    match validated(adapter, options) {
        Err(error) => println!("    matrix units, not validated: {error}"),
        Ok(validated) => {
            for (passes, verdict) in [(true, "validated"), (false, "failed validation, not used")] {
                let names = validated.iter().filter(|(_, found)| *found == passes).map(|(name, _)| &**name);
                let names = names.collect::<Vec<_>>().join("; ");
                if !names.is_empty() {
                    println!("    matrix units, {verdict}: {names}");
                }
            }
        }
    }
}

/// Validates the kernels for the adapter's matrix units. Empty if it has none.
fn validated(adapter: &AdapterSummary, options: &ContextOptions) -> Result<Vec<(String, bool)>> {
    if adapter.matrix_units.is_empty() {
        return Ok(Vec::new());
    }
    let (adapter, precision) = (Some(adapter.name.clone()), Precision::F16);
    let context = Context::open(&ContextOptions { adapter, precision, ..options.clone() })?;
    Ok(kernels::on_matrix_units(&context))
}

/// The state of the pipeline cache, its file and its bytes.
fn pipeline_cache(
    adapter: &AdapterSummary,
    options: &ContextOptions,
) -> (&'static str, Option<String>, Option<u64>) {
    match adapter.pipeline_cache(options) {
        Err(reason) => (reason, None, None),
        Ok(file) => {
            let state = if file.bytes.is_some() { "kept" } else { "empty" };
            (state, Some(file.path.display().to_string()), file.bytes)
        }
    }
}

fn as_json(adapter: &AdapterSummary, options: &ContextOptions) -> serde_json::Value {
    let units = adapter.matrix_units.iter().map(|unit| {
        let MatrixUnit { m, n, k, operands, sums } = unit;
        json!({"m": m, "n": n, "k": k, "operands": operands, "sums": sums})
    });
    let families = adapter.kernels(options).into_iter().map(|choice| {
        let KernelChoice { kernels, precision, family, reason } = choice;
        json!({"kernels": kernels, "precision": precision, "family": family, "reason": reason})
    });
    let (state, file, bytes) = pipeline_cache(adapter, options);
    json!({
        "name": adapter.name,
        "backend": adapter.backend,
        "kind": adapter.kind,
        "class": adapter.class.to_string(),
        "driver": adapter.driver,
        "features": adapter.features,
        "subgroup_min": adapter.subgroup.0,
        "subgroup_max": adapter.subgroup.1,
        "matrix_units": units.collect::<Vec<_>>(),
        "memory_bytes": adapter.memory,
        "largest_allocation_bytes": adapter.largest_allocation,
        "max_buffer_bytes": adapter.max_buffer,
        "max_binding_bytes": adapter.max_binding,
        "max_storage_buffers": adapter.max_storage_buffers,
        "max_workgroup_bytes": adapter.max_workgroup_bytes,
        "max_invocations": adapter.max_invocations,
        "shader_compiler": adapter.shader_compiler,
        "pipeline_cache": {"state": state, "file": file, "bytes": bytes},
        "default_memory_bytes": adapter.default_memory(),
        "families": families.collect::<Vec<_>>(),
        "validated": validated(adapter, options).ok().map(|found| found.into_iter().collect::<BTreeMap<_, _>>()),
    })
}

/// Formats bytes as MiB.
fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}
