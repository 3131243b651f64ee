//! The scrub reads everything, finds what is damaged though nobody asks for it, and takes nothing for
//! damage that is not, whatever is written, dropped and reused meanwhile.

use forebay_core::paxos::MemberRole;

use super::three::{NODES, Three};
use super::*;
use crate::notice;
use crate::tree::{PageRef, verify};

/// So short that everything is read all the time.
const PERIOD_NANOS: u64 = 50 * Nanos::PER_MILLI;

/// Every page of the durable checkpoint's trees.
fn pages(store: &Store, disk: &SimDisk) -> Vec<PageRef> {
    let image = disk.image(ShardFile::Pages);
    let mut read = |page: &PageRef| {
        let (at, mut buf) =
            (page.id as usize * BLOCK_BYTES, BlockBuf::zeroed(usize::from(page.blocks)));
        let len = buf.len();
        buf.copy_from_slice(&image[at..at + len]);
        Ok::<_, crate::block::DiskError>(buf)
    };
    let mut pages = Vec::new();
    for (_, state) in store.groups.iter().filter(|(_, state)| !state.dropped) {
        let tree = &state.checkpoint_tree;
        verify::verify(ShardId(3), tree, &mut read, &mut |page| pages.push(*page));
    }
    pages
}

impl Rig {
    /// Runs until so many passes more are over.
    fn scrub(&mut self, passes: u64) {
        let until = self.store.scrub_stats().passes + passes;
        for _ in 0..200_000 {
            if self.store.scrub_stats().passes >= until {
                return;
            }
            self.now.0 += Nanos::PER_MILLI;
            self.turn();
            self.complete();
        }
        panic!("no pass ends: {:?}", self.store.scrub_stats());
    }

    fn work(&mut self, groups: &mut [u64], steps: usize) {
        for _ in 0..steps {
            let group = groups[self.random.below(groups.len())];
            let key = key(self.random.below(120));
            let bytes = [20, 300, 1500, 6000][self.random.below(4)];
            match self.random.below(8) {
                0 => _ = self.delete(group, &key),
                1..5 => _ = self.put(group, &key, bytes),
                _ => self.pump(),
            }
            if self.random.chance(1, 400) {
                let index = self.random.below(groups.len());
                self.settle();
                self.drop_group(groups[index]);
                groups[index] = self.create();
            }
        }
    }
}

fn filled(seed: u64) -> (Rig, Vec<u64>) {
    let mut rig = Rig::new(tiny(), seed);
    let groups: Vec<u64> = (0..3).map(|_| rig.create()).collect();
    for number in 0..150 {
        let bytes = [20, 700, 1500, 90, 6000][number % 5];
        rig.put_patiently(groups[number % 3], &key(number), bytes);
    }
    rig.settle();
    rig.checkpoint_if_changed();
    (rig, groups)
}

#[test]
fn a_pass_reads_every_page_once_and_finds_nothing_where_nothing_is_damaged() {
    let (mut rig, _) = filled(1);
    rig.store.set_scrub_period(Some(PERIOD_NANOS));
    // The first one begins anywhere.
    rig.scrub(1);
    let before = rig.store.scrub_stats();
    rig.scrub(1);
    let after = rig.store.scrub_stats();
    let (there, read) = (pages(&rig.store, &rig.disk).len() as u64, after.pages - before.pages);
    // The ways to the places where slices begin are read again.
    assert!(read >= there && read < there + there / 2 + 10, "{read} reads of {there} pages");
    assert_eq!(after.damaged, 0);
    assert!(after.passed_at > before.passed_at);
    assert_eq!(rig.store.stats().page_read_errors, 0);
}

#[test]
fn nothing_is_taken_for_damage_that_is_only_written_anew() {
    let (mut passes, mut read) = (0, 0);
    for seed in 0..8 {
        let (mut rig, mut groups) = filled(seed);
        rig.store.set_scrub_period(Some(PERIOD_NANOS / 5));
        rig.work(&mut groups, 6_000);
        let stats = rig.store.scrub_stats();
        assert_eq!(stats.damaged, 0, "seed {seed}");
        (passes, read) = (passes + stats.passes, read + stats.pages);
        // What it holds goes with it: everything freed is free in the end.
        rig.settle();
        rig = rig.reopen();
        rig.store.set_scrub_period(Some(PERIOD_NANOS));
        rig.scrub(2);
        assert_eq!(rig.store.scrub_stats().damaged, 0);
    }
    eprintln!("{read} pages read in {passes} passes while others were written");
    assert!(passes > 8 && read > 1_000, "{read} pages in {passes} passes");
}

#[test]
fn every_page_that_is_damaged_on_the_disk_is_found_though_the_cache_has_it() {
    let (mut rig, _) = filled(3);
    drop(notice::overheard());
    let all = pages(&rig.store, &rig.disk);
    for page in all.iter().step_by(4) {
        let bytes = usize::from(page.blocks) * BLOCK_BYTES;
        let at = page.id * BLOCK_BYTES as u64 + rig.random.below(bytes) as u64;
        rig.disk.flip_bit(ShardFile::Pages, at, 3);
        rig.store.set_scrub_period(Some(PERIOD_NANOS));
        let before = rig.store.scrub_stats().damaged;
        rig.scrub(2);
        assert!(rig.store.scrub_stats().damaged > before, "{page:?}");
        rig.disk.flip_bit(ShardFile::Pages, at, 3);
    }
    // A page that failed once only is not damaged.
    let damaged = rig.store.scrub_stats().damaged;
    rig.scrub(2);
    assert_eq!(rig.store.scrub_stats().damaged, damaged);
    assert!(notice::overheard().iter().all(|line| line.contains("no other copy")));
    notice::printed_again();
}

#[test]
fn a_store_that_is_idle_reads_at_the_pace_of_its_period_and_sleeps_in_between() {
    let (mut rig, _) = filled(5);
    let there = pages(&rig.store, &rig.disk).len() as u64;
    let period = 1_000 * Nanos::PER_SECOND;
    rig.store.set_scrub_period(Some(period));
    let (begun, mut turns) = (rig.now, 0);
    while rig.store.scrub_stats().passes == 0 {
        turns += 1;
        assert!(turns < 40 * there, "{turns} turns");
        let work = rig.turn();
        assert!(!work.run_again || !rig.store.checkpoint.is_idle());
        if !rig.complete() {
            rig.now = work.wake_at.expect("the scrub goes on").max(rig.now);
        }
    }
    let took = rig.now.since(begun);
    // The first part, and one whole pass.
    assert!(took >= period / 2 && took < 3 * period, "{took}");
}

#[test]
fn a_damaged_page_that_nobody_reads_is_made_good_by_another_member() {
    drop(notice::overheard());
    for seed in 500..502 {
        let mut three = Three::new(seed, [MemberRole::Storage; NODES]).with_snapshots();
        three.damages = true;
        three.run(1500, false);
        // Nobody reads, and hardly anybody writes: every page stays where it is.
        three.writes_one_in = 1_000_000;
        three.run(3000, false);
        for victim in 0..NODES {
            while !three.damage_a_page(victim) {
                three.run(1, false);
            }
            let before = three.nodes[victim].store.stats().repaired_pages;
            for node in &mut three.nodes {
                node.store.set_scrub_period(Some(PERIOD_NANOS));
            }
            let mut millis = 0;
            while three.nodes[victim].store.stats().repaired_pages == before {
                assert!(millis < 20_000, "seed {seed}, node {victim}: {}", three.describe());
                three.run(20, false);
                millis += 20;
            }
            assert_eq!(three.nodes[victim].store.stats().members_damaged, 0);
        }
        three.writes_one_in = 1;
        three.converge();
    }
    notice::printed_again();
}
