//! `lat-wgpu info`: what adapters there are and what they can do.

use super::args::InfoArguments;
use super::json;
use super::paths::Paths;
use crate::error::Result;
use crate::gpu::{self, AdapterSummary};
use serde_json::json;
use std::process::ExitCode;

pub fn run(arguments: &InfoArguments) -> Result<ExitCode> {
    Paths::new().writes("--json", &arguments.json).check()?;
    let adapters = gpu::adapters();
    if let Some(target) = &arguments.json {
        json::write(target, &adapters.iter().map(as_json).collect())?;
    }
    if adapters.is_empty() {
        return Err(gpu::no_adapter());
    }
    if arguments.json.is_none() {
        for (i, adapter) in adapters.iter().enumerate() {
            let AdapterSummary { name, backend, kind, driver, subgroup: (low, high), .. } = adapter;
            println!("{}{name}", if i == 0 { "* " } else { "  " });
            println!("    {kind}, {backend}, {driver}");
            println!("    features: {}; subgroups of {low} to {high}", adapter.features.join(", "));
            println!(
                "    limits: buffer {}, binding {}, {} storage buffers, workgroup {} bytes and {} invocations",
                mebibytes(adapter.max_buffer),
                mebibytes(adapter.max_binding),
                adapter.max_storage_buffers,
                adapter.max_workgroup_bytes,
                adapter.max_invocations
            );
        }
        println!("* is used unless --adapter NAME or LAT_ADAPTER=NAME says otherwise");
    }
    Ok(ExitCode::SUCCESS)
}

fn as_json(adapter: &AdapterSummary) -> serde_json::Value {
    json!({
        "name": adapter.name,
        "backend": adapter.backend,
        "kind": adapter.kind,
        "driver": adapter.driver,
        "features": adapter.features,
        "subgroup_min": adapter.subgroup.0,
        "subgroup_max": adapter.subgroup.1,
        "max_buffer_bytes": adapter.max_buffer,
        "max_binding_bytes": adapter.max_binding,
        "max_storage_buffers": adapter.max_storage_buffers,
        "max_workgroup_bytes": adapter.max_workgroup_bytes,
        "max_invocations": adapter.max_invocations,
    })
}

/// Bytes as whole MiB.
pub(super) fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}
