//! More tests of layernorm: results that must have the same bits, and finite differences of the reference.

use crate::common::differences::{check_gradient, coarse};
use crate::common::random::{drawn, normal};
use crate::common::recordings::{judged, outputs};
use crate::common::{alone, assert_same_bits, context};
use lat_wgpu::cases::LANES;
use lat_wgpu::cases::layernorm::{backward_parameters, forward};
use lat_wgpu::reference::Exact;
use lat_wgpu::reference::layernorm as reference;

#[test]
fn a_row_does_not_depend_on_its_neighbours() {
    for lanes in LANES {
        alone(&normal(7, 9 * 100), 9, |x| {
            judged("layernorm", |run| forward(run, x, 100, 1e-6, false, lanes))
        });
    }
}

#[test]
fn the_adapter_uses_a_tested_number_of_lanes() {
    assert!(LANES.contains(&context().row_lanes()));
}

#[test]
fn reference_gradients_match_finite_differences() {
    let (rows, dim, eps) = (3, 12, 1e-2);
    let (x, weight, bias) = (coarse(12, rows * dim), coarse(13, dim), coarse(14, dim));
    let (dy, addend) = (normal(15, rows * dim), normal(16, rows * dim));
    let loss = |x: &[f32], weight: &[f32], bias: &[f32]| -> f64 {
        let y = x.chunks(dim).flat_map(|row| reference::row(row, weight, bias, eps));
        let through = y.zip(&dy).map(|(y, &dy)| y.value * f64::from(dy)).sum::<f64>();
        through + x.iter().zip(&addend).map(|(&x, &a)| f64::from(x) * f64::from(a)).sum::<f64>()
    };
    let exact = reference::gradients(&x, &weight, eps, &dy, Some(&addend));
    let values = |exact: &[Exact]| exact.iter().map(|g| g.value).collect::<Vec<f64>>();
    check_gradient("layernorm: dx", &x, &values(&exact.dx), |x| loss(x, &weight, &bias));
    check_gradient("layernorm: dweight", &weight, &values(&exact.dweight), |weight| loss(&x, weight, &bias));
    check_gradient("layernorm: dbias", &bias, &values(&exact.dbias), |bias| loss(&x, &weight, bias));
}

#[test]
fn parameter_gradients_do_not_depend_on_lanes_or_a_second_norm() {
    // Several chunks, and a number of columns that is not a multiple of a workgroup.
    for rows in [37, 100] {
        let gradients = |streams: &[u64], lanes| {
            let norm = |&stream: &u64| [stream, stream + 1].map(|stream| drawn(stream, rows * 52));
            outputs("layernorm parameters", |run| {
                backward_parameters(run, streams.iter().map(norm).collect(), 52, lanes)
            })
        };
        let alone = [gradients(&[22], LANES[0]), gradients(&[24], LANES[0])].concat();
        for lanes in LANES {
            for (i, (wanted, found)) in alone.iter().zip(gradients(&[22, 24], lanes)).enumerate() {
                assert_same_bits(&format!("gradient {i} of two, {lanes} lanes"), wanted, &found);
            }
            assert_same_bits("dweight alone", &alone[0], &gradients(&[22], lanes)[0]);
            assert_same_bits("dbias alone", &alone[1], &gradients(&[22], lanes)[1]);
        }
    }
}
