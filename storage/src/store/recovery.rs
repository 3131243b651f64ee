//! Opening a shard's storage: superblock, space map, catalog, log.
//!
//! ```text
//!   superblocks ─► newest valid ─► space map ─► catalog: every group with its tree's root
//!                      │
//!                      └► checkpoint_lsn ─► log scan ─► entries into the overlay ─► LogWriter
//! ```
//!
//! Trees are not read: their pages come into the cache when somebody asks. The time is that of one
//! pass over the log ring, whose size bounds it. In a group of one, durable is chosen, so every
//! entry that the scan delivers is applied; entries that the group's tree already has are skipped
//! by their slot.
//!
//! A log that is damaged where it is needed ends the opening in groups of one; members of replicated
//! groups are given up with it, and replaced ([`super::repair`]).
//!
//! It runs before anybody is served, on blocking I/O behind [`BlockingDisk`]: the shell's files, or
//! the simulated disk.

use std::collections::{HashMap, VecDeque};

use forebay_core::ids::{GroupId, Lsn, Slot};
use forebay_core::limits::{ENCODED_ITEM_BYTES_MAX, ENCODED_KEY_BYTES_MAX};
use forebay_core::time::Nanos;

use super::catalog::{CatalogEntry, catalog_group};
use super::checkpoint::Checkpoint;
use super::groups::{GroupState, Groups};
use super::members::{Carrier, StagedEntries};
use super::repair::Repair;
use super::room::{FIRST_BLOCKS, RESERVE_BLOCKS};
use super::scrub::Scrub;
use super::snapshot::Snapshots;
use super::{Store, StoreConfig, Ticket, ops};
use crate::block::{BLOCK_BYTES, BlockBuf, DiskDone, DiskError, DiskOp, OpId, ShardFile};
use crate::cache::{PageCache, ReadError, ReadStart};
use crate::log::format::PutPayload;
use crate::log::reader::SpareBufs;
use crate::log::{
    LogFailed, LogPoint, LogRecord, LogScan, LogWriter, RecordKind, RecoveredLog, ScanError,
    ScanStart, ScanStep, opening_block,
};
use crate::overlay::{InFlight, KeyHash, Overlay, OverlayConfig};
use crate::space::{Runs, SpaceError, SpaceMap, SpaceRoot};
use crate::superblock::{self, Chosen, LogGeometry, Superblock, SuperblockError};
use crate::tree::TreeRef;
use crate::tree::walk::{self, Cursor, Direction, Step};

/// Carries out one operation after the other.
pub trait BlockingDisk {
    /// Carries out `op` and returns its end.
    fn carry_out(&mut self, op: DiskOp) -> DiskDone;
}

/// Writes in flight that the store is made for.
const WRITES_IN_FLIGHT: usize = 16_384;

/// The part of the page cache that one item may take: its extent, the pages on its path, and those
/// of a merge are there at once.
const CACHE_SHARE: usize = 4;

/// How far recovery is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecoveryProgress {
    /// Log bytes read.
    pub done_bytes: u64,
    /// Log bytes to read.
    pub total_bytes: u64,
    /// Entries applied.
    pub entries: u64,
}

/// A store that is ready to serve.
#[derive(Debug)]
pub struct Opened {
    /// The store.
    pub store: Store,
    /// Something that the operator should know.
    pub warning: Option<String>,
}

/// Why a shard's storage could not be opened. The files are as they were.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Neither superblock is valid, or they are newer than this program.
    #[error(transparent)]
    Superblock(#[from] SuperblockError),
    /// The superblocks are blank but the log is not: they were lost. Restore the pages file.
    #[error("both superblocks are blank, but the log holds {log_bytes} bytes of batches")]
    SuperblocksLost {
        /// What the log holds.
        log_bytes: u64,
    },
    /// The files belong to another node: the directory was put together from two.
    #[error("the pages file belongs to node {found:032x}, the directory to {expected:032x}")]
    Foreign {
        /// The directory's node.
        expected: u128,
        /// The file's.
        found: u128,
    },
    /// The log's geometry is not the configured one.
    #[error("the log was made of {segments} segments of {segment_bytes} bytes; configure these")]
    Geometry {
        /// As made.
        segments: u32,
        /// As made.
        segment_bytes: u64,
    },
    /// The space map is lost or damaged.
    #[error(transparent)]
    Space(#[from] SpaceError),
    /// A page of the catalog is damaged or unreadable.
    #[error("the catalog: {0}")]
    Catalog(#[from] ReadError),
    /// A catalog entry is not one.
    #[error("the catalog has an entry that cannot be read")]
    CatalogEntry,
    /// The log is damaged or unreadable.
    #[error(transparent)]
    Log(#[from] ScanError),
    /// A group's slots in the log have a gap: damage that no checksum shows. Slot 0, which is the
    /// group's creation, is expected if nothing is known of the group.
    #[error("group {group}: the log has slot {found} where {expected} must follow")]
    Gap {
        /// The group.
        group: GroupId,
        /// The next slot.
        expected: Slot,
        /// The slot found.
        found: Slot,
    },
    /// A record's checksum is right, but it says what no writer of this version writes. Nothing was
    /// changed: run the program that wrote it, or restore the node from its peers or a copy.
    #[error(
        "the log's record at lsn {lsn} (group {group}, slot {slot}, kind {kind}, {payload_bytes} \
         bytes) has a right checksum but cannot be decoded: another program wrote it, or a fault \
         in this one; run the program that wrote it, or restore the data directory from a copy"
    )]
    Record {
        /// Of the record.
        lsn: Lsn,
        /// As it says.
        group: GroupId,
        /// As it says.
        slot: Slot,
        /// As it says; see [`RecordKind`].
        kind: u8,
        /// Bytes that could not be decoded.
        payload_bytes: usize,
    },
    /// The pages file is shorter than its superblock says, or its end cannot be read. Restore it;
    /// nothing was changed.
    #[error(
        "the pages file should have {file_blocks} blocks, but its last one cannot be read: {error}; \
         look at the device, or restore the file"
    )]
    PagesLength {
        /// As the superblock says.
        file_blocks: u64,
        /// What reading the last one came to.
        error: DiskError,
    },
    /// The entries of the log need more memory than there is.
    #[error("the log's entries do not fit the memory given: raise it to at least {bytes} bytes")]
    Memory {
        /// An estimate that suffices.
        bytes: u64,
    },
    /// The log is damaged, and there is no room to write down that the shard's members are lost: free
    /// disk space, then start again.
    #[error(
        "the log is damaged, and the disk has no room for the checkpoint that says which members are \
         lost with it: free some"
    )]
    NoRoomForLoss,
    /// The device failed.
    #[error("the pages file: {0}")]
    Disk(#[from] DiskError),
    /// The log's opening block could not be written: look at the device, then try again.
    #[error(transparent)]
    LogWrite(#[from] LogFailed),
    /// Memory for the page cache could not be had: lower it.
    #[error("memory for the page cache: {0}")]
    Cache(std::io::Error),
}

/// Opens the storage of the shard that `config.log` names, formatting it if it was never used.
/// `buffers` are the log's: as many and as large as its configuration says.
///
/// # Errors
/// See [`OpenError`]; nothing that was acknowledged was changed.
pub fn open(
    config: StoreConfig,
    node_id: u128,
    buffers: Vec<BlockBuf>,
    disk: &mut dyn BlockingDisk,
    now: Nanos,
    progress: &mut dyn FnMut(RecoveryProgress),
) -> Result<Opened, OpenError> {
    let blocks = [read_block(disk, 0)?, read_block(disk, 1)?];
    let chosen = match superblock::choose([&blocks[0], &blocks[1]], config.log.shard) {
        Ok(chosen) => Some(chosen),
        Err(SuperblockError::Blank { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    // What was read may be the bytes of unfinished writes in a volatile cache of the device (the
    // process was killed, the power stayed on). They will be built upon, so they must stay.
    disk.carry_out(DiskOp::Flush { op: OpId(0), file: ShardFile::Pages }).result?;
    let mut opening = Opening::new(config, node_id, chosen.as_ref(), disk)?;
    let mut lost = None;
    let recovered = match opening.replay(disk, progress) {
        Err(OpenError::Log(ScanError::Damage(damage))) if opening.has_peers() => {
            // What was read of the log before the damage is of no use either.
            opening = Opening::new(config, node_id, chosen.as_ref(), disk)?;
            lost = Some(damage);
            opening.lose_log(&damage)
        }
        other => other?,
    };
    if chosen.is_none() && (recovered.chain_bytes > 0 || recovered.cut.is_some()) {
        return Err(OpenError::SuperblocksLost { log_bytes: recovered.chain_bytes });
    }
    let mut warning = chosen.as_ref().and_then(|chosen| chosen.damage).map(|damage| {
        format!("{damage}; going on from the other one, which a crash during a checkpoint explains")
    });
    // What an earlier recovery cut may still lie there, and is no news.
    if let Some(cut) = recovered.cut.filter(|cut| cut.batches > cut.stale_batches) {
        let words = format!(
            "{} unacknowledged batch(es) beyond the log's end were cut ({})",
            cut.batches - cut.stale_batches,
            cut.bad
        );
        warning = Some(warning.map_or(words.clone(), |first| format!("{first}; {words}")));
    }
    if opening.history_lost {
        let words = "log batches before the checkpoint are damaged: members of replicated groups \
                     do not know what they accepted there, and get it from the others";
        warning = Some(warning.map_or(words.to_owned(), |first| format!("{first}; {words}")));
    }
    if let Some(damage) = lost {
        let words = format!(
            "{damage}; promises may have been in it, so no member of this shard takes part any more as \
             what it was: {} of them are replaced by new members, which go on from the last checkpoint \
             and fetch the rest. Look at the device",
            opening.members
        );
        warning = Some(warning.map_or(words.clone(), |first| format!("{first}; {words}")));
    }
    opening.set_aside(disk);
    let mut store = opening.into_store(&recovered, buffers, now);
    store.list_behind();
    if chosen.is_none() {
        store.format(disk, now)?;
    } else {
        if lost.is_some() {
            store.write_down_loss(disk, now)?;
        }
        store.mark_opening(disk)?;
    }
    Ok(Opened { store, warning })
}

fn read_block(disk: &mut dyn BlockingDisk, block: u64) -> Result<BlockBuf, DiskError> {
    let done = disk.carry_out(DiskOp::Read {
        op: OpId(0),
        file: ShardFile::Pages,
        offset_bytes: block * BLOCK_BYTES as u64,
        buf: BlockBuf::zeroed(1),
    });
    done.result?;
    Ok(done.buf.expect("a read brings its buffer back"))
}

fn root_of(superblock: &Superblock) -> SpaceRoot {
    SpaceRoot {
        checkpoint: superblock.checkpoint,
        file_blocks: superblock.file_blocks,
        digest: superblock.space_digest,
    }
}

/// A store in the making.
pub(super) struct Opening {
    pub(super) config: StoreConfig,
    node_id: u128,
    pub(super) superblock: Superblock,
    pub(super) trim_lsn: Lsn,
    pub(super) groups: Groups,
    pub(super) members: usize,
    pub(super) members_without_entries: u64,
    pub(super) staged: StagedEntries,
    /// Damaged batches before the checkpoint's point.
    pub(super) history_lost: bool,
    cache: PageCache,
    pub(super) space: SpaceMap,
    pub(super) overlay: Overlay,
    /// Of the entries replayed.
    pub(super) runs: Vec<Runs>,
}

impl Opening {
    fn new(
        config: StoreConfig,
        node_id: u128,
        chosen: Option<&Chosen>,
        disk: &mut dyn BlockingDisk,
    ) -> Result<Opening, OpenError> {
        let shard = config.log.shard;
        let cache = PageCache::new(shard, config.cache_bytes).map_err(OpenError::Cache)?;
        let overlay = Overlay::new(OverlayConfig::new(config.overlay_generation_bytes));
        let groups = Groups::default();
        let Some(Chosen { superblock, older, .. }) = chosen else {
            let superblock = blank(&config, node_id);
            let mut space = SpaceMap::new(shard);
            space.keep_reserve(RESERVE_BLOCKS);
            let trim_lsn = Lsn(0);
            return Ok(Opening {
                config,
                node_id,
                superblock,
                trim_lsn,
                groups,
                members: 0,
                members_without_entries: 0,
                staged: StagedEntries::default(),
                history_lost: false,
                cache,
                space,
                overlay,
                runs: Vec::new(),
            });
        };
        check(&config, node_id, superblock)?;
        // Before memory is taken for a map of that length.
        let file_blocks = superblock.file_blocks;
        if let Some(last) = file_blocks.checked_sub(1) {
            let read = read_block(disk, last);
            read.map_err(|error| OpenError::PagesLength { file_blocks, error })?;
        }
        let older_root = older.as_ref().map(root_of);
        let space = SpaceMap::load(shard, &root_of(superblock), older_root.as_ref(), |block| {
            read_block(disk, block).ok()
        })?;
        // Of a log that was given up since the older one, nothing is kept.
        let older = older.filter(|older| older.logs_lost == superblock.logs_lost);
        let trim_lsn = older.map_or(superblock.history_start(), |older| older.history_start());
        let mut opening = Opening {
            config,
            node_id,
            superblock: *superblock,
            trim_lsn,
            groups,
            members: 0,
            members_without_entries: 0,
            staged: StagedEntries::default(),
            history_lost: false,
            cache,
            space,
            overlay,
            runs: Vec::new(),
        };
        opening.load_catalog(disk)?;
        Ok(opening)
    }

    fn load_catalog(&mut self, disk: &mut dyn BlockingDisk) -> Result<(), OpenError> {
        let catalog = self.superblock.catalog;
        let mut cursor = Cursor::new(&[], None, Direction::Forward);
        loop {
            let missing = match cursor.next(&self.cache, &catalog) {
                Step::End => return Ok(()),
                Step::Missing(page) => page,
                Step::Entry { key, value } => {
                    let entry = match value {
                        crate::tree::Value::Inline(bytes) => Some(bytes),
                        crate::tree::Value::Overflow(extent) => {
                            match walk::overflow(&self.cache, &extent) {
                                Some(bytes) => Some(bytes),
                                None => {
                                    let key = key.to_vec();
                                    read_page(&mut self.cache, extent.page, disk)?;
                                    cursor.set(&key, None, Direction::Forward);
                                    continue;
                                }
                            }
                        }
                    };
                    let group = catalog_group(key);
                    let entry = entry.and_then(CatalogEntry::decode);
                    let (Some(group), Some(entry)) = (group, entry) else {
                        return Err(OpenError::CatalogEntry);
                    };
                    self.groups.insert(group, GroupState::from_catalog(group, entry));
                    continue;
                }
            };
            read_page(&mut self.cache, missing, disk)?;
        }
    }

    fn replay(
        &mut self,
        disk: &mut dyn BlockingDisk,
        progress: &mut dyn FnMut(RecoveryProgress),
    ) -> Result<RecoveredLog, OpenError> {
        let start = ScanStart {
            point: self.superblock.log_start,
            durable_lsn: self.superblock.durable_lsn,
        };
        let config = self.config.log;
        let mut scan = LogScan::new(config, start, ops::LOG);
        // What was in memory before the crash fits again: both generations, and what was in flight.
        self.overlay.set_generation_bytes_max(2 * config.capacity_bytes() as usize);
        self.replay_history(disk)?;
        let mut queue: VecDeque<DiskOp> = VecDeque::new();
        let mut begun = Vec::new();
        let mut applied = 0;
        let mut failed = None;
        loop {
            let step = scan.advance(&mut begun, |batch, record| {
                if failed.is_none() {
                    match self.replay_record(&record, batch) {
                        Ok(true) => applied += 1,
                        Ok(false) => {}
                        Err(error) => failed = Some(error),
                    }
                }
            })?;
            if let Some(error) = failed {
                return Err(error);
            }
            let at = scan.progress();
            progress(RecoveryProgress {
                done_bytes: at.bytes_scanned,
                total_bytes: at.bytes_total,
                entries: applied,
            });
            match step {
                ScanStep::Finished(recovered) => {
                    self.finish_members()?;
                    self.overlay.set_generation_bytes_max(self.config.overlay_generation_bytes);
                    return Ok(recovered);
                }
                ScanStep::Waiting => {
                    queue.extend(begun.drain(..));
                    let op = queue.pop_front().expect("a waiting scan has operations in flight");
                    scan.done(disk.carry_out(op));
                }
            }
        }
    }

    /// Applies a record that the checkpoint does not contain; false if there was nothing to apply.
    fn replay_record(&mut self, record: &LogRecord<'_>, batch: Lsn) -> Result<bool, OpenError> {
        let header = record.header;
        let known = self.groups.find(header.group);
        if known.is_some_and(|group| self.groups.get(group).member.is_some())
            && header.kind != RecordKind::GROUP_DROP
        {
            return self.replay_member(record, batch);
        }
        match header.kind {
            RecordKind::GROUP_CREATE => {
                if known.is_some() {
                    return Ok(false);
                }
                let mut state = GroupState::new(header.group, record.payload.to_vec());
                state.changed = true;
                self.groups.insert(header.group, state);
            }
            RecordKind::GROUP_DROP => {
                let Some(group) = known else { return Ok(false) };
                self.overlay.drop_group(group.0);
                self.drop_replayed(group);
                let state = self.groups.get_mut(group);
                state.dropped = true;
                state.drop_chosen = true;
                state.changed = true;
            }
            RecordKind::PUT | RecordKind::DELETE => {
                let (key, item) = entry_of(record).ok_or_else(|| undecodable(record))?;
                let Some(group) = known else {
                    // A group dropped before the checkpoint has no entries behind it.
                    let (group, found) = (header.group, header.slot);
                    return Err(OpenError::Gap { group, expected: Slot(0), found });
                };
                let state = self.groups.get_mut(group);
                // Dropped, or the tree has the entry.
                if state.dropped || header.slot <= state.progress.applied_slot() {
                    return Ok(false);
                }
                let expected = state.progress.propose();
                if header.slot != expected {
                    let (group, found) = (header.group, header.slot);
                    return Err(OpenError::Gap { group, expected, found });
                }
                state.progress.durable(0, expected);
                state.progress.apply(expected);
                state.changed = true;
                let staged =
                    self.overlay.stage(group.0, header.slot, key, item).map_err(|full| {
                        OpenError::Memory {
                            bytes: 8 * (full.active_bytes + full.needed_bytes) as u64,
                        }
                    })?;
                self.overlay.apply(staged, KeyHash::of(group.0, key));
                let runs = Runs::of(key, item);
                if !runs.is_none() {
                    self.runs.push(runs);
                }
            }
            RecordKind::DIGEST_MARK => return Ok(false),
            RecordKind::NO_OP
            | RecordKind::CONFIGURATION
            | RecordKind::PROMISE
            | RecordKind::BASE
            | RecordKind::CHOSEN
            | RecordKind::MEMBER_CREATE => return self.replay_member(record, batch),
            _ => return Err(undecodable(record)),
        }
        Ok(true)
    }

    /// Sets aside again what the entries had before the crash, the longest runs first. The file may
    /// have grown since the superblock, so growing it costs nothing then. What is not to be had the
    /// merge looks for.
    fn set_aside(&mut self, disk: &mut dyn BlockingDisk) {
        self.runs.sort_unstable();
        let mut refused = u64::MAX;
        while let Some(runs) = self.runs.pop() {
            while !self.space.set_aside(runs, true) && runs.longest() < refused {
                let grow = self.space.grow(runs.longest(), runs.blocks(), OpId(0));
                let grow = grow.expect("one growth at a time");
                if self.space.grown(disk.carry_out(grow).result).is_err() {
                    refused = runs.longest();
                }
            }
        }
        self.set_aside_staged();
        self.space.keep_reserve(RESERVE_BLOCKS);
    }

    fn into_store(self, recovered: &RecoveredLog, buffers: Vec<BlockBuf>, now: Nanos) -> Store {
        let entry_bytes_max = (self.config.log.record_bytes_max as usize - 2)
            .min(OverlayConfig::new(self.config.overlay_generation_bytes).entry_bytes_max())
            .min(self.cache.blocks() / CACHE_SHARE * BLOCK_BYTES);
        let members = self.groups.iter().filter(|(_, state)| !state.dropped);
        let history_bytes =
            members.filter_map(|(_, state)| Some(state.member.as_ref()?.history_bytes())).sum();
        let log = LogWriter::new(self.config.log, recovered, self.trim_lsn, ops::LOG, buffers);
        Store {
            config: self.config,
            node_id: self.node_id,
            log,
            overlay: self.overlay,
            in_flight: InFlight::with_capacity(WRITES_IN_FLIGHT),
            pending: VecDeque::with_capacity(WRITES_IN_FLIGHT),
            last_ticket: Ticket::default(),
            chosen_ticket: Ticket::default(),
            groups: self.groups,
            members: self.members,
            staged: self.staged,
            appends: VecDeque::new(),
            appended_lsn: Lsn(0),
            history_bytes,
            members_without_entries: self.members_without_entries,
            carrier: Carrier::default(),
            staged_count: 0,
            reads: Vec::new(),
            spare_bufs: SpareBufs::default(),
            past_entries: Vec::new(),
            snapshots: Snapshots::default(),
            persisted: Vec::new(),
            applied: Vec::new(),
            checkpointed: Vec::new(),
            cache: self.cache,
            space: self.space,
            catalog: self.superblock.catalog,
            checkpoint: Checkpoint::new(self.superblock.checkpoint, now),
            superblock: self.superblock,
            disk: Vec::new(),
            loaded: Vec::new(),
            unread: Vec::new(),
            damaged: HashMap::new(),
            repair: Repair::opened(self.superblock.logs_lost, u64::from(self.history_lost)),
            scrub: Scrub::default(),
            entry_bytes_max,
            op_issued: ops::OTHER,
            failure: None,
            closing: false,
            last_write_at: now,
            page_read_errors: 0,
            wrong_pages: 0,
            watched: None,
        }
    }
}

/// Key and item of a Put's or a Delete's payload, if it is one.
pub(super) fn entry_of<'a>(record: &LogRecord<'a>) -> Option<(&'a [u8], Option<&'a [u8]>)> {
    let (key, item) = match record.header.kind {
        RecordKind::PUT => {
            let put = PutPayload::decode(record.payload)?;
            (put.key, Some(put.item))
        }
        _ => (record.payload, None),
    };
    let fits = key.len() <= ENCODED_KEY_BYTES_MAX
        && item.is_none_or(|item| item.len() <= ENCODED_ITEM_BYTES_MAX);
    fits.then_some((key, item))
}

pub(super) fn undecodable(record: &LogRecord<'_>) -> OpenError {
    let LogRecord { lsn, header, payload } = record;
    OpenError::Record {
        lsn: *lsn,
        group: header.group,
        slot: header.slot,
        kind: header.kind.0,
        payload_bytes: payload.len(),
    }
}

/// What a shard that never had a checkpoint goes by.
fn blank(config: &StoreConfig, node_id: u128) -> Superblock {
    Superblock {
        node: node_id,
        shard: config.log.shard,
        checkpoint: 0,
        log_start: LogPoint::default(),
        history_bytes: 0,
        durable_lsn: Lsn(0),
        log: LogGeometry::of(&config.log),
        catalog: TreeRef::EMPTY,
        file_blocks: 0,
        space_digest: 0,
        logs_lost: 0,
    }
}

fn check(config: &StoreConfig, node_id: u128, superblock: &Superblock) -> Result<(), OpenError> {
    if superblock.node != node_id {
        return Err(OpenError::Foreign { expected: node_id, found: superblock.node });
    }
    let made = superblock.log;
    if made != LogGeometry::of(&config.log) {
        return Err(OpenError::Geometry {
            segments: made.segments,
            segment_bytes: made.segment_bytes,
        });
    }
    Ok(())
}

fn read_page(
    cache: &mut PageCache,
    page: crate::tree::PageRef,
    disk: &mut dyn BlockingDisk,
) -> Result<(), OpenError> {
    match cache.begin_read(&page, OpId(ops::OTHER)) {
        ReadStart::Started(op) => {
            cache.finish_read(disk.carry_out(op))?;
        }
        ReadStart::Cached => {}
        ReadStart::InFlight(_) | ReadStart::Full => {
            unreachable!("one read at a time, and nothing is dirty")
        }
    }
    Ok(())
}

impl Store {
    /// From now on nothing that the recovery cut can come back: the log's Rule (opening block). A
    /// shard that never had a checkpoint never wrote to its log.
    fn mark_opening(&mut self, disk: &mut dyn BlockingDisk) -> Result<(), LogFailed> {
        let (point, op) = (self.log.durable_point(), self.next_op());
        match opening_block(&self.config.log, point, self.log.trim_lsn(), op) {
            Some(write) => disk
                .carry_out(write)
                .result
                .map_err(|error| LogFailed { lsn: point.lsn, errno: error.errno }),
            None => Ok(()),
        }
    }

    /// Writes the first checkpoint of a shard that was never used, so that from now on blank
    /// superblocks mean that they were lost.
    fn format(&mut self, disk: &mut dyn BlockingDisk, now: Nanos) -> Result<(), OpenError> {
        while self.space.file_blocks() == 0 {
            let op = self.next_op();
            let grow = self.space.grow(FIRST_BLOCKS, FIRST_BLOCKS, op);
            let grow = grow.expect("one growth at a time");
            self.space.grown(disk.carry_out(grow).result)?;
        }
        while self.checkpoint.number() == 0 {
            self.turn_alone(disk, now)?;
        }
        Ok(())
    }

    /// A turn before anybody is served, and what it wants of the disk. Whether that was anything.
    pub(super) fn turn_alone(
        &mut self,
        disk: &mut dyn BlockingDisk,
        now: Nanos,
    ) -> Result<bool, OpenError> {
        let mut begun = Vec::new();
        self.turn(now, &mut begun);
        let any = !begun.is_empty();
        for op in begun {
            let done = disk.carry_out(op);
            let result = done.result;
            self.disk_done(done, now);
            if self.failure.is_some() {
                result?;
            }
        }
        Ok(any)
    }
}
