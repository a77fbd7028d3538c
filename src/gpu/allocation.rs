//! Allocation and writing of buffers, and their guard words.

use super::WORD;
use super::buffer::{BUFFER_GUARD, Buffer, GUARD_NUMBERS, GUARD_WORDS, STORAGE, allocate};
use super::context::Context;
use super::error::{Error, Result};
use super::faults::Rehearsal;
use std::sync::atomic::Ordering;

impl Context {
    /// Allocates device memory.
    ///
    /// # Errors
    /// [`Error::Memory`] if there is not enough; any other error of the driver.
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

    /// Creates a zeroed buffer of `bytes` bytes, a multiple of [`WORD`].
    ///
    /// # Errors
    /// As [`Self::allocate`].
    pub(super) fn storage_buffer(&self, label: &str, bytes: u64) -> Result<Buffer> {
        Ok(Buffer::whole(self.allocate(label, bytes, STORAGE)?, label, bytes))
    }

    /// Creates a zeroed buffer of `words` 4-byte words.
    ///
    /// # Errors
    /// [`Error::TooLarge`] if it exceeds one binding; [`Error::Memory`] if there is not enough.
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
        let buffer = buffer.with_guard(words, BUFFER_GUARD | number & GUARD_NUMBERS);
        self.write_guard(&buffer);
        Ok(buffer)
    }

    /// Writes the guard words after a buffer that has them.
    pub(super) fn write_guard(&self, buffer: &Buffer) {
        if let Some(word) = buffer.guard {
            self.write(&buffer.behind(), bytemuck::cast_slice(&[word; GUARD_WORDS]));
        }
    }

    /// Creates a zeroed buffer of `words` words, of which only slices are bound.
    ///
    /// # Errors
    /// [`Error::TooLarge`] if it exceeds the adapter's largest buffer; [`Error::Memory`] if there is not enough.
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

    /// Creates a buffer of `words` words without memory, for recordings that are only summarised. They must never run.
    pub fn unallocated(&self, label: &str, words: usize) -> Buffer {
        Buffer { label: label.into(), words, bound: words.max(4), ..self.unused[1].clone() }
    }

    /// Creates a buffer with `data`.
    ///
    /// # Errors
    /// As [`Self::buffer`].
    pub fn upload(&self, label: &str, data: &[f32]) -> Result<Buffer> {
        let buffer = self.buffer(label, data.len())?;
        self.write(&buffer, bytemuck::cast_slice(data));
        Ok(buffer)
    }

    /// Creates a buffer of `words` words followed by the words of `guard`, for tests. The guard words are bound too but
    /// belong to no tensor.
    ///
    /// # Errors
    /// [`Error::TooLarge`] if both exceed one binding.
    pub fn guarded_buffer(&self, label: &str, words: usize, guard: &[u32]) -> Result<Buffer> {
        let whole = self.buffer(label, words + guard.len())?;
        self.queue.write_buffer(&whole.raw, words as u64 * WORD, bytemuck::cast_slice(guard));
        Ok(Buffer { words, bound: whole.words, guard: None, ..whole })
    }

    /// Writes the first words of a buffer, ordered with submitted work.
    ///
    /// # Panics
    /// If `bytes` has a part of a word or exceeds the buffer.
    pub fn write(&self, buffer: &Buffer, bytes: &[u8]) {
        assert!(bytes.len() <= buffer.words * WORD as usize, "{}: write past its end", buffer.label);
        if !bytes.is_empty() {
            self.queue.write_buffer(&buffer.raw, buffer.start as u64 * WORD, bytes);
        }
    }
}
