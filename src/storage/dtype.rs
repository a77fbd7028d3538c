//! Storage of numbers in files.

use serde::{Deserialize, Serialize};

/// Storage of a number in a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// f32: 32 bits.
    #[default]
    F32,
    /// f16: 16 bits, rounded to nearest even.
    F16,
}

impl Dtype {
    /// Size of a number in bytes.
    pub const fn bytes(self) -> usize {
        match self {
            Dtype::F32 => 4,
            Dtype::F16 => 2,
        }
    }
}
