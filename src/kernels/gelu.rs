//! The MLP's non-linearity, element by element.

use super::{THREADS, expect, u32_of};
use crate::gpu::{Binding, Constants, Dispatch, Kernel, Recorder, Tensor, grid_1d};
use crate::shape::Activation;

/// The declaration of `gelu.wgsl`, forward.
pub static FORWARD: Kernel = Kernel {
    name: "gelu",
    source: include_str!("../../shaders/gelu.wgsl"),
    helpers: &[include_str!("../../shaders/common/gelu.wgsl")],
    entry: "gelu_forward",
    bindings: &[Binding::read("x"), Binding::write("y")],
    uniform_bytes: size_of::<Params>(),
    subgroups: false,
    quads: false,
};

/// The declaration of `gelu.wgsl`, backward.
pub static BACKWARD: Kernel = Kernel {
    entry: "gelu_backward",
    bindings: &[Binding::read("x"), Binding::read("dy"), Binding::write("x_gradient")],
    ..FORWARD
};

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    len: u32,
    unused: [u32; 3],
}

pub(super) fn variants() -> Vec<(&'static Kernel, Constants)> {
    vec![(&FORWARD, vec![]), (&BACKWARD, vec![])]
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
            kernel: &FORWARD,
            constants: vec![],
            overrides: vec![("QUICK", f64::from(u8::from(activation == Activation::QuickGelu)))],
            tensors: vec![x, y],
            params: bytemuck::bytes_of(&Params { len: u32_of(x.len), unused: [0; 3] }).to_vec(),
            grid: grid_1d(x.len.div_ceil(THREADS)),
            // erfc 25, of which its polynomial 18, and 6 around it; the sigmoid form 5.
            flops: if activation == Activation::Gelu { 31.0 } else { 5.0 } * x.len as f64,
            label: recorder.label(name),
        });
    }
}

/// dx = dy·activation'(x).
#[derive(Debug, Clone, Copy)]
pub struct Backward {
    /// Any shape: what the forward pass read.
    pub x: Tensor,
    /// As x.
    pub dy: Tensor,
    /// As x, written.
    pub dx: Tensor,
    /// Which non-linearity.
    pub activation: Activation,
}

impl Backward {
    /// Records the kernel.
    ///
    /// # Panics
    /// If dy or dx is not as long as x.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        let Backward { x, dy, dx, activation } = *self;
        expect(recorder, "dy", dy, &[x.len]);
        expect(recorder, "dx", dx, &[x.len]);
        recorder.dispatch(Dispatch {
            kernel: &BACKWARD,
            constants: vec![],
            overrides: vec![("QUICK", f64::from(u8::from(activation == Activation::QuickGelu)))],
            tensors: vec![x, dy, dx],
            params: bytemuck::bytes_of(&Params { len: u32_of(x.len), unused: [0; 3] }).to_vec(),
            grid: grid_1d(x.len.div_ceil(THREADS)),
            // Φ(x) 30, the density 6 and a multiply-add; the sigmoid form 10. One for dy.
            flops: if activation == Activation::Gelu { 39.0 } else { 11.0 } * x.len as f64,
            label: recorder.label(name),
        });
    }
}
