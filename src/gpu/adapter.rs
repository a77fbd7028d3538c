//! Descriptions of the adapters that the drivers offer, before any is opened.

use super::class::AdapterClass;
use std::path::{Path, PathBuf};

/// The description of an adapter that `lat-wgpu info` prints.
#[derive(Debug, Clone)]
pub struct AdapterSummary {
    /// The driver's name for it.
    pub name: String,
    /// "vulkan", "metal" or "dx12".
    pub backend: String,
    /// "discrete GPU", "integrated GPU", "virtual GPU", "CPU" or "other".
    pub kind: &'static str,
    /// How much parallel work keeps it busy.
    pub class: AdapterClass,
    /// Driver name and version.
    pub driver: String,
    /// Smallest and largest subgroup, in invocations.
    pub subgroup: (u32, u32),
    /// Optional features that the engine can use.
    pub features: Vec<&'static str>,
    /// Products that its matrix units can do; empty without such units.
    pub matrix_units: Vec<MatrixUnit>,
    /// Memory of its own, or of the system where it has none, in bytes; `None` where the driver's interface doesn't say.
    pub memory: Option<u64>,
    /// Largest piece of memory that the driver gives out, in bytes; where its interface doesn't say, the largest buffer.
    pub largest_allocation: u64,
    /// Largest buffer, in bytes.
    pub max_buffer: u64,
    /// Largest storage binding, in bytes.
    pub max_binding: u64,
    /// Storage buffers per kernel.
    pub max_storage_buffers: u32,
    /// Workgroup memory, in bytes.
    pub max_workgroup_bytes: u32,
    /// Invocations per workgroup.
    pub max_invocations: u32,
    /// On DX12, what compiles shaders: "DXC" or "FXC".
    pub shader_compiler: Option<&'static str>,
}

/// DX12's old compiler of shaders: neither halves nor subgroups, and seconds for a large shader.
const FXC: &str = "FXC";

/// A product of small matrices that matrix units do at once: C (m, n) += A (m, k)·B (k, n).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MatrixUnit {
    /// Rows of the result.
    pub m: u32,
    /// Columns of the result.
    pub n: u32,
    /// Length of the sums.
    pub k: u32,
    /// Type of A and B: "f16", "f32", "i32" or "u32".
    pub operands: &'static str,
    /// Type of C.
    pub sums: &'static str,
}

impl std::fmt::Display for MatrixUnit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let MatrixUnit { m, n, k, operands, sums } = self;
        write!(f, "{m}x{n}x{k} {operands} to {sums}")
    }
}

/// A feature that the engine uses where it is offered, by the name that people read.
pub(super) const SUBGROUPS: &str = "subgroups";
pub(super) const HALVES: &str = "f16";
pub(super) const PIPELINE_CACHE: &str = "pipeline cache";

pub(super) const OPTIONAL_FEATURES: [(wgpu::Features, &str); 4] = [
    (wgpu::Features::SUBGROUP, SUBGROUPS),
    (wgpu::Features::SHADER_F16, HALVES),
    (wgpu::Features::TIMESTAMP_QUERY, "timestamps"),
    (wgpu::Features::PIPELINE_CACHE, PIPELINE_CACHE),
];

impl AdapterSummary {
    pub(super) fn has(&self, feature: &str) -> bool {
        self.features.contains(&feature)
    }

    /// Notes for the user of the adapter before the work.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if self.class == AdapterClass::Cpu {
            notes.push(format!("{} is a CPU adapter: right, but slow", self.name));
        }
        if self.shader_compiler == Some(FXC) {
            notes.push(
                "DX12 compiles shaders by FXC: slowly, and without f16 and subgroups; with dxcompiler.dll and dxil.dll beside \
                 the program it uses DXC (https://github.com/microsoft/DirectXShaderCompiler/releases)"
                    .to_string(),
            );
        }
        notes
    }

    /// Device memory to stay within where the user names no limit, in bytes: 2 GiB, on graphics cards 8 GiB, and on any GPU
    /// at most half of its memory.
    pub fn default_memory(&self) -> u64 {
        match (self.class, self.memory) {
            (AdapterClass::Cpu, _) | (_, None) => 2 << 30,
            (AdapterClass::Integrated, Some(bytes)) => (bytes / 2).min(2 << 30),
            (AdapterClass::Discrete, Some(bytes)) => (bytes / 2).min(8 << 30),
        }
    }
}

/// All adapters that the drivers on this machine offer, best first.
pub fn adapters() -> Vec<AdapterSummary> {
    enumerate().iter().map(summarise).collect()
}

pub(super) fn enumerate() -> Vec<wgpu::Adapter> {
    let beside = dxc_beside_the_program();
    let path = beside.as_deref().and_then(Path::to_str);
    let mut found = match path {
        Some(path) => enumerate_with(wgpu::Dx12Compiler::DynamicDxc { dxc_path: path.to_string() }),
        // Where the system finds one, else FXC.
        None => enumerate_with(wgpu::Dx12Compiler::Auto),
    };
    // A compiler that can't be loaded takes all of DX12 with it.
    if path.is_some() && !found.iter().any(|adapter| adapter.get_info().backend == wgpu::Backend::Dx12) {
        found = enumerate_with(wgpu::Dx12Compiler::Fxc);
    }
    found.sort_by_key(|adapter| rank(adapter.get_info().device_type));
    found
}

fn enumerate_with(shader_compiler: wgpu::Dx12Compiler) -> Vec<wgpu::Adapter> {
    let backends = wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12;
    let dx12 = wgpu::Dx12BackendOptions { shader_compiler, ..Default::default() };
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
        backends,
        backend_options: wgpu::BackendOptions { dx12, ..Default::default() },
        ..wgpu::InstanceDescriptor::new_without_display_handle()
    });
    pollster::block_on(instance.enumerate_adapters(backends))
}

/// On Windows, the compiler of shaders that lies beside the program.
fn dxc_beside_the_program() -> Option<PathBuf> {
    let program = std::env::current_exe().ok().filter(|_| cfg!(windows))?;
    Some(program.with_file_name("dxcompiler.dll")).filter(|path| path.is_file())
}

fn rank(kind: wgpu::DeviceType) -> u32 {
    match kind {
        wgpu::DeviceType::DiscreteGpu => 0,
        wgpu::DeviceType::IntegratedGpu => 1,
        wgpu::DeviceType::VirtualGpu => 2,
        wgpu::DeviceType::Other => 3,
        wgpu::DeviceType::Cpu => 4,
    }
}

pub(super) fn summarise(adapter: &wgpu::Adapter) -> AdapterSummary {
    let (info, limits, features) = (adapter.get_info(), adapter.limits(), adapter.features());
    let units = features.contains(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX);
    let units = if units { adapter.cooperative_matrix_properties() } else { Vec::new() };
    let memory = memory(adapter);
    AdapterSummary {
        name: info.name,
        backend: info.backend.to_str().to_string(),
        kind: match info.device_type {
            wgpu::DeviceType::DiscreteGpu => "discrete GPU",
            wgpu::DeviceType::IntegratedGpu => "integrated GPU",
            wgpu::DeviceType::VirtualGpu => "virtual GPU",
            wgpu::DeviceType::Cpu => "CPU",
            wgpu::DeviceType::Other => "other",
        },
        class: AdapterClass::of(info.device_type),
        driver: format!("{} {}", info.driver, info.driver_info).trim().to_string(),
        subgroup: (info.subgroup_min_size, info.subgroup_max_size),
        features: OPTIONAL_FEATURES
            .iter()
            .filter(|(flag, _)| features.contains(*flag))
            .map(|(_, name)| *name)
            .collect(),
        matrix_units: units.iter().map(matrix_unit).collect(),
        memory: memory.map(|(all, _)| all),
        largest_allocation: memory.map_or(limits.max_buffer_size, |(_, largest)| largest),
        max_buffer: limits.max_buffer_size,
        max_binding: limits.max_storage_buffer_binding_size,
        max_storage_buffers: limits.max_storage_buffers_per_shader_stage,
        max_workgroup_bytes: limits.max_compute_workgroup_storage_size,
        max_invocations: limits.max_compute_invocations_per_workgroup,
        // Subgroups come with shader model 6, which FXC doesn't know, and every adapter of that model has them.
        shader_compiler: (info.backend == wgpu::Backend::Dx12)
            .then(|| if features.contains(wgpu::Features::SUBGROUP) { "DXC" } else { FXC }),
    }
}

fn matrix_unit(unit: &wgpu::CooperativeMatrixProperties) -> MatrixUnit {
    let name = |scalar| match scalar {
        wgpu::CooperativeScalarType::F32 => "f32",
        wgpu::CooperativeScalarType::F16 => "f16",
        wgpu::CooperativeScalarType::I32 => "i32",
        wgpu::CooperativeScalarType::U32 => "u32",
    };
    let (operands, sums) = (name(unit.ab_type), name(unit.cr_type));
    MatrixUnit { m: unit.m_size, n: unit.n_size, k: unit.k_size, operands, sums }
}

/// Bytes of an adapter's largest heap of device memory, and of the largest allocation: Vulkan alone says.
#[cfg(any(windows, target_os = "linux", target_os = "android", target_os = "freebsd"))]
fn memory(adapter: &wgpu::Adapter) -> Option<(u64, u64)> {
    use ash::vk;
    // SAFETY: nothing of the adapter is destroyed; the guard lives to the end of this function.
    let raw = unsafe { adapter.as_hal::<wgpu::hal::api::Vulkan>() }?;
    let device = raw.raw_physical_device();
    let version = raw.physical_device_capabilities().properties().api_version;
    if raw.shared_instance().instance_api_version().min(version) < vk::API_VERSION_1_1 {
        return None;
    }
    let instance = raw.shared_instance().raw_instance();
    let mut limits = vk::PhysicalDeviceMaintenance3Properties::default();
    let mut properties = vk::PhysicalDeviceProperties2::default().push_next(&mut limits);
    // SAFETY: the device belongs to the instance, and both are of Vulkan 1.1, which has these calls and structures.
    let heaps = unsafe {
        instance.get_physical_device_properties2(device, &mut properties);
        instance.get_physical_device_memory_properties(device)
    };
    let local = |heap: &&vk::MemoryHeap| heap.flags.contains(vk::MemoryHeapFlags::DEVICE_LOCAL);
    let all = heaps.memory_heaps_as_slice().iter().filter(local).map(|heap| heap.size).max()?;
    Some((all, limits.max_memory_allocation_size))
}

/// Other interfaces don't say.
#[cfg(not(any(windows, target_os = "linux", target_os = "android", target_os = "freebsd")))]
fn memory(_: &wgpu::Adapter) -> Option<(u64, u64)> {
    None
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn summary(class: AdapterClass, subgroup: (u32, u32)) -> AdapterSummary {
        AdapterSummary {
            name: "an adapter".into(),
            backend: "vulkan".into(),
            kind: "CPU",
            class,
            driver: String::new(),
            subgroup,
            features: vec![SUBGROUPS, HALVES],
            matrix_units: Vec::new(),
            memory: Some(12 << 30),
            largest_allocation: 2 << 30,
            max_buffer: 2 << 30,
            max_binding: 1 << 27,
            max_storage_buffers: 8,
            max_workgroup_bytes: 1 << 14,
            max_invocations: 256,
            shader_compiler: None,
        }
    }

    #[test]
    fn a_slow_compiler_is_noted() {
        let card = summary(AdapterClass::Discrete, (32, 32));
        assert!(card.notes().is_empty());
        let notes = AdapterSummary { shader_compiler: Some(FXC), ..card.clone() }.notes();
        assert!(notes.len() == 1 && notes[0].contains("dxcompiler.dll"), "{notes:?}");
        assert!(AdapterSummary { shader_compiler: Some("DXC"), ..card }.notes().is_empty());
        assert!(summary(AdapterClass::Cpu, (8, 8)).notes()[0].ends_with("a CPU adapter: right, but slow"));
    }

    #[test]
    fn memory_follows_the_class_and_what_there_is() {
        let of = |class, memory| AdapterSummary { memory, ..summary(class, (8, 8)) }.default_memory() >> 20;
        assert_eq!(of(AdapterClass::Cpu, Some(1 << 30)), 2048);
        assert_eq!(of(AdapterClass::Integrated, Some(1 << 30)), 512);
        assert_eq!(of(AdapterClass::Discrete, Some(139 << 30)), 8192);
        assert_eq!(of(AdapterClass::Discrete, Some(6 << 30)), 3072);
        assert_eq!(of(AdapterClass::Discrete, None), 2048);
    }
}
