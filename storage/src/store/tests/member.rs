//! One member of a replicated group through every legal crash state of short histories.
//!
//! The test is the member's replica: it asks for promises and entries, says what is chosen and what
//! may be trimmed, and notes what the store reports durable. A point is a moment between two events
//! at the disk, as in [`super::crash`]. In each image, after [`open`]:
//! * the promise is at least the one reported, and none that was not asked for;
//! * every entry reported durable is there under its ballot or a later one, with its bytes;
//! * every other entry is one that was asked for, whole;
//! * nothing counts as chosen that was not, and the state is exactly the chosen entries;
//! * nothing has left the log that was not to be trimmed.
//!
//! Another group's writes on the same shard push the log on, so that old entries are appended again
//! at its head while the images are taken.

use forebay_core::ids::Ballot;
use forebay_core::liveness::Peer;
use forebay_core::paxos::{
    Az, Configuration, ConfigurationAt, EntryKind, Handle, MemberId, MemberRole, PersistId,
};

use super::*;
use crate::sim_disk::CrashOptions;

pub(super) const GROUP: GroupId = GroupId(500);

pub(super) type Bytes = (Vec<u8>, Option<Vec<u8>>);

enum Asked {
    Promise(Ballot),
    Entries(Ballot, Slot, Vec<Bytes>),
}

pub(super) struct Watch {
    pub(super) rig: Rig,
    role: MemberRole,
    pub(super) group: GroupOrdinal,
    images_max: usize,
    next_id: u64,
    asked: VecDeque<(PersistId, Asked)>,
    asked_ballot: Ballot,
    /// All versions asked for, by slot and ballot.
    versions: BTreeMap<(Slot, Ballot), Bytes>,
    promised: Ballot,
    durable: BTreeMap<Slot, Ballot>,
    /// What the member holds.
    held: Vec<(Ballot, Handle)>,
    pub(super) truth: Vec<Bytes>,
    trimmed: Slot,
    points: u64,
    images: u64,
}

pub(super) fn founders() -> Configuration {
    let founder = |n: u16| (MemberId(u64::from(n)), Peer(n.into()), Az(n));
    Configuration::bootstrap(&[founder(1), founder(2), founder(3)], 3).unwrap()
}

impl Watch {
    pub(super) fn new(
        config: StoreConfig,
        role: MemberRole,
        seed: u64,
        images_max: usize,
    ) -> Watch {
        let mut rig = Rig::new(config, seed);
        let descriptor = MemberDescriptor {
            group: GROUP,
            member: MemberId(1),
            role,
            configuration: Some(founders()),
            payload: b"member",
        };
        let (group, _) = rig.store.create_member(descriptor).expect("room");
        Watch {
            rig,
            role,
            group,
            images_max,
            next_id: 0,
            asked: VecDeque::new(),
            asked_ballot: Ballot(0),
            versions: BTreeMap::new(),
            promised: Ballot(0),
            durable: BTreeMap::new(),
            held: Vec::new(),
            truth: Vec::new(),
            trimmed: Slot(0),
            points: 0,
            images: 0,
        }
    }

    fn id(&mut self) -> PersistId {
        self.next_id += 1;
        PersistId(self.next_id)
    }

    pub(super) fn promise(&mut self, ballot: u64) {
        let (id, ballot) = (self.id(), Ballot(ballot));
        self.rig.store.persist_promise(self.group, id, ballot);
        self.asked_ballot = self.asked_ballot.max(ballot);
        self.asked.push_back((id, Asked::Promise(ballot)));
    }

    /// Accepts entries of these sizes from `first` on.
    pub(super) fn accept(&mut self, ballot: u64, first: u64, sizes: &[usize]) {
        assert!(self.accept_if_room(ballot, first, sizes), "room");
    }

    /// As [`Watch::accept`]; no if there is no room for all of them.
    pub(super) fn accept_if_room(&mut self, ballot: u64, first: u64, sizes: &[usize]) -> bool {
        let (ballot, first) = (Ballot(ballot), Slot(first));
        let mut staged = Vec::new();
        for (index, bytes) in sizes.iter().enumerate() {
            let number = (first.0 as usize + index) % 7;
            let key = key(number + 1);
            let value =
                (*bytes > 0).then(|| item((ballot.0 << 32) + first.0 + index as u64, *bytes));
            match self.rig.store.stage(self.group, &key, value.as_deref()) {
                Ok(handle) => staged.push((handle, (key, value))),
                Err(Refused::Overloaded) => {
                    staged.into_iter().for_each(|(handle, _)| self.rig.store.discard(handle));
                    return false;
                }
                Err(other) => panic!("{other}"),
            }
        }
        let (handles, all): (Vec<Handle>, Vec<Bytes>) = staged.into_iter().unzip();
        for (index, (handle, entry)) in handles.iter().zip(&all).enumerate() {
            let slot = Slot(first.0 + index as u64);
            self.versions.insert((slot, ballot), entry.clone());
            match self.held.get_mut(slot.0 as usize - 1) {
                Some(held) => {
                    let (_, old) = std::mem::replace(held, (ballot, *handle));
                    self.rig.store.discard(old);
                }
                None => self.held.push((ballot, *handle)),
            }
        }
        let id = self.id();
        let last = Slot(first.0 + sizes.len() as u64 - 1);
        self.rig.store.persist_entries(self.group, id, ballot, (first, last), |slot| {
            let handle = handles[(slot.0 - first.0) as usize];
            AcceptedEntry { kind: EntryKind::Data, handle, configuration: None, origin: ballot }
        });
        self.asked_ballot = self.asked_ballot.max(ballot);
        self.asked.push_back((id, Asked::Entries(ballot, first, all)));
        true
    }

    /// Slots asked for.
    pub(super) fn last(&self) -> u64 {
        self.held.len() as u64
    }

    pub(super) fn choose(&mut self, upto: u64) {
        for slot in (self.truth.len() as u64 + 1..=upto).map(Slot) {
            let (ballot, _) = self.held[slot.0 as usize - 1];
            self.truth.push(self.versions[&(slot, ballot)].clone());
        }
        self.rig.store.choose(self.group, Slot(upto));
    }

    pub(super) fn trim(&mut self, upto: u64) {
        self.trimmed = Slot(upto);
        self.rig.store.trim(self.group, self.trimmed);
    }

    fn take_persisted(&mut self) {
        let mut persisted = Vec::new();
        self.rig.store.take_persisted(&mut persisted);
        for (_, upto) in persisted {
            while self.asked.front().is_some_and(|(id, _)| *id <= upto) {
                match self.asked.pop_front().expect("just looked").1 {
                    Asked::Promise(ballot) => self.promised = self.promised.max(ballot),
                    Asked::Entries(ballot, first, entries) => {
                        self.promised = self.promised.max(ballot);
                        for index in 0..entries.len() as u64 {
                            self.durable.insert(Slot(first.0 + index), ballot);
                        }
                    }
                }
            }
        }
    }

    pub(super) fn items_at(&self, slot: Slot) -> Items {
        let mut items = Items::new();
        for (key, item) in &self.truth[..slot.0 as usize] {
            match item {
                Some(item) => drop(items.insert(key.clone(), item.clone())),
                None => drop(items.remove(key)),
            }
        }
        items
    }

    fn check(&self, store: &Store, found: Option<&Items>, context: &str) {
        let Some(group) = store.group(GROUP) else {
            assert!(self.promised == Ballot(0) && self.durable.is_empty(), "{context}: it is gone");
            return;
        };
        let recovered = store.recovered(group);
        assert!(recovered.promised >= self.promised, "{context}: a promise was lost");
        assert!(recovered.promised <= self.asked_ballot, "{context}: nobody promised that");
        assert!(recovered.chosen.0 <= self.truth.len() as u64, "{context}: not chosen");
        assert!(recovered.trimmed <= self.trimmed, "{context}: it has lost {}", recovered.trimmed);
        let first = ConfigurationAt { slot: Slot(0), configuration: founders() };
        assert_eq!(recovered.configurations, [first], "{context}");
        for (slot, ballot) in self.durable.range(recovered.chosen.next()..) {
            let index = (slot.0 - recovered.chosen.0 - 1) as usize;
            let entry = recovered.entries.get(index);
            let entry = entry.unwrap_or_else(|| panic!("{context}: slot {slot} was lost"));
            assert!(entry.ballot >= *ballot, "{context}: slot {slot} is of an older ballot");
        }
        for (index, entry) in recovered.entries.iter().enumerate() {
            let slot = Slot(recovered.chosen.0 + 1 + index as u64);
            assert_eq!(entry.kind, EntryKind::Data, "{context}: slot {slot}");
            let EntryBytes { key, item } = store.staged_entry(entry.handle).expect("recovered");
            let (known, value) = &self.versions[&(slot, entry.ballot)];
            assert!(key == known && item == value.as_deref(), "{context}: slot {slot} differs");
        }
        if self.role == MemberRole::Storage {
            assert_eq!(recovered.applied, recovered.chosen, "{context}");
            let expected = self.items_at(recovered.applied);
            assert!(found == Some(&expected), "{context}: the state at {}", recovered.applied);
        }
    }

    fn examine(&mut self) {
        self.take_persisted();
        if self.images_max == 0 {
            return;
        }
        let seed = self.rig.random.bits();
        let options = CrashOptions { images_max: self.images_max, sector_bytes: 512, seed };
        self.points += 1;
        let (config, now) = (self.rig.config, self.rig.now);
        let images: Vec<SimDisk> = self.rig.disk.crash_images(options).collect();
        for mut image in images {
            self.images += 1;
            let context = format!("point {}, image {}", self.points, self.images);
            let opened = open_on(&config, &mut image, now);
            let mut store = opened.unwrap_or_else(|error| panic!("{context}: {error}")).store;
            let mut found = contents(&mut store, &mut image, now).expect("no damage");
            self.check(&store, found.remove(&GROUP.0).as_ref(), &context);
            self.rig.model.recovered(found, &context);
            if self.images.is_multiple_of(5) {
                // Cut off again, after some of what that store does by itself.
                let mut random = SimRandom::new(seed);
                let mut ops = Vec::new();
                for turn in 0..random.below(12) as u64 {
                    let later = now + turn * config.checkpoint_interval_nanos / 4;
                    store.turn(later, &mut ops);
                    ops.drain(..).for_each(|op| image.submit(op));
                    if let Some(done) = image.complete_one(&mut random) {
                        store.disk_done(done, later);
                    }
                }
                let mut cut = image.after_power_cut(&mut random);
                let context = format!("{context}, again");
                let opened = open_on(&config, &mut cut, now);
                let mut store = opened.unwrap_or_else(|error| panic!("{context}: {error}")).store;
                let mut found = contents(&mut store, &mut cut, now).expect("no damage");
                self.check(&store, found.remove(&GROUP.0).as_ref(), &context);
            }
        }
    }

    pub(super) fn turn(&mut self) {
        self.rig.now.0 += 1000;
        self.rig.store.turn(self.rig.now, &mut self.rig.ops);
        for op in std::mem::take(&mut self.rig.ops) {
            self.rig.disk.submit(op);
            self.examine();
        }
    }

    pub(super) fn complete(&mut self) -> bool {
        let some = self.rig.complete();
        if some {
            self.examine();
        }
        some
    }

    pub(super) fn settle(&mut self) {
        loop {
            self.turn();
            if !self.complete() {
                return;
            }
        }
    }

    pub(super) fn checkpoint(&mut self) {
        let before = self.rig.store.checkpoint.number();
        self.rig.now.0 += 2 * self.rig.config.checkpoint_interval_nanos;
        for _ in 0..1_000 {
            if self.rig.store.checkpoint.number() > before {
                return;
            }
            self.turn();
            self.complete();
        }
        panic!("no checkpoint: {}", self.rig.store.checkpoint_phase());
    }
}

fn promises_and_overwritten_entries(role: MemberRole) {
    let mut watch = Watch::new(smallest(), role, 3, 60);
    watch.turn();
    watch.promise(17);
    watch.turn();
    watch.accept(17, 1, &[100, 900, 0]);
    watch.complete();
    watch.accept(17, 4, &[2500, 30]);
    watch.turn();
    watch.settle();
    watch.choose(2);
    watch.accept(17, 6, &[60]);
    watch.turn();
    watch.promise(33);
    watch.settle();
    watch.checkpoint();
    // Another leader: what was not chosen is replaced, a part of it while the rest is on its way.
    watch.accept(33, 3, &[700, 50]);
    watch.turn();
    watch.promise(50);
    watch.choose(3);
    watch.turn();
    watch.accept(50, 4, &[10, 0, 4000, 20]);
    watch.checkpoint();
    watch.settle();
    watch.choose(6);
    watch.accept(50, 8, &[90]);
    watch.checkpoint();
    watch.trim(2);
    watch.checkpoint();
    watch.settle();
    eprintln!("{role:?}: {} points, {} images", watch.points, watch.images);
    assert!(watch.images > 250);
}

#[test]
fn a_storage_replica_forgets_nothing_it_reported_in_any_crash_state() {
    promises_and_overwritten_entries(MemberRole::Storage);
}

#[test]
fn a_log_replica_forgets_nothing_it_reported_in_any_crash_state() {
    promises_and_overwritten_entries(MemberRole::Log);
}

/// Entries that may never be trimmed, while another group writes lap after lap.
fn pinned(role: MemberRole, seed: u64, images_max: usize) {
    let mut config = smallest();
    config.log.segments = 6;
    config.log.reserve_bytes = 32 << 10;
    let mut watch = Watch::new(config, role, seed, 0);
    watch.promise(17);
    watch.accept(17, 1, &[100, 900, 0, 2500, 30, 400]);
    watch.settle();
    watch.choose(4);
    // In one batch: the older record of slot 7 lies beside the one that counts.
    watch.accept(17, 7, &[60]);
    watch.accept(33, 6, &[80, 500]);
    let busy = watch.rig.create();
    watch.checkpoint();
    // Slots 5 to 7 stay unchosen, 2 to 4 applied and needed by others.
    if role == MemberRole::Storage {
        watch.trim(1);
    }
    watch.images_max = images_max;
    let laps = 5 * config.log.capacity_bytes();
    let mut number = 0;
    let mut turns = 0;
    while watch.rig.store.log.end_lsn().0 < laps {
        turns += 1;
        assert!(turns < 20_000, "the log stands: {}", watch.rig.store.checkpoint_phase());
        number += 1;
        let bytes = [100, 5000, 2500][number % 3];
        match watch.rig.put(busy, &key(number % 20), bytes) {
            Ok(_) | Err(Refused::Overloaded) => {}
            Err(other) => panic!("{other}"),
        }
        watch.turn();
        for _ in 0..watch.rig.random.below(4) {
            watch.complete();
        }
        if number == 60 {
            watch.choose(5);
        }
    }
    let stats = watch.rig.store.stats();
    eprintln!(
        "{role:?}: {} points, {} images, {} records appended again, {} history bytes",
        watch.points, watch.images, stats.log_copied_records, stats.log_history_bytes
    );
    assert!(stats.log_copied_records > 10 && stats.log_read_errors == 0);
}

#[test]
fn entries_appended_again_survive_every_crash_state_while_the_log_wraps() {
    pinned(MemberRole::Storage, 4, 4);
    pinned(MemberRole::Log, 5, 3);
}

#[test]
fn damaged_old_entries_are_never_copied_and_stop_no_reads() {
    let mut config = smallest();
    config.log.segments = 6;
    let mut watch = Watch::new(config, MemberRole::Storage, 6, 0);
    watch.promise(17);
    watch.accept(17, 1, &[100, 900, 2500]);
    watch.settle();
    watch.choose(3);
    let busy = watch.rig.create();
    watch.checkpoint();
    let oldest = watch.rig.store.member(watch.group).oldest_needed().expect("three entries");
    watch.rig.disk.flip_bit(ShardFile::Log, config.log.offset_bytes(oldest) + 300, 2);
    for number in 0..400 {
        let _ = watch.rig.put(busy, &key(number % 20), 2000);
        watch.turn();
        watch.complete();
    }
    let stats = watch.rig.store.stats();
    assert!(stats.log_copied_records == 0 && stats.log_read_errors > 0);
    assert!(stats.log_read_errors < 10, "tried again at a bounded rate");
    // Nothing was overwritten: a restart knows what it does not know.
    assert!(watch.rig.store.log.trim_lsn() <= oldest);
    assert_eq!(watch.rig.store.failure(), None);
}

/// A link that was cut for seconds brings the same entries over and over when it is mended. A generation
/// that was full of such repetitions, with nothing applied in it, had no checkpoint to wait for: the
/// shard took no write and no entry any more until it was started again.
#[test]
fn entries_that_are_let_go_of_never_fill_the_memory_for_good() {
    let mut watch = Watch::new(smallest(), MemberRole::Storage, 5, 0);
    let (group, value) = (watch.group, item(1, 2_000));
    let bytes = watch.rig.store.stats().overlay_capacity_bytes as usize;
    for _ in 0..3 * bytes / value.len() {
        let handle = watch.rig.store.stage(group, &key(1), Some(&value)).expect("room");
        watch.rig.store.discard(handle);
    }
}
