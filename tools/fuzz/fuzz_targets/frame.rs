//! `cargo fuzz run frame`; see `src/targets/frame.rs`.
#![no_main]
forebay_fuzz::fuzz!(frame);
