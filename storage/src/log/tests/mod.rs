//! The log against the simulated device: a small harness, and one file for each kind of property.

mod crash;
mod damage;
mod format;
mod opening;
mod writer;

use forebay_core::ids::{Ballot, GroupId, Lsn, ShardId, Slot};

use super::*;
use crate::block::{BlockBuf, DiskOp, ShardFile};
use crate::sim_disk::{SimDisk, SimRandom};

const WRITER_OPS: u64 = 1 << 48;
const SCAN_OPS: u64 = 2 << 48;

fn tiny() -> LogConfig {
    LogConfig {
        shard: ShardId(3),
        log_id: 0x1122_3344_5566_7788,
        segment_bytes: 32 << 10,
        segments: 4,
        record_bytes_max: 15 << 10,
        reserve_bytes: 8 << 10,
        batch_bytes_max: 8 << 10,
        in_flight_max: 3,
    }
}

fn device(config: &LogConfig) -> SimDisk {
    SimDisk::new(config.capacity_bytes(), 0)
}

fn buffers(config: &LogConfig) -> Vec<BlockBuf> {
    let blocks = config.batch_bytes_max as usize / crate::block::BLOCK_BYTES;
    (0..config.buffers_wanted()).map(|_| BlockBuf::zeroed(blocks)).collect()
}

fn record(slot: u64) -> RecordHeader {
    RecordHeader {
        kind: RecordKind::PUT,
        group: GroupId(slot % 5),
        slot: Slot(slot),
        ballot: Ballot(1),
        origin: Ballot(1),
    }
}

/// A payload that its slot determines.
fn payload(slot: u64, bytes: usize) -> Vec<u8> {
    let mut random = SimRandom::new(slot);
    (0..bytes).map(|_| random.bits() as u8).collect()
}

type Found = Vec<(Lsn, u64, Vec<u8>)>;

/// Recovers from `disk` as a process would that just started.
fn recover(
    config: &LogConfig,
    disk: &mut SimDisk,
    start: ScanStart,
) -> (Result<RecoveredLog, ScanError>, Found) {
    let mut scan = LogScan::with_read_bytes(*config, start, SCAN_OPS, 12 << 10);
    let (mut out, mut found) = (Vec::new(), Found::new());
    loop {
        let step = scan.advance(&mut out, |_, record| {
            found.push((record.lsn, record.header.slot.0, record.payload.to_vec()));
        });
        match step {
            Ok(ScanStep::Finished(log)) => return (Ok(log), found),
            Err(error) => return (Err(error), found),
            Ok(ScanStep::Waiting) => {}
        }
        out.drain(..).for_each(|op| disk.submit(op));
        let done = disk.complete_next().expect("a waiting scan has operations in flight");
        assert!(scan.owns(done.op));
        scan.done(done);
    }
}

/// A writer, its device, and what it was given since its start.
struct Rig {
    config: LogConfig,
    disk: SimDisk,
    log: LogWriter,
    start: ScanStart,
    /// Records from `start` on, in order.
    appended: Found,
    slot: u64,
}

impl Rig {
    fn new(config: LogConfig) -> Rig {
        let recovered = RecoveredLog::brand_new();
        let log = LogWriter::new(config, &recovered, Lsn(0), WRITER_OPS, buffers(&config));
        let start = ScanStart::default();
        Rig { config, disk: device(&config), log, start, appended: Vec::new(), slot: 0 }
    }

    /// Goes on with `disk` after a crash, from what recovery finds there.
    fn restart(self, disk: SimDisk) -> Rig {
        let mut rig = self.restart_unmarked(disk);
        rig.mark_opening();
        rig
    }

    /// As [`Rig::restart`], up to the moment before the opening block is written.
    fn restart_unmarked(self, mut disk: SimDisk) -> Rig {
        let Rig { config, start, slot, .. } = self;
        let (recovered, found) = recover(&config, &mut disk, start);
        let recovered = recovered.expect("a crash is not damage");
        let log = LogWriter::new(config, &recovered, start.point.lsn, WRITER_OPS, buffers(&config));
        Rig { config, disk, log, start, appended: found, slot }
    }

    fn opening_block(&self) -> Option<DiskOp> {
        opening_block(&self.config, self.log.durable_point(), self.log.trim_lsn(), OpId(9))
    }

    fn mark_opening(&mut self) {
        if let Some(op) = self.opening_block() {
            self.disk.submit(op);
            self.disk.complete_next().expect("just submitted").result.expect("no fault");
        }
    }

    fn append(&mut self, bytes: usize) -> Result<Lsn, AppendError> {
        let payload = payload(self.slot, bytes);
        let middle = payload.len() / 3;
        let parts = [&payload[..middle], &payload[middle..]];
        let lsn = self.log.append(&record(self.slot), &parts)?;
        self.appended.push((lsn, self.slot, payload));
        self.slot += 1;
        Ok(lsn)
    }

    fn seal(&mut self) {
        let mut out = Vec::new();
        self.log.seal(&mut out);
        out.into_iter().for_each(|op| self.disk.submit(op));
    }

    fn marker(&mut self) -> bool {
        let mut out = Vec::new();
        let written = self.log.marker(&mut out);
        out.into_iter().for_each(|op| self.disk.submit(op));
        written
    }

    fn complete(&mut self, random: &mut SimRandom) -> bool {
        let Some(done) = self.disk.complete_one(random) else { return false };
        self.log.done(done).expect("no fault was injected");
        true
    }

    /// Seals and completes until nothing is left.
    fn settle(&mut self) {
        while !self.log.is_idle() {
            self.seal();
            let done = self.disk.complete_next().expect("a log that is not idle writes");
            self.log.done(done).expect("no fault was injected");
        }
    }

    fn write_settled(&mut self, records: &[usize]) {
        for bytes in records {
            self.append(*bytes).expect("room");
            self.settle();
        }
    }

    /// Takes a checkpoint of everything durable: it need not be recovered any more.
    fn checkpoint(&mut self) {
        let point = self.log.durable_point();
        self.start = ScanStart { point, durable_lsn: point.lsn };
        self.log.trim_to(point.lsn);
        self.appended.retain(|(lsn, ..)| *lsn >= point.lsn);
    }

    fn acknowledged(&self) -> usize {
        self.appended.iter().filter(|(lsn, ..)| *lsn < self.log.durable_lsn()).count()
    }

    fn image(&self) -> SimDisk {
        SimDisk::from_image(&self.disk.image(ShardFile::Log), &[])
    }
}
