//! The log against the device below it.
//!
//! Puts of large values make the log the limit: few records, overwritten, so that checkpoints
//! have next to nothing to write. What the node's counters say it made durable, in bytes a second
//! and in bytes a batch, is compared with the device: the same number of bytes a write, the same
//! number in flight, RWF_DSYNC, on a prewritten file, with no network and nobody to answer. Both
//! take turns, and the bare ring and log takes part as the floor.

use std::path::Path;

use forebay_net::node::config::BATCHES_IN_FLIGHT_MAX;
use forebay_storage::block::BLOCK_BYTES;

use crate::compare::contest;
use crate::compare::statistics::Spread;
use crate::compare::table::{Table, bytes};
use crate::device::{self, Pattern};
use crate::error::BenchError;
use crate::fleet::process::OwnedDir;
use crate::fleet::{Member, Store};

use super::{Bench, published};

/// Length of values: the log's own cost for each byte, not the cost of requests, shall count.
const VALUE_BYTES: u64 = 16 << 10;
const RECORDS: u64 = 256;
/// The file that the device is measured on.
const FILE_BYTES: u64 = 256 << 20;

/// Bytes a second of log, of the bare log, of the device.
pub(super) fn log(bench: &mut Bench<'_>) -> Result<(), BenchError> {
    bench.begin(
        "The log against the device",
        &format!(
            "Puts of {VALUE_BYTES} B values. Forebay: bytes that its log made durable, from \
             `/metrics`. Device: durable writes (RWF_DSYNC) of forebay's mean batch in that round, \
             {BATCHES_IN_FLIGHT_MAX} in flight, on a prewritten file."
        ),
    );
    let args = &bench.args.bench;
    let forebay = Member::start(&Store::Forebay, "forebay", &args.place())?;
    let floor = Member::start(&Store::FloorLog, "floor-log", &args.place())?;
    let data = format!("--records {RECORDS} --value-bytes {VALUE_BYTES}{}", bench.pin());
    contest::load(&format!("load --target {} {data}", forebay.url))?;
    let run = |member: &Member| {
        format!(
            "run --target {} --workload puts {data} --connections {} --depth 4 --duration {} \
             --warmup {}",
            member.url, args.connections, args.duration, args.warmup
        )
    };
    let dir = OwnedDir::create(&args.data_dir, "device")?;
    let path = dir.path().join("log");
    prewrite(&path)?;
    let (mut logs, mut floors, mut devices, mut batches) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..args.rounds {
        floor.pause();
        forebay.resume();
        let before = published(&forebay)?;
        let ran = contest::run(&run(&forebay))?;
        let after = published(&forebay)?;
        let seconds = ran.duration_s + ran.warmup_s;
        forebay.pause();
        let written = after.grown(&before, "log_written_bytes_total");
        let batch = written / after.grown(&before, "log_batches_total").max(1.0);
        let blocks = (batch / BLOCK_BYTES as f64).round().max(1.0) as usize;
        floor.resume();
        let floor_run = contest::run(&run(&floor))?;
        floor.pause();
        let pattern = Pattern::DurableWrites { blocks };
        let device = device::measure(&path, pattern, BATCHES_IN_FLIGHT_MAX, bench.duration())?;
        logs.push(written / seconds);
        batches.push(batch);
        floors.push(floor_run.achieved_ops_s * VALUE_BYTES as f64);
        devices.push(device.bytes_s);
    }
    forebay.resume();
    bench.say_commands([
        &forebay.command,
        &floor.command,
        &contest::shown(&run(&forebay)),
        &contest::shown(&run(&floor)),
    ]);
    let mut table = Table::new(["median of rounds", "MB/s", "min–max", "by the device", "min–max"]);
    for (name, values) in [
        ("device alone", &devices),
        ("forebay's log", &logs),
        ("bare ring and log, values alone", &floors),
    ] {
        let (rate, ratio) = (Spread::of(values), Spread::ratio(values, &devices));
        table.row([
            name.to_owned(),
            format!("{:.1}", rate.median / 1e6),
            format!("{:.1}–{:.1}", rate.min / 1e6, rate.max / 1e6),
            format!("{:.2}", ratio.median),
            format!("{:.2}–{:.2}", ratio.min, ratio.max),
        ]);
    }
    bench.say(&table.render());
    bench.say(&format!("Mean batch: {}.\n", bytes(Spread::of(&batches).median)));
    Ok(())
}

/// A file of [`FILE_BYTES`] that later writes only overwrite.
fn prewrite(path: &Path) -> Result<(), BenchError> {
    forebay_storage::directory::create_prewritten(path, FILE_BYTES, &mut |_| {}).map(drop).map_err(
        |error| BenchError::File { path: path.to_owned(), source: std::io::Error::other(error) },
    )
}
