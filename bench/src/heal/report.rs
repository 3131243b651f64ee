//! What a heal came to, as Markdown and JSON.

use std::fmt::Write as _;

use serde::Serialize;

use super::Victim;
use super::foreground::Window;
use super::steps::Steps;
use crate::compare::table::{Table, whole};
use crate::failover::load::Verdict;
use crate::generator::{Cause, Interval};
use crate::report::LatencySummary;
use crate::workload::OpKind;

/// A log replica is to be in place so many seconds after detection.
const REPLACED_AIM_S: f64 = 2.0;
/// p99.9 while the group heals is to be so many times that before, at most.
const TAIL_AIM: f64 = 2.0;
/// Name of both windows of a heal together.
const HEALING: &str = "healing";
const KINDS: [OpKind; 2] = [OpKind::Get, OpKind::Put];

/// What was asked for.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Settings {
    pub(super) gigabytes: f64,
    pub(super) records: u64,
    pub(super) value_bytes: u64,
    pub(super) rate: u64,
    pub(super) puts_percent: u32,
    pub(super) distribution: String,
    pub(super) victim: Victim,
    pub(super) nodes: u32,
    pub(super) memory_mib: u64,
    pub(super) snapshot_mib_per_second: u64,
}

/// The foreground in one interval.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Row {
    pub(super) window: Window,
    /// The interval's end, since the foreground's begin.
    pub(super) t_s: f64,
    pub(super) ops: u64,
    pub(super) errors: u64,
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
    pub(super) max_us: f64,
}

impl Row {
    pub(super) fn of(window: Window, nanos: u64, interval: &Interval) -> Row {
        let LatencySummary { count, p50_us, p99_us, max_us, .. } =
            LatencySummary::of(&interval.overall());
        let errors = interval.counters.errors_before_end();
        Row { window, t_s: nanos as f64 / 1e9, ops: count, errors, p50_us, p99_us, max_us }
    }
}

/// The foreground in one window.
#[derive(Clone, Debug, Serialize)]
pub(super) struct WindowResult {
    pub(super) name: String,
    pub(super) seconds: f64,
    /// By operation, and of all together.
    pub(super) latencies: Vec<(String, LatencySummary)>,
    pub(super) errors: u64,
    /// By cause, those that occurred.
    pub(super) causes: Vec<(&'static str, u64)>,
    /// Operations begun late because as many as allowed were under way.
    pub(super) late_for_depth: u64,
}

impl WindowResult {
    pub(super) fn of(window: Window, seconds: f64, interval: &Interval) -> WindowResult {
        let name = match window {
            Window::WarmUp => "warm-up",
            Window::Before => "before",
            Window::Dead => "dead",
            Window::Copying => "copying",
            Window::After => "after",
        };
        WindowResult::named(name, seconds, interval)
    }

    /// Both windows of a heal together.
    pub(super) fn healing(seconds: f64, interval: &Interval) -> WindowResult {
        WindowResult::named(HEALING, seconds, interval)
    }

    fn named(name: &str, seconds: f64, interval: &Interval) -> WindowResult {
        let mut latencies = Vec::new();
        for kind in KINDS {
            if let Some(histogram) = &interval.latencies[kind as usize] {
                latencies.push((kind.label().to_owned(), LatencySummary::of(histogram)));
            }
        }
        latencies.push(("both".to_owned(), LatencySummary::of(&interval.overall())));
        let counters = &interval.counters;
        let causes =
            Cause::ALL.iter().map(|cause| (cause.label(), counters.errors[*cause as usize]));
        WindowResult {
            name: name.to_owned(),
            seconds,
            latencies,
            errors: counters.errors_before_end(),
            causes: causes.filter(|(_, count)| *count > 0).collect(),
            late_for_depth: counters.late_for_depth,
        }
    }

    /// Whether it is part of the heal.
    pub(super) fn heals(&self) -> bool {
        self.name == "dead" || self.name == "copying"
    }

    fn latency(&self, kind: &str) -> Option<&LatencySummary> {
        self.latencies.iter().find(|(name, _)| name == kind).map(|(_, summary)| summary)
    }
}

/// The Puts with a ledger.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct LedgerResult {
    pub(super) acknowledged: u64,
    pub(super) unknown: u64,
    pub(super) refused: u64,
    pub(super) not_asked: u64,
    pub(super) first_refusal: Option<String>,
    pub(super) verdict: Verdict,
}

/// Everything.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Results {
    pub(super) hardware: String,
    pub(super) disk: String,
    pub(super) commands: Vec<String>,
    pub(super) settings: Settings,
    pub(super) loaded_seconds: f64,
    pub(super) steps: Steps,
    pub(super) windows: Vec<WindowResult>,
    pub(super) rows: Vec<Row>,
    pub(super) first_error: Option<String>,
    pub(super) ledger: LedgerResult,
}

impl Results {
    fn window(&self, name: &str) -> Option<&WindowResult> {
        self.windows.iter().find(|window| window.name == name)
    }

    /// p99.9 in a window by that before.
    pub(super) fn tail_ratio(&self, window: &str, kind: &str) -> Option<f64> {
        let before = self.window("before")?.latency(kind)?.p999_us;
        let during = self.window(window)?.latency(kind)?.p999_us;
        (before > 0.0).then_some(during / before)
    }

    /// Operations that failed, of the foreground and of the ledger, from the death on.
    pub(super) fn errors(&self) -> u64 {
        let windows = self.windows.iter().filter(|window| window.name != HEALING);
        let foreground: u64 = windows.map(|window| window.errors).sum();
        foreground + self.ledger.unknown + self.ledger.refused + self.ledger.not_asked
    }

    /// A page for people.
    pub(super) fn markdown(&self) -> String {
        let Settings { rate, puts_percent, value_bytes, records, nodes, memory_mib, .. } =
            &self.settings;
        let mut page = format!(
            "# Heal\n\nmachine: {}; {}  \n{nodes} nodes of {memory_mib} MiB; one group, {} records of \
             {value_bytes} B values, {} GB, loaded in {:.0} s; snapshot_bytes_per_second {} MiB  \n\
             foreground: {} operations a second at fixed times, {puts_percent} % Puts, {} records, \
             latency from the intended start\n\n```\n{}\n```\n\n",
            self.hardware,
            self.disk,
            whole(*records as f64),
            self.settings.gigabytes,
            self.loaded_seconds,
            self.settings.snapshot_mib_per_second,
            whole(*rate as f64),
            self.settings.distribution,
            self.commands.join("\n")
        );
        page.push_str(&self.steps_table());
        page.push('\n');
        page.push_str(&self.latency_table());
        self.write_rest(&mut page);
        page
    }

    fn steps_table(&self) -> String {
        let Steps { victim, spare, .. } = self.steps;
        let steps = &self.steps;
        let mut table = Table::new(["step", "s after the death", "aim"]);
        let mut row = |words: String, at: Option<f64>, aim: &str| {
            let at = at.map_or_else(|| "not seen".to_owned(), |at| format!("{at:.2}"));
            table.row([words, at, aim.to_owned()]);
        };
        let spare = spare.map_or_else(|| "none".to_owned(), |spare| spare.to_string());
        row(format!("node {victim} counts as dead"), steps.detected_s, "");
        let aim = match steps.replaced_s() {
            Some(seconds) => {
                let verdict = if seconds < REPLACED_AIM_S { "reached" } else { "missed" };
                format!("< {REPLACED_AIM_S} s later: {seconds:.2}, {verdict}")
            }
            None => format!("< {REPLACED_AIM_S} s later"),
        };
        row(format!("log replica on node {spare} is a member"), steps.log_replica_s, &aim);
        row("its log is filled".to_owned(), steps.log_filled_s, "");
        row("the copy has begun".to_owned(), steps.copy_began_s, "");
        row("everything is copied".to_owned(), steps.copied_s, "");
        row("three storage replicas again".to_owned(), steps.whole_s, "");
        let mut words = table.render();
        let rate = steps
            .copy_rate()
            .map_or_else(String::new, |rate| format!(", {:.1} MiB/s", rate / f64::from(1 << 20)));
        writeln!(
            words,
            "\ncopied: {:.3} GB of keys and items{rate}; read for it by the other members: {:.3} GB; \
             snapshots given up: {}",
            steps.copied_bytes as f64 / 1e9,
            steps.served_bytes as f64 / 1e9,
            steps.given_up
        )
        .expect("writing to a string does not fail");
        words
    }

    fn latency_table(&self) -> String {
        let mut table = Table::new([
            "operation, window",
            "s",
            "count",
            "p50, us",
            "p99, us",
            "p99.9, us",
            "max, us",
            "p99.9 by before",
            "errors",
        ]);
        let kinds = KINDS.map(OpKind::label).into_iter().chain(["both"]);
        for kind in kinds {
            for window in &self.windows {
                let Some(summary) = window.latency(kind) else { continue };
                let ratio = self.tail_ratio(&window.name, kind);
                let errors = if kind == "both" { window.errors.to_string() } else { String::new() };
                table.row([
                    format!("{kind}, {}", window.name),
                    format!("{:.1}", window.seconds),
                    whole(summary.count as f64),
                    format!("{:.0}", summary.p50_us),
                    format!("{:.0}", summary.p99_us),
                    format!("{:.0}", summary.p999_us),
                    format!("{:.0}", summary.max_us),
                    ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}")),
                    errors,
                ]);
            }
        }
        table.render()
    }

    fn write_rest(&self, page: &mut String) {
        let mut say = |words: String| page.push_str(&format!("\n{words}\n"));
        for kind in KINDS.map(OpKind::label) {
            if let Some(ratio) = self.tail_ratio(HEALING, kind) {
                let verdict = if ratio <= TAIL_AIM { "reached" } else { "missed" };
                say(format!(
                    "p99.9 of a {kind} while the group healed is {ratio:.2} times that before; the aim is \
                     {TAIL_AIM}: {verdict}."
                ));
            }
        }
        let errors = self.errors();
        let LedgerResult { acknowledged, unknown, verdict, first_refusal, .. } = &self.ledger;
        say(format!(
            "Operations that failed, from the first window on: {errors} (the aim is 0, where a follower \
             died)."
        ));
        for window in self.windows.iter().filter(|window| !window.causes.is_empty()) {
            say(format!("{}: {:?}", window.name, window.causes));
        }
        if let Some(words) = self.first_error.as_ref().or(first_refusal.as_ref()) {
            say(format!("The first one: {words}"));
        }
        say(format!(
            "The ledger's Puts: {} acknowledged, {unknown} unknown; {} keys read afterwards: {} lost, {} \
             wrong, {} not served.",
            whole(*acknowledged as f64),
            verdict.keys,
            verdict.lost,
            verdict.wrong,
            verdict.not_served
        ));
    }
}
