//! Figures for metrics and status.

use forebay_core::digest::Digest;
use forebay_core::ids::{GroupId, Lsn, Slot};
use forebay_core::time::Nanos;

use super::{GroupOrdinal, Store};
use crate::block::BLOCK_BYTES;
use crate::cache::CacheStats;
use crate::log::LogStats;

/// One shard's storage in numbers.
#[derive(Clone, Copy, Debug, Default)]
#[expect(missing_docs, reason = "each field repeats the metric of the same name")]
pub struct StoreStats {
    pub log: LogStats,
    pub log_batches_in_flight: u64,
    pub durable_lsn: Lsn,
    pub next_lsn: Lsn,
    pub trim_lsn: Lsn,
    pub log_free_bytes: u64,
    pub log_capacity_bytes: u64,
    pub cache: CacheStats,
    pub cache_capacity_bytes: u64,
    pub overlay_active_bytes: u64,
    pub overlay_frozen_bytes: u64,
    pub overlay_capacity_bytes: u64,
    pub checkpoint_number: u64,
    pub checkpoint_finished_at: Nanos,
    pub checkpoint_nanos: u64,
    pub checkpoint_written_bytes: u64,
    pub page_bytes: u64,
    pub pages_file_bytes: u64,
    pub pages_free_blocks: u64,
    pub pages_live_blocks: u64,
    pub page_read_errors: u64,
    pub log_read_errors: u64,
    pub log_copied_records: u64,
    pub log_history_bytes: u64,
    pub snapshots_installed: u64,
    pub snapshots_given_up: u64,
    pub snapshot_served_bytes: u64,
    pub snapshot_arrived_bytes: u64,
    pub damaged_pages: u64,
    pub repaired_pages: u64,
    pub members_damaged: u64,
    pub members_lost: u64,
    pub log_damaged_ranges: u64,
}

/// One group in numbers.
#[derive(Clone, Copy, Debug)]
pub struct GroupFigures {
    /// The group.
    pub id: GroupId,
    /// Items in its tree.
    pub items: u64,
    /// Bytes of their keys and items.
    pub bytes: u64,
    /// Ballot of its leader.
    pub ballot: u64,
    /// Newest chosen slot.
    pub chosen_slot: Slot,
    /// Newest applied slot.
    pub applied_slot: Slot,
    /// The newest durable checkpoint holds everything up to here.
    pub checkpoint_slot: Slot,
    /// The content digest there; None while the next checkpoint is under way.
    pub checkpoint_digest: Option<Digest>,
}

impl Store {
    /// The shard's figures.
    #[must_use]
    pub fn stats(&self) -> StoreStats {
        StoreStats {
            log: self.log.stats(),
            log_batches_in_flight: self.log.in_flight() as u64,
            durable_lsn: self.log.durable_lsn(),
            next_lsn: self.log.end_lsn(),
            trim_lsn: self.log.trim_lsn(),
            log_free_bytes: self.log.free_bytes(),
            log_capacity_bytes: self.config.log.capacity_bytes(),
            cache: self.cache.stats(),
            cache_capacity_bytes: (self.cache.blocks() * BLOCK_BYTES) as u64,
            overlay_active_bytes: self.overlay.active_bytes() as u64,
            overlay_frozen_bytes: self.overlay.frozen_bytes() as u64,
            overlay_capacity_bytes: 2 * self.config.overlay_generation_bytes as u64,
            checkpoint_number: self.checkpoint.number(),
            checkpoint_finished_at: self.checkpoint.finished_at(),
            checkpoint_nanos: self.checkpoint.last_nanos(),
            checkpoint_written_bytes: self.checkpoint.written_bytes(),
            page_bytes: BLOCK_BYTES as u64,
            pages_file_bytes: self.space.file_blocks() * BLOCK_BYTES as u64,
            pages_free_blocks: self.space.free_blocks(),
            pages_live_blocks: self.space.live_blocks(),
            page_read_errors: self.page_read_errors,
            log_read_errors: self.carrier.errors,
            log_copied_records: self.carrier.copied,
            log_history_bytes: self.history_bytes,
            snapshots_installed: self.snapshots.installed,
            snapshots_given_up: self.snapshots.given_up,
            snapshot_served_bytes: self.snapshots.served_bytes,
            snapshot_arrived_bytes: self.install_progress().map_or(0, |progress| progress.bytes),
            damaged_pages: self.repair.damaged_pages,
            repaired_pages: self.repair.repaired_pages,
            members_damaged: self.damaged_members() as u64,
            members_lost: self.lost_members().count() as u64,
            log_damaged_ranges: self.repair.log_ranges,
        }
    }

    /// Of the shard's log: raised by every recovery.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.log.incarnation()
    }

    /// One group's figures.
    #[must_use]
    pub fn group_figures(&self, group: GroupOrdinal) -> GroupFigures {
        let state = self.groups.get(group);
        let totals = state.tree.totals();
        GroupFigures {
            id: state.progress.id(),
            items: totals.items,
            bytes: totals.bytes,
            ballot: state.ballot().0,
            chosen_slot: state.chosen_slot(),
            applied_slot: state.applied_slot(),
            checkpoint_slot: state.checkpoint_slot,
            checkpoint_digest: (state.frozen_slot == state.checkpoint_slot)
                .then_some(Digest(totals.digest)),
        }
    }
}
