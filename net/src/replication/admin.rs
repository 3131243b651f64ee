//! What operators ask of a node of a cluster, and its answers.
//!
//! They travel as JSON within the frames of the native protocol ([`Kind::Admin`]): a few a day, for
//! people and scripts, of all versions. Unknown fields are ignored, unknown commands refused.
//!
//! [`Kind::Admin`]: forebay_core::message::Kind::Admin

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::{Topology, TopologyNode};

/// Bytes of a command or an answer, at most.
pub const ADMIN_BYTES_MAX: usize = 1 << 20;

/// A question or an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdminCommand {
    /// Who are you?
    Describe,
    /// You are one of this new cluster. Only for a node that is in none.
    Init(Topology),
    /// One more node for your cluster. Only for the shard that leads its system group; it is in the
    /// cluster when a description says so.
    Join {
        /// The node, in no cluster yet.
        node: TopologyNode,
        /// The node that it was before it lost its data.
        replaces: Option<[u8; 16]>,
    },
    /// You are one of this cluster now. Only for a node that is in none, and that this list names.
    Joined(Topology),
    /// The groups that have a member on your shard.
    Groups,
    /// Let another shard lead this group.
    MoveLeader {
        /// Which.
        group: u64,
        /// The shard that is to lead.
        to: u32,
    },
}

/// A node as it describes itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeDescription {
    /// Random, kept with its data.
    pub node_id: [u8; 16],
    /// Whether it was configured to be one of a cluster.
    pub clustered: bool,
    /// Where it stands.
    pub az: u16,
    /// Its name in its certificate, without `node.`; none where no certificates are in use.
    #[serde(default)]
    pub certified: Option<String>,
    /// Its shards' ports for clients.
    pub native_ports: Vec<u16>,
    /// Its shards' addresses for peers; an unspecified one stands for the one at which the node was
    /// reached.
    pub peer: Vec<SocketAddr>,
    /// The cluster that it is in.
    pub topology: Option<Topology>,
    /// The shard that leads the system group, as far as it knows.
    pub system_leader: Option<u32>,
    /// Shards that it has not heard for longer than a heartbeat is good for.
    #[serde(default)]
    pub missed: Vec<u32>,
}

/// A member of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupDescription {
    /// The group; 0 is the system group.
    pub group: u64,
    /// The table that it holds a partition of.
    pub table: Option<String>,
    /// The member's own identity.
    pub member: u64,
    /// What it keeps: `storage` or `log`.
    pub keeps: String,
    /// What it does: `leading`, `following`, …; `joining` before its group has it as a member,
    /// `filling` while it gets what a storage replica needs, `removed` when it is a member no more
    /// and kept until its group is whole.
    pub role: String,
    /// A change of the group's members is on its way.
    #[serde(default)]
    pub changing: bool,
    /// Who is to become a member next, by the leader of the system group: its shard.
    #[serde(default)]
    pub spare: Option<u32>,
    /// Whether it leads, serves, and holds the lease at this moment.
    pub lease: bool,
    /// The shard that leads, as far as it knows.
    pub leader: Option<u32>,
    /// Of its newest configuration that is chosen: shard, AZ, and what the member keeps.
    pub members: Vec<(u32, u16, String)>,
    /// The highest ballot promised.
    pub ballot: u64,
    /// The last slot that it holds.
    pub last_slot: u64,
    /// Known to be chosen.
    pub chosen_slot: u64,
    /// In its state.
    pub applied_slot: u64,
    /// Left its log.
    pub trimmed_slot: u64,
    /// What it needs next has left the logs of the others.
    pub needs_snapshot: bool,
    /// Its state is damaged, and waits for another member's.
    #[serde(default)]
    pub damaged: bool,
    /// How much of a snapshot has arrived: bytes, and of how many.
    #[serde(default)]
    pub snapshot_bytes: Option<(u64, u64)>,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdminAnswer {
    /// To [`AdminCommand::Describe`].
    Node(Box<NodeDescription>),
    /// To [`AdminCommand::Groups`].
    Groups(Vec<GroupDescription>),
    /// It is being done; ask again to see when it has happened.
    Accepted,
    /// It is not done, for this reason.
    Refused(String),
}
