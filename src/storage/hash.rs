//! SHA-256 of files, lists and weights.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// Bytes of a file to read at a time.
const CHUNK: usize = 1 << 20;

/// Computes a SHA-256 from pieces.
#[derive(Debug, Clone, Default)]
pub struct Hash(Sha256);

impl Hash {
    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Returns 64 hexadecimal digits, as `sha256sum` prints them.
    pub fn hex(self) -> String {
        self.0.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Hashes a file; returns 64 hexadecimal digits.
///
/// # Errors
/// `Io` if it can't be read.
pub fn of_file(path: &Path) -> Result<String> {
    let mut file = File::open(path).map_err(Error::io("open", path))?;
    let mut hash = Hash::default();
    let mut bytes = vec![0; CHUNK];
    loop {
        match file.read(&mut bytes).map_err(Error::io("read", path))? {
            0 => return Ok(hash.hex()),
            read => hash.update(&bytes[..read]),
        }
    }
}

/// Returns the first eight bytes of a text's SHA-256 as a big-endian number.
pub fn number(text: &str) -> u64 {
    number_of_bytes(text.as_bytes())
}

/// Like [`number`], of the content of a small file.
///
/// # Errors
/// `Io` if it can't be read.
pub fn number_of_file(path: &Path) -> Result<u64> {
    Ok(number_of_bytes(&std::fs::read(path).map_err(Error::io("read", path))?))
}

fn number_of_bytes(bytes: &[u8]) -> u64 {
    Sha256::digest(bytes).iter().take(8).fold(0, |number, &byte| number << 8 | u64::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_standard_s_example() {
        // FIPS 180-2, appendix B.1.
        let wanted = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let mut hash = Hash::default();
        hash.update(b"a");
        hash.update(b"bc");
        assert_eq!(hash.hex(), wanted);
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("abc");
        std::fs::write(&file, "abc").unwrap();
        assert_eq!(of_file(&file).unwrap(), wanted);
        assert_eq!(number("abc"), 0xba78_16bf_8f01_cfea);
        assert_eq!(number_of_file(&file).unwrap(), 0xba78_16bf_8f01_cfea);
        assert!(matches!(of_file(&dir.path().join("none")), Err(Error::Io { .. })));
    }
}
