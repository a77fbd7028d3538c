//! Matrix product in the three forms of a linear layer: C = epilogue(A·Bᵀ) forward, and backward dA = dC·B and
//! dB = dCᵀ·A.
//!
//! Three WGSL files compute the same bits: `gemm.wgsl` (plain, any shape), `gemm_tiled.wgsl` (GPUs) and
//! `gemm_subgroup.wgsl` (CPU adapters).

use super::{THREADS, expect, u32_of};
use crate::gpu::{
    Access, Binding, Constants, Context, Dispatch, Family, Kernel, Recorder, Storage, Tensor, assemble,
    grid_1d,
};
use crate::shape::Activation;

const NT: &[Binding] = &[
    Binding::read("a").in_quads(),
    Binding::read("b").in_quads(),
    Binding::read("bias"),
    Binding::read("scale"),
    Binding::read("residual").in_quads(),
    Binding::write("c").in_quads(),
    Binding::write("pre").in_quads(),
];
const NN: &[Binding] = &[
    Binding::read("a").in_quads(),
    Binding::read("b").in_quads(),
    Binding::write("product").in_quads(),
    Binding::read("kept").in_quads(),
    Binding::read("residual").in_quads(),
];
const TN: &[Binding] = &[
    Binding::read("a").in_quads(),
    Binding::read("b").in_quads(),
    Binding::write("gradient"),
    Binding::write("column_sum"),
];
const GELU: &str = include_str!("../../shaders/common/gelu.wgsl");
const HELPERS: &[&str] = &[include_str!("../../shaders/common/gemm_epilogue.wgsl"), GELU];

/// One invocation per output, any shape, f32 alone.
pub static PLAIN: Kernel = Kernel {
    name: "gemm",
    source: include_str!("../../shaders/gemm.wgsl"),
    helpers: &[GELU],
    entry: "gemm_nt",
    bindings: NT,
    uniform_bytes: size_of::<Params>(),
    subgroups: false,
    quads: false,
};

/// Register tiles fed from workgroup memory.
pub static TILED: Kernel = Kernel {
    name: "gemm_tiled",
    source: include_str!("../../shaders/gemm_tiled.wgsl"),
    helpers: HELPERS,
    entry: "gemm_nt",
    bindings: NT,
    uniform_bytes: size_of::<Params>(),
    subgroups: false,
    quads: true,
};

/// One subgroup per workgroup.
pub static SUBGROUP: Kernel = Kernel {
    name: "gemm_subgroup",
    source: include_str!("../../shaders/gemm_subgroup.wgsl"),
    helpers: HELPERS,
    entry: "gemm_nt",
    bindings: NT,
    uniform_bytes: size_of::<Params>(),
    subgroups: true,
    quads: true,
};

/// [`PLAIN`] for A·B.
pub static PLAIN_NN: Kernel = Kernel { entry: "gemm_nn", bindings: NN, ..PLAIN };
/// [`TILED`] for A·B.
pub static TILED_NN: Kernel = Kernel { entry: "gemm_nn", bindings: NN, ..TILED };
/// [`SUBGROUP`] for A·B.
pub static SUBGROUP_NN: Kernel = Kernel { entry: "gemm_nn", bindings: NN, ..SUBGROUP };
/// [`PLAIN`] for Aᵀ·B.
pub static PLAIN_TN: Kernel = Kernel { entry: "gemm_tn", bindings: TN, ..PLAIN };
/// [`TILED`] for Aᵀ·B.
pub static TILED_TN: Kernel = Kernel { entry: "gemm_tn", bindings: TN, ..TILED };
/// [`SUBGROUP`] for Aᵀ·B.
pub static SUBGROUP_TN: Kernel = Kernel { entry: "gemm_tn", bindings: TN, ..SUBGROUP };

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    m: u32,
    n: u32,
    k: u32,
    unused: u32,
}

/// Which operand a product takes turned; (M, K) times (K, N) is meant in each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A·Bᵀ, B stored (N, K).
    Nt,
    /// A·B.
    Nn,
    /// Aᵀ·B, A stored (K, M).
    Tn,
}

impl Form {
    /// Every form.
    pub const ALL: [Form; 3] = [Form::Nt, Form::Nn, Form::Tn];

    /// Whether the rows of operands and result are whole quads, as all tiles but [`Tile::Plain`] need.
    pub fn in_quads(self, m: usize, n: usize, k: usize) -> bool {
        let (one, other) = match self {
            Form::Nt | Form::Nn => (k, n),
            Form::Tn => (m, n),
        };
        one.is_multiple_of(4) && other.is_multiple_of(4)
    }
}

/// One way to compute a product; all give the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tile {
    /// `gemm.wgsl`.
    Plain,
    /// `gemm_tiled.wgsl` with a tile of these sides, this many outputs per invocation along each side.
    Tiled {
        /// BM.
        rows: u32,
        /// BN.
        columns: u32,
        /// TM = TN.
        each: u32,
    },
    /// `gemm_subgroup.wgsl` with this many rows per workgroup.
    Subgroup {
        /// SUB, the adapter's fixed subgroup size.
        lanes: u32,
        /// ROWS.
        rows: u32,
    },
}

impl std::fmt::Display for Tile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Tile::Plain => write!(f, "plain"),
            Tile::Tiled { rows, columns, each } => write!(f, "tiled {rows}x{columns} by {each}x{each}"),
            Tile::Subgroup { lanes, rows } => write!(f, "subgroup of {lanes} with {rows} rows"),
        }
    }
}

/// The key of a class of shapes in the file of choices: rows of pictures, which change with the batch, count by powers of two.
pub fn class_of(form: Form, storage: Storage, m: usize, n: usize, k: usize) -> String {
    let (m, k) = match form {
        Form::Nt | Form::Nn => (m.next_power_of_two(), k),
        Form::Tn => (m, k.next_power_of_two()),
    };
    format!("gemm {form:?} {m}x{n}x{k} {storage:?}").to_lowercase()
}

/// Form and sizes (M, N, K) of a launch, if it is a product.
pub fn shape_of(dispatch: &Dispatch) -> Option<(Form, [usize; 3])> {
    let form = Form::ALL.into_iter().find(|form| Tile::Plain.kernel(*form).entry == dispatch.kernel.entry)?;
    let words: &[u32] = bytemuck::try_cast_slice(&dispatch.params).ok()?;
    let [m, n, k, _] = *words else { return None };
    Some((form, [m, n, k].map(|size| size as usize)))
}

/// GPU tiles, largest first. 8 × 8 outputs read two words of workgroup memory per eight multiply-adds, 4 × 4 outputs four,
/// which is all that an AMD card can read meanwhile.
pub const TILED_MENU: [Tile; 4] = [
    Tile::Tiled { rows: 128, columns: 128, each: 8 },
    Tile::Tiled { rows: 128, columns: 64, each: 8 },
    Tile::Tiled { rows: 64, columns: 64, each: 8 },
    Tile::Tiled { rows: 32, columns: 32, each: 4 },
];

/// Rows per workgroup on CPU adapters, largest first.
pub const SUBGROUP_ROWS: [u32; 3] = [32, 16, 8];

impl Tile {
    /// The tile that tuning chose for shapes like this one, else the one from the built-in table.
    pub fn pick(form: Form, context: &Context, m: usize, n: usize, k: usize) -> Tile {
        let family = context.family();
        let chosen = context.choice(&class_of(form, context.storage(), m, n, k));
        let menu = || Tile::menu(form, family).into_iter();
        chosen
            .and_then(|name| menu().find(|tile| tile.name(form) == name))
            .filter(|_| form.in_quads(m, n, k))
            .unwrap_or_else(|| Tile::built_in(form, family, m, n, k))
    }

    /// The tile's name in the file of choices: with a hash of its source, so that a choice holds for this source alone.
    pub fn name(self, form: Form) -> String {
        let source = assemble(self.kernel(form), &self.constants(), Storage::F32);
        // FNV-1a: a mark of change, no proof.
        let hash = source.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
        });
        format!("{self} #{hash:016x}")
    }

    /// The tile that the built-in table picks for a shape.
    pub fn built_in(form: Form, family: Family, m: usize, n: usize, k: usize) -> Tile {
        if !form.in_quads(m, n, k) {
            return Tile::Plain;
        }
        match family {
            Family::Tiled => {
                // A GPU wants many workgroups; a large tile wants few loads. The largest tile that still gives 128 of them.
                let enough = |tile: &Tile| match *tile {
                    Tile::Tiled { rows, columns, .. } => {
                        m.div_ceil(rows as usize) * n.div_ceil(columns as usize) >= 128
                    }
                    _ => false,
                };
                TILED_MENU.into_iter().find(enough).unwrap_or(TILED_MENU[3])
            }
            Family::Subgroup(lanes) if form == Form::Tn => Tile::Subgroup { lanes, rows: 4 * lanes },
            Family::Subgroup(lanes) => {
                let fits = |&rows: &u32| rows as usize <= m.next_multiple_of(lanes as usize);
                let rows = SUBGROUP_ROWS.into_iter().find(fits).unwrap_or(SUBGROUP_ROWS[2]);
                Tile::Subgroup { lanes, rows: rows.max(lanes) }
            }
        }
    }

    fn kernel(self, form: Form) -> &'static Kernel {
        match (self, form) {
            (Tile::Plain, Form::Nt) => &PLAIN,
            (Tile::Plain, Form::Nn) => &PLAIN_NN,
            (Tile::Plain, Form::Tn) => &PLAIN_TN,
            (Tile::Tiled { .. }, Form::Nt) => &TILED,
            (Tile::Tiled { .. }, Form::Nn) => &TILED_NN,
            (Tile::Tiled { .. }, Form::Tn) => &TILED_TN,
            (Tile::Subgroup { .. }, Form::Nt) => &SUBGROUP,
            (Tile::Subgroup { .. }, Form::Nn) => &SUBGROUP_NN,
            (Tile::Subgroup { .. }, Form::Tn) => &SUBGROUP_TN,
        }
    }

    /// Every tile that a form can be computed with on an adapter of this family; the plain one is the first.
    pub fn menu(form: Form, family: Family) -> Vec<Tile> {
        let mut menu = vec![Tile::Plain];
        menu.extend(TILED_MENU);
        if let Family::Subgroup(lanes) = family {
            let mut rows = match form {
                Form::Nt | Form::Nn => SUBGROUP_ROWS.map(|rows| rows.max(lanes)).to_vec(),
                Form::Tn => vec![4 * lanes],
            };
            rows.dedup();
            menu.extend(rows.into_iter().map(|rows| Tile::Subgroup { lanes, rows }));
        }
        menu
    }

    /// Checks that this tile can compute the form.
    fn check(self, form: Form, name: &str, m: usize, n: usize, k: usize) {
        let quads = form.in_quads(m, n, k) || self == Tile::Plain;
        assert!(quads, "{name}: {form:?} {m}x{n}x{k} has rows that aren't multiples of 4");
        if let (Tile::Subgroup { lanes, rows }, Form::Tn) = (self, form) {
            assert_eq!(rows, 4 * lanes, "{name}: rows of {self:?}");
        }
    }

    fn constants(self) -> Constants {
        match self {
            Tile::Plain => vec![],
            Tile::Tiled { rows, columns, each } => {
                vec![("BM", rows), ("BN", columns), ("TM", each), ("TN", each)]
            }
            Tile::Subgroup { lanes, rows } => vec![("SUB", lanes), ("ROWS", rows)],
        }
    }

    fn grid(self, form: Form, m: usize, n: usize) -> [u32; 3] {
        let tiles = |m_each: u32, n_each: u32| {
            (u32_of(m.div_ceil(m_each as usize)), u32_of(n.div_ceil(n_each as usize)))
        };
        match self {
            Tile::Plain => grid_1d((m * n).div_ceil(THREADS)),
            Tile::Tiled { rows, columns, .. } => {
                let (down, along) = tiles(rows, columns);
                [along, down, 1]
            }
            Tile::Subgroup { lanes, rows } => {
                let (down, along) = tiles(rows, if form == Form::Tn { 8 * lanes } else { 4 * lanes });
                [down, along, 1]
            }
        }
    }
}

pub(super) fn variants() -> Vec<(&'static Kernel, Constants)> {
    let mut all = Vec::new();
    for form in Form::ALL {
        let mut tiles = Tile::menu(form, Family::Tiled);
        for lanes in [4, 8, 16] {
            let subgroup = Tile::menu(form, Family::Subgroup(lanes));
            tiles.extend(subgroup.into_iter().filter(|tile| matches!(tile, Tile::Subgroup { .. })));
        }
        all.extend(tiles.into_iter().map(|tile| (tile.kernel(form), tile.constants())));
    }
    all
}

/// The shaders' number of an activation.
fn number(activation: Option<Activation>) -> f64 {
    match activation {
        None => 0.0,
        Some(Activation::Gelu) => 1.0,
        Some(Activation::QuickGelu) => 2.0,
    }
}

/// A switch of the shaders: 1 if the tensor takes part.
fn on(tensor: Option<Tensor>) -> f64 {
    f64::from(u8::from(tensor.is_some()))
}

/// What happens to a sum before it is stored: c = activation(sum + bias)·scale + residual.
#[derive(Debug, Clone, Copy, Default)]
pub struct Epilogue {
    /// (N), added to every row.
    pub bias: Option<Tensor>,
    /// (M, N), written: the value before the activation.
    pub pre: Option<Tensor>,
    /// Applied after the bias.
    pub activation: Option<Activation>,
    /// (N), LayerScale.
    pub scale: Option<Tensor>,
    /// (M, N), added last.
    pub residual: Option<Tensor>,
}

/// C = epilogue(A·Bᵀ).
#[derive(Debug, Clone, Copy)]
pub struct Nt {
    /// (M, K).
    pub a: Tensor,
    /// (N, K).
    pub b: Tensor,
    /// (M, N), written.
    pub c: Tensor,
    /// M, rows of A.
    pub m: usize,
    /// N, rows of B.
    pub n: usize,
    /// K, length of both's rows.
    pub k: usize,
    /// What happens to a sum before it is stored.
    pub epilogue: Epilogue,
}

impl Nt {
    /// Records the product with the tile that tuning chose for such shapes, else the one from the built-in table.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        let tile = Tile::pick(Form::Nt, recorder.context, self.m, self.n, self.k);
        self.record_with(recorder, name, tile);
    }

    /// Records the product with a tile of the caller's choice.
    ///
    /// # Panics
    /// If a tensor doesn't fit its shape, or K or N isn't a multiple of 4 and the tile isn't [`Tile::Plain`].
    pub fn record_with(&self, recorder: &mut Recorder<'_>, name: &str, tile: Tile) {
        let Nt { a, b, c, m, n, k, epilogue } = *self;
        expect(recorder, "a", a, &[m, k]);
        expect(recorder, "b", b, &[n, k]);
        expect(recorder, "c", c, &[m, n]);
        let optional = [
            ("bias", epilogue.bias, vec![n]),
            ("scale", epilogue.scale, vec![n]),
            ("residual", epilogue.residual, vec![m, n]),
            ("pre", epilogue.pre, vec![m, n]),
        ];
        for (name, tensor, shape) in optional {
            if let Some(tensor) = tensor {
                expect(recorder, name, tensor, &shape);
            }
        }
        tile.check(Form::Nt, name, m, n, k);

        let read = recorder.unused(Access::Read);
        let write = recorder.unused(Access::Write);
        let params = Params { m: u32_of(m), n: u32_of(n), k: u32_of(k), unused: 0 };
        recorder.dispatch(Dispatch {
            kernel: tile.kernel(Form::Nt),
            constants: tile.constants(),
            overrides: vec![
                ("HAS_BIAS", on(epilogue.bias)),
                ("KEEP_PRE", on(epilogue.pre)),
                ("ACTIVATION", number(epilogue.activation)),
                ("HAS_SCALE", on(epilogue.scale)),
                ("HAS_RESIDUAL", on(epilogue.residual)),
            ],
            tensors: vec![
                a,
                b,
                epilogue.bias.unwrap_or(read),
                epilogue.scale.unwrap_or(read),
                epilogue.residual.unwrap_or(read),
                c,
                epilogue.pre.unwrap_or(write),
            ],
            params: bytemuck::bytes_of(&params).to_vec(),
            grid: tile.grid(Form::Nt, m, n),
            flops: 2.0 * m as f64 * n as f64 * k as f64,
            label: recorder.label(name),
        });
    }
}

/// C = A·B, times an activation's slope, plus a residual: a linear layer's dX = dY·W, W as it is stored.
#[derive(Debug, Clone, Copy)]
pub struct Nn {
    /// (M, K).
    pub a: Tensor,
    /// (K, N).
    pub b: Tensor,
    /// (M, N), written.
    pub c: Tensor,
    /// M, rows of A.
    pub m: usize,
    /// N, columns of B.
    pub n: usize,
    /// K, columns of A and rows of B.
    pub k: usize,
    /// Multiplies by the activation's derivative at (M, N), what [`Epilogue::pre`] kept of the layer before.
    pub derivative: Option<(Activation, Tensor)>,
    /// (M, N), added last.
    pub residual: Option<Tensor>,
}

impl Nn {
    /// Records the product with the tile that tuning chose for such shapes, else the one from the built-in table.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        let tile = Tile::pick(Form::Nn, recorder.context, self.m, self.n, self.k);
        self.record_with(recorder, name, tile);
    }

    /// Records the product with a tile of the caller's choice.
    ///
    /// # Panics
    /// If a tensor doesn't fit its shape, or K or N isn't a multiple of 4 and the tile isn't [`Tile::Plain`].
    pub fn record_with(&self, recorder: &mut Recorder<'_>, name: &str, tile: Tile) {
        let Nn { a, b, c, m, n, k, derivative, residual } = *self;
        let kept = derivative.map(|(_, kept)| kept);
        expect(recorder, "a", a, &[m, k]);
        expect(recorder, "b", b, &[k, n]);
        expect(recorder, "c", c, &[m, n]);
        for (name, tensor) in [("kept", kept), ("residual", residual)] {
            if let Some(tensor) = tensor {
                expect(recorder, name, tensor, &[m, n]);
            }
        }
        tile.check(Form::Nn, name, m, n, k);

        let unused = recorder.unused(Access::Read);
        let params = Params { m: u32_of(m), n: u32_of(n), k: u32_of(k), unused: 0 };
        recorder.dispatch(Dispatch {
            kernel: tile.kernel(Form::Nn),
            constants: tile.constants(),
            overrides: vec![
                ("ACTIVATION", number(derivative.map(|(activation, _)| activation))),
                ("HAS_RESIDUAL", on(residual)),
            ],
            tensors: vec![a, b, c, kept.unwrap_or(unused), residual.unwrap_or(unused)],
            params: bytemuck::bytes_of(&params).to_vec(),
            grid: tile.grid(Form::Nn, m, n),
            flops: 2.0 * m as f64 * n as f64 * k as f64,
            label: recorder.label(name),
        });
    }
}

/// C = Aᵀ·B and the sums of A's columns: a linear layer's dW = dYᵀ·X and db.
#[derive(Debug, Clone, Copy)]
pub struct Tn {
    /// (K, M).
    pub a: Tensor,
    /// (K, N).
    pub b: Tensor,
    /// (M, N), written.
    pub c: Tensor,
    /// (M), written: Σ_k of A.
    pub column_sum: Option<Tensor>,
    /// M, columns of A.
    pub m: usize,
    /// N, columns of B.
    pub n: usize,
    /// K, rows of both: any number.
    pub k: usize,
}

impl Tn {
    /// Records the product with the tile that tuning chose for such shapes, else the one from the built-in table.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        let tile = Tile::pick(Form::Tn, recorder.context, self.m, self.n, self.k);
        self.record_with(recorder, name, tile);
    }

    /// Records the product with a tile of the caller's choice.
    ///
    /// # Panics
    /// If a tensor doesn't fit its shape, or M or N isn't a multiple of 4 and the tile isn't [`Tile::Plain`].
    pub fn record_with(&self, recorder: &mut Recorder<'_>, name: &str, tile: Tile) {
        let Tn { a, b, c, column_sum, m, n, k } = *self;
        expect(recorder, "a", a, &[k, m]);
        expect(recorder, "b", b, &[k, n]);
        expect(recorder, "c", c, &[m, n]);
        if let Some(tensor) = column_sum {
            expect(recorder, "column_sum", tensor, &[m]);
        }
        tile.check(Form::Tn, name, m, n, k);

        let unused = recorder.unused(Access::Write);
        let params = Params { m: u32_of(m), n: u32_of(n), k: u32_of(k), unused: 0 };
        recorder.dispatch(Dispatch {
            kernel: tile.kernel(Form::Tn),
            constants: tile.constants(),
            overrides: vec![("HAS_COLUMN_SUM", on(column_sum))],
            tensors: vec![a, b, c, column_sum.unwrap_or(unused)],
            params: bytemuck::bytes_of(&params).to_vec(),
            grid: tile.grid(Form::Tn, m, n),
            flops: 2.0 * m as f64 * n as f64 * k as f64,
            label: recorder.label(name),
        });
    }
}
