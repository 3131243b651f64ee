//! A table as the client knows it: the description, and the way from a key to a shard.

use std::borrow::Cow;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use forebay_core::item::{Item, ItemRef, Value};
use forebay_core::key::{KeyBuf, KeyError};
use forebay_core::table::TableDescription;
use tokio::time::timeout_at;

use super::Client;
use super::IntoUpdate;
use super::batch::{self, BatchGet, BatchResult, BatchWrite};
use super::cluster::Place;
use super::deadline::Deadline;
use super::error::ClientError;
use super::page::{Query, Scan};
use super::read::Get;
use super::write::{Delete, Put, Update};

/// One table's description, shared by all who use the table.
#[derive(Debug)]
pub(super) struct Known {
    name: String,
    current: RwLock<Arc<TableDescription>>,
    /// Held while the description is read again, so that callers share one reading.
    refreshing: tokio::sync::Mutex<()>,
}

impl Known {
    pub(super) fn new(description: TableDescription) -> Known {
        Known {
            name: description.name.clone(),
            current: RwLock::new(Arc::new(description)),
            refreshing: tokio::sync::Mutex::new(()),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn replace(&self, description: Arc<TableDescription>) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = description;
    }

    fn current(&self) -> Arc<TableDescription> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Where a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Target {
    pub(super) place: Place,
    pub(super) epoch: u64,
}

/// The description that one operation goes by. It is read again once at most.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) description: Arc<TableDescription>,
    refreshed: bool,
}

impl Route {
    /// The table's id on the wire.
    pub(super) fn id(&self) -> u64 {
        self.description.id.0
    }

    pub(super) fn of_hash(&self, hash: u64) -> Target {
        let partition = self.description.partition_of(hash);
        Target {
            place: Place { group: partition.group, shard: partition.shard },
            epoch: partition.epoch,
        }
    }

    /// Leaves the encoded key of an item to store in `key`.
    pub(super) fn of_item(&self, item: &[u8], key: &mut KeyBuf) -> Result<Target, KeyError> {
        let description = &*self.description;
        let item = ItemRef::trusted(item);
        description.schema.extract_from_item(&description.hash_seed, item, key)?;
        Ok(self.of_hash(key.as_key().hash()))
    }

    /// Leaves the encoded key that `key_item` names in `key`.
    pub(super) fn of_key(&self, key_item: &[u8], key: &mut KeyBuf) -> Result<Target, KeyError> {
        let description = &*self.description;
        let item = ItemRef::trusted(key_item);
        description.schema.extract_from_key(&description.hash_seed, item, key)?;
        Ok(self.of_hash(key.as_key().hash()))
    }
}

/// A table to read from and write to. Clones share everything.
#[derive(Clone, Debug)]
pub struct Table {
    client: Client,
    known: Arc<Known>,
}

impl Table {
    pub(super) fn new(client: Client, known: Arc<Known>) -> Table {
        Table { client, known }
    }

    /// The table's name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.known.name()
    }

    /// What the client knows of the table at the moment.
    #[must_use]
    pub fn description(&self) -> Arc<TableDescription> {
        self.known.current()
    }

    /// The same table, whose operations may each take so long where nothing else is said.
    #[must_use]
    pub fn with_request_timeout(&self, timeout: Duration) -> Table {
        Table { client: self.client.with_request_timeout(timeout), known: self.known.clone() }
    }

    /// The client that it belongs to.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Stores an item, replacing the one with the same key.
    pub fn put<'a>(&'a self, item: &Item) -> Put<'a> {
        Put::new(self, item.to_bytes().map(Cow::Owned))
    }

    /// Stores an item that is encoded already.
    pub fn put_encoded<'a>(&'a self, item: ItemRef<'a>) -> Put<'a> {
        Put::new(self, Ok(Cow::Borrowed(item.bytes())))
    }

    /// Reads one item by its key: an item of just the key attributes.
    pub fn get<'a>(&'a self, key: &Item) -> Get<'a> {
        Get::new(self, key.to_bytes().map(Cow::Owned))
    }

    /// Reads one item by its key, encoded already.
    pub fn get_encoded<'a>(&'a self, key: ItemRef<'a>) -> Get<'a> {
        Get::new(self, Ok(Cow::Borrowed(key.bytes())))
    }

    /// Removes an item, if it is there.
    pub fn delete<'a>(&'a self, key: &Item) -> Delete<'a> {
        Delete::new(self, key.to_bytes().map(Cow::Owned))
    }

    /// Changes attributes of an item, or creates it.
    pub fn update<'a>(&'a self, key: &Item, update: impl IntoUpdate) -> Update<'a> {
        Update::new(self, key.to_bytes().map(Cow::Owned), update.into_update())
    }

    /// Reads the items of one partition key in the order of their sort keys.
    pub fn query(&self, partition_key: impl Into<Value>) -> Query<'_> {
        Query::new(self, partition_key.into())
    }

    /// Reads all items, in the order of their keys' hashes.
    pub fn scan(&self) -> Scan<'_> {
        Scan::new(self)
    }

    /// Reads any number of items by their keys, several a request.
    pub fn batch_get<'a>(&'a self, keys: &'a [Item]) -> BatchGet<'a> {
        BatchGet::new(self, keys)
    }

    /// Stores and removes any number of items, several a request; the results are in the order of
    /// the writes. Each write stands alone, and there is no order between them.
    ///
    /// # Errors
    /// If an item or key is invalid, or two have the same key; nothing was sent then.
    pub async fn batch_write(
        &self,
        writes: &[BatchWrite],
    ) -> Result<Vec<BatchResult<()>>, ClientError> {
        batch::write(self, writes).await
    }

    pub(super) fn route(&self) -> Route {
        Route { description: self.known.current(), refreshed: false }
    }

    pub(super) fn deadline(&self) -> Deadline {
        self.client.deadline()
    }

    /// The deadline of an operation that begins now and has a time of its own, or not.
    pub(super) fn deadline_of(&self, timeout: Option<Duration>) -> Deadline {
        timeout.map_or_else(|| self.deadline(), Deadline::after)
    }

    /// After `error`: true if it means that the description was old, and `route` has a new one now
    /// by which the request may be sent again.
    pub(super) async fn refresh(
        &self,
        route: &mut Route,
        error: &ClientError,
        deadline: Deadline,
    ) -> Result<bool, ClientError> {
        if !error.is_stale() || route.refreshed {
            return Ok(false);
        }
        let Ok(_one) = timeout_at(deadline.at, self.known.refreshing.lock()).await else {
            return Ok(false);
        };
        route.refreshed = true;
        let current = self.known.current();
        if !Arc::ptr_eq(&current, &route.description) {
            // Somebody else has read it meanwhile.
            route.description = current;
            return Ok(true);
        }
        let description = self.client.describe_table_by(self.name(), deadline).await?;
        let description = Arc::new(description);
        self.known.replace(description.clone());
        route.description = description;
        Ok(true)
    }
}
