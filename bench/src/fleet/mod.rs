//! Stores that this tool starts for itself, on a core of their own, and that end with it.
//!
//! ```text
//!   "redis,forebay,floor" ─► Store ─► Member { process, directory, url } ─► ready ─► measured
//!                                        └── paused while another is measured; killed by its pid
//! ```
//!
//! Every member runs pinned to one core with all its threads, as `taskset -c CORE PROGRAM` would,
//! and prints its command line, so that a reader can start the same by hand. A member that is not
//! being measured stands still (SIGSTOP): its background work cannot be charged to another.

pub(crate) mod client;
pub(crate) mod cluster;
pub(crate) mod http;
pub(crate) mod metrics;
mod own;
mod peers;
pub(crate) mod ports;
pub(crate) mod process;
mod spawn;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use forebay_net::ring::cores_allowed;

use crate::error::BenchError;
use crate::sys;
use crate::target::TargetUrl;
use metrics::Metrics;
pub(crate) use own::beside;
use process::{OwnedDir, OwnedProcess};

/// How long a store may take to serve; prewriting a large log on a slow disk takes its time.
const READY_TIMEOUT: Duration = Duration::from_secs(300);

/// What can stand in `--targets`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Store {
    /// `redis-server` from PATH, durable.
    Redis,
    /// Three `etcd` from PATH, one cluster.
    Etcd3,
    /// `memcached` from PATH.
    Memcached,
    /// The `forebay` beside this program.
    Forebay,
    /// The same, speaking TLS.
    ForebayTls,
    /// Three of them, one cluster.
    Forebay3,
    /// The same, whose nodes and clients speak TLS.
    Forebay3Tls,
    /// The floor under the workload.
    Floor,
    /// `floor --mode echo` of this program.
    FloorEcho,
    /// `floor --mode log` of this program.
    FloorLog,
    /// One that runs already.
    Running(TargetUrl),
}

impl FromStr for Store {
    type Err = String;

    fn from_str(text: &str) -> Result<Store, String> {
        Ok(match text {
            "redis" => Store::Redis,
            "etcd3" => Store::Etcd3,
            "memcached" => Store::Memcached,
            "forebay" => Store::Forebay,
            "forebay-tls" => Store::ForebayTls,
            "forebay3" => Store::Forebay3,
            "forebay3-tls" => Store::Forebay3Tls,
            "floor" => Store::Floor,
            "floor-echo" => Store::FloorEcho,
            "floor-log" => Store::FloorLog,
            url if url.contains("://") => Store::Running(url.parse()?),
            _ => {
                return Err("expected redis, etcd3, memcached, forebay, forebay-tls, forebay3, \
                     forebay3-tls, floor, floor-echo, floor-log, or the URL of a running store"
                    .to_owned());
            }
        })
    }
}

impl fmt::Display for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Store::Redis => f.write_str("redis"),
            Store::Etcd3 => f.write_str("etcd3"),
            Store::Memcached => f.write_str("memcached"),
            Store::Forebay => f.write_str("forebay"),
            Store::ForebayTls => f.write_str("forebay-tls"),
            Store::Forebay3 => f.write_str("forebay3"),
            Store::Forebay3Tls => f.write_str("forebay3-tls"),
            Store::Floor => f.write_str("floor"),
            Store::FloorEcho => f.write_str("floor-echo"),
            Store::FloorLog => f.write_str("floor-log"),
            Store::Running(url) => url.fmt(f),
        }
    }
}

/// Where and how members run.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// Their directories are made below it.
    pub(crate) data_dir: PathBuf,
    /// The core that all threads of a member run on.
    pub(crate) core: Option<usize>,
    /// Further options of `forebay dev`.
    pub(crate) forebay: Vec<String>,
}

impl Place {
    /// The same place, with `options` for `forebay dev`.
    pub(crate) fn with<const N: usize>(&self, options: [&str; N]) -> Place {
        let mut place = self.clone();
        place.forebay.extend(options.map(str::to_owned));
        place
    }

    /// The same place, with no core of its own.
    pub(crate) fn unpinned(&self) -> Place {
        Place { core: None, ..self.clone() }
    }
}

/// Which cores the two sides get: those asked for, else the first two, else none.
pub(crate) fn share_cores(
    server: Option<usize>,
    client: Option<usize>,
) -> (Option<usize>, Option<usize>) {
    match cores_allowed().as_slice() {
        [first, second, ..] => (server.or(Some(*first)), client.or(Some(*second))),
        _ => (server, client),
    }
}

/// A store to measure.
#[derive(Debug)]
pub(crate) struct Member {
    /// Its name in tables.
    pub(crate) name: String,
    /// Where it serves.
    pub(crate) url: TargetUrl,
    /// Operator HTTP, of a forebay.
    pub(crate) http: Option<SocketAddr>,
    /// How it was started, as one would type it.
    pub(crate) command: String,
    // In this order: the processes end before their directory goes.
    processes: Vec<OwnedProcess>,
    dir: Option<OwnedDir>,
}

impl Member {
    /// Starts `store` and waits until it serves; `name` is for tables.
    pub(crate) fn start(store: &Store, name: &str, place: &Place) -> Result<Member, BenchError> {
        match store {
            Store::Redis => peers::start_redis(name, place),
            Store::Etcd3 => peers::start_etcd3(name, place),
            Store::Memcached => peers::start_memcached(name, place),
            Store::Forebay => own::start_forebay(name, place),
            Store::ForebayTls => own::start_forebay_tls(name, place),
            Store::Forebay3 => cluster::start_forebay3(name, place, false),
            Store::Forebay3Tls => cluster::start_forebay3(name, place, true),
            Store::FloorEcho => own::start_floor(name, place, "echo"),
            Store::Floor | Store::FloorLog => own::start_floor(name, place, "log"),
            Store::Running(url) => Ok(Member {
                name: name.to_owned(),
                url: url.clone(),
                http: None,
                command: format!("{url} (was running)"),
                processes: Vec::new(),
                dir: None,
            }),
        }
    }

    /// An HTTP server with nothing behind it, which serves `page`.
    pub(crate) fn page_server(page: &[u8], place: &Place) -> Result<Member, BenchError> {
        own::start_page_server(page, place)
    }

    /// Its processes, if this tool started them.
    pub(crate) fn pids(&self) -> impl Iterator<Item = u32> {
        self.processes.iter().map(OwnedProcess::pid)
    }

    /// CPU time of all its processes, in microseconds; None if this tool did not start it.
    pub(crate) fn cpu_micros(&self) -> Option<u64> {
        match self.processes.is_empty() {
            true => None,
            false => self.pids().map(sys::process_cpu_micros).sum(),
        }
    }

    /// Its directory, if this tool made it.
    pub(crate) fn dir(&self) -> Option<&Path> {
        self.dir.as_ref().map(OwnedDir::path)
    }

    /// Stands still.
    pub(crate) fn pause(&self) {
        self.processes.iter().for_each(OwnedProcess::pause);
    }

    /// Goes on.
    pub(crate) fn resume(&self) {
        self.processes.iter().for_each(OwnedProcess::resume);
    }

    /// Its counters. Only a forebay that this tool started has them.
    pub(crate) fn metrics(&self) -> Result<Metrics, BenchError> {
        Metrics::read(self.http.expect("a started forebay has an operator HTTP"))
    }
}

fn url(text: &str) -> TargetUrl {
    text.parse().expect("an address makes a URL")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_name_or_a_url() {
        assert_eq!("redis".parse(), Ok(Store::Redis));
        assert!(matches!("redis://h:1".parse(), Ok(Store::Running(_))));
        assert!("rediss".parse::<Store>().unwrap_err().contains("floor-log"));
    }
}
