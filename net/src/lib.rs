//! Bytes in motion: the ring, frames and links, and the roles that serve.
//!
//! A shard's logic is a [`machine::Machine`]: events in, effects out, no system call. The ring in
//! [`ring`] drives it in production; the simulator drives the same object.
#![deny(unsafe_code)]

pub mod client;
pub mod control;
pub mod frame;
pub mod lane;
pub mod link;
pub mod machine;
pub mod metrics;
pub mod node;
pub mod refusals;
pub mod relay;
pub mod replication;
pub mod ring;
pub mod shard;
pub mod tls;
