//! Layers: compositions of kernels.
//!
//! A layer owns its parameters as device buffers and doesn't know their names in a checkpoint. An operation that is a
//! single kernel has no layer.

pub mod attention;
pub mod block;
pub mod embedding;
pub mod linear;
pub mod mlp;
pub mod norm;
pub mod part_classifier;
pub mod reattention;

use crate::gpu::{Buffer, Recorder, Tensor};
use crate::kernels::{drop_path, gemm, layerscale};

/// The shape of the activations between layers: (B, T, D).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sequence {
    /// Batch size B.
    pub batch: usize,
    /// Tokens per image T.
    pub tokens: usize,
    /// Width of a token D.
    pub dim: usize,
}

impl Sequence {
    /// Returns the rows of the activations as a matrix: B·T.
    pub fn rows(&self) -> usize {
        self.batch * self.tokens
    }

    /// Returns the number of elements: B·T·D.
    pub fn len(&self) -> usize {
        self.rows() * self.dim
    }

    /// Returns true if it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Memory for the gradients of `T`, with the layout of `T`. A type of its own, so that parameters can't be passed
/// instead.
#[derive(Debug, Clone, Copy)]
pub struct Grad<T>(T);

impl<T> Grad<T> {
    /// Declares that `memory` holds gradients.
    pub fn new(memory: T) -> Grad<T> {
        Grad(memory)
    }

    /// Returns the memory.
    pub fn memory(&self) -> &T {
        &self.0
    }

    /// Applies `place` to the memory.
    pub fn map<U>(&self, place: impl FnOnce(&T) -> U) -> Grad<U> {
        Grad(place(&self.0))
    }

    /// Returns the gradients of a field of `T`.
    pub fn field<'a, U>(&'a self, field: impl FnOnce(&'a T) -> &'a U) -> Grad<&'a U> {
        Grad(field(&self.0))
    }
}

/// The factors of images by which stochastic depth scales a residual branch.
#[derive(Debug, Clone, Copy)]
pub struct Drop {
    /// Factors of branches and images.
    pub factors: Tensor,
    /// Index of the first image's factor.
    pub first: usize,
}

/// Tensors of a residual branch that its backward pass reads.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Branch {
    /// The output before LayerScale (B, T, D); `None` without LayerScale.
    unscaled: Option<Tensor>,
    /// Stochastic depth; `None` if the branch is never dropped.
    drop: Option<Drop>,
}

impl Branch {
    /// Creates the tensor if the branch has a scale.
    fn new(
        recorder: &mut Recorder<'_>,
        name: &str,
        scale: Option<&Buffer>,
        drop: Option<Drop>,
        shape: Sequence,
    ) -> Branch {
        Branch { unscaled: scale.map(|_| recorder.activation(name, shape.len())), drop }
    }

    /// Returns the epilogue of the branch's last product: residual + scale·branch, or scale·branch if the branch may be
    /// dropped.
    fn epilogue(
        self,
        recorder: &mut Recorder<'_>,
        scale: Option<&Buffer>,
        residual: Tensor,
    ) -> gemm::Epilogue {
        let scale = scale.map(|scale| recorder.import(scale));
        let residual = self.drop.is_none().then_some(residual);
        gemm::Epilogue { scale, residual, pre: self.unscaled, ..Default::default() }
    }

    /// Records z = residual + factor·branch (B, T, D) of the product's output, which is z already if the branch is never
    /// dropped.
    fn finish(
        self,
        recorder: &mut Recorder<'_>,
        name: &str,
        product: Tensor,
        residual: Tensor,
        shape: Sequence,
    ) -> Tensor {
        self.dropped(recorder, name, product, Some(residual), shape)
    }

    fn dropped(
        self,
        recorder: &mut Recorder<'_>,
        name: &str,
        x: Tensor,
        residual: Option<Tensor>,
        shape: Sequence,
    ) -> Tensor {
        let Some(Drop { factors, first }) = self.drop else { return x };
        let Sequence { batch, tokens, dim } = shape;
        let name = format!("{name}.drop");
        let y = recorder.activation(&name, shape.len());
        drop_path::DropPath { x, residual, y, factors, first, batch, tokens, dim }.record(recorder, &name);
        y
    }

    /// Records dbranch = dz·factor·scale (B, T, D), and dscale = Σ dz·factor·branch (D) into `gradient`.
    fn backward(
        self,
        recorder: &mut Recorder<'_>,
        name: &str,
        dz: Tensor,
        scale: Option<&Buffer>,
        gradient: Option<Grad<&Buffer>>,
        shape: Sequence,
    ) -> Tensor {
        let dz = self.dropped(recorder, name, dz, None, shape);
        let (Some(branch), Some(scale)) = (self.unscaled, scale) else { return dz };
        let dbranch = recorder.activation(name, shape.len());
        let weight = recorder.import(scale);
        let dweight = match gradient {
            Some(Grad(gradient)) => recorder.import(gradient),
            // A frozen block: the kernel computes dscale anyway, and nothing reads it.
            None => recorder.tensor("unused dscale", shape.dim),
        };
        let (rows, dim) = (shape.rows(), shape.dim);
        layerscale::Backward { x: branch, weight, dy: dz, dx: dbranch, dweight, rows, dim }
            .record(recorder, name);
        dbranch
    }
}
