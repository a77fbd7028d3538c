//! Random initial weights of the part classifiers, as in the released code, and of the camera embedding.

use std::collections::BTreeMap;

use crate::checkpoint::{HostTensor, classifier_tensors};
use crate::rng;
use crate::shape::ClassifierKind;

/// Stream of random numbers. The upper byte identifies the use, as in `datasets::sampler`.
const STREAM: u64 = 5 << 56;

/// Stream of the camera embedding.
const CAMERAS: u64 = 11 << 56;

/// Returns initial weights of `parts` classifiers, by names such as `heads.{i}.fc1.weight`.
///
/// They depend on the seed, the kind and the shapes alone. Weights are normally distributed: fc1 with mean 0 and deviation
/// √(2/hidden) (Kaiming, fan out), BatchNorm with 1 and 0.02, fc2 and BNNeck's classifier with 0 and 0.001. BNNeck's
/// BatchNorm starts at 1. Biases and running means are 0, running variances 1.
pub fn init_classifiers(
    seed: u64,
    parts: usize,
    dim: usize,
    kind: ClassifierKind,
    classes: usize,
) -> BTreeMap<String, HostTensor> {
    let mut tensors = BTreeMap::new();
    for part in 0..parts {
        let stream = |tensor: u64| STREAM | ((part as u64) << 8) | tensor;
        for tensor in classifier_tensors(kind, dim, classes) {
            let count = tensor.shape.iter().product();
            let data = match (tensor.name, kind) {
                ("fc1.weight", ClassifierKind::Parts { hidden }) => {
                    normal(seed, stream(0), count, 0.0, (2.0 / hidden as f64).sqrt())
                }
                ("bn.weight", ClassifierKind::Parts { .. }) => normal(seed, stream(1), count, 1.0, 0.02),
                ("fc2.weight" | "classifier.weight", _) => normal(seed, stream(2), count, 0.0, 0.001),
                ("bn.running_var" | "bn.weight", _) => vec![1.0; count],
                _ => vec![0.0; count],
            };
            tensors.insert(tensor.of(part), HostTensor { shape: tensor.shape, data });
        }
    }
    tensors
}

/// Returns the initial camera embedding of `count` cameras (count, 1, dim): normally distributed with deviation 0.02.
pub fn init_cameras(seed: u64, count: usize, dim: usize) -> HostTensor {
    let data = normal(seed, CAMERAS, count * dim, 0.0, 0.02);
    HostTensor { shape: vec![count, 1, dim], data }
}

/// Draws `count` normally distributed numbers.
fn normal(seed: u64, stream: u64, count: usize, mean: f64, deviation: f64) -> Vec<f32> {
    (0..count as u64).map(|index| (mean + deviation * rng::normal(seed, stream, index)) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns mean, deviation and kurtosis, which is 3 for a normal distribution.
    fn moments(data: &[f32]) -> (f64, f64, f64) {
        let n = data.len() as f64;
        let mean = data.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
        let power = |p: i32| data.iter().map(|&v| (f64::from(v) - mean).powi(p)).sum::<f64>() / n;
        (mean, power(2).sqrt(), power(4) / power(2).powi(2))
    }

    #[test]
    fn weights_are_drawn_as_in_the_released_code() {
        let tensors = init_classifiers(0, 2, 384, ClassifierKind::Parts { hidden: 256 }, 751);
        for (name, mean, deviation) in [
            ("fc1.weight", 0.0, (2.0f64 / 256.0).sqrt()),
            ("fc2.weight", 0.0, 0.001),
            ("bn.weight", 1.0, 0.02),
        ] {
            for part in 0..2 {
                let data = &tensors[&format!("heads.{part}.{name}")].data;
                let (m, d, k) = moments(data);
                let noise = 5.0 / (data.len() as f64).sqrt();
                assert!((m - mean).abs() < noise * deviation, "{name}: mean {m}");
                assert!((d / deviation - 1.0).abs() < noise, "{name}: deviation {d}");
                assert!((k - 3.0).abs() < 5.0 * noise, "{name}: kurtosis {k}");
            }
        }
        for (name, value) in [("fc1.bias", 0.0), ("bn.bias", 0.0), ("fc2.bias", 0.0), ("bn.running_var", 1.0)]
        {
            assert!(tensors[&format!("heads.1.{name}")].data.iter().all(|&v| v == value));
        }
        assert_eq!(tensors["heads.0.fc2.weight"].shape, [751, 256]);
        assert_eq!(tensors["heads.0.fc1.weight"].shape, [256, 384]);
        assert_eq!(tensors.len(), 16);
        for tensor in tensors.values() {
            assert_eq!(tensor.data.len(), tensor.shape.iter().product::<usize>());
        }
    }

    #[test]
    fn bnneck_starts_as_in_its_recipe() {
        let tensors = init_classifiers(0, 2, 384, ClassifierKind::Bnneck, 751);
        let names: Vec<&str> = tensors.keys().filter_map(|name| name.strip_prefix("heads.1.")).collect();
        assert_eq!(names, ["bn.running_mean", "bn.running_var", "bn.weight", "classifier.weight"]);
        for (name, value) in [("bn.weight", 1.0), ("bn.running_mean", 0.0), ("bn.running_var", 1.0)] {
            assert_eq!(tensors[&format!("heads.0.{name}")].data, [value; 384]);
        }
        let HostTensor { shape, data } = &tensors["heads.1.classifier.weight"];
        let (_, deviation, _) = moments(data);
        assert_eq!(*shape, [751, 384]);
        assert!((deviation / 0.001 - 1.0).abs() < 0.01, "{deviation}");
        assert_ne!(*data, tensors["heads.0.classifier.weight"].data);
    }

    #[test]
    fn every_part_and_seed_has_numbers_of_its_own() {
        let kind = ClassifierKind::Parts { hidden: 8 };
        let tensors = init_classifiers(7, 3, 16, kind, 5);
        assert_eq!(tensors, init_classifiers(7, 3, 16, kind, 5));
        let other = init_classifiers(8, 3, 16, kind, 5);
        for name in ["fc1.weight", "bn.weight", "fc2.weight"] {
            let of = |part: usize| &tensors[&format!("heads.{part}.{name}")];
            assert!(of(0) != of(1) && of(1) != of(2), "{name}");
            assert_ne!(of(0), &other[&format!("heads.0.{name}")]);
        }
        // Additional parts don't change the first.
        assert_eq!(tensors["heads.0.fc1.weight"], init_classifiers(7, 1, 16, kind, 5)["heads.0.fc1.weight"]);
    }
}
