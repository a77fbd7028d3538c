//! `lat-wgpu selftest`: compares every kernel, in every variant that the adapter supports, with the f64 reference.
//!
//! A row is a quick case of [`crate::cases`].

use crate::cases::run::Found;
use crate::cases::{self, Case};
use crate::error::{Error, Result};
use crate::gpu::{AdapterSummary, Context, Precision, Storage};
use crate::observer::Observer;
use serde::Serialize;
use std::fmt::Write;

/// The results of a run.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Version of this program.
    pub version: &'static str,
    /// The tested adapter.
    pub adapter: Adapter,
    /// The adapter's limits.
    pub limits: Limits,
    /// One row per kernel, variant and shape.
    pub rows: Vec<CaseOutcome>,
    /// Number of rows that passed.
    pub passed: usize,
    /// Number of rows that failed.
    pub failed: usize,
}

/// The tested adapter.
#[derive(Debug, Clone, Serialize)]
pub struct Adapter {
    /// Name, as the driver reports it.
    pub name: String,
    /// "vulkan", "metal" or "dx12".
    pub backend: String,
    /// Kind of adapter, such as "discrete GPU".
    pub kind: &'static str,
    /// Driver name and version.
    pub driver: String,
    /// Optional features that the engine can use.
    pub features: Vec<&'static str>,
    /// Invocations of the smallest subgroup.
    pub subgroup_min: u32,
    /// Invocations of the largest subgroup.
    pub subgroup_max: u32,
    /// Kernel family.
    pub kernels: String,
}

/// Limits of an adapter.
#[derive(Debug, Clone, Serialize)]
pub struct Limits {
    /// Bytes of the largest buffer.
    pub max_buffer_bytes: u64,
    /// Bytes of the largest storage binding.
    pub max_binding_bytes: u64,
    /// Most storage buffers of a kernel.
    pub max_storage_buffers: u32,
    /// Bytes of workgroup memory.
    pub max_workgroup_bytes: u32,
    /// Most invocations of a workgroup.
    pub max_invocations: u32,
}

/// The result of a kernel in one variant on one shape.
#[derive(Debug, Clone, Serialize)]
pub struct CaseOutcome {
    /// Name of the kernel's WGSL file.
    pub kernel: &'static str,
    /// Entry point, tile or family, switches and storage.
    pub variant: String,
    /// Shape.
    pub shape: String,
    /// Error of the worst value as a fraction of its tolerance; `None` if the kernel didn't run or a value isn't
    /// finite.
    pub tolerance_used: Option<f64>,
    /// Time of one replay without compilation, in milliseconds; `None` if the kernel didn't run.
    pub milliseconds: Option<f64>,
    /// True if all values are within their tolerance.
    pub passed: bool,
    /// Description of the failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl CaseOutcome {
    /// Returns kernel, variant and shape.
    pub fn name(&self) -> String {
        format!("{} {} {}", self.kernel, self.variant, self.shape)
    }
}

/// Options to select rows.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options<'a> {
    /// Only rows whose name contains this.
    pub filter: &'a str,
    /// Only rows with activations in this precision; `None`: all.
    pub precision: Option<Precision>,
    /// Only the first shape of each kernel, direction and storage.
    pub quick: bool,
}

impl Options<'_> {
    /// Returns the selected cases, in order.
    fn choose(&self, mut cases: Vec<Case>) -> Vec<Case> {
        let is_f16 = self.precision.map(|precision| precision == Precision::F16);
        cases.retain(|case| is_f16.is_none_or(|is_f16| is_f16 == (case.storage != Storage::F32)));
        cases.retain(|case| case.name().contains(self.filter));
        if self.quick {
            let mut seen = Vec::new();
            cases.retain(|case| {
                let direction = case.variant.split(' ').next().unwrap_or_default().to_string();
                let one = (case.kernel, direction, case.storage);
                let new = !seen.contains(&one);
                if new {
                    seen.push(one);
                }
                new
            });
        }
        cases
    }
}

/// Tests the rows that `options` select.
///
/// # Errors
/// [`Error::NothingToDo`] if no row is selected; [`Error::Interrupted`] after a signal. An error of the adapter fails
/// its row only.
pub fn run(context: &Context, options: Options<'_>, observer: &dyn Observer) -> Result<Report> {
    let filter = options.filter;
    let cases = cases::quick(context);
    let names: Vec<String> = cases.iter().map(Case::name).collect();
    let cases = options.choose(cases);
    if cases.is_empty() {
        return Err(Error::no_row(filter, &names));
    }
    judge(context, &cases, observer)
}

/// Tests `cases`.
///
/// # Errors
/// [`Error::Interrupted`] after a signal.
pub fn judge(context: &Context, cases: &[Case], observer: &dyn Observer) -> Result<Report> {
    let mut rows = Vec::with_capacity(cases.len());
    for (done, case) in cases.iter().enumerate() {
        observer.progress(&case.name(), done, cases.len());
        observer.check("nothing was written")?;
        rows.push(test(context, case));
    }
    let passed = rows.iter().filter(|row| row.passed).count();
    let AdapterSummary { name, backend, kind, driver, subgroup, features, .. } = context.adapter.clone();
    Ok(Report {
        version: env!("CARGO_PKG_VERSION"),
        adapter: Adapter {
            name,
            backend,
            kind,
            driver,
            features,
            subgroup_min: subgroup.0,
            subgroup_max: subgroup.1,
            kernels: context.family().to_string(),
        },
        limits: Limits {
            max_buffer_bytes: context.adapter.max_buffer,
            max_binding_bytes: context.adapter.max_binding,
            max_storage_buffers: context.adapter.max_storage_buffers,
            max_workgroup_bytes: context.adapter.max_workgroup_bytes,
            max_invocations: context.adapter.max_invocations,
        },
        passed,
        failed: rows.len() - passed,
        rows,
    })
}

fn test(context: &Context, case: &Case) -> CaseOutcome {
    let mut outcome = CaseOutcome {
        kernel: case.kernel,
        variant: case.variant.clone(),
        shape: case.shape.clone(),
        tolerance_used: None,
        milliseconds: None,
        passed: false,
        error: None,
    };
    match case.judge(context) {
        Err(error) => outcome.error = Some(error.to_string()),
        Ok(Found { judged, seconds, .. }) => {
            outcome.milliseconds = Some(1e3 * seconds);
            let most = judged.iter().map(|(used, _)| *used).fold(0.0, f64::max);
            outcome.tolerance_used = most.is_finite().then_some(most);
            outcome.passed = most <= 1.0;
            if !outcome.passed {
                let wrong = judged.into_iter().filter(|(used, _)| *used > 1.0).map(|(_, report)| report);
                outcome.error = Some(wrong.collect::<Vec<_>>().join("; "));
            }
        }
    }
    outcome
}

impl Report {
    /// Returns adapter, rows and their count as a table for the terminal.
    pub fn table(&self) -> String {
        let Adapter { name, backend, kind, driver, features, subgroup_min, subgroup_max, kernels } =
            &self.adapter;
        let Limits {
            max_buffer_bytes,
            max_binding_bytes,
            max_storage_buffers,
            max_workgroup_bytes,
            max_invocations,
        } = self.limits;
        let mut text = format!("lat-wgpu {}\n{name}\n", self.version);
        // Writing to a string doesn't fail.
        let _ = writeln!(text, "    {kind}, {backend}, {driver}");
        let features = if features.is_empty() { "none".to_string() } else { features.join(", ") };
        let _ = writeln!(
            text,
            "    features: {features}; subgroups of {subgroup_min} to {subgroup_max}; kernels: {kernels}"
        );
        let _ = writeln!(
            text,
            "    limits: buffer {} MiB, binding {} MiB, {max_storage_buffers} storage buffers, workgroup {max_workgroup_bytes} bytes and {max_invocations} invocations",
            max_buffer_bytes >> 20,
            max_binding_bytes >> 20,
        );
        let width = |of: fn(&CaseOutcome) -> &str, least: usize| {
            self.rows.iter().map(|row| of(row).chars().count()).max().unwrap_or(0).max(least)
        };
        let kernel = width(|row| row.kernel, 6);
        let variant = width(|row| &row.variant, 7);
        let shape = width(|row| &row.shape, 5);
        let _ = writeln!(
            text,
            "{:<kernel$} {:<variant$} {:<shape$} {:>11} {:>9}",
            "kernel", "variant", "shape", "tolerance", "ms"
        );
        let number = |value: Option<f64>, factor: f64, digits: usize| {
            value.map_or("-".to_string(), |value| format!("{:.digits$}", factor * value))
        };
        for row in &self.rows {
            let _ = writeln!(
                text,
                "{:<kernel$} {:<variant$} {:<shape$} {:>9} % {:>9}  {}",
                row.kernel,
                row.variant,
                row.shape,
                number(row.tolerance_used, 100.0, 1),
                number(row.milliseconds, 1.0, 3),
                if row.passed { "ok" } else { "FAILED" }
            );
            if let Some(error) = &row.error {
                // The JSON has the rest of a long message.
                error.lines().take(8).for_each(|line| {
                    let _ = writeln!(text, "    {line}");
                });
            }
        }
        let _ = writeln!(text, "{} of {} passed", self.passed, self.rows.len());
        text
    }
}
