//! Entries in flight: who sees them, what waits for them, and what a failed log makes of them.

use forebay_core::expression::{Comparison, ConditionExpression, Operand};
use forebay_core::message::{ErrorCode, PutRequest, ReturnValues};
use forebay_storage::block::ShardFile;
use forebay_storage::sim_disk::{EIO, Fault};

use crate::requests::*;
use crate::shell::{Client, Reply, Sim, SimConfig};

fn fixture(seed: u64) -> (Sim, Client, u64) {
    let mut sim = Sim::new(SimConfig::SMALL, seed);
    let table = sim.create_table("table", None, 1).id.0;
    let client = sim.connect(0);
    (sim, client, table)
}

#[test]
fn conditional_writes_of_one_turn_see_each_other_and_wait_for_each_other() {
    for seed in 30..40 {
        let (mut sim, client, table) = fixture(seed);
        sim.hosts[0].hold_log = true;
        let (one, two) = (bytes(&item("a", 1)), bytes(&item("a", 2)));
        let first = PutRequest { condition: Some(absent()), ..put(table, &one) };
        let second = PutRequest {
            condition: Some(absent()),
            return_old_on_failure: true,
            ..put(table, &two)
        };
        let is_one = ConditionExpression::compare(
            Operand::path("value"),
            Comparison::Equal,
            Operand::value(1),
        );
        let third = PutRequest {
            condition: Some(is_one.compile().expect("valid")),
            return_values: ReturnValues::AllOld,
            ..put(table, &two)
        };
        let a = key("a");
        let ids = [sim.ask(client, &first), sim.ask(client, &second), sim.ask(client, &third)];
        let ids = [ids[0], ids[1], ids[2], sim.ask(client, &update(table, &a, add(5)))];
        // Removing from an item that a write in flight deletes.
        let other = key("other");
        let gone = sim.ask(client, &delete(table, &other));
        let remove = forebay_core::expression::UpdateExpression::new().remove("x");
        let nothing = sim.ask(client, &update(table, &other, remove.compile().expect("valid")));
        let read = sim.ask(client, &get(table, &a));
        sim.steps(100);
        assert_eq!(sim.reply(client, read), Some(Reply::Item(None)), "reads see what is chosen");
        assert!(sim.peer(client).replies.is_empty(), "nothing else is answered before");
        sim.hosts[0].hold_log = false;
        assert_eq!(sim.wait(client, ids[0]), Reply::Written(None));
        let Reply::Error(failed) = sim.wait(client, ids[1]) else { panic!("one is there") };
        assert_eq!((failed.code, failed.item), (ErrorCode::ConditionFailed, Some(item("a", 1))));
        assert_eq!(sim.wait(client, ids[2]), Reply::Written(Some(item("a", 1))));
        assert_eq!(sim.wait(client, ids[3]), Reply::Written(None));
        assert_eq!(sim.wait(client, gone), Reply::Written(None));
        assert_eq!(sim.wait(client, nothing), Reply::Written(None));
        assert_eq!(sim.call(client, &get(table, &a)).item(), Some(item("a", 7)));
    }
}

#[test]
fn errors_derived_from_entries_in_flight_wait_for_them() {
    let (mut sim, client, table) = fixture(41);
    sim.hosts[0].hold_log = true;
    let text = bytes(&item("a", "words"));
    let a = key("a");
    let first = sim.ask(client, &put(table, &text));
    let mismatch = sim.ask(client, &update(table, &a, add(1)));
    // On an item without writes in flight the same error comes at once.
    let b = key("b");
    let text_again = forebay_core::expression::UpdateExpression::new()
        .set(
            "value",
            forebay_core::expression::SetValue::sum(
                forebay_core::expression::Path::attribute("value"),
                forebay_core::item::Value::from(1),
            ),
        )
        .compile()
        .expect("valid");
    let at_once = sim.ask(client, &update(table, &b, text_again));
    sim.steps(60);
    let reply = sim.reply(client, at_once).expect("depends on nothing in flight");
    assert_eq!(reply.code(), Some(ErrorCode::InvalidExpression));
    assert!(sim.peer(client).replies.is_empty());
    sim.hosts[0].hold_log = false;
    assert_eq!(sim.wait(client, first), Reply::Written(None));
    assert_eq!(sim.wait(client, mismatch).code(), Some(ErrorCode::InvalidExpression));
}

#[test]
fn many_connections_get_their_own_replies_in_any_order() {
    let (mut sim, _, table) = fixture(42);
    let clients: Vec<Client> = (0..20).map(|_| sim.connect(0)).collect();
    let mut asked = Vec::new();
    for round in 0..50i64 {
        for (n, client) in clients.iter().enumerate() {
            let pk = format!("c{n}");
            let write = sim.ask(*client, &put(table, &bytes(&item(&pk, round))));
            asked.push((*client, write, Reply::Written(None)));
            let nobody = key("nobody");
            let read = sim.ask(*client, &get(table, &nobody));
            asked.push((*client, read, Reply::Item(None)));
        }
        sim.steps(2);
    }
    for (client, id, expected) in asked {
        assert_eq!(sim.wait(client, id), expected);
    }
    for (n, client) in clients.iter().enumerate() {
        let pk = format!("c{n}");
        let last = sim.call(*client, &get(table, &key(&pk))).item();
        assert_eq!(last, Some(item(&pk, 49)));
    }
}

#[test]
fn after_a_failed_log_write_nothing_is_served_and_no_outcome_is_guessed() {
    for (seed, fault) in [(43, Fault::Write(EIO)), (44, Fault::Write(28))] {
        let (mut sim, client, table) = fixture(seed);
        let a = key("a");
        sim.call(client, &put(table, &bytes(&item("a", 0))));
        sim.hosts[0].disk.inject(ShardFile::Log, fault);
        let writes: Vec<u64> =
            (0..10).map(|n| sim.ask(client, &put(table, &bytes(&item("a", n))))).collect();
        let created = sim.ask(client, &crate::shell::create_table("late", b'S', None, 1));
        let mut unknown = 0;
        for id in writes {
            match sim.wait(client, id) {
                Reply::Written(None) => assert_eq!(unknown, 0, "in order"),
                other => {
                    assert_eq!(other.code(), Some(ErrorCode::ShardFailed));
                    unknown += 1;
                }
            }
        }
        assert!(unknown > 0);
        assert_eq!(sim.wait(client, created).code(), Some(ErrorCode::ShardFailed));
        for _ in 0..3 {
            assert_eq!(sim.call(client, &get(table, &a)).code(), Some(ErrorCode::ShardFailed));
            let row = bytes(&item("b", 1));
            assert_eq!(sim.call(client, &put(table, &row)).code(), Some(ErrorCode::ShardFailed));
        }
        // It can still be stopped, and what was acknowledged is there after a restart.
        sim.stop();
        let mut sim = sim.after_power_cut();
        let client = sim.connect(0);
        assert!(sim.call(client, &get(table, &a)).item().is_some());
    }
}

#[test]
fn a_failed_checkpoint_write_ends_the_service_too() {
    let (mut sim, client, table) = fixture(45);
    sim.call(client, &put(table, &bytes(&item("a", 1))));
    sim.hosts[0].disk.inject(ShardFile::Pages, Fault::Write(EIO));
    let a = key("a");
    for _ in 0..10_000 {
        if sim.call(client, &get(table, &a)).code() == Some(ErrorCode::ShardFailed) {
            sim.stop();
            let mut sim = sim.after_power_cut();
            let client = sim.connect(0);
            assert_eq!(sim.call(client, &get(table, &a)).item(), Some(item("a", 1)));
            return;
        }
        sim.step();
    }
    panic!("the checkpoint never failed");
}
