//! A network on an adapter. A separate thread owns both: calls from Python send it work and wait for the result without
//! the interpreter's lock, so no reference is shared and signals are handled while a call waits.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::thread::JoinHandle;
use std::time::Duration;

use lat_wgpu::checkpoint::{self, Network, Settings};
use lat_wgpu::datasets::cameras::{Cameras, NO_CAMERA};
use lat_wgpu::datasets::{LoadOptions, TestSet};
use lat_wgpu::embeddings::Embeddings;
use lat_wgpu::embeddings::gallery::{Gallery, holds_embeddings};
use lat_wgpu::embeddings::rows::Rows;
use lat_wgpu::error::{Error, Result};
use lat_wgpu::gpu::{Context, ContextOptions, Precision};
use lat_wgpu::images::decode::DecodeOptions;
use lat_wgpu::observer::Observer;
use lat_wgpu::retrieval::combined::ExpansionOptions;
use lat_wgpu::retrieval::metrics::Rules;
use lat_wgpu::retrieval::rerank::RerankOptions;
use lat_wgpu::shape::ImageSize;
use lat_wgpu::storage::json;
use lat_wgpu::tasks::embed::{Embedder, ImageOptions, Source};
use lat_wgpu::tasks::evaluate::{self, Outcome, embed_and_evaluate};
use lat_wgpu::tasks::explain;
use lat_wgpu::tasks::models;
use lat_wgpu::tasks::search::{self, check_fits, check_weights, matches, verdicts};
use lat_wgpu::tasks::trained_on::TrainedOn;
use numpy::{PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray2};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::call::{Call, Listener, parsed};
use crate::errors::{exception, usage};
use crate::images::{Given, Images, image_of, path_of};
use crate::results::{Explanation, Match, Ranking};

/// Images that were taken from Python and that no thread decodes yet.
const TAKEN_AHEAD: usize = 4;

/// Arguments of [`Model::new`].
struct Opening {
    path: PathBuf,
    adapter: Option<String>,
    precision: Precision,
    batch_size: Option<usize>,
    flip: bool,
    camera: Option<String>,
}

/// Properties of an open network.
struct Opened {
    dim: usize,
    size: ImageSize,
    batch_size: usize,
    adapter: String,
    notes: Vec<String>,
}

/// The network and the adapter, on their thread.
struct Engine<'c> {
    /// The model as the user named it.
    named: PathBuf,
    file: PathBuf,
    network: Network,
    context: &'c Context,
    embedder: Embedder<&'c Context>,
    image_options: ImageOptions,
    camera: Option<String>,
}

/// Work for the engine's thread.
type Job = Box<dyn FnOnce(&mut Engine<'_>) + Send>;

/// Rows of images.
#[derive(Default)]
struct Embedded {
    rows: Vec<f32>,
    /// The file of each row, if it has one.
    files: Vec<Option<PathBuf>>,
    /// The place of each row's image among all images.
    places: Vec<usize>,
    /// Places of images that couldn't be read.
    skipped: Vec<(usize, Error)>,
}

impl Embedded {
    /// Rows with names for messages.
    fn embeddings(&mut self, dim: usize) -> Embeddings {
        let name = |file: &Option<PathBuf>| {
            file.as_deref().map_or(String::new(), |file| file.to_string_lossy().into_owned())
        };
        Embeddings { paths: self.files.iter().map(name).collect(), dim, rows: std::mem::take(&mut self.rows) }
    }
}

/// The gallery of a search.
enum Searched {
    Stored(PathBuf),
    InMemory(Embeddings),
}

/// The lists of a search, with the share of strangers who are as near as each match.
type Lists = Vec<Vec<(search::Match, Option<f64>)>>;

impl Engine<'_> {
    /// Returns the source of the cameras of images.
    fn cameras(&self, given: Option<&str>) -> Result<Cameras> {
        let cameras = Cameras::given(given.or(self.camera.as_deref()));
        if given.is_some() {
            cameras.check(&self.network.config, &[String::new()])?;
        }
        Ok(cameras)
    }

    /// Embeds images as they arrive. Without `skips` the first that can't be read is an error.
    fn embed(
        &mut self,
        images: Receiver<Given>,
        total: usize,
        skips: bool,
        camera: Option<&str>,
        listener: &Listener,
    ) -> Result<Embedded> {
        self.embedder.set_cameras(self.cameras(camera)?);
        let mut embedded = Embedded::default();
        let rows = self.embedder.embed_each(images, total, self.image_options, listener);
        for (place, row) in rows.enumerate() {
            match row? {
                (image, Ok(row)) => {
                    embedded.rows.extend(row);
                    embedded.files.push(image.path().map(PathBuf::from));
                    embedded.places.push(place);
                }
                (_, Err(error)) if skips => {
                    listener.skipped(&error);
                    embedded.skipped.push((place, error));
                }
                (_, Err(error)) => return Err(error),
            }
        }
        Ok(embedded)
    }

    fn search(
        &self,
        gallery: &Searched,
        queries: &Embeddings,
        top: usize,
        listener: &Listener,
    ) -> Result<Lists> {
        let network = &self.network;
        let flip = self.image_options.flip;
        let stored = match gallery {
            Searched::Stored(path) => {
                let stored = Gallery::open(path)?;
                for note in check_weights(&self.file, network, &stored, None, false)? {
                    listener.note(&note);
                }
                check_fits(&stored, network, None, flip)?;
                Some(stored)
            }
            Searched::InMemory(_) => None,
        };
        let is_flipped = flip || stored.as_ref().is_some_and(Gallery::is_flipped);
        let (rows, names): (&dyn Rows, &[String]) = match (&stored, gallery) {
            (Some(stored), _) => (stored, stored.names()),
            (None, Searched::InMemory(embeddings)) => (embeddings, &embeddings.paths),
            (None, Searched::Stored(_)) => return Ok(Vec::new()),
        };
        let verdicts = verdicts(network, is_flipped, false);
        let rate = |found: &search::Match| verdicts.ok().and_then(|_| network.match_rate(found.distance));
        let mut lists = Vec::new();
        let limits = (top, self.context.default_memory());
        search::nearest(self.context, queries, rows, limits, listener, |_, list| {
            let found = matches(list, names, verdicts).into_iter();
            lists.push(found.map(|found| (found.clone(), rate(&found))).collect());
        })?;
        Ok(lists)
    }

    /// Returns scores as JSON.
    fn evaluate(&self, data: &Path, request: &evaluate::Request, listener: &Listener) -> Result<String> {
        let set = TestSet::load(data, &LoadOptions::default(), request.rules.across_cameras())?;
        let trained_on = TrainedOn::read(&self.file, &self.network)?;
        let overlap = trained_on.map(|images| images.overlap(&set));
        for warning in overlap.iter().flat_map(|overlap| overlap.warnings()) {
            listener.warn(&format!("{}: {warning}", set.name));
        }
        let request = evaluate::Request {
            batch: Some(self.embedder.batch()),
            image_options: self.image_options,
            camera: self.camera.clone(),
            ..request.clone()
        };
        let outcome = embed_and_evaluate(&set, &self.network, self.context, &request, listener)?;
        let outcomes = [Outcome { overlap, ..outcome }];
        Ok(json::text(&request.json(&outcomes, &[], Some(&self.named))))
    }

    fn explain(&self, image: Given, camera: Option<&str>) -> Result<Explanation> {
        let config = &self.network.config;
        let row = self.cameras(camera)?.row(config, image.name())?;
        let image = image.read()?;
        let shares = explain::explain(self.context, &self.network, &image, row)?;
        let drawing = explain::draw(&image, config, &shares);
        Ok(Explanation { shares, grid: config.grid(), drawing })
    }
}

/// Opens a network, sends its properties, and serves jobs until all senders are gone.
fn serve(
    opening: Opening,
    ready: &Sender<Result<Opened>>,
    listener: Listener,
    jobs: &Receiver<Job>,
) -> Result<()> {
    let Opening { path: named, adapter, precision, batch_size, flip, camera } = opening;
    let file = models::file(&named, false, &listener)?;
    let no_cameras = camera.as_deref() == Some(NO_CAMERA);
    let network = checkpoint::load(&file, &Settings { no_cameras, ..Settings::default() })?;
    if camera.is_some() {
        Cameras::given(camera.as_deref()).check(&network.config, &[String::new()])?;
    }
    let options = ContextOptions::from_environment(adapter);
    let context = &Context::open(&ContextOptions { precision, ..options })?;
    let embedder = Embedder::new(context, &network, batch_size, context.default_memory())?;
    let opened = Opened {
        dim: embedder.dim(),
        size: network.config.image,
        batch_size: embedder.batch(),
        adapter: context.adapter.name.clone(),
        notes: network.notes.clone(),
    };
    let image_options = ImageOptions { decode: DecodeOptions::default(), flip };
    let mut engine = Engine { named, file, network, context, embedder, image_options, camera };
    // If the caller is gone, so is the sender of jobs.
    let _ = ready.send(Ok(opened));
    drop(listener);
    for job in jobs {
        job(&mut engine);
    }
    Ok(())
}

/// Reads `on_error`: true to skip images that can't be read.
fn skips(py: Python<'_>, on_error: &str) -> PyResult<bool> {
    match on_error {
        "raise" => Ok(false),
        "skip" => Ok(true),
        other => Err(usage(py, format!("on_error must be \"raise\" or \"skip\", not {other:?}"))),
    }
}

/// A model on an adapter.
///
/// model: a .safetensors file, a name that `lat-wgpu models` lists, or hf:OWNER/NAME. A name may download the model
///     once. None takes the model that the command line takes without --model.
/// adapter: part of the adapter's name, as listed by `lat-wgpu info`; None takes the best one.
/// precision: "f32", or "f16" for weights and activations of 2 bytes.
/// batch_size: images at once; None fills the adapter. Embeddings don't depend on it.
/// flip: takes the mean of the embeddings of each image and its mirror image.
/// camera: camera of all images, for a model with a camera embedding or statistics; "none" for no camera's row. None
///     takes the cameras from the images' names.
#[pyclass(frozen, module = "lat_wgpu")]
pub struct Model {
    name: PathBuf,
    /// `None` only during drop.
    jobs: Option<Sender<Job>>,
    worker: Option<JoinHandle<()>>,
    /// The process that opened it, since threads don't survive a fork.
    process: u32,
    opened: Opened,
}

impl Drop for Model {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(worker) = self.worker.take().filter(|_| self.process == std::process::id()) {
            // A panic was printed when it happened.
            let _ = worker.join();
        }
    }
}

impl Model {
    /// Sends work to the engine. Returns the call and the receiver of the result.
    fn begin<'py, T: Send + 'static>(
        &self,
        py: Python<'py>,
        progress: bool,
        work: impl FnOnce(&mut Engine<'_>, &Listener) -> Result<T> + Send + 'static,
    ) -> PyResult<(Call<'py>, Receiver<Result<T>>)> {
        if self.process != std::process::id() {
            return Err(PyRuntimeError::new_err(
                "this model was opened before the process forked: open it in each process",
            ));
        }
        let (call, listener) = Call::new(py, progress, None);
        let (reply, result) = mpsc::channel();
        if let Some(jobs) = &self.jobs {
            // Without a receiver the listener is dropped, which the call reports.
            let _ = jobs.send(Box::new(move |engine| {
                let _ = reply.send(work(engine, &listener));
                drop(listener);
            }));
        }
        Ok((call, result))
    }

    fn embed_images(
        &self,
        given: &Bound<'_, PyAny>,
        on_error: &str,
        progress: bool,
        camera: Option<String>,
    ) -> PyResult<Embedded> {
        let py = given.py();
        let skips = skips(py, on_error)?;
        let mut images = Images::of(given)?;
        let total = images.total;
        let (feed, taken): (SyncSender<Given>, _) = mpsc::sync_channel(TAKEN_AHEAD);
        let (mut call, result) = self.begin(py, progress, move |engine, listener| {
            engine.embed(taken, total, skips, camera.as_deref(), listener)
        })?;
        while !call.has_failed() {
            match images.next() {
                Ok(Some(image)) => {
                    // Waits for the adapter. Fails when the work has ended.
                    if py.detach(|| feed.send(image)).is_err() || !call.listen(Duration::ZERO)? {
                        break;
                    }
                }
                Ok(None) => break,
                Err(error) => call.fail(error),
            }
        }
        drop(feed);
        call.finish(&result)
    }

    /// Takes embeddings as they are, and embeds anything else.
    fn rows(
        &self,
        given: &Bound<'_, PyAny>,
        on_error: &str,
        progress: bool,
        camera: Option<String>,
    ) -> PyResult<(Embeddings, Embedded)> {
        let mut embedded = match given.extract::<PyReadonlyArray2<'_, f32>>() {
            Ok(array) => {
                let view = array.as_array();
                let (count, dim) = view.dim();
                if dim != self.opened.dim {
                    return Err(usage(
                        given.py(),
                        format!(
                            "embeddings have {dim} dimensions, those of the model have {}",
                            self.opened.dim
                        ),
                    ));
                }
                let rows = view.iter().copied().collect();
                Embedded { rows, files: vec![None; count], places: (0..count).collect(), skipped: Vec::new() }
            }
            Err(_) => self.embed_images(given, on_error, progress, camera)?,
        };
        Ok((embedded.embeddings(self.opened.dim), embedded))
    }
}

#[pymethods]
impl Model {
    #[new]
    #[pyo3(signature = (model=None, adapter=None, precision="f32", batch_size=None, flip=false, camera=None, *, progress=false))]
    #[expect(clippy::too_many_arguments, reason = "keywords of Python")]
    fn new(
        py: Python<'_>,
        model: Option<PathBuf>,
        adapter: Option<String>,
        precision: &str,
        batch_size: Option<usize>,
        flip: bool,
        camera: Option<String>,
        progress: bool,
    ) -> PyResult<Model> {
        // Otherwise the first array would, where a signal that arrives meanwhile is a panic.
        py.import("numpy")?;
        let precision = match precision {
            "f32" => Precision::F32,
            "f16" => Precision::F16,
            other => {
                return Err(usage(py, format!("precision must be \"f32\" or \"f16\", not {other:?}")));
            }
        };
        if batch_size == Some(0) {
            return Err(usage(py, "batch_size must be at least 1"));
        }
        let path = model.unwrap_or_else(|| models::default().name.into());
        let opening = Opening { path: path.clone(), adapter, precision, batch_size, flip, camera };
        let (call, listener) = Call::new(py, progress, None);
        let (jobs, received) = mpsc::channel();
        let (ready, opened) = mpsc::channel();
        let worker = std::thread::Builder::new().name("lat-wgpu".to_string()).spawn(move || {
            if let Err(error) = serve(opening, &ready, listener, &received) {
                let _ = ready.send(Err(error));
            }
        })?;
        let opened = call.finish(&opened)?;
        Ok(Model { name: path, jobs: Some(jobs), worker: Some(worker), process: std::process::id(), opened })
    }

    /// Opens a model: as Model(path, …).
    #[staticmethod]
    #[pyo3(signature = (path, adapter=None, precision="f32", batch_size=None))]
    fn open(
        py: Python<'_>,
        path: PathBuf,
        adapter: Option<String>,
        precision: &str,
        batch_size: Option<usize>,
    ) -> PyResult<Model> {
        Model::new(py, Some(path), adapter, precision, batch_size, false, None, false)
    }

    /// Embeds images: float32 (N, D), one row per image in order.
    ///
    /// images: a path of a file or folder; an image of Pillow; uint8 RGB pixels (N, H, W, 3); or an iterable of paths,
    ///     images of Pillow and uint8 arrays (H, W, 3), which may be mixed and of any sizes. An iterator is read a few
    ///     batches ahead. A folder is all images that `list_images` lists.
    /// on_error: "raise" raises ImageError for the first image that can't be read. "skip" leaves such images out and
    ///     returns (embeddings, skipped): a dict of their places, from 0, with the exceptions.
    /// progress: shows a bar on stderr if that is a terminal.
    /// camera: camera of these images, in place of the model's.
    #[pyo3(signature = (images, on_error="raise", progress=false, camera=None))]
    fn embed<'py>(
        &self,
        py: Python<'py>,
        images: &Bound<'py, PyAny>,
        on_error: &str,
        progress: bool,
        camera: Option<String>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let Embedded { rows, places, skipped, .. } = self.embed_images(images, on_error, progress, camera)?;
        let rows: Bound<'py, PyArray2<f32>> =
            PyArray1::from_vec(py, rows).reshape([places.len(), self.opened.dim])?;
        if !skips(py, on_error)? {
            return Ok(rows.into_any());
        }
        let errors = PyDict::new(py);
        for (place, error) in &skipped {
            errors.set_item(place, exception(py, error)?)?;
        }
        Ok((rows, errors).into_pyobject(py)?.into_any())
    }

    /// Finds the images of a gallery that are nearest to each query: a list of Ranking, one per query in order.
    ///
    /// gallery: a file or index folder of `lat-wgpu embed`, embeddings as float32 (N, D), or images as `embed` takes.
    /// queries: images as `embed` takes, or embeddings as float32 (N, D).
    /// top: number of matches per query.
    /// on_error: "raise", or "skip" for images that can't be read, which are logged: such a query has no Ranking.
    /// progress: shows a bar on stderr if that is a terminal.
    /// camera: camera of these images, in place of the model's.
    #[pyo3(signature = (gallery, queries, top=10, on_error="raise", progress=false, camera=None))]
    #[expect(clippy::too_many_arguments, reason = "keywords of Python")]
    fn search(
        &self,
        py: Python<'_>,
        gallery: &Bound<'_, PyAny>,
        queries: &Bound<'_, PyAny>,
        top: usize,
        on_error: &str,
        progress: bool,
        camera: Option<String>,
    ) -> PyResult<Vec<Ranking>> {
        let stored = path_of(gallery)?.filter(|path| holds_embeddings(path));
        let (searched, images) = match stored {
            Some(path) => (Searched::Stored(path), None),
            None => {
                let (rows, images) = self.rows(gallery, on_error, progress, camera.clone())?;
                (Searched::InMemory(rows), Some(images))
            }
        };
        let (asked, about) = self.rows(queries, on_error, progress, camera)?;
        let (call, result) = self
            .begin(py, progress, move |engine, listener| engine.search(&searched, &asked, top, listener))?;
        let lists = call.finish(&result)?;
        let of = |(found, rate): (search::Match, Option<f64>)| {
            let search::Match { row, path, distance, same, .. } = found;
            let (row, path) = match &images {
                Some(images) => (images.places[row], images.files[row].as_ref().map(|_| path)),
                None => (row, Some(path)),
            };
            Match { row, path, distance, same, false_match_rate: rate }
        };
        let rankings = about.files.into_iter().zip(lists);
        Ok(rankings.map(|(query, list)| Ranking::new(query, list.into_iter().map(of))).collect())
    }

    /// Scores the model on a data set: a dict with the keys of `lat-wgpu eval --json`, such as rank1, map and minp,
    /// which are shares from 0 to 1.
    ///
    /// data: folder of a data set, or a table of images (.csv).
    /// ignore_cameras: counts images of the same person by the same camera as matches.
    /// rerank: re-ranks by k-reciprocal encoding.
    /// query_expansion: replaces queries by weighted sums of their nearest gallery images.
    /// fpr: false positive rate to find a distance threshold for.
    /// progress: shows a bar on stderr if that is a terminal.
    #[pyo3(signature = (data, *, ignore_cameras=false, rerank=false, query_expansion=false, fpr=None, progress=false))]
    #[expect(clippy::too_many_arguments, reason = "keywords of Python")]
    fn evaluate<'py>(
        &self,
        py: Python<'py>,
        data: PathBuf,
        ignore_cameras: bool,
        rerank: bool,
        query_expansion: bool,
        fpr: Option<f64>,
        progress: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        if fpr.is_some_and(|fpr| !(0.0..=1.0).contains(&fpr)) {
            return Err(usage(py, "fpr must be a number from 0 to 1"));
        }
        let request = evaluate::Request {
            rules: Rules { ignore_cameras, ..Rules::default() },
            rerank: rerank.then(RerankOptions::default),
            expansion: query_expansion.then(ExpansionOptions::default),
            false_positive_rate: fpr,
            ..evaluate::Request::default()
        };
        let (call, result) =
            self.begin(py, progress, move |engine, listener| engine.evaluate(&data, &request, listener))?;
        parsed(py, &call.finish(&result)?)
    }

    /// Explains an embedding: the share of each patch of the image in it, by attention rollout.
    ///
    /// image: a path, an image of Pillow, or uint8 RGB pixels (H, W, 3).
    /// camera: camera of this image, in place of the model's.
    #[pyo3(signature = (image, camera=None))]
    fn explain(&self, image: &Bound<'_, PyAny>, camera: Option<String>) -> PyResult<Explanation> {
        let given = image_of(image)?;
        let (call, result) =
            self.begin(image.py(), false, move |engine, _| engine.explain(given, camera.as_deref()))?;
        call.finish(&result)
    }

    /// The model's name or file, as given.
    #[getter]
    fn name(&self) -> String {
        self.name.to_string_lossy().into_owned()
    }

    /// Dimensions of an embedding, of all parts together.
    #[getter]
    fn dim(&self) -> usize {
        self.opened.dim
    }

    /// (height, width) in pixels that images are stretched to.
    #[getter]
    fn size(&self) -> (usize, usize) {
        (self.opened.size.height, self.opened.size.width)
    }

    /// Images per batch.
    #[getter]
    fn batch_size(&self) -> usize {
        self.opened.batch_size
    }

    /// Name of the adapter.
    #[getter]
    fn adapter(&self) -> &str {
        &self.opened.adapter
    }

    /// Notes about the file, as printed by `lat-wgpu`.
    #[getter]
    fn notes(&self) -> Vec<String> {
        self.opened.notes.clone()
    }

    fn __repr__(&self) -> String {
        let Opened { dim, size, batch_size, adapter, .. } = &self.opened;
        let name = self.name.display();
        format!("<lat_wgpu.Model {name}: {size}, {dim} dimensions, batches of {batch_size}, {adapter}>")
    }
}
