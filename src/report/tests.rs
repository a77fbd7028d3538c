//! The page as text: nothing from outside becomes markup, every element is closed, nothing is needed.

use super::*;

/// Elements that have no end tag.
const VOID: [&str; 4] = ["meta", "img", "input", "br"];

/// Fails unless every element is closed in its turn; returns the names of all start tags.
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
    Match { shown: shown(name, Some("2"), Some("3")), distance: 0.25, verdict }
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
            thresholds: vec![(name.to_string(), 0.5)],
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
        // The same elements, whatever the name is.
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
        // The style and the script are the page's own, as the policy has them.
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
    // Nothing that a policy without 'unsafe-inline' would stop, and nothing from elsewhere.
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
        ("right", "✓ same"),
        ("wrong", "✗ different"),
        ("unknown", ""),
    ] {
        assert!(html.contains(&format!("<li class=\"{class}\" data-camera=\"3\">")), "{class}");
        assert!(html.contains(&format!("<p class=\"verdict\">{words}")), "{words}");
    }
    assert!(html.contains("data-score=\"-0.25\"") && html.contains("nearest first"));
    // One person, one camera: nothing to choose.
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
