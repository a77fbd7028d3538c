//! Event files for TensorBoard: scalars by step.
//!
//! Source: TensorFlow's `tf_record` and `event.proto`. A file is a list of records: the length of the data (u64), its
//! masked CRC-32C (u32), the data and their masked CRC-32C (u32), all little-endian. A CRC c is masked as
//! ((c >> 15) | (c << 17)) + 0xa282ead8. The data are a protobuf message `Event`: wall_time (field 1, double), step
//! (2, int64), and file_version (3, text) or summary (5), which holds values (1) of tag (1, text) and simple_value
//! (2, float).

use crate::error::{Error, Result};
use crate::storage::atomic::write_atomically;
use crate::storage::varint;
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
        write_atomically(path, &record(&event(0, 3, VERSION.as_bytes())))?;
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
        let mut summary = Vec::new();
        for (tag, value) in scalars {
            let mut scalar = field(1, tag.as_bytes());
            scalar.push(2 << 3 | 5);
            scalar.extend((*value as f32).to_le_bytes());
            summary.extend(field(1, &scalar));
        }
        // One unbuffered write: readers see whole records, and a killed process loses none.
        let written = self.file.write_all(&record(&event(step, 5, &summary)));
        written.map_err(Error::io("write", &self.path))
    }
}

/// An event of now, with one field of bytes.
fn event(step: u64, number: u8, content: &[u8]) -> Vec<u8> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64());
    let mut data = vec![1 << 3 | 1];
    data.extend(now.to_le_bytes());
    data.push(2 << 3);
    data.extend(varint::bytes(step));
    data.extend(field(number, content));
    data
}

/// The step of an event of this file.
fn step_of(data: &[u8]) -> u64 {
    varint::read(&mut data.get(10..).unwrap_or_default()).unwrap_or(0)
}

/// A field of bytes, with its number and its length.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![number << 3 | 2];
    bytes.extend(varint::bytes(content.len() as u64));
    bytes.extend(content);
    bytes
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
        assert_eq!(varint::bytes(300), [0xac, 0x02]);
        for step in [0, 1, 127, 128, 1 << 40, u64::MAX] {
            assert_eq!(step_of(&event(step, 3, b"x")), step);
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
