//! The members of groups on this shard: their replicas, and what their effects come to.

use std::collections::{BTreeSet, VecDeque};

use forebay_core::ids::{GroupId, IdMap, Slot};
use forebay_core::liveness::{Liveness, PairEffect, Peer};
use forebay_core::message::Lag;
use forebay_core::message::peer::{GroupMessage, Route};
use forebay_core::paxos::{
    At, Configuration, Effect, EntryKind, Figures, Handle, Input, Member as ConfiguredMember,
    MemberId, MemberRole, Message, NotBegun, NotProposed as Unready, NotServed, Offered, Payload,
    PersistId, Refusal, Replica,
};
use forebay_core::planted::{self, Flaw};
use forebay_core::time::Nanos;
use forebay_storage::store::{AcceptedEntry, GroupOrdinal, Refused, Store};

use super::fresh::{Fresh, Lead};
use super::membership::{MemberState, Watched};
use super::outbox::Outbox;
use super::snapshot::SnapshotStatus;
use super::unheard::Unheard;
use super::wanting::Want;
use super::{Event, TURN_STEPS_MAX, entry};

/// Senders that no configuration lists are remembered for their answer, at most.
const STRANGERS_MAX: usize = 4;

/// Why a write was not proposed. Nothing was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotProposed {
    /// The store has no room, or cannot write.
    Refused(Refused),
    /// Another member leads, or none does at the moment.
    NotLeading,
    /// This member leads, and a change of the group's members or of its leader is on its way: some round
    /// trips, after which it takes writes again, or leads no more.
    Changing,
    /// This member leads, and takes none for the moment.
    NotNow,
}

/// A member as operators see it.
#[derive(Clone, Copy, Debug)]
pub struct MemberStatus {
    /// The group.
    pub group: GroupId,
    /// Its place on the shard.
    pub ordinal: GroupOrdinal,
    /// The member.
    pub id: MemberId,
    /// What it keeps.
    pub role: MemberRole,
    /// How it stands to its group.
    pub state: MemberState,
    /// A change of the members is on its way, as far as it knows.
    pub changing: bool,
    /// Whether it leads and serves.
    pub serves: bool,
    /// The shard that leads, as far as it knows.
    pub leader: Option<Peer>,
    /// What it needs next has left the logs of the others: it waits for a snapshot.
    pub needs_snapshot: bool,
    /// Its state is damaged, and is read by nobody until it is replaced.
    pub damaged: bool,
    /// It is getting one.
    pub snapshot: Option<SnapshotStatus>,
    /// Its replica's own.
    pub figures: Figures,
}

#[derive(Debug)]
pub(super) struct Member {
    pub(super) group: GroupId,
    pub(super) id: MemberId,
    /// What it keeps.
    pub(super) role: MemberRole,
    pub(super) watched: Watched,
    pub(super) replica: Replica,
    may_trim: Slot,
    checkpoint: Slot,
    pub(super) serves: bool,
    /// What it needs has left the logs.
    pub(super) want: Option<Want>,
    /// Its state is damaged, and waits for another one.
    pub(super) stopped: bool,
    /// A leader whose state is damaged, or that does not reach all, does not hand over again before.
    pub(super) hand_over_at: Nanos,
    touched: bool,
    woken: bool,
    due: Option<Nanos>,
    /// Until when the lease holds, as computed at the time before it.
    lease: (Nanos, Nanos),
    strangers: Vec<(MemberId, Peer)>,
    fresh: Fresh,
}

/// What the store has to say, as it hands it over.
#[derive(Debug, Default)]
struct Reported {
    persisted: Vec<(GroupOrdinal, PersistId)>,
    applied: Vec<(GroupOrdinal, Slot)>,
    checkpointed: Vec<(GroupOrdinal, Slot)>,
}

/// See the module's docs.
#[derive(Debug)]
pub(super) struct Members {
    pub(super) liveness: Liveness,
    pub(super) pair_effects: Vec<PairEffect>,
    pub(super) events: Vec<Event>,
    /// By ordinal.
    pub(super) list: Vec<Option<Box<Member>>>,
    pub(super) by_group: IdMap<GroupId, GroupOrdinal>,
    /// Members that need snapshots, since the last look.
    pub(super) wanting: Vec<GroupOrdinal>,
    /// Members whose damaged state is to be stopped.
    pub(super) damaged: Vec<GroupOrdinal>,
    /// Leaders that may have something to report.
    pub(super) news: Vec<GroupOrdinal>,
    /// Written to in this turn.
    touched: Vec<GroupOrdinal>,
    /// To be ticked, in slices: their time has come, or something about a peer changed.
    woken: VecDeque<GroupOrdinal>,
    due: BTreeSet<(Nanos, GroupOrdinal)>,
    pub(super) effects: Vec<Effect>,
    /// Empty between two messages.
    offered: Vec<Offered<'static>>,
    pub(super) outbox: Outbox,
    /// What the store has reported and no replica has heard yet.
    persisted: VecDeque<(GroupOrdinal, PersistId)>,
    checkpointed: VecDeque<(GroupOrdinal, Slot)>,
    /// Empty between two looks at the store.
    reported: Reported,
    /// Of reports, in this turn.
    steps: usize,
    trims: bool,
    pub(super) unheard: Unheard,
    /// How often members here have begun to serve.
    pub(super) reigns: u64,
    /// Who wrote to members that are not here.
    pub(super) absent: Vec<(Peer, GroupId, MemberId)>,
    random: u64,
}

pub(super) const A_MEMBER: &str = "the group has a member here";

/// The same memory, for entries that borrow from something else.
fn emptied<'a>(mut offered: Vec<Offered<'_>>) -> Vec<Offered<'a>> {
    offered.clear();
    offered.into_iter().map(|_| unreachable!("it was emptied")).collect()
}

impl Members {
    pub(super) fn new(liveness: Liveness, seed: u64) -> Members {
        Members {
            liveness,
            pair_effects: Vec::new(),
            events: Vec::new(),
            list: Vec::new(),
            by_group: IdMap::default(),
            wanting: Vec::new(),
            damaged: Vec::new(),
            news: Vec::new(),
            touched: Vec::new(),
            woken: VecDeque::new(),
            due: BTreeSet::new(),
            effects: Vec::new(),
            offered: Vec::new(),
            outbox: Outbox::default(),
            persisted: VecDeque::new(),
            checkpointed: VecDeque::new(),
            reported: Reported::default(),
            steps: 0,
            trims: false,
            unheard: Unheard::default(),
            reigns: 0,
            absent: Vec::new(),
            random: seed | 1,
        }
    }

    pub(super) fn insert(
        &mut self,
        group: GroupId,
        ordinal: GroupOrdinal,
        role: MemberRole,
        replica: Replica,
        may_trim: Slot,
    ) {
        let index = ordinal.0 as usize;
        if self.list.len() <= index {
            self.list.resize_with(index + 1, || None);
        }
        self.list[index] = Some(Box::new(Member {
            group,
            id: replica.id(),
            role,
            watched: Watched::default(),
            replica,
            may_trim,
            checkpoint: Slot(0),
            serves: false,
            want: None,
            stopped: false,
            hand_over_at: Nanos(0),
            touched: false,
            woken: false,
            due: None,
            lease: (Nanos(0), Nanos(0)),
            strangers: Vec::new(),
            fresh: Fresh::default(),
        }));
        self.by_group.insert(group, ordinal);
        self.touch(ordinal);
    }

    pub(super) fn remove(&mut self, ordinal: GroupOrdinal) {
        let Some(member) = self.list[ordinal.0 as usize].take() else { return };
        self.by_group.remove(&member.group);
        self.damaged.retain(|damaged| *damaged != ordinal);
        // Its place may be another's soon.
        self.persisted.retain(|(of, _)| *of != ordinal);
        self.checkpointed.retain(|(of, _)| *of != ordinal);
        if let Some(due) = member.due {
            self.due.remove(&(due, ordinal));
        }
        if member.serves {
            self.events.push(Event::StepsDown(ordinal));
        }
    }

    pub(super) fn find(&mut self, ordinal: GroupOrdinal) -> Option<&mut Member> {
        self.list.get_mut(ordinal.0 as usize)?.as_deref_mut()
    }

    pub(super) fn get(&self, ordinal: GroupOrdinal) -> &Member {
        self.list[ordinal.0 as usize].as_deref().expect(A_MEMBER)
    }

    pub(super) fn ordinal(&self, group: GroupId) -> Option<GroupOrdinal> {
        self.by_group.get(&group).copied()
    }

    /// The next random number of this shard's replicas and links.
    pub(super) fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695);
        self.random >> 16
    }

    pub(super) fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    pub(super) fn next_due(&self) -> Option<Nanos> {
        self.due.first().map(|(due, _)| *due)
    }

    pub(super) fn leader(&self, ordinal: GroupOrdinal, now: Nanos) -> Option<Peer> {
        let replica = &self.get(ordinal).replica;
        replica.peer_of(replica.leader().or_else(|| replica.successor(now))?)
    }

    pub(super) fn takes_over(&self, ordinal: GroupOrdinal, now: Nanos) -> bool {
        self.get(ordinal).replica.takes_over(now)
    }

    pub(super) fn statuses(&self) -> impl Iterator<Item = MemberStatus> + '_ {
        let members = self.list.iter().enumerate();
        let members = members.filter_map(|(index, member)| Some((index, member.as_deref()?)));
        members.map(|(index, member)| MemberStatus {
            group: member.group,
            ordinal: GroupOrdinal(index as u32),
            id: member.id,
            role: member.role,
            state: member.state(),
            changing: member.replica.is_changing(),
            serves: member.serves,
            leader: member.replica.leader().and_then(|id| member.replica.peer_of(id)),
            needs_snapshot: member.want.is_some(),
            damaged: member.stopped,
            snapshot: None,
            figures: member.replica.figures(),
        })
    }

    /// The group gets a tick before the turn ends.
    pub(super) fn touch(&mut self, ordinal: GroupOrdinal) {
        let Some(member) = self.find(ordinal) else { return };
        if !std::mem::replace(&mut member.touched, true) {
            self.touched.push(ordinal);
        }
    }

    /// The group gets a tick in this turn or one of the next.
    fn wake(&mut self, ordinal: GroupOrdinal) {
        let Some(member) = self.find(ordinal) else { return };
        if !std::mem::replace(&mut member.woken, true) {
            self.woken.push_back(ordinal);
        }
    }

    /// A new connection to that shard: leaders say again what was lost with the one before.
    pub(super) fn reconnected(&mut self, peer: Peer) {
        for member in self.list.iter_mut().filter_map(Option::as_deref_mut) {
            member.replica.reconnected(peer);
        }
    }

    pub(super) fn wake_all_on(&mut self, peer: Peer) {
        for index in 0..self.list.len() {
            let Some(member) = self.list[index].as_deref() else { continue };
            if member.replica.peers().any(|other| other == peer) {
                self.wake(GroupOrdinal(index as u32));
            }
        }
    }

    /// Those that follow a member on that shard.
    pub(super) fn wake_led_by(&mut self, peer: Peer) {
        for index in 0..self.list.len() {
            let Some(member) = self.list[index].as_deref() else { continue };
            let leader = member.replica.leader().and_then(|id| member.replica.peer_of(id));
            if leader.is_none_or(|leader| leader == peer) {
                self.wake(GroupOrdinal(index as u32));
            }
        }
    }

    /// Wakes those whose time has come.
    pub(super) fn wake_due(&mut self, now: Nanos) {
        while let Some(&(due, ordinal)) = self.due.first()
            && due <= now
        {
            self.due.pop_first();
            self.find(ordinal).expect(A_MEMBER).due = None;
            self.wake(ordinal);
        }
    }

    /// Ticks a slice of those that are awake.
    pub(super) fn tick_woken(&mut self, store: &mut Store, now: Nanos) {
        for _ in 0..TURN_STEPS_MAX {
            let Some(ordinal) = self.woken.pop_front() else { return };
            let Some(member) = self.find(ordinal) else { continue };
            member.woken = false;
            self.step(store, ordinal, Input::Tick, now);
        }
    }

    /// Whether the next turn has something to go on with.
    pub(super) fn is_behind(&self) -> bool {
        !self.woken.is_empty() || !self.persisted.is_empty() || !self.checkpointed.is_empty()
    }

    pub(super) fn tick_touched(&mut self, store: &mut Store, now: Nanos) {
        while let Some(ordinal) = self.touched.pop() {
            let Some(member) = self.find(ordinal) else { continue };
            member.touched = false;
            self.step(store, ordinal, Input::Tick, now);
        }
    }

    /// A new turn may take as many steps as any other.
    pub(super) fn begin_turn(&mut self) {
        self.steps = 0;
    }

    /// Tells the replicas what the store has done since the last call, and what followed. What is applied
    /// they hear at once: replies wait for it, and it follows from what they did in this turn. What is
    /// durable or in a checkpoint may be of thousands of groups at once, and waits for its turn: later
    /// is as true. (A checkpoint is never heard of before what is in it was applied.)
    pub(super) fn take_done(&mut self, store: &mut Store, now: Nanos) {
        while let Some(past) = store.take_read_entries() {
            self.outbox.read(&past);
        }
        loop {
            if store.has_reports() {
                self.take_reports(store, now);
            }
            if self.steps >= TURN_STEPS_MAX {
                break;
            }
            if let Some((ordinal, upto)) = self.persisted.pop_front() {
                self.step(store, ordinal, Input::Persisted { upto }, now);
            } else if let Some((ordinal, slot)) = self.checkpointed.pop_front() {
                self.step(store, ordinal, Input::Checkpointed { slot }, now);
                if let Some(member) = self.find(ordinal) {
                    member.checkpoint = slot;
                }
                self.trims = true;
            } else {
                break;
            }
            self.steps += 1;
        }
        if self.checkpointed.is_empty() && std::mem::take(&mut self.trims) {
            self.trim_all(store, now);
        }
    }

    fn take_reports(&mut self, store: &mut Store, now: Nanos) {
        let mut reported = std::mem::take(&mut self.reported);
        store.take_persisted(&mut reported.persisted);
        store.take_applied(&mut reported.applied);
        store.take_checkpointed(&mut reported.checkpointed);
        self.persisted.extend(reported.persisted.drain(..));
        self.checkpointed.extend(reported.checkpointed.drain(..));
        for (ordinal, slot) in reported.applied.drain(..) {
            // Before what follows: a lead that is handed over ends with its last slot.
            self.events.push(Event::Applied(ordinal, slot));
            self.step(store, ordinal, Input::Applied { slot }, now);
            if self.find(ordinal).is_some_and(|member| member.fresh.waits_for(slot)) {
                self.settle_fresh(ordinal, now);
            }
        }
        self.reported = reported;
    }

    /// Lets go of entries that two checkpoints have, where they take too much of the log or would
    /// soon have to be copied.
    fn trim_all(&mut self, store: &mut Store, now: Nanos) {
        for index in 0..self.list.len() {
            let Some(member) = self.list[index].as_deref() else { continue };
            let figures = member.replica.figures();
            let own = match member.role {
                MemberRole::Storage => member.checkpoint,
                MemberRole::Log => figures.chosen_slot,
            };
            let ordinal = GroupOrdinal(index as u32);
            let limit = store.trim_limit(ordinal).unwrap_or(own);
            let may_trim = match planted::has(Flaw::TrimByOwnCheckpoint) {
                true => own,
                false => member.may_trim,
            };
            let mut slot = may_trim.min(own).min(limit);
            if !store.must_trim(ordinal) {
                slot = slot.min(store.old_slots(ordinal).unwrap_or_default());
            }
            if slot > figures.trimmed_slot {
                store.trim(ordinal, slot);
                self.step(store, ordinal, Input::Trimmed { slot }, now);
            }
        }
    }

    pub(super) fn propose(
        &mut self,
        store: &mut Store,
        ordinal: GroupOrdinal,
        key: &[u8],
        item: Option<&[u8]>,
    ) -> Result<Slot, NotProposed> {
        let member = self.find(ordinal).ok_or(NotProposed::NotLeading)?;
        if !member.serves {
            return Err(NotProposed::NotLeading);
        }
        let handle = store.stage(ordinal, key, item).map_err(NotProposed::Refused)?;
        let bytes = key.len() + item.map_or(0, <[u8]>::len);
        match member.replica.propose(handle, bytes as u32) {
            Ok(slot) => {
                store.propose(handle, slot);
                self.touch(ordinal);
                Ok(slot)
            }
            Err(reason) => {
                store.discard(handle);
                Err(match reason {
                    Unready::NotLeading => NotProposed::NotLeading,
                    Unready::Changing | Unready::HandingOver => NotProposed::Changing,
                    _ => NotProposed::NotNow,
                })
            }
        }
    }

    /// Until when a read of this turn stands.
    pub(super) fn may_read(
        &mut self,
        ordinal: GroupOrdinal,
        now: Nanos,
    ) -> Result<Nanos, NotServed> {
        let Members { liveness, list, .. } = self;
        let member = list.get_mut(ordinal.0 as usize).and_then(Option::as_deref_mut);
        let member = member.ok_or(NotServed::NotLeading { leader: None })?;
        let (seen_at, until) = member.lease;
        if seen_at == now && now < until && member.serves {
            return Ok(until);
        }
        let at = At { now, liveness, random: 0 };
        member.replica.begin_read(at)?;
        let until = member.replica.lease_until(at);
        member.lease = (now, until);
        Ok(until)
    }

    pub(super) fn hand_over(
        &mut self,
        store: &mut Store,
        ordinal: GroupOrdinal,
        to: Peer,
        now: Nanos,
    ) -> Result<(), String> {
        match self.hand_over_to(store, ordinal, now, |other| other.peer == to) {
            Some(begun) => begun.map_err(|error| error.to_string()),
            None => Err(format!("shard {} holds no member of the group", to.0)),
        }
    }

    pub(super) fn stand(&mut self, store: &mut Store, ordinal: GroupOrdinal, now: Nanos) {
        let Members { liveness, list, effects, .. } = self;
        let member = list[ordinal.0 as usize].as_deref_mut().expect(A_MEMBER);
        member.replica.stand(At { now, liveness, random: 0 }, effects);
        self.carry_out(store, ordinal);
    }

    pub(super) fn hand_over_all(&mut self, store: &mut Store, now: Nanos) -> usize {
        let mut led = 0;
        for index in 0..self.list.len() {
            let Some(member) = self.list[index].as_deref().filter(|member| member.serves) else {
                continue;
            };
            let me = member.id;
            // Whoever cannot take it now is asked again in the next turn.
            self.hand_over_to(store, GroupOrdinal(index as u32), now, |other| other.id != me);
            led += usize::from(self.list[index].as_ref().is_some_and(|member| member.serves));
        }
        led
    }

    /// Hands the lead to the first of the members that `may` be it and can; else says why the last of
    /// them cannot. None: there is no such member.
    fn hand_over_to(
        &mut self,
        store: &mut Store,
        ordinal: GroupOrdinal,
        now: Nanos,
        may: impl Fn(&ConfiguredMember) -> bool,
    ) -> Option<Result<(), NotBegun>> {
        let Members { liveness, list, effects, .. } = self;
        let replica = &mut list[ordinal.0 as usize].as_deref_mut().expect(A_MEMBER).replica;
        let at = At { now, liveness, random: 0 };
        let known = replica.configuration().map(|known| known.configuration);
        let members = known.iter().flat_map(Configuration::members);
        let mut begun = None;
        for other in members.filter(|other| may(other)) {
            begun = Some(replica.hand_over(other.id, at, effects));
            if begun == Some(Ok(())) {
                break;
            }
        }
        self.carry_out(store, ordinal);
        begun
    }

    pub(super) fn fail(&mut self, store: &mut Store, now: Nanos) {
        for index in 0..self.list.len() {
            self.step(store, GroupOrdinal(index as u32), Input::LogFailed, now);
        }
    }

    pub(super) fn receive(
        &mut self,
        store: &mut Store,
        from: Peer,
        arrived: &GroupMessage<'_>,
        now: Nanos,
    ) {
        let GroupMessage { route, message, entries } = arrived;
        let ordinal = self.by_group.get(&route.group).copied();
        let member = ordinal.and_then(|ordinal| self.find(ordinal));
        let Some(member) = member.filter(|member| member.id == route.to) else {
            return self.note_misdirected(from, route.group, route.to);
        };
        let lives_on = member.replica.peer_of(route.from);
        if lives_on.is_some_and(|peer| peer != from) {
            return self.unheard.note_misdirected(from, route.group, route.to);
        }
        member.watched.heard(route.from);
        if lives_on.is_none() {
            member.strangers.retain(|(id, _)| *id != route.from);
            member.strangers.truncate(STRANGERS_MAX - 1);
            member.strangers.insert(0, (route.from, from));
        }
        // It would begin its log after the state that it is about to have.
        let moves_log =
            matches!(message, Message::Trimmed { .. }) && member.role == MemberRole::Log;
        let ordinal = ordinal.expect("just found");
        if moves_log && store.is_committing_install(ordinal) {
            return;
        }
        let configurations: Vec<Configuration> =
            entries.clone().filter_map(|entry| entry.configuration()).collect();
        let mut configurations = configurations.iter();
        let count = entries.len();
        // A repetition is not even staged: what a link held back comes many times over.
        let known = match *message {
            Message::Accept { ballot, first, .. } => {
                (member.replica.taken_upto(ballot).0 + 1).saturating_sub(first.0)
            }
            _ => 0,
        };
        let mut offered = emptied(std::mem::take(&mut self.offered));
        for (index, arrived) in entries.clone().enumerate() {
            let payload = match arrived.kind {
                EntryKind::Data => Payload::Data,
                EntryKind::Configuration => {
                    Payload::Configuration(configurations.next().expect("counted"))
                }
                EntryKind::NoOp | EntryKind::Unknown => Payload::NoOp,
            };
            let mut handle = Handle::NONE;
            if payload == Payload::Data && index as u64 >= known {
                let Some(bytes) = entry::decode(arrived.bytes) else { break };
                let Ok(staged) = store.stage(ordinal, bytes.key, bytes.item) else { break };
                handle = staged;
            }
            let (bytes, origin) = (arrived.bytes.len() as u32, arrived.origin);
            offered.push(Offered { handle, bytes, payload, origin });
        }
        if offered.is_empty() && count > 0 {
            // No room: the leader sends it again after a while. An answer would say that it is
            // missing, and bring all of it at once.
            return;
        }
        let (from, peer) = (route.from, from);
        let input = Input::Message { from, peer, message, entries: &offered };
        self.step(store, ordinal, input, now);
        self.offered = emptied(offered);
        let told = match *message {
            Message::Accept { first, chosen, .. } => {
                chosen.max(Slot((first.0 + count as u64).saturating_sub(1)))
            }
            Message::Chosen { chosen, last, .. } => chosen.max(last),
            _ => return,
        };
        let lead = self.lead_of(from, peer, now);
        if let Some(member) = self.find(ordinal)
            && member.replica.follows() == Some(from)
        {
            member.fresh.told(lead, told);
            self.settle_fresh(ordinal, now);
        }
    }

    /// A leader on a shard that hears this one and is heard by it.
    fn lead_of(&self, member: MemberId, peer: Peer, now: Nanos) -> Option<Lead> {
        let (heard, _) = self.liveness.granted(peer)?;
        Some(Lead { member, peer, heard, hears: self.liveness.supports(peer, now)? })
    }

    /// Whether the leader that a member follows has told it nothing since both last began to hear each
    /// other: it may have removed it.
    pub(super) fn is_in_doubt(&self, ordinal: GroupOrdinal, now: Nanos) -> bool {
        let member = self.get(ordinal);
        let Some(leader) = member.replica.follows().filter(|leader| *leader != member.id) else {
            return false;
        };
        let peer = member.replica.peer_of(leader);
        let lead = peer.and_then(|peer| self.lead_of(leader, peer, now));
        lead.is_some() && lead != member.fresh.lead()
    }

    /// Takes note of how fresh a follower's state is.
    fn settle_fresh(&mut self, ordinal: GroupOrdinal, now: Nanos) {
        let Some(member) = self.list.get(ordinal.0 as usize).and_then(Option::as_deref) else {
            return;
        };
        let follows = member.replica.follows();
        let lead = member.fresh.lead().filter(|lead| Some(lead.member) == follows);
        let lead = lead.filter(|lead| self.lead_of(lead.member, lead.peer, now) == Some(*lead));
        let answered = lead.and_then(|lead| self.liveness.answered(lead.peer));
        let member = self.find(ordinal).expect("just looked");
        member.fresh.settle(answered.map(|(_, at)| at), member.replica.figures().applied_slot);
    }

    /// How far behind the state here may be; None if there is none to read.
    pub(super) fn lag(&mut self, ordinal: GroupOrdinal, now: Nanos) -> Option<Lag> {
        self.settle_fresh(ordinal, now);
        let Members { liveness, list, .. } = self;
        let member = list.get_mut(ordinal.0 as usize).and_then(Option::as_deref_mut)?;
        let figures = member.replica.figures();
        // What has left the log must be in the state, or there is nothing to answer from.
        let behind = figures.applied_slot < figures.trimmed_slot;
        if member.role != MemberRole::Storage || behind || member.stopped {
            return None;
        }
        let at = At { now, liveness, random: 0 };
        match member.serves && member.replica.holds_lease(at) {
            true => Some(Lag::NONE),
            false => Some(member.fresh.lag(figures.applied_slot, now)),
        }
    }

    pub(super) fn step(
        &mut self,
        store: &mut Store,
        ordinal: GroupOrdinal,
        input: Input<'_>,
        now: Nanos,
    ) {
        let random = self.draw();
        let Members { liveness, list, effects, .. } = self;
        let Some(member) = list.get_mut(ordinal.0 as usize).and_then(Option::as_deref_mut) else {
            return;
        };
        let at = At { now, liveness, random };
        member.replica.step(input, at, effects);
        self.carry_out(store, ordinal);
    }

    pub(super) fn carry_out(&mut self, store: &mut Store, ordinal: GroupOrdinal) {
        let mut effects = std::mem::take(&mut self.effects);
        for effect in effects.drain(..) {
            self.carry_out_one(store, ordinal, effect);
        }
        self.effects = effects;
        let member = self.find(ordinal).expect(A_MEMBER);
        member.lease = (Nanos(0), Nanos(0));
        let (before, due) = (member.due, member.replica.next_due());
        member.due = due;
        if before != due {
            if let Some(before) = before {
                self.due.remove(&(before, ordinal));
            }
            self.due.extend(due.map(|due| (due, ordinal)));
        }
        self.is_news(ordinal);
    }

    fn carry_out_one(&mut self, store: &mut Store, ordinal: GroupOrdinal, effect: Effect) {
        let Members { list, outbox, .. } = self;
        let member = list[ordinal.0 as usize].as_deref_mut().expect(A_MEMBER);
        match effect {
            Effect::PersistPromise { id, ballot } => store.persist_promise(ordinal, id, ballot),
            Effect::PersistBase { id, base, configuration } => {
                store.persist_base(ordinal, id, base, *configuration);
            }
            Effect::PersistEntries { id, ballot, first, last } => {
                let replica = &member.replica;
                store.persist_entries(ordinal, id, ballot, (first, last), |slot| {
                    let held = replica.held(slot).expect("what is to be logged is held");
                    let configuration = replica.configuration_entry(slot);
                    let (kind, handle, origin) = (held.kind, held.handle, held.origin);
                    AcceptedEntry { kind, handle, configuration, origin }
                });
            }
            Effect::Send { to, message, last } => {
                if let Message::Refused { ballot, reason: Refusal::Promised, .. } = message {
                    self.unheard.note_stale_ballot(member.group, to, ballot);
                }
                let stranger = || member.strangers.iter().find(|(id, _)| *id == to);
                let peer = member.replica.peer_of(to).or_else(|| stranger().map(|(_, peer)| *peer));
                let Some(peer) = peer else { return };
                let route = Route { group: member.group, from: member.id, to };
                outbox.queue(store, (ordinal, &member.replica), (peer, route), message, last);
            }
            Effect::Chosen { slot } => store.choose(ordinal, slot),
            Effect::Discard { handle } => store.discard(handle),
            Effect::MayTrim { slot } => member.may_trim = slot,
            Effect::Leads { .. } => {
                member.serves = true;
                self.reigns += 1;
                self.events.push(Event::Leads(ordinal));
            }
            Effect::StepsDown { .. } => {
                member.serves = false;
                self.events.push(Event::StepsDown(ordinal));
            }
            Effect::NeedsSnapshot { from, at_least } => {
                self.wants(ordinal, Want { from: Some(from), at_least });
            }
            Effect::Removed { .. } => {
                member.serves = false;
                member.watched.removed = true;
            }
        }
    }
}
