//! Embeds images: the host decodes a few batches ahead of the adapter. Results keep the order of the list.

mod output;

use crate::checkpoint::Network;
use crate::datasets::cameras::Cameras;
use crate::embeddings::Embeddings;
use crate::error::{Error, Result};
use crate::gpu::{AdapterClass, Buffer, Context, Plan, PlanProfile, Precision, Readback, Recorder, WORD};
use crate::images::decode::{DecodeOptions, Rgb};
use crate::images::preprocess;
use crate::images::walk::Image;
use crate::model::LaTransformer;
use crate::observer::{Observer, Stage};
use crate::rng;
use crate::shape::ImageSize;
use rayon::prelude::*;
use std::collections::VecDeque;
use std::ops::Deref;
use std::sync::mpsc;
use std::thread::JoinHandle;

pub use output::{AdapterUse, EmbeddingSource, Output, Request, Summary, Target, embed, open_output};

/// Batches in flight: one on the adapter, one being read back.
const IN_FLIGHT: usize = 2;

/// A network on an adapter, ready for images of its input size. `C` is a reference to a [`Context`], or an `Arc`.
pub struct Embedder<C> {
    context: C,
    model: LaTransformer,
    batch: usize,
    need: MemoryNeed,
    /// Source of the images' rows in the camera embedding and statistics.
    cameras: Cameras,
    step: Option<Step>,
    in_flight: VecDeque<Readback>,
    idle: Vec<Readback>,
}

/// The recorded plan for one batch size, with its input and output.
struct Step {
    batch: usize,
    plan: Plan,
    pixels: Buffer,
    /// Rows of the camera embedding and statistics (B), u32; `None` without them.
    cameras: Option<Buffer>,
    embeddings: Buffer,
}

/// Device memory of an [`Embedder`], in bytes.
#[derive(Debug, Clone, Copy)]
pub struct MemoryNeed {
    /// The network's parameters.
    pub parameters: u64,
    /// Each image of a batch: activations, input and output.
    pub per_image: u64,
}

impl MemoryNeed {
    /// Returns the bytes for batches of `batch` images.
    pub fn bytes(&self, batch: usize) -> u64 {
        self.parameters + batch as u64 * self.per_image
    }
}

impl<C: Deref<Target = Context>> Embedder<C> {
    /// Uploads a network. Without `batch` the batch is the smallest that fills the adapter and fits into `memory`
    /// bytes.
    ///
    /// # Errors
    /// [`Error::TooLarge`] if the batch, or a single image, exceeds `memory` or the adapter's largest binding.
    pub fn new(context: C, network: &Network, batch: Option<usize>, memory: u64) -> Result<Self> {
        let model = LaTransformer::new(&context, network)?;
        let one = Step::record(&context, &model, 1)?;
        let summary = one.plan.summary().clone();
        let config = model.config();
        let output = config.embedding_len() as u64 * WORD;
        let input = (model.pixel_words(1) + usize::from(config.has_camera_rows())) as u64 * WORD;
        let need = MemoryNeed {
            parameters: model.parameter_bytes(),
            per_image: summary.heap_bytes + input + (1 + IN_FLIGHT as u64) * output,
        };
        let binding_limit = (context.max_tensor_bytes() / summary.largest_tensor_bytes.max(1)) as usize;
        let memory_limit = (memory.saturating_sub(need.parameters) / need.per_image) as usize;
        let most = binding_limit.min(memory_limit);
        let batch = batch.unwrap_or_else(|| most.clamp(1, filling_batch(context.class(), config.tokens())));
        if batch > most {
            let mib = |bytes: u64| bytes.div_ceil(1 << 20);
            let what = if batch == 1 { "one image".to_string() } else { format!("a batch of {batch}") };
            let error = Error::TooLarge(if binding_limit <= memory_limit {
                format!(
                    "{what} needs bindings of {} bytes; {} binds at most {}",
                    batch as u64 * summary.largest_tensor_bytes,
                    context.adapter.name,
                    context.max_tensor_bytes()
                )
            } else {
                let allowed = memory as f64 / f64::from(1 << 20);
                format!(
                    "{what} needs {} MiB of device memory; {allowed:.1} MiB are allowed",
                    mib(need.bytes(batch))
                )
            });
            return Err(error.hinted(match (most, binding_limit) {
                (0, 0) => "a smaller input size needs smaller bindings".to_string(),
                (0, _) => {
                    format!("at least {} MiB are needed, for one image at a time", mib(need.bytes(1)))
                }
                _ => format!("a batch of {most} fits"),
            }));
        }
        let step = (batch == 1).then_some(one);
        let (cameras, in_flight, idle) = (Cameras::default(), VecDeque::new(), Vec::new());
        Ok(Embedder { context, model, batch, need, cameras, step, in_flight, idle })
    }

    /// Sets the source of the cameras of the images that are embedded from now on. At first it is their names.
    pub fn set_cameras(&mut self, cameras: Cameras) {
        self.cameras = cameras;
    }

    /// Returns the images per batch.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Returns the device memory in bytes.
    pub fn need(&self) -> MemoryNeed {
        self.need
    }

    /// Halves the batch after the adapter ran out of memory. Returns false if it is one image already.
    pub fn halve(&mut self) -> bool {
        self.step = None;
        let halved = self.batch > 1;
        self.batch = (self.batch / 2).max(1);
        halved
    }

    /// Returns the length of an embedding, R·D.
    pub fn dim(&self) -> usize {
        self.model.config().embedding_len()
    }

    /// Embeds up to [`Self::batch`] images of the input size: (B, R·D).
    ///
    /// # Errors
    /// [`Error::Data`] if the network has a camera embedding and no camera was set for all images; those of the
    /// adapter.
    pub fn embed(&mut self, images: &[Rgb]) -> Result<Vec<f32>> {
        self.submit(images)?;
        self.collect()
    }

    /// Embeds up to [`Self::batch`] images of the input size: (B, R·D). `cameras` (B) are their rows of the camera
    /// embedding and statistics, if the network has any.
    ///
    /// # Errors
    /// Those of the adapter.
    pub fn embed_by(&mut self, images: &[Rgb], cameras: &[u32]) -> Result<Vec<f32>> {
        self.submit_by(images, cameras)?;
        self.collect()
    }

    /// Submits up to [`Self::batch`] images of the input size.
    ///
    /// # Errors
    /// As [`Self::embed`].
    ///
    /// # Panics
    /// If an image has another size.
    pub fn submit(&mut self, images: &[Rgb]) -> Result<()> {
        let row = self.cameras.row(self.model.config(), "an image without a name")?;
        self.submit_by(images, &vec![row; images.len()])
    }

    /// Submits images with their rows of the camera embedding and statistics.
    fn submit_by(&mut self, images: &[Rgb], cameras: &[u32]) -> Result<()> {
        let size = self.model.config().image;
        // Frees the memory of a step of another size before recording the new one.
        let kept = self.step.take().filter(|step| step.batch == images.len());
        let step = match kept {
            Some(step) => step,
            None => Step::record(&self.context, &self.model, images.len())?,
        };
        let mut bytes = Vec::with_capacity(self.model.pixel_words(images.len()) * WORD as usize);
        for image in images {
            assert_eq!((image.height, image.width), (size.height, size.width), "size of an image");
            bytes.extend_from_slice(&image.pixels);
        }
        bytes.resize(bytes.len().next_multiple_of(WORD as usize), 0);
        self.context.write(&step.pixels, &bytes);
        if let Some(rows) = &step.cameras {
            self.context.write(rows, bytemuck::cast_slice(cameras));
        }
        step.plan.run(&self.context)?;
        let capacity = self.batch.max(images.len()) * self.dim();
        let mut readback = match self.idle.pop() {
            Some(readback) => readback,
            None => Readback::new(&self.context, capacity)?,
        };
        readback.start(&self.context, &step.embeddings, step.embeddings.words);
        self.in_flight.push_back(readback);
        self.step = Some(step);
        Ok(())
    }

    /// Waits for the oldest batch in flight and returns its embeddings; empty if nothing is in flight.
    ///
    /// # Errors
    /// [`Error::Data`] if an f16 activation overflowed; those of the adapter.
    pub fn collect(&mut self) -> Result<Vec<f32>> {
        let Some(mut readback) = self.in_flight.pop_front() else { return Ok(Vec::new()) };
        let rows = readback.finish(&self.context)?;
        self.idle.push(readback);
        if self.context.precision() == Precision::F16 && rows.iter().any(|value| !value.is_finite()) {
            return Err(Error::Data(
                "an embedding is not finite: an activation exceeds the range of f16; use --precision f32"
                    .into(),
            ));
        }
        Ok(rows)
    }

    /// Times every launch of one batch. Its input is random bytes, which take as long as images.
    ///
    /// Drops the recorded plan. Results do not change: the next batch records it again.
    ///
    /// # Errors
    /// Those of the adapter.
    pub fn profile(&mut self) -> Result<PlanProfile> {
        // Two plans at once could exceed the memory limit.
        self.step = None;
        let step = Step::record(&self.context, &self.model, self.batch)?;
        let words: Vec<u32> = (0..step.pixels.words as u64).map(|i| rng::bits(0, 0, i)).collect();
        self.context.write(&step.pixels, bytemuck::cast_slice(&words));
        Ok(step.plan.profile(&self.context)?)
    }
}

impl Step {
    fn record(context: &Context, model: &LaTransformer, batch: usize) -> Result<Step> {
        let pixels = context.buffer("pixels", model.pixel_words(batch))?;
        let has_rows = model.config().has_camera_rows();
        let cameras = has_rows.then(|| context.buffer("cameras", batch)).transpose()?;
        let embeddings = context.buffer("embeddings", batch * model.config().embedding_len())?;
        let mut recorder = Recorder::new(context);
        model.embed(&mut recorder, &pixels, cameras.as_ref(), &embeddings, batch);
        Ok(Step { batch, plan: recorder.finish()?, pixels, cameras, embeddings })
    }
}

/// The smallest batch that reaches nearly full throughput: enough tokens for every core of the adapter.
fn filling_batch(class: AdapterClass, tokens: usize) -> usize {
    let (wanted_tokens, most) = match class {
        AdapterClass::Cpu => (1024_usize, 64),
        AdapterClass::Integrated => (8192, 64),
        AdapterClass::Discrete => (32_768, 256),
    };
    wanted_tokens.div_ceil(tokens.max(1)).clamp(1, most)
}

/// Options for reading and embedding images.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ImageOptions {
    /// Options for decoding.
    pub decode: DecodeOptions,
    /// Embeds the mirror image too, and returns the mean of both, each part normalised to length 1/√R again.
    pub flip: bool,
}

/// An image to embed, from a file or elsewhere.
pub trait Source: Send + 'static {
    /// Its name, which may say its camera.
    fn name(&self) -> &str;

    /// Loads it, once, and stretches it to `size`.
    ///
    /// # Errors
    /// [`Error::Image`] if it can't be read.
    fn load(&mut self, options: DecodeOptions, size: ImageSize) -> Result<Rgb>;
}

impl Source for Image {
    fn name(&self) -> &str {
        &self.name
    }

    fn load(&mut self, options: DecodeOptions, size: ImageSize) -> Result<Rgb> {
        preprocess::load(&self.path, options, size)
    }
}

/// The mean of two embeddings (R·D) of `parts` parts, each part normalised to length 1/√R.
fn mean_of_views(one: &[f32], other: &[f32], parts: usize) -> Vec<f32> {
    let mut mean: Vec<f32> = one.iter().zip(other).map(|(a, b)| (a + b) / 2.0).collect();
    let width = mean.len() / parts;
    for part in mean.chunks_mut(width.max(1)) {
        let square: f64 = part.iter().map(|&v| f64::from(v).powi(2)).sum();
        // Bounded as in the kernel: the mean of two opposite views is zero.
        let factor = 1.0 / (square.sqrt().max(1e-12) * (parts as f64).sqrt());
        part.iter_mut().for_each(|v| *v = (f64::from(*v) * factor) as f32);
    }
    mean
}

/// Iterator over a list of images, in order: each image with its embedding (R·D), or with the error of reading it.
///
/// Made by [`Embedder::embed_images`]. An error of the adapter ends it. Decoding runs a few batches ahead, so memory
/// does not grow with the list.
pub struct ImageEmbeddings<'e, C, S = Image> {
    embedder: &'e mut Embedder<C>,
    stage: Stage<'e>,
    flip: bool,
    decoder: Option<JoinHandle<()>>,
    decoded: mpsc::Receiver<Vec<(S, Result<Rgb>)>>,
    /// Images that are decoded but not yet returned, with the error if decoding failed.
    listed: VecDeque<(S, Option<Error>)>,
    /// Decoded views that are not yet submitted.
    queue: VecDeque<Rgb>,
    /// Their rows of the camera embedding and statistics.
    rows: VecDeque<u32>,
    /// Embeddings that are read back but not yet returned.
    embeddings: VecDeque<Vec<f32>>,
    /// The embedding of an image whose mirror image is not yet read back.
    first_view: Option<Vec<f32>>,
}

impl<C: Deref<Target = Context>> Embedder<C> {
    /// Embeds a list of images. If the adapter runs out of memory, continues with smaller batches.
    ///
    /// The iterator's errors are those of the adapter, those of [`Cameras::row`], and [`Error::Interrupted`].
    pub fn embed_images<'e>(
        &'e mut self,
        images: Vec<Image>,
        options: ImageOptions,
        observer: &'e dyn Observer,
    ) -> ImageEmbeddings<'e, C> {
        let total = images.len();
        self.embed_each(images, total, options, observer)
    }

    /// Embeds images that an iterator yields as they are needed, otherwise as [`Self::embed_images`]. `total` is their
    /// number, for the progress; 0 if it isn't known.
    pub fn embed_each<'e, S: Source>(
        &'e mut self,
        images: impl IntoIterator<Item = S, IntoIter: Send + 'static>,
        total: usize,
        options: ImageOptions,
        observer: &'e dyn Observer,
    ) -> ImageEmbeddings<'e, C, S> {
        let images = images.into_iter();
        let size = self.model.config().image;
        // At least two images for each decoding thread, and never much more than a batch.
        let chunk = self.batch().max(2 * rayon::current_num_threads());
        let stage = Stage::new(observer, "", total, "nothing was written");
        let (sender, decoded) = mpsc::sync_channel(1);
        let decoder = std::thread::spawn(move || {
            let mut images = images;
            loop {
                let chunk: Vec<S> = images.by_ref().take(chunk).collect();
                let load = |mut image: S| {
                    let loaded = image.load(options.decode, size);
                    (image, loaded)
                };
                // Stops when the iterator was dropped.
                if chunk.is_empty() || sender.send(chunk.into_par_iter().map(load).collect()).is_err() {
                    return;
                }
            }
        });
        // An earlier iterator that was dropped may have left batches in flight.
        self.in_flight.clear();
        ImageEmbeddings {
            embedder: self,
            stage,
            flip: options.flip,
            decoder: Some(decoder),
            decoded,
            listed: VecDeque::new(),
            queue: VecDeque::new(),
            rows: VecDeque::new(),
            embeddings: VecDeque::new(),
            first_view: None,
        }
    }
}

impl<C: Deref<Target = Context>> Embedder<C> {
    /// Embeds the readable images of a list. Returns their embeddings by name, and their positions in the list.
    ///
    /// # Errors
    /// Those of the adapter, and [`Error::Interrupted`].
    pub fn embeddings(
        &mut self,
        images: Vec<Image>,
        options: ImageOptions,
        observer: &dyn Observer,
    ) -> Result<(Embeddings, Vec<usize>)> {
        let mut embeddings = Embeddings { paths: Vec::new(), dim: self.dim(), rows: Vec::new() };
        let mut positions = Vec::new();
        for (position, embedded) in self.embed_images(images, options, observer).enumerate() {
            match embedded? {
                (_, Err(error)) => observer.skipped(&error),
                (image, Ok(row)) => {
                    embeddings.paths.push(image.name);
                    embeddings.rows.extend(row);
                    positions.push(position);
                }
            }
        }
        Ok((embeddings, positions))
    }
}

impl<C: Deref<Target = Context>, S: Source> ImageEmbeddings<'_, C, S> {
    /// Submits a batch, and reads back the one before it.
    fn advance(&mut self) -> Result<()> {
        self.stage.advance(0)?;
        while self.decoder.is_some() && self.queue.len() < self.embedder.batch() {
            let Ok(decoded) = self.decoded.recv() else {
                let ended = self.decoder.take().map_or(Ok(()), JoinHandle::join);
                ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                break;
            };
            for (image, decoded) in decoded {
                let error = match decoded {
                    Ok(rgb) => {
                        let row = self.embedder.cameras.row(self.embedder.model.config(), image.name())?;
                        let mirrored = self.flip.then(|| rgb.mirrored());
                        self.rows
                            .extend([Some(row), mirrored.is_some().then_some(row)].into_iter().flatten());
                        self.queue.push_back(rgb);
                        self.queue.extend(mirrored);
                        None
                    }
                    Err(error) => Some(error),
                };
                self.listed.push_back((image, error));
            }
        }
        if !self.queue.is_empty() {
            let count = self.embedder.batch().min(self.queue.len());
            let (views, rows) = (self.queue.make_contiguous(), self.rows.make_contiguous());
            match self.embedder.submit_by(&views[..count], &rows[..count]) {
                Ok(()) => {
                    drop(self.queue.drain(..count));
                    drop(self.rows.drain(..count));
                }
                Err(error) if error.is_out_of_memory() && self.embedder.halve() => {
                    let batch = self.embedder.batch();
                    self.stage.observer().note(&format!("{error}; continuing with batches of {batch}"));
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        let drained = self.decoder.is_none() && self.queue.is_empty();
        if self.embedder.in_flight.len() >= IN_FLIGHT || drained {
            let (rows, parts) = (self.embedder.collect()?, self.embedder.model.config().unit_parts());
            for row in rows.chunks(self.embedder.dim()) {
                match self.first_view.take() {
                    Some(first) => self.embeddings.push_back(mean_of_views(&first, row, parts)),
                    None if self.flip => self.first_view = Some(row.to_vec()),
                    None => self.embeddings.push_back(row.to_vec()),
                }
            }
        }
        Ok(())
    }
}

impl<C: Deref<Target = Context>, S: Source> Iterator for ImageEmbeddings<'_, C, S> {
    type Item = Result<(S, Result<Vec<f32>>)>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let is_ready =
                |(_, error): &mut (S, Option<Error>)| error.is_some() || !self.embeddings.is_empty();
            if let Some((image, error)) = self.listed.pop_front_if(is_ready) {
                let embedding = match error {
                    Some(error) => Err(error),
                    None => Ok(self.embeddings.pop_front().unwrap_or_default()),
                };
                return Some(self.stage.advance(1).map(|()| (image, embedding)));
            }
            if self.decoder.is_none() && self.listed.is_empty() {
                return None;
            }
            if let Err(error) = self.advance() {
                // The error is the last item.
                (self.decoder, self.decoded) = (None, mpsc::sync_channel(0).1);
                self.listed.clear();
                return Some(Err(error));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_fill_the_adapter() {
        let of = |tokens| {
            [AdapterClass::Cpu, AdapterClass::Integrated, AdapterClass::Discrete]
                .map(|class| filling_batch(class, tokens))
        };
        assert_eq!(of(197), [6, 42, 167]);
        assert_eq!(of(9), [64, 64, 256]);
        assert_eq!(of(100_000), [1, 1, 1]);
    }

    #[test]
    fn the_mean_of_two_views_is_normalised() {
        // Two parts of two dimensions, each of length 1/√2.
        let half = 0.5f32.sqrt();
        let mean = mean_of_views(&[half, 0.0, 0.5, 0.5], &[0.0, half, 0.5, 0.5], 2);
        for value in mean {
            assert!((value - 0.5).abs() < 1e-7, "{value}");
        }
        let opposite = mean_of_views(&[half, 0.0, 0.5, 0.5], &[-half, 0.0, 0.5, 0.5], 2);
        assert_eq!(opposite[..2], [0.0, 0.0]);
    }
}
