//! Damage at rest, and what becomes of the members of replicated groups that it hits.
//!
//! ```text
//!   a page fails its checksum ─► suspect ─ read again, fails again ─► damaged ─► take_damaged
//!      (a read, a merge,                                                            │ the shell: lead handed over
//!       a snapshot's source)                                                        ▼
//!       a snapshot of another member ◄── the other groups' checkpoints go on ◄── stop_state
//!         └─► installed like any other: the state is whole
//!
//!   a log batch below durable_lsn is bad ─┬─ before the checkpoint's point ─► unknown slots ─► the others' logs
//!                                         └─ behind it ─► members lost ─► reborn under new identities
//! ```
//!
//! In a group of one nobody has another copy: there a damaged page stays a named error to its reader,
//! and a log that is damaged where it is needed is not opened.
//!
//! # Pages
//! A page that cannot be had is asked for again after a moment, because a device may have been at fault
//! for that moment only. If it fails again, the member's state is damaged. The shell sees to it that it
//! does not lead ([`Store::take_damaged`]) and then stops its state ([`Store::stop_state`]): the member
//! votes and logs as before, lets go of what is chosen like a log replica, serves nobody, and is as one
//! that was away: it gets a snapshot, and what comes after that from its own log
//! ([`super::snapshot`]). Until a checkpoint has the new state, the catalog says what was there before,
//! so every crash state is one of the two.
//!
//! *The whole state, not the damaged range.* A range of another member's tree is of another slot than
//! the rest of this one's, and whatever joins the two would be a second way of becoming whole, with
//! crash states of its own, for a fault that one disk in many has once in years. A snapshot is bounded
//! in rate, verified as a whole by its digest, and the same code that every member left behind uses.
//! Its price is the group's size, at most the 10 GB of a partition.
//!
//! A checkpoint does not wait for a page that will not come: a stopped member's part of it is passed
//! over. One that leads and finds nobody to hand over to is not stopped: it goes on to serve what it
//! can read, its shard's checkpoint waits as in a group of one, and so in the end do its writes.
//!
//! Blocks below a damaged interior page cannot be found any more: they stay taken.
//!
//! # Log
//! **Rule (tail or damage)**, **Rule (identity)**. What lies before the checkpoint's point are entries
//! only: slots there become unknown, never empty, and are got from the others
//! ([`super::members`]' `recovery`). Behind the point lie promises too, of all groups of the shard, and
//! what a bad batch held nobody can say. So it is never asked: no member of the shard takes part any
//! more under its old identity. What its durable checkpoint contains was chosen, and stays. The log
//! begins anew, beyond everything that the old one named, and a checkpoint that says all this is
//! durable before anybody is served.
//!
//! A lost member is told of to its group ([`Store::lost_members`]), which removes it. If the new one is
//! to be on this shard, it takes over the state ([`Store::create_member`]): exactly a member that has
//! installed a snapshot of that slot, so only what the lost part of the log held is fetched. If it is
//! elsewhere, the old state stays until the group has three storage replicas again (**Rule
//! (trimming)**), and is then dropped ([`Store::drop_lost`]).
//!
//! Members that only the lost log knew of leave nothing behind: their groups' leaders are told that they
//! are not here when they write to them.
//!
//! A shard that lost a log may have founded groups in the lost part, and must not found them again
//! under the same identities: it founds none any more ([`Store::logs_lost`]).
//!
//! A sealed part of the log that turns out damaged while the shard runs ([`Store::note_log_damage`]) is
//! needed by a recovery only: the next checkpoint makes it one that no recovery needs, for groups of
//! one, too.
//!
//! Left out: a damaged catalog, space map or pair of superblocks; the shard is not opened, and the node
//! comes back as another one when its directory is deleted.

use std::cell::RefCell;

use forebay_core::ids::{Ballot, GroupId, Lsn, Slot};
use forebay_core::paxos::{ConfigurationAt, MemberId};
use forebay_core::time::Nanos;

use super::members::MemberState;
use super::recovery::{BlockingDisk, OpenError, Opening};
use super::{GroupOrdinal, MemberDescriptor, PendingEntry, Refused, Store, Ticket, Work};
use crate::log::{LogDamage, MemberCreate, RecordHeader, RecordKind, RecoveredLog};
use crate::notice;
use crate::tree::PageRef;

/// Pages that are looked at again at a time.
const SUSPECTS_MAX: usize = 64;
/// Turns without anything to do for the disk, after which a first checkpoint is not going to come.
const IDLE_TURNS_MAX: u32 = 1_000;

/// A page that could not be had, of a group that others have, too.
#[derive(Clone, Copy, Debug)]
struct Suspect {
    group: GroupOrdinal,
    page: PageRef,
    /// It failed again.
    confirmed: bool,
}

/// What the store keeps of damage.
#[derive(Debug, Default)]
pub(super) struct Repair {
    /// Readers only look, and note what they met.
    suspects: RefCell<Vec<Suspect>>,
    /// Members whose state is damaged, since the shell last asked.
    damaged: Vec<GroupOrdinal>,
    logs_lost: u64,
    /// Of the log, since the start.
    pub(super) log_ranges: u64,
    /// Since the start, of members' states: found, and replaced or dropped with their member.
    pub(super) damaged_pages: u64,
    pub(super) repaired_pages: u64,
}

impl Repair {
    pub(super) fn opened(logs_lost: u64, log_ranges: u64) -> Repair {
        Repair { logs_lost, log_ranges, ..Repair::default() }
    }

    pub(super) fn logs_lost(&self) -> u64 {
        self.logs_lost
    }

    /// The group leaves this shard.
    pub(super) fn forget(&mut self, group: GroupOrdinal) {
        self.suspects.get_mut().retain(|suspect| suspect.group != group);
        self.damaged.retain(|damaged| *damaged != group);
    }
}

/// A member that was lost with its shard's log.
#[derive(Clone, Copy, Debug)]
pub struct LostMember {
    /// Its group.
    pub group: GroupId,
    /// Its identity, which nobody uses any more.
    pub member: MemberId,
    /// The newest configuration that it knew to be chosen.
    pub configuration: Option<ConfigurationAt>,
}

impl Store {
    /// A page of the group could not be had.
    pub(super) fn suspect(&self, group: GroupOrdinal, page: PageRef) {
        let state = self.groups.get(group);
        let member = state.member.as_deref().filter(|member| member.keeps_state());
        if state.dropped || member.is_none_or(|member| member.stopped || member.lost) {
            return;
        }
        let mut suspects = self.repair.suspects.borrow_mut();
        let known = suspects.iter().any(|known| (known.group, known.page) == (group, page));
        if !known && suspects.len() < SUSPECTS_MAX {
            suspects.push(Suspect { group, page, confirmed: false });
        }
    }

    /// A read of the page failed: not for the first time, if it was a suspect before.
    pub(super) fn failed_again(&mut self, page: PageRef) {
        let suspects = self.repair.suspects.get_mut().iter_mut();
        suspects.filter(|suspect| suspect.page == page).for_each(|s| s.confirmed = true);
    }

    /// Reads suspects again, and takes note of those that are damaged.
    pub(super) fn confirm_damage(&mut self, work: &mut Work) {
        if self.repair.suspects.get_mut().is_empty() {
            return;
        }
        let mut suspects = std::mem::take(self.repair.suspects.get_mut());
        suspects.retain(|suspect| {
            let Suspect { group, page, confirmed } = *suspect;
            if confirmed {
                self.found_damaged(group, page);
                return false;
            }
            if let Some(until) = self.damaged_until(page) {
                work.wake_by(until);
                return true;
            }
            let missing = !self.cache.contains(&page);
            if missing {
                self.fetch(page);
            }
            missing
        });
        self.repair.suspects.get_mut().append(&mut suspects);
    }

    pub(super) fn found_damaged(&mut self, group: GroupOrdinal, page: PageRef) {
        let (shard, id) = (self.shard(), self.group_id(group));
        let state = self.groups.get_mut(group);
        let Some(member) = state.member.as_deref_mut().filter(|member| !member.stopped) else {
            return;
        };
        if member.damaged_pages.contains(&page.id) {
            return;
        }
        member.damaged_pages.push(page.id);
        if member.damaged_pages.len() == 1 {
            self.repair.damaged.push(group);
            notice::say(format_args!(
                "shard {shard}: page {} of group {id} is damaged; the group's state will be fetched from \
                 another member",
                page.id
            ));
        }
        self.repair.damaged_pages += 1;
    }

    /// Storage replicas whose state has turned out damaged since the last call. The shell sees to it that
    /// they do not lead, stops their state ([`Store::stop_state`]), and gets them a snapshot of at least
    /// the slot that they have applied.
    pub fn take_damaged(&mut self, damaged: &mut Vec<GroupOrdinal>) {
        damaged.append(&mut self.repair.damaged);
    }

    /// The member's state is damaged, will be replaced, and is read by nobody until then: what is chosen
    /// from here on goes by it, and checkpoints pass it over.
    ///
    /// # Panics
    /// If it keeps no state.
    pub fn stop_state(&mut self, group: GroupOrdinal) {
        let state = self.groups.get_mut(group);
        state.changed = true;
        let member = state.member.as_deref_mut().expect("a member's state is stopped");
        assert!(member.keeps_state(), "a log replica has no state");
        member.stopped = true;
        self.snapshots.behind.forget(group);
        self.repair.forget(group);
    }

    /// Whether the member's state has turned out damaged, and was not replaced yet.
    #[must_use]
    pub fn is_state_damaged(&self, group: GroupOrdinal) -> bool {
        let member = self.groups.get(group).member.as_ref();
        member.is_some_and(|member| member.keeps_state() && !member.damaged_pages.is_empty())
    }

    /// Whether the member's state is damaged and waits to be replaced.
    #[must_use]
    pub fn is_stopped(&self, group: GroupOrdinal) -> bool {
        self.groups.get(group).member.as_ref().is_some_and(|member| member.stopped)
    }

    /// The member has another state.
    pub(super) fn repaired(&mut self, group: GroupOrdinal) {
        let (shard, id) = (self.shard(), self.group_id(group));
        self.repair.repaired_pages += self.take_damaged_pages(group);
        notice::say(format_args!("shard {shard}: the state of group {id} is whole again"));
    }

    /// The member's state, damaged pages and all, is nobody's any more: how many there were.
    pub(super) fn take_damaged_pages(&mut self, group: GroupOrdinal) -> u64 {
        let member = self.groups.get_mut(group).member.as_deref_mut().expect("it had a state");
        std::mem::take(&mut member.damaged_pages).len() as u64
    }

    /// Members whose state is damaged at the moment.
    pub(super) fn damaged_members(&self) -> usize {
        self.live_members().filter(|(_, member)| !member.damaged_pages.is_empty()).count()
    }

    fn live_members(&self) -> impl Iterator<Item = (GroupOrdinal, &MemberState)> {
        let states = self.groups.iter().filter(|(_, state)| !state.dropped);
        states.filter_map(|(group, state)| Some((group, state.member.as_deref()?)))
    }

    /// Members that were lost with this shard's log, and are still to be replaced or dropped.
    pub fn lost_members(&self) -> impl Iterator<Item = LostMember> + '_ {
        let lost = self.live_members().filter(|(_, member)| member.lost);
        lost.map(|(group, member)| LostMember {
            group: self.group_id(group),
            member: member.id,
            configuration: member.newest_configuration(),
        })
    }

    /// How often this shard's log was given up because it was damaged. If ever, the shard may have been
    /// a founder of groups that it knows nothing of: it founds none any more.
    #[must_use]
    pub fn logs_lost(&self) -> u64 {
        self.repair.logs_lost
    }

    /// Drops a lost member's state, if it is still there; whether it was.
    ///
    /// # Errors
    /// Nothing was begun; see [`Refused`].
    pub fn drop_lost(&mut self, group: GroupId, member: MemberId) -> Result<bool, Refused> {
        let mut lost = self.live_members().filter(|(_, state)| state.lost && state.id == member);
        let found = lost.find(|(ordinal, _)| self.group_id(*ordinal) == group);
        let found = found.map(|(ordinal, _)| ordinal);
        drop(lost);
        let Some(ordinal) = found else { return Ok(false) };
        self.drop_group(ordinal).map(|_| true)
    }

    /// Whether the member has never promised or accepted anything, so that another one may have its
    /// place and state.
    #[must_use]
    pub fn may_be_reborn(&self, group: GroupOrdinal) -> bool {
        self.member(group).may_be_reborn() && !self.is_committing_install(group)
    }

    /// The member takes no part any more; the next one that is created has its place and state.
    ///
    /// # Panics
    /// If it has a part; see [`Store::may_be_reborn`].
    pub fn forsake(&mut self, group: GroupOrdinal) {
        assert!(self.may_be_reborn(group), "it may have promised something");
        self.cancel_install(group);
        self.end_snapshots_of(group);
        self.repair.forget(group);
        let member = self.groups.get_mut(group).member.as_deref_mut().expect("just looked");
        member.lost = true;
    }

    /// A new member takes the place and the state of one that was lost.
    pub(super) fn be_reborn(
        &mut self,
        group: GroupOrdinal,
        descriptor: MemberDescriptor<'_>,
    ) -> Result<(GroupOrdinal, Ticket), Refused> {
        let MemberDescriptor { member, role, configuration, payload, .. } = descriptor;
        assert!(configuration.is_none(), "nobody founds a group again");
        let create = MemberCreate { member, role, configuration, payload };
        let kind = RecordKind::MEMBER_CREATE;
        let (slot, ballot) = (Slot(0), Ballot(0));
        let header = RecordHeader { kind, group: descriptor.group, slot, ballot, origin: ballot };
        let appended = self.log.append(&header, &[&create.prefix(), payload]);
        let position = appended.map_err(|error| self.log_refused(error))?;
        let state = self.groups.get_mut(group);
        state.member.as_deref_mut().expect("it was lost").reborn(member, position);
        (state.payload, state.changed) = (payload.to_vec(), true);
        Ok((group, self.enqueue(position, group, Slot(0), PendingEntry::GroupCreate)))
    }

    /// A sealed part of the log is damaged, and was still needed when that was found: the next
    /// checkpoint makes it one that no recovery reads.
    pub fn note_log_damage(&mut self) {
        self.repair.log_ranges += 1;
        self.checkpoint.want();
    }

    /// Writes a checkpoint before anybody is served: until it is durable, the disk says that the members
    /// which were lost are not.
    pub(super) fn write_down_loss(
        &mut self,
        disk: &mut dyn BlockingDisk,
        now: Nanos,
    ) -> Result<(), OpenError> {
        self.repair.log_ranges += 1;
        let (before, mut idle) = (self.checkpoint.number(), 0);
        self.checkpoint.demand();
        while self.checkpoint.number() == before {
            idle = if self.turn_alone(disk, now)? { 0 } else { idle + 1 };
            if idle > IDLE_TURNS_MAX {
                return Err(OpenError::NoRoomForLoss);
            }
        }
        Ok(())
    }
}

impl Opening {
    /// Whether every group here has other members, who have what this shard may have lost.
    pub(super) fn has_peers(&self) -> bool {
        let mut groups = self.groups.iter().peekable();
        groups.peek().is_some() && groups.all(|(_, state)| state.member.is_some())
    }

    /// Gives up the log: see the module's docs. Nothing was replayed into this opening.
    pub(super) fn lose_log(&mut self, damage: &LogDamage) -> RecoveredLog {
        let recovered =
            RecoveredLog::after_loss(&self.config.log, self.superblock.log_start.lsn, damage);
        for (_, state) in self.groups.iter_mut() {
            let member = state.member.as_deref_mut().expect("every group has peers");
            member.lose_log();
            state.changed = true;
            self.members += 1;
        }
        let lsn: Lsn = recovered.point.lsn;
        self.superblock.log_start = recovered.point;
        self.superblock.history_bytes = 0;
        self.superblock.durable_lsn = lsn;
        self.superblock.logs_lost += 1;
        self.trim_lsn = lsn;
        recovered
    }
}
