//! What must be true after every event.

use super::super::super::{EntryKind, MemberRole, ReadGrant, RoleName};
use super::Sim;
use crate::ids::Slot;

impl Sim {
    /// A member called slots chosen: they agree with what others called chosen, and a quorum of
    /// every configuration that governs them holds them on disk.
    pub(super) fn note_chosen(&mut self, index: usize) -> Result<(), String> {
        let replica = self.nodes[index].replica.as_ref().expect("it has chosen");
        let chosen = replica.figures().chosen_slot;
        // From where the two overlap; a new member begins late.
        let mut slot = Slot(replica.figures().applied_slot.0.max(self.nodes[index].log.base.0));
        while slot < chosen {
            slot = slot.next();
            let Some(record) = self.nodes[index].says(slot) else { continue };
            match self.chosen.get(slot.0 as usize - 1) {
                Some(known) if *known == record => {}
                Some(known) => {
                    return Err(format!(
                        "agreement: slot {slot} is {known:?}, member {:?} says {record:?}",
                        self.nodes[index].member
                    ));
                }
                None => {
                    if self.chosen.len() as u64 + 1 != slot.0 {
                        return Err(format!("slot {slot} is chosen before the one below it"));
                    }
                    self.check_durable(slot, &record)?;
                    if record.kind == EntryKind::Unknown {
                        return Err(format!("slot {slot} is chosen and nobody knows it"));
                    }
                    if record.kind != EntryKind::NoOp {
                        let before = self.chosen.last().map(|before| before.origin);
                        if before != Some(record.origin) {
                            return Err(format!(
                                "order: slot {slot} is {record:?}, and before it is {:?}",
                                self.chosen.last()
                            ));
                        }
                    }
                    if let Some(configuration) = record.configuration {
                        self.configurations.push((slot, configuration));
                    }
                    self.chosen.push(record);
                }
            }
        }
        if chosen.0 > self.chosen.len() as u64 {
            return Err(format!("slot {chosen} is called chosen, but nobody held it"));
        }
        Ok(())
    }

    fn check_durable(&self, slot: Slot, record: &super::Record) -> Result<(), String> {
        let before = self.configurations.last().expect("there is a first").1;
        for configuration in [Some(before), record.configuration].into_iter().flatten() {
            let holds = |disk: &super::disk::Disk| {
                disk.log.base >= slot || disk.log.get(slot).is_some_and(|(_, held)| held == record)
            };
            let on_disk = |member: &super::super::super::Member| {
                let node = self.node_of(member.id).map(|node| &self.nodes[node].disk);
                node.or_else(|| self.ghosts.get(&member.id)).is_some_and(holds)
            };
            if self.damaged.is_none() && !configuration.has_quorum(on_disk) {
                return Err(format!("slot {slot} is chosen but not durable on a quorum"));
            }
        }
        Ok(())
    }

    /// The leader applied entries: their writers get an answer.
    pub(super) fn acknowledge(&mut self, index: usize) -> Result<(), String> {
        let figures = match &self.nodes[index].replica {
            Some(replica) => replica.figures(),
            None => return Ok(()),
        };
        if figures.role == RoleName::Leading && figures.applied_slot > self.acknowledged_slot {
            self.stats.acknowledged += figures.applied_slot.0 - self.acknowledged_slot.0;
            self.acknowledged_slot = figures.applied_slot;
        }
        Ok(())
    }

    pub(super) fn read_ends(
        &mut self,
        index: usize,
        grant: ReadGrant,
        required: Slot,
    ) -> Result<(), String> {
        if self.nodes[index].check_read(self.now, grant) {
            self.stats.reads += 1;
            if grant.applied < required {
                let applied = grant.applied;
                return Err(format!("a read saw slot {applied}, slot {required} was acknowledged"));
            }
        }
        Ok(())
    }

    pub(super) fn check(&self) -> Result<(), String> {
        let mut holder = None;
        for node in &self.nodes {
            let Some(replica) = &node.replica else { continue };
            let figures = replica.figures();
            if figures.role != RoleName::Leading {
                continue;
            }
            let role = self.configurations.iter().rev().find_map(|(_, configuration)| {
                configuration.find(node.member?).map(|member| member.role)
            });
            if role == Some(MemberRole::Log) && !self.promoting(node.member) {
                return Err("a log replica leads".into());
            }
            if !node.holds_lease(self.now) {
                continue;
            }
            if let Some(other) = holder.replace(node.index) {
                return Err(format!("two leaseholders: {other} and {}", node.index));
            }
            if node.serves(self.now) && figures.applied_slot < self.acknowledged_slot {
                return Err(format!(
                    "a read would see slot {}, slot {} was acknowledged",
                    figures.applied_slot, self.acknowledged_slot
                ));
            }
        }
        Ok(())
    }

    /// Whether the member's own log says that it is a storage replica, chosen or not.
    fn promoting(&self, member: Option<super::MemberId>) -> bool {
        let node = member.and_then(|id| self.node_of(id)).map(|node| &self.nodes[node]);
        let entries = node.iter().flat_map(|node| &node.log.entries);
        let configurations = entries.filter_map(|(_, record)| record.configuration);
        let mut roles =
            configurations.filter_map(|configuration| configuration.find(member?).copied());
        roles.next_back().is_some_and(|member| member.role == MemberRole::Storage)
    }

    /// Every member of the newest configuration has the same watermark as a serving leader.
    pub(super) fn converged(&self) -> bool {
        let Some(leader) = self.serving() else { return false };
        let figures = |index: usize| self.nodes[index].replica.as_ref().map(|r| r.figures());
        let chosen = figures(leader).expect("it serves").chosen_slot;
        let configuration = self.configurations.last().expect("there is a first").1;
        configuration.members().iter().all(|member| {
            let node = self.node_of(member.id).and_then(figures);
            // The client goes on writing.
            node.is_some_and(|figures| figures.chosen_slot.0 + 40 >= chosen.0)
        })
    }

    /// All members, for a failure's report.
    pub(super) fn describe(&self) -> String {
        let mut text = format!("configurations: {:?}\n", {
            let members = |c: &super::Configuration| {
                c.members().iter().map(|m| (m.id.0, m.peer.0, m.role)).collect::<Vec<_>>()
            };
            self.configurations
                .iter()
                .rev()
                .take(2)
                .map(|(s, c)| (*s, members(c)))
                .collect::<Vec<_>>()
        });
        text += &format!("damaged: {:?}, truth {} slots\n", self.damaged, self.chosen.len());
        for node in &self.nodes {
            let figures = node.replica.as_ref().map(|replica| replica.figures());
            text += &format!("  node {} {:?} {figures:?}\n", node.index, node.member);
        }
        text
    }

    pub(super) fn note_repaired(&mut self, index: usize) {
        if self.damaged.is_some() && self.damaged == self.nodes[index].member {
            let entries = &self.nodes[index].disk.log.entries;
            if entries.iter().all(|(_, record)| record.kind != EntryKind::Unknown) {
                self.damaged = None;
            }
        }
    }
}
