//! Fused multi-head self-attention: no T × T matrix in memory.

use super::{expect, u32_of};
use crate::gpu::{Access, Binding, Constants, Dispatch, Family, Kernel, Recorder, Tensor};

const BINDINGS: &[Binding] = &[Binding::read("qkv"), Binding::write("out"), Binding::write("lse")];

/// One row per invocation, keys and values through workgroup memory.
pub static TILED: Kernel = Kernel {
    name: "attention",
    source: include_str!("../../shaders/attention.wgsl"),
    helpers: &[],
    entry: "attention_forward",
    bindings: BINDINGS,
    uniform_bytes: size_of::<Params>(),
    subgroups: false,
};

/// One subgroup per workgroup.
pub static SUBGROUP: Kernel = Kernel {
    name: "attention_subgroup",
    source: include_str!("../../shaders/attention_subgroup.wgsl"),
    helpers: &[],
    entry: "attention_forward",
    bindings: BINDINGS,
    uniform_bytes: size_of::<Params>(),
    subgroups: true,
};

/// QUERIES of the tiled family, as in its WGSL.
const QUERIES: usize = 64;
/// ROWS of the subgroup family.
const ROWS: u32 = 16;
/// Bytes of workgroup memory that every adapter has.
const WORKGROUP_BYTES: usize = 16_384;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    tokens: u32,
    heads: u32,
    scale: f32,
    unused: u32,
}

/// Keys per step of the tiled family: as many as keep the tile in 16 KiB of workgroup memory, at most 16.
fn keys(head_dim: usize) -> u32 {
    u32_of((WORKGROUP_BYTES / (8 * head_dim)).clamp(1, 16))
}

fn constants(family: Family, head_dim: usize) -> (&'static Kernel, Constants) {
    let head = ("HEAD_DIM", u32_of(head_dim));
    match family {
        Family::Tiled => (&TILED, vec![head, ("KEYS", keys(head_dim))]),
        Family::Subgroup(lanes) => (&SUBGROUP, vec![head, ("SUB", lanes), ("ROWS", ROWS)]),
    }
}

pub(super) fn variants() -> Vec<(&'static Kernel, Constants)> {
    let families = [Family::Tiled, Family::Subgroup(4), Family::Subgroup(8), Family::Subgroup(16)];
    [4, 12, 16, 32, 64, 80, 128]
        .into_iter()
        .flat_map(|head_dim| families.map(|family| constants(family, head_dim)))
        .collect()
}

/// out = softmax(Q·Kᵀ/√Dh)·V for every image and head.
#[derive(Debug, Clone, Copy)]
pub struct Forward {
    /// (B, T, 3, H, Dh).
    pub qkv: Tensor,
    /// (B, T, H·Dh), written.
    pub out: Tensor,
    /// (B, H, T), written: log-sum-exp of each row of scores, for a backward pass.
    pub lse: Option<Tensor>,
    /// B.
    pub batch: usize,
    /// T.
    pub tokens: usize,
    /// H.
    pub heads: usize,
    /// Dh, a multiple of 4.
    pub head_dim: usize,
}

impl Forward {
    /// Records the kernel of the adapter's family.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        self.record_with(recorder, name, recorder.context.family());
    }

    /// Records the kernel of one family.
    ///
    /// # Panics
    /// If a tensor doesn't fit its shape or the head's width isn't a multiple of 4.
    pub fn record_with(&self, recorder: &mut Recorder<'_>, name: &str, family: Family) {
        let Forward { qkv, out, lse, batch, tokens, heads, head_dim } = *self;
        assert!(head_dim.is_multiple_of(4), "{name}: head width {head_dim} isn't a multiple of 4");
        expect(recorder, "qkv", qkv, &[batch, tokens, 3, heads, head_dim]);
        expect(recorder, "out", out, &[batch, tokens, heads, head_dim]);
        if let Some(lse) = lse {
            expect(recorder, "lse", lse, &[batch, heads, tokens]);
        }
        let (kernel, constants) = constants(family, head_dim);
        let rows = if family == Family::Tiled { QUERIES } else { ROWS as usize };
        let params = Params {
            tokens: u32_of(tokens),
            heads: u32_of(heads),
            scale: 1.0 / (head_dim as f32).sqrt(),
            unused: 0,
        };
        let unused = recorder.unused(Access::Write);
        recorder.dispatch(Dispatch {
            kernel,
            constants,
            overrides: vec![("KEEP_LSE", f64::from(u8::from(lse.is_some())))],
            tensors: vec![qkv, out, lse.unwrap_or(unused)],
            params: bytemuck::bytes_of(&params).to_vec(),
            grid: [u32_of(tokens.div_ceil(rows)), u32_of(heads), u32_of(batch)],
            flops: 4.0 * (batch * heads * head_dim) as f64 * (tokens as f64).powi(2),
            label: recorder.label(name),
        });
    }
}
