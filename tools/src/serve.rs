//! The one place where the program meets the node.

use std::net::SocketAddr;
use std::sync::Arc;

use forebay_core::ids::ShardId;
use forebay_net::metrics::ShardMetrics;
use forebay_net::node::config::NodeConfig;
use forebay_net::node::{Node, NodeError};
use forebay_storage::directory::DataDirectory;
use forebay_storage::log::ScanError;
use forebay_storage::store::OpenError;
use forebay_storage::superblock::SuperblockError;

use crate::exit::{Exit, Failure};
use crate::run::Running;

/// Starts the shards on the directory.
pub(crate) fn start(
    config: NodeConfig,
    directory: DataDirectory,
) -> Result<Box<dyn Running>, Failure> {
    Ok(Box::new(Node::start(&config, directory)?))
}

impl Running for Node {
    fn native_addrs(&self) -> Vec<SocketAddr> {
        Node::native_addrs(self)
    }

    fn http_addr(&self) -> Option<SocketAddr> {
        Node::http_addr(self)
    }

    fn metrics(&self) -> Vec<Arc<ShardMetrics>> {
        Node::metrics(self)
    }

    fn failure(&mut self) -> Option<Failure> {
        Node::failure(self).map(Failure::from)
    }

    fn stop(self: Box<Self>) -> Result<(), Failure> {
        Ok(Node::stop(*self)?)
    }
}

impl From<NodeError> for Failure {
    fn from(error: NodeError) -> Failure {
        match error {
            NodeError::Ring(error) => error.into(),
            NodeError::Directory(error) => error.into(),
            NodeError::Control(error) => error.into(),
            NodeError::Open { shard, source } => open_failed(shard, &source),
            NodeError::ShardFailed { .. } => Failure::new(Exit::ShardFailed, error.to_string()),
            NodeError::Thread(_) | NodeError::Stuck => {
                Failure::new(Exit::Other, error.to_string())
            }
        }
    }
}

/// What recovery found, with what to do about it.
fn open_failed(shard: ShardId, error: &OpenError) -> Failure {
    let (exit, advice) = match error {
        OpenError::Superblock(SuperblockError::NewerVersion { .. })
        | OpenError::Log(ScanError::Newer { .. }) => {
            (Exit::Newer, "run the newer program; nothing was changed")
        }
        OpenError::Geometry { .. } => (Exit::Usage, "set log_segment_bytes and log_segments so"),
        OpenError::Memory { .. } => (Exit::Usage, "raise --memory to what it was before"),
        OpenError::Cache(_) => (Exit::Other, "lower --memory"),
        OpenError::Disk(_)
        | OpenError::Log(ScanError::Read { .. } | ScanError::Flush { .. })
        | OpenError::Catalog(_) => (Exit::Damage, "look at the device; nothing was changed"),
        OpenError::Superblock(_)
        | OpenError::SuperblocksLost { .. }
        | OpenError::Foreign { .. }
        | OpenError::Space(_)
        | OpenError::CatalogEntry
        | OpenError::Log(ScanError::Damage(_))
        | OpenError::Gap { .. } => (
            Exit::Damage,
            "nothing was changed; `forebay inspect` shows what is readable, and a copy of the \
             directory from before is the way back",
        ),
    };
    Failure::new(exit, format!("shard {shard}: {error}; {advice}"))
}
