//! `cargo fuzz run space`; see `src/targets/space.rs`.
#![no_main]
forebay_fuzz::fuzz!(space);
