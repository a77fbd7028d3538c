//! The pipelines of a context: each is compiled once.

use super::Constants;
use super::adapter::AdapterSummary;
use super::cache::PipelineCache;
use super::kernel::Storage;
use super::options::ContextOptions;
use super::panics::catch_panic;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

pub(super) struct Pipeline {
    pub raw: wgpu::ComputePipeline,
    pub layout: wgpu::BindGroupLayout,
}

/// Identifies a pipeline: file, entry point, constants, storage and the bits of overrides.
pub(super) type Key = (&'static str, &'static str, Constants, Storage, Vec<(&'static str, u64)>);

/// The pipelines of a context.
pub(super) struct Pipelines {
    pub compiled: Mutex<HashMap<Key, Arc<Pipeline>>>,
    /// The driver's cache, kept in a file.
    pub cache: Option<PipelineCache>,
    /// Compile shaders with run-time checks.
    pub checked: bool,
}

impl Pipelines {
    /// Starts with no pipeline, and with the driver's cache from its file.
    pub fn new(
        device: &wgpu::Device,
        adapter: &wgpu::Adapter,
        summary: &AdapterSummary,
        options: &ContextOptions,
    ) -> Pipelines {
        let file = summary.pipeline_cache(options).ok();
        let cache = file.map(|file| PipelineCache::open(device, &adapter.get_info(), file.path));
        Pipelines { compiled: Mutex::default(), cache, checked: options.checked }
    }

    /// Writes the cache file if a pipeline was compiled.
    pub fn keep(&self) {
        if let Some(cache) = &self.cache
            && self.compiled.lock().is_ok_and(|compiled| !compiled.is_empty())
        {
            catch_panic(|| cache.keep());
        }
    }
}
