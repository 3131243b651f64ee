//! `cargo fuzz run page`; see `src/targets/page.rs`.
#![no_main]
forebay_fuzz::fuzz!(page);
