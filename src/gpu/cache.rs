//! The cache of compiled pipelines: one file for each adapter and driver in the user's cache folder, where the driver
//! supports it.
//!
//! A file is replaced as a whole. Of processes that run at the same time, the last one writes the file that remains. A
//! file that is damaged, or of another adapter or driver, is ignored. No failure here is an error: a pipeline that
//! isn't cached is compiled.

use super::adapter::{AdapterSummary, PIPELINE_CACHE};
use super::class::AdapterClass;
use super::options::ContextOptions;
use super::tuning;
use sha2::{Digest, Sha256};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// First bytes of a file. 32 bytes of SHA-256 over the adapter's identity and the driver's data follow, then the data.
const MAGIC: &[u8] = b"lat-wgpu pipelines 1\n";
/// Largest file, in bytes. A cache that exceeds it is removed.
const MOST_BYTES: u64 = 64 << 20;

/// The file of compiled pipelines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheFile {
    /// Path of the file.
    pub path: PathBuf,
    /// Size in bytes; `None` if the file doesn't exist yet.
    pub bytes: Option<u64>,
}

impl AdapterSummary {
    /// Returns the file in which a context opened with `options` keeps compiled pipelines.
    ///
    /// # Errors
    /// The reason why it keeps none.
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
        // Lavapipe's cache is a header of 32 bytes without code: the driver keeps machine code in files of its own.
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
    /// The data that was read, to skip writing it again.
    loaded: Option<Vec<u8>>,
}

impl PipelineCache {
    /// Opens a cache with the data of a valid file. The device must have the feature.
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
        // SAFETY: the hash shows that a cache of this adapter and driver wrote the data. Anyone who can forge a file in
        // the user's cache folder can run programs as the user anyway.
        let raw = unsafe { device.create_pipeline_cache(&descriptor) };
        PipelineCache { raw, path, identity, loaded }
    }

    /// Writes the driver's data, if it differs from what was read.
    pub fn keep(&self) {
        let Some(data) = self.raw.get_data().filter(|data| Some(data) != self.loaded.as_ref()) else {
            return;
        };
        // Without the file, the next run only takes longer.
        let _ = write(&self.path, &self.identity, &data);
    }
}

fn hash(identity: &str, data: &[u8]) -> [u8; 32] {
    let hash = Sha256::new().chain_update((identity.len() as u64).to_le_bytes());
    hash.chain_update(identity).chain_update(data).finalize().into()
}

/// Reads the driver's data; `None` if the file is missing, too large, damaged or of another adapter.
fn read(path: &Path, identity: &str) -> Option<Vec<u8>> {
    let mut file = Vec::new();
    std::fs::File::open(path).ok()?.take(MOST_BYTES + 1).read_to_end(&mut file).ok()?;
    if file.len() as u64 > MOST_BYTES {
        return None;
    }
    let (found, data) = file.strip_prefix(MAGIC)?.split_first_chunk::<32>()?;
    (*found == hash(identity, data)).then(|| data.to_vec())
}

/// Replaces the file as a whole; removes it if the new one would be too large.
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
        // The file is replaced, and the folder holds nothing else.
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
