//! What a checkpoint stores of each group: one entry of the catalog tree, keyed by the group's id.
//!
//! ```text
//! offset bytes field
//!      0     1 version          1
//!      1     1 members          replicas of the group
//!      2     2 reserved         0
//!      4     4 payload_bytes
//!      8     8 ballot           that the group's leader won with, and the highest promised
//!     16     8 chosen_slot
//!     24     8 applied_slot     the tree is exactly the state at this slot
//!     32    48 tree             root page with checksum, digest, counts
//!     80       payload          the shard's own description of the group
//! ```
//!
//! Of a member of a replicated group the version is 3, `members` is 0, and between tree and payload
//! stand:
//!
//! ```text
//! offset bytes field
//!     80     8 member               its identity
//!     88     8 trimmed_slot         slots up to this one are not in the log
//!     96     8 last_slot            the last one that the log has an entry of
//!    104     8 created_lsn          records of the group before it are another member's
//!    112     1 role                 0 storage replica, 1 log replica
//!    113     1 flags                1: its promises are lost, and it takes no part any more
//!    114     2 reserved             0
//!    116     4 configurations_bytes
//!    120     8 chosen_origin        under which the entry at chosen_slot was proposed first; 0: not known
//!    128       configurations       in force after trimmed_slot, and all chosen since, with their slots
//! ```

use forebay_core::ids::{Ballot, GroupId, Lsn, Slot};
use forebay_core::paxos::{ConfigurationAt, MemberId, MemberRole};

use crate::log::member::{role_code, role_of};
use crate::tree::TreeRef;
use crate::tree::page::CHILD_BYTES;

/// Version of a group of one.
const VERSION: u8 = 1;
/// Version of a member of a replicated group, and the newest that this program reads.
const VERSION_MEMBER: u8 = 3;
const TREE_AT: usize = 32;
const PAYLOAD_AT: usize = TREE_AT + CHILD_BYTES;
const MEMBER_BYTES: usize = 48;
const FLAG_LOST: u8 = 1;

const _: () = assert!(PAYLOAD_AT == 80 && PAYLOAD_AT + MEMBER_BYTES == 128);

/// What a checkpoint stores of a member of a replicated group besides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatalogMember {
    /// Its identity.
    pub id: MemberId,
    /// What it keeps.
    pub role: MemberRole,
    /// The origin of the entry at the chosen slot; 0 if it is not known.
    pub chosen_origin: Ballot,
    /// Slots up to this one are not in the log.
    pub trimmed_slot: Slot,
    /// The last slot that the log has an entry of, chosen or not.
    pub last_slot: Slot,
    /// Records of the group before it are of an earlier member on this shard.
    pub created_lsn: Lsn,
    /// In force after `trimmed_slot`, and every one chosen since.
    pub configurations: Vec<ConfigurationAt>,
    /// Its promises are lost: it takes no part any more under this identity.
    pub lost: bool,
}

/// A group as its checkpoint has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatalogEntry {
    /// Replicas of the group.
    pub members: u8,
    /// Ballot that the group's leader won with, and the highest promised.
    pub ballot: Ballot,
    /// Last chosen slot.
    pub chosen_slot: Slot,
    /// The tree is exactly the state at this slot.
    pub applied_slot: Slot,
    /// The group's items.
    pub tree: TreeRef,
    /// Of a member of a replicated group.
    pub member: Option<CatalogMember>,
    /// The shard's own description of the group.
    pub payload: Vec<u8>,
}

/// The catalog's key of a group.
#[must_use]
pub fn catalog_key(group: GroupId) -> [u8; 8] {
    group.0.to_be_bytes()
}

/// The group that a catalog key names.
#[must_use]
pub fn catalog_group(key: &[u8]) -> Option<GroupId> {
    Some(GroupId(u64::from_be_bytes(key.try_into().ok()?)))
}

impl CatalogEntry {
    /// The catalog's value.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(PAYLOAD_AT + self.payload.len());
        let version = if self.member.is_some() { VERSION_MEMBER } else { VERSION };
        bytes.extend_from_slice(&[version, self.members, 0, 0]);
        bytes.extend_from_slice(&(self.payload.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&self.ballot.0.to_le_bytes());
        bytes.extend_from_slice(&self.chosen_slot.0.to_le_bytes());
        bytes.extend_from_slice(&self.applied_slot.0.to_le_bytes());
        bytes.extend_from_slice(&self.tree.encode());
        if let Some(member) = &self.member {
            member.encode(&mut bytes);
        }
        bytes.extend_from_slice(&self.payload);
        bytes
    }

    /// None if the bytes are not an entry that this program can read.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<CatalogEntry> {
        let u64_at = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let rest = bytes.get(PAYLOAD_AT..)?;
        let payload_bytes = u32::from_le_bytes(bytes[4..8].try_into().ok()?);
        let (member, payload) = match bytes[0] {
            VERSION => (None, rest),
            VERSION_MEMBER => {
                let (member, payload) = CatalogMember::decode(rest)?;
                (Some(member), payload)
            }
            _ => return None,
        };
        if bytes[2..4] != [0, 0] || payload_bytes as usize != payload.len() {
            return None;
        }
        let tree = bytes[TREE_AT..PAYLOAD_AT].try_into().ok()?;
        Some(CatalogEntry {
            members: bytes[1],
            ballot: Ballot(u64_at(8)?),
            chosen_slot: Slot(u64_at(16)?),
            applied_slot: Slot(u64_at(24)?),
            tree: TreeRef::decode(&tree)?,
            member,
            payload: payload.to_vec(),
        })
    }
}

impl CatalogMember {
    fn encode(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(&self.id.0.to_le_bytes());
        to.extend_from_slice(&self.trimmed_slot.0.to_le_bytes());
        to.extend_from_slice(&self.last_slot.0.to_le_bytes());
        to.extend_from_slice(&self.created_lsn.0.to_le_bytes());
        to.extend_from_slice(&[role_code(self.role), u8::from(self.lost), 0, 0, 0, 0, 0, 0]);
        to.extend_from_slice(&self.chosen_origin.0.to_le_bytes());
        let at = to.len();
        for configuration in &self.configurations {
            configuration.encode(to);
        }
        let configurations_bytes = (to.len() - at) as u32;
        to[at - 12..at - 8].copy_from_slice(&configurations_bytes.to_le_bytes());
    }

    /// The member at the start of `bytes`, and what follows it.
    fn decode(bytes: &[u8]) -> Option<(CatalogMember, &[u8])> {
        let (fixed, rest) = bytes.split_first_chunk::<MEMBER_BYTES>()?;
        let u64_at = |at: usize| Some(u64::from_le_bytes(fixed[at..at + 8].try_into().ok()?));
        let bytes = u32::from_le_bytes(fixed[36..40].try_into().ok()?);
        let (mut encoded, payload) = rest.split_at_checked(bytes as usize)?;
        let mut configurations: Vec<ConfigurationAt> = Vec::new();
        while !encoded.is_empty() {
            let (at, taken) = ConfigurationAt::decode_prefix(encoded)?;
            if configurations.last().is_some_and(|before| before.slot >= at.slot) {
                return None;
            }
            configurations.push(at);
            encoded = &encoded[taken..];
        }
        if fixed[33] > FLAG_LOST || fixed[34..36] != [0; 2] {
            return None;
        }
        let member = CatalogMember {
            id: MemberId(u64_at(0)?),
            role: role_of(fixed[32])?,
            chosen_origin: Ballot(u64_at(40)?),
            trimmed_slot: Slot(u64_at(8)?),
            last_slot: Slot(u64_at(16)?),
            created_lsn: Lsn(u64_at(24)?),
            configurations,
            lost: fixed[33] == FLAG_LOST,
        };
        Some((member, payload))
    }
}

#[cfg(test)]
mod tests {
    use forebay_core::liveness::Peer;
    use forebay_core::paxos::{Az, Configuration};

    use super::*;

    fn sample() -> CatalogEntry {
        CatalogEntry {
            members: 1,
            ballot: Ballot(0x0102),
            chosen_slot: Slot(9),
            applied_slot: Slot(8),
            tree: TreeRef::EMPTY,
            member: None,
            payload: b"table".to_vec(),
        }
    }

    fn member() -> CatalogEntry {
        let founder = [(MemberId(7), Peer(5), Az(6))];
        let configuration = Configuration::bootstrap(&founder, 3).unwrap();
        let member = CatalogMember {
            id: MemberId(0x0a0b),
            role: MemberRole::Log,
            chosen_origin: Ballot(0x0201),
            trimmed_slot: Slot(3),
            last_slot: Slot(12),
            created_lsn: Lsn(0x5000),
            configurations: vec![ConfigurationAt { slot: Slot(2), configuration }],
            lost: false,
        };
        CatalogEntry { members: 0, member: Some(member), ..sample() }
    }

    #[test]
    fn golden_bytes_of_a_member() {
        let mut expected = vec![3, 0, 0, 0, 5, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0];
        expected.extend_from_slice(&[9, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0]);
        expected.extend_from_slice(&[0; 48]);
        expected.extend_from_slice(&[0x0b, 0x0a, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]);
        expected.extend_from_slice(&[12, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0, 0, 0, 0, 0, 0]);
        expected.extend_from_slice(&[1, 0, 0, 0, 40, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0]);
        expected.extend_from_slice(&[2, 0, 0, 0, 0, 0, 0, 0]);
        expected.extend_from_slice(&[1, 1, 0, 0, 2, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0]);
        expected.extend_from_slice(&[1, 0, 0, 0, 5, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0]);
        expected.extend_from_slice(b"table");
        assert_eq!(member().encode(), expected);
        let mut lost = member();
        lost.member.as_mut().unwrap().lost = true;
        expected[113] = 1;
        assert_eq!(lost.encode(), expected);
        assert_eq!(CatalogEntry::decode(&expected), Some(lost));
        expected[113] = 2;
        assert_eq!(CatalogEntry::decode(&expected), None);
    }

    #[test]
    fn golden_bytes_of_an_entry() {
        let mut expected = vec![1, 1, 0, 0, 5, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0];
        expected.extend_from_slice(&[9, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0]);
        expected.extend_from_slice(&[0; 48]);
        expected.extend_from_slice(b"table");
        assert_eq!(sample().encode(), expected);
    }

    #[test]
    fn entries_come_back_and_cut_ones_are_refused() {
        for sample in [sample(), member()] {
            let bytes = sample.encode();
            assert_eq!(CatalogEntry::decode(&bytes), Some(sample));
            for end in 0..bytes.len() {
                assert_eq!(CatalogEntry::decode(&bytes[..end]), None);
            }
        }
    }
}
