//! The MLP's non-linearity, element by element.

use super::{THREADS, expect, u32_of};
use crate::gpu::{Binding, Constants, Dispatch, Kernel, Recorder, Tensor, grid_1d};
use crate::shape::Activation;

/// The declaration of `gelu.wgsl`.
pub static KERNEL: Kernel = Kernel {
    name: "gelu",
    source: include_str!("../../shaders/gelu.wgsl"),
    helpers: &[include_str!("../../shaders/common/gelu.wgsl")],
    entry: "gelu_forward",
    bindings: &[Binding::read("x"), Binding::write("y")],
    uniform_bytes: size_of::<Params>(),
    subgroups: false,
};

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    len: u32,
    unused: [u32; 3],
}

pub(super) fn variants() -> Vec<(&'static Kernel, Constants)> {
    vec![(&KERNEL, vec![])]
}

/// y = activation(x).
#[derive(Debug, Clone, Copy)]
pub struct Forward {
    /// Any shape.
    pub x: Tensor,
    /// As x, written.
    pub y: Tensor,
    /// Which non-linearity.
    pub activation: Activation,
}

impl Forward {
    /// Records the kernel.
    ///
    /// # Panics
    /// If y is not as long as x.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        let Forward { x, y, activation } = *self;
        expect(recorder, "y", y, &[x.len]);
        recorder.dispatch(Dispatch {
            kernel: &KERNEL,
            constants: vec![],
            overrides: vec![("QUICK", f64::from(u8::from(activation == Activation::QuickGelu)))],
            tensors: vec![x, y],
            params: bytemuck::bytes_of(&Params { len: u32_of(x.len), unused: [0; 3] }).to_vec(),
            grid: grid_1d(x.len.div_ceil(THREADS)),
            flops: 20.0 * x.len as f64,
            label: recorder.label(name),
        });
    }
}
