//! The open loop, and its latencies window by window.
//!
//! ```text
//!   intervals of 250 ms ─┬──┬──┬──┬──┬──┬──┬──┬─►
//!   marks          before│        dead│     copying│
//! ```
//!
//! An interval belongs to the window in which it ends, so what follows a mark never counts as before it.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use forebay_core::time::Nanos;
use forebay_net::ring;
use serde::Serialize;

use super::report::{Row, WindowResult};
use super::{CONNECTIONS, HealArgs, KEY_BYTES};
use crate::error::BenchError;
use crate::generator::{self, Arrivals, Interval, Phase, Plan, Ramp, Shared};
use crate::target::forebay::Forebay;
use crate::workload::{Mix, Mixed, OpKind, Shape, Sizes};

/// Length of an interval.
const INTERVAL_MILLIS: u64 = 250;
/// Longer than any heal that this waits for.
const LONGEST_SECONDS: u64 = 24 * 3600;
/// An operation is given up after this.
const TIMEOUT_MILLIS: u64 = 10_000;

/// A stretch of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Window {
    /// Not measured.
    WarmUp,
    /// All members live.
    Before,
    /// From the death until the log replica is in place.
    Dead,
    /// From then until the group is whole.
    Copying,
    /// Whole again.
    After,
}

impl Window {
    pub(super) const ALL: [Window; 5] =
        [Window::WarmUp, Window::Before, Window::Dead, Window::Copying, Window::After];
}

/// When windows begin.
#[derive(Debug)]
struct Marks(Vec<(Window, Nanos)>);

impl Marks {
    /// The window at a moment.
    fn at(&self, at: Nanos) -> Window {
        let begun = self.0.iter().rev().find(|(_, from)| *from < at);
        begun.map_or(Window::WarmUp, |(window, _)| *window)
    }
}

/// The load under way.
#[derive(Debug)]
pub(super) struct Foreground {
    shared: Arc<Shared>,
    marks: Arc<Mutex<Marks>>,
    thread: JoinHandle<Result<Ended, BenchError>>,
}

/// What it brought.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) windows: Vec<WindowResult>,
    pub(super) rows: Vec<Row>,
    pub(super) first_error: Option<String>,
}

/// What load and foreground have in common.
pub(super) fn plan(args: &HealArgs, connections: u32, depth: u32) -> Plan {
    Plan {
        share: None,
        threads: 1,
        cores: args.client_core.into_iter().collect(),
        connections,
        depth,
        phases: Vec::new(),
        arrivals: Arrivals::Fixed,
        seed: 1,
        realtime: false,
        spin: false,
        interval_millis: INTERVAL_MILLIS,
        timeout_millis: TIMEOUT_MILLIS,
        think_nanos: 0,
        reconnect: true,
        key_bytes: KEY_BYTES,
        ledger: None,
    }
}

impl Foreground {
    /// Begins, in a window that is not measured.
    pub(super) fn begin(args: &HealArgs, target: &Arc<Forebay>, records: u64) -> Foreground {
        let phase = Phase {
            name: "foreground".to_owned(),
            nanos: LONGEST_SECONDS * Nanos::PER_SECOND,
            is_measured: true,
            ramp: Some(Ramp::steady(args.rate as f64)),
        };
        // As many under way as arrive in a second: what waits longer shows in its latency.
        let depth = (args.rate.div_ceil(CONNECTIONS.into()) as u32).max(1);
        let plan = Plan { phases: vec![phase], ..plan(args, CONNECTIONS, depth) };
        let shape = Shape {
            mix: Mix::of(&[(OpKind::Get, 100 - args.puts), (OpKind::Put, args.puts)]),
            distribution: args.distribution,
            ..Shape::of(Sizes::Fixed(args.value_bytes as usize))
        };
        let shared = Arc::new(Shared::new(plan.threads));
        let marks = Arc::new(Mutex::new(Marks(Vec::new())));
        let thread = {
            let (shared, marks, target) = (shared.clone(), marks.clone(), target.clone());
            std::thread::spawn(move || drive(&shared, &marks, &target, &plan, &shape, records))
        };
        Foreground { shared, marks, thread }
    }

    /// A window begins.
    pub(super) fn mark(&self, window: Window) {
        let mut marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        marks.0.push((window, ring::now()));
    }

    /// Begins nothing more, and waits for what is under way.
    pub(super) fn end(self) -> Result<Ended, BenchError> {
        self.shared.end_early(ring::now(), INTERVAL_MILLIS * Nanos::PER_MILLI);
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

fn drive(
    shared: &Arc<Shared>,
    marks: &Mutex<Marks>,
    target: &Arc<Forebay>,
    plan: &Plan,
    shape: &Shape,
    records: u64,
) -> Result<Ended, BenchError> {
    let source = |part, _| crate::workload::Source::Mixed(Mixed::shaped(shape, records, 1, part));
    let interval_nanos = plan.interval_millis * Nanos::PER_MILLI;
    let mut windows = Window::ALL.map(|_| Interval::nothing());
    let mut rows = Vec::new();
    let (first, threads) =
        generator::run_gathered(shared, target, plan, source, |samples, recycle| {
            let mut first = None;
            for sample in samples {
                let first = *first.get_or_insert(sample.from);
                let end = sample.from + interval_nanos;
                let window = marks.lock().unwrap_or_else(PoisonError::into_inner).at(end);
                windows[window as usize].add(&sample.interval);
                rows.push(Row::of(window, end.since(first), &sample.interval));
                // A thread that has ended no longer wants its memory back.
                let _ = recycle[sample.thread as usize].send(sample.interval);
            }
            first
        })?;
    let begun = first.unwrap_or_default();
    let marks = marks.lock().unwrap_or_else(PoisonError::into_inner);
    let ended = rows.last().map_or(begun, |row: &Row| begun + (row.t_s * 1e9) as u64);
    let results = Window::ALL.iter().zip(&windows).filter(|(window, _)| **window != Window::WarmUp);
    let results = results.map(|(window, interval)| {
        let from = marks.0.iter().find(|(marked, _)| marked == window).map(|(_, from)| *from);
        let next = marks.0.iter().map(|(_, from)| *from).find(|next| Some(*next) > from);
        let seconds = from.map_or(0.0, |from| next.unwrap_or(ended).since(from) as f64 / 1e9);
        WindowResult::of(*window, seconds, interval)
    });
    let mut results: Vec<WindowResult> = results.collect();
    let mut healing = windows[Window::Dead as usize].clone();
    healing.add(&windows[Window::Copying as usize]);
    let seconds = results.iter().filter(|one| one.heals()).map(|one| one.seconds).sum();
    results.push(WindowResult::healing(seconds, &healing));
    let first_error = threads.into_iter().find_map(|thread| thread.first_error);
    Ok(Ended { windows: results, rows, first_error })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_belongs_to_the_window_in_which_it_ends() {
        let marks = Marks(vec![(Window::Before, Nanos(100)), (Window::Dead, Nanos(200))]);
        let at = [50, 100, 101, 200, 201].map(|at| marks.at(Nanos(at)));
        use Window::{Before, Dead, WarmUp};
        assert_eq!(at, [WarmUp, WarmUp, Before, Before, Dead]);
    }
}
