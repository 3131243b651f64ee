//! What waits to be sent on one connection.
//!
//! ```text
//!   greetings, liveness ──► urgent ─────────────┐ first
//!   groups' messages ─────► open batch ─► queue ┴─► one buffer at a time ─► shell
//! ```
//!
//! A batch stays open until the connection can take it or it is full, so that messages of many
//! turns share a frame when the peer is slow, and those of one turn always do. What is queued and
//! in flight is bounded: entries are cut at one limit, messages without entries are dropped at a
//! higher one, because the answers of a slow peer's members are worth more than entries that would
//! only wait; greetings and liveness never wait behind either.

use std::collections::VecDeque;

use forebay_core::ids::{Ballot, Slot};
use forebay_core::message::peer::{BatchBuilder, PeerKind, PeerMessage, Route};
use forebay_core::paxos::{EntryKind, Message};

use super::LinkSettings;
use crate::frame::{self, FrameSerializer};
use crate::machine::SendBuf;

/// Buffers kept for the next batches.
const SPARES_MAX: usize = 2;
/// A buffer that grew beyond this is given back.
const SPARE_BYTES_MAX: usize = 1024 * 1024;

/// A buffer to send.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) buffer: SendBuf,
    pub(super) messages: u64,
}

#[derive(Debug, Default)]
pub(super) struct Outbox {
    urgent: SendBuf,
    urgent_messages: u64,
    queue: VecDeque<Outgoing>,
    batch: BatchBuilder,
    batch_begun: bool,
    /// In `queue` and in flight.
    closed_bytes: usize,
    flying_bytes: usize,
    sending: bool,
    spares: Vec<SendBuf>,
}

/// What became of a message with entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Queued {
    pub(super) entries: u64,
    pub(super) full: bool,
}

impl Outbox {
    /// Queued and in flight.
    pub(super) fn bytes(&self) -> usize {
        let open = if self.batch_begun { self.batch.bytes() } else { 0 };
        self.closed_bytes + open
    }

    /// Messages that have not been handed out.
    pub(super) fn messages(&self) -> u64 {
        let queued: u64 = self.queue.iter().map(|outgoing| outgoing.messages).sum();
        self.urgent_messages + queued + self.batch.messages() as u64
    }

    pub(super) fn is_empty(&self) -> bool {
        self.urgent.is_empty() && self.queue.is_empty() && self.batch.is_empty()
    }

    pub(super) fn is_sending(&self) -> bool {
        self.sending
    }

    /// Adds a greeting or a message of liveness; says how many gave way to it.
    pub(super) fn push_urgent<M>(&mut self, message: &M, settings: &LinkSettings) -> u64
    where
        M: PeerMessage + for<'a> rkyv::Serialize<FrameSerializer<'a>>,
    {
        let mut gave_way = 0;
        if self.urgent.len() > settings.urgent_bytes_max {
            gave_way = std::mem::take(&mut self.urgent_messages);
            self.urgent.clear();
        }
        frame::append_peer(&mut self.urgent, message);
        let greets = matches!(
            M::KIND,
            PeerKind::Hello | PeerKind::Welcome | PeerKind::HelloRefused | PeerKind::KeepAlive
        );
        self.urgent_messages += u64::from(!greets);
        gave_way
    }

    fn begin_batch(&mut self) {
        if !self.batch_begun {
            let mut buffer = self.spares.pop().unwrap_or_default();
            frame::begin(&mut buffer);
            self.batch.begin(buffer);
            self.batch_begun = true;
        }
    }

    fn finish_batch(&mut self) -> Outgoing {
        let messages = self.batch.messages() as u64;
        let mut buffer = self.batch.finish();
        self.batch_begun = false;
        let kind = PeerKind::GroupBatch;
        frame::seal(&mut buffer, 0, kind as u16, kind.version(), 0);
        self.closed_bytes += buffer.len();
        Outgoing { buffer, messages }
    }

    fn finish_if_full(&mut self, settings: &LinkSettings) {
        // No more than the other side takes in a turn.
        if self.batch.is_full() || self.batch.messages() >= settings.turn_messages_max {
            let outgoing = self.finish_batch();
            self.queue.push_back(outgoing);
        }
    }

    /// Adds a message without entries; no if there is no room.
    pub(super) fn push(
        &mut self,
        route: Route,
        message: &Message,
        settings: &LinkSettings,
    ) -> bool {
        if self.bytes() >= settings.queue_bytes_max {
            return false;
        }
        self.begin_batch();
        let taken = self.batch.push(route, message);
        self.finish_if_full(settings);
        taken
    }

    /// Adds a message that may be large and is rare, in a frame of its own.
    pub(super) fn push_large<M>(&mut self, message: &M, settings: &LinkSettings) -> bool
    where
        M: PeerMessage + for<'a> rkyv::Serialize<FrameSerializer<'a>>,
    {
        if self.bytes() > settings.queue_bytes_max {
            return false;
        }
        if !self.batch.is_empty() {
            let outgoing = self.finish_batch();
            self.queue.push_back(outgoing);
        }
        let mut buffer = self.spares.pop().unwrap_or_default();
        frame::append_peer(&mut buffer, message);
        self.closed_bytes += buffer.len();
        self.queue.push_back(Outgoing { buffer, messages: 1 });
        true
    }

    /// Adds an Accept or Fetched with its entries, as several messages if they fill batches.
    pub(super) fn push_entries<'e>(
        &mut self,
        route: Route,
        message: &Message,
        last: Slot,
        settings: &LinkSettings,
        mut entry: impl FnMut(Slot) -> Option<(EntryKind, Ballot, &'e [u8])>,
    ) -> Queued {
        let mut message = message.clone();
        let mut entries = 0;
        loop {
            let room = settings.data_bytes_max.saturating_sub(self.bytes());
            if room == 0 {
                return Queued { entries, full: true };
            }
            self.begin_batch();
            let pushed = self.batch.push_entries(route, &message, last, room, &mut entry);
            entries += u64::from(pushed.entries);
            self.finish_if_full(settings);
            let (Message::Accept { first, .. } | Message::Fetched { first, .. }) = &mut message
            else {
                unreachable!("the batch took entries with it");
            };
            *first = Slot(first.0 + u64::from(pushed.entries));
            if pushed.entries == 0 || *first > last {
                return Queued { entries, full: false };
            }
        }
    }

    /// The next buffer to send, if the last one has gone.
    pub(super) fn next(&mut self) -> Option<Outgoing> {
        if self.sending {
            return None;
        }
        let outgoing = if !self.urgent.is_empty() {
            let next = self.spares.pop().unwrap_or_default();
            let buffer = std::mem::replace(&mut self.urgent, next);
            self.closed_bytes += buffer.len();
            Outgoing { buffer, messages: std::mem::take(&mut self.urgent_messages) }
        } else if let Some(outgoing) = self.queue.pop_front() {
            outgoing
        } else if !self.batch.is_empty() {
            self.finish_batch()
        } else {
            return None;
        };
        self.sending = true;
        self.flying_bytes = outgoing.buffer.len();
        Some(outgoing)
    }

    /// A buffer came back.
    pub(super) fn sent(&mut self, mut buffer: SendBuf) {
        self.sending = false;
        self.closed_bytes -= std::mem::take(&mut self.flying_bytes);
        if self.spares.len() < SPARES_MAX && buffer.capacity() <= SPARE_BYTES_MAX {
            buffer.clear();
            self.spares.push(buffer);
        }
    }

    /// Drops what is queued, but for greetings if they are to be kept; says how many messages.
    pub(super) fn drop_all(&mut self, keep_urgent: bool) -> u64 {
        let messages = self.messages();
        let queued: usize = self.queue.iter().map(|outgoing| outgoing.buffer.len()).sum();
        self.closed_bytes -= queued;
        self.queue.clear();
        self.batch.abandon();
        self.batch_begun = false;
        if !keep_urgent {
            self.urgent.clear();
            self.urgent_messages = 0;
        }
        messages
    }
}
