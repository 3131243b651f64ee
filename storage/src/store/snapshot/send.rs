//! The source: a durable checkpoint's tree of one group, pinned and read in parts.
//!
//! ```text
//!   pin ─► hold(checkpoint n) ─► read ─► read ─► … ─► release
//!                                 └─ nobody read for PIN_NANOS_MAX, the disk is full, the group
//!                                    is dropped: released by force; the reader learns with its next read
//! ```
//!
//! A read names the key after which the part begins, so nothing is remembered between parts but the
//! pin. Within a part, what was gathered stays while a page is on its way from the disk; a call does
//! at most [`SLICE_ENTRIES`] or [`SLICE_BYTES`], so that no turn of the shard is long.

use forebay_core::ids::Slot;
use forebay_core::message::peer::SnapshotHead;
use forebay_core::message::peer::snapshot::{PART_BYTES, push_entry};
use forebay_core::time::Nanos;

use super::super::{GroupOrdinal, Store, Work};
use super::digest_of;
use crate::tree::walk::{self, Cursor, Direction, Step};
use crate::tree::{PageRef, TreeRef, Value};

/// Pins at a time: each keeps pages from reuse.
const PINS_MAX: usize = 4;
/// A pin that nobody reads by is released after this.
const PIN_NANOS_MAX: u64 = 10 * Nanos::PER_SECOND;
/// Entries gathered in one call.
const SLICE_ENTRIES: usize = 512;
/// Bytes gathered in one call, about.
const SLICE_BYTES: usize = 64 << 10;
/// Pages fetched ahead.
const READ_AHEAD_PAGES: usize = 8;

/// Names a pinned snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SnapshotPin(u64);

/// Why nothing was pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotPinned {
    /// The durable checkpoint is not that far yet; one was asked for. Ask again in a while.
    #[error("the durable checkpoint contains slot {checkpoint_slot}")]
    Behind {
        /// What it contains.
        checkpoint_slot: Slot,
    },
    /// This member keeps no state. Ask another.
    #[error("a log replica has no snapshots")]
    NoState,
    /// Enough are pinned, or the disk is full. Ask again in a while.
    #[error("no further snapshot can be pinned now")]
    Busy,
}

/// What a read came to.
#[derive(Debug)]
pub enum SnapshotRead<'a> {
    /// The part: entries as [`forebay_core::message::peer::snapshot`] describes them.
    Part {
        /// Its entries, ascending.
        entries: &'a [u8],
        /// Nothing comes after it.
        last: bool,
    },
    /// Pages are on their way, or the slice is used up: ask again in the next turn.
    NotYet {
        /// There is something to do without waiting.
        run_again: bool,
    },
    /// A page is damaged here. Ask another source.
    Damaged,
    /// The pin is not held any more. Begin anew.
    Gone,
}

#[derive(Debug)]
struct Building {
    after: Vec<u8>,
    cursor: Cursor,
    entries: Vec<u8>,
    done: Option<bool>,
}

#[derive(Debug)]
pub(super) struct Pin {
    pub(super) id: SnapshotPin,
    pub(super) group: GroupOrdinal,
    checkpoint: u64,
    tree: TreeRef,
    read_at: Nanos,
    building: Option<Building>,
}

impl Store {
    /// Keeps the group's tree in the newest durable checkpoint for reading, if that contains
    /// `at_least` (and anything at all).
    ///
    /// # Errors
    /// Nothing was pinned; see [`NotPinned`].
    pub fn pin_snapshot(
        &mut self,
        group: GroupOrdinal,
        at_least: Slot,
        now: Nanos,
    ) -> Result<(SnapshotPin, SnapshotHead), NotPinned> {
        let state = self.groups.get(group);
        let member = state.member.as_deref().filter(|member| member.keeps_state());
        // A damaged state is nobody's source.
        let member = member.filter(|member| !state.dropped && !member.stopped);
        let member = member.ok_or(NotPinned::NoState)?;
        let slot = state.checkpoint_slot;
        if self.failure.is_some() || self.closing {
            return Err(NotPinned::Busy);
        }
        // A checkpoint that is told to the shell only now may be of another tree.
        if slot < at_least.max(Slot(1)) || slot > member.applied() {
            self.checkpoint.want();
            return Err(NotPinned::Behind { checkpoint_slot: slot });
        }
        if self.snapshots.pins.len() >= PINS_MAX || self.is_disk_full() {
            return Err(NotPinned::Busy);
        }
        let Some(configuration) = member.configuration_after(slot) else {
            return Err(NotPinned::NoState);
        };
        let (tree, checkpoint) = (state.checkpoint_tree, self.superblock.checkpoint);
        let totals = tree.totals();
        let head = SnapshotHead {
            slot,
            configuration,
            items: totals.items,
            bytes: totals.bytes,
            digest: digest_of(&totals),
        };
        self.space.hold(checkpoint);
        self.snapshots.pins_issued += 1;
        let id = SnapshotPin(self.snapshots.pins_issued);
        let pin = Pin { id, group, checkpoint, tree, read_at: now, building: None };
        self.snapshots.pins.push(pin);
        Ok((id, head))
    }

    /// Ends a pin, if it is still held.
    pub fn release_snapshot(&mut self, id: SnapshotPin) {
        let at = self.snapshots.pins.iter().position(|pin| pin.id == id);
        if let Some(at) = at {
            let pin = self.snapshots.pins.swap_remove(at);
            self.space.release(pin.checkpoint);
        }
    }

    /// Whether a snapshot of the group is being read here.
    #[must_use]
    pub fn is_pinned_for_snapshot(&self, group: GroupOrdinal) -> bool {
        self.snapshots.pins.iter().any(|pin| pin.group == group)
    }

    /// The part of a pinned snapshot that begins after this key; with the empty key, the first. See
    /// the module's docs.
    pub fn read_snapshot(&mut self, id: SnapshotPin, after: &[u8], now: Nanos) -> SnapshotRead<'_> {
        let Some(at) = self.snapshots.pins.iter().position(|pin| pin.id == id) else {
            return SnapshotRead::Gone;
        };
        let pin = &mut self.snapshots.pins[at];
        pin.read_at = now;
        let tree = pin.tree;
        let mut building =
            pin.building.take().filter(|building| building.after == after).unwrap_or_else(|| {
                let mut lower = after.to_vec();
                if !after.is_empty() {
                    // The smallest key after it.
                    lower.push(0);
                }
                Building {
                    after: after.to_vec(),
                    cursor: Cursor::new(&lower, None, Direction::Forward),
                    entries: Vec::with_capacity(PART_BYTES + (8 << 10)),
                    done: None,
                }
            });
        let missing = self.gather(&tree, &mut building);
        let (ready, damaged) = match missing {
            Ok(ready) => (ready, false),
            Err(page) if self.is_damaged(page) => {
                self.suspect(self.snapshots.pins[at].group, page);
                (false, true)
            }
            Err(page) => {
                let mut ahead = Vec::new();
                building.cursor.read_ahead(&self.cache, READ_AHEAD_PAGES, &mut ahead);
                self.fetch(page);
                ahead.into_iter().for_each(|page| self.fetch_if_room(page));
                let pin = &mut self.snapshots.pins[at];
                pin.building = Some(building);
                return SnapshotRead::NotYet { run_again: false };
            }
        };
        if damaged {
            return SnapshotRead::Damaged;
        }
        if ready {
            self.snapshots.served_bytes += building.entries.len() as u64;
        }
        let building = self.snapshots.pins[at].building.insert(building);
        match building.done {
            Some(last) => SnapshotRead::Part { entries: &building.entries, last },
            None => SnapshotRead::NotYet { run_again: true },
        }
    }

    /// Gathers a slice; whether the part became complete, or the page that is missing.
    fn gather(&self, tree: &TreeRef, building: &mut Building) -> Result<bool, PageRef> {
        if building.done.is_some() {
            return Ok(false);
        }
        let begin = building.entries.len();
        for _ in 0..SLICE_ENTRIES {
            if building.entries.len() >= PART_BYTES {
                building.done = Some(false);
                return Ok(true);
            }
            if building.entries.len() - begin >= SLICE_BYTES {
                return Ok(false);
            }
            let (key, value) = match building.cursor.next(&self.cache, tree) {
                Step::Missing(page) => return Err(page),
                Step::End => {
                    building.done = Some(true);
                    return Ok(true);
                }
                Step::Entry { key, value } => (key, value),
            };
            match value {
                Value::Inline(item) => push_entry(key, item, &mut building.entries),
                Value::Overflow(extent) => match walk::overflow(&self.cache, &extent) {
                    Some(item) => push_entry(key, item, &mut building.entries),
                    None => {
                        // The cursor is past the key: it comes back to it.
                        let key = key.to_vec();
                        building.cursor.set(&key, None, Direction::Forward);
                        return Err(extent.page);
                    }
                },
            }
        }
        Ok(false)
    }

    /// Releases what nobody reads any more, or what a full disk needs.
    pub(in crate::store) fn expire_pins(&mut self, now: Nanos, work: &mut Work) {
        if self.snapshots.pins.is_empty() {
            return;
        }
        let by_force = self.is_disk_full() || self.closing;
        let over = self
            .snapshots
            .pins
            .iter()
            .filter(|pin| by_force || now >= pin.read_at + PIN_NANOS_MAX)
            .map(|pin| pin.id)
            .collect::<Vec<_>>();
        over.into_iter().for_each(|id| self.release_snapshot(id));
        let due = self.snapshots.pins.iter().map(|pin| pin.read_at + PIN_NANOS_MAX).min();
        if let Some(due) = due {
            work.wake_by(due);
        }
    }
}
