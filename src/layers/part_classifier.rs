//! The part classifiers. For each part: Linear → BatchNorm → optional ReLU → dropout → Linear [LAT eq. 7], or BNNeck's
//! BatchNorm → Linear, both without bias. Each step is one dispatch for all parts.

use super::Grad;
use super::linear::Linear;
use crate::gpu::{Buffer, Recorder, Tensor};
use crate::kernels::part_linear::Layout;
use crate::kernels::{batchnorm, part_linear};
use crate::shape::ClassifierKind;

/// Shapes of the part classifiers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClassifierShape {
    /// Number of parts R.
    pub parts: usize,
    /// Width of the input D.
    pub dim: usize,
    /// Layers, with the hidden width E of the kind parts.
    pub kind: ClassifierKind,
    /// Number of persons K.
    pub classes: usize,
}

impl ClassifierShape {
    /// Width of the BatchNorm: E, or D for BNNeck.
    pub fn width(&self) -> usize {
        self.kind.width(self.dim)
    }
}

/// Parameters of all part classifiers, stacked over the parts. W is the width of the BatchNorm.
#[derive(Debug, Clone)]
pub struct ClassifierParameters {
    /// First linear layer: weight (R, E, D) and bias (R, E). BNNeck has none.
    pub fc1: Option<Linear>,
    /// Weight of BatchNorm (R, W).
    pub bn_weight: Buffer,
    /// Bias of BatchNorm (R, W). BNNeck has none.
    pub bn_bias: Option<Buffer>,
    /// Weight of the last linear layer (R, K, W).
    pub weight: Buffer,
    /// Bias of the last linear layer (R, K). BNNeck has none.
    pub bias: Option<Buffer>,
}

/// The part classifiers: parameters, running statistics and options.
#[derive(Debug, Clone)]
pub struct PartClassifiers {
    /// Shapes.
    pub shape: ClassifierShape,
    /// Parameters.
    pub parameters: ClassifierParameters,
    /// Running mean and variance of BatchNorm (R, W).
    pub running: (Buffer, Buffer),
    /// ε of BatchNorm.
    pub eps: f32,
    /// True if a ReLU follows BatchNorm: in the paper it does, in the released code not. BNNeck has none.
    pub relu: bool,
    /// Dropout probability. BNNeck has no dropout.
    pub dropout: f32,
}

/// Tensors that the backward pass of the part classifiers reads.
#[derive(Debug, Clone, Copy)]
pub struct Saved {
    /// Parts (B, R, D).
    parts: Tensor,
    /// Input of BatchNorm: (R, B, E), or the parts.
    hidden: Tensor,
    statistics: Tensor,
    /// Input of the last linear layer (R, B, W).
    dropped: Tensor,
    step: Tensor,
}

impl Saved {
    /// Returns the output of BNNeck's BatchNorm (R, B, D) and its order.
    pub fn normalised(&self) -> (Tensor, Layout) {
        (self.dropped, Layout::PartFirst)
    }
}

impl PartClassifiers {
    /// Factor of a part's loss: the loss is the sum over the parts, or the mean with BNNeck.
    pub fn loss_weight(&self) -> f32 {
        match self.shape.kind {
            ClassifierKind::Parts { .. } => 1.0,
            ClassifierKind::Bnneck => 1.0 / self.shape.parts as f32,
        }
    }

    fn layer(&self, batch: usize) -> batchnorm::Layer {
        let shape = self.shape;
        let (inputs, relu, drop) = match shape.kind {
            ClassifierKind::Parts { .. } => (Layout::PartFirst, self.relu, self.dropout),
            ClassifierKind::Bnneck => (Layout::SampleFirst, false, 0.0),
        };
        batchnorm::Layer {
            batch,
            parts: shape.parts,
            dim: shape.width(),
            eps: self.eps,
            relu,
            drop,
            momentum: 0.1,
            inputs,
            outputs: Layout::PartFirst,
        }
    }

    fn first(&self, batch: usize) -> part_linear::Shape {
        let ClassifierShape { parts, dim, .. } = self.shape;
        let (outputs, layout) = (self.shape.width(), Layout::SampleFirst);
        part_linear::Shape { batch, parts, inputs: dim, outputs, layout }
    }

    fn second(&self, batch: usize) -> part_linear::Shape {
        let ClassifierShape { parts, classes, .. } = self.shape;
        let (inputs, layout) = (self.shape.width(), Layout::PartFirst);
        part_linear::Shape { batch, parts, inputs, outputs: classes, layout }
    }

    /// Records the input of BatchNorm.
    fn hidden(&self, recorder: &mut Recorder<'_>, parts: Tensor, batch: usize) -> Tensor {
        let Some(fc1) = &self.parameters.fc1 else { return parts };
        let shape = self.first(batch);
        let y = recorder.tensor("fc1", shape.parts * shape.batch * shape.outputs);
        let (weight, bias) = (recorder.import(&fc1.weight), recorder.import(&fc1.bias));
        part_linear::Forward { x: parts, weight, bias: Some(bias), y, shape }.record(recorder, "fc1");
        y
    }

    /// Records the last linear layer.
    fn classify(&self, recorder: &mut Recorder<'_>, x: Tensor, logits: Tensor, batch: usize) {
        let ClassifierParameters { weight, bias, .. } = &self.parameters;
        let weight = recorder.import(weight);
        let bias = bias.as_ref().map(|bias| recorder.import(bias));
        let shape = self.second(batch);
        part_linear::Forward { x, weight, bias, y: logits, shape }.record(recorder, "fc2");
    }

    /// Records the logits (R, B, K) of parts (B, R, D) with running statistics and without dropout.
    pub fn evaluate(&self, recorder: &mut Recorder<'_>, parts: Tensor, logits: Tensor, batch: usize) {
        let y = self.normalise(recorder, parts, batch);
        self.classify(recorder, y, logits, batch);
    }

    /// Records the input of the last linear layer (R, B, W) for parts (B, R, D), with running statistics and without
    /// dropout.
    pub fn normalise(&self, recorder: &mut Recorder<'_>, parts: Tensor, batch: usize) -> Tensor {
        let x = self.hidden(recorder, parts, batch);
        let y = recorder.tensor("bn", x.len);
        let [weight, running_mean, running_var] =
            [&self.parameters.bn_weight, &self.running.0, &self.running.1]
                .map(|buffer| recorder.import(buffer));
        let bias = self.parameters.bn_bias.as_ref().map(|bias| recorder.import(bias));
        let layer = self.layer(batch);
        batchnorm::Evaluate { x, weight, bias, running_mean, running_var, y, layer }.record(recorder, "bn");
        y
    }

    /// Records the logits (R, B, K) of parts (B, R, D) with the batch's statistics and with dropout.
    pub fn forward(
        &self,
        recorder: &mut Recorder<'_>,
        parts: Tensor,
        step: Tensor,
        batch: usize,
    ) -> (Tensor, Saved) {
        let hidden = self.hidden(recorder, parts, batch);
        let layer = self.layer(batch);
        let dropped = recorder.tensor("bn", hidden.len);
        let statistics = recorder.tensor("bn.saved", layer.saved_words());
        let weight = recorder.import(&self.parameters.bn_weight);
        let bias = self.parameters.bn_bias.as_ref().map(|bias| recorder.import(bias));
        batchnorm::Train { x: hidden, weight, bias, y: dropped, saved: statistics, step, layer }
            .record(recorder, "bn");
        let logits = recorder.tensor("fc2", self.shape.parts * batch * self.shape.classes);
        self.classify(recorder, dropped, logits, batch);
        (logits, Saved { parts, hidden, statistics, dropped, step })
    }

    /// Records the gradients of the parameters into `gradients`, and returns the gradient of the parts (B, R, D). `add`
    /// records what else depends on the input of the last linear layer: it receives the gradient to add to (R, B, W).
    pub fn backward<'c>(
        &self,
        recorder: &mut Recorder<'c>,
        saved: Saved,
        dlogits: Tensor,
        add: impl FnOnce(&mut Recorder<'c>, Tensor),
        gradients: &Grad<ClassifierParameters>,
        batch: usize,
    ) -> Tensor {
        let Saved { parts, hidden, statistics, dropped, step } = saved;
        let Grad(gradients) = gradients;
        // Forward: logits = dropped·Wᵀ + b.
        let shape = self.second(batch);
        let [weight, dweight] =
            [&self.parameters.weight, &gradients.weight].map(|buffer| recorder.import(buffer));
        let dbias = gradients.bias.as_ref().map(|bias| recorder.import(bias));
        part_linear::BackwardWeight { x: dropped, dy: dlogits, dweight, dbias, shape }
            .record(recorder, "fc2.dweight");
        let ddropped = recorder.tensor("ddropped", dropped.len);
        part_linear::BackwardInput { weight, dy: dlogits, dx: ddropped, shape }.record(recorder, "ddropped");
        add(recorder, ddropped);
        // Forward: dropped = dropout(relu(BatchNorm(hidden))).
        let dhidden = recorder.tensor("dhidden", hidden.len);
        let layer = self.layer(batch);
        let dweight = recorder.import(&gradients.bn_weight);
        let dbias = gradients.bn_bias.as_ref().map(|bias| recorder.import(bias));
        batchnorm::Backward {
            x: hidden,
            saved: statistics,
            dy: ddropped,
            step,
            dx: dhidden,
            dweight,
            dbias,
            layer,
        }
        .record(recorder, "bn");
        let (Some(fc1), Some(dfc1)) = (&self.parameters.fc1, &gradients.fc1) else { return dhidden };
        // Forward: hidden = parts·Wᵀ + b.
        let shape = self.first(batch);
        let [weight, dweight, dbias] =
            [&fc1.weight, &dfc1.weight, &dfc1.bias].map(|buffer| recorder.import(buffer));
        part_linear::BackwardWeight { x: parts, dy: dhidden, dweight, dbias: Some(dbias), shape }
            .record(recorder, "fc1.dweight");
        let dparts = recorder.tensor("dparts", parts.len);
        part_linear::BackwardInput { weight, dy: dhidden, dx: dparts, shape }.record(recorder, "dparts");
        dparts
    }

    /// Records the update of the running statistics. The kernel skips it if the gradients in `control` aren't finite.
    pub fn update_running(&self, recorder: &mut Recorder<'_>, saved: Saved, control: Tensor, batch: usize) {
        let (running_mean, running_var) =
            (recorder.import(&self.running.0), recorder.import(&self.running.1));
        let (saved, layer) = (saved.statistics, self.layer(batch));
        batchnorm::Update { saved, control, running_mean, running_var, layer }.record(recorder, "bn.running");
    }
}
