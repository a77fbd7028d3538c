//! The images of a list to a file of embeddings, or into an index folder.

use super::{Embedder, LookOptions};
use crate::checkpoint::Network;
use crate::embeddings::index::{Found, IndexWriter};
use crate::embeddings::{Dtype, EmbeddingWriter, check_finite};
use crate::error::{Error, Result};
use crate::gpu::{Context, ContextOptions, PlanProfile};
use crate::images::walk::Image;
use crate::observer::Observer;
use crate::retrieval::pca::Reduction;
use crate::retry::retry;
use std::time::Instant;

/// Where rows go.
pub enum Output {
    /// Into one file.
    File(EmbeddingWriter),
    /// Into an index folder, or a shard of it.
    Index(Box<IndexWriter>),
}

impl Output {
    fn push(&mut self, name: &str, vector: &[f32]) -> Result<()> {
        match self {
            Output::File(writer) => writer.push(name, vector),
            Output::Index(writer) => writer.push(name, vector),
        }
    }

    fn skip(&mut self, name: &str) {
        if let Output::Index(writer) = self {
            writer.skip(name);
        }
    }

    /// Returns whether a run that read no image failed: a shard may be empty, and an index may have images already.
    fn needs_rows(&self) -> bool {
        match self {
            Output::File(_) => true,
            Output::Index(writer) => !writer.is_shard() && writer.images() == 0,
        }
    }

    /// Leaves what an index has so far in a readable state; returns the error with what became of it.
    fn stop(self, error: Error) -> Error {
        let Output::Index(writer) = self else { return error };
        match (writer.stop(), error) {
            (Ok(()), Error::Interrupted { signal, .. }) => Error::Interrupted {
                signal,
                outcome: "what was embedded so far is kept; run it again to go on",
            },
            (Ok(()), error) => error,
            (Err(error), _) => error,
        }
    }
}

/// How images are embedded.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// The adapter, and the precision.
    pub device: ContextOptions,
    /// Images at once; `None`: as many as fill the adapter.
    pub batch: Option<usize>,
    /// Device memory to stay within, in bytes; `None`: what the adapter's class suggests.
    pub memory: Option<u64>,
    /// How images are looked at.
    pub look: LookOptions,
    /// How numbers are stored.
    pub dtype: Dtype,
    /// True to time the launches of a batch at the end.
    pub profile: bool,
}

/// Result of embedding a list.
#[derive(Debug)]
pub struct Embedded {
    /// Rows that were written.
    pub rows: usize,
    /// Images that could not be read.
    pub skipped: usize,
    /// Content of an index before the run.
    pub found: Option<Found>,
    /// Images that are in an index now.
    pub total: Option<usize>,
    /// When the first row came.
    pub first: Option<Instant>,
    /// The adapter that did it; `None` if there was nothing to do.
    pub device: Option<Device>,
}

/// The adapter that embedded images.
#[derive(Debug)]
pub struct Device {
    /// Its name.
    pub adapter: String,
    /// Images at once.
    pub batch: usize,
    /// Its memory that was used, in bytes.
    pub bytes: u64,
    /// Times of the launches of a batch, if they were asked for.
    pub profile: Option<PlanProfile>,
}

/// Embeds images, reduced if there are components, and completes the output; the rows are those of the images that can
/// be read, in their order. If the adapter is lost or finds no memory, it is opened anew for the rest.
///
/// # Errors
/// [`Error::NothingToDo`] if no image can be read; [`Error::Interrupted`] after a signal; those of the adapter, and of the
/// output, which then has no new rows, or those of an index so far.
pub fn embed(
    network: &Network,
    reduction: Option<&Reduction>,
    images: &[Image],
    output: Output,
    request: &Request,
    observer: &dyn Observer,
) -> Result<Embedded> {
    let found = match &output {
        Output::File(_) => None,
        Output::Index(writer) => Some(writer.found()),
    };
    let batch = request.batch;
    let mut run = Run {
        network,
        reduction,
        images,
        output,
        request,
        observer,
        batch,
        first: None,
        rows: 0,
        skipped: 0,
    };
    // An index may have everything already: then no adapter is needed.
    let device = (!images.is_empty()).then(|| {
        retry(&request.device, observer, " for the rest", &mut run, Run::go, |run, error| {
            if error.is_out_of_memory() {
                run.batch = run.batch.map(|batch| batch.div_ceil(2));
            }
            Ok(run.done() as u64)
        })
    });
    let Run { output, first, skipped, .. } = run;
    let device = match device.transpose() {
        Ok(device) => device,
        Err(error) => return Err(output.stop(error)),
    };
    if skipped == images.len() && output.needs_rows() {
        return Err(Error::NothingToDo(format!("none of {skipped} images could be read")));
    }
    let (rows, total) = match output {
        Output::File(writer) => (writer.finish()?, None),
        Output::Index(writer) => {
            let (rows, total) = writer.finish()?;
            (rows, Some(total))
        }
    };
    Ok(Embedded { rows, skipped, found, total, first, device })
}

/// A list on its way.
struct Run<'r> {
    network: &'r Network,
    reduction: Option<&'r Reduction>,
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
    /// Images that have a row or were skipped: the first ones of the list.
    fn done(&self) -> usize {
        self.rows + self.skipped
    }

    /// Embeds the rest; leaves in `batch` what it came to.
    fn go(&mut self, context: &Context) -> Result<Device> {
        let memory = self.request.memory.unwrap_or(context.default_memory());
        let mut embedder = Embedder::new(context, self.network, self.batch, memory)?;
        let embedded = self.write(&mut embedder);
        let batch = embedder.batch();
        self.batch = Some(batch);
        embedded?;
        Ok(Device {
            adapter: context.adapter.name.clone(),
            batch,
            bytes: embedder.need().bytes(batch),
            profile: self.request.profile.then(|| embedder.profile()).transpose()?,
        })
    }

    fn write(&mut self, embedder: &mut Embedder<&Context>) -> Result<()> {
        let Run { images, request: Request { look, dtype, .. }, observer, .. } = *self;
        for row in embedder.rows(images[self.done()..].to_vec(), *look, observer) {
            match row? {
                (image, Err(error)) => {
                    self.skipped += 1;
                    self.output.skip(&image.name);
                    observer.skipped(&error);
                }
                (image, Ok(row)) => {
                    self.first.get_or_insert_with(Instant::now);
                    self.rows += 1;
                    let row = match self.reduction {
                        Some(reduction) => reduction.apply(&row),
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
