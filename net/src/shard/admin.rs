//! Operators' commands to a node of a cluster.

use std::collections::HashMap;

use forebay_core::ids::GroupId;
use forebay_core::liveness::Peer;
use forebay_core::message::{AdminReply, ArchivedAdminRequest, ErrorCode};
use forebay_core::paxos::MemberRole;
use forebay_core::time::Nanos;

use super::refusal::Refusal;
use super::request::Outcome;
use super::{Asker, Shard};
use crate::replication::{
    ADMIN_BYTES_MAX, AdminAnswer, AdminCommand, GroupDescription, Joined, MemberState,
    MemberStatus, NodeDescription, Topology,
};

fn keeps(role: MemberRole) -> String {
    let name = match role {
        MemberRole::Storage => "storage",
        MemberRole::Log => "log",
    };
    name.to_owned()
}

impl Shard {
    pub(super) fn admin(
        &mut self,
        asker: Asker,
        request: &ArchivedAdminRequest<'_>,
    ) -> Result<Outcome, Refusal> {
        if !self.connections.takes_commands(asker.conn) {
            return Err(Refusal::constant(
                ErrorCode::AccessDenied,
                "operators' commands want an operator's certificate; `forebay certs` makes one",
            ));
        }
        let invalid = |words: String| Refusal::new(ErrorCode::InvalidRequest, words);
        if request.command.len() > ADMIN_BYTES_MAX {
            return Err(invalid(format!("a command of {} bytes", request.command.len())));
        }
        let command = serde_json::from_slice(&request.command)
            .map_err(|error| invalid(format!("no command of this version: {error}")))?;
        let answer = match command {
            AdminCommand::Describe => AdminAnswer::Node(Box::new(self.describe())),
            AdminCommand::Init(topology) => self.join(Joined { topology, founded: true }),
            AdminCommand::Joined(topology) => self.join(Joined { topology, founded: false }),
            AdminCommand::Join { node, replaces } => match self.grow(node, replaces) {
                Ok(()) => AdminAnswer::Accepted,
                Err(words) => AdminAnswer::Refused(words),
            },
            AdminCommand::Groups => AdminAnswer::Groups(self.describe_groups()),
            AdminCommand::MoveLeader { group, to } => self.move_leader(GroupId(group), Peer(to)),
        };
        let answer = serde_json::to_vec(&answer).expect("plain data serializes");
        self.connections.reply(asker.conn, asker.correlation, &AdminReply { answer: &answer });
        self.answered(asker);
        Ok(Outcome::Done)
    }

    fn describe(&self) -> NodeDescription {
        let cluster = self.context.cluster.as_ref();
        let replication = self.replication.as_deref();
        NodeDescription {
            node_id: self.context.node_id,
            clustered: cluster.is_some(),
            az: cluster.map_or(0, |cluster| cluster.az),
            certified: self.certified.clone(),
            native_ports: self.context.ports.clone(),
            peer: cluster.map_or_else(Vec::new, |cluster| cluster.peer.clone()),
            topology: replication
                .and_then(|replication| replication.topology())
                .map(|topology| Topology::clone(topology)),
            system_leader: self.system_leader().map(|peer| peer.0),
            missed: replication.map_or_else(Vec::new, |replication| {
                let topology = replication.topology().into_iter();
                let peers = topology.flat_map(|topology| topology.peers());
                let peers = peers.map(|(info, _)| Peer(info.expected.peer));
                let missed = peers.filter(|peer| replication.missed_nanos(*peer, self.now) > 0);
                missed.map(|peer| peer.0).collect()
            }),
        }
    }

    /// The shard that leads the system group, as far as this one knows.
    fn system_leader(&self) -> Option<Peer> {
        let replication = self.replication.as_deref()?;
        let leader = self.system.group.and_then(|group| replication.leader(group, self.now));
        leader.or_else(|| replication.watcher())
    }

    /// The node takes it from here: it writes it down, and tells every shard.
    fn join(&mut self, joined: Joined) -> AdminAnswer {
        let refused = |words: &str| AdminAnswer::Refused(words.to_owned());
        if !self.is_clustered() {
            return refused(
                "this node stands alone; to make it one of a cluster, give it a [cluster] section \
                 in its configuration and an empty data directory",
            );
        }
        let known = self.replication.as_deref().and_then(|replication| replication.topology());
        if let Some(known) = known {
            let [here, there] = [&**known, &joined.topology];
            if here.cluster_id == there.cluster_id && !joined.founded {
                return AdminAnswer::Accepted;
            }
            let [here, there] = [here, there].map(|list| u128::from_be_bytes(list.cluster_id));
            let words = format!("this node is in a cluster already: {here:032x}, not {there:032x}");
            return AdminAnswer::Refused(words);
        }
        if self.joins.is_some() {
            return refused("this node is in a cluster already");
        }
        if joined.topology.place_of(&self.context.node_id).is_none() {
            return refused("this node is not in the list; describe it again");
        }
        self.joins = Some(joined);
        AdminAnswer::Accepted
    }

    /// The cluster that an operator has put this node in, or how it has grown, for the node to write
    /// down.
    pub fn take_joined(&mut self) -> Option<Joined> {
        self.joins.take()
    }

    fn describe_groups(&self) -> Vec<GroupDescription> {
        let Some(replication) = self.replication.as_deref() else { return Vec::new() };
        let spares: HashMap<GroupId, u32> =
            self.healing.placement().map_or_else(HashMap::new, |p| {
                p.spares().map(|(group, spare)| (group, spare.peer.0)).collect()
            });
        let describe = |status: MemberStatus| GroupDescription {
            group: status.group.0,
            table: self.tables.name_of(status.ordinal).map(str::to_owned),
            member: status.id.0,
            keeps: keeps(status.role),
            role: match status.state {
                MemberState::Listed => format!("{:?}", status.figures.role).to_lowercase(),
                MemberState::Filling => "filling".to_owned(),
                MemberState::Joining => "joining".to_owned(),
                MemberState::Removed => "removed".to_owned(),
            },
            changing: status.changing,
            spare: spares.get(&status.group).copied(),
            lease: replication.holds_lease(status.ordinal, self.now),
            leader: status.leader.map(|peer| peer.0),
            members: replication
                .members_of(status.ordinal)
                .map(|member| (member.peer.0, member.az.0, keeps(member.role)))
                .collect(),
            ballot: status.figures.promised.0,
            last_slot: status.figures.last_slot.0,
            chosen_slot: status.figures.chosen_slot.0,
            applied_slot: status.figures.applied_slot.0,
            trimmed_slot: status.figures.trimmed_slot.0,
            needs_snapshot: status.needs_snapshot,
            damaged: status.damaged,
            snapshot_bytes: status.snapshot.map(|of| (of.bytes, of.bytes_total)),
        };
        replication.statuses().map(describe).collect()
    }

    fn move_leader(&mut self, group: GroupId, to: Peer) -> AdminAnswer {
        match self.hand_over(group, to, self.now) {
            Ok(()) => AdminAnswer::Accepted,
            Err(words) => AdminAnswer::Refused(words),
        }
    }

    /// Has the group's leader, which must be here, hand over to its member on shard `to`.
    ///
    /// # Errors
    /// In words: it is not begun.
    pub fn hand_over(&mut self, group: GroupId, to: Peer, now: Nanos) -> Result<(), String> {
        let Some(ordinal) = self.store.group(group) else {
            return Err(format!("group {group} has no member on this shard"));
        };
        let Some(replication) = self.replication.as_deref_mut() else {
            return Err("this node is in no cluster".to_owned());
        };
        replication.hand_over(&mut self.store, ordinal, to, now)
    }
}
