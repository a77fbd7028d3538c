//! A plan: a recording with memory, pipelines and bind groups. Replaying it allocates nothing.

use super::WORD;
use super::buffer::{Buffer, GUARD_BYTES, GUARD_NUMBERS, GUARD_WORDS, HEAP_GUARD};
use super::context::Context;
use super::cuts::submit_ends;
use super::error::{Error, Result};
use super::layout::PlanSummary;
use super::pipeline::Pipeline;
use super::recorder::{Backing, Dispatch, Recorder};
use std::ops::Range;
use std::sync::Arc;

/// The words of a guarded plan's tensors before a run: NaN as f32 and as two f16.
const UNWRITTEN: u32 = 0x7fff_7fff;

/// Alignment of uniform blocks, in bytes: WebGPU's default `min_uniform_buffer_offset_alignment`.
const UNIFORM_ALIGN: usize = 256;

struct Step {
    pipeline: Arc<Pipeline>,
    bindings: wgpu::BindGroup,
}

/// A recording that can be replayed.
pub struct Plan {
    steps: Vec<Step>,
    /// The dispatch of each step, in order.
    pub dispatches: Vec<Dispatch>,
    /// Steps of each submit, by section.
    sections: Vec<Vec<Range<usize>>>,
    heaps: Vec<Buffer>,
    /// Tensors with guard words, in a guarded context: those in the heaps, then imported buffers.
    guarded: [Vec<Buffer>; 2],
    summary: PlanSummary,
}

impl Recorder<'_> {
    /// Allocates memory, compiles pipelines and creates bind groups.
    ///
    /// # Errors
    /// [`Error::TooLarge`] if a tensor exceeds one binding; [`Error::Memory`] or [`Error::Failed`] from the driver.
    pub fn finish(mut self) -> Result<Plan> {
        self.drop_unread();
        let context = self.context;
        self.check_bindings()?;
        let layout = self.lay_out();
        // A heap may be larger than one binding: only its tensors are bound.
        let heaps: Vec<Buffer> =
            layout.heaps.iter().map(|&bytes| context.storage_buffer("heap", bytes)).collect::<Result<_>>()?;
        let buffers: Vec<Buffer> = (self.tensors.iter().zip(&layout.slots).enumerate())
            .map(|(id, (tensor, slot))| match (&tensor.backing, slot) {
                (Backing::Buffer(buffer), _) => buffer.clone(),
                (Backing::Heap, Some((heap, offset))) => {
                    let words = (tensor.bytes / WORD) as usize;
                    let slice = heaps[*heap].slice(&tensor.label, (offset / WORD) as usize, words);
                    let number = id as u32 & GUARD_NUMBERS;
                    if context.is_guarded() { slice.with_guard(words, HEAP_GUARD | number) } else { slice }
                }
                // No dispatch uses it: any buffer does.
                (Backing::Heap, None) => context.unused[0].clone(),
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
                    let buffer = &buffers[tensor.id];
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
        let (transient, fixed) = (buffers.into_iter().zip(&layout.slots))
            .filter(|(buffer, _)| buffer.guard.is_some())
            .partition::<Vec<_>, _>(|(_, slot)| slot.is_some());
        let guarded =
            [transient, fixed].map(|buffers| buffers.into_iter().map(|(buffer, _)| buffer).collect());
        let flops: Vec<f64> = self.dispatches.iter().map(|dispatch| dispatch.flops).collect();
        let mut start = 0;
        let ends = self.stops.iter().copied().chain([flops.len()]);
        let sections = ends.map(|end| {
            let first = start;
            let submits = submit_ends(&flops[first..end], context.class()).into_iter();
            submits.map(|end| std::mem::replace(&mut start, first + end)..first + end).collect()
        });
        let sections = sections.collect();
        Ok(Plan { steps, dispatches: self.dispatches, sections, heaps, guarded, summary: layout.summary })
    }
}

impl Context {
    /// Creates one buffer with the uniform blocks of all dispatches.
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
    /// Returns the cost of the plan.
    pub fn summary(&self) -> &PlanSummary {
        &self.summary
    }

    /// Replays the recording after all submitted work.
    ///
    /// # Errors
    /// Those that the driver has reported so far; in a guarded context, [`Error::Overwritten`] for a tensor that was
    /// written past its end.
    pub fn run(&self, context: &Context) -> Result<()> {
        (0..self.sections.len()).try_for_each(|section| self.run_section(context, section))
    }

    /// Replays one section of the recording, see [`Recorder::stop`], after all submitted work.
    ///
    /// # Errors
    /// As [`Self::run`].
    ///
    /// # Panics
    /// If there is no such section.
    pub fn run_section(&self, context: &Context, section: usize) -> Result<()> {
        let new = if section == 0 { &self.guarded[0][..] } else { &[] };
        for tensor in new {
            context.write(tensor, bytemuck::cast_slice(&vec![UNWRITTEN; tensor.words]));
            context.write_guard(tensor);
        }
        for submit in &self.sections[section] {
            context.submit(
                submit.clone(),
                self.steps.len(),
                |i| self.dispatches[i].label.clone(),
                |encoder, steps| self.encode(encoder, steps, None),
            );
            context.check()?;
        }
        if section + 1 == self.sections.len() { self.check_guards(context) } else { Ok(()) }
    }

    /// Checks the guard words, in a guarded context.
    ///
    /// # Errors
    /// [`Error::Overwritten`] if they have changed.
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

    /// Fills every heap with one bit pattern, for tests that a replay doesn't depend on the old contents.
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
