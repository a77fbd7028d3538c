//! Messages of errors and their hints.

use super::common::{assert_says, copies, copy, expect, input, paint, program, write};
use std::path::Path;
use tempfile::TempDir;

/// A model that needs several MiB.
const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/weights/demo.safetensors");

/// A folder with a model and two persons' images.
fn inputs() -> TempDir {
    let folder = copies(&["two_p"]);
    copy(&input("tiny/tiny.safetensors"), &folder.path().join("m.safetensors"));
    folder
}

/// Runs a command, split into words, and returns its stderr.
#[track_caller]
fn says(code: i32, folder: &Path, command: &str) -> String {
    expect(code, folder, &command.split(' ').collect::<Vec<_>>()).1
}

/// The hint, or an empty string.
fn hint(stderr: &str) -> &str {
    stderr.lines().find_map(|line| line.strip_prefix("hint: ")).unwrap_or_default()
}

#[test]
fn an_unmatched_filter_gets_names_of_rows() {
    let folder = tempfile::tempdir().unwrap();
    for command in
        ["bench --match zzz", "selftest --match zzz", "bench --match GEMM", "selftest --match l2norm,gemm"]
    {
        let stderr = says(1, folder.path(), command);
        assert_says(&stderr, &["error: no row's name contains"]);
        assert_says(hint(&stderr), &["a name looks like", "gemm", "l2norm"]);
        assert!(!stderr.contains(".jpg"), "{command}: {stderr}");
    }
}

#[test]
fn too_little_memory_gets_a_sufficient_amount() {
    let folder = inputs();
    copy(Path::new(DEMO), &folder.path().join("demo.safetensors"));
    let here = folder.path();
    let stderr = says(1, here, "embed --model demo.safetensors two_p --out e.npy --memory 1M");
    assert_says(&stderr, &["one image needs ", "1.0 MiB are allowed"]);
    let needed: u64 = hint(&stderr).split(' ').nth(2).unwrap().parse().unwrap();
    assert_says(hint(&stderr), &["at least ", " MiB are needed, for one image at a time"]);
    assert!(!stderr.contains("--batch-size"), "{stderr}");
    says(0, here, &format!("embed --model demo.safetensors two_p --out e.npy --memory {needed}M"));

    // Too large a batch gets the largest that fits, which works.
    let stderr =
        says(1, here, "embed --model demo.safetensors two_p --out e.npy --memory 16M --batch-size 5000");
    let fits = hint(&stderr).strip_prefix("a batch of ").and_then(|rest| rest.strip_suffix(" fits")).unwrap();
    says(
        0,
        here,
        &format!("embed --model demo.safetensors two_p --out e.npy --memory 16M --batch-size {fits}"),
    );

    // Commands without --batch-size don't mention it.
    for command in [
        "search --model demo.safetensors --gallery e.npy --query two_p --memory 1M",
        "serve --model demo.safetensors --gallery e.npy --memory 1M --port 0",
        "eval --model demo.safetensors --data two_p --memory 500K",
    ] {
        let stderr = says(1, here, command);
        assert_says(hint(&stderr), &["MiB are needed, for one image at a time"]);
        assert!(!stderr.contains("--batch-size"), "{command}: {stderr}");
    }
    let train = "train --backbone demo.safetensors --data two_p --out run --batch-size 4 --memory 1M";
    let stderr = says(1, here, train);
    assert_says(&stderr, &["--memory allows 1 MiB", "a smaller --size or --batch-size"]);
    assert_eq!(hint(&stderr), "", "the message names the remedy");
}

#[test]
fn a_missing_folder_is_named_without_a_temporary_file() {
    let folder = inputs();
    for (command, file, missing) in [
        ("embed --model m.safetensors two_p --out nodir/o.npy", "nodir/o.npy", "there is no folder nodir"),
        ("init --out a/b/m.safetensors", "a/b/m.safetensors", "there is no folder a/b"),
        ("data two_p --json m.safetensors/d.json", "m.safetensors/d.json", "m.safetensors is not a folder"),
        ("data two_p --json two_p", "two_p", "irectory"),
        ("data two_p --json new/", "new/", "irectory"),
    ] {
        let stderr = says(1, folder.path(), command);
        assert_says(&stderr, &[&format!("error: cannot create {file}: "), missing]);
        assert!(!stderr.contains(".lat-wgpu-") && !hint(&stderr).contains("full"), "{stderr}");
        assert!(!hint(&stderr).is_empty(), "{stderr}");
    }
}

#[test]
fn an_unknown_adapter_gets_the_available_ones() {
    let folder = inputs();
    let here = folder.path();
    for command in [
        "embed --model m.safetensors two_p --out e.npy --adapter nosuch",
        "bench --adapter nosuch",
        "autotune --model m.safetensors --adapter nosuch",
    ] {
        let stderr = says(1, here, command);
        assert_says(&stderr, &["no adapter's name contains \"nosuch\"; found: "]);
        assert_says(hint(&stderr), &["--adapter", "LAT_ADAPTER"]);
        assert!(!stderr.contains("install"), "{stderr}");
    }
    let output = program(here, &["selftest"]).env("LAT_ADAPTER", "nosuch").output().unwrap();
    assert_says(&String::from_utf8_lossy(&output.stderr), &["found: ", "LAT_ADAPTER"]);
    // Without any adapter a driver is missing.
    let output = program(here, &["info"]).env("VK_DRIVER_FILES", "/dev/null").output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(1) {
        assert_says(hint(&stderr), &["install a Vulkan driver"]);
        assert!(!hint(&stderr).contains("lat-wgpu info"), "{stderr}");
    }
}

#[test]
fn a_hint_belongs_to_its_cause() {
    let folder = inputs();
    let here = folder.path();
    std::fs::create_dir(here.join("empty")).unwrap();
    write(&here.join("broken/a.jpg"), "no image");
    let whole = std::fs::read(here.join("m.safetensors")).unwrap();
    write(&here.join("cut.safetensors"), &whole[..whole.len() - 100]);
    write(&here.join("short.safetensors"), "x");
    for (command, wanted, unwanted) in [
        ("embed --model m.safetensors empty --out e.npy", ".jpg", "skipped"),
        ("search --model m.safetensors --gallery e.npy --query empty", ".jpg", "skipped"),
        // An image exists, so no hint explains inputs.
        ("embed --model m.safetensors broken --out e.npy", "`skipped`", ".jpg"),
        ("embed --model cut.safetensors two_p --out e.npy", "inspect cut.safetensors", "README"),
        ("train --backbone cut.safetensors --data two_p --out run", "inspect cut.safetensors", "README"),
        ("embed --model nowhere.safetensors two_p --out e.npy", "check the path", "inspect"),
        // The hint for data sets doesn't mention .jpg files.
        ("data empty", "", ".jpg"),
        ("eval --model m.safetensors --data empty", "", ".jpg"),
        // No hint to list the tensors of a file that is no weights file.
        ("embed --model short.safetensors two_p --out e.npy", "", "inspect"),
        ("inspect short.safetensors", "", "inspect"),
    ] {
        let stderr = says(1, here, command);
        assert_says(hint(&stderr), &[wanted]);
        assert!(!hint(&stderr).contains(unwanted), "{command}: {stderr}");
    }
}

#[test]
fn an_unavailable_address_gets_its_cause() {
    let folder = inputs();
    let here = folder.path();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let serve = "serve --model m.safetensors --gallery e.npy";
    let stderr = says(1, here, &format!("{serve} --port {port}"));
    assert_says(hint(&stderr), &["--port 0"]);
    // An address for documentation, of no machine (RFC 5737).
    let stderr = says(1, here, &format!("{serve} --port 0 --host 192.0.2.1"));
    assert_says(hint(&stderr), &["--host"]);
    assert!(!hint(&stderr).contains("--port"), "{stderr}");
}

#[test]
fn undecodable_images_get_readable_reasons() {
    let folder = inputs();
    let here = folder.path();
    let at = |name: &str| here.join("bad").join(name);
    paint(&at("whole.jpg"), [10, 20, 30]);
    let whole = std::fs::read(at("whole.jpg")).unwrap();
    std::fs::remove_file(at("whole.jpg")).unwrap();
    let frame = whole.windows(2).position(|marker| matches!(marker, [0xff, 0xc0..=0xc2])).unwrap();
    let with_marker = |marker: u8| {
        let mut bytes = whole.clone();
        bytes[frame + 1] = marker;
        bytes
    };
    write(&at("cut.jpg"), &whole[..whole.len() - 20]);
    write(&at("cut_header.jpg"), &whole[..frame / 2]);
    write(&at("empty.jpg"), "");
    write(&at("lossless.jpg"), with_marker(0xc3));
    write(&at("arithmetic.jpg"), with_marker(0xc9));
    write(&at("progressive_arithmetic.jpg"), with_marker(0xca));
    // Encoders write the conditioning of the coder before the frame.
    let mut conditioned = with_marker(0xc9);
    conditioned.splice(2..2, [0xff, 0xcc, 0, 4, 0, 0x10]);
    write(&at("conditioned.jpg"), conditioned);
    let stderr = says(1, here, "embed --model m.safetensors bad --out e.npy");
    assert_says(
        &stderr,
        &[
            "bad/cut.jpg: truncated: ",
            "bad/cut_header.jpg: truncated: the data ends inside the header",
            "bad/empty.jpg: empty file",
            "bad/lossless.jpg: a JPEG with lossless coding, which isn't supported; convert it",
            "bad/arithmetic.jpg: a JPEG with arithmetic coding, which isn't supported; convert it",
            "bad/progressive_arithmetic.jpg: a JPEG with arithmetic coding",
            "bad/conditioned.jpg: a JPEG with arithmetic coding",
        ],
    );
    assert!(!stderr.contains("DAC"), "{stderr}");
}

#[test]
fn a_numpy_archive_is_recognised() {
    let folder = inputs();
    let here = folder.path();
    // The start of a file of numpy.savez with one unnamed array.
    let archive = b"PK\x03\x04\x2d\0\0\0\0\0\0\0\x21\0\xff\xff\xff\xff\xff\xff\xff\xff\x09\0\x14\0arr_0.npy";
    for name in ["e.npz", "e.npy", "f.NPZ"] {
        write(&here.join(name), archive);
    }
    for (code, command) in [
        (2, "eval --query-embeddings e.npz --gallery-embeddings e.npz"),
        (1, "eval --query-embeddings e.npy --gallery-embeddings e.npy"),
        (2, "search --model m.safetensors --gallery f.NPZ --query two_p"),
        (2, "reduce e.npz --dim 2 --out r.safetensors"),
    ] {
        assert_says(&says(code, here, command), &["a NumPy archive (.npz)", "numpy.save"]);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn the_driver_does_not_complain_about_a_variable() {
    let folder = tempfile::tempdir().unwrap();
    for value in [None, Some(""), Some("relative")] {
        let mut command = program(folder.path(), &["info"]);
        match value {
            None => command.env_remove("XDG_RUNTIME_DIR"),
            Some(value) => command.env("XDG_RUNTIME_DIR", value),
        };
        let output = command.output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && stderr.is_empty(), "{value:?}: {stderr}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
