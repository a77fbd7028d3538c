//! Many parts to one file: what one run over the whole list would have written, to the byte.
//!
//! Rows are copied one after the other in the order of their names; memory grows with the names alone.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::index::{MANIFEST, Manifest, Shard, ShardNumber, hash_of_list};
use super::provenance::Provenance;
use super::rows::{EmbeddingFile, Rows};
use super::writer::EmbeddingWriter;
use crate::error::{Error, Result};
use crate::observer::{Observer, Stage};
use crate::storage::hash;

/// Bytes of a part that are read ahead.
const AHEAD: usize = 1 << 16;

/// An index folder, or all shards of a list, on the way to one file.
pub struct Merge {
    /// One, or all shards in their order.
    sources: Vec<Source>,
}

/// A folder with a manifest.
struct Source {
    folder: PathBuf,
    manifest: Manifest,
}

/// What was merged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merged {
    /// Rows of the file.
    pub rows: usize,
    /// Images that couldn't be read.
    pub skipped: usize,
    /// Files that were put together.
    pub parts: usize,
}

/// Where a row stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    part: usize,
    row: usize,
}

impl Merge {
    /// Opens an index folder, or a folder of `shard-I-of-N` folders, and checks what their manifests say.
    ///
    /// # Errors
    /// `Data` naming shards that are missing, not complete, made with another model, other settings or from another
    /// list; `Io` where a manifest can't be read.
    pub fn open(folder: &Path) -> Result<Merge> {
        Merge::open_with(folder, false)
    }

    /// The same; shards that were made with different weights are let through if `allow_other_weights` is set.
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
                    "{} is shard {number} alone: merge the folder that holds all {} shards",
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
            return Err(bad(format!("holds neither {MANIFEST} nor folders shard-I-of-N")));
        };
        if first.of != last.of {
            return Err(bad(format!("shards of different splits stand there: {first} and {last}")));
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
                return Err(Error::Data(format!("{} holds no {MANIFEST}", folder.display())));
            };
            let source = Source { folder, manifest };
            source.check(number, sources.first(), allow_other_weights)?;
            sources.push(source);
        }
        Ok(Merge { sources })
    }

    /// In which weights shards differ from the first one, in words for the user.
    pub fn other_weights(&self) -> Vec<String> {
        let Some((first, rest)) = self.sources.split_first() else { return Vec::new() };
        let differs = |source: &Source| {
            let found = source.manifest.origin.other_weights(&first.manifest.origin)?;
            Some(format!("{}: {found}, as {} has", source.folder.display(), first.folder.display()))
        };
        rest.iter().filter_map(differs).collect()
    }

    /// Rows of all parts.
    pub fn rows(&self) -> usize {
        self.sources.iter().map(|source| source.manifest.images).sum()
    }

    /// Numbers in a row.
    pub fn dim(&self) -> usize {
        self.sources.first().map_or(0, |source| source.manifest.origin.dim)
    }

    /// Verifies every part, then writes all rows to `out`, whose ending decides its form.
    ///
    /// # Errors
    /// `Data` where a name stands twice or rows are missing or too many; `Io` naming a part that is damaged or can't be
    /// read; what [`EmbeddingWriter`] reports; [`Error::Interrupted`].
    pub fn write(self, out: &Path, observer: &dyn Observer) -> Result<Merged> {
        let Some(first) = self.sources.first() else { unreachable!("nothing is opened without a manifest") };
        let origin = &first.manifest.origin;
        let stage = Stage::new(observer, "", self.rows(), "nothing was written");
        let mut parts = Vec::new();
        let mut found: Vec<(String, Option<Place>)> = Vec::new();
        for source in &self.sources {
            for part in &source.manifest.parts {
                stage.advance(0)?;
                let path = source.folder.join(&part.file);
                let sha256 = hash::of_file(&path)?;
                if sha256 != part.sha256 {
                    return Err(Error::invalid(&path)(format!(
                        "it is damaged: its SHA-256 is {sha256:.12}…, where {MANIFEST} says {:.12}…; remove {} and run \
                         `lat-wgpu embed` for it again",
                        part.sha256,
                        source.folder.display()
                    )));
                }
                let file = EmbeddingFile::open(&path)?;
                if (file.len(), file.dim()) != (part.rows, origin.dim) {
                    return Err(Error::invalid(&path)(format!("holds not the rows that {MANIFEST} says")));
                }
                let place = |row| Some(Place { part: parts.len(), row });
                found.extend(file.paths.into_iter().enumerate().map(|(row, name)| (name, place(row))));
                parts.push(Reader::new(path, part.rows));
            }
            found.extend(source.manifest.skipped.iter().map(|name| (name.clone(), None)));
        }
        found.sort_unstable();
        self.check_names(&found, &parts)?;

        let count = parts.len();
        let (names, places): (Vec<String>, Vec<Option<Place>>) = found.into_iter().unzip();
        let told: Vec<Provenance> =
            self.sources.iter().map(|source| source.manifest.origin.provenance()).collect();
        let metadata = Provenance::of_all(&told).add_to(&origin.metadata);
        let mut writer = EmbeddingWriter::create(out, origin.dim, origin.dtype, &names, &metadata)?;
        for (name, place) in names.iter().zip(places) {
            let Some(Place { part, row }) = place else { continue };
            writer.push(name, parts[part].row(row, origin.dim)?)?;
            stage.advance(1)?;
        }
        let rows = writer.finish()?;
        Ok(Merged { rows, skipped: names.len() - rows, parts: count })
    }

    /// Every name once, and all of the list that shards are of.
    fn check_names(&self, found: &[(String, Option<Place>)], parts: &[Reader]) -> Result<()> {
        if let Some(pair) = found.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            let told = |place: Option<Place>| match place {
                Some(Place { part, .. }) => parts[part].path.display().to_string(),
                None => "a list of images that can't be read".to_string(),
            };
            return Err(Error::Data(format!(
                "{} stands twice: in {} and in {}",
                pair[0].0,
                told(pair[0].1),
                told(pair[1].1)
            )));
        }
        let list = self.sources.first().and_then(|source| source.manifest.shard.as_ref());
        let Some(Shard { listed, list_sha256, .. }) = list else { return Ok(()) };
        if found.len() != *listed || hash_of_list(found.iter().map(|(name, _)| name.as_str())) != *list_sha256
        {
            return Err(Error::Data(format!(
                "the shards hold {} images that aren't the {listed} of the list they were made from",
                found.len()
            )));
        }
        Ok(())
    }
}

impl Source {
    /// Whether it is that shard, complete, and made with the same and from the same list as the first one.
    fn check(&self, number: ShardNumber, first: Option<&Source>, allow_other_weights: bool) -> Result<()> {
        let bad = |what: String| Err(Error::Data(format!("{}: {what}", self.folder.display())));
        let Some(shard) = self.manifest.shard.as_ref().filter(|shard| shard.number == number) else {
            return bad(format!("its {MANIFEST} isn't that of shard {number}"));
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
            differences.insert(0, format!("{found} (--allow-other-weights goes on)"));
        }
        if !differences.is_empty() {
            return bad(format!(
                "made with something else than {}: {}",
                first.folder.display(),
                differences.join("; ")
            ));
        }
        match &first.manifest.shard {
            Some(other) if (other.listed, &other.list_sha256) != (shard.listed, &shard.list_sha256) => {
                bad(format!(
                    "made from another list than {} ({} images, not {}): run `lat-wgpu embed --shard` for all shards \
                     on the same list; what is done stays",
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
            "{} isn't complete: run the same `lat-wgpu embed` again, it goes on where it stopped",
            self.folder.display()
        ))
    }
}

/// Reads the rows of a part in ascending order, some ahead; open only between its first and its last one.
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

    /// A row of `dim` numbers.
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
