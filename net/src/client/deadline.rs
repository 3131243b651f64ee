//! The time that one operation has, over all its attempts.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::error::ClientError;

/// First and longest pause between attempts, at connecting and at a busy node.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// When an operation began and when it must be over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline {
    began: Instant,
    pub(super) at: Instant,
}

impl Deadline {
    pub(super) fn after(timeout: Duration) -> Deadline {
        let began = Instant::now();
        Deadline { began, at: began + timeout }
    }

    pub(super) fn waited(&self) -> Duration {
        self.began.elapsed()
    }

    pub(super) fn timeout(&self) -> ClientError {
        ClientError::Timeout { waited: self.waited() }
    }

    pub(super) fn is_over(&self) -> bool {
        Instant::now() >= self.at
    }

    /// Half of what is left.
    pub(super) fn half(&self) -> Instant {
        let now = Instant::now();
        now + self.at.saturating_duration_since(now) / 2
    }

    /// Waits, unless that would take all the time there is: false then, at once.
    pub(super) async fn pause(&self, length: Duration) -> bool {
        let enough = Instant::now() + length < self.at;
        if enough {
            sleep(length).await;
        }
        enough
    }
}

/// The pause after `failures` failures in a row: twice as long each time, up to a second; half of it is
/// random, so that clients of a restarted node do not come all at once.
pub(super) fn back_off(failures: u32) -> Duration {
    let longest = PAUSE_MIN.saturating_mul(1 << failures.saturating_sub(1).min(10)).min(PAUSE_MAX);
    // The standard library's only source of randomness; good enough to spread clients.
    let random = RandomState::new().build_hasher().finish();
    longest / 2 + (longest / 2).mul_f64(random as f64 / u64::MAX as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_second_and_half_of_each_is_random() {
        for (failures, longest_millis) in
            [(0, 10), (1, 10), (2, 20), (5, 160), (8, 1000), (99, 1000)]
        {
            let longest = Duration::from_millis(longest_millis);
            let pauses: Vec<_> = (0..50).map(|_| back_off(failures)).collect();
            assert!(pauses.iter().all(|pause| (longest / 2..=longest).contains(pause)));
            assert!(pauses.iter().any(|pause| *pause != pauses[0]));
        }
    }
}
