//! `serve` with slow clients, many clients and forms.

#![cfg(unix)]

use crate::common::{TINY, copies, expect, input};
use crate::program::{PROGRAM, Server, answer};
use serde_json::Value;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A folder with images and their embeddings `g.npy`.
fn gallery() -> TempDir {
    let folder = copies(&["two_p"]);
    expect(0, folder.path(), &["embed", "--model", TINY, "two_p", "--out", "g.npy"]);
    folder
}

impl Server {
    /// Starts a server that may open `descriptors` files.
    fn start(folder: &Path, descriptors: u32) -> Server {
        let limited = format!("ulimit -n {descriptors}; exec \"$0\" \"$@\"");
        let mut command = Command::new("sh");
        command.args([
            "-c",
            &limited,
            PROGRAM,
            "serve",
            "--model",
            TINY,
            "--gallery",
            "g.npy",
            "--port",
            "0",
        ]);
        Server::spawn(command.current_dir(folder).env("LAT_TUNED", "0").stdin(Stdio::null()))
    }

    /// Opens a connection and sends these bytes.
    fn begin(&self, bytes: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.write_all(bytes).unwrap();
        stream
    }

    /// Sends these bytes, and returns status and body of the answer.
    fn send(&self, request: &[u8]) -> (u16, String) {
        let stream = self.begin(request);
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let (status, _, body) = answer(stream);
        (status, String::from_utf8(body).unwrap())
    }

    /// Time until `/health` answers.
    fn health(&self) -> Duration {
        let start = Instant::now();
        let (status, body) =
            self.send(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        assert_eq!(status, 200, "{body}");
        start.elapsed()
    }

    fn post(&self, kind: &str, body: &[u8]) -> (u16, String) {
        let head = format!(
            "POST /search HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: {kind}\r\n\
             Content-Length: {}\r\n\r\n",
            body.len()
        );
        self.send(&[head.as_bytes(), body].concat())
    }
}

/// Returns whether the server has closed the connection.
fn is_closed(stream: &mut TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    match stream.read(&mut [0; 4096]) {
        Ok(count) => count == 0,
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    }
}

#[test]
fn incomplete_headers_give_way_to_complete_ones() {
    let folder = gallery();
    // 64 descriptors: 32 connections.
    let server = Server::start(folder.path(), 64);
    server.health();
    let half = b"GET /health HTTP/1.1\r\nHost: local";
    let mut halves: Vec<TcpStream> = (0..80).map(|_| server.begin(half)).collect();
    for _ in 0..3 {
        assert!(server.health() < Duration::from_secs(5));
    }
    // The oldest are closed; at most 32 and the last request are left.
    let closed: Vec<bool> = halves.iter_mut().map(is_closed).collect();
    assert!(closed[..40].iter().all(|closed| *closed), "{closed:?}");
    assert!(closed.iter().filter(|closed| !**closed).count() <= 32, "{closed:?}");

    // So are silent connections and endless headers.
    let _silent: Vec<TcpStream> = (0..80).map(|_| server.begin(b"")).collect();
    assert!(server.health() < Duration::from_secs(5));
    let mut drips: Vec<TcpStream> = (0..40).map(|_| server.begin(half)).collect();
    for _ in 0..10 {
        for drip in &mut drips {
            let _ = drip.write(b"h");
        }
        assert!(server.health() < Duration::from_secs(5));
    }
    drop(drips);
    // Connections kept alive after a request give way too.
    let asked = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let _kept: Vec<TcpStream> = (0..80).map(|_| server.begin(asked)).collect();
    assert!(server.health() < Duration::from_secs(5));
}

#[test]
fn slow_bodies_are_not_closed_for_other_clients() {
    let folder = gallery();
    // 40 descriptors: 8 connections.
    let server = Server::start(folder.path(), 40);
    let image = std::fs::read(input("two_p/a/1_0.jpg")).unwrap();
    let head = format!("POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", image.len());
    let (first, rest) = image.split_at(image.len() / 2);
    let mut slow: Vec<TcpStream> = (0..7).map(|_| server.begin(&[head.as_bytes(), first].concat())).collect();
    for _ in 0..20 {
        server.begin(b"GET /");
        server.health();
    }
    for stream in &mut slow {
        stream.write_all(rest).unwrap();
        let mut status = [0; 12];
        stream.read_exact(&mut status).unwrap();
        assert_eq!(&status, b"HTTP/1.1 200");
    }
}

#[test]
fn forms_are_searched_like_plain_files() {
    let folder = gallery();
    let server = Server::start(folder.path(), 256);
    let image = std::fs::read(input("two_p/a/1_0.jpg")).unwrap();
    let (status, wanted) = server.post("image/jpeg", &image);
    assert_eq!(status, 200, "{wanted}");

    let part = |header: &str, content: &[u8]| {
        let head = format!("--xyz\r\nContent-Disposition: form-data; {header}\r\n\r\n");
        [head.as_bytes(), content, b"\r\n"].concat()
    };
    let file =
        |name: &str, content: &[u8]| part(&format!("name=\"{name}\"; filename=\"{name}.jpg\""), content);
    let form = |parts: &[Vec<u8>]| [&parts.concat()[..], b"--xyz--\r\n"].concat();
    let kind = "multipart/form-data; boundary=xyz";
    let other = std::fs::read(input("two_p/b/2_1.jpg")).unwrap();
    // As `curl -F image=@x.jpg` sends it, after other fields, as the first of several files, and with a type in
    // capitals.
    for (kind, body) in [
        (kind, form(&[file("image", &image)])),
        (kind, form(&[part("name=\"top\"", b"3"), part("name=\"note\"", b""), file("q", &image)])),
        (kind, form(&[file("one", &image), file("two", &other)])),
        ("Multipart/Form-Data; boundary=\"xyz\"", form(&[file("image", &image)])),
    ] {
        assert_eq!(server.post(kind, &body), (200, wanted.clone()));
    }

    let cut = form(&[file("image", &image)]);
    for (kind, body, status, words) in [
        (kind, form(&[part("name=\"image\"", &image)]), 400, "holds no file"),
        (kind, form(&[]), 400, "holds no file"),
        (kind, form(&[file("image", b"")]), 400, "empty"),
        (kind, form(&[file("image", b"no image")]), 415, "not a JPEG"),
        (kind, cut[..cut.len() - 100].to_vec(), 400, ""),
        ("multipart/form-data", form(&[file("image", &image)]), 400, "boundary"),
        ("multipart/mixed; boundary=xyz", form(&[file("image", &image)]), 415, "not a JPEG"),
    ] {
        let (found, answer) = server.post(kind, &body);
        let reason: Value = serde_json::from_str(&answer).unwrap_or_else(|_| panic!("{answer}"));
        let reason = reason["error"].as_str().unwrap();
        assert_eq!(found, status, "{reason}");
        assert!(reason.contains(words), "{words} in: {reason}");
    }
    // Too large, with and without a length given before.
    let head =
        format!("POST /search HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: {kind}\r\n");
    let huge = form(&[file("image", &vec![b'x'; 16 << 20])]);
    let announced = format!("{head}Content-Length: {}\r\n\r\n", huge.len());
    let chunked = format!("{head}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n", huge.len());
    for request in [announced.into_bytes(), [chunked.as_bytes(), &huge].concat()] {
        let (status, answer) = server.send(&request);
        assert!(status == 413 && answer.contains("16 MiB"), "{status} {answer}");
    }
    server.health();
}
