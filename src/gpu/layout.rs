//! The layout of a recording: which outputs it can drop, and where its tensors go in memory. Allocates nothing.

use super::buffer::GUARD_BYTES;
use super::error::{Error, Result};
use super::kernel::Access;
use super::memory::{Transient, place};
use super::recorder::{Backing, Dispatch, Recorder, Tensor};
use std::collections::BTreeSet;

/// The cost of a plan.
#[derive(Debug, Clone, PartialEq)]
pub struct PlanSummary {
    /// Number of dispatches.
    pub dispatches: usize,
    /// Bytes of the heaps that transient tensors share.
    pub heap_bytes: u64,
    /// Bytes that transient tensors would take without sharing.
    pub unshared_bytes: u64,
    /// Bytes of the largest transient tensor.
    pub largest_tensor_bytes: u64,
    /// Floating-point operations of one replay.
    pub flops: f64,
    /// Bytes that the dispatches of one replay move, see [`Dispatch::bytes`].
    pub moved_bytes: f64,
}

/// The placement of a recording's transient tensors.
pub(super) struct Layout {
    /// Bytes of each heap.
    pub heaps: Vec<u64>,
    /// Heap and byte offset of each tensor; `None` for a tensor that is a buffer or that no dispatch uses.
    pub slots: Vec<Option<(usize, u64)>>,
    pub summary: PlanSummary,
}

impl Recorder<'_> {
    /// Returns the cost of a plan of this recording.
    pub fn summary(&mut self) -> PlanSummary {
        self.drop_unread();
        self.lay_out().summary
    }

    /// Switches off outputs that no dispatch reads, see [`Binding::switch`](super::Binding::switch).
    pub(super) fn drop_unread(&mut self) {
        let unused = self.unused(Access::Write);
        let mut kept: Vec<bool> =
            self.tensors.iter().map(|t| matches!(t.backing, Backing::Buffer(_))).collect();
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

    /// Checks that every tensor fits one binding.
    ///
    /// # Errors
    /// [`Error::TooLarge`] for the first that doesn't.
    pub(super) fn check_bindings(&self) -> Result<()> {
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

    /// Places the transient tensors.
    ///
    /// # Panics
    /// If a dispatch reads a transient tensor before any dispatch writes it.
    pub(super) fn lay_out(&self) -> Layout {
        let mut lifetimes: Vec<Option<(usize, usize)>> = vec![None; self.tensors.len()];
        for (step, dispatch) in self.dispatches.iter().enumerate() {
            for (tensor, binding) in dispatch.tensors.iter().zip(dispatch.kernel.bindings) {
                let lifetime = &mut lifetimes[tensor.id];
                let is_transient = matches!(self.tensors[tensor.id].backing, Backing::Heap);
                assert!(
                    lifetime.is_some() || binding.access == Access::Write || !is_transient,
                    "{}: reads {} before anything writes it",
                    dispatch.label,
                    self.tensors[tensor.id].label
                );
                *lifetime = Some((lifetime.map_or(step, |(first, _)| first), step));
            }
        }
        let mut transients = Vec::new();
        let mut index = vec![None; self.tensors.len()];
        for (id, tensor) in self.tensors.iter().enumerate() {
            if let (Backing::Heap, Some((first, last))) = (&tensor.backing, lifetimes[id]) {
                index[id] = Some(transients.len());
                transients.push(if self.context.is_guarded() {
                    // A lifetime from the first to the last dispatch: no other tensor may overwrite the guard words.
                    let bytes = tensor.bytes + GUARD_BYTES;
                    Transient { bytes, first: 0, last: self.dispatches.len() }
                } else {
                    Transient { bytes: tensor.bytes, first, last }
                });
            }
        }
        let mut conflicts = BTreeSet::new();
        for dispatch in &self.dispatches {
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
        let placement = place(&transients, &conflicts, self.context.limits.max_buffer_size);
        Layout {
            summary: PlanSummary {
                dispatches: self.dispatches.len(),
                heap_bytes: placement.heaps.iter().sum(),
                unshared_bytes: transients.iter().map(|t| t.bytes).sum(),
                largest_tensor_bytes: transients.iter().map(|t| t.bytes).max().unwrap_or(0),
                flops: self.dispatches.iter().map(|d| d.flops).sum(),
                moved_bytes: self.dispatches.iter().map(Dispatch::bytes).sum(),
            },
            slots: index.iter().map(|i| i.map(|i| placement.slots[i])).collect(),
            heaps: placement.heaps,
        }
    }
}
