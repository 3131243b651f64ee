//! The shard's groups: created and dropped by records in the shard's log, checkpointed as entries
//! of the catalog tree.

use forebay_core::group::Group;
use forebay_core::ids::{Ballot, GroupId, IdMap, Slot};

use super::catalog::CatalogEntry;
use super::members::MemberState;
use super::{PendingEntry, Refused, Store, Ticket};
use crate::log::{RecordHeader, RecordKind};
use crate::space::Runs;
use crate::tree::TreeRef;

/// A group's place in this shard's arrays. Small, dense, and reused only when the group's last
/// trace is gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupOrdinal(pub u32);

/// What the shard says of a group; the store keeps it as it is.
#[derive(Clone, Copy, Debug)]
pub struct GroupDescriptor<'a> {
    /// The group.
    pub id: GroupId,
    /// The shard's own description.
    pub payload: &'a [u8],
}

/// Ballot of a group of one: nobody competes for it.
const SOLE_BALLOT: Ballot = Ballot(1);

#[derive(Debug)]
pub(super) struct GroupState {
    /// Of a group of one; of a member of a replicated group only the id counts.
    pub(super) progress: Group,
    /// Of a member of a replicated group.
    pub(super) member: Option<Box<MemberState>>,
    pub(super) payload: Vec<u8>,
    /// The state at the slot of the last finished merge.
    pub(super) tree: TreeRef,
    /// Something of it is newer than the catalog.
    pub(super) changed: bool,
    /// Dropped by the shard: no reads or writes any more. Its pages are freed by a checkpoint.
    pub(super) dropped: bool,
    /// The drop's record is chosen.
    pub(super) drop_chosen: bool,
    /// The catalog has an entry for it.
    pub(super) in_catalog: bool,
    /// Applied slot when the checkpoint under way froze the overlay.
    pub(super) frozen_slot: Slot,
    /// The newest durable checkpoint holds everything up to here.
    pub(super) checkpoint_slot: Slot,
    /// The tree that it holds.
    pub(super) checkpoint_tree: TreeRef,
}

#[derive(Debug, Default)]
pub(super) struct Groups {
    states: Vec<Option<GroupState>>,
    by_id: IdMap<GroupId, GroupOrdinal>,
}

impl Groups {
    pub(super) fn insert(&mut self, id: GroupId, state: GroupState) -> GroupOrdinal {
        let free = self.states.iter().position(Option::is_none);
        let index = free.unwrap_or_else(|| {
            self.states.push(None);
            self.states.len() - 1
        });
        self.states[index] = Some(state);
        let ordinal = GroupOrdinal(index as u32);
        let old = self.by_id.insert(id, ordinal);
        assert!(old.is_none(), "group {id} exists once on a shard");
        ordinal
    }

    pub(super) fn get(&self, group: GroupOrdinal) -> &GroupState {
        self.states[group.0 as usize].as_ref().expect("ordinals name existing groups")
    }

    pub(super) fn get_mut(&mut self, group: GroupOrdinal) -> &mut GroupState {
        self.states[group.0 as usize].as_mut().expect("ordinals name existing groups")
    }

    pub(super) fn remove(&mut self, group: GroupOrdinal) {
        let state = self.states[group.0 as usize].take().expect("removed once");
        self.by_id.remove(&state.progress.id());
    }

    pub(super) fn find(&self, id: GroupId) -> Option<GroupOrdinal> {
        self.by_id.get(&id).copied()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (GroupOrdinal, &GroupState)> {
        let numbered = self.states.iter().enumerate();
        numbered.filter_map(|(index, state)| Some((GroupOrdinal(index as u32), state.as_ref()?)))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (GroupOrdinal, &mut GroupState)> {
        let numbered = self.states.iter_mut().enumerate();
        numbered.filter_map(|(index, state)| Some((GroupOrdinal(index as u32), state.as_mut()?)))
    }

    pub(super) fn any_changed(&self) -> bool {
        self.iter().any(|(_, state)| state.changed)
    }
}

impl GroupState {
    pub(super) fn new(id: GroupId, payload: Vec<u8>) -> GroupState {
        GroupState {
            progress: Group::new(id, SOLE_BALLOT, 1, Slot(0)),
            member: None,
            payload,
            tree: TreeRef::EMPTY,
            changed: false,
            dropped: false,
            drop_chosen: false,
            in_catalog: false,
            frozen_slot: Slot(0),
            checkpoint_slot: Slot(0),
            checkpoint_tree: TreeRef::EMPTY,
        }
    }

    pub(super) fn from_catalog(id: GroupId, entry: CatalogEntry) -> GroupState {
        let CatalogEntry { members, ballot, chosen_slot, .. } = entry;
        let member = entry.member.map(|member| {
            Box::new(MemberState::restored(member, ballot, chosen_slot, entry.applied_slot))
        });
        let members = if member.is_some() { 1 } else { members };
        GroupState {
            // The tree holds the slots up to `applied_slot`; the log's later ones follow by replay.
            progress: Group::new(id, ballot, members.into(), entry.applied_slot),
            member,
            payload: entry.payload,
            tree: entry.tree,
            changed: false,
            dropped: false,
            drop_chosen: false,
            in_catalog: true,
            frozen_slot: entry.applied_slot,
            checkpoint_slot: entry.applied_slot,
            checkpoint_tree: entry.tree,
        }
    }
}

impl GroupState {
    /// Whether anybody may ask for it.
    pub(super) fn is_here(&self) -> bool {
        !self.dropped && self.member.as_ref().is_none_or(|member| !member.lost)
    }

    /// The state contains every slot up to here.
    pub(super) fn applied_slot(&self) -> Slot {
        self.member.as_ref().map_or(self.progress.applied_slot(), |member| member.applied())
    }

    /// Everything up to here is known to be chosen, and in the log or in the state.
    pub(super) fn chosen_slot(&self) -> Slot {
        self.member.as_ref().map_or(self.progress.chosen_slot(), |member| member.released())
    }

    /// The ballot that its leader won with, or the highest promised.
    pub(super) fn ballot(&self) -> Ballot {
        self.member.as_ref().map_or(self.progress.ballot(), |member| member.promised)
    }
}

impl Store {
    /// Creates a group of one on this shard. It takes writes at once; they are answered behind it.
    ///
    /// # Errors
    /// Nothing was begun; see [`Refused`].
    ///
    /// # Panics
    /// If the group exists.
    pub fn create_group(
        &mut self,
        descriptor: GroupDescriptor<'_>,
    ) -> Result<(GroupOrdinal, Ticket), Refused> {
        self.admit(descriptor.payload.len(), Runs::default(), false)?;
        assert!(self.groups.find(descriptor.id).is_none(), "group {} exists", descriptor.id);
        let header = RecordHeader {
            kind: RecordKind::GROUP_CREATE,
            group: descriptor.id,
            slot: Slot(0),
            ballot: SOLE_BALLOT,
            origin: SOLE_BALLOT,
        };
        let appended = self.log.append(&header, &[descriptor.payload]);
        let position = appended.map_err(|error| self.log_refused(error))?;
        let state = GroupState::new(descriptor.id, descriptor.payload.to_vec());
        let group = self.groups.insert(descriptor.id, state);
        Ok((group, self.enqueue(position, group, Slot(0), PendingEntry::GroupCreate)))
    }

    /// Drops a group, or this shard's member of one: no reads or writes from now on; its space is
    /// free after the checkpoint after next.
    ///
    /// # Errors
    /// Nothing was begun; see [`Refused`].
    pub fn drop_group(&mut self, group: GroupOrdinal) -> Result<Ticket, Refused> {
        self.admit(0, Runs::default(), true)?;
        let state = self.groups.get_mut(group);
        assert!(!state.dropped, "a group is dropped once");
        let header = RecordHeader {
            kind: RecordKind::GROUP_DROP,
            group: state.progress.id(),
            slot: Slot(0),
            ballot: state.progress.ballot(),
            origin: state.progress.ballot(),
        };
        let appended = self.log.append(&header, &[]);
        let position = appended.map_err(|error| self.log_refused(error))?;
        self.groups.get_mut(group).dropped = true;
        self.drop_member(group);
        Ok(self.enqueue(position, group, Slot(0), PendingEntry::GroupDrop))
    }

    /// Every group that has not been dropped, or lost with its log, with the shard's description of it.
    pub fn groups(&self) -> impl Iterator<Item = (GroupOrdinal, GroupDescriptor<'_>)> {
        self.groups.iter().filter(|(_, state)| state.is_here()).map(|(group, state)| {
            (group, GroupDescriptor { id: state.progress.id(), payload: &state.payload })
        })
    }

    /// A group's id.
    #[must_use]
    pub fn group_id(&self, group: GroupOrdinal) -> GroupId {
        self.groups.get(group).progress.id()
    }

    /// The group's state contains every slot up to here.
    #[must_use]
    pub fn applied_slot(&self, group: GroupOrdinal) -> Slot {
        self.groups.get(group).applied_slot()
    }

    /// The group with this id, unless it was dropped, or lost with its log.
    #[must_use]
    pub fn group(&self, id: GroupId) -> Option<GroupOrdinal> {
        self.groups.find(id).filter(|group| self.groups.get(*group).is_here())
    }

    /// The drop of `group` is chosen: its entries leave memory, its pages the next checkpoint.
    pub(super) fn group_dropped(&mut self, group: GroupOrdinal) {
        self.overlay.drop_group(group.0);
        let state = self.groups.get_mut(group);
        state.drop_chosen = true;
        state.changed = true;
    }
}
