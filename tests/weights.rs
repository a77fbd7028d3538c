//! Weights files, valid and damaged. Each error names the tensor, the expected and the found shape or type.

#[path = "common/goldens.rs"]
mod goldens;

use lat_wgpu::checkpoint::{Network, Settings, lat_wgpu_metadata, list, load, parameter_shapes};
use lat_wgpu::error::Error;
use lat_wgpu::shape::{
    Activation, GeltConfig, ImageSize, LambdaOn, Normalize, PartLayout, PartTokens, Preprocess, VitConfig,
};

/// Width of the files made here.
const D: usize = 8;
/// Hidden width.
const M: usize = 16;
/// Patch size.
const P: usize = 4;

/// A tensor to write.
#[derive(Clone)]
struct Tensor {
    name: String,
    dtype: &'static str,
    shape: Vec<usize>,
    data: Vec<u8>,
}

impl Tensor {
    fn f32(name: &str, shape: &[usize], values: &[f32]) -> Tensor {
        let data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Tensor { name: name.into(), dtype: "F32", shape: shape.to_vec(), data }
    }

    /// A tensor with values that differ by element and name, exact in f16 and bf16.
    fn made(name: &str, shape: &[usize]) -> Tensor {
        let seed = name.bytes().fold(7usize, |s, b| (s * 31 + b as usize) % 9973);
        let count: usize = shape.iter().product();
        let values: Vec<f32> = (0..count).map(|i| (((i * 37 + seed) % 255) as f32 - 127.0) / 128.0).collect();
        Tensor::f32(name, shape, &values)
    }

    fn values(&self) -> Vec<f32> {
        self.data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    }

    /// The same tensor in 16 bits.
    fn halved(&self, dtype: &'static str) -> Tensor {
        let bits = |v: f32| {
            if dtype == "F16" { half::f16::from_f32(v).to_bits() } else { half::bf16::from_f32(v).to_bits() }
        };
        let data = self.values().into_iter().flat_map(|v| bits(v).to_le_bytes()).collect();
        Tensor { dtype, data, ..self.clone() }
    }
}

/// The bytes of a file with these tensors in this order, and this `lat_wgpu` entry.
fn file(tensors: &[Tensor], entry: Option<&str>) -> Vec<u8> {
    let mut parts = Vec::new();
    if let Some(text) = entry {
        parts.push(format!(r#""__metadata__":{{"lat_wgpu":{}}}"#, serde_json::to_string(text).unwrap()));
    }
    let mut at = 0;
    for t in tensors {
        let end = at + t.data.len();
        parts.push(format!(
            r#""{}":{{"dtype":"{}","shape":{:?},"data_offsets":[{at},{end}]}}"#,
            t.name, t.dtype, t.shape
        ));
        at = end;
    }
    let header = format!("{{{}}}", parts.join(","));
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(tensors.iter().flat_map(|t| &t.data));
    bytes
}

fn load_bytes(bytes: &[u8], settings: &Settings) -> Result<Network, Error> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    std::fs::write(&path, bytes).unwrap();
    load(&path, settings)
}

/// Settings with two heads, since the width is too small for the built-in rule.
fn two_heads() -> Settings {
    Settings { heads: Some(2), ..Settings::default() }
}

fn load_ok(tensors: &[Tensor], entry: Option<&str>, settings: &Settings) -> Network {
    load_bytes(&file(tensors, entry), settings).unwrap_or_else(|e| panic!("{e}"))
}

/// Asserts that a file is refused with each of the words in the message.
fn refused(bytes: &[u8], settings: &Settings, words: &[&str]) -> Error {
    match load_bytes(bytes, settings) {
        Ok(_) => panic!("not refused: {words:?}"),
        Err(e) => {
            let text = e.to_string();
            assert!(words.iter().all(|w| text.contains(w)), "{text:?} lacks one of {words:?}");
            e
        }
    }
}

fn config() -> VitConfig {
    VitConfig { mlp_hidden: M, ..VitConfig::plain(ImageSize::square(3 * P), P, D, 2, 2) }
}

/// Every tensor of `config`, in timm's names.
fn vit(config: &VitConfig) -> Vec<Tensor> {
    parameter_shapes(config).iter().map(|(name, shape)| Tensor::made(name, shape)).collect()
}

fn plain() -> Vec<Tensor> {
    vit(&config())
}

fn position(tensors: &[Tensor], name: &str) -> usize {
    tensors.iter().position(|t| t.name == name).unwrap_or_else(|| panic!("no {name}"))
}

fn with(mut tensors: Vec<Tensor>, more: &[(&str, &[usize])]) -> Vec<Tensor> {
    tensors.extend(more.iter().map(|(name, shape)| Tensor::made(name, shape)));
    tensors
}

/// Asserts that the network holds exactly these tensors.
fn assert_holds(network: &Network, tensors: &[Tensor]) {
    assert_eq!(network.tensors.len(), tensors.len());
    for t in tensors {
        let found = &network.tensors[&t.name];
        assert_eq!((&found.shape, &found.data), (&t.shape, &t.values()), "{}", t.name);
    }
}

// Valid files.

#[test]
fn a_timm_file_is_read_unchanged() {
    let network = load_ok(&plain(), None, &two_heads());
    assert_eq!(network.config, config());
    assert_holds(&network, &plain());
    assert_eq!(network.notes, Vec::<String>::new());
    assert_eq!(network.preprocess.size, ImageSize::square(12));
    assert_eq!((network.preprocess.mean, network.preprocess.std), Normalize::Imagenet.mean_std());
}

#[test]
fn half_precision_files_give_the_same_values() {
    for dtype in ["F16", "BF16"] {
        let halved: Vec<Tensor> = plain().iter().map(|t| t.halved(dtype)).collect();
        assert_holds(&load_ok(&halved, None, &two_heads()), &plain());
    }
}

#[test]
fn options_are_recognised_by_their_tensors() {
    let clip =
        VitConfig { patch_bias: false, norm_pre: true, act: Activation::QuickGelu, ln_eps: 1e-5, ..config() };
    let network = load_ok(&vit(&clip), None, &two_heads());
    assert_eq!(network.config, clip);
    assert!(network.notes[0].contains("quick-GELU"), "{:?}", network.notes);
    let exact = Settings { act: Some(Activation::Gelu), ln_eps: Some(1e-6), ..two_heads() };
    let network = load_ok(&vit(&clip), None, &exact);
    assert_eq!((network.config.act, network.config.ln_eps), (Activation::Gelu, 1e-6));

    for other in [
        VitConfig { dist_token: true, prefix_rows: 2, ..config() },
        VitConfig { registers: 3, prefix_rows: 4, ..config() },
        VitConfig { registers: 3, ..config() },
        VitConfig { layer_scale: true, depth: 1, ..config() },
    ] {
        let network = load_ok(&vit(&other), None, &two_heads());
        assert_eq!(network.config, other);
        assert_holds(&network, &vit(&other));
        assert_eq!(other.layer_scale, network.notes.iter().any(|n| n.contains("LayerScale")));
    }
}

#[test]
fn heads_come_from_the_width_or_the_flag() {
    let wide = VitConfig { dim: 64, heads: 1, ..config() };
    assert_eq!(load_ok(&vit(&wide), None, &Settings::default()).config.heads, 1);
    let error = refused(&file(&plain(), None), &Settings::default(), &["--heads", "8"]);
    assert_eq!(error.exit_code(), 2);
    for heads in [0, 3, 4] {
        let settings = Settings { heads: Some(heads), ..Settings::default() };
        refused(&file(&plain(), None), &settings, &["--heads"]);
    }
}

#[test]
fn impossible_settings_are_bad_usage() {
    let size = |height, width| Settings { size: Some(ImageSize { height, width }), ..two_heads() };
    for (settings, word) in [
        (size(3, 8), "--size"),
        (size(8, 3), "--size"),
        (size(16_385, 8), "--size"),
        (Settings { stride: Some(0), ..two_heads() }, "--stride"),
        (Settings { stride: Some(5), ..two_heads() }, "--stride"),
        (Settings { lambda: Some(-1.0), ..two_heads() }, "--lambda"),
        (Settings { lambda: Some(f32::NAN), ..two_heads() }, "--lambda"),
        (Settings { ln_eps: Some(0.0), ..two_heads() }, "--ln-eps"),
    ] {
        assert_eq!(refused(&file(&plain(), None), &settings, &[word]).exit_code(), 2);
    }
    let huge = Settings { stride: Some(1), ..size(16_384, 16_384) };
    assert!(matches!(refused(&file(&plain(), None), &huge, &["tokens"]), Error::TooLarge(_)));
}

#[test]
fn position_table_is_resized_for_another_grid() {
    let settings = Settings { size: Some(ImageSize { height: 24, width: 12 }), ..two_heads() };
    let network = load_ok(&plain(), None, &settings);
    assert_eq!((network.config.grid(), network.config.tokens()), ((6, 3), 19));
    let (new, old) = (&network.tensors["pos_embed"], Tensor::made("pos_embed", &[1, 10, D]).values());
    assert_eq!(new.shape, [1, 19, D]);
    assert_eq!(new.data[..D], old[..D], "the class token's row");
    assert!(
        network.notes.contains(&"position table resized from 3x3 to 6x3".to_string()),
        "{:?}",
        network.notes
    );

    let overlapping = Settings { stride: Some(2), ..two_heads() };
    assert_eq!(load_ok(&plain(), None, &overlapping).config.grid(), (5, 5));
}

#[test]
fn registers_may_have_no_row() {
    for prefix_rows in [3, 1, 0] {
        let registers = VitConfig { registers: 2, prefix_rows, ..config() };
        let network = load_ok(&vit(&registers), None, &two_heads());
        assert_eq!(network.config, registers);
        assert_holds(&network, &vit(&registers));
        assert_eq!(network.tensors["pos_embed"].shape, [1, prefix_rows + 9, D]);

        // Our own files hold their grid.
        let narrow = VitConfig { image: ImageSize { height: 12, width: 8 }, ..registers };
        let preprocess = Preprocess::new(narrow.image, Normalize::Imagenet.mean_std());
        let entry = lat_wgpu_metadata(&narrow, &preprocess, None);
        let network = load_ok(&vit(&narrow), Some(entry.text()), &Settings::default());
        assert_eq!(network.config, narrow);
        assert_holds(&network, &vit(&narrow));
    }
}

#[test]
fn a_position_table_that_is_no_square_needs_the_size() {
    let narrow = VitConfig { image: ImageSize { height: 12, width: 8 }, ..config() };
    refused(&file(&vit(&narrow), None), &two_heads(), &["7 rows", "--size HxW"]);
    let settings = Settings { size: Some(narrow.image), ..two_heads() };
    assert_holds(&load_ok(&vit(&narrow), None, &settings), &vit(&narrow));
    let other = Settings { size: Some(ImageSize::square(16)), ..two_heads() };
    refused(&file(&vit(&narrow), None), &other, &["pos_embed", "4x4", "[1, 7, 8]"]);
}

#[test]
fn classification_heads_and_unknown_tensors_are_ignored_with_a_note() {
    let more: [(&str, &[usize]); 4] =
        [("head.weight", &[5, D]), ("head.bias", &[5]), ("mask_token", &[1, D]), ("state.step", &[1])];
    let network = load_ok(&with(plain(), &more), None, &two_heads());
    assert_holds(&network, &plain());
    assert_eq!(
        network.notes,
        [
            "classification head ignored: head.weight, head.bias",
            "not part of the network, ignored: mask_token"
        ]
    );
    // Ignored tensors are not converted.
    let odd = Tensor { dtype: "X7", ..Tensor::made("head.weight", &[3]) };
    assert_holds(&load_ok(&[plain(), vec![odd]].concat(), None, &two_heads()), &plain());
}

// Other names.

/// The plain network with LayerNorm before block 0, as in CLIP.
fn clip() -> VitConfig {
    VitConfig { patch_bias: false, norm_pre: true, act: Activation::QuickGelu, ln_eps: 1e-5, ..config() }
}

/// Renames and reshapes the tensors of `config` to another scheme. `split` names the three pieces of the fused query,
/// key and value.
fn renamed(
    config: &VitConfig,
    renames: &[(&str, &str)],
    flat: bool,
    split: Option<[&str; 3]>,
) -> Vec<Tensor> {
    let mut out = Vec::new();
    for mut t in vit(config) {
        if flat {
            t.shape.drain(..t.shape.iter().take_while(|&&n| n == 1).count());
        }
        let original = t.name.clone();
        for (from, to) in renames {
            if original.contains(from) {
                t.name = t.name.replace(from, to);
            }
        }
        match split.filter(|_| original.contains("attn.qkv")) {
            None => out.push(t),
            Some(words) => {
                let part = t.data.len() / 3;
                for (i, word) in words.iter().enumerate() {
                    let mut third = t.clone();
                    third.name = t.name.replace("QKV", word);
                    third.shape[0] /= 3;
                    third.data = t.data[i * part..(i + 1) * part].to_vec();
                    out.push(third);
                }
            }
        }
    }
    // The order of tensors in a file is irrelevant.
    out.reverse();
    out
}

#[test]
fn openai_clip_is_mapped() {
    for prefix in ["visual.", ""] {
        let p = |name: &str| format!("{prefix}{name}");
        let pairs = [
            ("patch_embed.proj", p("conv1")),
            ("cls_token", p("class_embedding")),
            ("pos_embed", p("positional_embedding")),
            ("norm_pre", p("ln_pre")),
            ("blocks.", p("transformer.resblocks.")),
            (".norm1", ".ln_1".into()),
            (".norm2", ".ln_2".into()),
            ("attn.qkv.", "attn.in_proj_".into()),
            ("attn.proj", "attn.out_proj".into()),
            ("mlp.fc1", "mlp.c_fc".into()),
            ("mlp.fc2", "mlp.c_proj".into()),
            ("norm.", p("ln_post.")),
        ];
        let pairs: Vec<(&str, &str)> = pairs.iter().map(|(a, b)| (*a, b.as_str())).collect();
        let tower = renamed(&clip(), &pairs, true, None);
        let projection = p("proj");
        let mut more: Vec<(&str, &[usize])> = vec![(&projection, &[D, 4])];
        if !prefix.is_empty() {
            more.push(("transformer.resblocks.0.ln_1.weight", &[4]));
            more.push(("positional_embedding", &[77, 4]));
            more.push(("logit_scale", &[]));
        }
        let network = load_ok(&with(tower, &more), None, &two_heads());
        assert_eq!(network.config, clip());
        assert_holds(&network, &vit(&clip()));
        assert!(network.notes[0].contains("OpenAI CLIP"), "{:?}", network.notes);
    }
}

const HF_CLIP: [(&str, &str); 12] = [
    ("patch_embed.proj", "vision_model.embeddings.patch_embedding"),
    ("cls_token", "vision_model.embeddings.class_embedding"),
    ("pos_embed", "vision_model.embeddings.position_embedding.weight"),
    ("norm_pre", "vision_model.pre_layrnorm"),
    ("blocks.", "vision_model.encoder.layers."),
    (".norm1", ".layer_norm1"),
    (".norm2", ".layer_norm2"),
    ("attn.qkv", "self_attn.QKV"),
    (".attn.proj", ".self_attn.out_proj"),
    ("mlp.fc1", "mlp.fc1"),
    ("mlp.fc2", "mlp.fc2"),
    ("norm.", "vision_model.post_layernorm."),
];

fn hf_clip() -> Vec<Tensor> {
    renamed(&clip(), &HF_CLIP, true, Some(["q_proj", "k_proj", "v_proj"]))
}

#[test]
fn hugging_face_clip_is_mapped() {
    let more: [(&str, &[usize]); 4] = [
        ("vision_model.embeddings.position_ids", &[1, 10]),
        ("visual_projection.weight", &[4, D]),
        ("text_model.encoder.layers.0.self_attn.q_proj.weight", &[4, 4]),
        ("logit_scale", &[]),
    ];
    let network = load_ok(&with(hf_clip(), &more), None, &two_heads());
    assert_eq!(network.config, clip());
    assert_holds(&network, &vit(&clip()));
}

#[test]
fn a_bad_piece_of_the_fused_projection_is_named() {
    let name = "vision_model.encoder.layers.1.self_attn.k_proj.weight";
    let mut tensors = hf_clip();
    let at = position(&tensors, name);
    tensors[at] = Tensor::made(name, &[D, D + 1]);
    refused(&file(&tensors, None), &two_heads(), &[name, "[8, 8]", "[8, 9]"]);
    tensors.remove(at);
    refused(&file(&tensors, None), &two_heads(), &["blocks.1.attn.qkv.weight", "key", "no such tensor"]);
}

#[test]
fn both_kinds_of_dinov2_are_mapped() {
    let dino = VitConfig { layer_scale: true, registers: 2, ..config() };
    for prefix in ["", "dinov2.", "dinov2_with_registers."] {
        let p = |name: &str| format!("{prefix}{name}");
        let pairs = [
            ("patch_embed.proj", p("embeddings.patch_embeddings.projection")),
            ("cls_token", p("embeddings.cls_token")),
            ("reg_token", p("embeddings.register_tokens")),
            ("pos_embed", p("embeddings.position_embeddings")),
            ("blocks.", p("encoder.layer.")),
            ("attn.qkv", "attention.attention.QKV".into()),
            (".attn.proj", ".attention.output.dense".into()),
            ("ls1.gamma", "layer_scale1.lambda1".into()),
            ("ls2.gamma", "layer_scale2.lambda1".into()),
            ("norm.", p("layernorm.")),
        ];
        let pairs: Vec<(&str, &str)> = pairs.iter().map(|(a, b)| (*a, b.as_str())).collect();
        let tower = renamed(&dino, &pairs, false, Some(["query", "key", "value"]));
        let mask = p("embeddings.mask_token");
        let network = load_ok(
            &with(tower, &[(mask.as_str(), &[1, D]), ("classifier.weight", &[5, D])]),
            None,
            &two_heads(),
        );
        assert_eq!(network.config, dino);
        assert_holds(&network, &vit(&dino));
    }

    let meta = renamed(&dino, &[("reg_token", "register_tokens")], false, None);
    assert_holds(&load_ok(&with(meta, &[("mask_token", &[1, D])]), None, &two_heads()), &vit(&dino));
    let chunked = renamed(&dino, &[("blocks.1.", "blocks.1.1."), ("blocks.0.", "blocks.0.0.")], false, None);
    assert_holds(&load_ok(&chunked, None, &two_heads()), &vit(&dino));
}

// Metadata.

#[test]
fn metadata_round_trips() {
    let own = VitConfig {
        // 36 positions that are no square, which only the metadata says.
        image: ImageSize { height: 9 * P, width: 4 * P },
        act: Activation::QuickGelu,
        ln_eps: 3e-5,
        gelt: GeltConfig {
            lambda: 8.0,
            lambda_on: LambdaOn::Local,
            tokens: PartTokens::Global,
            parts: PartLayout::One,
        },
        ..config()
    };
    let preprocess = Preprocess::new(own.image, Normalize::Clip.mean_std());
    let names = ["0002".to_string(), "0007 \"x\"".to_string()];
    let entry = lat_wgpu_metadata(&own, &preprocess, Some(&names));
    let classifiers: [(&str, &[usize]); 3] =
        [("heads.0.fc1.weight", &[4, D]), ("heads.0.bn.running_var", &[4]), ("heads.0.fc2.weight", &[2, 4])];
    let network = load_ok(&with(vit(&own), &classifiers), Some(entry.text()), &Settings::default());
    assert_eq!((&network.config, &network.preprocess), (&own, &preprocess));
    assert_eq!(network.class_names.as_deref(), Some(&names[..]));
    assert_holds(&network, &vit(&own));
    assert_eq!(network.classifiers.len(), 3);
    for (name, shape) in classifiers {
        assert_eq!(network.classifiers[name].data, Tensor::made(name, shape).values());
    }
    assert_eq!(network.notes, Vec::<String>::new());
}

#[test]
fn flags_override_metadata_with_a_note() {
    let entry = r#"{"format":1,"later":true,"model":{"heads":1,"act":"quick_gelu","gelt":{"lambda":8}},
        "preprocess":{"size":[24,12],"interpolation":"bilinear","mean":[0.5,0.5,0.5],"std":[0.5,0.5,0.5]}}"#;
    let noted = load_ok(&plain(), Some(entry), &Settings::default());
    assert_eq!((noted.config.heads, noted.config.act), (1, Activation::QuickGelu));
    assert_eq!((noted.config.image, noted.config.gelt.lambda), (ImageSize { height: 24, width: 12 }, 8.0));
    assert_eq!((noted.preprocess.mean, noted.preprocess.interpolation.as_str()), ([0.5; 3], "bicubic"));
    assert!(noted.notes.iter().any(|n| n.contains("bilinear")), "{:?}", noted.notes);

    let flags = Settings {
        size: Some(ImageSize::square(12)),
        act: Some(Activation::QuickGelu),
        normalize: Some(Normalize::Clip),
        lambda: Some(0.5),
        ..two_heads()
    };
    let network = load_ok(&plain(), Some(entry), &flags);
    assert_eq!((network.config.heads, network.config.gelt.lambda), (2, 0.5));
    assert_eq!(network.preprocess.mean, Normalize::Clip.mean_std().0);
    let noted = |word: &str| network.notes.iter().any(|n| n.starts_with(word));
    for (flag, expected) in [
        ("--size 12x12", true),
        ("--heads 2", true),
        ("--normalize", true),
        ("--lambda 0.5", true),
        ("--act", false),
    ] {
        assert_eq!(noted(flag), expected, "{flag}: {:?}", network.notes);
    }
}

#[test]
fn damaged_metadata_is_refused() {
    for (entry, word) in [
        (r#"{"format":2}"#, "format 2"),
        ("oops", "entry lat_wgpu"),
        (r#"{"model":{"grid":[5,5]}}"#, "pos_embed"),
        (r#"{"preprocess":{"std":[0,1,1]}}"#, "deviation"),
    ] {
        refused(&file(&plain(), Some(entry)), &two_heads(), &[word]);
    }
}

// Damage.

#[test]
fn every_missing_tensor_is_named_with_its_shape() {
    // Without these the file is a valid network of another kind.
    let optional = ["patch_embed.proj.bias"];
    for (name, shape) in parameter_shapes(&config()) {
        if optional.contains(&name.as_str()) {
            continue;
        }
        let rest: Vec<Tensor> = plain().into_iter().filter(|t| t.name != name).collect();
        let last = format!("{}]", shape[shape.len() - 1]);
        let generic =
            ["patch_embed.proj.weight", "pos_embed", "blocks.0.mlp.fc1.weight"].contains(&name.as_str());
        let expected = if generic { "D" } else { last.as_str() };
        let error = refused(&file(&rest, None), &two_heads(), &[&name, expected, "found no such tensor"]);
        assert!(matches!(&error, Error::Tensor { tensor, .. } if *tensor == name));
        assert_eq!(error.exit_code(), 1);
    }
}

#[test]
fn every_misshaped_tensor_is_named_with_both_shapes() {
    for (name, shape) in parameter_shapes(&config()) {
        let mut wrong = shape.clone();
        let last = wrong.len() - 1;
        wrong[last] += 1;
        let mut tensors = plain();
        let at = position(&tensors, &name);
        tensors[at] = Tensor::made(&name, &wrong);
        let found = format!("F32 {wrong:?}");
        let error = refused(&file(&tensors, None), &two_heads(), &["expected F32, F16 or BF16 [", &found]);
        assert!(matches!(&error, Error::Tensor { tensor, .. } if *tensor == name), "{name}: {error}");
    }
}

#[test]
fn patches_of_another_kind_are_refused() {
    for wrong in [[D, 1, P, P], [D, 4, P, P], [D, 3, P, P + 1], [0, 3, P, P], [D, 3, 0, 0]] {
        let mut tensors = plain();
        tensors[0] = Tensor::made("patch_embed.proj.weight", &wrong);
        refused(&file(&tensors, None), &two_heads(), &["patch_embed.proj.weight", "[D, 3, P, P]"]);
    }
    let mut tensors = plain();
    tensors[0] = Tensor::made("patch_embed.proj.weight", &[D, 3 * P * P]);
    refused(&file(&tensors, None), &two_heads(), &["patch_embed.proj.weight", "[8, 48]"]);
}

#[test]
fn a_gap_between_the_blocks_is_named() {
    let three = VitConfig { depth: 3, ..config() };
    let rest: Vec<Tensor> = vit(&three).into_iter().filter(|t| !t.name.starts_with("blocks.1.")).collect();
    refused(&file(&rest, None), &two_heads(), &["blocks.1.norm1.weight", "[8]", "no such tensor"]);
    let absurd = with(plain(), &[("blocks.99999999999.norm1.weight", &[D])]);
    refused(&file(&absurd, None), &two_heads(), &["blocks.2.norm1.weight", "no such tensor"]);
    let none: Vec<Tensor> = plain().into_iter().filter(|t| !t.name.starts_with("blocks.")).collect();
    refused(&file(&none, None), &two_heads(), &["blocks.0.norm1.weight", "no such tensor"]);
}

#[test]
fn a_truncated_file_is_refused() {
    let bytes = file(&plain(), None);
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let starts: Vec<usize> = (0..bytes.len()).step_by(97).collect();
    for cut in starts.into_iter().chain([0, 1, 7, 8, 9, 8 + header - 1, 8 + header, bytes.len() - 1]) {
        let error = refused(&bytes[..cut], &two_heads(), &["model.safetensors"]);
        match error {
            Error::Weights { .. } => assert!(cut < 8 + header, "{cut}: {error}"),
            Error::Tensor { .. } => {
                let text = error.to_string();
                assert!(
                    cut >= 8 + header && text.contains("in bytes") && text.contains("truncated"),
                    "{text}"
                );
            }
            other => panic!("{cut}: {other}"),
        }
    }
    // The first incomplete tensor is named.
    let last = plain().pop().unwrap().name;
    refused(&bytes[..bytes.len() - 1], &two_heads(), &[&format!("tensor {last}:")]);
}

#[test]
fn duplicates_are_named() {
    let twice = [plain(), vec![Tensor::made("norm.weight", &[D])]].concat();
    refused(&file(&twice, None), &two_heads(), &["tensor norm.weight", "one tensor", "duplicate"]);
    // Two names of the same tensor.
    let registers = VitConfig { registers: 2, ..config() };
    let both = with(vit(&registers), &[("register_tokens", &[1, 2, D])]);
    refused(
        &file(&both, None),
        &two_heads(),
        &["tensor register_tokens", "one tensor for reg_token", "duplicate"],
    );
    let zero = with(plain(), &[("blocks.00.norm1.weight", &[D])]);
    refused(&file(&zero, None), &two_heads(), &["blocks.0.norm1.weight", "duplicate"]);
    let fused = with(plain(), &[("blocks.0.attn.q.weight", &[D, D])]);
    refused(&file(&fused, None), &two_heads(), &["blocks.0.attn.q.weight", "duplicate"]);
}

#[test]
fn values_that_are_not_finite_are_named_with_their_index() {
    for (name, value, what) in [
        ("blocks.1.attn.proj.weight", f32::NAN, "NaN at index [2, 3]"),
        ("blocks.1.attn.proj.weight", f32::INFINITY, "infinity at index [2, 3]"),
        ("blocks.1.attn.proj.weight", f32::NEG_INFINITY, "infinity at index [2, 3]"),
        ("pos_embed", f32::NAN, "NaN at index [0, 2, 3]"),
    ] {
        let mut tensors = plain();
        let at = position(&tensors, name);
        let mut values = tensors[at].values();
        values[2 * D + 3] = value;
        tensors[at] = Tensor::f32(name, &tensors[at].shape, &values);
        refused(&file(&tensors, None), &two_heads(), &[name, "expected finite values", what]);
        for dtype in ["F16", "BF16"] {
            let halved: Vec<Tensor> = tensors.iter().map(|t| t.halved(dtype)).collect();
            refused(&file(&halved, None), &two_heads(), &[name, "expected finite values", what]);
        }
    }
    // An unused tensor may hold any values.
    let odd = Tensor::f32("head.weight", &[1], &[f32::NAN]);
    load_ok(&[plain(), vec![odd]].concat(), None, &two_heads());
}

#[test]
fn other_element_types_are_refused_in_used_tensors() {
    for (dtype, width) in [("F64", 8), ("I32", 4), ("F8_E4M3", 1), ("X7", 3)] {
        let mut tensors = plain();
        let at = position(&tensors, "blocks.0.norm2.bias");
        tensors[at] = Tensor { dtype, data: vec![0; D * width], ..tensors[at].clone() };
        refused(&file(&tensors, None), &two_heads(), &["blocks.0.norm2.bias", "F32, F16 or BF16 [8]", dtype]);
    }
}

#[test]
fn tensors_that_would_change_the_network_are_refused() {
    for name in [
        "fc_norm.weight",
        "blocks.0.attn.q_norm.weight",
        "blocks.1.attn.k_norm.weight",
        "blocks.0.mlp.w12.weight",
        "rope.freqs",
        "blocks.0.norm3.weight",
    ] {
        refused(
            &file(&with(plain(), &[(name, &[D])]), None),
            &two_heads(),
            &[name, "plain pre-norm ViT", "[8]"],
        );
    }
}

#[test]
fn a_false_header_is_refused() {
    let sound = file(&plain(), None);
    let header = u64::from_le_bytes(sound[..8].try_into().unwrap());
    for lie in [0, 1, header - 1, header + 1, sound.len() as u64, 1 << 40, u64::MAX] {
        let mut bytes = sound.clone();
        bytes[..8].copy_from_slice(&lie.to_le_bytes());
        refused(&bytes, &two_heads(), &["model.safetensors"]);
    }
    let mut long = 16_000_001u64.to_le_bytes().to_vec();
    long.resize(17_000_000, b' ');
    refused(&long, &two_heads(), &["16000001 bytes", "16000000"]);
    let mut tail = sound.clone();
    tail.push(0);
    refused(&tail, &two_heads(), &["1 bytes after norm.bias belong to no tensor"]);
}

#[test]
fn garbage_is_refused() {
    let noise: Vec<u8> = (0..4096u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for bytes in [&b""[..], b"x", b"hello, world: no weights in here", &noise, &[0u8; 64]] {
        let error = refused(bytes, &two_heads(), &["model.safetensors", "not a safetensors file"]);
        assert!(matches!(error, Error::Weights { .. }));
    }
    refused(b"PK\x03\x04 and so on, as an archive begins", &two_heads(), &["PyTorch"]);
    // Flipped bits must never cause a panic.
    let sound = file(&plain(), None);
    for at in (0..sound.len().min(4000)).step_by(7) {
        let mut bytes = sound.clone();
        bytes[at] ^= 1 << (at % 8);
        let _ = load_bytes(&bytes, &two_heads());
    }
}

#[test]
fn a_missing_file_and_a_folder_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    for path in [dir.path().join("none.safetensors"), dir.path().to_path_buf()] {
        let error = load(&path, &two_heads()).unwrap_err();
        assert!(matches!(error, Error::Io { .. } | Error::Weights { .. }), "{error}");
    }
}

#[test]
fn list_shows_every_tensor_and_the_metadata() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    std::fs::write(&path, file(&plain(), Some("{}"))).unwrap();
    let (tensors, metadata) = list(&path).unwrap();
    assert_eq!(tensors.len(), plain().len());
    let (first, bytes) = (&tensors[0], (D * 3 * P * P * 4) as u64);
    assert_eq!((first.name.as_str(), first.dtype.as_str()), ("patch_embed.proj.weight", "F32"));
    assert_eq!((first.shape.as_slice(), first.bytes), (&[D, 3, P, P][..], bytes));
    assert_eq!(metadata["lat_wgpu"], "{}");
}

// The models of the goldens.

#[test]
fn golden_models_load_with_the_shapes_of_their_goldens() {
    for (model, golden) in goldens::pairs() {
        let (tensors, metadata) = list(&golden).unwrap();
        let settings = goldens::settings(&metadata);
        let network = load(&model, &settings).unwrap_or_else(|e| panic!("{e}"));
        let shape = |name: &str| &tensors.iter().find(|t| t.name == name).unwrap().shape;
        let config = &network.config;
        println!("{}: {:?}", golden.file_name().unwrap().display(), network.notes);
        if tensors.iter().any(|t| t.name == "images") {
            assert_eq!(shape("images")[1..], [config.image.height, config.image.width, 3]);
        }
        assert_eq!(shape("tokens")[1..], [config.tokens(), config.dim], "{}", golden.display());
        assert_eq!(shape("embedding")[1], config.embedding_len(), "{}", golden.display());
    }
}
