//! More tests of topk.

use crate::common::recordings::{judged, outputs};
use crate::common::{assert_same_bits, context};
use lat_wgpu::cases::topk::{Shape, nearest, tied};
use lat_wgpu::gpu::Family;
use lat_wgpu::kernels::topk::{FAR, NOBODY};

#[test]
fn values_that_are_no_distance_are_ignored() {
    // Includes a NaN with another sign and payload, and -∞, which would come first.
    let odd = f32::from_bits(0xff80_0001);
    let all = [f32::NAN, 2.0, f32::INFINITY, FAR, 1.0, 2e30, odd, f32::NEG_INFINITY];
    let shape = Shape { queries: 1, gallery: 8, columns: 4 };
    for family in [Family::Tiled, context().family()] {
        let found = outputs("topk", |run| nearest(run, || all.to_vec(), shape, 5, false, family));
        assert_eq!(found[0], [1.0, 2.0, FAR, FAR, FAR]);
        assert_eq!(found[1].iter().map(|i| i.to_bits()).collect::<Vec<_>>(), [4, 1, 3, NOBODY, NOBODY]);
    }
}

#[test]
fn the_order_of_tiles_does_not_matter() {
    let shape = Shape { queries: 4, gallery: 900, columns: 128 };
    for family in [Family::Tiled, context().family()] {
        let [forward, reversed] = [false, true].map(|reversed| {
            judged("topk", |run| nearest(run, || tied(7, 4 * 900, 60), shape, 100, reversed, family)).concat()
        });
        assert_same_bits("tiles reversed", &forward, &reversed);
    }
}
