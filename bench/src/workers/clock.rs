//! How far another machine's clock is from this one, by round trips.
//!
//! ```text
//!   here    sent ──────────────╮            ╭──► returned      offset = ((received − sent)
//!                              ▼            │                           + (replied − returned)) / 2
//!   there                   received ─ replied                 error ≤ half of what the way took
//! ```
//!
//! The way there and the way back take unknown times whose sum is known, so the offset is known to
//! half of that sum, whatever the network does (Mills, RFC 5905, section 8, where the sum is the
//! delay). Of several rounds the one with the shortest way is believed. Both clocks are
//! CLOCK_BOOTTIME, so an offset of days says when the machines were started, and no more.

use forebay_core::time::Nanos;
use serde::{Deserialize, Serialize};

/// One question and its answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Round {
    /// Here.
    pub(super) sent: Nanos,
    /// There.
    pub(super) received: Nanos,
    /// There.
    pub(super) replied: Nanos,
    /// Here.
    pub(super) returned: Nanos,
}

impl Round {
    /// What the way took, there and back; None of an answer that is no answer.
    fn way_nanos(&self) -> Option<u64> {
        let here = self.returned.0.checked_sub(self.sent.0)?;
        here.checked_sub(self.replied.0.checked_sub(self.received.0)?)
    }
}

/// Another clock against this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Offset {
    /// It shows so much more.
    pub(super) nanos: i64,
    /// The truth is no further than this from it.
    pub(super) uncertainty_nanos: u64,
}

impl Offset {
    /// What the rounds tell; None if none of them makes sense.
    pub(super) fn of(rounds: &[Round]) -> Option<Offset> {
        let ways = rounds.iter().filter_map(|round| Some((round.way_nanos()?, round)));
        let (way, round) = ways.min_by_key(|(way, _)| *way)?;
        let there = i128::from(round.received.0) + i128::from(round.replied.0);
        let here = i128::from(round.sent.0) + i128::from(round.returned.0);
        let nanos = i64::try_from((there - here) / 2).ok()?;
        // Up, and one for the halving above.
        Some(Offset { nanos, uncertainty_nanos: way / 2 + 1 })
    }

    /// What that clock shows when this one shows `here`.
    pub(super) fn there(&self, here: Nanos) -> Nanos {
        Nanos(here.0.saturating_add_signed(self.nanos))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(offset: i64, out: u64, work: u64, back: u64) -> Round {
        let sent = Nanos(1_000_000);
        let received = Nanos((sent + out).0.saturating_add_signed(offset));
        let returned = sent + out + work + back;
        Round { sent, received, replied: received + work, returned }
    }

    #[test]
    fn the_truth_is_never_further_away_than_the_uncertainty() {
        for offset in [0, 5_000, -400_000, 86_400_000_000_000] {
            for (out, back) in [(10, 10), (100_000, 50), (50, 100_000), (0, 0), (7, 8)] {
                let estimate = Offset::of(&[round(offset, out, 3_000, back)]).unwrap();
                let error = estimate.nanos.abs_diff(offset);
                assert!(error <= estimate.uncertainty_nanos, "{offset} {out} {back}: {estimate:?}");
            }
        }
    }

    #[test]
    fn the_shortest_way_is_believed_and_nonsense_is_not() {
        let rounds = [round(500, 90_000, 10, 200), round(500, 60, 10, 60), round(500, 5, 1, 900)];
        let estimate = Offset::of(&rounds).unwrap();
        assert_eq!((estimate.nanos, estimate.uncertainty_nanos), (500, 61));
        assert_eq!(estimate.there(Nanos(1000)), Nanos(1500));
        let mut nonsense = rounds[1];
        nonsense.replied = Nanos(nonsense.received.0 + 1_000_000);
        assert_eq!(Offset::of(&[nonsense]), None, "it worked for longer than it was away");
        assert_eq!(Offset::of(&[]), None);
    }
}
