//! The Vision Transformer backbone: embedding → blocks → norm [LAT eq. 1-5].

use super::parameters::{Arenas, GroupKind};
use crate::checkpoint::{CAMERAS, JIGSAW_BLOCK, JIGSAW_NORM};
use crate::gpu::{Phase, Recorder, Tensor};
use crate::kernels::jigsaw::{self, Cut, Merge};
use crate::layers::attention::Attention;
use crate::layers::block::{self, Block};
use crate::layers::embedding::{self, Camera, Embedding};
use crate::layers::mlp::Mlp;
use crate::layers::norm::{self, Norm};
use crate::layers::reattention::ReAttention;
use crate::layers::{Drop, Grad, Sequence};
use crate::rng;
use crate::shape::VitConfig;

/// Stream of the random numbers of [`DropPath::masks`]: the upper byte is the use, the rest is the epoch.
const DROP_PATH: u64 = 10 << 56;

/// Stream of the random numbers of [`DropPath::jigsaw_masks`].
const JIGSAW_DROP_PATH: u64 = 12 << 56;

/// The groups of the backbone that train. The final norm always does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Trainable {
    /// True if patch projection, prefix tokens, positions and the norm before the blocks train.
    pub embeddings: bool,
    /// The lowest open block; all above it are open too. With `depth`, no block is open.
    pub first_open: usize,
}

impl Trainable {
    /// Returns true if a group trains.
    pub fn contains(&self, kind: GroupKind) -> bool {
        match kind {
            GroupKind::Embeddings => self.embeddings,
            GroupKind::Block(i) => i >= self.first_open,
            GroupKind::Norm | GroupKind::PartClassifiers => true,
            GroupKind::Statistics => false,
        }
    }

    /// Returns the lowest block of the backward pass.
    fn lowest(&self) -> usize {
        if self.embeddings { 0 } else { self.first_open }
    }
}

/// The backbone with its parameters.
#[derive(Debug)]
pub struct Vit {
    /// Sizes and options.
    pub config: VitConfig,
    embedding: Embedding,
    blocks: Vec<Block>,
    norm: Norm,
    jigsaw: Option<Jigsaw>,
}

/// The block and the norm of the jigsaw, which all sequences share.
#[derive(Debug, Clone)]
struct Jigsaw {
    block: Block,
    norm: Norm,
}

/// Memory for the gradients of the trainable groups.
#[derive(Debug)]
pub struct VitGradients {
    trainable: Trainable,
    embedding: Option<Grad<Embedding>>,
    /// One entry per block; `None` where it is frozen.
    blocks: Vec<Option<Grad<Block>>>,
    norm: Grad<Norm>,
    jigsaw: Option<Grad<Jigsaw>>,
}

/// Tensors that the backward pass of the backbone reads.
#[derive(Debug)]
pub struct Saved {
    embedding: embedding::Saved,
    blocks: Vec<block::Saved>,
    norm: norm::Saved,
    jigsaw: Option<JigsawSaved>,
}

/// Tensors that the backward pass of the jigsaw reads.
#[derive(Debug, Clone, Copy)]
struct JigsawSaved {
    block: block::Saved,
    norm: norm::Saved,
    /// Tokens of the sequences (B·P, 1+M, D) after the norm.
    tokens: Tensor,
}

/// Purpose of a forward pass.
#[derive(Debug, Clone, Copy)]
pub enum Mode {
    /// Embeds: re-attention uses its running statistics.
    Evaluation,
    /// Trains: re-attention uses the statistics of the batch, and residual branches may be dropped.
    Training(Option<DropPath>),
}

impl Saved {
    /// Returns the tokens (B·P, 1+M, D) of the jigsaw's sequences after their norm, if there is a jigsaw.
    pub fn pieces(&self) -> Option<Tensor> {
        self.jigsaw.map(|jigsaw| jigsaw.tokens)
    }
}

/// The masks of stochastic depth for the images of a pass.
#[derive(Debug, Clone, Copy)]
pub struct DropPath {
    /// Factors (blocks, 2, B) of the batch: for each block those of attention, then those of the MLP. With a jigsaw, also
    /// those of its block (2, B, P).
    pub factors: Tensor,
    /// Images of the batch B.
    pub batch: usize,
    /// Index in the batch of the first image.
    pub first: usize,
}

impl DropPath {
    /// Probability that a branch of block `i` is dropped: from 0 in the first block linearly to `rate` in the last.
    pub fn probability(rate: f32, i: usize, depth: usize) -> f32 {
        rate * i as f32 / depth.saturating_sub(1).max(1) as f32
    }

    /// Number of factors of a batch.
    pub fn len_of(config: &VitConfig, batch: usize) -> usize {
        2 * batch * (config.depth + if config.jigsaw { VitConfig::PIECES } else { 0 })
    }

    /// Draws the masks (2, B, P) of the jigsaw's block, as [`DropPath::masks`] does those of the blocks.
    pub fn jigsaw_masks(
        rate: f32,
        depth: usize,
        batch: usize,
        seed: u64,
        epoch: u64,
        place: usize,
    ) -> Vec<f32> {
        let rate = DropPath::probability(rate, depth - 1, depth);
        let each = 2 * VitConfig::PIECES;
        let branch = |branch: usize| {
            let sequences = place * VitConfig::PIECES..(place + batch) * VitConfig::PIECES;
            sequences.map(move |sequence| {
                let (image, piece) = (sequence / VitConfig::PIECES, sequence % VitConfig::PIECES);
                let index = image * each + branch * VitConfig::PIECES + piece;
                f32::from(rng::uniform(seed, JIGSAW_DROP_PATH | epoch, index as u64) >= rate)
            })
        };
        (0..2).flat_map(branch).collect()
    }

    /// The branches of the jigsaw's block.
    fn of_jigsaw(self, depth: usize) -> [Drop; 2] {
        let DropPath { factors, batch, first } = self;
        let start = |branch: usize| 2 * depth * batch + VitConfig::PIECES * (branch * batch + first);
        [0, 1].map(|branch| Drop { factors, first: start(branch) })
    }

    /// Draws the masks (blocks, 2, B) of a batch: 0 drops a branch of an image, 1 keeps it. `place` is the position of the
    /// first image in the epoch.
    pub fn masks(rate: f32, depth: usize, batch: usize, seed: u64, epoch: u64, place: usize) -> Vec<f32> {
        let branches = (0..2 * depth).map(|branch| (branch, DropPath::probability(rate, branch / 2, depth)));
        let mask = |(branch, probability): (usize, f32)| {
            (place..place + batch).map(move |place| {
                let number = rng::uniform(seed, DROP_PATH | epoch, (place * 2 * depth + branch) as u64);
                f32::from(number >= probability)
            })
        };
        branches.flat_map(mask).collect()
    }

    /// The branches of block `i`; `None` for the first block, which is never dropped.
    fn of_block(self, i: usize) -> Option<[Drop; 2]> {
        let DropPath { factors, batch, first } = self;
        (i > 0).then(|| [0, 1].map(|branch| Drop { factors, first: (2 * i + branch) * batch + first }))
    }
}

/// Returns the embedding with tensors of `arenas`: parameters, or gradients in the same layout.
fn embedding(config: &VitConfig, arenas: &Arenas) -> Embedding {
    Embedding {
        weight: arenas.get("patch_embed.proj.weight"),
        bias: arenas.find("patch_embed.proj.bias"),
        prefix: arenas.get("prefix"),
        position: arenas.get("pos_embed"),
        camera: config
            .cameras
            .as_ref()
            .map(|cameras| Camera { table: arenas.get(CAMERAS), weight: cameras.weight }),
        norm: config.norm_pre.then(|| arenas.norm("norm_pre", config.ln_eps)),
        size: config.image,
        patch: config.patch,
        stride: config.stride,
    }
}

/// Returns the jigsaw with tensors of `arenas`, if the network has one.
fn jigsaw(config: &VitConfig, arenas: &Arenas, matrices: Option<&Arenas>) -> Option<Jigsaw> {
    config.jigsaw.then(|| Jigsaw {
        block: block(config, arenas, matrices, JIGSAW_BLOCK),
        norm: arenas.norm(JIGSAW_NORM, config.ln_eps),
    })
}

/// Returns the re-attention with this prefix of its names. Arenas of gradients have no running statistics.
fn reattention(arenas: &Arenas, prefix: &str) -> ReAttention {
    let get = |name: &str| arenas.get(&format!("{prefix}.{name}"));
    let running = |name: &str| arenas.find(&format!("{prefix}.var_norm.running_{name}"));
    ReAttention {
        theta: get("reatten_matrix.weight"),
        mix_bias: get("reatten_matrix.bias"),
        weight: get("var_norm.weight"),
        bias: get("var_norm.bias"),
        running: running("mean").zip(running("var")).map(|(mean, var)| [mean, var]),
    }
}

/// Returns the block with this prefix of its names, with tensors of `arenas`: parameters, or gradients in the same layout. Weights of products come
/// from `matrices` where it has them.
fn block(config: &VitConfig, arenas: &Arenas, matrices: Option<&Arenas>, prefix: &str) -> Block {
    let linear = |name: &str| arenas.linear(&format!("{prefix}.{name}"), matrices);
    Block {
        norm1: arenas.norm(&format!("{prefix}.norm1"), config.ln_eps),
        attn: Attention {
            qkv: linear("attn.qkv"),
            proj: linear("attn.proj"),
            scale: arenas.find(&format!("{prefix}.ls1.gamma")),
            heads: config.heads,
            reattention: config.reattention.then(|| reattention(arenas, &format!("{prefix}.attn"))),
        },
        norm2: arenas.norm(&format!("{prefix}.norm2"), config.ln_eps),
        mlp: Mlp {
            fc1: linear("mlp.fc1"),
            fc2: linear("mlp.fc2"),
            scale: arenas.find(&format!("{prefix}.ls2.gamma")),
            act: config.act,
        },
    }
}

impl VitGradients {
    /// Assigns the slots of gradient arenas, which hold the trainable groups only, to the layers.
    pub fn new(config: &VitConfig, arenas: &Grad<Arenas>, trainable: Trainable) -> VitGradients {
        let open = |i: usize| i >= trainable.first_open;
        VitGradients {
            trainable,
            embedding: trainable.embeddings.then(|| arenas.map(|arenas| embedding(config, arenas))),
            blocks: (0..config.depth)
                .map(|i| {
                    open(i).then(|| arenas.map(|arenas| block(config, arenas, None, &format!("blocks.{i}"))))
                })
                .collect(),
            norm: arenas.map(|arenas| arenas.norm("norm", config.ln_eps)),
            jigsaw: jigsaw(config, arenas.memory(), None).map(Grad::new),
        }
    }
}

impl Vit {
    /// Assigns the slots of parameter arenas to the layers. Weights of products come from `matrices` where it has them.
    pub fn new(config: &VitConfig, parameters: &Arenas, matrices: Option<&Arenas>) -> Vit {
        Vit {
            config: config.clone(),
            embedding: embedding(config, parameters),
            blocks: (0..config.depth)
                .map(|i| block(config, parameters, matrices, &format!("blocks.{i}")))
                .collect(),
            norm: parameters.norm("norm", config.ln_eps),
            jigsaw: jigsaw(config, parameters, matrices),
        }
    }

    /// Returns the shape of the tokens of `batch` images.
    pub fn sequence(&self, batch: usize) -> Sequence {
        Sequence { batch, tokens: self.config.tokens(), dim: self.config.dim }
    }

    /// Returns the dimensions of the jigsaw of `batch` images.
    pub fn cut(&self, batch: usize) -> jigsaw::Shape {
        let VitConfig { dim, .. } = self.config;
        jigsaw::Shape { batch, tokens: self.config.tokens(), dim, pieces: VitConfig::PIECES }
    }

    /// Returns the shape of the tokens of its sequences.
    fn pieces(&self, batch: usize) -> Sequence {
        let jigsaw::Shape { dim, pieces, .. } = self.cut(batch);
        Sequence { batch: batch * pieces, tokens: self.cut(batch).length(), dim }
    }

    /// Records the tokens (B, T, D) after the final norm for normalised images (B, 3, height, width). `cameras` (B),
    /// u32, are their rows of the camera embedding, if there is one. Writes into `tokens` if it is given.
    pub fn forward(
        &self,
        recorder: &mut Recorder<'_>,
        image: Tensor,
        cameras: Option<Tensor>,
        tokens: Option<Tensor>,
        mode: Mode,
        batch: usize,
    ) -> (Tensor, Saved) {
        let (drop_path, training) = match mode {
            Mode::Evaluation => (None, false),
            Mode::Training(drop_path) => (drop_path, true),
        };
        let shape = self.sequence(batch);
        // z_0 = [class; patches] + positions
        let (mut z, embedding) = self.embedding.forward(recorder, image, cameras, shape);
        let mut blocks = Vec::new();
        let mut jigsaw = None;
        for (i, block) in self.blocks.iter().enumerate() {
            if let Some(Jigsaw { block, norm }) = self.jigsaw.as_ref().filter(|_| i + 1 == self.blocks.len())
            {
                // One block and norm for all sequences of the input of the last block.
                recorder.scope(Phase::Forward, "jigsaw");
                let (cut, shape) = (self.cut(batch), self.pieces(batch));
                let pieces = recorder.activation("pieces", shape.len());
                Cut { z, pieces, shape: cut }.record(recorder, "cut");
                let drop = drop_path.map(|drop_path| drop_path.of_jigsaw(self.blocks.len()));
                let (pieces, block) = block.forward(recorder, pieces, (drop, training), shape);
                let (tokens, norm) = norm.forward(recorder, "norm", pieces, None, shape);
                jigsaw = Some(JigsawSaved { block, norm, tokens });
            }
            recorder.scope(Phase::Forward, format!("blocks.{i}"));
            let saved;
            let drop = drop_path.and_then(|drop_path| drop_path.of_block(i));
            (z, saved) = block.forward(recorder, z, (drop, training), shape);
            blocks.push(saved);
        }
        recorder.scope(Phase::Forward, "");
        // F = LN(z_B)
        let (tokens, norm) = self.norm.forward(recorder, "norm", z, tokens, shape);
        (tokens, Saved { embedding, blocks, norm, jigsaw })
    }

    /// Records `rollout` (T) of one normalised image (1, 3, height, width): the share of each input token in the class
    /// token after the last block. `camera` (1) is as in [`Vit::forward`]. `class` (T) must be 1 at the class token and
    /// 0 elsewhere.
    ///
    /// Source: Abnar and Zuidema 2020, "Quantifying Attention Flow in Transformers".
    ///
    /// # Panics
    /// If the network has re-attention.
    pub fn rollout(
        &self,
        recorder: &mut Recorder<'_>,
        image: Tensor,
        camera: Option<Tensor>,
        class: Tensor,
        rollout: Tensor,
    ) {
        let shape = self.sequence(1);
        let (_, saved) = self.forward(recorder, image, camera, None, Mode::Evaluation, 1);
        // The class row of the product of all blocks' matrices, from the last block to the first.
        let mut row = class;
        for (i, (block, saved)) in self.blocks.iter().zip(saved.blocks).enumerate().rev() {
            recorder.scope(Phase::Forward, format!("rollout.blocks.{i}"));
            let carried = if i == 0 { rollout } else { recorder.tensor("rollout", shape.tokens) };
            block.rollout(recorder, saved, row, carried, shape);
            row = carried;
        }
        recorder.scope(Phase::Forward, "");
    }

    /// Records the update of the running statistics of all blocks, if the network has re-attention. The kernels skip it if
    /// the gradients in `control` aren't finite.
    pub fn update_running(&self, recorder: &mut Recorder<'_>, saved: &Saved, control: Tensor) {
        for (i, (block, saved)) in self.blocks.iter().zip(&saved.blocks).enumerate() {
            recorder.scope(Phase::Forward, format!("blocks.{i}"));
            block.update_running(recorder, *saved, control);
        }
        if let (Some(own), Some(saved)) = (&self.jigsaw, saved.jigsaw) {
            recorder.scope(Phase::Forward, "jigsaw");
            own.block.update_running(recorder, saved.block, control);
        }
        recorder.scope(Phase::Forward, "");
    }

    /// Records the gradients of the trainable groups, given that of the tokens (B, T, D), and with a jigsaw that of the
    /// tokens of its sequences. Calls `finished` with each group when its gradients are complete.
    pub fn backward<'c>(
        &self,
        recorder: &mut Recorder<'c>,
        saved: &Saved,
        (dtokens, dpieces): (Tensor, Option<Tensor>),
        gradients: &VitGradients,
        batch: usize,
        finished: &mut dyn FnMut(&mut Recorder<'c>, GroupKind),
    ) {
        let shape = self.sequence(batch);
        let trainable = gradients.trainable;
        recorder.scope(Phase::Backward, "");
        // Forward: F = LN(z_B).
        let first = (gradients.norm.field(|norm| norm), saved.norm, dtokens);
        norm::backward_parameters(recorder, "norm.dweight", first, None, shape);
        let lowest = trainable.lowest();
        // True if anything below the last block trains.
        let below_wanted = trainable.embeddings || lowest + 1 < self.blocks.len();
        let dcut = match (&self.jigsaw, &gradients.jigsaw, saved.jigsaw, dpieces) {
            (Some(own), Some(gradients), Some(saved), Some(dpieces)) => {
                recorder.scope(Phase::Backward, "jigsaw");
                let shape = self.pieces(batch);
                let first = (gradients.field(|jigsaw| &jigsaw.norm), saved.norm, dpieces);
                norm::backward_parameters(recorder, "norm.dweight", first, None, shape);
                let dz = own.norm.backward_input(recorder, "norm.dz", saved.norm, dpieces, None, shape);
                let block = gradients.map(|jigsaw| jigsaw.block.clone());
                let dcut = own.block.backward(recorder, saved.block, dz, Some(&block), below_wanted, shape);
                recorder.scope(Phase::Backward, "");
                dcut
            }
            _ => None,
        };
        finished(recorder, GroupKind::Norm);
        if !trainable.embeddings && lowest >= self.blocks.len() {
            recorder.scope(Phase::Forward, "");
            return;
        }
        let mut dz = self.norm.backward_input(recorder, "norm.dz", saved.norm, dtokens, None, shape);
        for i in (lowest..self.blocks.len()).rev() {
            recorder.scope(Phase::Backward, format!("blocks.{i}"));
            let wanted = i > lowest || trainable.embeddings;
            let (block, saved) = (&self.blocks[i], saved.blocks[i]);
            let below = block.backward(recorder, saved, dz, gradients.blocks[i].as_ref(), wanted, shape);
            if gradients.blocks[i].is_some() {
                finished(recorder, GroupKind::Block(i));
            }
            let Some(below) = below else { break };
            dz = below;
            if let Some(dpieces) = dcut.filter(|_| i + 1 == self.blocks.len()) {
                recorder.scope(Phase::Backward, "jigsaw");
                dz = recorder.activation("merged", below.len);
                Merge { dwhole: below, dpieces, dz, shape: self.cut(batch) }.record(recorder, "merge");
            }
        }
        recorder.scope(Phase::Backward, "");
        // Forward: z_0 = [class; patches] + positions.
        if let Some(gradients) = &gradients.embedding {
            self.embedding.backward(recorder, saved.embedding, dz, gradients, shape);
            finished(recorder, GroupKind::Embeddings);
        }
        recorder.scope(Phase::Forward, "");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_rise_linearly_and_masks_follow_them() {
        assert_eq!([0, 1, 2].map(|i| DropPath::probability(0.5, i, 3)), [0.0, 0.25, 0.5]);
        assert_eq!(DropPath::probability(0.5, 0, 1), 0.0);
        let (depth, batch) = (3, 4000);
        let masks = DropPath::masks(0.5, depth, batch, 1, 2, 100);
        let dropped: Vec<usize> =
            masks.chunks(batch).map(|branch| branch.iter().filter(|&&mask| mask == 0.0).count()).collect();
        assert!(masks.iter().all(|&mask| mask == 0.0 || mask == 1.0) && dropped.len() == 6);
        for (branch, wanted) in [0, 0, 1000, 1000, 2000, 2000].into_iter().enumerate() {
            assert!(dropped[branch].abs_diff(wanted) < 120, "{dropped:?}");
        }
        // The branches of a block are drawn separately.
        let both = (0..batch).filter(|b| masks[4 * batch + b] + masks[5 * batch + b] == 0.0).count();
        assert!(both.abs_diff(1000) < 120, "{both}");
        // An image's masks depend on its place alone, not on the batch.
        let later = DropPath::masks(0.5, depth, 2, 1, 2, 107);
        for branch in 0..6 {
            assert_eq!(later[2 * branch..][..2], masks[branch * batch + 7..][..2]);
        }
        assert_ne!(masks, DropPath::masks(0.5, depth, batch, 1, 3, 100));
        assert_ne!(masks, DropPath::masks(0.5, depth, batch, 2, 2, 100));
    }
}
