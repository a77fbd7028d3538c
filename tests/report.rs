//! The page of `lat-wgpu eval --html` and its data.

#[path = "common/program.rs"]
mod program;

use lat_wgpu::datasets::labels::{Label, Person};
use lat_wgpu::retrieval::metrics::{CURVE_DEPTH, Protocol, RANKS, Retrieval, Rules, Scorer};
use program::{TINY, expect, finish, program, write_points};

/// Queries, a gallery, their labels and small images, one with a hostile name.
fn embedded() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let queries = [(0., "a.png"), (5., "<b>&\"'.png"), (9., "z.png")];
    let gallery = [(1., "c.png"), (2., "d.png"), (3., "e.png"), (4., "../out.png"), (8., "f.png")];
    write_points(&here.join("q.npy"), &queries);
    write_points(&here.join("g.npy"), &gallery);
    for (place, rows) in [("queries", &queries[..]), ("gallery", &gallery[..])] {
        std::fs::create_dir(here.join(place)).unwrap();
        for (x, name) in rows {
            let colour = image::Rgb([(*x * 25.) as u8, 90, 160]);
            image::RgbImage::from_pixel(10, 20, colour).save(here.join(place).join(name)).unwrap();
        }
    }
    let table = "path,person,camera\na.png,anna,door\n\"<b>&\"\"'.png\",bob,door\nz.png,zoe,door\nc.png,bob,hall\n\
                 d.png,anna,hall\ne.png,anna,door\n../out.png,bob,hall\nf.png,0000,yard\n";
    std::fs::write(here.join("l.csv"), table).unwrap();
    folder
}

const FILES: [&str; 7] =
    ["eval", "--query-embeddings", "q.npy", "--gallery-embeddings", "g.npy", "--labels", "l.csv"];

/// Text of each list, worst first.
fn lists(page: &str) -> Vec<&str> {
    page.split("<article ").skip(1).collect()
}

#[test]
fn a_page_of_embeddings_shows_the_lists() {
    let folder = embedded();
    let here = folder.path();
    let more = ["--html", "r.html", "--images", "queries", "--images", "gallery", "--fpr", "0.5"];
    let (text, stderr) = expect(0, here, &[&FILES[..], &more].concat());
    assert!(text.contains("mAP") && stderr.contains("wrote r.html"), "{text}{stderr}");
    let page = std::fs::read_to_string(here.join("r.html")).unwrap();
    let lists = lists(&page);
    // bob: d² 1 (out), 9 (f), 4 (e), 9 (d), 16 (c), so ranks 1 and 5. anna: e is by her own camera, so c, d: rank 2.
    assert_eq!(lists.len(), 2);
    assert!(lists[0].contains("<bdi>a.png</bdi>") && lists[0].contains("AP 50.00\u{a0}%"), "{}", lists[0]);
    assert!(
        lists[1].contains("&#60;b&#62;&#38;&#34;&#39;.png") && lists[1].contains("AP 70.00\u{a0}%"),
        "{}",
        lists[1]
    );
    assert!(!lists[0].contains("e.png"), "the query's own camera is left out");
    assert_eq!(lists[1].matches("✓ right").count(), 2);
    let places: Vec<usize> = ["c.png", "d.png", "out.png", "f.png"]
        .map(|name| lists[0].find(&format!("{name}\"")).unwrap_or(0))
        .to_vec();
    assert!(places[0] > 0 && places[0] < places[1], "{places:?}");
    assert!(lists[0].contains("person <bdi>bob</bdi>") && lists[0].contains("camera <bdi>hall</bdi>"));
    assert!(lists[0].contains("person <bdi>distractor</bdi>"));
    // A name outside the folder shows no image, although the file exists.
    assert!(here.join("out.png").exists());
    assert_eq!(page.matches("data:image/jpeg").count(), 4 + 5, "{page}");
    for words in [
        "Evaluation of q",
        "All 2 scored queries",
        "1 without a score",
        "9 inside the page",
        "not in --images",
        "equal error",
        "false positives up to 0.5",
        "id=\"operating\"",
    ] {
        assert!(page.contains(words), "{words}");
    }
}

#[test]
fn flags_limit_the_page() {
    let folder = embedded();
    let here = folder.path();
    let page = |more: &[&str]| {
        expect(0, here, &[&FILES[..], &["--html", "gallery/r.html", "--json", "s.json"], more].concat());
        std::fs::read_to_string(here.join("gallery/r.html")).unwrap()
    };
    let linked = page(&["--images", "queries", "--images", "gallery", "--thumbnails", "0", "--lists", "1"]);
    assert_eq!(lists(&linked).len(), 1);
    assert!(!linked.contains("data:image/jpeg"));
    assert!(linked.contains("src=\"../queries/a.png\"") && linked.contains("src=\"c.png\""), "{linked}");
    assert!(
        linked.contains("with the lowest average precision")
            && linked.contains("if their files are still where they were")
    );
    let without = page(&["--lists", "0", "--ignore-cameras"]);
    assert!(without.contains("There are no lists") && without.contains("cameras ignored"));
    // Names only, in re-ranked order.
    let names = page(&["--rerank", "--rerank-k1", "2", "--rerank-k2", "1"]);
    assert!(!names.contains("<img") && names.contains("no --images") && names.contains("not re-ranked"));
    assert!(names.contains("re-ranked distance") && names.contains("without it rank-1"));
    let released = page(&["--protocol", "released-code"]);
    assert!(released.contains("released-code inflates"));
}

#[test]
fn the_same_command_and_date_give_the_same_page() {
    let folder = embedded();
    let here = folder.path();
    let page = |date: &str| {
        let words = [&FILES[..], &["--html", "it's.html"]].concat();
        finish(0, program(here, &words).env("SOURCE_DATE_EPOCH", date));
        std::fs::read_to_string(here.join("it's.html")).unwrap()
    };
    let first = page("86399");
    let version = env!("CARGO_PKG_VERSION");
    assert!(first.contains(&format!("1970-01-01 23:59 UTC by lat-wgpu {version}</bdi>")), "{first}");
    assert!(first.contains("lat-wgpu eval --query-embeddings q.npy ") && first.contains("<dt>Adapter</dt>"));
    assert!(
        first.contains(r"--html &#39;it&#39;\&#39;&#39;s.html&#39;"),
        "the command is quoted for a shell"
    );
    assert_eq!(page("86399"), first);
    assert_eq!(page("86400"), first.replace("1970-01-01 23:59", "1970-01-02 00:00"));
}

#[test]
fn impossible_pages_are_refused_before_the_work() {
    let folder = embedded();
    let here = folder.path();
    for (code, more, words) in [
        (1, &["--html", "no/where.html"][..], "where.html"),
        (1, &["--html", "gallery"], "gallery"),
        (2, &["--images", "gallery"], "--html"),
        (1, &["--html", "r.html", "--images", "nowhere"], "nowhere"),
        (2, &["--html", "r.html", "--images", "a", "--images", "b", "--images", "c"], "twice"),
        (2, &["--html", "r.html", "--thumbnails", "many"], "--thumbnails"),
    ] {
        let (_, stderr) = expect(code, here, &[&FILES[..], more].concat());
        assert!(stderr.contains(words), "{words} in: {stderr}");
    }
    let model = ["eval", "--model", "m.safetensors", "--data", ".", "--data", ".", "--html", "r.html"];
    let (_, stderr) = expect(2, here, &model);
    assert!(stderr.contains("one data set"), "{stderr}");
    assert!(!here.join("r.html").exists());
}

#[test]
fn page_shows_the_curve_and_scores_of_single_queries() {
    let label = |person, camera| Label { person: Person::Known(person), camera };
    let queries = [label(1, 1), label(7, 1), label(2, 1)];
    let gallery: Vec<Label> =
        (0..60).map(|row| label(if row == 29 { 1 } else { 2 + u32::from(row == 0) }, 2)).collect();
    let distances: Vec<f32> = (0..60).map(|row| row as f32).collect();
    let rows = distances.repeat(3);
    let scores = |rules| {
        let mut scorer = Scorer::new(Retrieval { queries: &queries, gallery: &gallery, rules });
        scorer.add(0..3, &rows);
        scorer.finish().unwrap()
    };
    let got = scores(Rules::default());
    // The first query's match is at rank 30, the last one's first at rank 2; the second has none.
    assert_eq!(got.curve.len(), CURVE_DEPTH);
    assert_eq!((got.curve[0], got.curve[1], got.curve[28], got.curve[29]), (0., 0.5, 0.5, 1.0));
    assert_eq!(got.ranks, RANKS.map(|k| got.curve[k - 1]));
    let [Some(first), None, Some(last)] = got.average_precisions[..] else { panic!("{got:?}") };
    assert_eq!(first, 1. / 30.);
    assert_eq!((first + last) / 2., got.map);
    let drawn = scores(Rules { protocol: Protocol::Cuhk03SingleShot, ..Rules::default() });
    assert!(drawn.curve.is_sorted() && drawn.curve[2] == 1.0, "{:?}", &drawn.curve[..4]);
}

#[test]
fn search_writes_a_page() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    // `synth` needs an empty folder.
    expect(0, here, &["synth", ".", "--persons", "4", "--cameras", "3", "--images", "1"]);
    std::fs::copy(TINY, here.join("m.safetensors")).unwrap();
    let network = ["--model", "m.safetensors", "--heads", "2"];
    expect(0, here, &[&["embed"], &network[..], &["bounding_box_test", "--out", "g.npy"]].concat());
    let search =
        [&["search"], &network[..], &["--gallery", "g.npy", "--query", "query", "--top", "3"]].concat();
    let page = |more: &[&str]| {
        let (_, stderr) = expect(0, here, &[&search[..], &["--html", "r.html"], more].concat());
        assert!(stderr.contains("wrote r.html"), "{stderr}");
        std::fs::read_to_string(here.join("r.html")).unwrap()
    };
    let queries = std::fs::read_dir(here.join("query")).unwrap().count();
    let bare = page(&[]);
    assert_eq!(lists(&bare).len(), queries);
    assert_eq!(bare.matches("data:image/jpeg").count(), queries, "the queries' files are known");
    assert_eq!(bare.matches("class=\"unknown\"").count(), 3 * queries);
    assert!(bare.contains("no --images") && bare.contains("has no threshold") && bare.contains("as asked"));
    assert!(
        lists(&bare)[0].contains("person <bdi>2</bdi>") && lists(&bare)[0].contains("camera <bdi>1</bdi>")
    );

    // With a threshold that accepts some pairs.
    let threshold = ["--data", ".", "--fpr", "0.5", "--store-threshold"];
    expect(0, here, &[&["eval"], &network[..], &threshold].concat());
    let shown = page(&["--images", "bounding_box_test", "--lists", "1", "--filter", "camera=2,3"]);
    assert_eq!(lists(&shown).len(), 1);
    assert_eq!(shown.matches("data:image/jpeg").count(), 4);
    assert_eq!(shown.matches("✓ likely the same").count() + shown.matches("✗ likely different").count(), 3);
    assert!(shown.contains("same person up to a squared distance of"));
    assert!(shown.contains(&format!("The first 1 of {queries} queries")), "{shown}");

    for (code, more, words) in [
        (1, &["--html", "no/where.html"][..], "where.html"),
        (1, &["--html", "r.html", "--images", "nowhere"], "nowhere"),
        (2, &["--images", "query"], "--html"),
    ] {
        let (_, stderr) = expect(code, here, &[&search[..], more].concat());
        assert!(stderr.contains(words), "{words} in: {stderr}");
    }
}
