//! More tests of l2norm.

use crate::common::alone;
use crate::common::differences::{check_gradient, coarse};
use crate::common::random::normal;
use crate::common::recordings::judged;
use lat_wgpu::cases::LANES;
use lat_wgpu::cases::l2norm::forward;
use lat_wgpu::reference::l2norm::{gradient, part};

#[test]
fn an_image_does_not_depend_on_its_neighbours() {
    for lanes in LANES {
        alone(&normal(4, 5 * 14 * 96), 5, |x| judged("l2norm", |run| forward(run, x, 14, 96, lanes)));
    }
}

#[test]
fn reference_gradient_matches_finite_differences() {
    let (x, dy) = (coarse(1, 9), coarse(2, 9));
    let found: Vec<f64> = gradient(&x, &dy, &[0.0; 9], 3).iter().map(|v| v.value).collect();
    check_gradient("l2norm dx", &x, &found, |x| {
        part(x, 3).iter().zip(&dy).map(|(y, &dy)| y.value * f64::from(dy)).sum()
    });
}
