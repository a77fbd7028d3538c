//! The network while it learns: parameters, gradients and moments on the device, and the recorded step.

use super::parameters::{Arenas, Group, GroupKind, backbone_groups, head_group};
use super::vit::{Trainable, Vit, VitGradients};
use crate::checkpoint::{HostTensor, Network};
use crate::error::Result;
use crate::gpu::{Buffer, Context, Plan, Recorder, WORD};
use crate::kernels::adam::{Adam, Betas, StepValues};
use crate::kernels::{cross_entropy, gelt, gradnorm, image};
use crate::layers::linear::Linear;
use crate::layers::norm::Norm;
use crate::layers::part_classifier::{HeadShape, Heads, PartClassifiers};
use crate::shape::{Preprocess, VitConfig};
use std::collections::BTreeMap;

/// ε of the part classifiers' BatchNorm: PyTorch's default, as in the released code.
const BATCHNORM_EPS: f32 = 1e-5;

/// Settings of the part classifiers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HeadSettings {
    /// E, width between the two linear layers.
    pub hidden: usize,
    /// K.
    pub classes: usize,
    /// Whether a ReLU follows the BatchNorm.
    pub relu: bool,
    /// Share of hidden values that training drops.
    pub dropout: f32,
}

/// Settings of loss and optimiser that never change in a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct UpdateRule {
    /// Adam's constants.
    pub betas: Betas,
    /// AdamW instead of Adam with L2.
    pub decoupled: bool,
    /// Share of the target that is spread over all classes.
    pub label_smoothing: f32,
}

/// Adam's two moments of one group.
#[derive(Debug, Clone)]
struct Moments {
    first: Buffer,
    second: Buffer,
}

/// Adam's two moments of one group in host memory, padding included.
#[derive(Debug, Clone, PartialEq)]
pub struct HostMoments {
    /// Which group.
    pub kind: GroupKind,
    /// Mean of the gradient.
    pub first: Vec<f32>,
    /// Mean of its square.
    pub second: Vec<f32>,
}

/// A network that learns.
pub struct Learner<'c> {
    context: &'c Context,
    config: VitConfig,
    preprocess: Preprocess,
    rule: UpdateRule,
    groups: Vec<Group>,
    parameters: Arenas,
    vit: Vit,
    heads: Heads,
    trainable: Trainable,
    gradients: Arenas,
    moments: BTreeMap<GroupKind, Moments>,
}

/// One recorded training step for one batch size.
pub struct TrainingStep {
    /// The launches.
    pub plan: Plan,
    /// (B, height, width, 3) bytes.
    pub pixels: Buffer,
    /// (B) words: 1 mirrors.
    pub flips: Buffer,
    /// (B) words.
    pub labels: Buffer,
    /// [`StepValues`].
    pub step: Buffer,
    /// Row losses (R, B), then the four words of control.
    pub losses: Buffer,
    /// Whether all was finite; clipping factor; norm.
    pub control: Buffer,
}

/// One recorded forward pass by running statistics.
pub struct EvaluationStep {
    /// The launches.
    pub plan: Plan,
    /// (B, height, width, 3) bytes.
    pub pixels: Buffer,
    /// (R, B, K), written.
    pub logits: Buffer,
}

fn classifiers(arenas: &Arenas) -> PartClassifiers {
    let linear = |name: &str| Linear {
        weight: arenas.get(&format!("heads.{name}.weight")),
        bias: arenas.get(&format!("heads.{name}.bias")),
    };
    let bn =
        Norm { weight: arenas.get("heads.bn.weight"), bias: arenas.get("heads.bn.bias"), eps: BATCHNORM_EPS };
    PartClassifiers { fc1: linear("fc1"), bn, fc2: linear("fc2") }
}

/// Running statistics in the checkpoint, one pair for each part.
fn running_names(part: usize) -> [String; 2] {
    [format!("heads.{part}.bn.running_mean"), format!("heads.{part}.bn.running_var")]
}

impl<'c> Learner<'c> {
    /// Uploads a network with its part classifiers.
    ///
    /// # Errors
    /// If the adapter can't hold it.
    ///
    /// # Panics
    /// If a classifier's tensor is missing or misshaped: the caller checks them.
    pub fn new(
        context: &'c Context,
        network: &Network,
        settings: HeadSettings,
        rule: UpdateRule,
        trainable: Trainable,
    ) -> Result<Learner<'c>> {
        let config = network.config.clone();
        let HeadSettings { hidden, classes, relu, dropout } = settings;
        let shape = HeadShape { parts: config.parts(), dim: config.dim, hidden, classes };
        let mut groups = backbone_groups(&config);
        groups.push(head_group(shape));
        let mut tensors = network.tensors.clone();
        tensors.extend(network.heads.iter().map(|(name, tensor)| (name.clone(), tensor.clone())));
        let parameters = Arenas::upload(context, &groups, &tensors)?;
        let running = |which: usize, label: &str| {
            let names = (0..shape.parts).map(|part| running_names(part)[which].clone());
            let data: Vec<f32> = names.flat_map(|name| tensors[&name].data.clone()).collect();
            context.upload(label, &data)
        };
        let heads = Heads {
            shape,
            parameters: classifiers(&parameters),
            running: (running(0, "heads.bn.running_mean")?, running(1, "heads.bn.running_var")?),
            relu,
            dropout,
        };
        let mut learner = Learner {
            context,
            vit: Vit::new(&config, &parameters),
            config,
            preprocess: network.preprocess.clone(),
            rule,
            groups,
            parameters,
            heads,
            trainable,
            gradients: Arenas::zeroed(context, &[])?,
            moments: BTreeMap::new(),
        };
        learner.open(trainable)?;
        Ok(learner)
    }

    /// Changes which groups train: newly opened ones get gradients and zeroed moments.
    ///
    /// # Errors
    /// If the adapter can't hold them.
    pub fn open(&mut self, trainable: Trainable) -> Result<()> {
        let open: Vec<Group> =
            self.groups.iter().filter(|group| trainable.contains(group.kind)).cloned().collect();
        for group in &open {
            if !self.moments.contains_key(&group.kind) {
                let arena = |name: &str| self.context.arena(&format!("{} {name}", group.kind), group.words);
                let moments = Moments { first: arena("m")?, second: arena("v")? };
                self.moments.insert(group.kind, moments);
            }
        }
        self.gradients = Arenas::zeroed(self.context, &open)?;
        self.trainable = trainable;
        Ok(())
    }

    /// Which groups train.
    pub fn trainable(&self) -> Trainable {
        self.trainable
    }

    /// All groups, in the order in which the step's words number them.
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// Number of parameters that train.
    pub fn trainable_parameters(&self) -> usize {
        self.groups.iter().filter(|g| self.trainable.contains(g.kind)).map(Group::parameters).sum()
    }

    /// Bytes of parameters, gradients and moments.
    pub fn state_bytes(&self) -> u64 {
        let moments: u64 = self.moments.values().map(|m| 2 * m.first.words as u64 * WORD).sum();
        self.parameters.bytes() + self.gradients.bytes() + moments
    }

    fn parts(&self, recorder: &mut Recorder<'_>, tokens: crate::gpu::Tensor, batch: usize) -> gelt::Forward {
        let HeadShape { parts, dim, .. } = self.heads.shape;
        gelt::Forward {
            tokens,
            gelt: recorder.tensor("gelt", batch * parts * dim),
            batch,
            prefix: self.config.prefix(),
            parts,
            columns: self.config.patches() / parts,
            dim,
            weights: self.config.gelt.weights(),
        }
    }

    fn image(
        &self,
        recorder: &mut Recorder<'_>,
        pixels: &Buffer,
        flips: Option<&Buffer>,
        batch: usize,
    ) -> crate::gpu::Tensor {
        let size = self.config.image;
        let Preprocess { mean, std, .. } = self.preprocess;
        let normalised = recorder.tensor("image", batch * 3 * size.height * size.width);
        let (pixels, flip) = (recorder.import(pixels), flips.map(|flips| recorder.import(flips)));
        image::Forward { pixels, flip, image: normalised, batch, size, mean, std }.record(recorder, "image");
        normalised
    }

    /// Records a whole step for `batch` pictures: forward, loss, backward, norm, optimiser.
    ///
    /// # Errors
    /// If the adapter can't hold it.
    pub fn record_step(&self, batch: usize) -> Result<TrainingStep> {
        let context = self.context;
        let HeadShape { parts, classes, .. } = self.heads.shape;
        let pixels = context.buffer("pixels", image::pixel_words(batch, self.config.image))?;
        let flips = context.buffer("flips", batch)?;
        let labels = context.buffer("labels", batch)?;
        let step = context.buffer("step", StepValues::len_of(self.groups.len()))?;
        let losses = context.buffer("losses", parts * batch)?;
        let control = context.buffer("control", gradnorm::CONTROL_WORDS)?;

        let mut recorder = Recorder::new(context);
        let recorder = &mut recorder;
        let steps = recorder.import(&step);
        let normalised = self.image(recorder, &pixels, Some(&flips), batch);
        // Forward: tokens, parts, logits, loss.
        let (tokens, vit_saved) = self.vit.forward_saving(recorder, normalised, self.trainable, batch);
        let parts_of = self.parts(recorder, tokens, batch);
        parts_of.record(recorder, "gelt");
        recorder.scope("heads");
        let (logits, heads_saved) = self.heads.forward_saving(recorder, parts_of.gelt, steps, batch);
        recorder.scope("");
        let dlogits = recorder.tensor("dlogits", logits.len);
        let (row_losses, targets) = (recorder.import(&losses), recorder.import(&labels));
        cross_entropy::CrossEntropy {
            logits,
            labels: targets,
            loss: row_losses,
            dlogits: Some(dlogits),
            batch,
            parts,
            classes,
            smoothing: self.rule.label_smoothing,
        }
        .record(recorder, "cross_entropy");

        // Backward: the same lines in reverse.
        let gradients = classifiers(&self.gradients);
        recorder.scope("backward.heads");
        let dparts = self.heads.backward(recorder, heads_saved, dlogits, &gradients, batch);
        recorder.scope("backward");
        let dtokens = recorder.tensor("dtokens", tokens.len);
        let gelt::Forward { prefix, columns, dim, weights, .. } = parts_of;
        gelt::Backward { dgelt: dparts, dtokens, batch, prefix, parts, columns, dim, weights }
            .record(recorder, "gelt");
        let gradients = VitGradients::new(&self.config, &self.gradients, self.trainable);
        self.vit.backward(recorder, &vit_saved, dtokens, &gradients, batch);

        // Norm of all gradients; whether all is finite; update.
        let partial_words: Vec<usize> =
            self.gradients.groups.iter().map(|(group, _)| gradnorm::partial_words(group.words)).collect();
        let partials = context.buffer("gradnorm.partials", partial_words.iter().sum())?;
        let mut start = 0;
        for ((group, arena), words) in self.gradients.groups.iter().zip(partial_words) {
            let gradients = recorder.import(arena);
            let partials = recorder.import(&partials.slice("gradnorm.partials", start, words));
            gradnorm::Partial { gradients, partials }.record(recorder, &format!("gradnorm.{}", group.kind));
            start += words;
        }
        let (sums, verdict) = (recorder.import(&partials), recorder.import(&control));
        gradnorm::Finish { partials: sums, losses: row_losses, step: steps, control: verdict }
            .record(recorder, "gradnorm");
        recorder.scope("heads");
        self.heads.update_running(recorder, heads_saved, verdict, batch);
        recorder.scope("");
        for (group, (layout, memory)) in self.parameters.groups.iter().enumerate() {
            let Some((_, gradients)) = self.gradients.groups.iter().find(|(g, _)| g.kind == layout.kind)
            else {
                continue;
            };
            let moments = &self.moments[&layout.kind];
            let [gradients, parameters, first_moment, second_moment] =
                [gradients, memory, &moments.first, &moments.second].map(|buffer| recorder.import(buffer));
            Adam {
                gradients,
                step: steps,
                control: verdict,
                parameters,
                first_moment,
                second_moment,
                group,
                betas: self.rule.betas,
                decoupled: self.rule.decoupled,
            }
            .record(recorder, &format!("adam.{}", layout.kind));
        }
        let plan = std::mem::replace(recorder, Recorder::new(context)).finish()?;
        Ok(TrainingStep { plan, pixels, flips, labels, step, losses, control })
    }

    /// Records a forward pass for `batch` pictures by running statistics.
    ///
    /// # Errors
    /// If the adapter can't hold it.
    pub fn record_evaluation(&self, batch: usize) -> Result<EvaluationStep> {
        let context = self.context;
        let HeadShape { parts, classes, .. } = self.heads.shape;
        let pixels = context.buffer("pixels", image::pixel_words(batch, self.config.image))?;
        let logits = context.buffer("logits", parts * batch * classes)?;
        let mut recorder = Recorder::new(context);
        let normalised = self.image(&mut recorder, &pixels, None, batch);
        let tokens = recorder.tensor("norm", self.vit.sequence(batch).len());
        self.vit.forward(&mut recorder, normalised, tokens, batch);
        let parts_of = self.parts(&mut recorder, tokens, batch);
        parts_of.record(&mut recorder, "gelt");
        let output = recorder.import(&logits);
        recorder.scope("heads");
        self.heads.evaluate(&mut recorder, parts_of.gelt, output, batch);
        Ok(EvaluationStep { plan: recorder.finish()?, pixels, logits })
    }

    /// Reads the parameters and running statistics back, by their names in the checkpoint.
    pub fn read_parameters(&self) -> Result<BTreeMap<String, HostTensor>> {
        let mut tensors = self.parameters.read(self.context)?;
        let hidden = self.heads.shape.hidden;
        for (which, buffer) in [&self.heads.running.0, &self.heads.running.1].into_iter().enumerate() {
            for (part, data) in self.context.read(buffer)?.chunks(hidden).enumerate() {
                let tensor = HostTensor { shape: vec![hidden], data: data.to_vec() };
                tensors.insert(running_names(part)[which].clone(), tensor);
            }
        }
        Ok(tensors)
    }

    /// Reads the gradients of the last step back.
    pub fn read_gradients(&self) -> Result<BTreeMap<String, HostTensor>> {
        self.gradients.read(self.context)
    }

    /// Reads Adam's moments of every group that was ever open.
    pub fn read_moments(&self) -> Result<Vec<HostMoments>> {
        let read = |(kind, moments): (&GroupKind, &Moments)| {
            let (first, second) = (self.context.read(&moments.first)?, self.context.read(&moments.second)?);
            Ok(HostMoments { kind: *kind, first, second })
        };
        self.moments.iter().map(read).collect()
    }

    /// Puts moments back that [`Self::read_moments`] gave.
    ///
    /// # Errors
    /// If the adapter can't hold them.
    pub fn write_moments(&mut self, moments: &HostMoments) -> Result<()> {
        let HostMoments { kind, first, second } = moments;
        let arena = |name: &str, data: &[f32]| -> Result<Buffer> {
            let buffer = self.context.arena(&format!("{kind} {name}"), data.len())?;
            self.context.write(&buffer, bytemuck::cast_slice(data));
            Ok(buffer)
        };
        let moments = Moments { first: arena("m", first)?, second: arena("v", second)? };
        self.moments.insert(*kind, moments);
        Ok(())
    }
}
