//! SIGKILL of the real process under load, again and again on one data directory, against a ledger
//! of acknowledged writes.
//!
//! ```text
//!   write ─► kill -9 ─► (kill -9 while it recovers) ─► serve ─► read everything back ─► write …
//! ```
//!
//! The directory's log and memory are as small as a node accepts, so that checkpoints, merges and
//! the log's ring come round many times. A kill leaves what the kernel has: power loss, where
//! unflushed sectors go, is the business of the crash images in storage.

mod support;

use std::fs::File;
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use support::client::Client;
use support::ledger::{Tally, Writer, write_until};
use support::process::{Node, log_path, smallest_config};
use support::scratch;

/// Longest time of load before a kill.
const LOAD_MILLIS_MAX: u64 = 700;
/// Writes that must be acknowledged between two kills.
const ACKNOWLEDGED_MIN: u64 = 50;
/// A node that acknowledges nothing for so long refuses what it should take.
const PATIENCE: Duration = Duration::from_secs(20);
const WRITERS: usize = 4;
const KEYS_OF_WRITER: usize = 1500;

#[test]
fn fifty_kills_lose_no_acknowledged_write() {
    kill_again_and_again("one shard", 1, 50);
}

#[test]
fn kills_lose_no_acknowledged_write_of_two_shards() {
    kill_again_and_again("two shards", 2, 12);
}

fn kill_again_and_again(name: &str, shards: u16, kills: u32) {
    let Some(dir) = scratch() else { return };
    let (data, file) = (dir.path().join("data"), dir.path().join("forebay.toml"));
    smallest_config(&file, &data, shards);
    let mut node = Node::configured(&file);
    let mut client = Client::connect(node.native()).unwrap();
    let table = client.create_table("ledger");
    let mut ports = client.ports();
    drop(client);
    let writer = |number| Writer::new(number, &table, ports.len(), KEYS_OF_WRITER);
    let mut writers: Vec<Writer> = (0..WRITERS).map(writer).collect();
    let tally = Tally::default();
    let mut random = SmallRng::seed_from_u64(7);
    let begun = Instant::now();
    let (mut killed, mut slowest_start, mut slowest_ack, mut slowest_release) =
        (0, Duration::ZERO, Duration::ZERO, Duration::ZERO);

    while killed < kills {
        let place = (node.native(), &ports[..]);
        let time = Duration::from_millis(random.random_range(20..LOAD_MILLIS_MAX));
        let goal = (time, ACKNOWLEDGED_MIN, PATIENCE);
        let first = write_until(&mut writers, place, &tally, goal, || node.kill());
        slowest_ack = slowest_ack.max(first);
        assert_eq!(node.end().0.code(), None, "killed, not ended");
        killed += 1;
        if random.random_ratio(1, 5) && killed < kills {
            kill_while_it_starts(&file, Duration::from_millis(random.random_range(1..80)));
            killed += 1;
        }
        slowest_release = slowest_release.max(until_released(&data, shards));
        node = Node::configured(&file);
        slowest_start = slowest_start.max(node.started_in);
        let mut client = Client::connect(node.native()).unwrap();
        ports = client.ports();
        assert_eq!(client.describe_table("ledger"), table);
        verify(&mut writers, &node, &ports, &tally);
    }
    let status = node.status();
    node.stop();
    let node = Node::configured(&file);
    ports = Client::connect(node.native()).unwrap().ports();
    verify(&mut writers, &node, &ports, &tally);
    node.stop();

    let acknowledged = tally.acknowledged.load(Relaxed);
    println!(
        "{name}: {killed} kills in {:.1} s; {acknowledged} writes acknowledged, {} refused while \
         overloaded, {} items read back; longest start {} ms, longest until a write was \
         acknowledged {} ms, longest until the kernel let go of a killed node's log {} ms",
        begun.elapsed().as_secs_f64(),
        tally.refused.load(Relaxed),
        tally.verified.load(Relaxed),
        slowest_start.as_millis(),
        slowest_ack.as_millis(),
        slowest_release.as_millis(),
    );
    for shard in status["shards"].as_array().unwrap() {
        let rounds = figure(shard, "log", "next_lsn") / figure(shard, "log", "capacity_bytes");
        let checkpoints = figure(shard, "checkpoint", "number");
        println!("  the log came round {rounds:.1} times; {checkpoints} checkpoints");
        assert!(checkpoints >= f64::from(kills), "a checkpoint for every kill at least");
    }
}

fn figure(shard: &serde_json::Value, block: &str, name: &str) -> f64 {
    shard[block][name].as_f64().unwrap_or_else(|| panic!("no {block}.{name} in {shard}"))
}

fn verify(writers: &mut [Writer], node: &Node, ports: &[u16], tally: &Tally) {
    let at = node.native();
    std::thread::scope(|scope| {
        for writer in writers {
            scope.spawn(move || writer.verify(at, ports, tally));
        }
    });
}

fn kill_while_it_starts(file: &Path, after: Duration) {
    let mut command = support::process::command();
    let mut child = command.arg("node").arg("--config").arg(file);
    let null = || std::process::Stdio::null();
    child = child.stdin(null()).stdout(null()).stderr(null());
    let mut child = child.spawn().unwrap();
    std::thread::sleep(after);
    child.kill().unwrap();
    child.wait().unwrap();
}

/// How long the locks on a reaped process's logs last: until its last writes have ended.
fn until_released(data: &Path, shards: u16) -> Duration {
    let begun = Instant::now();
    for shard in 0..shards {
        let log = File::open(log_path(data, shard)).unwrap();
        log.lock().unwrap();
    }
    begun.elapsed()
}
