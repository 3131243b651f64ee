//! Crash images of the checkpoint protocol: pages, flush, superblock, flush.

use super::harness::{Batch, Model, Store, apply};
use crate::block::{DiskOp, OpId, ShardFile};
use crate::sim_disk::{CrashOptions, SimRandom};

const CACHE: usize = 2 << 20;

fn changes(random: &mut SimRandom) -> Batch {
    (0..1 + random.below(60))
        .map(|_| {
            let key = (random.below(400) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let bytes = if random.chance(1, 10) { 6_000 } else { 100 };
            let put = random.chance(3, 4).then(|| vec![random.bits() as u8; bytes]);
            (key.to_be_bytes().to_vec(), put)
        })
        .collect()
}

/// Every legal state after a cut recovers to the last checkpoint, or to the one being made if its
/// superblock was on its way, and works on from there.
fn check_images(store: &Store, before: &Model, after: &Model, superblock_sent: bool, seed: u64) {
    let options = CrashOptions { images_max: 24, sector_bytes: 512, seed };
    for image in store.disk.crash_images(options) {
        let (mut recovered, chosen) = Store::open(image, CACHE, seed);
        let is =
            |model: &Model| chosen.superblock.catalog.totals() == super::harness::totals_of(model);
        assert!(is(before) || superblock_sent && is(after));
        assert!(chosen.damage.is_none() || superblock_sent, "only a torn superblock is reported");
        let mut model = if is(before) { before.clone() } else { after.clone() };
        recovered.check(&model);
        // A checkpoint after the crash, which meets the leftovers of the one before.
        let mut random = SimRandom::new(seed);
        for _ in 0..2 {
            let batch = changes(&mut random);
            recovered.merge(&batch);
            apply(&mut model, &batch);
            recovered.checkpoint();
            recovered = recovered.reopen();
            recovered.check(&model);
        }
    }
}

#[test]
fn every_crash_image_recovers_one_whole_checkpoint() {
    for seed in 0..4 {
        println!("seed {seed}");
        let mut random = SimRandom::new(seed);
        let mut store = Store::create(CACHE, seed);
        let mut model = Model::new();
        for round in 0..6 {
            let before = model.clone();
            let batch = changes(&mut random);
            store.merge(&batch);
            apply(&mut model, &batch);
            check_images(&store, &before, &model, false, seed);
            // Pages on their way.
            while let Some(op) = store.cache.next_write(OpId(1 << 40 | random.bits() >> 32)) {
                store.disk.submit(op);
            }
            check_images(&store, &before, &model, false, seed);
            while let Some(done) = store.disk.complete_one(&mut random) {
                store.cache.finish_write(done).unwrap();
            }
            let superblock = store.prepare_checkpoint();
            check_images(&store, &before, &model, false, seed);
            store.disk.submit(superblock);
            check_images(&store, &before, &model, true, seed);
            store.disk.complete_next().unwrap();
            check_images(&store, &before, &model, true, seed);
            store.disk.submit(DiskOp::Flush { op: OpId(u64::MAX - 1), file: ShardFile::Pages });
            store.disk.complete_next().unwrap();
            store.space.superblock_durable(store.space.building() - 1);
            check_images(&store, &model, &model, false, seed);
            if round % 2 == 1 {
                store = store.reopen();
            }
        }
    }
}
