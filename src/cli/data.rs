//! `lat-wgpu data`: counts a data set and checks it.

use super::arguments::SetArguments;
use super::json;
use super::paths::Paths;
use super::progress::Progress;
use super::words::counted;
use crate::datasets::survey::{self, Counts, Findings};
use crate::datasets::{self, ReidSet, uses};
use crate::error::Result;
use clap::Args;
use serde_json::{Value, json};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// Most names to print for each finding; the JSON has all.
const SHOWN: usize = 5;

/// `lat-wgpu data`.
#[derive(Debug, Args)]
pub struct DataArguments {
    /// Folder of the data set, or a table of images (.csv)
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// Checks names and lists only, and opens no image
    #[arg(long)]
    pub fast: bool,
    /// Exits with 1 if anything looks wrong or images are left out
    #[arg(long)]
    pub strict: bool,
    /// Writes counts and findings as JSON; - for stdout
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    #[command(flatten)]
    pub set: SetArguments,
}

pub fn run(arguments: &DataArguments) -> Result<ExitCode> {
    let paths = Paths::new().following(arguments.set.options().follow_links);
    paths.reads_sets("DIR", [&arguments.dir]).writes("--json", &arguments.json).check()?;
    let set = datasets::load(&arguments.dir, &arguments.set.options())?;
    if let Some(example) = uses::an_example(&set) {
        eprintln!("{example}");
    }
    let splits = [
        ("train", survey::counts(&set.train)),
        ("query", survey::counts(&set.query)),
        ("gallery", survey::counts(&set.gallery)),
    ];
    let findings = survey::findings(&set);
    let progress = Progress::new(None);
    let unreadable = (!arguments.fast).then(|| survey::unreadable(&set, &progress)).transpose()?;
    let fine = findings.is_empty()
        && unreadable.as_ref().is_none_or(Vec::is_empty)
        && set.left_out.images().is_empty();

    if let Some(target) = &arguments.json {
        json::write(target, &as_json(&set, &splits, &findings, unreadable.as_deref()))?;
    } else {
        let mut text = table(&set, &splits);
        for line in complaints(&set, &findings, unreadable.as_deref().unwrap_or_default()) {
            text.push_str(&format!("{line}\n"));
        }
        match (fine, arguments.fast) {
            (true, true) => text.push_str("nothing looks wrong; the images were not opened\n"),
            (true, false) => text.push_str("nothing looks wrong\n"),
            (false, _) => {}
        }
        // A closed pager is no failure.
        let _ = std::io::stdout().lock().write_all(text.as_bytes());
    }
    Ok(if fine || !arguments.strict { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The table that re-identification toolboxes print, and the images that it does not count.
fn table(set: &ReidSet, splits: &[(&str, Counts)]) -> String {
    let variant = if set.variant.is_empty() { String::new() } else { format!(", {}", set.variant) };
    let mut text = format!("{}: {}{variant}\n", set.name, set.layout);
    text.push_str(&format!("  {:<8}{:>9}{:>9}{:>9}\n", "split", "persons", "images", "cameras"));
    for (split, counts) in splits {
        let Counts { persons, images, cameras, .. } = counts;
        text.push_str(&format!("  {split:<8}{persons:>9}{images:>9}{cameras:>9}\n"));
    }
    if set.query_is_gallery {
        text.push_str("no split: every image is a query against all others\n");
    }
    for (split, counts) in splits {
        if *split == "query" && set.query_is_gallery {
            continue;
        }
        if counts.distractors > 0 {
            text.push_str(&format!(
                "{split}: {} (0000), counted as one person\n",
                counted(counts.distractors, "distractor image")
            ));
        }
        if counts.junk > 0 {
            text.push_str(&format!("{split}: {} (-1), not counted\n", counted(counts.junk, "junk image")));
        }
    }
    text
}

/// A line and a few names for each finding. Files that were left out come first.
fn complaints(set: &ReidSet, findings: &Findings, unreadable: &[(String, String)]) -> Vec<String> {
    let with_reason = |list: &[(String, String)]| -> Vec<String> {
        list.iter().map(|(name, reason)| format!("{name} {reason}")).collect()
    };
    let Findings { only_camera, absent, same_camera, nobody, in_both, duplicates, .. } = findings;
    let camera = only_camera.map(|camera| set.cameras[&camera].clone());
    let persons: Vec<String> = in_both.iter().map(|person| set.persons[person].clone()).collect();
    let mut lines = Vec::new();
    if !set.left_out.counts().is_empty() {
        lines.push(format!("left out: {}", set.left_out));
    }
    let mut list = |what: &str, names: &[String]| {
        if names.is_empty() {
            return;
        }
        lines.push(format!("{what}: {}", names.len()));
        lines.extend(names.iter().take(SHOWN).map(|name| format!("    {name}")));
        if names.len() > SHOWN {
            lines.push(format!("    and {} more", names.len() - SHOWN));
        }
    };
    let (missing, unlabelled): (Vec<_>, Vec<_>) =
        set.skipped.iter().cloned().partition(|(_, reason)| reason.ends_with(", but missing"));
    list("listed, but missing", &with_reason(&missing));
    list("left out, without a label", &with_reason(&unlabelled));
    list("WRONG: images that are left out", &with_reason(set.left_out.images()));
    let unreadable = unreadable.iter().map(|(name, reason)| format!("{name}: {reason}"));
    list("WRONG: images that cannot be read", &Vec::from_iter(unreadable));
    list(
        "WRONG: one camera took all test images, so no query has a match by another camera; score with --ignore-cameras",
        &Vec::from_iter(camera),
    );
    list("WRONG: queries without a match: the person is not in the gallery", absent);
    list(
        "WRONG: queries without a match: the person is in the gallery only by the query's camera",
        same_camera,
    );
    list("WRONG: queries that are junk or distractors", nobody);
    list("WRONG: persons in both the training and the test images", &persons);
    list("WRONG: duplicate images", duplicates);
    let (eval, train) = (&findings.not_scored, &findings.not_trained);
    for (action, refusal, other, also) in
        [("evaluate", eval, "train", train.is_none()), ("train", train, "eval", eval.is_none())]
    {
        if let Some(reason) = refusal {
            let accepts = if also { format!("; `{other}` accepts it") } else { String::new() };
            lines.push(format!("note: cannot {action}: {reason}{accepts}"));
        }
    }
    lines
}

fn as_json(
    set: &ReidSet,
    splits: &[(&str, Counts)],
    findings: &Findings,
    unreadable: Option<&[(String, String)]>,
) -> Value {
    let counts = splits.iter().map(|(split, counts)| {
        let Counts { persons, images, cameras, distractors, junk } = counts;
        let value = json!({
            "persons": persons, "images": images, "cameras": cameras, "distractors": distractors, "junk": junk,
        });
        (split.to_string(), value)
    });
    let files = |list: &[(String, String)]| -> Value {
        list.iter().map(|(name, reason)| json!({"file": name, "reason": reason})).collect()
    };
    let Findings { only_camera, absent, same_camera, nobody, in_both, duplicates, not_scored, not_trained } =
        findings;
    json!({
        "name": set.name,
        "layout": set.layout.to_string(),
        "variant": set.variant,
        "query_is_gallery": set.query_is_gallery,
        "splits": serde_json::Map::from_iter(counts),
        "skipped": files(&set.skipped),
        "left_out": set.left_out.counts(),
        "images_left_out": files(set.left_out.images()),
        "unreadable": unreadable.map(files),
        "only_camera": only_camera.map(|camera| &set.cameras[&camera]),
        "queries_without_person": absent,
        "queries_with_same_camera_only": same_camera,
        "queries_of_nobody": nobody,
        "persons_in_train_and_test": in_both.iter().map(|person| &set.persons[person]).collect::<Vec<_>>(),
        "duplicates": duplicates,
        "refused": {"eval": not_scored, "train": not_trained},
    })
}
