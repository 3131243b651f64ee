//! Several entrants, measured in turn, round after round.
//!
//! ```text
//!   round 1:  probe A  probe B  probe C      the others stand still meanwhile
//!   round 2:  probe A  probe B  probe C
//!   …         ──────────────────────────►  medians of the rounds kept, ratios to A
//! ```
//!
//! An entrant is a member of the fleet with a command line of `run`, and perhaps something that
//! happens beside it. Two entrants may share a member: what is compared then is what happens beside.

use clap::Parser as _;
use serde::Serialize;

use super::beside::Crew;
use super::calm::{Calm, Probe, Witnesses};
use super::statistics::{Spread, quotient};
use super::table::{Table, micros, whole};
use crate::cli::{Cli, Command};
use crate::commands::{self, Loaded};
use crate::error::BenchError;
use crate::fleet::Member;
use crate::fleet::process::none_has_died;
use crate::report::json::Report;
use crate::sys;

/// What happens beside a run; it ends when the value is dropped.
pub(crate) type Beside<'a> = Box<dyn Fn() -> Result<Crew, BenchError> + 'a>;

/// One of those compared.
pub(crate) struct Entrant<'a> {
    /// Its name in tables.
    pub(crate) name: String,
    /// Who serves.
    pub(crate) member: &'a Member,
    /// The load: words of `forebay-bench run`, without the target.
    pub(crate) load: String,
    /// What happens meanwhile.
    pub(crate) beside: Option<Beside<'a>>,
    /// Whether its longest latency is the machine's own: a bare log.
    pub(crate) is_witness: bool,
}

/// How to run a contest.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    pub(crate) rounds: u32,
    /// A stall longer than this makes a round noisy.
    pub(crate) stall_ms: f64,
    /// Leave noisy rounds out of the medians.
    pub(crate) discard_noisy: bool,
}

/// One measurement.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Run {
    pub(crate) name: String,
    pub(crate) before: Calm,
    /// CPU time of the store's process for each operation; None if it is not a child of this one.
    pub(crate) server_cpu_us_per_op: Option<f64>,
    pub(crate) report: Report,
}

/// Every entrant once.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Round {
    pub(crate) number: u32,
    pub(crate) runs: Vec<Run>,
    pub(crate) witnesses: Witnesses,
    /// Why the round is noisy.
    pub(crate) noise: Vec<String>,
    /// Whether it counts in the summary.
    pub(crate) kept: bool,
}

/// Medians of one entrant over the rounds kept.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Summary {
    pub(crate) name: String,
    pub(crate) ops_s: Spread,
    /// To the first entrant.
    pub(crate) ratio: Spread,
    pub(crate) p50_us: Spread,
    pub(crate) p99_us: Spread,
    pub(crate) p999_us: Spread,
    pub(crate) max_us: Spread,
    pub(crate) server_cpu_us_per_op: Option<Spread>,
    /// Over all rounds kept.
    pub(crate) pauses_over_10_ms: u64,
    pub(crate) errors: u64,
    pub(crate) client_was_the_limit: bool,
}

/// A contest's result.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Contest {
    pub(crate) title: String,
    /// How each entrant's store was started and loaded, and the run's own command.
    pub(crate) commands: Vec<String>,
    pub(crate) rounds: Vec<Round>,
    pub(crate) summaries: Vec<Summary>,
    /// What a reader must know about the rounds.
    pub(crate) remarks: Vec<String>,
}

/// Measures `entrants`; `say` gets each round's table as soon as it is there.
pub(crate) fn hold(
    title: &str,
    entrants: &[Entrant<'_>],
    rules: &Rules,
    probe: &Probe,
    say: &mut dyn FnMut(&str),
) -> Result<Contest, BenchError> {
    for entrant in entrants {
        entrant.member.pause();
    }
    let mut rounds = Vec::new();
    for number in 1..=rules.rounds {
        let round = play(number, entrants, rules, probe)?;
        say(&round_text(&round, rules));
        rounds.push(round);
    }
    for entrant in entrants {
        entrant.member.resume();
    }
    let remarks = choose(&mut rounds, rules);
    let commands = entrants.iter().map(|entrant| shown(&words(entrant))).collect();
    let summaries = summarise(&rounds);
    Ok(Contest { title: title.to_owned(), commands, rounds, summaries, remarks })
}

fn words(entrant: &Entrant<'_>) -> String {
    format!("run --target {} {}", entrant.member.url, entrant.load)
}

fn play(
    number: u32,
    entrants: &[Entrant<'_>],
    rules: &Rules,
    probe: &Probe,
) -> Result<Round, BenchError> {
    let mut runs = Vec::new();
    let mut witnesses = Witnesses::default();
    for entrant in entrants {
        let before = probe.look()?;
        witnesses.probes.push(before);
        entrant.member.resume();
        let running = entrant.beside.as_ref().map(|beside| beside()).transpose()?;
        let cpu = || entrant.member.cpu_micros();
        let (cpu_before, (stolen_before, ticks_before)) = (cpu(), sys::stolen_ticks());
        let report = attempt(&words(entrant));
        let (cpu_after, (stolen, ticks)) = (cpu(), sys::stolen_ticks());
        drop(running);
        entrant.member.pause();
        let report = report?;
        let stolen = quotient((stolen - stolen_before) as f64, (ticks - ticks_before) as f64);
        witnesses.stolen = witnesses.stolen.max(stolen);
        if entrant.is_witness {
            let max_ms = report.overall.max_us / 1e3;
            witnesses.floor_log_max_ms = Some(max_ms.max(witnesses.floor_log_max_ms.unwrap_or(0.)));
        }
        // The store worked during the warm-up too, at about the same rate.
        let seconds = report.duration_s + report.warmup_s;
        let ops = report.achieved_ops_s * seconds;
        let server_cpu_us_per_op = cpu_before
            .zip(cpu_after)
            .map(|(before, after)| quotient(after.saturating_sub(before) as f64, ops));
        runs.push(Run { name: entrant.name.clone(), before, server_cpu_us_per_op, report });
    }
    let noise = witnesses.noise(rules.stall_ms);
    Ok(Round { number, runs, witnesses, noise, kept: true })
}

/// Carries out `words` as the command line that they are. Nothing but failures is an error here.
pub(crate) fn run(words: &str) -> Result<Report, BenchError> {
    let report = attempt(words)?;
    commands::something_succeeded(&report).map(|()| report)
}

/// As [`run`]; a store that does nothing but fail has its place in a comparison.
fn attempt(words: &str) -> Result<Report, BenchError> {
    match parse(words) {
        Command::Run(args) => {
            let measured = commands::measure(&args);
            // Before its symptoms: refused connections, or a report full of errors.
            none_has_died()?;
            let mut report = measured?;
            report.command = std::iter::once("forebay-bench")
                .chain(words.split_whitespace())
                .map(str::to_owned)
                .collect();
            Ok(report)
        }
        other => unreachable!("{other:?} is no run"),
    }
}

/// Carries out `words` as the command line that they are.
pub(crate) fn load(words: &str) -> Result<Loaded, BenchError> {
    match parse(words) {
        Command::Load(args) => {
            let loaded = commands::load_quietly(&args);
            none_has_died()?;
            loaded
        }
        other => unreachable!("{other:?} is no load"),
    }
}

fn parse(words: &str) -> Command {
    let words = std::iter::once("forebay-bench").chain(words.split_whitespace());
    match Cli::try_parse_from(words) {
        Ok(cli) => cli.command,
        // The words come from arguments that were checked the same way.
        Err(error) => error.exit(),
    }
}

/// As one would type it.
pub(crate) fn shown(words: &str) -> String {
    format!("forebay-bench {words}")
}

/// Decides which rounds count, and says so.
fn choose(rounds: &mut [Round], rules: &Rules) -> Vec<String> {
    let noisy: Vec<String> = rounds
        .iter()
        .filter(|round| !round.noise.is_empty())
        .map(|round| format!("round {} ({})", round.number, round.noise.join("; ")))
        .collect();
    if noisy.is_empty() {
        return Vec::new();
    }
    let list = noisy.join(", ");
    if !rules.discard_noisy {
        return vec![format!("Noisy, and counted all the same (--discard-noisy): {list}.")];
    }
    if noisy.len() == rounds.len() {
        return vec![format!(
            "Every round was noisy, so all are counted; the figures are the machine's as much as \
             the stores': {list}."
        )];
    }
    for round in rounds.iter_mut() {
        round.kept = round.noise.is_empty();
    }
    vec![format!("Left out of the medians: {list}.")]
}

fn summarise(rounds: &[Round]) -> Vec<Summary> {
    let kept: Vec<&Round> = rounds.iter().filter(|round| round.kept).collect();
    let column = |index: usize, value: &dyn Fn(&Run) -> f64| -> Vec<f64> {
        kept.iter().map(|round| value(&round.runs[index])).collect()
    };
    let ops = |run: &Run| run.report.achieved_ops_s;
    (0..kept[0].runs.len())
        .map(|index| {
            let of = |value: &dyn Fn(&Run) -> f64| Spread::of(&column(index, value));
            let runs = || kept.iter().map(|round| &round.runs[index]);
            let cpu: Option<Vec<f64>> = runs().map(|run| run.server_cpu_us_per_op).collect();
            Summary {
                name: kept[0].runs[index].name.clone(),
                ops_s: of(&ops),
                ratio: Spread::ratio(&column(index, &ops), &column(0, &ops)),
                p50_us: of(&|run| run.report.overall.p50_us),
                p99_us: of(&|run| run.report.overall.p99_us),
                p999_us: of(&|run| run.report.overall.p999_us),
                max_us: of(&|run| run.report.overall.max_us),
                server_cpu_us_per_op: cpu.map(|values| Spread::of(&values)),
                pauses_over_10_ms: runs().map(|run| run.report.pauses_over_10_ms).sum(),
                errors: runs().map(|run| run.report.errors).sum(),
                client_was_the_limit: runs().any(|run| run.report.client_was_the_limit),
            }
        })
        .collect()
}

fn round_text(round: &Round, rules: &Rules) -> String {
    let mut table = Table::new([
        "target", "ops/s", "p50 us", "p99 us", "p99.9 us", "max ms", ">10 ms", "errors", "client",
        "probe ms",
    ]);
    for Run { name, before, report, .. } in &round.runs {
        table.row([
            name.clone(),
            whole(report.achieved_ops_s),
            micros(report.overall.p50_us),
            micros(report.overall.p99_us),
            micros(report.overall.p999_us),
            format!("{:.1}", report.overall.max_us / 1e3),
            report.pauses_over_10_ms.to_string(),
            whole(report.errors as f64),
            format!("{:.0} %", report.client_cpu_fraction * 100.0),
            format!("{:.1}", before.max_ms),
        ]);
    }
    let noise = match round.noise.is_empty() {
        true => String::new(),
        false => format!(", NOISY: {}", round.noise.join("; ")),
    };
    format!("Round {} of {}{noise}\n\n{}", round.number, rules.rounds, table.render())
}

impl Contest {
    /// The summary as Markdown: commands, medians, ratios, remarks.
    pub(crate) fn markdown(&self) -> String {
        let kept = self.rounds.iter().filter(|round| round.kept).count();
        let first = self.summaries[0].name.clone();
        let mut table = Table::new([
            "median of rounds",
            "ops/s",
            "min–max, thousands",
            &format!("by {first}"),
            "min–max",
            "server us/op",
        ]);
        let mut latencies = Table::new([
            "latency, median of rounds",
            "p50 us",
            "p99 us",
            "p99.9 us",
            "max ms",
            "pauses > 10 ms",
            "errors",
        ]);
        for summary in &self.summaries {
            table.row([
                summary.name.clone(),
                whole(summary.ops_s.median),
                format!("{:.1}–{:.1}", summary.ops_s.min / 1e3, summary.ops_s.max / 1e3),
                format!("{:.2}", summary.ratio.median),
                format!("{:.2}–{:.2}", summary.ratio.min, summary.ratio.max),
                summary
                    .server_cpu_us_per_op
                    .map_or_else(|| "?".to_owned(), |cpu| format!("{:.2}", cpu.median)),
            ]);
            latencies.row([
                summary.name.clone(),
                micros(summary.p50_us.median),
                micros(summary.p99_us.median),
                micros(summary.p999_us.median),
                format!("{:.1}", summary.max_us.median / 1e3),
                summary.pauses_over_10_ms.to_string(),
                whole(summary.errors as f64),
            ]);
        }
        let mut out = format!(
            "{kept} of {} rounds counted, alternated.\n\n{}\n{}",
            self.rounds.len(),
            table.render(),
            latencies.render()
        );
        for remark in &self.remarks {
            out.push_str(&format!("\n{remark}\n"));
        }
        let limited: Vec<&str> = self
            .summaries
            .iter()
            .filter(|summary| summary.client_was_the_limit)
            .map(|summary| summary.name.as_str())
            .collect();
        if !limited.is_empty() {
            out.push_str(&format!(
                "\nThe client used more than 90 % of its core against {}: their figures may be the \
                 client's limit.\n",
                limited.join(", ")
            ));
        }
        out
    }

    /// The summary of the entrant `name`.
    pub(crate) fn summary(&self, name: &str) -> Option<&Summary> {
        self.summaries.iter().find(|summary| summary.name == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::json::tests::sample;

    fn round(number: u32, ops: [f64; 2], noise: &[&str]) -> Round {
        let calm = Calm { p50_ms: 0.2, max_ms: 1.0 };
        let run = |name: &str, achieved_ops_s| Run {
            name: name.to_owned(),
            before: calm,
            server_cpu_us_per_op: Some(5.0),
            report: Report { achieved_ops_s, ..sample() },
        };
        Round {
            number,
            runs: vec![run("redis", ops[0]), run("forebay", ops[1])],
            witnesses: Witnesses::default(),
            noise: noise.iter().map(|&reason| reason.to_owned()).collect(),
            kept: true,
        }
    }

    fn rules(discard_noisy: bool) -> Rules {
        Rules { rounds: 3, stall_ms: 30.0, discard_noisy }
    }

    fn contest(mut rounds: Vec<Round>, discard_noisy: bool) -> Contest {
        let remarks = choose(&mut rounds, &rules(discard_noisy));
        let summaries = summarise(&rounds);
        Contest { title: "t".to_owned(), commands: Vec::new(), rounds, summaries, remarks }
    }

    #[test]
    fn noisy_rounds_leave_the_medians_only_when_asked_and_always_a_remark() {
        let rounds = || {
            vec![
                round(1, [10.0, 20.0], &[]),
                round(2, [10.0, 1.0], &["a stall"]),
                round(3, [10.0, 22.0], &[]),
            ]
        };
        let kept = contest(rounds(), false);
        assert_eq!(kept.summaries[1].ops_s, Spread { median: 20.0, min: 1.0, max: 22.0 });
        assert!(kept.markdown().contains("counted all the same"));
        let discarded = contest(rounds(), true);
        assert_eq!(discarded.summaries[1].ops_s, Spread { median: 21.0, min: 20.0, max: 22.0 });
        assert_eq!(discarded.summaries[1].ratio.median, 2.1);
        let text = discarded.markdown();
        assert!(text.contains("2 of 3 rounds") && text.contains("round 2 (a stall)"), "{text}");
    }

    #[test]
    fn when_every_round_is_noisy_all_count_and_the_reader_is_warned() {
        let rounds = vec![round(1, [1.0, 2.0], &["x"]), round(2, [1.0, 4.0], &["y"])];
        let contest = contest(rounds, true);
        assert_eq!(contest.summaries[1].ops_s.median, 3.0);
        assert!(contest.markdown().contains("Every round was noisy"));
    }

    #[test]
    fn tables_fit_a_readme_and_a_client_at_its_limit_is_named() {
        let contest = contest(vec![round(1, [123_456.0, 1_234_567.0], &[])], false);
        let text = contest.markdown() + &round_text(&contest.rounds[0], &rules(false));
        for line in text.lines().filter(|line| line.starts_with('|')) {
            assert!(line.chars().count() <= 100, "{line}");
        }
        assert!(text.contains("client's limit") && text.contains("1,234,567"), "{text}");
    }
}
