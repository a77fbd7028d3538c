//! Description of the network: the dimensions and options that decide its shapes and formulas.
//!
//! Letters in shape comments: B batch, N patches, T tokens (prefix + N), D `dim`, H heads, Dh `head_dim`,
//! M `mlp_hidden`, R parts (grid rows), C grid columns, K classes.

use serde::{Deserialize, Serialize};
use std::ops::Range;

/// ε of every BatchNorm: PyTorch's default, as in the released code.
pub const BATCHNORM_EPS: f32 = 1e-5;

/// `a / b`, rounded up.
pub const fn ceil_div(a: usize, b: usize) -> usize {
    a.div_ceil(b)
}

/// Height and width in pixels, written `HxW`.
///
/// ```
/// let size: lat_wgpu::ImageSize = "224x112".parse()?;
/// assert_eq!((size.height, size.width), (224, 112));
/// # Ok::<(), String>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageSize {
    /// Height in pixels.
    pub height: usize,
    /// Width in pixels.
    pub width: usize,
}

impl ImageSize {
    /// A square of `side` pixels.
    pub const fn square(side: usize) -> Self {
        ImageSize { height: side, width: side }
    }
}

impl std::fmt::Display for ImageSize {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}x{}", self.height, self.width)
    }
}

impl std::str::FromStr for ImageSize {
    type Err = String;

    /// Parses `HxW`, or one number for a square.
    fn from_str(text: &str) -> Result<Self, String> {
        let side = |s: &str| s.parse::<usize>().ok().filter(|&v| v > 0 && v <= 16_384);
        let parsed = match text.split_once(['x', 'X']) {
            Some((h, w)) => side(h).zip(side(w)),
            None => side(text).map(|s| (s, s)),
        };
        parsed
            .map(|(height, width)| ImageSize { height, width })
            .ok_or_else(|| format!("expected HxW in pixels, such as 224x112, found {text:?}"))
    }
}

/// Activation function of the MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Activation {
    /// GELU, x·Φ(x), with the exact error function: timm, DINOv2.
    Gelu,
    /// Quick-GELU, x·sigmoid(1.702·x): OpenAI's CLIP. Files of earlier versions spell it with an underscore.
    #[serde(alias = "quick_gelu")]
    QuickGelu,
}

/// Operand of the blend that λ multiplies. G is the class token, Q a row mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LambdaOn {
    /// The class token: (Q + λG)/(1+λ), the paper's eq. 6.
    Class,
    /// The row mean: (G + λQ)/(1+λ), the released code.
    Local,
}

/// Tokens that become the parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PartTokens {
    /// Globally enhanced local tokens: row means blended with the class token.
    Gelt,
    /// Row means.
    Local,
    /// The class token, repeated for every part.
    Global,
}

/// Division of the grid of patches into parts, written `rows` or as a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum PartLayout {
    /// One part per grid row, top to bottom.
    Rows,
    /// One part: the mean over all positions.
    One,
    /// So many bands of rows, top to bottom, see [`part_rows`].
    Bands(usize),
}

impl std::str::FromStr for PartLayout {
    type Err = String;

    /// Parses `rows` or a number.
    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.parse::<usize>()) {
            ("rows", _) => Ok(PartLayout::Rows),
            (_, Ok(1)) => Ok(PartLayout::One),
            (_, Ok(parts)) if parts > 1 => Ok(PartLayout::Bands(parts)),
            _ => Err(format!("expected rows or a number of parts, found {text:?}")),
        }
    }
}

impl TryFrom<String> for PartLayout {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<PartLayout> for String {
    fn from(layout: PartLayout) -> String {
        match layout {
            PartLayout::Rows => "rows".to_string(),
            PartLayout::One => "1".to_string(),
            PartLayout::Bands(parts) => parts.to_string(),
        }
    }
}

/// The rows of patches of a part: ⌊part·rows/parts⌋ to ⌈(part + 1)·rows/parts⌉ - 1, as in adaptive average pooling. Where
/// `parts` doesn't divide `rows`, neighbours share a row.
pub fn part_rows(part: usize, parts: usize, rows: usize) -> Range<usize> {
    part * rows / parts..((part + 1) * rows).div_ceil(parts)
}

/// Classifiers that train on the parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeadKind {
    /// Linear, BatchNorm, optional ReLU, dropout, Linear: the paper's eq. 7.
    Parts,
    /// BatchNorm without bias, then Linear without bias.
    Bnneck,
}

/// Layers of a part classifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClassifierKind {
    /// Linear (dim → hidden), BatchNorm, Linear (hidden → classes).
    Parts {
        /// Width between the two linear layers.
        hidden: usize,
    },
    /// BatchNorm (dim) without bias, Linear (dim → classes) without bias.
    Bnneck,
}

impl ClassifierKind {
    /// Width of the BatchNorm, for parts of width `dim`.
    pub fn width(self, dim: usize) -> usize {
        match self {
            ClassifierKind::Parts { hidden } => hidden,
            ClassifierKind::Bnneck => dim,
        }
    }
}

/// Side of BNNeck's BatchNorm that embeds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeadEmbed {
    /// The parts themselves.
    #[default]
    Before,
    /// The parts after the BatchNorm, with its running statistics.
    After,
}

/// Settings of the parts: the paper's eq. 6 and its ablations.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct GeltConfig {
    /// λ of eq. 6: 0.8 in the paper (sec. 4.2), 8 in the released code.
    pub lambda: f32,
    /// Operand that λ multiplies.
    pub lambda_on: LambdaOn,
    /// Tokens that become the parts.
    pub tokens: PartTokens,
    /// Division of the grid.
    pub parts: PartLayout,
}

impl Default for GeltConfig {
    fn default() -> Self {
        GeltConfig {
            lambda: 0.8,
            lambda_on: LambdaOn::Class,
            tokens: PartTokens::Gelt,
            parts: PartLayout::Rows,
        }
    }
}

impl GeltConfig {
    /// Weights of class token and row mean in the blend. They sum to 1.
    pub fn weights(&self) -> (f32, f32) {
        let (heavy, light) = (self.lambda / (1.0 + self.lambda), 1.0 / (1.0 + self.lambda));
        match (self.tokens, self.lambda_on) {
            (PartTokens::Local, _) => (0.0, 1.0),
            (PartTokens::Global, _) => (1.0, 0.0),
            (PartTokens::Gelt, LambdaOn::Class) => (heavy, light),
            (PartTokens::Gelt, LambdaOn::Local) => (light, heavy),
        }
    }
}

/// Dimensions and options of a network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VitConfig {
    /// Input size in pixels.
    pub image: ImageSize,
    /// Side of a square patch in pixels.
    pub patch: usize,
    /// Step between patches in pixels. Equals `patch` unless patches overlap (paper eq. 1).
    pub stride: usize,
    /// Width D of a token.
    pub dim: usize,
    /// Number of transformer blocks.
    pub depth: usize,
    /// Number of attention heads H; divides `dim`.
    pub heads: usize,
    /// Hidden width M of the MLP.
    pub mlp_hidden: usize,
    /// True if a distillation token follows the class token (DeiT).
    pub dist_token: bool,
    /// Number of register tokens (DINOv2 with registers).
    pub registers: usize,
    /// Rows of the position table for prefix tokens: one for each, 1 for the class token alone, or 0. Other prefix
    /// tokens have no position.
    pub prefix_rows: usize,
    /// True if the patch projection has a bias. CLIP's has none.
    pub patch_bias: bool,
    /// True if a LayerNorm comes before block 0 (CLIP).
    pub norm_pre: bool,
    /// True if the branches are scaled before they are added (DINOv2).
    pub layer_scale: bool,
    /// Activation function of the MLP.
    pub act: Activation,
    /// ε of every LayerNorm.
    pub ln_eps: f32,
    /// Settings of the parts.
    pub gelt: GeltConfig,
    /// Side of BNNeck's BatchNorm that embeds.
    pub head_embed: HeadEmbed,
    /// Rows of the camera embedding; `None` without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cameras: Option<CameraTable>,
    /// True if a second last block makes features of shuffled patches: TransReID's jigsaw. The parts are then the class
    /// token, and those of [`VitConfig::PIECES`] sequences of patches.
    #[serde(default, skip_serializing_if = "is_false")]
    pub jigsaw: bool,
    /// True if the heads of every block exchange their attention maps: DeepViT's re-attention.
    #[serde(default, skip_serializing_if = "is_false")]
    pub reattention: bool,
    /// Rows of the camera statistics; `None` without them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub statistics: Option<CameraStatistics>,
}

/// Leaves a switch out that is off, as files of earlier versions do.
pub(crate) fn is_false(switch: &bool) -> bool {
    !switch
}

/// The cameras of a camera embedding.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CameraTable {
    /// Factor λ of a camera's row, which is added to every token.
    pub weight: f32,
    /// Name of the camera of each row.
    pub names: Vec<String>,
}

impl CameraTable {
    /// Returns the row of a camera. `c3`, `03` and `3` are the same camera unless the table has another by that very
    /// name.
    pub fn row(&self, camera: &str) -> Option<u32> {
        row_of(&self.names, camera)
    }
}

/// Returns the place of a camera among names, see [`CameraTable::row`].
fn row_of(names: &[String], camera: &str) -> Option<u32> {
    let exact = names.iter().position(|name| name == camera);
    let row = exact.or_else(|| {
        let wanted = camera_number(camera)?;
        names.iter().position(|name| camera_number(name) == Some(wanted))
    });
    row.and_then(|row| u32::try_from(row).ok())
}

/// Returns the number in the name of a camera, such as 3 in `c3`.
pub fn camera_number(name: &str) -> Option<u32> {
    name.strip_prefix('c').unwrap_or(name).parse().ok()
}

/// Camera statistics: the mean embedding of each camera, and of all images, which an embedding loses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CameraStatistics {
    /// Name of the camera of each row but the last, which is that of all images.
    pub cameras: Vec<String>,
    /// Number of images of each row.
    pub images: Vec<usize>,
    /// True if there are deviations, which divide.
    #[serde(default, skip_serializing_if = "is_false")]
    pub deviation: bool,
    /// True if folders name the cameras of images; else the images' own names do.
    #[serde(default, skip_serializing_if = "is_false")]
    pub folders: bool,
}

impl CameraStatistics {
    /// Returns the row of a camera, by the names that [`CameraTable::row`] accepts.
    pub fn row(&self, camera: &str) -> Option<u32> {
        row_of(&self.cameras, camera)
    }

    /// Returns the row of all images.
    pub fn all(&self) -> usize {
        self.cameras.len()
    }
}

impl VitConfig {
    /// A plain ViT as in timm: patches without overlap, a class token, MLPs four times as wide as a token.
    pub fn plain(image: ImageSize, patch: usize, dim: usize, depth: usize, heads: usize) -> VitConfig {
        VitConfig {
            image,
            patch,
            stride: patch,
            dim,
            depth,
            heads,
            mlp_hidden: 4 * dim,
            dist_token: false,
            registers: 0,
            prefix_rows: 1,
            patch_bias: true,
            norm_pre: false,
            layer_scale: false,
            act: Activation::Gelu,
            ln_eps: 1e-6,
            gelt: GeltConfig::default(),
            head_embed: HeadEmbed::Before,
            cameras: None,
            jigsaw: false,
            reattention: false,
            statistics: None,
        }
    }

    /// Sequences of patches of the jigsaw.
    pub const PIECES: usize = 4;

    /// Fewest patches of the jigsaw, which rotates them by 4.
    pub const LEAST_PATCHES: usize = 5;

    /// Rows and columns of the patch grid: the paper's eq. 1 with padding 0.
    pub fn grid(&self) -> (usize, usize) {
        let along = |pixels: usize| (pixels - self.patch) / self.stride + 1;
        (along(self.image.height), along(self.image.width))
    }

    /// Number of patches N.
    pub fn patches(&self) -> usize {
        let (rows, cols) = self.grid();
        rows * cols
    }

    /// Number of prefix tokens: class token, then distillation token or registers.
    pub fn prefix(&self) -> usize {
        1 + usize::from(self.dist_token) + self.registers
    }

    /// Number of tokens T.
    pub fn tokens(&self) -> usize {
        self.prefix() + self.patches()
    }

    /// Number of rows of the position table.
    pub fn positions(&self) -> usize {
        self.prefix_rows + self.patches()
    }

    /// Width Dh of an attention head.
    pub fn head_dim(&self) -> usize {
        self.dim / self.heads
    }

    /// Number of parts R.
    pub fn parts(&self) -> usize {
        if self.jigsaw {
            return 1 + VitConfig::PIECES;
        }
        match self.gelt.parts {
            PartLayout::Rows => self.grid().0,
            PartLayout::One => 1,
            PartLayout::Bands(parts) => parts,
        }
    }

    /// Number of ranges of an embedding that have the same length: one for each part, or one in all with the jigsaw.
    pub fn unit_parts(&self) -> usize {
        if self.jigsaw { 1 } else { self.parts() }
    }

    /// Returns whether embeddings depend on the images' cameras.
    pub fn has_camera_rows(&self) -> bool {
        self.cameras.is_some() || self.statistics.is_some()
    }

    /// Dimensions of an embedding: R·D.
    pub fn embedding_len(&self) -> usize {
        self.parts() * self.dim
    }
}

/// Normalisations of common checkpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Normalize {
    /// Mean and deviation of ImageNet: DINOv2, DeiT, most of timm.
    Imagenet,
    /// Mean 0.5 and deviation 0.5: timm's AugReg ViTs.
    Half,
    /// Mean and deviation of CLIP's training set.
    Clip,
}

impl Normalize {
    /// Mean and standard deviation of R, G and B, for pixels from 0 to 1.
    pub fn mean_std(self) -> ([f32; 3], [f32; 3]) {
        match self {
            Normalize::Imagenet => ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
            Normalize::Half => ([0.5; 3], [0.5; 3]),
            Normalize::Clip => ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.261_302_6, 0.275_777_1]),
        }
    }
}

/// Preprocessing of an image to the network's input.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Preprocess {
    /// Input size in pixels. Images are stretched to it.
    pub size: ImageSize,
    /// Interpolation; "bicubic" is the only one.
    pub interpolation: String,
    /// Mean of R, G and B, which is subtracted from values from 0 to 1.
    pub mean: [f32; 3],
    /// Deviation of R, G and B, which divides the difference.
    pub std: [f32; 3],
}

impl Preprocess {
    /// Bicubic stretching to `size`, then normalisation by mean and deviation.
    pub fn new(size: ImageSize, (mean, std): ([f32; 3], [f32; 3])) -> Preprocess {
        Preprocess { size, interpolation: "bicubic".to_string(), mean, std }
    }

    /// Returns the name of the normalisation, if it has one.
    pub fn normalize(&self) -> Option<Normalize> {
        let named = [Normalize::Imagenet, Normalize::Half, Normalize::Clip];
        named.into_iter().find(|normalize| normalize.mean_std() == (self.mean, self.std))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blend_weights_follow_paper_and_released_code() {
        let paper = GeltConfig::default();
        let (g, q) = paper.weights();
        assert!((g - 0.8 / 1.8).abs() < 1e-7 && (g + q - 1.0).abs() < 1e-7);
        let code = GeltConfig { lambda: 8.0, lambda_on: LambdaOn::Local, ..paper };
        assert!((code.weights().0 - 1.0 / 9.0).abs() < 1e-7);
    }

    #[test]
    fn parts_are_rows_or_bands_of_rows_that_may_overlap() {
        for (text, layout) in
            [("rows", PartLayout::Rows), ("1", PartLayout::One), ("16", PartLayout::Bands(16))]
        {
            assert_eq!((text.parse(), String::from(layout)), (Ok(layout), text.to_string()));
        }
        for bad in ["", "0", "-1", "1.5", "Rows", "all"] {
            assert!(bad.parse::<PartLayout>().is_err(), "{bad}");
        }
        let all = |parts: usize, rows: usize| -> Vec<Range<usize>> {
            (0..parts).map(|part| part_rows(part, parts, rows)).collect()
        };
        assert_eq!(all(3, 3), [0..1, 1..2, 2..3]);
        assert_eq!(part_rows(0, 1, 7), 0..7);
        assert_eq!(all(4, 16), [0..4, 4..8, 8..12, 12..16]);
        assert_eq!(all(6, 16), [0..3, 2..6, 5..8, 8..11, 10..14, 13..16]);
    }

    #[test]
    fn cameras_are_found_by_name_or_number() {
        let table = |names: &[&str]| CameraTable {
            weight: 3.0,
            names: names.iter().map(|name| name.to_string()).collect(),
        };
        let market = table(&["c1", "c2", "c10"]);
        for (camera, row) in
            [("c1", Some(0)), ("2", Some(1)), ("010", Some(2)), ("c3", None), ("c", None), ("", None)]
        {
            assert_eq!(market.row(camera), row, "{camera}");
        }
        let named = table(&["1", "01", "hall"]);
        assert_eq!(
            ["01", "c1", "hall", "Hall"].map(|camera| named.row(camera)),
            [Some(1), Some(0), Some(2), None]
        );
    }

    #[test]
    fn image_size_reads_what_it_prints() {
        for text in ["224x112", "1x1", "384x128"] {
            assert_eq!(text.parse::<ImageSize>().unwrap().to_string(), text);
        }
        assert_eq!("96".parse(), Ok(ImageSize::square(96)));
        for bad in ["", "0x4", "4x", "x4", "-1x4", "4x4x4", "99999x1"] {
            assert!(bad.parse::<ImageSize>().is_err(), "{bad}");
        }
    }
}
