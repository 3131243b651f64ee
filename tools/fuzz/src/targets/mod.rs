//! What is done with arbitrary bytes, one module for each decoder.
//!
//! ```text
//!   libFuzzer (tools/fuzz/run, sanitizers, coverage) ─┐
//!                                                     ├─► target::run(bytes)
//!   cargo test (tools/tests/decoders.rs, seeded) ─────┘
//! ```
//!
//! A target panics if a promise is broken. "Does not panic" is the least of them; wherever bytes
//! are accepted, the target demands more: the same bytes when encoded again, by code of its own
//! that follows the format's table; lookups that agree with iteration; order that agrees with
//! meaning.
//!
//! Formats with a checksum are tried twice, as given and with the checksum made right, because
//! random changes would otherwise never get behind it.

pub mod catalog;
pub mod frame;
pub mod item;
pub mod key;
pub mod log;
pub mod member;
pub mod message;
pub mod number;
pub mod page;
pub mod peer;
pub mod recovery;
pub mod shard;
mod sim;
pub mod space;
pub mod superblock;
pub mod table;

use forebay_storage::block::BLOCK_BYTES;

/// A decoder under test.
#[derive(Clone, Copy)]
pub struct Target {
    /// Its name, also of the fuzz binary.
    pub name: &'static str,
    /// Tries one input.
    pub run: fn(&[u8]),
    /// Inputs to begin with; always the same.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Inputs in the ordinary test: a second or so.
    pub test_rounds: u32,
}

macro_rules! targets {
    ($($name:ident: $test_rounds:literal,)*) => {
        /// Every target.
        pub const ALL: &[Target] = &[$(Target {
            name: stringify!($name),
            run: $name::run,
            seeds: $name::seeds,
            test_rounds: $test_rounds,
        },)*];
    };
}

targets! {
    frame: 300_000,
    message: 200_000,
    peer: 100_000,
    item: 400_000,
    number: 400_000,
    key: 400_000,
    table: 400_000,
    log: 200_000,
    page: 150_000,
    superblock: 100_000,
    space: 20_000,
    catalog: 1_000_000,
    member: 1_000_000,
    recovery: 4_000,
    shard: 2_500,
}

/// The target of this name.
///
/// # Panics
/// If there is none.
#[must_use]
pub fn find(name: &str) -> &'static Target {
    ALL.iter().find(|target| target.name == name).expect("a target of this name")
}

/// Takes an input apart; what is missing reads as zero.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, bytes: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(bytes.min(self.0.len()));
        self.0 = rest;
        taken
    }

    fn number(&mut self, bytes: usize) -> u64 {
        let taken = self.take(bytes);
        taken.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
    }

    fn byte(&mut self) -> u8 {
        self.number(1) as u8
    }
}

/// The bytes, with zeros up to a multiple of the block size, at least one block.
fn blocks_of(bytes: &[u8]) -> Vec<u8> {
    let mut blocks = bytes.to_vec();
    blocks.resize(bytes.len().next_multiple_of(BLOCK_BYTES).max(BLOCK_BYTES), 0);
    blocks
}

/// The bytes without the zeros at their end: short seeds are changed where it matters.
fn trimmed(bytes: &[u8]) -> Vec<u8> {
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    bytes[..end].to_vec()
}

fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    bytes[at..at + field.len()].copy_from_slice(field);
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}
