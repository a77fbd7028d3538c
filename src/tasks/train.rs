//! Trains a model and scores it by the standard protocol.

use super::embed::ImageOptions;
use super::evaluate::{self, EvaluationSet, evaluate};
use crate::checkpoint::Network;
use crate::error::Result;
use crate::gpu::Context;
use crate::images::decode::DecodeOptions;
use crate::observer::{Follower, Observer};
use crate::retrieval::metrics::{Rules, Scores};
use crate::train::log::RetrievalScores;
use crate::train::trainer::{Event, Request, RetrievalSet, Summary, run};

/// Limit of device memory for scoring, in bytes. The training step keeps its own memory meanwhile.
const BESIDE_TRAINING: Option<u64> = Some(2 << 30);

/// Trains a model; see [`run`].
///
/// # Errors
/// Those of [`run`].
pub fn train(request: &Request, observer: &dyn Follower<Event>) -> Result<Summary> {
    run(request, observer, score)
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
