//! More tests of tokens.

use crate::common::alone;
use crate::common::differences::{check_gradient, coarse};
use crate::common::random::normal;
use crate::common::recordings::judged;
use lat_wgpu::cases::tokens::{Shape, forward, position_gradient};
use lat_wgpu::reference::tokens::{Tokens, gradient};

#[test]
fn an_image_does_not_depend_on_its_neighbours() {
    let shape = Shape { prefix: 2, positioned: 2, count: 7, dim: 28 };
    alone(&normal(5, 4 * 7 * 28), 4, |patches| judged("tokens", |run| forward(run, patches, shape)));
}

#[test]
fn reference_gradients_match_finite_differences() {
    let (batch, prefix, count, dim) = (3, 3, 4, 8);
    let sequence = (prefix + count) * dim;
    let (first, patches) = (coarse(8, prefix * dim), coarse(9, batch * count * dim));
    let dtokens = normal(11, batch * sequence);
    let dprefix: Vec<f64> = (0..prefix * dim).map(|i| gradient(&dtokens, sequence, i).value).collect();
    for positioned in [prefix, 1, 0] {
        let shape = Shape { prefix, positioned, count, dim };
        let position = coarse(10, (positioned + count) * dim);
        let loss = |prefix: &[f32], position: &[f32]| {
            let tokens = Tokens { prefix, patches: &patches, position, count, dim };
            let at = |i: usize| tokens.at(i / sequence, i % sequence / dim, i % dim).value;
            dtokens.iter().enumerate().map(|(i, &g)| f64::from(g) * at(i)).sum()
        };
        let dposition = position_gradient(&dtokens, shape);
        let dposition: Vec<f64> = dposition.iter().map(|g| g.value).collect();
        let case = format!("tokens, {positioned} of {prefix} positioned");
        check_gradient(&format!("{case}: dposition"), &position, &dposition, |position| {
            loss(&first, position)
        });
        check_gradient(&format!("{case}: dprefix"), &first, &dprefix, |first| loss(first, &position));
    }
}
