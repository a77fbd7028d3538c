//! `lat-wgpu bench`: kernels against the adapter's roofs, and against a saved run.

use super::args::BenchArguments;
use super::embed::progress_bar;
use super::json;
use super::open;
use super::paths::{Paths, same};
use super::signals::Signals;
use crate::bench::baseline::{self, Verdict};
use crate::bench::{self, Options, roofline};
use crate::data::files::write_atomically;
use crate::error::{Error, Result};
use serde_json::json;
use std::process::ExitCode;

pub fn run(arguments: &BenchArguments) -> Result<ExitCode> {
    let BenchArguments { json, svg, baseline, save_baseline, .. } = arguments;
    // A run may be compared with the one that it takes the place of.
    let kept = baseline.iter().filter(|file| !save_baseline.as_ref().is_some_and(|saved| same(saved, file)));
    let paths = Paths::new().reads("--baseline", kept).updates("--save-baseline", save_baseline);
    paths.writes("--json", json).writes("--svg", svg).check()?;
    // A file that can't be used is found before minutes are spent.
    let saved = arguments.baseline.as_deref().map(baseline::read).transpose()?;
    let mut kept = arguments.save_baseline.as_deref().map(baseline::read).transpose()?;
    let signals = Signals::listen()?;
    let context = open::adapter(arguments.adapter.as_ref())?;
    let key = baseline::key(&context.adapter.name, &context.adapter.driver, &bench::class(&context));
    let then = match (saved, &arguments.baseline) {
        (Some(mut saved), Some(path)) => Some(saved.remove(&key).ok_or_else(|| {
            let path = path.display();
            Error::Data(format!("{path} holds no run of {key}: --save-baseline {path} makes one"))
        })?),
        _ => None,
    };
    let bar = progress_bar(0);
    let filter = arguments.filter.as_deref().unwrap_or_default();
    let options = Options { filter, samples: arguments.samples as usize };
    let report = bench::run(&context, options, &mut |done, rows, name| {
        bar.set_length(rows as u64);
        bar.set_position(done as u64);
        bar.set_message(name.to_string());
        signals.check("nothing was written")
    });
    bar.finish_and_clear();
    let report = report?;

    json::print_or_write(arguments.json.as_deref(), &report.table(), || json!(report))?;
    if let Some(path) = &arguments.svg {
        write_atomically(path, roofline::draw(&report).as_bytes())?;
    }
    let mut code = ExitCode::SUCCESS;
    if let Some(mut then) = then {
        then.rows.retain(|row| row.name.contains(filter));
        let judged = baseline::judge(&then, &report);
        eprint!("{}", baseline::table(&judged));
        if judged.iter().any(|row| row.verdict == Verdict::Loss) {
            code = ExitCode::FAILURE;
        }
    }
    if let (Some(kept), Some(path)) = (&mut kept, &arguments.save_baseline) {
        kept.insert(key, report);
        write_atomically(path, baseline::text(kept)?.as_bytes())?;
    }
    Ok(code)
}
