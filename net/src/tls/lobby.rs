//! Where connections wait until their certificates are checked: the control lane's part.
//!
//! ```text
//!   Door (a shard's port) ─ accept ─┐                        ┌─ refused: named, counted, told why
//!                                   ├─► handshake, deadline ─┤
//!   Dial (a link's) ─────── dial ───┘   at most so many      └─► Desk: the shard's mailbox, its waker
//! ```
//!
//! On a thread of its own, so that neither the operator's HTTP nor a flood of strangers slows a shard.
//! Strangers are bounded: handshakes under way, for clients, peers and dials each, so that clients
//! cannot keep peers out; seconds and bytes of each; connections on their way to a shard.
//!
//! Whoever speaks plain text is told so in plain text, in the words of the protocol that the port
//! serves. A refused side is given a moment to read why.
//!
//! Losing this lane costs new connections and nothing else.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use forebay_core::message::peer::{HelloRefusal, HelloRefused};
use forebay_core::message::{ErrorCode, ErrorReply};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{sleep, timeout};

use super::records::{RecordError, ShakeError};
use super::refusal::{Log, Refusal};
use super::{NodeTls, Records, Role, TlsError, shake};
use crate::frame;
use crate::lane::{Sender, Waker};
use crate::machine::SendBuf;

/// Handshakes under way, for clients and peers each. Each holds a few kilobytes.
const HANDSHAKES_MAX: usize = 256;
/// For a handshake: two round trips, on any network that this is for.
const HANDSHAKE_MAX: Duration = Duration::from_secs(3);
/// For dialing and its handshake; the links give up then.
const DIAL_MAX: Duration = Duration::from_secs(1);
/// Dials asked for and not begun.
pub(crate) const DIALS_QUEUE: usize = 256;
/// Connections on their way to a shard.
pub(crate) const ARRIVALS_QUEUE: usize = 256;
/// For a refused side to read why.
const LINGER_MAX: Duration = Duration::from_millis(500);
/// How often the log is looked after.
const LOG_TICK: Duration = Duration::from_secs(1);
/// After an accept failed for want of memory or files, the next try.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// Whom a port is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    /// Clients.
    Native,
    /// The other nodes.
    Peer,
}

/// A port of a shard.
#[derive(Debug)]
pub(crate) struct Door {
    pub(crate) listener: std::net::TcpListener,
    pub(crate) shard: usize,
    pub(crate) which: Which,
}

/// The way to a shard.
#[derive(Debug)]
pub(crate) struct Desk {
    pub(crate) arrivals: Sender<Arrival>,
    pub(crate) waker: Waker,
}

/// A shard wants to reach a peer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dial {
    pub(crate) shard: usize,
    pub(crate) token: u64,
    pub(crate) address: SocketAddr,
}

/// What a shard is handed.
#[derive(Debug)]
pub(crate) enum Arrival {
    Connection(Box<Adopted>),
    DialFailed { token: u64 },
}

/// A connection whose handshake is over.
#[derive(Debug)]
pub(crate) struct Adopted {
    pub(crate) descriptor: OwnedFd,
    /// As the ring would number it.
    pub(crate) listener: usize,
    /// The token of the dial that it answers.
    pub(crate) dialed: Option<u64>,
    /// Who the other side is, by its certificate.
    pub(crate) role: Role,
    /// In that certificate.
    pub(crate) name: String,
    pub(crate) records: Records,
    /// Plain bytes that came with the handshake's end.
    pub(crate) early: Vec<u8>,
}

/// What a lobby is for.
#[derive(Debug)]
pub(crate) struct LobbyPlan {
    pub(crate) tls: Arc<NodeTls>,
    pub(crate) core: Option<usize>,
    pub(crate) doors: Vec<Door>,
    /// By shard.
    pub(crate) desks: Vec<Desk>,
    pub(crate) dials: mpsc::Receiver<Dial>,
}

#[derive(Debug)]
struct Shared {
    tls: Arc<NodeTls>,
    desks: Vec<Mutex<Desk>>,
}

/// A running lobby. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Lobby {
    runtime: Option<Runtime>,
}

impl Drop for Lobby {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Lobby {
    pub(crate) fn start(plan: LobbyPlan) -> Result<Lobby, TlsError> {
        let core = plan.core;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(1)
            .thread_name("lobby")
            .on_thread_start(move || {
                if let Some(id) = core {
                    // Failure leaves the thread where it is: slower perhaps, never wrong.
                    core_affinity::set_for_current(core_affinity::CoreId { id });
                }
            })
            .enable_all()
            .build()
            .map_err(TlsError::Threads)?;
        let desks = plan.desks.into_iter().map(Mutex::new).collect();
        let shared = Arc::new(Shared { tls: plan.tls, desks });
        let inside = runtime.enter();
        for Door { listener, shard, which } in plan.doors {
            listener.set_nonblocking(true).map_err(TlsError::Threads)?;
            let listener = TcpListener::from_std(listener).map_err(TlsError::Threads)?;
            runtime.spawn(accept(Arc::clone(&shared), listener, shard, which));
        }
        runtime.spawn(dial_all(Arc::clone(&shared), plan.dials));
        runtime.spawn(log(shared));
        drop(inside);
        Ok(Lobby { runtime: Some(runtime) })
    }
}

async fn accept(shared: Arc<Shared>, listener: TcpListener, shard: usize, which: Which) {
    let slots = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    loop {
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(_) => {
                // Out of files or memory, or the other side has left already.
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
            shared.tls.refusals().count(Refusal::TooManyHandshakes, || format!("from {from}"));
            continue;
        };
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            shared.receive(stream, from, shard, which).await;
            drop(slot);
        });
    }
}

async fn dial_all(shared: Arc<Shared>, mut dials: mpsc::Receiver<Dial>) {
    while let Some(dial) = dials.recv().await {
        let shared = Arc::clone(&shared);
        tokio::spawn(async move { shared.dial(dial).await });
    }
}

async fn log(shared: Arc<Shared>) {
    let mut log = Log::default();
    loop {
        sleep(LOG_TICK).await;
        for line in log.due(shared.tls.refusals(), Instant::now()) {
            eprintln!("forebay: {line}");
        }
    }
}

/// How a handshake that was not finished ended, and with whom.
fn judge(error: &ShakeError) -> Option<Refusal> {
    match error {
        ShakeError::Records(error) => Some(error.refusal()),
        // Somebody looked whether the port is open.
        ShakeError::Left { silently: true } => None,
        ShakeError::Left { .. } | ShakeError::Io(_) => Some(Refusal::BrokenOff),
    }
}

impl Shared {
    /// Somebody came through a door.
    async fn receive(&self, mut stream: TcpStream, from: SocketAddr, shard: usize, which: Which) {
        let loaded = self.tls.loaded();
        let config = match which {
            Which::Native => &loaded.clients,
            Which::Peer => &loaded.peers,
        };
        let mut records = Records::serving(Arc::clone(config));
        let mut early = Vec::new();
        let shaken = timeout(HANDSHAKE_MAX, shake(&mut stream, &mut records, &mut early)).await;
        let refusals = self.tls.refusals();
        match shaken {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                if let Some(refusal) = judge(&error) {
                    let whom = match which {
                        Which::Native => "a client",
                        Which::Peer => "a peer",
                    };
                    refusals.count(refusal, || format!("{whom} at {from}: {error}"));
                }
                if let ShakeError::Records(error) = error {
                    tell(&mut stream, &error, which).await;
                }
                return;
            }
            Err(_) => return refusals.count(Refusal::HandshakeTimeout, || format!("from {from}")),
        }
        self.hand_over(stream, records, early, which, shard, None, || format!("from {from}"));
    }

    /// A shard wants to reach a peer.
    async fn dial(&self, dial: Dial) {
        let Dial { shard, token, address } = dial;
        let mut early = Vec::new();
        let config = Arc::clone(&self.tls.loaded().dialing);
        let dialed = timeout(DIAL_MAX, async {
            let mut stream = TcpStream::connect(address).await?;
            let mut records = Records::dialing(config);
            shake(&mut stream, &mut records, &mut early).await?;
            Ok::<_, ShakeError>((stream, records))
        });
        let refusals = self.tls.refusals();
        match dialed.await {
            Ok(Ok((stream, records))) => {
                let whom = || format!("to {address}");
                self.hand_over(stream, records, early, Which::Peer, shard, Some(token), whom);
            }
            Ok(Err(error)) => {
                if let ShakeError::Records(records) = &error {
                    refusals.count(records.refusal(), || format!("the peer at {address}: {error}"));
                }
                self.send(shard, Arrival::DialFailed { token });
            }
            // As likely a dead node as a slow one: its links say so.
            Err(_) => {
                self.send(shard, Arrival::DialFailed { token });
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "one connection with its whole context")]
    fn hand_over(
        &self,
        stream: TcpStream,
        records: Records,
        early: Vec<u8>,
        which: Which,
        shard: usize,
        dialed: Option<u64>,
        whom: impl Fn() -> String,
    ) {
        let refusals = self.tls.refusals();
        let (listener, roles) = match which {
            Which::Native => (0, Role::DIALERS),
            Which::Peer => (crate::shard::PEER_LISTENER, Role::PEERS),
        };
        let (role, name) = records.peer_name(roles).expect("the verifier looked at it");
        let descriptor = match to_blocking(stream) {
            Ok(descriptor) => descriptor,
            Err(error) => {
                refusals.count(Refusal::BrokenOff, || format!("{}: {error}", whom()));
                if let Some(token) = dialed {
                    self.send(shard, Arrival::DialFailed { token });
                }
                return;
            }
        };
        refusals.shaken();
        let adopted = Adopted { descriptor, listener, dialed, role, name, records, early };
        if !self.send(shard, Arrival::Connection(Box::new(adopted))) {
            refusals.count(Refusal::ShardFull, whom);
        }
    }

    /// Whether the shard's mailbox took it. A dial's answer that is lost is given up by its link.
    fn send(&self, shard: usize, arrival: Arrival) -> bool {
        let mut desk = self.desks[shard].lock().unwrap_or_else(PoisonError::into_inner);
        let taken = desk.arrivals.try_send(arrival).is_ok();
        desk.waker.wake();
        taken
    }
}

/// The ring waits in the kernel for sockets that block, and is told EAGAIN by others.
fn to_blocking(stream: TcpStream) -> io::Result<OwnedFd> {
    stream.set_nodelay(true)?;
    let stream = stream.into_std()?;
    stream.set_nonblocking(false)?;
    Ok(stream.into())
}

/// Lets the other side read why it was refused: in plain text, if that is what it speaks. A close
/// with unread bytes would send a reset, which can destroy those words.
async fn tell(stream: &mut TcpStream, error: &RecordError, which: Which) {
    let linger = async {
        if matches!(error, RecordError::NotTls) {
            let mut out = SendBuf::new();
            match which {
                Which::Native => {
                    let reply = ErrorReply {
                        code: ErrorCode::InvalidRequest as u16,
                        retry_after_micros: 0,
                        message: "this port speaks TLS: connect with a client's certificate",
                        item: None,
                    };
                    frame::append(&mut out, 0, &reply);
                }
                Which::Peer => {
                    let refused = HelloRefused::of(HelloRefusal::WrongAuthentication);
                    frame::append_peer(&mut out, &refused);
                }
            }
            stream.write_all(&out).await?;
        }
        stream.shutdown().await?;
        let mut unread = vec![0; 4096];
        while stream.read(&mut unread).await? > 0 {}
        io::Result::Ok(())
    };
    // It need not listen.
    let _ = timeout(LINGER_MAX, linger).await;
}
