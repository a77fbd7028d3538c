//! Compiled pipelines, kept from run to run where the driver gives them out: one file for each adapter and driver in the
//! user's cache folder.
//!
//! A file is replaced as a whole, so processes that run at once see an old one or a new one; the last to end is kept. A file
//! that is damaged, or of another adapter or driver, counts as none. Nothing here is an error: a pipeline that isn't kept is
//! compiled.

use super::adapter::{AdapterSummary, PIPELINE_CACHE};
use super::class::AdapterClass;
use super::options::ContextOptions;
use super::tuning;
use sha2::{Digest, Sha256};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// How a file begins; behind it come 32 bytes of SHA-256 over the adapter's identity and the driver's bytes, then those.
const MAGIC: &[u8] = b"lat-wgpu pipelines 1\n";
/// Longest file, in bytes: a cache that outgrows it begins anew.
const MOST_BYTES: u64 = 64 << 20;

/// Where compiled pipelines are kept, and what is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheFile {
    /// The file.
    pub path: PathBuf,
    /// Its length; `None` if there is no file yet.
    pub bytes: Option<u64>,
}

impl AdapterSummary {
    /// Where a context opened by `options` keeps compiled pipelines.
    ///
    /// # Errors
    /// Why it keeps none.
    pub fn pipeline_cache(&self, options: &ContextOptions) -> std::result::Result<CacheFile, &'static str> {
        if options.default_limits || options.portable {
            return Err("off without optional features");
        }
        if options.pipeline_cache == Some(false) {
            return Err("off by LAT_PIPELINE_CACHE=0");
        }
        if !self.has(PIPELINE_CACHE) {
            return Err("the adapter has none");
        }
        // Lavapipe's cache holds its header alone, 32 bytes: the driver keeps machine code in files of its own.
        if self.class == AdapterClass::Cpu && options.pipeline_cache != Some(true) {
            return Err("off on CPU adapters");
        }
        let folder = tuning::folder().ok_or("no folder: neither HOME nor LAT_CACHE is set")?;
        let path = folder.join("pipelines").join(tuning::file_name(self) + ".bin");
        let bytes = std::fs::metadata(&path).ok().map(|metadata| metadata.len());
        Ok(CacheFile { path, bytes })
    }
}

/// The driver's pipeline cache of an opened adapter.
pub(super) struct PipelineCache {
    pub raw: wgpu::PipelineCache,
    path: PathBuf,
    identity: String,
    /// The data that was read: it needn't be written again.
    loaded: Option<Vec<u8>>,
}

impl PipelineCache {
    /// Makes a cache on a device that has the feature, from the file if that is whole.
    pub fn open(device: &wgpu::Device, info: &wgpu::AdapterInfo, path: PathBuf) -> PipelineCache {
        let identity = format!(
            "{} {} {:x} {:x} {} {}",
            info.backend, info.name, info.vendor, info.device, info.driver, info.driver_info
        );
        let loaded = read(&path, &identity);
        let descriptor = wgpu::PipelineCacheDescriptor {
            label: Some("pipelines"),
            data: loaded.as_deref(),
            fallback: true,
        };
        // SAFETY: the bytes are what a cache of this adapter and driver gave out, by the hash over them and its identity;
        // whoever can change files in the user's cache folder can run programs as the user.
        let raw = unsafe { device.create_pipeline_cache(&descriptor) };
        PipelineCache { raw, path, identity, loaded }
    }

    /// Writes what the driver has, if it is more than what was read.
    pub fn keep(&self) {
        let Some(data) = self.raw.get_data().filter(|data| Some(data) != self.loaded.as_ref()) else {
            return;
        };
        // A cache that can't be kept costs time alone.
        let _ = write(&self.path, &self.identity, &data);
    }
}

fn hash(identity: &str, data: &[u8]) -> [u8; 32] {
    let hash = Sha256::new().chain_update((identity.len() as u64).to_le_bytes());
    hash.chain_update(identity).chain_update(data).finalize().into()
}

/// The driver's bytes; `None` if the file isn't there, is too long, damaged, or somebody else's.
fn read(path: &Path, identity: &str) -> Option<Vec<u8>> {
    let mut file = Vec::new();
    std::fs::File::open(path).ok()?.take(MOST_BYTES + 1).read_to_end(&mut file).ok()?;
    if file.len() as u64 > MOST_BYTES {
        return None;
    }
    let (found, data) = file.strip_prefix(MAGIC)?.split_first_chunk::<32>()?;
    (*found == hash(identity, data)).then(|| data.to_vec())
}

/// Replaces the file as a whole; removes it if the new one is too long.
fn write(path: &Path, identity: &str, data: &[u8]) -> std::io::Result<()> {
    if (MAGIC.len() + 32 + data.len()) as u64 > MOST_BYTES {
        return std::fs::remove_file(path);
    }
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    for part in [MAGIC, &hash(identity, data), data] {
        file.write_all(part)?;
    }
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_and_foreign_files_count_as_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/cache.bin");
        assert_eq!(read(&path, "a"), None);
        let data: Vec<u8> = (0..1000u32).map(|i| (i % 251) as u8).collect();
        write(&path, "a", &data).unwrap();
        assert_eq!(read(&path, "a"), Some(data.clone()));
        assert_eq!(read(&path, "b"), None);
        let whole = std::fs::read(&path).unwrap();
        for at in [0, MAGIC.len(), MAGIC.len() + 40, whole.len() - 1] {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            std::fs::write(&path, &damaged).unwrap();
            assert_eq!(read(&path, "a"), None, "byte {at}");
            std::fs::write(&path, &whole[..at]).unwrap();
            assert_eq!(read(&path, "a"), None, "{at} bytes");
        }
        // It is replaced, and nothing else is left in the folder.
        write(&path, "a", &data[1..]).unwrap();
        assert_eq!(read(&path, "a").as_deref(), Some(&data[1..]));
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_cache_that_outgrows_its_bound_begins_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cache.bin");
        write(&path, "a", b"few").unwrap();
        write(&path, "a", &vec![0; MOST_BYTES as usize]).unwrap();
        assert!(!path.exists());
        std::fs::File::create(&path).unwrap().set_len(MOST_BYTES + 1).unwrap();
        assert_eq!(read(&path, "a"), None);
    }
}
