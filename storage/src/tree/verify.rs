//! Reading every page of a tree and checking everything, for scrub and `inspect`.
//!
//! Tolerant: damage in one place does not end the walk; what can be read is read. Each page is
//! checked as at entry to the cache, then against what its parent says of it: checksum, key range,
//! number of items, bytes, digest; each item against the digest in its entry.

use forebay_core::digest::Digest;
use forebay_core::ids::ShardId;

use super::page::{self, PageError, PageView};
use super::{ChildRef, PageRef, Totals, TreeRef, Value};
use crate::block::{BlockBuf, DiskError};

/// Something wrong with a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// The device gave no bytes.
    #[error("page {}: {error}", page.id)]
    Unreadable {
        /// Which page.
        page: PageRef,
        /// The device's answer.
        error: DiskError,
    },
    /// The bytes are not the page.
    #[error(transparent)]
    Page(#[from] PageError),
    /// The page's contents sum up to something else than its parent says.
    #[error("page {}: {} items expected, {} found, or their bytes or digest differ", page.id, expected.items, found.items)]
    Totals {
        /// Which page.
        page: PageRef,
        /// What the reference says.
        expected: Totals,
        /// What the page gives.
        found: Totals,
    },
    /// A key outside the range that the page's ancestors give it.
    #[error("page {}: entry {entry} is outside the page's key range", page.id)]
    OutOfRange {
        /// Which page.
        page: PageRef,
        /// Which entry.
        entry: usize,
    },
    /// An item that does not give the digest in its entry.
    #[error("page {}: the item of entry {entry} does not give its digest", page.id)]
    ItemDigest {
        /// Which leaf.
        page: PageRef,
        /// Which entry.
        entry: usize,
    },
}

/// What a walk found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Sum over all readable leaves.
    pub totals: Totals,
    /// Leaves.
    pub leaves: u64,
    /// Interior pages.
    pub interiors: u64,
    /// Overflow extents.
    pub extents: u64,
    /// Blocks of all of them.
    pub blocks: u64,
    /// Bytes in use in tree pages.
    pub used_bytes: u64,
    /// Bytes of tree pages.
    pub page_bytes: u64,
    /// Everything found wrong.
    pub damages: Vec<Damage>,
}

struct Walk<'a, R, V> {
    shard: ShardId,
    read: &'a mut R,
    visit: &'a mut V,
    report: Report,
}

/// Walks `tree`. `read` gives the bytes of an extent; `visit` is told of every reference met, before
/// it is read.
pub fn verify<R, V>(shard: ShardId, tree: &TreeRef, read: &mut R, visit: &mut V) -> Report
where
    R: FnMut(&PageRef) -> Result<BlockBuf, DiskError>,
    V: FnMut(&PageRef),
{
    let mut walk = Walk { shard, read, visit, report: Report::default() };
    if let Some(root) = &tree.root {
        walk.child(root, &[], None);
    }
    walk.report
}

impl<R, V> Walk<'_, R, V>
where
    R: FnMut(&PageRef) -> Result<BlockBuf, DiskError>,
    V: FnMut(&PageRef),
{
    fn page(&mut self, page: &PageRef) -> Option<BlockBuf> {
        (self.visit)(page);
        match (self.read)(page) {
            Err(error) => self.report.damages.push(Damage::Unreadable { page: *page, error }),
            Ok(buf) => match page::validate(&buf, page, self.shard) {
                Err(error) => self.report.damages.push(error.into()),
                Ok(()) => {
                    self.report.blocks += u64::from(page.blocks);
                    return Some(buf);
                }
            },
        }
        None
    }

    /// Levels fall by one from page to page (validated), so the recursion ends.
    fn child(&mut self, child: &ChildRef, lower: &[u8], upper: Option<&[u8]>) {
        let page = &child.page;
        let Some(buf) = self.page(page) else { return };
        let view = PageView::new(&buf);
        self.report.used_bytes += u64::from(view.used_bytes());
        self.report.page_bytes += buf.len() as u64;
        let (expected, found) = (child.totals, view.totals());
        if expected != found {
            self.report.damages.push(Damage::Totals { page: *page, expected, found });
        }
        let last = view.count() - 1;
        for entry in [0, last] {
            let below = view.compare(entry, lower).is_lt();
            if below || upper.is_some_and(|upper| view.compare(entry, upper).is_ge()) {
                self.report.damages.push(Damage::OutOfRange { page: *page, entry });
            }
        }
        if page.level == 0 {
            self.leaf(page, &view);
            return;
        }
        self.report.interiors += 1;
        let (mut low, mut high) = (lower.to_vec(), Vec::new());
        for i in 0..view.count() {
            high.clear();
            let bound = if i < last {
                view.key_into(i + 1, &mut high);
                Some(high.as_slice())
            } else {
                upper
            };
            self.child(&view.child(i), &low, bound);
            std::mem::swap(&mut low, &mut high);
        }
    }

    fn leaf(&mut self, page: &PageRef, view: &PageView<'_>) {
        self.report.leaves += 1;
        self.report.totals.add(&view.totals());
        let mut key = Vec::new();
        for entry in 0..view.count() {
            key.clear();
            view.key_into(entry, &mut key);
            let sound = match view.value(entry) {
                Value::Inline(item) => Digest::of(&key, item).0 == view.digest(entry),
                Value::Overflow(extent) => {
                    let Some(buf) = self.page(&extent.page) else { continue };
                    self.report.extents += 1;
                    let item = page::overflow_item(&buf);
                    item.len() == extent.item_bytes as usize
                        && Digest::of(&key, item).0 == view.digest(entry)
                }
            };
            if !sound {
                self.report.damages.push(Damage::ItemDigest { page: *page, entry });
            }
        }
    }
}
