//! Named errors on the wire, and the answer "the leader is …".

use core::net::{IpAddr, Ipv6Addr, SocketAddr};

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
    /// The certificate that was shown is not for this. Show an operator's.
    AccessDenied = 5,
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
    /// This member does not lead the group, and has not begun the request. Ask the leader: a whole
    /// request is answered with [`NotLeaderReply`], which may say where that is; among the outcomes of
    /// a batch the code stands alone.
    NotLeader = 41,
    /// The member began the request and stopped leading before its entries were chosen. Whether a
    /// write takes effect is for the next leader to find out; a read had no effect and may be sent
    /// again.
    LeadershipLost = 42,
    /// The replica's state may be older than the read accepts. Ask another one, or the leader, or
    /// accept more.
    TooStale = 43,
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

    /// Whether the request certainly had no effect, and never will have.
    #[must_use]
    pub fn had_no_effect(self) -> bool {
        !matches!(self, ErrorCode::ShardFailed | ErrorCode::LeadershipLost)
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

/// The member asked does not lead the group: "the leader is …". It has not begun the request, so
/// anybody may send it again.
///
/// | offset | bytes | field | meaning |
/// |---|---|---|---|
/// | 0 | 8 | `retry_after_micros` | when to ask again where nobody is known to lead; 0: as the asker likes |
/// | 8 | 16 | `leader_ip` | IPv6, or IPv4 mapped into it; all zero: where this node was reached |
/// | 24 | 2 | `leader_port` | of the shard whose member leads; 0: no leader is known |
/// | 26 | 6 | | zero |
///
/// The address is a number, because the loops that follow it cannot wait for a name's resolution. A
/// node that listens on every interface does not know by which one a client reaches its neighbours on
/// the same host (`dev` with three nodes): it leaves the address out and names the port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize)]
#[rkyv(derive(Clone, Copy, Debug))]
pub struct NotLeaderReply {
    /// See the table.
    pub retry_after_micros: u64,
    /// See the table.
    pub leader_ip: [u8; 16],
    /// See the table.
    pub leader_port: u16,
}

const _: () = {
    assert!(size_of::<ArchivedNotLeaderReply>() == 32);
    assert!(core::mem::offset_of!(ArchivedNotLeaderReply, leader_ip) == 8);
    assert!(core::mem::offset_of!(ArchivedNotLeaderReply, leader_port) == 24);
};

impl NotLeaderReply {
    /// Nobody is known to lead; ask again after so long.
    #[must_use]
    pub fn unknown(retry_after_micros: u64) -> NotLeaderReply {
        NotLeaderReply { retry_after_micros, leader_ip: [0; 16], leader_port: 0 }
    }

    /// The leader's shard serves clients at `leader`; an unspecified address (`0.0.0.0`, `::`) stands
    /// for the one at which the asker reached this node.
    #[must_use]
    pub fn leader_is(leader: SocketAddr) -> NotLeaderReply {
        let leader_ip = match leader.ip() {
            ip if ip.is_unspecified() => [0; 16],
            IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
            IpAddr::V6(ip) => ip.octets(),
        };
        NotLeaderReply { retry_after_micros: 0, leader_ip, leader_port: leader.port() }
    }
}

impl ArchivedNotLeaderReply {
    /// Where the leader is, according to a node that was reached at `reached`; None if it knows none.
    #[must_use]
    pub fn leader(&self, reached: IpAddr) -> Option<SocketAddr> {
        let port = self.leader_port.to_native();
        if port == 0 {
            return None;
        }
        let ip = match Ipv6Addr::from(self.leader_ip) {
            Ipv6Addr::UNSPECIFIED => reached,
            ip => IpAddr::V6(ip).to_canonical(),
        };
        Some(SocketAddr::new(ip, port))
    }
}

#[cfg(test)]
mod tests {
    use rkyv::rancor::Failure;

    use super::*;

    fn bytes_of(reply: &NotLeaderReply) -> Vec<u8> {
        rkyv::to_bytes::<Failure>(reply).unwrap().to_vec()
    }

    fn told(reply: &NotLeaderReply, reached: &str) -> Option<String> {
        let bytes = bytes_of(reply);
        let read = rkyv::access::<ArchivedNotLeaderReply, Failure>(&bytes).unwrap();
        read.leader(reached.parse().unwrap()).map(|leader| leader.to_string())
    }

    #[test]
    fn golden_bytes_of_a_leaders_address() {
        let reply = NotLeaderReply::leader_is("10.0.0.2:4701".parse().unwrap());
        let mut golden = [0; 32];
        golden[18..24].copy_from_slice(&[0xff, 0xff, 10, 0, 0, 2]);
        golden[24..26].copy_from_slice(&[0x5d, 0x12]);
        assert_eq!(bytes_of(&reply), golden);
        let mut golden = [0; 32];
        golden[..8].copy_from_slice(&[0x10, 0x27, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes_of(&NotLeaderReply::unknown(10_000)), golden);
    }

    #[test]
    fn a_leaders_address_is_read_as_it_was_written() {
        for at in ["10.0.0.2:4701", "[fd00::7]:1", "127.0.0.1:65535"] {
            let reply = NotLeaderReply::leader_is(at.parse().unwrap());
            assert_eq!(told(&reply, "192.0.2.1").as_deref(), Some(at));
        }
        let here = NotLeaderReply::leader_is("0.0.0.0:4702".parse().unwrap());
        assert_eq!(told(&here, "192.0.2.1").as_deref(), Some("192.0.2.1:4702"));
        assert_eq!(told(&here, "::1").as_deref(), Some("[::1]:4702"));
        assert_eq!(told(&NotLeaderReply::unknown(5), "::1"), None);
    }

    #[test]
    fn codes_are_found_by_their_numbers_and_only_two_leave_a_write_open() {
        for code in ErrorCode::ALL {
            assert_eq!(ErrorCode::from_wire(*code as u16), Some(*code));
        }
        let open: Vec<_> = ErrorCode::ALL.iter().filter(|code| !code.had_no_effect()).collect();
        assert_eq!(open, [&ErrorCode::LeadershipLost, &ErrorCode::ShardFailed]);
    }
}
