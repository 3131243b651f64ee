//! The B-tree: one per partition, copy-on-write, in the shard's `pages` file.
//!
//! ```text
//!   TreeRef ─► interior ─┬─► interior ─┬─► leaf  (key, item) (key, item) …
//!   (in the              │             └─► leaf  (key, ─┐)
//!    catalog)            └─► …                          └─► overflow extent (a big item)
//! ```
//!
//! A tree never changes: a merge ([`merge`]) reads the old one and a sorted stream of changes and
//! writes a new one that shares every untouched page. Whoever holds a [`TreeRef`] therefore holds a
//! whole, consistent state, for as long as the pages are not reused (see [`crate::space`]).
//!
//! Every reference to a page ([`PageRef`]) carries the page's checksum, and every child reference
//! ([`ChildRef`]) also the number of items below it, their bytes, and the content digest, so a tree
//! verifies from its root ([`verify`]), two replicas compare in one step, and half of a key range
//! can be measured for a split without reading the leaves.
//!
//! Code here is synchronous over [`crate::cache::PageCache`]: what needs an absent page says which
//! one, the shard reads it, and the call is made again.
//!
//! | part | idea |
//! |---|---|
//! | [`page`] | bytes of a page; validation when it enters the cache |
//! | [`walk`] | one key, or a range in either direction |
//! | [`merge`] | a sorted stream of changes into a new tree |
//! | [`verify`] | read every page and check everything |
//!
//! Invariants: keys ascend strictly through the leaves; every leaf but one reached without any key
//! is non-empty; all leaves are at level 0; only the rightmost page of a level may be underfull.
//! Left out: in-place updates (copy-on-write makes them needless) and fence keys on pages (a page's
//! bounds are its parent's separators, and its checksum stands there too). Leaves of 8 or 16 KiB: the
//! format has them (a reference gives a page's blocks, and leaves of the longest keys are two or four
//! blocks), but what fills pages (`build`) goes by one block, and the cache keeps longer pages
//! outside its arena, so whether they pay has not been measured.
//!
//! Sources: prefix and suffix truncation from Bayer and Unterauer, "Prefix B-trees" (TODS 1977);
//! hash hints in the slot array from Graefe and Larson, "B-tree indexes and CPU caches" (ICDE 2001),
//! and LeanStore's "heads"; copy-on-write with child checksums from ZFS and Rodeh, "B-trees,
//! shadowing, and clones" (ACM TOS 2008).

pub(crate) mod build;
pub mod merge;
pub mod page;
mod place;
pub mod verify;
pub mod walk;

#[cfg(test)]
mod tests;

/// Levels that a tree may have. Long keys give a fan-out of at least 3, ordinary ones about 50, so
/// no file is large enough to need more.
pub const LEVELS_MAX: usize = 32;

/// [`PageRef::level`] of an overflow extent.
pub const LEVEL_OVERFLOW: u8 = 0xff;

/// Where a page is and what it must look like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PageRef {
    /// First block in the `pages` file.
    pub id: u64,
    /// Checksum that the page must have.
    pub crc: u32,
    /// Length of the extent.
    pub blocks: u16,
    /// 0 for a leaf, one more than the children for an interior page, [`LEVEL_OVERFLOW`].
    pub level: u8,
}

/// What a subtree holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Items.
    pub items: u64,
    /// Bytes of their keys and items.
    pub bytes: u64,
    /// Sum of their [`Digest`](forebay_core::digest::Digest)s.
    pub digest: u128,
}

impl Totals {
    /// Of a single item.
    #[must_use]
    pub fn of(key: &[u8], item_bytes: u64, digest: u128) -> Totals {
        Totals { items: 1, bytes: key.len() as u64 + item_bytes, digest }
    }

    /// Adds another part of the same tree.
    pub fn add(&mut self, other: &Totals) {
        // Sums of damaged references may wrap; they then differ from what the parent says.
        self.items = self.items.wrapping_add(other.items);
        self.bytes = self.bytes.wrapping_add(other.bytes);
        self.digest = self.digest.wrapping_add(other.digest);
    }
}

/// A page with what its subtree holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChildRef {
    /// The page.
    pub page: PageRef,
    /// What is below it.
    pub totals: Totals,
}

/// A whole tree; the empty one has no page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TreeRef {
    /// The root page, unless the tree is empty.
    pub root: Option<ChildRef>,
}

impl TreeRef {
    /// The tree without items.
    pub const EMPTY: TreeRef = TreeRef { root: None };

    /// What the tree holds.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.root.map_or_else(Totals::default, |root| root.totals)
    }

    /// As stored in the catalog and the superblock.
    #[must_use]
    pub fn encode(&self) -> [u8; page::CHILD_BYTES] {
        self.root.map_or([0; page::CHILD_BYTES], |root| page::encode_child(&root))
    }

    /// Reads [`TreeRef::encode`]'s bytes; None if they are not such.
    #[must_use]
    pub fn decode(bytes: &[u8; page::CHILD_BYTES]) -> Option<TreeRef> {
        if bytes == &[0; page::CHILD_BYTES] {
            return Some(TreeRef::EMPTY);
        }
        page::decode_child(bytes).map(|root| TreeRef { root: Some(root) })
    }
}

/// A big item's extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverflowRef {
    /// The extent.
    pub page: PageRef,
    /// Bytes of the item.
    pub item_bytes: u32,
}

/// A leaf entry's item: in the page, or in an extent of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// The item's bytes.
    Inline(&'a [u8]),
    /// Where they are.
    Overflow(OverflowRef),
}

impl Value<'_> {
    /// Bytes of the item.
    #[must_use]
    pub fn item_bytes(&self) -> u64 {
        match self {
            Value::Inline(item) => item.len() as u64,
            Value::Overflow(extent) => u64::from(extent.item_bytes),
        }
    }
}
