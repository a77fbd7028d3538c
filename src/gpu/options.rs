//! The options of a context.

use serde::{Deserialize, Serialize};

/// The precision of weights and activations. Sums, norms, losses, master weights and moments are f32 with either.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// f32.
    #[default]
    F32,
    /// f16.
    F16,
}

/// Options of a [`Context`](super::Context).
#[derive(Debug, Clone, Default)]
pub struct ContextOptions {
    /// An adapter's index in the list of `lat-wgpu info`, or a part of its name in any case. `None`: `LAT_ADAPTER` of
    /// the environment, or else the best adapter.
    pub adapter: Option<String>,
    /// Number of this process among those of the machine that share the work. Each takes the next one of several
    /// adapters of the same kind, unless `adapter` is an index.
    pub local_rank: usize,
    /// Request WebGPU's default limits and no optional feature.
    pub default_limits: bool,
    /// Precision of weights and activations.
    pub precision: Precision,
    /// Use the choices of `lat-wgpu autotune` for the adapter.
    pub tuned: bool,
    /// Record for any WebGPU device: implies `default_limits`, and kernels for GPUs even on a CPU adapter.
    pub portable: bool,
    /// With f16, use the adapter's matrix units if they pass validation.
    pub matrix_units: bool,
    /// Keep compiled pipelines in the user's cache folder. `None`: only on GPUs.
    pub pipeline_cache: Option<bool>,
    /// Compile shaders with run-time checks of indices and loops. Slower; for debugging.
    pub checked: bool,
    /// Run plans in guarded memory: each tensor has memory of its own, is filled with NaN before the run, and is
    /// followed by guard words that are checked after it. Finds kernels that read unwritten memory or write past the
    /// end of a tensor. Slow, and needs the memory that tensors otherwise share. Slices of arenas (parameters,
    /// gradients, moments) have no guard words.
    pub guarded: bool,
    /// Faults to inject, for tests. `lose@120,refuse@7` loses the device before the 120th dispatch of this process and
    /// reports no memory for its 7th buffer; `hang@3` never answers from the third dispatch on.
    pub rehearse: Option<String>,
    /// Seconds without an answer after which the adapter counts as hung. `None`: 60 on GPUs, 3600 on CPU adapters.
    pub patience: Option<u64>,
}

impl ContextOptions {
    /// Reads options from the environment:
    ///
    /// - `LAT_LIMITS=default` requests WebGPU's default limits and no optional feature.
    /// - `LAT_TUNED=0` ignores the choices of `lat-wgpu autotune`.
    /// - `LAT_MATRIX_UNITS=0` doesn't use matrix units.
    /// - `LAT_PIPELINE_CACHE=0` keeps no compiled pipelines; `1` keeps them on CPU adapters too.
    /// - `LAT_PATIENCE=SECONDS` sets the time after which the adapter counts as hung.
    /// - `LAT_CHECKED=1`, `LAT_GUARDED=1` and `LAT_REHEARSE` find or inject faults.
    pub fn from_environment(adapter: Option<String>) -> Self {
        let says = |name: &str, value: &str| std::env::var(name).is_ok_and(|v| v == value);
        let default_limits = says("LAT_LIMITS", "default");
        ContextOptions {
            adapter,
            local_rank: 0,
            default_limits,
            portable: false,
            precision: Precision::F32,
            tuned: !default_limits && !says("LAT_TUNED", "0"),
            matrix_units: !default_limits && !says("LAT_MATRIX_UNITS", "0"),
            pipeline_cache: ["0", "1"]
                .into_iter()
                .find(|value| says("LAT_PIPELINE_CACHE", value))
                .map(|value| value == "1"),
            checked: says("LAT_CHECKED", "1"),
            guarded: says("LAT_GUARDED", "1"),
            rehearse: std::env::var("LAT_REHEARSE").ok().filter(|text| !text.is_empty()),
            patience: std::env::var("LAT_PATIENCE").ok().and_then(|seconds| seconds.parse().ok()),
        }
    }
}
