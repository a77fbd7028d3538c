//! Random weights, to train from scratch.

use std::collections::BTreeMap;

use super::{HostTensor, is_prefix, parameter_shapes};
use crate::rng;
use crate::shape::VitConfig;

/// Stream of random numbers. The upper byte is the use, as in `datasets::sampler`.
const STREAM: u64 = 6 << 56;

/// Initialises a backbone as timm does: matrices and the position table are normal with deviation 0.02, prefix tokens
/// normal with 1e-6, the patch projection uniform within ±1/√fan_in (PyTorch's convolution), biases 0, weights of
/// norms 1, and LayerScale 1e-5. Weights and biases that mix the heads of re-attention are those of a convolution too.
///
/// The values depend on the seed, the index of a tensor in the list, and its shape.
pub fn random_backbone(config: &VitConfig, seed: u64) -> BTreeMap<String, HostTensor> {
    let shapes = parameter_shapes(config).into_iter().enumerate();
    shapes
        .map(|(index, (name, shape))| {
            let count: usize = shape.iter().product();
            let stream = STREAM | index as u64;
            let normal = |deviation: f64| -> Vec<f32> {
                (0..count as u64).map(|i| (deviation * rng::normal(seed, stream, i)) as f32).collect()
            };
            let uniform = |fan_in: usize| -> Vec<f32> {
                let bound = 1.0 / (fan_in as f32).sqrt();
                (0..count as u64).map(|i| bound * (2.0 * rng::uniform(seed, stream, i) - 1.0)).collect()
            };
            let data = if name.contains(".reatten_matrix.") {
                uniform(config.heads)
            } else if name.ends_with("bias") || name.ends_with("running_mean") {
                vec![0.0; count]
            } else if name.ends_with("gamma") {
                vec![1e-5; count]
            } else if is_prefix(&name) {
                normal(1e-6)
            } else if name == "patch_embed.proj.weight" {
                uniform(shape[1..].iter().product())
            } else if shape.len() == 1 {
                vec![1.0; count]
            } else {
                normal(0.02)
            };
            (name, HostTensor { shape, data })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::ImageSize;

    fn deviation(data: &[f32]) -> f64 {
        (data.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / data.len() as f64).sqrt()
    }

    #[test]
    fn every_kind_of_tensor_has_its_own_spread() {
        let plain = VitConfig::plain(ImageSize { height: 64, width: 32 }, 16, 48, 2, 4);
        let config = VitConfig { layer_scale: true, registers: 2, ..plain };
        let tensors = random_backbone(&config, 7);
        assert_eq!(tensors.len(), parameter_shapes(&config).len());
        for (name, wanted) in [
            ("blocks.0.attn.qkv.weight", 0.02),
            ("blocks.1.mlp.fc2.weight", 0.02),
            ("pos_embed", 0.02),
            ("cls_token", 1e-6),
            ("reg_token", 1e-6),
            // A uniform distribution within ±b has the deviation b/√3.
            ("patch_embed.proj.weight", (1.0f64 / 768.0 / 3.0).sqrt()),
        ] {
            let HostTensor { data, .. } = &tensors[name];
            let found = deviation(data);
            assert!((found / wanted - 1.0).abs() < 3.0 / (data.len() as f64).sqrt(), "{name}: {found}");
        }
        for (name, value) in
            [("norm.weight", 1.0), ("blocks.0.norm1.bias", 0.0), ("blocks.0.ls1.gamma", 1e-5)]
        {
            assert!(tensors[name].data.iter().all(|&v| v == value), "{name}");
        }
        assert_ne!(tensors["blocks.0.attn.qkv.weight"], tensors["blocks.1.attn.qkv.weight"]);
        assert_eq!(tensors, random_backbone(&config, 7));
        assert_ne!(tensors, random_backbone(&config, 8));
    }
}
