//! Bare servers: what the ring, and the ring with a log, can do before a store does anything.
//!
//! A claim such as "80 % of a bare ring echo" needs the bare ring echo in the same run, on the same
//! machine, driven by the same generator. [`Mode::Echo`] is the floor under a cached Get,
//! [`Mode::Log`] under a durable Put. The wire format is in `frames`.

mod echo;
mod frames;
mod log;
mod replies;
#[cfg(test)]
mod tests;

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use forebay_net::machine::Machine;
use forebay_net::ring::{
    DurableMode, Ring, RingConfig, RingCounters, RingError, StopHandle, open_direct,
};
use forebay_storage::block::{BLOCK_BYTES, BlockBuf, ShardFile};

/// Which floor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Mode {
    /// Reply at once.
    Echo,
    /// Reply when the frame is durable in a log.
    Log,
}

/// How the log's writes are made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Durable {
    /// RWF_DSYNC.
    Dsync,
    /// A linked fdatasync.
    Fdatasync,
}

/// Arguments of `forebay-bench floor`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct FloorArgs {
    /// Echo, or echo after a durable log write.
    #[arg(long, value_enum)]
    pub mode: Mode,
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1:7400")]
    pub listen: SocketAddr,
    /// The log's file (mode log); made and filled with zeros if it is not there.
    #[arg(long, required_if_eq("mode", "log"))]
    pub file: Option<PathBuf>,
    /// Length of a new log file.
    #[arg(long, default_value_t = 256 << 20)]
    pub file_bytes: u64,
    /// Log batches handed to the device at once.
    #[arg(long, default_value_t = 4)]
    pub batches_in_flight: usize,
    /// How a batch is made durable.
    #[arg(long, value_enum, default_value = "dsync")]
    pub durable: Durable,
    /// Pin the server to this core.
    #[arg(long)]
    pub core: Option<usize>,
    /// Spin this long before sleeping.
    #[arg(long, default_value_t = 0)]
    pub busy_poll_micros: u64,
    /// Print counters to stderr every so many seconds.
    #[arg(long)]
    pub report_every: Option<u64>,
}

/// Why a floor server could not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FloorError {
    /// See the ring's error.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// Check the path and the free space.
    #[error("cannot prepare the log file {path}: {source}")]
    Prepare {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// Give a longer --file-bytes.
    #[error("the log file holds {bytes} bytes; a multiple of 4096 and at least {min} are needed")]
    FileLength {
        /// What it holds.
        bytes: u64,
        /// One batch for each in flight, and one more.
        min: u64,
    },
}

/// What a floor server has served.
#[derive(Debug, Default)]
pub(crate) struct FloorCounters {
    /// Requests replied to.
    pub requests: AtomicU64,
    /// Log batches made durable.
    pub batches: AtomicU64,
}

fn add(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Relaxed) + n, Relaxed);
}

/// Runs a floor server until it is killed; prints `ready native=ADDR` when it serves.
pub(crate) fn run_floor(args: &FloorArgs) -> Result<(), FloorError> {
    let report_every = args.report_every.map(Duration::from_secs);
    serve(args, |addr, _, ring, floor| {
        println!("ready native={addr}");
        let _ = std::io::stdout().flush();
        if let Some(every) = report_every {
            std::thread::spawn(move || report(every, &ring, &floor));
        }
    })
}

/// Runs a floor server; `ready` is called once, when it listens.
fn serve(
    args: &FloorArgs,
    ready: impl FnOnce(SocketAddr, StopHandle, Arc<RingCounters>, Arc<FloorCounters>),
) -> Result<(), FloorError> {
    let mut config = RingConfig {
        core: args.core,
        listen: vec![args.listen],
        durable: match args.durable {
            Durable::Dsync => DurableMode::Dsync,
            Durable::Fdatasync => DurableMode::LinkedFdatasync,
        },
        busy_poll: Duration::from_micros(args.busy_poll_micros),
        ..RingConfig::default()
    };
    let counters = Arc::new(FloorCounters::default());
    match (&args.file, args.mode) {
        (Some(path), Mode::Log) => {
            let (file, file_bytes) = prepare_log(path, args)?;
            config.files.push((ShardFile::Log, file));
            let mut pool: Vec<BlockBuf> = (0..args.batches_in_flight + 2)
                .map(|_| BlockBuf::zeroed(log::BATCH_BLOCKS))
                .collect();
            let mut ring = Ring::new(config)?;
            ring.register_buffers(&mut pool)?;
            let in_flight = args.batches_in_flight;
            let machine = log::EchoLog::new(pool, in_flight, file_bytes, Arc::clone(&counters));
            drive(&mut ring, machine, counters, ready)
        }
        _ => {
            let mut ring = Ring::new(config)?;
            let machine = echo::Echo::new(Arc::clone(&counters));
            drive(&mut ring, machine, counters, ready)
        }
    }
}

fn drive(
    ring: &mut Ring,
    mut machine: impl Machine,
    counters: Arc<FloorCounters>,
    ready: impl FnOnce(SocketAddr, StopHandle, Arc<RingCounters>, Arc<FloorCounters>),
) -> Result<(), FloorError> {
    ready(ring.local_addr(0)?, ring.stop_handle(), ring.counters(), counters);
    Ok(ring.run(&mut machine)?)
}

/// Opens the log, filling it with zeros first: overwrites need no file-system metadata.
fn prepare_log(path: &Path, args: &FloorArgs) -> Result<(std::fs::File, u64), FloorError> {
    use std::os::unix::fs::FileExt;
    let min = (args.batches_in_flight as u64 + 1) * (log::BATCH_BLOCKS * BLOCK_BYTES) as u64;
    let file = open_direct(path, true)?;
    let failed = |source| FloorError::Prepare { path: path.to_owned(), source };
    let present = file.metadata().map_err(failed)?.len();
    let bytes = if present == 0 { args.file_bytes } else { present };
    if bytes < min || !bytes.is_multiple_of(BLOCK_BYTES as u64) {
        return Err(FloorError::FileLength { bytes, min });
    }
    if present == 0 {
        let zeros = BlockBuf::zeroed(256);
        let mut written = 0;
        while written < bytes {
            let step = (bytes - written).min(zeros.len() as u64);
            file.write_all_at(&zeros[..step as usize], written).map_err(failed)?;
            written += step;
        }
        file.sync_all().map_err(failed)?;
    }
    Ok((file, bytes))
}

/// Prints requests a second and the ring's share of each request.
fn report(every: Duration, ring: &RingCounters, floor: &FloorCounters) {
    let sample = || {
        (
            floor.requests.load(Relaxed),
            floor.batches.load(Relaxed),
            ring.enters.load(Relaxed),
            ring.turns.load(Relaxed),
            ring.turn_nanos_total.load(Relaxed),
            cpu_micros(),
        )
    };
    let mut before = sample();
    loop {
        std::thread::sleep(every);
        let after = sample();
        let requests = (after.0 - before.0).max(1) as f64;
        eprintln!(
            "requests/s {:.0}, batches/s {:.0}, enters/request {:.3}, requests/turn {:.1}, \
             turn ns/request {:.0}, cpu us/request {:.2}",
            requests / every.as_secs_f64(),
            (after.1 - before.1) as f64 / every.as_secs_f64(),
            (after.2 - before.2) as f64 / requests,
            requests / (after.3 - before.3).max(1) as f64,
            (after.4 - before.4) as f64 / requests,
            (after.5 - before.5) as f64 / requests,
        );
        before = after;
    }
}

/// User and system time of the process in microseconds, from /proc (clock ticks of 10 ms).
fn cpu_micros() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The command's name ends with the last parenthesis; utime and stime are fields 14 and 15.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum::<u64>() * 10_000
}
