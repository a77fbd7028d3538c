//! Exports a network as ONNX, from pixels to embeddings.
//!
//! The graph uses operator set 17, which ONNX Runtime supports since 1.12. Its formulas are those of the kernels, written
//! as matrix products, norms and softmaxes. In shapes, 0 copies the batch dimension, which is free.

use crate::checkpoint::{self, HostTensor, Network, STATISTICS_DEVIATION, STATISTICS_MEAN, transpose};
use crate::embeddings::Dtype;
use crate::error::{Error, Result};
use crate::images::preprocess::bicubic_matrix;
use crate::shape::{
    Activation, BATCHNORM_EPS, HeadEmbed, ImageSize, Normalize, PartLayout, PartTokens, Preprocess,
    VitConfig, part_rows,
};
use crate::storage::atomic::write_atomically;
use crate::storage::onnx::{
    Attribute, Dimension, Graph, Model, Node, OperatorSet, Property, Shape, Tensor, TensorType, Type, Value,
    data_type,
};
use prost::Message;
use serde_json::json;
use std::path::Path;

/// Largest file that readers of protocol buffers take.
const MOST_BYTES: usize = i32::MAX as usize;

/// Version of the operators, and the version of the format that came with it.
const OPERATOR_SET: i64 = 17;
const IR_VERSION: i64 = 8;

/// Images that a graph takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// `image` (N, 3, H, W) in f32: R, G, B from 0 to 1, less the mean, divided by the deviation.
    F32,
    /// `image` (N, H, W, 3) in u8: R, G, B.
    U8,
    /// `images` (batch, 3, 256, 128) in f32, with ImageNet's mean and deviation, as BoxMOT has them.
    Boxmot,
    /// `images` (batch, 3, 224, 224) in f32: R, G, B from 0 to 1, as Ultralytics has them.
    Ultralytics,
}

impl Input {
    /// Size of the images.
    fn size(self, preprocess: &Preprocess) -> ImageSize {
        match self {
            Input::F32 | Input::U8 => preprocess.size,
            Input::Boxmot => ImageSize { height: 256, width: 128 },
            Input::Ultralytics => ImageSize::square(224),
        }
    }

    /// Names of the input and of its first dimension. BoxMOT sets the size of `batch`.
    fn names(self) -> [&'static str; 2] {
        match self {
            Input::F32 | Input::U8 => ["image", "N"],
            Input::Boxmot | Input::Ultralytics => ["images", "batch"],
        }
    }

    /// Factor on the pixels' bytes, mean and deviation.
    fn normalization(self, preprocess: &Preprocess) -> (f64, [f32; 3], [f32; 3]) {
        let (mean, std) = match self {
            Input::F32 => (preprocess.mean, preprocess.std),
            Input::Boxmot => Normalize::Imagenet.mean_std(),
            Input::U8 | Input::Ultralytics => ([0.0; 3], [1.0; 3]),
        };
        (if self == Input::U8 { 1.0 } else { 1.0 / 255.0 }, mean, std)
    }
}

/// Writes a network as ONNX, with its tensors in `dtype`; the graph computes in f32. Camera statistics are those of all
/// images. Returns the number of tensors.
///
/// # Errors
/// Those of [`checkpoint::check_exportable`]; [`Error::Tensor`] for a value that overflows in f16; [`Error::TooLarge`]
/// above 2 GiB; [`Error::Io`] if the file can't be written.
pub fn export(source: &Path, network: &Network, input: Input, dtype: Dtype, out: &Path) -> Result<usize> {
    checkpoint::check_exportable(network)?;
    let mut vit = Vit { source, network, dtype, graph: Graph::default() };
    vit.build(input)?;
    let Network { config, preprocess, .. } = network;
    let ImageSize { height, width } = input.size(preprocess);
    let [name, batch] = input.names();
    let (elements, shape) = match input {
        Input::U8 => (data_type::UINT8, [height, width, 3]),
        _ => (data_type::FLOAT, [3, height, width]),
    };
    vit.graph.name = "la_transformer".to_string();
    vit.graph.input = vec![value(name, elements, batch, &shape)];
    vit.graph.output = vec![value("embedding", data_type::FLOAT, batch, &[config.embedding_len()])];

    let (scale, mean, std) = input.normalization(preprocess);
    let described = json!({
        "size": [height, width], "interpolation": preprocess.interpolation, "channels": "RGB",
        "layout": if input == Input::U8 { "NHWC" } else { "NCHW" }, "scale": scale, "mean": mean, "std": std,
    });
    let metadata = checkpoint::lat_wgpu_metadata(config, preprocess, None);
    let properties = [("preprocess", described.to_string()), ("lat_wgpu", metadata.text().to_string())];
    let model = Model {
        ir_version: IR_VERSION,
        producer_name: "lat-wgpu".to_string(),
        graph: Some(vit.graph),
        opset_import: vec![OperatorSet { domain: String::new(), version: OPERATOR_SET }],
        metadata_props: properties.map(|(key, value)| Property { key: key.to_string(), value }).to_vec(),
    };
    if model.encoded_len() > MOST_BYTES {
        let reason = "an ONNX file has at most 2 GiB, and the weights need more";
        return Err(Error::TooLarge(reason.to_string()).hinted("--dtype f16 halves them"));
    }
    write_atomically(out, &model.encode_to_vec())?;
    Ok(network.tensors.len())
}

/// An input or output whose first dimension is free.
fn value(name: &str, elem_type: i32, batch: &str, sizes: &[usize]) -> Value {
    let free = Dimension { dim_param: Some(batch.to_string()), dim_value: None };
    let sized = sizes.iter().map(|&size| Dimension { dim_value: Some(size as i64), dim_param: None });
    let shape = Some(Shape { dim: std::iter::once(free).chain(sized).collect() });
    let r#type = Some(Type { tensor_type: Some(TensorType { elem_type, shape }) });
    Value { name: name.to_string(), r#type }
}

fn int(name: &str, i: i64) -> Attribute {
    Attribute { name: name.to_string(), i, r#type: 2, ..Attribute::default() }
}

fn ints(name: &str, values: &[i64]) -> Attribute {
    Attribute { name: name.to_string(), ints: values.to_vec(), r#type: 7, ..Attribute::default() }
}

fn float(name: &str, f: f32) -> Attribute {
    Attribute { name: name.to_string(), f, r#type: 1, ..Attribute::default() }
}

/// The factors w / √(σ² + ε) of a BatchNorm with its running variance.
fn batchnorm_scale(weight: &[f32], var: &[f32]) -> Vec<f32> {
    weight.iter().zip(var).map(|(w, v)| w / (v + BATCHNORM_EPS).sqrt()).collect()
}

/// The graph of a network. Methods add nodes and constants, and return the name of the result.
struct Vit<'a> {
    source: &'a Path,
    network: &'a Network,
    dtype: Dtype,
    graph: Graph,
}

impl Vit<'_> {
    fn node(&mut self, op: &str, inputs: &[&str], attribute: Vec<Attribute>) -> String {
        let name = format!("{op}_{}", self.graph.node.len());
        self.named(&name, op, inputs, attribute);
        name
    }

    /// Adds a node with a name of its result.
    fn named(&mut self, result: &str, op: &str, inputs: &[&str], attribute: Vec<Attribute>) {
        let input = inputs.iter().map(|input| input.to_string()).collect();
        let (output, op_type) = (vec![result.to_string()], op.to_string());
        self.graph.node.push(Node { input, output, name: result.to_string(), op_type, attribute });
    }

    fn constant(&mut self, name: String, dims: &[usize], data_type: i32, raw_data: Vec<u8>) -> String {
        let dims = dims.iter().map(|&size| size as i64).collect();
        self.graph.initializer.push(Tensor {
            name: name.clone(),
            dims,
            data_type,
            raw_data,
            ..Tensor::default()
        });
        name
    }

    fn floats(&mut self, name: &str, dims: &[usize], values: &[f32]) -> String {
        let raw = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.constant(name.to_string(), dims, data_type::FLOAT, raw)
    }

    fn scalar(&mut self, value: f32) -> String {
        let name = format!("scalar_{}", self.graph.initializer.len());
        self.floats(&name, &[], &[value])
    }

    fn integers(&mut self, values: &[i64]) -> String {
        let name = format!("integers_{}", self.graph.initializer.len());
        let raw = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.constant(name, &[values.len()], data_type::INT64, raw)
    }

    fn reshape(&mut self, x: &str, shape: &[i64]) -> String {
        let shape = self.integers(shape);
        self.node("Reshape", &[x, &shape], vec![])
    }

    /// Elements `range` of axis 1.
    fn slice(&mut self, x: &str, range: std::ops::Range<usize>) -> String {
        let [start, end] = [range.start, range.end].map(|at| self.integers(&[at as i64]));
        let axis = self.integers(&[1]);
        self.node("Slice", &[x, &start, &end, &axis], vec![])
    }

    fn tensor(&self, name: &str) -> Option<&HostTensor> {
        self.network.tensors.get(name)
    }

    /// Values of a tensor that the network has.
    fn values(&self, name: &str) -> &[f32] {
        self.tensor(name).map_or(&[], |tensor| &tensor.data)
    }

    /// A tensor of the network, of which a matrix is transposed, so that it multiplies rows from the right.
    fn weight(&mut self, name: &str) -> Result<String> {
        let HostTensor { shape, data } = self.tensor(name).cloned().unwrap_or_else(|| unreachable!("{name}"));
        match shape[..] {
            [rows, columns] => self.stored(name, &[columns, rows], &transpose(&data, columns)),
            _ => self.stored(name, &shape, &data),
        }
    }

    /// Weights in the data type of the file.
    fn stored(&mut self, name: &str, dims: &[usize], values: &[f32]) -> Result<String> {
        if self.dtype == Dtype::F32 {
            return Ok(self.floats(name, dims, values));
        }
        let halves = checkpoint::to_f16(self.source, name, values)?;
        let raw = halves.iter().flat_map(|value| value.to_le_bytes()).collect();
        let stored = self.constant(name.to_string(), dims, data_type::FLOAT16, raw);
        Ok(self.node("Cast", &[&stored], vec![int("to", data_type::FLOAT.into())]))
    }

    fn norm(&mut self, x: &str, name: &str) -> Result<String> {
        let [weight, bias] = [self.weight(&format!("{name}.weight"))?, self.weight(&format!("{name}.bias"))?];
        let attributes = vec![int("axis", -1), float("epsilon", self.network.config.ln_eps)];
        Ok(self.node("LayerNormalization", &[x, &weight, &bias], attributes))
    }

    fn linear(&mut self, x: &str, name: &str) -> Result<String> {
        let weight = self.weight(&format!("{name}.weight"))?;
        let product = self.node("MatMul", &[x, &weight], vec![]);
        let bias = self.weight(&format!("{name}.bias"))?;
        Ok(self.node("Add", &[&product, &bias], vec![]))
    }

    /// x and a branch, which LayerScale may scale.
    fn residual(&mut self, x: &str, branch: String, scale: &str) -> Result<String> {
        let scaled = match self.network.config.layer_scale {
            true => {
                let scale = self.weight(scale)?;
                self.node("Mul", &[&branch, &scale], vec![])
            }
            false => branch,
        };
        Ok(self.node("Add", &[x, &scaled], vec![]))
    }

    fn activation(&mut self, x: &str) -> String {
        match self.network.config.act {
            Activation::QuickGelu => {
                let factor = self.scalar(1.702);
                let steep = self.node("Mul", &[x, &factor], vec![]);
                let gate = self.node("Sigmoid", &[&steep], vec![]);
                self.node("Mul", &[x, &gate], vec![])
            }
            Activation::Gelu => {
                let [root, one, half] = [std::f32::consts::SQRT_2, 1.0, 0.5].map(|value| self.scalar(value));
                let narrow = self.node("Div", &[x, &root], vec![]);
                let erf = self.node("Erf", &[&narrow], vec![]);
                let gate = self.node("Add", &[&erf, &one], vec![]);
                let doubled = self.node("Mul", &[x, &gate], vec![]);
                self.node("Mul", &[&doubled, &half], vec![])
            }
        }
    }

    fn attention(&mut self, x: &str, name: &str) -> Result<String> {
        let VitConfig { heads, dim, reattention, .. } = self.network.config;
        let width = dim / heads;
        let projected = self.linear(x, &format!("{name}.qkv"))?;
        let split = self.reshape(&projected, &[0, -1, 3, heads as i64, width as i64]);
        let by_head = self.node("Transpose", &[&split], vec![ints("perm", &[2, 0, 3, 1, 4])]);
        let [q, k, v] = [0, 1, 2].map(|part| {
            let index = self.constant(
                format!("index_{}", self.graph.initializer.len()),
                &[],
                data_type::INT64,
                i64::to_le_bytes(part).to_vec(),
            );
            self.node("Gather", &[&by_head, &index], vec![int("axis", 0)])
        });
        let turned = self.node("Transpose", &[&k], vec![ints("perm", &[0, 1, 3, 2])]);
        let product = self.node("MatMul", &[&q, &turned], vec![]);
        let root = self.scalar((width as f32).sqrt());
        let scores = self.node("Div", &[&product, &root], vec![]);
        let mut maps = self.node("Softmax", &[&scores], vec![int("axis", -1)]);
        if reattention {
            maps = self.exchange(&maps, name);
        }
        let context = self.node("MatMul", &[&maps, &v], vec![]);
        let by_token = self.node("Transpose", &[&context], vec![ints("perm", &[0, 2, 1, 3])]);
        let joined = self.reshape(&by_token, &[0, -1, dim as i64]);
        self.linear(&joined, &format!("{name}.proj"))
    }

    /// Re-attention: the maps (N, H, T, T), mixed over the heads and normalised, in one product with M and one sum with c.
    /// With the norm's weight w, bias b, mean μ and variance σ²: M = s Θ and c = s (bias of Θ − μ) + b, s = w / √(σ² + ε).
    fn exchange(&mut self, maps: &str, name: &str) -> String {
        let VitConfig { heads, .. } = self.network.config;
        let tokens = self.network.config.tokens() as i64;
        let of = |kind: &str| self.values(&format!("{name}.{kind}"));
        let (theta, bias) = (of("reatten_matrix.weight"), of("reatten_matrix.bias"));
        let (mean, var) = (of("var_norm.running_mean"), of("var_norm.running_var"));
        let (weight, shift) = (of("var_norm.weight"), of("var_norm.bias"));
        let scale = batchnorm_scale(weight, var);
        let matrix: Vec<f32> = theta.iter().enumerate().map(|(i, t)| t * scale[i / heads]).collect();
        let offset: Vec<f32> = (0..heads).map(|h| scale[h] * (bias[h] - mean[h]) + shift[h]).collect();
        let matrix = self.floats(&format!("{name}.mix"), &[heads, heads], &matrix);
        let offset = self.floats(&format!("{name}.offset"), &[heads, 1], &offset);
        let flat = self.reshape(maps, &[0, heads as i64, tokens * tokens]);
        let mixed = self.node("MatMul", &[&matrix, &flat], vec![]);
        let normalised = self.node("Add", &[&mixed, &offset], vec![]);
        self.reshape(&normalised, &[0, heads as i64, tokens, tokens])
    }

    /// Images as the network takes them (N, 3, H, W).
    fn image(&mut self, input: Input) -> String {
        let Preprocess { size, mean, std, .. } = self.network.preprocess.clone();
        let name = input.names()[0].to_string();
        // Values from 0 to 1.
        let mut x = match input {
            Input::F32 => return name,
            Input::U8 => {
                let bytes = self.node("Cast", &[&name], vec![int("to", data_type::FLOAT.into())]);
                let planes = self.node("Transpose", &[&bytes], vec![ints("perm", &[0, 3, 1, 2])]);
                let most = self.scalar(255.0);
                self.node("Div", &[&planes, &most], vec![])
            }
            Input::Boxmot => {
                let (mean, std) = Normalize::Imagenet.mean_std();
                let std = self.floats("input.std", &[3, 1, 1], &std);
                let mean = self.floats("input.mean", &[3, 1, 1], &mean);
                let scaled = self.node("Mul", &[&name, &std], vec![]);
                self.node("Add", &[&scaled, &mean], vec![])
            }
            Input::Ultralytics => name,
        };
        let from = input.size(&self.network.preprocess);
        if from != size {
            x = self.resize(&x, from, size);
        }
        let [mean, std] = [("mean", mean), ("std", std)]
            .map(|(name, values)| self.floats(&format!("preprocess.{name}"), &[3, 1, 1], &values));
        let centred = self.node("Sub", &[&x, &mean], vec![]);
        self.node("Div", &[&centred, &std], vec![])
    }

    /// Stretches images with values from 0 to 1 by the weights of [`bicubic_matrix`].
    fn resize(&mut self, x: &str, from: ImageSize, to: ImageSize) -> String {
        let rows = bicubic_matrix(from.height, to.height);
        let rows = self.floats("resize.rows", &[to.height, from.height], &rows);
        let columns = transpose(&bicubic_matrix(from.width, to.width), from.width);
        let columns = self.floats("resize.columns", &[from.width, to.width], &columns);
        let low = self.node("MatMul", &[&rows, x], vec![]);
        let small = self.node("MatMul", &[&low, &columns], vec![]);
        let [least, most] = [0.0, 1.0].map(|value| self.scalar(value));
        self.node("Clip", &[&small, &least, &most], vec![])
    }

    /// The tokens (N, T, D) of an image before block 0.
    fn tokens(&mut self, image: &str) -> Result<String> {
        let config = &self.network.config;
        let VitConfig { dim, stride, prefix_rows, norm_pre, patch_bias, .. } = *config;
        let count = config.patches();
        // The table has rows for the first prefix tokens and for the patches.
        let table = self.values("pos_embed").to_vec();
        let (head, positions) = table.split_at(prefix_rows * dim);
        let names = ["cls_token", "dist_token", "reg_token"];
        let mut prefix: Vec<f32> = names.iter().flat_map(|name| self.values(name)).copied().collect();
        for (token, position) in prefix.iter_mut().zip(head) {
            *token += position;
        }

        let mut inputs = vec![image.to_string(), self.weight("patch_embed.proj.weight")?];
        if patch_bias {
            inputs.push(self.weight("patch_embed.proj.bias")?);
        }
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        let planes = self.node("Conv", &inputs, vec![ints("strides", &[stride as i64; 2])]);
        let flat = self.reshape(&planes, &[0, dim as i64, count as i64]);
        let patches = self.node("Transpose", &[&flat], vec![ints("perm", &[0, 2, 1])]);
        let positions = self.stored("positions", &[1, count, dim], positions)?;
        let patches = self.node("Add", &[&patches, &positions], vec![]);

        let rows = prefix.len() / dim;
        let prefix = self.stored("prefix", &[1, rows, dim], &prefix)?;
        let batch = self.node("Shape", &[image], vec![int("start", 0), int("end", 1)]);
        let rest = self.integers(&[rows as i64, dim as i64]);
        let shape = self.node("Concat", &[&batch, &rest], vec![int("axis", 0)]);
        let prefix = self.node("Expand", &[&prefix, &shape], vec![]);
        let tokens = self.node("Concat", &[&prefix, &patches], vec![int("axis", 1)]);
        if norm_pre { self.norm(&tokens, "norm_pre") } else { Ok(tokens) }
    }

    fn block(&mut self, x: &str, index: usize) -> Result<String> {
        let name = format!("blocks.{index}");
        let normed = self.norm(x, &format!("{name}.norm1"))?;
        let mixed = self.attention(&normed, &format!("{name}.attn"))?;
        let x = self.residual(x, mixed, &format!("{name}.ls1.gamma"))?;
        let normed = self.norm(&x, &format!("{name}.norm2"))?;
        let hidden = self.linear(&normed, &format!("{name}.mlp.fc1"))?;
        let active = self.activation(&hidden);
        let out = self.linear(&active, &format!("{name}.mlp.fc2"))?;
        self.residual(&x, out, &format!("{name}.ls2.gamma"))
    }

    /// The parts (N, R, D) of the tokens after the final norm: means of bands of rows, blended with the class token.
    fn parts(&mut self, tokens: &str) -> String {
        let config = &self.network.config;
        let ((rows, columns), dim, gelt) = (config.grid(), config.dim, config.gelt);
        let (prefix, all, parts) = (config.prefix(), config.tokens(), config.parts());
        let class = self.slice(tokens, 0..1);
        if gelt.tokens == PartTokens::Global {
            let shape = self.integers(&[1, parts as i64, 1]);
            return self.node("Expand", &[&class, &shape], vec![]);
        }
        let patches = self.slice(tokens, prefix..all);
        let means = match gelt.parts {
            PartLayout::One => {
                self.node("ReduceMean", &[&patches], vec![ints("axes", &[1]), int("keepdims", 1)])
            }
            PartLayout::Rows | PartLayout::Bands(_) => {
                let grid = self.reshape(&patches, &[0, rows as i64, columns as i64, dim as i64]);
                let by_row = self.node("ReduceMean", &[&grid], vec![ints("axes", &[2]), int("keepdims", 0)]);
                match gelt.parts {
                    PartLayout::Rows => by_row,
                    _ => {
                        let mut bands = vec![0.0; parts * rows];
                        for (part, band) in bands.chunks_exact_mut(rows).enumerate() {
                            let members = part_rows(part, parts, rows);
                            let share = 1.0 / members.len() as f32;
                            band[members].fill(share);
                        }
                        let bands = self.floats("bands", &[parts, rows], &bands);
                        self.node("MatMul", &[&bands, &by_row], vec![])
                    }
                }
            }
        };
        if gelt.tokens == PartTokens::Local {
            return means;
        }
        let (of_class, of_mean) = gelt.weights();
        let [of_class, of_mean] = [of_class, of_mean].map(|weight| self.scalar(weight));
        let class = self.node("Mul", &[&class, &of_class], vec![]);
        let means = self.node("Mul", &[&means, &of_mean], vec![]);
        self.node("Add", &[&class, &means], vec![])
    }

    /// Parts after BNNeck's BatchNorm, with its running statistics.
    fn neck(&mut self, x: &str) -> String {
        let VitConfig { dim, .. } = self.network.config;
        let parts = self.network.config.parts();
        let read = |name: &str| -> Vec<f32> {
            (0..parts).flat_map(|part| self.values(&format!("heads.{part}.bn.{name}"))).copied().collect()
        };
        let (weight, mean, var) = (read("weight"), read("running_mean"), read("running_var"));
        let scale = batchnorm_scale(&weight, &var);
        let mean = self.floats("bn.mean", &[parts, dim], &mean);
        let scale = self.floats("bn.scale", &[parts, dim], &scale);
        let centred = self.node("Sub", &[x, &mean], vec![]);
        self.node("Mul", &[&centred, &scale], vec![])
    }

    /// Parts with length 1.
    fn unit(&mut self, x: &str) -> String {
        let length = self.node("ReduceL2", &[x], vec![ints("axes", &[2]), int("keepdims", 1)]);
        let least = self.scalar(1e-12);
        let length = self.node("Max", &[&length, &least], vec![]);
        self.node("Div", &[x, &length], vec![])
    }

    /// Parts of length 1 less the mean of all images, the last row of the camera statistics, which are those of an
    /// embedding of length 1.
    fn subtract_statistics(&mut self, x: &str, all: usize, deviation: bool) -> String {
        let VitConfig { dim, .. } = self.network.config;
        let parts = self.network.config.parts();
        let root = (parts as f32).sqrt();
        let row = |name: &str| -> Vec<f32> {
            self.values(name)[all * parts * dim..].iter().map(|value| value * root).collect()
        };
        let (means, deviations) = (row(STATISTICS_MEAN), deviation.then(|| row(STATISTICS_DEVIATION)));
        let mean = self.floats(STATISTICS_MEAN, &[parts, dim], &means);
        let mut x = self.node("Sub", &[x, &mean], vec![]);
        if let Some(deviations) = deviations {
            let divisor = self.floats(STATISTICS_DEVIATION, &[parts, dim], &deviations);
            x = self.node("Div", &[&x, &divisor], vec![]);
        }
        self.unit(&x)
    }

    /// Adds everything from the images to `embedding`.
    fn build(&mut self, input: Input) -> Result<()> {
        let config = &self.network.config;
        let (parts, statistics) = (config.parts(), config.statistics.clone());
        let image = self.image(input);
        let mut x = self.tokens(&image)?;
        for index in 0..self.network.config.depth {
            x = self.block(&x, index)?;
        }
        x = self.norm(&x, "norm")?;
        x = self.parts(&x);
        if self.network.config.head_embed == HeadEmbed::After {
            x = self.neck(&x);
        }
        x = self.unit(&x);
        if let Some(statistics) = statistics {
            x = self.subtract_statistics(&x, statistics.all(), statistics.deviation);
        }
        let flat = self.reshape(&x, &[0, self.network.config.embedding_len() as i64]);
        let share = self.scalar(1.0 / (parts as f32).sqrt());
        self.named("embedding", "Mul", &[&flat, &share], vec![]);
        Ok(())
    }
}
