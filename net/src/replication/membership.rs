//! What a shard does for the membership of its groups: it reports those that it leads, carries out
//! orders, and knows which of its members nobody needs.
//!
//! ```text
//!   leads a group ─────► report, until it was noted, and again when something is new
//!   ordered a change ──► only under the configuration that it was planned with, one at a time,
//!                        and no member is removed that is heard here, or by one that could lead
//!   does not reach a ──► for long: another member leads that reaches all of them
//!   member
//!   has a member that ─► removed · never added · without a leader, or news of a change, for long: may it
//!                        go?
//! ```
//!
//! The decisions are in [`super::placement`]; the rules of changes are core's
//! ([`forebay_core::paxos::Change`]).

use forebay_core::ids::{Ballot, GroupId, Slot};
use forebay_core::liveness::{Liveness, Peer};
use forebay_core::message::peer::{GroupReport, Marks, MemberStep};
use forebay_core::paxos::{
    At, Change, Member as ConfiguredMember, MemberId, MemberRole, Replica, Settings,
};
use forebay_core::time::Nanos;
use forebay_storage::store::{GroupOrdinal, MemberDescriptor, Refused, Store, Ticket};

use super::Replication;
use super::member::{Member, Members};
use super::placement::{DEAD_AFTER_NANOS, Seen, successor};

/// A report that was not noted is sent again after this.
const REPORT_AGAIN_NANOS: u64 = 300 * Nanos::PER_MILLI;
/// Reports of one look, at most: the others follow with the next.
const REPORTS_MAX: usize = 256;
/// "It is not here" that was not said again for so long is over.
const ABSENT_FRESH_NANOS: u64 = Nanos::PER_SECOND;
/// A member that has had no leader for so long, or was told nothing by one that it hears, may be of a
/// group that is gone or does not list it any more. So may one that holds a change for so long that it does
/// not know to be chosen: if the change removed it, the leader may have ended before it could say so.
const FORGOTTEN_NANOS: u64 = 3 * Nanos::PER_SECOND;
/// A member that is not reached for so long is reached by another leader, if there is one that can: longer
/// than a link takes to come back by itself. It costs a hand-over, and no copy, so that operators need not
/// say how long.
pub(super) const APART_NANOS: u64 = 5 * Nanos::PER_SECOND;
/// A lead that another member did not take is offered again after this.
const YIELD_AGAIN_NANOS: u64 = 2 * Nanos::PER_SECOND;
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
    /// It has no leader, or one that tells it nothing, or not what became of a change.
    forgotten_since: Option<Nanos>,
    /// It stands in [`Members::news`].
    is_news: bool,
}

/// What every report depends on besides its member: whom it goes to, and who is reached.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Reporting {
    watcher: Option<Watcher>,
    reached: Vec<Peer>,
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

    /// Reports if there is something to report. Whether to look again.
    fn tell_news(
        &mut self,
        me: Peer,
        watcher: Watcher,
        liveness: &Liveness,
        now: Nanos,
        reports: &mut Vec<(Peer, GroupReport)>,
    ) -> bool {
        let report = self.report(me, liveness, now).filter(|_| self.serves);
        let Some(report) = report else { return true };
        let told = self.watched.told;
        let known = told.filter(|(to, told, _, _)| (*to, *told) == (watcher, report));
        if let Some((_, _, _, true)) = known {
            // Who is absent becomes lost by time alone.
            return !self.watched.absent.is_empty();
        }
        if known.is_none_or(|(_, _, sent_at, _)| now.since(sent_at) >= REPORT_AGAIN_NANOS) {
            self.watched.told = Some((watcher, report, now, false));
            reports.push((watcher.peer, report));
        }
        true
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
    /// What a leader here reports of its group may be something else now.
    pub(super) fn is_news(&mut self, ordinal: GroupOrdinal) {
        let Some(member) = self.find(ordinal).filter(|member| member.serves) else { return };
        if !std::mem::replace(&mut member.watched.is_news, true) {
            self.news.push(ordinal);
        }
    }

    fn all_are_news(&mut self) {
        for index in 0..self.list.len() {
            self.is_news(GroupOrdinal(index as u32));
        }
    }

    /// Somebody wrote to a member that is not here.
    pub(super) fn note_misdirected(&mut self, from: Peer, group: GroupId, member: MemberId) {
        self.unheard.note_misdirected(from, group, member);
        let absent = (from, group, member);
        if self.absent.len() < ABSENT_MAX && !self.absent.contains(&absent) {
            self.absent.push(absent);
        }
    }
}

impl Replication {
    /// Creates a log replica of a group here, which the group's leader will add: an empty one, or one with
    /// the state of an earlier member that was lost with the shard's log ([`Store::create_member`]).
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
        let recovered = store.recovered(ordinal);
        if recovered.applied > Slot(0) {
            let (role, trimmed) = (MemberRole::Storage, recovered.trimmed);
            let replica = Replica::recover(member, Settings::DEFAULT, recovered);
            self.members.insert(group, ordinal, role, replica, trimmed);
        } else {
            let replica = Replica::joining(member, Settings::DEFAULT);
            self.members.insert(group, ordinal, role, replica, Slot(0));
        }
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
        if let Change::Remove { id } = change
            && let Some(removed) = known.configuration.find(id)
            && !member.watched.is_lost(id, now)
            && let Some(other) = known.configuration.members().iter().find(|other| {
                other.role == MemberRole::Storage
                    && at.liveness.reached_by(other.peer, now).contains(&removed.peer)
            })
        {
            return Err(format!("member {} is heard by member {}", id.0, other.id.0));
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

    /// What is to be told to the leader of the system group, to whom. It costs what has changed since
    /// the last look, not what is led: ten thousand idle groups are not looked at.
    pub fn reports(&mut self, now: Nanos, reports: &mut Vec<(Peer, GroupReport)>) {
        let (Some(watcher), me) = (self.watcher, self.me.peer) else { return };
        let liveness = &self.members.liveness;
        let reached = liveness.peers().filter(|peer| liveness.reaches(*peer, now)).collect();
        let reporting = Reporting { watcher: self.watcher, reached };
        if self.reporting != reporting {
            self.reporting = reporting;
            self.members.all_are_news();
        }
        let Members { liveness, list, news, .. } = &mut self.members;
        news.retain(|ordinal| {
            let Some(member) = list[ordinal.0 as usize].as_deref_mut() else { return false };
            let waits = reports.len() >= REPORTS_MAX
                || member.tell_news(me, watcher, liveness, now, reports);
            member.watched.is_news = member.serves && waits;
            member.watched.is_news
        });
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
        self.members.is_news(ordinal);
    }

    /// Who wrote to members that are not here, since the last call.
    pub fn take_absent(&mut self) -> Vec<(Peer, GroupId, MemberId)> {
        std::mem::take(&mut self.members.absent)
    }

    /// Members here that belong to no group that they hear of, and the slot of the configuration that
    /// each knows.
    pub fn relics(&mut self, now: Nanos) -> Vec<(GroupId, MemberId, Slot)> {
        let mut relics = Vec::new();
        for index in 0..self.members.list.len() {
            if self.members.list[index].is_none() {
                continue;
            }
            let in_doubt = self.members.is_in_doubt(GroupOrdinal(index as u32), now);
            let member = self.members.list[index].as_deref_mut().expect("just looked");
            let untold = !member.serves && member.replica.is_changing();
            let forgotten = in_doubt || untold || member.replica.leader().is_none();
            let since = &mut member.watched.forgotten_since;
            *since = forgotten.then(|| since.unwrap_or(now));
            let forgotten = since.is_some_and(|since| now.since(since) >= FORGOTTEN_NANOS);
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

    /// What this shard knows of another one, or of itself, for [`super::Placement`]. `reached` are the
    /// shards that this one reaches.
    #[must_use]
    pub fn see<'a>(&'a self, peer: Peer, reached: &'a [Peer], now: Nanos) -> Seen<'a> {
        let reaches = match peer == self.me.peer {
            true => reached,
            false => self.members.liveness.reached_by(peer, now),
        };
        Seen { missed_nanos: self.missed_nanos(peer, now), reaches }
    }

    /// The shards that this one reaches.
    #[must_use]
    pub fn reached(&self, now: Nanos) -> Vec<Peer> {
        let liveness = &self.members.liveness;
        liveness.peers().filter(|peer| liveness.reaches(*peer, now)).collect()
    }

    /// Lets others lead the groups here whose members this shard has not all reached for long, while
    /// others do. To be called now and then; it looks at the groups only if a shard that
    /// is not reached here is reached elsewhere.
    pub fn yield_leads(&mut self, store: &mut Store, now: Nanos) {
        let liveness = &self.members.liveness;
        self.unreached.retain(|(peer, _)| liveness.knows(*peer) && !liveness.reaches(*peer, now));
        for peer in liveness.peers().filter(|peer| !liveness.reaches(*peer, now)) {
            if self.unreached.iter().all(|(known, _)| *known != peer) {
                self.unreached.push((peer, now));
            }
        }
        let reaches = |from: Peer, to: Peer| liveness.reached_by(from, now).contains(&to);
        let elsewhere = |peer: Peer| liveness.peers().any(|other| reaches(other, peer));
        let apart = self.unreached.iter().filter(|(_, since)| now.since(*since) >= APART_NANOS);
        let apart: Vec<Peer> =
            apart.map(|(peer, _)| *peer).filter(|peer| elsewhere(*peer)).collect();
        if apart.is_empty() {
            return;
        }
        let mut yields = Vec::new();
        for (index, member) in self.members.list.iter().enumerate() {
            let Some(member) = member.as_deref().filter(|member| member.serves) else { continue };
            let Some(known) = member.replica.configuration() else { continue };
            let members = known.configuration.members();
            let waits = now < member.hand_over_at || member.replica.is_changing();
            if waits || members.iter().all(|other| !apart.contains(&other.peer)) {
                continue;
            }
            let able = |other: &ConfiguredMember| {
                liveness.reaches(other.peer, now) && member.replica.may_promote(other.id)
            };
            if let Some(next) = successor(members, self.me.peer, reaches).find(able) {
                yields.push((GroupOrdinal(index as u32), next.peer));
            }
        }
        for (group, next) in yields {
            let member = self.members.find(group).expect("just looked");
            member.hand_over_at = now + YIELD_AGAIN_NANOS;
            // Whoever cannot take it now is asked again.
            let _ = self.members.hand_over(store, group, next, now);
        }
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
