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
use crate::block::{BLOCK_BYTES, BlockBuf, DiskDone, DiskOp, OpId, ShardFile};
use crate::log::format::PutPayload;
use crate::log::reader::{ChainReader, ChainStep};
use crate::log::recovery::READ_BYTES;
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
    /// Of each slot from there on: what its record was, and where its payload is.
    found: Vec<(RecordKind, Range<usize>)>,
    bytes: Vec<u8>,
}

impl PastEntries {
    /// The entry of a slot, if it was found.
    #[must_use]
    pub fn get(&self, slot: Slot) -> Option<PastEntry<'_>> {
        let index = slot.0.checked_sub(self.first.0)?;
        let (kind, at) = self.found.get(usize::try_from(index).ok()?)?;
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

    /// How many entries were found, from the first slot on.
    #[must_use]
    pub fn count(&self) -> usize {
        self.found.len()
    }
}

/// A read under way.
#[derive(Debug)]
pub(in crate::store) struct ReadBack {
    past: PastEntries,
    group: GroupId,
    last: Slot,
    ballot: Ballot,
    /// The last slot that lies from here on under that ballot.
    run_last: Slot,
    reader: ChainReader,
    /// The position that is read next.
    next: Lsn,
    op: OpId,
}

impl ReadBack {
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
        self.past.found.push((header.kind, at..self.past.bytes.len()));
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
        let reader = ChainReader::entered(self.config.log, lsn, self.log.end_lsn());
        let (id, op) = (self.group_id(group), OpId(0));
        let read = ReadBack { past, group: id, last, ballot, run_last, reader, next: lsn, op };
        self.read_more(read);
        true
    }

    /// Asks for the next piece of the log.
    fn read_more(&mut self, mut read: ReadBack) {
        let config = &self.config.log;
        let left = config.segment_end(read.next).0 - read.next.0;
        let bytes = left.min(READ_BYTES) as usize;
        let offset_bytes = config.offset_bytes(read.next);
        let buf = BlockBuf::zeroed(bytes / BLOCK_BYTES);
        read.op = self.next_op();
        read.next = read.next.after(bytes as u64);
        let (op, file) = (read.op, ShardFile::Log);
        self.disk.push(DiskOp::Read { op, file, offset_bytes, buf });
        self.reads.push(read);
    }

    /// Whether the operation is one of these reads.
    pub(in crate::store) fn owns_read_back(&self, op: OpId) -> bool {
        self.reads.iter().any(|read| read.op == op)
    }

    /// A piece of the log is here.
    pub(in crate::store) fn read_back_done(&mut self, done: DiskDone) {
        let at = self.reads.iter().position(|read| read.op == done.op).expect("it is one of them");
        let mut read = self.reads.swap_remove(at);
        let (Ok(()), Some(buf), None) = (done.result, done.buf, self.failure) else {
            return self.found_past(read.past);
        };
        read.reader.feed(&buf);
        loop {
            // The records borrow the reader, and what is taken of them goes beside it.
            let entered = ChainReader::entered(self.config.log, Lsn(0), Lsn(0));
            let mut reader = std::mem::replace(&mut read.reader, entered);
            let step = match reader.next() {
                ChainStep::Batch(batch) => {
                    batch.records().for_each(|record| read.take(&record));
                    Some(true)
                }
                ChainStep::More => Some(false),
                // The end of what is durable, or a piece that was overwritten meanwhile.
                ChainStep::Bad(_) => None,
            };
            read.reader = reader;
            if step.is_none() || read.is_full() || read.reader.point().lsn >= self.log.durable_lsn()
            {
                return self.found_past(read.past);
            }
            if read.wanted() > read.run_last && !self.enter_next_run(&mut read) {
                return self.found_past(read.past);
            }
            if step == Some(false) {
                return self.read_more(read);
            }
        }
    }

    /// The run is used up: goes on with the one of the next slot. False if there is none.
    fn enter_next_run(&self, read: &mut ReadBack) -> bool {
        let group = self.groups.get(read.past.group);
        let Some(member) = group.member.as_deref() else { return false };
        let Some((lsn, ballot, run_last)) = member.positions.find(read.wanted()) else {
            return false;
        };
        (read.ballot, read.run_last) = (ballot, run_last);
        // Usually it lies ahead, in what will be read anyway.
        let here = read.reader.point().lsn;
        if lsn < here || lsn >= read.next {
            read.reader = ChainReader::entered(self.config.log, lsn, self.log.end_lsn());
            read.next = lsn;
        }
        lsn < self.log.durable_lsn()
    }

    /// A read ended.
    fn found_past(&mut self, past: PastEntries) {
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
