//! Fused multi-head self-attention: no T × T matrix in memory.

mod validation;

use super::{THREADS, expect, u32_of};
use crate::entry_points;
use crate::gpu::{
    AdapterClass, Constants, Context, Family, Fragments, Kernel, Recorder, ShaderFile, Storage, Tensor,
    Tensors, WorkgroupSize,
};

/// The tiled family: tiles of queries, keys and values in workgroup memory.
static TILED: ShaderFile = ShaderFile::new("attention", include_str!("../../shaders/attention.wgsl")).quads();
/// The subgroup family: one subgroup per workgroup.
static SUBGROUP: ShaderFile =
    ShaderFile::new("attention_subgroup", include_str!("../../shaders/attention_subgroup.wgsl"))
        .subgroups()
        .quads();

const fn cooperative(helpers: &'static [&'static str]) -> ShaderFile {
    ShaderFile::new("attention_cooperative", include_str!("../../shaders/attention_cooperative.wgsl"))
        .helpers(helpers)
        .subgroups()
        .workgroup_size(WorkgroupSize::Tile)
        .quads()
}

/// Matrix units with fragments of 16 × 16.
static COOPERATIVE_16: ShaderFile = cooperative(&[
    include_str!("../../shaders/common/fragment_16.wgsl"),
    include_str!("../../shaders/common/stage_16.wgsl"),
]);
/// Matrix units with fragments of 8 × 8.
static COOPERATIVE_8: ShaderFile = cooperative(&[
    include_str!("../../shaders/common/fragment_8.wgsl"),
    include_str!("../../shaders/common/stage_8.wgsl"),
]);

entry_points! {
    struct Params in 16 bytes { tokens: u32, heads: u32, scale: f32, first: u32 }
    fn attention_forward(qkv: read_quads, out: write_quads, lse: write if KEEP_LSE);
    /// delta = Σ dout·out of each row, for both families.
    fn attention_delta(kept_out: read_quads, dout: read_quads, delta: write);
    /// The gradients of queries.
    fn attention_dq(
        qkv: read_quads, dout: read_quads, kept_lse: read, kept_delta: read, dqkv: write_quads
    );
    /// The gradients of keys and values.
    fn attention_dkv(
        qkv: read_quads, dout: read_quads, kept_lse: read, kept_delta: read, dqkv: write_quads
    );
}

/// ROWS of the subgroup family.
const ROWS: u32 = 16;
/// Bytes of workgroup memory that every adapter has.
const WORKGROUP_BYTES: u32 = 16 * 1024;

/// Widths of heads for which matrix units are used.
const WIDTHS: [usize; 4] = [32, 64, 80, 128];

/// EACH of the tiled family: 4, 5 or 6, whichever minimises the rows that tiles of 8·EACH rows add past the last token;
/// the larger of two equals. It is 4 for wide heads, which need more registers, and on integrated adapters, which may
/// have only 128.
fn each(tokens: usize, head_dim: usize, class: AdapterClass) -> u32 {
    if head_dim > 64 || class == AdapterClass::Integrated {
        return 4;
    }
    let padded = |each: &u32| tokens.next_multiple_of(tiled_rows(*each));
    (4..=6).rev().min_by_key(padded).unwrap_or(4)
}

/// ROWS of the tiled family.
fn tiled_rows(each: u32) -> usize {
    8 * each as usize
}

/// CHUNK of the tiled family: the largest divisor of the head's quads whose two tiles and weights fit into memory.
fn chunk(head_dim: u32, each: u32) -> u32 {
    let quads = head_dim / 4;
    let rows = 8 * each;
    let weights = rows * (9 * 16 + 8 * 4 * (each - 4).max(1));
    let fits = |chunk: u32| {
        let tiles = 2 * rows * (chunk | 1);
        // PIECES and WHOLE of the shader: whole rows share the memory of the tiles.
        let whole = (rows / 4).div_ceil((rows * quads).div_ceil(tiles)) * 4;
        quads.is_multiple_of(chunk) && 16 * tiles.max(whole * quads) + weights <= WORKGROUP_BYTES
    };
    (1..=8).rev().find(|&chunk| fits(chunk)).unwrap_or(1)
}

/// ROWS of matrix units: 48 if that saves more than an eighth of the rows that tiles of 64 compute, as with 33 and 129
/// tokens; otherwise 64. It is 64 on CPU adapters, which compile slowly.
fn fragment_rows(tokens: usize, class: AdapterClass) -> u32 {
    let saves = 8 * tokens.next_multiple_of(48) < 7 * tokens.next_multiple_of(64);
    if saves && class != AdapterClass::Cpu { 48 } else { 64 }
}

/// The kernels of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernels {
    /// Those of a family.
    Family(Family),
    /// Those for matrix units, with operands in f16.
    Fragments {
        /// SIDE and LANES.
        units: Fragments,
        /// ROWS.
        rows: u32,
    },
}

impl From<Family> for Kernels {
    fn from(family: Family) -> Kernels {
        Kernels::Family(family)
    }
}

impl std::fmt::Display for Kernels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Kernels::Family(family) => family.fmt(f),
            Kernels::Fragments { units, rows } => write!(f, "fragments of {units} by {rows} rows"),
        }
    }
}

impl Kernels {
    /// The kernels for heads of width `head_dim` on the adapter: those for matrix units if `qkv` is stored in f16 and
    /// they pass validation, otherwise those of the family. They don't depend on the batch, so that an embedding has
    /// the same bits in any.
    fn of(context: &Context, pass: Pass, qkv: Tensor, tokens: usize, head_dim: usize) -> Kernels {
        let rows = fragment_rows(tokens, context.class());
        let units = context.fragments().filter(|units| {
            qkv.storage == Storage::F16
                && WIDTHS.contains(&head_dim)
                && validation::is_valid(context, pass, head_dim, *units, rows)
        });
        units.map_or(Kernels::Family(context.family()), |units| Kernels::Fragments { units, rows })
    }
}

/// See [`super::on_matrix_units`].
pub(super) fn on_matrix_units(context: &Context) -> Vec<(String, bool)> {
    let Some(units) = context.fragments() else { return Vec::new() };
    let kernels = [(Pass::Forward, "attention"), (Pass::Backward, "attention backward")];
    let widths = |(pass, name)| {
        WIDTHS.map(|width| {
            let passes = validation::is_valid(context, pass, width, units, 64);
            (format!("{name}, heads of {width}"), passes)
        })
    };
    kernels.into_iter().flat_map(widths).collect()
}

/// The direction of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pass {
    Forward,
    Backward,
}

/// Variant for a shape: file, constants, and the rows that a workgroup owns.
struct Variant {
    file: &'static ShaderFile,
    constants: Constants,
    rows: usize,
}

impl Variant {
    fn of(kernels: Kernels, pass: Pass, tokens: usize, head_dim: usize, class: AdapterClass) -> Variant {
        match kernels {
            Kernels::Family(Family::Tiled) => Variant::tiled(u32_of(head_dim), each(tokens, head_dim, class)),
            Kernels::Family(Family::Subgroup(lanes)) => Variant::subgroup(u32_of(head_dim), lanes),
            Kernels::Fragments { units, rows } => Variant::fragments(u32_of(head_dim), pass, units, rows),
        }
    }

    fn tiled(head_dim: u32, each: u32) -> Variant {
        let constants = vec![("HEAD_DIM", head_dim), ("CHUNK", chunk(head_dim, each)), ("EACH", each)];
        Variant { file: &TILED, constants, rows: tiled_rows(each) }
    }

    fn subgroup(head_dim: u32, lanes: u32) -> Variant {
        let constants = vec![("HEAD_DIM", head_dim), ("SUB", lanes), ("ROWS", ROWS)];
        Variant { file: &SUBGROUP, constants, rows: ROWS as usize }
    }

    /// A step of wide heads has fewer rows in the backward pass, which stages two operands in 32 KiB.
    fn fragments(head_dim: u32, pass: Pass, Fragments { side, lanes }: Fragments, rows: u32) -> Variant {
        let file = if side == 16 { &COOPERATIVE_16 } else { &COOPERATIVE_8 };
        let (operands, step) = match pass {
            Pass::Forward => (1, 32),
            Pass::Backward => (2, if head_dim > 64 { 16 } else { 32 }),
        };
        let constants = vec![
            ("HEAD_DIM", head_dim),
            ("SIDE", side),
            ("LANES", lanes),
            ("ROWS", rows),
            ("STEP", step),
            ("OPERANDS", operands),
        ];
        Variant { file, constants, rows: rows as usize }
    }

    /// The variant of [`attention_delta`]. It has no tiles, but its file requires a valid CHUNK.
    fn delta(head_dim: u32) -> Variant {
        Variant { file: &TILED, constants: vec![("HEAD_DIM", head_dim), ("CHUNK", 1)], rows: THREADS }
    }
}

pub(super) fn variants() -> Vec<(Kernel, Constants)> {
    let mut all = Vec::new();
    for head_dim in [4, 12, 16, 32, 64, 80, 128] {
        let tiled = (4..=if head_dim > 64 { 4 } else { 6 }).map(|each| Variant::tiled(head_dim, each));
        let subgroups = [4, 8, 16].map(|lanes| Variant::subgroup(head_dim, lanes));
        for Variant { file, constants, .. } in tiled.chain(subgroups) {
            all.push((file.kernel::<attention_forward>(), constants.clone()));
            all.push((file.kernel::<attention_dq>(), constants.clone()));
            all.push((file.kernel::<attention_dkv>(), constants));
        }
        all.push((TILED.kernel::<attention_delta>(), Variant::delta(head_dim).constants));
    }
    for (side, lanes) in [(16, 32), (16, 64), (8, 8), (8, 32)] {
        let rows_and_widths = [64, 48].into_iter().flat_map(|rows| WIDTHS.map(|width| (rows, u32_of(width))));
        for (rows, head_dim) in rows_and_widths {
            let variant = |pass| Variant::fragments(head_dim, pass, Fragments { side, lanes }, rows);
            let (forward, backward) = (variant(Pass::Forward), variant(Pass::Backward));
            all.push((forward.file.kernel::<attention_forward>(), forward.constants));
            all.push((backward.file.kernel::<attention_dq>(), backward.constants.clone()));
            all.push((backward.file.kernel::<attention_dkv>(), backward.constants));
        }
    }
    all
}

/// Operations of one product over a head's rows: T²·Dh multiply-adds. Forward has two products. attention_dq has two
/// for scores and their gradients, and one more; attention_dkv has the same two and two more.
fn product(tokens: usize, head_dim: usize) -> f64 {
    2.0 * (tokens as f64).powi(2) * head_dim as f64
}

/// The dimensions of a call.
#[derive(Clone, Copy)]
struct Shape {
    batch: usize,
    tokens: usize,
    heads: usize,
    head_dim: usize,
}

impl Shape {
    /// Records `flops` operations for each head of each image. Splits the heads into the fewest dispatches that hold at
    /// most [`Recorder::dispatch_flops`] and fit a grid; a dispatch has at least one head. The split does not change
    /// bits, because a workgroup reads one head only.
    fn record<T>(
        self,
        recorder: &mut Recorder<'_>,
        name: &str,
        Variant { file, constants, rows }: &Variant,
        tensors: T,
        flops: f64,
    ) where
        T: Tensors<Params = Params>,
    {
        const MOST_WORKGROUPS: f64 = 65_535.0;
        let heads = self.batch * self.heads;
        let fit = (recorder.dispatch_flops / flops).clamp(1.0, MOST_WORKGROUPS) as usize;
        let piece = heads.div_ceil(heads.div_ceil(fit));
        for first in (0..heads).step_by(piece) {
            let count = piece.min(heads - first);
            let params = Params {
                tokens: u32_of(self.tokens),
                heads: u32_of(self.heads),
                scale: 1.0 / (self.head_dim as f32).sqrt(),
                first: u32_of(first),
            };
            file.launch(params, tensors)
                .constants(constants.clone())
                .grid([u32_of(self.tokens.div_ceil(*rows)), u32_of(count), 1])
                .record(recorder, name, flops * count as f64);
        }
    }
}

/// out = softmax(Q·Kᵀ/√Dh)·V for every image and head.
#[derive(Debug, Clone, Copy)]
pub struct Forward {
    /// Queries, keys and values (B, T, 3, H, Dh).
    pub qkv: Tensor,
    /// Output (B, T, H·Dh), written.
    pub out: Tensor,
    /// Log-sum-exp of each row of scores (B, H, T), written: needed for a backward pass.
    pub lse: Option<Tensor>,
    /// Batch size B.
    pub batch: usize,
    /// Tokens per image T.
    pub tokens: usize,
    /// Heads H.
    pub heads: usize,
    /// Width of a head Dh, a multiple of 4.
    pub head_dim: usize,
}

impl Forward {
    /// Records the adapter's kernel for this width of a head.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        let kernels = Kernels::of(recorder.context, Pass::Forward, self.qkv, self.tokens, self.head_dim);
        self.record_with(recorder, name, kernels);
    }

    /// Records one of `kernels`, in dispatches within [`Recorder::dispatch_flops`].
    ///
    /// # Panics
    /// If a tensor doesn't fit its shape or Dh isn't a multiple of 4.
    pub fn record_with(&self, recorder: &mut Recorder<'_>, name: &str, kernels: impl Into<Kernels>) {
        let Forward { qkv, out, lse, batch, tokens, heads, head_dim } = *self;
        assert!(head_dim.is_multiple_of(4), "{name}: head width {head_dim} isn't a multiple of 4");
        expect(recorder, "qkv", qkv, &[batch, tokens, 3, heads, head_dim]);
        expect(recorder, "out", out, &[batch, tokens, heads, head_dim]);
        expect(recorder, "lse", lse, &[batch, heads, tokens]);
        let class = recorder.context.class();
        let variant = Variant::of(kernels.into(), Pass::Forward, tokens, head_dim, class);
        let flops = 2.0 * product(tokens, head_dim);
        let all = Shape { batch, tokens, heads, head_dim };
        all.record(recorder, name, &variant, attention_forward { qkv, out, lse }, flops);
    }
}

/// Gradients of queries, keys and values, dqkv, for the gradient of the output, dout.
#[derive(Debug, Clone, Copy)]
pub struct Backward {
    /// Queries, keys and values (B, T, 3, H, Dh).
    pub qkv: Tensor,
    /// Output of [`Forward`] (B, T, H·Dh).
    pub out: Tensor,
    /// Log-sum-exp of [`Forward`] (B, H, T).
    pub lse: Tensor,
    /// Gradient of the output (B, T, H·Dh).
    pub dout: Tensor,
    /// Gradient of `qkv` (B, T, 3, H, Dh), written.
    pub dqkv: Tensor,
    /// Batch size B.
    pub batch: usize,
    /// Tokens per image T.
    pub tokens: usize,
    /// Heads H.
    pub heads: usize,
    /// Width of a head Dh, a multiple of 4.
    pub head_dim: usize,
}

impl Backward {
    /// Records the adapter's kernels for this width of a head.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        let kernels = Kernels::of(recorder.context, Pass::Backward, self.qkv, self.tokens, self.head_dim);
        self.record_with(recorder, name, kernels);
    }

    /// Records `kernels` as `name.delta`, `name.dq` and `name.dkv`, in dispatches within
    /// [`Recorder::dispatch_flops`].
    ///
    /// # Panics
    /// If a tensor doesn't fit its shape or Dh isn't a multiple of 4.
    pub fn record_with(&self, recorder: &mut Recorder<'_>, name: &str, kernels: impl Into<Kernels>) {
        let Backward { qkv, out, lse, dout, dqkv, batch, tokens, heads, head_dim } = *self;
        assert!(head_dim.is_multiple_of(4), "{name}: head width {head_dim} isn't a multiple of 4");
        expect(recorder, "qkv", qkv, &[batch, tokens, 3, heads, head_dim]);
        expect(recorder, "out", out, &[batch, tokens, heads, head_dim]);
        expect(recorder, "lse", lse, &[batch, heads, tokens]);
        expect(recorder, "dout", dout, &[batch, tokens, heads, head_dim]);
        expect(recorder, "dqkv", dqkv, &[batch, tokens, 3, heads, head_dim]);
        let delta = recorder.tensor(&format!("{name}.delta"), batch * heads * tokens);
        let class = recorder.context.class();
        let variant = Variant::of(kernels.into(), Pass::Backward, tokens, head_dim, class);
        let (all, product) = (Shape { batch, tokens, heads, head_dim }, product(tokens, head_dim));
        let label = |kernel: &str| format!("{name}.{kernel}");
        let sums = attention_delta { kept_out: out, dout, delta };
        let of_sums = Variant::delta(u32_of(head_dim));
        all.record(recorder, &label("delta"), &of_sums, sums, 2.0 * (tokens * head_dim) as f64);
        let dq = attention_dq { qkv, dout, kept_lse: lse, kept_delta: delta, dqkv };
        all.record(recorder, &label("dq"), &variant, dq, 3.0 * product);
        let dkv = attention_dkv { qkv, dout, kept_lse: lse, kept_delta: delta, dqkv };
        all.record(recorder, &label("dkv"), &variant, dkv, 4.0 * product);
    }
}
