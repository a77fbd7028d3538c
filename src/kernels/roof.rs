//! The adapter's roofs: nothing but multiply-adds, of numbers or of whole fragments on matrix units, and nothing but copies. No
//! network has them; benches divide by them.

use super::{THREADS, expect, u32_of};
use crate::gpu::{Binding, Constants, Dispatch, Kernel, Recorder, Tensor, grid_1d};

/// The declaration of `roof.wgsl`, multiply-adds.
pub static MULTIPLY_ADD: Kernel = Kernel {
    name: "roof",
    source: include_str!("../../shaders/roof.wgsl"),
    helpers: &[],
    entry: "multiply_add",
    bindings: &[Binding::write("y")],
    uniform_bytes: size_of::<Params>(),
    subgroups: false,
    quads: false,
};

/// The declaration of `roof.wgsl`, copies.
pub static COPY: Kernel = Kernel {
    entry: "copy",
    bindings: &[Binding::read("from_words"), Binding::write("to_words")],
    ..MULTIPLY_ADD
};

const OF_FRAGMENTS: &[Binding] = &[Binding::read("operands").in_quads(), Binding::write("y")];

const fn fragments(helpers: &'static [&'static str]) -> Kernel {
    Kernel {
        name: "roof_cooperative",
        source: include_str!("../../shaders/roof_cooperative.wgsl"),
        helpers,
        entry: "multiply_fragments",
        bindings: OF_FRAGMENTS,
        uniform_bytes: size_of::<FragmentParams>(),
        subgroups: true,
        quads: true,
    }
}

/// The declaration of `roof_cooperative.wgsl` for fragments of 16 × 16.
pub static FRAGMENTS_16: Kernel = fragments(&[include_str!("../../shaders/common/fragment_16.wgsl")]);
/// The same for fragments of 8 × 8.
pub static FRAGMENTS_8: Kernel = fragments(&[include_str!("../../shaders/common/fragment_8.wgsl")]);

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct FragmentParams {
    turns: u32,
    unused: [u32; 3],
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    multiplier: f32,
    addend: f32,
    turns: u32,
    count: u32,
}

/// How many chains an invocation may have: which is best depends on the adapter's registers and latencies.
pub const ACCUMULATORS: [u32; 5] = [1, 2, 3, 4, 8];

/// How many vec4 an invocation may copy.
pub const EACH: [u32; 2] = [1, 4];

/// Links of a chain in one turn of the loop, as in the WGSL.
pub const TOGETHER: u32 = 8;

/// Turns that an invocation may take, by the shader's header.
const MOST_TURNS: u32 = 4096;

pub(super) fn variants() -> Vec<(&'static Kernel, Constants)> {
    let chains = ACCUMULATORS.map(|count| (&MULTIPLY_ADD, vec![("ACCUMULATORS", count)]));
    let copies = EACH.map(|each| (&COPY, vec![("EACH", each)]));
    let fragments =
        [(&FRAGMENTS_16, 16), (&FRAGMENTS_8, 8)].map(|(kernel, side)| (kernel, vec![("SIDE", side)]));
    chains.into_iter().chain(copies).chain(fragments).collect()
}

/// y\[i\] = Σ_a x_a after `TOGETHER · turns` times x_a = x_a · multiplier + addend.
#[derive(Debug, Clone, Copy)]
pub struct MultiplyAdd {
    /// (count, 4), written.
    pub y: Tensor,
    /// Chains of an invocation, one of [`ACCUMULATORS`].
    pub accumulators: u32,
    /// Turns of the loop, below 4,096.
    pub turns: u32,
    /// From 0 to 1, so that nothing overflows.
    pub multiplier: f32,
    /// Any.
    pub addend: f32,
}

impl MultiplyAdd {
    /// Records the kernel.
    ///
    /// # Panics
    /// If y isn't whole vec4 or there are too many turns.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        let MultiplyAdd { y, accumulators, turns, multiplier, addend } = *self;
        let count = y.len / 4;
        expect(recorder, "y", y, &[count, 4]);
        assert!(turns < MOST_TURNS, "{turns} turns of the loop, the shader takes fewer than {MOST_TURNS}");
        let params = Params { multiplier, addend, turns, count: u32_of(count) };
        let links = f64::from(accumulators) * f64::from(TOGETHER) * f64::from(turns);
        recorder.dispatch(Dispatch {
            kernel: &MULTIPLY_ADD,
            constants: vec![("ACCUMULATORS", accumulators)],
            overrides: vec![],
            tensors: vec![y],
            params: bytemuck::bytes_of(&params).to_vec(),
            grid: grid_1d(count.div_ceil(THREADS)),
            // A multiplication and an addition for each of four components.
            flops: 2.0 * links * y.len as f64,
            label: recorder.label(name),
        });
    }
}

/// to_words = from_words.
#[derive(Debug, Clone, Copy)]
pub struct CopyWords {
    /// (count, 4).
    pub from_words: Tensor,
    /// As `from_words`, written.
    pub to_words: Tensor,
    /// vec4 that an invocation copies, one of [`EACH`].
    pub each: u32,
}

impl CopyWords {
    /// Records the kernel.
    ///
    /// # Panics
    /// If the tensors aren't whole vec4 or differ in length.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        let CopyWords { from_words, to_words, each } = *self;
        let count = from_words.len / 4;
        expect(recorder, "from_words", from_words, &[count, 4]);
        expect(recorder, "to_words", to_words, &[count, 4]);
        let params = Params { multiplier: 0.0, addend: 0.0, turns: 0, count: u32_of(count) };
        recorder.dispatch(Dispatch {
            kernel: &COPY,
            constants: vec![("EACH", each)],
            overrides: vec![],
            tensors: vec![from_words, to_words],
            params: bytemuck::bytes_of(&params).to_vec(),
            grid: grid_1d(count.div_ceil(THREADS * each as usize)),
            flops: 0.0,
            label: recorder.label(name),
        });
    }
}

/// Blocks of a workgroup of [`MultiplyFragments`], as in the WGSL.
pub const BLOCKS: usize = 16;

/// y\[g, b, 2·i + j\] = `TOGETHER · turns` · left\[b, i\]·right\[j\], products of fragments of side × side.
#[derive(Debug, Clone, Copy)]
pub struct MultiplyFragments {
    /// (2·[`BLOCKS`] + 2, side, side), halves: left sides of all blocks, then two right sides, turned.
    pub operands: Tensor,
    /// (groups, [`BLOCKS`], 4, side, side), f32, written.
    pub y: Tensor,
    /// Side of a fragment, 16 or 8.
    pub side: u32,
    /// Turns of the loop, below 4,096.
    pub turns: u32,
}

impl MultiplyFragments {
    /// Records the kernel.
    ///
    /// # Panics
    /// If a tensor doesn't fit its shape or there are too many turns.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        let MultiplyFragments { operands, y, side, turns } = *self;
        let kernel = if side == 16 { &FRAGMENTS_16 } else { &FRAGMENTS_8 };
        let edge = side as usize;
        let groups = y.len / (BLOCKS * 4 * edge * edge);
        expect(recorder, "operands", operands, &[2 * BLOCKS + 2, edge, edge]);
        expect(recorder, "y", y, &[groups, BLOCKS, 4, edge, edge]);
        assert!(turns < MOST_TURNS, "{turns} turns of the loop, the shader takes fewer than {MOST_TURNS}");
        let products = f64::from(TOGETHER) * f64::from(turns) * (groups * BLOCKS * 4) as f64;
        recorder.dispatch(Dispatch {
            kernel,
            constants: vec![("SIDE", side)],
            overrides: vec![],
            tensors: vec![operands, y],
            params: bytemuck::bytes_of(&FragmentParams { turns, unused: [0; 3] }).to_vec(),
            grid: [u32_of(groups), 1, 1],
            flops: 2.0 * products * (edge * edge * edge) as f64,
            label: recorder.label(name),
        });
    }
}
