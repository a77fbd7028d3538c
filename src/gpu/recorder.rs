//! A recording: dispatches over named tensors, before memory is allocated.

use super::buffer::Buffer;
use super::context::Context;
use super::kernel::{Access, Kernel, ShaderFile, Storage, Tensors, Uniform, WorkgroupSize};
use super::{Constants, Overrides, WORD};
use std::sync::Arc;

/// A tensor of a recording. Copies are handles of the same tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tensor {
    pub(super) id: usize,
    /// Number of elements.
    pub len: usize,
    /// Type of its elements. [`Storage::F32`] means words of any type.
    pub storage: Storage,
}

impl Tensor {
    /// Returns its bytes, rounded up to whole words.
    pub fn bytes(&self) -> u64 {
        (self.len as u64 * self.storage.bytes()).next_multiple_of(WORD)
    }
}

/// The memory behind a tensor.
pub(super) enum Backing {
    /// A range of the plan's heaps, between its first write and its last read.
    Heap,
    /// An imported buffer.
    Buffer(Buffer),
}

pub(super) struct TensorInfo {
    pub label: Arc<str>,
    pub bytes: u64,
    pub backing: Backing,
}

/// The phase of a training step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Phase {
    /// From the images to the loss.
    #[default]
    Forward,
    /// From the loss to the gradients. Labels start with `backward.`.
    Backward,
    /// From the gradients to the parameters.
    Optimiser,
}

/// A recorded launch of a kernel.
pub struct Dispatch {
    /// The entry point.
    pub kernel: Kernel,
    /// Values for its constants.
    pub constants: Constants,
    /// Values for its overrides.
    pub overrides: Overrides,
    /// One tensor per declared binding, in order. All quads have the same storage.
    pub tensors: Vec<Tensor>,
    /// Bytes of the uniform block.
    pub params: Vec<u8>,
    /// Workgroups along x, y and z.
    pub grid: [u32; 3],
    /// Floating-point operations, for the cuts into submits and for benches.
    pub flops: f64,
    /// Phase of the step.
    pub phase: Phase,
    /// Name of its result, such as `blocks.3.attn.qkv`.
    pub label: String,
}

impl Dispatch {
    /// Returns the storage of the kernel's quads.
    pub fn storage(&self) -> Storage {
        self.quads().map(|tensor| tensor.storage).find(|storage| *storage != Storage::F32).unwrap_or_default()
    }

    fn quads(&self) -> impl Iterator<Item = &Tensor> {
        let bindings = self.tensors.iter().zip(self.kernel.bindings);
        bindings.filter(|(_, binding)| self.kernel.file.quads && binding.quads).map(|(tensor, _)| tensor)
    }

    /// Returns the bytes to move between memory and kernel: each bound tensor once, even if it is read and written.
    pub fn bytes(&self) -> f64 {
        let distinct =
            self.tensors.iter().enumerate().filter(|(i, tensor)| !self.tensors[..*i].contains(tensor));
        distinct.map(|(_, tensor)| tensor.bytes() as f64).sum()
    }
}

/// Builds a [`Dispatch`].
#[derive(Debug, Clone)]
pub struct Launch {
    kernel: Kernel,
    constants: Constants,
    overrides: Overrides,
    tensors: Vec<Option<Tensor>>,
    params: Vec<u8>,
    grid: [u32; 3],
}

impl ShaderFile {
    /// Starts a dispatch of one workgroup of the entry point of `tensors`. Sets the overrides of optional tensors.
    pub fn launch<T: Tensors>(&'static self, params: T::Params, tensors: T) -> Launch {
        let tensors = tensors.list();
        let mut overrides = Overrides::new();
        for (binding, tensor) in T::BINDINGS.iter().zip(&tensors) {
            let Some(switch) = binding.switch else { continue };
            let on = f64::from(u8::from(tensor.is_some()));
            match overrides.iter().find(|(name, _)| *name == switch) {
                Some((_, other)) => assert_eq!(on, *other, "{}: {} alone", self.name, binding.name),
                None => overrides.push((switch, on)),
            }
        }
        let mut params = bytemuck::bytes_of(&params).to_vec();
        params.resize(T::Params::BYTES, 0);
        Launch { kernel: self.kernel::<T>(), constants: vec![], overrides, tensors, params, grid: [1; 3] }
    }
}

impl Launch {
    /// Sets the file's constants.
    pub fn constants(self, constants: Constants) -> Launch {
        Launch { constants, ..self }
    }

    /// Sets an override.
    pub fn choice(mut self, name: &'static str, value: impl Into<f64>) -> Launch {
        self.overrides.push((name, value.into()));
        self
    }

    /// Sets a boolean override.
    pub fn switch(self, name: &'static str, on: bool) -> Launch {
        self.choice(name, u8::from(on))
    }

    /// Sets the workgroups along x, y and z.
    pub fn grid(self, grid: [u32; 3]) -> Launch {
        Launch { grid, ..self }
    }

    /// Sets the number of workgroups, see [`grid_1d`].
    pub fn workgroups(self, count: usize) -> Launch {
        self.grid(grid_1d(count))
    }

    /// Sets the number of workgroups to cover `count` invocations.
    ///
    /// # Panics
    /// If the file's workgroup size isn't a fixed number.
    pub fn invocations(self, count: usize) -> Launch {
        let file = self.kernel.file;
        let WorkgroupSize::Count(each) = file.workgroup_size else {
            panic!("{}: {:?}", file.name, file.workgroup_size)
        };
        self.workgroups(count.div_ceil(each as usize))
    }

    /// Records the dispatch under the recorder's scope and `name`.
    ///
    /// # Panics
    /// If tensors or grid don't fit the declaration.
    pub fn record(self, recorder: &mut Recorder<'_>, name: &str, flops: f64) {
        let Launch { kernel, constants, overrides, tensors, params, grid } = self;
        let bindings = tensors.into_iter().zip(kernel.bindings);
        let tensors =
            bindings.map(|(tensor, b)| tensor.unwrap_or_else(|| recorder.unused(b.access))).collect();
        let (phase, label) = (recorder.phase, recorder.label(name));
        recorder.dispatch(Dispatch {
            kernel,
            constants,
            overrides,
            tensors,
            params,
            grid,
            flops,
            phase,
            label,
        });
    }
}

/// Collects the dispatches of one step.
pub struct Recorder<'c> {
    /// The opened adapter.
    pub context: &'c Context,
    /// Most floating-point operations of a dispatch. Kernels that can do so split longer ones.
    pub dispatch_flops: f64,
    /// Storage of activations.
    storage: Storage,
    pub(super) tensors: Vec<TensorInfo>,
    pub(super) dispatches: Vec<Dispatch>,
    /// Number of dispatches before the end of each section but the last.
    pub(super) stops: Vec<usize>,
    unused: Option<(Tensor, Tensor)>,
    phase: Phase,
    scope: String,
}

impl<'c> Recorder<'c> {
    /// Starts a recording with activations in the context's storage.
    pub fn new(context: &'c Context) -> Self {
        Self::with_storage(context, context.storage())
    }

    /// Starts a recording with activations in `storage`.
    pub fn with_storage(context: &'c Context, storage: Storage) -> Self {
        Recorder {
            context,
            dispatch_flops: context.class().dispatch_flops(),
            storage,
            tensors: Vec::new(),
            dispatches: Vec::new(),
            stops: Vec::new(),
            unused: None,
            phase: Phase::default(),
            scope: String::new(),
        }
    }

    /// Creates a transient tensor of `len` words.
    pub fn tensor(&mut self, label: &str, len: usize) -> Tensor {
        self.add(label.into(), len, Storage::F32, Backing::Heap)
    }

    /// Creates a transient tensor of `len` elements in the recording's storage.
    pub fn activation(&mut self, label: &str, len: usize) -> Tensor {
        self.add(label.into(), len, self.storage, Backing::Heap)
    }

    /// Imports a buffer of words as a tensor.
    pub fn import(&mut self, buffer: &Buffer) -> Tensor {
        self.import_as(buffer, Storage::F32)
    }

    /// Imports a buffer of elements in `storage` as a tensor. A word holds two f16.
    pub fn import_as(&mut self, buffer: &Buffer, storage: Storage) -> Tensor {
        let len = buffer.words * (WORD / storage.bytes()) as usize;
        self.add(buffer.label.clone(), len, storage, Backing::Buffer(buffer.clone()))
    }

    fn add(&mut self, label: Arc<str>, len: usize, storage: Storage, backing: Backing) -> Tensor {
        let tensor = Tensor { id: self.tensors.len(), len, storage };
        self.tensors.push(TensorInfo { label, bytes: tensor.bytes(), backing });
        tensor
    }

    /// Sets the phase of the following dispatches, and the scope that precedes their labels.
    pub fn scope(&mut self, phase: Phase, scope: impl Into<String>) {
        (self.phase, self.scope) = (phase, scope.into());
    }

    /// Ends a section. [`Plan::run_section`](super::Plan::run_section) runs the plan one section at a time, so that the
    /// host can read and write buffers in between.
    pub fn stop(&mut self) {
        self.stops.push(self.dispatches.len());
    }

    /// Returns phase, scope and `name`, joined by dots.
    pub fn label(&self, name: &str) -> String {
        let phase = if self.phase == Phase::Backward { "backward" } else { "" };
        let parts = [phase, &self.scope, name];
        parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(".")
    }

    /// Returns the tensor to bind where an optional one is absent.
    pub(super) fn unused(&mut self, access: Access) -> Tensor {
        let context = self.context;
        let (read, write) = match self.unused {
            Some(pair) => pair,
            None => {
                let pair = (self.import(&context.unused[0]), self.import(&context.unused[1]));
                *self.unused.insert(pair)
            }
        };
        if access == Access::Read { read } else { write }
    }

    /// Checks and appends a dispatch.
    fn dispatch(&mut self, dispatch: Dispatch) {
        let Dispatch { kernel, tensors, grid, label, .. } = &dispatch;
        let most = self.context.limits.max_compute_workgroups_per_dimension;
        assert!(grid.iter().all(|&n| n >= 1 && n <= most), "{label}: grid {grid:?} of {}", kernel.file.name);
        let unused = self.unused.map_or([usize::MAX; 2], |(read, write)| [read.id, write.id]);
        for tensor in dispatch.quads().filter(|tensor| !unused.contains(&tensor.id)) {
            let agree = tensor.storage == dispatch.storage();
            assert!(
                agree,
                "{label}: quads of {} are {:?} and {:?}",
                kernel.file.name,
                tensor.storage,
                dispatch.storage()
            );
        }
        for (tensor, binding) in tensors.iter().zip(kernel.bindings) {
            let is_narrowed = tensor.storage != Storage::F32 && !(kernel.file.quads && binding.quads);
            assert!(!is_narrowed, "{label}: {} of {} is narrowed", binding.name, kernel.file.name);
            for (other, twin) in tensors.iter().zip(kernel.bindings) {
                let clash = tensor == other && binding.access != twin.access;
                assert!(!clash, "{label}: one tensor is both {} and {}", binding.name, twin.name);
            }
        }
        self.dispatches.push(dispatch);
    }
}

/// Returns a grid of at least `groups` workgroups, folded into two dimensions where one would exceed WebGPU's limit.
///
/// A kernel's index is `workgroup.x + workgroup.y * num_workgroups.x`; the kernel skips indices past the end.
pub fn grid_1d(groups: usize) -> [u32; 3] {
    const MOST: usize = 65_535;
    let y = groups.div_ceil(MOST).max(1);
    let x = groups.div_ceil(y).max(1);
    [x as u32, y as u32, 1]
}

#[cfg(test)]
mod tests {
    use super::grid_1d;

    #[test]
    fn folded_grids_cover_everything_with_little_waste() {
        for groups in [1, 2, 65_534, 65_535, 65_536, 75_648, 131_071, 1_000_003] {
            let [x, y, z] = grid_1d(groups).map(|n| n as usize);
            assert!(x * y >= groups && x * y < groups + y && x <= 65_535 && y <= 65_535 && z == 1);
        }
    }
}
