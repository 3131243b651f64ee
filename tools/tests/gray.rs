//! Links between real processes that are broken in one direction, in both, or slow: while others hear
//! the leader there is no election, and clients notice nothing.
//!
//! A machine that lets a process wait for longer than a lease causes elections of its own. What a broken
//! link causes, it causes each time: so a case that was disturbed is tried again, and must go well once.

mod support;

use std::time::{Duration, Instant};

use forebay_core::liveness::LivenessSettings;
use forebay_net::client::Table;
use forebay_net::relay::Way;
use support::nodes::{Layout, Nodes, members_of};
use support::process::{code, stderr};
use support::scratch;
use support::writers::{Load, Written, check, create, longest_gap};

/// Long enough for every lease to run out, for the suspicion after it, and for a link to be given up as
/// silent.
const BROKEN: Duration = Duration::from_millis(1600);
/// What clients may notice: nothing stops, but a machine may be busy.
const GAP_MAX: Duration = Duration::from_secs(1);

/// Times that a case may be disturbed by something else.
const TRIES: usize = 3;
/// In the cases' lists, beside the numbers of its followers.
const LEADER: usize = 9;

async fn cluster(dir: &std::path::Path) -> Nodes {
    let nodes = Layout::of(3).relayed().start(dir);
    nodes.init(3);
    nodes
}

/// Writes and reads while `broken` is, and a while after that; whether clients noticed nothing, and the
/// same leader leads under the same ballot.
async fn calm(
    nodes: &Nodes,
    table: &Table,
    all: &mut Vec<Written>,
    broken: &[(usize, usize, Way)],
) -> bool {
    let (before, elections) = (nodes.lead("ledger"), nodes.elections());
    let load = Load::begin_with_reads(table, all.len());
    tokio::time::sleep(Duration::from_millis(200)).await;
    for (from, to, way) in broken {
        nodes.relay().set(*from, *to, *way);
    }
    tokio::time::sleep(BROKEN).await;
    nodes.relay().heal();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let written = load.end_whatever().await;
    let noticed = |written: &Written| written.unknown > 0 || !written.errors.is_empty();
    let calm = !written.iter().any(noticed) && longest_gap(&written) < GAP_MAX;
    all.extend(written);
    let after = (nodes.lead("ledger"), nodes.elections());
    eprintln!("clients noticed nothing: {calm}; {before:?}, {elections} elections; then {after:?}");
    calm && (before, elections) == after
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_link_never_causes_an_election_while_others_hear_the_leader() {
    let Some(dir) = scratch() else { return };
    let nodes = cluster(dir.path()).await;
    let client = nodes.connect().await;
    let table = create(&client, "ledger", 1).await;
    nodes.wait_until_whole(3);
    assert!(BROKEN > 3 * Duration::from_nanos(LivenessSettings::DEFAULT.lease_nanos));
    let late = Way::Late(Duration::from_millis(150));
    // What is broken between the leader and its followers, 0 and 1.
    let (hold, discard) = (Way::Hold, Way::Discard);
    type Broken = Vec<(usize, usize, Way)>;
    let cases: [(&str, Broken); 6] = [
        ("a follower hears nothing from the leader", vec![(LEADER, 0, hold)]),
        ("the leader hears nothing from a follower", vec![(0, LEADER, hold)]),
        ("neither hears the other", vec![(LEADER, 0, hold), (0, LEADER, hold)]),
        ("what the leader says is garbled", vec![(LEADER, 0, discard)]),
        ("the two followers are apart", vec![(0, 1, hold), (1, 0, hold)]),
        ("the leader is slow for one", vec![(LEADER, 0, late), (0, LEADER, late)]),
    ];
    let mut all = Vec::new();
    for (what, broken) in cases {
        let mut tries = 0..TRIES;
        loop {
            assert!(tries.next().is_some(), "{what}, and each time somebody is elected, or stops");
            let leader = nodes.lead("ledger").0;
            let node = |role| if role == LEADER { leader } else { (leader + 1 + role) % 3 };
            let broken = broken.iter().map(|(from, to, way)| (node(*from), node(*to), *way));
            if calm(&nodes, &table, &mut all, &broken.collect::<Vec<_>>()).await {
                break;
            }
        }
    }
    nodes.wait_until_equal();
    check(&table, &all).await;
    nodes.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_was_cut_off_comes_back_without_an_election() {
    let Some(dir) = scratch() else { return };
    let nodes = cluster(dir.path()).await;
    let client = nodes.connect().await;
    let table = create(&client, "ledger", 1).await;
    nodes.wait_until_whole(3);
    let (mut all, mut calm_ones) = (Vec::new(), 0);
    for _ in 0..2 * TRIES {
        let leader = nodes.lead("ledger").0;
        let (alone, others) = ((leader + 1) % 3, [leader, (leader + 2) % 3]);
        let hold = |other| [(alone, other, Way::Hold), (other, alone, Way::Hold)];
        let broken: Vec<_> = others.into_iter().flat_map(hold).collect();
        let before = (nodes.lead("ledger"), nodes.elections());
        let noticed_nothing = calm(&nodes, &table, &mut all, &broken).await;
        // Time for whoever wants to disturb.
        tokio::time::sleep(BROKEN).await;
        let after = (nodes.lead("ledger"), nodes.elections());
        calm_ones += usize::from(noticed_nothing && before == after);
        if calm_ones == 2 {
            break;
        }
    }
    assert_eq!(calm_ones, 2, "who comes back disturbs the others");
    nodes.wait_until_equal();
    check(&table, &all).await;
    nodes.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_cut_off_is_replaced_once_and_follows_when_it_is_back() {
    let Some(dir) = scratch() else { return };
    let nodes = cluster(dir.path()).await;
    let client = nodes.connect().await;
    let table = create(&client, "ledger", 1).await;
    nodes.wait_until_whole(3);
    let (leader, ballot) = nodes.lead("ledger");
    let load = Load::begin_with_reads(&table, 0);
    for other in (0..3).filter(|other| *other != leader) {
        nodes.relay().set_both(leader, other, Way::Hold);
    }
    let (next, higher) = nodes.wait_for("led by another", |groups| {
        let mut all = groups.values().flatten();
        let leads = all.find(|(place, member)| {
            *place != leader && member["table"] == "ledger" && support::nodes::leads(member)
        });
        leads.map(|(place, member)| (*place, member["ballot"].as_u64().unwrap()))
    });
    assert!(higher > ballot && next != leader);
    let elections = nodes.elections();
    tokio::time::sleep(BROKEN).await;
    nodes.relay().heal();
    tokio::time::sleep(BROKEN).await;
    let written = load.end_whatever().await;
    assert_eq!(nodes.lead("ledger"), (next, higher), "what comes back disturbs nobody");
    // The system group may have moved too, once.
    assert!(nodes.elections() <= elections + 1);
    nodes.wait_until_equal();
    check(&table, &written).await;
    nodes.stop();
}

/// Asks until `place` leads every group: the machine may be busy.
fn lead_everything(nodes: &Nodes, place: usize) {
    let (node, shard) = (nodes.natives[0].to_string(), (256 * place).to_string());
    let elsewhere = |nodes: &Nodes| -> Vec<u64> {
        let groups = nodes.members();
        let led_there = |members: &[(usize, serde_json::Value)]| {
            members.iter().any(|(at, member)| *at == place && support::nodes::leads(member))
        };
        groups.iter().filter(|(_, members)| !led_there(members)).map(|(id, _)| *id).collect()
    };
    nodes.wait_for("led from one node", |_| {
        let groups = elsewhere(nodes);
        for group in &groups {
            let group = group.to_string();
            let output = nodes.admin(&["move-leader", &node, "--group", &group, "--to", &shard]);
            println!("{}: {}", code(&output), stderr(&output));
        }
        std::thread::sleep(Duration::from_millis(if groups.is_empty() { 0 } else { 500 }));
        groups.is_empty().then_some(())
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_link_cut_for_long_moves_the_lead_and_costs_no_replica_though_a_fourth_node_has_room() {
    let Some(dir) = scratch() else { return };
    let nodes = Layout::of(4).relayed().start(dir.path());
    nodes.init(4);
    let client = nodes.connect().await;
    let table = create(&client, "ledger", 1).await;
    nodes.wait_until_whole(3);
    // The table's leader and the system group's, which decides who is lost, are one.
    let members = |nodes: &Nodes| {
        nodes.wait_for("led", |groups| {
            let led = groups
                .values()
                .flatten()
                .find(|(_, member)| member["table"] == "ledger" && support::nodes::leads(member));
            let mut members = members_of(&led?.1);
            members.sort();
            Some((led?.0, members))
        })
    };
    let system: Vec<usize> = nodes.members()[&0].iter().map(|(place, _)| *place).collect();
    let (_, before) = members(&nodes);
    let leader = before.iter().map(|(place, _)| *place).find(|place| system.contains(place));
    let leader = leader.expect("two groups of three on four nodes share two");
    lead_everything(&nodes, leader);
    let alone = before.iter().map(|(place, _)| *place).rfind(|place| *place != leader);
    let alone = alone.expect("there are three");
    let load = Load::begin_with_reads(&table, 0);
    nodes.relay().set_both(leader, alone, Way::Hold);
    let cut = Instant::now();
    let (next, _) = nodes.wait_for("led by one that reaches all", |groups| {
        let mut all = groups.values().flatten();
        let leads = all.find(|(place, member)| {
            *place != leader && member["table"] == "ledger" && support::nodes::leads(member)
        });
        leads.map(|(place, member)| (*place, member["ballot"].as_u64().unwrap()))
    });
    let took = cut.elapsed();
    assert!(next != alone, "it does not reach the one that led");
    assert!(took > Duration::from_secs(4), "a short cut moves nothing: {took:?}");
    // Longer than it takes to replace a member.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let written = load.end_whatever().await;
    let noticed = |written: &Written| written.unknown > 0 || !written.errors.is_empty();
    eprintln!(
        "the lead moved after {} ms; clients noticed something: {}; longest gap {:?}",
        took.as_millis(),
        written.iter().any(noticed),
        longest_gap(&written)
    );
    assert_eq!(members(&nodes), (next, before), "no replica was given up");
    // Three copies again, while the link is still cut.
    nodes.wait_until_equal();
    check(&table, &written).await;
    nodes.relay().heal();
    nodes.stop();
}
