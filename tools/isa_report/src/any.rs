//! Statistics of the shaders from any driver's compiler by VK_KHR_pipeline_executable_properties: registers, stack,
//! spills.
//!
//! Drivers name their statistics differently. All are kept, and known ones also get a common name.

use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::Pipeline;
use crate::device::{Device, Executable};
use crate::table::is_hot;

/// Options of the report.
#[derive(Debug, Default)]
pub struct Options {
    /// Part of the device's name; `None` takes the first discrete device, else the first.
    pub adapter: Option<String>,
    /// Stops after this time with the results so far.
    pub limit: Option<Duration>,
    /// Prints JSON instead of a table.
    pub json: bool,
}

/// The result of one pipeline.
struct Row<'a> {
    pipeline: &'a Pipeline,
    found: Result<Vec<Executable>, String>,
}

/// Statistics under common names; `None` if the driver has none. The worst of several executables.
#[derive(Debug, Default, PartialEq)]
struct Common {
    /// Registers per lane.
    registers: Option<u64>,
    /// Spilled registers, or spill instructions.
    spills: Option<u64>,
    /// Bytes of stack per lane: spilled registers and arrays.
    stack: Option<u64>,
    /// Bytes of workgroup memory.
    shared: Option<u64>,
}

/// Lower-case names of NVIDIA, RADV, AMD's own driver, Intel, NVK and Turnip.
const REGISTERS: [&str; 7] = [
    "register count",
    "vgprs",
    "numusedvgprs",
    "max live registers",
    "number of gprs",
    "registers used",
    "full registers",
];
const SPILLS: [&str; 6] =
    ["spill count", "spilled vgprs", "spilled sgprs", "spills to memory", "stp count", "numspills"];
const STACK: [&str; 7] = [
    "stack size",
    "local memory size",
    "scratch size",
    "scratch memory size",
    "scratchmemusageinbytes",
    "slm size",
    "private memory size",
];
const SHARED: [&str; 4] = ["lds size", "shared memory size", "workgroup memory size", "ldsusagesizeinbytes"];

impl Common {
    fn of(executables: &[Executable]) -> Common {
        let mut worst = Common::default();
        for executable in executables {
            let sum = |names: &[&str]| {
                let known = executable
                    .statistics
                    .iter()
                    .filter(|(name, _)| names.contains(&name.to_lowercase().as_str()))
                    .map(|(_, value)| value.whole());
                known.reduce(|a, b| a + b)
            };
            worst.registers = worst.registers.max(sum(&REGISTERS));
            worst.spills = worst.spills.max(sum(&SPILLS));
            worst.stack = worst.stack.max(sum(&STACK));
            worst.shared = worst.shared.max(sum(&SHARED));
        }
        worst
    }

    /// Returns whether registers are in memory.
    fn leaks(&self) -> bool {
        self.spills > Some(0) || self.stack > Some(0)
    }
}

/// Prints the driver's statistics of every pipeline that its device supports.
///
/// A driver without statistics is no error: the JSON has `"available": false` and the reason.
///
/// # Errors
/// If the shaders can't be read.
pub fn run(shaders: &Path, options: &Options) -> Result<(), Box<dyn Error>> {
    let mut pipelines = crate::pipelines(shaders)?;
    let device = match Device::open_any(options.adapter.as_deref()) {
        Ok(device) => device,
        Err(reason) => {
            if options.json {
                println!("{{\n  \"available\": false,\n  \"reason\": {}\n}}", quoted(&reason.to_string()));
            } else {
                println!("no statistics: {reason}");
            }
            return Ok(());
        }
    };
    // The engine's kernels for matrix units suit the largest subgroups.
    pipelines.retain(|pipeline| {
        device.takes(&pipeline.variant, &pipeline.features) && pipeline.suits(device.subgroup.1)
    });
    // Hot kernels first, in case the run is stopped.
    pipelines.sort_by_key(|pipeline| (!is_hot(&pipeline.variant), pipeline.name.contains('+')));
    let rows = compile_all(&device, shaders, &pipelines, options.limit);
    if options.json {
        print!("{}", json(&device, &rows, pipelines.len()));
    } else {
        print!("{}", table(&device, &rows, pipelines.len()));
    }
    Ok(())
}

fn compile_all<'a>(
    device: &Device,
    shaders: &Path,
    pipelines: &'a [Pipeline],
    limit: Option<Duration>,
) -> Vec<Row<'a>> {
    let start = Instant::now();
    let (next, rows) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while limit.is_none_or(|limit| start.elapsed() < limit) {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(pipeline) = pipelines.get(at) else { break };
                    let found = crate::words(shaders, pipeline)
                        .and_then(|words| device.executables(&words, &pipeline.entry))
                        .map_err(|error| error.to_string());
                    let mut rows = rows.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                    rows.push((at, Row { pipeline, found }));
                }
            });
        }
    });
    let mut rows = rows.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    rows.sort_by_key(|(at, _)| *at);
    rows.into_iter().map(|(_, row)| row).collect()
}

/// Number of rows with a property.
fn count(rows: &[Row<'_>], is: impl Fn(&Common) -> bool) -> usize {
    rows.iter().filter_map(|row| row.found.as_ref().ok()).filter(|found| is(&Common::of(found))).count()
}

fn table(device: &Device, rows: &[Row<'_>], wanted: usize) -> String {
    let mut text = format!("{}, {}\n", device.name, device.driver);
    let width = rows.iter().map(|row| row.pipeline.name.len()).max().unwrap_or(0).max(8);
    // Writing to a string never fails.
    let _ = writeln!(
        text,
        "{:<width$} {:>6} {:>9} {:>7} {:>7} {:>9}",
        "pipeline", "lanes", "registers", "spills", "stack B", "shared B"
    );
    for row in rows {
        let name = &row.pipeline.name;
        match &row.found {
            Ok(found) => {
                let shown = |value: Option<u64>| value.map_or("–".to_string(), |value| value.to_string());
                let common = Common::of(found);
                let _ = writeln!(
                    text,
                    "{name:<width$} {:>6} {:>9} {:>7} {:>7} {:>9}{}",
                    found.first().map_or(0, |one| one.lanes),
                    shown(common.registers),
                    shown(common.spills),
                    shown(common.stack),
                    shown(common.shared),
                    if common.leaks() { "  REGISTERS IN MEMORY" } else { "" }
                );
            }
            Err(error) => {
                let _ = writeln!(text, "{name:<width$} FAILED: {error}");
            }
        }
    }
    let failed = rows.iter().filter(|row| row.found.is_err()).count();
    let _ = writeln!(
        text,
        "{} of {wanted} pipelines: {} with spills, {} with a stack, {failed} failed",
        rows.len(),
        count(rows, |common| common.spills > Some(0)),
        count(rows, |common| common.stack > Some(0)),
    );
    let known = count(rows, |common| common.registers.is_some() || common.stack.is_some());
    if known == 0 && failed < rows.len() {
        text.push_str("the driver names neither registers nor stack\n");
    }
    text
}

fn json(device: &Device, rows: &[Row<'_>], wanted: usize) -> String {
    let mut text = String::from("{\n  \"available\": true,\n");
    let _ = writeln!(text, "  \"device\": {},", quoted(&device.name));
    let _ = writeln!(text, "  \"driver\": {},", quoted(&device.driver));
    let _ = writeln!(text, "  \"subgroup_min\": {},", device.subgroup.0);
    let _ = writeln!(text, "  \"subgroup_max\": {},", device.subgroup.1);
    let _ = writeln!(text, "  \"complete\": {},", rows.len() == wanted);
    let _ = writeln!(text, "  \"pipelines_wanted\": {wanted},");
    let _ = writeln!(text, "  \"with_registers\": {},", count(rows, |common| common.registers.is_some()));
    let _ = writeln!(text, "  \"with_spills\": {},", count(rows, |common| common.spills > Some(0)));
    let _ = writeln!(text, "  \"with_stack\": {},", count(rows, |common| common.stack > Some(0)));
    let _ = writeln!(text, "  \"failed\": {},", rows.iter().filter(|row| row.found.is_err()).count());
    text.push_str("  \"pipelines\": [");
    for (at, row) in rows.iter().enumerate() {
        text.push_str(if at == 0 { "\n    " } else { ",\n    " });
        let _ = write!(text, "{{\"name\": {}", quoted(&row.pipeline.name));
        match &row.found {
            Ok(found) => {
                let common = Common::of(found);
                for (name, value) in [
                    ("registers", common.registers),
                    ("spills", common.spills),
                    ("stack_bytes", common.stack),
                    ("shared_bytes", common.shared),
                ] {
                    let value = value.map_or("null".to_string(), |value| value.to_string());
                    let _ = write!(text, ", \"{name}\": {value}");
                }
                let executables: Vec<String> = found.iter().map(executable).collect();
                let _ = write!(text, ", \"executables\": [{}]}}", executables.join(", "));
            }
            Err(error) => {
                let _ = write!(text, ", \"error\": {}}}", quoted(error));
            }
        }
    }
    text.push_str("\n  ]\n}\n");
    text
}

fn executable(one: &Executable) -> String {
    let statistics: Vec<String> =
        one.statistics.iter().map(|(name, value)| format!("{}: {value}", quoted(name))).collect();
    format!("{{\"lanes\": {}, \"statistics\": {{{}}}}}", one.lanes, statistics.join(", "))
}

/// A text as a JSON string.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for letter in text.chars() {
        match letter {
            '"' | '\\' => quoted.extend(['\\', letter]),
            letter if u32::from(letter) < 0x20 => {
                let _ = write!(quoted, "\\u{:04x}", u32::from(letter));
            }
            letter => quoted.push(letter),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Value;

    fn executable(statistics: &[(&str, u64)]) -> Executable {
        let statistics =
            statistics.iter().map(|(name, value)| (name.to_string(), Value::Whole(*value))).collect();
        Executable { lanes: 32, statistics }
    }

    #[test]
    fn statistics_of_several_drivers_get_common_names() {
        let nvidia = executable(&[("Register Count", 128), ("Stack Size", 0), ("Binary Size", 9000)]);
        let wanted = Common { registers: Some(128), stack: Some(0), ..Common::default() };
        assert_eq!(Common::of(&[nvidia]), wanted);
        assert!(!wanted.leaks());

        let amd =
            executable(&[("VGPRs", 96), ("Spilled VGPRs", 2), ("Spilled SGPRs", 3), ("Scratch size", 64)]);
        let found = Common::of(&[amd]);
        assert_eq!((found.registers, found.spills, found.stack), (Some(96), Some(5), Some(64)));
        assert!(found.leaks());

        // Intel compiles for several numbers of lanes.
        let intel = |spills| executable(&[("Spill Count", spills), ("Scratch Memory Size", 0)]);
        assert_eq!(Common::of(&[intel(4), intel(0)]).spills, Some(4));
        assert_eq!(Common::of(&[executable(&[("Instruction Count", 7)])]), Common::default());
    }

    #[test]
    fn quoted_texts_are_json() {
        assert_eq!(quoted("a \"b\" \\ \n"), r#""a \"b\" \\ \u000a""#);
    }
}
