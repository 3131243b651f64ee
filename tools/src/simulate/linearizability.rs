//! Is there an order of the operations on a key that explains every answer?
//!
//! The definition is Herlihy's and Wing's ("Linearizability: a correctness condition for concurrent
//! objects", TOPLAS 1990): each operation takes effect at one moment between its question and its
//! answer. The search is Wing's and Gong's ("Testing and verifying concurrent objects", JPDC 1993)
//! in the form that Lowe calls just-in-time linearization ("Testing for linearizability",
//! Concurrency and Computation 2017, section 4): go through the history in order of time, keep
//! every *configuration* (the register's value, and which open operations have taken effect), and
//! let operations take effect only when an answer demands it. Equal configurations are one, which
//! is the memo of the method.
//!
//! ```text
//!   question of p ─► p is open
//!   answer of p   ─► every configuration goes on, by letting open operations take effect in any
//!                    order, until p has; configurations that cannot are dropped; none left: wrong
//! ```
//!
//! An operation of unknown outcome stays open for ever: it may take effect at any later time. Three
//! observations keep that cheap, and lose nothing:
//! * a value that nobody ever found, and whose write was never acknowledged, explains nothing: such
//!   a write is left out;
//! * an open operation that has taken effect in every configuration is not open any more;
//! * deletes of unknown outcome are alike: they take effect in the order in which they were asked.
//!
//! A register is checked by itself: linearizability is local (Herlihy and Wing, theorem 1).

use std::collections::HashSet;

use super::history::{Call, Op, Outcome};

/// Open operations of one key that are told apart at one time.
const OPEN_MAX: usize = 128;

/// Configurations at which the search gives up.
const CONFIGURATIONS_MAX: usize = 400_000;

/// What the search says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// There is such an order.
    Linearizable,
    /// No order explains the answer to the operation of this index.
    Violation(usize),
    /// Too many possibilities; nothing was found wrong up to the operation of this index.
    Undecided(usize),
}

/// The register's value, and which of the open operations have taken effect.
type Configuration = (Option<u64>, u128);

#[derive(Debug, Default)]
struct Search {
    /// Operation of each place; None: free.
    open: Vec<Option<usize>>,
    now: HashSet<Configuration>,
    stack: Vec<Configuration>,
    seen: HashSet<Configuration>,
}

/// The value after `op` takes effect on `state`; None if its answer says that it does not so.
fn effect(op: &Op, state: Option<u64>) -> Option<Option<u64>> {
    match (op.call, op.outcome) {
        (_, Outcome::NoEffect) => None,
        (Call::Read, Outcome::Found(found)) => (state == found).then_some(state),
        (Call::Read, _) => None,
        (Call::Write(to), _) => Some(Some(to)),
        (Call::Exchange(to), Outcome::Found(found)) => (state == found).then_some(Some(to)),
        (Call::Exchange(to), _) => Some(Some(to)),
        (Call::Delete, _) => Some(None),
        (Call::Swap { from, .. }, Outcome::Found(found)) => {
            (state == found && found != from).then_some(state)
        }
        (Call::Swap { from, to }, _) => (state == from).then_some(Some(to)),
    }
}

/// Whether the operation can be left out because nothing depends on it.
fn explains_nothing(op: &Op, found: &HashSet<u64>) -> bool {
    match (op.call, op.outcome) {
        (_, Outcome::NoEffect) | (Call::Read, Outcome::Unknown) => true,
        (Call::Delete, _) => false,
        (call, Outcome::Unknown) => {
            call.leaves().flatten().is_none_or(|value| !found.contains(&value))
        }
        _ => false,
    }
}

/// Every value that some answer shows to have been there.
fn found_values(ops: &[Op]) -> HashSet<u64> {
    let shown = |op: &Op| match (op.call, op.outcome) {
        (Call::Swap { from, .. }, Outcome::Done) => from,
        (_, Outcome::Found(found)) => found,
        _ => None,
    };
    ops.iter().filter_map(shown).collect()
}

/// Checks the history of one key, absent at first. `ops` is in the order of beginnings.
pub(super) fn check(ops: &[Op]) -> Verdict {
    let found = found_values(ops);
    let mut events: Vec<(u64, usize)> = Vec::with_capacity(2 * ops.len());
    for (index, op) in ops.iter().enumerate() {
        if !explains_nothing(op, &found) {
            events.push((op.begin, index));
            if op.end != u64::MAX {
                events.push((op.end, index));
            }
        }
    }
    events.sort_unstable();
    let mut search = Search::default();
    search.now.insert((None, 0));
    for (tick, index) in events {
        if tick == ops[index].begin {
            if !search.begins(index) {
                return Verdict::Undecided(index);
            }
        } else {
            match search.ends(ops, index) {
                Verdict::Linearizable => {}
                other => return other,
            }
        }
    }
    Verdict::Linearizable
}

impl Search {
    fn begins(&mut self, index: usize) -> bool {
        let place = self.open.iter().position(Option::is_none).unwrap_or(self.open.len());
        if place == OPEN_MAX {
            return false;
        }
        if place == self.open.len() {
            self.open.push(None);
        }
        self.open[place] = Some(index);
        true
    }

    fn ends(&mut self, ops: &[Op], index: usize) -> Verdict {
        let place = self.open.iter().position(|open| *open == Some(index)).expect("it is open");
        let bit = 1u128 << place;
        self.seen.clear();
        self.stack.extend(self.now.drain());
        while let Some(configuration) = self.stack.pop() {
            if !self.seen.insert(configuration) {
                continue;
            }
            if self.seen.len() > CONFIGURATIONS_MAX {
                self.stack.clear();
                return Verdict::Undecided(index);
            }
            let (state, done) = configuration;
            if done & bit != 0 {
                self.now.insert((state, done & !bit));
                continue;
            }
            let mut delete_tried = false;
            for (other, name) in self.open.iter().enumerate() {
                let Some(name) = *name else { continue };
                if done & (1 << other) != 0 {
                    continue;
                }
                let op = &ops[name];
                if op.call == Call::Delete && op.outcome == Outcome::Unknown {
                    // One is like another, and none matters where there is nothing.
                    if std::mem::replace(&mut delete_tried, true) || state.is_none() {
                        continue;
                    }
                }
                if let Some(after) = effect(op, state) {
                    self.stack.push((after, done | 1 << other));
                }
            }
        }
        self.open[place] = None;
        if self.now.is_empty() {
            return Verdict::Violation(index);
        }
        self.forget_what_all_have_done(ops);
        Verdict::Linearizable
    }

    /// An operation without an end that has taken effect whatever happened is not open any more.
    fn forget_what_all_have_done(&mut self, ops: &[Op]) {
        let all = self.now.iter().fold(u128::MAX, |all, (_, done)| all & done);
        let mut over = 0;
        for (place, open) in self.open.iter_mut().enumerate() {
            if all & (1 << place) != 0 && open.is_some_and(|index| ops[index].end == u64::MAX) {
                over |= 1 << place;
                *open = None;
            }
        }
        if over != 0 {
            self.now = self.now.drain().map(|(state, done)| (state, done & !over)).collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(call: Call, outcome: Outcome, begin: u64, end: u64) -> Op {
        let end = if outcome == Outcome::Unknown { u64::MAX } else { end };
        Op { client: 0, call, outcome, begin, end, began_at: begin, ended_at: end }
    }

    fn read(found: Option<u64>, begin: u64, end: u64) -> Op {
        op(Call::Read, Outcome::Found(found), begin, end)
    }

    fn write(value: u64, begin: u64, end: u64) -> Op {
        op(Call::Write(value), Outcome::Done, begin, end)
    }

    #[test]
    fn a_read_sees_the_write_before_it_and_nothing_older() {
        assert_eq!(check(&[write(1, 1, 2), read(Some(1), 3, 4)]), Verdict::Linearizable);
        assert_eq!(check(&[write(1, 1, 2), read(None, 3, 4)]), Verdict::Violation(1));
        let stale = [write(1, 1, 2), write(2, 3, 4), read(Some(1), 5, 6)];
        assert_eq!(check(&stale), Verdict::Violation(2));
        // Side by side either may be first, but two readers agree.
        let side = [write(1, 1, 10), write(2, 2, 9), read(Some(1), 11, 12)];
        assert_eq!(check(&side), Verdict::Linearizable);
        let torn = [write(1, 1, 10), write(2, 2, 9), read(Some(1), 11, 12), read(Some(2), 13, 14)];
        assert_eq!(check(&torn), Verdict::Violation(3));
    }

    #[test]
    fn an_unknown_write_may_take_effect_late_and_once() {
        let unknown = |value, begin| op(Call::Write(value), Outcome::Unknown, begin, 0);
        let late = [unknown(1, 1), write(2, 2, 3), read(Some(2), 4, 5), read(Some(1), 6, 7)];
        assert_eq!(check(&late), Verdict::Linearizable);
        let twice = [
            unknown(1, 1),
            read(Some(1), 2, 3),
            write(2, 4, 5),
            read(Some(2), 6, 7),
            read(Some(1), 8, 9),
        ];
        assert_eq!(check(&twice), Verdict::Violation(4));
        let early = [read(Some(1), 1, 2), unknown(1, 3)];
        assert_eq!(check(&early), Verdict::Violation(0));
    }

    #[test]
    fn a_swap_that_was_refused_had_no_effect() {
        let refused = op(Call::Write(1), Outcome::NoEffect, 1, 2);
        assert_eq!(check(&[refused, read(Some(1), 3, 4)]), Verdict::Violation(1));
        let swap = |from, to, outcome, begin, end| op(Call::Swap { from, to }, outcome, begin, end);
        let two = [
            write(1, 1, 2),
            swap(Some(1), 2, Outcome::Done, 3, 6),
            swap(Some(1), 3, Outcome::Done, 4, 5),
        ];
        assert_eq!(check(&two), Verdict::Violation(1));
        let one = [
            write(1, 1, 2),
            swap(Some(1), 2, Outcome::Found(Some(3)), 3, 6),
            swap(Some(1), 3, Outcome::Done, 4, 5),
            read(Some(3), 7, 8),
        ];
        assert_eq!(check(&one), Verdict::Linearizable);
        // It found what it asked for, and says that it did not.
        let wrong = [write(1, 1, 2), swap(Some(1), 2, Outcome::Found(Some(1)), 3, 4)];
        assert_eq!(check(&wrong), Verdict::Violation(1));
    }

    #[test]
    fn unknown_deletes_are_cheap() {
        let mut ops = Vec::new();
        let mut tick = 0;
        let mut next = || {
            tick += 1;
            tick
        };
        for value in 0..60 {
            ops.push(op(Call::Delete, Outcome::Unknown, next(), 0));
            ops.push(write(value, next(), next()));
            let found = (value % 7 != 0).then_some(value);
            ops.push(read(found, next(), next()));
        }
        assert_eq!(check(&ops), Verdict::Linearizable);
        ops.push(write(1_000, next(), next()));
        ops.push(read(Some(3), next(), next()));
        assert_eq!(check(&ops), Verdict::Violation(ops.len() - 1));
    }

    #[test]
    fn an_exchange_answers_from_the_state_that_it_replaces() {
        let exchange =
            |to, found, begin, end| op(Call::Exchange(to), Outcome::Found(found), begin, end);
        let right = [exchange(1, None, 1, 2), exchange(2, Some(1), 3, 4), read(Some(2), 5, 6)];
        assert_eq!(check(&right), Verdict::Linearizable);
        let lost = [exchange(1, None, 1, 2), exchange(2, None, 3, 4)];
        assert_eq!(check(&lost), Verdict::Violation(1));
    }
}
