//! Runs recordings and cases on the shared adapter; any fault panics.

use super::context;
use lat_wgpu::cases;
use lat_wgpu::cases::run::{Found, Purpose, Run};
use lat_wgpu::gpu::{Context, Storage};

/// Runs what `record` records, and returns its outputs in order.
///
/// # Panics
/// If an output is not fully written, guard words change, or two runs differ.
#[track_caller]
pub fn outputs(case: &str, record: impl FnOnce(&mut Run<'static>)) -> Vec<Vec<f32>> {
    run(case, Purpose::Check, record)
}

/// The same, comparing each output with the reference and printing the share of the tolerance used.
#[track_caller]
pub fn judged(case: &str, record: impl FnOnce(&mut Run<'static>)) -> Vec<Vec<f32>> {
    run(case, Purpose::Judge, record)
}

#[track_caller]
fn run(case: &str, purpose: Purpose, record: impl FnOnce(&mut Run<'static>)) -> Vec<Vec<f32>> {
    let mut run = Run::new(context(), Storage::F32, purpose);
    record(&mut run);
    let found = run.run().unwrap_or_else(|error| panic!("{case}: {error}"));
    passes(case, &found);
    found.outputs.into_iter().map(|(_, found)| found).collect()
}

/// Prints a line for every comparison, and asserts that it passes.
#[track_caller]
fn passes(case: &str, found: &Found) {
    for (used, report) in &found.judged {
        println!("{case}: {report}");
        assert!(*used <= 1.0, "{case}: {report}");
    }
}

/// Runs the quick cases of a stem, and those for tests only.
pub fn every_case(stem: &str) {
    every_case_in(context(), stem, "");
}

/// The same on another context, of the cases whose name contains `part`.
pub fn every_case_in(context: &Context, stem: &str, part: &str) {
    for case in cases::every(context, stem).filter(|case| case.name().contains(part)) {
        let name = case.name();
        passes(&name, &case.judge(context).unwrap_or_else(|error| panic!("{name}: {error}")));
    }
}
