//! A Vulkan device that only compiles, and the statistics of its compiler.

use std::error::Error;
use std::ffi::{CStr, CString, c_char};
use std::fmt;

use ash::khr::pipeline_executable_properties;
use ash::vk;

/// Storage buffers of a kernel, at bindings from 1.
const STORAGE_BUFFERS: u32 = 8;

/// A statistic's value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value {
    Truth(bool),
    Whole(u64),
    Signed(i64),
    Real(f64),
}

impl Value {
    /// The value as a count; negative values and NaN are 0.
    pub fn whole(self) -> u64 {
        match self {
            Value::Truth(truth) => u64::from(truth),
            Value::Whole(whole) => whole,
            Value::Signed(signed) => u64::try_from(signed).unwrap_or(0),
            Value::Real(real) => real as u64,
        }
    }
}

impl fmt::Display for Value {
    /// As JSON.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Truth(truth) => truth.fmt(f),
            Value::Whole(whole) => whole.fmt(f),
            Value::Signed(signed) => signed.fmt(f),
            Value::Real(real) if real.is_finite() => real.fmt(f),
            Value::Real(_) => f.write_str("null"),
        }
    }
}

/// Machine code of a pipeline. Some drivers make several, for different numbers of lanes.
pub struct Executable {
    /// Lanes of a subgroup.
    pub lanes: u32,
    /// Name and value of each statistic.
    pub statistics: Vec<(String, Value)>,
}

/// A compiled pipeline, as RADV describes it.
pub struct Compiled {
    /// Name and value of each statistic.
    pub statistics: Vec<(String, u64)>,
    /// Lanes of a wave.
    pub lanes: u32,
    /// Machine code, disassembled.
    pub assembly: String,
}

impl Compiled {
    /// A statistic by its name.
    ///
    /// # Errors
    /// If the driver has no such statistic.
    pub fn statistic(&self, name: &str) -> Result<u64, Box<dyn Error>> {
        let found = self.statistics.iter().find(|(known, _)| known == name);
        let known: Vec<_> = self.statistics.iter().map(|(name, _)| name.as_str()).collect();
        Ok(found.ok_or_else(|| format!("the driver has no `{name}`, only {}", known.join(", ")))?.1)
    }
}

/// A device that is opened only for its compiler.
pub struct Device {
    instance: ash::Instance,
    device: ash::Device,
    executables: pipeline_executable_properties::Device,
    layout: vk::PipelineLayout,
    set_layout: vk::DescriptorSetLayout,
    /// The device's name.
    pub name: String,
    /// The driver's name and version.
    pub driver: String,
    /// True if it has matrix units.
    pub matrix_units: bool,
    /// Lanes of its smallest and largest subgroups.
    pub subgroup: (u32, u32),
    /// True if it has f16, in memory and in registers.
    f16: bool,
    /// Rows, columns and depth of the fragments of its matrix units, f16 with f32 sums.
    fragments: Vec<[u32; 3]>,
    // Last, so that the library is unloaded after everything that depends on it.
    _entry: ash::Entry,
}

/// Text of a fixed array up to a zero byte.
fn text(bytes: &[c_char]) -> String {
    let bytes: Vec<u8> =
        bytes.iter().map(|&byte| byte.cast_unsigned()).take_while(|&byte| byte != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

impl Device {
    /// Opens the null device of an AMD family, by Mesa's name.
    ///
    /// # Errors
    /// If there is no Vulkan, no such family, or the device is another one.
    pub fn open(family: &str) -> Result<Self, Box<dyn Error>> {
        // SAFETY: no other thread runs yet that could read the environment.
        unsafe { std::env::set_var("RADV_FORCE_FAMILY", family) };
        let device = Self::open_where(|names| (!names.is_empty()).then_some(0))?;
        if !device.name.to_lowercase().contains(&format!("radv {}", family.to_lowercase())) {
            return Err(format!("the device is {}, not a null one of {family}", device.name).into());
        }
        Ok(device)
    }

    /// Opens the device whose name contains `wanted`; without it the first discrete one, else the first.
    ///
    /// # Errors
    /// If there is no Vulkan, no such device, or its driver has no VK_KHR_pipeline_executable_properties.
    pub fn open_any(wanted: Option<&str>) -> Result<Self, Box<dyn Error>> {
        Self::open_where(|names| match wanted {
            Some(wanted) => {
                names.iter().position(|(name, _)| name.to_lowercase().contains(&wanted.to_lowercase()))
            }
            None => names.iter().position(|(_, discrete)| *discrete).or((!names.is_empty()).then_some(0)),
        })
    }

    /// Opens the device that `choose` selects by index. It gets the names of all devices, with true for discrete ones.
    fn open_where(choose: impl Fn(&[(String, bool)]) -> Option<usize>) -> Result<Self, Box<dyn Error>> {
        // SAFETY: the loader is the system's. Every handle below comes from it and doesn't outlive `entry`. Every
        // structure is filled by ash's builders and outlives its call.
        unsafe {
            let entry = ash::Entry::load().map_err(|error| format!("no Vulkan loader: {error}"))?;
            let application = vk::ApplicationInfo::default().api_version(vk::API_VERSION_1_3);
            let info = vk::InstanceCreateInfo::default().application_info(&application);
            let instance = entry.create_instance(&info, None)?;
            let all = instance.enumerate_physical_devices()?;
            let names: Vec<(String, bool)> = all
                .iter()
                .map(|&one| instance.get_physical_device_properties(one))
                .map(|one| (text(&one.device_name), one.device_type == vk::PhysicalDeviceType::DISCRETE_GPU))
                .collect();
            let chosen = choose(&names).ok_or_else(|| {
                let names: Vec<_> = names.iter().map(|(name, _)| name.as_str()).collect();
                format!("no such Vulkan device, only: {}", names.join(", "))
            })?;
            let physical = all[chosen];
            let mut driver = vk::PhysicalDeviceDriverProperties::default();
            let mut sizes = vk::PhysicalDeviceSubgroupSizeControlProperties::default();
            let mut one_size = vk::PhysicalDeviceSubgroupProperties::default();
            let mut properties = vk::PhysicalDeviceProperties2::default()
                .push_next(&mut driver)
                .push_next(&mut sizes)
                .push_next(&mut one_size);
            instance.get_physical_device_properties2(physical, &mut properties);
            let version = properties.properties.api_version;
            let name = text(&properties.properties.device_name);
            let driver = format!("{} {}", text(&driver.driver_name), text(&driver.driver_info));
            if version < vk::API_VERSION_1_2 {
                return Err(format!("{name}, {driver}: Vulkan 1.2 is needed").into());
            }
            let subgroup = if sizes.max_subgroup_size == 0 {
                (one_size.subgroup_size, one_size.subgroup_size)
            } else {
                (sizes.min_subgroup_size, sizes.max_subgroup_size)
            };
            let offered = instance.enumerate_device_extension_properties(physical)?;
            let offers =
                |wanted: &CStr| offered.iter().any(|one| one.extension_name_as_c_str() == Ok(wanted));
            if !offers(pipeline_executable_properties::NAME) {
                return Err(format!("{name}, {driver}: no VK_KHR_pipeline_executable_properties").into());
            }
            let matrix_units = offers(ash::khr::cooperative_matrix::NAME);
            let robustness = offers(ash::ext::robustness2::NAME);

            let queue = [vk::DeviceQueueCreateInfo::default().queue_family_index(0).queue_priorities(&[1.0])];
            // The features that wgpu requests, as far as they change the machine code.
            let mut f16_storage = vk::PhysicalDevice16BitStorageFeatures::default();
            let mut f16_arithmetic = vk::PhysicalDeviceShaderFloat16Int8Features::default();
            let mut can = vk::PhysicalDeviceFeatures2::default()
                .push_next(&mut f16_storage)
                .push_next(&mut f16_arithmetic);
            instance.get_physical_device_features2(physical, &mut can);
            let robust = vk::PhysicalDeviceFeatures::default()
                .robust_buffer_access(can.features.robust_buffer_access == vk::TRUE);
            let has_f16 = f16_storage.storage_buffer16_bit_access == vk::TRUE
                && f16_arithmetic.shader_float16 == vk::TRUE;
            let mut f16_storage =
                vk::PhysicalDevice16BitStorageFeatures::default().storage_buffer16_bit_access(has_f16);
            let mut f16_arithmetic =
                vk::PhysicalDeviceShaderFloat16Int8Features::default().shader_float16(has_f16);
            let mut robust_2 = vk::PhysicalDeviceRobustness2FeaturesEXT::default()
                .robust_buffer_access2(true)
                .robust_image_access2(true);
            let mut executable_info = vk::PhysicalDevicePipelineExecutablePropertiesFeaturesKHR::default()
                .pipeline_executable_info(true);
            let mut cooperative =
                vk::PhysicalDeviceCooperativeMatrixFeaturesKHR::default().cooperative_matrix(true);
            let mut memory_model = vk::PhysicalDeviceVulkanMemoryModelFeatures::default()
                .vulkan_memory_model(true)
                .vulkan_memory_model_device_scope(true);
            let mut extensions = vec![pipeline_executable_properties::NAME.as_ptr()];
            let mut info = vk::DeviceCreateInfo::default()
                .queue_create_infos(&queue)
                .enabled_features(&robust)
                .push_next(&mut f16_storage)
                .push_next(&mut f16_arithmetic)
                .push_next(&mut executable_info);
            if robustness {
                extensions.push(ash::ext::robustness2::NAME.as_ptr());
                info = info.push_next(&mut robust_2);
            }
            if matrix_units {
                extensions.push(ash::khr::cooperative_matrix::NAME.as_ptr());
                info = info.push_next(&mut cooperative).push_next(&mut memory_model);
            }
            let info = info.enabled_extension_names(&extensions);
            let device = instance.create_device(physical, &info, None)?;
            let fragments = if matrix_units {
                ash::khr::cooperative_matrix::Instance::new(&entry, &instance)
                    .get_physical_device_cooperative_matrix_properties(physical)?
                    .iter()
                    .filter(|one| {
                        one.scope == vk::ScopeKHR::SUBGROUP
                            && one.a_type == vk::ComponentTypeKHR::FLOAT16
                            && one.b_type == vk::ComponentTypeKHR::FLOAT16
                            && one.c_type == vk::ComponentTypeKHR::FLOAT32
                            && one.result_type == vk::ComponentTypeKHR::FLOAT32
                    })
                    .map(|one| [one.m_size, one.n_size, one.k_size])
                    .collect()
            } else {
                Vec::new()
            };

            let bindings: Vec<_> = (0..=STORAGE_BUFFERS)
                .map(|at| {
                    let kind = if at == 0 {
                        vk::DescriptorType::UNIFORM_BUFFER
                    } else {
                        vk::DescriptorType::STORAGE_BUFFER
                    };
                    vk::DescriptorSetLayoutBinding::default()
                        .binding(at)
                        .descriptor_type(kind)
                        .descriptor_count(1)
                        .stage_flags(vk::ShaderStageFlags::COMPUTE)
                })
                .collect();
            let info = vk::DescriptorSetLayoutCreateInfo::default().bindings(&bindings);
            let set_layout = device.create_descriptor_set_layout(&info, None)?;
            let info = vk::PipelineLayoutCreateInfo::default().set_layouts(std::slice::from_ref(&set_layout));
            let layout = device.create_pipeline_layout(&info, None)?;
            let executables = pipeline_executable_properties::Device::new(&instance, &device);
            Ok(Device {
                instance,
                device,
                executables,
                layout,
                set_layout,
                name,
                driver,
                matrix_units,
                subgroup,
                f16: has_f16,
                fragments,
                _entry: entry,
            })
        }
    }

    /// Returns whether the device supports a pipeline with these features, joined by commas as in `list.txt`.
    pub fn takes(&self, variant: &str, features: &str) -> bool {
        let has = |feature: &str| features.split(',').any(|one| one == feature);
        let (smallest, largest) = self.subgroup;
        let side = |side: u32| has(&format!("{side}x{side}")) && self.fragments.contains(&[side; 3]);
        (!has("f16") || self.f16)
            // The engine uses them only if all subgroups have the variant's size.
            && (!has("subgroups") || (smallest == largest && variant.split('-').any(|word| word == format!("SUB{smallest}"))))
            && (!has("fragments") || side(8) || side(16))
    }

    /// Compiles one entry point for RADV's statistics and machine code.
    ///
    /// # Errors
    /// If the driver refuses it or shows no machine code.
    pub fn compile(&self, words: &[u32], entry: &str) -> Result<Compiled, Box<dyn Error>> {
        let flags = vk::PipelineCreateFlags::CAPTURE_STATISTICS_KHR
            | vk::PipelineCreateFlags::CAPTURE_INTERNAL_REPRESENTATIONS_KHR;
        self.with_pipeline(words, entry, flags, |pipeline| {
            // SAFETY: the pipeline was made by this device with both capture flags.
            let executables = unsafe { self.describe(pipeline)? };
            let first = executables.into_iter().next().ok_or("a pipeline without code")?;
            let statistics =
                first.statistics.into_iter().map(|(name, value)| (name, value.whole())).collect();
            let info = vk::PipelineExecutableInfoKHR::default().pipeline(pipeline).executable_index(0);
            Ok(Compiled { statistics, lanes: first.lanes, assembly: self.assembly(&info)? })
        })
    }

    /// Compiles one entry point for its statistics.
    ///
    /// # Errors
    /// If the driver refuses it.
    pub fn executables(&self, words: &[u32], entry: &str) -> Result<Vec<Executable>, Box<dyn Error>> {
        self.with_pipeline(words, entry, vk::PipelineCreateFlags::CAPTURE_STATISTICS_KHR, |pipeline| {
            // SAFETY: the pipeline was made by this device and captures its statistics.
            unsafe { self.describe(pipeline) }
        })
    }

    /// Compiles one entry point, calls `look` with it, and destroys it.
    fn with_pipeline<T>(
        &self,
        words: &[u32],
        entry: &str,
        flags: vk::PipelineCreateFlags,
        look: impl Fn(vk::Pipeline) -> Result<T, Box<dyn Error>>,
    ) -> Result<T, Box<dyn Error>> {
        let entry = CString::new(entry)?;
        // SAFETY: the handles are those of `open_where`; module and pipeline are destroyed before the function returns.
        unsafe {
            let module =
                self.device.create_shader_module(&vk::ShaderModuleCreateInfo::default().code(words), None)?;
            let stage = vk::PipelineShaderStageCreateInfo::default()
                .stage(vk::ShaderStageFlags::COMPUTE)
                .module(module)
                .name(&entry);
            let info = vk::ComputePipelineCreateInfo::default().stage(stage).layout(self.layout).flags(flags);
            let made = self.device.create_compute_pipelines(vk::PipelineCache::null(), &[info], None);
            self.device.destroy_shader_module(module, None);
            let pipeline = *made.map_err(|(_, error)| error)?.first().ok_or("no pipeline")?;
            let seen = look(pipeline);
            self.device.destroy_pipeline(pipeline, None);
            seen
        }
    }

    /// # Safety
    /// The pipeline is one of this device that captures its statistics.
    unsafe fn describe(&self, pipeline: vk::Pipeline) -> Result<Vec<Executable>, Box<dyn Error>> {
        let info = vk::PipelineInfoKHR::default().pipeline(pipeline);
        // SAFETY: by the contract of this function.
        let executables = unsafe { self.executables.get_pipeline_executable_properties(&info)? };
        let mut found = Vec::new();
        for (index, executable) in (0..).zip(&executables) {
            let info = vk::PipelineExecutableInfoKHR::default().pipeline(pipeline).executable_index(index);
            // SAFETY: by the contract of this function.
            let raw = unsafe { self.executables.get_pipeline_executable_statistics(&info)? };
            let statistics = raw
                .iter()
                .map(|statistic| {
                    use vk::PipelineExecutableStatisticFormatKHR as Format;
                    // SAFETY: the format says which member of the union is filled.
                    let value = unsafe {
                        match statistic.format {
                            Format::BOOL32 => Value::Truth(statistic.value.b32 == vk::TRUE),
                            Format::INT64 => Value::Signed(statistic.value.i64),
                            Format::FLOAT64 => Value::Real(statistic.value.f64),
                            _ => Value::Whole(statistic.value.u64),
                        }
                    };
                    (text(&statistic.name), value)
                })
                .collect();
            found.push(Executable { lanes: executable.subgroup_size, statistics });
        }
        Ok(found)
    }

    /// The disassembled machine code of an executable.
    fn assembly(&self, info: &vk::PipelineExecutableInfoKHR<'_>) -> Result<String, Box<dyn Error>> {
        let call = self.executables.fp().get_pipeline_executable_internal_representations_khr;
        let mut count = 0;
        // SAFETY: the calls follow the extension: they get the number of texts, then their sizes, then the texts in
        // memory of those sizes.
        unsafe {
            call(self.device.handle(), info, &mut count, std::ptr::null_mut()).result()?;
            let mut found = vec![vk::PipelineExecutableInternalRepresentationKHR::default(); count as usize];
            call(self.device.handle(), info, &mut count, found.as_mut_ptr()).result()?;
            let mut texts: Vec<Vec<u8>> = found.iter().map(|one| vec![0; one.data_size]).collect();
            for (one, text) in found.iter_mut().zip(&mut texts) {
                one.p_data = text.as_mut_ptr().cast();
            }
            call(self.device.handle(), info, &mut count, found.as_mut_ptr()).result()?;
            for (one, bytes) in found.iter().zip(&texts) {
                if text(&one.name) == "Assembly" {
                    let assembly = CStr::from_bytes_until_nul(bytes)?;
                    return Ok(assembly.to_string_lossy().into_owned());
                }
            }
        }
        Err("the driver shows no machine code: was it built without a disassembler?".into())
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // SAFETY: nothing of the device is in use, and objects are destroyed in reverse order of creation.
        unsafe {
            self.device.destroy_pipeline_layout(self.layout, None);
            self.device.destroy_descriptor_set_layout(self.set_layout, None);
            self.device.destroy_device(None);
            self.instance.destroy_instance(None);
        }
    }
}
