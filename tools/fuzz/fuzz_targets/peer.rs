//! `cargo fuzz run peer`; see `src/targets/peer.rs`.
#![no_main]
forebay_fuzz::fuzz!(peer);
