//! Reads: overlay first, then the tree through the page cache.
//!
//! Nothing waits here. A read that needs an absent page says which; the caller has it fetched
//! ([`Store::fetch`]) and asks again when [`Store::take_loaded`] names it.

use std::cmp::Ordering;
use std::ops::Bound;

use forebay_core::planted::{self, Flaw};
use forebay_core::time::Nanos;

use super::{GroupOrdinal, Store};
use crate::block::DiskDone;
use crate::cache::{ReadError, ReadStart};
use crate::notice;
use crate::overlay::{EntryRef, KeyHash};
pub use crate::tree::walk::TOGETHER_MAX;
use crate::tree::walk::{self, Cursor, Direction, Lookup, Step};
use crate::tree::{PageRef, Value};

/// A page's place in the pages file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PageId(pub u64);

/// What a group says of a key.
#[derive(Clone, Copy, Debug)]
pub enum Read<'a> {
    /// The item, where it lies.
    Item(&'a [u8]),
    /// There is none.
    Absent,
    /// Fetch this page and ask again.
    Wait(PageRef),
    /// A page on the way is damaged or cannot be read.
    Damaged,
}

/// What a group says of a key, entries in flight included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Current {
    /// The item was copied out.
    Item {
        /// It is not chosen yet.
        in_flight: bool,
    },
    /// There is none.
    Absent {
        /// Its delete is not chosen yet.
        in_flight: bool,
    },
    /// Fetch this page and ask again.
    Wait(PageRef),
    /// A page on the way is damaged or cannot be read.
    Damaged,
}

/// Whether a range read goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visit {
    /// The next item, please.
    Continue,
    /// That was the last one wanted.
    Stop,
}

/// Why a range read ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeEnd {
    /// Everything in the range was visited.
    Exhausted,
    /// The visitor stopped it.
    Stopped,
    /// Fetch this page and go on behind the last visited key.
    Wait(PageRef),
    /// A page on the way is damaged or cannot be read.
    Damaged,
}

/// A page that could not be had is asked for again after this time: the device may answer then,
/// and is not hammered until then.
const READ_RETRY_NANOS: u64 = 200 * Nanos::PER_MILLI;
/// Pages fetched ahead of a range read.
const READ_AHEAD_PAGES: usize = 8;

impl Store {
    /// Reads the chosen item under the encoded `key`.
    #[must_use]
    pub fn get(&self, group: GroupOrdinal, key: &[u8]) -> Read<'_> {
        self.get_hashed(group, key, KeyHash::of(group.0, key))
    }

    /// Reads up to [`TOGETHER_MAX`] chosen items, and waits for memory once for all of them:
    /// `reads[i]` is what [`Store::get`] says of `wanted[i]`.
    pub fn get_together<'s>(&'s self, wanted: &[(GroupOrdinal, &[u8])], reads: &mut [Read<'s>]) {
        assert!(wanted.len() <= TOGETHER_MAX && wanted.len() == reads.len());
        let mut hashes = [KeyHash::default(); TOGETHER_MAX];
        for (hash, (group, key)) in hashes.iter_mut().zip(wanted) {
            *hash = KeyHash::of(group.0, key);
        }
        self.overlay.touch(&hashes[..wanted.len()]);
        let mut in_tree = [0; TOGETHER_MAX];
        let mut len = 0;
        for (i, ((group, key), hash)) in wanted.iter().zip(hashes).enumerate() {
            match self.overlay.get(group.0, key, hash) {
                Some(entry) => reads[i] = entry.item.map_or(Read::Absent, Read::Item),
                None => {
                    in_tree[len] = i;
                    len += 1;
                }
            }
        }
        if len == 0 {
            return;
        }
        let mut trees = [(&self.groups.get(wanted[0].0).tree, &[][..]); TOGETHER_MAX];
        let mut lookups = [Lookup::Absent; TOGETHER_MAX];
        for (tree, &i) in trees.iter_mut().zip(&in_tree[..len]) {
            let (group, key) = wanted[i];
            *tree = (&self.groups.get(group).tree, key);
        }
        walk::lookup_together(&self.cache, &trees[..len], &mut lookups[..len]);
        for (lookup, &i) in lookups.into_iter().zip(&in_tree[..len]) {
            reads[i] = self.read_of(wanted[i].0, lookup);
        }
    }

    fn get_hashed(&self, group: GroupOrdinal, key: &[u8], hash: KeyHash) -> Read<'_> {
        if let Some(entry) = self.overlay.get(group.0, key, hash) {
            return entry.item.map_or(Read::Absent, Read::Item);
        }
        self.read_of(group, walk::lookup(&self.cache, &self.groups.get(group).tree, key))
    }

    fn read_of<'s>(&'s self, group: GroupOrdinal, lookup: Lookup<'s>) -> Read<'s> {
        let missing = match lookup {
            Lookup::Found(item) => return Read::Item(item),
            Lookup::Absent => return Read::Absent,
            Lookup::FoundOverflow(extent) => match walk::overflow(&self.cache, &extent) {
                Some(item) => return Read::Item(item),
                None => extent.page,
            },
            Lookup::Missing(page) => page,
        };
        if self.is_damaged(missing) {
            self.suspect(group, missing);
            return Read::Damaged;
        }
        Read::Wait(missing)
    }

    /// Copies the newest item under `key`, chosen or in flight, to the end of `item`.
    pub fn current(&self, group: GroupOrdinal, key: &[u8], item: &mut Vec<u8>) -> Current {
        let hash = KeyHash::of(group.0, key);
        let in_flight = self.in_flight.latest(&self.overlay, group.0, key, hash);
        if let Some(staged) = in_flight.filter(|_| !planted::has(Flaw::IgnoreInFlight)) {
            return match self.overlay.staged(staged).item {
                Some(bytes) => {
                    item.extend_from_slice(bytes);
                    Current::Item { in_flight: true }
                }
                None => Current::Absent { in_flight: true },
            };
        }
        match self.get_hashed(group, key, hash) {
            Read::Item(bytes) => {
                item.extend_from_slice(bytes);
                Current::Item { in_flight: false }
            }
            Read::Absent => Current::Absent { in_flight: false },
            Read::Wait(page) => Current::Wait(page),
            Read::Damaged => Current::Damaged,
        }
    }

    /// Visits the chosen items between the bounds in key order. When a page is absent, it and some
    /// after it are fetched.
    pub fn range(
        &mut self,
        group: GroupOrdinal,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        descending: bool,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> Visit,
    ) -> RangeEnd {
        let lower = match from {
            Bound::Included(key) => key.to_vec(),
            Bound::Excluded(key) => just_after(key),
            Bound::Unbounded => Vec::new(),
        };
        let upper = match to {
            Bound::Included(key) => Some(just_after(key)),
            Bound::Excluded(key) => Some(key.to_vec()),
            Bound::Unbounded => None,
        };
        if upper.as_ref().is_some_and(|upper| *upper <= lower) {
            return RangeEnd::Exhausted;
        }
        let direction = if descending { Direction::Backward } else { Direction::Forward };
        let mut cursor = Cursor::new(&lower, upper.as_deref(), direction);
        let bounds = (
            Bound::Included(&lower[..]),
            upper.as_deref().map_or(Bound::Unbounded, Bound::Excluded),
        );
        match self.range_to_end(group, bounds, descending, &mut cursor, visit) {
            Ok(end) => end,
            Err(page) if self.is_damaged(page) => {
                self.suspect(group, page);
                RangeEnd::Damaged
            }
            Err(page) => {
                let mut ahead = Vec::new();
                cursor.read_ahead(&self.cache, READ_AHEAD_PAGES, &mut ahead);
                for page in ahead {
                    self.fetch_if_room(page);
                }
                RangeEnd::Wait(page)
            }
        }
    }

    fn range_to_end(
        &self,
        group: GroupOrdinal,
        (from, to): (Bound<&[u8]>, Bound<&[u8]>),
        descending: bool,
        cursor: &mut Cursor,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> Visit,
    ) -> Result<RangeEnd, PageRef> {
        let tree = &self.groups.get(group).tree;
        let mut newer = self.overlay.range(group.0, from, to, descending).peekable();
        loop {
            let step = match cursor.next(&self.cache, tree) {
                Step::Missing(page) => return Err(page),
                Step::End => None,
                Step::Entry { key, value } => Some((key, value)),
            };
            // Overlay entries up to and including the tree's next key come first; one of the same
            // key replaces it.
            let mut replaced = false;
            while let Some(entry) = newer.peek() {
                let order = step.map_or(Ordering::Less, |(key, _)| {
                    let order = entry.key.cmp(key);
                    if descending { order.reverse() } else { order }
                });
                if order.is_gt() {
                    break;
                }
                let EntryRef { key, item, .. } = newer.next().expect("just peeked");
                replaced |= order.is_eq();
                if let Some(item) = item
                    && visit(key, item) == Visit::Stop
                {
                    return Ok(RangeEnd::Stopped);
                }
            }
            let Some((key, value)) = step else { return Ok(RangeEnd::Exhausted) };
            if replaced {
                continue;
            }
            let item = match value {
                Value::Inline(item) => item,
                Value::Overflow(extent) => {
                    walk::overflow(&self.cache, &extent).ok_or(extent.page)?
                }
            };
            if visit(key, item) == Visit::Stop {
                return Ok(RangeEnd::Stopped);
            }
        }
    }

    /// Has a page read. [`Store::take_loaded`] names it when it is there, or cannot be had.
    pub fn fetch(&mut self, page: PageRef) -> PageId {
        let op = self.next_op();
        match self.cache.begin_read(&page, op) {
            ReadStart::Started(op) => self.disk.push(op),
            ReadStart::InFlight(_) => {}
            ReadStart::Cached => self.loaded.push(PageId(page.id)),
            ReadStart::Full => self.unread.push(page),
        }
        PageId(page.id)
    }

    /// Has a page read if that is possible at once, and it was not tried in vain just now.
    pub(super) fn fetch_if_room(&mut self, page: PageRef) {
        if self.is_damaged(page) {
            return;
        }
        let op = self.next_op();
        if let ReadStart::Started(op) = self.cache.begin_read(&page, op) {
            self.disk.push(op);
        }
    }

    /// Starts the reads that found no free frame when they were asked for.
    pub(super) fn fetch_unread(&mut self) {
        for page in std::mem::take(&mut self.unread) {
            self.fetch(page);
        }
    }

    /// Reads that the disk carried out and that brought something else than the page asked for.
    #[must_use]
    pub fn wrong_pages(&self) -> u64 {
        self.wrong_pages
    }

    /// Moves the pages that arrived, or turned out unreadable, to the end of `pages`.
    pub fn take_loaded(&mut self, pages: &mut Vec<PageId>) {
        pages.append(&mut self.loaded);
    }

    /// Whether a page that could not be had stands in the way.
    pub(super) fn is_damaged(&self, page: PageRef) -> bool {
        self.damaged_until(page).is_some()
    }

    /// When a page that could not be had is asked for again.
    pub(super) fn damaged_until(&self, page: PageRef) -> Option<Nanos> {
        if self.damaged.is_empty() { None } else { self.damaged.get(&page).copied() }
    }

    /// Lets pages that could not be had be tried again.
    pub(super) fn forget_damage(&mut self, now: Nanos) {
        if !self.damaged.is_empty() {
            self.damaged.retain(|_, until| now < *until);
        }
    }

    pub(super) fn page_read(&mut self, done: DiskDone, now: Nanos) {
        let page = self.cache.page_of_read(done.op);
        if let Err(error) = self.cache.finish_read(done) {
            self.page_read_errors += 1;
            self.wrong_pages += u64::from(!matches!(error, ReadError::Disk { .. }));
            notice::say(format_args!("shard {}: {error}", self.shard()));
            self.damaged.insert(page, now + READ_RETRY_NANOS);
            self.failed_again(page);
        }
        self.loaded.push(PageId(page.id));
    }
}

/// The smallest key after `key`.
fn just_after(key: &[u8]) -> Vec<u8> {
    let mut after = Vec::with_capacity(key.len() + 1);
    after.extend_from_slice(key);
    after.push(0);
    after
}
