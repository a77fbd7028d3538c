//! Reads the constants of an ONNX graph.

use crate::storage::onnx::{Model, Tensor, data_type};
use prost::Message;
use std::collections::BTreeMap;

/// The constants of a graph, by name or by the node that uses them.
pub(super) struct Onnx {
    tensors: BTreeMap<String, Values>,
    /// Names of the inputs by the name of the node.
    nodes: BTreeMap<String, Vec<String>>,
}

/// Values of a constant.
enum Values {
    F32(Vec<f32>),
    U8(Vec<u8>),
    I8(Vec<u8>),
}

impl Onnx {
    /// Reads a file; `None` if it isn't ONNX.
    pub(super) fn read(data: &[u8]) -> Option<Onnx> {
        let graph = Model::decode(data).ok()?.graph?;
        let tensors = graph.initializer.into_iter().filter_map(|mut tensor| {
            let name = std::mem::take(&mut tensor.name);
            Some((name, values(tensor)?))
        });
        let nodes = graph.node.into_iter().map(|node| (node.name, node.input));
        Some(Onnx { tensors: tensors.collect(), nodes: nodes.collect() })
    }

    /// The values of a constant in f32.
    pub(super) fn floats(&self, name: &str) -> Result<&[f32], String> {
        match self.tensors.get(name) {
            Some(Values::F32(values)) => Ok(values),
            _ => Err(format!("its ONNX file has no constant {name} in f32")),
        }
    }

    /// The values of a constant in 8 bits, signed or not.
    pub(super) fn integers(&self, name: &str) -> Result<Vec<i16>, String> {
        match self.tensors.get(name) {
            Some(Values::U8(values)) => Ok(values.iter().map(|&value| i16::from(value)).collect()),
            Some(Values::I8(values)) => Ok(values.iter().map(|&value| i16::from(value as i8)).collect()),
            _ => Err(format!("its ONNX file has no constant {name} in 8 bits")),
        }
    }

    /// The name of the only constant with this suffix, of the only node with `piece` in its name.
    pub(super) fn constant_of(&self, piece: &str, suffix: &str) -> Result<&str, String> {
        let nodes = self.nodes.iter().filter(|(node, _)| node.contains(piece));
        let inputs = nodes.flat_map(|(_, inputs)| inputs);
        let found: Vec<&String> =
            inputs.filter(|name| name.ends_with(suffix) && self.tensors.contains_key(*name)).collect();
        match found[..] {
            [name] => Ok(name),
            _ => Err(format!("its ONNX file has {} constants at {piece}, not 1", found.len())),
        }
    }
}

/// The values of a constant; `None` for other types.
fn values(tensor: Tensor) -> Option<Values> {
    let Tensor { data_type, float_data, int32_data, raw_data, .. } = tensor;
    let bytes = || {
        let listed = int32_data.iter().map(|&value| value as u8);
        raw_data.iter().copied().chain(listed).collect()
    };
    Some(match data_type {
        data_type::FLOAT => {
            let raw = raw_data.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
            Values::F32(raw.chain(float_data).collect())
        }
        data_type::UINT8 => Values::U8(bytes()),
        data_type::INT8 => Values::I8(bytes()),
        _ => return None,
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    use crate::storage::onnx::{Graph, Node};

    /// A constant of a graph.
    pub fn constant(name: &str, data_type: i32, raw: &[u8]) -> Tensor {
        Tensor { name: name.to_string(), data_type, raw_data: raw.to_vec(), ..Tensor::default() }
    }

    /// A node of a graph.
    pub fn node(name: &str, inputs: &[&str]) -> Node {
        let input = inputs.iter().map(|input| input.to_string()).collect();
        Node { name: name.to_string(), input, ..Node::default() }
    }

    fn file(initializer: Vec<Tensor>, node: Vec<Node>) -> Vec<u8> {
        let graph = Graph { initializer, node, ..Graph::default() };
        Model { ir_version: 7, graph: Some(graph), ..Model::default() }.encode_to_vec()
    }

    pub fn graph(constants: &[Tensor], nodes: &[Node]) -> Onnx {
        Onnx::read(&file(constants.to_vec(), nodes.to_vec())).unwrap()
    }

    #[test]
    fn constants_are_found_by_name_and_by_node() {
        let long = vec![0x3f; 4 * 50];
        let listed = Tensor { int32_data: vec![1, -1], ..constant("zero", 3, &[]) };
        let onnx = graph(
            &[
                constant("w_quantized", 2, &[1, 255]),
                constant("s", 1, &1.5f32.to_le_bytes()),
                constant("long", 1, &long),
                Tensor { float_data: vec![0.5, 2.0], ..constant("floats", 1, &[]) },
                listed,
            ],
            &[node("/layer.0/MatMul", &["x", "w_quantized"])],
        );
        assert_eq!(onnx.floats("floats").unwrap(), [0.5, 2.0]);
        assert_eq!(onnx.floats("s").unwrap(), [1.5]);
        assert_eq!(onnx.floats("long").unwrap().len(), 50);
        assert_eq!(onnx.integers("w_quantized").unwrap(), [1, 255]);
        assert_eq!(onnx.integers("zero").unwrap(), [1, -1]);
        assert_eq!(onnx.constant_of("/layer.0/", "_quantized").unwrap(), "w_quantized");
        assert!(onnx.constant_of("/layer.1/", "").unwrap_err().contains("0 constants"));
        assert!(onnx.floats("w_quantized").is_err() && onnx.integers("s").is_err());
    }

    #[test]
    fn damage_is_no_panic() {
        let whole = file(vec![constant("s", 1, &[0; 8])], vec![]);
        for end in 1..whole.len() {
            let _ = Onnx::read(&whole[..end]);
        }
        assert!(Onnx::read(&[0xff; 12]).is_none());
        assert!(Onnx::read(&[7 << 3 | 2, 0x7f]).is_none() && Onnx::read(&[]).is_none());
    }
}
