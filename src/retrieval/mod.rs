//! From embeddings to scores: distances, rankings, metrics, and fewer dimensions by PCA.

pub mod distances;
pub mod neighbours;

pub mod aligned;
pub mod combined;
pub mod dbscan;
pub mod jaccard;
pub mod lists;
pub mod metrics;
pub mod pca;
pub mod rerank;
pub mod spatio_temporal;
pub mod statistics;
pub mod verification;
