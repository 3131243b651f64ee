//! The source that a node gives to its control lane: a few constants, and its shards' metrics.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use super::ControlSource;
use super::status::{Health, NodeStatus, ShardStatus};
use crate::metrics::ShardMetrics;
use crate::tls::NodeTls;

/// A [`ControlSource`] made of metrics only.
#[derive(Debug)]
pub struct NodeSource {
    /// 32 hexadecimal digits.
    pub node_id: String,
    /// Where the data is.
    pub data_dir: String,
    /// `dsync` or `linked_fdatasync`.
    pub durable_mode: String,
    /// Whether the shards' threads are pinned.
    pub pinned: bool,
    /// When the process began to serve its control port.
    pub started: Instant,
    /// Its certificates, and what it counts about those of others.
    pub tls: Option<Arc<NodeTls>>,
    /// Each shard's address and metrics, in order.
    pub shards: Vec<(SocketAddr, Arc<ShardMetrics>)>,
}

impl ControlSource for NodeSource {
    fn health(&self) -> Health {
        Health::of_shards(self.shards.iter().map(|(_, metrics)| &**metrics))
    }

    fn status(&self) -> NodeStatus {
        let now = boottime_nanos();
        let shards = self.shards.iter();
        NodeStatus {
            node_id: self.node_id.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_seconds: self.started.elapsed().as_secs_f64(),
            data_dir: self.data_dir.clone(),
            durable_mode: self.durable_mode.clone(),
            pinned: self.pinned,
            health: self.health(),
            shards: shards.map(|(at, m)| ShardStatus::of_metrics(at.to_string(), m, now)).collect(),
        }
    }

    fn metrics(&self) -> Vec<Arc<ShardMetrics>> {
        self.shards.iter().map(|(_, metrics)| Arc::clone(metrics)).collect()
    }

    fn tls(&self) -> Option<Arc<NodeTls>> {
        self.tls.clone()
    }
}

/// CLOCK_BOOTTIME, the clock of the shards, in nanoseconds.
#[must_use]
pub fn boottime_nanos() -> u64 {
    crate::ring::now().0
}
