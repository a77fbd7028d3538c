//! Pipelines: each compiled once for a context, and kept from run to run where the driver gives them out.

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

/// The properties of a launch by which pipelines differ.
pub(super) type Key = (&'static str, &'static str, Constants, Storage, Vec<(&'static str, u64)>);

/// The pipelines of a context.
pub(super) struct Pipelines {
    pub compiled: Mutex<HashMap<Key, Arc<Pipeline>>>,
    /// The driver's own cache, kept in a file.
    pub cache: Option<PipelineCache>,
    /// Shaders check every index and loop.
    pub checked: bool,
}

impl Pipelines {
    /// None compiled yet.
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

    /// Writes the cache's file if anything was compiled.
    pub fn keep(&self) {
        if let Some(cache) = &self.cache
            && self.compiled.lock().is_ok_and(|compiled| !compiled.is_empty())
        {
            catch_panic(|| cache.keep());
        }
    }
}
