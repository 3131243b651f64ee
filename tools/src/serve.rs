//! The one place where the program meets the node.

use std::net::SocketAddr;
use std::sync::Arc;

use forebay_net::metrics::ShardMetrics;
use forebay_net::node::config::NodeConfig;
use forebay_net::node::{Node, NodeError};
use forebay_storage::block::DiskError;
use forebay_storage::directory::DataDirectory;
use forebay_storage::log::ScanError;
use forebay_storage::space::SpaceError;
use forebay_storage::store::OpenError;
use forebay_storage::superblock::SuperblockError;

use crate::exit::{Exit, Failure};
use crate::run::Running;

/// Starts the shards on the directory.
pub(crate) fn start(
    config: NodeConfig,
    directory: DataDirectory,
) -> Result<Box<dyn Running>, Failure> {
    let node = Node::start(&config, directory)?;
    Ok(Box::new(node))
}

impl Running for Node {
    fn native_addrs(&self) -> Vec<SocketAddr> {
        Node::native_addrs(self).into_iter().take(1).collect()
    }

    fn http_addrs(&self) -> Vec<SocketAddr> {
        Node::http_addr(self).into_iter().collect()
    }

    fn metrics(&self) -> Vec<Arc<ShardMetrics>> {
        Node::metrics(self)
    }

    fn reload(&mut self) -> Option<Result<(), Failure>> {
        Some(Node::reload_certificates(self)?.map_err(Failure::from))
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
        let exit = match error {
            NodeError::Ring(error) => return error.into(),
            NodeError::Directory(error) => return error.into(),
            NodeError::Control(error) => return error.into(),
            NodeError::Tls(error) => return (*error).into(),
            NodeError::Open { ref source, .. } => exit_of_open(source),
            NodeError::Unreadable { .. } => Exit::Damage,
            NodeError::Thread(_) | NodeError::Stuck { .. } | NodeError::Maintenance(_) => {
                Exit::Other
            }
            NodeError::ShardFailed { .. } => Exit::ShardFailed,
        };
        Failure::new(exit, error.to_string())
    }
}

fn exit_of_open(error: &OpenError) -> Exit {
    match error {
        OpenError::Superblock(SuperblockError::NewerVersion { .. })
        | OpenError::Log(ScanError::Newer { .. }) => Exit::Newer,
        OpenError::Superblock(_)
        | OpenError::SuperblocksLost { .. }
        | OpenError::Foreign { .. }
        | OpenError::CatalogEntry
        | OpenError::Catalog(_)
        | OpenError::Gap { .. }
        | OpenError::Record { .. }
        | OpenError::PagesLength { .. }
        | OpenError::Log(ScanError::Damage(_)) => Exit::Damage,
        OpenError::Space(error) => match error {
            SpaceError::DiskFull { .. } => Exit::DiskFull,
            _ => Exit::Damage,
        },
        OpenError::Geometry { .. } | OpenError::Memory { .. } => Exit::Usage,
        OpenError::Disk(DiskError { errno: libc::ENOSPC | libc::EDQUOT })
        | OpenError::NoRoomForLoss => Exit::DiskFull,
        OpenError::Disk(_)
        | OpenError::Cache(_)
        | OpenError::Log(ScanError::Read { .. } | ScanError::Flush { .. })
        | OpenError::LogWrite(_) => Exit::Other,
    }
}
