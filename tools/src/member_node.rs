//! A node of a cluster in a process of its own: what it knows of the cluster is in its data
//! directory, and goes when that goes.
//!
//! | file | who writes it |
//! |---|---|
//! | DATA/cluster.json | the node, when an operator makes the cluster (`forebay admin init`), puts it into one (`forebay admin join`), or another node joins |
//!
//! A node that starts at its old addresses without these data is another node, and is taken into the
//! cluster again as such ([`crate::admin::Rejoin`]).

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use forebay_net::metrics::ShardMetrics;
use forebay_net::node::Node;
use forebay_net::node::config::NodeConfig;
use forebay_net::replication::{Joined, Topology};
use forebay_storage::directory::{DataDirectory, replace_file};
use serde::{Deserialize, Serialize};

use crate::admin::{Rejoin, show_as_node};
use crate::exit::{Exit, Failure};
use crate::run::Running;

const FILE: &str = "cluster.json";
const FILE_NEW: &str = "cluster.json.new";

/// What DATA/cluster.json says.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Known {
    topology: Topology,
    /// This node's member of the system group exists, if it founds one.
    bootstrapped: bool,
}

struct MemberNode {
    node: Node,
    data: PathBuf,
    known: Option<Known>,
    /// Looks for nodes that lost their data.
    rejoin: Option<Rejoin>,
}

/// Starts the node, and tells it of the cluster that it is in, if it is in one.
pub(crate) fn start(
    config: NodeConfig,
    directory: DataDirectory,
) -> Result<Box<dyn Running>, Failure> {
    let known = read(&config.data_dir)?;
    let node = Node::start(&config, directory)?;
    if let Some(files) = &config.tls {
        show_as_node(files)?;
    }
    let mut member = MemberNode { node, data: config.data_dir, known, rejoin: None };
    member.tell();
    if member.known.is_none() {
        eprintln!(
            "forebay: this node is in no cluster yet; when all its nodes run, `forebay admin init \
             HOST:PORT …` makes one of them, `forebay admin join` adds this one to another, and if it was \
             one of a cluster at these addresses before its data were lost, it joins by itself"
        );
    }
    Ok(Box::new(member))
}

fn read(data: &Path) -> Result<Option<Known>, Failure> {
    let path = data.join(FILE);
    let bad =
        |problem: String| Failure::new(Exit::Damage, format!("{}: {problem}", path.display()));
    match std::fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|e| bad(e.to_string())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(bad(error.to_string())),
    }
}

impl MemberNode {
    fn tell(&mut self) {
        if let Some(Known { topology, bootstrapped }) = &self.known {
            self.node.set_topology(&Arc::new(topology.clone()), !bootstrapped);
        }
    }

    fn write(&self) -> Result<(), Failure> {
        let bytes = serde_json::to_vec_pretty(&self.known).expect("plain data serializes");
        Ok(replace_file(&self.data, FILE_NEW, FILE, &bytes)?)
    }
}

impl Running for MemberNode {
    fn native_addrs(&self) -> Vec<SocketAddr> {
        self.node.native_addrs().into_iter().take(1).collect()
    }

    fn http_addrs(&self) -> Vec<SocketAddr> {
        self.node.http_addr().into_iter().collect()
    }

    fn metrics(&self) -> Vec<Arc<ShardMetrics>> {
        self.node.metrics()
    }

    fn step(&mut self) -> Result<(), Failure> {
        if let Some(Joined { topology, founded }) = self.node.take_joined() {
            let (id, nodes) = (u128::from_be_bytes(topology.cluster_id), topology.nodes.len());
            match &self.known {
                None => eprintln!("forebay: joins cluster {id:032x} of {nodes} nodes"),
                Some(known) => {
                    let before = known.topology.nodes.len();
                    eprintln!(
                        "forebay: cluster {id:032x} has grown from {before} to {nodes} places"
                    );
                }
            }
            // A node that joins founds nothing.
            let bootstrapped = self.known.as_ref().map_or(!founded, |known| known.bootstrapped);
            self.known = Some(Known { topology, bootstrapped });
            self.write()?;
            self.tell();
        }
        if self.known.is_some() && self.rejoin.is_none() {
            let own = self.node.native_addrs().first().copied();
            self.rejoin = own.map(Rejoin::start).transpose().map_err(|error| {
                Failure::new(Exit::Other, format!("starting a thread: {error}"))
            })?;
        }
        let has_member = self.node.metrics().iter().any(|shard| shard.members.get() > 0);
        if let Some(known) = &mut self.known
            && has_member
            && !known.bootstrapped
        {
            known.bootstrapped = true;
            self.write()?;
        }
        Ok(())
    }

    fn reload(&mut self) -> Option<Result<(), Failure>> {
        Some(self.node.reload_certificates()?.map_err(Failure::from))
    }

    fn failure(&mut self) -> Option<Failure> {
        self.node.failure().map(Failure::from)
    }

    fn stop(self: Box<Self>) -> Result<(), Failure> {
        Ok(self.node.stop()?)
    }
}
