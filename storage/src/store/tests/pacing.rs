//! Writes faster than device and log can take them: slowed by the checkpoint, not stopped.
//!
//! A device of a fixed speed, one operation after the other, in simulated time; and a client that
//! always has another write to begin. Waiting is counted for each write, from its first refusal
//! until it is taken.

use std::collections::VecDeque;

use super::*;
use crate::cache::{WRITE_BLOCKS, WRITES_MAX};

/// Simulated time between two turns while nothing ends.
const TURN_NANOS: u64 = 100_000;

/// A device that works on one operation at a time.
#[derive(Clone, Copy, Debug)]
struct Device {
    /// Of any operation.
    nanos_each: u64,
    bytes_per_second: u64,
    flush_nanos: u64,
}

impl Device {
    fn nanos(&self, op: &DiskOp) -> u64 {
        let bytes = match op {
            DiskOp::Read { buf, .. } => buf.len(),
            DiskOp::Write { bytes, .. } => *bytes,
            DiskOp::Flush { .. } => return self.flush_nanos,
            DiskOp::Grow { .. } => 0,
        };
        self.nanos_each + bytes as u64 * Nanos::PER_SECOND / self.bytes_per_second
    }
}

/// What the client saw.
#[derive(Debug, Default)]
struct Seen {
    /// Longest time that a write was refused.
    wait_nanos_max: u64,
    /// Writes taken in each tenth of a second.
    taken: Vec<u64>,
    checkpoints: u64,
    checkpoint_nanos_max: u64,
    /// Writes of pages, and their blocks.
    page_writes: (u64, u64),
}

struct Client {
    rig: Rig,
    group: u64,
    device: Device,
    in_flight: VecDeque<(OpId, u64)>,
    busy_until: u64,
    page_writes: (u64, u64),
    keys: usize,
    item_bytes: usize,
}

impl Client {
    fn new(config: StoreConfig, device: Device, keys: usize, item_bytes: usize) -> Client {
        let mut rig = Rig::new(config, 2);
        let group = rig.create();
        rig.settle();
        let (in_flight, busy_until, page_writes) = (VecDeque::new(), 0, (0, 0));
        Client { rig, group, device, in_flight, busy_until, page_writes, keys, item_bytes }
    }

    /// A turn, and the ends of operations until the next one.
    fn turn(&mut self) {
        let rig = &mut self.rig;
        rig.now.0 += TURN_NANOS;
        while let Some((op, at)) = self.in_flight.front().copied()
            && at <= rig.now.0
        {
            self.in_flight.pop_front();
            let done = rig.disk.complete(op).expect("in flight");
            rig.store.disk_done(done, rig.now);
            rig.model.advance(rig.store.chosen_ticket());
        }
        rig.store.turn(rig.now, &mut rig.ops);
        for op in rig.ops.drain(..) {
            if let DiskOp::Write { bytes, file: ShardFile::Pages, .. } = &op {
                self.page_writes.0 += 1;
                self.page_writes.1 += (*bytes / BLOCK_BYTES) as u64;
            }
            self.busy_until = self.busy_until.max(rig.now.0) + self.device.nanos(&op);
            rig.disk.submit(op);
            let id = rig.disk.in_flight().last().expect("just submitted");
            self.in_flight.push_back((id, self.busy_until));
        }
    }

    /// Up to `each_turn` writes a turn for this long.
    fn run(&mut self, millis: u64, each_turn: usize) -> Seen {
        let began = self.rig.now.0;
        let end = began + millis * Nanos::PER_MILLI;
        let mut seen = Seen::default();
        let mut refused_at = None;
        let first = self.rig.store.checkpoint.number();
        while self.rig.now.0 < end {
            let window = ((self.rig.now.0 - began) / (100 * Nanos::PER_MILLI)) as usize;
            seen.taken.resize(window + 1, 0);
            for _ in 0..each_turn {
                let number = self.rig.random.below(self.keys);
                let put = self.put(number);
                match put {
                    Ok(_) => {
                        let now = self.rig.now.0;
                        let waited = refused_at.take().map_or(0, |at| now - at);
                        seen.wait_nanos_max = seen.wait_nanos_max.max(waited);
                        seen.taken[window] += 1;
                    }
                    Err(Refused::Overloaded) => {
                        refused_at.get_or_insert(self.rig.now.0);
                        break;
                    }
                    Err(other) => panic!("{other}"),
                }
            }
            self.turn();
            let stuck = refused_at.is_some_and(|at| self.rig.now.0 - at > 5 * Nanos::PER_SECOND);
            assert!(!stuck, "{}", self.rig.store.checkpoint_phase());
            let last = self.rig.store.checkpoint.last_nanos();
            seen.checkpoint_nanos_max = seen.checkpoint_nanos_max.max(last);
        }
        seen.page_writes = std::mem::take(&mut self.page_writes);
        seen.checkpoints = self.rig.store.checkpoint.number() - first;
        seen
    }

    fn put(&mut self, number: usize) -> Result<Ticket, Refused> {
        let mut key = SimRandom::new(number as u64).bits().to_be_bytes().to_vec();
        key.extend_from_slice(&(number as u64).to_be_bytes());
        self.rig.put(self.group, &key, self.item_bytes)
    }

    /// What the device needs for the most that can be before a log write: page writes, batches of
    /// the log, and a checkpoint's flushes and superblock.
    fn in_flight_nanos(&self) -> u64 {
        let log = &self.rig.config.log;
        let operations = WRITES_MAX as u64 + u64::from(log.in_flight_max) + 1;
        let bytes = WRITES_MAX * WRITE_BLOCKS * BLOCK_BYTES
            + log.in_flight_max as usize * log.batch_bytes_max as usize
            + BLOCK_BYTES;
        operations * self.device.nanos_each
            + bytes as u64 * Nanos::PER_SECOND / self.device.bytes_per_second
            + 2 * self.device.flush_nanos
            + 10 * TURN_NANOS
    }

    /// Ends the load, and finds everything again.
    fn end(mut self) {
        self.in_flight.clear();
        self.rig.settle();
        self.rig.reopen();
    }
}

/// Memory for a few megabytes of entries, a log of four.
fn config() -> StoreConfig {
    let mut config = tiny();
    config.log.segment_bytes = 1 << 20;
    config.log.segments = 4;
    config.log.batch_bytes_max = 64 << 10;
    config.overlay_generation_bytes = 8 << 20;
    config.cache_bytes = 16 << 20;
    config.checkpoint_interval_nanos = 3_600 * Nanos::PER_SECOND;
    config
}

/// The longest wait, measured: 20.0 ms of simulated time, while checkpoints take 454 ms each.
#[test]
fn writes_beyond_the_devices_speed_are_slowed_by_the_checkpoint_and_not_stopped() {
    let device = Device { nanos_each: 60_000, bytes_per_second: 20 << 20, flush_nanos: 3_000_000 };
    let mut client = Client::new(config(), device, 20_000, 300);
    client.run(8_000, 64);
    let seen = client.run(8_000, 64);
    let mean = seen.taken.iter().sum::<u64>() / seen.taken.len() as u64;
    let least = seen.taken.iter().min().expect("eighty windows");
    println!("{seen:?}, mean {mean}");
    assert!(seen.checkpoints >= 10 && seen.checkpoint_nanos_max > 300 * Nanos::PER_MILLI);
    assert!(seen.wait_nanos_max <= 30 * Nanos::PER_MILLI);
    assert!(least * 4 >= mean, "{least} writes in one tenth of a second, {mean} in most");
    client.end();
}

/// Bitmaps and superblocks, which are written one by one, count as well. Measured: 26 and 14 blocks a
/// write; when pages of a merge did not wait for their neighbours, it was 10 where all are rewritten.
#[test]
fn pages_leave_in_long_writes_also_where_few_are_rewritten() {
    let device = Device { nanos_each: 60_000, bytes_per_second: 20 << 20, flush_nanos: 3_000_000 };
    let mut client = Client::new(config(), device, 20_000, 300);
    client.run(3_000, 64);
    let (writes, blocks) = client.run(3_000, 64).page_writes;
    println!("all: {:.1} blocks a write", blocks as f64 / writes as f64);
    assert!(blocks > 20 * writes);
    client.end();

    let interval = Nanos::PER_SECOND / 2;
    let config = StoreConfig { checkpoint_interval_nanos: interval, ..config() };
    let mut client = Client::new(config, device, 60_000, 300);
    client.run(4_000, 64);
    client.run(10_000, 1);
    let (writes, blocks) = client.run(2_000, 1).page_writes;
    println!("few: {:.1} blocks a write", blocks as f64 / writes as f64);
    assert!(blocks > 7 * writes);
    client.end();
}

/// A device and a load of any speed, with checkpoints that begin when `log_fill_percent` of the log
/// is in use: the longest wait, as a part of what the device needs for what may be in flight.
fn longest_wait(seed: u64, log_fill_percent: u8) -> f64 {
    let mut random = SimRandom::new(seed);
    let device = Device {
        nanos_each: 20_000 + random.below(200_000) as u64,
        bytes_per_second: (5 + random.below(95) as u64) << 20,
        flush_nanos: random.below(20_000_000) as u64,
    };
    let mut config = config();
    config.log.segments = 3 + random.below(4) as u32;
    config.log_fill_percent = log_fill_percent;
    config.overlay_fill_percent = [25, 50, 90][random.below(3)];
    let keys = 500 + random.below(20_000);
    let mut client = Client::new(config, device, keys, 50 + random.below(900));
    let each_turn = 1 + random.below(64);
    client.run(1_000, each_turn);
    let (seen, bound) = (client.run(2_000, each_turn), client.in_flight_nanos());
    let part = seen.wait_nanos_max as f64 / bound as f64;
    println!("seed {seed}: {part:.2} of {:.1} ms, {device:?} {seen:?}", bound as f64 / 1e6);
    assert!(seen.taken.iter().sum::<u64>() > 0);
    client.end();
    part
}

#[test]
fn at_any_speed_a_write_waits_at_most_for_what_the_device_has_in_flight() {
    let waits = (0..14).map(|seed| longest_wait(seed, [25, 50][seed as usize % 2]));
    let longest = waits.fold(0.0, f64::max);
    println!("longest wait: {longest:.2} of what may be in flight");
    assert!(longest <= 1.0);
}

/// Then there is little room to spread the writes over that come meanwhile.
#[test]
fn checkpoints_that_begin_in_a_nearly_full_log_make_writes_wait_longer_but_nothing_is_stuck() {
    let longest = [23, 36, 57].map(|seed| longest_wait(seed, 90)).into_iter().fold(0.0, f64::max);
    println!("longest wait: {longest:.2} of what may be in flight");
    assert!(longest < 4.0);
}
