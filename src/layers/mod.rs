//! Kernels composed: a layer stands here only where there is something to compose.
//!
//! Law: a layer owns its parameters as device buffers and knows no name of a checkpoint.

pub mod attention;
pub mod block;
pub mod embedding;
pub mod linear;
pub mod mlp;
pub mod norm;
pub mod part_classifier;

use crate::gpu::{Buffer, Recorder, Tensor};
use crate::kernels::{gemm, layerscale};

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

/// Memory for the gradients of `T`, laid out as its parameters are: no parameters can take its place.
#[derive(Debug, Clone, Copy)]
pub struct Grad<T>(T);

impl<T> Grad<T> {
    /// Calls this memory gradients.
    pub fn new(memory: T) -> Grad<T> {
        Grad(memory)
    }

    /// The memory, to be read.
    pub fn memory(&self) -> &T {
        &self.0
    }

    /// Its tensors in their places.
    pub fn map<U>(&self, place: impl FnOnce(&T) -> U) -> Grad<U> {
        Grad(place(&self.0))
    }

    /// The gradients of a part of `T`.
    pub fn field<'a, U>(&'a self, field: impl FnOnce(&'a T) -> &'a U) -> Grad<&'a U> {
        Grad(field(&self.0))
    }
}

/// The output of a residual branch before LayerScale, which the backward pass reads.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Branch(Option<Tensor>);

impl Branch {
    /// Room for the branch's output (B, T, D) if it is scaled.
    fn new(recorder: &mut Recorder<'_>, name: &str, scale: Option<&Buffer>, shape: Sequence) -> Branch {
        Branch(scale.map(|_| recorder.activation(name, shape.len())))
    }

    /// z = residual + scale·branch, as the epilogue of the branch's last product.
    fn epilogue(
        self,
        recorder: &mut Recorder<'_>,
        scale: Option<&Buffer>,
        residual: Tensor,
    ) -> gemm::Epilogue {
        let scale = scale.map(|scale| recorder.import(scale));
        gemm::Epilogue { scale, residual: Some(residual), pre: self.0, ..Default::default() }
    }

    /// Records dbranch = dz·scale and, if wanted, dscale = Σ dz·branch.
    fn backward(
        self,
        recorder: &mut Recorder<'_>,
        name: &str,
        dz: Tensor,
        scale: Option<&Buffer>,
        gradient: Option<Grad<&Buffer>>,
        shape: Sequence,
    ) -> Tensor {
        let (Some(branch), Some(scale)) = (self.0, scale) else { return dz };
        let dbranch = recorder.activation(name, shape.len());
        let weight = recorder.import(scale);
        let dweight = match gradient {
            Some(Grad(gradient)) => recorder.import(gradient),
            // A frozen block: the kernel computes it all the same, and nothing reads it.
            None => recorder.tensor("unused dscale", shape.dim),
        };
        let (rows, dim) = (shape.rows(), shape.dim);
        layerscale::Backward { x: branch, weight, dy: dz, dx: dbranch, dweight, rows, dim }
            .record(recorder, name);
        dbranch
    }
}
