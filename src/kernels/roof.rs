//! Roofs of the adapter: kernels of multiply-adds alone, on scalars or on fragments of matrix units, and of copies
//! alone. Benches divide by them; networks use none.

use super::{THREADS, expect, u32_of};
use crate::entry_points;
use crate::gpu::{Constants, Kernel, Recorder, ShaderFile, Tensor, WorkgroupSize};

static FILE: ShaderFile = ShaderFile::new("roof", include_str!("../../shaders/roof.wgsl"));

entry_points! {
    struct Params in 16 bytes { multiplier: f32, addend: f32, turns: u32, count: u32 }
    fn multiply_add(y: write);
    fn copy(from_words: read, to_words: write);
}

const fn fragments(helpers: &'static [&'static str]) -> ShaderFile {
    ShaderFile::new("roof_cooperative", include_str!("../../shaders/roof_cooperative.wgsl"))
        .helpers(helpers)
        .subgroups()
        .workgroup_size(WorkgroupSize::Count(128))
        .quads()
}

/// Fragments of 16 × 16.
static FRAGMENTS_16: ShaderFile = fragments(&[include_str!("../../shaders/common/fragment_16.wgsl")]);
/// Fragments of 8 × 8.
static FRAGMENTS_8: ShaderFile = fragments(&[include_str!("../../shaders/common/fragment_8.wgsl")]);

entry_points! {
    struct FragmentParams in 16 bytes { turns: u32 }
    fn multiply_fragments(operands: read_quads, y: write);
}

pub(super) fn variants() -> Vec<(Kernel, Constants)> {
    let chains = ACCUMULATORS.map(|count| (FILE.kernel::<multiply_add>(), vec![("ACCUMULATORS", count)]));
    let copies = EACH.map(|each| (FILE.kernel::<copy>(), vec![("EACH", each)]));
    let fragments = [(&FRAGMENTS_16, 16), (&FRAGMENTS_8, 8)]
        .map(|(file, side)| (file.kernel::<multiply_fragments>(), vec![("SIDE", side)]));
    chains.into_iter().chain(copies).chain(fragments).collect()
}

/// Numbers of chains per invocation to try. The best one depends on the adapter's registers and latencies.
pub const ACCUMULATORS: [u32; 5] = [1, 2, 3, 4, 8];

/// Numbers of vec4 per invocation of copy to try.
pub const EACH: [u32; 2] = [1, 4];

/// TOGETHER of `roof.wgsl`: links of a chain per iteration of the loop.
pub const TOGETHER: u32 = 8;

/// Limit of loop iterations, from the header of `roof.wgsl`.
const MOST_TURNS: u32 = 4096;

/// y\[i\] = Σ_a x_a after `TOGETHER · turns` iterations of x_a = x_a · multiplier + addend.
#[derive(Debug, Clone, Copy)]
pub struct MultiplyAdd {
    /// Sums (count, 4), written.
    pub y: Tensor,
    /// Chains per invocation, one of [`ACCUMULATORS`].
    pub accumulators: u32,
    /// Iterations of the loop, below 4,096.
    pub turns: u32,
    /// Factor of every link, from 0 to 1 so that nothing overflows.
    pub multiplier: f32,
    /// Addend of every link, any value.
    pub addend: f32,
}

impl MultiplyAdd {
    /// Records the kernel.
    ///
    /// # Panics
    /// If the length of y isn't a multiple of 4, or `turns` is out of range.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        let MultiplyAdd { y, accumulators, turns, multiplier, addend } = *self;
        let count = y.len / 4;
        expect(recorder, "y", y, &[count, 4]);
        assert!(
            turns < MOST_TURNS,
            "{turns} iterations of the loop; the shader allows fewer than {MOST_TURNS}"
        );
        let params = Params { multiplier, addend, turns, count: u32_of(count) };
        let links = f64::from(accumulators) * f64::from(TOGETHER) * f64::from(turns);
        FILE.launch(params, multiply_add { y })
            .constants(vec![("ACCUMULATORS", accumulators)])
            .invocations(count)
            // A multiplication and an addition for each of four components.
            .record(recorder, name, 2.0 * links * y.len as f64);
    }
}

/// to_words = from_words.
#[derive(Debug, Clone, Copy)]
pub struct CopyWords {
    /// Words to read (count, 4).
    pub from_words: Tensor,
    /// Copy of the words (count, 4), written.
    pub to_words: Tensor,
    /// vec4 per invocation, one of [`EACH`].
    pub each: u32,
}

impl CopyWords {
    /// Records the kernel.
    ///
    /// # Panics
    /// If the length of a tensor isn't a multiple of 4, or the lengths differ.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        let CopyWords { from_words, to_words, each } = *self;
        let count = from_words.len / 4;
        expect(recorder, "from_words", from_words, &[count, 4]);
        expect(recorder, "to_words", to_words, &[count, 4]);
        let params = Params { multiplier: 0.0, addend: 0.0, turns: 0, count: u32_of(count) };
        FILE.launch(params, copy { from_words, to_words })
            .constants(vec![("EACH", each)])
            .workgroups(count.div_ceil(THREADS * each as usize))
            .record(recorder, name, 0.0);
    }
}

/// BLOCKS of `roof_cooperative.wgsl`: blocks of a workgroup of [`MultiplyFragments`].
pub const BLOCKS: usize = 16;

/// y\[g, b, 2·i + j\] = `TOGETHER · turns` · left\[b, i\]·right\[j\], products of fragments of side × side.
#[derive(Debug, Clone, Copy)]
pub struct MultiplyFragments {
    /// Operands in f16 (2·[`BLOCKS`] + 2, side, side): the left operands of all blocks, then two right ones,
    /// transposed.
    pub operands: Tensor,
    /// Sums in f32 (groups, [`BLOCKS`], 4, side, side), written.
    pub y: Tensor,
    /// Side of a fragment, 16 or 8.
    pub side: u32,
    /// Iterations of the loop, below 4,096.
    pub turns: u32,
}

impl MultiplyFragments {
    /// Records the kernel.
    ///
    /// # Panics
    /// If a tensor doesn't fit its shape, or `turns` is out of range.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        let MultiplyFragments { operands, y, side, turns } = *self;
        let file = if side == 16 { &FRAGMENTS_16 } else { &FRAGMENTS_8 };
        let edge = side as usize;
        let groups = y.len / (BLOCKS * 4 * edge * edge);
        expect(recorder, "operands", operands, &[2 * BLOCKS + 2, edge, edge]);
        expect(recorder, "y", y, &[groups, BLOCKS, 4, edge, edge]);
        assert!(
            turns < MOST_TURNS,
            "{turns} iterations of the loop; the shader allows fewer than {MOST_TURNS}"
        );
        let products = f64::from(TOGETHER) * f64::from(turns) * (groups * BLOCKS * 4) as f64;
        file.launch(FragmentParams { turns }, multiply_fragments { operands, y })
            .constants(vec![("SIDE", side)])
            .grid([u32_of(groups), 1, 1])
            .record(recorder, name, 2.0 * products * (edge * edge * edge) as f64);
    }
}
