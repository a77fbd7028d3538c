//! `lat-wgpu demo`: draws a data set, fine-tunes on it, scores before and after, and writes a report.

use super::arguments::AdapterArgument;
use super::eval_report::{LIST_LENGTH, Page};
use super::paths::Paths;
use super::progress::Progress;
use super::signals::Signals;
use crate::error::{Error, Result};
use crate::images::decode::DecodeOptions;
use crate::observer::{Follower, Observer};
use crate::report::DEFAULT_LIMIT;
use crate::retrieval::metrics::Scores;
use crate::tasks::demo::{self, Event, Outcomes, Request, Step};
use crate::tasks::evaluate::{self, Outcome};
use crate::train::trainer;
use clap::Args;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

/// `lat-wgpu demo`.
#[derive(Debug, Args)]
pub struct DemoArguments {
    /// Output folder
    #[arg(short, long, value_name = "DIR", default_value = "lat-wgpu-demo")]
    pub out: PathBuf,
    /// Number of persons; every second one is in the train split
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(4..=9999))]
    pub persons: u32,
    /// Epochs of fine-tuning; each unfreezes one more block
    #[arg(long, value_name = "N", default_value_t = 12, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub epochs: u32,
    /// Seed; the same seed gives the same images, and on the same adapter the same scores
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    #[command(flatten)]
    pub adapter: AdapterArgument,
}

pub fn run(arguments: &DemoArguments) -> Result<ExitCode> {
    let DemoArguments { out, persons, epochs, seed, adapter: AdapterArgument { adapter } } = arguments;
    if out.exists() {
        return Err(Error::Usage(format!(
            "{} exists already: remove it, or pass another --out",
            out.display()
        )));
    }
    Paths::new().makes_folder("--out", out).check()?;
    let request = Request {
        out: out.clone(),
        persons: *persons,
        epochs: *epochs,
        seed: *seed,
        adapter: adapter.clone(),
        evaluation: evaluate::Request { list_length: LIST_LENGTH, ..evaluate::Request::default() },
    };
    let narrator = Narrator { progress: Progress::new(Some(Signals::listen()?)), start: Instant::now() };
    let done = demo::demo(&request, &narrator);
    narrator.progress.finish();
    let Outcomes { before, after } = done?;
    let page = Page {
        target: out.join("report.html"),
        source: [("before", &before), ("after", &after)]
            .map(|(when, outcome)| (when.to_string(), line(outcome)))
            .to_vec(),
        lists: before.plain.valid_queries,
        thumbnails: DEFAULT_LIMIT,
        decode: DecodeOptions::default(),
        images: Vec::new(),
    };
    page.write(&after, &request.evaluation)?;
    println!("before: {}\nafter: {}\nreport: {}", line(&before), line(&after), page.target.display());
    Ok(ExitCode::SUCCESS)
}

/// Prints the steps of a demo with the time since its start.
struct Narrator {
    progress: Progress,
    start: Instant,
}

impl Observer for Narrator {
    fn note(&self, text: &str) {
        self.progress.note(text);
    }

    fn skipped(&self, reason: &Error) {
        self.progress.skipped(reason);
    }

    fn progress(&self, stage: &str, done: usize, total: usize) {
        self.progress.progress(stage, done, total);
    }

    fn signal(&self) -> Option<u8> {
        self.progress.signal()
    }
}

impl Follower<trainer::Event> for Narrator {
    fn event(&self, event: trainer::Event) -> Result<()> {
        self.progress.event(event)
    }
}

impl Follower<Event> for Narrator {
    fn event(&self, event: Event) -> Result<()> {
        let line = match event {
            Event::Adapter(name) => name,
            Event::Begins(step) => {
                self.progress.finish();
                format!("\n== {} (after {:.0} s)", heading(step), self.start.elapsed().as_secs_f64())
            }
            Event::Drawn { images, folder } => format!(
                "{images} images in {}: one half of the persons for training, the other half for scoring",
                folder.display()
            ),
        };
        self.progress.say(&line);
        Ok(())
    }
}

fn heading(step: Step) -> &'static str {
    match step {
        Step::Draw => "Draw: persons who walk past four cameras",
        Step::ScoreBackbone => "Score the backbone",
        Step::FineTune => "Fine-tune, block by block from the last to the first",
        Step::ScoreModel => "Score the trained model on persons that it has not seen",
    }
}

/// Rank-1 and mAP in words.
fn line(outcome: &Outcome) -> String {
    let Scores { ranks, map, .. } = &outcome.plain;
    format!("rank-1 {:.1} %, mAP {:.1} %", 100.0 * ranks[0], 100.0 * map)
}
