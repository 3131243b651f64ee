//! How a member gets a whole state: it asks for one part after the other.
//!
//! ```text
//!   receiver                                             source, a storage replica
//!      ◄───────────────── Offer (to a log replica that is to keep state)
//!      ── SnapshotAsk{transfer, at_least, part 0} ─────────►  pins a checkpoint
//!      ◄─ SnapshotPart{head, part 0, entries} ─────────────   reads, at its own pace
//!      ── SnapshotAsk{part 1, after the last key} ─────────►
//!      ◄─ SnapshotPart{head, part 1, entries, last} ───────
//!      ── SnapshotNote{Done} ──────────────────────────────►  lets go
//! ```
//!
//! Every message may be lost or come twice. The receiver owns the transfer: it draws its number, asks
//! again after silence, and goes elsewhere if that does not help. An ask says after which key the
//! part begins, so that the source needs to remember nothing but what it holds pinned.
//!
//! Entries of a part, one after the other:
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 2 | length of the key |
//! | 2 | 4 | length of the item |
//! | 6 | k | the encoded key |
//! | 6 + k | i | the encoded item |
//!
//! Every part repeats the *head*: slot, configuration, and what all items sum up to. What the
//! receiver has built must sum up to the same; see [`crate::digest`].

use rkyv::with::InlineAsBox;
use rkyv::{Archive, Serialize};

use super::batch::Route;
use super::error::PeerError;
use super::group::SLOT_MAX;
use crate::digest::Digest;
use crate::ids::{GroupId, Slot};
use crate::limits::{ENCODED_ITEM_BYTES_MAX, ENCODED_KEY_BYTES_MAX, FRAME_BYTES_MAX};
use crate::paxos::{ConfigurationAt, MemberId};

/// A source ends a part once it has this many bytes of entries; the last one may exceed it.
pub const PART_BYTES: usize = 128 * 1024;
/// Bytes of entries in one part, at most.
pub const PART_BYTES_MAX: usize = PART_BYTES + ENTRY_HEAD_BYTES + LARGEST_BYTES;
const LARGEST_BYTES: usize = ENCODED_KEY_BYTES_MAX + ENCODED_ITEM_BYTES_MAX;
/// What comes before an entry's key.
const ENTRY_HEAD_BYTES: usize = 6;

const _: () = assert!(PART_BYTES_MAX + 4096 < FRAME_BYTES_MAX);
const _: () = assert!(ENCODED_KEY_BYTES_MAX <= u16::MAX as usize);

/// What a [`SnapshotNote`] says. The numbers are the wire's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum NoteKind {
    /// A leader to a log replica: keep state from now on; ask me, or another, for a snapshot at
    /// `slot` or later.
    Offer = 1,
    /// A receiver to its source: let go of what you hold for this transfer.
    Done = 2,
    /// A source: my checkpoint does not reach that slot yet; ask again in a while.
    NotYet = 3,
    /// A source: this transfer is not known here (any more); begin anew.
    Unknown = 4,
    /// A source: enough others are being served; ask again in a while.
    Busy = 5,
    /// A source: nothing is to be had here; ask another.
    NotHere = 6,
}

impl NoteKind {
    /// Every kind.
    pub const ALL: [NoteKind; 6] = [
        NoteKind::Offer,
        NoteKind::Done,
        NoteKind::NotYet,
        NoteKind::Unknown,
        NoteKind::Busy,
        NoteKind::NotHere,
    ];
}

/// "Give me the part that begins after this key."
#[derive(Debug, Archive, Serialize)]
pub struct SnapshotAsk<'a> {
    /// The group.
    pub group: u64,
    /// The member that asks.
    pub from: u64,
    /// The member that is asked.
    pub to: u64,
    /// Random, drawn by the receiver.
    pub transfer: u64,
    /// A snapshot of an earlier slot is of no use.
    pub at_least: u64,
    /// Number of the part, from 0.
    pub part: u32,
    /// The last key that the receiver has; empty before the first part.
    #[rkyv(with = InlineAsBox)]
    pub after: &'a [u8],
}

/// A part of a snapshot.
#[derive(Debug, Archive, Serialize)]
pub struct SnapshotPart<'a> {
    /// The group.
    pub group: u64,
    /// The source.
    pub from: u64,
    /// The receiver.
    pub to: u64,
    /// As it was asked for.
    pub transfer: u64,
    /// The state is that after this slot.
    pub slot: u64,
    /// Items of the whole snapshot.
    pub items: u64,
    /// Bytes of their keys and items.
    pub bytes: u64,
    /// The lower half of their digest.
    pub digest_low: u64,
    /// The upper half of their digest.
    pub digest_high: u64,
    /// Number of the part, from 0.
    pub part: u32,
    /// Nothing comes after it.
    pub last: bool,
    /// [`ConfigurationAt::encode`]: in force after `slot`.
    #[rkyv(with = InlineAsBox)]
    pub configuration: &'a [u8],
    /// Keys and items, ascending.
    #[rkyv(with = InlineAsBox)]
    pub entries: &'a [u8],
}

/// Everything about a snapshot that is no part of it.
#[derive(Debug, Archive, Serialize)]
pub struct SnapshotNote {
    /// The group.
    pub group: u64,
    /// Who says it.
    pub from: u64,
    /// To whom.
    pub to: u64,
    /// Of which transfer; 0 in an offer.
    pub transfer: u64,
    /// See [`NoteKind`].
    pub slot: u64,
    /// A [`NoteKind`].
    pub note: u8,
}

/// What a snapshot is, and what it sums up to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotHead {
    /// The state is that after this slot.
    pub slot: Slot,
    /// In force after it.
    pub configuration: ConfigurationAt,
    /// Items.
    pub items: u64,
    /// Bytes of their keys and items.
    pub bytes: u64,
    /// Sum of their digests.
    pub digest: Digest,
}

/// What a peer says about a snapshot. All of it was validated, but for the order of the entries and
/// what they sum up to, which whoever builds a tree of them checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "one at a time, on the stack, and most are parts")]
pub enum SnapshotMessage<'a> {
    /// See [`SnapshotAsk`].
    Ask {
        /// A snapshot of an earlier slot is of no use.
        at_least: Slot,
        /// Number of the part.
        part: u32,
        /// The last key that the receiver has.
        after: &'a [u8],
    },
    /// See [`SnapshotPart`].
    Part {
        /// Of the whole.
        head: SnapshotHead,
        /// Number of the part.
        part: u32,
        /// Nothing comes after it.
        last: bool,
        /// For [`entries`].
        entries: &'a [u8],
    },
    /// See [`SnapshotNote`].
    Note {
        /// What it says.
        note: NoteKind,
        /// See [`NoteKind`].
        slot: Slot,
    },
}

fn checked_route(group: u64, from: u64, to: u64) -> Result<Route, PeerError> {
    if from == 0 || to == 0 || from == to {
        return Err(PeerError::Member { from, to });
    }
    Ok(Route { group: GroupId(group), from: MemberId(from), to: MemberId(to) })
}

fn checked_slot(what: &'static str, slot: u64) -> Result<Slot, PeerError> {
    if slot > SLOT_MAX { Err(PeerError::Slot { what, slot }) } else { Ok(Slot(slot)) }
}

/// A message with whom it goes between, and its transfer.
pub(super) type Checked<'a> = (Route, u64, SnapshotMessage<'a>);

impl ArchivedSnapshotAsk<'_> {
    pub(super) fn check(&self) -> Result<Checked<'_>, PeerError> {
        let route =
            checked_route(self.group.to_native(), self.from.to_native(), self.to.to_native())?;
        let (count, max) = (self.after.len(), ENCODED_KEY_BYTES_MAX);
        if count > max {
            return Err(PeerError::TooMany { what: "bytes of a key", count, max });
        }
        let at_least = checked_slot("of a snapshot", self.at_least.to_native())?;
        let (part, after) = (self.part.to_native(), &*self.after);
        Ok((route, self.transfer.to_native(), SnapshotMessage::Ask { at_least, part, after }))
    }
}

impl ArchivedSnapshotPart<'_> {
    pub(super) fn check(&self) -> Result<Checked<'_>, PeerError> {
        let route =
            checked_route(self.group.to_native(), self.from.to_native(), self.to.to_native())?;
        let slot = checked_slot("of a snapshot", self.slot.to_native())?;
        let bytes = self.configuration.len();
        let configuration = ConfigurationAt::decode(&self.configuration)
            .filter(|at| at.slot <= slot)
            .ok_or(PeerError::Configuration { bytes })?;
        let (count, max) = (self.entries.len(), PART_BYTES_MAX);
        if count > max {
            return Err(PeerError::TooMany { what: "bytes of a part", count, max });
        }
        let mut known = 0;
        for (key, item) in entries(&self.entries) {
            known += ENTRY_HEAD_BYTES + key.len() + item.len();
        }
        if known != count {
            return Err(PeerError::EntryBytes { expected: known as u64, found: count });
        }
        let (low, high) = (self.digest_low.to_native(), self.digest_high.to_native());
        let head = SnapshotHead {
            slot,
            configuration,
            items: self.items.to_native(),
            bytes: self.bytes.to_native(),
            digest: Digest(u128::from(high) << 64 | u128::from(low)),
        };
        let (part, last, entries) = (self.part.to_native(), self.last, &*self.entries);
        let message = SnapshotMessage::Part { head, part, last, entries };
        Ok((route, self.transfer.to_native(), message))
    }
}

impl ArchivedSnapshotNote {
    pub(super) fn check(&self) -> Result<Checked<'static>, PeerError> {
        let route =
            checked_route(self.group.to_native(), self.from.to_native(), self.to.to_native())?;
        let note = NoteKind::ALL.into_iter().find(|kind| *kind as u8 == self.note);
        let number = u16::from(self.note);
        let note = note.ok_or(PeerError::Number { what: "note of a snapshot", number })?;
        let slot = checked_slot("of a snapshot", self.slot.to_native())?;
        Ok((route, self.transfer.to_native(), SnapshotMessage::Note { note, slot }))
    }
}

impl<'a> SnapshotPart<'a> {
    /// A part of the snapshot that `head` describes; `configuration` holds its bytes meanwhile.
    #[must_use]
    pub fn new(
        route: Route,
        transfer: u64,
        head: &SnapshotHead,
        (part, last): (u32, bool),
        entries: &'a [u8],
        configuration: &'a mut Vec<u8>,
    ) -> SnapshotPart<'a> {
        configuration.clear();
        head.configuration.encode(configuration);
        SnapshotPart {
            group: route.group.0,
            from: route.from.0,
            to: route.to.0,
            transfer,
            slot: head.slot.0,
            items: head.items,
            bytes: head.bytes,
            digest_low: head.digest.0 as u64,
            digest_high: (head.digest.0 >> 64) as u64,
            part,
            last,
            configuration,
            entries,
        }
    }
}

/// Appends an entry to a part.
pub fn push_entry(key: &[u8], item: &[u8], to: &mut Vec<u8>) {
    let key_bytes = u16::try_from(key.len()).expect("keys are short");
    let item_bytes = u32::try_from(item.len()).expect("items are bounded");
    to.extend_from_slice(&key_bytes.to_le_bytes());
    to.extend_from_slice(&item_bytes.to_le_bytes());
    to.extend_from_slice(key);
    to.extend_from_slice(item);
}

/// Key and item.
pub type PartEntry<'a> = (&'a [u8], &'a [u8]);

/// The entry at the start of `bytes`, and what follows it; None if there is none, or it is out of
/// bounds.
#[must_use]
pub fn split_entry(bytes: &[u8]) -> Option<(PartEntry<'_>, &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<ENTRY_HEAD_BYTES>()?;
    let [k0, k1, i0, i1, i2, i3] = *head;
    let key_bytes = usize::from(u16::from_le_bytes([k0, k1]));
    let item_bytes = u32::from_le_bytes([i0, i1, i2, i3]) as usize;
    if key_bytes > ENCODED_KEY_BYTES_MAX || item_bytes > ENCODED_ITEM_BYTES_MAX || item_bytes == 0 {
        return None;
    }
    let (key, rest) = rest.split_at_checked(key_bytes)?;
    let (item, rest) = rest.split_at_checked(item_bytes)?;
    Some(((key, item), rest))
}

/// The entries of a part, up to the first that is none.
pub fn entries(mut bytes: &[u8]) -> impl Iterator<Item = PartEntry<'_>> {
    std::iter::from_fn(move || {
        let (entry, rest) = split_entry(bytes)?;
        bytes = rest;
        Some(entry)
    })
}
