//! Results that Python receives.

use std::path::PathBuf;

use lat_wgpu::images::decode::Rgb;
use lat_wgpu::tasks::explain;
use numpy::{PyArray1, PyArray2, PyArray3, PyArrayMethods};
use pyo3::exceptions::PyIndexError;
use pyo3::prelude::*;
use pyo3::types::PyIterator;

/// A gallery image that a search found.
#[pyclass(frozen, get_all, module = "lat_wgpu")]
#[derive(Clone)]
pub struct Match {
    /// Place of the image in the gallery, from 0.
    pub row: usize,
    /// The image's file, or its name in a stored gallery; None for an array.
    pub path: Option<String>,
    /// Squared Euclidean distance to the query, from 0 to 4.
    pub distance: f32,
    /// True if both show the same person, by the model's threshold; None without a threshold.
    pub same: Option<bool>,
    /// Share of pairs of different persons that are as near, at most; None unless the model is calibrated.
    pub false_match_rate: Option<f64>,
}

#[pymethods]
impl Match {
    fn __repr__(&self) -> String {
        let name = self.path.as_ref().map_or_else(|| format!("row {}", self.row), |path| format!("{path:?}"));
        let verdict = match self.same {
            Some(true) => ", same person",
            Some(false) => ", different person",
            None => "",
        };
        format!("<lat_wgpu.Match {name}: {:.4}{verdict}>", self.distance)
    }
}

/// The matches of a query, nearest first: a sequence of Match.
#[pyclass(frozen, module = "lat_wgpu", sequence)]
pub struct Ranking {
    query: Option<PathBuf>,
    matches: Vec<Match>,
}

impl Ranking {
    /// Makes a ranking of the matches of a query's file; `None` for an array.
    pub fn new(query: Option<PathBuf>, matches: impl Iterator<Item = Match>) -> Ranking {
        Ranking { query, matches: matches.collect() }
    }
}

#[pymethods]
impl Ranking {
    /// The query's file; None for an array.
    #[getter]
    fn query(&self) -> Option<String> {
        self.query.as_ref().map(|query| query.to_string_lossy().into_owned())
    }

    /// The matches as a list.
    #[getter]
    fn matches(&self) -> Vec<Match> {
        self.matches.clone()
    }

    fn __len__(&self) -> usize {
        self.matches.len()
    }

    fn __iter__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyIterator>> {
        self.matches.clone().into_pyobject(py)?.try_iter()
    }

    fn __getitem__(&self, place: isize) -> PyResult<Match> {
        let count = self.matches.len();
        let from_end = if place < 0 { place.checked_add_unsigned(count) } else { Some(place) };
        let found =
            from_end.and_then(|place| usize::try_from(place).ok()).and_then(|place| self.matches.get(place));
        found.cloned().ok_or_else(|| PyIndexError::new_err(format!("match {place} of {count}")))
    }

    fn __repr__(&self) -> String {
        let query = self.query.as_ref().map_or_else(|| "an array".to_string(), |query| format!("{query:?}"));
        let nearest = self.matches.first().map_or(String::new(), |first| format!(", {}", first.__repr__()));
        format!("<lat_wgpu.Ranking of {query}: {} matches{nearest}>", self.matches.len())
    }
}

/// The shares of an image's patches in its embedding.
#[pyclass(frozen, module = "lat_wgpu")]
pub struct Explanation {
    pub shares: explain::Explanation,
    /// Rows and columns of patches.
    pub grid: (usize, usize),
    pub drawing: Rgb,
}

#[pymethods]
impl Explanation {
    /// Share of each patch: float64 (rows, columns). They sum to 1.
    #[getter]
    fn heatmap<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray2<f64>>> {
        PyArray1::from_slice(py, &self.shares.patches).reshape([self.grid.0, self.grid.1])
    }

    /// Share of each part from top to bottom: float64 (R,).
    #[getter]
    fn parts<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<f64>> {
        PyArray1::from_slice(py, &self.shares.parts)
    }

    /// Share of the tokens that are no patches, before the patches are scaled to 1.
    #[getter]
    fn prefix(&self) -> f64 {
        self.shares.prefix
    }

    /// The drawing of `lat-wgpu explain`: uint8 RGB pixels (H, W, 3).
    #[getter]
    fn drawing<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray3<u8>>> {
        let Rgb { height, width, pixels } = &self.drawing;
        PyArray1::from_slice(py, pixels).reshape([*height, *width, 3])
    }

    fn __repr__(&self) -> String {
        let (rows, columns) = self.grid;
        format!("<lat_wgpu.Explanation: {rows}x{columns} patches, {} parts>", self.shares.parts.len())
    }
}
