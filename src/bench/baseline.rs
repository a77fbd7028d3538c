//! Comparison of a run with a saved one: rows that are slower, rows that are faster, and noise.
//!
//! Rows are judged by their percentage of the roof instead of their time. The roofs are measured in the same run, so a
//! busy machine, or another processor behind an adapter of the same name, affects both. What remains is the change of
//! the kernel. The change of the time is reported too.

use super::report::{Machine, Report, RowReport};
use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::path::Path;

/// Smaller differences always count as noise.
const LEAST_DIFFERENCE: f64 = 0.05;

/// Differences up to this many deviations count as noise.
const DEVIATIONS: f64 = 3.0;

/// Saved runs, by adapter, driver, class, batch and precision.
pub type Baselines = BTreeMap<String, Report>;

/// Returns the key of a run in a file of saved runs.
pub fn key(machine: &Machine, batch: usize) -> String {
    let Machine { precision, .. } = machine;
    format!("{}; batch {batch}; {precision}", short_key(machine))
}

/// Returns the key that older versions wrote, without batch and precision.
fn short_key(machine: &Machine) -> String {
    let Machine { adapter, driver, class, .. } = machine;
    format!("{adapter}; {driver}; {class}")
}

/// Saves a run in place of the one with the same key; `default` as in [`take`].
pub fn keep(baselines: &mut Baselines, report: Report, default: usize) {
    let _ = take(baselines, &report.machine, report.batch, default);
    baselines.insert(key(&report.machine, report.batch), report);
}

/// Removes and returns the saved run of the same adapter, driver, class, batch and precision. `default` is the batch of
/// saved runs that don't name theirs.
///
/// # Errors
/// [`Error::Data`] if there is none, with the other runs of this adapter.
pub fn take(baselines: &mut Baselines, machine: &Machine, batch: usize, default: usize) -> Result<Report> {
    let (key, short) = (key(machine, batch), short_key(machine));
    let alike = |report: &Report| {
        let of = if report.batch == 0 { default } else { report.batch };
        (of, &report.machine.precision) == (batch, &machine.precision)
    };
    let old = if baselines.get(&short).is_some_and(alike) { baselines.remove(&short) } else { None };
    if let Some(report) = baselines.remove(&key).or(old) {
        return Ok(report);
    }
    let others: Vec<&str> = (baselines.keys())
        .filter(|other| **other == short || other.starts_with(&format!("{short}; ")))
        .map(String::as_str)
        .collect();
    let others = match others[..] {
        [] => String::new(),
        _ => format!("; runs with another batch or precision are not compared: {}", others.join(", ")),
    };
    Err(Error::Data(format!("no saved run of {key}{others}")))
}

/// Reads saved runs; none if the file is missing.
///
/// # Errors
/// [`Error::Io`] if it can't be read; [`Error::Data`] if it isn't a file of saved runs.
pub fn read(path: &Path) -> Result<Baselines> {
    let text = match std::fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Baselines::new()),
        text => text.map_err(Error::io("read", path))?,
    };
    serde_json::from_str(&text).map_err(|error| {
        Error::Data(format!(
            "{}: not a file of `lat-wgpu bench --save-baseline` ({error}); delete it to start a new one",
            path.display()
        ))
    })
}

/// Returns the text of a file of saved runs.
///
/// # Errors
/// [`Error::Data`] if a figure isn't finite.
pub fn text(baselines: &Baselines) -> Result<String> {
    let text = serde_json::to_string_pretty(baselines);
    Ok(text.map_err(|error| Error::Data(format!("the figures can't be saved: {error}")))? + "\n")
}

/// The result of comparing a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Slower by more than noise.
    Loss,
    /// Faster by more than noise.
    Gain,
    /// Within noise.
    Noise,
    /// The saved row did other work: not compared.
    Changed,
    /// The saved run has no such row.
    New,
    /// The new run has no such row.
    Gone,
}

impl Verdict {
    /// Returns the word for tables.
    pub fn word(self) -> &'static str {
        match self {
            Verdict::Loss => "loss",
            Verdict::Gain => "gain",
            Verdict::Noise => "noise",
            Verdict::Changed => "other work",
            Verdict::New => "new",
            Verdict::Gone => "gone",
        }
    }
}

/// The comparison of a row.
#[derive(Debug, Clone, PartialEq)]
pub struct Judgement {
    /// The row's name.
    pub name: String,
    /// The verdict.
    pub verdict: Verdict,
    /// Relative change of the time; negative if it is faster, 0 if it isn't compared.
    pub time: f64,
    /// The same, with each time divided by the least time that the roofs of its run allow. The verdict depends on this.
    pub slower: f64,
    /// Largest relative change that counts as noise.
    pub noise: f64,
}

/// Compares a run with a saved run of the same adapter, in the order of the new run's rows.
///
/// A difference counts if it exceeds 5 % and three times the combined deviation: the root of the sum of squares of the
/// relative median absolute deviations of both rows and of the roofs that limit them.
pub fn judge(then: &Report, now: &Report) -> Vec<Judgement> {
    let find = |report: &'_ Report, name: &str| report.rows.iter().find(|row| row.name == name).cloned();
    let uncompared = |name: &str, verdict| Judgement {
        name: name.to_string(),
        verdict,
        time: 0.0,
        slower: 0.0,
        noise: 0.0,
    };
    let judged = now.rows.iter().map(|row| match find(then, &row.name) {
        None => uncompared(&row.name, Verdict::New),
        Some(old) if (old.flops, old.bytes) != (row.flops, row.bytes) => {
            uncompared(&row.name, Verdict::Changed)
        }
        Some(old) => compare((&old, then), (row, now)),
    });
    let gone = then.rows.iter().filter(|row| find(now, &row.name).is_none());
    judged.chain(gone.map(|row| uncompared(&row.name, Verdict::Gone))).collect()
}

fn compare((old, then): (&RowReport, &Report), (row, now): (&RowReport, &Report)) -> Judgement {
    let slower = old.percent_of_roof / row.percent_of_roof;
    let deviations = [
        old.deviation / old.seconds,
        row.deviation / row.seconds,
        then.roof.noise(old.limit),
        now.roof.noise(row.limit),
    ];
    let combined = deviations.iter().map(|share| share * share).sum::<f64>().sqrt();
    let noise = (DEVIATIONS * combined).max(LEAST_DIFFERENCE);
    let verdict = if slower > 1.0 + noise {
        Verdict::Loss
    } else if slower < 1.0 / (1.0 + noise) {
        Verdict::Gain
    } else {
        Verdict::Noise
    };
    let time = row.seconds / old.seconds - 1.0;
    Judgement { name: row.name.clone(), verdict, time, slower: slower - 1.0, noise }
}

/// Returns a table of losses and gains for the terminal, and the number of rows of each verdict.
pub fn table(judgements: &[Judgement]) -> String {
    let width = judgements.iter().map(|row| row.name.chars().count()).max().unwrap_or(0).max(4);
    let mut text = String::new();
    let mut shown: Vec<&Judgement> =
        judgements.iter().filter(|row| matches!(row.verdict, Verdict::Loss | Verdict::Gain)).collect();
    shown.sort_by(|a, b| b.slower.total_cmp(&a.slower));
    if !shown.is_empty() {
        text.push_str(&format!("{:<width$} {:>9} {:>9} {:>9}  verdict\n", "row", "time", "of roof", "noise"));
    }
    for row in shown {
        let (time, slower, noise) = (100.0 * row.time, 100.0 * row.slower, 100.0 * row.noise);
        text.push_str(&format!(
            "{:<width$} {time:>+7.1} % {slower:>+7.1} % {:>9}  {}\n",
            row.name,
            format!("± {noise:.1} %"),
            row.verdict.word()
        ));
    }
    let count = |verdict| judgements.iter().filter(|row| row.verdict == verdict).count();
    let counts =
        [Verdict::Loss, Verdict::Gain, Verdict::Noise, Verdict::Changed, Verdict::New, Verdict::Gone];
    let counts: Vec<String> = counts
        .into_iter()
        .filter(|verdict| count(*verdict) > 0)
        .map(|verdict| format!("{} {}", count(verdict), verdict.word()))
        .collect();
    text + &format!("against the baseline: {}\n", counts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::Roof;
    use crate::bench::report::tests::{machine, roof, work};

    /// Returns a run of one row with these samples, on a machine `speed` times as fast as that of `roof`.
    fn run(samples: &[f64], speed: f64, name: &str, flops: f64) -> Report {
        let roof = Roof { gflops: 100.0 * speed, gbps: 10.0 * speed, ..roof() };
        let roof = Roof { gflops_deviation: 0.01 * roof.gflops, gbps_deviation: 0.01 * roof.gbps, ..roof };
        Report {
            machine: machine(),
            batch: 1,
            complete: true,
            rows: vec![RowReport::new(name, samples, work(flops, 1e6), &roof)],
            roof,
        }
    }

    fn around(seconds: f64, spread: f64) -> Vec<f64> {
        [-2.0, -1.0, -1.0, 0.0, 1.0, 1.0, 2.0].map(|step| seconds * (1.0 + step * spread)).to_vec()
    }

    fn verdict(then: &Report, now: &Report) -> Verdict {
        judge(then, now)[0].verdict
    }

    #[test]
    fn losses_gains_and_noise_are_distinguished() {
        let of = |seconds: f64, spread: f64| run(&around(seconds, spread), 1.0, "row", 1e9);
        let steady = of(0.020, 0.002);
        for (seconds, wanted) in [
            (0.020, Verdict::Noise),
            (0.0208, Verdict::Noise),
            (0.0193, Verdict::Noise),
            // Deviations of 1 % in both roofs: noise up to 4.3 %, and never below 5 %.
            (0.0212, Verdict::Loss),
            (0.0188, Verdict::Gain),
            (0.2, Verdict::Loss),
        ] {
            assert_eq!(verdict(&steady, &of(seconds, 0.002)), wanted, "{seconds}");
        }
        // The same difference between rows that scatter by 4 % is noise: 3·√(0.04² + 0.04² + 0.01² + 0.01²) = 17.5 %.
        let noisy = of(0.020, 0.04);
        assert_eq!(verdict(&noisy, &of(0.0232, 0.04)), Verdict::Noise);
        assert_eq!(verdict(&noisy, &of(0.0240, 0.04)), Verdict::Loss);
        assert!((judge(&noisy, &noisy)[0].noise - 0.1749).abs() < 1e-4);
        // One disturbed sample is no loss.
        let mut disturbed = around(0.020, 0.002);
        disturbed[6] = 1.0;
        assert_eq!(verdict(&steady, &run(&disturbed, 1.0, "row", 1e9)), Verdict::Noise);
    }

    #[test]
    fn a_slower_machine_is_no_loss_and_a_faster_one_hides_none() {
        let of = |seconds: f64, speed: f64| run(&around(seconds, 0.002), speed, "row", 1e9);
        let then = of(0.020, 1.0);
        let busy = &judge(&then, &of(0.030, 2.0 / 3.0))[0];
        assert_eq!(busy.verdict, Verdict::Noise);
        assert!((busy.time - 0.5).abs() < 1e-9 && busy.slower.abs() < 1e-9, "{busy:?}");
        assert_eq!(verdict(&then, &of(0.020, 2.0)), Verdict::Loss);
    }

    #[test]
    fn only_rows_with_the_same_work_are_compared() {
        let then = run(&[0.02], 1.0, "row", 1e9);
        assert_eq!(verdict(&then, &run(&[0.2], 1.0, "row", 2e9)), Verdict::Changed);
        let verdicts: Vec<Verdict> =
            judge(&then, &run(&[0.2], 1.0, "another", 1e9)).iter().map(|row| row.verdict).collect();
        assert_eq!(verdicts, [Verdict::New, Verdict::Gone]);
    }

    #[test]
    fn the_table_names_what_counts() {
        let report = |rows: &[(&str, f64)]| {
            let mut report = run(&[0.02], 1.0, "row", 1e9);
            let roof = report.roof.clone();
            report.rows =
                rows.iter().map(|(name, s)| RowReport::new(name, &[*s; 3], work(1e9, 1e6), &roof)).collect();
            report
        };
        let then = report(&[("faster", 0.02), ("slower", 0.02), ("same", 0.02)]);
        let table = table(&judge(&then, &report(&[("faster", 0.01), ("slower", 0.03), ("same", 0.0201)])));
        let lines: Vec<&str> = table.lines().collect();
        assert!(
            lines[1].starts_with("slower") && lines[1].contains("+50.0 %") && lines[1].ends_with("loss"),
            "{table}"
        );
        assert!(
            lines[2].starts_with("faster") && lines[2].contains("-50.0 %") && lines[2].ends_with("gain"),
            "{table}"
        );
        assert_eq!(lines[3], "against the baseline: 1 loss, 1 gain, 1 noise");
    }

    #[test]
    fn saved_runs_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("baseline.json");
        assert!(read(&path).unwrap().is_empty());
        let report = run(&[0.02, 0.03], 1.0, "row", 1e9);
        let baselines = Baselines::from([(key(&machine(), 1), report)]);
        std::fs::write(&path, text(&baselines).unwrap()).unwrap();
        assert_eq!(read(&path).unwrap(), baselines);
        std::fs::write(&path, "[]").unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("--save-baseline"));
    }
    #[test]
    fn a_run_is_compared_only_with_the_same_batch_and_precision() {
        let report = run(&[0.02], 1.0, "row", 1e9);
        let f16 = Machine { precision: "f16".to_string(), ..machine() };
        // Saved by an older version, which had no choice of batch and precision.
        let old = Report { batch: 0, ..report.clone() };
        let file = || Baselines::from([("a; d; c".to_string(), old.clone()), (key(&f16, 8), report.clone())]);
        assert_eq!(take(&mut file(), &machine(), 32, 32).unwrap(), old);
        assert_eq!(take(&mut file(), &f16, 8, 32).unwrap(), report);
        for (machine, batch) in [(machine(), 8), (f16.clone(), 32)] {
            let mut file = file();
            let error = take(&mut file, &machine, batch, 32).unwrap_err().to_string();
            assert!(
                error.contains(&format!("batch {batch}; {}; runs with another", machine.precision)),
                "{error}"
            );
            assert!(error.contains("a; d; c, a; d; c; batch 8; f16"), "{error}");
            assert_eq!(file.len(), 2);
        }
        // The new run replaces the old one.
        let mut file = file();
        keep(&mut file, Report { batch: 32, ..report.clone() }, 32);
        let keys: Vec<&str> = file.keys().map(String::as_str).collect();
        assert_eq!(keys, ["a; d; c; batch 32; f32", "a; d; c; batch 8; f16"]);
        let another = Machine { adapter: "b".to_string(), ..machine() };
        let error = take(&mut file, &another, 32, 32).unwrap_err().to_string();
        assert!(error.ends_with("no saved run of b; d; c; batch 32; f32"), "{error}");
    }
}
