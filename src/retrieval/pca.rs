//! Embeddings in fewer dimensions: principal components, fitted on a gallery.
//!
//! y = C·(x − μ), where μ (D) is the mean of the gallery's rows, and the orthonormal rows of C (K, D) are the
//! directions of its largest variances in descending order (Pearson 1901). Squared Euclidean distances lose only the
//! part outside these directions. Reduced rows are not normalised to unit length, except by components that a model file
//! keeps, so that a model's embeddings have length 1 in any number of dimensions.

#[cfg(feature = "reduce")]
mod fit;

#[cfg(feature = "reduce")]
pub use fit::{FIT_ROWS, FitOptions, MAX_COVARIANCE};

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use rayon::prelude::*;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::checkpoint::{Network, REDUCTION, lat_wgpu_metadata, store_reduction};
use crate::embeddings::provenance::Source;
use crate::embeddings::rows::Rows;
use crate::error::{Error, Result};
use crate::storage::atomic::write_atomically;
use crate::storage::entry::{Entry, KEY};
use crate::storage::hash::Hash;
use crate::storage::json::differences;

/// Newest supported format of the file.
const FORMAT: u32 = 1;
/// Entry of the file's metadata.
const ENTRY: &str = "lat_wgpu_reduction";
/// Bytes of rows to read at a time.
const BLOCK: usize = 16 << 20;
/// Rows to reduce at a time, so that their centred values stay in the cache.
const GROUP: usize = 16;

/// Mean and principal components of a gallery.
#[derive(Debug, Clone, PartialEq)]
pub struct Projection {
    /// (D).
    mean: Vec<f32>,
    /// (K, D), orthonormal.
    components: Vec<f32>,
    /// Variance of the gallery along each component (K), descending.
    variances: Vec<f32>,
    about: About,
    /// SHA-256 of mean and components.
    sha256: String,
    /// True if reduced rows have length 1.
    is_unit: bool,
}

/// Properties other than tensors.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
struct About {
    format: u32,
    /// Number of rows it was fitted on.
    rows: usize,
    /// Variance in all directions.
    total_variance: f64,
    /// Description of the method.
    method: String,
    /// The `lat_wgpu` entry of the rows' metadata, if any.
    settings: Option<Value>,
    /// SHA-256 of the weights that made the rows, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    weights_sha256: Option<String>,
}

impl Projection {
    fn new(mean: Vec<f32>, components: Vec<f32>, variances: Vec<f32>, about: About) -> Projection {
        let mut hash = Hash::default();
        for numbers in [&mean, &components] {
            hash.update(&bytes_of(numbers));
        }
        Projection { mean, components, variances, about, sha256: hash.hex(), is_unit: false }
    }

    /// Scales reduced rows to length 1.
    pub fn to_unit(self) -> Projection {
        Projection { is_unit: true, ..self }
    }

    /// Sets the SHA-256 of the weights that made the rows it was fitted on.
    pub fn with_weights(mut self, weights_sha256: Option<String>) -> Projection {
        self.about.weights_sha256 = weights_sha256;
        self
    }

    /// Its file, and the weights that made the rows it was fitted on, if known.
    pub fn source(&self, file: &Path) -> Source {
        Source { file: file.to_path_buf(), weights_sha256: self.about.weights_sha256.clone() }
    }

    /// Dimensions K of a reduced row.
    pub fn dim(&self) -> usize {
        self.variances.len()
    }

    /// Dimensions D of a row to reduce.
    pub fn full_dim(&self) -> usize {
        self.mean.len()
    }

    /// Number of rows it was fitted on.
    pub fn rows(&self) -> usize {
        self.about.rows
    }

    /// Description of the method that found it.
    pub fn method(&self) -> &str {
        &self.about.method
    }

    /// Share of the total variance along the first `dim` components.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn explained(&self, dim: usize) -> f64 {
        self.variances[..dim].iter().map(|&v| f64::from(v)).sum::<f64>() / self.about.total_variance
    }

    /// The first `dim` components, which are the projection to `dim` dimensions.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn leading(&self, dim: usize) -> Projection {
        let components = self.components[..dim * self.full_dim()].to_vec();
        let leading = Projection::new(
            self.mean.clone(),
            components,
            self.variances[..dim].to_vec(),
            self.about.clone(),
        );
        Projection { is_unit: self.is_unit, ..leading }
    }

    /// Reduces rows (N, D) to (N, K). The result of a row depends on that row alone, to the bit.
    ///
    /// # Panics
    /// If `rows` are not whole rows.
    pub fn apply(&self, rows: &[f32]) -> Vec<f32> {
        let (width, dim) = (self.full_dim(), self.dim());
        assert_eq!(rows.len() % width, 0, "whole rows of {width} dimensions");
        let mut reduced = vec![0.0; rows.len() / width * dim];
        for (rows, reduced) in rows.chunks(GROUP * width).zip(reduced.chunks_mut(GROUP * dim)) {
            let centre = |(value, mean): (&f32, &f32)| f64::from(*value) - f64::from(*mean);
            let centred: Vec<f64> =
                rows.chunks(width).flat_map(|row| row.iter().zip(&self.mean).map(centre)).collect();
            let count = centred.len() / width;
            // (K, rows).
            let products: Vec<f32> = self
                .components
                .par_chunks(width)
                .flat_map_iter(|component| products(&centred, component))
                .collect();
            for (k, products) in products.chunks(count).enumerate() {
                for (row, &product) in products.iter().enumerate() {
                    reduced[row * dim + k] = product;
                }
            }
        }
        if self.is_unit {
            reduced.par_chunks_mut(dim).for_each(to_length_1);
        }
        reduced
    }

    /// Checks that it was fitted on embeddings of this network, made with the same `flip`.
    ///
    /// # Errors
    /// `Data`, naming the differences.
    pub fn check_fits(&self, network: &Network, flip: bool) -> Result<()> {
        let dim = network.config.embedding_len();
        if dim != self.full_dim() {
            return Err(Error::Data(format!(
                "the projection is for {} dimensions, the model has {dim}: both must come from the same model and settings",
                self.full_dim()
            )));
        }
        let Some(theirs) = &self.about.settings else { return Ok(()) };
        let found = differences(theirs, settings(network, flip, None).value());
        if found.is_empty() {
            return Ok(());
        }
        Err(Error::Data(format!(
            "the projection was fitted on embeddings of another model or settings: {}",
            found.join("; ")
        )))
    }

    /// The `lat_wgpu` metadata entry of reduced embeddings, made of the entry before the projection.
    pub fn settings_of_reduced(&self, settings: Option<Entry>) -> Entry {
        let mut projection = json!({ "sha256": self.sha256, "dim": self.dim() });
        if self.is_unit {
            projection["unit"] = json!(true);
        }
        settings.unwrap_or_else(|| Entry::new("{}".to_string())).with("reduction", projection)
    }

    /// Writes tensors `mean` (D), `components` (K, D) and `variances` (K), all f32, as `.safetensors`.
    ///
    /// # Errors
    /// `Io` if it can't be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let tensors = self.tensors();
        let bytes: Vec<Vec<u8>> = tensors.iter().map(|(_, _, numbers)| bytes_of(numbers)).collect();
        let failed = |e: safetensors::SafeTensorError| Error::io("write", path)(std::io::Error::other(e));
        let mut views = Vec::new();
        for ((name, shape, _), bytes) in tensors.iter().zip(&bytes) {
            views.push((*name, TensorView::new(Dtype::F32, shape.clone(), bytes).map_err(failed)?));
        }
        let metadata = HashMap::from([(ENTRY.to_string(), json!(self.about).to_string())]);
        let failed = |e: safetensors::SafeTensorError| Error::io("write", path)(std::io::Error::other(e));
        write_atomically(path, &safetensors::serialize(views, Some(metadata)).map_err(failed)?)
    }

    /// Its tensors with their shapes.
    fn tensors(&self) -> [(&'static str, Vec<usize>, &[f32]); 3] {
        let (dim, full) = (self.dim(), self.full_dim());
        [
            ("components", vec![dim, full], &self.components),
            ("mean", vec![full], &self.mean),
            ("variances", vec![dim], &self.variances),
        ]
    }

    /// Stores it in a model file, in place of an older one.
    ///
    /// # Errors
    /// Those of [`store_reduction`].
    pub fn store(&self, model: &Path) -> Result<()> {
        store_reduction(model, &self.tensors(), &json!(self.about))
    }

    /// Reads the projection that [`Self::store`] stored in the file of a network, to `dim` dimensions of length 1.
    ///
    /// # Errors
    /// `Usage` if the file has none, or fewer dimensions; `Data` if it was fitted on embeddings of other weights or
    /// settings; `Io` if it can't be read, or is damaged.
    pub fn of_model(model: &Path, network: &Network, dim: usize, flip: bool) -> Result<Projection> {
        let bytes = std::fs::read(model).map_err(Error::io("read", model))?;
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(other).map_err(Error::invalid(model))?;
        let entry = header.metadata().as_ref().and_then(|entries| entries.get(KEY)).cloned();
        let about = entry.and_then(|entry| Entry::new(entry).value().get("reduction").cloned());
        let Some(about) = about else {
            let reason = format!("{} has no principal components for --dim", model.display());
            return Err(Error::Usage(reason).hinted(
                "`lat-wgpu reduce EMBEDDINGS --dim N --into MODEL` fits them and stores them in a model",
            ));
        };
        let projection = parse(&bytes, about, REDUCTION).map_err(Error::invalid(model))?;
        if dim > projection.dim() {
            let most = projection.dim();
            return Err(Error::Usage(format!("--dim {dim}: the model has {most} principal components")));
        }
        projection.check_fits(network, flip)?;
        let own = Some(network.weights_sha256());
        if projection.about.weights_sha256.is_some() && projection.about.weights_sha256 != own {
            let reason =
                "the model's principal components were fitted on embeddings of other weights".to_string();
            return Err(Error::Data(reason).hinted("fit them again: `lat-wgpu reduce … --into MODEL`"));
        }
        Ok(projection.leading(dim).to_unit())
    }

    /// Reads a file of [`Self::write`].
    ///
    /// # Errors
    /// `Io` if it can't be read, has another or a newer format, or holds values that aren't finite.
    pub fn read(path: &Path) -> Result<Projection> {
        let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
        parse_file(&bytes).map_err(Error::invalid(path))
    }
}

/// The `lat_wgpu` metadata entry of embeddings: the network's settings, whether mirrored images are added, and the
/// projection.
pub fn settings(network: &Network, flip: bool, projection: Option<&Projection>) -> Entry {
    let mut entry = lat_wgpu_metadata(&network.config, &network.preprocess, None);
    if flip {
        entry = entry.with("flip", json!(true));
    }
    match projection {
        Some(projection) => projection.settings_of_reduced(Some(entry)),
        None => entry,
    }
}

fn bytes_of(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// Scales a row to length 1.
fn to_length_1(row: &mut [f32]) {
    let squares: f64 = row.iter().map(|&value| f64::from(value) * f64::from(value)).sum();
    let length = squares.sqrt().max(1e-12);
    row.iter_mut().for_each(|value| *value = (f64::from(*value) / length) as f32);
}

fn other(error: safetensors::SafeTensorError) -> String {
    format!("is no projection written by this program: {error}")
}

fn parse_file(bytes: &[u8]) -> std::result::Result<Projection, String> {
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(other)?;
    let entry = header.metadata().as_ref().and_then(|entries| entries.get(ENTRY));
    let entry = entry.ok_or_else(|| format!("is no projection: it has no entry {ENTRY}"))?;
    parse(bytes, serde_json::from_str(entry).map_err(|e| format!("{ENTRY}: {e}"))?, "")
}

/// Reads the tensors with a prefix of their names.
fn parse(bytes: &[u8], value: Value, prefix: &str) -> std::result::Result<Projection, String> {
    match value["format"].as_u64() {
        Some(format) if format <= u64::from(FORMAT) => {}
        format => return Err(format!("{ENTRY}: format {format:?}, this program reads up to {FORMAT}")),
    }
    let about: About = serde_json::from_value(value).map_err(|e| format!("{ENTRY}: {e}"))?;
    let tensors = SafeTensors::deserialize(bytes).map_err(other)?;
    let read = |name: &str| {
        let tensor = tensors.tensor(&format!("{prefix}{name}")).map_err(other)?;
        if tensor.dtype() != Dtype::F32 {
            return Err(format!("tensor {name} holds {}, not F32", tensor.dtype()));
        }
        let numbers: Vec<f32> = tensor.data().as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
        match numbers.iter().all(|v| v.is_finite()) {
            true => Ok((tensor.shape().to_vec(), numbers)),
            false => Err(format!("tensor {name} holds a value that isn't finite")),
        }
    };
    let ((mean_shape, mean), (shape, components), (variances_shape, variances)) =
        (read("mean")?, read("components")?, read("variances")?);
    match shape[..] {
        [dim, full] if dim > 0 && full > 0 && mean_shape == [full] && variances_shape == [dim] => {
            Ok(Projection::new(mean, components, variances, about))
        }
        _ => Err(format!("components {shape:?}, mean {mean_shape:?} and variances {variances_shape:?}")),
    }
}

/// Dot products of some rows with one component.
fn products(rows: &[f64], component: &[f32]) -> Vec<f32> {
    let width = component.len();
    let mut products = Vec::with_capacity(rows.len() / width);
    let fours = rows.chunks_exact(4 * width);
    let rest = fours.remainder();
    // Four rows at a time read the component once.
    for four in fours {
        products.extend(dots(std::array::from_fn::<_, 4, _>(|i| &four[i * width..][..width]), component));
    }
    products.extend(rest.chunks(width).flat_map(|row| dots([row], component)));
    products
}

/// The dot product of each row with a component. Always adds the same four sums, so rows don't affect each other.
fn dots<const ROWS: usize>(rows: [&[f64]; ROWS], component: &[f32]) -> [f32; ROWS] {
    let mut sums = [[0.0f64; 4]; ROWS];
    let (component, component_rest) = component.as_chunks::<4>();
    let (fours, rest) = (rows.map(|row| row.as_chunks::<4>().0), rows.map(|row| row.as_chunks::<4>().1));
    for (at, component) in component.iter().enumerate() {
        let component = component.map(f64::from);
        for (sums, fours) in sums.iter_mut().zip(&fours) {
            let values = &fours[at];
            // Indexing lets the compiler keep the sums in registers.
            for i in 0..4 {
                sums[i] += values[i] * component[i];
            }
        }
    }
    std::array::from_fn(|row| {
        let rest = rest[row].iter().zip(component_rest).map(|(value, weight)| value * f64::from(*weight));
        (sums[row].iter().sum::<f64>() + rest.sum::<f64>()) as f32
    })
}

/// Names a row in messages.
fn called(rows: &dyn Rows, row: usize) -> String {
    format!("row {row}{}", rows.name(row).map_or(String::new(), |name| format!(" ({name})")))
}

/// Rows that are reduced as they are read.
pub struct Reduced<'a> {
    rows: &'a dyn Rows,
    projection: &'a Projection,
}

impl<'a> Reduced<'a> {
    /// Applies a projection to rows.
    ///
    /// # Errors
    /// `Data` if it is for other dimensions.
    pub fn new(rows: &'a dyn Rows, projection: &'a Projection) -> Result<Self> {
        if rows.dim() != projection.full_dim() {
            return Err(Error::Data(format!(
                "the projection is for rows of {} dimensions, these have {}",
                projection.full_dim(),
                rows.dim()
            )));
        }
        Ok(Reduced { rows, projection })
    }
}

impl Rows for Reduced<'_> {
    fn len(&self) -> usize {
        self.rows.len()
    }

    fn dim(&self) -> usize {
        self.projection.dim()
    }

    fn read(&self, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        let (full, dim) = (self.projection.full_dim(), self.projection.dim());
        let step = (BLOCK / (full * size_of::<f32>())).max(1);
        let mut whole = Vec::new();
        for (start, out) in rows.clone().step_by(step).zip(out.chunks_mut(step * dim)) {
            let range = start..(start + step).min(rows.end);
            whole.resize(range.len() * full, 0.0);
            self.rows.read(range, &mut whole)?;
            out.copy_from_slice(&self.projection.apply(&whole));
            if let Some(at) = out.iter().position(|v| !v.is_finite()) {
                let row = start + at / dim;
                return Err(Error::Data(format!(
                    "{} is not finite in fewer dimensions: dimension {} is {}",
                    called(self.rows, row),
                    at % dim,
                    out[at]
                )));
            }
        }
        Ok(())
    }

    fn name(&self, row: usize) -> Option<String> {
        self.rows.name(row)
    }
}
