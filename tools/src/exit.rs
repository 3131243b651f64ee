//! How the program ends: a number for scripts, a message for people.

use std::process::ExitCode;

use forebay_net::control::ControlError;
use forebay_net::node::config::ConfigError;
use forebay_net::ring::RingError;
use forebay_net::tls::TlsError;
use forebay_storage::directory::DirectoryError;

macro_rules! exits {
    ($( $(#[doc = $doc:literal])+ $name:ident = $code:literal, )*) => {
        /// Exit codes. They never change their meaning.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub(crate) enum Exit { $( $(#[doc = $doc])+ $name = $code, )* }

        const ALL: &[(u8, &str)] = &[$( ($code, concat!($($doc,)+)), )*];
    };
}

/// The table for `--help`.
pub(crate) fn table() -> String {
    let mut text = String::from(
        "Exit codes:\n   0  done, or stopped by SIGINT or SIGTERM after a clean shutdown\n",
    );
    for (code, meaning) in ALL {
        text.push_str(&format!("  {code:>2}  {}\n", meaning.trim()));
    }
    text.push_str(" 130  stopped at once by a second signal\n");
    text
}

exits! {
    /// anything without a number of its own
    Other = 1,
    /// wrong arguments or a wrong configuration file
    Usage = 2,
    /// io_uring is missing, too old or forbidden
    NoRing = 10,
    /// the file system has no O_DIRECT or is in memory
    NoDirectIo = 11,
    /// the memlock limit is too small
    Memlock = 12,
    /// a port is taken
    PortTaken = 13,
    /// another process uses the data directory
    InUse = 14,
    /// the disk is full
    DiskFull = 15,
    /// the data is newer than this program
    Newer = 16,
    /// data that was there is not there as it was
    Damage = 17,
    /// no node answers (status)
    Unreachable = 18,
    /// a shard failed while serving
    ShardFailed = 19,
    /// a simulated run failed (simulate)
    Simulation = 20,
}

/// Why the program ends. The message says what happened, why it matters and what to change.
#[derive(Debug)]
pub(crate) struct Failure {
    /// For scripts.
    pub(crate) exit: Exit,
    /// For people.
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Failure {
        Failure { exit, message: message.into() }
    }

    /// Prints the message and gives the number.
    pub(crate) fn report(&self) -> ExitCode {
        eprintln!("forebay: {}", self.message);
        ExitCode::from(self.exit as u8)
    }
}

impl From<DirectoryError> for Failure {
    fn from(error: DirectoryError) -> Failure {
        let exit = match &error {
            DirectoryError::InUse { .. } => Exit::InUse,
            DirectoryError::NotADataDirectory { .. }
            | DirectoryError::Geometry { .. }
            | DirectoryError::LogLimits { .. } => Exit::Usage,
            DirectoryError::Newer { .. } => Exit::Newer,
            DirectoryError::NodeFile { .. }
            | DirectoryError::NodeFileField { .. }
            | DirectoryError::FileMissing { .. }
            | DirectoryError::LogLength { .. } => Exit::Damage,
            DirectoryError::NoDirectIo { .. } | DirectoryError::MemoryOnly { .. } => {
                Exit::NoDirectIo
            }
            DirectoryError::DiskFull { .. } => Exit::DiskFull,
            DirectoryError::Io { .. } => Exit::Other,
        };
        Failure::new(exit, error.to_string())
    }
}

impl From<RingError> for Failure {
    fn from(error: RingError) -> Failure {
        let exit = match &error {
            RingError::KernelTooOld { .. } | RingError::NotAvailable | RingError::Forbidden => {
                Exit::NoRing
            }
            RingError::MemlockTooSmall { .. } => Exit::Memlock,
            RingError::PortTaken { .. } => Exit::PortTaken,
            RingError::DirectUnsupported { .. } => Exit::NoDirectIo,
            RingError::Config(_) | RingError::CoreNotAllowed { .. } => Exit::Usage,
            RingError::TooFewFiles { .. }
            | RingError::Listen { .. }
            | RingError::Open { .. }
            | RingError::System { .. } => Exit::Other,
        };
        Failure::new(exit, error.to_string())
    }
}

impl From<ControlError> for Failure {
    fn from(error: ControlError) -> Failure {
        let exit = match &error {
            ControlError::PortTaken { .. } => Exit::PortTaken,
            ControlError::Bind { .. } | ControlError::Threads(_) => Exit::Other,
        };
        Failure::new(exit, error.to_string())
    }
}

impl From<TlsError> for Failure {
    fn from(error: TlsError) -> Failure {
        let exit = match &error {
            TlsError::Threads(_) => Exit::Other,
            _ => Exit::Usage,
        };
        Failure::new(exit, error.to_string())
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Failure {
        Failure::new(Exit::Usage, error.to_string())
    }
}
