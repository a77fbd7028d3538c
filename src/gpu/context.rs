//! The opened adapter: device, queue, submissions, pipelines and tuning choices.

use super::adapter::{self, AdapterSummary};
use super::buffer::Buffer;
use super::class::AdapterClass;
use super::error::{Error, Result};
use super::faults::Rehearsal;
use super::kernel::Storage;
use super::locked;
use super::options::{ContextOptions, Precision};
use super::pipeline::Pipelines;
use super::selection::{Family, Fragments};
use super::submission::Submissions;
use super::tuning::{self, Choices};
use std::collections::HashMap;
use std::sync::atomic::AtomicU32;
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

/// An opened adapter.
pub struct Context {
    pub(super) device: wgpu::Device,
    pub(super) queue: wgpu::Queue,
    /// The adapter's description.
    pub adapter: AdapterSummary,
    pub(super) limits: wgpu::Limits,
    family: Family,
    class: AdapterClass,
    precision: Precision,
    fragments: Option<Fragments>,
    choices: Mutex<Choices>,
    /// Number of guarded buffers so far; `None` if buffers have no guard words.
    pub(super) guards: Option<AtomicU32>,
    pub(super) rehearsal: Option<Rehearsal>,
    pub(super) submissions: Submissions,
    pub(super) pipelines: Pipelines,
    /// Bound as the inputs and outputs that a dispatch switches off.
    pub(super) unused: [Buffer; 2],
}

impl Context {
    /// Opens the adapter that `options` choose, or else the best adapter.
    ///
    /// # Errors
    /// [`Error::NoAdapter`] or [`Error::UnknownAdapter`] if none matches; [`Error::Failed`] if its driver refuses a
    /// device.
    pub fn open(options: &ContextOptions) -> Result<Context> {
        let found = adapter::enumerate();
        let wanted = options.adapter.clone().or_else(|| std::env::var("LAT_ADAPTER").ok());
        let wanted = wanted.filter(|name| !name.is_empty());
        let Some(adapter) = adapter::choose(&found, wanted.as_deref(), options.local_rank) else {
            let found: Vec<String> = found.iter().map(|adapter| adapter.get_info().name).collect();
            return Err(match wanted {
                Some(wanted) if !found.is_empty() => Error::UnknownAdapter { wanted, found },
                _ => Error::NoAdapter,
            });
        };
        Self::from_adapter(adapter, options)
    }

    fn from_adapter(adapter: &wgpu::Adapter, options: &ContextOptions) -> Result<Context> {
        let summary = adapter::summarise(adapter);
        let rehearsal = options.rehearse.as_deref().map(Rehearsal::parse).transpose()?;
        let whole_adapter = !options.default_limits && !options.portable;
        let (features, limits) = if whole_adapter {
            let wanted =
                adapter::OPTIONAL_FEATURES.iter().fold(wgpu::Features::empty(), |all, (flag, _)| all | *flag);
            (adapter.features() & wanted, adapter.limits())
        } else {
            (wgpu::Features::empty(), wgpu::Limits::default())
        };
        // Only for f16: the bits of f32 results must not depend on matrix units.
        let units = options.precision == Precision::F16 && options.matrix_units && whole_adapter;
        let fragments = summary.fragments().ok().filter(|_| units);
        let (features, experimental) = match fragments {
            None => (features, wgpu::ExperimentalFeatures::disabled()),
            // SAFETY: the only experimental feature is cooperative matrices. Their shader's memory accesses are tested
            // like those of all others, and its results are validated before they are used.
            Some(_) => (features | wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX, unsafe {
                wgpu::ExperimentalFeatures::enabled()
            }),
        };
        let (device, queue) = pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor {
            label: Some("lat-wgpu"),
            required_features: features,
            required_limits: limits.clone(),
            experimental_features: experimental,
            ..Default::default()
        }))
        .map_err(|error| Error::Failed(format!("{}: no device: {error}", summary.name)))?;

        let class = summary.class;
        let patience = options.patience.unwrap_or(if class == AdapterClass::Cpu { 3600 } else { 60 });
        let is_tuned = options.tuned && !options.portable;
        Ok(Context {
            limits,
            family: summary.family(whole_adapter).0,
            class: if options.portable { AdapterClass::Integrated } else { class },
            precision: options.precision,
            fragments,
            choices: Mutex::new(if is_tuned { tuning::load(&summary) } else { Choices::new() }),
            guards: options.guarded.then(AtomicU32::default),
            rehearsal,
            submissions: Submissions::new(&device, Duration::from_secs(patience)),
            pipelines: Pipelines::new(&device, adapter, &summary, options),
            unused: ["unused input", "unused output"].map(|label| Buffer::unused(&device, label)),
            adapter: summary,
            device,
            queue,
        })
    }

    /// Returns the kernel family of this adapter.
    pub fn family(&self) -> Family {
        self.family
    }

    /// Returns the precision of weights and activations.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Returns the storage of weights and activations: with f16, WGSL's own type if the adapter supports it.
    pub fn storage(&self) -> Storage {
        match self.precision {
            Precision::F32 => Storage::F32,
            Precision::F16 if self.supports(Storage::F16) => Storage::F16,
            Precision::F16 => Storage::Packed,
        }
    }

    /// Returns true if kernels can run with weights and activations in `storage`.
    pub fn supports(&self, storage: Storage) -> bool {
        storage != Storage::F16 || self.device.features().contains(wgpu::Features::SHADER_F16)
    }

    /// Returns the fragments of the adapter's matrix units; `None` if it wasn't opened for f16.
    pub fn fragments(&self) -> Option<Fragments> {
        self.fragments
    }

    /// Returns true if `validate` accepts the results of these kernels on this adapter. Calls it once in a process for
    /// each adapter and name.
    pub fn validated(&self, kernels: &str, validate: impl FnOnce() -> bool) -> bool {
        static KNOWN: LazyLock<Mutex<HashMap<(String, String), bool>>> = LazyLock::new(Mutex::default);
        let key = (tuning::file_name(&self.adapter), kernels.to_string());
        let known = locked(&KNOWN).get(&key).copied();
        // Not under the lock, because validation runs kernels.
        let passes = known.unwrap_or_else(validate);
        locked(&KNOWN).insert(key, passes);
        passes
    }

    /// Returns the variant that tuning chose for `key`, if any.
    pub fn choice(&self, key: &str) -> Option<String> {
        locked(&self.choices).get(key).cloned()
    }

    /// Replaces the choices of tuning and returns the old ones.
    pub fn set_choices(&self, choices: Choices) -> Choices {
        std::mem::replace(&mut locked(&self.choices), choices)
    }

    /// Returns the class that kernels are chosen for.
    pub fn class(&self) -> AdapterClass {
        self.class
    }

    /// Returns true if kernels are chosen for a CPU adapter.
    pub fn is_cpu(&self) -> bool {
        self.class == AdapterClass::Cpu
    }

    /// Returns the number of lanes that share a row in row-wise kernels: few where a barrier is expensive.
    pub fn row_lanes(&self) -> u32 {
        self.family.row_lanes()
    }

    /// Returns the bytes of the largest tensor that fits one binding.
    pub fn max_tensor_bytes(&self) -> u64 {
        self.limits.max_storage_buffer_binding_size.min(self.limits.max_buffer_size)
    }

    /// Returns the default limit of device memory, in bytes.
    pub fn default_memory(&self) -> u64 {
        self.adapter.default_memory()
    }

    /// Returns true if plans run in guarded memory.
    pub(super) fn is_guarded(&self) -> bool {
        self.guards.is_some()
    }

    pub(super) fn has_timestamps(&self) -> bool {
        self.device.features().contains(wgpu::Features::TIMESTAMP_QUERY)
    }
}

impl Drop for Context {
    /// Writes compiled pipelines to the cache for the next run.
    fn drop(&mut self) {
        if !std::thread::panicking() && self.check().is_ok() {
            self.pipelines.keep();
        }
    }
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Context({}, {:?})", self.adapter.name, self.family)
    }
}
