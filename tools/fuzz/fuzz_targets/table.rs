//! `cargo fuzz run table`; see `src/targets/table.rs`.
#![no_main]
forebay_fuzz::fuzz!(table);
