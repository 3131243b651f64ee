//! What can stop the tool, and its exit codes.
//!
//! | code | meaning |
//! |-----:|---|
//! | 0 | done |
//! | 1 | the run, or what it found, is bad: no operation succeeded, the ledger is violated, the self-test failed, or the loads of two reports differ |
//! | 2 | the command line is wrong (clap's code) |
//! | 3 | the target or a worker cannot be reached or does not speak its protocol |
//! | 4 | this machine is in the way: a file, a ring, a core |
//! | 5 | the run went well, but the disk for its report is full |
//! | 6 | a signal ended the run before its time; the report of what ran is there, and says so |

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use forebay_net::ring::RingError;

use crate::floor::FloorError;
use crate::target::{ProtocolError, TargetUrl};
use crate::workers::WorkerError;

/// Why the tool stops.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BenchError {
    /// The host has no address. Correct the name.
    #[error("cannot resolve {authority}: {source}")]
    Resolve {
        /// HOST:PORT as given.
        authority: String,
        /// The resolver's words.
        source: std::io::Error,
    },
    /// Nothing serves there, or something else. Start the store, or correct the address.
    #[error("no {store} at {address} ({url}): {source}\n{hint}",
            store = url.scheme.store(), hint = url.scheme.start_hint())]
    Unreachable {
        /// The target as given.
        url: TargetUrl,
        /// Its address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// A connection failed after the store had been reached.
    #[error("connection to {address} failed: {source}")]
    Connection {
        /// To where.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// No TLS with that server. Its certificate may be of an authority that is not known here.
    #[error(
        "no TLS with {authority}: {source}\nif its certificate is of an authority of your own, \
             name that with --ca-file"
    )]
    Tls {
        /// HOST:PORT as given.
        authority: String,
        /// Why.
        source: std::io::Error,
    },
    /// Something else answers there. Check the port.
    #[error("the target does not speak its protocol: {0}")]
    Protocol(#[from] ProtocolError),
    /// The same, before anything was measured. Correct the address.
    #[error("no {store} at {url}: {source}\n{hint}",
            store = url.scheme.store(), hint = url.scheme.start_hint())]
    OtherProtocol {
        /// The target as given.
        url: TargetUrl,
        /// What is wrong with its bytes.
        source: ProtocolError,
    },
    /// The connections of a run could not all be opened. Look at the target.
    #[error("the run could not begin: {words}")]
    CannotBegin {
        /// Why.
        words: String,
    },
    /// The store refused what the run needs first.
    #[error("the target refused {what}: {words}")]
    Refused {
        /// What was asked.
        what: &'static str,
        /// The store's words.
        words: String,
    },
    /// The workload and the target do not fit together. Choose another of either.
    #[error("workload {workload} cannot run on this target: {reason}")]
    Unsupported {
        /// The workload.
        workload: String,
        /// Why.
        reason: &'static str,
    },
    /// A worker cannot take part. Its error says what to do; nothing was measured.
    #[error("worker {address}: {source}")]
    Worker {
        /// As on the command line.
        address: String,
        /// Why.
        source: WorkerError,
    },
    /// A signal ended the run. The report is of the part that ran.
    #[error("interrupted: the report is of {seconds} of {planned} s")]
    Interrupted {
        /// Measured.
        seconds: f64,
        /// Meant to be measured.
        planned: f64,
    },
    /// A signal ended the run before anything was measured. Run it again for a report.
    #[error("interrupted before the measurement began: there is no report")]
    InterruptedEarly,
    /// Flags that contradict each other.
    #[error("{0}")]
    Usage(String),
    /// A file of the tool cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// No space for a report. Free some, or give `--report` another place, and run again.
    #[error("{}: no space left for the report ({source}); free some, or give --report another place",
            path.display())]
    ReportDiskFull {
        /// The file that did not fit.
        path: PathBuf,
        /// Full disk, or exhausted quota.
        source: std::io::Error,
    },
    /// A file that is no report of this tool. Give a directory that `run --report` wrote.
    #[error("{}: not a report of this forebay-bench: {source}", path.display())]
    NoReport {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The self-test found this tool's figures wrong on this machine. Publish none of them.
    #[error(
        "the self-test failed: {failed} of {checks} checks; figures from this machine as it is now \
             are not to be trusted"
    )]
    SelfTestFailed {
        /// Bad ones.
        failed: usize,
        /// All.
        checks: usize,
    },
    /// Two reports are of different loads. Their ratios say nothing about the stores.
    #[error(
        "the two runs differ in {settings} setting(s) of workload or load: do not compare the \
             stores by these ratios"
    )]
    LoadsDiffer {
        /// How many settings.
        settings: usize,
    },
    /// A scenario file that cannot be read as one. The line and the reason say what to change.
    #[error("{}:{line}: {reason}", path.display())]
    Scenario {
        /// Which.
        path: PathBuf,
        /// Where in it.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// A ledger file that this tool did not write.
    #[error("{}:{line}: {reason}", path.display())]
    Ledger {
        /// Which.
        path: PathBuf,
        /// Where in it.
        line: usize,
        /// What is wrong.
        reason: &'static str,
    },
    /// A system facility failed.
    #[error("{what}: {source}")]
    Io {
        /// Doing what.
        what: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// The generator's own event loop.
    #[error("the load generator's ring: {0}")]
    Ring(#[from] RingError),
    /// A floor server.
    #[error(transparent)]
    Floor(#[from] FloorError),
    /// The run ended without a single success.
    #[error("no operation succeeded ({errors} failed; first: {first})")]
    NothingSucceeded {
        /// How many failed.
        errors: u64,
        /// The first failure.
        first: String,
    },
    /// No rate keeps the limit. Raise it, or look at the store at the lowest rate tried.
    #[error(
        "no rate was held with p99 of at most {limit_us} us; the lowest tried: {lowest} a second"
    )]
    NoRateHolds {
        /// Of p99.
        limit_us: u64,
        /// Operations a second.
        lowest: u64,
    },
    /// Records could not be loaded. Look at the store, then load again: loading twice is harmless.
    #[error("{failed} of {records} records were not loaded (first failure: {first})")]
    LoadIncomplete {
        /// Not loaded.
        failed: u64,
        /// Wanted.
        records: u64,
        /// The first failure.
        first: String,
    },
    /// A store could not be started. The words say what it said.
    #[error("{name} does not start: {words}\n  {command}")]
    DoesNotStart {
        /// Which.
        name: String,
        /// Its last words, or the system's.
        words: String,
        /// How it was started.
        command: String,
    },
    /// A store that this tool had started ended by itself. Look at its last words first.
    #[error("{name} died ({status}); its last words:\n{words}")]
    StoreDied {
        /// Which.
        name: String,
        /// Exit code or signal.
        status: String,
        /// The end of its log.
        words: String,
    },
    /// A store's program is not here.
    #[error("{name}: no `{program}` here; {remedy}")]
    NotInstalled {
        /// Which.
        name: String,
        /// The file looked for.
        program: String,
        /// How to get it.
        remedy: &'static str,
    },
    /// A store's metrics could not be read.
    #[error("the metrics of {address}: {source}")]
    Metrics {
        /// Its operator HTTP.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// A storage engine failed in this process, or gave a wrong answer. Look at the disk first.
    #[error("{engine}: {source}")]
    Engine {
        /// Which.
        engine: &'static str,
        /// Its own words.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An acknowledged write is gone or damaged.
    #[error("{violations} of {keys} acknowledged keys are lost or damaged")]
    LedgerViolated {
        /// Bad keys.
        violations: u64,
        /// Checked keys.
        keys: u64,
    },
}

impl BenchError {
    /// A file of a report could not be written.
    pub(crate) fn report_file(path: &Path, source: std::io::Error) -> BenchError {
        use std::io::ErrorKind::{QuotaExceeded, StorageFull};
        let path = path.to_owned();
        match source.kind() {
            StorageFull | QuotaExceeded => BenchError::ReportDiskFull { path, source },
            _ => BenchError::File { path, source },
        }
    }

    /// Nothing serves at `address`.
    pub(crate) fn unreachable(
        url: &TargetUrl,
        address: SocketAddr,
        source: std::io::Error,
    ) -> BenchError {
        BenchError::Unreachable { url: url.clone(), address, source: in_words(source) }
    }

    /// A connection to `address` failed.
    pub(crate) fn connection(address: SocketAddr, source: std::io::Error) -> BenchError {
        BenchError::Connection { address, source: in_words(source) }
    }

    /// As it befell whoever asked `url` first.
    pub(crate) fn of(self, url: &TargetUrl) -> BenchError {
        match self {
            BenchError::Protocol(source) => BenchError::OtherProtocol { url: url.clone(), source },
            other => other,
        }
    }

    /// The process's exit code; see the module's table.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            BenchError::NothingSucceeded { .. }
            | BenchError::SelfTestFailed { .. }
            | BenchError::LoadsDiffer { .. }
            | BenchError::LoadIncomplete { .. }
            | BenchError::NoRateHolds { .. }
            | BenchError::LedgerViolated { .. } => 1,
            BenchError::Unsupported { .. } | BenchError::Scenario { .. } | BenchError::Usage(_) => {
                2
            }
            BenchError::Resolve { .. }
            | BenchError::Unreachable { .. }
            | BenchError::Connection { .. }
            | BenchError::Protocol(_)
            | BenchError::OtherProtocol { .. }
            | BenchError::CannotBegin { .. }
            | BenchError::DoesNotStart { .. }
            | BenchError::StoreDied { .. }
            | BenchError::NotInstalled { .. }
            | BenchError::Metrics { .. }
            | BenchError::Worker { .. }
            | BenchError::Tls { .. }
            | BenchError::Refused { .. } => 3,
            BenchError::ReportDiskFull { .. } => 5,
            BenchError::Interrupted { .. } | BenchError::InterruptedEarly => 6,
            BenchError::File { .. }
            | BenchError::NoReport { .. }
            | BenchError::Ledger { .. }
            | BenchError::Io { .. }
            | BenchError::Ring(_)
            | BenchError::Engine { .. }
            | BenchError::Floor(_) => 4,
        }
    }
}

/// A socket's time limit is a failure to block, as the system has it; a reader wants to hear of time.
pub(crate) fn in_words(source: std::io::Error) -> std::io::Error {
    use std::io::ErrorKind::{TimedOut, WouldBlock};
    match source.kind() {
        WouldBlock => std::io::Error::new(TimedOut, "no answer within the time limit"),
        _ => source,
    }
}
