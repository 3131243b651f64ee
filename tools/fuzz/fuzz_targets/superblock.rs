//! `cargo fuzz run superblock`; see `src/targets/superblock.rs`.
#![no_main]
forebay_fuzz::fuzz!(superblock);
