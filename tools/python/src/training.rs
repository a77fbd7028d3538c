//! `train` and `adapt`: runs on a thread of their own.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use lat_wgpu::cli::{Paths, run_paths, store_statistics};
use lat_wgpu::error::{Error, Result};
use lat_wgpu::observer::Observer;
use lat_wgpu::storage::json;
use lat_wgpu::tasks::adapt::{take_parts, with_clusters};
use lat_wgpu::tasks::models;
use lat_wgpu::tasks::train::{train as run_training, with_backbone};
use lat_wgpu::train::config::{Config, Layers};
use lat_wgpu::train::trainer::{Request, Summary, is_own};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyMapping, PyTuple};

use crate::call::{Call, Listener, parsed};
use crate::errors::{raised, usage};
use crate::images::path_of;

/// A run of `train` or `adapt`: a folder with its model and its log.
#[pyclass(frozen, module = "lat_wgpu")]
pub struct Run(Summary);

#[pymethods]
impl Run {
    /// The run folder.
    #[getter]
    fn path(&self) -> &Path {
        &self.0.out
    }

    /// The best model, for Model(run.model); None if no epoch is done.
    #[getter]
    fn model(&self) -> Option<PathBuf> {
        Some(self.0.out.join("best.safetensors")).filter(|best| best.exists())
    }

    /// The lines of log.jsonl as dicts: steps, and epochs with `"kind": "epoch"`.
    #[getter]
    fn log<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let file = self.0.out.join("log.jsonl");
        let text = fs::read_to_string(&file).map_err(Error::io("read", &file)).map_err(|e| raised(py, &e))?;
        text.lines().map(|line| parsed(py, line)).collect()
    }

    /// Epoch of the best model, from 0; None if it isn't known.
    #[getter]
    fn epoch(&self) -> Option<usize> {
        self.0.epoch
    }

    /// Reason for the choice of the best model.
    #[getter]
    fn reason(&self) -> &str {
        &self.0.reason
    }

    /// Progress of a run that a limit of steps stopped, in words; None if it is finished.
    #[getter]
    fn unfinished(&self) -> Option<&str> {
        self.0.unfinished.as_deref()
    }

    fn __repr__(&self) -> String {
        let Summary { out, epoch, reason, unfinished, .. } = &self.0;
        let state = unfinished.as_ref().map_or(String::new(), |state| format!("{state}; "));
        let best = epoch.map_or(String::new(), |epoch| format!("epoch {epoch}, "));
        format!("<lat_wgpu.Run {}: {state}best.safetensors is {best}{reason}>", out.display())
    }
}

/// Writes a value as the command line takes it.
fn typed(value: &Bound<'_, PyAny>) -> PyResult<String> {
    if let Ok(value) = value.cast::<PyBool>() {
        return Ok(value.is_true().to_string());
    }
    if let Some(path) = path_of(value)? {
        return Ok(path.to_string_lossy().into_owned());
    }
    if let Ok(sides) = value.cast::<PyTuple>() {
        let sides: Vec<String> = sides.iter().map(|side| typed(&side)).collect::<PyResult<_>>()?;
        return Ok(sides.join("x"));
    }
    Ok(value.str()?.to_string())
}

/// Adds keys of the configuration: sections as dicts, or dotted names. `None` leaves a key as it is.
fn add_keys(keys: &mut Vec<(String, String)>, given: &Bound<'_, PyMapping>, section: &str) -> PyResult<()> {
    for item in given.items()? {
        let (name, value): (String, Bound<'_, PyAny>) = item.extract()?;
        let name = format!("{section}{name}");
        if let (Ok(inner), "") = (value.cast::<PyMapping>(), section) {
            add_keys(keys, inner, &format!("{name}."))?;
        } else if !value.is_none() {
            keys.push((name, typed(&value)?));
        }
    }
    Ok(())
}

/// Reads the configuration: a file or a mapping, and keywords that win over it.
fn layers(config: Option<&Bound<'_, PyAny>>, keywords: Option<&Bound<'_, PyDict>>) -> PyResult<Layers> {
    let mut layers = Layers::default();
    if let Some(config) = config {
        match (path_of(config)?, config.cast::<PyMapping>()) {
            (Some(file), _) => layers.file = Some(file),
            (None, Ok(keys)) => add_keys(&mut layers.flags, keys, "")?,
            (None, Err(_)) => {
                return Err(PyTypeError::new_err(format!(
                    "config must be a path or a mapping of keys; this is {}",
                    config.get_type()
                )));
            }
        }
    }
    if let Some(keywords) = keywords {
        add_keys(&mut layers.flags, keywords.as_mapping(), "")?;
    }
    Ok(layers)
}

/// Works on a new thread while the call waits.
fn on_thread<T: Send + 'static>(
    py: Python<'_>,
    progress: bool,
    on_epoch: Option<Bound<'_, PyAny>>,
    work: impl FnOnce(&Listener) -> Result<T> + Send + 'static,
) -> PyResult<T> {
    let (call, listener) = Call::new(py, progress, on_epoch);
    let (reply, result) = mpsc::channel();
    std::thread::Builder::new().name("lat-wgpu training".to_string()).spawn(move || {
        let _ = reply.send(work(&listener));
        drop(listener);
    })?;
    call.finish(&result)
}

/// Begins or resumes a run. `complete` adds keys that depend on the contents of files.
fn begin(
    layers: Layers,
    (out, resume, memory): (PathBuf, bool, Option<u64>),
    complete: impl FnOnce(Layers, &dyn Observer) -> Result<Layers>,
    listener: &Listener,
) -> Result<Summary> {
    let layers = with_backbone(layers, false, listener)?;
    run_paths(Paths::new(), &out, resume, &layers, is_own)?.check()?;
    let layers = complete(layers, listener)?;
    run_training(&Request { out, resume, memory, layers, profile: false, ranks: None }, listener)
}

/// Trains a model as `lat-wgpu train` does, and returns its Run.
///
/// config: a configuration file (.toml), or a dict of its keys: sections as dicts, or names such as "optim.lr".
/// out: run folder.
/// resume: continues the run in that folder, bit for bit as if never stopped.
/// on_epoch: called with each epoch's line of the log as a dict, after the line is written. An exception in it stops
///     the run with its state saved, and is raised.
/// progress: shows a bar and the epochs on stderr; the bar needs a terminal.
/// memory: limit of device memory in bytes.
/// keys: keys of the configuration, as in config, which win over it: data={"dir": "crops"}, preset="full".
///
/// Ctrl-C stops the run after the current step, with its state saved.
#[pyfunction]
#[pyo3(signature = (config=None, *, out, resume=false, on_epoch=None, progress=false, memory=None, **keys))]
#[expect(clippy::too_many_arguments, reason = "keywords of Python")]
pub fn train(
    py: Python<'_>,
    config: Option<Bound<'_, PyAny>>,
    out: PathBuf,
    resume: bool,
    on_epoch: Option<Bound<'_, PyAny>>,
    progress: bool,
    memory: Option<u64>,
    keys: Option<Bound<'_, PyDict>>,
) -> PyResult<Run> {
    let layers = layers(config.as_ref(), keys.as_ref())?;
    let run = (out, resume, memory);
    let work = move |listener: &Listener| begin(layers, run, |layers, _| Ok(layers), listener);
    on_thread(py, progress, on_epoch, work).map(Run)
}

/// Adapts a model to cameras without labels, as `lat-wgpu adapt` does: trains on clusters of the images and returns the
/// Run; or with statistics_only stores the mean embedding of each camera, and returns a dict as its --json.
///
/// model: a .safetensors file, a name, or hf:OWNER/NAME; None takes the model that the command line takes.
/// images: folder of images by the cameras.
/// out: run folder; with statistics_only the new model's file (.safetensors).
/// statistics_only: trains nothing.
/// config, resume, on_epoch, progress, memory, keys: as those of `train`. As model is an argument, keys of that section
///     are in config or have names such as "model.size".
#[pyfunction]
#[pyo3(signature = (model=None, images=None, *, out, statistics_only=false, config=None, resume=false, on_epoch=None, progress=false, memory=None, **keys))]
#[expect(clippy::too_many_arguments, reason = "keywords of Python")]
pub fn adapt<'py>(
    py: Python<'py>,
    model: Option<PathBuf>,
    images: Option<PathBuf>,
    out: PathBuf,
    statistics_only: bool,
    config: Option<Bound<'py, PyAny>>,
    resume: bool,
    on_epoch: Option<Bound<'py, PyAny>>,
    progress: bool,
    memory: Option<u64>,
    keys: Option<Bound<'py, PyDict>>,
) -> PyResult<Bound<'py, PyAny>> {
    let mut layers = layers(config.as_ref(), keys.as_ref())?;
    let default = || PathBuf::from(models::default().name);
    if statistics_only {
        if resume || on_epoch.is_some() || layers.file.is_some() {
            return Err(usage(
                py,
                "resume, on_epoch and a file as config have no effect with statistics_only",
            ));
        }
        let Some(images) = images else { return Err(usage(py, "missing images")) };
        let text = on_thread(py, progress, None, move |listener| {
            let model = models::file(&model.unwrap_or_else(default), false, listener)?;
            let paths = [model.as_path(), &images, &out];
            let adapted = store_statistics(paths, &layers, memory, Paths::new(), listener)?;
            adapted.warning().iter().for_each(|warning| listener.warn(warning));
            Ok(json::text(&adapted.json(&out)))
        })?;
        return parsed(py, &text);
    }
    let paths = [("model.backbone", &model), ("cluster.images", &images)];
    for (key, path) in paths {
        layers.flags.extend(path.iter().map(|path| (key.to_string(), path.to_string_lossy().into_owned())));
    }
    let summary = on_thread(py, progress, on_epoch, move |listener| {
        let mut layers = with_clusters(layers);
        if !resume {
            let config = Config::resolve(&layers)?;
            if config.cluster.images.is_none() {
                return Err(Error::Usage("missing images".to_string()));
            }
            if config.model.backbone.is_none() {
                let file = models::file(&default(), false, listener)?;
                layers.base.push(("model.backbone".to_string(), file.to_string_lossy().into_owned()));
            }
        }
        begin(layers, (out, resume, memory), take_parts, listener)
    })?;
    Ok(Bound::new(py, Run(summary))?.into_any())
}
