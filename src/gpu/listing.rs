//! A recording as plain data, for export to a program that replays it without this engine.

use super::WORD;
use super::error::Result;
use super::recorder::{Backing, Dispatch, Recorder, TensorInfo};
use std::sync::Arc;

/// A recording as plain data.
pub struct PlanListing {
    /// Bytes of each heap.
    pub heaps: Vec<u64>,
    /// The dispatches, in order.
    pub dispatches: Vec<Dispatch>,
    /// For each dispatch, the regions of its tensors: one per declared binding, in order.
    pub regions: Vec<Vec<Region>>,
}

/// The memory region of a tensor in a [`PlanListing`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Region {
    /// A range of a heap that transient tensors share.
    Heap {
        /// Index of the heap.
        heap: usize,
        /// Start in bytes, a multiple of 256.
        offset: u64,
        /// Bytes to bind.
        bytes: u64,
    },
    /// A buffer that was imported into the recording.
    Buffer {
        /// The buffer's label.
        label: Arc<str>,
        /// Bytes to bind.
        bytes: u64,
    },
}

impl Recorder<'_> {
    /// Returns the recording as plain data; allocates no device memory.
    ///
    /// # Errors
    /// [`Error::TooLarge`](super::Error::TooLarge) if a tensor exceeds one binding.
    pub fn list(mut self) -> Result<PlanListing> {
        self.drop_unread();
        self.check_bindings()?;
        let layout = self.lay_out();
        let region = |id: usize| {
            let TensorInfo { label, bytes, backing } = &self.tensors[id];
            match (backing, layout.slots[id]) {
                (Backing::Buffer(buffer), _) => {
                    Region::Buffer { label: label.clone(), bytes: buffer.bound as u64 * WORD }
                }
                // A binding has at least four words; the alignment of slots leaves room for them.
                (Backing::Heap, Some((heap, offset))) => {
                    Region::Heap { heap, offset, bytes: (*bytes).max(4 * WORD) }
                }
                (Backing::Heap, None) => unreachable!("{label}: dispatched without memory"),
            }
        };
        let regions = (self.dispatches.iter())
            .map(|dispatch| dispatch.tensors.iter().map(|tensor| region(tensor.id)).collect())
            .collect();
        Ok(PlanListing { heaps: layout.heaps, regions, dispatches: self.dispatches })
    }
}
