//! Reads the constants of an ONNX graph: just enough of protocol buffers for their names and values.

use crate::storage::varint;
use std::collections::BTreeMap;

/// The constants of a graph, by name or by the node that uses them.
#[derive(Default)]
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

/// A value of a field.
enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// Lists the fields of a message with their numbers; `None` if it is cut off.
fn fields(mut data: &[u8]) -> Option<Vec<(u64, Field<'_>)>> {
    let mut found = Vec::new();
    while !data.is_empty() {
        let key = varint::read(&mut data)?;
        let length = match key & 7 {
            0 => {
                found.push((key >> 3, Field::Number(varint::read(&mut data)?)));
                continue;
            }
            1 => 8,
            2 => usize::try_from(varint::read(&mut data)?).ok()?,
            5 => 4,
            _ => return None,
        };
        let (bytes, rest) = data.split_at_checked(length)?;
        data = rest;
        found.push((key >> 3, Field::Bytes(bytes)));
    }
    Some(found)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl Onnx {
    /// Reads a file; `None` if it isn't ONNX.
    pub(super) fn read(data: &[u8]) -> Option<Onnx> {
        let mut onnx = Onnx::default();
        for (number, value) in fields(data)? {
            let Field::Bytes(graph) = value else { continue };
            if number != 7 {
                continue;
            }
            for (number, value) in fields(graph)? {
                match (number, value) {
                    (5, Field::Bytes(tensor)) => onnx.read_tensor(tensor)?,
                    (1, Field::Bytes(node)) => onnx.read_node(node)?,
                    _ => {}
                }
            }
        }
        Some(onnx)
    }

    fn read_tensor(&mut self, data: &[u8]) -> Option<()> {
        let (mut dtype, mut name, mut raw) = (0, String::new(), Vec::new());
        for (number, value) in fields(data)? {
            match (number, value) {
                (2, Field::Number(code)) => dtype = code,
                // Small integers, one or a list of them.
                (5, Field::Number(integer)) => raw.push(integer as u8),
                (5, Field::Bytes(mut list)) => {
                    while !list.is_empty() {
                        raw.push(varint::read(&mut list)? as u8);
                    }
                }
                (8, Field::Bytes(bytes)) => name = text(bytes),
                // A list of f32 has the same bytes as raw data.
                (4 | 9, Field::Bytes(bytes)) => raw.extend_from_slice(bytes),
                _ => {}
            }
        }
        let values = match dtype {
            1 => Values::F32(
                raw.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
            ),
            2 => Values::U8(raw),
            3 => Values::I8(raw),
            _ => return Some(()),
        };
        self.tensors.insert(name, values);
        Some(())
    }

    fn read_node(&mut self, data: &[u8]) -> Option<()> {
        let (mut name, mut inputs) = (String::new(), Vec::new());
        for (number, value) in fields(data)? {
            match (number, value) {
                (1, Field::Bytes(bytes)) => inputs.push(text(bytes)),
                (3, Field::Bytes(bytes)) => name = text(bytes),
                _ => {}
            }
        }
        self.nodes.insert(name, inputs);
        Some(())
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

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A field with a length.
    pub fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        [vec![number << 3 | 2], varint::bytes(bytes.len() as u64), bytes.to_vec()].concat()
    }

    /// A constant of a graph.
    pub fn constant(name: &str, dtype: u8, raw: &[u8]) -> Vec<u8> {
        field(5, &[vec![2 << 3, dtype], field(8, name.as_bytes()), field(9, raw)].concat())
    }

    /// A node of a graph.
    pub fn node(name: &str, inputs: &[&str]) -> Vec<u8> {
        let inputs: Vec<u8> = inputs.iter().flat_map(|input| field(1, input.as_bytes())).collect();
        field(1, &[inputs, field(3, name.as_bytes())].concat())
    }

    pub fn graph(pieces: &[Vec<u8>]) -> Onnx {
        Onnx::read(&[vec![8, 7], field(7, &pieces.concat())].concat()).unwrap()
    }

    #[test]
    fn constants_are_found_by_name_and_by_node() {
        let long = vec![0x3f; 4 * 50];
        let listed = field(5, &[vec![2 << 3, 3], field(8, b"zero"), field(5, &[1, 0xff, 0x7f])].concat());
        let onnx = graph(&[
            constant("w_quantized", 2, &[1, 255]),
            constant("s", 1, &1.5f32.to_le_bytes()),
            constant("long", 1, &long),
            listed,
            node("/layer.0/MatMul", &["x", "w_quantized"]),
        ]);
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
        let whole = [vec![8, 7], field(7, &constant("s", 1, &[0; 8]))].concat();
        for end in 1..whole.len() {
            let _ = Onnx::read(&whole[..end]);
        }
        assert!(Onnx::read(&[0xff; 12]).is_none());
        assert!(Onnx::read(&[7 << 3 | 2, 0x7f]).is_none());
    }
}
