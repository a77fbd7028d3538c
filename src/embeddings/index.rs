//! Index folders: embeddings in segments, and a manifest that says which of them count.
//!
//! A segment is an ordinary `.safetensors` file of embeddings, sorted by name. The `part-….json` beside it lists size
//! and modification time of its images. Neither file ever changes: a segment that loses rows is written anew under
//! another number. `manifest.json` lists the segments that count. It is replaced as a whole, so the folder stays
//! readable if its writer is killed. The next writer removes the files that the manifest doesn't list.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::provenance::{self, Provenance};
use super::rows::{EmbeddingFile, Rows};
use super::writer::EmbeddingWriter;
use crate::error::{Error, Result};
use crate::images::walk::{self, Image};
use crate::storage::Dtype;
use crate::storage::atomic::write_atomically;
use crate::storage::hash::{self, Hash};
use crate::storage::json::{self, differences};
use crate::storage::lock::{FolderLock, holds_files};

/// Default of [`IndexOptions::segment_rows`].
pub const SEGMENT_ROWS: usize = 16_384;

/// The file that lists the segments of an index folder.
pub const MANIFEST: &str = "manifest.json";

/// Newest manifest format that this version reads.
const FORMAT: u32 = 1;

/// Weights and settings that all embeddings of an index share.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct Origin {
    /// The weights.
    pub model: Weights,
    /// Metadata of the embeddings. An index lists the inputs of all its writers.
    pub metadata: BTreeMap<String, String>,
    /// True if the EXIF orientation of images is ignored.
    pub ignore_exif: bool,
    /// Dimensions D.
    pub dim: usize,
    /// Storage of a number.
    pub dtype: Dtype,
}

/// The weights that made embeddings.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct Weights {
    /// Name of their file. It is not compared: the same weights may have several names.
    pub name: String,
    /// SHA-256 of the weights.
    pub sha256: String,
}

impl Origin {
    /// Describes the differences to another origin; empty if one index can hold embeddings of both.
    pub fn differences(&self, other: &Origin) -> Vec<String> {
        let mut found = Vec::new();
        found.extend(self.other_weights(other));
        found.append(&mut self.other_settings(other));
        found
    }

    /// Describes the weights of both if they differ.
    pub(super) fn other_weights(&self, other: &Origin) -> Option<String> {
        let describe = |weights: &Weights| format!("{} (SHA-256 {:.12}…)", weights.name, weights.sha256);
        (self.model.sha256 != other.model.sha256)
            .then(|| format!("model: {}, not {}", describe(&self.model), describe(&other.model)))
    }

    /// Describes the differences other than the weights.
    pub(super) fn other_settings(&self, other: &Origin) -> Vec<String> {
        let mut found = Vec::new();
        if self.dtype != other.dtype {
            found.push(format!("dtype: {}, not {}", value(&self.dtype), value(&other.dtype)));
        }
        if self.ignore_exif != other.ignore_exif {
            found.push(format!("ignore_exif: {}, not {}", self.ignore_exif, other.ignore_exif));
        }
        let metadata = |origin: &Origin| {
            // Entries of several values are JSON.
            let parse = |text: &String| serde_json::from_str(text).unwrap_or(Value::from(text.as_str()));
            let settings = provenance::without(&origin.metadata);
            Value::Object(settings.iter().map(|(key, text)| (key.clone(), parse(text))).collect())
        };
        found.append(&mut differences(&metadata(self), &metadata(other)));
        if found.is_empty() && self.dim != other.dim {
            found.push(format!("dimensions: {}, not {}", self.dim, other.dim));
        }
        found
    }
}

fn value<T: Serialize>(value: &T) -> Value {
    match serde_json::to_value(value) {
        Ok(value) => value,
        Err(e) => unreachable!("strings and numbers always serialise: {e}"),
    }
}

/// Number of a shard: one of several pieces of a list of images, for one of several machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
pub struct ShardNumber {
    /// Number from 1 to `of`.
    pub number: u32,
    /// Number of shards.
    pub of: u32,
}

impl ShardNumber {
    /// Assigns an image to one of `of` shards: 1 + h mod `of`, where h is the first eight bytes of the SHA-256 of the
    /// image's name as a big-endian number.
    pub fn of_name(name: &str, of: u32) -> u32 {
        1 + (hash::number(name) % u64::from(of)) as u32
    }

    /// Name of the shard's folder.
    pub fn folder(self) -> String {
        format!("shard-{}-of-{}", self.number, self.of)
    }

    /// The shard whose folder has this name.
    pub fn from_folder(name: &str) -> Option<ShardNumber> {
        let shard: ShardNumber = name.strip_prefix("shard-")?.replacen("-of-", "/", 1).parse().ok()?;
        (shard.folder() == name).then_some(shard)
    }
}

impl fmt::Display for ShardNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.of)
    }
}

impl FromStr for ShardNumber {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let bad = || "expected I/N with I from 1 to N, such as 1/4".to_string();
        let (number, of) = text.split_once('/').ok_or_else(bad)?;
        let shard =
            ShardNumber { number: number.parse().map_err(|_| bad())?, of: of.parse().map_err(|_| bad())? };
        if (1..=shard.of).contains(&shard.number) { Ok(shard) } else { Err(bad()) }
    }
}

/// A shard and the list that it is a piece of.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct Shard {
    /// Number of the shard.
    #[serde(flatten)]
    pub number: ShardNumber,
    /// Images of the whole list.
    pub listed: usize,
    /// SHA-256 of the whole list: [`hash_of_list`].
    pub list_sha256: String,
}

impl Shard {
    /// Takes a shard from a list of images that is sorted by name; returns it with its images.
    ///
    /// # Errors
    /// `Usage` if a name is listed twice.
    pub fn of_list(number: ShardNumber, mut images: Vec<Image>) -> Result<(Shard, Vec<Image>)> {
        check_names(&images)?;
        let names = images.iter().map(|image| image.name.as_str());
        let shard = Shard { number, listed: images.len(), list_sha256: hash_of_list(names) };
        images.retain(|image| ShardNumber::of_name(&image.name, number.of) == number.number);
        Ok((shard, images))
    }
}

/// Fails if two of the sorted images have the same name.
fn check_names(images: &[Image]) -> Result<()> {
    match images.windows(2).find(|pair| pair[0].name == pair[1].name) {
        Some(pair) => {
            Err(Error::Usage(format!("{} is listed twice; an index holds each name once", pair[0].name)))
        }
        None => Ok(()),
    }
}

/// SHA-256 of names in their order, each followed by a zero byte.
pub fn hash_of_list<'n>(names: impl Iterator<Item = &'n str>) -> String {
    let mut hash = Hash::default();
    for name in names {
        hash.update(name.as_bytes());
        hash.update(&[0]);
    }
    hash.hex()
}

/// Content of an index folder.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct Manifest {
    format: u32,
    /// Weights and settings of its embeddings.
    #[serde(flatten)]
    pub origin: Origin,
    /// SHA-256 of the weights, as in the metadata of embeddings. Manifests of older versions lack it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    weights_sha256: Option<String>,
    /// Inputs of all writers as typed, in the order of the writers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    inputs: Vec<String>,
    /// The shard that the folder holds, if it is not a whole index.
    pub shard: Option<Shard>,
    /// True if the last writer reached the end of its list.
    pub complete: bool,
    /// Rows of all segments.
    #[serde(rename = "pictures")]
    pub images: usize,
    /// The files that count.
    #[serde(rename = "parts")]
    pub segments: Vec<Segment>,
    /// Names of unreadable images, sorted.
    pub skipped: Vec<String>,
    /// Number of the next segment. No number is used twice.
    #[serde(rename = "next_part")]
    next_segment: u32,
}

/// One file of embeddings in an index.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct Segment {
    /// File name in the index folder.
    pub file: String,
    /// Number of rows.
    pub rows: usize,
    /// SHA-256 of the file.
    pub sha256: String,
}

/// Returns whether a writer may replace or remove the file of this name in an index folder.
pub fn is_own(name: &str) -> bool {
    name == MANIFEST || is_segment(name)
}

/// Returns whether a file name is that of a segment or of the `.json` beside it.
fn is_segment(name: &str) -> bool {
    let number = name.strip_prefix("part-").and_then(|rest| rest.split_once('.'));
    number.is_some_and(|(number, extension)| {
        number.len() >= 6
            && number.bytes().all(|b| b.is_ascii_digit())
            && (extension == "safetensors" || extension == "json")
    })
}

impl Manifest {
    /// Reads the manifest of a folder; `None` if there is none.
    ///
    /// # Errors
    /// `Io` if the file can't be read or is malformed, `Data` if its format is newer than this version.
    pub fn read(folder: &Path) -> Result<Option<Manifest>> {
        let path = folder.join(MANIFEST);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io("read", &path)(e)),
        };
        let value: Value =
            serde_json::from_slice(&bytes).map_err(|e| Error::invalid(&path)(e.to_string()))?;
        if let Some(format) = value["format"].as_u64().filter(|&format| format > u64::from(FORMAT)) {
            return Err(Error::Data(format!(
                "{} has format {format}; this version reads formats up to {FORMAT}",
                path.display()
            )));
        }
        let manifest: Manifest =
            serde_json::from_value(value).map_err(|e| Error::invalid(&path)(e.to_string()))?;
        // Writers remove files by these names, so no name may lead out of the folder.
        let number = |segment: &Segment| {
            let stem = segment.file.strip_suffix(".safetensors").filter(|_| is_segment(&segment.file))?;
            stem.strip_prefix("part-")?.parse::<u32>().ok()
        };
        let mut next_segment = 0;
        for segment in &manifest.segments {
            let number = number(segment).ok_or_else(|| {
                Error::invalid(&path)(format!("{:?} is not a file name of a segment", segment.file))
            })?;
            next_segment = next_segment.max(number.saturating_add(1));
        }
        if manifest.next_segment < next_segment || manifest.next_segment == u32::MAX {
            return Err(Error::invalid(&path)(format!("next_part can't be {}", manifest.next_segment)));
        }
        let rows = manifest.segments.iter().try_fold(0usize, |rows, segment| rows.checked_add(segment.rows));
        if rows != Some(manifest.images) {
            return Err(Error::invalid(&path)(format!("its segments don't hold {} images", manifest.images)));
        }
        Ok(Some(manifest))
    }

    fn publish(&self, folder: &Path) -> Result<()> {
        json::write(&folder.join(MANIFEST), &value(self))
    }
}

/// State of an image file when it was embedded. An unchanged file has an unchanged embedding.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct State {
    /// File size in bytes.
    size: u64,
    /// Modification time in nanoseconds since 1970.
    modified: i64,
}

impl State {
    /// Asks the file system; returns zeros for a file that it can't see.
    fn of(image: &Image) -> State {
        let Ok(metadata) = std::fs::metadata(&image.path) else { return State::default() };
        let modified = metadata.modified().map_or(0, |time| match time.duration_since(UNIX_EPOCH) {
            Ok(after) => after.as_nanos() as i64,
            Err(e) => -(e.duration().as_nanos() as i64),
        });
        State { size: metadata.len(), modified }
    }
}

/// The folder that an image's name is relative to, with a `/` at the end; empty if the path doesn't contain the name.
fn base_folder(image: &Image) -> String {
    let path = std::path::absolute(&image.path).unwrap_or_else(|_| image.path.clone());
    let text = walk::readable(path.as_os_str()).replace(std::path::MAIN_SEPARATOR, "/");
    text.strip_suffix(&image.name).unwrap_or_default().to_string()
}

/// States of the images of a segment, in columns of one value per row.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
struct States {
    /// Folders that names are relative to.
    folders: Vec<String>,
    /// Index into `folders`.
    folder: Vec<usize>,
    size: Vec<u64>,
    modified: Vec<i64>,
}

impl States {
    fn push(&mut self, folder: &str, state: State) {
        let known = self.folders.iter().position(|known| known == folder);
        self.folder.push(known.unwrap_or_else(|| {
            self.folders.push(folder.to_string());
            self.folders.len() - 1
        }));
        self.size.push(state.size);
        self.modified.push(state.modified);
    }

    fn row(&self, row: usize) -> (&str, State) {
        let state = State { size: self.size[row], modified: self.modified[row] };
        (&self.folders[self.folder[row]], state)
    }

    fn read(path: &Path, rows: usize) -> Result<States> {
        let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
        let states: States =
            serde_json::from_slice(&bytes).map_err(|e| Error::invalid(path)(e.to_string()))?;
        let lengths = [states.folder.len(), states.size.len(), states.modified.len()];
        if lengths != [rows; 3] || states.folder.iter().any(|&folder| folder >= states.folders.len()) {
            return Err(Error::invalid(path)(format!("it must list {rows} images")));
        }
        Ok(states)
    }

    fn write(&self, path: &Path) -> Result<()> {
        write_atomically(path, format!("{}\n", value(self)).as_bytes())
    }
}

/// Options of [`IndexWriter::open`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexOptions {
    /// The shard that the images are, if they are one.
    pub shard: Option<Shard>,
    /// Removes rows of images that aren't listed. A shard always does.
    pub prune: bool,
    /// Largest number of rows of a segment. A killed writer loses at most these rows.
    pub segment_rows: usize,
}

impl Default for IndexOptions {
    fn default() -> Self {
        IndexOptions { shard: None, prune: false, segment_rows: SEGMENT_ROWS }
    }
}

/// Rows of an index before it was extended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Found {
    /// Rows of listed images that have not changed.
    pub known: usize,
    /// Rows of listed images with another size or modification time. They were removed.
    pub changed: usize,
    /// Rows of images that aren't listed and were removed.
    pub pruned: usize,
}

/// Adds rows to an index folder.
pub struct IndexWriter {
    folder: PathBuf,
    manifest: Manifest,
    segment_rows: usize,
    /// The inputs as typed.
    inputs: Vec<String>,
    /// Images to embed, sorted by name.
    todo: Arc<Vec<Image>>,
    /// State of each image's file when it was listed.
    states: Vec<State>,
    found: Found,
    open: Option<OpenSegment>,
    /// Rows that this writer added.
    rows: usize,
    /// Unreadable images.
    skipped: Vec<String>,
    /// True if the manifest on the disk is outdated.
    is_dirty: bool,
    _lock: FolderLock,
}

/// The segment that is being written.
struct OpenSegment {
    file: String,
    writer: EmbeddingWriter,
    states: States,
    /// Index into `todo` where the next segment begins.
    end: usize,
}

impl IndexWriter {
    /// Opens or creates an index folder and finds the images that it lacks. `images` are sorted by name.
    ///
    /// Removes rows of images whose size or modification time changed. Rows of images that aren't listed stay, unless
    /// `options` prune them.
    ///
    /// # Errors
    /// `Usage` if a name is listed twice, if the folder holds other files, or if another process writes into it; `Data`
    /// if the index has other weights or settings, or if a name belongs to an image in another folder; `Io` if the
    /// folder can't be read or written.
    pub fn open(
        folder: &Path,
        origin: Origin,
        images: Vec<Image>,
        options: &IndexOptions,
    ) -> Result<IndexWriter> {
        check_names(&images)?;
        std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        let lock = FolderLock::acquire(folder)?;
        let (mut manifest, mut is_dirty) = match Manifest::read(folder)? {
            Some(manifest) => (manifest, false),
            None if holds_files(folder, &[])? => {
                return Err(Error::Usage(format!(
                    "{} has other files and no {MANIFEST}; an index needs its own folder",
                    folder.display()
                )));
            }
            None => (Manifest::begin(origin.clone(), options.shard.clone()), true),
        };
        let differences = manifest.origin.differences(&origin);
        if !differences.is_empty() {
            return Err(Error::Data(format!(
                "{} was made with something else; its embeddings can't be compared with these: {}",
                folder.display(),
                differences.join("; ")
            )));
        }
        let kind = |shard: &Option<Shard>| shard.as_ref().map(|shard| shard.number);
        if kind(&manifest.shard) != kind(&options.shard) {
            let describe =
                |shard| kind(shard).map_or("a whole index".to_string(), |number| format!("shard {number}"));
            return Err(Error::Data(format!(
                "{} is {}, not {}",
                folder.display(),
                describe(&manifest.shard),
                describe(&options.shard)
            )));
        }
        if manifest.shard != options.shard {
            manifest.shard = options.shard.clone();
            is_dirty = true;
        }
        let own = origin.provenance();
        is_dirty |= manifest.add_provenance(&own);

        let states: Vec<State> = images.par_iter().map(State::of).collect();
        let prune = options.prune || options.shard.is_some();
        let mut survey = Survey::new(&images, &states, prune);
        let mut kept = Vec::new();
        for segment in &manifest.segments {
            let path = folder.join(&segment.file);
            let file = EmbeddingFile::open(&path)?;
            if (file.len(), file.dim()) != (segment.rows, manifest.origin.dim) {
                return Err(Error::invalid(&path)(format!(
                    "it has {} rows of {} dimensions, the manifest says {} of {}",
                    file.len(),
                    file.dim(),
                    segment.rows,
                    manifest.origin.dim
                )));
            }
            let recorded = States::read(&path.with_extension("json"), segment.rows)?;
            let rows = survey.rows_to_keep(&file.paths, &recorded)?;
            kept.push((rows.len() < segment.rows).then_some((rows, file, recorded)));
        }
        let Survey { is_known, found, .. } = survey;

        let mut todo = Vec::new();
        let mut todo_states = Vec::new();
        for ((image, state), _) in
            images.into_iter().zip(states).zip(is_known).filter(|(_, is_known)| !is_known)
        {
            todo.push(image);
            todo_states.push(state);
        }
        let mut writer = IndexWriter {
            folder: folder.to_path_buf(),
            manifest,
            segment_rows: options.segment_rows.max(1),
            inputs: own.inputs,
            todo: Arc::new(todo),
            states: todo_states,
            found,
            open: None,
            rows: 0,
            skipped: Vec::new(),
            is_dirty,
            _lock: lock,
        };
        writer.remove_rows(kept)?;
        // Unreadable images are tried again. Those that aren't listed any more stay skipped, as their rows would stay.
        let forgets = prune && !writer.manifest.skipped.is_empty();
        if forgets {
            writer.manifest.skipped.clear();
        }
        if forgets || !writer.todo.is_empty() {
            writer.manifest.complete = false;
            writer.is_dirty = true;
        }
        // Published before the first segment: a folder of segments without a manifest could not be opened again.
        writer.publish()?;
        writer.sweep()?;
        Ok(writer)
    }

    /// Rewrites the segments that lose rows; `kept` is `None` for the others.
    fn remove_rows(&mut self, kept: Vec<Option<(Vec<usize>, EmbeddingFile, States)>>) -> Result<()> {
        let old = std::mem::take(&mut self.manifest.segments);
        for (segment, kept) in old.into_iter().zip(kept) {
            let Some((rows, file, states)) = kept else {
                self.manifest.segments.push(segment);
                continue;
            };
            self.manifest.images -= segment.rows - rows.len();
            self.manifest.complete = false;
            self.is_dirty = true;
            if rows.is_empty() {
                continue;
            }
            let names: Vec<String> = rows.iter().map(|&row| file.paths[row].clone()).collect();
            let mut open = self.begin_segment(&names, 0, &file.provenance.inputs)?;
            let mut embedding = vec![0.0; file.dim()];
            for (row, name) in rows.into_iter().zip(&names) {
                file.read(row..row + 1, &mut embedding)?;
                open.writer.push(name, &embedding)?;
                let (folder, state) = states.row(row);
                open.states.push(folder, state);
            }
            let segment = self.finish_segment(open)?;
            self.manifest.segments.push(segment);
        }
        Ok(())
    }

    /// Images to embed, sorted by name.
    pub fn todo(&self) -> Arc<Vec<Image>> {
        self.todo.clone()
    }

    /// Rows of the index before this writer.
    pub fn found(&self) -> Found {
        self.found
    }

    /// Rows of the index, without those of the open segment.
    pub fn images(&self) -> usize {
        self.manifest.images
    }

    /// Returns whether the folder is a shard.
    pub fn is_shard(&self) -> bool {
        self.manifest.shard.is_some()
    }

    /// Adds the row of an image of [`Self::todo`]. Images come in that order; unreadable ones are left out.
    ///
    /// # Errors
    /// `Io` if it can't be written.
    ///
    /// # Panics
    /// If the image isn't listed, or its embedding doesn't have `dim` numbers.
    pub fn push(&mut self, name: &str, embedding: &[f32]) -> Result<()> {
        let Ok(at) = self.todo.binary_search_by(|image| image.name.as_str().cmp(name)) else {
            unreachable!("{name} is not to be embedded")
        };
        if self.open.as_ref().is_some_and(|open| at >= open.end) {
            self.close_segment()?;
        }
        let mut open = match self.open.take() {
            Some(open) => open,
            None => {
                let end = (at + self.segment_rows).min(self.todo.len());
                let names: Vec<String> = self.todo[at..end].iter().map(|image| image.name.clone()).collect();
                let inputs = self.inputs.clone();
                self.begin_segment(&names, end, &inputs)?
            }
        };
        open.writer.push(name, embedding)?;
        open.states.push(&base_folder(&self.todo[at]), self.states[at]);
        self.open = Some(open);
        self.rows += 1;
        Ok(())
    }

    /// Records an unreadable image.
    pub fn skip(&mut self, name: &str) {
        self.skipped.push(name.to_string());
    }

    /// Keeps the rows so far. Another writer can continue.
    ///
    /// # Errors
    /// `Io` if they can't be written.
    pub fn stop(mut self) -> Result<()> {
        self.close_segment()
    }

    /// Completes the index; returns the number of added rows and of all rows.
    ///
    /// # Errors
    /// `Io` if it can't be written.
    pub fn finish(mut self) -> Result<(usize, usize)> {
        self.close_segment()?;
        if !self.manifest.complete || self.is_dirty {
            let is_listed = |name: &String| self.todo.binary_search_by(|image| image.name.cmp(name)).is_ok();
            self.manifest.skipped.retain(|name| !is_listed(name));
            self.manifest.skipped.append(&mut self.skipped);
            self.manifest.skipped.sort();
            self.manifest.complete = true;
            self.is_dirty = true;
            self.publish()?;
        }
        Ok((self.rows, self.manifest.images))
    }

    fn begin_segment(&mut self, names: &[String], end: usize, inputs: &[String]) -> Result<OpenSegment> {
        let file = format!("part-{:06}.safetensors", self.manifest.next_segment);
        self.manifest.next_segment += 1;
        let origin = &self.manifest.origin;
        let provenance = Provenance { inputs: inputs.to_vec(), ..origin.provenance() };
        let metadata = provenance.add_to(&origin.metadata);
        let path = self.folder.join(&file);
        let writer = EmbeddingWriter::create(&path, origin.dim, origin.dtype, names, &metadata)?;
        Ok(OpenSegment { file, writer, states: States::default(), end })
    }

    fn finish_segment(&self, open: OpenSegment) -> Result<Segment> {
        let path = self.folder.join(&open.file);
        let rows = open.writer.finish()?;
        open.states.write(&path.with_extension("json"))?;
        Ok(Segment { file: open.file, rows, sha256: hash::of_file(&path)? })
    }

    /// Completes the open segment and lists it in the manifest.
    fn close_segment(&mut self) -> Result<()> {
        if let Some(open) = self.open.take() {
            let segment = self.finish_segment(open)?;
            self.manifest.images += segment.rows;
            self.manifest.segments.push(segment);
            self.is_dirty = true;
            self.publish()?;
        }
        Ok(())
    }

    fn publish(&mut self) -> Result<()> {
        if self.is_dirty {
            self.manifest.publish(&self.folder)?;
            self.is_dirty = false;
        }
        Ok(())
    }

    /// Removes segments that the manifest doesn't list.
    fn sweep(&self) -> Result<()> {
        for entry in std::fs::read_dir(&self.folder).map_err(Error::io("read", &self.folder))? {
            let name = entry.map_err(Error::io("read", &self.folder))?.file_name();
            let Some(name) = name.to_str().filter(|name| is_segment(name)) else { continue };
            let stem = name.split_once('.').map_or(name, |(stem, _)| stem);
            let counts =
                |segment: &Segment| segment.file.split_once('.').is_some_and(|(counted, _)| counted == stem);
            if !self.manifest.segments.iter().any(counts) {
                let path = self.folder.join(name);
                std::fs::remove_file(&path).map_err(Error::io("remove", &path))?;
            }
        }
        Ok(())
    }
}

/// Removes the rows of an index whose names `goes` selects, or only lists them if `dry_run`. Returns the names, sorted.
///
/// # Errors
/// `Usage` if the folder is no index, or is a shard, which holds a fixed list; if another process writes into it; those
/// of `goes`; `Io` if the folder can't be read or written.
pub fn remove_images(
    folder: &Path,
    dry_run: bool,
    goes: impl Fn(&str) -> Result<bool>,
) -> Result<Vec<String>> {
    let Some(manifest) = Manifest::read(folder)? else {
        return Err(Error::Usage(format!("{} is no index: it has no {MANIFEST}", folder.display())));
    };
    if let Some(shard) = &manifest.shard {
        return Err(Error::Usage(format!(
            "{} is shard {}, which holds a fixed list: remove images from the list, or rows after `lat-wgpu merge`",
            folder.display(),
            shard.number
        )));
    }
    let lock = FolderLock::acquire(folder)?;
    let mut removed = Vec::new();
    let mut kept = Vec::new();
    for segment in &manifest.segments {
        let path = folder.join(&segment.file);
        let file = EmbeddingFile::open(&path)?;
        let recorded = States::read(&path.with_extension("json"), segment.rows)?;
        let mut rows = Vec::new();
        for (row, name) in file.paths.iter().enumerate() {
            if goes(name)? {
                removed.push(name.clone());
            } else {
                rows.push(row);
            }
        }
        kept.push((rows.len() < segment.rows).then_some((rows, file, recorded)));
    }
    removed.sort();
    if dry_run || removed.is_empty() {
        return Ok(removed);
    }
    let complete = manifest.complete;
    let mut writer = IndexWriter {
        folder: folder.to_path_buf(),
        manifest,
        segment_rows: SEGMENT_ROWS,
        inputs: Vec::new(),
        todo: Arc::new(Vec::new()),
        states: Vec::new(),
        found: Found::default(),
        open: None,
        rows: 0,
        skipped: Vec::new(),
        is_dirty: true,
        _lock: lock,
    };
    writer.remove_rows(kept)?;
    writer.manifest.complete = complete;
    writer.publish()?;
    writer.sweep()?;
    Ok(removed)
}

impl Origin {
    /// Reads the provenance of the embeddings from the metadata.
    pub(super) fn provenance(&self) -> Provenance {
        Provenance::read(|key| self.metadata.get(key).cloned())
    }
}

impl Manifest {
    /// Adds a writer's inputs; returns whether the manifest changed.
    fn add_provenance(&mut self, writer: &Provenance) -> bool {
        let mut whole = Provenance::of_all([&self.origin.provenance(), writer]);
        // The writer has the weights of the index: others were refused.
        whole.weights_sha256 = writer.weights_sha256.clone();
        let metadata = whole.add_to(&self.origin.metadata);
        let old = (self.weights_sha256.take(), std::mem::take(&mut self.inputs), &self.origin.metadata);
        let is_new = old != (whole.weights_sha256.clone(), whole.inputs.clone(), &metadata);
        (self.weights_sha256, self.inputs, self.origin.metadata) =
            (whole.weights_sha256, whole.inputs, metadata);
        is_new
    }

    fn begin(origin: Origin, shard: Option<Shard>) -> Manifest {
        Manifest {
            format: FORMAT,
            weights_sha256: None,
            inputs: Vec::new(),
            origin,
            shard,
            complete: false,
            images: 0,
            segments: Vec::new(),
            skipped: Vec::new(),
            next_segment: 1,
        }
    }
}

/// Compares the rows of an index with the listed images.
struct Survey<'a> {
    images: &'a [Image],
    states: &'a [State],
    prune: bool,
    is_known: Vec<bool>,
    found: Found,
}

impl<'a> Survey<'a> {
    fn new(images: &'a [Image], states: &'a [State], prune: bool) -> Self {
        Survey { images, states, prune, is_known: vec![false; images.len()], found: Found::default() }
    }

    /// Returns the rows of a segment that stay.
    fn rows_to_keep(&mut self, names: &[String], recorded: &States) -> Result<Vec<usize>> {
        let mut rows = Vec::with_capacity(names.len());
        for (row, name) in names.iter().enumerate() {
            let (folder, state) = recorded.row(row);
            match self.images.binary_search_by(|image| image.name.cmp(name)) {
                Ok(at) if self.states[at] == state => {
                    self.is_known[at] = true;
                    self.found.known += 1;
                    rows.push(row);
                }
                Ok(at) => {
                    let here = base_folder(&self.images[at]);
                    if !self.prune && here != folder {
                        return Err(Error::Data(format!(
                            "the index has {name} from {folder} already, and {here} has another image of that name"
                        ))
                        .hinted("embed both folders into a new index: names then begin with the folder"));
                    }
                    self.found.changed += 1;
                }
                Err(_) if self.prune => self.found.pruned += 1,
                Err(_) => rows.push(row),
            }
        }
        Ok(rows)
    }
}
