//! The images of a folder that look most like one image.
//!
//!     cargo run --example find_person -- weights/demo.safetensors person.png figures/bounding_box_test

use lat_wgpu::{Error, Gallery, Model, Result};

/// Matches to print.
const SHOWN: usize = 5;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, query, folder] = &arguments[..] else {
        return Err(Error::Usage("usage: find_person MODEL.safetensors QUERY FOLDER".to_string()));
    };
    let model = Model::open(model)?;
    let images = model.embed(&[folder])?;
    let gallery = Gallery::new(&model, images.embeddings)?;
    let matches = gallery.search(&model.embed(&[query])?.embeddings, SHOWN)?;
    for found in matches.iter().flatten() {
        println!("{:.4}  {}", found.distance, images.files[found.row].display());
    }
    Ok(())
}
