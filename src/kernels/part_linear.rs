//! A linear layer for each part, all parts in one launch, and its backward pass.
//!
//! Three WGSL files compute the same bits: `part_linear.wgsl` (any shape), and for inputs that are a multiple of 4
//! `part_linear_wide.wgsl` and `part_linear_subgroup.wgsl` (CPU adapters).

use super::{THREADS, expect, u32_of};
use crate::gpu::{Binding, Constants, Dispatch, Family, Kernel, Recorder, Tensor, grid_1d};

const FORWARD: &[Binding] =
    &[Binding::read("weight"), Binding::read("x"), Binding::read("bias"), Binding::write("y")];
const BACKWARD_INPUT: &[Binding] =
    &[Binding::read("weight"), Binding::write("x_gradient"), Binding::read("dy")];
const BACKWARD_WEIGHT: &[Binding] =
    &[Binding::write("dweight"), Binding::read("x"), Binding::read("dy"), Binding::write("dbias")];

const fn plain(entry: &'static str, bindings: &'static [Binding]) -> Kernel {
    Kernel {
        name: "part_linear",
        source: include_str!("../../shaders/part_linear.wgsl"),
        helpers: &[],
        entry,
        bindings,
        uniform_bytes: size_of::<Params>(),
        subgroups: false,
        quads: false,
    }
}

const fn wide(entry: &'static str, bindings: &'static [Binding]) -> Kernel {
    Kernel {
        name: "part_linear_wide",
        source: include_str!("../../shaders/part_linear_wide.wgsl"),
        ..plain(entry, bindings)
    }
}

const fn subgroup(entry: &'static str, bindings: &'static [Binding]) -> Kernel {
    Kernel {
        name: "part_linear_subgroup",
        source: include_str!("../../shaders/part_linear_subgroup.wgsl"),
        subgroups: true,
        ..plain(entry, bindings)
    }
}

/// Forward, one invocation per output.
pub static PLAIN_FORWARD: Kernel = plain("part_linear_forward", FORWARD);
/// Gradient of the inputs, one invocation per output.
pub static PLAIN_BACKWARD_INPUT: Kernel = plain("part_linear_backward_input", BACKWARD_INPUT);
/// Gradient of weight and bias, one invocation per output.
pub static PLAIN_BACKWARD_WEIGHT: Kernel = plain("part_linear_backward_weight", BACKWARD_WEIGHT);
/// Forward, four inputs to a load.
pub static WIDE_FORWARD: Kernel = wide("part_linear_forward", FORWARD);
/// Gradient of the inputs, four to an invocation.
pub static WIDE_BACKWARD_INPUT: Kernel = wide("part_linear_backward_input", BACKWARD_INPUT);
/// Gradient of weight and bias, four inputs to an invocation.
pub static WIDE_BACKWARD_WEIGHT: Kernel = wide("part_linear_backward_weight", BACKWARD_WEIGHT);
/// Forward, one subgroup per workgroup.
pub static SUBGROUP_FORWARD: Kernel = subgroup("part_linear_forward", FORWARD);
/// Gradient of the inputs, one subgroup per workgroup.
pub static SUBGROUP_BACKWARD_INPUT: Kernel = subgroup("part_linear_backward_input", BACKWARD_INPUT);
/// Gradient of weight and bias, one subgroup per workgroup.
pub static SUBGROUP_BACKWARD_WEIGHT: Kernel = subgroup("part_linear_backward_weight", BACKWARD_WEIGHT);

/// EACH of `part_linear_wide.wgsl`.
const EACH: usize = 4;
/// ROWS of `part_linear_subgroup.wgsl`.
const ROWS: usize = 32;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    batch: u32,
    parts: u32,
    inputs: u32,
    outputs: u32,
    sample_stride: u32,
    part_stride: u32,
    unused: [u32; 2],
}

pub(super) fn variants() -> Vec<(&'static Kernel, Constants)> {
    let mut all = [
        &PLAIN_FORWARD,
        &PLAIN_BACKWARD_INPUT,
        &PLAIN_BACKWARD_WEIGHT,
        &WIDE_FORWARD,
        &WIDE_BACKWARD_INPUT,
        &WIDE_BACKWARD_WEIGHT,
    ]
    .map(|kernel| (kernel, vec![]))
    .to_vec();
    let subgroup = [&SUBGROUP_FORWARD, &SUBGROUP_BACKWARD_INPUT, &SUBGROUP_BACKWARD_WEIGHT];
    for lanes in [4, 8, 16] {
        all.extend(subgroup.map(|kernel| (kernel, Tile::Subgroup(lanes).constants())));
    }
    all
}

/// Which of three files computes; all give the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tile {
    /// `part_linear.wgsl`.
    Plain,
    /// `part_linear_wide.wgsl`.
    Wide,
    /// `part_linear_subgroup.wgsl`, where every subgroup has this many lanes.
    Subgroup(u32),
}

impl Tile {
    fn constants(self) -> Constants {
        match self {
            Tile::Plain | Tile::Wide => vec![],
            Tile::Subgroup(lanes) => vec![("SUB", lanes), ("ROWS", ROWS as u32)],
        }
    }
}

/// How the inputs of all samples and parts are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// (B, R, I), as the parts leave the network.
    SampleFirst,
    /// (R, B, I), as these layers write their own outputs.
    PartFirst,
}

/// B, R, I, O and the layout of the inputs.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// B.
    pub batch: usize,
    /// R.
    pub parts: usize,
    /// I.
    pub inputs: usize,
    /// O.
    pub outputs: usize,
    /// Of the inputs and their gradient.
    pub layout: Layout,
}

impl Shape {
    /// Words between two samples and between two parts of the inputs.
    pub fn strides(&self) -> (usize, usize) {
        match self.layout {
            Layout::SampleFirst => (self.parts * self.inputs, self.inputs),
            Layout::PartFirst => (self.inputs, self.batch * self.inputs),
        }
    }

    /// The tiles that can compute it on a family of adapters, the fastest last.
    pub fn menu(&self, family: Family) -> Vec<Tile> {
        match family {
            _ if !self.inputs.is_multiple_of(4) => vec![Tile::Plain],
            Family::Tiled => vec![Tile::Plain, Tile::Wide],
            Family::Subgroup(lanes) => vec![Tile::Plain, Tile::Wide, Tile::Subgroup(lanes)],
        }
    }

    fn tile(&self, family: Family) -> Tile {
        self.menu(family).pop().unwrap_or(Tile::Plain)
    }

    fn params(&self) -> Params {
        let (sample_stride, part_stride) = self.strides();
        Params {
            batch: u32_of(self.batch),
            parts: u32_of(self.parts),
            inputs: u32_of(self.inputs),
            outputs: u32_of(self.outputs),
            sample_stride: u32_of(sample_stride),
            part_stride: u32_of(part_stride),
            unused: [0; 2],
        }
    }

    /// Workgroups that own so many of `columns` and of `rows` each, for every part.
    fn grid(&self, [columns, each]: [usize; 2], [rows, height]: [usize; 2]) -> [u32; 3] {
        [u32_of(columns.div_ceil(each)), u32_of(rows.div_ceil(height)), u32_of(self.parts)]
    }

    fn record(&self, recorder: &mut Recorder<'_>, name: &str, launch: Launch) {
        let Launch { kernel, tile, tensors, grid } = launch;
        recorder.dispatch(Dispatch {
            kernel,
            constants: tile.constants(),
            overrides: vec![],
            tensors,
            params: bytemuck::bytes_of(&self.params()).to_vec(),
            grid,
            flops: 2.0 * (self.parts * self.batch) as f64 * self.inputs as f64 * self.outputs as f64,
            label: recorder.label(name),
        });
    }

    #[track_caller]
    fn check(&self, name: &str, tile: Tile) {
        assert!(
            tile == Tile::Plain || self.inputs.is_multiple_of(4),
            "{name}: I = {} isn't a multiple of 4",
            self.inputs
        );
    }
}

/// What differs between the three launches.
struct Launch {
    kernel: &'static Kernel,
    tile: Tile,
    tensors: Vec<Tensor>,
    grid: [u32; 3],
}

/// y\[r,b\] = weight\[r\]·x\[b,r\] + bias\[r\].
#[derive(Debug, Clone, Copy)]
pub struct Forward {
    /// (B, R, I) or (R, B, I).
    pub x: Tensor,
    /// (R, O, I).
    pub weight: Tensor,
    /// (R, O).
    pub bias: Tensor,
    /// (R, B, O), written.
    pub y: Tensor,
    /// Dimensions and layout of x.
    pub shape: Shape,
}

impl Forward {
    /// Records the kernel.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        self.record_with(recorder, name, self.shape.tile(recorder.context.family()));
    }

    /// Records the kernel of the caller's choice.
    ///
    /// # Panics
    /// If a tensor doesn't fit its shape, or I isn't a multiple of 4 and the tile isn't [`Tile::Plain`].
    pub fn record_with(&self, recorder: &mut Recorder<'_>, name: &str, tile: Tile) {
        let Forward { x, weight, bias, y, shape } = *self;
        let Shape { batch, parts, inputs, outputs, .. } = shape;
        shape.check(name, tile);
        expect(recorder, "x", x, &[parts, batch, inputs]);
        expect(recorder, "weight", weight, &[parts, outputs, inputs]);
        expect(recorder, "bias", bias, &[parts, outputs]);
        expect(recorder, "y", y, &[parts, batch, outputs]);
        let (kernel, grid) = match tile {
            Tile::Plain => (&PLAIN_FORWARD, grid_1d(y.len.div_ceil(THREADS))),
            Tile::Wide => (&WIDE_FORWARD, shape.grid([outputs, THREADS], [batch, EACH])),
            Tile::Subgroup(lanes) => {
                (&SUBGROUP_FORWARD, shape.grid([outputs, 4 * lanes as usize], [batch, ROWS]))
            }
        };
        shape.record(recorder, name, Launch { kernel, tile, tensors: vec![weight, x, bias, y], grid });
    }
}

/// dx\[b,r\] = dy\[r,b\]·weight\[r\], the gradient of [`Forward`]'s x.
#[derive(Debug, Clone, Copy)]
pub struct BackwardInput {
    /// (R, O, I).
    pub weight: Tensor,
    /// (R, B, O).
    pub dy: Tensor,
    /// As x, written.
    pub dx: Tensor,
    /// Dimensions and layout of x.
    pub shape: Shape,
}

impl BackwardInput {
    /// Records the kernel.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        self.record_with(recorder, name, self.shape.tile(recorder.context.family()));
    }

    /// Records the kernel of the caller's choice.
    ///
    /// # Panics
    /// If a tensor doesn't fit its shape, or I isn't a multiple of 4 and the tile isn't [`Tile::Plain`].
    pub fn record_with(&self, recorder: &mut Recorder<'_>, name: &str, tile: Tile) {
        let BackwardInput { weight, dy, dx, shape } = *self;
        let Shape { batch, parts, inputs, outputs, .. } = shape;
        shape.check(name, tile);
        expect(recorder, "weight", weight, &[parts, outputs, inputs]);
        expect(recorder, "dy", dy, &[parts, batch, outputs]);
        expect(recorder, "dx", dx, &[parts, batch, inputs]);
        let (kernel, grid) = match tile {
            Tile::Plain => (&PLAIN_BACKWARD_INPUT, grid_1d(dx.len.div_ceil(THREADS))),
            Tile::Wide => (&WIDE_BACKWARD_INPUT, shape.grid([inputs / 4, THREADS], [batch, EACH])),
            Tile::Subgroup(lanes) => {
                (&SUBGROUP_BACKWARD_INPUT, shape.grid([inputs / 4, lanes as usize], [batch, ROWS]))
            }
        };
        shape.record(recorder, name, Launch { kernel, tile, tensors: vec![weight, dx, dy], grid });
    }
}

/// dweight\[r\] = dy\[r\]ᵀ·x\[r\] and dbias\[r\] = Σ_b dy\[r,b\], the gradients of [`Forward`]'s parameters.
#[derive(Debug, Clone, Copy)]
pub struct BackwardWeight {
    /// (B, R, I) or (R, B, I).
    pub x: Tensor,
    /// (R, B, O).
    pub dy: Tensor,
    /// (R, O, I), written.
    pub dweight: Tensor,
    /// (R, O), written.
    pub dbias: Tensor,
    /// Dimensions and layout of x.
    pub shape: Shape,
}

impl BackwardWeight {
    /// Records the kernel.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        self.record_with(recorder, name, self.shape.tile(recorder.context.family()));
    }

    /// Records the kernel of the caller's choice.
    ///
    /// # Panics
    /// If a tensor doesn't fit its shape, or I isn't a multiple of 4 and the tile isn't [`Tile::Plain`].
    pub fn record_with(&self, recorder: &mut Recorder<'_>, name: &str, tile: Tile) {
        let BackwardWeight { x, dy, dweight, dbias, shape } = *self;
        let Shape { batch, parts, inputs, outputs, .. } = shape;
        shape.check(name, tile);
        expect(recorder, "x", x, &[parts, batch, inputs]);
        expect(recorder, "dy", dy, &[parts, batch, outputs]);
        expect(recorder, "dweight", dweight, &[parts, outputs, inputs]);
        expect(recorder, "dbias", dbias, &[parts, outputs]);
        let (kernel, grid) = match tile {
            Tile::Plain => (&PLAIN_BACKWARD_WEIGHT, grid_1d(dweight.len.div_ceil(THREADS))),
            Tile::Wide => (&WIDE_BACKWARD_WEIGHT, shape.grid([inputs / 4, THREADS], [outputs, EACH])),
            Tile::Subgroup(lanes) => {
                (&SUBGROUP_BACKWARD_WEIGHT, shape.grid([inputs / 4, lanes as usize], [outputs, ROWS]))
            }
        };
        shape.record(recorder, name, Launch { kernel, tile, tensors: vec![dweight, x, dy, dbias], grid });
    }
}
