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
//! An operation of unknown outcome stays open for ever: it may take effect at any later time. Values
//! are used once, and that keeps the search small without losing anything:
//! * a value that nobody ever found, and whose write was never acknowledged, explains nothing: such
//!   a write is left out;
//! * what only looks (a read, a swap that was refused) takes effect as soon as its answer fits: that
//!   changes nothing for others;
//! * a value is never written again, so nobody overwrites it while somebody is still to find it;
//! * an acknowledged write of a value that nobody found does so just before the next overwriting;
//! * deletes are alike: the one that is answered first goes first;
//! * an open operation that has taken effect in every configuration is not open any more.
//!
//! A register is checked by itself: linearizability is local (Herlihy and Wing, theorem 1).

use std::collections::HashSet;
use std::hash::BuildHasherDefault;

use forebay_core::ids::{IdHasher, IdMap};

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

/// What is in a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum State {
    Absent,
    Value(u64),
    /// Some value that nobody finds.
    Dead,
}

/// A set of numbers that nobody chooses to meet in one slot.
type NumberSet<T> = HashSet<T, BuildHasherDefault<IdHasher>>;

/// The register's state, and which of the open operations have taken effect.
type Configuration = (State, u128);

#[derive(Debug)]
struct Search<'a> {
    ops: &'a [Op],
    /// Operations that find each value that somebody finds.
    finders: IdMap<u64, Vec<usize>>,
    /// Values that somebody finds, or that a swap of unknown outcome may have found.
    live: NumberSet<u64>,
    /// Of each operation: its place among the open ones.
    place: Vec<Option<u8>>,
    /// Of each operation: it is over, or open no more.
    over: Vec<bool>,
    /// Operation of each place; None: free.
    open: Vec<Option<usize>>,
    now: NumberSet<Configuration>,
    stack: Vec<Configuration>,
    seen: NumberSet<Configuration>,
}

/// The value that the operation's answer shows to have been there.
fn finds(op: &Op) -> Option<Option<u64>> {
    match (op.call, op.outcome) {
        (Call::Swap { from, .. }, Outcome::Done) => Some(from),
        (_, Outcome::Found(found)) => Some(found),
        _ => None,
    }
}

/// The values that matter: a swap of unknown outcome makes its old value matter if its new one does.
fn live_values(ops: &[Op], finders: &IdMap<u64, Vec<usize>>) -> NumberSet<u64> {
    let mut live: NumberSet<u64> = finders.keys().copied().collect();
    loop {
        let before = live.len();
        for op in ops {
            if let (Call::Swap { from: Some(from), to }, Outcome::Unknown) = (op.call, op.outcome)
                && live.contains(&to)
            {
                live.insert(from);
            }
        }
        if live.len() == before {
            return live;
        }
    }
}

/// Whether it changes nothing.
fn only_looks(op: &Op) -> bool {
    matches!((op.call, op.outcome), (Call::Read, _) | (Call::Swap { .. }, Outcome::Found(_)))
}

/// Whether it leaves what it leaves whatever was there.
fn is_blind(op: &Op) -> bool {
    matches!(op.call, Call::Write(_) | Call::Delete)
}

/// Checks the history of one key, absent at first. `ops` is in the order of beginnings. A violation
/// names the first answer that has no explanation, whatever came later.
pub(super) fn check(ops: &[Op]) -> Verdict {
    let verdict = search(ops);
    if !matches!(verdict, Verdict::Violation(_)) {
        return verdict;
    }
    let mut ends: Vec<(u64, usize)> = ops.iter().enumerate().map(|(i, op)| (op.end, i)).collect();
    ends.retain(|(end, _)| *end != u64::MAX);
    ends.sort_unstable();
    let first = ends
        .partition_point(|(end, _)| !matches!(search(&until(ops, *end)), Verdict::Violation(_)));
    ends.get(first).map_or(verdict, |(_, index)| Verdict::Violation(*index))
}

/// The history as it was known then.
fn until(ops: &[Op], tick: u64) -> Vec<Op> {
    let begun = ops.iter().filter(|op| op.begin <= tick);
    let known = begun.map(|op| match op.end {
        end if end > tick => Op { outcome: Outcome::Unknown, end: u64::MAX, ..*op },
        _ => *op,
    });
    known.collect()
}

fn search(ops: &[Op]) -> Verdict {
    let mut finders: IdMap<u64, Vec<usize>> = IdMap::default();
    for (index, op) in ops.iter().enumerate() {
        if let Some(Some(value)) = finds(op) {
            finders.entry(value).or_default().push(index);
        }
    }
    let live = live_values(ops, &finders);
    let explains_nothing = |op: &Op| match (op.call, op.outcome) {
        (_, Outcome::NoEffect) | (Call::Read, Outcome::Unknown) => true,
        (Call::Delete, _) => false,
        (call, Outcome::Unknown) => {
            call.leaves().flatten().is_none_or(|value| !live.contains(&value))
        }
        _ => false,
    };
    let mut events: Vec<(u64, usize)> = Vec::with_capacity(2 * ops.len());
    for (index, op) in ops.iter().enumerate().filter(|(_, op)| !explains_nothing(op)) {
        events.push((op.begin, index));
        if op.end != u64::MAX {
            events.push((op.end, index));
        }
    }
    events.sort_unstable();
    let mut search = Search {
        ops,
        finders,
        live,
        place: vec![None; ops.len()],
        over: vec![false; ops.len()],
        open: Vec::new(),
        now: NumberSet::from_iter([(State::Absent, 0)]),
        stack: Vec::new(),
        seen: NumberSet::default(),
    };
    for (tick, index) in events {
        if tick == ops[index].begin {
            if !search.begins(index) {
                return Verdict::Undecided(index);
            }
        } else {
            match search.ends(index) {
                Verdict::Linearizable => {}
                other => return other,
            }
        }
    }
    Verdict::Linearizable
}

impl Search<'_> {
    fn begins(&mut self, index: usize) -> bool {
        let place = self.open.iter().position(Option::is_none).unwrap_or(self.open.len());
        if place == OPEN_MAX {
            return false;
        }
        if place == self.open.len() {
            self.open.push(None);
        }
        self.open[place] = Some(index);
        self.place[index] = Some(place as u8);
        true
    }

    /// The state after the operation takes effect; None if its answer says that it does not here.
    fn effect(&self, op: &Op, state: State) -> Option<State> {
        let is = |value: Option<u64>| match value {
            None => state == State::Absent,
            Some(value) => state == State::Value(value),
        };
        let leaves = |value: u64| {
            if self.live.contains(&value) { State::Value(value) } else { State::Dead }
        };
        match (op.call, op.outcome) {
            (_, Outcome::NoEffect) | (Call::Read, Outcome::Unknown | Outcome::Done) => None,
            (Call::Read, Outcome::Found(found)) => is(found).then_some(state),
            (Call::Write(to), _) => Some(leaves(to)),
            (Call::Exchange(to), Outcome::Found(found)) => is(found).then(|| leaves(to)),
            (Call::Exchange(to), _) => Some(leaves(to)),
            (Call::Delete, _) => Some(State::Absent),
            (Call::Swap { from, .. }, Outcome::Found(found)) => {
                (is(found) && found != from).then_some(state)
            }
            (Call::Swap { from, to }, _) => is(from).then(|| leaves(to)),
        }
    }

    /// Whether somebody other than `index` is still to find the value that is there.
    fn is_awaited(&self, (state, done): Configuration, index: usize) -> bool {
        let State::Value(value) = state else { return false };
        let Some(finders) = self.finders.get(&value) else { return false };
        finders.iter().any(|finder| {
            let has = |place: u8| done & (1 << place) != 0;
            *finder != index && !self.over[*finder] && !self.place[*finder].is_some_and(has)
        })
    }

    /// Everything that only looks and fits has looked.
    fn looked(&self, (state, mut done): Configuration) -> Configuration {
        for (place, index) in self.open.iter().enumerate() {
            if let Some(op) = index.map(|index| &self.ops[index])
                && done & (1 << place) == 0
                && only_looks(op)
                && self.effect(op, state).is_some()
            {
                done |= 1 << place;
            }
        }
        (state, done)
    }

    /// The open writes whose values nobody finds.
    fn dead_writes(&self) -> u128 {
        let mut places = 0;
        for (place, index) in self.open.iter().enumerate() {
            if let Some(index) = index
                && let Call::Write(value) = self.ops[*index].call
                && !self.live.contains(&value)
            {
                places |= 1 << place;
            }
        }
        places
    }

    /// The open delete that goes first.
    fn first_delete(&self, done: u128) -> Option<usize> {
        let open = self.open.iter().enumerate();
        let deletes = open.filter_map(|(place, index)| {
            let index = (*index)?;
            let waits = self.ops[index].call == Call::Delete && done & (1 << place) == 0;
            waits.then_some((self.ops[index].end, place))
        });
        deletes.min().map(|(_, place)| place)
    }

    fn ends(&mut self, index: usize) -> Verdict {
        let place = self.place[index].expect("it is open");
        let bit = 1u128 << place;
        let dead = self.dead_writes();
        self.seen.clear();
        let mut stack = std::mem::take(&mut self.stack);
        stack.extend(self.now.drain());
        while let Some(configuration) = stack.pop() {
            let configuration = self.looked(configuration);
            if !self.seen.insert(configuration) {
                continue;
            }
            if self.seen.len() > CONFIGURATIONS_MAX {
                return Verdict::Undecided(index);
            }
            let (state, done) = configuration;
            if done & bit != 0 {
                self.now.insert((state, done & !bit));
                continue;
            }
            let first_delete = self.first_delete(done);
            for (other, name) in self.open.iter().enumerate() {
                let Some(name) = *name else { continue };
                let op = &self.ops[name];
                let waits = done & (1 << other) == 0;
                let is_late = op.call == Call::Delete && first_delete != Some(other);
                if !waits || is_late || only_looks(op) || self.is_awaited(configuration, name) {
                    continue;
                }
                if let Some(after) = self.effect(op, state) {
                    let along = if is_blind(op) { dead } else { 0 };
                    stack.push((after, done | along | 1 << other));
                }
            }
        }
        self.stack = stack;
        self.close(index);
        if self.now.is_empty() {
            return Verdict::Violation(index);
        }
        self.close_what_all_have_done();
        Verdict::Linearizable
    }

    fn close(&mut self, index: usize) {
        let place = self.place[index].take().expect("it is open");
        self.open[usize::from(place)] = None;
        self.over[index] = true;
    }

    /// An operation without an end that has taken effect whatever happened is not open any more.
    fn close_what_all_have_done(&mut self) {
        let all = self.now.iter().fold(u128::MAX, |all, (_, done)| all & done);
        let mut over = 0;
        for place in 0..self.open.len() {
            if all & (1 << place) != 0
                && let Some(index) =
                    self.open[place].filter(|index| self.ops[*index].end == u64::MAX)
            {
                over |= 1 << place;
                self.close(index);
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

    /// Every order of the operations that respects time, without any of the observations above.
    fn is_explained(ops: &[Op]) -> bool {
        fn go(ops: &[Op], done: u64, state: Option<u64>) -> bool {
            let waits = |index: usize| done & (1 << index) == 0;
            if (0..ops.len()).all(|i| !waits(i) || ops[i].end == u64::MAX) {
                return true;
            }
            let first_end = (0..ops.len()).filter(|i| waits(*i)).map(|i| ops[i].end).min();
            (0..ops.len()).filter(|i| waits(*i) && Some(ops[*i].begin) < first_end).any(|i| {
                let after = match (ops[i].call, ops[i].outcome) {
                    (Call::Read, Outcome::Unknown) => Some(state),
                    (Call::Read, Outcome::Found(found)) => (found == state).then_some(state),
                    (Call::Write(to), _) => Some(Some(to)),
                    (Call::Exchange(to), Outcome::Found(found)) => {
                        (found == state).then_some(Some(to))
                    }
                    (Call::Exchange(to), _) => Some(Some(to)),
                    (Call::Delete, _) => Some(None),
                    (Call::Swap { from, .. }, Outcome::Found(found)) => {
                        (found == state && found != from).then_some(state)
                    }
                    (Call::Swap { from, to }, _) => (from == state).then_some(Some(to)),
                    (_, Outcome::NoEffect | Outcome::Done) => unreachable!("not drawn"),
                };
                after.is_some_and(|after| go(ops, done | 1 << i, after))
            })
        }
        go(ops, 0, None)
    }

    #[test]
    fn the_search_says_what_trying_every_order_says() {
        let mut random = forebay_storage::sim_disk::SimRandom::new(3);
        let mut right = 0;
        for _ in 0..6_000 {
            let count = 3 + random.below(5);
            let mut ticks: Vec<u64> = (1..=2 * count as u64).collect();
            let mut ops = Vec::new();
            for index in 0..count {
                let mut draw = |ticks: &mut Vec<u64>| ticks.swap_remove(random.below(ticks.len()));
                let (a, b) = (draw(&mut ticks), draw(&mut ticks));
                let some = |random: &mut forebay_storage::sim_disk::SimRandom| {
                    let value = random.below(count + 2) as u64;
                    (value < count as u64).then_some(value)
                };
                let own = index as u64;
                let (from, found) = (some(&mut random), some(&mut random));
                let unknown = random.chance(1, 4);
                let (call, outcome) = match random.below(6) {
                    0 | 1 => (Call::Read, Outcome::Found(found)),
                    2 => (Call::Write(own), Outcome::Done),
                    3 => (Call::Exchange(own), Outcome::Found(found)),
                    4 => (Call::Delete, Outcome::Done),
                    _ if random.chance(1, 2) => (Call::Swap { from, to: own }, Outcome::Done),
                    _ => (Call::Swap { from, to: own }, Outcome::Found(found)),
                };
                let outcome = if unknown { Outcome::Unknown } else { outcome };
                ops.push(op(call, outcome, a.min(b), a.max(b)));
            }
            ops.sort_by_key(|op| op.begin);
            let verdict = check(&ops) == Verdict::Linearizable;
            assert_eq!(verdict, is_explained(&ops), "{ops:#?}");
            right += usize::from(verdict);
        }
        assert!((600..5_400).contains(&right), "{right} of 6000 were right");
    }
}
