//! A run of training, its models scored by the standard protocol.

use super::embed::LookOptions;
use super::evaluate::{Look, Plan, Task, evaluate};
use crate::checkpoint::Network;
use crate::error::Result;
use crate::gpu::Context;
use crate::images::decode::DecodeOptions;
use crate::observer::{Follower, Observer};
use crate::retrieval::metrics::{Rules, Scores};
use crate::train::log::RetrievalScores;
use crate::train::trainer::{Event, Request, RetrievalSet, Summary, run};

/// Device memory that scores stay within while the training step keeps its own, in bytes.
const BESIDE_TRAINING: Option<u64> = Some(2 << 30);

/// Trains as asked, see [`run`].
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
    let look = Look { batch: None, memory: BESIDE_TRAINING, options: LookOptions { decode, flip: false } };
    let task = Task::embed(set.clone(), network, context, look, observer)?;
    let rules = Rules { ignore_cameras: *ignore_cameras, ..Rules::default() };
    let plan = Plan { rules, memory: BESIDE_TRAINING, ..Plan::default() };
    let Scores { ranks: [rank1, rank5, rank10, rank20], map, minp, .. } =
        evaluate(task, &plan, context, observer)?.plain;
    Ok(RetrievalScores { rank1, rank5, rank10, rank20, map, minp })
}
