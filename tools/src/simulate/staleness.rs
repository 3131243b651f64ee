//! Eventual reads are as fresh as they say.
//!
//! ```text
//!   written, acknowledged ─────┐              asked ──────────────► answered: not that, age 300 ms
//!   ───────────────────────────┴─────┬──────────┴─────────────────────┴───────────────────────────►
//!                                    asked - 300 ms: what was acknowledged before must be there
//! ```
//!
//! A replica answers at some moment after it was asked, so its state holds at least what was chosen at
//! the asking less the age that it reports. A write that was acknowledged before that moment must show: a
//! ledger's entry is there, and a register does not hold a value that was certainly overwritten. What
//! is there must be something that was asked for. A replica beyond the bound that its reader states must
//! refuse.
//!
//! The age is by the replica's clock, whose rate may be wrong, and counts from what its leader has told
//! it: [`ALLOWED_NANOS`] is what a leader may take to say a thing again that a broken connection lost. What
//! it says again may be lost with the next connection, so each break since then has its own.

use super::history::{Call, Op, Outcome};
use super::ledger::Ledger;

const MILLI: u64 = 1_000_000;
/// See the module's docs.
const ALLOWED_NANOS: u64 = 100 * MILLI;
/// The most that an age can be too short by for the clock's sake, as a part of it.
const DRIFT_PART: u64 = 100;

/// What was read.
#[derive(Clone, Copy, Debug)]
pub(super) enum Read {
    Entry { entry: usize, found: bool },
    Register { key: usize, found: Option<u64> },
}

/// An answer to an eventual read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer {
    pub(super) node: usize,
    pub(super) asked_at: u64,
    pub(super) answered_at: u64,
    pub(super) age_millis: u64,
    pub(super) read: Read,
}

impl Answer {
    /// What was acknowledged by then must show, if connections broke at these times.
    fn complete_until(&self, breaks: &[u64]) -> u64 {
        let age = self.age_millis.saturating_mul(MILLI);
        let old = age.saturating_add(age / DRIFT_PART);
        let mut until = self.asked_at.saturating_sub(old.saturating_add(ALLOWED_NANOS));
        let end = breaks.partition_point(|at| *at <= self.answered_at);
        // The last one is in what is always allowed.
        for at in breaks[..end].iter().rev().skip(1) {
            if *at < until {
                break;
            }
            until = until.saturating_sub(ALLOWED_NANOS);
        }
        until
    }

    fn describe(&self) -> String {
        let seconds = |nanos: u64| nanos as f64 / 1e9;
        format!(
            "node {} answered {:?} at {:.6} s (asked at {:.6} s), and said that its state was {} ms old",
            self.node,
            self.read,
            seconds(self.answered_at),
            seconds(self.asked_at),
            self.age_millis
        )
    }
}

/// All of a run's eventual reads.
#[derive(Debug, Default)]
pub(super) struct Staleness {
    answers: Vec<Answer>,
    /// When connections between nodes broke, in order.
    breaks: Vec<u64>,
}

impl Staleness {
    /// A read was answered; `age_max_millis` is what its reader accepts, 0 any age.
    pub(super) fn answered(&mut self, answer: Answer, age_max_millis: u32) -> Result<(), String> {
        if age_max_millis > 0 && answer.age_millis > u64::from(age_max_millis) {
            return Err(format!(
                "{}, though at most {age_max_millis} ms were asked for",
                answer.describe()
            ));
        }
        self.answers.push(answer);
        Ok(())
    }

    /// A connection between two nodes breaks.
    pub(super) fn breaks(&mut self, now: u64) {
        self.breaks.push(now);
    }

    /// The first answer that was older than it said, or of what nobody wrote; when it came.
    pub(super) fn check(&self, ledger: &Ledger, keys: &[&[Op]]) -> Option<(u64, String)> {
        self.answers.iter().find_map(|answer| {
            let until = answer.complete_until(&self.breaks);
            let problem = match answer.read {
                Read::Entry { entry, found } => {
                    let since = ledger.there_since(entry);
                    let missed = since.filter(|since| !found && *since < until);
                    missed.map(|since| format!("it was there since {:.6} s", since as f64 / 1e9))
                }
                Read::Register { key, found } => overwritten(keys[key], found?, answer, until),
            };
            Some((answer.answered_at, format!("{}: {}", answer.describe(), problem?)))
        })
    }

    /// Answers.
    pub(super) fn len(&self) -> u64 {
        self.answers.len() as u64
    }
}

/// Why the register cannot have held `value` in the state that was read, which has what was acknowledged
/// until then.
fn overwritten(ops: &[Op], value: u64, answer: &Answer, until: u64) -> Option<String> {
    let leaves = |op: &&Op| op.call.leaves() == Some(Some(value));
    let Some(written) = ops.iter().find(leaves).filter(|op| op.began_at <= answer.answered_at)
    else {
        return Some("nobody had written that".to_owned());
    };
    if written.outcome == Outcome::NoEffect {
        return Some("that was refused without effect".to_owned());
    }
    // One that was not acknowledged may take effect at any later time.
    let certain = |op: &&Op| match (op.call, op.outcome) {
        (Call::Exchange(_), Outcome::Found(_)) => true,
        (Call::Read, _) => false,
        (_, outcome) => outcome == Outcome::Done,
    };
    let later = |op: &&Op| op.began_at > written.ended_at && op.ended_at < until;
    let over = ops.iter().filter(certain).rfind(later)?;
    Some(format!("it was overwritten, as was known at {:.6} s", over.ended_at as f64 / 1e9))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulate::history::History;

    fn answer(asked_at: u64, age_millis: u64, read: Read) -> Answer {
        Answer { node: 0, asked_at, answered_at: asked_at + 1, age_millis, read }
    }

    #[test]
    fn each_broken_connection_may_add_the_pause_before_a_leader_repeats_itself() {
        let answer = answer(2_000 * MILLI, 0, Read::Entry { entry: 0, found: false });
        let until = |breaks: &[u64]| {
            let breaks: Vec<u64> = breaks.iter().map(|millis| millis * MILLI).collect();
            answer.complete_until(&breaks) / MILLI
        };
        assert_eq!(until(&[]), 1_900);
        assert_eq!(until(&[1_950]), 1_900, "one loss is always allowed for");
        assert_eq!(until(&[1_910, 1_950]), 1_800);
        assert_eq!(until(&[1_700, 1_850, 1_910, 1_950, 2_300]), 1_600);
        assert_eq!(until(&[1_500, 1_950]), 1_900, "that was made good long ago");
    }

    #[test]
    fn an_answer_must_show_what_was_acknowledged_before_its_age() {
        let (mut ledger, mut history) = (Ledger::default(), History::new(1));
        let entry = ledger.ask(0, 0);
        ledger.acknowledged(entry, 1_000 * MILLI).unwrap();
        for (value, at) in [(7, 100), (8, 1_000)] {
            let name = history.begin(0, 0, Call::Write(value), (at - 50) * MILLI);
            history.end(name, Outcome::Done, at * MILLI);
        }
        let keys: Vec<&[Op]> = history.keys().collect();
        let late = |asked: u64, age: u64, read: Read| {
            let mut staleness = Staleness::default();
            staleness.answered(answer(asked * MILLI, age, read), 0).unwrap();
            staleness.check(&ledger, &keys).is_some()
        };
        for (read, is_old) in [
            (Read::Entry { entry, found: false }, true),
            (Read::Entry { entry, found: true }, false),
            (Read::Register { key: 0, found: Some(7) }, true),
            (Read::Register { key: 0, found: Some(8) }, false),
        ] {
            assert_eq!(late(2_000, 500, read), is_old, "{read:?}");
            assert!(!late(2_000, 1_500, read), "it said so: {read:?}");
        }
        assert!(
            late(2_000, u64::MAX, Read::Register { key: 0, found: Some(9) }),
            "nobody wrote it"
        );
        let read = Read::Entry { entry, found: true };
        let mut staleness = Staleness::default();
        assert!(staleness.answered(answer(2_000 * MILLI, 101, read), 100).is_err());
    }
}
