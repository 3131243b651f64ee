//! The members of groups on this shard: their replicas, and what their effects come to.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;

use forebay_core::ids::{GroupId, Slot};
use forebay_core::liveness::{Liveness, PairEffect, Peer};
use forebay_core::message::Lag;
use forebay_core::message::peer::{GroupMessage, Route};
use forebay_core::paxos::{
    At, Configuration, Effect, EntryKind, Figures, Handle, Held, Input, MemberId, MemberRole,
    Message, NotProposed as Unready, NotServed, Offered, Payload, PersistId, Replica,
};
use forebay_core::planted::{self, Flaw};
use forebay_core::time::Nanos;
use forebay_storage::store::{AcceptedEntry, GroupOrdinal, PastEntries, PastEntry, Refused, Store};

use super::fresh::{Fresh, Lead};
use super::membership::{MemberState, Watched};
use super::snapshot::SnapshotStatus;
use super::wanting::Want;
use super::{Event, entry};
use crate::link::Links;

/// Senders that no configuration lists are remembered for their answer, at most.
const STRANGERS_MAX: usize = 4;

/// Why a write was not proposed. Nothing was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotProposed {
    /// The store has no room, or cannot write.
    Refused(Refused),
    /// Another member leads, or none does at the moment.
    NotLeading,
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
    touched: bool,
    due: Option<Nanos>,
    /// Until when the lease holds, as computed at the time before it.
    lease: (Nanos, Nanos),
    strangers: Vec<(MemberId, Peer)>,
    fresh: Fresh,
}

/// A message on its way to the links, with its entries' places in [`Members::entries`].
#[derive(Debug)]
struct Outgoing {
    to: Peer,
    route: Route,
    message: Message,
    last: Slot,
    entries: Range<usize>,
}

/// A message whose entries are being read from the log.
#[derive(Debug)]
struct Reading {
    token: u64,
    to: Peer,
    route: Route,
    message: Message,
}

/// See the module's docs.
#[derive(Debug)]
pub(super) struct Members {
    pub(super) liveness: Liveness,
    pub(super) pair_effects: Vec<PairEffect>,
    pub(super) events: Vec<Event>,
    /// By ordinal.
    pub(super) list: Vec<Option<Box<Member>>>,
    pub(super) by_group: HashMap<GroupId, GroupOrdinal>,
    /// Members that need snapshots, since the last look.
    pub(super) wanting: Vec<GroupOrdinal>,
    touched: Vec<GroupOrdinal>,
    due: BTreeSet<(Nanos, GroupOrdinal)>,
    pub(super) effects: Vec<Effect>,
    outgoing: Vec<Outgoing>,
    /// Kind, and the bytes' place in [`Members::bytes`].
    entries: Vec<(EntryKind, Range<usize>)>,
    bytes: Vec<u8>,
    reading: Vec<Reading>,
    reads: u64,
    persisted: Vec<(GroupOrdinal, PersistId)>,
    applied: Vec<(GroupOrdinal, Slot)>,
    checkpointed: Vec<(GroupOrdinal, Slot)>,
    /// Messages for groups or members that are not here, or not from where they say.
    pub(super) misdirected: u64,
    /// How often members here have begun to serve.
    pub(super) reigns: u64,
    /// Who wrote to members that are not here.
    pub(super) absent: Vec<(Peer, GroupId, MemberId)>,
    random: u64,
}

pub(super) const A_MEMBER: &str = "the group has a member here";

impl Members {
    pub(super) fn new(liveness: Liveness, seed: u64) -> Members {
        Members {
            liveness,
            pair_effects: Vec::new(),
            events: Vec::new(),
            list: Vec::new(),
            by_group: HashMap::new(),
            wanting: Vec::new(),
            touched: Vec::new(),
            due: BTreeSet::new(),
            effects: Vec::new(),
            outgoing: Vec::new(),
            entries: Vec::new(),
            bytes: Vec::new(),
            reading: Vec::new(),
            reads: 0,
            persisted: Vec::new(),
            applied: Vec::new(),
            checkpointed: Vec::new(),
            misdirected: 0,
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
            touched: false,
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

    pub(super) fn misdirected(&self) -> u64 {
        self.misdirected
    }

    pub(super) fn ordinal(&self, group: GroupId) -> Option<GroupOrdinal> {
        self.by_group.get(&group).copied()
    }

    pub(super) fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    pub(super) fn next_due(&self) -> Option<Nanos> {
        self.due.first().map(|(due, _)| *due)
    }

    pub(super) fn leader(&self, ordinal: GroupOrdinal) -> Option<Peer> {
        let replica = &self.get(ordinal).replica;
        replica.peer_of(replica.leader()?)
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
            snapshot: None,
            figures: member.replica.figures(),
        })
    }

    /// The group gets a tick before the turn ends.
    fn touch(&mut self, ordinal: GroupOrdinal) {
        let Some(member) = self.find(ordinal) else { return };
        if !std::mem::replace(&mut member.touched, true) {
            self.touched.push(ordinal);
        }
    }

    pub(super) fn touch_all_on(&mut self, peer: Peer) {
        for index in 0..self.list.len() {
            let Some(member) = self.list[index].as_deref() else { continue };
            if member.replica.peers().any(|other| other == peer) {
                self.touch(GroupOrdinal(index as u32));
            }
        }
    }

    pub(super) fn touch_due(&mut self, now: Nanos) {
        while let Some(&(due, ordinal)) = self.due.first()
            && due <= now
        {
            self.due.pop_first();
            self.find(ordinal).expect(A_MEMBER).due = None;
            self.touch(ordinal);
        }
    }

    pub(super) fn tick_touched(&mut self, store: &mut Store, now: Nanos) {
        while let Some(ordinal) = self.touched.pop() {
            let Some(member) = self.find(ordinal) else { continue };
            member.touched = false;
            self.step(store, ordinal, Input::Tick, now);
        }
    }

    /// Tells the replicas what the store has done since the last call, and what followed.
    pub(super) fn take_done(&mut self, store: &mut Store, now: Nanos) {
        while let Some(past) = store.take_read_entries() {
            self.queue_past(&past);
        }
        while store.has_reports() {
            let mut persisted = std::mem::take(&mut self.persisted);
            let mut applied = std::mem::take(&mut self.applied);
            let mut checkpointed = std::mem::take(&mut self.checkpointed);
            store.take_persisted(&mut persisted);
            store.take_applied(&mut applied);
            store.take_checkpointed(&mut checkpointed);
            let trims = !checkpointed.is_empty();
            for (ordinal, upto) in persisted.drain(..) {
                self.step(store, ordinal, Input::Persisted { upto }, now);
            }
            for (ordinal, slot) in applied.drain(..) {
                self.step(store, ordinal, Input::Applied { slot }, now);
                self.events.push(Event::Applied(ordinal, slot));
                if self.find(ordinal).is_some_and(|member| member.fresh.waits_for(slot)) {
                    self.settle_fresh(ordinal);
                }
            }
            for (ordinal, slot) in checkpointed.drain(..) {
                self.step(store, ordinal, Input::Checkpointed { slot }, now);
                if let Some(member) = self.find(ordinal) {
                    member.checkpoint = slot;
                }
            }
            (self.persisted, self.applied, self.checkpointed) = (persisted, applied, checkpointed);
            if trims {
                self.trim_all(store, now);
            }
        }
    }

    /// Lets go of entries that two checkpoints have, where they take too much of the log.
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
            let slot = may_trim.min(own).min(limit);
            if slot > figures.trimmed_slot && store.must_trim(ordinal) {
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
        let Members { liveness, list, effects, .. } = self;
        let member = list[ordinal.0 as usize].as_deref_mut().expect(A_MEMBER);
        let known = member.replica.configuration();
        let members = known.iter().flat_map(|known| known.configuration.members());
        let found = members.clone().find(|other| other.peer == to).map(|other| other.id);
        let id = found.ok_or_else(|| format!("shard {} holds no member of the group", to.0))?;
        let at = At { now, liveness, random: 0 };
        let begun = member.replica.hand_over(id, at, effects);
        self.carry_out(store, ordinal);
        begun.map_err(|error| error.to_string())
    }

    pub(super) fn hand_over_all(&mut self, store: &mut Store, now: Nanos) -> usize {
        let mut led = 0;
        for index in 0..self.list.len() {
            let Members { liveness, list, effects, .. } = self;
            let Some(member) = list[index].as_deref_mut().filter(|member| member.serves) else {
                continue;
            };
            let at = At { now, liveness, random: 0 };
            let members = member.replica.configuration().map(|at| at.configuration);
            let members = members.iter().flat_map(|configuration| configuration.members());
            let others: Vec<MemberId> =
                members.map(|other| other.id).filter(|id| *id != member.id).collect();
            for other in others {
                if member.replica.hand_over(other, at, effects).is_ok() {
                    break;
                }
            }
            self.carry_out(store, GroupOrdinal(index as u32));
            led += usize::from(self.list[index].as_ref().is_some_and(|member| member.serves));
        }
        led
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
        message: GroupMessage<'_>,
        now: Nanos,
    ) {
        let GroupMessage { route, message, entries } = message;
        let ordinal = self.by_group.get(&route.group).copied();
        let member = ordinal.and_then(|ordinal| self.find(ordinal));
        let Some(member) = member.filter(|member| member.id == route.to) else {
            return self.note_misdirected(from, route.group, route.to);
        };
        let lives_on = member.replica.peer_of(route.from);
        if lives_on.is_some_and(|peer| peer != from) {
            self.misdirected += 1;
            return;
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
        let mut offered = Vec::with_capacity(count);
        for arrived in entries {
            let payload = match arrived.kind {
                EntryKind::Data => Payload::Data,
                EntryKind::Configuration => {
                    Payload::Configuration(configurations.next().expect("counted"))
                }
                EntryKind::NoOp | EntryKind::Unknown => Payload::NoOp,
            };
            let mut handle = Handle::NONE;
            if payload == Payload::Data {
                let Some(bytes) = entry::decode(arrived.bytes) else { break };
                let Ok(staged) = store.stage(ordinal, bytes.key, bytes.item) else { break };
                handle = staged;
            }
            offered.push(Offered { handle, bytes: arrived.bytes.len() as u32, payload });
        }
        if offered.is_empty() && count > 0 {
            // No room: the leader sends it again after a while. An answer would say that it is
            // missing, and bring all of it at once.
            return;
        }
        let (from, peer) = (route.from, from);
        let input = Input::Message { from, peer, message: &message, entries: &offered };
        self.step(store, ordinal, input, now);
        let told = match message {
            Message::Accept { first, chosen, .. } => {
                chosen.max(Slot((first.0 + count as u64).saturating_sub(1)))
            }
            Message::Chosen { chosen, last, .. } => chosen.max(last),
            _ => return,
        };
        let incarnation = self.liveness.heard_incarnation(peer);
        if let Some(member) = self.find(ordinal)
            && member.replica.follows() == Some(from)
        {
            member.fresh.told(Lead { member: from, peer, incarnation }, told);
            self.settle_fresh(ordinal);
        }
    }

    /// Takes note of how fresh a follower's state is.
    fn settle_fresh(&mut self, ordinal: GroupOrdinal) {
        let Members { liveness, list, .. } = self;
        let Some(member) = list.get_mut(ordinal.0 as usize).and_then(Option::as_deref_mut) else {
            return;
        };
        let follows = member.replica.follows();
        let lead = member.fresh.lead().filter(|lead| Some(lead.member) == follows);
        let answered = lead.and_then(|lead| {
            let (incarnation, at) = liveness.answered(lead.peer)?;
            (incarnation == lead.incarnation).then_some(at)
        });
        member.fresh.settle(answered, member.replica.figures().applied_slot);
    }

    /// How far behind the state here may be; None if there is none to read.
    pub(super) fn lag(&mut self, ordinal: GroupOrdinal, now: Nanos) -> Option<Lag> {
        self.settle_fresh(ordinal);
        let Members { liveness, list, .. } = self;
        let member = list.get_mut(ordinal.0 as usize).and_then(Option::as_deref_mut)?;
        let figures = member.replica.figures();
        // What has left the log must be in the state, or there is nothing to answer from.
        if member.role != MemberRole::Storage || figures.applied_slot < figures.trimmed_slot {
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
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695);
        let Members { liveness, list, effects, random, .. } = self;
        let Some(member) = list.get_mut(ordinal.0 as usize).and_then(Option::as_deref_mut) else {
            return;
        };
        let at = At { now, liveness, random: *random >> 16 };
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
    }

    fn carry_out_one(&mut self, store: &mut Store, ordinal: GroupOrdinal, effect: Effect) {
        let member = self.list[ordinal.0 as usize].as_deref_mut().expect(A_MEMBER);
        match effect {
            Effect::PersistPromise { id, ballot } => store.persist_promise(ordinal, id, ballot),
            Effect::PersistBase { id, base, configuration } => {
                store.persist_base(ordinal, id, base, configuration);
            }
            Effect::PersistEntries { id, ballot, first, last } => {
                let replica = &member.replica;
                store.persist_entries(ordinal, id, ballot, (first, last), |slot| {
                    let held = replica.held(slot).expect("what is to be logged is held");
                    let configuration = replica.configuration_entry(slot).copied();
                    AcceptedEntry { kind: held.kind, handle: held.handle, configuration }
                });
            }
            Effect::Send { to, message, last } => {
                let stranger = || member.strangers.iter().find(|(id, _)| *id == to);
                let peer = member.replica.peer_of(to).or_else(|| stranger().map(|(_, peer)| *peer));
                let Some(peer) = peer else { return };
                let route = Route { group: member.group, from: member.id, to };
                self.queue(store, ordinal, peer, route, message, last);
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

    /// Encodes the message's entries as they are now.
    fn queue(
        &mut self,
        store: &mut Store,
        ordinal: GroupOrdinal,
        to: Peer,
        route: Route,
        message: Message,
        last: Slot,
    ) {
        let begin = self.entries.len();
        if let Message::Accept { first, .. } | Message::Fetched { first, .. } = &message {
            let replica = &self.list[ordinal.0 as usize].as_deref().expect(A_MEMBER).replica;
            // What a state that is behind has let go of is held by number only.
            let is_here = |held: &Held| {
                held.kind != EntryKind::Data || store.staged_entry(held.handle).is_some()
            };
            if last >= *first && !replica.held(*first).is_some_and(is_here) {
                return self.read_first(
                    store,
                    ordinal,
                    Reading { token: 0, to, route, message },
                    last,
                );
            }
            for slot in (first.0..=last.0).map(Slot) {
                let Some(held) = replica.held(slot) else { break };
                let at = self.bytes.len();
                match held.kind {
                    EntryKind::NoOp => {}
                    EntryKind::Data => match store.staged_entry(held.handle) {
                        Some(bytes) => entry::encode(bytes, &mut self.bytes),
                        None => break,
                    },
                    EntryKind::Configuration => match replica.configuration_entry(slot) {
                        Some(configuration) => configuration.encode(&mut self.bytes),
                        None => break,
                    },
                    EntryKind::Unknown => break,
                }
                self.entries.push((held.kind, at..self.bytes.len()));
            }
        }
        let entries = begin..self.entries.len();
        self.outgoing.push(Outgoing { to, route, message, last, entries });
    }

    /// The message's entries have left memory: it goes when they were read. One at a time for each
    /// member that is behind; it is asked for again anyway.
    fn read_first(
        &mut self,
        store: &mut Store,
        ordinal: GroupOrdinal,
        mut reading: Reading,
        last: Slot,
    ) {
        let (Message::Accept { first, .. } | Message::Fetched { first, .. }) = reading.message
        else {
            unreachable!("only these come with entries");
        };
        if self.reading.iter().any(|other| other.route == reading.route) {
            return;
        }
        self.reads += 1;
        reading.token = self.reads;
        if store.read_entries(ordinal, first, last, reading.token) {
            self.reading.push(reading);
        }
    }

    fn queue_past(&mut self, past: &PastEntries) {
        let Some(at) = self.reading.iter().position(|reading| reading.token == past.token) else {
            return;
        };
        let Reading { to, route, message, .. } = self.reading.swap_remove(at);
        let (first, begin) = (past.first, self.entries.len());
        for slot in (first.0..first.0 + past.count() as u64).map(Slot) {
            let Some(entry) = past.get(slot) else { break };
            let from = self.bytes.len();
            match entry {
                PastEntry::NoOp => {}
                PastEntry::Data(bytes) => entry::encode(bytes, &mut self.bytes),
                PastEntry::Configuration(bytes) => self.bytes.extend_from_slice(bytes),
            }
            self.entries.push((entry.kind(), from..self.bytes.len()));
        }
        let entries = begin..self.entries.len();
        if !entries.is_empty() {
            let last = Slot(first.0 + entries.len() as u64 - 1);
            self.outgoing.push(Outgoing { to, route, message, last, entries });
        }
    }

    pub(super) fn send_outgoing(&mut self, links: &mut Links) {
        let Members { outgoing, entries, bytes, .. } = self;
        for Outgoing { to, route, message, last, entries: range } in outgoing.drain(..) {
            let (Message::Accept { first, .. } | Message::Fetched { first, .. }) = &message else {
                links.send(to, route, &message);
                continue;
            };
            let (first, own) = (*first, &entries[range]);
            links.send_entries(to, route, &message, last, |slot| {
                let (kind, place) = own.get((slot.0 - first.0) as usize)?;
                Some((*kind, &bytes[place.clone()]))
            });
        }
        entries.clear();
        bytes.clear();
    }
}
