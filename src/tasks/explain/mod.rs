//! Explains an embedding by attention rollout: the share of each patch and each part in the class token. Explains the
//! distance of two images by the agreement of their parts.
//!
//! Rollout multiplies the attention matrices of all blocks. Half of every token passes each block on the residual
//! stream. The shares show where information may have come from, not how the network uses it (Abnar and Zuidema 2020,
//! "Quantifying Attention Flow in Transformers").

mod lettering;
mod panels;

pub use panels::{draw, draw_against};

use super::embed::Embedder;
use crate::checkpoint::Network;
use crate::error::{Error, Result};
use crate::gpu::{Context, Recorder, WORD};
use crate::images::decode::Rgb;
use crate::images::preprocess::resize_bicubic;
use crate::model::LaTransformer;
use crate::shape::{VitConfig, part_rows};
use crate::storage::atomic::write_atomically;
use std::io::Cursor;
use std::ops::Range;
use std::path::Path;

/// Shares of the class token of one image.
#[derive(Debug, Clone, PartialEq)]
pub struct Explanation {
    /// Share of each patch (grid rows, grid columns). They sum to 1.
    pub patches: Vec<f64>,
    /// Share of each part (R), the sum over its patches. They sum to 1, or to more where parts share rows.
    pub parts: Vec<f64>,
    /// Share of the prefix tokens (class, distillation, registers), before the patches are scaled to 1.
    pub prefix: f64,
}

impl Explanation {
    /// Splits a rollout (T) into the shares of prefix tokens, patches and parts.
    ///
    /// # Errors
    /// [`Error::Data`] if a share is not finite or all are 0: the network overflows on this image.
    pub fn new(config: &VitConfig, rollout: &[f32]) -> Result<Explanation> {
        let shares: Vec<f64> = rollout.iter().map(|&v| f64::from(v)).collect();
        let (prefix, patches) = shares.split_at(config.prefix());
        let total: f64 = patches.iter().sum();
        if !total.is_finite() || total <= 0.0 {
            return Err(Error::Data(
                "the attention is not finite for this image: the weights overflow; check the weights file"
                    .to_string(),
            ));
        }
        let patches: Vec<f64> = patches.iter().map(|share| share / total).collect();
        let (rows, columns) = config.grid();
        let share = |part: usize| {
            let Range { start, end } = part_rows(part, config.parts(), rows);
            patches[start * columns..end * columns].iter().sum()
        };
        let parts = (0..config.parts()).map(share).collect();
        Ok(Explanation { prefix: prefix.iter().sum(), patches, parts })
    }
}

/// Checks that the parts of a network are places of the image.
///
/// # Errors
/// [`Error::Usage`] for a network with a jigsaw: the patches of its parts are spread over the image.
fn check(network: &Network) -> Result<()> {
    match network.config.jigsaw {
        false => Ok(()),
        true => Err(Error::Usage(
            "a model with a jigsaw can't be explained: the patches of its parts are spread over the image"
                .to_string(),
        )),
    }
}

/// Explains the embedding of an image of any size. `camera` is its row of the camera embedding, if the network has one.
///
/// # Errors
/// [`Error::Usage`] for a network with a jigsaw, or with re-attention, whose weights may be negative; those of [`rollout`]
/// and [`Explanation::new`].
pub fn explain(context: &Context, network: &Network, image: &Rgb, camera: u32) -> Result<Explanation> {
    check(network)?;
    if network.config.reattention {
        return Err(Error::Usage(
            "a model with re-attention has no attention rollout: its weights may be negative".to_string(),
        ));
    }
    let image = resize_bicubic(image, network.config.image);
    Explanation::new(&network.config, &rollout(context, network, &image, camera)?)
}

/// Writes a drawing as PNG.
///
/// # Errors
/// [`Error::Image`] if it cannot be encoded; [`Error::Io`] if it cannot be written.
pub fn write_png(path: &Path, drawing: &Rgb) -> Result<()> {
    let mut bytes = Cursor::new(Vec::new());
    let (width, height) = (drawing.width as u32, drawing.height as u32);
    image::write_buffer_with_format(
        &mut bytes,
        &drawing.pixels,
        width,
        height,
        image::ExtendedColorType::Rgb8,
        image::ImageFormat::Png,
    )
    .map_err(|error| Error::Image { path: path.to_path_buf(), reason: error.to_string() })?;
    write_atomically(path, &bytes.into_inner())
}

/// Computes the agreement of the parts (R) of two images of any size: the cosines of their part embeddings. Each image
/// comes with its row of the camera embedding, if the network has one.
///
/// # Errors
/// [`Error::Usage`] for a network with a jigsaw; those of the adapter.
pub fn agreement(
    context: &Context,
    network: &Network,
    query: (&Rgb, u32),
    found: (&Rgb, u32),
) -> Result<Vec<f64>> {
    check(network)?;
    let config = &network.config;
    let mut embedder = Embedder::new(context, network, Some(1), context.default_memory())?;
    let mut embed =
        |(image, camera): (&Rgb, u32)| embedder.embed_by(&[resize_bicubic(image, config.image)], &[camera]);
    let (query, found) = (embed(query)?, embed(found)?);
    let parts = config.parts();
    let dim = query.len() / parts;
    // An embedding holds its parts at a length of 1/√R, so a part's dot product is 1/R of its cosine.
    let cosine = |(a, b): (&[f32], &[f32])| {
        parts as f64 * a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>()
    };
    Ok(query.chunks(dim).zip(found.chunks(dim)).map(cosine).collect())
}

/// Computes the rollout (T) of one image at the network's input size. `camera` is its row of the camera embedding, if
/// the network has one.
///
/// # Errors
/// [`Error::TooLarge`] if the attention matrix exceeds the adapter's largest binding; [`Error::Gpu`] for failures of
/// the driver.
///
/// # Panics
/// If the image has another size.
pub fn rollout(context: &Context, network: &Network, image: &Rgb, camera: u32) -> Result<Vec<f32>> {
    let config = &network.config;
    let size = config.image;
    assert_eq!((image.height, image.width), (size.height, size.width), "size of the image");
    let model = LaTransformer::new(context, network)?;

    let pixels = context.buffer("pixels", model.pixel_words(1))?;
    let mut bytes = image.pixels.clone();
    bytes.resize(model.pixel_words(1) * WORD as usize, 0);
    context.write(&pixels, &bytes);
    let mut one_hot = vec![0.0; config.tokens()];
    one_hot[0] = 1.0;
    let by = context.buffer("cameras", 1)?;
    context.write(&by, bytemuck::bytes_of(&camera));
    let class = context.upload("class", &one_hot)?;
    let shares = context.buffer("rollout", config.tokens())?;

    let mut recorder = Recorder::new(context);
    let [pixels, class, output] = [&pixels, &class, &shares].map(|buffer| recorder.import(buffer));
    let camera = config.cameras.as_ref().map(|_| recorder.import(&by));
    model.rollout(&mut recorder, pixels, camera, class, output);
    recorder.finish()?.run(context)?;
    Ok(context.read(&shares)?)
}
