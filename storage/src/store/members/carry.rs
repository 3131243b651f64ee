//! Re-append at the log's head: old entries that members still need do not pin the shard's log.
//!
//! ```text
//!   trim_lsn      oldest needed              head - 1/2                        head
//!   ──┼── gone ──────┤ · · x · · · x x · · ·   ┤ · · · · · · · · · · · · · · · · ┤ x' x' x'
//!                    └── read, checked ─────────────────────────────── appended ──┘
//!                    next checkpoint: its history begins behind what was copied
//! ```
//!
//! A slot stays in a member's log until two storage replicas' checkpoints contain it (**Rule
//! (trimming)**), so one peer that is down keeps entries of its groups in every log, while all other
//! groups write on. When the oldest needed entry lies more than half of the log ([`SPAN_EIGHTHS`])
//! behind its head, the oldest part is read, and what is still needed of it is appended again: the same
//! slot, ballot and bytes. The copy is then where [`super::positions::Positions`] says the entry is.
//! The next checkpoint takes the log's new start from them, and its superblock is written only when
//! the log is durable up to its end at the freeze, copies included; the originals are overwritten
//! only when both superblocks are past them.
//!
//! **What a copy may be.** At every place of the log, what was read of a slot so far is what the
//! member held at that place, or nothing. So a record is copied only if it is the one that counts
//! when the copy is appended: found under its ballot, at or behind its batch. Copies are equal to
//! their originals, so recovery may take either; it takes the last.
//!
//! **Bounds.** Between two checkpoints copies take at most one [`COPIES_PART`]th of what clients may
//! fill. The last half of the log's reserve is theirs alone: whatever promises and elections used up
//! before it, copying can go on, and what it copied makes room for them again. That half must hold
//! what is needed of one run of positions for the oldest to be left behind, so runs are a part of the
//! reserve (`LogConfig::run_bytes`); where they were [`READ_BYTES`] long whatever the log, tiny ones
//! stood still for good, full of copies of parts of runs.
//! (When it was the other way round, promises of repeated elections filled a log for good.) One read
//! of [`READ_BYTES`] is in flight at a time, and copies of about [`TURN_BYTES`] wait in memory until
//! they are appended, as many a turn. They are gathered from many batches, because each turn that
//! appends ends a block: where every write came alone, in a block of its own, copying them one by one
//! would take as much of the log as it frees. So what is needed is counted without the padding of its
//! blocks: it has little once it is copied, and before that it lies among what is left behind.
//!
//! **What may go is not copied.** Entries that the rule of trimming lets go of stay for members that
//! were away for a while, but not for ever: behind [`KEPT_EIGHTHS`] of the log
//! [`Store::old_slots`] names them at each checkpoint, before they would have to be copied. Whoever
//! has been away for longer gets a snapshot. (As long as they were copied, a log whose small writes
//! fill a block each was read and written again and again: a quarter of a simulation's work.)
//! Few bytes in front of a large state are worth copying, however old: a group in which nobody wrote
//! but a new leader its one empty entry would otherwise be sent to whoever was away for a few seconds
//! as a whole. So what is at most a [`WORTH_PART`]th of the group's items stays, and all that stays
//! for this reason is at most a [`SMALL_PART`]th of the log. A place of the log that cannot be read ends
//! that, so that what may go never keeps the log from being trimmed.
//!
//! **When a group is left behind.** All needed entries of all members together may take half of the
//! log; beyond that copying could not keep up with anybody's writes.
//! * Above a quarter, [`Store::must_trim`] names the members with more than their share. Their shell
//!   trims to what `MayTrim` said, though a follower lacks entries after that: it gets a snapshot.
//!   Below, the shell may keep them, to let the follower catch up from the log.
//! * Above half, entries of such a member are refused ([`super::Refused::Overloaded`]) until it may
//!   trim. What the rule of trimming does not let go of is never dropped; the shard's other groups
//!   write on.
//!
//! **Damage.** A needed record that cannot be read, or whose checksum is wrong, is never copied, and
//! nothing is dropped because of it: copying stops, [`super::super::StoreStats::log_read_errors`]
//! counts, and it is tried again after [`RETRY_NANOS`]. A restart makes such entries unknown, and
//! the other members bring them again ([`super::recovery`]); so when the log is full behind such a
//! record, the store fails ([`StoreFailure::Unreadable`]) rather than refuse every write for good.

use std::collections::VecDeque;
use std::ops::Range;

use forebay_core::ids::{Lsn, Slot};
use forebay_core::time::Nanos;

use super::super::{GroupOrdinal, Store, StoreFailure, TYPICAL_ENTRY_BYTES, Work, ops};
use crate::block::{DiskDone, OpId};
use crate::log::format::{Batch, record_bytes};
use crate::log::reader::{ChainStep, LogFrom};
use crate::log::recovery::READ_BYTES;
use crate::log::{AppendError, BLOCK, RecordHeader, RecordKind};

/// Of the log, in eighths, at least and at most: needed entries farther behind its head are copied. What
/// remains has room for the writes of two checkpoints, because the log is trimmed to the older
/// superblock, and for those of the time that the second takes.
const SPAN_EIGHTHS: (u64, u64) = (4, 5);
/// Of the log, in eighths: so much else is written before what is needed is copied again. Otherwise copies
/// would be of copies only.
const BETWEEN_EIGHTHS: u64 = 2;
/// Of the log, in eighths: what may be trimmed is, farther behind its head. With what a checkpoint's
/// interval adds to that, little of it ever lies beyond [`SPAN_EIGHTHS`].
const KEPT_EIGHTHS: u64 = 2;
/// Entries of at most this part of their group's items are worth keeping, however old.
const WORTH_PART: u64 = 64;
/// What is kept for being worth it, of all members: at most this part of what clients may fill.
const SMALL_PART: u64 = 32;
/// Copies between two checkpoints take at most this part of what clients may fill.
const COPIES_PART: u64 = 8;
/// Copies appended in one turn, about: the turn's writes come first.
const TURN_BYTES: usize = 64 << 10;
/// After a record could not be read.
const RETRY_NANOS: u64 = Nanos::PER_SECOND;

/// A record to be appended again.
#[derive(Debug)]
struct Copy {
    group: GroupOrdinal,
    header: RecordHeader,
    /// In [`Carrier::bytes`].
    payload: Range<usize>,
    /// The batch that it was read from.
    batch: Lsn,
}

#[derive(Debug)]
struct Reading {
    log: LogFrom,
    /// Batches from here on are left for another time.
    upto: Lsn,
    op: Option<OpId>,
}

/// See the module's docs.
#[derive(Debug, Default)]
pub(in crate::store) struct Carrier {
    reading: Option<Reading>,
    copies: VecDeque<Copy>,
    bytes: Vec<u8>,
    /// At most where the oldest needed entry is: that only moves forward.
    oldest: Lsn,
    /// Appended since the last checkpoint began.
    copied_bytes: u64,
    retry_at: Nanos,
    /// The last reading ended at something that cannot be read.
    cannot_read: bool,
    /// See [`Store::keep_old`].
    keeps_old: bool,
    /// All that is needed before this was listed, and is appended again by when nothing waits to be.
    listed: Lsn,
    issued: u64,
    /// Records appended again, ever.
    pub(in crate::store) copied: u64,
    /// Batches that could not be read, ever.
    pub(in crate::store) errors: u64,
}

impl Store {
    /// A checkpoint begins, whose history starts behind everything copied so far.
    pub(in crate::store) fn carried(&mut self) {
        self.carrier.copied_bytes = 0;
    }

    /// Whether this member's entries take so much of the log that its shell should trim as far as it
    /// may, and leave a follower behind that lacks them. See the docs of `members::carry`.
    #[must_use]
    pub fn must_trim(&self, group: GroupOrdinal) -> bool {
        // Whoever gets a snapshot from here needs what comes after it: half of what is left is for that.
        let eighths = if self.is_pinned_for_snapshot(group) { 3 } else { 2 };
        self.takes_more_than(eighths, group)
    }

    /// The last slot whose entry lies so far behind the log's head that it would soon have to be
    /// copied to stay: the shell should trim it if it may. None: nothing is that old, or somebody
    /// gets a snapshot from here and will need what comes after it.
    #[must_use]
    pub fn old_slots(&self, group: GroupOrdinal) -> Option<Slot> {
        let log = &self.config.log;
        // A run's records may lie that far behind its begin.
        let kept = log.client_bytes() / 8 * KEPT_EIGHTHS + log.run_bytes();
        let old = self.log.end_lsn().0.checked_sub(kept).filter(|_| !self.carrier.keeps_old)?;
        let stays = self.is_pinned_for_snapshot(group) || self.is_worth_keeping(group);
        if stays { None } else { self.member(group).positions.last_before(Lsn(old)) }
    }

    /// Whether this member's entries are few beside what a snapshot would send in their place.
    fn is_worth_keeping(&self, group: GroupOrdinal) -> bool {
        if self.carrier.cannot_read {
            return false;
        }
        let own = self.member(group).history_bytes();
        let share = self.config.log.client_bytes() / SMALL_PART / self.members.max(1) as u64;
        own <= share && own <= self.groups.get(group).tree.totals().bytes / WORTH_PART
    }

    /// For simulations: copies what may be trimmed, until it takes too much of the log. So copying is
    /// seen at work while everybody is well, too.
    pub fn keep_old(&mut self) {
        self.carrier.keeps_old = true;
    }

    /// Whether entries of this member are refused, so that other groups' writes go on.
    pub(super) fn history_is_full(&self, group: GroupOrdinal) -> bool {
        self.takes_more_than(4, group)
    }

    /// Whether all members take more than so many eighths of the log, and this one more than its
    /// share.
    fn takes_more_than(&self, eighths: u64, group: GroupOrdinal) -> bool {
        let all = self.history_bytes;
        let own = self.member(group).history_bytes();
        all > self.config.log.client_bytes() / 8 * eighths && own * self.members as u64 >= all
    }

    /// Updates the sum over all members, of which one changed from `before`.
    pub(in crate::store) fn history_changed(&mut self, group: GroupOrdinal, before: u64) {
        let after = self.member(group).history_bytes();
        self.history_bytes = self.history_bytes - before + after;
    }

    /// A turn's worth of copying.
    pub(in crate::store) fn carry(&mut self, now: Nanos, work: &mut Work) {
        if self.members == 0 || self.closing {
            return;
        }
        let copied = self.carrier.copied;
        self.append_copies();
        if !self.carrier.copies.is_empty() {
            // Without progress they wait for a buffer, or for a checkpoint.
            work.run_again |= self.carrier.copied > copied;
            return;
        }
        self.carrier.bytes.clear();
        if self.carrier.reading.as_ref().is_some_and(|reading| reading.op.is_some()) {
            return;
        }
        if now < self.carrier.retry_at {
            if self.is_pinned() {
                work.wake_by(self.carrier.retry_at);
            }
            return;
        }
        if self.carrier.reading.is_none() && !self.begin_reading() {
            return;
        }
        self.understand(now);
        work.run_again |= !self.carrier.copies.is_empty();
    }

    /// Whether the oldest needed entry, as far as is known, is too far behind the log's head.
    fn is_pinned(&self) -> bool {
        let known = self.carrier.oldest.max(self.superblock.history_start());
        self.log.end_lsn().0 - known.0 > self.span_bytes()
    }

    fn span_bytes(&self) -> u64 {
        let eighth = self.config.log.client_bytes() / 8;
        let (least, most) = (SPAN_EIGHTHS.0 * eighth, SPAN_EIGHTHS.1 * eighth);
        (self.history_bytes + BETWEEN_EIGHTHS * eighth).clamp(least, most)
    }

    fn begin_reading(&mut self) -> bool {
        if !self.is_pinned() || !self.has_copies_left(BLOCK) {
            return false;
        }
        let states = self.groups.iter().map(|(_, state)| state).filter(|state| !state.dropped);
        let members = states.filter_map(|state| state.member.as_deref());
        let oldest = members.filter_map(|member| member.oldest_needed()).min();
        let oldest = oldest.unwrap_or_else(|| self.log.end_lsn());
        assert!(oldest >= self.log.trim_lsn(), "what is needed is not trimmed");
        self.carrier.oldest = oldest;
        let durable = self.log.durable_lsn();
        if !self.is_pinned() {
            return false;
        }
        // The oldest run of positions, copied in part, stays the oldest.
        let listed = self.carrier.listed;
        let is_within = listed > oldest && listed.0 - oldest.0 < self.config.log.run_bytes();
        let begin = if is_within { listed } else { oldest };
        if begin >= durable {
            return false;
        }
        let upto = begin.after(READ_BYTES).min(durable);
        let log = LogFrom::batch(self.config.log, begin);
        self.carrier.reading = Some(Reading { log, upto, op: None });
        true
    }

    fn has_copies_left(&self, bytes: u64) -> bool {
        let (config, copied) = (&self.config.log, self.carrier.copied_bytes);
        let few = copied == 0 || copied + bytes <= config.client_bytes() / COPIES_PART;
        few && self.log.reserved_bytes() > bytes + BLOCK
    }

    /// Lists what is needed of the batches read; asks for more of them.
    fn understand(&mut self, now: Nanos) {
        let Some(mut reading) = self.carrier.reading.take() else { return };
        loop {
            self.carrier.listed = reading.log.lsn();
            if reading.log.lsn() >= reading.upto {
                // All of it is listed: the oldest needed entry is looked for anew.
                self.carrier.cannot_read = false;
                return reading.log.end(&mut self.spare_bufs);
            }
            let more = match reading.log.next() {
                ChainStep::Batch(batch) => {
                    self.list(&batch);
                    None
                }
                ChainStep::More => Some(self.read_on(&mut reading)),
                ChainStep::Bad(_) => Some(false),
            };
            match more {
                None => {}
                Some(true) => {
                    self.carrier.reading = Some(reading);
                    return;
                }
                Some(false) => {
                    // Unless it was trimmed and overwritten in the meantime.
                    if self.log.still_holds(reading.log.lsn()) {
                        self.cannot_read(now);
                    }
                    return reading.log.end(&mut self.spare_bufs);
                }
            }
            if self.carrier.bytes.len() >= TURN_BYTES {
                // They are appended first.
                self.carrier.reading = Some(reading);
                return;
            }
        }
    }

    fn cannot_read(&mut self, now: Nanos) {
        self.carrier.errors += 1;
        self.carrier.cannot_read = true;
        self.carrier.retry_at = now + RETRY_NANOS;
        // Full for whoever stages an entry, which is earlier than for one that is appended.
        if !self.log_takes(record_bytes(TYPICAL_ENTRY_BYTES)) {
            self.fail(StoreFailure::Unreadable { lsn: self.carrier.oldest });
        }
    }

    /// Asks for more of the log; false if there is no more.
    fn read_on(&mut self, reading: &mut Reading) -> bool {
        self.carrier.issued += 1;
        let op = OpId(ops::CARRY | self.carrier.issued);
        let ends = (reading.upto, self.log.durable_lsn());
        let Some(read) = reading.log.read(ends, op, &mut self.spare_bufs) else { return false };
        reading.op = Some(op);
        self.disk.push(read);
        true
    }

    /// Whether a disk operation is a read of this module.
    pub(in crate::store) fn is_carry_op(op: OpId) -> bool {
        op.0 >> 48 == ops::CARRY >> 48
    }

    /// A read ended.
    pub(in crate::store) fn carry_read(&mut self, done: DiskDone, now: Nanos) {
        let buf = done.buf.expect("a read brings its buffer back");
        let Some(mut reading) = self.carrier.reading.take() else { return };
        assert_eq!(reading.op.take(), Some(done.op), "one read at a time");
        if done.result.is_err() {
            self.cannot_read(now);
        } else {
            reading.log.give(buf, &mut self.spare_bufs);
            self.carrier.reading = Some(reading);
        }
    }

    /// Notes the records of a batch that members need.
    fn list(&mut self, batch: &Batch<'_>) {
        let lsn = batch.header.lsn;
        for record in batch.records() {
            let header = record.header;
            let Some(group) = self.groups.find(header.group) else { continue };
            if is_entry(header.kind) && self.counts(group, &header, lsn) {
                let begin = self.carrier.bytes.len();
                self.carrier.bytes.extend_from_slice(record.payload);
                let payload = begin..self.carrier.bytes.len();
                self.carrier.copies.push_back(Copy { group, header, payload, batch: lsn });
            }
        }
    }

    /// Whether the record of this header in the batch at `batch` is the one that a member needs.
    fn counts(&self, group: GroupOrdinal, header: &RecordHeader, batch: Lsn) -> bool {
        let state = self.groups.get(group);
        let Some(member) = state.member.as_deref().filter(|_| !state.dropped) else { return false };
        // Of an earlier member on this shard nothing is found: it was before all of this one's.
        member.positions.find(header.slot).is_some_and(|(from, ballot, _)| {
            ballot == header.ballot
                && from <= batch
                && batch.0 - from.0 < self.config.log.run_bytes()
        })
    }

    fn append_copies(&mut self) {
        let mut left = TURN_BYTES;
        while let Some(copy) = self.carrier.copies.front() {
            let Copy { group, header, batch, .. } = *copy;
            let bytes = record_bytes(copy.payload.len() + header.origin_bytes());
            let known = self.groups.find(header.group) == Some(group);
            if !known || !self.counts(group, &header, batch) {
                // Trimmed, overwritten or dropped since.
                self.carrier.copies.pop_front();
                continue;
            }
            if left < bytes.min(TURN_BYTES) || !self.has_copies_left(bytes as u64) {
                return;
            }
            let payload = &self.carrier.bytes[copy.payload.clone()];
            match self.log.append_reserved(&header, &[payload]) {
                Ok(position) => self.appended_lsn = position,
                Err(AppendError::TooLarge { .. }) => unreachable!("it was in this log"),
                // For the moment, or for good.
                Err(_) => return,
            }
            self.carrier.copies.pop_front();
            let at = self.log.batch_lsn();
            let state = self.groups.get_mut(group);
            let member = state.member.as_deref_mut().expect("it was looked at");
            let before = member.history_bytes();
            member.positions.note(&self.config.log, header.slot, header.ballot, at, bytes as u64);
            self.history_changed(group, before);
            self.carrier.copied += 1;
            self.carrier.copied_bytes += bytes as u64;
            left = left.saturating_sub(bytes);
        }
    }
}

/// Whether records of this kind are accepted entries.
fn is_entry(kind: RecordKind) -> bool {
    let entries =
        [RecordKind::PUT, RecordKind::DELETE, RecordKind::NO_OP, RecordKind::CONFIGURATION];
    entries.contains(&kind)
}
