//! What the leader decides: proposals, what is chosen, membership, hand-over.
//!
//! ```text
//!   become leader ─► no-op under its own ballot ─► chosen, applied ─► serving
//!                                                                     │ change: one at a time,
//!                                                                     │ nothing follows it until
//!   hand_over(to): Reserve ─► no more proposals ─►                    │ both majorities hold it
//!                  `to` holds all ─► Relinquish
//! ```
//!
//! **A change of membership** needs a leader that serves (an entry of its own ballot is chosen: the
//! correction of 2015 to Raft's single-server changes), and no other change on its way. Its entry is
//! chosen by majorities of the configuration before and of the one after, and nothing is proposed
//! behind it until then. A member that it removed is one no more from then on, and yet gets what it misses
//! up to that entry (see [`super::replication`]): nobody else tells it.
//!
//! **A hand-over** costs its clients two log writes, the no-op and their own: the other members write the
//! successor's promise down beforehand, with the last entries (see [`super::acceptor`]). Where one
//! restarts after a hand-over that came to nothing, it has promised, and the leader needs a new ballot.
//!
//! **Trimming**: a slot may leave the logs when the checkpoints of two storage replicas contain it;
//! in a group of one, when its own does.
//!
//! A leader whose lease has not held for [`super::Settings::give_up_nanos`] relinquishes, so that a
//! member which still hears it may help another.

use thiserror::Error;

use super::effect::{Effect, Handle};
use super::journal::Held;
use super::membership::{
    Change, ChangeRefused, Configuration, MEMBERS_MAX, Member, MemberId, MemberRole,
};
use super::message::{EntryKind, Message, PromiseReport};
use super::planted::Bug;
use super::replica::{At, Replica, Role};
use super::replication::Progress;
use crate::ids::{Ballot, Slot};
use crate::time::Nanos;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Leadership {
    pub(super) ballot: Ballot,
    /// Its first own entry. Everything before it was learned.
    pub(super) no_op: Option<Slot>,
    /// The no-op is chosen and applied.
    pub(super) serving: bool,
    pub(super) progress: Vec<Progress>,
    /// Members that were removed and may not know it. They count for nothing.
    pub(super) leaving: Vec<Progress>,
    /// Up to here a quorum of the members has told that it knows what is chosen.
    pub(super) known_slot: Slot,
    /// Bytes proposed and not chosen.
    pub(super) unchosen_bytes: u64,
    handing_over: Option<(MemberId, Nanos)>,
    lease_lost_at: Option<Nanos>,
    give_up_nanos: u64,
}

/// Why nothing was proposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NotProposed {
    /// Send it to the leader, if one is known.
    #[error("this member does not lead")]
    NotLeading,
    /// Try again in a moment: what the leader learned is not yet chosen and applied.
    #[error("the leader does not serve yet")]
    NotYet,
    /// Try again after a round trip: a membership change is on its way.
    #[error("a membership change is on its way")]
    Changing,
    /// Send it to the next leader in a moment.
    #[error("the leader hands over")]
    HandingOver,
    /// Back off: the members' disks or links do not keep up.
    #[error("{slots} slots and {bytes} bytes wait for a quorum")]
    WindowFull {
        /// Proposed and not chosen.
        slots: u64,
        /// Their bytes.
        bytes: u64,
    },
}

/// Why a membership change or a hand-over was not begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NotBegun {
    /// See there.
    #[error(transparent)]
    NotProposed(#[from] NotProposed),
    /// See there.
    #[error(transparent)]
    Refused(#[from] ChangeRefused),
    /// Wait for its snapshot and the log after it.
    #[error("member {id} has applied slot {applied} of {chosen}")]
    NotCaughtUp {
        /// Which.
        id: u64,
        /// Its state contains this much.
        applied: u64,
        /// Chosen.
        chosen: u64,
    },
    /// Hand over first.
    #[error("the leader does not remove itself")]
    RemovesLeader,
    /// Name a storage replica that is alive.
    #[error("member {id} cannot lead now")]
    CannotLead {
        /// Which.
        id: u64,
    },
}

/// What a leader knows of another member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerProgress {
    /// Acknowledged under this leader's ballot.
    pub durable: Slot,
    /// Its state contains every slot up to here; 0 if it keeps none.
    pub applied: Slot,
    /// Its durable checkpoint contains every slot up to here.
    pub checkpoint: Slot,
}

impl Leadership {
    pub(super) fn progress(&self, id: MemberId) -> Option<&Progress> {
        self.progress.iter().find(|progress| progress.id == id)
    }

    /// Of a member, or of one that leaves.
    pub(super) fn sent_to_mut(&mut self, id: MemberId) -> Option<&mut Progress> {
        self.progress.iter_mut().chain(&mut self.leaving).find(|progress| progress.id == id)
    }

    pub(super) fn next_due(&self) -> Option<Nanos> {
        let told = self.leaving.iter().filter(|leaving| leaving.may_be_told(self.known_slot));
        let sent_to = self.progress.iter().chain(told);
        let resends = sent_to.filter_map(|progress| progress.resend_at);
        let hand_over = self.handing_over.map(|(_, until)| until);
        let give_up = self.lease_lost_at.map(|at| at + self.give_up_nanos);
        resends.chain(hand_over).chain(give_up).min()
    }
}

impl Replica {
    /// What this leader knows of another member; none if it does not lead, or there is no such member.
    #[must_use]
    pub fn progress_of(&self, id: MemberId) -> Option<PeerProgress> {
        let Role::Leading(leadership) = &self.role else { return None };
        let Progress { durable, applied, checkpoint, .. } = *leadership.progress(id)?;
        Some(PeerProgress { durable, applied, checkpoint })
    }

    /// Whether the state of this member is near enough to what is chosen to be promoted.
    #[must_use]
    pub fn may_promote(&self, id: MemberId) -> bool {
        let applied = self.progress_of(id).map_or(Slot(0), |progress| progress.applied).0;
        applied > 0 && applied + self.settings.promote_lag_slots >= self.acceptor.chosen().0
    }

    /// Everything that the promises revealed is accepted under the own ballot, if not yet durably.
    pub(super) fn lead(&mut self, at: At<'_>, effects: &mut Vec<Effect>) {
        let Role::Learning(learning) = core::mem::replace(&mut self.role, Role::Following) else {
            unreachable!("a leader has learned first");
        };
        assert!(
            self.my_role() == Some(MemberRole::Storage) || self.planted.has(Bug::LogReplicaLeads)
        );
        let (stream, chosen) = (self.acceptor.stream_slot(), self.acceptor.chosen());
        assert_eq!(learning.ballot, self.acceptor.stream());
        let unchosen_bytes = self.acceptor.journal().bytes(chosen.next(), stream);
        self.election_at = None;
        self.role = Role::Leading(Box::new(Leadership {
            ballot: learning.ballot,
            no_op: None,
            serving: false,
            progress: Vec::new(),
            leaving: Vec::new(),
            known_slot: Slot(0),
            unchosen_bytes,
            handing_over: None,
            lease_lost_at: None,
            give_up_nanos: self.settings.give_up_nanos,
        }));
        self.update_progress(&learning.promises);
        self.settle_leader(at, effects);
    }

    /// One progress for every other member of every configuration that may be in force. Whom the newest
    /// chosen one has removed leaves.
    pub(super) fn update_progress(&mut self, promises: &[(MemberId, PromiseReport)]) {
        let Role::Leading(leadership) = &mut self.role else { return };
        let relevant = self.configurations.relevant();
        let members = || relevant.iter().flat_map(|known| known.configuration.members());
        let removed_at = relevant.first().map(|known| known.slot);
        let gone = leadership
            .progress
            .extract_if(.., |progress| members().all(|member| member.id != progress.id));
        leadership.leaving.extend(gone.map(|progress| progress.leaves(removed_at)));
        // Where a new member is, the one before is no more.
        leadership.leaving.retain(|progress| members().all(|member| member.peer != progress.peer));
        let excess = leadership.leaving.len().saturating_sub(MEMBERS_MAX);
        leadership.leaving.drain(..excess);
        for member in members() {
            if member.id == self.id || leadership.progress(member.id).is_some() {
                continue;
            }
            let report = promises.iter().find(|(id, _)| *id == member.id);
            let progress =
                Progress::new(member, report.map(|(_, report)| report), self.acceptor.chosen());
            leadership.progress.push(progress);
        }
    }

    /// Takes the next slot for an entry staged under `handle`. It goes out with the next
    /// [`super::Input::Tick`], together with all others of the turn.
    ///
    /// # Errors
    /// Nothing was taken; see [`NotProposed`].
    pub fn propose(&mut self, handle: Handle, bytes: u32) -> Result<Slot, NotProposed> {
        self.may_propose()?;
        let Role::Leading(leadership) = &mut self.role else { unreachable!("just looked") };
        leadership.unchosen_bytes += u64::from(bytes);
        let ballot = leadership.ballot;
        self.acceptor.accept(Held { ballot, origin: ballot, handle, bytes, kind: EntryKind::Data });
        Ok(self.acceptor.stream_slot())
    }

    fn may_propose(&self) -> Result<(), NotProposed> {
        let Role::Leading(leadership) = &self.role else { return Err(NotProposed::NotLeading) };
        if !leadership.serving {
            return Err(NotProposed::NotYet);
        }
        if leadership.handing_over.is_some() {
            return Err(NotProposed::HandingOver);
        }
        let overlaps = self.planted.has(Bug::TwoChangesAtOnce);
        if !self.configurations.pending().is_empty() && !overlaps {
            return Err(NotProposed::Changing);
        }
        let slots = self.acceptor.stream_slot().0 - self.acceptor.chosen().0;
        let bytes = leadership.unchosen_bytes;
        if slots >= self.settings.window_slots || bytes >= self.settings.window_bytes {
            return Err(NotProposed::WindowFull { slots, bytes });
        }
        Ok(())
    }

    /// Proposes a change of the membership in a cluster of `cluster_azs` AZs. It has happened when
    /// its slot is chosen.
    ///
    /// # Errors
    /// Nothing was begun; see [`NotBegun`].
    pub fn change(
        &mut self,
        change: Change,
        cluster_azs: u16,
        at: At<'_>,
        effects: &mut Vec<Effect>,
    ) -> Result<Slot, NotBegun> {
        self.may_propose()?;
        let known = self.configurations.newest().expect("a leader has a configuration");
        let new = known.configuration.changed(change, cluster_azs)?;
        let Role::Leading(leadership) = &self.role else { unreachable!("just looked") };
        match change {
            Change::Remove { id } if id == self.id => return Err(NotBegun::RemovesLeader),
            Change::Promote { id } if !self.may_promote(id) => {
                let applied = leadership.progress(id).map_or(Slot(0), |p| p.applied).0;
                let chosen = self.acceptor.chosen().0;
                return Err(NotBegun::NotCaughtUp { id: id.0, applied, chosen });
            }
            _ => {}
        }
        let slot = self.propose_own(EntryKind::Configuration, Some(&new));
        self.update_progress(&[]);
        self.step(super::Input::Tick, at, effects);
        Ok(slot)
    }

    fn propose_own(&mut self, kind: EntryKind, configuration: Option<&Configuration>) -> Slot {
        let ballot = self.acceptor.stream();
        let (origin, handle) = (ballot, Handle::NONE);
        self.acceptor.accept(Held { ballot, origin, handle, bytes: 0, kind });
        let slot = self.acceptor.stream_slot();
        self.configurations.accept(slot, configuration);
        slot
    }

    /// Lets `to` lead: no more proposals are taken, and once `to` holds everything this member
    /// relinquishes.
    ///
    /// # Errors
    /// Nothing was begun; see [`NotBegun`].
    pub fn hand_over(
        &mut self,
        to: MemberId,
        at: At<'_>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), NotBegun> {
        self.may_propose()?;
        let known = self.configurations.newest().expect("a leader has a configuration");
        let able = |member: &&Member| {
            member.role == MemberRole::Storage
                && at.liveness.reaches(member.peer, at.now)
                && self.may_promote(member.id)
        };
        let successor = known.configuration.find(to).filter(|_| to != self.id).filter(able);
        let Some(successor) = successor else {
            return Err(NotBegun::CannotLead { id: to.0 });
        };
        let next = self.ballot_for(successor.number);
        let until = at.now + self.settings.hand_over_nanos;
        let Role::Leading(leadership) = &mut self.role else { unreachable!("just looked") };
        leadership.handing_over = Some((to, until));
        let ballot = leadership.ballot;
        // Not here: a leader that restarts must find its own ballot in its log, to relinquish it.
        self.highest_seen = self.highest_seen.max(next);
        self.ask_all(&Message::Reserve { ballot, next }, &[], effects);
        self.step(super::Input::Tick, at, effects);
        Ok(())
    }

    /// What follows from the acknowledgements, and what goes out.
    pub(super) fn settle_leader(&mut self, at: At<'_>, effects: &mut Vec<Effect>) {
        if !matches!(self.role, Role::Leading(_)) {
            return;
        }
        self.count();
        if self.note_membership() {
            // Chosen, and told: whoever is left elects.
            return self.relinquish(None, effects);
        }
        self.begin_serving(effects);
        self.choose_trim(effects);
        self.replicate(at, effects);
        self.settle_hand_over(at, effects);
        self.settle_lease(at, effects);
    }

    /// Moves the watermark to what quorums hold.
    fn count(&mut self) {
        loop {
            let Role::Leading(leadership) = &self.role else { return };
            let own = self.acceptor.stream_durable();
            let durable = |member: &Member| {
                if member.id == self.id {
                    return own;
                }
                leadership.progress(member.id).map_or(Slot(0), |progress| progress.durable)
            };
            let reached = |configuration: &Configuration| {
                if self.planted.has(Bug::AcceptQuorumTooSmall) {
                    let best = configuration.members().iter().map(durable).max();
                    return best.unwrap_or_default();
                }
                configuration.quorum_value(durable)
            };
            let known = self.configurations.in_force().expect("a leader has a configuration");
            let mut upto = reached(&known.configuration);
            // Nothing is chosen past a change but by both configurations.
            let wrong = self.planted.has(Bug::WrongConfiguration);
            if let Some(change) = self.configurations.pending().first().filter(|_| !wrong)
                && upto >= change.slot
            {
                let both = reached(&change.configuration) >= change.slot;
                upto = if both { change.slot } else { Slot(change.slot.0 - 1) };
            }
            let upto = upto.min(self.acceptor.stream_slot());
            let before = self.acceptor.chosen();
            if upto <= before {
                return;
            }
            let bytes = self.acceptor.journal().bytes(before.next(), upto);
            self.advance_chosen(upto);
            self.update_progress(&[]);
            let Role::Leading(leadership) = &mut self.role else { return };
            leadership.unchosen_bytes = leadership.unchosen_bytes.saturating_sub(bytes);
        }
    }

    fn begin_serving(&mut self, effects: &mut Vec<Effect>) {
        let Role::Leading(leadership) = &self.role else { return };
        if leadership.no_op.is_none() && self.configurations.pending().is_empty() {
            let slot = self.propose_own(EntryKind::NoOp, None);
            let Role::Leading(leadership) = &mut self.role else { return };
            leadership.no_op = Some(slot);
            return;
        }
        let (chosen, applied) = (self.acceptor.chosen(), self.applied);
        let Role::Leading(leadership) = &mut self.role else { return };
        let done = leadership.no_op.is_some_and(|slot| chosen >= slot && applied >= slot);
        if done && !leadership.serving {
            leadership.serving = true;
            effects.push(Effect::Leads { ballot: leadership.ballot });
        }
    }

    /// Two storage replicas' checkpoints contain it: it may leave the logs.
    fn choose_trim(&mut self, effects: &mut Vec<Effect>) {
        let Role::Leading(leadership) = &self.role else { return };
        let known = self.configurations.in_force().expect("a leader has a configuration");
        let members = known.configuration.members();
        let (mut first, mut second) = (Slot(0), Slot(0));
        for member in members.iter().filter(|member| member.role == MemberRole::Storage) {
            let checkpoint = if member.id == self.id {
                self.checkpoint
            } else {
                leadership.progress(member.id).map_or(Slot(0), |progress| progress.checkpoint)
            };
            second = second.max(first.min(checkpoint));
            first = first.max(checkpoint);
        }
        let safe = if members.len() == 1 { first } else { second };
        self.may_trim = self.may_trim.max(safe.min(self.acceptor.chosen()));
        self.tell_trim(effects);
    }

    fn settle_hand_over(&mut self, at: At<'_>, effects: &mut Vec<Effect>) {
        let Role::Leading(leadership) = &mut self.role else { return };
        let Some((to, until)) = leadership.handing_over else { return };
        if at.now >= until {
            leadership.handing_over = None;
            return;
        }
        let last = self.acceptor.stream_slot();
        let ready = leadership.progress(to).is_some_and(|progress| progress.durable == last);
        // Applied: whoever waits for one of these slots has an answer before the lead is over.
        if ready && self.acceptor.chosen() == last && self.applied == last {
            self.relinquish(Some(to), effects);
            self.let_another_stand(to, at);
        }
    }

    /// Gives up after a while without a lease.
    fn settle_lease(&mut self, at: At<'_>, effects: &mut Vec<Effect>) {
        let held = self.holds_lease(at);
        let Role::Leading(leadership) = &mut self.role else { return };
        if held {
            leadership.lease_lost_at = None;
            return;
        }
        let lost_at = *leadership.lease_lost_at.get_or_insert(at.now);
        if at.now.since(lost_at) >= self.settings.give_up_nanos {
            self.relinquish(None, effects);
        }
    }

    /// From here on this member neither leads nor serves under its ballot, whatever happens.
    fn relinquish(&mut self, successor: Option<MemberId>, effects: &mut Vec<Effect>) {
        if self.planted.has(Bug::ServeAfterRelinquish) {
            self.relinquished = self.acceptor.stream();
            let ballot = self.relinquished;
            return self.ask_all(&Message::Relinquish { ballot, successor }, &[], effects);
        }
        self.give_up(successor, effects);
    }
}
