//! The part classifiers: Linear → BatchNorm → optional ReLU → dropout → Linear for each part [LAT eq. 7]. Each step is
//! one dispatch for all parts.

use super::Grad;
use super::linear::Linear;
use super::norm::Norm;
use crate::gpu::{Buffer, Recorder, Tensor};
use crate::kernels::{batchnorm, part_linear};

/// Shapes of the part classifiers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClassifierShape {
    /// Number of parts R.
    pub parts: usize,
    /// Width of the input D.
    pub dim: usize,
    /// Hidden width E.
    pub hidden: usize,
    /// Number of persons K.
    pub classes: usize,
}

/// Parameters of all part classifiers, stacked over the parts.
#[derive(Debug, Clone)]
pub struct ClassifierParameters {
    /// First linear layer: weight (R, E, D) and bias (R, E).
    pub fc1: Linear,
    /// Weight and bias of BatchNorm (R, E).
    pub bn: Norm,
    /// Second linear layer: weight (R, K, E) and bias (R, K).
    pub fc2: Linear,
}

/// The part classifiers: parameters, running statistics and options.
#[derive(Debug, Clone)]
pub struct PartClassifiers {
    /// Shapes.
    pub shape: ClassifierShape,
    /// Parameters.
    pub parameters: ClassifierParameters,
    /// Running mean and variance of BatchNorm (R, E).
    pub running: (Buffer, Buffer),
    /// True if a ReLU follows BatchNorm: in the paper it does, in the released code not.
    pub relu: bool,
    /// Dropout probability.
    pub dropout: f32,
}

/// Tensors that the backward pass of the part classifiers reads.
#[derive(Debug, Clone, Copy)]
pub struct Saved {
    /// Parts (B, R, D).
    parts: Tensor,
    /// Input of BatchNorm (R, B, E).
    hidden: Tensor,
    statistics: Tensor,
    /// Output of dropout (R, B, E).
    dropped: Tensor,
    step: Tensor,
}

impl PartClassifiers {
    fn layer(&self, batch: usize) -> batchnorm::Layer {
        batchnorm::Layer {
            batch,
            parts: self.shape.parts,
            dim: self.shape.hidden,
            eps: self.parameters.bn.eps,
            relu: self.relu,
            drop: self.dropout,
            momentum: 0.1,
        }
    }

    fn first(&self, batch: usize) -> part_linear::Shape {
        let ClassifierShape { parts, dim, hidden, .. } = self.shape;
        let layout = part_linear::Layout::SampleFirst;
        part_linear::Shape { batch, parts, inputs: dim, outputs: hidden, layout }
    }

    fn second(&self, batch: usize) -> part_linear::Shape {
        let ClassifierShape { parts, hidden, classes, .. } = self.shape;
        let layout = part_linear::Layout::PartFirst;
        part_linear::Shape { batch, parts, inputs: hidden, outputs: classes, layout }
    }

    fn linear(
        recorder: &mut Recorder<'_>,
        name: &str,
        parameters: &Linear,
        x: Tensor,
        shape: part_linear::Shape,
    ) -> Tensor {
        let y = recorder.tensor(name, shape.parts * shape.batch * shape.outputs);
        let (weight, bias) = (recorder.import(&parameters.weight), recorder.import(&parameters.bias));
        part_linear::Forward { x, weight, bias, y, shape }.record(recorder, name);
        y
    }

    /// Records the logits (R, B, K) of parts (B, R, D) with running statistics and without dropout.
    pub fn evaluate(&self, recorder: &mut Recorder<'_>, parts: Tensor, logits: Tensor, batch: usize) {
        let ClassifierParameters { fc1, bn, fc2 } = &self.parameters;
        let x = Self::linear(recorder, "fc1", fc1, parts, self.first(batch));
        let y = recorder.tensor("bn", x.len);
        let [weight, bias, running_mean, running_var] =
            [&bn.weight, &bn.bias, &self.running.0, &self.running.1].map(|buffer| recorder.import(buffer));
        let layer = self.layer(batch);
        batchnorm::Evaluate { x, weight, bias, running_mean, running_var, y, layer }.record(recorder, "bn");
        let (weight, bias) = (recorder.import(&fc2.weight), recorder.import(&fc2.bias));
        let shape = self.second(batch);
        part_linear::Forward { x: y, weight, bias, y: logits, shape }.record(recorder, "fc2");
    }

    /// Records the logits (R, B, K) of parts (B, R, D) with the batch's statistics and with dropout.
    pub fn forward(
        &self,
        recorder: &mut Recorder<'_>,
        parts: Tensor,
        step: Tensor,
        batch: usize,
    ) -> (Tensor, Saved) {
        let ClassifierParameters { fc1, bn, fc2 } = &self.parameters;
        let hidden = Self::linear(recorder, "fc1", fc1, parts, self.first(batch));
        let layer = self.layer(batch);
        let dropped = recorder.tensor("bn", hidden.len);
        let statistics = recorder.tensor("bn.saved", layer.saved_words());
        let (weight, bias) = (recorder.import(&bn.weight), recorder.import(&bn.bias));
        batchnorm::Train { x: hidden, weight, bias, y: dropped, saved: statistics, step, layer }
            .record(recorder, "bn");
        let logits = Self::linear(recorder, "fc2", fc2, dropped, self.second(batch));
        (logits, Saved { parts, hidden, statistics, dropped, step })
    }

    /// Records the gradients of the parameters into `gradients`, and returns the gradient of the parts (B, R, D).
    pub fn backward(
        &self,
        recorder: &mut Recorder<'_>,
        saved: Saved,
        dlogits: Tensor,
        gradients: &Grad<ClassifierParameters>,
        batch: usize,
    ) -> Tensor {
        let Saved { parts, hidden, statistics, dropped, step } = saved;
        let ClassifierParameters { fc1, fc2, .. } = &self.parameters;
        let Grad(gradients) = gradients;
        // Forward: logits = dropped·Wᵀ + b.
        let shape = self.second(batch);
        let [weight, dweight, dbias] =
            [&fc2.weight, &gradients.fc2.weight, &gradients.fc2.bias].map(|buffer| recorder.import(buffer));
        part_linear::BackwardWeight { x: dropped, dy: dlogits, dweight, dbias, shape }
            .record(recorder, "fc2.dweight");
        let ddropped = recorder.tensor("ddropped", dropped.len);
        part_linear::BackwardInput { weight, dy: dlogits, dx: ddropped, shape }.record(recorder, "ddropped");
        // Forward: dropped = dropout(relu(BatchNorm(hidden))).
        let dhidden = recorder.tensor("dhidden", hidden.len);
        let (dweight, dbias) = (recorder.import(&gradients.bn.weight), recorder.import(&gradients.bn.bias));
        let layer = self.layer(batch);
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
        // Forward: hidden = parts·Wᵀ + b.
        let shape = self.first(batch);
        let [weight, dweight, dbias] =
            [&fc1.weight, &gradients.fc1.weight, &gradients.fc1.bias].map(|buffer| recorder.import(buffer));
        part_linear::BackwardWeight { x: parts, dy: dhidden, dweight, dbias, shape }
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
