//! Messages of a turn on their way to the links, with their entries' bytes.
//!
//! ```text
//!   effect Send ─► entries held in memory ──► encoded now ──────────────► links, at the turn's end
//!                └► they have left memory ──► read from the log ─► encoded when they are there
//! ```
//!
//! Entries are encoded when the replica asks, not when the link has room: what it holds in a slot may
//! be something else then. One read at a time for each member that is behind; it asks again anyway.

use std::ops::Range;

use forebay_core::ids::{Ballot, Slot};
use forebay_core::liveness::Peer;
use forebay_core::message::peer::Route;
use forebay_core::paxos::{EntryKind, Held, Message, Replica};
use forebay_storage::store::{GroupOrdinal, PastEntries, PastEntry, Store};

use super::entry;
use crate::link::Links;

/// A message, with its entries' places in [`Outbox::entries`].
#[derive(Debug)]
struct Outgoing {
    to: Peer,
    route: Route,
    message: Message,
    last: Slot,
    entries: Range<usize>,
}

/// A message whose entries are being read from the log.
#[derive(Debug)]
struct Reading {
    token: u64,
    to: Peer,
    route: Route,
    message: Message,
}

/// See the module's docs.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    messages: Vec<Outgoing>,
    /// Kind, origin, and the bytes' place in `bytes`.
    entries: Vec<(EntryKind, Ballot, Range<usize>)>,
    bytes: Vec<u8>,
    reading: Vec<Reading>,
    reads: u64,
}

impl Outbox {
    /// Takes a message of this replica, with its entries up to `last`.
    pub(super) fn queue(
        &mut self,
        store: &mut Store,
        (ordinal, replica): (GroupOrdinal, &Replica),
        (to, route): (Peer, Route),
        message: Message,
        last: Slot,
    ) {
        let begin = self.entries.len();
        if let Message::Accept { first, .. } | Message::Fetched { first, .. } = &message {
            // What a state that is behind has let go of is held by number only.
            let is_here = |held: &Held| {
                held.kind != EntryKind::Data || store.staged_entry(held.handle).is_some()
            };
            if last >= *first && !replica.held(*first).is_some_and(is_here) {
                return self.read_first(store, ordinal, (*first, last), (to, route), message);
            }
            for slot in (first.0..=last.0).map(Slot) {
                let Some(held) = replica.held(slot) else { break };
                let at = self.bytes.len();
                match held.kind {
                    EntryKind::NoOp => {}
                    EntryKind::Data => match store.staged_entry(held.handle) {
                        Some(bytes) => entry::encode(bytes, &mut self.bytes),
                        None => break,
                    },
                    EntryKind::Configuration => match replica.configuration_entry(slot) {
                        Some(configuration) => configuration.encode(&mut self.bytes),
                        None => break,
                    },
                    EntryKind::Unknown => break,
                }
                self.entries.push((held.kind, held.origin, at..self.bytes.len()));
            }
        }
        let entries = begin..self.entries.len();
        self.messages.push(Outgoing { to, route, message, last, entries });
    }

    fn read_first(
        &mut self,
        store: &mut Store,
        ordinal: GroupOrdinal,
        (first, last): (Slot, Slot),
        (to, route): (Peer, Route),
        message: Message,
    ) {
        if self.reading.iter().any(|other| other.route == route) {
            return;
        }
        self.reads += 1;
        let token = self.reads;
        if store.read_entries(ordinal, first, last, token) {
            self.reading.push(Reading { token, to, route, message });
        }
    }

    /// Entries were read: the message that waits for them goes.
    pub(super) fn read(&mut self, past: &PastEntries) {
        let Some(at) = self.reading.iter().position(|reading| reading.token == past.token) else {
            return;
        };
        let Reading { to, route, message, .. } = self.reading.swap_remove(at);
        let (first, begin) = (past.first, self.entries.len());
        for slot in (first.0..first.0 + past.count() as u64).map(Slot) {
            let (Some(entry), Some(origin)) = (past.get(slot), past.origin(slot)) else { break };
            let from = self.bytes.len();
            match entry {
                PastEntry::NoOp => {}
                PastEntry::Data(bytes) => entry::encode(bytes, &mut self.bytes),
                PastEntry::Configuration(bytes) => self.bytes.extend_from_slice(bytes),
            }
            self.entries.push((entry.kind(), origin, from..self.bytes.len()));
        }
        let entries = begin..self.entries.len();
        if !entries.is_empty() {
            let last = Slot(first.0 + entries.len() as u64 - 1);
            self.messages.push(Outgoing { to, route, message, last, entries });
        }
    }

    /// Hands everything to the links.
    pub(super) fn send(&mut self, links: &mut Links) {
        let Outbox { messages, entries, bytes, .. } = self;
        for Outgoing { to, route, message, last, entries: range } in messages.drain(..) {
            let (Message::Accept { first, .. } | Message::Fetched { first, .. }) = &message else {
                links.send(to, route, &message);
                continue;
            };
            let (first, own) = (*first, &entries[range]);
            links.send_entries(to, route, &message, last, |slot| {
                let (kind, origin, place) = own.get((slot.0 - first.0) as usize)?;
                Some((*kind, *origin, &bytes[place.clone()]))
            });
        }
        entries.clear();
        bytes.clear();
    }
}
