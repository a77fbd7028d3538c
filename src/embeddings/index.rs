//! Index folders: embeddings in parts, and a manifest that says which of them count.
//!
//! A part is an ordinary `.safetensors` file of embeddings, sorted by name; beside it, `part-….json` tells size and time
//! of its images. Neither is ever changed: a part that loses rows is written anew under another number. What counts
//! stands in `manifest.json`, which is replaced as a whole, so the folder is readable whatever moment its writer is
//! killed at. What the manifest doesn't list is removed by the next writer.

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
use crate::storage::json::differences;
use crate::storage::lock::{FolderLock, holds_files};

/// Most rows of a part, unless told otherwise: what a killed writer loses.
pub const PART_ROWS: usize = 16_384;

/// The file that says what an index folder holds.
pub const MANIFEST: &str = "manifest.json";

/// Newest format of the manifest that is understood.
const FORMAT: u32 = 1;

/// What every vector of an index is made with.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct Origin {
    /// The weights.
    pub model: Model,
    /// Pairs of strings for the metadata of embeddings; of an index the inputs are those of all its writers.
    pub metadata: BTreeMap<String, String>,
    /// Whether images are left as they are stored, whatever their EXIF orientation says.
    pub ignore_exif: bool,
    /// D, numbers in a row.
    pub dim: usize,
    /// How a number is stored.
    pub dtype: Dtype,
}

/// Which weights.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct Model {
    /// Name of the file they came from; another name doesn't make other vectors.
    pub name: String,
    /// SHA-256 of the weights.
    pub sha256: String,
}

impl Origin {
    /// In what the other one differs, in words for the user; empty if vectors of both can stand in one index.
    pub fn differences(&self, other: &Origin) -> Vec<String> {
        let mut found = Vec::new();
        found.extend(self.other_weights(other));
        found.append(&mut self.other_settings(other));
        found
    }

    /// Which weights both have, in words for the user, if they aren't the same.
    pub(super) fn other_weights(&self, other: &Origin) -> Option<String> {
        let told = |model: &Model| format!("{} (SHA-256 {:.12}…)", model.name, model.sha256);
        (self.model.sha256 != other.model.sha256)
            .then(|| format!("model: {}, not {}", told(&self.model), told(&other.model)))
    }

    /// In what the other one differs beside the weights.
    pub(super) fn other_settings(&self, other: &Origin) -> Vec<String> {
        let mut found = Vec::new();
        if self.dtype != other.dtype {
            found.push(format!("dtype: {}, not {}", json(&self.dtype), json(&other.dtype)));
        }
        if self.ignore_exif != other.ignore_exif {
            found.push(format!("ignore_exif: {}, not {}", self.ignore_exif, other.ignore_exif));
        }
        let metadata = |origin: &Origin| {
            // Entries are JSON where they hold more than a word.
            let parse = |text: &String| serde_json::from_str(text).unwrap_or(Value::from(text.as_str()));
            let settings = provenance::without(&origin.metadata);
            Value::Object(settings.iter().map(|(key, text)| (key.clone(), parse(text))).collect())
        };
        found.append(&mut differences(&metadata(self), &metadata(other)));
        if found.is_empty() && self.dim != other.dim {
            found.push(format!("numbers in a row: {}, not {}", self.dim, other.dim));
        }
        found
    }
}

fn json<T: Serialize>(value: &T) -> Value {
    match serde_json::to_value(value) {
        Ok(value) => value,
        Err(e) => unreachable!("words and numbers can always be written as JSON: {e}"),
    }
}

/// One of several shares of a list of images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
pub struct ShardNumber {
    /// From 1.
    pub number: u32,
    /// How many there are.
    pub of: u32,
}

impl ShardNumber {
    /// Which one of `of` shards an image belongs to: 1 + the first eight bytes of the SHA-256 of its name, as a number
    /// whose highest byte comes first, modulo `of`.
    pub fn of_name(name: &str, of: u32) -> u32 {
        1 + (hash::number(name) % u64::from(of)) as u32
    }

    /// Name of its folder.
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
        let bad = || "expected I/N, such as 1/4: which one, from 1, of how many".to_string();
        let (number, of) = text.split_once('/').ok_or_else(bad)?;
        let shard =
            ShardNumber { number: number.parse().map_err(|_| bad())?, of: of.parse().map_err(|_| bad())? };
        if (1..=shard.of).contains(&shard.number) { Ok(shard) } else { Err(bad()) }
    }
}

/// A shard, and the list that it is a share of.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct Shard {
    /// Which one.
    #[serde(flatten)]
    pub number: ShardNumber,
    /// Images on the whole list.
    pub listed: usize,
    /// SHA-256 of the whole list: [`hash_of_list`].
    pub list_sha256: String,
}

impl Shard {
    /// A shard of a list of images that is sorted by name, and its images.
    ///
    /// # Errors
    /// `Usage` where a name is listed twice.
    pub fn of_list(number: ShardNumber, mut images: Vec<Image>) -> Result<(Shard, Vec<Image>)> {
        check_names(&images)?;
        let names = images.iter().map(|image| image.name.as_str());
        let shard = Shard { number, listed: images.len(), list_sha256: hash_of_list(names) };
        images.retain(|image| ShardNumber::of_name(&image.name, number.of) == number.number);
        Ok((shard, images))
    }
}

/// Fails where sorted images have a name twice.
fn check_names(images: &[Image]) -> Result<()> {
    match images.windows(2).find(|pair| pair[0].name == pair[1].name) {
        Some(pair) => {
            Err(Error::Usage(format!("{} is listed twice: an index holds every name once", pair[0].name)))
        }
        None => Ok(()),
    }
}

/// SHA-256 of names in their order, each with a zero byte behind it.
pub fn hash_of_list<'n>(names: impl Iterator<Item = &'n str>) -> String {
    let mut hash = Hash::default();
    for name in names {
        hash.update(name.as_bytes());
        hash.update(&[0]);
    }
    hash.hex()
}

/// What an index folder holds.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct Manifest {
    format: u32,
    /// What its vectors are made with.
    #[serde(flatten)]
    pub origin: Origin,
    /// SHA-256 of the weights, as embeddings have it; manifests of older versions don't.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    weights_sha256: Option<String>,
    /// All inputs as typed, those of the first writer first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    inputs: Vec<String>,
    /// Which share of a list it is, if it is one.
    pub shard: Option<Shard>,
    /// Whether the last writer came to the end of its list.
    pub complete: bool,
    /// Rows of all parts.
    #[serde(rename = "pictures")]
    pub images: usize,
    /// The files that count.
    pub parts: Vec<Part>,
    /// Names of images that can't be read, sorted.
    pub skipped: Vec<String>,
    /// Number of the next part; none is given twice.
    next_part: u32,
}

/// One file of embeddings.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct Part {
    /// Its name in the index folder.
    pub file: String,
    /// Its rows.
    pub rows: usize,
    /// SHA-256 of its content.
    pub sha256: String,
}

/// Returns whether a name in an index folder is one that a writer gives, replaces or removes.
pub fn is_own(name: &str) -> bool {
    name == MANIFEST || is_part(name)
}

/// Whether a name is that of a part, or of what stands beside it.
fn is_part(name: &str) -> bool {
    let number = name.strip_prefix("part-").and_then(|rest| rest.split_once('.'));
    number.is_some_and(|(number, ending)| {
        number.len() >= 6
            && number.bytes().all(|b| b.is_ascii_digit())
            && (ending == "safetensors" || ending == "json")
    })
}

impl Manifest {
    /// Reads the manifest of a folder; `None` if there is none.
    ///
    /// # Errors
    /// `Io` where it can't be read or isn't of this form, `Data` where it is of a newer one.
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
                "{}: written in format {format}, this program understands up to {FORMAT}",
                path.display()
            )));
        }
        let manifest: Manifest =
            serde_json::from_value(value).map_err(|e| Error::invalid(&path)(e.to_string()))?;
        // Files are removed by these names: they must not lead out of the folder.
        let number = |part: &Part| {
            let stem = part.file.strip_suffix(".safetensors").filter(|_| is_part(&part.file))?;
            stem.strip_prefix("part-")?.parse::<u32>().ok()
        };
        let mut next_part = 0;
        for part in &manifest.parts {
            let number = number(part)
                .ok_or_else(|| Error::invalid(&path)(format!("{:?} is no name of a part", part.file)))?;
            next_part = next_part.max(number.saturating_add(1));
        }
        if manifest.next_part < next_part || manifest.next_part == u32::MAX {
            return Err(Error::invalid(&path)(format!(
                "the next part can't be number {}",
                manifest.next_part
            )));
        }
        let rows = manifest.parts.iter().try_fold(0usize, |rows, part| rows.checked_add(part.rows));
        if rows != Some(manifest.images) {
            return Err(Error::invalid(&path)(format!("its parts don't hold {} images", manifest.images)));
        }
        Ok(Some(manifest))
    }

    fn publish(&self, folder: &Path) -> Result<()> {
        write_atomically(&folder.join(MANIFEST), format!("{:#}\n", json(self)).as_bytes())
    }
}

/// What an image's file was like when it was embedded: as long as it is like that, so is its vector.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct State {
    /// In bytes.
    size: u64,
    /// Nanoseconds since 1970 by the file's modification time.
    modified: i64,
}

impl State {
    /// Asks the file system; what can't be asked is like nothing.
    fn of(image: &Image) -> State {
        let Ok(metadata) = std::fs::metadata(&image.path) else { return State::default() };
        let modified = metadata.modified().map_or(0, |time| match time.duration_since(UNIX_EPOCH) {
            Ok(after) => after.as_nanos() as i64,
            Err(e) => -(e.duration().as_nanos() as i64),
        });
        State { size: metadata.len(), modified }
    }
}

/// The folder that an image's name is counted from, ending in `/`; empty if that can't be told.
fn base_folder(image: &Image) -> String {
    let path = std::path::absolute(&image.path).unwrap_or_else(|_| image.path.clone());
    let text = walk::readable(path.as_os_str()).replace(std::path::MAIN_SEPARATOR, "/");
    text.strip_suffix(&image.name).unwrap_or_default().to_string()
}

/// What the rows of a part were made from, a column each.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
struct States {
    /// Folders that names are counted from.
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
            return Err(Error::invalid(path)(format!("doesn't tell of {rows} images")));
        }
        Ok(states)
    }

    fn write(&self, path: &Path) -> Result<()> {
        write_atomically(path, format!("{}\n", json(self)).as_bytes())
    }
}

/// How an index is extended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexOptions {
    /// Which share of a list the images are, if they are one.
    pub shard: Option<Shard>,
    /// Whether rows of images that aren't listed go; they stay otherwise. Those of a shard always go.
    pub prune: bool,
    /// Most rows of a part.
    pub part_rows: usize,
}

impl Default for IndexOptions {
    fn default() -> Self {
        IndexOptions { shard: None, prune: false, part_rows: PART_ROWS }
    }
}

/// What an index had before it was extended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Found {
    /// Listed images that are there already, with the same size and time.
    pub known: usize,
    /// Listed images that were there with another size or time; their rows are gone.
    pub changed: usize,
    /// Images that weren't listed, whose rows are gone.
    pub pruned: usize,
}

/// Extends an index folder.
pub struct IndexWriter {
    folder: PathBuf,
    manifest: Manifest,
    part_rows: usize,
    /// The inputs as typed.
    inputs: Vec<String>,
    /// What is still to be embedded, sorted by name, each with what its file was like when it was listed.
    todo: Arc<Vec<Image>>,
    states: Vec<State>,
    found: Found,
    open: Option<OpenPart>,
    /// Rows of this writer.
    rows: usize,
    /// Listed names without a row.
    skipped: Vec<String>,
    /// Whether the manifest on the disk is another one.
    is_dirty: bool,
    _lock: FolderLock,
}

/// The part that rows go into.
struct OpenPart {
    file: String,
    writer: EmbeddingWriter,
    states: States,
    /// Place in `todo` where the next part begins.
    end: usize,
}

impl IndexWriter {
    /// Opens an index folder, or begins one, and finds out which of these images, sorted by name, it lacks.
    ///
    /// Rows whose image has another size or modification time are taken out at once: an index never shows an image as
    /// it was before. Images that aren't listed keep their rows unless `options` says otherwise.
    ///
    /// # Errors
    /// `Usage` where a name is listed twice, the folder holds other things or another process writes into it; `Data`
    /// where the index was made with something else, or a name belongs to an image from another folder; `Io` where it
    /// can't be read or written.
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
                    "{} holds other things and no {MANIFEST}: an index needs a folder of its own",
                    folder.display()
                )));
            }
            None => (Manifest::begin(origin.clone(), options.shard.clone()), true),
        };
        let differences = manifest.origin.differences(&origin);
        if !differences.is_empty() {
            return Err(Error::Data(format!(
                "{} was made with something else, whose vectors can't be compared with these: {}",
                folder.display(),
                differences.join("; ")
            )));
        }
        let kind = |shard: &Option<Shard>| shard.as_ref().map(|shard| shard.number);
        if kind(&manifest.shard) != kind(&options.shard) {
            let told = |shard| kind(shard).map_or("no shard".to_string(), |number| format!("shard {number}"));
            return Err(Error::Data(format!(
                "{} is {}, not {}",
                folder.display(),
                told(&manifest.shard),
                told(&options.shard)
            )));
        }
        if manifest.shard != options.shard {
            manifest.shard = options.shard.clone();
            is_dirty = true;
        }
        let own = origin.provenance();
        is_dirty |= manifest.take_in(&own);

        let states: Vec<State> = images.par_iter().map(State::of).collect();
        let prune = options.prune || options.shard.is_some();
        let mut survey = Survey::new(&images, &states, prune);
        let mut kept = Vec::new();
        for part in &manifest.parts {
            let path = folder.join(&part.file);
            let file = EmbeddingFile::open(&path)?;
            if (file.len(), file.dim()) != (part.rows, manifest.origin.dim) {
                return Err(Error::invalid(&path)(format!(
                    "{} rows of {} numbers, where the manifest says {} of {}",
                    file.len(),
                    file.dim(),
                    part.rows,
                    manifest.origin.dim
                )));
            }
            let told = States::read(&path.with_extension("json"), part.rows)?;
            let rows = survey.rows_to_keep(&file.paths, &told)?;
            kept.push((rows.len() < part.rows).then_some((rows, file, told)));
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
            part_rows: options.part_rows.max(1),
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
        writer.take_out_rows(kept)?;
        // What can't be read is tried again. Names that aren't listed any more stay skipped as their rows would stay.
        let forgets = prune && !writer.manifest.skipped.is_empty();
        if forgets {
            writer.manifest.skipped.clear();
        }
        if forgets || !writer.todo.is_empty() {
            writer.manifest.complete = false;
            writer.is_dirty = true;
        }
        // Before the first part: a folder with parts and no manifest would be nobody's.
        writer.publish()?;
        writer.sweep()?;
        Ok(writer)
    }

    /// Writes every part that doesn't keep all of its rows anew; `None` for those that do.
    fn take_out_rows(&mut self, kept: Vec<Option<(Vec<usize>, EmbeddingFile, States)>>) -> Result<()> {
        let old = std::mem::take(&mut self.manifest.parts);
        for (part, kept) in old.into_iter().zip(kept) {
            let Some((rows, file, states)) = kept else {
                self.manifest.parts.push(part);
                continue;
            };
            self.manifest.images -= part.rows - rows.len();
            self.manifest.complete = false;
            self.is_dirty = true;
            if rows.is_empty() {
                continue;
            }
            let names: Vec<String> = rows.iter().map(|&row| file.paths[row].clone()).collect();
            let mut open = self.begin_part(&names, 0, &file.provenance.inputs)?;
            let mut vector = vec![0.0; file.dim()];
            for (row, name) in rows.into_iter().zip(&names) {
                file.read(row..row + 1, &mut vector)?;
                open.writer.push(name, &vector)?;
                let (folder, state) = states.row(row);
                open.states.push(folder, state);
            }
            let part = self.finish_part(open)?;
            self.manifest.parts.push(part);
        }
        Ok(())
    }

    /// The images to embed, sorted by name.
    pub fn todo(&self) -> Arc<Vec<Image>> {
        self.todo.clone()
    }

    /// What was there.
    pub fn found(&self) -> Found {
        self.found
    }

    /// Rows of the index now, without those of a part that isn't complete.
    pub fn images(&self) -> usize {
        self.manifest.images
    }

    /// Whether it is a share of a list.
    pub fn is_shard(&self) -> bool {
        self.manifest.shard.is_some()
    }

    /// Adds the row of an image that was to be embedded, in the order of the list.
    ///
    /// # Errors
    /// `Io` where it can't be written.
    ///
    /// # Panics
    /// If it wasn't to be embedded, or its vector hasn't the length that was told.
    pub fn push(&mut self, name: &str, vector: &[f32]) -> Result<()> {
        let Ok(at) = self.todo.binary_search_by(|image| image.name.as_str().cmp(name)) else {
            unreachable!("{name} wasn't to be embedded")
        };
        if self.open.as_ref().is_some_and(|open| at >= open.end) {
            self.close_part()?;
        }
        let mut open = match self.open.take() {
            Some(open) => open,
            None => {
                let end = (at + self.part_rows).min(self.todo.len());
                let names: Vec<String> = self.todo[at..end].iter().map(|image| image.name.clone()).collect();
                let inputs = self.inputs.clone();
                self.begin_part(&names, end, &inputs)?
            }
        };
        open.writer.push(name, vector)?;
        open.states.push(&base_folder(&self.todo[at]), self.states[at]);
        self.open = Some(open);
        self.rows += 1;
        Ok(())
    }

    /// Remembers that an image that was to be embedded can't be read.
    pub fn skip(&mut self, name: &str) {
        self.skipped.push(name.to_string());
    }

    /// Keeps what has come, and leaves the rest to another writer.
    ///
    /// # Errors
    /// `Io` where it can't be written.
    pub fn stop(mut self) -> Result<()> {
        self.close_part()
    }

    /// Completes the index and returns how many rows were added, and how many there are now.
    ///
    /// # Errors
    /// `Io` where it can't be written.
    pub fn finish(mut self) -> Result<(usize, usize)> {
        self.close_part()?;
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

    fn begin_part(&mut self, names: &[String], end: usize, inputs: &[String]) -> Result<OpenPart> {
        let file = format!("part-{:06}.safetensors", self.manifest.next_part);
        self.manifest.next_part += 1;
        let origin = &self.manifest.origin;
        let provenance = Provenance { inputs: inputs.to_vec(), ..origin.provenance() };
        let metadata = provenance.add_to(&origin.metadata);
        let path = self.folder.join(&file);
        let writer = EmbeddingWriter::create(&path, origin.dim, origin.dtype, names, &metadata)?;
        Ok(OpenPart { file, writer, states: States::default(), end })
    }

    fn finish_part(&self, open: OpenPart) -> Result<Part> {
        let path = self.folder.join(&open.file);
        let rows = open.writer.finish()?;
        open.states.write(&path.with_extension("json"))?;
        Ok(Part { file: open.file, rows, sha256: hash::of_file(&path)? })
    }

    /// Makes the open part count.
    fn close_part(&mut self) -> Result<()> {
        if let Some(open) = self.open.take() {
            let part = self.finish_part(open)?;
            self.manifest.images += part.rows;
            self.manifest.parts.push(part);
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

    /// Removes parts that don't count.
    fn sweep(&self) -> Result<()> {
        for entry in std::fs::read_dir(&self.folder).map_err(Error::io("read", &self.folder))? {
            let name = entry.map_err(Error::io("read", &self.folder))?.file_name();
            let Some(name) = name.to_str().filter(|name| is_part(name)) else { continue };
            let stem = name.split_once('.').map_or(name, |(stem, _)| stem);
            let counts = |part: &Part| part.file.split_once('.').is_some_and(|(counted, _)| counted == stem);
            if !self.manifest.parts.iter().any(counts) {
                let path = self.folder.join(name);
                std::fs::remove_file(&path).map_err(Error::io("remove", &path))?;
            }
        }
        Ok(())
    }
}

impl Origin {
    /// Provenance of the vectors, by the metadata.
    pub(super) fn provenance(&self) -> Provenance {
        Provenance::read(|key| self.metadata.get(key).cloned())
    }
}

impl Manifest {
    /// Takes a writer's inputs in, and returns whether that changes anything.
    fn take_in(&mut self, writer: &Provenance) -> bool {
        let mut whole = Provenance::of_all([&self.origin.provenance(), writer]);
        // Its weights are those of the index, or it would have been refused.
        whole.weights_sha256 = writer.weights_sha256.clone();
        let metadata = whole.add_to(&self.origin.metadata);
        let told = (self.weights_sha256.take(), std::mem::take(&mut self.inputs), &self.origin.metadata);
        let is_new = told != (whole.weights_sha256.clone(), whole.inputs.clone(), &metadata);
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
            parts: Vec::new(),
            skipped: Vec::new(),
            next_part: 1,
        }
    }
}

/// Compares what an index has with what is listed.
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

    /// Which rows of a part stay.
    fn rows_to_keep(&mut self, names: &[String], told: &States) -> Result<Vec<usize>> {
        let mut rows = Vec::with_capacity(names.len());
        for (row, name) in names.iter().enumerate() {
            let (folder, state) = told.row(row);
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
                            "{name} stands in the index already, from {folder}, and is another image in {here}: give \
                             both folders in one command, so that names begin with the folder, or --prune to replace it"
                        )));
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
