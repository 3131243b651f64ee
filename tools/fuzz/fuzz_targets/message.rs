//! `cargo fuzz run message`; see `src/targets/message.rs`.
#![no_main]
forebay_fuzz::fuzz!(message);
