//! Scores as JSON.

use super::{GalleryCounts, Outcome, Request};
use crate::error::Error;
use crate::retrieval::combined::ExpansionOptions;
use crate::retrieval::metrics::{Protocol, RANKS, Scores};
use crate::retrieval::pca::Projection;
use crate::retrieval::rerank::RerankOptions;
use crate::retrieval::verification::{OperatingPoint, Report};
use crate::train::config::word;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Warning before scores of the released code's protocol.
pub const INFLATED: &str = "released-code inflates scores: it counts images by the query's own camera, often from the same moment, and \
     AP covers the first ten images only; do not compare these scores with those of --protocol standard";

impl Request {
    /// Returns the name of the protocol.
    pub fn protocol_name(&self) -> String {
        word(&self.rules.protocol)
    }

    /// Returns the name of the average precision.
    pub fn average_precision_name(&self) -> String {
        match self.rules.protocol {
            Protocol::ReleasedCode => "first-ten".to_string(),
            _ => word(&self.rules.average_precision),
        }
    }

    /// Returns scores and settings. With several data sets, they are an array `sets` of scores, and an array `failed` of
    /// errors. `model` is the model as the user named it; `None` for embeddings.
    pub fn json(&self, results: &[Outcome], failed: &[(&PathBuf, Error)], model: Option<&Path>) -> Value {
        let mut value = Map::new();
        if let ([outcome], []) = (results, failed) {
            value.append(&mut outcome.json());
        } else {
            let failed = failed
                .iter()
                .map(|(dir, error)| json!({"data": dir.to_string_lossy(), "error": error.with_causes()}));
            value.insert("failed".to_string(), failed.collect());
            let sets: Vec<Map<String, Value>> = results.iter().map(Outcome::json).collect();
            value.insert("sets".to_string(), json!(sets));
        }
        let rerank =
            self.rerank.map(|RerankOptions { k1, k2, lambda }| json!({"k1": k1, "k2": k2, "lambda": lambda}));
        let expansion = self
            .expansion
            .map(|ExpansionOptions { k, alpha, over }| json!({"k": k, "alpha": alpha, "over": over}));
        let note = (self.rules.protocol == Protocol::ReleasedCode).then_some(INFLATED);
        let about = json!({
            "protocol": self.protocol_name(),
            "ap": self.average_precision_name(),
            "ignore_cameras": self.rules.ignore_cameras,
            "seed": self.rules.seed,
            "group_by": self.group_by,
            "distance": self.distance,
            "query_expansion": expansion,
            "rerank": rerank,
            "spatio_temporal_bin": self.spatio_temporal,
            "flip": self.image_options.flip,
            "dim": self.projection.as_ref().map(Projection::dim),
            "model": model.map(|model| model.to_string_lossy()),
            "note": note,
        });
        if let Value::Object(mut about) = about {
            value.append(&mut about);
        }
        Value::Object(value)
    }
}

impl Outcome {
    fn json(&self) -> Map<String, Value> {
        let mut value = scores_json(self.scores());
        let GalleryCounts { images, distractors, junk, unreadable } = self.gallery;
        value.insert("name".to_string(), json!(self.name));
        value.insert("queries".to_string(), json!(self.queries));
        value.insert("left_out".to_string(), json!(self.left_out.counts()));
        value.insert(
            "gallery".to_string(),
            json!({"pictures": images, "distractors": distractors, "junk": junk, "unreadable": unreadable}),
        );
        let without_rerank = self.reranked.is_some().then(|| scores_json(self.scores_before_reranking()));
        value.insert("without_rerank".to_string(), json!(without_rerank));
        let without_expansion = self.expanded.is_some().then(|| scores_json(&self.plain));
        value.insert("without_expansion".to_string(), json!(without_expansion));
        value.insert("spatio_temporal".to_string(), json!(self.spatio_temporal.as_ref().map(scores_json)));
        value.insert("without_dim".to_string(), json!(self.whole.as_ref().map(scores_json)));
        value.insert("trained_on".to_string(), json!(self.overlap));
        value.insert(
            "verification".to_string(),
            self.verification.as_ref().map_or(Value::Null, verification_json),
        );
        value
    }
}

fn scores_json(scores: &Scores) -> Map<String, Value> {
    let mut value = Map::new();
    for (k, rank) in RANKS.iter().zip(scores.ranks) {
        value.insert(format!("rank{k}"), json!(rank));
    }
    value.insert("map".to_string(), json!(scores.map));
    value.insert("minp".to_string(), json!(scores.minp));
    value.insert("valid_queries".to_string(), json!(scores.valid_queries));
    let dropped: BTreeMap<&str, usize> =
        scores.dropped.iter().map(|(reason, &count)| (reason.key(), count)).collect();
    value.insert("dropped".to_string(), json!(dropped));
    value
}

fn verification_json(report: &Report) -> Value {
    let point = |point: &OperatingPoint| {
        json!({
            "fpr": point.wanted,
            "tpr": point.true_positive_rate(),
            "threshold": point.reached.map(|reached| reached.threshold),
            "reached_fpr": point.reached.map(|reached| reached.false_positive_rate),
        })
    };
    let roc: Vec<Value> = report
        .roc
        .iter()
        .map(|point| json!([point.threshold, point.false_positive_rate, point.true_positive_rate]))
        .collect();
    json!({
        "same_pairs": report.same_pairs,
        "different_pairs": report.different_pairs,
        "eer": report.equal_error_rate,
        "eer_threshold": report.equal_error_threshold,
        "tpr_at_fpr": report.operating_points.iter().map(point).collect::<Vec<Value>>(),
        "target": report.target.as_ref().map(point),
        "roc": {"columns": ["threshold", "fpr", "tpr"], "points": roc},
        "histogram": {
            "edges": report.histogram.edges,
            "same": report.histogram.same,
            "different": report.histogram.different,
        },
    })
}
