//! Does the cost of a request, of a byte stored and of a byte written grow with the number of items?
//!
//! | figure | is |
//! |---|---|
//! | space | live bytes of the pages file (its length less free blocks) by bytes of keys and values |
//! | writes | bytes written to the device, log and pages, by bytes of keys and values put |
//!
//! Both are taken when a checkpoint has brought everything into the tree, so that none is owed. The
//! log's own file has a fixed length, whatever the number of items, and is left out of the space.

use forebay_storage::block::BLOCK_BYTES;

use crate::compare::contest;
use crate::compare::statistics::quotient;
use crate::compare::table::{Table, micros, whole};
use crate::error::BenchError;
use crate::fleet::metrics::Metrics;
use crate::fleet::{Member, Store};
use crate::report::json::Report;

use super::{Bench, published, settled};

/// Numbers of items.
const SIZES: [u64; 3] = [1000, 100_000, 10_000_000];
/// `user` and digits.
const KEY_BYTES: u64 = 24;
/// A figure waits for a checkpoint at most this long.
const CHECKPOINT_SECONDS: &str = "10";

/// Throughput and amplification at each size.
pub(super) fn scale(bench: &mut Bench<'_>) -> Result<(), BenchError> {
    let args = &bench.args.bench;
    let memory = format!("{}MiB", bench.args.scale_memory_mib);
    bench.begin(
        "Cost as the number of items grows",
        &format!(
            "A fresh node with `--memory {memory}` for each size; {} connections. Space: live bytes \
             of the pages file by bytes of keys and values. Writes: bytes written to the device (log \
             and pages) by bytes of keys and values, of the load and of uniform puts at the largest \
             depth.",
            args.connections
        ),
    );
    let mut speed = Table::new(["items", "load", "puts/s", "p99 us", "gets/s", "p99 us"]);
    let mut cost = Table::new(["items", "space", "writes, load", "writes, puts", "overwritten"]);
    let mut commands = Vec::new();
    let place =
        args.place().with(["--memory", &memory, "--checkpoint-seconds", CHECKPOINT_SECONDS]);
    for &items in SIZES.iter().filter(|&&items| items <= bench.args.scale_max) {
        let member = Member::start(&Store::Forebay, "forebay", &place)?;
        commands.push(member.command.clone());
        let data = format!("--records {items} --value-bytes {}{}", args.value_bytes, bench.pin());
        let empty = published(&member)?;
        let words = format!("load --target {} {data}", member.url);
        commands.push(contest::shown(&words));
        let loaded = contest::load(&words)?;
        let full = settled(&member)?;
        let item_bytes = (KEY_BYTES + args.value_bytes) as f64;
        let user_bytes = items as f64 * item_bytes;
        let mut last = full.clone();
        let mut runs = |workload: &str| -> Result<(Vec<String>, f64, f64), BenchError> {
            let (mut cells, mut amplification, mut puts) = (Vec::new(), 0.0, 0.0);
            for &depth in &bench.args.depths {
                let words = format!(
                    "run --target {} --workload {workload} {data} --connections {} --depth {depth} \
                     --duration {} --warmup {}",
                    member.url, args.connections, args.duration, args.warmup
                );
                commands.push(contest::shown(&words));
                let report: Report = contest::run(&words)?;
                cells.push((report.achieved_ops_s, report.overall.p99_us));
                let after =
                    if workload == "puts" { settled(&member)? } else { published(&member)? };
                puts = after.grown(&last, "requests_total");
                amplification = quotient(written(&after, &last), puts * item_bytes);
                last = after;
            }
            let join = |cells: Vec<String>| cells.join(" / ");
            let rates = join(cells.iter().map(|cell| whole(cell.0)).collect());
            let tails = join(cells.iter().map(|cell| micros(cell.1)).collect());
            Ok((vec![rates, tails], amplification, puts))
        };
        let (put_cells, amplification, puts) = runs("puts")?;
        let (get_cells, ..) = runs("gets")?;
        let live =
            full.shard("pages_file_bytes") - full.shard("pages_free_blocks") * BLOCK_BYTES as f64;
        speed.row([
            whole(items as f64),
            format!("{}/s", whole(loaded.records as f64 / loaded.seconds)),
            put_cells[0].clone(),
            put_cells[1].clone(),
            get_cells[0].clone(),
            get_cells[1].clone(),
        ]);
        cost.row([
            whole(items as f64),
            format!("{:.2}", live / user_bytes),
            format!("{:.2}", written(&full, &empty) / user_bytes),
            format!("{amplification:.2}"),
            format!("{:.1} times", puts / items as f64),
        ]);
    }
    let depths: Vec<String> = bench.args.depths.iter().map(u32::to_string).collect();
    bench.say_commands(&commands);
    bench.say(&format!("Depths {}:\n\n{}", depths.join(" / "), speed.render()));
    bench.say(&cost.render());
    Ok(())
}

/// Bytes that went to the device.
fn written(after: &Metrics, before: &Metrics) -> f64 {
    after.grown(before, "log_written_bytes_total")
        + after.grown(before, "checkpoint_written_bytes_total")
}
