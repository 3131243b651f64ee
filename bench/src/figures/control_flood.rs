//! Does a flood of the operator HTTP reach the requests?
//!
//! ```text
//!   core 0   shard
//!   core 1   load generator (first, SCHED_FIFO) · control lane · the flood · or one of its controls
//! ```
//!
//! Three controls take the flood's place on its core: nothing; the same flood, as many requests a
//! second on as many connections for the same page, of an HTTP server that has nothing to do with
//! the store; and a thread that burns the core whole. What the flood of the node costs beyond the
//! flood of the other server is the node's own doing; what both cost is the machine's.
//!
//! The rate is a tenth of what the operator HTTP can answer: beyond, the core is full, and what is
//! seen is the kernel dividing it. A durable write needs that core too where the disk's interrupt is
//! bound to it: its completion passes through softirq and a kernel work queue there, ordinary threads
//! that wait like everyone else. The report says where the interrupts went. Gets need no disk and
//! show the store alone.
//!
//! `--flood-percent 100` shows that end. Seen on two cores with the disk's one interrupt on the flooded
//! one (Linux 6.18): gets at a tenth of the peak had the same p99.9 whatever was beside them, and puts
//! stopped for seconds under the flood of the node and under that of the other server alike. Then
//! `ksoftirqd/1`, `kblockd` and the `dio` workers of that core were runnable and waited for it half a
//! second to a second and a half of every second (/proc/PID/schedstat), while the shard slept on its own
//! core and the generator had nothing to do. So what stops puts there is neither the control lane nor the
//! shard: the device's completions wait for a core that has no time left. A disk with a queue for each
//! core, or `rq_affinity` 2, takes them off it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::compare::beside::{self, Flood};
use crate::compare::contest::{Beside, Contest, Entrant};
use crate::compare::statistics::Spread;
use crate::error::BenchError;
use crate::fleet::{Member, Place, Store};
use crate::sys;
use crate::workload::WorkloadName;

use super::Bench;
use super::interrupts::DiskInterrupts;

/// Share of the store's peak that is offered to it. The generator has the flooded core too, and goes
/// first there: much more, and it leaves the others no core to be seen on, and is the limit itself.
const OF_PEAK: f64 = 0.1;
/// How long the flood's own peak is looked for.
const PEAK_TIME: Duration = Duration::from_secs(2);
/// What is asked for.
const PAGE: &str = "/metrics";

const FLOOD: &str = "flood of the node";
const OTHER: &str = "flood of another server";
const HOG: &str = "CPU hog";
const NOTHING: &str = "nothing";

/// p99.9 with each of the four beside.
pub(super) fn control_flood(bench: &mut Bench<'_>) -> Result<(), BenchError> {
    let (connections, percent) = (bench.args.flood_connections, bench.args.flood_percent);
    let realtime = sys::may_run_first();
    let place = bench.args.bench.place();
    let core = bench.args.bench.client();
    // The node pins its shard by itself, as on a real machine: its other lanes use the other core.
    let member = Member::start(&Store::Forebay, "forebay", &place.unpinned())?;
    let http = member.http.expect("a started forebay has an operator HTTP");
    let fill = bench.args.bench.fill(&member)?;
    let page = crate::fleet::metrics::fetch(http, PAGE)
        .map_err(|source| BenchError::Metrics { address: http, source })?;
    let other = Member::page_server(&page, &Place { core, ..place })?;
    let flood = Flood {
        address: http,
        path: PAGE,
        connections,
        core,
        rate: None,
        answered: Arc::default(),
    };
    let peak = flood.peak(PEAK_TIME)?;
    let rate = (percent < 100).then(|| (peak * f64::from(percent) / 100.0).max(1.0));
    let pace = match rate {
        Some(rate) => format!("{rate:.0} requests a second, {percent} % of its peak ({peak:.0})"),
        None => format!("requests without pause (its peak: {peak:.0} a second)"),
    };
    let generator = match realtime {
        true => {
            "The load generator runs before all of them there (SCHED_FIFO), so that it does not \
             measure its own waiting."
        }
        false => {
            "The load generator shares that core with them as an equal (SCHED_FIFO was refused), \
             so its own waiting is in the figures."
        }
    };
    bench.begin(
        "A flooded control lane",
        &format!(
            "The shard has a core of its own; the control lane and all below share the other. \
             {connections} connections ask the operator HTTP for `{PAGE}` ({} B): {pace}. Controls: \
             the same flood of an HTTP server that serves the same page and knows no store, a \
             thread that burns the core, and nothing. {generator}",
            page.len()
        ),
    );
    bench.say_commands([&member.command, &fill, &other.command]);
    for workload in [WorkloadName::Gets, WorkloadName::Puts] {
        let words = bench.args.bench.load_words(workload, 1);
        let store_peak = super::open_loop::peak(&member, &words)?;
        let offered = (store_peak * OF_PEAK).max(1.0) as u64;
        let first = if realtime { " --realtime" } else { "" };
        let load = format!("{words} --rate {offered}{first}");
        let of = |address, answered: &Arc<AtomicU64>| Flood {
            address,
            rate,
            answered: Arc::clone(answered),
            ..flood.clone()
        };
        let (answered, answered_other) = (Arc::default(), Arc::default());
        let node_flood = of(http, &answered);
        let other_flood = of(other.http.expect("a page server says where"), &answered_other);
        let besides: [(&str, Option<Beside<'_>>); 4] = [
            (OTHER, Some(Box::new(move || other_flood.start()))),
            (FLOOD, Some(Box::new(move || node_flood.start()))),
            (HOG, Some(Box::new(move || beside::hog(1, core)))),
            (NOTHING, None),
        ];
        let entrants = besides.map(|(name, beside)| Entrant {
            name: name.to_owned(),
            member: &member,
            load: load.clone(),
            beside,
            is_witness: false,
        });
        let title = format!("{}, open loop, {offered} a second", workload.label());
        bench.say(&format!("### {title}\n"));
        let before = DiskInterrupts::read(&bench.args.bench.data_dir);
        let contest = bench.hold(&title, &entrants)?;
        let seconds = ((bench.args.bench.duration + bench.args.bench.warmup)
            * u64::from(bench.args.bench.rounds)) as f64;
        let answers = |count: &AtomicU64| count.load(Relaxed) as f64 / seconds;
        let mut text = verdict(&contest);
        text.push_str(&format!(
            "Answers a second during the flood: node {:.0}, the other server {:.0}.\n",
            answers(&answered),
            answers(&answered_other)
        ));
        if let (Some(before), Some(after)) =
            (before, DiskInterrupts::read(&bench.args.bench.data_dir))
        {
            text.push_str(&format!("{}\n", after.since(&before)));
        }
        bench.say(&text);
    }
    Ok(())
}

/// p99.9 under the flood by that under each control, round by round.
fn verdict(contest: &Contest) -> String {
    let of = |name: &str| -> Vec<f64> {
        let kept = contest.rounds.iter().filter(|round| round.kept);
        kept.flat_map(|round| &round.runs)
            .filter(|run| run.name == name)
            .map(|run| run.report.overall.p999_us)
            .collect()
    };
    let flood = of(FLOOD);
    let parts: Vec<String> = [OTHER, HOG, NOTHING]
        .into_iter()
        .map(|name| {
            let ratio = Spread::ratio(&flood, &of(name));
            format!(
                "{:.2} times that with {name} ({:.2}–{:.2})",
                ratio.median, ratio.min, ratio.max
            )
        })
        .collect();
    format!("p99.9 under the flood of the node is {}.\n", parts.join(", "))
}
