//! Scores, verification and re-ranking against numpy (tools/check_metrics.py) and invariants.

use approx::assert_abs_diff_eq;
use lat_wgpu::datasets::labels::{Label, Person};
use lat_wgpu::error::{Error, Result};
use lat_wgpu::observer::{Observer, Stage};
use lat_wgpu::retrieval::distances::{DistanceRows, visit};
use lat_wgpu::retrieval::metrics::{
    AveragePrecision, Protocol, RANKS, Retrieval, Rules, Scorer, Scores, score,
};
use lat_wgpu::retrieval::rerank::{RerankOptions, Reranked};
use lat_wgpu::retrieval::verification::{Report, Verification};
use lat_wgpu::rng;
use serde_json::Value;
use std::ops::Range;

/// Largest difference between figures.
const TOLERANCE: f64 = 1e-12;

/// A matrix in memory.
struct Matrix {
    rows: Vec<Vec<f32>>,
    columns: usize,
}

impl Matrix {
    /// Squared Euclidean distances between vectors of small integers: exact.
    fn between(queries: &[Vec<f32>], gallery: &[Vec<f32>]) -> Matrix {
        let distance = |a: &Vec<f32>, b: &Vec<f32>| a.iter().zip(b).map(|(x, y)| (x - y) * (x - y)).sum();
        let rows = queries.iter().map(|q| gallery.iter().map(|g| distance(q, g)).collect()).collect();
        Matrix { rows, columns: gallery.len() }
    }
}

impl DistanceRows for Matrix {
    fn queries(&self) -> usize {
        self.rows.len()
    }

    fn gallery(&self) -> usize {
        self.columns
    }

    fn rows(&mut self, queries: Range<usize>) -> Result<Vec<f32>> {
        Ok(self.rows[queries].concat())
    }
}

/// Images of a golden or a random case.
#[derive(Clone)]
struct Side {
    vectors: Vec<Vec<f32>>,
    labels: Vec<Label>,
}

/// Market-1501's numbering: -1 is junk, 0 a distractor.
fn label(person: i64, camera: u32) -> Label {
    let person = match person {
        -1 => Person::Junk,
        0 => Person::Distractor,
        number => Person::Known(u32::try_from(number).unwrap()),
    };
    Label { person, camera }
}

fn vectors(value: &Value) -> Vec<Vec<f32>> {
    serde_json::from_value(value.clone()).unwrap()
}

fn side(value: &Value) -> Side {
    let persons: Vec<i64> = serde_json::from_value(value["persons"].clone()).unwrap();
    let cameras: Vec<u32> = serde_json::from_value(value["cameras"].clone()).unwrap();
    let labels = persons.into_iter().zip(cameras).map(|(person, camera)| label(person, camera)).collect();
    Side { vectors: vectors(&value["vectors"]), labels }
}

fn golden() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/metrics.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn rules(variant: &Value) -> Rules {
    Rules {
        protocol: match variant[0].as_str().unwrap() {
            "standard" => Protocol::Standard,
            "released-code" => Protocol::ReleasedCode,
            "cuhk03-single-shot" => Protocol::Cuhk03SingleShot,
            other => panic!("{other}"),
        },
        average_precision: match variant[1].as_str().unwrap() {
            "plain" => AveragePrecision::Plain,
            "trapezoid" => AveragePrecision::Trapezoid,
            other => panic!("{other}"),
        },
        ignore_cameras: variant[2].as_bool().unwrap(),
        ..Rules::default()
    }
}

fn scores(queries: &Side, gallery: &Side, rules: Rules) -> Result<Scores> {
    let retrieval = Retrieval { queries: &queries.labels, gallery: &gallery.labels, rules };
    score(retrieval, &mut Matrix::between(&queries.vectors, &gallery.vectors))
}

/// All six means.
fn means(scores: &Scores) -> Vec<f64> {
    scores.ranks.iter().copied().chain([scores.map, scores.minp]).collect()
}

fn verify(queries: &Side, gallery: &Side, rules: Rules, target: Option<f64>) -> Option<Report> {
    let retrieval = Retrieval { queries: &queries.labels, gallery: &gallery.labels, rules };
    let mut verification = Verification::new(retrieval);
    visit(&mut Matrix::between(&queries.vectors, &gallery.vectors), |range, rows| {
        verification.add(range, rows);
        Ok(())
    })
    .unwrap();
    verification.finish(target)
}

/// Random integer embeddings, and labels with persons from `lowest` to 5 and three cameras.
fn random_side(stream: u64, count: u64, lowest: i64) -> Side {
    let number = |use_of: u64, index: u64, below: u64| u64::from(rng::bits(stream, use_of, index)) % below;
    let vectors = (0..count).map(|i| (0..3).map(|d| number(0, 3 * i + d, 9) as f32).collect()).collect();
    let persons = (0..count).map(|i| lowest + number(1, i, (6 - lowest) as u64) as i64);
    let labels = persons.zip(0..).map(|(person, i)| label(person, 1 + number(2, i, 3) as u32)).collect();
    Side { vectors, labels }
}

/// Every protocol with every definition of AP.
fn all_rules() -> Vec<Rules> {
    let golden = golden();
    golden["variants"].as_object().unwrap().values().map(rules).collect()
}

#[test]
fn scores_agree_with_numpy() {
    let golden = golden();
    let (mut compared, mut refused) = (0, 0);
    for (number, case) in golden["cases"].as_array().unwrap().iter().enumerate() {
        let gallery = side(&case["gallery"]);
        let query_is_gallery = case["queries"].is_null();
        let queries = if query_is_gallery { gallery.clone() } else { side(&case["queries"]) };
        for (name, variant) in golden["variants"].as_object().unwrap() {
            let wanted = &case["results"][name];
            let got = scores(&queries, &gallery, Rules { query_is_gallery, ..rules(variant) });
            let Some(wanted_means) = wanted["means"].as_array() else {
                assert!(matches!(got, Err(Error::Data(_))), "gallery {number}, {name}");
                refused += 1;
                continue;
            };
            let got = got.unwrap();
            for (got, wanted) in means(&got).into_iter().zip(wanted_means) {
                assert_abs_diff_eq!(got, wanted.as_f64().unwrap(), epsilon = TOLERANCE);
            }
            assert_eq!(got.valid_queries, wanted["valid_queries"], "gallery {number}, {name}");
            let dropped: serde_json::Map<String, Value> =
                got.dropped.iter().map(|(reason, &count)| (reason.key().to_string(), count.into())).collect();
            assert_eq!(Value::Object(dropped), wanted["dropped"], "gallery {number}, {name}");
            compared += 1;
        }
    }
    assert!(compared > 1200 && refused > 20, "{compared} compared, {refused} without a valid query");
}

#[test]
fn verification_agrees_with_numpy() {
    let golden = golden();
    let mut compared = 0;
    for case in golden["cases"].as_array().unwrap() {
        let gallery = side(&case["gallery"]);
        let query_is_gallery = case["queries"].is_null();
        let queries = if query_is_gallery { gallery.clone() } else { side(&case["queries"]) };
        let rules = Rules { query_is_gallery, ..Rules::default() };
        let got = verify(&queries, &gallery, rules, Some(0.2));
        let wanted = &case["verification"];
        assert_eq!(got.is_none(), wanted.is_null());
        let Some(got) = got else { continue };
        assert_eq!([got.same_pairs, got.different_pairs].as_slice(), wanted["pairs"].as_array().unwrap());
        assert_abs_diff_eq!(got.equal_error_rate, wanted["eer"].as_f64().unwrap(), epsilon = TOLERANCE);
        let points = got.operating_points.iter().chain(&got.target);
        for (point, wanted) in points.zip(wanted["tpr"].as_array().unwrap()) {
            assert_abs_diff_eq!(point.true_positive_rate(), wanted.as_f64().unwrap(), epsilon = TOLERANCE);
            assert!(point.reached.is_none_or(|reached| reached.false_positive_rate <= point.wanted));
        }
        assert_eq!(got.histogram.same.iter().sum::<u64>(), got.same_pairs);
        assert_eq!(got.histogram.different.iter().sum::<u64>(), got.different_pairs);
        compared += 1;
    }
    assert!(compared > 100, "{compared}");
}

#[test]
fn re_ranking_equals_the_dense_algorithm() {
    let golden = golden();
    for case in golden["rerank"].as_array().unwrap() {
        let vectors = vectors(&case["vectors"]);
        let count = |key: &str| case[key].as_u64().unwrap() as usize;
        let (queries, gallery) = (count("queries"), count("gallery"));
        let options = &case["options"];
        let options = RerankOptions {
            k1: options[0].as_u64().unwrap() as usize,
            k2: options[1].as_u64().unwrap() as usize,
            lambda: options[2].as_f64().unwrap(),
        };
        let mut original = Matrix::between(&vectors, &vectors);
        let mut reranked =
            Reranked::new(&mut original, queries, gallery, options, &Stage::new(&(), "", 0, "")).unwrap();
        assert_eq!((reranked.queries(), reranked.gallery()), (queries, vectors.len() - gallery));
        let rounded = reranked.rows(0..queries).unwrap();
        let encoding = reranked.into_encoding();
        for (query, wanted) in case["rows"].as_array().unwrap().iter().enumerate() {
            let row = encoding.row(query, &original.rows[query]);
            let wanted: Vec<f64> = serde_json::from_value(wanted.clone()).unwrap();
            assert_eq!(row.len(), wanted.len());
            for (column, (&got, wanted)) in row.iter().zip(wanted).enumerate() {
                assert_abs_diff_eq!(got, wanted, epsilon = TOLERANCE);
                assert_eq!(rounded[query * row.len() + column], got as f32);
            }
        }
    }
}

#[test]
fn scores_an_obvious_ranking() {
    let side = |images: &[(f32, i64, u32)]| Side {
        vectors: images.iter().map(|&(x, ..)| vec![x]).collect(),
        labels: images.iter().map(|&(_, person, camera)| label(person, camera)).collect(),
    };
    let gallery = side(&[
        (0., 1, 1), // same person and camera as the first query: left out for it
        (1., -1, 2),
        (2., 0, 2),
        (3., 1, 2),
        (3., 2, 2), // as far as the previous one
        (4., 1, 3),
        (9., 3, 1),
    ]);
    let queries = side(&[
        (0., 1, 1), // 0, 1, 2, 1, 3: matches at ranks 2 and 4
        (3., 2, 1), // 1, 2 (a tie in the gallery's order), ...: a match at rank 2
        (8., 3, 2), // a match at rank 1
        (5., 3, 1), // its only match is by the same camera
        (5., 4, 1),
        (2., 0, 1),
        (2., -1, 1),
    ]);
    let got = scores(&queries, &gallery, Rules::default()).unwrap();
    let wanted = [1. / 3., 1., 1., 1., 2. / 3., (0.5 + 0.5 + 1.) / 3.];
    for (got, wanted) in means(&got).into_iter().zip(wanted) {
        assert_abs_diff_eq!(got, wanted, epsilon = TOLERANCE);
    }
    assert_eq!(got.valid_queries, 3);
    let dropped: Vec<_> = got.dropped.iter().map(|(reason, &count)| (reason.key(), count)).collect();
    assert_eq!(dropped, [("junk", 1), ("distractor", 1), ("not_in_gallery", 1), ("same_camera_only", 1)]);

    // Rank 2: (0 + 1/2) / 2; rank 4: (1/3 + 2/4) / 2.
    let trapezoid = Rules { average_precision: AveragePrecision::Trapezoid, ..Rules::default() };
    let map = scores(&queries, &gallery, trapezoid).unwrap().map;
    assert_abs_diff_eq!(map, ((0.25 + 5. / 12.) / 2. + 0.25 + 1.) / 3., epsilon = TOLERANCE);

    // 1, -1, 0, 1, 2, 1, 3: ranks 1, 4, 6; the fourth: 1, 1, 2, 0, -1, 3.
    let released = Rules { protocol: Protocol::ReleasedCode, ..Rules::default() };
    let got = scores(&queries, &gallery, released).unwrap();
    assert_eq!(got.valid_queries, 4, "the same camera counts");
    let map = ((1. + 2. / 4. + 3. / 6.) / 3. + 1. / 2. + 1. + 1. / 6.) / 4.;
    assert_abs_diff_eq!(got.map, map, epsilon = TOLERANCE);
}

#[test]
fn released_code_computes_ap_over_ten_ranks() {
    // The match is eleventh: AP is 0, but rank-20 counts it.
    let queries = Side { vectors: vec![vec![0.]], labels: vec![label(1, 1)] };
    let gallery = Side {
        vectors: (0..11).map(|i| vec![i as f32]).collect(),
        labels: (0..11).map(|i| label(if i == 10 { 1 } else { 2 }, 1)).collect(),
    };
    let released = Rules { protocol: Protocol::ReleasedCode, ..Rules::default() };
    let got = scores(&queries, &gallery, released).unwrap();
    assert_eq!((got.ranks, got.map, got.minp), ([0., 0., 0., 1.], 0., 1. / 11.));
}

#[test]
fn a_perfect_ranking_scores_one() {
    // Persons are far apart; all images of a person are at one point.
    let side = |shift: f32| Side {
        vectors: (0..40).map(|i| vec![(i % 8) as f32 * 100. + shift, (i / 8) as f32]).collect(),
        labels: (0..40).map(|i| label(1 + i64::from(i % 8), 1 + (i / 8) as u32)).collect(),
    };
    for rules in all_rules() {
        let got = scores(&side(0.), &side(1.), rules).unwrap();
        assert_eq!(got.valid_queries, 40);
        for mean in means(&got) {
            assert_abs_diff_eq!(mean, 1., epsilon = TOLERANCE);
        }
        let own = side(0.);
        let got = scores(&own, &own, Rules { query_is_gallery: true, ..rules }).unwrap();
        assert_abs_diff_eq!(got.map, 1., epsilon = TOLERANCE);
        let report = verify(&own, &own, Rules { query_is_gallery: true, ..rules }, Some(0.)).unwrap();
        assert_eq!(report.equal_error_rate, 0.);
        let reached = report.target.unwrap().reached.unwrap();
        assert_eq!((reached.true_positive_rate, reached.false_positive_rate), (1., 0.));
        assert!((16.0..9216.0).contains(&reached.threshold), "{}", reached.threshold);
    }
}

#[test]
fn order_of_a_gallery_without_ties_does_not_matter() {
    for stream in 0..20 {
        let queries = random_side(stream, 9, 1);
        let mut gallery = random_side(100 + stream, 40, -1);
        // Each image has its own coordinate, so no two are equally far from a query.
        for (i, vector) in gallery.vectors.iter_mut().enumerate() {
            vector.push((i as f32) / 64.);
        }
        let mut padded = queries.clone();
        padded.vectors.iter_mut().for_each(|vector| vector.push(-1.));
        let mut permuted = gallery.clone();
        let mut order: Vec<usize> = (0..40).collect();
        order.sort_by_key(|&i| rng::bits(stream, 7, i as u64));
        permuted.vectors = order.iter().map(|&i| gallery.vectors[i].clone()).collect();
        permuted.labels = order.iter().map(|&i| gallery.labels[i]).collect();
        for rules in all_rules().into_iter().filter(|rules| rules.protocol != Protocol::Cuhk03SingleShot) {
            let [one, other] = [&gallery, &permuted].map(|gallery| scores(&padded, gallery, rules).unwrap());
            assert_eq!(one, other);
        }
    }
}

#[test]
fn junk_changes_nothing_and_trapezoid_is_never_larger() {
    for stream in 0..50 {
        let queries = random_side(stream, 9, 1);
        let gallery = random_side(200 + stream, 30, -1);
        let mut clean = gallery.clone();
        let kept: Vec<usize> = (0..30).filter(|&i| gallery.labels[i].person != Person::Junk).collect();
        clean.vectors = kept.iter().map(|&i| gallery.vectors[i].clone()).collect();
        clean.labels = kept.iter().map(|&i| gallery.labels[i]).collect();
        let [plain, trapezoid] = [AveragePrecision::Plain, AveragePrecision::Trapezoid].map(|kind| {
            let rules = Rules { average_precision: kind, ..Rules::default() };
            let scores_with_junk = scores(&queries, &gallery, rules).unwrap();
            assert_eq!(scores_with_junk, scores(&queries, &clean, rules).unwrap());
            scores_with_junk
        });
        assert!(trapezoid.map <= plain.map && trapezoid.map >= plain.map / 2.);
        assert_eq!(trapezoid.ranks, plain.ranks);
        // A longer list never finds fewer matches.
        assert!(plain.ranks.is_sorted());
        let together = Rules { ignore_cameras: true, ..Rules::default() };
        assert!(scores(&queries, &gallery, together).unwrap().valid_queries >= plain.valid_queries);
    }
}

#[test]
fn single_shot_is_deterministic() {
    // With one image per person, every draw is the gallery itself.
    let queries = random_side(1, 5, 1);
    let gallery =
        Side { vectors: random_side(2, 5, 1).vectors, labels: (0..5).map(|i| label(1 + i, 9)).collect() };
    let single = Rules { protocol: Protocol::Cuhk03SingleShot, ..Rules::default() };
    let standard = scores(&queries, &gallery, Rules::default()).unwrap();
    let drawn = scores(&queries, &gallery, single).unwrap();
    for (one, other) in means(&standard).into_iter().zip(means(&drawn)) {
        assert_abs_diff_eq!(one, other, epsilon = TOLERANCE);
    }
    // Otherwise the scores follow from the seed.
    let gallery = random_side(3, 30, 1);
    let with_seed = |seed| scores(&queries, &gallery, Rules { seed, ..single }).unwrap();
    assert_eq!(with_seed(1), with_seed(1));
    assert_ne!(with_seed(1), with_seed(2));
}

#[test]
fn chunks_make_no_difference() {
    let (queries, gallery) = (random_side(5, 20, 0), random_side(6, 50, -1));
    let retrieval = Retrieval { queries: &queries.labels, gallery: &gallery.labels, rules: Rules::default() };
    let matrix = Matrix::between(&queries.vectors, &gallery.vectors);
    let mut scorer = Scorer::new(retrieval);
    for (query, row) in matrix.rows.iter().enumerate() {
        scorer.add(query..query + 1, row);
    }
    assert_eq!(scorer.finish().unwrap(), scores(&queries, &gallery, Rules::default()).unwrap());
}

#[test]
fn no_match_is_reported_with_its_reason() {
    let queries = Side { vectors: vec![vec![0.]; 3], labels: vec![label(1, 1), label(2, 1), label(-1, 1)] };
    let gallery = Side { vectors: vec![vec![0.]], labels: vec![label(1, 1)] };
    let message = scores(&queries, &gallery, Rules::default()).unwrap_err().to_string();
    for words in
        ["1 junk", "1 not in the gallery", "1 in the gallery by the same camera only", "--ignore-cameras"]
    {
        assert!(message.contains(words), "{words} in: {message}");
    }
    let none = Side { vectors: vec![], labels: vec![] };
    assert!(matches!(scores(&queries, &none, Rules::default()), Err(Error::Data(_))));
    assert!(matches!(scores(&none, &gallery, Rules::default()), Err(Error::Data(_))));
    assert!(verify(&queries, &gallery, Rules::default(), None).is_none(), "no pair of the same person");
    assert_eq!(RANKS, [1, 5, 10, 20]);
}

#[test]
fn thresholds_keep_the_target_rate() {
    let (queries, gallery) = (random_side(8, 60, 1), random_side(9, 300, -1));
    for target in [0., 0.01, 0.1, 0.5, 1.] {
        let report = verify(&queries, &gallery, Rules::default(), Some(target)).unwrap();
        let point = report.target.unwrap();
        let Some(reached) = point.reached else { continue };
        assert!(reached.false_positive_rate <= target);
        // The curve rises to (1, 1), and few of its points are reported.
        assert!(report.roc.len() <= 402 && report.roc.is_sorted_by(|a, b| a.threshold < b.threshold));
        let last = report.roc.last().unwrap();
        assert_eq!((last.false_positive_rate, last.true_positive_rate), (1., 1.));
        if target == 1. {
            assert_eq!(reached.true_positive_rate, 1.);
        }
    }
}

/// Asks to stop.
struct Stopped;

impl Observer for Stopped {
    fn signal(&self) -> Option<u8> {
        Some(2)
    }
}

#[test]
fn impossible_re_ranking_options_are_refused() {
    let mut matrix = Matrix::between(&[vec![0.]], &[vec![0.]]);
    for (k1, k2, lambda, words) in
        [(0, 6, 0.3, "k1"), (20, 0, 0.3, "k2"), (20, 6, 1.5, "λ"), (20, 6, f64::NAN, "λ")]
    {
        let options = RerankOptions { k1, k2, lambda };
        let error = Reranked::new(&mut matrix, 1, 0, options, &Stage::new(&(), "", 0, "")).err().unwrap();
        assert!(matches!(&error, Error::Usage(text) if text.contains(words)), "{error}");
    }
    // An interruption is passed on.
    let stop = &Stage::new(&Stopped, "", 0, "nothing was written");
    let error = Reranked::new(&mut matrix, 1, 0, RerankOptions::default(), stop).err().unwrap();
    assert!(matches!(error, Error::Interrupted { .. }));
}
