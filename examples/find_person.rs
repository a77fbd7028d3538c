//! The pictures of a folder that look most like one picture.
//!
//!     cargo run --example find_person -- weights/demo.safetensors person.png figures/bounding_box_test

use lat_wgpu::checkpoint::{self, Settings};
use lat_wgpu::embeddings::Embeddings;
use lat_wgpu::error::{Error, Result};
use lat_wgpu::gpu::{Context, ContextOptions};
use lat_wgpu::images::decode::DecodeOptions;
use lat_wgpu::images::preprocess;
use lat_wgpu::images::walk;
use lat_wgpu::retrieval::neighbours::Neighbours;
use lat_wgpu::tasks::embed::Embedder;
use std::path::{Path, PathBuf};

/// How many pictures are shown.
const SHOWN: usize = 5;

fn find(model: &Path, query: &Path, folder: &Path) -> Result<Vec<(String, f32)>> {
    let network = checkpoint::load(model, &Settings::default())?;
    let context = Context::open(&ContextOptions::from_environment(None))?;
    let mut embedder = Embedder::new(&context, &network, None, context.default_memory())?;

    // Each picture is stretched to the network's input size; a batch becomes (pictures, R·D).
    let mut embed = |paths: &[PathBuf]| -> Result<Embeddings> {
        let mut rows = Vec::new();
        for batch in paths.chunks(embedder.batch()) {
            let read =
                |path: &PathBuf| preprocess::load(path, DecodeOptions::default(), network.config.image);
            let pictures = batch.iter().map(read).collect::<Result<Vec<_>>>()?;
            rows.extend(embedder.embed(&pictures)?);
        }
        let paths = paths.iter().map(|path| path.display().to_string()).collect();
        Ok(Embeddings { paths, dim: embedder.dim(), rows })
    };
    let pictures = walk::list_pictures(&[folder.to_path_buf()], false)?.pictures;
    let gallery = embed(&pictures.into_iter().map(|picture| picture.path).collect::<Vec<_>>())?;
    let query = embed(&[query.to_path_buf()])?;

    let mut neighbours = Neighbours::new(&context, &query, &gallery, context.default_memory())?;
    let nearest = neighbours.nearest(0..1, SHOWN)?.remove(0);
    Ok(nearest.into_iter().map(|found| (gallery.paths[found.index].clone(), found.distance)).collect())
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
