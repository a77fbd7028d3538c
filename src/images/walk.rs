//! Lists the images of inputs: their files, their names in the embeddings, and the number of other files by reason.
//!
//! Skips hidden names, which systems and tools create: those that begin with a dot, `__MACOSX`, `@eaDir` and
//! `Thumbs.db`. A hidden folder counts once. Inputs themselves may have any name.
//!
//! Links are left out unless they are followed. Then each folder, identified by device and inode, is entered once:
//! first all folders that are reached without a link, then the targets of links in the order of the links' names. So
//! loops end, and no name depends on the order in which a file system lists a folder. A link that leads nowhere, or to
//! a folder that was entered before, counts as left out.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

use crate::error::{Error, Result};
use crate::storage::atomic::Identity;

/// Extensions of image files, in any case. Decoding finds the type of an image from its content.
pub const EXTENSIONS: [&str; 11] =
    ["jpg", "jpeg", "jfif", "jpe", "pjpeg", "png", "bmp", "webp", "gif", "tif", "tiff"];

/// Extensions of image formats that can't be read.
const UNREAD: [&str; 5] = ["heic", "heif", "avif", "jxl", "jp2"];

/// Hidden names, besides those that begin with a dot.
const HIDDEN: [&str; 3] = ["__MACOSX", "@eaDir", "Thumbs.db"];

/// An image file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Path of the file.
    pub path: PathBuf,
    /// Name in the output: the path below the input folder with `/` as separator, or the input itself if that is a
    /// file.
    pub name: String,
}

/// The images that a walk finds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// The images, sorted by name.
    pub images: Vec<Image>,
    /// Files that were left out.
    pub left_out: LeftOut,
}

/// Files that a walk left out, counted by reason.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeftOut {
    counts: BTreeMap<String, usize>,
    images: Vec<(String, String)>,
}

impl LeftOut {
    /// Reason for hidden names.
    const HIDDEN: &str = "hidden";
    /// Reason for links that aren't followed.
    const LINK: &str = "link";
    /// Reason for files without an extension.
    const NO_EXTENSION: &str = "none";

    /// Counts files by reason: `hidden`, `link`, an extension in lower case (`.txt`), or `none` without an extension.
    pub fn counts(&self) -> &BTreeMap<String, usize> {
        &self.counts
    }

    /// Lists the files that may be images, with the reason: links to images and folders, and formats that can't be
    /// read.
    pub fn images(&self) -> &[(String, String)] {
        &self.images
    }

    /// Adds the files that another walk left out; `rename` changes their names.
    pub fn add(&mut self, other: LeftOut, rename: impl Fn(String) -> String) {
        for (reason, count) in other.counts {
            self.count(&reason, count);
        }
        self.images.extend(other.images.into_iter().map(|(name, reason)| (rename(name), reason)));
    }

    /// Adds hidden names.
    pub fn add_hidden(&mut self, count: usize) {
        self.count(LeftOut::HIDDEN, count);
    }

    fn count(&mut self, reason: &str, count: usize) {
        if count > 0 {
            *self.counts.entry(reason.to_string()).or_default() += count;
        }
    }

    /// Writes `before` and the counts; nothing if no file was left out.
    pub fn after(&self, before: &str) -> String {
        if self.counts.is_empty() { String::new() } else { format!("{before}{self}") }
    }
}

impl fmt::Display for LeftOut {
    /// Writes `3 hidden, 7 links, 2 .heic`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let special = [LeftOut::HIDDEN, LeftOut::LINK];
        let first = special.iter().filter_map(|reason| self.counts.get_key_value(*reason));
        let extensions = self.counts.iter().filter(|(reason, _)| !special.contains(&reason.as_str()));
        for (place, (reason, count)) in first.chain(extensions).enumerate() {
            let words = match (reason.as_str(), count) {
                (LeftOut::LINK, 2..) => "links",
                (LeftOut::NO_EXTENSION, _) => "without an extension",
                (reason, _) => reason,
            };
            write!(f, "{}{count} {words}", if place > 0 { ", " } else { "" })?;
        }
        Ok(())
    }
}

/// Lists the images of `inputs`, sorted by name.
///
/// Walks folders recursively. An input may have any name and may be a link; an input that is a file may have any
/// extension. With several inputs, the names of a folder's images begin with the folder as given.
///
/// # Errors
/// `Io` if an input or a folder inside it can't be read; `NothingToDo` if there is no image.
pub fn list_images(inputs: &[PathBuf], follow_links: bool) -> Result<Listing> {
    let Listing { mut images, mut left_out } = Listing::default();
    for input in inputs {
        let metadata = std::fs::metadata(input).map_err(Error::io("read", input))?;
        if metadata.is_dir() {
            let prefix = if inputs.len() > 1 { folder_prefix(input) } else { String::new() };
            let rename = |name: String| format!("{prefix}{name}");
            let found = list_files(input, follow_links)?;
            images.extend(
                found.images.into_iter().map(|Image { path, name }| Image { path, name: rename(name) }),
            );
            left_out.add(found.left_out, rename);
        } else {
            images.push(Image { path: input.clone(), name: readable(input.as_os_str()) });
        }
    }
    if images.is_empty() {
        let names: Vec<String> = inputs.iter().map(|input| readable(input.as_os_str())).collect();
        return Err(Error::NothingToDo(match names.len() {
            0 => "no input was given".to_string(),
            _ => format!("no image in {}{}", names.join(", "), left_out.after("; left out: ")),
        }));
    }
    images.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Listing { images, left_out })
}

/// Lists the images below `folder`, which may be a link and have any name.
///
/// # Errors
/// `Io` if the folder or one inside it can't be read.
pub fn list_files(folder: &Path, follow_links: bool) -> Result<Listing> {
    let mut walk = Walk {
        folder,
        follow_links,
        entered: BTreeSet::new(),
        links: BTreeMap::new(),
        found: Listing::default(),
    };
    walk.enter(folder)?;
    while let Some((name, path)) = walk.links.pop_first() {
        walk.link(name, path)?;
    }
    let mut found = walk.found;
    found.images.sort_by(|a, b| a.name.cmp(&b.name));
    found.left_out.images.sort();
    Ok(found)
}

/// Lists the names in a folder that are not hidden, sorted; and counts the hidden ones.
///
/// # Errors
/// `Io` if the folder can't be read.
pub fn names_in(folder: &Path) -> Result<(Vec<OsString>, usize)> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(Error::io("read", folder))? {
        names.push(entry.map_err(Error::io("read", folder))?.file_name());
    }
    let all = names.len();
    names.retain(|name| !is_hidden(name));
    names.sort();
    let hidden = all - names.len();
    Ok((names, hidden))
}

/// State of a walk.
struct Walk<'a> {
    /// The root: names are paths below it.
    folder: &'a Path,
    follow_links: bool,
    /// Folders that were entered. Empty if links aren't followed.
    entered: BTreeSet<Identity>,
    /// Links that were found but not visited, by name.
    links: BTreeMap<String, PathBuf>,
    found: Listing,
}

impl Walk<'_> {
    /// Lists the files below a folder and notes its links. Returns true if the folder was entered before.
    fn enter(&mut self, start: &Path) -> Result<bool> {
        // The start may be a link: walkdir follows that one.
        let mut entries = WalkDir::new(start).sort_by_file_name().into_iter();
        while let Some(entry) = entries.next() {
            let entry = entry.map_err(|e| {
                let path = e.path().unwrap_or(start).to_path_buf();
                Error::Io { action: "read", path, source: e.into() }
            })?;
            let (path, kind, is_start) = (entry.path(), entry.file_type(), entry.depth() == 0);
            // A folder named a.jpg is walked. Pipes and devices are listed, so that decoding reports them.
            if !is_start && is_hidden(entry.file_name()) {
                self.found.left_out.add_hidden(1);
                if kind.is_dir() {
                    entries.skip_current_dir();
                }
            } else if kind.is_dir() || is_start {
                let identity = || Identity::of(path).map_err(Error::io("read", path));
                if self.follow_links && !self.entered.insert(identity()?) {
                    if is_start {
                        return Ok(true);
                    }
                    entries.skip_current_dir();
                }
            } else if kind.is_symlink() {
                self.links.insert(self.name(path), path.to_path_buf());
            } else {
                self.file(self.name(path), path.to_path_buf(), false);
            }
        }
        Ok(false)
    }

    /// Follows or counts a link.
    fn link(&mut self, name: String, path: PathBuf) -> Result<()> {
        let target = std::fs::metadata(&path).ok();
        let is_folder = target.as_ref().is_some_and(std::fs::Metadata::is_dir);
        let leads_to_image = path.canonicalize().is_ok_and(|target| has_extension(&target, &EXTENSIONS));
        match (self.follow_links, target) {
            (true, Some(_)) if is_folder => {
                if self.enter(&path)? {
                    self.found.left_out.count(LeftOut::LINK, 1);
                }
            }
            (true, Some(_)) => self.file(name, path, leads_to_image),
            _ => {
                let left_out = &mut self.found.left_out;
                left_out.count(LeftOut::LINK, 1);
                let reason = match self.follow_links {
                    true => "is a link that leads nowhere",
                    false => "is a link; --follow-links follows it",
                };
                let is_image = has_extension(&path, &EXTENSIONS) || has_extension(&path, &UNREAD);
                if is_image || is_folder || leads_to_image {
                    left_out.images.push((name, reason.to_string()));
                }
            }
        }
        Ok(())
    }

    /// Lists or counts a file.
    fn file(&mut self, name: String, path: PathBuf, leads_to_image: bool) {
        if leads_to_image || has_extension(&path, &EXTENSIONS) {
            self.found.images.push(Image { path, name });
            return;
        }
        let extension = path.extension().filter(|extension| !extension.is_empty());
        let reason = extension.map_or(LeftOut::NO_EXTENSION.to_string(), |extension| {
            format!(".{}", readable(extension).to_lowercase())
        });
        self.found.left_out.count(&reason, 1);
        if has_extension(&path, &UNREAD) {
            self.found.left_out.images.push((name, format!("is in a format that can't be read ({reason})")));
        }
    }

    /// Path below the root with `/` as separator.
    fn name(&self, path: &Path) -> String {
        let below = path.strip_prefix(self.folder).unwrap_or(path);
        let steps: Vec<String> = below.iter().map(readable).collect();
        steps.join("/")
    }
}

/// Returns whether a name is hidden.
fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".") || HIDDEN.iter().any(|hidden| name == *hidden)
}

/// Prefix of a folder's names: the folder as given, with one `/` at the end.
pub fn folder_prefix(folder: &Path) -> String {
    let given = readable(folder.as_os_str());
    format!("{}/", given.strip_suffix('/').unwrap_or(&given))
}

fn has_extension(path: &Path, extensions: &[&str]) -> bool {
    path.extension()
        .and_then(OsStr::to_str)
        .is_some_and(|extension| extensions.iter().any(|known| known.eq_ignore_ascii_case(extension)))
}

/// Text of a name; bytes that are not UTF-8 become `\xNN`.
pub fn readable(name: &OsStr) -> String {
    let mut text = String::new();
    for chunk in name.as_encoded_bytes().utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(inputs: &[PathBuf]) -> Vec<String> {
        list_images(inputs, false).unwrap().images.into_iter().map(|p| p.name).collect()
    }

    fn touch(path: PathBuf) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, b"x").unwrap();
    }

    #[test]
    fn folders_are_searched_sorted_and_filtered() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b.jpg", "a/z.PNG", "a.bmp", "a/notes.txt", "c.tiff", "jpg", "a/deep/er/x.JpEg"] {
            touch(dir.path().join(name));
        }
        let root = dir.path().to_path_buf();
        // `.` sorts before `/`: names are ordered by their bytes.
        assert_eq!(
            names(std::slice::from_ref(&root)),
            ["a.bmp", "a/deep/er/x.JpEg", "a/z.PNG", "b.jpg", "c.tiff"]
        );

        let given = root.display().to_string();
        let with_slash = PathBuf::from(format!("{given}/a/"));
        let file = root.join("a/notes.txt");
        assert_eq!(
            names(&[file.clone(), with_slash.clone(), with_slash]),
            [
                format!("{given}/a/deep/er/x.JpEg"),
                format!("{given}/a/deep/er/x.JpEg"),
                format!("{given}/a/notes.txt"),
                format!("{given}/a/z.PNG"),
                format!("{given}/a/z.PNG"),
            ]
        );
        assert_eq!(names(std::slice::from_ref(&file)), [file.display().to_string()]);
    }

    #[test]
    fn missing_and_empty_inputs_are_errors() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("nowhere");
        assert!(matches!(list_images(&[missing], false), Err(Error::Io { .. })));
        match list_images(&[dir.path().to_path_buf()], false) {
            Err(Error::NothingToDo(text)) => assert!(text.contains(&*dir.path().to_string_lossy())),
            other => panic!("{other:?}"),
        }
        assert!(matches!(list_images(&[], false), Err(Error::NothingToDo(_))));
    }

    #[cfg(unix)]
    #[test]
    fn links_inside_are_left_out_and_an_input_link_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        touch(dir.path().join("real/a.jpg"));
        std::os::unix::fs::symlink("a.jpg", dir.path().join("real/b.jpg")).unwrap();
        std::os::unix::fs::symlink(".", dir.path().join("real/again")).unwrap();
        std::os::unix::fs::symlink("real", dir.path().join("link")).unwrap();
        assert_eq!(names(&[dir.path().join("link")]), ["a.jpg"]);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn bytes_that_are_not_utf8_are_written_in_hex() {
        use std::os::unix::ffi::OsStrExt;
        let dir = tempfile::tempdir().unwrap();
        touch(dir.path().join(OsStr::from_bytes(b"caf\xe9\xff.jpg")));
        assert_eq!(names(&[dir.path().to_path_buf()]), ["caf\\xe9\\xff.jpg"]);
    }
}
