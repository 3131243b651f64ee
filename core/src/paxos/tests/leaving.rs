//! A member that was removed is told so, with whatever it misses before that, and nothing more.

use super::super::{
    At, Az, Change, Effect, Handle, Input, MemberId, MemberNumber, Message, Refusal, Replica,
    RoleName, Settings,
};
use super::resends::supported;
use super::scenarios::{last_persist, message, new_leader, step};
use super::sim::{MILLI, Plan, Sim};
use crate::ids::{Ballot, Slot};
use crate::liveness::{Epoch, Liveness, PairMessage, Peer};
use crate::time::Nanos;

const QUIET: Plan = Plan {
    nodes: 4,
    members: 3,
    bug: None,
    faults: false,
    changes: false,
    damage: false,
    trace: false,
};

/// What breaks while a member is removed: what goes to it, what comes from it, or both.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Broken {
    There,
    Back,
    Both,
}

#[test]
fn whom_the_entry_that_removed_it_did_not_reach_hears_of_it_over_the_next_connection() {
    let mut trimmed = 0;
    for seed in 0..60 {
        let broken = [Broken::There, Broken::Back, Broken::Both][seed as usize % 3];
        let mut sim = Sim::new(seed, QUIET);
        sim.run_until(300 * MILLI).unwrap();
        let leader = sim.serving().expect("somebody leads");
        let removed = (leader + 1 + seed as usize % 2) % 3;
        if seed % 4 < 2 {
            sim.silence();
            sim.run_until(sim.now + 100 * MILLI).unwrap();
        }
        let support = sim.support(leader, removed);
        if broken != Broken::Back {
            sim.cut.push((leader, removed));
        }
        if broken != Broken::There {
            sim.cut.push((removed, leader));
        }
        // What is written meanwhile is missing before the entry.
        sim.run_until(sim.now + 10 * MILLI).unwrap();
        let slot = sim.remove(removed).unwrap();
        if seed % 5 == 0 {
            sim.run_until(sim.now + 15 * MILLI).unwrap();
            (0..3).filter(|node| *node != removed).for_each(|node| sim.checkpoint(node).unwrap());
        }
        sim.run_until(sim.now + 30 * MILLI).unwrap();
        assert!(sim.chosen.len() as u64 >= slot.0, "seed {seed}: the others choose it");
        assert!(broken == Broken::Back || sim.nodes[removed].removed_at.is_none(), "seed {seed}");
        let lacks = sim.nodes[removed].removed_at.is_none() && sim.trimmed(leader) >= Some(slot);
        trimmed += u64::from(lacks);
        sim.reconnect(leader, removed);
        sim.reconnect(removed, leader);
        sim.after(leader).unwrap();
        // A few windows, with a round trip and a slow write each.
        sim.run_until(sim.now + 100 * MILLI).unwrap();
        assert_eq!(sim.nodes[removed].removed_at, Some(slot), "seed {seed}, {broken:?}");
        assert_eq!(sim.support(leader, removed), support, "seed {seed}: neither missed the other");
        assert_eq!((sim.serving(), sim.stats.snapshots), (Some(leader), 0), "seed {seed}");
        sim.silence();
        sim.run_until(sim.now + 500 * MILLI).unwrap();
        assert!(sim.is_idle(leader), "seed {seed}: there is nobody to tell");
    }
    assert!(trimmed > 3, "{trimmed} times the entry had left the log");
}

/// A leader of three on shards that support it, as the first of them sees it.
struct Lead {
    leader: Replica,
    liveness: Liveness,
    now: u64,
    /// What went to member 3: the last of its slots, the watermark, and what may be trimmed.
    to_third: Vec<(Slot, Slot, Slot)>,
    trims: bool,
}

impl Lead {
    fn new() -> Lead {
        let liveness = supported();
        let (leader, _) = new_leader(&liveness, None);
        let mut lead = Lead { leader, liveness, now: 0, to_third: Vec::new(), trims: false };
        lead.accepted(2, 1, 0);
        lead.say(Input::Applied { slot: Slot(1) });
        lead.accepted(2, 1, 1);
        lead.accepted(3, 1, 1);
        assert!(lead.holds_lease());
        lead
    }

    /// With the third removed, by an entry that only the second has.
    fn without_third() -> (Lead, Slot) {
        let mut lead = Lead::new();
        let slot = lead.change(Change::Remove { id: MemberId(3) });
        lead.to_third.clear();
        lead.settle();
        assert_eq!(lead.leader.configuration().unwrap().slot, slot);
        (lead, slot)
    }

    fn take(&mut self, effects: &[Effect]) {
        for effect in effects {
            match effect {
                Effect::Send { to: MemberId(3), message, last } => {
                    self.to_third.push(match message {
                        Message::Accept { chosen, trim, .. } => (*last, *chosen, *trim),
                        Message::Chosen { last, chosen, trim, .. } => (*last, *chosen, *trim),
                        other => panic!("{other:?}"),
                    });
                }
                Effect::MayTrim { .. } => self.trims = true,
                _ => {}
            }
        }
    }

    fn say(&mut self, input: Input<'_>) {
        let mut effects = step(&mut self.leader, &self.liveness, self.now, input);
        if effects.iter().any(|effect| matches!(effect, Effect::PersistEntries { .. })) {
            let upto = last_persist(&effects);
            let input = Input::Persisted { upto };
            effects.extend(step(&mut self.leader, &self.liveness, self.now, input));
        }
        self.take(&effects);
    }

    fn change(&mut self, change: Change) -> Slot {
        let at = At { now: Nanos(self.now), liveness: &self.liveness, random: 0 };
        let mut effects = Vec::new();
        let slot = self.leader.change(change, 3, at, &mut effects).expect("it serves");
        self.take(&effects);
        self.say(Input::Persisted { upto: last_persist(&effects) });
        slot
    }

    fn write(&mut self) -> Slot {
        let slot = self.leader.propose(Handle(1), 10).expect("it serves");
        self.say(Input::Tick);
        slot
    }

    fn accepted(&mut self, from: u64, held: u64, chosen: u64) {
        let accepted = Message::Accepted {
            ballot: self.leader.figures().promised,
            held: Slot(held),
            durable: Slot(held),
            chosen: Slot(chosen),
            applied: Slot(chosen),
            checkpoint: if from == 3 { Slot(chosen) } else { Slot(0) },
            gap: false,
            epoch: Some(Epoch { incarnation: 1, count: 1 }),
        };
        self.say(message(from, &accepted, &[]));
    }

    /// The second holds everything and knows all that is chosen.
    fn settle(&mut self) {
        for _ in 0..2 {
            let figures = self.leader.figures();
            self.accepted(2, figures.last_slot.0, figures.chosen_slot.0);
        }
    }

    /// The shard of `peer` answers a heartbeat of this moment.
    fn granted_by(&mut self, peer: u32) {
        let epoch = Epoch { incarnation: 1, count: 1 };
        let ack = PairMessage::Ack { incarnation: 1, echo: Nanos(self.now), epoch };
        self.liveness.receive(Peer(peer), &ack, Nanos(self.now), &mut Vec::new());
    }

    fn holds_lease(&self) -> bool {
        let at = At { now: Nanos(self.now), liveness: &self.liveness, random: 0 };
        self.leader.holds_lease(at)
    }

    /// The rest of the group answers at once; those shards answer heartbeats. How long it takes until the
    /// leader waits for nothing.
    fn until_idle(&mut self, live: &[u32]) -> u64 {
        let from = self.now;
        while let Some(due) = self.leader.next_due() {
            self.now = due.0.max(self.now + 1);
            assert!(self.now - from < 10_000 * MILLI, "it never ends: {:?}", self.to_third.len());
            live.iter().for_each(|peer| self.granted_by(*peer));
            self.say(Input::Tick);
            self.settle();
        }
        self.now - from
    }
}

#[test]
fn a_member_that_leaves_gets_all_up_to_its_removal_and_nothing_after_it() {
    let (mut lead, slot) = Lead::without_third();
    assert_eq!(lead.leader.peer_of(MemberId(3)), Some(Peer(2)));
    for _ in 0..3 {
        lead.write();
        lead.settle();
        lead.leader.reconnected(Peer(2));
        lead.say(Input::Tick);
    }
    assert!(lead.leader.figures().chosen_slot > slot);
    // It holds slot 1: the entry again for each connection, and the watermark.
    assert_eq!(lead.to_third, vec![(slot, slot, Slot(0)); lead.to_third.len()]);
    assert!((3..=7).contains(&lead.to_third.len()), "{:?}", lead.to_third);
    // It has the entry, and is told the watermark until it knows it.
    lead.accepted(3, slot.0, slot.0 - 1);
    assert_eq!(lead.leader.peer_of(MemberId(3)), Some(Peer(2)));
    lead.accepted(3, slot.0, slot.0);
    assert_eq!((lead.leader.peer_of(MemberId(3)), lead.leader.next_due()), (None, None));
    lead.to_third.clear();
    lead.write();
    lead.settle();
    assert_eq!(lead.to_third, []);
}

#[test]
fn a_member_that_leaves_counts_for_no_quorum_and_no_lease_and_no_log_is_trimmed_by_it() {
    let (mut lead, slot) = Lead::without_third();
    let written = lead.write();
    lead.accepted(3, written.0, slot.0 - 1);
    assert_eq!(lead.leader.figures().chosen_slot, slot, "one of two is no majority");
    lead.say(Input::Applied { slot });
    lead.trims = false;
    lead.say(Input::Checkpointed { slot });
    lead.accepted(3, slot.0, slot.0 - 1);
    assert!(!lead.trims, "only one member has a checkpoint of that");
    assert!(lead.holds_lease());
    lead.now = 500 * MILLI;
    lead.granted_by(2);
    lead.accepted(3, slot.0, slot.0 - 1);
    assert!(!lead.holds_lease());
    assert_eq!(lead.leader.progress_of(MemberId(3)), None);
}

#[test]
fn what_a_member_that_leaves_has_promised_takes_nobodys_lead() {
    let (mut lead, _) = Lead::without_third();
    let ballot = lead.leader.figures().promised;
    let promised = Ballot::of(9, MemberNumber(3));
    for (reason, stays) in [(Refusal::Supporting, true), (Refusal::Promised, false)] {
        let refused = Message::Refused { ballot, promised, reason };
        lead.say(message(3, &refused, &[]));
        assert_eq!(lead.leader.figures().role, RoleName::Leading);
        assert_eq!(lead.leader.peer_of(MemberId(3)).is_some(), stays);
    }
}

#[test]
fn whoever_leaves_and_says_nothing_is_sent_to_for_a_bounded_time() {
    let resend = Settings::DEFAULT.resend_nanos;
    // Its shard is dead …
    let (mut lead, _) = Lead::without_third();
    let lease = lead.liveness.settings().lease_nanos;
    assert!(lead.until_idle(&[1]) <= lease + 8 * resend);
    assert!(lead.to_third.len() < 12, "{}", lead.to_third.len());
    // … or lives, and has no such member any more: longer than a connection may be broken unnoticed.
    let (mut lead, _) = Lead::without_third();
    let took = lead.until_idle(&[1, 2]);
    assert!((2 * lease..20 * lease).contains(&took), "{} ms", took / MILLI);
    assert!(lead.to_third.len() < 12, "{}", lead.to_third.len());
    assert_eq!(lead.leader.peer_of(MemberId(3)), None);
}

#[test]
fn where_a_new_member_is_the_one_before_is_told_nothing() {
    let (mut lead, _) = Lead::without_third();
    lead.to_third.clear();
    let again = MemberId(9);
    lead.change(Change::AddLogReplica { id: again, peer: Peer(2), az: Az(3) });
    assert_eq!(lead.leader.peer_of(MemberId(3)), None);
    assert_eq!(lead.leader.peer_of(again), Some(Peer(2)));
    lead.leader.reconnected(Peer(2));
    lead.say(Input::Tick);
    assert_eq!(lead.to_third, []);
}

#[test]
fn nobody_is_told_of_its_removal_before_a_quorum_of_the_others_knows_of_it() {
    let mut lead = Lead::new();
    let slot = lead.change(Change::Remove { id: MemberId(3) });
    lead.to_third.clear();
    // The second has the entry. That it is chosen only the leader knows: if that died now, the second
    // would need the third's promise to find out.
    lead.accepted(2, slot.0, slot.0 - 1);
    assert_eq!(lead.leader.configuration().unwrap().slot, slot);
    for _ in 0..20 {
        lead.now += 10 * MILLI;
        [1, 2].iter().for_each(|peer| lead.granted_by(*peer));
        lead.say(Input::Tick);
    }
    assert_eq!(
        (lead.to_third.as_slice(), lead.leader.peer_of(MemberId(3))),
        (&[][..], Some(Peer(2)))
    );
    lead.accepted(2, slot.0, slot.0);
    assert_ne!(lead.to_third, []);
}
