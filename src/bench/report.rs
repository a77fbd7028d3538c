//! The figures of a run, for JSON and as a table.

use super::samples;
use crate::gpu::{Context, Plan};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// The adapter of a run, and its options.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The adapter's name.
    pub adapter: String,
    /// Driver and version.
    pub driver: String,
    /// Kind of adapter, and its kernel family.
    pub class: String,
    /// Precision of weights and activations.
    pub precision: String,
}

impl Machine {
    /// Describes an opened adapter.
    pub fn of(context: &Context) -> Machine {
        let adapter = &context.adapter;
        Machine {
            adapter: adapter.name.clone(),
            driver: adapter.driver.clone(),
            class: format!("{}, {}", adapter.kind, context.family()),
            precision: format!("{:?}", context.precision()).to_lowercase(),
        }
    }
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Machine { adapter, driver, class, precision } = self;
        write!(f, "{adapter}; {driver}; {class}; {precision}")
    }
}

/// The results of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The adapter and how it was opened.
    #[serde(flatten)]
    pub machine: Machine,
    /// Batch size; 0 in runs of versions that didn't save it and used the default of the class.
    #[serde(default)]
    pub batch: usize,
    /// True if every row was measured.
    #[serde(default = "yes")]
    pub complete: bool,
    /// The adapter's roofs.
    pub roof: Roof,
    /// One row per kernel, shape and model.
    pub rows: Vec<RowReport>,
}

/// Runs of versions without a time limit are complete.
fn yes() -> bool {
    true
}

/// The roofs of an adapter: medians over samples of the whole run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Roof {
    /// Rate of multiply-adds, two operations each, in 10⁹ operations per second.
    pub gflops: f64,
    /// Rate of copies, counting bytes read and bytes written, in 10⁹ bytes per second.
    pub gbps: f64,
    /// Median absolute deviation of `gflops`.
    pub gflops_deviation: f64,
    /// Median absolute deviation of `gbps`.
    pub gbps_deviation: f64,
    /// The fastest kernel of multiply-adds.
    pub multiply_add: String,
    /// The fastest kernel of copies.
    pub copy: String,
    /// The roof of the matrix units; `None` without them or with f32.
    #[serde(default)]
    pub matrix_units: Option<MatrixRoof>,
}

/// The roof of an adapter's matrix units.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MatrixRoof {
    /// Rate of multiply-adds of fragments, two operations each, in 10⁹ operations per second.
    pub gflops: f64,
    /// Median absolute deviation of `gflops`.
    pub gflops_deviation: f64,
    /// The kernel.
    pub kernel: String,
}

/// The roof that limits a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Limit {
    /// The kernel's operations take longer than copying its tensors.
    Arithmetic,
    /// The same, most of the time on matrix units.
    #[serde(rename = "matrix units")]
    MatrixUnits,
    /// Copying the kernel's tensors takes longer than its operations.
    Memory,
}

impl Limit {
    /// Returns the word for tables.
    pub fn word(self) -> &'static str {
        match self {
            Limit::Arithmetic => "arithmetic",
            Limit::MatrixUnits => "matrix units",
            Limit::Memory => "memory",
        }
    }
}

/// The work of one replay.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Work {
    /// Floating-point operations.
    pub flops: f64,
    /// Those of `flops` in dispatches that multiply fragments.
    pub fragment_flops: f64,
    /// Bytes of the bound tensors, each counted once per dispatch.
    pub bytes: f64,
}

impl Work {
    /// Returns the work of a plan.
    pub fn of(plan: &Plan) -> Work {
        let summary = plan.summary();
        let units = plan.dispatches.iter().filter(|dispatch| dispatch.kernel.multiplies_fragments());
        let fragment_flops = units.map(|dispatch| dispatch.flops).sum();
        Work { flops: summary.flops, fragment_flops, bytes: summary.moved_bytes }
    }
}

impl Roof {
    /// Returns the least time of the operations of some work in seconds, and the roof that most of it is due to.
    ///
    /// Operations of dispatches that multiply fragments are compared with the matrix units, all others with
    /// multiply-adds.
    pub fn arithmetic_seconds(&self, work: Work) -> (f64, Limit) {
        let units = self.matrix_units.as_ref().map_or(self.gflops, |units| units.gflops);
        let on_units = work.fragment_flops / units / 1e9;
        let others = (work.flops - work.fragment_flops) / self.gflops / 1e9;
        let is_on_units = self.matrix_units.is_some() && on_units > others;
        (on_units + others, if is_on_units { Limit::MatrixUnits } else { Limit::Arithmetic })
    }

    /// Returns the least time of some work in seconds, and its limit.
    pub fn least_seconds(&self, work: Work) -> (f64, Limit) {
        let (arithmetic, limit) = self.arithmetic_seconds(work);
        let memory = work.bytes / self.gbps / 1e9;
        if arithmetic > memory { (arithmetic, limit) } else { (memory, Limit::Memory) }
    }

    /// Returns the relative deviation of a roof.
    pub fn noise(&self, limit: Limit) -> f64 {
        match (limit, &self.matrix_units) {
            (Limit::MatrixUnits, Some(units)) => units.gflops_deviation / units.gflops,
            (Limit::Arithmetic | Limit::MatrixUnits, _) => self.gflops_deviation / self.gflops,
            (Limit::Memory, _) => self.gbps_deviation / self.gbps,
        }
    }
}

impl std::fmt::Display for Roof {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let percent = |limit| 100.0 * self.noise(limit);
        write!(
            f,
            "{:.1} GFLOP/s ± {:.1} % ({}), {:.2} GB/s ± {:.1} % ({})",
            self.gflops,
            percent(Limit::Arithmetic),
            self.multiply_add,
            self.gbps,
            percent(Limit::Memory),
            self.copy
        )?;
        match &self.matrix_units {
            None => Ok(()),
            Some(units) => write!(
                f,
                ", matrix units {:.1} GFLOP/s ± {:.1} % ({})",
                units.gflops,
                percent(Limit::MatrixUnits),
                units.kernel
            ),
        }
    }
}

/// The figures of a row. Times are of one replay, in seconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RowReport {
    /// Kernel, model and shape.
    pub name: String,
    /// Median of the samples.
    pub seconds: f64,
    /// Minimum of the samples.
    pub min: f64,
    /// Maximum of the samples.
    pub max: f64,
    /// Median absolute deviation of the samples.
    pub deviation: f64,
    /// Number of samples.
    pub samples: usize,
    /// Floating-point operations.
    pub flops: f64,
    /// Bytes of the bound tensors, each counted once per dispatch.
    pub bytes: f64,
    /// 10⁹ operations per second.
    pub gflops: f64,
    /// 10⁹ bytes per second.
    pub gbps: f64,
    /// Operations per byte.
    pub intensity: f64,
    /// The least time that the roofs allow, as a percentage of `seconds`.
    pub percent_of_roof: f64,
    /// The roof that limits it.
    pub limit: Limit,
}

impl RowReport {
    /// Computes the figures from samples of the time, in seconds.
    pub fn new(name: &str, samples: &[f64], work: Work, roof: &Roof) -> RowReport {
        let Work { flops, bytes, .. } = work;
        let seconds = samples::median(samples);
        let (least, limit) = roof.least_seconds(work);
        RowReport {
            name: name.to_string(),
            seconds,
            min: samples.iter().copied().fold(f64::INFINITY, f64::min),
            max: samples.iter().copied().fold(0.0, f64::max),
            deviation: samples::deviation(samples),
            samples: samples.len(),
            flops,
            bytes,
            gflops: flops / seconds / 1e9,
            gbps: bytes / seconds / 1e9,
            intensity: flops / bytes,
            percent_of_roof: 100.0 * least / seconds,
            limit,
        }
    }
}

impl Report {
    /// Returns adapter, roofs and rows as a table for the terminal.
    pub fn table(&self) -> String {
        let Report { machine, batch, complete, roof, rows } = self;
        let width = rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0).max(4);
        let mut text = format!("{machine}; batch {batch}\nroofs: {roof}\n");
        // Writing to a string doesn't fail.
        let _ = writeln!(
            text,
            "{:<width$} {:>10} {:>7} {:>9} {:>8} {:>10} {:>9}  limit",
            "row", "ms", "±", "GFLOP/s", "GB/s", "FLOP/byte", "% of roof"
        );
        for row in rows {
            let limit = row.limit.word();
            let _ = writeln!(
                text,
                "{:<width$} {:>10.3} {:>5.1} % {:>9.2} {:>8.2} {:>10.2} {:>9.1}  {limit}",
                row.name,
                1e3 * row.seconds,
                100.0 * row.deviation / row.seconds,
                row.gflops,
                row.gbps,
                row.intensity,
                row.percent_of_roof
            );
        }
        if !complete {
            text.push_str("the time was up before the last row\n");
        }
        text
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// 100 GFLOP/s and 10 GB/s: arithmetic limits rows of more than 10 operations per byte.
    pub fn roof() -> Roof {
        Roof {
            gflops: 100.0,
            gbps: 10.0,
            gflops_deviation: 1.0,
            gbps_deviation: 0.2,
            multiply_add: "4 chains of four".to_string(),
            copy: "1 MiB".to_string(),
            matrix_units: None,
        }
    }

    /// Returns work without matrix units.
    pub fn work(flops: f64, bytes: f64) -> Work {
        Work { flops, fragment_flops: 0.0, bytes }
    }

    pub fn machine() -> Machine {
        let [adapter, driver, class, precision] = ["a", "d", "c", "f32"].map(str::to_string);
        Machine { adapter, driver, class, precision }
    }

    #[test]
    fn the_nearer_roof_limits() {
        let product = RowReport::new("product", &[0.04, 0.05, 0.09], work(1e9, 1e6), &roof());
        assert_eq!((product.limit, product.intensity), (Limit::Arithmetic, 1000.0));
        assert!((product.percent_of_roof - 20.0).abs() < 1e-9 && (product.gflops - 20.0).abs() < 1e-9);
        assert_eq!((product.min, product.seconds, product.max, product.samples), (0.04, 0.05, 0.09, 3));
        assert!((product.deviation - 0.01).abs() < 1e-12);
        // A copy without operations.
        let copy = RowReport::new("copy", &[1e-3], work(0.0, 5e6), &roof());
        assert_eq!((copy.limit, copy.intensity), (Limit::Memory, 0.0));
        assert!((copy.percent_of_roof - 50.0).abs() < 1e-9 && (copy.gbps - 5.0).abs() < 1e-9);
        // Fragments are compared with the matrix units, if those were measured.
        let fragments = Work { fragment_flops: 1e9, ..work(1e9, 1e6) };
        assert_eq!(
            RowReport::new("fragments", &[0.05], fragments, &roof()),
            RowReport {
                name: "fragments".to_string(),
                ..RowReport::new("product", &[0.05], work(1e9, 1e6), &roof())
            }
        );
        let units = MatrixRoof { gflops: 1000.0, gflops_deviation: 50.0, kernel: "k".to_string() };
        let roof = Roof { matrix_units: Some(units), ..roof() };
        let product = RowReport::new("fragments", &[0.05], fragments, &roof);
        assert_eq!((product.limit, roof.noise(product.limit)), (Limit::MatrixUnits, 0.05));
        assert!((product.percent_of_roof - 2.0).abs() < 1e-9);
        assert_eq!(RowReport::new("product", &[0.05], work(1e9, 1e6), &roof).limit, Limit::Arithmetic);
    }

    #[test]
    fn each_operation_is_compared_with_its_own_roof() {
        let units = MatrixRoof { gflops: 1000.0, gflops_deviation: 50.0, kernel: "k".to_string() };
        let with_units = Roof { matrix_units: Some(units), ..roof() };
        // 1 ms on matrix units and 2 ms or 0.5 ms of other arithmetic.
        for (others, seconds, limit) in [(2e8, 3e-3, Limit::Arithmetic), (5e7, 1.5e-3, Limit::MatrixUnits)] {
            let mixed = Work { fragment_flops: 1e9, ..work(1e9 + others, 1e6) };
            let row = RowReport::new("mixed", &[2.0 * seconds], mixed, &with_units);
            assert_eq!(row.limit, limit);
            assert!((row.percent_of_roof - 50.0).abs() < 1e-9, "{}", row.percent_of_roof);
            // Without the roof of the matrix units, all of it is compared with multiply-adds.
            let (least, limit) = roof().arithmetic_seconds(mixed);
            assert!((least - (1e9 + others) / 1e11).abs() < 1e-12 && limit == Limit::Arithmetic);
        }
        let copies = Work { fragment_flops: 1e6, ..work(1e6, 1e8) };
        assert_eq!(with_units.least_seconds(copies), (0.01, Limit::Memory));
    }

    #[test]
    fn a_table_has_every_row_and_json_comes_back() {
        let rows = [("gemm one", 1e9, 1e6), ("tokens", 0.0, 5e6)];
        let rows =
            rows.map(|(name, flops, bytes)| RowReport::new(name, &[0.02; 3], work(flops, bytes), &roof()));
        let report =
            Report { machine: machine(), batch: 2, complete: true, roof: roof(), rows: rows.to_vec() };
        let table = report.table();
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines.len(), 5, "{table}");
        assert!(
            lines[1].contains("100.0 GFLOP/s ± 1.0 %") && lines[1].contains("10.00 GB/s ± 2.0 %"),
            "{table}"
        );
        assert!(lines[3].starts_with("gemm one ") && lines[3].ends_with("50.0  arithmetic"), "{table}");
        assert!(lines[4].starts_with("tokens ") && lines[4].ends_with("2.5  memory"), "{table}");
        let text = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), report);
        let cut = Report { complete: false, ..report };
        assert!(cut.table().ends_with("the time was up before the last row\n"));
    }
}
