//! The native client: what an application links to use Forebay from Rust.
//!
//! ```no_run
//! use forebay_core::item::Item;
//! use forebay_core::table::{KeySchema, KeyType};
//! use forebay_net::client::{Client, ClientConfig, ClientError};
//!
//! # async fn example() -> Result<(), ClientError> {
//! let nodes = ["10.0.0.1:4700", "10.0.0.2:4700", "10.0.0.3:4700"];
//! let client = Client::connect(nodes, ClientConfig::default()).await?;
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
//!   Table ── hash of the key ──► partition ──► group, shard, epoch
//!                                                │
//!   Attempts ── Cluster: who leads the group? ◄──┘   again: not sent, not begun, or a read
//!                  │
//!               Endpoint (a shard's port on a node)
//!                  ├─ Connection ── Exchange ── socket      pipelined by correlation id
//!                  └─ Connection ── Exchange ── socket
//! ```
//!
//! A request goes straight to the shard that leads its partition's group. The client learns the shards'
//! ports from the nodes, the partitions from the table's description, and the leaders from answers:
//! a shard that does not lead says who does, as far as it knows, and the client remembers that for the
//! group until it hears otherwise or loses the connection (module `cluster`). When a shard answers that the
//! description is old, it is read again, once, and the request sent to the right place.
//!
//! What is sent a second time, and what never is, is told in the module `attempts`. What an error means for a
//! write is stated in [`ClientError`]: only `Unknown` leaves it open.
//!
//! Everything is bounded: the time of an operation over all its attempts, redirections, requests in
//! flight per connection, connections per shard, cached descriptions and leaders, concurrent parts of
//! a batch. Dropping a future of this module withdraws its request if it was not sent yet; dropping
//! the last [`Client`] and [`Table`] closes the connections.
//!
//! With [`ClientConfig::tls`] every connection is TLS, and both sides show certificates ([`crate::tls`]).
//!
//! Left out: which replicas a group has: a read that any of them may answer goes to the nodes in turn,
//! and one that has none passes it on.

mod addresses;
mod attempts;
mod batch;
mod cluster;
mod config;
mod connection;
mod cover;
mod deadline;
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
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use forebay_core::item::{ItemRef, ValueRef};
use forebay_core::message::{
    ArchivedListTablesReply, ArchivedTableReply, CreateTableRequest, DeleteTableRequest,
    DescribeTableRequest, ErrorCode, Kind, ListTablesRequest,
};
use forebay_core::table::{KeySchema, NODES_ATTRIBUTE, TableDescription, validate_table_name};
use tokio::task::JoinSet;

pub use addresses::IntoAddresses;
pub use batch::{BatchGet, BatchResult, BatchWrite};
pub use config::ClientConfig;
pub use error::{ClientError, Lost, ProtocolError, UnknownCause};
pub use expression::{IntoCondition, IntoProjection, IntoUpdate, SortKey};
pub use page::{Items, Page, Pages, Query, Resume, Scan};
pub use read::Get;
pub use table::Table;
pub use write::{Delete, Put, Update, UpdateReturn};

use crate::machine::SendBuf;
use attempts::Attempts;
use cluster::{Cluster, Place};
use deadline::{Deadline, back_off};
use table::Known;
use wire::{Call, Received, Request, append, check_size, not_understood};

/// Descriptions kept for tables that nobody has a [`Table`] of at the moment.
const TABLES_CACHED_MAX: usize = 1024;
/// Names asked for at a time when all tables are listed.
const TABLES_PER_PAGE: u32 = 100;

/// A cluster, reached over its nodes' shards' ports. Clones share connections.
#[derive(Clone, Debug)]
pub struct Client {
    inner: Arc<Inner>,
    request_timeout: Duration,
}

#[derive(Debug)]
struct Inner {
    config: Arc<ClientConfig>,
    cluster: Cluster,
    tables: Mutex<HashMap<String, Arc<Known>>>,
    /// Reads that any replica may answer go to the nodes in turn.
    turn: AtomicUsize,
}

impl Client {
    /// Connects to a cluster, by the addresses (`host:port`) of any shards of some of its nodes; see
    /// [`IntoAddresses`]. One that answers is enough: it is used at once, and the others as soon as
    /// they answer.
    ///
    /// # Errors
    /// If no address answers as a node within the configured times.
    pub async fn connect(
        addrs: impl IntoAddresses,
        config: ClientConfig,
    ) -> Result<Client, ClientError> {
        let config = Arc::new(config.bounded());
        let deadline = Deadline::after(config.request_timeout);
        let addrs = addresses::resolve(addrs, deadline).await?;
        let inner = Inner {
            cluster: Cluster::new(&addrs, config.clone()),
            config,
            tables: Mutex::default(),
            turn: AtomicUsize::new(0),
        };
        let mut connecting = JoinSet::new();
        for endpoint in inner.cluster.given().iter().cloned() {
            connecting.spawn(async move {
                loop {
                    match endpoint.connection(deadline).await {
                        // A node that is starting accepts connections before it answers on them.
                        Err(error)
                            if error.kind() == io::ErrorKind::TimedOut
                                && deadline.pause(back_off(1)).await => {}
                        connected => return (endpoint, connected.map(drop)),
                    }
                }
            });
        }
        let mut failed = None;
        while let Some(Ok((endpoint, connected))) = connecting.join_next().await {
            let error = match connected {
                // The node may have said why before it closed.
                Err(source) => match inner.cluster.hear(&endpoint) {
                    Some((code, words)) => refused_hello(code, words),
                    None => ClientError::Connect { addr: endpoint.addr().to_string(), source },
                },
                Ok(()) => match inner.cluster.hear(&endpoint) {
                    None if inner.cluster.node_count() > 0 => {
                        let request_timeout = inner.config.request_timeout;
                        return Ok(Client { inner: Arc::new(inner), request_timeout });
                    }
                    None => attempts::no_shard(0),
                    Some((code, words)) => refused_hello(code, words),
                },
            };
            failed = Some(error);
        }
        Err(failed.expect("there is at least one address"))
    }

    /// The same client, whose operations may each take so long where nothing else is said.
    #[must_use]
    pub fn with_request_timeout(&self, timeout: Duration) -> Client {
        Client { inner: self.inner.clone(), request_timeout: timeout }
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
        Deadline::after(self.request_timeout)
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
        let description = read_description(&received).map_err(ClientError::Protocol)?;
        self.inner.cluster.meet(read_nodes(&received).into_iter());
        Ok(description)
    }

    /// Sends a request to the leader of a group.
    async fn call(
        &self,
        place: Place,
        request: &impl Request,
        deadline: Deadline,
    ) -> Result<Received, ClientError> {
        self.attempt(place, request, true, deadline).await
    }

    /// Sends a read to the leader of a group, or, if it need not be consistent, to any replica.
    async fn read(
        &self,
        place: Place,
        request: &impl Request,
        consistent: bool,
        deadline: Deadline,
    ) -> Result<Received, ClientError> {
        self.attempt(place, request, consistent, deadline).await
    }

    /// Sends a request to the leader of the system group.
    async fn call_system(
        &self,
        request: &impl Request,
        deadline: Deadline,
    ) -> Result<Received, ClientError> {
        self.call(Place::SYSTEM, request, deadline).await
    }

    async fn attempt<M: Request>(
        &self,
        place: Place,
        request: &M,
        leads: bool,
        deadline: Deadline,
    ) -> Result<Received, ClientError> {
        check_size(request)?;
        let encode = |out: &mut SendBuf, correlation: u64| append(out, correlation, request);
        let call = Call::new(&encode, M::KIND);
        let call = if leads { call } else { call.of_any() };
        let Inner { cluster, config, turn, .. } = &*self.inner;
        let attempts = Attempts::new(cluster, config, call, place, deadline);
        let attempts = match leads {
            true => attempts,
            false => attempts.begin_at(turn.fetch_add(1, Ordering::Relaxed)),
        };
        attempts.run().await
    }
}

/// The error for a node whose first words were a refusal.
fn refused_hello(code: u16, words: String) -> ClientError {
    match ErrorCode::from_wire(code) {
        Some(code) => ClientError::refused(code, words),
        None => ClientError::Protocol(ProtocolError::ErrorCode { code }),
    }
}

fn read_description(received: &Received) -> Result<TableDescription, ProtocolError> {
    let malformed = ProtocolError::Malformed { kind: Kind::TableReply as u16 };
    let reply = received.message::<ArchivedTableReply<'_>>(Kind::TableReply)?;
    let item = ItemRef::validate(reply.description.get()).map_err(|_| malformed)?;
    TableDescription::from_item(item).map_err(|_| malformed)
}

/// Where the cluster's nodes are, if the reply says so.
fn read_nodes(received: &Received) -> Vec<SocketAddr> {
    let reply = received.message::<ArchivedTableReply<'_>>(Kind::TableReply);
    let item = reply.ok().and_then(|reply| ItemRef::validate(reply.description.get()).ok());
    match item.and_then(|item| item.as_map().get(NODES_ATTRIBUTE)) {
        Some(ValueRef::L(list)) => list
            .iter()
            .filter_map(|value| match value {
                ValueRef::S(text) => text.parse().ok(),
                _ => None,
            })
            .collect(),
        _ => Vec::new(),
    }
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
