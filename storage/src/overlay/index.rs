//! The order of a generation's keys: a B+-tree in memory over references into the arena, to the first
//! entry of each key.
//!
//! ```text
//!   leaf    hints   | group,hash | group,hash | ...          64 × u64, searched alone
//!           entries | ref        | ref        | ...          64 × u32
//!           prev, next leaf
//!   inner   the same for separators, and 65 children
//! ```
//!
//! A hint is the group (upper half) and the first four bytes of the key, big-endian: the upper half
//! of the partition key's 64-bit hash. Hints order as their keys do, so a search compares words
//! within one array and touches an entry's bytes only where hints are equal: once for a hit, rarely
//! for a miss. Sort keys of one partition key share a hint; among them the key bytes decide.
//!
//! Nodes refer to each other by number and live in two vectors whose room is reserved at the start
//! (address space, not memory, until used), so growing never copies and clearing is free.
//! Separators are references too: they stay readable because no entry's bytes go before the whole
//! generation.
//!
//! Invariants: hints ascend within a node and along the leaves; every child's keys are at least the
//! separator before it and below the one after it; a leaf is at least half full when a split makes
//! it. Left out: merging of nodes. Entries leave only with their whole group, which may leave empty
//! leaves behind for the rest of the generation; walks skip them.
//!
//! Source: B+-trees as in Comer, "The Ubiquitous B-Tree" (1979), section 2; key prefixes beside the
//! pointers as in Graefe and Larson, "B-Tree Indexes and CPU Caches" (ICDE 2001), section 4.

use std::cmp::Ordering;
use std::ops::Bound;

use super::arena::{Arena, Staged};
use crate::touch::touch;

/// Entries of a leaf and separators of an inner node. Measured at 100k entries with 26-byte keys,
/// best of several runs: looking up an absent key costs 48 ns with 64, 58 with 32 and 74 with 16.
const NODE_ENTRIES: usize = 64;
/// Entries of a leaf, or children of an inner node, after a split.
pub(super) const NODE_ENTRIES_MIN: usize = NODE_ENTRIES / 2;
/// Levels above the leaves: far more than 2^32 entries at the least fanout need.
const HEIGHT_MAX: usize = 10;
const NONE: u32 = u32::MAX;

pub(super) const LEAF_BYTES: usize = size_of::<Leaf>();
pub(super) const INNER_BYTES: usize = size_of::<Inner>();

/// A place in the order, and its hint.
#[derive(Clone, Copy)]
pub(super) struct Probe<'a> {
    pub(super) group: u32,
    pub(super) key: &'a [u8],
    hint: u64,
}

impl<'a> Probe<'a> {
    #[inline]
    pub(super) fn new(group: u32, key: &'a [u8]) -> Probe<'a> {
        let head = match key.first_chunk() {
            Some(head) => u32::from_be_bytes(*head),
            // Zeros after a short key keep the order: equal hints are resolved by the bytes.
            None => {
                let mut head = [0; 4];
                head[..key.len()].copy_from_slice(key);
                u32::from_be_bytes(head)
            }
        };
        Probe { group, key, hint: u64::from(group) << 32 | u64::from(head) }
    }
}

/// An entry's place, or the end. Valid until the index changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    leaf: u32,
    index: u32,
}

impl Position {
    const END: Position = Position { leaf: NONE, index: 0 };
}

/// The entries from `front` to before `back`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) front: Position,
    pub(super) back: Position,
}

#[derive(Clone)]
struct Leaf {
    hints: [u64; NODE_ENTRIES],
    entries: [Staged; NODE_ENTRIES],
    len: u32,
    next: u32,
    prev: u32,
}

#[derive(Clone)]
struct Inner {
    hints: [u64; NODE_ENTRIES],
    separators: [Staged; NODE_ENTRIES],
    children: [u32; NODE_ENTRIES + 1],
    /// Separators in use; there is one child more.
    len: u32,
}

/// The group of a hint.
pub(super) fn group_of(hint: u64) -> u32 {
    (hint >> 32) as u32
}

pub(super) struct Index {
    leaves: Vec<Leaf>,
    inners: Vec<Inner>,
    root: u32,
    /// Levels of inner nodes; 0 means that the root is a leaf.
    height: usize,
    last_leaf: u32,
    len: usize,
    /// Counts removals: after one, positions are void.
    removals: u64,
}

impl Index {
    /// An empty index with room for this many entries.
    pub(super) fn with_capacity(entries: usize) -> Index {
        let leaves = entries / NODE_ENTRIES_MIN + 1;
        let mut index = Index {
            leaves: Vec::with_capacity(leaves),
            inners: Vec::with_capacity(leaves / (NODE_ENTRIES_MIN - 1) + HEIGHT_MAX),
            root: 0,
            height: 0,
            last_leaf: 0,
            len: 0,
            removals: 0,
        };
        index.clear();
        index
    }

    /// Removes everything and keeps the room.
    pub(super) fn clear(&mut self) {
        self.leaves.clear();
        self.inners.clear();
        self.leaves.push(Leaf {
            hints: [0; NODE_ENTRIES],
            entries: [Staged::NONE; NODE_ENTRIES],
            len: 0,
            next: NONE,
            prev: NONE,
        });
        self.root = 0;
        self.height = 0;
        self.last_leaf = 0;
        self.len = 0;
        self.removals += 1;
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn removals(&self) -> u64 {
        self.removals
    }

    /// Brings near the leaf into which an entry will be inserted.
    #[inline]
    pub(super) fn touch(&self, arena: &Arena, entry: Staged) {
        let leaf = &self.leaves[self.leaf_of(arena, &arena.probe(entry)) as usize];
        leaf.hints.iter().step_by(8).for_each(touch);
        leaf.entries.iter().step_by(16).for_each(touch);
    }

    #[inline]
    fn leaf_of(&self, arena: &Arena, probe: &Probe<'_>) -> u32 {
        let mut node = self.root;
        for _ in 0..self.height {
            let inner = &self.inners[node as usize];
            node = inner.children[inner.child_of(arena, probe)];
        }
        node
    }

    /// Inserts an entry of a key that is not there yet.
    pub(super) fn insert(&mut self, arena: &Arena, entry: Staged) {
        let probe = arena.probe(entry);
        let mut path = [(NONE, 0); HEIGHT_MAX];
        let mut node = self.root;
        for step in &mut path[..self.height] {
            let inner = &self.inners[node as usize];
            let child = inner.child_of(arena, &probe);
            *step = (node, child);
            node = inner.children[child];
        }
        let leaf = &mut self.leaves[node as usize];
        let (hints, entries) = leaf.used();
        let at = below(arena, hints, entries, &probe, false);
        debug_assert!(entries.get(at).is_none_or(|&other| arena.compare(other, &probe).is_ne()));
        self.len += 1;
        if (leaf.len as usize) < NODE_ENTRIES {
            leaf.insert(at, probe.hint, entry);
        } else {
            self.insert_splitting(node, at, probe.hint, entry, &path);
        }
    }

    fn insert_splitting(
        &mut self,
        left: u32,
        at: usize,
        hint: u64,
        entry: Staged,
        path: &[(u32, usize); HEIGHT_MAX],
    ) {
        let right = self.leaves.len() as u32;
        let node = &mut self.leaves[left as usize];
        let mut sibling = node.split_off();
        if at <= NODE_ENTRIES_MIN {
            node.insert(at, hint, entry);
        } else {
            sibling.insert(at - NODE_ENTRIES_MIN, hint, entry);
        }
        sibling.prev = left;
        sibling.next = std::mem::replace(&mut node.next, right);
        let next = sibling.next;
        let mut hint = sibling.hints[0];
        let mut separator = sibling.entries[0];
        self.leaves.push(sibling);
        if next == NONE {
            self.last_leaf = right;
        } else {
            self.leaves[next as usize].prev = right;
        }

        let mut child = right;
        for &(parent, at) in path[..self.height].iter().rev() {
            let sibling_number = self.inners.len() as u32;
            let node = &mut self.inners[parent as usize];
            if (node.len as usize) < NODE_ENTRIES {
                node.insert(at, hint, separator, child);
                return;
            }
            let (up_hint, up, mut sibling) = node.split_off();
            if at <= NODE_ENTRIES_MIN {
                node.insert(at, hint, separator, child);
            } else {
                sibling.insert(at - NODE_ENTRIES_MIN - 1, hint, separator, child);
            }
            self.inners.push(sibling);
            (hint, separator, child) = (up_hint, up, sibling_number);
        }

        let mut root = Inner {
            hints: [0; NODE_ENTRIES],
            separators: [Staged::NONE; NODE_ENTRIES],
            children: [NONE; NODE_ENTRIES + 1],
            len: 0,
        };
        root.children[0] = self.root;
        root.insert(0, hint, separator, child);
        self.root = self.inners.len() as u32;
        self.inners.push(root);
        self.height += 1;
        assert!(self.height <= HEIGHT_MAX);
    }

    /// Removes a group's entries, and names each.
    pub(super) fn remove_group(
        &mut self,
        arena: &Arena,
        group: u32,
        mut removes: impl FnMut(Staged),
    ) {
        let mut number = self.leaf_of(arena, &Probe::new(group, &[]));
        let mut removed = 0;
        while number != NONE {
            let leaf = &mut self.leaves[number as usize];
            let (hints, entries) = leaf.used();
            let from = hints.partition_point(|hint| (hint >> 32) < u64::from(group));
            let to = hints.partition_point(|hint| (hint >> 32) <= u64::from(group));
            let passed = to < hints.len();
            entries[from..to].iter().for_each(|&entry| removes(entry));
            leaf.remove(from, to);
            removed += to - from;
            if passed {
                break;
            }
            number = leaf.next;
        }
        self.len -= removed;
        self.removals += u64::from(removed > 0);
    }

    /// The first entry not below the probe, or the first above it.
    pub(super) fn seek(&self, arena: &Arena, probe: &Probe<'_>, above: bool) -> Position {
        let number = self.leaf_of(arena, probe);
        let (hints, entries) = self.leaves[number as usize].used();
        let index = below(arena, hints, entries, probe, above) as u32;
        self.settle(Position { leaf: number, index })
    }

    /// Moves a position past the end of its leaf to the next entry.
    fn settle(&self, mut at: Position) -> Position {
        while at.leaf != NONE && at.index == self.leaves[at.leaf as usize].len {
            at = Position { leaf: self.leaves[at.leaf as usize].next, index: 0 };
        }
        at
    }

    pub(super) fn entry(&self, at: Position) -> Option<(u64, Staged)> {
        let (hints, entries) = self.leaves.get(at.leaf as usize)?.used();
        Some((hints[at.index as usize], entries[at.index as usize]))
    }

    /// At each `n`th place of a leaf, the entry there and those up to the next such place.
    #[inline]
    pub(super) fn every(&self, n: usize, at: Position) -> Option<&[Staged]> {
        let (_, entries) = self.leaves.get(at.leaf as usize)?.used();
        let from = at.index as usize;
        from.is_multiple_of(n).then(|| &entries[from..entries.len().min(from + n)])
    }

    pub(super) fn after(&self, at: Position) -> Position {
        self.settle(Position { index: at.index + 1, ..at })
    }

    /// The position before `at`, which must not be the first.
    fn before(&self, mut at: Position) -> Position {
        if at.leaf == NONE {
            at = Position { leaf: self.last_leaf, index: self.leaves[self.last_leaf as usize].len };
        }
        while at.index == 0 {
            let leaf = self.leaves[at.leaf as usize].prev;
            at = Position { leaf, index: self.leaves[leaf as usize].len };
        }
        Position { index: at.index - 1, ..at }
    }

    /// The entries of one group between two keys.
    pub(super) fn span(
        &self,
        arena: &Arena,
        group: u32,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
    ) -> Span {
        let empty = match (from, to) {
            (Bound::Included(from), Bound::Included(to)) => from > to,
            (
                Bound::Included(from) | Bound::Excluded(from),
                Bound::Included(to) | Bound::Excluded(to),
            ) => from >= to,
            _ => false,
        };
        if empty || self.len == 0 {
            return Span { front: Position::END, back: Position::END };
        }
        let front = match from {
            Bound::Included(key) => self.seek(arena, &Probe::new(group, key), false),
            Bound::Excluded(key) => self.seek(arena, &Probe::new(group, key), true),
            Bound::Unbounded => self.seek(arena, &Probe::new(group, &[]), false),
        };
        let back = match to {
            Bound::Included(key) => self.seek(arena, &Probe::new(group, key), true),
            Bound::Excluded(key) => self.seek(arena, &Probe::new(group, key), false),
            Bound::Unbounded => match group.checked_add(1) {
                Some(next) => self.seek(arena, &Probe::new(next, &[]), false),
                None => Position::END,
            },
        };
        Span { front, back }
    }

    pub(super) fn group_from(&self, arena: &Arena, group: u32) -> Option<u32> {
        let at = self.seek(arena, &Probe::new(group, &[]), false);
        self.entry(at).map(|(hint, _)| group_of(hint))
    }

    /// Takes the first entry of the span, or the last.
    pub(super) fn take(&self, span: &mut Span, from_back: bool) -> Option<(u64, Staged)> {
        if span.front == span.back {
            return None;
        }
        if from_back {
            span.back = self.before(span.back);
            self.entry(span.back)
        } else {
            let at = span.front;
            span.front = self.after(at);
            self.entry(at)
        }
    }

    /// Checks the invariants above.
    #[cfg(test)]
    pub(super) fn check(&self, arena: &Arena) {
        fn walk(
            index: &Index,
            arena: &Arena,
            node: u32,
            level: usize,
            low: Option<Staged>,
            high: Option<Staged>,
            leaves: &mut Vec<u32>,
        ) {
            let within = |entry: Staged| {
                low.is_none_or(|low| arena.compare(entry, &arena.probe(low)) != Ordering::Less)
                    && high.is_none_or(|high| {
                        arena.compare(entry, &arena.probe(high)) == Ordering::Less
                    })
            };
            let (hints, entries) = if level == 0 {
                leaves.push(node);
                index.leaves[node as usize].used()
            } else {
                let inner = &index.inners[node as usize];
                let (hints, separators) = inner.used();
                assert!(inner.len >= 1);
                for (i, &child) in inner.children[..=separators.len()].iter().enumerate() {
                    let low = if i == 0 { low } else { Some(separators[i - 1]) };
                    let high = separators.get(i).copied().or(high);
                    walk(index, arena, child, level - 1, low, high, leaves);
                }
                (hints, separators)
            };
            assert!(entries.iter().all(|&entry| within(entry)));
            assert!(entries.iter().zip(hints).all(|(&e, &hint)| arena.probe(e).hint == hint));
            assert!(
                entries
                    .windows(2)
                    .all(|w| arena.compare(w[0], &arena.probe(w[1])) == Ordering::Less)
            );
        }
        let mut leaves = Vec::new();
        walk(self, arena, self.root, self.height, None, None, &mut leaves);
        assert_eq!(leaves.len(), self.leaves.len());
        let mut chained = Vec::new();
        let (mut prev, mut at) = (NONE, leaves[0]);
        while at != NONE {
            assert_eq!(self.leaves[at as usize].prev, prev);
            chained.push(at);
            (prev, at) = (at, self.leaves[at as usize].next);
        }
        assert_eq!(chained, leaves);
        assert_eq!(prev, self.last_leaf);
        assert_eq!(self.leaves.iter().map(|leaf| leaf.len as usize).sum::<usize>(), self.len);
    }

    /// Memory of the nodes in use.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.leaves.len() * LEAF_BYTES + self.inners.len() * INNER_BYTES
    }
}

/// How many of a node's keys are below the probe, or not above it if `equal_too`.
#[inline]
fn below(
    arena: &Arena,
    hints: &[u64],
    entries: &[Staged],
    probe: &Probe<'_>,
    equal_too: bool,
) -> usize {
    let from = hints.partition_point(|&hint| hint < probe.hint);
    if from == hints.len() || hints[from] != probe.hint {
        return from;
    }
    let alike = hints[from..].partition_point(|&hint| hint == probe.hint);
    from + entries[from..from + alike].partition_point(|&entry| match arena.compare(entry, probe) {
        Ordering::Less => true,
        Ordering::Equal => equal_too,
        Ordering::Greater => false,
    })
}

impl Leaf {
    #[inline]
    fn used(&self) -> (&[u64], &[Staged]) {
        let len = self.len as usize;
        (&self.hints[..len], &self.entries[..len])
    }

    fn insert(&mut self, at: usize, hint: u64, entry: Staged) {
        let len = self.len as usize;
        self.hints.copy_within(at..len, at + 1);
        self.entries.copy_within(at..len, at + 1);
        self.hints[at] = hint;
        self.entries[at] = entry;
        self.len += 1;
    }

    fn remove(&mut self, from: usize, to: usize) {
        let len = self.len as usize;
        self.hints.copy_within(to..len, from);
        self.entries.copy_within(to..len, from);
        self.len -= (to - from) as u32;
    }

    /// Moves the upper half into a new leaf; the caller links it.
    fn split_off(&mut self) -> Leaf {
        debug_assert_eq!(self.len as usize, NODE_ENTRIES);
        let mut upper = self.clone();
        upper.hints.copy_within(NODE_ENTRIES_MIN.., 0);
        upper.entries.copy_within(NODE_ENTRIES_MIN.., 0);
        upper.len = (NODE_ENTRIES - NODE_ENTRIES_MIN) as u32;
        self.len = NODE_ENTRIES_MIN as u32;
        upper
    }
}

impl Inner {
    #[inline]
    fn used(&self) -> (&[u64], &[Staged]) {
        let len = self.len as usize;
        (&self.hints[..len], &self.separators[..len])
    }

    #[inline]
    fn child_of(&self, arena: &Arena, probe: &Probe<'_>) -> usize {
        let (hints, separators) = self.used();
        below(arena, hints, separators, probe, true)
    }

    /// Puts a separator at `at` and the child above it right after.
    fn insert(&mut self, at: usize, hint: u64, separator: Staged, child: u32) {
        let len = self.len as usize;
        self.hints.copy_within(at..len, at + 1);
        self.separators.copy_within(at..len, at + 1);
        self.children.copy_within(at + 1..len + 1, at + 2);
        self.hints[at] = hint;
        self.separators[at] = separator;
        self.children[at + 1] = child;
        self.len += 1;
    }

    /// Moves what is above the middle separator into a new node; the middle one goes up.
    fn split_off(&mut self) -> (u64, Staged, Inner) {
        debug_assert_eq!(self.len as usize, NODE_ENTRIES);
        let middle = NODE_ENTRIES_MIN;
        let mut upper = self.clone();
        upper.hints.copy_within(middle + 1.., 0);
        upper.separators.copy_within(middle + 1.., 0);
        upper.children.copy_within(middle + 1.., 0);
        upper.len = (NODE_ENTRIES - middle - 1) as u32;
        self.len = middle as u32;
        (self.hints[middle], self.separators[middle], upper)
    }
}
