//! Validation of products on matrix units, before their first use on an adapter.
//!
//! A tile is used for a form if all epilogues pass. Products of whole numbers must have the bits of another family:
//! the sums are exact in any order in f32, and wrong if intermediate sums are stored in f16. Products of random numbers
//! must agree within the error bounds of both.

use super::{Epilogue, Form, Nn, Nt, Tile, Tn};
use crate::error::Result;
use crate::gpu::{Buffer, Context, Recorder, Storage, Tensor};
use crate::rng;
use crate::shape::Activation;

/// Operations on the sums of A·Bᵀ.
#[derive(Debug, Clone, Copy)]
pub struct Operations {
    /// Adds a bias.
    pub bias: bool,
    /// Stores the values before the activation.
    pub pre: bool,
    /// Applies an activation.
    pub activation: Option<Activation>,
    /// Multiplies by LayerScale's factors.
    pub scale: bool,
    /// Adds a residual.
    pub residual: bool,
}

/// No operation.
pub const NONE: Operations =
    Operations { bias: false, pre: false, activation: None, scale: false, residual: false };
/// A bias alone.
pub const BIAS: Operations = Operations { bias: true, ..NONE };
const GELU: Operations = Operations { activation: Some(Activation::Gelu), ..BIAS };
const QUICK: Operations = Operations { activation: Some(Activation::QuickGelu), ..BIAS };
const RESIDUAL: Operations = Operations { residual: true, ..BIAS };
const LAYER_SCALE: Operations = Operations { scale: true, ..RESIDUAL };

/// Every epilogue of a network, then all operations at once, which access every tensor that may be stored in f16.
pub const EPILOGUES: [(&str, Operations); 9] = [
    ("alone", NONE),
    ("bias", BIAS),
    ("bias gelu", GELU),
    ("bias quick_gelu", QUICK),
    ("bias residual", RESIDUAL),
    ("bias scale residual", LAYER_SCALE),
    ("bias kept gelu", Operations { pre: true, ..GELU }),
    ("bias kept quick_gelu", Operations { pre: true, ..QUICK }),
    ("bias kept gelu scale residual", Operations { pre: true, scale: true, residual: true, ..GELU }),
];

/// Operations on the sums of A·B: an activation's derivative, and a residual.
pub type Derivative = (Option<Activation>, bool);

/// Every epilogue of a product of gradients. The last has all operations.
pub const DERIVATIVES: [(&str, Derivative); 5] = [
    ("alone", (None, false)),
    ("residual", (None, true)),
    ("gelu'", (Some(Activation::Gelu), false)),
    ("quick_gelu'", (Some(Activation::QuickGelu), false)),
    ("gelu' residual", (Some(Activation::Gelu), true)),
];

/// Returns true if the adapter computes the form with this tile of matrix units.
pub(super) fn is_valid(form: Form, context: &Context, tile: Tile) -> bool {
    context.validated(&format!("{form:?} {tile}"), || passes(form, context, tile))
}

/// A product and its epilogue.
#[derive(Debug, Clone, Copy)]
enum Work {
    Nt(Operations),
    Nn(Derivative),
    /// With or without column sums.
    Tn(bool),
}

impl Work {
    /// Every epilogue of a form. The first has no operation.
    fn every(form: Form) -> Vec<Work> {
        match form {
            Form::Nt => EPILOGUES.iter().map(|(_, operations)| Work::Nt(*operations)).collect(),
            Form::Nn => DERIVATIVES.iter().map(|(_, derivative)| Work::Nn(*derivative)).collect(),
            Form::Tn => vec![Work::Tn(false), Work::Tn(true)],
        }
    }
}

/// M, N and K: one that has a whole tile and ends shortly after it, and one with fewer rows than a fragment. K of the
/// second is no multiple of a step or a fragment.
fn sizes(form: Form) -> [[usize; 3]; 2] {
    match form {
        Form::Nt | Form::Nn => [[141, 148, DEPTH], [5, 72, 84]],
        Form::Tn => [[148, 132, DEPTH], [4, 72, 53]],
    }
}

/// K of the first size.
const DEPTH: usize = 128;

/// The operands of a product, by row of A or column of B, and k.
#[derive(Debug, Clone, Copy)]
enum Numbers {
    /// Whole numbers. Each product of the first half of K is subtracted by the second half, except for a small rest.
    /// The sum of the first half is 64·31² at most.
    Whole,
    /// From -1 to 1; B is scaled so that sums have about unit size.
    Random,
}

impl Numbers {
    fn below(stream: u64, row: usize, k: usize, limit: f32) -> f32 {
        (rng::uniform(7, stream, (row * DEPTH + k) as u64) * limit).floor()
    }

    fn random(stream: u64, row: usize, k: usize) -> f32 {
        2.0 * rng::uniform(8, stream, (row * DEPTH + k) as u64) - 1.0
    }

    fn left(self, row: usize, k: usize) -> f32 {
        match self {
            Numbers::Whole => Numbers::below(1, row, k % (DEPTH / 2), 32.0),
            Numbers::Random => Numbers::random(1, row, k),
        }
    }

    fn right(self, column: usize, k: usize, depth: usize) -> f32 {
        let first = Numbers::below(2, column, k % (DEPTH / 2), 32.0);
        match self {
            Numbers::Random => Numbers::random(2, column, k) / (depth as f32).sqrt(),
            Numbers::Whole if k < DEPTH / 2 => first,
            Numbers::Whole => Numbers::below(3, column, k, 3.0) - 1.0 - first,
        }
    }
}

/// A buffer of `len` values.
fn buffer(
    context: &Context,
    storage: Storage,
    len: usize,
    value: impl Fn(usize) -> f32,
) -> Result<(Buffer, Storage)> {
    let values = (0..len).map(value);
    let buffer = match storage {
        Storage::F32 => context.upload("validation", &values.collect::<Vec<_>>())?,
        Storage::F16 | Storage::Packed => {
            let buffer = context.buffer("validation", len / 2)?;
            let values: Vec<half::f16> = values.map(half::f16::from_f32).collect();
            context.write(&buffer, bytemuck::cast_slice(&values));
            buffer
        }
    };
    Ok((buffer, storage))
}

/// Returns both outputs of a product: C, and the values before the activation or the column sums.
fn outputs(
    context: &Context,
    work: Work,
    tile: Tile,
    [m, n, k]: [usize; 3],
    numbers: Numbers,
) -> Result<[Vec<f32>; 2]> {
    let f16 = |len, value: &dyn Fn(usize) -> f32| buffer(context, Storage::F16, len, value);
    let f32 = |len, value: &dyn Fn(usize) -> f32| buffer(context, Storage::F32, len, value);
    let random = |stream| move |i| Numbers::random(stream, 0, i);
    let nan = |_| f32::NAN;
    let (left, right) = (|row, k| numbers.left(row, k), |column, at| numbers.right(column, at, k));
    let a = match work {
        Work::Nt(_) | Work::Nn(_) => f16(m * k, &|i| left(i / k, i % k))?,
        Work::Tn(_) => f16(k * m, &|i| left(i % m, i / m))?,
    };
    let b = match work {
        Work::Nt(_) => f16(n * k, &|i| right(i / k, i % k))?,
        Work::Nn(_) | Work::Tn(_) => f16(k * n, &|i| right(i % n, i / n))?,
    };
    let c = if matches!(work, Work::Tn(_)) { f32(m * n, &nan)? } else { f16(m * n, &nan)? };
    let second = if matches!(work, Work::Tn(_)) { f32(m, &nan)? } else { f16(m * n, &nan)? };
    let (bias, scale) = (f32(n, &random(4))?, f32(n, &random(5))?);
    let (residual, kept) = (f16(m * n, &random(3))?, f16(m * n, &random(6))?);

    let mut recorder = Recorder::new(context);
    let mut tensor = |(buffer, storage): &(Buffer, Storage)| recorder.import_as(buffer, *storage);
    let [a, b, bias, scale, residual, kept] = [&a, &b, &bias, &scale, &residual, &kept].map(&mut tensor);
    let [first, other] = [&c, &second].map(&mut tensor);
    let when = |used: bool, tensor: Tensor| used.then_some(tensor);
    match work {
        Work::Nt(Operations {
            bias: has_bias,
            pre,
            activation,
            scale: has_scale,
            residual: has_residual,
        }) => {
            let epilogue = Epilogue {
                bias: when(has_bias, bias),
                pre: when(pre, other),
                activation,
                scale: when(has_scale, scale),
                residual: when(has_residual, residual),
            };
            Nt { a, b, c: first, m, n, k, epilogue }.record_with(&mut recorder, "validation", tile);
        }
        Work::Nn((activation, has_residual)) => {
            let derivative = activation.map(|activation| (activation, kept));
            let residual = when(has_residual, residual);
            let product = Nn { a, b, c: first, m, n, k, derivative, residual };
            product.record_with(&mut recorder, "validation", tile);
        }
        Work::Tn(sums) => {
            let product = Tn { a, b, c: first, column_sum: when(sums, other), m, n, k };
            product.record_with(&mut recorder, "validation", tile);
        }
    }
    recorder.finish()?.run(context)?;
    let values = |(buffer, storage): &(Buffer, Storage)| -> Result<Vec<f32>> {
        let words = context.read(buffer)?;
        Ok(match storage {
            Storage::F32 => words,
            _ => bytemuck::cast_slice(&words).iter().map(|value: &half::f16| value.to_f32()).collect(),
        })
    };
    Ok([values(&c)?, values(&second)?])
}

/// True if two results of random numbers agree. Sums differ by (K + 1)·2⁻²²·√K at most, because Σ|a||b| is at most √K
/// and one of the two may truncate. An activation or its derivative multiplies the difference by 1.13 at most. Then
/// both may be rounded to f16, with a relative error of 2⁻¹¹ each. Values that neither wrote are NaN in both.
fn agree(one: &[f32], other: &[f32], k: usize) -> bool {
    let k = k as f32;
    let sums = 1.13 * (k + 1.0) * k.sqrt() / 4_194_304.0;
    let near = |(one, other): (&f32, &f32)| {
        (one - other).abs() <= sums + one.abs().max(other.abs()) / 1024.0 || (one.is_nan() && other.is_nan())
    };
    one.len() == other.len() && one.iter().zip(other).all(near)
}

/// True if the tile gives the results of the built-in one.
fn passes(form: Form, context: &Context, tile: Tile) -> bool {
    let compare = |work, [m, n, k]: [usize; 3], numbers, same: &dyn Fn(&[f32], &[f32]) -> bool| {
        let results = |tile| outputs(context, work, tile, [m, n, k], numbers);
        match (results(Tile::built_in(form, context, m, n, k)), results(tile)) {
            (Ok([c, second]), Ok([other_c, other_second])) => {
                !c.iter().any(|value| value.is_nan()) && same(&c, &other_c) && same(&second, &other_second)
            }
            _ => false,
        }
    };
    let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    let every = Work::every(form);
    sizes(form).into_iter().all(|size| {
        compare(every[0], size, Numbers::Whole, &|one, other| bits(one) == bits(other))
            && every
                .iter()
                .all(|work| compare(*work, size, Numbers::Random, &|one, other| agree(one, other, size[2])))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::f16;

    #[test]
    fn whole_numbers_distinguish_sums_in_f32_from_sums_in_f16() {
        let [m, n, _] = sizes(Form::Nt)[0];
        let numbers = Numbers::Whole;
        let mut differ = 0;
        for (row, column) in [(0, 0), (1, 7), (m / 2, n / 3), (m - 1, n - 1)] {
            let term = |k| numbers.left(row, k) * numbers.right(column, k, DEPTH);
            let terms: Vec<f32> = (0..DEPTH).map(term).collect();
            let sum: f32 = terms.iter().sum();
            let reversed: f32 = terms.iter().rev().sum();
            let in_f16 = terms.iter().fold(f16::ZERO, |sum, term| sum + f16::from_f32(*term));
            assert_eq!(sum, reversed, "({row}, {column})");
            assert_eq!(f16::from_f32(sum).to_f32(), sum, "({row}, {column}): not representable in f16");
            assert!(sum != 0.0, "({row}, {column}): the sum is 0");
            differ += usize::from(in_f16.to_f32() != sum);
        }
        assert_eq!(differ, 4, "sums in f16 are as exact as in f32");
    }

    #[test]
    fn validation_of_epilogues_can_fail() {
        let wanted = [0.5f32, -1.25, 0.0];
        let agree = |found: &[f32]| agree(&wanted, found, 84);
        assert!(agree(&wanted));
        assert!(agree(&[0.5 + 0.5 / 1024.0, -1.25, 1e-4]));
        for wrong in
            [[0.5 + 1.0 / 512.0, -1.25, 0.0], [0.5, -1.25, 1e-3], [0.5, 1.25, 0.0], [0.5, f32::NAN, 0.0]]
        {
            assert!(!agree(&wrong), "{wrong:?}");
        }
        assert!(!agree(&wanted[..2]));
    }
}
