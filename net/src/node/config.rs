//! What a node is told when it starts, with the defaults and the limits of every value.
//!
//! ```text
//!   memory_bytes ── per shard ──┬── overlay_bytes      both generations of new writes
//!                               └── the rest           page cache
//!   beside it, a constant for each shard: CONSTANT_BYTES_PER_SHARD
//! ```
//!
//! This type is complete: where a command line or a file leaves something out, a default was put in
//! before. It knows nothing of either; `forebay` (tools) reads them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use forebay_core::ids::ShardId;
use forebay_core::time::Nanos;
use forebay_storage::block::BLOCK_BYTES;
use forebay_storage::directory::{Geometry, Request};
use forebay_storage::log::{
    IN_FLIGHT_MAX, LogConfig, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, SEGMENTS_MIN,
};

use crate::replication::{DEAD_AFTER_NANOS, SnapshotSettings};
use crate::tls::TlsFiles;

/// Where a node listens for native clients unless told otherwise; shard n takes this port plus n.
pub const NATIVE_PORT: u16 = 4700;
/// Where a node serves its operator unless told otherwise.
pub const HTTP_PORT: u16 = 4690;
/// Smallest memory for one shard: an overlay that holds a few of the largest items, and a cache
/// that holds the upper levels of its trees.
pub const MEMORY_BYTES_PER_SHARD_MIN: u64 = 32 << 20;
/// What a shard uses beside its share of `memory_bytes`: ring and receive buffers, log batches,
/// connection buffers, metrics, code.
pub const CONSTANT_BYTES_PER_SHARD: u64 = 64 << 20;
/// Most log batches in flight; what devices gain beyond is latency only.
pub const BATCHES_IN_FLIGHT_MAX: u32 = IN_FLIGHT_MAX;
/// Most shards of one node.
pub const SHARDS_MAX: u16 = 256;

const _: () = assert!(NodeConfig::NEW_DIRECTORY.log_segment_bytes >= SEGMENT_BYTES_MIN);
const _: () = assert!(NodeConfig::NEW_DIRECTORY.log_segments >= SEGMENTS_MIN);

/// How a write is made durable; `forebay probe-disk` measures which is better here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DurableMode {
    /// Each write carries RWF_DSYNC.
    #[default]
    Dsync,
    /// Each write is linked with an fdatasync.
    LinkedFdatasync,
}

impl DurableMode {
    /// As written in files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            DurableMode::Dsync => "dsync",
            DurableMode::LinkedFdatasync => "linked_fdatasync",
        }
    }

    /// The inverse of [`DurableMode::name`].
    #[must_use]
    pub fn from_name(name: &str) -> Option<DurableMode> {
        [DurableMode::Dsync, DurableMode::LinkedFdatasync].into_iter().find(|m| m.name() == name)
    }
}

/// When checkpoints happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointPacing {
    /// False for measurements only: the log fills up and writes are then refused.
    pub enabled: bool,
    /// Longest time between two, while there are writes; bounds recovery on quiet nodes.
    pub interval_seconds: u32,
    /// One begins when this part of the log is in use; bounds recovery on busy nodes.
    pub log_fill_percent: u8,
    /// One begins when the active overlay generation holds this part of its share.
    pub overlay_fill_percent: u8,
    /// Longest slice of merge work between two turns of the event loop.
    pub slice_microseconds: u32,
}

impl Default for CheckpointPacing {
    fn default() -> CheckpointPacing {
        CheckpointPacing {
            enabled: true,
            interval_seconds: 30,
            log_fill_percent: 50,
            overlay_fill_percent: 75,
            slice_microseconds: 200,
        }
    }
}

/// Largest log that a new shard gets without being told: a few seconds of prewriting.
const NEW_LOG_BYTES_MAX: u64 = 4 << 30;

/// Two weeks: what operators let disks and file systems do in the background. A terabyte is 0.8 MB/s then.
const SCRUB_SECONDS: u32 = 14 * 86_400;
/// A year: less often finds damage after the other copies are gone.
const SCRUB_SECONDS_MAX: u32 = 366 * 86_400;

/// Slower, a snapshot would outlast every log.
const SNAPSHOT_BYTES_PER_SECOND_MIN: u64 = 1 << 20;

/// A node's place in a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClusterPlace {
    /// Availability zone.
    pub az: u16,
    /// Where shard 0 listens for the other nodes' shards; shard n takes this port plus n. Port 0 takes
    /// any free one for each.
    pub peer: SocketAddr,
    /// Where the other nodes reach that, if it is elsewhere for them: behind a translated address, or
    /// a relay. Shard n takes this port plus n.
    pub advertise: Option<SocketAddr>,
}

impl ClusterPlace {
    /// What the others are told of a shard that listens for them at `bound`.
    pub(super) fn told(&self, shard: ShardId, bound: SocketAddr) -> SocketAddr {
        self.advertise.map_or(bound, |first| shard_address(first, shard.0))
    }
}

/// Everything a node needs to know to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeConfig {
    /// Where its data is.
    pub data_dir: PathBuf,
    /// Event loops. None: what the data directory has, or one for a new directory.
    pub shards: Option<u16>,
    /// Where shard 0 listens; shard n takes this port plus n. Port 0 takes any free one for each.
    pub native: SocketAddr,
    /// Where the operator's HTTP listens. None: nowhere.
    pub http: Option<SocketAddr>,
    /// For overlays and page caches of all shards. The process uses
    /// [`CONSTANT_BYTES_PER_SHARD`] more for each shard.
    pub memory_bytes: u64,
    /// Of it, for each shard's overlay (both generations). None: a quarter of the shard's share.
    pub overlay_bytes: Option<u64>,
    /// Bytes of a log segment. None: what the directory has, or the default for a new one.
    pub log_segment_bytes: Option<u64>,
    /// Segments of each shard's log. None: what the directory has, or, for a new one, as many as twice
    /// the overlay's bytes need.
    pub log_segments: Option<u32>,
    /// Log batches in flight on each shard.
    pub batches_in_flight: u32,
    /// How log batches are made durable.
    pub durable_mode: DurableMode,
    /// Pin each shard to a core, if there are more cores than shards.
    pub pin_cores: bool,
    /// How long an idle shard watches for events before it sleeps in the kernel; 0: not at all.
    pub busy_poll_microseconds: u32,
    /// When checkpoints happen.
    pub checkpoint: CheckpointPacing,
    /// What each shard serves, and what it fetches, of snapshots for members of replicated groups, in
    /// bytes a second.
    pub snapshot_bytes_per_second: u64,
    /// Every page is read from the disk, and checked, once in this time; 0: only those that are asked for.
    pub scrub_seconds: u32,
    /// A node of the cluster that is silent for so long is replaced, where this one decides that.
    pub replace_after_seconds: u32,
    /// The node's place in a cluster. None: it stands alone.
    pub cluster: Option<ClusterPlace>,
    /// Its certificates. None: clients and peers speak plain text, and nobody shows who he is.
    pub tls: Option<TlsFiles>,
    /// Connections of each shard; more are refused.
    pub connections_max: u32,
    /// Bytes of disk buffers that each shard registers with its ring; they count against the
    /// memlock limit.
    pub registered_bytes: u64,
}

/// A value that cannot be; correct it and start again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct ConfigError {
    /// Name of the value, as in the configuration file.
    pub field: &'static str,
    /// What is wrong with it, and what would be right.
    pub problem: String,
}

impl NodeConfig {
    /// The geometry of a new directory.
    pub const NEW_DIRECTORY: Geometry =
        Geometry { shards: 1, log_segment_bytes: 16 << 20, log_segments: 16 };

    /// The defaults for data in `data_dir`.
    #[must_use]
    pub fn new(data_dir: PathBuf) -> NodeConfig {
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        NodeConfig {
            data_dir,
            shards: None,
            native: SocketAddr::new(loopback, NATIVE_PORT),
            http: Some(SocketAddr::new(loopback, HTTP_PORT)),
            memory_bytes: 512 << 20,
            overlay_bytes: None,
            log_segment_bytes: None,
            log_segments: None,
            batches_in_flight: 8,
            durable_mode: DurableMode::default(),
            pin_cores: true,
            busy_poll_microseconds: 0,
            checkpoint: CheckpointPacing::default(),
            snapshot_bytes_per_second: SnapshotSettings::DEFAULT.bytes_per_second,
            scrub_seconds: SCRUB_SECONDS,
            replace_after_seconds: (DEAD_AFTER_NANOS / Nanos::PER_SECOND) as u32,
            cluster: None,
            tls: None,
            connections_max: 4096,
            registered_bytes: 2 << 20,
        }
    }

    /// Checks every value by itself and against the others. Call [`NodeConfig::budget`] as well
    /// once the number of shards is known.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let refuse = |field, problem| Err(ConfigError { field, problem });
        let within = |field, value: u64, min: u64, max: u64| {
            if (min..=max).contains(&value) {
                return Ok(());
            }
            refuse(field, format!("{value} is not within {min} to {max}"))
        };
        if self.data_dir.as_os_str().is_empty() {
            return refuse("data", "is empty; name a directory".into());
        }
        let shards = self.shards.unwrap_or(Self::NEW_DIRECTORY.shards);
        within("shards", shards.into(), 1, SHARDS_MAX.into())?;
        self.budget(shards)?;
        if self.native.port() != 0 && self.native.port().checked_add(shards - 1).is_none() {
            let port = self.native.port();
            return refuse("native", format!("{shards} ports from {port} on go beyond 65535"));
        }
        let advertise = self.cluster.and_then(|cluster| cluster.advertise);
        let peer = self.cluster.map(|cluster| cluster.peer);
        for (field, at) in [("peer", peer), ("advertise", advertise)] {
            if let Some(port) = at.map(|at| at.port())
                && port != 0
                && port.checked_add(shards - 1).is_none()
            {
                return refuse(field, format!("{shards} ports from {port} on go beyond 65535"));
            }
        }
        if let Some(at) = advertise
            && (at.port() == 0 || at.ip().is_unspecified())
        {
            return refuse("advertise", format!("{at} is no address that others can reach"));
        }
        if let Some(http) = self.http {
            let native = self.native.port()..=self.native.port().saturating_add(shards - 1);
            if http.port() != 0 && native.contains(&http.port()) {
                let port = http.port();
                return refuse("http", format!("port {port} is one of the shards' ports"));
            }
        }
        if let Some(bytes) = self.log_segment_bytes {
            within("log_segment_bytes", bytes, SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX)?;
            if !bytes.is_multiple_of(BLOCK_BYTES as u64) {
                return refuse(
                    "log_segment_bytes",
                    format!("{bytes} is not a multiple of {BLOCK_BYTES}"),
                );
            }
        }
        if let Some(segments) = self.log_segments {
            within("log_segments", segments.into(), SEGMENTS_MIN.into(), 65_536)?;
        }
        let in_flight = self.batches_in_flight.into();
        within("batches_in_flight", in_flight, 1, BATCHES_IN_FLIGHT_MAX.into())?;
        within("busy_poll_microseconds", self.busy_poll_microseconds.into(), 0, 1_000_000)?;
        within("connections_max", self.connections_max.into(), 1, 1 << 20)?;
        within("registered_bytes", self.registered_bytes, 0, 1 << 30)?;
        within(
            "snapshot_bytes_per_second",
            self.snapshot_bytes_per_second,
            SNAPSHOT_BYTES_PER_SECOND_MIN,
            1 << 40,
        )?;
        within("scrub_seconds", self.scrub_seconds.into(), 0, SCRUB_SECONDS_MAX.into())?;
        // Less than a restart takes would copy for nothing; a month is for ever.
        let seconds = self.replace_after_seconds.into();
        within("replace_after_seconds", seconds, 2, 30 * 86_400)?;
        let pacing = &self.checkpoint;
        within("checkpoint_seconds", pacing.interval_seconds.into(), 1, 86_400)?;
        within("checkpoint_log_fill_percent", pacing.log_fill_percent.into(), 1, 90)?;
        within("checkpoint_overlay_fill_percent", pacing.overlay_fill_percent.into(), 1, 90)?;
        within("checkpoint_slice_microseconds", pacing.slice_microseconds.into(), 10, 100_000)
    }

    /// Divides the memory among `shards` shards.
    pub fn budget(&self, shards: u16) -> Result<ShardBudget, ConfigError> {
        assert!(shards > 0);
        let share = self.memory_bytes / u64::from(shards);
        if share < MEMORY_BYTES_PER_SHARD_MIN {
            let needed = MEMORY_BYTES_PER_SHARD_MIN * u64::from(shards);
            let memory = self.memory_bytes;
            let problem =
                format!("{memory} bytes are too few for {shards} shards; give at least {needed}");
            return Err(ConfigError { field: "memory", problem });
        }
        let overlay_bytes = self.overlay_bytes.unwrap_or(share / 4);
        let (min, max) = (MEMORY_BYTES_PER_SHARD_MIN / 4, share / 4 * 3);
        if !(min..=max).contains(&overlay_bytes) {
            let problem = format!(
                "{overlay_bytes} is not within {min} and three quarters of a shard's memory, {max}"
            );
            return Err(ConfigError { field: "overlay_bytes", problem });
        }
        Ok(ShardBudget { overlay_bytes, cache_bytes: share - overlay_bytes })
    }

    /// Where `shard` listens for clients.
    #[must_use]
    pub fn native_addr(&self, shard: u16) -> SocketAddr {
        shard_address(self.native, shard)
    }

    /// Segments of a new shard's log: room for what both generations of the overlay hold. A smaller
    /// log would make checkpoints follow each other before the memory is used, each of them rewriting
    /// much of a large tree for few entries; a larger one would only take longer to recover.
    fn new_log_segments(&self) -> u32 {
        let Geometry { shards, log_segment_bytes, log_segments } = Self::NEW_DIRECTORY;
        let segment_bytes = self.log_segment_bytes.unwrap_or(log_segment_bytes);
        let overlay_bytes =
            self.budget(self.shards.unwrap_or(shards)).map_or(0, |b| b.overlay_bytes);
        let wanted = (2 * overlay_bytes).min(NEW_LOG_BYTES_MAX) / segment_bytes;
        u32::try_from(wanted).unwrap_or(u32::MAX).max(log_segments)
    }

    /// What to ask of the data directory.
    #[must_use]
    pub fn directory_request(&self) -> Request {
        let log_segments = self.new_log_segments();
        Request {
            defaults: Geometry { log_segments, ..Self::NEW_DIRECTORY },
            shards: self.shards,
            log_segment_bytes: self.log_segment_bytes,
            log_segments: self.log_segments,
            log: LogConfig::standard(ShardId(0), 0),
        }
    }
}

/// The address of a shard, from that of shard 0.
pub(super) fn shard_address(first: SocketAddr, shard: u16) -> SocketAddr {
    let port = match first.port() {
        0 => 0,
        base => base.checked_add(shard).expect("validate() refused such a port"),
    };
    SocketAddr::new(first.ip(), port)
}

/// One shard's share of the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardBudget {
    /// For both generations of the overlay.
    pub overlay_bytes: u64,
    /// For the page cache.
    pub cache_bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> NodeConfig {
        NodeConfig::new("data".into())
    }

    fn refused(change: impl FnOnce(&mut NodeConfig)) -> ConfigError {
        let mut config = config();
        change(&mut config);
        config.validate().unwrap_err()
    }

    #[test]
    fn a_new_log_grows_with_the_memory() {
        let log_bytes = |memory_bytes: u64, shards| {
            let config = NodeConfig { memory_bytes, shards: Some(shards), ..config() };
            config.validate().unwrap();
            config.directory_request().defaults.log_bytes()
        };
        assert_eq!(log_bytes(64 << 20, 1), 256 << 20);
        assert_eq!(log_bytes(512 << 20, 1), 256 << 20);
        assert_eq!(log_bytes(2 << 30, 1), 1 << 30);
        assert_eq!(log_bytes(2 << 30, 4), 256 << 20);
        assert_eq!(log_bytes(64 << 30, 1), 4 << 30);
    }

    #[test]
    fn the_defaults_are_valid_and_the_ports_do_not_meet() {
        config().validate().unwrap();
        let many = NodeConfig { shards: Some(8), ..config() };
        many.validate().unwrap();
        assert_eq!(many.native_addr(7).port(), NATIVE_PORT + 7);
    }

    #[test]
    fn every_limit_names_its_field() {
        assert_eq!(refused(|c| c.shards = Some(0)).field, "shards");
        assert_eq!(refused(|c| c.memory_bytes = 1 << 20).field, "memory");
        assert_eq!(
            refused(|c| c.log_segment_bytes = Some((16 << 20) + 1)).field,
            "log_segment_bytes"
        );
        assert_eq!(refused(|c| c.log_segments = Some(1)).field, "log_segments");
        assert_eq!(refused(|c| c.batches_in_flight = 9).field, "batches_in_flight");
        assert_eq!(refused(|c| c.http = Some(c.native)).field, "http");
        assert_eq!(refused(|c| c.overlay_bytes = Some(c.memory_bytes)).field, "overlay_bytes");
        assert_eq!(refused(|c| c.checkpoint.interval_seconds = 0).field, "checkpoint_seconds");
        let far = refused(|c| {
            c.native.set_port(65_535);
            c.shards = Some(2);
        });
        assert_eq!(far.field, "native");
    }

    #[test]
    fn the_smallest_log_that_is_valid_is_one_that_a_shard_can_open() {
        let smallest = (SEGMENT_BYTES_MIN, SEGMENTS_MIN);
        let config = NodeConfig {
            log_segment_bytes: Some(smallest.0),
            log_segments: Some(smallest.1),
            ..config()
        };
        config.validate().unwrap();
        let request = config.directory_request();
        let log = LogConfig { segment_bytes: smallest.0, segments: smallest.1, ..request.log };
        assert_eq!(log.validate(), Ok(()));
        let less = refused(|c| c.log_segment_bytes = Some(SEGMENT_BYTES_MIN - BLOCK_BYTES as u64));
        assert_eq!(less.field, "log_segment_bytes");
        assert!(less.problem.contains(&SEGMENT_BYTES_MIN.to_string()), "{less}");
        assert_eq!(refused(|c| c.log_segments = Some(SEGMENTS_MIN - 1)).field, "log_segments");
    }

    #[test]
    fn port_zero_means_any_port_for_every_shard() {
        let config = NodeConfig { native: "127.0.0.1:0".parse().unwrap(), ..config() };
        assert_eq!(config.native_addr(5).port(), 0);
    }

    #[test]
    fn the_budget_never_exceeds_the_memory() {
        for shards in 1..=8 {
            let budget = config().budget(shards).unwrap();
            let total = (budget.overlay_bytes + budget.cache_bytes) * u64::from(shards);
            assert!(total <= config().memory_bytes);
        }
    }
}
