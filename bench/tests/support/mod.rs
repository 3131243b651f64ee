//! What the tests with real stores share.
#![allow(dead_code)]

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output};
use std::sync::atomic::{AtomicU16, Ordering};

/// A child that ends with its owner.
pub(crate) struct Owned(pub(crate) Child);

impl Drop for Owned {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A port below those that the kernel gives to outgoing connections, which come and go by the
/// thousand while these tests run.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = std::process::id() as u16;
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed).wrapping_mul(37);
        let port = 20_000 + start.wrapping_mul(101).wrapping_add(step) % 12_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Runs the tool with the words of `args` in `dir`.
pub(crate) fn bench(args: &str, dir: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_forebay-bench"))
        .args(args.split_whitespace())
        .current_dir(dir)
        .output()
        .unwrap()
}

/// What it printed; it must have succeeded.
#[track_caller]
pub(crate) fn succeeds(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{:?}\n{text}\n{errors}", output.status);
    text
}

/// The `report.json` in `dir`.
pub(crate) fn report(dir: &Path) -> serde_json::Value {
    let file = dir.join("report.json");
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

/// A scenario with what only some stores can do, written into `dir`.
pub(crate) fn conditions_and_queries(dir: &Path) {
    let text = "records = 1000\nsort_digits = 1\nvalues = 40\nitems = [1, 5]\nconnections = 4\n\
                [mix]\nget = 40\nput = 20\nconditional_put = 20\nquery = 20\n";
    std::fs::write(dir.join("conditions.toml"), text).unwrap();
}
