//! How members of groups are made, changed and dropped: what the leader of the system group, the
//! groups' leaders and the shards that hold members say to each other.
//!
//! ```text
//!   system group's leader        group's leader            shard of the new member
//!     │ Watch ───────────────────────►│                         │
//!     │◄───────────────────── Report ─┤  {A B C}, C unreached   │
//!     │ Noted ───────────────────────►│                         │
//!     │ Create{d} ──────────────────────────────────────────────► │ an empty log replica
//!     │◄─────────────────────────────────────────── Created{d} ── │
//!     │ Remove{C} ───────────────────►│ {A B}                   │
//!     │ Add{d} ──────────────────────►│ {A B d} ── its log ─────► │
//!     │ Promote{d} ──────────────────►│ a snapshot, its log ────► │
//!     │                               │ {A B D}                 │
//! ```
//!
//! Every step may be lost, repeated and late: who asks goes on until what it wants is reported, who
//! was asked does it once. An order to a group's leader names the slot of the configuration that it
//! was planned with, and is void under any other.
//!
//! | field | used by |
//! |---|---|
//! | `group` | all but Watch and Topology |
//! | `member` | Create, Created, Occupied, Add, Remove, Promote, Holds, Drop, Absent |
//! | `slot` | Add, Remove, Promote: the fence; Noted, Holds: of a configuration; Topology: nodes |
//! | `ballot` | Report, Noted; Watch: of the system group |
//! | `peer`, `az` | Add |
//! | `marks` | Report, Noted: bits 0 to 6 unreached, 8 to 14 lost members, by place; bit 16 a change is on its way |
//! | `body` | Create: the group's payload; Report: its configuration with slot; Topology: JSON, or nothing |
//!
//! What a step does not use is zero, and is not looked at.

use rkyv::with::InlineAsBox;
use rkyv::{Archive, Serialize};

use super::error::PeerError;
use super::group::SLOT_MAX;
use super::table::DESCRIPTION_BYTES_MAX;
use crate::ids::{Ballot, GroupId, Slot};
use crate::liveness::Peer;
use crate::paxos::{Az, ConfigurationAt, MEMBERS_MAX, MemberId};

/// What a group's leader says of its members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupReport {
    /// The group.
    pub group: GroupId,
    /// Under which the sender leads.
    pub ballot: Ballot,
    /// The members, by the newest configuration that is chosen.
    pub at: ConfigurationAt,
    /// See there.
    pub marks: Marks,
}

/// What else a leader knows of its group's members, by their places in the configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Marks(u32);

const LOST_SHIFT: u32 = 8;
const CHANGING: u32 = 1 << 16;
const PLACES: u32 = (1 << MEMBERS_MAX) - 1;

const _: () = assert!(PLACES < 1 << LOST_SHIFT && PLACES << LOST_SHIFT < CHANGING);

impl Marks {
    /// The leader does not hear the member's shard.
    pub fn set_unreached(&mut self, place: usize) {
        self.0 |= 1 << place;
    }

    /// The member's shard lives and says that it has no such member.
    pub fn set_lost(&mut self, place: usize) {
        self.0 |= 1 << place << LOST_SHIFT;
    }

    /// A change is on its way: no other can begin.
    pub fn set_changing(&mut self) {
        self.0 |= CHANGING;
    }

    /// See [`Marks::set_unreached`].
    #[must_use]
    pub fn is_unreached(self, place: usize) -> bool {
        self.0 & 1 << place != 0
    }

    /// See [`Marks::set_lost`].
    #[must_use]
    pub fn is_lost(self, place: usize) -> bool {
        self.0 & 1 << place << LOST_SHIFT != 0
    }

    /// See [`Marks::set_changing`].
    #[must_use]
    pub fn is_changing(self) -> bool {
        self.0 & CHANGING != 0
    }
}

/// One step. See the module's docs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemberStep {
    /// "I lead the system group: report to me."
    Watch {
        /// Under which.
        ballot: Ballot,
    },
    /// What a group's leader knows of its members.
    Report(GroupReport),
    /// The report was taken in.
    Noted {
        /// Of which group.
        group: GroupId,
        /// The report's.
        ballot: Ballot,
        /// The report's.
        slot: Slot,
        /// The report's.
        marks: Marks,
    },
    /// Create an empty log replica, which will be added to the group.
    Create {
        /// Of which group.
        group: GroupId,
        /// Fresh and random.
        member: MemberId,
        /// What the shard keeps with the group.
        payload: Vec<u8>,
    },
    /// It exists durably.
    Created {
        /// Of which group.
        group: GroupId,
        /// Which.
        member: MemberId,
    },
    /// The shard still has an earlier member of the group, which it must keep for the moment.
    Occupied {
        /// Of which group.
        group: GroupId,
        /// The one that it has.
        member: MemberId,
    },
    /// Add this log replica to your group.
    Add {
        /// To which group.
        group: GroupId,
        /// Of the configuration that this was planned with.
        slot: Slot,
        /// Which.
        member: MemberId,
        /// The shard that holds it.
        peer: Peer,
        /// Where its node stands.
        az: Az,
    },
    /// Remove this member from your group, if you do not hear it either.
    Remove {
        /// From which group.
        group: GroupId,
        /// Of the configuration that this was planned with.
        slot: Slot,
        /// Which.
        member: MemberId,
    },
    /// Make this log replica a storage replica: let it have a snapshot, and promote it when it has
    /// caught up.
    Promote {
        /// In which group.
        group: GroupId,
        /// Of the configuration that this was planned with.
        slot: Slot,
        /// Which.
        member: MemberId,
    },
    /// This shard has a member that belongs to no group that it hears of. May it go?
    Holds {
        /// Of which group.
        group: GroupId,
        /// Which.
        member: MemberId,
        /// Of the newest configuration that it knows to be chosen.
        slot: Slot,
    },
    /// Nobody needs that member any more.
    Drop {
        /// Of which group.
        group: GroupId,
        /// Which.
        member: MemberId,
    },
    /// You wrote to a member that this shard does not have.
    Absent {
        /// Of which group.
        group: GroupId,
        /// Which.
        member: MemberId,
    },
    /// The nodes of the cluster as the sender knows them.
    Topology {
        /// How many they are. They are never fewer: places are not used again.
        nodes: u64,
        /// All of them; empty if the receiver shall ask for them.
        json: Vec<u8>,
    },
}

/// The layout on the wire. See the module's docs.
#[derive(Debug, Archive, Serialize)]
pub struct MemberFrame<'a> {
    step: u8,
    az: u16,
    marks: u32,
    peer: u32,
    group: u64,
    member: u64,
    slot: u64,
    ballot: u64,
    #[rkyv(with = InlineAsBox)]
    body: &'a [u8],
}

impl MemberStep {
    /// Its bytes are `scratch`'s as long as the frame is.
    #[must_use]
    pub fn frame<'a>(&'a self, scratch: &'a mut Vec<u8>) -> MemberFrame<'a> {
        let mut frame = MemberFrame {
            step: 0,
            az: 0,
            marks: 0,
            peer: 0,
            group: 0,
            member: 0,
            slot: 0,
            ballot: 0,
            body: &[],
        };
        let mut of = |step, group: &GroupId, member: &MemberId| {
            (frame.step, frame.group, frame.member) = (step, group.0, member.0);
        };
        match self {
            MemberStep::Watch { ballot } => (frame.step, frame.ballot) = (1, ballot.0),
            MemberStep::Report(report) => {
                of(2, &report.group, &MemberId(0));
                scratch.clear();
                report.at.encode(scratch);
                frame.body = scratch;
                (frame.ballot, frame.marks) = (report.ballot.0, report.marks.0);
            }
            MemberStep::Noted { group, ballot, slot, marks } => {
                of(3, group, &MemberId(0));
                (frame.ballot, frame.slot, frame.marks) = (ballot.0, slot.0, marks.0);
            }
            MemberStep::Create { group, member, payload } => {
                of(4, group, member);
                frame.body = payload;
            }
            MemberStep::Created { group, member } => of(5, group, member),
            MemberStep::Occupied { group, member } => of(6, group, member),
            MemberStep::Add { group, slot, member, peer, az } => {
                of(7, group, member);
                (frame.slot, frame.peer, frame.az) = (slot.0, peer.0, az.0);
            }
            MemberStep::Remove { group, slot, member } => {
                of(8, group, member);
                frame.slot = slot.0;
            }
            MemberStep::Promote { group, slot, member } => {
                of(9, group, member);
                frame.slot = slot.0;
            }
            MemberStep::Holds { group, member, slot } => {
                of(10, group, member);
                frame.slot = slot.0;
            }
            MemberStep::Drop { group, member } => of(11, group, member),
            MemberStep::Absent { group, member } => of(12, group, member),
            MemberStep::Topology { nodes, json } => {
                (frame.step, frame.slot, frame.body) = (13, *nodes, json);
            }
        }
        frame
    }
}

impl ArchivedMemberFrame<'_> {
    /// What it says. A payload and a topology are only bounded yet.
    ///
    /// # Errors
    /// If it is no step, or a number or a configuration in it is none.
    pub fn to_step(&self) -> Result<MemberStep, PeerError> {
        let (count, max) = (self.body.len(), DESCRIPTION_BYTES_MAX);
        if count > max {
            return Err(PeerError::TooMany { what: "bytes of a member's step", count, max });
        }
        let slot = self.slot.to_native();
        if slot > SLOT_MAX {
            return Err(PeerError::Slot { what: "slot of a member's step", slot });
        }
        let (group, member) = (GroupId(self.group.to_native()), MemberId(self.member.to_native()));
        let (slot, ballot) = (Slot(slot), Ballot(self.ballot.to_native()));
        let marks = Marks(self.marks.to_native());
        Ok(match self.step {
            1 => MemberStep::Watch { ballot },
            2 => {
                let at = ConfigurationAt::decode(&self.body).filter(|at| at.slot.0 <= SLOT_MAX);
                let at = at.ok_or(PeerError::Configuration { bytes: count })?;
                MemberStep::Report(GroupReport { group, ballot, at, marks })
            }
            3 => MemberStep::Noted { group, ballot, slot, marks },
            4 => MemberStep::Create { group, member, payload: self.body.to_vec() },
            5 => MemberStep::Created { group, member },
            6 => MemberStep::Occupied { group, member },
            7 => {
                let (peer, az) = (Peer(self.peer.to_native()), Az(self.az.to_native()));
                MemberStep::Add { group, slot, member, peer, az }
            }
            8 => MemberStep::Remove { group, slot, member },
            9 => MemberStep::Promote { group, slot, member },
            10 => MemberStep::Holds { group, member, slot },
            11 => MemberStep::Drop { group, member },
            12 => MemberStep::Absent { group, member },
            13 => MemberStep::Topology { nodes: slot.0, json: self.body.to_vec() },
            number => {
                let number = u16::from(number);
                return Err(PeerError::Number { what: "step of a member", number });
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::peer::{PeerFrame, PeerKind, decode};
    use crate::paxos::Configuration;

    fn configuration() -> ConfigurationAt {
        let members = [(MemberId(7), Peer(5), Az(6)), (MemberId(8), Peer(9), Az(1))];
        let configuration = Configuration::bootstrap(&members, 3).unwrap();
        ConfigurationAt { slot: Slot(12), configuration }
    }

    fn all() -> Vec<MemberStep> {
        let (group, member, slot) = (GroupId(3), MemberId(4), Slot(5));
        let mut marks = Marks::default();
        marks.set_unreached(1);
        marks.set_lost(0);
        marks.set_changing();
        vec![
            MemberStep::Watch { ballot: Ballot(6) },
            MemberStep::Report(GroupReport {
                group,
                ballot: Ballot(6),
                at: configuration(),
                marks,
            }),
            MemberStep::Noted { group, ballot: Ballot(6), slot, marks },
            MemberStep::Create { group, member, payload: b"payload".to_vec() },
            MemberStep::Created { group, member },
            MemberStep::Occupied { group, member },
            MemberStep::Add { group, slot, member, peer: Peer(256), az: Az(2) },
            MemberStep::Remove { group, slot, member },
            MemberStep::Promote { group, slot, member },
            MemberStep::Holds { group, member, slot },
            MemberStep::Drop { group, member },
            MemberStep::Absent { group, member },
            MemberStep::Topology { nodes: 4, json: b"{}".to_vec() },
        ]
    }

    fn bytes_of(step: &MemberStep) -> rkyv::util::AlignedVec {
        let mut scratch = Vec::new();
        rkyv::to_bytes::<rkyv::rancor::Failure>(&step.frame(&mut scratch)).unwrap()
    }

    #[test]
    fn every_step_arrives_as_it_was_sent() {
        for step in all() {
            let bytes = bytes_of(&step);
            let kind = PeerKind::MemberStep;
            let frame = decode(kind as u16, kind.version(), &bytes).unwrap();
            let PeerFrame::Member(found) = frame else { panic!("{frame:?}") };
            assert_eq!(found, step);
        }
    }

    #[test]
    fn marks_are_kept_apart() {
        let mut marks = Marks::default();
        marks.set_unreached(2);
        marks.set_lost(6);
        assert!(marks.is_unreached(2) && marks.is_lost(6) && !marks.is_changing());
        assert!(!marks.is_unreached(6) && !marks.is_lost(2));
    }

    #[test]
    fn what_is_no_step_is_refused() {
        let mut scratch = Vec::new();
        let good = MemberStep::Watch { ballot: Ballot(1) };
        let broken = |change: fn(&mut MemberFrame<'_>), scratch: &mut Vec<u8>| {
            let mut frame = good.frame(scratch);
            change(&mut frame);
            let bytes = rkyv::to_bytes::<rkyv::rancor::Failure>(&frame).unwrap();
            let kind = PeerKind::MemberStep;
            decode(kind as u16, kind.version(), &bytes).map(drop).unwrap_err()
        };
        let number = PeerError::Number { what: "step of a member", number: 99 };
        assert_eq!(broken(|frame| frame.step = 99, &mut scratch), number);
        let slot = broken(|frame| frame.slot = SLOT_MAX + 1, &mut scratch);
        assert!(matches!(slot, PeerError::Slot { .. }), "{slot}");
        let none = PeerError::Configuration { bytes: 0 };
        assert_eq!(broken(|frame| frame.step = 2, &mut scratch), none);
    }
}
