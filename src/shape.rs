//! Plain descriptions of the network: every dimension and option that decides a shape or a formula.
//!
//! Letters in shape comments, everywhere: B batch, N patches, T tokens (prefix + N), D `dim`, H heads,
//! Dh `head_dim`, M `mlp_hidden`, R parts (grid rows), C grid columns, K classes.

use serde::{Deserialize, Serialize};

/// `a / b`, rounded up.
pub const fn ceil_div(a: usize, b: usize) -> usize {
    a.div_ceil(b)
}

/// Height and width in pixels, written `HxW`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageSize {
    /// Rows of pixels.
    pub height: usize,
    /// Columns of pixels.
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

    /// Reads `HxW`, or one number for a square.
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

/// The non-linearity of the MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Activation {
    /// x·Φ(x) with the exact error function: timm, DINOv2.
    Gelu,
    /// x·sigmoid(1.702·x): OpenAI CLIP. Files of earlier versions spell it with an underscore.
    #[serde(alias = "quick_gelu")]
    QuickGelu,
}

/// Which operand of the blend carries λ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LambdaOn {
    /// (Q + λG)/(1+λ): the paper's eq. 6.
    Class,
    /// (G + λQ)/(1+λ): the released code.
    Local,
}

/// Which tokens become the parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PartTokens {
    /// Globally enhanced local tokens: row means blended with the class token.
    Gelt,
    /// Row means alone.
    Local,
    /// The class token, repeated for every part.
    Global,
}

/// How the grid of local tokens is cut into parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PartLayout {
    /// One part per grid row, top to bottom.
    #[serde(rename = "rows")]
    Rows,
    /// One part: the mean over all positions.
    #[serde(rename = "1")]
    One,
}

/// How tokens become parts: the paper's eq. 6 and its ablations.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct GeltConfig {
    /// λ of eq. 6; 0.8 in the paper (sec. 4.2), 8 in the released code.
    pub lambda: f32,
    /// Which operand carries λ.
    pub lambda_on: LambdaOn,
    /// Which tokens are blended.
    pub tokens: PartTokens,
    /// How the grid is cut.
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
    /// The weights (class token, row mean) of the blend; they sum to 1.
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

/// Everything that decides the network's shapes and formulas; weights apart.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VitConfig {
    /// Input size in pixels.
    pub image: ImageSize,
    /// Side of a square patch in pixels.
    pub patch: usize,
    /// Step between patches in pixels; equals `patch` unless they overlap (paper eq. 1).
    pub stride: usize,
    /// D, width of a token.
    pub dim: usize,
    /// Number of transformer blocks.
    pub depth: usize,
    /// H, attention heads; divides `dim`.
    pub heads: usize,
    /// M, hidden width of the MLP.
    pub mlp_hidden: usize,
    /// Whether a distillation token (DeiT) follows the class token.
    pub dist_token: bool,
    /// Number of register tokens (DINOv2 with registers).
    pub registers: usize,
    /// Rows of the position table for tokens before the patches: one for each, 1 (the class token alone) or 0. The
    /// others have no position.
    pub prefix_rows: usize,
    /// Whether the patch projection has a bias (CLIP's has none).
    pub patch_bias: bool,
    /// Whether a LayerNorm stands before block 0 (CLIP).
    pub norm_pre: bool,
    /// Whether the branches are scaled before they are added (DINOv2).
    pub layer_scale: bool,
    /// The MLP's non-linearity.
    pub act: Activation,
    /// ε of every LayerNorm.
    pub ln_eps: f32,
    /// How tokens become parts.
    pub gelt: GeltConfig,
}

impl VitConfig {
    /// An ordinary ViT as timm builds it: patches side by side, a class token, MLPs four times as wide as a token.
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
        }
    }

    /// Rows and columns of the patch grid, paper eq. 1 with padding 0.
    pub fn grid(&self) -> (usize, usize) {
        let along = |pixels: usize| (pixels - self.patch) / self.stride + 1;
        (along(self.image.height), along(self.image.width))
    }

    /// N, number of patches.
    pub fn patches(&self) -> usize {
        let (rows, cols) = self.grid();
        rows * cols
    }

    /// Tokens before the patches: class, then distillation or registers.
    pub fn prefix(&self) -> usize {
        1 + usize::from(self.dist_token) + self.registers
    }

    /// T, number of tokens.
    pub fn tokens(&self) -> usize {
        self.prefix() + self.patches()
    }

    /// Rows of the position table.
    pub fn positions(&self) -> usize {
        self.prefix_rows + self.patches()
    }

    /// Dh, width of one attention head.
    pub fn head_dim(&self) -> usize {
        self.dim / self.heads
    }

    /// R, number of parts.
    pub fn parts(&self) -> usize {
        match self.gelt.parts {
            PartLayout::Rows => self.grid().0,
            PartLayout::One => 1,
        }
    }

    /// Length of one embedding: R·D.
    pub fn embedding_len(&self) -> usize {
        self.parts() * self.dim
    }
}

/// The normalisations that common checkpoints were trained with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Normalize {
    /// Mean and deviation of ImageNet: DINOv2, DeiT, most of timm.
    Imagenet,
    /// 0.5 and 0.5: timm's AugReg ViTs.
    Half,
    /// Mean and deviation of CLIP's training set.
    Clip,
}

impl Normalize {
    /// Mean and standard deviation of R, G, B, for pixels in 0..=1.
    pub fn mean_std(self) -> ([f32; 3], [f32; 3]) {
        match self {
            Normalize::Imagenet => ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
            Normalize::Half => ([0.5; 3], [0.5; 3]),
            Normalize::Clip => ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.261_302_6, 0.275_777_1]),
        }
    }
}

/// How an image becomes the network's input.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Preprocess {
    /// Size that images are stretched to, in pixels.
    pub size: ImageSize,
    /// Filter that stretches them; "bicubic" is the only one there is.
    pub interpolation: String,
    /// Subtracted from R, G, B in 0..=1.
    pub mean: [f32; 3],
    /// Divides what is left.
    pub std: [f32; 3],
}

impl Preprocess {
    /// Stretches to `size` by the one filter there is, and normalises with these values.
    pub fn new(size: ImageSize, (mean, std): ([f32; 3], [f32; 3])) -> Preprocess {
        Preprocess { size, interpolation: "bicubic".to_string(), mean, std }
    }

    /// The normalisation with this mean and deviation, where it is one of those that have a name.
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
