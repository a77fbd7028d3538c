//! Tests of the page as text: no text becomes markup, and every element is closed.

use super::*;

/// Elements without an end tag.
const VOID: [&str; 4] = ["meta", "img", "input", "br"];

/// Fails unless elements are closed in order; returns the names of all start tags.
fn check(html: &str) -> Vec<String> {
    let html = html.strip_prefix("<!doctype html>").unwrap();
    let mut open: Vec<String> = Vec::new();
    let mut all = Vec::new();
    let mut rest = html;
    while let Some(at) = rest.find('<') {
        rest = &rest[at + 1..];
        let end = rest.find('>').unwrap_or_else(|| panic!("a tag without end: {:.60}", rest));
        let (tag, after) = (&rest[..end], &rest[end + 1..]);
        assert!(!tag.contains('<'), "{tag}");
        rest = after;
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(name), "closed by </{name}>");
            continue;
        }
        let name = tag.split([' ', '/']).next().unwrap().to_string();
        assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()), "{tag}");
        assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
        if name == "script" || name == "style" {
            let (_, after) = rest.split_once(&format!("</{name}>")).unwrap();
            rest = after;
        } else if !VOID.contains(&&*name) && !tag.ends_with('/') {
            open.push(name.clone());
        }
        all.push(name);
    }
    assert!(open.is_empty(), "left open: {open:?}");
    all
}

fn shown(name: &str, person: Option<&str>, camera: Option<&str>) -> Shown {
    let image = Image::Embedded("data:image/jpeg;base64,AAAA".to_string());
    Shown {
        name: name.to_string(),
        image,
        person: person.map(str::to_string),
        camera: camera.map(str::to_string),
    }
}

fn place(name: &str, verdict: Verdict) -> Match {
    Match { shown: shown(name, Some("2"), Some("3")), distance: 0.25, verdict, errors: None }
}

fn full(name: &str) -> Report {
    let pair = |a: &str| (a.to_string(), name.to_string());
    Report {
        title: name.to_string(),
        facts: vec![pair("model")],
        notes: vec![name.to_string()],
        scores: vec![("rank-1".to_string(), "50 %".to_string())],
        curves: vec![
            Curve { name: name.to_string(), shares: vec![0.5, 1.0] },
            Curve { name: "b".to_string(), shares: vec![1.0] },
        ],
        verification: Some(Verification {
            edges: vec![0.0, 1.0, 2.0],
            same: vec![1, 0],
            different: vec![1, 2],
            thresholds: vec![Threshold { name: name.to_string(), distance: 0.5, false_match_rate: 0.1 }],
            gallery: 5,
            roc: vec![(0.3, 1.0), (1.0, 1.0)],
            equal_error_rate: 0.3,
            found: vec![(0.01, 0.0)],
        }),
        lists_about: vec![name.to_string()],
        lists: vec![
            RankedList {
                query: shown(name, Some(name), Some(name)),
                average_precision: Some(0.5),
                matches: vec![
                    place(name, Verdict::Right),
                    Match {
                        shown: Shown {
                            image: Image::Missing(name.to_string()),
                            ..shown(name, Some(name), Some(name))
                        },
                        ..place("", Verdict::Wrong)
                    },
                    Match {
                        shown: Shown {
                            image: Image::Linked("../a.jpg".to_string()),
                            ..shown("c", None, None)
                        },
                        ..place("", Verdict::Unknown)
                    },
                ],
            },
            RankedList {
                query: shown("10", Some("10"), Some("10")),
                average_precision: Some(1.0),
                matches: vec![],
            },
        ],
    }
}

#[test]
fn what_comes_from_outside_stays_text() {
    let tame = full("x").to_html().unwrap();
    let tags = check(&tame);
    for name in [
        "<script>alert(1)</script>.jpg",
        "\"><img src=x onerror=alert(1)>",
        "' onload='alert(1)",
        "</title></style></script><!--",
        "a & b &lt; &#60;",
        "two\nlines",
        "caf\\xe9.jpg",
        "\u{202e}gpj.exe",
        "{{ report.title }} {% if %}",
    ] {
        let html = full(name).to_html().unwrap();
        // The elements do not depend on the name.
        assert_eq!(check(&html), tags, "{name}");
        let escaped = name
            .replace('&', "&#38;")
            .replace('<', "&#60;")
            .replace('>', "&#62;")
            .replace('"', "&#34;")
            .replace('\'', "&#39;");
        for place in [
            format!("<title>{escaped}</title>"),
            format!("<h1><bdi>{escaped}</bdi></h1>"),
            format!("<h3><bdi>{escaped}</bdi></h3>"),
            format!(" data-person=\"{escaped}\""),
            format!(" data-camera=\"{escaped}\""),
            format!("<option value=\"{escaped}\">{escaped}</option>"),
            format!(" alt=\"{escaped}\">"),
            format!("<p class=\"name\"><bdi>{escaped}</bdi></p>"),
            format!("<strong>Note</strong> {escaped}</p>"),
        ] {
            assert!(html.contains(&place), "{place}");
        }
        // Style and script are those in the policy.
        assert_eq!(html.split("<script>").count(), 2, "{name}");
        let policy =
            |html: &str| html.lines().find(|line| line.contains("Security-Policy")).unwrap().to_string();
        assert_eq!(policy(&html), policy(&tame));
    }
}

#[test]
fn the_policy_has_the_hashes_of_what_is_there() {
    let html = full("x").to_html().unwrap();
    for name in ["style", "script"] {
        let (_, after) = html.split_once(&format!("<{name}>")).unwrap();
        let (text, _) = after.split_once(&format!("</{name}>")).unwrap();
        let hash = STANDARD.encode(Sha256::digest(text.as_bytes()));
        assert!(html.contains(&format!("{name}-src &#39;sha256-{hash}&#39;")), "{name}");
    }
    assert!(html.contains("default-src &#39;none&#39;"));
    // The page needs no 'unsafe-inline' and loads nothing from elsewhere.
    for word in [" style=", " onclick=", "http://", "https://", "//cdn"] {
        assert!(!html.contains(word), "{word}");
    }
}

#[test]
fn verdicts_are_words_signs_and_classes() {
    let verdicts = [Verdict::Right, Verdict::Wrong, Verdict::Same, Verdict::Different, Verdict::Unknown];
    let matches = verdicts.map(|verdict| place("a.jpg", verdict)).to_vec();
    let list = RankedList { query: shown("q.jpg", None, None), average_precision: None, matches };
    let html = Report { lists: vec![list], ..Report::default() }.to_html().unwrap();
    check(&html);
    for (class, words) in [
        ("right", "✓ right"),
        ("wrong", "✗ wrong"),
        ("right", "✓ likely the same"),
        ("wrong", "✗ likely different"),
        ("unknown", ""),
    ] {
        assert!(html.contains(&format!("<li class=\"{class}\" data-camera=\"3\">")), "{class}");
        assert!(html.contains(&format!("<p class=\"verdict\">{words}")), "{words}");
    }
    assert!(html.contains("data-score=\"-0.25\"") && html.contains("nearest first"));
    // One person and one camera leave no choice.
    assert!(!html.contains("id=\"person\"") && !html.contains("id=\"shown-camera\""));
}

#[test]
fn numbers_are_chosen_in_their_order() {
    let values = ["10", "9", "hall", "1", "9", "door"].map(|value| Some(value.to_string()));
    let filter = Filter::new("camera", "", values.iter().chain([&None])).unwrap();
    assert_eq!(filter.values, ["1", "9", "10", "door", "hall"]);
    assert!(Filter::new("camera", "", values[..1].iter()).is_none());
}

#[test]
fn an_empty_report_is_a_page() {
    let html = Report { title: "nothing".to_string(), ..Report::default() }.to_html().unwrap();
    let tags = check(&html);
    assert!(html.contains("There are no lists to show."));
    for absent in ["svg", "article", "form", "dl"] {
        assert!(!tags.iter().any(|tag| tag == absent), "{absent}");
    }
    let list = RankedList { query: shown("q.jpg", None, None), average_precision: None, matches: vec![] };
    let html = Report { lists: vec![list], ..Report::default() }.to_html().unwrap();
    assert!(check(&html).contains(&"article".to_string()) && html.contains("nothing to show for this query"));
}

#[test]
fn headings_go_down_one_step_at_a_time() {
    let levels: Vec<u32> = check(&full("x").to_html().unwrap())
        .iter()
        .filter_map(|tag| tag.strip_prefix('h')?.parse().ok())
        .collect();
    assert_eq!(levels[0], 1);
    assert!(levels.windows(2).all(|pair| pair[1] <= pair[0] + 1 && pair[1] > 1), "{levels:?}");
}

#[test]
fn errors_are_expected_only_where_a_threshold_is_calibrated() {
    let page = |errors| {
        let matches = vec![Match { errors, ..place("a.jpg", Verdict::Same) }];
        let list = RankedList { query: shown("q.jpg", None, None), average_precision: None, matches };
        Report { lists: vec![list], ..Report::default() }.to_html().unwrap()
    };
    let html = page(Some(ExpectedErrors::new(1e-3, 1501)));
    check(&html);
    assert!(
        html.contains("false-match rate ≤ 0.1 %") && html.contains("strangers so near: ≤ 1.5<"),
        "{html}"
    );
    assert!(!page(None).contains("false-match"));
}

#[test]
fn rates_and_expected_numbers_have_the_digits_they_need() {
    assert_eq!(
        [1e-2, 1e-4, 0.3, 0.05, 1.0, 0.0, 1.0 / 3.0].map(rate_text),
        ["1 %", "0.01 %", "30 %", "5 %", "100 %", "0 %", "33.3 %"]
    );
    assert_eq!([0.0, 0.0123, 1.501, 15.4, 1501.0].map(strangers_text), ["0", "0.012", "1.5", "15", "1501"]);
}

#[test]
fn distances_have_digits() {
    for (distance, text) in [
        (0.25, "0.2500"),
        (2.0, "2.0000"),
        (0.0, "0.0000"),
        (-1e-7, "0.0000"),
        (0.0035150347, "0.00352"),
        (1.234e-6, "0.00000123"),
        (1e-30, "0.000000000000"),
    ] {
        assert_eq!(distance_text(distance), text);
    }
}
