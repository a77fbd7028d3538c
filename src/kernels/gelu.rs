//! The MLP's non-linearity, element by element.

use super::{expect, u32_of};
use crate::entry_points;
use crate::gpu::{Constants, File, Kernel, Recorder, Tensor};
use crate::shape::Activation;

static FILE: File = File::new("gelu", include_str!("../../shaders/gelu.wgsl"))
    .helpers(&[include_str!("../../shaders/common/gelu.wgsl")]);

entry_points! {
    struct Params in 16 bytes { len: u32 }
    fn gelu_forward(x: read, y: write);
    fn gelu_backward(x: read, dy: read, x_gradient: write);
}

pub(super) fn variants() -> Vec<(Kernel, Constants)> {
    vec![(FILE.kernel::<gelu_forward>(), vec![]), (FILE.kernel::<gelu_backward>(), vec![])]
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
        FILE.launch(Params { len: u32_of(x.len) }, gelu_forward { x, y })
            .switch("QUICK", activation == Activation::QuickGelu)
            .invocations(x.len)
            // erfc 25, of which its polynomial 18, and 6 around it; the sigmoid form 5.
            .record(recorder, name, if activation == Activation::Gelu { 31.0 } else { 5.0 } * x.len as f64);
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
        FILE.launch(Params { len: u32_of(x.len) }, gelu_backward { x, dy, x_gradient: dx })
            .switch("QUICK", activation == Activation::QuickGelu)
            .invocations(x.len)
            // Φ(x) 30, the density 6 and a multiply-add; the sigmoid form 10. One for dy.
            .record(recorder, name, if activation == Activation::Gelu { 39.0 } else { 11.0 } * x.len as f64);
    }
}
