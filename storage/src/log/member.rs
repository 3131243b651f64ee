//! Records of replicated groups: what a member of one must not forget.
//!
//! Every record has the header of [`super::format`]; what its fields mean, and the payload:
//!
//! | kind | slot | ballot | payload |
//! |---|---|---|---|
//! | PUT, DELETE | of the entry | under which it is accepted | as in a group of one |
//! | NO_OP | of the entry | under which it is accepted | none |
//! | CONFIGURATION | of the entry | under which it is accepted | [`Configuration::encode`] |
//! | PROMISE | 0 | the one promised | none |
//! | CHOSEN | every slot up to it is chosen | 0 | none |
//! | BASE | the member's entries begin after it | 0 | [`ConfigurationAt::encode`], in force after it |
//! | MEMBER_CREATE | 0 | 0 | [`MemberCreate`] |
//! | GROUP_DROP | 0 | 0 | none; the member is gone from this shard |
//!
//! An entry may be there more than once: accepted again under a higher ballot, and copied to the
//! log's head by a checkpoint. The one with the highest ballot counts; of one ballot all are equal.
//!
//! **CHOSEN** costs 32 bytes in a batch that is written anyway: it goes before the entries of a
//! range when the watermark has moved since the last one. What it is behind, a member learns from
//! the next leader.
//!
//! [`Configuration::encode`]: forebay_core::paxos::Configuration::encode
//! [`ConfigurationAt::encode`]: forebay_core::paxos::ConfigurationAt::encode

use forebay_core::ids::Slot;
use forebay_core::paxos::{Configuration, ConfigurationAt, MemberId, MemberRole};

/// The payload of [`super::RecordKind::MEMBER_CREATE`].
///
/// | offset | bytes | field | meaning |
/// |---|---|---|---|
/// | 0 | 1 | version | 1 |
/// | 1 | 1 | role | 0 storage replica, 1 log replica |
/// | 2 | 2 | configuration_bytes | 0 for a member that joins and knows nothing yet |
/// | 4 | 4 | zero | |
/// | 8 | 8 | member | its identity |
/// | 16 | configuration_bytes | configuration | the group's first, in force from slot 1 on |
/// | | the rest | payload | the shard's own description of the group |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberCreate<'a> {
    /// Its identity.
    pub member: MemberId,
    /// What it keeps.
    pub role: MemberRole,
    /// The group's first configuration; none for a member that joins.
    pub configuration: Option<Configuration>,
    /// The shard's own description of the group.
    pub payload: &'a [u8],
}

const VERSION: u8 = 1;
const HEADER_BYTES: usize = 16;

impl<'a> MemberCreate<'a> {
    /// What comes before the shard's own description.
    #[must_use]
    pub fn prefix(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION, role_code(self.role), 0, 0, 0, 0, 0, 0];
        bytes.extend_from_slice(&self.member.0.to_le_bytes());
        if let Some(configuration) = &self.configuration {
            configuration.encode(&mut bytes);
        }
        let configuration_bytes = (bytes.len() - HEADER_BYTES) as u16;
        bytes[2..4].copy_from_slice(&configuration_bytes.to_le_bytes());
        bytes
    }

    /// None if the bytes are not a payload that this program writes.
    #[must_use]
    pub fn decode(bytes: &'a [u8]) -> Option<MemberCreate<'a>> {
        let (header, rest) = bytes.split_first_chunk::<HEADER_BYTES>()?;
        let [VERSION, role, low, high, 0, 0, 0, 0, id @ ..] = *header else { return None };
        let (configuration, payload) =
            rest.split_at_checked(u16::from_le_bytes([low, high]).into())?;
        let configuration = match configuration {
            [] => None,
            bytes => Some(Configuration::decode(bytes)?),
        };
        let member = MemberId(u64::from_le_bytes(id));
        Some(MemberCreate { member, role: role_of(role)?, configuration, payload })
    }

    /// The configuration with its slot.
    #[must_use]
    pub fn first(&self) -> Option<ConfigurationAt> {
        self.configuration.map(|configuration| ConfigurationAt { slot: Slot(0), configuration })
    }
}

/// A role's byte.
pub(crate) fn role_code(role: MemberRole) -> u8 {
    match role {
        MemberRole::Storage => 0,
        MemberRole::Log => 1,
    }
}

/// The role that a byte stands for.
pub(crate) fn role_of(code: u8) -> Option<MemberRole> {
    match code {
        0 => Some(MemberRole::Storage),
        1 => Some(MemberRole::Log),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use forebay_core::liveness::Peer;
    use forebay_core::paxos::Az;

    use super::*;

    fn sample(configuration: Option<Configuration>) -> MemberCreate<'static> {
        let member = MemberId(0x0807_0605_0403_0201);
        MemberCreate { member, role: MemberRole::Log, configuration, payload: b"table" }
    }

    fn bytes(create: &MemberCreate<'_>) -> Vec<u8> {
        [&create.prefix(), create.payload].concat()
    }

    #[test]
    fn golden_bytes_of_a_member() {
        let mut expected = vec![1, 1, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
        expected.extend_from_slice(b"table");
        assert_eq!(bytes(&sample(None)), expected);
        let founder = [(MemberId(9), Peer(2), Az(3))];
        let configuration = Configuration::bootstrap(&founder, 3).unwrap();
        let mut expected = vec![1, 1, 32, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
        expected.extend([1, 1, 0, 0, 2, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]);
        expected.extend([2, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]);
        expected.extend_from_slice(b"table");
        assert_eq!(bytes(&sample(Some(configuration))), expected);
    }

    #[test]
    fn members_come_back_and_cut_ones_are_refused() {
        let founder = [(MemberId(9), Peer(2), Az(3))];
        let create = sample(Some(Configuration::bootstrap(&founder, 3).unwrap()));
        let bytes = bytes(&create);
        assert_eq!(MemberCreate::decode(&bytes), Some(create));
        for end in 0..bytes.len() - create.payload.len() {
            assert_eq!(MemberCreate::decode(&bytes[..end]), None, "cut at {end}");
        }
    }
}
