//! How often what was not answered is tried again.
//!
//! ```text
//!     attempt      1    2    3    4     5      6 and later
//!     waits       40   40   40   80   160    320 ms, and up to as much again by chance
//!                 └── quick ──┘└──── doubled ──┘
//! ```
//!
//! A shard has thousands of groups, and they lose their leaders together. If each repeats its questions
//! at a fixed pace, and the answers to all of them take longer than that, questions pile up faster than
//! they are answered, heartbeats wait behind them, leases lapse, and there is more to ask: an election
//! storm that feeds itself and never ends (ten thousand groups after a node's restart: measured). So the
//! first attempts are quick, because a few groups elect in one round trip, and further ones back off
//! (Metcalfe and Boggs, "Ethernet", CACM 1976, section 3.5.2). What all groups of a shard ask at the
//! slowest pace is a fraction of what it can answer.
//!
//! *Invariant*: attempts are counted from the last time that a leader was heard, not per candidacy: one
//! that gives up and begins again is no first attempt.

/// Attempts before the wait grows.
const QUICK: u8 = 3;
/// Doublings after which it grows no more.
const DOUBLINGS_MAX: u8 = 3;
/// Attempts at the slowest pace.
pub(super) const SLOWEST: u8 = QUICK + DOUBLINGS_MAX;

/// How long to wait after so many attempts, before anything is drawn.
pub(super) fn wait_nanos(first_nanos: u64, attempts: u8) -> u64 {
    first_nanos.saturating_mul(1 << attempts.saturating_sub(QUICK).min(DOUBLINGS_MAX))
}

/// One more attempt. What is counted further makes no difference, and is not counted.
pub(super) fn count(attempts: u8) -> u8 {
    (attempts + 1).min(SLOWEST)
}

/// Whether the wait after so many attempts grows no more.
pub(super) fn is_slowest(attempts: u8) -> bool {
    attempts >= SLOWEST
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_attempts_are_quick_and_later_ones_wait_longer_up_to_a_bound() {
        let (mut attempts, mut waits) = (0, Vec::new());
        for _ in 0..10 {
            attempts = count(attempts);
            waits.push(wait_nanos(40, attempts));
        }
        assert_eq!(waits, [40, 40, 40, 80, 160, 320, 320, 320, 320, 320]);
        assert_eq!(wait_nanos(u64::MAX, u8::MAX), u64::MAX);
    }
}
