//! `cargo fuzz run number`; see `src/targets/number.rs`.
#![no_main]
forebay_fuzz::fuzz!(number);
