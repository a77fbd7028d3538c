//! Trains a model and scores it by the standard protocol.

use super::embed::ImageOptions;
use super::evaluate::{self, EvaluationSet, evaluate};
use super::models;
use crate::checkpoint::Network;
use crate::error::Result;
use crate::gpu::Context;
use crate::images::decode::DecodeOptions;
use crate::observer::{Follower, Observer};
use crate::retrieval::metrics::{Rules, Scores};
use crate::train::config::{Config, Layers};
use crate::train::log::RetrievalScores;
use crate::train::trainer::{Event, Request, RetrievalSet, Summary, run};
use std::path::Path;

/// Limit of device memory for scoring, in bytes. The training step keeps its own memory meanwhile.
const BESIDE_TRAINING: Option<u64> = Some(2 << 30);

/// Trains a model; see [`run`].
///
/// # Errors
/// Those of [`run`].
pub fn train(request: &Request, observer: &dyn Follower<Event>) -> Result<Summary> {
    run(request, observer, score)
}

/// Replaces the name of a backbone by its file, after a download if it needs one.
///
/// # Errors
/// Those of [`models::file`].
pub fn with_backbone(mut layers: Layers, offline: bool, observer: &dyn Observer) -> Result<Layers> {
    // An error in the configuration is reported where it is read, which a resumed run does in another way.
    let backbone = Config::resolve(&layers).ok().and_then(|config| config.model.backbone);
    if let Some(backbone) = backbone {
        let file = models::file(Path::new(&backbone), offline, observer)?;
        if file != Path::new(&backbone) {
            layers.set.push(format!("model.backbone={}", file.display()));
        }
    }
    Ok(layers)
}

fn score(
    retrieval_set: &RetrievalSet,
    context: &Context,
    network: &Network,
    observer: &dyn Observer,
) -> Result<RetrievalScores> {
    let RetrievalSet { set, ignore_cameras, ignore_exif } = retrieval_set;
    let decode = DecodeOptions { ignore_exif: *ignore_exif };
    let request = evaluate::Request {
        rules: Rules { ignore_cameras: *ignore_cameras, ..Rules::default() },
        memory: BESIDE_TRAINING,
        image_options: ImageOptions { decode, flip: false },
        ..evaluate::Request::default()
    };
    let set = EvaluationSet::embed(set.clone(), network, context, &request, observer)?;
    let Scores { ranks: [rank1, rank5, rank10, rank20], map, minp, .. } =
        evaluate(&set, &request, context, observer)?.plain;
    Ok(RetrievalScores { rank1, rank5, rank10, rank20, map, minp })
}
