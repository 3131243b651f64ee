//! Slots of groups in the log, and ordinals of groups in memory.

use super::*;
use crate::log::format::PutPayload;
use crate::log::{LogPoint, LogWriter, RecoveredLog};
use forebay_core::ids::Ballot;
use forebay_core::limits::ENCODED_KEY_BYTES_MAX;

/// Appends records to the log of a closed store, as no store would: kind, group, slot, payload.
fn forge_payloads(rig: &mut Rig, records: &[(RecordKind, u64, u64, Vec<u8>)]) {
    let (store, disk) = (&rig.store, &mut rig.disk);
    let point = store.log.durable_point();
    let recovered = RecoveredLog {
        point: LogPoint { incarnation: point.incarnation + 1, ..point },
        segments: Vec::new(),
        ends_with_marker: true,
        records: 0,
        chain_bytes: 0,
        cut: None,
    };
    let config = rig.config.log;
    let mut log =
        LogWriter::new(config, &recovered, store.log.trim_lsn(), ops::LOG, buffers(&rig.config));
    for (kind, group, slot, payload) in records {
        let header = RecordHeader {
            kind: *kind,
            group: GroupId(*group),
            slot: Slot(*slot),
            ballot: Ballot(1),
            origin: Ballot(1),
        };
        log.append(&header, &[payload]).expect("room");
    }
    let mut ops = Vec::new();
    log.seal(&mut ops);
    for op in ops {
        disk.submit(op);
        log.done(disk.complete_next().expect("submitted")).expect("no fault");
    }
}

fn forge(rig: &mut Rig, records: &[(RecordKind, u64, u64)]) {
    let forged = records.iter().map(|(kind, group, slot)| {
        let key = key(*slot as usize);
        let payload = [&PutPayload::prefix(&key)[..], &key, b"forged"].concat();
        (*kind, *group, *slot, payload)
    });
    forge_payloads(rig, &forged.collect::<Vec<_>>());
}

fn with_three_items() -> (Rig, u64) {
    let mut rig = Rig::new(smallest(), 1);
    let group = rig.create();
    for number in 0..3 {
        rig.put(group, &key(number), 10).expect("room");
    }
    rig.settle();
    rig.close();
    (rig, group)
}

#[test]
fn a_gap_in_a_groups_slots_is_damage() {
    let (mut rig, group) = with_three_items();
    forge(&mut rig, &[(RecordKind::PUT, group, 4), (RecordKind::PUT, group, 6)]);
    let refused = open_on(&rig.config, &mut rig.disk, rig.now).expect_err("slot 5 is missing");
    let gap =
        matches!(refused, OpenError::Gap { group: GroupId(1), expected: Slot(5), found: Slot(6) });
    assert!(gap, "{refused}");
}

#[test]
fn entries_of_a_group_that_was_never_created_are_damage() {
    let (mut rig, _) = with_three_items();
    forge(&mut rig, &[(RecordKind::PUT, 77, 1)]);
    let refused = open_on(&rig.config, &mut rig.disk, rig.now).expect_err("no such group");
    assert!(matches!(refused, OpenError::Gap { group: GroupId(77), .. }), "{refused}");
}

#[test]
fn records_with_a_right_checksum_that_cannot_be_decoded_are_refused_by_name() {
    let long = vec![7; ENCODED_KEY_BYTES_MAX + 1];
    let unreadable = [
        (RecordKind::PUT, vec![]),
        (RecordKind::PUT, vec![9]),
        (RecordKind::PUT, vec![9, 0, 1, 2]),
        (RecordKind::PUT, [&PutPayload::prefix(&long)[..], &long].concat()),
        (RecordKind::DELETE, long),
        (RecordKind(0x77), vec![1, 2, 3]),
    ];
    for (record_kind, bytes) in unreadable {
        let (mut rig, of) = with_three_items();
        let payload_len = bytes.len();
        forge_payloads(&mut rig, &[(record_kind, of, 4, bytes)]);
        let before = [ShardFile::Log, ShardFile::Pages].map(|file| rig.disk.image(file));
        let refused = open_on(&rig.config, &mut rig.disk, rig.now).expect_err("unreadable");
        let OpenError::Record { group, slot, kind, payload_bytes, .. } = refused else {
            panic!("{refused}")
        };
        assert_eq!((group.0, slot, payload_bytes), (of, Slot(4), payload_len));
        assert_eq!(kind, record_kind.0);
        let after = [ShardFile::Log, ShardFile::Pages].map(|file| rig.disk.image(file));
        assert!(before == after, "nothing was changed");
    }
    // A mark for digests says nothing to a group of one.
    let (mut rig, group) = with_three_items();
    let mark = RecordKind::DIGEST_MARK;
    forge_payloads(&mut rig, &[(mark, group, 0, vec![1]), (mark, group, 0, vec![])]);
    open_on(&rig.config, &mut rig.disk, rig.now).expect("skipped");
}

#[test]
fn slots_that_the_checkpoint_has_are_skipped() {
    let (mut rig, group) = with_three_items();
    let slots = [2, 3, 4].map(|slot| (RecordKind::PUT, group, slot));
    forge(&mut rig, &slots);
    let mut opened = open_on(&rig.config, &mut rig.disk, rig.now).expect("no gap");
    let found = contents(&mut opened.store, &mut rig.disk, rig.now).expect("no damage");
    // Slots 1 to 3 are keys 0 to 2; the only new one is slot 4's, which is key 4.
    assert_eq!(found[&group].len(), 4);
    assert_eq!(found[&group][&key(4)], b"forged");
    assert_ne!(found[&group][&key(2)], b"forged");
}

#[test]
fn a_dropped_group_stays_dropped_and_its_ordinal_serves_another() {
    for seed in 0..20 {
        let mut rig = Rig::new(smallest(), seed);
        let keep = rig.create();
        let mut last = rig.create();
        for round in 0..6 {
            for number in 0..5 {
                rig.put_patiently(last, &key(number), 100 + round);
                rig.put_patiently(keep, &key(number + round), 90);
            }
            rig.drop_group(last);
            assert_eq!(rig.store.group(GroupId(last)), None);
            last = rig.create();
            match rig.random.below(5) {
                0 => rig.checkpoint_if_changed(),
                1 => rig = rig.reopen(),
                2 => {
                    rig.settle();
                    let disk = rig.disk.after_power_cut(&mut rig.random);
                    rig = rig.after_crash(disk);
                }
                3 => rig.settle(),
                _ => rig.pump(),
            }
            // Whatever had the ordinal before, the new group is empty.
            let ordinal = rig.ordinal(last);
            assert!(matches!(rig.store.get(ordinal, &key(1)), Read::Absent));
        }
        rig.settle();
        rig.checkpoint_if_changed();
        assert!(rig.store.groups.iter().count() <= 2);
        let ordinals = rig.store.groups().map(|(ordinal, _)| ordinal.0).max();
        assert!(ordinals < Some(8), "ordinals are reused: {ordinals:?}");
        rig.reopen();
    }
}

#[test]
fn acknowledged_writes_of_a_group_whose_drop_is_lost_are_there() {
    // A put is chosen, a drop follows, a checkpoint completes before the drop's batch is durable.
    let mut rig = Rig::new(smallest(), 2);
    let group = rig.create();
    rig.settle();
    rig.put(group, &key(1), 100).expect("room");
    rig.turn();
    rig.drop_group(group);
    rig.turn();
    let writes: Vec<_> = rig.disk.in_flight().collect();
    assert_eq!(writes.len(), 2);
    let done = rig.disk.complete(writes[0]).expect("in flight");
    rig.store.disk_done(done, rig.now);
    rig.model.advance(rig.store.chosen_ticket());
    assert_eq!(rig.model.pending.len(), 1, "the put is acknowledged");
    rig.now.0 += 2 * rig.config.checkpoint_interval_nanos;
    let before = rig.store.checkpoint.number();
    while rig.store.checkpoint.number() == before {
        rig.turn();
        let next = rig.disk.in_flight().find(|op| *op != writes[1]);
        if let Some(next) = next {
            let done = rig.disk.complete(next).expect("in flight");
            rig.store.disk_done(done, rig.now);
        }
    }
    let options = crate::sim_disk::CrashOptions { images_max: 4, sector_bytes: 4096, seed: 1 };
    let lost = rig.disk.crash_images(options).next().expect("the drop is lost");
    let rig = rig.after_crash(lost);
    assert_eq!(rig.model.chosen[&group].len(), 1);
}

#[test]
fn slots_go_on_where_they_were_after_every_kind_of_restart() {
    let mut rig = Rig::new(smallest(), 3);
    let group = rig.create();
    let mut slot = 0;
    for round in 0..12 {
        for number in 0..3 {
            rig.put_patiently(group, &key(number), 10);
            slot += 1;
        }
        rig.settle();
        let figures = rig.store.group_figures(rig.ordinal(group));
        assert_eq!((figures.chosen_slot, figures.applied_slot), (Slot(slot), Slot(slot)));
        assert!(figures.checkpoint_slot <= figures.applied_slot);
        rig = match round % 3 {
            0 => rig.reopen(),
            1 => {
                let disk = rig.disk.after_process_crash(&mut rig.random);
                rig.after_crash(disk)
            }
            _ => {
                rig.checkpoint();
                let figures = rig.store.group_figures(rig.ordinal(group));
                assert_eq!(figures.checkpoint_slot, Slot(slot));
                let disk = rig.disk.after_power_cut(&mut rig.random);
                rig.after_crash(disk)
            }
        };
    }
}
