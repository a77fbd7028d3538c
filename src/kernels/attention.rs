//! Fused multi-head self-attention: no T × T matrix in memory.

use super::{THREADS, expect, u32_of};
use crate::gpu::{Access, Binding, Constants, Dispatch, Family, Kernel, Recorder, Tensor};

const BINDINGS: &[Binding] =
    &[Binding::read("qkv").in_quads(), Binding::write("out").in_quads(), Binding::write("lse")];

/// Tiles of rows and of keys and values through workgroup memory.
pub static TILED: Kernel = Kernel {
    name: "attention",
    source: include_str!("../../shaders/attention.wgsl"),
    helpers: &[],
    entry: "attention_forward",
    bindings: BINDINGS,
    uniform_bytes: size_of::<Params>(),
    subgroups: false,
    quads: true,
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
    quads: true,
};

/// The sums Σ dout·out of each row, for both families.
pub static DELTA: Kernel = Kernel {
    entry: "attention_delta",
    bindings: &[
        Binding::read("kept_out").in_quads(),
        Binding::read("dout").in_quads(),
        Binding::write("delta"),
    ],
    ..TILED
};

const GRADIENT_BINDINGS: &[Binding] = &[
    Binding::read("qkv").in_quads(),
    Binding::read("dout").in_quads(),
    Binding::read("kept_lse"),
    Binding::read("kept_delta"),
    Binding::write("dqkv").in_quads(),
];

/// Gradients of queries and of keys and values, tiled.
pub static BACKWARD_TILED: [Kernel; 2] = [
    Kernel { entry: "attention_dq", bindings: GRADIENT_BINDINGS, ..TILED },
    Kernel { entry: "attention_dkv", bindings: GRADIENT_BINDINGS, ..TILED },
];

/// The same, one subgroup per workgroup.
pub static BACKWARD_SUBGROUP: [Kernel; 2] = [
    Kernel { entry: "attention_dq", bindings: GRADIENT_BINDINGS, ..SUBGROUP },
    Kernel { entry: "attention_dkv", bindings: GRADIENT_BINDINGS, ..SUBGROUP },
];

/// ROWS of the tiled family, as in its WGSL.
const TILED_ROWS: usize = 32;
/// ROWS of the subgroup family.
const ROWS: u32 = 16;
/// CHUNK of the tiled family at most: two tiles of so many quads take half of the workgroup memory that every adapter has.
const CHUNK: u32 = 8;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    tokens: u32,
    heads: u32,
    scale: f32,
    unused: u32,
}

/// CHUNK of the tiled family: the most that divides the head's quads.
fn chunk(head_dim: u32) -> u32 {
    let quads = head_dim / 4;
    (1..=CHUNK).rev().find(|chunk| quads.is_multiple_of(*chunk)).unwrap_or(1)
}

/// Forward and both backward kernels of a family, and their constants.
fn family_of(family: Family, head_dim: usize) -> (&'static Kernel, &'static [Kernel; 2], Constants) {
    let width = u32_of(head_dim);
    let head = ("HEAD_DIM", width);
    match family {
        Family::Tiled => (&TILED, &BACKWARD_TILED, vec![head, ("CHUNK", chunk(width))]),
        Family::Subgroup(lanes) => {
            (&SUBGROUP, &BACKWARD_SUBGROUP, vec![head, ("SUB", lanes), ("ROWS", ROWS)])
        }
    }
}

/// Workgroups over the tokens, heads and images.
fn grid(rows: usize, tokens: usize, heads: usize, batch: usize) -> [u32; 3] {
    [u32_of(tokens.div_ceil(rows)), u32_of(heads), u32_of(batch)]
}

/// Rows that a workgroup of a family owns.
fn rows_of(family: Family) -> usize {
    if family == Family::Tiled { TILED_ROWS } else { ROWS as usize }
}

pub(super) fn variants() -> Vec<(&'static Kernel, Constants)> {
    let families = [Family::Tiled, Family::Subgroup(4), Family::Subgroup(8), Family::Subgroup(16)];
    let mut all = Vec::new();
    for head_dim in [4, 12, 16, 32, 64, 80, 128] {
        for family in families {
            let (forward, backward, constants) = family_of(family, head_dim);
            all.extend([forward, &backward[0], &backward[1]].map(|kernel| (kernel, constants.clone())));
        }
        all.push((&DELTA, family_of(Family::Tiled, head_dim).2));
    }
    all
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
        let (kernel, _, constants) = family_of(family, head_dim);
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
            grid: grid(rows_of(family), tokens, heads, batch),
            flops: 4.0 * (batch * heads * head_dim) as f64 * (tokens as f64).powi(2),
            label: recorder.label(name),
        });
    }
}

/// dqkv of dout, from what the forward left.
#[derive(Debug, Clone, Copy)]
pub struct Backward {
    /// (B, T, 3, H, Dh).
    pub qkv: Tensor,
    /// (B, T, H·Dh), the forward's output.
    pub out: Tensor,
    /// (B, H, T), as the forward kept it.
    pub lse: Tensor,
    /// (B, T, H·Dh).
    pub dout: Tensor,
    /// (B, T, 3, H, Dh), written.
    pub dqkv: Tensor,
    /// B.
    pub batch: usize,
    /// T.
    pub tokens: usize,
    /// H.
    pub heads: usize,
    /// Dh, a multiple of 4.
    pub head_dim: usize,
}

impl Backward {
    /// Records the kernels of the adapter's family.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        self.record_with(recorder, name, recorder.context.family());
    }

    /// Records the kernels of one family: `name.delta`, `name.dq` and `name.dkv`.
    ///
    /// # Panics
    /// If a tensor doesn't fit its shape or the head's width isn't a multiple of 4.
    pub fn record_with(&self, recorder: &mut Recorder<'_>, name: &str, family: Family) {
        let Backward { qkv, out, lse, dout, dqkv, batch, tokens, heads, head_dim } = *self;
        assert!(head_dim.is_multiple_of(4), "{name}: head width {head_dim} isn't a multiple of 4");
        expect(recorder, "qkv", qkv, &[batch, tokens, 3, heads, head_dim]);
        expect(recorder, "out", out, &[batch, tokens, heads, head_dim]);
        expect(recorder, "lse", lse, &[batch, heads, tokens]);
        expect(recorder, "dout", dout, &[batch, tokens, heads, head_dim]);
        expect(recorder, "dqkv", dqkv, &[batch, tokens, 3, heads, head_dim]);
        let delta = recorder.tensor(&format!("{name}.delta"), batch * heads * tokens);
        let params = Params {
            tokens: u32_of(tokens),
            heads: u32_of(heads),
            scale: 1.0 / (head_dim as f32).sqrt(),
            unused: 0,
        };
        recorder.dispatch(Dispatch {
            kernel: &DELTA,
            constants: family_of(Family::Tiled, head_dim).2,
            overrides: vec![],
            tensors: vec![out, dout, delta],
            params: bytemuck::bytes_of(&params).to_vec(),
            grid: grid(THREADS, tokens, heads, batch),
            flops: 2.0 * out.len as f64,
            label: recorder.label(&format!("{name}.delta")),
        });
        let (_, backward, constants) = family_of(family, head_dim);
        // Products of rows with rows, T²·Dh multiply-adds each: two for the scores and their gradients, then one or two.
        let product = 2.0 * (batch * heads * head_dim) as f64 * (tokens as f64).powi(2);
        for (kernel, part, products) in [(&backward[0], "dq", 3.0), (&backward[1], "dkv", 4.0)] {
            recorder.dispatch(Dispatch {
                kernel,
                constants: constants.clone(),
                overrides: vec![],
                tensors: vec![qkv, dout, lse, delta, dqkv],
                params: bytemuck::bytes_of(&params).to_vec(),
                grid: grid(rows_of(family), tokens, heads, batch),
                flops: products * product,
                label: recorder.label(&format!("{name}.{part}")),
            });
        }
    }
}
