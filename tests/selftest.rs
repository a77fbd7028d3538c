//! `lat-wgpu selftest`: it covers every variant, finds faults, and prints and writes its results.

mod common;
#[path = "common/program.rs"]
mod program;

use common::context;
use lat_wgpu::cases::run::{Purpose, Run};
use lat_wgpu::cases::{self, Case, tolerance};
use lat_wgpu::entry_points;
use lat_wgpu::gpu::{Constants, Family, Kernel, Precision, ShaderFile, Storage};
use lat_wgpu::kernels;
use lat_wgpu::kernels::accumulate::Accumulate;
use lat_wgpu::reference::Exact;
use lat_wgpu::selftest::{Options, Report, judge, run};
use program::{expect, finish, program};
use serde_json::Value;
use std::collections::BTreeSet;

/// The key of a variant.
fn key(kernel: &Kernel, constants: &Constants, storage: Storage) -> String {
    let constants: Vec<_> =
        constants.iter().filter(|(name, _)| !["HEAD_DIM", "CHUNK"].contains(name)).collect();
    format!("{} {} {constants:?} {storage:?}", kernel.file.name, kernel.entry)
}

#[test]
fn every_variant_of_the_adapter_has_a_row() {
    let mut covered = BTreeSet::new();
    for case in cases::quick(context()) {
        let mut run = Run::new(context(), case.storage, Purpose::Time);
        case.record(&mut run);
        for dispatch in run.recorder.list().unwrap().dispatches {
            covered.insert(key(&dispatch.kernel, &dispatch.constants, dispatch.storage()));
        }
    }
    let offered = |kernel: &Kernel, constants: &Constants, storage| {
        let lanes = constants.iter().find(|(name, _)| *name == "SUB").map(|(_, lanes)| *lanes);
        let fits = !kernel.file.subgroups
            || lanes.is_some_and(|lanes| context().family() == Family::Subgroup(lanes));
        fits && context().supports(storage)
    };
    let all = kernels::variants()
        .into_iter()
        .filter(|(kernel, constants, storage)| offered(kernel, constants, *storage));
    let missing: BTreeSet<_> = all
        .map(|(kernel, constants, storage)| key(&kernel, &constants, storage))
        .filter(|variant| !covered.contains(variant))
        .collect();
    assert!(missing.is_empty(), "no row for {missing:#?}");
}

#[test]
fn names_of_rows_are_unique() {
    let names: Vec<_> = cases::quick(context()).iter().map(Case::name).collect();
    let distinct: BTreeSet<_> = names.iter().collect();
    assert_eq!(distinct.len(), names.len());
}

fn sum(addend: f32, wanted: Exact) -> Case {
    Case::new("accumulate", format!("{addend}"), "1", Storage::F32, move |run| {
        let (addend, sum) =
            (run.operand("addend", vec![addend]).tensor, run.updated("sum", vec![1.0]).tensor);
        Accumulate { addend, sum }.record(&mut run.recorder, "sum");
        run.all("sum", sum, tolerance::ACCUMULATE, || [wanted]);
    })
}

entry_points! {
    struct Place in 16 bytes { place: u32 }
    fn copy(x: read, y: write);
}

/// A case that copies one word with the given WGSL.
fn copied(name: &'static str, source: &'static str, wanted: u32) -> Case {
    // Pipelines are cached by the name of their file.
    let file: &'static ShaderFile = Box::leak(Box::new(ShaderFile::new(name, source)));
    Case::new(name, "word", "1", Storage::F32, move |run| {
        let (x, y) = (run.words("x", &[7]), run.output("y", 1));
        file.launch(Place { place: 0 }, copy { x, y }).record(&mut run.recorder, "copy", 0.0);
        run.same("y", y, || [(0, wanted)]);
    })
}

const COPY: &str = "
@group(0) @binding(0) var<uniform> params: vec4u;
@group(0) @binding(1) var<storage, read> x: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<u32>;
@compute @workgroup_size(1) fn copy() { y[params.x] = x[0]; }
";

fn judged(cases: &[Case]) -> Report {
    judge(context(), cases, &()).unwrap()
}

#[test]
fn faults_fail_and_later_cases_still_run() {
    const UNWRITTEN: &str = "
@group(0) @binding(0) var<uniform> params: vec4u;
@group(0) @binding(1) var<storage, read> x: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<u32>;
@compute @workgroup_size(1) fn copy() { y[params.x + 1u] = x[0]; }
";
    let report = judged(&[
        sum(2.0, Exact { value: 3.0, scale: 3.0 }),
        sum(2.5, Exact { value: 3.6, scale: 3.5 }),
        sum(f32::NAN, Exact { value: 3.0, scale: 3.0 }),
        copied("good", COPY, 7),
        copied("other", COPY, 8),
        copied("unwritten", UNWRITTEN, 7),
        copied("none", "no shader at all", 7),
        sum(3.0, Exact { value: 4.0, scale: 4.0 }),
    ]);
    let passed: Vec<bool> = report.rows.iter().map(|row| row.passed).collect();
    assert_eq!(passed, [true, false, false, true, false, false, false, true]);
    assert_eq!((report.passed, report.failed), (3, 5));
    let error = |i: usize| report.rows[i].error.as_deref().unwrap();
    assert!(error(1).starts_with("sum: ") && error(1).contains("of tolerance at [0]"), "{}", error(1));
    assert!(report.rows[1].tolerance_used.unwrap() > 1.0);
    assert_eq!(report.rows[2].tolerance_used, None);
    assert_eq!(error(4), "y: word 0 is 0x00000007, not 0x00000008");
    assert!(error(5).contains("y was written past its end"), "{}", error(5));
    assert!(error(6).contains("the adapter failed"), "{}", error(6));

    let table = report.table();
    assert_eq!(table.lines().filter(|line| line.ends_with("FAILED")).count(), 5, "{table}");
    assert_eq!(table.lines().filter(|line| line.ends_with(" ok")).count(), 3, "{table}");
    assert_eq!(table.lines().last(), Some("3 of 8 passed"));
    assert!(table.starts_with(concat!("lat-wgpu ", env!("CARGO_PKG_VERSION"), "\n")), "{table}");
    assert!(table.contains(&context().adapter.name) && table.contains(&context().adapter.driver), "{table}");
}

#[test]
fn table_and_json_agree() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("selftest.json");
    let run = |more: &[&str]| {
        let mut command = program(folder.path(), &["selftest", "--match", "accumulate"]);
        finish(0, command.args(more)).0
    };
    let table = run(&["--json", file.to_str().unwrap()]);
    assert_eq!(table.lines().last(), Some("3 of 3 passed"), "{table}");

    let report: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&report), ["adapter", "failed", "limits", "passed", "rows", "version"]);
    assert_eq!(
        keys(&report["adapter"]),
        ["backend", "driver", "features", "kernels", "kind", "name", "subgroup_max", "subgroup_min"]
    );
    assert_eq!(
        keys(&report["limits"]),
        [
            "max_binding_bytes",
            "max_buffer_bytes",
            "max_invocations",
            "max_storage_buffers",
            "max_workgroup_bytes"
        ]
    );
    assert_eq!(report["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!((report["passed"].as_u64(), report["failed"].as_u64()), (Some(3), Some(0)));
    for row in report["rows"].as_array().unwrap() {
        assert_eq!(keys(row), ["kernel", "milliseconds", "passed", "shape", "tolerance_used", "variant"]);
        assert_eq!((row["kernel"].as_str(), row["passed"].as_bool()), (Some("accumulate"), Some(true)));
        assert!((0.0..=1.0).contains(&row["tolerance_used"].as_f64().unwrap()), "{row}");
        assert!(row["milliseconds"].as_f64().unwrap() > 0.0, "{row}");
    }
    // stdout takes either the table or JSON.
    assert!(serde_json::from_str::<Value>(&run(&["--json", "-"])).is_ok());
}

#[test]
fn precisions_split_the_rows_and_quick_takes_the_first_of_each() {
    let names = |options: Options<'_>| {
        let report = run(context(), options, &()).unwrap();
        report.rows.into_iter().map(|row| row.name()).collect::<Vec<_>>()
    };
    let filter = "tokens ";
    let all = names(Options { filter, ..Options::default() });
    let [single, halves] = [Precision::F32, Precision::F16]
        .map(|precision| names(Options { filter, precision: Some(precision), quick: false }));
    assert!(single.iter().all(|name| name.contains(" f32 ")), "{single:?}");
    assert!(!halves.is_empty() && halves.iter().all(|name| !name.contains(" f32 ")), "{halves:?}");
    let mut both = [single, halves].concat();
    both.sort();
    let mut sorted = all.clone();
    sorted.sort();
    assert_eq!(both, sorted);

    let quick = names(Options { filter, quick: true, ..Options::default() });
    let first = |direction: &str, stored: &str| {
        all.iter().find(|name| name.contains(&format!("{direction} {stored} "))).cloned()
    };
    for direction in ["tokens forward", "tokens backward"] {
        assert!(quick.contains(&first(direction, "f32").unwrap()), "{quick:?}");
        assert_eq!(
            quick.iter().filter(|name| name.starts_with(direction)).count(),
            1 + usize::from(context().supports(Storage::F16)) + 1
        );
    }
}

#[test]
fn an_empty_filter_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    let (_, stderr) = expect(1, folder.path(), &["selftest", "--match", "no such row"]);
    assert!(stderr.contains("no row's name contains"), "{stderr}");
}
