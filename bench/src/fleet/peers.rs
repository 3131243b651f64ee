//! Stores of others, started as their own documentation says, and durable.
//!
//! A peer announces nothing on stdout, so it is asked over its own protocol until it answers, and
//! only while its process lives: an answer from a port that another process holds is not its own.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::metrics::fetch;
use super::ports::{attempts, free_port};
use super::process::{OwnedDir, OwnedProcess};
use super::spawn::{Output, Spawned, does_not_start, spawn};
use super::{Member, Place, READY_TIMEOUT, url};
use crate::error::BenchError;

/// How long one question to a starting peer may take.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);
/// Between two questions.
const ASK_AGAIN: Duration = Duration::from_millis(20);

/// `redis-server`, durable.
pub(super) fn start_redis(name: &str, place: &Place) -> Result<Member, BenchError> {
    attempts(|| {
        let dir = OwnedDir::create(&place.data_dir, name)?;
        let port = free_port()?;
        let mut words: Vec<String> = ["redis-server", "--bind", "127.0.0.1", "--port"]
            .map(str::to_owned)
            .into_iter()
            .chain([port.to_string(), "--dir".to_owned(), dir.path().display().to_string()])
            .collect();
        words.extend(
            ["--appendonly", "yes", "--appendfsync", "always", "--save", ""].map(str::to_owned),
        );
        let Spawned { process, command } = spawn(name, &words, place, dir.path(), Output::Log)?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        serves(name, &command, &process, || pongs(address))?;
        Ok(Member {
            name: name.to_owned(),
            url: url(&format!("redis://{address}")),
            http: None,
            command,
            processes: vec![process],
            dir: Some(dir),
        })
    })
}

/// Three etcd processes that form one cluster, each with its own directory; every setting that
/// concerns durability is etcd's default.
pub(super) fn start_etcd3(name: &str, place: &Place) -> Result<Member, BenchError> {
    attempts(|| {
        let dir = OwnedDir::create(&place.data_dir, name)?;
        let mut ports = Vec::new();
        for _ in 0..ETCD_MEMBERS {
            ports.push((free_port()?, free_port()?));
        }
        let at = |port: u16| format!("http://127.0.0.1:{port}");
        let cluster: Vec<String> = (1..)
            .zip(&ports)
            .map(|(number, &(_, peers))| format!("n{number}={}", at(peers)))
            .collect();
        let mut processes = Vec::new();
        let mut commands = Vec::new();
        for (number, &(clients, peers)) in (1..).zip(&ports) {
            // A log of its own for each: they must not write over each other.
            let own = dir.path().join(format!("n{number}"));
            std::fs::create_dir(&own)
                .map_err(|source| BenchError::File { path: own.clone(), source })?;
            let words = [
                "etcd".to_owned(),
                format!("--name=n{number}"),
                "--data-dir".to_owned(),
                own.join("data").display().to_string(),
                format!("--listen-client-urls={}", at(clients)),
                format!("--advertise-client-urls={}", at(clients)),
                format!("--listen-peer-urls={}", at(peers)),
                format!("--initial-advertise-peer-urls={}", at(peers)),
                format!("--initial-cluster={}", cluster.join(",")),
                "--initial-cluster-state=new".to_owned(),
                // Every version of a key is kept until it is compacted; the default is 2 GB.
                "--quota-backend-bytes=8589934592".to_owned(),
                "--logger=zap".to_owned(),
                "--log-level=warn".to_owned(),
            ];
            let Spawned { process, command } = spawn(name, &words, place, &own, Output::Log)?;
            processes.push(process);
            commands.push(command);
        }
        // A member is healthy once the cluster has a leader, which takes all that were started.
        for ((&(clients, _), process), command) in ports.iter().zip(&processes).zip(&commands) {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, clients));
            serves(name, command, process, || is_healthy(address))?;
        }
        let addresses: Vec<String> =
            ports.iter().map(|(clients, _)| format!("127.0.0.1:{clients}")).collect();
        Ok(Member {
            name: name.to_owned(),
            url: url(&format!("etcd://{}", addresses.join(","))),
            http: None,
            command: commands.join("\n    "),
            processes,
            dir: Some(dir),
        })
    })
}

/// Of the smallest cluster that outlives one member.
const ETCD_MEMBERS: usize = 3;

fn is_healthy(address: SocketAddr) -> bool {
    fetch(address, "/health")
        .is_ok_and(|body| String::from_utf8_lossy(&body).contains("\"health\":\"true\""))
}

/// `memcached`, with memory for all that the figures load.
pub(super) fn start_memcached(name: &str, place: &Place) -> Result<Member, BenchError> {
    attempts(|| {
        let dir = OwnedDir::create(&place.data_dir, name)?;
        let port = free_port()?;
        // As root it wants to know whom to run as; else it ignores that.
        let words = [
            "memcached",
            "--listen=127.0.0.1",
            &format!("--port={port}"),
            "--udp-port=0",
            "--memory-limit=1024",
            "--user=nobody",
        ]
        .map(str::to_owned);
        let Spawned { process, command } = spawn(name, &words, place, dir.path(), Output::Log)?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let versions = || answers(address, b"version\r\n", b"VERSION ");
        serves(name, &command, &process, versions)?;
        Ok(Member {
            name: name.to_owned(),
            url: url(&format!("memcached://{address}")),
            http: None,
            command,
            processes: vec![process],
            dir: Some(dir),
        })
    })
}

/// Waits until `answers` says so while `process` lives.
fn serves(
    name: &str,
    command: &str,
    process: &OwnedProcess,
    answers: impl Fn() -> bool,
) -> Result<(), BenchError> {
    let began = Instant::now();
    loop {
        let answered = answers();
        // Looked at after the answer: a process that has ended did not give it.
        if process.ended().is_some() || began.elapsed() > READY_TIMEOUT {
            return Err(does_not_start(name, command, process));
        }
        if answered {
            return Ok(());
        }
        std::thread::sleep(ASK_AGAIN);
    }
}

/// Sends `question` to `address`; whether the answer begins with `expected`.
fn answers(address: SocketAddr, question: &[u8], expected: &[u8]) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect_timeout(&address, ASK_TIMEOUT)?;
        stream.set_read_timeout(Some(ASK_TIMEOUT))?;
        stream.write_all(question)?;
        let mut reply = vec![0; expected.len()];
        stream.read_exact(&mut reply)?;
        Ok(reply == expected)
    };
    ask().unwrap_or(false)
}

fn pongs(address: SocketAddr) -> bool {
    answers(address, b"PING\r\n", b"+PONG")
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// What made a test red once: something else answers where redis was to listen.
    #[test]
    fn a_foreign_answer_is_not_taken_for_a_dead_process() {
        let foreign = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = foreign.local_addr().unwrap();
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = foreign.accept() {
                let _ = stream.write_all(b"+PONG\r\n");
            }
        });
        let dir = tempfile::tempdir().unwrap();
        let place = Place { data_dir: dir.path().to_owned(), core: None, forebay: Vec::new() };
        let words = ["sh", "-c", "echo Failed listening on port; exit 1"].map(str::to_owned);
        let Spawned { process, command } =
            spawn("redis", &words, &place, dir.path(), Output::Log).unwrap();
        let began = Instant::now();
        while process.ended().is_none() && began.elapsed().as_secs() < 10 {
            std::thread::sleep(ASK_AGAIN);
        }
        let error = serves("redis", &command, &process, || pongs(address)).unwrap_err();
        assert!(error.to_string().contains("Failed listening"), "{error}");
    }
}
