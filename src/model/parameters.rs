//! The backbone's parameters on the device, under timm's names.

use crate::checkpoint::{HostTensor, Network};
use crate::error::Result;
use crate::gpu::{Buffer, Context};
use crate::layers::linear::Linear;
use crate::layers::norm::Norm;
use std::collections::BTreeMap;

/// Device buffers by name.
#[derive(Debug)]
pub struct Parameters {
    buffers: BTreeMap<String, Buffer>,
}

impl Parameters {
    /// Uploads every backbone tensor of a network; class, distillation and register tokens become one `prefix`.
    ///
    /// # Errors
    /// [`Error::TooLarge`](crate::error::Error::TooLarge) if a tensor exceeds what the adapter binds.
    pub fn upload(context: &Context, network: &Network) -> Result<Parameters> {
        const PREFIX: [&str; 3] = ["cls_token", "dist_token", "reg_token"];
        let tensors = &network.tensors;
        let prefix: Vec<f32> = PREFIX
            .iter()
            .filter_map(|name| tensors.get(*name))
            .flat_map(|t| t.data.iter().copied())
            .collect();
        let mut buffers = BTreeMap::new();
        buffers.insert("prefix".to_string(), context.upload("prefix", &prefix)?);
        for (name, HostTensor { data, .. }) in tensors {
            if !PREFIX.contains(&name.as_str()) {
                buffers.insert(name.clone(), context.upload(name, data)?);
            }
        }
        Ok(Parameters { buffers })
    }

    /// Bytes of all parameters.
    pub fn bytes(&self) -> u64 {
        self.buffers.values().map(|buffer| buffer.words as u64 * crate::gpu::WORD).sum()
    }

    /// A parameter that the configuration promises.
    ///
    /// # Panics
    /// If the network lacks it: `checkpoint` hands out complete networks only.
    pub fn get(&self, name: &str) -> Buffer {
        self.find(name).unwrap_or_else(|| panic!("the network has no {name}"))
    }

    /// A parameter that a network may lack.
    pub fn find(&self, name: &str) -> Option<Buffer> {
        self.buffers.get(name).cloned()
    }

    pub(super) fn linear(&self, name: &str) -> Linear {
        Linear { weight: self.get(&format!("{name}.weight")), bias: self.get(&format!("{name}.bias")) }
    }

    pub(super) fn norm(&self, name: &str, eps: f32) -> Norm {
        Norm { weight: self.get(&format!("{name}.weight")), bias: self.get(&format!("{name}.bias")), eps }
    }
}
