//! Snapshots between the three stores of [`super::three`]: logs are trimmed as far as two checkpoints
//! allow, so that a member that was away finds nothing of what it lacks; and log replicas become
//! storage replicas. Nodes crash at any point of it.
//!
//! After each restart the contents are those of the truth at the slot that the store says it has
//! applied, so a snapshot that was installed in part, or twice, or at a wrong slot shows there.

use forebay_core::digest::Digest;
use forebay_core::ids::Ballot;
use forebay_core::message::peer::SnapshotHead;
use forebay_core::message::peer::snapshot::push_entry;
use forebay_core::paxos::{At, ConfigurationAt, Input, MemberRole};

use super::member::Watch;
use super::three::{GROUP, NODES, Three, member};
use super::*;
use crate::sim_disk::CrashOptions;

/// A transfer under way.
#[derive(Debug)]
struct Transfer {
    to: usize,
    from: usize,
    pin: SnapshotPin,
    head: SnapshotHead,
    begun: bool,
}

/// All of them, and what was seen.
#[derive(Debug, Default)]
pub(super) struct Transfers {
    under_way: Vec<Transfer>,
    installed: u64,
    cut_off: u64,
    struck: u64,
    failed: u64,
    /// The state is behind what was released: applied from the log.
    promoted_behind: u64,
}

impl Three {
    pub(super) fn trim_freely(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let (_, _, role) = node.store.members().next().expect("a member");
        let figures = node.replica.figures();
        let own = match role {
            MemberRole::Storage => node.store.group_figures(node.group).checkpoint_slot,
            MemberRole::Log => figures.chosen_slot,
        };
        let limit = node.store.trim_limit(node.group).unwrap_or(own);
        let slot = node.may_trim.min(own).min(limit);
        if slot > figures.trimmed_slot && slot <= figures.applied_slot.max(figures.chosen_slot) {
            node.store.trim(node.group, slot);
            node.step(Input::Trimmed { slot }, self.now, 0);
            self.trims += 1;
        }
    }

    pub(super) fn end_transfers_of(&mut self, index: usize) {
        let Some(transfers) = &mut self.snapshots else { return };
        let (gone, rest): (Vec<Transfer>, Vec<Transfer>) =
            transfers.under_way.drain(..).partition(|t| t.to == index || t.from == index);
        transfers.under_way = rest;
        transfers.cut_off += gone.len() as u64;
        for transfer in gone {
            if transfer.to == index {
                self.nodes[transfer.from].store.release_snapshot(transfer.pin);
            } else {
                let node = &mut self.nodes[transfer.to];
                node.store.cancel_install(node.group);
            }
        }
    }

    /// A millisecond of all transfers.
    pub(super) fn transfer(&mut self) {
        let Some(mut transfers) = self.snapshots.take() else { return };
        for index in 0..NODES {
            self.take_installed(index, &mut transfers);
            let node = &mut self.nodes[index];
            if node.down_until.is_none() && self.random.chance(1, 100) && !self.damages {
                super::space::assert_no_leak(&node.store, &mut node.disk);
            }
            self.begin_transfer(index, &mut transfers);
        }
        let mut at = 0;
        while at < transfers.under_way.len() {
            if self.transfer_some(&mut transfers.under_way[at]) {
                at += 1;
            } else {
                let Transfer { from, pin, .. } = transfers.under_way.swap_remove(at);
                self.nodes[from].store.release_snapshot(pin);
            }
        }
        // In the middle of it, more often than chance has it.
        let mut victims = Vec::new();
        for index in 0..NODES {
            let installs = self.nodes[index].store.install_progress().is_some();
            if installs && self.nodes[index].down_until.is_none() && self.random.chance(1, 25) {
                let source = transfers.under_way.iter().find(|transfer| transfer.to == index);
                let source = source.map_or(index, |transfer| transfer.from);
                victims.push(if self.random.chance(1, 3) { source } else { index });
            }
        }
        if self.strikes {
            transfers.struck += victims.len() as u64;
        }
        self.snapshots = Some(transfers);
        if self.strikes {
            victims.into_iter().for_each(|victim| self.crash(victim));
        }
    }

    fn take_installed(&mut self, index: usize, transfers: &mut Transfers) {
        let now = self.now;
        let node = &mut self.nodes[index];
        if node.down_until.is_some() {
            return;
        }
        if let Some((_, error)) = node.store.take_install_failure() {
            let expected =
                matches!(error, InstallError::Overtaken { .. } | InstallError::TooOld { .. });
            assert!(expected, "{error}");
            transfers.failed += 1;
            transfers.under_way.retain(|transfer| transfer.to != index);
        }
        let Some(installed) = node.store.take_installed() else { return };
        transfers.installed += 1;
        let (slot, configuration) = (installed.slot, installed.configuration);
        node.noted = node.noted.max(slot);
        node.wants = None;
        node.damaged = false;
        node.replica.set_damaged(false);
        if node.replica.figures().chosen_slot > slot {
            transfers.promoted_behind += 1;
        }
        node.step(Input::SnapshotInstalled { slot, configuration: &configuration }, now, 0);
        self.carry_out(index);
    }

    fn begin_transfer(&mut self, to: usize, transfers: &mut Transfers) {
        let node = &mut self.nodes[to];
        let Some((from, at_least)) = node.wants else { return };
        let busy = transfers.under_way.iter().any(|transfer| transfer.to == to);
        let installing = node.store.install_progress().is_some();
        if busy || installing || node.down_until.is_some() {
            return;
        }
        // Sometimes another than the leader.
        let from = if self.random.chance(1, 4) { self.random.below(NODES) } else { from };
        if from == to || self.nodes[from].down_until.is_some() {
            return;
        }
        let source = &mut self.nodes[from];
        if let Ok((pin, head)) = source.store.pin_snapshot(source.group, at_least, self.now) {
            assert!(head.slot >= at_least);
            transfers.under_way.push(Transfer { to, from, pin, head, begun: false });
        }
    }

    /// False when it is over.
    fn transfer_some(&mut self, transfer: &mut Transfer) -> bool {
        let now = self.now;
        let (from, to) = (transfer.from, transfer.to);
        if !self.random.chance(1, 4) {
            return true;
        }
        if !transfer.begun {
            let node = &mut self.nodes[to];
            match node.store.begin_install(node.group, transfer.head) {
                Ok(()) => transfer.begun = true,
                Err(InstallError::Overtaken { .. } | InstallError::TooOld { .. }) => return false,
                Err(other) => panic!("{other}"),
            }
        }
        let node = &self.nodes[to];
        if node.store.install_progress().is_none() {
            return false;
        }
        if !node.store.install_wants_part() {
            return true;
        }
        let after = node.store.install_last_key().to_vec();
        let part = match self.nodes[from].store.read_snapshot(transfer.pin, &after, now) {
            SnapshotRead::Part { entries, last } => (entries.to_vec(), last),
            SnapshotRead::NotYet { .. } => return true,
            SnapshotRead::Damaged if !self.damages => panic!("nothing is damaged"),
            SnapshotRead::Gone | SnapshotRead::Damaged => {
                let node = &mut self.nodes[to];
                node.store.cancel_install(node.group);
                return false;
            }
        };
        let node = &mut self.nodes[to];
        node.store.install_part(&part.0, part.1).expect("in order");
        !part.1
    }

    pub(super) fn with_snapshots(mut self) -> Three {
        self.snapshots = Some(Transfers::default());
        self
    }
}

/// Everything that the writes reach, and the digest of it: both must be those of the other stores.
#[test]
fn members_left_behind_get_snapshots_whatever_crashes() {
    let (mut installed, mut cut_off, mut struck, mut crashes) = (0, 0, 0, 0);
    for seed in 0..5 {
        let mut three = Three::new(seed, [MemberRole::Storage; NODES]).with_snapshots();
        for round in 0..6 {
            let away = three.random.below(NODES);
            three.run(300, true);
            if three.nodes[away].down_until.is_none() {
                three.crash(away);
            }
            three.nodes[away].down_until = Some(three.now + 1500 * Nanos::PER_MILLI);
            three.strikes = true;
            three.run(if round % 2 == 0 { 1700 } else { 2500 }, round % 3 == 2);
            three.strikes = false;
        }
        three.converge();
        let transfers = three.snapshots.as_ref().expect("set above");
        installed += transfers.installed;
        cut_off += transfers.cut_off;
        struck += transfers.struck;
        crashes += three.crashes;
    }
    eprintln!(
        "{installed} snapshots installed, {cut_off} cut off, {struck} crashes during one, {crashes} \
         crashes"
    );
    assert!(installed > 20 && struck > 10 && crashes > 40);
}

#[test]
fn a_log_replica_becomes_a_storage_replica_whatever_crashes() {
    let (mut behind, mut promotions) = (0, 0);
    for seed in 20..26 {
        let roles = [MemberRole::Storage, MemberRole::Storage, MemberRole::Log];
        let mut three = Three::new(seed, roles).with_snapshots();
        three.run(700, seed % 2 == 0);
        let mut promoted = false;
        for _ in 0..800 {
            three.strikes = seed % 2 == 1;
            three.run(5, seed % 3 == 0);
            three.strikes = false;
            let node = &mut three.nodes[2];
            if node.down_until.is_some() {
                continue;
            }
            let (_, _, role) = node.store.members().next().expect("a member");
            if role == MemberRole::Log {
                node.wants = node.wants.or(Some((three.random.below(2), Slot(1))));
                continue;
            }
            for leader in 0..NODES {
                let now = three.now;
                if three.nodes[leader].down_until.is_some() {
                    continue;
                }
                promoted |= three.promote(leader, 2, now);
            }
            if promoted {
                break;
            }
        }
        promotions += u64::from(promoted);
        three.roles[2] = MemberRole::Storage;
        three.converge();
        let (_, _, role) = three.nodes[2].store.members().next().expect("a member");
        assert_eq!(role, MemberRole::Storage, "{}", three.describe());
        behind += three.snapshots.as_ref().expect("set above").promoted_behind;
    }
    eprintln!("{promotions} promotions, {behind} with entries to be applied from the log");
    assert!(promotions == 6 && behind > 2);
}

impl Three {
    fn promote(&mut self, leader: usize, whom: usize, now: Nanos) -> bool {
        let change = forebay_core::paxos::Change::Promote { id: member(whom) };
        let begun = self.nodes[leader].change(change, now);
        self.carry_out(leader);
        begun
    }
}

impl super::three::Node {
    fn change(&mut self, change: forebay_core::paxos::Change, now: Nanos) -> bool {
        let at = At { now, liveness: &self.liveness, random: 0 };
        self.replica.change(change, 3, at, &mut self.effects).is_ok()
    }
}

/// The source's pages stay as they are while others change and checkpoints come and go.
#[test]
fn a_pinned_snapshot_is_the_state_at_its_slot_however_much_is_written_meanwhile() {
    let mut three = Three::new(3, [MemberRole::Storage; NODES]).with_snapshots();
    three.run(1500, false);
    for _ in 0..40 {
        three.run(50, false);
        let group = three.nodes[0].group;
        let pinned = three.nodes[0].store.pin_snapshot(group, Slot(1), three.now);
        let Ok((pin, head)) = pinned else { continue };
        let mut found = Items::new();
        loop {
            let millis = three.random.below(30) as u64;
            three.run(millis, false);
            let after = found.last_key_value().map_or(Vec::new(), |(key, _)| key.clone());
            let node = &mut three.nodes[0];
            match node.store.read_snapshot(pin, &after, three.now) {
                SnapshotRead::Part { entries, last } => {
                    for (key, item) in forebay_core::message::peer::snapshot::entries(entries) {
                        assert!(found.insert(key.to_vec(), item.to_vec()).is_none());
                    }
                    if last {
                        break;
                    }
                }
                SnapshotRead::NotYet { .. } => {}
                SnapshotRead::Damaged | SnapshotRead::Gone => panic!("it is held"),
            }
        }
        assert!(found == three.items_at(head.slot), "at slot {}", head.slot);
        assert_eq!(found.len() as u64, head.items);
        three.nodes[0].store.release_snapshot(pin);
    }
    let group = three.nodes[0].group;
    let (pin, _) = three.nodes[0].store.pin_snapshot(group, Slot(1), three.now).expect("a slot");
    three.run(11_000, false);
    let read = three.nodes[0].store.read_snapshot(pin, &[], three.now);
    assert!(matches!(read, SnapshotRead::Gone), "a pin expires by force");
    assert_eq!(three.nodes[0].store.group_id(group), GROUP);
}

/// A snapshot at `slot`, in parts.
fn snapshot_of(items: &Items, slot: Slot) -> (SnapshotHead, Vec<Vec<u8>>) {
    let configuration = ConfigurationAt { slot: Slot(0), configuration: super::member::founders() };
    let (mut bytes, mut digest, mut parts) = (0, Digest::EMPTY, vec![Vec::new()]);
    for (number, (key, item)) in items.iter().enumerate() {
        bytes += (key.len() + item.len()) as u64;
        digest += Digest::of(key, item);
        if number % 4 == 3 {
            parts.push(Vec::new());
        }
        push_entry(key, item, parts.last_mut().expect("there is one"));
    }
    let head = SnapshotHead { slot, configuration, items: items.len() as u64, bytes, digest };
    (head, parts)
}

fn many_items(count: usize) -> Items {
    let sizes = [60, 300, 5_000, 900, 20];
    (0..count).map(|n| (key(n), item(7_000 + n as u64, sizes[n % sizes.len()]))).collect()
}

/// What an image may hold: the state before at its slot, or from the snapshot's slot on what follows
/// it.
struct Expected {
    states: BTreeMap<Slot, Items>,
    images: u64,
    /// Of them with the snapshot.
    after: u64,
    slot: Slot,
}

impl Expected {
    fn examine(&mut self, watch: &Watch, seed: u64) {
        let options = CrashOptions { images_max: 40, sector_bytes: 512, seed };
        let (config, now) = (watch.rig.config, watch.rig.now);
        let images: Vec<SimDisk> = watch.rig.disk.crash_images(options).collect();
        for mut image in images {
            self.images += 1;
            let context = format!("image {}", self.images);
            let opened = open_on(&config, &mut image, now);
            let mut store = opened.unwrap_or_else(|error| panic!("{context}: {error}")).store;
            let group = store.group(super::member::GROUP).expect("it was durable before");
            let recovered = store.recovered(group);
            assert!(recovered.promised >= Ballot(17), "{context}: a promise was lost");
            let (_, _, role) = store.members().next().expect("it is here");
            space::assert_no_leak(&store, &mut image);
            let found = contents(&mut store, &mut image, now).expect("no damage");
            let found = &found[&super::member::GROUP.0];
            if role == MemberRole::Storage {
                let expected = self.states.get(&recovered.applied);
                assert!(expected == Some(found), "{context}: at slot {}", recovered.applied);
                self.after += u64::from(recovered.applied >= self.slot);
                assert!(recovered.trimmed <= recovered.chosen);
            } else {
                assert!(found.is_empty(), "{context}: a log replica keeps no state");
            }
        }
    }
}

/// Installs a snapshot at `slot` over the entries of `watch`; every crash state on the way is before
/// or after.
fn install_in_every_crash_state(role: MemberRole, slot: Slot, seed: u64) {
    let mut watch = Watch::new(smallest(), role, seed, 0);
    watch.promise(17);
    watch.accept(17, 1, &[100, 900, 0, 2500, 30, 400]);
    watch.settle();
    watch.choose(4);
    watch.checkpoint();
    watch.choose(5);
    watch.settle();
    let is_behind = slot <= Slot(5);
    let items = if is_behind { watch.items_at(slot) } else { many_items(60) };
    let mut states = BTreeMap::new();
    for slot in 0..=5 {
        states.insert(Slot(slot), watch.items_at(Slot(slot)));
    }
    states.insert(slot, items.clone());
    let mut expected = Expected { states, images: 0, after: 0, slot };
    let (head, parts) = snapshot_of(&items, slot);
    watch.rig.store.begin_install(watch.group, head).expect("it is of use");
    let mut parts = parts.into_iter().peekable();
    let mut random = SimRandom::new(seed);
    for _ in 0..20_000 {
        if watch.rig.store.install_wants_part()
            && let Some(part) = parts.next()
        {
            let last = parts.peek().is_none();
            watch.rig.store.install_part(&part, last).expect("in order");
        }
        watch.turn();
        watch.complete();
        let installs = watch.rig.store.install_progress().map(|progress| progress.stage);
        if installs.is_some() || random.chance(1, 3) {
            expected.examine(&watch, random.bits());
        }
        if watch.rig.store.install_is_durable() {
            break;
        }
    }
    let installed = watch.rig.store.take_installed().expect("it is durable");
    assert_eq!((installed.slot, installed.configuration.slot), (slot, Slot(0)));
    assert_eq!(watch.rig.store.take_install_failure(), None);
    for _ in 0..300 {
        watch.turn();
        watch.complete();
    }
    let last = slot.max(Slot(5));
    assert_eq!(watch.rig.store.applied_slot(watch.group), last, "from its own log, too");
    let (_, _, role) = watch.rig.store.members().next().expect("it is here");
    assert_eq!(role, MemberRole::Storage);
    watch.checkpoint();
    expected.examine(&watch, 1);
    let now = watch.rig.now;
    let found = contents(&mut watch.rig.store, &mut watch.rig.disk, now).expect("no damage");
    assert!(found[&super::member::GROUP.0] == expected.states[&last]);
    eprintln!("{role:?} at {slot}: {} images, {} with it", expected.images, expected.after);
    assert!(expected.images > 15 && expected.after > 0);
}

#[test]
fn every_crash_state_of_an_install_is_before_or_after_it() {
    install_in_every_crash_state(MemberRole::Storage, Slot(40), 1);
    install_in_every_crash_state(MemberRole::Log, Slot(40), 2);
    install_in_every_crash_state(MemberRole::Log, Slot(3), 3);
}

#[test]
fn what_is_not_what_was_announced_is_given_up_and_leaves_nothing() {
    let mut watch = Watch::new(smallest(), MemberRole::Storage, 5, 0);
    watch.turn();
    watch.settle();
    let items = many_items(30);
    let run = |watch: &mut Watch, head: SnapshotHead, parts: &[Vec<u8>]| {
        watch.rig.store.begin_install(watch.group, head).expect("it is of use");
        let mut parts = parts.iter().peekable();
        for _ in 0..5_000 {
            if watch.rig.store.install_wants_part()
                && let Some(part) = parts.next()
                && watch.rig.store.install_part(part, parts.peek().is_none()).is_err()
            {
                break;
            }
            watch.turn();
            watch.complete();
            if watch.rig.store.install_progress().is_none() {
                break;
            }
        }
        let (_, error) = watch.rig.store.take_install_failure().expect("it is given up");
        assert!(watch.rig.store.install_progress().is_none());
        error
    };
    let (head, parts) = snapshot_of(&items, Slot(9));
    let fewer: Vec<_> = parts[1..].to_vec();
    assert!(matches!(run(&mut watch, head, &fewer), InstallError::Content { .. }));
    let other = SnapshotHead { digest: Digest(1), ..head };
    assert!(matches!(run(&mut watch, other, &parts), InstallError::Content { .. }));
    let mut swapped = parts.clone();
    swapped.swap(1, 2);
    assert_eq!(run(&mut watch, head, &swapped), InstallError::Order);
    let mut cut = parts.clone();
    cut[2].pop();
    assert_eq!(run(&mut watch, head, &cut), InstallError::Order);
    // What was taken is free again after a while, and a good one goes through.
    for _ in 0..4 {
        watch.choose(0);
        watch.rig.store.checkpoint.want();
        watch.promise(33);
        watch.checkpoint();
    }
    space::assert_no_leak_when_idle(&mut watch.rig);
    assert_eq!(watch.rig.store.space.borrowed_blocks(), 0);
    assert_eq!(watch.rig.store.stats().snapshots_given_up, 4);
}
