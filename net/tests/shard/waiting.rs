//! Requests that wait: for pages, for room, and for peers that do not take their replies.

use forebay_core::expression::SortKeyCondition;
use forebay_core::item::Item;
use forebay_core::message::{
    BatchGetRequest, BatchOperation, DeleteTableRequest, ErrorCode, PutRequest, ReturnValues,
};
use forebay_core::time::Nanos;
use forebay_storage::block::ShardFile;
use forebay_storage::sim_disk::{EIO, Fault};

use crate::requests::*;
use crate::shell::{Client, Got, Reply, Sim, SimConfig};

/// A data set several times larger than the cache.
const ITEMS: usize = 3_000;

fn row(n: usize) -> Item {
    Item::new()
        .with("pk", format!("p{}", n / 100))
        .with("sk", format!("{n:06}"))
        .with("value", n as i64)
        .with("data", vec![n as u8; 600])
}

fn row_key(n: usize) -> Vec<u8> {
    key_with(&format!("p{}", n / 100), format!("{n:06}"))
}

/// A node whose items are all in the tree, and mostly not in the cache.
fn cold(seed: u64) -> (Sim, Client, u64) {
    let config = SimConfig { cache_bytes: 600 << 10, ..SimConfig::SMALL };
    let mut sim = Sim::new(config, seed);
    let table = sim.create_table("table", Some(b'S'), 1).id.0;
    let client = sim.connect(0);
    for chunk in (0..ITEMS).collect::<Vec<_>>().chunks(25) {
        let items: Vec<Vec<u8>> = chunk.iter().map(|n| bytes(&row(*n))).collect();
        let writes = items.iter().map(|bytes| BatchOperation { delete: false, bytes }).collect();
        let reply = sim.call(client, &batch(table, writes));
        assert_eq!(reply, Reply::Outcomes(vec![0; chunk.len()]));
    }
    sim.stop();
    let mut sim = sim.after_kill();
    let client = sim.connect(0);
    (sim, client, table)
}

fn read_all(sim: &mut Sim, client: Client, table: u64) {
    let mut asked = Vec::new();
    for n in (0..ITEMS).step_by(7) {
        asked.push((sim.ask(client, &get(table, &row_key(n))), n));
    }
    for (id, n) in asked {
        assert_eq!(sim.wait(client, id).item(), Some(row(n)));
    }
}

#[test]
fn parked_requests_answer_as_if_the_pages_had_been_there() {
    for seed in 60..64 {
        let (mut sim, client, table) = cold(seed);
        read_all(&mut sim, client, table);
        assert!(sim.hosts[0].disk.stats().reads > 200, "the cache does not hold the data");
        let mut request = query(table, b"p3");
        for descending in [false, true] {
            request.descending = descending;
            let mut found = sim.call(client, &request).page().items;
            if descending {
                found.reverse();
            }
            assert_eq!(found, (300..400).map(row).collect::<Vec<_>>());
        }
        request.sort_key = Some(SortKeyCondition::BeginsWith(b"00035".to_vec()));
        let found = sim.call(client, &request).page().items;
        assert_eq!(found.len(), 10);
        let keys: Vec<Vec<u8>> = (0..100).map(|n| row_key(n * 29)).collect();
        let many = BatchGetRequest {
            table,
            epoch: 0,
            keys: keys.iter().map(|key| &key[..]).collect(),
            projection: None,
        };
        let expected = (0..100).map(|n| Got::Item(row(n * 29))).collect();
        assert_eq!(sim.call(client, &many), Reply::Items(expected));
        let mut seen = 0;
        let (mut from, mut resume) = (0, None::<Vec<u8>>);
        loop {
            let mut request = scan(table);
            (request.hash_first, request.resume, request.limit) = (from, resume.as_deref(), 500);
            let page = sim.call(client, &request).page();
            seen += page.items.len();
            match (page.resume, page.next_hash) {
                (Some(key), _) => resume = Some(key),
                (None, Some(hash)) => (from, resume) = (hash, None),
                (None, None) => break,
            }
        }
        assert_eq!(seen, ITEMS);
        // Conditional writes on cold items, many at once, twice on each key.
        let mut asked = Vec::new();
        for n in (0..ITEMS).step_by(101) {
            let new = bytes(&row(n).with("value", -1));
            let first = PutRequest {
                condition: Some(present()),
                return_values: ReturnValues::AllOld,
                ..put(table, &new)
            };
            asked.push((sim.ask(client, &first), row(n)));
            asked.push((sim.ask(client, &first), row(n).with("value", -1)));
        }
        for (id, old) in asked {
            assert_eq!(sim.wait(client, id), Reply::Written(Some(old)));
        }
    }
}

#[test]
fn a_table_may_go_while_its_requests_are_parked() {
    let (mut sim, client, table) = cold(65);
    sim.hosts[0].hold_pages = true;
    let gets: Vec<u64> = (0..50).map(|n| sim.ask(client, &get(table, &row_key(n * 60)))).collect();
    let mut page = query(table, b"p7");
    page.descending = true;
    let query = sim.ask(client, &page);
    sim.steps(40);
    assert!(sim.peer(client).replies.is_empty());
    let admin = sim.connect(0);
    sim.call(admin, &DeleteTableRequest { name: "table" });
    sim.hosts[0].hold_pages = false;
    for id in gets.into_iter().chain([query]) {
        let reply = sim.wait(client, id);
        assert_eq!(reply.code(), Some(ErrorCode::UnknownTable));
    }
    // Its pages come back: a second table of the same size fits the file.
    for _ in 0..20 {
        sim.steps(200);
    }
    let reused = sim.create_table("table", Some(b'S'), 1).id.0;
    assert_eq!(sim.call(client, &get(reused, &row_key(0))).item(), None);
}

#[test]
fn a_connection_may_go_while_its_requests_are_parked() {
    let (mut sim, client, table) = cold(66);
    let other = sim.connect(0);
    sim.hosts[0].hold_pages = true;
    for n in 0..50 {
        sim.ask(client, &get(table, &row_key(n * 60)));
    }
    let new = bytes(&row(1).with("value", -1));
    let conditional = PutRequest { condition: Some(present()), ..put(table, &new) };
    sim.ask(client, &conditional);
    sim.steps(40);
    sim.hang_up(client);
    // Another one takes its slot; it gets no reply that is not its own.
    let next = sim.connect(0);
    sim.hosts[0].hold_pages = false;
    sim.steps(300);
    assert!(sim.peer(next).order.is_empty());
    let written = sim.call(other, &get(table, &row_key(1))).item();
    assert_eq!(written, Some(row(1).with("value", -1)), "an accepted write is carried out");
    assert_eq!(sim.call(next, &get(table, &row_key(2))).item(), Some(row(2)));
}

#[test]
fn too_many_parked_requests_are_refused_by_name() {
    let (mut sim, _, table) = cold(67);
    sim.hosts[0].hold_pages = true;
    let clients: Vec<Client> = (0..3).map(|_| sim.connect(0)).collect();
    let mut asked = Vec::new();
    for (n, client) in clients.iter().cycle().take(9_000).enumerate() {
        asked.push((*client, sim.ask(*client, &get(table, &row_key(n % ITEMS))), n % ITEMS));
    }
    sim.steps(200);
    sim.hosts[0].hold_pages = false;
    let mut refused = 0;
    for (client, id, n) in asked {
        match sim.wait(client, id) {
            Reply::Error(error) => {
                assert_eq!(error.code, ErrorCode::Overloaded);
                assert!(error.retry_after_micros > 0);
                refused += 1;
            }
            reply => assert_eq!(reply.item(), Some(row(n))),
        }
    }
    assert!((500..=9_000 - 8_000).contains(&refused), "{refused}");
}

#[test]
fn damaged_and_unreadable_pages_are_named_and_never_served() {
    let (mut sim, client, table) = cold(68);
    // Everything behind the superblocks, one bit in each block: whatever a read needs is damaged.
    let blocks = sim.hosts[0].disk.file_bytes(ShardFile::Pages) / 4096;
    for block in 2..blocks {
        sim.hosts[0].disk.flip_bit(ShardFile::Pages, block * 4096 + 100, 3);
    }
    let mut damaged = 0;
    for n in (0..ITEMS).step_by(50) {
        match sim.call(client, &get(table, &row_key(n))) {
            Reply::Error(error) => {
                assert_eq!(error.code, ErrorCode::Damaged);
                damaged += 1;
            }
            reply => assert_eq!(reply.item(), Some(row(n))),
        }
    }
    assert!(damaged > 30, "{damaged}");
    let codes = [
        sim.call(client, &query(table, b"p3")).code(),
        sim.call(client, &scan(table)).code(),
        sim.call(client, &update(table, &row_key(300), add(1))).code(),
    ];
    assert!(codes.contains(&Some(ErrorCode::Damaged)), "{codes:?}");
    // A read error is the same to the client, and an unconditional Put needs no page.
    let (mut sim, client, table) = cold(69);
    for _ in 0..3 {
        sim.hosts[0].disk.inject(ShardFile::Pages, Fault::Read(EIO));
    }
    let reply = sim.call(client, &get(table, &row_key(0)));
    assert_eq!(reply.code(), Some(ErrorCode::Damaged));
    assert_eq!(sim.call(client, &put(table, &bytes(&row(0)))), Reply::Written(None));
    assert_eq!(sim.call(client, &get(table, &row_key(0))).item(), Some(row(0)));
}

#[test]
fn writes_slow_down_when_the_disk_does_and_none_is_lost() {
    for seed in 70..74 {
        let config = SimConfig { generation_bytes: 512 << 10, ..SimConfig::SMALL };
        let mut sim = Sim::new(config, seed);
        let table = sim.create_table("table", None, 1).id.0;
        let clients: Vec<Client> = (0..8).map(|_| sim.connect(0)).collect();
        let mut asked = Vec::new();
        // Far more than log and memory hold: each client overwrites its own few keys.
        for n in 0..3_000i64 {
            let which = n as usize % clients.len();
            let item = item(&format!("c{which}-{}", n % 5), n).with("data", vec![1u8; 2_000]);
            asked.push((which, sim.ask(clients[which], &put(table, &bytes(&item)))));
        }
        let mut paused = false;
        for (n, (which, id)) in asked.into_iter().enumerate() {
            assert_eq!(sim.wait(clients[which], id), Reply::Written(None), "write {n}");
            paused |= clients.iter().any(|client| sim.peer(*client).was_paused);
        }
        assert!(paused, "a connection whose writes wait is not read from");
        // Those of one connection took effect in its order.
        for which in 0..8i64 {
            for slot in 0..5i64 {
                let last = (0..3_000).rev().find(|n| n % 8 == which && n % 5 == slot);
                let key = key(&format!("c{which}-{slot}"));
                let found = sim.call(clients[0], &get(table, &key)).item().expect("written");
                assert_eq!(found.0["value"], last.expect("some").into());
            }
        }
    }
}

#[test]
fn stalled_writes_wait_for_the_log_and_reads_go_on() {
    let (mut sim, client, table) = cold(75);
    let other = sim.connect(0);
    assert_eq!(sim.call(other, &get(table, &row_key(5))).item(), Some(row(5)));
    sim.hosts[0].hold_log = true;
    let mut asked = Vec::new();
    for n in 0..400 {
        let item = bytes(&row(n).with("more", vec![2u8; 8_000]));
        asked.push((sim.ask(client, &put(table, &item)), n));
    }
    let batch_items: Vec<Vec<u8>> = (1_000..1_025).map(|n| bytes(&row(n))).collect();
    let writes = batch_items.iter().map(|bytes| BatchOperation { delete: false, bytes }).collect();
    let batched = sim.ask(other, &batch(table, writes));
    sim.steps(300);
    assert!(sim.peer(client).paused);
    assert_eq!(sim.call(other, &get(table, &row_key(5))).item(), Some(row(5)), "reads go on");
    sim.hosts[0].hold_log = false;
    for (id, _) in &asked {
        assert_eq!(sim.wait(client, *id), Reply::Written(None));
    }
    assert_eq!(sim.wait(other, batched), Reply::Outcomes(vec![0; 25]));
    for (_, n) in asked {
        let found = sim.call(client, &get(table, &row_key(n))).item().expect("written");
        assert!(found.0.contains_key("more"));
    }
}

#[test]
fn only_a_full_queue_of_waiting_writes_refuses_and_says_when_to_come_back() {
    let mut sim = Sim::new(SimConfig::SMALL, 76);
    let table = sim.create_table("table", None, 1).id.0;
    sim.hosts[0].hold_log = true;
    let clients: Vec<Client> = (0..300).map(|_| sim.connect(0)).collect();
    let mut asked = Vec::new();
    for (n, client) in clients.iter().enumerate() {
        for i in 0..64 {
            let item = item(&format!("{n}-{i}"), i).with("data", vec![1u8; 1_000]);
            asked.push((*client, sim.ask(*client, &put(table, &bytes(&item)))));
        }
    }
    sim.steps(100);
    sim.hosts[0].hold_log = false;
    let (mut written, mut refused) = (0, 0);
    for (client, id) in asked {
        match sim.wait(client, id) {
            Reply::Written(None) => written += 1,
            Reply::Error(error) => {
                assert_eq!(error.code, ErrorCode::Overloaded);
                assert!(error.retry_after_micros >= 1_000);
                refused += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(written >= 8_192 && refused > 0, "{written} written, {refused} refused");
}

#[test]
fn stopping_answers_stalled_writes() {
    let mut sim = Sim::new(SimConfig::SMALL, 77);
    let table = sim.create_table("table", None, 1).id.0;
    let clients: Vec<Client> = (0..50).map(|_| sim.connect(0)).collect();
    sim.hosts[0].hold_log = true;
    let mut asked = Vec::new();
    for (n, client) in clients.iter().enumerate() {
        for i in 0..40 {
            let item = item(&format!("{n}-{i}"), i).with("data", vec![1u8; 1_000]);
            asked.push((*client, sim.ask(*client, &put(table, &bytes(&item))), n, i));
        }
    }
    sim.steps(100);
    sim.hosts[0].hold_log = false;
    sim.stop();
    sim.steps(10);
    let mut written = Vec::new();
    for (client, id, n, i) in asked {
        match sim.reply(client, id).expect("every accepted request is answered") {
            Reply::Written(None) => written.push((n, i)),
            other => assert_eq!(other.code(), Some(ErrorCode::ShuttingDown)),
        }
    }
    assert!(!written.is_empty() && written.len() < 2_000);
    let mut sim = sim.after_power_cut();
    let client = sim.connect(0);
    for n in 0..50 {
        for i in 0..40 {
            let found = sim.call(client, &get(table, &key(&format!("{n}-{i}")))).item();
            assert_eq!(found.is_some(), written.contains(&(n, i)));
        }
    }
}

#[test]
fn a_peer_that_takes_no_replies_is_paused_and_costs_bounded_memory() {
    let mut sim = Sim::new(SimConfig::LARGE, 78);
    let table = sim.create_table("table", None, 1).id.0;
    let (slow, other) = (sim.connect(0), sim.connect(0));
    let big = item("big", vec![7u8; 300_000]);
    sim.call(other, &put(table, &bytes(&big)));
    sim.peer(slow).takes_replies = false;
    let big_key = key("big");
    let asked: Vec<u64> = (0..2_000).map(|_| sim.ask(slow, &get(table, &big_key))).collect();
    let before = sim.hosts[0].metrics.replies[0].get();
    sim.steps(200);
    let handled = sim.hosts[0].metrics.replies[0].get() - before;
    assert!((4..=12).contains(&handled), "{handled} of 2000 are handled before it is paused");
    assert!(sim.peer(slow).paused);
    for n in 0..100 {
        let row = item(&format!("k{n}"), n);
        assert_eq!(sim.call(other, &put(table, &bytes(&row))), Reply::Written(None));
        assert_eq!(sim.call(other, &get(table, &key(&format!("k{n}")))).item(), Some(row));
    }
    sim.peer(slow).takes_replies = true;
    for id in asked {
        assert_eq!(sim.wait(slow, id).item(), Some(big.clone()));
    }
    sim.steps(10);
    assert!(!sim.peer(slow).paused);
    // One that never comes back does not hold up a stop for long.
    sim.peer(slow).takes_replies = false;
    for _ in 0..100 {
        sim.ask(slow, &get(table, &big_key));
    }
    sim.steps(100);
    let begun = sim.now;
    sim.stop();
    assert!(sim.now.since(begun) < 3 * Nanos::PER_SECOND);
}

#[test]
fn many_slow_peers_together_cost_bounded_memory() {
    let mut sim = Sim::new(SimConfig::LARGE, 79);
    let table = sim.create_table("table", None, 1).id.0;
    let writer = sim.connect(0);
    let big = item("big", vec![7u8; 100_000]);
    sim.call(writer, &put(table, &bytes(&big)));
    let big_key = key("big");
    let clients: Vec<Client> = (0..200).map(|_| sim.connect(0)).collect();
    let before = sim.hosts[0].metrics.replies[0].get();
    for client in &clients {
        sim.peer(*client).takes_replies = false;
        for _ in 0..50 {
            sim.ask(*client, &get(table, &big_key));
        }
    }
    sim.steps(100);
    let handled = sim.hosts[0].metrics.replies[0].get() - before;
    assert!(handled * 100_000 < 100 << 20, "{handled} replies of 100 KB wait");
    for client in &clients {
        sim.peer(*client).takes_replies = true;
    }
    for _ in 0..2_000 {
        sim.step();
        if clients.iter().all(|client| sim.peer(*client).order.len() == 50) {
            return;
        }
    }
    panic!("everybody is served in the end");
}
