//! The ledger of acknowledged writes: keys that are written once and never again.
//!
//! ```text
//!   asked ──► acknowledged: there from now on, whatever happens
//!         ├─► refused:      never there
//!         └─► unknown:      there or not; once somebody saw it, there from then on
//! ```
//!
//! Every key of it is read again in the end.

/// What is known of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Asked for, or of unknown outcome.
    Open,
    Refused,
    /// It is there for all who ask after this moment.
    There {
        since: u64,
    },
}

/// A key, and who asked for it when.
#[derive(Clone, Copy, Debug)]
struct Entry {
    state: State,
    client: usize,
    asked_at: u64,
}

fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}

/// A key of the ledger, and when its read began.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    pub(super) entry: usize,
    /// It was known to be there.
    expected: bool,
}

/// See the module's docs.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    entries: Vec<Entry>,
    acknowledged: u64,
}

impl Ledger {
    /// A key that was never written.
    pub(super) fn ask(&mut self, client: usize, now: u64) -> usize {
        self.entries.push(Entry { state: State::Open, client, asked_at: now });
        self.entries.len() - 1
    }

    pub(super) fn acknowledged(&mut self, entry: usize, now: u64) -> Result<(), String> {
        self.acknowledged += 1;
        self.there(entry, now)
    }

    pub(super) fn refused(&mut self, entry: usize) -> Result<(), String> {
        match self.entries[entry].state {
            State::There { since } => Err(format!(
                "{} was refused without effect, but it was seen at {:.6} s",
                self.describe(entry),
                seconds(since)
            )),
            State::Open | State::Refused => {
                self.entries[entry].state = State::Refused;
                Ok(())
            }
        }
    }

    fn there(&mut self, entry: usize, now: u64) -> Result<(), String> {
        match self.entries[entry].state {
            State::Refused => {
                Err(format!("{} was refused without effect, and is there", self.describe(entry)))
            }
            State::Open => {
                self.entries[entry].state = State::There { since: now };
                Ok(())
            }
            State::There { .. } => Ok(()),
        }
    }

    /// Since when a key is known to be there, if it is.
    pub(super) fn there_since(&self, entry: usize) -> Option<u64> {
        match self.entries[entry].state {
            State::There { since } => Some(since),
            State::Open | State::Refused => None,
        }
    }

    /// A read begins.
    pub(super) fn read(&self, entry: usize) -> Reading {
        Reading { entry, expected: matches!(self.entries[entry].state, State::There { .. }) }
    }

    /// It is answered.
    pub(super) fn found(&mut self, reading: Reading, is: bool, now: u64) -> Result<(), String> {
        match (is, reading.expected) {
            (true, _) => self.there(reading.entry, now),
            (false, false) => Ok(()),
            (false, true) => {
                let State::There { since } = self.entries[reading.entry].state else {
                    unreachable!()
                };
                Err(format!(
                    "{} was acknowledged or seen at {:.6} s, and a read that began later does not \
                     find it at {:.6} s",
                    self.describe(reading.entry),
                    seconds(since),
                    seconds(now)
                ))
            }
        }
    }

    fn describe(&self, entry: usize) -> String {
        let Entry { client, asked_at, .. } = self.entries[entry];
        format!("ledger entry {entry}, written by client {client} at {:.6} s,", seconds(asked_at))
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Writes that were acknowledged.
    pub(super) fn acknowledgements(&self) -> u64 {
        self.acknowledged
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_acknowledged_or_seen_must_stay_and_what_was_refused_must_not_come() {
        let mut ledger = Ledger::default();
        let [kept, refused, open] = [0; 3].map(|client| ledger.ask(client, 1));
        let before = ledger.read(kept);
        ledger.acknowledged(kept, 5).unwrap();
        // A read that began before the answer may have missed it.
        ledger.found(before, false, 6).unwrap();
        let after = ledger.read(kept);
        assert!(ledger.found(after, false, 7).is_err());
        ledger.refused(refused).unwrap();
        let reading = ledger.read(refused);
        ledger.found(reading, false, 8).unwrap();
        assert!(ledger.found(reading, true, 8).is_err());
        let reading = ledger.read(open);
        ledger.found(reading, false, 9).unwrap();
        ledger.found(reading, true, 9).unwrap();
        let again = ledger.read(open);
        assert!(ledger.found(again, false, 10).is_err());
    }
}
