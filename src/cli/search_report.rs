//! Writes the page of `lat-wgpu search --html`.

use super::origin;
use crate::checkpoint::Threshold;
use crate::datasets::labels::{Label, Person};
use crate::embeddings::gallery::{Gallery, Images};
use crate::error::Result;
use crate::images::decode::DecodeOptions;
use crate::report::{ExpectedErrors, Image, Match, RankedList, Report, Shown, Thumbnails, Verdict};
use crate::tasks::search::{Found, Match as FoundMatch, Ranking};
use std::path::PathBuf;

/// The contents of a page besides the results.
pub(super) struct Page {
    pub target: PathBuf,
    /// Names and values that describe the search.
    pub source: Vec<(String, String)>,
    /// Most ranked lists.
    pub lists: usize,
    /// Most bytes of embedded thumbnails.
    pub thumbnails: u64,
    pub decode: DecodeOptions,
    /// The gallery's image files, if known.
    pub images: Option<Images>,
}

impl Page {
    /// Writes the page.
    pub fn write(&self, found: &Found, gallery: &Gallery) -> Result<()> {
        let mut thumbnails = Thumbnails::new(&self.target, self.thumbnails, self.decode)?;
        let mut lists = Vec::new();
        // In the order of the page: thumbnails of the first lists are embedded, later ones are linked.
        for Ranking { query, file, results } in found.queries.iter().take(self.lists) {
            let asked = shown(query, thumbnails.image(file));
            let mut matches = Vec::with_capacity(results.len());
            for FoundMatch { row, path, distance, same } in results {
                let image = gallery_image(&mut thumbnails, gallery, self.images.as_ref(), *row);
                let verdict = match same {
                    Some(true) => Verdict::Same,
                    Some(false) => Verdict::Different,
                    None => Verdict::Unknown,
                };
                let errors = match (found.verdicts, same) {
                    (Ok(threshold), Some(true)) => Some(ExpectedErrors::new(threshold.fpr, found.gallery)),
                    _ => None,
                };
                matches.push(Match { shown: shown(path, image), distance: *distance, verdict, errors });
            }
            lists.push(RankedList { query: asked, average_precision: None, matches });
        }

        let mut facts = self.source.clone();
        facts.push(("Searched".to_string(), format!("{} images", found.gallery)));
        let mut notes = Vec::new();
        let mut sentences = vec![which(lists.len(), found.queries.len())];
        match found.verdicts {
            Ok(threshold) => {
                let Threshold { distance, fpr } = threshold;
                facts.push((
                    "Threshold".to_string(),
                    format!("same person up to a squared distance of {distance}, for a false positive rate up to {fpr}"),
                ));
                sentences.push(format!(
                    "✓ in a solid green frame: likely the same person, since the distance is up to the threshold; ✗ in a \
                     dashed red frame: likely different. When the threshold was calibrated, at most a share of {fpr} of \
                     the pairs of different persons were as near. At that rate a gallery of {} images is expected to \
                     hold up to {:.1} images of strangers so near.",
                    found.gallery,
                    fpr * found.gallery as f64
                ));
            }
            Err(why) => notes.push(format!("{why}.")),
        }
        sentences.push("The number is the squared Euclidean distance.".to_string());
        facts.push(("Images".to_string(), thumbnails.about()));
        facts.extend(origin::facts(&found.adapter));
        let title = match &found.queries[..] {
            [Ranking { query, .. }] => format!("Search for {query}"),
            queries => format!("Search for {} images", queries.len()),
        };
        Report { title, facts, notes, lists_about: sentences, lists, ..Report::default() }.write(&self.target)
    }
}

/// Describes the queries that have a list.
fn which(shown: usize, all: usize) -> String {
    if shown == all {
        "Each query with the gallery images nearest to it.".to_string()
    } else {
        format!("The first {shown} of {all} queries, each with the gallery images nearest to it.")
    }
}

/// The image of a gallery row, if its file is known.
pub(super) fn gallery_image(
    thumbnails: &mut Thumbnails,
    gallery: &Gallery,
    images: Option<&Images>,
    row: usize,
) -> Image {
    match images.map(|images| (images, gallery.image(images, row))) {
        Some((_, Some(file))) => thumbnails.image(&file),
        Some((images, None)) if images.is_named() => Image::Missing("not in --images".to_string()),
        Some(_) => Image::Missing("not found where it was embedded".to_string()),
        None => Image::Missing("no --images".to_string()),
    }
}

/// An image with the person and camera of its Market-1501 name.
pub(super) fn shown(name: &str, image: Image) -> Shown {
    let label = Label::from_market_name(name);
    let person = label.map(|Label { person, .. }| match person {
        Person::Known(number) => number.to_string(),
        Person::Distractor => "distractor".to_string(),
        Person::Junk => "junk".to_string(),
    });
    let camera = label.map(|label| label.camera.to_string());
    Shown { name: name.to_string(), image, person, camera }
}
