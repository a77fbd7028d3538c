//! Finite differences of reattention's reference.

use crate::common::differences::{check_gradient, coarse};
use crate::common::random::normal;
use lat_wgpu::reference::Exact;
use lat_wgpu::reference::reattention::{Norm, ReAttention};

const BATCH: usize = 2;
const SHAPE: ReAttention = ReAttention { tokens: 5, heads: 3, head_dim: 4, eps: 1e-5 };

fn values(exact: &[Exact]) -> Vec<f64> {
    exact.iter().map(|exact| exact.value).collect()
}

/// Queries, keys and values; theta; weight and bias of the norm.
type Inputs = [Vec<f64>; 4];

/// Attention maps, mixed maps and norms of a forward pass with the statistics of the batch.
fn forward([qkv, theta, weight, bias]: &Inputs) -> (Vec<f64>, Vec<f64>, Vec<Norm>) {
    let maps = values(&SHAPE.softmax(qkv));
    let mixed = values(&SHAPE.mix(&maps, theta));
    let [means, variances] = SHAPE.moments(&mixed).map(|moments| values(&moments));
    let norm = |h: usize| Norm { mean: means[h], var: variances[h], weight: weight[h], bias: bias[h] };
    (maps, mixed, (0..SHAPE.heads).map(norm).collect())
}

#[test]
fn reference_gradients_match_finite_differences() {
    let ReAttention { tokens, heads, head_dim, .. } = SHAPE;
    let out_len = BATCH * tokens * heads * head_dim;
    let singles: [Vec<f32>; 4] =
        [coarse(1, 3 * out_len), coarse(2, heads * heads), coarse(3, heads), coarse(4, heads)];
    let wide = |x: &[f32]| x.iter().map(|&v| f64::from(v)).collect::<Vec<f64>>();
    let inputs: Inputs = singles.each_ref().map(|x| wide(x));
    let dout = wide(&normal(6, out_len));

    let [qkv, theta, ..] = &inputs;
    let (maps, mixed, norms) = forward(&inputs);
    let dp = values(&SHAPE.map_gradient(qkv, &dout));
    let [dweight, dbias] = SHAPE.norm_gradient(&dp, &mixed, &norms).map(|gradient| values(&gradient));
    let dm = values(&SHAPE.mix_gradient(&dp, &mixed, &norms, [&dweight, &dbias]));
    let dtheta = values(&SHAPE.theta_gradient(&dm, &maps));
    let da = values(&SHAPE.head_gradient(&dm, theta));
    let ds = values(&SHAPE.score_gradient(&da, &maps));
    let dqkv = values(&SHAPE.backward(qkv, &mixed, &norms, &ds, &dout));

    // The norm subtracts a bias of the mixed maps, so it would have no gradient.
    for head in dm.chunks(tokens * tokens).enumerate().fold(vec![0.0; heads], |mut sums, (map, dm)| {
        sums[map % heads] += dm.iter().sum::<f64>();
        sums
    }) {
        assert!(head.abs() < 1e-10, "{head}");
    }
    for (place, name, gradient) in
        [(0, "dqkv", dqkv), (1, "dtheta", dtheta), (2, "dweight", dweight), (3, "dbias", dbias)]
    {
        check_gradient(&format!("reattention: {name}"), &singles[place], &gradient, |x| {
            let mut moved = inputs.clone();
            moved[place] = wide(x);
            let (_, mixed, norms) = forward(&moved);
            let out = values(&SHAPE.context(&moved[0], &mixed, &norms));
            out.iter().zip(&dout).map(|(o, g)| o * g).sum()
        });
    }
}
