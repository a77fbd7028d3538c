//! Buffers: device memory that outlives plans, slices of it, and guard words behind it.

use super::WORD;
use super::context::Context;
use super::error::{Error, Result};
use super::faults::Rehearsal;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Words that a guarded context has behind each of its tensors: more than the widest row of a tile.
pub(super) const GUARD_WORDS: usize = 256;
/// A guard word behind a buffer: NaN as a number and as two halves. Its last bits differ from buffer to buffer, so that a word
/// copied from guard to guard shows.
const GUARD: u32 = 0x7fc8_7e00;
/// Those last bits.
pub(super) const GUARD_NUMBERS: u32 = 0x1ff;

/// The usages of a buffer that kernels bind.
const STORAGE: wgpu::BufferUsages =
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

fn allocate(device: &wgpu::Device, label: &str, bytes: u64, usage: wgpu::BufferUsages) -> wgpu::Buffer {
    device.create_buffer(&wgpu::BufferDescriptor {
        label: Some(label),
        // An empty buffer can't be bound.
        size: bytes.max(16),
        usage,
        mapped_at_creation: false,
    })
}

impl Context {
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
        Ok(Buffer::whole(self.allocate(label, bytes, STORAGE)?, label, bytes))
    }

    /// A zeroed buffer of `words` 4-byte words.
    ///
    /// # Errors
    /// [`Error::TooLarge`] if one binding can't show it.
    pub fn buffer(&self, label: &str, words: usize) -> Result<Buffer> {
        let guard = if self.is_guarded() { GUARD_WORDS } else { 0 };
        let bytes = (words + guard) as u64 * WORD;
        if bytes > self.max_tensor_bytes() {
            return Err(Error::TooLarge(format!(
                "{label} needs {bytes} bytes; {} binds at most {}",
                self.adapter.name,
                self.max_tensor_bytes()
            )));
        }
        let buffer = self.storage_buffer(label, bytes)?;
        let Some(guards) = &self.guards else { return Ok(buffer) };
        let number = guards.fetch_add(1, Ordering::Relaxed);
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
}
