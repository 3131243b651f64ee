//! After a pause of this process nobody is judged before the sockets are drained.
//!
//! ```text
//!    meant to wake        SIGCONT
//!    ─────┼──────────────────┼─ poll ─ turn ─ poll ─ turn ─ poll ─ turn ───► time
//!         │  stopped         │    late, not yet  got bytes    nothing came:
//!                                               not yet      judge
//! ```
//!
//! A process that was stopped (SIGSTOP, a VM's pause, a swapped-out hour) wakes with an old view of
//! the world: by its clock every peer is silent, while their heartbeats lie in its own socket
//! buffers. So a shell asks [`PauseGuard::may_judge`] in each turn, and calls
//! [`forebay_core::liveness::Liveness::tick`] and [`super::Links::tick`] only if it says yes. It
//! says no in a turn that comes later than the shell meant to sleep, and goes on saying no while
//! polls still bring bytes, for a bounded time: one that floods must not stop the judging.
//!
//! A pause within a turn needs no care: the turn's `now` is older than the pause, and the next turn
//! is late.

use forebay_core::time::Nanos;

use super::LinkSettings;

/// See the module's docs.
#[derive(Clone, Copy, Debug)]
pub struct PauseGuard {
    late_nanos_max: u64,
    drain_nanos_max: u64,
    /// The shell meant to be back by then.
    expected_by: Option<Nanos>,
    draining_since: Option<Nanos>,
    heard: bool,
    pauses: u64,
}

impl PauseGuard {
    /// A guard of a process that starts now.
    #[must_use]
    pub fn new(settings: &LinkSettings) -> PauseGuard {
        PauseGuard {
            late_nanos_max: settings.late_nanos_max,
            drain_nanos_max: settings.drain_nanos_max,
            expected_by: None,
            draining_since: None,
            heard: false,
            pauses: 0,
        }
    }

    /// Bytes arrived from a peer.
    pub fn heard(&mut self) {
        self.heard = true;
    }

    /// Whether timers may say in this turn who is silent. If not, poll once more without sleeping
    /// and ask again.
    pub fn may_judge(&mut self, now: Nanos) -> bool {
        let late = self.expected_by.is_some_and(|by| now.since(by) > self.late_nanos_max);
        let heard = std::mem::take(&mut self.heard);
        self.expected_by = None;
        if late {
            self.pauses += 1;
            self.draining_since = Some(now);
            return false;
        }
        let Some(since) = self.draining_since else { return true };
        if heard && now.since(since) <= self.drain_nanos_max {
            return false;
        }
        self.draining_since = None;
        true
    }

    /// The turn ends; the shell will be back by `wake_at` (now, if it does not mean to sleep).
    pub fn sleeps_until(&mut self, wake_at: Nanos) {
        self.expected_by = Some(wake_at);
    }

    /// Pauses noticed.
    #[must_use]
    pub fn pauses(&self) -> u64 {
        self.pauses
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLI: u64 = Nanos::PER_MILLI;

    fn guard() -> PauseGuard {
        let mut guard = PauseGuard::new(&LinkSettings::DEFAULT);
        assert!(guard.may_judge(Nanos(0)));
        guard.sleeps_until(Nanos(100 * MILLI));
        guard
    }

    #[test]
    fn a_long_sleep_that_was_meant_is_no_pause() {
        let mut guard = guard();
        assert!(guard.may_judge(Nanos(101 * MILLI)));
        assert_eq!(guard.pauses(), 0);
    }

    #[test]
    fn nobody_is_judged_before_a_poll_brought_nothing() {
        let mut guard = guard();
        assert!(!guard.may_judge(Nanos(5000 * MILLI)));
        guard.sleeps_until(Nanos(5000 * MILLI));
        guard.heard();
        assert!(!guard.may_judge(Nanos(5001 * MILLI)));
        guard.sleeps_until(Nanos(5001 * MILLI));
        assert!(guard.may_judge(Nanos(5002 * MILLI)));
        assert_eq!(guard.pauses(), 1);
    }

    #[test]
    fn a_flood_does_not_stop_the_judging() {
        let mut guard = guard();
        let mut now = 5000 * MILLI;
        let mut turns = 0;
        while !guard.may_judge(Nanos(now)) {
            turns += 1;
            guard.heard();
            guard.sleeps_until(Nanos(now));
            now += MILLI;
        }
        assert_eq!(turns, 51);
    }
}
