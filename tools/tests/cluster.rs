//! Clusters of the real binary: made by an operator, written to by the real client, and deprived of
//! their leader.

mod support;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use forebay_core::item::{Item, Value};
use forebay_core::message::ErrorCode;
use forebay_core::table::{KeySchema, KeyType};
use forebay_net::client::{Client, ClientConfig, ClientError, Table};
use support::process::{
    Node, code, command, forebay, free_addresses, piped, refused, stderr, stdout,
};
use support::{scratch, text};

/// What nothing in these tests may take longer than, on a machine however busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// Three nodes, each in a process of its own.
struct Three {
    dir: PathBuf,
    natives: Vec<SocketAddr>,
    nodes: Vec<Option<Node>>,
}

fn config_file(dir: &Path, place: usize) -> PathBuf {
    dir.join(format!("node-{place}.toml"))
}

impl Three {
    /// Running, and in no cluster yet.
    fn start(dir: &Path) -> Three {
        Three::start_with(dir, "")
    }

    /// With further lines in the configuration.
    fn start_with(dir: &Path, lines: &str) -> Three {
        let addresses = free_addresses(6);
        let (natives, peers) = addresses.split_at(3);
        for place in 0..3 {
            let config = format!(
                "data = {:?}\nnative = \"{}\"\nhttp = \"off\"\nmemory = \"64MiB\"\npin_cores = false\n\
                 insecure = true\n{lines}[cluster]\npeer = \"{}\"\naz = {place}\n",
                dir.join(format!("data-{place}")),
                natives[place],
                peers[place],
            );
            std::fs::write(config_file(dir, place), config).unwrap();
        }
        let nodes = (0..3).map(|place| Some(Node::configured(&config_file(dir, place)))).collect();
        Three { dir: dir.to_owned(), natives: natives.to_vec(), nodes }
    }

    fn init(&self) {
        let names: Vec<String> = self.natives.iter().map(SocketAddr::to_string).collect();
        let mut args = vec!["admin", "init"];
        args.extend(names.iter().map(String::as_str));
        let output = forebay(&args);
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        assert!(stdout(&output).contains("of 3 nodes"), "{}", stdout(&output));
    }

    fn kill(&mut self, place: usize) {
        let mut node = self.nodes[place].take().expect("it runs");
        node.kill();
        drop(node.end());
    }

    fn restart(&mut self, place: usize) {
        self.nodes[place] = Some(Node::configured(&config_file(&self.dir, place)));
    }

    fn stop(self) {
        for node in self.nodes.into_iter().flatten() {
            node.stop();
        }
    }

    /// Every member of every group that answers: `(group, shard's address, what it says)`.
    fn members(&self) -> Vec<(u64, SocketAddr, serde_json::Value)> {
        let up = (0..3).find(|place| self.nodes[*place].is_some()).expect("one runs");
        let output = forebay(&["admin", "groups", &self.natives[up].to_string(), "--json"]);
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        let found: Vec<(SocketAddr, serde_json::Value)> =
            serde_json::from_str(&stdout(&output)).unwrap();
        let group = |member: &serde_json::Value| member["group"].as_u64().unwrap();
        found.into_iter().map(|(at, member)| (group(&member), at, member)).collect()
    }

    /// The node that leads some group of `table`.
    fn leader(&self, table: &str) -> usize {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let members = self.members();
            let leads = members.iter().find(|(_, _, member)| {
                member["table"] == table && member["role"] == "leading" && member["lease"] == true
            });
            if let Some((_, at, _)) = leads {
                return self.natives.iter().position(|native| native == at).unwrap();
            }
            assert!(Instant::now() < deadline, "nobody leads: {members:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until every member of every group has applied the same slot, on all three nodes.
    fn wait_until_equal(&self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let members = self.members();
            let mut slots: HashMap<u64, Vec<u64>> = HashMap::new();
            for (group, _, member) in &members {
                slots.entry(*group).or_default().push(member["applied_slot"].as_u64().unwrap());
            }
            let equal = |slots: &Vec<u64>| slots.len() == 3 && slots.iter().all(|s| *s == slots[0]);
            if slots.values().all(equal) {
                return;
            }
            if Instant::now() > deadline {
                let mut words = String::new();
                for (group, at, member) in members {
                    let _ = writeln!(words, "{group} {at} {member}");
                }
                panic!("the members do not become equal:\n{words}");
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

async fn connect(addresses: &[SocketAddr]) -> Client {
    Client::connect(addresses, ClientConfig::default()).await.expect("a node answers")
}

async fn create(client: &Client, name: &str, partitions: u32) -> Table {
    let schema = KeySchema::partition_only("id", KeyType::S);
    client.create_table(name, schema).partitions(partitions).send().await.expect("it is created")
}

fn item(writer: usize, number: u64) -> Item {
    Item::new().with("id", format!("w{writer}-{}", number % 50)).with("number", number)
}

/// What one writer knows of each of its keys: the last number acknowledged, and those after it whose
/// outcome it was not told.
type Ledger = HashMap<String, (u64, Vec<u64>)>;

/// Writes until told to stop. Returns its ledger, when each acknowledgement came, and how many
/// outcomes are unknown.
async fn write(table: Table, writer: usize, stop: Arc<AtomicBool>) -> (Ledger, Vec<Instant>, u64) {
    let (mut ledger, mut times, mut unknown) = (Ledger::new(), Vec::new(), 0);
    let mut number = 0;
    while !stop.load(Relaxed) {
        number += 1;
        let entry = ledger.entry(format!("w{writer}-{}", number % 50)).or_default();
        match table.put(&item(writer, number)).send().await {
            Ok(_) => {
                *entry = (number, Vec::new());
                times.push(Instant::now());
            }
            Err(ClientError::Unknown { .. }) => {
                unknown += 1;
                entry.1.push(number);
            }
            Err(ClientError::Refused { .. } | ClientError::Timeout { .. }) => {}
            Err(ClientError::Connect { .. }) => {}
            Err(error) => panic!("writer {writer}: {error}"),
        }
    }
    (ledger, times, unknown)
}

async fn check(table: &Table, ledgers: &[Ledger]) {
    for ledger in ledgers {
        for (id, (acknowledged, unknown)) in ledger {
            let key = Item::new().with("id", id.as_str());
            let found = table.get(&key).consistent(true).send().await.expect("a leader answers");
            let number = found.map_or(0, |item| match item.0.get("number") {
                Some(Value::N(number)) => number.to_u64().expect("a small number"),
                other => panic!("{id}: {other:?}"),
            });
            assert!(
                number == *acknowledged || unknown.contains(&number),
                "{id}: {number} is there, {acknowledged} was acknowledged last, then {unknown:?}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acknowledged_write_survives_the_loss_of_any_node() {
    let Some(dir) = scratch() else { return };
    let mut three = Three::start(dir.path());
    three.init();
    let client = connect(&three.natives).await;
    let table = create(&client, "ledger", 3).await;
    let mut ledgers = Vec::new();
    for round in 0..3 {
        let stop = Arc::new(AtomicBool::new(false));
        let writers: Vec<_> = (round * 4..round * 4 + 4)
            .map(|writer| tokio::spawn(write(table.clone(), writer, Arc::clone(&stop))))
            .collect();
        tokio::time::sleep(Duration::from_millis(700)).await;
        let victim = three.leader("ledger");
        let killed = Instant::now();
        three.kill(victim);
        tokio::time::sleep(Duration::from_millis(2500)).await;
        stop.store(true, Relaxed);
        let (mut after, mut lost, mut written) = (0, 0, 0);
        for writer in writers {
            let (ledger, times, unknown) = writer.await.expect("a writer does not panic");
            ledgers.push(ledger);
            after += times.iter().filter(|at| **at > killed + Duration::from_secs(1)).count();
            (lost, written) = (lost + unknown, written + times.len());
        }
        eprintln!("round {round}: {written} written, {after} after the loss, {lost} unknown");
        assert!(after > 0, "nobody took over within seconds");
        check(&table, &ledgers).await;
        three.restart(victim);
        three.wait_until_equal();
        check(&table, &ledgers).await;
    }
    three.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_was_stopped_comes_back_as_a_follower_and_catches_up() {
    let Some(dir) = scratch() else { return };
    let mut three = Three::start(dir.path());
    three.init();
    let client = connect(&three.natives).await;
    let table = create(&client, "ledger", 3).await;
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..4)
        .map(|writer| tokio::spawn(write(table.clone(), writer, Arc::clone(&stop))))
        .collect();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let stopped = three.leader("ledger");
    three.nodes[stopped].as_ref().expect("it runs").signal("STOP");
    tokio::time::sleep(Duration::from_millis(4000)).await;
    three.nodes[stopped].as_ref().expect("it runs").signal("CONT");
    tokio::time::sleep(Duration::from_millis(1000)).await;
    // What was stopped is needed now: it is one of the two that are left.
    let next = three.leader("ledger");
    three.kill(next);
    let killed = Instant::now();
    tokio::time::sleep(Duration::from_millis(3000)).await;
    stop.store(true, Relaxed);
    let (mut ledgers, mut after) = (Vec::new(), 0);
    for writer in writers {
        let (ledger, times, _) = writer.await.expect("a writer does not panic");
        after += times.iter().filter(|at| **at > killed + Duration::from_secs(1)).count();
        ledgers.push(ledger);
    }
    assert!(after > 0, "the two that are left serve nothing: {:?}", three.members());
    check(&table, &ledgers).await;
    three.restart(next);
    three.wait_until_equal();
    three.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_replica_answers_reads_that_need_not_be_strong_and_says_how_old_they_are() {
    let Some(dir) = scratch() else { return };
    let mut three = Three::start(dir.path());
    three.init();
    let client = connect(&three.natives).await;
    let table = create(&client, "aged", 1).await;
    for number in 0..50 {
        table.put(&item(1, number)).send().await.expect("it is written");
    }
    three.wait_until_equal();
    let key = Item::new().with("id", "w1-7");
    let bound = Duration::from_secs(5);
    for _ in 0..12 {
        let (found, lag) = table.get(&key).staleness_max(bound).send_with_lag().await.unwrap();
        assert_eq!(found, Some(item(1, 7)));
        assert_eq!(lag.behind_slots, 0);
        assert!(lag.age.is_some_and(|age| age < bound), "{lag:?}");
        assert_eq!(table.get(&key).consistent(false).send().await.unwrap(), Some(item(1, 7)));
    }
    let page = table.scan().staleness_max(bound).send().await.unwrap();
    assert_eq!((page.items.len(), page.lag.behind_slots), (50, 0));
    let page = table.query("w1-7").consistent(false).send().await.unwrap();
    assert_eq!(page.items, [item(1, 7)]);
    let keys = [key.clone()];
    let batch = table.batch_get(&keys).consistent(false).send().await.unwrap();
    assert_eq!(*batch[0].as_ref().unwrap(), Some(item(1, 7)));
    drop((table, client));

    // One that is left alone goes on answering, and its age grows.
    let last = (three.leader("aged") + 1) % 3;
    let alone = connect(&three.natives[last..=last]).await;
    let table = alone.table("aged").await.unwrap();
    for other in (0..3).filter(|place| *place != last) {
        three.kill(other);
    }
    tokio::time::sleep(Duration::from_millis(700)).await;
    let (found, lag) = table.get(&key).consistent(false).send_with_lag().await.unwrap();
    assert_eq!(found, Some(item(1, 7)));
    assert!(lag.age.is_some_and(|age| age >= Duration::from_millis(600)), "{lag:?}");
    let strict = table.get(&key).staleness_max(Duration::from_millis(300));
    let refused = strict.timeout(Duration::from_secs(1)).send().await.unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::TooStale), "{refused}");
    three.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_away_for_too_long_for_the_logs_gets_a_snapshot() {
    let Some(dir) = scratch() else { return };
    let lines = "log_segment_bytes = \"16MiB\"\nlog_segments = 4\ncheckpoint_seconds = 1\n";
    let mut three = Three::start_with(dir.path(), lines);
    three.init();
    let client = connect(&three.natives).await;
    let table = create(&client, "large", 1).await;
    let large = |writer: u64, number: u64| {
        let value = "v".repeat(20_000 + (writer * 13 + number) as usize % 3000);
        Item::new().with("id", format!("w{writer}-{}", number % 97)).with("value", value)
    };
    for number in 0..20 {
        table.put(&large(0, number)).send().await.expect("it is written");
    }
    let away = (three.leader("large") + 1) % 3;
    let slots = |three: &Three, place: usize| {
        let native = three.natives[place];
        let members = three.members();
        let member = members.into_iter().find(|(_, at, m)| *at == native && m["table"] == "large");
        let (_, _, member) = member.expect("it has a member");
        let slot = |name: &str| member[name].as_u64().expect("a number");
        (slot("applied_slot"), slot("trimmed_slot"))
    };
    let (applied, _) = slots(&three, away);
    three.kill(away);
    // Until the logs do not reach back that far.
    let mut rounds = 0;
    let deadline = Instant::now() + 2 * PATIENCE;
    loop {
        let write = |writer: u64| {
            let table = table.clone();
            async move {
                for number in rounds * 60..rounds * 60 + 60 {
                    table.put(&large(writer, number)).send().await.expect("it is written");
                }
            }
        };
        let writers: Vec<_> = (0..4).map(|writer| tokio::spawn(write(writer))).collect();
        for writer in writers {
            writer.await.expect("a writer does not panic");
        }
        rounds += 1;
        let leader = three.leader("large");
        if slots(&three, leader).1 > applied + 100 {
            break;
        }
        assert!(Instant::now() < deadline, "nothing is trimmed: {:?}", three.members());
    }
    three.restart(away);
    three.wait_until_equal();
    let (_, trimmed) = slots(&three, away);
    assert!(trimmed > applied, "it got everything from a log: {trimmed}, {applied}");
    // It serves what it was given.
    let group = three.members().into_iter().find(|(_, _, member)| member["table"] == "large");
    let group = group.expect("it is there").0.to_string();
    let (node, shard) = (three.natives[away].to_string(), (256 * away).to_string());
    let output = forebay(&["admin", "move-leader", &node, "--group", &group, "--to", &shard]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    while three.leader("large") != away {
        assert!(Instant::now() < deadline + PATIENCE, "it does not lead: {:?}", three.members());
        std::thread::sleep(Duration::from_millis(20));
    }
    for writer in 0..4 {
        for number in rounds * 60 - 97..rounds * 60 {
            let key = Item::new().with("id", format!("w{writer}-{}", number % 97));
            let found = table.get(&key).consistent(true).send().await.expect("it is read");
            assert_eq!(found, Some(large(writer, number)));
        }
    }
    three.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_in_one_process_finds_its_data_again() {
    let Some(dir) = scratch() else { return };
    let data = dir.path().join("data");
    let start = || {
        let mut command = command();
        command.args(["dev", "--data"]).arg(&data);
        command.args(["--native", "127.0.0.1:0", "--http", "off", "--memory", "192MiB"]);
        command.args(["--log", "64MiB"]);
        piped(&mut command);
        Node::spawn(command)
    };
    let addresses = |node: &Node| -> Vec<SocketAddr> {
        node.value("native").split(',').map(|at| at.parse().unwrap()).collect()
    };
    let node = start();
    let client = connect(&addresses(&node)).await;
    let table = create(&client, "kept", 2).await;
    for number in 0..100 {
        table.put(&item(1, number)).send().await.expect("it is written");
    }
    drop((table, client));
    node.stop();
    let node = start();
    assert_eq!(addresses(&node).len(), 3);
    let client = connect(&addresses(&node)).await;
    let table = client.table("kept").await.expect("it is there");
    for number in 50..100 {
        let found = table.get(&item(1, number)).send().await;
        // A key has one attribute only.
        assert!(found.is_err(), "{found:?}");
        let key = Item::new().with("id", format!("w1-{}", number % 50));
        assert_eq!(table.get(&key).send().await.expect("it is read"), Some(item(1, number)));
    }
    client.delete_table("kept").await.expect("it is deleted");
    node.stop();
}

#[test]
fn a_cluster_is_made_once_and_of_nodes_that_were_meant_for_one() {
    let Some(dir) = scratch() else { return };
    let alone = Node::dev(&dir.path().join("alone"), &["--http", "off"]);
    refused(&["admin", "init", &alone.native().to_string()], 2, &["stands alone", "[cluster]"]);
    refused(&["admin", "groups", &alone.native().to_string()], 2, &["is in no cluster"]);
    let three = Three::start(dir.path());
    let names: Vec<String> = three.natives.iter().map(SocketAddr::to_string).collect();
    let twice = ["admin", "init", &names[0], &names[1], &names[1]];
    refused(&twice, 2, &["named before", "nothing was changed"]);
    three.init();
    refused(&["admin", "init", &names[0], &names[1], &names[2]], 2, &["in a cluster already"]);
    let nobody = free_addresses(1)[0].to_string();
    refused(&["admin", "groups", &nobody], 18, &["does not answer"]);
    refused(&["admin", "groups", "nonsense"], 2, &["HOST:PORT"]);
    assert!(text(dir.path()).contains('/'));
    alone.stop();
    three.stop();
}

#[test]
fn a_leader_moves_where_it_is_told_to() {
    let Some(dir) = scratch() else { return };
    let three = Three::start(dir.path());
    three.init();
    let leading = |members: &[(u64, SocketAddr, serde_json::Value)]| {
        members.iter().find(|(_, _, member)| member["lease"] == true).map(|found| found.1)
    };
    let deadline = Instant::now() + PATIENCE;
    let before = loop {
        if let Some(leader) = leading(&three.members()) {
            break leader;
        }
        assert!(Instant::now() < deadline, "nobody leads: {:?}", three.members());
        std::thread::sleep(Duration::from_millis(20));
    };
    let to = three.natives.iter().position(|native| *native != before).unwrap();
    let shard = (256 * to).to_string();
    let node = three.natives[0].to_string();
    // A machine under load may let the hand-over, or its successor's election, run out of time.
    while leading(&three.members()) != Some(three.natives[to]) {
        assert!(Instant::now() < deadline, "shard {shard} does not lead: {:?}", three.members());
        let output = forebay(&["admin", "move-leader", &node, "--group", "0", "--to", &shard]);
        println!("{}: {}", code(&output), stderr(&output));
        let asked = Instant::now();
        while asked.elapsed() < Duration::from_secs(2)
            && leading(&three.members()) != Some(three.natives[to])
        {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    three.stop();
}
