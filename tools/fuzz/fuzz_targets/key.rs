//! `cargo fuzz run key`; see `src/targets/key.rs`.
#![no_main]
forebay_fuzz::fuzz!(key);
