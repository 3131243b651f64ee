//! The receiver: parts become a tree, and a checkpoint makes it the member's.
//!
//! ```text
//!   Loading ──► Listing ──► Ready ──► Committing ──► Durable ──► taken
//!   parts       the old     a check-  in that        superblock  by the shell: the member's state
//!   arrive,     tree's      point is  checkpoint's   is on the   in memory
//!   pages are   pages       due       merge phase    disk
//!   written     │             │
//!      └────────┴─────────────┴──► given up: pages are returned
//! ```
//!
//! One at a time on a shard. Pages are written as they come, a few at a time and while few others
//! wait, so that the log and the reads keep the device; none is produced while a checkpoint waits for
//! its last page. Listing the old tree's pages before the checkpoint keeps that short however large
//! the tree is; if a merge makes another tree of it meanwhile, they are listed again.
//!
//! Both lists, 16 bytes a page, are what a snapshot costs in memory beside its parts.

use forebay_core::digest::Digest;
use forebay_core::ids::{Ballot, Slot};
use forebay_core::message::peer::SnapshotHead;
use forebay_core::message::peer::snapshot::{PART_BYTES, entries, split_entry};
use forebay_core::paxos::{ConfigurationAt, Handle, MemberRole};
use forebay_core::time::Nanos;

use super::super::catalog::{CatalogEntry, CatalogMember};
use super::super::checkpoint::Phase;
use super::super::groups::GroupState;
use super::super::room::RESERVE_BLOCKS;
use super::super::{GroupOrdinal, Refused, Store, Work};
use super::digest_of;
use crate::block::BLOCK_BYTES;
use crate::space::Runs;
use crate::tree::merge::{Change, Merge, MergeInput, MergeStep};
use crate::tree::page::PageView;
use crate::tree::{PageRef, TreeRef, Value};

/// Of a merge's slice, what an install may take.
const SLICE_PART: usize = 2;
/// Work units of a slice are about 100 ns.
const UNITS_PER_MICRO: usize = 10;
/// Of the cache, what may wait to be written before no more pages are made.
const DIRTY_PART: usize = 8;
/// Room that a slice may take, beside its largest item.
const SLICE_ROOM_BYTES: usize = 1 << 20;
/// Pages of the old tree listed in one turn.
const LIST_PAGES: usize = 64;
/// Of them, fetched ahead.
const LIST_AHEAD: usize = 16;
/// Pages adopted or freed in one turn of the checkpoint.
const COMMIT_PAGES: usize = 2048;

/// Why a snapshot was given up, or not begun. The member is what it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InstallError {
    /// One is being installed on this shard: wait.
    #[error("another snapshot is being installed on this shard")]
    Busy,
    /// The member's state is as new as the snapshot: go on from the log.
    #[error("the state is at slot {applied} already")]
    Overtaken {
        /// The state's.
        applied: Slot,
    },
    /// The member's log begins after the snapshot: get a newer one.
    #[error("the log begins after slot {trimmed}, which is beyond the snapshot")]
    TooOld {
        /// The log's begin.
        trimmed: Slot,
    },
    /// A part's keys do not ascend, or it came out of turn: the source is broken. Ask another.
    #[error("an entry of the snapshot is out of order")]
    Order,
    /// This shard's memory or log is too small for an item of the group: configure more.
    #[error("an item of {bytes} bytes does not fit this shard's memory")]
    TooLarge {
        /// Of the item and its key.
        bytes: usize,
    },
    /// What arrived is not what was announced: ask another source.
    #[error(
        "{items} items of {bytes} bytes with digest {digest} arrived, {expected_items} of \
         {expected_bytes} with {expected_digest} were announced"
    )]
    Content {
        /// Arrived.
        items: u64,
        /// Of them.
        bytes: u64,
        /// Of them.
        digest: Digest,
        /// Announced.
        expected_items: u64,
        /// Announced.
        expected_bytes: u64,
        /// Announced.
        expected_digest: Digest,
    },
    /// Free space on the disk; then it is tried again.
    #[error("the disk is full")]
    DiskFull,
    /// The shard is closing, has failed, or has no such member.
    #[error("the shard takes no snapshots now")]
    Closed,
}

/// How far an install is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InstallStage {
    /// Parts arrive.
    Loading,
    /// Everything is here; a checkpoint is to contain it.
    Committing,
}

/// For operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InstallProgress {
    /// The group.
    pub group: GroupOrdinal,
    /// Of the snapshot.
    pub slot: Slot,
    /// What is going on.
    pub stage: InstallStage,
    /// Items so far.
    pub items: u64,
    /// Of so many.
    pub items_total: u64,
    /// Bytes of keys and items so far.
    pub bytes: u64,
    /// Of so many.
    pub bytes_total: u64,
}

/// A snapshot that is the member's state now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Installed {
    /// The group.
    pub group: GroupOrdinal,
    /// The last slot it contains.
    pub slot: Slot,
    /// In force after that slot.
    pub configuration: ConfigurationAt,
}

#[derive(Debug)]
enum Stage {
    Loading,
    Listing { stack: Vec<PageRef> },
    Ready,
    Committing { adopted: usize, freed: usize },
    Durable,
}

/// See the module's docs.
#[derive(Debug)]
pub(in crate::store) struct Install {
    group: GroupOrdinal,
    head: SnapshotHead,
    stage: Stage,
    merge: Merge,
    /// Entries that arrived; those before `at` are in the tree.
    input: Vec<u8>,
    at: usize,
    last_key: Vec<u8>,
    /// The last part is here.
    complete: bool,
    items: u64,
    bytes: u64,
    tree: TreeRef,
    pages: Vec<(u64, u16)>,
    /// Of the tree that it replaces.
    old_pages: Vec<(u64, u16)>,
    old: TreeRef,
    /// As the checkpoint began: what the catalog says.
    catalog: Option<CatalogMember>,
    chosen: Slot,
}

struct LoadInput<'a> {
    bytes: &'a [u8],
    at: &'a mut usize,
    complete: bool,
}

impl MergeInput for LoadInput<'_> {
    fn peek(&self) -> Option<(&[u8], Change<'_>)> {
        let ((key, item), _) = split_entry(&self.bytes[*self.at..])?;
        Some((key, Change::Put(item)))
    }

    fn advance(&mut self) {
        let (_, rest) = split_entry(&self.bytes[*self.at..]).expect("only what was seen is taken");
        *self.at = self.bytes.len() - rest.len();
    }

    fn first_key_from(&self, _: &[u8]) -> Option<&[u8]> {
        unreachable!("nothing is read ahead of a tree that is new")
    }

    fn is_unfinished(&self) -> bool {
        !self.complete
    }
}

impl Store {
    /// Begins to install a snapshot of the group. Its parts come by [`Store::install_part`].
    ///
    /// # Errors
    /// Nothing was begun; see [`InstallError`].
    pub fn begin_install(
        &mut self,
        group: GroupOrdinal,
        head: SnapshotHead,
    ) -> Result<(), InstallError> {
        if self.snapshots.install.is_some() {
            return Err(InstallError::Busy);
        }
        if self.failure.is_some() || self.closing {
            return Err(InstallError::Closed);
        }
        if self.is_disk_full() {
            return Err(InstallError::DiskFull);
        }
        self.check_use(group, head.slot)?;
        self.snapshots.failed = None;
        self.snapshots.install = Some(Box::new(Install {
            group,
            head,
            stage: Stage::Loading,
            merge: Merge::borrowing(),
            input: Vec::new(),
            at: 0,
            last_key: Vec::new(),
            complete: false,
            items: 0,
            bytes: 0,
            tree: TreeRef::EMPTY,
            pages: Vec::new(),
            old_pages: Vec::new(),
            old: TreeRef::EMPTY,
            catalog: None,
            chosen: Slot(0),
        }));
        Ok(())
    }

    /// Whether a snapshot at `slot` is of use to the member.
    fn check_use(&self, group: GroupOrdinal, slot: Slot) -> Result<(), InstallError> {
        let state = self.groups.get(group);
        let member = state.member.as_deref().filter(|_| !state.dropped);
        let member = member.ok_or(InstallError::Closed)?;
        let (applied, trimmed) = (member.applied(), member.trimmed);
        // A state whose log begins after it is of no use itself, nor is a damaged one.
        if member.keeps_state() && !member.stopped && slot <= applied && applied >= trimmed {
            return Err(InstallError::Overtaken { applied });
        }
        // Storage replicas cannot have trimmed what their state lacks, unless it was lost.
        if slot < trimmed || slot < applied {
            return Err(InstallError::TooOld { trimmed: trimmed.max(applied) });
        }
        Ok(())
    }

    /// Whether a further part has room in memory.
    #[must_use]
    pub fn install_wants_part(&self) -> bool {
        self.snapshots.install.as_deref().is_some_and(|install| {
            matches!(install.stage, Stage::Loading)
                && !install.complete
                && install.input.len() - install.at < PART_BYTES
        })
    }

    /// The last key that arrived.
    #[must_use]
    pub fn install_last_key(&self) -> &[u8] {
        self.snapshots.install.as_deref().map_or(&[], |install| &install.last_key)
    }

    /// Takes the next part, which begins after [`Store::install_last_key`].
    ///
    /// # Errors
    /// The install is given up.
    pub fn install_part(&mut self, part: &[u8], last: bool) -> Result<(), InstallError> {
        let entry_bytes_max = self.entry_bytes_max;
        let install = self.snapshots.install.as_deref_mut().ok_or(InstallError::Closed)?;
        if !matches!(install.stage, Stage::Loading) || install.complete {
            return Err(InstallError::Order);
        }
        let (mut read, mut error) = (0, None);
        let mut before: &[u8] = &install.last_key;
        let (mut items, mut bytes) = (0, 0);
        for (key, item) in entries(part) {
            let both = key.len() + item.len();
            if key <= before && !(items + install.items == 0 && key.is_empty()) {
                error = Some(InstallError::Order);
            } else if both > entry_bytes_max {
                error = Some(InstallError::TooLarge { bytes: both });
            }
            before = key;
            items += 1;
            bytes += both as u64;
            read += 6 + both;
        }
        if read != part.len() {
            error = Some(InstallError::Order);
        }
        if let Some(error) = error {
            self.give_up(error);
            return Err(error);
        }
        if items > 0 {
            install.last_key = before.to_vec();
        }
        install.items += items;
        install.bytes += bytes;
        install.input.drain(..install.at);
        install.at = 0;
        install.input.extend_from_slice(part);
        install.complete = last;
        Ok(())
    }

    /// How far the install is, if one is under way.
    #[must_use]
    pub fn install_progress(&self) -> Option<InstallProgress> {
        let install = self.snapshots.install.as_deref()?;
        let stage = match install.stage {
            Stage::Loading => InstallStage::Loading,
            _ => InstallStage::Committing,
        };
        Some(InstallProgress {
            group: install.group,
            slot: install.head.slot,
            stage,
            items: install.items,
            items_total: install.head.items,
            bytes: install.bytes,
            bytes_total: install.head.bytes,
        })
    }

    /// Why the last install was given up, if the caller has not heard yet.
    pub fn take_install_failure(&mut self) -> Option<(GroupOrdinal, InstallError)> {
        self.snapshots.failed.take()
    }

    /// A log replica trims no further while it is to become a storage replica.
    #[must_use]
    pub fn trim_limit(&self, group: GroupOrdinal) -> Option<Slot> {
        let install = self.install_of(group)?;
        let is_log = !self.member(group).keeps_state();
        is_log.then_some(install.head.slot)
    }

    /// Whether a checkpoint contains the snapshot already, or is about to: a log replica must not move
    /// the begin of its log now.
    #[must_use]
    pub fn is_committing_install(&self, group: GroupOrdinal) -> bool {
        let install = self.install_of(group);
        let late = |stage: &Stage| matches!(stage, Stage::Committing { .. } | Stage::Durable);
        install.is_some_and(|install| late(&install.stage))
    }

    fn install_of(&self, group: GroupOrdinal) -> Option<&Install> {
        self.snapshots.install.as_deref().filter(|install| install.group == group)
    }

    /// Gives up the install of a group, unless a checkpoint has it already.
    pub fn cancel_install(&mut self, group: GroupOrdinal) {
        if self.install_of(group).is_some() && !self.is_committing_install(group) {
            self.give_up(InstallError::Closed);
            self.snapshots.failed = None;
        }
    }

    fn give_up(&mut self, error: InstallError) {
        let Some(mut install) = self.snapshots.install.take() else { return };
        self.snapshots.given_up += 1;
        install.pages.append(&mut install.merge.take_allocated());
        for (id, blocks) in install.pages {
            self.cache.forget(id);
            self.space.return_borrowed(id, blocks);
        }
        self.snapshots.failed = Some((install.group, error));
    }

    /// The group leaves this shard.
    pub(super) fn drop_install_of(&mut self, group: GroupOrdinal) {
        self.cancel_install(group);
        let durable = |install: &Install| matches!(install.stage, Stage::Durable);
        if self.install_of(group).is_some_and(durable) {
            let install = self.snapshots.install.take().expect("just looked");
            // What the checkpoint has is what the drop will free.
            self.groups.get_mut(group).tree = install.tree;
        }
    }

    /// Blocks that an install would like to find free.
    pub(in crate::store) fn install_blocks_wanted(&self) -> u64 {
        let loads = |install: &Install| matches!(install.stage, Stage::Loading);
        let loading = self.snapshots.install.as_deref().is_some_and(loads);
        if loading { 2 * (SLICE_ROOM_BYTES / BLOCK_BYTES) as u64 } else { 0 }
    }

    /// Whether a checkpoint is due for the sake of an install.
    pub(in crate::store) fn install_is_ready(&self) -> bool {
        let ready = |install: &Install| matches!(install.stage, Stage::Ready);
        self.snapshots.install.as_deref().is_some_and(ready)
    }

    /// Whether the shell has yet to take an install: no checkpoint begins before.
    pub(in crate::store) fn install_is_durable(&self) -> bool {
        let durable = |install: &Install| matches!(install.stage, Stage::Durable);
        self.snapshots.install.as_deref().is_some_and(durable)
    }

    /// A turn's worth.
    pub(in crate::store) fn step_install(&mut self, now: Nanos, work: &mut Work) {
        let Some(install) = self.snapshots.install.as_deref() else { return };
        if self.closing && !self.is_committing_install(install.group) {
            return self.give_up(InstallError::Closed);
        }
        match install.stage {
            Stage::Loading => self.load_slice(now, work),
            Stage::Listing { .. } => self.list_slice(now, work),
            Stage::Ready | Stage::Committing { .. } | Stage::Durable => {}
        }
        if self.checkpoint.is_idle() {
            self.write_pages();
        }
    }

    fn load_slice(&mut self, now: Nanos, work: &mut Work) {
        let install = self.snapshots.install.as_deref().expect("it loads");
        let rest = &install.input[install.at..];
        if rest.is_empty() && !install.complete {
            return;
        }
        // A checkpoint waits for all pages to be written; and some room is the merge's.
        let dirty_max = self.cache.blocks() * BLOCK_BYTES / DIRTY_PART;
        if matches!(self.checkpoint.phase, Phase::Writing)
            || self.cache.unwritten_bytes() > dirty_max
        {
            return;
        }
        let largest = split_entry(rest).map_or(0, |((key, item), _)| key.len() + item.len());
        let room = SLICE_ROOM_BYTES + largest;
        match self.admit_to_disk(room, Runs::default(), false) {
            Ok(()) => {}
            Err(Refused::DiskFull { .. }) => return self.give_up(InstallError::DiskFull),
            // The file grows.
            Err(_) => return work.wake_by(now + Nanos::PER_MILLI),
        }
        let budget = self.config.merge_slice_micros as usize * UNITS_PER_MICRO / SLICE_PART;
        let install = self.snapshots.install.as_deref_mut().expect("it loads");
        let complete = install.complete;
        let mut input = LoadInput { bytes: &install.input, at: &mut install.at, complete };
        let step = install.merge.step(&mut input, &mut self.cache, &mut self.space, budget.max(1));
        match step {
            MergeStep::Progress => work.run_again |= complete || install.at < install.input.len(),
            // Writes that make room are on their way, or start in this turn.
            MergeStep::CacheFull => {}
            MergeStep::NeedSpace(run) => {
                if self.is_disk_full() {
                    return self.give_up(InstallError::DiskFull);
                }
                self.grow(run, run.max(RESERVE_BLOCKS), now, work);
            }
            MergeStep::Missing => unreachable!("a new tree has nothing to read"),
            MergeStep::Done(tree) => {
                install.tree = tree;
                install.pages = install.merge.take_allocated();
                (install.input, install.at) = (Vec::new(), 0);
                let (head, totals) = (&install.head, tree.totals());
                let digest = digest_of(&totals);
                if (totals.items, totals.bytes, digest) != (head.items, head.bytes, head.digest) {
                    let error = InstallError::Content {
                        items: totals.items,
                        bytes: totals.bytes,
                        digest,
                        expected_items: head.items,
                        expected_bytes: head.bytes,
                        expected_digest: head.digest,
                    };
                    return self.give_up(error);
                }
                self.begin_listing();
                work.run_again = true;
            }
        }
    }

    fn begin_listing(&mut self) {
        let install = self.snapshots.install.as_deref_mut().expect("it is loaded");
        install.old = self.groups.get(install.group).tree;
        install.old_pages.clear();
        let stack = install.old.root.iter().map(|root| root.page).collect();
        install.stage = Stage::Listing { stack };
    }

    fn list_slice(&mut self, _now: Nanos, work: &mut Work) {
        let mut install = self.snapshots.install.take().expect("it lists");
        if self.groups.get(install.group).tree != install.old {
            self.snapshots.install = Some(install);
            return self.begin_listing();
        }
        let Stage::Listing { stack } = &mut install.stage else { unreachable!("it lists") };
        let mut missing = false;
        for _ in 0..LIST_PAGES {
            let Some(page) = stack.last().copied() else { break };
            let Some(bytes) = self.cache.get(&page) else {
                if self.is_damaged(page) {
                    // What is below it cannot be found: those blocks stay taken, and are reported by
                    // `inspect` as leaked.
                    stack.pop();
                    install.old_pages.push((page.id, page.blocks));
                    continue;
                }
                self.fetch(page);
                for page in stack.iter().rev().skip(1).take(LIST_AHEAD).copied().collect::<Vec<_>>()
                {
                    self.fetch_if_room(page);
                }
                missing = true;
                break;
            };
            stack.pop();
            install.old_pages.push((page.id, page.blocks));
            let view = PageView::new(bytes);
            for index in 0..view.count() {
                if page.level > 0 {
                    stack.push(view.child_page(index));
                } else if let Value::Overflow(extent) = view.value(index) {
                    install.old_pages.push((extent.page.id, extent.page.blocks));
                }
            }
        }
        work.run_again |= !missing;
        let done = stack.is_empty();
        let group = install.group;
        if done {
            install.stage = Stage::Ready;
            self.groups.get_mut(group).changed = true;
        }
        self.snapshots.install = Some(install);
    }

    /// A checkpoint begins: if an install is ready, and still of use, it is part of it.
    pub(in crate::store) fn freeze_install(&mut self) {
        let Some(install) = self.snapshots.install.as_deref() else { return };
        if !matches!(install.stage, Stage::Ready) {
            return;
        }
        let (group, slot) = (install.group, install.head.slot);
        if let Err(error) = self.check_use(group, slot) {
            return self.give_up(error);
        }
        let state = self.groups.get(group);
        if state.tree != install.old {
            return self.begin_listing();
        }
        let member = state.member.as_deref().expect("it is of use");
        let (frozen, known) = (&member.frozen, member.chosen >= slot);
        let at = install.head.configuration;
        let chosen = frozen.chosen.max(slot);
        let catalog = CatalogMember {
            id: member.id,
            role: MemberRole::Storage,
            chosen_origin: if chosen == frozen.chosen { frozen.chosen_origin } else { Ballot(0) },
            trimmed_slot: if known { frozen.trimmed } else { slot },
            last_slot: frozen.last.max(slot),
            created_lsn: member.created_lsn,
            configurations: if known { member.configurations_until(chosen) } else { vec![at] },
            lost: false,
        };
        let install = self.snapshots.install.as_deref_mut().expect("just looked");
        (install.catalog, install.chosen) = (Some(catalog), chosen);
        install.stage = Stage::Committing { adopted: 0, freed: 0 };
    }

    /// Whether the checkpoint under way commits an install of this group.
    pub(in crate::store) fn commits_install(&self, group: GroupOrdinal) -> bool {
        let commits = |install: &Install| matches!(install.stage, Stage::Committing { .. });
        self.install_of(group).is_some_and(commits)
    }

    /// Whether the checkpoint under way commits an install.
    pub(in crate::store) fn commits_any_install(&self) -> bool {
        self.snapshots.install.as_deref().is_some_and(|install| self.commits_install(install.group))
    }

    /// Makes a few pages of the new tree, and of the old one, those of this checkpoint, or not; true
    /// when that is done.
    pub(in crate::store) fn commit_slice(&mut self) -> bool {
        let install = self.snapshots.install.as_deref_mut().expect("it commits");
        let Stage::Committing { adopted, freed } = &mut install.stage else {
            unreachable!("it commits")
        };
        let mut left = COMMIT_PAGES;
        while left > 0
            && let Some((id, blocks)) = install.pages.get(*adopted).copied()
        {
            self.space.adopt(id, blocks);
            *adopted += 1;
            left -= 1;
        }
        while left > 0
            && let Some((id, blocks)) = install.old_pages.get(*freed).copied()
        {
            // They stay readable, and are read, until the superblock is durable.
            self.space.free(id, blocks);
            *freed += 1;
            left -= 1;
        }
        (*adopted, *freed) == (install.pages.len(), install.old_pages.len())
    }

    /// What the catalog says of a group whose install is committed.
    pub(in crate::store) fn installed_entry(&self, state: &GroupState) -> CatalogEntry {
        let install = self.snapshots.install.as_deref().expect("it commits");
        let member = state.member.as_deref().expect("a member gets snapshots");
        CatalogEntry {
            members: 0,
            ballot: member.frozen.promised,
            chosen_slot: install.chosen,
            applied_slot: install.head.slot,
            tree: install.tree,
            member: install.catalog.clone(),
            payload: state.payload.clone(),
        }
    }

    /// The superblock is durable, and with it the install of this group.
    pub(in crate::store) fn install_durable(&mut self, group: GroupOrdinal) {
        let install = self.snapshots.install.as_deref_mut().expect("it was committed");
        install.stage = Stage::Durable;
        self.snapshots.installed += 1;
        let state = self.groups.get_mut(group);
        state.in_catalog = true;
        state.checkpoint_slot = install.head.slot;
        state.checkpoint_tree = install.tree;
        if state.dropped {
            self.drop_install_of(group);
        }
    }

    /// A snapshot that has become durable becomes the member's state. The caller tells the replica at
    /// once, before anything else: [`forebay_core::paxos::Input::SnapshotInstalled`].
    pub fn take_installed(&mut self) -> Option<Installed> {
        if !self.install_is_durable() {
            return None;
        }
        let install = self.snapshots.install.take().expect("just looked");
        let Install { group, head, tree, .. } = *install;
        let SnapshotHead { slot, configuration, .. } = head;
        let state = self.groups.get_mut(group);
        (state.tree, state.frozen_slot, state.changed) = (tree, slot, true);
        let member = state.member.as_deref_mut().expect("a member gets snapshots");
        let before = member.history_bytes();
        let replaced = std::mem::take(&mut member.stopped);
        let overtaken = member.keeps_state() && member.applied() >= slot && !replaced;
        let known = replaced && member.applied() == slot;
        let mut gone = Vec::new();
        if !overtaken {
            if member.chosen < slot {
                gone = member.begin_after(slot, configuration);
            }
            member.role = MemberRole::Storage;
            member.set_applied(slot);
            self.overlay.drop_group(group.0);
        }
        let behind = member.applied() < member.released();
        for accepted in gone {
            if accepted.handle != Handle::NONE {
                self.discard(accepted.handle);
            }
        }
        self.history_changed(group, before);
        if behind {
            self.snapshots.behind.add(group);
        }
        if overtaken || known {
            self.checkpointed.push((group, slot));
        }
        if replaced {
            self.repaired(group);
        }
        Some(Installed { group, slot, configuration })
    }
}
