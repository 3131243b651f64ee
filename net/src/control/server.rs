//! The HTTP server of the control lane, and its limits.
//!
//! ```text
//!   accept ──(connections_max)──► hyper, one task a connection ──(work_max)──► blocking thread
//!             over: closed          header bytes and seconds,                   asks the source;
//!             and counted           lifetime: connection closed                 panic: 500, counted
//! ```
//!
//! The source is asked on tokio's blocking threads: a panic there ends a thread's task and nothing
//! else, and a source that hangs holds one of a few permits, so that the listener goes on
//! answering 503. Nothing here retries.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;

use super::{ControlSource, exposition};

/// Limits and place of the control lane. The defaults suit every node.
#[derive(Clone, Debug)]
pub struct ControlConfig {
    /// Where to listen; port 0 takes any free one.
    pub listen: SocketAddr,
    /// The core for the control threads, so that they stay off pinned shards. None: any core.
    pub core: Option<usize>,
    /// Connections at one time: a few people and a few scrapers.
    pub connections_max: usize,
    /// Bytes of one request's head. hyper's smallest buffer is 8 KiB.
    pub header_bytes_max: usize,
    /// Headers of one request.
    pub headers_max: usize,
    /// For a client to send a whole request head, also the next one on the same connection.
    pub header_timeout: Duration,
    /// For the source to answer.
    pub answer_timeout: Duration,
    /// For one connection in all; scrapers come back.
    pub connection_lifetime: Duration,
    /// Requests that ask the source at one time.
    pub work_max: usize,
}

impl ControlConfig {
    /// The defaults, listening at `listen`.
    #[must_use]
    pub fn at(listen: SocketAddr) -> ControlConfig {
        ControlConfig {
            listen,
            core: None,
            connections_max: 64,
            header_bytes_max: 16 * 1024,
            headers_max: 64,
            header_timeout: Duration::from_secs(5),
            answer_timeout: Duration::from_secs(5),
            connection_lifetime: Duration::from_secs(60),
            work_max: 4,
        }
    }
}

/// Why the control lane does not start.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Another process listens there. Choose another port, or stop the other process.
    #[error("operator HTTP cannot listen at {at}: the port is taken; choose another with --http")]
    PortTaken {
        /// Where.
        at: SocketAddr,
    },
    /// The address is not usable: not this machine's, or a privileged port.
    #[error("operator HTTP cannot listen at {at}: {source}")]
    Bind {
        /// Where.
        at: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The threads could not be created: a limit on processes or memory.
    #[error("the control threads cannot start: {0}")]
    Threads(io::Error),
}

/// What the control lane counts about itself.
#[derive(Debug, Default)]
pub struct ControlCounters {
    requests: AtomicU64,
    panics: AtomicU64,
    timeouts: AtomicU64,
    refused: AtomicU64,
}

impl ControlCounters {
    /// Requests with a readable head.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.requests.load(Relaxed)
    }

    /// Panics caught in handlers.
    #[must_use]
    pub fn panics(&self) -> u64 {
        self.panics.load(Relaxed)
    }

    /// Requests that the source did not answer in time.
    #[must_use]
    pub fn timeouts(&self) -> u64 {
        self.timeouts.load(Relaxed)
    }

    /// Connections over the limit.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }
}

/// A running control lane. Dropping it stops it.
#[derive(Debug)]
pub struct ControlServer {
    runtime: Option<Runtime>,
    local_addr: SocketAddr,
    counters: Arc<ControlCounters>,
}

impl ControlServer {
    /// Binds the address and starts the threads.
    pub fn start(
        config: ControlConfig,
        source: Arc<dyn ControlSource>,
    ) -> Result<ControlServer, ControlError> {
        let at = config.listen;
        let listener = bind(at).map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => ControlError::PortTaken { at },
            _ => ControlError::Bind { at, source },
        })?;
        let local_addr =
            listener.local_addr().map_err(|source| ControlError::Bind { at, source })?;
        let core = config.core;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(config.work_max)
            .thread_name("control")
            .on_thread_start(move || {
                if let Some(id) = core {
                    // Failure leaves the thread where it is: slower perhaps, never wrong.
                    core_affinity::set_for_current(core_affinity::CoreId { id });
                }
            })
            .enable_all()
            .build()
            .map_err(ControlError::Threads)?;
        let counters = Arc::new(ControlCounters::default());
        let service = Arc::new(Service {
            work: Arc::new(Semaphore::new(config.work_max)),
            counters: Arc::clone(&counters),
            config,
            source,
        });
        let listener = {
            let _inside = runtime.enter();
            tokio::net::TcpListener::from_std(listener)
                .map_err(|source| ControlError::Bind { at, source })?
        };
        runtime.spawn(accept(listener, service));
        Ok(ControlServer { runtime: Some(runtime), local_addr, counters })
    }

    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// What it has counted.
    #[must_use]
    pub fn counters(&self) -> &ControlCounters {
        &self.counters
    }
}

impl Drop for ControlServer {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // A source that hangs must not keep the process: its thread ends with it.
            runtime.shutdown_background();
        }
    }
}

fn bind(at: SocketAddr) -> io::Result<TcpListener> {
    let domain = socket2::Domain::for_address(at);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
    // A restart must not wait for the last connection's TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&at.into())?;
    socket.listen(128)?;
    Ok(socket.into())
}

struct Service {
    config: ControlConfig,
    source: Arc<dyn ControlSource>,
    work: Arc<Semaphore>,
    counters: Arc<ControlCounters>,
}

async fn accept(listener: tokio::net::TcpListener, service: Arc<Service>) {
    let slots = Arc::new(Semaphore::new(service.config.connections_max));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(_) => {
                // Out of descriptors, or the client left already: the first needs a pause.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
            service.counters.refused.fetch_add(1, Relaxed);
            // Best effort into the empty send buffer; whoever does not read it sees a close.
            let busy = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\
                         connection: close\r\nretry-after: 1\r\n\r\n";
            let _ = stream.try_write(busy);
            continue;
        };
        let service = Arc::clone(&service);
        tokio::spawn(async move {
            let config = &service.config;
            let mut http = http1::Builder::new();
            http.timer(TokioTimer::new())
                .header_read_timeout(config.header_timeout)
                .max_buf_size(config.header_bytes_max)
                .max_headers(config.headers_max);
            let respond = service_fn(|request| {
                let service = Arc::clone(&service);
                async move { Ok::<_, Infallible>(service.respond(request).await) }
            });
            let connection = http.serve_connection(TokioIo::new(stream), respond);
            // Errors are the client's: hyper has answered 4xx where an answer was possible.
            let _ = tokio::time::timeout(config.connection_lifetime, connection).await;
            drop(slot);
        });
    }
}

const INDEX: &str = "Forebay node\n\n/health   can it serve?\n/metrics  for Prometheus\n\
                     /status   everything, as JSON\n";

impl Service {
    async fn respond(self: &Arc<Self>, request: Request<Incoming>) -> Response<Full<Bytes>> {
        self.counters.requests.fetch_add(1, Relaxed);
        if request.method() != Method::GET && request.method() != Method::HEAD {
            let mut refusal = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
            refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return refusal;
        }
        match request.uri().path() {
            "/" => text(StatusCode::OK, INDEX),
            "/health" => self.ask(Service::health).await,
            "/metrics" => self.ask(Service::metrics).await,
            "/status" => self.ask(Service::status).await,
            _ => text(StatusCode::NOT_FOUND, "no such page; see /\n"),
        }
    }

    /// Runs `answer` where it may block or panic without harm.
    async fn ask(
        self: &Arc<Self>,
        answer: fn(&Service) -> Response<Full<Bytes>>,
    ) -> Response<Full<Bytes>> {
        let service = Arc::clone(self);
        let work = async {
            let permit = Arc::clone(&self.work).acquire_owned().await;
            let handle = tokio::task::spawn_blocking(move || {
                // Held by the work, not by the wait for it: giving up does not free a thread.
                let _permit = permit;
                answer(&service)
            });
            handle.await
        };
        match tokio::time::timeout(self.config.answer_timeout, work).await {
            Ok(Ok(response)) => response,
            Ok(Err(_)) => {
                self.counters.panics.fetch_add(1, Relaxed);
                text(StatusCode::INTERNAL_SERVER_ERROR, "the handler panicked; it was counted\n")
            }
            Err(_) => {
                self.counters.timeouts.fetch_add(1, Relaxed);
                text(StatusCode::SERVICE_UNAVAILABLE, "the node did not answer in time\n")
            }
        }
    }

    fn health(&self) -> Response<Full<Bytes>> {
        let health = self.source.health();
        let code = if health.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        json(code, &health)
    }

    fn status(&self) -> Response<Full<Bytes>> {
        json(StatusCode::OK, &self.source.status())
    }

    fn metrics(&self) -> Response<Full<Bytes>> {
        let encoded = exposition::encode(self.source.metrics(), self.source.tls(), &self.counters)
            .expect("writing to a String cannot fail");
        typed(StatusCode::OK, exposition::CONTENT_TYPE, encoded.into())
    }
}

fn json(code: StatusCode, value: &impl serde::Serialize) -> Response<Full<Bytes>> {
    let mut body = serde_json::to_vec_pretty(value).expect("plain structs serialize");
    body.push(b'\n');
    typed(code, "application/json", body.into())
}

fn text(code: StatusCode, body: &'static str) -> Response<Full<Bytes>> {
    typed(code, "text/plain; charset=utf-8", Bytes::from_static(body.as_bytes()))
}

fn typed(code: StatusCode, content_type: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
