//! Cases of attention and of what explains it: both families, forward and backward; rollout.

use super::cases::{Expected, List};
use super::random::normal;
use super::tolerance;
use crate::gpu::Family;
use crate::kernels::attention::{Backward, Forward};
use crate::kernels::rollout::{Multiply, Probabilities};
use crate::reference::attention::Attention;
use crate::reference::{Exact, rollout};

/// B, T, H and Dh.
#[derive(Debug, Clone, Copy)]
struct Shape {
    batch: usize,
    tokens: usize,
    heads: usize,
    head_dim: usize,
}

pub(super) fn add(list: &mut List) {
    let shape = |batch, tokens, heads, head_dim| Shape { batch, tokens, heads, head_dim };
    let mut shapes = vec![
        shape(1, 1, 2, 16),
        shape(2, 33, 3, 16),
        shape(1, 5, 3, 4),
        shape(1, 17, 2, 12),
        shape(1, 41, 2, 16),
    ];
    // Each width is compiled for itself, and wide ones take a software driver long.
    if !list.is_cpu {
        shapes.extend([
            shape(1, 35, 2, 20),
            shape(1, 34, 2, 32),
            shape(1, 65, 2, 64),
            shape(1, 67, 2, 80),
            shape(1, 31, 1, 128),
        ]);
    }
    for family in list.families() {
        for &shape in &shapes {
            forward(list, family, shape, true);
            backward(list, family, shape);
        }
        forward(list, family, shapes[1], false);
    }
    for (tokens, heads, head_dim) in [(1, 2, 16), (65, 3, 20)] {
        matrices(list, tokens, heads, head_dim);
    }
    for tokens in [1, 13, 129] {
        list.add("rollout", "multiply", format!("{tokens}"), move |run| {
            let (row, matrix) = (normal(4, tokens), normal(5, tokens * tokens));
            let carried = run.output("carried", tokens);
            let multiply = Multiply {
                row: run.input("row", &row),
                matrix: run.input("matrix", &matrix),
                carried,
                tokens,
            };
            multiply.record(&mut run.recorder, "multiply");
            let values = rollout::multiply(&row, &matrix);
            vec![Expected::all("carried", carried, values, tolerance::rollout_multiply(tokens))]
        });
    }
}

fn name(Shape { batch, tokens, heads, head_dim }: Shape) -> String {
    format!("{batch}x{tokens}x{heads}x{head_dim}")
}

/// Exact out (B, T, H, Dh) and lse (B, H, T).
fn rows(exact: Attention<'_>, batch: usize) -> (Vec<Exact>, Vec<Exact>) {
    let Attention { tokens, heads, head_dim, .. } = exact;
    let mut out = vec![Exact::default(); batch * tokens * heads * head_dim];
    let mut lse = Vec::new();
    for place in 0..batch * heads * tokens {
        let (image, head, token) = (place / (heads * tokens), place / tokens % heads, place % tokens);
        let row = exact.row(image, head, token);
        let start = ((image * tokens + token) * heads + head) * head_dim;
        out[start..start + head_dim].copy_from_slice(&row.out);
        lse.push(row.lse);
    }
    (out, lse)
}

fn values(exact: &[Exact]) -> Vec<f32> {
    exact.iter().map(|exact| exact.value as f32).collect()
}

fn forward(list: &mut List, family: Family, shape: Shape, keep: bool) {
    let Shape { batch, tokens, heads, head_dim } = shape;
    let variant = format!("forward {family}{}", if keep { " lse" } else { "" });
    list.add_stored("attention", &variant, &name(shape), move |run| {
        let width = heads * head_dim;
        let qkv = run.rounded(normal(1, batch * tokens * 3 * width));
        let out = run.activation_output("out", batch * tokens * width);
        let lse = keep.then(|| run.output("lse", batch * heads * tokens));
        let call = Forward { qkv: run.activation("qkv", &qkv), out, lse, batch, tokens, heads, head_dim };
        call.record_with(&mut run.recorder, "attention", family);
        let allowed = tolerance::attention(tokens, head_dim);
        let (outs, sums) = rows(Attention { qkv: &qkv, tokens, heads, head_dim }, batch);
        let mut expected = vec![Expected::all("out", out, outs, allowed)];
        expected.extend(lse.map(|lse| Expected::all("lse", lse, sums, allowed)));
        expected
    });
}

fn backward(list: &mut List, family: Family, shape: Shape) {
    let Shape { batch, tokens, heads, head_dim } = shape;
    list.add_stored("attention", &format!("backward {family}"), &name(shape), move |run| {
        let width = heads * head_dim;
        let qkv = run.rounded(normal(1, batch * tokens * 3 * width));
        let dout = run.rounded(normal(7, batch * tokens * width));
        let exact = Attention { qkv: &qkv, tokens, heads, head_dim };
        let (out, lse) = rows(exact, batch);
        let out = run.rounded(values(&out));
        let dqkv = run.activation_output("dqkv", qkv.len());
        let call = Backward {
            qkv: run.activation("qkv", &qkv),
            out: run.activation("out", &out),
            lse: run.input("lse", &values(&lse)),
            dout: run.activation("dout", &dout),
            dqkv,
            batch,
            tokens,
            heads,
            head_dim,
        };
        call.record_with(&mut run.recorder, "attention", family);

        // Gradients of queries, keys and values, each with its places in dqkv (B, T, 3, H, Dh).
        let mut parts: [Vec<(usize, Exact)>; 3] = Default::default();
        for (image, head) in (0..batch).flat_map(|image| (0..heads).map(move |head| (image, head))) {
            let gradients = exact.gradients_from(image, head, Some(&out), &dout).dqkv;
            for (part, (places, gradient)) in parts.iter_mut().zip(gradients).enumerate() {
                for (token, row) in gradient.chunks(head_dim).enumerate() {
                    let start = (((image * tokens + token) * 3 + part) * heads + head) * head_dim;
                    places.extend((start..).zip(row.iter().copied()));
                }
            }
        }
        let allowed = tolerance::attention_backward(tokens, head_dim);
        let [dq, dk, dv] = parts;
        let mut expected = vec![Expected::near("dv", dqkv, dv, allowed)];
        // A single token has nothing to choose from: dq and dk are zero but for rounding.
        if tokens > 1 {
            expected.extend(
                [("dq", dq), ("dk", dk)].map(|(name, part)| Expected::near(name, dqkv, part, allowed)),
            );
        }
        expected
    });
}

fn matrices(list: &mut List, tokens: usize, heads: usize, head_dim: usize) {
    list.add("rollout", "probabilities", format!("{tokens}x{heads}x{head_dim}"), move |run| {
        let qkv = normal(1, tokens * 3 * heads * head_dim);
        let exact = Attention { qkv: &qkv, tokens, heads, head_dim };
        let lse = values(&rows(exact, 1).1);
        let mixed = run.output("mixed", tokens * tokens);
        let call = Probabilities {
            qkv: run.input("qkv", &qkv),
            lse: run.input("lse", &lse),
            mixed,
            tokens,
            heads,
            head_dim,
        };
        call.record(&mut run.recorder, "probabilities");
        let values = rollout::probabilities(exact, &lse);
        vec![Expected::all("mixed", mixed, values, tolerance::rollout(heads, head_dim))]
    });
}
