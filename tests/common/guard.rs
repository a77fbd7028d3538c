//! The guarded recordings of `lat_wgpu::selftest`, on the adapter that tests share; what they find is a panic.

use super::context;
use lat_wgpu::gpu::Storage;
use lat_wgpu::selftest::guard;
use std::ops::{Deref, DerefMut};

/// A recording whose tensors are guarded buffers.
pub struct Guarded {
    case: String,
    recording: guard::Guarded<'static>,
}

impl Guarded {
    /// An empty recording; `case` stands in messages.
    pub fn new(case: &str) -> Self {
        Self::with_storage(case, Storage::F32)
    }

    /// An empty recording with activations stored so.
    pub fn with_storage(case: &str, storage: Storage) -> Self {
        Guarded { case: case.to_string(), recording: guard::Guarded::new(context(), storage) }
    }

    /// Runs twice; gives the outputs in the order of their making.
    ///
    /// # Panics
    /// If anything is unwritten, overwritten or not the same twice.
    #[track_caller]
    pub fn run(self) -> Vec<Vec<f32>> {
        let Guarded { case, recording } = self;
        match recording.run() {
            Ok(run) => run.outputs.into_iter().map(|(_, found)| found).collect(),
            Err(error) => panic!("{case}: {error}"),
        }
    }
}

impl Deref for Guarded {
    type Target = guard::Guarded<'static>;

    fn deref(&self) -> &Self::Target {
        &self.recording
    }
}

impl DerefMut for Guarded {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.recording
    }
}
