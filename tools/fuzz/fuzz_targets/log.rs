//! `cargo fuzz run log`; see `src/targets/log.rs`.
#![no_main]
forebay_fuzz::fuzz!(log);
