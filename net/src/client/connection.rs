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
//!
//! A connection begins with a question, what node this is, and carries requests only once that is
//! answered. The kernel of a node whose process is stopped still accepts connections: what was sent on
//! one of those would be lost without need. Later, a peer that says nothing at all while requests wait
//! is asked again at half of `silence_max`, and given up after all of it; one that is only slow answers
//! that question and is waited for.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use forebay_core::message::{ArchivedDescribeNodeReply, Kind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::{Notify, Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::config::ClientConfig;
use super::cover::Cover;
use super::error::Lost;
use super::exchange::{self, Exchange, GivenUp, NoReply};
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
    /// A request was queued where there was none.
    busy: Notify,
    closing: Notify,
    silence_max: Duration,
}

/// How a node answered on a new connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Hello {
    /// As itself.
    Node {
        /// Its identity.
        id: [u8; 16],
        /// Number and port of every shard.
        shards: Vec<(u16, u16)>,
    },
    /// With a refusal: it stops, is overloaded or has failed. It may still refuse others by name.
    Refused {
        /// An [`forebay_core::message::ErrorCode`]'s number.
        code: u16,
        /// The node's words.
        message: String,
    },
}

impl Hello {
    fn read(received: &Received) -> io::Result<Hello> {
        if let Some((code, message)) = received.last_words() {
            return Ok(Hello::Refused { code, message });
        }
        let reply = received
            .message::<ArchivedDescribeNodeReply>(Kind::DescribeNodeReply)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        let shards = reply.shards.iter();
        Ok(Hello::Node {
            id: reply.node_id,
            shards: shards.map(|at| (at.shard.to_native(), at.port.to_native())).collect(),
        })
    }
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
    /// Connects, and waits for the first answer.
    pub(super) async fn open(
        addr: SocketAddr,
        config: &ClientConfig,
    ) -> io::Result<(Connection, Hello)> {
        let opened = timeout(config.connect_timeout, async {
            let mut stream = TcpStream::connect(addr).await?;
            // Requests are whole when they are written; waiting for more would only delay them.
            stream.set_nodelay(true)?;
            let cover = Cover::put_on(&mut stream, config.tls.as_ref()).await?;
            let mut inbox = Inbox::default();
            let hello = greet(&mut stream, &cover, &mut inbox).await?;
            io::Result::Ok((stream, cover, inbox, hello))
        });
        let (stream, cover, inbox, hello) = opened.await??;
        let shared = Arc::new(Shared {
            exchange: Mutex::new(Exchange::new()),
            room: Semaphore::new(config.in_flight_max),
            writable: Notify::new(),
            busy: Notify::new(),
            closing: Notify::new(),
            silence_max: config.silence_max,
        });
        tokio::spawn(run(stream, cover, inbox, TaskGuard(shared.clone())));
        Ok((Connection { shared }, hello))
    }

    /// Whether it has not ended.
    pub(super) fn is_open(&self) -> bool {
        self.shared.exchange().lost().is_none()
    }

    /// Whether a request should be sent on it: not where others have waited in silence for long.
    pub(super) fn is_usable(&self) -> bool {
        let exchange = self.shared.exchange();
        let suspect = self.shared.silence_max / 4 * 3;
        exchange.lost().is_none() && exchange.silence(Instant::now()) < suspect
    }

    /// Whether it ended because nothing arrived.
    pub(super) fn fell_silent(&self) -> bool {
        matches!(self.shared.exchange().lost(), Some(Lost::Silent { .. }))
    }

    /// Whether any request was ever answered on it.
    pub(super) fn has_answered(&self) -> bool {
        self.shared.exchange().has_answered()
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
            shared.busy.notify_one();
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
    /// The time is up.
    fn late(mut self) -> Result<Received, CallError> {
        let mut exchange = self.shared.exchange();
        let given_up = exchange.give_up(self.slot);
        // One step for the exchange: a reply in between would meet a slot that expects none.
        exchange.release(self.slot);
        self.released = true;
        drop(exchange);
        match given_up {
            GivenUp::Answered(received) => Ok(received),
            GivenUp::Unsent => Err(CallError::Deadline { sent: false }),
            GivenUp::Sent => Err(CallError::Deadline { sent: true }),
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

/// Asks what node this is, and reads the answer.
async fn greet(stream: &mut TcpStream, cover: &Cover, inbox: &mut Inbox) -> io::Result<Hello> {
    let (mut out, mut sealed) = (SendBuf::new(), SendBuf::new());
    exchange::append_probe(&mut out);
    stream.write_all(cover.seal(&out, &mut sealed)?).await?;
    let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
    let mut piece = vec![0; 4096];
    loop {
        let bytes = stream.read(&mut piece).await?;
        if bytes == 0 {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        let (mut hello, mut broken) = (None, None);
        cover.unseal(&piece[..bytes], |plain| {
            let received = inbox.receive(plain, |frame| hello = Some(Received::new(&frame)));
            broken = broken.take().or(received.err());
        })?;
        if let Some(error) = broken {
            return Err(invalid(error));
        }
        if let Some(received) = hello {
            return Hello::read(&received);
        }
    }
}

async fn run(mut stream: TcpStream, cover: Cover, inbox: Inbox, guard: TaskGuard) {
    let shared = &*guard.0;
    let (reader, writer) = stream.split();
    let lost = tokio::select! {
        // What has arrived counts before any silence.
        biased;
        // Whoever closed it said why.
        () = shared.closing.notified() => return,
        lost = read_loop(shared, &cover, inbox, reader) => lost,
        lost = write_loop(shared, &cover, writer) => lost,
        lost = listen_for_silence(shared) => lost,
    };
    shared.close(lost);
}

/// Wakes only while requests are under way.
async fn listen_for_silence(shared: &Shared) -> Lost {
    let silence_max = shared.silence_max;
    loop {
        let idle = shared.exchange().in_flight() == 0;
        if idle {
            shared.busy.notified().await;
        }
        sleep(silence_max / 8).await;
        let mut exchange = shared.exchange();
        let silence = exchange.silence(Instant::now());
        if silence >= silence_max {
            return Lost::Silent { silence };
        }
        if silence >= silence_max / 2 && exchange.ask_for_life() {
            shared.writable.notify_one();
        }
    }
}

async fn read_loop(
    shared: &Shared,
    cover: &Cover,
    mut inbox: Inbox,
    mut reader: ReadHalf<'_>,
) -> Lost {
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
        let unsealed = cover.unseal(bytes, |plain| {
            let mut lost = None;
            let received = inbox.receive(plain, |frame| {
                if refused.is_none() && lost.is_none() {
                    lost = exchange.answer(&frame).err();
                }
            });
            let lost = lost.or(received.err().map(Lost::Frame));
            refused = refused.take().or(lost);
        });
        if let Some(lost) = refused {
            return lost;
        }
        if let Err(error) = unsealed {
            return Lost::Io(Arc::new(error));
        }
    }
}

async fn write_loop(shared: &Shared, cover: &Cover, mut writer: WriteHalf<'_>) -> Lost {
    let (mut batch, mut sealed) = (SendBuf::new(), SendBuf::new());
    loop {
        shared.exchange().take_batch(&mut batch, Instant::now());
        if batch.is_empty() {
            shared.writable.notified().await;
            // Callers that are ready now join this write.
            tokio::task::yield_now().await;
            continue;
        }
        let written = match cover.seal(&batch, &mut sealed) {
            Ok(bytes) => writer.write_all(bytes).await,
            Err(error) => Err(error),
        };
        if let Err(error) = written {
            return Lost::Io(Arc::new(error));
        }
        batch.clear();
        if batch.capacity().max(sealed.capacity()) > WRITE_KEEP_BYTES {
            (batch, sealed) = (SendBuf::new(), SendBuf::new());
        }
    }
}
