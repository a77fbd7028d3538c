//! Where in an image the model looks: attention rollout of the class token, by patch and by part.
//!
//! Rollout follows the attention of all blocks, half of every token passing each block on the residual stream, and tells
//! what share of the class token came from which input token. It tells where information may have come from, not what
//! was made of it (Abnar and Zuidema 2020, "Quantifying Attention Flow in Transformers").

mod panels;

pub use panels::draw;

use crate::checkpoint::Network;
use crate::error::{Error, Result};
use crate::gpu::{Context, Recorder, WORD};
use crate::images::decode::Rgb;
use crate::model::LaTransformer;
use crate::shape::VitConfig;

/// Shares of one image's class token.
#[derive(Debug, Clone, PartialEq)]
pub struct Explanation {
    /// Of each patch, (grid rows, grid columns) row after row; they sum to 1.
    pub patches: Vec<f64>,
    /// Of each part (R), the sum over its patches; they sum to 1.
    pub parts: Vec<f64>,
    /// Of the tokens that are no patches (class, distillation, registers), before the others were brought to 1.
    pub prefix: f64,
}

impl Explanation {
    /// Splits a rollout (T) into tokens before the patches, and patches and parts of the grid.
    ///
    /// # Errors
    /// [`Error::Data`] if a share isn't finite, or none is above 0: the network overflows on this image.
    pub fn new(config: &VitConfig, rollout: &[f32]) -> Result<Explanation> {
        let shares: Vec<f64> = rollout.iter().map(|&v| f64::from(v)).collect();
        let (prefix, patches) = shares.split_at(config.prefix());
        let total: f64 = patches.iter().sum();
        if !total.is_finite() || total <= 0.0 {
            return Err(Error::Data(
                "the network's attention isn't finite for this image: its weights overflow".to_string(),
            ));
        }
        let patches: Vec<f64> = patches.iter().map(|share| share / total).collect();
        let parts = patches.chunks(patches.len() / config.parts()).map(|part| part.iter().sum()).collect();
        Ok(Explanation { prefix: prefix.iter().sum(), patches, parts })
    }
}

/// The rollout (T) of one image at the network's input size.
///
/// # Errors
/// [`Error::TooLarge`] if the image's attention exceeds what the adapter binds; [`Error::Gpu`] for what the driver reports.
///
/// # Panics
/// If the image has another size.
pub fn rollout(context: &Context, network: &Network, image: &Rgb) -> Result<Vec<f32>> {
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
    let class = context.upload("class", &one_hot)?;
    let shares = context.buffer("rollout", config.tokens())?;

    let mut recorder = Recorder::new(context);
    let [pixels, class, output] = [&pixels, &class, &shares].map(|buffer| recorder.import(buffer));
    model.rollout(&mut recorder, pixels, class, output);
    recorder.finish()?.run(context)?;
    Ok(context.read(&shares)?)
}
