//! Images from Python: paths of files and folders, arrays, and images of Pillow, which are taken one after the other.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use lat_wgpu::error::{Error, Result};
use lat_wgpu::images::decode::{self, DecodeOptions, Rgb};
use lat_wgpu::images::preprocess;
use lat_wgpu::images::walk::{self, Image};
use lat_wgpu::shape::ImageSize;
use lat_wgpu::tasks::embed::Source;
use numpy::{PyReadonlyArray3, PyReadonlyArray4, PyUntypedArray, PyUntypedArrayMethods, ndarray};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyIterator, PyString};

use crate::errors::{raised, usage};

/// An image from Python.
pub enum Given {
    /// A file.
    File(Image),
    /// Pixels, which are dropped when they are resized.
    Pixels(Rgb),
}

impl Given {
    fn file(path: PathBuf) -> Given {
        let name = walk::readable(path.as_os_str());
        Given::File(Image { path, name })
    }

    /// Returns the path of a file.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Given::File(image) => Some(&image.path),
            Given::Pixels(_) => None,
        }
    }

    /// Reads the image in its own size.
    ///
    /// # Errors
    /// [`Error::Image`] if it can't be read.
    pub fn read(self) -> Result<Rgb> {
        match self {
            Given::File(image) => decode::read(&image.path, DecodeOptions::default()),
            Given::Pixels(pixels) => Ok(pixels),
        }
    }
}

impl Source for Given {
    fn name(&self) -> &str {
        match self {
            Given::File(image) => &image.name,
            Given::Pixels(_) => "an image without a name",
        }
    }

    fn load(&mut self, options: DecodeOptions, size: ImageSize) -> Result<Rgb> {
        match self {
            Given::File(image) => preprocess::load(&image.path, options, size),
            Given::Pixels(pixels) => {
                let fitted = preprocess::resize_bicubic(pixels, size);
                *pixels = Rgb { height: 0, width: 0, pixels: Vec::new() };
                Ok(fitted)
            }
        }
    }
}

/// The images of an argument.
pub struct Images<'py> {
    items: Option<Bound<'py, PyIterator>>,
    /// Images that were listed and not yet returned.
    listed: VecDeque<Given>,
    /// Number of images as far as it is known, for the progress.
    pub total: usize,
}

impl<'py> Images<'py> {
    /// Begins with an argument: an image, or an array or iterable of them.
    pub fn of(given: &Bound<'py, PyAny>) -> PyResult<Images<'py>> {
        let mut images = Images { items: None, listed: VecDeque::new(), total: 0 };
        if let Some(path) = path_of(given)? {
            images.list(path, false).map_err(|error| raised(given.py(), &error))?;
            images.total = images.listed.len();
        } else if let Some(pixels) = of_pillow(given)? {
            images.listed.push_back(Given::Pixels(pixels));
            images.total = 1;
        } else {
            let wrong = |_| wrong(given, "(N, H, W, 3)");
            if given.cast::<PyUntypedArray>().is_ok() {
                given.extract::<PyReadonlyArray4<'_, u8>>().map_err(wrong)?;
            }
            images.total = given.len().unwrap_or(0);
            images.items = Some(given.try_iter().map_err(wrong)?);
        }
        Ok(images)
    }

    /// Adds a file, or the images below a folder. `named` begins their names with the folder.
    fn list(&mut self, path: PathBuf, named: bool) -> Result<()> {
        if !path.is_dir() {
            self.listed.push_back(Given::file(path));
            return Ok(());
        }
        let prefix = if named { walk::folder_prefix(&path) } else { String::new() };
        for Image { path, name } in walk::list_images(&[path], false)?.images {
            self.listed.push_back(Given::File(Image { path, name: format!("{prefix}{name}") }));
        }
        Ok(())
    }

    /// Returns the next image.
    ///
    /// # Errors
    /// Those of Python's iterator; `TypeError` for an item that is no image.
    pub fn next(&mut self) -> PyResult<Option<Given>> {
        loop {
            if let Some(image) = self.listed.pop_front() {
                return Ok(Some(image));
            }
            let Some(item) = self.items.as_mut().and_then(Iterator::next).transpose()? else {
                return Ok(None);
            };
            match path_of(&item)? {
                Some(path) => self.list(path, true).map_err(|error| raised(item.py(), &error))?,
                None => return image_of(&item).map(Some),
            }
        }
    }
}

/// Returns the single image of an argument: a path, an array (H, W, 3), or an image of Pillow.
pub fn image_of(item: &Bound<'_, PyAny>) -> PyResult<Given> {
    if let Some(path) = path_of(item)? {
        return Ok(Given::file(path));
    }
    if let Some(pixels) = of_pillow(item)? {
        return Ok(Given::Pixels(pixels));
    }
    let array: PyReadonlyArray3<'_, u8> = item.extract().map_err(|_| wrong(item, "(H, W, 3)"))?;
    pixels_of(item.py(), array.as_array()).map(Given::Pixels)
}

/// Returns the path in an argument, if it is one.
pub fn path_of(given: &Bound<'_, PyAny>) -> PyResult<Option<PathBuf>> {
    let is_path = given.cast::<PyString>().is_ok() || given.hasattr("__fspath__")?;
    is_path.then(|| given.extract()).transpose()
}

/// Returns the upright pixels of an image of Pillow, if it is one.
fn of_pillow(given: &Bound<'_, PyAny>) -> PyResult<Option<Rgb>> {
    let py = given.py();
    // Without the module there are no such images.
    let module = py.import("sys")?.getattr("modules")?.call_method1("get", ("PIL.Image",))?;
    if module.is_none() || !given.is_instance(&module.getattr("Image")?)? {
        return Ok(None);
    }
    let upright = py.import("PIL.ImageOps")?.call_method1("exif_transpose", (given,))?;
    let pixels =
        py.import("numpy")?.call_method1("asarray", (upright.call_method1("convert", ("RGB",))?,))?;
    let array: PyReadonlyArray3<'_, u8> = pixels.extract().map_err(|_| wrong(&pixels, "(H, W, 3)"))?;
    pixels_of(py, array.as_array()).map(Some)
}

const NO_IMAGES: &str = "images must be paths, images of Pillow, a uint8 array (N, H, W, 3), or an iterable of paths, images of \
     Pillow and uint8 arrays (H, W, 3)";

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

/// Copies pixels (H, W, 3) in any memory order, since the interpreter may change the array while the adapter works.
fn pixels_of(py: Python<'_>, view: ndarray::ArrayView3<'_, u8>) -> PyResult<Rgb> {
    let (height, width, channels) = view.dim();
    if channels != 3 || height == 0 || width == 0 {
        return Err(usage(
            py,
            format!(
                "an image must be (H, W, 3) with H and W at least 1; this is ({height}, {width}, {channels})"
            ),
        ));
    }
    let pixels = view.as_slice().map_or_else(|| view.iter().copied().collect(), <[u8]>::to_vec);
    Ok(Rgb { height, width, pixels })
}

/// Lists the image files of a folder and the folders in it, in the order in which they are embedded.
///
/// folder: a folder; its images are sorted by name. A file is listed as it is.
#[pyfunction]
pub fn list_images(py: Python<'_>, folder: PathBuf) -> PyResult<Vec<PathBuf>> {
    let listing = walk::list_images(&[folder], false).map_err(|error: Error| raised(py, &error))?;
    Ok(listing.images.into_iter().map(|image| image.path).collect())
}
