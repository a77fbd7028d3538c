//! Every shader in every variant against its Rust declaration, read by naga: no GPU needed.
//!
//! With `LAT_SHADER_OUT=DIR` the assembled sources are left in DIR for other tools, see tools/check_shaders.sh:
//! `VARIANT.wgsl`, `VARIANT+SETTING.spv`, and `list.txt` with one line per pipeline:
//! `VARIANT ENTRY FEATURES [OVERRIDE=VALUE…]`, features joined by commas: `plain`, `subgroups` or
//! `fragments` (matrix units), and `f16`.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use lat_wgpu::gpu::{Access, Binding, Constants, Kernel, Storage, assemble};
use lat_wgpu::kernels;
use naga::back::pipeline_constants::process_overrides;
use naga::back::{PipelineConstants, hlsl, msl, spv};
use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy, Layouter};
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use naga::{AddressSpace, Module, Scalar, ShaderStage, StorageAccess};

/// WebGPU's default limits.
const MAX_STORAGE_BUFFERS: usize = 8;
const MAX_INVOCATIONS: u32 = 256;
const MAX_WORKGROUP_BYTES: u32 = 16 * 1024;

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
    let subgroups = when(kernel.subgroups, Capabilities::SUBGROUP);
    let fragments = when(kernel.multiplies_fragments(), Capabilities::COOPERATIVE_MATRIX);
    let halves = match storage {
        Storage::F32 => Capabilities::empty(),
        Storage::F16 => Capabilities::SHADER_FLOAT16,
        Storage::Packed => Capabilities::SHADER_FLOAT16_IN_FLOAT32,
    };
    subgroups | fragments | halves
}

fn parse(kernel: &Kernel, storage: Storage, source: &str) -> Result<Parsed, String> {
    let module = naga::front::wgsl::parse_str(source).map_err(|error| error.emit_to_string(source))?;
    let info = validator(capabilities(kernel, storage))
        .validate(&module)
        .map_err(|error| error.emit_to_string(source))?;
    Ok(Parsed { module, info })
}

/// A short name of a variant that serves as a file name: `gemm_tiled-gemm_nt-BM64-BN64-TM4-TN4`.
fn variant_name(kernel: &Kernel, constants: &Constants, storage: Storage) -> String {
    let mut name = format!("{}-{}", kernel.name, kernel.entry);
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

/// How many invocations a workgroup has, by the file header: what the Rust side computes its grids with.
fn expected_workgroup(kernel: &Kernel, source: &str) -> u32 {
    let constant = |name: &str| constant_value(source, name);
    if kernel.subgroups && !kernel.multiplies_fragments() {
        return constant("SUB");
    }
    match kernel.name {
        "gemm_cooperative" => 128,
        "gemm_tiled" => (constant("BM") / constant("TM")) * (constant("BN") / constant("TN")),
        "patch_embed" => (constant("BM") / constant("TILE")) * (constant("BN") / constant("TILE")),
        "layernorm" | "l2norm" | "cross_entropy" | "topk" => constant("LANES"),
        _ => 64,
    }
}

/// The value of the line `const NAME: u32 = VALUE;`.
fn constant_value(source: &str, name: &str) -> u32 {
    let head = format!("const {name}: u32 = ");
    let line = source.lines().find_map(|line| line.strip_prefix(&head));
    let value = line.and_then(|rest| rest.split(';').next()).and_then(|value| value.parse().ok());
    value.unwrap_or_else(|| panic!("no line `{head}VALUE;`"))
}

/// Where source and declaration disagree; empty if nowhere.
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

    // Of the whole file only what this entry point reaches: a file may hold forward and backward.
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
            }
            (AddressSpace::Storage { access }, Some(at)) if at.group == 0 => {
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
    let declared: Vec<_> = (1..)
        .zip(kernel.bindings)
        .map(|(at, Binding { name, access, .. })| {
            let access = match access {
                Access::Read => StorageAccess::LOAD,
                Access::Write => StorageAccess::LOAD | StorageAccess::STORE,
            };
            (at, name.to_string(), access)
        })
        .collect();
    if storage != declared {
        wrong.push(format!("storage buffers: declared {declared:?}, found {storage:?}"));
    }
    if storage.len() > MAX_STORAGE_BUFFERS {
        wrong.push(format!("{} storage buffers, the limit is {MAX_STORAGE_BUFFERS}", storage.len()));
    }

    let point = &module.entry_points[entry];
    if point.workgroup_size_overrides.is_some() {
        wrong.push("the workgroup's size hangs on an override".to_string());
    }
    let invocations: u32 = point.workgroup_size.iter().product();
    if point.workgroup_size != [expected_workgroup(kernel, source), 1, 1] {
        let expected = expected_workgroup(kernel, source);
        wrong.push(format!("workgroup size: expected [{expected}, 1, 1], found {:?}", point.workgroup_size));
    }
    if invocations > MAX_INVOCATIONS {
        wrong.push(format!("{invocations} invocations per workgroup, the limit is {MAX_INVOCATIONS}"));
    }
    if workgroup_bytes > MAX_WORKGROUP_BYTES {
        wrong
            .push(format!("{workgroup_bytes} bytes of workgroup memory, the limit is {MAX_WORKGROUP_BYTES}"));
    }
    if kernel.subgroups && validator(Capabilities::empty()).validate(module).is_ok() {
        wrong.push("declared with subgroups, but calls no subgroup operation".to_string());
    }
    wrong
}

/// Values of overrides by name; those that aren't named keep their defaults.
type Setting = Vec<(String, f64)>;

/// All overrides at their defaults; each at each of its values with the others at their defaults; all switches on.
fn settings(module: &Module) -> Vec<Setting> {
    let mut all_on = Setting::new();
    let mut settings = vec![Setting::new()];
    for (_, variable) in module.overrides.iter() {
        let name = variable.name.clone().unwrap_or_default();
        let scalar = module.types[variable.ty].inner.scalar();
        // A number is a choice: the only one today, ACTIVATION, has three.
        let values: &[f64] = if scalar == Some(Scalar::BOOL) { &[0.0, 1.0] } else { &[0.0, 1.0, 2.0] };
        settings.extend(values.iter().map(|&value| vec![(name.clone(), value)]));
        all_on.push((name, 1.0));
    }
    if all_on.len() > 1 {
        settings.push(all_on);
    }
    settings
}

/// SPIR-V words of one pipeline, as the engine has it made (trusted: no bounds checks, memory not zeroed); MSL and HLSL
/// are made too, for errors alone.
fn translate(
    kernel: &Kernel,
    storage: Storage,
    parsed: &Parsed,
    setting: &Setting,
) -> Result<Vec<u32>, String> {
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
        // Vulkan 1.1, the first with subgroup operations.
        lang_version: (1, 3),
        bounds_check_policies: unchecked,
        zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
        force_loop_bounding: false,
        emit_int_div_checks: false,
        ..Default::default()
    };
    let pipeline = spv::PipelineOptions { shader_stage: entry.0, entry_point: entry.1.clone() };
    let words = spv::write_vec(&module, &info, &options, Some(&pipeline))
        .map_err(|error| format!("SPIR-V: {error}"))?;

    let options = msl::Options { lang_version: (2, 4), ..Default::default() };
    let pipeline = msl::PipelineOptions { entry_point: Some(entry.clone()), ..Default::default() };
    let (text, _) =
        msl::write_string(&module, &info, &options, &pipeline).map_err(|error| format!("MSL: {error}"))?;
    if !text.contains("kernel void ") {
        return Err("MSL: no kernel in it".to_string());
    }

    if kernel.multiplies_fragments() {
        // HLSL has no such thing.
        return Ok(words);
    }
    // Shader model 5.1 is what Windows compiles without further files; subgroups need 6.0, halves 6.2.
    let model = match storage {
        Storage::F16 => hlsl::ShaderModel::V6_2,
        _ if kernel.subgroups => hlsl::ShaderModel::V6_0,
        _ => hlsl::ShaderModel::V5_1,
    };
    let options = hlsl::Options { shader_model: model, ..Default::default() };
    let pipeline = hlsl::PipelineOptions { entry_point: Some(entry) };
    let mut text = String::new();
    hlsl::Writer::new(&mut text, &options, &pipeline)
        .write(&module, &info, None)
        .map_err(|error| format!("HLSL: {error}"))?;
    if !text.contains("[numthreads(") {
        return Err("HLSL: no compute shader in it".to_string());
    }
    Ok(words)
}

/// Where `LAT_SHADER_OUT` wants the assembled sources.
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
fn every_variant_agrees_with_its_declaration() {
    let mut wrong = Vec::new();
    for (kernel, constants, storage) in kernels::variants() {
        let source = assemble(kernel, &constants, storage);
        let found = match parse(kernel, storage, &source) {
            Ok(parsed) => disagreements(kernel, &source, &parsed),
            Err(message) => vec![message],
        };
        let name = variant_name(kernel, &constants, storage);
        wrong.extend(found.into_iter().map(|message| format!("{name}: {message}")));
    }
    none(wrong);
}

#[test]
fn every_variant_becomes_spirv_msl_and_hlsl() {
    let folder = output_folder();
    let mut list = String::new();
    let mut wrong = Vec::new();
    let mut seen = HashSet::new();
    for (kernel, constants, storage) in kernels::variants() {
        let name = variant_name(kernel, &constants, storage);
        if !seen.insert(name.clone()) {
            continue;
        }
        let source = assemble(kernel, &constants, storage);
        let parsed = match parse(kernel, storage, &source) {
            Ok(parsed) => parsed,
            Err(message) => {
                wrong.push(format!("{name}: {message}"));
                continue;
            }
        };
        if let Some(folder) = &folder {
            write(folder, &format!("{name}.wgsl"), source.as_bytes());
        }
        for setting in settings(&parsed.module) {
            let values: Vec<_> = setting.iter().map(|(name, value)| format!("{name}={value}")).collect();
            match (translate(kernel, storage, &parsed, &setting), &folder) {
                (Ok(words), Some(folder)) => {
                    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
                    let suffix: String = values.iter().map(|value| format!("+{value}")).collect();
                    write(folder, &format!("{name}{suffix}.spv"), &bytes);
                    let mut features = vec![match (kernel.multiplies_fragments(), kernel.subgroups) {
                        (true, _) => "fragments",
                        (false, true) => "subgroups",
                        (false, false) => "plain",
                    }];
                    features.extend((storage == Storage::F16).then_some("f16"));
                    let _ =
                        writeln!(list, "{name} {} {} {}", kernel.entry, features.join(","), values.join(" "));
                }
                (Ok(_), None) => {}
                (Err(message), _) => wrong.push(format!("{name} {values:?}: {message}")),
            }
        }
    }
    if let Some(folder) = &folder {
        write(folder, "list.txt", list.as_bytes());
    }
    none(wrong);
}

#[test]
fn every_source_is_valid_as_it_stands() {
    let mut wrong = Vec::new();
    for (kernel, _, storage) in kernels::variants() {
        if let Err(message) = parse(kernel, storage, &assemble(kernel, &[], storage)) {
            wrong.push(format!("{}: {message}", kernel.name));
        }
    }
    none(wrong);
}

#[test]
fn every_constant_stands_on_one_line_at_its_default() {
    let mut wrong = Vec::new();
    for (kernel, constants, storage) in kernels::variants() {
        let source = assemble(kernel, &[], storage);
        for (constant, _) in constants {
            let head = format!("const {constant}: u32 = ");
            let lines = source.lines().filter(|line| line.starts_with(&head)).count();
            let elsewhere = source.matches(&format!("const {constant}")).count();
            if (lines, elsewhere) != (1, 1) {
                wrong.push(format!("{}.wgsl has {lines} lines `{head}…`, wanted 1", kernel.name));
            }
        }
    }
    none(wrong);
}

/// The first plain kernel of the list with its source, to be declared wrongly below.
fn specimen() -> (Kernel, String, Parsed) {
    let (kernel, constants, storage) =
        kernels::variants().into_iter().find(|(kernel, ..)| !kernel.subgroups).expect("a plain kernel");
    let source = assemble(kernel, &constants, storage);
    let parsed = parse(kernel, storage, &source).unwrap_or_else(|message| panic!("{message}"));
    (Kernel { ..*kernel }, source, parsed)
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
    let fewer = right.bindings[1..].to_vec();
    let cases = [
        ("entry point", Kernel { entry: "nobody", ..right }, "entry point"),
        ("uniform size", Kernel { uniform_bytes: right.uniform_bytes + 16, ..right }, "uniform"),
        ("order", Kernel { bindings: leaked(swapped), ..right }, "storage buffers"),
        ("name", Kernel { bindings: leaked(renamed), ..right }, "storage buffers"),
        ("access", Kernel { bindings: leaked(written), ..right }, "storage buffers"),
        ("missing buffer", Kernel { bindings: leaked(fewer), ..right }, "storage buffers"),
        ("subgroups", Kernel { subgroups: true, ..right }, "no subgroup operation"),
    ];
    for (case, kernel, message) in cases {
        let source =
            if kernel.subgroups { format!("{source}\nconst SUB: u32 = 64;\n") } else { source.clone() };
        let found = disagreements(&kernel, &source, &parsed).join("\n");
        assert!(found.contains(message), "a wrong {case} passes: {found:?}");
    }
}

#[test]
fn wrong_sources_are_caught() {
    let (kernel, source, _) = specimen();
    let found = |text: &str| match parse(&kernel, Storage::F32, text) {
        Ok(parsed) => disagreements(&kernel, text, &parsed).join("\n"),
        Err(message) => message,
    };
    assert_eq!(found(&source), "");
    // As written by hand in a shader that holds nothing else.
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
