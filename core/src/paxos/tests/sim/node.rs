//! A node: clock, liveness, at most one replica, its memory and its disk. The shell of the machines.

use super::super::super::{
    At, Bug, Change, Configuration, ConfigurationAt, Effect, Handle, Input, MemberId, Message,
    NotBegun, Offered, PersistId, ReadGrant, Replica,
};
use super::disk::{Disk, Log, Record, Write};
use super::{LIVENESS, Plan, Rng, SETTINGS};
use crate::ids::Slot;
use crate::liveness::{Liveness, PairEffect, PairMessage, Peer};
use crate::time::Nanos;

pub(in crate::paxos::tests) struct Node {
    pub(super) index: u32,
    pub(super) member: Option<MemberId>,
    pub(super) replica: Option<Replica>,
    pub(super) liveness: Liveness,
    pub(super) disk: Disk,
    /// Memory: what the process has staged and handed to the log.
    pub(super) log: Log,
    writes: Vec<(PersistId, Write)>,
    written: Option<PersistId>,
    pub(super) up: bool,
    /// Its member was told that it is one no more.
    pub(in crate::paxos::tests) removed_at: Option<Slot>,
    pub(in crate::paxos::tests) paused_until: u64,
    pub(super) start: u32,
    pub(super) wake_at: Option<u64>,
    clock_offset: u64,
    clock_per_million: u64,
    /// The clock as the last turn read it.
    turn_now: Nanos,
    random: u64,
    effects: Vec<Effect>,
    pair_effects: Vec<PairEffect>,
    outcome_leads: bool,
}

/// What has to happen outside the node.
#[derive(Default)]
pub(super) struct Outcome {
    pub(super) pairs: Vec<(Peer, PairMessage)>,
    pub(super) groups: Vec<(MemberId, Message, Vec<Record>)>,
    pub(super) persists: bool,
    pub(super) chosen: bool,
    pub(super) leads: bool,
    pub(super) needs_snapshot: bool,
    pub(super) trimmed: bool,
    pub(super) wake_at: Option<u64>,
}

impl Node {
    pub(super) fn new(
        index: u32,
        plan: Plan,
        founder: Option<(MemberId, Configuration)>,
        rng: &mut Rng,
    ) -> Node {
        let mut disk = Disk::default();
        let mut replica = None;
        if let Some((id, configuration)) = founder {
            disk.configuration = Some(ConfigurationAt { slot: Slot(0), configuration });
            disk.keeps_state = true;
            replica = Some(Replica::bootstrap(id, SETTINGS, configuration).with_bug(plan.bug));
        }
        let clock_offset = rng.below(1 << 40);
        // Within the bound: at most 4 per mille off on either side.
        let clock_per_million = 996_000 + rng.below(8001);
        let liveness = Liveness::new(Peer(index), 1, LIVENESS, true, Nanos(clock_offset));
        let mut liveness = liveness.with_bug(plan.bug);
        for other in 0..plan.nodes {
            liveness.add_peer(Peer(other), Nanos(clock_offset));
        }
        Node {
            index,
            member: founder.map(|(id, _)| id),
            replica,
            liveness,
            disk,
            log: Log::default(),
            writes: Vec::new(),
            written: None,
            up: true,
            removed_at: None,
            paused_until: 0,
            start: 1,
            wake_at: None,
            clock_offset,
            clock_per_million,
            turn_now: Nanos(clock_offset),
            random: rng.next(),
            effects: Vec::new(),
            pair_effects: Vec::new(),
            outcome_leads: false,
        }
    }

    /// This node's clock at the true time `now`.
    pub(super) fn clock(&self, now: u64) -> Nanos {
        Nanos(
            self.clock_offset
                + (u128::from(now) * u128::from(self.clock_per_million) / 1_000_000) as u64,
        )
    }

    fn true_time(&self, clock: Nanos) -> u64 {
        let since = u128::from(clock.0.saturating_sub(self.clock_offset));
        (since * 1_000_000 / u128::from(self.clock_per_million)) as u64 + 1
    }

    pub(super) fn runs(&self, now: u64) -> bool {
        self.up && now >= self.paused_until
    }

    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695);
        self.random >> 33
    }

    fn step(&mut self, now: u64, input: Input<'_>) {
        let random = self.next_random();
        self.turn_now = self.clock(now);
        let at = At { now: self.turn_now, liveness: &self.liveness, random };
        if let Some(replica) = &mut self.replica {
            replica.step(input, at, &mut self.effects);
        }
    }

    pub(super) fn pair_message(&mut self, now: u64, from: Peer, message: &PairMessage) {
        let clock = self.clock(now);
        self.liveness.receive(from, message, clock, &mut self.pair_effects);
    }

    pub(super) fn group_message(
        &mut self,
        now: u64,
        from: MemberId,
        peer: Peer,
        message: &Message,
        entries: &[Offered<'_>],
    ) {
        self.step(now, Input::Message { from, peer, message, entries });
    }

    pub(super) fn tick(&mut self, now: u64) {
        let clock = self.clock(now);
        self.liveness.tick(clock, &mut self.pair_effects);
        self.step(now, Input::Tick);
    }

    pub(super) fn reconnected(&mut self, now: u64, peer: Peer) {
        if let Some(replica) = &mut self.replica {
            replica.reconnected(peer);
        }
        self.tick(now);
    }

    pub(super) fn propose(&mut self, value: u64, bytes: u32) -> bool {
        let replica = self.replica.as_mut();
        replica.is_some_and(|replica| replica.propose(Handle(value), bytes).is_ok())
    }

    pub(super) fn change(&mut self, now: u64, change: Change) -> Result<Slot, NotBegun> {
        let at = At { now: self.clock(now), liveness: &self.liveness, random: 1 };
        let replica = self.replica.as_mut().expect("a leader");
        replica.change(change, 3, at, &mut self.effects)
    }

    pub(in crate::paxos::tests) fn hand_over(&mut self, now: u64, to: MemberId) -> bool {
        let at = At { now: self.clock(now), liveness: &self.liveness, random: 1 };
        let replica = self.replica.as_mut().expect("a leader");
        replica.hand_over(to, at, &mut self.effects).is_ok()
    }

    fn at(&self, now: Nanos) -> At<'_> {
        At { now, liveness: &self.liveness, random: 0 }
    }

    pub(in crate::paxos::tests) fn serves(&self, now: u64) -> bool {
        let at = self.at(self.clock(now));
        self.replica.as_ref().is_some_and(|replica| replica.begin_read(at).is_ok())
    }

    pub(super) fn holds_lease(&self, now: u64) -> bool {
        let at = self.at(self.clock(now));
        self.replica.as_ref().is_some_and(|replica| replica.holds_lease(at))
    }

    /// With the clock as the last turn read it, as a shell does that reads it once a turn.
    pub(super) fn begin_read(&self) -> Option<ReadGrant> {
        self.replica.as_ref()?.begin_read(self.at(self.turn_now)).ok()
    }

    pub(super) fn check_read(&self, now: u64, grant: ReadGrant) -> bool {
        let at = self.at(self.clock(now));
        self.replica.as_ref().is_some_and(|replica| replica.check_read(grant, at))
    }

    /// The oldest write reaches the disk, and those that shared its batch.
    pub(super) fn log_written(&mut self) {
        for (id, write) in self.writes.drain(..) {
            self.disk.write(write);
            self.written = Some(id);
        }
    }

    pub(super) fn tell_persisted(&mut self, now: u64) {
        if let Some(upto) = self.written.take() {
            self.step(now, Input::Persisted { upto });
        }
    }

    /// Applies what is chosen, if this member keeps the state.
    pub(super) fn apply(&mut self, now: u64) {
        let Some(replica) = &self.replica else { return };
        let figures = replica.figures();
        let (slot, applied) = (figures.chosen_slot, figures.applied_slot);
        if self.disk.keeps_state && slot > applied && applied >= figures.trimmed_slot {
            self.step(now, Input::Applied { slot });
        }
    }

    /// A checkpoint of what is applied and in the log durably.
    pub(super) fn take_checkpoint(&mut self, now: u64) {
        let Some(replica) = &self.replica else { return };
        let slot = replica.figures().applied_slot.min(self.disk.log.last());
        let known = self.disk.snapshot.map_or(Slot(0), |(slot, _)| slot);
        if !self.disk.keeps_state || slot <= known {
            return;
        }
        let Some(&configuration) = replica.configuration_after(slot) else { return };
        self.disk.snapshot = Some((slot, configuration));
        self.disk.snapshot_origin =
            self.log.get(slot).map_or(crate::ids::Ballot(0), |(_, record)| record.origin);
        self.step(now, Input::Checkpointed { slot });
    }

    /// A snapshot from another replica becomes this one's state, durably.
    pub(super) fn install(&mut self, now: u64, slot: Slot, configuration: ConfigurationAt) {
        let Some(replica) = &self.replica else { return };
        let figures = replica.figures();
        if slot <= figures.applied_slot || replica.configuration().is_none() {
            return;
        }
        self.disk.keeps_state = true;
        self.disk.snapshot = Some((slot, configuration));
        self.disk.snapshot_origin = crate::ids::Ballot(0);
        if slot > figures.chosen_slot {
            // As the machine does: its log begins after the snapshot.
            let base = slot;
            self.disk.begin_after(base, configuration);
            self.log.begin_after(base);
        }
        self.step(now, Input::SnapshotInstalled { slot, configuration: &configuration });
    }

    /// Another member takes this node's place in the group.
    pub(super) fn replace(&mut self, id: MemberId, bug: Option<Bug>) -> Option<(MemberId, Disk)> {
        self.writes.clear();
        self.written = None;
        self.effects.clear();
        self.start += 1;
        self.log = Log::default();
        self.removed_at = None;
        let disk = std::mem::take(&mut self.disk);
        let old = self.member.replace(id);
        self.replica = self.up.then(|| Replica::joining(id, SETTINGS).with_bug(bug));
        old.map(|old| (old, disk))
    }

    /// Power off: a part of what waited for the disk is lost, from some write on.
    pub(super) fn crash(&mut self, rng: &mut Rng) {
        let reached = rng.below(self.writes.len() as u64 + 1) as usize;
        for (_, write) in self.writes.drain(..).take(reached) {
            self.disk.write(write);
        }
        self.up = false;
        self.start += 1;
        self.written = None;
        self.replica = None;
        self.effects.clear();
        self.pair_effects.clear();
        self.log = Log::default();
        self.wake_at = None;
        self.paused_until = 0;
    }

    pub(super) fn restart(&mut self, now: u64, bug: Option<Bug>) {
        self.up = true;
        self.start += 1;
        let clock = self.clock(now);
        self.turn_now = clock;
        let (me, incarnation) = (Peer(self.index), u64::from(self.start));
        let mut liveness = Liveness::new(me, incarnation, LIVENESS, false, clock).with_bug(bug);
        for peer in 0..8 {
            if self.liveness.knows(Peer(peer)) {
                liveness.add_peer(Peer(peer), clock);
            }
        }
        self.liveness = liveness;
        self.log = self.disk.log.clone();
        if let Some(id) = self.member {
            let recovered = self.disk.recovered();
            self.replica = Some(Replica::recover_with_bug(id, SETTINGS, recovered, bug));
        }
    }

    fn record(&self, slot: Slot) -> Option<Record> {
        let replica = self.replica.as_ref()?;
        if let Some(held) = replica.held(slot) {
            let configuration = replica.configuration_entry(slot).copied();
            let (kind, value, bytes) = (held.kind, held.handle.0, held.bytes);
            let origin = held.origin;
            return Some(Record { kind, origin, value, bytes, configuration });
        }
        self.log.get(slot).map(|(_, record)| record.clone())
    }

    /// What this node says is at `slot`.
    pub(super) fn says(&self, slot: Slot) -> Option<Record> {
        self.record(slot)
    }

    pub(super) fn carry_out(&mut self, now: u64, rng: &mut Rng) -> Outcome {
        let mut outcome = Outcome::default();
        let mut changed = false;
        for effect in std::mem::take(&mut self.pair_effects) {
            match effect {
                PairEffect::Send { to, message } => outcome.pairs.push((to, message)),
                PairEffect::Changed { .. } | PairEffect::Doubted { .. } => changed = true,
            }
        }
        if changed {
            self.step(now, Input::Tick);
        }
        while !self.effects.is_empty() {
            for effect in std::mem::take(&mut self.effects) {
                self.carry_out_one(effect, now, &mut outcome);
            }
        }
        outcome.leads = std::mem::take(&mut self.outcome_leads);
        let due = self.replica.as_ref().and_then(Replica::next_due);
        let due = due.map_or(self.liveness.next_due(), |due| due.min(self.liveness.next_due()));
        outcome.wake_at = Some(self.true_time(due).max(now + 1 + rng.below(20_000)));
        outcome
    }

    fn carry_out_one(&mut self, effect: Effect, now: u64, outcome: &mut Outcome) {
        match effect {
            Effect::PersistPromise { id, ballot } => {
                self.writes.push((id, Write::Promise(ballot)));
                outcome.persists = true;
            }
            Effect::PersistBase { id, base, configuration } => {
                self.log.begin_after(base);
                self.writes.push((id, Write::Base { base, configuration: *configuration }));
                outcome.persists = true;
            }
            Effect::PersistEntries { id, ballot, first, last } => {
                let mut entries = Vec::new();
                let mut slot = first;
                while slot <= last {
                    let record = self.record(slot).expect("what is to be persisted is held");
                    self.log.put(slot, (ballot, record.clone()));
                    entries.push((ballot, record));
                    slot = slot.next();
                }
                let chosen = self.replica.as_ref().map_or(Slot(0), |r| r.figures().chosen_slot);
                self.writes.push((id, Write::Entries { first, entries, chosen }));
                outcome.persists = true;
            }
            Effect::Send { to, message, last } => {
                let first = match &message {
                    Message::Accept { first, .. } | Message::Fetched { first, .. } => Some(*first),
                    _ => None,
                };
                let mut entries = Vec::new();
                if let Some(first) = first {
                    let mut slot = first;
                    while slot <= last {
                        // The shell may cut a range short.
                        let Some(record) = self.record(slot) else { break };
                        if record.kind == crate::paxos::EntryKind::Unknown {
                            break;
                        }
                        entries.push(record);
                        slot = slot.next();
                    }
                    if entries.is_empty() {
                        return;
                    }
                }
                outcome.groups.push((to, message, entries));
            }
            Effect::Chosen { .. } => outcome.chosen = true,
            Effect::Leads { .. } => self.outcome_leads = true,
            Effect::NeedsSnapshot { .. } => outcome.needs_snapshot = true,
            Effect::MayTrim { slot } => {
                let slot = slot.min(self.disk.log.last());
                let replica = self.replica.as_ref().expect("it asked");
                if let Some(&configuration) = replica.configuration_after(slot)
                    && slot > self.disk.log.base
                {
                    self.disk.begin_after(slot, configuration);
                    self.log.begin_after(slot);
                    outcome.trimmed = true;
                    self.step(now, Input::Trimmed { slot });
                }
            }
            Effect::Removed { slot } => self.removed_at = Some(slot),
            Effect::StepsDown { .. } | Effect::Discard { .. } => {}
        }
    }
}
