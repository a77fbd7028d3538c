//! Kernels composed: a layer stands here only where there is something to compose.
//!
//! Law: a layer owns its parameters as device buffers and knows no name of a checkpoint.

pub mod attention;
pub mod block;
pub mod embedding;
pub mod linear;
pub mod mlp;
pub mod norm;

/// The shape of the activations between layers: (B, T, D).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sequence {
    /// B.
    pub batch: usize,
    /// T.
    pub tokens: usize,
    /// D.
    pub dim: usize,
}

impl Sequence {
    /// Rows of the activations as a matrix: B·T.
    pub fn rows(&self) -> usize {
        self.batch * self.tokens
    }

    /// Elements: B·T·D.
    pub fn len(&self) -> usize {
        self.rows() * self.dim
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
