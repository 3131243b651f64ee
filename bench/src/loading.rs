//! Writing every record once, however often a store asks to try later.
//!
//! ```text
//!   pass 1: all records of this process ──► refused or unanswered ones ──► pass 2, half the depth ──► …
//! ```
//!
//! A store that sheds load while it catches up is asked again, more gently from pass to pass: what
//! overwhelms a store once does so again. Passes in which nothing at all is taken end it, and so does a
//! store that has taken nothing for as long as one operation may wait and [`SILENCE`] more: it is gone,
//! or something else serves there.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;

use crate::error::BenchError;
use crate::generator::{self, Plan, RunOutcome, Share, Shared};
use crate::report::collect::{Progress, Watch};
use crate::target::Target;
use crate::workload::{Load, Records, Sizes, Source};

/// Progress is shown this often.
pub(crate) const LOAD_INTERVAL_MILLIS: u64 = 200;
/// Between two passes over what a store refused.
const REST: Duration = Duration::from_millis(200);
/// So many passes in which nothing at all was taken end a load: two seconds and more.
const IDLE_PASSES_MAX: u32 = 10;
/// A store that restarts is waited for this long beyond an operation's own limit.
const SILENCE: Duration = Duration::from_secs(5);
/// Between two looks at whether the load is still wanted.
const LOOK: Duration = Duration::from_millis(50);

/// What is to be loaded, by this process alone or by several.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    /// With this process's place among all.
    pub(crate) plan: Plan,
    /// Of all processes.
    pub(crate) records: u64,
    /// Lengths of values.
    pub(crate) sizes: Sizes,
    /// Of values.
    pub(crate) seed: u64,
}

impl Order {
    /// How many records fall to this process.
    pub(crate) fn own_records(&self) -> u64 {
        let Share { first_thread, threads_all, .. } = self.plan.share();
        let threads = u64::from(first_thread)..u64::from(first_thread + self.plan.threads);
        let of_one =
            |thread: u64| self.records.saturating_sub(thread).div_ceil(u64::from(threads_all));
        threads.map(of_one).sum()
    }
}

/// A bar for a person at a terminal.
pub(crate) fn bar(records: u64) -> ProgressBar {
    use std::io::IsTerminal as _;
    let bar = match std::io::stderr().is_terminal() {
        true => ProgressBar::new(records),
        false => ProgressBar::hidden(),
    };
    bar.set_style(
        indicatif::ProgressStyle::with_template(
            "loading {bar:40} {human_pos}/{human_len} records, {per_sec}, {eta} left",
        )
        .expect("the template is a constant"),
    );
    bar
}

/// Loads what falls to this process, shows it on `bar`, and returns how many records that was. Ends
/// early, with an error, when `is_unwanted`.
pub(crate) fn load_all<T: Target>(
    target: &Arc<T>,
    order: &Order,
    bar: &ProgressBar,
    is_unwanted: impl Fn() -> bool + Sync,
) -> Result<u64, BenchError> {
    let own = order.own_records();
    let mut plan = order.plan.clone();
    let (mut wanted, mut loaded, mut idle_passes) = (Records::All(order.records), 0, 0);
    loop {
        let left = Arc::new(Mutex::new(Vec::new()));
        let source = |part, _| {
            let (wanted, left) = (wanted.clone(), Arc::clone(&left));
            Source::Load(Load::new(wanted, order.sizes.clone(), order.seed, part, left))
        };
        let mut watch = Watch::progress(Progress::Bar { bar: bar.clone(), before: loaded });
        let patience = Duration::from_millis(plan.timeout_millis) + SILENCE;
        let silence = Silence { bar, patience, seen: Cell::new((bar.position(), Instant::now())) };
        let (outcome, was_silent) = while_wanted(&is_unwanted, silence, plan.threads, |shared| {
            generator::run_with(shared, target, &plan, source, &mut watch)
        });
        let outcome = outcome?;
        let done = outcome.collected.total.successes();
        loaded += done;
        if loaded == own {
            return Ok(own);
        }
        let list = std::mem::take(&mut *left.lock().expect("the threads have ended"));
        idle_passes = if done == 0 { idle_passes + 1 } else { 0 };
        let is_vain = idle_passes == IDLE_PASSES_MAX || list.is_empty();
        if is_vain || was_silent || is_unwanted() {
            let (failed, first) = (own - loaded, first_error(&outcome));
            return Err(BenchError::LoadIncomplete { failed, records: own, first });
        }
        wanted = Records::Left(list.into());
        // What is left is this process's alone, and so its threads share it among themselves.
        plan.share = None;
        plan.depth = (plan.depth / 2).max(1);
        thread::sleep(REST);
    }
}

/// A watch on how long nothing has happened.
struct Silence<'b> {
    bar: &'b ProgressBar,
    patience: Duration,
    /// Records, and since when they have been so many.
    seen: Cell<(u64, Instant)>,
}

impl Silence<'_> {
    fn is_too_long(&self) -> bool {
        let (position, since) = self.seen.get();
        if self.bar.position() != position {
            self.seen.set((self.bar.position(), Instant::now()));
            return false;
        }
        since.elapsed() > self.patience
    }
}

/// Has `run` end as soon as its work `is_unwanted`, or nothing has happened for too long; and whether
/// that was so.
fn while_wanted<R>(
    is_unwanted: &(impl Fn() -> bool + Sync),
    silence: Silence<'_>,
    threads: u32,
    run: impl FnOnce(&Arc<Shared>) -> R,
) -> (R, bool) {
    let shared = Arc::new(Shared::new(threads));
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let (shared, is_over) = (&shared, &is_over);
        let watching = scope.spawn(move || {
            let mut was_silent = false;
            while !is_over.load(Ordering::Acquire) {
                was_silent |= silence.is_too_long();
                if was_silent || is_unwanted() {
                    shared.stop();
                }
                thread::park_timeout(LOOK);
            }
            was_silent
        });
        let ended = run(shared);
        is_over.store(true, Ordering::Release);
        watching.thread().unpark();
        let was_silent = watching.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (ended, was_silent)
    })
}

fn first_error(outcome: &RunOutcome) -> String {
    outcome
        .threads
        .iter()
        .find_map(|thread| thread.first_error.clone())
        .unwrap_or_else(|| "none reported".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_record_falls_to_exactly_one_process() {
        for records in [1, 2, 7, 8, 9, 100] {
            let own = |first_thread, threads| {
                let share = Share { first_thread, threads_all: 5, first_lane: 0, lanes_all: 5 };
                let plan = Plan { share: Some(share), threads, ..crate::workers::tests::plan() };
                Order { plan, records, sizes: Sizes::Fixed(1), seed: 1 }.own_records()
            };
            assert_eq!(own(0, 2) + own(2, 2) + own(4, 1), records);
            assert_eq!(own(0, 5), records);
        }
    }
}
