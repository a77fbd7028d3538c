//! Buffers of a context: allocated, filled and guarded.

use super::WORD;
use super::buffer::{BUFFER_GUARD, Buffer, GUARD_NUMBERS, GUARD_WORDS, STORAGE, allocate};
use super::context::Context;
use super::error::{Error, Result};
use super::faults::Rehearsal;
use std::sync::atomic::Ordering;

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
        let buffer = buffer.with_guard(words, BUFFER_GUARD | number & GUARD_NUMBERS);
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
