//! A linear layer for each part, all parts in one dispatch, and the backward pass.
//!
//! Three WGSL files compute the same bits: `part_linear.wgsl` for any shape, and, if the number of inputs is a multiple
//! of 4, `part_linear_wide.wgsl` and `part_linear_subgroup.wgsl` (for CPU adapters).

use super::{THREADS, expect, u32_of};
use crate::entry_points;
use crate::gpu::{Constants, Family, Kernel, Recorder, ShaderFile, Tensor, Tensors, grid_1d};

/// One invocation per output.
static PLAIN: ShaderFile = ShaderFile::new("part_linear", include_str!("../../shaders/part_linear.wgsl"));
/// Loads quads of inputs.
static WIDE: ShaderFile =
    ShaderFile::new("part_linear_wide", include_str!("../../shaders/part_linear_wide.wgsl"));
/// One subgroup per workgroup.
static SUBGROUP: ShaderFile =
    ShaderFile::new("part_linear_subgroup", include_str!("../../shaders/part_linear_subgroup.wgsl"))
        .subgroups();

entry_points! {
    struct Params in 32 bytes {
        batch: u32, parts: u32, inputs: u32, outputs: u32, sample_stride: u32, part_stride: u32
    }
    fn part_linear_forward(weight: read, x: read, bias: read if BIAS, y: write);
    /// Gradient of the inputs.
    fn part_linear_backward_input(weight: read, x_gradient: write, dy: read);
    /// Gradients of weight and bias.
    fn part_linear_backward_weight(dweight: write, x: read, dy: read, dbias: write if BIAS);
}

pub(super) fn variants() -> Vec<(Kernel, Constants)> {
    let mut all = Vec::new();
    for tile in [Tile::Plain, Tile::Wide].into_iter().chain([4, 8, 16].map(Tile::Subgroup)) {
        let file = tile.file();
        all.extend(
            [
                file.kernel::<part_linear_forward>(),
                file.kernel::<part_linear_backward_input>(),
                file.kernel::<part_linear_backward_weight>(),
            ]
            .map(|kernel| (kernel, tile.constants())),
        );
    }
    all
}

/// EACH of `part_linear_wide.wgsl`.
const EACH: usize = 4;
/// ROWS of `part_linear_subgroup.wgsl`.
const ROWS: usize = 32;

/// The file to use. All give the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tile {
    /// `part_linear.wgsl`.
    Plain,
    /// `part_linear_wide.wgsl`.
    Wide,
    /// `part_linear_subgroup.wgsl`, for subgroups of exactly this many lanes.
    Subgroup(u32),
}

impl Tile {
    fn file(self) -> &'static ShaderFile {
        match self {
            Tile::Plain => &PLAIN,
            Tile::Wide => &WIDE,
            Tile::Subgroup(_) => &SUBGROUP,
        }
    }

    fn constants(self) -> Constants {
        match self {
            Tile::Plain | Tile::Wide => vec![],
            Tile::Subgroup(lanes) => vec![("SUB", lanes), ("ROWS", ROWS as u32)],
        }
    }
}

/// Memory layout of the inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// (B, R, I): the layout of the network's parts.
    SampleFirst,
    /// (R, B, I): the layout of these layers' outputs.
    PartFirst,
}

/// Dimensions, and the layout of the inputs.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Batch size B.
    pub batch: usize,
    /// Parts R.
    pub parts: usize,
    /// Inputs per part I.
    pub inputs: usize,
    /// Outputs per part O.
    pub outputs: usize,
    /// Layout of the inputs and of their gradient.
    pub layout: Layout,
}

impl Shape {
    /// Elements between two samples and between two parts of the inputs.
    pub fn strides(&self) -> (usize, usize) {
        match self.layout {
            Layout::SampleFirst => (self.parts * self.inputs, self.inputs),
            Layout::PartFirst => (self.inputs, self.batch * self.inputs),
        }
    }

    /// The tiles that can compute this shape on a family of adapters, the fastest last.
    pub fn menu(&self, family: Family) -> Vec<Tile> {
        match family {
            _ if !self.inputs.is_multiple_of(4) => vec![Tile::Plain],
            Family::Tiled => vec![Tile::Plain, Tile::Wide],
            Family::Subgroup(lanes) => vec![Tile::Plain, Tile::Wide, Tile::Subgroup(lanes)],
        }
    }

    /// The fastest tile for a family.
    pub fn tile(&self, family: Family) -> Tile {
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
        }
    }

    /// Grid of workgroups that own `each` columns and `height` rows, for every part.
    fn grid(&self, [columns, each]: [usize; 2], [rows, height]: [usize; 2]) -> [u32; 3] {
        [u32_of(columns.div_ceil(each)), u32_of(rows.div_ceil(height)), u32_of(self.parts)]
    }

    /// Records one of the three kernels, which take the same number of operations.
    fn record<T>(&self, recorder: &mut Recorder<'_>, name: &str, tile: Tile, tensors: T, grid: [u32; 3])
    where
        T: Tensors<Params = Params>,
    {
        let flops = 2.0 * (self.parts * self.batch) as f64 * self.inputs as f64 * self.outputs as f64;
        let launch = tile.file().launch(self.params(), tensors).constants(tile.constants());
        launch.grid(grid).record(recorder, name, flops);
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

/// y\[r,b\] = weight\[r\]·x\[b,r\] + bias\[r\].
#[derive(Debug, Clone, Copy)]
pub struct Forward {
    /// Inputs (B, R, I) or (R, B, I).
    pub x: Tensor,
    /// Weights (R, O, I).
    pub weight: Tensor,
    /// Biases (R, O); `None` for zeros.
    pub bias: Option<Tensor>,
    /// Outputs (R, B, O), written.
    pub y: Tensor,
    /// Dimensions and layout of x.
    pub shape: Shape,
}

impl Forward {
    /// Records the kernel with the fastest tile.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        self.record_with(recorder, name, self.shape.tile(recorder.context.family()));
    }

    /// Records the kernel with `tile`.
    ///
    /// # Panics
    /// If a tensor doesn't fit its shape, or I isn't a multiple of 4 and the tile isn't [`Tile::Plain`].
    pub fn record_with(&self, recorder: &mut Recorder<'_>, name: &str, tile: Tile) {
        let Forward { x, weight, bias, y, shape } = *self;
        let Shape { batch, parts, inputs, outputs, .. } = shape;
        shape.check(name, tile);
        expect(recorder, "x", x, &[parts, batch, inputs]);
        expect(recorder, "weight", weight, &[parts, outputs, inputs]);
        bias.inspect(|&bias| expect(recorder, "bias", bias, &[parts, outputs]));
        expect(recorder, "y", y, &[parts, batch, outputs]);
        let grid = match tile {
            Tile::Plain => grid_1d(y.len.div_ceil(THREADS)),
            Tile::Wide => shape.grid([outputs, THREADS], [batch, EACH]),
            Tile::Subgroup(lanes) => shape.grid([outputs, 4 * lanes as usize], [batch, ROWS]),
        };
        shape.record(recorder, name, tile, part_linear_forward { weight, x, bias, y }, grid);
    }
}

/// dx\[b,r\] = dy\[r,b\]·weight\[r\], the gradient of [`Forward::x`].
#[derive(Debug, Clone, Copy)]
pub struct BackwardInput {
    /// Weights (R, O, I).
    pub weight: Tensor,
    /// Gradient of the outputs (R, B, O).
    pub dy: Tensor,
    /// Gradient of the inputs, in their layout; written.
    pub dx: Tensor,
    /// Dimensions and layout of x.
    pub shape: Shape,
}

impl BackwardInput {
    /// Records the kernel with the fastest tile.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        self.record_with(recorder, name, self.shape.tile(recorder.context.family()));
    }

    /// Records the kernel with `tile`.
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
        let grid = match tile {
            Tile::Plain => grid_1d(dx.len.div_ceil(THREADS)),
            Tile::Wide => shape.grid([inputs / 4, THREADS], [batch, EACH]),
            Tile::Subgroup(lanes) => shape.grid([inputs / 4, lanes as usize], [batch, ROWS]),
        };
        let tensors = part_linear_backward_input { weight, x_gradient: dx, dy };
        shape.record(recorder, name, tile, tensors, grid);
    }
}

/// dweight\[r\] = dy\[r\]ᵀ·x\[r\] and dbias\[r\] = Σ_b dy\[r,b\], the gradients of [`Forward`]'s parameters.
#[derive(Debug, Clone, Copy)]
pub struct BackwardWeight {
    /// Inputs (B, R, I) or (R, B, I).
    pub x: Tensor,
    /// Gradient of the outputs (R, B, O).
    pub dy: Tensor,
    /// Gradient of the weights (R, O, I), written.
    pub dweight: Tensor,
    /// Gradient of the biases (R, O), written if it is given.
    pub dbias: Option<Tensor>,
    /// Dimensions and layout of x.
    pub shape: Shape,
}

impl BackwardWeight {
    /// Records the kernel with the fastest tile.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        self.record_with(recorder, name, self.shape.tile(recorder.context.family()));
    }

    /// Records the kernel with `tile`.
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
        dbias.inspect(|&dbias| expect(recorder, "dbias", dbias, &[parts, outputs]));
        let grid = match tile {
            Tile::Plain => grid_1d(dweight.len.div_ceil(THREADS)),
            Tile::Wide => shape.grid([inputs / 4, THREADS], [outputs, EACH]),
            Tile::Subgroup(lanes) => shape.grid([inputs / 4, lanes as usize], [outputs, ROWS]),
        };
        let tensors = part_linear_backward_weight { dweight, x, dy, dbias };
        shape.record(recorder, name, tile, tensors, grid);
    }
}
