//! The recordings of a learner: the training step, in one micro-batch or several, and evaluation.
//!
//! With several micro-batches, the backbone runs on one at a time and keeps only the parts (B, R, D). Part classifiers
//! and losses run on the whole batch, because BatchNorm and the triplet loss mix its images. Then each micro-batch runs
//! forward again and backward, and gradients are accumulated in order. Apart from the order of summation this equals a
//! step in one go, but the memory grows with the micro-batch instead of the batch.
//!
//! Of several ranks, each runs the backbone on its piece of the batch; `exchange.rs` has what they do in between.

use super::exchange::{Exchange, ExchangeTimes, Traffic};
use super::learner::{
    ALL_BLOCKS, Averages, Learner, Moments, Optimizer, PrototypeRule, classifier_parameters,
};
use super::parameters::{Arenas, Group, GroupKind};
use super::vit::{DropPath, Mode, Trainable, Vit, VitGradients};
use crate::error::Result;
use crate::gpu::{Buffer, Context, Phase, Plan, PlanSummary, Recorder, Tensor, WORD};
use crate::kernels::accumulate::Accumulate;
use crate::kernels::adam::{Adam, StepValues};
use crate::kernels::average::Average;
use crate::kernels::jigsaw::{Features, Spread};
use crate::kernels::part_linear::Layout;
use crate::kernels::sgd::Sgd;
use crate::kernels::{cross_entropy, gelt, gradnorm, image, l2norm, part_linear, prototypes, triplet};
use crate::layers::Grad;
use crate::layers::part_classifier::{ClassifierShape, PartClassifiers};
use crate::ranks::Ranks;
use crate::shape::{HeadEmbed, ImageSize, Preprocess, VitConfig};
use std::collections::BTreeMap;
use std::ops::Range;

/// A recorded training step for one batch size.
pub struct TrainingStep {
    /// The recording.
    pub plan: Plan,
    micro_batches: Vec<MicroBatch>,
    drop_path: Option<DropPathFactors>,
    size: ImageSize,
    /// Index in the batch of the first image that runs through the backbone.
    first: usize,
    /// The values that several ranks exchange; `None` for a process without others.
    exchange: Option<Exchange>,
    /// Labels (B) as u32.
    pub labels: Buffer,
    /// [`StepValues`] as words.
    pub step: Buffer,
    /// Cross-entropy of each part and image (R, B); then triplet losses (B) and losses of the prototypes (B), as far as
    /// they are used, each at the start of a slice after zeros. The batch's loss is the sum of all divided by B.
    pub losses: Buffer,
    /// [`Control`](crate::kernels::gradnorm::Control) as words.
    pub control: Buffer,
    bytes: u64,
}

/// The factors of residual branches, and what they are made of.
struct DropPathFactors {
    /// (blocks, 2, B).
    factors: Buffer,
    rate: f32,
    depth: usize,
    batch: usize,
}

/// The images that run through the backbone together, and their inputs.
struct MicroBatch {
    /// Indices in the batch.
    places: Range<usize>,
    /// Bytes (images, height, width, 3).
    pixels: Buffer,
    /// u32 (images): 1 mirrors the image.
    flips: Buffer,
    /// u32 (images, 4): rectangles to fill with noise; `None` unless the learner erases with noise.
    erased: Option<Buffer>,
    /// u32 (images): rows of the camera embedding; `None` without it.
    cameras: Option<Buffer>,
}

impl TrainingStep {
    /// Writes the labels (B) of a batch, and of those images that run through the backbone (b) bytes (b, height, width,
    /// 3), and flips of 1 to mirror them.
    pub fn write(&self, context: &Context, pixels: &[u8], labels: &[u32], flips: &[u32]) {
        let each = self.size.height * self.size.width * 3;
        for micro_batch in &self.micro_batches {
            let Range { start, end } = self.own(micro_batch);
            write_bytes(context, &micro_batch.pixels, &pixels[start * each..end * each]);
            context.write(&micro_batch.flips, bytemuck::cast_slice(&flips[start..end]));
        }
        context.write(&self.labels, bytemuck::cast_slice(labels));
    }

    /// Returns the indices of a micro-batch among the images that run through the backbone.
    fn own(&self, micro_batch: &MicroBatch) -> Range<usize> {
        micro_batch.places.start - self.first..micro_batch.places.end - self.first
    }

    /// Replays the step. Several ranks wait for each other, and each adds the gradients of all.
    ///
    /// # Errors
    /// Those of [`Plan::run`] and [`Ranks::gather`].
    pub fn run(&mut self, context: &Context, ranks: Option<&Ranks>) -> Result<()> {
        match (ranks, &mut self.exchange) {
            (Some(ranks), Some(exchange)) => exchange.run(context, &self.plan, ranks),
            _ => Ok(self.plan.run(context)?),
        }
    }

    /// Returns the traffic of a step; `None` for a process without others.
    pub fn traffic(&self) -> Option<Traffic> {
        self.exchange.as_ref().map(Exchange::traffic)
    }

    /// Returns the durations of the exchange of gradients since the last call.
    pub fn take_exchange_times(&mut self) -> ExchangeTimes {
        self.exchange.as_mut().map(Exchange::take_times).unwrap_or_default()
    }

    /// Writes the rectangles (b) of images to fill with noise: top, left, height and width. Does nothing unless the
    /// learner erases with noise.
    pub fn write_erased(&self, context: &Context, rectangles: &[[u32; 4]]) {
        for micro_batch in &self.micro_batches {
            if let Some(erased) = &micro_batch.erased {
                context.write(erased, bytemuck::cast_slice(&rectangles[self.own(micro_batch)]));
            }
        }
    }

    /// Writes the rows (b) of the images in the camera embedding. Does nothing without it.
    pub fn write_cameras(&self, context: &Context, rows: &[u32]) {
        for micro_batch in &self.micro_batches {
            if let Some(cameras) = &micro_batch.cameras {
                context.write(cameras, bytemuck::cast_slice(&rows[self.own(micro_batch)]));
            }
        }
    }

    /// Writes the masks of stochastic depth (blocks, 2, B): 0 drops the attention or MLP of a block for an image, 1
    /// keeps it. Those of the first block have no effect. With a jigsaw the masks of its block (2, B, P) follow. Does
    /// nothing if the learner drops nothing.
    pub fn write_drop_path(&self, context: &Context, masks: &[f32]) {
        let Some(DropPathFactors { factors, rate, depth, batch }) = &self.drop_path else { return };
        assert_eq!(masks.len(), factors.words, "masks of stochastic depth");
        // The jigsaw's block is a last block, too.
        let block = |i: usize| (i / (2 * batch)).min(depth - 1);
        let kept = |i: usize| 1.0 - DropPath::probability(*rate, block(i), *depth);
        let scaled = masks.iter().enumerate().map(|(i, mask)| mask / kept(i));
        context.write(factors, bytemuck::cast_slice(&scaled.collect::<Vec<f32>>()));
    }

    /// Returns the number of dispatches of block `i` in the forward and in the backward pass.
    pub fn dispatches_of_block(&self, i: usize) -> (usize, usize) {
        let count = |scope: String| {
            self.plan.dispatches.iter().filter(|dispatch| dispatch.label.starts_with(&scope)).count()
        };
        (count(format!("blocks.{i}.")), count(format!("backward.blocks.{i}.")))
    }

    /// Returns the device memory of this step in bytes: activations, inputs, outputs and gradients of micro-batches.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// Writes bytes and pads them to whole words.
fn write_bytes(context: &Context, buffer: &Buffer, bytes: &[u8]) {
    if bytes.len().is_multiple_of(WORD as usize) {
        context.write(buffer, bytes);
    } else {
        let mut padded = bytes.to_vec();
        padded.resize(bytes.len().next_multiple_of(WORD as usize), 0);
        context.write(buffer, &padded);
    }
}

/// A recorded forward pass with running statistics.
pub struct EvaluationStep {
    /// The recording.
    pub plan: Plan,
    /// Bytes (B, height, width, 3), padded to whole words.
    pixels: Buffer,
    /// u32 (B): rows of the camera embedding; `None` without it.
    cameras: Option<Buffer>,
    /// Logits (R, B, K), or embeddings (B, R·D).
    pub output: Buffer,
}

impl EvaluationStep {
    /// Writes a batch: bytes (B, height, width, 3).
    pub fn write(&self, context: &Context, pixels: &[u8]) {
        write_bytes(context, &self.pixels, pixels);
    }

    /// Writes the rows (B) of the images in the camera embedding. Does nothing without it.
    pub fn write_cameras(&self, context: &Context, rows: &[u32]) {
        if let Some(cameras) = &self.cameras {
            context.write(cameras, bytemuck::cast_slice(rows));
        }
    }

    /// Returns the device memory of this step in bytes.
    pub fn bytes(&self) -> u64 {
        let cameras = self.cameras.as_ref().map_or(0, |cameras| cameras.words);
        self.plan.summary().heap_bytes + (self.pixels.words + cameras + self.output.words) as u64 * WORD
    }
}

/// The cost of training in a stage.
#[derive(Debug, Clone)]
pub struct StageNeed {
    /// Dispatches, operations and the largest tensor of a step.
    pub step: PlanSummary,
    /// Bytes of parameters, gradients and moments.
    pub state_bytes: u64,
    /// Bytes of a step, see [`TrainingStep::bytes`].
    pub step_bytes: u64,
    /// Number of parameters that train.
    pub trainable: usize,
}

/// Buffers of a step; without memory for recordings that are only summarised.
struct StepMemory {
    micro_batches: Vec<MicroBatch>,
    /// Parts (B, R, D) of all ranks; `None` for a process without others.
    parts: Option<Buffer>,
    /// Factors of residual branches (blocks, 2, B); `None` without stochastic depth.
    drop_path: Option<Buffer>,
    labels: Buffer,
    /// Labels of part classifiers with one class, all 0: `labels` are then clusters. `None` if `labels` are persons.
    only_class: Option<Buffer>,
    step: Buffer,
    losses: Buffer,
    control: Buffer,
    partials: Buffer,
    /// Gradients of a micro-batch after the first; `None` with a single micro-batch.
    micro_batch_gradients: Option<Grad<Arenas>>,
}

impl StepMemory {
    fn bytes(&self) -> u64 {
        let inputs =
            self.micro_batches.iter().flat_map(|MicroBatch { pixels, flips, erased, cameras, .. }| {
                [pixels, flips].into_iter().chain(erased).chain(cameras)
            });
        let others = [&self.labels, &self.step, &self.losses, &self.control, &self.partials];
        let words: usize = inputs
            .chain(&self.parts)
            .chain(&self.drop_path)
            .chain(&self.only_class)
            .chain(others)
            .map(|buffer| buffer.words)
            .sum();
        words as u64 * WORD
            + self.micro_batch_gradients.as_ref().map_or(0, |gradients| gradients.memory().bytes())
    }
}

/// The groups that train in a stage, and their gradients and moments.
struct Stage<'a> {
    trainable: Trainable,
    gradients: &'a Grad<Arenas>,
    moments: &'a BTreeMap<GroupKind, Moments>,
}

impl Stage<'_> {
    /// Returns the gradients of the backbone's groups in the order in which the backward pass completes them.
    fn buckets(&self) -> impl Iterator<Item = &Buffer> {
        let groups = self.gradients.memory().groups.iter().rev();
        groups.filter(|(group, _)| group.kind != GroupKind::PartClassifiers).map(|(_, arena)| arena)
    }
}

/// The gradient of the prototype loss, up to the unit vectors of the images.
#[derive(Debug, Clone, Copy)]
pub struct UnitGradient {
    /// Features of the images, in `layout`.
    f: Tensor,
    layout: Layout,
    /// Their unit vectors (B, R·D).
    embeddings: Tensor,
    /// Prototypes divided by their temperature (K, R·D).
    memory: Tensor,
    /// Gradient of the unit vectors (B, R·D).
    dembeddings: Tensor,
    /// B, R and D.
    size: [usize; 3],
}

impl UnitGradient {
    /// Records the addition of the gradient of the features to `df`, which has their layout.
    pub fn add_gradient(&self, recorder: &mut Recorder<'_>, df: Tensor) {
        let UnitGradient { f, layout, dembeddings, size: [batch, parts, dim], .. } = *self;
        l2norm::Backward { x: f, dy: dembeddings, dx: df, batch, parts, dim, layout }
            .record(recorder, "prototypes.dl2norm");
    }
}

impl<'c> Learner<'c> {
    /// Records a training step for `batch` images, of which `micro_batch` run through the backbone at once: forward,
    /// loss, backward, gradient norm, optimiser.
    ///
    /// # Errors
    /// If it exceeds the adapter's limits or memory.
    pub fn record_step(&self, batch: usize, micro_batch: usize) -> Result<TrainingStep> {
        let context = self.context;
        let memory = self.step_memory(batch, micro_batch, &self.gradients, true)?;
        let stage = Stage { trainable: self.trainable, gradients: &self.gradients, moments: &self.moments };
        let mut recorder = Recorder::new(context);
        self.record(&mut recorder, batch, &memory, &stage);
        let plan = recorder.finish()?;
        let bytes = plan.summary().heap_bytes + memory.bytes();
        let StepMemory { micro_batches, parts, drop_path, labels, step, losses, control, .. } = memory;
        let exchange = |parts| Exchange::new(context, self.share, batch, parts, stage.buckets());
        let exchange = parts.map(exchange).transpose()?;
        let (rate, depth) = (self.drop_path, self.config.depth);
        let drop_path = drop_path.map(|factors| DropPathFactors { factors, rate, depth, batch });
        Ok(TrainingStep {
            plan,
            micro_batches,
            drop_path,
            size: self.config.image,
            first: self.share.places(batch).start,
            exchange,
            labels,
            step,
            losses,
            control,
            bytes,
        })
    }

    /// Returns the cost of [`Self::record_step`] with `trainable` open, without allocating its memory.
    ///
    /// # Errors
    /// If a tensor exceeds the adapter's limits.
    pub fn need(&self, trainable: Trainable, batch: usize, micro_batch: usize) -> Result<StageNeed> {
        let context = self.context;
        let open: Vec<Group> =
            self.groups.iter().filter(|group| trainable.contains(group.kind)).cloned().collect();
        let gradients = Grad::new(Arenas::unallocated(context, &open)?);
        let has_second = self.rule.optimizer.has_second();
        let moments = open.iter().map(|group| {
            let moment = context.unallocated("moment", group.words);
            let second = has_second.then(|| moment.clone());
            (group.kind, Moments { first: moment, second })
        });
        let moments = moments.collect();
        let memory = self.step_memory(batch, micro_batch, &gradients, false)?;
        let mut recorder = Recorder::new(context);
        let stage = Stage { trainable, gradients: &gradients, moments: &moments };
        self.record(&mut recorder, batch, &memory, &stage);
        let step = recorder.summary();
        Ok(StageNeed {
            step_bytes: step.heap_bytes + memory.bytes(),
            step,
            // Arenas of the same size: gradients, and one or two moments.
            state_bytes: self.constant_bytes() + (2 + u64::from(has_second)) * gradients.memory().bytes(),
            trainable: open.iter().map(Group::parameters).sum(),
        })
    }

    fn step_memory(
        &self,
        batch: usize,
        micro_batch: usize,
        gradients: &Grad<Arenas>,
        allocate: bool,
    ) -> Result<StepMemory> {
        let context = self.context;
        let buffer = |label: &str, words: usize| {
            if allocate { context.buffer(label, words) } else { Ok(context.unallocated(label, words)) }
        };
        let own = self.share.places(batch);
        let places = own
            .clone()
            .step_by(micro_batch.max(1))
            .map(|start| start..(start + micro_batch.max(1)).min(own.end));
        let micro_batches = places.map(|places| {
            let pixels = buffer("pixels", image::pixel_words(places.len(), self.config.image))?;
            let erased = self.erases_with_noise.then(|| buffer("erased", 4 * places.len())).transpose()?;
            let cameras = self.has_cameras().then(|| buffer("cameras", places.len())).transpose()?;
            Ok(MicroBatch { pixels, flips: buffer("flips", places.len())?, erased, cameras, places })
        });
        let micro_batches = micro_batches.collect::<Result<Vec<MicroBatch>>>()?;
        let open: Vec<Group> = gradients.memory().groups.iter().map(|(group, _)| group.clone()).collect();
        let backbone: Vec<Group> =
            open.iter().filter(|g| g.kind != GroupKind::PartClassifiers).cloned().collect();
        let micro_batch_gradients = match (micro_batches.len() > 1, allocate) {
            (false, _) => None,
            (true, true) => Some(Grad::new(Arenas::shared(context, &backbone)?)),
            (true, false) => Some(Grad::new(Arenas::unallocated_shared(context, &backbone)?)),
        };
        let partials = open.iter().map(|group| gradnorm::partial_words(group.words)).sum();
        let drop_path = (self.drop_path > 0.0)
            .then(|| buffer("drop_path", DropPath::len_of(&self.config, batch)))
            .transpose()?;
        Ok(StepMemory {
            micro_batches,
            parts: self.share.is_part().then(|| buffer("parts", self.parts_words(batch))).transpose()?,
            drop_path,
            labels: buffer("labels", batch)?,
            only_class: (self.classifiers.shape.classes == 1)
                .then(|| buffer("only_class", batch))
                .transpose()?,
            step: buffer("step", StepValues::len_of(self.groups.len()))?,
            losses: buffer("losses", self.loss_words(batch))?,
            control: self.control.clone(),
            partials: buffer("gradnorm.partials", partials)?,
            micro_batch_gradients,
        })
    }

    /// Returns the index of the first of the losses (B) after those of the parts (R, B): triplet losses, then those of the
    /// prototypes. Each of them starts a slice.
    fn first_loss_after(&self, batch: usize, others: usize) -> usize {
        let rows = self.classifiers.shape.parts * batch;
        rows.next_multiple_of(Buffer::SLICE_ALIGN) + others * batch.next_multiple_of(Buffer::SLICE_ALIGN)
    }

    /// Returns the index of the first loss of the prototypes.
    fn first_prototype_loss(&self, batch: usize) -> usize {
        self.first_loss_after(batch, self.triplets())
    }

    /// Returns the number of triplet losses: one of all parts, or with a jigsaw one of each.
    fn triplets(&self) -> usize {
        match self.rule.triplet_margin {
            None => 0,
            Some(_) if self.config.jigsaw => self.config.parts(),
            Some(_) => 1,
        }
    }

    /// Returns the length of the parts (B, R, D) of a batch.
    fn parts_words(&self, batch: usize) -> usize {
        let ClassifierShape { parts, dim, .. } = self.classifiers.shape;
        batch * parts * dim
    }

    fn loss_words(&self, batch: usize) -> usize {
        // A slice has at least four words. Kernels write the first `batch`; the rest stay zeros.
        match (self.rule.triplet_margin, self.rule.prototypes) {
            (_, Some(_)) => self.first_prototype_loss(batch) + batch.max(4),
            (Some(_), None) => self.first_loss_after(batch, self.triplets() - 1) + batch.max(4),
            (None, None) => self.classifiers.shape.parts * batch,
        }
    }

    fn record(&self, recorder: &mut Recorder<'c>, batch: usize, memory: &StepMemory, stage: &Stage<'_>) {
        let ClassifierShape { parts, dim, classes, .. } = self.classifiers.shape;
        let steps = recorder.import(&memory.step);
        let factors = memory.drop_path.as_ref().map(|factors| recorder.import(factors));
        let mode = |places: &Range<usize>| {
            Mode::Training(factors.map(|factors| DropPath { factors, batch, first: places.start }))
        };
        // Forward: tokens, parts, logits, loss.
        let parts_of = match &memory.parts {
            Some(gathered) => recorder.import(gathered),
            None => recorder.tensor("gelt", self.parts_words(batch)),
        };
        let mut saved = None;
        for micro_batch in &memory.micro_batches {
            let places = &micro_batch.places;
            let images = places.len();
            let normalised = self.augmented(recorder, micro_batch, steps);
            let cameras = micro_batch.cameras.as_ref().map(|cameras| recorder.import(cameras));
            let (tokens, kept) = self.vit.forward(recorder, normalised, cameras, None, mode(places), images);
            self.record_parts(recorder, tokens, kept.pieces(), parts_of, places);
            // Each of several micro-batches runs forward again before its backward pass, so nothing is kept here.
            saved = (memory.micro_batches.len() == 1).then_some((tokens, kept));
        }
        if memory.parts.is_some() {
            recorder.stop();
        }
        recorder.scope(Phase::Forward, "heads");
        let (logits, classifiers_saved) = self.classifiers.forward(recorder, parts_of, steps, batch);
        recorder.scope(Phase::Forward, "");
        let dlogits = recorder.tensor("dlogits", logits.len);
        let control = recorder.import(&memory.control);
        let losses = recorder.import(&memory.losses);
        let labels = recorder.import(&memory.labels);
        let row_losses = recorder.import(&memory.losses.slice("losses", 0, parts * batch));
        let persons = memory.only_class.as_ref().map_or(labels, |zeros| recorder.import(zeros));
        cross_entropy::CrossEntropy {
            logits,
            labels: persons,
            loss: row_losses,
            gradient: Some((dlogits, control)),
            batch,
            parts,
            classes,
            smoothing: self.rule.label_smoothing,
            weights: self.loss_weights(),
        }
        .record(recorder, "cross_entropy");

        // Backward: the same operations in reverse.
        recorder.scope(Phase::Backward, "heads");
        let gradients = stage.gradients.map(classifier_parameters);
        let of_prototypes = self.rule.prototypes.zip(self.prototypes.as_ref()).map(|(rule, stored)| {
            let f = match self.rule.embed {
                HeadEmbed::Before => (parts_of, Layout::SampleFirst),
                HeadEmbed::After => classifiers_saved.normalised(),
            };
            let tensors = [labels, control, recorder.import(stored)];
            (rule, self.record_prototypes(recorder, memory, f, tensors, batch, rule.weight))
        });
        let add_if = |embed: HeadEmbed, recorder: &mut Recorder<'c>, df: Tensor| {
            if let (true, Some((_, gradient))) = (self.rule.embed == embed, of_prototypes) {
                gradient.add_gradient(recorder, df);
            }
        };
        let add = |recorder: &mut Recorder<'c>, df: Tensor| add_if(HeadEmbed::After, recorder, df);
        let dparts = self.classifiers.backward(recorder, classifiers_saved, dlogits, add, &gradients, batch);
        recorder.scope(Phase::Backward, "");
        add_if(HeadEmbed::Before, recorder, dparts);
        if let Some(margin) = self.rule.triplet_margin {
            self.record_triplet(recorder, memory, [parts_of, dparts, labels, control], batch, margin);
        }
        // Tensors of the only micro-batch. With several, no part of the network has running statistics.
        let mut whole = None;
        for (i, micro_batch) in memory.micro_batches.iter().enumerate() {
            let places = &micro_batch.places;
            let images = places.len();
            let (tokens, saved) = saved.take().unwrap_or_else(|| {
                let normalised = self.augmented(recorder, micro_batch, steps);
                let cameras = micro_batch.cameras.as_ref().map(|cameras| recorder.import(cameras));
                self.vit.forward(recorder, normalised, cameras, None, mode(places), images)
            });
            recorder.scope(Phase::Backward, "");
            let dtokens = recorder.activation("dtokens", tokens.len);
            let dpieces = saved.pieces().map(|pieces| {
                let dpieces = recorder.activation("dpieces", pieces.len);
                let shape = self.vit.cut(images);
                for (dtokens, tokens, from, sequences) in
                    [(dtokens, shape.tokens, 0, 1), (dpieces, shape.length(), 1, shape.pieces)]
                {
                    let (first, parts) = (places.start, [parts, from]);
                    Spread { dfeatures: dparts, dtokens, first, parts, sequences, tokens, dim }
                        .record(recorder, "jigsaw");
                }
                dpieces
            });
            if dpieces.is_none() {
                let gelt::Forward { first, prefix, rows, columns, weights, .. } =
                    self.parts(tokens, parts_of, places);
                gelt::Backward {
                    dgelt: dparts,
                    dtokens,
                    first,
                    batch: images,
                    prefix,
                    parts,
                    rows,
                    columns,
                    dim,
                    weights,
                }
                .record(recorder, "gelt");
            }
            let arenas = memory.micro_batch_gradients.as_ref().filter(|_| i > 0);
            let gradients =
                VitGradients::new(&self.config, arenas.unwrap_or(stage.gradients), stage.trainable);
            self.vit.backward(
                recorder,
                &saved,
                (dtokens, dpieces),
                &gradients,
                images,
                &mut |recorder, kind| {
                    if let Some(arenas) = arenas {
                        let [addend, sum] =
                            [arenas, stage.gradients].map(|grad| recorder.import(grad.memory().arena(kind)));
                        Accumulate { addend, sum }.record(recorder, &format!("accumulate.{kind}"));
                    }
                    if memory.parts.is_some() && i + 1 == memory.micro_batches.len() {
                        recorder.stop();
                    }
                },
            );
            whole = Some(saved);
        }

        if memory.parts.is_some() && memory.micro_batches.is_empty() {
            // A rank without images of a small batch waits for the same gradients.
            stage.buckets().for_each(|_| recorder.stop());
        }

        // Optimiser: gradient norm, check for finite gradients, update.
        recorder.scope(Phase::Optimiser, "");
        let mut start = 0;
        for (group, arena) in &stage.gradients.memory().groups {
            let words = gradnorm::partial_words(group.words);
            let gradients = recorder.import(arena);
            let partials = recorder.import(&memory.partials.slice("gradnorm.partials", start, words));
            gradnorm::Partial { gradients, partials }.record(recorder, &format!("gradnorm.{}", group.kind));
            start += words;
        }
        let sums = recorder.import(&memory.partials);
        gradnorm::Finish { partials: sums, losses, step: steps, control }.record(recorder, "gradnorm");
        if let Some((rule, UnitGradient { embeddings, memory, .. })) = of_prototypes {
            let length = embeddings.len / batch;
            let PrototypeRule { momentum, temperature, hard, .. } = rule;
            prototypes::Update {
                labels,
                embeddings,
                memory,
                control,
                batch,
                length,
                momentum,
                temperature,
                hard,
            }
            .record(recorder, "prototypes.update");
        }
        recorder.scope(Phase::Forward, "heads");
        self.classifiers.update_running(recorder, classifiers_saved, control, batch);
        if let Some(saved) = &whole {
            self.vit.update_running(recorder, saved, control);
        }
        recorder.scope(Phase::Optimiser, "");
        for (group, (layout, memory)) in self.parameters.groups.iter().enumerate() {
            if !stage.trainable.contains(layout.kind) {
                continue;
            }
            let moments = &stage.moments[&layout.kind];
            let gradients = stage.gradients.memory().arena(layout.kind);
            let [gradients, bias_mask, parameters, first_moment] =
                [gradients, &self.bias_masks[group], memory, &moments.first]
                    .map(|buffer| recorder.import(buffer));
            let (step, kind) = (steps, layout.kind);
            match (self.rule.optimizer, &moments.second) {
                (Optimizer::Adam { betas, decoupled }, Some(second)) => {
                    let second_moment = recorder.import(second);
                    Adam {
                        gradients,
                        step,
                        control,
                        bias_mask,
                        parameters,
                        first_moment,
                        second_moment,
                        group,
                        betas,
                        decoupled,
                    }
                    .record(recorder, &format!("adam.{kind}"));
                }
                (Optimizer::Sgd { momentum }, None) => {
                    let velocity = first_moment;
                    Sgd { gradients, step, control, bias_mask, parameters, velocity, group, momentum }
                        .record(recorder, &format!("sgd.{kind}"));
                }
                _ => unreachable!("{kind}: the moments are those of another optimiser"),
            }
        }
        self.record_averages(recorder, control, stage.trainable);
        recorder.scope(Phase::Forward, "");
        self.record_narrow(recorder, &self.parameters, stage.trainable);
    }

    /// Records the update of the averages of all open groups and of the running statistics.
    fn record_averages(&self, recorder: &mut Recorder<'c>, control: Tensor, open: Trainable) {
        let Some(Averages { arenas, classifiers, decay, .. }) = &self.averages else { return };
        let mut record = |name: &str, weights: &Buffer, averages: &Buffer| {
            let [weights, averages] = [weights, averages].map(|buffer| recorder.import(buffer));
            Average { weights, control, averages, decay: *decay }
                .record(recorder, &format!("average.{name}"));
        };
        for (Group { kind, .. }, parameters) in &self.parameters.groups {
            if open.contains(*kind) || *kind == GroupKind::Statistics {
                record(&kind.to_string(), parameters, arenas.arena(*kind));
            }
        }
        let (now, averages) = (&self.classifiers.running, &classifiers.running);
        record("heads.bn.running_mean", &now.0, &averages.0);
        record("heads.bn.running_var", &now.1, &averages.1);
    }

    /// Records the batch-hard triplet loss on the concatenated parts of each image, or with a jigsaw on each part, and adds
    /// its gradient to `dparts`.
    fn record_triplet(
        &self,
        recorder: &mut Recorder<'c>,
        memory: &StepMemory,
        [parts, dparts, labels, control]: [Tensor; 4],
        batch: usize,
        margin: triplet::Margin,
    ) {
        let stride = parts.len / batch;
        let length = stride / self.triplets();
        for i in 0..self.triplets() {
            let columns = triplet::Columns { first: i * length, stride };
            let weight = match (self.config.jigsaw, i) {
                (false, _) => 1.0,
                (true, 0) => 0.5,
                (true, _) => 0.5 / VitConfig::PIECES as f32,
            };
            let distances = recorder.tensor("triplet.distances", batch * batch);
            triplet::Distances { parts, distances, batch, length, columns }
                .record(recorder, "triplet.distances");
            let loss = memory.losses.slice("triplet.losses", self.first_loss_after(batch, i), batch);
            let loss = recorder.import(&loss);
            let choice = recorder.tensor("triplet.choice", 2 * batch);
            triplet::Mine { distances, labels, loss, choice, batch, margin, weight }
                .record(recorder, "triplet.mine");
            triplet::Backward {
                parts,
                distances,
                choice,
                dparts,
                control,
                batch,
                length,
                columns,
                margin,
                weight,
            }
            .record(recorder, "triplet");
        }
    }

    /// Records the prototype loss of the features `f` of each image, and the gradient of their unit vectors.
    fn record_prototypes(
        &self,
        recorder: &mut Recorder<'c>,
        memory: &StepMemory,
        (f, layout): (Tensor, Layout),
        [labels, control, stored]: [Tensor; 3],
        batch: usize,
        weight: f32,
    ) -> UnitGradient {
        let ClassifierShape { parts, dim, .. } = self.classifiers.shape;
        let length = parts * dim;
        let classes = stored.len / length;
        let embeddings = recorder.tensor("prototypes.embeddings", batch * length);
        l2norm::Forward { x: f, y: embeddings, batch, parts, dim, layout }
            .record(recorder, "prototypes.l2norm");
        let shape = part_linear::Shape {
            batch,
            parts: 1,
            inputs: length,
            outputs: classes,
            layout: Layout::SampleFirst,
        };
        let logits = recorder.tensor("prototypes.logits", batch * classes);
        part_linear::Forward { x: embeddings, weight: stored, bias: None, y: logits, shape }
            .record(recorder, "prototypes.logits");
        let dlogits = recorder.tensor("prototypes.dlogits", logits.len);
        let loss = memory.losses.slice("prototypes.losses", self.first_prototype_loss(batch), batch);
        let loss = recorder.import(&loss);
        cross_entropy::CrossEntropy {
            logits,
            labels,
            loss,
            gradient: Some((dlogits, control)),
            batch,
            parts: 1,
            classes,
            smoothing: 0.0,
            weights: [weight; 2],
        }
        .record(recorder, "prototypes");
        let dembeddings = recorder.tensor("prototypes.dembeddings", embeddings.len);
        part_linear::BackwardInput { weight: stored, dy: dlogits, dx: dembeddings, shape }
            .record(recorder, "prototypes.dembeddings");
        UnitGradient { f, layout, embeddings, memory: stored, dembeddings, size: [batch, parts, dim] }
    }

    /// Records the parts of a micro-batch: of its tokens, or with a jigsaw of the class tokens of images and sequences.
    fn record_parts(
        &self,
        recorder: &mut Recorder<'_>,
        tokens: Tensor,
        pieces: Option<Tensor>,
        parts: Tensor,
        places: &Range<usize>,
    ) {
        match pieces {
            None => self.parts(tokens, parts, places).record(recorder, "gelt"),
            Some(pieces) => {
                let (first, shape) = (places.start, self.vit.cut(places.len()));
                Features { whole: tokens, pieces, features: parts, first, scale: 1.0, shape }
                    .record(recorder, "jigsaw");
            }
        }
    }

    fn parts(&self, tokens: Tensor, gelt: Tensor, places: &Range<usize>) -> gelt::Forward {
        let ClassifierShape { parts, dim, .. } = self.classifiers.shape;
        gelt::Forward {
            tokens,
            gelt,
            first: places.start,
            batch: places.len(),
            prefix: self.config.prefix(),
            parts,
            rows: self.config.grid().0,
            columns: self.config.grid().1,
            dim,
            weights: self.config.gelt.weights(),
        }
    }

    /// Records the normalised images of a micro-batch, mirrored and erased.
    fn augmented(&self, recorder: &mut Recorder<'_>, micro_batch: &MicroBatch, step: Tensor) -> Tensor {
        let MicroBatch { places, pixels, flips, erased, .. } = micro_batch;
        let flip = recorder.import(flips);
        let noise = erased.as_ref().map(|erased| {
            let erased = recorder.import(erased);
            image::Noise { erased, step, first: places.start }
        });
        self.image(recorder, pixels, Some(flip), noise, places.len())
    }

    fn image(
        &self,
        recorder: &mut Recorder<'_>,
        pixels: &Buffer,
        flip: Option<Tensor>,
        noise: Option<image::Noise>,
        batch: usize,
    ) -> Tensor {
        let size = self.config.image;
        let Preprocess { mean, std, .. } = self.preprocess;
        let normalised = recorder.tensor("image", batch * 3 * size.height * size.width);
        let pixels = recorder.import(pixels);
        image::Forward { pixels, flip, noise, image: normalised, batch, size, mean, std }
            .record(recorder, "image");
        normalised
    }

    /// Records a forward pass for `batch` images with running statistics, of the averaged weights if there are any.
    ///
    /// # Errors
    /// If it exceeds the adapter's limits or memory.
    pub fn record_evaluation(&self, batch: usize) -> Result<EvaluationStep> {
        let context = self.context;
        let ClassifierShape { parts, classes, .. } = self.classifiers.shape;
        let pixels = context.buffer("pixels", image::pixel_words(batch, self.config.image))?;
        let cameras = self.has_cameras().then(|| context.buffer("cameras", batch)).transpose()?;
        let logits = context.buffer("logits", parts * batch * classes)?;
        let mut recorder = Recorder::new(context);
        self.record_logits(&mut recorder, (&pixels, cameras.as_ref()), &logits, batch);
        Ok(EvaluationStep { plan: recorder.finish()?, pixels, cameras, output: logits })
    }

    /// Records embeddings of `batch` images with running statistics, of the averaged weights if there are any.
    ///
    /// # Errors
    /// If they exceed the adapter's limits or memory.
    pub fn record_embedding(&self, batch: usize) -> Result<EvaluationStep> {
        let context = self.context;
        let ClassifierShape { parts, dim, .. } = self.classifiers.shape;
        let pixels = context.buffer("pixels", image::pixel_words(batch, self.config.image))?;
        let cameras = self.has_cameras().then(|| context.buffer("cameras", batch)).transpose()?;
        let output = context.buffer("embeddings", batch * parts * dim)?;
        let mut recorder = Recorder::new(context);
        self.record_model(&mut recorder, |recorder, vit, classifiers| {
            let parts_of = self.record_forward(recorder, vit, (&pixels, cameras.as_ref()), batch);
            let (x, layout) = match self.rule.embed {
                HeadEmbed::Before => (parts_of, Layout::SampleFirst),
                HeadEmbed::After => (classifiers.normalise(recorder, parts_of, batch), Layout::PartFirst),
            };
            let y = recorder.import(&output);
            l2norm::Forward { x, y, batch, parts, dim, layout }.record(recorder, "l2norm");
        });
        Ok(EvaluationStep { plan: recorder.finish()?, pixels, cameras, output })
    }

    /// Returns the device memory of [`Self::record_evaluation`] in bytes, without allocating it.
    pub fn evaluation_need(&self, batch: usize) -> u64 {
        let context = self.context;
        let ClassifierShape { parts, classes, .. } = self.classifiers.shape;
        let pixels = context.unallocated("pixels", image::pixel_words(batch, self.config.image));
        let cameras = self.has_cameras().then(|| context.unallocated("cameras", batch));
        let logits = context.unallocated("logits", parts * batch * classes);
        let mut recorder = Recorder::new(context);
        self.record_logits(&mut recorder, (&pixels, cameras.as_ref()), &logits, batch);
        let words = pixels.words + cameras.map_or(0, |cameras| cameras.words) + logits.words;
        recorder.summary().heap_bytes + words as u64 * WORD
    }

    /// Returns true if the network has a camera embedding.
    fn has_cameras(&self) -> bool {
        self.config.cameras.is_some()
    }

    /// Records the parts (B, R, D) of a batch: of its pixels, and of the rows of its cameras if there is an embedding.
    fn record_forward(
        &self,
        recorder: &mut Recorder<'_>,
        vit: &Vit,
        (pixels, cameras): (&Buffer, Option<&Buffer>),
        batch: usize,
    ) -> Tensor {
        let normalised = self.image(recorder, pixels, None, None, batch);
        let tokens = recorder.activation("norm", vit.sequence(batch).len());
        let cameras = cameras.map(|cameras| recorder.import(cameras));
        let (_, saved) = vit.forward(recorder, normalised, cameras, Some(tokens), Mode::Evaluation, batch);
        let ClassifierShape { parts, dim, .. } = self.classifiers.shape;
        let parts = recorder.tensor("gelt", batch * parts * dim);
        self.record_parts(recorder, tokens, saved.pieces(), parts, &(0..batch));
        parts
    }

    /// Records the logits (R, B, K) of a batch, of the averaged weights if there are any.
    fn record_logits(
        &self,
        recorder: &mut Recorder<'_>,
        images: (&Buffer, Option<&Buffer>),
        logits: &Buffer,
        batch: usize,
    ) {
        self.record_model(recorder, |recorder, vit, classifiers| {
            let parts = self.record_forward(recorder, vit, images, batch);
            let output = recorder.import(logits);
            recorder.scope(Phase::Forward, "heads");
            classifiers.evaluate(recorder, parts, output, batch);
        });
    }

    /// Records work on the network of the averaged weights, or without averages on the one that trains.
    fn record_model<'r>(
        &self,
        recorder: &mut Recorder<'r>,
        work: impl FnOnce(&mut Recorder<'r>, &Vit, &PartClassifiers),
    ) {
        let Some(Averages { arenas, vit, classifiers, .. }) = &self.averages else {
            return work(recorder, &self.vit, &self.classifiers);
        };
        // The networks share the f16 copies of their matrices.
        self.record_narrow(recorder, arenas, ALL_BLOCKS);
        work(recorder, vit, classifiers);
        recorder.scope(Phase::Forward, "");
        self.record_narrow(recorder, &self.parameters, ALL_BLOCKS);
    }
}
