//! HTTP: the page, its images and the API. Every refusal is JSON, `{"error": why}`.

use super::connections::{Connections, Limits};
use super::posted::{self, Form, Format, MAX_BODY};
use crate::embeddings::gallery::{Gallery, Images, read_image};
use crate::error::{Error, Result};
use crate::images::decode::{self, DecodeOptions, Rgb};
use crate::shape::ImageSize;
use axum::extract::rejection::PathRejection;
use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, REFERRER_POLICY, RETRY_AFTER,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Serialize;
use serde_json::{Value, json};
use std::net::{IpAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Semaphore, mpsc, oneshot};

/// Requests that may wait for the adapter.
pub(super) const QUEUE: usize = 32;
/// Threads that read images from disk, each with one open file, or decode posted ones.
const READERS: usize = 8;
/// Requests whose images are decoded at the same time. Each may take 256 MiB.
pub(super) const DECODERS: usize = 4;
/// Interval between checks of the stop signal.
const TICK: Duration = Duration::from_millis(50);
/// Longest wait at the end for connections without a search.
const GRACE: Duration = Duration::from_secs(3);

/// The page may load files of this server and show the chosen image, nothing else.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
     img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Style sheet of the page.
const STYLE: &str = concat!(include_str!("../../plot/colours.css"), "\n", include_str!("page.css"));

/// Work for the adapter, and the receiver of the answer. Images have the network's input size.
pub(super) enum Job {
    /// An image to find.
    Search {
        image: Rgb,
        /// Number of matches to list.
        top: usize,
        answer: Answer<Value>,
    },
    /// Images to embed.
    Embed { images: Vec<Rgb>, answer: Answer<Embeddings> },
}

type Answer<T> = oneshot::Sender<std::result::Result<T, Refusal>>;

impl Job {
    /// The images of a job that embeds.
    pub fn images(&self) -> Option<&[Rgb]> {
        match self {
            Job::Search { .. } => None,
            Job::Embed { images, .. } => Some(images),
        }
    }

    /// Returns true if nobody waits for the answer.
    pub fn is_closed(&self) -> bool {
        match self {
            Job::Search { answer, .. } => answer.is_closed(),
            Job::Embed { answer, .. } => answer.is_closed(),
        }
    }

    pub fn refuse(self, refusal: Refusal) {
        // Fails if the client has hung up.
        match self {
            Job::Search { answer, .. } => drop(answer.send(Err(refusal))),
            Job::Embed { answer, .. } => drop(answer.send(Err(refusal))),
        }
    }
}

/// Embeddings of a request's images.
#[derive(Debug)]
pub(super) struct Embeddings {
    /// Length D of an embedding.
    pub dim: usize,
    /// Embeddings (B, D).
    pub rows: Vec<f32>,
}

impl Embeddings {
    /// The answer: JSON, or the rows' bytes.
    fn response(&self, format: Format) -> Response {
        let shape = format!("{}, {}", self.rows.len() / self.dim.max(1), self.dim);
        match format {
            Format::Json => {
                let rows: Vec<&[f32]> = self.rows.chunks(self.dim.max(1)).collect();
                Json(Rows { dim: self.dim, embeddings: rows }).into_response()
            }
            Format::F32 => {
                let bytes: Vec<u8> = self.rows.iter().flat_map(|value| value.to_le_bytes()).collect();
                let headers = [(CONTENT_TYPE, "application/octet-stream"), (SHAPE, &shape)];
                (headers, bytes).into_response()
            }
        }
    }
}

/// JSON of embeddings, in which f32 values have as few digits as they need.
#[derive(Serialize)]
struct Rows<'r> {
    dim: usize,
    embeddings: Vec<&'r [f32]>,
}

/// Header with the shape of raw embeddings.
const SHAPE: HeaderName = HeaderName::from_static("x-shape");

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
    /// Options of decoding posted images.
    pub decode: DecodeOptions,
    /// The network's input size.
    pub size: ImageSize,
    /// Limits the requests whose images are decoded.
    pub decoders: Semaphore,
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
#[derive(Debug, Clone)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
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
        .route("/embed", post(embed))
        .route("/openapi.json", text("application/json", include_str!("openapi.json")))
        .fallback(|| async { Refusal::new(StatusCode::NOT_FOUND, "there is no such page") })
        .method_not_allowed_fallback(|uri: Uri| async move {
            let reason = if ["/search", "/embed"].contains(&uri.path()) { "use POST" } else { "use GET" };
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
    let top = parameters(request.uri().query().unwrap_or_default(), ["top"])?[0];
    let top = top.map_or(Ok(site.top), posted::top)?;
    let mut form = posted::read(request, site.limits.body).await?;
    form.files.truncate(1);
    let image = site.decode(Form { boxes: None, ..form }).await?.remove(0);
    let (answer, answered) = oneshot::channel();
    site.submit(Job::Search { image, top, answer })?;
    answered.await.unwrap_or_else(|_| Err(Refusal::stopping())).map(Json)
}

/// Embeddings of the images in the body, or of boxes in one of them.
async fn embed(State(site): State<Arc<Site>>, request: Request) -> std::result::Result<Response, Refusal> {
    let _searching = Searching::begin(&site.searching);
    let [format, boxes] = parameters(request.uri().query().unwrap_or_default(), ["format", "boxes"])?;
    let format = format.map_or(Ok(Format::Json), posted::format)?;
    let boxes = boxes.map(|text| posted::boxes(&text.replace("%2C", ",").replace("%3B", ";"))).transpose()?;
    let mut form = posted::read(request, site.limits.body).await?;
    form.boxes = boxes.or(form.boxes);
    let images = site.decode(form).await?;
    let (answer, answered) = oneshot::channel();
    site.submit(Job::Embed { images, answer })?;
    let embeddings = answered.await.unwrap_or_else(|_| Err(Refusal::stopping()))?;
    Ok(embeddings.response(format))
}

impl Site {
    /// Decodes what was posted, on another thread.
    async fn decode(self: &Arc<Site>, form: Form) -> std::result::Result<Vec<Rgb>, Refusal> {
        let _decoding = self.decoders.acquire().await.map_err(|_| Refusal::stopping())?;
        let (options, size) = (self.decode, self.size);
        let decoded = tokio::task::spawn_blocking(move || posted::decode(&form, options, size)).await;
        decoded.unwrap_or_else(|_| Err(Refusal::stopping()))
    }

    fn submit(&self, job: Job) -> std::result::Result<(), Refusal> {
        self.jobs.try_send(job).map_err(|error| match error {
            TrySendError::Full(_) => Refusal::new(
                StatusCode::SERVICE_UNAVAILABLE,
                format!("{QUEUE} requests are waiting: try again"),
            ),
            TrySendError::Closed(_) => Refusal::stopping(),
        })
    }
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

/// The values of a query string's parameters, which are among `names`.
fn parameters<'q, const N: usize>(
    query: &'q str,
    names: [&str; N],
) -> std::result::Result<[Option<&'q str>; N], Refusal> {
    let mut values = [None; N];
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let Some(place) = names.iter().position(|known| *known == name) else {
            let known = names.join(" and ");
            let reason = format!("unknown parameter {name}: there is only {known}");
            return Err(Refusal::new(StatusCode::BAD_REQUEST, reason));
        };
        values[place] = Some(value);
    }
    Ok(values)
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
            decode: DecodeOptions::default(),
            size: ImageSize { height: 2, width: 1 },
            decoders: Semaphore::new(DECODERS),
            health: json!({}),
            loopback: true,
            searching: AtomicUsize::new(0),
            limits: Limits::new(),
        };
        (site, waiting)
    }

    /// A bitmap of one pixel.
    fn bitmap() -> Vec<u8> {
        let mut bytes = std::io::Cursor::new(Vec::new());
        image::RgbImage::from_pixel(1, 1, image::Rgb([1, 2, 3]))
            .write_to(&mut bytes, image::ImageFormat::Bmp)
            .unwrap();
        bytes.into_inner()
    }

    /// Posts an image and returns the whole answer.
    fn post(address: SocketAddr) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        let body = bitmap();
        write!(
            stream,
            "POST /search HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        )
        .unwrap();
        stream.write_all(&body).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// Answers a search; returns its pixels and the number of matches.
    fn find_one(waiting: &mut mpsc::Receiver<Job>) -> (Vec<u8>, usize) {
        let Some(Job::Search { image, top, answer }) = waiting.blocking_recv() else { panic!("no search") };
        answer.send(Ok(json!({ "found": 1 }))).unwrap();
        (image.pixels, top)
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
        assert!(full.ends_with(r#"{"error":"32 requests are waiting: try again"}"#), "{full}");

        assert_eq!(find_one(&mut waiting), (vec![1, 2, 3, 1, 2, 3], 10));
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
            find_one(&mut waiting);
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
    fn only_known_parameters_are_read() {
        assert_eq!(parameters("&b=1&", ["a", "b"]).unwrap(), [None, Some("1")]);
        assert_eq!(parameters("a", ["a"]).unwrap(), [Some("")]);
        for bad in ["c=1", "a=1&A=2"] {
            assert_eq!(parameters(bad, ["a", "b"]).unwrap_err().status, StatusCode::BAD_REQUEST, "{bad}");
        }
    }
}
