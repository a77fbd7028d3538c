//! Query expansion, tracklets, aligned and spatio-temporal distances against numpy
//! (tools/make_retrieval_goldens.py).

mod common;

use common::context;
use lat_wgpu::datasets::labels::{Label, Person};
use lat_wgpu::embeddings::rows::{Rows, Stacked};
use lat_wgpu::embeddings::{Dtype, EmbeddingWriter, Embeddings};
use lat_wgpu::error::Error;
use lat_wgpu::observer::Stage;
use lat_wgpu::retrieval::aligned::{Aligned, Parts};
use lat_wgpu::retrieval::combined::{Combined, ExpandOver, Expanded, ExpansionOptions};
use lat_wgpu::retrieval::distances::DistanceRows;
use lat_wgpu::retrieval::metrics::Scores;
use lat_wgpu::retrieval::neighbours::Neighbours;
use lat_wgpu::retrieval::rerank::RerankOptions;
use lat_wgpu::retrieval::spatio_temporal::{SpatioTemporal, distance};
use lat_wgpu::tasks::evaluate::{EvaluationSet, GroupBy, Metric, Outcome, Request, evaluate};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

const MEMORY: u64 = 64 << 20;
/// Largest difference of a value from numpy's.
const TOLERANCE: f64 = 1e-6;

fn golden() -> Value {
    serde_json::from_str(include_str!("goldens/retrieval.json")).unwrap()
}

fn numbers(rows: &Value) -> Vec<f64> {
    let rows: Vec<Vec<f64>> = serde_json::from_value(rows.clone()).unwrap();
    rows.concat()
}

/// Person, camera and frame of each image.
fn about(side: &Value) -> Vec<(u32, u32, u64)> {
    serde_json::from_value(side["about"].clone()).unwrap()
}

fn embeddings(side: &Value) -> Embeddings {
    let rows: Vec<f32> = numbers(&side["rows"]).into_iter().map(|value| value as f32).collect();
    let name = |(i, (person, camera, frame)): (usize, (u32, u32, u64))| {
        format!("{person:04}_c{camera}s1_{frame:06}_{i:02}.jpg")
    };
    let paths: Vec<String> = about(side).into_iter().enumerate().map(name).collect();
    Embeddings { dim: rows.len() / paths.len(), paths, rows }
}

fn all(rows: &dyn Rows) -> Vec<f64> {
    let mut values = vec![f32::NAN; rows.len() * rows.dim()];
    rows.read(0..rows.len(), &mut values).unwrap();
    values.into_iter().map(f64::from).collect()
}

/// Compares values with numpy's and prints the share of the tolerance that the largest difference takes.
#[track_caller]
fn assert_near(what: &str, got: &[f64], wanted: &[f64]) {
    assert_eq!(got.len(), wanted.len(), "{what}");
    let largest = got.iter().zip(wanted).map(|(got, wanted)| (got - wanted).abs()).fold(0.0, f64::max);
    println!("{what}: {:.1} % of the tolerance", 100.0 * largest / TOLERANCE);
    assert!(largest <= TOLERANCE, "{what}: {largest}");
}

#[track_caller]
fn assert_scores(what: &str, got: &Scores, wanted: &Value) {
    let wanted_means: Vec<f64> = ["rank1", "map"].iter().map(|key| wanted[key].as_f64().unwrap()).collect();
    assert_near(what, &[got.ranks[0], got.map], &wanted_means);
    assert_eq!(got.valid_queries, wanted["valid_queries"], "{what}");
}

/// Writes the embeddings with the settings of a model of four rows of parts.
fn write(folder: &Path, name: &str, embeddings: &Embeddings) {
    let settings = r#"{"format":1,"model":{"grid":[4,2],"gelt":{"parts":"rows"}}}"#;
    let metadata = BTreeMap::from([("lat_wgpu".to_string(), settings.to_string())]);
    let Embeddings { paths, dim, rows } = embeddings;
    let mut writer = EmbeddingWriter::create(&folder.join(name), *dim, Dtype::F32, paths, &metadata).unwrap();
    for (path, row) in paths.iter().zip(rows.chunks(*dim)) {
        writer.push(path, row).unwrap();
    }
    writer.finish().unwrap();
}

/// Scores the golden embeddings from their files.
fn scored(table: Option<&str>, request: &Request) -> Outcome {
    let golden = golden();
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    write(folder.path(), "q.safetensors", &embeddings(&golden["queries"]));
    write(folder.path(), "g.safetensors", &embeddings(&golden["gallery"]));
    let table = table.map(|text| {
        std::fs::write(file("l.csv"), text).unwrap();
        file("l.csv")
    });
    let (queries, gallery) = (file("q.safetensors"), file("g.safetensors"));
    let set = EvaluationSet::read(&queries, Some(&gallery), table.as_deref(), request.group_by).unwrap();
    evaluate(&set, request, context(), &()).unwrap()
}

#[test]
fn query_expansion_equals_numpy() {
    let golden = golden();
    let (queries, gallery) = (embeddings(&golden["queries"]), embeddings(&golden["gallery"]));
    let all_rows = Stacked::new(vec![&queries, &gallery]).unwrap();
    for case in golden["expansion"].as_array().unwrap() {
        let over = serde_json::from_value(case["over"].clone()).unwrap();
        let (k, alpha) = (case["k"].as_u64().unwrap() as usize, case["alpha"].as_f64().unwrap());
        let options = ExpansionOptions { k, alpha, over };
        let stage = Stage::new(&(), "", 0, "");
        let sides: (&dyn Rows, Option<&dyn Rows>) = (&queries, Some(&gallery));
        let expanded = Expanded::new(context(), &all_rows, sides, options, MEMORY, &stage).unwrap();
        let name = format!("k {k}, α {alpha}, over {over:?}");
        assert_near(&name, &all(&expanded.queries), &numbers(&case["queries"]));
        assert_eq!(expanded.gallery.is_some(), over == ExpandOver::All);
        if let Some(gallery) = &expanded.gallery {
            assert_near(&format!("{name}, gallery"), &all(gallery), &numbers(&case["gallery"]));
        }
        let outcome = scored(None, &Request { expansion: Some(options), ..Request::default() });
        assert_scores(&name, outcome.scores(), &case["scores"]);
        assert_scores("plain", &outcome.plain, &golden["plain"]);
        // Re-ranking follows query expansion.
        let rerank = Some(RerankOptions { lambda: 1.0, ..RerankOptions::default() });
        let both = scored(None, &Request { expansion: Some(options), rerank, ..Request::default() });
        assert_eq!(both.scores().map, outcome.scores().map, "λ = 1 keeps the order");
    }
}

#[test]
fn an_image_is_no_neighbour_of_itself() {
    let golden = golden();
    let rows = embeddings(&golden["gallery"]);
    let stacked = Stacked::new(vec![&rows]).unwrap();
    let stage = Stage::new(&(), "", 0, "");
    for over in [ExpandOver::Gallery, ExpandOver::All] {
        let options = ExpansionOptions { k: 2, alpha: 0.0, over };
        let expanded = Expanded::new(context(), &stacked, (&rows, None), options, MEMORY, &stage).unwrap();
        let lists =
            Neighbours::new(context(), &rows, &rows, MEMORY).unwrap().nearest(0..rows.len(), 2).unwrap();
        let terms = lists.iter().enumerate().map(|(row, near)| {
            assert_eq!(near[0].index, row);
            vec![(row, 1.0), (near[1].index, 1.0)]
        });
        let wanted = Combined::new(&rows, terms.collect());
        assert_eq!(all(&expanded.queries), all(&wanted));
        assert_eq!(
            expanded.gallery.map(|gallery| all(&gallery)),
            (over == ExpandOver::All).then(|| all(&wanted))
        );
    }
    for (k, alpha) in [(0, 1.0), (5000, 1.0), (2, -1.0), (2, f64::NAN)] {
        let options = ExpansionOptions { k, alpha, over: ExpandOver::Gallery };
        assert!(matches!(options.check(), Err(Error::Usage(_))), "{k} {alpha}");
    }
}

#[test]
fn tracklets_equal_numpy() {
    let golden = golden();
    let case = &golden["tracklets"];
    let tracklets: Vec<(String, Vec<usize>)> = serde_json::from_value(case["tracklets"].clone()).unwrap();
    let rows = embeddings(&golden["gallery"]);
    let terms = tracklets.iter().map(|(_, rows)| rows.iter().map(|&row| (row, 1.0)).collect()).collect();
    assert_near("means", &all(&Combined::new(&rows, terms)), &numbers(&case["means"]));

    let mut table = "path,person,camera,tracklet\n".to_string();
    let mut add = |path: &str, tracklet: &str| {
        let label = Label::from_market_name(path).unwrap();
        let Person::Known(person) = label.person else { panic!("{path}") };
        table.push_str(&format!("{path},{person},{},{tracklet}\n", label.camera));
    };
    for (i, path) in embeddings(&golden["queries"]).paths.iter().enumerate() {
        add(path, &format!("q{i}"));
    }
    for (name, members) in &tracklets {
        members.iter().for_each(|&row| add(&rows.paths[row], name));
    }
    let request = Request { group_by: Some(GroupBy::Tracklet), ..Request::default() };
    let outcome = scored(Some(&table), &request);
    assert_scores("tracklets", &outcome.plain, &case["scores"]);
    assert_eq!((outcome.queries, outcome.gallery.images), (11, tracklets.len()));
}

#[test]
fn aligned_distances_equal_numpy() {
    let golden = golden();
    let case = &golden["aligned"];
    let count = case["parts"].as_u64().unwrap() as usize;
    let (queries, gallery) = (embeddings(&golden["queries"]), embeddings(&golden["gallery"]));
    let (query_parts, gallery_parts) = (Parts::new(&queries, count), Parts::new(&gallery, count));
    let mut whole = Neighbours::new(context(), &queries, &gallery, MEMORY).unwrap();
    let mut parts = Neighbours::new(context(), &query_parts, &gallery_parts, MEMORY).unwrap();
    let mut aligned = Aligned::new(&mut whole, &mut parts, count);
    let wanted = numbers(&case["distances"]);
    // Any range of queries gives the same rows.
    for range in [0..11, 3..4, 5..11] {
        let got: Vec<f64> = aligned.rows(range.clone()).unwrap().into_iter().map(f64::from).collect();
        assert_near(&format!("{range:?}"), &got, &wanted[range.start * 37..range.end * 37]);
    }
    let outcome = scored(None, &Request { distance: Metric::Aligned, ..Request::default() });
    assert_scores("aligned", &outcome.plain, &case["scores"]);
}

#[test]
fn spatio_temporal_scores_equal_numpy() {
    let golden = golden();
    let train: Vec<(u32, u32, u64)> = serde_json::from_value(golden["train"].clone()).unwrap();
    let images = train
        .into_iter()
        .map(|(person, camera, frame)| (Label { person: Person::Known(person), camera }, frame));
    let (queries, gallery) = (embeddings(&golden["queries"]), embeddings(&golden["gallery"]));
    let squared = Neighbours::new(context(), &queries, &gallery, MEMORY).unwrap().distances(0..11).unwrap();
    for case in golden["spatio_temporal"].as_array().unwrap() {
        let model = SpatioTemporal::fit(images.clone(), case["bin"].as_u64().unwrap()).unwrap();
        let (mut probabilities, mut scores) = (Vec::new(), Vec::new());
        for (q, (_, camera, frame)) in about(&golden["queries"]).into_iter().enumerate() {
            for (g, (_, other, shown)) in about(&golden["gallery"]).into_iter().enumerate() {
                let probability = model.probability((camera, frame), (other, shown));
                probabilities.push(probability);
                scores.push((-f64::from(distance(squared[q * 37 + g], probability))).exp() / 3.0);
            }
        }
        assert!(probabilities.iter().any(|&p| p > 0.0) && probabilities.contains(&0.0));
        assert_near("probabilities", &probabilities, &numbers(&case["probabilities"]));
        assert_near("scores", &scores, &numbers(&case["values"]));
    }
}
