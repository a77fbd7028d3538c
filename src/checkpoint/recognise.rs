//! Derives the configuration from names, shapes, metadata and flags.

use std::collections::BTreeSet;
use std::path::Path;

use serde::Serialize;

use super::metadata::Metadata;
use super::names::{Names, Sorted, Source};
use super::parameters::{POSITIONS, REATTENTION, is_prefix, parameter_shapes};
use super::positions::{Grid, Table};
use super::safetensors::{Container, FileTensor};
use crate::error::{Error, Result};
use crate::shape::{
    Activation, CameraStatistics, CameraTable, GeltConfig, HeadEmbed, ImageSize, LambdaOn, Normalize,
    PartLayout, PartTokens, Preprocess, VitConfig,
};

/// Largest position table, in bytes, so that no size setting exhausts the memory.
const MAX_TABLE: usize = 1 << 30;

/// Largest side of an input in pixels, as for images.
const MAX_SIDE: usize = 16_384;

/// Widths of published networks that differ in their numbers of heads.
const AMBIGUOUS: [(usize, &str); 3] = [
    (1280, "16: ViT-H of MAE, I-JEPA and OpenCLIP; 20: ViT-H+ of DINOv3, with 64 dimensions per head"),
    (1408, "16: ViT-g of OpenCLIP and EVA; 22: V-JEPA 2, with 64 dimensions per head"),
    (1664, "16: ViT-bigG of OpenCLIP; 26: V-JEPA 2, with 64 dimensions per head"),
];

/// Settings of the user. `None` takes the value of the file's metadata, else the default.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Settings {
    /// Input size.
    pub size: Option<ImageSize>,
    /// Step between patches in pixels.
    pub stride: Option<usize>,
    /// Number of attention heads.
    pub heads: Option<usize>,
    /// Non-linearity of the MLP.
    pub act: Option<Activation>,
    /// ε of every LayerNorm.
    pub ln_eps: Option<f32>,
    /// Mean and deviation of the input.
    pub normalize: Option<Normalize>,
    /// λ of the blend.
    pub lambda: Option<f32>,
    /// Operand that carries λ.
    pub lambda_on: Option<LambdaOn>,
    /// Tokens that become the parts.
    pub tokens: Option<PartTokens>,
    /// Cut of the grid into parts.
    pub parts: Option<PartLayout>,
    /// Side of BNNeck's BatchNorm that embeds.
    pub head_embed: Option<HeadEmbed>,
    /// Leaves the camera embedding out.
    pub no_cameras: bool,
    /// Leaves the jigsaw out.
    pub no_jigsaw: bool,
    /// Leaves the camera statistics out.
    pub no_statistics: bool,
    /// Ignores unknown tensors. They are errors otherwise.
    pub ignore_unknown: bool,
}

/// Configuration of a file, from its header.
pub(super) struct Recognised {
    pub(super) config: VitConfig,
    pub(super) preprocess: Preprocess,
    pub(super) table: Table,
    pub(super) notes: Vec<String>,
}

/// Decides the configuration; checks that every tensor is present, and its shape and type.
///
/// # Errors
/// [`Error::Tensor`] for a tensor that is missing or doesn't fit; [`Error::Usage`] for an impossible setting;
/// [`Error::TooLarge`] for an input size with a too large position table.
pub(super) fn recognise(
    path: &Path,
    container: &Container,
    sorted: &Sorted,
    metadata: &Metadata,
    settings: &Settings,
    head_embed: HeadEmbed,
) -> Result<Recognised> {
    let file = Shapes { path, container, sorted };
    let mut chosen = Chosen { notes: Vec::new() };

    let projection = file.whole("patch_embed.proj.weight", "[D, 3, P, P]")?;
    let &[dim, 3, patch, width] = projection.shape.as_slice() else {
        return Err(file.unfit(projection, "[D, 3, P, P]"));
    };
    if dim == 0 || patch == 0 || patch != width {
        return Err(file.unfit(projection, "[D, 3, P, P]"));
    }
    let depth = file.depth(dim)?;
    let hidden = file.whole("blocks.0.mlp.fc1.weight", "[M, D]")?;
    let mlp_hidden = match hidden.shape.as_slice() {
        &[rows, _] if rows > 0 => rows,
        _ => return Err(file.unfit(hidden, &format!("[M, {dim}]"))),
    };
    let registers = match file.optional("reg_token") {
        None => 0,
        Some(tensor) => match *without_leading_ones(&tensor.shape) {
            [last] if last == dim => 1,
            [count, last] if count > 0 && last == dim && tensor.is_float() => count,
            _ => return Err(file.unfit(tensor, &format!("[1, R, {dim}]"))),
        },
    };
    let has = |name: &str| sorted.parameters.contains_key(name);
    let any_block_has = |part: &str| sorted.parameters.keys().any(|k| k.ends_with(part));
    let dist_token = has("dist_token");
    let prefix = 1 + usize::from(dist_token) + registers;
    let positions = file.whole(POSITIONS, "[1, T, D]")?;
    let rows = match positions.shape.as_slice() {
        &[rows, last] | &[1, rows, last] if last == dim => rows,
        _ => return Err(file.unfit(positions, &format!("[1, T, {dim}]"))),
    };
    let norm_pre = has("norm_pre.weight") || has("norm_pre.bias");
    let layer_scale = any_block_has(".ls1.gamma") || any_block_has(".ls2.gamma");

    let reattention =
        sorted.parameters.keys().any(|name| name.contains(".reatten_matrix.") || name.contains(".var_norm."));
    let heads = match chosen.pick("--heads", settings.heads, metadata.model.heads) {
        Some(heads) => heads,
        None if reattention => {
            let tensor = file.whole(&format!("blocks.0.{REATTENTION}"), "[H, H, 1, 1]")?;
            let &[heads, _, 1, 1] = tensor.shape.as_slice() else {
                return Err(file.unfit(tensor, "[H, H, 1, 1]"));
            };
            heads
        }
        None if AMBIGUOUS.iter().any(|(width, _)| *width == dim) => {
            let published = AMBIGUOUS.iter().find(|(width, _)| *width == dim).map_or("", |(_, which)| which);
            return Err(Error::Usage(format!(
                "published networks of width {dim} differ in their heads ({published}): set --heads (ablate: --set model.heads=N)"
            )));
        }
        None if dim % 64 == 0 => dim / 64,
        None => {
            return Err(Error::Usage(format!(
                "a width of {dim} is not a multiple of 64, so the number of heads can't be derived: set --heads"
            )));
        }
    };
    if heads == 0 || dim % heads != 0 || !(dim / heads).is_multiple_of(4) {
        return Err(Error::Usage(format!(
            "--heads {heads}: a width of {dim} needs heads that divide it into multiples of 4"
        )));
    }
    let act = chosen.pick("--act", settings.act, metadata.model.act);
    let ln_eps = chosen.pick("--ln-eps", settings.ln_eps, metadata.model.ln_eps);
    if norm_pre && act.is_none() && ln_eps.is_none() {
        chosen.notes.push(
            "norm_pre found: uses quick-GELU and LayerNorm eps 1e-5, as OpenAI's CLIP does; --act and --ln-eps override"
                .into(),
        );
    }
    if sorted.names == Names::HfVit && ln_eps.is_none() {
        chosen.notes.push("Hugging Face's ViT: uses LayerNorm eps 1e-12; --ln-eps overrides".into());
    }
    let act = act.unwrap_or(if norm_pre { Activation::QuickGelu } else { Activation::Gelu });
    let ln_eps = ln_eps.unwrap_or(match sorted.names {
        Names::HfVit => 1e-12,
        _ if norm_pre => 1e-5,
        _ => 1e-6,
    });
    if !(ln_eps.is_finite() && ln_eps > 0.0) {
        return Err(Error::Usage(format!("--ln-eps {ln_eps}: expected a small positive number")));
    }
    if layer_scale {
        chosen.notes.push("LayerScale found and kept".into());
    }
    let stride = chosen.pick("--stride", settings.stride, metadata.model.stride).unwrap_or(patch);
    if stride == 0 || stride > patch {
        return Err(Error::Usage(format!("--stride {stride}: expected 1 to {patch}, the side of a patch")));
    }
    let gelt = gelt(&mut chosen, metadata, settings)?;

    let stored = metadata.model.grid;
    if stored.is_some_and(|grid| Table::read(rows, prefix, Some(grid), None).is_none()) {
        let (r, c) = stored.unwrap_or_default();
        return Err(file.unfit(positions, &format!("rows for the {r}x{c} positions of the metadata")));
    }
    let asked = chosen.pick("--size", settings.size, metadata.preprocess.image_size());
    let image = match asked {
        Some(size) => size,
        None => match Table::read(rows, prefix, stored, None) {
            Some(table) => ImageSize { height: table.grid.0 * patch, width: table.grid.1 * patch },
            None => {
                return Err(Error::Usage(format!(
                    "the position table has {rows} rows, which are not a square grid: set --size HxW"
                )));
            }
        },
    };
    if image.height < patch || image.width < patch {
        return Err(Error::Usage(format!("--size {image}: smaller than one patch of {patch}x{patch}")));
    }
    let [below, beside] = [image.height, image.width].map(|side| (side - patch) % stride);
    if settings.size.is_some() && below + beside > 0 {
        chosen.notes.push(format!(
            "--size {image}: patches leave {below} rows and {beside} columns of pixels uncovered, which are ignored"
        ));
    }
    if image.height > MAX_SIDE || image.width > MAX_SIDE {
        return Err(Error::Usage(format!("--size {image}: more than {MAX_SIDE} pixels a side")));
    }
    let mut config = VitConfig {
        image,
        patch,
        stride,
        dim,
        depth,
        heads,
        mlp_hidden,
        dist_token,
        registers,
        // Preliminary: the table decides.
        prefix_rows: prefix,
        patch_bias: has("patch_embed.proj.bias"),
        norm_pre,
        layer_scale,
        act,
        ln_eps,
        gelt,
        head_embed,
        cameras: metadata.model.cameras.clone(),
        jigsaw: metadata.model.jigsaw,
        reattention,
        statistics: metadata.model.statistics.clone(),
    };
    let is_repeated = |names: &[String]| names.iter().collect::<BTreeSet<_>>().len() < names.len();
    if let Some(CameraTable { weight, names }) = &config.cameras
        && (!weight.is_finite() || names.is_empty() || is_repeated(names))
    {
        return Err(Error::Weights {
            path: path.to_path_buf(),
            reason:
                "its metadata has a camera embedding without a factor, without names, or with a name twice"
                    .to_string(),
        });
    }
    if let Some(CameraStatistics { cameras, images, .. }) = &config.statistics
        && (images.len() != cameras.len() + 1
            || is_repeated(cameras)
            || config.cameras.as_ref().is_some_and(|table| table.names != *cameras))
    {
        return Err(Error::Weights {
            path: path.to_path_buf(),
            reason:
                "its metadata has camera statistics with a name twice, without counts of images, or of other \
                     cameras than its camera embedding"
                    .to_string(),
        });
    }
    let grid = config.grid();
    if config.jigsaw {
        check_jigsaw(&config)?;
    } else if config.parts() > grid.0 {
        return Err(Error::Usage(format!(
            "--parts {}: more than the {} rows of patches of {image} pixels",
            config.parts(),
            grid.0
        )));
    }
    if config.tokens().saturating_mul(dim).saturating_mul(4) > MAX_TABLE {
        return Err(Error::TooLarge(format!(
            "--size {image} with stride {stride}: {} tokens of {dim} dimensions are too many for a position table",
            config.tokens()
        )));
    }
    let Some(table) = Table::read(rows, prefix, stored, Some(grid)) else {
        return Err(file.unfit(positions, &no_such_rows(prefix, grid, dim)));
    };
    config.prefix_rows = table.prefix_rows;
    if table.grid != grid {
        let ((r, c), (rows, cols)) = (table.grid, grid);
        chosen.notes.push(format!("position table resized from {r}x{c} to {rows}x{cols}"));
    }
    let normalize = match sorted.names {
        Names::OpenAiClip | Names::HfClip => Normalize::Clip,
        // Only DeiT has a distillation token. It was trained with ImageNet's normalisation.
        Names::HfVit if !dist_token => Normalize::Half,
        _ => Normalize::Imagenet,
    };
    let preprocess = preprocess(&mut chosen, metadata, settings, image, normalize)?;
    if config.statistics.is_some() && !metadata.is_of(&config, &preprocess) {
        config.statistics = None;
        chosen.notes.push(
            "the model's camera statistics are left out: they were computed with other settings".into(),
        );
    }
    file.check(&config)?;
    Ok(Recognised { config, preprocess, table, notes: chosen.notes })
}

/// Checks that a network has what the jigsaw shuffles.
///
/// # Errors
/// [`Error::Usage`] if it has tokens before the patches besides the class token, or too few patches.
pub fn check_jigsaw(config: &VitConfig) -> Result<()> {
    if config.prefix() != 1 {
        return Err(Error::Usage(format!(
            "model.jigsaw needs a network with the class token alone before its patches, and this one has {} tokens there",
            config.prefix()
        )));
    }
    if config.patches() < VitConfig::LEAST_PATCHES {
        return Err(Error::Usage(format!(
            "model.jigsaw needs {} patches, and {} pixels have {}",
            VitConfig::LEAST_PATCHES,
            config.image,
            config.patches()
        )));
    }
    Ok(())
}

/// Describes the possible rows of a position table.
fn no_such_rows(prefix: usize, grid: Grid, dim: usize) -> String {
    let (rows, cols) = grid;
    let counts = match prefix {
        1 => "1 or no row".to_string(),
        n => format!("{n}, 1 or no rows"),
    };
    format!(
        "[1, T, {dim}] with {counts} for prefix tokens, then {rows}x{cols} rows for patches, or a square number"
    )
}

/// Decides the settings of the parts.
fn gelt(chosen: &mut Chosen, metadata: &Metadata, settings: &Settings) -> Result<GeltConfig> {
    let (stored, default) = (&metadata.model.gelt, GeltConfig::default());
    let gelt = GeltConfig {
        lambda: chosen.pick("--lambda", settings.lambda, stored.lambda).unwrap_or(default.lambda),
        lambda_on: chosen
            .pick("--lambda-on", settings.lambda_on, stored.lambda_on)
            .unwrap_or(default.lambda_on),
        tokens: chosen.pick("--tokens", settings.tokens, stored.tokens).unwrap_or(default.tokens),
        parts: chosen.pick("--parts", settings.parts, stored.parts).unwrap_or(default.parts),
    };
    if !(gelt.lambda.is_finite() && gelt.lambda >= 0.0) {
        return Err(Error::Usage(format!("--lambda {}: expected 0 or more", gelt.lambda)));
    }
    Ok(gelt)
}

/// Decides the preprocessing; `normalize` is the normalisation that networks of the file's naming scheme were trained
/// with.
fn preprocess(
    chosen: &mut Chosen,
    metadata: &Metadata,
    settings: &Settings,
    size: ImageSize,
    normalize: Normalize,
) -> Result<Preprocess> {
    let stored = &metadata.preprocess;
    let flag = settings.normalize.map(Normalize::mean_std);
    let (default_mean, default_std) = normalize.mean_std();
    // Mean and deviation belong together: the default completes a file that has only one of them.
    let in_file = (stored.mean.is_some() || stored.std.is_some())
        .then(|| (stored.mean.unwrap_or(default_mean), stored.std.unwrap_or(default_std)));
    let picked = chosen.pick("--normalize", flag, in_file);
    if picked.is_none() && normalize != Normalize::Imagenet {
        let scheme = if normalize == Normalize::Clip { "CLIP's names" } else { "Hugging Face's ViT" };
        let name = word(&normalize);
        chosen.notes.push(format!("{scheme}: uses mean and deviation {name}; --normalize overrides"));
    }
    let (mean, std) = picked.unwrap_or((default_mean, default_std));
    if !mean.iter().chain(&std).all(|v| v.is_finite()) || std.iter().any(|&v| v <= 0.0) {
        return Err(Error::Usage(format!(
            "the file's metadata has the impossible mean {mean:?} and deviation {std:?}; --normalize overrides"
        )));
    }
    if let Some(other) = stored.interpolation.as_deref().filter(|&name| name != "bicubic") {
        chosen
            .notes
            .push(format!("images are resized by bicubic interpolation, the file's metadata says {other:?}"));
    }
    Ok(Preprocess::new(size, (mean, std)))
}

/// Decides each setting: the flag, else the metadata. Notes differences.
struct Chosen {
    notes: Vec<String>,
}

impl Chosen {
    fn pick<T: PartialEq + Serialize>(
        &mut self,
        name: &str,
        flag: Option<T>,
        stored: Option<T>,
    ) -> Option<T> {
        if let (Some(flag), Some(stored)) = (&flag, &stored)
            && flag != stored
        {
            self.notes.push(format!("{name} {} replaces the model's {}", word(flag), word(stored)));
        }
        flag.or(stored)
    }
}

/// Writes a setting as the user does.
fn word<T: Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(text)) => text,
        Ok(serde_json::Value::Object(size)) => {
            size.values().map(|side| side.to_string()).collect::<Vec<_>>().join("x")
        }
        // to_value would widen an f32 and show more digits.
        _ => serde_json::to_string(value).unwrap_or_default(),
    }
}

/// Parameters of a file, and errors about them.
struct Shapes<'a> {
    path: &'a Path,
    container: &'a Container,
    sorted: &'a Sorted,
}

impl<'a> Shapes<'a> {
    /// Returns the tensor of a parameter that is never split; `form` is its expected shape for the error.
    fn whole(&self, name: &str, form: &str) -> Result<&'a FileTensor> {
        let tensor = self.optional(name).ok_or_else(|| self.missing(name, form))?;
        // The bytes of an unknown element type don't confirm the shape, so it must not size anything.
        if tensor.is_float() { Ok(tensor) } else { Err(self.unfit(tensor, form)) }
    }

    /// Like [`Shapes::whole`], for a parameter that may be missing.
    fn optional(&self, name: &str) -> Option<&'a FileTensor> {
        match self.sorted.parameters.get(name) {
            Some(&Source::Whole(index)) => Some(&self.container.tensors[index]),
            _ => None,
        }
    }

    /// Counts the blocks. Refuses gaps, so that no block number from a damaged name sizes anything.
    fn depth(&self, dim: usize) -> Result<usize> {
        let mut present: Vec<usize> = self
            .sorted
            .parameters
            .keys()
            .filter_map(|name| name.strip_prefix("blocks.")?.split('.').next()?.parse().ok())
            .collect();
        present.sort_unstable();
        present.dedup();
        match present.iter().enumerate().find(|&(i, &block)| i != block) {
            Some((gap, _)) => Err(self.missing(&format!("blocks.{gap}.norm1.weight"), &format!("[{dim}]"))),
            None if present.is_empty() => Err(self.missing("blocks.0.norm1.weight", &format!("[{dim}]"))),
            None => Ok(present.len()),
        }
    }

    /// Checks every parameter of `config`; for the position table only its type, since [`Table`] checks its rows.
    fn check(&self, config: &VitConfig) -> Result<()> {
        for (name, shape) in parameter_shapes(config) {
            let form = format!("{shape:?}");
            match self.sorted.parameters.get(&name) {
                None => return Err(self.missing(&name, &form)),
                Some(&Source::Whole(index)) => {
                    let tensor = &self.container.tensors[index];
                    let fits = if is_prefix(&name) {
                        // Some files leave out the dimensions of length 1.
                        without_leading_ones(&tensor.shape) == without_leading_ones(&shape)
                    } else {
                        name == POSITIONS || tensor.shape == shape
                    };
                    if !fits || !tensor.is_float() {
                        return Err(self.unfit(tensor, &form));
                    }
                }
                Some(Source::Qkv(parts)) => {
                    let mut third = shape.clone();
                    third[0] /= 3;
                    for (part, word) in parts.iter().zip(["query", "key", "value"]) {
                        let Some(index) = *part else {
                            return Err(self.missing(&name, &format!("its {word} of {third:?}")));
                        };
                        let tensor = &self.container.tensors[index];
                        if tensor.shape != third || !tensor.is_float() {
                            return Err(self.unfit(tensor, &format!("{third:?}")));
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn missing(&self, name: &str, form: &str) -> Error {
        Error::Tensor {
            path: self.path.to_path_buf(),
            tensor: name.into(),
            expected: form.into(),
            found: "no such tensor".into(),
        }
    }

    fn unfit(&self, tensor: &FileTensor, form: &str) -> Error {
        Error::Tensor {
            path: self.path.to_path_buf(),
            tensor: tensor.name.clone(),
            expected: format!("F32, F16 or BF16 {form}"),
            found: tensor.describe(),
        }
    }
}

/// Removes the ones at the front of a shape.
fn without_leading_ones(shape: &[usize]) -> &[usize] {
    let ones = shape.iter().take_while(|&&n| n == 1).count();
    &shape[ones..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_shown_as_the_user_writes_them() {
        assert_eq!(word(&Activation::QuickGelu), "quick-gelu");
        assert_eq!(word(&ImageSize { height: 224, width: 112 }), "224x112");
        assert_eq!(word(&0.8f32), "0.8");
        assert_eq!(word(&12usize), "12");
        assert_eq!(word(&([0.5f32; 3], [0.1f32; 3])), "[[0.5,0.5,0.5],[0.1,0.1,0.1]]");
    }

    #[test]
    fn a_flag_beats_the_metadata_and_is_noted_only_where_they_differ() {
        let mut chosen = Chosen { notes: vec![] };
        assert_eq!(chosen.pick("--heads", Some(6), Some(6)), Some(6));
        assert_eq!(chosen.pick("--heads", None, Some(6)), Some(6));
        assert_eq!(chosen.pick("--heads", Some(6), None), Some(6));
        assert!(chosen.notes.is_empty());
        assert_eq!(chosen.pick("--heads", Some(6), Some(12)), Some(6));
        assert_eq!(chosen.notes, ["--heads 6 replaces the model's 12"]);
    }
}
