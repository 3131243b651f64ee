//! A turn's messages of all groups to one shard, as one archive.
//!
//! ```text
//!   payload (16-aligned)
//!   ┌───────────────────────────────┬───────────────┬──────────────────┬──────┐
//!   │ entries' bytes, each 8-aligned│ entries: kind,│ messages: group, │ root │
//!   │ copied here once, read here   │ length, origin│ from, to, body   │      │
//!   └───────────────────────────────┴───────────────┴──────────────────┴──────┘
//! ```
//!
//! [`BatchBuilder`] writes the entries' bytes into the frame's buffer while the turn goes on, and
//! the rest when the batch is finished; so a payload is copied once between the place where it is
//! staged and the socket. [`BatchReader`] validates all of it before it hands out the first
//! message. Entries belong to messages in order, and their bytes follow each other without a gap,
//! so that lengths say everything and nothing can overlap.
//!
//! Warm builders and readers do not allocate, but for elections.

use rkyv::rancor::{Failure, Fallible};
use rkyv::util::AlignedVec;
use rkyv::vec::{ArchivedVec, VecResolver};
use rkyv::with::InlineAsBox;
use rkyv::{Archive, Place, Serialize};

use super::PeerKind;
use super::error::PeerError;
use super::group::{ArchivedRecord, Body, Record, SLOT_MAX, ballot};
use crate::ids::{Ballot, GroupId, Slot};
use crate::limits::FRAME_BYTES_MAX;
use crate::paxos::{Configuration, EntryKind, MemberId, Message};

/// A batch that has grown to this is finished and sent; the last entry or message may exceed it.
pub const BATCH_BYTES: usize = 256 * 1024;
/// Messages of one batch, at most.
pub const BATCH_MESSAGES_MAX: usize = 4096;
/// Bytes of one entry, at most: the largest item's encoding, its key and some room.
pub const ENTRY_BYTES_MAX: usize = 8 * 1024 * 1024;

const ENTRY_ALIGN: usize = 8;
/// What a message's record takes in the archive, generously.
const RECORD_BYTES: usize = 160;
const ENTRY_RECORD_BYTES: usize = 16;

const _: () = assert!(size_of::<ArchivedRecord>() <= RECORD_BYTES);
const _: () = assert!(size_of::<ArchivedEntryRecord>() == ENTRY_RECORD_BYTES);
const _: () = assert!(BATCH_BYTES + ENTRY_BYTES_MAX + 4096 < FRAME_BYTES_MAX);
const _: () = assert!(crate::limits::ENCODED_ITEM_BYTES_MAX + 65_536 < ENTRY_BYTES_MAX);

/// Bytes in the output already, as a vector of the archive.
#[derive(Clone, Copy, Debug)]
struct Written {
    start: usize,
    bytes: usize,
}

impl Archive for Written {
    type Archived = ArchivedVec<u8>;
    type Resolver = VecResolver;

    fn resolve(&self, resolver: VecResolver, out: Place<ArchivedVec<u8>>) {
        ArchivedVec::resolve_from_len(self.bytes, resolver, out);
    }
}

impl<S: Fallible + ?Sized> Serialize<S> for Written {
    fn serialize(&self, _: &mut S) -> Result<VecResolver, S::Error> {
        Ok(VecResolver::from_pos(self.start))
    }
}

#[derive(Clone, Copy, Debug, Archive, Serialize)]
#[rkyv(derive(Debug))]
struct EntryRecord {
    origin: u64,
    bytes: u32,
    kind: u8,
}

#[derive(Debug, Archive, Serialize)]
struct Root<'a> {
    bytes: Written,
    #[rkyv(with = InlineAsBox)]
    entries: &'a [EntryRecord],
    #[rkyv(with = InlineAsBox)]
    messages: &'a [Record],
}

/// Between which members of which group a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Route {
    /// The group.
    pub group: GroupId,
    /// The member that says it.
    pub from: MemberId,
    /// The member that it is said to.
    pub to: MemberId,
}

/// What [`BatchBuilder::push_entries`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// How many entries went in; the message went in with them, unless there are none.
    pub entries: u32,
    /// The batch is full: finish it, and go on with the next slot in another one.
    pub full: bool,
}

/// Gathers messages. See the module's docs.
#[derive(Debug, Default)]
pub struct BatchBuilder {
    buffer: AlignedVec<16>,
    start: usize,
    records: Vec<Record>,
    entries: Vec<EntryRecord>,
    /// What the records will take in the archive, and what they point to.
    extra_bytes: usize,
}

impl BatchBuilder {
    /// Begins a batch at the end of `buffer`, which holds the frame's header and is returned by
    /// [`BatchBuilder::finish`].
    ///
    /// # Panics
    /// If a batch is open, or the buffer's length is not a multiple of 16.
    pub fn begin(&mut self, buffer: AlignedVec<16>) {
        assert!(self.is_empty() && self.buffer.is_empty(), "a batch is open");
        assert!(buffer.len().is_multiple_of(16), "archives begin at multiples of 16");
        self.start = buffer.len();
        self.buffer = buffer;
    }

    /// Whether there is no message in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Messages in it.
    #[must_use]
    pub fn messages(&self) -> usize {
        self.records.len()
    }

    /// About how long its frame will be.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.buffer.len() + self.extra_bytes
    }

    /// Whether it should be finished.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.bytes() >= BATCH_BYTES || self.records.len() >= BATCH_MESSAGES_MAX
    }

    fn record(&mut self, route: Route, entries: u32, body: Body) {
        self.extra_bytes += RECORD_BYTES + body.extra_bytes();
        let Route { group, from, to } = route;
        self.records.push(Record { group: group.0, from: from.0, to: to.0, entries, body });
    }

    /// Adds a message without entries; says no to one that no receiver would take.
    ///
    /// # Panics
    /// If it is an Accept or a Fetched, or the batch is full.
    pub fn push(&mut self, route: Route, message: &Message) -> bool {
        assert!(first_of(message).is_none(), "this message comes with entries");
        assert!(!self.is_full());
        let body = Body::of(message);
        let within = body.is_within_limits();
        if within {
            self.record(route, 0, body);
        }
        within
    }

    /// Adds an Accept or Fetched with its entries up to `last`: those that `entry` has, in order,
    /// until it has none, or the batch or `budget_bytes` are used up. The first entry goes in
    /// however large it is. No message goes in without an entry.
    ///
    /// # Panics
    /// If the message is another one, the batch is full, or an entry is longer than
    /// [`ENTRY_BYTES_MAX`], which the group could never replicate.
    pub fn push_entries<'e>(
        &mut self,
        route: Route,
        message: &Message,
        last: Slot,
        budget_bytes: usize,
        mut entry: impl FnMut(Slot) -> Option<(EntryKind, Ballot, &'e [u8])>,
    ) -> Pushed {
        let first = first_of(message).expect("only these two come with entries");
        assert!(!self.is_full());
        let before = self.buffer.len();
        let mut count = 0;
        let mut slot = first;
        let mut full = false;
        while slot <= last {
            let used = self.buffer.len() - before;
            full = self.bytes() >= BATCH_BYTES;
            if count > 0 && (full || used >= budget_bytes) {
                break;
            }
            full = false;
            let Some((kind, origin, bytes)) = entry(slot) else { break };
            let Some(kind) = wire_kind(kind) else { break };
            assert!(bytes.len() <= ENTRY_BYTES_MAX, "an entry of {} bytes", bytes.len());
            self.buffer.extend_from_slice(bytes);
            let padding = bytes.len().next_multiple_of(ENTRY_ALIGN) - bytes.len();
            self.buffer.extend_from_slice(&[0; ENTRY_ALIGN][..padding]);
            let (origin, bytes) = (origin.0, bytes.len() as u32);
            self.entries.push(EntryRecord { origin, bytes, kind });
            self.extra_bytes += ENTRY_RECORD_BYTES;
            count += 1;
            slot = slot.next();
        }
        if count > 0 {
            self.record(route, count, Body::of(message));
        }
        Pushed { entries: count, full }
    }

    /// Writes the rest of the archive and returns the buffer, without padding at its end.
    ///
    /// # Panics
    /// If there is no message in it.
    pub fn finish(&mut self) -> AlignedVec<16> {
        assert!(!self.is_empty(), "an empty batch is no message");
        let bytes = Written { start: self.start, bytes: self.buffer.len() - self.start };
        let root = Root { bytes, entries: &self.entries, messages: &self.records };
        let buffer = core::mem::take(&mut self.buffer);
        // The serializer fails only when its writer does, and a vector's writes do not.
        let buffer = rkyv::api::high::to_bytes_in::<_, Failure>(&root, buffer)
            .expect("serializing into memory succeeds");
        self.clear();
        buffer
    }

    /// Forgets the open batch; returns its buffer.
    pub fn abandon(&mut self) -> AlignedVec<16> {
        self.clear();
        core::mem::take(&mut self.buffer)
    }

    fn clear(&mut self) {
        self.records.clear();
        self.entries.clear();
        self.extra_bytes = 0;
    }
}

/// The first slot of the entries that come with a message, if any do.
fn first_of(message: &Message) -> Option<Slot> {
    match message {
        Message::Accept { first, .. } | Message::Fetched { first, .. } => Some(*first),
        _ => None,
    }
}

/// An entry that is damaged here is no entry for others.
fn wire_kind(kind: EntryKind) -> Option<u8> {
    match kind {
        EntryKind::NoOp => Some(0),
        EntryKind::Data => Some(1),
        EntryKind::Configuration => Some(2),
        EntryKind::Unknown => None,
    }
}

fn entry_kind(number: u8) -> Option<EntryKind> {
    match number {
        0 => Some(EntryKind::NoOp),
        1 => Some(EntryKind::Data),
        2 => Some(EntryKind::Configuration),
        _ => None,
    }
}

/// A batch that was validated.
#[derive(Clone, Copy)]
pub struct BatchReader<'a> {
    root: &'a ArchivedRoot<'a>,
}

impl core::fmt::Debug for BatchReader<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// A message of a batch.
#[derive(Debug)]
pub struct GroupMessage<'a> {
    /// Between whom.
    pub route: Route,
    /// What it says.
    pub message: Message,
    /// The entries that came with it.
    pub entries: Entries<'a>,
}

/// The entries that came with one message, in order of slots.
#[derive(Clone, Debug)]
pub struct Entries<'a> {
    records: core::slice::Iter<'a, ArchivedEntryRecord>,
    bytes: &'a [u8],
    slot: Slot,
}

/// An entry in the received frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Where it goes.
    pub slot: Slot,
    /// What it is; never [`EntryKind::Unknown`].
    pub kind: EntryKind,
    /// Under which it was proposed for the first time.
    pub origin: Ballot,
    /// Its bytes; none of a no-op, [`Configuration::encode`]'s of a configuration.
    pub bytes: &'a [u8],
}

impl Entry<'_> {
    /// The configuration that the entry is, if it is one.
    #[must_use]
    pub fn configuration(&self) -> Option<Configuration> {
        let is_one = self.kind == EntryKind::Configuration;
        is_one.then(|| Configuration::decode(self.bytes).expect("the batch was validated"))
    }
}

impl<'a> BatchReader<'a> {
    /// The batch that `payload` is. It must be aligned to 16 bytes, as frames are.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn validate(payload: &'a [u8]) -> Result<BatchReader<'a>, PeerError> {
        let kind = PeerKind::GroupBatch as u16;
        let root = rkyv::access::<ArchivedRoot<'_>, Failure>(payload)
            .map_err(|_| PeerError::Archive { kind, bytes: payload.len() })?;
        let reader = BatchReader { root };
        reader.check()?;
        Ok(reader)
    }

    fn check(&self) -> Result<(), PeerError> {
        let count = self.root.messages.len();
        if count == 0 {
            return Err(PeerError::Empty);
        }
        if count > BATCH_MESSAGES_MAX {
            return Err(PeerError::TooMany { what: "messages", count, max: BATCH_MESSAGES_MAX });
        }
        self.check_entries()?;
        let mut left = self.root.entries.len();
        for (index, record) in self.root.messages.iter().enumerate() {
            let (from, to) = (record.from.to_native(), record.to.to_native());
            if from == 0 || to == 0 || from == to {
                return Err(PeerError::Member { from, to });
            }
            let entries = record.entries.to_native();
            let first = first_of(&record.to_message()?);
            if first.is_some() != (entries > 0) || entries as usize > left {
                return Err(PeerError::Entries { index, entries });
            }
            left -= entries as usize;
            if let Some(last) = first.map(|first| first.0 + u64::from(entries) - 1)
                && last > SLOT_MAX
            {
                return Err(PeerError::Slot { what: "the last", slot: last });
            }
        }
        if left > 0 {
            return Err(PeerError::Entries { index: count, entries: left as u32 });
        }
        Ok(())
    }

    /// Kinds, lengths, and that the lengths are those of the bytes.
    fn check_entries(&self) -> Result<(), PeerError> {
        let mut rest = &self.root.bytes[..];
        let mut expected = 0_u64;
        for entry in self.root.entries.iter() {
            let bytes = entry.bytes.to_native() as usize;
            if bytes > ENTRY_BYTES_MAX {
                let what = "bytes of an entry";
                return Err(PeerError::TooMany { what, count: bytes, max: ENTRY_BYTES_MAX });
            }
            let padded = bytes.next_multiple_of(ENTRY_ALIGN);
            expected += padded as u64;
            let Some((of_entry, after)) = rest.split_at_checked(padded) else {
                return Err(PeerError::EntryBytes { expected, found: self.root.bytes.len() });
            };
            rest = after;
            if let Some(byte) = of_entry[bytes..].iter().find(|byte| **byte != 0) {
                return Err(PeerError::Number { what: "padding", number: (*byte).into() });
            }
            ballot(entry.origin)?;
            let kind = entry_kind(entry.kind);
            let number = u16::from(entry.kind);
            match kind.ok_or(PeerError::Number { what: "a kind of entry", number })? {
                EntryKind::NoOp if bytes > 0 => {
                    return Err(PeerError::TooMany {
                        what: "bytes of a no-op",
                        count: bytes,
                        max: 0,
                    });
                }
                EntryKind::Configuration => {
                    let configuration = Configuration::decode(&of_entry[..bytes]);
                    configuration.ok_or(PeerError::Configuration { bytes })?;
                }
                _ => {}
            }
        }
        if rest.is_empty() {
            return Ok(());
        }
        Err(PeerError::EntryBytes { expected, found: self.root.bytes.len() })
    }

    /// How many messages there are.
    #[must_use]
    pub fn messages(&self) -> usize {
        self.root.messages.len()
    }

    /// The messages, in the order in which they were sent.
    pub fn iter(&self) -> impl Iterator<Item = GroupMessage<'a>> + use<'a> {
        let root = self.root;
        let (mut entries, mut bytes) = (&root.entries[..], &root.bytes[..]);
        root.messages.iter().map(move |record| {
            let message = record.to_message().expect("the batch was validated");
            let count = record.entries.to_native() as usize;
            let (own, other) = entries.split_at(count);
            entries = other;
            let length: usize = own.iter().map(ArchivedEntryRecord::padded).sum();
            let (own_bytes, other_bytes) = bytes.split_at(length);
            bytes = other_bytes;
            let slot = first_of(&message).unwrap_or_default();
            let route = Route {
                group: GroupId(record.group.to_native()),
                from: MemberId(record.from.to_native()),
                to: MemberId(record.to.to_native()),
            };
            GroupMessage {
                route,
                message,
                entries: Entries { records: own.iter(), bytes: own_bytes, slot },
            }
        })
    }
}

impl ArchivedEntryRecord {
    fn padded(&self) -> usize {
        (self.bytes.to_native() as usize).next_multiple_of(ENTRY_ALIGN)
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Entry<'a>;

    fn next(&mut self) -> Option<Entry<'a>> {
        let record = self.records.next()?;
        let (own, rest) = self.bytes.split_at(record.padded());
        let slot = self.slot;
        self.bytes = rest;
        self.slot = slot.next();
        let kind = entry_kind(record.kind).expect("the batch was validated");
        let origin = Ballot(record.origin.to_native());
        Some(Entry { slot, kind, origin, bytes: &own[..record.bytes.to_native() as usize] })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.records.size_hint()
    }
}

impl ExactSizeIterator for Entries<'_> {}
