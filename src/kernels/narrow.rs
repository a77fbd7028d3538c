//! Copies of f32 parameters in the storage that products read them in.

use super::{THREADS, expect, expect_quads, u32_of};
use crate::gpu::{Binding, Constants, Dispatch, Kernel, Recorder, Tensor, grid_1d};

/// The declaration of `narrow.wgsl`.
pub static KERNEL: Kernel = Kernel {
    name: "narrow",
    source: include_str!("../../shaders/narrow.wgsl"),
    helpers: &[],
    entry: "narrow_forward",
    bindings: &[Binding::read("wide"), Binding::write("narrow").in_quads()],
    uniform_bytes: size_of::<Params>(),
    subgroups: false,
    quads: true,
};

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    quads: u32,
    unused: [u32; 3],
}

pub(super) fn variants() -> Vec<(&'static Kernel, Constants)> {
    vec![(&KERNEL, vec![])]
}

/// narrow = wide, rounded to its storage.
#[derive(Debug, Clone, Copy)]
pub struct Narrow {
    /// Any shape of f32, a multiple of 4.
    pub wide: Tensor,
    /// As many elements in any storage, written.
    pub narrow: Tensor,
}

impl Narrow {
    /// Records the kernel.
    ///
    /// # Panics
    /// If a tensor doesn't fit its shape.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        let Narrow { wide, narrow } = *self;
        expect_quads(recorder, wide.len);
        expect(recorder, "narrow", narrow, &[wide.len]);
        let quads = wide.len / 4;
        recorder.dispatch(Dispatch {
            kernel: &KERNEL,
            constants: vec![],
            overrides: vec![],
            tensors: vec![wide, narrow],
            params: bytemuck::bytes_of(&Params { quads: u32_of(quads), unused: [0; 3] }).to_vec(),
            grid: grid_1d(quads.div_ceil(THREADS)),
            // One rounding each.
            flops: wide.len as f64,
            label: recorder.label(name),
        });
    }
}
