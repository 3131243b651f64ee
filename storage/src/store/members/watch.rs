//! A look at what members hold to be chosen, for simulations: two members of a group never have
//! different entries in one slot.
//!
//! Nobody watches in production: then it costs one branch an entry.

use forebay_core::ids::{GroupId, Slot};
use forebay_core::paxos::EntryKind;
use xxhash_rust::xxh3::Xxh3;

use super::super::Store;
use super::EntryBytes;

/// An entry that a member holds to be chosen, in brief.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChosenEntry {
    /// Of which group.
    pub group: GroupId,
    /// Where in its log.
    pub slot: Slot,
    /// Of its kind, key and item.
    pub digest: u128,
}

impl ChosenEntry {
    pub(super) fn of(
        group: GroupId,
        slot: Slot,
        kind: EntryKind,
        bytes: Option<EntryBytes<'_>>,
    ) -> ChosenEntry {
        let mut hash = Xxh3::new();
        hash.update(&[kind as u8]);
        if let Some(EntryBytes { key, item }) = bytes {
            hash.update(&(key.len() as u64).to_le_bytes());
            hash.update(key);
            hash.update(&[u8::from(item.is_some())]);
            hash.update(item.unwrap_or_default());
        }
        ChosenEntry { group, slot, digest: hash.digest128() }
    }
}

impl Store {
    /// From now on, entries that members here learn to be chosen are kept for
    /// [`Store::take_watched`].
    pub fn watch_chosen(&mut self) {
        self.watched.get_or_insert_default();
    }

    /// Those of since the last call, in the order in which they were applied.
    pub fn take_watched(&mut self) -> impl Iterator<Item = ChosenEntry> {
        self.watched.iter_mut().flat_map(|watched| watched.drain(..))
    }
}
