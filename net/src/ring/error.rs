//! What can stop a ring from working, and what to do about it. Nothing here is survived silently:
//! the program prints the error and exits.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Why a ring could not be made or had to stop. Each message names what is missing, why it matters
/// and what to change.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// Upgrade the kernel.
    #[error(
        "this kernel ({release}) cannot make a ring with SINGLE_ISSUER and DEFER_TASKRUN, which \
         the shard's event loop is built on; use Linux 6.1 or newer"
    )]
    KernelTooOld {
        /// As `uname -r` says.
        release: String,
    },
    /// Allow io_uring in the container's seccomp profile, or use a kernel built with it.
    #[error(
        "io_uring does not exist here (ENOSYS), and every socket and disk operation of a shard \
         goes through it; use a kernel with CONFIG_IO_URING, and in a container a seccomp profile \
         that allows io_uring_setup, io_uring_enter and io_uring_register"
    )]
    NotAvailable,
    /// Set kernel.io_uring_disabled to 0, or loosen the seccomp profile.
    #[error(
        "io_uring is forbidden here (EPERM), and every socket and disk operation of a shard goes \
         through it; set sysctl kernel.io_uring_disabled=0, or run with a seccomp profile that \
         allows io_uring_setup"
    )]
    Forbidden,
    /// Raise the memlock limit or register fewer buffers.
    #[error(
        "the kernel refused to lock {needed_bytes} bytes for the ring (memlock limit \
         {limit_bytes} bytes); registered buffers save the kernel a page walk per disk operation; \
         raise `ulimit -l` (LimitMEMLOCK= in systemd) or configure a smaller registered pool"
    )]
    MemlockTooSmall {
        /// What was asked for.
        needed_bytes: u64,
        /// RLIMIT_MEMLOCK of this process.
        limit_bytes: u64,
    },
    /// Raise the limit of open files or allow fewer connections.
    #[error(
        "the ring needs {needed} open files (connections_max and its own), but the hard limit is \
         {limit}; raise `ulimit -n` (LimitNOFILE= in systemd) or lower connections_max"
    )]
    TooFewFiles {
        /// Slots asked for.
        needed: u64,
        /// The hard RLIMIT_NOFILE.
        limit: u64,
    },
    /// Stop the other process or choose another port.
    #[error(
        "{addr} is taken by another process (EADDRINUSE for {waited_ms} ms); stop that process or \
         choose another address"
    )]
    PortTaken {
        /// Where the listener should be.
        addr: SocketAddr,
        /// How long the ring retried: a predecessor's ring may still be torn down.
        waited_ms: u64,
    },
    /// Check that the address belongs to this machine and that the port may be bound.
    #[error("cannot listen on {addr}: {source}; check that the address belongs to this machine")]
    Listen {
        /// Where the listener should be.
        addr: SocketAddr,
        /// The operating system's reason.
        source: io::Error,
    },
    /// Put the file on a file system with direct I/O.
    #[error(
        "{path} is on a file system without direct I/O (tmpfs, ramfs and some network and FUSE \
         file systems); without O_DIRECT an acknowledged write could sit in the page cache only; \
         put the data directory on ext4 or xfs on a block device"
    )]
    DirectUnsupported {
        /// The file.
        path: PathBuf,
    },
    /// Look at the path and its permissions.
    #[error("cannot open {path}: {source}")]
    Open {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// Choose a core of the process's affinity mask.
    #[error(
        "core {core} is not in this process's affinity mask ({allowed:?}); choose one of these, or \
         widen the mask (taskset, cpuset)"
    )]
    CoreNotAllowed {
        /// The core asked for.
        core: usize,
        /// The cores that may be used.
        allowed: Vec<usize>,
    },
    /// Correct the configuration.
    #[error("ring configuration: {0}")]
    Config(&'static str),
    /// Not expected; report it with the kernel's release.
    #[error("{call} failed: {source}")]
    System {
        /// The step that failed.
        call: &'static str,
        /// The operating system's reason.
        source: io::Error,
    },
}

impl RingError {
    pub(super) fn system(call: &'static str, source: io::Error) -> RingError {
        RingError::System { call, source }
    }
}
