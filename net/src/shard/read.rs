//! Get and BatchGet.

use forebay_core::expression::ArchivedProjection;
use forebay_core::item::ItemRef;
use forebay_core::limits::{BATCH_GET_ITEMS_MAX, FRAME_BYTES_MAX};
use forebay_core::message::{
    ArchivedBatchGetRequest, ArchivedGetRequest, BatchGetReply, ErrorCode, GetReply,
};
use forebay_storage::store::{GroupOrdinal, Read};
use rkyv::option::ArchivedOption;

use super::refusal::Refusal;
use super::request::Outcome;
use super::{Asker, Shard};

/// Item bytes in one BatchGet reply: DynamoDB's 16 MB, held within a frame.
const BATCH_GET_BYTES_MAX: usize = FRAME_BYTES_MAX - 64 * 1024;

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
    ) -> Result<Outcome, Refusal> {
        check_projection(&request.projection)?;
        let group =
            self.locate_key(request.table.to_native(), request.epoch.to_native(), &request.key)?;
        let item = match self.store.get(group, self.key.as_bytes()) {
            Read::Item(item) => Some(item),
            Read::Absent => None,
            Read::Wait(page) => return Ok(Outcome::Wait(page)),
            Read::Damaged => return Err(damaged()),
        };
        let (conn, correlation) = (asker.conn, asker.correlation);
        match (&request.projection, item) {
            (ArchivedOption::Some(projection), Some(item)) => {
                self.scratch.clear();
                projection.apply_into(ItemRef::trusted(item), &mut self.scratch)?;
                let reply = GetReply { item: Some(&self.scratch) };
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
    ) -> Result<Outcome, Refusal> {
        check_projection(&request.projection)?;
        if request.keys.is_empty() || request.keys.len() > BATCH_GET_ITEMS_MAX {
            return Err(Refusal::new(
                ErrorCode::InvalidRequest,
                format!("{} keys in a batch, 1 to {BATCH_GET_ITEMS_MAX}", request.keys.len()),
            ));
        }
        let (table, epoch) = (request.table.to_native(), request.epoch.to_native());
        let mut items = std::mem::take(&mut self.scratch);
        items.clear();
        let mut wait = None;
        for key in request.keys.iter() {
            let group = match self.locate_key(table, epoch, key) {
                Ok(group) => group,
                Err(refusal) => {
                    self.scratch = items;
                    return Err(refusal);
                }
            };
            // Every absent page is asked for at once; the batch runs again when the first is here.
            let at = items.len();
            items.extend_from_slice(&[0; 4]);
            match self.store.get(group, self.key.as_bytes()) {
                Read::Item(item) if at + 4 + item.len() <= BATCH_GET_BYTES_MAX => {
                    match &request.projection {
                        ArchivedOption::Some(projection) => {
                            projection.apply_into(ItemRef::trusted(item), &mut items)?;
                        }
                        ArchivedOption::None => items.extend_from_slice(item),
                    }
                    let item_bytes = (items.len() - at - 4) as u32;
                    items[at..at + 4].copy_from_slice(&item_bytes.to_le_bytes());
                }
                Read::Item(_) => items[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes()),
                Read::Absent => {}
                Read::Wait(page) => {
                    if let Some(other) = wait.replace(page) {
                        self.store.fetch(other);
                    }
                }
                Read::Damaged => {
                    self.scratch = items;
                    return Err(damaged());
                }
            }
        }
        if wait.is_none() {
            let reply = BatchGetReply { items: &items };
            self.connections.reply(asker.conn, asker.correlation, &reply);
            self.answered(asker);
        }
        self.scratch = items;
        Ok(wait.map_or(Outcome::Done, Outcome::Wait))
    }
}
