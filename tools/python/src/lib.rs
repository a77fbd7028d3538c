//! `lat_wgpu` for Python: a network on an adapter, images in, embeddings out as numpy arrays.
//!
//! A separate thread owns the adapter and the network. Calls from Python send it work and wait for rows without the
//! interpreter's lock, so no reference is shared and signals are handled while a call waits.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use lat_wgpu::checkpoint::{self, Settings};
use lat_wgpu::error::{Error, Result};
use lat_wgpu::gpu::{Context, ContextOptions, Precision};
use lat_wgpu::images::decode::Rgb;
use lat_wgpu::images::preprocess;
use lat_wgpu::images::walk::Image;
use lat_wgpu::observer::Observer;
use lat_wgpu::shape::ImageSize;
use lat_wgpu::tasks::embed::{Embedder, ImageOptions};
use lat_wgpu::tasks::models;
use numpy::{PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray3, PyReadonlyArray4, PyUntypedArray};
use numpy::{PyUntypedArrayMethods, ndarray};
use pyo3::exceptions::{PyMemoryError, PyOSError, PyRuntimeError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyString;
use rayon::prelude::*;

/// Interval at which a waiting call checks for signals.
const LISTEN_EVERY: Duration = Duration::from_millis(50);

/// The message of the command line: the error, its causes and the hint.
fn words(error: &Error) -> String {
    let mut text = error.with_causes();
    if let Some(hint) = error.hint() {
        text.push_str(&format!("\nhint: {hint}"));
    }
    text
}

fn raised(error: Error) -> PyErr {
    let text = words(&error);
    match error.plain() {
        Error::Io { .. } | Error::Network(_) => PyOSError::new_err(text),
        Error::TooLarge(_) => PyMemoryError::new_err(text),
        _ if error.is_out_of_memory() => PyMemoryError::new_err(text),
        Error::Gpu(_) => PyRuntimeError::new_err(text),
        _ => PyValueError::new_err(text),
    }
}

/// Arguments of [`Model::open`].
struct Opening {
    path: PathBuf,
    adapter: Option<String>,
    precision: Precision,
    batch_size: Option<usize>,
}

/// Properties of an open network.
struct Opened {
    dim: usize,
    size: ImageSize,
    batch_size: usize,
    adapter: String,
    notes: Vec<String>,
}

/// Images from Python.
enum Images {
    Files(Vec<PathBuf>),
    Pixels(Vec<Rgb>),
}

/// One call of `embed`.
struct Job {
    images: Images,
    /// Set when the caller no longer waits.
    stop: Arc<AtomicBool>,
    reply: Sender<Result<Vec<f32>>>,
}

impl Observer for Job {
    fn signal(&self) -> Option<u8> {
        self.stop.load(Ordering::Relaxed).then_some(2)
    }
}

/// Rows (N, D) of a job's images. The first unreadable image is an error.
fn embed(embedder: &mut Embedder<&Context>, size: ImageSize, job: &Job) -> Result<Vec<f32>> {
    let mut rows = Vec::new();
    match &job.images {
        Images::Files(paths) => {
            let named =
                |path: &PathBuf| Image { path: path.clone(), name: path.to_string_lossy().into_owned() };
            for row in embedder.embed_images(paths.iter().map(named).collect(), ImageOptions::default(), job)
            {
                rows.extend(row?.1.map_err(|error| Error::Data(words(&error)))?);
            }
        }
        Images::Pixels(images) => {
            let mut left = images.as_slice();
            let mut flying = false;
            while !left.is_empty() {
                job.check("no embeddings were returned")?;
                let (batch, rest) = left.split_at(left.len().min(embedder.batch()));
                let fitted: Vec<Rgb> =
                    batch.par_iter().map(|image| preprocess::resize_bicubic(image, size)).collect();
                match embedder.submit(&fitted) {
                    Err(error) if error.is_out_of_memory() && embedder.halve() => continue,
                    submitted => submitted?,
                }
                // Collects the previous batch; the next one is resized while the adapter works on this one.
                if flying {
                    rows.extend(embedder.collect()?);
                }
                (left, flying) = (rest, true);
            }
            rows.extend(embedder.collect()?);
        }
    }
    Ok(rows)
}

/// Opens a network, sends its properties, and serves jobs until all senders are gone.
fn serve(opening: &Opening, ready: &Sender<Result<Opened>>, jobs: &Receiver<Job>) -> Result<()> {
    let path = models::file(&opening.path, false, &())?;
    let network = checkpoint::load(&path, &Settings::default())?;
    let options = ContextOptions::from_environment(opening.adapter.clone());
    let context = Context::open(&ContextOptions { precision: opening.precision, ..options })?;
    let mut embedder = Embedder::new(&context, &network, opening.batch_size, context.default_memory())?;
    let size = network.config.image;
    let opened = Opened {
        dim: embedder.dim(),
        size,
        batch_size: embedder.batch(),
        adapter: context.adapter.name.clone(),
        notes: network.notes.clone(),
    };
    drop(network);
    // If the caller is gone, so is the sender of jobs.
    let _ = ready.send(Ok(opened));
    for job in jobs {
        let rows = embed(&mut embedder, size, &job);
        if rows.is_err() {
            // Drops a batch in flight.
            while !matches!(embedder.collect(), Ok(rows) if rows.is_empty()) {}
        }
        let _ = job.reply.send(rows);
    }
    Ok(())
}

/// A network on an adapter. `Model.open` makes one.
#[pyclass(frozen, module = "lat_wgpu")]
struct Model {
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

/// Waits for one message without the interpreter's lock. A signal with a handler that raises ends the wait.
fn wait<T: Send>(py: Python<'_>, receiver: Receiver<Result<T>>) -> PyResult<T> {
    // The mutex, never contended, allows the reference without the interpreter's lock.
    let receiver = Mutex::new(receiver);
    loop {
        let message = py.detach(|| match receiver.lock() {
            Ok(receiver) => receiver.recv_timeout(LISTEN_EVERY),
            Err(_) => Err(RecvTimeoutError::Disconnected),
        });
        match message {
            Ok(result) => return result.map_err(raised),
            Err(RecvTimeoutError::Timeout) => py.check_signals()?,
            Err(RecvTimeoutError::Disconnected) => {
                return Err(PyRuntimeError::new_err(
                    "the engine stopped by an internal error, printed on stderr",
                ));
            }
        }
    }
}

#[pymethods]
impl Model {
    /// Opens a network on an adapter.
    ///
    /// path: a .safetensors file in timm's names or from `lat-wgpu train`, or a name that `lat-wgpu models` lists or
    ///     hf:OWNER/NAME, whose model is downloaded once.
    /// adapter: part of the adapter's name, as listed by `lat-wgpu info`; by default the best.
    /// precision: "f32", or "f16" for weights and activations of 2 bytes.
    /// batch_size: images per batch; by default as many as fill the adapter. Embeddings don't depend on it.
    ///
    /// Raises ValueError for an invalid file, OSError if it can't be read or downloaded, MemoryError if the batch is too large,
    /// RuntimeError without an adapter.
    #[staticmethod]
    #[pyo3(signature = (path, adapter=None, precision="f32", batch_size=None))]
    fn open(
        py: Python<'_>,
        path: PathBuf,
        adapter: Option<String>,
        precision: &str,
        batch_size: Option<usize>,
    ) -> PyResult<Model> {
        let precision = match precision {
            "f32" => Precision::F32,
            "f16" => Precision::F16,
            other => {
                return Err(PyValueError::new_err(format!(
                    "precision must be \"f32\" or \"f16\", not {other:?}"
                )));
            }
        };
        if batch_size == Some(0) {
            return Err(PyValueError::new_err("batch_size must be at least 1"));
        }
        let opening = Opening { path, adapter, precision, batch_size };
        let (jobs, received) = mpsc::channel();
        let (ready, opened) = mpsc::channel();
        let worker = std::thread::Builder::new().name("lat-wgpu".to_string()).spawn(move || {
            if let Err(error) = serve(&opening, &ready, &received) {
                let _ = ready.send(Err(error));
            }
        })?;
        let opened = wait(py, opened)?;
        Ok(Model { jobs: Some(jobs), worker: Some(worker), process: std::process::id(), opened })
    }

    /// Embeds images: float32 (N, D), one row per image in order.
    ///
    /// images: a path or a list of paths; or uint8 RGB pixels, rows from the top: (N, H, W, 3), or a list of (H, W, 3)
    /// of any sizes. All are stretched to `size`.
    ///
    /// Raises TypeError for anything else, ValueError with the path of an unreadable image, RuntimeError if the adapter
    /// fails.
    fn embed<'py>(&self, py: Python<'py>, images: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let images = images_of(images)?;
        let count = match &images {
            Images::Files(paths) => paths.len(),
            Images::Pixels(images) => images.len(),
        };
        let shape = [count, self.opened.dim];
        if count == 0 {
            return PyArray1::from_vec(py, Vec::new()).reshape(shape);
        }
        if self.process != std::process::id() {
            return Err(PyRuntimeError::new_err(
                "this model was opened before the process forked: open it in each process",
            ));
        }
        let stop = Arc::new(AtomicBool::new(false));
        let (reply, rows) = mpsc::channel();
        let job = Job { images, stop: stop.clone(), reply };
        if let Some(jobs) = &self.jobs {
            // Without a receiver the reply's sender is dropped, which `wait` reports.
            let _ = jobs.send(job);
        }
        let rows = wait(py, rows).inspect_err(|_| stop.store(true, Ordering::Relaxed))?;
        PyArray1::from_vec(py, rows).reshape(shape)
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
        format!("<lat_wgpu.Model: {size}, {dim} dimensions, batches of {batch_size}, {adapter}>")
    }
}

const NO_IMAGES: &str =
    "images must be paths, a uint8 array (N, H, W, 3), or a list of paths or of uint8 arrays (H, W, 3)";

/// Copies images from Python, since the interpreter may change arrays while the adapter works.
fn images_of(given: &Bound<'_, PyAny>) -> PyResult<Images> {
    if given.cast::<PyString>().is_ok() || given.hasattr("__fspath__")? {
        return Ok(Images::Files(vec![given.extract()?]));
    }
    if given.cast::<PyUntypedArray>().is_ok() {
        let array: PyReadonlyArray4<'_, u8> = given.extract().map_err(|_| wrong(given, "(N, H, W, 3)"))?;
        let views = array.as_array();
        return views.outer_iter().map(pixels_of).collect::<PyResult<_>>().map(Images::Pixels);
    }
    let Ok(items) = given.try_iter() else { return Err(wrong(given, "(N, H, W, 3)")) };
    let items = items.collect::<PyResult<Vec<_>>>()?;
    if items.first().is_some_and(|first| first.cast::<PyUntypedArray>().is_ok()) {
        let pixels = items.iter().map(|item| {
            let array: PyReadonlyArray3<'_, u8> = item.extract().map_err(|_| wrong(item, "(H, W, 3)"))?;
            pixels_of(array.as_array())
        });
        return pixels.collect::<PyResult<_>>().map(Images::Pixels);
    }
    let path = |item: &Bound<'_, PyAny>| item.extract().map_err(|_| wrong(item, "(H, W, 3)"));
    items.iter().map(path).collect::<PyResult<_>>().map(Images::Files)
}

/// A TypeError that describes the given value.
fn wrong(given: &Bound<'_, PyAny>, shape: &str) -> PyErr {
    let found = match given.cast::<PyUntypedArray>() {
        Ok(array) => {
            format!("an array of {} with shape {:?}, wanted uint8 {shape}", array.dtype(), array.shape())
        }
        Err(_) => given.get_type().to_string(),
    };
    PyTypeError::new_err(format!("{NO_IMAGES}; this is {found}"))
}

/// Pixels (H, W, 3) in any memory order.
fn pixels_of(view: ndarray::ArrayView3<'_, u8>) -> PyResult<Rgb> {
    let (height, width, channels) = view.dim();
    if channels != 3 || height == 0 || width == 0 {
        return Err(PyValueError::new_err(format!(
            "an image must be (H, W, 3) with H and W at least 1; this is ({height}, {width}, {channels})"
        )));
    }
    Ok(Rgb { height, width, pixels: view.iter().copied().collect() })
}

/// Person re-identification embeddings of the Locally Aware Transformer on any GPU.
///
///     model = lat_wgpu.Model.open("weights/demo.safetensors")
///     embeddings = model.embed(["a.jpg", "b.png"])   # (2, D) float32
#[pymodule]
#[pyo3(name = "lat_wgpu")]
fn lat_wgpu_module(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Model>()
}
