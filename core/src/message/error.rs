//! Named errors on the wire.

use rkyv::with::{InlineAsBox, Map};
use rkyv::{Archive, Serialize};

macro_rules! error_codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal,)*) => {
        /// Why a request was not done. The numbers are the wire's; they are never reused.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u16)]
        pub enum ErrorCode { $($(#[$doc])* $name = $number,)* }

        impl ErrorCode {
            /// Every code, for tables of counters and for tests.
            pub const ALL: &'static [ErrorCode] = &[$(ErrorCode::$name,)*];

            /// Its name, as metrics and messages show it.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(ErrorCode::$name => stringify!($name),)* }
            }
        }
    };
}

error_codes! {
    /// The frame or message was malformed. Mend the client.
    MalformedMessage = 1,
    /// The message's version is not known here. Use a client no newer than the node.
    UnsupportedVersion = 2,
    /// No such kind of request.
    UnknownKind = 3,
    /// A parameter is outside its limits; the message says which.
    InvalidRequest = 4,
    /// No table has this id or name. Refresh the table's description.
    UnknownTable = 10,
    /// A table of this name exists already.
    TableExists = 11,
    /// The table is being created or deleted. Retry after a moment.
    TableNotActive = 12,
    /// The key attributes are missing, of the wrong type, empty or too long.
    InvalidKey = 20,
    /// The item's encoding breaks a rule; the message says which.
    InvalidItem = 21,
    /// The item is larger than 400 KB.
    ItemTooLarge = 22,
    /// An expression breaks a rule or does not fit the item's types.
    InvalidExpression = 23,
    /// The condition does not hold. Nothing was written.
    ConditionFailed = 30,
    /// The partition is not on this shard, or the epoch is old. Refresh the table's description.
    WrongPartition = 40,
    /// A queue or budget is full. Nothing was done; retry after the given time.
    Overloaded = 50,
    /// The disk has no room for the write. Nothing was done; deletes are still accepted.
    DiskFull = 51,
    /// The node is stopping. Nothing was done; go to another one.
    ShuttingDown = 52,
    /// The shard met a failed write and serves nothing until it has recovered. Whether the write
    /// took effect is not known.
    ShardFailed = 60,
    /// The data asked for is damaged on this node's disk; it is not served.
    Damaged = 61,
}

impl ErrorCode {
    /// The code with this number, if there is one.
    #[must_use]
    pub fn from_wire(number: u16) -> Option<ErrorCode> {
        ErrorCode::ALL.iter().copied().find(|code| *code as u16 == number)
    }

    /// Whether the request certainly had no effect.
    #[must_use]
    pub fn had_no_effect(self) -> bool {
        self != ErrorCode::ShardFailed
    }
}

/// A request was refused or failed.
#[derive(Debug, Archive, Serialize)]
pub struct ErrorReply<'a> {
    /// An [`ErrorCode`].
    pub code: u16,
    /// When to try again, if trying again can help; 0 otherwise.
    pub retry_after_micros: u64,
    /// For a person.
    #[rkyv(with = InlineAsBox)]
    pub message: &'a str,
    /// The current item, where a failed condition was asked to return it.
    #[rkyv(with = Map<InlineAsBox>)]
    pub item: Option<&'a [u8]>,
}
