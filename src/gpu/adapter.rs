//! Descriptions of the adapters that the drivers offer, before any is opened.

use super::class::AdapterClass;
use std::path::{Path, PathBuf};

/// The description of an adapter that `lat-wgpu info` prints.
#[derive(Debug, Clone)]
pub struct AdapterSummary {
    /// Name, as the driver reports it.
    pub name: String,
    /// "vulkan", "metal" or "dx12".
    pub backend: String,
    /// "discrete GPU", "integrated GPU", "virtual GPU", "CPU" or "other".
    pub kind: &'static str,
    /// Class: how much parallel work keeps it busy.
    pub class: AdapterClass,
    /// Driver name and version.
    pub driver: String,
    /// Smallest and largest subgroup, in invocations.
    pub subgroup: (u32, u32),
    /// Optional features that the engine can use.
    pub features: Vec<&'static str>,
    /// Configurations of its matrix units; empty without matrix units.
    pub matrix_units: Vec<MatrixUnit>,
    /// Bytes of its largest heap of device-local memory; `None` where the graphics API doesn't report it.
    pub memory: Option<u64>,
    /// Bytes of the largest allocation; where the graphics API doesn't report it, of the largest buffer.
    pub largest_allocation: u64,
    /// Bytes of the largest buffer.
    pub max_buffer: u64,
    /// Bytes of the largest storage binding.
    pub max_binding: u64,
    /// Most storage buffers of a kernel.
    pub max_storage_buffers: u32,
    /// Bytes of workgroup memory.
    pub max_workgroup_bytes: u32,
    /// Most invocations of a workgroup.
    pub max_invocations: u32,
    /// The shader compiler on DX12: "DXC" or "FXC".
    pub shader_compiler: Option<&'static str>,
}

/// DX12's old shader compiler: has neither f16 nor subgroups, and takes seconds for a large shader.
const FXC: &str = "FXC";

/// A configuration of matrix units: the fragments of C (m, n) += A (m, k)·B (k, n).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MatrixUnit {
    /// Rows of C.
    pub m: u32,
    /// Columns of C.
    pub n: u32,
    /// Columns of A and rows of B.
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

// Names of optional features in messages.
pub(super) const SUBGROUPS: &str = "subgroups";
pub(super) const F16: &str = "f16";
pub(super) const PIPELINE_CACHE: &str = "pipeline cache";

/// The features that the engine uses where the adapter has them.
pub(super) const OPTIONAL_FEATURES: [(wgpu::Features, &str); 4] = [
    (wgpu::Features::SUBGROUP, SUBGROUPS),
    (wgpu::Features::SHADER_F16, F16),
    (wgpu::Features::TIMESTAMP_QUERY, "timestamps"),
    (wgpu::Features::PIPELINE_CACHE, PIPELINE_CACHE),
];

impl AdapterSummary {
    pub(super) fn has(&self, feature: &str) -> bool {
        self.features.contains(&feature)
    }

    /// Returns notes for the user about this adapter.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if self.class == AdapterClass::Cpu {
            notes.push(format!("{} is a CPU adapter: results are correct, but it is slow", self.name));
        }
        if self.shader_compiler == Some(FXC) {
            notes.push(
                "DX12 uses the shader compiler FXC, which is slow and has neither f16 nor subgroups. To use DXC, put \
                 dxcompiler.dll and dxil.dll next to the program (https://github.com/microsoft/DirectXShaderCompiler/releases)"
                    .to_string(),
            );
        }
        notes
    }

    /// Returns the default limit of device memory, in bytes: 2 GiB, or 8 GiB on discrete GPUs, and on any GPU at most
    /// half of its memory.
    pub fn default_memory(&self) -> u64 {
        match (self.class, self.memory) {
            (AdapterClass::Cpu, _) | (_, None) => 2 << 30,
            (AdapterClass::Integrated, Some(bytes)) => (bytes / 2).min(2 << 30),
            (AdapterClass::Discrete, Some(bytes)) => (bytes / 2).min(8 << 30),
        }
    }
}

/// Returns all adapters of this machine, best first.
pub fn adapters() -> Vec<AdapterSummary> {
    enumerate().iter().map(summarise).collect()
}

pub(super) fn enumerate() -> Vec<wgpu::Adapter> {
    let beside = dxc_beside_the_program();
    let path = beside.as_deref().and_then(Path::to_str);
    let mut found = match path {
        Some(path) => enumerate_with(wgpu::Dx12Compiler::DynamicDxc { dxc_path: path.to_string() }),
        // DXC where the system finds it, else FXC.
        None => enumerate_with(wgpu::Dx12Compiler::Auto),
    };
    // With a compiler that can't be loaded, wgpu lists no DX12 adapter.
    if path.is_some() && !found.iter().any(|adapter| adapter.get_info().backend == wgpu::Backend::Dx12) {
        found = enumerate_with(wgpu::Dx12Compiler::Fxc);
    }
    found.sort_by_key(|adapter| rank(adapter.get_info().device_type));
    found
}

/// Returns the adapter of an index or of a part of a name; the first one without either. Of several that are alike, it
/// is the one for the process of this number.
pub(super) fn choose<'a>(
    found: &'a [wgpu::Adapter],
    wanted: Option<&str>,
    local_rank: usize,
) -> Option<&'a wgpu::Adapter> {
    let described = found.iter().map(|adapter| {
        let info = adapter.get_info();
        (info.name.to_lowercase(), format!("{} {:?}", info.backend, info.device_type))
    });
    let names: Vec<(String, String)> = described.collect();
    chosen(&names, wanted, local_rank).map(|index| &found[index])
}

/// Returns the index of the adapter that [`choose`] takes, given names and kinds.
fn chosen(found: &[(String, String)], wanted: Option<&str>, local_rank: usize) -> Option<usize> {
    let index = wanted.and_then(|text| text.parse().ok()).filter(|&index| index < found.len());
    if index.is_some() {
        return index;
    }
    let wanted = wanted.unwrap_or_default().to_lowercase();
    let named = |(_, (name, _)): &(usize, &(String, String))| name.contains(&wanted);
    let first = found.iter().enumerate().find(named)?;
    let alike = |other: &(usize, &(String, String))| named(other) && other.1.1 == first.1.1;
    let alike: Vec<usize> = found.iter().enumerate().filter(alike).map(|(index, _)| index).collect();
    Some(alike[local_rank % alike.len()])
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

/// Returns the path of a DXC in the program's folder, on Windows.
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
        // Shader model 6 includes subgroups, and FXC doesn't support it.
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

/// Returns the bytes of the largest heap of device-local memory and of the largest allocation. Only Vulkan reports
/// them.
#[cfg(any(windows, target_os = "linux", target_os = "android", target_os = "freebsd"))]
fn memory(adapter: &wgpu::Adapter) -> Option<(u64, u64)> {
    use ash::vk;
    // SAFETY: nothing of the adapter is destroyed, and `raw` is dropped at the end of this function.
    let raw = unsafe { adapter.as_hal::<wgpu::hal::api::Vulkan>() }?;
    let device = raw.raw_physical_device();
    let version = raw.physical_device_capabilities().properties().api_version;
    if raw.shared_instance().instance_api_version().min(version) < vk::API_VERSION_1_1 {
        return None;
    }
    let instance = raw.shared_instance().raw_instance();
    let mut limits = vk::PhysicalDeviceMaintenance3Properties::default();
    let mut properties = vk::PhysicalDeviceProperties2::default().push_next(&mut limits);
    // SAFETY: the device belongs to the instance, and both support Vulkan 1.1, which has these calls and structures.
    let heaps = unsafe {
        instance.get_physical_device_properties2(device, &mut properties);
        instance.get_physical_device_memory_properties(device)
    };
    let local = |heap: &&vk::MemoryHeap| heap.flags.contains(vk::MemoryHeapFlags::DEVICE_LOCAL);
    let all = heaps.memory_heaps_as_slice().iter().filter(local).map(|heap| heap.size).max()?;
    Some((all, limits.max_memory_allocation_size))
}

/// Metal doesn't report them.
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
            features: vec![SUBGROUPS, F16],
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
    fn processes_of_a_machine_take_one_adapter_each() {
        let found: Vec<(String, String)> = [
            ("geforce rtx 4090", "vulkan DiscreteGpu"),
            ("geforce rtx 4090", "vulkan DiscreteGpu"),
            ("geforce rtx 4090", "dx12 DiscreteGpu"),
            ("llvmpipe", "vulkan Cpu"),
        ]
        .map(|(name, kind)| (name.to_string(), kind.to_string()))
        .into();
        let of_ranks = |wanted| [0, 1, 2].map(|rank| chosen(&found, wanted, rank));
        assert_eq!(of_ranks(None), [Some(0), Some(1), Some(0)]);
        assert_eq!(of_ranks(Some("RTX")), [Some(0), Some(1), Some(0)]);
        assert_eq!(of_ranks(Some("2")), [Some(2); 3]);
        // Not an index of four adapters, but a part of a name.
        assert_eq!(of_ranks(Some("4090")), [Some(0), Some(1), Some(0)]);
        assert_eq!(of_ranks(Some("llvm")), [Some(3); 3]);
        assert_eq!((of_ranks(Some("none")), chosen(&[], None, 0)), ([None; 3], None));
    }

    #[test]
    fn a_slow_compiler_is_noted() {
        let card = summary(AdapterClass::Discrete, (32, 32));
        assert!(card.notes().is_empty());
        let notes = AdapterSummary { shader_compiler: Some(FXC), ..card.clone() }.notes();
        assert!(notes.len() == 1 && notes[0].contains("dxcompiler.dll"), "{notes:?}");
        assert!(AdapterSummary { shader_compiler: Some("DXC"), ..card }.notes().is_empty());
        assert!(
            summary(AdapterClass::Cpu, (8, 8)).notes()[0]
                .ends_with("a CPU adapter: results are correct, but it is slow")
        );
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
