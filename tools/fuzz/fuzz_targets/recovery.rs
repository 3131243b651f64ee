//! `cargo fuzz run recovery`; see `src/targets/recovery.rs`.
#![no_main]
forebay_fuzz::fuzz!(recovery);
