//! Images for the page: small copies inside it up to a limit, then links to the files.

use super::Image;
use crate::error::{Error, Result};
use crate::images::decode::{self, DecodeOptions, Rgb};
use crate::images::preprocess::resize_bicubic;
use crate::shape::ImageSize;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use image::codecs::jpeg::JpegEncoder;
use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};

/// Default limit of the thumbnails in a page, in bytes.
pub const DEFAULT_LIMIT: u64 = 8 << 20;

/// Size of the largest thumbnail. Persons are about twice as high as wide.
const MOST_WIDTH: usize = 64;
const MOST_HEIGHT: usize = 160;
/// JPEG quality, of 100.
const QUALITY: u8 = 82;

/// Makes the images of one page.
pub struct Thumbnails {
    /// The page's folder, with links resolved.
    folder: PathBuf,
    decode: DecodeOptions,
    limit: u64,
    /// Bytes of all embedded images, repetitions included.
    used: u64,
    /// True once an image exceeded the limit. No later image is embedded.
    full: bool,
    /// Images by file, since gallery images appear in many lists.
    made: HashMap<PathBuf, Image>,
    embedded: usize,
    linked: usize,
    missing: usize,
}

impl Thumbnails {
    /// For a page that will be written to `target`, with at most `limit` bytes of images inside.
    ///
    /// # Errors
    /// `Io` if the folder of `target` doesn't exist.
    pub fn new(target: &Path, limit: u64, decode: DecodeOptions) -> Result<Thumbnails> {
        let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new(".")).canonicalize().map_err(Error::io("create", target))?;
        Ok(Thumbnails {
            folder,
            decode,
            limit,
            used: 0,
            full: false,
            made: HashMap::new(),
            embedded: 0,
            linked: 0,
            missing: 0,
        })
    }

    /// Makes an image for the page: [`Image::Missing`] with the reason if the file is no image.
    pub fn image(&mut self, file: &Path) -> Image {
        let image = self.embed(file).unwrap_or_else(|| self.link(file));
        match image {
            Image::Embedded(_) => self.embedded += 1,
            Image::Linked(_) => self.linked += 1,
            Image::Missing(_) => self.missing += 1,
        }
        image
    }

    /// A small copy; `None` if it exceeds the limit.
    fn embed(&mut self, file: &Path) -> Option<Image> {
        if self.full {
            return None;
        }
        if !self.made.contains_key(file) {
            let image = thumbnail(file, self.decode).unwrap_or_else(Image::Missing);
            self.made.insert(file.to_path_buf(), image);
        }
        let image = self.made.get(file)?;
        if let Image::Embedded(source) = image {
            let used = self.used + source.len() as u64;
            if used > self.limit {
                self.full = true;
                self.made = HashMap::new();
                return None;
            }
            self.used = used;
        }
        Some(image.clone())
    }

    fn link(&self, file: &Path) -> Image {
        match file.canonicalize() {
            Ok(file) => relative(&self.folder, &file)
                .map_or_else(|| Image::Missing("is on another drive".to_string()), Image::Linked),
            Err(_) => Image::Missing("not found".to_string()),
        }
    }

    /// Numbers of embedded, linked and missing images, as text.
    pub fn about(&self) -> String {
        let mut parts = Vec::new();
        if self.embedded > 0 {
            parts.push(format!(
                "{} inside the page ({} of at most {})",
                self.embedded,
                megabytes(self.used),
                megabytes(self.limit)
            ));
        }
        if self.linked > 0 {
            parts.push(format!("{} linked: seen where the page finds their files", self.linked));
        }
        if self.missing > 0 {
            parts.push(format!("{} missing", self.missing));
        }
        if parts.is_empty() { "none".to_string() } else { parts.join(", ") }
    }
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// A small JPEG as a `data:` URI, or the reason why there is none.
fn thumbnail(file: &Path, options: DecodeOptions) -> std::result::Result<Image, String> {
    let image = decode::read(file, options).map_err(|error| match error {
        Error::Image { reason, .. } => reason,
        other => other.to_string(),
    })?;
    let small = resize_bicubic(&image, fitting(&image));
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, QUALITY)
        .encode(&small.pixels, small.width as u32, small.height as u32, image::ExtendedColorType::Rgb8)
        .map_err(|error| format!("cannot be made small: {error}"))?;
    Ok(Image::Embedded(format!("data:image/jpeg;base64,{}", STANDARD.encode(bytes))))
}

/// The size of an image's thumbnail, with the image's shape and at most its size.
fn fitting(image: &Rgb) -> ImageSize {
    let (height, width) = (image.height as f64, image.width as f64);
    let scale = (MOST_WIDTH as f64 / width).min(MOST_HEIGHT as f64 / height).min(1.0);
    let side = |length: f64| ((length * scale).round() as usize).max(1);
    ImageSize { height: side(height), width: side(width) }
}

/// A file as a relative URL from a folder, both absolute with links resolved; `None` without a common folder.
fn relative(folder: &Path, file: &Path) -> Option<String> {
    let (from, to): (Vec<Component>, Vec<Component>) =
        (folder.components().collect(), file.components().collect());
    let common = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
    if common == 0 {
        return None;
    }
    let back = from[common..].iter().map(|_| "..".to_string());
    let down = to[common..].iter().map(|step| percent_encoded(step.as_os_str().as_encoded_bytes()));
    Some(back.chain(down).collect::<Vec<String>>().join("/"))
}

/// One component of a path in a URL: all but RFC 3986's unreserved characters as %XX.
fn percent_encoded(name: &[u8]) -> String {
    let mut encoded = String::new();
    for &byte in name {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(char::from(byte))
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn save(path: &Path, width: u32, height: u32) {
        image::RgbImage::from_fn(width, height, |x, y| image::Rgb([x as u8, y as u8, 99]))
            .save(path)
            .unwrap();
    }

    #[test]
    fn thumbnails_are_embedded_until_the_room_is_used_and_linked_then() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("out")).unwrap();
        std::fs::create_dir(dir.path().join("a b")).unwrap();
        let files = ["1.png", "2.png", "a b/<#3?>%.png"].map(|name| dir.path().join(name));
        files.iter().for_each(|file| save(file, 96, 200));
        let target = dir.path().join("out/report.html");
        let open = |limit| Thumbnails::new(&target, limit, DecodeOptions::default()).unwrap();

        let mut one = open(DEFAULT_LIMIT);
        let Image::Embedded(source) = one.image(&files[0]) else { panic!("no room?") };
        let encoded = source.strip_prefix("data:image/jpeg;base64,").unwrap();
        let image = image::load_from_memory(&STANDARD.decode(encoded).unwrap()).unwrap();
        assert_eq!((image.width(), image.height()), (64, 133));

        // Room for two, also of the same file.
        let mut two = open(2 * source.len() as u64);
        for _ in 0..2 {
            assert_eq!(two.image(&files[0]), Image::Embedded(source.clone()));
        }
        assert_eq!(two.image(&files[2]), Image::Linked("../a%20b/%3C%233%3F%3E%25.png".to_string()));
        assert_eq!(two.image(&files[0]), Image::Linked("../1.png".to_string()));
        assert_eq!(two.image(&dir.path().join("3.png")), Image::Missing("not found".to_string()));
        let about = two.about();
        for words in ["2 inside the page", "2 linked", "1 missing"] {
            assert!(about.contains(words), "{about}");
        }
        assert!(matches!(open(0).image(&files[1]), Image::Linked(_)));
        assert_eq!(open(0).about(), "none");
    }

    #[test]
    fn what_is_no_image_says_why() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.jpg");
        std::fs::write(&file, "no image").unwrap();
        let mut thumbnails =
            Thumbnails::new(&dir.path().join("r.html"), 1 << 20, DecodeOptions::default()).unwrap();
        let Image::Missing(reason) = thumbnails.image(&file) else { panic!("an image?") };
        assert!(reason.contains("not a JPEG"), "{reason}");
        let nowhere = dir.path().join("no/where.html");
        assert!(Thumbnails::new(&nowhere, 1, DecodeOptions::default()).is_err());
    }

    #[test]
    fn shapes_are_kept() {
        for (size, wanted) in
            [((128, 64), (128, 64)), ((20, 10), (20, 10)), ((100, 400), (16, 64)), ((9000, 3), (160, 1))]
        {
            let image = Rgb { height: size.0, width: size.1, pixels: Vec::new() };
            let got = fitting(&image);
            assert_eq!((got.height, got.width), wanted, "{size:?}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn links_go_up_and_down() {
        for (folder, file, wanted) in [
            ("/a/b", "/a/b/c.jpg", "c.jpg"),
            ("/a/b", "/a/c/d.jpg", "../c/d.jpg"),
            ("/a/b/c", "/x:y/d.jpg", "../../../x%3Ay/d.jpg"),
            ("/", "/d\"'.jpg", "d%22%27.jpg"),
        ] {
            assert_eq!(relative(Path::new(folder), Path::new(file)).as_deref(), Some(wanted));
        }
    }
}
