//! `lat-wgpu cluster`, and its parts against scikit-learn and numpy (tools/make_cluster_goldens.py).

mod common;
#[path = "common/program.rs"]
mod program;

use approx::assert_abs_diff_eq;
use common::context;
use lat_wgpu::embeddings::Embeddings;
use lat_wgpu::error::Error;
use lat_wgpu::observer::Stage;
use lat_wgpu::retrieval::dbscan::{self, Clusters, RADII};
use lat_wgpu::retrieval::jaccard::{Jaccard, JaccardOptions};
use lat_wgpu::retrieval::neighbours::Neighbours;
use lat_wgpu::rng;
use program::{expect, write_points};
use serde_json::Value;
use std::path::Path;

/// Largest difference of a distance and of a silhouette. Distances of embeddings are computed in f32.
const TOLERANCE: f64 = 1e-6;

fn golden() -> Value {
    serde_json::from_str(include_str!("goldens/cluster.json")).unwrap()
}

/// Labels as scikit-learn has them: -1 for outliers.
fn labels(clusters: &Clusters) -> Vec<i64> {
    clusters.labels.iter().map(|label| label.map_or(-1, i64::from)).collect()
}

#[test]
fn clusters_of_graphs_equal_those_of_scikit_learn() {
    let golden = golden();
    let graphs = golden["graphs"].as_array().unwrap();
    let mut border = 0;
    for graph in graphs {
        let near: Vec<Vec<u32>> = serde_json::from_value(graph["near"].clone()).unwrap();
        let wanted: Vec<i64> = serde_json::from_value(graph["labels"].clone()).unwrap();
        let min_samples = graph["min_samples"].as_u64().unwrap() as usize;
        assert_eq!(labels(&dbscan::dbscan(&near, min_samples)), wanted, "{graph}");
        border +=
            near.iter().zip(&wanted).filter(|(near, label)| near.len() < min_samples && **label >= 0).count();
    }
    assert!(graphs.len() == 40 && border > 20, "{border} border images");
}

#[test]
fn clusters_of_galleries_equal_those_of_scikit_learn() {
    for (number, gallery) in golden()["galleries"].as_array().unwrap().iter().enumerate() {
        let rows: Vec<Vec<f32>> = serde_json::from_value(gallery["rows"].clone()).unwrap();
        let wanted: Vec<Vec<f64>> = serde_json::from_value(gallery["distances"].clone()).unwrap();
        let paths = (0..rows.len()).map(|row| format!("{row}.jpg")).collect();
        let embeddings = Embeddings { paths, dim: rows[0].len(), rows: rows.concat() };
        let count = |key: &str| gallery[key].as_u64().unwrap() as usize;
        let options = JaccardOptions { k1: count("k1"), k2: count("k2") };
        let stage = Stage::new(&(), "", 0, "");
        let mut original = Neighbours::new(context(), &embeddings, &embeddings, 64 << 20).unwrap();
        let distances = Jaccard::new(&mut original, options, None, &stage).unwrap();
        let mut largest: f64 = 0.0;
        for (image, wanted) in wanted.iter().enumerate() {
            let row = distances.row(image);
            assert!(row.is_sorted_by_key(|&(other, _)| other) && row.contains(&(image as u32, 0.0)));
            let mut dense = vec![1.0; wanted.len()];
            row.iter().for_each(|&(other, distance)| dense[other as usize] = distance);
            for (got, wanted) in dense.iter().zip(wanted) {
                largest = largest.max((got - wanted).abs());
            }
        }
        println!("gallery {number}: {:.1} % of the tolerance", 100.0 * largest / TOLERANCE);
        assert!(largest < TOLERANCE, "gallery {number}: {largest}");
        let tried = dbscan::try_radii(&distances, 4, &stage).unwrap();
        for ((choice, eps), wanted) in tried.iter().zip(RADII).zip(gallery["tried"].as_array().unwrap()) {
            assert_eq!((choice.eps, wanted["eps"].as_f64()), (eps, Some(eps)));
            let wanted_labels: Vec<i64> = serde_json::from_value(wanted["labels"].clone()).unwrap();
            assert_eq!(labels(&choice.clusters), wanted_labels, "gallery {number}, eps {eps}");
            assert_eq!(choice.silhouette.is_some(), !wanted["silhouette"].is_null());
            if let Some(silhouette) = choice.silhouette {
                assert_abs_diff_eq!(silhouette, wanted["silhouette"].as_f64().unwrap(), epsilon = TOLERANCE);
            }
            assert_eq!(dbscan::cluster(&distances, eps, 4, &stage).unwrap(), choice.clusters);
        }
    }
    let none = Clusters { labels: vec![None; 3], count: 0 };
    let choice = dbscan::Choice { eps: 0.3, clusters: none, silhouette: None };
    assert!(matches!(dbscan::choose(vec![choice]), Err(Error::Data(_))));
}

/// Three persons by two cameras, ten images each, and one image apart.
fn gallery(folder: &Path) {
    let mut names = Vec::new();
    for person in 1..=3 {
        for image in 0..10 {
            let noise = (rng::bits(3, person, image) % 100) as f32 / 400.0;
            let name = format!("{person:04}_c{}s1_{image:06}_00.jpg", 1 + image % 2);
            names.push((10.0 * person as f32 + noise, name));
        }
    }
    names.push((200.0, "apart.jpg".to_string()));
    let points: Vec<(f32, &str)> = names.iter().map(|(x, name)| (*x, name.as_str())).collect();
    write_points(&folder.join("g.npy"), &points);
}

#[test]
fn persons_become_groups() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    gallery(here);
    let run = ["cluster", "--gallery", "g.npy", "--k1", "10", "--k2", "1", "-o", "groups.csv"];
    let (text, stderr) = expect(0, here, &run);
    assert!(
        text.contains("3 groups of 30 images, 1 outliers") && stderr.contains("wrote groups.csv"),
        "{text}{stderr}"
    );
    let table = std::fs::read_to_string(here.join("groups.csv")).unwrap();
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!((lines.len(), lines[0]), (32, "path,group,person,camera"));
    assert_eq!(lines[1], "0001_c1s1_000000_00.jpg,0,0,1");
    assert_eq!(lines[12], "0002_c2s1_000001_00.jpg,1,1,2");
    assert_eq!(lines[31], "apart.jpg,-1,-1,unknown");

    let (json, _) = expect(0, here, &[&run[..], &["--json", "-", "--eps", "0.5"]].concat());
    let got: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&got["groups"], &got["outliers"], &got["eps"]), (&3.into(), &1.into(), &0.5.into()));
    assert_eq!((&got["sizes"], &got["tried"]), (&serde_json::json!([10, 10, 10]), &serde_json::json!([])));

    expect(0, here, &[&run[..], &["--html", "groups.html", "--lists", "2"]].concat());
    let page = std::fs::read_to_string(here.join("groups.html")).unwrap();
    assert!(page.contains("group 0, 10 images: 0001_c1s1_000000_00.jpg"));
    assert!(page.contains("The 2 largest of 3 groups"));

    // The images in the table's folder can train.
    for line in &lines[1..] {
        let image = image::RgbImage::from_pixel(4, 8, image::Rgb([9, 9, 9]));
        image.save(here.join(line.split(',').next().unwrap()).with_extension("jpg")).unwrap();
    }
    let (text, _) = expect(0, here, &["data", "groups.csv"]);
    assert!(text.contains("query           3       30        2") && text.contains("1 junk"), "{text}");
}

#[test]
fn impossible_clusterings_are_reported() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    gallery(here);
    let run = ["cluster", "--gallery", "g.npy", "-o", "groups.csv"];
    for (code, more, words) in [
        (2, &["--eps", "1"][..], "from 0 to below 1"),
        (2, &["--eps", "some"], "auto"),
        (2, &["--k1", "1"], "k1 must be 2"),
        (1, &["--eps", "0.5", "--min-samples", "20"], "0 clusters"),
        (1, &["--min-samples", "20"], "no radius gives two clusters"),
    ] {
        let (_, stderr) = expect(code, here, &[&run[..], more].concat());
        assert!(stderr.contains(words), "{stderr}");
    }
    assert!(!here.join("groups.csv").exists());
}
