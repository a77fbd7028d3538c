//! Cases of attention: both families and matrix units, forward and backward.

use super::random::{Numbers, drawn};
use super::run::Run;
use super::{List, TOKENS, TimedCases, tolerance};
use crate::gpu::Storage;
use crate::kernels::attention::{Backward, Forward, Kernels};
use crate::reference::Exact;
use crate::reference::attention::Attention;
use std::rc::Rc;

/// The dimensions of a case.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Batch size B.
    pub batch: usize,
    /// Tokens per image T.
    pub tokens: usize,
    /// Heads H.
    pub heads: usize,
    /// Width of a head Dh.
    pub head_dim: usize,
}

impl Shape {
    /// Elements of queries, keys and values.
    pub fn qkv_len(&self) -> usize {
        3 * self.out_len()
    }

    /// Elements of the output.
    pub fn out_len(&self) -> usize {
        self.batch * self.tokens * self.heads * self.head_dim
    }

    /// Elements of lse: rows of scores.
    pub fn lse_len(&self) -> usize {
        self.batch * self.heads * self.tokens
    }

    /// The reference for `qkv`.
    pub fn exact<'q>(&self, qkv: &'q [f32]) -> Attention<'q> {
        Attention { qkv, tokens: self.tokens, heads: self.heads, head_dim: self.head_dim }
    }

    /// Image, head and token of a row in the order of lse (B, H, T), and the row's first element in out (B, T, H, Dh).
    fn place(&self, row: usize) -> ([usize; 3], usize) {
        let Shape { tokens, heads, head_dim, .. } = *self;
        let (image, head, token) = (row / (heads * tokens), row / tokens % heads, row % tokens);
        ([image, head, token], ((image * tokens + token) * heads + head) * head_dim)
    }
}

/// Exact out (B, T, H, Dh) and lse (B, H, T).
pub fn exact_forward(qkv: &[f32], shape: Shape) -> (Vec<Exact>, Vec<Exact>) {
    let mut out = vec![Exact::default(); shape.out_len()];
    let mut lse = Vec::new();
    for row in 0..shape.lse_len() {
        let ([image, head, token], start) = shape.place(row);
        let row = shape.exact(qkv).row(image, head, token);
        out[start..start + shape.head_dim].copy_from_slice(&row.out);
        lse.push(row.lse);
    }
    (out, lse)
}

/// Exact values rounded to f32.
pub fn rounded(exact: &[Exact]) -> Vec<f32> {
    exact.iter().map(|exact| exact.value as f32).collect()
}

/// Records the forward pass: out, and lse if `keep`. Without `kernels`, the adapter's.
pub fn forward<'n>(
    run: &mut Run<'_>,
    qkv: impl Into<Numbers<'n>>,
    shape: Shape,
    keep: bool,
    kernels: Option<Kernels>,
) {
    let Shape { batch, tokens, heads, head_dim } = shape;
    let qkv = run.quads("qkv", qkv);
    let out = run.quads_output("out", shape.out_len());
    let lse = keep.then(|| run.output("lse", shape.lse_len()));
    let call = Forward { qkv: qkv.tensor, out, lse, batch, tokens, heads, head_dim };
    match kernels {
        Some(kernels) => call.record_with(&mut run.recorder, "attention", kernels),
        None => call.record(&mut run.recorder, "attention"),
    }
    let rows = super::random::sample(shape.lse_len(), run.samples);
    let row = |&row: &usize| {
        let ([image, head, token], start) = shape.place(row);
        (row, start, shape.exact(&qkv).row(image, head, token))
    };
    let [allowed, of_lse] = match kernels {
        Some(Kernels::Fragments { .. }) => tolerance::attention_fragments(tokens, head_dim),
        _ => [tolerance::attention(tokens, head_dim); 2],
    };
    run.near("out", out, allowed, || rows.iter().map(row).flat_map(|(_, start, row)| (start..).zip(row.out)));
    if let Some(lse) = lse {
        run.near("lse", lse, of_lse, || rows.iter().map(row).map(|(place, _, row)| (place, row.lse)));
    }
}

/// Gradients of queries, keys and values, each with its places in dqkv (B, T, 3, H, Dh). `out` is the stored output;
/// `None` means the exact one.
pub fn gradients(qkv: &[f32], out: Option<&[f32]>, dout: &[f32], shape: Shape) -> [Vec<(usize, Exact)>; 3] {
    let Shape { batch, tokens, heads, head_dim } = shape;
    let mut operands: [Vec<(usize, Exact)>; 3] = Default::default();
    for (image, head) in (0..batch).flat_map(|image| (0..heads).map(move |head| (image, head))) {
        let gradients = shape.exact(qkv).gradients_from(image, head, out, dout).dqkv;
        for (operand, (places, gradient)) in operands.iter_mut().zip(gradients).enumerate() {
            for (token, row) in gradient.chunks(head_dim).enumerate() {
                let start = (((image * tokens + token) * 3 + operand) * heads + head) * head_dim;
                places.extend((start..).zip(row.iter().copied()));
            }
        }
    }
    operands
}

/// Records the backward pass from the reference's out and lse, rounded to their storage. Without `kernels`, the
/// adapter's.
pub fn backward<'n>(
    run: &mut Run<'_>,
    qkv: impl Into<Numbers<'n>>,
    dout: impl Into<Numbers<'n>>,
    shape: Shape,
    kernels: Option<Kernels>,
) {
    let Shape { batch, tokens, heads, head_dim } = shape;
    let (qkv, dout) = (run.quads("qkv", qkv), run.quads("dout", dout));
    let exact = std::cell::OnceCell::new();
    let exact = || exact.get_or_init(|| exact_forward(&qkv, shape));
    let out = run.quads("out", Numbers::new(shape.out_len(), || rounded(&exact().0)));
    let lse = run.operand("lse", Numbers::new(shape.lse_len(), || rounded(&exact().1)));
    let dqkv = run.quads_output("dqkv", shape.qkv_len());
    let call = Backward {
        qkv: qkv.tensor,
        out: out.tensor,
        lse: lse.tensor,
        dout: dout.tensor,
        dqkv,
        batch,
        tokens,
        heads,
        head_dim,
    };
    match kernels {
        Some(kernels) => call.record_with(&mut run.recorder, "attention.backward", kernels),
        None => call.record(&mut run.recorder, "attention.backward"),
    }
    let all = std::cell::OnceCell::new();
    let gradient = |operand: usize| {
        let all = all.get_or_init(|| gradients(&qkv, Some(&out), &dout, shape));
        all[operand].iter().copied()
    };
    let allowed = match kernels {
        Some(Kernels::Fragments { .. }) => tolerance::attention_fragments_backward(tokens, head_dim),
        _ => tolerance::attention_backward(tokens, head_dim),
    };
    run.near("dv", dqkv, allowed, || gradient(2));
    // With a single token the softmax is constant: dq and dk are zero except for rounding.
    if tokens > 1 {
        run.near("dq", dqkv, allowed, || gradient(0));
        run.near("dk", dqkv, allowed, || gradient(1));
    }
}

/// Queries, keys and values with scores that rise by `step` after every ten keys.
fn stepped(shape: Shape, step: f32) -> Numbers<'static> {
    let width = shape.head_dim;
    Numbers::new(shape.qkv_len(), move || {
        let mut qkv = super::random::normal(5, shape.qkv_len());
        for (token, row) in qkv.chunks_mut(3 * width).enumerate() {
            row[..width].fill(1.0);
            row[width..2 * width].fill(step * (token / shape.heads / 10) as f32 / (width as f32).sqrt());
        }
        qkv
    })
}

/// Cases of matrix units.
fn fragments(list: &mut List) {
    let Some(units) = list.matrix_units else { return };
    let kernels = Kernels::Fragments { units, rows: 64 };
    let narrow = Kernels::Fragments { units, rows: 48 };
    let shape = |batch, tokens, heads, head_dim| Shape { batch, tokens, heads, head_dim };
    let name = |Shape { batch, tokens, heads, head_dim }| format!("{batch}x{tokens}x{heads}x{head_dim}");
    let normal = |shape: Shape, factor: f32| drawn(4, shape.qkv_len()).map(move |v| factor * v);
    for (shape, kernels) in [
        (shape(2, 33, 3, 32), kernels),
        (shape(1, 53, 2, 32), narrow),
        (shape(1, 70, 2, 64), kernels),
        (shape(1, 5, 1, 80), kernels),
        (shape(1, 35, 1, 128), kernels),
    ] {
        for (note, keep) in [("", false), (" lse", true)] {
            list.add_in(Storage::F16, &format!("forward {kernels}{note}"), &name(shape), move |run| {
                forward(run, normal(shape, 1.0), shape, keep, Some(kernels));
            });
        }
        list.add_in(Storage::F16, &format!("backward {kernels}"), &name(shape), move |run| {
            backward(run, normal(shape, 1.0), drawn(7, shape.out_len()), shape, Some(kernels));
        });
    }

    let mut full = |kernels: Kernels, note: String, shape: Shape, qkv: Rc<dyn Fn() -> Numbers<'static>>| {
        let (qkv, again) = (qkv.clone(), qkv);
        let label = |pass: &str| format!("{pass} {kernels} {}{note}", name(shape));
        list.full_in(Storage::F16, usize::MAX, label("forward"), [true, false], move |run, keep| {
            forward(run, qkv(), shape, keep, Some(kernels));
        });
        list.full_in(Storage::F16, usize::MAX, label("backward"), [()], move |run, ()| {
            backward(run, again(), drawn(7, shape.out_len()), shape, Some(kernels));
        });
    };
    for tokens in [1, 5, 31, 32, 33, 63, 64, 65, 67, 129, 197] {
        for head_dim in [32, 64, 80, 128] {
            // Wide heads at each end of a tile.
            if head_dim < 80 || tokens % 32 < 2 {
                let shape = shape(1, tokens, 2, head_dim);
                full(kernels, String::new(), shape, Rc::new(move || normal(shape, 1.0)));
            }
        }
    }
    // Scores of ±80 and beyond, and scores that rise or fall by 80 from tile to tile.
    for head_dim in [32, 64] {
        let shape = shape(1, 100, 2, head_dim);
        full(kernels, " large scores".to_string(), shape, Rc::new(move || normal(shape, 6.0)));
        for step in [80.0, -80.0] {
            full(kernels, format!(" steps of {step}"), shape, Rc::new(move || stepped(shape, step)));
        }
    }
    for tokens in [47, 48, 49, 96, 129] {
        let shape = shape(1, tokens, 2, 32);
        full(narrow, String::new(), shape, Rc::new(move || normal(shape, 1.0)));
    }
}

pub(super) fn list(list: &mut List) {
    fragments(list);
    let shape = |batch, tokens, heads, head_dim| Shape { batch, tokens, heads, head_dim };
    let mut shapes = vec![
        shape(1, 1, 2, 16),
        shape(2, 33, 3, 16),
        shape(1, 5, 3, 4),
        shape(1, 17, 2, 12),
        shape(1, 41, 2, 16),
    ];
    // Each head width is a variant of its own, and wide ones take long to compile on software drivers.
    if !list.is_cpu {
        shapes.extend([
            shape(1, 35, 2, 20),
            shape(1, 34, 2, 32),
            shape(1, 65, 2, 64),
            shape(1, 67, 2, 80),
            shape(1, 31, 1, 128),
        ]);
    }
    let name = |Shape { batch, tokens, heads, head_dim }| format!("{batch}x{tokens}x{heads}x{head_dim}");
    for family in list.families() {
        let kernels = Some(Kernels::Family(family));
        let quick = |shape: Shape, keep| {
            move |run: &mut Run<'_>| forward(run, drawn(1, shape.qkv_len()), shape, keep, kernels)
        };
        for &shape in &shapes {
            list.add_stored(format!("forward {family} lse"), name(shape), quick(shape, true));
            list.add_stored(format!("backward {family}"), name(shape), move |run| {
                backward(run, drawn(1, shape.qkv_len()), drawn(7, shape.out_len()), shape, kernels);
            });
        }
        list.add_stored(format!("forward {family}"), name(shapes[1]), quick(shapes[1], false));

        let mut full = |rows: usize, shape: Shape, note: &str, qkv: Rc<dyn Fn() -> Numbers<'static>>| {
            // Writing lse must not change out.
            list.full_ways(rows, format!("forward {family} {}{note}", name(shape)), [true, false], move |run, keep| {
                forward(run, qkv(), shape, keep, kernels);
            });
        };
        let normal = |shape: Shape, factor: f32| -> Rc<dyn Fn() -> Numbers<'static>> {
            Rc::new(move || drawn(4, shape.qkv_len()).map(move |v| factor * v))
        };
        // One, primes, and sizes around the tiles of each family: tiles of 32 rows for up to 32, for 49 to 64, and for
        // 127 and 128; of 48 rows for 41 to 48, 81 and 129; otherwise of 40.
        let mut ugly: Vec<Shape> = [
            1, 2, 3, 7, 8, 9, 13, 15, 16, 17, 31, 32, 33, 37, 39, 40, 41, 47, 48, 49, 61, 63, 64, 65, 79, 80, 81,
            127, 128, 129, 257,
        ]
        .map(|tokens| shape(1, tokens, 2, 16))
        .to_vec();
        // With head widths of 52 and 104, whole rows take more workgroup memory than the tiles of the scores. Widths 80
        // and 128 take long to compile on software drivers; tests/shader_contract.rs validates them.
        ugly.extend([4, 20, 52, 64, 104].map(|head_dim| shape(2, 35, 3, head_dim)));
        for &shape in &ugly {
            full(usize::MAX, shape, "", normal(shape, 1.0));
        }
        // Token counts of images of 224 × 112 and 224 × 224 pixels.
        for tokens in [129, 197] {
            full(64, shape(1, tokens, 12, 64), "", normal(shape(1, tokens, 12, 64), 1.0));
        }
        // Scores of ±80 and beyond, whose exp overflows without the maximum; then scores that rise or fall by 80 from
        // tile to tile.
        let large = shape(1, 37, 2, 16);
        full(usize::MAX, large, " large scores", normal(large, 6.0));
        for step in [80.0, -80.0] {
            let shape = shape(1, 100, 1, 4);
            full(usize::MAX, shape, &format!(" steps of {step}"), Rc::new(move || stepped(shape, step)));
        }
        ugly.extend([shape(1, 129, 2, 64), shape(1, 197, 6, 64)]);
        for (shape, factor) in ugly.into_iter().map(|shape| (shape, 1.0)).chain([(large, 4.0)]) {
            let qkv = normal(shape, factor);
            list.full(format!("backward {family} {} times {factor}", name(shape)), move |run| {
                backward(run, qkv(), drawn(7, shape.out_len()), shape, kernels);
            });
        }
    }
}

pub(super) fn time(timed: &mut TimedCases<'_>) {
    let (batch, heads, head_dim) = (timed.batch, timed.model.heads, timed.model.dim / timed.model.heads);
    let lengths: Vec<(usize, String)> = match timed.tokens {
        [] => vec![(TOKENS, String::new())],
        lengths => lengths.iter().map(|&tokens| (tokens, format!("{tokens} tokens"))).collect(),
    };
    for (tokens, note) in lengths {
        let shape = Shape { batch, tokens, heads, head_dim };
        timed.add(&note, move |run| {
            forward(run, drawn(1, shape.qkv_len()), shape, false, None);
        });
        timed.add(format!("backward {note}").trim_end(), move |run| {
            backward(run, drawn(1, shape.qkv_len()), drawn(7, shape.out_len()), shape, None);
        });
    }
}
