//! The operand values of an expression: encoded values end to end, and where each one ends.
//!
//! ```text
//!   bytes  [ value 0 ][ value 1    ][ value 2 ]
//!   ends             ^             ^          ^
//! ```

use rkyv::{Archive, Deserialize, Serialize};

use super::{ExpressionError, OPERANDS_MAX};
use crate::item::{Value, ValueRef};
use crate::limits;

/// Values in the item encoding, in the order of their indices.
#[derive(Clone, Debug, Default, PartialEq, Eq, Archive, Serialize, Deserialize)]
#[rkyv(derive(Debug))]
pub(super) struct Values {
    bytes: Vec<u8>,
    ends: Vec<u32>,
}

impl Values {
    /// Adds a value and returns its index.
    pub(super) fn push(&mut self, value: &Value) -> Result<u16, ExpressionError> {
        let index = self.ends.len();
        check_count(index + 1)?;
        let encoded = value.to_bytes();
        self.bytes.extend(encoded.map_err(|reason| ExpressionError::BadValue { index, reason })?);
        check_bytes(self.bytes.len())?;
        self.ends.push(self.bytes.len() as u32);
        Ok(index as u16)
    }
}

impl ArchivedValues {
    /// Validates every value; afterwards [`ArchivedValues::get`] need not.
    pub(super) fn check(&self) -> Result<(), ExpressionError> {
        check_count(self.ends.len())?;
        check_bytes(self.bytes.len())?;
        let mut start = 0;
        for (index, end) in self.ends.iter().enumerate() {
            let end = end.to_native() as usize;
            let range = self.bytes.get(start..end);
            let bytes = range.ok_or(ExpressionError::BadValueRange { index })?;
            ValueRef::validate(bytes)
                .map_err(|reason| ExpressionError::BadValue { index, reason })?;
            start = end;
        }
        if start != self.bytes.len() {
            return Err(ExpressionError::BadValueRange { index: self.ends.len() });
        }
        Ok(())
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The value of this index, of values that passed [`ArchivedValues::check`].
    pub(super) fn get(&self, index: u16) -> Result<ValueRef<'_>, ExpressionError> {
        let index = usize::from(index);
        let count = self.ends.len();
        let end = self.ends.get(index).ok_or(ExpressionError::BadIndex { index, count })?;
        let end = end.to_native() as usize;
        let start = if index == 0 { 0 } else { self.ends[index - 1].to_native() as usize };
        let bytes = self.bytes.get(start..end);
        Ok(ValueRef::trusted(bytes.ok_or(ExpressionError::BadValueRange { index })?))
    }
}

fn check_count(found: usize) -> Result<(), ExpressionError> {
    if found > OPERANDS_MAX {
        return Err(ExpressionError::TooManyOperands { found, max: OPERANDS_MAX });
    }
    Ok(())
}

fn check_bytes(found: usize) -> Result<(), ExpressionError> {
    let max = limits::EXPRESSION_VALUE_BYTES_MAX;
    if found > max {
        return Err(ExpressionError::ValueBytes { found, max });
    }
    Ok(())
}
