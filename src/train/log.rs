//! `log.jsonl`: one line per step and per epoch. A line is handed to the operating system as soon as it is written.
//! `log.csv`: one row per epoch. An event file for TensorBoard, on request.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::storage::atomic::write_atomically;
use crate::train::events::{self, Events};

/// The log's line of a step.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct StepLine {
    /// Step number, from 1.
    pub step: u64,
    /// Epoch number, from 0.
    pub epoch: usize,
    /// Loss before the update: mean over the batch, summed over parts.
    pub loss: f64,
    /// Loss scale of the step; `None` with f32.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_scale: Option<f32>,
    /// True if a gradient overflowed, so that the step changed nothing but the loss scale.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub skipped: bool,
    /// Learning rate.
    pub lr: f64,
    /// Number of parameters that train.
    pub trainable_params: u64,
    /// Images per second, from the end of the previous step to the end of this one.
    pub images_per_s: f64,
    /// Bytes of device memory, of the first of several ranks.
    pub gpu_bytes: u64,
    /// Number of ranks that computed the step; `None` for a process alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ranks: Option<usize>,
}

/// The log's line of an epoch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct EpochLine {
    /// Epoch number, from 0.
    pub epoch: usize,
    /// Mean training loss over the epoch's images.
    pub train_loss: f64,
    /// Loss on the validation images; `None` without validation images.
    pub val_loss: Option<f64>,
    /// Accuracy on the validation images, as a fraction; `None` without validation images.
    pub val_accuracy: Option<f64>,
    /// Clusters that took the place of persons; `None` with labels.
    #[serde(flatten)]
    pub clusters: Option<ClusterCounts>,
    /// Retrieval scores on the test set; `None` in epochs without evaluation.
    #[serde(flatten)]
    pub retrieval: Option<RetrievalScores>,
    /// mAP among the images of persons held out of training, as a fraction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub val_map: Option<f64>,
    /// Rank-1 among these images, as a fraction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub val_rank1: Option<f64>,
    /// True if the best epoch is chosen by scores on the test set.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub chosen_on_test_set: bool,
    /// Duration in seconds.
    pub seconds: f64,
}

impl EpochLine {
    /// Returns the line of the log as JSON.
    pub fn json(&self) -> Value {
        serde_json::json!(Marked { kind: EPOCH, line: self })
    }

    /// Returns rank-1 and mAP on the test set, or else among persons held out, as fractions.
    pub fn scores(&self) -> Option<(f64, f64)> {
        let of_test_set = self.retrieval.map(|scores| (scores.rank1, scores.map));
        of_test_set.or(self.val_rank1.zip(self.val_map))
    }
}

/// The clusters of an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ClusterCounts {
    /// Number of clusters.
    pub clusters: usize,
    /// Number of images in no cluster, which don't train.
    pub outliers: usize,
    /// Number of images of the largest cluster.
    pub largest: usize,
    /// Largest distance within a cluster.
    pub eps: f64,
}

/// Retrieval scores of an epoch's model on the data set's test images by the standard protocol, as fractions.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RetrievalScores {
    /// Share of queries whose nearest image is a true match.
    pub rank1: f64,
    /// Share of queries with a true match among the nearest 5.
    pub rank5: f64,
    /// Share of queries with a true match among the nearest 10.
    pub rank10: f64,
    /// Share of queries with a true match among the nearest 20.
    pub rank20: f64,
    /// Mean average precision.
    pub map: f64,
    /// Mean inverse negative penalty.
    pub minp: f64,
}

/// `kind` of an epoch's line.
const EPOCH: &str = "epoch";

/// `kind` of the line that announces training on all persons.
const REFIT: &str = "refit";

/// A line with its `kind`.
#[derive(Serialize)]
struct Marked<'a> {
    kind: &'static str,
    #[serde(flatten)]
    line: &'a EpochLine,
}

/// The log of a run, open for appending.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: File,
    events: Option<Events>,
    /// Number of the last step.
    step: u64,
}

impl Log {
    /// Creates an empty log; replaces an old one.
    ///
    /// # Errors
    /// [`Error::Io`] if it can't be written.
    pub fn create(path: &Path) -> Result<Log> {
        write_atomically(path, b"")?;
        Log::append(path, 0)
    }

    /// Opens the log of a run that was saved after `steps` steps and `epochs` whole epochs, and removes later lines and
    /// an incomplete last line. Creates the log if it is missing.
    ///
    /// # Errors
    /// [`Error::Io`] if it can't be read or written.
    pub fn resume(path: &Path, steps: u64, epochs: usize) -> Result<Log> {
        let text = read(path)?;
        let kept: String = text
            .split_inclusive('\n')
            .filter(|line| line.ends_with('\n') && belongs(line, steps, epochs))
            .collect();
        if kept != text || !path.exists() {
            write_atomically(path, kept.as_bytes())?;
        }
        Log::append(path, steps)
    }

    fn append(path: &Path, step: u64) -> Result<Log> {
        let file = File::options().append(true).open(path).map_err(Error::io("write", path))?;
        Ok(Log { path: path.to_path_buf(), file, events: None, step })
    }

    /// Writes the lines into an event file beside the log, too: a new one, or the one that a run wrote up to the saved step.
    ///
    /// # Errors
    /// [`Error::Io`] if it can't be read or written.
    pub fn with_events(mut self) -> Result<Log> {
        let path = self.path.with_file_name(events::FILE);
        self.events =
            Some(if self.step == 0 { Events::create(&path)? } else { Events::resume(&path, self.step)? });
        Ok(self)
    }

    /// Writes a step's line.
    ///
    /// # Errors
    /// [`Error::Io`] if it can't be written.
    pub fn step(&mut self, line: &StepLine) -> Result<()> {
        self.step = line.step;
        self.write(line)?;
        self.write_events("train", line)
    }

    /// Writes an epoch's line.
    ///
    /// # Errors
    /// [`Error::Io`] if it can't be written.
    pub fn epoch(&mut self, line: &EpochLine) -> Result<()> {
        self.write(&Marked { kind: EPOCH, line })?;
        self.write_events("epoch", line)
    }

    /// Writes the numbers of a line as scalars of the last step, by names such as `train/loss`.
    fn write_events(&mut self, group: &str, line: &impl Serialize) -> Result<()> {
        let Some(events) = &mut self.events else { return Ok(()) };
        let values = numbers(line);
        let tags: Vec<(String, f64)> =
            values.into_iter().map(|(name, value)| (format!("{group}/{name}"), value)).collect();
        let scalars: Vec<(&str, f64)> = tags.iter().map(|(tag, value)| (tag.as_str(), *value)).collect();
        events.scalars(self.step, &scalars)
    }

    /// Appends to a finished log that all persons now train for `epochs` epochs in `folder`, unless the log says so
    /// already.
    ///
    /// # Errors
    /// [`Error::Io`] if it can't be read or written.
    pub fn mark_refit(path: &Path, epochs: usize, folder: &str) -> Result<()> {
        let line = serde_json::json!({ "kind": REFIT, "epochs": epochs, "folder": folder });
        let marked = line.to_string();
        let is_marked = read(path)?.lines().any(|found| found == marked);
        if is_marked { Ok(()) } else { Log::append(path, 0)?.write(&line) }
    }

    fn write(&mut self, line: &impl Serialize) -> Result<()> {
        let mut text = match serde_json::to_string(line) {
            Ok(text) => text,
            Err(e) => unreachable!("numbers can always be written as JSON: {e}"),
        };
        text.push('\n');
        // One unbuffered write: readers see whole lines, and a killed process loses none.
        self.file.write_all(text.as_bytes()).map_err(Error::io("write", &self.path))
    }
}

/// Returns true if a line is from before the saved state.
fn belongs(line: &str, steps: u64, epochs: usize) -> bool {
    let Ok(line) = serde_json::from_str::<Value>(line) else { return false };
    let number = |key: &str| line.get(key).and_then(Value::as_u64);
    if line.get("kind").and_then(Value::as_str) == Some(EPOCH) {
        number("epoch").is_some_and(|epoch| epoch < epochs as u64)
    } else {
        number("step").is_some_and(|step| step <= steps)
    }
}

/// The numbers of a line by their names, without its step.
fn numbers(line: &impl Serialize) -> Vec<(String, f64)> {
    let value = serde_json::to_value(line).unwrap_or_default();
    let named = value.as_object().into_iter().flatten().filter(|(name, _)| *name != "step");
    named.filter_map(|(name, value)| Some((name.clone(), value.as_f64()?))).collect()
}

/// Columns of `log.csv`, in the order of the log's names.
const COLUMNS: [&str; 18] = [
    "epoch",
    "train_loss",
    "val_loss",
    "val_accuracy",
    "val_map",
    "val_rank1",
    "clusters",
    "outliers",
    "largest",
    "eps",
    "rank1",
    "rank5",
    "rank10",
    "rank20",
    "map",
    "minp",
    "chosen_on_test_set",
    "seconds",
];

/// Writes epochs as a table with the names of the log; a cell without a value is empty.
///
/// # Errors
/// [`Error::Io`] if it can't be written.
pub fn write_csv(path: &Path, epochs: &[EpochLine]) -> Result<()> {
    let mut text = format!("{}\n", COLUMNS.join(","));
    for line in epochs {
        let value = serde_json::to_value(line).unwrap_or_default();
        let cell = |name: &&str| match &value[*name] {
            Value::Null => String::new(),
            value => value.to_string(),
        };
        text.push_str(&format!("{}\n", COLUMNS.iter().map(cell).collect::<Vec<_>>().join(",")));
    }
    write_atomically(path, text.as_bytes())
}

/// Reads the epochs of a log, in order. Ignores lines that can't be parsed.
///
/// # Errors
/// [`Error::Io`] if it can't be read. A missing log has no epochs.
pub fn epochs(path: &Path) -> Result<Vec<EpochLine>> {
    let text = read(path)?;
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let marked = lines.filter(|line| line.get("kind").and_then(Value::as_str) == Some(EPOCH));
    Ok(marked.filter_map(|line| serde_json::from_value(line).ok()).collect())
}

/// Reads the steps of a log, in order. Ignores lines that can't be parsed.
///
/// # Errors
/// [`Error::Io`] if it can't be read. A missing log has no steps.
pub fn steps(path: &Path) -> Result<Vec<StepLine>> {
    Ok(read(path)?.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

/// Reads a log; empty if it is missing. An incomplete last line may not be UTF-8.
fn read(path: &Path) -> Result<String> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        Err(e) => Err(Error::io("read", path)(e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(step: u64, epoch: usize) -> StepLine {
        StepLine {
            step,
            epoch,
            loss: 92.5,
            loss_scale: None,
            skipped: false,
            lr: 2.55e-4,
            trainable_params: 12_554_770,
            images_per_s: 31.5,
            gpu_bytes: 1 << 31,
            ranks: None,
        }
    }

    fn epoch(epoch: usize) -> EpochLine {
        EpochLine {
            epoch,
            train_loss: 80.0,
            val_loss: Some(79.0),
            val_accuracy: Some(0.125),
            seconds: 3.5,
            ..EpochLine::default()
        }
    }

    /// Writes two epochs of two steps, and the first step of a third. Returns the text.
    fn written(path: &Path) -> String {
        let mut log = Log::create(path).unwrap();
        for e in 0..2 {
            log.step(&step(2 * e as u64 + 1, e)).unwrap();
            log.step(&step(2 * e as u64 + 2, e)).unwrap();
            log.epoch(&epoch(e)).unwrap();
        }
        log.step(&step(5, 2)).unwrap();
        // The log is still open, and its lines are already in the file.
        std::fs::read_to_string(path).unwrap()
    }

    #[test]
    fn lines_are_those_of_the_contract() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.jsonl");
        let text = written(&path);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[0],
            r#"{"step":1,"epoch":0,"loss":92.5,"lr":0.000255,"trainable_params":12554770,"images_per_s":31.5,"gpu_bytes":2147483648}"#
        );
        assert_eq!(
            lines[2],
            r#"{"kind":"epoch","epoch":0,"train_loss":80.0,"val_loss":79.0,"val_accuracy":0.125,"seconds":3.5}"#
        );
        assert_eq!(lines.len(), 7);
        assert_eq!(epochs(&path).unwrap(), [epoch(0), epoch(1)]);
        assert!(epochs(&dir.path().join("none")).unwrap().is_empty());

        let scores =
            RetrievalScores { rank1: 0.5, rank5: 0.75, rank10: 0.75, rank20: 1.0, map: 0.25, minp: 0.125 };
        let line = EpochLine { retrieval: Some(scores), ..epoch(2) };
        Log::create(&path).unwrap().epoch(&line).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(
            text.contains(r#""rank1":0.5,"rank5":0.75,"rank10":0.75,"rank20":1.0,"map":0.25,"minp":0.125,"#)
        );
        assert_eq!(epochs(&path).unwrap(), [line]);
    }

    #[test]
    fn every_number_of_an_epoch_has_a_column() {
        let scores =
            RetrievalScores { rank1: 0.5, rank5: 0.75, rank10: 0.75, rank20: 1.0, map: 0.25, minp: 0.125 };
        let clusters = ClusterCounts { clusters: 4, outliers: 3, largest: 2, eps: 0.5 };
        let full = EpochLine {
            retrieval: Some(scores),
            clusters: Some(clusters),
            val_map: Some(0.5),
            val_rank1: Some(1.0),
            chosen_on_test_set: true,
            ..epoch(1)
        };
        let names = serde_json::to_value(full).unwrap().as_object().unwrap().clone();
        let unknown: Vec<&String> = names.keys().filter(|name| !COLUMNS.contains(&name.as_str())).collect();
        assert!(unknown.is_empty() && names.len() == COLUMNS.len(), "{unknown:?}");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.csv");
        write_csv(&path, &[epoch(0), full]).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[1], "0,80.0,79.0,0.125,,,,,,,,,,,,,,3.5");
        assert_eq!(lines[2], "1,80.0,79.0,0.125,0.5,1.0,4,3,2,0.5,0.5,0.75,0.75,1.0,0.25,0.125,true,3.5");
        assert_eq!(lines.len(), 3);
    }

    #[test]
    fn resuming_trims_to_the_saved_state() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.jsonl");
        let all: Vec<String> = written(&path).split_inclusive('\n').map(str::to_string).collect();
        for (steps, done, kept) in
            [(5, 2, 7), (4, 2, 6), (4, 1, 5), (3, 1, 4), (2, 1, 3), (2, 0, 2), (0, 0, 0)]
        {
            std::fs::write(&path, all.concat()).unwrap();
            let mut log = Log::resume(&path, steps, done).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), all[..kept].concat(), "{steps} {done}");
            log.step(&step(steps + 1, 9)).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), kept + 1);
        }
    }

    #[test]
    fn an_incomplete_last_line_and_a_missing_log_are_accepted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.jsonl");
        let text = written(&path);
        // Cut anywhere in the last line, before its newline, and inside a character.
        for cut in [1, 2, 60] {
            std::fs::write(&path, &text[..text.len() - cut]).unwrap();
            Log::resume(&path, 5, 2).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 6);
        }
        std::fs::write(&path, [text.as_bytes(), b"{\"step\":6,\"\xc3"].concat()).unwrap();
        Log::resume(&path, 9, 9).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);

        let fresh = dir.path().join("fresh.jsonl");
        Log::resume(&fresh, 5, 2).unwrap().step(&step(6, 2)).unwrap();
        assert_eq!(std::fs::read_to_string(&fresh).unwrap().lines().count(), 1);
    }
}
