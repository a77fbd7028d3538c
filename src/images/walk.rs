//! The one walk over folders: which images a list of inputs names, what each is called in the embeddings, and how many
//! files are left out for which reason.
//!
//! Hidden names, which systems and tools leave behind, are skipped: those that begin with a dot, `__MACOSX`, `@eaDir`
//! and `Thumbs.db`. A hidden folder counts once and isn't entered. What is given by name is taken, whatever its name is.
//!
//! Links are left out unless they are to be followed. A folder is entered once then, by device and inode: first all
//! folders that are reached without a link, then those that links lead to, in the order of the links' names. So loops
//! end, and no name depends on the order in which a file system lists a folder. A link counts as left out where it leads
//! nowhere, or to a folder that was entered already.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

use crate::error::{Error, Result};
use crate::storage::atomic::Identity;

/// Endings of files that are taken for images, compared without regard to case.
/// What a file really holds is decided from its content when it is decoded.
pub const ENDINGS: [&str; 11] =
    ["jpg", "jpeg", "jfif", "jpe", "pjpeg", "png", "bmp", "webp", "gif", "tif", "tiff"];

/// Endings of images in formats that aren't read.
const UNREAD: [&str; 5] = ["heic", "heif", "avif", "jxl", "jp2"];

/// Names that are skipped, beside those that begin with a dot.
const HIDDEN: [&str; 3] = ["__MACOSX", "@eaDir", "Thumbs.db"];

/// One image to embed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Where to open it.
    pub path: PathBuf,
    /// What it is called in the output: the path below its input folder with `/` between the steps,
    /// or the input itself where that is a file.
    pub name: String,
}

/// The images that a walk finds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// Sorted by name.
    pub images: Vec<Image>,
    /// Other files.
    pub left_out: LeftOut,
}

/// How many files a walk leaves out, and why.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeftOut {
    counts: BTreeMap<String, usize>,
    images: Vec<(String, String)>,
}

impl LeftOut {
    /// Key of names that are skipped.
    const HIDDEN: &str = "hidden";
    /// Key of links that aren't followed.
    const LINK: &str = "link";
    /// Key of files whose name has no ending.
    const NO_ENDING: &str = "none";

    /// The number of files by reason: `hidden`, `link`, or a file's ending in lower case with its dot (`.txt`); `none`
    /// for files without one.
    pub fn counts(&self) -> &BTreeMap<String, usize> {
        &self.counts
    }

    /// Those that are images all the same, with the reason: links to images and folders, and formats that aren't read.
    pub fn images(&self) -> &[(String, String)] {
        &self.images
    }

    /// Adds what another walk left out, of which `rename` gives the names.
    pub fn add(&mut self, other: LeftOut, rename: impl Fn(String) -> String) {
        for (reason, count) in other.counts {
            self.count(&reason, count);
        }
        self.images.extend(other.images.into_iter().map(|(name, reason)| (rename(name), reason)));
    }

    /// Adds names that are skipped.
    pub fn add_hidden(&mut self, count: usize) {
        self.count(LeftOut::HIDDEN, count);
    }

    fn count(&mut self, reason: &str, count: usize) {
        if count > 0 {
            *self.counts.entry(reason.to_string()).or_default() += count;
        }
    }

    /// ` before` and the counts, as [`Display`](fmt::Display) writes them; empty where nothing is left out.
    pub fn after(&self, before: &str) -> String {
        if self.counts.is_empty() { String::new() } else { format!("{before}{self}") }
    }
}

impl fmt::Display for LeftOut {
    /// Writes `3 hidden, 7 links, 2 .heic`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let special = [LeftOut::HIDDEN, LeftOut::LINK];
        let first = special.iter().filter_map(|reason| self.counts.get_key_value(*reason));
        let endings = self.counts.iter().filter(|(reason, _)| !special.contains(&reason.as_str()));
        for (place, (reason, count)) in first.chain(endings).enumerate() {
            let words = match (reason.as_str(), count) {
                (LeftOut::LINK, 2..) => "links",
                (LeftOut::NO_ENDING, _) => "without an ending",
                (reason, _) => reason,
            };
            write!(f, "{}{count} {words}", if place > 0 { ", " } else { "" })?;
        }
        Ok(())
    }
}

/// Lists the images of `inputs`, sorted by name.
///
/// Folders are searched to the bottom. An input is taken whatever its name is, and may be a link; a file counts
/// whatever its ending. With several inputs, each folder's names begin with the folder as given.
///
/// # Errors
/// `Io` where an input or a folder inside it can't be read, `NothingToDo` where no image is found.
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
/// `Io` where the folder or one inside it can't be read.
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

/// The names in a folder but the hidden ones, sorted, and how many are hidden.
///
/// # Errors
/// `Io` where it can't be read.
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

/// A walk under way.
struct Walk<'a> {
    /// Names are paths below it.
    folder: &'a Path,
    follow_links: bool,
    /// Folders that were entered, where links are followed.
    entered: BTreeSet<Identity>,
    /// Links that were met and are still to be looked at, by name.
    links: BTreeMap<String, PathBuf>,
    found: Listing,
}

impl Walk<'_> {
    /// Lists what is below a folder, in which links are only noted. Says if the folder was entered before.
    fn enter(&mut self, start: &Path) -> Result<bool> {
        // The start itself may be a link: walkdir follows that one.
        let mut entries = WalkDir::new(start).sort_by_file_name().into_iter();
        while let Some(entry) = entries.next() {
            let entry = entry.map_err(|e| {
                let path = e.path().unwrap_or(start).to_path_buf();
                Error::Io { action: "read", path, source: e.into() }
            })?;
            let (path, kind, is_start) = (entry.path(), entry.file_type(), entry.depth() == 0);
            // A folder called a.jpg is searched; pipes and devices are kept so that decoding names them.
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

    /// Follows a link, or counts it.
    fn link(&mut self, name: String, path: PathBuf) -> Result<()> {
        let target = std::fs::metadata(&path).ok();
        let is_folder = target.as_ref().is_some_and(std::fs::Metadata::is_dir);
        let leads_to_image = path.canonicalize().is_ok_and(|target| has_ending(&target, &ENDINGS));
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
                let is_image = has_ending(&path, &ENDINGS) || has_ending(&path, &UNREAD);
                if is_image || is_folder || leads_to_image {
                    left_out.images.push((name, reason.to_string()));
                }
            }
        }
        Ok(())
    }

    /// Takes a file, or counts it.
    fn file(&mut self, name: String, path: PathBuf, leads_to_image: bool) {
        if leads_to_image || has_ending(&path, &ENDINGS) {
            self.found.images.push(Image { path, name });
            return;
        }
        let ending = path.extension().filter(|ending| !ending.is_empty());
        let reason = ending
            .map_or(LeftOut::NO_ENDING.to_string(), |ending| format!(".{}", readable(ending).to_lowercase()));
        self.found.left_out.count(&reason, 1);
        if has_ending(&path, &UNREAD) {
            self.found.left_out.images.push((name, format!("is in a format that isn't read ({reason})")));
        }
    }

    /// The path below the folder, with `/` between the steps.
    fn name(&self, path: &Path) -> String {
        let below = path.strip_prefix(self.folder).unwrap_or(path);
        let steps: Vec<String> = below.iter().map(readable).collect();
        steps.join("/")
    }
}

/// Returns whether a name in a folder is skipped.
fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".") || HIDDEN.iter().any(|hidden| name == *hidden)
}

/// The folder as given, ending in exactly one `/` more than its name.
pub fn folder_prefix(folder: &Path) -> String {
    let given = readable(folder.as_os_str());
    format!("{}/", given.strip_suffix('/').unwrap_or(&given))
}

fn has_ending(path: &Path, endings: &[&str]) -> bool {
    path.extension()
        .and_then(OsStr::to_str)
        .is_some_and(|ending| endings.iter().any(|known| known.eq_ignore_ascii_case(ending)))
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
        // `.` sorts before `/`: the order is that of the names' bytes, not of the tree.
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
