//! `admin`: what an operator does to a cluster.
//!
//! ```text
//!   init ──► Describe ─► each node       a list of them, in order, with a fresh cluster id
//!        ──► Init(list) ─► each node     each writes it down and tells its shards
//!        ◄── Describe ── until all know the leader of the system group
//! ```
//!
//! How a node joins later: `join`.

mod exchange;
mod join;
mod rejoin;

pub(crate) use exchange::show_as_node;
pub(crate) use rejoin::Rejoin;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use forebay_net::replication::{
    AdminAnswer, AdminCommand, GroupDescription, NodeDescription, Topology, TopologyNode,
};

use crate::exit::{Exit, Failure};
use exchange::{ask, resolve, show_certificates};

const EXAMPLES: &str = "Examples:
  forebay admin init 10.0.0.1:4700 10.0.0.2:4700 10.0.0.3:4700
  forebay admin join 10.0.0.4:4700 --cluster 10.0.0.1:4700  one more node, where members can be replaced
  forebay admin groups 10.0.0.1:4700                       members, leaders, leases, lag, changes
  forebay admin move-leader 10.0.0.1:4700 --group 0 --to 256

Each node must run with a [cluster] section in its configuration; see
`forebay node --print-sample-config`.";

const JOIN_EXAMPLES: &str = "Examples:
  forebay node --config node-4.toml                    an empty data directory, and a [cluster] section
  forebay admin join 10.0.0.4:4700 --cluster 10.0.0.1:4700

The node's AZ, ports and number of shards come from its configuration. It may be asked for again: a
node that is in the cluster stays there. A node whose data directory was deleted needs no command:
started at its old addresses, it joins by itself, as a new node.";

const GROUPS_EXAMPLES: &str = "Examples:
  forebay admin groups 10.0.0.1:4700
  watch -n1 forebay admin groups 10.0.0.1:4700         see a dead node's members being replaced

keeps: storage replicas have log and tree, log replicas the recent log only. role: joining and filling
members are on their way in, removed ones on their way out; they stay until their group is whole.";

/// How long a new cluster may take to elect the first leader.
const INIT_MAX: Duration = Duration::from_secs(15);

/// Make a cluster, look at its groups, move a leader
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Where authority.pem, operator.pem and operator.key are, as `forebay certs` makes them; for nodes
    /// that speak TLS
    #[arg(long, value_name = "DIR", global = true)]
    certificates: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Make a cluster of running nodes that are in none; the first three hold the system group
    Init {
        /// Where each node listens for clients
        #[arg(required = true, num_args = 1.., value_name = "HOST:PORT")]
        nodes: Vec<String>,
    },
    /// Add a started, empty node to a cluster; members of nodes that die are replaced on it
    #[command(after_help = JOIN_EXAMPLES)]
    Join {
        /// Where the new node listens for clients
        node: String,
        /// Any node of the cluster
        #[arg(long, value_name = "HOST:PORT")]
        cluster: String,
    },
    /// Show every group of the cluster: members, leader, lease, how far behind each member is, and
    /// which are on their way to become members or to leave
    #[command(after_help = GROUPS_EXAMPLES)]
    Groups {
        /// Any node of the cluster
        node: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Let another shard lead a group; clients follow
    MoveLeader {
        /// Any node of the cluster
        node: String,
        /// The group
        #[arg(long)]
        group: u64,
        /// The shard that is to lead: 256 times the node's place in the cluster, plus its number there
        #[arg(long)]
        to: u32,
    },
}

/// Carries the command out.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    if let Some(directory) = &args.certificates {
        show_certificates(directory)?;
    }
    match &args.command {
        Command::Init { nodes } => init(nodes),
        Command::Join { node, cluster } => {
            let (node, cluster) = (resolve(node)?, resolve(cluster)?);
            let (topology, place) = join::join(cluster, node, None)?;
            let id = u128::from_be_bytes(topology.cluster_id);
            let az = topology.nodes[place].az;
            crate::say(&format!("{node} is in cluster {id:032x}, in place {place}, AZ {az}\n"));
            Ok(())
        }
        Command::Groups { node, json } => groups(node, *json),
        Command::MoveLeader { node, group, to } => move_leader(node, *group, *to),
    }
}

fn unexpected(address: SocketAddr) -> Failure {
    Failure::new(Exit::Other, format!("{address} answers another question"))
}

fn describe(address: SocketAddr) -> Result<NodeDescription, Failure> {
    match ask(address, &AdminCommand::Describe)? {
        AdminAnswer::Node(node) => Ok(*node),
        _ => Err(unexpected(address)),
    }
}

/// The node as the others must know it, reached at `address`.
fn node_of(address: SocketAddr, node: &NodeDescription) -> TopologyNode {
    let reached = |mut at: SocketAddr| {
        if at.ip().is_unspecified() {
            at.set_ip(address.ip());
        }
        at
    };
    let native = node.native_ports.iter().map(|port| SocketAddr::new(address.ip(), *port));
    TopologyNode {
        node_id: node.node_id,
        az: node.az,
        certified: node.certified.clone(),
        native: native.collect(),
        peer: node.peer.iter().copied().map(reached).collect(),
    }
}

fn init(names: &[String]) -> Result<(), Failure> {
    let addresses: Vec<SocketAddr> =
        names.iter().map(|name| resolve(name)).collect::<Result<_, _>>()?;
    let mut nodes: Vec<TopologyNode> = Vec::with_capacity(addresses.len());
    for address in &addresses {
        let node = describe(*address)?;
        let refuse = |words: &str| {
            Err(Failure::new(Exit::Usage, format!("{address} {words}; nothing was changed")))
        };
        if !node.clustered {
            return refuse(
                "stands alone: give it a [cluster] section in its configuration and an empty data \
                 directory",
            );
        }
        if node.topology.is_some() {
            return refuse("is in a cluster already");
        }
        if nodes.iter().any(|other| other.node_id == node.node_id) {
            return refuse("is a node that was named before");
        }
        nodes.push(node_of(*address, &node));
    }
    let cluster_id = crate::dev_cluster::draw_id()
        .map_err(|error| Failure::new(Exit::Other, format!("no randomness: {error}")))?;
    let topology = Topology { cluster_id, nodes };
    for address in &addresses {
        match ask(*address, &AdminCommand::Init(topology.clone()))? {
            AdminAnswer::Accepted => {}
            AdminAnswer::Refused(words) => {
                let message = format!(
                    "{address} refuses: {words}. Nodes that were asked before it may be in cluster \
                     {:032x} now: empty their data directories, and begin again",
                    u128::from_be_bytes(cluster_id)
                );
                return Err(Failure::new(Exit::Other, message));
            }
            _ => return Err(unexpected(*address)),
        }
    }
    let until = Instant::now() + INIT_MAX;
    loop {
        let described: Vec<NodeDescription> =
            addresses.iter().map(|address| describe(*address)).collect::<Result<_, _>>()?;
        let joined = described.iter().filter(|node| node.topology.is_some()).count();
        let leader = described.iter().find_map(|node| node.system_leader);
        if let Some(leader) = leader.filter(|_| joined == described.len()) {
            let id = u128::from_be_bytes(cluster_id);
            crate::say(&format!(
                "cluster {id:032x} of {joined} nodes; shard {leader} leads its system group\n"
            ));
            return Ok(());
        }
        if Instant::now() > until {
            let message = format!(
                "{joined} of {} nodes have joined, and no leader is known yet: look at the nodes' \
                 messages and at the addresses on which they listen for peers",
                addresses.len()
            );
            return Err(Failure::new(Exit::Other, message));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Every shard of the cluster with its address, from a node that is in it.
fn shards(name: &str) -> Result<(Topology, Vec<SocketAddr>), Failure> {
    let address = resolve(name)?;
    let node = describe(address)?;
    let Some(topology) = node.topology else {
        return Err(Failure::new(Exit::Usage, format!("{address} is in no cluster")));
    };
    let shards = topology.nodes.iter().flat_map(|node| node.native.iter().copied()).collect();
    Ok((topology, shards))
}

fn groups(name: &str, json: bool) -> Result<(), Failure> {
    let (topology, shards) = shards(name)?;
    let mut found: BTreeMap<u64, Vec<(SocketAddr, GroupDescription)>> = BTreeMap::new();
    let mut silent = Vec::new();
    for shard in shards {
        match ask(shard, &AdminCommand::Groups) {
            Ok(AdminAnswer::Groups(groups)) => {
                for group in groups {
                    found.entry(group.group).or_default().push((shard, group));
                }
            }
            Ok(_) => return Err(unexpected(shard)),
            Err(failure) => silent.push(failure.message),
        }
    }
    if json {
        let all: Vec<_> = found.into_values().flatten().collect();
        let text = serde_json::to_string_pretty(&all).expect("plain data serializes");
        crate::say(&format!("{text}\n"));
    } else {
        crate::say(&table(&found, &topology));
    }
    for message in silent {
        eprintln!("forebay: {message}");
    }
    Ok(())
}

/// One line for each member.
fn table(
    found: &BTreeMap<u64, Vec<(SocketAddr, GroupDescription)>>,
    topology: &Topology,
) -> String {
    let az_of = |shard: &SocketAddr| {
        let node = topology.nodes.iter().find(|node| node.native.contains(shard));
        node.map_or_else(String::new, |node| node.az.to_string())
    };
    let mut text = format!(
        "{:<20} {:<16} {:<22} {:<4} {:<8} {:<11} {:<6} {:>12} {:>8} {:>12}\n",
        "group", "table", "shard", "az", "keeps", "role", "lease", "chosen", "lag", "trimmed"
    );
    for (id, members) in found {
        let chosen = members.iter().map(|(_, member)| member.chosen_slot).max().unwrap_or(0);
        for (shard, member) in members {
            let name = match (id, &member.table) {
                (0, _) => "(system)",
                (_, Some(name)) => name.as_str(),
                (_, None) => "?",
            };
            let known =
                if member.keeps == "log" { member.chosen_slot } else { member.applied_slot };
            let lag = match member.snapshot_bytes {
                // Of a snapshot.
                Some((bytes, total)) => format!("{} %", bytes * 100 / total.max(1)),
                None if member.damaged => "damaged".to_owned(),
                None if member.needs_snapshot => "too far".to_owned(),
                None => chosen.saturating_sub(known).to_string(),
            };
            let on_their_way = on_their_way(member, topology);
            text.push_str(&format!(
                "{id:<20} {name:<16} {:<22} {:<4} {:<8} {:<11} {:<6} {:>12} {lag:>8} {:>12}\n",
                shard.to_string(),
                az_of(shard),
                member.keeps,
                member.role,
                if member.lease { "held" } else { "-" },
                member.chosen_slot,
                member.trimmed_slot,
            ));
            text.push_str(&on_their_way);
        }
    }
    text
}

/// Changes of a group's members that its leader, or the system group's, speaks of.
fn on_their_way(member: &GroupDescription, topology: &Topology) -> String {
    let mut words = String::new();
    if member.changing && member.role == "leading" {
        words.push_str("  a change of its members is on its way\n");
    }
    if let Some(spare) = member.spare {
        let at = topology.native(forebay_core::liveness::Peer(spare));
        let at = at.map_or_else(|| format!("shard {spare}"), |at| at.to_string());
        words.push_str(&format!("  {at} is to get a member\n"));
    }
    words
}

fn move_leader(name: &str, group: u64, to: u32) -> Result<(), Failure> {
    let (topology, shards) = shards(name)?;
    for shard in shards {
        let Ok(AdminAnswer::Groups(groups)) = ask(shard, &AdminCommand::Groups) else { continue };
        if !groups.iter().any(|found| found.group == group && found.role == "leading") {
            continue;
        }
        return match ask(shard, &AdminCommand::MoveLeader { group, to })? {
            AdminAnswer::Accepted => {
                let at = topology.native(forebay_core::liveness::Peer(to));
                let at = at.map_or_else(String::new, |at| format!(" at {at}"));
                crate::say(&format!("group {group}: shard {to}{at} takes over\n"));
                Ok(())
            }
            AdminAnswer::Refused(words) => Err(Failure::new(Exit::Usage, words)),
            _ => Err(unexpected(shard)),
        };
    }
    Err(Failure::new(Exit::Other, format!("nobody leads group {group} at the moment; try again")))
}
