//! Snapshots: a member gets the state of another one.
//!
//! ```text
//!   source                                        receiver
//!   pin the durable checkpoint's tree ─► head      begin_install(head)
//!   read_snapshot(after)  ─► part ─────────────►   install_part ─► pages, borrowed, written as they come
//!   read_snapshot(after)  ─► part ─────────────►   …
//!   release                                        all of it, and the digest is right ─► old tree listed
//!                                                      │ the next checkpoint:
//!                                                      ▼ new pages adopted, old ones freed, catalog
//!                                                  superblock durable ─► take_installed ─► the member's state
//! ```
//!
//! A group's tree in a durable checkpoint never changes, and says at which slot it is the group's
//! state. So a snapshot is that tree, kept from reuse ([`crate::space::SpaceMap::hold`]), and read in
//! key order like any range, a part at a time ([`send`]).
//!
//! **Atomic.** The receiver builds a new tree of pages that no checkpoint holds: on the disk they are
//! free ([`crate::space::SpaceMap::borrow`]). One checkpoint adopts them all, frees the old tree's,
//! and puts the new root into the catalog. Until its superblock is durable the member is what it was,
//! in memory and after a crash; from then on it is at the snapshot's slot, after a crash, and in
//! memory when its shell takes that ([`super::Store::take_installed`]); no other checkpoint begins in
//! between. In that time both trees are whole: freed pages stay as they are for a checkpoint more
//! (**Rule (page lifetime)**), and the frozen generation stays until the superblock is durable.
//!
//! **What the new state is.** The tree at the snapshot's slot S, and the entries held above S.
//! * A storage replica that is behind S holds applied entries in the overlay, all below S: they go.
//!   If it has passed S meanwhile (another leader had the log), the overlay is newer than the tree for
//!   all keys that it has, and stays.
//! * A log replica becomes a storage replica with its state at S. It holds chosen entries above S in
//!   its log only: they are read again and applied ([`behind`]). The shell lets it trim no further than
//!   S meanwhile ([`super::Store::trim_limit`]).
//! * Slots up to S that are not known to be chosen here leave the log: what it has there may be
//!   an old leader's.
//!
//! **Room.** Pages are borrowed only as far as admitted writes do not need them, and the file grows
//! ahead. On a full disk the install is given up, and pins are released: writes come first.
//!
//! **Digest.** What was built must have the items, the bytes and the content digest that the source's
//! root had. If not, it is given up and counted, and the shell asks another source.
//!
//! Left out: sending only what differs. Root digests make that possible, a subtree at a time. Without
//! it a snapshot must be done before the logs at the source have gone on past it: see
//! [`super::Store::must_trim`].

pub(super) mod behind;
pub(super) mod install;
pub(super) mod send;

use forebay_core::digest::Digest;

use super::{GroupOrdinal, Store};
use behind::Behind;
use install::Install;
use send::Pin;

pub use install::{InstallError, InstallProgress, InstallStage, Installed};
pub use send::{NotPinned, SnapshotPin, SnapshotRead};

/// What the store keeps of them.
#[derive(Debug, Default)]
pub(super) struct Snapshots {
    pins: Vec<Pin>,
    pins_issued: u64,
    install: Option<Box<Install>>,
    failed: Option<(GroupOrdinal, InstallError)>,
    pub(super) behind: Behind,
    /// Ever: installed, given up, and bytes of parts that were read for others.
    pub(super) installed: u64,
    pub(super) given_up: u64,
    pub(super) served_bytes: u64,
}

impl Store {
    /// The group leaves this shard.
    pub(super) fn end_snapshots_of(&mut self, group: GroupOrdinal) {
        self.drop_install_of(group);
        let pins = self.snapshots.pins.iter().filter(|pin| pin.group == group);
        let ids: Vec<SnapshotPin> = pins.map(|pin| pin.id).collect();
        ids.into_iter().for_each(|id| self.release_snapshot(id));
        self.snapshots.behind.forget(group);
    }
}

/// The digest of a tree's totals.
fn digest_of(totals: &crate::tree::Totals) -> Digest {
    Digest(totals.digest)
}
