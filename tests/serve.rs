//! `lat-wgpu serve`: real requests to a real process.

#![cfg(unix)]

#[path = "common/program.rs"]
mod program;

use lat_wgpu::checkpoint::{self, Settings, Threshold};
use lat_wgpu::embeddings::{Dtype, EmbeddingWriter};
use program::{Server, TINY, answer, expect, program, signal};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Synthetic images in `query` and `gallery`, a model with a threshold, and the gallery's embeddings `g.safetensors`.
fn drawn() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    expect(0, here, &["synth", ".", "--persons", "6", "--cameras", "2", "--images", "2", "--seed", "3"]);
    std::fs::rename(here.join("bounding_box_test"), here.join("gallery")).unwrap();
    let model = here.join("m.safetensors");
    std::fs::copy(TINY, &model).unwrap();
    let network = checkpoint::load(&model, &Settings { heads: Some(2), ..Settings::default() }).unwrap();
    checkpoint::store_threshold(&model, &network, Threshold { distance: 0.05, fpr: 0.01 }, &[]).unwrap();
    expect(
        0,
        here,
        &["embed", "--model", "m.safetensors", "--heads", "2", "gallery", "--out", "g.safetensors"],
    );
    folder
}

impl Server {
    fn start(folder: &Path, more: &[&str]) -> Server {
        let serve = ["serve", "--model", "m.safetensors", "--heads", "2", "--port", "0"];
        Server::spawn(program(folder, &serve).args(more))
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream
    }

    /// Sends arbitrary bytes.
    fn send(&self, request: &[u8]) -> Answer {
        let mut stream = self.connect();
        stream.write_all(request).unwrap();
        Answer::read(stream)
    }

    fn get(&self, path: &str) -> Answer {
        self.send(
            format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.address).as_bytes(),
        )
    }

    fn post(&self, path: &str, body: &[u8]) -> Answer {
        self.send(&self.posting(path, body))
    }

    fn posting(&self, path: &str, body: &[u8]) -> Vec<u8> {
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            self.address,
            body.len()
        );
        [head.as_bytes(), body].concat()
    }

    fn terminate(&self) {
        self.signal("-TERM");
    }

    fn signal(&self, name: &str) {
        signal(&self.child, name);
    }

    /// The exit code, if the server exits soon.
    fn code(&mut self) -> Option<i32> {
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(20) {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        None
    }
}

#[derive(Debug)]
struct Answer {
    status: u16,
    /// Head in lower case.
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn read(stream: TcpStream) -> Answer {
        let (status, head, body) = answer(stream);
        Answer { status, head, body }
    }

    fn json(&self) -> Value {
        assert!(self.head.contains("content-type: application/json"), "{}", self.head);
        serde_json::from_slice(&self.body).unwrap()
    }

    /// Asserts a refusal with these words in its reason.
    #[track_caller]
    fn refused(&self, status: u16, words: &str) {
        let reason = self.json()["error"].as_str().unwrap().to_string();
        assert_eq!(self.status, status, "{reason}");
        assert!(reason.contains(words), "{words} in: {reason}");
    }
}

/// Name and content of the first query image.
fn a_query(folder: &Path) -> (String, Vec<u8>) {
    let mut files: Vec<_> =
        std::fs::read_dir(folder.join("query")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let name = files[0].file_name().unwrap().to_str().unwrap();
    (format!("query/{name}"), std::fs::read(&files[0]).unwrap())
}

#[test]
fn a_posted_image_is_searched_as_on_the_command_line() {
    let folder = drawn();
    let here = folder.path();
    let (query, bytes) = a_query(here);
    let filtered = ["--gallery", "g.safetensors", "--filter", "camera=2"];
    let search = ["search", "--model", "m.safetensors", "--heads", "2", "--query", &query, "--json", "-"];
    let mut wanted: Value =
        serde_json::from_str(&expect(0, here, &[&search[..], &filtered, &["--top", "4"]].concat()).0)
            .unwrap();
    wanted["queries"][0]["query"] = "image".into();

    let mut server = Server::start(here, &[&filtered[..], &["--images", "gallery", "--top", "3"]].concat());
    let health = server.get("/health").json();
    assert_eq!((&health["status"], &health["gallery"]), (&"ok".into(), &wanted["gallery"]));
    assert_eq!((&health["model"], &health["threshold"]), (&"m.safetensors".into(), &wanted["threshold"]));
    assert!(!health["adapter"].as_str().unwrap().is_empty());

    let got = server.post("/search?top=4", &bytes);
    assert_eq!((got.status, got.json()), (200, wanted.clone()));
    let three = server.post("/search", &bytes).json();
    assert_eq!(three["queries"][0]["results"].as_array().unwrap()[..], results(&wanted)[..3]);

    // Concurrent clients get the same answers as single ones.
    std::thread::scope(|scope| {
        let ask = || scope.spawn(|| server.post("/search?top=4", &bytes).json());
        let asking = [ask(), ask(), ask()];
        for asked in asking {
            assert_eq!(asked.join().unwrap(), wanted);
        }
    });

    // Only the images of the list are served.
    for result in results(&wanted) {
        let image = server.get(&format!("/image/{}", result["row"]));
        let file = std::fs::read(here.join("gallery").join(result["path"].as_str().unwrap())).unwrap();
        assert_eq!((image.status, image.body == file), (200, true));
        assert!(image.head.contains("content-type: image/"), "{}", image.head);
    }
    let camera_one = results(&wanted)[0]["row"].as_u64().unwrap();
    let others = (0..60).filter(|row| server.get(&format!("/image/{row}")).status == 404).count();
    assert_eq!(60 - others as u64, wanted["gallery"].as_u64().unwrap(), "row {camera_one} is one of them");

    server.terminate();
    assert_eq!(server.code(), Some(0));
}

fn results(found: &Value) -> &Vec<Value> {
    found["queries"][0]["results"].as_array().unwrap()
}

/// Parts of a form with its boundary: name, file name if it is a file, content.
fn form(parts: &[(&str, Option<&str>, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, file, content) in parts {
        let file = file.map(|file| format!("; filename=\"{file}\"")).unwrap_or_default();
        body.extend(
            format!("--edge\r\nContent-Disposition: form-data; name=\"{name}\"{file}\r\n\r\n").into_bytes(),
        );
        body.extend(*content);
        body.extend(b"\r\n");
    }
    body.extend(b"--edge--\r\n");
    body
}

/// The values of raw embeddings.
fn values(answer: &Answer) -> Vec<f32> {
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    assert!(answer.head.contains("content-type: application/octet-stream"), "{}", answer.head);
    bytemuck::pod_collect_to_vec(&answer.body)
}

#[test]
fn posted_images_are_embedded_as_on_the_command_line() {
    let folder = drawn();
    let here = folder.path();
    expect(0, here, &["embed", "--model", "m.safetensors", "--heads", "2", "query", "--out", "q.npy"]);
    let table = std::fs::read(here.join("q.npy")).unwrap();
    let files: Vec<Vec<u8>> = std::fs::read_to_string(here.join("q.paths.txt"))
        .unwrap()
        .lines()
        .map(|name| std::fs::read(here.join("query").join(name)).unwrap())
        .collect();
    let server = Server::start(here, &["--gallery", "g.safetensors"]);
    let dim = server.get("/health").json()["dim"].as_u64().unwrap() as usize;
    let rows: Vec<f32> = bytemuck::pod_collect_to_vec(&table[table.len() - 4 * dim * files.len()..]);
    let row = |index: usize| &rows[index * dim..(index + 1) * dim];

    let one = server.post("/embed?format=f32", &files[0]);
    assert_eq!(values(&one), row(0));
    assert!(one.head.contains(&format!("x-shape: 1, {dim}")), "{}", one.head);
    let json = server.post("/embed", &files[1]).json();
    let numbers: Vec<Vec<f32>> = serde_json::from_value(json["embeddings"].clone()).unwrap();
    assert_eq!((json["dim"].as_u64(), &numbers[..]), (Some(dim as u64), &[row(1).to_vec()][..]));

    let post = |path: &str, parts: &[(&str, Option<&str>, &[u8])]| {
        let body = form(parts);
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {}\r\n\
             Content-Type: multipart/form-data; boundary=edge\r\n\r\n",
            server.address,
            body.len()
        );
        server.send(&[head.as_bytes(), &body].concat())
    };
    let parts: Vec<_> = files.iter().map(|file| ("image", Some("a.png"), &file[..])).collect();
    assert_eq!(values(&post("/embed?format=f32", &parts)), rows);

    // A box is embedded as the file that holds the same pixels.
    let image = image::load_from_memory(&files[0]).unwrap();
    let mut cut = std::io::Cursor::new(Vec::new());
    image.crop_imm(5, 20, 40, 70).write_to(&mut cut, image::ImageFormat::Png).unwrap();
    let alone = values(&server.post("/embed?format=f32", cut.get_ref()));
    assert_ne!(alone, row(0));
    let both = [row(0), &alone].concat();
    let whole = "-3,-3,999,999";
    let by_query = server.post(&format!("/embed?boxes={whole};5,20,45,90&format=f32"), &files[0]);
    assert_eq!(values(&by_query), both);
    let listed = format!("[[{whole}],[5,20,45,90]]");
    let fields = [("boxes", None, listed.as_bytes()), ("image", Some("a.png"), &files[0][..])];
    assert_eq!(values(&post("/embed?format=f32", &fields)), both);

    // Requests that wait together are embedded together, with searches among them.
    std::thread::scope(|scope| {
        let asked: Vec<_> = (0..16)
            .map(|place| {
                let (server, file) = (&server, &files[place % files.len()]);
                scope.spawn(move || match place % 5 {
                    4 => (place, server.post("/search", file)),
                    _ => (place, server.post("/embed?format=f32", file)),
                })
            })
            .collect();
        for (place, answer) in asked.into_iter().map(|asked| asked.join().unwrap()) {
            match place % 5 {
                4 => assert_eq!(answer.status, 200),
                _ => assert_eq!(values(&answer), row(place % files.len())),
            }
        }
    });

    server.post("/embed", b"").refused(400, "empty");
    server.post("/embed", b"no image").refused(415, "not a JPEG");
    server.post("/embed", &files[0][..files[0].len() / 2]).refused(422, "the image");
    server.post("/embed?format=npy", &files[0]).refused(400, "json or f32");
    server.post("/embed?top=3", &files[0]).refused(400, "unknown parameter top");
    server.post("/embed?boxes=1,2,3", &files[0]).refused(400, "left,top,right,bottom");
    server.post("/embed?boxes=900,0,950,50", &files[0]).refused(400, "no pixel of the image");
    post("/embed?boxes=0,0,9,9", &parts[..2]).refused(400, "boxes need one image");
    post("/embed", &[("boxes", None, b"[[0,0,9,9]]")]).refused(400, "holds no file");
    server.get("/embed").refused(405, "use POST");
    assert_eq!(server.get("/openapi.json").json()["openapi"], "3.1.0");
}

#[test]
fn bad_requests_get_a_reason() {
    let folder = drawn();
    let here = folder.path();
    let (_, bytes) = a_query(here);
    // The embedded images are gone.
    std::fs::rename(here.join("gallery"), here.join("elsewhere")).unwrap();
    let server = Server::start(here, &["--gallery", "g.safetensors"]);

    server.post("/search", b"").refused(400, "empty");
    server.post("/search", b"<script>alert(1)</script>").refused(415, "not a JPEG");
    server.post("/search", &bytes[..bytes.len() / 2]).refused(422, "the image");
    let mut wide = std::io::Cursor::new(Vec::new());
    image::DynamicImage::new_luma8(16_385, 1).write_to(&mut wide, image::ImageFormat::Png).unwrap();
    server.post("/search", wide.get_ref()).refused(422, "16384 a side");
    server.post("/search?top=0", &bytes).refused(400, "top");
    server.post("/search?top=x", &bytes).refused(400, "top must be a number");
    server.post("/search?k=3", &bytes).refused(400, "unknown parameter k");
    // A body announced as too large is refused before it is sent; one without a length, when it becomes too large.
    let head = format!("POST /search HTTP/1.1\r\nHost: {}\r\n", server.address);
    server
        .send(format!("{head}Connection: close\r\nContent-Length: 16777217\r\n\r\n").as_bytes())
        .refused(413, "16 MiB");
    let mut chunked =
        format!("{head}Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n1000001\r\n").into_bytes();
    chunked.resize(chunked.len() + (16 << 20) + 1, b'x');
    server.send(&chunked).refused(413, "16 MiB");

    server.get("/search").refused(405, "use POST");
    assert!(server.get("/search").head.contains("allow: post"));
    server.post("/health", b"").refused(405, "use GET");
    server.get("/nowhere").refused(404, "no such page");
    // No folder of images is given.
    server.get("/image/0").refused(404, "no such image");
    assert_eq!(server.get("/health").json()["images"], false);
    assert_eq!(server.send(b"what is this\r\n\r\n").status, 400);
    // The server still runs.
    assert_eq!(server.post("/search", &bytes).status, 200);
}

#[test]
fn page_has_security_headers() {
    let folder = drawn();
    let server = Server::start(folder.path(), &["--gallery", "g.safetensors"]);
    for (path, kind) in [("/", "text/html"), ("/page.css", "text/css"), ("/page.js", "text/javascript")] {
        let answer = server.get(path);
        assert_eq!(answer.status, 200, "{path}");
        for line in [
            &format!("content-type: {kind}; charset=utf-8"),
            "content-security-policy: default-src 'none'; script-src 'self';",
            "x-content-type-options: nosniff",
        ] {
            assert!(answer.head.contains(line), "{line} in: {}", answer.head);
        }
    }
    let page = String::from_utf8(server.get("/").body).unwrap();
    assert!(page.starts_with("<!doctype html>") && !page.contains("style="), "{page}");
    let script = String::from_utf8(server.get("/page.js").body).unwrap();
    assert!(!script.contains("innerHTML"));

    // A foreign host name that resolves to this address.
    let port = server.address.rsplit(':').next().unwrap();
    for (host, status) in [
        (format!("localhost:{port}"), 200),
        (format!("127.0.0.1:{port}"), 200),
        ("[::1]".to_string(), 200),
        (format!("evil.example:{port}"), 403),
        ("localhost.evil.example".to_string(), 403),
    ] {
        let request = format!("GET /health HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        assert_eq!(server.send(request.as_bytes()).status, status, "{host}");
    }
    let nameless = server.send(b"GET /health HTTP/1.0\r\n\r\n");
    nameless.refused(403, "localhost only");
}

#[test]
fn no_image_from_outside_the_folder() {
    let folder = drawn();
    let here = folder.path();
    let root = here.join("shown");
    std::fs::create_dir(&root).unwrap();
    let (query, bytes) = a_query(here);
    std::fs::write(root.join("inside.jpg"), &bytes).unwrap();
    std::fs::write(root.join("text.jpg"), "no image").unwrap();
    std::os::unix::fs::symlink(here.join(&query), root.join("link.jpg")).unwrap();
    // Names that a foreign gallery may have.
    let absolute = here.join(&query).to_str().unwrap().to_string();
    let up = format!("../{query}");
    let names = ["inside.jpg", &up, &absolute, "link.jpg", "text.jpg", "gone.jpg"].map(String::from);
    let file = here.join("names.npy");
    let mut writer = EmbeddingWriter::create(&file, 128, Dtype::F32, &names, &BTreeMap::new()).unwrap();
    for name in &names {
        writer.push(name, &[0.0; 128]).unwrap();
    }
    writer.finish().unwrap();
    let server = Server::start(here, &["--gallery", "names.npy", "--images", "shown"]);
    let inside = server.get("/image/0");
    assert_eq!((inside.status, &inside.body), (200, &bytes));
    for row in 1..names.len() {
        server.get(&format!("/image/{row}")).refused(404, "no such image");
    }
    for path in [
        "/image/6",
        "/image/-1",
        "/image/18446744073709551616",
        "/image/..%2finside.jpg",
        "/image/inside.jpg",
        "/image/%2e%2e",
        "/image/%ff",
        "/image/../inside.jpg",
        "/image//inside.jpg",
        "/../../Cargo.toml",
        "/shown/inside.jpg",
        "/image/",
    ] {
        assert_eq!(server.get(path).status, 404, "{path}");
    }
}

#[test]
fn shutdown_answers_requests_in_flight() {
    let folder = drawn();
    let here = folder.path();
    let (_, bytes) = a_query(here);
    let mut server = Server::start(here, &["--gallery", "g.safetensors"]);
    let wanted = server.post("/search", &bytes).json();
    let request = server.posting("/search", &bytes);
    let (first, rest) = request.split_at(request.len() - bytes.len() / 2);
    let mut stream = server.connect();
    stream.write_all(first).unwrap();
    // An idle connection doesn't delay shutdown.
    let _idle = server.connect();
    // Sent in two halves, and answered.
    server.get("/health").json();
    server.terminate();
    std::thread::sleep(Duration::from_millis(500));
    assert!(server.child.try_wait().unwrap().is_none());
    stream.write_all(rest).unwrap();
    assert_eq!(Answer::read(stream).json(), wanted);
    assert_eq!(server.code(), Some(0));
}

#[test]
fn a_second_interrupt_stops_at_once() {
    let folder = drawn();
    let here = folder.path();
    let (_, bytes) = a_query(here);
    let mut server = Server::start(here, &["--gallery", "g.safetensors"]);
    // An incomplete request, which shutdown would wait for.
    let request = server.posting("/search", &bytes);
    let mut stream = server.connect();
    stream.write_all(&request[..request.len() - 1]).unwrap();
    server.get("/health").json();
    server.signal("-INT");
    std::thread::sleep(Duration::from_millis(500));
    assert!(server.child.try_wait().unwrap().is_none());
    server.signal("-INT");
    assert_eq!(server.code(), Some(130));
}

#[test]
fn serve_reports_errors() {
    let folder = drawn();
    let here = folder.path();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let serve = ["serve", "--model", "m.safetensors", "--heads", "2", "--gallery", "g.safetensors"];
    for (code, more, words) in [
        (1, &["--port", port.as_str()][..], &["cannot listen on 127.0.0.1:", "hint: "][..]),
        (1, &["--port", "0", "--images", "nowhere"], &["nowhere"]),
        (1, &["--port", "0", "--lambda", "3"], &["lambda 0.8", "add --lambda 0.8"]),
        (1, &["--port", "0", "--filter", "path=nobody"], &["--filter"]),
        (2, &["--port", "65536"], &["--port"]),
        (2, &["--top", "0"], &["--top"]),
    ] {
        let (_, stderr) = expect(code, here, &[&serve[..], more].concat());
        for words in words {
            assert!(stderr.contains(words), "{words} in: {stderr}");
        }
    }
}
