//! Checks a command's inputs and outputs before it opens any output.
//!
//! No output may replace an input, and no two outputs may be the same file, whatever their spelling. An output that
//! cannot be written fails here as well, before minutes of work are lost.

use crate::datasets;
use crate::embeddings;
use crate::error::{Error, Result};
use crate::images::walk;
use crate::storage::atomic::{Identity, folder_of, is_special, temporary_beside, temporary_in};
use std::collections::HashSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use walkdir::WalkDir;

/// Most dangling links to follow one after another. More count as a cycle.
const MAX_LINKS: usize = 40;

/// The files that a command reads and writes, labelled with their flags or arguments.
#[derive(Default)]
pub struct Paths {
    inputs: Vec<Input>,
    outputs: Vec<Output>,
    follow_links: bool,
}

/// An input file or folder.
struct Input {
    label: String,
    path: PathBuf,
    /// True for a data set, whose tables name images that are read too.
    is_set: bool,
}

/// An output file or folder.
struct Output {
    label: String,
    path: PathBuf,
    kind: Kind,
    /// True if it may be in an input folder, because the command updates its earlier output there.
    updates: bool,
}

/// An existing file that will be replaced.
struct Replaced {
    label: String,
    path: PathBuf,
    updates: bool,
}

#[derive(Clone, Copy)]
enum Kind {
    File,
    /// A folder for files with names that the function accepts. The command creates it.
    Folder(fn(&str) -> bool),
    /// A folder that does not exist, or contains only hidden files.
    NewFolder,
}

impl Paths {
    /// Makes an empty list.
    pub fn new() -> Paths {
        Paths::default()
    }

    /// Sets whether links in input folders are followed.
    pub fn following(self, follow_links: bool) -> Paths {
        Paths { follow_links, ..self }
    }

    /// Adds input files and folders, and the `.paths.txt` of a `.npy`.
    pub fn reads(mut self, flag: &str, paths: impl IntoIterator<Item = impl AsRef<Path>>) -> Paths {
        for path in paths {
            let path = path.as_ref();
            self.input(label(flag, path), path, false);
            if let Some(beside) = embeddings::side_file(path) {
                self.input(format!("{}, read with {}", beside.display(), label(flag, path)), &beside, false);
            }
        }
        self
    }

    /// Adds input data sets: folders, or tables and the images that they list.
    pub fn reads_sets(mut self, flag: &str, paths: impl IntoIterator<Item = impl AsRef<Path>>) -> Paths {
        for path in paths {
            self.input(label(flag, path.as_ref()), path.as_ref(), true);
        }
        self
    }

    /// Adds an input unless it is listed already.
    fn input(&mut self, label: String, path: &Path, is_set: bool) {
        if self.inputs.iter().all(|input| input.label != label) {
            self.inputs.push(Input { label, path: path.to_path_buf(), is_set });
        }
    }

    /// Adds output files. `-` is stdout and is ignored.
    pub fn writes(self, flag: &str, paths: impl IntoIterator<Item = impl AsRef<Path>>) -> Paths {
        self.output(flag, paths, Kind::File, false)
    }

    /// Adds an output file of embeddings, and the `.paths.txt` of a `.npy`.
    pub fn writes_embeddings(mut self, flag: &str, path: &Path) -> Paths {
        self = self.writes(flag, [path]);
        if let Some(beside) = embeddings::side_file(path) {
            let label = format!("{}, written with {}", beside.display(), label(flag, path));
            self.outputs.push(Output { label, path: beside, kind: Kind::File, updates: false });
        }
        self
    }

    /// Adds output files that the command updates in place.
    pub fn updates(self, flag: &str, paths: impl IntoIterator<Item = impl AsRef<Path>>) -> Paths {
        self.output(flag, paths, Kind::File, true)
    }

    /// Adds a folder for files with names that `owns` accepts. `is_begun` allows updating the files of an earlier run.
    pub fn writes_into(self, flag: &str, folder: &Path, owns: fn(&str) -> bool, is_begun: bool) -> Paths {
        self.output(flag, [folder], Kind::Folder(owns), is_begun)
    }

    /// Adds an output folder that must be new or empty.
    pub fn makes_folder(self, flag: &str, folder: &Path) -> Paths {
        self.output(flag, [folder], Kind::NewFolder, false)
    }

    fn output(
        mut self,
        flag: &str,
        paths: impl IntoIterator<Item = impl AsRef<Path>>,
        kind: Kind,
        updates: bool,
    ) -> Paths {
        let paths = paths.into_iter().map(|path| path.as_ref().to_path_buf());
        self.outputs.extend(paths.filter(|path| path != Path::new("-")).map(|path| Output {
            label: label(flag, &path),
            path,
            kind,
            updates,
        }));
        self
    }

    /// Checks that all outputs can be written and that none replaces an input or another output.
    ///
    /// # Errors
    /// [`Error::Usage`] with both paths if an output is an input, is in an input folder or is another output, and for a
    /// folder that must be empty; [`Error::Io`] if an output cannot be created.
    pub fn check(&self) -> Result<()> {
        // Devices and pipes are never replaced.
        let outputs: Vec<&Output> = self.outputs.iter().filter(|output| !is_special(&output.path)).collect();
        let replaced: Vec<Replaced> = outputs.iter().flat_map(|output| output.replaced()).collect();
        // Reads tables only if there is a file to compare their images with.
        if !replaced.is_empty() {
            for input in self.inputs.iter().flat_map(Input::with_listed) {
                replaced.iter().try_for_each(|file| input.spare(file, self.follow_links))?;
            }
        }
        for (i, one) in outputs.iter().enumerate() {
            for other in &outputs[..i] {
                one.check_beside(other)?;
                other.check_beside(one)?;
            }
        }
        for output in &outputs {
            let made = |folder: &Path| {
                outputs
                    .iter()
                    .any(|other| !matches!(other.kind, Kind::File) && same_place(folder, &other.path))
            };
            output.check_makeable(made)?;
        }
        Ok(())
    }
}

/// Returns true if two paths lead to the same existing file or folder.
pub fn same(one: &Path, other: &Path) -> bool {
    Identity::of(one).is_ok_and(|identity| Identity::of(other).is_ok_and(|other| other == identity))
}

fn label(flag: &str, path: &Path) -> String {
    format!("{flag} {}", path.display())
}

impl Input {
    /// Returns this input, and the images that its tables list.
    fn with_listed(&self) -> Vec<Input> {
        let Input { label, path, is_set } = self;
        let mut all = vec![Input { label: label.clone(), path: path.clone(), is_set: *is_set }];
        if *is_set {
            for image in tables(path).iter().flat_map(|table| listed(table)) {
                let label = format!("{}, listed by {label}", image.display());
                all.push(Input { label, path: image, is_set: false });
            }
        }
        all
    }

    /// Fails if a file to be replaced is this input, or is in this folder.
    fn spare(&self, Replaced { label, path, updates }: &Replaced, follow_links: bool) -> Result<()> {
        if !self.path.is_dir() && same(path, &self.path) {
            return Err(Error::Usage(format!(
                "{label} is the same file as {}, which is an input: choose another name for the output",
                self.label
            )));
        }
        if !updates && self.path.is_dir() && holds(&self.path, path, follow_links) {
            return Err(Error::Usage(format!(
                "{label} would replace a file in {}, which is an input: choose another name or folder for the output",
                self.label
            )));
        }
        Ok(())
    }
}

impl Output {
    /// Returns the existing files that will be replaced.
    fn replaced(&self) -> Vec<Replaced> {
        let file = |label, path| Replaced { label, path, updates: self.updates };
        if self.path.is_file() {
            return vec![file(self.label.clone(), self.path.clone())];
        }
        let Kind::Folder(owns) = self.kind else { return Vec::new() };
        let entries = fs::read_dir(&self.path).into_iter().flatten().flatten();
        let own = entries.filter(|entry| owns(&entry.file_name().to_string_lossy()));
        let files = own.map(|entry| entry.path()).filter(|path| path.is_file());
        files.map(|path| file(format!("{} of {}", path.display(), self.label), path)).collect()
    }

    /// Fails if another output is the same, or has a name that is written into this folder.
    fn check_beside(&self, other: &Output) -> Result<()> {
        if same_place(&self.path, &other.path) {
            let what = if matches!(self.kind, Kind::File) { "file" } else { "folder" };
            return Err(Error::Usage(format!(
                "{} and {} are the same {what}: give them different names",
                other.label, self.label
            )));
        }
        let owned = match self.kind {
            Kind::Folder(owns) => other.path.file_name().is_some_and(|name| owns(&name.to_string_lossy())),
            Kind::File | Kind::NewFolder => false,
        };
        if owned && same_place(folder_of(&other.path), &self.path) {
            return Err(Error::Usage(format!(
                "{} has a name that {} uses for a file of its own: choose another name",
                other.label, self.label
            )));
        }
        Ok(())
    }

    /// Fails if it cannot be written. `made` returns true for folders that the command creates.
    fn check_makeable(&self, made: impl Fn(&Path) -> bool) -> Result<()> {
        let path = &self.path;
        if matches!(self.kind, Kind::File) {
            let folder = folder_of(path);
            // The temporary file shows that a file can be created. It is removed at once.
            return if made(folder) && !folder.exists() { Ok(()) } else { temporary_beside(path).map(drop) };
        }
        if matches!(self.kind, Kind::NewFolder) && is_occupied(path)? {
            return Err(Error::Usage(format!(
                "{} is not empty: choose a new or an empty folder",
                path.display()
            )));
        }
        let there = path.ancestors().map(or_here).find(|step| fs::symlink_metadata(step).is_ok());
        let there = there.unwrap_or(Path::new("."));
        match fs::metadata(there) {
            Ok(found) if !found.is_dir() => Err(ErrorKind::NotADirectory.into()),
            Ok(_) => temporary_in(there).map(drop),
            Err(error) => Err(error),
        }
        .map_err(Error::io("create", path))
    }
}

/// Returns true if a folder contains a file that is not hidden.
fn is_occupied(folder: &Path) -> Result<bool> {
    Ok(folder.is_dir() && !walk::names_in(folder)?.0.is_empty())
}

/// The tables of a data set: the file itself, or those in its folder.
fn tables(set: &Path) -> Vec<PathBuf> {
    let is_table =
        |path: &PathBuf| path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("csv"));
    match fs::read_dir(set) {
        Ok(entries) => entries.flatten().map(|entry| entry.path()).filter(is_table).collect(),
        Err(_) => vec![set.to_path_buf()],
    }
}

/// The images that a table lists. The loader reports errors in the table.
fn listed(table: &Path) -> Vec<PathBuf> {
    let names = datasets::read_labels(table).unwrap_or_default().into_keys();
    names.map(|name| folder_of(table).join(name)).collect()
}

/// Returns true if a file is below a folder, under any name or through a link.
fn holds(folder: &Path, file: &Path, follow_links: bool) -> bool {
    let paths = [fs::canonicalize(file), fs::canonicalize(folder_of(file))];
    let steps: HashSet<Identity> =
        paths.iter().flatten().flat_map(|path| path.ancestors().flat_map(Identity::of)).collect();
    let mut entries = WalkDir::new(folder).follow_links(follow_links).into_iter().flatten();
    entries.any(|entry| Identity::of(entry.path()).is_ok_and(|identity| steps.contains(&identity)))
}

/// The target of a path: its longest existing prefix, and the steps after it.
struct Spot {
    folder: PathBuf,
    identity: Identity,
    missing: PathBuf,
}

impl Spot {
    fn of(path: &Path) -> Option<Spot> {
        let mut path = path.to_path_buf();
        // A dangling link leads to its future target.
        for _ in 0..MAX_LINKS {
            match fs::read_link(&path) {
                Ok(target) if !path.exists() => path = folder_of(&path).join(target),
                _ => break,
            }
        }
        path.ancestors().find_map(|step| {
            let folder = or_here(step).to_path_buf();
            let identity = Identity::of(&folder).ok()?;
            let missing = path.strip_prefix(step).unwrap_or(Path::new("")).to_path_buf();
            Some(Spot { folder, identity, missing })
        })
    }
}

/// Returns true if two paths lead to the same file or folder, even if it does not exist yet.
fn same_place(one: &Path, other: &Path) -> bool {
    let (Some(one), Some(other)) = (Spot::of(one), Spot::of(other)) else { return false };
    if one.identity != other.identity {
        return false;
    }
    let lower = |spot: &Spot| spot.missing.to_string_lossy().to_lowercase();
    one.missing == other.missing || (lower(&one) == lower(&other) && ignores_case(&one.folder))
}

/// Returns true if names in a folder ignore case.
fn ignores_case(folder: &Path) -> bool {
    temporary_in(folder).is_ok_and(|file| {
        file.path().file_name().is_some_and(|name| folder.join(name.to_ascii_uppercase()).exists())
    })
}

/// Replaces the empty path by `.`.
fn or_here(step: &Path) -> &Path {
    if step.as_os_str().is_empty() { Path::new(".") } else { step }
}
