//! Puts the intervals of several threads, or of several machines, together by their number.
//!
//! ```text
//!   thread 0:  0 1 2 3 …          an interval is whole when everyone who still takes part has
//!   thread 1:  0 1 ✝              brought it; who has ended or is lost is waited for no more
//!   whole:     0 1 2 …
//! ```
//!
//! Whole intervals come out in order. Everyone brings theirs in order, so a whole one has no
//! unfinished one before it.

use std::collections::BTreeMap;

use forebay_core::time::Nanos;

use crate::generator::{Interval, Sample};

/// One interval of everyone together.
#[derive(Debug)]
pub(crate) struct Whole {
    /// Its number, from 0.
    pub(crate) index: u64,
    /// When it began.
    pub(crate) from: Nanos,
    /// The phase that it lies in.
    pub(crate) phase: u32,
    /// It began when the run was over.
    pub(crate) is_after_end: bool,
    /// Its content, by the phase of the operations.
    pub(crate) parts: BTreeMap<u32, Interval>,
    brought: usize,
}

#[cfg(test)]
impl Whole {
    /// One that is there.
    pub(crate) fn of(index: u64, phase: u32, parts: BTreeMap<u32, Interval>) -> Whole {
        Whole { index, from: Nanos(0), phase, is_after_end: false, parts, brought: 1 }
    }
}

/// What has been brought and is not whole.
#[derive(Debug)]
pub(crate) struct Gather {
    everyone: usize,
    pending: BTreeMap<u64, Whole>,
    /// The first interval that each of those who left brings no more.
    left_from: Vec<u64>,
}

impl Gather {
    /// For so many threads or machines.
    pub(crate) fn new(everyone: usize) -> Gather {
        Gather { everyone, pending: BTreeMap::new(), left_from: Vec::new() }
    }

    /// Adds what one of them brings.
    pub(crate) fn add(&mut self, sample: &Sample) {
        let &Sample { index, from, phase, is_after_end, .. } = sample;
        let whole = self.pending.entry(index).or_insert_with(|| Whole {
            index,
            from,
            phase,
            is_after_end,
            parts: BTreeMap::new(),
            brought: 0,
        });
        whole.brought += 1;
        let others = sample.others.iter().map(|(phase, part)| (*phase, part));
        for (of, part) in others.chain([(phase, &sample.interval)]) {
            whole.parts.entry(of).or_insert_with(Interval::nothing).add(part);
        }
        if sample.is_last {
            self.leaves(index + 1);
        }
    }

    /// One of them brings nothing from the interval `from` on.
    pub(crate) fn leaves(&mut self, from: u64) {
        self.left_from.push(from);
    }

    /// The next interval, if it is whole.
    pub(crate) fn next(&mut self) -> Option<Whole> {
        let first = self.pending.first_entry()?;
        let left = self.left_from.iter().filter(|from| **from <= *first.key()).count();
        (first.get().brought + left >= self.everyone).then(|| first.remove())
    }

    /// The next one, whole or not: nobody brings anything more.
    pub(crate) fn rest(&mut self) -> Option<Whole> {
        self.pending.pop_first().map(|(_, whole)| whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::OpKind;

    fn sample(thread: u32, index: u64, is_last: bool) -> Sample {
        let mut interval = Interval::new(|kind| kind == OpKind::Get, false);
        interval.latencies[OpKind::Get as usize].as_mut().unwrap().record(1000).unwrap();
        Sample {
            thread,
            index,
            from: Nanos(index),
            phase: 1,
            is_after_end: false,
            is_last,
            interval: interval.clone(),
            others: vec![(0, interval)],
        }
    }

    #[test]
    fn an_interval_is_whole_when_all_who_are_left_have_brought_it() {
        let mut gather = Gather::new(3);
        gather.add(&sample(0, 0, false));
        gather.add(&sample(1, 0, false));
        gather.add(&sample(1, 1, true));
        assert!(gather.next().is_none());
        gather.add(&sample(2, 0, false));
        let first = gather.next().unwrap();
        let counts: Vec<_> = first.parts.iter().map(|(of, part)| (*of, part.successes())).collect();
        assert_eq!((first.index, counts), (0, vec![(0, 3), (1, 3)]));
        assert!(gather.next().is_none());
        // Thread 2 is lost; thread 1 ends with interval 1.
        gather.leaves(1);
        gather.add(&sample(0, 1, false));
        assert_eq!(gather.next().unwrap().index, 1);
        gather.add(&sample(0, 2, false));
        assert_eq!(gather.next().unwrap().index, 2);
        gather.add(&sample(0, 4, false));
        assert_eq!(gather.rest().unwrap().index, 4);
        assert!(gather.rest().is_none());
    }
}
