//! `lat-wgpu convert`: files that torch.save wrote with the names and shapes of releases, and hostile ones.
//! `tools/make_pytorch_files.py` wrote those in `tests/pytorch`.

#[path = "common/program.rs"]
mod program;

use lat_wgpu::checkpoint::{self, Network, Settings};
use lat_wgpu::shape::{ImageSize, Normalize, PartLayout, PartTokens};
use program::{crops, expect};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A file of `tests/pytorch`.
fn input(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pytorch").join(name)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Converts a file with more flags, and returns the messages.
#[track_caller]
fn convert(code: i32, folder: &Path, file: &Path, more: &[&str]) -> String {
    let words = ["convert", text(file), "--out", "m.safetensors"];
    let (stdout, stderr) = expect(code, folder, &[&words[..], more].concat());
    assert_eq!(stdout, "");
    assert_eq!(folder.join("m.safetensors").exists(), code == 0, "{stderr}");
    stderr
}

/// Converts a file and loads the model without flags.
#[track_caller]
fn converted(name: &str, more: &[&str]) -> (Network, Value, String) {
    let folder = tempfile::tempdir().unwrap();
    let stderr = convert(0, folder.path(), &input(&format!("{name}.pth")), more);
    let out = folder.path().join("m.safetensors");
    let entry = checkpoint::list(&out).unwrap().1.remove("lat_wgpu").unwrap();
    let network = checkpoint::load(&out, &Settings::default()).unwrap();
    (network, serde_json::from_str(&entry).unwrap(), stderr)
}

#[track_caller]
fn assert_says(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "{word:?} is missing in:\n{text}");
    }
}

/// SHA-256 of the values of each tensor.
fn hashes(network: &Network) -> BTreeMap<String, String> {
    let hash = |values: &[f32]| {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    network.tensors.iter().map(|(name, tensor)| (name.clone(), hash(&tensor.data))).collect()
}

/// Networks that are no release have a width that says nothing about their heads.
fn flags(name: &str) -> &'static [&'static str] {
    if name.starts_with("mixed") { &["--heads", "2", "--size", "16x8"] } else { &[] }
}

#[test]
fn every_file_becomes_the_network_that_pytorch_saved() {
    let expected: BTreeMap<String, BTreeMap<String, String>> =
        serde_json::from_slice(&std::fs::read(input("expected.json")).unwrap()).unwrap();
    assert_eq!(expected.len(), 15);
    for (name, expected) in expected {
        let (network, ..) = converted(&name, flags(&name));
        assert_eq!(hashes(&network), expected, "{name}");
    }
}

#[test]
fn releases_are_recognised_and_get_their_settings() {
    let person = ImageSize { height: 256, width: 128 };
    let square = ImageSize::square(224);
    let (half, imagenet) = (Normalize::Half, Normalize::Imagenet);
    for (name, words, size, stride, grid, normalize, filter) in [
        (
            "personvit_pretrained",
            &[
                "PersonViT, pre-trained by iBOT",
                "no licence file",
                "student (1 tensor)",
                "head.last_layer.weight_v",
                "args",
            ][..],
            person,
            16,
            (16, 8),
            half,
            "bicubic",
        ),
        ("personvit_student", &["PersonViT", "pre-trained"], person, 16, (16, 8), half, "bicubic"),
        (
            "personvit_finetuned",
            &["TransReID, TransReID-SSL or PersonViT, fine-tuned", "base.fc.bias", "bottleneck.running_mean"],
            person,
            16,
            (16, 8),
            half,
            "bilinear",
        ),
        ("transreid", &["TransReID", "MIT"], person, 12, (21, 10), half, "bilinear"),
        (
            "transreid_jigsaw",
            &["TransReID with the jigsaw branch", "licence of the weights: MIT", "b2.0.", "global feature"],
            person,
            16,
            (16, 8),
            half,
            "bilinear",
        ),
        (
            "transreid_ssl",
            &["TransReID-SSL, pre-trained by DINO", "MIT"],
            person,
            16,
            (16, 8),
            half,
            "bicubic",
        ),
        (
            "deit",
            &["release: DeiT\n", "Apache-2.0", "head.weight"],
            square,
            16,
            (14, 14),
            imagenet,
            "bicubic",
        ),
        ("deit_distilled", &["DeiT, distilled", "Apache-2.0"], square, 16, (14, 14), imagenet, "bicubic"),
        ("deepvit", &["release: DeepViT\n", "MIT", "head.weight"], square, 16, (14, 14), imagenet, "bicubic"),
        (
            "mae_encoder",
            &["MAE, the encoder alone", "CC-BY-NC 4.0 if"],
            square,
            16,
            (14, 14),
            imagenet,
            "bicubic",
        ),
        (
            "mae",
            &["MAE, pre-trained", "CC-BY-NC 4.0", "decoder ignored"],
            square,
            16,
            (14, 14),
            imagenet,
            "bicubic",
        ),
    ] {
        let (network, entry, stderr) = converted(name, &[]);
        assert_says(&stderr, words);
        let config = &network.config;
        assert_eq!((config.image, config.stride, config.grid()), (size, stride, grid), "{name}");
        assert_eq!(network.file_positions, None, "{name}: the position table is resized");
        assert_eq!((network.preprocess.mean, network.preprocess.std), normalize.mean_std(), "{name}");
        assert_eq!(entry["preprocess"]["interpolation"], filter, "{name}");
        assert_eq!((config.gelt.tokens, config.gelt.parts), (PartTokens::Global, PartLayout::One), "{name}");
        let heads = if config.reattention { 4 } else { 1 };
        assert_eq!((config.heads, config.ln_eps), (heads, 1e-6), "{name}");
        assert_eq!(config.reattention, name == "deepvit");
        assert_eq!(config.dist_token, name == "deit_distilled");
        assert!(network.classifiers.is_empty());
        assert_says(&stderr, &[entry["source"]["release"].as_str().unwrap()]);
        assert_says(&stderr, &["wrote m.safetensors: ", "tensors, "]);
    }
}

#[test]
fn files_of_no_known_release_keep_the_defaults() {
    let (network, entry, stderr) = converted("mixed", flags("mixed"));
    assert_says(
        &stderr,
        &["release: none that is known", "licence of the weights: unknown", "f64 are rounded", "best"],
    );
    assert_eq!((network.config.gelt.tokens, network.config.gelt.parts), (PartTokens::Gelt, PartLayout::Rows));
    assert_eq!(entry["preprocess"]["interpolation"], "bicubic");
    // Eight positions fit no usual size, so that --size is needed, or twice the width.
    let folder = tempfile::tempdir().unwrap();
    let stderr = convert(0, folder.path(), &input("mixed.pth"), &["--heads", "2"]);
    assert_says(&stderr, &["input 16x8", "grid 4x2"]);
    std::fs::remove_file(folder.path().join("m.safetensors")).unwrap();
    assert_says(&convert(2, folder.path(), &input("mixed.pth"), &["--size", "16x8"]), &["--heads"]);
}

#[test]
fn flags_win_over_the_release() {
    let more = ["--size", "128x64", "--normalize", "imagenet", "--tokens", "gelt", "--parts", "rows"];
    let (network, entry, stderr) = converted("personvit_finetuned", &more);
    assert_eq!(network.config.image, ImageSize { height: 128, width: 64 });
    assert_eq!((network.config.gelt.tokens, network.config.parts()), (PartTokens::Gelt, 8));
    assert_eq!(network.preprocess.normalize(), Some(Normalize::Imagenet));
    assert_eq!(entry["model"]["grid"], serde_json::json!([8, 4]));
    assert_says(&stderr, &["--size 128x64 replaces", "resized from 16x8 to 8x4"]);
}

#[test]
fn a_converted_model_embeds_as_the_same_network_in_safetensors() {
    let folder = crops(1);
    let here = folder.path();
    for (file, twin, settings) in [
        (
            "personvit_finetuned.pth",
            "personvit_finetuned.safetensors",
            &["--size", "256x128", "--normalize", "half", "--tokens", "global", "--parts", "1"][..],
        ),
        ("mixed_legacy.pth", "mixed.safetensors", &["--size", "16x8", "--heads", "2"]),
        ("mixed_deflated.pth", "mixed.safetensors", &["--size", "16x8", "--heads", "2"]),
    ] {
        let more = if file.starts_with("mixed") { settings } else { &[] };
        convert(0, here, &input(file), more);
        let embed = |model: &str, more: &[&str]| {
            let words = ["embed", "--model", model, "crops", "--out", "e.npy"];
            let (_, stderr) = expect(0, here, &[&words[..], more].concat());
            (std::fs::read(here.join("e.npy")).unwrap(), stderr)
        };
        let (rows, stderr) = embed("m.safetensors", &[]);
        assert_eq!(rows, embed(text(&input(twin)), settings).0, "{file}");
        // The filter of the release is not used, which each command says.
        assert_eq!(stderr.contains("bilinear"), file.starts_with("personvit"), "{stderr}");
        std::fs::remove_file(here.join("m.safetensors")).unwrap();
    }
}

#[test]
fn networks_that_are_no_plain_vits_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (name, words) in [
        ("pass", &["base.part_token1", "PASS"][..]),
        ("transreid_ssl_stem", &["patch_embed.conv.0.weight", "convolutional stem"]),
        ("deepvit_stem", &["patch_embed.conv1.weight", "DeepViT-S"]),
        ("beit", &["blocks.0.gamma_1", "BEiT"]),
    ] {
        assert_says(&convert(1, folder.path(), &input(&format!("{name}.pth")), &[]), words);
    }
}

#[test]
fn a_camera_embedding_is_kept_with_numbers_as_names() {
    let folder = crops(1);
    let here = folder.path();
    let stderr = convert(0, here, &input("transreid_sie.pth"), &[]);
    assert_says(&stderr, &["TransReID", "cameras 1 to 6", "camera embedding: 6 cameras, factor 3"]);
    let network = checkpoint::load(&here.join("m.safetensors"), &Settings::default()).unwrap();
    let cameras = network.config.cameras.as_ref().unwrap();
    assert_eq!((cameras.weight, cameras.names.join(" ")), (3.0, "1 2 3 4 5 6".to_string()));
    assert_eq!(network.tensors["sie_embed"].shape, [6, 1, network.config.dim]);
    // Without names of cameras, nothing says whose rows they are.
    let bare = Settings { no_cameras: true, ..Settings::default() };
    let network = checkpoint::load(&here.join("m.safetensors"), &bare).unwrap();
    assert!(network.config.cameras.is_none() && !network.tensors.contains_key("sie_embed"));
    assert!(network.notes.iter().any(|note| note.contains("camera embedding is left out")));
}

#[test]
fn safetensors_of_a_release_are_converted_too() {
    let folder = tempfile::tempdir().unwrap();
    let stderr = convert(0, folder.path(), &input("personvit_finetuned.safetensors"), &[]);
    assert_says(&stderr, &["PersonViT or TransReID-SSL", "256x128"]);
    let again = folder.path().join("again.safetensors");
    std::fs::rename(folder.path().join("m.safetensors"), &again).unwrap();
    assert_says(&convert(1, folder.path(), &again, &[]), &["already"]);
}

/// A zip archive of stored entries, without checksums.
fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut bytes, mut directory) = (Vec::new(), Vec::new());
    for (name, content) in entries {
        let header = bytes.len() as u32;
        let sizes =
            [&[0; 4], &(content.len() as u32).to_le_bytes()[..], &(content.len() as u32).to_le_bytes()]
                .concat();
        let length = (name.len() as u16).to_le_bytes();
        bytes.extend(
            [b"PK\x03\x04\x14\0\0\0\0\0\0\0\0\0", &sizes[..], &length, &[0, 0], name.as_bytes(), content]
                .concat(),
        );
        let places = [&[0; 12][..], &header.to_le_bytes()].concat();
        directory.extend(
            [b"PK\x01\x02\x14\0\x14\0\0\0\0\0\0\0\0\0", &sizes[..], &length, &places, name.as_bytes()]
                .concat(),
        );
    }
    let count = (entries.len() as u16).to_le_bytes();
    let [size, start] = [directory.len(), bytes.len()].map(|number| (number as u32).to_le_bytes());
    [&bytes, &directory, &b"PK\x05\x06\0\0\0\0"[..], &count, &count, &size, &start, &[0, 0]].concat()
}

/// A file of the old format with this pickle as its object, and keys of storages.
fn legacy(pickle: &[u8], rest: &[u8]) -> Vec<u8> {
    [b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}.", pickle, rest].concat()
}

/// A tensor of one f32 in the storage `key`, as a pickle after its protocol; `changed` replaces pieces.
fn tensor(changed: &[(&str, &str)]) -> Vec<u8> {
    let mut pickle = "}X\u{1}\0\0\0aREBUILD((X\u{7}\0\0\0storagectorch\nFloatStorage\nKEYX\u{3}\0\0\0cpuCOUNTtQOFFSETSHAPESTRIDENtRs."
        .to_string();
    let usual = [
        ("REBUILD", "ctorch._utils\n_rebuild_tensor_v2\n"),
        ("KEY", "X\u{1}\0\0\u{0}0"),
        ("COUNT", "K\u{1}"),
        ("OFFSET", "K\0"),
        ("SHAPE", "(K\u{1}t"),
        ("STRIDE", "(K\u{1}t"),
    ];
    for (from, to) in changed.iter().chain(&usual) {
        pickle = pickle.replacen(from, to, 1);
    }
    [b"\x80\x02", pickle.as_bytes()].concat()
}

/// Asserts that a file is refused fast, and that nothing in it was executed.
#[track_caller]
fn refused(bytes: &[u8], words: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("f.pth");
    std::fs::write(&file, bytes).unwrap();
    let start = Instant::now();
    let stderr = convert(1, folder.path(), &file, &[]);
    assert!(start.elapsed() < Duration::from_secs(10), "{stderr}");
    assert_says(&stderr, &[&["f.pth"], words].concat());
    let names: Vec<_> =
        std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["f.pth"], "{stderr}");
}

/// The end of a file of the old format with one storage: the list of its key, 1 number, and the number.
const STORAGE: &[u8] = b"\x80\x02]X\x01\0\0\x000a.\x01\0\0\0\0\0\0\0\0\0\0\0";

/// Asserts that a pickle is refused in both formats.
#[track_caller]
fn refused_in_both(pickle: &[u8], words: &[&str]) {
    refused(&archive(&[("f/data.pkl", pickle), ("f/data/0", &[0; 4]), ("f/version", b"3\n")]), words);
    let keys = if pickle.windows(7).any(|word| word == b"storage") { STORAGE } else { b"\x80\x02]." };
    refused(&legacy(pickle, keys), words);
}

#[test]
fn hostile_pickles_do_nothing() {
    let touch = b"X\x0c\0\0\0touch MARKED";
    let with = |start: &[u8], end: &[u8]| [b"\x80\x04", start, touch, end].concat();
    for (pickle, name) in [
        (with(b"cos\nsystem\n", b"\x85R."), "os.system"),
        (with(b"cposix\nsystem\n(", b"tR."), "posix.system"),
        (with(b"cnt\nsystem\n", b"\x85\x81."), "nt.system"),
        (with(b"cbuiltins\neval\n", b"\x85R."), "builtins.eval"),
        (with(b"c__builtin__\nexec\n", b"\x85R."), "__builtin__.exec"),
        (with(b"csubprocess\nPopen\n", b"\x85}\x92."), "subprocess.Popen"),
        (with(b"(", b"ios\nsystem\n."), "os.system"),
        (with(b"(cos\nsystem\n", b"o."), "os.system"),
        (with(b"X\x02\0\0\0osX\x06\0\0\0system\x93", b"\x85R."), "os.system"),
        (with(b"\x8c\x05posix\x8c\x06system\x93", b"\x85R."), "posix.system"),
        // Names that the list has as a part, attributes of harmless classes, and calls of their results.
        (with(b"ctorch\nload\n", b"\x85R."), "torch.load"),
        (with(b"ctorch._utils\n_rebuild_tensor_v2.__globals__\n", b"\x85R."), "__globals__"),
        (with(b"cbuiltins\ngetattr\n", b"\x85R."), "builtins.getattr"),
        (with(b"cargparse\nNamespace\n)R", b"\x85R."), "a call of something that isn't a name"),
        (
            with(b"ctorch._tensor\n_rebuild_from_type_v2\n(cargparse\nNamespace\nN", b"\x85NtR."),
            "another class",
        ),
        // The state of a class, extensions, buffers, and texts of persistent objects.
        (with(b"cargparse\nNamespace\n}X\x01\0\0\0a", b"sb."), "the state of a class"),
        (with(b"\x82\x01", b"\x85R."), "an extension"),
        (with(b"\x97", b"."), "a buffer"),
        (with(b"Pstorage\n", b"."), "a persistent object by its text"),
        (with(b"ctorch\nFloatStorage\n", b"\x85R."), "a storage without a place"),
    ] {
        refused_in_both(&pickle, &[name, "nothing in it was executed", "hint: "]);
    }
}

#[test]
fn damaged_pickles_are_refused() {
    // Lengths beyond the end.
    for pickle in [
        &b"\x80\x02}"[..],
        b"\x80\x02}X\xff\xff\xff\xffa.",
        b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7fa.",
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\xffa.",
        b"\x80\x02\x8b\xff\xff\xff\x7f\x01.",
        b"\x80\x02\x8b\xff\xff\xff\xff\x01.",
    ] {
        refused(&archive(&[("f/data.pkl", pickle)]), &["cut off"]);
        refused(&legacy(pickle, &[]), &["cut off"]);
    }
    for (pickle, words) in [
        (&b"\x80\x02."[..], "without a value"),
        (b"\x80\x02(t0.", "without a value"),
        (b"\x80\x02t.", "without a mark"),
        (b"\x80\x02K\x01K\x01(0a.", "isn't a list"),
        (b"\x80\x02h\x07.", "nothing in memo 7"),
        (b"\x80\x02}(K\x01u.", "isn't a dictionary"),
        (b"\x80\x02\xfe.", "0xfe is no operation"),
        (b"\x80\x02K\x01.", "no dictionary of named tensors"),
        (b"\x80\x02}X\x05\0\0\0modelK\x01s.", "its keys: model"),
        // Containers that hold themselves.
        (b"\x80\x02}q\0X\x05\0\0\0modelh\0s.", "no dictionary of named tensors"),
        (b"\x80\x02]q\0h\0ah\0a.", "no dictionary of named tensors"),
        (b"\x80\x02ctorch._tensor\n_rebuild_from_type_v2\n(h\0tR.", "nothing in memo"),
        (b"\x80\x02ctorch._utils\n_rebuild_parameter\n(}tR.", "isn't a tensor"),
        (b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(}tR.", "too few arguments"),
        (b"\x80\x02}Q.", "isn't a storage"),
        (b"\x80\x02(X\x07\0\0\0storageNNNNtQ.", "isn't a storage"),
    ] {
        refused_in_both(pickle, &[words]);
    }
    // A wrapper that holds itself beside a tensor.
    let cyclic = tensor(&[("}", "}q\u{1}X\u{5}\0\0\0modelh\u{1}s")]);
    refused_in_both(&cyclic, &["nested too deeply"]);
    // A memo, a stack and tuples that grow with every byte.
    for piece in [&b"2"[..], b"(", b"h\0", b"h\0h\0\x86", b")", b"K\x01q\x01", b"\x94"] {
        let bomb = [b"\x80\x04Nq\0", &piece.repeat(3 << 20)[..], b"."].concat();
        refused(&archive(&[("f/data.pkl", &bomb)]), &["more than 1048576 values"]);
    }
    // Dictionaries of a large list of pairs, again and again.
    let pairs = [&b"\x80\x02]q\0("[..], &b"NN\x86".repeat(1000), b"e"].concat();
    let calls = b"ccollections\nOrderedDict\nh\0\x85R".repeat(10_000);
    refused(&archive(&[("f/data.pkl", &[&pairs[..], &calls, b"."].concat())]), &["more than 1048576 values"]);
}

#[test]
fn storages_that_lie_are_refused() {
    refused_in_both(&tensor(&[("KEY", "X\u{9}\0\0\0../secret")]), &[]);
    for (changed, words) in [
        (("COUNT", "K\u{2}"), "expected 2 numbers of 4 bytes in its storage, found 4 bytes"),
        (("COUNT", "\u{8a}\u{9}\0\0\0\0\0\0\0\0\u{1}"), ""),
        (("COUNT", "J\0\0\0\0"), ""),
        (("FloatStorage", "DoubleStorage"), "8 bytes"),
        (("FloatStorage", "QInt8Storage"), "torch.QInt8Storage"),
        (("OFFSET", "K\u{1}"), "a view of its 1 numbers"),
        (("SHAPE", "(K\u{2}t"), "a view of its 1 numbers"),
        (("SHAPE", "(K\u{1}K\u{1}t"), "a view of its 1 numbers"),
        (("SHAPE", "K\u{1}"), "arguments of another kind"),
        (("SHAPE", "(Nt"), "arguments of another kind"),
        (("KEY", "K\0"), "isn't a storage"),
        (("KEY", "X\u{1}\0\0\u{0}1"), ""),
    ] {
        let pickle = tensor(&[changed]);
        refused(&archive(&[("f/data.pkl", &pickle), ("f/data/0", &[0; 4])]), &[words]);
        refused(&legacy(&pickle, STORAGE), &[]);
    }
    // Without steps one number fills any shape, but not more than the file allows.
    let huge = [("SHAPE", "(J\0\0\0\u{1}J\0\0\0\u{1}J\0\0\0\u{1}t"), ("STRIDE", "(K\0K\0K\0t")];
    refused_in_both(&tensor(&huge), &["a view of its 1 numbers"]);
    let large = [("SHAPE", "(J\0\0\0\u{1}J\0\0\u{1}\0t"), ("STRIDE", "(K\0K\0t")];
    refused_in_both(&tensor(&large), &["its tensors would have"]);
}

#[test]
fn damaged_archives_are_refused() {
    let whole = std::fs::read(input("mixed_deflated.pth")).unwrap();
    for length in [3, 30, 1000, whole.len() / 2, whole.len() - 1] {
        refused(&whole[..length], &[]);
    }
    let place =
        |name: &[u8], from: usize| from + whole[from..].windows(name.len()).position(|w| w == name).unwrap();
    // A flipped bit of compressed data, and of a checksum.
    let data = place(b"/data/0", 0) + 30;
    let directory = place(b"PK\x01\x02", 0);
    let entry = place(b"mixed/data/0", directory) - 46;
    for (at, words) in [(data, "damaged"), (entry + 16, "checksum")] {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("f.pth");
        std::fs::write(&file, bytes).unwrap();
        let (_, stderr) =
            expect(1, folder.path(), &["convert", "f.pth", "--out", "m", "--heads", "2", "--size", "16x8"]);
        assert_says(&stderr, &["f.pth", words]);
    }
    // Stored numbers are compared with their checksum, too.
    let mut bytes = std::fs::read(input("personvit_finetuned.pth")).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    refused(&bytes, &["checksum"]);
    let mut pickle = legacy(&tensor(&[]), b"\x80\x02]X\x01\0\0\x000a.");
    pickle.extend(u64::MAX.to_le_bytes());
    refused(&pickle, &["cut off"]);
    for (bytes, words) in [
        (archive(&[("a/b.txt", b"x")]), "torch.save didn't write it"),
        (archive(&[("a/data.pkl", b"x"), ("b/data.pkl", b"x")]), "torch.save didn't write it"),
        (archive(&[("a/data.pkl", b"\x80\x02}."), ("a/constants.pkl", b"\x80\x02).")]), "TorchScript"),
        (archive(&[("a/data.pkl", b"\x80\x02}."), ("a/byteorder", b"middle")]), "byte order"),
        (b"\x80\x02}X\x01\0\0\0aK\x01s.".to_vec(), "torch.save didn't write it"),
        (b"hello".to_vec(), "not a safetensors file"),
        (Vec::new(), "empty"),
    ] {
        refused(&bytes, &[words]);
    }
}
