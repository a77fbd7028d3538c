//! Compares every shader in every variant with its Rust declaration. naga parses the shaders; no GPU is needed.
//!
//! With `LAT_SHADER_OUT=DIR` the assembled sources are written to DIR for other tools, see tools/check_shaders.sh and
//! tools/check_hlsl.sh. Each list has one line per pipeline:
//! - `VARIANT.wgsl`, and `list.txt`: `VARIANT ENTRY FEATURES [OVERRIDE=VALUE…]`, features joined by commas: `plain`,
//!   `subgroups` or `fragments` (matrix units), `f16`, the side of a fragment, and `naga` if no other compiler reads
//!   the WGSL;
//! - `VARIANT+SETTING.spv`, and `spirv.txt`: `FILE ENVIRONMENT`, the environment of spirv-val;
//! - `VARIANT+SETTING.hlsl`, and `hlsl.txt`: `FILE MODEL ENTRY`, the lowest shader model that suffices.

#[path = "shader_contract/fragments.rs"]
mod fragments;

use std::collections::HashSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use lat_wgpu::gpu::{
    Access, Binding, Constants, Field, Kernel, ShaderFile, Storage, WorkgroupSize, assemble,
};
use lat_wgpu::kernels;
use naga::back::pipeline_constants::process_overrides;
use naga::back::{PipelineConstants, hlsl, msl, spv};
use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy, Layouter};
use naga::valid::{Capabilities, GlobalUse, ModuleInfo, ValidationFlags, Validator};
use naga::{AddressSpace, Handle, Module, Scalar, ShaderStage, StorageAccess, Type, TypeInner, VectorSize};

/// WebGPU's default limit.
const MAX_STORAGE_BUFFERS: usize = 8;

/// Largest numbers of invocations and of bytes of workgroup memory: WebGPU's default limits, or those of every adapter
/// with matrix units.
fn workgroup_limits(kernel: &Kernel) -> (u32, u32) {
    if kernel.multiplies_fragments() { (1024, 32 * 1024) } else { (256, 16 * 1024) }
}

/// The languages that a variant is translated to. Every translation must succeed.
struct Targets {
    /// Lowest Vulkan version whose rules the SPIR-V keeps, as spirv-val names it.
    vulkan: &'static str,
    /// Version of the Metal source.
    metal: Option<(u8, u8)>,
    /// Lowest shader model of the HLSL.
    hlsl: Option<hlsl::ShaderModel>,
    /// True if Tint knows all of the WGSL.
    tint: bool,
}

/// Targets for each set of features, as [`features`] names them. Vulkan 1.1 is the first version with subgroup
/// operations. Windows compiles shader model 5.1 without further files; subgroups need 6.0, f16 needs 6.2. Neither HLSL
/// nor WebGPU has matrix units, and Metal's multiply fragments of 8 × 8 alone.
const TARGETS: [(&str, Targets); 6] = {
    use hlsl::ShaderModel;
    const METAL: Option<(u8, u8)> = Some((2, 4));
    const fn targets(metal: Option<(u8, u8)>, hlsl: Option<ShaderModel>) -> Targets {
        Targets { vulkan: "vulkan1.1", metal, hlsl, tint: true }
    }
    const fn fragments(metal: Option<(u8, u8)>) -> Targets {
        Targets { vulkan: "vulkan1.3", metal, hlsl: None, tint: false }
    }
    [
        ("plain", targets(METAL, Some(ShaderModel::V5_1))),
        ("plain,f16", targets(METAL, Some(ShaderModel::V6_2))),
        ("subgroups", targets(METAL, Some(ShaderModel::V6_0))),
        ("subgroups,f16", targets(METAL, Some(ShaderModel::V6_2))),
        ("fragments,f16,8x8", fragments(METAL)),
        ("fragments,f16,16x16", fragments(None)),
    ]
};

/// Features that a variant needs, joined by commas.
fn features(kernel: &Kernel, constants: &Constants, storage: Storage) -> String {
    let fragments = kernel.multiplies_fragments();
    let mut words = vec![match (fragments, kernel.file.subgroups) {
        (true, _) => "fragments".to_string(),
        (false, true) => "subgroups".to_string(),
        (false, false) => "plain".to_string(),
    }];
    words.extend((storage == Storage::F16).then(|| "f16".to_string()));
    let side = constants.iter().find(|(name, _)| fragments && *name == "SIDE");
    words.extend(side.map(|(_, side)| format!("{side}x{side}")));
    words.join(",")
}

/// The row of [`TARGETS`] for these features.
fn targets(features: &str) -> Result<&'static Targets, String> {
    let row = TARGETS.iter().find(|(needs, _)| *needs == features);
    row.map(|(_, targets)| targets).ok_or_else(|| format!("no row in TARGETS for `{features}`"))
}

/// A parsed and validated source.
struct Parsed {
    module: Module,
    info: ModuleInfo,
}

fn validator(capabilities: Capabilities) -> Validator {
    Validator::new(ValidationFlags::all(), capabilities)
}

fn capabilities(kernel: &Kernel, storage: Storage) -> Capabilities {
    let when = |condition: bool, capability| if condition { capability } else { Capabilities::empty() };
    let subgroups = when(kernel.file.subgroups, Capabilities::SUBGROUP);
    let fragments = when(kernel.multiplies_fragments(), Capabilities::COOPERATIVE_MATRIX);
    let f16 = match storage {
        Storage::F32 => Capabilities::empty(),
        Storage::F16 => Capabilities::SHADER_FLOAT16,
        Storage::Packed => Capabilities::SHADER_FLOAT16_IN_FLOAT32,
    };
    subgroups | fragments | f16
}

fn parse(kernel: &Kernel, storage: Storage, source: &str) -> Result<Parsed, String> {
    let module = naga::front::wgsl::parse_str(source).map_err(|error| error.emit_to_string(source))?;
    let info = validator(capabilities(kernel, storage))
        .validate(&module)
        .map_err(|error| error.emit_to_string(source))?;
    Ok(Parsed { module, info })
}

/// A short name of a variant, usable as a file name: `gemm_tiled-gemm_nt-BM64-BN64-TM4-TN4`.
fn variant_name(kernel: &Kernel, constants: &Constants, storage: Storage) -> String {
    let mut name = format!("{}-{}", kernel.file.name, kernel.entry);
    for (constant, value) in constants {
        let _ = write!(name, "-{constant}{value}");
    }
    match storage {
        Storage::F32 => {}
        Storage::F16 => name.push_str("-f16"),
        Storage::Packed => name.push_str("-packed"),
    }
    name
}

/// Invocations per workgroup of the declaration. Without one, the WGSL may have any number.
fn declared_workgroup(kernel: &Kernel, source: &str) -> Option<u32> {
    match kernel.file.workgroup_size {
        WorkgroupSize::Count(count) => Some(count),
        WorkgroupSize::Constant(name) => Some(constant_value(source, name)),
        WorkgroupSize::Tile => None,
    }
}

/// The value of the line `const NAME: u32 = VALUE;`.
fn constant_value(source: &str, name: &str) -> u32 {
    let head = format!("const {name}: u32 = ");
    let line = source.lines().find_map(|line| line.strip_prefix(&head));
    let value = line.and_then(|rest| rest.split(';').next()).and_then(|value| value.parse().ok());
    value.unwrap_or_else(|| panic!("no line `{head}VALUE;`"))
}

/// Differences between the declared members of the uniform block and the WGSL's struct. Members that the declaration
/// omits have names that start with `unused` in WGSL.
fn wrong_fields(kernel: &Kernel, module: &Module, ty: Handle<Type>) -> Vec<String> {
    let TypeInner::Struct { members, .. } = &module.types[ty].inner else {
        return vec!["params is no struct".to_string()];
    };
    let shown = |name: &str, offset, ty: &str| format!("{name}: {ty} at {offset}");
    let found: Vec<_> = members
        .iter()
        .map(|member| {
            let ty = match module.types[member.ty].inner {
                TypeInner::Scalar(Scalar::U32) => "u32",
                TypeInner::Scalar(Scalar::F32) => "f32",
                TypeInner::Vector { size: VectorSize::Quad, scalar: Scalar::F32 } => "[f32; 4]",
                _ => "of another type",
            };
            (member.name.clone().unwrap_or_default(), member.offset as usize, ty)
        })
        .collect();
    let declared: Vec<_> = kernel.params.iter().map(|field| (field.name, field.offset, field.ty)).collect();
    let is_unused = |offset: usize| {
        found.iter().any(|(name, at, ty)| *at == offset && name.starts_with("unused") && *ty == "u32")
    };
    let missing = (declared.iter())
        .filter(|(name, offset, ty)| {
            !is_unused(*offset)
                && !found.iter().any(|(n, o, t)| (n.as_str(), *o, *t) == (*name, *offset, *ty))
        })
        .map(|(name, offset, ty)| format!("params: no {} in the WGSL", shown(name, *offset, ty)));
    let hidden = (found.iter())
        .filter(|(name, offset, _)| {
            !name.starts_with("unused") && !declared.iter().any(|(_, at, _)| at == offset)
        })
        .map(|(name, offset, ty)| format!("params: {} isn't declared", shown(name, *offset, ty)));
    missing.chain(hidden).collect()
}

/// Buffers that an entry point writes before it reads them, so that they count as written, though naga sees a read.
const READ_BACK: [(&str, &str); 2] = [("batchnorm_backward", "x_gradient"), ("reattention_softmax", "maps")];

/// Differences between source and declaration.
fn disagreements(kernel: &Kernel, source: &str, parsed: &Parsed) -> Vec<String> {
    let Parsed { module, info } = parsed;
    let mut wrong = Vec::new();
    let entry = module
        .entry_points
        .iter()
        .position(|point| point.name == kernel.entry && point.stage == ShaderStage::Compute);
    let Some(entry) = entry else {
        return vec![format!("no compute entry point `{}`", kernel.entry)];
    };
    let mut layouter = Layouter::default();
    if let Err(error) = layouter.update(module.to_ctx()) {
        return vec![format!("a type has no layout: {error}")];
    }

    // Only what this entry point uses: a file may hold forward and backward kernels.
    let mut uniform = None;
    let mut storage = Vec::new();
    let mut workgroup_bytes = 0;
    for (handle, variable) in module.global_variables.iter() {
        if info.get_entry_point(entry)[handle].is_empty() {
            continue;
        }
        let name = variable.name.clone().unwrap_or_default();
        let size = layouter[variable.ty].size;
        match (variable.space, &variable.binding) {
            (AddressSpace::WorkGroup, None) => workgroup_bytes += size,
            (AddressSpace::Uniform, Some(at)) if (at.group, at.binding) == (0, 0) => {
                uniform = Some((name, size as usize));
                wrong.extend(wrong_fields(kernel, module, variable.ty));
            }
            (AddressSpace::Storage { access }, Some(at)) if at.group == 0 => {
                let is_read = info.get_entry_point(entry)[handle].contains(GlobalUse::READ)
                    && !READ_BACK.contains(&(kernel.entry, &name));
                let access = match (access.contains(StorageAccess::STORE), is_read) {
                    (false, _) => Access::Read,
                    (true, false) => Access::Write,
                    (true, true) => Access::Update,
                };
                storage.push((at.binding, name, access));
            }
            (space, binding) => wrong.push(format!("`{name}` is {space:?} at {binding:?}: no place for it")),
        }
    }

    if uniform != Some(("params".to_string(), kernel.uniform_bytes)) {
        let expected = kernel.uniform_bytes;
        wrong.push(format!("binding 0: declared uniform `params` of {expected} bytes, found {uniform:?}"));
    }
    storage.sort_by_key(|(binding, ..)| *binding);
    let declared: Vec<_> =
        (1..).zip(kernel.bindings).map(|(at, b)| (at, b.name.to_string(), b.access)).collect();
    if storage != declared {
        wrong.push(format!("storage buffers: declared {declared:?}, found {storage:?}"));
    }
    for switch in kernel.bindings.iter().filter_map(|binding| binding.switch) {
        if !module.overrides.iter().any(|(_, found)| found.name.as_deref() == Some(switch)) {
            wrong.push(format!("no override `{switch}`"));
        }
    }
    if storage.len() > MAX_STORAGE_BUFFERS {
        wrong.push(format!("{} storage buffers, the limit is {MAX_STORAGE_BUFFERS}", storage.len()));
    }

    let point = &module.entry_points[entry];
    if point.workgroup_size_overrides.is_some() {
        wrong.push("the workgroup size depends on an override".to_string());
    }
    let invocations: u32 = point.workgroup_size.iter().product();
    let declared = declared_workgroup(kernel, source).unwrap_or(invocations);
    if point.workgroup_size != [declared, 1, 1] {
        wrong.push(format!("workgroup size: declared [{declared}, 1, 1], found {:?}", point.workgroup_size));
    }
    let (most_invocations, most_bytes) = workgroup_limits(kernel);
    if invocations > most_invocations {
        wrong.push(format!("{invocations} invocations per workgroup, the limit is {most_invocations}"));
    }
    if workgroup_bytes > most_bytes {
        wrong.push(format!("{workgroup_bytes} bytes of workgroup memory, the limit is {most_bytes}"));
    }
    if kernel.file.subgroups && validator(Capabilities::empty()).validate(module).is_ok() {
        wrong.push("declared with subgroups, but calls no subgroup operation".to_string());
    }
    if kernel.multiplies_fragments() {
        wrong.extend(fragments::traps(source, module));
    }
    wrong
}

/// Values of overrides by name. Others keep their defaults.
type Setting = Vec<(String, f64)>;

/// Settings to try: all overrides at their defaults, each at each of its values, and all switches on.
fn settings(module: &Module) -> Vec<Setting> {
    let mut all_on = Setting::new();
    let mut settings = vec![Setting::new()];
    for (_, variable) in module.overrides.iter() {
        let name = variable.name.clone().unwrap_or_default();
        let scalar = module.types[variable.ty].inner.scalar();
        // A number is a choice. The only one today, ACTIVATION, has three values.
        let values: &[f64] = if scalar == Some(Scalar::BOOL) { &[0.0, 1.0] } else { &[0.0, 1.0, 2.0] };
        settings.extend(values.iter().map(|&value| vec![(name.clone(), value)]));
        all_on.push((name, 1.0));
    }
    if all_on.len() > 1 {
        settings.push(all_on);
    }
    settings
}

/// One pipeline in the languages of drivers.
struct Translated {
    spirv: Vec<u32>,
    /// The text, and the entry point's name in it.
    hlsl: Option<(String, String)>,
}

/// Translates one pipeline to each of its targets, as the engine does: trusted, so without bounds checks, and without
/// zeroing memory. Only a Mac can compile the Metal source.
fn translate(
    kernel: &Kernel,
    targets: &Targets,
    parsed: &Parsed,
    setting: &Setting,
) -> Result<Translated, String> {
    let constants: PipelineConstants = setting.iter().cloned().collect();
    let entry = (ShaderStage::Compute, kernel.entry.to_string());
    let (module, info) =
        process_overrides(&parsed.module, &parsed.info, Some((entry.0, &entry.1)), &constants)
            .map_err(|error| format!("overrides: {error}"))?;
    let unchecked = BoundsCheckPolicies {
        index: BoundsCheckPolicy::Unchecked,
        buffer: BoundsCheckPolicy::Unchecked,
        image_load: BoundsCheckPolicy::Unchecked,
        binding_array: BoundsCheckPolicy::Unchecked,
    };

    let options = spv::Options {
        // The version of Vulkan 1.1.
        lang_version: (1, 3),
        bounds_check_policies: unchecked,
        zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
        force_loop_bounding: false,
        emit_int_div_checks: false,
        ..Default::default()
    };
    let pipeline = spv::PipelineOptions { shader_stage: entry.0, entry_point: entry.1.clone() };
    let spirv = spv::write_vec(&module, &info, &options, Some(&pipeline))
        .map_err(|error| format!("SPIR-V: {error}"))?;

    if let Some(lang_version) = targets.metal {
        let options = msl::Options {
            lang_version,
            bounds_check_policies: unchecked,
            zero_initialize_workgroup_memory: false,
            force_loop_bounding: false,
            ..Default::default()
        };
        let pipeline = msl::PipelineOptions { entry_point: Some(entry.clone()), ..Default::default() };
        let (text, _) = msl::write_string(&module, &info, &options, &pipeline)
            .map_err(|error| format!("MSL: {error}"))?;
        if !text.contains("kernel void ") {
            return Err("MSL: no kernel in it".to_string());
        }
    }

    let mut hlsl = None;
    if let Some(shader_model) = targets.hlsl {
        let options = hlsl::Options {
            shader_model,
            zero_initialize_workgroup_memory: false,
            restrict_indexing: false,
            force_loop_bounding: false,
            ..Default::default()
        };
        let pipeline = hlsl::PipelineOptions { entry_point: Some(entry) };
        let mut text = String::new();
        let written = hlsl::Writer::new(&mut text, &options, &pipeline)
            .write(&module, &info, None)
            .map_err(|error| format!("HLSL: {error}"))?;
        let [Ok(name)] = written.entry_point_names.as_slice() else {
            return Err(format!("HLSL: not one entry point: {:?}", written.entry_point_names));
        };
        if !text.contains("[numthreads(") {
            return Err("HLSL: no compute shader in it".to_string());
        }
        // naga knows DXC's keywords, but not its namespaces.
        let mut words = text.split(|symbol: char| !(symbol.is_alphanumeric() || symbol == '_'));
        if let Some(name) = words.find(|word| matches!(*word, "dx" | "vk")) {
            return Err(format!("HLSL: `{name}` is a namespace of DXC: nothing may be called so"));
        }
        hlsl = Some((text, name.clone()));
    }
    Ok(Translated { spirv, hlsl })
}

/// Folder for the assembled sources, from `LAT_SHADER_OUT`.
fn output_folder() -> Option<PathBuf> {
    let folder = PathBuf::from(std::env::var_os("LAT_SHADER_OUT")?);
    std::fs::create_dir_all(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    Some(folder)
}

fn write(folder: &Path, name: &str, bytes: &[u8]) {
    let path = folder.join(name);
    std::fs::write(&path, bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

/// Fails with all messages at once.
fn none(wrong: Vec<String>) {
    assert!(wrong.is_empty(), "{} found:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn every_variant_matches_its_declaration() {
    let mut wrong = Vec::new();
    for (kernel, constants, storage) in kernels::variants() {
        let source = assemble(&kernel, &constants, storage);
        let found = match parse(&kernel, storage, &source) {
            Ok(parsed) => disagreements(&kernel, &source, &parsed),
            Err(message) => vec![message],
        };
        let name = variant_name(&kernel, &constants, storage);
        wrong.extend(found.into_iter().map(|message| format!("{name}: {message}")));
    }
    none(wrong);
}

/// The lists of `LAT_SHADER_OUT`, with one line per pipeline.
#[derive(Default)]
struct Lists {
    wgsl: String,
    spirv: String,
    hlsl: String,
}

/// Writes the translations of one pipeline to a folder and to the lists.
fn write_translations(folder: &Path, lists: &mut Lists, targets: &Targets, file: &str, made: &Translated) {
    let bytes: Vec<u8> = made.spirv.iter().flat_map(|word| word.to_le_bytes()).collect();
    write(folder, &format!("{file}.spv"), &bytes);
    let _ = writeln!(lists.spirv, "{file}.spv {}", targets.vulkan);
    if let (Some(model), Some((text, entry))) = (targets.hlsl, &made.hlsl) {
        write(folder, &format!("{file}.hlsl"), text.as_bytes());
        let _ = writeln!(lists.hlsl, "{file}.hlsl cs_{} {entry}", model.to_str());
    }
}

#[test]
fn every_variant_translates_to_its_targets() {
    let folder = output_folder();
    let mut lists = Lists::default();
    let mut wrong = Vec::new();
    let mut seen = HashSet::new();
    for (kernel, constants, storage) in kernels::variants() {
        let name = variant_name(&kernel, &constants, storage);
        if !seen.insert(name.clone()) {
            continue;
        }
        let source = assemble(&kernel, &constants, storage);
        let needs = features(&kernel, &constants, storage);
        let (targets, parsed) = match (targets(&needs), parse(&kernel, storage, &source)) {
            (Ok(targets), Ok(parsed)) => (targets, parsed),
            (Err(message), _) | (_, Err(message)) => {
                wrong.push(format!("{name}: {message}"));
                continue;
            }
        };
        if let Some(folder) = &folder {
            write(folder, &format!("{name}.wgsl"), source.as_bytes());
        }
        let words = if targets.tint { needs } else { format!("{needs},naga") };
        for setting in settings(&parsed.module) {
            let values: Vec<_> = setting.iter().map(|(name, value)| format!("{name}={value}")).collect();
            match (translate(&kernel, targets, &parsed, &setting), &folder) {
                (Ok(made), Some(folder)) => {
                    let suffix: String = values.iter().map(|value| format!("+{value}")).collect();
                    write_translations(folder, &mut lists, targets, &format!("{name}{suffix}"), &made);
                    let _ = writeln!(lists.wgsl, "{name} {} {words} {}", kernel.entry, values.join(" "));
                }
                (Ok(_), None) => {}
                (Err(message), _) => wrong.push(format!("{name} {values:?}: {message}")),
            }
        }
    }
    if let Some(folder) = &folder {
        write(folder, "list.txt", lists.wgsl.as_bytes());
        write(folder, "spirv.txt", lists.spirv.as_bytes());
        write(folder, "hlsl.txt", lists.hlsl.as_bytes());
    }
    none(wrong);
}

/// An entry point without a variant would escape every other test here.
#[test]
fn every_entry_point_has_a_variant() {
    let listed: HashSet<_> =
        kernels::variants().into_iter().map(|(kernel, ..)| (kernel.file.name, kernel.entry)).collect();
    let mut wrong = Vec::new();
    for (kernel, _, storage) in kernels::variants() {
        let source = assemble(&kernel, &[], storage);
        let module = naga::front::wgsl::parse_str(&source).expect("a source that other tests parse");
        for point in module.entry_points {
            if !listed.contains(&(kernel.file.name, point.name.as_str())) {
                wrong.push(format!("{}.wgsl: {}", kernel.file.name, point.name));
            }
        }
    }
    wrong.sort();
    wrong.dedup();
    none(wrong);
}

#[test]
fn every_source_is_valid_without_variants() {
    let mut wrong = Vec::new();
    for (kernel, _, storage) in kernels::variants() {
        if let Err(message) = parse(&kernel, storage, &assemble(&kernel, &[], storage)) {
            wrong.push(format!("{}: {message}", kernel.file.name));
        }
    }
    none(wrong);
}

#[test]
fn every_constant_has_one_line_with_its_default() {
    let mut wrong = Vec::new();
    for (kernel, constants, storage) in kernels::variants() {
        let source = assemble(&kernel, &[], storage);
        for (constant, _) in constants {
            let head = format!("const {constant}: u32 = ");
            let lines = source.lines().filter(|line| line.starts_with(&head)).count();
            let elsewhere = source.matches(&format!("const {constant}")).count();
            if (lines, elsewhere) != (1, 1) {
                wrong.push(format!("{}.wgsl has {lines} lines `{head}…`, wanted 1", kernel.file.name));
            }
        }
    }
    none(wrong);
}

/// The first plain kernel, with its source. Tests below change its declaration.
fn specimen() -> (Kernel, String, Parsed) {
    let (kernel, constants, storage) =
        kernels::variants().into_iter().find(|(kernel, ..)| !kernel.file.subgroups).expect("a plain kernel");
    let source = assemble(&kernel, &constants, storage);
    let parsed = parse(&kernel, storage, &source).unwrap_or_else(|message| panic!("{message}"));
    (kernel, source, parsed)
}

/// The first kernel that multiplies fragments.
fn fragment_specimen() -> (Kernel, Constants, Storage) {
    let found = kernels::variants().into_iter().find(|(kernel, ..)| kernel.multiplies_fragments());
    found.expect("a kernel of matrix units")
}

#[test]
fn wrong_declarations_are_caught() {
    let (right, source, parsed) = specimen();
    assert_eq!(disagreements(&right, &source, &parsed), Vec::<String>::new());

    let leaked = |bindings: Vec<Binding>| -> &'static [Binding] { Vec::leak(bindings) };
    let mut swapped = right.bindings.to_vec();
    swapped.swap(0, 1);
    let mut renamed = right.bindings.to_vec();
    renamed[0].name = "nobody";
    let mut written = right.bindings.to_vec();
    written[0].access = Access::Write;
    let mut updated = right.bindings.to_vec();
    updated.iter_mut().filter(|b| b.access == Access::Update).for_each(|b| b.access = Access::Write);
    let mut switched = right.bindings.to_vec();
    switched[0].switch = Some("NOBODY");
    let fewer = right.bindings[1..].to_vec();
    let file = |change: fn(ShaderFile) -> ShaderFile| -> &'static ShaderFile {
        Box::leak(Box::new(change(*right.file)))
    };
    let cases = [
        ("entry point", Kernel { entry: "nobody", ..right }, "entry point"),
        ("uniform size", Kernel { uniform_bytes: right.uniform_bytes + 16, ..right }, "uniform"),
        ("order", Kernel { bindings: leaked(swapped), ..right }, "storage buffers"),
        ("name", Kernel { bindings: leaked(renamed), ..right }, "storage buffers"),
        ("access", Kernel { bindings: leaked(written), ..right }, "storage buffers"),
        ("switch", Kernel { bindings: leaked(switched), ..right }, "no override"),
        ("update", Kernel { bindings: leaked(updated), ..right }, "storage buffers"),
        ("missing buffer", Kernel { bindings: leaked(fewer), ..right }, "storage buffers"),
        (
            "subgroups",
            Kernel { file: file(|file| ShaderFile { subgroups: true, ..file }), ..right },
            "no subgroup",
        ),
        (
            "workgroup",
            Kernel { file: file(|file| file.workgroup_size(WorkgroupSize::Count(32))), ..right },
            "workgroup size",
        ),
    ];
    for (case, kernel, message) in cases {
        let found = disagreements(&kernel, &source, &parsed).join("\n");
        assert!(found.contains(message), "a wrong {case} passes: {found:?}");
    }
}

#[test]
fn wrong_members_of_a_uniform_block_are_caught() {
    let (kernel, _, storage) =
        kernels::variants().into_iter().find(|(kernel, ..)| kernel.entry == "layernorm_forward").expect("it");
    let source = assemble(&kernel, &[], storage);
    let parsed = parse(&kernel, storage, &source).expect("valid WGSL");
    let found = |change: &dyn Fn(&mut Vec<Field>)| {
        let mut params = kernel.params.to_vec();
        change(&mut params);
        disagreements(&Kernel { params: params.leak(), ..kernel }, &source, &parsed).join("\n")
    };
    assert_eq!(found(&|_| ()), "");
    let swap = |fields: &mut Vec<Field>| (fields[0].name, fields[1].name) = (fields[1].name, fields[0].name);
    assert!(found(&swap).contains("no dim: u32 at 0"), "two members of one type may change places");
    assert!(found(&|fields| fields[2].ty = "u32").contains("no eps: u32 at 8"));
    assert!(found(&|fields| fields[3].offset = 16).contains("no chunk: u32 at 16"));
    assert!(found(&|fields| fields.truncate(3)).contains("chunk: u32 at 12 isn't declared"));
}

#[test]
fn wrong_sources_are_caught() {
    let (kernel, source, _) = specimen();
    let found = |text: &str| match parse(&kernel, Storage::F32, text) {
        Ok(parsed) => disagreements(&kernel, text, &parsed).join("\n"),
        Err(message) => message,
    };
    assert_eq!(found(&source), "");
    // Like a hand-written shader that holds nothing else.
    let small = |body: &str| {
        format!(
            "@compute @workgroup_size(64) fn {}(@builtin(local_invocation_index) lane: u32) {{ {body} }}",
            kernel.entry
        )
    };
    let large = format!("var<workgroup> much: array<f32, 4097>;\n{}", small("much[lane] = 0.0;"));
    assert!(found(&large).contains("workgroup memory"), "{}", found(&large));
    let many = small("").replace("(64)", "(257)");
    assert!(found(&many).contains("invocations per workgroup"), "{}", found(&many));
    let shuffled = small("let x = subgroupAdd(lane);");
    assert!(
        !found(&shuffled).is_empty() && parse(&kernel, Storage::F32, &shuffled).is_err(),
        "a hidden subgroup operation"
    );
    let elsewhere = format!("var<private> mine: f32;\n{}", small("mine = 0.0;"));
    assert!(found(&elsewhere).contains("no place for it"), "{}", found(&elsewhere));
}

#[test]
fn kernels_of_matrix_units_may_have_larger_workgroups() {
    let (kernel, constants, storage) = fragment_specimen();
    let source = assemble(&kernel, &constants, storage);
    let found = |threads: u32, floats: u32| {
        let memory = format!("var<workgroup> much: array<f32, {floats}>;");
        let entry = format!(
            "@compute @workgroup_size({threads}) fn {}(@builtin(local_invocation_index) lane: u32) {{ much[lane] = 0.0; }}",
            kernel.entry
        );
        let text = format!("{memory}\n{entry}");
        disagreements(&kernel, &source, &parse(&kernel, storage, &text).expect("valid WGSL")).join("\n")
    };
    let within = found(1024, 8192);
    assert!(!within.contains("the limit is"), "{within}");
    assert!(found(1025, 8192).contains("1025 invocations per workgroup, the limit is 1024"));
    assert!(found(1024, 8193).contains("32772 bytes of workgroup memory, the limit is 32768"));
}

/// A kernel of matrix units in WGSL, from the body of its function and declarations before it.
fn fragment_kernel(before: &str, body: &str) -> String {
    format!(
        "enable wgpu_cooperative_matrix;
alias Sums = coop_mat8x8<f32, C>;
{before}
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
var<workgroup> shared_sums: array<f32, 256>;
fn first() -> f32 {{ return shared_sums[0]; }}
fn store(sums: Sums, at: u32) {{ let pitch = 8u; coopStoreT(sums, &shared_sums[at], pitch); }}
fn store_some(sums: Sums, at: u32) {{ if (at > 64u) {{ store(sums, at); return; }} workgroupBarrier(); }}
@compute @workgroup_size(64)
fn entry(@builtin(subgroup_id) subgroup: u32, @builtin(num_subgroups) subgroups: u32) {{
    var sums = Sums();
    let at = 64u * subgroup;
    let pitch = 8u;
    {body}
}}"
    )
}

#[test]
fn traps_of_fragments_are_caught() {
    let (kernel, ..) = fragment_specimen();
    let found = |before: &str, body: &str| {
        let source = fragment_kernel(before, body);
        let parsed = parse(&kernel, Storage::F16, &source).unwrap_or_else(|message| panic!("{message}"));
        fragments::traps(&source, &parsed.module).join("\n")
    };
    let stored = "coopStoreT(sums, &shared_sums[at], pitch);";
    let handed_over = format!("{stored} workgroupBarrier(); y[0] = first();");
    assert_eq!(found("", &handed_over), "");

    let small = "var<workgroup> small: array<f32, 66>;";
    assert!(found(small, "").contains("`small` has 264 bytes"));
    assert_eq!(found("var<workgroup> large: array<f32, 68>;", ""), "");

    for late in ["&shared_sums[at + subgroup], pitch", "&shared_sums[at], pitch * subgroup"] {
        let found = found("", &format!("coopStoreT(sums, {late});"));
        assert!(found.contains("make them `let`s"), "{late}: {found}");
    }

    for value in ["Sums()", "array<Sums, 2>()", "coop_mat8x8<f32, C>()"] {
        let inside =
            format!("for (var i = 0u; i < 2u; i++) {{\nif (i == 0u) {{\nvar inner = {value};\n}}\n}}");
        let found = found("", &inside);
        assert!(found.contains(&format!("`var inner = {value};` in a loop")), "{value}: {found}");
    }
    let assigned =
        "for (var i = 0u; i < 2u; i++) {\nvar inner: Sums;\ninner = Sums();\n}\nvar after = Sums();";
    assert_eq!(found("", assigned), "");

    let count = "var<workgroup> count: vec4u;";
    for store in ["count.x = subgroups;", "count.x = 2u * subgroups;"] {
        assert!(
            found(count, store).contains("`count` in workgroup memory receives num_subgroups"),
            "{store}"
        );
    }
    assert_eq!(found(count, "count.x = subgroup;"), "");

    let unsafe_orders = [
        format!("{stored} y[0] = shared_sums[0];"),
        format!("{stored} y[0] = first();"),
        "store(sums, at); y[0] = first();".to_string(),
        "store_some(sums, at); y[0] = first();".to_string(),
        format!("{stored} sums = coopLoadT<Sums>(&shared_sums[0], pitch);"),
        format!("{stored} storageBarrier(); y[0] = first();"),
        format!("{stored} if (subgroup == 0u) {{ workgroupBarrier(); }} y[0] = first();"),
        format!("for (var i = 0u; i < 2u; i++) {{ y[i] = first(); {stored} }}"),
        format!("loop {{ {stored} if (subgroup == 0u) {{ break; }} workgroupBarrier(); }} y[0] = first();"),
    ];
    for body in unsafe_orders {
        let found = found("", &body);
        assert!(found.contains("`shared_sums` is read after coopStore without"), "{body}: {found}");
    }
    let in_loop =
        format!("loop {{ {stored} workgroupBarrier(); y[0] = first(); if (at > 64u) {{ break; }} }}");
    assert_eq!(found("", &in_loop), "");
}

/// When naga can write it, the rule about `let`s can go.
#[test]
#[should_panic(expected = "is not cached")]
fn naga_panics_at_a_late_stride() {
    let (kernel, constants, storage) = fragment_specimen();
    let source = fragment_kernel("", "coopStoreT(sums, &shared_sums[at], pitch * subgroup);");
    let parsed = parse(&kernel, storage, &source).expect("valid WGSL");
    let targets = targets(&features(&kernel, &constants, storage)).expect("a row");
    let kernel = Kernel { entry: "entry", ..kernel };
    if let Err(message) = translate(&kernel, targets, &parsed, &Setting::new()) {
        panic!("an error instead: {message}");
    }
}

#[test]
fn every_row_of_targets_is_used() {
    let used: HashSet<String> = kernels::variants()
        .iter()
        .map(|(kernel, constants, storage)| features(kernel, constants, *storage))
        .collect();
    none(
        TARGETS
            .iter()
            .filter(|(needs, _)| !used.contains(*needs))
            .map(|(needs, _)| needs.to_string())
            .collect(),
    );
    assert!(targets("tensors").is_err(), "unknown features have no targets");
}

#[test]
fn names_that_dxc_refuses_are_caught() {
    let (kernel, ..) = specimen();
    let source = format!(
        "@group(0) @binding(0) var<storage, read_write> dx: f32;\n@compute @workgroup_size(1) fn {}() {{ dx = 0.0; }}",
        kernel.entry
    );
    let message = parse(&kernel, Storage::F32, &source)
        .and_then(|parsed| translate(&kernel, targets("plain")?, &parsed, &Setting::new()))
        .map(|_| ())
        .expect_err("a buffer called dx");
    assert!(message.contains("namespace of DXC"), "{message}");
}

/// When naga can write them, TARGETS may say so.
#[test]
#[should_panic(expected = "not implemented")]
fn matrix_units_stated_for_hlsl_are_caught() {
    let (kernel, constants, storage) = fragment_specimen();
    let parsed = parse(&kernel, storage, &assemble(&kernel, &constants, storage)).expect("right WGSL");
    let model = hlsl::ShaderModel::V6_7;
    let targets = Targets { vulkan: "vulkan1.3", metal: None, hlsl: Some(model), tint: false };
    if let Err(message) = translate(&kernel, &targets, &parsed, &Setting::new()) {
        panic!("not implemented: {message}");
    }
}
