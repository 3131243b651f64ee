//! Damage at rest that other members make good.
//!
//! *Pages*: one bit at a time of a page that some tree holds, on the nodes of [`super::three`], while they
//! work and crash. In the end every key is read on every node, all are the truth's, and nobody's state
//! is damaged any more.
//!
//! *Log*: one bit at every kind of place of a log whose shard has nothing but members. What may become
//! of it: nothing, if no recovery needs the place; slots that are unknown; or a lost member, whose state
//! is the truth at the slot of the last checkpoint, and whose place a new one takes.

use forebay_core::ids::Ballot;
use forebay_core::paxos::{At, Configuration, MemberId, MemberRole, RoleName};

use super::three::{GROUP, KEYS, NODES, Three, member};
use super::*;
use crate::notice;
use crate::tree::{PageRef, verify};

impl Three {
    /// What a shell does about damaged states.
    pub(super) fn repair(&mut self, index: usize) {
        let now = self.now;
        let node = &mut self.nodes[index];
        let mut damaged = Vec::new();
        node.store.take_damaged(&mut damaged);
        node.damaged |= !damaged.is_empty();
        if !node.damaged || node.store.is_stopped(node.group) {
            return;
        }
        if node.replica.figures().role == RoleName::Leading {
            let other = (index + 1 + self.random.below(NODES - 1)) % NODES;
            node.hand_over(member(other), now);
            return self.carry_out(index);
        }
        let Some(leader) = node.replica.follows() else { return };
        if node.replica.figures().role != RoleName::Following {
            return;
        }
        node.store.stop_state(node.group);
        node.replica.set_damaged(true);
        let at_least = node.store.applied_slot(node.group).max(Slot(1));
        node.wants = Some(((leader.0 - 1000) as usize, at_least));
    }

    /// Somebody reads, and so finds what is damaged.
    pub(super) fn read_a_key(&mut self, index: usize) {
        if self.damages && self.nodes[index].down_until.is_none() {
            let key = key(self.random.below(KEYS));
            self.nodes[index].read(&key);
        }
    }

    /// Changes a bit of a page that the group's tree holds.
    pub(super) fn damage_a_page(&mut self, index: usize) -> bool {
        let node = &mut self.nodes[index];
        let tree = node.store.groups.get(node.group).tree;
        let mut pages: Vec<PageRef> = Vec::new();
        let disk = &mut node.disk;
        let mut read = |page: &PageRef| {
            let bytes = disk.image(ShardFile::Pages);
            let at = page.id as usize * BLOCK_BYTES;
            let mut buf = BlockBuf::zeroed(usize::from(page.blocks));
            let whole = at + buf.len() <= bytes.len();
            if whole {
                let len = buf.len();
                buf.copy_from_slice(&bytes[at..at + len]);
            }
            Ok::<_, crate::block::DiskError>(buf)
        };
        verify::verify(ShardId(3), &tree, &mut read, &mut |page| pages.push(*page));
        let idle = node.store.checkpoint.is_idle() && node.store.cache.is_written();
        if pages.is_empty() || !idle || node.store.is_stopped(node.group) {
            return false;
        }
        let page = pages[self.random.below(pages.len())];
        let bytes = usize::from(page.blocks) * BLOCK_BYTES;
        let at = page.id * BLOCK_BYTES as u64 + self.random.below(bytes) as u64;
        let bit = self.random.below(8) as u8;
        node.disk.flip_bit(ShardFile::Pages, at, bit);
        node.store.cache.forget(page.id);
        true
    }

    /// Every key is read on every node, until none of them is damaged.
    fn mend(&mut self) {
        for _ in 0..4_000 {
            self.run(5, false);
            let mut whole = true;
            for node in &mut self.nodes {
                whole &= node.down_until.is_none() && !node.damaged;
                whole &= (0..KEYS).all(|number| node.read(&key(number)));
            }
            if whole {
                return;
            }
        }
        panic!("not whole: {}", self.describe());
    }
}

impl super::three::Node {
    /// Whether the key could be read; if not, the page that lacks is asked for.
    fn read(&mut self, key: &[u8]) -> bool {
        let page = match self.store.get(self.group, key) {
            Read::Item(_) | Read::Absent => return true,
            Read::Damaged => return false,
            Read::Wait(page) => page,
        };
        self.store.fetch(page);
        false
    }

    fn hand_over(&mut self, to: MemberId, now: Nanos) {
        if self.replica.may_promote(to) {
            let at = At { now, liveness: &self.liveness, random: 0 };
            // Refused, it is tried again.
            let _ = self.replica.hand_over(to, at, &mut self.effects);
        }
    }
}

#[test]
fn a_damaged_page_is_made_good_by_another_member_whatever_crashes() {
    // Lines of the operator's: the stores' own counts end with a crash.
    drop(notice::overheard());
    let (mut damaged, mut repaired, mut crashes) = (0, 0, 0);
    for seed in 300..302 {
        let mut three = Three::new(seed, [MemberRole::Storage; NODES]).with_snapshots();
        three.damages = true;
        three.run(1200, false);
        for round in 0..8 {
            // One at a time: two damaged states may leave none to copy.
            let victim = three.random.below(NODES);
            for _ in 0..500 {
                if three.nodes[victim].down_until.is_none() && three.damage_a_page(victim) {
                    break;
                }
                three.run(1, false);
            }
            three.strikes = round % 2 == 1;
            let millis = 100 + three.random.below(400) as u64;
            three.run(millis, round % 4 == 3);
            three.strikes = false;
            three.mend();
        }
        for node in &three.nodes {
            let stats = node.store.stats();
            assert_eq!((stats.members_damaged, stats.members_lost), (0, 0));
            assert_eq!(stats.damaged_pages, stats.repaired_pages);
        }
        crashes += three.crashes;
        three.converge();
        for line in notice::overheard() {
            damaged += u64::from(line.contains("is damaged; the group's state"));
            repaired += u64::from(line.contains("is whole again"));
        }
    }
    notice::printed_again();
    eprintln!("{damaged} damaged states, {repaired} repaired, {crashes} crashes");
    assert!(damaged > 4 && repaired > 4 && crashes > 2);
}

#[test]
fn a_checkpoint_does_not_wait_for_a_state_that_is_stopped() {
    let mut three = Three::new(9, [MemberRole::Storage; NODES]).with_snapshots();
    three.damages = true;
    three.run(1500, false);
    let follower = (0..NODES)
        .find(|index| three.nodes[*index].replica.figures().role == RoleName::Following)
        .expect("two follow");
    // Nobody gives it a snapshot.
    three.snapshots = None;
    let mut stopped_at = None;
    for _ in 0..3_000 {
        three.run(1, false);
        // Some are replaced before anybody reads them.
        if stopped_at.is_none() && three.random.chance(1, 50) {
            three.damage_a_page(follower);
        }
        let node = &three.nodes[follower];
        if node.store.is_stopped(node.group) && stopped_at.is_none() {
            stopped_at = Some((node.store.stats().checkpoint_number, node.replica.figures()));
        }
    }
    let node = &three.nodes[follower];
    let (checkpoint, figures) = stopped_at.unwrap_or_else(|| panic!("{}", three.describe()));
    let (now, after) = (node.store.stats().checkpoint_number, node.replica.figures());
    assert!(now > checkpoint + 2, "checkpoints go on: {checkpoint} to {now}");
    assert!(after.chosen_slot > figures.chosen_slot, "it votes and learns");
    assert_eq!(after.applied_slot, figures.applied_slot, "its state stands still");
    let (node, now) = (&mut three.nodes[follower], three.now);
    let pinned = node.store.pin_snapshot(node.group, Slot(1), now);
    assert_eq!(pinned, Err(NotPinned::NoState));
    // A member that leaves takes its damage along.
    assert!(node.store.stats().members_damaged == 1 && node.store.stats().damaged_pages > 0);
    node.store.drop_group(node.group).expect("room");
    let stats = node.store.stats();
    assert_eq!((stats.members_damaged, stats.repaired_pages), (0, stats.damaged_pages));
}

/// A node with a member whose state is partly in a tree, and partly in the log only.
fn sample(seed: u64) -> Three {
    let mut three = Three::new(seed, [MemberRole::Storage; NODES]);
    three.run(2300, false);
    three
}

fn configuration_of(three: &Three) -> Configuration {
    let known = three.nodes[0].replica.configuration().expect("founders know it");
    known.configuration
}

#[test]
fn a_flipped_bit_in_the_log_of_members_costs_them_slots_or_their_identity_and_never_a_promise() {
    let mut sum = [0; 3];
    for seed in 11..14 {
        let found = flip_the_log(sample(seed));
        sum.iter_mut().zip(found).for_each(|(sum, found)| *sum += found);
    }
    let [harmless, unknown, lost] = sum;
    eprintln!("log: {harmless} harmless, {unknown} with unknown slots, {lost} with lost members");
    assert!(harmless > 20 && unknown + lost > 20 && lost > 5);
}

/// Flips of one node's log: harmless ones, those that made slots unknown, and those that cost a member.
fn flip_the_log(mut three: Three) -> [u64; 3] {
    let (mut harmless, mut unknown, mut lost) = (0, 0, 0);
    let index = 1;
    // Its log is marked: the one exception, damage to the last batch before its marker, is not here.
    three.nodes[index].disk = {
        let node = &mut three.nodes[index];
        let mut ops = Vec::new();
        for step in 0..50 {
            let now = three.now + step * Nanos::PER_MILLI;
            node.store.turn(now, &mut ops);
            ops.drain(..).for_each(|op| node.disk.submit(op));
            while let Some(done) = node.disk.complete_next() {
                node.store.disk_done(done, now);
            }
        }
        assert!(!node.store.log.needs_marker());
        node.disk.after_process_crash(&mut SimRandom::new(0))
    };
    let config = three.config;
    let whole = {
        let mut disk = three.nodes[index].disk.after_process_crash(&mut SimRandom::new(0));
        let opened = open_on(&config, &mut disk, three.now).expect("nothing is damaged");
        let group = opened.store.group(GROUP).expect("it is here");
        (opened.store.recovered(group), opened.store.incarnation())
    };
    let log_bytes = config.log.capacity_bytes();
    let mut random = SimRandom::new(5);
    let mut at = random.below(512) as u64;
    while at < log_bytes {
        let mut disk = three.nodes[index].disk.after_process_crash(&mut SimRandom::new(0));
        disk.flip_bit(ShardFile::Log, at, random.below(8) as u8);
        let opened = open_on(&config, &mut disk, three.now).expect("other members have it");
        let mut store = opened.store;
        if store.lost_members().count() > 0 {
            lost += 1;
            let warning = opened.warning.expect("the operator is told");
            assert!(warning.contains("new members"), "{warning}");
            lose_and_be_reborn(&three, store, disk, whole.1, lost % 4 == 0);
        } else {
            let group = store.group(GROUP).expect("it is here");
            let recovered = store.recovered(group);
            assert_eq!(recovered.promised, whole.0.promised, "a promise is never lost in silence");
            let same = recovered.entries.len() == whole.0.entries.len()
                && recovered.entries.iter().zip(&whole.0.entries).all(|(a, b)| a.kind == b.kind);
            let last = |r: &forebay_core::paxos::Recovered| r.chosen.0 + r.entries.len() as u64;
            assert_eq!(last(&recovered), last(&whole.0), "unknown, never empty");
            if same {
                harmless += 1
            } else {
                unknown += 1
            }
            let found = contents(&mut store, &mut disk, three.now).expect("no page is damaged");
            let applied = store.group_figures(group).applied_slot;
            assert_eq!(found[&GROUP.0], three.items_at(applied));
        }
        at += 1 + random.below(2 * BLOCK_BYTES / 3) as u64;
    }
    [harmless, unknown, lost]
}

/// A member that was lost: nobody sees it, its state is kept, and a new one goes on from there.
fn lose_and_be_reborn(three: &Three, store: Store, disk: SimDisk, incarnation: u64, again: bool) {
    let (config, now) = (three.config, three.now);
    let (mut store, mut disk) = (store, disk);
    assert!(store.incarnation() > incarnation + 1, "links and leases rely on it");
    assert_eq!((store.logs_lost(), store.group(GROUP)), (1, None));
    assert_eq!((store.members().count(), store.groups().count()), (0, 0));
    if again {
        // It was durable before anybody was served.
        let mut image = disk.after_power_cut(&mut SimRandom::new(3));
        store = open_on(&config, &mut image, now).expect("the log is a new one").store;
        disk = image;
        assert_eq!((store.logs_lost(), store.group(GROUP)), (1, None));
    }
    let gone = store.lost_members().next().expect("there is one");
    assert_eq!((gone.group, gone.member), (GROUP, member(1)));
    assert_eq!(gone.configuration.expect("known").configuration, configuration_of(three));
    let descriptor = |id: u64| MemberDescriptor {
        group: GROUP,
        member: MemberId(id),
        role: MemberRole::Log,
        configuration: None,
        payload: b"again",
    };
    let (group, _) = store.create_member(descriptor(77)).expect("room");
    if again {
        // The plan was given up: another one has its place, and its state.
        assert!(store.may_be_reborn(group));
        store.forsake(group);
        assert_eq!(store.create_member(descriptor(78)).expect("room").0, group);
    }
    let mut ops = Vec::new();
    for step in 0..40 {
        store.turn(now + step * Nanos::PER_MILLI, &mut ops);
        ops.drain(..).for_each(|op| disk.submit(op));
        while let Some(done) = disk.complete_next() {
            store.disk_done(done, now + step * Nanos::PER_MILLI);
        }
    }
    for store in [store, {
        let mut image = disk.after_power_cut(&mut SimRandom::new(4));
        let store = open_on(&config, &mut image, now).expect("nothing is damaged").store;
        disk = image;
        store
    }] {
        let mut store = store;
        let group = store.group(GROUP).expect("it is here again");
        let recovered = store.recovered(group);
        assert_eq!(recovered.promised, Ballot(0), "the new one has promised nothing");
        assert!(recovered.entries.is_empty());
        assert_eq!((recovered.applied, recovered.trimmed), (recovered.chosen, recovered.chosen));
        let (_, id, role) = store.members().next().expect("one");
        assert_eq!((id.0, role), (if again { 78 } else { 77 }, MemberRole::Storage));
        let found = contents(&mut store, &mut disk, now).expect("no page is damaged");
        assert_eq!(found[&GROUP.0], three.items_at(recovered.applied));
        assert!(recovered.applied > Slot(0) && store.lost_members().count() == 0);
    }
}

#[test]
fn a_lost_member_that_is_replaced_elsewhere_is_dropped_when_nobody_needs_it() {
    let three = sample(12);
    let config = three.config;
    let mut disk = three.nodes[0].disk.after_process_crash(&mut SimRandom::new(0));
    let start = three.nodes[0].store.superblock.log_start.lsn;
    disk.flip_bit(ShardFile::Log, config.log.offset_bytes(start) + 40, 1);
    let mut store = open_on(&config, &mut disk, three.now).expect("other members have it").store;
    assert_eq!(store.lost_members().count(), 1);
    assert_eq!(store.drop_lost(GROUP, member(1)), Ok(false), "another one's");
    assert_eq!(store.drop_lost(GROUP, member(0)), Ok(true));
    let mut ops = Vec::new();
    for step in 0..4_000 {
        let now = three.now + step * Nanos::PER_MILLI;
        store.turn(now, &mut ops);
        ops.drain(..).for_each(|op| disk.submit(op));
        while let Some(done) = disk.complete_next() {
            store.disk_done(done, now);
        }
    }
    super::space::assert_no_leak(&store, &mut disk);
    assert_eq!((store.lost_members().count(), store.groups.iter().count()), (0, 0));
}

#[test]
fn a_group_of_one_on_the_shard_keeps_its_log_from_being_given_up() {
    let mut three = Three::new(13, [MemberRole::Storage; NODES]);
    let descriptor = GroupDescriptor { id: GroupId(78), payload: b"alone" };
    three.nodes[0].store.create_group(descriptor).expect("room");
    three.run(2300, false);
    let config = three.config;
    let mut disk = three.nodes[0].disk.after_process_crash(&mut SimRandom::new(0));
    let start = three.nodes[0].store.superblock.log_start.lsn;
    disk.flip_bit(ShardFile::Log, config.log.offset_bytes(start) + 40, 1);
    let refused = open_on(&config, &mut disk, three.now);
    assert!(matches!(refused, Err(OpenError::Log(_))), "nobody else has it");
}

#[test]
fn members_that_only_a_lost_log_knew_are_gone_and_the_shard_serves_again() {
    let mut three = Three::new(14, [MemberRole::Storage; NODES]);
    three.run(12, false);
    let (config, node) = (three.config, &three.nodes[0]);
    assert_eq!(node.store.superblock.catalog, crate::tree::TreeRef::EMPTY);
    let start = node.store.superblock.log_start.lsn;
    let mut lost = 0;
    for block in 0..(node.store.log.durable_lsn().0 - start.0) / BLOCK_BYTES as u64 {
        let mut disk = node.disk.after_process_crash(&mut SimRandom::new(0));
        let at = config.log.offset_bytes(start) + block * BLOCK_BYTES as u64 + 40;
        disk.flip_bit(ShardFile::Log, at, 1);
        // Damage before the first member was created may as well hide groups of one.
        let Ok(Opened { mut store, .. }) = open_on(&config, &mut disk, three.now) else { continue };
        if store.logs_lost() == 0 {
            continue;
        }
        lost += 1;
        assert_eq!((store.groups.iter().count(), store.lost_members().count()), (0, 0));
        let descriptor = MemberDescriptor {
            group: GROUP,
            member: MemberId(77),
            role: MemberRole::Log,
            configuration: None,
            payload: b"again",
        };
        store.create_member(descriptor).expect("room");
        let again = open_on(&config, &mut disk.after_power_cut(&mut SimRandom::new(1)), three.now);
        assert_eq!(again.expect("the log is a new one").store.logs_lost(), 1);
    }
    assert!(lost > 0, "the log holds more than the creation");
}
