//! TLS of links and clients: who may connect, by certificate, and everything sealed on the way.
//!
//! ```text
//!   client, peer ══ TCP ══► Lobby (control lane): accept or dial, handshake, certificate ── refused by
//!                             │                                                              name
//!                             │ Arrival: descriptor, record keys, bytes that came early
//!                             ▼ mailbox, eventfd
//!   ring ◄── adopts the descriptor ── Host (the shard's thread)
//!     │ sealed bytes                    ▲ plain bytes
//!     └──────────► Layer ── Records ────┴──► Shard, Links: as without TLS
//! ```
//!
//! Handshakes cost hundreds of microseconds and are driven by strangers, so they happen on threads of
//! their own, with deadlines and a limit on how many are under way. From then on a connection is the
//! shard's: its descriptor is a fixed file of the ring, its keys are in the shard's `layer`, and the
//! control lane may die without disturbing it. The shard machine and the links see plain bytes as
//! ever, so the simulator drives the same code.
//!
//! # Certificates
//! One authority, private to the cluster, vouches for everybody; a name says what a certificate is for
//! (module `role`): `node.NAME` for a node, `client.NAME` for a client, `operator.NAME` for an operator. A node's NAME stands in the
//! cluster's topology beside its id, and a link is refused (`wrong_certificate`) if the name in the
//! certificate and the id in the greeting do not belong together. Host names and addresses in
//! certificates are not looked at: nodes move, and the authority vouches for nobody else.
//!
//! TLS 1.3 only, both sides with certificates, no resumption: each connection's certificate is
//! checked, and connections live long. A certificate that expires ends no connection that is open.
//! Files are read at the start and again on request ([`NodeTls::reload`]).
//!
//! # What it costs
//! rustls 0.23 gives each record a buffer of its own, received or sent: one allocation and one copy
//! for each, however many requests are in it. Nothing else is allocated once warm.
//!
//! | file | idea |
//! |---|---|
//! | `role` | what the names in certificates mean, and who is believed |
//! | `files` | from PEM files to rustls's configurations |
//! | `records` | one connection: records in and out, and the handshake before them |
//! | `layer` | all connections of a shard, between ring and machine |
//! | `host` | what a shard's thread takes from the lobby, and asks of it |
//! | `lobby` | the control lane: accept, dial, handshake, hand over |
//! | `stream` | a client's side over blocking sockets |
//! | `refusal` | every refusal has a name, a counter and a line in the log |
//!
//! Left out: revocation lists (reissue the authority), rights of clients by table, kernel TLS.

mod error;
mod files;
mod host;
mod layer;
mod lobby;
mod records;
mod refusal;
mod role;
mod stream;
#[cfg(test)]
mod tests;

pub use error::TlsError;
pub use files::{ClientTls, NodeTls, TlsFiles};
pub use refusal::{Refusal, Refusals};
pub use role::Role;
pub use stream::TlsStream;

pub(crate) use host::Host;
pub(crate) use lobby::{
    ARRIVALS_QUEUE, Arrival, DIALS_QUEUE, Desk, Dial, Door, Lobby, LobbyPlan, Which,
};
pub(crate) use records::{Records, shake};
