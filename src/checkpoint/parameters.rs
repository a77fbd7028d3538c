//! The one table of a network's tensors: their names in timm's manner and their shapes. Reading, drawing, saving, the
//! arenas on the device and the state of a training run follow it.

use crate::shape::VitConfig;

/// The shape of a tensor; `None` for a network that lacks it.
type Shape = fn(&VitConfig) -> Option<Vec<usize>>;

const WIDTH: Shape = |c| Some(vec![c.dim]);
const NORM_PRE: Shape = |c| c.norm_pre.then(|| vec![c.dim]);
const SCALE: Shape = |c| c.layer_scale.then(|| vec![c.dim]);

/// The position table.
pub(super) const POSITIONS: &str = "pos_embed";

/// Before the blocks.
const STEM: [(&str, Shape); 8] = [
    ("patch_embed.proj.weight", |c| Some(vec![c.dim, 3, c.patch, c.patch])),
    ("patch_embed.proj.bias", |c| c.patch_bias.then(|| vec![c.dim])),
    ("cls_token", |c| Some(vec![1, 1, c.dim])),
    ("dist_token", |c| c.dist_token.then(|| vec![1, 1, c.dim])),
    ("reg_token", |c| (c.registers > 0).then(|| vec![1, c.registers, c.dim])),
    (POSITIONS, |c| Some(vec![1, c.positions(), c.dim])),
    ("norm_pre.weight", NORM_PRE),
    ("norm_pre.bias", NORM_PRE),
];

/// In every block, behind `blocks.{i}.`.
const BLOCK: [(&str, Shape); 14] = [
    ("norm1.weight", WIDTH),
    ("norm1.bias", WIDTH),
    ("attn.qkv.weight", |c| Some(vec![3 * c.dim, c.dim])),
    ("attn.qkv.bias", |c| Some(vec![3 * c.dim])),
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

/// Behind the blocks.
const END: [(&str, Shape); 2] = [("norm.weight", WIDTH), ("norm.bias", WIDTH)];

/// Names outside the blocks, of any network.
pub(super) fn outer_names() -> impl Iterator<Item = &'static str> {
    STEM.iter().chain(&END).map(|(name, _)| *name)
}

/// Names inside a block, of any network.
pub(super) fn block_names() -> impl Iterator<Item = &'static str> {
    BLOCK.iter().map(|(name, _)| *name)
}

/// Every backbone parameter in timm's names with its shape, in the order of the forward pass.
///
/// `pos_embed` is (1, rows, D): a row for every patch, before them one for every prefix token that has a position.
pub fn parameter_shapes(config: &VitConfig) -> Vec<(String, Vec<usize>)> {
    let blocks =
        (0..config.depth).flat_map(|i| BLOCK.map(|(name, shape)| (format!("blocks.{i}.{name}"), shape)));
    let outer = |list: &[(&str, Shape)]| {
        list.iter().map(|(name, shape)| (name.to_string(), *shape)).collect::<Vec<_>>()
    };
    let all = outer(&STEM).into_iter().chain(blocks).chain(outer(&END));
    all.filter_map(|(name, shape)| Some((name, shape(config)?))).collect()
}

/// Returns whether a backbone parameter holds tokens that come before those of the patches.
pub fn is_prefix(name: &str) -> bool {
    matches!(name, "cls_token" | "dist_token" | "reg_token")
}

/// A tensor of a part classifier Linear (dim → hidden), BatchNorm, Linear (hidden → classes).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeadTensor {
    /// Its name behind `heads.{i}.`.
    pub name: &'static str,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// False for running statistics, which no gradient reaches.
    pub learned: bool,
}

impl HeadTensor {
    /// Its name in the classifier of a part.
    pub fn of(&self, part: usize) -> String {
        format!("heads.{part}.{}", self.name)
    }
}

/// Every tensor of a part classifier, in the order of the forward pass.
pub fn head_tensors(dim: usize, hidden: usize, classes: usize) -> [HeadTensor; 8] {
    [
        ("fc1.weight", vec![hidden, dim], true),
        ("fc1.bias", vec![hidden], true),
        ("bn.weight", vec![hidden], true),
        ("bn.bias", vec![hidden], true),
        ("bn.running_mean", vec![hidden], false),
        ("bn.running_var", vec![hidden], false),
        ("fc2.weight", vec![classes, hidden], true),
        ("fc2.bias", vec![classes], true),
    ]
    .map(|(name, shape, learned)| HeadTensor { name, shape, learned })
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
