//! A Vulkan device that compiles and runs nothing, and what its compiler tells about a pipeline.

use std::error::Error;
use std::ffi::{CStr, CString, c_char};

use ash::khr::pipeline_executable_properties;
use ash::vk;

/// Storage buffers that a kernel may have, at the bindings from 1 on.
const STORAGE_BUFFERS: u32 = 8;

/// A compiled pipeline, as the driver describes it.
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
    /// If the driver doesn't tell it.
    pub fn statistic(&self, name: &str) -> Result<u64, Box<dyn Error>> {
        let found = self.statistics.iter().find(|(known, _)| known == name);
        let known: Vec<_> = self.statistics.iter().map(|(name, _)| name.as_str()).collect();
        Ok(found.ok_or_else(|| format!("the driver tells no `{name}`, only {}", known.join(", ")))?.1)
    }
}

/// The first device of the driver that VK_DRIVER_FILES names.
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
    /// Whether it has matrix units.
    pub matrix_units: bool,
    // Last: the library is unloaded when all that came from it is gone.
    _entry: ash::Entry,
}

/// Text of a fixed array that C ends with a zero.
fn text(bytes: &[c_char]) -> String {
    let bytes: Vec<u8> =
        bytes.iter().map(|&byte| byte.cast_unsigned()).take_while(|&byte| byte != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

impl Device {
    /// Opens the null device of an AMD family, by Mesa's name of it.
    ///
    /// # Errors
    /// If there is no Vulkan, no such family, or the device is another one.
    pub fn open(family: &str) -> Result<Self, Box<dyn Error>> {
        // SAFETY: this program has one thread, and no other reads the environment while it is changed.
        unsafe { std::env::set_var("RADV_FORCE_FAMILY", family) };
        // SAFETY: the loader is the system's; every handle below comes from it and lives no longer than `entry`; every
        // structure is filled by ash's builders and outlives the call that it is handed to.
        unsafe {
            let entry = ash::Entry::load()?;
            let application = vk::ApplicationInfo::default().api_version(vk::API_VERSION_1_3);
            let info = vk::InstanceCreateInfo::default().application_info(&application);
            let instance = entry.create_instance(&info, None)?;
            let physical = *instance.enumerate_physical_devices()?.first().ok_or("no Vulkan device")?;
            let mut driver = vk::PhysicalDeviceDriverProperties::default();
            let mut properties = vk::PhysicalDeviceProperties2::default().push_next(&mut driver);
            instance.get_physical_device_properties2(physical, &mut properties);
            let name = text(&properties.properties.device_name);
            if !name.to_lowercase().contains(&format!("radv {}", family.to_lowercase())) {
                return Err(format!("the device is {name}, not a null one of {family}").into());
            }
            let driver = format!("{} {}", text(&driver.driver_name), text(&driver.driver_info));

            let queue = [vk::DeviceQueueCreateInfo::default().queue_family_index(0).queue_priorities(&[1.0])];
            // What wgpu asks for, as far as it changes the machine code.
            let robust = vk::PhysicalDeviceFeatures::default().robust_buffer_access(true);
            let mut halves_in_memory =
                vk::PhysicalDevice16BitStorageFeatures::default().storage_buffer16_bit_access(true);
            let mut halves = vk::PhysicalDeviceShaderFloat16Int8Features::default().shader_float16(true);
            let mut robust_2 = vk::PhysicalDeviceRobustness2FeaturesEXT::default()
                .robust_buffer_access2(true)
                .robust_image_access2(true);
            let mut executable_info = vk::PhysicalDevicePipelineExecutablePropertiesFeaturesKHR::default()
                .pipeline_executable_info(true);
            let offered = instance.enumerate_device_extension_properties(physical)?;
            let matrix_units = offered
                .iter()
                .any(|one| one.extension_name_as_c_str() == Ok(ash::khr::cooperative_matrix::NAME));
            let mut cooperative =
                vk::PhysicalDeviceCooperativeMatrixFeaturesKHR::default().cooperative_matrix(true);
            let mut memory_model = vk::PhysicalDeviceVulkanMemoryModelFeatures::default()
                .vulkan_memory_model(true)
                .vulkan_memory_model_device_scope(true);
            let mut extensions =
                vec![pipeline_executable_properties::NAME.as_ptr(), ash::ext::robustness2::NAME.as_ptr()];
            if matrix_units {
                extensions.push(ash::khr::cooperative_matrix::NAME.as_ptr());
            }
            let mut info = vk::DeviceCreateInfo::default()
                .queue_create_infos(&queue)
                .enabled_extension_names(&extensions)
                .enabled_features(&robust)
                .push_next(&mut halves_in_memory)
                .push_next(&mut halves)
                .push_next(&mut robust_2)
                .push_next(&mut executable_info);
            if matrix_units {
                info = info.push_next(&mut cooperative).push_next(&mut memory_model);
            }
            let device = instance.create_device(physical, &info, None)?;

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
                _entry: entry,
            })
        }
    }

    /// Compiles one entry point.
    ///
    /// # Errors
    /// If the driver refuses it or doesn't show the machine code.
    pub fn compile(&self, words: &[u32], entry: &str) -> Result<Compiled, Box<dyn Error>> {
        let entry = CString::new(entry)?;
        // SAFETY: the handles are those of `open`; the module and the pipeline are destroyed before it returns, on
        // failure too except where the device itself is of no more use.
        unsafe {
            let module =
                self.device.create_shader_module(&vk::ShaderModuleCreateInfo::default().code(words), None)?;
            let stage = vk::PipelineShaderStageCreateInfo::default()
                .stage(vk::ShaderStageFlags::COMPUTE)
                .module(module)
                .name(&entry);
            let info = vk::ComputePipelineCreateInfo::default().stage(stage).layout(self.layout).flags(
                vk::PipelineCreateFlags::CAPTURE_STATISTICS_KHR
                    | vk::PipelineCreateFlags::CAPTURE_INTERNAL_REPRESENTATIONS_KHR,
            );
            let made = self.device.create_compute_pipelines(vk::PipelineCache::null(), &[info], None);
            self.device.destroy_shader_module(module, None);
            let pipeline = *made.map_err(|(_, error)| error)?.first().ok_or("no pipeline")?;
            let described = self.describe(pipeline);
            self.device.destroy_pipeline(pipeline, None);
            described
        }
    }

    /// # Safety
    /// The pipeline is one of this device, compiled with both capture flags.
    unsafe fn describe(&self, pipeline: vk::Pipeline) -> Result<Compiled, Box<dyn Error>> {
        let info = vk::PipelineExecutableInfoKHR::default().pipeline(pipeline).executable_index(0);
        // SAFETY: by the contract of this function.
        let raw = unsafe { self.executables.get_pipeline_executable_statistics(&info)? };
        let statistics = raw
            .iter()
            .map(|statistic| {
                // SAFETY: the format says which member of the union is filled; RADV fills the 64-bit one only.
                let value = unsafe { statistic.value.u64 };
                (text(&statistic.name), value)
            })
            .collect();

        let info_of_all = vk::PipelineInfoKHR::default().pipeline(pipeline);
        // SAFETY: by the contract of this function.
        let executables = unsafe { self.executables.get_pipeline_executable_properties(&info_of_all)? };
        let lanes = executables.first().ok_or("a pipeline without code")?.subgroup_size;
        let assembly = self.assembly(&info)?;
        Ok(Compiled { statistics, lanes, assembly })
    }

    /// The disassembled machine code of an executable.
    fn assembly(&self, info: &vk::PipelineExecutableInfoKHR<'_>) -> Result<String, Box<dyn Error>> {
        let call = self.executables.fp().get_pipeline_executable_internal_representations_khr;
        let mut count = 0;
        // SAFETY: the call as the extension wants it: first the number of texts, then their sizes, then the texts
        // themselves in memory of those sizes.
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
        // SAFETY: nothing of the device is in use, and each is destroyed before what it was made of.
        unsafe {
            self.device.destroy_pipeline_layout(self.layout, None);
            self.device.destroy_descriptor_set_layout(self.set_layout, None);
            self.device.destroy_device(None);
            self.instance.destroy_instance(None);
        }
    }
}
