//! A shard's storage on the simulated disk, small enough to be opened thousands of times a second.

use forebay_core::ids::ShardId;
use forebay_core::time::Nanos;
use forebay_storage::block::{BLOCK_BYTES, BlockBuf, DiskDone, DiskOp};
use forebay_storage::log::LogConfig;
use forebay_storage::sim_disk::{SimDisk, SimRandom};
use forebay_storage::store::{self, BlockingDisk, OpenError, Opened, StoreConfig};

/// The only shard.
pub(super) const SHARD: ShardId = ShardId(0);
/// The node.
pub(super) const NODE: u128 = 0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10;
/// Time between checkpoints.
pub(super) const CHECKPOINT_NANOS: u64 = Nanos::PER_SECOND;

/// The simulated disk, carrying out one operation after the other.
#[derive(Debug)]
pub(super) struct Disk(pub(super) SimDisk);

impl Disk {
    /// A new shard's files: a log of zeros, and room for two superblocks.
    pub(super) fn blank() -> Disk {
        Disk(SimDisk::new(config().log.capacity_bytes(), 2 * BLOCK_BYTES as u64))
    }

    /// Another disk of the same contents.
    pub(super) fn copy(&self) -> Disk {
        assert_eq!(self.0.in_flight().len(), 0);
        Disk(self.0.after_process_crash(&mut SimRandom::new(0)))
    }
}

impl BlockingDisk for Disk {
    fn carry_out(&mut self, op: DiskOp) -> DiskDone {
        self.0.submit(op);
        self.0.complete_next().expect("it was just submitted")
    }
}

pub(super) fn config() -> StoreConfig {
    let log = LogConfig {
        shard: SHARD,
        log_id: 0x1122_3344,
        segment_bytes: 64 << 10,
        segments: 4,
        record_bytes_max: 16 << 10,
        reserve_bytes: 16 << 10,
        batch_bytes_max: 16 << 10,
        in_flight_max: 2,
    };
    StoreConfig {
        log,
        overlay_generation_bytes: 2 << 20,
        cache_bytes: 1 << 20,
        checkpoint_interval_nanos: CHECKPOINT_NANOS,
        overlay_fill_percent: 50,
        log_fill_percent: 50,
        checkpoints_off: false,
        merge_slice_micros: 200,
        marker_nanos: Nanos::PER_MILLI,
    }
}

pub(super) fn open(disk: &mut Disk) -> Result<Opened, OpenError> {
    let config = config();
    let blocks = config.log.batch_bytes_max as usize / BLOCK_BYTES;
    let buffers = (0..config.log.buffers_wanted()).map(|_| BlockBuf::zeroed(blocks)).collect();
    store::open(config, NODE, buffers, disk, Nanos(0), &mut |_| {})
}
