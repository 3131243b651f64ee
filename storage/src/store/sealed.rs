//! What the maintenance lane may read of the log.

use forebay_core::ids::Lsn;

use super::Store;
use crate::log::SealedSegment;

impl Store {
    /// Segments of the log that do not change until they are trimmed, oldest first.
    pub fn sealed_segments(&self) -> impl Iterator<Item = SealedSegment> + '_ {
        self.log.sealed_segments()
    }

    /// Whether the log's bytes from `lsn` on are still what was written there. Only then does a
    /// mismatch that a background reader found mean damage.
    #[must_use]
    pub fn log_still_holds(&self, lsn: Lsn) -> bool {
        self.log.still_holds(lsn)
    }
}
