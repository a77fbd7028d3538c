//! Many damaged images: each is decoded or refused with a reason, and valid ones among them keep their embeddings.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use lat_wgpu::embeddings;
use lat_wgpu::images::decode::{DecodeOptions, decode};

use crate::mutate::{Dice, mutated};
use crate::{seeds, target};

/// Options of `images`.
#[derive(clap::Args)]
pub struct Arguments {
    /// Damaged images for the decoder.
    #[arg(long, default_value_t = 100_000)]
    count: u64,
    /// Number of them that `lat-wgpu embed` reads too.
    #[arg(long, default_value_t = 5_000)]
    embed: u64,
    /// The program `lat-wgpu`; without it nothing is embedded.
    #[arg(long)]
    program: Option<PathBuf>,
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// Runs both, and returns the number of findings.
pub fn run(arguments: &Arguments) -> usize {
    let Some(target) = target("image") else { unreachable!("the target exists") };
    let valid = seeds::images();
    let folder = tempfile::tempdir().expect("a folder for images");
    std::panic::set_hook(Box::new(|_| {}));
    let start = Instant::now();
    let mut findings = 0;
    let (mut decoded, mut same, mut reasons) = (0, 0, BTreeMap::<String, u64>::new());
    // True for each embedded image that decodes.
    let mut good = BTreeMap::new();
    for number in 0..arguments.count {
        let dice = &mut Dice::new(arguments.seed, number);
        let bytes = mutated(&valid, target.words, target.longest, target.repair, dice);
        if valid.contains(&bytes) {
            same += 1;
        }
        let answer = catch_unwind(AssertUnwindSafe(|| decode(&bytes, DecodeOptions::default())));
        let Ok(answer) = answer else {
            println!("FINDING image {number}: the decoder panics");
            findings += 1;
            continue;
        };
        if number < arguments.embed {
            let name = format!("{number:06}.jpg");
            std::fs::create_dir_all(folder.path().join("all")).expect("a folder");
            std::fs::write(folder.path().join("all").join(&name), &bytes).expect("room for images");
            good.insert(name, answer.is_ok());
        }
        match answer {
            Ok(_) => decoded += 1,
            Err(reason) if reason.len() < 8 => {
                println!("FINDING image {number}: an empty reason: {reason:?}");
                findings += 1;
            }
            Err(reason) => *reasons.entry(shortened(&reason)).or_default() += 1,
        }
    }
    println!(
        "{} images from {} valid ones in {:.0} s: {decoded} decoded ({same} of them unchanged), {} refused for {} reasons",
        arguments.count,
        valid.len(),
        start.elapsed().as_secs_f64(),
        reasons.values().sum::<u64>(),
        reasons.len()
    );
    let mut sorted: Vec<(String, u64)> = reasons.into_iter().collect();
    sorted.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    sorted.iter().take(12).for_each(|(reason, count)| println!("{count:8} {reason}"));
    if let Some(program) = &arguments.program {
        findings += embed(program, folder.path(), &valid, good);
    }
    findings
}

/// A reason without its numbers.
fn shortened(reason: &str) -> String {
    let text: String =
        reason.chars().map(|letter| if letter.is_ascii_digit() { '#' } else { letter }).take(100).collect();
    text.replace("####", "#").replace("###", "#").replace("##", "#")
}

/// Embeds the valid images alone, then among all others.
fn embed(program: &Path, folder: &Path, valid: &[Vec<u8>], mut good: BTreeMap<String, bool>) -> usize {
    let alone = folder.join("valid");
    std::fs::create_dir_all(&alone).expect("a folder");
    for (number, bytes) in valid.iter().enumerate() {
        // Spread among the damaged ones, to share batches with them.
        let name = format!("{:06}_valid.jpg", number * good.len() / valid.len());
        std::fs::write(alone.join(&name), bytes).expect("room for images");
        std::fs::write(folder.join("all").join(&name), bytes).expect("room for images");
        good.insert(name, true);
    }
    let model = folder.join("model.safetensors");
    let program = std::fs::canonicalize(program).expect("the program lat-wgpu");
    let lat = |arguments: &[&str]| {
        Command::new(&program).args(arguments).current_dir(folder).output().expect("the program lat-wgpu")
    };
    let made = lat(&[
        "init",
        "--size",
        "32x16",
        "--patch",
        "8",
        "--dim",
        "32",
        "--depth",
        "1",
        "--heads",
        "2",
        "--out",
        "model.safetensors",
    ]);
    assert!(made.status.success() && model.is_file(), "{}", String::from_utf8_lossy(&made.stderr));
    let mut findings = 0;
    let start = Instant::now();
    let mut found = Vec::new();
    for images in ["valid", "all"] {
        let out = format!("{images}.npy");
        let done = lat(&["embed", "--model", "model.safetensors", images, "--out", &out]);
        let stderr = String::from_utf8_lossy(&done.stderr).into_owned();
        if !done.status.success() {
            println!(
                "FINDING embed {images}: {}: {}",
                done.status,
                stderr.lines().last().unwrap_or_default()
            );
            return findings + 1;
        }
        let read = embeddings::read(&folder.join(&out)).expect("embeddings that were just written");
        found.push((read, stderr));
    }
    let [(alone, _), (all, stderr)] = &found[..] else { unreachable!("two runs") };
    let row = |of: &embeddings::Embeddings, name: &str| {
        let at = of.paths.iter().position(|path| path == name)?;
        Some(of.rows[at * of.dim..][..of.dim].iter().map(|value| value.to_bits()).collect::<Vec<_>>())
    };
    for (name, is_good) in &good {
        let embedding = row(all, name);
        let named = stderr
            .lines()
            .filter(|line| line.starts_with("skipped ") && line.contains(name.as_str()))
            .count();
        if (embedding.is_some(), named) != (*is_good, usize::from(!is_good)) {
            println!(
                "FINDING embed: {name}: decodes: {is_good}, has a row: {}, named {named} times",
                embedding.is_some()
            );
            findings += 1;
        }
        if name.ends_with("_valid.jpg") && embedding != row(alone, name) {
            println!("FINDING embed: {name}: the embedding differs from that of the image alone");
            findings += 1;
        }
    }
    println!(
        "embedded {} images in {:.0} s: {} rows, {} skipped by name, {} valid embeddings bit-identical: {}",
        good.len(),
        start.elapsed().as_secs_f64(),
        all.paths.len(),
        good.values().filter(|is_good| !**is_good).count(),
        alone.paths.len(),
        findings == 0
    );
    findings
}
