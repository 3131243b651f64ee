//! Get and BatchGet.

use forebay_core::expression::ArchivedProjection;
use forebay_core::item::ItemRef;
use forebay_core::limits::{BATCH_GET_ITEMS_MAX, FRAME_BYTES_MAX};
use forebay_core::message::{
    ArchivedBatchGetRequest, ArchivedGetRequest, BatchGetReply, ErrorCode, GetReply, Lag, Lagging,
};
use forebay_storage::store::{GroupOrdinal, Read};
use forebay_storage::tree::PageRef;
use rkyv::option::ArchivedOption;
use rkyv::rend::u32_le;

use super::refusal::Refusal;
use super::request::{Outcome, Progress};
use super::{Asker, Shard};

/// Item bytes in one BatchGet reply: DynamoDB's 16 MB, held within a frame.
const BATCH_GET_BYTES_MAX: usize = FRAME_BYTES_MAX - 64 * 1024;

/// Keys whose pages are fetched while a BatchGet waits for one.
const BATCH_GET_AHEAD: usize = 16;

/// What a BatchGet has gathered: the items of its first `next` keys.
#[derive(Debug)]
pub(super) struct Gets {
    pub(super) items: Vec<u8>,
    next: usize,
    lag: Lag,
}

/// What a read asks of the state that it is answered from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Consistency {
    /// Everything that was acknowledged before: the leader's, under its lease.
    Strong,
    /// Any storage replica's, no older than this.
    Within {
        /// 0: any age.
        millis: u32,
    },
}

impl Consistency {
    /// By the flag of a read's first version.
    pub(super) fn asked(consistent: bool) -> Consistency {
        if consistent { Consistency::Strong } else { Consistency::Within { millis: 0 } }
    }

    pub(super) fn within(millis: u32_le) -> Consistency {
        Consistency::Within { millis: millis.to_native() }
    }
}

pub(super) fn damaged() -> Refusal {
    Refusal::constant(
        ErrorCode::Damaged,
        "the item's page fails its checksum on this node's disk; it is not served",
    )
}

pub(super) fn check_projection(
    projection: &ArchivedOption<ArchivedProjection>,
) -> Result<(), Refusal> {
    match projection {
        ArchivedOption::Some(projection) => projection.check().map_err(Refusal::from),
        ArchivedOption::None => Ok(()),
    }
}

impl Shard {
    /// Leaves the encoded key in `self.key` and finds its group.
    pub(super) fn locate_key(
        &mut self,
        table: u64,
        epoch: u64,
        key: &[u8],
    ) -> Result<GroupOrdinal, Refusal> {
        let key = ItemRef::validate(key)?;
        let table = self.tables.get(table)?;
        let description = &table.description;
        description.schema.extract_from_key(&description.hash_seed, key, &mut self.key)?;
        table.group_for(self.key.as_key().hash(), epoch)
    }

    pub(super) fn get(
        &mut self,
        asker: Asker,
        request: &ArchivedGetRequest<'_>,
        consistency: Consistency,
    ) -> Result<Outcome, Refusal> {
        check_projection(&request.projection)?;
        let group =
            self.locate_key(request.table.to_native(), request.epoch.to_native(), &request.key)?;
        let lag = self.readable_as(group, consistency)?;
        let item = match self.store.get(group, self.key.as_bytes()) {
            Read::Item(item) => Some(item),
            Read::Absent => None,
            Read::Wait(page) => return Ok(Outcome::Wait(page, None)),
            Read::Damaged => return Err(damaged()),
        };
        let (conn, correlation) = (asker.conn, asker.correlation);
        match (&request.projection, item) {
            (ArchivedOption::Some(projection), Some(item)) => {
                self.scratch.clear();
                projection.apply_into(ItemRef::trusted(item), &mut self.scratch)?;
                let reply = GetReply { item: Some(&self.scratch) };
                if asker.eventual {
                    self.connections.reply(conn, correlation, &Lagging { reply, lag });
                } else {
                    self.connections.reply(conn, correlation, &reply);
                }
            }
            (_, item) if asker.eventual => {
                let reply = Lagging { reply: GetReply { item }, lag };
                self.connections.reply(conn, correlation, &reply);
            }
            (_, item) => self.connections.reply(conn, correlation, &GetReply { item }),
        }
        self.answered(asker);
        Ok(Outcome::Done)
    }

    pub(super) fn batch_get(
        &mut self,
        asker: Asker,
        request: &ArchivedBatchGetRequest<'_>,
        consistency: Consistency,
        progress: Option<Box<Progress>>,
    ) -> Result<Outcome, Refusal> {
        check_projection(&request.projection)?;
        if request.keys.is_empty() || request.keys.len() > BATCH_GET_ITEMS_MAX {
            return Err(Refusal::new(
                ErrorCode::InvalidRequest,
                format!("{} keys in a batch, 1 to {BATCH_GET_ITEMS_MAX}", request.keys.len()),
            ));
        }
        let mut gets = match progress.map(|progress| *progress) {
            Some(Progress::Gets(gets)) => gets,
            _ => {
                let mut items = std::mem::take(&mut self.scratch);
                items.clear();
                Gets { items, next: 0, lag: Lag::NONE }
            }
        };
        match self.gather(request, consistency, &mut gets)? {
            Some(page) => Ok(Outcome::Wait(page, Some(Box::new(Progress::Gets(gets))))),
            None => {
                let (lag, reply) = (gets.lag, BatchGetReply { items: &gets.items });
                if asker.eventual {
                    let reply = Lagging { reply, lag };
                    self.connections.reply(asker.conn, asker.correlation, &reply);
                } else {
                    self.connections.reply(asker.conn, asker.correlation, &reply);
                }
                self.answered(asker);
                self.scratch = gets.items;
                Ok(Outcome::Done)
            }
        }
    }

    /// Adds the items of the keys from `gets.next` on; the page that is missing, if one is.
    fn gather(
        &mut self,
        request: &ArchivedBatchGetRequest<'_>,
        consistency: Consistency,
        gets: &mut Gets,
    ) -> Result<Option<PageRef>, Refusal> {
        let (table, epoch) = (request.table.to_native(), request.epoch.to_native());
        while let Some(key) = request.keys.get(gets.next) {
            let group = self.locate_key(table, epoch, key)?;
            gets.lag = gets.lag.max(self.readable_as(group, consistency)?);
            let items = &mut gets.items;
            match self.store.get(group, self.key.as_bytes()) {
                Read::Item(item) if items.len() + 4 + item.len() <= BATCH_GET_BYTES_MAX => {
                    let at = items.len();
                    items.extend_from_slice(&[0; 4]);
                    match &request.projection {
                        ArchivedOption::Some(projection) => {
                            projection.apply_into(ItemRef::trusted(item), items)?;
                        }
                        ArchivedOption::None => items.extend_from_slice(item),
                    }
                    let item_bytes = (items.len() - at - 4) as u32;
                    items[at..at + 4].copy_from_slice(&item_bytes.to_le_bytes());
                }
                Read::Item(_) => items.extend_from_slice(&u32::MAX.to_le_bytes()),
                Read::Absent => items.extend_from_slice(&[0; 4]),
                Read::Wait(page) => {
                    self.store.fetch(page);
                    self.fetch_ahead(request, gets.next + 1);
                    return Ok(Some(page));
                }
                Read::Damaged => return Err(damaged()),
            }
            gets.next += 1;
        }
        Ok(None)
    }

    /// Has the pages of the next few keys read while the batch waits for one.
    fn fetch_ahead(&mut self, request: &ArchivedBatchGetRequest<'_>, from: usize) {
        let (table, epoch) = (request.table.to_native(), request.epoch.to_native());
        for key in request.keys.iter().skip(from).take(BATCH_GET_AHEAD) {
            let Ok(group) = self.locate_key(table, epoch, key) else { return };
            if let Read::Wait(page) = self.store.get(group, self.key.as_bytes()) {
                self.store.fetch(page);
            }
        }
    }
}
