//! `cargo fuzz run item`; see `src/targets/item.rs`.
#![no_main]
forebay_fuzz::fuzz!(item);
