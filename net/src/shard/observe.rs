//! What the shard counts, and where the control lane reads it.

use forebay_core::message::{ErrorCode, Kind};
use forebay_core::paxos::{MemberRole, RoleName};
use forebay_core::table::TableDescription;
use forebay_core::time::Nanos;
use forebay_storage::store::StoreStats;

use super::{Asker, Shard};
use crate::control::status::PartitionStatus;
use crate::link::Links;
use crate::metrics::{MetricNames, ShardMetrics, ShardPhase};
use crate::replication::Replication;

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
        "AccessDenied",
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
        "TooStale",
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
        if let Some(replication) = self.replication.as_deref_mut() {
            observe_members(metrics, replication, self.now);
            observe_links(metrics, replication.links());
            replication.take_refusals(&mut self.refusal_words);
            metrics.publish_refusals(&mut self.refusal_words);
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
        metrics.log_copied_records.set_total(stats.log_copied_records);
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
        let scrub = self.store.scrub_stats();
        metrics.scrub_pages.set_total(scrub.pages);
        metrics.scrub_damaged_pages.set_total(scrub.damaged);
        metrics.scrub_passes.set_total(scrub.passes);
        metrics.scrub_passed_boottime_nanoseconds.set(scrub.passed_at.0);
        metrics.damage_found.set_total(stats.page_read_errors + scrub.damaged);
        metrics.damage_pages_found.set_total(stats.damaged_pages);
        metrics.damage_pages_repaired.set_total(stats.repaired_pages);
        metrics.damage_members.set(stats.members_damaged);
        metrics.damage_log_ranges.set_total(stats.log_damaged_ranges);
        metrics.damage_members_lost.set(stats.members_lost);
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

fn observe_members(metrics: &ShardMetrics, replication: &Replication, now: Nanos) {
    let (mut members, mut led, mut leased, mut following, mut log_only, mut awaiting) =
        (0, 0, 0, 0, 0, 0);
    let (mut lag_max, mut protocol_errors) = (0, 0);
    for member in replication.statuses() {
        members += 1;
        protocol_errors += member.figures.protocol_errors;
        if member.serves {
            led += 1;
            leased += u64::from(replication.holds_lease(member.ordinal, now));
        } else if member.leader.is_some() && member.figures.role == RoleName::Following {
            following += 1;
        }
        awaiting += u64::from(member.needs_snapshot);
        match member.role {
            MemberRole::Log => log_only += 1,
            MemberRole::Storage => {
                let (chosen, applied) = (member.figures.chosen_slot, member.figures.applied_slot);
                lag_max = lag_max.max(chosen.0.saturating_sub(applied.0));
            }
        }
    }
    metrics.members.set(members);
    metrics.groups_led.set(led);
    metrics.groups_leased.set(leased);
    metrics.members_following.set(following);
    metrics.members_without_leader.set(members - led - following);
    metrics.members_log_only.set(log_only);
    metrics.members_awaiting_snapshot.set(awaiting);
    metrics.member_lag_slots_max.set(lag_max);
    metrics.protocol_errors.set_total(protocol_errors);
    let unheard = replication.unheard();
    metrics.messages_misdirected.set_total(unheard.misdirected());
    metrics.messages_stale_ballot.set_total(unheard.stale_ballots());
    metrics.messages_stale_epoch.set_total(unheard.stale_epochs());
}

fn observe_links(metrics: &ShardMetrics, links: &Links) {
    let counted = links.counters();
    let (up, peers) = links.peers_up();
    metrics.links_up.set(up);
    metrics.link_peers.set(peers);
    metrics.links_established.set_total(counted.established);
    metrics.link_reconnects.set_total(counted.reconnects);
    metrics.links_replaced.set_total(counted.replaced);
    metrics.link_dials.set_total(counted.dials);
    metrics.link_dials_failed.set_total(counted.dials_failed);
    metrics.link_greetings_timed_out.set_total(counted.greetings_timed_out);
    metrics.link_strangers_evicted.set_total(counted.strangers_evicted);
    metrics.link_ranges_cut.set_total(counted.ranges_cut);
    metrics.links_silent.set_total(counted.silent);
    metrics.link_sent_messages.set_total(counted.messages_sent);
    metrics.link_received_messages.set_total(counted.messages_received);
    metrics.link_sent_bytes.set_total(counted.bytes_sent);
    metrics.link_received_bytes.set_total(counted.bytes_received);
    metrics.link_sent_batches.set_total(counted.buffers_sent);
    let dropped = counted.dropped_unconnected
        + counted.dropped_full
        + counted.dropped_lost
        + counted.dropped_waiting;
    metrics.link_dropped_messages.set_total(dropped);
    for (counter, (_, count)) in metrics.link_refusals.iter().zip(counted.refusals()) {
        counter.set_total(count);
    }
    for (counter, count) in metrics.refused_by_peers.iter().zip(counted.refused_by_peers) {
        counter.set_total(count);
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
