//! part_linear in all its files and both layouts against the reference, whose gradients finite differences prove.

use crate::common::compare::compare;
use crate::common::differences::{coarse, prove};
use crate::common::guard::Guarded;
use crate::common::random::normal;
use crate::common::{assert_same_bits, context, tolerance};
use lat_wgpu::kernels::part_linear::{BackwardInput, BackwardWeight, Forward, Layout, Shape, Tile};
use lat_wgpu::reference::part_linear::PartLinear;

const LAYOUTS: [Layout; 2] = [Layout::SampleFirst, Layout::PartFirst];

/// The operands of a layer and the gradient of its outputs.
struct Case {
    shape: Shape,
    x: Vec<f32>,
    weight: Vec<f32>,
    bias: Vec<f32>,
    dy: Vec<f32>,
}

impl Case {
    fn new(shape: Shape, fill: impl Fn(u64, usize) -> Vec<f32>) -> Case {
        let Shape { batch, parts, inputs, outputs, .. } = shape;
        Case {
            shape,
            x: fill(1, parts * batch * inputs),
            weight: fill(2, parts * outputs * inputs),
            bias: fill(3, parts * outputs),
            dy: fill(4, parts * batch * outputs),
        }
    }

    fn exact(&self) -> PartLinear<'_> {
        let Shape { batch, parts, inputs, outputs, .. } = self.shape;
        PartLinear {
            x: &self.x,
            weight: &self.weight,
            bias: &self.bias,
            batch,
            parts,
            inputs,
            outputs,
            strides: self.shape.strides(),
        }
    }

    /// y, dx, dweight and dbias.
    fn run(&self, tile: Tile) -> Vec<Vec<f32>> {
        let shape = self.shape;
        let mut run = Guarded::new(&format!("part_linear {shape:?} {tile:?}"));
        let x = run.input("x", &self.x);
        let weight = run.input("weight", &self.weight);
        let bias = run.input("bias", &self.bias);
        let dy = run.input("dy", &self.dy);
        let y = run.output("y", self.dy.len());
        let dx = run.output("dx", self.x.len());
        let dweight = run.output("dweight", self.weight.len());
        let dbias = run.output("dbias", self.bias.len());
        Forward { x, weight, bias, y, shape }.record_with(&mut run.recorder, "forward", tile);
        BackwardInput { weight, dy, dx, shape }.record_with(&mut run.recorder, "input", tile);
        BackwardWeight { x, dy, dweight, dbias, shape }.record_with(&mut run.recorder, "weight", tile);
        run.run()
    }
}

fn check(batch: usize, parts: usize, inputs: usize, outputs: usize) {
    for layout in LAYOUTS {
        let shape = Shape { batch, parts, inputs, outputs, layout };
        let case = Case::new(shape, normal);
        let exact = case.exact();
        let (dweight, dbias) = exact.backward_weight(&case.dy);
        let wanted = [
            ("y", exact.forward(), inputs),
            ("dx", exact.backward_input(&case.dy), outputs),
            ("dweight", dweight, batch),
            ("dbias", dbias, batch),
        ];
        let found = case.run(Tile::Plain);
        for ((name, wanted, terms), found) in wanted.into_iter().zip(&found) {
            let name = format!("part_linear {name} {batch}x{parts}x{inputs} to {outputs} {layout:?}");
            compare(&name, found, wanted.into_iter().enumerate(), tolerance::gemm(terms));
        }
        for tile in shape.menu(context().family()).into_iter().skip(1) {
            for (plain, other) in found.iter().zip(case.run(tile)) {
                assert_same_bits(&format!("part_linear {shape:?}: plain and {tile:?}"), plain, &other);
            }
        }
    }
}

#[test]
fn one_primes_and_around_every_tile() {
    for (inputs, outputs) in [(1, 1), (3, 7), (4, 1), (5, 63), (8, 65), (12, 61), (60, 4), (68, 5)] {
        for batch in [1, 3, 4, 5] {
            check(batch, 2, inputs, outputs);
        }
    }
    // Around the rows of a workgroup of the subgroup kernels: samples, then outputs.
    for (batch, outputs) in [(31, 9), (32, 31), (33, 33)] {
        check(batch, 2, 36, outputs);
    }
    // Around the 256 inputs that a workgroup of the wide backward kernels holds.
    for inputs in [252, 256, 260] {
        check(3, 1, inputs, 9);
    }
}

#[test]
fn shapes_of_a_part_classifier() {
    check(6, 14, 384, 256);
    check(6, 3, 256, 751);
}

#[test]
fn a_sample_does_not_depend_on_its_neighbours() {
    let shape = Shape { batch: 5, parts: 3, inputs: 20, outputs: 70, layout: Layout::SampleFirst };
    let case = Case::new(shape, normal);
    for tile in shape.menu(context().family()) {
        let all = case.run(tile);
        for b in 0..5 {
            let x = case.x[b * 60..][..60].to_vec();
            let alone = Case {
                shape: Shape { batch: 1, ..shape },
                x,
                weight: case.weight.clone(),
                bias: case.bias.clone(),
                dy: (0..3).flat_map(|r| case.dy[(r * 5 + b) * 70..][..70].to_vec()).collect(),
            };
            let alone = alone.run(tile);
            for r in 0..3 {
                let of_all = &all[0][(r * 5 + b) * 70..][..70];
                assert_same_bits(&format!("y of {b}, {tile:?}"), of_all, &alone[0][r * 70..][..70]);
            }
            assert_same_bits(&format!("dx of {b}, {tile:?}"), &all[1][b * 60..][..60], &alone[1]);
        }
    }
}

#[test]
fn the_reference_gradients_are_difference_quotients() {
    for layout in LAYOUTS {
        let case = Case::new(Shape { batch: 3, parts: 2, inputs: 5, outputs: 4, layout }, coarse);
        let exact = case.exact();
        let values = |all: Vec<lat_wgpu::reference::Exact>| all.iter().map(|v| v.value).collect::<Vec<_>>();
        let loss = |layer: PartLinear<'_>| -> f64 {
            layer.forward().iter().zip(&case.dy).map(|(y, &dy)| y.value * f64::from(dy)).sum()
        };
        let (dweight, dbias) = exact.backward_weight(&case.dy);
        prove("part_linear dx", &case.x, &values(exact.backward_input(&case.dy)), |x| {
            loss(PartLinear { x, ..exact })
        });
        prove("part_linear dweight", &case.weight, &values(dweight), |weight| {
            loss(PartLinear { weight, ..exact })
        });
        prove("part_linear dbias", &case.bias, &values(dbias), |bias| loss(PartLinear { bias, ..exact }));
    }
}
