//! Adds one tensor to another.

use super::{THREADS, expect, u32_of};
use crate::gpu::{Binding, Constants, Dispatch, Kernel, Recorder, Tensor, grid_1d};

/// The declaration of `accumulate.wgsl`.
pub static KERNEL: Kernel = Kernel {
    name: "accumulate",
    source: include_str!("../../shaders/accumulate.wgsl"),
    helpers: &[],
    entry: "accumulate",
    bindings: &[Binding::read("addend"), Binding::write("sum")],
    uniform_bytes: size_of::<Params>(),
    subgroups: false,
    quads: false,
};

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    count: u32,
    unused: [u32; 3],
}

pub(super) fn variants() -> Vec<(&'static Kernel, Constants)> {
    vec![(&KERNEL, vec![])]
}

/// sum += addend.
#[derive(Debug, Clone, Copy)]
pub struct Accumulate {
    /// Any shape.
    pub addend: Tensor,
    /// The same shape, read and written.
    pub sum: Tensor,
}

impl Accumulate {
    /// Records the kernel.
    ///
    /// # Panics
    /// If the tensors differ in length.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        let Accumulate { addend, sum } = *self;
        expect(recorder, "sum", sum, &[addend.len]);
        let params = Params { count: u32_of(sum.len), unused: [0; 3] };
        recorder.dispatch(Dispatch {
            kernel: &KERNEL,
            constants: vec![],
            overrides: vec![],
            tensors: vec![addend, sum],
            params: bytemuck::bytes_of(&params).to_vec(),
            grid: grid_1d(sum.len.div_ceil(THREADS)),
            flops: sum.len as f64,
            label: recorder.label(name),
        });
    }
}
