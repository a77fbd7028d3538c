//! From embeddings to figures: distances, rankings, metrics.

pub mod distances;
pub mod neighbours;

pub mod lists;
pub mod metrics;
pub mod rerank;
pub mod verification;
