//! Stores of others, where they are installed. A test that goes without one says so and passes.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::{Owned, bench};

/// How one is started, and when it serves.
pub(crate) struct Kind {
    scheme: &'static str,
    program: &'static str,
    /// Adds its arguments, for this port and this directory.
    arguments: fn(&mut Command, u16, &Path),
    /// Whether it serves at this port.
    serves: fn(u16) -> bool,
}

/// Durable.
pub(crate) const REDIS: Kind = Kind {
    scheme: "redis",
    program: "redis-server",
    arguments: |command, port, dir| {
        command
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""])
            .args(["--appendonly", "yes", "--appendfsync", "always", "--dir"])
            .arg(dir);
    },
    serves: |port| answers(port, b"PING\r\n", b"+PONG"),
};

/// With more memory than any test loads.
pub(crate) const MEMCACHED: Kind = Kind {
    scheme: "memcached",
    program: "memcached",
    arguments: |command, port, _| {
        command
            .args(["--listen=127.0.0.1", "--udp-port=0", "--user=nobody", "--memory-limit=1024"])
            .arg(format!("--port={port}"));
    },
    serves: |port| answers(port, b"version\r\n", b"VERSION "),
};

/// A cluster of one.
pub(crate) const ETCD: Kind = Kind {
    scheme: "etcd",
    program: "etcd",
    arguments: |command, port, dir| {
        let at = format!("http://127.0.0.1:{port}");
        command
            .args(["--listen-client-urls", &at, "--advertise-client-urls", &at])
            .args(["--listen-peer-urls", &format!("http://127.0.0.1:{}", free_port())])
            .arg("--data-dir")
            .arg(dir.join("data"));
    },
    serves: |port| answers(port, b"GET /health HTTP/1.0\r\n\r\n", b"HTTP/1.0 200"),
};

/// A store that serves, with a directory of its own.
pub(crate) struct Store {
    // In this order: the process ends before its directory goes.
    pub(crate) process: Owned,
    pub(crate) port: u16,
    pub(crate) dir: tempfile::TempDir,
    kind: Kind,
}

impl Store {
    /// Starts one; None if it is not installed.
    pub(crate) fn start(kind: Kind) -> Option<Store> {
        let dir = tempfile::tempdir().unwrap();
        let (process, port) = serve(&kind, dir.path(), free_port)?;
        Some(Store { process, port, dir, kind })
    }

    /// Ends it without a warning.
    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again, with the data that it left, where it was.
    pub(crate) fn restart(&mut self) {
        let port = self.port;
        let (process, _) = serve(&self.kind, self.dir.path(), || port).expect("installed");
        self.process = process;
    }

    /// Where it serves.
    pub(crate) fn target(&self) -> String {
        format!("{}://127.0.0.1:{}", self.kind.scheme, self.port)
    }

    /// Runs the tool in the store's directory, with the store in TARGET's place.
    pub(crate) fn bench(&self, args: &str) -> Output {
        bench(&args.replace("TARGET", &self.target()), self.dir.path())
    }
}

/// Starts a `kind` with its data in `dir`, on the first of `ports` that it gets.
fn serve(kind: &Kind, dir: &Path, ports: impl Fn() -> u16) -> Option<(Owned, u16)> {
    let log = dir.join("log-of-the-store");
    for _ in 0..20 {
        let port = ports();
        let mut command = Command::new(kind.program);
        (kind.arguments)(&mut command, port, dir);
        let output = std::fs::File::create(&log).unwrap();
        let errors = output.try_clone().unwrap();
        let Ok(child) = command.stdin(Stdio::null()).stdout(output).stderr(errors).spawn() else {
            eprintln!("SKIPPED: {} is not installed; this test needs it", kind.program);
            return None;
        };
        let mut process = Owned(child);
        let began = Instant::now();
        // One that ends did not get its port: another program was quicker. An answer counts only while
        // this very process lives.
        while process.0.try_wait().unwrap().is_none() {
            if (kind.serves)(port) && process.0.try_wait().unwrap().is_none() {
                return Some((process, port));
            }
            let said = || std::fs::read_to_string(&log).unwrap_or_default();
            let waited = began.elapsed() < Duration::from_secs(30);
            assert!(waited, "{} does not answer:\n{}", kind.program, said());
            sleep(Duration::from_millis(20));
        }
    }
    let said = std::fs::read_to_string(&log).unwrap_or_default();
    panic!("{} found no port to serve on:\n{said}", kind.program);
}

/// Whether what listens at `port` answers `question` with something that begins so.
fn answers(port: u16, question: &[u8], expected: &[u8]) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(question)?;
        let mut reply = vec![0; expected.len()];
        stream.read_exact(&mut reply)?;
        Ok(reply == expected)
    };
    ask().unwrap_or(false)
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
