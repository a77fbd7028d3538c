//! `lat_wgpu` for Python: a thin layer over the program's tasks, and its command line.

mod call;
mod errors;
mod images;
mod model;
mod results;
mod training;

use std::ffi::OsString;
use std::path::Path;

use pyo3::prelude::*;

/// Runs the command line of the process, and returns its exit code.
#[pyfunction]
fn _command(py: Python<'_>) -> PyResult<u8> {
    let signals = py.import("signal")?;
    // Commands end by Ctrl-C as they do in the native program: at once, or after they saved their state.
    signals.call_method1("signal", (signals.getattr("SIGINT")?, signals.getattr("SIG_DFL")?))?;
    let is_named = std::env::var_os("XDG_RUNTIME_DIR").is_some_and(|place| Path::new(&place).is_absolute());
    if cfg!(unix) && !is_named {
        // Otherwise a graphics driver complains on stderr.
        py.import("os")?.getattr("environ")?.set_item("XDG_RUNTIME_DIR", "/dev/null")?;
    }
    let words: Vec<OsString> = py.import("sys")?.getattr("argv")?.extract()?;
    Ok(py.detach(|| lat_wgpu::cli::run(words.into_iter().skip(1).collect())))
}

/// Person re-identification on any GPU.
///
///     model = lat_wgpu.Model()
///     embeddings = model.embed(["a.jpg", "b.png"])   # (2, D) float32
///     for match in model.search("photos", "person.png")[0]:
///         print(match.distance, match.path)
#[pymodule]
#[pyo3(name = "lat_wgpu")]
fn lat_wgpu_module(module: &Bound<'_, PyModule>) -> PyResult<()> {
    errors::add(module)?;
    module.add_class::<model::Model>()?;
    module.add_class::<results::Match>()?;
    module.add_class::<results::Ranking>()?;
    module.add_class::<results::Explanation>()?;
    module.add_class::<training::Run>()?;
    module.add_function(wrap_pyfunction!(images::list_images, module)?)?;
    module.add_function(wrap_pyfunction!(training::train, module)?)?;
    module.add_function(wrap_pyfunction!(training::adapt, module)?)?;
    // Not among the names that `import *` takes.
    module.setattr("_command", wrap_pyfunction!(_command, module)?)
}
