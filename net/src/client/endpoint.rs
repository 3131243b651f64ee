//! One shard's address: its connections, and whether it is worth asking.
//!
//! ```text
//!   New ──connecting──► Open ──its connections end──► New        it had answered: try at once
//!    └───── fails ─────┐  └── in silence, or without an answer ──┐
//!                      ▼                                         ▼
//!                    Resting ──pause over──► Due ──one attempt in the background──► Open or Resting
//! ```
//!
//! Only a new address is waited for. One that has failed is tried again in the background, after
//! 10 ms, then twice as long each time up to a second, half of it random, whether anybody asks for it
//! or not: who comes back is connected before it leads something again. Meanwhile requests go to
//! other nodes, so that a dead node costs each of them nothing. Attempts are tasks of their own: a
//! caller that leaves does not end one that others wait for.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::config::ClientConfig;
use super::connection::{Connection, Hello};
use super::deadline::{Deadline, back_off};

/// What may be expected of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It has a connection.
    Open,
    /// Nothing speaks against it; whoever asks waits for the connection.
    New,
    /// It failed and is being tried again, or will be at this time.
    Resting(Instant),
    /// It failed, and may be tried again.
    Due,
}

/// A place for one connection.
#[derive(Debug, Default)]
struct Place {
    /// Read on every request; never held while waiting.
    current: Mutex<Option<Arc<Connection>>>,
    making: AtomicBool,
}

impl Place {
    fn current(&self) -> MutexGuard<'_, Option<Arc<Connection>>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> Option<Arc<Connection>> {
        self.current().as_ref().filter(|connection| connection.is_usable()).cloned()
    }
}

/// Takes out the place's connection, if it is such.
fn take_if(place: &Place, such: impl Fn(&Connection) -> bool) -> Option<Arc<Connection>> {
    let mut current = place.current();
    if current.as_ref().is_some_and(|connection| such(connection)) { current.take() } else { None }
}

/// What connecting has come to so far.
#[derive(Debug, Default)]
struct Health {
    failures: u32,
    not_before: Option<Instant>,
    error: Option<(io::ErrorKind, String)>,
    /// Attempts under way.
    making: usize,
    /// A task waits for the end of the pause.
    will_try: bool,
    /// Of the newest connection, until somebody takes it.
    news: Option<Hello>,
}

impl Health {
    fn failed(&mut self, kind: io::ErrorKind, words: String) {
        self.failures = self.failures.saturating_add(1);
        self.not_before = Some(Instant::now() + back_off(self.failures));
        self.error = Some((kind, words));
    }

    fn rests(&self, now: Instant) -> Option<Instant> {
        self.not_before.filter(|at| now < *at)
    }
}

/// See the module's docs.
#[derive(Debug)]
pub(super) struct Endpoint {
    /// For tasks that must not keep it alive.
    me: Weak<Endpoint>,
    addr: SocketAddr,
    config: Arc<ClientConfig>,
    places: Vec<Place>,
    next: AtomicUsize,
    health: Mutex<Health>,
    has_news: AtomicBool,
    /// An attempt ended.
    changed: Notify,
}

impl Endpoint {
    pub(super) fn new(addr: SocketAddr, config: Arc<ClientConfig>) -> Arc<Endpoint> {
        let places = (0..config.connections_per_shard).map(|_| Place::default()).collect();
        Arc::new_cyclic(|me| Endpoint {
            me: me.clone(),
            addr,
            config,
            places,
            next: AtomicUsize::new(0),
            health: Mutex::default(),
            has_news: AtomicBool::new(false),
            changed: Notify::new(),
        })
    }

    pub(super) fn addr(&self) -> SocketAddr {
        self.addr
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What may be expected of it at this moment.
    pub(super) fn state(&self) -> State {
        self.bury();
        if self.places.iter().any(|place| place.open().is_some()) {
            return State::Open;
        }
        let (health, now) = (self.health(), Instant::now());
        match (health.failures, health.rests(now)) {
            (0, _) => State::New,
            (_, Some(until)) => State::Resting(until),
            (_, None) if health.making > 0 => State::Resting(now + self.config.connect_timeout),
            (_, None) => State::Due,
        }
    }

    /// What the node said of itself on the newest connection, once.
    pub(super) fn take_news(&self) -> Option<Hello> {
        if !self.has_news.swap(false, Ordering::AcqRel) {
            return None;
        }
        self.health().news.take()
    }

    /// Why it cannot be reached.
    pub(super) fn error(&self) -> io::Error {
        match &self.health().error {
            Some((kind, words)) => io::Error::new(*kind, words.clone()),
            None => io::ErrorKind::TimedOut.into(),
        }
    }

    /// Tries to connect in the background, if it is time to and nobody does.
    pub(super) fn wake(self: &Arc<Self>) {
        if self.places.iter().all(|place| place.open().is_none()) {
            self.make(0);
        }
    }

    /// A connection to use: the next in turn with room, or one made now. An error is that of one
    /// attempt at most.
    pub(super) async fn connection(
        self: &Arc<Self>,
        deadline: Deadline,
    ) -> io::Result<Arc<Connection>> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // From here on no change is missed.
            changed.as_mut().enable();
            self.bury();
            let turn = self.next.fetch_add(1, Ordering::Relaxed);
            if let Some(connection) = self.pick(turn) {
                return Ok(connection);
            }
            self.make(turn % self.places.len());
            let (making, rests) = {
                let health = self.health();
                (health.making > 0, health.rests(Instant::now()).is_some())
            };
            if !making || rests {
                return Err(self.error());
            }
            if timeout_at(deadline.at, changed).await.is_err() {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
    }

    /// The first open connection from `turn` on that has room; if none has, one to wait at. A place
    /// that is empty is filled in the background.
    fn pick(self: &Arc<Self>, turn: usize) -> Option<Arc<Connection>> {
        let (mut full, mut empty, mut found) = (None, None, None);
        for index in (0..self.places.len()).map(|other| (turn + other) % self.places.len()) {
            match self.places[index].open() {
                None => empty = empty.or(Some(index)),
                Some(open) if open.in_flight() < self.config.in_flight_max => {
                    found = Some(open);
                    break;
                }
                Some(open) => full = full.or(Some(open)),
            }
        }
        let found = found.or(full)?;
        if let Some(empty) = empty {
            self.make(empty);
        }
        Some(found)
    }

    /// Takes note of connections that have ended. To be called when one has: the pause begins now.
    pub(super) fn bury(&self) {
        let (mut fell_silent, mut failed) = (false, false);
        for place in &self.places {
            let ended = take_if(place, |connection| !connection.is_open());
            let Some(ended) = ended else { continue };
            let mut health = self.health();
            if ended.has_answered() {
                // Whatever had been wrong before was over.
                health.failures = 0;
            }
            if ended.fell_silent() {
                (fell_silent, failed) = (true, true);
                health.failed(io::ErrorKind::TimedOut, String::from("it fell silent"));
            } else if !ended.has_answered() {
                failed = true;
                let words = String::from("the connection broke without an answer");
                health.failed(io::ErrorKind::ConnectionAborted, words);
            } else if !fell_silent {
                health.failures = 0;
                health.not_before = None;
            }
        }
        if fell_silent {
            // Those that nobody waits on had no chance to show it.
            for place in &self.places {
                drop(take_if(place, |connection| connection.in_flight() == 0));
            }
            self.changed.notify_waiters();
        }
        if failed {
            self.try_later();
        }
    }

    /// Sees to it that there is an attempt when the pause is over.
    fn try_later(&self) {
        let mut health = self.health();
        let Some(until) = health.not_before.filter(|_| !health.will_try) else { return };
        health.will_try = true;
        let endpoint = self.me.clone();
        tokio::spawn(async move {
            sleep_until(until).await;
            if let Some(endpoint) = endpoint.upgrade() {
                endpoint.health().will_try = false;
                endpoint.wake();
            }
        });
    }

    /// Begins to fill a place, if it is time to and nobody does.
    fn make(self: &Arc<Self>, index: usize) {
        let mut health = self.health();
        let place = &self.places[index];
        if health.rests(Instant::now()).is_some() || place.making.swap(true, Ordering::AcqRel) {
            return;
        }
        health.making += 1;
        drop(health);
        let endpoint = self.clone();
        tokio::spawn(async move {
            let opened = Connection::open(endpoint.addr, &endpoint.config).await;
            endpoint.made(index, opened);
        });
    }

    fn made(&self, index: usize, opened: io::Result<(Connection, Hello)>) {
        let place = &self.places[index];
        let mut health = self.health();
        health.making -= 1;
        let failed = opened.is_err();
        match opened {
            Ok((connection, hello)) => {
                *place.current() = Some(Arc::new(connection));
                health.news = Some(hello);
                self.has_news.store(true, Ordering::Release);
            }
            Err(error) => health.failed(error.kind(), error.to_string()),
        }
        place.making.store(false, Ordering::Release);
        drop(health);
        if failed {
            self.try_later();
        }
        self.changed.notify_waiters();
    }
}
