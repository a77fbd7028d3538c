//! The opened adapter: device, queue, limits, pipelines, and what went wrong on it.

use super::adapter::{self, AdapterClass, AdapterSummary, Family};
use super::cache::PipelineCache;
use super::choices::{self, Choices};
use super::error::{Error, Result};
use super::faults::{Fault, Faults, Rehearsal, Running};
use super::guard::guarded;
use super::kernel::{Access, Storage, assemble};
use super::options::{ContextOptions, Precision};
use super::recorder::Dispatch;
use super::{Constants, WORD};
use rayon::prelude::*;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Words that a guarded context has behind each of its tensors: more than the widest row of a tile.
pub(super) const GUARD_WORDS: usize = 256;
/// A guard word behind a buffer: NaN as a number and as two halves. Its last bits tell buffers apart, so that a word copied from
/// guard to guard shows.
const GUARD: u32 = 0x7fc8_7e00;
/// Those last bits.
pub(super) const GUARD_NUMBERS: u32 = 0x1ff;

/// A device buffer of whole words that outlives plans, or a slice of one: weights, inputs, outputs.
#[derive(Debug, Clone)]
pub struct Buffer {
    pub(super) raw: wgpu::Buffer,
    /// Where it begins in `raw`, in words.
    pub(super) start: usize,
    /// Words that a kernel can reach: `words`, and guard words behind them if there are some.
    pub(super) bound: usize,
    /// What those hold, if a guarded context made them: plans check that.
    pub(super) guard: Option<u32>,
    /// Length in 4-byte words.
    pub words: usize,
    /// Name in messages.
    pub label: Arc<str>,
}

impl Buffer {
    /// Words that slices are aligned to: WebGPU's 256 bytes for binding offsets.
    pub const SLICE_ALIGN: usize = 64;

    /// `words` words from `start` on, as a buffer of its own; shares the memory.
    ///
    /// # Panics
    /// If they aren't aligned to [`Self::SLICE_ALIGN`] words or reach past the end.
    pub fn slice(&self, label: &str, start: usize, words: usize) -> Buffer {
        assert!(
            start.is_multiple_of(Self::SLICE_ALIGN),
            "{label}: slice of {} begins at {start}",
            self.label
        );
        // A binding has at least four words; alignment leaves room for them.
        let bound = words.max(4);
        assert!(start + bound <= self.words.max(4), "{label}: slice past the end of {}", self.label);
        let (raw, start) = (self.raw.clone(), self.start + start);
        Buffer { raw, start, bound, guard: None, words, label: label.into() }
    }

    /// The same of which the first `words` belong to a tensor and the next ones are its guard, of this word.
    pub(super) fn with_guard(self, words: usize, word: u32) -> Buffer {
        Buffer { words, bound: words + GUARD_WORDS, guard: Some(word), ..self }
    }

    /// The words behind a buffer with a guard.
    pub(super) fn behind(&self) -> Buffer {
        let start = self.start + self.words;
        Buffer { start, words: GUARD_WORDS, bound: GUARD_WORDS, guard: None, ..self.clone() }
    }
}

pub(super) struct Pipeline {
    pub raw: wgpu::ComputePipeline,
    pub layout: wgpu::BindGroupLayout,
}

/// How long a callback may be on its way after the work that it waits for is done.
const CALLBACK_PATIENCE: Duration = Duration::from_secs(10);

type PipelineKey = (&'static str, &'static str, Constants, Storage, Vec<(&'static str, u64)>);

/// An opened adapter.
pub struct Context {
    pub(super) device: wgpu::Device,
    pub(super) queue: wgpu::Queue,
    /// What was opened.
    pub adapter: AdapterSummary,
    limits: wgpu::Limits,
    family: Family,
    precision: Precision,
    class: AdapterClass,
    checked: bool,
    /// Side of the fragments that its matrix units multiply.
    fragments: Option<u32>,
    fragments_proved: OnceLock<bool>,
    guarded: bool,
    /// Number of guarded buffers made so far.
    guards: AtomicU32,
    pipelines: Mutex<HashMap<PipelineKey, Arc<Pipeline>>>,
    pipeline_cache: Option<PipelineCache>,
    choices: Mutex<Choices>,
    faults: Arc<Mutex<Faults>>,
    running: Mutex<Running>,
    rehearsal: Option<Rehearsal>,
    patience: Duration,
    /// Stand in for the inputs and outputs that a launch's switches leave untouched.
    pub(super) unused: [Buffer; 2],
}

impl Context {
    /// Opens the adapter whose name contains what was asked for, else the best one.
    ///
    /// # Errors
    /// [`Error::NoAdapter`] and [`Error::UnknownAdapter`] if there is none; [`Error::Failed`] if its driver refuses a device.
    pub fn open(options: &ContextOptions) -> Result<Context> {
        let found = adapter::enumerate();
        let wanted = options.adapter.clone().or_else(|| std::env::var("LAT_ADAPTER").ok());
        let wanted = wanted.filter(|name| !name.is_empty());
        let adapter = match &wanted {
            None => found.first(),
            Some(name) => {
                let name = name.to_lowercase();
                found.iter().find(|adapter| adapter.get_info().name.to_lowercase().contains(&name))
            }
        };
        let Some(adapter) = adapter else {
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
        // Halves alone: f32 has to come out the same everywhere.
        let units = options.precision == Precision::F16 && options.matrix_units && whole_adapter;
        let fragments = summary.fragments().ok().filter(|_| units);
        let (features, experimental) = match fragments {
            None => (features, wgpu::ExperimentalFeatures::disabled()),
            // SAFETY: the one experimental feature is that of matrix units; what its shader reads and writes is checked
            // like that of all others, and its results are proved before they are used.
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

        let faults: Arc<Mutex<Faults>> = Arc::default();
        let record = faults.clone();
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            locked(&record).push(error.into());
        }));
        let record = faults.clone();
        device.set_device_lost_callback(move |reason, message| {
            // Dropping the device on purpose isn't a fault.
            if !matches!(reason, wgpu::DeviceLostReason::Destroyed) {
                locked(&record).push(Fault::Lost(message));
            }
        });

        let family = summary.family(whole_adapter).0;
        let pipeline_cache = summary.pipeline_cache(options).ok();
        let pipeline_cache =
            pipeline_cache.map(|file| PipelineCache::open(&device, &adapter.get_info(), file.path));
        let choices =
            if options.tuned && !options.portable { choices::load(&summary) } else { Choices::new() };
        let class = summary.class;
        let patience = if class == AdapterClass::Cpu { 3600 } else { 60 };
        Ok(Context {
            running: Mutex::default(),
            rehearsal,
            patience: Duration::from_secs(options.patience.unwrap_or(patience)),
            unused: ["unused input", "unused output"]
                .map(|label| whole(allocate(&device, label, 4 * WORD, STORAGE), label, 4 * WORD)),
            choices: Mutex::new(choices),
            adapter: summary,
            limits,
            family,
            precision: options.precision,
            class: if options.portable { AdapterClass::Integrated } else { class },
            checked: options.checked,
            guarded: options.guarded,
            guards: AtomicU32::new(0),
            fragments,
            fragments_proved: OnceLock::new(),
            pipelines: Mutex::default(),
            pipeline_cache,
            faults,
            device,
            queue,
        })
    }

    /// Which tile menu this adapter is served from.
    pub fn family(&self) -> Family {
        self.family
    }

    /// How recordings store weights and activations.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// How weights and activations lie in memory: halves as the adapter's own f16 if it knows it.
    pub fn storage(&self) -> Storage {
        match self.precision {
            Precision::F32 => Storage::F32,
            Precision::F16 if self.supports(Storage::F16) => Storage::F16,
            Precision::F16 => Storage::Packed,
        }
    }

    /// Whether kernels can be run with weights and activations stored so.
    pub fn supports(&self, storage: Storage) -> bool {
        storage != Storage::F16 || self.device.features().contains(wgpu::Features::SHADER_F16)
    }

    /// The side of the fragments that the adapter's matrix units multiply: only if it was opened for halves.
    pub fn fragments(&self) -> Option<u32> {
        self.fragments
    }

    /// The same only if `prove`, which is asked once, finds their products right.
    pub fn matrix_units(&self, prove: impl FnOnce(u32) -> bool) -> Option<u32> {
        self.fragments.filter(|&side| *self.fragments_proved.get_or_init(|| prove(side)))
    }

    /// The variant that tuning chose for `key`, if it did.
    pub fn choice(&self, key: &str) -> Option<String> {
        locked(&self.choices).get(key).cloned()
    }

    /// Replaces what tuning chose; returns what was there.
    pub fn set_choices(&self, choices: Choices) -> Choices {
        std::mem::replace(&mut locked(&self.choices), choices)
    }

    /// How much parallel work keeps the adapter busy.
    pub fn class(&self) -> AdapterClass {
        self.class
    }

    /// Whether kernels are for a CPU adapter.
    pub fn is_cpu(&self) -> bool {
        self.class == AdapterClass::Cpu
    }

    /// Lanes that share one row in row-wise kernels: few where a barrier is costly.
    pub fn row_lanes(&self) -> u32 {
        self.family.row_lanes()
    }

    /// Largest tensor that one binding can show, in bytes.
    pub fn max_tensor_bytes(&self) -> u64 {
        self.limits.max_storage_buffer_binding_size.min(self.limits.max_buffer_size)
    }

    /// Device memory to stay within where the user names no limit, in bytes.
    pub fn default_memory(&self) -> u64 {
        self.adapter.default_memory()
    }

    /// Whether plans run in guarded memory.
    pub(super) fn is_guarded(&self) -> bool {
        self.guarded
    }

    pub(super) fn max_buffer_bytes(&self) -> u64 {
        self.limits.max_buffer_size
    }

    pub(super) fn max_workgroups(&self) -> u32 {
        self.limits.max_compute_workgroups_per_dimension
    }

    pub(super) fn has_timestamps(&self) -> bool {
        self.device.features().contains(wgpu::Features::TIMESTAMP_QUERY)
    }

    /// The gravest error that the driver reported since the last call, if any. A device that is lost stays so.
    ///
    /// # Errors
    /// [`Error::Lost`], [`Error::Memory`] or [`Error::Failed`].
    pub fn check(&self) -> Result<()> {
        locked(&self.faults).take()
    }

    /// Waits until all submitted work is done.
    ///
    /// # Errors
    /// What the driver reported; [`Error::Failed`] with the launches in question if it doesn't answer.
    pub fn wait(&self) -> Result<()> {
        self.wait_for(None, u64::MAX)
    }

    /// Waits for a submission, or for all, and for those numbered before it.
    fn wait_for(&self, index: Option<wgpu::SubmissionIndex>, number: u64) -> Result<()> {
        self.check()?;
        if !self.answers(index, self.patience)? {
            // The first that isn't done, by another look at each.
            let running = locked(&self.running);
            for submitted in &running.submitted {
                if !self.answers(Some(submitted.index.clone()), Duration::ZERO)? {
                    return Err(Error::Failed(format!(
                        "no answer within {} s; it hangs in {submitted}",
                        self.patience.as_secs()
                    )));
                }
            }
            return Err(Error::Failed(format!("no answer within {} s", self.patience.as_secs())));
        }
        locked(&self.running).done(number);
        self.check()
    }

    /// Notices work that is done, without waiting: readbacks learn that their words have come.
    pub fn look(&self) {
        // A failure is met by whoever waits for the work.
        let _ = guarded(|| self.device.poll(wgpu::PollType::Poll));
    }

    /// Whether a submission, or all, are done within a time.
    fn answers(&self, submission_index: Option<wgpu::SubmissionIndex>, within: Duration) -> Result<bool> {
        if self.rehearsal.as_ref().is_some_and(Rehearsal::hangs) {
            std::thread::sleep(within);
            return Ok(false);
        }
        let wait = wgpu::PollType::Wait { submission_index, timeout: Some(within) };
        match guarded(|| self.device.poll(wait)) {
            Some(Ok(_)) => Ok(true),
            Some(Err(wgpu::PollError::Timeout)) => Ok(false),
            Some(Err(error)) => Err(Error::Failed(error.to_string())),
            // wgpu panics if the device is lost meanwhile, or the driver finds no memory for the wait itself.
            None => self.check().and(Err(Error::Lost("waiting for it failed".into()))),
        }
    }

    /// Submits launches of a plan, `labels` of which it has: those of a range.
    pub(super) fn submit(
        &self,
        range: std::ops::Range<usize>,
        of: usize,
        label: impl Fn(usize) -> String,
        encode: impl Fn(&mut wgpu::CommandEncoder, std::ops::Range<usize>),
    ) {
        let rehearsal = self.rehearsal.as_ref();
        let before_loss = rehearsal.and_then(|rehearsal| rehearsal.launches_before_loss(range.len()));
        let (first, end) = (range.start, before_loss.map_or(range.end, |count| range.start + count));
        let mut encoder = self.device.create_command_encoder(&Default::default());
        encode(&mut encoder, first..end);
        let index = self.queue.submit([encoder.finish()]);
        let last = end.max(first + 1) - 1;
        let (first, last) = ((first + 1, label(first)), (last + 1, label(last)));
        locked(&self.running).push(index, first, last, of);
        if before_loss.is_some() {
            locked(&self.faults).push(Fault::Lost("as rehearsed".into()));
            self.device.destroy();
        }
    }

    /// How many submissions there were: what a later wait may be for.
    fn submissions(&self) -> u64 {
        locked(&self.running).count
    }

    /// Memory on the device.
    ///
    /// # Errors
    /// [`Error::Memory`] if there is none; what else the driver reports.
    pub(super) fn allocate(
        &self,
        label: &str,
        bytes: u64,
        usage: wgpu::BufferUsages,
    ) -> Result<wgpu::Buffer> {
        if self.rehearsal.as_ref().is_some_and(Rehearsal::refuses) {
            return Err(Error::Refused(format!("{label} of {bytes} bytes")));
        }
        let raw = allocate(&self.device, label, bytes, usage);
        self.check()?;
        Ok(raw)
    }

    /// A zeroed buffer of `bytes` bytes, a multiple of a word.
    ///
    /// # Errors
    /// As of [`Self::allocate`].
    pub(super) fn storage_buffer(&self, label: &str, bytes: u64) -> Result<Buffer> {
        Ok(whole(self.allocate(label, bytes, STORAGE)?, label, bytes))
    }

    /// A zeroed buffer of `words` 4-byte words.
    ///
    /// # Errors
    /// [`Error::TooLarge`] if one binding can't show it.
    pub fn buffer(&self, label: &str, words: usize) -> Result<Buffer> {
        let guard = if self.guarded { GUARD_WORDS } else { 0 };
        let bytes = (words + guard) as u64 * WORD;
        if bytes > self.max_tensor_bytes() {
            return Err(Error::TooLarge(format!(
                "{label} needs {bytes} bytes; {} binds at most {}",
                self.adapter.name,
                self.max_tensor_bytes()
            )));
        }
        let buffer = self.storage_buffer(label, bytes)?;
        if !self.guarded {
            return Ok(buffer);
        }
        let number = self.guards.fetch_add(1, Ordering::Relaxed);
        let buffer = buffer.with_guard(words, GUARD | number & GUARD_NUMBERS);
        self.write_guard(&buffer);
        Ok(buffer)
    }

    /// Puts the guard words behind a buffer that has them.
    pub(super) fn write_guard(&self, buffer: &Buffer) {
        if let Some(word) = buffer.guard {
            self.write(&buffer.behind(), bytemuck::cast_slice(&[word; GUARD_WORDS]));
        }
    }

    /// A zeroed buffer of `words` words that is bound in slices only.
    ///
    /// # Errors
    /// [`Error::TooLarge`] if the adapter makes no buffer of that size.
    pub fn arena(&self, label: &str, words: usize) -> Result<Buffer> {
        let bytes = words as u64 * WORD;
        if bytes > self.limits.max_buffer_size {
            return Err(Error::TooLarge(format!(
                "{label} needs {bytes} bytes; {} makes buffers of at most {}",
                self.adapter.name, self.limits.max_buffer_size
            )));
        }
        self.storage_buffer(label, bytes)
    }

    /// A buffer of `words` words without memory, for recordings of which only the need is asked: never run one on it.
    pub fn unallocated(&self, label: &str, words: usize) -> Buffer {
        Buffer { label: label.into(), words, bound: words.max(4), ..self.unused[1].clone() }
    }

    /// A buffer that holds `data`.
    pub fn upload(&self, label: &str, data: &[f32]) -> Result<Buffer> {
        let buffer = self.buffer(label, data.len())?;
        self.write(&buffer, bytemuck::cast_slice(data));
        Ok(buffer)
    }

    /// A buffer of `words` words with `guard` behind them, for tests: kernels can reach the guard words, but they belong
    /// to no tensor.
    ///
    /// # Errors
    /// [`Error::TooLarge`] if one binding can't show both.
    pub fn guarded_buffer(&self, label: &str, words: usize, guard: &[u32]) -> Result<Buffer> {
        let whole = self.buffer(label, words + guard.len())?;
        self.queue.write_buffer(&whole.raw, words as u64 * WORD, bytemuck::cast_slice(guard));
        Ok(Buffer { words, bound: whole.words, guard: None, ..whole })
    }

    /// Reads a buffer and the guard words behind it back, after all submitted work.
    pub fn read_guarded(&self, buffer: &Buffer) -> Result<Vec<f32>> {
        self.read(&Buffer { words: buffer.bound, ..buffer.clone() })
    }

    /// Replaces a buffer's first words, in order with submitted work.
    ///
    /// # Panics
    /// If `bytes` isn't whole words or doesn't fit.
    pub fn write(&self, buffer: &Buffer, bytes: &[u8]) {
        assert!(bytes.len() <= buffer.words * WORD as usize, "{}: write past its end", buffer.label);
        if !bytes.is_empty() {
            self.queue.write_buffer(&buffer.raw, buffer.start as u64 * WORD, bytes);
        }
    }

    /// Reads a whole buffer back, after all submitted work.
    pub fn read(&self, buffer: &Buffer) -> Result<Vec<f32>> {
        let mut readback = Readback::new(self, buffer.words)?;
        readback.start(self, buffer, buffer.words);
        readback.finish(self)
    }

    /// Compiles what launches need and isn't there yet, on all of the processor's cores.
    ///
    /// # Errors
    /// The driver's refusal of a pipeline; of several always the same one, in any order of trials.
    pub(super) fn compile(&self, dispatches: &[Dispatch]) -> Result<()> {
        let mut missing: HashMap<PipelineKey, &Dispatch> =
            dispatches.iter().map(|dispatch| (pipeline_key(dispatch), dispatch)).collect();
        let there = locked(&self.pipelines);
        missing.retain(|key, _| !there.contains_key(key));
        drop(there);
        missing.into_values().par_bridge().for_each(|dispatch| {
            self.pipeline(dispatch);
        });
        locked(&self.faults).sort();
        self.check()
    }

    /// The pipeline of a launch, compiled if it isn't there yet.
    pub(super) fn pipeline(&self, dispatch: &Dispatch) -> Arc<Pipeline> {
        let Dispatch { kernel, constants, overrides, .. } = dispatch;
        let storage = dispatch.storage();
        let key = pipeline_key(dispatch);
        if let Some(pipeline) = locked(&self.pipelines).get(&key) {
            return pipeline.clone();
        }
        let source = wgpu::ShaderSource::Wgsl(assemble(kernel, constants, storage).into());
        let module = wgpu::ShaderModuleDescriptor { label: Some(kernel.file.name), source };
        let module = if self.checked {
            self.device.create_shader_module(module)
        } else {
            // SAFETY: every index in our kernels is guarded or clamped by the kernel itself, every loop ends, and tests
            // prove both with guard words behind each buffer and with `LAT_CHECKED=1`.
            unsafe {
                self.device.create_shader_module_trusted(module, wgpu::ShaderRuntimeChecks::unchecked())
            }
        };
        let storage = kernel
            .bindings
            .iter()
            .map(|binding| wgpu::BufferBindingType::Storage { read_only: binding.access == Access::Read });
        let entries: Vec<_> = std::iter::once(wgpu::BufferBindingType::Uniform)
            .chain(storage)
            .zip(0..)
            .map(|(ty, binding)| wgpu::BindGroupLayoutEntry {
                binding,
                visibility: wgpu::ShaderStages::COMPUTE,
                ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None },
                count: None,
            })
            .collect();
        let layout = self.device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: Some(kernel.file.name),
            entries: &entries,
        });
        let pipeline_layout = self.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(kernel.file.name),
            bind_group_layouts: &[Some(&layout)],
            immediate_size: 0,
        });
        let raw = self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(kernel.file.name),
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: Some(kernel.entry),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: overrides,
                zero_initialize_workgroup_memory: self.checked,
            },
            cache: self.pipeline_cache.as_ref().map(|cache| &cache.raw),
        });
        let pipeline = Arc::new(Pipeline { raw, layout });
        locked(&self.pipelines).insert(key, pipeline.clone());
        pipeline
    }
}

impl Drop for Context {
    /// Keeps compiled pipelines for the next run.
    fn drop(&mut self) {
        let compiled = self.pipelines.get_mut().is_ok_and(|pipelines| !pipelines.is_empty());
        if let Some(cache) = &self.pipeline_cache
            && compiled
            && !std::thread::panicking()
            && self.check().is_ok()
        {
            guarded(|| cache.keep());
        }
    }
}

/// The properties of a launch by which pipelines differ.
fn pipeline_key(dispatch: &Dispatch) -> PipelineKey {
    let Dispatch { kernel, constants, overrides, .. } = dispatch;
    let bits = overrides.iter().map(|(name, value)| (*name, value.to_bits())).collect();
    (kernel.file.name, kernel.entry, constants.clone(), dispatch.storage(), bits)
}

/// What a buffer of a kernel is used for.
const STORAGE: wgpu::BufferUsages =
    wgpu::BufferUsages::STORAGE.union(wgpu::BufferUsages::COPY_DST).union(wgpu::BufferUsages::COPY_SRC);

fn allocate(device: &wgpu::Device, label: &str, bytes: u64, usage: wgpu::BufferUsages) -> wgpu::Buffer {
    device.create_buffer(&wgpu::BufferDescriptor {
        label: Some(label),
        // An empty buffer can't be bound.
        size: bytes.max(16),
        usage,
        mapped_at_creation: false,
    })
}

/// The whole of a raw buffer.
fn whole(raw: wgpu::Buffer, label: &str, bytes: u64) -> Buffer {
    let words = (bytes / WORD) as usize;
    Buffer { raw, start: 0, bound: words.max(4), guard: None, words, label: label.into() }
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Context({}, {:?})", self.adapter.name, self.family)
    }
}

/// Whether a staging buffer can be read yet.
///
/// Another thread's poll may run our callback: then ours returns before the callback has, and waits here.
#[derive(Debug, Default)]
struct Mapped {
    /// And when that was found out.
    outcome: Mutex<Option<(std::result::Result<(), wgpu::BufferAsyncError>, Instant)>>,
    told: Condvar,
}

/// A staging buffer that brings words back while the adapter goes on.
#[derive(Debug)]
pub struct Readback {
    staging: wgpu::Buffer,
    capacity: usize,
    words: usize,
    mapped: Arc<Mapped>,
    /// What it waits for, and its number.
    submission: Option<(wgpu::SubmissionIndex, u64)>,
    /// When the words that were read last had come.
    arrived: Option<Instant>,
}

impl Readback {
    /// Room for `capacity` words.
    ///
    /// # Errors
    /// [`Error::Memory`] if there is none.
    pub fn new(context: &Context, capacity: usize) -> Result<Readback> {
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let staging = context.allocate("readback", capacity as u64 * WORD, usage)?;
        Ok(Readback { staging, capacity, words: 0, mapped: Arc::default(), submission: None, arrived: None })
    }

    /// Asks for the first `words` of a buffer, after all work submitted so far.
    ///
    /// # Panics
    /// If they don't fit.
    pub fn start(&mut self, context: &Context, buffer: &Buffer, words: usize) {
        assert!(words <= self.capacity && words <= buffer.words, "{}: readback too small", buffer.label);
        self.words = words;
        if words == 0 {
            return;
        }
        let bytes = words as u64 * WORD;
        let mut encoder = context.device.create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(&buffer.raw, buffer.start as u64 * WORD, &self.staging, 0, bytes);
        self.submission = Some((context.queue.submit([encoder.finish()]), context.submissions()));
        *locked(&self.mapped.outcome) = None;
        let mapped = self.mapped.clone();
        self.staging.slice(..bytes).map_async(wgpu::MapMode::Read, move |result| {
            *locked(&mapped.outcome) = Some((result, Instant::now()));
            mapped.told.notify_all();
        });
    }

    /// When the words that [`Self::finish`] returned last had come; as exact as [`Context::look`] was called often.
    pub fn arrived(&self) -> Option<Instant> {
        self.arrived
    }

    /// Waits for the words asked for.
    ///
    /// # Errors
    /// [`Error::Failed`], [`Error::Lost`] or [`Error::Memory`] if the adapter failed in the meantime.
    pub fn finish(&mut self, context: &Context) -> Result<Vec<f32>> {
        if self.words == 0 {
            return Ok(Vec::new());
        }
        let (index, number) = self.submission.take().unzip();
        context.wait_for(index, number.unwrap_or(u64::MAX))?;
        let bytes = self.words as u64 * WORD;
        let mut outcome = locked(&self.mapped.outcome);
        while outcome.is_none() {
            let waited = self.mapped.told.wait_timeout(outcome, CALLBACK_PATIENCE);
            let (guard, patience) = waited.unwrap_or_else(PoisonError::into_inner);
            if patience.timed_out() && guard.is_none() {
                return Err(Error::Failed("read back: the adapter never answered".to_string()));
            }
            outcome = guard;
        }
        let arrived = outcome.take();
        drop(outcome);
        if let Some((result, at)) = arrived {
            result.map_err(|error| Error::Failed(format!("read back: {error}")))?;
            self.arrived = Some(at);
        }
        let view = self
            .staging
            .slice(..bytes)
            .get_mapped_range()
            .map_err(|error| Error::Failed(format!("read back: {error}")))?;
        let data = bytemuck::pod_collect_to_vec(&view);
        drop(view);
        self.staging.unmap();
        Ok(data)
    }
}

/// Locks even if another thread died holding the lock: the data are plain lists, never half-changed.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
