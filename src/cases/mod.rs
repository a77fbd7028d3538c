//! The list of every kernel's cases, which tests, `lat-wgpu selftest` and `lat-wgpu bench` share.
//!
//! A stem's file records its kernels on operands of any shape. It also gives the expected outputs, from
//! [`crate::reference`], and their tolerance ([`tolerance`]). It lists three kinds of shapes: quick ones, small and
//! odd, in every variant and storage that an adapter offers; full ones, for tests alone; and those of networks, which
//! are timed. [`run`] makes the operands.

pub mod compare;
pub mod numbers;
pub mod random;
pub mod run;
pub mod tolerance;

use crate::error::Result;
use crate::gpu::{self, AdapterClass, Context, Family, Fragments, Plan, Storage};
use crate::shape::ImageSize;
use run::{Found, Purpose, Run};
use std::rc::Rc;

/// The stems, in the order in which they are listed.
macro_rules! stems {
    ($($stem:ident)*) => {
        $(pub mod $stem;)*
        const STEMS: &[Stem] = &[$(Stem { name: stringify!($stem), list: $stem::list, time: $stem::time }),*];
    };
}

stems!(
    gemm attention reattention rollout layernorm layerscale drop_path accumulate image patch_embed tokens camera jigsaw
    gelt l2norm statistics part_linear batchnorm narrow cross_entropy triplet prototypes gradnorm adam sgd average
    distance topk roof
);

/// A stem and the functions that list its cases and its timed cases.
struct Stem {
    name: &'static str,
    list: fn(&mut List),
    time: fn(&mut TimedCases),
}

/// Numbers of invocations per row in the variants that adapters use.
pub const LANES: [u32; 4] = [4, 8, 16, 64];

/// Largest number of outputs that a quick case of a product compares.
const QUICK_SAMPLES: usize = 2000;

type Record = Rc<dyn Fn(&mut Run<'_>)>;

/// One kernel in one variant at one shape.
pub struct Case {
    /// The kernel's file.
    pub kernel: &'static str,
    /// Entry point, tile or family, switches and storage.
    pub variant: String,
    /// The dimensions.
    pub shape: String,
    /// Precision and layout of activations.
    pub storage: Storage,
    /// Largest number of outputs to compare, where a reference computes them one by one.
    samples: usize,
    /// Ways to compute the same bits. `selftest` runs one of them.
    ways: Vec<Record>,
}

impl Case {
    /// A case of `record`, which records dispatches and their expected outputs.
    pub fn new(
        kernel: &'static str,
        variant: impl Into<String>,
        shape: impl Into<String>,
        storage: Storage,
        record: impl Fn(&mut Run<'_>) + 'static,
    ) -> Case {
        let (variant, shape, ways) = (variant.into(), shape.into(), vec![Rc::new(record) as Record]);
        Case { kernel, variant, shape, storage, samples: QUICK_SAMPLES, ways }
    }

    /// Kernel, variant and shape.
    pub fn name(&self) -> String {
        format!("{} {} {}", self.kernel, self.variant, self.shape).trim_end().to_string()
    }

    /// Records the dispatches in `run`.
    pub fn record(&self, run: &mut Run<'_>) {
        self.ways[0](run);
    }

    /// Runs every way. Compares the first with the reference, the others bit for bit with the first.
    ///
    /// # Errors
    /// Those of [`Run::run`].
    pub fn judge(&self, context: &Context) -> Result<Found> {
        let one = |way: &Record, purpose| {
            let mut run = Run::new(context, self.storage, purpose);
            run.samples = self.samples;
            way(&mut run);
            run.run()
        };
        let mut first = one(&self.ways[0], Purpose::Judge)?;
        for (number, way) in self.ways.iter().enumerate().skip(1) {
            let other = one(way, Purpose::Check)?;
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

/// Collects cases.
pub struct List {
    kernel: &'static str,
    full: bool,
    storages: Vec<Storage>,
    /// The tile family that is used on the adapter.
    pub family: Family,
    /// The class of the adapter: the amount of parallel work that keeps it busy.
    pub class: AdapterClass,
    /// True for software adapters, which take long to compile wide kernels.
    pub is_cpu: bool,
    /// Fragments that the adapter's matrix units multiply, validated or not.
    pub matrix_units: Option<Fragments>,
    cases: Vec<Case>,
}

impl List {
    /// Adds a quick case of a kernel that has f32 alone.
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

    /// Adds a quick case of a kernel that accesses quads, once for every storage that the adapter offers.
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

    /// Adds a quick case of a kernel that accesses quads, in one storage.
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

    /// Adds a case for tests alone, in f32.
    fn full(&mut self, name: impl Into<String>, record: impl Fn(&mut Run<'_>) + 'static) {
        self.full_ways(usize::MAX, name, [()], move |run, ()| record(run));
    }

    /// Adds a case for tests alone, in f32, of `ways` that must give the same bits. Compares `samples` outputs at most.
    fn full_ways<Way: Copy + 'static>(
        &mut self,
        samples: usize,
        name: impl Into<String>,
        ways: impl IntoIterator<Item = Way>,
        record: impl Fn(&mut Run<'_>, Way) + 'static,
    ) {
        self.full_in(Storage::F32, samples, name, ways, record);
    }

    /// Adds such a case in one storage.
    fn full_in<Way: Copy + 'static>(
        &mut self,
        storage: Storage,
        samples: usize,
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
            let (kernel, variant, shape) = (self.kernel, name.into(), String::new());
            self.cases.push(Case { kernel, variant, shape, storage, samples, ways });
        }
    }

    /// The tiled family, which runs on any adapter, and the adapter's own.
    fn families(&self) -> Vec<Family> {
        match self.family {
            Family::Tiled => vec![Family::Tiled],
            subgroup => vec![Family::Tiled, subgroup],
        }
    }
}

/// Every quick case that this adapter can run.
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

/// A model with timed shapes: 224 × 224 pixels in patches of 16.
#[derive(Debug, Clone, Copy)]
pub struct Model {
    /// Name of the model in the names of cases.
    pub name: &'static str,
    /// Width of a token, D.
    pub dim: usize,
    /// Attention heads, H.
    pub heads: usize,
}

/// The models with timed shapes.
pub const MODELS: [Model; 2] =
    [Model { name: "vit-s", dim: 384, heads: 6 }, Model { name: "vit-b", dim: 768, heads: 12 }];
/// Size of an image in pixels.
pub const SIZE: ImageSize = ImageSize::square(224);
/// Side of a patch in pixels.
pub const PATCH: usize = 16;
/// Patches per row and per column.
pub const GRID: usize = 14;
/// Number of tokens: the class token and all patches.
pub const TOKENS: usize = 1 + GRID * GRID;
/// Batch size of a training step, hidden units of a part classifier, and persons of Market-1501.
const BATCH: usize = 32;
const HIDDEN: usize = 256;
const CLASSES: usize = 751;

impl Model {
    /// Name, outputs and inputs of a block's linear layers.
    pub fn layers(&self) -> [(&'static str, usize, usize); 4] {
        let dim = self.dim;
        [("qkv", 3 * dim, dim), ("proj", dim, dim), ("fc1", 4 * dim, dim), ("fc2", dim, 4 * dim)]
    }

    /// Parameters of a block: four D × D matrices of attention, eight of the MLP, biases and norms.
    fn block_len(&self) -> usize {
        12 * self.dim * self.dim + 13 * self.dim
    }
}

/// One kernel at one shape of a network. The backward pass of some kernels takes two or three dispatches.
pub struct TimedCase {
    /// Kernel, model, and a note.
    pub name: String,
    record: Record,
}

impl TimedCase {
    /// Makes the plan, with inputs filled with random numbers in [-1, 1).
    ///
    /// # Errors
    /// If the adapter has too little memory.
    pub fn plan(&self, context: &Context) -> gpu::Result<Plan> {
        let mut run = Run::new(context, context.storage(), Purpose::Time);
        (self.record)(&mut run);
        run.plan()
    }
}

/// Collects timed cases.
pub struct TimedCases<'a> {
    kernel: &'static str,
    model: Model,
    batch: usize,
    /// Sequence lengths of the attention cases. Empty: the models' own.
    tokens: &'a [usize],
    quick: bool,
    cases: Vec<TimedCase>,
}

impl TimedCases<'_> {
    /// Adds a case of the stem and the model. `note` distinguishes cases of one stem.
    fn add(&mut self, note: &str, record: impl Fn(&mut Run<'_>) + 'static) {
        let name = format!("{} {} {note}", self.kernel, self.model.name).trim_end().to_string();
        self.cases.push(TimedCase { name, record: Rc::new(record) });
    }

    /// Number of queries, and rows of one gallery tile. The tile of ViT-B takes 88 MB, which fits WebGPU's default
    /// limit of a binding.
    fn retrieval(&self) -> (usize, usize) {
        if self.quick { (64, 256) } else { (256, 2048) }
    }
}

/// Every timed case in the order of measurement, for a batch of `batch` images. `tokens` are the sequence lengths of
/// the attention cases; empty: the models' own. `quick` keeps one shape per kernel.
pub fn timed(batch: usize, tokens: &[usize], quick: bool) -> Vec<TimedCase> {
    let mut timed = TimedCases { kernel: "", model: MODELS[0], batch, tokens, quick, cases: Vec::new() };
    for model in if quick { &MODELS[..1] } else { &MODELS[..] } {
        timed.model = *model;
        for stem in STEMS {
            timed.kernel = stem.name;
            (stem.time)(&mut timed);
        }
    }
    timed.cases
}
