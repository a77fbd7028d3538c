//! Buffers: device memory that outlives plans, slices of it, and guard words after it.

use super::WORD;
use std::sync::Arc;

/// Guard words after each tensor in a guarded context: more than the widest row of a tile.
pub(super) const GUARD_WORDS: usize = 256;
/// Bytes of the guard words after a tensor.
pub(super) const GUARD_BYTES: u64 = GUARD_WORDS as u64 * WORD;
/// Guard word after a buffer, without its number: NaN as f32 and as two f16.
pub(super) const BUFFER_GUARD: u32 = 0x7fc8_7e00;
/// Guard word after a tensor in a plan's heap, without its number: NaN as f32 and as two f16.
pub(super) const HEAP_GUARD: u32 = 0x7fd0_7e00;
/// The bits of a guard word that hold the number of its buffer or tensor. They reveal a guard word that a kernel
/// copied from one guard to another.
pub(super) const GUARD_NUMBERS: u32 = 0x1ff;

/// The usages of a storage buffer.
pub(super) const STORAGE: wgpu::BufferUsages =
    wgpu::BufferUsages::STORAGE.union(wgpu::BufferUsages::COPY_DST).union(wgpu::BufferUsages::COPY_SRC);

/// A device buffer of whole words that outlives plans, or a slice of one: for weights, inputs and outputs.
#[derive(Debug, Clone)]
pub struct Buffer {
    pub(super) raw: wgpu::Buffer,
    /// First word in `raw`.
    pub(super) start: usize,
    /// Words to bind: `words`, and guard words after them if there are any.
    pub(super) bound: usize,
    /// The value of the guard words, if a guarded context wrote them. Plans check it.
    pub(super) guard: Option<u32>,
    /// Length in 4-byte words.
    pub words: usize,
    /// Name in messages.
    pub label: Arc<str>,
}

impl Buffer {
    /// Alignment of slices, in words: WebGPU's 256 bytes for binding offsets.
    pub const SLICE_ALIGN: usize = 64;

    /// Wraps a whole buffer of wgpu.
    pub(super) fn whole(raw: wgpu::Buffer, label: &str, bytes: u64) -> Buffer {
        let words = (bytes / WORD) as usize;
        Buffer { raw, start: 0, bound: words.max(4), guard: None, words, label: label.into() }
    }

    /// Creates a buffer of the smallest size that can be bound.
    pub(super) fn unused(device: &wgpu::Device, label: &str) -> Buffer {
        Buffer::whole(allocate(device, label, 4 * WORD, STORAGE), label, 4 * WORD)
    }

    /// Returns `words` words from `start` on, as a buffer that shares the memory.
    ///
    /// # Panics
    /// If `start` isn't a multiple of [`Self::SLICE_ALIGN`] or the slice exceeds the buffer.
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

    /// Makes the first `words` words the tensor and the next ones its guard words, each `word`.
    pub(super) fn with_guard(self, words: usize, word: u32) -> Buffer {
        Buffer { words, bound: words + GUARD_WORDS, guard: Some(word), ..self }
    }

    /// Returns the guard words after the buffer.
    pub(super) fn behind(&self) -> Buffer {
        let start = self.start + self.words;
        Buffer { start, words: GUARD_WORDS, bound: GUARD_WORDS, guard: None, ..self.clone() }
    }
}

/// Allocates device memory without checking for errors.
pub(super) fn allocate(
    device: &wgpu::Device,
    label: &str,
    bytes: u64,
    usage: wgpu::BufferUsages,
) -> wgpu::Buffer {
    device.create_buffer(&wgpu::BufferDescriptor {
        label: Some(label),
        // An empty buffer can't be bound.
        size: bytes.max(16),
        usage,
        mapped_at_creation: false,
    })
}
