//! The embedding: from pixels to the input of the first block [LAT eq. 1-2].

use super::norm::{self, Norm};
use super::{Grad, Sequence};
use crate::gpu::{Buffer, Recorder, Tensor};
use crate::kernels::{patch_embed, tokens};
use crate::shape::ImageSize;

/// Parameters of the embedding.
#[derive(Debug, Clone)]
pub struct Embedding {
    /// Weight of the patch projection (D, 3, P, P).
    pub weight: Buffer,
    /// Bias of the patch projection (D), if any.
    pub bias: Option<Buffer>,
    /// Class token, then distillation or register tokens (prefix, D).
    pub prefix: Buffer,
    /// Position embeddings (S+N, D) of the first S prefix tokens, then of the N patches.
    pub position: Buffer,
    /// Norm after the positions are added (CLIP), if any.
    pub norm: Option<Norm>,
    /// Input size in pixels.
    pub size: ImageSize,
    /// Side of a patch P, in pixels.
    pub patch: usize,
    /// Distance from one patch to the next, in pixels.
    pub stride: usize,
}

/// Tensors that the backward pass of the embedding reads.
#[derive(Debug, Clone, Copy)]
pub struct Saved {
    /// Images (B, 3, height, width).
    image: Tensor,
    norm: Option<norm::Saved>,
}

impl Embedding {
    /// Records the tokens (B, T, D) of normalised images (B, 3, height, width).
    pub fn forward(&self, recorder: &mut Recorder<'_>, image: Tensor, shape: Sequence) -> (Tensor, Saved) {
        let Sequence { batch, dim, .. } = shape;
        let count = self.patches(shape);
        // 1. E(x) of each patch.
        let weight = recorder.import(&self.weight);
        let bias = self.bias.as_ref().map(|bias| recorder.import(bias));
        let patches = recorder.tensor("patch_embed", batch * count * dim);
        let Embedding { size, patch, stride, .. } = *self;
        patch_embed::Forward { image, weight, bias, patches, batch, size, patch, stride, dim }
            .record(recorder, "patch_embed");
        // 2. Prepend the prefix tokens and add the positions.
        let (prefix, position) = (recorder.import(&self.prefix), recorder.import(&self.position));
        let sequence = recorder.activation("tokens", shape.len());
        tokens::Forward { prefix, patches, position, tokens: sequence, batch, count, dim }
            .record(recorder, "tokens");
        let normed = self.norm.as_ref().map(|norm| norm.forward(recorder, "norm_pre", sequence, None, shape));
        let (z, norm) = normed.map_or((sequence, None), |(z, saved)| (z, Some(saved)));
        (z, Saved { image, norm })
    }

    fn patches(&self, shape: Sequence) -> usize {
        shape.tokens - self.prefix.words / shape.dim
    }

    /// Records the gradients of all parameters into `gradients`. Pixels have no gradient.
    pub fn backward(
        &self,
        recorder: &mut Recorder<'_>,
        saved: Saved,
        dz: Tensor,
        gradients: &Grad<Embedding>,
        shape: Sequence,
    ) {
        let Sequence { batch, dim, .. } = shape;
        let Grad(gradients) = gradients;
        let dtokens = match (&self.norm, &gradients.norm, saved.norm) {
            (Some(norm), Some(gradient), Some(saved)) => {
                let first = (Grad(gradient), saved, dz);
                norm::backward_parameters(recorder, "norm_pre dweight", first, None, shape);
                norm.backward_input(recorder, "dtokens", saved, dz, None, shape)
            }
            _ => dz,
        };
        // 2. Forward: tokens = [prefix; patches] + position.
        let (dprefix, dposition) = (recorder.import(&gradients.prefix), recorder.import(&gradients.position));
        let count = self.patches(shape);
        tokens::Backward { dtokens, dprefix, dposition, batch, count, dim }.record(recorder, "tokens");
        // 1. Forward: patches = pixels·Wᵀ + b.
        let dweight = recorder.import(&gradients.weight);
        let dbias = gradients.bias.as_ref().map(|bias| recorder.import(bias));
        let Embedding { size, patch, stride, .. } = *self;
        let prefix = shape.tokens - count;
        patch_embed::Backward {
            image: saved.image,
            dtokens,
            dweight,
            dbias,
            batch,
            prefix,
            size,
            patch,
            stride,
            dim,
        }
        .record(recorder, "patch_embed.dweight");
    }
}
