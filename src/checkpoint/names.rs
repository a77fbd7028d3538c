//! Maps the names in a file to timm's: those of CLIP, DINOv2 and Hugging Face.
//!
//! Strips a prefix of the whole network (`module.`, `base.`, `student.backbone.`). Ignores a tensor that is no
//! parameter of the network only if its name is on a list: another tensor could change the network's output.

use std::collections::BTreeMap;
use std::path::Path;

use super::parameters::{
    CAMERAS, JIGSAW, JIGSAW_BLOCK, JIGSAW_NORM, REDUCTION, STATISTICS, block_names, classifier_tensors,
    outer_names,
};
use super::safetensors::{Container, FileTensor};
use crate::error::{Error, Result};
use crate::shape::ClassifierKind;

/// Tensors with the values of one parameter, as indices into the container's list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// One tensor.
    Whole(usize),
    /// Separate query, key and value. They are stacked in this order.
    Qkv([Option<usize>; 3]),
}

/// Naming schemes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Names {
    #[default]
    Timm,
    OpenAiClip,
    HfClip,
    HfDino,
    HfVit,
}

/// The tensors of a file, sorted by their use.
#[derive(Debug, Default)]
pub(super) struct Sorted {
    /// Naming scheme of the file.
    pub(super) names: Names,
    /// Backbone parameters under timm's names.
    pub(super) parameters: BTreeMap<String, Source>,
    /// Part classifiers (`heads.{i}.…`).
    pub(super) classifiers: BTreeMap<String, usize>,
    /// Remarks for the user.
    pub(super) notes: Vec<String>,
}

/// Use of a tensor.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    /// A parameter of the backbone, with its timm name.
    Parameter(String),
    /// Query (0), key (1) or value (2), to stack under this timm name.
    Qkv(String, usize),
    /// A tensor of a part classifier, with its name.
    Classifier(String),
    /// State of a training run, or components that reduce embeddings, which are not loaded.
    State,
    /// Not a tensor of the network.
    Ignored(Ignored),
    /// A tensor of another kind of network, with the reason.
    Refused(&'static str),
    /// On no list. It could change the network; the reason says how.
    Unknown(&'static str),
}

/// Kinds of ignored tensors. Each has its own note.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Ignored {
    ClassificationHead,
    Projection,
    Text,
    Decoder,
    Other,
}

/// Renames of modules. The second string replaces the first if that is the whole name or is followed by a dot.
type Renames = &'static [(&'static str, &'static str)];

/// A naming scheme of ViTs.
struct Scheme {
    names: Names,
    /// Name of the scheme in a note; `None` for timm's.
    label: Option<&'static str>,
    /// Prefix of all names of the network; may be empty.
    lead: String,
    /// Prefix of the names of the image tower, after the lead.
    prefix: &'static str,
    /// Renames outside the blocks.
    top: Renames,
    /// Prefix of the number of a block.
    blocks: &'static str,
    /// Renames inside a block.
    inner: Renames,
}

// Published DINOv2 models use timm's names except for the registers.
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

// The files spell it "pre_layrnorm".
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

/// Names of the patch projection, by which a scheme is recognised. The text before such a name is the lead. A name that
/// ends in another one comes first.
const PROJECTIONS: [(&str, Names); 5] = [
    ("vision_model.embeddings.patch_embedding.weight", Names::HfClip),
    (HF_PATCHES, Names::HfDino),
    ("visual.conv1.weight", Names::OpenAiClip),
    ("patch_embed.proj.weight", Names::Timm),
    (BARE_CONVOLUTION, Names::OpenAiClip),
];
const HF_PATCHES: &str = "embeddings.patch_embeddings.projection.weight";
/// Other networks have a tensor of this name, too. It counts only beside a `class_embedding`.
const BARE_CONVOLUTION: &str = "conv1.weight";

/// Leads of Hugging Face's names, which need no note.
const HF_LEADS: [&str; 4] = ["dinov2.", "dinov2_with_registers.", "vit.", "deit."];

/// Words in names of networks that aren't plain pre-norm ViTs, and the difference that they show.
const OTHER_NETWORKS: [(&str, &str); 14] = [
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

/// Prefixes of tensors that other programs add, and their effects on the network.
const ADDITIONS: [(&str, &str); 9] = [
    (CAMERAS, BY_CAMERA),
    ("cv_embed", BY_CAMERA),
    ("part_token", "it adds tokens"),
    ("prompt", "it adds tokens"),
    ("storage_token", "it adds tokens"),
    ("register", "it adds tokens"),
    ("ln_pre", "it is a norm before the blocks"),
    ("pre_norm", "it is a norm before the blocks"),
    ("norm_pre", "it is a norm before the blocks"),
];

/// Tensors beside those of a plain ViT that the metadata of a file declares.
#[derive(Debug, Clone, Copy)]
pub(super) struct Extras {
    /// The camera embedding.
    pub(super) cameras: bool,
    /// The jigsaw's block and norm.
    pub(super) jigsaw: bool,
    /// The camera statistics.
    pub(super) statistics: bool,
}

/// The effect of a camera embedding.
const BY_CAMERA: &str = "it is added to the tokens by camera or view";

/// Sorts the tensors of a file by their names; `ignore_unknown` ignores those that are on no list. A camera embedding
/// is unknown unless it is among the `extras` of the metadata, since nothing else says whose rows it has; likewise a
/// jigsaw, and statistics.
///
/// # Errors
/// [`Error::Tensor`] for a tensor that would change the network, and for two tensors of the same parameter;
/// [`Error::Weights`] for a file with two networks.
pub(super) fn sort(
    path: &Path,
    container: &Container,
    ignore_unknown: bool,
    extras: Extras,
) -> Result<Sorted> {
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
            Fate::Parameter(name) if name == CAMERAS && !extras.cameras => unknown.push((tensor, BY_CAMERA)),
            Fate::Parameter(name) if name.starts_with(JIGSAW) && !extras.jigsaw => {
                unknown.push((tensor, UNKNOWN));
            }
            Fate::Parameter(name) if name.starts_with(STATISTICS) && !extras.statistics => {
                unknown.push((tensor, UNKNOWN));
            }
            Fate::Parameter(name) => {
                if sorted.parameters.contains_key(&name) {
                    return Err(duplicate(&name));
                }
                sorted.parameters.insert(name, Source::Whole(index));
            }
            Fate::Qkv(name, part) => {
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
    // For a file that isn't a ViT, the error about missing tensors says more.
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
                    "a plain pre-norm ViT without it ({reason}; --ignore-unknown ignores such tensors)"
                ),
                found: format!("{}{others}", first.describe()),
            });
        }
        sorted.notes.push(format!(
            "unknown tensors, ignored because of --ignore-unknown: {}; the network's output may differ",
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
            Ignored::ClassificationHead => "classification head ignored",
            Ignored::Projection => "projection to text space ignored",
            Ignored::Text => "text tower ignored",
            Ignored::Decoder => "decoder ignored",
            Ignored::Other => "not part of the network, ignored",
        };
        sorted.notes.push(format!("{what}: {}", some_of(&names)));
    }
    Ok(sorted)
}

/// Lists the first few names and the number of the others.
pub(super) fn some_of(names: &[&str]) -> String {
    let shown = names.len().min(4);
    let more = names.len() - shown;
    let tail = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{tail}", names[..shown].join(", "))
}

impl Scheme {
    /// Recognises the scheme, and the lead of its names, by the patch projection.
    ///
    /// # Errors
    /// The reason, if the file has several networks.
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
                        "it has {} networks, under {}: keep only one of them in the file",
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

    /// Decides the use of a tensor.
    fn fate(&self, name: &str) -> Fate {
        if name.starts_with("state.") || name.starts_with(REDUCTION) {
            return Fate::State;
        }
        let short = name.strip_prefix(&self.lead).unwrap_or(name);
        if is_classifier(short) {
            return Fate::Classifier(short.to_string());
        }
        let tower = name.strip_prefix(&self.lead).and_then(|short| short.strip_prefix(self.prefix));
        match tower {
            None => outside(short).map_or(Fate::Unknown(UNKNOWN), Fate::Ignored),
            Some(inside) => self.translate(inside).unwrap_or_else(|| self.unknown(inside)),
        }
    }

    /// Translates the name of a parameter of the image tower to timm's.
    fn translate(&self, name: &str) -> Option<Fate> {
        let Some(rest) = name.strip_prefix(self.blocks) else {
            // Another scheme doesn't use timm's names.
            let timm = match rename(name, self.top) {
                Some(renamed) => renamed,
                None if self.label.is_none() => name.to_string(),
                None => return None,
            };
            return (outer_names().any(|name| name == timm) || is_jigsaw(&timm))
                .then_some(Fate::Parameter(timm));
        };
        let (mut number, mut inner) = split_number(rest)?;
        // DINOv2 in chunks: blocks.{chunk}.{block}. Block numbers continue over chunks.
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
        matches!(kind, "weight" | "bias").then(|| Fate::Qkv(format!("blocks.{number}.attn.qkv.{kind}"), part))
    }

    /// Decides the use of a tensor of the image tower that is no parameter of a plain ViT.
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
        match begins(&OTHER_NETWORKS) {
            Some(reason) => Fate::Refused(reason),
            None if is_unused(name) => Fate::Ignored(Ignored::Other),
            None => Fate::Unknown(begins(&ADDITIONS).unwrap_or(UNKNOWN)),
        }
    }
}

/// Returns whether a name is that of a tensor of the jigsaw's block or norm.
fn is_jigsaw(name: &str) -> bool {
    let part = |prefix: &str| name.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('.'));
    part(JIGSAW_BLOCK).is_some_and(|inner| block_names().any(|name| name == inner))
        || part(JIGSAW_NORM).is_some_and(|inner| matches!(inner, "weight" | "bias"))
}

/// Reason to refuse a tensor of unknown use.
const UNKNOWN: &str = "an unknown tensor could change the network";

/// Returns whether a name, anywhere in the network, is that of a buffer or of a part for another task.
fn is_unused(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    let buffers = ["num_batches_tracked", "position_ids", "attn_mask", "attention_mask", "causal_mask"];
    buffers.contains(&last)
        || name.split('.').any(|word| matches!(word, "mask_token" | "masked_embed" | "pooler"))
}

/// Kind of a tensor that doesn't change embeddings, by the first word of its name: a head, or a module beside the
/// tower.
fn kind_of(name: &str) -> Option<Ignored> {
    // Classifiers of parts are numbered: classifier3, bottleneck_2.
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
        | "ibot_head" => Some(Ignored::ClassificationHead),
        first if numbered(first) => Some(Ignored::ClassificationHead),
        "proj" | "visual_projection" => Some(Ignored::Projection),
        "text_model" | "text" | "token_embedding" | "ln_final" | "text_projection" | "logit_scale"
        | "logit_bias" => Some(Ignored::Text),
        "decoder" | "decoder_embed" | "decoder_pos_embed" | "decoder_blocks" | "decoder_norm"
        | "decoder_pred" => Some(Ignored::Decoder),
        "dino_loss" | "ibot_patch_loss" => Some(Ignored::Other),
        _ => None,
    }
}

/// Like [`kind_of`], for a name outside the image tower: it may be of a text tower.
fn outside(name: &str) -> Option<Ignored> {
    let first = name.split('.').next().unwrap_or(name);
    match first {
        "transformer" | "positional_embedding" => Some(Ignored::Text),
        // OpenCLIP's projection after a tower with timm's names.
        "visual" if name.starts_with("visual.head.") => Some(Ignored::Projection),
        _ if is_unused(name) => Some(Ignored::Other),
        _ => kind_of(name),
    }
}

/// Returns whether a name is that of a part classifier's tensor, such as `heads.{i}.fc1.weight`.
fn is_classifier(name: &str) -> bool {
    let inner = name.strip_prefix("heads.").and_then(split_number);
    let kinds = [ClassifierKind::Parts { hidden: 0 }, ClassifierKind::Bnneck];
    let mut known = kinds.into_iter().flat_map(|kind| classifier_tensors(kind, 0, 0));
    inner.is_some_and(|(_, rest)| known.any(|tensor| tensor.name == rest))
}

/// Splits `12.rest` into the number and the rest.
fn split_number(text: &str) -> Option<(usize, &str)> {
    let (digits, rest) = text.split_once('.')?;
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some((digits.parse().ok()?, rest))
}

/// Applies the first rename that fits.
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
    fn timm_names_stay() {
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
            Fate::Unknown("it adds tokens"),
            "the word may be anywhere in the name"
        );
    }

    #[test]
    fn classifiers_texts_and_buffers_are_left_out() {
        for (name, kind) in [
            ("head.weight", Ignored::ClassificationHead),
            ("head_dist.bias", Ignored::ClassificationHead),
            ("fc.weight", Ignored::ClassificationHead),
            ("classifier12.add_block.0.weight", Ignored::ClassificationHead),
            ("bottleneck_1.running_mean", Ignored::ClassificationHead),
            ("decoder_blocks.0.norm1.weight", Ignored::Decoder),
            ("mask_token", Ignored::Other),
            ("masked_embed", Ignored::Other),
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
