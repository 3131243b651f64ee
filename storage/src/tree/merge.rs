//! A sorted stream of changes into a new tree.
//!
//! ```text
//!   old tree, left to right            builders, one a level            new pages
//!
//!   level 1  [A B C D E]  ───untouched children───►  A B' C D1 D2 …  ──cut──►  …
//!                 │ │
//!   level 0      [B][D]  + changes ──entries──►  b1 b2 b3 …           ──cut──►  B'  D1 D2
//! ```
//!
//! The merge goes down to the leaf of the next change, passes the children on its left to the
//! builder of their level unread, mixes the leaf's entries with the changes, and cuts the mixture
//! into pages, whose references go to the builder of the next level. So each touched page is read
//! once and written once, from left to right, whatever the batch; and memory is a few pages a level.
//!
//! A page left underfull is not written: its entries stay in the builder, and the merge goes into
//! the next page of the level even if no change falls there, and both become one (or two halves).
//! A page whose entries did not change is passed on as it was.
//!
//! Neighbours that are all rewritten share what they hold: where the next page of the same parent
//! has changes, too, pages are cut nearly full (`Fill::Packed`) and the rest waits for it. Only
//! before an untouched page is what is left cut evenly, half a page of it at least. So a batch as
//! large as the tree packs it, no page is rewritten for the sake of packing alone, and the pages
//! written are hardly ever more than those replaced and those that the new bytes fill.
//!
//! It runs in slices: [`Merge::step`] stops when its budget is used, when a page is missing, when the
//! cache is full of unwritten pages or the file of allocated ones; every state in which it can stop
//! is a state from which it goes on.
//!
//! Separators: an entry's separator is a lower bound of its child and above everything to its left.
//! The first entry that a page gives to its builder carries the page's own separator, so that no
//! gap opens when the first children of a page vanish.
//!
//! Invariants: a builder holds only entries that come before everything still to be read at its
//! level; while a builder is not empty, no untouched child passes above it; input keys ascend
//! strictly.
//!
//! Left out: combining an underfull page with its left neighbour. Only the rightmost page of a level
//! has no right one, so at most one page a level stays small.

use super::build::{Builder, Fill};
use super::page::{PAGE_BLOCKS_MAX, PageView};
use super::place::{Blocked, Room, new_page, store_item};
use super::{ChildRef, LEVELS_MAX, PageRef, TreeRef, Value};
use crate::block::BLOCK_BYTES;
use crate::cache::{FrameId, PageCache};
use crate::space::SpaceMap;
use forebay_core::digest::Digest;

/// Pages asked for at once when one is missing.
pub const READ_AHEAD_MAX: usize = 32;

/// Budget units: one is about 100 ns.
const PAGE_OPEN_COST: usize = 3;
const PAGE_CUT_COST: usize = 15;
const BLOCK_COPY_COST: usize = 6;

/// Blocks that a merge of so many changes, of which so many bytes go to tree pages, may take at worst
/// in a tree of `live_blocks`, beside a few for its top.
///
/// Each change rewrites its leaf and its share of the path. But no page is rewritten twice, and where
/// changes are so dense that this counts, neighbours are packed: a page cut from a run of them is
/// three quarters full even if its entries are as large as they get (15/16, less half an entry of a
/// third), and what the end of a run wastes, it has from the untouched page or the parent after it.
#[must_use]
pub fn blocks_max(changes: u64, bytes: u64, live_blocks: u64) -> u64 {
    let new = bytes.div_ceil(BLOCK_BYTES as u64);
    (3 * changes).min(live_blocks + live_blocks / 3) + new + new / 3
}

/// What happens to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change<'a> {
    /// The item becomes this.
    Put(&'a [u8]),
    /// There is no item afterwards.
    Delete,
}

/// A sorted stream of changes, one for each key.
pub trait MergeInput {
    /// The next change, without taking it.
    fn peek(&self) -> Option<(&[u8], Change<'_>)>;

    /// Takes the change that `peek` shows.
    fn advance(&mut self);

    /// The first key not below `bound` among those not yet taken, for read-ahead: one seek.
    fn first_key_from(&self, bound: &[u8]) -> Option<&[u8]>;

    /// Whether changes may still arrive after those that are here. Only a merge into an empty tree
    /// waits for them.
    fn is_unfinished(&self) -> bool {
        false
    }
}

/// Why a slice ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MergeStep {
    /// The budget is used: step again.
    Progress,
    /// Read [`Merge::missing`]'s pages: the first is needed, the others soon. Then step again.
    Missing,
    /// The cache has no room: carry out its writes ([`PageCache::next_write`]), then step again.
    CacheFull,
    /// The file has no run of this many blocks: let it grow ([`SpaceMap::grow`]), then step again.
    /// If it cannot, keep the merge until it can, or [`Merge::abandon`] it: the changes are still
    /// in the log and the overlay.
    NeedSpace(u64),
    /// The new tree. Its pages are dirty in the cache.
    Done(TreeRef),
}

impl From<Blocked> for MergeStep {
    fn from(blocked: Blocked) -> MergeStep {
        match blocked {
            Blocked::CacheFull => MergeStep::CacheFull,
            Blocked::NeedSpace(blocks) => MergeStep::NeedSpace(blocks),
        }
    }
}

/// A page of the old tree that the merge is in.
struct Open {
    child: ChildRef,
    frame: FrameId,
    /// Next entry to be looked at, and how many there are.
    index: usize,
    count: usize,
    /// The page's separator.
    fence: Vec<u8>,
    /// Keys from here on belong to pages on the right; None at the right edge.
    upper: Option<Vec<u8>>,
    changed: bool,
    /// The page has given its builder an entry.
    pushed: bool,
    /// The builder of the page's level was empty when the page was opened.
    opened_clean: bool,
}

enum State {
    /// Nothing has been done.
    Start,
    /// Going through the old tree; `open` is the path.
    Walk,
    /// Through an empty tree: all changes go to the leaf builder.
    Load,
    /// All that is left of the tree is in this level's builder and those above.
    Finish(usize),
    Done(TreeRef),
}

/// A merge under way.
pub struct Merge {
    tree: TreeRef,
    state: State,
    /// From the root down.
    open: Vec<Open>,
    builders: Vec<Builder>,
    /// The last change went after every key of the tree: more of the same may follow.
    appending: bool,
    missing: Vec<PageRef>,
    allocated: Vec<(u64, u16)>,
    freed: Vec<(u64, u16)>,
    /// Of `freed`.
    replaced_blocks: u64,
    separator: Vec<u8>,
    key: Vec<u8>,
    /// Fences and bounds of pages that were left.
    spare_keys: Vec<Vec<u8>>,
    stats: MergeStats,
    /// Its pages are borrowed: no checkpoint holds them until somebody adopts them.
    borrows: bool,
}

/// What a merge did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MergeStats {
    /// Changes taken.
    pub changes: u64,
    /// Tree pages of the old tree that were gone through.
    pub pages_read: u64,
    /// Tree pages and extents written.
    pub pages_written: u64,
    /// Their blocks.
    pub blocks_written: u64,
    /// Blocks of the old tree that the new one does not hold.
    pub blocks_freed: u64,
}

impl Merge {
    /// A merge into `tree`.
    #[must_use]
    pub fn new(tree: TreeRef) -> Merge {
        Merge {
            tree,
            state: State::Start,
            open: Vec::new(),
            builders: Vec::new(),
            appending: false,
            missing: Vec::new(),
            allocated: Vec::new(),
            freed: Vec::new(),
            replaced_blocks: 0,
            separator: Vec::new(),
            key: Vec::new(),
            spare_keys: Vec::new(),
            stats: MergeStats::default(),
            borrows: false,
        }
    }

    /// Loads a new tree whose pages are borrowed ([`SpaceMap::borrow`]) until the caller, who gets
    /// them from [`Merge::take_allocated`], adopts them or gives them back.
    #[must_use]
    pub fn borrowing() -> Merge {
        Merge { borrows: true, ..Merge::new(TreeRef::EMPTY) }
    }

    /// Pages and extents written so far, for a merge that borrows them.
    pub fn take_allocated(&mut self) -> Vec<(u64, u16)> {
        assert!(self.borrows && self.open.is_empty());
        std::mem::take(&mut self.allocated)
    }

    /// Starts over with another tree, reusing the buffers. The last merge is done or abandoned.
    pub fn reset(&mut self, tree: TreeRef) {
        assert!(self.open.is_empty() && self.allocated.is_empty() && self.freed.is_empty());
        assert!(self.builders.iter().all(Builder::is_empty));
        self.tree = tree;
        self.state = State::Start;
        self.appending = false;
        self.stats = MergeStats::default();
    }

    /// The pages that [`MergeStep::Missing`] is about.
    #[must_use]
    pub fn missing(&self) -> &[PageRef] {
        &self.missing
    }

    /// Blocks of the old tree that the new one will not hold, as far as the merge has come.
    #[must_use]
    pub fn replaced_blocks(&self) -> u64 {
        self.replaced_blocks
    }

    /// What was done so far.
    #[must_use]
    pub fn stats(&self) -> MergeStats {
        self.stats
    }

    /// Gives up: what was written is freed, the old tree stays.
    pub fn abandon(&mut self, cache: &mut PageCache, space: &mut SpaceMap) {
        for open in self.open.drain(..) {
            cache.unpin(open.frame);
        }
        assert!(!self.borrows, "whoever borrowed gives back");
        for (id, blocks) in self.allocated.drain(..) {
            // Not at once reusable: a write may be in flight.
            space.free(id, blocks);
            cache.forget(id);
        }
        self.freed.clear();
        self.replaced_blocks = 0;
        self.builders.iter_mut().for_each(Builder::clear);
        self.state = State::Done(self.tree);
    }

    /// Works for about `budget` times 100 ns.
    pub fn step<I: MergeInput>(
        &mut self,
        input: &mut I,
        cache: &mut PageCache,
        space: &mut SpaceMap,
        budget: usize,
    ) -> MergeStep {
        let mut left = budget;
        while left > 0 {
            let cost = match self.state {
                State::Start => Ok(self.start(input, cache)),
                State::Walk => self.walk(input, cache, space, left),
                State::Load => self.load(input, cache, space, left),
                State::Finish(level) => self.finish(level, cache, space),
                State::Done(tree) => {
                    self.commit(space);
                    return MergeStep::Done(tree);
                }
            };
            match cost {
                Ok(Some(cost)) => left = left.saturating_sub(cost),
                Ok(None) => return MergeStep::Missing,
                Err(blocked) => return blocked.into(),
            }
        }
        MergeStep::Progress
    }

    /// The new tree stands: what it does not share with the old one is free once older checkpoints
    /// are gone.
    fn commit(&mut self, space: &mut SpaceMap) {
        if !self.borrows {
            self.allocated.clear();
        }
        for (id, blocks) in self.freed.drain(..) {
            self.stats.blocks_freed += u64::from(blocks);
            space.free(id, blocks);
        }
        self.replaced_blocks = 0;
        debug_assert!(self.open.is_empty() && self.builders.iter().all(Builder::is_empty));
    }

    fn start<I: MergeInput>(&mut self, input: &I, cache: &mut PageCache) -> Option<usize> {
        if input.peek().is_none() && !input.is_unfinished() {
            self.state = State::Done(self.tree);
            return Some(1);
        }
        let Some(root) = self.tree.root else {
            self.builder(0).set_fence(&[]);
            self.state = State::Load;
            return Some(1);
        };
        let cost = self.open_page(cache, root, None)?;
        self.state = State::Walk;
        Some(cost)
    }

    fn builder(&mut self, level: usize) -> &mut Builder {
        assert!(level < LEVELS_MAX);
        while self.builders.len() <= level {
            self.builders.push(Builder::new(self.builders.len() as u8));
        }
        &mut self.builders[level]
    }

    /// Enters a page of the old tree; None if it is missing. `bounds` are its separator and upper
    /// bound, unless it is the root.
    fn open_page(
        &mut self,
        cache: &mut PageCache,
        child: ChildRef,
        bounds: Option<(Vec<u8>, Option<Vec<u8>>)>,
    ) -> Option<usize> {
        let Some(frame) = cache.pin(&child.page) else {
            self.missing.clear();
            self.missing.push(child.page);
            return None;
        };
        let count = PageView::new(cache.pinned(frame)).count();
        let (fence, upper) = bounds.unwrap_or_default();
        let builder = self.builder(usize::from(child.page.level));
        let opened_clean = builder.is_empty();
        if opened_clean && child.page.level == 0 {
            builder.set_fence(&fence);
        }
        let (index, changed, pushed) = (0, false, false);
        self.open.push(Open {
            child,
            frame,
            index,
            count,
            fence,
            upper,
            changed,
            pushed,
            opened_clean,
        });
        self.stats.pages_read += 1;
        Some(PAGE_OPEN_COST)
    }

    /// Lets go of a page of the path.
    fn leave(&mut self, open: Open, cache: &mut PageCache) {
        cache.unpin(open.frame);
        // The root's fence is empty, and not one of the spare ones.
        let keys = [Some(open.fence), open.upper].into_iter().flatten();
        self.spare_keys.extend(keys.filter(|key| key.capacity() > 0));
    }

    /// Room for a key: a merge goes through many pages, and allocates for none of them once warm.
    fn spare_key(&mut self) -> Vec<u8> {
        let mut key = self.spare_keys.pop().unwrap_or_default();
        key.clear();
        key
    }

    /// One action at the end of the path.
    fn walk<I: MergeInput>(
        &mut self,
        input: &mut I,
        cache: &mut PageCache,
        space: &mut SpaceMap,
        budget: usize,
    ) -> Result<Option<usize>, Blocked> {
        let open = self.open.last().expect("the path ends in a page");
        let level = usize::from(open.child.page.level);
        if self.builders[level].is_streaming() {
            return self.cut(level, Fill::Stream, cache, space).map(Some);
        }
        if level == 0 {
            self.walk_leaf(input, cache, space, budget).map(Some)
        } else if open.index < open.count {
            Ok(self.walk_interior(input, cache))
        } else {
            self.close_page(input, cache, space).map(Some)
        }
    }

    /// Passes untouched children on, or enters the next touched one; None if that is missing.
    fn walk_interior<I: MergeInput>(&mut self, input: &I, cache: &mut PageCache) -> Option<usize> {
        let depth = self.open.len() - 1;
        let open = &mut self.open[depth];
        let level = usize::from(open.child.page.level);
        let (lower, upper) = self.builders.split_at_mut(level);
        let carrying = lower.iter().any(|builder| !builder.is_empty());
        let view = PageView::new(cache.pinned(open.frame));
        let next_key = input.peek().map(|(key, _)| key);
        // The first child to enter: the next one while entries wait below, else the next change's.
        let enter = if carrying {
            open.index
        } else {
            match next_key {
                Some(key) if open.upper.as_deref().is_none_or(|upper| key < upper) => {
                    view.child_index(key)
                }
                _ => open.count,
            }
        };
        debug_assert!(enter >= open.index, "changes ascend");
        let passed = enter - open.index;
        for i in open.index..enter {
            let separator = first_separator(open, view.prefix(), view.suffix(i));
            upper[0].push_child(separator, &view.child(i));
            open.pushed = true;
        }
        open.index = enter;
        if passed > 0 || enter == open.count {
            return Some(1 + passed / 2);
        }
        let child = view.child(enter);
        if !cache.contains(&child.page) {
            self.find_missing(input, cache, depth);
            return None;
        }
        let (mut fence, mut bound) = (self.spare_key(), self.spare_key());
        let open = &self.open[depth];
        let view = PageView::new(cache.pinned(open.frame));
        if enter == 0 {
            fence.extend_from_slice(&open.fence);
        } else {
            view.key_into(enter, &mut fence);
        }
        let bound = if enter + 1 < open.count {
            view.key_into(enter + 1, &mut bound);
            Some(bound)
        } else if let Some(upper) = &open.upper {
            bound.extend_from_slice(upper);
            Some(bound)
        } else {
            self.spare_keys.push(bound);
            None
        };
        self.open[depth].index += 1;
        let cost = self.open_page(cache, child, Some((fence, bound)));
        debug_assert!(cost.is_some());
        cost
    }

    /// Lists the child at the path's end and the children that the changes after it fall into.
    fn find_missing<I: MergeInput>(&mut self, input: &I, cache: &PageCache, depth: usize) {
        let open = &self.open[depth];
        let view = PageView::new(cache.pinned(open.frame));
        // No more than will surely still be here when the merge comes to them.
        let max = READ_AHEAD_MAX.min(cache.room_blocks() / 8).max(1);
        let mut i = open.index;
        self.missing.clear();
        self.missing.push(view.child_page(i));
        while self.missing.len() < max && i + 1 < open.count {
            self.key.clear();
            view.key_into(i + 1, &mut self.key);
            let Some(key) = input.first_key_from(&self.key) else { return };
            if open.upper.as_deref().is_some_and(|upper| key >= upper) {
                return;
            }
            i = view.child_index(key).max(i + 1);
            let page = view.child_page(i);
            if !cache.expects(&page) {
                self.missing.push(page);
            }
        }
    }

    /// Mixes the open leaf's entries with the changes.
    fn walk_leaf<I: MergeInput>(
        &mut self,
        input: &mut I,
        cache: &mut PageCache,
        space: &mut SpaceMap,
        budget: usize,
    ) -> Result<usize, Blocked> {
        let open = self.open.last_mut().expect("the path ends in a leaf");
        let next =
            input.peek().filter(|(key, _)| open.upper.as_deref().is_none_or(|upper| *key < upper));
        let view = PageView::new(cache.pinned(open.frame));
        let Some((key, change)) = next else {
            // No change left here: the rest as it is.
            let rest = open.count - open.index;
            push_old(&mut self.builders[0], &view, open.index..open.count);
            open.index = open.count;
            open.pushed |= rest > 0;
            return Ok(self.close_page(input, cache, space)? + rest);
        };
        let (at, same) = match view.search(key) {
            Ok(i) => (i, true),
            Err(i) => (i, false),
        };
        debug_assert!(at >= open.index, "changes ascend");
        // In parts, so that a page of long entries does not outgrow the builder or the budget.
        let passed = (at - open.index).min(budget);
        push_old(&mut self.builders[0], &view, open.index..open.index + passed);
        open.index += passed;
        open.pushed |= passed > 0;
        if open.index < at {
            return Ok(passed);
        }
        let replaced = same.then(|| view.value(at)).and_then(|old| match old {
            Value::Inline(_) => None,
            Value::Overflow(extent) => Some((extent.page.id, extent.page.blocks)),
        });
        let appending = at == open.count && open.upper.is_none();
        let mut cost = 2;
        match change {
            Change::Put(item) => {
                let (stats, allocated) = (&mut self.stats, &mut self.allocated);
                let value = store_item(stats, key, item, Room::Extent, cache, space, allocated)?;
                if let Value::Overflow(extent) = &value {
                    cost += usize::from(extent.page.blocks) * BLOCK_COPY_COST;
                }
                self.builders[0].push_item([key, &[]], &value, Digest::of(key, item).0);
                open.pushed = true;
                open.changed = true;
                self.appending = appending;
            }
            Change::Delete => open.changed |= same,
        }
        // Only now, when nothing can stop the change any more.
        if let Some((id, blocks)) = replaced {
            self.freed.push((id, blocks));
            self.replaced_blocks += u64::from(blocks);
        }
        open.index += usize::from(same);
        input.advance();
        self.stats.changes += 1;
        Ok(cost + passed)
    }

    /// All changes into an empty tree.
    fn load<I: MergeInput>(
        &mut self,
        input: &mut I,
        cache: &mut PageCache,
        space: &mut SpaceMap,
        budget: usize,
    ) -> Result<Option<usize>, Blocked> {
        let mut cost = 0;
        while cost < budget {
            // All levels, so that memory is a few pages each however large the tree.
            if let Some(level) = self.builders.iter().position(Builder::is_streaming) {
                return Ok(Some(cost + self.cut(level, Fill::Stream, cache, space)?));
            }
            let Some((key, change)) = input.peek() else {
                if input.is_unfinished() {
                    return Ok(Some(budget));
                }
                self.appending = true;
                self.state = State::Finish(0);
                return Ok(Some(cost + 1));
            };
            cost += 2;
            if let Change::Put(item) = change {
                let room = if self.borrows { Room::Borrowed } else { Room::Extent };
                let (stats, allocated) = (&mut self.stats, &mut self.allocated);
                let value = store_item(stats, key, item, room, cache, space, allocated)?;
                if let Value::Overflow(extent) = &value {
                    cost += usize::from(extent.page.blocks) * BLOCK_COPY_COST;
                }
                self.builders[0].push_item([key, &[]], &value, Digest::of(key, item).0);
            }
            input.advance();
            self.stats.changes += 1;
        }
        Ok(Some(cost))
    }

    /// Leaves the page at the path's end, all of whose entries were looked at. Cuts one page from
    /// its builder if there is more than may stay there; called again until the page is left.
    fn close_page<I: MergeInput>(
        &mut self,
        input: &I,
        cache: &mut PageCache,
        space: &mut SpaceMap,
    ) -> Result<usize, Blocked> {
        let depth = self.open.len() - 1;
        let open = &self.open[depth];
        debug_assert_eq!(open.index, open.count);
        let level = usize::from(open.child.page.level);
        if !open.changed && open.opened_clean {
            // Nothing changed: the old page serves on.
            let open = self.open.pop().expect("looked at above");
            self.builders[level].clear();
            match self.open.last_mut() {
                None => self.state = State::Done(self.tree),
                Some(parent) => {
                    let separator = first_separator(parent, &[], &open.fence);
                    self.builders[level + 1].push_child(separator, &open.child);
                    parent.pushed = true;
                }
            }
            self.leave(open, cache);
            return Ok(1);
        }
        let at_right_edge = open.upper.is_none();
        let nothing_above = self.builders[level + 1..].iter().all(Builder::is_empty);
        if depth == 0 || at_right_edge && nothing_above {
            // What is left of the tree is in this builder (and, below a root that outgrew its page,
            // in those above): the old pages above are gone.
            while let Some(open) = self.open.pop() {
                self.freed.push((open.child.page.id, open.child.page.blocks));
                self.replaced_blocks += u64::from(open.child.page.blocks);
                self.leave(open, cache);
            }
            if nothing_above {
                self.builders[level].make_leftmost();
            }
            self.state = State::Finish(level);
            return Ok(1);
        }
        let builder = &self.builders[level];
        if self.next_is_touched(input, cache) {
            if builder.fills_a_page_and_more() {
                return self.cut(level, Fill::Packed, cache, space);
            }
        } else if !(builder.is_empty() || !at_right_edge && builder.is_underfull()) {
            let fill = if at_right_edge && self.appending { Fill::Stream } else { Fill::Even };
            return self.cut(level, fill, cache, space);
        }
        let open = self.open.pop().expect("looked at above");
        self.freed.push((open.child.page.id, open.child.page.blocks));
        self.replaced_blocks += u64::from(open.child.page.blocks);
        self.leave(open, cache);
        // Its entries are in the builder, or in pages already; nothing else refers to it.
        let parent = self.open.last_mut().expect("the root is at the right edge");
        parent.changed = true;
        Ok(1)
    }

    /// Whether a change falls into the page after the one at the path's end, under the same parent.
    fn next_is_touched<I: MergeInput>(&self, input: &I, cache: &PageCache) -> bool {
        let parent = &self.open[self.open.len() - 2];
        let Some((key, _)) = input.peek() else { return false };
        if parent.index + 1 < parent.count {
            let view = PageView::new(cache.pinned(parent.frame));
            return view.compare(parent.index + 1, key).is_gt();
        }
        parent.index < parent.count && parent.upper.as_deref().is_none_or(|upper| key < upper)
    }

    /// Cuts a page off a builder and gives it to the next one.
    fn cut(
        &mut self,
        level: usize,
        fill: Fill,
        cache: &mut PageCache,
        space: &mut SpaceMap,
    ) -> Result<usize, Blocked> {
        self.builder(level + 1);
        let plan = self.builders[level].plan(fill);
        let room = if self.borrows { Room::Borrowed } else { Room::Page };
        let (mut buf, place) = new_page(plan.blocks, room, cache, space)?;
        let child = self.builders[level].cut(plan, place, &mut buf, &mut self.separator);
        cache.insert(child.page, buf);
        self.allocated.push((child.page.id, child.page.blocks));
        self.stats.pages_written += 1;
        self.stats.blocks_written += plan.blocks as u64;
        // The path holds the levels from the root down to some level not above this one.
        let root_level = self.open.first().map_or(0, |open| usize::from(open.child.page.level));
        let parent = (root_level > level).then(|| &mut self.open[root_level - level - 1]);
        match parent {
            Some(parent) => {
                parent.changed = true;
                let separator = first_separator(parent, &[], &self.separator);
                self.builders[level + 1].push_child(separator, &child);
                parent.pushed = true;
            }
            None => self.builders[level + 1].push_child([&self.separator, &[]], &child),
        }
        Ok(PAGE_CUT_COST * plan.blocks)
    }

    /// Makes pages of what the builders hold, from `level` up to a single root.
    fn finish(
        &mut self,
        level: usize,
        cache: &mut PageCache,
        space: &mut SpaceMap,
    ) -> Result<Option<usize>, Blocked> {
        self.builder(level + 1);
        let above = !self.builders[level + 1].is_empty();
        if self.builders[level].is_empty() {
            self.state = if above { State::Finish(level + 1) } else { State::Done(TreeRef::EMPTY) };
            return Ok(Some(1));
        }
        if !above && let Some(root) = self.builders[level].only_child() {
            self.builders[level].clear();
            self.state = State::Done(TreeRef { root: Some(root) });
            return Ok(Some(1));
        }
        let fill = if self.appending { Fill::Stream } else { Fill::Even };
        self.cut(level, fill, cache, space).map(Some)
    }
}

impl std::fmt::Debug for Merge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Merge").field("stats", &self.stats).finish_non_exhaustive()
    }
}

/// The separator for an entry that a page gives to its builder: the first carries the page's own
/// if that is lower.
fn first_separator<'a>(open: &'a Open, prefix: &'a [u8], suffix: &'a [u8]) -> [&'a [u8]; 2] {
    let fence_is_lower = || open.fence.iter().lt(prefix.iter().chain(suffix));
    if !open.pushed && fence_is_lower() { [&open.fence, &[]] } else { [prefix, suffix] }
}

fn push_old(builder: &mut Builder, view: &PageView<'_>, range: std::ops::Range<usize>) {
    for i in range {
        builder.push_item([view.prefix(), view.suffix(i)], &view.value(i), view.digest(i));
    }
}

const _: () = assert!(PAGE_BLOCKS_MAX <= u16::MAX as usize);
