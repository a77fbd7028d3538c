//! The parameters: groups of tensors, and one arena of device memory per group.
//! Blockwise fine-tuning opens or freezes a group as a whole [LAT Alg. 1]. In an arena, every slot starts at a multiple
//! of 256 bytes: kernels can bind a single slot, and the optimiser updates the arena as one tensor.

use crate::checkpoint::{
    ClassifierTensor, HostTensor, JIGSAW, JIGSAW_BLOCK, STATISTICS, classifier_tensors, is_block_statistic,
    is_prefix, parameter_shapes,
};
use crate::error::{Error, Result};
use crate::gpu::{Buffer, Context, Storage, WORD};
use crate::layers::linear::Linear;
use crate::layers::norm::Norm;
use crate::layers::part_classifier::ClassifierShape;
use crate::shape::{ClassifierKind, HeadEmbed, VitConfig};
use half::f16;
use std::collections::BTreeMap;
use std::ops::Range;

/// Tensors that are trained or frozen together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum GroupKind {
    /// Patch projection, prefix tokens, positions and the norm before the blocks.
    Embeddings,
    /// The block of this index.
    Block(usize),
    /// Final norm, the jigsaw's block and norm, and the camera statistics.
    Norm,
    /// Part classifiers.
    PartClassifiers,
    /// Running statistics of re-attention, which have no gradient and never train.
    Statistics,
}

impl GroupKind {
    /// Returns all groups of a network with `depth` blocks that may train, in the order of the forward pass.
    pub fn all(depth: usize) -> Vec<GroupKind> {
        let blocks = (0..depth).map(GroupKind::Block);
        let (first, last) = ([GroupKind::Embeddings], [GroupKind::Norm, GroupKind::PartClassifiers]);
        first.into_iter().chain(blocks).chain(last).collect()
    }

    /// Returns the group of a parameter by its name in timm.
    pub fn of(name: &str) -> GroupKind {
        let block = name.strip_prefix("blocks.").and_then(|rest| rest.split('.').next()?.parse().ok());
        match block {
            _ if is_block_statistic(name) => GroupKind::Statistics,
            Some(i) => GroupKind::Block(i),
            None if ["norm.", JIGSAW, STATISTICS].iter().any(|start| name.starts_with(start)) => {
                GroupKind::Norm
            }
            None if name.starts_with("heads.") => GroupKind::PartClassifiers,
            None => GroupKind::Embeddings,
        }
    }
}

impl std::fmt::Display for GroupKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            GroupKind::Embeddings => write!(f, "embeddings"),
            GroupKind::Block(i) => write!(f, "blocks.{i}"),
            GroupKind::Norm => write!(f, "norm"),
            GroupKind::PartClassifiers => write!(f, "heads"),
            GroupKind::Statistics => write!(f, "statistics"),
        }
    }
}

/// A range of words in an arena that kernels bind as one tensor: one tensor of the checkpoint, or several in a row (the
/// prefix tokens; the same tensor of all part classifiers).
#[derive(Debug, Clone)]
pub struct Slot {
    /// Name by which layers find it.
    pub label: String,
    /// Names and shapes in the checkpoint, in order.
    pub tensors: Vec<(String, Vec<usize>)>,
    /// Storage of its elements.
    pub storage: Storage,
    /// First word in the arena.
    pub start: usize,
    /// Length in words, without padding.
    pub words: usize,
}

impl Slot {
    /// Returns the number of elements.
    fn elements(&self) -> usize {
        self.tensors.iter().map(|(_, shape)| shape.iter().product::<usize>()).sum()
    }

    /// Returns true for a matrix of a block. These are the weights of products, and most of a network's parameters.
    fn is_matrix(&self) -> bool {
        let shape = self.tensors.first().map_or(0, |(_, shape)| shape.len());
        (self.label.starts_with("blocks.") || self.label.starts_with(JIGSAW_BLOCK)) && shape == 2
    }
}

/// The layout of one arena.
#[derive(Debug, Clone)]
pub struct Group {
    /// The group.
    pub kind: GroupKind,
    /// Slots in order of their start.
    pub slots: Vec<Slot>,
    /// Length in words, including padding.
    pub words: usize,
}

impl Group {
    fn new(kind: GroupKind) -> Group {
        Group { kind, slots: Vec::new(), words: 0 }
    }

    fn push(&mut self, label: &str, tensors: Vec<(String, Vec<usize>)>, storage: Storage) {
        let mut slot = Slot { label: label.to_string(), tensors, storage, start: self.words, words: 0 };
        slot.words = (slot.elements() as u64 * storage.bytes()).div_ceil(WORD) as usize;
        self.words = (self.words + slot.words).next_multiple_of(Buffer::SLICE_ALIGN);
        self.slots.push(slot);
    }

    /// Adds a slot with a tensor of all part classifiers.
    fn push_stacked(&mut self, tensor: &ClassifierTensor, parts: usize) {
        let stacked = (0..parts).map(|part| (tensor.of(part), tensor.shape.clone())).collect();
        self.push(&format!("heads.{}", tensor.name), stacked, Storage::F32);
    }

    /// Returns a layout of the slots that `keep` selects, in `storage`.
    fn subset(&self, storage: Storage, keep: impl Fn(&Slot) -> bool) -> Group {
        let mut subset = Group::new(self.kind);
        for slot in self.slots.iter().filter(|slot| keep(slot)) {
            subset.push(&slot.label, slot.tensors.clone(), storage);
        }
        subset
    }

    /// Returns the words of the slots that are biases: those whose names in the checkpoint contain "bias".
    pub fn biases(&self) -> impl Iterator<Item = Range<usize>> {
        let is_bias = |slot: &&Slot| slot.tensors.iter().any(|(name, _)| name.contains("bias"));
        self.slots.iter().filter(is_bias).map(|slot| slot.start..slot.start + slot.words)
    }

    /// Returns the number of parameters.
    pub fn parameters(&self) -> usize {
        self.slots.iter().map(Slot::elements).sum()
    }

    /// Returns the bytes of an arena of this layout.
    pub fn bytes(&self) -> u64 {
        self.words as u64 * WORD
    }
}

/// Returns the layouts of the backbone's groups that may train, in the order of the forward pass. BNNeck's BatchNorm is the last one, if
/// the network embeds after it.
pub fn backbone_groups(config: &VitConfig) -> Vec<Group> {
    let kinds = GroupKind::all(config.depth).into_iter().filter(|kind| *kind != GroupKind::PartClassifiers);
    let mut groups: Vec<Group> = kinds.map(Group::new).collect();
    let mut prefix = Vec::new();
    for (name, shape) in parameter_shapes(config) {
        let group = match GroupKind::of(&name) {
            GroupKind::Block(i) => &mut groups[1 + i],
            GroupKind::Norm => &mut groups[1 + config.depth],
            GroupKind::Embeddings => &mut groups[0],
            GroupKind::PartClassifiers | GroupKind::Statistics => continue,
        };
        if is_prefix(&name) {
            prefix.push((name, shape));
        } else {
            group.push(&name.clone(), vec![(name, shape)], Storage::F32);
        }
    }
    groups[0].push("prefix", prefix, Storage::F32);
    if config.head_embed == HeadEmbed::After {
        let mut neck = Group::new(GroupKind::PartClassifiers);
        let tensors = classifier_tensors(ClassifierKind::Bnneck, config.dim, 0);
        tensors
            .iter()
            .filter(|tensor| tensor.is_neck())
            .for_each(|tensor| neck.push_stacked(tensor, config.parts()));
        groups.push(neck);
    }
    groups
}

/// Returns the layouts of all tensors that embed.
pub fn inference_groups(config: &VitConfig) -> Vec<Group> {
    backbone_groups(config).into_iter().chain(statistics_group(config)).collect()
}

/// Returns the layout of the running statistics of re-attention, if the network has it.
pub fn statistics_group(config: &VitConfig) -> Option<Group> {
    let mut group = Group::new(GroupKind::Statistics);
    for (name, shape) in parameter_shapes(config).into_iter().filter(|(name, _)| is_block_statistic(name)) {
        group.push(&name.clone(), vec![(name, shape)], Storage::F32);
    }
    config.reattention.then_some(group)
}

/// Checks that rows of weights and activations are whole quads, as f16 storage needs.
///
/// # Errors
/// [`Error::Usage`] if the width of tokens or of the MLP isn't a multiple of 4.
pub fn check_widths(config: &VitConfig) -> Result<()> {
    let VitConfig { dim, mlp_hidden, .. } = *config;
    if dim.is_multiple_of(4) && mlp_hidden.is_multiple_of(4) {
        return Ok(());
    }
    Err(Error::Usage(format!(
        "--precision f16 needs widths that are multiples of 4; this network's are {dim} and {mlp_hidden}"
    )))
}

/// Returns layouts of the blocks' matrices alone, in `storage`.
pub fn matrices(groups: &[Group], storage: Storage) -> Vec<Group> {
    let blocks = groups.iter().map(|group| group.subset(storage, Slot::is_matrix));
    blocks.filter(|group| !group.slots.is_empty()).collect()
}

/// Returns layouts of all but the blocks' matrices.
pub fn without_matrices(groups: &[Group]) -> Vec<Group> {
    groups.iter().map(|group| group.subset(Storage::F32, |slot| !slot.is_matrix())).collect()
}

/// Returns the layout of the part classifiers. Each slot stacks a tensor over all parts.
pub fn classifier_group(shape: ClassifierShape) -> Group {
    let ClassifierShape { parts, dim, kind, classes } = shape;
    let mut group = Group::new(GroupKind::PartClassifiers);
    for tensor in classifier_tensors(kind, dim, classes).iter().filter(|tensor| tensor.learned) {
        group.push_stacked(tensor, parts);
    }
    group
}

/// One arena per group, with their slots by label.
#[derive(Debug)]
pub struct Arenas {
    /// Layout and memory of each group.
    pub groups: Vec<(Group, Buffer)>,
    slots: BTreeMap<String, (Buffer, Storage)>,
    /// Bytes that groups save by sharing memory.
    shared_bytes: u64,
}

impl Arenas {
    /// Allocates zeroed arenas.
    ///
    /// # Errors
    /// [`Error::TooLarge`] if an arena exceeds the adapter's largest buffer, or a slot its largest binding.
    pub fn zeroed(context: &Context, groups: &[Group]) -> Result<Arenas> {
        Arenas::with_memory(context, groups, |group| Ok(context.arena(&group.kind.to_string(), group.words)?))
    }

    /// Allocates zeroed arenas for groups that are used one at a time. All blocks, which have the same layout, share
    /// one arena.
    ///
    /// # Errors
    /// As [`Arenas::zeroed`].
    pub fn shared(context: &Context, groups: &[Group]) -> Result<Arenas> {
        Arenas::sharing(context, groups, |label, words| Ok(context.arena(label, words)?))
    }

    /// [`Arenas::zeroed`] without memory, for recordings that are only summarised.
    ///
    /// # Errors
    /// [`Error::TooLarge`] if a slot exceeds one binding.
    pub fn unallocated(context: &Context, groups: &[Group]) -> Result<Arenas> {
        let label = |group: &Group| group.kind.to_string();
        Arenas::with_memory(context, groups, |group| Ok(context.unallocated(&label(group), group.words)))
    }

    /// [`Arenas::shared`] without memory.
    ///
    /// # Errors
    /// As [`Arenas::unallocated`].
    pub fn unallocated_shared(context: &Context, groups: &[Group]) -> Result<Arenas> {
        Arenas::sharing(context, groups, |label, words| Ok(context.unallocated(label, words)))
    }

    fn sharing(
        context: &Context,
        groups: &[Group],
        make: impl Fn(&str, usize) -> Result<Buffer>,
    ) -> Result<Arenas> {
        let mut block: Option<Buffer> = None;
        let mut arenas = Arenas::with_memory(context, groups, |group| match (group.kind, &block) {
            (GroupKind::Block(_), Some(arena)) => Ok(arena.clone()),
            (GroupKind::Block(_), None) => Ok(block.insert(make("blocks", group.words)?).clone()),
            _ => make(&group.kind.to_string(), group.words),
        })?;
        arenas.shared_bytes = groups
            .iter()
            .filter(|group| matches!(group.kind, GroupKind::Block(_)))
            .skip(1)
            .map(Group::bytes)
            .sum();
        Ok(arenas)
    }

    fn with_memory(
        context: &Context,
        groups: &[Group],
        mut arena_of: impl FnMut(&Group) -> Result<Buffer>,
    ) -> Result<Arenas> {
        let mut arenas = Arenas { groups: Vec::new(), slots: BTreeMap::new(), shared_bytes: 0 };
        for group in groups {
            let arena = arena_of(group)?;
            for slot in &group.slots {
                if slot.words as u64 * WORD > context.max_tensor_bytes() {
                    return Err(Error::TooLarge(format!(
                        "{} has {} bytes, more than one binding holds",
                        slot.label,
                        slot.words as u64 * WORD
                    )));
                }
                let memory = arena.slice(&slot.label, slot.start, slot.words);
                arenas.slots.insert(slot.label.clone(), (memory, slot.storage));
            }
            arenas.groups.push((group.clone(), arena));
        }
        Ok(arenas)
    }

    /// Allocates arenas and writes tensors by name.
    ///
    /// # Errors
    /// As [`Arenas::zeroed`].
    ///
    /// # Panics
    /// If a tensor is missing. `checkpoint` returns complete networks only.
    pub fn upload(
        context: &Context,
        groups: &[Group],
        tensors: &BTreeMap<String, HostTensor>,
    ) -> Result<Arenas> {
        let arenas = Arenas::zeroed(context, groups)?;
        arenas.write(context, tensors);
        Ok(arenas)
    }

    /// Writes every slot from tensors by name.
    ///
    /// # Panics
    /// If a tensor is missing or has the wrong length.
    pub fn write(&self, context: &Context, tensors: &BTreeMap<String, HostTensor>) {
        for (group, _) in &self.groups {
            for slot in &group.slots {
                let mut data = Vec::with_capacity(slot.elements());
                for (name, _) in &slot.tensors {
                    let tensor = tensors.get(name).unwrap_or_else(|| panic!("the network has no {name}"));
                    data.extend_from_slice(&tensor.data);
                }
                assert_eq!(data.len(), slot.elements(), "{}: length", slot.label);
                let (memory, _) = &self.slots[&slot.label];
                match slot.storage {
                    Storage::F32 => context.write(memory, bytemuck::cast_slice(&data)),
                    Storage::F16 | Storage::Packed => {
                        let values: Vec<f16> = data.iter().map(|&value| f16::from_f32(value)).collect();
                        context.write(memory, bytemuck::cast_slice(&values));
                    }
                }
            }
        }
    }

    /// Reads every tensor, by its name in a checkpoint. All slots must be f32.
    ///
    /// # Errors
    /// Those of the adapter.
    pub fn read(&self, context: &Context) -> Result<BTreeMap<String, HostTensor>> {
        let mut tensors = BTreeMap::new();
        for (group, arena) in &self.groups {
            let words = context.read(arena)?;
            for slot in &group.slots {
                let mut start = slot.start;
                for (name, shape) in &slot.tensors {
                    let len: usize = shape.iter().product();
                    let data = words[start..start + len].to_vec();
                    tensors.insert(name.clone(), HostTensor { shape: shape.clone(), data });
                    start += len;
                }
            }
        }
        Ok(tensors)
    }

    /// Returns the bytes of all arenas.
    pub fn bytes(&self) -> u64 {
        self.groups.iter().map(|(group, _)| group.bytes()).sum::<u64>() - self.shared_bytes
    }

    /// Returns the arena of a group.
    ///
    /// # Panics
    /// If there is none.
    pub fn arena(&self, kind: GroupKind) -> &Buffer {
        let found = self.groups.iter().find(|(group, _)| group.kind == kind);
        &found.unwrap_or_else(|| panic!("there is no {kind}")).1
    }

    /// Returns a slot that must exist.
    ///
    /// # Panics
    /// If there is no slot with that label.
    pub fn get(&self, label: &str) -> Buffer {
        self.find(label).unwrap_or_else(|| panic!("there is no {label}"))
    }

    /// Returns a slot if it exists.
    pub fn find(&self, label: &str) -> Option<Buffer> {
        self.slots.get(label).map(|(memory, _)| memory.clone())
    }

    /// Returns every slot with its group and storage. The buffer's label is the slot's.
    pub fn slots(&self) -> impl Iterator<Item = (GroupKind, &Buffer, Storage)> {
        self.slots.iter().map(|(label, (memory, storage))| (GroupKind::of(label), memory, *storage))
    }

    /// Returns a linear layer. Its weight comes from `matrices` if they have it.
    ///
    /// # Panics
    /// If there is no layer with that name.
    pub fn linear(&self, name: &str, matrices: Option<&Arenas>) -> Linear {
        let label = format!("{name}.weight");
        let slots = [matrices, Some(self)].into_iter().flatten();
        let found = slots.filter_map(|arenas| arenas.slots.get(&label)).next();
        let (weight, storage) = found.unwrap_or_else(|| panic!("there is no {label}")).clone();
        Linear { weight, storage, bias: self.get(&format!("{name}.bias")) }
    }

    pub(super) fn norm(&self, name: &str, eps: f32) -> Norm {
        Norm { weight: self.get(&format!("{name}.weight")), bias: self.get(&format!("{name}.bias")), eps }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::ImageSize;

    fn vit_b() -> VitConfig {
        VitConfig::plain(ImageSize::square(224), 16, 768, 12, 12)
    }

    #[test]
    fn groups_of_vit_b_have_the_parameters_that_the_released_code_counts() {
        let groups = backbone_groups(&vit_b());
        let count = |kind: GroupKind| groups.iter().find(|g| g.kind == kind).unwrap().parameters();
        assert_eq!(count(GroupKind::Embeddings), 590_592 + 151_296 + 768);
        assert_eq!(count(GroupKind::Block(11)), 7_087_872);
        assert_eq!(count(GroupKind::Norm), 1_536);
        let heads = classifier_group(ClassifierShape {
            parts: 14,
            dim: 768,
            kind: ClassifierKind::Parts { hidden: 256 },
            classes: 751,
        });
        assert_eq!(heads.parameters(), 5_465_362);
    }

    #[test]
    fn slots_are_aligned_and_apart() {
        let narrow = VitConfig { dim: 20, heads: 1, depth: 2, mlp_hidden: 44, registers: 3, ..vit_b() };
        for group in backbone_groups(&narrow) {
            let mut end = 0;
            for slot in &group.slots {
                assert!(slot.start >= end && slot.start.is_multiple_of(Buffer::SLICE_ALIGN));
                end = slot.start + slot.words;
            }
            assert!(end <= group.words);
        }
    }

    #[test]
    fn groups_are_found_by_name() {
        for (name, group) in [
            ("patch_embed.proj.weight", GroupKind::Embeddings),
            ("norm_pre.bias", GroupKind::Embeddings),
            ("reg_token", GroupKind::Embeddings),
            ("blocks.11.ls1.gamma", GroupKind::Block(11)),
            ("norm.weight", GroupKind::Norm),
            ("heads.3.fc1.bias", GroupKind::PartClassifiers),
        ] {
            assert_eq!(GroupKind::of(name), group);
        }
        let (all, last) = (GroupKind::all(3), [GroupKind::Norm, GroupKind::PartClassifiers]);
        assert_eq!((all.len(), all[1], &all[4..]), (6, GroupKind::Block(0), &last[..]));
    }
}
