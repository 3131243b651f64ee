//! Who the members of a group are, and the one-at-a-time changes of that.
//!
//! ```text
//!   {A B C}  C's node dies        remove C        {A B}        add log replica D     {A B d}
//!                                                            promote D (snapshot + log)   ▼
//!                                                                                    {A B D}
//! ```
//!
//! A change is an entry of the group's own log. One member joins, leaves or changes its role per
//! entry, so that majorities before and after always overlap (Ongaro, "Consensus: Bridging Theory
//! and Practice", section 4.1), and the entry is chosen only by majorities of both.
//!
//! The dead member is removed *before* its successor is added: with {A B C} and C dead, {A B} needs
//! the same two votes, while {A B C D} would need all three that live; and two members in one AZ
//! are never needed. Log replicas are DynamoDB's (USENIX ATC'22, section 4.2): they join in seconds
//! because they need only the recent log.
//!
//! Invariants of [`Configuration`]: ids, numbers and shards are distinct; at least one member is a
//! storage replica; where the cluster has three AZs or more, no two members share one.

use thiserror::Error;

use super::ballot::MemberNumber;
use crate::liveness::Peer;

/// Members of a group at most: five, and room for an operator's change on top.
pub const MEMBERS_MAX: usize = 7;

/// A member's identity: random, stored with its data, and gone with its data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberId(pub u64);

/// An availability zone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Az(pub u16);

/// What a member keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MemberRole {
    /// Log and B-tree: may lead, and serves reads.
    #[default]
    Storage,
    /// Recent log only: votes and stores; never leads, never serves.
    Log,
}

/// One member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Member {
    /// Its identity.
    pub id: MemberId,
    /// Its name in ballots.
    pub number: MemberNumber,
    /// The shard that holds it.
    pub peer: Peer,
    /// Where that shard's node stands.
    pub az: Az,
    /// What it keeps.
    pub role: MemberRole,
}

/// The members of a group from one slot on. See the module's docs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Configuration {
    members: [Member; MEMBERS_MAX],
    len: u8,
    next_number: u32,
}

/// A change of the membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Change {
    /// A new member that keeps the recent log.
    AddLogReplica {
        /// Fresh and random.
        id: MemberId,
        /// The shard that will hold it.
        peer: Peer,
        /// Where that shard's node stands.
        az: Az,
    },
    /// A log replica that has the snapshot and the log after it becomes a storage replica.
    Promote {
        /// Which.
        id: MemberId,
    },
    /// A member leaves. Its id never comes back.
    Remove {
        /// Which.
        id: MemberId,
    },
}

/// Why a configuration or a change of it is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ChangeRefused {
    /// Promote a log replica first.
    #[error("the group would be left with log replicas only")]
    OnlyLogReplicas,
    /// Choose a node in another AZ, or remove the member there first.
    #[error("AZ {az} already has a member, and the cluster has {cluster_azs} AZs")]
    AzTaken {
        /// The AZ.
        az: u16,
        /// How many the cluster has.
        cluster_azs: u16,
    },
    /// Choose another shard.
    #[error("shard {peer} already holds a member")]
    PeerTaken {
        /// The shard.
        peer: u32,
    },
    /// Draw a fresh id: ids are never used again.
    #[error("member {id} exists")]
    Exists {
        /// The id.
        id: u64,
    },
    /// Refresh the membership that the change was planned with.
    #[error("member {id} does not exist, or has that role already")]
    Unknown {
        /// The id.
        id: u64,
    },
    /// Remove a member first.
    #[error("a group has at most {max} members")]
    Full {
        /// [`MEMBERS_MAX`].
        max: usize,
    },
    /// The group has used up its member numbers: copy the partition into a new group.
    #[error("no member number is left")]
    NoNumberLeft,
}

impl Configuration {
    /// The first configuration of a group: all storage replicas.
    ///
    /// # Errors
    /// If an invariant of the module's docs does not hold.
    pub fn bootstrap(
        members: &[(MemberId, Peer, Az)],
        cluster_azs: u16,
    ) -> Result<Configuration, ChangeRefused> {
        let mut configuration =
            Configuration { members: [Member::default(); MEMBERS_MAX], len: 0, next_number: 1 };
        for &(id, peer, az) in members {
            configuration.add(id, peer, az, MemberRole::Storage, cluster_azs)?;
        }
        configuration.check()?;
        Ok(configuration)
    }

    /// A configuration as its bytes describe it; None if an invariant does not hold.
    pub(super) fn from_parts(members: &[Member], next_number: u32) -> Option<Configuration> {
        let mut new = Configuration {
            members: [Member::default(); MEMBERS_MAX],
            len: u8::try_from(members.len()).ok()?,
            next_number,
        };
        new.members.get_mut(..members.len())?.copy_from_slice(members);
        for (index, member) in members.iter().enumerate() {
            let twin = |other: &Member| {
                other.id == member.id || other.number == member.number || other.peer == member.peer
            };
            let number = member.number.0;
            if number == 0 || number >= next_number || members[..index].iter().any(twin) {
                return None;
            }
        }
        if next_number > MemberNumber::MAX.0 + 1 {
            return None;
        }
        new.check().ok().map(|()| new)
    }

    /// The number that the next member gets.
    pub(super) fn next_number(&self) -> u32 {
        self.next_number
    }

    /// Its members.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.members[..self.len.into()]
    }

    /// How many accept before a slot is chosen.
    #[must_use]
    pub fn quorum(&self) -> usize {
        usize::from(self.len) / 2 + 1
    }

    /// The member with this id.
    #[must_use]
    pub fn find(&self, id: MemberId) -> Option<&Member> {
        self.members().iter().find(|member| member.id == id)
    }

    /// The member that owns ballots of this number.
    #[must_use]
    pub fn find_number(&self, number: MemberNumber) -> Option<&Member> {
        self.members().iter().find(|member| member.number == number)
    }

    /// Whether those for which `votes` says yes are a majority.
    pub fn has_quorum(&self, votes: impl Fn(&Member) -> bool) -> bool {
        self.members().iter().filter(|member| votes(member)).count() >= self.quorum()
    }

    /// The greatest value that a quorum has reached.
    pub fn quorum_value<T: Copy + Ord + Default>(&self, value: impl Fn(&Member) -> T) -> T {
        let mut values = [T::default(); MEMBERS_MAX];
        let members = self.members();
        for (sorted, member) in values.iter_mut().zip(members) {
            *sorted = value(member);
        }
        let values = &mut values[..members.len()];
        values.sort_unstable();
        values[members.len() - self.quorum()]
    }

    /// The configuration after `change` in a cluster of `cluster_azs` AZs.
    ///
    /// # Errors
    /// If the change would break an invariant of the module's docs.
    pub fn changed(
        &self,
        change: Change,
        cluster_azs: u16,
    ) -> Result<Configuration, ChangeRefused> {
        let mut new = *self;
        match change {
            Change::AddLogReplica { id, peer, az } => {
                new.add(id, peer, az, MemberRole::Log, cluster_azs)?;
            }
            Change::Promote { id } => {
                let index = new.index(id)?;
                if new.members[index].role == MemberRole::Storage {
                    return Err(ChangeRefused::Unknown { id: id.0 });
                }
                new.members[index].role = MemberRole::Storage;
            }
            Change::Remove { id } => {
                let index = new.index(id)?;
                let len = usize::from(new.len);
                new.members.copy_within(index + 1..len, index);
                new.members[len - 1] = Member::default();
                new.len -= 1;
            }
        }
        new.check()?;
        Ok(new)
    }

    fn index(&self, id: MemberId) -> Result<usize, ChangeRefused> {
        let found = self.members().iter().position(|member| member.id == id);
        found.ok_or(ChangeRefused::Unknown { id: id.0 })
    }

    fn add(
        &mut self,
        id: MemberId,
        peer: Peer,
        az: Az,
        role: MemberRole,
        cluster_azs: u16,
    ) -> Result<(), ChangeRefused> {
        for member in self.members() {
            if member.id == id {
                return Err(ChangeRefused::Exists { id: id.0 });
            }
            if member.peer == peer {
                return Err(ChangeRefused::PeerTaken { peer: peer.0 });
            }
            if member.az == az && cluster_azs >= 3 {
                return Err(ChangeRefused::AzTaken { az: az.0, cluster_azs });
            }
        }
        if usize::from(self.len) == MEMBERS_MAX {
            return Err(ChangeRefused::Full { max: MEMBERS_MAX });
        }
        let number = MemberNumber(self.next_number);
        if number > MemberNumber::MAX {
            return Err(ChangeRefused::NoNumberLeft);
        }
        self.members[usize::from(self.len)] = Member { id, number, peer, az, role };
        self.len += 1;
        self.next_number += 1;
        Ok(())
    }

    fn check(&self) -> Result<(), ChangeRefused> {
        let storage = self.members().iter().any(|member| member.role == MemberRole::Storage);
        if storage { Ok(()) } else { Err(ChangeRefused::OnlyLogReplicas) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> Configuration {
        let member = |n: u16| (MemberId(n.into()), Peer(n.into()), Az(n));
        Configuration::bootstrap(&[member(1), member(2), member(3)], 3).unwrap()
    }

    #[test]
    fn a_group_is_never_left_with_log_replicas_only() {
        let mut group = three().changed(Change::Remove { id: MemberId(2) }, 3).unwrap();
        let add = Change::AddLogReplica { id: MemberId(4), peer: Peer(4), az: Az(2) };
        group = group.changed(add, 3).unwrap();
        group = group.changed(Change::Remove { id: MemberId(3) }, 3).unwrap();
        let refused = group.changed(Change::Remove { id: MemberId(1) }, 3);
        assert_eq!(refused, Err(ChangeRefused::OnlyLogReplicas));
        group = group.changed(Change::Promote { id: MemberId(4) }, 3).unwrap();
        assert!(group.changed(Change::Remove { id: MemberId(1) }, 3).is_ok());
        assert_eq!(Configuration::bootstrap(&[], 3), Err(ChangeRefused::OnlyLogReplicas));
    }

    #[test]
    fn two_members_share_an_az_only_where_fewer_than_three_exist() {
        let add = Change::AddLogReplica { id: MemberId(4), peer: Peer(4), az: Az(2) };
        let taken = ChangeRefused::AzTaken { az: 2, cluster_azs: 3 };
        assert_eq!(three().changed(add, 3), Err(taken));
        assert!(three().changed(add, 2).is_ok());
    }

    #[test]
    fn a_number_is_never_given_twice() {
        let mut group = three();
        for round in 0..5 {
            let id = MemberId(10 + round);
            let newest = group.members().iter().map(|member| member.number).max().unwrap();
            let add = Change::AddLogReplica { id, peer: Peer(9), az: Az(9) };
            group = group.changed(add, 3).unwrap();
            assert!(group.find(id).unwrap().number > newest);
            group = group.changed(Change::Remove { id }, 3).unwrap();
        }
        assert_eq!(group.changed(Change::Remove { id: MemberId(10) }, 3).unwrap_err(), {
            ChangeRefused::Unknown { id: 10 }
        });
    }

    #[test]
    fn ids_and_shards_are_distinct() {
        let add =
            |id, peer| Change::AddLogReplica { id: MemberId(id), peer: Peer(peer), az: Az(9) };
        assert_eq!(three().changed(add(1, 9), 3), Err(ChangeRefused::Exists { id: 1 }));
        assert_eq!(three().changed(add(9, 1), 3), Err(ChangeRefused::PeerTaken { peer: 1 }));
    }

    #[test]
    fn the_quorum_value_is_what_a_majority_has_reached() {
        let reached = |id: MemberId| [0, 5, 9, 7][id.0 as usize];
        assert_eq!(three().quorum_value(|member| reached(member.id)), 7);
        let two = three().changed(Change::Remove { id: MemberId(2) }, 3).unwrap();
        assert_eq!(two.quorum_value(|member| reached(member.id)), 5);
    }
}
