//! The images of a folder that look most like one image.
//!
//!     cargo run --example find_person -- weights/demo.safetensors person.png figures/bounding_box_test

use lat_wgpu::checkpoint::{self, Settings};
use lat_wgpu::error::{Error, Result};
use lat_wgpu::gpu::{Context, ContextOptions};
use lat_wgpu::images::walk;
use lat_wgpu::retrieval::neighbours::Neighbours;
use lat_wgpu::tasks::embed::{Embedder, LookOptions};
use std::path::{Path, PathBuf};

/// How many images are shown.
const SHOWN: usize = 5;

fn find(model: &Path, query: &Path, folder: &Path) -> Result<Vec<(String, f32)>> {
    let network = checkpoint::load(model, &Settings::default())?;
    let context = Context::open(&ContextOptions::from_environment(None))?;
    let mut embedder = Embedder::new(&context, &network, None, context.default_memory())?;

    let images = |input: &Path| Ok::<_, Error>(walk::list_images(&[input.to_path_buf()], false)?.images);
    let shown = images(folder)?;
    let mut embed = |images| embedder.embeddings(images, LookOptions::default(), &());
    let ((gallery, places), (query, _)) = (embed(shown.clone())?, embed(images(query)?)?);

    let mut neighbours = Neighbours::new(&context, &query, &gallery, context.default_memory())?;
    let nearest = neighbours.nearest(0..1, SHOWN)?.remove(0);
    Ok(nearest
        .into_iter()
        .map(|found| (shown[places[found.index]].path.display().to_string(), found.distance))
        .collect())
}

fn main() -> Result<()> {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [model, query, folder] = &arguments[..] else {
        return Err(Error::Usage("usage: find_person MODEL.safetensors QUERY FOLDER".to_string()));
    };
    for (path, distance) in find(model, query, folder)? {
        println!("{distance:.4}  {path}");
    }
    Ok(())
}
