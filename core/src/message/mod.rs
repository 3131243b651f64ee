//! Wire messages: rkyv archives, read in place.
//!
//! A message travels in a frame (`forebay-net`'s `frame` module owns that format), whose header
//! names the message's [`Kind`] and version. rkyv layouts do not evolve by themselves: changing a
//! struct here means a new version of its kind beside the old one, never an edit in place.
//!
//! ```text
//!   client ── PutRequest ──►  shard port of the partition's leader
//!          ◄─ WriteReply or ErrorReply ──
//!                            a shard whose member does not lead the partition's group
//!          ◄─ NotLeaderReply ── "the leader is …", or that nobody is known to lead
//! ```
//!
//! What shards say to each other is in [`peer`], with kinds of its own.
//!
//! Senders borrow what they send (`&[u8]` is archived in place, without an intermediate copy);
//! receivers use the `Archived…` types over the received bytes, after validation.

mod error;
mod eventual;
pub mod peer;
mod reply;
mod request;

pub use error::{
    ArchivedErrorReply, ArchivedNotLeaderReply, ErrorCode, ErrorReply, NotLeaderReply,
};
pub use eventual::{
    ArchivedEventual, ArchivedLag, ArchivedLagging, EVENTUAL_VERSION, Eventual, Lag, Lagging,
};
pub use reply::{
    AdminReply, ArchivedAdminReply, ArchivedBatchGetReply, ArchivedBatchWriteReply,
    ArchivedDescribeNodeReply, ArchivedGetReply, ArchivedListTablesReply, ArchivedPageReply,
    ArchivedShardAddress, ArchivedTableReply, ArchivedWriteReply, BatchGetReply, BatchWriteReply,
    DescribeNodeReply, GetReply, ListTablesReply, PageReply, ShardAddress, TableReply, WriteReply,
};
pub use request::{
    AdminRequest, ArchivedAdminRequest, ArchivedBatchGetRequest, ArchivedBatchOperation,
    ArchivedBatchWriteRequest, ArchivedCreateTableRequest, ArchivedDeleteRequest,
    ArchivedDeleteTableRequest, ArchivedDescribeNodeRequest, ArchivedDescribeTableRequest,
    ArchivedGetRequest, ArchivedListTablesRequest, ArchivedPutRequest, ArchivedQueryRequest,
    ArchivedReturnValues, ArchivedScanRequest, ArchivedUpdateRequest, BatchGetRequest,
    BatchOperation, BatchWriteRequest, CreateTableRequest, DeleteRequest, DeleteTableRequest,
    DescribeNodeRequest, DescribeTableRequest, GetRequest, ListTablesRequest, PutRequest,
    QueryRequest, ReturnValues, ScanRequest, UpdateRequest,
};

/// What a frame carries. The numbers are the wire's; they are never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Kind {
    /// [`PutRequest`]
    Put = 1,
    /// [`GetRequest`]
    Get = 2,
    /// [`DeleteRequest`]
    Delete = 3,
    /// [`UpdateRequest`]
    Update = 4,
    /// [`QueryRequest`]
    Query = 5,
    /// [`ScanRequest`]
    Scan = 6,
    /// [`BatchGetRequest`]
    BatchGet = 7,
    /// [`BatchWriteRequest`]
    BatchWrite = 8,
    /// [`CreateTableRequest`]
    CreateTable = 9,
    /// [`DescribeTableRequest`]
    DescribeTable = 10,
    /// [`ListTablesRequest`]
    ListTables = 11,
    /// [`DeleteTableRequest`]
    DeleteTable = 12,
    /// [`DescribeNodeRequest`]
    DescribeNode = 13,
    /// [`AdminRequest`]
    Admin = 14,
    /// [`WriteReply`]
    WriteReply = 0x8001,
    /// [`GetReply`]
    GetReply = 0x8002,
    /// [`PageReply`]
    PageReply = 0x8005,
    /// [`BatchGetReply`]
    BatchGetReply = 0x8007,
    /// [`BatchWriteReply`]
    BatchWriteReply = 0x8008,
    /// [`TableReply`]
    TableReply = 0x8009,
    /// [`ListTablesReply`]
    ListTablesReply = 0x800b,
    /// [`DescribeNodeReply`]
    DescribeNodeReply = 0x800d,
    /// [`AdminReply`]
    AdminReply = 0x800e,
    /// [`NotLeaderReply`]
    NotLeaderReply = 0xfffe,
    /// [`ErrorReply`]
    ErrorReply = 0xffff,
}

impl Kind {
    /// Every kind, for tables of counters and for tests.
    pub const ALL: [Kind; 25] = [
        Kind::Put,
        Kind::Get,
        Kind::Delete,
        Kind::Update,
        Kind::Query,
        Kind::Scan,
        Kind::BatchGet,
        Kind::BatchWrite,
        Kind::CreateTable,
        Kind::DescribeTable,
        Kind::ListTables,
        Kind::DeleteTable,
        Kind::DescribeNode,
        Kind::Admin,
        Kind::WriteReply,
        Kind::GetReply,
        Kind::PageReply,
        Kind::BatchGetReply,
        Kind::BatchWriteReply,
        Kind::TableReply,
        Kind::ListTablesReply,
        Kind::DescribeNodeReply,
        Kind::AdminReply,
        Kind::NotLeaderReply,
        Kind::ErrorReply,
    ];

    /// The kind with this number, if there is one.
    #[must_use]
    pub fn from_wire(number: u16) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| *kind as u16 == number)
    }

    /// Whether a client may send it to a shard.
    #[must_use]
    pub fn is_request(self) -> bool {
        (self as u16) < 0x8000
    }
}

/// A message with its kind and the version of its layout.
pub trait Message {
    /// What the frame header says.
    const KIND: Kind;
    /// The layout's version.
    const VERSION: u16;
}

macro_rules! messages {
    ($($name:ident $(<$life:lifetime>)? => $kind:ident v $version:literal;)*) => {
        $(impl $(<$life>)? Message for $name $(<$life>)? {
            const KIND: Kind = Kind::$kind;
            const VERSION: u16 = $version;
        })*
    };
}

/// Second versions, which wrap the first.
macro_rules! wrapped {
    ($($outer:ident of $inner:ident => $kind:ident;)*) => {
        $(impl<'a> Message for $outer<$inner<'a>> {
            const KIND: Kind = Kind::$kind;
            const VERSION: u16 = EVENTUAL_VERSION;
        })*
    };
}

messages! {
    PutRequest<'a> => Put v 1;
    GetRequest<'a> => Get v 1;
    DeleteRequest<'a> => Delete v 1;
    UpdateRequest<'a> => Update v 1;
    QueryRequest<'a> => Query v 1;
    ScanRequest<'a> => Scan v 1;
    BatchGetRequest<'a> => BatchGet v 1;
    BatchWriteRequest<'a> => BatchWrite v 1;
    CreateTableRequest<'a> => CreateTable v 1;
    DescribeTableRequest<'a> => DescribeTable v 1;
    ListTablesRequest<'a> => ListTables v 1;
    DeleteTableRequest<'a> => DeleteTable v 1;
    DescribeNodeRequest => DescribeNode v 1;
    AdminRequest<'a> => Admin v 1;
    WriteReply<'a> => WriteReply v 1;
    GetReply<'a> => GetReply v 1;
    PageReply<'a> => PageReply v 1;
    BatchGetReply<'a> => BatchGetReply v 1;
    BatchWriteReply => BatchWriteReply v 1;
    TableReply<'a> => TableReply v 1;
    ListTablesReply => ListTablesReply v 1;
    DescribeNodeReply => DescribeNodeReply v 1;
    AdminReply<'a> => AdminReply v 1;
    NotLeaderReply => NotLeaderReply v 1;
    ErrorReply<'a> => ErrorReply v 1;
}

wrapped! {
    Eventual of GetRequest => Get;
    Eventual of QueryRequest => Query;
    Eventual of ScanRequest => Scan;
    Eventual of BatchGetRequest => BatchGet;
    Lagging of GetReply => GetReply;
    Lagging of PageReply => PageReply;
    Lagging of BatchGetReply => BatchGetReply;
}

/// The version of a kind's plain layout.
#[must_use]
pub fn version_of(_kind: Kind) -> u16 {
    1
}

/// The newest version of a kind's layout that this program reads; it reads all before it.
#[must_use]
pub fn newest_version_of(kind: Kind) -> u16 {
    match kind {
        Kind::Get
        | Kind::Query
        | Kind::Scan
        | Kind::BatchGet
        | Kind::GetReply
        | Kind::PageReply
        | Kind::BatchGetReply => EVENTUAL_VERSION,
        _ => version_of(kind),
    }
}
