//! Which pictures a list of inputs names, and what each is called in the embeddings.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

use crate::error::{Error, Result};

/// Endings of files that are taken for pictures, compared without regard to case.
/// What a file really holds is decided from its content when it is decoded.
const ENDINGS: [&str; 8] = ["jpg", "jpeg", "png", "bmp", "webp", "gif", "tif", "tiff"];

/// One picture to embed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// Where to open it.
    pub path: PathBuf,
    /// What it is called in the output: the path below its input folder with `/` between the steps,
    /// or the input itself where that is a file.
    pub name: String,
}

/// What stands below a folder; both lists are sorted by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// The pictures, named by their path below the folder.
    pub pictures: Vec<Picture>,
    /// The names of the other files, with the reason why they are none.
    pub others: Vec<(String, String)>,
}

/// Lists the pictures of `inputs`, sorted by name.
///
/// Folders are searched to the bottom; links inside them are not followed, an input that is a link is.
/// A file counts whatever its ending. With several inputs, each folder's names begin with the folder as given.
///
/// # Errors
/// `Io` where an input or a folder inside it can't be read, `NothingToDo` where no picture is found.
pub fn list_pictures(inputs: &[PathBuf]) -> Result<Vec<Picture>> {
    let mut pictures = Vec::new();
    for input in inputs {
        let metadata = std::fs::metadata(input).map_err(Error::io("read", input))?;
        if metadata.is_dir() {
            let prefix = if inputs.len() > 1 { folder_prefix(input) } else { String::new() };
            list_folder(input, &prefix, &mut pictures)?;
        } else {
            pictures.push(Picture { path: input.clone(), name: readable(input.as_os_str()) });
        }
    }
    if pictures.is_empty() {
        let names: Vec<String> = inputs.iter().map(|input| readable(input.as_os_str())).collect();
        return Err(Error::NothingToDo(match names.len() {
            0 => "no input was given".to_string(),
            _ => format!("no picture in {}", names.join(", ")),
        }));
    }
    pictures.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(pictures)
}

/// Appends the pictures below `folder`, each name preceded by `prefix`.
fn list_folder(folder: &Path, prefix: &str, pictures: &mut Vec<Picture>) -> Result<()> {
    pictures.extend(list_files(folder)?.pictures.into_iter().map(|Picture { path, name }| {
        let name = format!("{prefix}{name}");
        Picture { path, name }
    }));
    Ok(())
}

/// Lists the files below `folder`: all of them, whatever they are.
///
/// # Errors
/// `Io` where the folder or one inside it can't be read.
pub fn list_files(folder: &Path) -> Result<Listing> {
    let Listing { mut pictures, mut others } = Listing::default();
    // The root itself may be a link: walkdir follows that one whatever `follow_links` says.
    for entry in WalkDir::new(folder) {
        let entry = entry.map_err(|e| {
            let path = e.path().unwrap_or(folder).to_path_buf();
            Error::Io { action: "read", path, source: e.into() }
        })?;
        // A folder called a.jpg is searched, a link called a.jpg is left out; pipes and devices are kept so
        // that decoding names them.
        let kind = entry.file_type();
        if kind.is_dir() {
            continue;
        }
        let below = entry.path().strip_prefix(folder).unwrap_or(entry.path());
        let steps: Vec<String> = below.iter().map(readable).collect();
        let name = steps.join("/");
        if kind.is_symlink() {
            others.push((name, "is a link".to_string()));
        } else if !has_picture_ending(entry.path()) {
            others.push((name, "has no ending of a picture".to_string()));
        } else {
            pictures.push(Picture { path: entry.path().to_path_buf(), name });
        }
    }
    pictures.sort_by(|a, b| a.name.cmp(&b.name));
    others.sort();
    Ok(Listing { pictures, others })
}

/// The folder as given, ending in exactly one `/` more than its name.
fn folder_prefix(folder: &Path) -> String {
    let given = readable(folder.as_os_str());
    format!("{}/", given.strip_suffix('/').unwrap_or(&given))
}

fn has_picture_ending(path: &Path) -> bool {
    path.extension()
        .and_then(OsStr::to_str)
        .is_some_and(|ending| ENDINGS.iter().any(|known| known.eq_ignore_ascii_case(ending)))
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
        list_pictures(inputs).unwrap().into_iter().map(|p| p.name).collect()
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
        assert!(matches!(list_pictures(&[missing]), Err(Error::Io { .. })));
        match list_pictures(&[dir.path().to_path_buf()]) {
            Err(Error::NothingToDo(text)) => assert!(text.contains(&*dir.path().to_string_lossy())),
            other => panic!("{other:?}"),
        }
        assert!(matches!(list_pictures(&[]), Err(Error::NothingToDo(_))));
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
