//! A server whose behaviour is known because it does nothing else, and which measures itself.
//!
//! It shares no code with the generator's ring: plain sockets, one thread, its own clock readings.
//! Every request has a deadline, and its reply leaves at the deadline:
//!
//! ```text
//!   request read ──► queue of deadlines ──► due: clock read, replies written
//!        │ clock read                            │
//!        └────────── the delay that it measured ─┘
//! ```
//!
//! The first reading comes after the request's bytes are in hand, the second before the reply's leave
//! it, so what the server measured is never longer than what a client must have waited.
//!
//! A stall is a time in which it touches no socket at all, as a process that was stopped does.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use forebay_core::time::Nanos;
use forebay_net::ring::{now, pin_to_core};
use hdrhistogram::Histogram;

use crate::error::BenchError;
use crate::generator::latency_histogram;
use crate::target::floor::{HEADER_BYTES, REPLY_BYTES};

/// Where a frame's correlation stands, in requests and replies.
const CORRELATION_AT: usize = 16;
/// Between two looks for new connections.
const ACCEPT_EVERY_NANOS: u64 = Nanos::PER_MILLI;
/// A gentle server rests this long when nothing is due.
const REST: Duration = Duration::from_micros(50);

/// What the server does.
#[derive(Clone, Copy, Debug)]
pub(super) struct Behaviour {
    /// From a request to its reply.
    pub(super) delay: Duration,
    /// After the first request, and for how long, nothing is done.
    pub(super) stall: Option<(Duration, Duration)>,
    /// Never sleep, so that deadlines are met within a microsecond. Costs a core.
    pub(super) is_spinning: bool,
    pub(super) core: Option<usize>,
}

/// What the server measured.
#[derive(Debug)]
pub(super) struct Measured {
    /// From each request to its reply, in nanoseconds.
    pub(super) delays: Histogram<u64>,
    /// When each reply left, in their order.
    pub(super) sent_at: Vec<Nanos>,
}

/// A running server.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Measured>,
}

impl Server {
    /// Starts one on a port that the kernel chooses.
    pub(super) fn start(behaviour: Behaviour) -> Result<Server, BenchError> {
        let failed = |source| BenchError::Io { what: "starting the self-test's server", source };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let body = move || {
            if let Some(core) = behaviour.core {
                // Unpinned it is less exact, and says so in what it measures.
                let _ = pin_to_core(core);
            }
            Loop::new(behaviour, listener).run(&stopped)
        };
        let thread =
            std::thread::Builder::new().name("self-test".to_owned()).spawn(body).map_err(failed)?;
        Ok(Server { address, stop, thread })
    }

    /// Ends it.
    pub(super) fn finish(self) -> Measured {
        self.stop.store(true, Ordering::Release);
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

struct Conn {
    stream: TcpStream,
    /// Bytes of a frame that has not arrived whole.
    torn: Vec<u8>,
    replies: Vec<u8>,
    is_open: bool,
}

/// A request on its way to being answered.
struct Due {
    at: Nanos,
    read_at: Nanos,
    conn: usize,
    correlation: [u8; 8],
}

struct Loop {
    behaviour: Behaviour,
    listener: TcpListener,
    conns: Vec<Conn>,
    /// All delays are equal, so deadlines come in the order of requests.
    due: VecDeque<Due>,
    stall: Option<(Nanos, Nanos)>,
    accept_at: Nanos,
    measured: Measured,
}

impl Loop {
    fn new(behaviour: Behaviour, listener: TcpListener) -> Loop {
        let measured =
            Measured { delays: latency_histogram(), sent_at: Vec::with_capacity(1 << 20) };
        let (conns, due) = (Vec::new(), VecDeque::with_capacity(1 << 16));
        Loop { behaviour, listener, conns, due, stall: None, accept_at: Nanos(0), measured }
    }

    fn run(mut self, stopped: &AtomicBool) -> Measured {
        let mut piece = vec![0; 256 * 1024];
        while !stopped.load(Ordering::Acquire) {
            let begun = now();
            if let Some((from, to)) = self.stall
                && (from..to).contains(&begun)
            {
                std::thread::sleep(Duration::from_nanos(to.since(begun)));
            }
            if begun >= self.accept_at {
                self.accept();
                self.accept_at = begun + ACCEPT_EVERY_NANOS;
            }
            for conn in 0..self.conns.len() {
                self.read(conn, &mut piece);
            }
            let replied = self.reply();
            if !replied && !self.behaviour.is_spinning {
                std::thread::sleep(REST);
            }
        }
        self.measured
    }

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            if stream.set_nonblocking(true).and_then(|()| stream.set_nodelay(true)).is_ok() {
                let (torn, replies) = (Vec::new(), Vec::new());
                self.conns.push(Conn { stream, torn, replies, is_open: true });
            }
        }
    }

    fn read(&mut self, index: usize, piece: &mut [u8]) {
        let conn = &mut self.conns[index];
        if !conn.is_open {
            return;
        }
        let read = match conn.stream.read(piece) {
            Ok(0) => {
                conn.is_open = false;
                return;
            }
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            Err(_) => {
                conn.is_open = false;
                return;
            }
        };
        let read_at = now();
        if self.stall.is_none()
            && let Some((after, length)) = self.behaviour.stall
        {
            let from = read_at + after.as_nanos() as u64;
            self.stall = Some((from, from + length.as_nanos() as u64));
        }
        let at = read_at + self.behaviour.delay.as_nanos() as u64;
        conn.torn.extend_from_slice(&piece[..read]);
        let mut used = 0;
        while let Some(header) = conn.torn[used..].first_chunk::<HEADER_BYTES>() {
            let length =
                u32::from_le_bytes(*header.first_chunk().expect("a header holds it")) as usize;
            if length < HEADER_BYTES || conn.torn.len() - used < length {
                break;
            }
            let word = &header[CORRELATION_AT..CORRELATION_AT + 8];
            let correlation = word.try_into().expect("eight bytes");
            self.due.push_back(Due { at, read_at, conn: index, correlation });
            used += length;
        }
        conn.torn.drain(..used);
    }

    /// Answers what is due; whether there was anything.
    fn reply(&mut self) -> bool {
        let begun = now();
        if self.due.front().is_none_or(|due| due.at > begun) {
            return false;
        }
        while let Some(due) = self.due.pop_front_if(|due| due.at <= begun) {
            let sent_at = begun;
            self.measured.delays.saturating_record(sent_at.since(due.read_at).max(1));
            self.measured.sent_at.push(sent_at);
            let mut reply = [0; REPLY_BYTES];
            reply[..4].copy_from_slice(&(REPLY_BYTES as u32).to_le_bytes());
            reply[CORRELATION_AT..CORRELATION_AT + 8].copy_from_slice(&due.correlation);
            self.conns[due.conn].replies.extend_from_slice(&reply);
        }
        for conn in self.conns.iter_mut().filter(|conn| !conn.replies.is_empty()) {
            let mut left = conn.replies.as_slice();
            while conn.is_open && !left.is_empty() {
                match conn.stream.write(left) {
                    Ok(written) => left = &left[written..],
                    Err(error) if error.kind() == ErrorKind::WouldBlock => std::hint::spin_loop(),
                    Err(_) => conn.is_open = false,
                }
            }
            conn.replies.clear();
        }
        true
    }
}
