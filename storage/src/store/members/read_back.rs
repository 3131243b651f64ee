//! Reads entries again that have left memory: for a member of the group that was away.
//!
//! ```text
//!   read_entries(first..=last) ─► position of `first` ─► 256 KiB ─► batches, verified ─► records
//!                                       ▲                   │ not all yet
//!                                       └── next run, or ───┘
//!                                           the next 256 KiB      ─► take_read_entries
//! ```
//!
//! What a read finds are the entries of the range under the ballots that this member accepted them
//! last, as far as the log has them durably and undamaged, without a gap; perhaps none. It is an
//! answer of that moment, like a message that was long on its way: who asked looks at whether it is
//! still wanted.
//!
//! Bounded: `READS_MAX` reads at a time, each of `ENTRIES_BYTES_MAX` of entries at most.

use std::ops::Range;

use forebay_core::ids::{Ballot, GroupId, Lsn, Slot};
use forebay_core::paxos::EntryKind;

use super::super::{GroupOrdinal, Store};
use super::EntryBytes;
use crate::block::{DiskDone, OpId};
use crate::log::format::PutPayload;
use crate::log::reader::{ChainStep, LogFrom};
use crate::log::{LogRecord, RecordKind};

/// Reads under way, at most: each holds a buffer of 256 KiB.
const READS_MAX: usize = 4;
/// Of the store's own reads; nobody else's have it.
pub(in crate::store) const OWN_TOKEN: u64 = u64::MAX;
/// A read ends when it has found so much.
const ENTRIES_BYTES_MAX: usize = 1 << 20;

/// An entry that was read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PastEntry<'a> {
    /// Nothing.
    NoOp,
    /// A put or a delete.
    Data(EntryBytes<'a>),
    /// A membership change; the bytes are [`Configuration::encode`]'s.
    ///
    /// [`Configuration::encode`]: forebay_core::paxos::Configuration::encode
    Configuration(&'a [u8]),
}

impl PastEntry<'_> {
    /// What it is.
    #[must_use]
    pub fn kind(&self) -> EntryKind {
        match self {
            PastEntry::NoOp => EntryKind::NoOp,
            PastEntry::Data(_) => EntryKind::Data,
            PastEntry::Configuration(_) => EntryKind::Configuration,
        }
    }
}

/// What [`Store::read_entries`] found.
#[derive(Debug)]
pub struct PastEntries {
    /// The group.
    pub group: GroupOrdinal,
    /// As it was asked with.
    pub token: u64,
    /// The first slot asked for.
    pub first: Slot,
    /// Of each slot from there on: what its record was, its origin, and where its payload is.
    found: Vec<(RecordKind, Ballot, Range<usize>)>,
    bytes: Vec<u8>,
}

impl PastEntries {
    /// The entry of a slot, if it was found.
    #[must_use]
    pub fn get(&self, slot: Slot) -> Option<PastEntry<'_>> {
        let index = slot.0.checked_sub(self.first.0)?;
        let (kind, _, at) = self.found.get(usize::try_from(index).ok()?)?;
        let payload = &self.bytes[at.clone()];
        Some(match *kind {
            RecordKind::NO_OP => PastEntry::NoOp,
            RecordKind::CONFIGURATION => PastEntry::Configuration(payload),
            RecordKind::DELETE => PastEntry::Data(EntryBytes { key: payload, item: None }),
            _ => {
                let PutPayload { key, item } = PutPayload::decode(payload)?;
                PastEntry::Data(EntryBytes { key, item: Some(item) })
            }
        })
    }

    /// Under which the entry of a slot that was found was proposed for the first time.
    #[must_use]
    pub fn origin(&self, slot: Slot) -> Option<Ballot> {
        let index = slot.0.checked_sub(self.first.0)?;
        Some(self.found.get(usize::try_from(index).ok()?)?.1)
    }

    /// How many entries were found, from the first slot on.
    #[must_use]
    pub fn count(&self) -> usize {
        self.found.len()
    }
}

/// A read under way.
#[derive(Debug)]
pub(in crate::store) struct ReadBack {
    search: Search,
    log: LogFrom,
    op: OpId,
}

/// What is looked for, and was found.
#[derive(Debug)]
struct Search {
    past: PastEntries,
    group: GroupId,
    last: Slot,
    ballot: Ballot,
    /// The last slot that lies from the run's begin on under that ballot.
    run_last: Slot,
    run_lsn: Lsn,
}

impl Search {
    fn wanted(&self) -> Slot {
        Slot(self.past.first.0 + self.past.found.len() as u64)
    }

    fn is_full(&self) -> bool {
        self.wanted() > self.last || self.past.bytes.len() >= ENTRIES_BYTES_MAX
    }

    fn take(&mut self, record: &LogRecord<'_>) {
        let header = &record.header;
        let is_entry = matches!(
            header.kind,
            RecordKind::PUT | RecordKind::DELETE | RecordKind::NO_OP | RecordKind::CONFIGURATION
        );
        if !is_entry
            || header.group != self.group
            || header.slot != self.wanted()
            || header.ballot != self.ballot
            || self.wanted() > self.run_last
            || self.is_full()
        {
            return;
        }
        let at = self.past.bytes.len();
        self.past.bytes.extend_from_slice(record.payload);
        self.past.found.push((header.kind, header.origin, at..self.past.bytes.len()));
    }
}

impl Store {
    /// Begins to read entries of a group again; [`Store::take_read_entries`] has what was found. Says
    /// no if nothing can be read now: the slots have left the log or are damaged, or enough other
    /// reads are under way.
    pub fn read_entries(
        &mut self,
        group: GroupOrdinal,
        first: Slot,
        last: Slot,
        token: u64,
    ) -> bool {
        if self.reads.len() >= READS_MAX || self.failure.is_some() {
            return false;
        }
        let Some((lsn, ballot, run_last)) = self.member(group).positions.find(first) else {
            return false;
        };
        if lsn >= self.log.durable_lsn() {
            return false;
        }
        let past = PastEntries { group, token, first, found: Vec::new(), bytes: Vec::new() };
        let (group, run_lsn) = (self.group_id(group), lsn);
        let search = Search { past, group, last, ballot, run_last, run_lsn };
        self.read_more(search, LogFrom::batch(self.config.log, lsn));
        true
    }

    /// Asks for the next piece of the log, if there is one.
    fn read_more(&mut self, search: Search, mut log: LogFrom) {
        let op = self.next_op();
        let run_end = search.run_lsn.after(self.config.log.run_bytes());
        let wanted = if search.last <= search.run_last { run_end } else { Lsn(u64::MAX) };
        match log.read((wanted, self.log.durable_lsn()), op, &mut self.spare_bufs) {
            Some(read) => {
                self.disk.push(read);
                self.reads.push(ReadBack { search, log, op });
            }
            None => self.found_past(search, log),
        }
    }

    /// Whether the operation is one of these reads.
    pub(in crate::store) fn owns_read_back(&self, op: OpId) -> bool {
        self.reads.iter().any(|read| read.op == op)
    }

    /// A piece of the log is here.
    pub(in crate::store) fn read_back_done(&mut self, done: DiskDone) {
        let at = self.reads.iter().position(|read| read.op == done.op).expect("it is one of them");
        let ReadBack { mut search, mut log, .. } = self.reads.swap_remove(at);
        let (Ok(()), Some(buf), None) = (done.result, done.buf, self.failure) else {
            return self.found_past(search, log);
        };
        log.give(buf, &mut self.spare_bufs);
        loop {
            let is_more = match log.next() {
                ChainStep::Batch(batch) => {
                    batch.records().for_each(|record| search.take(&record));
                    false
                }
                ChainStep::More => true,
                // A piece that was overwritten meanwhile.
                ChainStep::Bad(_) => return self.found_past(search, log),
            };
            let run_end = search.run_lsn.after(self.config.log.run_bytes());
            let is_lost = search.wanted() <= search.run_last && log.lsn() >= run_end;
            let found_all = search.is_full() || log.lsn() >= self.log.durable_lsn();
            if found_all || is_lost || !self.enter_next_run(&mut search, &mut log) {
                return self.found_past(search, log);
            }
            if is_more {
                return self.read_more(search, log);
            }
        }
    }

    /// If the run is used up, goes on with the one of the next slot. False if there is none.
    fn enter_next_run(&self, search: &mut Search, log: &mut LogFrom) -> bool {
        if search.wanted() <= search.run_last {
            return true;
        }
        let group = self.groups.get(search.past.group);
        let Some(member) = group.member.as_deref() else { return false };
        let Some((lsn, ballot, run_last)) = member.positions.find(search.wanted()) else {
            return false;
        };
        (search.ballot, search.run_last, search.run_lsn) = (ballot, run_last, lsn);
        if !log.brings(lsn) {
            *log = LogFrom::batch(self.config.log, lsn);
        }
        lsn < self.log.durable_lsn()
    }

    /// A read ended.
    fn found_past(&mut self, Search { past, .. }: Search, log: LogFrom) {
        log.end(&mut self.spare_bufs);
        if past.token == OWN_TOKEN {
            self.behind_read(past);
        } else {
            self.past_entries.push(past);
        }
    }

    /// What a read has found.
    pub fn take_read_entries(&mut self) -> Option<PastEntries> {
        self.past_entries.pop()
    }
}
