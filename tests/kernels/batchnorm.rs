//! More tests of batchnorm: dropout, NaN, and finite differences of the reference.

use crate::common::alone;
use crate::common::differences::{check_gradient, coarse};
use crate::common::random::{drawn, normal};
use crate::common::recordings::{judged, outputs};
use lat_wgpu::cases::batchnorm::{PLACE, away_from_kinks, evaluate, exact, layer, operands, train};
use lat_wgpu::cases::run::Run;
use lat_wgpu::kernels::batchnorm::Layer;
use lat_wgpu::kernels::part_linear::Layout;
use lat_wgpu::reference::Exact;
use lat_wgpu::reference::batchnorm::BatchNorm;

fn x(layer: Layer) -> Vec<f32> {
    normal(1, layer.parts * layer.batch * layer.dim)
}

/// y in training.
fn trained(x: &[f32], layer: Layer, place: u32) -> Vec<f32> {
    let record = |run: &mut Run<'static>| {
        let operands = operands(run, x, layer);
        train(run, &operands, layer, place);
    };
    outputs("batchnorm", record).remove(0)
}

#[test]
fn a_unit_of_equal_samples_is_its_bias() {
    let layer = layer(3, 2, 2);
    let y = trained(&[2.5; 12], layer, PLACE);
    for (unit, bias) in drawn(3, 4).make().into_iter().enumerate() {
        assert_eq!(y[unit / 2 * 6 + unit % 2], bias);
    }
}

#[test]
fn dropped_outputs_are_those_of_the_reference() {
    let layer = layer(9, 3, 70);
    let dropping = Layer { drop: 0.5, ..layer };
    let (x, weight, bias) = (x(layer), normal(2, 210), normal(3, 210));
    let y = trained(&x, dropping, PLACE);
    for (i, (found, wanted)) in y.iter().zip(exact([&x, &weight, &bias], dropping, PLACE).train()).enumerate()
    {
        assert_eq!(*found == 0.0, wanted.value == 0.0, "at {i}");
    }
    let share = y.iter().filter(|y| **y == 0.0).count() as f64 / y.len() as f64;
    assert!((share - 0.5).abs() < 0.03, "{share} dropped");
    // With a probability of 0 nothing is dropped.
    for (dropped, y) in y.iter().zip(trained(&x, layer, PLACE)) {
        assert!(*dropped == 0.0 || *dropped == 2.0 * y);
    }
}

#[test]
fn a_mask_belongs_to_a_position_in_the_epoch() {
    // The same samples, as the end of one batch and as the start of another.
    let layer = Layer { drop: 0.5, ..layer(4, 2, 33) };
    let [early, late] = [PLACE, PLACE + 2].map(|place| trained(&x(layer), layer, place));
    let dropped = |y: &[f32], r: usize, b: usize| -> Vec<bool> {
        y[(r * 4 + b) * 33..][..33].iter().map(|y| *y == 0.0).collect()
    };
    for r in 0..2 {
        assert_eq!(dropped(&early, r, 2), dropped(&late, r, 0));
        assert_eq!(dropped(&early, r, 3), dropped(&late, r, 1));
        assert_ne!(dropped(&early, r, 0), dropped(&late, r, 0));
    }
    assert_ne!(dropped(&early, 0, 0), dropped(&early, 1, 0));
}

#[test]
fn a_sample_in_evaluation_does_not_depend_on_its_neighbours() {
    let x = normal(1, 4 * 50);
    let of = |x: &[f32]| layer(x.len() / 50, 1, 50);
    alone(&x, 4, |x| judged("batchnorm evaluate", |run| evaluate(run, x, of(x))));
}

#[test]
fn nan_passes_relu() {
    let layer = Layer { relu: true, ..layer(5, 2, 9) };
    let evaluated = |x: &[f32]| outputs("batchnorm evaluate", |run| evaluate(run, x, layer)).remove(0);
    let clean = x(layer);
    let (of_training, of_evaluation) = (trained(&clean, layer, PLACE), evaluated(&clean));
    // A NaN of either sign in one sample of one unit. In training it affects all samples of the unit.
    const BAD: usize = 5 * 9 + 2 * 9 + 4;
    for bad in [f32::NAN, f32::from_bits(0xffc0_0001)] {
        let mut x = clean.clone();
        x[BAD] = bad;
        let same =
            |spoilt: bool, found: f32, clean: f32| if spoilt { found.is_nan() } else { found == clean };
        for (i, (found, clean)) in trained(&x, layer, PLACE).into_iter().zip(&of_training).enumerate() {
            assert!(same((i / 45, i % 9) == (1, 4), found, *clean), "training: {found} at {i}");
        }
        for (i, (found, clean)) in evaluated(&x).into_iter().zip(&of_evaluation).enumerate() {
            assert!(same(i == BAD, found, *clean), "evaluation: {found} at {i}");
        }
    }
}

#[test]
fn reference_gradients_match_finite_differences() {
    let (x, weight, bias) = (coarse(1, 30), coarse(2, 6), coarse(3, 6));
    for (relu, inputs) in
        [(false, Layout::PartFirst), (true, Layout::PartFirst), (false, Layout::SampleFirst)]
    {
        for drop in [0.0, 0.3] {
            let exact = exact([&x, &weight, &bias], Layer { relu, drop, inputs, ..layer(5, 2, 3) }, PLACE);
            // The steps of the differences must not cross ReLU's kink.
            let dy = away_from_kinks(coarse(4, 30), &exact, 1e-2);
            let gradients = exact.backward(&dy);
            let values = |all: &[Exact]| all.iter().map(|v| v.value).collect::<Vec<_>>();
            let loss = |layer: BatchNorm<'_>| -> f64 {
                layer.train().iter().zip(&dy).map(|(y, &dy)| y.value * f64::from(dy)).sum()
            };
            let name = |of: &str| format!("batchnorm {of} of {inputs:?} relu {relu} drop {drop}");
            check_gradient(&name("dx"), &x, &values(&gradients.dx), |x| loss(BatchNorm { x, ..exact }));
            check_gradient(&name("dweight"), &weight, &values(&gradients.dweight), |weight| {
                loss(BatchNorm { weight, ..exact })
            });
            check_gradient(&name("dbias"), &bias, &values(&gradients.dbias), |bias| {
                loss(BatchNorm { bias, ..exact })
            });
        }
    }
}

#[test]
#[should_panic(expected = "one sample has no variance")]
fn training_with_one_sample_is_refused() {
    trained(&normal(1, 4), layer(1, 1, 4), PLACE);
}
