//! What goes wrong, and how it ends.

use super::super::super::{EntryKind, MemberRole};
use super::{MILLI, Sim, What};

impl Sim {
    pub(super) fn fault(&mut self) -> Result<(), String> {
        let nodes = self.nodes.len();
        let index = self.rng.below(nodes as u64) as usize;
        // Leaders are the interesting victims.
        let victim = match self.serving() {
            Some(leader) if self.rng.chance(50) => leader,
            _ => index,
        };
        match self.rng.below(20) {
            0..3 => self.crash(victim),
            3..6 => self.pause(victim),
            6 => {
                let other = self.rng.below(nodes as u64) as usize;
                self.cut.push((victim, other));
                if self.rng.chance(50) {
                    self.cut.push((other, victim));
                }
            }
            7 => {
                for other in 0..nodes {
                    self.cut.push((victim, other));
                    self.cut.push((other, victim));
                }
            }
            8..11 => self.cut.clear(),
            11 => self.loss_percent = *self.rng.pick(&[0, 2, 10, 30]),
            12..15 => {
                self.nodes[index]
                    .runs(self.now)
                    .then(|| self.nodes[index].take_checkpoint(self.now));
                return self.after(index);
            }
            15 => {
                if let Some(leader) = self.serving() {
                    let members = self.configurations.last().unwrap().1;
                    let storage: Vec<_> = members
                        .members()
                        .iter()
                        .filter(|m| m.role == MemberRole::Storage)
                        .collect();
                    let to = self.rng.pick(&storage).id;
                    let begun = self.nodes[leader].hand_over(self.now, to);
                    self.stats.hand_overs += u64::from(begun);
                    return self.after(leader);
                }
            }
            _ if self.plan.changes => return self.change_membership(),
            _ => {}
        }
        Ok(())
    }

    fn crash(&mut self, index: usize) {
        if !self.nodes[index].up {
            return;
        }
        self.stats.crashes += 1;
        self.nodes[index].crash(&mut self.rng);
        if self.plan.damage && self.rng.chance(40) {
            self.damage(index);
        }
        let longest = *self.rng.pick(&[20, 250]);
        let delay = MILLI + self.rng.below(longest) * MILLI;
        self.at(delay, What::Restart { node: index });
    }

    /// Some entries that may not be chosen yet cannot be read any more. One member at a time, and
    /// only where the others are enough to tell.
    fn damage(&mut self, index: usize) {
        let members = self.configurations.last().expect("there is a first").1;
        let id = self.nodes[index].member;
        if self.damaged.is_some()
            || members.members().len() < 3
            || id.is_none_or(|id| members.find(id).is_none())
        {
            return;
        }
        let disk = &mut self.nodes[index].disk;
        let known = disk.chosen.0.max(disk.snapshot.map_or(0, |(slot, _)| slot.0));
        let known = known.saturating_sub(disk.log.base.0) as usize;
        let entries = &mut disk.log.entries;
        if known >= entries.len() {
            return;
        }
        let from = known + self.rng.below((entries.len() - known) as u64) as usize;
        let to = from + 1 + self.rng.below((entries.len() - from) as u64) as usize;
        for (ballot, record) in &mut entries[from..to] {
            *ballot = crate::ids::Ballot(0);
            record.kind = EntryKind::Unknown;
            record.configuration = None;
        }
        self.damaged = id;
        self.stats.damages += 1;
    }

    fn pause(&mut self, index: usize) {
        if self.nodes[index].runs(self.now) {
            self.stats.pauses += 1;
            let nanos = MILLI + self.rng.below(300 * MILLI);
            self.nodes[index].paused_until = self.now + nanos;
            self.at(nanos, What::Resume { node: index });
        }
    }

    /// The end of all faults.
    pub(super) fn heal(&mut self) {
        self.healing = true;
        self.cut.clear();
        self.loss_percent = 0;
        for index in 0..self.nodes.len() {
            if !self.nodes[index].up {
                self.at(0, What::Restart { node: index });
            }
            self.nodes[index].paused_until = self.now;
            self.at(1, What::Resume { node: index });
        }
    }
}
