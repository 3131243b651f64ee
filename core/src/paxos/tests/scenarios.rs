//! One scenario per rule, and the figures of the undisturbed protocol.

use super::super::{At, Bug, ballot::MemberNumber};
use super::super::{
    Az, Change, ChangeRefused, Configuration, ConfigurationAt, Effect, EntryKind, Handle, Held,
    Input, MemberId, MemberRole, Message, NotBegun, NotProposed, Offered, Payload, PersistId,
    Recovered, Refusal, Replica, RoleName, Settings,
};
use super::sim::{MILLI, Plan, Sim};
use crate::ids::{Ballot, Slot};
use crate::liveness::{Liveness, LivenessSettings, PairEffect, PairMessage, Peer};
use crate::time::Nanos;

const QUIET: Plan = Plan {
    nodes: 3,
    members: 3,
    bug: None,
    faults: false,
    changes: false,
    damage: false,
    trace: false,
};

fn founders(count: u16) -> Configuration {
    let members: Vec<_> =
        (1..=count).map(|n| (MemberId(n.into()), Peer(u32::from(n) - 1), Az(n))).collect();
    Configuration::bootstrap(&members, 3).unwrap()
}

fn alone() -> Liveness {
    Liveness::new(Peer(0), 1, LivenessSettings::DEFAULT, true, Nanos(0))
}

fn step(replica: &mut Replica, liveness: &Liveness, now: u64, input: Input<'_>) -> Vec<Effect> {
    let mut effects = Vec::new();
    replica.step(input, At { now: Nanos(now), liveness, random: u64::MAX }, &mut effects);
    effects
}

fn message<'a>(from: u64, message: &'a Message, entries: &'a [Offered<'a>]) -> Input<'a> {
    let (from, peer) = (MemberId(from), Peer(from as u32 - 1));
    Input::Message { from, peer, message, entries }
}

fn sent(effects: &[Effect]) -> Vec<&Message> {
    let sends = effects.iter().filter_map(|effect| match effect {
        Effect::Send { message, .. } => Some(message),
        _ => None,
    });
    sends.collect()
}

fn last_persist(effects: &[Effect]) -> PersistId {
    let ids = effects.iter().filter_map(|effect| match effect {
        Effect::PersistPromise { id, .. } | Effect::PersistEntries { id, .. } => Some(*id),
        _ => None,
    });
    ids.max().expect("something is to be persisted")
}

fn prepare(round: u64, number: u32) -> Message {
    let ballot = Ballot::of(round, MemberNumber(number));
    Message::Prepare { ballot, last: Slot(0), configuration_slot: Slot(0) }
}

fn accept(round: u64, number: u32, first: u64) -> Message {
    let ballot = Ballot::of(round, MemberNumber(number));
    Message::Accept { ballot, first: Slot(first), chosen: Slot(0), trim: Slot(0) }
}

fn data(value: u64) -> Offered<'static> {
    Offered { handle: Handle(value), bytes: 10, payload: Payload::Data }
}

#[test]
fn a_promise_and_an_acceptance_are_answered_only_when_durable() {
    let mut member = Replica::bootstrap(MemberId(3), Settings::DEFAULT, founders(3));
    let liveness = alone();
    let effects = step(&mut member, &liveness, 0, message(1, &prepare(1, 1), &[]));
    assert!(sent(&effects).is_empty());
    let upto = last_persist(&effects);
    let effects = step(&mut member, &liveness, 0, Input::Persisted { upto });
    assert!(matches!(sent(&effects)[..], [Message::Promise { .. }]));

    let effects = step(&mut member, &liveness, 0, message(1, &accept(1, 1, 1), &[data(7)]));
    // It greets its new leader, and acknowledges nothing.
    assert!(matches!(sent(&effects)[..], [Message::Accepted { durable: Slot(0), .. }]));
    let upto = last_persist(&effects);
    let effects = step(&mut member, &liveness, 0, Input::Persisted { upto });
    assert!(matches!(sent(&effects)[..], [Message::Accepted { durable: Slot(1), .. }]));
}

#[test]
fn an_acceptor_accepts_a_slot_only_if_it_holds_the_one_before() {
    let mut member = Replica::bootstrap(MemberId(3), Settings::DEFAULT, founders(3));
    let liveness = alone();
    let effects = step(&mut member, &liveness, 0, message(1, &accept(1, 1, 2), &[data(8)]));
    let gap = Message::Accepted {
        ballot: Ballot::of(1, MemberNumber(1)),
        held: Slot(0),
        durable: Slot(0),
        chosen: Slot(0),
        applied: Slot(0),
        checkpoint: Slot(0),
        gap: true,
        epoch: None,
    };
    assert_eq!(sent(&effects), [&gap]);
    assert!(effects.contains(&Effect::Discard { handle: Handle(8) }));
    assert_eq!(member.figures().last_slot, Slot(0));
}

#[test]
fn a_lower_ballot_is_refused_by_name_and_changes_nothing() {
    let mut member = Replica::bootstrap(MemberId(3), Settings::DEFAULT, founders(3));
    let liveness = alone();
    step(&mut member, &liveness, 0, message(2, &prepare(5, 2), &[]));
    let before = member.clone();
    for low in [prepare(4, 1), accept(4, 1, 1)] {
        let effects = step(&mut member, &liveness, 0, message(1, &low, &[]));
        let [Message::Refused { promised, reason: Refusal::Promised, .. }] = sent(&effects)[..]
        else {
            panic!("{effects:?}");
        };
        assert_eq!(*promised, Ballot::of(5, MemberNumber(2)));
    }
    assert_eq!(member, before);
    // Nobody uses another's ballot.
    step(&mut member, &liveness, 0, message(1, &accept(6, 2, 1), &[]));
    assert_eq!(member.figures().protocol_errors, 1);
}

#[test]
fn a_log_replica_never_stands_for_election() {
    let add = Change::AddLogReplica { id: MemberId(4), peer: Peer(0), az: Az(9) };
    let configuration = founders(3).changed(Change::Remove { id: MemberId(1) }, 3).unwrap();
    let configuration = configuration.changed(add, 3).unwrap();
    let mut member = Replica::bootstrap(MemberId(4), Settings::DEFAULT, configuration);
    let liveness = alone();
    let mut effects = Vec::new();
    member.stand(At { now: Nanos(0), liveness: &liveness, random: 0 }, &mut effects);
    effects.extend(step(&mut member, &liveness, 1 << 40, Input::Tick));
    assert!(effects.is_empty() && member.next_due().is_none());
}

#[test]
fn a_damaged_range_is_reported_unknown_and_stops_a_candidate_without_a_knowing_quorum() {
    let ballot = Ballot::of(1, MemberNumber(2));
    let held = |kind| Held { ballot, handle: Handle(1), bytes: 1, kind };
    let recovered = Recovered {
        promised: ballot,
        chosen: Slot(3),
        applied: Slot(3),
        checkpoint: Slot(0),
        trimmed: Slot(0),
        configurations: vec![ConfigurationAt { slot: Slot(0), configuration: founders(3) }],
        entries: vec![held(EntryKind::Data), held(EntryKind::Unknown)],
    };
    let mut member = Replica::recover(MemberId(1), Settings::DEFAULT, recovered);
    let liveness = alone();
    let mut effects = Vec::new();
    member.stand(At { now: Nanos(0), liveness: &liveness, random: 0 }, &mut effects);
    let upto = last_persist(&effects);
    step(&mut member, &liveness, 0, Input::Persisted { upto });
    let mine = member.figures().promised;
    let report = |runs| super::super::PromiseReport {
        epoch: None,
        chosen: Slot(3),
        trimmed: Slot(0),
        runs,
        configurations: vec![ConfigurationAt { slot: Slot(0), configuration: founders(3) }],
    };
    // Itself and one other: only one of them knows slot 5.
    let promise = Message::Promise { ballot: mine, report: report(Vec::new()) };
    step(&mut member, &liveness, 0, message(2, &promise, &[]));
    assert_eq!(member.figures().role, RoleName::Preparing);
    // The third knows it too: two of three that know slot 5 to be empty are a quorum.
    step(&mut member, &liveness, 0, message(3, &promise, &[]));
    assert_eq!(member.figures().role, RoleName::Leading);
}

#[test]
fn a_failed_log_is_final_and_the_leader_steps_down() {
    let mut member = lone_leader();
    let liveness = alone();
    let effects = step(&mut member, &liveness, 0, Input::LogFailed);
    assert!(effects.iter().any(|effect| matches!(effect, Effect::StepsDown { .. })));
    assert_eq!(member.propose(Handle(1), 1), Err(NotProposed::NotLeading));
    assert!(step(&mut member, &liveness, 1 << 40, Input::Tick).is_empty());
    assert_eq!(member.next_due(), None);
}

/// A group of one whose member leads and serves.
fn lone_leader() -> Replica {
    let mut member = Replica::bootstrap(MemberId(1), Settings::DEFAULT, founders(1));
    let liveness = alone();
    let mut effects = Vec::new();
    member.stand(At { now: Nanos(0), liveness: &liveness, random: 0 }, &mut effects);
    while member.begin_read(At { now: Nanos(0), liveness: &liveness, random: 0 }).is_err() {
        let mut inputs = Vec::new();
        for effect in effects.drain(..) {
            match effect {
                Effect::PersistPromise { id, .. } | Effect::PersistEntries { id, .. } => {
                    inputs.push(Input::Persisted { upto: id });
                }
                Effect::Chosen { slot } => inputs.push(Input::Applied { slot }),
                _ => {}
            }
        }
        assert!(!inputs.is_empty(), "it makes progress");
        for input in inputs {
            effects.extend(step(&mut member, &liveness, 0, input));
        }
    }
    member
}

#[test]
fn a_group_of_one_leads_alone_and_durable_is_chosen() {
    let mut member = lone_leader();
    let liveness = alone();
    let slot = member.propose(Handle(9), 10).unwrap();
    let effects = step(&mut member, &liveness, 0, Input::Tick);
    assert_eq!(member.figures().chosen_slot.next(), slot);
    let upto = last_persist(&effects);
    let effects = step(&mut member, &liveness, 0, Input::Persisted { upto });
    assert!(effects.contains(&Effect::Chosen { slot }));
    assert_eq!(member.held(slot).map(|held| held.handle), Some(Handle(9)));
}

#[test]
fn membership_changes_come_one_at_a_time_and_nothing_follows_until_both_majorities_hold_them() {
    let mut member = lone_leader();
    let liveness = alone();
    let at = At { now: Nanos(0), liveness: &liveness, random: 0 };
    let mut effects = Vec::new();
    let add = |id: u64| Change::AddLogReplica {
        id: MemberId(id),
        peer: Peer(id as u32),
        az: Az(id as u16),
    };
    let slot = member.change(add(2), 3, at, &mut effects).unwrap();
    assert_eq!(member.propose(Handle(1), 1), Err(NotProposed::Changing));
    let second = member.change(add(3), 3, at, &mut effects);
    assert_eq!(second, Err(NotBegun::NotProposed(NotProposed::Changing)));
    // Durable here is a majority of the old one, not of the new two.
    let upto = last_persist(&effects);
    step(&mut member, &liveness, 0, Input::Persisted { upto });
    assert!(member.figures().chosen_slot < slot);
    let ballot = member.figures().promised;
    let accepted = Message::Accepted {
        ballot,
        held: slot,
        durable: slot,
        chosen: Slot(0),
        applied: Slot(0),
        checkpoint: Slot(0),
        gap: false,
        epoch: None,
    };
    step(&mut member, &liveness, 0, message(2, &accepted, &[]));
    assert_eq!(member.figures().chosen_slot, slot);
    assert_eq!(member.configuration().unwrap().configuration.members().len(), 2);
    // And the rest of the rules about members.
    let refused = member.change(Change::Remove { id: MemberId(1) }, 3, at, &mut effects);
    assert_eq!(refused, Err(NotBegun::Refused(ChangeRefused::OnlyLogReplicas)));
    let early = member.change(Change::Promote { id: MemberId(2) }, 3, at, &mut effects);
    assert!(matches!(early, Err(NotBegun::NotCaughtUp { id: 2, applied: 0, .. })));
    assert_eq!(
        member.configuration().unwrap().configuration.find(MemberId(2)).unwrap().role,
        MemberRole::Log
    );
}

#[test]
fn a_broken_link_causes_no_election_while_others_hear_the_leader() {
    for seed in 0..12 {
        let mut sim = Sim::new(seed, QUIET);
        sim.run_until(300 * MILLI).unwrap();
        let leader = sim.serving().expect("somebody leads");
        let other = (leader + 1 + seed as usize % 2) % 3;
        if seed % 3 != 0 {
            sim.cut.push((leader, other));
        }
        if seed % 3 != 1 {
            sim.cut.push((other, leader));
        }
        let (leaders, written) = (sim.stats.leaders, sim.stats.acknowledged);
        sim.run_until(2300 * MILLI).unwrap();
        assert_eq!((sim.stats.leaders, sim.serving()), (leaders, Some(leader)), "seed {seed}");
        assert!(sim.stats.acknowledged > written + 500, "seed {seed}: it went on serving");
    }
}

/// Milliseconds from now until the next acknowledged write.
fn gap(sim: &mut Sim) -> u64 {
    let (from, before) = (sim.now, sim.stats.acknowledged);
    while sim.stats.acknowledged == before {
        sim.run_until(sim.now + MILLI / 10).unwrap();
        assert!(sim.now < from + 5000 * MILLI, "nobody took over");
    }
    (sim.now - from) / MILLI
}

#[test]
fn a_stopped_leader_is_replaced_soon_after_its_lease_and_a_hand_over_needs_no_wait() {
    let mut slowest = (0, 0);
    for seed in 0..40 {
        let mut sim = Sim::new(seed, QUIET);
        sim.run_until(300 * MILLI).unwrap();
        let leader = sim.serving().expect("somebody leads");
        sim.nodes[leader].paused_until = u64::MAX / 2;
        slowest.0 = slowest.0.max(gap(&mut sim));

        let mut sim = Sim::new(seed, QUIET);
        sim.run_until(300 * MILLI).unwrap();
        let leader = sim.serving().expect("somebody leads");
        let to = MemberId(((leader as u64 + 1) % 3) + 1);
        assert!(sim.nodes[leader].hand_over(sim.now, to));
        sim.after(leader).unwrap();
        // The old leader may still answer what it chose before.
        while sim.nodes[leader].serves(sim.now) {
            sim.run_until(sim.now + MILLI / 10).unwrap();
        }
        slowest.1 = slowest.1.max(gap(&mut sim));
        sim.run_until(sim.now + 60 * MILLI).unwrap();
        assert_eq!(sim.serving(), sim.node_of(to), "seed {seed}: the one named leads");
    }
    println!(
        "no writes: {} ms after a stop (lease 100 ms), {} ms at a hand-over",
        slowest.0, slowest.1
    );
    assert!(slowest.0 < 200 && slowest.1 < 60, "{slowest:?}");
}

/// From which member, what, and with how many entries.
type Arrived = (usize, Message, usize);

#[test]
fn ten_thousand_idle_groups_cost_as_many_messages_as_none() {
    const GROUPS: usize = 10_000;
    let mut shards: Vec<Liveness> = (0..3)
        .map(|me| {
            let mut shard = Liveness::new(Peer(me), 1, LivenessSettings::DEFAULT, true, Nanos(0));
            (0..3).for_each(|peer| shard.add_peer(Peer(peer), Nanos(0)));
            shard
        })
        .collect();
    let mut groups: Vec<[Replica; 3]> = (0..GROUPS)
        .map(|_| {
            [1, 2, 3].map(|id| Replica::bootstrap(MemberId(id), Settings::DEFAULT, founders(3)))
        })
        .collect();
    let (mut pair_messages, mut group_messages) = (0u64, 0u64);
    let mut run = |now: u64, shards: &mut Vec<Liveness>, groups: &mut Vec<[Replica; 3]>| {
        let mut pairs: Vec<(usize, PairEffect)> = Vec::new();
        let mut effects = Vec::new();
        for (index, shard) in shards.iter_mut().enumerate() {
            shard.tick(Nanos(now), &mut effects);
            pairs.extend(effects.drain(..).map(|effect| (index, effect)));
        }
        let mut changed = [false; 3];
        while let Some((from, effect)) = pairs.pop() {
            match effect {
                PairEffect::Changed { .. } => changed[from] = true,
                PairEffect::Send { to, message } => {
                    pair_messages += u64::from(!matches!(message, PairMessage::Ack { .. }));
                    let to = to.0 as usize;
                    shards[to].receive(Peer(from as u32), &message, Nanos(now), &mut effects);
                    pairs.extend(effects.drain(..).map(|effect| (to, effect)));
                }
            }
        }
        for group in groups.iter_mut() {
            let mut inbox: Vec<(usize, Option<Arrived>)> = Vec::new();
            for index in 0..3 {
                let due = group[index].next_due().is_some_and(|due| Nanos(now) >= due);
                if changed[index] || due {
                    inbox.push((index, None));
                }
            }
            while let Some((index, content)) = inbox.pop() {
                let at = At { now: Nanos(now), liveness: &shards[index], random: index as u64 };
                let mut effects = Vec::new();
                match &content {
                    None => group[index].step(Input::Tick, at, &mut effects),
                    Some((from, content, count)) => {
                        group_messages += 1;
                        let no_op =
                            Offered { handle: Handle::NONE, bytes: 0, payload: Payload::NoOp };
                        let entries = vec![no_op; *count];
                        let input = message(*from as u64 + 1, content, &entries);
                        group[index].step(input, at, &mut effects);
                    }
                }
                // Disks and the state are fast here.
                let mut at_once = Vec::new();
                while !effects.is_empty() {
                    for effect in effects.drain(..) {
                        match effect {
                            Effect::PersistPromise { id, .. }
                            | Effect::PersistEntries { id, .. } => {
                                at_once.push(Input::Persisted { upto: id });
                            }
                            Effect::Chosen { slot } => at_once.push(Input::Applied { slot }),
                            Effect::Send { to, message, last } => {
                                let first = match &message {
                                    Message::Accept { first, .. } => *first,
                                    _ => last.next(),
                                };
                                let count = (last.0 + 1).saturating_sub(first.0) as usize;
                                inbox.push((to.0 as usize - 1, Some((index, message, count))));
                            }
                            _ => {}
                        }
                    }
                    for input in at_once.drain(..) {
                        group[index].step(input, at, &mut effects);
                    }
                }
            }
        }
        (pair_messages, group_messages)
    };
    let mut now = 0;
    while now < 600 * MILLI {
        run(now, &mut shards, &mut groups);
        now += 5 * MILLI;
    }
    for group in &groups {
        let leaders = group.iter().filter(|member| member.figures().role == RoleName::Leading);
        assert_eq!(leaders.count(), 1);
        for member in group {
            assert_eq!(member.next_due(), None, "idle groups have no timer: {member:#?}");
        }
    }
    let (pairs_before, groups_before) = run(now, &mut shards, &mut groups);
    let end = now + 10 * Nanos::PER_SECOND;
    let mut totals = (0, 0);
    while now < end {
        now = shards.iter().map(|shard| shard.next_due().0).min().unwrap().max(now + 1);
        totals = run(now, &mut shards, &mut groups);
    }
    let (heartbeats, messages) = (totals.0 - pairs_before, totals.1 - groups_before);
    println!(
        "10 s idle, {GROUPS} groups on 3 shards: {heartbeats} heartbeats, {messages} group messages"
    );
    assert_eq!(messages, 0);
    assert!(heartbeats <= 6 * 101, "ten a second in each direction of each pair");
    // And they serve strong reads all the while.
    let serving = |group: &&[Replica; 3]| {
        (0..3).any(|index| {
            let at = At { now: Nanos(now), liveness: &shards[index], random: 0 };
            group[index].begin_read(at).is_ok()
        })
    };
    assert_eq!(groups.iter().filter(serving).count(), GROUPS);
}

/// Member 3, which supports the shard of member 1 and has told it so under ballot 1 of member 1.
fn supporter(before: Option<Recovered>, bug: Option<Bug>) -> (Replica, Liveness, u64) {
    let settings = LivenessSettings::DEFAULT;
    let restarted = before.is_some();
    let mut liveness = Liveness::new(Peer(2), 2, settings, !restarted, Nanos(0));
    (0..2).for_each(|peer| liveness.add_peer(Peer(peer), Nanos(0)));
    let mut member = match before {
        Some(before) => Replica::recover_with_bug(MemberId(3), Settings::DEFAULT, before, bug),
        None => Replica::bootstrap(MemberId(3), Settings::DEFAULT, founders(3)).with_bug(bug),
    };
    // After the wait of a restarted member.
    let now = 2 * settings.lease_nanos;
    let claims = Vec::new();
    let heartbeat = PairMessage::Heartbeat { incarnation: 1, sent_at: Nanos(5), claims };
    liveness.receive(Peer(0), &heartbeat, Nanos(now), &mut Vec::new());
    let effects = step(&mut member, &liveness, now, message(1, &accept(1, 1, 1), &[data(7)]));
    assert!(matches!(sent(&effects)[..], [Message::Accepted { epoch: Some(_), .. }]));
    (member, liveness, now)
}

/// What is wrong if the member promises a ballot of member 2 while it supports its leader.
fn promises_another(member: &mut Replica, liveness: &Liveness, now: u64) -> Option<&'static str> {
    let effects = step(member, liveness, now + 1, message(2, &prepare(9, 2), &[]));
    let promised = effects.iter().any(|effect| matches!(effect, Effect::PersistPromise { .. }));
    if promised {
        return Some("a member promises another ballot under the support it has told of");
    }
    let refused = Message::Refused {
        ballot: Ballot::of(9, MemberNumber(2)),
        promised: Ballot::of(1, MemberNumber(1)),
        reason: Refusal::Supporting,
    };
    assert_eq!(sent(&effects), [&refused]);
    None
}

fn support_told_since_a_restart(bug: Option<Bug>) -> Option<&'static str> {
    let before = Recovered {
        promised: Ballot::of(1, MemberNumber(1)),
        chosen: Slot(0),
        applied: Slot(0),
        checkpoint: Slot(0),
        trimmed: Slot(0),
        configurations: vec![ConfigurationAt { slot: Slot(0), configuration: founders(3) }],
        entries: Vec::new(),
    };
    let (mut member, liveness, now) = supporter(Some(before), bug);
    promises_another(&mut member, &liveness, now)
}

fn a_candidate_gives_up(bug: Option<Bug>) -> Option<&'static str> {
    let (mut member, liveness, now) = supporter(None, bug);
    let ballot = Ballot::of(5, MemberNumber(2));
    let given_up = Message::Relinquish { ballot, successor: None };
    step(&mut member, &liveness, now, message(2, &given_up, &[]));
    if member.leader() != Some(MemberId(1)) {
        return Some("a member leaves its leader because another's candidacy was given up");
    }
    promises_another(&mut member, &liveness, now)
}

#[test]
fn support_told_since_a_restart_holds_back_a_promise() {
    assert_eq!(support_told_since_a_restart(None), None);
}

#[test]
fn a_candidate_that_gives_up_releases_nobody_from_the_leader() {
    assert_eq!(a_candidate_gives_up(None), None);
    // What its owner relinquishes is free.
    let (mut member, liveness, now) = supporter(None, None);
    let ballot = Ballot::of(1, MemberNumber(1));
    let relinquished = Message::Relinquish { ballot, successor: None };
    step(&mut member, &liveness, now, message(1, &relinquished, &[]));
    assert!(promises_another(&mut member, &liveness, now).is_some());
}

/// What the bug's scenario finds, if it has one.
pub(super) fn catches(bug: Bug) -> Option<&'static str> {
    match bug {
        Bug::ForgetSupportToldSinceRestart => support_told_since_a_restart(Some(bug)),
        Bug::RelinquishedCoversLower => a_candidate_gives_up(Some(bug)),
        _ => None,
    }
}

#[test]
fn a_new_checkpoint_and_a_new_trim_slot_are_told_while_the_group_is_idle() {
    let mut sim = Sim::new(3, QUIET);
    sim.run_until(300 * MILLI).unwrap();
    let leader = sim.serving().expect("somebody leads");
    sim.silence();
    sim.run_until(sim.now + 100 * MILLI).unwrap();
    for index in (0..3).filter(|index| *index != leader) {
        sim.checkpoint(index).unwrap();
    }
    sim.run_until(sim.now + 100 * MILLI).unwrap();
    for index in 0..3 {
        // The leader has no checkpoint of its own, and keeps what that lacks.
        let trims = sim.trimmed(index).expect("it runs") > Slot(0);
        assert_eq!(trims, index != leader, "node {index}");
    }
}
