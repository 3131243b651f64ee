//! What damage must come to: nothing that lasts.
//!
//! ```text
//!   the last fault is over ──10 s──► every group: three storage replicas, no damaged state, nobody lost,
//!         │                          damaged pages found == replaced
//!         │ something more turns out damaged (a page that nobody had read): 10 s from then
//!         ▼
//!   everything was read once more ─► the damaged node starts again ─► it answers for every key itself
//!                                    (its log is read)                (its pages are read)
//! ```
//!
//! **Repair.** Whatever a disk does to what it holds, the other members make it good, and nobody has to
//! help: from the end of the last fault, or the discovery of more damage, that takes [`REPAIR_NANOS`] at
//! most. What nobody has met until the end is looked for: the log is read at a start,
//! and the pages when the node that was damaged answers for each key.
//!
//! **Rule (identity).** A log that is lost takes the members' promises with it, and so do deleted data: no
//! member that was there speaks again under its old identity, anywhere.

use std::collections::HashSet;

use forebay_core::ids::GroupId;
use forebay_core::paxos::MemberId;
use forebay_storage::store::OpenError;

use super::membership;
use super::node::{Down, Node};
use super::queue::What;
use super::world::World;
use super::{FailureKind, between};

const SECOND: u64 = 1_000_000_000;
const MILLI: u64 = 1_000_000;

/// From the last fault's end, or from when more damage is found, until everything is whole. A node that
/// is away is missed after 5 s; the rest is for copies.
pub(super) const REPAIR_NANOS: u64 = 10 * SECOND;

/// See the module's docs.
#[derive(Debug, Default)]
pub(super) struct Repair {
    /// Identities that nobody may use any more.
    ended: HashSet<(GroupId, MemberId)>,
    /// Everything is whole by then.
    due: u64,
    /// Damaged pages that were found when this was looked at last, by node.
    found: Vec<u64>,
    end: End,
}

/// What the end of a run has asked of the damaged node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum End {
    #[default]
    Nothing,
    /// To start again: what it finds damaged then is in its log.
    Start,
    /// To answer for every key: what is damaged then is in its pages.
    Answers,
}

/// Whether a node whose disk is damaged may refuse to start because of it: the parts that repair leaves
/// out (`storage/src/store/repair.rs` says which), and a log that names no group with other members.
pub(super) fn may_give_up(node: &Node, error: &OpenError) -> bool {
    match error {
        OpenError::Superblock(_)
        | OpenError::SuperblocksLost { .. }
        | OpenError::Space(_)
        | OpenError::Catalog(_)
        | OpenError::CatalogEntry
        | OpenError::PagesLength { .. } => true,
        OpenError::Log(_) => !node.had_checkpointed_members(),
        _ => false,
    }
}

/// What of damage has not been made good yet.
pub(super) fn what_is_damaged(nodes: &[Node]) -> Option<String> {
    nodes.iter().find_map(|node| {
        let Some(shard) = &node.shard else {
            return Some(format!("node {} does not run", node.number));
        };
        let (stats, number) = (shard.store().stats(), node.number);
        let (found, repaired) = (stats.damaged_pages, stats.repaired_pages);
        if stats.members_damaged > 0 {
            Some(format!(
                "node {number} has {} members with a damaged state",
                stats.members_damaged
            ))
        } else if stats.members_lost > 0 {
            Some(format!("node {number} keeps {} members that were lost", stats.members_lost))
        } else {
            (found != repaired).then(|| {
                format!("node {number} found {found} damaged pages, {repaired} are repaired")
            })
        }
    })
}

impl World {
    /// No member of the node's that there was speaks again.
    pub(super) fn members_end(&mut self, members: Vec<(GroupId, MemberId)>) {
        self.repair.ended.extend(members);
    }

    /// Looks whether everything is whole that must be by now, and whether somebody is back who ended.
    pub(super) fn look_at_repair(&mut self) {
        let speaks = self.nodes.iter().find_map(|node| {
            let mut members = node.members().into_iter();
            let back = members.find(|member| self.repair.ended.contains(member))?;
            Some((node.number, back))
        });
        if let Some((number, (group, member))) = speaks {
            let message = format!(
                "node {number} has a member {} of group {group}, which ended with its log or data",
                member.0
            );
            return self.fail(FailureKind::Agreement, message);
        }
        let pages = |node: &Node| {
            node.shard.as_ref().map_or(0, |shard| shard.store().stats().damaged_pages)
        };
        let found: Vec<u64> = self.nodes.iter().map(pages).collect();
        if self.repair.found.is_empty() {
            self.repair.found.resize(self.nodes.len(), 0);
        }
        let before = std::mem::replace(&mut self.repair.found, found);
        let more =
            self.repair.found.iter().zip(before).map(|(now, before)| now.saturating_sub(before));
        let more: u64 = more.sum();
        self.stats.pages_damaged += more;
        if more > 0 {
            self.is_due_again();
        }
        if self.nodes.len() == 1 || self.now < self.repair.due {
            return;
        }
        if let Some(left) = self.what_is_not_whole() {
            let message = format!(
                "{} s after the last fault or find of damage, {left}",
                REPAIR_NANOS / SECOND
            );
            self.fail(FailureKind::Liveness, message);
        }
    }

    fn what_is_not_whole(&self) -> Option<String> {
        let missing = membership::what_is_missing(&self.nodes, self.now);
        missing.or_else(|| what_is_damaged(&self.nodes))
    }

    /// Whatever is damaged now has its time from here on.
    pub(super) fn is_due_again(&mut self) {
        self.repair.due = self.now.max(self.healed_at) + REPAIR_NANOS;
    }

    /// Everything was read and is whole: has the damaged node show what nobody has seen yet. False once
    /// it has.
    pub(super) fn looks_closer(&mut self) -> bool {
        let damaged = self.nodes.iter().position(|node| node.is_damaged);
        let Some(number) = damaged else { return false };
        match self.repair.end {
            End::Nothing => {
                self.repair.end = End::Start;
                self.trace.say(self.now, || format!("node {number} is started once more"));
                self.is_due_again();
                self.crash(number, Down::Process);
                let incarnation = self.nodes[number].incarnation;
                let at = self.now + between(&mut self.random, MILLI, 20 * MILLI);
                self.queue.push(at, What::Restart { node: number, incarnation });
            }
            End::Start => {
                self.repair.end = End::Answers;
                self.trace.say(self.now, || format!("node {number} is asked for every key"));
                self.work.begin_to_reread(number);
                (0..self.clients.len()).for_each(|client| self.wake_client(client));
            }
            End::Answers => return false,
        }
        true
    }
}
