//! The log against the device below it.
//!
//! ```text
//!   log      records ─► LogWriter ─► batches of n blocks ─┐
//!                                                         ├─► the same ring, file, depth, RWF_DSYNC
//!   device                    blocks of the same length ──┘
//! ```
//!
//! The log's writer alone: no network, no tree, nobody to answer. It does what it does in a shard,
//! copying records of a small Put's size, a checksum for each, headers, one batch after the other,
//! acknowledged in order. A batch is filled only when the device has been given all that came
//! before, so every batch is full and its length is known; at the end what is left is sealed and
//! waited for. The device is measured as `forebay probe-disk` does it, on the same file, at the same
//! length and with as many writes in flight. Both take turns.

use std::path::Path;
use std::time::Duration;

use forebay_core::ids::{Ballot, GroupId, Lsn, ShardId, Slot};
use forebay_core::time::Nanos;
use forebay_net::machine::{Effects, Machine};
use forebay_net::node::config::BATCHES_IN_FLIGHT_MAX;
use forebay_net::ring::{Ring, open_direct};
use forebay_storage::block::{BLOCK_BYTES, BlockBuf, DiskDone};
use forebay_storage::log::format::{BATCH_HEADER_BYTES, RECORD_HEADER_BYTES};
use forebay_storage::log::{LogConfig, LogWriter, RecordHeader, RecordKind, RecoveredLog};

use crate::compare::statistics::Spread;
use crate::compare::table::{Table, micros, whole};
use crate::device::{self, Pattern};
use crate::error::BenchError;
use crate::fleet::process::OwnedDir;

use super::Bench;

/// Blocks of each batch.
const SIZES: [usize; 3] = [1, 4, 16];
/// Of a record: a key of 24 bytes and a value of 100, as in the other figures.
const PAYLOAD_BYTES: usize = 124;
/// The two take turns so often that a minute in which the machine is busy meets both.
const SLICE: Duration = Duration::from_millis(250);
/// Records are padded to this.
const RECORD_ALIGN: usize = 8;

/// Bytes a second of the log and of the device.
pub(super) fn log(bench: &mut Bench<'_>) -> Result<(), BenchError> {
    let depth = BATCHES_IN_FLIGHT_MAX;
    bench.begin(
        "The log against the device",
        &format!(
            "The log's writer alone, records of {PAYLOAD_BYTES} B, full batches, against durable \
             writes (RWF_DSYNC) of the same length on the same prewritten file; {depth} in flight \
             for both, in turn every quarter of a second. `forebay probe-disk DIR` measures the second by itself."
        ),
    );
    let args = &bench.args.bench;
    let config = config(SIZES[0]);
    let dir = OwnedDir::create(&args.data_dir, "device")?;
    let path = dir.path().join("log");
    prewrite(&path, config.capacity_bytes())?;
    let mut table = Table::new([
        "write, median of rounds",
        "device MB/s",
        "log MB/s",
        "log by device",
        "min–max",
        "batches/s",
        "p50 us",
        "CPU us",
    ]);
    for blocks in SIZES {
        let (mut devices, mut logs, mut batches) = (Vec::new(), Vec::new(), Vec::new());
        let (mut p50s, mut cpus) = (Vec::new(), Vec::new());
        for _ in 0..args.rounds {
            let slices = (bench.duration().as_millis() / SLICE.as_millis()).max(1);
            let mut sums = [0.0; 5];
            for _ in 0..slices {
                let pattern = Pattern::DurableWrites { blocks };
                let device = device::measure(&path, pattern, depth, SLICE)?;
                let log = write_log(&path, blocks, SLICE)?;
                let slice = [device.bytes_s, device.p50_us, log.bytes_s, log.batches_s, log.cpu_us];
                sums.iter_mut().zip(slice).for_each(|(sum, part)| *sum += part);
            }
            let [device_bytes, p50, log_bytes, log_batches, cpu] = sums.map(|s| s / slices as f64);
            devices.push(device_bytes);
            p50s.push(p50);
            logs.push(log_bytes);
            batches.push(log_batches);
            cpus.push(cpu);
        }
        let ratio = Spread::ratio(&logs, &devices);
        table.row([
            format!("{} KiB", blocks * BLOCK_BYTES / 1024),
            format!("{:.1}", Spread::of(&devices).median / 1e6),
            format!("{:.1}", Spread::of(&logs).median / 1e6),
            format!("{:.2}", ratio.median),
            format!("{:.2}–{:.2}", ratio.min, ratio.max),
            whole(Spread::of(&batches).median),
            micros(Spread::of(&p50s).median),
            micros(Spread::of(&cpus).median),
        ]);
    }
    bench.say(&table.render());
    bench.say(
        "p50: of the device's own write. CPU: of the log's thread for each batch, submission and \
         the kernel's part in it included.\n",
    );
    Ok(())
}

/// What the log reached.
#[derive(Clone, Copy, Debug)]
struct LogRate {
    batches_s: f64,
    /// Made durable, headers and padding included.
    bytes_s: f64,
    /// For each batch.
    cpu_us: f64,
}

fn config(blocks: usize) -> LogConfig {
    LogConfig {
        batch_bytes_max: (blocks * BLOCK_BYTES) as u32,
        in_flight_max: BATCHES_IN_FLIGHT_MAX,
        ..LogConfig::standard(ShardId(0), 1)
    }
}

/// Writes a brand-new log over the file at `path` for `duration`.
fn write_log(path: &Path, blocks: usize, duration: Duration) -> Result<LogRate, BenchError> {
    let file = open_direct(path, false)?;
    let mut machine = LogMachine::new(config(blocks), duration);
    let mut ring = Ring::new(device::config(file))?;
    let cpu = crate::sys::thread_cpu_nanos();
    ring.run(&mut machine)?;
    let cpu = crate::sys::thread_cpu_nanos() - cpu;
    if let Some(failed) = machine.log.failed() {
        let source = std::io::Error::other(failed.to_string());
        return Err(BenchError::File { path: path.to_owned(), source });
    }
    let stats = machine.log.stats();
    let seconds = (machine.last.0 - machine.began.unwrap_or(machine.last).0).max(1) as f64 / 1e9;
    Ok(LogRate {
        batches_s: stats.batches as f64 / seconds,
        bytes_s: stats.written_bytes as f64 / seconds,
        cpu_us: cpu as f64 / 1e3 / stats.batches.max(1) as f64,
    })
}

/// Drives a log's writer as a shard does, with nothing else to do.
struct LogMachine {
    log: LogWriter,
    /// That fill a batch.
    records_each: u64,
    slot: u64,
    duration: Duration,
    began: Option<Nanos>,
    /// When the last batch was durable.
    last: Nanos,
}

impl LogMachine {
    fn new(config: LogConfig, duration: Duration) -> LogMachine {
        let buffer = || BlockBuf::zeroed(config.batch_bytes_max as usize / BLOCK_BYTES);
        let buffers = (0..config.buffers_wanted()).map(|_| buffer()).collect();
        let record = (RECORD_HEADER_BYTES + PAYLOAD_BYTES).next_multiple_of(RECORD_ALIGN);
        let room = config.batch_bytes_max as usize - BATCH_HEADER_BYTES;
        LogMachine {
            log: LogWriter::new(config, &RecoveredLog::brand_new(), Lsn(0), 0, buffers),
            records_each: (room / record) as u64,
            slot: 0,
            duration,
            began: None,
            last: Nanos(0),
        }
    }

    /// One batch's records.
    fn fill(&mut self) {
        let payload = [0x5a; PAYLOAD_BYTES];
        for _ in 0..self.records_each {
            self.slot += 1;
            let record = RecordHeader {
                kind: RecordKind(1),
                group: GroupId(1),
                slot: Slot(self.slot),
                ballot: Ballot(1),
                origin: Ballot(1),
            };
            match self.log.append(&record, &[&payload]) {
                Ok(_) => {}
                // Every buffer waits for the batches before it to be acknowledged.
                Err(_) => return,
            }
        }
    }
}

impl Machine for LogMachine {
    fn disk_done(&mut self, done: DiskDone, now: Nanos) {
        if let Ok(durable) = self.log.done(done) {
            self.log.trim_to(durable);
        }
        self.last = now;
    }
    fn turn(&mut self, now: Nanos, fx: &mut Effects) {
        let began = *self.began.get_or_insert(now);
        let is_time = now.since(began) < self.duration.as_nanos() as u64;
        // What was filled in an earlier turn leaves first; then one batch is filled, which leaves in
        // this turn if it may and waits for a completion otherwise. More in one turn would keep the
        // device waiting for records that a shard has not got either: its turns are short.
        self.log.seal(&mut fx.disk);
        if is_time && self.log.waiting_bytes() == 0 {
            self.fill();
            self.log.seal(&mut fx.disk);
            if self.log.waiting_bytes() == 0 {
                // There is room for more: at once, after this turn's writes are on their way.
                fx.wake_at = Some(now);
            }
        }
        if !is_time && self.log.is_idle() || self.log.failed().is_some() {
            fx.stop = true;
        }
    }
}

/// A file that later writes only overwrite.
fn prewrite(path: &Path, bytes: u64) -> Result<(), BenchError> {
    forebay_storage::directory::create_prewritten(path, bytes, &mut |_| {}).map(drop).map_err(
        |error| BenchError::File { path: path.to_owned(), source: std::io::Error::other(error) },
    )
}

#[cfg(test)]
mod tests {
    use forebay_net::ring::testing::{require_direct, require_io_uring};

    use super::*;

    #[test]
    fn every_batch_is_full_and_everything_is_waited_for() {
        for blocks in SIZES {
            let mut machine = LogMachine::new(config(blocks), Duration::from_secs(1));
            let mut fx = Effects::default();
            for turns in 1..100 {
                fx.wake_at = None;
                machine.turn(Nanos(5), &mut fx);
                if fx.wake_at.is_none() {
                    assert_eq!(turns, BATCHES_IN_FLIGHT_MAX + 1, "one a turn");
                    break;
                }
            }
            assert_eq!(fx.disk.len(), BATCHES_IN_FLIGHT_MAX as usize, "as many as may be");
            let stats = machine.log.stats();
            assert_eq!(stats.written_bytes, stats.batches * (blocks * BLOCK_BYTES) as u64);
        }
    }

    #[test]
    fn a_real_file_takes_the_log() {
        let dir = tempfile::tempdir_in(".").unwrap();
        if !require_io_uring() || !require_direct(dir.path()) {
            return;
        }
        let path = dir.path().join("log");
        let small = LogConfig { segments: 4, ..config(4) };
        prewrite(&path, small.capacity_bytes()).unwrap();
        // The file is shorter than the standard log, so the time is too short to reach its end.
        let rate = write_log(&path, 4, Duration::from_millis(20)).unwrap();
        assert!(rate.batches_s > 0.0 && rate.bytes_s >= rate.batches_s * 4096.0, "{rate:?}");
    }
}
