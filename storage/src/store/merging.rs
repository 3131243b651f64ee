//! The merge of a checkpoint: the frozen generation into its groups' trees, dropped groups' pages
//! freed, and the changed groups' entries into the catalog.
//!
//! [`super::pace`] says how much a turn does. A group whose state is damaged and is about to be replaced
//! is passed over: its catalog entry says what it is, with the tree of the checkpoint before
//! ([`super::repair`]).

use std::ops::Bound;

use forebay_core::time::Nanos;

use super::catalog::{CatalogEntry, CatalogMember, catalog_key};
use super::checkpoint::Phase;
use super::groups::GroupState;
use super::room::RESERVE_BLOCKS;
use super::{GroupOrdinal, Store, Work};
use crate::overlay::{EntryRef, FrozenCursor, Overlay};
use crate::tree::merge::{Change, MergeInput, MergeStep};
use crate::tree::page::PageView;
use crate::tree::{PageRef, TreeRef, Value};

/// Pages of a dropped tree freed in one turn.
const DROP_PAGES: usize = 256;

/// The frozen entries of one group, as a merge reads them.
struct FrozenInput<'a> {
    overlay: &'a Overlay,
    cursor: &'a mut FrozenCursor,
    group: u32,
    current: Option<EntryRef<'a>>,
    taken: usize,
}

impl<'a> FrozenInput<'a> {
    fn new(overlay: &'a Overlay, cursor: &'a mut FrozenCursor, group: u32) -> FrozenInput<'a> {
        let current = overlay.frozen_peek(cursor);
        FrozenInput { overlay, cursor, group, current, taken: 0 }
    }
}

impl MergeInput for FrozenInput<'_> {
    fn peek(&self) -> Option<(&[u8], Change<'_>)> {
        let entry = self.current.as_ref()?;
        Some((entry.key, entry.item.map_or(Change::Delete, Change::Put)))
    }

    fn advance(&mut self) {
        debug_assert!(self.current.is_some(), "only what was seen is taken");
        self.overlay.frozen_advance(self.cursor);
        self.taken += 1;
        self.current = self.overlay.frozen_peek(self.cursor);
    }

    fn first_key_from(&self, bound: &[u8]) -> Option<&[u8]> {
        let current = self.current.as_ref()?;
        if current.key >= bound {
            return Some(current.key);
        }
        let mut cursor = self.overlay.frozen_cursor(self.group, Bound::Included(bound));
        self.overlay.frozen_peek(&mut cursor).map(|entry| entry.key)
    }
}

/// The catalog's changes, sorted by key.
struct CatalogInput<'a> {
    changes: &'a [([u8; 8], Option<Vec<u8>>)],
    next: &'a mut usize,
}

impl MergeInput for CatalogInput<'_> {
    fn peek(&self) -> Option<(&[u8], Change<'_>)> {
        let (key, entry) = self.changes.get(*self.next)?;
        Some((key, entry.as_deref().map_or(Change::Delete, Change::Put)))
    }

    fn advance(&mut self) {
        *self.next += 1;
    }

    fn first_key_from(&self, bound: &[u8]) -> Option<&[u8]> {
        let left = &self.changes[*self.next..];
        let at = left.partition_point(|(key, _)| &key[..] < bound);
        left.get(at).map(|(key, _)| &key[..])
    }
}

/// What the checkpoint under way stores of a group.
fn catalog_entry(state: &GroupState) -> CatalogEntry {
    let (applied_slot, tree, payload) = (state.frozen_slot, state.tree, state.payload.clone());
    let Some(member) = &state.member else {
        return CatalogEntry {
            members: 1,
            ballot: state.progress.ballot(),
            chosen_slot: applied_slot,
            applied_slot,
            tree,
            member: None,
            payload,
        };
    };
    let frozen = &member.frozen;
    CatalogEntry {
        members: 0,
        ballot: frozen.promised,
        chosen_slot: frozen.chosen,
        applied_slot,
        tree,
        member: Some(CatalogMember {
            id: member.id,
            role: member.role,
            chosen_origin: frozen.chosen_origin,
            trimmed_slot: frozen.trimmed,
            last_slot: frozen.last,
            created_lsn: member.created_lsn,
            configurations: frozen.configurations.clone(),
            lost: member.lost,
        }),
        payload,
    }
}

impl Store {
    pub(super) fn merge_groups(&mut self, budget: usize, now: Nanos, work: &mut Work) {
        let mut left = budget;
        while let Some(part) = self.checkpoint.parts.get(self.checkpoint.next_part).copied() {
            if part.drop {
                if !self.free_dropped(part.group) {
                    work.run_again |= !self.checkpoint.waits_for_pages;
                    return;
                }
                self.checkpoint.next_part += 1;
                continue;
            }
            if self.commits_install(part.group) {
                if !self.commit_slice() {
                    work.run_again = true;
                    return;
                }
                self.checkpoint.next_part += 1;
                continue;
            }
            if self.is_stopped(part.group) {
                self.pass_over(part.group);
                continue;
            }
            let Some(used) = self.merge_slice(part.group, left, now, work) else { return };
            left = left.saturating_sub(used);
            if left == 0 {
                work.run_again = true;
                return;
            }
        }
        if self.overlay.is_frozen() {
            // Until a snapshot's superblock is durable, its group is what it was.
            if !self.commits_any_install() {
                self.overlay.drop_frozen();
            }
            self.space.drop_frozen_aside();
        }
        self.list_catalog_changes();
        self.checkpoint.merge.reset(self.catalog);
        self.checkpoint.phase = Phase::Catalog;
        work.run_again = true;
    }

    /// Merges for `budget`; None when it has to wait. Moves to the next part when the group is done.
    fn merge_slice(
        &mut self,
        group: GroupOrdinal,
        budget: usize,
        now: Nanos,
        work: &mut Work,
    ) -> Option<usize> {
        let checkpoint = &mut self.checkpoint;
        checkpoint.blocked = false;
        if !self.overlay.is_frozen() {
            checkpoint.next_part += 1;
            return Some(0);
        }
        let cursor = checkpoint.cursor.get_or_insert_with(|| {
            checkpoint.merge.reset(self.groups.get(group).tree);
            self.overlay.frozen_cursor(group.0, Bound::Unbounded)
        });
        let mut input = FrozenInput::new(&self.overlay, cursor, group.0);
        let step = checkpoint.merge.step(&mut input, &mut self.cache, &mut self.space, budget);
        checkpoint.merged_entries += input.taken;
        match step {
            MergeStep::Progress => {
                checkpoint.units_used += budget;
                Some(budget)
            }
            MergeStep::Done(tree) => {
                checkpoint.units_used += budget / 4;
                checkpoint.cursor = None;
                checkpoint.next_part += 1;
                self.groups.get_mut(group).tree = tree;
                // Many small groups share a slice.
                Some((budget / 4).clamp(1, 50))
            }
            other => {
                self.merge_blocked(other, now, work);
                if self.checkpoint.blocked
                    && let Some(page) = self.checkpoint.merge.missing().first().copied()
                {
                    self.suspect(group, page);
                }
                None
            }
        }
    }

    /// The group's state is to be replaced: the checkpoint goes on without it.
    fn pass_over(&mut self, group: GroupOrdinal) {
        let checkpoint = &mut self.checkpoint;
        if checkpoint.cursor.take().is_some() {
            checkpoint.merge.abandon(&mut self.cache, &mut self.space);
        }
        checkpoint.blocked = false;
        checkpoint.next_part += 1;
        let state = self.groups.get_mut(group);
        state.frozen_slot = state.checkpoint_slot;
    }

    fn merge_blocked(&mut self, step: MergeStep, now: Nanos, work: &mut Work) {
        self.checkpoint.blocked = match step {
            MergeStep::Missing => {
                let first = self.checkpoint.merge.missing().first();
                first.is_some_and(|page| self.is_damaged(*page))
            }
            MergeStep::NeedSpace(_) => self.is_disk_full(),
            _ => false,
        };
        match step {
            MergeStep::Missing => {
                let missing: Vec<PageRef> = self.checkpoint.merge.missing().to_vec();
                if let Some((first, ahead)) = missing.split_first() {
                    // A page that cannot be had stops the checkpoint, not the shard: it is tried
                    // again and again, at a bounded rate.
                    if let Some(until) = self.damaged_until(*first) {
                        return work.wake_by(until);
                    }
                    self.fetch(*first);
                    for page in ahead {
                        self.fetch_if_room(*page);
                    }
                }
            }
            // The writes that make room are on their way, or start in this turn.
            MergeStep::CacheFull => {}
            // Everything admitted has its room: this is recovery on a disk that was filled since.
            MergeStep::NeedSpace(run) => self.grow(run, run.max(RESERVE_BLOCKS), now, work),
            MergeStep::Progress | MergeStep::Done(_) => unreachable!("not a reason to wait"),
        }
    }

    /// Frees a few pages of a dropped group's tree; true when all are freed. The frees take effect
    /// with this checkpoint, which also removes the group from the catalog.
    fn free_dropped(&mut self, group: GroupOrdinal) -> bool {
        if !self.checkpoint.drop_begun {
            self.checkpoint.drop_begun = true;
            let tree = self.groups.get(group).tree;
            self.checkpoint.drop_stack.extend(tree.root.map(|root| root.page));
        }
        self.checkpoint.waits_for_pages = false;
        for _ in 0..DROP_PAGES {
            let Some(page) = self.checkpoint.drop_stack.last().copied() else {
                self.checkpoint.drop_begun = false;
                self.groups.get_mut(group).tree = TreeRef::EMPTY;
                return true;
            };
            let Some(bytes) = self.cache.get(&page) else {
                if self.is_damaged(page) {
                    // What is below it cannot be found: those blocks stay taken, and are reported
                    // by `inspect` as leaked.
                    self.checkpoint.drop_stack.pop();
                    self.space.free(page.id, page.blocks);
                    continue;
                }
                self.checkpoint.waits_for_pages = true;
                self.fetch(page);
                return false;
            };
            self.checkpoint.drop_stack.pop();
            let view = PageView::new(bytes);
            let mut extents = Vec::new();
            for index in 0..view.count() {
                if page.level > 0 {
                    self.checkpoint.drop_stack.push(view.child_page(index));
                } else if let Value::Overflow(extent) = view.value(index) {
                    extents.push(extent.page);
                }
            }
            self.space.free(page.id, page.blocks);
            self.cache.forget(page.id);
            for extent in extents {
                self.space.free(extent.id, extent.blocks);
                self.cache.forget(extent.id);
            }
        }
        false
    }

    fn list_catalog_changes(&mut self) {
        for part in &self.checkpoint.parts {
            let state = self.groups.get(part.group);
            let key = catalog_key(state.progress.id());
            let entry = (!part.drop).then(|| match self.commits_install(part.group) {
                true => self.installed_entry(state).encode(),
                false => catalog_entry(state).encode(),
            });
            if entry.is_some() || state.in_catalog {
                self.checkpoint.catalog_changes.push((key, entry));
            }
        }
        let checkpoint = &mut self.checkpoint;
        checkpoint.catalog_changes.sort_unstable_by_key(|(key, _)| *key);
    }

    pub(super) fn merge_catalog(&mut self, budget: usize, now: Nanos, work: &mut Work) {
        let checkpoint = &mut self.checkpoint;
        checkpoint.blocked = false;
        let mut input = CatalogInput {
            changes: &checkpoint.catalog_changes,
            next: &mut checkpoint.next_change,
        };
        match checkpoint.merge.step(&mut input, &mut self.cache, &mut self.space, budget) {
            MergeStep::Progress => work.run_again = true,
            MergeStep::Done(tree) => {
                self.catalog = tree;
                self.checkpoint.phase = Phase::Writing;
            }
            other => self.merge_blocked(other, now, work),
        }
    }
}
