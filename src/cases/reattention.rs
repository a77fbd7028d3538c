//! Cases of reattention: each kernel on random operands of its own.

use super::random::{Numbers, drawn};
use super::run::{Operand, Run};
use super::{BATCH, List, TOKENS, TimedCases, tolerance};
use crate::kernels::reattention::{
    Backward, Context, HeadGradient, MapGradient, Mean, Mix, MixGradient, Moments, Norm, NormGradient,
    ScoreGradient, Shape, Softmax, ThetaGradient,
};
use crate::reference::reattention as reference;

/// The reference of a shape.
pub fn exact(shape: Shape) -> reference::ReAttention {
    let Shape { tokens, heads, head_dim, eps, .. } = shape;
    reference::ReAttention { tokens, heads, head_dim, eps: eps.into() }
}

/// Numbers in f64.
pub fn wide(numbers: &[f32]) -> Vec<f64> {
    numbers.iter().map(|&v| v.into()).collect()
}

/// Queries, keys and values.
fn qkv(run: &mut Run<'_>, shape: Shape) -> Operand {
    run.quads("qkv", drawn(1, 3 * shape.out_len()))
}

/// Attention maps: positive numbers of the size of their mean 1/T.
fn maps(run: &mut Run<'_>, shape: Shape) -> Operand {
    let share = 1.0 / shape.tokens as f32;
    run.operand("maps", drawn(2, shape.maps_len()).map(move |v| share * v.abs()))
}

/// Mixed maps, about a mean of 1/T.
fn mixed(run: &mut Run<'_>, shape: Shape) -> Operand {
    let share = 1.0 / shape.tokens as f32;
    run.operand("mixed", drawn(3, shape.maps_len()).map(move |v| share * (1.0 + 0.5 * v)))
}

/// Statistics and parameters of the normalisation that suit [`mixed`].
fn norm(run: &mut Run<'_>, shape: Shape) -> Operand {
    let share = 1.0 / shape.tokens as f32;
    let all = Numbers::new(4 * shape.heads, move || {
        let random = super::random::normal(4, 4 * shape.heads);
        let head = |v: &[f32]| {
            [share * (1.0 + 0.1 * v[0]), (0.25 + 0.1 * v[1].abs()) * share * share, v[2], 0.1 * v[3]]
        };
        random.chunks(4).flat_map(head).collect()
    });
    run.operand("norm", all)
}

fn norms(numbers: &[f32]) -> Vec<reference::Norm> {
    let norm = |v: &[f32]| {
        let [mean, var, weight, bias] = [v[0], v[1], v[2], v[3]].map(f64::from);
        reference::Norm { mean, var, weight, bias }
    };
    numbers.chunks(4).map(norm).collect()
}

fn softmax(run: &mut Run<'_>, shape: Shape) {
    let qkv = qkv(run, shape);
    let maps = run.output("maps", shape.maps_len());
    Softmax { qkv: qkv.tensor, maps, shape }.record(&mut run.recorder, "softmax");
    let allowed = tolerance::reattention(shape.tokens + shape.head_dim);
    run.all("maps", maps, allowed, || exact(shape).softmax(&wide(&qkv)));
}

fn mix(run: &mut Run<'_>, shape: Shape) {
    let maps = maps(run, shape);
    let theta = run.operand("theta", drawn(5, shape.heads * shape.heads));
    let mixed = run.output("mixed", shape.maps_len());
    let call = Mix { maps: maps.tensor, theta: theta.tensor, mixed, shape };
    call.record(&mut run.recorder, "mix");
    run.all("mixed", mixed, tolerance::reattention(shape.heads), || {
        exact(shape).mix(&wide(&maps), &wide(&theta))
    });
}

fn statistics(run: &mut Run<'_>, shape: Shape) {
    let mixed = mixed(run, shape);
    let [mean, var] = ["mean", "var"].map(|name| run.output(name, shape.heads));
    Moments { mixed: mixed.tensor, mean, var, shape }.record(&mut run.recorder, "moments");
    let allowed = tolerance::reattention(shape.elements());
    run.all("mean", mean, allowed, || exact(shape).moments(&wide(&mixed))[0].clone());
    run.all("var", var, allowed, || exact(shape).moments(&wide(&mixed))[1].clone());
    let mut stream = 6;
    let given = ["mean", "var", "weight", "bias", "mix_bias"].map(|name| {
        stream += 1;
        run.operand(name, drawn(stream, shape.heads))
    });
    for (stored_mean, factor) in [(Mean::AsGiven, 0.0), (Mean::WithoutBias, -1.0), (Mean::WithBias, 1.0)] {
        let norm = run.output("norm", 4 * shape.heads);
        let [mean, var, weight, bias, mix_bias] = given.each_ref().map(|operand| operand.tensor);
        Norm { mean, mix_bias, stored_mean, var, weight, bias, norm, shape }
            .record(&mut run.recorder, "norm");
        run.same("norm", norm, || {
            let value = |i: usize| match i % 4 {
                0 => given[0][i / 4] + factor * given[4][i / 4],
                field => given[field][i / 4],
            };
            (0..4 * shape.heads).map(|i| (i, value(i).to_bits())).collect::<Vec<_>>()
        });
    }
}

fn context(run: &mut Run<'_>, shape: Shape) {
    let (qkv, mixed, norm) = (qkv(run, shape), mixed(run, shape), norm(run, shape));
    let out = run.quads_output("out", shape.out_len());
    let call = Context { qkv: qkv.tensor, mixed: mixed.tensor, norm: norm.tensor, out, shape };
    call.record(&mut run.recorder, "context");
    run.all("out", out, tolerance::reattention(shape.tokens), || {
        exact(shape).context(&wide(&qkv), &wide(&mixed), &norms(&norm))
    });
}

fn map_gradient(run: &mut Run<'_>, shape: Shape) {
    let qkv = qkv(run, shape);
    let dout = run.quads("dout", drawn(11, shape.out_len()));
    let dp = run.output("dp", shape.maps_len());
    MapGradient { qkv: qkv.tensor, dout: dout.tensor, dp, shape }.record(&mut run.recorder, "dmaps");
    run.all("dp", dp, tolerance::reattention(shape.head_dim), || {
        exact(shape).map_gradient(&wide(&qkv), &wide(&dout))
    });
}

fn norm_gradient(run: &mut Run<'_>, shape: Shape) {
    let dp = run.operand("dp", drawn(12, shape.maps_len()));
    let (mixed, norm) = (mixed(run, shape), norm(run, shape));
    let [dweight, dbias] = ["dweight", "dbias"].map(|name| run.output(name, shape.heads));
    let (mixed_maps, of_norm) = (mixed.tensor, norm.tensor);
    let call = NormGradient { dp: dp.tensor, mixed: mixed_maps, norm: of_norm, dweight, dbias, shape };
    call.record(&mut run.recorder, "dnorm");
    for (i, (name, tensor)) in [("dweight", dweight), ("dbias", dbias)].into_iter().enumerate() {
        run.all(name, tensor, tolerance::reattention(shape.elements()), || {
            exact(shape).norm_gradient(&wide(&dp), &wide(&mixed), &norms(&norm))[i].clone()
        });
    }
}

fn mix_gradient(run: &mut Run<'_>, shape: Shape) {
    let dp = run.updated("gradient", drawn(13, shape.maps_len()));
    let (mixed, norm) = (mixed(run, shape), norm(run, shape));
    // The gradients are sums over all elements.
    let sum = (shape.elements() as f32).sqrt();
    let dweight = run.operand("dweight", drawn(14, shape.heads).map(move |v| sum * v));
    let dbias = run.operand("dbias", drawn(15, shape.heads).map(move |v| sum * v));
    let call = MixGradient {
        gradient: dp.tensor,
        mixed: mixed.tensor,
        norm: norm.tensor,
        dweight: dweight.tensor,
        dbias: dbias.tensor,
        shape,
    };
    call.record(&mut run.recorder, "dmix");
    run.all("gradient", dp.tensor, tolerance::reattention(1), || {
        let parameters = [&wide(&dweight)[..], &wide(&dbias)[..]];
        exact(shape).mix_gradient(&wide(&dp), &wide(&mixed), &norms(&norm), parameters)
    });
}

fn head_gradient(run: &mut Run<'_>, shape: Shape) {
    let dm = run.operand("dm", drawn(16, shape.maps_len()));
    let theta = run.operand("theta", drawn(5, shape.heads * shape.heads));
    let da = run.output("da", shape.maps_len());
    HeadGradient { dm: dm.tensor, theta: theta.tensor, da, shape }.record(&mut run.recorder, "dheads");
    run.all("da", da, tolerance::reattention(shape.heads), || {
        exact(shape).head_gradient(&wide(&dm), &wide(&theta))
    });
}

fn theta_gradient(run: &mut Run<'_>, shape: Shape) {
    let dm = run.operand("dm", drawn(16, shape.maps_len()));
    let maps = maps(run, shape);
    let dtheta = run.output("dtheta", shape.heads * shape.heads);
    ThetaGradient { dm: dm.tensor, maps: maps.tensor, dtheta, shape }.record(&mut run.recorder, "dtheta");
    run.all("dtheta", dtheta, tolerance::reattention(shape.elements()), || {
        exact(shape).theta_gradient(&wide(&dm), &wide(&maps))
    });
}

fn score_gradient(run: &mut Run<'_>, shape: Shape) {
    let da = run.updated("gradient", drawn(17, shape.maps_len()));
    let maps = maps(run, shape);
    ScoreGradient { gradient: da.tensor, maps: maps.tensor, shape }.record(&mut run.recorder, "dscores");
    run.all("gradient", da.tensor, tolerance::reattention(shape.tokens), || {
        exact(shape).score_gradient(&wide(&da), &wide(&maps))
    });
}

fn backward(run: &mut Run<'_>, shape: Shape) {
    let (qkv, mixed, norm) = (qkv(run, shape), mixed(run, shape), norm(run, shape));
    let ds = run.operand("ds", drawn(18, shape.maps_len()));
    let dout = run.quads("dout", drawn(11, shape.out_len()));
    let dqkv = run.quads_output("dqkv", 3 * shape.out_len());
    let call = Backward {
        qkv: qkv.tensor,
        mixed: mixed.tensor,
        norm: norm.tensor,
        ds: ds.tensor,
        dout: dout.tensor,
        dqkv,
        shape,
    };
    call.record(&mut run.recorder, "dqkv");
    run.all("dqkv", dqkv, tolerance::reattention(shape.tokens), || {
        exact(shape).backward(&wide(&qkv), &wide(&mixed), &norms(&norm), &wide(&ds), &wide(&dout))
    });
}

/// Records the kernels of a case.
type Record = fn(&mut Run<'_>, Shape);

/// Kernels that access activations, and those of maps alone.
const STORED: [(&str, Record); 4] =
    [("softmax", softmax), ("context", context), ("dmaps", map_gradient), ("dqkv", backward)];
const OF_MAPS: [(&str, Record); 7] = [
    ("mix", mix),
    ("statistics", statistics),
    ("dnorm", norm_gradient),
    ("dmix", mix_gradient),
    ("dheads", head_gradient),
    ("dtheta", theta_gradient),
    ("dscores", score_gradient),
];

pub(super) fn list(list: &mut List) {
    let mut add = |quick: bool, batch: usize, tokens: usize, heads: usize, head_dim: usize| {
        let shape = Shape { batch, tokens, heads, head_dim, eps: 1e-5 };
        let name = format!("{batch}x{tokens}x{heads}x{head_dim}");
        for (variant, record) in STORED.into_iter().chain(OF_MAPS) {
            if !quick {
                list.full(format!("{variant} {name}"), move |run| record(run, shape));
            } else if STORED.iter().any(|(stored, _)| *stored == variant) {
                list.add_stored(variant, &name, move |run| record(run, shape));
            } else {
                list.add(variant, &name, move |run| record(run, shape));
            }
        }
    };
    add(true, 1, 2, 1, 4);
    add(true, 3, 7, 2, 12);
    add(true, 2, 33, 3, 16);
    // Sizes around a workgroup and around a chunk of elements.
    for (batch, tokens, heads, head_dim) in
        [(2, 1, 2, 4), (2, 63, 2, 4), (1, 64, 3, 8), (2, 65, 1, 20), (1, 32, 5, 4), (4, 16, 12, 32)]
    {
        add(false, batch, tokens, heads, head_dim);
    }
    // More chunks than a workgroup has invocations.
    add(false, 8, 97, 2, 4);
}

pub(super) fn time(timed: &mut TimedCases<'_>) {
    let (tokens, heads) = (TOKENS, timed.model.heads);
    let batch = timed.batch.min(BATCH);
    let shape = Shape { batch, tokens, heads, head_dim: timed.model.dim / heads, eps: 1e-5 };
    for (name, record) in STORED.into_iter().chain(OF_MAPS) {
        timed.add(name, move |run| record(run, shape));
    }
}
