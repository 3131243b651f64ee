//! Latency at half of the peak, with checkpoints and without.
//!
//! Three entrants at the same rate: a node that checkpoints often, a node that never does (its log is
//! made large enough for the whole run), and the bare log, whose pauses are the machine's own.

use crate::compare::contest::{self, Entrant};
use crate::error::BenchError;
use crate::fleet::{Member, Place, Store};
use crate::workload::WorkloadName;

use super::{Bench, published};

/// Seconds between checkpoints: every measurement meets some.
const CHECKPOINT_SECONDS: &str = "2";
/// Smallest log of the control run, and its step.
const LOG_STEP_BYTES: u64 = 16 << 20;
/// Of what the log takes at that rate: the node never comes near a full log.
const LOG_SLACK: f64 = 2.0;
/// Share of the peak that is offered.
const OF_PEAK: f64 = 0.5;

/// p99.9 and pauses at half of the peak.
pub(super) fn open_loop(bench: &mut Bench<'_>) -> Result<(), BenchError> {
    bench.begin(
        "Open loop at half of the peak, with checkpoints and without",
        "Latency counts from the intended start. `--checkpoint off` exists for this control alone. \
         The bare log at the same rate shows the machine's own pauses.",
    );
    let args = &bench.args.bench;
    let words = args.load_words(WorkloadName::Puts, 1);
    let (rate, log_bytes_s) = half_of_peak(bench, &words)?;
    let seconds = (args.duration + args.warmup) * u64::from(args.rounds) + 2;
    let log = (log_bytes_s * seconds as f64 * LOG_SLACK) as u64;
    let log = log.next_multiple_of(LOG_STEP_BYTES).max(256 << 20).to_string();
    let place = args.place();
    let start = |name: &str, place: &Place| -> Result<(Member, String), BenchError> {
        let store = if name == "floor-log" { Store::FloorLog } else { Store::Forebay };
        let member = Member::start(&store, name, place)?;
        let fill = args.fill(&member)?;
        member.pause();
        Ok((member, fill))
    };
    let often = place.with(["--log", &log, "--checkpoint-seconds", CHECKPOINT_SECONDS]);
    let (with, with_fill) = start("checkpoints", &often)?;
    let (without, without_fill) =
        start("no checkpoints", &place.with(["--log", &log, "--checkpoint", "off"]))?;
    let (floor, floor_fill) = start("floor-log", &place)?;
    let lines =
        [&with.command, &with_fill, &without.command, &without_fill, &floor.command, &floor_fill];
    bench.say_commands(lines);
    let load = format!("{words} --rate {rate}");
    // The control first: ratios are to it.
    let entrants = [&without, &with, &floor].map(|member| Entrant {
        name: member.name.clone(),
        member,
        load: load.clone(),
        beside: None,
        is_witness: member.name == "floor-log",
    });
    let title = format!("puts, open loop, {rate} a second");
    bench.say(&format!("### {title}\n"));
    let contest = bench.hold(&title, &entrants)?;
    let finished = published(&with)?.shard("checkpoint_number");
    if let (Some(with), Some(without)) =
        (contest.summary("checkpoints"), contest.summary("no checkpoints"))
    {
        bench.say(&format!(
            "p99.9 with checkpoints is {:.2} times that without ({finished:.0} checkpoints in all); \
             pauses over 10 ms: {} with, {} without, {} of the bare log.\n",
            with.p999_us.median / without.p999_us.median,
            with.pauses_over_10_ms,
            without.pauses_over_10_ms,
            contest.summary("floor-log").map_or(0, |floor| floor.pauses_over_10_ms)
        ));
    }
    Ok(())
}

/// Half of what a closed loop reaches, and how many bytes a second the log takes at that rate.
fn half_of_peak(bench: &mut Bench<'_>, words: &str) -> Result<(u64, f64), BenchError> {
    let args = &bench.args.bench;
    let member = Member::start(&Store::Forebay, "peak", &args.place())?;
    args.fill(&member)?;
    let peak = peak(&member, words)?;
    let rate = (peak * OF_PEAK).max(1.0) as u64;
    let before = published(&member)?;
    let report = contest::run(&format!("run --target {} {words} --rate {rate}", member.url))?;
    let log = published(&member)?.grown(&before, "log_written_bytes_total");
    bench.say(&format!("Peak, closed loop: {peak:.0} a second; offered: {rate} a second.\n"));
    Ok((rate, log / (report.duration_s + report.warmup_s)))
}

/// What a closed loop reaches on `member`.
pub(super) fn peak(member: &Member, words: &str) -> Result<f64, BenchError> {
    Ok(contest::run(&format!("run --target {} {words}", member.url))?.achieved_ops_s)
}
