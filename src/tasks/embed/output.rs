//! Embeds a list of images into a file or an index folder.

use super::{Embedder, ImageOptions};
use crate::checkpoint::Network;
use crate::datasets::cameras::Cameras;
use crate::embeddings::index::{Found, IndexOptions, IndexWriter, Origin, Shard, ShardNumber, Weights};
use crate::embeddings::provenance::{Provenance, Source, check_same_weights};
use crate::embeddings::{Dtype, EmbeddingWriter, check_finite};
use crate::error::{Error, Result};
use crate::gpu::{Context, ContextOptions, PlanProfile};
use crate::images::walk::{self, Image};
use crate::observer::Observer;
use crate::retrieval::pca::{self, Projection};
use crate::retry::retry;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// The file or folder that embeddings are written to.
#[derive(Debug, Clone)]
pub enum Target {
    /// A new file: `.safetensors`, `.npy` or `.parquet`.
    File(PathBuf),
    /// An index folder. Images that it holds already are not embedded again.
    Index {
        /// The folder.
        folder: PathBuf,
        /// Removes rows of images that are not in the list.
        prune: bool,
        /// Most rows of a segment.
        segment_rows: usize,
    },
    /// One shard of the list, in a folder of its own.
    Shard {
        /// The folder that holds the folders of all shards.
        parent: PathBuf,
        /// The shard.
        number: ShardNumber,
        /// Most rows of a segment.
        segment_rows: usize,
    },
}

impl Target {
    /// Returns the index folder; `None` for a file.
    pub fn folder(&self) -> Option<PathBuf> {
        match self {
            Target::File(_) => None,
            Target::Index { folder, .. } => Some(folder.clone()),
            Target::Shard { parent, number, .. } => Some(parent.join(number.folder())),
        }
    }
}

/// A network, its file, and the projection of its embeddings.
#[derive(Debug, Clone, Copy)]
pub struct EmbeddingSource<'s> {
    /// The file of the network.
    pub model: &'s Path,
    /// The network.
    pub network: &'s Network,
    /// A projection to fewer dimensions.
    pub projection: Option<&'s Projection>,
}

impl EmbeddingSource<'_> {
    /// Returns the length of an embedding.
    pub fn dim(&self) -> usize {
        self.projection.map_or(self.network.config.embedding_len(), Projection::dim)
    }

    /// Checks that the projection was fitted on embeddings of these weights. `allow` turns a mismatch into notes.
    ///
    /// # Errors
    /// [`Error::Data`] for a mismatch.
    pub fn check_weights(&self, projection_file: &Path, allow: bool) -> Result<Vec<String>> {
        let Some(projection) = self.projection else { return Ok(Vec::new()) };
        let own = Source { file: self.model.into(), weights_sha256: Some(self.network.weights_sha256()) };
        check_same_weights(&[own, projection.source(projection_file)], allow)
    }
}

/// Opens a target. Returns the images that it lacks, and the output to embed them into.
///
/// `inputs` are the files and folders that the images come from; the output records them.
///
/// # Errors
/// [`Error::Io`] if the target cannot be written; [`Error::Data`] if an index was made with other settings.
pub fn open_output(
    target: &Target,
    source: EmbeddingSource<'_>,
    inputs: &[PathBuf],
    images: Vec<Image>,
    request: &Request,
) -> Result<(Arc<Vec<Image>>, Output)> {
    let EmbeddingSource { model, network, projection } = source;
    let (dim, dtype) = (source.dim(), request.dtype);
    let sha256 = network.weights_sha256();
    let settings = Some(pca::settings(network, request.image_options.flip, projection));
    let inputs = inputs.iter().map(|input| walk::readable(input.as_os_str())).collect();
    let provenance = Provenance { settings, weights_sha256: Some(sha256.clone()), inputs };
    let metadata = provenance.add_to(&BTreeMap::new());
    let model = Weights { name: walk::readable(model.file_name().unwrap_or_default()), sha256 };
    let ignore_exif = request.image_options.decode.ignore_exif;
    let (folder, images, options) = match target {
        Target::File(file) => {
            let names: Vec<String> = images.iter().map(|image| image.name.clone()).collect();
            let writer = EmbeddingWriter::create(file, dim, dtype, &names, &metadata)?;
            return Ok((Arc::new(images), Output::File(writer)));
        }
        Target::Index { folder, prune, segment_rows } => {
            let options = IndexOptions { shard: None, prune: *prune, segment_rows: *segment_rows };
            (folder.clone(), images, options)
        }
        Target::Shard { parent, number, segment_rows } => {
            let (shard, images) = Shard::of_list(*number, images)?;
            let options = IndexOptions { shard: Some(shard), prune: true, segment_rows: *segment_rows };
            (parent.join(number.folder()), images, options)
        }
    };
    let origin = Origin { model, metadata, ignore_exif, dim, dtype };
    let writer = IndexWriter::open(&folder, origin, images, &options)?;
    Ok((writer.todo(), Output::Index(Box::new(writer))))
}

/// Receives embeddings.
pub enum Output {
    /// One file.
    File(EmbeddingWriter),
    /// An index folder, or a shard of it.
    Index(Box<IndexWriter>),
}

impl Output {
    fn push(&mut self, name: &str, embedding: &[f32]) -> Result<()> {
        match self {
            Output::File(writer) => writer.push(name, embedding),
            Output::Index(writer) => writer.push(name, embedding),
        }
    }

    fn skip(&mut self, name: &str) {
        if let Output::Index(writer) = self {
            writer.skip(name);
        }
    }

    /// Returns true if a run that reads no image fails. A shard may be empty, and an index may have images already.
    fn needs_rows(&self) -> bool {
        match self {
            Output::File(_) => true,
            Output::Index(writer) => !writer.is_shard() && writer.images() == 0,
        }
    }

    /// Saves what an index has so far. Returns the error to report.
    fn stop(self, error: Error) -> Error {
        let Output::Index(writer) = self else { return error };
        match writer.stop() {
            Ok(()) => error
                .with_outcome("the images embedded so far are kept; run the same command again to continue"),
            Err(error) => error,
        }
    }
}

/// Settings of [`embed`].
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// The adapter and the precision.
    pub adapter: ContextOptions,
    /// Images per batch; `None` chooses the number that fills the adapter.
    pub batch: Option<usize>,
    /// Limit of device memory in bytes; `None` takes the default of the adapter's class.
    pub memory: Option<u64>,
    /// Options for reading images.
    pub image_options: ImageOptions,
    /// Source of the images' cameras, for a network with a camera embedding or statistics.
    pub cameras: Cameras,
    /// Type of the stored values.
    pub dtype: Dtype,
    /// True to profile one batch at the end.
    pub profile: bool,
}

/// Result of embedding a list.
#[derive(Debug)]
pub struct Summary {
    /// Rows written.
    pub rows: usize,
    /// Images that could not be read.
    pub skipped: usize,
    /// Content of the index before the run.
    pub found: Option<Found>,
    /// Images in the index after the run.
    pub total: Option<usize>,
    /// Time of the first row.
    pub first: Option<Instant>,
    /// The adapter; `None` if there was nothing to embed.
    pub adapter: Option<AdapterUse>,
}

/// The adapter that embedded the images, and how it was used.
#[derive(Debug)]
pub struct AdapterUse {
    /// Name of the adapter.
    pub name: String,
    /// Images per batch.
    pub batch: usize,
    /// Device memory used, in bytes.
    pub bytes: u64,
    /// Profile of one batch, if requested.
    pub profile: Option<PlanProfile>,
}

/// Embeds images, reduces the embeddings if there is a projection, and completes the output. Rows are in the order of
/// the images; images that cannot be read have none. If the adapter is lost or runs out of memory, reopens it once and
/// continues.
///
/// # Errors
/// Those of [`Cameras::check`]; [`Error::NothingToDo`] if no image can be read; [`Error::Interrupted`] after a signal;
/// those of the adapter and of the output. After an error a file is not written, and an index keeps the rows embedded
/// so far.
pub fn embed(
    network: &Network,
    projection: Option<&Projection>,
    images: &[Image],
    output: Output,
    request: &Request,
    observer: &dyn Observer,
) -> Result<Summary> {
    let names = || images.iter().map(|image| &image.name);
    request.cameras.check(&network.config, names())?;
    request.cameras.note(&network.config, names()).iter().for_each(|note| observer.note(note));
    let found = match &output {
        Output::File(_) => None,
        Output::Index(writer) => Some(writer.found()),
    };
    let batch = request.batch;
    let mut run = Run {
        network,
        projection,
        images,
        output,
        request,
        observer,
        batch,
        first: None,
        rows: 0,
        skipped: 0,
    };
    // If an index holds all images already, no adapter is opened.
    let adapter = (!images.is_empty()).then(|| {
        retry(&request.adapter, observer, " for the rest", &mut run, Run::go, |run, error| {
            if error.is_out_of_memory() {
                run.batch = run.batch.map(|batch| batch.div_ceil(2));
            }
            Ok(run.done() as u64)
        })
    });
    let Run { output, first, skipped, .. } = run;
    let adapter = match adapter.transpose() {
        Ok(adapter) => adapter,
        Err(error) => return Err(output.stop(error)),
    };
    if skipped == images.len() && output.needs_rows() {
        return Err(Error::NothingToDo("no image could be read".to_string()));
    }
    let (rows, total) = match output {
        Output::File(writer) => (writer.finish()?, None),
        Output::Index(writer) => {
            let (rows, total) = writer.finish()?;
            (rows, Some(total))
        }
    };
    Ok(Summary { rows, skipped, found, total, first, adapter })
}

/// Progress through the list; it outlives a lost adapter.
struct Run<'r> {
    network: &'r Network,
    projection: Option<&'r Projection>,
    images: &'r [Image],
    output: Output,
    request: &'r Request,
    observer: &'r dyn Observer,
    batch: Option<usize>,
    first: Option<Instant>,
    rows: usize,
    skipped: usize,
}

impl Run<'_> {
    /// Number of images that have a row or were skipped. They come first in the list.
    fn done(&self) -> usize {
        self.rows + self.skipped
    }

    /// Embeds the remaining images. Keeps a batch that was halved in `self.batch`.
    fn go(&mut self, context: &Context) -> Result<AdapterUse> {
        let memory = self.request.memory.unwrap_or(context.default_memory());
        let mut embedder = Embedder::new(context, self.network, self.batch, memory)?;
        embedder.set_cameras(self.request.cameras.clone());
        let embedded = self.write(&mut embedder);
        let batch = embedder.batch();
        self.batch = Some(batch);
        embedded?;
        Ok(AdapterUse {
            name: context.adapter.name.clone(),
            batch,
            bytes: embedder.need().bytes(batch),
            profile: self.request.profile.then(|| embedder.profile()).transpose()?,
        })
    }

    fn write(&mut self, embedder: &mut Embedder<&Context>) -> Result<()> {
        let Run { images, request: Request { image_options, dtype, .. }, observer, .. } = *self;
        for embedded in embedder.embed_images(images[self.done()..].to_vec(), *image_options, observer) {
            match embedded? {
                (image, Err(error)) => {
                    self.skipped += 1;
                    self.output.skip(&image.name);
                    observer.skipped(&error);
                }
                (image, Ok(row)) => {
                    self.first.get_or_insert_with(Instant::now);
                    self.rows += 1;
                    let row = match self.projection {
                        Some(projection) => projection.apply(&row),
                        None => row,
                    };
                    check_finite(&image.name, &row, *dtype)?;
                    self.output.push(&image.name, &row)?;
                }
            }
        }
        Ok(())
    }
}
