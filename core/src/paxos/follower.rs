//! What a member does for the leader that it follows: accept, acknowledge, learn what is chosen.
//!
//! ```text
//!     Accept{first = 12, entries}       held: 11        → accepted; acknowledged when durable
//!                                       held: 9         → gap: Accepted{held = 9, gap}
//!                                       held: 15        → a repetition: Accepted{held = 15}
//! ```
//!
//! The watermark that the leader tells holds for its own stream only: a slot counts as chosen here
//! when this member holds it as that leader proposed it, durably.

use super::effect::Effect;
use super::membership::MemberId;
use super::message::{ConfigurationAt, Message, Offered, Refusal};
use super::planted::Bug;
use super::replica::{
    At, LeaderSeen, Owner, Replica, Role, configuration_of, discard, discard_handle, held_of,
};
use crate::ids::{Ballot, Slot};
use crate::liveness::Peer;

impl Replica {
    /// A message of a leader: whether to obey it. Begins to follow the owner of a new ballot.
    pub(super) fn follow(
        &mut self,
        from: MemberId,
        peer: Peer,
        ballot: Ballot,
        at: At<'_>,
        effects: &mut Vec<Effect>,
    ) -> bool {
        let promised = self.acceptor.promised();
        let lower = ballot < promised && !self.planted.has(Bug::AcceptLowerBallot);
        if lower {
            self.refuse(from, ballot, Refusal::Promised, effects);
            return false;
        }
        if self.configurations.is_empty() {
            self.refuse(from, ballot, Refusal::Unconfigured, effects);
            return false;
        }
        let mine = matches!(&self.role, Role::Leading(leadership) if leadership.ballot == ballot);
        if mine || !self.owns(from, ballot) {
            // Nobody uses another's ballot.
            self.protocol_errors += 1;
            return false;
        }
        let incarnation = at.liveness.heard_incarnation(peer);
        let leader = LeaderSeen { ballot, member: from, peer, incarnation };
        if self.leader.is_none_or(|known| known.ballot != ballot) {
            self.step_down(effects);
            // What comes late of a lead that is over takes nobody's turn.
            if !self.is_relinquished(ballot) {
                (self.successor, self.handed) = (false, None);
            }
            self.told_durable = Slot(0);
            self.answer_due = true;
        }
        if matches!(self.role, Role::Canvassing(_)) {
            self.role = Role::Following;
        }
        if ballot > promised {
            self.own(from, peer);
            self.promise_due = None;
        }
        // After a restart, the owner of the promised ballot may be known only now.
        (self.owner.member, self.owner.peer) = (Some(from), Some(peer));
        self.highest_seen = self.highest_seen.max(ballot);
        self.leader = Some(leader);
        self.election_at = None;
        self.acceptor.begin_stream(ballot, effects);
        true
    }

    /// The highest promise is the one to this member, from now on.
    pub(super) fn own(&mut self, member: MemberId, peer: Peer) {
        self.owner = Owner { member: Some(member), peer: Some(peer), epoch: None };
    }

    pub(super) fn refuse(
        &self,
        to: MemberId,
        ballot: Ballot,
        reason: Refusal,
        effects: &mut Vec<Effect>,
    ) {
        let promised = self.acceptor.promised();
        let message = Message::Refused { ballot, promised, reason };
        effects.push(Effect::Send { to, message, last: Slot(0) });
    }

    pub(super) fn on_accept(
        &mut self,
        first: Slot,
        chosen: Slot,
        trim: Slot,
        entries: &[Offered<'_>],
        effects: &mut Vec<Effect>,
    ) {
        let before = self.acceptor.stream_slot();
        if first > before.next() {
            if self.planted.has(Bug::AcknowledgeBeyondGap) {
                self.acceptor.jump_gap(Slot(first.0 - 1));
            } else {
                self.gap = true;
                self.answer_due = true;
                return discard(entries, effects);
            }
        }
        let mut slot = first;
        for offered in entries {
            if slot == self.acceptor.stream_slot().next() {
                self.take(slot, offered, effects);
            } else {
                discard_handle(offered.handle, effects);
            }
            slot = slot.next();
        }
        if self.acceptor.stream_slot() == before {
            self.answer_due = true;
        }
        self.heard_chosen(chosen, trim);
    }

    /// Accepts an entry in the stream's next slot.
    pub(super) fn take(&mut self, slot: Slot, offered: &Offered<'_>, effects: &mut Vec<Effect>) {
        let held = held_of(offered, self.acceptor.stream());
        if let Some(replaced) = self.acceptor.accept(held) {
            discard_handle(replaced.handle, effects);
        }
        self.configurations.accept(slot, configuration_of(offered));
    }

    pub(super) fn on_chosen(&mut self, chosen: Slot, last: Slot, trim: Slot, ask: bool) {
        self.gap = last > self.acceptor.stream_slot();
        self.answer_due |= ask || self.gap;
        self.heard_chosen(chosen, trim);
    }

    fn heard_chosen(&mut self, chosen: Slot, trim: Slot) {
        self.known_chosen = self.known_chosen.max(chosen);
        self.may_trim = self.may_trim.max(trim);
    }

    /// What this member needs next has left the leader's log.
    #[allow(clippy::too_many_arguments)] // The message's fields and the step's circumstances.
    pub(super) fn on_trimmed(
        &mut self,
        from: MemberId,
        peer: Peer,
        ballot: Ballot,
        base: Slot,
        configuration: ConfigurationAt,
        at: At<'_>,
        effects: &mut Vec<Effect>,
    ) {
        if ballot < self.acceptor.promised() {
            return self.refuse(from, ballot, Refusal::Promised, effects);
        }
        if configuration.slot > base {
            self.protocol_errors += 1;
            return;
        }
        if self.configurations.is_empty() {
            // A new member begins where the leader's log begins.
            self.begin_after(base, configuration);
            self.acceptor.log_base(base, configuration, effects);
        }
        if !self.follow(from, peer, ballot, at, effects) {
            return;
        }
        let is_listed = configuration.configuration.find(self.id).is_some();
        if self.was_member && !is_listed && configuration.slot > self.configuration_slot() {
            // The entry that removed it is behind what has left the log.
            return self.leave(configuration.slot, effects);
        }
        self.answer_due = true;
        if base <= self.acceptor.stream_slot() {
            return;
        }
        if self.keeps_state() {
            effects.push(Effect::NeedsSnapshot { from, at_least: base });
        } else {
            self.begin_after(base, configuration);
            self.acceptor.log_base(base, configuration, effects);
        }
    }

    pub(super) fn on_reserve(
        &mut self,
        from: MemberId,
        ballot: Ballot,
        next: Ballot,
        effects: &mut Vec<Effect>,
    ) {
        if self.leader.is_some_and(|leader| leader.member == from && leader.ballot == ballot) {
            self.acceptor.reserve(next, effects);
        }
    }

    pub(super) fn on_relinquish(
        &mut self,
        from: MemberId,
        ballot: Ballot,
        successor: Option<MemberId>,
        at: At<'_>,
    ) {
        if !self.owns(from, ballot) {
            self.protocol_errors += 1;
            return;
        }
        self.note_relinquished(ballot);
        if self.leader.is_some_and(|leader| self.is_relinquished(leader.ballot)) {
            self.leader = None;
            if let Some(successor) = successor {
                self.let_another_stand(successor, at);
            }
        }
        if ballot == self.acceptor.promised() && successor == Some(self.id) {
            self.successor = true;
        }
    }

    /// The owner of `ballot` uses it no more. Other ballots, lower ones too, have other owners: a
    /// candidate that gives up says nothing of the leader that it did not replace.
    pub(super) fn note_relinquished(&mut self, ballot: Ballot) {
        let promised = self.acceptor.promised();
        // The one that matters stays noted; else one that a late Prepare may still ask for.
        if ballot == promised || (ballot > promised && self.relinquished != promised) {
            self.relinquished = ballot;
        }
    }

    pub(super) fn is_relinquished(&self, ballot: Ballot) -> bool {
        let lower = self.planted.has(Bug::RelinquishedCoversLower);
        self.relinquished == ballot || (lower && self.relinquished > ballot)
    }

    /// Moves the watermark, and acknowledges what is new.
    pub(super) fn settle_follower(&mut self, at: At<'_>, effects: &mut Vec<Effect>) {
        let upto = if self.planted.has(Bug::ChosenOverStaleEntries) {
            self.acceptor.journal().last()
        } else {
            self.acceptor.stream_durable()
        };
        self.advance_chosen(self.known_chosen.min(upto));
        let Some(leader) = self.leader.filter(|leader| leader.ballot == self.acceptor.stream())
        else {
            return;
        };
        if leader.ballot < self.acceptor.promised() {
            return;
        }
        self.tell_trim(effects);
        let durable = self.acceptor.stream_durable();
        if !self.answer_due && durable == self.told_durable {
            return;
        }
        self.told_durable = durable;
        self.answer_due = false;
        let epoch = self.bind(leader.peer, at);
        let message = Message::Accepted {
            ballot: leader.ballot,
            held: self.acceptor.stream_slot(),
            durable,
            chosen: self.acceptor.chosen(),
            applied: if self.applied >= self.trimmed && !self.damaged {
                self.applied
            } else {
                Slot(0)
            },
            checkpoint: if self.damaged { Slot(0) } else { self.checkpoint },
            gap: core::mem::take(&mut self.gap),
            epoch,
        };
        effects.push(Effect::Send { to: leader.member, message, last: Slot(0) });
    }

    /// Everything up to `slot` is chosen.
    pub(super) fn advance_chosen(&mut self, slot: Slot) {
        if self.acceptor.choose(slot) {
            self.configurations.choose(slot);
        }
    }

    pub(super) fn tell_trim(&mut self, effects: &mut Vec<Effect>) {
        // The own log also keeps what the own checkpoint lacks.
        let limit = if self.keeps_state() { self.checkpoint } else { self.acceptor.chosen() };
        let slot = self.may_trim.min(limit);
        if slot > self.told_trim {
            self.told_trim = slot;
            effects.push(Effect::MayTrim { slot });
        }
    }
}
