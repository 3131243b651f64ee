//! Ten times more data than memory: does the memory stay bounded, and do reads keep up with the
//! device?

use forebay_net::node::config::CONSTANT_BYTES_PER_SHARD;

use crate::compare::contest;
use crate::compare::statistics::{Spread, quotient};
use crate::compare::table::{Table, bytes, micros, whole};
use crate::device::{self, Pattern};
use crate::error::BenchError;
use crate::fleet::{Member, Store};
use crate::sys;

use super::{Bench, published, settled};

/// Length of values: pages with a few items, and ten times the memory in reasonable time.
const VALUE_BYTES: u64 = 1000;
/// `user` and digits.
const KEY_BYTES: u64 = 24;
/// Data by memory.
const TIMES: u64 = 10;
/// Fewest reads in flight, on the device and as connections; measured twice and four times, too.
const DEPTH: u32 = 32;

/// The rounds of one number of connections.
struct Series {
    connections: u32,
    /// Of the device with as many reads in flight.
    devices: Vec<f64>,
    device_p50s: Vec<f64>,
    rates: Vec<f64>,
    /// For each get.
    misses: Vec<f64>,
    p50s: Vec<f64>,
    p99s: Vec<f64>,
}

impl Series {
    fn of(connections: u32) -> Series {
        let none = Vec::new;
        Series {
            connections,
            devices: none(),
            device_p50s: none(),
            rates: none(),
            misses: none(),
            p50s: none(),
            p99s: none(),
        }
    }
}

/// Resident peak, and uniform gets beside the device's random reads.
pub(super) fn memory(bench: &mut Bench<'_>) -> Result<(), BenchError> {
    let memory_bytes = bench.args.memory_mib << 20;
    let records = TIMES * memory_bytes / (KEY_BYTES + VALUE_BYTES);
    bench.begin(
        "Ten times more data than memory",
        &format!(
            "`--memory {} MiB`, {records} records of {VALUE_BYTES} B, uniform gets. Device: random \
             4 KiB reads of the node's own pages file. Both take turns.",
            bench.args.memory_mib
        ),
    );
    let args = &bench.args.bench;
    let memory = format!("{}MiB", bench.args.memory_mib);
    let member =
        Member::start(&Store::Forebay, "forebay", &args.place().with(["--memory", &memory]))?;
    let pin = bench.pin();
    let data = format!("--records {records} --value-bytes {VALUE_BYTES}{pin}");
    let load = format!("load --target {} {data}", member.url);
    let loaded = contest::load(&load)?;
    settled(&member)?;
    let pages = member.dir().expect("it was started here").join("data/shard-0/pages");
    let run = |connections: u32| {
        format!(
            "run --target {} --workload gets {data} --connections {connections} --depth 1 \
             --duration {} --warmup {}",
            member.url, args.duration, args.warmup
        )
    };
    let mut series = [DEPTH, 2 * DEPTH, 4 * DEPTH].map(Series::of);
    for _ in 0..args.rounds {
        for Series { connections, devices, device_p50s, rates, misses, p50s, p99s } in &mut series {
            member.pause();
            let depth = *connections;
            let device = device::measure(&pages, Pattern::RandomReads, depth, bench.duration())?;
            devices.push(device.ops_s);
            device_p50s.push(device.p50_us);
            member.resume();
            let before = published(&member)?;
            let report = contest::run(&run(*connections))?;
            let after = published(&member)?;
            let missed = after.grown(&before, "cache_misses_total");
            rates.push(report.achieved_ops_s);
            misses.push(quotient(missed, after.grown(&before, "requests_total")));
            p50s.push(report.overall.p50_us);
            p99s.push(report.overall.p99_us);
        }
    }
    let peak = member.pids().filter_map(sys::resident_peak_bytes).sum::<u64>();
    let stated = memory_bytes + CONSTANT_BYTES_PER_SHARD;
    bench.say_commands([
        &member.command,
        &contest::shown(&load),
        &contest::shown(&run(DEPTH)),
        &contest::shown(&run(2 * DEPTH)),
        &contest::shown(&run(4 * DEPTH)),
    ]);
    let mut table = Table::new([
        "median of rounds",
        "reads/s",
        "min–max",
        "by device at 32",
        "by device at same",
        "misses/get",
        "p50 us",
        "p99 us",
    ]);
    let reference = &series[0].devices;
    for Series { connections, devices, device_p50s, .. } in &series {
        let rate = Spread::of(devices);
        table.row([
            format!("device, {connections} in flight"),
            whole(rate.median),
            format!("{}–{}", whole(rate.min), whole(rate.max)),
            format!("{:.2}", Spread::ratio(devices, reference).median),
            "1.00".to_owned(),
            "-".to_owned(),
            micros(Spread::of(device_p50s).median),
            "-".to_owned(),
        ]);
    }
    for Series { connections, devices, rates, misses, p50s, p99s, .. } in &series {
        let rate = Spread::of(rates);
        table.row([
            format!("gets, {connections} connections"),
            whole(rate.median),
            format!("{}–{}", whole(rate.min), whole(rate.max)),
            format!("{:.2}", Spread::ratio(rates, reference).median),
            format!("{:.2}", Spread::ratio(rates, devices).median),
            format!("{:.2}", Spread::of(misses).median),
            micros(Spread::of(p50s).median),
            micros(Spread::of(p99s).median),
        ]);
    }
    bench.say(&table.render());
    bench.say(&format!(
        "Resident peak, the load included: {} of {} stated ({} + {} a shard): {}. Loaded at {} \
         records a second.\n",
        bytes(peak as f64),
        bytes(stated as f64),
        bytes(memory_bytes as f64),
        bytes(CONSTANT_BYTES_PER_SHARD as f64),
        if peak <= stated { "within" } else { "**EXCEEDED**" },
        whole(loaded.records as f64 / loaded.seconds)
    ));
    Ok(())
}
