//! `lat-wgpu serve`: search as a page and as a small JSON API, which also embeds.
//!
//! The thread that runs the command owns the adapter. It takes jobs from a bounded queue, and embeds the images of all
//! that wait at once. A second thread speaks HTTP ([`http`]) over a limited number of connections ([`connections`]) and never waits for the
//! adapter.

mod connections;
mod http;
mod posted;

use super::arguments::{
    CameraArgument, DeviceArguments, MemoryArgument, NetworkArguments, ReductionArguments, TargetArguments,
};
use super::open;
use super::progress::Progress;
use super::signals::Signals;
use crate::embeddings::gallery::Filter;
use crate::embeddings::rows::{Rows, Selected};
use crate::error::{Error, Result};
use crate::gpu::Context;
use crate::images::decode::{DecodeOptions, Rgb};
use crate::kernels::topk::MAX_K;
use crate::retry::retry;
use crate::tasks::embed::ImageOptions;
use crate::tasks::search::{Query, Request, Searcher, verdicts};
use axum::http::StatusCode;
use clap::Args;
use connections::Limits;
use http::{DECODERS, Embeddings, Job, QUEUE, Refusal, Site};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::io::{ErrorKind, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use tokio::sync::{Semaphore, mpsc};

/// Name of the posted image in an answer: the request has none.
const POSTED: &str = "image";

/// `lat-wgpu serve`.
#[derive(Debug, Args)]
pub struct ServeArguments {
    #[command(flatten)]
    pub target: TargetArguments,
    /// Embedded folder, to show its images [default: the inputs recorded in the gallery, on a loopback address]
    #[arg(long, value_name = "DIR")]
    pub images: Option<PathBuf>,
    /// Address to listen on; any but a loopback address lets others search, without a password
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub host: String,
    /// Port to listen on; 0 for any free port
    #[arg(long, value_name = "N", default_value_t = 8080)]
    pub port: u16,
    /// Number of gallery images to list unless a request asks for another
    #[arg(long, value_name = "K", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=MAX_K as i64))]
    pub top: u32,
    /// Searches only these images: camera=1,2 by Market-1501 names, or path=GLOB; may be repeated, all must match
    #[arg(long, value_name = "FILTER")]
    pub filter: Vec<Filter>,
    #[command(flatten)]
    pub reduction: ReductionArguments,
    #[command(flatten)]
    pub memory: MemoryArgument,
    #[command(flatten)]
    pub device: DeviceArguments,
    /// Ignores the EXIF orientation of images
    #[arg(long)]
    pub ignore_exif: bool,
    #[command(flatten)]
    pub camera: CameraArgument,
    #[command(flatten)]
    pub network: NetworkArguments,
}

pub fn run(arguments: &ServeArguments) -> Result<ExitCode> {
    // Errors on the host are found before the adapter is opened.
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
    let model = arguments.target.model.file()?;
    let network = open::network(&model, &arguments.camera.settings(&arguments.network))?;
    // Posted images have no name that says their camera.
    let posted = ["a posted image".to_string()];
    arguments.camera.cameras().check(&network.config, &posted)?;
    if arguments.camera.cameras().note(&network.config, &posted).is_some() {
        eprintln!(
            "note: the mean of all images is subtracted from posted ones; --camera NAME takes a camera's"
        );
    }
    let (gallery, projection) = arguments.target.open(&model, &network, &arguments.reduction, false)?;
    let gallery = Arc::new(gallery);
    let kept = gallery.filtered(&arguments.filter)?;
    let selected = Selected::new(&*gallery, kept.clone());
    // Other machines see images only with --images.
    let images = match &arguments.images {
        None if !address.ip().is_loopback() => None,
        folder => gallery.images(folder.as_deref())?,
    };
    if images.is_none() {
        open::print_notes(&[open::NO_IMAGES]);
    }
    let verdicts = verdicts(&network, gallery.is_flipped(), projection.is_some());
    open::print_notes(verdicts.err().as_slice());
    if !address.ip().is_loopback() {
        eprintln!(
            "note: whoever reaches {address} can search{}: there is no password",
            if images.is_some() { " and see the gallery's images" } else { "" }
        );
    }

    let request = Request {
        network: &network,
        projection: projection.as_ref(),
        adapter: arguments.device.options(),
        memory: arguments.memory.memory,
        image_options: ImageOptions {
            decode: DecodeOptions { ignore_exif: arguments.ignore_exif },
            flip: false,
        },
        expansion: None,
        cameras: arguments.camera.cameras(),
        top: arguments.top as usize,
        verdicts,
    };
    let (jobs, waiting) = mpsc::channel(QUEUE);
    let site = Site {
        jobs,
        gallery: gallery.clone(),
        kept,
        images,
        top: request.top,
        decode: request.image_options.decode,
        size: network.config.image,
        decoders: Semaphore::new(DECODERS),
        health: Value::Null,
        loopback: address.ip().is_loopback(),
        searching: AtomicUsize::new(0),
        limits: Limits::new(),
    };
    let model = arguments.target.model.shown().file_name().unwrap_or_default().to_string_lossy();
    let mut unstarted = Some((listener, site));
    let mut queue = Queue { waiting, unanswered: VecDeque::new(), answered: 0 };
    std::thread::scope(|scope| {
        let mut server = None;
        let work = |queue: &mut Queue, context: &Context| {
            let query = Query::new(gallery.dim());
            let mut searcher = Searcher::new(context, &query, &gallery, &selected, &request)?;
            if let Some((listener, mut site)) = unstarted.take() {
                site.health = json!({
                    "status": "ok",
                    "gallery": selected.len(),
                    "dim": gallery.dim(),
                    "model": model,
                    "adapter": context.adapter.name,
                    "threshold": verdicts.ok().map(|threshold| threshold.distance),
                    "false_match_rate": verdicts.ok().map(|threshold| threshold.fpr),
                    "images": site.images.is_some(),
                    "top": request.top,
                });
                let signals = Signals::listen()?;
                // A closed stdout does not stop the server.
                let _ = writeln!(std::io::stdout(), "listening on http://{address}");
                server = Some(
                    scope.spawn(move || http::serve(listener, site, move || signals.received().is_some())),
                );
            }
            queue.answer(&mut searcher)
        };
        let progress = Progress::new(None);
        let answered = retry(
            &request.adapter,
            &progress,
            ", and the last search is repeated",
            &mut queue,
            work,
            |queue, _| Ok(queue.answered),
        );
        // The server ends when nobody takes its jobs.
        queue.close(&answered);
        let served = server
            .map_or(Ok(()), |server| server.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        answered.and(served)
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Jobs that wait for the adapter. They outlive a lost adapter.
struct Queue {
    waiting: mpsc::Receiver<Job>,
    /// Jobs that were received, oldest first.
    unanswered: VecDeque<Job>,
    /// Number of jobs done.
    answered: u64,
}

impl Queue {
    /// Answers jobs until the server ends.
    ///
    /// # Errors
    /// A failure of the adapter. Other errors go to the client that sent the job.
    fn answer(&mut self, searcher: &mut Searcher<'_>) -> Result<()> {
        loop {
            if self.unanswered.is_empty() {
                let Some(job) = self.waiting.blocking_recv() else { return Ok(()) };
                self.unanswered.push_back(job);
            }
            while let Ok(job) = self.waiting.try_recv() {
                self.unanswered.push_back(job);
            }
            // The others' clients have hung up.
            self.unanswered.retain(|job| !job.is_closed());
            let taken = match self.unanswered.front() {
                None => continue,
                Some(Job::Search { image, top, .. }) => {
                    let found = reply(searcher.search(POSTED, image, *top))?;
                    if let Some(Job::Search { answer, .. }) = self.unanswered.pop_front() {
                        // Fails if the client has hung up.
                        let _ = answer.send(found.map(|found| found.json()));
                    }
                    1
                }
                Some(Job::Embed { .. }) => self.embed(searcher)?,
            };
            self.answered += taken;
        }
    }

    /// Embeds the images of all jobs that wait for it. Returns their number.
    fn embed(&mut self, searcher: &mut Searcher<'_>) -> Result<u64> {
        let images: Vec<&Rgb> = self.unanswered.iter().filter_map(Job::images).flatten().collect();
        let embedded = reply(searcher.embed(&images))?;
        let dim = searcher.dim();
        let jobs = std::mem::take(&mut self.unanswered);
        let (mut taken, mut start) = (0, 0);
        for job in jobs {
            match job {
                Job::Embed { images, answer } => {
                    let range = start..start + images.len() * dim;
                    start = range.end;
                    taken += 1;
                    let own = |rows: &Vec<f32>| Embeddings { dim, rows: rows[range].to_vec() };
                    let _ = answer.send(embedded.as_ref().map(own).map_err(Refusal::clone));
                }
                search => self.unanswered.push_back(search),
            }
        }
        Ok(taken)
    }

    /// Refuses the jobs that are left, after an error.
    fn close(self, answered: &Result<()>) {
        let Err(error) = answered else { return };
        for job in self.unanswered {
            job.refuse(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()));
        }
    }
}

/// A result for the client.
///
/// # Errors
/// A failure of the adapter, after which the job is repeated.
fn reply<T>(done: Result<T>) -> Result<std::result::Result<T, Refusal>> {
    match done {
        Ok(value) => Ok(Ok(value)),
        Err(error) if matches!(error.plain(), Error::Gpu(_)) && !error.is_out_of_memory() => Err(error),
        Err(error) => {
            errorln!("error: {error}");
            Ok(Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())))
        }
    }
}
