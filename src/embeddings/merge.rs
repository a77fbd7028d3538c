//! Merges the segments of an index, or of all shards, into one file: the same bytes as one run over the whole list.
//!
//! Copies rows in the order of their names. Only the names are held in memory.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::index::{MANIFEST, Manifest, Shard, ShardNumber, hash_of_list};
use super::provenance::Provenance;
use super::rows::{EmbeddingFile, Rows};
use super::writer::EmbeddingWriter;
use crate::error::{Error, Result};
use crate::observer::{Observer, Stage};
use crate::storage::hash;

/// Bytes of a segment that are read at a time.
const AHEAD: usize = 1 << 16;

/// An index folder, or all shards of a list, to merge into one file.
pub struct Merge {
    /// The index folder, or all shards in order.
    sources: Vec<Source>,
}

/// A folder with a manifest.
struct Source {
    folder: PathBuf,
    manifest: Manifest,
}

/// Result of [`Merge::write`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merged {
    /// Rows of the file.
    pub rows: usize,
    /// Images that could not be read.
    pub skipped: usize,
    /// Segments that were merged.
    pub segments: usize,
}

/// Location of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Location {
    segment: usize,
    row: usize,
}

impl Merge {
    /// Opens an index folder, or a folder of `shard-I-of-N` folders, and checks their manifests.
    ///
    /// # Errors
    /// `Data` if shards are missing or incomplete, or if they differ in model, settings or list; `Io` if a manifest
    /// can't be read.
    pub fn open(folder: &Path) -> Result<Merge> {
        Merge::open_with(folder, false)
    }

    /// Like [`Self::open`]; accepts shards of different weights if `allow_other_weights` is set.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_with(folder: &Path, allow_other_weights: bool) -> Result<Merge> {
        if let Some(manifest) = Manifest::read(folder)? {
            let source = Source { folder: folder.to_path_buf(), manifest };
            if !source.manifest.complete {
                return Err(source.incomplete());
            }
            return match &source.manifest.shard {
                Some(Shard { number, .. }) if number.of > 1 => Err(Error::Data(format!(
                    "{} is only shard {number}: merge the folder that holds all {} shards",
                    folder.display(),
                    number.of
                ))),
                _ => Ok(Merge { sources: vec![source] }),
            };
        }
        let mut numbers = BTreeSet::new();
        for entry in std::fs::read_dir(folder).map_err(Error::io("read", folder))? {
            let name = entry.map_err(Error::io("read", folder))?.file_name();
            numbers.extend(name.to_str().and_then(ShardNumber::from_folder));
        }
        let bad = |what: String| Error::Data(format!("{}: {what}", folder.display()));
        let (Some(first), Some(last)) =
            (numbers.iter().min_by_key(|shard| shard.of), numbers.iter().max_by_key(|shard| shard.of))
        else {
            return Err(bad(format!("it has neither {MANIFEST} nor folders shard-I-of-N")));
        };
        if first.of != last.of {
            return Err(bad(format!("it holds shards of different splits: {first} and {last}")));
        }
        let of = first.of;
        let missing: Vec<String> = (1..=of)
            .map(|number| ShardNumber { number, of })
            .filter(|shard| !numbers.contains(shard))
            .map(|shard| shard.to_string())
            .collect();
        if !missing.is_empty() {
            return Err(bad(format!(
                "{} of {of} shards are missing: {}; `lat-wgpu embed --shard` makes them",
                missing.len(),
                missing.join(", ")
            )));
        }
        let mut sources: Vec<Source> = Vec::new();
        for number in numbers {
            let folder = folder.join(number.folder());
            let Some(manifest) = Manifest::read(&folder)? else {
                return Err(Error::Data(format!("{} has no {MANIFEST}", folder.display())));
            };
            let source = Source { folder, manifest };
            source.check(number, sources.first(), allow_other_weights)?;
            sources.push(source);
        }
        Ok(Merge { sources })
    }

    /// Describes the shards that have other weights than the first one.
    pub fn other_weights(&self) -> Vec<String> {
        let Some((first, rest)) = self.sources.split_first() else { return Vec::new() };
        let differs = |source: &Source| {
            let found = source.manifest.origin.other_weights(&first.manifest.origin)?;
            Some(format!("{}: {found}, as {} has", source.folder.display(), first.folder.display()))
        };
        rest.iter().filter_map(differs).collect()
    }

    /// Number of rows of all segments.
    pub fn rows(&self) -> usize {
        self.sources.iter().map(|source| source.manifest.images).sum()
    }

    /// Dimensions D.
    pub fn dim(&self) -> usize {
        self.sources.first().map_or(0, |source| source.manifest.origin.dim)
    }

    /// Checks every segment, then writes all rows to `out`. The extension of `out` decides the format.
    ///
    /// # Errors
    /// `Data` if a name occurs twice or the rows are not those of the list; `Io` if a segment is damaged or can't be
    /// read; [`Error::Interrupted`]; errors of [`EmbeddingWriter`].
    pub fn write(self, out: &Path, observer: &dyn Observer) -> Result<Merged> {
        let Some(first) = self.sources.first() else { unreachable!("a merge has at least one source") };
        let origin = &first.manifest.origin;
        let stage = Stage::new(observer, "", self.rows(), "nothing was written");
        let mut segments = Vec::new();
        let mut found: Vec<(String, Option<Location>)> = Vec::new();
        for source in &self.sources {
            for segment in &source.manifest.segments {
                stage.advance(0)?;
                let path = source.folder.join(&segment.file);
                let sha256 = hash::of_file(&path)?;
                if sha256 != segment.sha256 {
                    return Err(Error::invalid(&path)(format!(
                        "it is damaged: its SHA-256 is {sha256:.12}…, {MANIFEST} says {:.12}…; remove {} and run \
                         `lat-wgpu embed` for it again",
                        segment.sha256,
                        source.folder.display()
                    )));
                }
                let file = EmbeddingFile::open(&path)?;
                if (file.len(), file.dim()) != (segment.rows, origin.dim) {
                    return Err(Error::invalid(&path)(format!(
                        "its rows are not those that {MANIFEST} lists"
                    )));
                }
                let location = |row| Some(Location { segment: segments.len(), row });
                found.extend(file.paths.into_iter().enumerate().map(|(row, name)| (name, location(row))));
                segments.push(Reader::new(path, segment.rows));
            }
            found.extend(source.manifest.skipped.iter().map(|name| (name.clone(), None)));
        }
        found.sort_unstable();
        self.check_names(&found, &segments)?;

        let count = segments.len();
        let (names, locations): (Vec<String>, Vec<Option<Location>>) = found.into_iter().unzip();
        let provenances: Vec<Provenance> =
            self.sources.iter().map(|source| source.manifest.origin.provenance()).collect();
        let metadata = Provenance::of_all(&provenances).add_to(&origin.metadata);
        let mut writer = EmbeddingWriter::create(out, origin.dim, origin.dtype, &names, &metadata)?;
        for (name, location) in names.iter().zip(locations) {
            let Some(Location { segment, row }) = location else { continue };
            writer.push(name, segments[segment].row(row, origin.dim)?)?;
            stage.advance(1)?;
        }
        let rows = writer.finish()?;
        Ok(Merged { rows, skipped: names.len() - rows, segments: count })
    }

    /// Checks that every name occurs once, and that shards have all names of their list.
    fn check_names(&self, found: &[(String, Option<Location>)], segments: &[Reader]) -> Result<()> {
        if let Some(pair) = found.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            let describe = |location: Option<Location>| match location {
                Some(Location { segment, .. }) => segments[segment].path.display().to_string(),
                None => "a list of unreadable images".to_string(),
            };
            return Err(Error::Data(format!(
                "{} occurs twice: in {} and in {}",
                pair[0].0,
                describe(pair[0].1),
                describe(pair[1].1)
            )));
        }
        let list = self.sources.first().and_then(|source| source.manifest.shard.as_ref());
        let Some(Shard { listed, list_sha256, .. }) = list else { return Ok(()) };
        if found.len() != *listed || hash_of_list(found.iter().map(|(name, _)| name.as_str())) != *list_sha256
        {
            return Err(Error::Data(format!(
                "the shards hold {} images, which are not the {listed} of their list",
                found.len()
            )));
        }
        Ok(())
    }
}

impl Source {
    /// Checks that the folder is shard `number`, complete, and that model, settings and list are those of `first`.
    fn check(&self, number: ShardNumber, first: Option<&Source>, allow_other_weights: bool) -> Result<()> {
        let bad = |what: String| Err(Error::Data(format!("{}: {what}", self.folder.display())));
        let Some(shard) = self.manifest.shard.as_ref().filter(|shard| shard.number == number) else {
            return bad(format!("its {MANIFEST} is not that of shard {number}"));
        };
        if !self.manifest.complete {
            return Err(self.incomplete());
        }
        let Some(first) = first else { return Ok(()) };
        let (own, theirs) = (&self.manifest.origin, &first.manifest.origin);
        let mut differences = own.other_settings(theirs);
        if let Some(found) = own.other_weights(theirs)
            && !allow_other_weights
        {
            differences.insert(0, format!("{found} (--allow-other-weights accepts them)"));
        }
        if !differences.is_empty() {
            return bad(format!(
                "it was made with something else than {}: {}",
                first.folder.display(),
                differences.join("; ")
            ));
        }
        match &first.manifest.shard {
            Some(other) if (other.listed, &other.list_sha256) != (shard.listed, &shard.list_sha256) => {
                bad(format!(
                    "it was made from another list than {} ({} images, not {}): run `lat-wgpu embed --shard` for all \
                     shards on the same list; finished images are not embedded again",
                    first.folder.display(),
                    shard.listed,
                    other.listed
                ))
            }
            _ => Ok(()),
        }
    }

    fn incomplete(&self) -> Error {
        Error::Data(format!(
            "{} is not complete: run the same `lat-wgpu embed` command again; it continues where it stopped",
            self.folder.display()
        ))
    }
}

/// Reads the rows of a segment in ascending order and in larger pieces. The file is open from its first to its last
/// row.
struct Reader {
    path: PathBuf,
    rows: usize,
    file: Option<EmbeddingFile>,
    /// First row in `ahead`.
    start: usize,
    ahead: Vec<f32>,
}

impl Reader {
    fn new(path: PathBuf, rows: usize) -> Reader {
        Reader { path, rows, file: None, start: 0, ahead: Vec::new() }
    }

    /// Reads a row of `dim` numbers.
    fn row(&mut self, row: usize, dim: usize) -> Result<&[f32]> {
        let held = self.ahead.len() / dim.max(1);
        if !(self.start..self.start + held).contains(&row) {
            let file = match self.file.take() {
                Some(file) => file,
                None => EmbeddingFile::open(&self.path)?,
            };
            let bytes = dim * size_of::<f32>();
            let end = self.rows.min(row + (AHEAD / bytes.max(1)).max(1));
            self.ahead.resize((end - row) * dim, 0.0);
            file.read(row..end, &mut self.ahead)?;
            self.start = row;
            self.file = (end < self.rows).then_some(file);
        }
        Ok(&self.ahead[(row - self.start) * dim..][..dim])
    }
}
