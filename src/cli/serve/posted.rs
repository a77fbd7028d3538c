//! Image files and boxes that a client posts.

use super::http::Refusal;
use crate::images::decode::{self, DecodeOptions, Rgb};
use crate::images::preprocess::resize_bicubic;
use crate::kernels::topk::MAX_K;
use crate::shape::ImageSize;
use axum::body::Bytes;
use axum::extract::multipart::MultipartError;
use axum::extract::{FromRequest, Multipart, Request};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use std::time::Duration;

/// Largest body of a request, in bytes.
pub(super) const MAX_BODY: usize = 16 << 20;
/// Most files or boxes of a request.
const MAX_IMAGES: usize = 256;

/// Corners of a box in pixels: left, top, right, bottom.
type Corners = [f32; 4];

/// The posted files.
#[derive(Debug, Default)]
pub(super) struct Form {
    pub files: Vec<Bytes>,
    /// Boxes in the only file.
    pub boxes: Option<Vec<Corners>>,
}

/// Format of embeddings in an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Json,
    /// Little-endian f32 values.
    F32,
}

fn bad(reason: impl Into<String>) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, reason)
}

/// The number K in `top=K`.
pub(super) fn top(text: &str) -> Result<usize, Refusal> {
    let parsed = text.parse().ok().filter(|top| (1..=MAX_K).contains(top));
    parsed.ok_or_else(|| bad(format!("top must be a number from 1 to {MAX_K}")))
}

/// The format in `format=FORMAT`.
pub(super) fn format(text: &str) -> Result<Format, Refusal> {
    match text {
        "json" => Ok(Format::Json),
        "f32" => Ok(Format::F32),
        _ => Err(bad("format must be json or f32")),
    }
}

/// Boxes, written `x1,y1,x2,y2;x1,y1,x2,y2` or as a JSON list of lists.
pub(super) fn boxes(text: &str) -> Result<Vec<Corners>, Refusal> {
    let list = match text.trim_start().starts_with('[') {
        true => text.to_string(),
        false => format!("[[{}]]", text.replace(';', "],[")),
    };
    let refused = || bad("boxes must be left,top,right,bottom in pixels, such as 10,20,74,148;90,20,154,148");
    let boxes: Vec<Corners> = serde_json::from_str(&list).map_err(|_| refused())?;
    if boxes.is_empty() || boxes.iter().flatten().any(|corner| !corner.is_finite()) {
        return Err(refused());
    }
    Ok(boxes)
}

/// Reads the body, if it is small enough and arrives in time: an image file, or a form's files and boxes.
pub(super) async fn read(request: Request, time: Duration) -> Result<Form, Refusal> {
    // A stated length is checked before anything is read.
    let length = request.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if length.is_some_and(|length: u64| length > MAX_BODY as u64) {
        return Err(too_large());
    }
    let read = async {
        if is_form(request.headers()) {
            return form(request).await;
        }
        let body = Bytes::from_request(request, &()).await;
        let body = body.map_err(|rejection| unreadable(rejection.status(), rejection.body_text()))?;
        Ok(Form { files: vec![body], boxes: None })
    };
    let late = || Refusal::new(StatusCode::REQUEST_TIMEOUT, "the body didn't come in time");
    tokio::time::timeout(time, read).await.unwrap_or_else(|_| Err(late()))
}

fn too_large() -> Refusal {
    let reason = format!("the body is larger than {} MiB", MAX_BODY >> 20);
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, reason)
}

fn unreadable(status: StatusCode, reason: String) -> Refusal {
    if status == StatusCode::PAYLOAD_TOO_LARGE { too_large() } else { Refusal::new(status, reason) }
}

/// Returns true if the body is a form with files, as `curl -F` sends it.
fn is_form(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("multipart/form-data"))
}

/// The files of a form, and its field `boxes`; other fields are ignored.
async fn form(request: Request) -> Result<Form, Refusal> {
    let failed = |error: MultipartError| unreadable(error.status(), error.body_text());
    let body = Multipart::from_request(request, &()).await;
    let mut body = body.map_err(|rejection| unreadable(rejection.status(), rejection.body_text()))?;
    let mut form = Form::default();
    while let Some(field) = body.next_field().await.map_err(failed)? {
        if field.file_name().is_some() {
            form.files.push(field.bytes().await.map_err(failed)?);
        } else if field.name() == Some("boxes") {
            form.boxes = Some(boxes(&field.text().await.map_err(failed)?)?);
        }
    }
    if form.files.is_empty() {
        return Err(bad("the form holds no file: curl -F image=@FILE sends one"));
    }
    Ok(form)
}

/// Decodes the files, and cuts and stretches the images to `size`.
pub(super) fn decode(form: &Form, options: DecodeOptions, size: ImageSize) -> Result<Vec<Rgb>, Refusal> {
    let count = form.boxes.as_ref().map_or(form.files.len(), Vec::len);
    if count > MAX_IMAGES {
        return Err(bad(format!("a request has at most {MAX_IMAGES} images or boxes, found {count}")));
    }
    match &form.boxes {
        None => form.files.iter().map(|file| Ok(resize_bicubic(&decode_one(file, options)?, size))).collect(),
        Some(boxes) => {
            let [file] = &form.files[..] else {
                return Err(bad(format!("boxes need one image, found {}", form.files.len())));
            };
            let image = decode_one(file, options)?;
            boxes.iter().map(|&corners| Ok(resize_bicubic(&cut(&image, corners)?, size))).collect()
        }
    }
}

fn decode_one(file: &[u8], options: DecodeOptions) -> Result<Rgb, Refusal> {
    if file.is_empty() {
        return Err(bad("a file is empty: send an image file"));
    }
    if decode::media_type(file).is_none() {
        let reason = "the body is not a JPEG, PNG, BMP, WebP, GIF or TIFF image";
        return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, reason));
    }
    decode::decode(file, options).map_err(|reason| {
        Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, format!("cannot decode the image: {reason}"))
    })
}

/// Cuts a box out of an image: the pixels that it covers in part, as far as the image reaches.
fn cut(image: &Rgb, [left, top, right, bottom]: Corners) -> Result<Rgb, Refusal> {
    let across = (left.floor().max(0.0) as usize, (right.ceil().max(0.0) as usize).min(image.width));
    let down = (top.floor().max(0.0) as usize, (bottom.ceil().max(0.0) as usize).min(image.height));
    if across.0 >= across.1 || down.0 >= down.1 {
        let size = format!("{} pixels wide and {} high", image.width, image.height);
        return Err(bad(format!(
            "the box {left},{top},{right},{bottom} has no pixel of the image, which is {size}"
        )));
    }
    let rows = image.pixels.chunks_exact(3 * image.width).take(down.1).skip(down.0);
    let pixels = rows.flat_map(|row| &row[3 * across.0..3 * across.1]).copied().collect();
    Ok(Rgb { height: down.1 - down.0, width: across.1 - across.0, pixels })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused<T: std::fmt::Debug>(result: Result<T, Refusal>) -> StatusCode {
        result.unwrap_err().status
    }

    #[test]
    fn top_is_read_or_refused() {
        for (text, wanted) in [("1", 1), ("1024", 1024)] {
            assert_eq!(top(text).unwrap(), wanted, "{text}");
        }
        for bad in ["", "0", "1025", "-1", "ten", "1e3"] {
            assert_eq!(refused(top(bad)), StatusCode::BAD_REQUEST, "{bad}");
        }
    }

    #[test]
    fn boxes_are_read_or_refused() {
        let two = vec![[1.0, 2.0, 3.0, 4.0], [0.5, 0.0, 9.0, 8.25]];
        for text in
            ["1,2,3,4;0.5,0,9,8.25", "[[1,2,3,4],[0.5,0,9,8.25]]", " [[1, 2, 3, 4], [0.5, 0, 9, 8.25]] "]
        {
            assert_eq!(boxes(text).unwrap(), two, "{text}");
        }
        for bad in ["", "[]", "1,2,3", "1,2,3,4,5", "1,2,3,x", "1,2,3,1e99", "[[1,2,3,4]", "1,2,3,4;"] {
            assert_eq!(refused(boxes(bad)), StatusCode::BAD_REQUEST, "{bad}");
        }
    }

    #[test]
    fn a_box_is_cut_at_the_image() {
        // The pixel in row y and column x is (y, x, 7).
        let pixels = (0..12).flat_map(|i| [i / 4, i % 4, 7]).collect();
        let image = Rgb { height: 3, width: 4, pixels };
        assert_eq!(cut(&image, [-5.0, -1.0, 99.0, 3.0]).unwrap(), image);
        let part = cut(&image, [1.2, 1.0, 2.1, 2.0]).unwrap();
        assert_eq!((part.height, part.width, part.pixels), (1, 2, vec![1, 1, 7, 1, 2, 7]));
        for bad in [[2.0, 0.0, 2.0, 3.0], [3.0, 0.0, 1.0, 3.0], [4.0, 0.0, 9.0, 3.0], [0.0, -9.0, 4.0, -1.0]]
        {
            assert_eq!(refused(cut(&image, bad)), StatusCode::BAD_REQUEST, "{bad:?}");
        }
    }

    #[test]
    fn too_many_images_are_refused() {
        let form =
            Form { files: vec![Bytes::new()], boxes: Some(vec![[0.0, 0.0, 1.0, 1.0]; MAX_IMAGES + 1]) };
        let size = ImageSize::square(1);
        assert_eq!(refused(decode(&form, DecodeOptions::default(), size)), StatusCode::BAD_REQUEST);
        let form = Form { files: vec![Bytes::new(); 2], boxes: Some(vec![[0.0, 0.0, 1.0, 1.0]]) };
        assert_eq!(refused(decode(&form, DecodeOptions::default(), size)), StatusCode::BAD_REQUEST);
    }
}
