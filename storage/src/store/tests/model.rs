//! Random lives against the model: writes, reads, groups, checkpoints, restarts of every kind.

use super::*;

/// Keys of one group.
const KEYS: usize = 70;

fn random_bytes(random: &mut SimRandom) -> usize {
    match random.below(12) {
        0 => 0,
        1..6 => random.below(120),
        6..9 => 1024 + random.below(200),
        9 | 10 => 1400 + random.below(3000),
        _ => 8_000 + random.below(24_000),
    }
}

/// Groups that take writes.
fn groups(rig: &Rig) -> Vec<u64> {
    rig.store.groups().map(|(_, group)| group.id.0).collect()
}

fn check_get(rig: &mut Rig, group: u64, key: &[u8]) {
    loop {
        let page = match rig.store.get(rig.ordinal(group), key) {
            Read::Wait(page) => page,
            Read::Damaged => panic!("nothing is damaged"),
            found => {
                // The group itself may still be on its way.
                let expected = rig.model.chosen.get(&group).and_then(|items| items.get(key));
                let found = match found {
                    Read::Item(item) => Some(item),
                    _ => None,
                };
                assert_eq!(found, expected.map(Vec::as_slice), "group {group}");
                return;
            }
        };
        wait_for(rig, page);
    }
}

fn check_current(rig: &mut Rig, group: u64, key: &[u8]) {
    loop {
        let mut copy = Vec::new();
        let found = rig.store.current(rig.ordinal(group), key, &mut copy);
        let in_flight = rig.model.pending.iter().any(|(_, change)| {
            matches!(change, Change::Put(g, k, _) | Change::Delete(g, k) if *g == group && k == key)
        });
        let expected = rig.model.current(group, key);
        match found {
            Current::Wait(page) => wait_for(rig, page),
            Current::Damaged => panic!("nothing is damaged"),
            Current::Item { in_flight: flag } => {
                assert_eq!((Some(&copy[..]), flag), (expected, in_flight));
                return;
            }
            Current::Absent { in_flight: flag } => {
                assert_eq!((None, flag), (expected, in_flight));
                return;
            }
        }
    }
}

/// The random way to have a page: with turns and completions in any order.
fn wait_for(rig: &mut Rig, page: crate::tree::PageRef) {
    let wanted = rig.store.fetch(page);
    let mut loaded = Vec::new();
    for _ in 0..10_000 {
        rig.store.take_loaded(&mut loaded);
        if loaded.contains(&wanted) {
            return;
        }
        rig.pump();
    }
    panic!("page {page:?} never arrives: {}", rig.store.checkpoint_phase());
}

/// A range in some direction between some bounds, up to some item; every visited stretch is
/// compared with the model at the moment of the visit.
fn check_range(rig: &mut Rig, group: u64) {
    let mut keys: Vec<Vec<u8>> = (0..2).map(|_| key(rig.random.below(KEYS))).collect();
    keys.sort();
    let descending = rig.random.chance(1, 2);
    let wanted = if rig.random.chance(1, 2) { usize::MAX } else { rig.random.below(20) + 1 };
    let bound = |key: &Vec<u8>, random: &mut SimRandom| match random.below(3) {
        0 => Bound::Unbounded,
        1 => Bound::Included(key.clone()),
        _ => Bound::Excluded(key.clone()),
    };
    let mut from = bound(&keys[0], &mut rig.random);
    let mut to = bound(&keys[1], &mut rig.random);
    let mut count = 0;
    loop {
        let mut visited: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        let left = wanted - count;
        let ordinal = rig.ordinal(group);
        let end = rig.store.range(
            ordinal,
            from.as_ref().map(Vec::as_slice),
            to.as_ref().map(Vec::as_slice),
            descending,
            &mut |key, item| {
                visited.push((key.to_vec(), item.to_vec()));
                if visited.len() == left { Visit::Stop } else { Visit::Continue }
            },
        );
        let empty = Items::new();
        let items = rig.model.chosen.get(&group).unwrap_or(&empty);
        let within = |key: &[u8]| {
            let low = match &from {
                Bound::Included(from) => key >= &from[..],
                Bound::Excluded(from) => key > &from[..],
                Bound::Unbounded => true,
            };
            low && match &to {
                Bound::Included(to) => key <= &to[..],
                Bound::Excluded(to) => key < &to[..],
                Bound::Unbounded => true,
            }
        };
        let mut expected: Vec<_> = items.iter().filter(|(key, _)| within(key)).collect();
        if descending {
            expected.reverse();
        }
        let seen: Vec<_> = visited.iter().map(|(key, item)| (key, item)).collect();
        assert!(
            seen.len() <= expected.len() && seen[..] == expected[..seen.len()],
            "wrong stretch"
        );
        count += visited.len();
        match end {
            RangeEnd::Exhausted => {
                assert_eq!(seen.len(), expected.len());
                return;
            }
            RangeEnd::Stopped => {
                assert_eq!(count, wanted);
                return;
            }
            RangeEnd::Wait(page) => {
                if let Some((last, _)) = visited.pop() {
                    if descending {
                        to = Bound::Excluded(last);
                    } else {
                        from = Bound::Excluded(last);
                    }
                }
                wait_for(rig, page);
            }
            RangeEnd::Damaged => panic!("nothing is damaged"),
        }
    }
}

/// One thing done or checked.
fn step(rig: &mut Rig) {
    let groups = groups(rig);
    let some = |rig: &mut Rig| groups[rig.random.below(groups.len())];
    match rig.random.below(100) {
        0..45 if !groups.is_empty() => {
            let group = some(rig);
            let key = key(rig.random.below(KEYS));
            let bytes = random_bytes(&mut rig.random);
            match rig.put(group, &key, bytes) {
                Ok(_) | Err(Refused::Overloaded) => {}
                Err(other) => panic!("{other}"),
            }
        }
        45..58 if !groups.is_empty() => {
            let group = some(rig);
            let key = key(rig.random.below(KEYS));
            match rig.delete(group, &key) {
                Ok(_) | Err(Refused::Overloaded) => {}
                Err(other) => panic!("{other}"),
            }
        }
        58..64 if !groups.is_empty() => {
            let group = some(rig);
            let key = key(rig.random.below(KEYS));
            check_get(rig, group, &key);
        }
        64..68 if !groups.is_empty() => {
            let group = some(rig);
            let key = key(rig.random.below(KEYS));
            check_current(rig, group, &key);
        }
        68..71 if !groups.is_empty() => {
            let group = some(rig);
            check_range(rig, group);
        }
        71 if groups.len() < 5 && rig.store.has_room() => {
            rig.create();
        }
        72 if groups.len() > 2 && rig.random.chance(1, 3) && rig.store.has_room() => {
            let group = some(rig);
            rig.drop_group(group);
        }
        73 if rig.random.chance(1, 8) => rig.now.0 += Nanos::PER_SECOND / 2,
        _ => rig.pump(),
    }
}

fn live(seed: u64, lives: usize, steps: usize, restart: impl Fn(Rig) -> Rig) -> u64 {
    let mut rig = Rig::new(tiny(), seed);
    rig.create();
    let (mut checkpoints, mut evictions) = (0, 0);
    for _ in 0..lives {
        let first = rig.store.checkpoint.number();
        for _ in 0..steps {
            step(&mut rig);
        }
        assert_eq!(rig.store.failure(), None);
        checkpoints += rig.store.checkpoint.number() - first;
        evictions += rig.store.stats().cache.evictions;
        rig = restart(rig);
        space::assert_no_leak_when_idle(&mut rig);
    }
    eprintln!(
        "seed {seed}: {checkpoints} checkpoints, {evictions} evictions, log at {}",
        rig.store.log.end_lsn()
    );
    assert!(rig.store.log.end_lsn() > Lsn(2 * rig.config.log.capacity_bytes()), "the log wraps");
    checkpoints
}

#[test]
fn a_store_does_what_a_map_does_and_is_the_same_after_a_clean_restart() {
    for seed in 0..3 {
        assert!(live(seed, 4, 3_000, Rig::reopen) > 20);
    }
}

#[test]
fn a_killed_process_loses_nothing_acknowledged() {
    for seed in 10..13 {
        live(seed, 8, 1_500, |mut rig| {
            let disk = rig.disk.after_process_crash(&mut rig.random);
            rig.after_crash(disk)
        });
    }
}

#[test]
fn a_power_cut_loses_nothing_acknowledged() {
    for seed in 20..24 {
        live(seed, 10, 1_200, |mut rig| {
            let disk = rig.disk.after_power_cut(&mut rig.random);
            rig.after_crash(disk)
        });
    }
}

#[test]
fn kills_and_power_cuts_in_short_lives_lose_nothing_acknowledged() {
    for seed in 30..34 {
        live(seed, 60, 220, |mut rig| {
            let disk = match rig.random.below(3) {
                0 => rig.disk.after_process_crash(&mut rig.random),
                1 => rig.disk.after_power_cut(&mut rig.random),
                _ => {
                    // Killed, started again, and the power goes before anything was written.
                    let mut disk = rig.disk.after_process_crash(&mut rig.random);
                    let opened = open_on(&rig.config, &mut disk, rig.now).expect("no damage");
                    let mut store = opened.store;
                    let found = contents(&mut store, &mut disk, rig.now).expect("no damage");
                    rig.model = rig.model.recovered(found, "killed");
                    disk.after_power_cut(&mut rig.random)
                }
            };
            rig.after_crash(disk)
        });
    }
}
