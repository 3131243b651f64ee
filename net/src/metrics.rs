//! What a shard counts, and how another lane reads it without touching the shard.
//!
//! ```text
//!   shard ── load + store, relaxed ──► ShardMetrics ◄── load, relaxed ── control lane
//!           (the only writer)            (an Arc)          (any number of readers)
//! ```
//!
//! One thread writes each value, so an update is a plain load and store: no lock prefix, no cache
//! line fought over, about the cost of a local variable. A reader sees each value torn from its
//! neighbours by at most the updates of the moment; nothing here needs more than that.
//!
//! One table in this module names every value once: field, kind, help text and exposition name
//! come from the same line, so that metrics and documentation cannot drift apart.
//!
//! *Invariant*: every method that writes is called by the shard's thread only. A second writer
//! would lose updates; it could not corrupt memory.

mod histogram;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError, TryLockError};

use forebay_core::ids::ShardId;
use forebay_core::message::peer::HelloRefusal;
pub use histogram::LatencyHistogram;

use crate::control::status::PartitionStatus;
use crate::link::greet::REFUSED_BY_PEER;
use crate::link::{hello_refusal_names, link_refusal_names};
use crate::refusals::Words;

/// A number that only grows. One writer.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only the owning shard calls this.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Takes over a total that the shard's own parts keep.
    #[inline]
    pub fn set_total(&self, total: u64) {
        self.0.store(total, Relaxed);
    }

    /// The count so far.
    #[inline]
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A number that goes up and down. One writer.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Replaces the value. Only the owning shard calls this.
    #[inline]
    pub fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    /// Raises the value to `value` if that is more.
    #[inline]
    pub fn raise_to(&self, value: u64) {
        if value > self.0.load(Relaxed) {
            self.0.store(value, Relaxed);
        }
    }

    /// The value now.
    #[inline]
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// The names behind the indices of a shard's labelled metrics. They come from the message
/// definitions, so that this module need not know them.
#[derive(Clone, Copy, Debug)]
pub struct MetricNames {
    /// Request kinds, in the order of their indices: `put`, `get`, …
    pub requests: &'static [&'static str],
    /// Reply codes, in the order of their indices; `ok` is one of them.
    pub replies: &'static [&'static str],
    /// Reasons for which a frame is refused before it is a request.
    pub refusals: &'static [&'static str],
}

/// What a shard is doing, in the order in which it normally happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ShardPhase {
    /// Opening files, building the ring.
    Starting = 0,
    /// Reading superblock and log.
    Recovering = 1,
    /// Answering requests.
    Serving = 2,
    /// Writing what remains before it ends.
    Stopping = 3,
    /// A write or flush of the log failed; nothing is served until recovery.
    Failed = 4,
}

impl ShardPhase {
    /// The word that status and metrics show.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            ShardPhase::Starting => "starting",
            ShardPhase::Recovering => "recovering",
            ShardPhase::Serving => "serving",
            ShardPhase::Stopping => "stopping",
            ShardPhase::Failed => "failed",
        }
    }

    fn from_index(index: u64) -> ShardPhase {
        match index {
            0 => ShardPhase::Starting,
            1 => ShardPhase::Recovering,
            2 => ShardPhase::Serving,
            3 => ShardPhase::Stopping,
            _ => ShardPhase::Failed,
        }
    }
}

/// One plain value for the exposition.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Exposition name without prefix; it ends in its unit.
    pub name: &'static str,
    /// One sentence.
    pub help: &'static str,
    /// Counters get `_total` in the exposition.
    pub is_counter: bool,
    /// The value now.
    pub value: u64,
}

macro_rules! shard_metrics {
    ($( #[doc = $help:literal] $kind:ident $field:ident; )*) => {
        /// Everything one shard counts. The shard writes, the control lane reads.
        #[derive(Debug)]
        pub struct ShardMetrics {
            shard: ShardId,
            names: MetricNames,
            phase: Gauge,
            /// Requests that arrived, by kind index.
            pub requests: Box<[Counter]>,
            /// Replies that left, by code index.
            pub replies: Box<[Counter]>,
            /// Frames refused, by reason index.
            pub refusals: Box<[Counter]>,
            /// Time from the frame's arrival to the reply's hand-over, by request kind index.
            pub latency: Box<[LatencyHistogram]>,
            /// What peers and strangers sent and was refused, by the index of
            /// [`link_refusal_names`](crate::link::link_refusal_names).
            pub link_refusals: Box<[Counter]>,
            /// Greetings of this shard that peers refused, by the index of
            /// [`hello_refusal_names`](crate::link::hello_refusal_names).
            pub refused_by_peers: Box<[Counter]>,
            refusal_words: Mutex<Words>,
            partitions: Mutex<Vec<PartitionStatus>>,
            $( #[doc = $help] pub $field: $kind, )*
        }

        impl ShardMetrics {
            /// All zero, in phase [`ShardPhase::Starting`].
            #[must_use]
            pub fn new(shard: ShardId, names: MetricNames) -> ShardMetrics {
                ShardMetrics {
                    shard,
                    names,
                    phase: Gauge::default(),
                    requests: names.requests.iter().map(|_| Counter::default()).collect(),
                    replies: names.replies.iter().map(|_| Counter::default()).collect(),
                    refusals: names.refusals.iter().map(|_| Counter::default()).collect(),
                    latency: names.requests.iter().map(|_| LatencyHistogram::new()).collect(),
                    link_refusals: link_refusal_names().map(|_| Counter::default()).collect(),
                    refused_by_peers: hello_refusal_names().map(|_| Counter::default()).collect(),
                    refusal_words: Mutex::default(),
                    partitions: Mutex::new(Vec::new()),
                    $( $field: $kind::default(), )*
                }
            }

            /// Every plain value, always in the same order.
            #[must_use]
            pub fn samples(&self) -> Vec<Sample> {
                vec![$( Sample {
                    name: stringify!($field),
                    help: $help.trim_ascii(),
                    is_counter: is_counter(stringify!($kind)),
                    value: self.$field.get(),
                }, )*]
            }
        }
    };
}

fn is_counter(kind: &str) -> bool {
    kind == "Counter"
}

shard_metrics! {
    /// Bytes received from clients.
    Counter received_bytes;
    /// Bytes sent to clients.
    Counter sent_bytes;
    /// Connections accepted since the start.
    Counter connections_accepted;
    /// Connections refused because the limit was reached.
    Counter connections_refused;
    /// Connections open now.
    Gauge connections_open;
    /// Connections whose receiving is paused, because they do not take their replies.
    Gauge connections_paused;
    /// Members of replicated groups on this shard.
    Gauge members;
    /// Replicated groups that this shard leads and serves.
    Gauge groups_led;
    /// Of those, groups whose lease holds at this moment: they answer strong reads.
    Gauge groups_leased;
    /// Members that follow a leader.
    Gauge members_following;
    /// Members that know no leader, or look for one.
    Gauge members_without_leader;
    /// Members that keep a log and no state.
    Gauge members_log_only;
    /// Members that wait for a snapshot, because what they need has left the others' logs.
    Gauge members_awaiting_snapshot;
    /// Entries known to be chosen and not in the state, of the member that has the most.
    Gauge member_lag_slots_max;
    /// Times that a member here became leader.
    Counter leads_won;
    /// Times that a member here stopped leading.
    Counter leads_lost;
    /// Messages for groups or members that are not here, or not from where they say.
    Counter messages_misdirected;
    /// Messages of ballots below the one promised here.
    Counter messages_stale_ballot;
    /// Messages of liveness of an earlier start or of lapsed support.
    Counter messages_stale_epoch;
    /// Messages that no correct member sends.
    Counter protocol_errors;
    /// Records that were still needed and copied to the log's head.
    Counter log_copied_records;
    /// Peers to which a link is up.
    Gauge links_up;
    /// Peers that this shard exchanges heartbeats with.
    Gauge link_peers;
    /// Links greeted on both sides.
    Counter links_established;
    /// Of those, all but the first with each peer.
    Counter link_reconnects;
    /// Links that gave way to a newer one of the same peer.
    Counter links_replaced;
    /// Dials begun.
    Counter link_dials;
    /// Dials that did not open a connection.
    Counter link_dials_failed;
    /// Connections that did not finish the greeting in time.
    Counter link_greetings_timed_out;
    /// Strangers' connections that gave way to newer ones.
    Counter link_strangers_evicted;
    /// Ranges of entries cut short because the queue to a peer was full.
    Counter link_ranges_cut;
    /// Links on which nothing was heard for too long.
    Counter links_silent;
    /// Messages of liveness and of groups handed over for sending to peers.
    Counter link_sent_messages;
    /// Messages of liveness and of groups received from peers.
    Counter link_received_messages;
    /// Bytes handed over for sending to peers.
    Counter link_sent_bytes;
    /// Bytes received from peers, of strangers too.
    Counter link_received_bytes;
    /// Batches handed over for sending to peers.
    Counter link_sent_batches;
    /// Messages to peers that were dropped, for want of a connection or of room.
    Counter link_dropped_messages;
    /// Replies waiting for durability or for a page.
    Gauge pending_replies;
    /// Page reads on their way.
    Gauge waiting_page_reads;
    /// Reads waiting for a page.
    Gauge waiting_reads;
    /// Bytes appended to the log, block padding included.
    Counter log_written_bytes;
    /// Bytes of log entries, without padding.
    Counter log_entry_bytes;
    /// Batches appended to the log.
    Counter log_batches;
    /// Entries appended to the log.
    Counter log_entries;
    /// Batches written and not yet durable.
    Gauge log_batches_in_flight;
    /// Position up to which the log is durable.
    Gauge log_durable_lsn;
    /// Position of the next batch.
    Gauge log_next_lsn;
    /// Oldest position that is still needed.
    Gauge log_oldest_lsn;
    /// Bytes that the log can take before a checkpoint must free some.
    Gauge log_free_bytes;
    /// Size of the log file.
    Gauge log_capacity_bytes;
    /// Pages found in the cache.
    Counter cache_hits;
    /// Pages that had to be read.
    Counter cache_misses;
    /// Pages dropped to make room.
    Counter cache_evictions;
    /// Bytes of cached pages.
    Gauge cache_used_bytes;
    /// Bytes that the cache may use.
    Gauge cache_capacity_bytes;
    /// Bytes in the overlay generation that takes new writes.
    Gauge overlay_active_bytes;
    /// Bytes in the overlay generation that is being merged.
    Gauge overlay_frozen_bytes;
    /// Bytes that both generations may use.
    Gauge overlay_capacity_bytes;
    /// Writes that had to wait for room in log or memory.
    Counter writes_stalled;
    /// Nanoseconds that such writes waited, all together.
    Counter writes_stalled_nanoseconds;
    /// Writes that wait for room now.
    Gauge waiting_writes;
    /// Number of the last finished checkpoint.
    Gauge checkpoint_number;
    /// When the last checkpoint finished, in nanoseconds of CLOCK_BOOTTIME; 0 before the first.
    Gauge checkpoint_finished_boottime_nanoseconds;
    /// Duration of the last checkpoint.
    Gauge checkpoint_duration_microseconds;
    /// Pages written by checkpoints.
    Counter checkpoint_written_pages;
    /// Bytes written by checkpoints.
    Counter checkpoint_written_bytes;
    /// Size of the pages file.
    Gauge pages_file_bytes;
    /// Blocks of the pages file that nothing uses.
    Gauge pages_free_blocks;
    /// Log bytes replayed by recovery so far.
    Gauge recovery_replayed_bytes;
    /// Log bytes that recovery has to replay.
    Gauge recovery_total_bytes;
    /// Entries applied by recovery.
    Gauge recovery_applied_entries;
    /// Duration of the last recovery.
    Gauge recovery_duration_microseconds;
    /// Checksum or binding mismatches found in the log or in pages.
    Counter damage_found;
    /// Damaged pages of members' states, each found twice.
    Counter damage_pages_found;
    /// Of those, pages of states that were replaced by another member's.
    Counter damage_pages_repaired;
    /// Members whose state is damaged and not yet replaced.
    Gauge damage_members;
    /// Damaged ranges of the log that were still needed, since the start.
    Counter damage_log_ranges;
    /// Members that were lost with a damaged log, and are not yet replaced.
    Gauge damage_members_lost;
    /// Pages that the scrub has read from the disk and found whole.
    Counter scrub_pages;
    /// Pages that the scrub found damaged on the disk, each read twice.
    Counter scrub_damaged_pages;
    /// Times that the scrub has read all pages of all trees.
    Counter scrub_passes;
    /// When it last had, on CLOCK_BOOTTIME; 0 before.
    Gauge scrub_passed_boottime_nanoseconds;
    /// Snapshots that became the state of a member here.
    Counter snapshots_installed;
    /// Snapshots that were begun here and given up.
    Counter snapshots_given_up;
    /// Bytes of keys and items read here for snapshots of other members.
    Counter snapshot_served_bytes;
    /// Bytes of keys and items that the snapshot under way here has brought; 0 without one.
    Gauge snapshot_arrived_bytes;
    /// System calls that entered the ring.
    Counter ring_enters;
    /// Operations submitted to the ring.
    Counter ring_submissions;
    /// Completions taken from the ring.
    Counter ring_completions;
    /// Times that a multishot receive ran out of buffers.
    Counter ring_buffer_shortages;
    /// Turns of the event loop.
    Counter turns;
    /// Longest turn of the event loop.
    Gauge turn_max_microseconds;
    /// Log segments that the maintenance lane has verified.
    Counter maintenance_verified_segments;
    /// Sealed log segments that the maintenance lane found damaged.
    Counter maintenance_damage_found;
    /// Log bytes that the maintenance lane has verified.
    Counter maintenance_verified_bytes;
}

impl ShardMetrics {
    /// Which shard this is.
    #[must_use]
    pub fn shard(&self) -> ShardId {
        self.shard
    }

    /// The names behind the indices.
    #[must_use]
    pub fn names(&self) -> MetricNames {
        self.names
    }

    /// Counts one reply: its code, and its request's latency.
    #[inline]
    pub fn replied(&self, request: usize, code: usize, latency_nanos: u64) {
        self.replies[code].add(1);
        self.latency[request].record(latency_nanos);
    }

    /// Says what the shard is doing.
    pub fn set_phase(&self, phase: ShardPhase) {
        self.phase.set(phase as u64);
    }

    /// What the shard is doing.
    #[must_use]
    pub fn phase(&self) -> ShardPhase {
        ShardPhase::from_index(self.phase.get())
    }

    /// Publishes the shard's partitions for status, and returns the previous list so that its
    /// memory can be used again. Never blocks: when a reader holds the list at this moment, the
    /// argument comes back as it is, and the shard publishes again another time. Meant for once
    /// a checkpoint or a second, not for a request.
    pub fn publish_partitions(
        &self,
        partitions: Vec<PartitionStatus>,
    ) -> Result<Vec<PartitionStatus>, Vec<PartitionStatus>> {
        match self.partitions.try_lock() {
            Ok(mut held) => Ok(std::mem::replace(&mut *held, partitions)),
            Err(TryLockError::Poisoned(poisoned)) => {
                Ok(std::mem::replace(&mut *poisoned.into_inner(), partitions))
            }
            Err(TryLockError::WouldBlock) => Err(partitions),
        }
    }

    /// Everything that this shard refuses of peers, by name, and how often; and what they refuse of it,
    /// but for what is ordinary.
    pub fn refused(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let links = link_refusal_names().zip(self.link_refusals.iter().map(Counter::get));
        let by_peers = HelloRefusal::ALL.iter().zip(&self.refused_by_peers);
        let by_peers = by_peers.filter(|(reason, _)| !reason.is_ordinary());
        let by_peers = by_peers.map(|(_, counter)| counter.get()).sum();
        links.chain([
            ("misdirected", self.messages_misdirected.get()),
            ("stale_ballot", self.messages_stale_ballot.get()),
            ("stale_epoch", self.messages_stale_epoch.get()),
            ("protocol_error", self.protocol_errors.get()),
            (REFUSED_BY_PEER, by_peers),
        ])
    }

    /// Leaves the newest words about what was refused. Never blocks: while a reader holds them, they
    /// stay where they are.
    pub(crate) fn publish_refusals(&self, words: &mut Words) {
        if !words.is_empty()
            && let Ok(mut held) = self.refusal_words.try_lock()
        {
            held.append(words);
        }
    }

    pub(crate) fn take_refusal_words(&self, name: &str) -> Option<String> {
        self.refusal_words.lock().unwrap_or_else(PoisonError::into_inner).take(name)
    }

    /// The partitions as last published.
    #[must_use]
    pub fn partitions(&self) -> Vec<PartitionStatus> {
        self.partitions.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: MetricNames = MetricNames {
        requests: &["put", "get"],
        replies: &["ok", "not_found"],
        refusals: &["checksum"],
    };

    #[test]
    fn every_sample_has_a_unique_name_and_a_help_sentence() {
        let samples = ShardMetrics::new(ShardId(0), NAMES).samples();
        let mut names: Vec<_> = samples.iter().map(|s| s.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), samples.len());
        for sample in samples {
            assert!(sample.help.ends_with('.'), "{}: {}", sample.name, sample.help);
        }
    }

    #[test]
    fn a_reply_counts_its_code_and_its_latency() {
        let metrics = ShardMetrics::new(ShardId(3), NAMES);
        metrics.replied(1, 0, 1500);
        assert_eq!(metrics.replies[0].get(), 1);
        assert_eq!(metrics.latency[1].snapshot().len(), 1);
        assert_eq!(metrics.latency[0].snapshot().len(), 0);
    }

    #[test]
    fn publishing_never_blocks_while_a_reader_holds_the_list() {
        let metrics = ShardMetrics::new(ShardId(0), NAMES);
        let held = metrics.partitions.lock().unwrap();
        assert!(metrics.publish_partitions(Vec::new()).is_err());
        drop(held);
        assert!(metrics.publish_partitions(Vec::new()).is_ok());
    }

    #[test]
    fn the_phase_survives_its_number() {
        let metrics = ShardMetrics::new(ShardId(0), NAMES);
        for phase in [
            ShardPhase::Starting,
            ShardPhase::Recovering,
            ShardPhase::Serving,
            ShardPhase::Stopping,
            ShardPhase::Failed,
        ] {
            metrics.set_phase(phase);
            assert_eq!(metrics.phase(), phase);
        }
    }
}
