//! Durable puts and cached gets, against redis and against the floor below each.

use crate::compare::contest::Contest;
use crate::compare::{entrants, start_all};
use crate::error::BenchError;
use crate::fleet::Store;
use crate::workload::WorkloadName;

use super::Bench;

/// Puts that are on the device before they are acknowledged.
pub(super) fn puts(bench: &mut Bench<'_>) -> Result<(), BenchError> {
    bench.begin(
        "Durable puts",
        "Every store acknowledges a write when the device has it: redis with `appendfsync always`, \
         the floor with RWF_DSYNC and nothing but a ring and a log.",
    );
    against(bench, WorkloadName::Puts, Store::FloorLog)
}

/// Gets of what is in memory.
pub(super) fn gets(bench: &mut Bench<'_>) -> Result<(), BenchError> {
    bench.begin(
        "Cached gets",
        "All records are in memory. The floor answers every frame with 48 bytes at once.",
    );
    against(bench, WorkloadName::Gets, Store::FloorEcho)
}

fn against(bench: &mut Bench<'_>, workload: WorkloadName, floor: Store) -> Result<(), BenchError> {
    let args = &bench.args.bench;
    let stores = [Store::Redis, Store::Forebay, floor.clone()];
    let started = start_all(&stores, &workload.into(), args, &args.place())?;
    bench.say_commands(&started.lines);
    for &depth in &bench.args.depths {
        let title =
            format!("{}, {} connections, depth {depth}", workload.label(), args.connections);
        bench.say(&format!("### {title}\n"));
        let load = args.load_words(workload, depth);
        let contest = bench.hold(&title, &entrants(&started.members, &load))?;
        bench.say(&verdict(&contest, &floor.to_string()));
    }
    Ok(())
}

/// The ratios that the claims are about.
fn verdict(contest: &Contest, floor: &str) -> String {
    let Some(forebay) = contest.summary("forebay") else { return String::new() };
    let to = |name: &str| {
        let other = contest.summary(name)?;
        let ratio = forebay.ops_s.median / other.ops_s.median;
        let tail = forebay.p99_us.median / other.p99_us.median;
        Some(format!("{ratio:.2} times {name}'s throughput at {tail:.2} times its p99"))
    };
    let parts: Vec<String> = ["redis", floor].into_iter().filter_map(to).collect();
    format!("Forebay: {}.\n", parts.join("; "))
}
