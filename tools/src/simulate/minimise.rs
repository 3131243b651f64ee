//! From a failing run to one with as few faults as possible.
//!
//! Zeller's and Hildebrandt's delta debugging ("Simplifying and isolating failure-inducing input",
//! IEEE Transactions on Software Engineering 2002, algorithm ddmin): leave out halves, then
//! quarters, and so on, as long as the run still fails in the same way. The plan was drawn before
//! the run, so what is left of it stays as it was.

use super::{FailureKind, Options, Outcome, run};

/// A run that fails with few faults.
#[derive(Clone, Debug)]
pub struct Minimised {
    /// The faults that it needs, by their numbers in the plan.
    pub kept: Vec<usize>,
    /// Runs that it took to find out.
    pub runs: usize,
    /// The small run, with its trace.
    pub outcome: Outcome,
}

/// Leaves out faults of a failing run as long as it fails in the same way. `go_on` is asked before
/// each attempt.
///
/// # Panics
/// If the run does not fail, or not every time.
#[must_use]
pub fn minimise(
    options: &Options,
    kind: FailureKind,
    go_on: &mut dyn FnMut() -> bool,
) -> Minimised {
    let mut kept: Vec<usize> = match &options.keep {
        Some(keep) => keep.clone(),
        None => (0..options.plan().faults.len()).collect(),
    };
    let mut runs = 0;
    let fails = |kept: &[usize]| {
        let options = Options { keep: Some(kept.to_vec()), trace: false, ..options.clone() };
        run(&options).failure.is_some_and(|failure| failure.kind == kind)
    };
    let mut parts = 1;
    'smaller: while !kept.is_empty() && parts <= kept.len() {
        let size = kept.len().div_ceil(parts);
        for start in (0..kept.len()).step_by(size) {
            if !go_on() {
                break 'smaller;
            }
            let mut fewer = kept.clone();
            fewer.drain(start..kept.len().min(start + size));
            runs += 1;
            if fails(&fewer) {
                kept = fewer;
                parts = (parts - 1).max(1);
                continue 'smaller;
            }
        }
        if size == 1 {
            break;
        }
        parts = (2 * parts).min(kept.len());
    }
    let last = Options { keep: Some(kept.clone()), trace: true, ..options.clone() };
    let outcome = run(&last);
    assert!(outcome.failure.is_some(), "seed {} does not fail every time", options.seed);
    Minimised { kept, runs: runs + 1, outcome }
}
