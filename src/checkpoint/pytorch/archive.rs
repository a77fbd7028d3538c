//! The directory of a zip archive, as PyTorch writes it: large archives, entries that are stored or deflated.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use flate2::read::DeflateDecoder;

/// First bytes of an entry.
pub(super) const ENTRY: &[u8; 4] = b"PK\x03\x04";

/// Largest directory. PyTorch's has 100 bytes for each tensor.
const MAX_DIRECTORY: u64 = 16 << 20;

/// Bytes of the last record, without its comment.
const END: usize = 22;

/// An entry of the directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::checkpoint) struct Entry {
    /// Bytes of the content.
    pub(super) size: u64,
    /// Bytes in the archive.
    packed: u64,
    /// Compression: 0 for none, 8 for deflate.
    method: u16,
    /// Bit 0: encrypted.
    flags: u16,
    /// CRC-32 of the content, or 0 if the writer left it out.
    checksum: u32,
    /// Offset of the local header.
    header: u64,
}

/// Reads the little-endian number of N bytes at `at`; 0 beyond the end.
fn number<const N: usize>(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    if let Some(found) = bytes.get(at..at + N) {
        number[..N].copy_from_slice(found);
    }
    u64::from_le_bytes(number)
}

/// Reads `count` bytes at `start`. Fails before it allocates, if the file is shorter.
pub(super) fn read_at(mut file: &File, start: u64, count: u64) -> io::Result<Vec<u8>> {
    let length = file.metadata()?.len();
    if start.checked_add(count).is_none_or(|end| end > length) {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut bytes = vec![0; count as usize];
    file.seek(SeekFrom::Start(start))?;
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Reads the directory: entries by name.
///
/// # Errors
/// The reason, if it is damaged or cut off.
pub(in crate::checkpoint) fn directory(file: &File) -> Result<BTreeMap<String, Entry>, String> {
    let cut = |_: io::Error| "its directory is cut off: was the copy or download complete?".to_string();
    let length = file.metadata().map_err(cut)?.len();
    // The last record has a comment of at most 64 KiB.
    let start = length.saturating_sub(END as u64 + u64::from(u16::MAX));
    let tail = read_at(file, start, length - start).map_err(cut)?;
    let end = (0..tail.len().saturating_sub(END - 1)).rev().find(|&at| {
        tail[at..].starts_with(b"PK\x05\x06") && at + END + number::<2>(&tail, at + 20) as usize == tail.len()
    });
    let end = end.ok_or("its directory is missing: was the copy or download complete?")?;
    let record = &tail[end..];
    let (mut size, mut at) = (number::<4>(record, 12), number::<4>(record, 16));
    // A large archive has a second record, found by 20 bytes before the first.
    if let Some(locator) =
        end.checked_sub(20).map(|at| &tail[at..]).filter(|bytes| bytes.starts_with(b"PK\x06\x07"))
    {
        let record = read_at(file, number::<8>(locator, 8), 56).map_err(cut)?;
        if !record.starts_with(b"PK\x06\x06") {
            return Err("its directory is damaged".to_string());
        }
        (size, at) = (number::<8>(&record, 40), number::<8>(&record, 48));
    }
    if size > MAX_DIRECTORY {
        return Err(format!("its directory has {size} bytes, the limit is {MAX_DIRECTORY}"));
    }
    let bytes = read_at(file, at, size).map_err(cut)?;
    let mut entries = BTreeMap::new();
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        let [name, extra, comment] = [28, 30, 32].map(|at| number::<2>(rest, at) as usize);
        let fields = rest.get(46..46 + name + extra + comment).filter(|_| rest.starts_with(b"PK\x01\x02"));
        let fields = fields.ok_or("its directory is damaged")?;
        let entry = Entry {
            flags: number::<2>(rest, 8) as u16,
            method: number::<2>(rest, 10) as u16,
            checksum: number::<4>(rest, 16) as u32,
            packed: number::<4>(rest, 20),
            size: number::<4>(rest, 24),
            header: number::<4>(rest, 42),
        };
        let entry = entry.widened(&fields[name..name + extra]);
        entries.insert(String::from_utf8_lossy(&fields[..name]).into_owned(), entry);
        rest = &rest[46 + fields.len()..];
    }
    Ok(entries)
}

impl Entry {
    /// Takes sizes of 64 bits from the extra fields, where the others have no room.
    fn widened(mut self, mut extra: &[u8]) -> Entry {
        while extra.len() >= 4 {
            let length = number::<2>(extra, 2) as usize;
            let Some(field) = extra.get(4..4 + length) else { break };
            if number::<2>(extra, 0) == 1 {
                let mut at = 0;
                for value in [&mut self.size, &mut self.packed, &mut self.header] {
                    if *value == u64::from(u32::MAX) {
                        *value = number::<8>(field, at);
                        at += 8;
                    }
                }
            }
            extra = &extra[4 + length..];
        }
        self
    }

    /// Returns whether the content is in the archive as it is.
    pub(super) fn is_stored(&self) -> bool {
        self.method == 0
    }

    /// Finds the first byte of the content.
    ///
    /// # Errors
    /// The reason, if there is none or it can't be read.
    pub(super) fn start(&self, file: &File) -> Result<u64, String> {
        let damaged = || "an entry of the archive is damaged or cut off".to_string();
        let local = read_at(file, self.header, 30).map_err(|_| damaged())?;
        let start = self.header + 30 + number::<2>(&local, 26) + number::<2>(&local, 28);
        let length = file.metadata().map_err(|_| damaged())?.len();
        let is_inside = start.checked_add(self.packed).is_some_and(|end| end <= length);
        if !local.starts_with(ENTRY) || !is_inside {
            return Err(damaged());
        }
        match (self.flags & 1, self.method) {
            (0, 0) if self.size == self.packed => Ok(start),
            (0, 0) => Err(damaged()),
            (0, 8) => Ok(start),
            (0, _) => Err("an entry of the archive is compressed by a method other than deflate".to_string()),
            _ => Err("an entry of the archive is encrypted".to_string()),
        }
    }

    /// Compares the CRC-32 of a stored entry, unless the archive has none.
    ///
    /// # Errors
    /// The reason, if they differ or the content can't be read.
    pub(super) fn verify(&self, mut file: &File) -> Result<(), String> {
        let start = self.start(file)?;
        let mut content = crc32fast::Hasher::new();
        let mut buffer = vec![0; (1 << 16).min(self.size as usize)];
        let mut left = self.size;
        file.seek(SeekFrom::Start(start)).map_err(|error| error.to_string())?;
        while left > 0 {
            let now = left.min(buffer.len() as u64) as usize;
            file.read_exact(&mut buffer[..now]).map_err(|error| error.to_string())?;
            content.update(&buffer[..now]);
            left -= now as u64;
        }
        self.compare(content.finalize())
    }

    fn compare(&self, found: u32) -> Result<(), String> {
        if self.checksum == 0 || self.checksum == found {
            return Ok(());
        }
        Err("the content of an entry doesn't match its checksum: was the copy or download complete?"
            .to_string())
    }

    /// Reads the whole content, which must have at most `limit` bytes.
    ///
    /// # Errors
    /// The reason, if it is larger, damaged or can't be read.
    pub(in crate::checkpoint) fn read(&self, mut file: &File, limit: u64) -> Result<Vec<u8>, String> {
        let start = self.start(file)?;
        if self.size > limit {
            return Err(format!("an entry of the archive has {} bytes, the limit is {limit}", self.size));
        }
        file.seek(SeekFrom::Start(start)).map_err(|error| error.to_string())?;
        let mut bytes = Vec::new();
        // One byte more than it claims shows a wrong size.
        let limit = self.size + 1;
        let packed = file.take(self.packed);
        let read = match self.is_stored() {
            true => packed.take(limit).read_to_end(&mut bytes),
            false => DeflateDecoder::new(packed).take(limit).read_to_end(&mut bytes),
        };
        if read.is_err() || bytes.len() as u64 != self.size {
            return Err("an entry of the archive is damaged".to_string());
        }
        self.compare(crc32fast::hash(&bytes))?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_64_bits_are_taken_where_the_others_have_no_room() {
        let full = u64::from(u32::MAX);
        let narrow = Entry { size: full, packed: 5, method: 0, flags: 0, checksum: 0, header: full };
        let field =
            [&[9, 9, 2, 0, 1, 1, 1, 0, 16, 0][..], &(1u64 << 40).to_le_bytes(), &7u64.to_le_bytes()].concat();
        let wide = narrow.widened(&field);
        assert_eq!((wide.size, wide.packed, wide.header), (1 << 40, 5, 7));
        // A field that is cut off changes nothing, one that is too short gives 0.
        assert_eq!(narrow.widened(&field[..20]), narrow);
        assert_eq!(narrow.widened(&[1, 0, 0, 0]).size, 0);
    }

    #[test]
    fn nothing_is_allocated_for_a_claim() {
        let file = tempfile::tempfile().unwrap();
        assert!(read_at(&file, 0, 1 << 62).is_err());
        assert!(read_at(&file, u64::MAX, 2).is_err());
        assert!(directory(&file).is_err());
    }
}
