//! The library's interface: a model on an adapter, galleries to search, and scores of data sets.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::checkpoint::{self, Network, Settings};
use crate::datasets::cameras::{Cameras, NO_CAMERA};
use crate::datasets::{LoadOptions, TestSet};
use crate::embeddings::{Embeddings, gallery, rows::Rows};
use crate::error::{Error, Result};
use crate::gpu::{Context, ContextOptions, Precision};
use crate::images::walk;
use crate::retrieval::metrics::Scores;
use crate::shape::ImageSize;
use crate::tasks::embed::{Embedder, ImageOptions};
use crate::tasks::evaluate::{self, EvaluationSet, evaluate};
use crate::tasks::models;
use crate::tasks::search::{Match, Verdicts, check_fits, check_weights, matches, nearest, verdicts};

/// Options of [`Model::open_with`].
///
/// ```
/// let mut options = lat_wgpu::ModelOptions::default();
/// options.precision = lat_wgpu::Precision::F16;
/// options.batch = Some(32);
/// ```
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct ModelOptions {
    /// An adapter's index, or a part of its name in any case. `None`: the environment's `LAT_ADAPTER`, else the best adapter.
    pub adapter: Option<String>,
    /// Storage of weights and activations; sums are f32 with either.
    pub precision: Precision,
    /// Images per batch. `None`: the smallest batch that fills the adapter.
    pub batch: Option<usize>,
    /// Embeds each image and its mirror image, and takes the mean of the two.
    pub flip: bool,
    /// With a camera embedding or statistics: the camera of all images, or "none" for no camera's row. `None`: from the
    /// names of images as in Market-1501, from folders if the statistics are by folders, or from the labels of a data
    /// set.
    pub camera: Option<String>,
}

/// A model on an adapter. Threads may share it; they take turns on the adapter.
///
/// ```no_run
/// # fn main() -> lat_wgpu::Result<()> {
/// let model = lat_wgpu::Model::open("weights/demo.safetensors")?;
/// println!("{}: embeddings of {} dimensions", model.adapter(), model.dim());
/// # Ok(())
/// # }
/// ```
pub struct Model {
    path: PathBuf,
    network: Network,
    context: Arc<Context>,
    embedder: Mutex<Embedder<Arc<Context>>>,
    image_options: ImageOptions,
    camera: Option<String>,
}

impl Model {
    /// Opens weights on the best adapter: a plain ViT in `.safetensors`, a model that `lat-wgpu train` wrote, a name that
    /// `lat-wgpu models` lists, or `hf:OWNER/NAME` of the Hugging Face hub. A name may download the model once.
    ///
    /// # Errors
    /// [`Error::Network`] for a model that can't be downloaded; [`Error::Io`], [`Error::Weights`] or [`Error::Tensor`] if
    /// the file can't be used; [`Error::Gpu`] without an adapter.
    pub fn open(path: impl AsRef<Path>) -> Result<Model> {
        Model::open_with(path, &ModelOptions::default())
    }

    /// Opens weights with options.
    ///
    /// # Errors
    /// Those of [`Model::open`]; [`Error::TooLarge`] if the batch doesn't fit into the adapter's memory;
    /// [`Error::Usage`] for a camera without a row in the model's camera embedding.
    pub fn open_with(path: impl AsRef<Path>, options: &ModelOptions) -> Result<Model> {
        let path = models::file(path.as_ref(), false, &())?;
        let ModelOptions { adapter, precision, batch, flip, camera } = options.clone();
        let no_cameras = camera.as_deref() == Some(NO_CAMERA);
        let network = checkpoint::load(&path, &Settings { no_cameras, ..Settings::default() })?;
        let cameras = Cameras::given(camera.as_deref());
        if camera.is_some() {
            cameras.check(&network.config, &[String::new()])?;
        }
        let device = ContextOptions { precision, ..ContextOptions::from_environment(adapter) };
        let context = Arc::new(Context::open(&device)?);
        let mut embedder = Embedder::new(Arc::clone(&context), &network, batch, context.default_memory())?;
        embedder.set_cameras(cameras);
        let image_options = ImageOptions { flip, ..ImageOptions::default() };
        Ok(Model { path, network, context, embedder: Mutex::new(embedder), image_options, camera })
    }

    /// Embeds image files, and folders with all images below them; keeps the order of the sorted names.
    ///
    /// # Errors
    /// [`Error::Io`] if an input can't be listed; [`Error::NothingToDo`] if the inputs hold no image; [`Error::Data`]
    /// if the model has a camera embedding and an image's camera isn't known; [`Error::Gpu`] if the adapter fails.
    /// Images that can't be read are no error: see [`EmbeddedImages::skipped`].
    pub fn embed(&self, inputs: &[impl AsRef<Path>]) -> Result<EmbeddedImages> {
        let inputs: Vec<PathBuf> = inputs.iter().map(|input| input.as_ref().to_path_buf()).collect();
        let images = walk::list_images(&inputs, false)?.images;
        let mut embedder = self.embedder.lock().unwrap_or_else(PoisonError::into_inner);
        let embeddings = Embeddings { paths: Vec::new(), dim: embedder.dim(), rows: Vec::new() };
        let mut embedded = EmbeddedImages { embeddings, files: Vec::new(), skipped: Vec::new() };
        for row in embedder.embed_images(images, self.image_options, &()) {
            match row? {
                (image, Ok(row)) => {
                    embedded.embeddings.paths.push(image.name);
                    embedded.embeddings.rows.extend(row);
                    embedded.files.push(image.path);
                }
                (image, Err(error)) => embedded.skipped.push((image.path, error)),
            }
        }
        Ok(embedded)
    }

    /// Scores the model on a data set, a folder or a `.csv` of `path,person,camera,split`: rank-k, mAP and mINP under
    /// Market-1501's protocol.
    ///
    /// ```no_run
    /// # fn main() -> lat_wgpu::Result<()> {
    /// let scores = lat_wgpu::Model::open("weights/demo.safetensors")?.evaluate("Market-1501")?;
    /// println!("rank-1 {:.2} %, mAP {:.2} %", 100.0 * scores.ranks[0], 100.0 * scores.map);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Data`] if the data set has no query with a match; [`Error::Io`] if it can't be read; [`Error::Gpu`] if
    /// the adapter fails.
    pub fn evaluate(&self, data: impl AsRef<Path>) -> Result<Scores> {
        let batch = self.embedder.lock().unwrap_or_else(PoisonError::into_inner).batch();
        let request = evaluate::Request {
            batch: Some(batch),
            image_options: self.image_options,
            camera: self.camera.clone(),
            ..evaluate::Request::default()
        };
        let set = TestSet::load(data.as_ref(), &LoadOptions::default(), request.rules.across_cameras())?;
        let set = EvaluationSet::embed(set, &self.network, &self.context, &request, &())?;
        Ok(evaluate(&set, &request, &self.context, &())?.plain)
    }

    /// Dimensions of an embedding: R·D.
    pub fn dim(&self) -> usize {
        self.network.config.embedding_len()
    }

    /// Size that images are stretched to, in pixels.
    pub fn size(&self) -> ImageSize {
        self.network.config.image
    }

    /// The adapter's name.
    pub fn adapter(&self) -> &str {
        &self.context.adapter.name
    }

    /// Remarks about the file, such as tensors that are not used.
    pub fn notes(&self) -> &[String] {
        &self.network.notes
    }
}

/// Embeddings that [`Model::embed`] made.
///
/// ```no_run
/// # fn main() -> lat_wgpu::Result<()> {
/// let embedded = lat_wgpu::Model::open("weights/demo.safetensors")?.embed(&["crops"])?;
/// for (row, file) in embedded.files.iter().enumerate() {
///     println!("{}: {:?}", file.display(), &embedded.embeddings.row(row)[..3]);
/// }
/// for (file, reason) in &embedded.skipped {
///     eprintln!("skipped {}: {reason}", file.display());
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct EmbeddedImages {
    /// One row (R·D) for each readable image.
    pub embeddings: Embeddings,
    /// The file of each row.
    pub files: Vec<PathBuf>,
    /// Images that could not be read, with the reason.
    pub skipped: Vec<(PathBuf, Error)>,
}

/// Embeddings to search in.
///
/// ```no_run
/// use lat_wgpu::{Gallery, Model};
/// # fn main() -> lat_wgpu::Result<()> {
/// let model = Model::open("weights/demo.safetensors")?;
/// // What `lat-wgpu embed` wrote.
/// let gallery = Gallery::open(&model, "gallery.safetensors")?;
/// let queries = model.embed(&["query"])?;
/// for (query, matches) in queries.files.iter().zip(gallery.search(&queries.embeddings, 1)?) {
///     println!("{} looks like {}", query.display(), matches[0].path);
/// }
/// # Ok(())
/// # }
/// ```
pub struct Gallery {
    rows: GalleryRows,
    context: Arc<Context>,
    verdicts: Verdicts,
}

enum GalleryRows {
    InMemory(Embeddings),
    Stored(gallery::Gallery),
}

impl Gallery {
    /// Makes a gallery of embeddings in memory.
    ///
    /// # Errors
    /// [`Error::Data`] if they have another number of dimensions than the model's.
    pub fn new(model: &Model, embeddings: Embeddings) -> Result<Gallery> {
        if embeddings.dim != model.dim() {
            return Err(Error::Data(format!(
                "the embeddings have {} dimensions, those of {} have {}",
                embeddings.dim,
                model.path.display(),
                model.dim()
            )));
        }
        Ok(Gallery::from_rows(model, GalleryRows::InMemory(embeddings), false))
    }

    /// Opens a file of embeddings (`.safetensors`, `.npy`, `.parquet`) or an index folder. Its rows stay on disk.
    ///
    /// # Errors
    /// [`Error::Io`] if it can't be read; [`Error::Data`] if it was embedded with another model or other settings.
    pub fn open(model: &Model, path: impl AsRef<Path>) -> Result<Gallery> {
        let stored = gallery::Gallery::open(path.as_ref())?;
        check_fits(&stored, &model.network, None, model.image_options.flip)?;
        check_weights(&model.path, &model.network, &stored, None, false)?;
        let is_flipped = stored.is_flipped();
        Ok(Gallery::from_rows(model, GalleryRows::Stored(stored), is_flipped))
    }

    fn from_rows(model: &Model, rows: GalleryRows, is_flipped: bool) -> Gallery {
        let verdicts = verdicts(&model.network, model.image_options.flip || is_flipped, false);
        Gallery { rows, context: Arc::clone(&model.context), verdicts }
    }

    /// Finds the images that are nearest to each query: one list for each row of `queries`, of at most `top` matches,
    /// nearest first.
    ///
    /// # Errors
    /// [`Error::Usage`] if `top` is larger than 1024 or the queries have another number of dimensions; [`Error::Gpu`]
    /// if the adapter fails.
    pub fn search(&self, queries: &Embeddings, top: usize) -> Result<Vec<Vec<Match>>> {
        let (rows, paths): (&dyn Rows, &[String]) = match &self.rows {
            GalleryRows::InMemory(embeddings) => (embeddings, &embeddings.paths),
            GalleryRows::Stored(stored) => (stored, stored.names()),
        };
        let limits = (top, self.context.default_memory());
        let mut lists = Vec::with_capacity(queries.len());
        nearest(&self.context, queries, rows, limits, &(), |_, list| {
            lists.push(matches(list, paths, self.verdicts));
        })?;
        Ok(lists)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embeddings::{Dtype, EmbeddingWriter};
    use std::collections::BTreeMap;

    fn model() -> Model {
        Model::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("weights/demo.safetensors")).unwrap()
    }

    #[test]
    fn a_gallery_in_memory_and_one_on_disk_find_the_same() {
        let folder = tempfile::tempdir().unwrap();
        for (name, red) in [("one.png", 0), ("two.png", 200)] {
            let image = image::RgbImage::from_fn(64, 128, |x, y| image::Rgb([red, x as u8, y as u8]));
            image.save(folder.path().join(name)).unwrap();
        }
        std::fs::write(folder.path().join("broken.jpg"), "no image").unwrap();
        let model = model();
        let images = model.embed(&[folder.path()]).unwrap();
        assert_eq!(images.embeddings.paths, ["one.png", "two.png"]);
        assert_eq!(images.files[1], folder.path().join("two.png"));
        assert_eq!(images.skipped[0].0, folder.path().join("broken.jpg"));

        let file = folder.path().join("g.safetensors");
        let Embeddings { paths, dim, .. } = &images.embeddings;
        let mut writer = EmbeddingWriter::create(&file, *dim, Dtype::F32, paths, &BTreeMap::new()).unwrap();
        for (row, path) in paths.iter().enumerate() {
            writer.push(path, images.embeddings.row(row)).unwrap();
        }
        writer.finish().unwrap();
        let queries = model.embed(&[folder.path().join("two.png")]).unwrap().embeddings;
        let stored = Gallery::open(&model, &file).unwrap();
        let in_memory = Gallery::new(&model, images.embeddings).unwrap();
        let found = in_memory.search(&queries, 5).unwrap();
        assert_eq!(found, stored.search(&queries, 5).unwrap());
        assert_eq!((found[0].len(), found[0][0].row, found[0][0].distance), (2, 1, 0.0));

        let none = Embeddings { paths: Vec::new(), dim: queries.dim, rows: Vec::new() };
        assert!(in_memory.search(&none, 5).unwrap().is_empty());
        let narrow = Embeddings { paths: vec!["a".to_string()], dim: 2, rows: vec![1.0, 0.0] };
        assert!(
            matches!(Gallery::new(&model, narrow), Err(Error::Data(text)) if text.contains("2 dimensions"))
        );
    }
}
