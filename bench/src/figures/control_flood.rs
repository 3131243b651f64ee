//! Does a flood of the operator HTTP reach the requests?
//!
//! The shard has the server core; the node's other lanes, the flood and the load generator share the
//! client's core. There the generator runs first (SCHED_FIFO), or what would be measured is how long
//! it waits for its core. In the control run threads that only burn CPU take the flood's place.
//!
//! What this cannot separate: a disk whose completions the kernel handles on the flooded core. A
//! durable write there passes through several kernel threads (softirq, kblockd, dio), which wait for
//! the core like everyone else; then puts suffer from both, and gets show the store alone. The
//! report says where completions go; `rq_affinity` 2, or a queue for each core, brings them back to
//! the shard's.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::compare::beside;
use crate::compare::contest::{Beside, Entrant};
use crate::compare::statistics::quotient;
use crate::error::BenchError;
use crate::fleet::{Member, Store};
use crate::sys;
use crate::workload::WorkloadName;

use super::Bench;

/// Share of the peak that is offered.
const OF_PEAK: f64 = 0.4;

/// p99.9 with nothing beside, with a hog, with a flood.
pub(super) fn control_flood(bench: &mut Bench<'_>) -> Result<(), BenchError> {
    let threads = bench.args.flood_threads;
    let realtime = sys::may_run_first();
    bench.begin(
        "A flooded control lane",
        &format!(
            "The shard is on a core of its own. {threads} threads on the other core ask the \
             operator HTTP for `/metrics` without pause, each time on a new connection; in the \
             control run {threads} threads burn that core instead. {}",
            match realtime {
                true =>
                    "The load generator runs before them there (SCHED_FIFO), so that it does not \
                     measure its own waiting.",
                false =>
                    "The load generator shares that core with them as an equal (SCHED_FIFO was \
                     refused), so its own waiting is in the figures.",
            }
        ),
    );
    let args = &bench.args.bench;
    // The node pins its shard by itself, as on a real machine: its other lanes use the other core.
    let place = args.place().unpinned();
    let member = Member::start(&Store::Forebay, "forebay", &place)?;
    let fill = args.fill(&member)?;
    bench.say_commands([&member.command, &fill]);
    let core = args.client();
    let http = member.http.expect("a started forebay has an operator HTTP");
    for workload in [WorkloadName::Puts, WorkloadName::Gets] {
        let words = args.load_words(workload, 1);
        let peak = super::open_loop::peak(&member, &words)?;
        let rate = (peak * OF_PEAK).max(1.0) as u64;
        let first = if realtime { " --realtime" } else { "" };
        let load = format!("{words} --rate {rate}{first}");
        let answered = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&answered);
        let besides: [(&str, Option<Beside<'_>>); 3] = [
            ("CPU hog", Some(Box::new(move || beside::hog(threads, core)))),
            ("flood", Some(Box::new(move || beside::flood(threads, core, http, &counted)))),
            ("neither", None),
        ];
        let entrants = besides.map(|(name, beside)| Entrant {
            name: name.to_owned(),
            member: &member,
            load: load.clone(),
            beside,
            is_witness: false,
        });
        let title = format!("{}, open loop, {rate} a second", workload.label());
        bench.say(&format!("### {title}\n"));
        let contest = bench.hold(&title, &entrants)?;
        if let (Some(hog), Some(flood)) = (contest.summary("CPU hog"), contest.summary("flood")) {
            let seconds = (args.duration + args.warmup) * u64::from(args.rounds);
            bench.say(&format!(
                "p99.9 under the flood is {:.2} times that under the hog; the flood had {:.0} \
                 answers a second.\n",
                quotient(flood.p999_us.median, hog.p999_us.median),
                answered.load(Relaxed) as f64 / seconds as f64
            ));
        }
    }
    Ok(())
}
