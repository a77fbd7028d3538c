//! Validation of attention on matrix units, before its first use on an adapter.
//!
//! Kernels are used for a width of a head if they agree with those of the adapter's family, on token counts that are no
//! multiples of a tile: first where each query attends to one key alone and results are integers, then with random
//! numbers.

use super::{Backward, Forward, Kernels, Pass};
use crate::gpu::{Buffer, Context, Fragments, Recorder, Result, Storage};
use crate::rng;
use half::f16;

/// Returns true if the adapter computes attention with heads of this width by fragments, in tiles of `rows`.
pub(super) fn is_valid(context: &Context, pass: Pass, head_dim: usize, units: Fragments, rows: u32) -> bool {
    let kernels = Kernels::Fragments { units, rows };
    let Fragments { side, lanes } = units;
    let fits = head_dim.is_multiple_of(side as usize) && [1, 2, 4].map(|share| share * side).contains(&lanes);
    let validation = Validation { context, pass, head_dim, kernels };
    fits && context.validated(&format!("attention {pass:?} {head_dim} {kernels}"), || validation.passes())
}

/// A pass with one width of a head.
struct Validation<'c> {
    context: &'c Context,
    pass: Pass,
    head_dim: usize,
    kernels: Kernels,
}

impl Validation<'_> {
    const HEADS: usize = 2;
    const TOKENS: [usize; 2] = [37, 70];

    fn halves(&self, label: &str, values: &[f32]) -> Result<Buffer> {
        let buffer = self.context.buffer(label, values.len() / 2)?;
        let values: Vec<f16> = values.iter().map(|&value| f16::from_f32(value)).collect();
        self.context.write(&buffer, bytemuck::cast_slice(&values));
        Ok(buffer)
    }

    fn read_halves(&self, buffer: &Buffer) -> Result<Vec<f32>> {
        let words = self.context.read(buffer)?;
        let values: &[f16] = bytemuck::cast_slice(&words);
        Ok(values.iter().map(|value| value.to_f32()).collect())
    }

    /// out and lse, or the gradients of queries, keys and values from the family's out and lse.
    fn results(&self, kernels: Kernels, tokens: usize, qkv: &[f32], dout: &[f32]) -> Result<Vec<Vec<f32>>> {
        let (context, heads, head_dim) = (self.context, Self::HEADS, self.head_dim);
        let empty = |len| vec![f32::NAN; len];
        let [qkv, dout, out, dqkv] = [
            self.halves("qkv", qkv)?,
            self.halves("dout", dout)?,
            self.halves("out", &empty(dout.len()))?,
            self.halves("dqkv", &empty(qkv.len()))?,
        ];
        let lse = context.upload("lse", &empty(heads * tokens))?;
        let mut recorder = Recorder::with_storage(context, Storage::F16);
        let halves = [&qkv, &out, &dout, &dqkv].map(|buffer| recorder.import_as(buffer, Storage::F16));
        let lse_tensor = recorder.import(&lse);
        let first = if self.pass == Pass::Forward { kernels } else { context.family().into() };
        Forward { qkv: halves[0], out: halves[1], lse: Some(lse_tensor), batch: 1, tokens, heads, head_dim }
            .record_with(&mut recorder, "validation", first);
        if self.pass == Pass::Backward {
            let [qkv, out, dout, dqkv] = halves;
            Backward { qkv, out, lse: lse_tensor, dout, dqkv, batch: 1, tokens, heads, head_dim }
                .record_with(&mut recorder, "validation", kernels);
        }
        recorder.finish()?.run(context)?;
        if self.pass == Pass::Forward {
            return Ok(vec![self.read_halves(&out)?, context.read(&lse)?]);
        }
        let found = self.read_halves(&dqkv)?;
        let operand = |operand: usize| {
            let rows = found.chunks(heads * head_dim).skip(operand).step_by(3);
            rows.flatten().copied().collect()
        };
        Ok((0..3).map(operand).collect())
    }

    /// True if no difference exceeds `bound` of the tensor's largest value.
    fn agree(one: &[Vec<f32>], other: &[Vec<f32>], bound: impl Fn(f32) -> f32) -> bool {
        one.len() == other.len()
            && one.iter().zip(other).all(|(one, other)| {
                let most = bound(one.iter().fold(0.0, |most, value| value.abs().max(most)));
                // False for NaN.
                one.len() == other.len()
                    && one.iter().zip(other).all(|(one, other)| (one - other).abs() <= most)
            })
    }

    fn passes(&self) -> bool {
        let judge = |tokens: usize, qkv: &[f32], dout: &[f32], bound: &dyn Fn(f32) -> f32| {
            let family = Kernels::Family(self.context.family());
            let results = |kernels| self.results(kernels, tokens, qkv, dout);
            matches!(
                (results(family), results(self.kernels)),
                (Ok(wanted), Ok(found)) if Self::agree(&wanted, &found, bound)
            )
        };
        Self::TOKENS.into_iter().all(|tokens| {
            let (qkv, dout) = self.integers(tokens);
            let exact = judge(tokens, &qkv, &dout, &|_| 1.0 / 256.0);
            let (qkv, dout) = self.random(tokens);
            // Weights are rounded to f16, as both results are: 2⁻¹¹ each.
            exact && judge(tokens, &qkv, &dout, &|most| most / 256.0)
        })
    }

    /// qkv and dout where each query is 32 times the key that it attends to. The keys are random signs, so that the
    /// other probabilities are 0. Values and dout are integers.
    fn integers(&self, tokens: usize) -> (Vec<f32>, Vec<f32>) {
        let dim = Self::HEADS * self.head_dim;
        let integer = |stream: u64, i: usize| (rng::uniform(9, stream, i as u64) * 63.0).floor() - 31.0;
        let sign = |token: usize, i: usize| {
            if rng::uniform(9, 1, (token * dim + i) as u64) < 0.5 { -1.0 } else { 1.0 }
        };
        let value = |i: usize| {
            let (token, operand, i) = (i / (3 * dim), i / dim % 3, i % dim);
            match operand {
                // No token count has this factor.
                0 => 32.0 * sign((token * 11 + 3) % tokens, i),
                1 => sign(token, i),
                _ => integer(2, token * dim + i),
            }
        };
        let dout = (0..tokens * dim).map(|i| integer(3, i)).collect();
        ((0..3 * tokens * dim).map(value).collect(), dout)
    }

    /// qkv and dout with numbers between -1 and 1, queries between -4 and 4.
    fn random(&self, tokens: usize) -> (Vec<f32>, Vec<f32>) {
        let dim = Self::HEADS * self.head_dim;
        let number = |stream: u64, i: usize| 2.0 * rng::uniform(10, stream, i as u64) - 1.0;
        let qkv = |i: usize| [4.0, 1.0, 1.0][i / dim % 3] * number(1, i);
        ((0..3 * tokens * dim).map(qkv).collect(), (0..tokens * dim).map(|i| number(2, i)).collect())
    }
}
