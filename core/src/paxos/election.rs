//! How a storage replica becomes leader: canvass, prepare, learn.
//!
//! ```text
//!   promises of {A: chosen 9, 10..12 of ballot 4}  {B: chosen 7, 8..10 of ballot 4, 11..14 of ballot 3}
//!
//!     slot    8   9   10   11   12   13   14
//!     from    A's (chosen)  A's own   B's tail: it may be chosen     then a no-op at 15
//! ```
//!
//! **A candidate needs a majority of every configuration that its promises reveal** and that none of
//! them knows to be superseded (a later one is chosen, or something else at its slot): slots beyond the newest chosen change are chosen by that
//! configuration's majorities, or by those of a change accepted after it, which one of any majority
//! then reveals.
//!
//! **An entry follows those that its leader saw.** Entries are what came of looking at the state
//! (a condition held, the members were these), so one that was not chosen must not be chosen later
//! behind entries that its leader never knew ("Zab: High-performance broadcast for primary-backup
//! systems", DSN'11, section 3: primary order). A leader proposes only when the no-op of its ballot is
//! chosen, and then slot by slot; so each entry remembers its *origin*, the ballot that it was first
//! proposed under, and an entry other than a no-op is learned only behind one of its own origin. The rest
//! of that tail is not chosen: what is chosen was learned by every leader since, in its order.
//!
//! ```text
//!     slot      7     8     9    10    11    12        ▒ not learned: 4's entries stood behind
//!     A         +4   4     4     4    4     4          4's at slots 9 and 10
//!     B, C      +4   4    +5     5
//!     learned   +4   4    +5     5   ▒4    ▒4          + a no-op, with which a lead begins
//! ```
//!
//! **A damaged range is unknown, not empty**: a promise with one is a promise, and says what was accepted
//! only if another member knows everything in it to be chosen, and otherwise for nothing but the
//! configurations that begin after it. Those that do say it must share a member with every majority
//! that may have chosen something: with an odd number of members they are a majority themselves, of two
//! it takes one ("Flexible Paxos", OPODIS'16, section 4: of an even number, one less than a majority).
//! (A member that joins and has heard nothing yet has accepted nothing: it may promise.)
//!
//! **A ballot is used when it is remembered**: Prepare goes out once the candidate's own promise is
//! durable ("Paxos Made Simple", section 3: no ballot is used twice).
//!
//! No gaps: an acceptor holds a prefix, so the union of prefixes is one, and no slot needs filling
//! ("Paxos Made Simple", section 3, fills them with no-ops).

use super::ballot::MemberNumber;
use super::effect::Effect;
use super::membership::{MemberId, MemberRole};
use super::message::{ConfigurationAt, Message, Offered, PromiseReport, Refusal};
use super::pace;
use super::planted::Bug;
use super::replica::{At, Replica, Role, configuration_of, discard, discard_handle, held_of};
use crate::ids::{Ballot, Slot};
use crate::liveness::Peer;
use crate::time::Nanos;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Canvass {
    pub(super) ballot: Ballot,
    yes: Vec<MemberId>,
    pub(super) retry_at: Nanos,
    pub(super) give_up_at: Nanos,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Candidacy {
    pub(super) ballot: Ballot,
    pub(super) promises: Vec<(MemberId, PromiseReport)>,
    asked: Vec<MemberId>,
    pub(super) retry_at: Nanos,
    pub(super) give_up_at: Nanos,
}

impl Candidacy {
    /// Whether the promise of the candidate `me` to itself is durable. Before that nobody hears of the
    /// ballot: a restart would forget it and use it again, and what others noted of its first use
    /// (that it was relinquished) would be taken for the second.
    pub(super) fn is_durable(&self, me: MemberId) -> bool {
        self.promises.iter().any(|(id, _)| *id == me)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Learning {
    pub(super) ballot: Ballot,
    pub(super) promises: Vec<(MemberId, PromiseReport)>,
    max_chosen: Slot,
    last: Slot,
    fetching: bool,
    pub(super) retry_at: Nanos,
    pub(super) give_up_at: Nanos,
}

/// Where a slot's value is to be had.
enum Source {
    Own,
    Member {
        id: MemberId,
        last: Slot,
    },
    Nowhere,
    /// There is one, but nobody who promised knows whose entry is before it.
    Unjoined,
}

impl Replica {
    /// Whether this member may stand for election: a storage replica by the newest configuration,
    /// listed by one that is chosen (its number is its own), and with its state complete.
    pub(super) fn may_stand(&self) -> bool {
        if self.planted.has(Bug::LogReplicaLeads) {
            return self.my_role().is_some() && self.was_member;
        }
        self.my_role() == Some(MemberRole::Storage)
            && self.was_member
            && !self.damaged
            && self.applied >= self.trimmed
    }

    /// The successor that a hand-over named goes first.
    pub(super) fn let_another_stand(&mut self, successor: MemberId, at: At<'_>) {
        self.handed = Some((successor, at.now + self.settings.hand_over_nanos));
        self.election_at = Some(at.now + 2 * self.settings.election_retry_nanos);
    }

    /// Whether this member misses a leader.
    fn misses_leader(&self, at: At<'_>) -> bool {
        let Some(leader) = self.leader else { return true };
        if self.is_relinquished(leader.ballot) {
            return true;
        }
        if at.liveness.heard_incarnation(leader.peer) > leader.incarnation {
            // Its process restarted, and leads nothing.
            return true;
        }
        let Some(known) = self.configurations.newest() else { return false };
        let mut peers = [Peer(0); super::membership::MEMBERS_MAX];
        let members = known.configuration.members();
        for (peer, member) in peers.iter_mut().zip(members) {
            *peer = member.peer;
        }
        at.liveness.suspects(leader.peer, &peers[..members.len()], at.now)
    }

    fn spread(&self, at: At<'_>, nanos: u64) -> u64 {
        if nanos == 0 { 0 } else { at.random % nanos }
    }

    /// Follows the clock towards leadership.
    pub(super) fn settle_candidate(&mut self, at: At<'_>, effects: &mut Vec<Effect>) {
        if matches!(self.role, Role::Following) {
            self.consider_election(at, effects);
        }
        if matches!(self.role, Role::Canvassing(_)) {
            self.settle_canvass(at, effects);
        }
        if matches!(self.role, Role::Preparing(_)) {
            self.settle_candidacy(at, effects);
        }
        if matches!(self.role, Role::Learning(_)) {
            self.settle_learning(at, effects);
        }
    }

    fn consider_election(&mut self, at: At<'_>, effects: &mut Vec<Effect>) {
        if !self.misses_leader(at) {
            self.election_at = None;
            self.attempts = 0;
            return;
        }
        let may_stand = self.may_stand();
        if !may_stand && self.abandoned == Ballot(0) {
            self.election_at = None;
            return;
        }
        let may_promise = self.may_promise(at.liveness.me(), at);
        if core::mem::take(&mut self.successor) && may_stand && may_promise {
            return self.prepare(at, effects);
        }
        let spread = self.spread(at, self.settings.election_spread_nanos);
        let due = *self.election_at.get_or_insert(at.now + spread);
        if at.now < due {
            return;
        }
        if self.abandoned > Ballot(0) {
            // Again: whoever missed it refuses all others while this shard lives.
            let message = Message::Relinquish { ballot: self.abandoned, successor: None };
            self.ask_all(&message, &[], effects);
        }
        if !may_stand || !may_promise {
            // Who has just started waits anyway, and hears who leads meanwhile.
            let waits = self.restarted && at.now < at.liveness.promises_from();
            let again = if waits {
                at.liveness.promises_from() + spread
            } else {
                at.now + self.next_attempt(at)
            };
            self.election_at = Some(again);
            return;
        }
        self.canvass(at, effects);
    }

    /// How long to wait for the answers to one more attempt; see [`pace`].
    fn next_attempt(&mut self, at: At<'_>) -> u64 {
        self.attempts = pace::count(self.attempts);
        let nanos = pace::wait_nanos(self.settings.election_retry_nanos, self.attempts);
        nanos + self.spread(at, nanos)
    }

    /// Stands for election now, whatever the clock says. For models and for operators.
    pub fn stand(&mut self, at: At<'_>, effects: &mut Vec<Effect>) {
        let stands = matches!(self.role, Role::Following | Role::Canvassing(_))
            && !self.failed
            && !self.removed
            && self.may_stand();
        if stands && self.may_promise(at.liveness.me(), at) {
            self.prepare(at, effects);
            self.step(super::Input::Tick, at, effects);
        }
    }

    fn next_ballot(&self) -> Option<Ballot> {
        Some(self.ballot_for(self.find_member(self.id)?.number))
    }

    /// A ballot of `number` above all that is known here: the reserved one, if it is that.
    pub(super) fn ballot_for(&self, number: MemberNumber) -> Ballot {
        let reserved = self.acceptor.reserved();
        let highest = self.highest_seen.max(self.acceptor.promised());
        if reserved > highest && reserved.number() == number {
            return reserved;
        }
        highest.max(reserved).above(number)
    }

    pub(super) fn ask_all(
        &self,
        message: &Message,
        except: &[MemberId],
        effects: &mut Vec<Effect>,
    ) {
        let mut asked = except.to_vec();
        for known in self.configurations.relevant() {
            for member in known.configuration.members() {
                if member.id != self.id && !asked.contains(&member.id) {
                    asked.push(member.id);
                    let message = message.clone();
                    effects.push(Effect::Send { to: member.id, message, last: Slot(0) });
                }
            }
        }
    }

    pub(super) fn configuration_slot(&self) -> Slot {
        self.configurations.in_force().map_or(Slot(0), |known| known.slot)
    }

    fn canvass(&mut self, at: At<'_>, effects: &mut Vec<Effect>) {
        let Some(ballot) = self.next_ballot() else { return };
        let (last, configuration_slot) =
            (self.acceptor.journal().last(), self.configuration_slot());
        let message = Message::Canvass { ballot, last, configuration_slot };
        self.ask_all(&message, &[], effects);
        let retry_at = at.now + self.next_attempt(at);
        let give_up_at = at.now + self.settings.give_up_nanos;
        self.role = Role::Canvassing(Canvass { ballot, yes: vec![self.id], retry_at, give_up_at });
    }

    fn settle_canvass(&mut self, at: At<'_>, effects: &mut Vec<Effect>) {
        let Role::Canvassing(canvass) = &self.role else { return };
        if !self.may_stand() || !self.misses_leader(at) || at.now >= canvass.give_up_at {
            // If it begins again, then no sooner.
            self.election_at = Some(canvass.retry_at);
            self.role = Role::Following;
            return;
        }
        let relevant = self.configurations.relevant();
        let agreed = relevant
            .iter()
            .all(|known| known.configuration.has_quorum(|member| canvass.yes.contains(&member.id)));
        if agreed && self.may_promise(at.liveness.me(), at) {
            self.prepare(at, effects);
        } else if at.now >= canvass.retry_at {
            let give_up_at = canvass.give_up_at;
            self.canvass(at, effects);
            if let Role::Canvassing(canvass) = &mut self.role {
                canvass.give_up_at = give_up_at;
            }
        }
    }

    /// Whether a candidate may go on; the refusal otherwise.
    fn judge(
        &self,
        from: MemberId,
        ballot: Ballot,
        last: Slot,
        configuration_slot: Slot,
    ) -> Result<(), Refusal> {
        // A new member that knows no configuration has accepted nothing, and may say so.
        if let Some(known) = self.configurations.in_force()
            && known.configuration.find(from).is_none()
            && known.slot > configuration_slot
        {
            return Err(Refusal::NotAMember { slot: known.slot });
        }
        if ballot < self.acceptor.promised() {
            return Err(Refusal::Promised);
        }
        if self.trimmed > last {
            return Err(Refusal::TooFarBehind { trimmed: self.trimmed });
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments)] // The message's fields and the step's circumstances.
    pub(super) fn on_canvass(
        &mut self,
        from: MemberId,
        peer: Peer,
        ballot: Ballot,
        last: Slot,
        configuration_slot: Slot,
        at: At<'_>,
        effects: &mut Vec<Effect>,
    ) {
        if let Err(reason) = self.judge(from, ballot, last, configuration_slot) {
            return self.refuse(from, ballot, reason, effects);
        }
        let hears_leader = match &self.role {
            Role::Leading(_) => self.holds_lease(at),
            _ => {
                self.leader.is_some() && !self.misses_leader(at) && {
                    let leader = self.leader.expect("just looked");
                    leader.peer != peer && at.liveness.supports(leader.peer, at.now).is_some()
                }
            }
        };
        if hears_leader || !self.may_promise(peer, at) {
            return self.refuse(from, ballot, Refusal::Supporting, effects);
        }
        let message = Message::CanvassAnswer { ballot };
        effects.push(Effect::Send { to: from, message, last: Slot(0) });
    }

    pub(super) fn on_canvass_answer(&mut self, from: MemberId, ballot: Ballot) {
        if let Role::Canvassing(canvass) = &mut self.role
            && canvass.ballot == ballot
            && !canvass.yes.contains(&from)
        {
            canvass.yes.push(from);
        }
    }

    fn prepare(&mut self, at: At<'_>, effects: &mut Vec<Effect>) {
        let Some(ballot) = self.next_ballot() else { return };
        self.role = Role::Following;
        self.leader = None;
        self.acceptor.promise(ballot, effects);
        self.highest_seen = ballot;
        self.own(self.id, at.liveness.me());
        self.promise_due = Some((ballot, self.id));
        let retry_nanos = self.settings.election_retry_nanos;
        self.role = Role::Preparing(Candidacy {
            ballot,
            promises: Vec::new(),
            asked: Vec::new(),
            retry_at: at.now + retry_nanos,
            give_up_at: at.now + self.settings.give_up_nanos + self.spread(at, retry_nanos),
        });
        if self.planted.has(Bug::PrepareUndurableBallot) {
            self.ask_promises(effects);
        }
    }

    /// Sends Prepare to every member that has not promised.
    fn ask_promises(&mut self, effects: &mut Vec<Effect>) {
        let Role::Preparing(candidacy) = &self.role else { return };
        if !candidacy.is_durable(self.id) && !self.planted.has(Bug::PrepareUndurableBallot) {
            return;
        }
        let message = Message::Prepare {
            ballot: candidacy.ballot,
            last: self.acceptor.journal().last(),
            configuration_slot: self.configuration_slot(),
        };
        let mut except: Vec<MemberId> = candidacy.promises.iter().map(|(id, _)| *id).collect();
        let revealed: Vec<MemberId> = candidacy
            .promises
            .iter()
            .flat_map(|(_, report)| &report.configurations)
            .flat_map(|known| known.configuration.members())
            .map(|member| member.id)
            .collect();
        self.ask_all(&message, &except, effects);
        for known in self.configurations.relevant() {
            except.extend(known.configuration.members().iter().map(|member| member.id));
        }
        for id in revealed {
            if id != self.id && !except.contains(&id) {
                except.push(id);
                effects.push(Effect::Send { to: id, message: message.clone(), last: Slot(0) });
            }
        }
        let Role::Preparing(candidacy) = &mut self.role else { return };
        candidacy.asked = except;
    }

    #[allow(clippy::too_many_arguments)] // The message's fields and the step's circumstances.
    pub(super) fn on_prepare(
        &mut self,
        from: MemberId,
        peer: Peer,
        ballot: Ballot,
        last: Slot,
        configuration_slot: Slot,
        at: At<'_>,
        effects: &mut Vec<Effect>,
    ) {
        if let Err(reason) = self.judge(from, ballot, last, configuration_slot) {
            return self.refuse(from, ballot, reason, effects);
        }
        self.highest_seen = self.highest_seen.max(ballot);
        if ballot == self.acceptor.promised() {
            let again = self.owner.member == Some(from) && self.acceptor.stream() != ballot;
            if again && !self.may_promise(peer, at) {
                // After a restart: what the log has may be a reservation, which nobody has promised yet.
                return self.refuse(from, ballot, Refusal::Supporting, effects);
            }
            if again {
                self.owner.peer = Some(peer);
                self.promise_due = Some((ballot, from));
            }
            return;
        }
        let serving = matches!(self.role, Role::Leading(_)) && self.holds_lease(at);
        if serving || !self.may_promise(peer, at) {
            return self.refuse(from, ballot, Refusal::Supporting, effects);
        }
        self.step_down(effects);
        self.acceptor.promise(ballot, effects);
        self.own(from, peer);
        self.promise_due = Some((ballot, from));
        self.successor = false;
        // Its owner needs a round trip and a write; who stood meanwhile would take it away again.
        let spread = self.spread(at, self.settings.election_spread_nanos);
        self.election_at = Some(at.now + self.settings.election_retry_nanos + spread);
    }

    /// Sends (or takes, if it is its own) the promise that became durable.
    pub(super) fn settle_promise(&mut self, at: At<'_>, effects: &mut Vec<Effect>) {
        let Some((ballot, to)) = self.promise_due else { return };
        if ballot < self.acceptor.promised() {
            self.promise_due = None;
            return;
        }
        if self.acceptor.promised_durable() < ballot {
            return;
        }
        self.promise_due = None;
        let epoch = self.owner.peer.filter(|_| to != self.id).and_then(|peer| self.bind(peer, at));
        let chosen = self.acceptor.chosen();
        let report = PromiseReport {
            epoch,
            chosen,
            chosen_origin: self.acceptor.origin(chosen).unwrap_or_default(),
            trimmed: self.trimmed,
            runs: self.acceptor.journal().runs_after(chosen),
            configurations: self.configurations.relevant().to_vec(),
        };
        if to == self.id {
            self.on_promise(to, ballot, &report);
        } else {
            let message = Message::Promise { ballot, report: Box::new(report) };
            effects.push(Effect::Send { to, message, last: Slot(0) });
        }
    }

    pub(super) fn on_promise(&mut self, from: MemberId, ballot: Ballot, report: &PromiseReport) {
        if let Role::Preparing(candidacy) = &mut self.role
            && candidacy.ballot == ballot
            && candidacy.promises.iter().all(|(id, _)| *id != from)
        {
            candidacy.promises.push((from, report.clone()));
        }
    }

    pub(super) fn on_refused(
        &mut self,
        from: MemberId,
        ballot: Ballot,
        promised: Ballot,
        reason: Refusal,
        at: At<'_>,
        effects: &mut Vec<Effect>,
    ) {
        if let Role::Leading(leadership) = &mut self.role
            && leadership.leaving.iter().any(|leaving| leaving.id == from)
        {
            // No member any more: whom it has promised is no reason to step down, but to leave it alone.
            let obeys = reason != Refusal::Promised || promised <= leadership.ballot;
            return leadership.leaving.retain(|leaving| leaving.id != from || obeys);
        }
        self.highest_seen = self.highest_seen.max(promised);
        let asking = match &self.role {
            Role::Canvassing(canvass) => canvass.ballot == ballot,
            Role::Preparing(candidacy) => candidacy.ballot == ballot,
            Role::Learning(learning) => learning.ballot == ballot,
            Role::Leading(leadership) => leadership.ballot == ballot,
            Role::Following => false,
        };
        if !asking {
            return;
        }
        match reason {
            Refusal::Promised if promised > ballot => self.back_off(at, effects),
            Refusal::NotAMember { slot } if slot > self.configuration_slot() => {
                self.leave(slot, effects);
            }
            Refusal::TooFarBehind { trimmed } => {
                effects.push(Effect::NeedsSnapshot { from, at_least: trimmed });
                self.back_off(at, effects);
            }
            Refusal::Unconfigured => self.introduce(from),
            _ => {}
        }
    }

    /// Gives up this attempt; the next one comes at another moment.
    pub(super) fn back_off(&mut self, at: At<'_>, effects: &mut Vec<Effect>) {
        self.step_down(effects);
        self.election_at = Some(at.now + self.next_attempt(at));
    }

    fn settle_candidacy(&mut self, at: At<'_>, effects: &mut Vec<Effect>) {
        let Role::Preparing(candidacy) = &self.role else { return };
        let promises = &candidacy.promises;
        // The newest configuration that anybody knows to be chosen.
        let own = self.configurations.relevant();
        let told = promises.iter().filter_map(|(_, report)| report.configurations.first());
        let chosen = told.chain(own.first()).max_by_key(|known| known.slot);
        let chosen = *chosen.expect("a candidate has a configuration");
        if chosen.configuration.find(self.id).is_none() && chosen.slot > self.configuration_slot() {
            return self.leave(chosen.slot, effects);
        }
        let max_chosen = promises.iter().map(|(_, report)| report.chosen).max();
        let max_chosen = max_chosen.unwrap_or_default().max(self.acceptor.chosen());
        let revealed = promises.iter().flat_map(|(_, report)| &report.configurations).chain(own);
        let mut needed: Vec<ConfigurationAt> = vec![chosen];
        for known in revealed {
            // One at a slot that is known to be chosen, and not as this, was never chosen.
            if known.slot > chosen.slot.max(max_chosen) && !needed.contains(known) {
                needed.push(*known);
            }
        }
        let ignores_unknown = self.planted.has(Bug::IgnoreUnknownRange);
        // A configuration decides about the slots after it: there a promise must know everything.
        let knows = |report: &PromiseReport, from: Slot| {
            let decided = max_chosen.max(from);
            report.runs.iter().all(|run| !run.unknown || run.last <= decided)
        };
        let missing = usize::from(self.planted.has(Bug::PromiseQuorumTooSmall));
        // Whether it knows all that it accepted is another matter.
        let own_promise = candidacy.is_durable(self.id);
        let promised = own_promise
            && needed.iter().all(|known| {
                let members = known.configuration.members();
                let votes =
                    promises.iter().filter(|(id, _)| known.configuration.find(*id).is_some());
                let knowing = votes
                    .clone()
                    .filter(|(_, report)| ignores_unknown || knows(report, known.slot));
                let quorum = known.configuration.quorum();
                // Every quorum has one of so many.
                let enough = members.len() + 1 - quorum;
                votes.count() + missing >= quorum && knowing.count() + missing >= enough
            });
        let unasked = own_promise
            && needed.iter().flat_map(|known| known.configuration.members()).any(|member| {
                member.id != self.id
                    && !candidacy.asked.contains(&member.id)
                    && promises.iter().all(|(id, _)| *id != member.id)
            });
        if promised {
            self.learn(max_chosen, at, effects);
        } else if at.now >= candidacy.give_up_at {
            self.back_off(at, effects);
        } else if at.now >= candidacy.retry_at || unasked {
            let retry_at = at.now + self.next_attempt(at);
            self.ask_promises(effects);
            if let Role::Preparing(candidacy) = &mut self.role {
                candidacy.retry_at = retry_at;
            }
        }
    }

    fn learn(&mut self, max_chosen: Slot, at: At<'_>, effects: &mut Vec<Effect>) {
        let Role::Preparing(candidacy) = core::mem::replace(&mut self.role, Role::Following) else {
            unreachable!("only a candidate learns");
        };
        let Candidacy { ballot, promises, .. } = candidacy;
        assert!(self.acceptor.promised() == ballot && self.acceptor.promised_durable() >= ballot);
        let forgets = self.planted.has(Bug::ForgetPromisedValues);
        let ends = promises.iter().filter(|(id, _)| *id == self.id || !forgets);
        let ends = ends.flat_map(|(_, report)| &report.runs).filter(|run| !run.unknown);
        let last = ends.map(|run| run.last).max().unwrap_or_default();
        let last = last.max(max_chosen);
        self.acceptor.begin_stream(ballot, effects);
        self.known_chosen = self.known_chosen.max(max_chosen);
        self.role = Role::Learning(Learning {
            ballot,
            promises,
            max_chosen,
            last,
            fetching: false,
            retry_at: at.now,
            give_up_at: at.now + self.settings.give_up_nanos,
        });
    }

    /// Who has the value that must be proposed for `slot`.
    fn source(&self, learning: &Learning, slot: Slot) -> Source {
        if slot <= learning.max_chosen {
            let holds = |report: &&(MemberId, PromiseReport)| {
                report.1.chosen >= slot && report.1.trimmed < slot && report.0 != self.id
            };
            let holder = learning.promises.iter().filter(holds).max_by_key(|(_, r)| r.chosen);
            return holder.map_or(Source::Nowhere, |(id, report)| Source::Member {
                id: *id,
                last: report.chosen.min(learning.max_chosen),
            });
        }
        let runs = learning.promises.iter().flat_map(|(id, report)| {
            let own = *id == self.id;
            report.runs.iter().map(move |run| (run, own, *id))
        });
        let here = runs.filter(|(run, _, _)| run.first <= slot && slot <= run.last && !run.unknown);
        let best = if self.planted.has(Bug::LowestBallotValue) {
            here.min_by_key(|(run, own, _)| (run.ballot, !*own))
        } else {
            // Of the same ballot it is the same value: rather the one that is here.
            here.max_by_key(|(run, own, _)| (run.ballot, *own))
        };
        if let Some((run, _, _)) = best
            && !(slot == run.first && run.begins_lead)
            && !self.planted.has(Bug::JoinOtherLeads)
        {
            match self.origin_before(learning, slot) {
                None => return Source::Unjoined,
                Some(origin) if origin != run.origin => return Source::Nowhere,
                Some(_) => {}
            }
        }
        match best {
            None => Source::Nowhere,
            Some((_, true, _)) => Source::Own,
            Some((run, false, id)) => {
                // No further than where another run may know better.
                let later = learning.promises.iter().flat_map(|(_, report)| &report.runs);
                let later = later.filter(|other| other.first > slot && other.ballot > run.ballot);
                let end = later.map(|other| Slot(other.first.0 - 1)).fold(run.last, Slot::min);
                Source::Member { id, last: end }
            }
        }
    }

    /// Of the entry before `slot`, which is held here or chosen.
    fn origin_before(&self, learning: &Learning, slot: Slot) -> Option<Ballot> {
        let before = Slot(slot.0 - 1);
        self.acceptor.origin(before).or_else(|| {
            let reports = learning.promises.iter().map(|(_, report)| report);
            let mut knowing = reports.filter(|report| report.chosen == before);
            knowing.find_map(|report| Some(report.chosen_origin).filter(|origin| origin.0 > 0))
        })
    }

    fn settle_learning(&mut self, at: At<'_>, effects: &mut Vec<Effect>) {
        loop {
            let Role::Learning(learning) = &self.role else { return };
            let slot = self.acceptor.stream_slot().next();
            if slot > learning.last {
                if !self.may_stand() {
                    // What it learned took its promotion back, or proposes its removal.
                    return self.back_off(at, effects);
                }
                return self.lead(at, effects);
            }
            match self.source(learning, slot) {
                Source::Own => self.acceptor.accept_own(),
                Source::Unjoined => return self.back_off(at, effects),
                Source::Nowhere if slot > learning.max_chosen => {
                    // Nothing is chosen here or later. Either one of every quorum knows that it holds nothing
                    // here, and what remains is the tail behind a damaged range of this member's log; or
                    // what is held was proposed by a lead that had something else before it.
                    let end = Slot(slot.0 - 1);
                    self.acceptor.truncate(end, effects);
                    self.configurations.truncate(end);
                    if let Role::Learning(learning) = &mut self.role {
                        learning.last = end;
                    }
                }
                Source::Nowhere => {
                    // What it lacks is chosen and in checkpoints only.
                    let trimmed = learning.promises.iter().map(|(id, r)| (r.trimmed, *id)).max();
                    if let Some((at_least, from)) = trimmed.filter(|(slot, _)| *slot > Slot(0)) {
                        effects.push(Effect::NeedsSnapshot { from, at_least });
                    }
                    return self.back_off(at, effects);
                }
                Source::Member { id, last } => {
                    let (ballot, give_up_at) = (learning.ballot, learning.give_up_at);
                    if at.now >= give_up_at {
                        return self.back_off(at, effects);
                    }
                    if learning.fetching && at.now < learning.retry_at {
                        return;
                    }
                    let last = last.min(Slot(slot.0 + self.settings.catch_up_slots - 1));
                    let message = Message::Fetch { ballot, first: slot, last };
                    effects.push(Effect::Send { to: id, message, last: Slot(0) });
                    let retry_at = at.now + self.settings.resend_nanos;
                    if let Role::Learning(learning) = &mut self.role {
                        (learning.fetching, learning.retry_at) = (true, retry_at);
                    }
                    return;
                }
            }
        }
    }

    pub(super) fn on_fetch(
        &mut self,
        from: MemberId,
        ballot: Ballot,
        first: Slot,
        last: Slot,
        effects: &mut Vec<Effect>,
    ) {
        if ballot != self.acceptor.promised() || self.owner.member != Some(from) {
            return self.refuse(from, ballot, Refusal::Promised, effects);
        }
        let last = last.min(self.acceptor.journal().last());
        if first > last || first <= self.trimmed {
            return;
        }
        let message = Message::Fetched { ballot, first };
        effects.push(Effect::Send { to: from, message, last });
    }

    pub(super) fn on_fetched(
        &mut self,
        from: MemberId,
        ballot: Ballot,
        first: Slot,
        entries: &[Offered<'_>],
        effects: &mut Vec<Effect>,
    ) {
        let mut slot = first;
        for offered in entries {
            // Only what is needed next, and from whom it must come.
            let needed = match &self.role {
                Role::Learning(learning)
                    if learning.ballot == ballot
                        && slot == self.acceptor.stream_slot().next()
                        && slot <= learning.last =>
                {
                    matches!(self.source(learning, slot), Source::Member { id, .. } if id == from)
                }
                _ => false,
            };
            if needed {
                let held = held_of(offered, ballot);
                if let Some(replaced) = self.acceptor.accept(held) {
                    discard_handle(replaced.handle, effects);
                }
                self.configurations.accept(slot, configuration_of(offered));
                if let Role::Learning(learning) = &mut self.role {
                    learning.fetching = false;
                }
            } else {
                discard(core::slice::from_ref(offered), effects);
            }
            slot = slot.next();
        }
    }
}
