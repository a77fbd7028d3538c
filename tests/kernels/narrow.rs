//! More tests of narrow, and a comparison of every quick case that accesses quads in f16 with the same case in f32.

use crate::common::compare::compare;
use crate::common::context;
use crate::common::random::normal;
use crate::common::tolerance;
use lat_wgpu::cases::narrow::narrow;
use lat_wgpu::cases::quick;
use lat_wgpu::cases::run::{Purpose, Run};
use lat_wgpu::gpu::{Storage, Tensor};
use lat_wgpu::reference::{Exact, narrow as reference};

/// Storages of this adapter in half precision.
fn f16_storages() -> impl Iterator<Item = Storage> {
    [Storage::F16, Storage::Packed].into_iter().filter(|&storage| context().supports(storage))
}

fn outputs(storage: Storage, record: impl Fn(&mut Run<'static>)) -> Vec<(Tensor, Vec<f32>)> {
    let mut run = Run::new(context(), storage, Purpose::Check);
    // Runs in every storage get the same numbers.
    run.in_f16 = true;
    record(&mut run);
    run.run().unwrap().outputs
}

#[test]
fn values_round_to_a_neighbouring_f16() {
    for len in [4, 12, 252, 256, 260] {
        let values = normal(1, len);
        for storage in f16_storages() {
            let wanted = values.iter().enumerate().map(|(i, &v)| {
                (i, Exact { value: f64::from(v), scale: f64::from(v.abs()).max(2f64.powi(-14)) })
            });
            let found = outputs(storage, |run| narrow(run, &values)).remove(0).1;
            compare(&format!("narrow {len} {storage:?}"), &found, wanted, tolerance::NARROW);
        }
    }
}

#[test]
fn values_beyond_f16_become_infinite() {
    let values = [65504.0, -65504.0, 65505.0, -1e30, f32::INFINITY, f32::NAN, -f32::INFINITY, 1.0];
    for storage in f16_storages() {
        let found = outputs(storage, |run| narrow(run, &values[..])).remove(0).1;
        let infinite: Vec<bool> = found.iter().map(|v| v.is_infinite()).collect();
        assert_eq!(infinite, values.map(|v| reference::to_f16(v).is_infinite()), "{storage:?}: {found:?}");
    }
}

#[test]
fn every_quick_case_in_f16_is_the_rounded_case_in_f32() {
    // The rounding of matrix units depends on the hardware.
    let cases = quick(context());
    for case in cases.iter().filter(|case| case.storage != Storage::F32) {
        if case.kernel == "roof" || case.variant.contains("fragments") {
            continue;
        }
        let (wide, found) =
            (outputs(Storage::F32, |run| case.record(run)), outputs(case.storage, |run| case.record(run)));
        for (i, ((_, wide), (tensor, found))) in wide.iter().zip(&found).enumerate() {
            let other = wide.iter().zip(found).position(|(&wide, &found)| {
                let rounded = reference::to_f16(wide);
                // Adapters may round to either neighbour. Outputs of words must be equal bit for bit.
                let near =
                    (f64::from(found) - rounded).abs() <= rounded.abs().max(2f64.powi(-14)) * 2f64.powi(-10);
                wide.to_bits() != found.to_bits() && (tensor.storage == Storage::F32 || !near)
            });
            assert_eq!(other, None, "{}: output {i} is not f32's, rounded", case.name());
        }
    }
}
