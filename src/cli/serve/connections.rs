//! Limits on the number of connections and on the time of each.
//!
//! A connection either waits for a complete header or is busy with a request. A waiting connection is closed when its
//! time is over. If all places are taken and another client connects, the connection that has waited longest is closed.
//! If all connections are busy, the client waits in the operating system's queue.

use axum::Router;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use std::collections::BTreeMap;
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

/// Largest number of connections, whatever the limit of descriptors.
const MOST: u64 = 256;
/// Descriptors reserved for files, drivers and the listener.
const SPARE: u64 = 32;
/// Least wait of a connection before it is closed for another one. Its header may have arrived unread.
const YOUNG: Duration = Duration::from_millis(10);
/// Pause after a connection that could not be accepted.
const PAUSE: Duration = Duration::from_millis(50);

/// Limits of a server.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Number of connections.
    pub connections: usize,
    /// Longest time of a header from its first byte.
    pub header: Duration,
    /// Longest time of a body.
    pub body: Duration,
    /// Longest wait before a header begins.
    pub idle: Duration,
}

impl Limits {
    /// The default limits, with as many connections as this process may have descriptors for.
    pub fn new() -> Limits {
        let connections = descriptors().map_or(MOST, |limit| limit.saturating_sub(SPARE).clamp(1, MOST));
        Limits {
            connections: connections as usize,
            header: Duration::from_secs(10),
            body: Duration::from_secs(30),
            idle: Duration::from_secs(60),
        }
    }
}

/// The limit of open descriptors of this process; `None` if there is none.
#[cfg(unix)]
fn descriptors() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current
}

/// The limit of open descriptors of this process; `None` if there is none.
#[cfg(not(unix))]
fn descriptors() -> Option<u64> {
    None
}

/// Locks, also after a holder panicked: no change is left incomplete.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// State of a connection.
struct Phase(Mutex<State>);

struct State {
    /// A request is being read or answered.
    busy: bool,
    /// Start of the wait: it was accepted, or its last answer was written.
    since: Instant,
    /// Arrival of the first byte of a header.
    begun: Option<Instant>,
}

impl Phase {
    fn new() -> Phase {
        Phase(Mutex::new(State { busy: false, since: Instant::now(), begun: None }))
    }

    /// Notes that bytes were read.
    fn read(&self) {
        let mut state = lock(&self.0);
        if !state.busy {
            state.begun.get_or_insert_with(Instant::now);
        }
    }

    /// Notes that bytes were written: a connection that sends an answer isn't idle.
    fn wrote(&self) {
        let mut state = lock(&self.0);
        if !state.busy {
            state.since = Instant::now();
        }
    }

    /// Notes that a header is complete.
    fn work(&self) {
        lock(&self.0).busy = true;
    }

    /// Notes that the answer is ready.
    fn wait(&self) {
        *lock(&self.0) = State { busy: false, since: Instant::now(), begun: None };
    }

    /// Start of its wait for a complete header.
    fn waits_since(&self) -> Option<Instant> {
        let state = lock(&self.0);
        (!state.busy).then_some(state.since)
    }

    /// End of its longest wait.
    fn deadline(&self, limits: &Limits) -> Option<Instant> {
        let State { busy, since, begun } = *lock(&self.0);
        (!busy).then(|| begun.map_or(since + limits.idle, |begun| begun + limits.header))
    }
}

/// All connections of a server.
pub(super) struct Connections {
    limits: Limits,
    open: Mutex<Open>,
    /// Signals that a connection ended or waits again.
    changed: Notify,
    /// True if every connection should end after its present request.
    stopping: watch::Sender<bool>,
}

#[derive(Default)]
struct Open {
    next: u64,
    connections: BTreeMap<u64, Connection>,
}

struct Connection {
    phase: Arc<Phase>,
    task: AbortHandle,
    /// True if it is about to end.
    closing: bool,
}

/// The place of one connection. Dropping it frees the place.
struct Place {
    number: u64,
    phase: Arc<Phase>,
    connections: Arc<Connections>,
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.connections.open).connections.remove(&self.number);
        self.connections.changed.notify_one();
    }
}

impl Connections {
    pub fn new(limits: Limits) -> Arc<Connections> {
        let (open, changed, stopping) = (Mutex::default(), Notify::new(), watch::Sender::new(false));
        Arc::new(Connections { limits, open, changed, stopping })
    }

    /// True without connections.
    pub fn is_empty(&self) -> bool {
        lock(&self.open).connections.is_empty()
    }

    /// Ends every connection after its present request.
    pub fn stop(&self) {
        self.stopping.send_replace(true);
    }

    /// Accepts connections while it is polled.
    pub async fn accept(self: &Arc<Self>, listener: TcpListener, router: Router) {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    self.make_room().await;
                    self.begin(stream, router.clone());
                }
                // The client is gone, or there are too few descriptors.
                Err(_) => {
                    self.close_oldest();
                    sleep(PAUSE).await;
                }
            }
        }
    }

    /// Waits until there is a place for another connection. Closes the one that has waited longest for it, if any.
    async fn make_room(&self) {
        while lock(&self.open).connections.len() >= self.limits.connections {
            match self.close_oldest() {
                // The loop checks again, whichever comes first.
                Some(later) => drop(timeout_at(later, self.changed.notified()).await),
                None => self.changed.notified().await,
            }
        }
    }

    /// Closes the connection that has waited longest for a complete header, unless one is closing already. If that one
    /// is too young, returns the time at which to try again.
    fn close_oldest(&self) -> Option<Instant> {
        let mut open = lock(&self.open);
        if open.connections.values().any(|connection| connection.closing) {
            return None;
        }
        let waiting = open.connections.values_mut().filter_map(|c| Some((c.phase.waits_since()?, c)));
        let (since, oldest) = waiting.min_by_key(|(since, _)| *since)?;
        if since.elapsed() < YOUNG {
            return Some(since + YOUNG);
        }
        oldest.closing = true;
        oldest.task.abort();
        None
    }

    fn begin(self: &Arc<Self>, stream: TcpStream, router: Router) {
        let phase = Arc::new(Phase::new());
        let mut open = lock(&self.open);
        let number = open.next;
        open.next += 1;
        let place = Place { number, phase: phase.clone(), connections: self.clone() };
        let task = tokio::spawn(attend(stream, router, place)).abort_handle();
        open.connections.insert(number, Connection { phase, task, closing: false });
    }
}

/// Answers the requests of a connection until it ends or has waited too long.
async fn attend(stream: TcpStream, router: Router, place: Place) {
    let Place { phase, connections, .. } = &place;
    let service = TowerToHyperService::new(router);
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        phase.work();
        let answer = service.call(request);
        async move {
            let answer = answer.await;
            phase.wait();
            connections.changed.notify_one();
            answer
        }
    });
    let io = TokioIo::new(Watched { stream, phase });
    let server = http1::Builder::new().header_read_timeout(None).serve_connection(io, service);
    let mut server = pin!(server);
    let mut stop = connections.stopping.subscribe();
    let mut stop = pin!(stop.wait_for(|stop| *stop));
    let mut stopping = false;
    let mut timer = pin!(sleep_until(Instant::now()));
    std::future::poll_fn(|context| {
        if !stopping && stop.as_mut().poll(context).is_ready() {
            stopping = true;
            server.as_mut().graceful_shutdown();
        }
        if server.as_mut().poll(context).is_ready() {
            return Poll::Ready(());
        }
        // Phases change only while the server is polled, so the timer is always up to date.
        let Some(deadline) = phase.deadline(&connections.limits) else { return Poll::Pending };
        if timer.deadline() != deadline {
            timer.as_mut().reset(deadline);
        }
        timer.as_mut().poll(context)
    })
    .await;
}

/// A stream that notes when bytes are read and written.
struct Watched<'a> {
    stream: TcpStream,
    phase: &'a Phase,
}

impl AsyncRead for Watched<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.phase.read();
        }
        result
    }
}

impl AsyncWrite for Watched<'_> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(context, bytes);
        if result.is_ready() {
            self.phase.wrote();
        }
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        if result.is_ready() {
            self.phase.wrote();
        }
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
