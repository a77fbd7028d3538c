//! `lat-wgpu search --html`: what was found, as a page to look at.

use crate::datasets::labels::{Label, Person};
use crate::embeddings::gallery::{Gallery, Images};
use crate::error::Result;
use crate::images::decode::DecodeOptions;
use crate::report::{Image, Match, RankedList, Report, Shown, Thumbnails, Verdict};
use crate::tasks::search::{Found, Match as FoundMatch, Ranking};
use std::path::PathBuf;

/// What the page is made of beside what was found.
pub(super) struct Page {
    pub target: PathBuf,
    /// What was searched, in lines of a name and its value.
    pub source: Vec<(String, String)>,
    /// How many ranked lists there are at most.
    pub lists: usize,
    /// Bytes of images inside the page.
    pub thumbnails: u64,
    pub decode: DecodeOptions,
    /// Where the gallery's images are, once it is open.
    pub images: Option<Images>,
}

impl Page {
    /// Writes it.
    pub fn write(&self, found: &Found, gallery: &Gallery) -> Result<()> {
        let mut thumbnails = Thumbnails::new(&self.target, self.thumbnails, self.decode)?;
        let mut lists = Vec::new();
        // Thumbnails are made in the page's order: those of the first lists have room first.
        for Ranking { query, file, results } in found.queries.iter().take(self.lists) {
            let asked = shown(query, thumbnails.image(file));
            let mut matches = Vec::with_capacity(results.len());
            for FoundMatch { row, path, distance, same } in results {
                let file = self.images.as_ref().map(|images| (images, gallery.image(images, *row)));
                let image = match file {
                    Some((_, Some(file))) => thumbnails.image(&file),
                    Some((images, None)) if images.is_named() => {
                        Image::Missing("not in --images".to_string())
                    }
                    Some(_) => Image::Missing("not where it was embedded from".to_string()),
                    None => Image::Missing("no --images".to_string()),
                };
                let verdict = match same {
                    Some(true) => Verdict::Same,
                    Some(false) => Verdict::Different,
                    None => Verdict::Unknown,
                };
                matches.push(Match { shown: shown(path, image), distance: *distance, verdict });
            }
            lists.push(RankedList { query: asked, average_precision: None, matches });
        }

        let mut facts = self.source.clone();
        facts.push(("Searched".to_string(), format!("{} images", found.gallery)));
        let mut notes = Vec::new();
        let mut sentences = vec![which(lists.len(), found.queries.len())];
        match found.verdicts {
            Ok(threshold) => {
                let share = threshold.fpr;
                facts.push((
                    "Threshold".to_string(),
                    format!(
                        "same person up to a squared distance of {}, chosen for false positives up to {share}",
                        threshold.distance
                    ),
                ));
                sentences.push(
                    "✓ in a solid green frame: taken for the same person; ✗ in a dashed red frame: taken for somebody \
                     else. That is what the distance tells, not what is true."
                        .to_string(),
                );
            }
            Err(why) => notes.push(format!("{why}.")),
        }
        sentences.push("The number is the squared Euclidean distance.".to_string());
        facts.push(("Images".to_string(), thumbnails.about()));
        let title = match &found.queries[..] {
            [Ranking { query, .. }] => format!("Search for {query}"),
            queries => format!("Search for {} images", queries.len()),
        };
        Report { title, facts, notes, lists_about: sentences, lists, ..Report::default() }.write(&self.target)
    }
}

/// Which queries have a list.
fn which(shown: usize, all: usize) -> String {
    if shown == all {
        "Each query with the gallery images nearest to it.".to_string()
    } else {
        format!("The first {shown} of {all} queries, each with the gallery images nearest to it.")
    }
}

/// An image with what its name tells in Market-1501's way.
fn shown(name: &str, image: Image) -> Shown {
    let label = Label::from_market_name(name);
    let person = label.map(|Label { person, .. }| match person {
        Person::Known(number) => number.to_string(),
        Person::Distractor => "distractor".to_string(),
        Person::Junk => "junk".to_string(),
    });
    let camera = label.map(|label| label.camera.to_string());
    Shown { name: name.to_string(), image, person, camera }
}
