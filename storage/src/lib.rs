//! Bytes at rest: one shard's log, B-tree, page cache, overlay, checkpoint and recovery.
//!
//! The shard lane's code here is a state machine over [`block`] operations: it asks for reads,
//! writes and flushes and is told when they are done. Nothing here opens a file, except the
//! maintenance lane, which does bulk I/O on immutable extents with glommio.
#![deny(unsafe_code)]

pub mod block;
pub mod cache;
pub mod directory;
pub mod log;
pub mod maintenance;
pub mod notice;
pub mod overlay;
pub mod sim_disk;
pub mod space;
pub mod store;
pub mod superblock;
mod touch;
pub mod tree;
