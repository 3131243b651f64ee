//! Clusters of the real binary: made by an operator, written to by the real client, and deprived of
//! their leader.

mod support;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use forebay_core::item::Item;
use forebay_core::message::ErrorCode;
use forebay_net::client::{Client, ClientConfig};
use support::nodes::{Layout, Members, Nodes, PATIENCE, leads};
use support::process::{Node, code, command, forebay, free_addresses, piped, refused, stderr};
use support::writers::{Load, check, create};
use support::{scratch, text};

async fn connect(addresses: &[SocketAddr]) -> Client {
    Client::connect(addresses, ClientConfig::default()).await.expect("a node answers")
}

fn item(writer: usize, number: u64) -> Item {
    Item::new().with("id", format!("w{writer}-{}", number % 50)).with("number", number)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acknowledged_write_survives_the_loss_of_any_node() {
    let Some(dir) = scratch() else { return };
    let mut three = Nodes::start(dir.path(), 3);
    three.init(3);
    let client = three.connect().await;
    let table = create(&client, "ledger", 3).await;
    let mut ledgers = Vec::new();
    for round in 0..3 {
        let load = Load::begin(&table, round * 4);
        tokio::time::sleep(Duration::from_millis(700)).await;
        let victim = three.leader("ledger");
        let killed = Instant::now();
        three.kill(victim);
        tokio::time::sleep(Duration::from_millis(2500)).await;
        let written = load.end_whatever().await;
        let later = killed + Duration::from_secs(1);
        let after: usize = written.iter().map(|written| written.after(later)).sum();
        ledgers.extend(written);
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
    let mut three = Nodes::start(dir.path(), 3);
    three.init(3);
    let client = three.connect().await;
    let table = create(&client, "ledger", 3).await;
    let load = Load::begin(&table, 0);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let stopped = three.leader("ledger");
    three.node(stopped).signal("STOP");
    tokio::time::sleep(Duration::from_millis(4000)).await;
    three.node(stopped).signal("CONT");
    tokio::time::sleep(Duration::from_millis(1000)).await;
    // What was stopped is needed now: it is one of the two that are left.
    let next = three.leader("ledger");
    three.kill(next);
    let killed = Instant::now();
    tokio::time::sleep(Duration::from_millis(3000)).await;
    let ledgers = load.end_whatever().await;
    let later = killed + Duration::from_secs(1);
    let after: usize = ledgers.iter().map(|written| written.after(later)).sum();
    assert!(after > 0, "the two that are left serve nothing: {:?}", three.members());
    check(&table, &ledgers).await;
    three.restart(next);
    three.wait_until_equal();
    three.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_replica_answers_reads_that_need_not_be_strong_and_says_how_old_they_are() {
    let Some(dir) = scratch() else { return };
    let mut three = Nodes::start(dir.path(), 3);
    three.init(3);
    let client = three.connect().await;
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
    let alone = three.connect_to(last..last + 1).await;
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
    let mut three = Layout::of(3).lines(lines).start(dir.path());
    three.init(3);
    let client = three.connect().await;
    let table = create(&client, "large", 1).await;
    let large = |writer: u64, number: u64| {
        let value = "v".repeat(20_000 + (writer * 13 + number) as usize % 3000);
        Item::new().with("id", format!("w{writer}-{}", number % 97)).with("value", value)
    };
    for number in 0..20 {
        table.put(&large(0, number)).send().await.expect("it is written");
    }
    let away = (three.leader("large") + 1) % 3;
    let large_at = |three: &Nodes, place: usize| {
        let mut all = three.members().into_values().flatten();
        let member = all.find(|(at, member)| *at == place && member["table"] == "large");
        member.expect("it has a member").1
    };
    let slots = |three: &Nodes, place: usize| {
        let member = large_at(three, place);
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
    let group = large_at(&three, away)["group"].to_string();
    let (node, shard) = (three.natives[away].to_string(), (256 * away).to_string());
    let ask = || forebay(&["admin", "move-leader", &node, "--group", &group, "--to", &shard]);
    let output = ask();
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    // One that has just restarted promises nothing for a lease length: then another one takes the lead,
    // and is asked again.
    while three.leader("large") != away {
        assert!(Instant::now() < deadline + PATIENCE, "it does not lead: {:?}", three.members());
        std::thread::sleep(Duration::from_millis(500));
        if three.leader("large") != away {
            ask();
        }
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
    let three = Nodes::start(dir.path(), 3);
    let names: Vec<String> = three.natives.iter().map(SocketAddr::to_string).collect();
    let twice = ["admin", "init", &names[0], &names[1], &names[1]];
    refused(&twice, 2, &["named before", "nothing was changed"]);
    three.init(3);
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
    let three = Nodes::start(dir.path(), 3);
    three.init(3);
    let leading = |members: &Members| {
        let mut all = members.values().flatten();
        all.find(|(_, member)| leads(member)).map(|(place, _)| *place)
    };
    let before = three.wait_for("led", leading);
    let deadline = Instant::now() + PATIENCE;
    let to = (before + 1) % 3;
    let shard = (256 * to).to_string();
    let node = three.natives[0].to_string();
    // A machine under load may let the hand-over, or its successor's election, run out of time.
    while leading(&three.members()) != Some(to) {
        assert!(Instant::now() < deadline, "shard {shard} does not lead: {:?}", three.members());
        let output = forebay(&["admin", "move-leader", &node, "--group", "0", "--to", &shard]);
        println!("{}: {}", code(&output), stderr(&output));
        let asked = Instant::now();
        while asked.elapsed() < Duration::from_secs(2) && leading(&three.members()) != Some(to) {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    three.stop();
}
