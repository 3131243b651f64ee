//! One TCP connection: a task that writes what is queued and hands out what arrives.
//!
//! ```text
//!   callers ──begin──► Exchange ──take_batch──► write loop ──► socket
//!           ◄──poll───          ◄──answer────── read loop  ◄──
//! ```
//!
//! Requests of several callers that are queued together leave in one write. Callers wait for room
//! before they queue, so neither the queue nor the waiting replies grow beyond a bound. A caller
//! that leaves (timeout or a dropped future) takes its queued request back, and lets a sent one's
//! reply fall.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::{Notify, Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout_at};

use super::config::ClientConfig;
use super::error::Lost;
use super::exchange::{Exchange, GivenUp, NoReply};
use super::wire::{Call, Received};
use crate::frame::Inbox;
use crate::machine::SendBuf;

/// Bytes asked of the socket at a time.
const READ_BYTES: usize = 64 * 1024;
/// A write buffer that grew beyond this for a large request is given back.
const WRITE_KEEP_BYTES: usize = 256 * 1024;

/// How a request ended without a reply, or before one.
#[derive(Debug)]
pub(super) enum CallError {
    /// The connection ended.
    NoReply(NoReply),
    /// The time was up.
    Deadline {
        /// Whether any of it may have reached the node.
        sent: bool,
    },
}

/// What callers and the connection's task share.
#[derive(Debug)]
struct Shared {
    exchange: Mutex<Exchange>,
    room: Semaphore,
    writable: Notify,
    closing: Notify,
    silence_max: Duration,
}

impl Shared {
    fn exchange(&self) -> MutexGuard<'_, Exchange> {
        // No code between lock and unlock panics half way through a change.
        self.exchange.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self, lost: Lost) {
        self.exchange().close(lost);
        self.room.close();
        self.closing.notify_one();
    }
}

/// A handle; dropping it closes the connection.
#[derive(Debug)]
pub(super) struct Connection {
    shared: Arc<Shared>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.shared.close(Lost::Dropped);
    }
}

/// Closes the exchange when the task ends, also when it panics or the runtime stops.
struct TaskGuard(Arc<Shared>);

impl Drop for TaskGuard {
    fn drop(&mut self) {
        self.0.close(Lost::Dropped);
    }
}

impl Connection {
    pub(super) async fn open(
        addr: SocketAddr,
        config: &ClientConfig,
        deadline: Instant,
    ) -> std::io::Result<Connection> {
        let until = deadline.min(Instant::now() + config.connect_timeout);
        let stream = timeout_at(until, TcpStream::connect(addr)).await??;
        // Requests are whole when they are written; waiting for more would only delay them.
        stream.set_nodelay(true)?;
        let shared = Arc::new(Shared {
            exchange: Mutex::new(Exchange::new()),
            room: Semaphore::new(config.in_flight_max),
            writable: Notify::new(),
            closing: Notify::new(),
            silence_max: config.silence_max(),
        });
        tokio::spawn(run(stream, TaskGuard(shared.clone())));
        Ok(Connection { shared })
    }

    /// Whether it takes requests.
    pub(super) fn is_open(&self) -> bool {
        self.shared.exchange().lost().is_none()
    }

    /// Whether the peer ever said anything.
    pub(super) fn has_received(&self) -> bool {
        self.shared.exchange().has_received()
    }

    /// Requests that wait or are under way.
    pub(super) fn in_flight(&self) -> usize {
        self.shared.exchange().in_flight()
    }

    /// Sends a request and waits for its reply.
    pub(super) async fn call(
        &self,
        call: &Call<'_>,
        deadline: Instant,
    ) -> Result<Received, CallError> {
        let shared = &*self.shared;
        let permit = match timeout_at(deadline, shared.room.acquire()).await {
            Err(_) => return Err(CallError::Deadline { sent: false }),
            Ok(Ok(permit)) => permit,
            Ok(Err(_)) => {
                let lost = shared.exchange().lost().cloned().unwrap_or(Lost::Closed);
                return Err(CallError::NoReply(NoReply { sent: false, lost }));
            }
        };
        let (slot, wake) = shared.exchange().begin(call).map_err(CallError::NoReply)?;
        let in_flight = InFlight { shared, slot, released: false, _permit: permit };
        if wake {
            shared.writable.notify_one();
        }
        let reply = poll_fn(|context| shared.exchange().poll(slot, context));
        match timeout_at(deadline, reply).await {
            Ok(reply) => reply.map_err(CallError::NoReply),
            Err(_) => in_flight.late(),
        }
    }
}

/// A caller's hold on its slot.
struct InFlight<'a> {
    shared: &'a Shared,
    slot: u32,
    released: bool,
    /// Given back after the slot, so that there are never more slots than permits.
    _permit: SemaphorePermit<'a>,
}

impl InFlight<'_> {
    /// The time is up: the connection is given up as well if nothing at all came.
    fn late(mut self) -> Result<Received, CallError> {
        let mut exchange = self.shared.exchange();
        let given_up = exchange.give_up(self.slot, Instant::now());
        // One step for the exchange: a reply in between would meet a slot that expects none.
        exchange.release(self.slot);
        self.released = true;
        drop(exchange);
        match given_up {
            GivenUp::Answered(received) => Ok(received),
            GivenUp::Unsent => Err(CallError::Deadline { sent: false }),
            GivenUp::Sent { silence } => {
                if silence >= self.shared.silence_max {
                    self.shared.close(Lost::Silent { silence });
                }
                Err(CallError::Deadline { sent: true })
            }
        }
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        if !self.released {
            self.shared.exchange().release(self.slot);
        }
    }
}

async fn run(mut stream: TcpStream, guard: TaskGuard) {
    let shared = &*guard.0;
    let (reader, writer) = stream.split();
    let lost = tokio::select! {
        lost = read_loop(shared, reader) => lost,
        lost = write_loop(shared, writer) => lost,
        // Whoever closed it said why.
        () = shared.closing.notified() => return,
    };
    shared.close(lost);
}

async fn read_loop(shared: &Shared, mut reader: ReadHalf<'_>) -> Lost {
    let mut inbox = Inbox::default();
    // Aligned, so that whole frames are used where they arrive.
    let mut chunk = SendBuf::with_capacity(READ_BYTES);
    chunk.resize(READ_BYTES, 0);
    loop {
        let bytes = match reader.read(&mut chunk).await {
            Ok(0) => return Lost::Closed,
            Ok(bytes) => &chunk[..bytes],
            Err(error) => return Lost::Io(Arc::new(error)),
        };
        let mut exchange = shared.exchange();
        exchange.received(Instant::now());
        let mut refused = None;
        let received = inbox.receive(bytes, |frame| {
            if refused.is_none() {
                refused = exchange.answer(&frame).err();
            }
        });
        if let Some(lost) = refused {
            return lost;
        }
        if let Err(error) = received {
            return Lost::Frame(error);
        }
    }
}

async fn write_loop(shared: &Shared, mut writer: WriteHalf<'_>) -> Lost {
    let mut batch = SendBuf::new();
    loop {
        shared.exchange().take_batch(&mut batch, Instant::now());
        if batch.is_empty() {
            shared.writable.notified().await;
            // Callers that are ready now join this write.
            tokio::task::yield_now().await;
            continue;
        }
        if let Err(error) = writer.write_all(&batch).await {
            return Lost::Io(Arc::new(error));
        }
        batch.clear();
        if batch.capacity() > WRITE_KEEP_BYTES {
            batch = SendBuf::new();
        }
    }
}
