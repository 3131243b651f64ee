//! What the tests of the real binary share: scratch directories, processes that end with their
//! test, clusters of them and their writers, a small disk, a blocking client of the native protocol, and of
//! the operator's HTTP.
//!
//! A test that needs io_uring, O_DIRECT or root says loudly that it was skipped; where the variable
//! `CI` is set it fails instead, so that a machine without them cannot pass by skipping.
#![allow(dead_code, reason = "every test binary uses another part of it")]
#![allow(unreachable_pub, reason = "it is a module of several binaries, never of a library")]

pub mod client;
pub mod disk;
pub mod http;
pub mod ledger;
pub mod nodes;
pub mod process;
pub mod writers;

use std::path::Path;

use forebay_net::ring::testing::{require_direct, require_io_uring};
use tempfile::TempDir;

/// Says that a test did not run, or fails where it must.
pub fn skip(why: &str) {
    assert!(std::env::var_os("CI").is_none(), "required under CI: {why}");
    eprintln!("SKIPPED: {why}");
}

/// A scratch directory on the disk of the build, where a node can serve; None with a word about
/// what is missing.
pub fn scratch() -> Option<TempDir> {
    let dir = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    (require_io_uring() && require_direct(dir.path())).then_some(dir)
}

/// The path as text.
pub fn text(path: &Path) -> &str {
    path.to_str().expect("scratch directories have plain names")
}
