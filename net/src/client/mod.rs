//! The native client: what an application links to use Forebay from Rust.
//!
//! ```no_run
//! use forebay_core::item::Item;
//! use forebay_core::table::{KeySchema, KeyType};
//! use forebay_net::client::{Client, ClientConfig, ClientError};
//!
//! # async fn example() -> Result<(), ClientError> {
//! let client = Client::connect("127.0.0.1:4700", ClientConfig::default()).await?;
//! let schema = KeySchema::partition_only("user", KeyType::S);
//! let users = client.create_table("users", schema).send().await?;
//!
//! users.put(&Item::new().with("user", "ada").with("visits", 1)).send().await?;
//! let ada = users.get(&Item::new().with("user", "ada")).send().await?;
//! assert!(ada.is_some());
//! # Ok(())
//! # }
//! ```
//!
//! ```text
//!   Table ── hash of the key ──► partition ──► shard, epoch
//!                                                │
//!   Client ── Endpoint (a shard's port) ◄────────┘
//!                 ├─ Connection ── Exchange ── socket      pipelined by correlation id
//!                 └─ Connection ── Exchange ── socket
//! ```
//!
//! A request goes straight to the shard that leads its partition. The client learns the shards'
//! ports from the node and the partitions from the table's description; when a shard answers that
//! the description is old, it is read again, once, and the request sent to the right place.
//!
//! What an error means for a write is stated in [`ClientError`]: only `Unknown` leaves it open.
//! Reads are sent a second time when a connection breaks under them.
//!
//! Everything is bounded: requests in flight per connection, connections per shard, cached
//! descriptions, concurrent parts of a batch. Dropping a future of this module withdraws its
//! request if it was not sent yet; dropping the last [`Client`] and [`Table`] closes the
//! connections.
//!
//! Left out: TLS, which comes with the nodes' certificates, and spreading over several nodes, which
//! is the routers' work.

mod batch;
mod config;
mod connection;
mod endpoint;
mod error;
mod exchange;
mod expression;
mod page;
mod read;
mod table;
mod wire;
mod write;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use forebay_core::ids::ShardId;
use forebay_core::item::ItemRef;
use forebay_core::message::{
    ArchivedDescribeNodeReply, ArchivedListTablesReply, ArchivedTableReply, CreateTableRequest,
    DeleteTableRequest, DescribeNodeRequest, DescribeTableRequest, Kind, ListTablesRequest,
};
use forebay_core::table::{KeySchema, TableDescription, validate_table_name};
use tokio::net::{ToSocketAddrs, lookup_host};
use tokio::time::timeout_at;

pub use batch::{BatchGet, BatchResult, BatchWrite};
pub use config::ClientConfig;
pub use error::{ClientError, Lost, ProtocolError, UnknownCause};
pub use expression::{IntoCondition, IntoProjection, IntoUpdate, SortKey};
pub use page::{Items, Page, Pages, Query, Resume, Scan};
pub use read::Get;
pub use table::Table;
pub use write::{Delete, Put, Update, UpdateReturn};

use crate::frame::PROTOCOL_VERSION;
use endpoint::{Deadline, Endpoint};
use table::Known;
use wire::{Call, Received, Request, append, check_size, not_understood};

/// Descriptions kept for tables that nobody has a [`Table`] of at the moment.
const TABLES_CACHED_MAX: usize = 1024;
/// Names asked for at a time when all tables are listed.
const TABLES_PER_PAGE: u32 = 100;

/// A node, reached over its shards' ports. Clones share connections.
#[derive(Clone, Debug)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: Arc<ClientConfig>,
    /// The shard that was reached first; it is asked for the others.
    first: Arc<Endpoint>,
    /// By shard number.
    shards: RwLock<Vec<Option<Arc<Endpoint>>>>,
    tables: Mutex<HashMap<String, Arc<Known>>>,
}

impl Client {
    /// Connects to a node, by the address (`host:port`) of any of its shards.
    ///
    /// # Errors
    /// If no address answers as a node within the configured times.
    pub async fn connect(
        addrs: impl ToSocketAddrs,
        config: ClientConfig,
    ) -> Result<Client, ClientError> {
        let config = Arc::new(config.bounded());
        let deadline = Deadline::after(config.request_timeout);
        let nowhere =
            |source| ClientError::Connect { addr: String::from("the given name"), source };
        let addrs: Vec<SocketAddr> = match timeout_at(deadline.at, lookup_host(addrs)).await {
            Ok(found) => found.map_err(nowhere)?.collect(),
            Err(_) => return Err(nowhere(io::ErrorKind::TimedOut.into())),
        };
        let mut failed = nowhere(io::Error::new(io::ErrorKind::NotFound, "no address"));
        for addr in addrs {
            let first = Arc::new(Endpoint::new(addr, config.clone()));
            if let Err(error) = first.connect(deadline).await {
                failed = error;
                continue;
            }
            let inner = Inner {
                config: config.clone(),
                first,
                shards: RwLock::default(),
                tables: Mutex::default(),
            };
            let client = Client { inner: Arc::new(inner) };
            match client.describe_node(deadline).await {
                Ok(()) => return Ok(client),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    /// Describes a new table; [`CreateTable::send`] creates it.
    pub fn create_table(&self, name: impl Into<String>, schema: KeySchema) -> CreateTable<'_> {
        CreateTable { client: self, name: name.into(), schema, partitions: 0 }
    }

    /// A table by name. Its description is read from the node the first time, and again when the
    /// node says that it changed.
    pub async fn table(&self, name: &str) -> Result<Table, ClientError> {
        let known = self.tables().get(name).cloned();
        let known = match known {
            Some(known) => known,
            None => self.know(self.describe_table(name).await?),
        };
        Ok(Table::new(self.clone(), known))
    }

    /// Reads a table's description from the node.
    pub async fn describe_table(&self, name: &str) -> Result<TableDescription, ClientError> {
        self.describe_table_by(name, self.deadline()).await
    }

    /// The names of all tables, in order.
    pub async fn list_tables(&self) -> Result<Vec<String>, ClientError> {
        let mut names: Vec<String> = Vec::new();
        loop {
            let after = names.last().map_or("", String::as_str);
            let (page, more) = self.list_tables_after(after, TABLES_PER_PAGE).await?;
            let progress = !page.is_empty();
            names.extend(page);
            if !more || !progress {
                return Ok(names);
            }
        }
    }

    /// At most `limit` names of tables (0: the node's own limit) after `start_after` in their
    /// order, and whether there are more.
    pub async fn list_tables_after(
        &self,
        start_after: &str,
        limit: u32,
    ) -> Result<(Vec<String>, bool), ClientError> {
        let request = ListTablesRequest { start_after, limit };
        let received = self.call_system(&request, self.deadline()).await?;
        let reply = received
            .message::<ArchivedListTablesReply>(Kind::ListTablesReply)
            .map_err(ClientError::Protocol)?;
        Ok((reply.names.iter().map(|name| name.as_str().to_owned()).collect(), reply.more))
    }

    /// Deletes a table with all its items, and waits until it is gone.
    pub async fn delete_table(&self, name: &str) -> Result<(), ClientError> {
        validate_table_name(name)?;
        self.tables().remove(name);
        let received = self.call_system(&DeleteTableRequest { name }, self.deadline()).await?;
        read_description(&received).map(drop).map_err(|error| not_understood(error, true))
    }

    fn deadline(&self) -> Deadline {
        Deadline::after(self.inner.config.request_timeout)
    }

    fn tables(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Known>>> {
        self.inner.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers a description, as long as there is room for it.
    fn know(&self, description: TableDescription) -> Arc<Known> {
        let mut tables = self.tables();
        if let Some(known) = tables.get(&description.name) {
            known.replace(Arc::new(description));
            return known.clone();
        }
        if tables.len() >= TABLES_CACHED_MAX {
            tables.retain(|_, known| Arc::strong_count(known) > 1);
        }
        let known = Arc::new(Known::new(description));
        if tables.len() < TABLES_CACHED_MAX {
            tables.insert(known.name().to_owned(), known.clone());
        }
        known
    }

    async fn describe_table_by(
        &self,
        name: &str,
        deadline: Deadline,
    ) -> Result<TableDescription, ClientError> {
        validate_table_name(name)?;
        let received = self.call_system(&DescribeTableRequest { name }, deadline).await?;
        read_description(&received).map_err(ClientError::Protocol)
    }

    /// Learns the node's shards. Endpoints that are still right keep their connections.
    async fn describe_node(&self, deadline: Deadline) -> Result<(), ClientError> {
        let request = DescribeNodeRequest { protocol_version: PROTOCOL_VERSION };
        let received = call(&self.inner.first, &request, deadline).await?;
        let reply = received
            .message::<ArchivedDescribeNodeReply>(Kind::DescribeNodeReply)
            .map_err(ClientError::Protocol)?;
        if reply.shards.is_empty() {
            return Err(endpoint::no_shard(0));
        }
        let mut shards = self.inner.shards.write().unwrap_or_else(PoisonError::into_inner);
        let known: Vec<Arc<Endpoint>> =
            shards.drain(..).flatten().chain([self.inner.first.clone()]).collect();
        for shard in reply.shards.iter() {
            let index = usize::from(shard.shard.to_native());
            let addr = SocketAddr::new(self.inner.first.addr().ip(), shard.port.to_native());
            let endpoint = known.iter().find(|endpoint| endpoint.addr() == addr).cloned();
            let endpoint = endpoint
                .unwrap_or_else(|| Arc::new(Endpoint::new(addr, self.inner.config.clone())));
            if shards.len() <= index {
                shards.resize(index + 1, None);
            }
            shards[index] = Some(endpoint);
        }
        Ok(())
    }

    fn endpoint(&self, shard: ShardId) -> Option<Arc<Endpoint>> {
        let shards = self.inner.shards.read().unwrap_or_else(PoisonError::into_inner);
        shards.get(usize::from(shard.0)).cloned().flatten()
    }

    /// Sends a request to a shard. A shard that is not known yet may have been added since.
    async fn call_shard(
        &self,
        shard: ShardId,
        request: &impl Request,
        deadline: Deadline,
    ) -> Result<Received, ClientError> {
        let endpoint = match self.endpoint(shard) {
            Some(endpoint) => endpoint,
            None => {
                self.describe_node(deadline).await?;
                self.endpoint(shard).ok_or_else(|| endpoint::no_shard(shard.0))?
            }
        };
        call(&endpoint, request, deadline).await
    }

    /// Sends a request to shard 0, which leads the system group.
    async fn call_system(
        &self,
        request: &impl Request,
        deadline: Deadline,
    ) -> Result<Received, ClientError> {
        self.call_shard(ShardId(0), request, deadline).await
    }
}

async fn call<M: Request>(
    endpoint: &Endpoint,
    request: &M,
    deadline: Deadline,
) -> Result<Received, ClientError> {
    check_size(request)?;
    let encode =
        |out: &mut crate::machine::SendBuf, correlation: u64| append(out, correlation, request);
    endpoint.call(Call::new(&encode, M::KIND), deadline).await
}

fn read_description(received: &Received) -> Result<TableDescription, ProtocolError> {
    let malformed = ProtocolError::Malformed { kind: Kind::TableReply as u16 };
    let reply = received.message::<ArchivedTableReply<'_>>(Kind::TableReply)?;
    let item = ItemRef::validate(reply.description.get()).map_err(|_| malformed)?;
    TableDescription::from_item(item).map_err(|_| malformed)
}

/// A table to be created.
#[derive(Clone, Debug)]
#[must_use = "nothing happens until it is sent"]
pub struct CreateTable<'a> {
    client: &'a Client,
    name: String,
    schema: KeySchema,
    partitions: u32,
}

impl CreateTable<'_> {
    /// Partitions to begin with; one a shard if not said.
    pub fn partitions(mut self, partitions: u32) -> Self {
        self.partitions = partitions;
        self
    }

    /// Creates the table and waits until it serves.
    pub async fn send(self) -> Result<Table, ClientError> {
        validate_table_name(&self.name)?;
        self.schema.validate()?;
        let sort = self.schema.sort.as_ref();
        let letter = |key_type: forebay_core::table::KeyType| key_type.name().as_bytes()[0];
        let request = CreateTableRequest {
            name: &self.name,
            partition_key: &self.schema.partition.name,
            partition_key_type: letter(self.schema.partition.key_type),
            sort_key: sort.map_or("", |sort| &sort.name),
            sort_key_type: sort.map_or(0, |sort| letter(sort.key_type)),
            partitions: self.partitions,
        };
        let client = self.client;
        let received = client.call_system(&request, client.deadline()).await?;
        let description =
            read_description(&received).map_err(|error| not_understood(error, true))?;
        Ok(Table::new(client.clone(), client.know(description)))
    }
}

#[cfg(test)]
mod tests;
