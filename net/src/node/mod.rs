//! A node: a process with shards and a data directory.

pub mod config;
