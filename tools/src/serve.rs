//! The one place where the program meets the node.

use forebay_net::node::config::NodeConfig;
use forebay_storage::directory::DataDirectory;

use crate::exit::{Exit, Failure};
use crate::run::Running;

/// Starts the shards on the directory.
pub(crate) fn start(
    _config: NodeConfig,
    _directory: DataDirectory,
) -> Result<Box<dyn Running>, Failure> {
    Err(Failure::new(Exit::Other, "this build has no shards"))
}
