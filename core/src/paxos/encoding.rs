//! The bytes of a configuration: in the log's records, in checkpoints, and on the wire.
//!
//! # Configuration
//!
//! | offset | bytes | field | meaning |
//! |---|---|---|---|
//! | 0 | 1 | version | 1 |
//! | 1 | 1 | members | 1 to [`MEMBERS_MAX`] |
//! | 2 | 2 | zero | |
//! | 4 | 4 | next_number | the number that the next member gets |
//! | 8 | 24 × members | members | |
//!
//! # Member
//!
//! | offset | bytes | field | meaning |
//! |---|---|---|---|
//! | 0 | 8 | id | its identity |
//! | 8 | 4 | number | its name in ballots |
//! | 12 | 4 | peer | the shard that holds it |
//! | 16 | 2 | az | where that shard's node stands |
//! | 18 | 1 | role | 0 storage replica, 1 log replica |
//! | 19 | 5 | zero | |
//!
//! # Configuration with its slot
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 8 | slot of its entry |
//! | 8 | the rest | configuration |
//!
//! Integers are little-endian. A decoder takes only what an encoder writes: an unknown version, a
//! reserved byte that is not zero, or a broken invariant of [`Configuration`] is no configuration.

use super::ballot::MemberNumber;
use super::membership::{Az, Configuration, MEMBERS_MAX, Member, MemberId, MemberRole};
use super::message::ConfigurationAt;
use crate::ids::Slot;
use crate::liveness::Peer;

const VERSION: u8 = 1;
const HEADER_BYTES: usize = 8;
const MEMBER_BYTES: usize = 24;
const SLOT_BYTES: usize = 8;

/// Bytes of the largest configuration.
pub const CONFIGURATION_BYTES_MAX: usize = HEADER_BYTES + MEMBERS_MAX * MEMBER_BYTES;
/// Bytes of the largest configuration with its slot.
pub const CONFIGURATION_AT_BYTES_MAX: usize = SLOT_BYTES + CONFIGURATION_BYTES_MAX;

const _: () = assert!(MEMBERS_MAX <= u8::MAX as usize && CONFIGURATION_BYTES_MAX == 176);

impl Configuration {
    /// How many bytes it takes.
    #[must_use]
    pub fn encoded_bytes(&self) -> usize {
        HEADER_BYTES + self.members().len() * MEMBER_BYTES
    }

    /// Appends its bytes.
    pub fn encode(&self, to: &mut Vec<u8>) {
        let members = self.members();
        to.extend_from_slice(&[VERSION, members.len() as u8, 0, 0]);
        to.extend_from_slice(&self.next_number().to_le_bytes());
        for member in members {
            to.extend_from_slice(&member.id.0.to_le_bytes());
            to.extend_from_slice(&member.number.0.to_le_bytes());
            to.extend_from_slice(&member.peer.0.to_le_bytes());
            to.extend_from_slice(&member.az.0.to_le_bytes());
            let role = match member.role {
                MemberRole::Storage => 0,
                MemberRole::Log => 1,
            };
            to.extend_from_slice(&[role, 0, 0, 0, 0, 0]);
        }
    }

    /// Reads one from the start of `bytes`, and how many it took. None if it is not one that this
    /// program writes.
    #[must_use]
    pub fn decode_prefix(bytes: &[u8]) -> Option<(Configuration, usize)> {
        let (header, rest) = bytes.split_first_chunk::<HEADER_BYTES>()?;
        let [version, count, 0, 0, number @ ..] = *header else { return None };
        let count = usize::from(count);
        if version != VERSION || count > MEMBERS_MAX {
            return None;
        }
        let mut members = [Member::default(); MEMBERS_MAX];
        for (member, bytes) in members[..count].iter_mut().zip(rest.chunks_exact(MEMBER_BYTES)) {
            *member = decode_member(bytes)?;
        }
        let taken = HEADER_BYTES + count * MEMBER_BYTES;
        if bytes.len() < taken {
            return None;
        }
        let next_number = u32::from_le_bytes(number);
        Some((Configuration::from_parts(&members[..count], next_number)?, taken))
    }

    /// Reads one that fills `bytes`.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Configuration> {
        let (configuration, taken) = Configuration::decode_prefix(bytes)?;
        (taken == bytes.len()).then_some(configuration)
    }
}

fn decode_member(bytes: &[u8]) -> Option<Member> {
    let role = match bytes[18] {
        0 => MemberRole::Storage,
        1 => MemberRole::Log,
        _ => return None,
    };
    if bytes[19..] != [0; MEMBER_BYTES - 19] {
        return None;
    }
    Some(Member {
        id: MemberId(u64::from_le_bytes(bytes[..8].try_into().ok()?)),
        number: MemberNumber(u32::from_le_bytes(bytes[8..12].try_into().ok()?)),
        peer: Peer(u32::from_le_bytes(bytes[12..16].try_into().ok()?)),
        az: Az(u16::from_le_bytes(bytes[16..18].try_into().ok()?)),
        role,
    })
}

impl ConfigurationAt {
    /// Appends its bytes.
    pub fn encode(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(&self.slot.0.to_le_bytes());
        self.configuration.encode(to);
    }

    /// Reads one from the start of `bytes`, and how many it took. None if it is not one that this
    /// program writes.
    #[must_use]
    pub fn decode_prefix(bytes: &[u8]) -> Option<(ConfigurationAt, usize)> {
        let (slot, rest) = bytes.split_first_chunk::<SLOT_BYTES>()?;
        let (configuration, taken) = Configuration::decode_prefix(rest)?;
        let slot = Slot(u64::from_le_bytes(*slot));
        Some((ConfigurationAt { slot, configuration }, SLOT_BYTES + taken))
    }

    /// Reads one that fills `bytes`.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<ConfigurationAt> {
        let (at, taken) = ConfigurationAt::decode_prefix(bytes)?;
        (taken == bytes.len()).then_some(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::paxos::Change;

    fn sample() -> ConfigurationAt {
        let founders = [(MemberId(0x1111), Peer(1), Az(1)), (MemberId(0x2222), Peer(2), Az(2))];
        let configuration = Configuration::bootstrap(&founders, 3).unwrap();
        let add = Change::AddLogReplica { id: MemberId(0x3333), peer: Peer(7), az: Az(3) };
        let configuration = configuration.changed(add, 3).unwrap();
        let configuration =
            configuration.changed(Change::Remove { id: MemberId(0x2222) }, 3).unwrap();
        ConfigurationAt { slot: Slot(0x0102), configuration }
    }

    fn bytes() -> Vec<u8> {
        let mut bytes = Vec::new();
        sample().encode(&mut bytes);
        bytes
    }

    #[test]
    fn golden_bytes_of_a_configuration() {
        let mut expected = vec![2, 1, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 4, 0, 0, 0];
        expected.extend([0x11, 0x11, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0]);
        expected.extend([1, 0, 0, 0, 0, 0, 0, 0]);
        expected.extend([0x33, 0x33, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 7, 0, 0, 0]);
        expected.extend([3, 0, 1, 0, 0, 0, 0, 0]);
        assert_eq!(bytes(), expected);
        assert_eq!(sample().configuration.encoded_bytes(), expected.len() - SLOT_BYTES);
    }

    #[test]
    fn configurations_come_back_and_cut_or_longer_ones_are_refused() {
        let bytes = bytes();
        assert_eq!(ConfigurationAt::decode(&bytes), Some(sample()));
        for end in 0..bytes.len() {
            assert_eq!(ConfigurationAt::decode(&bytes[..end]), None, "cut at {end}");
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert_eq!(ConfigurationAt::decode(&longer), None);
        assert_eq!(ConfigurationAt::decode_prefix(&longer), Some((sample(), bytes.len())));
    }

    #[test]
    fn what_is_accepted_is_what_is_written() {
        let bytes = bytes();
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                if let Some(decoded) = ConfigurationAt::decode(&flipped) {
                    let mut again = Vec::new();
                    decoded.encode(&mut again);
                    assert_eq!(again, flipped, "byte {at}, bit {bit}");
                }
            }
        }
    }

    #[test]
    fn broken_invariants_are_refused() {
        let bytes = bytes();
        // Two members of one id, of one number, on one shard; log replicas only; a number to come.
        for (at, value) in [(40, 0x11), (48, 1), (52, 1), (34, 1), (12, 3)] {
            let mut broken = bytes.clone();
            broken[at] = value;
            if at == 40 {
                broken[41] = 0x11;
            }
            assert_eq!(ConfigurationAt::decode(&broken), None, "byte {at}");
        }
    }
}
