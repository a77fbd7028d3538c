//! What is tested: one case per kernel, variant and shape.

use super::compare::compare;
use super::guard::Guarded;
use super::tolerance::{Tolerance, in_halves};
use super::{attention, products, retrieval, rows, training};
use crate::gpu::{AdapterClass, Context, Family, Storage, Tensor};
use crate::reference::Exact;

/// What one output should hold.
pub struct Expected {
    name: &'static str,
    tensor: Tensor,
    wanted: Wanted,
}

enum Wanted {
    /// Values at places, with what they may be off by in f32.
    Near(Vec<(usize, Exact)>, Tolerance),
    /// Words at places.
    Same(Vec<(usize, u32)>),
}

impl Expected {
    /// `tensor` holds these values at these places; if it holds halves, their rounding is allowed for as well.
    pub fn near(
        name: &'static str,
        tensor: Tensor,
        values: impl IntoIterator<Item = (usize, Exact)>,
        tolerance: Tolerance,
    ) -> Expected {
        Expected { name, tensor, wanted: Wanted::Near(values.into_iter().collect(), tolerance) }
    }

    /// `tensor` holds all these values, in order.
    pub fn all(
        name: &'static str,
        tensor: Tensor,
        values: impl IntoIterator<Item = Exact>,
        tolerance: Tolerance,
    ) -> Expected {
        Self::near(name, tensor, values.into_iter().enumerate(), tolerance)
    }

    /// `tensor` holds just these words at these places.
    pub fn same(
        name: &'static str,
        tensor: Tensor,
        words: impl IntoIterator<Item = (usize, u32)>,
    ) -> Expected {
        Expected { name, tensor, wanted: Wanted::Same(words.into_iter().collect()) }
    }

    /// The share of the tolerance that is used, infinite if a value is no number or a word another one, and where.
    pub(super) fn judge(&self, outputs: &[(Tensor, Vec<f32>)]) -> (f64, String) {
        let Expected { name, tensor, wanted } = self;
        let Some((_, found)) = outputs.iter().find(|(output, _)| output == tensor) else {
            return (f64::INFINITY, format!("{name} is no output"));
        };
        match wanted {
            Wanted::Near(values, tolerance) => {
                let judged = if tensor.storage == Storage::F32 {
                    compare(found, values.iter().copied(), *tolerance)
                } else {
                    let (_, loosened) = in_halves(Exact::default(), *tolerance);
                    let rounded = values.iter().map(|&(i, exact)| (i, in_halves(exact, *tolerance).0));
                    compare(found, rounded, loosened)
                };
                let used = if judged.count == 0 { f64::INFINITY } else { judged.used };
                (used, format!("{name}: {}", judged.report))
            }
            Wanted::Same(words) => match words.iter().find(|(i, word)| found[*i].to_bits() != *word) {
                None => (0.0, String::new()),
                Some((i, word)) => {
                    let other = found[*i].to_bits();
                    (f64::INFINITY, format!("{name}: word {i} is {other:#010x}, not {word:#010x}"))
                }
            },
        }
    }
}

type Record = Box<dyn Fn(&mut Guarded<'_>) -> Vec<Expected>>;

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
    record: Record,
}

impl Case {
    /// A case of `record`, which records launches and tells what their outputs should hold.
    pub fn new(
        kernel: &'static str,
        variant: impl Into<String>,
        shape: impl Into<String>,
        storage: Storage,
        record: impl Fn(&mut Guarded<'_>) -> Vec<Expected> + 'static,
    ) -> Case {
        Case { kernel, variant: variant.into(), shape: shape.into(), storage, record: Box::new(record) }
    }

    /// Kernel, variant and shape.
    pub fn name(&self) -> String {
        format!("{} {} {}", self.kernel, self.variant, self.shape)
    }

    /// Records the launches; returns what their outputs should hold.
    pub fn record(&self, recording: &mut Guarded<'_>) -> Vec<Expected> {
        (self.record)(recording)
    }
}

/// The list while it is made.
pub(super) struct List {
    storages: Vec<Storage>,
    /// What the adapter is served from.
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
    /// A case of a kernel that knows f32 alone.
    pub fn add(
        &mut self,
        kernel: &'static str,
        variant: impl Into<String>,
        shape: impl Into<String>,
        record: impl Fn(&mut Guarded<'_>) -> Vec<Expected> + 'static,
    ) {
        self.cases.push(Case::new(kernel, variant, shape, Storage::F32, record));
    }

    /// A case of a kernel that touches quads: once for every storage that the adapter offers.
    pub fn add_stored(
        &mut self,
        kernel: &'static str,
        variant: &str,
        shape: &str,
        record: impl Fn(&mut Guarded<'_>) -> Vec<Expected> + Clone + 'static,
    ) {
        for storage in self.storages.clone() {
            self.add_in(storage, kernel, variant, shape, record.clone());
        }
    }

    /// A case of a kernel that touches quads in one storage.
    pub fn add_in(
        &mut self,
        storage: Storage,
        kernel: &'static str,
        variant: &str,
        shape: &str,
        record: impl Fn(&mut Guarded<'_>) -> Vec<Expected> + 'static,
    ) {
        let stored = match storage {
            Storage::F32 => "f32",
            Storage::F16 => "f16",
            Storage::Packed => "packed",
        };
        self.cases.push(Case::new(kernel, format!("{variant} {stored}"), shape, storage, record));
    }

    /// The kernels for GPUs, which run anywhere, and the adapter's own.
    pub fn families(&self) -> Vec<Family> {
        match self.family {
            Family::Tiled => vec![Family::Tiled],
            subgroup => vec![Family::Tiled, subgroup],
        }
    }
}

/// Every case of what this adapter offers.
pub fn all(context: &Context) -> Vec<Case> {
    let storages = Storage::ALL.into_iter().filter(|&storage| context.supports(storage)).collect();
    let (family, is_cpu) = (context.family(), context.is_cpu());
    let matrix_units = context.fragments();
    let mut list = List { storages, family, class: context.class(), is_cpu, matrix_units, cases: Vec::new() };
    products::add(&mut list);
    attention::add(&mut list);
    rows::add(&mut list);
    training::add(&mut list);
    retrieval::add(&mut list);
    list.cases
}
