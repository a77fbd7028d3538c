//! Meaning of each name in a file: timm's names as they are; CLIP's, DINOv2's and Hugging Face's mapped to timm's.
//!
//! A prefix before the whole network (`module.`, `base.`, `student.backbone.`) is stripped. A tensor that is no parameter
//! of the network is ignored only where its name is on a list: any other could change what the network computes.

use std::collections::BTreeMap;
use std::path::Path;

use super::parameters::{block_names, head_tensors, outer_names};
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

/// Whose names a file has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Names {
    #[default]
    Timm,
    OpenAiClip,
    HfClip,
    HfDino,
    HfVit,
}

/// A file's tensors, sorted by what they are for.
#[derive(Debug, Default)]
pub(super) struct Sorted {
    /// Whose names it has.
    pub(super) names: Names,
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
    /// Belongs to a part classifier, under this name.
    Classifier(String),
    /// State of a training run, of no use here.
    State,
    /// Not part of the network.
    Ignored(Ignored),
    /// Means another network for sure; the reason says which.
    Refused(&'static str),
    /// On no list: it could change the network; the reason says how.
    Unknown(&'static str),
}

/// Kinds of tensors that are left out, each told in its own note.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Ignored {
    Head,
    Projection,
    Text,
    Decoder,
    Other,
}

/// Renames of modules: a name that equals the first word, or continues it after a dot, gets the second.
type Renames = &'static [(&'static str, &'static str)];

/// One way of naming a ViT.
struct Scheme {
    names: Names,
    /// What the names are called in a note; None for timm's own.
    label: Option<&'static str>,
    /// Stands before each name of the network, or is empty.
    lead: String,
    /// Stands before each name of the image tower, behind the lead.
    prefix: &'static str,
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

const HF_VIT_TOP: Renames = &[
    ("embeddings.cls_token", "cls_token"),
    ("embeddings.distillation_token", "dist_token"),
    ("embeddings.position_embeddings", "pos_embed"),
    ("embeddings.patch_embeddings.projection", "patch_embed.proj"),
    ("layernorm", "norm"),
];
const HF_VIT_INNER: Renames = &[
    ("layernorm_before", "norm1"),
    ("attention.attention.query", "attn.q"),
    ("attention.attention.key", "attn.k"),
    ("attention.attention.value", "attn.v"),
    ("attention.output.dense", "attn.proj"),
    ("layernorm_after", "norm2"),
    ("intermediate.dense", "mlp.fc1"),
    ("output.dense", "mlp.fc2"),
];

/// Names of the patch projection: a scheme is recognised by its own, and what stands before it is the lead. A name that
/// ends in another one stands before it.
const PROJECTIONS: [(&str, Names); 5] = [
    ("vision_model.embeddings.patch_embedding.weight", Names::HfClip),
    (HF_PATCHES, Names::HfDino),
    ("visual.conv1.weight", Names::OpenAiClip),
    ("patch_embed.proj.weight", Names::Timm),
    (BARE_CONVOLUTION, Names::OpenAiClip),
];
const HF_PATCHES: &str = "embeddings.patch_embeddings.projection.weight";
/// Other networks have one of this name too: it counts beside a `class_embedding` alone.
const BARE_CONVOLUTION: &str = "conv1.weight";

/// Leads that belong to Hugging Face's names: not worth a note.
const HF_LEADS: [&str; 4] = ["dinov2.", "dinov2_with_registers.", "vit.", "deit."];

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

/// How tensors change the network that other programs add under names that begin so.
const ADDITIONS: [(&str, &str); 8] = [
    ("sie_embed", "it is added to the tokens by camera or view"),
    ("cv_embed", "it is added to the tokens by camera or view"),
    ("prompt", "it brings tokens of its own"),
    ("storage_token", "it brings tokens of its own"),
    ("register", "it brings tokens of its own"),
    ("ln_pre", "it is a norm before the blocks"),
    ("pre_norm", "it is a norm before the blocks"),
    ("norm_pre", "it is a norm before the blocks"),
];

/// Sorts the tensors of a file by name alone; `ignore_unknown` passes over those that are on no list.
///
/// # Errors
/// [`Error::Tensor`] for a tensor that would change the network, or two that mean the same parameter;
/// [`Error::Weights`] for a file with two networks.
pub(super) fn sort(path: &Path, container: &Container, ignore_unknown: bool) -> Result<Sorted> {
    let scheme = Scheme::of(&container.tensors)
        .map_err(|reason| Error::Weights { path: path.to_path_buf(), reason })?;
    let mut sorted = Sorted { names: scheme.names, ..Sorted::default() };
    let mut ignored: BTreeMap<Ignored, Vec<&str>> = BTreeMap::new();
    let mut unknown: Vec<(&FileTensor, &str)> = Vec::new();
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
            Fate::Classifier(name) => {
                sorted.classifiers.insert(name, index);
            }
            Fate::State => {}
            Fate::Ignored(kind) => ignored.entry(kind).or_default().push(&tensor.name),
            Fate::Refused(reason) => {
                return Err(fault(format!("a plain pre-norm ViT without it ({reason})"), tensor.describe()));
            }
            Fate::Unknown(reason) => unknown.push((tensor, reason)),
        }
    }
    // A file that isn't a ViT at all is better told by what it lacks.
    if let Some(&(first, reason)) = unknown.first()
        && sorted.parameters.contains_key("patch_embed.proj.weight")
    {
        let names: Vec<&str> = unknown.iter().map(|(tensor, _)| tensor.name.as_str()).collect();
        if !ignore_unknown {
            let others = match &names[1..] {
                [] => String::new(),
                others => format!("; also unknown: {}", some_of(others)),
            };
            return Err(Error::Tensor {
                path: path.to_path_buf(),
                tensor: first.name.clone(),
                expected: format!(
                    "a plain pre-norm ViT without it ({reason}; --ignore-unknown passes over such tensors)"
                ),
                found: format!("{}{others}", first.describe()),
            });
        }
        sorted.notes.push(format!(
            "unknown, ignored as --ignore-unknown says: {}; they may have changed what the network computed",
            some_of(&names)
        ));
    }
    if !scheme.lead.is_empty() && !HF_LEADS.contains(&scheme.lead.as_str()) {
        let everywhere = container.tensors.iter().all(|tensor| tensor.name.starts_with(&scheme.lead));
        let whose = if everywhere { "all names" } else { "the network's names" };
        sorted.notes.push(format!("prefix {} stripped from {whose}", scheme.lead));
    }
    if let Some(label) = scheme.label {
        sorted.notes.push(format!("names mapped from {label} to timm's"));
    }
    for (kind, names) in ignored {
        let what = match kind {
            Ignored::Head => "classification head ignored",
            Ignored::Projection => "projection into the text space ignored",
            Ignored::Text => "text tower ignored",
            Ignored::Decoder => "decoder ignored",
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
    /// Recognises the scheme, and what stands before its names, by the patch projection.
    ///
    /// # Errors
    /// The reason, where several networks are there.
    fn of(tensors: &[FileTensor]) -> std::result::Result<Scheme, String> {
        let has = |name: &str| tensors.iter().any(|t| t.name == name);
        for (projection, names) in PROJECTIONS {
            let mut leads: Vec<&str> = tensors
                .iter()
                .filter_map(|t| t.name.strip_suffix(projection))
                .filter(|lead| lead.is_empty() || lead.ends_with('.'))
                .filter(|lead| projection != BARE_CONVOLUTION || has(&format!("{lead}class_embedding")))
                .collect();
            leads.sort_unstable();
            match leads[..] {
                [] => {}
                ["", ..] => return Ok(Scheme::new(names, projection, "", &has)),
                [lead] => return Ok(Scheme::new(names, projection, lead, &has)),
                _ => {
                    return Err(format!(
                        "holds {} networks, under {}: leave one of them in the file",
                        leads.len(),
                        some_of(&leads)
                    ));
                }
            }
        }
        Ok(Scheme::new(Names::Timm, "", "", &has))
    }

    fn new(names: Names, projection: &str, lead: &str, has: &impl Fn(&str) -> bool) -> Scheme {
        let names = match names {
            Names::HfDino if has(&format!("{lead}encoder.layer.0.layernorm_before.weight")) => Names::HfVit,
            names => names,
        };
        let (label, prefix, top, blocks, inner) = match names {
            Names::Timm => (None, "", TIMM_TOP, "blocks.", &[][..]),
            Names::OpenAiClip => {
                let prefix = if projection == BARE_CONVOLUTION { "" } else { "visual." };
                (Some("OpenAI CLIP"), prefix, OPENAI_TOP, "transformer.resblocks.", OPENAI_INNER)
            }
            Names::HfClip => {
                (Some("Hugging Face CLIP"), "vision_model.", HF_CLIP_TOP, "encoder.layers.", HF_CLIP_INNER)
            }
            Names::HfDino => (Some("Hugging Face DINOv2"), "", HF_DINO_TOP, "encoder.layer.", HF_DINO_INNER),
            Names::HfVit => (Some("Hugging Face ViT"), "", HF_VIT_TOP, "encoder.layer.", HF_VIT_INNER),
        };
        Scheme { names, label, lead: lead.to_string(), prefix, top, blocks, inner }
    }

    /// Decides what is done with the tensor of this name.
    fn fate(&self, name: &str) -> Fate {
        if name.starts_with("state.") {
            return Fate::State;
        }
        let behind = name.strip_prefix(&self.lead).unwrap_or(name);
        if is_classifier(behind) {
            return Fate::Classifier(behind.to_string());
        }
        let tower = name.strip_prefix(&self.lead).and_then(|behind| behind.strip_prefix(self.prefix));
        match tower {
            None => outside(behind).map_or(Fate::Unknown(UNKNOWN), Fate::Ignored),
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
            return outer_names().any(|name| name == timm).then_some(Fate::Parameter(timm));
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
        if block_names().any(|name| name == inner) {
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
        let begins = |table: &[(&str, &'static str)]| {
            let known = |word: &str| table.iter().find(|(start, _)| word.starts_with(start));
            name.split('.').find_map(|word| Some(known(word)?.1))
        };
        match begins(&TELLTALES) {
            Some(reason) => Fate::Refused(reason),
            None if is_unused(name) => Fate::Ignored(Ignored::Other),
            None => Fate::Unknown(begins(&ADDITIONS).unwrap_or(UNKNOWN)),
        }
    }
}

/// Why a tensor is refused of which nothing is known.
const UNKNOWN: &str = "an unknown tensor could change the network";

/// Returns whether it is a buffer that embedding doesn't read, or belongs to a task of its own, wherever it is.
fn is_unused(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    let buffers = ["num_batches_tracked", "position_ids", "attn_mask", "attention_mask", "causal_mask"];
    buffers.contains(&last) || name.split('.').any(|word| matches!(word, "mask_token" | "pooler"))
}

/// The kind of a tensor that changes nothing, by its first word: a head, or what other networks have beside the tower.
fn kind_of(name: &str) -> Option<Ignored> {
    // Heads of parts are numbered: classifier3, bottleneck_2.
    let numbered = |word: &str| {
        let stem = word.trim_end_matches(|c: char| c.is_ascii_digit()).trim_end_matches('_');
        matches!(stem, "classifier" | "bottleneck" | "bnneck")
    };
    match name.split('.').next().unwrap_or(name) {
        "head"
        | "head_dist"
        | "fc"
        | "pre_logits"
        | "cls_classifier"
        | "distillation_classifier"
        | "dino_head"
        | "ibot_head" => Some(Ignored::Head),
        first if numbered(first) => Some(Ignored::Head),
        "proj" | "visual_projection" => Some(Ignored::Projection),
        "text_model" | "text" | "token_embedding" | "ln_final" | "text_projection" | "logit_scale"
        | "logit_bias" => Some(Ignored::Text),
        "decoder" | "decoder_embed" | "decoder_pos_embed" | "decoder_blocks" | "decoder_norm"
        | "decoder_pred" => Some(Ignored::Decoder),
        "dino_loss" | "ibot_patch_loss" => Some(Ignored::Other),
        _ => None,
    }
}

/// The same for a name outside the image tower: there a text tower may be.
fn outside(name: &str) -> Option<Ignored> {
    let first = name.split('.').next().unwrap_or(name);
    match first {
        "transformer" | "positional_embedding" => Some(Ignored::Text),
        // OpenCLIP's projection behind a tower with timm's names.
        "visual" if name.starts_with("visual.head.") => Some(Ignored::Projection),
        _ if is_unused(name) => Some(Ignored::Other),
        _ => kind_of(name),
    }
}

/// Whether the name is that of a part classifier's parameter: `heads.{i}.fc1.weight` and so on.
fn is_classifier(name: &str) -> bool {
    let inner = name.strip_prefix("heads.").and_then(split_number);
    inner.is_some_and(|(_, rest)| head_tensors(0, 0, 0).iter().any(|tensor| tensor.name == rest))
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
        Scheme::of(&[]).unwrap()
    }

    fn parameter(name: &str) -> Fate {
        Fate::Parameter(name.into())
    }

    #[test]
    fn timm_names_stand_as_they_are() {
        for name in outer_names() {
            assert_eq!(timm().fate(name), parameter(name));
        }
        for inner in block_names() {
            let name = format!("blocks.11.{inner}");
            assert_eq!(timm().fate(&name), parameter(&name));
        }
        assert_eq!(timm().fate("register_tokens"), parameter("reg_token"));
        assert_eq!(timm().fate("blocks.0.7.ls1.gamma"), parameter("blocks.7.ls1.gamma"));
    }

    #[test]
    fn what_means_another_network_is_refused() {
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
        ] {
            assert!(matches!(timm().fate(name), Fate::Refused(_)), "{name}");
        }
    }

    #[test]
    fn what_is_on_no_list_is_unknown() {
        for name in [
            "blocks.0.norm3.weight",
            "blocks.0.head.weight",
            "patch_embed.backbone.stem.conv.weight",
            "norm_post.weight",
            "blocks.x.norm1.weight",
            "sie_embed",
            "cv_embed",
            "prompt_tokens",
            "storage_tokens",
            "registers",
            "ln_pre.weight",
            "pre_norm.bias",
            "transformer.resblocks.0.ln_1.weight",
            "positional_embedding",
            "headless.weight",
            "classifiers.weight",
            "something.else",
            "heads.0.fc3.weight",
        ] {
            assert!(matches!(timm().fate(name), Fate::Unknown(_)), "{name}: {:?}", timm().fate(name));
        }
        assert_eq!(
            timm().fate("base.prompt_tokens.0"),
            Fate::Unknown("it brings tokens of its own"),
            "the reason is told wherever the word is"
        );
    }

    #[test]
    fn heads_texts_and_buffers_are_left_out() {
        for (name, kind) in [
            ("head.weight", Ignored::Head),
            ("head_dist.bias", Ignored::Head),
            ("fc.weight", Ignored::Head),
            ("classifier12.add_block.0.weight", Ignored::Head),
            ("bottleneck_1.running_mean", Ignored::Head),
            ("decoder_blocks.0.norm1.weight", Ignored::Decoder),
            ("mask_token", Ignored::Other),
            ("blocks.0.attn.attn_mask", Ignored::Other),
            ("heads.0.bn.num_batches_tracked", Ignored::Other),
            ("logit_scale", Ignored::Text),
        ] {
            assert_eq!(timm().fate(name), Fate::Ignored(kind), "{name}");
        }
        assert_eq!(
            timm().fate("heads.13.bn.running_var"),
            Fate::Classifier("heads.13.bn.running_var".into())
        );
        assert_eq!(timm().fate("state.blocks.0.norm1.weight.m"), Fate::State);
    }

    #[test]
    fn long_lists_are_cut() {
        assert_eq!(some_of(&["a", "b"]), "a, b");
        assert_eq!(some_of(&["a", "b", "c", "d", "e", "f"]), "a, b, c, d and 2 more");
    }
}
