//! Links in the documentation lead somewhere, and the book lists every page.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

#[path = "common/documents.rs"]
mod documents;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The lines of a document outside of fenced blocks.
fn prose(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut fenced = false;
    let mut lines = Vec::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            lines.push(line.to_string());
        }
    }
    lines
}

/// The targets of the links and images in a line, as in `[text](target)` and `src="target"`.
fn targets(line: &str) -> Vec<&str> {
    let after = |mark, end| line.split(mark).skip(1).filter_map(move |rest| rest.split_once(end));
    after("](", ')').chain(after("src=\"", '"')).map(|(target, _)| target).collect()
}

/// The anchors of a document's headings, as GitHub and mdBook make them.
fn anchors(path: &Path) -> BTreeSet<String> {
    let headings = prose(path).into_iter().filter(|line| line.starts_with('#'));
    let anchor = |line: String| -> String {
        let title = line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
        title.chars().filter(|c| c.is_alphanumeric() || "-_".contains(*c)).collect()
    };
    headings.map(anchor).collect()
}

#[test]
fn links_lead_somewhere() {
    let documents = documents::below(root());
    let mut wrong = Vec::new();
    for document in documents {
        let folder = document.parent().unwrap();
        let in_book = folder.starts_with(root().join("docs"));
        for target in prose(&document).iter().flat_map(|line| targets(line)) {
            if target.starts_with("https://") || target.starts_with("http://") {
                continue;
            }
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let path = if file.is_empty() { document.clone() } else { folder.join(file) };
            let problem = match path.canonicalize() {
                Err(_) => "there is no such file",
                // The book has nothing but its own folder.
                Ok(path) if in_book && !path.starts_with(root().join("docs").canonicalize().unwrap()) => {
                    "outside of docs: name the file, don't link it"
                }
                Ok(path) if !anchor.is_empty() && !anchors(&path).contains(anchor) => {
                    "there is no such heading"
                }
                Ok(_) => continue,
            };
            let name = document.strip_prefix(root()).unwrap_or(&document).display();
            wrong.push(format!("{name}: {target}: {problem}"));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn the_book_lists_every_page() {
    let docs = root().join("docs");
    let pages = documents::below(&docs);
    let summary = prose(&docs.join("SUMMARY.md"));
    let listed: BTreeSet<_> =
        summary.iter().flat_map(|line| targets(line)).map(|page| docs.join(page)).collect();
    let pages: BTreeSet<_> = pages.into_iter().filter(|page| !page.ends_with("SUMMARY.md")).collect();
    assert_eq!(pages, listed);
}
