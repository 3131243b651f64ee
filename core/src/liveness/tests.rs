//! Supports, epochs, and peer-confirmed suspicion.

use proptest::prelude::*;

use super::*;

const SETTINGS: LivenessSettings = LivenessSettings::DEFAULT;
const LEASE: u64 = SETTINGS.lease_nanos;
const BEAT: u64 = SETTINGS.heartbeat_nanos;

fn shard(me: u32, incarnation: u64, now: u64) -> Liveness {
    let first = incarnation == 1;
    let mut liveness = Liveness::new(Peer(me), incarnation, SETTINGS, first, Nanos(now));
    for peer in 0..5 {
        liveness.add_peer(Peer(peer), Nanos(now));
    }
    liveness
}

/// `from` ticks; its messages go where `passes` allows, and so do the answers. Returns how many.
fn beat(
    shards: &mut [Liveness],
    from: usize,
    now: u64,
    passes: &dyn Fn(usize, usize) -> bool,
) -> u64 {
    let mut count = 0;
    let mut effects = Vec::new();
    shards[from].tick(Nanos(now), &mut effects);
    let mut waiting: Vec<_> = effects.drain(..).map(|effect| (from, effect)).collect();
    while let Some((sender, effect)) = waiting.pop() {
        let PairEffect::Send { to, message } = effect else { continue };
        count += 1;
        let to = to.0 as usize;
        if to < shards.len() && passes(sender, to) {
            shards[to].receive(Peer(sender as u32), &message, Nanos(now), &mut effects);
            waiting.extend(effects.drain(..).map(|effect| (to, effect)));
        }
    }
    count
}

fn all(_: usize, _: usize) -> bool {
    true
}

#[test]
fn a_heartbeat_gives_support_that_ends_earlier_for_the_supported() {
    let mut shards = vec![shard(0, 1, 0), shard(1, 1, 0)];
    beat(&mut shards, 0, 1000, &all);
    let epoch = shards[1].supports(Peer(0), Nanos(1000)).unwrap();
    let (granted, until) = shards[0].granted(Peer(1)).unwrap();
    assert_eq!(granted, epoch);
    assert!(until < Nanos(1000 + LEASE));
    assert_eq!(shards[1].supports(Peer(0), Nanos(1000 + LEASE - 1)), Some(epoch));
    assert_eq!(shards[1].supports(Peer(0), Nanos(1000 + LEASE)), None);
}

#[test]
fn an_epoch_never_returns_after_a_lapse() {
    let mut shards = vec![shard(0, 1, 0), shard(1, 1, 0)];
    beat(&mut shards, 0, 0, &all);
    let first = shards[1].supports(Peer(0), Nanos(1)).unwrap();
    beat(&mut shards, 0, LEASE - 1, &all);
    assert_eq!(shards[1].supports(Peer(0), Nanos(LEASE)), Some(first), "renewed in time");
    beat(&mut shards, 0, 3 * LEASE, &all);
    let second = shards[1].supports(Peer(0), Nanos(3 * LEASE)).unwrap();
    assert!(second > first);
    assert_eq!(shards[0].granted(Peer(1)).unwrap().0, second);
}

#[test]
fn an_epoch_never_returns_after_a_restart_of_either_side() {
    let mut shards = vec![shard(0, 1, 0), shard(1, 1, 0)];
    beat(&mut shards, 0, 0, &all);
    let first = shards[1].supports(Peer(0), Nanos(1)).unwrap();
    shards[1] = shard(1, 2, 10);
    assert_eq!(shards[1].promises_from(), Nanos(10 + LEASE), "it waits one lease length");
    beat(&mut shards, 0, BEAT, &all);
    let second = shards[0].granted(Peer(1)).unwrap().0;
    assert!(second > first);
    shards[0] = shard(0, 2, BEAT + 1);
    beat(&mut shards, 0, BEAT + 2, &all);
    assert!(shards[0].granted(Peer(1)).unwrap().0 > second);
    assert_eq!(shards[1].heard_incarnation(Peer(0)), 2);
}

#[test]
fn messages_of_an_earlier_start_count_for_nothing() {
    let mut old = shard(0, 1, 0);
    let mut effects = Vec::new();
    old.tick(Nanos(0), &mut effects);
    let mut shards = vec![shard(0, 2, 10), shard(1, 1, 0)];
    beat(&mut shards, 0, 10, &all);
    let epoch = shards[1].supports(Peer(0), Nanos(10));
    for effect in effects.drain(..) {
        let PairEffect::Send { to: Peer(1), message } = effect else { continue };
        shards[1].receive(Peer(0), &message, Nanos(20), &mut Vec::new());
    }
    assert_eq!(shards[1].supports(Peer(0), Nanos(20)), epoch);
    let ack = PairMessage::Ack { incarnation: 1, echo: Nanos(10), epoch: Epoch::default() };
    let before = shards[0].granted(Peer(1));
    shards[0].receive(Peer(1), &ack, Nanos(30), &mut Vec::new());
    assert_eq!(shards[0].granted(Peer(1)), before);
}

#[test]
fn a_shard_that_may_judge_nobody_goes_on_saying_that_it_lives() {
    let mut late = shard(0, 1, 0);
    let (mut effects, mut beats) = (Vec::new(), 0);
    for nanos in (0..10 * LEASE).step_by(BEAT as usize / 4) {
        late.beat(Nanos(nanos), &mut effects);
        for effect in effects.drain(..) {
            let PairEffect::Send { message: PairMessage::Heartbeat { sent_at, .. }, .. } = effect
            else {
                panic!("{effect:?}: nobody is missed before the sockets were drained")
            };
            assert_eq!(sent_at, Nanos(nanos));
            beats += 1;
        }
    }
    assert_eq!(beats, 4 * 10 * LEASE / BEAT, "to each of four, at the pace of heartbeats");
}

/// Shard 0 leads {0 1 2}; it and 1 do not hear each other from time 0 on, as `passes` says.
fn suspected(passes: &dyn Fn(usize, usize) -> bool, members: &[Peer]) -> bool {
    let mut shards: Vec<_> = (0..members.len() as u32).map(|me| shard(me, 1, 0)).collect();
    for from in 0..shards.len() {
        beat(&mut shards, from, 0, &all);
    }
    let mut suspected = false;
    for step in 1..40 {
        let now = step * BEAT / 2;
        for from in 0..shards.len() {
            beat(&mut shards, from, now, passes);
        }
        suspected |= shards[1].suspects(Peer(0), members, Nanos(now));
    }
    suspected
}

#[test]
fn one_broken_link_makes_nobody_suspect_a_leader_that_others_hear() {
    let three: Vec<_> = (0..3).map(Peer).collect();
    assert!(!suspected(&|from, to| (from, to) != (0, 1), &three), "leader to follower");
    assert!(!suspected(&|from, to| (from, to) != (1, 0), &three), "follower to leader");
    assert!(!suspected(&|from, to| from + to != 1, &three), "both ways");
}

#[test]
fn a_silent_leader_is_suspected_once_a_quorum_misses_it() {
    let three: Vec<_> = (0..3).map(Peer).collect();
    assert!(suspected(&|from, _| from != 0, &three));
    // Alone, nobody is a quorum.
    assert!(!suspected(&|from, to| from != 0 && from + to != 3, &three));
}

#[test]
fn a_leader_heard_without_a_live_quorum_counts_as_missed() {
    // Of five, 0 exchanges messages with 2 only: 2 hears it, but it claims the support of one.
    let five: Vec<_> = (0..5).map(Peer).collect();
    let passes = |from: usize, to: usize| (from != 0 && to != 0) || from + to == 2;
    assert!(suspected(&passes, &five));
    // With 3 too, it has a quorum.
    let passes =
        |from: usize, to: usize| (from != 0 && to != 0) || from + to == 2 || from + to == 3;
    assert!(!suspected(&passes, &five));
}

#[test]
fn the_cost_is_per_pair_of_shards() {
    let mut shards: Vec<_> = (0..3).map(|me| shard(me, 1, 0)).collect();
    let mut messages = 0;
    let mut now = 0;
    while now < 10 * Nanos::PER_SECOND {
        for from in 0..3 {
            messages += beat(&mut shards, from, now, &|_, to| to < 3);
        }
        now = shards.iter().map(|shard| shard.next_due().0).min().unwrap().max(now + 1);
    }
    // Ten seconds: a hundred beats of each, to the two others and two that never answer, with Acks;
    // and the questions about those two.
    assert!(messages < 3 * 100 * (4 + 2 + 2 * 6), "{messages} messages");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever is delayed or lost, and if the clocks differ by as much as they may: what the
    /// supported side counts on is over before the supporter's promise is.
    #[test]
    fn a_granted_support_ends_before_the_given_one(
        fast in 0u64..=DRIFT_PER_MILLE_MAX / 2,
        slow in 0u64..=DRIFT_PER_MILLE_MAX / 2,
        supporter_is_fast: bool,
        delays in prop::collection::vec((0u64..BEAT, 0u64..300_000_000, 0u64..300_000_000, any::<bool>()), 1..60),
    ) {
        // Clocks as functions of true time.
        let rate = |per_mille: i64| move |t: u64| (i128::from(t) * i128::from(1000 + per_mille) / 1000) as u64;
        let (fast, slow) = (rate(fast as i64), rate(-(slow as i64)));
        let clock = |supporter: bool, t: u64| if supporter == supporter_is_fast { fast(t) } else { slow(t) };
        let mut events: Vec<(u64, u32, Option<PairMessage>)> = Vec::new();
        let mut begin = 0;
        for (gap, _, _, _) in &delays {
            begin += gap;
            events.push((begin, 0, None));
        }
        let (mut p, mut s) = (shard(0, 1, 0), shard(1, 1, 0));
        let mut random = delays.iter().cycle();
        while let Some(index) = (0..events.len()).min_by_key(|index| events[*index].0) {
            let (t, at, message) = events.swap_remove(index);
            let mut effects = Vec::new();
            match (at, message) {
                (0, None) => p.tick(Nanos(clock(false, t)), &mut effects),
                (0, Some(ack)) => p.receive(Peer(1), &ack, Nanos(clock(false, t)), &mut effects),
                (_, Some(beat)) => s.receive(Peer(0), &beat, Nanos(clock(true, t)), &mut effects),
                (_, None) => unreachable!(),
            }
            for effect in effects {
                let PairEffect::Send { to, message } = effect else { continue };
                let (_, there, back, lost) = random.next().unwrap();
                match (&message, to) {
                    (PairMessage::Heartbeat { .. }, Peer(1)) if !lost => {
                        events.push((t + there, 1, Some(message)));
                    }
                    (PairMessage::Ack { .. }, Peer(0)) => events.push((t + back, 0, Some(message))),
                    _ => {}
                }
            }
            if let Some((epoch, until)) = p.granted(Peer(1)) {
                // At every true time from here on: if P counts on it, S still gives it.
                for later in (t..t + LEASE + BEAT).step_by(7_000_000) {
                    if Nanos(clock(false, later)) < until {
                        prop_assert_eq!(s.supports(Peer(0), Nanos(clock(true, later))), Some(epoch));
                    }
                }
            }
        }
    }
}
