//! `lat-wgpu serve`: search as a page and as a small JSON API.
//!
//! The adapter has one owner, the thread that runs the command: it takes images from a bounded queue, one at a time. A
//! second thread speaks HTTP ([`http`]) over a limited number of connections ([`connections`]) and never waits for the
//! adapter.

mod connections;
mod http;

use super::arguments::{DeviceArguments, MemoryArgument, NetworkArguments, TargetArguments};
use super::open;
use super::signals::Signals;
use crate::embeddings::gallery::{Filter, Gallery};
use crate::embeddings::rows::{Rows, Selected};
use crate::error::{Error, Result};
use crate::gpu::Context;
use crate::images::decode::{self, DecodeOptions};
use crate::images::preprocess::resize_bicubic;
use crate::kernels::topk::MAX_K;
use crate::retrieval::neighbours::{Neighbour, Neighbours};
use crate::retrieval::pca::Reduction;
use crate::shape::ImageSize;
use crate::tasks::embed::Embedder;
use crate::tasks::search::{Found, Verdicts, verdicts};
use axum::http::StatusCode;
use clap::Args;
use connections::Limits;
use http::{Job, QUEUE, Refusal, Site};
use serde_json::{Value, json};
use std::io::{ErrorKind, Write};
use std::net::TcpListener;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::mpsc;

/// What the posted image is called in an answer: it comes without a name.
const POSTED: &str = "picture";

/// `lat-wgpu serve`.
#[derive(Debug, Args)]
pub struct ServeArguments {
    #[command(flatten)]
    pub target: TargetArguments,
    /// The folder that was embedded: its images are shown [default: the inputs that the gallery carries, on this machine's own address]
    #[arg(long, value_name = "DIR")]
    pub images: Option<PathBuf>,
    /// Address to listen on; any other than this machine's own lets others search, without a password
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub host: String,
    /// Port to listen on; 0: any that is free
    #[arg(long, value_name = "N", default_value_t = 8080)]
    pub port: u16,
    /// How many of the gallery's images to list unless a request says so
    #[arg(long, value_name = "K", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=MAX_K as i64))]
    pub top: u32,
    /// Search only these images: camera=1,2 by Market-1501 names, or path=GLOB; all that are given must hold
    #[arg(long, value_name = "FILTER")]
    pub filter: Vec<Filter>,
    /// Bring the queries to the gallery's fewer numbers, by the components that `lat-wgpu reduce` found
    #[arg(long, value_name = "FILE")]
    pub reduce: Option<PathBuf>,
    #[command(flatten)]
    pub memory: MemoryArgument,
    #[command(flatten)]
    pub device: DeviceArguments,
    /// Do not turn images as their EXIF orientation says
    #[arg(long)]
    pub ignore_exif: bool,
    #[command(flatten)]
    pub network: NetworkArguments,
}

pub fn run(arguments: &ServeArguments) -> Result<ExitCode> {
    // Everything that can be wrong on the host is found before the adapter is touched.
    let place = format!("{}:{}", arguments.host, arguments.port);
    let listener = TcpListener::bind((arguments.host.as_str(), arguments.port)).map_err(|reason| {
        let hint = match reason.kind() {
            ErrorKind::AddrInUse => "another program uses the port: --port 0 takes any that is free",
            ErrorKind::PermissionDenied => "ports below 1024 take special rights: choose a larger --port",
            _ => "--host takes an address of this machine, such as 127.0.0.1",
        };
        Error::io("listen on", &place)(reason).hinted(hint)
    })?;
    let address = listener.local_addr().map_err(Error::io("listen on", &place))?;
    let network = open::network(&arguments.target.model, &arguments.network.settings())?;
    let (gallery, reduction) = arguments.target.open(&network, arguments.reduce.as_deref(), false)?;
    let gallery = Arc::new(gallery);
    let kept = gallery.filtered(&arguments.filter)?;
    let selected = Selected::new(&*gallery, kept.clone());
    // Others see images only where the user says which.
    let images = match &arguments.images {
        None if !address.ip().is_loopback() => None,
        folder => gallery.images(folder.as_deref())?,
    };
    let verdicts = verdicts(&network, gallery.is_flipped(), reduction.is_some());
    open::tell(verdicts.err().as_slice());
    if !address.ip().is_loopback() {
        eprintln!(
            "note: whoever reaches {address} can search{}: there is no password",
            if images.is_some() { " and see the gallery's images" } else { "" }
        );
    }

    let context = arguments.device.open()?;
    let memory = arguments.memory.within(&context);
    let embedder = Embedder::new(&context, &network, Some(1), memory)?;
    let left = memory.saturating_sub(embedder.need().bytes(1));
    let query = OneRow { values: Mutex::new(vec![0.0; gallery.dim()]) };
    let mut searcher = Searcher {
        neighbours: Neighbours::new(&context, &query, &selected, left)?,
        embedder,
        reduction,
        query: &query,
        gallery: &gallery,
        selected: &selected,
        verdicts,
        size: network.config.image,
        decode: DecodeOptions { ignore_exif: arguments.ignore_exif },
    };
    // Once without an image: brings the gallery to the adapter, and finds now what can't be read.
    searcher.nearest(arguments.top as usize)?;
    let model = arguments.target.model.file_name().unwrap_or_default().to_string_lossy();
    let health = json!({
        "status": "ok",
        "gallery": selected.len(),
        "model": model,
        "adapter": context.adapter.name,
        "threshold": verdicts.ok().map(|threshold| threshold.distance),
        "images": images.is_some(),
        "top": arguments.top,
    });
    // On the adapter by now.
    drop(network);

    let signals = Signals::listen()?;
    let (jobs, waiting) = mpsc::channel(QUEUE);
    let site = Site {
        jobs,
        gallery: gallery.clone(),
        kept,
        images,
        top: arguments.top as usize,
        health,
        loopback: address.ip().is_loopback(),
        searching: AtomicUsize::new(0),
        limits: Limits::new(),
    };
    // Whoever started this may have closed its end since: not worth an end.
    let _ = writeln!(std::io::stdout(), "listening on http://{address}");
    std::thread::scope(|scope| {
        let server = scope.spawn(move || http::serve(listener, site, move || signals.received().is_some()));
        let answered = searcher.answer(waiting);
        let served = server.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        answered.and(served)
    })?;
    Ok(ExitCode::SUCCESS)
}

/// The query of the moment: one row whose numbers change.
struct OneRow {
    values: Mutex<Vec<f32>>,
}

impl OneRow {
    fn set(&self, values: Vec<f32>) {
        *self.values.lock().unwrap_or_else(PoisonError::into_inner) = values;
    }
}

impl Rows for OneRow {
    fn len(&self) -> usize {
        1
    }

    fn dim(&self) -> usize {
        self.values.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn read(&self, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        if !rows.is_empty() {
            out.copy_from_slice(&self.values.lock().unwrap_or_else(PoisonError::into_inner));
        }
        Ok(())
    }
}

/// Owns the adapter: one image after the other.
struct Searcher<'c> {
    embedder: Embedder<&'c Context>,
    neighbours: Neighbours<'c>,
    reduction: Option<Reduction>,
    query: &'c OneRow,
    gallery: &'c Gallery,
    selected: &'c Selected<'c>,
    verdicts: Verdicts,
    size: ImageSize,
    decode: DecodeOptions,
}

impl Searcher<'_> {
    /// Answers until nobody can ask any more.
    ///
    /// # Errors
    /// `Gpu`: an adapter that failed doesn't come back. Everything else goes to whoever asked.
    fn answer(&mut self, mut waiting: mpsc::Receiver<Job>) -> Result<()> {
        while let Some(Job { bytes, top, answer }) = waiting.blocking_recv() {
            // Hung up meanwhile.
            if answer.is_closed() {
                continue;
            }
            let (reply, end) = match self.search(&bytes, top) {
                Ok(reply) => (reply, Ok(())),
                Err(error) => {
                    eprintln!("error: {error}");
                    let refusal = Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string());
                    (
                        Err(refusal),
                        if matches!(error.plain(), Error::Gpu(_)) && !error.is_out_of_memory() {
                            Err(error)
                        } else {
                            Ok(())
                        },
                    )
                }
            };
            // Hung up meanwhile: nobody minds.
            let _ = answer.send(reply);
            end?;
        }
        Ok(())
    }

    /// What `lat-wgpu search --json` writes for one query, or what is wrong with the image.
    fn search(&mut self, bytes: &[u8], top: usize) -> Result<std::result::Result<Value, Refusal>> {
        let image = match decode::decode(bytes, self.decode) {
            Ok(image) => resize_bicubic(&image, self.size),
            Err(reason) => {
                let reason = format!("the image {reason}");
                return Ok(Err(Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, reason)));
            }
        };
        let row = self.embedder.embed(&[image])?;
        self.query.set(match &self.reduction {
            Some(reduction) => reduction.apply(&row),
            None => row,
        });
        let list = self.nearest(top)?;
        let mut found = Found::new(self.verdicts, self.selected);
        found.add(POSTED, Path::new(""), &list, self.gallery, self.selected);
        Ok(Ok(found.json()))
    }

    /// The rows nearest to the query of the moment.
    fn nearest(&mut self, top: usize) -> Result<Vec<Neighbour>> {
        Ok(self.neighbours.nearest(0..1, top)?.pop().unwrap_or_default())
    }
}
