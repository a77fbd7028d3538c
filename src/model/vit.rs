//! The Vision Transformer backbone: embedding → blocks → norm [LAT eq. 1-5].

use super::parameters::Arenas;
use crate::gpu::{Recorder, Tensor};
use crate::layers::Sequence;
use crate::layers::attention::Attention;
use crate::layers::block::Block;
use crate::layers::embedding::Embedding;
use crate::layers::mlp::Mlp;
use crate::layers::norm::Norm;
use crate::shape::VitConfig;

/// The backbone with its parameters.
#[derive(Debug)]
pub struct Vit {
    /// Dimensions and options.
    pub config: VitConfig,
    embedding: Embedding,
    blocks: Vec<Block>,
    norm: Norm,
}

impl Vit {
    /// Puts parameters in their places.
    pub fn new(config: &VitConfig, parameters: &Arenas) -> Vit {
        let eps = config.ln_eps;
        let embedding = Embedding {
            weight: parameters.get("patch_embed.proj.weight"),
            bias: parameters.find("patch_embed.proj.bias"),
            prefix: parameters.get("prefix"),
            position: parameters.get("pos_embed"),
            norm: config.norm_pre.then(|| parameters.norm("norm_pre", eps)),
            size: config.image,
            patch: config.patch,
            stride: config.stride,
        };
        let blocks = (0..config.depth)
            .map(|i| Block {
                norm1: parameters.norm(&format!("blocks.{i}.norm1"), eps),
                attn: Attention {
                    qkv: parameters.linear(&format!("blocks.{i}.attn.qkv")),
                    proj: parameters.linear(&format!("blocks.{i}.attn.proj")),
                    scale: parameters.find(&format!("blocks.{i}.ls1.gamma")),
                    heads: config.heads,
                },
                norm2: parameters.norm(&format!("blocks.{i}.norm2"), eps),
                mlp: Mlp {
                    fc1: parameters.linear(&format!("blocks.{i}.mlp.fc1")),
                    fc2: parameters.linear(&format!("blocks.{i}.mlp.fc2")),
                    scale: parameters.find(&format!("blocks.{i}.ls2.gamma")),
                    act: config.act,
                },
            })
            .collect();
        Vit { config: config.clone(), embedding, blocks, norm: parameters.norm("norm", eps) }
    }

    /// The shape of the sequence for `batch` images.
    pub fn sequence(&self, batch: usize) -> Sequence {
        Sequence { batch, tokens: self.config.tokens(), dim: self.config.dim }
    }

    /// Records `tokens` (B, T, D) after the final norm for normalised images (B, 3, height, width).
    pub fn forward(&self, recorder: &mut Recorder<'_>, image: Tensor, tokens: Tensor, batch: usize) {
        let shape = self.sequence(batch);
        // z_0 = [class; patches] + positions
        let mut z = self.embedding.forward(recorder, image, shape);
        for (i, block) in self.blocks.iter().enumerate() {
            recorder.scope(format!("blocks.{i}"));
            z = block.forward(recorder, z, shape);
        }
        recorder.scope("");
        // F = LN(z_B)
        self.norm.forward_into(recorder, "norm", z, tokens, shape);
    }
}
