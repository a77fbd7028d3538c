//! More tests of l2norm.

use crate::common::alone;
use crate::common::random::normal;
use crate::common::recordings::judged;
use lat_wgpu::cases::LANES;
use lat_wgpu::cases::l2norm::forward;

#[test]
fn an_image_does_not_depend_on_its_neighbours() {
    for lanes in LANES {
        alone(&normal(4, 5 * 14 * 96), 5, |x| judged("l2norm", |run| forward(run, x, 14, 96, lanes)));
    }
}
