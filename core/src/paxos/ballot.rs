//! Ballots: a round, and the number of the member that may use it.
//!
//! ```text
//!   63                              20 19                 0
//!   ┌─────────────────────────────────┬────────────────────┐
//!   │ round                           │ member number      │   one u64: also the log record's field
//!   └─────────────────────────────────┴────────────────────┘
//! ```
//!
//! Ballots are totally ordered and no two members share one ("Paxos Made Simple", section 2.4). A
//! member's identity is a random 64-bit id, too wide for the log record's field, so ballots carry
//! its *number*: the group's configuration hands numbers out in order and never again. A number
//! given by a configuration that was not chosen may be given again, which is why a member stands
//! for election only once it knows a *chosen* configuration that lists it.
//!
//! 20 bits of number: a group that replaces a member every hour runs for a century. 44 bits of
//! round: ten thousand elections a second for fifty years.

use crate::ids::Ballot;

/// A member's short name within its group, from 1; never used again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberNumber(pub u32);

const NUMBER_BITS: u32 = 20;

impl MemberNumber {
    /// The largest number that fits a ballot.
    pub const MAX: MemberNumber = MemberNumber((1 << NUMBER_BITS) - 1);
}

impl Ballot {
    /// The ballot of `number` in `round`.
    ///
    /// # Panics
    /// If either does not fit.
    #[must_use]
    pub fn of(round: u64, number: MemberNumber) -> Ballot {
        assert!(number <= MemberNumber::MAX && round < 1 << (64 - NUMBER_BITS));
        Ballot(round << NUMBER_BITS | u64::from(number.0))
    }

    /// The round.
    #[must_use]
    pub fn round(self) -> u64 {
        self.0 >> NUMBER_BITS
    }

    /// Whose ballot it is.
    #[must_use]
    pub fn number(self) -> MemberNumber {
        MemberNumber((self.0 & u64::from(MemberNumber::MAX.0)) as u32)
    }

    /// A ballot of `number` above this one, whoever owns this one.
    #[must_use]
    pub fn above(self, number: MemberNumber) -> Ballot {
        Ballot::of(self.round() + 1, number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_round_is_above_whatever_the_numbers() {
        let (low, high) = (MemberNumber(1), MemberNumber::MAX);
        assert!(Ballot::of(2, low) > Ballot::of(1, high));
        assert!(Ballot::of(1, high).above(low) > Ballot::of(1, high));
        assert_eq!(Ballot::of(7, high).round(), 7);
        assert_eq!(Ballot::of(7, high).number(), high);
    }

    #[test]
    fn the_sole_ballot_of_a_group_of_one_is_member_number_1_in_round_0() {
        assert_eq!(Ballot::of(0, MemberNumber(1)), Ballot(1));
    }
}
