//! One scenario per rule, and the figures of the undisturbed protocol.

use super::super::{At, Bug, ballot::MemberNumber};
use super::super::{
    Az, Change, ChangeRefused, Configuration, ConfigurationAt, Effect, Handle, Input, MemberId,
    MemberRole, Message, NotBegun, NotProposed, Offered, Payload, PersistId, Recovered, Refusal,
    Replica, RoleName, Settings,
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

pub(super) fn founders(count: u16) -> Configuration {
    let members: Vec<_> =
        (1..=count).map(|n| (MemberId(n.into()), Peer(u32::from(n) - 1), Az(n))).collect();
    Configuration::bootstrap(&members, 3).unwrap()
}

pub(super) fn alone() -> Liveness {
    Liveness::new(Peer(0), 1, LivenessSettings::DEFAULT, true, Nanos(0))
}

pub(super) fn step(
    replica: &mut Replica,
    liveness: &Liveness,
    now: u64,
    input: Input<'_>,
) -> Vec<Effect> {
    let mut effects = Vec::new();
    replica.step(input, At { now: Nanos(now), liveness, random: u64::MAX }, &mut effects);
    effects
}

pub(super) fn message<'a>(
    from: u64,
    message: &'a Message,
    entries: &'a [Offered<'a>],
) -> Input<'a> {
    let (from, peer) = (MemberId(from), Peer(from as u32 - 1));
    Input::Message { from, peer, message, entries }
}

pub(super) fn sent(effects: &[Effect]) -> Vec<&Message> {
    let sends = effects.iter().filter_map(|effect| match effect {
        Effect::Send { message, .. } => Some(message),
        _ => None,
    });
    sends.collect()
}

pub(super) fn last_persist(effects: &[Effect]) -> PersistId {
    let ids = effects.iter().filter_map(|effect| match effect {
        Effect::PersistPromise { id, .. } | Effect::PersistEntries { id, .. } => Some(*id),
        _ => None,
    });
    ids.max().expect("something is to be persisted")
}

pub(super) fn prepare(round: u64, number: u32) -> Message {
    let ballot = Ballot::of(round, MemberNumber(number));
    Message::Prepare { ballot, last: Slot(0), configuration_slot: Slot(0) }
}

pub(super) fn accept(round: u64, number: u32, first: u64) -> Message {
    let ballot = Ballot::of(round, MemberNumber(number));
    Message::Accept { ballot, first: Slot(first), chosen: Slot(0), trim: Slot(0) }
}

pub(super) fn data(value: u64) -> Offered<'static> {
    let origin = Ballot::of(1, MemberNumber(1));
    Offered { handle: Handle(value), bytes: 10, payload: Payload::Data, origin }
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
fn a_failed_log_is_final_and_the_leader_steps_down() {
    let mut member = lone_leader(None);
    let liveness = alone();
    let effects = step(&mut member, &liveness, 0, Input::LogFailed);
    assert!(effects.iter().any(|effect| matches!(effect, Effect::StepsDown { .. })));
    assert_eq!(member.propose(Handle(1), 1), Err(NotProposed::NotLeading));
    assert!(step(&mut member, &liveness, 1 << 40, Input::Tick).is_empty());
    assert_eq!(member.next_due(), None);
}

/// A group of one whose member leads and serves.
fn lone_leader(bug: Option<Bug>) -> Replica {
    let mut member = Replica::bootstrap(MemberId(1), Settings::DEFAULT, founders(1)).with_bug(bug);
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
    let mut member = lone_leader(None);
    let liveness = alone();
    let slot = member.propose(Handle(9), 10).unwrap();
    let effects = step(&mut member, &liveness, 0, Input::Tick);
    assert_eq!(member.figures().chosen_slot.next(), slot);
    let upto = last_persist(&effects);
    let effects = step(&mut member, &liveness, 0, Input::Persisted { upto });
    assert!(effects.contains(&Effect::Chosen { slot }));
    assert_eq!(member.held(slot).map(|held| held.handle), Some(Handle(9)));
}

fn add(id: u64) -> Change {
    Change::AddLogReplica { id: MemberId(id), peer: Peer(id as u32), az: Az(id as u16) }
}

/// A group of one that becomes one of two, and is asked for a third member before that is chosen.
fn a_change_follows_another(bug: Option<Bug>) -> Option<&'static str> {
    let mut member = lone_leader(bug);
    let liveness = alone();
    let at = At { now: Nanos(0), liveness: &liveness, random: 0 };
    member.change(add(2), 3, at, &mut Vec::new()).unwrap();
    if member.change(add(3), 3, at, &mut Vec::new()).is_ok() {
        return Some("a change of the members follows another that is not chosen");
    }
    None
}

#[test]
fn membership_changes_come_one_at_a_time_and_nothing_follows_until_both_majorities_hold_them() {
    assert_eq!(a_change_follows_another(None), None);
    let mut member = lone_leader(None);
    let liveness = alone();
    let at = At { now: Nanos(0), liveness: &liveness, random: 0 };
    let mut effects = Vec::new();
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
fn a_log_replica_that_has_caught_up_says_so_though_the_group_is_idle() {
    let liveness = alone();
    let at = At { now: Nanos(0), liveness: &liveness, random: 0 };
    // As the leader, member 1, has it: itself, and member 2 as a log replica.
    let mut leader = lone_leader(None);
    let add = Change::AddLogReplica { id: MemberId(2), peer: Peer(1), az: Az(2) };
    leader.change(add, 3, at, &mut Vec::new()).unwrap();
    let figures = leader.figures();
    let mut configuration = *leader.configuration().unwrap();
    configuration.configuration = configuration.configuration.changed(add, 3).unwrap();
    let (ballot, base) = (figures.promised, configuration.slot);
    let mut member = Replica::joining(MemberId(2), Settings::DEFAULT);
    let mut say = |input: Input<'_>| step(&mut member, &liveness, 0, input);
    let trimmed = Message::Trimmed { ballot, base, configuration: Box::new(configuration) };
    say(message(1, &trimmed, &[]));
    let (first, last) = (base.next(), Slot(base.0 + 9));
    let accept = Message::Accept { ballot, first, chosen: last, trim: Slot(0) };
    let entries: Vec<_> = (1..=9).map(data).collect();
    let effects = say(message(1, &accept, &entries));
    say(Input::Persisted { upto: last_persist(&effects) });
    let told = |effects: &[Effect]| {
        sent(effects).into_iter().find_map(|message| match message {
            Message::Accepted { applied, .. } => Some(*applied),
            _ => None,
        })
    };
    let slot = Slot(base.0 + 3);
    let effects = say(Input::SnapshotInstalled { slot, configuration: &configuration });
    assert_eq!(told(&effects), Some(slot));
    assert_eq!(told(&say(Input::Applied { slot: Slot(base.0 + 6) })), None, "it goes on");
    assert_eq!(told(&say(Input::Applied { slot: last })), Some(last));
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
                PairEffect::Changed { .. } | PairEffect::Doubted { .. } => changed[from] = true,
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
                        let no_op = Offered {
                            handle: Handle::NONE,
                            bytes: 0,
                            payload: Payload::NoOp,
                            origin: Ballot(1),
                        };
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
pub(super) fn supporter(before: Option<Recovered>, bug: Option<Bug>) -> (Replica, Liveness, u64) {
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

/// A log of one of three founders that has nothing but a promise.
pub(super) fn only_promised(promised: Ballot) -> Recovered {
    Recovered {
        promised,
        chosen: Slot(0),
        chosen_origin: Ballot(0),
        applied: Slot(0),
        checkpoint: Slot(0),
        trimmed: Slot(0),
        configurations: vec![ConfigurationAt { slot: Slot(0), configuration: founders(3) }],
        entries: Vec::new(),
    }
}

fn support_told_since_a_restart(bug: Option<Bug>) -> Option<&'static str> {
    let before = only_promised(Ballot::of(1, MemberNumber(1)));
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

/// Member 1 of three leads, and has logged its first entry. With what it sends then.
pub(super) fn new_leader(liveness: &Liveness, bug: Option<Bug>) -> (Replica, Vec<Effect>) {
    new_leader_with(Settings::DEFAULT, liveness, bug)
}

pub(super) fn new_leader_with(
    settings: Settings,
    liveness: &Liveness,
    bug: Option<Bug>,
) -> (Replica, Vec<Effect>) {
    let mut leader = Replica::bootstrap(MemberId(1), settings, founders(3)).with_bug(bug);
    let mut effects = Vec::new();
    leader.stand(At { now: Nanos(0), liveness, random: 0 }, &mut effects);
    step(&mut leader, liveness, 0, Input::Persisted { upto: last_persist(&effects) });
    let report = Box::new(super::super::PromiseReport {
        epoch: None,
        chosen: Slot(0),
        chosen_origin: Ballot(0),
        trimmed: Slot(0),
        runs: Vec::new(),
        configurations: vec![ConfigurationAt { slot: Slot(0), configuration: founders(3) }],
    });
    let promise = Message::Promise { ballot: leader.figures().promised, report };
    let mut effects = step(&mut leader, liveness, 0, message(2, &promise, &[]));
    assert_eq!(leader.figures().role, RoleName::Leading);
    let upto = last_persist(&effects);
    effects.extend(step(&mut leader, liveness, 0, Input::Persisted { upto }));
    (leader, effects)
}

/// Member 2 acknowledges the leader's first entry under an older ballot.
fn a_stale_acknowledgement(bug: Option<Bug>) -> Option<&'static str> {
    let liveness = alone();
    let (mut leader, _) = new_leader(&liveness, bug);
    let last = leader.figures().last_slot;
    assert!(last > leader.figures().chosen_slot);
    let stale = Message::Accepted {
        ballot: Ballot(1),
        held: last,
        durable: last,
        chosen: Slot(0),
        applied: Slot(0),
        checkpoint: Slot(0),
        gap: false,
        epoch: None,
    };
    let effects = step(&mut leader, &liveness, 0, message(2, &stale, &[]));
    let chosen = effects.iter().any(|effect| matches!(effect, Effect::Chosen { .. }));
    chosen.then_some("an acknowledgement of an older ballot counts")
}

/// A candidate whose disk takes its time, and fails: what leaves it of a ballot that a restart forgets.
fn a_ballot_is_forgotten(bug: Option<Bug>) -> Option<&'static str> {
    let liveness = alone();
    let stands = || {
        let founded = only_promised(Ballot(0));
        let mut member = Replica::recover_with_bug(MemberId(1), Settings::DEFAULT, founded, bug);
        let mut effects = Vec::new();
        member.stand(At { now: Nanos(0), liveness: &liveness, random: 0 }, &mut effects);
        (member, effects)
    };
    let (mut member, mut effects) = stands();
    let upto = last_persist(&effects);
    effects.extend(step(&mut member, &liveness, 100 * MILLI, Input::Tick));
    effects.extend(step(&mut member, &liveness, 200 * MILLI, Input::LogFailed));
    if !sent(&effects).is_empty() {
        return Some("a ballot is heard of before its owner is sure to remember it");
    }
    let (mut member, _) = stands();
    let effects = step(&mut member, &liveness, 0, Input::Persisted { upto });
    assert!(matches!(sent(&effects)[..], [Message::Prepare { .. }, Message::Prepare { .. }]));
    let effects = step(&mut member, &liveness, 0, Input::LogFailed);
    assert!(matches!(sent(&effects)[..], [Message::Relinquish { .. }, Message::Relinquish { .. }]));
    None
}

#[test]
fn nobody_hears_of_a_ballot_before_its_owner_is_sure_to_remember_it() {
    assert_eq!(a_ballot_is_forgotten(None), None);
}

#[test]
fn an_acknowledgement_counts_for_its_own_ballot_only() {
    assert_eq!(a_stale_acknowledgement(None), None);
}

#[test]
fn support_told_since_a_restart_holds_back_a_promise() {
    assert_eq!(support_told_since_a_restart(None), None);
}

/// Following a leader that has nothing to accept logs nothing, and yet tells it of support: so what the
/// log says was promised, to whomever, decides nothing before the wait is over.
#[test]
fn a_restarted_member_promises_nobody_for_one_lease_length() {
    let settings = LivenessSettings::DEFAULT;
    let own = Ballot::of(1, MemberNumber(3));
    for promised in [Ballot(0), Ballot::of(1, MemberNumber(1)), own] {
        let before = only_promised(promised);
        let mut liveness = Liveness::new(Peer(2), 2, settings, false, Nanos(0));
        (0..2).for_each(|peer| liveness.add_peer(Peer(peer), Nanos(0)));
        let mut member = Replica::recover_with_bug(MemberId(3), Settings::DEFAULT, before, None);
        let promises = |effects: &[Effect]| {
            effects.iter().any(|effect| matches!(effect, Effect::PersistPromise { .. }))
        };
        let over = liveness.promises_from().0;
        assert!(over >= settings.lease_nanos);
        for at in (0..over).step_by(5 * MILLI as usize) {
            // Nobody is heard; another is ready to help it.
            let ballot = Ballot::of(2, MemberNumber(3));
            let helped = Message::CanvassAnswer { ballot };
            for input in [Input::Tick, message(2, &helped, &[]), message(2, &prepare(9, 2), &[])] {
                let effects = step(&mut member, &liveness, at, input);
                assert!(!promises(&effects), "{promised} at {at}");
            }
        }
        let effects = step(&mut member, &liveness, over, message(2, &prepare(9, 2), &[]));
        assert!(promises(&effects), "{promised}");
    }
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
        Bug::PrepareUndurableBallot => a_ballot_is_forgotten(Some(bug)),
        Bug::CountStaleAcknowledgement => a_stale_acknowledgement(Some(bug)),
        Bug::TwoChangesAtOnce => a_change_follows_another(Some(bug)),
        Bug::RelinquishedCoversLower => a_candidate_gives_up(Some(bug)),
        _ => None,
    }
}

#[test]
fn who_finds_no_quorum_asks_quickly_at_first_and_then_ever_more_rarely() {
    let liveness = alone();
    let mut member = Replica::bootstrap(MemberId(1), Settings::DEFAULT, founders(3));
    let (mut asked_at, mut now) = (Vec::new(), 0);
    while now < 10_000 * MILLI {
        let effects = step(&mut member, &liveness, now, Input::Tick);
        let asks = |message: &&Message| matches!(message, Message::Canvass { .. });
        if sent(&effects).into_iter().any(|message| asks(&message)) {
            asked_at.push(now / MILLI);
        }
        now = member.next_due().expect("it goes on asking").0.max(now + 1);
    }
    // A few groups elect in the first round trips after a leader's lease ended …
    assert!(asked_at.len() > 4 && asked_at[3] < 300, "{asked_at:?}");
    // … and thousands without a quorum must not fill the links: at a fixed pace it was 160 times.
    assert!(asked_at.len() < 40, "{} times: {asked_at:?}", asked_at.len());
}

#[test]
fn a_ballot_given_up_is_relinquished_again_after_another_leader_too() {
    let mut liveness = alone();
    liveness.add_peer(Peer(1), Nanos(0));
    let mut member = Replica::bootstrap(MemberId(1), Settings::DEFAULT, founders(3));
    let mut effects = Vec::new();
    member.stand(At { now: Nanos(0), liveness: &liveness, random: 0 }, &mut effects);
    let upto = last_persist(&effects);
    step(&mut member, &liveness, 0, Input::Persisted { upto });
    // Another one leads: member 3 may have heard of neither.
    step(&mut member, &liveness, MILLI, message(2, &accept(9, 2, 1), &[]));
    assert_eq!(member.leader(), Some(MemberId(2)));
    let over = Message::Relinquish { ballot: Ballot::of(9, MemberNumber(2)), successor: None };
    let mut effects = step(&mut member, &liveness, 2 * MILLI, message(2, &over, &[]));
    effects.extend(step(&mut member, &liveness, 100 * MILLI, Input::Tick));
    let own = Ballot::of(1, MemberNumber(1));
    let again =
        |message: &Message| matches!(message, Message::Relinquish { ballot, .. } if *ballot == own);
    assert!(sent(&effects).into_iter().any(again), "{effects:?}");
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
