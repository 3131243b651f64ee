//! Clusters of the real binary that lose nodes for good, and become whole again: under load, with
//! SIGKILL, with deleted data directories, and with nodes that join.

mod support;

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use forebay_core::item::{Item, Value};
use forebay_core::table::{KeySchema, KeyType};
use forebay_net::client::{Client, ClientConfig, ClientError, Table};
use forebay_net::replication::DEAD_AFTER_NANOS;
use support::process::{Node, code, forebay, free_addresses, refused, stderr, stdout};
use support::scratch;

/// What nothing in these tests may take longer than, on a machine however busy.
const PATIENCE: Duration = Duration::from_secs(60);
/// From the last heartbeat of a node to the moment that it counts as dead.
const DETECTION: Duration = Duration::from_nanos(DEAD_AFTER_NANOS + 400_000_000);
/// A log replica is in its place so long after that.
const REPLACED_MAX: Duration = Duration::from_secs(2);

/// Nodes, each in a process and an AZ of its own.
struct Nodes {
    dir: PathBuf,
    natives: Vec<SocketAddr>,
    nodes: Vec<Option<Node>>,
}

fn config_file(dir: &Path, place: usize) -> PathBuf {
    dir.join(format!("node-{place}.toml"))
}

fn data_dir(dir: &Path, place: usize) -> PathBuf {
    dir.join(format!("data-{place}"))
}

/// A member of a group, as its shard describes it.
type Members = BTreeMap<u64, Vec<(usize, serde_json::Value)>>;

impl Nodes {
    /// Running, and in no cluster yet.
    fn start(dir: &Path, count: usize) -> Nodes {
        let addresses = free_addresses(2 * count);
        let (natives, peers) = addresses.split_at(count);
        for place in 0..count {
            let config = format!(
                "insecure = true\ndata = {:?}\nnative = \"{}\"\nhttp = \"off\"\nmemory = \"64MiB\"\npin_cores = false\n\
                 [cluster]\npeer = \"{}\"\naz = {place}\n",
                data_dir(dir, place),
                natives[place],
                peers[place],
            );
            std::fs::write(config_file(dir, place), config).unwrap();
        }
        let nodes = (0..count).map(|at| Some(Node::configured(&config_file(dir, at)))).collect();
        Nodes { dir: dir.to_owned(), natives: natives.to_vec(), nodes }
    }

    /// A cluster of the first so many.
    fn init(&self, count: usize) {
        let names: Vec<String> =
            self.natives.iter().take(count).map(SocketAddr::to_string).collect();
        let mut args = vec!["admin", "init"];
        args.extend(names.iter().map(String::as_str));
        let output = forebay(&args);
        assert_eq!(code(&output), 0, "{}", stderr(&output));
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

    /// Every member that answers, by group, with the place of its node here.
    fn members(&self) -> Members {
        let up = self.nodes.iter().position(Option::is_some).expect("one runs");
        let output = forebay(&["admin", "groups", &self.natives[up].to_string(), "--json"]);
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        let found: Vec<(SocketAddr, serde_json::Value)> =
            serde_json::from_str(&stdout(&output)).unwrap();
        let mut groups = Members::new();
        for (at, member) in found {
            let place = self.natives.iter().position(|native| *native == at).expect("it is ours");
            groups.entry(member["group"].as_u64().unwrap()).or_default().push((place, member));
        }
        groups
    }

    /// Waits until `is_so` of every group, as its leader describes it; how long that took.
    fn wait_until(&self, what: &str, is_so: impl Fn(&serde_json::Value) -> bool) -> Duration {
        let begun = Instant::now();
        loop {
            let groups = self.members();
            let so = |members: &Vec<(usize, serde_json::Value)>| {
                members.iter().any(|(_, member)| member["lease"] == true && is_so(member))
            };
            if groups.values().all(so) {
                return begun.elapsed();
            }
            assert!(begun.elapsed() < PATIENCE, "not {what}: {groups:#?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until every group has three members that run, of which so many keep the state.
    fn wait_until_whole(&self, storage: usize) -> Duration {
        self.wait_until("whole", |leader| {
            let members = members_of(leader);
            let kept = members.iter().filter(|(_, keeps)| keeps == "storage").count();
            members.len() == 3 && kept >= storage && members.iter().all(|(at, _)| self.runs(*at))
        })
    }

    fn runs(&self, place: usize) -> bool {
        self.nodes.get(place).is_some_and(Option::is_some)
    }

    /// A node that leads some group of `table`.
    fn leader(&self, table: &str) -> usize {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let groups = self.members();
            let mut all = groups.values().flatten();
            let leads = all.find(|(_, member)| member["table"] == table && member["lease"] == true);
            if let Some((place, _)) = leads {
                return *place;
            }
            assert!(Instant::now() < deadline, "nobody leads: {groups:#?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The members of a group by its leader: the places of their nodes in the cluster, and what they keep.
fn members_of(leader: &serde_json::Value) -> Vec<(usize, String)> {
    let members = leader["members"].as_array().unwrap().iter();
    let member = |member: &serde_json::Value| {
        (member[0].as_u64().unwrap() as usize / 256, member[2].as_str().unwrap().to_owned())
    };
    members.map(member).collect()
}

async fn connect(addresses: &[SocketAddr]) -> Client {
    Client::connect(addresses, ClientConfig::default()).await.expect("a node answers")
}

async fn create(client: &Client, name: &str, partitions: u32) -> Table {
    let schema = KeySchema::partition_only("id", KeyType::S);
    client.create_table(name, schema).partitions(partitions).send().await.expect("it is created")
}

/// What one writer knows of each of its keys: the last number acknowledged, and those after it whose
/// outcome it was not told.
type Ledger = HashMap<String, (u64, Vec<u64>)>;

/// What became of a writer's writes.
struct Written {
    ledger: Ledger,
    acknowledged: u64,
    unknown: u64,
    errors: Vec<String>,
    /// The longest time between two acknowledgements.
    gap: Duration,
}

/// Writes until told to stop.
async fn write(table: Table, writer: usize, stop: Arc<AtomicBool>) -> Written {
    let mut written = Written {
        ledger: Ledger::new(),
        acknowledged: 0,
        unknown: 0,
        errors: Vec::new(),
        gap: Duration::ZERO,
    };
    let (mut number, mut last) = (0, Instant::now());
    while !stop.load(Relaxed) {
        number += 1;
        let id = format!("w{writer}-{}", number % 200);
        let item = Item::new().with("id", id.as_str()).with("number", number);
        let entry = written.ledger.entry(id).or_default();
        match table.put(&item).send().await {
            Ok(_) => {
                *entry = (number, Vec::new());
                written.acknowledged += 1;
                written.gap = written.gap.max(last.elapsed());
                last = Instant::now();
            }
            Err(ClientError::Unknown { .. }) => {
                written.unknown += 1;
                entry.1.push(number);
            }
            Err(error) => written.errors.push(error.to_string()),
        }
    }
    written
}

async fn check(table: &Table, all: &[Written]) {
    for (id, (acknowledged, unknown)) in all.iter().flat_map(|written| &written.ledger) {
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

/// Writers that go on until they are asked what became of it.
struct Load {
    stop: Arc<AtomicBool>,
    writers: Vec<tokio::task::JoinHandle<Written>>,
}

impl Load {
    fn begin(table: &Table, first: usize) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let begin = |writer| tokio::spawn(write(table.clone(), writer, Arc::clone(&stop)));
        let writers = (first..first + 4).map(begin).collect();
        Load { stop, writers }
    }

    async fn end(self) -> Vec<Written> {
        self.stop.store(true, Relaxed);
        let mut all = Vec::new();
        for writer in self.writers {
            all.push(writer.await.expect("a writer does not panic"));
        }
        let sum = |of: fn(&Written) -> u64| all.iter().map(of).sum::<u64>();
        let gap = all.iter().map(|written| written.gap).max().unwrap_or_default();
        let errors: Vec<&String> = all.iter().flat_map(|written| &written.errors).collect();
        eprintln!(
            "{} acknowledged, {} unknown, longest gap {} ms",
            sum(|written| written.acknowledged),
            sum(|written| written.unknown),
            gap.as_millis()
        );
        assert_eq!(errors, Vec::<&String>::new(), "no write fails while members are replaced");
        all
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_node_is_replaced_by_log_replicas_within_two_seconds_of_its_detection() {
    let Some(dir) = scratch() else { return };
    let mut nodes = Nodes::start(dir.path(), 4);
    nodes.init(4);
    let client = connect(&nodes.natives).await;
    let table = create(&client, "ledger", 6).await;
    nodes.wait_until_whole(3);
    let load = Load::begin(&table, 0);
    tokio::time::sleep(Duration::from_millis(700)).await;
    let victim = nodes.leader("ledger");
    let killed = Instant::now();
    nodes.kill(victim);
    nodes.wait_until_whole(2);
    let took = killed.elapsed();
    eprintln!("node {victim} was replaced in all groups {} ms after its death", took.as_millis());
    assert!(took > DETECTION - Duration::from_millis(400), "it was not dead yet");
    assert!(took < DETECTION + REPLACED_MAX, "{took:?}");
    tokio::time::sleep(Duration::from_millis(500)).await;
    let written = load.end().await;
    check(&table, &written).await;
    // It comes back, and is no member of anything that it was one of: nobody lets it vote.
    nodes.restart(victim);
    nodes.wait_until_whole(3);
    check(&table, &written).await;
    nodes.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_die_one_after_the_other_and_their_data_are_whole_again_in_between() {
    let Some(dir) = scratch() else { return };
    let mut nodes = Nodes::start(dir.path(), 4);
    nodes.init(4);
    let client = connect(&nodes.natives).await;
    let table = create(&client, "ledger", 4).await;
    // More than the log replicas get with their log alone.
    let filler = "x".repeat(2000);
    for number in 0..2000 {
        let item = Item::new().with("id", format!("filler-{number}")).with("text", filler.as_str());
        table.put(&item).send().await.expect("it is written");
    }
    let load = Load::begin(&table, 0);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let first = nodes.leader("ledger");
    let killed = Instant::now();
    nodes.kill(first);
    nodes.wait_until_whole(3);
    eprintln!("three storage replicas {} ms after the first death", killed.elapsed().as_millis());
    let second = (0..4).find(|place| nodes.runs(*place)).expect("three run");
    let killed = Instant::now();
    nodes.kill(second);
    // Two of three in every group: it goes on, and nobody is left to take the third place.
    tokio::time::sleep(DETECTION + Duration::from_secs(1)).await;
    let written = load.end().await;
    check(&table, &written).await;
    nodes.restart(first);
    nodes.wait_until_whole(3);
    eprintln!("three again {} ms after the second death", killed.elapsed().as_millis());
    for number in 0..2000 {
        let key = Item::new().with("id", format!("filler-{number}"));
        let found = table.get(&key).consistent(true).send().await.expect("a leader answers");
        assert!(found.is_some(), "filler-{number} was acknowledged");
    }
    check(&table, &written).await;
    nodes.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_joins_a_cluster_and_gets_members() {
    let Some(dir) = scratch() else { return };
    let mut nodes = Nodes::start(dir.path(), 5);
    nodes.init(3);
    let client = connect(&nodes.natives[..3]).await;
    let table = create(&client, "ledger", 3).await;
    let names: Vec<String> = nodes.natives.iter().map(SocketAddr::to_string).collect();
    let join = |node: usize| forebay(&["admin", "join", &names[node], "--cluster", &names[1]]);
    for _ in 0..2 {
        let output = join(3);
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        assert!(stdout(&output).contains("in place 3, AZ 3"), "{}", stdout(&output));
    }
    refused(&["admin", "join", &names[3], "--cluster", &names[4]], 2, &["is in no cluster"]);
    // One that was away learns of it.
    nodes.kill(2);
    let output = join(4);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    nodes.restart(2);
    let known = |place: usize| {
        let file = std::fs::read_to_string(data_dir(dir.path(), place).join("cluster.json"));
        let known: serde_json::Value = serde_json::from_str(&file.unwrap()).unwrap();
        known["topology"]["nodes"].as_array().unwrap().len()
    };
    let deadline = Instant::now() + PATIENCE;
    while (0..5).any(|place| known(place) != 5) {
        assert!(Instant::now() < deadline, "{:?}", [0, 1, 2, 3, 4].map(known));
        std::thread::sleep(Duration::from_millis(50));
    }
    let load = Load::begin(&table, 0);
    nodes.kill(0);
    nodes.wait_until_whole(2);
    let written = load.end().await;
    check(&table, &written).await;
    nodes.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_of_another_cluster_is_refused_by_name() {
    let Some(dir) = scratch() else { return };
    let nodes = Nodes::start(dir.path(), 2);
    let names: Vec<String> = nodes.natives.iter().map(SocketAddr::to_string).collect();
    for name in &names {
        assert_eq!(code(&forebay(&["admin", "init", name])), 0);
    }
    refused(&["admin", "join", &names[0], "--cluster", &names[1]], 2, &["is in cluster", "not in"]);
    let alone = Node::dev(&dir.path().join("alone"), &["--http", "off"]);
    let single = alone.native().to_string();
    refused(&["admin", "join", &single, "--cluster", &names[1]], 2, &["stands alone"]);
    refused(&["admin", "join", &names[0], "--cluster", &single], 2, &["is in no cluster"]);
    alone.stop();
    nodes.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_data_were_deleted_comes_back_as_another_one() {
    let Some(dir) = scratch() else { return };
    let mut nodes = Nodes::start(dir.path(), 3);
    nodes.init(3);
    let client = connect(&nodes.natives).await;
    let table = create(&client, "ledger", 3).await;
    let load = Load::begin(&table, 0);
    tokio::time::sleep(Duration::from_millis(500)).await;
    nodes.kill(1);
    std::fs::remove_dir_all(data_dir(dir.path(), 1)).unwrap();
    nodes.restart(1);
    // By itself: in place 3, because place 1 was another node's.
    nodes.wait_until("whole", |leader| {
        let mut places: Vec<usize> = members_of(leader).iter().map(|(place, _)| *place).collect();
        places.sort_unstable();
        places == [0, 2, 3]
    });
    nodes.wait_until("full", |leader| {
        members_of(leader).iter().all(|(_, keeps)| keeps == "storage")
    });
    let written = load.end().await;
    check(&table, &written).await;
    nodes.stop();
}
