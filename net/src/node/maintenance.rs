//! The shard's side of the maintenance lane: which sealed log segments are to be read again, and
//! what the reports mean.
//!
//! Each sealed segment is verified once, at a bounded rate, on a thread of its own with a glommio
//! executor. The shard only exchanges small messages with it. A report of a mismatch is damage only
//! if the log still holds the segment when the report arrives: otherwise the ring has come round
//! and the reader saw newer bytes. Then a checkpoint makes the segment one that no recovery needs.

use std::time::{Duration, Instant};

use forebay_storage::maintenance::{Verifier, VerifyJob, VerifyOutcome, VerifyReport};

use crate::metrics::ShardMetrics;
use crate::shard::Shard;

/// Bytes a second that background verification reads of each shard's log: a full log in about ten
/// seconds, a small part of what a device can do.
pub(super) const VERIFY_BYTES_PER_SECOND: u64 = 24 << 20;
/// Jobs on their way.
pub(super) const VERIFY_JOBS: usize = 8;
/// A segment that was not read by then is left.
const PIN: Duration = Duration::from_secs(60);

/// See the module's docs.
pub(super) struct Maintenance {
    verifier: Verifier,
    /// The first segment not yet handed out.
    next_segment: u64,
}

impl Maintenance {
    pub(super) fn new(verifier: Verifier) -> Maintenance {
        Maintenance { verifier, next_segment: 0 }
    }

    /// Takes reports and hands out new segments. Now and then, not every turn.
    pub(super) fn step(&mut self, shard: &mut Shard, metrics: &ShardMetrics) {
        while let Some(report) = self.verifier.poll() {
            take(&report, shard, metrics);
        }
        let next = self.next_segment;
        for segment in shard.store().sealed_segments().filter(|sealed| sealed.number >= next) {
            let job = VerifyJob { segment, expires: Instant::now() + PIN };
            if self.verifier.submit(job).is_err() {
                return;
            }
            self.next_segment = segment.number + 1;
        }
    }
}

fn take(report: &VerifyReport, shard: &mut Shard, metrics: &ShardMetrics) {
    metrics.maintenance_verified_bytes.add(report.bytes);
    let found = match &report.outcome {
        VerifyOutcome::Verified => {
            metrics.maintenance_verified_segments.add(1);
            return;
        }
        VerifyOutcome::Expired => return,
        found => found,
    };
    if shard.store().log_still_holds(report.segment.start.lsn) {
        metrics.maintenance_damage_found.add(1);
        eprintln!(
            "forebay: shard {}: log segment {} is damaged on disk: {found:?}. The node goes on from \
             memory, and a checkpoint is on its way after which no recovery needs the segment.",
            shard.store().shard(),
            report.segment.number
        );
        shard.note_log_damage();
    }
}
