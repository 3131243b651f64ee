//! A member's records, read again after a restart.
//!
//! ```text
//!        history                    │ from the checkpoint's point on
//!   ─────┬─────────────┬────────────┼──────────────────────────────────────┐
//!        │ entries that members     │ entries, promises, notes of what is  │
//!        │ still need               │ chosen, bases, members created       │
//!        └──────────────────────────┴──────────────────────────────────────┘
//!         damage makes these unknown   damage is the end: a promise may be in it
//! ```
//!
//! Of what lies before the checkpoint's point the catalog knows everything but entries: promise,
//! watermark, configurations, and which slots there are. So a damaged batch there costs entries
//! only. Those up to the watermark are in the state, and are missing in the log as if trimmed; those
//! above are *unknown*, and so is everything read before the damage, because what overwrote it may
//! have been in it. (**Rule (identity)**: "unknown", never "empty".)
//!
//! Damage behind the point costs all members of the shard their part: a promise may be lost, and a
//! member that lost a promise is removed and added anew ([`super::super::repair`]).
//!
//! An entry is applied when a note says that it is chosen. At every place of the log, what was read
//! of a slot so far is what the member held at that place, or nothing: a checkpoint copies only the
//! entry that counts. So a note never meets an entry that was overwritten later.

use forebay_core::ids::{Lsn, Slot};
use forebay_core::paxos::{Configuration, ConfigurationAt, EntryKind, Handle};

use super::super::groups::GroupState;
use super::super::recovery::{BlockingDisk, OpenError, Opening, entry_of, undecodable};
use super::super::{GroupOrdinal, ops};
use super::state::Accepted;
use super::{A_MEMBER, MemberState, StagedEntry};
use crate::block::{BLOCK_BYTES, BlockBuf, DiskOp, OpId, ShardFile};
use crate::log::format::record_bytes;
use crate::log::reader::{ChainReader, ChainStep};
use crate::log::recovery::READ_BYTES;
use crate::log::{LogRecord, MemberCreate, RecordKind};
use crate::overlay::KeyHash;
use crate::space::Runs;

impl Opening {
    /// Reads the entries that lie before the checkpoint's point.
    pub(in crate::store) fn replay_history(
        &mut self,
        disk: &mut dyn BlockingDisk,
    ) -> Result<(), OpenError> {
        let (start, end) = (self.superblock.history_start(), self.superblock.log_start.lsn);
        if start == end {
            return Ok(());
        }
        let config = self.config.log;
        let mut reader = ChainReader::entered(config, start, end);
        let mut at = start;
        let mut damaged = false;
        loop {
            match reader.next() {
                ChainStep::Batch(batch) => {
                    let lsn = batch.header.lsn;
                    for record in batch.records() {
                        self.replay_entry(&record, lsn, true)?;
                    }
                }
                ChainStep::Bad(_) => {
                    self.history_damaged();
                    damaged = true;
                    reader.skip_block();
                }
                ChainStep::More if at < end => {
                    let offset_bytes = config.offset_bytes(at);
                    let bytes =
                        READ_BYTES.min(config.capacity_bytes() - offset_bytes).min(end.0 - at.0);
                    let buf = BlockBuf::zeroed(bytes as usize / BLOCK_BYTES);
                    let (op, file) = (OpId(ops::OTHER), ShardFile::Log);
                    let done = disk.carry_out(DiskOp::Read { op, file, offset_bytes, buf });
                    let mut buf = done.buf.expect("a read brings its buffer back");
                    if done.result.is_err() {
                        // As good as damaged.
                        buf.fill(0);
                    }
                    reader.feed(&buf);
                    at = at.after(bytes);
                }
                ChainStep::More => break,
            }
        }
        if reader.point().lsn != end {
            self.history_damaged();
            damaged = true;
        }
        self.history_lost |= damaged;
        Ok(())
    }

    /// What was read so far may have been overwritten in what cannot be read.
    fn history_damaged(&mut self) {
        let members = self.groups.iter_mut().filter_map(|(_, state)| state.member.as_deref_mut());
        for member in members {
            member.positions.lose();
            for entry in member.lose() {
                if entry.handle != Handle::NONE {
                    let entry = self.staged.remove(entry.handle);
                    self.overlay.abandon(entry.staged);
                }
            }
        }
    }

    /// A record of a replicated group behind the checkpoint's point; false if there was nothing to
    /// do.
    pub(in crate::store) fn replay_member(
        &mut self,
        record: &LogRecord<'_>,
        batch: Lsn,
    ) -> Result<bool, OpenError> {
        let header = record.header;
        let known = self.groups.find(header.group);
        if header.kind == RecordKind::MEMBER_CREATE {
            let create = MemberCreate::decode(record.payload).ok_or_else(|| undecodable(record))?;
            if let Some(group) = known {
                return self.replay_rebirth(group, record, &create);
            }
            let mut state = GroupState::new(header.group, create.payload.to_vec());
            let member = MemberState::new(create.member, create.role, record.lsn, create.first());
            (state.member, state.changed) = (Some(Box::new(member)), true);
            self.groups.insert(header.group, state);
            return Ok(true);
        }
        let Some(group) = known else {
            let (group, found) = (header.group, header.slot);
            return Err(OpenError::Gap { group, expected: Slot(0), found });
        };
        let state = self.groups.get_mut(group);
        let Some(member) = state.member.as_deref_mut() else { return Err(undecodable(record)) };
        if state.dropped {
            return Ok(false);
        }
        match header.kind {
            RecordKind::PROMISE => member.promised = member.promised.max(header.ballot),
            RecordKind::CHOSEN => {
                member.chosen = member.chosen.max(header.slot);
                member.noted = member.noted.max(header.slot);
                self.apply_replayed(group);
            }
            RecordKind::BASE => {
                let at = ConfigurationAt::decode(record.payload);
                let at = at.filter(|at| at.slot <= header.slot);
                let at = at.ok_or_else(|| undecodable(record))?;
                if header.slot < member.trimmed {
                    return Ok(false);
                }
                let gone = member.begin_after(header.slot, at);
                self.let_go(gone);
            }
            _ => return self.replay_entry(record, batch, false),
        }
        self.groups.get_mut(group).changed = true;
        Ok(true)
    }

    /// A member that takes the place of one that was lost, if the catalog does not have it already.
    fn replay_rebirth(
        &mut self,
        group: GroupOrdinal,
        record: &LogRecord<'_>,
        create: &MemberCreate<'_>,
    ) -> Result<bool, OpenError> {
        let state = self.groups.get_mut(group);
        let Some(member) = state.member.as_deref_mut() else { return Err(undecodable(record)) };
        if state.dropped || member.id == create.member {
            return Ok(false);
        }
        if !member.may_be_reborn() {
            // No writer of this version creates a member beside one that votes.
            return Err(undecodable(record));
        }
        member.reborn(create.member, record.lsn);
        (state.payload, state.changed) = (create.payload.to_vec(), true);
        Ok(true)
    }

    /// An accepted entry.
    fn replay_entry(
        &mut self,
        record: &LogRecord<'_>,
        batch: Lsn,
        history: bool,
    ) -> Result<bool, OpenError> {
        let header = record.header;
        let kind = match header.kind {
            RecordKind::PUT | RecordKind::DELETE => EntryKind::Data,
            RecordKind::NO_OP => EntryKind::NoOp,
            RecordKind::CONFIGURATION => EntryKind::Configuration,
            _ if history => return Ok(false),
            _ => return Err(undecodable(record)),
        };
        let Some(group) = self.groups.find(header.group) else { return Ok(false) };
        let state = self.groups.get_mut(group);
        let Some(member) = state.member.as_deref_mut() else { return Ok(false) };
        if record.lsn < member.created_lsn || header.slot <= member.trimmed {
            return Ok(false);
        }
        let bytes = record_bytes(record.payload.len() + header.origin_bytes()) as u64;
        member.positions.note(&self.config.log, header.slot, header.ballot, batch, bytes);
        member.promised = member.promised.max(header.ballot);
        state.changed = true;
        if header.slot <= member.released() {
            return Ok(false);
        }
        if member.get(header.slot).is_some_and(|held| held.ballot > header.ballot) {
            // No writer of this version lets the older one follow the newer.
            return Err(undecodable(record));
        }
        let mut handle = Handle::NONE;
        let mut configuration = None;
        match kind {
            EntryKind::Data => {
                let (key, item) = entry_of(record).ok_or_else(|| undecodable(record))?;
                let keeps_state = member.keeps_state();
                handle = self.stage_replayed(group, header.slot, key, item, keeps_state)?;
            }
            EntryKind::Configuration => {
                let decoded = Configuration::decode(record.payload);
                configuration = Some(decoded.ok_or_else(|| undecodable(record))?);
            }
            _ => {}
        }
        let (ballot, origin) = (header.ballot, header.origin);
        let entry = Accepted { ballot, origin, handle, kind, logged: true };
        let member = self.groups.get_mut(group).member.as_deref_mut().expect(A_MEMBER);
        let replaced = member.put(header.slot, entry);
        member.accept_configuration(header.slot, configuration.as_ref());
        self.let_go(replaced.into_iter().collect());
        self.apply_replayed(group);
        Ok(true)
    }

    fn stage_replayed(
        &mut self,
        group: GroupOrdinal,
        slot: Slot,
        key: &[u8],
        item: Option<&[u8]>,
        keeps_state: bool,
    ) -> Result<Handle, OpenError> {
        let staged = self.overlay.stage(group.0, slot, key, item);
        let staged = staged.map_err(|full| OpenError::Memory {
            bytes: 8 * (full.active_bytes + full.needed_bytes) as u64,
        })?;
        Ok(self.staged.insert(StagedEntry {
            group,
            staged,
            hash: KeyHash::of(group.0, key),
            runs: if keeps_state { Runs::of(key, item) } else { Runs::default() },
            bytes: (key.len() + item.map_or(0, <[u8]>::len)) as u32,
            unlogged_bytes: 0,
            queued: 0,
            in_flight: false,
            discarded: false,
        }))
    }

    fn let_go(&mut self, entries: Vec<Accepted>) {
        for entry in entries {
            if entry.handle != Handle::NONE {
                let entry = self.staged.remove(entry.handle);
                self.overlay.abandon(entry.staged);
            }
        }
    }

    /// Applies what is chosen; on a log replica, lets go of it.
    fn apply_replayed(&mut self, group: GroupOrdinal) {
        let member = self.groups.get_mut(group).member.as_deref_mut().expect(A_MEMBER);
        while let Some((_, accepted, follows)) = member.pop_chosen() {
            if accepted.handle == Handle::NONE {
                continue;
            }
            let entry = self.staged.remove(accepted.handle);
            if follows {
                self.overlay.apply(entry.staged, entry.hash);
                if !entry.runs.is_none() {
                    self.runs.push(entry.runs);
                }
            } else {
                self.overlay.abandon(entry.staged);
            }
        }
    }

    /// Everything was read: what is missing is unknown.
    pub(in crate::store) fn finish_members(&mut self) -> Result<(), OpenError> {
        let mut lost = Vec::new();
        for (_, state) in self.groups.iter_mut() {
            let id = state.progress.id();
            let Some(member) = state.member.as_deref_mut() else { continue };
            if state.dropped {
                continue;
            }
            self.members += 1;
            if member.released() < member.chosen {
                let upto = member.chosen;
                if !member.keeps_state() {
                    while let Some(gone) = member.pop_upto(upto) {
                        lost.push(gone);
                    }
                } else if self.history_lost {
                    // They are unknown here, so whether they were chosen is the leader's to say.
                    member.chosen = member.released();
                } else {
                    let (expected, found) = (member.released().next(), member.chosen);
                    return Err(OpenError::Gap { group: id, expected, found });
                }
            }
            member.fill_unknown();
            // What the state has and the log has not: others get it elsewhere.
            let missing = member.positions.last_lost(member.released());
            let ends_early = member.positions.last() < member.released();
            let missing = if ends_early { Some(member.released()) } else { missing };
            self.members_without_entries += u64::from(missing.is_some());
            if let Some(missing) = missing {
                member.trim(missing);
                state.changed = true;
            }
        }
        self.let_go(lost);
        Ok(())
    }

    /// The member is gone: its entries leave memory.
    pub(in crate::store) fn drop_replayed(&mut self, group: GroupOrdinal) {
        for handle in self.staged.of_group(group) {
            let entry = self.staged.remove(handle);
            self.overlay.abandon(entry.staged);
        }
    }

    /// Sets aside what the merge of entries will take that are not chosen yet; what is not to be had
    /// the merge looks for.
    pub(in crate::store) fn set_aside_staged(&mut self) {
        for entry in self.staged.iter_mut() {
            if !entry.runs.is_none() && !self.space.set_aside(entry.runs, true) {
                entry.runs = Runs::default();
            }
        }
    }
}
