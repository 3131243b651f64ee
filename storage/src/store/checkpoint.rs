//! Checkpoints: from the overlay into the trees, and onto the disk.
//!
//! ```text
//!   Idle ─ due ─► freeze: the log's durable point, a slot for each changed group
//!     ▲              │
//!     │              ▼ slices, paced by how fast the active generation fills
//!     │           Merging: group after group into its tree; dropped groups' pages freed
//!     │              ▼ frozen generation released: the dirty pages in the cache hold it all
//!     │           Catalog: the changed groups' entries
//!     │              ▼
//!     │           Writing: what is still dirty, and the space map's bitmaps
//!     │              ▼
//!     │           Flushing ─► Logging: what was applied is durable in this log, too
//!     │              ▼
//!     │           Superblock (durable) ─► log trimmed, pages freed before reusable
//!     └──────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! **Rule (superblock).** Pages and bitmaps are written and flushed before the superblock is
//! written, and that write is durable when it completes. The log is trimmed to the *older* of the
//! two superblocks.
//!
//! **Snapshots.** An install that is ready is part of the checkpoint: instead of merging its group, the
//! new tree's pages are adopted and the old one's freed, and the frozen generation stays until the
//! superblock is durable ([`super::snapshot`]).
//!
//! **Members of replicated groups.** An entry is applied when a quorum has it, which need not
//! include this log. A checkpoint that contains it tells others that it may leave their logs, and
//! the catalog names the last slot that this log has: so before the superblock is written the log
//! is durable up to its end at the freeze. The log is kept from the *history's* start on: the oldest
//! batch with an entry that a member may not trim yet (**Rule (trimming)**). Entries that stay needed
//! for long are appended again at the log's head (`members::carry`), so that they do not pin it.

use forebay_core::ids::Lsn;
use forebay_core::planted::{self, Flaw};
use forebay_core::time::Nanos;

use super::pace::Begun;
use super::room::Merging;
use super::{GroupOrdinal, Store, StoreFailure, TYPICAL_ENTRY_BYTES, Work};
use crate::block::{BLOCK_BYTES, BlockBuf, DiskDone, DiskOp, Durability, OpId, ShardFile};
use crate::log::{AppendError, LogPoint};
use crate::overlay::FrozenCursor;
use crate::space::SpaceRoot;
use crate::superblock::{LogGeometry, Superblock};
use crate::tree::merge::Merge;
use crate::tree::{PageRef, TreeRef};

/// Page writes in flight while nothing is urgent: the log shares the device.
const PAGE_WRITES_MAX: usize = 4;
/// A checkpoint begins while the log holds more than this part of what clients may fill, if it trims
/// [`LOG_GAIN_PART`] of that, or lets the next one.
const LOG_HELD_PERCENT_MAX: u64 = 75;
/// What members still need may hold most of a log for long ([`super::members`]): checkpoint after
/// checkpoint would trim a few batches each. Without members, two checkpoints' writes are all that a log
/// holds; with what is needed before them they must be shorter.
const LOG_GAIN_PART: u64 = 8;

#[derive(Debug)]
pub(super) enum Phase {
    Idle,
    Merging,
    Catalog,
    Writing,
    Sealing {
        writes_left: usize,
        root: SpaceRoot,
    },
    Flushing {
        op: OpId,
        root: SpaceRoot,
    },
    /// The log has to reach what the checkpoint takes for granted.
    Logging {
        root: SpaceRoot,
    },
    Superblock {
        op: OpId,
        superblock: Superblock,
    },
}

/// What a group's part of the checkpoint is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    pub(super) group: GroupOrdinal,
    pub(super) drop: bool,
}

/// The checkpoint under way, and figures of the last one.
pub(super) struct Checkpoint {
    pub(super) phase: Phase,
    pub(super) merge: Merge,
    pub(super) cursor: Option<FrozenCursor>,
    pub(super) parts: Vec<Part>,
    pub(super) next_part: usize,
    /// Pages of a dropped tree still to be freed.
    pub(super) drop_stack: Vec<PageRef>,
    pub(super) drop_begun: bool,
    pub(super) catalog_changes: Vec<([u8; 8], Option<Vec<u8>>)>,
    pub(super) next_change: usize,
    pub(super) point: LogPoint,
    /// The oldest entry that a member needs, at most the point.
    pub(super) history_start: Lsn,
    /// The log is durable up to here before the superblock is written.
    pub(super) required_lsn: Lsn,
    /// Entries frozen and entries merged.
    pub(super) frozen_entries: usize,
    pub(super) merged_entries: usize,
    pub(super) units_used: usize,
    pub(super) begun: Begun,
    pub(super) merging: Merging,
    /// The last one merged nothing, to make room for the next, which follows at once.
    pub(super) cleared: bool,
    /// Writes begun when the last slice ran.
    pub(super) paid_writes: u64,
    pub(super) waits_for_pages: bool,
    /// It waits for something that may never come: a damaged page, or space on a full disk.
    pub(super) blocked: bool,
    /// A write was refused that a checkpoint makes room for.
    pub(super) hastened: bool,
    /// Somebody waits for what has changed to be in a checkpoint.
    pub(super) wanted: bool,
    pub(super) grow: Option<OpId>,
    pub(super) grow_refused_at: Option<Nanos>,
    /// The longest run that a write did not find since the file last grew, or could not.
    pub(super) run_wanted: u64,
    /// The same since the last checkpoint began, which may free one.
    pub(super) run_refused: bool,
    pub(super) begun_at: Nanos,
    pub(super) finished_at: Nanos,
    pub(super) last_nanos: u64,
    pub(super) number: u64,
    pub(super) written_bytes: u64,
    pub(super) page_writes: usize,
    /// It is due without any change: the first of a new shard, or of a log that was given up.
    pub(super) format: bool,
}

impl Checkpoint {
    pub(super) fn new(number: u64, now: Nanos) -> Checkpoint {
        Checkpoint {
            phase: Phase::Idle,
            merge: Merge::new(TreeRef::EMPTY),
            cursor: None,
            parts: Vec::new(),
            next_part: 0,
            drop_stack: Vec::new(),
            drop_begun: false,
            catalog_changes: Vec::new(),
            next_change: 0,
            point: LogPoint::default(),
            history_start: Lsn(0),
            required_lsn: Lsn(0),
            frozen_entries: 0,
            merged_entries: 0,
            units_used: 0,
            begun: Begun::default(),
            merging: Merging::default(),
            cleared: false,
            paid_writes: 0,
            waits_for_pages: false,
            blocked: false,
            hastened: false,
            wanted: false,
            grow: None,
            grow_refused_at: None,
            run_wanted: 0,
            run_refused: false,
            begun_at: now,
            finished_at: now,
            last_nanos: 0,
            number,
            written_bytes: 0,
            page_writes: 0,
            format: number == 0,
        }
    }

    /// Lets the next checkpoint begin as soon as it can.
    pub(super) fn hasten(&mut self) {
        self.hastened = true;
    }

    /// Lets the next checkpoint begin as soon as there is something to put into it.
    pub(super) fn want(&mut self) {
        self.wanted = true;
    }

    /// Lets the next checkpoint begin at once, whether anything has changed or not.
    pub(super) fn demand(&mut self) {
        self.format = true;
    }

    /// Whether it waits for something that may never come.
    pub(super) fn is_blocked(&self) -> bool {
        self.blocked
    }

    pub(super) fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::Idle)
    }

    #[cfg(test)]
    pub(super) fn phase_name(&self) -> String {
        format!("{:?}", self.phase)
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn finished_at(&self) -> Nanos {
        self.finished_at
    }

    pub(super) fn last_nanos(&self) -> u64 {
        self.last_nanos
    }

    pub(super) fn written_bytes(&self) -> u64 {
        self.written_bytes
    }
}

impl Store {
    /// A turn's worth of checkpoint work.
    pub(super) fn step_checkpoint(&mut self, now: Nanos, work: &mut Work) {
        self.grow_ahead(now, work);
        if self.checkpoint.is_idle() && !self.begin_if_due(now, work) {
            // Writes pay for merging only while there is something to merge.
            self.checkpoint.paid_writes = self.writes_begun();
            return;
        }
        let budget = self.slice_units();
        self.checkpoint.paid_writes = self.writes_begun();
        match self.checkpoint.phase {
            Phase::Idle => {}
            Phase::Merging => self.merge_groups(budget, now, work),
            Phase::Catalog => self.merge_catalog(budget, now, work),
            Phase::Writing | Phase::Sealing { .. } => {}
            Phase::Flushing { .. } | Phase::Superblock { .. } => {}
            Phase::Logging { root } => self.write_superblock_when_logged(root),
        }
        self.write_pages();
        self.finish_writing(now);
    }

    /// For simulations: a checkpoint begins as soon as there is something to put into it.
    pub fn want_checkpoint(&mut self) {
        self.checkpoint.want();
    }

    /// Begins a checkpoint if one is due; otherwise says when to look again.
    fn begin_if_due(&mut self, now: Nanos, work: &mut Work) -> bool {
        // Between a superblock with a snapshot and the shell's taking it, memory and disk differ.
        if self.install_is_durable() {
            work.run_again = true;
            return false;
        }
        let config = &self.config;
        let changed = self.overlay.active_entries() > 0 || self.groups.any_changed();
        let due_at = self.checkpoint.finished_at + config.checkpoint_interval_nanos;
        let paced = !config.checkpoints_off && (now >= due_at || self.is_filling());
        let due = self.checkpoint.format
            || self.install_is_ready()
            || (changed && self.checkpoint.wanted)
            || (changed && (self.closing || paced || !self.overlay.has_room(TYPICAL_ENTRY_BYTES)))
            || self.checkpoint.cleared
            || self.log_needs_checkpoint()
            || self.disk_needs_checkpoint(changed, now, work);
        if !due {
            if changed && !config.checkpoints_off {
                work.wake_by(due_at);
            }
            return false;
        }
        // Everything durable is applied by now, so this point has all of it before it.
        self.apply_durable();
        if !self.checkpoint.cleared && self.needs_clearing() {
            self.begin_clearing(now);
            return true;
        }
        let point = self.log.durable_point();
        let bytes = self.active_single_bytes();
        let entries = self.overlay.freeze().map_or(0, |frozen| frozen.entries);
        self.begin_room(entries as u64, bytes);
        let in_flight = self.pending.iter().map(|pending| pending.entry.runs());
        self.space.freeze_aside(in_flight.chain(self.staged.runs()));
        self.freeze_history(point);
        let checkpoint = &mut self.checkpoint;
        checkpoint.run_refused = false;
        checkpoint.format = false;
        checkpoint.cleared = false;
        checkpoint.hastened = false;
        checkpoint.wanted = false;
        checkpoint.point = point;
        checkpoint.begun_at = now;
        checkpoint.frozen_entries = entries;
        checkpoint.merged_entries = 0;
        checkpoint.units_used = 0;
        checkpoint.parts.clear();
        checkpoint.next_part = 0;
        checkpoint.catalog_changes.clear();
        checkpoint.next_change = 0;
        for (group, state) in self.groups.iter_mut() {
            if std::mem::take(&mut state.changed) {
                state.frozen_slot = state.applied_slot();
                if let Some(member) = &mut state.member {
                    member.freeze();
                }
                checkpoint.parts.push(Part { group, drop: state.drop_chosen });
            }
        }
        checkpoint.phase = Phase::Merging;
        self.freeze_install();
        self.begin_pace();
        true
    }

    /// Begins a checkpoint of the same state again: it changes nothing but which superblock is the
    /// older one, and so which freed pages can be reused.
    fn begin_clearing(&mut self, now: Nanos) {
        self.begin_room(0, 0);
        let (superblock, checkpoint) = (&self.superblock, &mut self.checkpoint);
        checkpoint.cleared = true;
        checkpoint.point = superblock.log_start;
        checkpoint.history_start = superblock.history_start();
        checkpoint.required_lsn = Lsn(0);
        checkpoint.begun_at = now;
        (checkpoint.frozen_entries, checkpoint.merged_entries) = (0, 0);
        checkpoint.phase = Phase::Writing;
        self.begin_pace();
    }

    /// Whether memory or log are as full as they should be when a checkpoint begins.
    fn is_filling(&self) -> bool {
        let (config, end) = (&self.config, self.log.end_lsn().0);
        let percent = u64::from(config.log_fill_percent) * config.log.client_bytes();
        // The log is trimmed to the older superblock: what is in use is of two checkpoints.
        let log_filling = (end - self.log.trim_lsn().0) * 100 >= percent
            && (end - self.superblock.log_start.lsn.0) * 200 >= percent;
        let overlay = self.overlay.fill().active * 100.0;
        overlay >= f64::from(config.overlay_fill_percent) || log_filling
    }

    /// Whether the log needs a checkpoint to be trimmed, be there changes or not: it is trimmed to
    /// the older superblock, so a second checkpoint may have to follow the first even if no write
    /// got in between, or none ever would.
    fn log_needs_checkpoint(&self) -> bool {
        let (trim, start) = (self.log.trim_lsn(), self.superblock.log_start.lsn);
        // What another checkpoint trims to.
        let next_trim = self.superblock.history_start();
        let (held, all) = (self.log.end_lsn().0 - trim.0, self.config.log.client_bytes());
        let gain = next_trim.0.saturating_sub(trim.0);
        // What members need may be copied as fast as the log is written, so as much may be let go.
        let written = if self.members > 0 { self.log.durable_lsn().0 - start.0 } else { 0 };
        let nearly_full = held * 100 >= all * LOG_HELD_PERCENT_MAX;
        let pays = nearly_full && gain.max(written) >= all / LOG_GAIN_PART;
        let full = || {
            let room = self.log.check_room(TYPICAL_ENTRY_BYTES);
            self.checkpoint.hastened || matches!(room, Err(AppendError::Full { .. }))
        };
        pays || (trim < next_trim || start < self.log.durable_lsn()) && full()
    }

    /// Keeps a few page writes in flight; more when writes are about to wait for the checkpoint. While
    /// the merge makes more pages, neighbours are waited for, but not with an idle device.
    pub(super) fn write_pages(&mut self) {
        let hurry = self.closing || self.is_falling_behind();
        let max = if hurry { usize::MAX } else { PAGE_WRITES_MAX };
        let more_to_come = matches!(self.checkpoint.phase, Phase::Merging | Phase::Catalog);
        while self.checkpoint.page_writes < max {
            let may_wait = more_to_come && !self.cache.is_half_dirty();
            if may_wait && self.checkpoint.page_writes > 0 && !self.cache.has_whole_write() {
                return;
            }
            let op = self.next_op();
            let Some(write) = self.cache.next_write(op) else { return };
            if let DiskOp::Write { bytes, .. } = &write {
                self.checkpoint.written_bytes += *bytes as u64;
            }
            self.checkpoint.page_writes += 1;
            self.disk.push(write);
        }
    }

    /// When every page is written: bitmaps, flush, superblock, one after the other.
    fn finish_writing(&mut self, _now: Nanos) {
        match self.checkpoint.phase {
            Phase::Writing if self.cache.is_written() => {
                let mut writes = Vec::new();
                let mut op = self.op_issued;
                let root = self.space.seal(
                    || {
                        op += 1;
                        OpId(op)
                    },
                    || BlockBuf::zeroed(1),
                    &mut writes,
                );
                self.op_issued = op;
                self.checkpoint.written_bytes += (writes.len() * BLOCK_BYTES) as u64;
                self.checkpoint.phase = Phase::Sealing { writes_left: writes.len(), root };
                self.disk.append(&mut writes);
                self.flush_when_sealed();
            }
            _ => {}
        }
    }

    fn flush_when_sealed(&mut self) {
        if let Phase::Sealing { writes_left: 0, root } = self.checkpoint.phase {
            if planted::has(Flaw::SkipPageFlush) {
                return self.write_superblock_when_logged(root);
            }
            let op = self.next_op();
            self.disk.push(DiskOp::Flush { op, file: ShardFile::Pages });
            self.checkpoint.phase = Phase::Flushing { op, root };
        }
    }

    /// One of the checkpoint's own operations ended.
    pub(super) fn checkpoint_done(&mut self, done: DiskDone, now: Nanos) {
        if self.failure.is_some() {
            // What was under way when the store failed; nothing follows from it.
            if self.cache.owns_write(done.op) {
                let _ = self.cache.finish_write(done);
            }
            return;
        }
        if self.checkpoint.grow == Some(done.op) {
            return self.grown(done.result, now);
        }
        if self.cache.owns_write(done.op) {
            self.checkpoint.page_writes -= 1;
            if let Err(error) = self.cache.finish_write(done) {
                self.fail(StoreFailure::Checkpoint(error));
            }
            return;
        }
        if let Err(error) = done.result {
            return self.fail(StoreFailure::Checkpoint(error));
        }
        match self.checkpoint.phase {
            Phase::Sealing { writes_left, root } => {
                self.checkpoint.phase = Phase::Sealing { writes_left: writes_left - 1, root };
                self.flush_when_sealed();
            }
            Phase::Flushing { op, root } if op == done.op => {
                self.write_superblock_when_logged(root);
            }
            Phase::Superblock { op, superblock } if op == done.op => {
                self.superblock_durable(superblock, now);
            }
            ref phase => unreachable!("{:?} ends in {phase:?}", done.op),
        }
    }

    /// Fixes where the log begins that this checkpoint needs.
    fn freeze_history(&mut self, point: LogPoint) {
        self.checkpoint.history_start = point.lsn;
        self.checkpoint.required_lsn = Lsn(0);
        self.carried();
        if self.members == 0 {
            return;
        }
        let kept = self.groups.iter().filter(|(_, state)| !state.drop_chosen);
        let members = kept.filter_map(|(_, state)| state.member.as_ref());
        let oldest = members.filter_map(|member| member.oldest_needed()).min();
        self.checkpoint.history_start = oldest.map_or(point.lsn, |oldest| oldest.min(point.lsn));
        self.checkpoint.required_lsn = self.log.end_lsn();
    }

    fn write_superblock_when_logged(&mut self, root: SpaceRoot) {
        let is_logged = self.log.durable_lsn() >= self.checkpoint.required_lsn;
        if !is_logged && !planted::has(Flaw::SuperblockBeforeLog) {
            self.checkpoint.phase = Phase::Logging { root };
        } else {
            self.write_superblock(root);
        }
    }

    fn write_superblock(&mut self, root: SpaceRoot) {
        let superblock = Superblock {
            node: self.node_id,
            shard: self.shard(),
            checkpoint: root.checkpoint,
            log_start: self.checkpoint.point,
            history_bytes: self.checkpoint.point.lsn.0 - self.checkpoint.history_start.0,
            durable_lsn: self.log.durable_lsn(),
            log: LogGeometry::of(&self.config.log),
            catalog: self.catalog,
            file_blocks: root.file_blocks,
            space_digest: root.digest,
            logs_lost: self.repair.logs_lost(),
        };
        let mut buf = BlockBuf::zeroed(1);
        superblock.encode(&mut buf);
        let op = self.next_op();
        self.disk.push(DiskOp::Write {
            op,
            file: ShardFile::Pages,
            offset_bytes: superblock.block() * BLOCK_BYTES as u64,
            buf,
            bytes: BLOCK_BYTES,
            durability: Durability::Durable,
        });
        self.checkpoint.phase = Phase::Superblock { op, superblock };
    }

    fn superblock_durable(&mut self, superblock: Superblock, now: Nanos) {
        let older = std::mem::replace(&mut self.superblock, superblock);
        assert!(superblock.checkpoint > older.checkpoint, "checkpoints are numbered upwards");
        self.space.superblock_durable(superblock.checkpoint);
        self.log.trim_to(older.history_start());
        if self.overlay.is_frozen() {
            self.overlay.drop_frozen();
        }
        let mut parts = std::mem::take(&mut self.checkpoint.parts);
        for part in parts.drain(..) {
            if self.commits_install(part.group) {
                self.install_durable(part.group);
                continue;
            }
            let state = self.groups.get_mut(part.group);
            if part.drop {
                self.groups.remove(part.group);
            } else {
                state.in_catalog = true;
                state.checkpoint_slot = state.frozen_slot;
                state.checkpoint_tree = state.tree;
                if state.member.as_ref().is_some_and(|member| member.keeps_state()) {
                    self.checkpointed.push((part.group, state.frozen_slot));
                }
            }
        }
        let checkpoint = &mut self.checkpoint;
        checkpoint.parts = parts;
        checkpoint.number = superblock.checkpoint;
        checkpoint.finished_at = now;
        checkpoint.last_nanos = now.since(checkpoint.begun_at);
        checkpoint.phase = Phase::Idle;
    }
}
