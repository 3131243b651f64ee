//! TLS between real certificates: records torn anywhere, connections refused by name, and a shard's
//! layer between a ring and a machine that know nothing of it.

mod authority;
mod handshake;
mod layer;
mod records;
