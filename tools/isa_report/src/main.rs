//! Reports on the machine code that a driver's compiler makes of every shader. With Mesa for AMD GPUs, on a null
//! device: registers, workgroup memory, waves, and the instructions of the hot loop. With any other driver: its own
//! statistics. tools/isa_report.sh calls it.

mod any;
mod assembly;
mod device;
mod table;

use std::collections::BTreeSet;
use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use device::{Compiled, Device};
use table::Row;

const VEGA: &str = "vega10";
/// Mesa's names of Vega, RDNA 2 and RDNA 3.
const FAMILIES: [&str; 3] = [VEGA, "navi21", "navi31"];

const USAGE: &str = "usage: isa_report SHADERS write               prints the table of all shaders
       isa_report SHADERS check TABLE         compares them with a table
       isa_report SHADERS show FAMILY NAME    prints one kernel's statistics and machine code
       isa_report SHADERS any [--json] [--adapter NAME] [--seconds S]
                                              prints the installed driver's statistics of every pipeline
                                              SHADERS: the folder that tests/shader_contract.rs writes with LAT_SHADER_OUT";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments.as_slice() {
        [shaders, "write"] => report(Path::new(shaders)).map(|(driver, rows)| {
            print!("{}", table::write(&driver, &rows));
            ExitCode::SUCCESS
        }),
        [shaders, "check", wanted] => check(Path::new(shaders), Path::new(wanted)),
        [shaders, "show", family, name] => show(Path::new(shaders), family, name),
        [shaders, "any", flags @ ..] => match any_options(flags) {
            Some(options) => any::run(Path::new(shaders), &options).map(|()| ExitCode::SUCCESS),
            None => {
                eprintln!("{USAGE}");
                return ExitCode::from(2);
            }
        },
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error}");
        ExitCode::FAILURE
    })
}

/// The flags of `any`; `None` if one is unknown.
fn any_options(flags: &[&str]) -> Option<any::Options> {
    let mut options = any::Options::default();
    let mut flags = flags.iter();
    while let Some(flag) = flags.next() {
        match *flag {
            "--json" => options.json = true,
            "--adapter" => options.adapter = Some(flags.next()?.to_string()),
            "--seconds" => {
                let seconds = flags.next()?.parse().ok()?;
                options.limit = Some(Duration::try_from_secs_f64(seconds).ok()?);
            }
            _ => return None,
        }
    }
    Some(options)
}

/// One line of `list.txt`.
struct Pipeline {
    variant: String,
    entry: String,
    /// The file of its SPIR-V without `.spv`: the variant and the switches that differ from their defaults.
    name: String,
    /// Features that it needs, joined by commas.
    features: String,
}

impl Pipeline {
    fn needs(&self, feature: &str) -> bool {
        self.features.split(',').any(|one| one == feature)
    }

    /// Returns whether it suits subgroups of `lanes` lanes, if it multiplies fragments. Without a constant LANES it suits
    /// any.
    fn suits(&self, lanes: u32) -> bool {
        let mut given = self.variant.split('-').filter(|word| word.starts_with("LANES"));
        !self.needs("fragments") || given.all(|word| word == format!("LANES{lanes}"))
    }

    /// Returns whether it is for AMD GPUs, whose matrix units have fragments of 16 × 16 only, and which Mesa uses with
    /// waves of 64 lanes. Pipelines with subgroups are for adapters with subgroups of 4 to 16 lanes.
    fn is_for_amd(&self) -> bool {
        self.needs("plain") || (self.needs("fragments") && self.needs("16x16") && self.suits(64))
    }
}

/// Every pipeline of the list.
fn pipelines(shaders: &Path) -> Result<Vec<Pipeline>, Box<dyn Error>> {
    let path = shaders.join("list.txt");
    let list = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let mut found = Vec::new();
    for line in list.lines() {
        let mut words = line.split_whitespace();
        let (Some(variant), Some(entry), Some(features)) = (words.next(), words.next(), words.next()) else {
            return Err(format!("{}: `{line}` describes no pipeline", path.display()).into());
        };
        let switches: String = words.map(|switch| format!("+{switch}")).collect();
        let name = format!("{variant}{switches}");
        let [variant, entry, features] = [variant, entry, features].map(str::to_string);
        found.push(Pipeline { variant, entry, name, features });
    }
    Ok(found)
}

/// The SPIR-V of a pipeline.
fn words(shaders: &Path, pipeline: &Pipeline) -> Result<Vec<u32>, Box<dyn Error>> {
    let path = shaders.join(format!("{}.spv", pipeline.name));
    let bytes = fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let (words, rest) = bytes.as_chunks::<4>();
    if !rest.is_empty() {
        return Err(format!("{}: not a whole number of words", path.display()).into());
    }
    Ok(words.iter().map(|word| u32::from_le_bytes(*word)).collect())
}

fn compile(device: &Device, shaders: &Path, pipeline: &Pipeline) -> Result<Compiled, Box<dyn Error>> {
    let words = words(shaders, pipeline)?;
    device.compile(&words, &pipeline.entry).map_err(|error| format!("{}: {error}", pipeline.name).into())
}

fn row(family: &str, variant: &str, compiled: &Compiled) -> Result<Row, Box<dyn Error>> {
    let cycles = assembly::matrix_loop(&compiled.assembly, compiled.lanes);
    // The share of multiply-adds is of no use where matrix instructions do the work.
    let hot = if cycles.is_none() { assembly::hot_loop(&compiled.assembly) } else { None };
    let waves = compiled.statistic("Subgroups per SIMD")?;
    Ok(Row {
        family: family.to_string(),
        variant: variant.to_string(),
        vgprs: compiled.statistic("VGPRs")?,
        sgprs: compiled.statistic("SGPRs")?,
        spills: compiled.statistic("Spilled VGPRs")? + compiled.statistic("Spilled SGPRs")?,
        scratch: compiled.statistic("Scratch size")?,
        shared: compiled.statistic("LDS size")?,
        // RADV counts waves of 32 lanes on families that have them, even for kernels with other waves.
        waves: if family == VEGA { waves } else { waves * 32 / u64::from(compiled.lanes) },
        share: hot.map(|hot| hot.share()),
        words: hot.map(|hot| hot.words_per_multiply_add()),
        matrix: cycles.map(|cycles| cycles.share()),
        latency: compiled.statistic("Latency")?,
        throughput: compiled.statistic("Inverse Throughput")?,
    })
}

/// The driver, and a row for every family and variant.
fn report(shaders: &Path) -> Result<(String, Vec<Row>), Box<dyn Error>> {
    let mut pipelines = pipelines(shaders)?;
    pipelines.retain(Pipeline::is_for_amd);
    let mut drivers = BTreeSet::new();
    let mut rows: Vec<Row> = Vec::new();
    for family in FAMILIES {
        let device = Device::open(family)?;
        drivers.insert(device.driver.clone());
        for pipeline in
            pipelines.iter().filter(|pipeline| device.matrix_units || !pipeline.needs("fragments"))
        {
            let new = row(family, &pipeline.variant, &compile(&device, shaders, pipeline)?)?;
            match rows.iter_mut().find(|row| (&row.family, &row.variant) == (&new.family, &new.variant)) {
                Some(row) => row.worsen(&new),
                None => rows.push(new),
            }
        }
    }
    rows.sort_by(|a, b| (&a.variant, &a.family).cmp(&(&b.variant, &b.family)));
    Ok((drivers.into_iter().collect::<Vec<_>>().join(", "), rows))
}

fn check(shaders: &Path, wanted: &Path) -> Result<ExitCode, Box<dyn Error>> {
    let text = fs::read_to_string(wanted).map_err(|error| format!("{}: {error}", wanted.display()))?;
    let (pinned, wanted_rows) =
        table::read(&text).map_err(|error| format!("{}: {error}", wanted.display()))?;
    let (driver, rows) = report(shaders)?;
    if driver != pinned {
        return Err(format!("the table was made with {pinned}, here is {driver}: nothing to compare").into());
    }
    let broken = table::broken(&wanted_rows, &rows);
    if !broken.is_empty() {
        return Err(format!("hot kernels got worse:\n{}", broken.join("\n")).into());
    }
    let hot = rows.iter().filter(|row| row.is_hot()).count();
    println!("{} rows, {hot} of hot kernels: no spills, no scratch, none is worse than its row", rows.len());
    match table::differences(&wanted_rows, &rows) {
        0 => {}
        count => println!("{count} rows differ from the table: make it again"),
    }
    Ok(ExitCode::SUCCESS)
}

fn show(shaders: &Path, family: &str, name: &str) -> Result<ExitCode, Box<dyn Error>> {
    let pipelines = pipelines(shaders)?;
    let pipeline = pipelines.iter().find(|pipeline| pipeline.name == name);
    let pipeline =
        pipeline.ok_or_else(|| format!("no pipeline `{name}` in {}", shaders.join("list.txt").display()))?;
    let device = Device::open(family)?;
    let compiled = compile(&device, shaders, pipeline)?;
    println!("{}, {}, waves of {} lanes", device.name, device.driver, compiled.lanes);
    for (name, value) in &compiled.statistics {
        println!("{name}: {value}");
    }
    match assembly::matrix_loop(&compiled.assembly, compiled.lanes) {
        Some(cycles) => println!("hot loop: {cycles:?}, {:.1} % matrix instructions", cycles.share()),
        None => println!("hot loop: {:?}", assembly::hot_loop(&compiled.assembly)),
    }
    println!("{}", compiled.assembly);
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amd_gets_fragments_of_16_for_waves_of_64() {
        let is_for_amd = |variant: &str, features: &str| {
            let [variant, entry, name, features] = [variant, "e", "n", features].map(str::to_string);
            Pipeline { variant, entry, name, features }.is_for_amd()
        };
        let fragments = "fragments,f16,16x16,naga";
        assert!(is_for_amd("gemm_cooperative-gemm_nt-SIDE16-LANES64-f16", fragments));
        assert!(is_for_amd("gemm_cooperative-gemm_nt-SIDE16-f16", fragments));
        assert!(!is_for_amd("gemm_cooperative-gemm_nt-SIDE16-LANES32-f16", fragments));
        assert!(!is_for_amd("gemm_cooperative-gemm_nt-SIDE8-LANES64-f16", "fragments,f16,8x8,naga"));
        assert!(is_for_amd("l2norm-l2norm_forward-LANES16", "plain"));
        assert!(!is_for_amd("gemm_subgroup-gemm_nt-SUB8", "subgroups"));
    }
}
