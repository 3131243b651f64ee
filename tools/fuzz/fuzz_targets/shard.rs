//! `cargo fuzz run shard`; see `src/targets/shard.rs`.
#![no_main]
forebay_fuzz::fuzz!(shard);
