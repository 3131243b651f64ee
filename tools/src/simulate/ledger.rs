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
    entries: Vec<State>,
    acknowledged: u64,
}

impl Ledger {
    /// A key that was never written.
    pub(super) fn ask(&mut self) -> usize {
        self.entries.push(State::Open);
        self.entries.len() - 1
    }

    pub(super) fn acknowledged(&mut self, entry: usize, now: u64) -> Result<(), String> {
        self.acknowledged += 1;
        self.there(entry, now)
    }

    pub(super) fn refused(&mut self, entry: usize) -> Result<(), String> {
        match self.entries[entry] {
            State::There { since } => Err(format!(
                "the write of ledger entry {entry} was refused without effect, but it was seen at \
                 {since} ns"
            )),
            State::Open | State::Refused => {
                self.entries[entry] = State::Refused;
                Ok(())
            }
        }
    }

    fn there(&mut self, entry: usize, now: u64) -> Result<(), String> {
        match self.entries[entry] {
            State::Refused => Err(format!(
                "ledger entry {entry} is there, but its write was refused without effect"
            )),
            State::Open => {
                self.entries[entry] = State::There { since: now };
                Ok(())
            }
            State::There { .. } => Ok(()),
        }
    }

    /// A read begins.
    pub(super) fn read(&self, entry: usize) -> Reading {
        Reading { entry, expected: matches!(self.entries[entry], State::There { .. }) }
    }

    /// It is answered.
    pub(super) fn found(&mut self, reading: Reading, is: bool, now: u64) -> Result<(), String> {
        match (is, reading.expected) {
            (true, _) => self.there(reading.entry, now),
            (false, false) => Ok(()),
            (false, true) => {
                let State::There { since } = self.entries[reading.entry] else { unreachable!() };
                Err(format!(
                    "ledger entry {} was there at {since} ns, and is gone at {now} ns",
                    reading.entry
                ))
            }
        }
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
        let (kept, refused, open) = (ledger.ask(), ledger.ask(), ledger.ask());
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
