//! The network while it learns: its parameters, gradients and moments on the device. What it records stands in
//! `training_step.rs`.

use super::parameters::{
    Arenas, Group, GroupKind, backbone_groups, check_widths, classifier_group, matrices,
};
use super::vit::{Trainable, Vit};
use crate::checkpoint::{HeadTensor, HostTensor, Network, head_tensors};
use crate::error::Result;
use crate::gpu::{Buffer, Context, Precision, Recorder, WORD};
use crate::kernels::adam::Betas;
use crate::kernels::gradnorm::{CONTROL_WORDS, Control};
use crate::kernels::narrow::Narrow;
use crate::layers::Grad;
use crate::layers::norm::Norm;
use crate::layers::part_classifier::{ClassifierParameters, ClassifierShape, PartClassifiers};
use crate::shape::{Preprocess, VitConfig};
use std::collections::BTreeMap;

/// ε of the part classifiers' BatchNorm: PyTorch's default, as in the released code.
const BATCHNORM_EPS: f32 = 1e-5;

/// What the loss is multiplied with at first, and at most, where gradients are stored in halves: PyTorch's default.
const LOSS_SCALE: f32 = 65_536.0;

/// Settings of the part classifiers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ClassifierSettings {
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
    /// Margin of the batch-hard triplet loss, if it is added.
    pub triplet_margin: Option<f32>,
}

/// Adam's two moments of one group.
#[derive(Debug, Clone)]
pub(super) struct Moments {
    pub first: Buffer,
    pub second: Buffer,
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

/// What a training step changes: parameters, moments and running statistics of one stage, in host memory.
#[derive(Debug)]
pub struct LearnerState(Vec<(Buffer, Vec<f32>)>);

/// A network that learns.
pub struct Learner<'c> {
    pub(super) context: &'c Context,
    pub(super) config: VitConfig,
    pub(super) preprocess: Preprocess,
    pub(super) rule: UpdateRule,
    pub(super) groups: Vec<Group>,
    pub(super) parameters: Arenas,
    /// Copies of the blocks' matrices in the context's storage, where that isn't f32: what products read.
    pub(super) matrices: Option<Arenas>,
    /// Kept from step to step.
    pub(super) control: Buffer,
    pub(super) vit: Vit,
    pub(super) classifiers: PartClassifiers,
    pub(super) trainable: Trainable,
    pub(super) gradients: Grad<Arenas>,
    pub(super) moments: BTreeMap<GroupKind, Moments>,
}

pub(super) fn classifier_parameters(arenas: &Arenas) -> ClassifierParameters {
    let linear = |name: &str| arenas.linear(&format!("heads.{name}"), None);
    let bn =
        Norm { weight: arenas.get("heads.bn.weight"), bias: arenas.get("heads.bn.bias"), eps: BATCHNORM_EPS };
    ClassifierParameters { fc1: linear("fc1"), bn, fc2: linear("fc2") }
}

/// BatchNorm's running mean and variance in the checkpoint.
fn running(ClassifierShape { dim, hidden, classes, .. }: ClassifierShape) -> [HeadTensor; 2] {
    let [.., mean, variance, _, _] = head_tensors(dim, hidden, classes);
    [mean, variance]
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
        settings: ClassifierSettings,
        rule: UpdateRule,
        trainable: Trainable,
    ) -> Result<Learner<'c>> {
        let config = network.config.clone();
        let ClassifierSettings { hidden, classes, relu, dropout } = settings;
        let shape = ClassifierShape { parts: config.parts(), dim: config.dim, hidden, classes };
        let mut groups = backbone_groups(&config);
        groups.push(classifier_group(shape));
        let mut tensors = network.tensors.clone();
        tensors.extend(network.heads.iter().map(|(name, tensor)| (name.clone(), tensor.clone())));
        let parameters = Arenas::upload(context, &groups, &tensors)?;
        let halves = context.precision() == Precision::F16;
        let mut copies = None;
        if halves {
            check_widths(&config)?;
            copies = Some(Arenas::zeroed(context, &matrices(&groups, context.storage()))?);
        }
        let control = context.buffer("control", CONTROL_WORDS)?;
        let start = Control::start(if halves { LOSS_SCALE } else { 1.0 });
        context.write(&control, bytemuck::cast_slice(&start.words()));
        let upload = |tensor: &HeadTensor| {
            let parts = (0..shape.parts).flat_map(|part| &tensors[&tensor.of(part)].data);
            context.upload(&format!("heads.{}", tensor.name), &parts.copied().collect::<Vec<f32>>())
        };
        let [mean, variance] = running(shape);
        let classifiers = PartClassifiers {
            shape,
            parameters: classifier_parameters(&parameters),
            running: (upload(&mean)?, upload(&variance)?),
            relu,
            dropout,
        };
        let mut learner = Learner {
            context,
            vit: Vit::new(&config, &parameters, copies.as_ref()),
            config,
            preprocess: network.preprocess.clone(),
            rule,
            groups,
            parameters,
            matrices: copies,
            control,
            classifiers,
            trainable,
            gradients: Grad::new(Arenas::zeroed(context, &[])?),
            moments: BTreeMap::new(),
        };
        learner.open(trainable)?;
        if learner.matrices.is_some() {
            let mut recorder = Recorder::new(context);
            learner.record_narrow(&mut recorder, Trainable { embeddings: false, first_open: 0 });
            recorder.finish()?.run(context)?;
        }
        Ok(learner)
    }

    /// Records fresh copies of the open blocks' matrices, if products read copies.
    pub(super) fn record_narrow(&self, recorder: &mut Recorder<'_>, open: Trainable) {
        let Some(matrices) = &self.matrices else { return };
        for (_, memory, storage) in matrices.slots().filter(|(kind, ..)| open.contains(*kind)) {
            let wide = recorder.import(&self.parameters.get(&memory.label));
            let narrow = recorder.import_as(memory, storage);
            Narrow { wide, narrow }.record(recorder, &format!("narrow.{}", memory.label));
        }
    }

    /// What the last step left, after all submitted work: whether it counted, and the loss's scale.
    pub fn read_control(&self) -> Result<Control> {
        Ok(Control::from_words(&self.context.read(&self.control)?))
    }

    /// Goes on with the loss's scale of a saved run, where there is one to go on with.
    pub fn write_scale(&mut self, scale: f32, steps: u32) {
        if self.matrices.is_some() {
            let control = Control { scale, steps, ..Control::start(LOSS_SCALE) };
            self.context.write(&self.control, bytemuck::cast_slice(&control.words()));
        }
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
        self.gradients = Grad::new(Arenas::zeroed(self.context, &open)?);
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
        self.parameters.bytes() + self.matrix_bytes() + self.gradients.memory().bytes() + moments
    }

    /// Bytes of the copies that products read.
    pub(super) fn matrix_bytes(&self) -> u64 {
        self.matrices.as_ref().map_or(0, Arenas::bytes)
    }

    /// Reads the parameters and running statistics back, by their names in the checkpoint.
    pub fn read_parameters(&self) -> Result<BTreeMap<String, HostTensor>> {
        let mut tensors = self.parameters.read(self.context)?;
        let shape = self.classifiers.shape;
        for (tensor, buffer) in
            running(shape).iter().zip([&self.classifiers.running.0, &self.classifiers.running.1])
        {
            for (part, data) in self.context.read(buffer)?.chunks(shape.hidden).enumerate() {
                let data = HostTensor { shape: tensor.shape.clone(), data: data.to_vec() };
                tensors.insert(tensor.of(part), data);
            }
        }
        Ok(tensors)
    }

    /// Reads the gradients of the last step back.
    pub fn read_gradients(&self) -> Result<BTreeMap<String, HostTensor>> {
        self.gradients.memory().read(self.context)
    }

    /// Reads everything back that a step of this stage changes, to the bit.
    ///
    /// # Errors
    /// What the adapter reports.
    pub fn save_state(&self) -> Result<LearnerState> {
        let mut buffers = vec![&self.classifiers.running.0, &self.classifiers.running.1, &self.control];
        buffers
            .extend(self.matrices.iter().flat_map(|matrices| matrices.groups.iter().map(|(_, arena)| arena)));
        for (group, arena) in self.parameters.groups.iter().filter(|(g, _)| self.trainable.contains(g.kind)) {
            buffers.push(arena);
            buffers.extend(self.moments.get(&group.kind).into_iter().flat_map(|m| [&m.first, &m.second]));
        }
        let read = |buffer: &Buffer| Ok((buffer.clone(), self.context.read(buffer)?));
        buffers.into_iter().map(read).collect::<Result<_>>().map(LearnerState)
    }

    /// Puts back what [`Self::save_state`] gave in the same stage.
    pub fn restore_state(&self, state: &LearnerState) {
        for (buffer, data) in &state.0 {
            self.context.write(buffer, bytemuck::cast_slice(data));
        }
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
