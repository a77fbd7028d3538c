//! Recognises files that aren't weights by their first bytes, whatever their extension.

/// Number of bytes to look at. An index of shards may begin with much else.
pub(super) const START: u64 = 1 << 16;

/// First bytes of binary files, and descriptions.
const BINARY: [(&[u8], &str); 11] = [
    (b"GGUF", "a GGUF file of llama.cpp: take the model's .safetensors instead"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras and TensorFlow write: convert the model to .safetensors"),
    (b"\x93NUMPY", "a NumPy array (.npy), not a set of named tensors"),
    (b"\x1f\x8b", "a gzip archive: unpack it (gunzip, or tar xzf) and give the file inside"),
    (b"BZh", "a bzip2 archive: unpack it and give the file inside"),
    (b"\xfd7zXZ\0", "an xz archive: unpack it and give the file inside"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive: unpack it and give the file inside"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive: unpack it and give the file inside"),
    (b"Rar!", "a RAR archive: unpack it and give the file inside"),
    (b"PAR1", "a Parquet file: a table, not weights"),
    (b"TFL3", "a TensorFlow Lite file: take the model's .safetensors instead"),
];

/// Hint for PyTorch files.
const CONVERT: &str = "`lat-wgpu convert` makes a .safetensors of it (weights/README.md)";

/// Describes a file that begins with `start` and isn't safetensors, and says what to do. `None` if it isn't known.
pub(super) fn describe(start: &[u8]) -> Option<String> {
    if start.is_empty() {
        return Some("empty, not a safetensors file: was the copy or download complete?".to_string());
    }
    // A header length below 16 MB, then a brace: a safetensors file with damage further on.
    if start.get(3..9) == Some(b"\0\0\0\0\0{") {
        return None;
    }
    let known = binary(start).or_else(|| text(start))?;
    Some(format!("not a safetensors file but {known}"))
}

fn binary(start: &[u8]) -> Option<String> {
    let has = |text: &[u8]| start.windows(text.len()).any(|window| window == text);
    if start.starts_with(b"PK\x03\x04") || start.starts_with(b"PK\x05\x06") {
        // A zip archive has the names of its files between their contents.
        return Some(if has(b"data.pkl") {
            format!("a PyTorch file (.pt, .pth, .bin): {CONVERT}")
        } else if has(b".npy") {
            "a NumPy archive (.npz): save its arrays with safetensors.numpy.save_file".to_string()
        } else {
            format!("a zip archive: unpack it and give the file inside, or if PyTorch wrote it: {CONVERT}")
        });
    }
    // The second byte of a pickle is its protocol version.
    if let [0x80, 2..=5, ..] = start {
        return Some(format!(
            "a Python pickle, as PyTorch wrote .pt, .pth and .bin before version 1.6: {CONVERT}"
        ));
    }
    if start.get(257..262) == Some(b"ustar") {
        return Some("a tar archive: unpack it (tar xf) and give the file inside".to_string());
    }
    if let Some((_, what)) = BINARY.iter().find(|(magic, _)| start.starts_with(magic)) {
        return Some((*what).to_string());
    }
    // A number in field 1, then a string or a message: version and producer, or the graph.
    match start {
        [0x08, 1..=32, 0x12 | 0x1a | 0x22 | 0x3a | 0x42, ..] => Some(
            "a protocol buffer, as ONNX (.onnx) and TensorFlow (.pb) write: take the model's .safetensors instead"
                .to_string(),
        ),
        _ => None,
    }
}

fn text(start: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(start);
    let text = text.trim_start_matches('\u{feff}').trim_start();
    let begins = |word: &str| text.get(..word.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(word));
    if begins("version https://git-lfs") || begins("version https://hawser") {
        return Some(
            "a Git LFS pointer: run `git lfs pull` in its repository, or download the file itself"
                .to_string(),
        );
    }
    let html = ["<!doctype html", "<html", "<head", "<body", "<script"];
    if html.into_iter().any(begins) || (begins("<") && text.to_ascii_lowercase().contains("<html")) {
        return Some(
            "an HTML page, such as a site's login, warning or error page: download the file itself"
                .to_string(),
        );
    }
    if begins("<") {
        return Some(
            "an XML document, such as a storage's error message: download the file itself".to_string(),
        );
    }
    if begins("{") || begins("[") {
        return Some(if text.contains("\"weight_map\"") {
            let shard = text.split('"').find(|word| word.ends_with(".safetensors") || word.ends_with(".bin"));
            let shard = shard.map_or(String::new(), |shard| format!(" such as {}", shard.escape_debug()));
            format!(
                "an index of shards: the weights are in the files that it names{shard}; weights/README.md shows how to join them"
            )
        } else {
            "a JSON document: give the .safetensors file that belongs to it".to_string()
        });
    }
    let line = text.lines().next().unwrap_or_default();
    let plain = line.len() >= 8 && line.chars().all(|c| !c.is_control() && c != char::REPLACEMENT_CHARACTER);
    plain.then(|| {
        let beginning: String = line.chars().take(40).collect();
        format!("a text that begins with {beginning:?}, such as a failed download's message: download the file itself")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_named_as_what_they_are() {
        let mut tar = vec![0; 512];
        tar[..4].copy_from_slice(b"a.pt");
        tar[257..262].copy_from_slice(b"ustar");
        let zip = |name: &str| [b"PK\x03\x04\x14\0\0\0".as_slice(), &[0; 22], name.as_bytes()].concat();
        for (start, words) in [
            (&b""[..], "empty"),
            (b"Entry not found", "a text that begins with \"Entry not found\""),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab", "git lfs pull"),
            (b"<!DOCTYPE html><html>", "HTML"),
            (b"\xef\xbb\xbf\n  <HTML lang=en>", "HTML"),
            (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "XML"),
            (b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.", "pickle"),
            (b"\x80\x04\x95", "pickle"),
            (&zip("archive/data.pkl"), "a PyTorch file"),
            (&zip("weight.npy"), ".npz"),
            (&zip("readme.txt"), "a zip archive"),
            (b"\x1f\x8b\x08\0\0\0\0\0\0", "gzip"),
            (&tar, "tar archive"),
            (
                b"{\"metadata\": {}, \"weight_map\": {\"a\": \"model-1.safetensors\"}}",
                "such as model-1.safetensors",
            ),
            (b"{\"error\": \"Repository not found\"}", "JSON"),
            (b"GGUF\x03\0\0\0", "GGUF"),
            (b"\x89HDF\r\n\x1a\n", "HDF5"),
            (b"\x93NUMPY\x01\0", ".npy"),
            (b"\x08\x08\x12\x07pytorch", "ONNX"),
        ] {
            let description = describe(start).unwrap_or_default();
            assert!(description.contains(words), "{words}: {description}");
        }
        let damaged = b"\x80\x02\0\0\0\0\0\0{\"a\":";
        for other in [&b"hello"[..], &[0; 64], b"x", b"PK", b"\x80", damaged] {
            assert_eq!(describe(other), None);
        }
    }
}
