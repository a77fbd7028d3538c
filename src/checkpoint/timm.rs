//! Arguments of timm's `create_model` for the same backbone.

use crate::shape::{Activation, VitConfig};
use serde_json::{Value, json};

/// Returns the `timm` entry of a file's metadata: an `architecture`, and keyword `arguments` that override its
/// defaults.
///
/// timm has no overlapping patches and no other ε of LayerNorm, and positions for all prefix tokens or for none.
/// tools/load_timm.py adds the rest from the metadata and the tensors.
pub(super) fn create_model(config: &VitConfig) -> Value {
    let (rows, columns) = config.grid();
    // timm computes int(dim · ratio), and the product may be just below the width.
    let exact = config.mlp_hidden as f64 / config.dim as f64;
    let cut = (config.dim as f64 * exact) as usize != config.mlp_hidden;
    let mlp_ratio = if cut { (config.mlp_hidden as f64 + 0.5) / config.dim as f64 } else { exact };
    json!({
        "architecture": if config.dist_token { "deit_base_distilled_patch16_224" } else { "vit_base_patch16_224" },
        "arguments": {
            "img_size": [rows * config.patch, columns * config.patch],
            "patch_size": config.patch,
            "embed_dim": config.dim,
            "depth": config.depth,
            "num_heads": config.heads,
            "mlp_ratio": mlp_ratio,
            "act_layer": match config.act {
                Activation::Gelu => "gelu",
                Activation::QuickGelu => "quick_gelu",
            },
            "init_values": config.layer_scale.then_some(1.0),
            "pre_norm": config.norm_pre,
            "reg_tokens": config.registers,
            "no_embed_class": config.prefix_rows < config.prefix(),
            "num_classes": 0,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::ImageSize;

    #[test]
    fn timm_finds_the_width_of_the_mlp() {
        for (dim, mlp_hidden) in [(768, 3072), (49, 1), (20, 44), (1176, 4703), (36, 100)] {
            let image = ImageSize::square(32);
            let config = VitConfig { mlp_hidden, ..VitConfig::plain(image, 16, dim, 1, 1) };
            let ratio = create_model(&config)["arguments"]["mlp_ratio"].as_f64().unwrap();
            assert_eq!((dim as f64 * ratio) as usize, mlp_hidden, "{dim}");
        }
    }

    #[test]
    fn overlapping_patches_give_an_image_of_their_grid() {
        let image = ImageSize { height: 40, width: 33 };
        let config = VitConfig { stride: 8, ..VitConfig::plain(image, 16, 64, 1, 1) };
        let arguments = create_model(&config)["arguments"].clone();
        assert_eq!((config.grid(), &arguments["img_size"]), ((4, 3), &json!([64, 48])));
    }
}
