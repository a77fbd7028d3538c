//! More tests of average: a step that changes nothing, and a folded grid.

use crate::common::assert_same_bits;
use crate::common::random::normal;
use crate::common::recordings::outputs;
use lat_wgpu::cases::average::step;

/// The averages after a step.
fn run(averages: &Vec<f32>, weights: &Vec<f32>, counted: bool) -> Vec<f32> {
    outputs("average", |run| step(run, averages, weights, 0.75, counted)).remove(0)
}

#[test]
fn a_step_that_does_not_count_changes_nothing() {
    let (averages, mut weights) = (normal(1, 517), normal(2, 517));
    weights[7] = f32::NAN;
    assert_same_bits("a step that doesn't count", &run(&averages, &weights, false), &averages);
}

#[test]
fn the_average_of_equal_weights_stays() {
    let weights = normal(1, 517);
    assert_same_bits("equal weights", &run(&weights, &weights, true), &weights);
}

#[test]
fn more_weights_than_one_row_of_workgroups_holds() {
    // 65,535 workgroups of 64, and one more weight: the grid folds into a second dimension.
    let len = 65_535 * 64 + 1;
    let found = run(&vec![1.0; len], &vec![5.0; len], true);
    assert!(found.iter().all(|average| *average == 2.0));
}
