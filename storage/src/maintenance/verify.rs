//! Reads sealed log segments again in the background, at a bounded rate, and checks every byte that
//! was written: headers, records, padding, and the chain from the segment's start to its end.
//!
//! A disk forgets silently. Damage found while the peers (or the archive) still have the segment
//! can be repaired; found during a recovery, it may be too late.
//!
//! The shard submits a segment when it is sealed
//! ([`LogWriter::sealed_segments`](crate::log::LogWriter::sealed_segments)) and goes on. The ring
//! may come round and overwrite it while it is read; so a mismatch is [`VerifyOutcome::Suspect`],
//! and damage only if the shard then finds that the log
//! [`still_holds`](crate::log::LogWriter::still_holds) the segment's start. A job expires by force:
//! the lane never holds anything up.
//!
//! The same reader as recovery's walks the bytes, so that both accept the same log.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use forebay_core::ids::Lsn;
use glommio::io::DmaFile;
use glommio::{LocalExecutorBuilder, Placement};

use super::ordinary;
use crate::log::reader::{ChainReader, ChainStep};
use crate::log::{BadBatch, LogConfig, SealedSegment};

/// Bytes of one read, and the grain of the rate limit.
const READ_BYTES: u64 = 256 << 10;
/// Registered with the executor's ring: enough for its one read, and small beside an ordinary
/// memlock limit of 8 MiB, which the shards need more.
const IO_MEMORY_BYTES: usize = 1 << 20;
/// Longest pause between looks at the stop flag.
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// What to verify, and how fast.
#[derive(Clone, Debug)]
pub struct VerifierConfig {
    /// The log's file.
    pub path: PathBuf,
    /// The log's geometry and identity.
    pub log: LogConfig,
    /// Upper bound of the reads, on average over a few hundred KiB.
    pub bytes_per_second: u64,
    /// Jobs that may wait; reports too.
    pub queue_jobs: usize,
}

/// One segment to verify.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerifyJob {
    /// Which segment, and the chain that it must hold.
    pub segment: SealedSegment,
    /// The pin's end: what is not read by then is left.
    pub expires: Instant,
}

/// What came of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerifyReport {
    /// Which segment.
    pub segment: SealedSegment,
    /// Bytes read.
    pub bytes: u64,
    /// Batches verified.
    pub batches: u64,
    /// The result.
    pub outcome: VerifyOutcome,
}

/// The result of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerifyOutcome {
    /// Every batch is as it was written.
    Verified,
    /// The batch at this position is not. Damage if the shard's log still holds the segment, else
    /// the ring came round and it means nothing.
    Suspect {
        /// Of the first bad batch.
        lsn: Lsn,
        /// What is wrong with it.
        bad: BadBatch,
    },
    /// The chain verifies but ends with another batch than the shard's.
    WrongEnd {
        /// Checksum of the last batch found.
        found: u32,
    },
    /// The device could not read there. As suspect as a mismatch, and a reason to look at it.
    Unreadable {
        /// In the file.
        offset_bytes: u64,
        /// The operating system's number for it, 0 if it gave none or the transfer was short.
        errno: i32,
    },
    /// The pin ended first; or the verifier was stopped.
    Expired,
}

/// Why a verifier could not start.
#[derive(Debug, thiserror::Error)]
pub enum VerifierError {
    /// No such file, no permission, or a file system without O_DIRECT: choose another directory.
    #[error("opening {path} with O_DIRECT for background verification failed")]
    Open {
        /// The log's file.
        path: PathBuf,
        /// The operating system's answer.
        #[source]
        source: std::io::Error,
    },
    /// The executor needs io_uring and 512 KiB of lockable memory: check the kernel, seccomp and
    /// `ulimit -l`.
    #[error("starting a maintenance executor failed")]
    Executor(#[source] std::io::Error),
}

/// The shard's end. Dropping it stops the lane after the read in flight.
#[derive(Debug)]
pub struct Verifier {
    jobs: Option<SyncSender<VerifyJob>>,
    reports: Receiver<VerifyReport>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Verifier {
    /// Starts the lane. `wake` is called after each report: it rings the shard's eventfd.
    pub fn start(
        config: VerifierConfig,
        wake: impl Fn() + Send + 'static,
    ) -> Result<Verifier, VerifierError> {
        config.log.validate().expect("a log's configuration is validated when it is read");
        assert!(config.bytes_per_second > 0 && config.queue_jobs > 0);
        // glommio quietly does without O_DIRECT where it is missing; we do not.
        let direct = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(&config.path);
        drop(direct.map_err(|source| VerifierError::Open { path: config.path.clone(), source })?);

        let (jobs, job_queue) = sync_channel(config.queue_jobs);
        let (report_queue, reports) = sync_channel(config.queue_jobs);
        let (started, start) = sync_channel(1);
        let stop = Arc::new(AtomicBool::new(false));
        let lane = Lane { config, jobs: job_queue, reports: report_queue, stop: stop.clone() };
        let thread = std::thread::Builder::new()
            .name("forebay-verify".into())
            .spawn(move || lane.run(&started, &wake))
            .map_err(VerifierError::Executor)?;
        let verifier = Verifier { jobs: Some(jobs), reports, stop, thread: Some(thread) };
        match start.recv() {
            Ok(Ok(())) => Ok(verifier),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(VerifierError::Executor(std::io::Error::other("the executor ended"))),
        }
    }

    /// Queues a job; gives it back if the queue is full (offer it again later) or the lane is gone.
    /// Never blocks.
    pub fn submit(&self, job: VerifyJob) -> Result<(), VerifyJob> {
        let jobs = self.jobs.as_ref().expect("the queue is open until the verifier is dropped");
        jobs.try_send(job).map_err(|error| match error {
            TrySendError::Full(job) | TrySendError::Disconnected(job) => job,
        })
    }

    /// The next report, if there is one. Never blocks.
    #[must_use]
    pub fn poll(&self) -> Option<VerifyReport> {
        self.reports.try_recv().ok()
    }
}

impl Drop for Verifier {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.jobs = None;
        // The lane may wait to hand in a report.
        while self.thread.as_ref().is_some_and(|thread| !thread.is_finished()) {
            while self.reports.try_recv().is_ok() {}
            std::thread::sleep(Duration::from_millis(1));
        }
        if let Some(thread) = self.thread.take() {
            // A panic there was printed there; the shard goes on without its verifier.
            let _ = thread.join();
        }
    }
}

struct Lane {
    config: VerifierConfig,
    jobs: Receiver<VerifyJob>,
    reports: SyncSender<VerifyReport>,
    stop: Arc<AtomicBool>,
}

impl Lane {
    fn run(self, started: &SyncSender<Result<(), VerifierError>>, wake: &dyn Fn()) {
        if let Err(error) = ordinary::step_down() {
            let _ = started.send(Err(VerifierError::Executor(error)));
            return;
        }
        let executor = LocalExecutorBuilder::new(Placement::Unbound)
            .name("forebay-verify")
            .io_memory(IO_MEMORY_BYTES)
            .make();
        let executor = match executor {
            Ok(executor) => executor,
            Err(error) => {
                let _ = started.send(Err(VerifierError::Executor(error.into())));
                return;
            }
        };
        executor.run(async {
            let file = match DmaFile::open(&self.config.path).await {
                Ok(file) => file,
                Err(error) => {
                    let (path, source) = (self.config.path.clone(), error.into());
                    let _ = started.send(Err(VerifierError::Open { path, source }));
                    return;
                }
            };
            let _ = started.send(Ok(()));
            let mut pace = Pace::new(self.config.bytes_per_second);
            // Blocking here is fine: this executor has no other task.
            while let Ok(job) = self.jobs.recv() {
                let report = self.verify(&file, job, &mut pace).await;
                if self.reports.send(report).is_err() {
                    break;
                }
                wake();
            }
            // Nothing was written: a failed close loses nothing.
            let _ = file.close().await;
        });
    }

    async fn verify(&self, file: &DmaFile, job: VerifyJob, pace: &mut Pace) -> VerifyReport {
        let VerifyJob { segment, expires } = job;
        let mut report =
            VerifyReport { segment, bytes: 0, batches: 0, outcome: VerifyOutcome::Expired };
        let first = self.config.log.offset_bytes(segment.start.lsn);
        let segment_bytes = segment.end.lsn.0 - segment.start.lsn.0;
        let mut reader = ChainReader::new(self.config.log, segment.start, segment.end.lsn);
        while report.bytes < segment_bytes {
            pace.wait(&self.stop).await;
            if self.stop.load(Ordering::Relaxed) || Instant::now() >= expires {
                return report;
            }
            let bytes = READ_BYTES.min(segment_bytes - report.bytes);
            let offset_bytes = first + report.bytes;
            pace.spend(bytes);
            let read = match file.read_at_aligned(offset_bytes, bytes as usize).await {
                Ok(read) if read.len() as u64 == bytes => read,
                other => {
                    let errno = other.err().and_then(|error| error.raw_os_error()).unwrap_or(0);
                    report.outcome = VerifyOutcome::Unreadable { offset_bytes, errno };
                    return report;
                }
            };
            report.bytes += bytes;
            reader.feed(&read);
            loop {
                match reader.next() {
                    ChainStep::Batch(_) => report.batches += 1,
                    ChainStep::More => break,
                    ChainStep::Bad(bad) => {
                        let lsn = reader.point().lsn;
                        report.outcome = VerifyOutcome::Suspect { lsn, bad };
                        return report;
                    }
                }
            }
        }
        let found = reader.point();
        assert_eq!(found.lsn, segment.end.lsn, "a chain that fits its segment fills it");
        report.outcome = if found.previous_checksum == segment.end.previous_checksum {
            VerifyOutcome::Verified
        } else {
            VerifyOutcome::WrongEnd { found: found.previous_checksum }
        };
        report
    }
}

/// Spreads reads evenly. Idle time earns no credit, so that a burst of jobs is no burst of reads.
struct Pace {
    nanos_per_kib: u64,
    next: Instant,
}

impl Pace {
    fn new(bytes_per_second: u64) -> Pace {
        let nanos_per_kib = (1_000_000_000u64 * 1024 / bytes_per_second).max(1);
        Pace { nanos_per_kib, next: Instant::now() }
    }

    async fn wait(&self, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            let left = self.next.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            glommio::timer::sleep(left.min(PAUSE_MAX)).await;
        }
    }

    fn spend(&mut self, bytes: u64) {
        let cost = Duration::from_nanos(bytes / 1024 * self.nanos_per_kib);
        self.next = self.next.max(Instant::now()) + cost;
    }
}

#[cfg(test)]
mod tests;
