//! The operations in flight. Whatever memory the kernel may touch on behalf of an operation is
//! owned by its entry here, from submission to last completion, also when the connection or the
//! machine has long moved on.
//!
//! ```text
//!   user_data   63     62 ........ 32  31 ............ 0
//!               part   generation      index in the slab
//! ```
//!
//! The generation tells a late completion of a former operation from one of the present user of the
//! slot. The part bit tells the flush of a linked pair from its write.
//!
//! Invariant: an entry leaves the slab only after the completion without F_MORE of each of its
//! parts.

use forebay_storage::block::{BlockBuf, OpId};

use crate::machine::SendBuf;

use super::socket::Connecting;

const GENERATION_MASK: u64 = 0x7fff_ffff;
const PART_BIT: u64 = 1 << 63;

/// Names an operation; carried as user_data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OpKey(u64);

impl OpKey {
    pub(super) fn user_data(self) -> u64 {
        self.0
    }

    /// The same operation's second part: the flush linked behind a write.
    pub(super) fn second_part(self) -> u64 {
        self.0 | PART_BIT
    }

    /// Operation and "is it the second part", from a completion's user_data.
    pub(super) fn parse(user_data: u64) -> (OpKey, bool) {
        (OpKey(user_data & !PART_BIT), user_data & PART_BIT != 0)
    }

    fn index(self) -> usize {
        (self.0 & 0xffff_ffff) as usize
    }

    fn generation(self) -> u64 {
        self.0 >> 32
    }
}

/// What a disk operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DiskKind {
    Read,
    WriteVolatile,
    /// One write with RWF_DSYNC.
    WriteDsync,
    /// A write and a linked fdatasync: two completions.
    WriteThenSync,
    Flush,
    Grow,
}

/// A disk operation in flight.
#[derive(Debug)]
pub(super) struct DiskFlight {
    pub(super) op: OpId,
    pub(super) kind: DiskKind,
    /// Index among the ring's fixed files.
    pub(super) file: u32,
    /// Where the transfer starts; for Grow, the file's new length.
    pub(super) offset_bytes: u64,
    pub(super) buf: Option<BlockBuf>,
    /// How much is to be moved, and how much has been.
    pub(super) bytes: u32,
    pub(super) moved: u32,
    /// Completions still to come.
    pub(super) pending: u8,
    pub(super) attempts: u8,
    pub(super) move_result: i32,
    pub(super) sync_result: i32,
}

/// Everything that can be in flight, with the memory it owns.
#[derive(Debug)]
pub(super) enum Op {
    Accept { listener: u32 },
    Receive { conn: u32 },
    Send { conn: u32, buf: SendBuf, sent: u32 },
    Cancel { conn: u32, target: OpKey },
    Shutdown { conn: u32 },
    CloseConn { conn: u32 },
    CloseFile,
    Install(Box<Connecting>),
    Connect(Box<Connecting>),
    Disk(DiskFlight),
    ReadStop,
    ReadWakeup,
    CancelAll,
}

#[derive(Debug)]
struct Slot {
    generation: u64,
    op: Option<Op>,
}

/// The slab. It grows to the largest number of operations ever in flight and then stays.
#[derive(Debug, Default)]
pub(super) struct OpSlab {
    slots: Vec<Slot>,
    free: Vec<u32>,
    live: usize,
}

impl OpSlab {
    pub(super) fn with_capacity(ops: usize) -> OpSlab {
        OpSlab { slots: Vec::with_capacity(ops), free: Vec::with_capacity(ops), live: 0 }
    }

    pub(super) fn insert(&mut self, op: Op) -> OpKey {
        self.live += 1;
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, op: None });
            u32::try_from(self.slots.len() - 1).expect("fewer than 2^32 operations in flight")
        });
        let slot = &mut self.slots[index as usize];
        debug_assert!(slot.op.is_none());
        slot.op = Some(op);
        OpKey(u64::from(index) | slot.generation << 32)
    }

    pub(super) fn get_mut(&mut self, key: OpKey) -> Option<&mut Op> {
        let slot = self.slots.get_mut(key.index())?;
        if slot.generation != key.generation() {
            return None;
        }
        slot.op.as_mut()
    }

    pub(super) fn contains(&self, key: OpKey) -> bool {
        self.slots
            .get(key.index())
            .is_some_and(|slot| slot.generation == key.generation() && slot.op.is_some())
    }

    /// Takes the operation out after its last completion.
    pub(super) fn remove(&mut self, key: OpKey) -> Option<Op> {
        let slot = self.slots.get_mut(key.index())?;
        if slot.generation != key.generation() {
            return None;
        }
        let op = slot.op.take()?;
        slot.generation = (slot.generation + 1) & GENERATION_MASK;
        self.free.push(key.index() as u32);
        self.live -= 1;
        Some(op)
    }

    /// Operations in flight.
    pub(super) fn live(&self) -> usize {
        self.live
    }

    /// Sends and disk operations in flight: what a stopping ring waits for.
    pub(super) fn transfers(&self) -> usize {
        let is_transfer = |slot: &&Slot| matches!(slot.op, Some(Op::Send { .. } | Op::Disk(_)));
        self.slots.iter().filter(is_transfer).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_completion_of_a_former_user_of_the_slot_finds_nothing() {
        let mut slab = OpSlab::default();
        let first = slab.insert(Op::ReadStop);
        assert!(slab.remove(first).is_some());
        let second = slab.insert(Op::ReadWakeup);
        assert_ne!(first, second);
        assert!(slab.get_mut(first).is_none());
        assert!(slab.remove(first).is_none());
        assert!(slab.contains(second));
        assert_eq!(slab.live(), 1);
    }

    #[test]
    fn user_data_carries_key_and_part() {
        let mut slab = OpSlab::default();
        for _ in 0..5 {
            let key = slab.insert(Op::ReadStop);
            assert_eq!(OpKey::parse(key.user_data()), (key, false));
            assert_eq!(OpKey::parse(key.second_part()), (key, true));
            slab.remove(key);
        }
    }
}
