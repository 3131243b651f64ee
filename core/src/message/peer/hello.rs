//! The handshake: who greets whom, and why a greeting is refused.
//!
//! Each side knows from the system group which node holds which shard, and in which AZ. A greeting
//! must agree with that in every word; nobody is told more than the name of the first that does
//! not. Where certificates are in use, the node id in the peer's certificate must be the hello's.
//!
//! `dial` numbers a shard's attempts to reach one peer within an incarnation, so that a late hello
//! is told from a new one: the acceptor remembers the highest `(incarnation, dial)` that it has
//! seen, and a Welcome carries the acceptor's own, which makes every earlier hello of it stale.

use rkyv::{Archive, Deserialize, Serialize};

use super::error::PeerError;
use super::{PEER_PROTOCOL_NEWEST, PEER_PROTOCOL_OLDEST};

/// How a node shows who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Authentication {
    /// Not at all: `dev` clusters on one machine.
    Dev = 0,
    /// Mutual TLS; the certificate names the node.
    Certificate = 1,
}

impl Authentication {
    fn from_wire(number: u8) -> Option<Authentication> {
        [Authentication::Dev, Authentication::Certificate]
            .into_iter()
            .find(|authentication| *authentication as u8 == number)
    }
}

/// "I am this shard of that node, and I believe that you are that one."
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Hello {
    /// The cluster that the greeter belongs to.
    pub cluster_id: [u8; 16],
    /// The greeter's node.
    pub node_id: [u8; 16],
    /// The node that it means to reach.
    pub to_node_id: [u8; 16],
    /// Of the greeter's log, raised by every recovery.
    pub incarnation: u64,
    /// Attempts so far to reach this peer, in this incarnation.
    pub dial: u64,
    /// The greeter's [`crate::liveness::Peer`].
    pub from: u32,
    /// The one that it means to reach.
    pub to: u32,
    /// The greeter's shard number on its node.
    pub shard: u16,
    /// Where the greeter's node stands.
    pub az: u16,
    /// Oldest version of the protocol that the greeter speaks.
    pub protocol_oldest: u16,
    /// Newest version of the protocol that the greeter speaks.
    pub protocol_newest: u16,
    /// An [`Authentication`].
    pub authentication: u8,
}

/// "You are, and I am the one that you meant."
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Welcome {
    /// The acceptor's own greeting.
    pub hello: Hello,
    /// The version that both will speak.
    pub protocol: u16,
}

/// "No."
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct HelloRefused {
    /// A [`HelloRefusal`].
    pub reason: u16,
    /// Oldest version of the protocol that the refuser speaks.
    pub protocol_oldest: u16,
    /// Newest version of the protocol that the refuser speaks.
    pub protocol_newest: u16,
}

macro_rules! refusals {
    ($($(#[$doc:meta])* $name:ident = $number:literal $text:literal,)*) => {
        /// Why a greeting was refused. The numbers are the wire's; they are never reused.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u16)]
        pub enum HelloRefusal { $($(#[$doc])* $name = $number,)* }

        impl HelloRefusal {
            /// Every reason, for tables of counters and for tests.
            pub const ALL: &'static [HelloRefusal] = &[$(HelloRefusal::$name,)*];

            /// A short name for metrics.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(HelloRefusal::$name => $text,)* }
            }
        }
    };
}

refusals! {
    /// The greeter belongs to another cluster. Mend its configuration, or its peers' addresses.
    WrongCluster = 1 "wrong_cluster",
    /// The system group knows no such node, or it does not hold that shard. Join it first.
    UnknownNode = 2 "unknown_node",
    /// The greeter meant another node or shard. Mend addresses and ports.
    WrongShard = 3 "wrong_shard",
    /// The greeter's newest version is older than the refuser's oldest. Upgrade the greeter.
    VersionTooOld = 4 "version_too_old",
    /// The greeter's oldest version is newer than the refuser's newest. Upgrade the refuser.
    VersionTooNew = 5 "version_too_new",
    /// The greeter says another AZ than the system group. Mend its configuration.
    WrongAz = 6 "wrong_az",
    /// One of the two wants certificates and the other has none. Mend the configuration.
    WrongAuthentication = 7 "wrong_authentication",
    /// The certificate names another node. Give each node its own certificate.
    WrongCertificate = 8 "wrong_certificate",
    /// A later start of the greeter has been heard: this is a relic. Nothing to do.
    OldIncarnation = 9 "old_incarnation",
    /// A later dial of the greeter has been heard: this is a relic. Nothing to do.
    Superseded = 10 "superseded",
    /// Both dialed at once, and the other connection is the one to keep. Nothing to do.
    Crossing = 11 "crossing",
    /// The greeting was not understood. See the refuser's log.
    Malformed = 12 "malformed",
}

impl HelloRefusal {
    /// The reason with this number, if there is one.
    #[must_use]
    pub fn from_wire(number: u16) -> Option<HelloRefusal> {
        HelloRefusal::ALL.iter().copied().find(|reason| *reason as u16 == number)
    }

    /// Whether it belongs to the ordinary life of connections, and nothing is wrong.
    #[must_use]
    pub fn is_ordinary(self) -> bool {
        use HelloRefusal as R;
        matches!(self, R::OldIncarnation | R::Superseded | R::Crossing)
    }

    /// Place in [`HelloRefusal::ALL`].
    #[must_use]
    pub fn index(self) -> usize {
        self as usize - 1
    }
}

/// Who this shard is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster.
    pub cluster_id: [u8; 16],
    /// The node.
    pub node_id: [u8; 16],
    /// The shard's [`crate::liveness::Peer`].
    pub peer: u32,
    /// Its number on the node.
    pub shard: u16,
    /// Where the node stands.
    pub az: u16,
    /// Of the shard's log, raised by every recovery.
    pub incarnation: u64,
    /// How peers must authenticate.
    pub authentication: Authentication,
}

/// Who a peer is, by the system group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Its node.
    pub node_id: [u8; 16],
    /// Its [`crate::liveness::Peer`].
    pub peer: u32,
    /// Its number on its node.
    pub shard: u16,
    /// Where its node stands.
    pub az: u16,
}

impl Identity {
    /// The greeting to `peer` on the attempt numbered `dial`.
    #[must_use]
    pub fn hello(&self, peer: &Expected, dial: u64) -> Hello {
        Hello {
            cluster_id: self.cluster_id,
            node_id: self.node_id,
            to_node_id: peer.node_id,
            incarnation: self.incarnation,
            dial,
            from: self.peer,
            to: peer.peer,
            shard: self.shard,
            az: self.az,
            protocol_oldest: PEER_PROTOCOL_OLDEST,
            protocol_newest: PEER_PROTOCOL_NEWEST,
            authentication: self.authentication as u8,
        }
    }

    /// Whether `hello` comes from a shard that this one may talk to, and in which version. `expected`
    /// is what the system group says of the greeter, if it knows it; `certified` the node id in the
    /// certificate that the connection was opened with, if it was.
    ///
    /// # Errors
    /// The name of what is wrong.
    pub fn judge(
        &self,
        hello: &Hello,
        expected: Option<&Expected>,
        certified: Option<&[u8; 16]>,
    ) -> Result<u16, HelloRefusal> {
        if hello.cluster_id != self.cluster_id {
            return Err(HelloRefusal::WrongCluster);
        }
        if hello.protocol_newest < PEER_PROTOCOL_OLDEST {
            return Err(HelloRefusal::VersionTooOld);
        }
        if hello.protocol_oldest > PEER_PROTOCOL_NEWEST {
            return Err(HelloRefusal::VersionTooNew);
        }
        if hello.authentication != self.authentication as u8 {
            return Err(HelloRefusal::WrongAuthentication);
        }
        match (self.authentication, certified) {
            (Authentication::Dev, _) => {}
            (Authentication::Certificate, None) => return Err(HelloRefusal::WrongAuthentication),
            (Authentication::Certificate, Some(certified)) if *certified == hello.node_id => {}
            (Authentication::Certificate, Some(_)) => return Err(HelloRefusal::WrongCertificate),
        }
        let known = expected.filter(|expected| {
            (expected.peer, expected.node_id, expected.shard)
                == (hello.from, hello.node_id, hello.shard)
        });
        let Some(known) = known else { return Err(HelloRefusal::UnknownNode) };
        if (hello.to, hello.to_node_id) != (self.peer, self.node_id) {
            return Err(HelloRefusal::WrongShard);
        }
        if hello.az != known.az {
            return Err(HelloRefusal::WrongAz);
        }
        Ok(hello.protocol_newest.min(PEER_PROTOCOL_NEWEST))
    }
}

impl Hello {
    pub(super) fn check(self) -> Result<Hello, PeerError> {
        let (oldest, newest) = (self.protocol_oldest, self.protocol_newest);
        if oldest > newest || self.from == self.to {
            let (from, to) = (self.from, self.to);
            return Err(PeerError::Hello { from, to, oldest, newest });
        }
        if Authentication::from_wire(self.authentication).is_none() {
            let number = self.authentication.into();
            return Err(PeerError::Number { what: "a way to authenticate", number });
        }
        Ok(self)
    }
}

impl Welcome {
    pub(super) fn check(self) -> Result<Welcome, PeerError> {
        let hello = self.hello.check()?;
        if !(hello.protocol_oldest..=hello.protocol_newest).contains(&self.protocol) {
            return Err(PeerError::Number { what: "a version", number: self.protocol });
        }
        Ok(self)
    }
}

impl HelloRefused {
    /// The refusal with this program's versions.
    #[must_use]
    pub fn of(reason: HelloRefusal) -> HelloRefused {
        HelloRefused {
            reason: reason as u16,
            protocol_oldest: PEER_PROTOCOL_OLDEST,
            protocol_newest: PEER_PROTOCOL_NEWEST,
        }
    }

    pub(super) fn check(self) -> Result<HelloRefusal, PeerError> {
        let number = self.reason;
        HelloRefusal::from_wire(number).ok_or(PeerError::Number { what: "a refusal", number })
    }
}
