//! Clusters of the real binary whose disks change bytes at rest: the nodes become whole again from each
//! other, and nothing that was acknowledged is lost.

mod support;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use forebay_core::item::Item;
use forebay_net::client::Table;
use forebay_storage::block::BLOCK_BYTES;
use support::nodes::{Layout, Nodes, metric, wait_for};
use support::process::{code, forebay, log_path, stdout};
use support::writers::{Load, check, create};
use support::{scratch, text};

/// A tree in a directory at rest, as `forebay inspect` shows it.
#[derive(Debug)]
struct Tree {
    root: u64,
    items: u64,
    digest: String,
}

/// The trees of a stopped node's groups.
fn trees(data: &Path) -> BTreeMap<String, Tree> {
    let shown = stdout(&forebay(&["inspect", "tree", text(data)]));
    let (mut group, mut found) = (String::new(), BTreeMap::new());
    for line in shown.lines() {
        if let Some(rest) = line.strip_prefix("group ") {
            group = rest.split(':').next().unwrap().to_owned();
        }
        let Some(rest) = line.trim().strip_prefix("tree: root page ") else { continue };
        let words: Vec<&str> = rest.split([' ', ',']).filter(|word| !word.is_empty()).collect();
        let items = words.iter().position(|word| *word == "items").expect("it says so");
        let tree = Tree {
            root: words[0].parse().unwrap(),
            items: words[items - 1].parse().unwrap(),
            digest: (*words.last().unwrap()).to_owned(),
        };
        found.insert(group.clone(), tree);
    }
    found
}

/// Changes a byte.
fn flip(path: &Path, at: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x20], at).unwrap();
    file.sync_all().unwrap();
}

/// A number that `forebay inspect superblock` shows of the one that recovery chooses.
fn of_superblock(data: &Path, name: &str) -> u64 {
    let shown = stdout(&forebay(&["inspect", "superblock", text(data)]));
    let values = shown.lines().filter_map(|line| line.trim().strip_prefix(name));
    values.map(|value| value.trim().parse::<u64>().unwrap()).max().unwrap_or(0)
}

/// Items that fill a table, and the text of each.
const FILLER: u64 = 200;
const FILLER_BYTES: u64 = 1_500;

async fn fill(table: &Table, items: u64) {
    let filler = "x".repeat(FILLER_BYTES as usize);
    for number in 0..items {
        let item = Item::new().with("id", format!("filler-{number}")).with("text", filler.as_str());
        table.put(&item).send().await.expect("it is written");
    }
}

async fn check_filler(table: &Table, items: u64) {
    for number in 0..items {
        let key = Item::new().with("id", format!("filler-{number}"));
        let found = table.get(&key).consistent(true).send().await.expect("a leader answers");
        assert!(found.is_some(), "filler-{number} was acknowledged");
    }
}

/// Stops the nodes, whose trees must all have the same contents.
fn stop_equal(nodes: Nodes) {
    nodes.wait_until_equal();
    let dirs: Vec<_> = (0..3).map(|place| nodes.data_dir(place)).collect();
    nodes.stop();
    let all: Vec<BTreeMap<String, (u64, String)>> = dirs
        .iter()
        .map(|dir| trees(dir).into_iter().map(|(id, t)| (id, (t.items, t.digest))).collect())
        .collect();
    assert!(all[0].len() >= 3, "{all:?}");
    assert!(all.iter().all(|trees| *trees == all[0]), "{all:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_pages_are_made_good_by_the_other_nodes_while_clients_write() {
    let Some(dir) = scratch() else { return };
    let mut nodes = Layout::of(3).lines("checkpoint_seconds = 1\n").start(dir.path());
    nodes.init(3);
    let client = nodes.connect().await;
    let table = create(&client, "ledger", 2).await;
    fill(&table, FILLER).await;
    let load = Load::begin(&table, 0);
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let victim = nodes.leader("ledger");
    nodes.kill(victim);
    // Every tree of the table's is hit at its root, so whatever is written next finds it.
    let data = nodes.data_dir(victim);
    let hit: Vec<u64> = trees(&data).values().filter(|t| t.items > 20).map(|t| t.root).collect();
    assert!(!hit.is_empty(), "a checkpoint has them");
    for root in &hit {
        flip(&data.join("shard-0/pages"), root * BLOCK_BYTES as u64 + 700);
    }
    let inspected = forebay(&["inspect", "tree", text(&data)]);
    assert_eq!((code(&inspected), stdout(&inspected).contains("DAMAGE")), (17, true));
    nodes.restart(victim);
    wait_for("repaired", || {
        metric(&nodes, victim, "damage_pages_repaired_total") >= hit.len() as u64
            && metric(&nodes, victim, "damage_members") == 0
    });
    let status = nodes.node(victim).status();
    let damage = &status["shards"][0]["damage"];
    assert_eq!(damage["pages_found"], damage["pages_repaired"], "{damage}");
    let written = load.end().await;
    check(&table, &written).await;
    check_filler(&table, FILLER).await;
    stop_equal(nodes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_with_a_damaged_log_comes_back_with_new_members_that_keep_what_it_had() {
    let Some(dir) = scratch() else { return };
    let mut nodes = Layout::of(3).lines("checkpoint_seconds = 2\n").start(dir.path());
    nodes.init(3);
    let client = nodes.connect().await;
    let table = create(&client, "ledger", 2).await;
    // Nobody writes here any more.
    let quiet = create(&client, "quiet", 2).await;
    fill(&quiet, FILLER).await;
    let load = Load::begin(&table, 0);
    tokio::time::sleep(Duration::from_millis(3000)).await;
    let victim = nodes.leader("ledger");
    let before = identities(&nodes, victim);
    let sources = (0..3).filter(|place| *place != victim);
    let served = |nodes: &Nodes| -> u64 {
        sources.clone().map(|place| metric(nodes, place, "snapshot_served_bytes_total")).sum()
    };
    let served_before = served(&nodes);
    nodes.kill(victim);
    let data = nodes.data_dir(victim);
    let start = of_superblock(&data, "log_start lsn");
    let log = log_path(&data, 0);
    flip(&log, start % log.metadata().unwrap().len() + 30);
    nodes.restart(victim);
    wait_for("counted", || metric(&nodes, victim, "damage_log_ranges_total") == 1);
    nodes.wait_until_whole(3);
    wait_for("replaced", || metric(&nodes, victim, "damage_members_lost") == 0);
    let after = identities(&nodes, victim);
    assert!(after.iter().all(|id| !before.contains(id)), "{before:?} {after:?}");
    assert_eq!(after.len(), before.len());
    // What its checkpoint had was not copied again. Of the table that is written all the while, which is
    // small, a log may have gone on too far.
    let copied = served(&nodes) - served_before;
    assert!(copied < FILLER * FILLER_BYTES / 4, "{copied} bytes were copied");
    let written = load.end().await;
    check(&table, &written).await;
    check_filler(&quiet, FILLER).await;
    // A table that is made now has its three members, too.
    let later = create(&client, "later", 2).await;
    nodes.wait_until_whole(3);
    let load = Load::begin(&later, 10);
    tokio::time::sleep(Duration::from_millis(300)).await;
    check(&later, &load.end().await).await;
    stop_equal(nodes);
    assert_eq!(of_superblock(&data, "logs_lost"), 1);
}

/// Of the members on a node.
fn identities(nodes: &Nodes, place: usize) -> Vec<u64> {
    let groups = nodes.members();
    let members = groups.values().flatten().filter(|(at, _)| *at == place);
    members.map(|(_, member)| member["member"].as_u64().unwrap()).collect()
}
