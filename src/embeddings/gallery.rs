//! What is searched in: embeddings in one file or in a folder of parts, some of their rows, and the images behind them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use serde::Deserialize;

use super::format::ending;
use super::provenance::{Provenance, Source};
use super::rows::{NamedRows, Parts, Rows};
use crate::datasets::labels::Label;
use crate::error::{Error, Result};
use crate::images::walk;
use crate::storage::entry::Entry;

/// Lists the parts of a folder, where it has such a file.
const MANIFEST: &str = "manifest.json";
/// Endings of files with embeddings.
const ENDINGS: [&str; 3] = ["safetensors", "npy", "parquet"];
/// Largest file of an image that is shown, in bytes.
const MAX_SHOWN: u64 = 16 << 20;

/// Embeddings with the names of their images, read piece by piece; the rows of a part stand behind those of the part
/// before.
pub struct Gallery {
    parts: Vec<Part>,
    names: Vec<String>,
    dim: usize,
}

/// One file.
struct Part {
    path: PathBuf,
    rows: Box<dyn Rows>,
    provenance: Provenance,
    /// First row behind it, counted over all parts.
    end: usize,
}

impl Gallery {
    /// Opens a file of embeddings, or a folder of them: the files that its `manifest.json` lists under `parts`, in that
    /// order, or without one all its `.safetensors`, `.npy` and `.parquet`, in the order of their names.
    ///
    /// # Errors
    /// `Io` where something can't be read, `Usage` for a file of another ending, `Data` where there are no rows, or the
    /// parts differ in the length of their rows.
    pub fn open(path: &Path) -> Result<Gallery> {
        let paths = if path.is_dir() { part_paths(path)? } else { vec![path.to_path_buf()] };
        let mut gallery = Gallery { parts: Vec::new(), names: Vec::new(), dim: 0 };
        for path in paths {
            let NamedRows { rows, names, provenance } = super::open(&path)?;
            // A part without rows has nothing to say.
            if names.is_empty() {
                continue;
            }
            if let Some(first) = gallery.parts.first()
                && rows.dim() != gallery.dim
            {
                return Err(Error::Data(format!(
                    "{} has embeddings of {} numbers, {} of {}: all parts must come from the same model and settings",
                    first.path.display(),
                    gallery.dim,
                    path.display(),
                    rows.dim()
                )));
            }
            gallery.dim = rows.dim();
            gallery.names.extend(names);
            let end = gallery.names.len();
            gallery.parts.push(Part { path, rows, provenance, end });
        }
        if gallery.names.is_empty() {
            return Err(Error::Data(format!("{} holds no embeddings", path.display())));
        }
        Ok(gallery)
    }

    /// Its files with the weights that they tell of.
    pub fn sources(&self) -> Vec<Source> {
        let source = |part: &Part| Source {
            file: part.path.clone(),
            weights_sha256: part.provenance.weights_sha256.clone(),
        };
        self.parts.iter().map(source).collect()
    }

    /// Where all its rows come from.
    pub fn provenance(&self) -> Provenance {
        Provenance::of_all(self.parts.iter().map(|part| &part.provenance))
    }

    /// Where its images are: in `folder`, else where its files tell that they were embedded from, if that is still
    /// there.
    ///
    /// # Errors
    /// `Io` where `folder` can't be read.
    pub fn images(&self, folder: Option<&Path>) -> Result<Option<Images>> {
        if let Some(folder) = folder {
            return Ok(Some(Images { folder: Some(ImageFolder::open(folder)?), inputs: Vec::new() }));
        }
        let mut inputs: Vec<(&[String], Option<Arc<Inputs>>)> = Vec::new();
        let mut of_parts = Vec::with_capacity(self.parts.len());
        for Part { provenance, .. } in &self.parts {
            let known = inputs.iter().find(|(list, _)| *list == provenance.inputs);
            let own = known.map(|(_, found)| found.clone()).unwrap_or_else(|| {
                let found = Inputs::open(&provenance.inputs).map(Arc::new);
                inputs.push((&provenance.inputs, found.clone()));
                found
            });
            of_parts.push(own);
        }
        Ok(of_parts.iter().any(Option::is_some).then_some(Images { folder: None, inputs: of_parts }))
    }

    /// The inputs that its files were embedded from, as typed.
    pub fn inputs(&self) -> BTreeSet<&str> {
        self.parts.iter().flat_map(|part| &part.provenance.inputs).map(String::as_str).collect()
    }

    /// The file of a row's image.
    pub fn image(&self, images: &Images, row: usize) -> Option<PathBuf> {
        let name = self.names.get(row)?;
        match &images.folder {
            Some(folder) => folder.find(name),
            None => images.inputs[self.parts.partition_point(|part| part.end <= row)].as_ref()?.find(name),
        }
    }

    /// Name of each row's image, as it was when it was embedded.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The rows that every filter lets through, ascending.
    ///
    /// # Errors
    /// `Data` where nothing is left, or a filter by camera meets a name that tells none.
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
                "none of the gallery's {} images passes --filter",
                self.names.len()
            )));
        }
        Ok(kept)
    }

    /// Returns whether its rows are means of an image's and its mirror image's vectors, where its files say so.
    pub fn is_flipped(&self) -> bool {
        self.parts.iter().any(|part| part.provenance.settings.as_ref().is_some_and(Entry::is_flipped))
    }

    /// Checks that distances to queries mean something: `dim` numbers in a row, and where a file has the settings that it
    /// was made with, those of the queries, `own` (from [`crate::retrieval::pca::settings`]). The weights are checked by
    /// [`super::provenance::check_same_weights`].
    ///
    /// # Errors
    /// `Data` with the file and the first setting that differs.
    pub fn check_fits(&self, own: &Entry, dim: usize) -> Result<()> {
        for Part { path, provenance, .. } in &self.parts {
            let difference = provenance.settings.as_ref().and_then(|theirs| theirs.difference(own));
            if let Some((key, [theirs, own])) = difference {
                return Err(Error::Data(format!(
                    "{} was embedded with {key} {theirs}, the model now has {own}: embed it again, or search with the \
                     flags that it was embedded with",
                    path.display()
                )));
            }
        }
        match self.parts.first() {
            Some(part) if self.dim != dim => Err(Error::Data(format!(
                "{} has embeddings of {} numbers, the queries' have {dim}: both must come from the same model and settings, and be \
                 reduced alike",
                part.path.display(),
                self.dim
            ))),
            _ => Ok(()),
        }
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
        Parts::new(self.parts.iter().map(|part| &*part.rows).collect())?.read(rows, out)
    }

    fn name(&self, row: usize) -> Option<String> {
        let part = self.parts.get(self.parts.partition_point(|part| part.end <= row))?;
        part.rows.name(row + part.rows.len() - part.end)
    }
}

/// A folder's list of its parts.
#[derive(Deserialize)]
struct Manifest {
    parts: Vec<ManifestPart>,
}

#[derive(Deserialize)]
struct ManifestPart {
    file: String,
}

/// The files of embeddings in a folder.
fn part_paths(folder: &Path) -> Result<Vec<PathBuf>> {
    let manifest = folder.join(MANIFEST);
    if manifest.is_file() {
        let text = fs::read(&manifest).map_err(Error::io("read", &manifest))?;
        let Manifest { parts } =
            serde_json::from_slice(&text).map_err(|error| Error::invalid(&manifest)(error.to_string()))?;
        // What lies elsewhere is none of the folder's parts.
        let stranger =
            parts.iter().find(|part| Path::new(&part.file).file_name() != Some(part.file.as_ref()));
        return match stranger {
            Some(part) => {
                Err(Error::invalid(&manifest)(format!("{} is not the name of a file beside it", part.file)))
            }
            None => Ok(parts.iter().map(|part| folder.join(&part.file)).collect()),
        };
    }
    let paths = walk::names_in(folder)?.0.into_iter().map(|name| folder.join(name));
    Ok(paths.filter(|path| path.is_file() && ENDINGS.contains(&ending(path).as_str())).collect())
}

/// Which images of a gallery count.
#[derive(Debug, Clone, PartialEq)]
pub enum Filter {
    /// Those of these cameras, by Market-1501 names.
    Cameras(Vec<u32>),
    /// Those whose names have this form; `*` stands for any text, `/` included.
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
            Some(("path", form)) => {
                glob::Pattern::new(form).map(Filter::Path).map_err(|error| error.to_string())
            }
            _ => Err("expected camera=1,2 or path=GLOB".to_string()),
        }
    }
}

impl Filter {
    fn admits(&self, name: &str) -> Result<bool> {
        match self {
            Filter::Path(form) => Ok(form.matches(name)),
            Filter::Cameras(cameras) => match Label::from_market_name(name) {
                Some(label) => Ok(cameras.contains(&label.camera)),
                None => Err(Error::Data(format!(
                    "{name} tells no camera as 0002_c1s1_000451_03.jpg does: --filter path=GLOB goes by any name"
                ))),
            },
        }
    }
}

/// The folder that a gallery's names are relative to: the one that was embedded.
#[derive(Debug, Clone)]
pub struct ImageFolder {
    /// Without links and `..`.
    root: PathBuf,
}

impl ImageFolder {
    /// Finds the folder.
    ///
    /// # Errors
    /// `Io` where it can't be read, or is none.
    pub fn open(folder: &Path) -> Result<ImageFolder> {
        let root = fs::canonicalize(folder).map_err(Error::io("read", folder))?;
        fs::read_dir(&root).map_err(Error::io("read", folder))?;
        Ok(ImageFolder { root })
    }

    /// The file of an image, if it is a regular file below the folder: no name and no link leads out of it.
    pub fn find(&self, name: &str) -> Option<PathBuf> {
        let path = fs::canonicalize(self.root.join(name)).ok()?;
        (path.starts_with(&self.root) && path.is_file()).then_some(path)
    }
}

/// The content of an image's file of at most 16 MiB.
pub fn read_image(file: &Path) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(file).ok()?.take(MAX_SHOWN + 1).read_to_end(&mut bytes).ok()?;
    (bytes.len() as u64 <= MAX_SHOWN).then_some(bytes)
}

/// Where the images of a gallery are.
#[derive(Debug, Clone)]
pub struct Images {
    /// One folder for all, or
    folder: Option<ImageFolder>,
    /// for each part what was embedded, if it is still there.
    inputs: Vec<Option<Arc<Inputs>>>,
}

impl Images {
    /// Returns whether they are in a folder that the user named.
    pub fn is_named(&self) -> bool {
        self.folder.is_some()
    }
}

/// The inputs that embeddings were made from, as far as they are still where they were typed.
#[derive(Debug)]
pub struct Inputs {
    /// Folders, each with what its names begin with where there are several inputs.
    folders: Vec<(String, ImageFolder)>,
    /// Files, by their names.
    files: BTreeMap<String, PathBuf>,
    /// True if there is no other input: names don't begin with the folder then.
    is_single: bool,
}

impl Inputs {
    /// Looks for inputs as typed, from the current folder; `None` where none of them is there.
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

    /// The file of an image: an input itself, or a regular file below one. No name and no link leads elsewhere.
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
        // Of an index that several commands extended, each from one folder: in one of them, or it can't be told.
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

    /// Writes rows that begin with the given numbers, under names of persons by cameras 1 and 2 in turns.
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
        assert!(matches!(Gallery::open(here), Err(Error::Data(text)) if text.contains("no embeddings")));
        write(&here.join("part-2.parquet"), 3, 5..6);
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
