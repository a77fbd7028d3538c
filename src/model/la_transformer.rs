//! The Locally Aware Transformer: from images to embeddings.

use super::parameters::{self, Arenas, check_widths, inference_groups, without_matrices};
use super::vit::{Mode, Vit};
use crate::checkpoint::{Network, STATISTICS_DEVIATION, STATISTICS_MEAN};
use crate::error::Result;
use crate::gpu::{Buffer, Context, Precision, Recorder, Tensor};
use crate::kernels::jigsaw::Features;
use crate::kernels::part_linear::Layout;
use crate::kernels::{batchnorm, gelt, image, l2norm, statistics};
use crate::shape::{BATCHNORM_EPS, Preprocess, VitConfig};

/// The network for inference, with its parameters on the adapter.
#[derive(Debug)]
pub struct LaTransformer {
    vit: Vit,
    preprocess: Preprocess,
    /// BNNeck's BatchNorm, if the network embeds after it.
    neck: Option<Neck>,
    statistics: Option<Statistics>,
    parameter_bytes: u64,
}

/// BNNeck's BatchNorm of all parts: weight, running mean and running variance (R, D).
#[derive(Debug)]
struct Neck([Buffer; 3]);

impl Neck {
    fn of(parameters: &Arenas) -> Option<Neck> {
        let tensors = ["weight", "running_mean", "running_var"];
        parameters.find("heads.bn.weight")?;
        Some(Neck(tensors.map(|name| parameters.get(&format!("heads.bn.{name}")))))
    }

    /// Records normalised parts (B, R, D).
    fn record(&self, recorder: &mut Recorder<'_>, x: Tensor, [batch, parts, dim]: [usize; 3]) -> Tensor {
        let y = recorder.tensor("bn", x.len);
        let Neck(tensors) = self;
        let [weight, running_mean, running_var] = tensors.each_ref().map(|buffer| recorder.import(buffer));
        let layer = batchnorm::Layer {
            batch,
            parts,
            dim,
            eps: BATCHNORM_EPS,
            relu: false,
            drop: 0.0,
            momentum: 0.0,
            inputs: Layout::SampleFirst,
            outputs: Layout::SampleFirst,
        };
        batchnorm::Evaluate { x, weight, bias: None, running_mean, running_var, y, layer }
            .record(recorder, "bn");
        y
    }
}

/// Camera statistics: means, and deviations if there are any (C + 1, R·D). The last row is that of all images.
#[derive(Debug)]
struct Statistics {
    mean: Buffer,
    deviation: Option<Buffer>,
}

impl Statistics {
    fn of(parameters: &Arenas) -> Option<Statistics> {
        let mean = parameters.find(STATISTICS_MEAN)?;
        Some(Statistics { mean, deviation: parameters.find(STATISTICS_DEVIATION) })
    }

    /// Records embeddings (B, R·D) less the means, before they are normalised again. Without `cameras` (B) all have
    /// the row of all images.
    fn record(
        &self,
        recorder: &mut Recorder<'_>,
        x: Tensor,
        cameras: Option<Tensor>,
        batch: usize,
    ) -> Tensor {
        let y = recorder.tensor("statistics", x.len);
        let mean = recorder.import(&self.mean);
        let deviation = self.deviation.as_ref().map(|deviation| recorder.import(deviation));
        let row = mean.len / (x.len / batch) - 1;
        statistics::Forward { x, mean, deviation, cameras, row, y, batch }.record(recorder, "statistics");
        y
    }
}

impl LaTransformer {
    /// Uploads a network. Stores the matrices of its blocks in the context's precision.
    ///
    /// # Errors
    /// [`Error::TooLarge`](crate::error::Error::TooLarge) if a tensor exceeds one binding;
    /// [`Error::Usage`](crate::error::Error::Usage) if a width doesn't allow f16.
    pub fn new(context: &Context, network: &Network) -> Result<LaTransformer> {
        let mut groups = inference_groups(&network.config);
        let mut matrices = None;
        if context.precision() == Precision::F16 {
            check_widths(&network.config)?;
            let layout = parameters::matrices(&groups, context.storage());
            matrices = Some(Arenas::upload(context, &layout, &network.tensors)?);
            groups = without_matrices(&groups);
        }
        let parameters = Arenas::upload(context, &groups, &network.tensors)?;
        Ok(LaTransformer {
            vit: Vit::new(&network.config, &parameters, matrices.as_ref()),
            preprocess: network.preprocess.clone(),
            neck: Neck::of(&parameters),
            statistics: Statistics::of(&parameters),
            parameter_bytes: parameters.bytes() + matrices.map_or(0, |matrices| matrices.bytes()),
        })
    }

    /// Creates the network in f32 without memory, for recordings that are only listed. They must never run.
    ///
    /// # Errors
    /// [`Error::TooLarge`](crate::error::Error::TooLarge) if a tensor exceeds one binding.
    pub fn unallocated(context: &Context, network: &Network) -> Result<LaTransformer> {
        let parameters = Arenas::unallocated(context, &inference_groups(&network.config))?;
        Ok(LaTransformer {
            vit: Vit::new(&network.config, &parameters, None),
            preprocess: network.preprocess.clone(),
            neck: Neck::of(&parameters),
            statistics: Statistics::of(&parameters),
            parameter_bytes: parameters.bytes(),
        })
    }

    /// Returns the sizes and options of the backbone.
    pub fn config(&self) -> &VitConfig {
        &self.vit.config
    }

    /// Returns the bytes of the parameters on the adapter.
    pub fn parameter_bytes(&self) -> u64 {
        self.parameter_bytes
    }

    /// Returns the words of `batch` images of bytes (B, height, width, 3).
    pub fn pixel_words(&self, batch: usize) -> usize {
        image::pixel_words(batch, self.config().image)
    }

    /// Records `embeddings` (B, R·D) of the bytes `pixels` (B, height, width, 3). `cameras` (B), u32, are the images'
    /// rows of the camera embedding and of the camera statistics, which have the same cameras. Without them, all images
    /// have the row of all images in the statistics.
    ///
    /// # Panics
    /// If there is a camera embedding and no `cameras`.
    pub fn embed(
        &self,
        recorder: &mut Recorder<'_>,
        pixels: &Buffer,
        cameras: Option<&Buffer>,
        embeddings: &Buffer,
        batch: usize,
    ) {
        let (pixels, embeddings) = (recorder.import(pixels), recorder.import(embeddings));
        let cameras = cameras.map(|cameras| recorder.import(cameras));
        let tokens = recorder.activation("norm", self.vit.sequence(batch).len());
        self.forward(recorder, pixels, cameras, tokens, embeddings, batch);
    }

    /// Records `tokens` (B, T, D) after the final norm and `embeddings` (B, R·D) of the bytes `pixels`
    /// (B, height, width, 3). `cameras` are as in [`LaTransformer::embed`].
    ///
    /// # Panics
    /// If there is a camera embedding and no `cameras`.
    pub fn forward(
        &self,
        recorder: &mut Recorder<'_>,
        pixels: Tensor,
        cameras: Option<Tensor>,
        tokens: Tensor,
        embeddings: Tensor,
        batch: usize,
    ) {
        let config = self.config();
        let normalised = self.normalised(recorder, pixels, batch);

        let (_, saved) =
            self.vit.forward(recorder, normalised, cameras, Some(tokens), Mode::Evaluation, batch);

        let (parts, dim) = (config.parts(), config.dim);
        if let Some(pieces) = saved.pieces() {
            // The features of the sequences share the weight of one; the whole has unit length.
            let features = recorder.tensor("jigsaw", batch * parts * dim);
            let (scale, shape) = (1.0 / VitConfig::PIECES as f32, self.vit.cut(batch));
            Features { whole: tokens, pieces, features, first: 0, scale, shape }.record(recorder, "jigsaw");
            self.normalise(recorder, features, cameras, embeddings, batch);
            return;
        }
        let local = recorder.tensor("gelt", batch * parts * dim);
        gelt::Forward {
            tokens,
            gelt: local,
            first: 0,
            batch,
            prefix: config.prefix(),
            parts,
            rows: config.grid().0,
            columns: config.grid().1,
            dim,
            weights: config.gelt.weights(),
        }
        .record(recorder, "gelt");
        let local = match &self.neck {
            Some(neck) => neck.record(recorder, local, [batch, parts, dim]),
            None => local,
        };
        self.normalise(recorder, local, cameras, embeddings, batch);
    }

    /// Records `embeddings` (B, R·D) of the features `x` (B, R·D): with unit length, then less the camera statistics
    /// and with unit length again, if there are any. `cameras` are as in [`LaTransformer::embed`].
    fn normalise(
        &self,
        recorder: &mut Recorder<'_>,
        x: Tensor,
        cameras: Option<Tensor>,
        embeddings: Tensor,
        batch: usize,
    ) {
        let (parts, layout) = (self.config().unit_parts(), Layout::SampleFirst);
        let dim = self.config().embedding_len() / parts;
        let Some(statistics) = &self.statistics else {
            l2norm::Forward { x, y: embeddings, batch, parts, dim, layout }.record(recorder, "l2norm");
            return;
        };
        let unit = recorder.tensor("unit", x.len);
        l2norm::Forward { x, y: unit, batch, parts, dim, layout }.record(recorder, "l2norm");
        let x = statistics.record(recorder, unit, cameras, batch);
        l2norm::Forward { x, y: embeddings, batch, parts, dim, layout }.record(recorder, "statistics.l2norm");
    }

    /// Records `rollout` (T) of one image of bytes (1, height, width, 3): the share of each token in the class token
    /// after the last block. `camera` (1) is as in [`LaTransformer::embed`]. `class` (T) must be 1 at the class token,
    /// which is the first, and 0 elsewhere.
    pub fn rollout(
        &self,
        recorder: &mut Recorder<'_>,
        pixels: Tensor,
        camera: Option<Tensor>,
        class: Tensor,
        rollout: Tensor,
    ) {
        let normalised = self.normalised(recorder, pixels, 1);
        self.vit.rollout(recorder, normalised, camera, class, rollout);
    }

    /// Records normalised images (B, 3, height, width) of the bytes `pixels` (B, height, width, 3).
    fn normalised(&self, recorder: &mut Recorder<'_>, pixels: Tensor, batch: usize) -> Tensor {
        let size = self.config().image;
        let normalised = recorder.tensor("image", batch * 3 * size.height * size.width);
        let (mean, std) = (self.preprocess.mean, self.preprocess.std);
        image::Forward { pixels, flip: None, noise: None, image: normalised, batch, size, mean, std }
            .record(recorder, "image");
        normalised
    }
}
