//! One shard's address: its connections, and what to do when a request comes back without an
//! answer.
//!
//! | what happened | a write | a read |
//! |---|---|---|
//! | not sent, connection broke | another connection, until the deadline | the same |
//! | not sent, time is up | `Timeout` | `Timeout` |
//! | sent, connection broke | `Unknown` | sent again once, then `Lost` |
//! | sent, time is up | `Unknown` | sent again once at half time, then `Timeout` |
//! | the node is busy | sent again after its pause, `retries_max` times | the same |
//! | the node refused otherwise | the named error | the same |
//!
//! A connection that cannot be made, or that breaks before it has carried an answer, is made again
//! after 10 ms, then twice as long each time up to a second; half of each pause is random, so that
//! clients of a restarted node do not come all at once.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use forebay_core::message::ErrorCode;
use tokio::time::{Instant, sleep, timeout_at};

use super::config::ClientConfig;
use super::connection::{CallError, Connection};
use super::error::{ClientError, Lost, ProtocolError, UnknownCause};
use super::exchange::NoReply;
use super::wire::{Call, Received, not_understood};

/// First and longest pause between attempts, at connecting and at a busy node.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// When an operation began and when it must be over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline {
    began: Instant,
    pub(super) at: Instant,
}

impl Deadline {
    pub(super) fn after(timeout: Duration) -> Deadline {
        let began = Instant::now();
        Deadline { began, at: began + timeout }
    }

    pub(super) fn waited(&self) -> Duration {
        self.began.elapsed()
    }

    fn timeout(&self) -> ClientError {
        ClientError::Timeout { waited: self.waited() }
    }

    /// Half of what is left.
    fn half(&self) -> Instant {
        let now = Instant::now();
        now + self.at.saturating_duration_since(now) / 2
    }

    /// Waits, unless that would take all the time there is: false then, at once.
    pub(super) async fn pause(&self, length: Duration) -> bool {
        let enough = Instant::now() + length < self.at;
        if enough {
            sleep(length).await;
        }
        enough
    }
}

/// The pause after `failures` failures in a row, half of it random.
pub(super) fn back_off(failures: u32) -> Duration {
    let longest = PAUSE_MIN.saturating_mul(1 << failures.saturating_sub(1).min(10)).min(PAUSE_MAX);
    // The standard library's only source of randomness; good enough to spread clients.
    let random = RandomState::new().build_hasher().finish();
    longest / 2 + (longest / 2).mul_f64(random as f64 / u64::MAX as f64)
}

/// A place for one connection, and the history of making it.
#[derive(Debug, Default)]
struct Place {
    /// Read on every request; never held while waiting.
    current: Mutex<Option<Arc<Connection>>>,
    /// Held while connecting, so that callers share one attempt.
    history: tokio::sync::Mutex<History>,
}

#[derive(Debug, Default)]
struct History {
    failures: u32,
    not_before: Option<Instant>,
    error: Option<(io::ErrorKind, String)>,
}

impl History {
    fn failed(&mut self) {
        self.failures = self.failures.saturating_add(1);
        self.not_before = Some(Instant::now() + back_off(self.failures));
    }
}

impl Place {
    fn open(&self) -> Option<Arc<Connection>> {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.as_ref().filter(|connection| connection.is_open()).cloned()
    }

    fn replace(&self, connection: Option<Arc<Connection>>) -> Option<Arc<Connection>> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *current, connection)
    }
}

/// See the module's docs.
#[derive(Debug)]
pub(super) struct Endpoint {
    addr: SocketAddr,
    config: Arc<ClientConfig>,
    places: Vec<Place>,
    next: AtomicUsize,
}

impl Endpoint {
    pub(super) fn new(addr: SocketAddr, config: Arc<ClientConfig>) -> Endpoint {
        let places = (0..config.connections_per_shard).map(|_| Place::default()).collect();
        Endpoint { addr, config, places, next: AtomicUsize::new(0) }
    }

    pub(super) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Makes the first connection, in one attempt.
    pub(super) async fn connect(&self, deadline: Deadline) -> Result<(), ClientError> {
        self.connect_place(&self.places[0], deadline)
            .await
            .map(drop)
            .map_err(|error| ClientError::Connect { addr: self.addr.to_string(), source: error })
    }

    /// A connection to use: the next in turn that is open, or one made now.
    async fn connection(&self, deadline: Deadline) -> Result<Arc<Connection>, ClientError> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let first = &self.places[turn % self.places.len()];
        if let Some(connection) = first.open() {
            if connection.in_flight() < self.config.in_flight_max {
                return Ok(connection);
            }
            // Full: another one may have room. If none has, wait for this one's.
            let roomy = (1..self.places.len())
                .filter_map(|other| self.places[(turn + other) % self.places.len()].open())
                .find(|other| other.in_flight() < self.config.in_flight_max);
            return Ok(roomy.unwrap_or(connection));
        }
        loop {
            let error = match self.connect_place(first, deadline).await {
                Ok(connection) => return Ok(connection),
                Err(error) => error,
            };
            // While this place is being mended, another one may serve.
            let others = (1..self.places.len()).map(|other| (turn + other) % self.places.len());
            if let Some(open) = others.filter_map(|other| self.places[other].open()).next() {
                return Ok(open);
            }
            let not_before = first.history.lock().await.not_before;
            let wait = not_before.map_or(PAUSE_MIN, |at| {
                at.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))
            });
            if !deadline.pause(wait).await {
                return Err(ClientError::Connect { addr: self.addr.to_string(), source: error });
            }
        }
    }

    /// The place's connection, made if it is time to.
    async fn connect_place(
        &self,
        place: &Place,
        deadline: Deadline,
    ) -> io::Result<Arc<Connection>> {
        let Ok(mut history) = timeout_at(deadline.at, place.history.lock()).await else {
            return Err(io::ErrorKind::TimedOut.into());
        };
        if let Some(connection) = place.open() {
            return Ok(connection);
        }
        if let Some(broken) = place.replace(None) {
            if broken.has_received() {
                history.failures = 0;
                history.not_before = None;
            } else {
                history.failed();
                history.error = Some((io::ErrorKind::ConnectionAborted, "it broke at once".into()));
            }
        }
        if history.not_before.is_some_and(|at| Instant::now() < at) {
            let (kind, words) =
                history.error.clone().unwrap_or((io::ErrorKind::NotConnected, String::new()));
            return Err(io::Error::new(kind, words));
        }
        match Connection::open(self.addr, &self.config, deadline.at).await {
            Ok(connection) => {
                let connection = Arc::new(connection);
                place.replace(Some(connection.clone()));
                Ok(connection)
            }
            Err(error) => {
                history.failed();
                history.error = Some((error.kind(), error.to_string()));
                Err(error)
            }
        }
    }

    /// Sends a request until it is answered or nothing more can be done; see the module's docs.
    pub(super) async fn call(
        &self,
        call: Call<'_>,
        deadline: Deadline,
    ) -> Result<Received, ClientError> {
        // A read that was sent once without an answer, and one that has had its half of the time.
        let (mut sent_before, mut halved) = (false, false);
        let mut refusals = 0;
        loop {
            let connection = self.connection(deadline).await?;
            let whole = call.write || sent_before || halved;
            let until = if whole { deadline.at } else { deadline.half() };
            let received = match connection.call(&call, until).await {
                Ok(received) => received,
                Err(CallError::NoReply(NoReply { sent: false, .. })) => continue,
                Err(CallError::NoReply(NoReply { sent: true, lost })) => {
                    if call.write {
                        return Err(ClientError::Unknown { cause: UnknownCause::Lost(lost) });
                    }
                    if sent_before {
                        return Err(match lost {
                            Lost::Protocol(error) => ClientError::Protocol(error),
                            lost => ClientError::Lost(lost),
                        });
                    }
                    sent_before = true;
                    continue;
                }
                Err(CallError::Deadline { sent: true }) if call.write => {
                    let waited = deadline.waited();
                    return Err(ClientError::Unknown { cause: UnknownCause::Timeout { waited } });
                }
                Err(CallError::Deadline { sent }) => {
                    if whole {
                        return Err(deadline.timeout());
                    }
                    (sent_before, halved) = (sent, true);
                    continue;
                }
            };
            if !received.is_error() {
                return Ok(received);
            }
            let refusal = received.refusal().map_err(|error| not_understood(error, call.write))?;
            let pause = match (refusal.code, refusal.retry_after) {
                (code, Some(pause)) if code.had_no_effect() => Some(pause),
                (ErrorCode::Overloaded, None) => Some(back_off(refusals + 1)),
                _ => None,
            };
            match pause {
                Some(pause) if refusals < self.config.retries_max => {
                    refusals += 1;
                    if !deadline.pause(pause).await {
                        return Err(refusal.into_error(call.write));
                    }
                }
                _ => return Err(refusal.into_error(call.write)),
            }
        }
    }
}

/// The shard that a description names and the node does not have.
pub(super) fn no_shard(shard: u16) -> ClientError {
    ClientError::Protocol(ProtocolError::NoShard { shard })
}
