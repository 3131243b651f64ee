//! Starts and stops: clean ones, power cuts in the middle of a table's creation or deletion, and
//! nodes of several shards.

use forebay_core::ids::ShardId;
use forebay_core::message::{
    DeleteTableRequest, DescribeNodeRequest, DescribeTableRequest, ErrorCode, ListTablesRequest,
};
use forebay_core::table::{TableDescription, TableStatus};

use crate::requests::*;
use crate::shell::{Client, Reply, Sim, SimConfig, create_table};

fn shards(shards: usize) -> SimConfig {
    SimConfig { shards, ..SimConfig::SMALL }
}

/// Where a partition key's item lives.
fn shard_of(table: &TableDescription, pk: &str) -> usize {
    let hash = forebay_core::key::partition_hash(&table.hash_seed, pk.as_bytes());
    usize::from(table.partition_of(hash).shard.0)
}

fn describe(sim: &mut Sim, client: Client, name: &str) -> Option<TableDescription> {
    loop {
        match sim.call(client, &DescribeTableRequest { name }) {
            Reply::Table(table) => return Some(*table),
            Reply::Error(error) if error.code == ErrorCode::UnknownTable => return None,
            // Tables are being loaded.
            Reply::Error(error) if error.code == ErrorCode::Overloaded => sim.step(),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_clean_stop_answers_what_was_accepted_and_leaves_an_empty_log() {
    for seed in 80..90 {
        let mut sim = Sim::new(SimConfig::SMALL, seed);
        let table = sim.create_table("table", None, 1).id.0;
        let client = sim.connect(0);
        let asked: Vec<u64> = (0..200)
            .map(|n| sim.ask(client, &put(table, &bytes(&item(&format!("k{n}"), n)))))
            .collect();
        let steps = sim.random.below(40);
        sim.steps(steps);
        sim.stop();
        let mut written = 0;
        for (n, id) in asked.iter().enumerate() {
            match sim.reply(client, *id) {
                Some(Reply::Written(None)) => {
                    assert_eq!(written, n, "what was accepted is a prefix");
                    written += 1;
                }
                Some(other) => assert_eq!(other.code(), Some(ErrorCode::ShuttingDown)),
                // Not received any more: the connection was closed.
                None => assert!(sim.peer(client).closed),
            }
        }
        let mut sim = sim.after_power_cut();
        let stats = sim.hosts[0].shard.store().stats();
        assert_eq!(stats.overlay_active_bytes + stats.overlay_frozen_bytes, 0, "nothing replayed");
        let client = sim.connect(0);
        for n in 0..200 {
            let found = sim.call(client, &get(table, &key(&format!("k{n}")))).item();
            assert_eq!(found.is_some(), n < written, "seed {seed}, item {n}");
        }
    }
}

#[test]
fn requests_during_a_stop_are_refused_by_name() {
    let mut sim = Sim::new(SimConfig::SMALL, 91);
    let table = sim.create_table("table", None, 1).id.0;
    let client = sim.connect(0);
    let first = sim.ask(client, &put(table, &bytes(&item("a", 1))));
    sim.hosts[0].hold_log = true;
    sim.steps(20);
    sim.hosts[0].shard.stop();
    let late = sim.ask(client, &put(table, &bytes(&item("b", 1))));
    let read = sim.ask(client, &get(table, &key("a")));
    let listed = sim.ask(client, &ListTablesRequest { start_after: "", limit: 0 });
    sim.steps(20);
    for id in [late, read, listed] {
        let reply = sim.reply(client, id).expect("answered at once");
        assert_eq!(reply.code(), Some(ErrorCode::ShuttingDown));
    }
    sim.hosts[0].hold_log = false;
    assert_eq!(sim.wait(client, first), Reply::Written(None));
    sim.stop();
}

/// Cuts power after each disk completion of `change`, and checks what a restart makes of it.
fn cut_everywhere(
    config: SimConfig,
    begin: impl Fn(&mut Sim, Client) -> u64,
    check: impl Fn(&mut Sim, bool),
) {
    let mut whole = 0;
    for cut in 0.. {
        let mut sim = Sim::new(config, 100 + cut);
        let existing = sim.create_table("existing", None, config.shards as u32);
        let admin = sim.connect(0);
        let row = bytes(&item("a", 1));
        let home = sim.connect(shard_of(&existing, "a"));
        sim.call(home, &put(existing.id.0, &row));
        let id = begin(&mut sim, admin);
        let mut answered = false;
        let completed =
            |sim: &Sim| sim.hosts.iter().map(|host| host.disk.stats().writes).sum::<u64>();
        let from = completed(&sim);
        while completed(&sim) < from + cut && !answered {
            sim.step();
            answered = sim.peer(admin).replies.contains_key(&id);
        }
        whole += u64::from(answered);
        let mut after = sim.after_power_cut();
        check(&mut after, answered);
        // Once more, in the middle of what recovery does about it, and once clean.
        let mut after = sim.after_power_cut();
        let steps = after.random.below(10);
        after.steps(steps);
        check(&mut after.after_power_cut(), answered);
        let mut after = sim.after_power_cut();
        after.stop();
        check(&mut after.after_kill(), answered);
        if whole == 3 {
            return;
        }
    }
}

/// Runs until no table is between two states.
fn settled(sim: &mut Sim, name: &str) -> Option<TableDescription> {
    let client = sim.connect(0);
    for _ in 0..2_000 {
        match describe(sim, client, name) {
            Some(table) if table.status != TableStatus::Active => sim.step(),
            other => return other,
        }
    }
    panic!("{name} stays half way");
}

#[test]
fn power_cuts_leave_a_new_table_active_or_absent() {
    for config in [shards(1), shards(2)] {
        cut_everywhere(
            config,
            |sim, admin| sim.ask(admin, &create_table("fresh", b'S', None, 3)),
            |sim, answered| {
                let table = settled(sim, "fresh");
                assert!(table.is_some() || !answered, "an acknowledged table is there");
                let client = sim.connect(0);
                let table = match table {
                    Some(table) => table,
                    None => sim.call(client, &create_table("fresh", b'S', None, 3)).table(),
                };
                for n in 0..10 {
                    let pk = format!("k{n}");
                    let home = sim.connect(shard_of(&table, &pk));
                    let row = bytes(&item(&pk, n));
                    assert_eq!(sim.call(home, &put(table.id.0, &row)), Reply::Written(None));
                }
                existing_is_whole(sim);
            },
        );
    }
}

fn existing_is_whole(sim: &mut Sim) {
    let existing = settled(sim, "existing").expect("it was acknowledged");
    let home = sim.connect(shard_of(&existing, "a"));
    let found = sim.call(home, &get(existing.id.0, &key("a"))).item();
    assert_eq!(found, Some(item("a", 1)));
}

#[test]
fn power_cuts_leave_a_deleted_table_active_or_absent() {
    for config in [shards(1), shards(2)] {
        cut_everywhere(
            config,
            |sim, admin| sim.ask(admin, &DeleteTableRequest { name: "existing" }),
            |sim, answered| {
                match settled(sim, "existing") {
                    Some(_) => {
                        assert!(!answered, "it was acknowledged as gone");
                        existing_is_whole(sim);
                    }
                    None => {
                        // Not even its groups are left.
                        sim.steps(50);
                        for host in &sim.hosts {
                            let groups = host.shard.store().groups();
                            let system = usize::from(host.shard.store().shard() == ShardId(0));
                            assert_eq!(groups.count(), system);
                        }
                    }
                }
            },
        );
    }
}

#[test]
fn shards_hold_their_partitions_and_refuse_the_others() {
    let mut sim = Sim::new(shards(3), 110);
    let table = sim.create_table("wide", None, 0);
    assert_eq!(table.partitions.len(), 3, "one for each shard");
    let clients: Vec<Client> = (0..3).map(|shard| sim.connect(shard)).collect();
    let id = table.id.0;
    for n in 0..60 {
        let pk = format!("k{n}");
        let row = bytes(&item(&pk, n));
        for (shard, client) in clients.iter().enumerate() {
            let reply = sim.call(*client, &put(id, &row));
            if shard == shard_of(&table, &pk) {
                assert_eq!(reply, Reply::Written(None));
            } else {
                assert_eq!(reply.code(), Some(ErrorCode::WrongPartition));
            }
        }
    }
    // A scan goes from shard to shard.
    let (mut hash, mut seen) = (0, 0);
    loop {
        let shard = usize::from(table.partition_of(hash).shard.0);
        let mut request = scan(id);
        request.hash_first = hash;
        let page = sim.call(clients[shard], &request).page();
        seen += page.items.len();
        match page.next_hash {
            Some(next) => hash = next,
            None => break,
        }
    }
    assert_eq!(seen, 60);
    let reply = sim.call(clients[1], &create_table("other", b'S', None, 1));
    assert_eq!(reply.code(), Some(ErrorCode::WrongPartition));
    let node = sim.call(clients[2], &DescribeNodeRequest { protocol_version: 1 });
    assert_eq!(node, Reply::Node(vec![(0, 4700), (1, 4701), (2, 4702)]));
    // Everything is there after a stop, and after a power cut.
    sim.stop();
    let mut sim = sim.after_kill();
    for _ in 0..2 {
        for n in 0..60 {
            let pk = format!("k{n}");
            let home = sim.connect(shard_of(&table, &pk));
            assert_eq!(sim.call(home, &get(id, &key(&pk))).item(), Some(item(&pk, n)));
        }
        sim = sim.after_power_cut();
    }
    // Deleting it takes all shards.
    let admin = sim.connect(0);
    sim.hold_mail = true;
    let gone = sim.ask(admin, &DeleteTableRequest { name: "wide" });
    sim.steps(200);
    assert_eq!(sim.reply(admin, gone), None);
    let half = describe(&mut sim, admin, "wide").expect("not gone yet");
    assert_eq!(half.status, TableStatus::Deleting);
    let again = sim.call(admin, &DeleteTableRequest { name: "wide" });
    assert_eq!(again.code(), Some(ErrorCode::TableNotActive));
    sim.hold_mail = false;
    assert_eq!(sim.wait(admin, gone).table().status, TableStatus::Deleting);
    assert_eq!(describe(&mut sim, admin, "wide"), None);
    let client = sim.connect(1);
    assert_eq!(sim.call(client, &get(id, &key("k0"))).code(), Some(ErrorCode::UnknownTable));
}

#[test]
fn a_stop_in_the_middle_of_a_change_answers_its_asker() {
    let mut sim = Sim::new(shards(2), 111);
    let admin = sim.connect(0);
    sim.hold_mail = true;
    let created = sim.ask(admin, &create_table("half", b'S', None, 2));
    sim.steps(100);
    assert_eq!(sim.reply(admin, created), None);
    sim.stop();
    sim.steps(5);
    let reply = sim.reply(admin, created).expect("answered");
    assert_eq!(reply.code(), Some(ErrorCode::TableNotActive));
    let mut sim = sim.after_kill();
    assert_eq!(settled(&mut sim, "half").map(|table| table.partitions.len()), Some(2));
}
