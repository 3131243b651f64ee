//! Members of replicated groups: what a [`Replica`] asks of the shard's storage.
//!
//! ```text
//!   propose, or entries that arrived        Replica's effects                Replica's inputs
//!        │                                   │                                 ▲
//!        ▼                                   ▼                                 │
//!   stage ─► Handle ─► step ─► persist_entries, persist_promise, persist_base  │
//!                                  │ the log, with all other groups' records   │
//!                                  └─────────────► take_persisted ─► Persisted │
//!                              choose ─► overlay ─► take_applied ────► Applied │
//!                              a checkpoint ends ─► take_checkpointed ► Checkpointed
//!                              trim ──────────────────────────────────► Trimmed
//!                              discard
//! ```
//!
//! The store knows slots, ballots and bytes; it knows no messages, and decides nothing about
//! agreement. A *storage replica* stages entries in the overlay and applies them when they are
//! chosen. A *log replica* stages them there too, because that memory is bounded and its room is
//! what admission goes by, and lets go of them when they are chosen; its log is all that it keeps.
//!
//! **Admission** is when an entry is staged: then there is room for its record in the log, for the
//! entry in memory and for its merge on the disk, or it is refused. What was admitted is never
//! refused again: a record that finds no buffer (or no room, where an election logs a whole window
//! again) waits in a queue, in order, and may use the first half of the log's reserve: the rest is
//! what copies of old entries need to make room again ([`carry`]). Promises and bases are not
//! refused at all.
//!
//! **Order.** Records are appended in the order of the calls, so what [`Store::take_persisted`]
//! names is durable with everything asked for before it.
//!
//! Invariants, asserted where the state changes:
//! * `trimmed <= checkpoint slot` on a storage replica, `trimmed <= released` on a log replica;
//! * only slots that the caller called chosen are applied, in order, and only once they are in the
//!   log (not necessarily durably: a quorum of other logs may have them; but a checkpoint's
//!   superblock waits until they are);
//! * an entry is overwritten under a higher ballot only, and never once it is applied.
//!
//! [`Replica`]: forebay_core::paxos::Replica

mod append;
mod carry;
mod positions;
mod read_back;
mod recovery;
mod staged;
mod state;
mod watch;

use forebay_core::ids::{Ballot, GroupId, Slot};
use forebay_core::paxos::{
    Configuration, ConfigurationAt, EntryKind, Handle, Held, MemberId, MemberRole, PersistId,
    Recovered,
};

use super::groups::GroupState;
use super::{GroupOrdinal, PendingEntry, Refused, Store, Ticket};
use crate::log::format::record_bytes;
use crate::log::{MemberCreate, RecordHeader, RecordKind};
use crate::overlay::KeyHash;
use crate::space::Runs;

pub(super) use append::Append;
pub(super) use carry::Carrier;
pub(super) use read_back::OWN_TOKEN;
pub(super) use read_back::ReadBack;
pub use read_back::{PastEntries, PastEntry};
pub(super) use staged::StagedEntries;
pub(super) use state::MemberState;
pub use watch::ChosenEntry;

use staged::StagedEntry;
use state::Accepted;

/// A member to be created.
#[derive(Clone, Copy, Debug)]
pub struct MemberDescriptor<'a> {
    /// The group.
    pub group: GroupId,
    /// Fresh and random; it never comes back.
    pub member: MemberId,
    /// What it keeps.
    pub role: MemberRole,
    /// The group's first configuration, at a founder; none for a member that joins.
    pub configuration: Option<Configuration>,
    /// The shard's own description of the group.
    pub payload: &'a [u8],
}

/// An entry to be logged, as the replica holds it.
#[derive(Clone, Copy, Debug)]
pub struct AcceptedEntry<'a> {
    /// What it is.
    pub kind: EntryKind,
    /// Of its staged bytes; [`Handle::NONE`] for what the replica made itself.
    pub handle: Handle,
    /// What an entry of [`EntryKind::Configuration`] says.
    pub configuration: Option<&'a Configuration>,
    /// Under which it was proposed for the first time.
    pub origin: Ballot,
}

/// Bytes of an entry, in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryBytes<'a> {
    /// The encoded key.
    pub key: &'a [u8],
    /// The encoded item; None deletes the key.
    pub item: Option<&'a [u8]>,
}

const A_MEMBER: &str = "the group has a member of a replicated group here";

impl Store {
    /// Creates a member of a replicated group on this shard. Where an earlier one was lost with the log,
    /// the new one begins with its state.
    ///
    /// # Errors
    /// Nothing was begun; see [`Refused`]. [`Refused::Overloaded`] also while an earlier member of
    /// the group leaves its last traces here, until the next checkpoint.
    pub fn create_member(
        &mut self,
        descriptor: MemberDescriptor<'_>,
    ) -> Result<(GroupOrdinal, Ticket), Refused> {
        self.admit(descriptor.payload.len(), Runs::default(), false)?;
        if let Some(earlier) = self.groups.find(descriptor.group) {
            if self.groups.get(earlier).member.as_ref().is_some_and(|member| member.lost)
                && !self.groups.get(earlier).dropped
            {
                return self.be_reborn(earlier, descriptor);
            }
            assert!(self.groups.get(earlier).dropped, "group {} exists", descriptor.group);
            self.checkpoint.hasten();
            return Err(Refused::Overloaded);
        }
        let MemberDescriptor { group, member, role, configuration, payload } = descriptor;
        let create = MemberCreate { member, role, configuration, payload };
        let kind = RecordKind::MEMBER_CREATE;
        let (slot, none) = (Slot(0), Ballot(0));
        let header = RecordHeader { kind, group, slot, ballot: none, origin: none };
        let appended = self.log.append(&header, &[&create.prefix(), payload]);
        let position = appended.map_err(|error| self.log_refused(error))?;
        let mut state = GroupState::new(group, payload.to_vec());
        state.member = Some(Box::new(MemberState::new(member, role, position, create.first())));
        let ordinal = self.groups.insert(group, state);
        self.members += 1;
        let ticket = self.enqueue(position, ordinal, Slot(0), PendingEntry::GroupCreate);
        Ok((ordinal, ticket))
    }

    /// Every member on this shard that was not dropped or lost: its identity, and its role.
    pub fn members(&self) -> impl Iterator<Item = (GroupOrdinal, MemberId, MemberRole)> {
        let states = self.groups.iter().filter(|(_, state)| state.is_here());
        states.filter_map(|(group, state)| {
            state.member.as_ref().map(|member| (group, member.id, member.role))
        })
    }

    pub(super) fn member(&self, group: GroupOrdinal) -> &MemberState {
        self.groups.get(group).member.as_deref().expect(A_MEMBER)
    }

    /// Takes the bytes of an entry into memory: one that arrived, or that is about to be proposed.
    /// It has no slot yet, and nothing is durable.
    ///
    /// # Errors
    /// Nothing was taken; see [`Refused`].
    pub fn stage(
        &mut self,
        group: GroupOrdinal,
        key: &[u8],
        item: Option<&[u8]>,
    ) -> Result<Handle, Refused> {
        let keeps_state = self.member(group).keeps_state();
        assert!(!self.groups.get(group).dropped, "nobody writes to a dropped group");
        let bytes = key.len() + item.map_or(0, <[u8]>::len);
        let runs = if keeps_state { Runs::of(key, item) } else { Runs::default() };
        self.admit(bytes, runs, item.is_none())?;
        if self.history_is_full(group) {
            self.checkpoint.hasten();
            return Err(Refused::Overloaded);
        }
        let unlogged_bytes = record_bytes(bytes + if item.is_some() { 2 } else { 0 });
        if !self.log_takes(unlogged_bytes) {
            self.checkpoint.hasten();
            return Err(Refused::Overloaded);
        }
        self.set_aside(runs, item.is_none())?;
        let mut staged = self.overlay.stage(group.0, Slot(0), key, item);
        if staged.is_err() && self.overlay.reclaim() {
            staged = self.overlay.stage(group.0, Slot(0), key, item);
        }
        let Ok(staged) = staged else {
            self.space.give_back(runs);
            self.checkpoint.hasten();
            return Err(Refused::Overloaded);
        };
        self.staged_count += 1;
        Ok(self.staged.insert(StagedEntry {
            group,
            staged,
            hash: KeyHash::of(group.0, key),
            runs,
            bytes: bytes as u32,
            unlogged_bytes: unlogged_bytes as u32,
            queued: 0,
            in_flight: false,
            discarded: false,
        }))
    }

    /// Whether the log has room for another entry that will take so many bytes of it.
    pub(super) fn log_takes(&self, unlogged_bytes: usize) -> bool {
        // What is staged and not logged comes before it, and may begin a batch in a new segment.
        let before = self.staged.unlogged_bytes() + self.config.log.largest_batch_bytes();
        self.log.free_bytes() >= before + unlogged_bytes as u64
    }

    /// The staged entry is proposed in `slot` by this member: from now on [`Store::current`] tells
    /// of it. Only a leader that serves proposes, so all that it learned is applied by then.
    pub fn propose(&mut self, handle: Handle, slot: Slot) {
        let entry = self.staged.get_mut(handle);
        assert!(!entry.in_flight, "an entry is proposed once");
        entry.in_flight = true;
        let (staged, hash) = (entry.staged, entry.hash);
        self.overlay.set_slot(staged, slot);
        self.in_flight.insert(&self.overlay, staged, hash);
    }

    /// The bytes of a staged entry; None once it is applied, though its replica may not know yet.
    #[must_use]
    pub fn staged_entry(&self, handle: Handle) -> Option<EntryBytes<'_>> {
        let entry = self.overlay.staged(self.staged.find(handle)?.staged);
        Some(EntryBytes { key: entry.key, item: entry.item })
    }

    /// The entry will not be held any more: it was not taken, or was replaced or cut off.
    pub fn discard(&mut self, handle: Handle) {
        let entry = self.staged.get_mut(handle);
        assert!(!entry.discarded, "an entry is let go of once");
        if std::mem::take(&mut entry.in_flight) {
            let (staged, hash) = (entry.staged, entry.hash);
            self.in_flight.remove(&self.overlay, staged, hash);
        }
        if self.staged.get(handle).queued > 0 {
            self.staged.get_mut(handle).discarded = true;
            return;
        }
        let entry = self.staged.remove(handle);
        self.overlay.abandon(entry.staged);
        self.space.give_back(entry.runs);
    }

    /// Every slot up to this one is chosen. Entries are applied at once where they can be; see
    /// [`Store::take_applied`].
    pub fn choose(&mut self, group: GroupOrdinal, slot: Slot) {
        let state = self.groups.get_mut(group);
        let member = state.member.as_deref_mut().expect(A_MEMBER);
        assert!(slot <= member.last().max(member.chosen), "slot {slot} is chosen but not held");
        member.chosen = member.chosen.max(slot);
        self.apply_chosen(group);
    }

    /// Applies what is chosen and in the log; on a log replica, lets go of it.
    fn apply_chosen(&mut self, group: GroupOrdinal) {
        let state = self.groups.get_mut(group);
        let member = state.member.as_deref_mut().expect(A_MEMBER);
        let (before, applied_before) = (member.released(), member.applied());
        let id = state.progress.id();
        while let Some((slot, accepted, follows)) = member.pop_chosen() {
            if let Some(watched) = &mut self.watched {
                let staged = self.staged.find(accepted.handle).map(|entry| entry.staged);
                let bytes = staged.map(|staged| self.overlay.staged(staged));
                let bytes = bytes.map(|entry| EntryBytes { key: entry.key, item: entry.item });
                watched.push(ChosenEntry::of(id, slot, accepted.kind, bytes));
            }
            if accepted.handle == Handle::NONE {
                continue;
            }
            let StagedEntry { staged, hash, in_flight, queued, runs, .. } =
                self.staged.remove(accepted.handle);
            assert!(queued == 0, "what is applied is in the log");
            debug_assert_eq!(self.overlay.staged(staged).slot, slot);
            if in_flight {
                self.in_flight.remove(&self.overlay, staged, hash);
            }
            if follows {
                self.overlay.apply(staged, hash);
            } else {
                self.overlay.abandon(staged);
                self.space.give_back(runs);
            }
        }
        let (released, applied) = (member.released(), member.applied());
        if released == before {
            return;
        }
        state.changed = true;
        if applied > applied_before {
            self.note_applied(group, applied);
        }
    }

    pub(super) fn note_applied(&mut self, group: GroupOrdinal, applied: Slot) {
        match self.applied.last_mut() {
            Some((last, slot)) if *last == group => *slot = applied,
            _ => self.applied.push((group, applied)),
        }
    }

    /// Members that this start found without entries in their logs that their state in the newest
    /// checkpoint has: none, unless the log is damaged (**Rule (superblock)**).
    #[must_use]
    pub fn members_without_entries(&self) -> u64 {
        self.members_without_entries
    }

    /// Slots up to this one are not in this member's log.
    #[must_use]
    pub fn trimmed_slot(&self, group: GroupOrdinal) -> Slot {
        self.member(group).trimmed
    }

    /// Slots up to this one may leave this member's log: the caller knows two storage replicas'
    /// durable checkpoints that contain them (in a group of one, its own). How long it may keep what
    /// a follower still lacks, [`Store::must_trim`] says.
    ///
    /// # Panics
    /// If this member still needs one of them itself.
    pub fn trim(&mut self, group: GroupOrdinal, slot: Slot) {
        let state = self.groups.get_mut(group);
        let checkpoint = state.checkpoint_slot;
        let member = state.member.as_deref_mut().expect(A_MEMBER);
        let limit = if member.keeps_state() { checkpoint } else { member.released() };
        assert!(slot <= limit, "slot {slot} is still needed here, beyond {limit}");
        let before = member.history_bytes();
        member.trim(slot);
        state.changed = true;
        self.history_changed(group, before);
    }

    /// What became durable since the last call: of each group, in order.
    pub fn take_persisted(&mut self, persisted: &mut Vec<(GroupOrdinal, PersistId)>) {
        persisted.append(&mut self.persisted);
    }

    /// Storage replicas whose state grew since the last call, and up to which slot.
    pub fn take_applied(&mut self, applied: &mut Vec<(GroupOrdinal, Slot)>) {
        applied.append(&mut self.applied);
    }

    /// Storage replicas that a checkpoint since the last call contains, and up to which slot.
    pub fn take_checkpointed(&mut self, checkpointed: &mut Vec<(GroupOrdinal, Slot)>) {
        checkpointed.append(&mut self.checkpointed);
    }

    /// Whether one of the last three has something to tell.
    #[must_use]
    pub fn has_reports(&self) -> bool {
        !(self.persisted.is_empty() && self.applied.is_empty() && self.checkpointed.is_empty())
    }

    /// A member as it is on the disk, for its replica: right after [`super::open`], before anything
    /// else is asked of it.
    #[must_use]
    pub fn recovered(&self, group: GroupOrdinal) -> Recovered {
        let state = self.groups.get(group);
        let member = self.member(group);
        let entries = member.accepted().map(|accepted| Held {
            ballot: accepted.ballot,
            origin: accepted.origin,
            handle: accepted.handle,
            bytes: self.staged.find(accepted.handle).map_or(0, |entry| entry.bytes),
            kind: accepted.kind,
        });
        Recovered {
            promised: member.promised,
            chosen: member.released(),
            chosen_origin: member.released_origin(),
            applied: member.applied(),
            checkpoint: if member.keeps_state() { state.checkpoint_slot } else { Slot(0) },
            trimmed: member.trimmed,
            configurations: member.configurations.clone(),
            entries: entries.collect(),
        }
    }

    /// A member is dropped: lets go of all its entries.
    pub(super) fn drop_member(&mut self, group: GroupOrdinal) {
        if self.groups.get(group).member.is_none() {
            return;
        }
        self.end_snapshots_of(group);
        self.repair.forget(group);
        self.repair.repaired_pages += self.take_damaged_pages(group);
        self.members -= 1;
        self.history_bytes -= self.member(group).history_bytes();
        self.appends.retain(|(of, _)| *of != group);
        for handle in self.staged.of_group(group) {
            let entry = self.staged.get_mut(handle);
            (entry.queued, entry.discarded) = (0, false);
            self.discard(handle);
        }
    }
}

/// What is put in memory of an entry that was handed to the log.
fn held(ballot: Ballot, entry: &AcceptedEntry<'_>, logged: bool) -> Accepted {
    Accepted { ballot, origin: entry.origin, handle: entry.handle, kind: entry.kind, logged }
}

/// What [`Store::persist_base`] is told.
fn check_base(base: Slot, at: &ConfigurationAt) {
    assert!(at.slot <= base, "the configuration is in force after slot {base}");
}
