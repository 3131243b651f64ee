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
//!     │           Flushing ─► Superblock (durable) ─► log trimmed, pages freed before reusable
//!     └──────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! **Pacing.** A slice of merge work runs in each turn. Its size follows from the rate at which
//! writes arrive: what is left to merge, divided by the writes that still fit the active
//! generation, is the work that each write must pay for. So the merge is done before the active
//! generation is full, at any rate of writes that the device can follow, and an idle shard works
//! in slices of [`SLICE_UNITS`].
//!
//! **Rule (superblock).** Pages and bitmaps are written and flushed before the superblock is
//! written, and that write is durable when it completes. The log is trimmed to the *older* of the
//! two superblocks.

use forebay_core::time::Nanos;

use super::catalog::{CatalogEntry, catalog_key};
use super::{GroupOrdinal, Refused, Store, StoreFailure, TYPICAL_ENTRY_BYTES, Work};
use crate::block::{BLOCK_BYTES, BlockBuf, DiskDone, DiskOp, Durability, OpId, ShardFile};
use crate::log::{AppendError, LogPoint};
use crate::overlay::{EntryRef, FrozenCursor, Overlay};
use crate::space::SpaceRoot;
use crate::superblock::{LogGeometry, Superblock};
use crate::tree::merge::{Change, Merge, MergeInput, MergeStep};
use crate::tree::page::PageView;
use crate::tree::{PageRef, TreeRef, Value};

/// Merge work of one slice on an idle shard: 2,000 units of about 100 ns.
const SLICE_UNITS: usize = 2_000;
/// Least work in a turn while a merge is under way.
const SLICE_UNITS_MIN: usize = 200;
/// Work that one write pays for at most: a leaf read and written for each.
const UNITS_PER_WRITE_MAX: usize = 60;
/// First guess of the work for each entry, until the merge has shown it.
const UNITS_PER_ENTRY_GUESS: usize = 12;
/// The merge should be done when the active generation is this full.
const MERGE_DONE_FILL: f64 = 0.8;
/// Page writes in flight while nothing is urgent: the log shares the device.
const PAGE_WRITES_MAX: usize = 4;
/// A checkpoint follows at once while the log holds more than this part of its ring.
const LOG_HELD_PERCENT_MAX: u64 = 75;
/// After the file system refused to grow the pages file, it is asked again.
const GROW_RETRY_NANOS: u64 = Nanos::PER_SECOND;
/// Blocks beside what the entries need: catalog, bitmaps, the path of a small merge.
const RESERVE_BLOCKS: u64 = 256;
/// Blocks that only deletes may claim on a full disk, so that some always fit one checkpoint.
const DELETE_BLOCKS: u64 = 256;
/// Pages of a dropped tree freed in one turn.
const DROP_PAGES: usize = 256;

#[derive(Debug)]
enum Phase {
    Idle,
    Merging,
    Catalog,
    Writing,
    Sealing { writes_left: usize, root: SpaceRoot },
    Flushing { op: OpId, root: SpaceRoot },
    Superblock { op: OpId, superblock: Superblock },
}

/// What a group's part of the checkpoint is.
#[derive(Clone, Copy, Debug)]
struct Part {
    group: GroupOrdinal,
    drop: bool,
}

/// The checkpoint under way, and figures of the last one.
pub(super) struct Checkpoint {
    phase: Phase,
    merge: Merge,
    cursor: Option<FrozenCursor>,
    parts: Vec<Part>,
    next_part: usize,
    /// Pages of a dropped tree still to be freed.
    drop_stack: Vec<PageRef>,
    drop_begun: bool,
    catalog_changes: Vec<([u8; 8], Option<Vec<u8>>)>,
    next_change: usize,
    point: LogPoint,
    /// Entries frozen and entries merged.
    frozen_entries: usize,
    merged_entries: usize,
    units_used: usize,
    /// The newest write when the last slice ran.
    paid_ticket: u64,
    waits_for_pages: bool,
    /// A write was refused that a checkpoint makes room for.
    hastened: bool,
    grow: Option<OpId>,
    grow_refused_at: Option<Nanos>,
    begun_at: Nanos,
    finished_at: Nanos,
    last_nanos: u64,
    number: u64,
    written_bytes: u64,
    page_writes: usize,
    /// The first checkpoint of a new shard is due without any change.
    format: bool,
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
            frozen_entries: 0,
            merged_entries: 0,
            units_used: 0,
            paid_ticket: 0,
            waits_for_pages: false,
            hastened: false,
            grow: None,
            grow_refused_at: None,
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

/// The frozen entries of one group, as a merge reads them.
struct FrozenInput<'a> {
    overlay: &'a Overlay,
    cursor: &'a mut FrozenCursor,
    group: u32,
    current: Option<EntryRef<'a>>,
    taken: usize,
}

impl<'a> FrozenInput<'a> {
    fn new(overlay: &'a Overlay, cursor: &'a mut FrozenCursor, group: u32) -> FrozenInput<'a> {
        let current = overlay.frozen_peek(cursor);
        FrozenInput { overlay, cursor, group, current, taken: 0 }
    }
}

impl MergeInput for FrozenInput<'_> {
    fn peek(&self) -> Option<(&[u8], Change<'_>)> {
        let entry = self.current.as_ref()?;
        Some((entry.key, entry.item.map_or(Change::Delete, Change::Put)))
    }

    fn advance(&mut self) {
        let taken = self.overlay.frozen_next(self.cursor);
        debug_assert!(taken.is_some(), "only what was seen is taken");
        self.taken += 1;
        self.current = self.overlay.frozen_peek(self.cursor);
    }

    fn first_key_from(&self, bound: &[u8]) -> Option<&[u8]> {
        let current = self.current.as_ref()?;
        if current.key >= bound {
            return Some(current.key);
        }
        let mut cursor = self.overlay.frozen_cursor(self.group, std::ops::Bound::Included(bound));
        self.overlay.frozen_peek(&mut cursor).map(|entry| entry.key)
    }
}

/// The catalog's changes, sorted by key.
struct CatalogInput<'a> {
    changes: &'a [([u8; 8], Option<Vec<u8>>)],
    next: &'a mut usize,
}

impl MergeInput for CatalogInput<'_> {
    fn peek(&self) -> Option<(&[u8], Change<'_>)> {
        let (key, entry) = self.changes.get(*self.next)?;
        Some((key, entry.as_deref().map_or(Change::Delete, Change::Put)))
    }

    fn advance(&mut self) {
        *self.next += 1;
    }

    fn first_key_from(&self, bound: &[u8]) -> Option<&[u8]> {
        let left = &self.changes[*self.next..];
        let at = left.partition_point(|(key, _)| &key[..] < bound);
        left.get(at).map(|(key, _)| &key[..])
    }
}

impl Store {
    /// A turn's worth of checkpoint work.
    pub(super) fn step_checkpoint(&mut self, now: Nanos, work: &mut Work) {
        self.grow_ahead(now, work);
        if self.checkpoint.is_idle() && !self.begin_if_due(now, work) {
            return;
        }
        let budget = self.slice_units();
        self.checkpoint.paid_ticket = self.last_ticket.0;
        match self.checkpoint.phase {
            Phase::Idle => {}
            Phase::Merging => self.merge_groups(budget, now, work),
            Phase::Catalog => self.merge_catalog(budget, now, work),
            Phase::Writing | Phase::Sealing { .. } => {}
            Phase::Flushing { .. } | Phase::Superblock { .. } => {}
        }
        self.write_pages();
        self.finish_writing(now);
    }

    /// Begins a checkpoint if one is due; otherwise says when to look again.
    fn begin_if_due(&mut self, now: Nanos, work: &mut Work) -> bool {
        let config = &self.config;
        let changed = self.overlay.active_entries() > 0 || self.groups.any_changed();
        let due_at = self.checkpoint.finished_at + config.checkpoint_interval_nanos;
        let paced = !config.checkpoints_off && (now >= due_at || self.is_filling());
        let due = self.checkpoint.format
            || (changed && (self.closing || paced || !self.overlay.has_room(TYPICAL_ENTRY_BYTES)))
            || self.log_needs_checkpoint()
            || self.disk_needs_checkpoint(changed);
        if !due {
            if changed && !config.checkpoints_off {
                work.wake_by(due_at);
            }
            return false;
        }
        // Everything durable is applied by now, so this point has all of it before it.
        self.apply_durable();
        let point = self.log.durable_point();
        let entries = self.overlay.freeze().map_or(0, |frozen| frozen.entries);
        let checkpoint = &mut self.checkpoint;
        checkpoint.format = false;
        checkpoint.hastened = false;
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
                state.frozen_slot = state.progress.applied_slot();
                checkpoint.parts.push(Part { group, drop: state.drop_chosen });
            }
        }
        checkpoint.phase = Phase::Merging;
        true
    }

    /// Whether memory or log are as full as they should be when a checkpoint begins.
    fn is_filling(&self) -> bool {
        let (config, end) = (&self.config, self.log.end_lsn().0);
        let percent = u64::from(config.log_fill_percent) * config.log.capacity_bytes();
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
        let held = self.log.end_lsn().0 - trim.0;
        let nearly_full = held * 100 >= self.config.log.capacity_bytes() * LOG_HELD_PERCENT_MAX;
        let full = || {
            let room = self.log.check_room(TYPICAL_ENTRY_BYTES);
            self.checkpoint.hastened || matches!(room, Err(AppendError::Full { .. }))
        };
        trim < start && (nearly_full || full()) || start < self.log.durable_lsn() && full()
    }

    /// Whether the disk is full, and a checkpoint would give blocks back.
    fn disk_needs_checkpoint(&self, changed: bool) -> bool {
        self.checkpoint.grow_refused_at.is_some()
            && (changed || self.space.deferred_blocks() > 0)
            && self.admit_to_disk(TYPICAL_ENTRY_BYTES, false).is_err()
    }

    /// How much merge work this turn's writes must pay for.
    fn slice_units(&self) -> usize {
        let checkpoint = &self.checkpoint;
        let writes = (self.last_ticket.0 - checkpoint.paid_ticket) as usize;
        if writes == 0 && self.pending.is_empty() {
            return SLICE_UNITS;
        }
        let per_entry = match checkpoint.merged_entries {
            0 => UNITS_PER_ENTRY_GUESS,
            merged => (checkpoint.units_used / merged).max(1),
        };
        let left = checkpoint.frozen_entries.saturating_sub(checkpoint.merged_entries) * per_entry;
        let generation = self.config.overlay_generation_bytes as f64;
        let room = generation * MERGE_DONE_FILL - self.overlay.active_bytes() as f64;
        let entry_bytes = self.overlay.active_bytes() / self.overlay.active_entries().max(1) + 64;
        let writes_left = (room / entry_bytes as f64).max(1.0) as usize;
        let per_write = (left / writes_left).min(UNITS_PER_WRITE_MAX);
        (writes * per_write).max(SLICE_UNITS_MIN)
    }

    fn merge_groups(&mut self, budget: usize, now: Nanos, work: &mut Work) {
        let mut left = budget;
        while let Some(part) = self.checkpoint.parts.get(self.checkpoint.next_part).copied() {
            if part.drop {
                if !self.free_dropped(part.group) {
                    work.run_again |= !self.checkpoint.waits_for_pages;
                    return;
                }
                self.checkpoint.next_part += 1;
                continue;
            }
            let Some(used) = self.merge_slice(part.group, left, now, work) else { return };
            left = left.saturating_sub(used);
            if left == 0 {
                work.run_again = true;
                return;
            }
        }
        if self.overlay.is_frozen() {
            self.overlay.drop_frozen();
        }
        self.list_catalog_changes();
        self.checkpoint.merge.reset(self.catalog);
        self.checkpoint.phase = Phase::Catalog;
        work.run_again = true;
    }

    /// Merges for `budget`; None when it has to wait. Moves to the next part when the group is done.
    fn merge_slice(
        &mut self,
        group: GroupOrdinal,
        budget: usize,
        now: Nanos,
        work: &mut Work,
    ) -> Option<usize> {
        let checkpoint = &mut self.checkpoint;
        if !self.overlay.is_frozen() {
            checkpoint.next_part += 1;
            return Some(0);
        }
        let cursor = checkpoint.cursor.get_or_insert_with(|| {
            checkpoint.merge.reset(self.groups.get(group).tree);
            self.overlay.frozen_cursor(group.0, std::ops::Bound::Unbounded)
        });
        let mut input = FrozenInput::new(&self.overlay, cursor, group.0);
        let step = checkpoint.merge.step(&mut input, &mut self.cache, &mut self.space, budget);
        checkpoint.merged_entries += input.taken;
        match step {
            MergeStep::Progress => {
                checkpoint.units_used += budget;
                Some(budget)
            }
            MergeStep::Done(tree) => {
                checkpoint.units_used += budget / 4;
                checkpoint.cursor = None;
                checkpoint.next_part += 1;
                self.groups.get_mut(group).tree = tree;
                // Many small groups share a slice.
                Some((budget / 4).clamp(1, 50))
            }
            other => {
                self.merge_blocked(other, now, work);
                None
            }
        }
    }

    fn merge_blocked(&mut self, step: MergeStep, now: Nanos, work: &mut Work) {
        match step {
            MergeStep::Missing => {
                let missing: Vec<PageRef> = self.checkpoint.merge.missing().to_vec();
                if let Some((first, ahead)) = missing.split_first() {
                    // A page that cannot be had stops the checkpoint, not the shard: it is tried
                    // again and again, at a bounded rate.
                    if let Some(until) = self.damaged_until(*first) {
                        return work.wake_by(until);
                    }
                    self.fetch(*first);
                    for page in ahead {
                        self.fetch_if_room(*page);
                    }
                }
            }
            // The writes that make room are on their way, or start in this turn.
            MergeStep::CacheFull => {}
            MergeStep::NeedSpace(blocks) => self.grow(blocks.max(RESERVE_BLOCKS), now, work),
            MergeStep::Progress | MergeStep::Done(_) => unreachable!("not a reason to wait"),
        }
    }

    /// Frees a few pages of a dropped group's tree; true when all are freed. The frees take effect
    /// with this checkpoint, which also removes the group from the catalog.
    fn free_dropped(&mut self, group: GroupOrdinal) -> bool {
        if !self.checkpoint.drop_begun {
            self.checkpoint.drop_begun = true;
            let tree = self.groups.get(group).tree;
            self.checkpoint.drop_stack.extend(tree.root.map(|root| root.page));
        }
        self.checkpoint.waits_for_pages = false;
        for _ in 0..DROP_PAGES {
            let Some(page) = self.checkpoint.drop_stack.last().copied() else {
                self.checkpoint.drop_begun = false;
                self.groups.get_mut(group).tree = TreeRef::EMPTY;
                return true;
            };
            let Some(bytes) = self.cache.get(&page) else {
                if self.is_damaged(page) {
                    // What is below it cannot be found: those blocks stay taken, and are reported
                    // by `inspect` as leaked.
                    self.checkpoint.drop_stack.pop();
                    self.space.free(page.id, page.blocks);
                    continue;
                }
                self.checkpoint.waits_for_pages = true;
                self.fetch(page);
                return false;
            };
            self.checkpoint.drop_stack.pop();
            let view = PageView::new(bytes);
            let mut extents = Vec::new();
            for index in 0..view.count() {
                if page.level > 0 {
                    self.checkpoint.drop_stack.push(view.child_page(index));
                } else if let Value::Overflow(extent) = view.value(index) {
                    extents.push(extent.page);
                }
            }
            self.space.free(page.id, page.blocks);
            self.cache.forget(page.id);
            for extent in extents {
                self.space.free(extent.id, extent.blocks);
                self.cache.forget(extent.id);
            }
        }
        false
    }

    fn list_catalog_changes(&mut self) {
        let checkpoint = &mut self.checkpoint;
        for part in &checkpoint.parts {
            let state = self.groups.get(part.group);
            let key = catalog_key(state.progress.id());
            let entry = (!part.drop).then(|| {
                CatalogEntry {
                    members: 1,
                    ballot: state.progress.ballot(),
                    chosen_slot: state.frozen_slot,
                    applied_slot: state.frozen_slot,
                    tree: state.tree,
                    payload: state.payload.clone(),
                }
                .encode()
            });
            if entry.is_some() || state.in_catalog {
                checkpoint.catalog_changes.push((key, entry));
            }
        }
        checkpoint.catalog_changes.sort_unstable_by_key(|(key, _)| *key);
    }

    fn merge_catalog(&mut self, budget: usize, now: Nanos, work: &mut Work) {
        let checkpoint = &mut self.checkpoint;
        let mut input = CatalogInput {
            changes: &checkpoint.catalog_changes,
            next: &mut checkpoint.next_change,
        };
        match checkpoint.merge.step(&mut input, &mut self.cache, &mut self.space, budget) {
            MergeStep::Progress => work.run_again = true,
            MergeStep::Done(tree) => {
                self.catalog = tree;
                self.checkpoint.phase = Phase::Writing;
            }
            other => self.merge_blocked(other, now, work),
        }
    }

    /// Keeps a few page writes in flight; more when the merge waits for room or is over.
    fn write_pages(&mut self) {
        let hurry = matches!(self.checkpoint.phase, Phase::Writing)
            || self.overlay.fill().active > MERGE_DONE_FILL;
        let max = if hurry { usize::MAX } else { PAGE_WRITES_MAX };
        while self.checkpoint.page_writes < max {
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
            self.checkpoint.grow = None;
            self.checkpoint.grow_refused_at = self.space.grown(done.result).err().map(|_| now);
            return;
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
            Phase::Flushing { op, root } if op == done.op => self.write_superblock(root),
            Phase::Superblock { op, superblock } if op == done.op => {
                self.superblock_durable(superblock, now);
            }
            ref phase => unreachable!("{:?} ends in {phase:?}", done.op),
        }
    }

    fn write_superblock(&mut self, root: SpaceRoot) {
        let superblock = Superblock {
            node: self.node_id,
            shard: self.shard(),
            checkpoint: root.checkpoint,
            log_start: self.checkpoint.point,
            durable_lsn: self.log.durable_lsn(),
            log: LogGeometry::of(&self.config.log),
            catalog: self.catalog,
            file_blocks: root.file_blocks,
            space_digest: root.digest,
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
        self.log.trim_to(older.log_start.lsn);
        for part in &self.checkpoint.parts {
            let state = self.groups.get_mut(part.group);
            if part.drop {
                self.groups.remove(part.group);
            } else {
                state.in_catalog = true;
                state.checkpoint_slot = state.frozen_slot;
            }
        }
        let checkpoint = &mut self.checkpoint;
        checkpoint.parts.clear();
        checkpoint.number = superblock.checkpoint;
        checkpoint.finished_at = now;
        checkpoint.last_nanos = now.since(checkpoint.begun_at);
        checkpoint.phase = Phase::Idle;
    }

    /// Blocks that merging everything in memory may take at worst: each entry rewrites its leaf and
    /// its share of the path, but no more pages than there are, and new bytes fill pages at least
    /// half; both generations, and what is in flight.
    fn reserve_blocks(&self) -> u64 {
        let entries = (self.overlay.entries() + self.in_flight.len()) as u64;
        let rewritten = (entries * 3).min(2 * self.space.live_blocks());
        let new = 2 * (self.overlay.bytes() as u64).div_ceil(BLOCK_BYTES as u64);
        rewritten + new + RESERVE_BLOCKS
    }

    /// Lets the pages file grow before the next checkpoint needs it, and before [`Self::admit`] has
    /// to refuse the largest entry.
    fn grow_ahead(&mut self, now: Nanos, work: &mut Work) {
        let largest = entry_blocks(self.entry_bytes_max);
        let wanted = self.reserve_blocks() + DELETE_BLOCKS + largest;
        if self.space.free_blocks() < wanted {
            self.grow(wanted - self.space.free_blocks(), now, work);
        }
    }

    fn grow(&mut self, blocks: u64, now: Nanos, work: &mut Work) {
        if let Some(refused_at) = self.checkpoint.grow_refused_at {
            let again_at = refused_at + GROW_RETRY_NANOS;
            if now < again_at {
                return work.wake_by(again_at);
            }
        }
        if self.checkpoint.grow.is_none() {
            let op = self.next_op();
            if let Some(grow) = self.space.grow(blocks, op) {
                self.checkpoint.grow = Some(op);
                self.disk.push(grow);
            }
        }
    }

    /// Refuses what could not be merged on a full disk. Deletes are accepted further than Puts, and
    /// beyond that wait for a checkpoint, which gives back what earlier ones freed. While the file
    /// can still grow, growth may lag behind: half of the reserve is enough.
    pub(super) fn admit_to_disk(&self, bytes: usize, frees_space: bool) -> Result<(), Refused> {
        let (free, reserve) = (self.space.free_blocks(), self.reserve_blocks());
        let full = self.checkpoint.grow_refused_at.is_some();
        let needed = match (full, frees_space) {
            (false, _) => reserve / 2,
            (true, true) => reserve,
            (true, false) => reserve + DELETE_BLOCKS,
        };
        if free >= needed + entry_blocks(bytes) {
            Ok(())
        } else if full && !frees_space {
            Err(Refused::DiskFull { free_bytes: free * BLOCK_BYTES as u64 })
        } else {
            Err(Refused::Overloaded)
        }
    }
}

/// Blocks that merging one more entry of this size may take.
fn entry_blocks(bytes: usize) -> u64 {
    2 * (bytes as u64).div_ceil(BLOCK_BYTES as u64) + 3
}
