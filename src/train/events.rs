//! Event files for TensorBoard: scalars by step.
//!
//! Source: TensorFlow's `tf_record` and `event.proto`. A file is a list of records: the length of the data (u64), its
//! masked CRC-32C (u32), the data and their masked CRC-32C (u32), all little-endian. A CRC c is masked as
//! ((c >> 15) | (c << 17)) + 0xa282ead8. The data are a message `Event`.

use crate::error::{Error, Result};
use crate::storage::atomic::write_atomically;
use prost::Message;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Name of the file in a run folder. TensorBoard finds files by `tfevents`.
pub const FILE: &str = "events.out.tfevents.lat-wgpu";

/// Version of the format, in the first record.
const VERSION: &str = "brain.Event:2";

/// Bytes of a record besides its data.
const FRAME: usize = 16;

/// `Event` of `event.proto`, with what this file has of it.
#[derive(Clone, PartialEq, Message)]
struct Event {
    /// Seconds since 1970.
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
}

/// `Summary` of `summary.proto`.
#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Scalar>,
}

/// `Summary.Value`.
#[derive(Clone, PartialEq, Message)]
struct Scalar {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
}

/// An event file, open for appending.
#[derive(Debug)]
pub struct Events {
    path: PathBuf,
    file: File,
}

impl Events {
    /// Creates a file without scalars; replaces an old one.
    ///
    /// # Errors
    /// [`Error::Io`] if it can't be written.
    pub fn create(path: &Path) -> Result<Events> {
        write_atomically(path, &record(&event(0, Some(VERSION.to_string()), None)))?;
        Events::append(path)
    }

    /// Opens the file of a run that was saved after `steps` steps. Removes later records, and damaged ones.
    ///
    /// # Errors
    /// [`Error::Io`] if it can't be read or written.
    pub fn resume(path: &Path, steps: u64) -> Result<Events> {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Events::create(path),
            Err(e) => return Err(Error::io("read", path)(e)),
        };
        let kept: Vec<u8> = records(&bytes).filter(|data| step_of(data) <= steps).flat_map(record).collect();
        if kept.is_empty() {
            return Events::create(path);
        }
        if kept != bytes {
            write_atomically(path, &kept)?;
        }
        Events::append(path)
    }

    fn append(path: &Path) -> Result<Events> {
        let file = File::options().append(true).open(path).map_err(Error::io("write", path))?;
        Ok(Events { path: path.to_path_buf(), file })
    }

    /// Appends the scalars of a step.
    ///
    /// # Errors
    /// [`Error::Io`] if it can't be written.
    pub fn scalars(&mut self, step: u64, scalars: &[(&str, f64)]) -> Result<()> {
        let scalar =
            |&(tag, value): &(&str, f64)| Scalar { tag: tag.to_string(), simple_value: Some(value as f32) };
        let summary = Summary { value: scalars.iter().map(scalar).collect() };
        // One unbuffered write: readers see whole records, and a killed process loses none.
        let written = self.file.write_all(&record(&event(step, None, Some(summary))));
        written.map_err(Error::io("write", &self.path))
    }
}

/// The data of an event of now.
fn event(step: u64, file_version: Option<String>, summary: Option<Summary>) -> Vec<u8> {
    let wall_time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64());
    Event { wall_time, step: step as i64, file_version, summary }.encode_to_vec()
}

/// The step of an event; 0 if it is damaged.
fn step_of(data: &[u8]) -> u64 {
    Event::decode(data).map_or(0, |event| event.step as u64)
}

fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// Data as a record.
fn record(data: &(impl AsRef<[u8]> + ?Sized)) -> Vec<u8> {
    let data = data.as_ref();
    let length = (data.len() as u64).to_le_bytes();
    let mut bytes = length.to_vec();
    bytes.extend(masked_crc(&length).to_le_bytes());
    bytes.extend(data);
    bytes.extend(masked_crc(data).to_le_bytes());
    bytes
}

/// The data of a file's records, up to the first damaged one.
fn records(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = u64::from_le_bytes(rest.get(..8)?.try_into().ok()?);
        let end = usize::try_from(length).ok()?.checked_add(FRAME)?;
        let data = rest.get(12..end - 4)?;
        let whole = rest.get(..end)?;
        (record(data) == whole).then(|| {
            rest = &rest[end..];
            data
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_the_format() {
        // RFC 3720, B.4: 32 bytes of zeros.
        assert_eq!(crc32c::crc32c(&[0; 32]), 0x8a91_36aa);
        for step in [0, 1, 127, 128, 1 << 40, u64::MAX] {
            assert_eq!(step_of(&event(step, Some("x".to_string()), None)), step);
        }
    }

    #[test]
    fn a_resumed_file_ends_at_the_saved_step() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let mut events = Events::create(&path).unwrap();
        let mut sizes = vec![std::fs::metadata(&path).unwrap().len()];
        for step in 1..=300 {
            events.scalars(step, &[("train/loss", 1.0 / step as f64), ("train/lr", 0.1)]).unwrap();
            sizes.push(std::fs::metadata(&path).unwrap().len());
        }
        let whole = std::fs::read(&path).unwrap();
        for steps in [300, 299, 128, 1, 0] {
            // The last record may be cut, and a step that the run repeats is removed.
            for cut in [0, 1, 9] {
                std::fs::write(&path, &whole[..whole.len() - cut]).unwrap();
                Events::resume(&path, steps).unwrap();
                let kept = if cut > 0 { steps.min(299) } else { steps };
                assert_eq!(std::fs::metadata(&path).unwrap().len(), sizes[kept as usize], "{steps} {cut}");
            }
        }
        std::fs::write(&path, b"another file").unwrap();
        Events::resume(&path, 5).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), sizes[0]);
        std::fs::remove_file(&path).unwrap();
        Events::resume(&path, 5).unwrap();
        assert!(path.exists());
    }
}
