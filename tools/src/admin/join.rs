//! A node becomes one of a cluster: `admin join`, and by itself where its data are gone.
//!
//! ```text
//!   tool ──► Describe ─► the new node                  who are you?
//!        ──► Join{node} ─► the system group's leader   written down, told to all nodes
//!        ◄── Describe ── until the list has it
//!        ──► Joined(list) ─► the new node              it writes the list down, and takes part
//! ```
//!
//! Every step can be repeated: a node that is in the list already is only told so again.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use forebay_core::liveness::Peer;
use forebay_net::replication::{
    AdminAnswer, AdminCommand, NodeDescription, Topology, TopologyNode,
};

use super::exchange::ask;
use super::{describe, node_of, unexpected};
use crate::exit::{Exit, Failure};

/// How long a cluster may take to write down one more node.
const JOIN_MAX: Duration = Duration::from_secs(15);
const LOOK: Duration = Duration::from_millis(50);

/// The node at `address`, if it may join the cluster `topology`: as the others must know it. Some, if
/// it is in the cluster already.
pub(super) fn joinable(
    address: SocketAddr,
    node: &NodeDescription,
    topology: &Topology,
) -> Result<TopologyNode, Failure> {
    let refuse = |words: String| {
        Err(Failure::new(Exit::Usage, format!("{address} {words}; nothing was changed")))
    };
    if !node.clustered {
        return refuse(
            "stands alone: give it a [cluster] section in its configuration and an empty data \
             directory"
                .to_owned(),
        );
    }
    if let Some(other) = &node.topology
        && other.cluster_id != topology.cluster_id
    {
        let [here, there] = [other, topology].map(|list| u128::from_be_bytes(list.cluster_id));
        return refuse(format!(
            "is in cluster {here:032x}, not in {there:032x}: a node that is to move needs an empty \
             data directory"
        ));
    }
    Ok(node_of(address, node))
}

/// Makes the node at `address` one of the cluster that `node` describes; its place in it.
pub(super) fn join(
    cluster: SocketAddr,
    address: SocketAddr,
    replaces: Option<[u8; 16]>,
) -> Result<(Topology, usize), Failure> {
    let new = describe(address)?;
    let until = Instant::now() + JOIN_MAX;
    let mut said = format!("{cluster} knows no leader of the system group");
    loop {
        let known = describe(cluster)?;
        let Some(topology) = known.topology else {
            return Err(Failure::new(Exit::Usage, format!("{cluster} is in no cluster")));
        };
        let node = joinable(address, &new, &topology)?;
        let replaces = replaces.or_else(|| replaced_by(&node, &topology));
        if let Some(place) = topology.place_of(&new.node_id) {
            return match ask(address, &AdminCommand::Joined(topology.clone()))? {
                AdminAnswer::Accepted => Ok((topology, place)),
                AdminAnswer::Refused(words) => {
                    Err(Failure::new(Exit::Other, format!("{address} refuses: {words}")))
                }
                _ => Err(unexpected(address)),
            };
        }
        let leader = known.system_leader.and_then(|leader| topology.native(Peer(leader)));
        if let Some(leader) = leader {
            match ask(leader, &AdminCommand::Join { node, replaces }) {
                Ok(AdminAnswer::Accepted) => said = format!("{leader} has not written it down yet"),
                Ok(AdminAnswer::Refused(words)) if is_final(&words) => {
                    return Err(Failure::new(Exit::Usage, format!("{leader} refuses: {words}")));
                }
                Ok(AdminAnswer::Refused(words)) => said = format!("{leader} says: {words}"),
                Ok(_) => return Err(unexpected(leader)),
                Err(failure) => said = failure.message,
            }
        }
        if Instant::now() > until {
            let message = format!(
                "{address} is not in the cluster yet: {said}; look at `forebay admin groups`, and \
                 ask again"
            );
            return Err(Failure::new(Exit::Other, message));
        }
        std::thread::sleep(LOOK);
    }
}

/// Who had the new node's address for clients before: it answers there under another id now, so the
/// old node's data are gone.
fn replaced_by(node: &TopologyNode, topology: &Topology) -> Option<[u8; 16]> {
    let first = node.native.first()?;
    let old = topology.nodes.iter().find(|old| old.native.first() == Some(first))?;
    (old.node_id != node.node_id).then_some(old.node_id)
}

/// Whether it is of no use to ask again.
fn is_final(words: &str) -> bool {
    let passing = ["does not lead", "try again"];
    !passing.iter().any(|passing| words.contains(passing))
}
