//! A node's state as data: what `/status` sends and `forebay status` reads.
//!
//! Every figure that a shard counts comes from its [`ShardMetrics`], so a node has nothing to
//! gather by hand. Unknown fields are ignored when reading, so that a newer program can ask an
//! older node and the other way round.

use serde::{Deserialize, Serialize};

use crate::link::{hello_refusal_names, link_refusal_names};
use crate::metrics::{Counter, LatencyHistogram, ShardMetrics, ShardPhase};

/// Can the node serve?
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// True when every shard serves.
    pub ready: bool,
    /// One word for the node: the least advanced shard's phase, or `failed`.
    pub state: String,
    /// What is in the way, if something is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Health {
    /// The health that the shards' phases imply.
    #[must_use]
    pub fn of_shards<'a>(shards: impl Iterator<Item = &'a ShardMetrics>) -> Health {
        let mut state = None;
        for metrics in shards {
            let phase = metrics.phase();
            if phase == ShardPhase::Serving {
                continue;
            }
            let shard = metrics.shard();
            let worst = state.get_or_insert((phase, shard));
            // A failure outweighs everything else; otherwise the first shard found speaks.
            if phase == ShardPhase::Failed && worst.0 != ShardPhase::Failed {
                *worst = (phase, shard);
            }
        }
        match state {
            None => Health { ready: true, state: ShardPhase::Serving.name().into(), reason: None },
            Some((phase, shard)) => Health {
                ready: false,
                state: phase.name().into(),
                reason: Some(format!("shard {shard} is {}", phase.name())),
            },
        }
    }
}

/// Everything that `/status` says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeStatus {
    /// The data directory's random identity, 32 hexadecimal digits.
    pub node_id: String,
    /// The program's version.
    pub version: String,
    /// Seconds since the process started serving its control port.
    pub uptime_seconds: f64,
    /// Where the data is.
    pub data_dir: String,
    /// `dsync` or `linked_fdatasync`.
    pub durable_mode: String,
    /// Whether the shards' threads are pinned to cores.
    pub pinned: bool,
    /// As `/health` says.
    pub health: Health,
    /// One for each shard, in order.
    pub shards: Vec<ShardStatus>,
}

/// One shard.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ShardStatus {
    /// Its number.
    pub shard: u16,
    /// Where its clients connect.
    pub native: String,
    /// `recovering`, `serving`, …
    pub phase: String,
    /// Its partitions.
    pub partitions: Vec<PartitionStatus>,
    /// Connections and waiting work.
    pub queues: QueueStatus,
    /// Its log.
    pub log: LogStatus,
    /// Its page cache.
    pub cache: CacheStatus,
    /// Its overlay.
    pub overlay: OverlayStatus,
    /// Its last checkpoint.
    pub checkpoint: CheckpointStatus,
    /// Its last or present recovery.
    pub recovery: RecoveryStatus,
    /// Its ring.
    pub ring: RingStatus,
    /// What was found damaged on its disk.
    #[serde(default)]
    pub damage: DamageStatus,
    /// Its members of replicated groups; absent on a node that stands alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replication: Option<ReplicationStatus>,
    /// Requests by kind, those that occurred.
    pub requests: Vec<RequestStatus>,
    /// Replies by code, those that occurred.
    pub replies: Vec<CountStatus>,
    /// Refused frames by reason, those that occurred.
    pub refusals: Vec<CountStatus>,
}

/// One partition: a key range of one table, and the group that holds it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionStatus {
    /// Its group.
    pub group: u64,
    /// Its table's number.
    pub table: u64,
    /// Its table's name.
    pub table_name: String,
    /// First hash of its key range.
    pub first_hash: u64,
    /// Last hash of its key range.
    pub last_hash: u64,
    /// Items in the tree, without those that are only in the overlay.
    pub items: u64,
    /// Bytes of those items.
    pub bytes: u64,
    /// Ballot of its leader.
    pub ballot: u64,
    /// Last chosen slot.
    pub chosen_slot: u64,
    /// Last applied slot.
    pub applied_slot: u64,
    /// Slot up to which the last checkpoint contains it.
    pub checkpoint_slot: u64,
}

/// Connections and waiting work of a shard.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "each field repeats the metric of the same name")]
pub struct QueueStatus {
    pub connections_open: u64,
    pub connections_paused: u64,
    pub pending_replies: u64,
    pub waiting_reads: u64,
    pub waiting_page_reads: u64,
}

/// A shard's log.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "each field repeats the metric of the same name")]
pub struct LogStatus {
    pub durable_lsn: u64,
    pub next_lsn: u64,
    pub oldest_lsn: u64,
    pub capacity_bytes: u64,
    pub free_bytes: u64,
    pub written_bytes: u64,
    pub batches: u64,
    pub batches_in_flight: u64,
    pub entries: u64,
}

/// A shard's page cache.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "each field repeats the metric of the same name")]
pub struct CacheStatus {
    pub used_bytes: u64,
    pub capacity_bytes: u64,
    pub hits: u64,
    pub misses: u64,
    pub evictions: u64,
}

/// A shard's overlay.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "each field repeats the metric of the same name")]
pub struct OverlayStatus {
    pub active_bytes: u64,
    pub frozen_bytes: u64,
    pub capacity_bytes: u64,
}

/// A shard's checkpoints.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CheckpointStatus {
    /// Number of the last finished one.
    pub number: u64,
    /// Seconds since it finished; absent before the first one.
    pub age_seconds: Option<f64>,
    /// How long it took.
    pub duration_milliseconds: f64,
    /// Pages written by all of them.
    pub written_pages: u64,
    /// Size of the pages file.
    pub pages_file_bytes: u64,
    /// Its unused blocks.
    pub pages_free_blocks: u64,
}

/// A shard's recovery.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RecoveryStatus {
    /// Log bytes read so far.
    pub replayed_bytes: u64,
    /// Log bytes to read.
    pub total_bytes: u64,
    /// Entries applied.
    pub applied_entries: u64,
    /// How long it took, once finished.
    pub duration_milliseconds: f64,
}

/// A shard's ring and event loop.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "each field repeats the metric of the same name")]
pub struct RingStatus {
    pub enters: u64,
    pub submissions: u64,
    pub completions: u64,
    pub buffer_shortages: u64,
    pub turns: u64,
    pub turn_max_microseconds: u64,
}

/// What a shard found damaged, and what became of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DamageStatus {
    /// Checksum or binding mismatches, each as often as it was met.
    pub found: u64,
    /// Damaged pages of members' states.
    pub pages_found: u64,
    /// Of them, in states that were replaced by another member's.
    pub pages_repaired: u64,
    /// Members whose state waits to be replaced.
    pub members: u64,
    /// Damaged ranges of the log that were still needed.
    pub log_ranges: u64,
    /// Members that were lost with the log and wait to be replaced.
    pub members_lost: u64,
}

/// A shard's members of replicated groups, and its links to other shards.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "each field repeats the metric of the same name")]
pub struct ReplicationStatus {
    pub members: u64,
    pub groups_led: u64,
    pub groups_leased: u64,
    pub members_following: u64,
    pub members_without_leader: u64,
    pub members_log_only: u64,
    pub members_awaiting_snapshot: u64,
    pub member_lag_slots_max: u64,
    pub leads_won: u64,
    pub leads_lost: u64,
    pub messages_misdirected: u64,
    #[serde(default)]
    pub messages_stale_ballot: u64,
    #[serde(default)]
    pub messages_stale_epoch: u64,
    #[serde(default)]
    pub protocol_errors: u64,
    pub links_up: u64,
    pub link_peers: u64,
    pub link_reconnects: u64,
    pub link_sent_messages: u64,
    pub link_received_messages: u64,
    pub link_sent_bytes: u64,
    pub link_received_bytes: u64,
    pub link_sent_batches: u64,
    pub link_dropped_messages: u64,
    /// What was refused of peers and strangers, by reason, as far as it occurred.
    pub link_refusals: Vec<CountStatus>,
    /// Greetings of this shard that peers refused, by reason, as far as it occurred.
    #[serde(default)]
    pub refused_by_peers: Vec<CountStatus>,
}

impl ReplicationStatus {
    fn of_metrics(m: &ShardMetrics) -> Option<ReplicationStatus> {
        if m.link_peers.get() == 0 && m.members.get() == 0 {
            return None;
        }
        let occurred = |names: &mut dyn Iterator<Item = &'static str>, counters: &[Counter]| {
            let counts = names.zip(counters).map(|(name, counter)| (name, counter.get()));
            let counts = counts.filter(|&(_, count)| count > 0);
            counts.map(|(name, count)| CountStatus { name: name.into(), count }).collect()
        };
        Some(ReplicationStatus {
            members: m.members.get(),
            groups_led: m.groups_led.get(),
            groups_leased: m.groups_leased.get(),
            members_following: m.members_following.get(),
            members_without_leader: m.members_without_leader.get(),
            members_log_only: m.members_log_only.get(),
            members_awaiting_snapshot: m.members_awaiting_snapshot.get(),
            member_lag_slots_max: m.member_lag_slots_max.get(),
            leads_won: m.leads_won.get(),
            leads_lost: m.leads_lost.get(),
            messages_misdirected: m.messages_misdirected.get(),
            messages_stale_ballot: m.messages_stale_ballot.get(),
            messages_stale_epoch: m.messages_stale_epoch.get(),
            protocol_errors: m.protocol_errors.get(),
            links_up: m.links_up.get(),
            link_peers: m.link_peers.get(),
            link_reconnects: m.link_reconnects.get(),
            link_sent_messages: m.link_sent_messages.get(),
            link_received_messages: m.link_received_messages.get(),
            link_sent_bytes: m.link_sent_bytes.get(),
            link_received_bytes: m.link_received_bytes.get(),
            link_sent_batches: m.link_sent_batches.get(),
            link_dropped_messages: m.link_dropped_messages.get(),
            link_refusals: occurred(&mut link_refusal_names(), &m.link_refusals),
            refused_by_peers: occurred(&mut hello_refusal_names(), &m.refused_by_peers),
        })
    }
}

/// One kind of request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RequestStatus {
    /// The kind.
    pub kind: String,
    /// How many arrived.
    pub count: u64,
    /// Median latency of those replied to, in microseconds, as the shard sees it.
    pub p50_microseconds: f64,
    /// 99th percentile.
    pub p99_microseconds: f64,
    /// 99.9th percentile.
    pub p999_microseconds: f64,
    /// The longest.
    pub max_microseconds: f64,
}

/// A name and how often it occurred.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CountStatus {
    /// The name.
    pub name: String,
    /// How often.
    pub count: u64,
}

impl ShardStatus {
    /// The status that the shard's metrics describe. `now_boottime_nanos` is CLOCK_BOOTTIME, the
    /// clock of the shards.
    #[must_use]
    pub fn of_metrics(native: String, m: &ShardMetrics, now_boottime_nanos: u64) -> ShardStatus {
        let names = m.names();
        let finished = m.checkpoint_finished_boottime_nanoseconds.get();
        let age_nanos = (finished > 0).then(|| now_boottime_nanos.saturating_sub(finished));
        let counts = |names: &[&str], counters: &[crate::metrics::Counter]| {
            let all = names.iter().zip(counters).map(|(name, c)| (name, c.get()));
            let some = all.filter(|&(_, count)| count > 0);
            some.map(|(name, count)| CountStatus { name: (*name).into(), count }).collect()
        };
        let requests = names.requests.iter().enumerate();
        ShardStatus {
            shard: m.shard().0,
            native,
            phase: m.phase().name().into(),
            partitions: m.partitions(),
            queues: QueueStatus {
                connections_open: m.connections_open.get(),
                connections_paused: m.connections_paused.get(),
                pending_replies: m.pending_replies.get(),
                waiting_reads: m.waiting_reads.get(),
                waiting_page_reads: m.waiting_page_reads.get(),
            },
            log: LogStatus {
                durable_lsn: m.log_durable_lsn.get(),
                next_lsn: m.log_next_lsn.get(),
                oldest_lsn: m.log_oldest_lsn.get(),
                capacity_bytes: m.log_capacity_bytes.get(),
                free_bytes: m.log_free_bytes.get(),
                written_bytes: m.log_written_bytes.get(),
                batches: m.log_batches.get(),
                batches_in_flight: m.log_batches_in_flight.get(),
                entries: m.log_entries.get(),
            },
            cache: CacheStatus {
                used_bytes: m.cache_used_bytes.get(),
                capacity_bytes: m.cache_capacity_bytes.get(),
                hits: m.cache_hits.get(),
                misses: m.cache_misses.get(),
                evictions: m.cache_evictions.get(),
            },
            overlay: OverlayStatus {
                active_bytes: m.overlay_active_bytes.get(),
                frozen_bytes: m.overlay_frozen_bytes.get(),
                capacity_bytes: m.overlay_capacity_bytes.get(),
            },
            checkpoint: CheckpointStatus {
                number: m.checkpoint_number.get(),
                age_seconds: age_nanos.map(|nanos| nanos as f64 / 1e9),
                duration_milliseconds: m.checkpoint_duration_microseconds.get() as f64 / 1e3,
                written_pages: m.checkpoint_written_pages.get(),
                pages_file_bytes: m.pages_file_bytes.get(),
                pages_free_blocks: m.pages_free_blocks.get(),
            },
            recovery: RecoveryStatus {
                replayed_bytes: m.recovery_replayed_bytes.get(),
                total_bytes: m.recovery_total_bytes.get(),
                applied_entries: m.recovery_applied_entries.get(),
                duration_milliseconds: m.recovery_duration_microseconds.get() as f64 / 1e3,
            },
            ring: RingStatus {
                enters: m.ring_enters.get(),
                submissions: m.ring_submissions.get(),
                completions: m.ring_completions.get(),
                buffer_shortages: m.ring_buffer_shortages.get(),
                turns: m.turns.get(),
                turn_max_microseconds: m.turn_max_microseconds.get(),
            },
            damage: DamageStatus {
                found: m.damage_found.get() + m.maintenance_damage_found.get(),
                pages_found: m.damage_pages_found.get(),
                pages_repaired: m.damage_pages_repaired.get(),
                members: m.damage_members.get(),
                log_ranges: m.damage_log_ranges.get(),
                members_lost: m.damage_members_lost.get(),
            },
            replication: ReplicationStatus::of_metrics(m),
            requests: requests
                .filter(|(kind, _)| m.requests[*kind].get() > 0)
                .map(|(kind, name)| {
                    RequestStatus::of_latency(name, m.requests[kind].get(), &m.latency[kind])
                })
                .collect(),
            replies: counts(names.replies, &m.replies),
            refusals: counts(names.refusals, &m.refusals),
        }
    }
}

impl RequestStatus {
    fn of_latency(kind: &str, count: u64, latency: &LatencyHistogram) -> RequestStatus {
        let snapshot = latency.snapshot();
        let micros = |quantile| snapshot.value_at_quantile(quantile) as f64 / 1e3;
        RequestStatus {
            kind: kind.into(),
            count,
            p50_microseconds: micros(0.5),
            p99_microseconds: micros(0.99),
            p999_microseconds: micros(0.999),
            max_microseconds: latency.max_nanos() as f64 / 1e3,
        }
    }
}

#[cfg(test)]
mod tests {
    use forebay_core::ids::ShardId;

    use super::*;
    use crate::metrics::MetricNames;

    const NAMES: MetricNames = MetricNames {
        requests: &["put", "get"],
        replies: &["ok", "not_found"],
        refusals: &["checksum"],
    };

    #[test]
    fn a_node_is_ready_only_when_every_shard_serves() {
        let shards = [ShardMetrics::new(ShardId(0), NAMES), ShardMetrics::new(ShardId(1), NAMES)];
        shards[0].set_phase(ShardPhase::Serving);
        shards[1].set_phase(ShardPhase::Recovering);
        let health = Health::of_shards(shards.iter());
        assert!(!health.ready);
        assert_eq!(health.reason.as_deref(), Some("shard 1 is recovering"));
        shards[1].set_phase(ShardPhase::Serving);
        assert!(Health::of_shards(shards.iter()).ready);
    }

    #[test]
    fn a_failed_shard_outweighs_a_recovering_one() {
        let shards = [ShardMetrics::new(ShardId(0), NAMES), ShardMetrics::new(ShardId(1), NAMES)];
        shards[0].set_phase(ShardPhase::Recovering);
        shards[1].set_phase(ShardPhase::Failed);
        assert_eq!(Health::of_shards(shards.iter()).state, "failed");
    }

    #[test]
    fn status_survives_json_and_leaves_out_what_never_occurred() {
        let metrics = ShardMetrics::new(ShardId(2), NAMES);
        metrics.requests[0].add(5);
        metrics.replied(0, 0, 20_000);
        metrics.checkpoint_finished_boottime_nanoseconds.set(1_000_000_000);
        let status = ShardStatus::of_metrics("127.0.0.1:1".into(), &metrics, 3_000_000_000);
        let json = serde_json::to_string(&status).unwrap();
        let back: ShardStatus = serde_json::from_str(&json).unwrap();
        assert_eq!(back.checkpoint.age_seconds, Some(2.0));
        assert_eq!(back.requests.len(), 1);
        assert_eq!(back.requests[0].count, 5);
        assert!((back.requests[0].p50_microseconds - 20.0).abs() < 0.4);
        assert!(back.refusals.is_empty());
    }
}
