//! Decodes image files to (H, W, 3) u8. Any bytes give an image or a reason.

use std::io::{Cursor, Read};
use std::path::Path;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits};

use crate::error::{Error, Result, catch_panic};
use crate::images::jpeg;

/// Largest side of an image, in pixels.
pub const MAX_SIDE: u32 = 16_384;
/// Largest decoded image in bytes, in the file's pixel type.
pub const MAX_DECODED: u64 = 256 << 20;
/// Largest image file, in bytes.
pub const MAX_FILE: u64 = 512 << 20;

/// A decoded image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rgb {
    /// Height H in pixels.
    pub height: usize,
    /// Width W in pixels.
    pub width: usize,
    /// Red, green and blue of each pixel: (H, W, 3), rows from the top.
    pub pixels: Vec<u8>,
}

impl Rgb {
    /// Returns the mirror image: left and right exchanged.
    pub fn mirrored(&self) -> Rgb {
        let rows = self.pixels.chunks_exact((3 * self.width).max(1));
        let pixels = rows.flat_map(|row| row.rchunks_exact(3).flatten()).copied().collect();
        Rgb { height: self.height, width: self.width, pixels }
    }
}

/// Options of decoding.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DecodeOptions {
    /// Ignores the EXIF orientation.
    pub ignore_exif: bool,
}

/// Reads and decodes an image file.
///
/// # Errors
/// `Image` with the path and the reason.
pub fn read(path: &Path, options: DecodeOptions) -> Result<Rgb> {
    read_bytes(path)
        .and_then(|bytes| decode(&bytes, options))
        .map_err(|reason| Error::Image { path: path.to_path_buf(), reason })
}

/// Reads a regular file of at most [`MAX_FILE`] bytes.
fn read_bytes(path: &Path) -> std::result::Result<Vec<u8>, String> {
    let reason = |e: std::io::Error| format!("cannot be read: {e}");
    // Before opening: opening a pipe would wait for a writer.
    let metadata = std::fs::metadata(path).map_err(reason)?;
    if metadata.is_dir() {
        return Err("a folder, not an image".to_string());
    }
    if !metadata.is_file() {
        return Err("not a regular file".to_string());
    }
    let too_large = || format!("larger than {} MiB", MAX_FILE >> 20);
    if metadata.len() > MAX_FILE {
        return Err(too_large());
    }
    let file = std::fs::File::open(path).map_err(reason)?;
    let mut bytes = Vec::with_capacity(metadata.len() as usize);
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(reason)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(too_large());
    }
    Ok(bytes)
}

/// Decodes an image. Its first bytes decide its type.
///
/// Applies the EXIF orientation unless `options` ignore it. Drops alpha without blending. Turns 16-bit values v into
/// round(v/257), and grey, palette and CMYK into RGB. Takes the first frame of an animation.
///
/// # Errors
/// The reason, for the user.
pub fn decode(bytes: &[u8], options: DecodeOptions) -> std::result::Result<Rgb, String> {
    catch_panic(|| decode_or_panic(bytes, options)).unwrap_or_else(decoder_failed)
}

fn decode_or_panic(bytes: &[u8], options: DecodeOptions) -> std::result::Result<Rgb, String> {
    let mut decoder = open(bytes)?;
    let orientation = match options.ignore_exif {
        true => Orientation::NoTransforms,
        // A damaged EXIF block is no error.
        false => decoder.orientation().unwrap_or(Orientation::NoTransforms),
    };
    let mut image = DynamicImage::from_decoder(decoder).map_err(reason)?;
    image.apply_orientation(orientation);
    let image = image.into_rgb8();
    let (width, height) = image.dimensions();
    Ok(Rgb { height: height as usize, width: width as usize, pixels: image.into_raw() })
}

/// Checks an image file without decoding its pixels: its header, and that a JPEG is complete. Fast, but damaged pixels
/// pass.
///
/// # Errors
/// The reason, for the user.
pub fn check_header(path: &Path) -> std::result::Result<(), String> {
    let bytes = read_bytes(path)?;
    catch_panic(|| open(&bytes).map(|_| ())).unwrap_or_else(decoder_failed)
}

fn decoder_failed<T>() -> std::result::Result<T, String> {
    Err("cannot be decoded: the decoder failed".to_string())
}

/// Media type of an image by its first bytes, such as `image/jpeg`; `None` if it is no supported image.
pub fn media_type(bytes: &[u8]) -> Option<&'static str> {
    known_format(bytes).map(|format| format.to_mime_type())
}

/// Type of an image by its first bytes; `None` if it can't be decoded.
fn known_format(bytes: &[u8]) -> Option<ImageFormat> {
    image::guess_format(bytes).ok().filter(|format| {
        matches!(
            format,
            ImageFormat::Jpeg
                | ImageFormat::Png
                | ImageFormat::Bmp
                | ImageFormat::WebP
                | ImageFormat::Gif
                | ImageFormat::Tiff
        )
    })
}

/// Reads the header of an image. Refuses unknown types, and images that are empty, cut off or too large.
fn open(bytes: &[u8]) -> std::result::Result<impl ImageDecoder, String> {
    if bytes.is_empty() {
        return Err("empty file".to_string());
    }
    let format = known_format(bytes).ok_or("not a JPEG, PNG, BMP, WebP, GIF or TIFF image")?;
    if format == ImageFormat::WebP {
        check_webp_length(bytes)?;
    }
    if format == ImageFormat::Jpeg {
        jpeg::check_kind(bytes)?;
    }

    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(2 * MAX_DECODED);
    reader.limits(limits);
    let decoder = reader.into_decoder().map_err(reason)?;

    let (width, height) = decoder.dimensions();
    if width == 0 || height == 0 {
        return Err(format!("has no pixels ({height}x{width})"));
    }
    if width.max(height) > MAX_SIDE {
        return Err(format!("too large: {height}x{width} pixels, the limit is {MAX_SIDE} a side"));
    }
    let decoded = decoder.total_bytes();
    if decoded > MAX_DECODED {
        return Err(format!(
            "too large: {height}x{width} pixels need {} MiB, the limit is {} MiB",
            decoded.div_ceil(1 << 20),
            MAX_DECODED >> 20
        ));
    }
    if format == ImageFormat::Jpeg {
        jpeg::check_complete(bytes, (width as usize, height as usize))?;
    }
    Ok(decoder)
}

/// Checks the lengths in a WebP file. The lossy decoder reads zeros past a missing end, and allocates as much as a
/// chunk of metadata claims.
fn check_webp_length(bytes: &[u8]) -> std::result::Result<(), String> {
    let length = |at: usize| {
        let field = bytes.get(at..)?.first_chunk()?;
        usize::try_from(u32::from_le_bytes(*field)).ok()
    };
    let truncated = |what: &str| Err(format!("truncated: the file is shorter than {what} says"));
    let Some(end) = length(4).and_then(|length| length.checked_add(8)).filter(|end| *end <= bytes.len())
    else {
        return truncated("its header");
    };
    let mut at = 12;
    while at + 8 <= end {
        let Some(next) = length(at + 4).and_then(|length| length.checked_add(at + 8)) else {
            return truncated("a chunk");
        };
        if next > bytes.len() {
            return truncated("a chunk");
        }
        // Chunks begin at even offsets.
        at = next.next_multiple_of(2);
    }
    Ok(())
}

/// Describes a decoder's error in one line.
fn reason(error: ImageError) -> String {
    let is_end = |e: &(dyn std::error::Error + 'static)| {
        e.downcast_ref::<std::io::Error>().is_some_and(|io| io.kind() == std::io::ErrorKind::UnexpectedEof)
    };
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(e) = cause {
        if is_end(e) {
            return "truncated: the data ends too early".to_string();
        }
        cause = e.source();
    }
    match error {
        ImageError::IoError(e) if is_end(&e) => "truncated: the data ends too early".to_string(),
        ImageError::Unsupported(e) => format!("unsupported kind: {e}"),
        ImageError::Limits(_) => format!("too large: more than {} MiB are needed", MAX_DECODED >> 19),
        other => format!("cannot be decoded: {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::jpeg::tests as jpegs;

    const PLAIN: DecodeOptions = DecodeOptions { ignore_exif: false };

    /// A 9x7 image of distinct pixels.
    fn colours() -> DynamicImage {
        let pixel = |x: u32, y: u32| image::Rgba([(x * 28) as u8, (y * 36) as u8, (x * y * 5) as u8, 90]);
        DynamicImage::ImageRgba8(image::RgbaImage::from_fn(9, 7, pixel))
    }

    fn encoded(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        image.write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    }

    fn reason_of(bytes: &[u8]) -> String {
        decode(bytes, PLAIN).unwrap_err()
    }

    #[test]
    fn a_mirror_exchanges_left_and_right() {
        let rgb = Rgb { height: 2, width: 3, pixels: (0..18).collect() };
        let mirrored = rgb.mirrored();
        assert_eq!(mirrored.pixels, [6, 7, 8, 3, 4, 5, 0, 1, 2, 15, 16, 17, 12, 13, 14, 9, 10, 11]);
        assert_eq!(mirrored.mirrored(), rgb);
    }

    #[test]
    fn lossless_types_give_the_pixels_back_without_alpha() {
        let expected = colours().into_rgb8().into_raw();
        let with_alpha = [ImageFormat::Png, ImageFormat::WebP, ImageFormat::Tiff];
        let files = with_alpha
            .map(|format| encoded(&colours(), format))
            .into_iter()
            .chain([encoded(&DynamicImage::ImageRgb8(colours().into_rgb8()), ImageFormat::Bmp)]);
        for file in files {
            let image = decode(&file, PLAIN).unwrap();
            assert_eq!((image.height, image.width), (7, 9));
            assert_eq!(image.pixels, expected);
        }
    }

    #[test]
    fn sixteen_bits_are_scaled_and_grey_becomes_rgb() {
        let values = image::ImageBuffer::from_vec(4, 1, vec![0u16, 128, 129, 65_535]).unwrap();
        let file = encoded(&DynamicImage::ImageLuma16(values), ImageFormat::Png);
        assert_eq!(decode(&file, PLAIN).unwrap().pixels, [0, 0, 0, 0, 0, 0, 1, 1, 1, 255, 255, 255]);
    }

    #[test]
    fn a_cut_file_never_gives_another_image() {
        let opaque = DynamicImage::ImageRgb8(colours().into_rgb8());
        let files = [
            encoded(&opaque, ImageFormat::Png),
            encoded(&opaque, ImageFormat::WebP),
            encoded(&opaque, ImageFormat::Tiff),
            encoded(&opaque, ImageFormat::Bmp),
            encoded(&opaque, ImageFormat::Gif),
            encoded(&opaque, ImageFormat::Jpeg),
            jpegs::bytes(jpegs::PROGRESSIVE),
            jpegs::bytes(jpegs::RESTARTS),
        ];
        for file in files {
            let whole = decode(&file, PLAIN).unwrap();
            for cut in 0..file.len() {
                // Bytes after the pixels, such as a PNG's end chunk, may be missing.
                if let Ok(image) = decode(&file[..cut], PLAIN) {
                    assert_eq!(image, whole, "{cut} of {} bytes", file.len());
                    assert!(cut + 12 >= file.len(), "{cut} of {} bytes", file.len());
                }
            }
        }
    }

    #[test]
    fn exif_orientation_is_applied_unless_ignored() {
        // An EXIF block of one entry, orientation 6: the camera was held sideways.
        let exif =
            b"\xff\xe1\x00\x22Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
        let plain = encoded(&DynamicImage::ImageRgb8(colours().into_rgb8()), ImageFormat::Jpeg);
        let file = [&plain[..2], exif, &plain[2..]].concat();
        let stored = decode(&file, DecodeOptions { ignore_exif: true }).unwrap();
        assert_eq!((stored.height, stored.width), (7, 9));
        let upright = decode(&file, PLAIN).unwrap();
        assert_eq!((upright.height, upright.width), (9, 7));
        // The stored bottom left corner becomes the top left corner.
        assert_eq!(upright.pixels[..3], stored.pixels[6 * 9 * 3..][..3]);
    }

    #[test]
    fn too_large_images_are_refused_from_their_header() {
        let wide = DynamicImage::new_luma8(MAX_SIDE + 1, 1);
        assert!(reason_of(&encoded(&wide, ImageFormat::Png)).contains("16384 a side"));
        let most = DynamicImage::new_luma8(MAX_SIDE, 1);
        assert!(decode(&encoded(&most, ImageFormat::Png), PLAIN).is_ok());
        // 16,000 x 16,000 at 4 bytes per pixel: a header without pixels.
        let gif = b"GIF89a\x80\x3e\x80\x3e\0\0\0,\0\0\0\0\x80\x3e\x80\x3e\0\x02";
        assert!(reason_of(gif).contains("limit is 256 MiB"), "{}", reason_of(gif));
    }

    #[test]
    fn what_is_no_image_is_named() {
        assert_eq!(reason_of(b""), "empty file");
        assert!(reason_of(b"just some words").contains("not a JPEG"));
        assert!(reason_of(b"\xff\xd8\xff\xe0").starts_with("truncated"));
        assert!(reason_of(b"RIFF\xff\0\0\0WEBPVP8 ").starts_with("truncated"));
        assert_eq!((media_type(b"GIF89a"), media_type(b"<svg>")), (Some("image/gif"), None));

        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("a.jpg");
        std::fs::create_dir(&folder).unwrap();
        let text = |path: &Path| read(path, PLAIN).unwrap_err().to_string();
        assert!(text(&folder).ends_with("a.jpg: a folder, not an image"));
        assert!(text(&dir.path().join("b.jpg")).contains("b.jpg: cannot be read"));
        for (path, word) in [(&folder, "a folder"), (&dir.path().join("b.jpg"), "cannot be read")] {
            assert!(check_header(path).unwrap_err().starts_with(word));
        }
        #[cfg(unix)]
        assert!(text(Path::new("/dev/null")).ends_with("not a regular file"));
    }
}
