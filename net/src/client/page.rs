//! Query and Scan: pages of items, and walking through them.
//!
//! The node ends a page at the limit, at 1 MB of items read, or at a partition's end, so a page may
//! be short or empty although more follows; only a page without a resume key is the last.

use std::time::Duration;

use forebay_core::expression::{Condition, ExpressionError, Projection};
use forebay_core::item::{Item, Value};
use forebay_core::key::{KEY_HASH_BYTES, KeyBuf, KeyPart, KeyRef};
use forebay_core::message::{
    ArchivedLagging, ArchivedPageReply, Eventual, Kind, PageReply, QueryRequest, ScanRequest,
};

use super::cluster;
use super::deadline::Deadline;
use super::error::{ClientError, ProtocolError};
use super::expression::{IntoCondition, IntoProjection, SortKey, key_bytes};
use super::read::{ReadLag, staleness_millis};
use super::table::Table;
use super::wire::{Lengths, Received, Request, item};

/// Segments that one scan may have, as DynamoDB allows.
const SEGMENTS_MAX: u64 = 1_000_000;

/// Where the next page begins. Opaque, but stable: it may be kept as bytes and used later by any
/// client, in the same read of the same table.
///
/// | bytes | meaning |
/// |---|---|
/// | 8 | a scan goes on at this hash, big-endian: the first of the next partition |
/// | 12.. | after this encoded key ([`forebay_core::key`]) |
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resume {
    bytes: Vec<u8>,
}

impl Resume {
    /// The bytes to keep.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// From bytes that were kept.
    ///
    /// # Errors
    /// If the bytes are no resume key.
    pub fn from_bytes(bytes: &[u8]) -> Result<Resume, ClientError> {
        if bytes.len() != KEY_HASH_BYTES && KeyRef::validate(bytes).is_err() {
            return Err(ClientError::InvalidResume);
        }
        Ok(Resume { bytes: bytes.to_vec() })
    }

    fn place(&self) -> Start<'_> {
        match self.bytes.first_chunk::<KEY_HASH_BYTES>() {
            Some(hash) if self.bytes.len() == KEY_HASH_BYTES => {
                Start::From(u64::from_be_bytes(*hash))
            }
            _ => Start::After(KeyRef::trusted(&self.bytes)),
        }
    }
}

enum Start<'a> {
    From(u64),
    After(KeyRef<'a>),
}

/// A page of items.
#[derive(Clone, Debug, PartialEq)]
pub struct Page {
    /// Those that passed the filter.
    pub items: Vec<Item>,
    /// How many were read, before the filter.
    pub scanned_count: u32,
    /// Where to go on; None if this is the last page.
    pub resume: Option<Resume>,
    /// Of the state that it was read from.
    pub lag: ReadLag,
}

impl Page {
    fn read(received: &Received, consistent: bool) -> Result<Page, ProtocolError> {
        let malformed = ProtocolError::Malformed { kind: Kind::PageReply as u16 };
        let (reply, lag): (&ArchivedPageReply<'_>, ReadLag) = if consistent {
            (received.message(Kind::PageReply)?, ReadLag::NONE)
        } else {
            let answer = received.eventual::<ArchivedLagging<PageReply<'_>>>(Kind::PageReply)?;
            (&answer.reply, ReadLag::from(&answer.lag))
        };
        let mut encoded = Lengths::new(reply.items.get());
        let mut items = Vec::new();
        while !encoded.is_empty() {
            let bytes = encoded.length().and_then(|length| encoded.bytes(length));
            items.extend(item(Some(bytes.ok_or(malformed)?), Kind::PageReply)?);
        }
        if items.len() != reply.count.to_native() as usize {
            return Err(malformed);
        }
        let after = reply.resume.as_ref().map(|key| key.get().to_vec());
        if after.as_ref().is_some_and(|key| KeyRef::validate(key).is_err()) {
            return Err(malformed);
        }
        let from = reply.next_hash.as_ref().map(|hash| hash.to_native().to_be_bytes().to_vec());
        let resume = after.or(from).map(|bytes| Resume { bytes });
        Ok(Page { items, scanned_count: reply.scanned_count.to_native(), resume, lag })
    }
}

/// What Query and Scan have in common.
#[derive(Clone, Debug)]
struct Options {
    limit: u32,
    filter: Result<Option<Condition>, ExpressionError>,
    projection: Result<Option<Projection>, ExpressionError>,
    resume: Option<Resume>,
    consistent: bool,
    staleness_max: Option<Duration>,
    timeout: Option<Duration>,
}

impl Options {
    fn new() -> Options {
        Options {
            limit: 0,
            filter: Ok(None),
            projection: Ok(None),
            resume: None,
            consistent: true,
            staleness_max: None,
            timeout: None,
        }
    }
}

impl Options {
    /// Asks for one page, in the words that the wanted consistency takes.
    async fn ask<R>(
        &self,
        table: &Table,
        place: cluster::Place,
        read: R,
        deadline: Deadline,
    ) -> Result<Page, ClientError>
    where
        R: Request,
        Eventual<R>: Request,
    {
        let client = table.client();
        let received = if self.consistent {
            client.call(place, &read, deadline).await?
        } else {
            let staleness_max_millis = staleness_millis(self.staleness_max);
            client.read(place, &Eventual { read, staleness_max_millis }, false, deadline).await?
        };
        Page::read(&received, self.consistent).map_err(ClientError::Protocol)
    }
}

macro_rules! option_methods {
    () => {
        /// Reads at most so many items for a page, before the filter.
        pub fn limit(mut self, limit: u32) -> Self {
            self.options.limit = limit;
            self
        }

        /// Returns only items for which this holds.
        pub fn filter(mut self, filter: impl IntoCondition) -> Self {
            self.options.filter = filter.into_condition().map(Some);
            self
        }

        /// Returns only these attributes.
        pub fn projection(mut self, projection: impl IntoProjection) -> Self {
            self.options.projection = projection.into_projection().map(Some);
            self
        }

        /// Begins where an earlier page ended.
        pub fn resume(mut self, resume: Resume) -> Self {
            self.options.resume = Some(resume);
            self
        }

        /// Whether to see every write that was acknowledged before (the default). Otherwise a replica
        /// may answer that lags a little; [`Page::lag`] says how much.
        pub fn consistent(mut self, consistent: bool) -> Self {
            self.options.consistent = consistent;
            self
        }

        /// Lets any replica answer whose state is certainly no older than this.
        pub fn staleness_max(mut self, max: Duration) -> Self {
            (self.options.consistent, self.options.staleness_max) = (false, Some(max));
            self
        }

        /// How long each page may take in all, instead of the client's `request_timeout`.
        pub fn timeout(mut self, timeout: Duration) -> Self {
            self.options.timeout = Some(timeout);
            self
        }
    };
}

/// A read of one partition key's items.
#[derive(Clone, Debug)]
#[must_use = "nothing happens until it is sent"]
pub struct Query<'a> {
    table: &'a Table,
    partition_key: Value,
    sort_key: Option<SortKey>,
    descending: bool,
    options: Options,
}

impl<'a> Query<'a> {
    pub(super) fn new(table: &'a Table, partition_key: Value) -> Query<'a> {
        Query { table, partition_key, sort_key: None, descending: false, options: Options::new() }
    }

    option_methods!();

    /// Reads only items with such sort keys.
    pub fn sort_key(mut self, condition: SortKey) -> Self {
        self.sort_key = Some(condition);
        self
    }

    /// Largest sort key first.
    pub fn descending(mut self) -> Self {
        self.descending = true;
        self
    }

    /// Reads one page.
    pub async fn send(self) -> Result<Page, ClientError> {
        self.page(self.options.resume.as_ref()).await
    }

    /// Reads page after page.
    pub fn pages(self) -> Pages<'a> {
        Pages::new(Read::Query(self))
    }

    /// Reads item after item.
    pub fn items(self) -> Items<'a> {
        self.pages().items()
    }

    async fn page(&self, resume: Option<&Resume>) -> Result<Page, ClientError> {
        let (table, mut route) = (self.table, self.table.route());
        let deadline = table.deadline_of(self.options.timeout);
        let resume = match resume.map(Resume::place) {
            None => None,
            Some(Start::After(key)) => Some(key.as_bytes()),
            Some(Start::From(_)) => return Err(ClientError::InvalidResume),
        };
        let mut prefix = KeyBuf::new();
        loop {
            let schema = &route.description.schema;
            let value = key_bytes(&schema.partition, KeyPart::Partition, &self.partition_key)?;
            prefix.set_partition(&route.description.hash_seed, &value)?;
            if resume.is_some_and(|key| !key.starts_with(prefix.as_bytes())) {
                return Err(ClientError::InvalidResume);
            }
            let sort_key = self.sort_key.as_ref().map(|condition| condition.compile(schema));
            let target = route.of_hash(prefix.as_key().hash());
            let request = QueryRequest {
                table: route.id(),
                epoch: target.epoch,
                partition_key: &value,
                sort_key: sort_key.transpose()?,
                descending: self.descending,
                limit: self.options.limit,
                filter: self.options.filter.clone()?,
                projection: self.options.projection.clone()?,
                resume,
                consistent: self.options.consistent,
            };
            match self.options.ask(table, target.place, request, deadline).await {
                Ok(page) => return Ok(page),
                Err(error) if table.refresh(&mut route, &error, deadline).await? => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// A read of a whole table, or of one segment of it.
#[derive(Clone, Debug)]
#[must_use = "nothing happens until it is sent"]
pub struct Scan<'a> {
    table: &'a Table,
    segment: (u64, u64),
    options: Options,
}

impl<'a> Scan<'a> {
    pub(super) fn new(table: &'a Table) -> Scan<'a> {
        Scan { table, segment: (0, 1), options: Options::new() }
    }

    option_methods!();

    /// Reads only segment `segment` (from 0) of `segments` about equal ones, which may be read in
    /// parallel.
    pub fn segment(mut self, segment: u64, segments: u64) -> Self {
        self.segment = (segment, segments);
        self
    }

    /// Reads one page.
    pub async fn send(self) -> Result<Page, ClientError> {
        self.page(self.options.resume.as_ref()).await
    }

    /// Reads page after page.
    pub fn pages(self) -> Pages<'a> {
        Pages::new(Read::Scan(self))
    }

    /// Reads item after item.
    pub fn items(self) -> Items<'a> {
        self.pages().items()
    }

    async fn page(&self, resume: Option<&Resume>) -> Result<Page, ClientError> {
        let (table, mut route) = (self.table, self.table.route());
        let deadline = table.deadline_of(self.options.timeout);
        let (mut hash_first, hash_last) = segment_hashes(self.segment)?;
        let (start, resume) = match resume.map(Resume::place) {
            None => (hash_first, None),
            Some(Start::From(hash)) => (hash, None),
            Some(Start::After(key)) => (key.hash(), Some(key.as_bytes())),
        };
        if !(hash_first..=hash_last).contains(&start) {
            return Err(ClientError::InvalidResume);
        }
        if resume.is_none() {
            hash_first = start;
        }
        loop {
            let target = route.of_hash(start);
            let request = ScanRequest {
                table: route.id(),
                epoch: target.epoch,
                hash_first,
                hash_last,
                limit: self.options.limit,
                filter: self.options.filter.clone()?,
                projection: self.options.projection.clone()?,
                resume,
            };
            match self.options.ask(table, target.place, request, deadline).await {
                Ok(page) => return Ok(page),
                Err(error) if table.refresh(&mut route, &error, deadline).await? => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// First and last hash of a segment, as [`forebay_core::table::split_evenly`] cuts them, without
/// making all of them.
fn segment_hashes((segment, segments): (u64, u64)) -> Result<(u64, u64), ClientError> {
    if segment >= segments || segments > SEGMENTS_MAX {
        return Err(ClientError::InvalidSegment { segment, segments, limit: SEGMENTS_MAX });
    }
    let start = |segment: u64| (u128::from(segment) << 64) / u128::from(segments);
    Ok((start(segment) as u64, (start(segment + 1) - 1) as u64))
}

#[derive(Clone, Debug)]
enum Read<'a> {
    Query(Query<'a>),
    Scan(Scan<'a>),
}

/// Page after page of a Query or Scan.
#[derive(Clone, Debug)]
pub struct Pages<'a> {
    read: Read<'a>,
    resume: Option<Resume>,
    done: bool,
}

impl<'a> Pages<'a> {
    fn new(read: Read<'a>) -> Pages<'a> {
        let resume = match &read {
            Read::Query(query) => query.options.resume.clone(),
            Read::Scan(scan) => scan.options.resume.clone(),
        };
        Pages { read, resume, done: false }
    }

    /// The next page; None after the last. After an error the same page can be asked for again.
    pub async fn next(&mut self) -> Result<Option<Page>, ClientError> {
        if self.done {
            return Ok(None);
        }
        let page = match &self.read {
            Read::Query(query) => query.page(self.resume.as_ref()).await?,
            Read::Scan(scan) => scan.page(self.resume.as_ref()).await?,
        };
        self.done = page.resume.is_none();
        self.resume.clone_from(&page.resume);
        Ok(Some(page))
    }

    /// Where the next page begins; None before the first and after the last.
    #[must_use]
    pub fn position(&self) -> Option<&Resume> {
        self.resume.as_ref()
    }

    /// Item after item.
    #[must_use]
    pub fn items(self) -> Items<'a> {
        Items { pages: self, page: Vec::new().into_iter() }
    }
}

/// Item after item of a Query or Scan; one page is in memory at a time.
#[derive(Clone, Debug)]
pub struct Items<'a> {
    pages: Pages<'a>,
    page: std::vec::IntoIter<Item>,
}

impl Items<'_> {
    /// The next item; None after the last. After an error the same item can be asked for again.
    pub async fn next(&mut self) -> Result<Option<Item>, ClientError> {
        loop {
            if let Some(item) = self.page.next() {
                return Ok(Some(item));
            }
            match self.pages.next().await? {
                Some(page) => self.page = page.items.into_iter(),
                None => return Ok(None),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use forebay_core::table::split_evenly;

    use super::*;

    #[test]
    fn segments_are_those_of_the_server() {
        for segments in [1, 2, 3, 7, 64, 1000] {
            for (segment, hashes) in split_evenly(segments).into_iter().enumerate() {
                assert_eq!(segment_hashes((segment as u64, segments)).unwrap(), hashes);
            }
        }
        for bad in [(0, 0), (3, 3), (0, SEGMENTS_MAX + 1)] {
            assert!(segment_hashes(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_resume_key_survives_as_bytes_and_other_bytes_are_refused() {
        let mut key = KeyBuf::new();
        key.set(&[7; 16], b"user", b"2024").unwrap();
        for bytes in [key.as_bytes(), &7u64.to_be_bytes()] {
            assert_eq!(Resume::from_bytes(bytes).unwrap().as_bytes(), bytes);
        }
        for bytes in [&[][..], &[0; 7], &[0; 9], &[0; 12]] {
            assert!(matches!(Resume::from_bytes(bytes), Err(ClientError::InvalidResume)));
        }
    }
}
