//! What the device does under the patterns of a shard, with no store in between: the other half of
//! every claim about log throughput and reads larger than memory.
//!
//! One machine on this project's ring keeps `depth` operations in flight, as a shard's log and its
//! page reads do; `forebay probe-disk` measures the same patterns with a loop of its own, over all
//! sizes and depths.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use forebay_core::time::Nanos;
use forebay_net::machine::{Effects, Machine};
use forebay_net::ring::{DurableMode, Ring, RingConfig, open_direct};
use forebay_storage::block::{
    BLOCK_BYTES, BlockBuf, DiskDone, DiskError, DiskOp, Durability, OpId, ShardFile,
};
use hdrhistogram::Histogram;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use crate::error::BenchError;
use crate::generator::latency_histogram;

/// What is done over and over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pattern {
    /// A 4 KiB block at a random place.
    RandomReads,
    /// So many blocks after the last ones, durable (RWF_DSYNC), around the file.
    DurableWrites {
        /// Blocks of each write.
        blocks: usize,
    },
}

/// What came of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    pub(crate) ops_s: f64,
    pub(crate) bytes_s: f64,
    pub(crate) p50_us: f64,
}

/// Keeps `depth` operations of `pattern` in flight on the file at `path` for `duration`.
pub(crate) fn measure(
    path: &Path,
    pattern: Pattern,
    depth: u32,
    duration: Duration,
) -> Result<Rate, BenchError> {
    let file = open_direct(path, false)?;
    let failed = |source| BenchError::File { path: path.to_owned(), source };
    let file_bytes = file.metadata().map_err(failed)?.len();
    let mut prober = Prober::new(pattern, depth, file_bytes, duration);
    let mut ring = Ring::new(config(file))?;
    ring.run(&mut prober)?;
    match prober.failure {
        Some(DiskError { errno }) => Err(failed(std::io::Error::from_raw_os_error(errno))),
        None => Ok(prober.rate()),
    }
}

/// A ring of one file, durable by RWF_DSYNC.
pub(crate) fn config(file: File) -> RingConfig {
    RingConfig {
        connections_max: 1,
        files: vec![(ShardFile::Log, file)],
        durable: DurableMode::Dsync,
        ..RingConfig::default()
    }
}

struct Prober {
    pattern: Pattern,
    /// Of one operation.
    op_blocks: u64,
    /// Operations that fit into the file.
    places: u64,
    place: u64,
    rng: SmallRng,
    idle: Vec<(OpId, BlockBuf)>,
    /// By operation id.
    started: Vec<Nanos>,
    duration: Nanos,
    began: Option<Nanos>,
    /// When the last operation ended.
    last: Nanos,
    depth: usize,
    nanos: Histogram<u64>,
    failure: Option<DiskError>,
}

impl Prober {
    fn new(pattern: Pattern, depth: u32, file_bytes: u64, duration: Duration) -> Prober {
        let op_blocks = match pattern {
            Pattern::RandomReads => 1,
            Pattern::DurableWrites { blocks } => blocks,
        };
        let places = file_bytes / (op_blocks * BLOCK_BYTES) as u64;
        assert!(places >= u64::from(depth) && depth > 0, "a file for all operations in flight");
        let buf = |id: u32| {
            let mut buf = BlockBuf::zeroed(op_blocks);
            // Not zeros: some devices and hypervisors treat those as holes.
            for (place, byte) in buf.iter_mut().enumerate() {
                *byte = (place as u32).wrapping_mul(2_654_435_761).wrapping_add(id) as u8;
            }
            (OpId(u64::from(id)), buf)
        };
        Prober {
            pattern,
            op_blocks: op_blocks as u64,
            places,
            place: 0,
            rng: SmallRng::seed_from_u64(1),
            idle: (0..depth).map(buf).collect(),
            started: vec![Nanos(0); depth as usize],
            duration: Nanos(duration.as_nanos() as u64),
            began: None,
            last: Nanos(0),
            depth: depth as usize,
            nanos: latency_histogram(),
            failure: None,
        }
    }

    fn rate(&self) -> Rate {
        let nanos = self.last.0 - self.began.unwrap_or(self.last).0;
        let ops_s = self.nanos.len() as f64 * 1e9 / nanos.max(1) as f64;
        Rate {
            ops_s,
            bytes_s: ops_s * (self.op_blocks * BLOCK_BYTES as u64) as f64,
            p50_us: self.nanos.value_at_quantile(0.5) as f64 / 1e3,
        }
    }

    fn start(&mut self, op: OpId, buf: BlockBuf, now: Nanos, fx: &mut Effects) {
        self.started[op.0 as usize] = now;
        let file = ShardFile::Log;
        let step = self.op_blocks * BLOCK_BYTES as u64;
        let disk = match self.pattern {
            Pattern::RandomReads => {
                let offset_bytes = self.rng.random_range(0..self.places) * step;
                DiskOp::Read { op, file, offset_bytes, buf }
            }
            Pattern::DurableWrites { .. } => {
                self.place = (self.place + 1) % self.places;
                let (offset_bytes, bytes) = (self.place * step, buf.len());
                let durability = Durability::Durable;
                DiskOp::Write { op, file, offset_bytes, buf, bytes, durability }
            }
        };
        fx.disk.push(disk);
    }
}

impl Machine for Prober {
    fn disk_done(&mut self, done: DiskDone, now: Nanos) {
        match done.result {
            Ok(()) => self.nanos.saturating_record(now.0 - self.started[done.op.0 as usize].0),
            Err(error) => self.failure = Some(error),
        }
        self.last = now;
        self.idle.push((done.op, done.buf.expect("reads and writes bring their buffers back")));
    }
    fn turn(&mut self, now: Nanos, fx: &mut Effects) {
        let began = *self.began.get_or_insert(now);
        if now.0 - began.0 < self.duration.0 && self.failure.is_none() {
            while let Some((op, buf)) = self.idle.pop() {
                self.start(op, buf, now, fx);
            }
        } else if self.idle.len() == self.depth {
            fx.stop = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use forebay_net::ring::testing::{require_direct, require_io_uring};

    use super::*;

    #[test]
    fn both_patterns_run_on_a_real_file() {
        let dir = tempfile::tempdir_in(".").unwrap();
        if !require_io_uring() || !require_direct(dir.path()) {
            return;
        }
        let path = dir.path().join("file");
        std::fs::write(&path, vec![1; 1 << 20]).unwrap();
        for pattern in [Pattern::RandomReads, Pattern::DurableWrites { blocks: 2 }] {
            let rate = measure(&path, pattern, 4, Duration::from_millis(30)).unwrap();
            assert!(rate.ops_s > 0.0 && rate.p50_us > 0.0, "{pattern:?}: {rate:?}");
            assert!(rate.bytes_s >= rate.ops_s * 4096.0);
        }
        let absent = measure(&dir.path().join("x"), Pattern::RandomReads, 1, Duration::ZERO);
        assert!(absent.is_err());
    }
}
