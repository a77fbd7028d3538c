//! From embeddings to figures: distances, rankings, metrics.

pub mod distances;
pub mod neighbours;

pub mod metrics;
pub mod rerank;
pub mod verification;
