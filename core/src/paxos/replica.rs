//! One member of one group: its state, its inputs, and the order in which it reacts.
//!
//! ```text
//!                 leader missed            quorum says yes       quorum promised
//!     Following ───────────────► Canvassing ─────────────► Preparing ──────────► Learning
//!         ▲                                                                         │ all learned
//!         │ higher ballot · relinquished · removed · log failed                     ▼
//!         └────────────────────────────────────────────────────────────────────  Leading
//! ```
//!
//! Every input changes state first; then [`Replica::settle`] looks at what follows from it, in the
//! order acceptor, follower, candidate, leader. So an effect never depends on which input brought
//! the state about, and many inputs of one turn share their messages: [`Replica::propose`] does
//! nothing but take the next slot, and [`Input::Tick`] at the turn's end sends.

use super::acceptor::Acceptor;
use super::configurations::Configurations;
use super::effect::{Effect, Handle, PersistId};
use super::election::{Candidacy, Canvass, Learning};
use super::journal::Held;
use super::leader::Leadership;
use super::membership::{Configuration, Member, MemberId, MemberRole};
use super::message::{ConfigurationAt, Message, Offered, Payload};
use super::planted::{Bug, Planted};
use super::replication::Progress;
use super::settings::Settings;
use crate::ids::{Ballot, Slot};
use crate::liveness::{Epoch, Liveness, Peer};
use crate::time::Nanos;

/// The circumstances of a step.
#[derive(Clone, Copy, Debug)]
pub struct At<'a> {
    /// This machine's clock.
    pub now: Nanos,
    /// The shard's view of the other shards.
    pub liveness: &'a Liveness,
    /// A random number, to spread elections.
    pub random: u64,
}

/// What happened.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// A message arrived.
    Message {
        /// The member that sent it.
        from: MemberId,
        /// The shard that it came from.
        peer: Peer,
        /// What it says.
        message: &'a Message,
        /// The entries that came with it.
        entries: &'a [Offered<'a>],
    },
    /// Everything asked for up to this is durable.
    Persisted {
        /// The last that is.
        upto: PersistId,
    },
    /// The shard's log failed: this member takes no part any more until it is recovered.
    LogFailed,
    /// The state contains every slot up to this one.
    Applied {
        /// The last applied.
        slot: Slot,
    },
    /// A durable checkpoint contains every slot up to this one.
    Checkpointed {
        /// The last contained.
        slot: Slot,
    },
    /// Slots up to this one have left the log.
    Trimmed {
        /// The last that left.
        slot: Slot,
    },
    /// A snapshot is durable and is this member's state now.
    SnapshotInstalled {
        /// The last slot it contains.
        slot: Slot,
        /// In force after that slot.
        configuration: &'a ConfigurationAt,
    },
    /// A turn ended, something is due ([`Replica::next_due`]), or the liveness of a member's shard
    /// changed.
    Tick,
}

/// What a member's log and checkpoint say of it after a restart. All of it is durable.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// The highest ballot promised or accepted under.
    pub promised: Ballot,
    /// Known to be chosen; at least the checkpoint's slot.
    pub chosen: Slot,
    /// The origin of the entry at `chosen`; 0 if it was never held here.
    pub chosen_origin: Ballot,
    /// The state that recovery restored contains every slot up to here; 0 on a log replica.
    pub applied: Slot,
    /// The durable checkpoint contains every slot up to here.
    pub checkpoint: Slot,
    /// Slots up to this one are not in the log.
    pub trimmed: Slot,
    /// The configuration in force after `trimmed`, and every one accepted since, in order.
    pub configurations: Vec<ConfigurationAt>,
    /// What was accepted after `chosen`, without a gap; a damaged slot is
    /// [`super::EntryKind::Unknown`].
    pub entries: Vec<Held>,
}

/// What a member is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoleName {
    /// Accepts.
    Following,
    /// Asks whether it would be promised.
    Canvassing,
    /// Asks for promises.
    Preparing,
    /// Fetches what its promises revealed.
    Learning,
    /// Leads, and may serve already.
    Leading,
}

/// Figures for operators.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    /// What it is doing.
    pub role: RoleName,
    /// The highest promised.
    pub promised: Ballot,
    /// The last slot held.
    pub last_slot: Slot,
    /// Known to be chosen.
    pub chosen_slot: Slot,
    /// In the state.
    pub applied_slot: Slot,
    /// Not in the log any more.
    pub trimmed_slot: Slot,
    /// Messages that no correct member sends.
    pub protocol_errors: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Role {
    Following,
    Canvassing(Canvass),
    Preparing(Candidacy),
    Learning(Learning),
    Leading(Box<Leadership>),
}

/// Whose highest ballot was promised, and under which support.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Owner {
    pub(super) member: Option<MemberId>,
    pub(super) peer: Option<Peer>,
    /// The newest support that this member has told the owner of.
    pub(super) epoch: Option<Epoch>,
}

/// The leader as this member knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct LeaderSeen {
    pub(super) ballot: Ballot,
    pub(super) member: MemberId,
    pub(super) peer: Peer,
    pub(super) incarnation: u64,
}

/// One member's state machine. See the module's docs and [`crate::paxos`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Replica {
    pub(super) id: MemberId,
    pub(super) settings: Settings,
    pub(super) acceptor: Acceptor,
    pub(super) configurations: Configurations,
    pub(super) owner: Owner,
    /// It is of an earlier process: whom that told of its support is not known.
    pub(super) restarted: bool,
    pub(super) leader: Option<LeaderSeen>,
    /// Its owner has said that it uses it no more.
    pub(super) relinquished: Ballot,
    /// The own ballot that was used last and is used no more: this process has given it up, or one before
    /// had it promised to itself. Members that missed it are told again whenever nobody leads, also after
    /// another leader, whom they may never have heard: they refuse everybody for the sake of this ballot,
    /// and may have heard it only after the restart.
    pub(super) abandoned: Ballot,
    pub(super) successor: bool,
    /// To whom the last leader handed over, and until when that is news.
    pub(super) handed: Option<(MemberId, Nanos)>,
    pub(super) highest_seen: Ballot,
    pub(super) known_chosen: Slot,
    pub(super) told_chosen: Slot,
    pub(super) applied: Slot,
    pub(super) checkpoint: Slot,
    pub(super) trimmed: Slot,
    pub(super) may_trim: Slot,
    pub(super) told_trim: Slot,
    pub(super) was_member: bool,
    pub(super) removed: bool,
    pub(super) failed: bool,
    /// Its state is damaged and waits to be replaced.
    pub(super) damaged: bool,
    pub(super) role: Role,
    pub(super) election_at: Option<Nanos>,
    /// To be elected, since a leader was heard last.
    pub(super) attempts: u8,
    /// A Promise to send once it is durable.
    pub(super) promise_due: Option<(Ballot, MemberId)>,
    pub(super) answer_due: bool,
    pub(super) gap: bool,
    pub(super) told_durable: Slot,
    pub(super) protocol_errors: u64,
    pub(super) planted: Planted,
}

impl Replica {
    /// A member of a new group. Nothing is in its log yet but the group's first configuration.
    #[must_use]
    pub fn bootstrap(id: MemberId, settings: Settings, configuration: Configuration) -> Replica {
        let first = ConfigurationAt { slot: Slot(0), configuration };
        Replica::new(id, settings, vec![first], false)
    }

    /// A member that was added to a group and knows nothing of it yet: the leader will tell.
    #[must_use]
    pub fn joining(id: MemberId, settings: Settings) -> Replica {
        Replica::new(id, settings, Vec::new(), false)
    }

    fn new(
        id: MemberId,
        settings: Settings,
        configurations: Vec<ConfigurationAt>,
        restarted: bool,
    ) -> Replica {
        let recovered = Recovered {
            promised: Ballot(0),
            chosen: Slot(0),
            chosen_origin: Ballot(0),
            applied: Slot(0),
            checkpoint: Slot(0),
            trimmed: Slot(0),
            configurations,
            entries: Vec::new(),
        };
        Replica::assemble(id, settings, recovered, restarted, Planted::of_thread())
    }

    /// A member after a restart.
    ///
    /// # Panics
    /// If the recovered numbers contradict each other.
    #[must_use]
    pub fn recover(id: MemberId, settings: Settings, recovered: Recovered) -> Replica {
        Replica::recover_planted(id, settings, recovered, Planted::of_thread())
    }

    /// The same member with a bug, to see that the tests catch it.
    #[cfg(any(test, feature = "planted-bugs"))]
    #[must_use]
    pub fn with_bug(mut self, bug: Option<Bug>) -> Replica {
        self.planted = Planted(bug);
        self.acceptor.plant(self.planted);
        self
    }

    /// A member after a restart, with a bug.
    #[cfg(any(test, feature = "planted-bugs"))]
    #[must_use]
    pub fn recover_with_bug(
        id: MemberId,
        settings: Settings,
        recovered: Recovered,
        bug: Option<Bug>,
    ) -> Replica {
        Replica::recover_planted(id, settings, recovered, Planted(bug))
    }

    fn recover_planted(
        id: MemberId,
        settings: Settings,
        mut recovered: Recovered,
        planted: Planted,
    ) -> Replica {
        if planted.has(Bug::ForgetAccepted) {
            let chosen = recovered.chosen;
            recovered.entries.clear();
            recovered.configurations.retain(|at| at.slot <= chosen);
        }
        if planted.has(Bug::ForgetPromise) {
            recovered.promised = Ballot(0);
        }
        Replica::assemble(id, settings, recovered, true, planted)
    }

    fn assemble(
        id: MemberId,
        settings: Settings,
        recovered: Recovered,
        restarted: bool,
        planted: Planted,
    ) -> Replica {
        let Recovered { promised, chosen, applied, checkpoint, trimmed, .. } = recovered;
        assert!(checkpoint <= applied || applied == Slot(0), "recovery restores the checkpoint");
        assert!(applied <= chosen && trimmed <= chosen, "only chosen slots are applied or trimmed");
        let configurations = Configurations::recovered(recovered.configurations, chosen);
        let (entries, origin) = (recovered.entries.into_iter(), recovered.chosen_origin);
        let acceptor = Acceptor::recovered(promised, (chosen, origin), entries, planted);
        let promised = acceptor.promised();
        let mut replica = Replica {
            id,
            settings,
            acceptor,
            configurations,
            owner: Owner { member: None, peer: None, epoch: None },
            restarted,
            leader: None,
            relinquished: Ballot(0),
            abandoned: Ballot(0),
            successor: false,
            handed: None,
            highest_seen: promised,
            known_chosen: chosen,
            told_chosen: chosen,
            applied,
            checkpoint,
            trimmed,
            may_trim: trimmed,
            told_trim: trimmed,
            was_member: false,
            removed: false,
            failed: false,
            damaged: false,
            role: Role::Following,
            election_at: None,
            attempts: 0,
            promise_due: None,
            answer_due: false,
            gap: false,
            told_durable: Slot(0),
            protocol_errors: 0,
            planted,
        };
        let owner = replica.find_owner(promised).copied();
        replica.owner.member = owner.map(|member| member.id);
        replica.owner.peer = owner.map(|member| member.peer);
        if restarted && replica.owner.member == Some(id) {
            replica.abandoned = promised;
        }
        replica.note_membership();
        replica
    }

    /// Its identity.
    #[must_use]
    pub fn id(&self) -> MemberId {
        self.id
    }

    /// The newest configuration that it knows to be chosen; none before a new member has heard from
    /// the leader.
    #[must_use]
    pub fn configuration(&self) -> Option<&ConfigurationAt> {
        self.configurations.in_force()
    }

    /// Whether it holds a change of the membership that it does not know to be chosen.
    #[must_use]
    pub fn is_changing(&self) -> bool {
        !self.configurations.pending().is_empty()
    }

    /// The configuration that governs the slots after `slot`, for a checkpoint or a snapshot.
    #[must_use]
    pub fn configuration_after(&self, slot: Slot) -> Option<&ConfigurationAt> {
        self.configurations.after(slot)
    }

    /// The configuration that the entry at `slot` carries.
    #[must_use]
    pub fn configuration_entry(&self, slot: Slot) -> Option<&Configuration> {
        let at = self.configurations.after(slot).filter(|at| at.slot == slot)?;
        Some(&at.configuration)
    }

    /// Shards that hold a member, by any configuration that may be in force, or one that this leader tells
    /// of its removal.
    pub fn peers(&self) -> impl Iterator<Item = Peer> + '_ {
        let relevant = self.configurations.relevant().iter();
        let members = relevant.flat_map(|at| at.configuration.members());
        members.map(|member| member.peer).chain(self.leaving().iter().map(|leaving| leaving.peer))
    }

    /// The shard of a member, by any configuration that may be in force, or of one that this leader tells
    /// of its removal.
    #[must_use]
    pub fn peer_of(&self, id: MemberId) -> Option<Peer> {
        let leaving = || self.leaving().iter().find(|leaving| leaving.id == id);
        let member = self.find_member(id).map(|member| member.peer);
        member.or_else(|| leaving().map(|leaving| leaving.peer))
    }

    fn leaving(&self) -> &[Progress] {
        match &self.role {
            Role::Leading(leadership) => &leadership.leaving,
            _ => &[],
        }
    }

    /// Entries that the leader of `ballot` proposes up to this slot are held here as it proposed them:
    /// sent again, they say nothing new.
    #[must_use]
    pub fn taken_upto(&self, ballot: Ballot) -> Slot {
        if ballot == self.acceptor.stream() { self.acceptor.stream_slot() } else { Slot(0) }
    }

    /// The entry at `slot`, while it is in memory: accepted and not applied.
    #[must_use]
    pub fn held(&self, slot: Slot) -> Option<&Held> {
        self.acceptor.journal().get(slot)
    }

    /// The leader that it follows, if it knows one.
    #[must_use]
    pub fn leader(&self) -> Option<MemberId> {
        match self.role {
            Role::Leading(_) => Some(self.id),
            _ => self.leader.map(|leader| leader.member),
        }
    }

    /// The member that the last leader handed over to: it leads within moments, as far as is known.
    #[must_use]
    pub fn successor(&self, now: Nanos) -> Option<MemberId> {
        self.handed.filter(|(_, until)| now < *until).map(|(successor, _)| successor)
    }

    /// Whether this member was handed the lead, and is about to serve.
    #[must_use]
    pub fn takes_over(&self, now: Nanos) -> bool {
        let is_on_its_way = match &self.role {
            Role::Following | Role::Canvassing(_) => self.successor && self.may_stand(),
            Role::Preparing(_) | Role::Learning(_) => true,
            Role::Leading(leadership) => !leadership.serving,
        };
        is_on_its_way && self.successor(now) == Some(self.id)
    }

    /// The member that this one follows, unless it has given up its lead.
    #[must_use]
    pub fn follows(&self) -> Option<MemberId> {
        let leader = self.leader?;
        (!self.is_relinquished(leader.ballot)).then_some(leader.member)
    }

    /// Figures for operators.
    #[must_use]
    pub fn figures(&self) -> Figures {
        let role = match self.role {
            Role::Following => RoleName::Following,
            Role::Canvassing(_) => RoleName::Canvassing,
            Role::Preparing(_) => RoleName::Preparing,
            Role::Learning(_) => RoleName::Learning,
            Role::Leading(_) => RoleName::Leading,
        };
        Figures {
            role,
            promised: self.acceptor.promised(),
            last_slot: self.acceptor.journal().last(),
            chosen_slot: self.acceptor.chosen(),
            applied_slot: self.applied,
            trimmed_slot: self.trimmed,
            protocol_errors: self.protocol_errors,
        }
    }

    /// Its state is damaged and waits to be replaced, or is whole again. Until then it votes and logs,
    /// does not stand for election, and tells its leader that it keeps no state, so that no log is trimmed
    /// by its checkpoints (**Rule (trimming)**). A leader hands over first.
    pub fn set_damaged(&mut self, damaged: bool) {
        debug_assert!(!damaged || !matches!(self.role, Role::Leading(_)), "it hands over first");
        self.damaged = damaged;
        self.answer_due = true;
    }

    /// Takes an input and appends what follows from it to `effects`.
    pub fn step(&mut self, input: Input<'_>, at: At<'_>, effects: &mut Vec<Effect>) {
        if self.failed || self.removed {
            if let Input::Message { entries, .. } = input {
                discard(entries, effects);
            }
            return;
        }
        match input {
            Input::Message { from, peer, message, entries } => {
                self.receive(from, peer, message, entries, at, effects);
            }
            Input::Persisted { upto } => self.acceptor.persisted(upto),
            Input::LogFailed => {
                self.step_down(effects);
                self.failed = true;
                return;
            }
            Input::Applied { slot } => self.applied(slot),
            Input::Checkpointed { slot } => {
                assert!(slot <= self.applied, "a checkpoint contains what was applied");
                // The leader is told even if the group is idle: logs are trimmed by it.
                self.answer_due |= slot > self.checkpoint;
                self.checkpoint = self.checkpoint.max(slot);
            }
            Input::Trimmed { slot } => {
                assert!(slot <= self.may_trim, "slot {slot} is still needed");
                self.trimmed = self.trimmed.max(slot);
                self.configurations.forget_before(slot);
            }
            Input::SnapshotInstalled { slot, configuration } => {
                self.snapshot_installed(slot, *configuration);
            }
            Input::Tick => {}
        }
        self.settle(at, effects);
    }

    fn applied(&mut self, slot: Slot) {
        assert!(slot >= self.applied, "slots are applied in order");
        assert!(slot <= self.acceptor.chosen(), "only chosen slots are applied");
        assert!(slot == self.applied || self.applied >= self.trimmed, "slots are missing between");
        self.applied = slot;
        // The leader waits for a log replica to have caught up, and an idle group sends nothing else.
        self.answer_due |=
            slot == self.acceptor.chosen() && self.my_role() == Some(MemberRole::Log);
        self.release();
    }

    fn snapshot_installed(&mut self, slot: Slot, configuration: ConfigurationAt) {
        if slot <= self.applied {
            return;
        }
        if slot > self.acceptor.chosen() {
            self.begin_after(slot, configuration);
        }
        self.applied = slot;
        self.checkpoint = slot;
        self.known_chosen = self.known_chosen.max(slot);
        self.answer_due = true;
        self.release();
    }

    /// Everything up to `base` is chosen, and is not in this member's log.
    pub(super) fn begin_after(&mut self, base: Slot, configuration: ConfigurationAt) {
        assert!(base >= self.acceptor.chosen());
        self.acceptor.begin_after(base);
        self.configurations.begin_after(base, configuration);
        self.trimmed = base;
        self.may_trim = self.may_trim.max(base);
        self.note_membership();
    }

    /// Lets go of what nobody applies any more.
    pub(super) fn release(&mut self) {
        let needed = if self.keeps_state() { self.applied } else { self.acceptor.chosen() };
        self.acceptor.release(needed);
    }

    /// Whether entries are applied here: on storage replicas, and on log replicas that are on their
    /// way to become one.
    pub(super) fn keeps_state(&self) -> bool {
        self.applied > Slot(0) || self.my_role() == Some(MemberRole::Storage)
    }

    pub(super) fn my_role(&self) -> Option<MemberRole> {
        let newest = self.configurations.newest()?;
        newest.configuration.find(self.id).map(|member| member.role)
    }

    /// The member as a configuration in force knows it.
    pub(super) fn find_member(&self, id: MemberId) -> Option<&Member> {
        let relevant = self.configurations.relevant().iter().rev();
        relevant.filter_map(|at| at.configuration.find(id)).next()
    }

    fn find_owner(&self, ballot: Ballot) -> Option<&Member> {
        let relevant = self.configurations.relevant().iter().rev();
        relevant.filter_map(|at| at.configuration.find_number(ballot.number())).next()
    }

    /// Whether `from` may use `ballot`, as far as this member can tell.
    pub(super) fn owns(&self, from: MemberId, ballot: Ballot) -> bool {
        self.find_member(from).is_none_or(|member| member.number == ballot.number())
    }

    /// Notices that it is, or was, a member by a chosen configuration.
    pub(super) fn note_membership(&mut self) -> bool {
        let listed = self.configuration().map(|at| at.configuration.find(self.id).is_some());
        match listed {
            Some(true) => self.was_member = true,
            Some(false) if self.was_member => return true,
            _ => {}
        }
        false
    }

    fn receive(
        &mut self,
        from: MemberId,
        peer: Peer,
        message: &Message,
        entries: &[Offered<'_>],
        at: At<'_>,
        effects: &mut Vec<Effect>,
    ) {
        if from == self.id {
            self.protocol_errors += 1;
            return discard(entries, effects);
        }
        match message {
            Message::Canvass { ballot, last, configuration_slot } => {
                self.on_canvass(from, peer, *ballot, *last, *configuration_slot, at, effects);
            }
            Message::CanvassAnswer { ballot } => self.on_canvass_answer(from, *ballot),
            Message::Prepare { ballot, last, configuration_slot } => {
                self.on_prepare(from, peer, *ballot, *last, *configuration_slot, at, effects);
            }
            Message::Promise { ballot, report } => self.on_promise(from, *ballot, report),
            Message::Refused { ballot, promised, reason } => {
                self.on_refused(from, *ballot, *promised, *reason, at, effects);
            }
            Message::Fetch { ballot, first, last } => {
                self.on_fetch(from, *ballot, *first, *last, effects);
            }
            Message::Fetched { ballot, first } => {
                self.on_fetched(from, *ballot, *first, entries, effects);
            }
            Message::Accept { ballot, first, chosen, trim } => {
                if self.follow(from, peer, *ballot, at, effects) {
                    self.on_accept(*first, *chosen, *trim, entries, effects);
                } else {
                    discard(entries, effects);
                }
            }
            Message::Chosen { ballot, chosen, last, trim, ask } => {
                if self.follow(from, peer, *ballot, at, effects) {
                    self.on_chosen(*chosen, *last, *trim, *ask);
                }
            }
            Message::Trimmed { ballot, base, configuration } => {
                self.on_trimmed(from, peer, *ballot, *base, **configuration, at, effects);
            }
            Message::Accepted { .. } => self.on_accepted(from, message, at.now),
            Message::Reserve { ballot, next } => self.on_reserve(from, *ballot, *next, effects),
            Message::Relinquish { ballot, successor } => {
                self.on_relinquish(from, *ballot, *successor, at);
            }
        }
    }

    /// What follows from the state.
    fn settle(&mut self, at: At<'_>, effects: &mut Vec<Effect>) {
        let role = core::mem::discriminant(&self.role);
        self.settle_candidate(at, effects);
        self.settle_leader(at, effects);
        let watched = |replica: &Replica| {
            let acceptor = &replica.acceptor;
            (acceptor.chosen(), acceptor.stream_durable(), replica.promise_due)
        };
        let before = watched(self);
        self.acceptor.log_accepted(effects);
        self.settle_follower(at, effects);
        self.settle_promise(at, effects);
        // A promise to itself, or a slot that a group of one just chose, may lead on at once. Who goes on
        // following or leading, and has nothing of the kind, has settled.
        let stays = matches!(self.role, Role::Following | Role::Leading(_))
            && role == core::mem::discriminant(&self.role);
        if !stays || before != watched(self) {
            self.settle_candidate(at, effects);
            self.settle_leader(at, effects);
            self.acceptor.log_accepted(effects);
        }
        self.settle_chosen(effects);
    }

    /// Announces the watermark, and what it makes of the membership.
    fn settle_chosen(&mut self, effects: &mut Vec<Effect>) {
        let chosen = self.acceptor.chosen();
        if chosen > self.told_chosen {
            self.told_chosen = chosen;
            effects.push(Effect::Chosen { slot: chosen });
            self.release();
        }
        if !self.removed && self.note_membership() {
            let slot = self.configurations.in_force().map_or(Slot(0), |at| at.slot);
            self.leave(slot, effects);
        }
    }

    /// The configuration chosen at `slot` does not list this member.
    pub(super) fn leave(&mut self, slot: Slot, effects: &mut Vec<Effect>) {
        self.step_down(effects);
        self.removed = true;
        effects.push(Effect::Removed { slot });
    }

    /// Back to following, whatever it was.
    pub(super) fn step_down(&mut self, effects: &mut Vec<Effect>) {
        self.give_up(None, effects);
    }

    /// Back to following. What was promised to this member is free again: it uses the ballot no
    /// more, and says so, because members refuse all others while they support its shard.
    pub(super) fn give_up(&mut self, successor: Option<MemberId>, effects: &mut Vec<Effect>) {
        let role = core::mem::replace(&mut self.role, Role::Following);
        let ballot = match role {
            Role::Following | Role::Canvassing(_) => None,
            // Nobody was asked for it, and after a restart it may be used.
            Role::Preparing(candidacy)
                if !candidacy.is_durable(self.id)
                    && !self.planted.has(Bug::PrepareUndurableBallot) =>
            {
                None
            }
            Role::Preparing(candidacy) => Some(candidacy.ballot),
            Role::Learning(learning) => Some(learning.ballot),
            Role::Leading(leadership) => {
                effects.push(Effect::StepsDown { ballot: leadership.ballot });
                Some(leadership.ballot)
            }
        };
        if let Some(ballot) = ballot {
            self.note_relinquished(ballot);
            self.abandoned = ballot;
            self.ask_all(&Message::Relinquish { ballot, successor }, &[], effects);
        }
        self.leader = None;
        self.election_at = None;
    }

    /// When a Tick is due, if ever without another input.
    #[must_use]
    pub fn next_due(&self) -> Option<Nanos> {
        if self.failed || self.removed {
            return None;
        }
        match &self.role {
            Role::Following => self.election_at,
            Role::Canvassing(canvass) => Some(canvass.retry_at.min(canvass.give_up_at)),
            Role::Preparing(candidacy) => Some(candidacy.retry_at.min(candidacy.give_up_at)),
            Role::Learning(learning) => Some(learning.retry_at.min(learning.give_up_at)),
            Role::Leading(leadership) => leadership.next_due(),
        }
    }
}

/// The staged bytes of these entries are not taken.
pub(super) fn discard(entries: &[Offered<'_>], effects: &mut Vec<Effect>) {
    for offered in entries {
        discard_handle(offered.handle, effects);
    }
}

pub(super) fn discard_handle(handle: Handle, effects: &mut Vec<Effect>) {
    if handle != Handle::NONE {
        effects.push(Effect::Discard { handle });
    }
}

pub(super) fn held_of(offered: &Offered<'_>, ballot: Ballot) -> Held {
    use super::message::EntryKind;
    let kind = match offered.payload {
        Payload::NoOp => EntryKind::NoOp,
        Payload::Data => EntryKind::Data,
        Payload::Configuration(_) => EntryKind::Configuration,
    };
    Held { ballot, origin: offered.origin, handle: offered.handle, bytes: offered.bytes, kind }
}

pub(super) fn configuration_of<'a>(offered: &Offered<'a>) -> Option<&'a Configuration> {
    match offered.payload {
        Payload::Configuration(configuration) => Some(configuration),
        _ => None,
    }
}
