//! `lat-wgpu autotune`: finds the fastest tiles on an adapter and keeps them for later runs.

use super::arguments::{DeviceArguments, ModelArgument, NetworkArguments};
use super::paths::Paths;
use super::progress::Progress;
use super::{json, open};
use crate::error::Result;
use crate::observer::Follower;
use crate::tasks::autotune::{self, Finding, Outcome, Product};
use clap::Args;
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// `lat-wgpu autotune`.
#[derive(Debug, Args)]
pub struct AutotuneArguments {
    #[command(flatten)]
    pub model: ModelArgument,
    /// Images per batch [default: 32, on CPU adapters 2]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub batch_size: Option<u32>,
    /// Tunes a training step instead of embedding
    #[arg(long)]
    pub train: bool,
    /// Time limit in seconds
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub seconds: u32,
    /// Removes the saved choices for this adapter; without --model it does nothing else
    #[arg(long)]
    pub clear: bool,
    #[command(flatten)]
    pub device: DeviceArguments,
    /// Writes the measurements as JSON; - for stdout
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    #[command(flatten)]
    pub network: NetworkArguments,
}

pub fn run(arguments: &AutotuneArguments) -> Result<ExitCode> {
    let only_clears = arguments.clear && !arguments.model.is_given();
    let model = if only_clears { None } else { Some(arguments.model.file()?) };
    let paths = Paths::new().reads("--model", &model).writes("--json", &arguments.json);
    paths.check()?;
    let network = model.map(|model| open::network(&model, &arguments.network.settings())).transpose()?;
    let context = arguments.device.open()?;
    if arguments.clear {
        match autotune::clear(&context.adapter)? {
            Some(file) => eprintln!("removed {}", file.display()),
            None => eprintln!("nothing was kept"),
        }
    }
    let Some(network) = network else { return Ok(ExitCode::SUCCESS) };
    // Fails before the work if the file cannot be written.
    paths.updates("the choices in", [autotune::choices_file(&context.adapter)?]).check()?;
    let batch = arguments.batch_size.map_or(if context.is_cpu() { 2 } else { 32 }, |batch| batch as usize);
    let limit = Duration::from_secs(u64::from(arguments.seconds));
    let outcome = autotune::tune(&context, &network, batch, arguments.train, limit, &Progress::new(None))?;
    let Outcome { findings, left, step: (before, after), choices: chosen } = &outcome;
    if *left > 0 {
        eprintln!("note: no time for {left} more shapes; set a larger --seconds");
    }
    let what = if arguments.train { "a training step" } else { "embedding" };
    let summary = format!(
        "{what} of {batch}: {before:.4} s with the built-in tiles, {after:.4} s with the chosen ones"
    );
    let path = if chosen.is_empty() {
        eprintln!("{summary}: the built-in tiles stay");
        None
    } else {
        let path = autotune::keep(&context.adapter, chosen)?;
        eprintln!("{summary}: kept in {}", path.display());
        Some(path)
    };
    if let Some(target) = &arguments.json {
        let value = json!({
            "adapter": context.adapter.name,
            "driver": context.adapter.driver,
            "batch": batch,
            "train": arguments.train,
            "step_seconds": {"built_in": before, "tuned": after},
            "kept": path,
            "choices": chosen,
            "left": left,
            "products": findings.iter().map(finding_json).collect::<Vec<_>>(),
        });
        json::write(target, &value)?;
    }
    Ok(ExitCode::SUCCESS)
}

impl Follower<Finding> for Progress {
    fn event(&self, finding: Finding) -> Result<()> {
        self.say(&line(&finding));
        Ok(())
    }
}

fn line(finding: &Finding) -> String {
    let Finding { product: Product { form, m, n, k, count }, seconds, chosen, refused } = finding;
    let rates: Vec<String> = seconds
        .iter()
        .map(|(tile, seconds)| {
            let mark = if tile == chosen { "*" } else { "" };
            format!("{mark}{tile} {:.1}", 2e-9 * (m * n * k) as f64 / seconds)
        })
        .collect();
    let left_out = match refused.len() {
        0 => String::new(),
        count => format!("; {count} left out for giving other bits"),
    };
    format!("{count} x {form:?} {m}x{n}x{k}, GFLOP/s: {}{left_out}", rates.join(", "))
}

fn finding_json(finding: &Finding) -> serde_json::Value {
    let Finding { product: Product { form, m, n, k, count }, seconds, chosen, refused } = finding;
    json!({
        "form": format!("{form:?}").to_lowercase(),
        "m": m,
        "n": n,
        "k": k,
        "count": count,
        "seconds": seconds.iter().map(|(tile, seconds)| (tile.to_string(), json!(seconds))).collect::<serde_json::Map<_, _>>(),
        "chosen": chosen.to_string(),
        "refused": refused.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}
