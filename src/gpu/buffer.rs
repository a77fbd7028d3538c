//! Buffers: device memory that outlives plans, slices of it, and guard words behind it.

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

/// The usages of a buffer that kernels bind.
pub(super) const STORAGE: wgpu::BufferUsages =
    wgpu::BufferUsages::STORAGE.union(wgpu::BufferUsages::COPY_DST).union(wgpu::BufferUsages::COPY_SRC);

/// A device buffer of whole words that outlives plans, or a slice of one: weights, inputs, outputs.
#[derive(Debug, Clone)]
pub struct Buffer {
    pub(super) raw: wgpu::Buffer,
    /// Where it begins in `raw`, in words.
    pub(super) start: usize,
    /// Words that a kernel can reach: `words`, and guard words behind them if there are some.
    pub(super) bound: usize,
    /// The value of those, if a guarded context made them: plans check it.
    pub(super) guard: Option<u32>,
    /// Length in 4-byte words.
    pub words: usize,
    /// Name in messages.
    pub label: Arc<str>,
}

impl Buffer {
    /// Words that slices are aligned to: WebGPU's 256 bytes for binding offsets.
    pub const SLICE_ALIGN: usize = 64;

    /// The whole of a raw buffer.
    pub(super) fn whole(raw: wgpu::Buffer, label: &str, bytes: u64) -> Buffer {
        let words = (bytes / WORD) as usize;
        Buffer { raw, start: 0, bound: words.max(4), guard: None, words, label: label.into() }
    }

    /// The smallest buffer that can be bound.
    pub(super) fn unused(device: &wgpu::Device, label: &str) -> Buffer {
        Buffer::whole(allocate(device, label, 4 * WORD, STORAGE), label, 4 * WORD)
    }

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

/// Memory of a device, unchecked.
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
