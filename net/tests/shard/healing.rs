//! Groups whose nodes die, over production shards in memory.

use std::collections::BTreeSet;

use forebay_core::message::Kind;
use forebay_core::time::Nanos;
use forebay_net::replication::{AdminAnswer, AdminCommand, DEAD_AFTER_NANOS, GroupDescription};

use super::cluster::Cluster;
use super::requests::{bytes, get, item, key, put};

type Members = [(usize, GroupDescription)];

/// Peer numbers of the members of every group, by its leader; none if a group has no leader.
fn groups(members: &Members) -> Option<Vec<BTreeSet<u32>>> {
    let ids: BTreeSet<u64> = members.iter().map(|(_, member)| member.group).collect();
    let of = |id: &u64| {
        let leader = members.iter().find(|(_, member)| member.group == *id && member.lease)?;
        Some(leader.1.members.iter().map(|(peer, _, _)| *peer).collect())
    };
    ids.iter().map(of).collect()
}

/// Every group has three members, all of them on these nodes.
fn on(places: &[u32], members: &Members) -> bool {
    let fits = |group: &BTreeSet<u32>| {
        group.len() == 3 && group.iter().all(|peer| places.contains(&(peer / 256)))
    };
    groups(members).is_some_and(|groups| groups.iter().all(fits))
}

fn put_all(cluster: &mut Cluster, table: u64, count: u64) {
    for n in 0..count {
        let item = bytes(&item(&format!("key-{n}"), n));
        cluster.ask_all(&put(table, &item), Kind::WriteReply);
    }
}

fn check_all(cluster: &mut Cluster, table: u64, count: u64) {
    for n in 0..count {
        let key = key(&format!("key-{n}"));
        let reply = cluster.ask_all(&get(table, &key), Kind::GetReply);
        let wanted = bytes(&item(&format!("key-{n}"), n));
        let found = reply.windows(wanted.len()).any(|window| window == wanted);
        assert!(found, "key-{n} was acknowledged");
    }
}

fn dead(cluster: &mut Cluster) {
    cluster.millis(DEAD_AFTER_NANOS / Nanos::PER_MILLI + 500);
}

#[test]
fn members_of_a_dead_node_are_replaced_whoever_leads_the_system_group() {
    for victim in 0..3 {
        let mut cluster = Cluster::new(10 + victim as u64, &[0, 1, 2, 3], 4);
        let table = cluster.create_table("ledger", 4).id.0;
        put_all(&mut cluster, table, 10);
        cluster.kill(victim);
        dead(&mut cluster);
        let left: Vec<u32> = (0..4).filter(|place| *place != victim as u32).collect();
        cluster.wait_until("replaced", |members| on(&left, members));
        put_all(&mut cluster, table, 12);
        check_all(&mut cluster, table, 12);
        // It comes back, and none of its members is one any more.
        cluster.start(victim);
        cluster.millis(3000);
        let members = cluster.members();
        assert!(on(&left, &members), "{members:#?}");
        let here = members.iter().filter(|(place, _)| *place == victim);
        let roles: BTreeSet<&str> = here.map(|(_, member)| member.role.as_str()).collect();
        assert!(!roles.contains("leading"), "{roles:?}");
        check_all(&mut cluster, table, 12);
    }
}

#[test]
fn a_change_that_loses_its_planner_half_way_is_finished_by_the_next() {
    for seed in 0..6 {
        let mut cluster = Cluster::new(100 + seed, &[0, 1, 2, 3, 4], 5);
        let table = cluster.create_table("ledger", 5).id.0;
        put_all(&mut cluster, table, 5);
        let members = cluster.members();
        let leads = |(_, member): &&(usize, GroupDescription)| member.group == 0 && member.lease;
        let planner = members.iter().find(leads).expect("one leads").0;
        let victim = (planner + 1) % 3;
        cluster.kill(victim);
        // Somewhere between the first order and the last.
        cluster.millis(DEAD_AFTER_NANOS / Nanos::PER_MILLI + 380 + 17 * seed);
        cluster.kill(planner);
        cluster.millis(2000);
        cluster.start(planner);
        dead(&mut cluster);
        let left: Vec<u32> = (0..5).filter(|place| *place != victim as u32).collect();
        cluster.wait_until("replaced", |members| on(&left, members));
        check_all(&mut cluster, table, 5);
    }
}

#[test]
fn what_groups_have_reported_is_known_after_a_lapse_of_the_planners_lease() {
    for step in 0..12 {
        let mut cluster = Cluster::new(50 + step, &[0, 1, 2, 3], 3);
        let table = cluster.create_table("ledger", 4).id.0;
        put_all(&mut cluster, table, 5);
        let planner = |members: &Members| {
            let system = members.iter().filter(|(_, member)| member.group == 0 && member.lease);
            system.map(|(place, _)| *place).next().expect("one leads")
        };
        let planned = planner(&cluster.members());
        let (victim, other) = ((planned + 1) % 3, (planned + 2) % 3);
        cluster.kill(victim);
        // Everybody has told that it is missed, and there is no spare node yet.
        dead(&mut cluster);
        // Its lease ends for a moment, which the others hardly notice.
        cluster.millis(9 * step);
        cluster.nodes[planned].stopped = true;
        cluster.millis(380);
        cluster.nodes[planned].stopped = false;
        cluster.millis(1000);
        assert_eq!(planner(&cluster.members()), planned, "nobody else could be elected");
        let join = AdminCommand::Join { node: cluster.described(3), replaces: None };
        assert_eq!(cluster.admin(planned, &join), Some(AdminAnswer::Accepted));
        cluster.millis(300);
        let Some(AdminAnswer::Node(known)) = cluster.admin(other, &AdminCommand::Describe) else {
            panic!("a node describes itself")
        };
        let topology = known.topology.expect("it is in a cluster");
        assert_eq!(cluster.admin(3, &AdminCommand::Joined(topology)), Some(AdminAnswer::Accepted));
        let left = [planned as u32, other as u32, 3];
        cluster.wait_until("replaced", |members| on(&left, members));
        check_all(&mut cluster, table, 5);
    }
}

#[test]
fn a_node_joins_is_written_down_everywhere_and_takes_members() {
    let mut cluster = Cluster::new(20, &[0, 1, 2, 3], 3);
    let table = cluster.create_table("ledger", 3).id.0;
    put_all(&mut cluster, table, 5);
    // One is away while it happens.
    cluster.kill(2);
    let node = cluster.described(3);
    let join = AdminCommand::Join { node, replaces: None };
    let accepted = (0..100).any(|turn| {
        cluster.millis(20);
        cluster.admin(turn % 2, &join) == Some(AdminAnswer::Accepted)
    });
    assert!(accepted, "the leader of the system group takes it");
    cluster.millis(300);
    let Some(AdminAnswer::Node(known)) = cluster.admin(0, &AdminCommand::Describe) else {
        panic!("a node describes itself")
    };
    let topology = known.topology.expect("it is in a cluster");
    assert_eq!(topology.nodes.len(), 4);
    let joined = cluster.admin(3, &AdminCommand::Joined(topology));
    assert_eq!(joined, Some(AdminAnswer::Accepted));
    cluster.start(2);
    cluster.millis(1500);
    for place in 0..4 {
        let Some(AdminAnswer::Node(known)) = cluster.admin(place, &AdminCommand::Describe) else {
            panic!("a node describes itself")
        };
        assert_eq!(known.topology.map(|list| list.nodes.len()), Some(4), "node {place}");
    }
    cluster.kill(0);
    dead(&mut cluster);
    cluster.wait_until("replaced", |members| on(&[1, 2, 3], members));
    check_all(&mut cluster, table, 5);
}

#[test]
fn a_node_without_its_data_is_another_node() {
    let mut cluster = Cluster::new(30, &[0, 1, 2], 3);
    let table = cluster.create_table("ledger", 3).id.0;
    put_all(&mut cluster, table, 5);
    let Some(AdminAnswer::Node(before)) = cluster.admin(1, &AdminCommand::Describe) else {
        panic!("a node describes itself")
    };
    cluster.kill(1);
    cluster.delete_data(1);
    cluster.start(1);
    cluster.millis(1000);
    let members = cluster.members();
    assert!(members.iter().all(|(place, _)| *place != 1), "it is nobody yet");
    let join = AdminCommand::Join { node: cluster.described(1), replaces: Some(before.node_id) };
    assert!((0..100).any(|turn| {
        cluster.millis(20);
        cluster.admin(2 * (turn % 2), &join) == Some(AdminAnswer::Accepted)
    }));
    cluster.millis(300);
    let Some(AdminAnswer::Node(known)) = cluster.admin(0, &AdminCommand::Describe) else {
        panic!("a node describes itself")
    };
    let topology = known.topology.expect("it is in a cluster");
    assert_eq!(topology.place_of(&cluster.described(1).node_id), Some(3));
    assert_eq!(cluster.admin(1, &AdminCommand::Joined(topology)), Some(AdminAnswer::Accepted));
    cluster.wait_until("replaced", |members| on(&[0, 2, 3], members));
    check_all(&mut cluster, table, 5);
}

#[test]
fn a_table_is_deleted_also_where_its_members_have_changed() {
    let mut cluster = Cluster::new(40, &[0, 1, 2, 3], 4);
    let table = cluster.create_table("ledger", 4).id.0;
    put_all(&mut cluster, table, 3);
    cluster.kill(1);
    dead(&mut cluster);
    cluster.wait_until("replaced", |members| on(&[0, 2, 3], members));
    let delete = forebay_core::message::DeleteTableRequest { name: "ledger" };
    cluster.ask_all(&delete, Kind::TableReply);
    cluster.start(1);
    // Also what it was a member of when it died goes: its group is gone.
    cluster.wait_until("gone", |members| members.iter().all(|(_, member)| member.group == 0));
}
