//! Exceptions: a class for each kind of the program's errors, all below `lat_wgpu.Error`.

use lat_wgpu::error::Error;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyTuple, PyType};

/// Name of the class of all errors.
const BASE: &str = "Error";

/// Name, the class of Python that it also is, and help.
const KINDS: [(&str, &str, &str); 9] = [
    ("UsageError", "ValueError", "Settings that are impossible or contradict each other."),
    ("ImageError", "ValueError", "An image that can't be read."),
    ("WeightsError", "ValueError", "A model file that can't be used."),
    ("DataError", "ValueError", "Embeddings, labels or images that don't fit together, or no images."),
    ("FileError", "OSError", "A file that the system can't read or write."),
    ("NetworkError", "OSError", "A download that failed or isn't allowed."),
    ("AdapterError", "RuntimeError", "An adapter that failed, or none."),
    ("OutOfMemoryError", "MemoryError", "Work that needs more memory than the adapter has."),
    (
        "NotFiniteError",
        "ArithmeticError",
        "A training step whose loss or gradients overflow. The state before it is saved.",
    ),
];

/// The classes by name.
static CLASSES: PyOnceLock<Py<PyDict>> = PyOnceLock::new();

/// Makes the classes and adds them to the module.
pub fn add<'py>(module: &Bound<'py, PyModule>) -> PyResult<()> {
    let py = module.py();
    let classes = PyDict::new(py);
    let builtins = py.import("builtins")?;
    let new = |name: &str, parents: Vec<Bound<'py, PyAny>>, help: &str| -> PyResult<Bound<'py, PyAny>> {
        let body = PyDict::new(py);
        body.set_item("__module__", "lat_wgpu")?;
        body.set_item("__doc__", help)?;
        if name == BASE {
            body.set_item("hint", py.None())?;
        }
        let class = py.get_type::<PyType>().call1((name, PyTuple::new(py, parents)?, body))?;
        module.add(name, &class)?;
        classes.set_item(name, &class)?;
        Ok(class)
    };
    let help =
        "An error of lat-wgpu. Its text is that of the command line; `hint` is the advice in it, or None.";
    let base = new(BASE, vec![builtins.getattr("Exception")?], help)?;
    for (name, also, help) in KINDS {
        new(name, vec![base.clone(), builtins.getattr(also)?], help)?;
    }
    let _ = CLASSES.set(py, classes.unbind());
    Ok(())
}

/// The name of the class of an error.
fn kind(error: &Error) -> &'static str {
    match error.plain() {
        _ if error.is_out_of_memory() => "OutOfMemoryError",
        Error::TooLarge(_) => "OutOfMemoryError",
        Error::Usage(_) => "UsageError",
        Error::Image { .. } => "ImageError",
        Error::Weights { .. } | Error::Tensor { .. } => "WeightsError",
        Error::Data(_) | Error::NothingToDo(_) => "DataError",
        Error::Io { .. } => "FileError",
        Error::Network(_) => "NetworkError",
        Error::Gpu(_) => "AdapterError",
        Error::NotFinite { .. } => "NotFiniteError",
        _ => BASE,
    }
}

/// The message of the command line: the error, its causes and the hint.
pub fn words(error: &Error) -> String {
    let mut text = error.with_causes();
    if let Some(hint) = error.hint() {
        text.push_str(&format!("\nhint: {hint}"));
    }
    text
}

/// Makes the exception of an error.
pub fn exception<'py>(py: Python<'py>, error: &Error) -> PyResult<Bound<'py, PyAny>> {
    let classes = CLASSES.get(py).map(|classes| classes.bind(py).as_any().clone());
    let class = match classes {
        Some(classes) => classes.get_item(kind(error))?,
        None => py.import("builtins")?.getattr("Exception")?,
    };
    let exception = class.call1((words(error),))?;
    exception.setattr("hint", error.hint())?;
    Ok(exception)
}

/// Returns an error as Python raises it.
pub fn raised(py: Python<'_>, error: &Error) -> PyErr {
    exception(py, error).map_or_else(|failed| failed, PyErr::from_value)
}

/// A `UsageError`.
pub fn usage(py: Python<'_>, text: impl Into<String>) -> PyErr {
    raised(py, &Error::Usage(text.into()))
}
