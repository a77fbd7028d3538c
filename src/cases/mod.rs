//! The one list of every kernel's cases: tests, `lat-wgpu selftest` and `lat-wgpu bench` read it.
//!
//! A stem's file records its kernels on operands of any shape and says what the outputs should be, as [`crate::reference`] has
//! it, and by how much they may be off ([`tolerance`]). It lists the shapes: quick ones, small and ugly, in every variant and
//! storage that an adapter offers; full ones, for tests alone; those of networks, which are timed. [`run`] makes the operands.

pub mod compare;
pub mod numbers;
pub mod random;
pub mod run;
pub mod tolerance;

use crate::error::Result;
use crate::gpu::{self, AdapterClass, Context, Family, Plan, Storage};
use crate::shape::ImageSize;
use run::{Found, Purpose, Run};
use std::rc::Rc;

/// The stems, in the order of rows.
macro_rules! stems {
    ($($stem:ident)*) => {
        $(pub mod $stem;)*
        const STEMS: &[Stem] = &[$(Stem { name: stringify!($stem), list: $stem::list, time: $stem::time }),*];
    };
}

stems!(
    gemm attention rollout layernorm layerscale accumulate image patch_embed tokens gelt l2norm
    part_linear batchnorm narrow cross_entropy triplet gradnorm adam distance topk roof
);

/// A kernel's file, and what lists its cases and what is timed of it.
struct Stem {
    name: &'static str,
    list: fn(&mut List),
    time: fn(&mut Rows),
}

/// Counts of invocations to a row that adapters are served.
pub const LANES: [u32; 4] = [4, 8, 16, 64];

/// Outputs of a quick case's products that are compared at most.
const QUICK_PLACES: usize = 2000;

type Record = Rc<dyn Fn(&mut Run<'_>)>;

/// One kernel in one variant on one shape.
pub struct Case {
    /// The kernel's file.
    pub kernel: &'static str,
    /// Entry point, tile or family, switches and storage.
    pub variant: String,
    /// Sizes.
    pub shape: String,
    /// How activations are stored.
    pub storage: Storage,
    /// Outputs that are compared at most, where a reference computes one by one.
    places: usize,
    /// Ways to compute the same bits, of which a selftest's row has one.
    ways: Vec<Record>,
}

impl Case {
    /// A case of `record`, which records launches and what their outputs should hold.
    pub fn new(
        kernel: &'static str,
        variant: impl Into<String>,
        shape: impl Into<String>,
        storage: Storage,
        record: impl Fn(&mut Run<'_>) + 'static,
    ) -> Case {
        let (variant, shape, ways) = (variant.into(), shape.into(), vec![Rc::new(record) as Record]);
        Case { kernel, variant, shape, storage, places: QUICK_PLACES, ways }
    }

    /// Kernel, variant and shape.
    pub fn name(&self) -> String {
        format!("{} {} {}", self.kernel, self.variant, self.shape).trim_end().to_string()
    }

    /// Records the launches in `run`.
    pub fn record(&self, run: &mut Run<'_>) {
        self.ways[0](run);
    }

    /// Runs every way: the first against what the reference has, the others against the first's bits.
    ///
    /// # Errors
    /// Those of [`Run::run`].
    pub fn judge(&self, context: &Context) -> Result<Found> {
        let one = |way: &Record, purpose| {
            let mut run = Run::new(context, self.storage, purpose);
            run.places = self.places;
            way(&mut run);
            run.run()
        };
        let mut first = one(&self.ways[0], Purpose::Judge)?;
        for (number, way) in self.ways.iter().enumerate().skip(1) {
            let other = one(way, Purpose::Guard)?;
            for (output, ((_, wanted), (_, found))) in first.outputs.iter().zip(&other.outputs).enumerate() {
                if let Some(at) = (0..wanted.len()).find(|&at| wanted[at].to_bits() != found[at].to_bits()) {
                    let report = format!("way {number}: output {output} has other bits at {at}");
                    first.judged.push((f64::INFINITY, report));
                }
            }
        }
        Ok(first)
    }
}

/// Cases while they are listed.
pub struct List {
    kernel: &'static str,
    full: bool,
    storages: Vec<Storage>,
    /// The tile menu that serves the adapter.
    pub family: Family,
    /// How much parallel work keeps the adapter busy.
    pub class: AdapterClass,
    /// Software drivers take long to compile wide kernels.
    pub is_cpu: bool,
    /// Side of the fragments that its matrix units multiply, whether they are proved or not.
    pub matrix_units: Option<u32>,
    cases: Vec<Case>,
}

impl List {
    /// A quick case of a kernel that knows f32 alone.
    fn add(
        &mut self,
        variant: impl Into<String>,
        shape: impl Into<String>,
        record: impl Fn(&mut Run<'_>) + 'static,
    ) {
        if !self.full {
            self.cases.push(Case::new(self.kernel, variant, shape, Storage::F32, record));
        }
    }

    /// A quick case of a kernel that touches quads: once for every storage that the adapter offers.
    fn add_stored(
        &mut self,
        variant: impl AsRef<str>,
        shape: impl AsRef<str>,
        record: impl Fn(&mut Run<'_>) + 'static,
    ) {
        let record: Record = Rc::new(record);
        for storage in self.storages.clone() {
            let record = record.clone();
            self.add_in(storage, variant.as_ref(), shape.as_ref(), move |run| record(run));
        }
    }

    /// A quick case of a kernel that touches quads in one storage.
    fn add_in(
        &mut self,
        storage: Storage,
        variant: &str,
        shape: &str,
        record: impl Fn(&mut Run<'_>) + 'static,
    ) {
        let stored = match storage {
            Storage::F32 => "f32",
            Storage::F16 => "f16",
            Storage::Packed => "packed",
        };
        if !self.full {
            self.cases.push(Case::new(self.kernel, format!("{variant} {stored}"), shape, storage, record));
        }
    }

    /// A case for tests alone, in f32.
    fn full(&mut self, name: impl Into<String>, record: impl Fn(&mut Run<'_>) + 'static) {
        self.alike(usize::MAX, name, [()], move |run, ()| record(run));
    }

    /// The same with `ways` that all give the same bits, of which `places` outputs are compared at most.
    fn alike<Way: Copy + 'static>(
        &mut self,
        places: usize,
        name: impl Into<String>,
        ways: impl IntoIterator<Item = Way>,
        record: impl Fn(&mut Run<'_>, Way) + 'static,
    ) {
        if self.full {
            let record = Rc::new(record);
            let bound = |way: Way| -> Record {
                let record = record.clone();
                Rc::new(move |run| record(run, way))
            };
            let ways = ways.into_iter().map(bound).collect();
            let (kernel, variant, shape, storage) = (self.kernel, name.into(), String::new(), Storage::F32);
            self.cases.push(Case { kernel, variant, shape, storage, places, ways });
        }
    }

    /// The kernels for GPUs, which run anywhere, and the adapter's own.
    fn families(&self) -> Vec<Family> {
        match self.family {
            Family::Tiled => vec![Family::Tiled],
            subgroup => vec![Family::Tiled, subgroup],
        }
    }
}

/// Every quick case of what this adapter offers.
pub fn quick(context: &Context) -> Vec<Case> {
    list(context, false, None)
}

/// The quick cases of a stem, then those for tests alone.
pub fn every(context: &Context, stem: &str) -> impl Iterator<Item = Case> {
    [false, true].into_iter().flat_map(move |full| list(context, full, Some(stem)))
}

fn list(context: &Context, full: bool, only: Option<&str>) -> Vec<Case> {
    let storages = Storage::ALL.into_iter().filter(|&storage| context.supports(storage)).collect();
    let (family, class, is_cpu) = (context.family(), context.class(), context.is_cpu());
    let matrix_units = context.fragments();
    let (kernel, cases) = ("", Vec::new());
    let mut list = List { kernel, full, storages, family, class, is_cpu, matrix_units, cases };
    for stem in STEMS.iter().filter(|stem| only.is_none_or(|only| only == stem.name)) {
        list.kernel = stem.name;
        (stem.list)(&mut list);
    }
    list.cases
}

/// A model whose shapes are measured: 224 × 224 pixels in patches of 16.
#[derive(Debug, Clone, Copy)]
pub struct Model {
    /// Its name in rows.
    pub name: &'static str,
    /// Width.
    pub dim: usize,
    /// Heads of attention.
    pub heads: usize,
}

/// Those that are measured.
pub const MODELS: [Model; 2] =
    [Model { name: "vit-s", dim: 384, heads: 6 }, Model { name: "vit-b", dim: 768, heads: 12 }];
/// Pixels of an image.
pub const SIZE: ImageSize = ImageSize::square(224);
/// Side of a patch.
pub const PATCH: usize = 16;
/// Patches of a row and of a column.
pub const GRID: usize = 14;
/// The class token and all patches.
pub const TOKENS: usize = 1 + GRID * GRID;
/// Samples of a training step, hidden units of a part classifier, and the persons of Market-1501.
const BATCH: usize = 32;
const HIDDEN: usize = 256;
const CLASSES: usize = 751;

impl Model {
    /// Name, outputs and inputs of a block's linear layers.
    pub fn layers(&self) -> [(&'static str, usize, usize); 4] {
        let dim = self.dim;
        [("qkv", 3 * dim, dim), ("proj", dim, dim), ("fc1", 4 * dim, dim), ("fc2", dim, 4 * dim)]
    }

    /// A block's parameters: four D × D matrices of attention, eight of the MLP, biases and norms.
    fn block_len(&self) -> usize {
        12 * self.dim * self.dim + 13 * self.dim
    }
}

/// One kernel at one shape of a network; backward of some kernels takes two launches or three.
pub struct Row {
    /// Kernel, model, and what of it.
    pub name: String,
    record: Record,
}

impl Row {
    /// Makes the row's plan, its inputs filled with numbers in [-1, 1).
    ///
    /// # Errors
    /// If the adapter can't hold it.
    pub fn plan(&self, context: &Context) -> gpu::Result<Plan> {
        let mut run = Run::new(context, context.storage(), Purpose::Time);
        (self.record)(&mut run);
        run.plan()
    }
}

/// Rows while they are listed.
pub struct Rows<'a> {
    kernel: &'static str,
    model: Model,
    batch: usize,
    /// Lengths of the sequences in rows of attention; none: that of the models.
    tokens: &'a [usize],
    quick: bool,
    rows: Vec<Row>,
}

impl Rows<'_> {
    /// A row of the stem and the model; `note` says what of it.
    fn add(&mut self, note: &str, record: impl Fn(&mut Run<'_>) + 'static) {
        let name = format!("{} {} {note}", self.kernel, self.model.name).trim_end().to_string();
        self.rows.push(Row { name, record: Rc::new(record) });
    }

    /// Queries and rows of a gallery's tile. That of ViT-B has 88 MB: fits a binding of WebGPU's default limits.
    fn retrieval(&self) -> (usize, usize) {
        if self.quick { (64, 256) } else { (256, 2048) }
    }
}

/// Every row, in the order in which they are measured, of `batch` images at once. `tokens` are the lengths of the
/// sequences in rows of attention; none: that of the models. `quick` leaves one shape of a kernel.
pub fn rows(batch: usize, tokens: &[usize], quick: bool) -> Vec<Row> {
    let mut rows = Rows { kernel: "", model: MODELS[0], batch, tokens, quick, rows: Vec::new() };
    for model in if quick { &MODELS[..1] } else { &MODELS[..] } {
        rows.model = *model;
        for stem in STEMS {
            rows.kernel = stem.name;
            (stem.time)(&mut rows);
        }
    }
    rows.rows
}
