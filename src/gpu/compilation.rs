//! Compilation of pipelines.

use super::context::Context;
use super::error::Result;
use super::kernel::{Access, assemble};
use super::locked;
use super::pipeline::{Key, Pipeline, Pipelines};
use super::recorder::Dispatch;
use rayon::prelude::*;
use std::collections::HashMap;
use std::sync::Arc;

impl Dispatch {
    fn pipeline_key(&self) -> Key {
        let Dispatch { kernel, constants, overrides, .. } = self;
        let bits = overrides.iter().map(|(name, value)| (*name, value.to_bits())).collect();
        (kernel.file.name, kernel.entry, constants.clone(), self.storage(), bits)
    }
}

impl Context {
    /// Compiles the missing pipelines of `dispatches`, on all CPU cores.
    ///
    /// # Errors
    /// The driver's error. If several pipelines fail, the error doesn't depend on the order of compilation.
    pub(super) fn compile(&self, dispatches: &[Dispatch]) -> Result<()> {
        let mut missing: HashMap<Key, &Dispatch> =
            dispatches.iter().map(|dispatch| (dispatch.pipeline_key(), dispatch)).collect();
        let there = locked(&self.pipelines.compiled);
        missing.retain(|key, _| !there.contains_key(key));
        drop(there);
        missing.into_values().par_bridge().for_each(|dispatch| {
            self.pipeline(dispatch);
        });
        self.submissions.sort_faults();
        self.check()
    }

    /// Returns the pipeline of a dispatch; compiles it if it is missing.
    pub(super) fn pipeline(&self, dispatch: &Dispatch) -> Arc<Pipeline> {
        let Dispatch { kernel, constants, overrides, .. } = dispatch;
        let Pipelines { compiled, cache, checked } = &self.pipelines;
        let key = dispatch.pipeline_key();
        if let Some(pipeline) = locked(compiled).get(&key) {
            return pipeline.clone();
        }
        let source = wgpu::ShaderSource::Wgsl(assemble(kernel, constants, dispatch.storage()).into());
        let module = wgpu::ShaderModuleDescriptor { label: Some(kernel.file.name), source };
        let module = if *checked {
            self.device.create_shader_module(module)
        } else {
            // SAFETY: kernels check or clamp every index, and every loop ends. Tests check this with guard words
            // after each buffer and with `LAT_CHECKED=1`.
            unsafe {
                self.device.create_shader_module_trusted(module, wgpu::ShaderRuntimeChecks::unchecked())
            }
        };
        let storage = kernel
            .bindings
            .iter()
            .map(|binding| wgpu::BufferBindingType::Storage { read_only: binding.access == Access::Read });
        let entries: Vec<_> = std::iter::once(wgpu::BufferBindingType::Uniform)
            .chain(storage)
            .zip(0..)
            .map(|(ty, binding)| wgpu::BindGroupLayoutEntry {
                binding,
                visibility: wgpu::ShaderStages::COMPUTE,
                ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None },
                count: None,
            })
            .collect();
        let layout = self.device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: Some(kernel.file.name),
            entries: &entries,
        });
        let pipeline_layout = self.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(kernel.file.name),
            bind_group_layouts: &[Some(&layout)],
            immediate_size: 0,
        });
        let raw = self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(kernel.file.name),
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: Some(kernel.entry),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: overrides,
                zero_initialize_workgroup_memory: *checked,
            },
            cache: cache.as_ref().map(|cache| &cache.raw),
        });
        let pipeline = Arc::new(Pipeline { raw, layout });
        locked(compiled).insert(key, pipeline.clone());
        pipeline
    }
}
