//! What members have to do with snapshots: who needs one, from whom, and how far a promotion is.

use std::collections::VecDeque;

use forebay_core::ids::Slot;
use forebay_core::liveness::Peer;
use forebay_core::message::peer::Route;
use forebay_core::paxos::{MemberId, MemberRole};
use forebay_storage::store::{GroupOrdinal, Store};

use super::member::Members;
use super::snapshot::Promotion;

/// What a member needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Want {
    /// Who said so, and so has it.
    pub(super) from: Option<MemberId>,
    /// A snapshot of an earlier slot is of no use.
    pub(super) at_least: Slot,
}

impl Members {
    /// The member that a message about a snapshot is for, if it is what it says to be.
    pub(super) fn addressee(&mut self, route: Route, from: Peer) -> Option<GroupOrdinal> {
        let group = self.by_group.get(&route.group).copied();
        let member = group.and_then(|group| self.find(group));
        let fits = member.is_some_and(|member| {
            member.id == route.to && member.replica.peer_of(route.from) == Some(from)
        });
        if !fits {
            self.unheard.note_misdirected(from, route.group, route.to);
        }
        group.filter(|_| fits)
    }

    /// The way to another member of a group.
    pub(super) fn route_to(&self, group: GroupOrdinal, to: MemberId) -> Option<(Route, Peer)> {
        let member = self.list.get(group.0 as usize)?.as_deref()?;
        let peer = member.replica.peer_of(to)?;
        Some((Route { group: member.group, from: member.id, to }, peer))
    }

    pub(super) fn want(&self, group: GroupOrdinal) -> Option<Want> {
        self.list.get(group.0 as usize)?.as_deref()?.want
    }

    /// The member needs a snapshot.
    pub(super) fn wants(&mut self, group: GroupOrdinal, want: Want) {
        let Some(member) = self.find(group) else { return };
        let fresh = member.want.is_none();
        let at_least = member.want.map_or(want.at_least, |known| known.at_least.max(want.at_least));
        member.want = Some(Want { from: want.from, at_least });
        if fresh {
            self.wanting.push(group);
        }
    }

    /// It does not need it any more.
    pub(super) fn satisfied(&mut self, group: GroupOrdinal) {
        if let Some(member) = self.find(group) {
            member.want = None;
        }
    }

    pub(super) fn take_wanting(&mut self, wanted: &mut VecDeque<GroupOrdinal>) {
        wanted.extend(self.wanting.drain(..));
    }

    pub(super) fn installed(&mut self, group: GroupOrdinal) {
        if let Some(member) = self.find(group) {
            (member.want, member.role) = (None, MemberRole::Storage);
        }
        self.set_stopped(group, false);
    }

    /// A leader wants this log replica to keep state.
    pub(super) fn offered(
        &mut self,
        store: &Store,
        group: GroupOrdinal,
        from: MemberId,
        slot: Slot,
    ) {
        let Some(member) = self.find(group) else { return };
        if member.role == MemberRole::Log && member.want.is_none() {
            // What the log does not reach back to is of no use.
            let at_least = slot.max(store.trimmed_slot(group)).max(Slot(1));
            self.wants(group, Want { from: Some(from), at_least });
        }
    }

    /// Other storage replicas of the group, by the newest configuration that is known.
    pub(super) fn sources(&self, group: GroupOrdinal) -> Vec<MemberId> {
        let Some(member) = self.list.get(group.0 as usize).and_then(Option::as_deref) else {
            return Vec::new();
        };
        let known = member.replica.configuration();
        let members = known.into_iter().flat_map(|known| known.configuration.members());
        let others =
            members.filter(|other| other.id != member.id && other.role == MemberRole::Storage);
        let mut ids: Vec<MemberId> = others.map(|other| other.id).collect();
        // Whom the leader's word came from may be newer than the configuration known here.
        if let Some(from) = member.want.and_then(|want| want.from)
            && !ids.contains(&from)
            && member.replica.peer_of(from).is_some()
        {
            ids.push(from);
        }
        ids
    }

    /// Whether this member leads, and the other one is a log replica that keeps no state yet.
    pub(super) fn promotes(&self, group: GroupOrdinal, other: MemberId) -> bool {
        matches!(self.promotion(group, other), Promotion::Waiting)
    }

    pub(super) fn promotion(&self, group: GroupOrdinal, other: MemberId) -> Promotion {
        let member = self.list.get(group.0 as usize).and_then(Option::as_deref);
        let Some(member) = member.filter(|member| member.serves) else { return Promotion::NotHere };
        let Some(progress) = member.replica.progress_of(other) else { return Promotion::NotHere };
        let chosen = member.replica.figures().chosen_slot;
        if progress.applied == Slot(0) {
            Promotion::Waiting
        } else if member.replica.may_promote(other) {
            Promotion::Ready
        } else {
            Promotion::CatchingUp { applied: progress.applied, chosen }
        }
    }
}
