//! For tests that need the real thing: say loudly that they were skipped, or, under CI, fail.

use std::path::Path;

use super::{Ring, RingConfig, RingError, open_direct};

/// Whether a ring can be made here. Prints why not; panics instead when the variable `CI` is set,
/// so that a machine without io_uring cannot pass by skipping.
pub fn require_io_uring() -> bool {
    let tiny = RingConfig {
        connections_max: 1,
        receive_buffers: 1,
        receive_buffer_bytes: 64,
        ..RingConfig::default()
    };
    require("io_uring", Ring::new(tiny).map(drop))
}

/// Whether files in `dir` can be opened for direct I/O. Prints or panics like
/// [`require_io_uring`].
pub fn require_direct(dir: &Path) -> bool {
    let path = dir.join("direct-io-probe");
    let opened = open_direct(&path, true).map(drop);
    let _ = std::fs::remove_file(&path);
    require("O_DIRECT", opened)
}

fn require(what: &str, made: Result<(), RingError>) -> bool {
    match made {
        Ok(()) => true,
        Err(e) if std::env::var_os("CI").is_some() => panic!("{what} is required under CI: {e}"),
        Err(e) => {
            eprintln!("SKIPPED: this test needs {what}: {e}");
            false
        }
    }
}
