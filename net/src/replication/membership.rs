//! What a shard does for the membership of its groups: it reports those that it leads, carries out
//! orders, and knows which of its members nobody needs.
//!
//! ```text
//!   leads a group ─────► report, until it was noted, and again when something is new
//!   ordered a change ──► only under the configuration that it was planned with, one at a time,
//!                        and no member that is heard is removed
//!   has a member that ─► removed · never added · without a leader for long: may it go?
//! ```
//!
//! The decisions are in [`super::placement`]; the rules of changes are core's
//! ([`forebay_core::paxos::Change`]).

use forebay_core::ids::{Ballot, GroupId, Slot};
use forebay_core::liveness::{Liveness, Peer};
use forebay_core::message::peer::{GroupReport, Marks, MemberStep};
use forebay_core::paxos::{At, Change, MemberId, MemberRole, Replica, Settings};
use forebay_core::time::Nanos;
use forebay_storage::store::{GroupOrdinal, MemberDescriptor, Refused, Store, Ticket};

use super::Replication;
use super::member::{Member, Members};
use super::placement::DEAD_AFTER_NANOS;

/// A report that was not noted is sent again after this.
const REPORT_AGAIN_NANOS: u64 = 300 * Nanos::PER_MILLI;
/// Reports of one look, at most: the others follow with the next.
const REPORTS_MAX: usize = 256;
/// "It is not here" that was not said again for so long is over.
const ABSENT_FRESH_NANOS: u64 = Nanos::PER_SECOND;
/// A member that has had no leader for so long may be of a group that is gone.
const LEADERLESS_NANOS: u64 = 3 * Nanos::PER_SECOND;
/// Messages to members that are not here, remembered for an answer at most.
const ABSENT_MAX: usize = 64;

/// Who leads the system group, as far as this shard has heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Watcher {
    pub(super) peer: Peer,
    ballot: Ballot,
}

/// What is remembered of a member for its group's sake.
#[derive(Debug, Default)]
pub(super) struct Watched {
    /// A chosen configuration does not list it any more.
    pub(super) removed: bool,
    /// The report that was sent last: to whom, when, and whether it was noted.
    told: Option<(Watcher, GroupReport, Nanos, bool)>,
    /// Members whose shards say that they have none: since when, and when they said so last.
    absent: Vec<(MemberId, Nanos, Nanos)>,
    leaderless_since: Option<Nanos>,
}

impl Watched {
    /// A member spoke.
    pub(super) fn heard(&mut self, member: MemberId) {
        if !self.absent.is_empty() {
            self.absent.retain(|(absent, _, _)| *absent != member);
        }
    }

    fn is_lost(&self, member: MemberId, now: Nanos) -> bool {
        let lost = |(_, since, last): &(MemberId, Nanos, Nanos)| {
            last.since(*since) >= DEAD_AFTER_NANOS && now.since(*last) < ABSENT_FRESH_NANOS
        };
        self.absent.iter().filter(|(absent, _, _)| *absent == member).any(lost)
    }
}

impl Member {
    fn report(&self, me: Peer, liveness: &Liveness, now: Nanos) -> Option<GroupReport> {
        let at = *self.replica.configuration()?;
        let mut marks = Marks::default();
        for (place, member) in at.configuration.members().iter().enumerate() {
            if member.peer != me && !liveness.reaches(member.peer, now) {
                marks.set_unreached(place);
            }
            if self.watched.is_lost(member.id, now) {
                marks.set_lost(place);
            }
        }
        if self.replica.is_changing() {
            marks.set_changing();
        }
        let ballot = self.replica.figures().promised;
        Some(GroupReport { group: self.group, ballot, at, marks })
    }

    /// Whether its group has it as a member, as far as it knows.
    fn is_listed(&self) -> bool {
        let listed = |id| self.replica.configuration()?.configuration.find(id).map(drop);
        !self.watched.removed && listed(self.id).is_some()
    }

    /// Whether its group relies on its state.
    fn is_promoted(&self) -> bool {
        let known = self.replica.configuration();
        let listed = known.and_then(|known| known.configuration.find(self.id));
        listed.is_some_and(|listed| listed.role == MemberRole::Storage)
    }

    /// What it does, for operators.
    pub(super) fn state(&self) -> MemberState {
        match (self.watched.removed, self.is_listed()) {
            (true, _) => MemberState::Removed,
            (false, false) => MemberState::Joining,
            (false, true) if self.role == MemberRole::Storage && !self.is_promoted() => {
                MemberState::Filling
            }
            (false, true) => MemberState::Listed,
        }
    }
}

/// How a member stands to its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberState {
    /// It is one.
    Listed,
    /// It is one that keeps the log, and gets the rest.
    Filling,
    /// It was created, and was not added yet as far as it knows.
    Joining,
    /// It is one no more.
    Removed,
}

impl Members {
    /// Somebody wrote to a member that is not here.
    pub(super) fn note_misdirected(&mut self, from: Peer, group: GroupId, member: MemberId) {
        self.misdirected += 1;
        let absent = (from, group, member);
        if self.absent.len() < ABSENT_MAX && !self.absent.contains(&absent) {
            self.absent.push(absent);
        }
    }
}

impl Replication {
    /// Creates an empty log replica of a group here, which the group's leader will add.
    ///
    /// # Errors
    /// Nothing was begun; see [`Refused`].
    pub fn create_joining(
        &mut self,
        store: &mut Store,
        group: GroupId,
        member: MemberId,
        payload: &[u8],
    ) -> Result<(GroupOrdinal, Ticket), Refused> {
        let (role, configuration) = (MemberRole::Log, None);
        let descriptor = MemberDescriptor { group, member, role, configuration, payload };
        let (ordinal, ticket) = store.create_member(descriptor)?;
        let replica = Replica::joining(member, Settings::DEFAULT);
        self.members.insert(group, ordinal, role, replica, Slot(0));
        Ok((ordinal, ticket))
    }

    /// The identity of this shard's member, and how it stands to its group.
    #[must_use]
    pub fn member(&self, group: GroupOrdinal) -> (MemberId, MemberState) {
        let member = self.members.get(group);
        (member.id, member.state())
    }

    /// Whether the member has heard nothing of its group yet, so that nothing is lost with it.
    #[must_use]
    pub fn is_blank(&self, group: GroupOrdinal) -> bool {
        self.members.get(group).replica.configuration().is_none()
    }

    /// Begins a change of the members of a group that is led here. `slot` is that of the configuration
    /// which it was planned with.
    ///
    /// # Errors
    /// Nothing was begun, for this reason.
    pub fn change(
        &mut self,
        store: &mut Store,
        group: GroupOrdinal,
        slot: Slot,
        change: Change,
        now: Nanos,
    ) -> Result<(), String> {
        let azs = self.topology.as_ref().map_or(1, |topology| topology.azs());
        let Members { liveness, list, effects, .. } = &mut self.members;
        let member = list[group.0 as usize].as_deref_mut().expect(super::member::A_MEMBER);
        let at = At { now, liveness, random: 0 };
        let known = member.replica.configuration().filter(|known| known.slot == slot);
        let Some(known) = known.filter(|_| !member.replica.is_changing()) else {
            return Err(format!("it was planned with the members of slot {slot}, and others are"));
        };
        if let Change::Remove { id } = change
            && let Some(removed) = known.configuration.find(id)
            && at.liveness.reaches(removed.peer, now)
            && !member.watched.is_lost(id, now)
        {
            return Err(format!("member {} is heard here", id.0));
        }
        if !member.replica.holds_lease(at) {
            return Err("this member does not lead with a lease".to_owned());
        }
        let begun = member.replica.change(change, azs, at, effects);
        self.members.carry_out(store, group);
        begun.map(drop).map_err(|error| error.to_string())
    }

    /// A shard says that it leads the system group under this ballot.
    pub fn watched_by(&mut self, peer: Peer, ballot: Ballot) {
        if self.watcher.is_none_or(|known| known.ballot <= ballot) {
            self.watcher = Some(Watcher { peer, ballot });
        }
    }

    /// The shard that leads the system group, as far as this one has heard.
    #[must_use]
    pub fn watcher(&self) -> Option<Peer> {
        self.watcher.map(|watcher| watcher.peer)
    }

    /// What is to be told to the leader of the system group, to whom.
    pub fn reports(&mut self, now: Nanos, reports: &mut Vec<(Peer, GroupReport)>) {
        let (Some(watcher), me) = (self.watcher, self.me.peer) else { return };
        let Members { liveness, list, .. } = &mut self.members;
        for member in list.iter_mut().flatten().filter(|member| member.serves) {
            let Some(report) = member.report(me, liveness, now) else { continue };
            let known =
                member.watched.told.filter(|(to, told, _, _)| (*to, *told) == (watcher, report));
            let quiet = known.is_some_and(|(_, _, sent_at, noted)| {
                noted || now.since(sent_at) < REPORT_AGAIN_NANOS
            });
            if quiet {
                continue;
            }
            member.watched.told = Some((watcher, report, now, false));
            reports.push((watcher.peer, report));
            if reports.len() >= REPORTS_MAX {
                return;
            }
        }
    }

    /// A report was taken in.
    pub fn noted(&mut self, from: Peer, group: GroupId, ballot: Ballot, slot: Slot, marks: Marks) {
        let Some(ordinal) = self.members.ordinal(group) else { return };
        let Some(member) = self.members.find(ordinal) else { return };
        if let Some((to, told, _, noted)) = &mut member.watched.told {
            let same = (told.ballot, told.at.slot, told.marks) == (ballot, slot, marks);
            *noted |= same && to.peer == from;
        }
    }

    /// A shard says that it has no such member.
    pub fn absent(&mut self, from: Peer, group: GroupId, id: MemberId, now: Nanos) {
        let Some(ordinal) = self.members.ordinal(group) else { return };
        let Some(member) = self.members.find(ordinal) else { return };
        let known = member.replica.configuration();
        let listed = known.and_then(|known| known.configuration.find(id));
        if listed.is_none_or(|listed| listed.peer != from) {
            return;
        }
        let absent = &mut member.watched.absent;
        match absent.iter_mut().find(|(absent, _, _)| *absent == id) {
            Some((_, since, last)) => {
                if now.since(*last) >= ABSENT_FRESH_NANOS {
                    *since = now;
                }
                *last = now;
            }
            None => absent.push((id, now, now)),
        }
    }

    /// Who wrote to members that are not here, since the last call.
    pub fn take_absent(&mut self) -> Vec<(Peer, GroupId, MemberId)> {
        std::mem::take(&mut self.members.absent)
    }

    /// Members here that belong to no group that they hear of, and the slot of the configuration that
    /// each knows.
    pub fn relics(&mut self, now: Nanos) -> Vec<(GroupId, MemberId, Slot)> {
        let mut relics = Vec::new();
        for member in self.members.list.iter_mut().flatten() {
            let leaderless = member.replica.leader().is_none();
            let since = &mut member.watched.leaderless_since;
            *since = leaderless.then(|| since.unwrap_or(now));
            let forgotten = since.is_some_and(|since| now.since(since) >= LEADERLESS_NANOS);
            if forgotten || !member.is_listed() {
                let slot = member.replica.configuration().map_or(Slot(0), |known| known.slot);
                relics.push((member.group, member.id, slot));
            }
        }
        relics
    }

    /// Sends a step; it may be lost.
    pub fn send_member(&mut self, to: Peer, step: &MemberStep) {
        self.links.send_large(to, &step.frame(&mut self.scratch));
    }

    /// Shards that messages go through to at the moment.
    pub fn linked(&self) -> impl Iterator<Item = Peer> + '_ {
        let topology = self.topology.iter().flat_map(|topology| topology.peers());
        let peers = topology.map(|(info, _)| Peer(info.expected.peer));
        peers.filter(|peer| self.links.is_up(*peer))
    }

    /// How long a shard has been missed; 0 while it is heard. This one always is.
    #[must_use]
    pub fn missed_nanos(&self, peer: Peer, now: Nanos) -> u64 {
        if peer == self.me.peer { 0 } else { self.members.liveness.missed_nanos(peer, now) }
    }

    /// The ballot of a group that is led here.
    #[must_use]
    pub fn ballot(&self, group: GroupOrdinal) -> Ballot {
        self.members.get(group).replica.figures().promised
    }

    /// Peers whose links came up since the last call.
    pub fn take_greeted(&mut self) -> Vec<Peer> {
        std::mem::take(&mut self.greeted)
    }
}
