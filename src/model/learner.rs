//! The network during training: parameters, gradients and moments on the adapter. `training_step.rs` records its steps.

use super::parameters::{
    Arenas, Group, GroupKind, backbone_groups, check_widths, classifier_group, matrices, statistics_group,
};
use super::vit::{Trainable, Vit};
use crate::checkpoint::{ClassifierTensor, HostTensor, Network, classifier_tensors};
use crate::error::Result;
use crate::gpu::{self, Buffer, Context, Precision, Recorder, WORD};
use crate::kernels::adam::{Betas, bias_mask};
use crate::kernels::gradnorm::{CONTROL_WORDS, Control};
use crate::kernels::narrow::Narrow;
use crate::kernels::triplet::Margin;
use crate::layers::Grad;
use crate::layers::part_classifier::{ClassifierParameters, ClassifierShape, PartClassifiers};
use crate::ranks::Share;
use crate::shape::{BATCHNORM_EPS, ClassifierKind, HeadEmbed, Preprocess, VitConfig};
use std::collections::BTreeMap;

/// Initial and largest loss scale with f16: PyTorch's default.
const LOSS_SCALE: f32 = 65_536.0;

/// Settings of the part classifiers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ClassifierSettings {
    /// Layers.
    pub kind: ClassifierKind,
    /// Number of persons K; 1 if clusters take their place, which only the prototypes know.
    pub classes: usize,
    /// With parts: true if a ReLU follows BatchNorm.
    pub relu: bool,
    /// With parts: dropout probability.
    pub dropout: f32,
}

/// The optimiser, with its settings that are constant in a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Optimizer {
    /// Adam.
    Adam {
        /// β₁, β₂ and ε.
        betas: Betas,
        /// True for AdamW (decoupled weight decay), false for Adam with an L2 penalty.
        decoupled: bool,
    },
    /// SGD without Nesterov's momentum.
    Sgd {
        /// Factor on the sum of gradients from one step to the next.
        momentum: f64,
    },
}

impl Default for Optimizer {
    fn default() -> Self {
        Optimizer::Adam { betas: Betas::default(), decoupled: false }
    }
}

impl Optimizer {
    /// Returns true if there is a second moment.
    pub fn has_second(&self) -> bool {
        matches!(self, Optimizer::Adam { .. })
    }
}

/// Settings of loss and optimiser that are constant in a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct UpdateRule {
    /// The optimiser.
    pub optimizer: Optimizer,
    /// Decay of the averaged weights; `None` without averages.
    pub ema: Option<f64>,
    /// Factor of the identity loss.
    pub identity: f32,
    /// Label smoothing: probability mass of the target that is spread evenly over all classes.
    pub label_smoothing: f32,
    /// Margin of the batch-hard triplet loss; `None` without that loss.
    pub triplet_margin: Option<Margin>,
    /// The prototype loss; `None` without that loss.
    pub prototypes: Option<PrototypeRule>,
    /// Side of BNNeck's BatchNorm that the prototypes and [`Learner::record_embedding`] take.
    pub embed: HeadEmbed,
}

impl Default for UpdateRule {
    fn default() -> Self {
        UpdateRule {
            optimizer: Optimizer::default(),
            ema: None,
            identity: 1.0,
            label_smoothing: 0.0,
            triplet_margin: None,
            prototypes: None,
            embed: HeadEmbed::Before,
        }
    }
}

/// The prototype loss: cross-entropy of similarities to one vector per person.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PrototypeRule {
    /// Factor of the loss.
    pub weight: f32,
    /// Divisor of the similarities.
    pub temperature: f32,
    /// Share of the old prototype when an image updates it.
    pub momentum: f32,
    /// Updates by the least similar image of a person alone.
    pub hard: bool,
}

/// The optimiser's moments of a group.
#[derive(Debug, Clone)]
pub(super) struct Moments {
    pub first: Buffer,
    /// `None` with SGD.
    pub second: Option<Buffer>,
}

impl Moments {
    fn buffers(&self) -> impl Iterator<Item = &Buffer> {
        [Some(&self.first), self.second.as_ref()].into_iter().flatten()
    }
}

/// The optimiser's moments of a group in host memory, including padding.
#[derive(Debug, Clone, PartialEq)]
pub struct HostMoments {
    /// The group.
    pub kind: GroupKind,
    /// Running mean of the gradient, or with SGD its decaying sum.
    pub first: Vec<f32>,
    /// Running mean of the squared gradient; `None` with SGD.
    pub second: Option<Vec<f32>>,
}

/// Running averages of all parameters and running statistics, and the network that reads them. The average of a frozen
/// group equals its parameters.
pub(super) struct Averages {
    pub arenas: Arenas,
    pub vit: Vit,
    pub classifiers: PartClassifiers,
    pub decay: f64,
}

/// All that a training step changes (parameters, moments, running statistics, averages, loss scale), in host memory.
#[derive(Debug)]
pub struct LearnerState(Vec<(Buffer, Vec<f32>)>);

/// A network during training.
pub struct Learner<'c> {
    pub(super) context: &'c Context,
    pub(super) config: VitConfig,
    pub(super) preprocess: Preprocess,
    pub(super) rule: UpdateRule,
    pub(super) erases_with_noise: bool,
    pub(super) drop_path: f32,
    pub(super) share: Share,
    pub(super) groups: Vec<Group>,
    pub(super) parameters: Arenas,
    /// [`bias_mask`] of each group.
    pub(super) bias_masks: Vec<Buffer>,
    /// Copies of the blocks' matrices in f16, which products read; `None` with f32.
    pub(super) matrices: Option<Arenas>,
    /// [`Control`], kept from step to step.
    pub(super) control: Buffer,
    pub(super) vit: Vit,
    pub(super) classifiers: PartClassifiers,
    /// Prototypes divided by their temperature (K or number of clusters, R·D), if that loss is used.
    pub(super) prototypes: Option<Buffer>,
    pub(super) trainable: Trainable,
    pub(super) gradients: Grad<Arenas>,
    pub(super) moments: BTreeMap<GroupKind, Moments>,
    pub(super) averages: Option<Averages>,
}

pub(super) fn classifier_parameters(arenas: &Arenas) -> ClassifierParameters {
    let either = |names: [&str; 2]| names.into_iter().find_map(|name| arenas.find(name));
    let weight = either(["heads.fc2.weight", "heads.classifier.weight"]);
    ClassifierParameters {
        fc1: arenas.find("heads.fc1.weight").map(|_| arenas.linear("heads.fc1", None)),
        bn_weight: arenas.get("heads.bn.weight"),
        bn_bias: arenas.find("heads.bn.bias"),
        weight: weight.unwrap_or_else(|| panic!("there is no last linear layer")),
        bias: arenas.find("heads.fc2.bias"),
    }
}

/// Returns names and shapes of BatchNorm's running mean and variance in a checkpoint.
fn running(ClassifierShape { dim, kind, classes, .. }: ClassifierShape) -> Vec<ClassifierTensor> {
    classifier_tensors(kind, dim, classes).into_iter().filter(|tensor| !tensor.learned).collect()
}

/// Returns a tensor of the part classifiers, stacked over the parts.
fn stacked(
    tensors: &BTreeMap<String, HostTensor>,
    tensor: &ClassifierTensor,
    shape: ClassifierShape,
) -> Vec<f32> {
    (0..shape.parts).flat_map(|part| &tensors[&tensor.of(part)].data).copied().collect()
}

/// All blocks open, for their matrices.
pub(super) const ALL_BLOCKS: Trainable = Trainable { embeddings: false, first_open: 0 };

impl<'c> Learner<'c> {
    /// Uploads a network with its part classifiers.
    ///
    /// # Errors
    /// If a tensor exceeds the adapter's limits or memory, or a width doesn't allow f16.
    ///
    /// # Panics
    /// If a tensor of the classifiers is missing or has the wrong shape. The caller must check them.
    pub fn new(
        context: &'c Context,
        network: &Network,
        settings: ClassifierSettings,
        rule: UpdateRule,
        trainable: Trainable,
    ) -> Result<Learner<'c>> {
        let config = network.config.clone();
        let ClassifierSettings { kind, classes, relu, dropout } = settings;
        let shape = ClassifierShape { parts: config.parts(), dim: config.dim, kind, classes };
        let mut groups = backbone_groups(&config);
        groups.push(classifier_group(shape));
        groups.extend(statistics_group(&config));
        let mut tensors = network.tensors.clone();
        tensors.extend(network.classifiers.iter().map(|(name, tensor)| (name.clone(), tensor.clone())));
        let parameters = Arenas::upload(context, &groups, &tensors)?;
        let bias_masks = groups.iter().map(|group| {
            let mask = bias_mask(group.words, group.biases());
            context.upload(&format!("{} bias_mask", group.kind), bytemuck::cast_slice(&mask))
        });
        let bias_masks = bias_masks.collect::<gpu::Result<Vec<Buffer>>>()?;
        let is_f16 = context.precision() == Precision::F16;
        let mut copies = None;
        if is_f16 {
            check_widths(&config)?;
            copies = Some(Arenas::zeroed(context, &matrices(&groups, context.storage()))?);
        }
        let control = context.buffer("control", CONTROL_WORDS)?;
        let start = Control::start(if is_f16 { LOSS_SCALE } else { 1.0 });
        context.write(&control, bytemuck::cast_slice(&start.words()));
        let classifiers = |arenas: &Arenas| -> Result<PartClassifiers> {
            let upload = |tensor: &ClassifierTensor| {
                let data = stacked(&tensors, tensor, shape);
                context.upload(&format!("heads.{}", tensor.name), &data)
            };
            let statistics = running(shape);
            Ok(PartClassifiers {
                shape,
                parameters: classifier_parameters(arenas),
                running: (upload(&statistics[0])?, upload(&statistics[1])?),
                eps: BATCHNORM_EPS,
                relu,
                dropout,
            })
        };
        let prototypes = match rule.prototypes {
            Some(_) => Some(context.buffer("prototypes", classes * shape.parts * shape.dim)?),
            None => None,
        };
        let averages = |decay: f64| -> Result<Averages> {
            let arenas = Arenas::upload(context, &groups, &tensors)?;
            // Evaluation narrows the averages into the copies that training reads, and restores them afterwards.
            let vit = Vit::new(&config, &arenas, copies.as_ref());
            Ok(Averages { vit, classifiers: classifiers(&arenas)?, arenas, decay })
        };
        let averages = rule.ema.map(averages).transpose()?;
        let classifiers = classifiers(&parameters)?;
        let mut learner = Learner {
            context,
            prototypes,
            vit: Vit::new(&config, &parameters, copies.as_ref()),
            config,
            preprocess: network.preprocess.clone(),
            rule,
            erases_with_noise: false,
            drop_path: 0.0,
            share: Share::WHOLE,
            groups,
            parameters,
            bias_masks,
            matrices: copies,
            control,
            classifiers,
            trainable,
            gradients: Grad::new(Arenas::zeroed(context, &[])?),
            moments: BTreeMap::new(),
            averages,
        };
        learner.open(trainable)?;
        if learner.matrices.is_some() {
            let mut recorder = Recorder::new(context);
            learner.record_narrow(&mut recorder, &learner.parameters, ALL_BLOCKS);
            recorder.finish()?.run(context)?;
        }
        Ok(learner)
    }

    /// Makes the steps that are recorded from now on fill rectangles with noise, see [`TrainingStep::write_erased`].
    ///
    /// [`TrainingStep::write_erased`]: super::TrainingStep::write_erased
    pub fn erase_with_noise(&mut self) {
        self.erases_with_noise = true;
    }

    /// Sets the largest probability of stochastic depth, that of the last block, in the steps that are recorded from now
    /// on. With 0 nothing is dropped. [`TrainingStep::write_drop_path`] chooses what is dropped in a step.
    ///
    /// [`TrainingStep::write_drop_path`]: super::TrainingStep::write_drop_path
    pub fn set_drop_path(&mut self, rate: f32) {
        self.drop_path = rate;
    }

    /// Makes the steps that are recorded from now on compute the backbone on a piece of each batch, see
    /// [`TrainingStep::run`](super::TrainingStep::run).
    pub fn set_share(&mut self, share: Share) {
        self.share = share;
    }

    /// Records the update of the f16 copies of the open blocks' matrices, from parameters or averages.
    pub(super) fn record_narrow(&self, recorder: &mut Recorder<'_>, from: &Arenas, open: Trainable) {
        let Some(matrices) = &self.matrices else { return };
        for (_, memory, storage) in matrices.slots().filter(|(kind, ..)| open.contains(*kind)) {
            let wide = recorder.import(&from.get(&memory.label));
            let narrow = recorder.import_as(memory, storage);
            Narrow { wide, narrow }.record(recorder, &format!("narrow.{}", memory.label));
        }
    }

    /// Reads the outcome of the last step and the loss scale, after all submitted work.
    ///
    /// # Errors
    /// Those of the adapter.
    pub fn read_control(&self) -> Result<Control> {
        Ok(Control::from_words(&self.context.read(&self.control)?))
    }

    /// Sets the loss scale and its step count from a saved run. Does nothing with f32.
    pub fn write_scale(&mut self, scale: f32, steps: u32) {
        if self.matrices.is_some() {
            let control = Control { scale, steps, ..Control::start(LOSS_SCALE) };
            self.context.write(&self.control, bytemuck::cast_slice(&control.words()));
        }
    }

    /// Changes which groups train. Newly opened groups get zeroed moments.
    ///
    /// # Errors
    /// If gradients or moments exceed the adapter's limits or memory.
    pub fn open(&mut self, trainable: Trainable) -> Result<()> {
        let open: Vec<Group> =
            self.groups.iter().filter(|group| trainable.contains(group.kind)).cloned().collect();
        for group in &open {
            if !self.moments.contains_key(&group.kind) {
                let arena = |name: &str| self.context.arena(&format!("{} {name}", group.kind), group.words);
                let second = self.rule.optimizer.has_second().then(|| arena("v")).transpose()?;
                let moments = Moments { first: arena("m")?, second };
                self.moments.insert(group.kind, moments);
            }
        }
        self.gradients = Grad::new(Arenas::zeroed(self.context, &open)?);
        self.trainable = trainable;
        Ok(())
    }

    /// Returns the groups that train.
    pub fn trainable(&self) -> Trainable {
        self.trainable
    }

    /// Returns true if a step changes a group: it trains, or holds running statistics.
    pub fn changes(&self, kind: GroupKind) -> bool {
        self.trainable.contains(kind) || kind == GroupKind::Statistics
    }

    /// Returns all groups, those that may train first, in the order of [`StepValues`](crate::kernels::adam::StepValues).
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// Returns the factors in the loss of the cross-entropy of the first part and of each other part. With a jigsaw, the
    /// first has the same weight as all others together.
    pub fn loss_weights(&self) -> [f32; 2] {
        let identity = self.rule.identity;
        if self.config.jigsaw {
            return [0.5, 0.5 / VitConfig::PIECES as f32].map(|weight| identity * weight);
        }
        [identity * self.classifiers.loss_weight(); 2]
    }

    /// Returns the number of parameters that train.
    pub fn trainable_parameters(&self) -> usize {
        self.groups.iter().filter(|g| self.trainable.contains(g.kind)).map(Group::parameters).sum()
    }

    /// Returns the bytes of parameters, gradients and moments.
    pub fn state_bytes(&self) -> u64 {
        let moments: u64 =
            self.moments.values().flat_map(Moments::buffers).map(|moment| moment.words as u64 * WORD).sum();
        self.constant_bytes() + self.gradients.memory().bytes() + moments
    }

    /// Returns the bytes that don't depend on the stage: parameters, averages, f16 copies and prototypes.
    pub(super) fn constant_bytes(&self) -> u64 {
        let averages = self.averages.as_ref().map(|averages| &averages.arenas);
        let arenas = [Some(&self.parameters), averages, self.matrices.as_ref()];
        let prototypes = self.prototypes.as_ref().map_or(0, |buffer| buffer.words as u64 * WORD);
        arenas.into_iter().flatten().map(Arenas::bytes).sum::<u64>() + prototypes
    }

    /// Reads parameters and running statistics, by their names in a checkpoint.
    ///
    /// # Errors
    /// Those of the adapter.
    pub fn read_parameters(&self) -> Result<BTreeMap<String, HostTensor>> {
        self.read_tensors(&self.parameters, &self.classifiers)
    }

    /// Reads averages of parameters and running statistics, by the names of [`Self::read_parameters`]; `None` without
    /// averages.
    ///
    /// # Errors
    /// Those of the adapter.
    pub fn read_averages(&self) -> Result<Option<BTreeMap<String, HostTensor>>> {
        let read = |averages: &Averages| self.read_tensors(&averages.arenas, &averages.classifiers);
        self.averages.as_ref().map(read).transpose()
    }

    /// Restores some of the result of [`Self::read_averages`]. Does nothing without averages.
    ///
    /// # Errors
    /// Those of the adapter.
    ///
    /// # Panics
    /// If a tensor has the wrong length.
    pub fn write_averages(&self, some: BTreeMap<String, HostTensor>) -> Result<()> {
        let Some(averages) = self.averages.as_ref().filter(|_| !some.is_empty()) else { return Ok(()) };
        let mut tensors = self.read_tensors(&averages.arenas, &averages.classifiers)?;
        tensors.extend(some);
        averages.arenas.write(self.context, &tensors);
        let shape = self.classifiers.shape;
        let buffers = [&averages.classifiers.running.0, &averages.classifiers.running.1];
        for (tensor, buffer) in running(shape).iter().zip(buffers) {
            self.context.write(buffer, bytemuck::cast_slice(&stacked(&tensors, tensor, shape)));
        }
        Ok(())
    }

    fn read_tensors(
        &self,
        arenas: &Arenas,
        classifiers: &PartClassifiers,
    ) -> Result<BTreeMap<String, HostTensor>> {
        let mut tensors = arenas.read(self.context)?;
        let shape = classifiers.shape;
        for (tensor, buffer) in running(shape).iter().zip([&classifiers.running.0, &classifiers.running.1]) {
            for (part, data) in self.context.read(buffer)?.chunks(shape.width()).enumerate() {
                let data = HostTensor { shape: tensor.shape.clone(), data: data.to_vec() };
                tensors.insert(tensor.of(part), data);
            }
        }
        Ok(tensors)
    }

    /// Reads the gradients of the last step.
    ///
    /// # Errors
    /// Those of the adapter.
    pub fn read_gradients(&self) -> Result<BTreeMap<String, HostTensor>> {
        self.gradients.memory().read(self.context)
    }

    /// Reads everything that a step of this stage changes.
    ///
    /// # Errors
    /// Those of the adapter.
    pub fn save_state(&self) -> Result<LearnerState> {
        let mut buffers = vec![&self.classifiers.running.0, &self.classifiers.running.1, &self.control];
        buffers.extend(&self.prototypes);
        buffers
            .extend(self.matrices.iter().flat_map(|matrices| matrices.groups.iter().map(|(_, arena)| arena)));
        if let Some(Averages { classifiers, .. }) = &self.averages {
            buffers.extend([&classifiers.running.0, &classifiers.running.1]);
        }
        for (group, arena) in self.parameters.groups.iter().filter(|(group, _)| self.changes(group.kind)) {
            buffers.push(arena);
            buffers.extend(self.averages.iter().map(|averages| averages.arenas.arena(group.kind)));
            buffers.extend(self.moments.get(&group.kind).into_iter().flat_map(Moments::buffers));
        }
        let read = |buffer: &Buffer| Ok((buffer.clone(), self.context.read(buffer)?));
        buffers.into_iter().map(read).collect::<Result<_>>().map(LearnerState)
    }

    /// Restores the result of [`Self::save_state`] in the same stage.
    pub fn restore_state(&self, state: &LearnerState) {
        for (buffer, data) in &state.0 {
            self.context.write(buffer, bytemuck::cast_slice(data));
        }
    }

    /// Reads the prototypes, divided by their temperature (K, R·D); `None` without that loss.
    ///
    /// # Errors
    /// Those of the adapter.
    pub fn read_prototypes(&self) -> Result<Option<Vec<f32>>> {
        self.prototypes.as_ref().map(|buffer| Ok(self.context.read(buffer)?)).transpose()
    }

    /// Writes prototypes from [`Self::read_prototypes`]. Steps that were recorded with another number of them are void.
    ///
    /// # Errors
    /// If they exceed the adapter's limits or memory.
    pub fn write_prototypes(&mut self, prototypes: &[f32]) -> Result<()> {
        let Some(buffer) = &mut self.prototypes else { return Ok(()) };
        if buffer.words != prototypes.len() {
            *buffer = self.context.buffer("prototypes", prototypes.len())?;
        }
        self.context.write(buffer, bytemuck::cast_slice(prototypes));
        Ok(())
    }

    /// Reads the moments of every group that has been open.
    ///
    /// # Errors
    /// Those of the adapter.
    pub fn read_moments(&self) -> Result<Vec<HostMoments>> {
        let read = |(kind, moments): (&GroupKind, &Moments)| {
            let second = moments.second.as_ref().map(|second| self.context.read(second)).transpose()?;
            Ok(HostMoments { kind: *kind, first: self.context.read(&moments.first)?, second })
        };
        self.moments.iter().map(read).collect()
    }

    /// Restores moments from [`Self::read_moments`].
    ///
    /// # Errors
    /// If they exceed the adapter's limits or memory.
    pub fn write_moments(&mut self, moments: &HostMoments) -> Result<()> {
        let HostMoments { kind, first, second } = moments;
        let arena = |name: &str, data: &[f32]| -> Result<Buffer> {
            let buffer = self.context.arena(&format!("{kind} {name}"), data.len())?;
            self.context.write(&buffer, bytemuck::cast_slice(data));
            Ok(buffer)
        };
        let second = second.as_ref().map(|second| arena("v", second)).transpose()?;
        let moments = Moments { first: arena("m", first)?, second };
        self.moments.insert(*kind, moments);
        Ok(())
    }
}
