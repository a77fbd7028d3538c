//! A recording: dispatches over named tensors, before any memory exists.

use super::buffer::Buffer;
use super::context::Context;
use super::kernel::{Access, Kernel, ShaderFile, Storage, Tensors, Uniform, WorkgroupSize};
use super::{Constants, Overrides, WORD};
use std::sync::Arc;

/// A tensor of a recording. Copies name the same tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tensor {
    pub(super) id: usize,
    /// Number of elements.
    pub len: usize,
    /// Kind of its elements: [`Storage::F32`] means words of any kind.
    pub storage: Storage,
}

impl Tensor {
    /// Bytes that it takes, whole words.
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

/// The part of a training step that a launch belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Phase {
    /// Up to the loss.
    #[default]
    Forward,
    /// From the loss down; labels begin with `backward.`.
    Backward,
    /// From the gradients to the parameters.
    Optimiser,
}

/// One kernel launch.
pub struct Dispatch {
    /// The entry point.
    pub kernel: Kernel,
    /// Values for its constants.
    pub constants: Constants,
    /// Values for its overrides.
    pub overrides: Overrides,
    /// One tensor per declared binding, in order; those of quads agree in their storage.
    pub tensors: Vec<Tensor>,
    /// The uniform block.
    pub params: Vec<u8>,
    /// Workgroups along x, y and z.
    pub grid: [u32; 3],
    /// Floating-point operations, for cutting submits, benches and profiles.
    pub flops: f64,
    /// The part of a step that it belongs to.
    pub phase: Phase,
    /// Name of its result, such as `blocks.3.attn.qkv`.
    pub label: String,
}

impl Dispatch {
    /// How the quads that the kernel touches lie in memory.
    pub fn storage(&self) -> Storage {
        self.quads().map(|tensor| tensor.storage).find(|storage| *storage != Storage::F32).unwrap_or_default()
    }

    fn quads(&self) -> impl Iterator<Item = &Tensor> {
        let bindings = self.tensors.iter().zip(self.kernel.bindings);
        bindings.filter(|(_, binding)| self.kernel.file.quads && binding.quads).map(|(tensor, _)| tensor)
    }

    /// Bytes that must move between memory and kernel: every bound tensor once, also if it is read and written.
    pub fn bytes(&self) -> f64 {
        let distinct =
            self.tensors.iter().enumerate().filter(|(i, tensor)| !self.tensors[..*i].contains(tensor));
        distinct.map(|(_, tensor)| tensor.bytes() as f64).sum()
    }
}

/// A kernel with its tensors, on its way into a recording.
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
    /// A launch of the entry point of `tensors`, of one workgroup. Switches that hang on a tensor are set.
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
    /// With values for the file's constants.
    pub fn constants(self, constants: Constants) -> Launch {
        Launch { constants, ..self }
    }

    /// With a value for an override.
    pub fn choice(mut self, name: &'static str, value: impl Into<f64>) -> Launch {
        self.overrides.push((name, value.into()));
        self
    }

    /// With a value for a switch.
    pub fn switch(self, name: &'static str, on: bool) -> Launch {
        self.choice(name, u8::from(on))
    }

    /// Of workgroups along x, y and z.
    pub fn grid(self, grid: [u32; 3]) -> Launch {
        Launch { grid, ..self }
    }

    /// Of so many workgroups, see [`grid_1d`].
    pub fn workgroups(self, count: usize) -> Launch {
        self.grid(grid_1d(count))
    }

    /// Of as many workgroups as have `count` invocations.
    ///
    /// # Panics
    /// If the declaration doesn't say how many invocations a workgroup has.
    pub fn invocations(self, count: usize) -> Launch {
        let file = self.kernel.file;
        let WorkgroupSize::Count(each) = file.workgroup_size else {
            panic!("{}: {:?}", file.name, file.workgroup_size)
        };
        self.workgroups(count.div_ceil(each as usize))
    }

    /// Records it under the recorder's scope and `name`.
    ///
    /// # Panics
    /// If tensors or grid don't fit the declaration: a mistake in the caller, found before any dispatch.
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
    /// The adapter that the recording is for.
    pub context: &'c Context,
    /// Floating-point operations of the longest launch: kernels that can cut longer ones do.
    pub dispatch_flops: f64,
    /// How activations lie in memory.
    storage: Storage,
    pub(super) tensors: Vec<TensorInfo>,
    pub(super) dispatches: Vec<Dispatch>,
    unused: Option<(Tensor, Tensor)>,
    phase: Phase,
    scope: String,
}

impl<'c> Recorder<'c> {
    /// An empty recording with activations as the context stores them.
    pub fn new(context: &'c Context) -> Self {
        Self::with_storage(context, context.storage())
    }

    /// An empty recording with activations as `storage` says.
    pub fn with_storage(context: &'c Context, storage: Storage) -> Self {
        Recorder {
            context,
            dispatch_flops: context.class().dispatch_flops(),
            storage,
            tensors: Vec::new(),
            dispatches: Vec::new(),
            unused: None,
            phase: Phase::default(),
            scope: String::new(),
        }
    }

    /// A tensor of `len` words that lives in the plan's memory.
    pub fn tensor(&mut self, label: &str, len: usize) -> Tensor {
        self.add(label.into(), len, Storage::F32, Backing::Heap)
    }

    /// A tensor of `len` activations, in the recording's storage, that lives in the plan's memory.
    pub fn activation(&mut self, label: &str, len: usize) -> Tensor {
        self.add(label.into(), len, self.storage, Backing::Heap)
    }

    /// A tensor that is a buffer made before.
    pub fn import(&mut self, buffer: &Buffer) -> Tensor {
        self.import_as(buffer, Storage::F32)
    }

    /// A tensor that is a buffer of elements in `storage`, made before: two to a word if they are halves.
    pub fn import_as(&mut self, buffer: &Buffer, storage: Storage) -> Tensor {
        let len = buffer.words * (WORD / storage.bytes()) as usize;
        self.add(buffer.label.clone(), len, storage, Backing::Buffer(buffer.clone()))
    }

    fn add(&mut self, label: Arc<str>, len: usize, storage: Storage, backing: Backing) -> Tensor {
        let tensor = Tensor { id: self.tensors.len(), len, storage };
        self.tensors.push(TensorInfo { label, bytes: tensor.bytes(), backing });
        tensor
    }

    /// Puts the launches that follow into `phase`, labelled as a part of `scope`.
    pub fn scope(&mut self, phase: Phase, scope: impl Into<String>) {
        (self.phase, self.scope) = (phase, scope.into());
    }

    /// Phase, scope and `name` joined by dots.
    pub fn label(&self, name: &str) -> String {
        let phase = if self.phase == Phase::Backward { "backward" } else { "" };
        let parts = [phase, &self.scope, name];
        parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(".")
    }

    /// Stands for a binding that a launch has no tensor for.
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

    /// Appends a launch, which [`Launch::record`] makes.
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
            let halves = tensor.storage != Storage::F32 && !(kernel.file.quads && binding.quads);
            assert!(!halves, "{label}: {} of {} is narrowed", binding.name, kernel.file.name);
            for (other, twin) in tensors.iter().zip(kernel.bindings) {
                let clash = tensor == other && binding.access != twin.access;
                assert!(!clash, "{label}: one tensor is both {} and {}", binding.name, twin.name);
            }
        }
        self.dispatches.push(dispatch);
    }
}

/// A grid of at least `groups` workgroups, folded into a second dimension where one is too short.
///
/// The kernel's index is `workgroup.x + workgroup.y * num_workgroups.x`; it guards what is past the end.
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
