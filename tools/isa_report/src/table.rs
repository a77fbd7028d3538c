//! Writes, reads and compares the committed table.

use std::error::Error;
use std::fmt::Write as _;

/// A compiled kernel on one family, with the worst value of all switch settings in each column.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Mesa's name of the family.
    pub family: String,
    /// Stem, entry point and constants, as `tests/shader_contract.rs` names them.
    pub variant: String,
    /// Vector registers of a lane.
    pub vgprs: u64,
    /// Scalar registers of a wave.
    pub sgprs: u64,
    /// Spilled vector and scalar registers.
    pub spills: u64,
    /// Bytes of scratch memory per lane.
    pub scratch: u64,
    /// Bytes of workgroup memory.
    pub shared: u64,
    /// Waves that a SIMD unit can hold at once.
    pub waves: u64,
    /// Share of multiply-adds in the operations of the hot loop, in percent; `None` if no loop multiplies.
    pub share: Option<f64>,
    /// Words read from workgroup memory per multiply-add of the hot loop.
    pub words: Option<f64>,
    /// Share of matrix instructions in the modelled cycles of the hot loop, in percent; `None` if the kernel multiplies
    /// no fragments.
    pub matrix: Option<f64>,
    /// Cycles from the first to the last instruction of a wave, by the compiler's model.
    pub latency: u64,
    /// Cycles per wave when many run, by the compiler's model.
    pub throughput: u64,
}

/// Prefixes of the variants that take most of the time.
const HOT: [&str; 9] = [
    "gemm_tiled-",
    "gemm_cooperative-",
    "attention_cooperative-",
    "patch_embed-",
    "attention-attention_forward-",
    "attention-attention_dq-",
    "attention-attention_dkv-",
    "part_linear_wide-",
    "distance-",
];

/// Tolerance of a share in percentage points, since it is printed with one digit.
const TOLERANCE: f64 = 0.05;

/// Returns whether kernels of this variant take most of the time.
pub fn is_hot(variant: &str) -> bool {
    HOT.iter().any(|head| variant.starts_with(head))
}

impl Row {
    /// Returns whether such kernels take most of the time.
    pub fn is_hot(&self) -> bool {
        is_hot(&self.variant)
    }

    /// Takes the worse value in each column.
    pub fn worsen(&mut self, other: &Row) {
        let least = |a: Option<f64>, b: Option<f64>| match (a, b) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (one, None) | (None, one) => one,
        };
        let most = |a: Option<f64>, b: Option<f64>| match (a, b) {
            (Some(a), Some(b)) => Some(a.max(b)),
            (one, None) | (None, one) => one,
        };
        self.vgprs = self.vgprs.max(other.vgprs);
        self.sgprs = self.sgprs.max(other.sgprs);
        self.spills = self.spills.max(other.spills);
        self.scratch = self.scratch.max(other.scratch);
        self.shared = self.shared.max(other.shared);
        self.waves = self.waves.min(other.waves);
        self.share = least(self.share, other.share);
        self.words = most(self.words, other.words);
        self.matrix = least(self.matrix, other.matrix);
        self.latency = self.latency.max(other.latency);
        self.throughput = self.throughput.max(other.throughput);
    }

    fn line(&self) -> String {
        let shown = |value: Option<f64>, digits: usize| {
            value.map_or("–".to_string(), |value| format!("{value:.digits$}"))
        };
        format!(
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            self.family,
            self.variant,
            self.vgprs,
            self.sgprs,
            self.spills,
            self.scratch,
            self.shared,
            self.waves,
            shown(self.share, 1),
            shown(self.words, 2),
            shown(self.matrix, 1),
            self.latency,
            self.throughput,
        )
    }

    /// A line of the table; `None` if it is none.
    fn parse(line: &str) -> Option<Row> {
        let cells: Vec<&str> =
            line.trim().strip_prefix('|')?.strip_suffix('|')?.split('|').map(str::trim).collect();
        let [family, variant, numbers @ ..] = cells.as_slice() else { return None };
        let [vgprs, sgprs, spills, scratch, shared, waves, share, words, matrix, latency, throughput] =
            numbers
        else {
            return None;
        };
        let optional = |cell: &str| if cell == "–" { Some(None) } else { cell.parse().ok().map(Some) };
        Some(Row {
            family: family.to_string(),
            variant: variant.to_string(),
            vgprs: vgprs.parse().ok()?,
            sgprs: sgprs.parse().ok()?,
            spills: spills.parse().ok()?,
            scratch: scratch.parse().ok()?,
            shared: shared.parse().ok()?,
            waves: waves.parse().ok()?,
            share: optional(share)?,
            words: optional(words)?,
            matrix: optional(matrix)?,
            latency: latency.parse().ok()?,
            throughput: throughput.parse().ok()?,
        })
    }
}

const HEAD: &str = "| family | variant | VGPRs | SGPRs | spills | scratch B | LDS B | waves/SIMD | fma % | LDS words/fma | matrix % | latency | cycles/wave |
|---|---|---|---|---|---|---|---|---|---|---|---|---|";

/// The line of the driver, the table of hot kernels and the table of the others.
pub fn write(driver: &str, rows: &[Row]) -> String {
    let mut text = format!("Driver: {driver}.\n");
    for (title, hot) in [("Hot kernels", true), ("Other kernels", false)] {
        let _ = write!(text, "\n## {title}\n\n{HEAD}\n");
        for row in rows.iter().filter(|row| row.is_hot() == hot) {
            let _ = writeln!(text, "{}", row.line());
        }
    }
    text
}

/// Reads the driver and the rows of a written table.
///
/// # Errors
/// If the line of the driver or all rows are missing.
pub fn read(text: &str) -> Result<(String, Vec<Row>), Box<dyn Error>> {
    let driver = text.lines().find_map(|line| line.strip_prefix("Driver: ")?.strip_suffix('.'));
    let rows: Vec<Row> = text.lines().filter_map(Row::parse).collect();
    match driver {
        Some(driver) if !rows.is_empty() => Ok((driver.to_string(), rows)),
        _ => Err("no line `Driver: …` or no rows in it".into()),
    }
}

/// The violations of the rules: hot kernels must not spill, use scratch, or be worse than their row.
pub fn broken(wanted: &[Row], found: &[Row]) -> Vec<String> {
    let mut broken = Vec::new();
    for row in found.iter().filter(|row| row.is_hot()) {
        let name = format!("{} {}", row.family, row.variant);
        if row.spills > 0 || row.scratch > 0 {
            broken
                .push(format!("{name}: {} registers spilled, {} bytes of scratch", row.spills, row.scratch));
        }
        let Some(old) = wanted.iter().find(|old| (&old.family, &old.variant) == (&row.family, &row.variant))
        else {
            broken.push(format!("{name}: no row in the table"));
            continue;
        };
        if row.waves < old.waves {
            broken.push(format!("{name}: {} waves per SIMD, were {}", row.waves, old.waves));
        }
        for (now, then, what) in
            [(row.share, old.share, "multiply-adds"), (row.matrix, old.matrix, "matrix instructions")]
        {
            let now = now.unwrap_or(0.0);
            if let Some(then) = then.filter(|then| now < then - TOLERANCE) {
                broken.push(format!("{name}: {now:.1} % of the hot loop are {what}, were {then:.1} %"));
            }
        }
        if row.words.unwrap_or(0.0) > old.words.unwrap_or(0.0) + 0.005 {
            let (now, then) = (row.words.unwrap_or(0.0), old.words.unwrap_or(0.0));
            broken
                .push(format!("{name}: {now:.2} words of workgroup memory per multiply-add, were {then:.2}"));
        }
    }
    broken
}

/// Number of rows that differ between two tables, including rows in only one of them.
pub fn differences(wanted: &[Row], found: &[Row]) -> usize {
    let lines = |rows: &[Row]| rows.iter().map(Row::line).collect::<std::collections::BTreeSet<_>>();
    lines(wanted).symmetric_difference(&lines(found)).count().div_ceil(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Row {
        Row {
            family: "navi21".to_string(),
            variant: "gemm_tiled-gemm_nt-BM64".to_string(),
            vgprs: 96,
            sgprs: 128,
            spills: 0,
            scratch: 0,
            shared: 8192,
            waves: 10,
            share: Some(90.04),
            words: Some(0.25),
            matrix: None,
            latency: 1000,
            throughput: 100,
        }
    }

    #[test]
    fn a_written_table_reads_back() {
        let cold = Row { variant: "adam-adam".to_string(), share: None, words: None, ..row() };
        let units = Row { matrix: Some(61.5), ..cold.clone() };
        let text = write("radv 1.2", &[row(), cold.clone(), units.clone()]);
        let (driver, rows) = read(&text).expect("a table");
        assert_eq!(driver, "radv 1.2");
        // Shares are rounded to one digit.
        assert_eq!(rows, [Row { share: Some(90.0), ..row() }, cold, units]);
        assert_eq!(differences(&rows[..2], &[row()]), 1);
        assert!(read("nothing").is_err());
    }

    #[test]
    fn rules_apply_to_hot_kernels_only() {
        assert_eq!(broken(&[row()], &[row()]), Vec::<String>::new());
        let cases = [
            (Row { spills: 1, ..row() }, "spilled"),
            (Row { scratch: 4, ..row() }, "scratch"),
            (Row { waves: 9, ..row() }, "waves"),
            (Row { share: Some(89.9), ..row() }, "multiply-adds"),
            (Row { share: None, ..row() }, "multiply-adds"),
            (Row { words: Some(0.5), ..row() }, "words"),
            (Row { family: "vega10".to_string(), ..row() }, "no row"),
        ];
        for (worse, message) in cases {
            let found = broken(&[row()], std::slice::from_ref(&worse)).join("\n");
            assert!(found.contains(message), "{worse:?}: {found:?}");
            let cold = Row { variant: "adam-adam".to_string(), ..worse };
            assert_eq!(broken(&[row()], &[cold]), Vec::<String>::new());
        }
    }

    #[test]
    fn matrix_instructions_must_keep_their_share() {
        for stem in ["gemm_cooperative-gemm_nt", "attention_cooperative-attention_forward"] {
            let with = |matrix| Row { variant: format!("{stem}-SIDE16-f16"), matrix, share: None, ..row() };
            let found = |matrix| broken(&[with(Some(61.5))], &[with(matrix)]).join("\n");
            assert_eq!(found(Some(61.46)), "");
            assert!(
                found(Some(61.4)).contains("61.4 % of the hot loop are matrix instructions, were 61.5 %")
            );
            assert!(found(None).contains("0.0 %"));
        }
    }

    #[test]
    fn worsen_takes_the_worst_of_each_column() {
        let mut worst = row();
        worst.worsen(&Row { vgprs: 128, waves: 4, share: None, ..row() });
        assert_eq!((worst.vgprs, worst.waves, worst.share), (128, 4, Some(90.04)));
        worst.worsen(&Row { share: Some(70.0), words: Some(0.5), matrix: Some(60.0), ..row() });
        worst.worsen(&Row { matrix: Some(65.0), ..row() });
        assert_eq!((worst.share, worst.words, worst.matrix), (Some(70.0), Some(0.5), Some(60.0)));
    }
}
