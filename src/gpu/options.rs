//! How an adapter is opened, and how numbers are stored on it.

use serde::{Deserialize, Serialize};

/// How weights and activations are stored on the adapter; sums, norms, losses and what training updates are f32 with either.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 4 bytes a number.
    #[default]
    F32,
    /// 2 bytes a number.
    F16,
}

/// How a [`Context`](super::Context) is opened.
#[derive(Debug, Clone, Default)]
pub struct ContextOptions {
    /// Part of an adapter's name, in any case; `None`: the environment's `LAT_ADAPTER`, else the best one.
    pub adapter: Option<String>,
    /// Ask for WebGPU's default limits and no optional feature, as on the least of all devices.
    pub default_limits: bool,
    /// How recordings store weights and activations.
    pub precision: Precision,
    /// Serve from what `lat-wgpu autotune` kept for the adapter.
    pub tuned: bool,
    /// Record for any WebGPU device, not for this one: `default_limits`, and kernels for GPUs even where this is a CPU.
    pub portable: bool,
    /// With f16, let the adapter's matrix units multiply, once they are validated.
    pub matrix_units: bool,
    /// Keep compiled pipelines in the user's cache folder where the driver gives them out; `None`: on GPUs.
    pub pipeline_cache: Option<bool>,
    /// Have shaders check every index and loop; for drivers in doubt, slower.
    pub checked: bool,
    /// Run every plan in memory full of NaN, each tensor in a place of its own with guard words behind it, and check those
    /// afterwards: finds a kernel, the engine's or a driver's, that reads what nothing wrote or writes what isn't its own. Slow, and takes
    /// the memory that tensors otherwise share. Slices of arenas (parameters, gradients, moments) have no guard words.
    pub guarded: bool,
    /// Failures to be rehearsed, such as `lose@120,refuse@7`: the device is lost before the 120th launch of this process, its
    /// 7th buffer finds no memory; `hang@3` never answers from the third launch on.
    pub rehearse: Option<String>,
    /// Seconds without an answer after which the adapter counts as hung; `None`: a minute, on CPU adapters an hour.
    pub patience: Option<u64>,
}

impl ContextOptions {
    /// Reads `LAT_LIMITS=default`, which tests use to run as on the least of all devices, `LAT_TUNED=0`, which passes over
    /// what was tuned, `LAT_MATRIX_UNITS=0`, which leaves matrix units alone, `LAT_PIPELINE_CACHE=0`, which keeps no compiled
    /// pipelines (`1`: on CPU adapters too), `LAT_PATIENCE=SECONDS`, and what looks for faults: `LAT_CHECKED=1`, `LAT_GUARDED=1` and `LAT_REHEARSE`.
    pub fn from_environment(adapter: Option<String>) -> Self {
        let says = |name: &str, value: &str| std::env::var(name).is_ok_and(|v| v == value);
        let default_limits = says("LAT_LIMITS", "default");
        ContextOptions {
            adapter,
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
