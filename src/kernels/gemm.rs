//! Matrix product of rows with rows, C = epilogue(A·Bᵀ): every linear map of the network.
//!
//! Three WGSL files compute the same bits: `gemm.wgsl` (plain, any shape), `gemm_tiled.wgsl` (GPUs) and
//! `gemm_subgroup.wgsl` (CPU adapters).

use super::{THREADS, expect, u32_of};
use crate::gpu::{Access, Binding, Constants, Dispatch, Family, Kernel, Recorder, Tensor, grid_1d};
use crate::shape::Activation;

const BINDINGS: &[Binding] = &[
    Binding::read("a"),
    Binding::read("b"),
    Binding::read("bias"),
    Binding::read("scale"),
    Binding::read("residual"),
    Binding::write("c"),
    Binding::write("pre"),
];
const HELPERS: &[&str] = &[
    include_str!("../../shaders/common/gemm_epilogue.wgsl"),
    include_str!("../../shaders/common/gelu.wgsl"),
];

/// One invocation per output, any shape.
pub static PLAIN: Kernel = Kernel {
    name: "gemm",
    source: include_str!("../../shaders/gemm.wgsl"),
    helpers: HELPERS,
    entry: "gemm_nt",
    bindings: BINDINGS,
    uniform_bytes: size_of::<Params>(),
    subgroups: false,
};

/// Register tiles fed from workgroup memory.
pub static TILED: Kernel = Kernel {
    name: "gemm_tiled",
    source: include_str!("../../shaders/gemm_tiled.wgsl"),
    helpers: HELPERS,
    entry: "gemm_nt",
    bindings: BINDINGS,
    uniform_bytes: size_of::<Params>(),
    subgroups: false,
};

/// One subgroup per workgroup.
pub static SUBGROUP: Kernel = Kernel {
    name: "gemm_subgroup",
    source: include_str!("../../shaders/gemm_subgroup.wgsl"),
    helpers: HELPERS,
    entry: "gemm_nt",
    bindings: BINDINGS,
    uniform_bytes: size_of::<Params>(),
    subgroups: true,
};

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    m: u32,
    n: u32,
    k: u32,
    unused: u32,
}

/// One way to compute the product; all give the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tile {
    /// `gemm.wgsl`.
    Plain,
    /// `gemm_tiled.wgsl` with a square tile of this side, this many outputs per invocation along each side.
    Tiled {
        /// BM = BN.
        side: u32,
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

/// GPU tiles, largest first.
pub const TILED_MENU: [Tile; 3] = [
    Tile::Tiled { side: 128, each: 8 },
    Tile::Tiled { side: 64, each: 4 },
    Tile::Tiled { side: 32, each: 4 },
];

/// Rows per workgroup on CPU adapters, largest first.
pub const SUBGROUP_ROWS: [u32; 3] = [32, 16, 8];

impl Tile {
    /// The tile that the built-in table picks for a shape.
    pub fn pick(family: Family, m: usize, n: usize, k: usize) -> Tile {
        if !k.is_multiple_of(4) {
            return Tile::Plain;
        }
        match family {
            Family::Tiled => {
                // A GPU wants many workgroups; a large tile wants few loads. The largest tile that still gives 128 of them.
                let enough = |tile: &Tile| match *tile {
                    Tile::Tiled { side, .. } => m.div_ceil(side as usize) * n.div_ceil(side as usize) >= 128,
                    _ => false,
                };
                TILED_MENU.into_iter().find(enough).unwrap_or(TILED_MENU[2])
            }
            Family::Subgroup(lanes) => {
                let fits = |&rows: &u32| rows as usize <= m.next_multiple_of(lanes as usize);
                let rows = SUBGROUP_ROWS.into_iter().find(fits).unwrap_or(SUBGROUP_ROWS[2]);
                Tile::Subgroup { lanes, rows: rows.max(lanes) }
            }
        }
    }

    fn kernel(self) -> &'static Kernel {
        match self {
            Tile::Plain => &PLAIN,
            Tile::Tiled { .. } => &TILED,
            Tile::Subgroup { .. } => &SUBGROUP,
        }
    }

    fn constants(self) -> Constants {
        match self {
            Tile::Plain => vec![],
            Tile::Tiled { side, each } => vec![("BM", side), ("BN", side), ("TM", each), ("TN", each)],
            Tile::Subgroup { lanes, rows } => vec![("SUB", lanes), ("ROWS", rows)],
        }
    }

    fn grid(self, m: usize, n: usize) -> [u32; 3] {
        match self {
            Tile::Plain => grid_1d((m * n).div_ceil(THREADS)),
            Tile::Tiled { side, .. } => {
                [u32_of(n.div_ceil(side as usize)), u32_of(m.div_ceil(side as usize)), 1]
            }
            Tile::Subgroup { lanes, rows } => {
                [u32_of(n.div_ceil(4 * lanes as usize)), u32_of(m.div_ceil(rows as usize)), 1]
            }
        }
    }
}

pub(super) fn variants() -> Vec<(&'static Kernel, Constants)> {
    let subgroup = [4, 8, 16]
        .into_iter()
        .flat_map(|lanes| SUBGROUP_ROWS.map(|rows| Tile::Subgroup { lanes, rows: rows.max(lanes) }));
    std::iter::once(Tile::Plain)
        .chain(TILED_MENU)
        .chain(subgroup)
        .map(|tile| (tile.kernel(), tile.constants()))
        .collect()
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
    /// Records the product with the tile from the built-in table.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        let tile = Tile::pick(recorder.context.family(), self.m, self.n, self.k);
        self.record_with(recorder, name, tile);
    }

    /// Records the product with a tile of the caller's choice.
    ///
    /// # Panics
    /// If a tensor doesn't fit its shape, or K isn't a multiple of 4 and the tile isn't [`Tile::Plain`].
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
        assert!(k.is_multiple_of(4) || tile == Tile::Plain, "{name}: K = {k} isn't a multiple of 4");

        let activation = match epilogue.activation {
            None => 0.0,
            Some(Activation::Gelu) => 1.0,
            Some(Activation::QuickGelu) => 2.0,
        };
        let on = |tensor: Option<Tensor>| f64::from(u8::from(tensor.is_some()));
        let read = recorder.unused(Access::Read);
        let write = recorder.unused(Access::Write);
        let params = Params { m: u32_of(m), n: u32_of(n), k: u32_of(k), unused: 0 };
        recorder.dispatch(Dispatch {
            kernel: tile.kernel(),
            constants: tile.constants(),
            overrides: vec![
                ("HAS_BIAS", on(epilogue.bias)),
                ("KEEP_PRE", on(epilogue.pre)),
                ("ACTIVATION", activation),
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
            grid: tile.grid(m, n),
            flops: 2.0 * m as f64 * n as f64 * k as f64,
            label: recorder.label(name),
        });
    }
}
