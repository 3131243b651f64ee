//! Finding one key, and going through a range in either direction.
//!
//! ```text
//!   lookup:   root ─► child ─► … ─► leaf ─► item        any page absent ─► Missing(that page)
//!   cursor:   the same path, kept, so that the next entry is one step away
//! ```
//!
//! Nothing waits here: whoever gets `Missing` has the page read and calls again. A cursor then goes
//! on where it was; if the tree has another root by then (a checkpoint came between), or a page of
//! its path was evicted, it finds its place again by key.

use super::page::{PageView, overflow_item};
use super::{LEVELS_MAX, OverflowRef, PageRef, TreeRef, Value};
use crate::cache::PageCache;
use crate::touch::touch_lines;

/// What a tree says about a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup<'c> {
    /// The item, in the cache's frame.
    Found(&'c [u8]),
    /// The item is in an extent: [`overflow`] looks for it.
    FoundOverflow(OverflowRef),
    /// No item has the key.
    Absent,
    /// Read this page and ask again.
    Missing(PageRef),
}

/// Looks for `key`, stopping at the reference of a big item.
#[must_use]
pub fn lookup<'c>(cache: &'c PageCache, tree: &TreeRef, key: &[u8]) -> Lookup<'c> {
    let Some(root) = &tree.root else { return Lookup::Absent };
    let mut page = root.page;
    loop {
        let Some(bytes) = cache.get(&page) else { return Lookup::Missing(page) };
        let view = PageView::new(bytes);
        if page.level > 0 {
            page = view.child_page(view.child_index(key));
            continue;
        }
        return in_leaf(&view, view.search(key));
    }
}

/// Several keys that are looked for in step; see [`lookup_together`].
pub const TOGETHER_MAX: usize = 16;

/// How much of a page a search looks at first: header and the slots of a page of small items.
const SEARCHED_BYTES: usize = 320;
/// How much of an entry a read looks at: digest, key and a small item.
const ENTRY_BYTES: usize = 192;

/// Looks for each key in its tree, all of them level by level: what the next step of each will read
/// is brought near before any takes that step, so memory is waited for once a step and not once a
/// key. Says of key `i` in `found[i]` what [`lookup`] would say.
pub fn lookup_together<'c>(
    cache: &'c PageCache,
    wanted: &[(&TreeRef, &[u8])],
    found: &mut [Lookup<'c>],
) {
    assert!(wanted.len() <= TOGETHER_MAX && found.len() == wanted.len());
    let mut going = [(0, PageRef::default()); TOGETHER_MAX];
    let mut len = 0;
    for (i, (tree, _)) in wanted.iter().enumerate() {
        found[i] = Lookup::Absent;
        if let Some(root) = &tree.root {
            going[len] = (i, root.page);
            len += 1;
        }
    }
    while len > 0 {
        let mut views = [None; TOGETHER_MAX];
        let mut places = [0; TOGETHER_MAX];
        cache.touch(going[..len].iter().map(|(_, page)| page));
        for (view, (_, page)) in views.iter_mut().zip(&going[..len]) {
            let bytes = cache.get(page);
            touch_lines(bytes.unwrap_or_default(), SEARCHED_BYTES);
            *view = bytes.map(PageView::new);
        }
        for ((place, view), (i, _)) in places.iter_mut().zip(&views[..len]).zip(&going) {
            if let Some(view) = view {
                *place = view.near(wanted[*i].1);
                // In an interior page the child is most often the one before.
                let entry = place.saturating_sub(usize::from(view.level() > 0));
                touch_lines(view.from_entry(entry), ENTRY_BYTES);
            }
        }
        let mut still = 0;
        for at in 0..len {
            let (i, page) = going[at];
            let Some(view) = &views[at] else {
                found[i] = Lookup::Missing(page);
                continue;
            };
            let place = view.resolve(wanted[i].1, places[at]);
            if page.level > 0 {
                going[still] = (i, view.child_page(view.child_at(place)));
                still += 1;
            } else {
                found[i] = in_leaf(view, place);
            }
        }
        len = still;
    }
}

#[inline]
fn in_leaf<'c>(view: &PageView<'c>, place: Result<usize, usize>) -> Lookup<'c> {
    match place {
        Err(_) => Lookup::Absent,
        Ok(i) => match view.value(i) {
            Value::Inline(item) => Lookup::Found(item),
            Value::Overflow(extent) => Lookup::FoundOverflow(extent),
        },
    }
}

/// The item in an extent, if the extent is in the cache.
#[must_use]
pub fn overflow<'c>(cache: &'c PageCache, extent: &OverflowRef) -> Option<&'c [u8]> {
    cache.get(&extent.page).map(overflow_item)
}

/// Which way a cursor goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Ascending keys.
    Forward,
    /// Descending keys.
    Backward,
}

/// One step of a cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<'k, 'c> {
    /// The next entry.
    Entry {
        /// Its key; valid until the next step.
        key: &'k [u8],
        /// Its item.
        value: Value<'c>,
    },
    /// Read this page (and perhaps [`Cursor::read_ahead`]'s) and step again.
    Missing(PageRef),
    /// The range is exhausted.
    End,
}

/// A place in a range of keys. It holds no page and no reference to the cache; its buffers are
/// reused by [`Cursor::set`].
///
/// Invariant: while `positioned`, `path` leads from the root to the leaf, and the leaf's index is
/// the number of its entries before the cursor.
#[derive(Debug)]
pub struct Cursor {
    direction: Direction,
    /// Inclusive.
    lower: Vec<u8>,
    /// Exclusive.
    upper: Option<Vec<u8>>,
    /// The last entry's key.
    key: Vec<u8>,
    /// An entry was yielded since the bounds were set.
    started: bool,
    positioned: bool,
    path: Vec<(PageRef, usize)>,
}

impl Cursor {
    /// A cursor over the keys from `lower` (inclusive) to `upper` (exclusive; None: to the end).
    #[must_use]
    pub fn new(lower: &[u8], upper: Option<&[u8]>, direction: Direction) -> Cursor {
        let path = Vec::with_capacity(LEVELS_MAX);
        let (key, started) = (Vec::new(), false);
        let (lower, upper) = (lower.to_vec(), upper.map(<[u8]>::to_vec));
        Cursor { direction, lower, upper, key, started, positioned: false, path }
    }

    /// Starts over with other bounds, reusing the buffers.
    pub fn set(&mut self, lower: &[u8], upper: Option<&[u8]>, direction: Direction) {
        self.direction = direction;
        self.lower.clear();
        self.lower.extend_from_slice(lower);
        match (&mut self.upper, upper) {
            (Some(buf), Some(upper)) => {
                buf.clear();
                buf.extend_from_slice(upper);
            }
            (buf, upper) => *buf = upper.map(<[u8]>::to_vec),
        }
        self.started = false;
        self.positioned = false;
        self.path.clear();
    }

    /// The next entry of the range in `tree`.
    pub fn next<'k, 'c>(&'k mut self, cache: &'c PageCache, tree: &TreeRef) -> Step<'k, 'c> {
        let Some(root) = &tree.root else { return Step::End };
        if self.positioned && self.path.first().is_some_and(|(page, _)| *page != root.page) {
            self.positioned = false;
        }
        if !self.positioned
            && let Err(missing) = self.seek(cache, root.page)
        {
            return Step::Missing(missing);
        }
        loop {
            let (page, index) = *self.path.last().expect("a positioned cursor has a leaf");
            let Some(bytes) = cache.get(&page) else {
                self.positioned = false;
                return Step::Missing(page);
            };
            let view = PageView::new(bytes);
            let entry = match self.direction {
                Direction::Forward => (index < view.count()).then_some(index),
                Direction::Backward => index.checked_sub(1),
            };
            let Some(entry) = entry else {
                match self.next_leaf(cache) {
                    Ok(true) => continue,
                    Ok(false) => return Step::End,
                    Err(missing) => return Step::Missing(missing),
                }
            };
            let outside = match self.direction {
                Direction::Forward => {
                    self.upper.as_deref().is_some_and(|upper| view.compare(entry, upper).is_ge())
                }
                Direction::Backward => view.compare(entry, &self.lower).is_lt(),
            };
            if outside {
                return Step::End;
            }
            let place = self.path.last_mut().expect("looked at above");
            place.1 = if self.direction == Direction::Forward { index + 1 } else { entry };
            self.key.clear();
            view.key_into(entry, &mut self.key);
            self.started = true;
            return Step::Entry { key: &self.key, value: view.value(entry) };
        }
    }

    /// Finds the place of the first entry not yet yielded.
    fn seek(&mut self, cache: &PageCache, root: PageRef) -> Result<(), PageRef> {
        if self.started {
            match self.direction {
                // The smallest key after the last one.
                Direction::Forward => {
                    self.lower.clone_from(&self.key);
                    self.lower.push(0);
                }
                Direction::Backward => {
                    let upper = self.upper.get_or_insert_with(Vec::new);
                    upper.clone_from(&self.key);
                }
            }
            self.started = false;
        }
        self.path.clear();
        let target = match self.direction {
            Direction::Forward => Some(self.lower.as_slice()),
            Direction::Backward => self.upper.as_deref(),
        };
        let mut page = root;
        loop {
            let view = PageView::new(cache.get(&page).ok_or(page)?);
            if page.level == 0 {
                let index = target.map_or(view.count(), |key| match view.search(key) {
                    Ok(i) | Err(i) => i,
                });
                self.path.push((page, index));
                self.positioned = true;
                return Ok(());
            }
            let index = target.map_or(view.count() - 1, |key| view.child_index(key));
            self.path.push((page, index));
            page = view.child_page(index);
        }
    }

    /// Goes to the next leaf in the cursor's direction; false if there is none.
    fn next_leaf(&mut self, cache: &PageCache) -> Result<bool, PageRef> {
        // Up to the first page that has another child on this side ...
        let mut depth = self.path.len() - 1;
        let mut page = loop {
            if depth == 0 {
                return Ok(false);
            }
            depth -= 1;
            let (page, index) = self.path[depth];
            let Some(bytes) = cache.get(&page) else {
                self.positioned = false;
                return Err(page);
            };
            let view = PageView::new(bytes);
            let next = match self.direction {
                Direction::Forward => (index + 1 < view.count()).then_some(index + 1),
                Direction::Backward => index.checked_sub(1),
            };
            if let Some(next) = next {
                // Past the range's end there is nothing to read.
                if self.direction == Direction::Forward
                    && self.upper.as_deref().is_some_and(|key| view.compare(next, key).is_ge())
                {
                    return Ok(false);
                }
                if self.direction == Direction::Backward && view.compare(index, &self.lower).is_le()
                {
                    return Ok(false);
                }
                self.path.truncate(depth);
                self.path.push((page, next));
                break view.child_page(next);
            }
        };
        // ... and down its near edge.
        loop {
            let Some(bytes) = cache.get(&page) else {
                // Found again by key: the leaf that was left is behind.
                self.positioned = false;
                return Err(page);
            };
            let view = PageView::new(bytes);
            let forward = self.direction == Direction::Forward;
            if page.level == 0 {
                self.path.push((page, if forward { 0 } else { view.count() }));
                return Ok(true);
            }
            let index = if forward { 0 } else { view.count() - 1 };
            self.path.push((page, index));
            page = view.child_page(index);
        }
    }

    /// After `Missing`: up to `max` absent siblings that the cursor will come to next.
    pub fn read_ahead(&self, cache: &PageCache, max: usize, out: &mut Vec<PageRef>) {
        let Some((page, index)) = self.path.last() else { return };
        let Some(bytes) = cache.get(page).filter(|_| page.level > 0) else { return };
        let view = PageView::new(bytes);
        for distance in 1..=max {
            let (sibling, within) = match self.direction {
                Direction::Forward if index + distance < view.count() => {
                    let sibling = index + distance;
                    let upper = self.upper.as_deref();
                    (sibling, upper.is_none_or(|key| view.compare(sibling, key).is_lt()))
                }
                Direction::Backward if *index >= distance => {
                    let sibling = index - distance;
                    (sibling, view.compare(sibling + 1, &self.lower).is_gt())
                }
                _ => return,
            };
            if !within {
                return;
            }
            let sibling = view.child_page(sibling);
            if !cache.expects(&sibling) {
                out.push(sibling);
            }
        }
    }
}
