//! Matrix product in the three forms of a linear layer: C = epilogue(A·Bᵀ) forward, dA = dC·B and dB = dCᵀ·A backward.
//!
//! Three WGSL files compute the same bits: `gemm.wgsl` (plain, any shape), `gemm_tiled.wgsl` (GPUs) and
//! `gemm_subgroup.wgsl` (CPU adapters). A fourth, `gemm_cooperative.wgsl`, multiplies f16 operands on matrix units,
//! whose rounding depends on the hardware.

pub mod tiles;
mod validation;

use super::{THREADS, expect, u32_of};
use crate::entry_points;
use crate::error::{Error, Result};
use crate::gpu::{
    AdapterClass, Constants, Context, Dispatch, Family, Fragments, Kernel, Recorder, ShaderFile, Storage,
    Tensor, WorkgroupSize, assemble, grid_1d,
};
use crate::shape::Activation;
use serde::Deserialize;
use tiles::{SliceRule, Table};
pub use validation::{BIAS, DERIVATIVES, Derivative, EPILOGUES, NONE, Operations};

const GELU: &str = include_str!("../../shaders/common/gelu.wgsl");
const EPILOGUE: &str = include_str!("../../shaders/common/gemm_epilogue.wgsl");
const EPILOGUE_BACKWARD: &str = include_str!("../../shaders/common/gemm_epilogue_backward.wgsl");
const HELPERS: &[&str] = &[EPILOGUE, EPILOGUE_BACKWARD, GELU];

/// One invocation per output, any shape, f32 alone.
static PLAIN: ShaderFile = ShaderFile::new("gemm", include_str!("../../shaders/gemm.wgsl")).helpers(&[GELU]);
/// Register tiles fed from workgroup memory.
static TILED: ShaderFile = ShaderFile::new("gemm_tiled", include_str!("../../shaders/gemm_tiled.wgsl"))
    .helpers(HELPERS)
    .workgroup_size(WorkgroupSize::Tile)
    .quads();
/// One subgroup per workgroup.
static SUBGROUP: ShaderFile =
    ShaderFile::new("gemm_subgroup", include_str!("../../shaders/gemm_subgroup.wgsl"))
        .helpers(HELPERS)
        .subgroups()
        .quads();

const fn cooperative(helpers: &'static [&'static str]) -> ShaderFile {
    ShaderFile::new("gemm_cooperative", include_str!("../../shaders/gemm_cooperative.wgsl"))
        .helpers(helpers)
        .subgroups()
        .workgroup_size(WorkgroupSize::Tile)
        .quads()
}

/// Matrix units with fragments of 16 × 16.
static COOPERATIVE_16: ShaderFile = cooperative(&[
    include_str!("../../shaders/common/fragment_16.wgsl"),
    include_str!("../../shaders/common/stage_16.wgsl"),
    EPILOGUE,
    EPILOGUE_BACKWARD,
    GELU,
]);
/// Matrix units with fragments of 8 × 8.
static COOPERATIVE_8: ShaderFile = cooperative(&[
    include_str!("../../shaders/common/fragment_8.wgsl"),
    include_str!("../../shaders/common/stage_8.wgsl"),
    EPILOGUE,
    EPILOGUE_BACKWARD,
    GELU,
]);

// `depth` is k per slice in TN. `first` counts the rows of tiles (`Tile::Plain`: workgroups) of earlier dispatches.
entry_points! {
    struct Params in 20 bytes { m: u32, n: u32, k: u32, depth: u32, first: u32 }
    fn gemm_nt(
        a: read_quads, b: read_quads, bias: read if HAS_BIAS, scale: read if HAS_SCALE,
        residual: read_quads if HAS_RESIDUAL, c: write_quads, pre: write_quads if KEEP_PRE
    );
    fn gemm_nn(
        a: read_quads, b: read_quads, product: write_quads, kept: read_quads if _,
        residual: read_quads if HAS_RESIDUAL
    );
    fn gemm_tn(a: read_quads, b: read_quads, gradient: write, column_sum: write if HAS_COLUMN_SUM);
    /// Adds up the slices of Aᵀ·B.
    fn gemm_slices(
        slices: read, slices_of_sums: read if HAS_COLUMN_SUM,
        total: write, total_of_sums: write if HAS_COLUMN_SUM
    );
}

pub(super) fn variants() -> Vec<(Kernel, Constants)> {
    let mut all = vec![(PLAIN.kernel::<gemm_slices>(), vec![])];
    let fragments = [(16, 64), (16, 32), (8, 32), (8, 8)].map(|(side, lanes)| Fragments { side, lanes });
    for form in Form::ALL {
        let mut tiles = Tile::every(form, Family::Tiled);
        tiles.extend(fragments.into_iter().flat_map(Tile::fragment_menu));
        for lanes in [4, 8, 16] {
            tiles.extend(Tile::subgroup_menu(form, lanes));
        }
        all.extend(tiles.into_iter().map(|tile| (tile.kernel(form), tile.constants())));
    }
    all
}

/// See [`super::on_matrix_units`].
pub(super) fn on_matrix_units(context: &Context) -> Vec<(String, bool)> {
    let Some(fragments) = context.fragments() else { return Vec::new() };
    let passes = |form| {
        // The smallest tile compiles fastest.
        let mut tiles = Tile::fragment_menu(fragments).into_iter().rev();
        tiles.any(|tile| validation::is_valid(form, context, tile))
    };
    let name = |form| format!("products {form:?}").to_lowercase();
    Form::ALL.map(|form| (name(form), passes(form))).to_vec()
}

/// The operands' transposes. Every form computes an (M, K) by (K, N) product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// A·Bᵀ, with B stored as (N, K).
    Nt,
    /// A·B.
    Nn,
    /// Aᵀ·B, with A stored as (K, M).
    Tn,
}

impl Form {
    /// Every form.
    pub const ALL: [Form; 3] = [Form::Nt, Form::Nn, Form::Tn];

    /// The two sizes that don't depend on the batch: N and K; for TN M and N.
    pub fn layer(self, m: usize, n: usize, k: usize) -> [usize; 2] {
        match self {
            Form::Nt | Form::Nn => [n, k],
            Form::Tn => [m, n],
        }
    }

    /// True if the rows of operands and result consist of whole quads, as all tiles except [`Tile::Plain`] require.
    pub fn in_quads(self, m: usize, n: usize, k: usize) -> bool {
        let (one, other) = match self {
            Form::Nt | Form::Nn => (k, n),
            Form::Tn => (m, n),
        };
        one.is_multiple_of(4) && other.is_multiple_of(4)
    }
}

/// Switches of `gemm_tiled.wgsl`, explained in its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Switches {
    /// PREFETCH: reads the next step of k into registers before this step's sums.
    pub prefetch: bool,
    /// LANES: arranges a subgroup's invocations as 4 along M and 8 along N.
    pub lanes: bool,
    /// SWIZZLE: stores transposed operands in workgroup memory without bank conflicts.
    pub swizzle: bool,
}

impl Switches {
    fn words(self) -> [(&'static str, &'static str, bool); 3] {
        [
            ("prefetch", "PREFETCH", self.prefetch),
            ("lanes", "LANES", self.lanes),
            ("swizzle", "SWIZZLE", self.swizzle),
        ]
    }

    fn from_words(words: &[&str]) -> Switches {
        let has = |word| words.contains(&word);
        Switches { prefetch: has("prefetch"), lanes: has("lanes"), swizzle: has("swizzle") }
    }
}

/// One way to compute a product. All except [`Tile::Cooperative`] give the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Tile {
    /// `gemm.wgsl`.
    Plain,
    /// `gemm_tiled.wgsl`, with the sides of the tile and the outputs per invocation along each side.
    Tiled {
        /// BM, rows of the tile.
        rows: u32,
        /// BN, columns of the tile.
        columns: u32,
        /// TM = TN, outputs per invocation along each side.
        each: u32,
        /// Changes that are faster on some adapters and give the same bits.
        switches: Switches,
    },
    /// `gemm_subgroup.wgsl`, with the rows per workgroup; in TN a multiple of 4 · `lanes`.
    Subgroup {
        /// SUB, the adapter's fixed subgroup size.
        lanes: u32,
        /// ROWS, rows per workgroup.
        rows: u32,
        /// QUADS, quads of columns per lane.
        quads: u32,
    },
    /// `gemm_cooperative.wgsl`, for f16. All tiles of the same fragments give the same bits.
    Cooperative {
        /// SIDE and LANES.
        fragments: Fragments,
        /// BM, rows of the tile.
        rows: u32,
        /// BN, columns of the tile.
        columns: u32,
        /// Rows and columns of a subgroup's block: SIDE · DOWN and SIDE · ALONG.
        block: [u32; 2],
    },
}

/// Smallest number of columns of a product for which matrix units are worth their padding; TN: and of rows.
const FRAGMENT_COLUMNS: usize = 64;

impl std::fmt::Display for Tile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Tile::Plain => write!(f, "plain"),
            Tile::Cooperative { fragments, rows, columns, block: [down, along] } => {
                let lanes = fragments.lanes;
                write!(f, "fragments of {fragments} by {lanes} lanes, {rows}x{columns} by {down}x{along}")
            }
            Tile::Tiled { rows, columns, each, switches } => {
                write!(f, "tiled {rows}x{columns} by {each}x{each}")?;
                let words = switches.words().into_iter().filter(|(_, _, on)| *on);
                words.map(|(word, ..)| word).try_for_each(|word| write!(f, " {word}"))
            }
            Tile::Subgroup { lanes, rows, quads } => {
                write!(f, "subgroup of {lanes} with {rows} rows x {} columns", 4 * lanes * quads)
            }
        }
    }
}

impl TryFrom<String> for Tile {
    type Error = Error;

    /// Parses the format of [`Tile`]'s `Display`.
    fn try_from(text: String) -> Result<Tile> {
        let words: Vec<&str> = text.split(' ').collect();
        let number = |word: &str| word.parse::<u32>().ok().filter(|&number| number > 0);
        let pair = |word: &str| word.split_once('x').and_then(|(one, other)| number(one).zip(number(other)));
        let twice = |word: &str| pair(word).filter(|(one, other)| one == other).map(|(one, _)| one);
        let tile = match words.as_slice() {
            ["plain"] => Some(Tile::Plain),
            ["fragments", "of", side, "by", lanes, "lanes,", sides, "by", block] => {
                let fragments = twice(side).zip(number(lanes)).map(|(side, lanes)| Fragments { side, lanes });
                let block = pair(block).map(|(down, along)| [down, along]);
                (fragments.zip(pair(sides)).zip(block)).map(|((fragments, (rows, columns)), block)| {
                    Tile::Cooperative { fragments, rows, columns, block }
                })
            }
            ["tiled", sides, "by", each, switches @ ..] => {
                let switches = Switches::from_words(switches);
                (pair(sides).zip(twice(each))).map(|((rows, columns), each)| Tile::Tiled {
                    rows,
                    columns,
                    each,
                    switches,
                })
            }
            ["subgroup", "of", lanes, "with", rows, "rows", "x", columns, "columns"] => (number(lanes)
                .zip(number(rows))
                .zip(number(columns)))
            .map(|((lanes, rows), columns)| Tile::Subgroup { lanes, rows, quads: columns / (4 * lanes) }),
            _ => None,
        };
        // Choices are compared as strings, so only the displayed spelling is valid.
        tile.filter(|tile| tile.to_string() == text)
            .ok_or_else(|| Error::Data(format!("{text:?} is not a tile")))
    }
}

/// Key of a class of shapes in the file of tuning results. The size that changes with the batch is rounded up to a
/// power of two.
pub fn class_of(form: Form, storage: Storage, m: usize, n: usize, k: usize) -> String {
    let (m, k) = match form {
        Form::Nt | Form::Nn => (m.next_power_of_two(), k),
        Form::Tn => (m, k.next_power_of_two()),
    };
    format!("gemm {form:?} {m}x{n}x{k} {storage:?}").to_lowercase()
}

/// Form and sizes (M, N, K) of a dispatch, if it is a matrix product.
pub fn shape_of(dispatch: &Dispatch) -> Option<(Form, [usize; 3])> {
    let form = Form::ALL.into_iter().find(|form| Tile::Plain.kernel(*form).entry == dispatch.kernel.entry)?;
    let words: &[u32] = bytemuck::try_cast_slice(&dispatch.params).ok()?;
    // Of a product in several dispatches only the first counts.
    let [m, n, k, _, 0] = *words else { return None };
    Some((form, [m, n, k].map(|size| size as usize)))
}

/// Rows per workgroup and quads of columns per lane on CPU adapters, largest first. Loads dominate there, and a larger
/// tile reuses each load more often. But its unrolled epilogue also takes longer to compile.
pub const SUBGROUP_MENU: [(u32, u32); 4] = [(32, 2), (32, 1), (16, 1), (8, 1)];

/// The same for TN, which has no epilogue.
pub const SUBGROUP_MENU_TN: [(u32, u32); 2] = [(64, 4), (32, 2)];

/// Smallest number of rows for which a product uses the tile that a lab run found.
const WINNER_ROWS: usize = 1024;

/// Smallest number of rows for which the largest tile of a CPU adapter is worth its compile time.
const MANY_ROWS: usize = 512;

/// Division of the sums of TN along k, for results that alone give an adapter too little parallel work.
///
/// It depends on the shape and the class of adapter alone, so that all tiles add in the same order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Slices {
    count: usize,
    /// k per slice; the last slice may be shorter.
    depth: usize,
}

impl Slices {
    /// The depth is a multiple of a tile's step, and large enough to be worth the second pass.
    fn of(class: AdapterClass, m: usize, n: usize, k: usize) -> Slices {
        const STEP: usize = 16;
        let rule: SliceRule = Table::built_in().of(class).slices;
        let tiles = m.div_ceil(64) * n.div_ceil(64);
        let count = (rule.tiles / tiles).min(k / rule.depth).clamp(1, rule.most);
        let depth = k.div_ceil(count).next_multiple_of(STEP);
        Slices { count: k.div_ceil(depth), depth }
    }
}

impl Tile {
    /// The tile that tuning chose for this class of shapes; otherwise [`Tile::untuned`].
    pub fn pick(form: Form, context: &Context, m: usize, n: usize, k: usize) -> Tile {
        let chosen = context.choice(&class_of(form, context.storage(), m, n, k)).and_then(|name| {
            Tile::equivalent(form, context, m, n, k).into_iter().find(|tile| tile.name(form) == name)
        });
        chosen.unwrap_or_else(|| Tile::untuned(form, context, m, n, k))
    }

    /// The first of [`Tile::units`]; otherwise the tile of the built-in table.
    pub fn untuned(form: Form, context: &Context, m: usize, n: usize, k: usize) -> Tile {
        let units = Tile::units(form, context, m, n, k).next();
        units.unwrap_or_else(|| Tile::built_in(form, context, m, n, k))
    }

    /// The tiles that tuning may choose from, which give a product the same bits: [`Tile::units`] if matrix units
    /// apply; otherwise the built-in one first, then the rest of the menu.
    pub fn equivalent(form: Form, context: &Context, m: usize, n: usize, k: usize) -> Vec<Tile> {
        let units: Vec<Tile> = Tile::units(form, context, m, n, k).collect();
        if !units.is_empty() {
            return units;
        }
        let built_in = Tile::built_in(form, context, m, n, k);
        let mut tiles = vec![built_in];
        if form.in_quads(m, n, k) {
            // The plain kernel is never faster than a tile, and has f32 alone.
            let menu = Tile::menu(form, context.family(), context.class()).into_iter();
            tiles.extend(menu.filter(|tile| *tile != Tile::Plain && *tile != built_in));
        }
        tiles
    }

    /// The validated tiles on matrix units, the preferred one first, if they suit the product; otherwise none. Each is
    /// validated when the iterator reaches it.
    ///
    /// The choice between some and none depends on the form, the sizes of the layer ([`Form::layer`]) and the adapter
    /// alone, so an image's embedding has the same bits in any batch.
    pub fn units(form: Form, context: &Context, m: usize, n: usize, k: usize) -> impl Iterator<Item = Tile> {
        let won = Tile::winner(form, context, m, n, k);
        let serve = match won {
            Some(tile) => matches!(tile, Tile::Cooperative { .. }),
            None => n >= FRAGMENT_COLUMNS && (form != Form::Tn || m >= FRAGMENT_COLUMNS),
        };
        let fragments = context.fragments().filter(|_| serve && form.in_quads(m, n, k));
        let mut menu: Vec<Tile> = fragments.into_iter().flat_map(Tile::fragment_menu).collect();
        let slices = if form == Form::Tn { Slices::of(context.class(), m, n, k).count } else { 1 };
        // The largest with enough workgroups, since larger tiles need fewer loads; else the smallest. On CPU adapters
        // the smallest, which compiles faster.
        let wanted = match context.class() {
            AdapterClass::Cpu => usize::MAX,
            AdapterClass::Integrated => 32,
            AdapterClass::Discrete => 264,
        };
        let enough = |tile: &Tile| slices * tile.workgroups(m, n) >= wanted;
        let preferred = won.and_then(|won| menu.iter().position(|tile| *tile == won));
        let preferred = preferred.or_else(|| menu.iter().position(enough));
        let preferred = preferred.unwrap_or(menu.len().saturating_sub(1));
        if !menu.is_empty() {
            menu[..=preferred].rotate_right(1);
        }
        menu.into_iter().filter(move |tile| validation::is_valid(form, context, *tile))
    }

    /// Every tile with these fragments, largest first.
    pub fn fragment_menu(fragments: Fragments) -> Vec<Tile> {
        // Sides of the tile and of a block, for two or more subgroups. The smallest tile is for single images.
        let menu: &[(u32, [u32; 2])] = match (fragments.side, fragments.lanes) {
            (16, 64) => &[(128, [64, 64]), (64, [64, 32]), (32, [32, 16])],
            (16, _) => &[(128, [64, 64]), (128, [64, 32]), (64, [32, 32]), (32, [16, 16])],
            (_, 8) => &[(128, [32, 32]), (64, [16, 16])],
            _ => &[(128, [32, 32]), (64, [32, 32]), (32, [16, 16])],
        };
        let tile = |&(side, block)| Tile::Cooperative { fragments, rows: side, columns: side, block };
        menu.iter().map(tile).collect()
    }

    /// The tile that a lab run found for such a layer on the adapter's class.
    fn winner(form: Form, context: &Context, m: usize, n: usize, k: usize) -> Option<Tile> {
        let (layer, storage) = (form.layer(m, n, k), context.storage());
        let winners = &Table::built_in().of(context.class()).winners;
        let won = winners
            .iter()
            .find(|winner| (winner.form, winner.sizes, winner.storage) == (form, layer, storage));
        won.map(|winner| winner.tile)
    }

    /// The tile's name in the file of tuning results. It includes a hash of the source, so that a choice holds for this
    /// source alone.
    pub fn name(self, form: Form) -> String {
        let source = assemble(&self.kernel(form), &self.constants(), Storage::F32);
        // FNV-1a: detects changes and need not be cryptographic.
        let hash = source.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
        });
        format!("{self} #{hash:016x}")
    }

    /// The tile of the built-in table for a shape.
    pub fn built_in(form: Form, context: &Context, m: usize, n: usize, k: usize) -> Tile {
        if !form.in_quads(m, n, k) {
            return Tile::Plain;
        }
        let (family, class) = (context.family(), context.class());
        let tiles = Table::built_in().of(class);
        let slices = if form == Form::Tn { Slices::of(class, m, n, k).count } else { 1 };
        let workgroups = |tile: Tile| slices * tile.workgroups(m, n);
        // A tile that is best for large batches may leave the adapter idle at small ones.
        let menu = || Tile::menu(form, family, class);
        let won = Tile::winner(form, context, m, n, k).filter(|_| form == Form::Tn || m >= WINNER_ROWS);
        let won = won.filter(|tile| *tile != Tile::Plain && menu().contains(tile));
        if let Some(tile) = won {
            return tile;
        }
        match family {
            // A GPU needs many workgroups, and larger tiles need fewer loads: the largest tile with enough workgroups.
            Family::Tiled if m <= 16 => tiles.skinny,
            Family::Tiled => {
                let enough = tiles.built_in.iter().find(|step| workgroups(step.tile) >= step.workgroups);
                enough.unwrap_or(&tiles.built_in[tiles.built_in.len() - 1]).tile
            }
            Family::Subgroup(lanes) => {
                let menu = Tile::subgroup_menu(form, lanes);
                let (largest, others) = (menu[0], &menu[1..]);
                let fits = |tile: Tile| match tile {
                    Tile::Subgroup { rows, quads, .. } => {
                        // Not if much of the tile would be past the end.
                        let columns = (4 * lanes * quads) as usize;
                        let filled = quads == 1 || n.next_multiple_of(columns) <= n + n / 8;
                        filled && rows as usize <= m.next_multiple_of(lanes as usize)
                    }
                    _ => false,
                };
                if (form == Form::Tn || m >= MANY_ROWS) && fits(largest) {
                    return largest;
                }
                others.iter().copied().find(|&tile| fits(tile)).unwrap_or(menu[menu.len() - 1])
            }
        }
    }

    fn file(self) -> &'static ShaderFile {
        match self {
            Tile::Plain => &PLAIN,
            Tile::Cooperative { fragments: Fragments { side: 16, .. }, .. } => &COOPERATIVE_16,
            Tile::Cooperative { .. } => &COOPERATIVE_8,
            Tile::Tiled { .. } => &TILED,
            Tile::Subgroup { .. } => &SUBGROUP,
        }
    }

    fn kernel(self, form: Form) -> Kernel {
        match form {
            Form::Nt => self.file().kernel::<gemm_nt>(),
            Form::Nn => self.file().kernel::<gemm_nn>(),
            Form::Tn => self.file().kernel::<gemm_tn>(),
        }
    }

    /// Every tile that tuning and the lab try for a form on an adapter of this family and class. Begins with the plain
    /// one.
    pub fn menu(form: Form, family: Family, class: AdapterClass) -> Vec<Tile> {
        let tiles = Table::built_in().of(class);
        let mut menu = vec![Tile::Plain];
        menu.extend(tiles.built_in.iter().map(|step| step.tile));
        menu.extend([tiles.skinny]);
        menu.extend(&tiles.menu);
        if let Family::Subgroup(lanes) = family {
            menu.extend(Tile::subgroup_menu(form, lanes));
        }
        menu
    }

    /// The menus of all classes combined, each tile once: all that an adapter of this family can run.
    pub fn every(form: Form, family: Family) -> Vec<Tile> {
        let mut every: Vec<Tile> = Vec::new();
        for class in [AdapterClass::Cpu, AdapterClass::Integrated, AdapterClass::Discrete] {
            let new = Tile::menu(form, family, class).into_iter().filter(|tile| !every.contains(tile));
            every.extend(new.collect::<Vec<_>>());
        }
        every
    }

    /// Largest first.
    fn subgroup_menu(form: Form, lanes: u32) -> Vec<Tile> {
        let (menu, least): (&[(u32, u32)], u32) = match form {
            Form::Nt | Form::Nn => (&SUBGROUP_MENU, lanes),
            Form::Tn => (&SUBGROUP_MENU_TN, 4 * lanes),
        };
        let tile = |&(rows, quads): &(u32, u32)| Tile::Subgroup { lanes, rows: rows.max(least), quads };
        let mut menu: Vec<Tile> = menu.iter().map(tile).collect();
        menu.dedup();
        menu
    }

    /// True if this tile can compute such a product.
    pub fn can(self, form: Form, m: usize, n: usize, k: usize) -> bool {
        match self {
            Tile::Plain => true,
            Tile::Tiled { .. } | Tile::Subgroup { .. } | Tile::Cooperative { .. } => form.in_quads(m, n, k),
        }
    }

    fn check(self, form: Form, name: &str, m: usize, n: usize, k: usize) {
        assert!(self.can(form, m, n, k), "{name}: {self} can't compute {form:?} {m}x{n}x{k}");
    }

    fn constants(self) -> Constants {
        match self {
            Tile::Plain => vec![],
            Tile::Cooperative {
                fragments: Fragments { side, lanes },
                rows,
                columns,
                block: [down, along],
            } => {
                let (down, along) = (down / side, along / side);
                vec![
                    ("SIDE", side),
                    ("LANES", lanes),
                    ("BM", rows),
                    ("BN", columns),
                    ("DOWN", down),
                    ("ALONG", along),
                ]
            }
            Tile::Tiled { rows, columns, each, switches } => {
                let sizes = [("BM", rows), ("BN", columns), ("TM", each), ("TN", each)];
                let on = switches.words().into_iter().filter(|(_, _, on)| *on);
                sizes.into_iter().chain(on.map(|(_, constant, _)| (constant, 1))).collect()
            }
            Tile::Subgroup { lanes, rows, quads } => vec![("SUB", lanes), ("ROWS", rows), ("QUADS", quads)],
        }
    }

    fn workgroups(self, m: usize, n: usize) -> usize {
        self.grid(m, n).map(|side| side as usize).iter().product()
    }

    fn grid(self, m: usize, n: usize) -> [u32; 3] {
        let tiles = |m_each: u32, n_each: u32| {
            (u32_of(m.div_ceil(m_each as usize)), u32_of(n.div_ceil(n_each as usize)))
        };
        match self {
            Tile::Plain => grid_1d((m * n).div_ceil(THREADS)),
            Tile::Tiled { rows, columns, .. } | Tile::Cooperative { rows, columns, .. } => {
                let (down, along) = tiles(rows, columns);
                [along, down, 1]
            }
            Tile::Subgroup { lanes, rows, quads } => {
                let (down, along) = tiles(rows, 4 * lanes * quads);
                [down, along, 1]
            }
        }
    }
}

/// One dispatch of a product: workgroups of neighbouring rows of tiles.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Piece {
    /// Rows of tiles of earlier dispatches.
    first: u32,
    grid: [u32; 3],
    flops: f64,
}

impl Tile {
    /// Splits a product into the fewest dispatches that take at most `most` floating-point operations, but not below a
    /// row of tiles.
    fn pieces(self, m: usize, n: usize, slices: usize, flops: f64, most: f64) -> Vec<Piece> {
        let [x, y, _] = self.grid(m, n);
        let rows = match self {
            Tile::Plain => (m * n).div_ceil(THREADS),
            Tile::Subgroup { .. } => x as usize,
            Tile::Tiled { .. } | Tile::Cooperative { .. } => y as usize,
        };
        let pieces = ((flops / most).ceil() as usize).clamp(1, rows);
        let each = rows.div_ceil(pieces);
        let piece = |first: usize| {
            let count = each.min(rows - first);
            let [x, y, _] = match self {
                Tile::Plain => grid_1d(count),
                Tile::Subgroup { .. } => [u32_of(count), y, 1],
                Tile::Tiled { .. } | Tile::Cooperative { .. } => [x, u32_of(count), 1],
            };
            let share = count as f64 / rows as f64;
            Piece { first: u32_of(first), grid: [x, y, u32_of(slices)], flops: share * flops }
        };
        (0..rows).step_by(each).map(piece).collect()
    }
}

/// Records C (m, n) of a product alone, without epilogue, in the storage of its form; see [`Nt`], [`Nn`] and [`Tn`].
pub fn record_alone(
    recorder: &mut Recorder<'_>,
    form: Form,
    [a, b, c]: [Tensor; 3],
    [m, n, k]: [usize; 3],
    tile: Tile,
) {
    let name = "product";
    match form {
        Form::Nt => {
            let epilogue = Epilogue::default();
            Nt { a, b, c, m, n, k, epilogue }.record_with(recorder, name, tile);
        }
        Form::Nn => {
            let product = Nn { a, b, c, m, n, k, derivative: None, residual: None };
            product.record_with(recorder, name, tile);
        }
        Form::Tn => Tn { a, b, c, column_sum: None, m, n, k }.record_with(recorder, name, tile),
    }
}

/// ACTIVATION of the shaders.
fn number(activation: Option<Activation>) -> f64 {
    match activation {
        None => 0.0,
        Some(Activation::Gelu) => 1.0,
        Some(Activation::QuickGelu) => 2.0,
    }
}

/// Operations on a sum before it is stored: c = activation(sum + bias)·scale + residual.
#[derive(Debug, Clone, Copy, Default)]
pub struct Epilogue {
    /// Bias (N), added to every row.
    pub bias: Option<Tensor>,
    /// Values before the activation (M, N), written.
    pub pre: Option<Tensor>,
    /// Activation after the bias.
    pub activation: Option<Activation>,
    /// Factors of LayerScale (N).
    pub scale: Option<Tensor>,
    /// Residual (M, N), added last.
    pub residual: Option<Tensor>,
}

/// C = epilogue(A·Bᵀ).
#[derive(Debug, Clone, Copy)]
pub struct Nt {
    /// Operand A (M, K).
    pub a: Tensor,
    /// Operand B (N, K).
    pub b: Tensor,
    /// Product (M, N), written.
    pub c: Tensor,
    /// Rows of A, M.
    pub m: usize,
    /// Rows of B, N.
    pub n: usize,
    /// Row length of A and B, K.
    pub k: usize,
    /// Operations before a sum is stored.
    pub epilogue: Epilogue,
}

impl Nt {
    /// Records the product with [`Tile::pick`].
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        let tile = Tile::pick(Form::Nt, recorder.context, self.m, self.n, self.k);
        self.record_with(recorder, name, tile);
    }

    /// Records the product with `tile`.
    ///
    /// # Panics
    /// If a tensor doesn't fit its shape, or K or N isn't a multiple of 4 and the tile isn't [`Tile::Plain`].
    pub fn record_with(&self, recorder: &mut Recorder<'_>, name: &str, tile: Tile) {
        let Nt { a, b, c, m, n, k, epilogue } = *self;
        expect(recorder, "a", a, &[m, k]);
        expect(recorder, "b", b, &[n, k]);
        expect(recorder, "c", c, &[m, n]);
        let Epilogue { bias, pre, activation, scale, residual } = epilogue;
        expect(recorder, "bias", bias, &[n]);
        expect(recorder, "scale", scale, &[n]);
        expect(recorder, "residual", residual, &[m, n]);
        expect(recorder, "pre", pre, &[m, n]);
        tile.check(Form::Nt, name, m, n, k);

        let tensors = gemm_nt { a, b, bias, scale, residual, c, pre };
        let flops = 2.0 * m as f64 * n as f64 * k as f64;
        for piece in tile.pieces(m, n, 1, flops, recorder.dispatch_flops) {
            let params = Params { m: u32_of(m), n: u32_of(n), k: u32_of(k), depth: 0, first: piece.first };
            let launch = tile.file().launch(params, tensors).choice("ACTIVATION", number(activation));
            launch.constants(tile.constants()).grid(piece.grid).record(recorder, name, piece.flops);
        }
    }
}

/// C = A·B, times an activation's derivative, plus a residual. A linear layer's dX = dY·W, with W in its stored layout.
#[derive(Debug, Clone, Copy)]
pub struct Nn {
    /// Operand A (M, K).
    pub a: Tensor,
    /// Operand B (K, N).
    pub b: Tensor,
    /// Product (M, N), written.
    pub c: Tensor,
    /// Rows of A, M.
    pub m: usize,
    /// Columns of B, N.
    pub n: usize,
    /// Columns of A and rows of B, K.
    pub k: usize,
    /// Activation whose derivative multiplies the sums, and its arguments (M, N): [`Epilogue::pre`] of the layer
    /// before.
    pub derivative: Option<(Activation, Tensor)>,
    /// Residual (M, N), added last.
    pub residual: Option<Tensor>,
}

impl Nn {
    /// Records the product with [`Tile::pick`].
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        let tile = Tile::pick(Form::Nn, recorder.context, self.m, self.n, self.k);
        self.record_with(recorder, name, tile);
    }

    /// Records the product with `tile`.
    ///
    /// # Panics
    /// If a tensor doesn't fit its shape, or K or N isn't a multiple of 4 and the tile isn't [`Tile::Plain`].
    pub fn record_with(&self, recorder: &mut Recorder<'_>, name: &str, tile: Tile) {
        let Nn { a, b, c, m, n, k, derivative, residual } = *self;
        let kept = derivative.map(|(_, kept)| kept);
        expect(recorder, "a", a, &[m, k]);
        expect(recorder, "b", b, &[k, n]);
        expect(recorder, "c", c, &[m, n]);
        expect(recorder, "kept", kept, &[m, n]);
        expect(recorder, "residual", residual, &[m, n]);
        tile.check(Form::Nn, name, m, n, k);

        let tensors = gemm_nn { a, b, product: c, kept, residual };
        let activation = derivative.map(|(activation, _)| activation);
        let flops = 2.0 * m as f64 * n as f64 * k as f64;
        for piece in tile.pieces(m, n, 1, flops, recorder.dispatch_flops) {
            let params = Params { m: u32_of(m), n: u32_of(n), k: u32_of(k), depth: 0, first: piece.first };
            let launch = tile.file().launch(params, tensors).choice("ACTIVATION", number(activation));
            launch.constants(tile.constants()).grid(piece.grid).record(recorder, name, piece.flops);
        }
    }
}

/// C = Aᵀ·B and the column sums of A: a linear layer's dW = dYᵀ·X and db.
///
/// If K is long and C small, K is cut into slices, computed in parallel. A second dispatch adds them in order.
#[derive(Debug, Clone, Copy)]
pub struct Tn {
    /// Operand A (K, M).
    pub a: Tensor,
    /// Operand B (K, N).
    pub b: Tensor,
    /// Product (M, N), written.
    pub c: Tensor,
    /// Column sums Σ_k of A (M), written.
    pub column_sum: Option<Tensor>,
    /// Columns of A, M.
    pub m: usize,
    /// Columns of B, N.
    pub n: usize,
    /// Rows of A and B, K, any number.
    pub k: usize,
}

impl Tn {
    /// Records the product with [`Tile::pick`].
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        let tile = Tile::pick(Form::Tn, recorder.context, self.m, self.n, self.k);
        self.record_with(recorder, name, tile);
    }

    /// Records the product with `tile`.
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

        let Slices { count, depth } = Slices::of(recorder.context.class(), m, n, k);
        let (gradient, sums) = if count == 1 {
            (c, column_sum)
        } else {
            let sums = column_sum.map(|_| recorder.tensor("column sums of slices", count * m));
            (recorder.tensor("slices", count * m * n), sums)
        };
        let tensors = gemm_tn { a, b, gradient, column_sum: sums };
        let flops = 2.0 * m as f64 * n as f64 * k as f64;
        let sizes = Params { m: u32_of(m), n: u32_of(n), k: u32_of(k), depth: u32_of(depth), first: 0 };
        for piece in tile.pieces(m, n, count, flops, recorder.dispatch_flops) {
            let launch = tile.file().launch(Params { first: piece.first, ..sizes }, tensors);
            launch.constants(tile.constants()).grid(piece.grid).record(recorder, name, piece.flops);
        }
        if count == 1 {
            return;
        }
        let outputs = m * n + column_sum.map_or(0, |_| m);
        let tensors =
            gemm_slices { slices: gradient, slices_of_sums: sums, total: c, total_of_sums: column_sum };
        let label = format!("{name} slices");
        let launch = PLAIN.launch(sizes, tensors).invocations(outputs);
        launch.record(recorder, &label, (count * outputs) as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLASSES: [AdapterClass; 3] = [AdapterClass::Cpu, AdapterClass::Integrated, AdapterClass::Discrete];

    #[test]
    fn pieces_cover_every_row_of_tiles_once() {
        let units = Tile::fragment_menu(Fragments { side: 16, lanes: 32 });
        for tile in Tile::every(Form::Nt, Family::Subgroup(8)).into_iter().chain(units) {
            let whole = tile.pieces(1000, 300, 3, 8e9, f64::INFINITY);
            assert_eq!((whole.len(), whole[0].first), (1, 0), "{tile}");
            assert_eq!(&whole[0].grid[..2], &tile.grid(1000, 300)[..2], "{tile}");
            let pieces = tile.pieces(1000, 300, 3, 8e9, 3e9);
            assert!(pieces.len() == 3, "{tile}: {pieces:?}");
            let rows = |piece: &Piece| match tile {
                Tile::Plain => piece.grid[0] * piece.grid[1],
                Tile::Subgroup { .. } => piece.grid[0],
                _ => piece.grid[1],
            };
            for pair in pieces.windows(2) {
                assert_eq!(pair[0].first + rows(&pair[0]), pair[1].first, "{tile}: {pieces:?}");
            }
            assert!(pieces.iter().all(|piece| piece.grid[2] == 3));
            let flops: f64 = pieces.iter().map(|piece| piece.flops).sum();
            assert!((flops - 8e9).abs() < 1.0, "{tile}: {flops}");
            let (all, last) = (rows(&whole[0]), &pieces[2]);
            assert_eq!(last.first + rows(last), all, "{tile}: {pieces:?}");
        }
    }

    #[test]
    fn slices_cover_k_in_steps_of_a_tile() {
        for class in CLASSES {
            let rule = Table::built_in().of(class).slices;
            for (m, n, k) in [
                (384, 384, 1576),
                (384, 384, 6304),
                (192, 192, 6304),
                (3072, 768, 6304),
                (1536, 384, 50_432),
                (4, 4, 9000),
                (4, 4, 90_000),
                (384, 1536, 257),
                (36, 40, 1029),
            ] {
                let Slices { count, depth } = Slices::of(class, m, n, k);
                let case = format!("{class} {m}x{n}x{k}: {count} slices of {depth}");
                assert!(depth % 16 == 0 && (count - 1) * depth < k && count * depth >= k, "{case}");
                assert!(count == 1 || (depth >= rule.depth && count <= rule.most), "{case}");
                assert!(
                    count == 1 || 4 * count * m * n <= 16_384 * rule.tiles,
                    "{case} take too much memory"
                );
            }
        }
        assert_eq!(Slices::of(AdapterClass::Integrated, 384, 384, 1576).count, 3);
        // A large result occupies the adapter without slices.
        assert_eq!(Slices::of(AdapterClass::Integrated, 1536, 384, 25_216).count, 1);
    }

    #[test]
    fn every_tile_is_read_as_it_is_shown() {
        let tiles = Form::ALL.into_iter().flat_map(|form| Tile::every(form, Family::Subgroup(8)));
        let units = [8, 16].map(|side| Tile::fragment_menu(Fragments { side, lanes: 32 }));
        for tile in tiles.chain(units.into_iter().flatten()) {
            assert_eq!(Tile::try_from(tile.to_string()).unwrap(), tile);
        }
        for wrong in [
            "",
            "tiled 64x64 by 8x4",
            "tiled 64x64  by 8x8",
            "tiled 064x64 by 8x8",
            "fragments of 16x8 by 32 lanes, 64x64 by 32x32",
        ] {
            assert!(Tile::try_from(wrong.to_string()).is_err(), "{wrong}");
        }
    }
}
