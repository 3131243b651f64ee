//! Query and Scan: one page of items in key order.
//!
//! A page ends at the caller's limit, at 1 MB of items read, or at the end of the range. When the
//! walk meets an absent page, what was gathered so far waits with the request, and the walk goes on
//! behind the last key that it took.

use std::ops::Bound;

use forebay_core::expression::{ArchivedCondition, ArchivedProjection};
use forebay_core::item::ItemRef;
use forebay_core::key::{KeyBuf, KeyRef};
use forebay_core::limits::PAGE_ITEM_BYTES_MAX;
use forebay_core::message::{
    ArchivedQueryRequest, ArchivedScanRequest, ErrorCode, Lag, Lagging, PageReply,
};
use forebay_core::table::KeyType;
use forebay_storage::store::{GroupOrdinal, RangeEnd, Visit};
use rkyv::option::ArchivedOption;

use super::read::{Consistency, check_projection, damaged};
use super::refusal::Refusal;
use super::request::{Outcome, Progress};
use super::{Asker, Shard};

/// Builders kept for the next Query or Scan.
const PAGES_KEPT: usize = 16;

/// What a Query or Scan has gathered.
#[derive(Debug, Default)]
pub(super) struct PageBuilder {
    items: Vec<u8>,
    count: u32,
    scanned: u32,
    item_bytes: usize,
    /// The last key taken; empty before the first.
    last: Vec<u8>,
    error: Option<Refusal>,
    /// The largest of the states that were walked.
    lag: Lag,
}

impl PageBuilder {
    fn clear(&mut self) {
        self.items.clear();
        (self.count, self.scanned, self.item_bytes) = (0, 0, 0);
        self.last.clear();
        self.error = None;
        self.lag = Lag::NONE;
    }

    /// Whether a page with a resume key can be made of it.
    pub(super) fn is_started(&self) -> bool {
        !self.last.is_empty()
    }

    pub(super) fn held_bytes(&self) -> usize {
        self.items.len() + self.last.len()
    }

    fn take(
        &mut self,
        key: &[u8],
        item: &[u8],
        limit: u32,
        filter: Option<&ArchivedCondition>,
        projection: Option<&ArchivedProjection>,
    ) -> Visit {
        let view = ItemRef::trusted(item);
        self.scanned += 1;
        self.item_bytes += view.size_bytes();
        self.last.clear();
        self.last.extend_from_slice(key);
        match filter.map_or(Ok(true), |filter| filter.evaluate(Some(view))) {
            Ok(true) => {
                let at = self.items.len();
                self.items.extend_from_slice(&[0; 4]);
                if let Some(projection) = projection {
                    if let Err(error) = projection.apply_into(view, &mut self.items) {
                        self.error = Some(error.into());
                        return Visit::Stop;
                    }
                } else {
                    self.items.extend_from_slice(item);
                }
                let bytes = (self.items.len() - at - 4) as u32;
                self.items[at..at + 4].copy_from_slice(&bytes.to_le_bytes());
                self.count += 1;
            }
            Ok(false) => {}
            Err(error) => {
                self.error = Some(error.into());
                return Visit::Stop;
            }
        }
        if self.scanned == limit || self.item_bytes >= PAGE_ITEM_BYTES_MAX {
            Visit::Stop
        } else {
            Visit::Continue
        }
    }
}

/// A walk over part of a partition.
struct Walk<'a> {
    group: GroupOrdinal,
    consistency: Consistency,
    /// First encoded key of the range.
    from: &'a [u8],
    /// First encoded key behind the range; None is the end of the order.
    to: Option<&'a [u8]>,
    descending: bool,
    /// The caller's resume key.
    resume: Option<&'a [u8]>,
    limit: u32,
    filter: Option<&'a ArchivedCondition>,
    projection: Option<&'a ArchivedProjection>,
}

fn option<T>(archived: &ArchivedOption<T>) -> Option<&T> {
    archived.as_ref()
}

impl Shard {
    pub(super) fn query(
        &mut self,
        asker: Asker,
        request: &ArchivedQueryRequest<'_>,
        consistency: Consistency,
        progress: Option<Box<Progress>>,
    ) -> Result<Outcome, Refusal> {
        check_projection(&request.projection)?;
        if let Some(filter) = option(&request.filter) {
            filter.check()?;
        }
        let table = self.tables.get(request.table.to_native())?;
        let description = &table.description;
        description.schema.partition.key_type.value_of(&request.partition_key)?;
        let mut prefix = KeyBuf::default();
        prefix.set_partition(&description.hash_seed, &request.partition_key)?;
        let hash = prefix.as_key().hash();
        let mut from = prefix.as_bytes().to_vec();
        let bounded = match option(&request.sort_key) {
            Some(condition) => {
                let sort = description.schema.sort.as_ref().ok_or(Refusal::constant(
                    ErrorCode::InvalidRequest,
                    "the table has no sort key for the condition",
                ))?;
                condition.check(sort.key_type == KeyType::N)?;
                let mut to = prefix.as_bytes().to_vec();
                condition.append_lower(&mut from);
                condition.append_upper(&mut to);
                prefix.set_encoded(&to);
                true
            }
            None => prefix.advance_past_prefix(),
        };
        let to = bounded.then(|| prefix.as_bytes().to_vec());
        let group = table.group_for(hash, request.epoch.to_native())?;
        let resume = request.resume.as_ref().map(|key| key.get());
        if let Some(resume) = resume {
            let inside = KeyRef::validate(resume).is_ok_and(|key| {
                key.partition_key() == &request.partition_key[..] && key.hash() == hash
            });
            if !inside {
                return Err(Refusal::constant(
                    ErrorCode::InvalidRequest,
                    "the resume key is not of this partition key; use the one of the page before",
                ));
            }
        }
        let walk = Walk {
            group,
            consistency,
            from: &from,
            to: to.as_deref(),
            descending: request.descending,
            resume,
            limit: request.limit.to_native(),
            filter: option(&request.filter),
            projection: option(&request.projection),
        };
        self.walk(asker, &walk, progress, None)
    }

    pub(super) fn scan(
        &mut self,
        asker: Asker,
        request: &ArchivedScanRequest<'_>,
        consistency: Consistency,
        progress: Option<Box<Progress>>,
    ) -> Result<Outcome, Refusal> {
        check_projection(&request.projection)?;
        if let Some(filter) = option(&request.filter) {
            filter.check()?;
        }
        let (hash_first, hash_last) =
            (request.hash_first.to_native(), request.hash_last.to_native());
        let resume = request.resume.as_ref().map(|key| key.get());
        let start = match resume.map(KeyRef::validate) {
            None => hash_first,
            Some(Ok(key)) if (hash_first..=hash_last).contains(&key.hash()) => key.hash(),
            Some(_) => {
                return Err(Refusal::constant(
                    ErrorCode::InvalidRequest,
                    "the resume key is not in the segment; use the one of the page before",
                ));
            }
        };
        if hash_first > hash_last {
            return Err(Refusal::constant(ErrorCode::InvalidRequest, "an empty hash range"));
        }
        let table = self.tables.get(request.table.to_native())?;
        let (group, partition_last) = table.partition_for(start, request.epoch.to_native())?;
        let last = hash_last.min(partition_last);
        let next_hash = (last < hash_last).then(|| last + 1);
        let from = hash_first.to_be_bytes();
        let to = last.checked_add(1).map(u64::to_be_bytes);
        let walk = Walk {
            group,
            consistency,
            from: &from,
            to: to.as_ref().map(|to| &to[..]),
            descending: false,
            resume,
            limit: request.limit.to_native(),
            filter: option(&request.filter),
            projection: option(&request.projection),
        };
        self.walk(asker, &walk, progress, next_hash)
    }

    fn walk(
        &mut self,
        asker: Asker,
        walk: &Walk<'_>,
        progress: Option<Box<Progress>>,
        next_hash: Option<u64>,
    ) -> Result<Outcome, Refusal> {
        let lag = self.readable_as(walk.group, walk.consistency)?;
        let mut page = match progress.map(|progress| *progress) {
            Some(Progress::Page(page)) => page,
            _ => self.pages.pop().unwrap_or_default(),
        };
        page.lag = page.lag.max(lag);
        let behind = if page.last.is_empty() { walk.resume } else { Some(&page.last[..]) };
        let behind = behind.map(<[u8]>::to_vec);
        let (from, to) = match (&behind, walk.descending) {
            // A resume key outside the range must not widen it.
            (Some(key), false) if &key[..] >= walk.from => {
                (Bound::Excluded(&key[..]), end(walk.to))
            }
            (Some(key), true) if walk.to.is_none_or(|to| &key[..] < to) => {
                (Bound::Included(walk.from), Bound::Excluded(&key[..]))
            }
            (_, _) => (Bound::Included(walk.from), end(walk.to)),
        };
        let ended = self.store.range(walk.group, from, to, walk.descending, &mut |key, item| {
            page.take(key, item, walk.limit, walk.filter, walk.projection)
        });
        let more = match ended {
            RangeEnd::Wait(absent) => {
                return Ok(Outcome::Wait(absent, Some(Box::new(Progress::Page(page)))));
            }
            RangeEnd::Damaged => return Err(damaged()),
            RangeEnd::Stopped => true,
            RangeEnd::Exhausted => false,
        };
        if let Some(error) = page.error.take() {
            return Err(error);
        }
        self.reply_page(asker, page, more, next_hash);
        Ok(Outcome::Done)
    }

    /// Answers with what was gathered; `more` says that the range goes on behind it.
    pub(super) fn reply_page(
        &mut self,
        asker: Asker,
        mut page: PageBuilder,
        more: bool,
        next_hash: Option<u64>,
    ) {
        let reply = PageReply {
            items: &page.items,
            count: page.count,
            scanned_count: page.scanned,
            resume: more.then_some(&page.last[..]),
            next_hash: if more { None } else { next_hash },
        };
        if asker.eventual {
            let reply = Lagging { reply, lag: page.lag };
            self.connections.reply(asker.conn, asker.correlation, &reply);
        } else {
            self.connections.reply(asker.conn, asker.correlation, &reply);
        }
        self.answered(asker);
        page.clear();
        if self.pages.len() < PAGES_KEPT {
            self.pages.push(page);
        }
    }
}

fn end(to: Option<&[u8]>) -> Bound<&[u8]> {
    to.map_or(Bound::Unbounded, Bound::Excluded)
}
