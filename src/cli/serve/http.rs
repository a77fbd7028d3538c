//! HTTP: the page, its images and the API. Every refusal is JSON, `{"error": why}`.

use super::connections::{Connections, Limits};
use crate::embeddings::gallery::{Gallery, Images, read_image};
use crate::error::{Error, Result};
use crate::images::decode;
use crate::kernels::topk::MAX_K;
use axum::body::Bytes;
use axum::extract::multipart::MultipartError;
use axum::extract::rejection::PathRejection;
use axum::extract::{DefaultBodyLimit, FromRequest, Multipart, Path, Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, REFERRER_POLICY, RETRY_AFTER,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use std::net::{IpAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};

/// Images that may wait for the adapter.
pub(super) const QUEUE: usize = 8;
/// Largest body of a request, in bytes.
const MAX_BODY: usize = 16 << 20;
/// Threads that read images from disk, each with one open file.
const READERS: usize = 8;
/// Interval between checks of the stop signal.
const TICK: Duration = Duration::from_millis(50);
/// Longest wait at the end for connections without a search.
const GRACE: Duration = Duration::from_secs(3);

/// The page may load files of this server and show the chosen image, nothing else.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
     img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Style sheet of the page.
const STYLE: &str = concat!(include_str!("../../plot/colours.css"), "\n", include_str!("page.css"));

/// An image to find.
pub(super) struct Job {
    /// The file's content.
    pub bytes: Bytes,
    /// Number of matches to list.
    pub top: usize,
    /// Receives the answer.
    pub answer: oneshot::Sender<std::result::Result<Value, Refusal>>,
}

/// Data that all requests share.
pub(super) struct Site {
    /// The queue of the adapter.
    pub jobs: mpsc::Sender<Job>,
    pub gallery: Arc<Gallery>,
    /// Rows that can be found, ascending. Other images aren't shown.
    pub kept: Vec<usize>,
    /// The gallery's images, if the page shows them.
    pub images: Option<Images>,
    /// Default number of matches.
    pub top: usize,
    /// Answer of `/health`.
    pub health: Value,
    /// True if only this machine can reach the server.
    pub loopback: bool,
    /// Number of searches that wait for an answer.
    pub searching: AtomicUsize,
    /// Limits on connections and their times.
    pub limits: Limits,
}

/// The reason why there is no answer.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    reason: String,
}

impl Refusal {
    pub fn new(status: StatusCode, reason: impl Into<String>) -> Refusal {
        Refusal { status, reason: reason.into() }
    }

    /// The answer while the adapter stops.
    fn stopping() -> Refusal {
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "the server is stopping")
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(json!({ "error": self.reason }))).into_response();
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

/// Answers requests until `stop` is true or the adapter's thread has ended. Present requests are answered first.
///
/// # Errors
/// `Io` where the listener can't be used.
pub(super) fn serve(listener: TcpListener, site: Site, stop: impl Fn() -> bool) -> Result<()> {
    let failed = |source| Error::io("listen on", "the address")(source);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .max_blocking_threads(READERS)
        .enable_all()
        .build()
        .map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let site = Arc::new(site);
    let done = runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let jobs = site.jobs.clone();
        let connections = Connections::new(site.limits);
        {
            let mut accepting = std::pin::pin!(connections.accept(listener, router(site.clone())));
            while !stop() && !jobs.is_closed() {
                // This future never completes.
                let _ = tokio::time::timeout(TICK, accepting.as_mut()).await;
            }
        }
        connections.stop();
        // Clients that send no request delay the end only briefly.
        let mut busy = Instant::now();
        while busy.elapsed() < GRACE && !connections.is_empty() {
            tokio::time::sleep(TICK).await;
            if site.searching.load(Ordering::Relaxed) > 0 {
                busy = Instant::now();
            }
        }
        Ok(())
    });
    // Nor does an image on a slow disk.
    runtime.shutdown_background();
    done.map_err(failed)
}

fn router(site: Arc<Site>) -> Router {
    let text =
        |kind: &'static str, text: &'static str| get(move || async move { ([(CONTENT_TYPE, kind)], text) });
    Router::new()
        .route("/", text("text/html; charset=utf-8", include_str!("page.html")))
        .route("/page.css", text("text/css; charset=utf-8", STYLE))
        .route("/page.js", text("text/javascript; charset=utf-8", include_str!("page.js")))
        .route("/health", get(health))
        .route("/image/{row}", get(image))
        .route("/search", post(search))
        .fallback(|| async { Refusal::new(StatusCode::NOT_FOUND, "there is no such page") })
        .method_not_allowed_fallback(|uri: Uri| async move {
            let reason = if uri.path() == "/search" { "use POST" } else { "use GET" };
            Refusal::new(StatusCode::METHOD_NOT_ALLOWED, reason)
        })
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(middleware::from_fn_with_state(site.clone(), guard))
        .with_state(site)
}

/// Refuses requests under another machine's name, and sets the security headers of every answer.
async fn guard(State(site): State<Arc<Site>>, request: Request, next: Next) -> Response {
    // Another site's name may resolve to this address (DNS rebinding). Its page could then read the answers.
    let mut response = if site.loopback && !asks_this_machine(request.headers()) {
        Refusal::new(StatusCode::FORBIDDEN, "this server answers to localhost only").into_response()
    } else {
        next.run(request).await
    };
    for (name, value) in [
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (CACHE_CONTROL, "no-store"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

fn asks_this_machine(headers: &HeaderMap) -> bool {
    headers.get(HOST).and_then(|host| host.to_str().ok()).is_some_and(is_this_machine)
}

/// Returns true if `name`, `name:port` or `[address]:port` is localhost or a loopback address.
fn is_this_machine(host: &str) -> bool {
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.split_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

async fn health(State(site): State<Arc<Site>>) -> Json<Value> {
    Json(site.health.clone())
}

/// An image of the gallery by its row.
async fn image(
    State(site): State<Arc<Site>>,
    row: std::result::Result<Path<String>, PathRejection>,
) -> std::result::Result<Response, Refusal> {
    let none = || Refusal::new(StatusCode::NOT_FOUND, "there is no such image");
    let row = row.ok().and_then(|Path(row)| row.parse().ok());
    let row = row.filter(|row| site.kept.binary_search(row).is_ok()).ok_or_else(none)?;
    let read = move || read_image(&site.gallery.image(site.images.as_ref()?, row)?);
    let bytes = tokio::task::spawn_blocking(read).await.ok().flatten().ok_or_else(none)?;
    let kind = decode::media_type(&bytes).ok_or_else(none)?;
    Ok(([(CONTENT_TYPE, kind)], bytes).into_response())
}

/// The gallery's images nearest to the one in the body.
async fn search(
    State(site): State<Arc<Site>>,
    request: Request,
) -> std::result::Result<Json<Value>, Refusal> {
    let _searching = Searching::begin(&site.searching);
    let top = top(request.uri().query().unwrap_or_default(), site.top)?;
    let bytes = body(request, site.limits.body).await?;
    if bytes.is_empty() {
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "the body is empty: send an image file"));
    }
    if decode::media_type(&bytes).is_none() {
        let reason = "the body is not a JPEG, PNG, BMP, WebP, GIF or TIFF image";
        return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, reason));
    }
    let (answer, answered) = oneshot::channel();
    site.jobs.try_send(Job { bytes, top, answer }).map_err(|error| match error {
        TrySendError::Full(_) => {
            Refusal::new(StatusCode::SERVICE_UNAVAILABLE, format!("{QUEUE} images are waiting: try again"))
        }
        TrySendError::Closed(_) => Refusal::stopping(),
    })?;
    answered.await.unwrap_or_else(|_| Err(Refusal::stopping())).map(Json)
}

/// Counts a request until it is dropped.
struct Searching<'a>(&'a AtomicUsize);

impl Searching<'_> {
    fn begin(count: &AtomicUsize) -> Searching<'_> {
        count.fetch_add(1, Ordering::Relaxed);
        Searching(count)
    }
}

impl Drop for Searching<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The number K in `top=K` of a query string, which has no other parameter.
fn top(query: &str, default: usize) -> std::result::Result<usize, Refusal> {
    let refused = |reason| Err(Refusal::new(StatusCode::BAD_REQUEST, reason));
    let mut top = default;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if name != "top" {
            return refused(format!("unknown parameter {name}; the only one is top"));
        }
        match value.parse().ok().filter(|top| (1..=MAX_K).contains(top)) {
            Some(value) => top = value,
            None => return refused(format!("top must be a number from 1 to {MAX_K}")),
        }
    }
    Ok(top)
}

/// The image's file, if it is small enough and arrives in time: the whole body, or the first file of a form.
async fn body(request: Request, time: Duration) -> std::result::Result<Bytes, Refusal> {
    // A stated length is checked before anything is read.
    let length = request.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if length.is_some_and(|length: u64| length > MAX_BODY as u64) {
        return Err(too_large());
    }
    let read = async {
        if is_form(request.headers()) {
            return file_of_form(request).await;
        }
        Bytes::from_request(request, &())
            .await
            .map_err(|rejection| unreadable(rejection.status(), rejection.body_text()))
    };
    let late = || Refusal::new(StatusCode::REQUEST_TIMEOUT, "the body didn't come in time");
    tokio::time::timeout(time, read).await.unwrap_or_else(|_| Err(late()))
}

fn too_large() -> Refusal {
    let reason = format!("the image's file is larger than {} MiB", MAX_BODY >> 20);
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, reason)
}

fn unreadable(status: StatusCode, reason: String) -> Refusal {
    if status == StatusCode::PAYLOAD_TOO_LARGE { too_large() } else { Refusal::new(status, reason) }
}

/// Returns true if the body is a form with files, as `curl -F` sends it.
fn is_form(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("multipart/form-data"))
}

/// The first file in a form; other fields are ignored.
async fn file_of_form(request: Request) -> std::result::Result<Bytes, Refusal> {
    let failed = |error: MultipartError| unreadable(error.status(), error.body_text());
    let form = Multipart::from_request(request, &()).await;
    let mut form = form.map_err(|rejection| unreadable(rejection.status(), rejection.body_text()))?;
    while let Some(field) = form.next_field().await.map_err(failed)? {
        if field.file_name().is_some() {
            return field.bytes().await.map_err(failed);
        }
    }
    let reason = "the form holds no file: curl -F image=@FILE sends one";
    Err(Refusal::new(StatusCode::BAD_REQUEST, reason))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embeddings::{Dtype, EmbeddingWriter};
    use std::collections::BTreeMap;
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpStream};
    use std::thread;

    /// A site whose queue holds `queue` images, and the receiving end of the queue.
    fn site(queue: usize) -> (Site, mpsc::Receiver<Job>) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("g.npy");
        let names = ["a.jpg".to_string()];
        let mut writer = EmbeddingWriter::create(&file, 1, Dtype::F32, &names, &BTreeMap::new()).unwrap();
        writer.push("a.jpg", &[0.0]).unwrap();
        writer.finish().unwrap();
        let gallery = Arc::new(Gallery::open(&file).unwrap());
        let (jobs, waiting) = mpsc::channel(queue);
        let site = Site {
            jobs,
            gallery,
            kept: vec![0],
            images: None,
            top: 10,
            health: json!({}),
            loopback: true,
            searching: AtomicUsize::new(0),
            limits: Limits::new(),
        };
        (site, waiting)
    }

    /// Posts the beginning of an image and returns the whole answer.
    fn post(address: SocketAddr) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        let body = "GIF89a";
        write!(
            stream,
            "POST /search HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn a_full_queue_says_so_and_a_gone_adapter_ends_the_server() {
        let (site, mut waiting) = site(1);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || serve(listener, site, || false));
        let first = thread::spawn(move || post(address));
        while waiting.is_empty() {
            thread::sleep(TICK);
        }
        let full = post(address);
        assert!(full.starts_with("HTTP/1.1 503") && full.contains("\r\nretry-after: 1\r\n"), "{full}");
        assert!(full.ends_with(r#"{"error":"8 images are waiting: try again"}"#), "{full}");

        let job = waiting.blocking_recv().unwrap();
        assert_eq!((&job.bytes[..], job.top), (&b"GIF89a"[..], 10));
        job.answer.send(Ok(json!({ "found": 1 }))).unwrap();
        let answer = first.join().unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with(r#"{"found":1}"#), "{answer}");

        let last = thread::spawn(move || post(address));
        while waiting.is_empty() {
            thread::sleep(TICK);
        }
        // Neither this nor a connection without a request delays the end.
        let _idle = TcpStream::connect(address).unwrap();
        drop(waiting);
        let answer = last.join().unwrap();
        assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("is stopping"), "{answer}");
        server.join().unwrap().unwrap();
    }

    /// A server with these limits, and the receiving end of its queue. Dropping that ends the server.
    fn limited(limits: Limits) -> (SocketAddr, mpsc::Receiver<Job>) {
        let (mut site, waiting) = site(4);
        site.limits = limits;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || serve(listener, site, || false));
        (address, waiting)
    }

    /// Sends these bytes and reads until the server closes the connection; returns the text and the time.
    fn until_closed(address: SocketAddr, bytes: &str) -> (String, Duration) {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(bytes.as_bytes()).unwrap();
        let (start, mut answer) = (Instant::now(), String::new());
        stream.read_to_string(&mut answer).unwrap();
        (answer, start.elapsed())
    }

    const HEALTH: &str = "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";

    #[test]
    fn headers_bodies_and_idle_connections_have_their_times() {
        let [short, long] = [200, 2000].map(Duration::from_millis);
        let limits = Limits { connections: 8, header: short, body: long, idle: 2 * long };
        let (address, _waiting) = limited(limits);
        let timed = |bytes: &'static str| thread::spawn(move || until_closed(address, bytes));
        let half = timed("GET /health HTTP/1.1\r\nHost: local");
        let second = "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /hea";
        let silent = timed("");
        let idle = timed(HEALTH);
        let body = timed("POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nhalf");
        // Single bytes extend the time of neither a header nor a body.
        let drip = thread::spawn(move || {
            let mut stream = TcpStream::connect(address).unwrap();
            let start = Instant::now();
            while stream.write_all(b"G").is_ok() {
                thread::sleep(short / 4);
            }
            start.elapsed()
        });

        let (answer, time) = half.join().unwrap();
        assert!(answer.is_empty() && time >= short / 2 && time < 2 * long, "{answer} {time:?}");
        assert!(drip.join().unwrap() < 2 * long);
        let (answer, time) = body.join().unwrap();
        assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("in time"), "{answer}");
        assert!(time >= long - short && time < 2 * long, "{time:?}");
        let (answer, time) = silent.join().unwrap();
        assert!(answer.is_empty() && time >= 2 * long - short, "{answer} {time:?}");
        let (answer, time) = idle.join().unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && time >= 2 * long - short, "{answer} {time:?}");
        // An earlier request is answered.
        assert!(until_closed(address, second).0.starts_with("HTTP/1.1 200"));
    }

    #[test]
    fn where_all_are_busy_the_next_one_waits() {
        let (address, mut waiting) = limited(Limits { connections: 2, ..Limits::new() });
        let busy = [(); 2].map(|()| thread::spawn(move || post(address)));
        while waiting.len() < 2 {
            thread::sleep(TICK);
        }
        let mut third = TcpStream::connect(address).unwrap();
        third.write_all(HEALTH.as_bytes()).unwrap();
        third.set_read_timeout(Some(4 * TICK)).unwrap();
        assert!(third.read(&mut [0]).is_err(), "both places are taken");
        for _ in 0..2 {
            let job = waiting.blocking_recv().unwrap();
            job.answer.send(Ok(json!({ "found": 1 }))).unwrap();
        }
        for answer in busy.map(|busy| busy.join().unwrap()) {
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        }
        third.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut status = [0; 12];
        third.read_exact(&mut status).unwrap();
        assert_eq!(&status, b"HTTP/1.1 200");
        // It is idle now and is closed for another one if it has waited longest.
        let others = [(); 2].map(|()| {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(HEALTH.as_bytes()).unwrap();
            stream.read_exact(&mut status).unwrap();
            stream
        });
        let mut rest = String::new();
        third.read_to_string(&mut rest).unwrap();
        drop(others);
    }

    #[test]
    fn only_names_of_this_machine_are_its_own() {
        for own in ["localhost", "LOCALHOST:80", "127.0.0.1", "127.0.0.1:8080", "[::1]", "[::1]:8080"] {
            assert!(is_this_machine(own), "{own}");
        }
        let strangers =
            ["", "evil.example", "localhost.evil.example", "127.0.0.1.evil.example:80", "[::1", "::1"];
        for other in strangers.into_iter().chain(["10.0.0.1", "[::2]:80", "0.0.0.0", "@localhost"]) {
            assert!(!is_this_machine(other), "{other}");
        }
    }

    #[test]
    fn top_is_read_or_refused() {
        for (query, wanted) in [("", 10), ("&", 10), ("top=1", 1), ("top=1024", 1024)] {
            assert_eq!(top(query, 10).unwrap(), wanted, "{query}");
        }
        for bad in ["top", "top=", "top=0", "top=1025", "top=-1", "top=ten", "top=1e3", "k=3", "top=1&x=2"] {
            assert_eq!(top(bad, 10).unwrap_err().status, StatusCode::BAD_REQUEST, "{bad}");
        }
    }
}
