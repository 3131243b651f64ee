//! `cargo fuzz run member`; see `src/targets/member.rs`.
#![no_main]
forebay_fuzz::fuzz!(member);
