//! Capacity units, by which DynamoDB meters and throttles.
//!
//! One read unit is a strongly consistent read of up to 4 KB; an eventually consistent one costs
//! half. One write unit is a write of up to 1 KB, counted by the larger of the old and the new item
//! (so a small item over a large one, or its deletion, costs what the large one did). Sizes are
//! those of [`crate::item::size`]; a request costs at least one step, also if it finds nothing.
//! Query and Scan add up the sizes of the items they read and round once.
//!
//! Reads are counted in halves, so that all arithmetic is on integers.

/// Bytes that one read unit covers.
pub const READ_UNIT_BYTES: usize = 4096;
/// Bytes that one write unit covers.
pub const WRITE_UNIT_BYTES: usize = 1024;

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Consistency {
    /// Sees every write acknowledged before it began.
    Strong,
    /// May be a moment behind; half the price.
    Eventual,
}

/// Read capacity in halves of a unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReadUnits {
    /// Half units.
    pub halves: u64,
}

impl ReadUnits {
    /// What reading `size_bytes` costs.
    #[inline]
    #[must_use]
    pub fn of(size_bytes: usize, consistency: Consistency) -> ReadUnits {
        let steps = size_bytes.div_ceil(READ_UNIT_BYTES).max(1) as u64;
        ReadUnits {
            halves: match consistency {
                Consistency::Strong => 2 * steps,
                Consistency::Eventual => steps,
            },
        }
    }

    /// Whole and half units as DynamoDB reports them.
    #[must_use]
    pub fn as_f64(self) -> f64 {
        self.halves as f64 / 2.0
    }
}

impl core::ops::AddAssign for ReadUnits {
    fn add_assign(&mut self, other: ReadUnits) {
        self.halves += other.halves;
    }
}

impl core::fmt::Display for ReadUnits {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}.{}", self.halves / 2, if self.halves % 2 == 1 { 5 } else { 0 })
    }
}

/// Write units of replacing an item of `old_bytes` by one of `new_bytes`; 0 for an item that is not
/// there.
#[inline]
#[must_use]
pub fn write_units(old_bytes: usize, new_bytes: usize) -> u64 {
    old_bytes.max(new_bytes).div_ceil(WRITE_UNIT_BYTES).max(1) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::ITEM_BYTES_MAX;

    #[test]
    fn reads_cost_a_unit_for_each_4_kb_begun() {
        let strong = |bytes| ReadUnits::of(bytes, Consistency::Strong).halves;
        assert_eq!((strong(0), strong(1), strong(4096), strong(4097)), (2, 2, 2, 4));
        assert_eq!(strong(ITEM_BYTES_MAX), 200);
    }

    #[test]
    fn eventual_reads_cost_half() {
        let units = ReadUnits::of(4097, Consistency::Eventual);
        assert_eq!(units.halves, 2);
        assert_eq!(ReadUnits::of(10, Consistency::Eventual).to_string(), "0.5");
        assert_eq!(ReadUnits { halves: 5 }.as_f64(), 2.5);
    }

    #[test]
    fn writes_cost_a_unit_for_each_kb_of_the_larger_item() {
        assert_eq!(write_units(0, 0), 1);
        assert_eq!(write_units(0, 1024), 1);
        assert_eq!(write_units(0, 1025), 2);
        assert_eq!(write_units(5000, 10), 5);
        assert_eq!(write_units(0, ITEM_BYTES_MAX), 400);
    }
}
