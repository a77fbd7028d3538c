//! The figures of a run, as JSON keeps them and as a table shows them.

use super::samples;
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// A run on one adapter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The adapter's name.
    pub adapter: String,
    /// Driver and version.
    pub driver: String,
    /// Sort of adapter, and which kernels it is served.
    pub class: String,
    /// How numbers are stored.
    pub precision: String,
    /// What the adapter can do at most.
    pub roof: Roof,
    /// One per kernel, shape and model.
    pub rows: Vec<RowReport>,
}

/// What an adapter can do at most: medians over samples from the whole run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Roof {
    /// Multiply-adds, two operations each, in 10⁹ operations a second.
    pub gflops: f64,
    /// Copies, read and written, in 10⁹ bytes a second.
    pub gbps: f64,
    /// Median absolute deviation of `gflops`.
    pub gflops_deviation: f64,
    /// Median absolute deviation of `gbps`.
    pub gbps_deviation: f64,
    /// The kernel of multiply-adds that was best.
    pub multiply_add: String,
    /// The kernel of copies that was best.
    pub copy: String,
}

/// What keeps a kernel from being faster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Limit {
    /// Multiply-adds take longer than copying its tensors.
    Arithmetic,
    /// Copying its tensors takes longer than its multiply-adds.
    Memory,
}

impl Roof {
    /// The least time of so many operations on so many bytes, in seconds, and what it is spent on.
    pub fn least_seconds(&self, flops: f64, bytes: f64) -> (f64, Limit) {
        let (arithmetic, memory) = (flops / self.gflops / 1e9, bytes / self.gbps / 1e9);
        if arithmetic > memory { (arithmetic, Limit::Arithmetic) } else { (memory, Limit::Memory) }
    }

    /// The deviation of what limits, as a share of it.
    pub fn noise(&self, limit: Limit) -> f64 {
        match limit {
            Limit::Arithmetic => self.gflops_deviation / self.gflops,
            Limit::Memory => self.gbps_deviation / self.gbps,
        }
    }
}

/// The figures of a row; times are of one replay, in seconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RowReport {
    /// Kernel, model, and what of it.
    pub name: String,
    /// Median of the samples.
    pub seconds: f64,
    /// Least sample.
    pub min: f64,
    /// Greatest sample.
    pub max: f64,
    /// Median absolute deviation of the samples.
    pub deviation: f64,
    /// Number of samples.
    pub samples: usize,
    /// Floating-point operations.
    pub flops: f64,
    /// Bytes of the tensors bound, each once per launch.
    pub bytes: f64,
    /// 10⁹ operations a second.
    pub gflops: f64,
    /// 10⁹ bytes a second.
    pub gbps: f64,
    /// Operations per byte.
    pub intensity: f64,
    /// The least time that the roofs allow, as a percentage of `seconds`.
    pub percent_of_roof: f64,
    /// Which of the roofs is nearer.
    pub limit: Limit,
}

impl RowReport {
    /// Figures of a row from the samples of its time.
    pub fn new(name: &str, samples: &[f64], flops: f64, bytes: f64, roof: &Roof) -> RowReport {
        let seconds = samples::median(samples);
        let (least, limit) = roof.least_seconds(flops, bytes);
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
    /// Adapter, roofs and rows for people.
    pub fn table(&self) -> String {
        let Report { adapter, driver, class, precision, roof, rows } = self;
        let width = rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0).max(4);
        let mut text = format!("{adapter}; {driver}; {class}; {precision}\n");
        let percent = |limit| 100.0 * roof.noise(limit);
        // Writing to a string doesn't fail.
        let _ = writeln!(
            text,
            "roofs: {:.1} GFLOP/s ± {:.1} % ({}), {:.2} GB/s ± {:.1} % ({})",
            roof.gflops,
            percent(Limit::Arithmetic),
            roof.multiply_add,
            roof.gbps,
            percent(Limit::Memory),
            roof.copy
        );
        let _ = writeln!(
            text,
            "{:<width$} {:>10} {:>7} {:>9} {:>8} {:>10} {:>9}  limit",
            "row", "ms", "±", "GFLOP/s", "GB/s", "FLOP/byte", "% of roof"
        );
        for row in rows {
            let limit = match row.limit {
                Limit::Arithmetic => "arithmetic",
                Limit::Memory => "memory",
            };
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
        text
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// 100 GFLOP/s and 10 GB/s: rows from 10 operations per byte on are limited by arithmetic.
    pub fn roof() -> Roof {
        Roof {
            gflops: 100.0,
            gbps: 10.0,
            gflops_deviation: 1.0,
            gbps_deviation: 0.2,
            multiply_add: "4 chains of four".to_string(),
            copy: "1 MiB".to_string(),
        }
    }

    #[test]
    fn the_nearer_roof_limits() {
        let product = RowReport::new("product", &[0.04, 0.05, 0.09], 1e9, 1e6, &roof());
        assert_eq!((product.limit, product.intensity), (Limit::Arithmetic, 1000.0));
        assert!((product.percent_of_roof - 20.0).abs() < 1e-9 && (product.gflops - 20.0).abs() < 1e-9);
        assert_eq!((product.min, product.seconds, product.max, product.samples), (0.04, 0.05, 0.09, 3));
        assert!((product.deviation - 0.01).abs() < 1e-12);
        // Nothing but bytes.
        let copy = RowReport::new("copy", &[1e-3], 0.0, 5e6, &roof());
        assert_eq!((copy.limit, copy.intensity), (Limit::Memory, 0.0));
        assert!((copy.percent_of_roof - 50.0).abs() < 1e-9 && (copy.gbps - 5.0).abs() < 1e-9);
    }

    #[test]
    fn a_table_has_every_row_and_json_comes_back() {
        let rows = [("gemm one", 1e9, 1e6), ("tokens", 0.0, 5e6)];
        let rows = rows.map(|(name, flops, bytes)| RowReport::new(name, &[0.02; 3], flops, bytes, &roof()));
        let report = Report {
            adapter: "a".to_string(),
            driver: "d".to_string(),
            class: "CPU, subgroups of 8".to_string(),
            precision: "f32".to_string(),
            roof: roof(),
            rows: rows.to_vec(),
        };
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
    }
}
