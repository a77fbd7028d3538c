//! The table of a network's tensors: timm's names and shapes. Loading, initialisation, saving, the arenas on the
//! adapter and the state of a training run follow it.

use crate::shape::{ClassifierKind, HeadEmbed, VitConfig};

/// Shape of a tensor; `None` if the network lacks it.
type Shape = fn(&VitConfig) -> Option<Vec<usize>>;

const WIDTH: Shape = |c| Some(vec![c.dim]);
const NORM_PRE: Shape = |c| c.norm_pre.then(|| vec![c.dim]);
const SCALE: Shape = |c| c.layer_scale.then(|| vec![c.dim]);
const BY_HEAD: Shape = |c| c.reattention.then(|| vec![c.heads]);

/// Name of the position table.
pub(super) const POSITIONS: &str = "pos_embed";

/// Name in a block of the weights by which re-attention mixes the heads, as in DeepViT.
pub(super) const REATTENTION: &str = "attn.reatten_matrix.weight";

/// Returns whether a tensor of a block is a running statistic of re-attention's norm, which has no gradient.
pub fn is_block_statistic(name: &str) -> bool {
    name.contains(".var_norm.running_")
}

/// Name of the camera embedding, as in TransReID.
pub const CAMERAS: &str = "sie_embed";

/// Tensors before the blocks.
const STEM: [(&str, Shape); 9] = [
    ("patch_embed.proj.weight", |c| Some(vec![c.dim, 3, c.patch, c.patch])),
    ("patch_embed.proj.bias", |c| c.patch_bias.then(|| vec![c.dim])),
    ("cls_token", |c| Some(vec![1, 1, c.dim])),
    ("dist_token", |c| c.dist_token.then(|| vec![1, 1, c.dim])),
    ("reg_token", |c| (c.registers > 0).then(|| vec![1, c.registers, c.dim])),
    (POSITIONS, |c| Some(vec![1, c.positions(), c.dim])),
    (CAMERAS, |c| c.cameras.as_ref().map(|cameras| vec![cameras.names.len(), 1, c.dim])),
    ("norm_pre.weight", NORM_PRE),
    ("norm_pre.bias", NORM_PRE),
];

/// Tensors of a block. Their names follow `blocks.{i}.`.
const BLOCK: [(&str, Shape); 20] = [
    ("norm1.weight", WIDTH),
    ("norm1.bias", WIDTH),
    ("attn.qkv.weight", |c| Some(vec![3 * c.dim, c.dim])),
    ("attn.qkv.bias", |c| Some(vec![3 * c.dim])),
    (REATTENTION, |c| c.reattention.then(|| vec![c.heads, c.heads, 1, 1])),
    ("attn.reatten_matrix.bias", BY_HEAD),
    ("attn.var_norm.weight", BY_HEAD),
    ("attn.var_norm.bias", BY_HEAD),
    ("attn.var_norm.running_mean", BY_HEAD),
    ("attn.var_norm.running_var", BY_HEAD),
    ("attn.proj.weight", |c| Some(vec![c.dim, c.dim])),
    ("attn.proj.bias", WIDTH),
    ("ls1.gamma", SCALE),
    ("norm2.weight", WIDTH),
    ("norm2.bias", WIDTH),
    ("mlp.fc1.weight", |c| Some(vec![c.mlp_hidden, c.dim])),
    ("mlp.fc1.bias", |c| Some(vec![c.mlp_hidden])),
    ("mlp.fc2.weight", |c| Some(vec![c.dim, c.mlp_hidden])),
    ("mlp.fc2.bias", WIDTH),
    ("ls2.gamma", SCALE),
];

/// Tensors after the blocks.
const END: [(&str, Shape); 4] = [
    ("norm.weight", WIDTH),
    ("norm.bias", WIDTH),
    (STATISTICS_MEAN, |c| c.statistics.as_ref().map(|rows| vec![rows.all() + 1, c.embedding_len()])),
    (STATISTICS_DEVIATION, |c| {
        let rows = c.statistics.as_ref().filter(|rows| rows.deviation)?;
        Some(vec![rows.all() + 1, c.embedding_len()])
    }),
];

/// Prefix of the names of the camera statistics.
pub const STATISTICS: &str = "statistics.";

/// Name of the means: a row for each camera, and one for all images.
pub const STATISTICS_MEAN: &str = "statistics.mean";

/// Name of the deviations, with the same rows.
pub const STATISTICS_DEVIATION: &str = "statistics.deviation";

/// Prefix of the names of the components that reduce embeddings, and name of their entry in the metadata.
pub const REDUCTION: &str = "reduction.";

/// Prefix of the names of the jigsaw's block and norm, as in TransReID.
pub const JIGSAW: &str = "b2.";

/// Prefix of the names of the jigsaw's block.
pub const JIGSAW_BLOCK: &str = "b2.0";

/// Prefix of the names of the jigsaw's norm.
pub const JIGSAW_NORM: &str = "b2.1";

/// Names of the jigsaw's tensors, and those of the backbone's that they start as copies of.
pub fn jigsaw_names(depth: usize) -> Vec<(String, String)> {
    let last = depth.saturating_sub(1);
    let block =
        BLOCK.iter().map(|(name, _)| (format!("{JIGSAW_BLOCK}.{name}"), format!("blocks.{last}.{name}")));
    let norm = ["weight", "bias"].map(|name| (format!("{JIGSAW_NORM}.{name}"), format!("norm.{name}")));
    block.chain(norm).collect()
}

/// Names of tensors outside the blocks.
pub(super) fn outer_names() -> impl Iterator<Item = &'static str> {
    STEM.iter().chain(&END).map(|(name, _)| *name)
}

/// Names of tensors inside a block.
pub(super) fn block_names() -> impl Iterator<Item = &'static str> {
    BLOCK.iter().map(|(name, _)| *name)
}

/// Lists the backbone's parameters with timm's names and their shapes, in the order of the forward pass.
///
/// `pos_embed` is (1, rows, D): one row for every prefix token that has a position, then one for every patch. A network
/// that embeds after BNNeck's BatchNorm also has that BatchNorm's tensors for each part.
pub fn parameter_shapes(config: &VitConfig) -> Vec<(String, Vec<usize>)> {
    let blocks =
        (0..config.depth).flat_map(|i| BLOCK.map(|(name, shape)| (format!("blocks.{i}.{name}"), shape)));
    let outer = |list: &[(&str, Shape)]| {
        list.iter().map(|(name, shape)| (name.to_string(), *shape)).collect::<Vec<_>>()
    };
    let jigsaw = || {
        let block = BLOCK.map(|(name, shape)| (format!("{JIGSAW_BLOCK}.{name}"), shape));
        let norm = ["weight", "bias"].map(|name| (format!("{JIGSAW_NORM}.{name}"), WIDTH));
        block.into_iter().chain(norm)
    };
    let jigsaw = config.jigsaw.then(jigsaw).into_iter().flatten();
    let all = outer(&STEM).into_iter().chain(blocks).chain(outer(&END)).chain(jigsaw);
    let own = all.filter_map(|(name, shape)| Some((name, shape(config)?)));
    let embedding = match config.head_embed {
        HeadEmbed::Before => 0,
        HeadEmbed::After => config.parts(),
    };
    let necks = (0..embedding).flat_map(|part| {
        let tensors = classifier_tensors(ClassifierKind::Bnneck, config.dim, 0).into_iter();
        tensors.filter(|tensor| tensor.is_neck()).map(move |tensor| (tensor.of(part), tensor.shape))
    });
    own.chain(necks).collect()
}

/// Returns whether a parameter holds prefix tokens.
pub fn is_prefix(name: &str) -> bool {
    matches!(name, "cls_token" | "dist_token" | "reg_token")
}

/// A tensor of a part classifier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClassifierTensor {
    /// Name after `heads.{i}.`.
    pub name: &'static str,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// False for running statistics, which have no gradient.
    pub learned: bool,
}

impl ClassifierTensor {
    /// Full name in the classifier of a part.
    pub fn of(&self, part: usize) -> String {
        format!("heads.{part}.{}", self.name)
    }

    /// Returns whether it belongs to the BatchNorm.
    pub fn is_neck(&self) -> bool {
        self.name.starts_with("bn.")
    }
}

/// Lists the tensors of a part classifier, in the order of the forward pass.
pub fn classifier_tensors(kind: ClassifierKind, dim: usize, classes: usize) -> Vec<ClassifierTensor> {
    let tensors = match kind {
        ClassifierKind::Parts { hidden } => vec![
            ("fc1.weight", vec![hidden, dim], true),
            ("fc1.bias", vec![hidden], true),
            ("bn.weight", vec![hidden], true),
            ("bn.bias", vec![hidden], true),
            ("bn.running_mean", vec![hidden], false),
            ("bn.running_var", vec![hidden], false),
            ("fc2.weight", vec![classes, hidden], true),
            ("fc2.bias", vec![classes], true),
        ],
        ClassifierKind::Bnneck => vec![
            ("bn.weight", vec![dim], true),
            ("bn.running_mean", vec![dim], false),
            ("bn.running_var", vec![dim], false),
            ("classifier.weight", vec![classes, dim], true),
        ],
    };
    let tensor = |(name, shape, learned)| ClassifierTensor { name, shape, learned };
    tensors.into_iter().map(tensor).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::ImageSize;

    #[test]
    fn vit_base_has_its_published_number_of_parameters() {
        let config = VitConfig::plain(ImageSize::square(224), 16, 768, 12, 12);
        let shapes = parameter_shapes(&config);
        let total: usize = shapes.iter().map(|(_, s)| s.iter().product::<usize>()).sum();
        assert_eq!((total, shapes.len()), (85_798_656, 150));
    }
}
