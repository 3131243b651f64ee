//! Continuous verification of pages that nobody reads: every page of the durable checkpoint's trees, from
//! the disk, once in a period.
//!
//! ```text
//!   pass:   group 0 ─► group 1 ─► …         slice:  hold the durable checkpoint ─► root ─► … ─► the position
//!            └─ position: a key                       ─► leaf, extents ─► leaf ─► …  ─► release, wait
//!   a page that fails ─► read again, fails again ─► its member is damaged (module `repair`)
//! ```
//!
//! A disk forgets silently, and most pages of a large store are read by nobody for weeks: damage that is
//! found while the other members are whole is made good; found after them, it is a loss.
//!
//! **Pace.** The period is what operators know (two weeks, unless told otherwise); the pace follows from it
//! and from the pages that there are, so that a small store costs nothing and a large one a constant
//! trickle, at most [`BYTES_PER_SECOND_MAX`]. One read is in flight at a time, into a buffer of its own:
//! nothing of the cache is evicted for it, and nothing waits behind it. A slice reads the pages of
//! [`SLICE_NANOS`], at least [`SLICE_BLOCKS_MIN`], so that an idle shard wakes rarely.
//!
//! **Slices.** Within one, the checkpoint is held, so its pages are not reused while they are read; a hold of
//! the whole period would keep all that is freed in it. The next slice finds its place again by key, in what
//! is the durable checkpoint then. What changed behind the position was written since, and what was written
//! is read by the next pass.
//!
//! **What fails.** If another checkpoint has become durable meanwhile, the page may be nobody's any more: the
//! place is looked at again in the new one. Otherwise the page is read once more, and if that fails too, the
//! group's state is damaged, also where the cache still has the page: it forgets it. In a group of one the
//! cache keeps it, and the page is said and counted: nobody has another copy.
//!
//! Invariant: a slice holds its checkpoint exactly from its begin to its end.
//!
//! Left out: the sums of digests and counts that parents keep of their children (`forebay inspect tree`
//! looks at them), the catalog's own pages and the space map's, which every recovery reads. After a restart a
//! pass begins anywhere.

use forebay_core::ids::GroupId;
use forebay_core::time::Nanos;

use super::{GroupOrdinal, Store, Work};
use crate::block::{BLOCK_BYTES, BlockBuf, DiskDone, DiskOp, OpId, ShardFile};
use crate::notice;
use crate::tree::page::{self, PageView};
use crate::tree::{LEVEL_OVERFLOW, PageRef, Value};

/// However much there is, and however short the period.
const BYTES_PER_SECOND_MAX: u64 = 64 << 20;
/// What a slice reads: the pages of this time.
const SLICE_NANOS: u64 = Nanos::PER_SECOND;
/// At least so many blocks.
const SLICE_BLOCKS_MIN: u64 = 16;
/// A slice ends after this in any case: it keeps pages from reuse.
const SLICE_NANOS_MAX: u64 = 10 * Nanos::PER_SECOND;

/// What it has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScrubStats {
    /// Pages read and found whole, ever.
    pub pages: u64,
    /// Pages found damaged, ever.
    pub damaged: u64,
    /// Passes over all that the shard has, ever.
    pub passes: u64,
    /// When the last one ended; 0 before there was one.
    pub passed_at: Nanos,
}

/// An interior page on the way to the position.
#[derive(Debug)]
struct Level {
    buf: BlockBuf,
    next: usize,
}

#[derive(Debug)]
struct Slice {
    group: GroupOrdinal,
    id: GroupId,
    checkpoint: u64,
    blocks_left: u64,
    blocks_read: u64,
    ends_at: Nanos,
    /// From the root on; empty until the root is read.
    path: Vec<Level>,
    /// Of the last leaf.
    extents: Vec<PageRef>,
    begun: bool,
    leaf_read: bool,
}

#[derive(Clone, Copy, Debug)]
struct Reading {
    op: OpId,
    page: PageRef,
    /// It failed before.
    again: bool,
}

/// See the module's docs.
#[derive(Debug, Default)]
pub(super) struct Scrub {
    /// None: nothing is read.
    period_nanos: Option<u64>,
    next_at: Nanos,
    started: bool,
    /// None while the first one is under way, which is a part.
    pass_begun_at: Option<Nanos>,
    /// Where the next slice begins: the group, and the key.
    group: GroupOrdinal,
    key: Vec<u8>,
    slice: Option<Slice>,
    reading: Option<Reading>,
    /// A page to be read once more.
    failed: Option<PageRef>,
    /// For pages of a block.
    spare: Option<BlockBuf>,
    pub(super) stats: ScrubStats,
}

impl Scrub {
    /// Where the first pass begins, which is none of the whole: wherever nodes begin that are started again
    /// and again, all is read in the end.
    fn begin_anywhere(&mut self, ordinals: usize, seed: u64) {
        self.started = true;
        let drawn = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.group = GroupOrdinal((drawn as u32) % ordinals.max(1) as u32);
        self.key.extend_from_slice(&drawn.rotate_left(32).to_be_bytes());
    }

    pub(super) fn owns(&self, op: OpId) -> bool {
        self.reading.is_some_and(|reading| reading.op == op)
    }
}

impl Store {
    /// Reads every page once in so long, from now on; None: not at all, as at the beginning.
    pub fn set_scrub_period(&mut self, nanos: Option<u64>) {
        self.scrub.period_nanos = nanos.map(|nanos| nanos.max(1));
    }

    /// What has been read in the background.
    #[must_use]
    pub fn scrub_stats(&self) -> ScrubStats {
        self.scrub.stats
    }

    /// A turn's worth.
    pub(super) fn step_scrub(&mut self, now: Nanos, work: &mut Work) {
        let Some(period) = self.scrub.period_nanos else { return };
        if self.scrub.slice.is_none() {
            if self.may_not_scrub() {
                return work.wake_by(now + SLICE_NANOS);
            }
            if self.scrub.reading.is_some() {
                // Of a slice that ended by force. Its end brings the next turn.
                return;
            }
            if now < self.scrub.next_at {
                return work.wake_by(self.scrub.next_at);
            }
            self.begin_slice(now, period);
        }
        let Some(slice) = &self.scrub.slice else { return work.wake_by(self.scrub.next_at) };
        if self.may_not_scrub() || now >= slice.ends_at || !self.is_scrubbed(slice.group, slice.id)
        {
            return self.end_slice(now, period, work);
        }
        if self.scrub.reading.is_some() {
            return work.wake_by(slice.ends_at);
        }
        let again = self.scrub.failed.take();
        match again.or_else(|| self.next_scrubbed()) {
            Some(page) => self.scrub_page(page, again.is_some()),
            None => self.end_slice(now, period, work),
        }
    }

    /// Whether pages of the durable checkpoint cannot be told from others, or must not be held.
    fn may_not_scrub(&self) -> bool {
        self.closing || self.is_disk_full() || self.install_is_durable()
    }

    /// Whether the group has a state that somebody relies on.
    fn is_scrubbed(&self, group: GroupOrdinal, id: GroupId) -> bool {
        if self.groups.find(id) != Some(group) {
            return false;
        }
        let state = self.groups.get(group);
        let keeps = |member: &super::members::MemberState| {
            member.keeps_state() && !member.stopped && !member.lost
        };
        !state.dropped
            && state.checkpoint_tree.root.is_some()
            && state.member.as_deref().is_none_or(keeps)
    }

    /// What a block costs of the time.
    fn scrub_nanos_per_block(&self, period: u64) -> u64 {
        let fastest = Nanos::PER_SECOND * BLOCK_BYTES as u64 / BYTES_PER_SECOND_MAX;
        (period / self.space.live_blocks().max(1)).max(fastest)
    }

    fn begin_slice(&mut self, now: Nanos, period: u64) {
        if !self.scrub.started {
            let ordinals = self.groups.iter().count();
            self.scrub.begin_anywhere(ordinals, self.log.incarnation() ^ now.0);
        }
        let Scrub { group, key, .. } = &self.scrub;
        let (from, begun) = (*group, !key.is_empty());
        let mut groups = self.groups.iter().map(|(group, state)| (group, state.progress.id()));
        let next = groups.find(|(group, id)| *group >= from && self.is_scrubbed(*group, *id));
        drop(groups);
        let Some((group, id)) = next else {
            return self.end_pass(now, period);
        };
        if group != from || !begun {
            self.scrub.group = group;
            self.scrub.key.clear();
        }
        let blocks = (SLICE_NANOS / self.scrub_nanos_per_block(period)).max(SLICE_BLOCKS_MIN);
        let checkpoint = self.superblock.checkpoint;
        self.space.hold(checkpoint);
        self.scrub.failed = None;
        self.scrub.slice = Some(Slice {
            group,
            id,
            checkpoint,
            blocks_left: blocks,
            blocks_read: 0,
            ends_at: now + SLICE_NANOS_MAX,
            path: Vec::new(),
            extents: Vec::new(),
            begun: false,
            leaf_read: false,
        });
    }

    /// Everything was read.
    fn end_pass(&mut self, now: Nanos, period: u64) {
        let scrub = &mut self.scrub;
        let begun = scrub.pass_begun_at;
        // What was faster than it had to be, because there is little, waits for the rest of the period.
        scrub.next_at = begun.map_or(now, |begun| now.max(begun + period));
        scrub.stats.passes += u64::from(begun.is_some());
        scrub.stats.passed_at = begun.map_or(scrub.stats.passed_at, |_| now);
        scrub.pass_begun_at = Some(scrub.next_at);
        scrub.group = GroupOrdinal(0);
        scrub.key.clear();
    }

    fn end_slice(&mut self, now: Nanos, period: u64, work: &mut Work) {
        let cost = self.scrub_nanos_per_block(period);
        let slice = self.scrub.slice.take().expect("a slice is under way");
        self.space.release(slice.checkpoint);
        self.scrub.next_at = now + cost * slice.blocks_read;
        work.wake_by(self.scrub.next_at);
    }

    /// The next page of the slice; None at its end, or at the group's.
    fn next_scrubbed(&mut self) -> Option<PageRef> {
        let Scrub { slice, key, group, .. } = &mut self.scrub;
        let slice = slice.as_mut().expect("a slice is under way");
        if let Some(extent) = slice.extents.pop() {
            return Some(extent);
        }
        if !slice.begun {
            slice.begun = true;
            let tree = &self.groups.get(slice.group).checkpoint_tree;
            return tree.root.map(|root| root.page);
        }
        loop {
            let Some(level) = slice.path.last_mut() else {
                // The group has no more.
                group.0 += 1;
                key.clear();
                return None;
            };
            let view = PageView::new(&level.buf);
            if level.next == view.count() {
                slice.path.pop();
                continue;
            }
            let child = view.child_page(level.next);
            if view.compare(level.next, key).is_gt() {
                key.clear();
                view.key_into(level.next, key);
            }
            // The position moves with every slice.
            if child.level == 0 && slice.blocks_left == 0 && slice.leaf_read {
                return None;
            }
            slice.leaf_read |= child.level == 0;
            level.next += 1;
            return Some(child);
        }
    }

    fn scrub_page(&mut self, page: PageRef, again: bool) {
        let op = self.next_op();
        let blocks = usize::from(page.blocks);
        let spare = self.scrub.spare.take().filter(|_| blocks == 1);
        let buf = spare.unwrap_or_else(|| BlockBuf::zeroed(blocks));
        self.scrub.reading = Some(Reading { op, page, again });
        let offset_bytes = page.id * BLOCK_BYTES as u64;
        self.disk.push(DiskOp::Read { op, file: ShardFile::Pages, offset_bytes, buf });
    }

    pub(super) fn scrub_read(&mut self, done: DiskDone) {
        let Reading { page, again, .. } = self.scrub.reading.take().expect("it owns the operation");
        let buf = done.buf.expect("a read brings its buffer back");
        let shard = self.shard();
        let whole = done.result.is_ok() && page::validate(&buf, &page, shard).is_ok();
        let Some(slice) = &mut self.scrub.slice else {
            return self.keep_spare(buf);
        };
        slice.blocks_read += u64::from(page.blocks);
        slice.blocks_left = slice.blocks_left.saturating_sub(u64::from(page.blocks));
        if !whole {
            self.keep_spare(buf);
            return self.scrub_failed(page, again);
        }
        self.scrub.stats.pages += 1;
        if (1..LEVEL_OVERFLOW).contains(&page.level) {
            // The position lies in it, or before all of it.
            let next = PageView::new(&buf).child_index(&self.scrub.key);
            slice.path.push(Level { buf, next });
            return;
        }
        if page.level == 0 {
            let view = PageView::new(&buf);
            let values = (0..view.count()).map(|entry| view.value(entry));
            slice.extents.extend(values.filter_map(|value| match value {
                Value::Overflow(extent) => Some(extent.page),
                Value::Inline(_) => None,
            }));
        }
        self.keep_spare(buf);
    }

    fn keep_spare(&mut self, buf: BlockBuf) {
        if buf.blocks() == 1 {
            self.scrub.spare = Some(buf);
        }
    }

    /// A page is not what the checkpoint says.
    fn scrub_failed(&mut self, page: PageRef, again: bool) {
        let slice = self.scrub.slice.as_mut().expect("it is of a slice");
        if self.superblock.checkpoint != slice.checkpoint {
            // Perhaps nobody's any more: the next slice looks there in the new checkpoint.
            slice.ends_at = Nanos(0);
            return;
        }
        if !again {
            self.scrub.failed = Some(page);
            return;
        }
        let (group, id) = (slice.group, slice.id);
        self.scrub.stats.damaged += 1;
        let shard = self.shard();
        if self.groups.get(group).member.is_some() {
            notice::say(format_args!(
                "shard {shard}: page {} of group {id} is not on the disk as it was written, and nobody \
                 has read it since",
                page.id
            ));
            self.cache.forget(page.id);
            self.found_damaged(group, page);
            // All of the state is replaced.
            self.scrub.group.0 = group.0 + 1;
            self.scrub.key.clear();
            self.scrub.slice.as_mut().expect("just there").ends_at = Nanos(0);
        } else {
            notice::say(format_args!(
                "shard {shard}: page {} of group {id} is damaged on the disk, and this node stands alone: \
                 there is no other copy",
                page.id
            ));
        }
    }
}
