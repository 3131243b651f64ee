//! The shard's storage as one state machine: log, overlay, trees, cache, checkpoints.
//!
//! ```text
//!   put ─► stage in overlay ─► log batch ─► durable ─► chosen ─► indexed in the active generation
//!                                                                      │ full enough, or time
//!   get ─► active ─► frozen ─► tree (page cache)                       ▼
//!                      └───────── merge in slices ◄──────────── freeze: fixes a slot per group
//!                                     │
//!                                     ▼
//!            catalog ─► pages written ─► flush ─► superblock ─► log trimmed, pages reusable
//! ```
//!
//! It asks for [`DiskOp`]s and takes [`DiskDone`]s; time is an argument. The shard calls
//! [`Store::turn`] once per turn of its loop.
//!
//! Invariants, asserted where the state changes:
//! * entries are applied in log order and only below `durable_lsn`;
//! * a group's tree is exactly the state at the slot that the freeze before its merge fixed;
//! * the log keeps everything from the *older* valid superblock's `checkpoint_lsn` on;
//! * after a failed log write or flush nothing is served and nothing more is written.

pub mod catalog;
mod checkpoint;
mod groups;
mod members;
mod merging;
mod pace;
mod read;
mod recovery;
mod repair;
mod room;
mod scrub;
mod sealed;
mod snapshot;
mod stats;

#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};

use forebay_core::ids::{Lsn, ShardId, Slot};
use forebay_core::paxos::PersistId;
use forebay_core::time::Nanos;

use crate::block::{DiskDone, DiskError, DiskOp, OpId};
use crate::cache::PageCache;
use crate::log::format::PutPayload;
use crate::log::reader::SpareBufs;
use crate::log::{AppendError, LogConfig, LogFailed, LogWriter, RecordHeader, RecordKind};
use crate::overlay::{InFlight, KeyHash, Overlay, Staged};
use crate::space::{Runs, SpaceMap};
use crate::superblock::Superblock;
use crate::tree::{PageRef, TreeRef};

pub use groups::{GroupDescriptor, GroupOrdinal};
pub use members::{
    AcceptedEntry, ChosenEntry, EntryBytes, MemberDescriptor, PastEntries, PastEntry,
};
pub use read::{Current, PageId, RangeEnd, Read, TOGETHER_MAX, Visit};
pub use recovery::{BlockingDisk, OpenError, Opened, RecoveryProgress, open};
pub use repair::LostMember;
pub use scrub::ScrubStats;
pub use snapshot::{
    InstallError, InstallProgress, InstallStage, Installed, NotPinned, SnapshotPin, SnapshotRead,
};
pub use stats::{GroupFigures, StoreStats};

use checkpoint::Checkpoint;
use groups::Groups;
use repair::Repair;
use scrub::Scrub;
use snapshot::Snapshots;

use members::{Append, Carrier, ReadBack, StagedEntries};

/// Sizes and pace of one shard's storage.
#[derive(Clone, Copy, Debug)]
pub struct StoreConfig {
    /// The log's geometry and limits.
    pub log: LogConfig,
    /// Memory of one of the overlay's two generations.
    pub overlay_generation_bytes: usize,
    /// Memory of the page cache.
    pub cache_bytes: usize,
    /// A checkpoint begins this long after the one before, if anything changed.
    pub checkpoint_interval_nanos: u64,
    /// A checkpoint begins when the active generation holds this part of its memory.
    pub overlay_fill_percent: u8,
    /// A checkpoint begins when this part of what clients may fill of the log is in use. It keeps what two checkpoints
    /// need, so each but the first adds half of it.
    pub log_fill_percent: u8,
    /// Merge work of one slice on an idle shard, about.
    pub merge_slice_micros: u32,
    /// Bench only: begin no checkpoint while memory and log have room. The control run for the
    /// cost of checkpoints.
    pub checkpoints_off: bool,
    /// An idle log gets its marker batch after this long, so that its last batch can no longer be
    /// mistaken for a tail.
    pub marker_nanos: u64,
}

/// Names a write by its place among the shard's writes; larger is later.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

/// Why a write was not begun. Nothing happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Memory or log space is used up for the moment: retry, or wait for [`Store::has_room`].
    #[error("the shard's log or memory is full for the moment")]
    Overloaded,
    /// The pages file cannot grow to hold a checkpoint of this entry, or what is free in it lies in
    /// pieces too small for it. Free disk space, or delete; deletes go on. Then try again.
    #[error("the disk is full: {free_bytes} bytes in pieces are left for checkpoints and deletes")]
    DiskFull {
        /// What is left.
        free_bytes: u64,
    },
    /// No log record, or too large a part of this shard's memory, would hold it: refuse it for good.
    #[error("{bytes} bytes do not fit a log record, or this shard's memory")]
    TooLarge {
        /// Size of the entry.
        bytes: usize,
    },
    /// The store has failed; see [`Store::failure`].
    #[error("the shard's log has failed; restart the node to recover")]
    Failed,
    /// The store is closing.
    #[error("the shard is closing")]
    Closing,
}

/// What ended the store's service. It is final: recover by opening it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreFailure {
    /// A log write or flush failed. It is never retried: what the device holds is not known.
    #[error(transparent)]
    Log(LogFailed),
    /// A page or superblock write or a flush failed during a checkpoint.
    #[error("a checkpoint write failed: {0}")]
    Checkpoint(DiskError),
    /// The log is full behind entries that members still need, and they cannot be read to make room.
    /// Restart: their groups' other members bring them again. Then look at the device.
    #[error("the log is full, and entries needed from lsn {lsn} on cannot be read")]
    Unreadable {
        /// Where the oldest of them is.
        lsn: Lsn,
    },
}

/// What the shell should do after a turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Come back at once: a merge is under way.
    pub run_again: bool,
    /// Come back at this time at the latest.
    pub wake_at: Option<Nanos>,
}

impl Work {
    fn wake_by(&mut self, at: Nanos) {
        self.wake_at = Some(self.wake_at.map_or(at, |sooner| sooner.min(at)));
    }
}

/// A proposed entry on its way to being chosen, in log order.
#[derive(Clone, Copy, Debug)]
struct Pending {
    /// Its record's position: durable when `durable_lsn` is above.
    position: Lsn,
    group: GroupOrdinal,
    slot: Slot,
    entry: PendingEntry,
}

#[derive(Clone, Copy, Debug)]
enum PendingEntry {
    Write(Staged, KeyHash, Runs),
    GroupCreate,
    GroupDrop,
    /// A member's records up to here.
    Persisted(PersistId),
}

impl PendingEntry {
    /// What is set aside for its merge.
    fn runs(&self) -> Runs {
        match self {
            PendingEntry::Write(_, _, runs) => *runs,
            PendingEntry::GroupCreate | PendingEntry::GroupDrop | PendingEntry::Persisted(_) => {
                Runs::default()
            }
        }
    }
}

/// What [`Store::has_room`] asks for: a key and an item of about a kibibyte.
const TYPICAL_ENTRY_BYTES: usize = 1_280;

/// Numbers of operations: the upper 16 bits say whose they are.
mod ops {
    pub(super) const OTHER: u64 = 1 << 48;
    pub(super) const LOG: u64 = 2 << 48;
    pub(super) const CARRY: u64 = 3 << 48;
}

/// See the module's docs.
pub struct Store {
    config: StoreConfig,
    node_id: u128,
    log: LogWriter,
    overlay: Overlay,
    in_flight: InFlight,
    pending: VecDeque<Pending>,
    last_ticket: Ticket,
    chosen_ticket: Ticket,
    groups: Groups,
    /// Members of replicated groups on this shard.
    members: usize,
    /// The bytes of their entries that are not applied.
    staged: StagedEntries,
    /// Their records that wait for room in the log.
    appends: VecDeque<(GroupOrdinal, Append)>,
    /// Position of their newest record.
    appended_lsn: Lsn,
    /// What the entries that they may not trim take in the log, about.
    history_bytes: u64,
    /// See [`Store::members_without_entries`].
    members_without_entries: u64,
    /// Their old entries on the way to the log's head.
    carrier: Carrier,
    /// Entries of theirs that were staged, ever.
    staged_count: u64,
    /// Of entries that have left memory.
    reads: Vec<ReadBack>,
    spare_bufs: SpareBufs,
    past_entries: Vec<PastEntries>,
    snapshots: Snapshots,
    persisted: Vec<(GroupOrdinal, PersistId)>,
    applied: Vec<(GroupOrdinal, Slot)>,
    checkpointed: Vec<(GroupOrdinal, Slot)>,
    cache: PageCache,
    space: SpaceMap,
    catalog: TreeRef,
    superblock: Superblock,
    checkpoint: Checkpoint,
    /// Operations asked for since the last turn.
    disk: Vec<DiskOp>,
    loaded: Vec<PageId>,
    /// Pages to be read as soon as a frame is free.
    unread: Vec<PageRef>,
    /// Pages that could not be had, and when they are asked for again.
    damaged: HashMap<PageRef, Nanos>,
    repair: Repair,
    scrub: Scrub,
    /// Largest key and item together that log, overlay and cache can all hold.
    entry_bytes_max: usize,
    op_issued: u64,
    failure: Option<StoreFailure>,
    closing: bool,
    last_write_at: Nanos,
    page_read_errors: u64,
    /// See [`Store::wrong_pages`].
    wrong_pages: u64,
    /// What was chosen here, for whoever watches.
    watched: Option<Vec<ChosenEntry>>,
}

impl Store {
    /// This store's shard.
    #[must_use]
    pub fn shard(&self) -> ShardId {
        self.config.log.shard
    }

    /// Takes the page cache's memory from the system now, before the service begins.
    pub fn populate_memory(&mut self) {
        self.cache.populate();
    }

    /// Begins a Put of `item` under the encoded `key`.
    ///
    /// # Errors
    /// Nothing was begun; see [`Refused`].
    pub fn put(&mut self, group: GroupOrdinal, key: &[u8], item: &[u8]) -> Result<Ticket, Refused> {
        self.write(group, key, Some(item))
    }

    /// Begins a Delete of the encoded `key`.
    ///
    /// # Errors
    /// Nothing was begun; see [`Refused`].
    pub fn delete(&mut self, group: GroupOrdinal, key: &[u8]) -> Result<Ticket, Refused> {
        self.write(group, key, None)
    }

    /// The newest write whose entry, with all before it, is chosen and applied.
    #[must_use]
    pub fn chosen_ticket(&self) -> Ticket {
        self.chosen_ticket
    }

    /// The newest write begun.
    #[must_use]
    pub fn last_ticket(&self) -> Ticket {
        self.last_ticket
    }

    /// Whether a write of a typical size would not be refused as [`Refused::Overloaded`] now: memory,
    /// log space and log buffers have room for it. Also true when it would be refused for another
    /// reason, which waiting does not change.
    #[must_use]
    pub fn has_room(&self) -> bool {
        if self.failure.is_some() || self.closing {
            return true;
        }
        // The file is growing by a run that a write waits for.
        if self.checkpoint.run_wanted > 0 && !self.is_disk_full() {
            return false;
        }
        if self.admit_at_pace().is_err() {
            return false;
        }
        match self.admit_to_disk(TYPICAL_ENTRY_BYTES, Runs::default(), false) {
            Err(Refused::Overloaded) => false,
            Err(_) => true,
            Ok(()) => {
                self.overlay.has_room(TYPICAL_ENTRY_BYTES)
                    && self.log.check_room(TYPICAL_ENTRY_BYTES).is_ok()
            }
        }
    }

    /// Why the store serves nothing any more, if so.
    #[must_use]
    pub fn failure(&self) -> Option<StoreFailure> {
        self.failure
    }

    /// Ends the store's work in order: a last checkpoint and marker. Watch [`Store::is_closed`].
    pub fn close(&mut self) {
        self.closing = true;
    }

    /// Whether everything is on disk after [`Store::close`] (or never will be). A last checkpoint
    /// that waits for a damaged page or for a full disk is not waited for: the log has all of it.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        let checkpointed =
            self.checkpoint.is_idle() && self.overlay.entries() == 0 && !self.groups.any_changed();
        self.failure.is_some()
            || (self.closing
                && self.pending.is_empty()
                && self.appends.is_empty()
                && (checkpointed || self.checkpoint.is_blocked())
                && self.log.is_idle()
                && !self.log.needs_marker())
    }

    fn write(
        &mut self,
        group: GroupOrdinal,
        key: &[u8],
        item: Option<&[u8]>,
    ) -> Result<Ticket, Refused> {
        let bytes = key.len() + item.map_or(0, <[u8]>::len);
        let runs = Runs::of(key, item);
        self.admit(bytes, runs, item.is_none())?;
        // Asked first, so that a refused write leaves nothing behind in memory.
        let payload_bytes = if item.is_some() { bytes + 2 } else { bytes };
        if let Err(error) = self.log.check_room(payload_bytes) {
            return Err(self.log_refused(error));
        }
        self.set_aside(runs, item.is_none())?;
        let state = self.groups.get_mut(group);
        assert!(!state.dropped, "nobody writes to a dropped group");
        debug_assert!(state.member.is_none(), "a member's entries are staged");
        let slot = state.progress.last_slot().next();
        let header = RecordHeader {
            kind: if item.is_some() { RecordKind::PUT } else { RecordKind::DELETE },
            group: state.progress.id(),
            slot,
            ballot: state.progress.ballot(),
            origin: state.progress.ballot(),
        };
        let Ok(staged) = self.overlay.stage(group.0, slot, key, item) else {
            self.space.give_back(runs);
            self.checkpoint.hasten();
            return Err(Refused::Overloaded);
        };
        let prefix = PutPayload::prefix(key);
        let appended = match item {
            Some(item) => self.log.append(&header, &[&prefix, key, item]),
            None => self.log.append(&header, &[key]),
        };
        let position = appended.expect("the log was asked for room");
        let proposed = self.groups.get_mut(group).progress.propose();
        debug_assert_eq!(proposed, slot);
        let hash = KeyHash::of(group.0, key);
        self.in_flight.insert(&self.overlay, staged, hash);
        Ok(self.enqueue(position, group, slot, PendingEntry::Write(staged, hash, runs)))
    }

    fn enqueue(
        &mut self,
        position: Lsn,
        group: GroupOrdinal,
        slot: Slot,
        entry: PendingEntry,
    ) -> Ticket {
        self.pending.push_back(Pending { position, group, slot, entry });
        self.last_ticket.0 += 1;
        self.last_ticket
    }

    fn admit(&self, bytes: usize, runs: Runs, frees_space: bool) -> Result<(), Refused> {
        if self.failure.is_some() {
            return Err(Refused::Failed);
        }
        if self.closing {
            return Err(Refused::Closing);
        }
        if bytes > self.entry_bytes_max {
            return Err(Refused::TooLarge { bytes });
        }
        self.admit_at_pace()?;
        self.admit_to_disk(runs.single_bytes(bytes), runs, frees_space)
    }

    fn log_refused(&mut self, error: AppendError) -> Refused {
        match error {
            AppendError::TooLarge { bytes, .. } => Refused::TooLarge { bytes: bytes as usize },
            AppendError::Failed(_) => Refused::Failed,
            AppendError::Busy { .. } => Refused::Overloaded,
            AppendError::Full { .. } => {
                self.checkpoint.hasten();
                Refused::Overloaded
            }
        }
    }

    /// A disk operation ended.
    pub fn disk_done(&mut self, done: DiskDone, now: Nanos) {
        if self.log.owns(done.op) {
            self.last_write_at = now;
            if let Err(failed) = self.log.done(done) {
                self.fail(StoreFailure::Log(failed));
            }
            self.apply_durable();
        } else if self.cache.owns_read(done.op) {
            self.page_read(done, now);
        } else if self.scrub.owns(done.op) {
            self.scrub_read(done);
        } else if self.owns_read_back(done.op) {
            self.read_back_done(done);
        } else if Store::is_carry_op(done.op) {
            self.carry_read(done, now);
        } else {
            self.checkpoint_done(done, now);
        }
    }

    fn next_op(&mut self) -> OpId {
        self.op_issued += 1;
        OpId(self.op_issued)
    }

    fn fail(&mut self, failure: StoreFailure) {
        self.failure.get_or_insert(failure);
        // Nothing more is written: also not what was asked for in this turn.
        self.disk.clear();
    }

    /// Applies every pending entry that the log holds durably: in a group of one, durable is chosen.
    fn apply_durable(&mut self) {
        let durable_lsn = self.log.durable_lsn();
        let mut near = 0;
        while let Some(pending) = self.pending.front().copied() {
            if pending.position >= durable_lsn {
                break;
            }
            if near == 0 {
                near = self.touch_pending();
            }
            near -= 1;
            self.pending.pop_front();
            self.chosen_ticket.0 += 1;
            match pending.entry {
                PendingEntry::Write(staged, hash, _) => {
                    let state = self.groups.get_mut(pending.group);
                    state.progress.durable(0, pending.slot);
                    state.progress.apply(pending.slot);
                    state.changed = true;
                    self.in_flight.remove(&self.overlay, staged, hash);
                    // Also if the group's drop was proposed: until that is chosen it may be lost.
                    self.overlay.apply(staged, hash);
                }
                PendingEntry::GroupCreate => self.groups.get_mut(pending.group).changed = true,
                PendingEntry::Persisted(id) => self.note_persisted(pending.group, id),
                PendingEntry::GroupDrop => self.group_dropped(pending.group),
            }
        }
    }

    pub(in crate::store) fn note_persisted(&mut self, group: GroupOrdinal, id: PersistId) {
        match self.persisted.last_mut() {
            Some((last, upto)) if *last == group => *upto = id,
            _ => self.persisted.push((group, id)),
        }
    }

    /// Writes begun so far, for the pace of merges.
    pub(super) fn writes_begun(&self) -> u64 {
        self.last_ticket.0 + self.staged_count
    }

    /// Brings near what the next entries will be applied to; says how many of them.
    fn touch_pending(&self) -> usize {
        let mut writes: [(Staged, KeyHash); TOGETHER_MAX] = Default::default();
        let (mut near, mut len) = (0, 0);
        for pending in self.pending.iter().take(TOGETHER_MAX) {
            near += 1;
            if let PendingEntry::Write(staged, hash, _) = pending.entry {
                writes[len] = (staged, hash);
                len += 1;
            }
        }
        self.overlay.touch_for_apply(&writes[..len]);
        near
    }

    /// Does a turn's worth of background work and hands out the operations asked for.
    pub fn turn(&mut self, now: Nanos, disk: &mut Vec<DiskOp>) -> Work {
        let mut work = Work::default();
        if self.failure.is_none() {
            self.forget_damage(now);
            self.confirm_damage(&mut work);
            self.fetch_unread();
            self.append_queued();
            self.carry(now, &mut work);
        }
        if self.failure.is_none() {
            self.expire_pins(now, &mut work);
            self.step_behind(now, &mut work);
            self.step_install(now, &mut work);
            self.step_checkpoint(now, &mut work);
            self.step_scrub(now, &mut work);
            self.seal(now, &mut work);
        }
        disk.append(&mut self.disk);
        work
    }

    /// Closes the open batch, and marks an idle or closing log.
    fn seal(&mut self, now: Nanos, work: &mut Work) {
        self.log.seal(&mut self.disk);
        if self.log.needs_marker() {
            let due = self.last_write_at + self.config.marker_nanos;
            if now >= due || self.closing {
                self.log.marker(&mut self.disk);
            } else {
                work.wake_by(due);
            }
        }
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("shard", &self.shard()).finish_non_exhaustive()
    }
}
