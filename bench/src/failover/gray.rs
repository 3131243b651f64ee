//! Links that are broken between nodes that all live: nothing may stop, and nobody may be elected.
//!
//! ```text
//!   leader ──✗──► follower     the follower hears nothing, asks the other one, and keeps still
//!   leader ◄──✗── follower     the leader goes on with the other one's support
//!   follower ✗ follower        neither matters to the other
//!   follower ✗ everybody       it may not stand for election, and comes back without one
//! ```
//!
//! Links run through a relay ([`forebay_net::relay`]); a broken one holds bytes back, as a network does
//! whose packets are lost, and delivers them in the end.

use std::time::Duration;

use forebay_net::relay::{Relay, Way};

/// How long links are broken: several leases, and longer than a silent link is kept.
pub(super) const BROKEN: Duration = Duration::from_millis(2500);

/// Which links are broken, in which direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    FromLeader,
    ToLeader,
    Both,
    BetweenFollowers,
    Follower,
}

impl Cut {
    const ALL: [Cut; 5] =
        [Cut::FromLeader, Cut::ToLeader, Cut::Both, Cut::BetweenFollowers, Cut::Follower];

    /// The kinds come in turn.
    pub(super) fn of_trial(number: usize) -> Cut {
        Cut::ALL[number % Cut::ALL.len()]
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Cut::FromLeader => "leader to follower",
            Cut::ToLeader => "follower to leader",
            Cut::Both => "leader and follower, both ways",
            Cut::BetweenFollowers => "both followers, both ways",
            Cut::Follower => "a follower and everybody, both ways",
        }
    }

    /// The directions that are broken, between three nodes of which `leader` leads.
    fn directions(self, leader: usize) -> Vec<(usize, usize)> {
        let (near, far) = ((leader + 1) % 3, (leader + 2) % 3);
        match self {
            Cut::FromLeader => vec![(leader, near)],
            Cut::ToLeader => vec![(near, leader)],
            Cut::Both => vec![(leader, near), (near, leader)],
            Cut::BetweenFollowers => vec![(near, far), (far, near)],
            Cut::Follower => vec![(leader, near), (near, leader), (far, near), (near, far)],
        }
    }

    /// Breaks them, until [`Relay::heal`].
    pub(super) fn begin(self, relay: &Relay, leader: usize) {
        for (from, to) in self.directions(leader) {
            relay.set(from, to, Way::Hold);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_leader_keeps_a_follower_whatever_is_broken() {
        for cut in Cut::ALL {
            for leader in 0..3 {
                let broken = cut.directions(leader);
                let works =
                    |one, other| !broken.contains(&(one, other)) && !broken.contains(&(other, one));
                let kept = (0..3).filter(|node| *node != leader && works(leader, *node));
                assert!(kept.count() >= 1, "{}", cut.name());
                assert!(!broken.is_empty() && broken.iter().all(|(from, to)| from != to));
            }
        }
    }
}
