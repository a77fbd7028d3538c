//! A recording: dispatches over named tensors, before any memory exists.

use super::context::{Buffer, Context};
use super::kernel::{Access, Kernel};
use super::{Constants, Overrides};
use std::sync::Arc;

/// A tensor of a recording. Copies name the same tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tensor {
    pub(super) id: usize,
    /// Length in words.
    pub len: usize,
}

pub(super) enum Home {
    /// Lives in the plan's heaps between its first write and its last read.
    Transient,
    /// Lives in a buffer of its own.
    Fixed(Buffer),
}

pub(super) struct TensorInfo {
    pub label: Arc<str>,
    pub len: usize,
    pub home: Home,
}

/// One kernel launch.
pub struct Dispatch {
    /// What is launched.
    pub kernel: &'static Kernel,
    /// Values for its constants.
    pub constants: Constants,
    /// Values for its overrides.
    pub overrides: Overrides,
    /// One tensor per declared binding, in order.
    pub tensors: Vec<Tensor>,
    /// The uniform block.
    pub params: Vec<u8>,
    /// Workgroups along x, y and z.
    pub grid: [u32; 3],
    /// Floating-point operations, for cutting submits and for benches.
    pub flops: f64,
    /// What it computes, such as `blocks.3.attn.qkv`.
    pub label: String,
}

/// Collects the dispatches of one step.
pub struct Recorder<'c> {
    /// The adapter that the recording is for.
    pub context: &'c Context,
    pub(super) tensors: Vec<TensorInfo>,
    pub(super) dispatches: Vec<Dispatch>,
    unused: Option<(Tensor, Tensor)>,
    scope: String,
}

impl<'c> Recorder<'c> {
    /// An empty recording.
    pub fn new(context: &'c Context) -> Self {
        Recorder { context, tensors: Vec::new(), dispatches: Vec::new(), unused: None, scope: String::new() }
    }

    /// A tensor of `len` words that lives in the plan's memory.
    pub fn tensor(&mut self, label: &str, len: usize) -> Tensor {
        self.add(label.into(), len, Home::Transient)
    }

    /// A tensor that is a buffer made before.
    pub fn import(&mut self, buffer: &Buffer) -> Tensor {
        self.add(buffer.label.clone(), buffer.words, Home::Fixed(buffer.clone()))
    }

    fn add(&mut self, label: Arc<str>, len: usize, home: Home) -> Tensor {
        self.tensors.push(TensorInfo { label, len, home });
        Tensor { id: self.tensors.len() - 1, len }
    }

    /// What follows is labelled as a part of `scope`.
    pub fn scope(&mut self, scope: impl Into<String>) {
        self.scope = scope.into();
    }

    /// `scope` and `name` joined by a dot.
    pub fn label(&self, name: &str) -> String {
        if self.scope.is_empty() { name.to_string() } else { format!("{}.{name}", self.scope) }
    }

    /// Stands for a binding that this launch's switches leave untouched.
    pub fn unused(&mut self, access: Access) -> Tensor {
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

    /// Appends a launch.
    ///
    /// # Panics
    /// If bindings, uniform block or grid don't fit the declaration: a mistake of ours, found before any dispatch.
    pub fn dispatch(&mut self, dispatch: Dispatch) {
        let Dispatch { kernel, tensors, params, grid, label, .. } = &dispatch;
        assert_eq!(tensors.len(), kernel.bindings.len(), "{label}: number of bindings of {}", kernel.name);
        assert_eq!(params.len(), kernel.uniform_bytes, "{label}: uniform bytes of {}", kernel.name);
        let most = self.context.max_workgroups();
        assert!(grid.iter().all(|&n| n >= 1 && n <= most), "{label}: grid {grid:?} of {}", kernel.name);
        for (tensor, binding) in tensors.iter().zip(kernel.bindings) {
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
