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

use forebay_core::ids::{Ballot, GroupId, Slot};

use crate::tree::TreeRef;
use crate::tree::page::CHILD_BYTES;

/// Version that this program writes, and the newest that it reads.
const VERSION: u8 = 1;
const TREE_AT: usize = 32;
const PAYLOAD_AT: usize = TREE_AT + CHILD_BYTES;

const _: () = assert!(PAYLOAD_AT == 80);

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
        bytes.extend_from_slice(&[VERSION, self.members, 0, 0]);
        bytes.extend_from_slice(&(self.payload.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&self.ballot.0.to_le_bytes());
        bytes.extend_from_slice(&self.chosen_slot.0.to_le_bytes());
        bytes.extend_from_slice(&self.applied_slot.0.to_le_bytes());
        bytes.extend_from_slice(&self.tree.encode());
        bytes.extend_from_slice(&self.payload);
        bytes
    }

    /// None if the bytes are not an entry that this program can read.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<CatalogEntry> {
        let u64_at = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let payload = bytes.get(PAYLOAD_AT..)?;
        let payload_bytes = u32::from_le_bytes(bytes[4..8].try_into().ok()?);
        if bytes[0] != VERSION || bytes[2..4] != [0, 0] || payload_bytes as usize != payload.len() {
            return None;
        }
        let tree = bytes[TREE_AT..PAYLOAD_AT].try_into().ok()?;
        Some(CatalogEntry {
            members: bytes[1],
            ballot: Ballot(u64_at(8)?),
            chosen_slot: Slot(u64_at(16)?),
            applied_slot: Slot(u64_at(24)?),
            tree: TreeRef::decode(&tree)?,
            payload: payload.to_vec(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> CatalogEntry {
        CatalogEntry {
            members: 1,
            ballot: Ballot(0x0102),
            chosen_slot: Slot(9),
            applied_slot: Slot(8),
            tree: TreeRef::EMPTY,
            payload: b"table".to_vec(),
        }
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
        let bytes = sample().encode();
        assert_eq!(CatalogEntry::decode(&bytes), Some(sample()));
        for end in 0..bytes.len() {
            assert_eq!(CatalogEntry::decode(&bytes[..end]), None);
        }
    }
}
