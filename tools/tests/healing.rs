//! Clusters of the real binary that lose nodes for good, and become whole again: under load, with
//! SIGKILL, with deleted data directories, and with nodes that join.

mod support;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use forebay_core::item::Item;
use forebay_net::client::{Client, ClientConfig};
use forebay_net::replication::DEAD_AFTER_NANOS;
use support::nodes::{Layout, Nodes, PATIENCE, members_of};
use support::process::{Node, code, command, forebay, piped, refused, stderr, stdout};
use support::scratch;
use support::writers::{Load, check, create};

/// From the last heartbeat of a node to the moment that it counts as dead.
const DETECTION: Duration = Duration::from_nanos(DEAD_AFTER_NANOS + 400_000_000);
/// A node that came back lets go of its old members, and has copies of small groups, within this: seconds,
/// and less than checkpoints are apart.
const AGAIN_MAX: Duration = Duration::from_secs(15);
/// A log replica is in its place so long after that.
const REPLACED_MAX: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_node_is_replaced_by_log_replicas_within_two_seconds_of_its_detection() {
    let Some(dir) = scratch() else { return };
    let mut nodes = Nodes::start(dir.path(), 4);
    nodes.init(4);
    let client = nodes.connect().await;
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
    let client = nodes.connect().await;
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
    nodes.kill(second);
    // Two of three in every group: it goes on, and nobody is left to take the third place.
    tokio::time::sleep(DETECTION + Duration::from_secs(1)).await;
    let written = load.end().await;
    check(&table, &written).await;
    let restarted = Instant::now();
    nodes.restart(first);
    nodes.wait_until_whole(3);
    let took = restarted.elapsed();
    eprintln!("three again {} ms after the first one's return", took.as_millis());
    // Nothing is written meanwhile, and no checkpoint comes by itself for a while.
    assert!(took < AGAIN_MAX, "{took:?}");
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
    let client = nodes.connect_to(0..3).await;
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
        let file = std::fs::read_to_string(nodes.data_dir(place).join("cluster.json"));
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
    come_back_without_data(Layout::of(3)).await;
}

/// The new node shows the certificate of the one that it was, and the list of nodes gives it the name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_with_a_certificate_comes_back_without_its_data_too() {
    come_back_without_data(Layout::of(3).secured()).await;
}

async fn come_back_without_data(layout: Layout) {
    let Some(dir) = scratch() else { return };
    let mut nodes = layout.start(dir.path());
    nodes.init(3);
    let client = nodes.connect().await;
    let table = create(&client, "ledger", 3).await;
    let load = Load::begin(&table, 0);
    tokio::time::sleep(Duration::from_millis(500)).await;
    nodes.kill(1);
    std::fs::remove_dir_all(nodes.data_dir(1)).unwrap();
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

/// A group's members: their places, and what they keep.
type Placed = Vec<(usize, String)>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_of_dev_is_lost_at_a_signal_replaced_and_comes_back() {
    let Some(dir) = scratch() else { return };
    let more = ["--nodes", "4", "--memory", "256MiB", "--http", "off", "--no-pin"];
    let mut command = command();
    command.args(["dev", "--native", "127.0.0.1:0", "--log", "64MiB"]);
    command.arg("--data").arg(dir.path().join("data")).args(more);
    piped(&mut command);
    let node = Node::spawn(command);
    let natives: Vec<SocketAddr> =
        node.value("native").split(',').map(|at| at.parse().unwrap()).collect();
    let client = Client::connect(&natives[..], ClientConfig::default()).await.expect("it serves");
    create(&client, "ledger", 4).await;
    let deadline = Instant::now() + PATIENCE;
    let wait_for = |what: &str, is_so: &dyn Fn(&[Placed]) -> bool| loop {
        let output = forebay(&["admin", "groups", &natives[0].to_string(), "--json"]);
        let found: Vec<(SocketAddr, serde_json::Value)> =
            serde_json::from_str(&stdout(&output)).unwrap();
        let leaders = found.iter().filter(|(_, member)| member["lease"] == true);
        let groups: Vec<_> = leaders.map(|(_, member)| members_of(member)).collect();
        if groups.len() == 5 && is_so(&groups) {
            return;
        }
        assert!(Instant::now() < deadline, "not {what}: {groups:?}");
        std::thread::sleep(Duration::from_millis(50));
    };
    let on = |groups: &[Placed], place: usize| groups.iter().flatten().any(|(at, _)| *at == place);
    wait_for("on all four", &|groups| (0..4).all(|place| on(groups, place)));
    node.signal("USR1");
    wait_for("replaced", &|groups| {
        groups.iter().all(|members| members.len() == 3) && !on(groups, 2)
    });
    assert!(std::net::TcpStream::connect(natives[2]).is_err(), "it is gone");
    node.signal("USR2");
    while std::net::TcpStream::connect(natives[2]).is_err() {
        assert!(Instant::now() < deadline, "it is not back");
        std::thread::sleep(Duration::from_millis(50));
    }
    let said = node.stop();
    assert!(said.contains("node 3 stops") && said.contains("node 3 starts again"), "{said}");
}
