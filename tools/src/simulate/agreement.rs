//! Do the replicas hold the same?
//!
//! No two members ever hold different chosen entries in one slot (log prefix agreement): each entry
//! that a member applies is compared with what any member applied in that slot before, the same
//! member before a restart included.
//!
//! Two replicas whose trees are the state at the same slot of the same group must have the same
//! content digest there, and what a replica calls chosen is never taken back: its chosen and
//! checkpointed slots grow, and what was durable before a restart is there after it. A member is known
//! by its identity: one that was replaced, or lost its data, never comes back under it.
//!
//! Digests are compared where they exist without reading every page: at the slots of checkpoints.
//! In the end, when nothing is written any more, every replica checkpoints the same slot, so each
//! run compares all of them at least once.

use forebay_core::ids::IdMap;
use forebay_storage::store::{ChosenEntry, GroupFigures};

/// A member, and the node that it is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Whose {
    pub(super) node: usize,
    pub(super) group: u64,
    /// Its identity; 0 where a node stands alone.
    pub(super) member: u64,
}

/// What one member said of its group last.
#[derive(Clone, Copy, Debug, Default)]
struct Said {
    checkpoint_slot: u64,
}

/// See the module's docs.
#[derive(Debug, Default)]
pub(super) struct Agreement {
    /// By group and slot: the digest, and who said so first.
    digests: IdMap<(u64, u64), (u128, usize)>,
    said: IdMap<Whose, Said>,
    compared: u64,
    /// By group: for each slot from 1 on what was applied in it, and who did first.
    entries: IdMap<u64, Vec<Option<(u128, usize)>>>,
    entries_compared: u64,
}

impl Agreement {
    /// A node applied an entry.
    pub(super) fn applied(&mut self, node: usize, entry: &ChosenEntry) -> Result<(), String> {
        let ChosenEntry { group, slot, digest } = *entry;
        let slots = self.entries.entry(group.0).or_default();
        let index = slot.0 as usize - 1;
        if slots.len() <= index {
            slots.resize(index + 1, None);
        }
        match slots[index] {
            None => slots[index] = Some((digest, node)),
            Some((known, _)) if known == digest => self.entries_compared += 1,
            Some((_, other)) => {
                return Err(format!(
                    "group {} at slot {slot}: node {node} holds another entry to be chosen than \
                     node {other}",
                    group.0
                ));
            }
        }
        Ok(())
    }

    /// A node shows a member.
    pub(super) fn observe(&mut self, whose: Whose, figures: &GroupFigures) -> Result<(), String> {
        let Whose { node, group, .. } = whose;
        let slot = figures.checkpoint_slot.0;
        let said = self.said.entry(whose).or_default();
        if slot < said.checkpoint_slot {
            return Err(format!(
                "node {node} had checkpointed group {group} up to slot {}, and now to {slot}",
                said.checkpoint_slot
            ));
        }
        if figures.applied_slot > figures.chosen_slot {
            return Err(format!(
                "node {node} applied slot {} of group {group}, of which it knows only {} chosen",
                figures.applied_slot, figures.chosen_slot
            ));
        }
        let is_new = slot > said.checkpoint_slot;
        said.checkpoint_slot = slot;
        let Some(digest) = figures.checkpoint_digest.filter(|_| slot > 0) else { return Ok(()) };
        let known = self.digests.entry((group, slot)).or_insert((digest.0, node));
        if known.0 != digest.0 {
            return Err(format!(
                "group {group} at slot {slot}: node {} has content {:032x}, node {node} {:032x}",
                known.1, known.0, digest.0
            ));
        }
        if is_new && known.1 != node {
            self.compared += 1;
        }
        Ok(())
    }

    /// Entries that were applied more than once, and were the same.
    pub(super) fn entries_compared(&self) -> u64 {
        self.entries_compared
    }

    /// Digests that two nodes had in common.
    pub(super) fn compared(&self) -> u64 {
        self.compared
    }
}
