//! From pixels to the sequence that enters the first block [LAT eq. 1-2].

use super::Sequence;
use super::norm::Norm;
use crate::gpu::{Buffer, Recorder, Tensor};
use crate::kernels::{patch_embed, tokens};
use crate::shape::ImageSize;

/// Parameters of the embedding.
#[derive(Debug, Clone)]
pub struct Embedding {
    /// (D, 3, P, P).
    pub weight: Buffer,
    /// (D).
    pub bias: Option<Buffer>,
    /// (prefix, D): class token, then distillation or register tokens.
    pub prefix: Buffer,
    /// (T, D).
    pub position: Buffer,
    /// After the positions are added (CLIP).
    pub norm: Option<Norm>,
    /// Input size in pixels.
    pub size: ImageSize,
    /// P, side of a patch in pixels.
    pub patch: usize,
    /// Pixels from one patch to the next.
    pub stride: usize,
}

impl Embedding {
    /// Records the sequence (B, T, D) of normalised images (B, 3, height, width).
    pub fn forward(&self, recorder: &mut Recorder<'_>, image: Tensor, shape: Sequence) -> Tensor {
        let Sequence { batch, dim, .. } = shape;
        let count = shape.tokens - self.prefix.words / dim;
        let weight = recorder.import(&self.weight);
        let bias = self.bias.as_ref().map(|bias| recorder.import(bias));
        let patches = recorder.tensor("patch_embed", batch * count * dim);
        patch_embed::Forward {
            image,
            weight,
            bias,
            patches,
            batch,
            size: self.size,
            patch: self.patch,
            stride: self.stride,
            dim,
        }
        .record(recorder, "patch_embed");

        let (prefix, position) = (recorder.import(&self.prefix), recorder.import(&self.position));
        let sequence = recorder.tensor("tokens", shape.len());
        tokens::Forward { prefix, patches, position, tokens: sequence, batch, count, dim }
            .record(recorder, "tokens");
        match &self.norm {
            Some(norm) => norm.forward(recorder, "norm_pre", sequence, shape),
            None => sequence,
        }
    }
}
