//! The embedding: from pixels to the input of the first block [LAT eq. 1-2].

use super::norm::{self, Norm};
use super::{Grad, Sequence};
use crate::gpu::{Buffer, Recorder, Tensor};
use crate::kernels::{camera, patch_embed, tokens};
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
    /// Camera embedding, added after the positions, if any.
    pub camera: Option<Camera>,
    /// Norm after the positions are added (CLIP), if any.
    pub norm: Option<Norm>,
    /// Input size in pixels.
    pub size: ImageSize,
    /// Side of a patch P, in pixels.
    pub patch: usize,
    /// Distance from one patch to the next, in pixels.
    pub stride: usize,
}

/// A camera embedding.
#[derive(Debug, Clone)]
pub struct Camera {
    /// One row for each camera (C, 1, D).
    pub table: Buffer,
    /// Factor of the rows.
    pub weight: f32,
}

/// Tensors that the backward pass of the embedding reads.
#[derive(Debug, Clone, Copy)]
pub struct Saved {
    /// Images (B, 3, height, width).
    image: Tensor,
    /// Rows of the camera embedding (B).
    cameras: Option<Tensor>,
    norm: Option<norm::Saved>,
}

impl Embedding {
    /// Records the tokens (B, T, D) of normalised images (B, 3, height, width). `cameras` (B), u32, are the images'
    /// rows of the camera embedding.
    ///
    /// # Panics
    /// If there is a camera embedding and no `cameras`.
    pub fn forward(
        &self,
        recorder: &mut Recorder<'_>,
        image: Tensor,
        cameras: Option<Tensor>,
        shape: Sequence,
    ) -> (Tensor, Saved) {
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
        // 3. Add the rows of the cameras.
        let sequence = match &self.camera {
            None => sequence,
            Some(Camera { table, weight }) => {
                let cameras = cameras.unwrap_or_else(|| panic!("the cameras of the images are missing"));
                let (table, y) = (recorder.import(table), recorder.activation("camera", shape.len()));
                let Sequence { tokens, .. } = shape;
                camera::Forward { x: sequence, table, cameras, y, weight: *weight, batch, tokens, dim }
                    .record(recorder, "camera");
                y
            }
        };
        let normed = self.norm.as_ref().map(|norm| norm.forward(recorder, "norm_pre", sequence, None, shape));
        let (z, norm) = normed.map_or((sequence, None), |(z, saved)| (z, Some(saved)));
        (z, Saved { image, cameras, norm })
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
        // 3. Forward: z = tokens + weight·table[cameras].
        if let (Some(Camera { table, weight }), Some(cameras)) = (&gradients.camera, saved.cameras) {
            let (dtable, weight, tokens) = (recorder.import(table), *weight, shape.tokens);
            camera::Backward { dy: dtokens, cameras, dtable, weight, batch, tokens, dim }
                .record(recorder, "camera");
        }
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
