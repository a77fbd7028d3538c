//! What each name in a file means: timm's names as they stand, CLIP's and DINOv2's brought to timm's.

use std::collections::BTreeMap;
use std::path::Path;

use super::safetensors::{Container, FileTensor};
use crate::error::{Error, Result};

/// Where the values of one parameter lie in the file: indices into the container's tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// One tensor.
    Whole(usize),
    /// Query, key and value apart; they are stacked in this order.
    Qkv([Option<usize>; 3]),
}

/// A file's tensors, sorted by what they are for.
#[derive(Debug, Default)]
pub(super) struct Sorted {
    /// Backbone parameters under timm's names.
    pub(super) parameters: BTreeMap<String, Source>,
    /// Part classifiers (`heads.{i}.…`).
    pub(super) classifiers: BTreeMap<String, usize>,
    /// What the user should know.
    pub(super) notes: Vec<String>,
}

/// What is done with one tensor.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    /// Belongs to the backbone, under this timm name.
    Parameter(String),
    /// One of query (0), key (1), value (2), to be stacked under this timm name.
    Part(String, usize),
    /// Belongs to a part classifier.
    Classifier,
    /// State of a training run, of no use here.
    State,
    /// Not part of the network.
    Ignored(Ignored),
    /// Would change the network; the reason says how.
    Refused(&'static str),
}

/// Kinds of tensors that are left out, each told in its own note.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Ignored {
    Head,
    Projection,
    Text,
    Other,
}

/// Renames of modules: a name that equals the first word, or continues it after a dot, gets the second.
type Renames = &'static [(&'static str, &'static str)];

/// One way of naming a ViT.
struct Scheme {
    /// What the names are called in a note; None for timm's own.
    label: Option<&'static str>,
    /// Stands before each name of the image tower.
    prefix: String,
    /// Renames outside the blocks.
    top: Renames,
    /// Stands before the number of a block.
    blocks: &'static str,
    /// Renames inside a block.
    inner: Renames,
}

// DINOv2 as published uses timm's names save for the registers.
const TIMM_TOP: Renames = &[("register_tokens", "reg_token")];

const OPENAI_TOP: Renames = &[
    ("conv1", "patch_embed.proj"),
    ("class_embedding", "cls_token"),
    ("positional_embedding", "pos_embed"),
    ("ln_pre", "norm_pre"),
    ("ln_post", "norm"),
];
const OPENAI_INNER: Renames = &[
    ("ln_1", "norm1"),
    ("attn.in_proj_weight", "attn.qkv.weight"),
    ("attn.in_proj_bias", "attn.qkv.bias"),
    ("attn.out_proj", "attn.proj"),
    ("ls_1", "ls1"),
    ("ln_2", "norm2"),
    ("mlp.c_fc", "mlp.fc1"),
    ("mlp.c_proj", "mlp.fc2"),
    ("ls_2", "ls2"),
];

// "pre_layrnorm" is how those files spell it.
const HF_CLIP_TOP: Renames = &[
    ("embeddings.class_embedding", "cls_token"),
    ("embeddings.patch_embedding", "patch_embed.proj"),
    ("embeddings.position_embedding.weight", "pos_embed"),
    ("pre_layrnorm", "norm_pre"),
    ("post_layernorm", "norm"),
];
const HF_CLIP_INNER: Renames = &[
    ("layer_norm1", "norm1"),
    ("self_attn.q_proj", "attn.q"),
    ("self_attn.k_proj", "attn.k"),
    ("self_attn.v_proj", "attn.v"),
    ("self_attn.out_proj", "attn.proj"),
    ("layer_norm2", "norm2"),
    ("mlp.fc1", "mlp.fc1"),
    ("mlp.fc2", "mlp.fc2"),
];

const HF_DINO_TOP: Renames = &[
    ("embeddings.cls_token", "cls_token"),
    ("embeddings.register_tokens", "reg_token"),
    ("embeddings.position_embeddings", "pos_embed"),
    ("embeddings.patch_embeddings.projection", "patch_embed.proj"),
    ("layernorm", "norm"),
];
const HF_DINO_INNER: Renames = &[
    ("norm1", "norm1"),
    ("attention.attention.query", "attn.q"),
    ("attention.attention.key", "attn.k"),
    ("attention.attention.value", "attn.v"),
    ("attention.output.dense", "attn.proj"),
    ("layer_scale1.lambda1", "ls1.gamma"),
    ("norm2", "norm2"),
    ("mlp.fc1", "mlp.fc1"),
    ("mlp.fc2", "mlp.fc2"),
    ("layer_scale2.lambda1", "ls2.gamma"),
];

/// Every parameter outside the blocks, in timm's names.
const TOP_PARAMETERS: [&str; 10] = [
    "patch_embed.proj.weight",
    "patch_embed.proj.bias",
    "cls_token",
    "dist_token",
    "reg_token",
    "pos_embed",
    "norm_pre.weight",
    "norm_pre.bias",
    "norm.weight",
    "norm.bias",
];

/// Every parameter of a block, in timm's names.
const BLOCK_PARAMETERS: [&str; 14] = [
    "norm1.weight",
    "norm1.bias",
    "attn.qkv.weight",
    "attn.qkv.bias",
    "attn.proj.weight",
    "attn.proj.bias",
    "ls1.gamma",
    "norm2.weight",
    "norm2.bias",
    "mlp.fc1.weight",
    "mlp.fc1.bias",
    "mlp.fc2.weight",
    "mlp.fc2.bias",
    "ls2.gamma",
];

/// What a word inside a name gives away about a network that is not a plain pre-norm ViT.
const TELLTALES: [(&str, &str); 14] = [
    ("fc_norm", "a norm after average pooling"),
    ("q_norm", "normalised queries"),
    ("k_norm", "normalised keys"),
    ("w12", "a gated MLP"),
    ("w3", "a gated MLP"),
    ("weights_in", "a gated MLP"),
    ("weights_out", "a gated MLP"),
    ("rope", "rotary positions"),
    ("attn_pool", "attention pooling"),
    ("rel_pos", "relative positions"),
    ("relative_position", "relative positions"),
    ("gamma_1", "a BEiT"),
    ("gamma_2", "a BEiT"),
    ("q_bias", "a BEiT"),
];

/// Sorts the tensors of a file by name alone.
///
/// # Errors
/// [`Error::Tensor`] for a tensor that would change the network, or two that mean the same parameter.
pub(super) fn sort(path: &Path, container: &Container) -> Result<Sorted> {
    let scheme = Scheme::of(&container.tensors);
    let mut sorted = Sorted::default();
    let mut ignored: BTreeMap<Ignored, Vec<&str>> = BTreeMap::new();
    for (index, tensor) in container.tensors.iter().enumerate() {
        let fault = |expected: String, found: String| Error::Tensor {
            path: path.to_path_buf(),
            tensor: tensor.name.clone(),
            expected,
            found,
        };
        let duplicate = |name: &str| fault(format!("one tensor for {name}"), "a duplicate".into());
        match scheme.fate(&tensor.name) {
            Fate::Parameter(name) => {
                if sorted.parameters.contains_key(&name) {
                    return Err(duplicate(&name));
                }
                sorted.parameters.insert(name, Source::Whole(index));
            }
            Fate::Part(name, part) => {
                match sorted.parameters.entry(name.clone()).or_insert(Source::Qkv([None; 3])) {
                    Source::Qkv(parts) if parts[part].is_none() => parts[part] = Some(index),
                    _ => return Err(duplicate(&name)),
                }
            }
            Fate::Classifier => {
                sorted.classifiers.insert(tensor.name.clone(), index);
            }
            Fate::State => {}
            Fate::Ignored(kind) => ignored.entry(kind).or_default().push(&tensor.name),
            Fate::Refused(reason) => {
                return Err(fault(format!("a plain pre-norm ViT without it ({reason})"), tensor.describe()));
            }
        }
    }
    if let Some(label) = scheme.label {
        sorted.notes.push(format!("names mapped from {label} to timm's"));
    }
    for (kind, names) in ignored {
        let what = match kind {
            Ignored::Head => "classification head ignored",
            Ignored::Projection => "projection into the text space ignored",
            Ignored::Text => "text tower ignored",
            Ignored::Other => "not part of the network, ignored",
        };
        sorted.notes.push(format!("{what}: {}", some_of(&names)));
    }
    Ok(sorted)
}

/// The first few names and how many more there are.
fn some_of(names: &[&str]) -> String {
    let shown = names.len().min(4);
    let more = names.len() - shown;
    let tail = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{tail}", names[..shown].join(", "))
}

impl Scheme {
    /// Recognises the scheme by the name that the patch projection has in it.
    fn of(tensors: &[FileTensor]) -> Scheme {
        let has = |name: &str| tensors.iter().any(|t| t.name == name);
        let openai = |prefix: &str| Scheme {
            label: Some("OpenAI CLIP"),
            prefix: prefix.into(),
            top: OPENAI_TOP,
            blocks: "transformer.resblocks.",
            inner: OPENAI_INNER,
        };
        if has("visual.conv1.weight") {
            return openai("visual.");
        }
        if has("conv1.weight") && has("class_embedding") {
            return openai("");
        }
        if has("vision_model.embeddings.patch_embedding.weight") {
            return Scheme {
                label: Some("Hugging Face CLIP"),
                prefix: "vision_model.".into(),
                top: HF_CLIP_TOP,
                blocks: "encoder.layers.",
                inner: HF_CLIP_INNER,
            };
        }
        let patches = "embeddings.patch_embeddings.projection.weight";
        if let Some(prefix) = tensors.iter().find_map(|t| t.name.strip_suffix(patches)) {
            return Scheme {
                label: Some("Hugging Face DINOv2"),
                prefix: prefix.into(),
                top: HF_DINO_TOP,
                blocks: "encoder.layer.",
                inner: HF_DINO_INNER,
            };
        }
        Scheme { label: None, prefix: String::new(), top: TIMM_TOP, blocks: "blocks.", inner: &[] }
    }

    /// Decides what is done with the tensor of this name.
    fn fate(&self, name: &str) -> Fate {
        if name.starts_with("state.") {
            return Fate::State;
        }
        if is_classifier(name) {
            return Fate::Classifier;
        }
        match name.strip_prefix(&self.prefix) {
            None => Fate::Ignored(kind_of(name).unwrap_or(Ignored::Other)),
            Some(inside) => self.translate(inside).unwrap_or_else(|| self.unknown(inside)),
        }
    }

    /// The timm name of a parameter of the image tower.
    fn translate(&self, name: &str) -> Option<Fate> {
        let Some(rest) = name.strip_prefix(self.blocks) else {
            // In a scheme with names of its own, timm's mean nothing.
            let timm = match rename(name, self.top) {
                Some(renamed) => renamed,
                None if self.label.is_none() => name.to_string(),
                None => return None,
            };
            return TOP_PARAMETERS.contains(&timm.as_str()).then_some(Fate::Parameter(timm));
        };
        let (mut number, mut inner) = split_number(rest)?;
        // DINOv2 saved in chunks: blocks.{chunk}.{block}, blocks numbered through.
        if self.label.is_none()
            && let Some((block, rest)) = split_number(inner)
        {
            (number, inner) = (block, rest);
        }
        let inner = match rename(inner, self.inner) {
            Some(renamed) => renamed,
            None if self.label.is_none() => inner.to_string(),
            None => return None,
        };
        if BLOCK_PARAMETERS.contains(&inner.as_str()) {
            return Some(Fate::Parameter(format!("blocks.{number}.{inner}")));
        }
        let (part, kind) = [("attn.q.", 0), ("attn.k.", 1), ("attn.v.", 2)]
            .iter()
            .find_map(|&(start, part)| Some((part, inner.strip_prefix(start)?)))?;
        matches!(kind, "weight" | "bias")
            .then(|| Fate::Part(format!("blocks.{number}.attn.qkv.{kind}"), part))
    }

    /// What is done with a tensor inside the image tower that is no parameter of a plain ViT.
    fn unknown(&self, name: &str) -> Fate {
        if let Some(kind) = kind_of(name)
            && !name.starts_with(self.blocks)
        {
            return Fate::Ignored(kind);
        }
        for word in name.split('.') {
            if let Some((_, reason)) = TELLTALES.iter().find(|(telltale, _)| word.starts_with(telltale)) {
                return Fate::Refused(reason);
            }
        }
        let harmless = ["mask_token", "position_ids", "pooler"];
        if name.split('.').any(|word| harmless.contains(&word)) {
            return Fate::Ignored(Ignored::Other);
        }
        let first = name.split('.').next().unwrap_or(name);
        let in_network = matches!(first, "blocks" | "patch_embed" | "embeddings" | "encoder" | "layernorm")
            || first.starts_with("norm")
            || name.starts_with(self.blocks)
            || !self.prefix.is_empty();
        if in_network {
            Fate::Refused("an unknown tensor could change the network")
        } else {
            Fate::Ignored(Ignored::Other)
        }
    }
}

/// The kind of a tensor that is known to stand outside the image tower.
fn kind_of(name: &str) -> Option<Ignored> {
    let first = name.split('.').next().unwrap_or(name);
    match first {
        "head" | "head_dist" | "fc" | "classifier" | "pre_logits" => Some(Ignored::Head),
        "proj" | "visual_projection" => Some(Ignored::Projection),
        "text_model"
        | "text"
        | "transformer"
        | "token_embedding"
        | "positional_embedding"
        | "ln_final"
        | "text_projection"
        | "logit_scale"
        | "logit_bias" => Some(Ignored::Text),
        _ => None,
    }
}

/// Whether the name is that of a part classifier's parameter: `heads.{i}.fc1.weight` and so on.
fn is_classifier(name: &str) -> bool {
    let inner = name.strip_prefix("heads.").and_then(split_number);
    let known = [
        "fc1.weight",
        "fc1.bias",
        "fc2.weight",
        "fc2.bias",
        "bn.weight",
        "bn.bias",
        "bn.running_mean",
        "bn.running_var",
    ];
    inner.is_some_and(|(_, rest)| known.contains(&rest))
}

/// Splits `12.rest` into the number and the rest.
fn split_number(text: &str) -> Option<(usize, &str)> {
    let (digits, rest) = text.split_once('.')?;
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some((digits.parse().ok()?, rest))
}

/// Applies the rename that fits, if one does.
fn rename(name: &str, renames: Renames) -> Option<String> {
    renames.iter().find_map(|(from, to)| {
        let rest = name.strip_prefix(from)?;
        (rest.is_empty() || rest.starts_with('.')).then(|| format!("{to}{rest}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timm() -> Scheme {
        Scheme::of(&[])
    }

    fn parameter(name: &str) -> Fate {
        Fate::Parameter(name.into())
    }

    #[test]
    fn timm_names_stand_as_they_are() {
        for name in TOP_PARAMETERS {
            assert_eq!(timm().fate(name), parameter(name));
        }
        for inner in BLOCK_PARAMETERS {
            let name = format!("blocks.11.{inner}");
            assert_eq!(timm().fate(&name), parameter(&name));
        }
        assert_eq!(timm().fate("register_tokens"), parameter("reg_token"));
        assert_eq!(timm().fate("blocks.0.7.ls1.gamma"), parameter("blocks.7.ls1.gamma"));
    }

    #[test]
    fn what_would_change_the_network_is_refused() {
        for name in [
            "fc_norm.weight",
            "blocks.0.attn.q_norm.weight",
            "blocks.3.attn.k_norm.bias",
            "blocks.0.mlp.w12.weight",
            "blocks.0.mlp.w3.bias",
            "rope.freqs",
            "rope_embed.periods",
            "attn_pool.latent",
            "blocks.0.attn.rel_pos_h",
            "blocks.0.attn.relative_position_bias_table",
            "blocks.0.gamma_1",
            "blocks.0.norm3.weight",
            "blocks.0.head.weight",
            "patch_embed.backbone.stem.conv.weight",
            "norm_post.weight",
            "blocks.x.norm1.weight",
        ] {
            assert!(matches!(timm().fate(name), Fate::Refused(_)), "{name}");
        }
    }

    #[test]
    fn heads_texts_and_strangers_are_left_out() {
        for (name, kind) in [
            ("head.weight", Ignored::Head),
            ("head_dist.bias", Ignored::Head),
            ("fc.weight", Ignored::Head),
            ("mask_token", Ignored::Other),
            ("heads.0.bn.num_batches_tracked", Ignored::Other),
            ("logit_scale", Ignored::Text),
            ("something.else", Ignored::Other),
        ] {
            assert_eq!(timm().fate(name), Fate::Ignored(kind), "{name}");
        }
        assert_eq!(timm().fate("heads.13.bn.running_var"), Fate::Classifier);
        assert_eq!(timm().fate("state.blocks.0.norm1.weight.m"), Fate::State);
    }

    #[test]
    fn long_lists_are_cut() {
        assert_eq!(some_of(&["a", "b"]), "a, b");
        assert_eq!(some_of(&["a", "b", "c", "d", "e", "f"]), "a, b, c, d and 2 more");
    }
}
