//! What can go wrong between a coordinator and its workers.

use std::io;

/// Why a worker is of no use, or a coordinator.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WorkerError {
    /// Nothing listens there. Start `forebay-bench worker --listen HOST:PORT` on that machine.
    #[error(
        "nothing answers ({0}); start one there with `forebay-bench worker --listen HOST:PORT`"
    )]
    Unreachable(io::Error),
    /// It works for another coordinator. Wait for that run, or use another worker.
    #[error("it is busy with another run")]
    Busy,
    /// It is of another build. Use the same forebay-bench everywhere.
    #[error(
        "it is forebay-bench {version} with control protocol {protocol}; this one is {ours} with \
             {ours_protocol}: use the same everywhere"
    )]
    OtherVersion {
        /// Its release.
        version: String,
        /// Its protocol.
        protocol: u32,
        /// This release.
        ours: &'static str,
        /// This protocol.
        ours_protocol: u32,
    },
    /// It says something out of turn. Something else may listen there; check the port.
    #[error("it said `{found}` where `{expected}` was due; is it a worker?")]
    OutOfTurn {
        /// What came.
        found: &'static str,
        /// What should have.
        expected: &'static str,
    },
    /// A message of impossible length. Something else listens there; check the port.
    #[error("a message of {bytes} bytes, of at most {max}; is it a worker?")]
    Length {
        /// Its length.
        bytes: usize,
        /// The longest.
        max: usize,
    },
    /// A message that cannot be read. Something else listens there; check the port.
    #[error("a message that cannot be read ({0}); is it a worker?")]
    Message(serde_json::Error),
    /// An interval that does not fit the run. The worker is damaged; restart it.
    #[error("an interval that does not fit the run: {0}")]
    Interval(&'static str),
    /// No sign of life. Look at that machine and at the network.
    #[error("it has been silent for {seconds} s")]
    Silent {
        /// For so long.
        seconds: u64,
    },
    /// It closed the connection: it has ended, or was ended.
    #[error("it closed the connection")]
    Gone,
    /// The connection broke.
    #[error("the connection failed: {0}")]
    Connection(io::Error),
    /// It cannot do its share. Its own words say why.
    #[error("it cannot do its share: {0}")]
    Failed(String),
}
