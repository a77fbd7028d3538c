//! Galleries: embeddings in one file or in a folder of segments, filters for their rows, and the files of their images.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use super::format::extension;
use super::provenance::{Provenance, Source};
use super::rows::{NamedRows, Rows, Stacked};
use crate::datasets::labels::Label;
use crate::error::{Error, Result};
use crate::images::walk;
use crate::storage::entry::Entry;

/// The file that lists the segments of a folder.
const MANIFEST: &str = "manifest.json";
/// Extensions of files with embeddings.
const EXTENSIONS: [&str; 3] = ["safetensors", "npy", "parquet"];
/// Settings of a network with a flag of the same name.
const FLAGS: [&str; 9] =
    ["size", "heads", "stride", "act", "ln-eps", "lambda", "lambda-on", "tokens", "parts"];
/// Largest image file to show, in bytes.
const MAX_SHOWN: u64 = 16 << 20;

/// Embeddings with the names of their images. Rows are read from disk in pieces, the segments one after the other.
pub struct Gallery {
    segments: Vec<Segment>,
    names: Vec<String>,
    dim: usize,
}

/// One file of a gallery.
struct Segment {
    path: PathBuf,
    rows: Box<dyn Rows>,
    provenance: Provenance,
    /// First row of the next segment, counted over the whole gallery.
    end: usize,
}

impl Gallery {
    /// Opens a file of embeddings, or a folder of them: the `parts` of its `manifest.json` in that order, or without a
    /// manifest all `.safetensors`, `.npy` and `.parquet` files in the order of their names.
    ///
    /// # Errors
    /// `Io` if a file can't be read, `Usage` for another extension, `Data` if there are no rows or the segments differ
    /// in dimensions.
    pub fn open(path: &Path) -> Result<Gallery> {
        let paths = if path.is_dir() { segment_paths(path)? } else { vec![path.to_path_buf()] };
        let mut gallery = Gallery { segments: Vec::new(), names: Vec::new(), dim: 0 };
        for path in paths {
            let NamedRows { rows, names, provenance } = super::open(&path)?;
            // The dimensions of an empty segment don't matter.
            if names.is_empty() {
                continue;
            }
            if let Some(first) = gallery.segments.first()
                && rows.dim() != gallery.dim
            {
                return Err(Error::Data(format!(
                    "{} has embeddings of {} dimensions, {} of {}: all files must come from the same model and settings",
                    first.path.display(),
                    gallery.dim,
                    path.display(),
                    rows.dim()
                )));
            }
            gallery.dim = rows.dim();
            gallery.names.extend(names);
            let end = gallery.names.len();
            gallery.segments.push(Segment { path, rows, provenance, end });
        }
        if gallery.names.is_empty() {
            let error = Error::Data(format!("{} holds no embeddings", path.display()));
            return Err(match path.is_dir() {
                true => error.hinted(format!(
                    "`lat-wgpu embed --model MODEL {} --out FILE.safetensors` makes embeddings of images",
                    path.display()
                )),
                false => error,
            });
        }
        Ok(gallery)
    }

    /// Lists its files with the weights that they name.
    pub fn sources(&self) -> Vec<Source> {
        let source = |segment: &Segment| Source {
            file: segment.path.clone(),
            weights_sha256: segment.provenance.weights_sha256.clone(),
        };
        self.segments.iter().map(source).collect()
    }

    /// Provenance of all its rows.
    pub fn provenance(&self) -> Provenance {
        Provenance::of_all(self.segments.iter().map(|segment| &segment.provenance))
    }

    /// Finds its images: in `folder`, else in the inputs that its files name, if those still exist.
    ///
    /// # Errors
    /// `Io` if `folder` can't be read.
    pub fn images(&self, folder: Option<&Path>) -> Result<Option<Images>> {
        if let Some(folder) = folder {
            return Ok(Some(Images { folder: Some(ImageFolder::open(folder)?), inputs: Vec::new() }));
        }
        let mut inputs: Vec<(&[String], Option<Arc<Inputs>>)> = Vec::new();
        let mut of_segments = Vec::with_capacity(self.segments.len());
        for Segment { provenance, .. } in &self.segments {
            let known = inputs.iter().find(|(list, _)| *list == provenance.inputs);
            let own = known.map(|(_, found)| found.clone()).unwrap_or_else(|| {
                let found = Inputs::open(&provenance.inputs).map(Arc::new);
                inputs.push((&provenance.inputs, found.clone()));
                found
            });
            of_segments.push(own);
        }
        Ok(of_segments.iter().any(Option::is_some).then_some(Images { folder: None, inputs: of_segments }))
    }

    /// Inputs that its files were embedded from, as typed.
    pub fn inputs(&self) -> BTreeSet<&str> {
        self.segments.iter().flat_map(|segment| &segment.provenance.inputs).map(String::as_str).collect()
    }

    /// Finds the file of a row's image.
    pub fn image(&self, images: &Images, row: usize) -> Option<PathBuf> {
        let name = self.names.get(row)?;
        match &images.folder {
            Some(folder) => folder.find(name),
            None => images.inputs[self.segments.partition_point(|segment| segment.end <= row)]
                .as_ref()?
                .find(name),
        }
    }

    /// Name of each row's image.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Returns the rows that pass every filter, ascending.
    ///
    /// # Errors
    /// `Data` if no row is left, or if a camera filter meets a name without a camera.
    pub fn filtered(&self, filters: &[Filter]) -> Result<Vec<usize>> {
        let mut kept: Vec<usize> = (0..self.names.len()).collect();
        for filter in filters {
            let mut through = Vec::with_capacity(kept.len());
            for row in kept {
                if filter.admits(&self.names[row])? {
                    through.push(row);
                }
            }
            kept = through;
        }
        if kept.is_empty() {
            return Err(Error::Data(format!(
                "none of the gallery's {} images passes every --filter",
                self.names.len()
            )));
        }
        Ok(kept)
    }

    /// Returns whether its files say that rows are means of an image's and its mirror image's embeddings.
    pub fn is_flipped(&self) -> bool {
        self.segments
            .iter()
            .any(|segment| segment.provenance.settings.as_ref().is_some_and(Entry::is_flipped))
    }

    /// Checks that rows can be compared with queries of `dim` dimensions and the settings `own`, from
    /// [`crate::retrieval::pca::settings`]. [`super::provenance::check_same_weights`] checks the weights.
    ///
    /// # Errors
    /// `Data` with the first setting that differs, and its file.
    pub fn check_fits(&self, own: &Entry, dim: usize) -> Result<()> {
        for Segment { path, provenance, .. } in &self.segments {
            let difference = provenance.settings.as_ref().and_then(|theirs| theirs.difference(own));
            if let Some((key, [theirs, own])) = difference {
                let name = key.rsplit('.').next().unwrap_or(&key).replace('_', "-");
                let [theirs, own] = [typed(&theirs), typed(&own)];
                let error = Error::Data(format!(
                    "{} was embedded with {name} {theirs}, and the model has {own}",
                    path.display()
                ));
                return Err(error.hinted(match FLAGS.contains(&name.as_str()) {
                    true => format!("add --{name} {theirs}"),
                    false => "search with the flags that it was embedded with, or embed it again".to_string(),
                }));
            }
        }
        match self.segments.first() {
            Some(segment) if self.dim != dim => Err(Error::Data(format!(
                "{} has embeddings of {} dimensions, the queries have {dim}: both must come from the same model and \
                 settings, and both or neither must be reduced",
                segment.path.display(),
                self.dim
            ))),
            _ => Ok(()),
        }
    }
}

/// Writes a setting as the user types it: sizes as HxW, words without quotes.
fn typed(value: &Value) -> String {
    match value {
        Value::Array(sides) if sides.len() == 2 => format!("{}x{}", sides[0], sides[1]),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

impl Rows for Gallery {
    fn len(&self) -> usize {
        self.names.len()
    }

    fn dim(&self) -> usize {
        self.dim
    }

    fn read(&self, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        Stacked::new(self.segments.iter().map(|segment| &*segment.rows).collect())?.read(rows, out)
    }

    fn name(&self, row: usize) -> Option<String> {
        let segment = self.segments.get(self.segments.partition_point(|segment| segment.end <= row))?;
        segment.rows.name(row + segment.rows.len() - segment.end)
    }
}

/// Returns whether [`Gallery::open`] reads a path: a file of embeddings, or a folder that holds some.
pub fn holds_embeddings(path: &Path) -> bool {
    match path.is_dir() {
        true => path.join(MANIFEST).is_file() || segment_paths(path).is_ok_and(|found| !found.is_empty()),
        false => EXTENSIONS.contains(&extension(path).as_str()),
    }
}

/// The part of a manifest that galleries read.
#[derive(Deserialize)]
struct Manifest {
    #[serde(rename = "parts")]
    segments: Vec<ManifestSegment>,
}

#[derive(Deserialize)]
struct ManifestSegment {
    file: String,
}

/// Lists the files of embeddings in a folder.
fn segment_paths(folder: &Path) -> Result<Vec<PathBuf>> {
    let manifest = folder.join(MANIFEST);
    if manifest.is_file() {
        let text = fs::read(&manifest).map_err(Error::io("read", &manifest))?;
        let Manifest { segments } =
            serde_json::from_slice(&text).map_err(|error| Error::invalid(&manifest)(error.to_string()))?;
        // A manifest must not lead out of its folder.
        let outside = segments
            .iter()
            .find(|segment| Path::new(&segment.file).file_name() != Some(segment.file.as_ref()));
        return match outside {
            Some(segment) => Err(Error::invalid(&manifest)(format!(
                "{} is not the name of a file beside it",
                segment.file
            ))),
            None => Ok(segments.iter().map(|segment| folder.join(&segment.file)).collect()),
        };
    }
    let paths = walk::names_in(folder)?.0.into_iter().map(|name| folder.join(name));
    Ok(paths.filter(|path| path.is_file() && EXTENSIONS.contains(&extension(path).as_str())).collect())
}

/// A condition on the images of a gallery.
#[derive(Debug, Clone, PartialEq)]
pub enum Filter {
    /// The image is of one of these cameras, by its Market-1501 name.
    Cameras(Vec<u32>),
    /// The image's name matches a pattern. `*` matches any text, also with `/`.
    Path(glob::Pattern),
}

impl FromStr for Filter {
    type Err = String;

    /// Reads `camera=1,2` or `path=GLOB`.
    fn from_str(text: &str) -> std::result::Result<Filter, String> {
        match text.split_once('=') {
            Some(("camera", list)) => {
                let cameras: Option<Vec<u32>> =
                    list.split(',').map(|number| number.trim().parse().ok()).collect();
                cameras.map(Filter::Cameras).ok_or_else(|| format!("cameras are numbers, found {list:?}"))
            }
            Some(("path", pattern)) => {
                glob::Pattern::new(pattern).map(Filter::Path).map_err(|error| error.to_string())
            }
            _ => Err("expected camera=1,2 or path=GLOB".to_string()),
        }
    }
}

impl Filter {
    /// Returns whether the filter admits an image of this name.
    ///
    /// # Errors
    /// [`Error::Data`] for a name without a camera, if the filter is by camera.
    pub fn admits(&self, name: &str) -> Result<bool> {
        match self {
            Filter::Path(pattern) => Ok(pattern.matches(name)),
            Filter::Cameras(cameras) => match Label::from_market_name(name) {
                Some(label) => Ok(cameras.contains(&label.camera)),
                None => Err(Error::Data(format!(
                    "{name} names no camera, unlike 0002_c1s1_000451_03.jpg: use --filter path=GLOB, which matches any \
                     name"
                ))),
            },
        }
    }
}

/// The folder that was embedded. Names of a gallery are relative to it.
#[derive(Debug, Clone)]
pub struct ImageFolder {
    /// Canonical path: no links, no `..`.
    root: PathBuf,
}

impl ImageFolder {
    /// Opens a folder.
    ///
    /// # Errors
    /// `Io` if it can't be read or is not a folder.
    pub fn open(folder: &Path) -> Result<ImageFolder> {
        let root = fs::canonicalize(folder).map_err(Error::io("read", folder))?;
        fs::read_dir(&root).map_err(Error::io("read", folder))?;
        Ok(ImageFolder { root })
    }

    /// Finds the file of an image. It must be a regular file below the folder: no name or link leads out.
    pub fn find(&self, name: &str) -> Option<PathBuf> {
        let path = fs::canonicalize(self.root.join(name)).ok()?;
        (path.starts_with(&self.root) && path.is_file()).then_some(path)
    }
}

/// Reads an image file of at most 16 MiB.
pub fn read_image(file: &Path) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(file).ok()?.take(MAX_SHOWN + 1).read_to_end(&mut bytes).ok()?;
    (bytes.len() as u64 <= MAX_SHOWN).then_some(bytes)
}

/// The files of a gallery's images.
#[derive(Debug, Clone)]
pub struct Images {
    /// The folder of all images, if the user named one.
    folder: Option<ImageFolder>,
    /// Otherwise the inputs of each segment, if they still exist.
    inputs: Vec<Option<Arc<Inputs>>>,
}

impl Images {
    /// Returns whether the user named their folder.
    pub fn is_named(&self) -> bool {
        self.folder.is_some()
    }
}

/// Inputs that embeddings were made from, and that still exist.
#[derive(Debug)]
pub struct Inputs {
    /// Folders, each with the prefix that its names have if there are several inputs.
    folders: Vec<(String, ImageFolder)>,
    /// Files, by their names.
    files: BTreeMap<String, PathBuf>,
    /// True if there is one input: its names have no prefix.
    is_single: bool,
}

impl Inputs {
    /// Finds inputs as typed, relative to the current folder; `None` if none exists.
    pub fn open(inputs: &[String]) -> Option<Inputs> {
        let mut found = Inputs { folders: Vec::new(), files: BTreeMap::new(), is_single: inputs.len() == 1 };
        for input in inputs {
            let path = Path::new(input);
            if path.is_file() {
                found.files.insert(input.clone(), fs::canonicalize(path).ok()?);
            } else if let Ok(folder) = ImageFolder::open(path) {
                found.folders.push((walk::folder_prefix(path), folder));
            }
        }
        (!found.files.is_empty() || !found.folders.is_empty()).then_some(found)
    }

    /// Finds the file of an image: an input, or a regular file below one. No name or link leads elsewhere.
    pub fn find(&self, name: &str) -> Option<PathBuf> {
        if let Some(file) = self.files.get(name) {
            return Some(file.clone());
        }
        if !self.is_single {
            let below =
                |(prefix, folder): &(String, ImageFolder)| folder.find(name.strip_prefix(prefix.as_str())?);
            if let Some(file) = self.folders.iter().find_map(below) {
                return Some(file);
            }
        }
        // Several commands may have extended an index, each from one folder. The image must be in only one of them.
        let mut found: Vec<PathBuf> =
            self.folders.iter().filter_map(|(_, folder)| folder.find(name)).collect();
        found.dedup();
        if found.len() == 1 { found.pop() } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::super::EmbeddingWriter;
    use super::*;
    use crate::storage::Dtype;

    /// Writes rows that begin with the numbers `firsts`. Their names alternate between cameras 1 and 2.
    fn write(out: &Path, dim: usize, firsts: Range<usize>) {
        let names: Vec<String> =
            firsts.clone().map(|first| format!("a/{first:04}_c{}s1.jpg", first % 2 + 1)).collect();
        let mut writer = EmbeddingWriter::create(out, dim, Dtype::F32, &names, &BTreeMap::new()).unwrap();
        for (name, first) in names.iter().zip(firsts) {
            writer.push(name, &vec![first as f32; dim]).unwrap();
        }
        writer.finish().unwrap();
    }

    fn firsts(rows: &dyn Rows) -> Vec<f32> {
        let mut out = vec![f32::NAN; rows.len() * rows.dim()];
        rows.read(0..rows.len(), &mut out).unwrap();
        out.chunks(rows.dim()).map(|row| row[0]).collect()
    }

    #[test]
    fn parts_follow_their_names_or_the_manifest() {
        let folder = tempfile::tempdir().unwrap();
        let here = folder.path();
        let empty = Gallery::open(here).map(|gallery| gallery.names).unwrap_err();
        assert!(matches!(empty.plain(), Error::Data(text) if text.contains("no embeddings")));
        assert!(empty.hint().unwrap().contains("lat-wgpu embed"));
        assert!(!holds_embeddings(here) && !holds_embeddings(&here.join("a.jpg")));
        write(&here.join("part-2.parquet"), 3, 5..6);
        assert!(holds_embeddings(here) && holds_embeddings(&here.join("part-2.parquet")));
        write(&here.join("part-0.npy"), 3, 1..4);
        write(&here.join("part-1.safetensors"), 3, 4..5);
        write(&here.join("part-3.npy"), 4, 0..0);
        fs::write(here.join("notes.txt"), "no part").unwrap();
        let gallery = Gallery::open(here).unwrap();
        assert_eq!(firsts(&gallery), [1., 2., 3., 4., 5.]);
        assert_eq!(gallery.names()[3], "a/0004_c1s1.jpg");

        let manifest = |text: &str| fs::write(here.join(MANIFEST), text).unwrap();
        manifest(r#"{"rows": 4, "parts": [{"file": "part-2.parquet", "rows": 1}, {"file": "part-0.npy"}]}"#);
        assert_eq!(firsts(&Gallery::open(here).unwrap()), [5., 1., 2., 3.]);
        for (text, words) in [
            ("{", "manifest.json"),
            (r#"{"parts": [{"file": "../part-0.npy"}]}"#, "manifest.json"),
            (r#"{"parts": [{"file": "part-9.npy"}]}"#, "part-9"),
        ] {
            manifest(text);
            match Gallery::open(here) {
                Err(Error::Io { path, .. }) => assert!(path.to_string_lossy().contains(words), "{path:?}"),
                other => panic!("{text}: {:?}", other.map(|gallery| gallery.names)),
            }
        }
        fs::remove_file(here.join(MANIFEST)).unwrap();
        write(&here.join("part-4.npy"), 4, 7..8);
        let error = Gallery::open(here).map(|gallery| gallery.names).unwrap_err().to_string();
        assert!(error.contains("part-0.npy") && error.contains("part-4.npy of 4"), "{error}");
    }

    #[test]
    fn every_filter_must_hold() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("g.npy");
        write(&file, 2, 0..6);
        let gallery = Gallery::open(&file).unwrap();
        let kept = |filters: &[&str]| {
            let filters: Vec<Filter> = filters.iter().map(|text| text.parse().unwrap()).collect();
            gallery.filtered(&filters)
        };
        assert_eq!(kept(&[]).unwrap(), [0, 1, 2, 3, 4, 5]);
        assert_eq!(kept(&["camera=2"]).unwrap(), [1, 3, 5]);
        assert_eq!(kept(&["camera=1, 2", "path=*000[1-4]*"]).unwrap(), [1, 2, 3, 4]);
        assert_eq!(kept(&["camera=2", "path=a/0003*", "path=*.jpg"]).unwrap(), [3]);
        assert!(matches!(kept(&["camera=3"]), Err(Error::Data(text)) if text.contains("6 images")));
        for bad in ["", "camera", "camera=", "camera=x", "camera=1,", "path=[", "person=1"] {
            assert!(bad.parse::<Filter>().is_err(), "{bad}");
        }
        let nameless = Filter::Cameras(vec![1]).admits("holiday.jpg");
        assert!(matches!(nameless, Err(Error::Data(text)) if text.contains("holiday.jpg")));
    }

    #[test]
    fn no_name_leads_out_of_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let here = folder.path();
        fs::create_dir_all(here.join("root/sub")).unwrap();
        for file in ["root/sub/a.jpg", "root/b.jpg", "secret.jpg"] {
            fs::write(here.join(file), file).unwrap();
        }
        let root = here.join("root");
        let images = ImageFolder::open(&root).unwrap();
        assert_eq!(images.find("sub/a.jpg").and_then(|file| read_image(&file)).unwrap(), b"root/sub/a.jpg");
        assert!(images.find("sub/../b.jpg").is_some());
        assert!(images.find(&fs::canonicalize(root.join("b.jpg")).unwrap().to_string_lossy()).is_some());
        let secret = fs::canonicalize(here.join("secret.jpg")).unwrap();
        for name in ["../secret.jpg", "sub/../../secret.jpg", "sub", "", ".", "none.jpg", "a\0b"] {
            assert_eq!(images.find(name), None, "{name}");
        }
        assert_eq!(images.find(&secret.to_string_lossy()), None);
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(&secret, root.join("link.jpg")).unwrap();
            std::os::unix::fs::symlink(here, root.join("up")).unwrap();
            std::os::unix::fs::symlink(root.join("b.jpg"), root.join("inside.jpg")).unwrap();
            assert_eq!((images.find("link.jpg"), images.find("up/secret.jpg")), (None, None));
            assert_eq!(images.find("inside.jpg").and_then(|file| read_image(&file)).unwrap(), b"root/b.jpg");
        }
        assert!(ImageFolder::open(&root.join("b.jpg")).is_err());
        let large = File::create(root.join("large.jpg")).unwrap();
        large.set_len(MAX_SHOWN + 1).unwrap();
        assert!(
            images.find("large.jpg").is_some()
                && images.find("large.jpg").and_then(|file| read_image(&file)).is_none()
        );
    }
}
