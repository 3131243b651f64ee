//! Requests that cannot go on yet: parked until a page arrives, or stalled until the store has room, or
//! until a change of a group's members or its leader, some round trips, is done.
//!
//! ```text
//!   parked    page 7 ─► request ─► request        each page's requests in the order they came
//!             page 9 ─► request
//!   stalled   request ─► request ─► request       one queue: writes run again in their order
//! ```
//!
//! Both keep a copy of the request's payload, because the frame's bytes belong to the connection.
//! The copies come from a pool, so a warm shard does not allocate to park a Get. Number and bytes
//! are bounded: beyond [`REQUESTS_MAX`] and [`HELD_BYTES_MAX`] requests are refused by name.

use std::collections::{HashMap, VecDeque};

use forebay_storage::store::PageId;

use super::Asker;
use super::request::Progress;
use crate::machine::SendBuf;

/// Requests that may be parked or stalled, over all connections.
pub(super) const REQUESTS_MAX: usize = 8_192;
/// Bytes of payloads and gathered replies that may be held, over all connections. With what waits
/// to be sent it is the larger part of a shard's constant memory.
pub(super) const HELD_BYTES_MAX: usize = 32 << 20;
/// Payload copies up to this size come from the pool.
const POOLED_BYTES_MAX: usize = 4 << 10;
/// Copies that the pool keeps.
const POOL_MAX: usize = 1_024;

const NONE: u32 = u32::MAX;

/// A request that will run again.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) asker: Asker,
    pub(super) payload: SendBuf,
    pub(super) progress: Option<Box<Progress>>,
}

impl Held {
    fn bytes(&self) -> usize {
        self.payload.len() + self.progress.as_ref().map_or(0, |progress| progress.bytes())
    }
}

#[derive(Debug)]
struct Place {
    held: Option<Held>,
    /// The next request that waits for the same page, or the next free place.
    next: u32,
}

/// First and last request that wait for a page.
#[derive(Clone, Copy, Debug)]
struct Line {
    first: u32,
    last: u32,
}

/// See the module's docs.
#[derive(Debug)]
pub(super) struct Parking {
    places: Vec<Place>,
    free: u32,
    by_page: HashMap<PageId, Line>,
    parked: usize,
    stalled: VecDeque<Held>,
    held_bytes: usize,
    pool: Vec<SendBuf>,
}

impl Default for Parking {
    fn default() -> Parking {
        Parking {
            places: Vec::new(),
            free: NONE,
            by_page: HashMap::new(),
            parked: 0,
            stalled: VecDeque::new(),
            held_bytes: 0,
            pool: Vec::new(),
        }
    }
}

impl Parking {
    pub(super) fn parked(&self) -> usize {
        self.parked
    }

    pub(super) fn stalled(&self) -> usize {
        self.stalled.len()
    }

    pub(super) fn pages(&self) -> usize {
        self.by_page.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.parked == 0 && self.stalled.is_empty()
    }

    /// Bytes held here and in replies that wait ([`Parking::hold`]).
    pub(super) fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Whether one more request may be kept.
    pub(super) fn has_place(&self) -> bool {
        self.parked + self.stalled.len() < REQUESTS_MAX && self.held_bytes < HELD_BYTES_MAX
    }

    /// Counts bytes that wait elsewhere on the shard against the same limit.
    pub(super) fn hold(&mut self, bytes: usize) {
        self.held_bytes += bytes;
    }

    /// The inverse of [`Parking::hold`].
    pub(super) fn let_go(&mut self, bytes: usize) {
        self.held_bytes -= bytes;
    }

    /// A copy that outlives the frame.
    pub(super) fn copy(&mut self, payload: &[u8]) -> SendBuf {
        let mut copy = match self.pool.pop() {
            Some(pooled) if payload.len() <= POOLED_BYTES_MAX => pooled,
            other => {
                self.pool.extend(other);
                let room = payload.len().next_power_of_two().clamp(256, POOLED_BYTES_MAX);
                SendBuf::with_capacity(room.max(payload.len()))
            }
        };
        copy.extend_from_slice(payload);
        copy
    }

    /// Takes a copy back when its request is done.
    pub(super) fn reuse(&mut self, mut copy: SendBuf) {
        if copy.capacity() <= POOLED_BYTES_MAX && self.pool.len() < POOL_MAX {
            copy.clear();
            self.pool.push(copy);
        }
    }

    /// Parks a request until `page` arrives.
    pub(super) fn park(&mut self, page: PageId, held: Held) {
        self.held_bytes += held.bytes();
        self.parked += 1;
        let place = Place { held: Some(held), next: NONE };
        let number = match self.free {
            NONE => {
                self.places.push(place);
                (self.places.len() - 1) as u32
            }
            free => {
                self.free = self.places[free as usize].next;
                self.places[free as usize] = place;
                free
            }
        };
        match self.by_page.get_mut(&page) {
            Some(line) => {
                self.places[line.last as usize].next = number;
                line.last = number;
            }
            None => {
                self.by_page.insert(page, Line { first: number, last: number });
            }
        }
    }

    /// The requests that waited for `page`; take them with [`Parking::next`].
    pub(super) fn arrived(&mut self, page: PageId) -> u32 {
        self.by_page.remove(&page).map_or(NONE, |line| line.first)
    }

    /// Takes the request at the head of the line and moves to the one behind it.
    pub(super) fn next(&mut self, line: &mut u32) -> Option<Held> {
        if *line == NONE {
            return None;
        }
        let number = *line;
        let place = &mut self.places[number as usize];
        let held = place.held.take().expect("a line names parked requests");
        *line = std::mem::replace(&mut place.next, self.free);
        self.free = number;
        self.parked -= 1;
        self.held_bytes -= held.bytes();
        Some(held)
    }

    /// Puts a write behind the others that wait for room, or for their group.
    pub(super) fn stall(&mut self, held: Held) {
        self.held_bytes += held.bytes();
        self.stalled.push_back(held);
    }

    /// The last `count` come first again: they were tried, in their order, and still wait.
    pub(super) fn first_again(&mut self, count: usize) {
        self.stalled.rotate_right(count);
    }

    /// The write whose turn it is.
    pub(super) fn next_stalled(&mut self) -> Option<Held> {
        let held = self.stalled.pop_front()?;
        self.held_bytes -= held.bytes();
        Some(held)
    }

    /// Takes any request: the shard has failed.
    pub(super) fn take_any(&mut self) -> Option<Held> {
        if let Some(held) = self.next_stalled() {
            return Some(held);
        }
        self.by_page.clear();
        let number = self.places.iter().position(|place| place.held.is_some())? as u32;
        self.places[number as usize].next = NONE;
        self.next(&mut { number })
    }
}
