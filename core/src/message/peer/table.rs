//! What the leader of the system group and the shards that hold members of a table's groups say to
//! each other: [`TableStep`]. Every step may be lost and repeated: who asks goes on until it is
//! answered, and who has done its part already just says so.

use rkyv::with::InlineAsBox;
use rkyv::{Archive, Serialize};

use super::error::PeerError;
use crate::ids::TableId;
use crate::limits::ENCODED_ITEM_BYTES_MAX;

/// A table's description is an item, and no longer than one.
pub const DESCRIPTION_BYTES_MAX: usize = ENCODED_ITEM_BYTES_MAX;

/// What is to be done, or was. The numbers are the wire's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum StepKind {
    /// Create your members of the described table's groups.
    Create = 1,
    /// They exist durably.
    Created = 2,
    /// Drop your members of the table's groups.
    Drop = 3,
    /// They are gone durably.
    Dropped = 4,
}

impl StepKind {
    fn from_wire(number: u8) -> Option<StepKind> {
        let all = [StepKind::Create, StepKind::Created, StepKind::Drop, StepKind::Dropped];
        all.into_iter().find(|kind| *kind as u8 == number)
    }
}

/// One step of a table's creation or deletion.
#[derive(Debug, Archive, Serialize)]
pub struct TableStep<'a> {
    /// A [`StepKind`].
    pub step: u8,
    /// The table.
    pub table: u64,
    /// Its description as an item, where members are to be created; otherwise empty.
    #[rkyv(with = InlineAsBox)]
    pub description: &'a [u8],
}

impl ArchivedTableStep<'_> {
    /// What it says. The description is not validated yet, only bounded.
    ///
    /// # Errors
    /// If it is no step, or too long.
    pub fn check(&self) -> Result<(StepKind, TableId), PeerError> {
        let kind = StepKind::from_wire(self.step);
        let kind = kind
            .ok_or(PeerError::Number { what: "step of a table", number: u16::from(self.step) })?;
        let (count, max) = (self.description.len(), DESCRIPTION_BYTES_MAX);
        if count > max {
            return Err(PeerError::TooMany { what: "bytes of a description", count, max });
        }
        Ok((kind, TableId(self.table.to_native())))
    }
}
