//! More tests of part_linear: samples on their own, and finite differences of the reference.

use crate::common::differences::{check_gradient, coarse};
use crate::common::random::normal;
use crate::common::recordings::judged;
use crate::common::{assert_same_bits, context};
use lat_wgpu::cases::part_linear::{exact, layer};
use lat_wgpu::kernels::part_linear::{Layout, Shape};
use lat_wgpu::reference::Exact;
use lat_wgpu::reference::part_linear::PartLinear;

#[test]
fn a_sample_does_not_depend_on_its_neighbours() {
    let shape = Shape { batch: 5, parts: 3, inputs: 20, outputs: 70, layout: Layout::SampleFirst };
    let (x, dy) = (normal(1, 5 * 60), normal(4, 5 * 210));
    for tile in shape.menu(context().family()) {
        let run = |x: &[f32], dy: &[f32], batch| {
            let shape = Shape { batch, ..shape };
            judged("part_linear", |run| layer(run, [&|| x.into(), &|| dy.into()], shape, tile))
        };
        let all = run(&x, &dy, 5);
        for b in 0..5 {
            let dy: Vec<f32> = (0..3).flat_map(|r| dy[(r * 5 + b) * 70..][..70].to_vec()).collect();
            let alone = run(&x[b * 60..][..60], &dy, 1);
            for r in 0..3 {
                let of_all = &all[0][(r * 5 + b) * 70..][..70];
                assert_same_bits(&format!("y of {b}, {tile:?}"), of_all, &alone[0][r * 70..][..70]);
            }
            assert_same_bits(&format!("dx of {b}, {tile:?}"), &all[1][b * 60..][..60], &alone[1]);
        }
    }
}

#[test]
fn reference_gradients_match_finite_differences() {
    let (x, weight, bias, dy) = (coarse(1, 30), coarse(2, 40), coarse(3, 8), coarse(4, 24));
    for layout in [Layout::SampleFirst, Layout::PartFirst] {
        let exact = exact([&x, &weight, &bias], Shape { batch: 3, parts: 2, inputs: 5, outputs: 4, layout });
        let values = |all: Vec<Exact>| all.iter().map(|v| v.value).collect::<Vec<_>>();
        let loss = |layer: PartLinear<'_>| -> f64 {
            layer.forward().iter().zip(&dy).map(|(y, &dy)| y.value * f64::from(dy)).sum()
        };
        let (dweight, dbias) = exact.backward_weight(&dy);
        check_gradient("part_linear dx", &x, &values(exact.backward_input(&dy)), |x| {
            loss(PartLinear { x, ..exact })
        });
        check_gradient("part_linear dweight", &weight, &values(dweight), |weight| {
            loss(PartLinear { weight, ..exact })
        });
        check_gradient("part_linear dbias", &bias, &values(dbias), |bias| loss(PartLinear { bias, ..exact }));
    }
}
