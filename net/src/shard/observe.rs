//! What the shard counts, and where the control lane reads it.

use forebay_core::message::{ErrorCode, Kind};
use forebay_core::table::TableDescription;
use forebay_core::time::Nanos;
use forebay_storage::store::StoreStats;

use super::{Asker, Shard};
use crate::control::status::PartitionStatus;
use crate::metrics::{MetricNames, ShardPhase};

/// How often the gauges that cost something are brought up to date.
const PUBLISH_NANOS: u64 = Nanos::PER_SECOND / 4;

/// Names of everything that a shard counts by index.
pub const METRIC_NAMES: MetricNames = MetricNames {
    requests: &[
        "put",
        "get",
        "delete",
        "update",
        "query",
        "scan",
        "batch_get",
        "batch_write",
        "create_table",
        "describe_table",
        "list_tables",
        "delete_table",
        "describe_node",
        "admin",
        "other",
    ],
    replies: &[
        "ok",
        "MalformedMessage",
        "UnsupportedVersion",
        "UnknownKind",
        "InvalidRequest",
        "UnknownTable",
        "TableExists",
        "TableNotActive",
        "InvalidKey",
        "InvalidItem",
        "ItemTooLarge",
        "InvalidExpression",
        "ConditionFailed",
        "WrongPartition",
        "NotLeader",
        "LeadershipLost",
        "Overloaded",
        "DiskFull",
        "ShuttingDown",
        "ShardFailed",
        "Damaged",
    ],
    refusals: &["length", "checksum", "version", "header", "memory"],
};

fn request_index(kind: Kind) -> usize {
    let index = (kind as u16 as usize).wrapping_sub(1);
    index.min(METRIC_NAMES.requests.len() - 1)
}

fn reply_index(code: ErrorCode) -> usize {
    let at = ErrorCode::ALL.iter().position(|other| *other == code);
    1 + at.expect("every code is listed")
}

impl Shard {
    pub(super) fn count_request(&self, kind: Kind) {
        self.context.metrics.requests[request_index(kind)].add(1);
    }

    /// A successful reply was handed over.
    pub(super) fn answered(&self, asker: Asker) {
        let latency_nanos = self.now.since(asker.asked_at);
        self.context.metrics.replied(request_index(asker.kind), 0, latency_nanos);
    }

    /// A named error was handed over.
    pub(super) fn count_refusal(&self, asker: Asker, code: ErrorCode) {
        let latency_nanos = self.now.since(asker.asked_at);
        let index = request_index(asker.kind);
        self.context.metrics.replied(index, reply_index(code), latency_nanos);
    }

    pub(super) fn count_bad_frame(&self, reason: &str) {
        let at = METRIC_NAMES.refusals.iter().position(|name| *name == reason);
        self.context.metrics.refusals[at.expect("every reason is listed")].add(1);
    }

    /// Whether the gauges were brought up to date in the turn at `now`.
    #[must_use]
    pub fn published_at(&self, now: Nanos) -> bool {
        self.publish_at == now + PUBLISH_NANOS
    }

    /// Puts the gauges where the control lane reads them, a few times a second.
    pub(super) fn observe(&mut self) {
        if self.now < self.publish_at {
            return;
        }
        self.publish_at = self.now + PUBLISH_NANOS;
        let metrics = &self.context.metrics;
        metrics.connections_open.set(self.connections.open_count() as u64);
        if let Some(replication) = &self.replication {
            metrics.members.set(replication.statuses().count() as u64);
            let led = replication.statuses().filter(|member| member.serves);
            metrics.groups_led.set(led.count() as u64);
        }
        metrics.connections_paused.set(self.connections.paused_count() as u64);
        metrics.pending_replies.set(self.waiting.len() as u64);
        metrics.waiting_writes.set(self.parking.stalled() as u64);
        metrics.waiting_reads.set(self.parking.parked() as u64);
        metrics.waiting_page_reads.set(self.parking.pages() as u64);
        self.observe_store(&self.store.stats());
        let phase = if self.store.failure().is_some() {
            ShardPhase::Failed
        } else if self.stopping {
            ShardPhase::Stopping
        } else if self.is_ready() {
            ShardPhase::Serving
        } else {
            ShardPhase::Recovering
        };
        metrics.set_phase(phase);
        let partitions = self.partition_status();
        // A reader holds the list at this moment: it is published again in a quarter of a second.
        let _ = self.context.metrics.publish_partitions(partitions);
    }

    fn observe_store(&self, stats: &StoreStats) {
        let metrics = &self.context.metrics;
        metrics.log_written_bytes.set_total(stats.log.written_bytes);
        metrics.log_entry_bytes.set_total(stats.log.payload_bytes);
        metrics.log_batches.set_total(stats.log.batches);
        metrics.log_entries.set_total(stats.log.records);
        metrics.log_batches_in_flight.set(stats.log_batches_in_flight);
        metrics.log_durable_lsn.set(stats.durable_lsn.0);
        metrics.log_next_lsn.set(stats.next_lsn.0);
        metrics.log_oldest_lsn.set(stats.trim_lsn.0);
        metrics.log_free_bytes.set(stats.log_free_bytes);
        metrics.log_capacity_bytes.set(stats.log_capacity_bytes);
        metrics.cache_hits.set_total(stats.cache.hits);
        metrics.cache_misses.set_total(stats.cache.misses);
        metrics.cache_evictions.set_total(stats.cache.evictions);
        metrics.cache_used_bytes.set(stats.cache.resident_bytes);
        metrics.cache_capacity_bytes.set(stats.cache_capacity_bytes);
        metrics.overlay_active_bytes.set(stats.overlay_active_bytes);
        metrics.overlay_frozen_bytes.set(stats.overlay_frozen_bytes);
        metrics.overlay_capacity_bytes.set(stats.overlay_capacity_bytes);
        metrics.checkpoint_number.set(stats.checkpoint_number);
        metrics.checkpoint_finished_boottime_nanoseconds.set(stats.checkpoint_finished_at.0);
        metrics.checkpoint_duration_microseconds.set(stats.checkpoint_nanos / Nanos::PER_MICRO);
        metrics.checkpoint_written_bytes.set_total(stats.checkpoint_written_bytes);
        metrics
            .checkpoint_written_pages
            .set_total(stats.checkpoint_written_bytes / stats.page_bytes);
        metrics.pages_file_bytes.set(stats.pages_file_bytes);
        metrics.pages_free_blocks.set(stats.pages_free_blocks);
        metrics.damage_found.set_total(stats.page_read_errors);
        metrics.snapshots_installed.set_total(stats.snapshots_installed);
        metrics.snapshots_given_up.set_total(stats.snapshots_given_up);
        metrics.snapshot_served_bytes.set_total(stats.snapshot_served_bytes);
        metrics.snapshot_arrived_bytes.set(stats.snapshot_arrived_bytes);
    }

    fn partition_status(&self) -> Vec<PartitionStatus> {
        let mut list = Vec::with_capacity(self.tables.partition_count());
        for table in self.tables.iter() {
            for (group, hash_first, hash_last) in table.partitions() {
                let figures = self.store.group_figures(group);
                let TableDescription { id, name, .. } = &table.description;
                list.push(PartitionStatus {
                    group: figures.id.0,
                    table: id.0,
                    table_name: name.clone(),
                    first_hash: hash_first,
                    last_hash: hash_last,
                    items: figures.items,
                    bytes: figures.bytes,
                    ballot: figures.ballot,
                    chosen_slot: figures.chosen_slot.0,
                    applied_slot: figures.applied_slot.0,
                    checkpoint_slot: figures.checkpoint_slot.0,
                });
            }
        }
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_and_kind_has_its_name() {
        for code in ErrorCode::ALL {
            assert_eq!(METRIC_NAMES.replies[reply_index(*code)], code.name());
        }
        assert_eq!(METRIC_NAMES.replies.len(), ErrorCode::ALL.len() + 1);
        for kind in Kind::ALL.into_iter().filter(|kind| kind.is_request()) {
            let name: String = format!("{kind:?}")
                .chars()
                .flat_map(|c| {
                    let gap = c.is_uppercase().then_some('_');
                    gap.into_iter().chain(c.to_lowercase())
                })
                .skip(1)
                .collect();
            assert_eq!(METRIC_NAMES.requests[request_index(kind)], name);
        }
    }
}
