//! What a ring is made of.

use std::fs::File;
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::time::Duration;

use forebay_storage::block::ShardFile;

/// How a durable write is made durable. `probe-disk` says which is better on a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DurableMode {
    /// One write with RWF_DSYNC.
    #[default]
    Dsync,
    /// A write, and an fdatasync linked behind it.
    LinkedFdatasync,
}

/// What a ring is made of.
#[derive(Debug)]
pub struct RingConfig {
    /// Pin the thread to this core of its affinity mask.
    pub core: Option<usize>,
    /// Listen here; a port of 0 is chosen by the kernel. The index is the machine's `listener`.
    pub listen: Vec<SocketAddr>,
    /// Connections that the kernel completes while the shard is busy.
    pub backlog: i32,
    /// How long to retry when the address is in use.
    pub bind_retry: Duration,
    /// More connections than this are closed as soon as they are accepted.
    pub connections_max: u32,
    /// Provided buffers; a power of two.
    pub receive_buffers: u16,
    /// Bytes of each.
    pub receive_buffer_bytes: u32,
    /// Operations submitted by one system call.
    pub submission_entries: u32,
    /// Completions held in memory; more are kept by the kernel, more slowly.
    pub completion_entries: u32,
    /// The shard's files, opened by [`super::open_direct`].
    pub files: Vec<(ShardFile, File)>,
    /// How durable writes are made.
    pub durable: DurableMode,
    /// An eventfd through which other lanes wake the machine. It must be open while the ring is
    /// made; the ring keeps its own reference, and makes it blocking.
    pub wakeup: Option<RawFd>,
    /// Spin this long before sleeping.
    pub busy_poll: Duration,
    /// How long a connection that the machine closed may wait for the peer to close too.
    pub close_linger: Duration,
    /// How long a stopping ring waits for sends and disk operations in flight.
    pub stop_linger: Duration,
}

impl Default for RingConfig {
    fn default() -> RingConfig {
        RingConfig {
            core: None,
            listen: Vec::new(),
            backlog: 1024,
            bind_retry: Duration::from_secs(5),
            connections_max: 4096,
            receive_buffers: 512,
            receive_buffer_bytes: 16 * 1024,
            submission_entries: 1024,
            completion_entries: 8192,
            files: Vec::new(),
            durable: DurableMode::default(),
            wakeup: None,
            busy_poll: Duration::ZERO,
            close_linger: Duration::from_secs(1),
            stop_linger: Duration::from_secs(2),
        }
    }
}
