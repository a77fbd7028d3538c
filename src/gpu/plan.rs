//! A plan: a recording with memory and bind groups, replayed as often as wanted without allocating.

use super::WORD;
use super::buffer::{Buffer, GUARD_NUMBERS, GUARD_WORDS};
use super::class::AdapterClass;
use super::context::Context;
use super::error::{Error, Result};
use super::kernel::Access;
use super::memory::{Transient, place};
use super::pipeline::Pipeline;
use super::recorder::{Dispatch, Home, Recorder, Tensor, TensorInfo};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Submits that a plan is cut into at least on a GPU, so that it begins while the rest is still encoded.
const SUBMITS: usize = 6;
/// Fewest launches that are worth a submit of their own: it takes as much of the processor's time as some ten launches.
const LAUNCHES_PER_SUBMIT: usize = 8;

/// Where the submits of a plan end, whose launches take so many floating-point operations: a function of them and of the
/// class. A submit ends with enough launches, or with enough work; a CPU adapter encodes on the cores that it works on,
/// and takes everything at once.
fn submits(flops: &[f64], class: AdapterClass) -> Vec<usize> {
    let launches = match class {
        AdapterClass::Cpu => usize::MAX,
        _ => flops.len().div_ceil(SUBMITS).max(LAUNCHES_PER_SUBMIT),
    };
    let (mut ends, mut start, mut work) = (Vec::new(), 0, 0.0);
    for (i, flops) in flops.iter().enumerate() {
        if i > start && (i - start == launches || work + flops > class.submit_flops()) {
            ends.push(i);
            (start, work) = (i, 0.0);
        }
        work += flops;
    }
    if !flops.is_empty() {
        ends.push(flops.len());
    }
    ends
}

/// What a guarded plan's tensors hold before a run: NaN as a number and as two halves.
const UNWRITTEN: u32 = 0x7fff_7fff;
/// A guard word behind them, but for its number; as those of buffers, and none of them.
const GUARD: u32 = 0x7fd0_7e00;
/// Bytes of guard words.
const GUARD_BYTES: u64 = GUARD_WORDS as u64 * WORD;

/// Alignment of uniform blocks, in bytes: WebGPU's default `min_uniform_buffer_offset_alignment`.
const UNIFORM_ALIGN: usize = 256;

/// What a plan costs, before and after it is made.
#[derive(Debug, Clone, PartialEq)]
pub struct PlanSummary {
    /// Number of launches.
    pub dispatches: usize,
    /// Bytes of the heaps that short-lived tensors share.
    pub heap_bytes: u64,
    /// Bytes that they would take without sharing.
    pub unshared_bytes: u64,
    /// Bytes of the largest tensor.
    pub largest_tensor_bytes: u64,
    /// Floating-point operations of one replay.
    pub flops: f64,
    /// Bytes that the launches of one replay move, see [`Dispatch::bytes`].
    pub moved_bytes: f64,
}

struct Step {
    pipeline: Arc<Pipeline>,
    bindings: wgpu::BindGroup,
}

/// A replayable recording.
pub struct Plan {
    steps: Vec<Step>,
    /// What each step launches, in order.
    pub dispatches: Vec<Dispatch>,
    /// Where each submit ends.
    submits: Vec<usize>,
    heaps: Vec<Buffer>,
    /// In a guarded context: the tensors in the heaps, then buffers made before.
    guarded: [Vec<Buffer>; 2],
    summary: PlanSummary,
}

/// A recording as plain data, to be replayed by other programs; nothing of it is allocated.
pub struct Listing {
    /// Bytes of each heap.
    pub heaps: Vec<u64>,
    /// What is launched, in order.
    pub dispatches: Vec<Dispatch>,
    /// For each launch, where its tensors lie: one place per declared binding, in order.
    pub places: Vec<Vec<Place>>,
}

/// Where a tensor lies, for [`Listing`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In memory that short-lived tensors share.
    Heap {
        /// Index of the heap.
        heap: usize,
        /// Where it begins, in bytes, a multiple of 256.
        offset: u64,
        /// Bytes to bind.
        bytes: u64,
    },
    /// In a buffer that was made before the recording.
    Buffer {
        /// The buffer's label.
        label: Arc<str>,
        /// Bytes to bind.
        bytes: u64,
    },
}

/// The placement of a recording's short-lived tensors, before anything is allocated.
struct Layout {
    heaps: Vec<u64>,
    /// Heap and offset per tensor; `None` for those with a buffer of their own.
    slots: Vec<Option<(usize, u64)>>,
    summary: PlanSummary,
}

fn lay_out(recorder: &Recorder<'_>) -> Layout {
    let mut lives: Vec<Option<(usize, usize)>> = vec![None; recorder.tensors.len()];
    for (step, dispatch) in recorder.dispatches.iter().enumerate() {
        for (tensor, binding) in dispatch.tensors.iter().zip(dispatch.kernel.bindings) {
            let life = &mut lives[tensor.id];
            let transient = matches!(recorder.tensors[tensor.id].home, Home::Transient);
            assert!(
                life.is_some() || binding.access == Access::Write || !transient,
                "{}: reads {} before anything writes it",
                dispatch.label,
                recorder.tensors[tensor.id].label
            );
            *life = Some((life.map_or(step, |(first, _)| first), step));
        }
    }
    let mut transients = Vec::new();
    let mut index = vec![None; recorder.tensors.len()];
    for (id, tensor) in recorder.tensors.iter().enumerate() {
        if let (Home::Transient, Some((first, last))) = (&tensor.home, lives[id]) {
            index[id] = Some(transients.len());
            transients.push(if recorder.context.is_guarded() {
                // Nobody else's words behind it: a place of its own from the first launch to the last.
                let bytes = tensor.bytes + GUARD_BYTES;
                Transient { bytes, first: 0, last: recorder.dispatches.len() }
            } else {
                Transient { bytes: tensor.bytes, first, last }
            });
        }
    }
    let mut conflicts = BTreeSet::new();
    for dispatch in &recorder.dispatches {
        let of = |read_only: bool| {
            let bindings = dispatch.tensors.iter().zip(dispatch.kernel.bindings);
            let alike = bindings.filter(move |(_, b)| (b.access == Access::Read) == read_only);
            alike.filter_map(|(t, _)| index[t.id])
        };
        for written in of(false) {
            conflicts.extend(of(true).map(|read| (read.min(written), read.max(written))));
        }
    }
    let conflicts: Vec<_> = conflicts.into_iter().collect();
    let placement = place(&transients, &conflicts, recorder.context.limits.max_buffer_size);
    Layout {
        summary: PlanSummary {
            dispatches: recorder.dispatches.len(),
            heap_bytes: placement.heaps.iter().sum(),
            unshared_bytes: transients.iter().map(|t| t.bytes).sum(),
            largest_tensor_bytes: transients.iter().map(|t| t.bytes).max().unwrap_or(0),
            flops: recorder.dispatches.iter().map(|d| d.flops).sum(),
            moved_bytes: recorder.dispatches.iter().map(Dispatch::bytes).sum(),
        },
        slots: index.iter().map(|i| i.map(|i| placement.slots[i])).collect(),
        heaps: placement.heaps,
    }
}

impl Recorder<'_> {
    /// Switches off outputs in the plan's memory that no launch reads, see [`Binding::switch`](super::Binding::switch).
    fn drop_unread(&mut self) {
        let unused = self.unused(Access::Write);
        let mut kept: Vec<bool> = self.tensors.iter().map(|t| matches!(t.home, Home::Fixed(_))).collect();
        for Dispatch { tensors, kernel, .. } in &self.dispatches {
            for (tensor, binding) in tensors.iter().zip(kernel.bindings) {
                kept[tensor.id] |= binding.access != Access::Write;
            }
        }
        for Dispatch { tensors, kernel, overrides, .. } in &mut self.dispatches {
            for (name, on) in overrides {
                let bindings = tensors.iter_mut().zip(kernel.bindings);
                let switched = bindings.filter(|(_, binding)| binding.switch == Some(name));
                let mut switched: Vec<&mut Tensor> = switched.map(|(tensor, _)| tensor).collect();
                if !switched.is_empty() && switched.iter().all(|tensor| !kept[tensor.id]) {
                    *on = 0.0;
                    switched.iter_mut().for_each(|tensor| **tensor = unused);
                }
            }
        }
    }

    /// What the plan of this recording, which is now complete, will cost; allocates nothing.
    pub fn summary(&mut self) -> PlanSummary {
        self.drop_unread();
        lay_out(self).summary
    }

    /// The recording as plain data; allocates nothing.
    ///
    /// # Errors
    /// [`Error::TooLarge`] if a tensor exceeds one binding.
    pub fn list(mut self) -> Result<Listing> {
        self.drop_unread();
        self.check_bindings()?;
        let layout = lay_out(&self);
        let place = |id: usize| {
            let TensorInfo { label, bytes, home } = &self.tensors[id];
            match (home, layout.slots[id]) {
                (Home::Fixed(buffer), _) => {
                    Place::Buffer { label: label.clone(), bytes: buffer.bound as u64 * WORD }
                }
                // A binding has at least four words; the alignment of slots leaves room for them.
                (Home::Transient, Some((heap, offset))) => {
                    Place::Heap { heap, offset, bytes: (*bytes).max(4 * WORD) }
                }
                (Home::Transient, None) => unreachable!("{label}: launched without a place"),
            }
        };
        let places = (self.dispatches.iter())
            .map(|dispatch| dispatch.tensors.iter().map(|tensor| place(tensor.id)).collect())
            .collect();
        Ok(Listing { heaps: layout.heaps, places, dispatches: self.dispatches })
    }

    /// Fails if a tensor exceeds one binding.
    fn check_bindings(&self) -> Result<()> {
        let most = self.context.max_tensor_bytes();
        for tensor in &self.tensors {
            let guard = if self.context.is_guarded() { GUARD_BYTES } else { 0 };
            let bytes = tensor.bytes + guard;
            if bytes > most {
                return Err(Error::TooLarge(format!(
                    "{} needs {bytes} bytes, a binding holds {most}",
                    tensor.label
                )));
            }
        }
        Ok(())
    }

    /// Allocates memory, compiles pipelines and makes bind groups.
    ///
    /// # Errors
    /// [`Error::TooLarge`] if a tensor exceeds one binding; [`Error::Failed`] if the driver refuses.
    pub fn finish(mut self) -> Result<Plan> {
        self.drop_unread();
        let context = self.context;
        self.check_bindings()?;
        let layout = lay_out(&self);
        // A heap may be larger than one binding: only its tensors are bound.
        let heaps: Vec<Buffer> =
            layout.heaps.iter().map(|&bytes| context.storage_buffer("heap", bytes)).collect::<Result<_>>()?;
        let places: Vec<Buffer> = (self.tensors.iter().zip(&layout.slots).enumerate())
            .map(|(id, (tensor, slot))| match (&tensor.home, slot) {
                (Home::Fixed(buffer), _) => buffer.clone(),
                (Home::Transient, Some((heap, offset))) => {
                    let words = (tensor.bytes / WORD) as usize;
                    let slice = heaps[*heap].slice(&tensor.label, (offset / WORD) as usize, words);
                    let number = id as u32 & GUARD_NUMBERS;
                    if context.is_guarded() { slice.with_guard(words, GUARD | number) } else { slice }
                }
                // Never touched by a dispatch: its place doesn't matter.
                (Home::Transient, None) => context.unused[0].clone(),
            })
            .collect();

        context.compile(&self.dispatches)?;
        let uniforms = context.uniforms(&self.dispatches)?;
        let steps = (self.dispatches.iter().enumerate())
            .map(|(step, dispatch)| {
                let pipeline = context.pipeline(dispatch);
                let uniform = wgpu::BufferBinding {
                    buffer: &uniforms,
                    offset: (step * UNIFORM_ALIGN) as u64,
                    size: std::num::NonZeroU64::new(dispatch.params.len() as u64),
                };
                let storage = dispatch.tensors.iter().map(|tensor| {
                    let buffer = &places[tensor.id];
                    wgpu::BufferBinding {
                        buffer: &buffer.raw,
                        offset: buffer.start as u64 * WORD,
                        size: std::num::NonZeroU64::new(buffer.bound as u64 * WORD),
                    }
                });
                let entries: Vec<_> = std::iter::once(uniform)
                    .chain(storage)
                    .zip(0..)
                    .map(|(buffer, binding)| wgpu::BindGroupEntry {
                        binding,
                        resource: wgpu::BindingResource::Buffer(buffer),
                    })
                    .collect();
                let bindings = context.device.create_bind_group(&wgpu::BindGroupDescriptor {
                    label: Some(&dispatch.label),
                    layout: &pipeline.layout,
                    entries: &entries,
                });
                Step { pipeline, bindings }
            })
            .collect();
        context.check()?;
        let (transient, fixed) = (places.into_iter().zip(&layout.slots))
            .filter(|(place, _)| place.guard.is_some())
            .partition::<Vec<_>, _>(|(_, slot)| slot.is_some());
        let guarded = [transient, fixed].map(|places| places.into_iter().map(|(place, _)| place).collect());
        let flops: Vec<f64> = self.dispatches.iter().map(|dispatch| dispatch.flops).collect();
        let submits = submits(&flops, context.class());
        Ok(Plan { steps, dispatches: self.dispatches, submits, heaps, guarded, summary: layout.summary })
    }
}

impl Context {
    /// One buffer with every dispatch's uniform block, written once.
    fn uniforms(&self, dispatches: &[Dispatch]) -> Result<wgpu::Buffer> {
        let mut bytes = vec![0; (dispatches.len() * UNIFORM_ALIGN).max(UNIFORM_ALIGN)];
        for (block, dispatch) in bytes.chunks_mut(UNIFORM_ALIGN).zip(dispatches) {
            block[..dispatch.params.len()].copy_from_slice(&dispatch.params);
        }
        let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
        let uniforms = self.allocate("uniforms", bytes.len() as u64, usage)?;
        self.queue.write_buffer(&uniforms, 0, &bytes);
        Ok(uniforms)
    }
}

impl Plan {
    /// What the plan costs.
    pub fn summary(&self) -> &PlanSummary {
        &self.summary
    }

    /// Replays the recording, after all work submitted before.
    ///
    /// # Errors
    /// What the driver has reported so far; in a guarded context [`Error::Overwritten`] for a tensor that was written past its end.
    pub fn run(&self, context: &Context) -> Result<()> {
        for tensor in &self.guarded[0] {
            context.write(tensor, bytemuck::cast_slice(&vec![UNWRITTEN; tensor.words]));
            context.write_guard(tensor);
        }
        let mut start = 0;
        for &end in &self.submits {
            context.submit(
                start..end,
                self.steps.len(),
                |i| self.dispatches[i].label.clone(),
                |encoder, steps| self.encode(encoder, steps, None),
            );
            context.check()?;
            start = end;
        }
        self.check_guards(context)
    }

    /// In a guarded context: fails if the words behind a tensor aren't what they were.
    fn check_guards(&self, context: &Context) -> Result<()> {
        let guarded: Vec<&Buffer> = self.guarded.iter().flatten().collect();
        if guarded.is_empty() {
            return Ok(());
        }
        let all = context.storage_buffer("guard words", guarded.len() as u64 * GUARD_BYTES)?;
        let mut encoder = context.device.create_command_encoder(&Default::default());
        for (i, buffer) in guarded.iter().enumerate() {
            let (from, to) = (buffer.behind(), i as u64 * GUARD_BYTES);
            let start = from.start as u64 * WORD;
            encoder.copy_buffer_to_buffer(&from.raw, start, &all.raw, to, GUARD_BYTES);
        }
        context.queue.submit([encoder.finish()]);
        let found = context.read(&all)?;
        for (buffer, found) in guarded.iter().zip(found.chunks(GUARD_WORDS)) {
            if found.iter().any(|word| Some(word.to_bits()) != buffer.guard) {
                return Err(Error::Overwritten(buffer.label.to_string()));
            }
        }
        Ok(())
    }

    pub(super) fn encode(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        steps: impl Iterator<Item = usize>,
        timestamps: Option<wgpu::ComputePassTimestampWrites<'_>>,
    ) {
        let mut pass = encoder
            .begin_compute_pass(&wgpu::ComputePassDescriptor { label: None, timestamp_writes: timestamps });
        for i in steps {
            let [x, y, z] = self.dispatches[i].grid;
            pass.set_pipeline(&self.steps[i].pipeline.raw);
            pass.set_bind_group(0, &self.steps[i].bindings, &[]);
            pass.dispatch_workgroups(x, y, z);
        }
    }

    /// Fills every heap with one bit pattern, to prove that a replay depends on nothing left over.
    pub fn fill_heaps(&self, context: &Context, pattern: u32) {
        for heap in &self.heaps {
            context.write(heap, bytemuck::cast_slice(&vec![pattern; heap.words]));
        }
    }
}

impl std::fmt::Debug for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for dispatch in &self.dispatches {
            let Dispatch { kernel, grid, flops, label, .. } = dispatch;
            writeln!(f, "{label}: {} {grid:?} {:.3} GFLOP", kernel.file.name, flops / 1e9)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_plans_are_cut_so_that_encoding_overlaps() {
        for class in [AdapterClass::Integrated, AdapterClass::Discrete] {
            for launches in [32, 90, 124, 320] {
                let ends = submits(&vec![1e6; launches], class);
                assert!((4..=8).contains(&ends.len()), "{launches} launches in {} submits", ends.len());
                assert!(ends.windows(2).all(|pair| pair[0] < pair[1]));
                assert_eq!(ends.last(), Some(&launches));
            }
            assert_eq!(submits(&[1e6; 8], class), [8]);
            assert_eq!(submits(&[], class), [0; 0]);
        }
        assert_eq!(submits(&[1e12; 90], AdapterClass::Cpu), [90]);
    }

    #[test]
    fn no_submit_takes_long() {
        for class in [AdapterClass::Integrated, AdapterClass::Discrete] {
            let longest = class.dispatch_flops();
            for share in [0.01, 0.3, 1.0, 20.0] {
                let flops = vec![share * longest; 90];
                let mut start = 0;
                for end in submits(&flops, class) {
                    let work: f64 = flops[start..end].iter().sum();
                    assert!(end == start + 1 || work <= class.submit_flops(), "{start} to {end}");
                    start = end;
                }
                assert_eq!(start, flops.len());
            }
        }
    }
}
