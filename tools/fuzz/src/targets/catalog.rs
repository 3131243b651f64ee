//! Catalog entries: what a checkpoint keeps of a group. Input: an entry.

use forebay_core::ids::{Ballot, Lsn, Slot};
use forebay_core::liveness::Peer;
use forebay_core::paxos::{Az, Configuration, ConfigurationAt, MemberId, MemberRole};
use forebay_storage::store::catalog::{CatalogEntry, CatalogMember, catalog_group, catalog_key};
use forebay_storage::tree::{ChildRef, PageRef, Totals, TreeRef};

/// Accepted bytes are what their fields encode to.
pub fn run(data: &[u8]) {
    if let Some(entry) = CatalogEntry::decode(data) {
        assert_eq!(entry.encode(), data);
    }
    if let Some(group) = catalog_group(data) {
        assert_eq!(catalog_key(group), data);
    }
}

/// A member of a replicated group, an empty group, one with a tree, and a key.
pub fn seeds() -> Vec<Vec<u8>> {
    let page = PageRef { id: 5, crc: 1, blocks: 4, level: 1 };
    let root = ChildRef { page, totals: Totals { items: 3, bytes: 90, digest: 1 << 100 } };
    let entry = |tree, payload: &[u8]| CatalogEntry {
        members: 1,
        ballot: Ballot(1),
        chosen_slot: Slot(9),
        applied_slot: Slot(8),
        tree,
        member: None,
        payload: payload.to_vec(),
    };
    let founders = [(MemberId(7), Peer(1), Az(1)), (MemberId(8), Peer(2), Az(2))];
    let configuration = Configuration::bootstrap(&founders, 3).expect("two storage replicas");
    let member = CatalogMember {
        id: MemberId(7),
        role: MemberRole::Storage,
        chosen_origin: Ballot(1),
        trimmed_slot: Slot(3),
        last_slot: Slot(12),
        created_lsn: Lsn(0x5000),
        configurations: vec![ConfigurationAt { slot: Slot(0), configuration }],
        lost: false,
    };
    vec![
        CatalogEntry { member: Some(member), ..entry(TreeRef::EMPTY, b"words") }.encode(),
        entry(TreeRef::EMPTY, b"").encode(),
        entry(TreeRef { root: Some(root) }, b"the shard's own words").encode(),
        7u64.to_be_bytes().to_vec(),
    ]
}
