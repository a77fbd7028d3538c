//! Published releases of ViTs: recognised by the names and shapes of their tensors, with the settings that they were
//! meant to be used with.

use std::path::Path;

use super::metadata::Metadata;
use super::names::some_of;
use super::parameters::{CAMERAS, POSITIONS, REATTENTION};
use super::positions::Grid;
use super::pytorch::Weights;
use super::recognise::Settings;
use super::safetensors::FileTensor;
use crate::error::{Error, Result};
use crate::shape::{CameraTable, ImageSize, Normalize, PartLayout, PartTokens, VitConfig};

/// A release, and what its weights need.
pub(super) struct Release {
    /// Names of the releases that look the same.
    pub(super) name: &'static str,
    /// Licence of the weights.
    pub(super) licence: &'static str,
    pub(super) metadata: Metadata,
    /// Tensors that are left out, and why.
    pub(super) dropped: Vec<String>,
    /// Remarks for the user.
    pub(super) notes: Vec<String>,
}

/// Prefixes that wrappers of PyTorch add to all names.
const WRAPPED: [&str; 2] = ["module.", "_orig_mod."];

/// Name of the patch projection.
const PROJECTION: &str = "patch_embed.proj.weight";

/// Parts of names that show another network, and the reason to refuse it.
const REFUSED: [(&str, &str); 3] = [
    ("part_token", "PASS's part tokens, whose outputs are a part of its embedding"),
    ("patch_embed.conv1.", "a convolutional stem before the patches, as in DeepViT-S and DeepViT-L"),
    ("patch_embed.conv.", "a convolutional stem before the patches, as in TransReID-SSL's ICS variant"),
];

/// Factor of the camera embedding in TransReID's configurations.
const CAMERA_WEIGHT: f32 = 3.0;

/// Most cameras that a camera embedding may have; more rows are those of pairs of camera and view.
const MOST_CAMERAS: usize = 32;

/// Inputs of person re-identification, in patches.
const PERSONS: [Grid; 2] = [(16, 8), (24, 8)];

/// Licence of weights that are of no known release.
pub(super) const UNKNOWN: &str = "unknown";

const PERSONVIT: &str = "PersonViT's repository has no licence file";
const TRANSREID: &str = "MIT if it is TransReID or TransReID-SSL; PersonViT's repository has no licence file";
const SSL: &str = "MIT if it is TransReID-SSL; PersonViT's repository has no licence file";

/// Recognises the release of a file, and leaves the tensors of its network.
///
/// # Errors
/// [`Error::Tensor`] for a tensor of a release that isn't a plain ViT.
pub(super) fn recognise(path: &Path, weights: &mut Weights, settings: &Settings) -> Result<Release> {
    let mut dropped = std::mem::take(&mut weights.dropped);
    let tensors = &mut weights.container.tensors;
    while let Some(prefix) =
        WRAPPED.iter().find(|prefix| tensors.iter().all(|tensor| tensor.name.starts_with(**prefix)))
    {
        strip(tensors, prefix);
    }
    let is_distilled_by_itself =
        weights.wrappers.last().is_some_and(|last| matches!(last.as_str(), "teacher" | "student"));
    if is_distilled_by_itself && tensors.iter().any(|tensor| tensor.name.starts_with("backbone.")) {
        drop_if(tensors, &mut dropped, "outside of the backbone", |name| !name.starts_with("backbone."));
        strip(tensors, "backbone.");
    }
    let refused = REFUSED
        .iter()
        .find_map(|(part, reason)| Some((tensors.iter().find(|tensor| tensor.name.contains(part))?, reason)));
    if let Some((tensor, reason)) = refused {
        return Err(Error::Tensor {
            path: path.to_path_buf(),
            tensor: tensor.name.clone(),
            expected: format!("a plain pre-norm ViT without it ({reason})"),
            found: tensor.describe(),
        });
    }
    let has =
        |tensors: &[FileTensor], start: &str| tensors.iter().any(|tensor| tensor.name.starts_with(start));
    let mut notes = std::mem::take(&mut weights.notes);
    let is_jigsaw = has(tensors, "base.blocks.") && has(tensors, "b1.0.");
    if is_jigsaw {
        take_jigsaw(tensors, &mut dropped);
        notes.push(
            "the embedding is the release's global feature; its four part features are not computed"
                .to_string(),
        );
    }

    let mut metadata = Metadata::default();
    let grid = place(tensors, settings, &mut metadata).unwrap_or((1, 1));
    let is_square = grid.0 == grid.1;
    let masked = weights.is_masked || weights.keys.iter().any(|key| key == "ibot_loss");
    let (name, licence, normalize, interpolation) = if has(tensors, "base.") && has(tensors, "bottleneck.") {
        if let Some(rows) = camera_rows(tensors) {
            metadata.model.cameras = Some(CameraTable {
                weight: CAMERA_WEIGHT,
                names: (1..=rows).map(|row| row.to_string()).collect(),
            });
            notes.push(format!(
                "the camera embedding is kept, with its rows as those of the cameras 1 to {rows} and the factor \
                 {CAMERA_WEIGHT} of the release's configurations"
            ));
        }
        let (name, licence) = match is_jigsaw {
            true => ("TransReID with the jigsaw branch, fine-tuned", "MIT"),
            false => ("TransReID, TransReID-SSL or PersonViT, fine-tuned", TRANSREID),
        };
        (name, licence, Normalize::Half, "bilinear")
    } else if is_distilled_by_itself && is_square {
        ("iBOT or DINO, pre-trained", "Apache-2.0", Normalize::Imagenet, "bicubic")
    } else if is_distilled_by_itself && masked {
        ("PersonViT, pre-trained by iBOT", PERSONVIT, Normalize::Half, "bicubic")
    } else if is_distilled_by_itself && weights.keys.iter().any(|key| key == "dino_loss") {
        ("TransReID-SSL, pre-trained by DINO", "MIT", Normalize::Half, "bicubic")
    } else if is_distilled_by_itself || (grid == PERSONS[0] && has(tensors, PROJECTION)) {
        ("PersonViT or TransReID-SSL, pre-trained", SSL, Normalize::Half, "bicubic")
    } else if tensors.iter().any(|tensor| tensor.name.ends_with(REATTENTION)) {
        ("DeepViT", "MIT", Normalize::Imagenet, "bicubic")
    } else if has(tensors, "decoder_embed.") || has(tensors, "decoder_blocks.") {
        ("MAE, pre-trained", "CC-BY-NC 4.0, not for commercial use", Normalize::Imagenet, "bicubic")
    } else if has(tensors, "dist_token") {
        ("DeiT, distilled", "Apache-2.0", Normalize::Imagenet, "bicubic")
    } else if weights.keys == ["model"] && has(tensors, PROJECTION) && has(tensors, "head.") {
        ("DeiT", "Apache-2.0", Normalize::Imagenet, "bicubic")
    } else if weights.keys == ["model"] && is_square && is_bare(tensors) {
        ("MAE, the encoder alone", "CC-BY-NC 4.0 if it is MAE's", Normalize::Imagenet, "bicubic")
    } else {
        return Ok(Release { name: "none that is known", licence: UNKNOWN, metadata, dropped, notes });
    };
    let (mean, std) = normalize.mean_std();
    metadata.preprocess.mean = Some(mean);
    metadata.preprocess.std = Some(std);
    metadata.preprocess.interpolation = Some(interpolation.to_string());
    // Each of them embeds the class token alone.
    metadata.model.gelt.tokens = Some(PartTokens::Global);
    metadata.model.gelt.parts = Some(PartLayout::One);
    Ok(Release { name, licence, metadata, dropped, notes })
}

/// Returns the number of rows of TransReID's camera embedding, if there is one. One by camera and view has more.
fn camera_rows(tensors: &[FileTensor]) -> Option<usize> {
    let table = tensors.iter().find(|tensor| tensor.name.strip_prefix("base.") == Some(CAMERAS))?;
    match table.shape[..] {
        [rows @ 2..=MOST_CAMERAS, 1, _] => Some(rows),
        _ => None,
    }
}

/// Returns whether there is nothing but a backbone in timm's names.
fn is_bare(tensors: &[FileTensor]) -> bool {
    let starts = ["cls_token", POSITIONS, "patch_embed.proj.", "blocks.", "norm."];
    tensors.iter().all(|tensor| starts.iter().any(|start| tensor.name.starts_with(start)))
}

/// Strips a prefix from the names that have it.
fn strip(tensors: &mut [FileTensor], prefix: &str) {
    for tensor in tensors {
        if let Some(rest) = tensor.name.strip_prefix(prefix) {
            tensor.name = rest.to_string();
        }
    }
}

/// Removes tensors by their names, and notes how many and why.
fn drop_if(
    tensors: &mut Vec<FileTensor>,
    dropped: &mut Vec<String>,
    why: &str,
    is_dropped: impl Fn(&str) -> bool,
) {
    let (out, kept): (Vec<FileTensor>, Vec<FileTensor>) =
        tensors.drain(..).partition(|tensor| is_dropped(&tensor.name));
    *tensors = kept;
    let names: Vec<&str> = out.iter().map(|tensor| tensor.name.as_str()).collect();
    if !names.is_empty() {
        dropped.push(format!("{why}: {}", some_of(&names)));
    }
}

/// Takes the last block and the norm of TransReID's global branch (`b1`), which were trained, in place of those that
/// they were copied from.
fn take_jigsaw(tensors: &mut Vec<FileTensor>, dropped: &mut Vec<String>) {
    let number =
        |tensor: &FileTensor| tensor.name.strip_prefix("base.blocks.")?.split('.').next()?.parse().ok();
    let last: usize = tensors.iter().filter_map(number).max().unwrap_or_default();
    let block = format!("base.blocks.{last}.");
    let is_copied = |name: &str| name.starts_with(&block) || name.starts_with("base.norm.");
    drop_if(tensors, dropped, "the jigsaw branch replaces them", is_copied);
    drop_if(tensors, dropped, "the block of the jigsaw branch's part features", |name| {
        name.starts_with("b2.")
    });
    for tensor in tensors {
        for (from, to) in [("b1.0.", block.as_str()), ("b1.1.", "base.norm.")] {
            if let Some(rest) = tensor.name.strip_prefix(from) {
                tensor.name = format!("{to}{rest}");
                break;
            }
        }
    }
}

/// Finds the grid of the position table. If it isn't square, notes it in the metadata, with the size and the stride of
/// images of persons that it fits.
fn place(tensors: &[FileTensor], settings: &Settings, metadata: &mut Metadata) -> Option<Grid> {
    let (lead, projection) =
        tensors.iter().find_map(|tensor| Some((tensor.name.strip_suffix(PROJECTION)?, tensor)))?;
    let shape = |name: &str| {
        let full = format!("{lead}{name}");
        tensors.iter().find(|tensor| tensor.name == full).map(|tensor| &tensor.shape[..])
    };
    let &[_, _, patch @ 1..=64, _] = &projection.shape[..] else { return None };
    let &[1, rows, _] = shape(POSITIONS)? else { return None };
    let prefix = if shape("dist_token").is_some() { 2 } else { 1 };
    let positions = rows.checked_sub(prefix).filter(|positions| (1..1 << 20).contains(positions))?;
    let side = positions.isqrt();
    if side * side == positions {
        return Some((side, side));
    }
    let grid = |image: ImageSize, stride: usize| {
        let config = VitConfig { stride, ..VitConfig::plain(image, patch, 1, 1, 1) };
        Some(config.grid()).filter(|(rows, columns)| rows * columns == positions)
    };
    // A size of the user decides.
    if let Some(size) = settings.size.filter(|size| size.height.min(size.width) >= patch) {
        let stride = settings.stride.unwrap_or(patch).max(1);
        if let Some(grid) = grid(size, stride) {
            return Some(grid);
        }
    }
    let image = |(rows, columns): Grid| ImageSize { height: rows * patch, width: columns * patch };
    let usual = PERSONS
        .into_iter()
        .flat_map(|grid| (patch.div_ceil(2)..=patch).rev().map(move |stride| (grid, stride)));
    // Other sizes of twice or three times the width, without overlap.
    let others = [2, 3].into_iter().filter_map(|ratio| {
        let columns = (positions / ratio).isqrt();
        Some(((ratio * columns, columns), patch)).filter(|_| columns > 0)
    });
    let (size, stride, found) = usual.chain(others).find_map(|(patches, stride)| {
        let image = image(patches);
        Some((image, stride, grid(image, stride)?))
    })?;
    metadata.preprocess.size = Some([size.height, size.width]);
    metadata.model.stride = Some(stride);
    metadata.model.grid = Some(found);
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(name: &str, shape: &[usize]) -> FileTensor {
        FileTensor {
            name: name.to_string(),
            dtype: "F32".to_string(),
            shape: shape.to_vec(),
            bytes: 0,
            start: 0,
        }
    }

    /// Size, stride and grid of a table with a number of positions.
    fn placed(
        positions: usize,
        patch: usize,
        settings: &Settings,
    ) -> (Option<[usize; 2]>, Option<usize>, Option<Grid>) {
        let mut metadata = Metadata::default();
        let tensors = [
            tensor("base.patch_embed.proj.weight", &[64, 3, patch, patch]),
            tensor("pos_embed", &[1, 1, 1]),
            tensor("base.pos_embed", &[1, 1 + positions, 64]),
        ];
        let grid = place(&tensors, settings, &mut metadata);
        assert!(metadata.model.grid.is_none_or(|stored| Some(stored) == grid));
        (metadata.preprocess.size, metadata.model.stride, grid)
    }

    #[test]
    fn tables_of_persons_find_their_size_and_stride() {
        let settings = Settings::default();
        for (positions, patch, size, stride, grid) in [
            (128, 16, [256, 128], 16, (16, 8)),
            (210, 16, [256, 128], 12, (21, 10)),
            (242, 16, [256, 128], 11, (22, 11)),
            (192, 16, [384, 128], 16, (24, 8)),
            (310, 16, [384, 128], 12, (31, 10)),
            (512, 8, [256, 128], 8, (32, 16)),
            (72, 32, [384, 192], 32, (12, 6)),
        ] {
            assert_eq!(placed(positions, patch, &settings), (Some(size), Some(stride), Some(grid)));
        }
        // A square is left to the loader, as published tables are; no usual size leaves it to the user.
        assert_eq!(placed(196, 16, &settings), (None, None, Some((14, 14))));
        assert_eq!(placed(7 * 13, 16, &settings), (None, None, None));
        let size =
            |height, width| Settings { size: Some(ImageSize { height, width }), ..Settings::default() };
        assert_eq!(placed(128, 16, &size(512, 64)), (None, None, Some((32, 4))));
        assert_eq!(placed(128, 16, &size(8, 8)).2, Some((16, 8)));
    }
}
