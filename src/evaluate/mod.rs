//! Evaluation: from distances between embeddings to what they say about a model.

pub mod distances;

pub mod metrics;
pub mod rerank;
pub mod verification;
