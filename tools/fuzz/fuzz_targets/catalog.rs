//! `cargo fuzz run catalog`; see `src/targets/catalog.rs`.
#![no_main]
forebay_fuzz::fuzz!(catalog);
