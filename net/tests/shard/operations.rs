//! What every request does, told from the client's side.

use forebay_core::expression::{
    Comparison, ConditionExpression, Operand, Path, Projection, SortKeyCondition, UpdateExpression,
};
use forebay_core::item::{Item, Number, Value};
use forebay_core::message::{
    BatchGetRequest, BatchOperation, DeleteTableRequest, DescribeNodeRequest, DescribeTableRequest,
    ErrorCode, GetRequest, ListTablesRequest, PutRequest, ReturnValues,
};
use forebay_core::table::{TableStatus, split_evenly};

use crate::requests::*;
use crate::shell::{Client, Got, Page, Reply, Sim, SimConfig, create_table};

/// A node with a table without (`plain`) and one with a sort key (`sorted`).
struct Fixture {
    sim: Sim,
    client: Client,
    plain: u64,
    sorted: u64,
}

fn fixture(seed: u64) -> Fixture {
    let mut sim = Sim::new(SimConfig::SMALL, seed);
    let plain = sim.create_table("plain", None, 1).id.0;
    let sorted = sim.create_table("sorted", Some(b'S'), 1).id.0;
    let client = sim.connect(0);
    Fixture { sim, client, plain, sorted }
}

fn value_is(value: i64) -> forebay_core::expression::Condition {
    ConditionExpression::compare(Operand::path("value"), Comparison::Equal, Operand::value(value))
        .compile()
        .expect("valid")
}

#[test]
fn put_replaces_and_returns_the_old_item_if_asked() {
    let Fixture { mut sim, client, plain, .. } = fixture(1);
    let (one, two) = (item("a", 1), item("a", 2));
    let reply = sim.call(client, &put(plain, &bytes(&one)));
    assert_eq!(reply, Reply::Written(None));
    assert_eq!(sim.call(client, &get(plain, &key("a"))), Reply::Item(Some(one.clone())));
    let asking =
        PutRequest { return_values: ReturnValues::AllOld, ..put(plain, &bytes(&two).leak()[..]) };
    assert_eq!(sim.call(client, &asking), Reply::Written(Some(one)));
    assert_eq!(sim.call(client, &asking), Reply::Written(Some(two)));
    let other = bytes(&item("b", 0));
    let fresh = PutRequest { return_values: ReturnValues::AllOld, ..put(plain, &other) };
    assert_eq!(sim.call(client, &fresh), Reply::Written(None));
    for refused in [ReturnValues::AllNew, ReturnValues::UpdatedNew, ReturnValues::UpdatedOld] {
        let asking = PutRequest { return_values: refused, ..put(plain, &other) };
        assert_eq!(sim.call(client, &asking).code(), Some(ErrorCode::InvalidRequest));
    }
}

#[test]
fn conditions_hold_fail_and_break() {
    let Fixture { mut sim, client, plain, .. } = fixture(2);
    let one = bytes(&item("a", 1));
    let create = PutRequest { condition: Some(absent()), ..put(plain, &one) };
    assert_eq!(sim.call(client, &create), Reply::Written(None));
    let Reply::Error(refused) = sim.call(client, &create) else { panic!("it exists") };
    assert_eq!((refused.code, refused.item), (ErrorCode::ConditionFailed, None));
    let create = PutRequest { return_old_on_failure: true, ..create };
    let Reply::Error(refused) = sim.call(client, &create) else { panic!("it exists") };
    assert_eq!(refused.item, Some(item("a", 1)));
    // On an absent item there is nothing to return.
    let other = bytes(&item("b", 1));
    let change = PutRequest {
        condition: Some(present()),
        return_old_on_failure: true,
        ..put(plain, &other)
    };
    let Reply::Error(refused) = sim.call(client, &change) else { panic!("it does not exist") };
    assert_eq!((refused.code, refused.item), (ErrorCode::ConditionFailed, None));
    // A delete with a condition.
    let a = key("a");
    let (mut wrong, mut right) = (delete(plain, &a), delete(plain, &a));
    (wrong.condition, right.condition) = (Some(value_is(2)), Some(value_is(1)));
    right.return_values = ReturnValues::AllOld;
    assert_eq!(sim.call(client, &wrong).code(), Some(ErrorCode::ConditionFailed));
    assert_eq!(sim.call(client, &right), Reply::Written(Some(item("a", 1))));
    assert_eq!(sim.call(client, &get(plain, &a)), Reply::Item(None));
    // An update that does not fit the item's types.
    let text = bytes(&item("t", "words"));
    sim.call(client, &put(plain, &text));
    let t = key("t");
    let reply = sim.call(client, &update(plain, &t, add(1)));
    assert_eq!(reply.code(), Some(ErrorCode::InvalidExpression));
}

#[test]
fn delete_removes_and_returns() {
    let Fixture { mut sim, client, plain, .. } = fixture(3);
    let a = key("a");
    assert_eq!(sim.call(client, &delete(plain, &a)), Reply::Written(None), "absent is no error");
    sim.call(client, &put(plain, &bytes(&item("a", 1))));
    let mut asking = delete(plain, &a);
    asking.return_values = ReturnValues::AllOld;
    assert_eq!(sim.call(client, &asking), Reply::Written(Some(item("a", 1))));
    assert_eq!(sim.call(client, &asking), Reply::Written(None));
    asking.return_values = ReturnValues::AllNew;
    assert_eq!(sim.call(client, &asking).code(), Some(ErrorCode::InvalidRequest));
}

#[test]
fn update_creates_changes_and_returns_every_kind_of_value() {
    let Fixture { mut sim, client, plain, .. } = fixture(4);
    let a = key("a");
    let change = |by, return_values| {
        let mut request = update(plain, &a, add(by));
        request.return_values = return_values;
        request
    };
    assert_eq!(sim.call(client, &change(1, ReturnValues::AllOld)), Reply::Written(None));
    let reply = sim.call(client, &change(1, ReturnValues::AllNew));
    assert_eq!(reply, Reply::Written(Some(item("a", 2))));
    let reply = sim.call(client, &change(1, ReturnValues::AllOld));
    assert_eq!(reply, Reply::Written(Some(item("a", 2))));
    let reply = sim.call(client, &change(1, ReturnValues::UpdatedOld));
    assert_eq!(reply, Reply::Written(Some(Item::new().with("value", 3))));
    let reply = sim.call(client, &change(1, ReturnValues::UpdatedNew));
    assert_eq!(reply, Reply::Written(Some(Item::new().with("value", 5))));
    assert_eq!(sim.call(client, &change(1, ReturnValues::None)), Reply::Written(None));
    assert_eq!(sim.call(client, &get(plain, &a)).item(), Some(item("a", 6)));
    // Removing from an item that is not there leaves it so.
    let gone = key("gone");
    let remove = UpdateExpression::new().remove("value").compile().expect("valid");
    assert_eq!(sim.call(client, &update(plain, &gone, remove)), Reply::Written(None));
    assert_eq!(sim.call(client, &get(plain, &gone)), Reply::Item(None));
    // A key attribute is never changed.
    let rename = UpdateExpression::new().set("pk", Value::from("b")).compile().expect("valid");
    let reply = sim.call(client, &update(plain, &a, rename));
    assert_eq!(reply.code(), Some(ErrorCode::InvalidExpression));
    // A condition that does not hold.
    let mut unwanted = change(1, ReturnValues::None);
    unwanted.condition = Some(value_is(0));
    unwanted.return_old_on_failure = true;
    let Reply::Error(refused) = sim.call(client, &unwanted) else { panic!("value is 6") };
    assert_eq!((refused.code, refused.item), (ErrorCode::ConditionFailed, Some(item("a", 6))));
}

#[test]
fn a_projection_returns_only_its_paths() {
    let Fixture { mut sim, client, plain, .. } = fixture(5);
    let nested =
        Value::M([("x".to_owned(), Value::from(1)), ("y".to_owned(), Value::from(2))].into());
    let whole = item("a", nested).with("other", "o");
    sim.call(client, &put(plain, &bytes(&whole)));
    let a = key("a");
    let projection = Projection::new([Path::attribute("value").entry("x")]).expect("valid");
    let asking = GetRequest { projection: Some(projection.clone()), ..get(plain, &a) };
    let x = Value::M([("x".to_owned(), Value::from(1))].into());
    assert_eq!(sim.call(client, &asking).item(), Some(Item::new().with("value", x.clone())));
    let keys = [key("a"), key("nobody")];
    let many = BatchGetRequest {
        table: plain,
        epoch: 0,
        keys: keys.iter().map(|key| &key[..]).collect(),
        projection: Some(projection),
    };
    let expected = Reply::Items(vec![Got::Item(Item::new().with("value", x)), Got::Absent]);
    assert_eq!(sim.call(client, &many), expected);
}

fn sorted_item(pk: &str, sk: impl Into<Value>, value: i64) -> Item {
    Item::new().with("pk", pk).with("sk", sk).with("value", value)
}

fn sks(page: &Page) -> Vec<Value> {
    page.items.iter().map(|item| item.0["sk"].clone()).collect()
}

#[test]
fn query_walks_one_partition_key_in_both_directions_and_resumes() {
    let Fixture { mut sim, client, sorted, .. } = fixture(6);
    for pk in ["p", "q"] {
        for n in 0..25 {
            let item = bytes(&sorted_item(pk, format!("{n:03}"), n));
            sim.call(client, &put(sorted, &item));
        }
        // Some of it in the tree, some in the overlay.
        sim.steps(400);
    }
    let all: Vec<Value> = (0..25).map(|n| Value::from(format!("{n:03}"))).collect();
    let page = sim.call(client, &query(sorted, b"p")).page();
    assert_eq!((sks(&page), page.scanned, page.resume), (all.clone(), 25, None));
    for descending in [false, true] {
        let (mut seen, mut resume) = (Vec::new(), None::<Vec<u8>>);
        loop {
            let mut request = query(sorted, b"p");
            (request.descending, request.limit) = (descending, 4);
            request.resume = resume.as_deref();
            let page = sim.call(client, &request).page();
            assert!(page.items.len() <= 4);
            assert!(page.items.iter().all(|item| item.0["pk"] == Value::from("p")));
            seen.extend(sks(&page));
            resume = page.resume;
            if resume.is_none() {
                break;
            }
        }
        let mut expected = all.clone();
        if descending {
            expected.reverse();
        }
        assert_eq!(seen, expected);
    }
    let text = |s: &str| s.as_bytes().to_vec();
    for (condition, range) in [
        (SortKeyCondition::Equal(text("003")), 3..4),
        (SortKeyCondition::Less(text("003")), 0..3),
        (SortKeyCondition::LessOrEqual(text("003")), 0..4),
        (SortKeyCondition::Greater(text("022")), 23..25),
        (SortKeyCondition::GreaterOrEqual(text("022")), 22..25),
        (SortKeyCondition::Between(text("005"), text("007")), 5..8),
        (SortKeyCondition::BeginsWith(text("01")), 10..20),
        (SortKeyCondition::Equal(text("0")), 0..0),
    ] {
        for descending in [false, true] {
            let mut request = query(sorted, b"p");
            (request.sort_key, request.descending) = (Some(condition.clone()), descending);
            let mut found = sks(&sim.call(client, &request).page());
            if descending {
                found.reverse();
            }
            assert_eq!(found, all[range.clone()], "{condition:?}");
        }
    }
    // A filter counts what was read; so does the limit.
    let mut request = query(sorted, b"p");
    request.filter = Some(value_is(7));
    request.projection = Some(Projection::new(["value"]).expect("valid"));
    let page = sim.call(client, &request).page();
    assert_eq!((page.items, page.scanned), (vec![Item::new().with("value", 7)], 25));
    request.limit = 3;
    let page = sim.call(client, &request).page();
    assert_eq!((page.items.len(), page.scanned, page.resume.is_some()), (0, 3, true));
    // A resume key beyond the condition's bounds does not widen them.
    let far = sim.call(client, &{
        let mut request = query(sorted, b"p");
        request.limit = 20;
        request
    });
    let far = far.page().resume.expect("five are left");
    let mut request = query(sorted, b"p");
    request.sort_key = Some(SortKeyCondition::Less(text("005")));
    request.resume = Some(&far);
    assert_eq!(sim.call(client, &request).page().items, []);
    request.descending = true;
    assert_eq!(sim.call(client, &request).page().items.len(), 5);
    // One of another partition key is refused.
    let mut request = query(sorted, b"q");
    request.resume = Some(&far);
    assert_eq!(sim.call(client, &request).code(), Some(ErrorCode::InvalidRequest));
    request.resume = Some(b"not a key");
    assert_eq!(sim.call(client, &request).code(), Some(ErrorCode::InvalidRequest));
}

#[test]
fn sort_keys_of_every_type_order_by_value() {
    let mut sim = Sim::new(SimConfig::SMALL, 7);
    let client = sim.connect(0);
    let numbers = ["-1e100", "-5", "-0.5", "0", "1e-100", "2", "10", "1e100"];
    let numbers = numbers.map(|text| Value::from(text.parse::<Number>().expect("a number")));
    let binaries = [&[0u8][..], &[0, 0], &[1], &[127, 1], &[128], &[255, 255]].map(Value::from);
    let texts = ["A", "B", "a", "aa", "b", "é"].map(Value::from);
    let families = [(b'N', numbers.to_vec()), (b'B', binaries.to_vec()), (b'S', texts.to_vec())];
    for (letter, values) in families {
        let name = format!("by-{}", char::from(letter));
        let table = sim.create_table(&name, Some(letter), 1).id.0;
        for n in [3, 1, 4, 0, 5, 2, 7, 6] {
            if let Some(value) = values.get(n) {
                let item = bytes(&sorted_item("p", value.clone(), n as i64));
                assert_eq!(sim.call(client, &put(table, &item)), Reply::Written(None));
            }
        }
        assert_eq!(sks(&sim.call(client, &query(table, b"p")).page()), values);
        let mut request = query(table, b"p");
        request.descending = true;
        let found = sks(&sim.call(client, &request).page());
        assert_eq!(found.into_iter().rev().collect::<Vec<_>>(), values);
        for (n, value) in values.iter().enumerate() {
            let key = key_with("p", value.clone());
            let found = sim.call(client, &get(table, &key)).item();
            assert_eq!(found, Some(sorted_item("p", value.clone(), n as i64)));
        }
    }
}

#[test]
fn scans_see_every_item_once_in_any_number_of_segments() {
    let mut sim = Sim::new(SimConfig::SMALL, 8);
    let table = sim.create_table("wide", None, 5).id.0;
    let client = sim.connect(0);
    let mut expected: Vec<String> = (0..200).map(|n| format!("k{n}")).collect();
    for (n, pk) in expected.iter().enumerate() {
        sim.call(client, &put(table, &bytes(&item(pk, n as i64))));
    }
    expected.sort();
    for (segments, limit) in [(1, 0), (1, 7), (3, 0), (7, 11), (64, 1)] {
        let mut seen = Vec::new();
        for (first, last) in split_evenly(segments) {
            let (mut from, mut resume) = (first, None::<Vec<u8>>);
            loop {
                let mut request = scan(table);
                (request.hash_first, request.hash_last) = (from, last);
                (request.limit, request.resume) = (limit, resume.as_deref());
                let page = sim.call(client, &request).page();
                seen.extend(page.items.iter().map(|item| item.0["pk"].clone()));
                match (page.resume, page.next_hash) {
                    (Some(key), None) => resume = Some(key),
                    (None, Some(hash)) => (from, resume) = (hash, None),
                    (None, None) => break,
                    both => panic!("one way to go on, not {both:?}"),
                }
            }
        }
        let mut seen: Vec<String> = seen
            .into_iter()
            .map(|pk| match pk {
                Value::S(pk) => pk,
                other => panic!("{other:?}"),
            })
            .collect();
        seen.sort();
        assert_eq!(seen, expected, "{segments} segments, limit {limit}");
    }
    let mut backwards = scan(table);
    (backwards.hash_first, backwards.hash_last) = (2, 1);
    assert_eq!(sim.call(client, &backwards).code(), Some(ErrorCode::InvalidRequest));
}

#[test]
fn a_page_ends_after_a_megabyte_of_items() {
    let mut sim = Sim::new(SimConfig::LARGE, 9);
    let table = sim.create_table("large", Some(b'S'), 1).id.0;
    let client = sim.connect(0);
    for n in 0..5 {
        let item = sorted_item("p", n.to_string(), n).with("data", vec![7u8; 300_000]);
        assert_eq!(sim.call(client, &put(table, &bytes(&item))), Reply::Written(None));
    }
    for _ in 0..2 {
        let mut request = query(table, b"p");
        request.projection = Some(Projection::new(["sk"]).expect("valid"));
        let first = sim.call(client, &request).page();
        assert_eq!((first.items.len(), first.scanned), (4, 4), "the one that crosses is in it");
        let resume = first.resume.expect("there is more");
        request.resume = Some(&resume);
        let second = sim.call(client, &request).page();
        assert_eq!((second.items.len(), second.resume), (1, None));
        // The same from the tree and its overflow extents.
        sim.steps(20_000);
        assert!(sim.hosts[0].shard.store().stats().checkpoint_number > 1);
    }
}

#[test]
fn batches_read_and_write_many_items() {
    let Fixture { mut sim, client, plain, .. } = fixture(10);
    let items: Vec<Vec<u8>> = (0..25).map(|n| bytes(&item(&format!("k{n}"), n))).collect();
    let writes = |delete: bool, all: &'static [Vec<u8>]| {
        all.iter().map(|bytes| BatchOperation { delete, bytes }).collect::<Vec<_>>()
    };
    let items: &'static [Vec<u8>] = items.leak();
    let keys: &'static [Vec<u8>] =
        (0..25).map(|n| key(&format!("k{n}"))).collect::<Vec<_>>().leak();
    let reply = sim.call(client, &batch(plain, writes(false, items)));
    assert_eq!(reply, Reply::Outcomes(vec![0; 25]));
    let reads = BatchGetRequest {
        table: plain,
        epoch: 0,
        keys: keys.iter().map(|key| &key[..]).collect(),
        projection: None,
    };
    let all = (0..25).map(|n| Got::Item(item(&format!("k{n}"), n))).collect();
    assert_eq!(sim.call(client, &reads), Reply::Items(all));
    let reply = sim.call(client, &batch(plain, writes(true, &keys[..10])));
    assert_eq!(reply, Reply::Outcomes(vec![0; 10]));
    let Reply::Items(left) = sim.call(client, &reads) else { panic!("items") };
    assert_eq!(left.iter().filter(|got| **got == Got::Absent).count(), 10);
    // A bad batch writes nothing.
    let twice = writes(false, items).into_iter().take(2).chain(writes(true, &keys[..1]));
    let reply = sim.call(client, &batch(plain, twice.collect()));
    assert_eq!(reply.code(), Some(ErrorCode::InvalidRequest));
    assert_eq!(sim.call(client, &get(plain, &keys[1])), Reply::Item(None));
    let none = sim.call(client, &batch(plain, Vec::new()));
    assert_eq!(none.code(), Some(ErrorCode::InvalidRequest));
    let many: Vec<_> = writes(false, items).into_iter().chain(writes(true, &keys[..1])).collect();
    assert_eq!(sim.call(client, &batch(plain, many)).code(), Some(ErrorCode::InvalidRequest));
    let none = BatchGetRequest { keys: Vec::new(), ..reads };
    assert_eq!(sim.call(client, &none).code(), Some(ErrorCode::InvalidRequest));
    let many = BatchGetRequest { keys: vec![&keys[0][..]; 101], ..none };
    assert_eq!(sim.call(client, &many).code(), Some(ErrorCode::InvalidRequest));
}

#[test]
fn a_batch_get_beyond_a_frame_says_what_it_did_not_read() {
    let mut sim = Sim::new(SimConfig::LARGE, 11);
    let table = sim.create_table("large", None, 1).id.0;
    let client = sim.connect(0);
    for n in 0..50 {
        let item = item(&format!("k{n}"), vec![n as u8; 390_000]);
        assert_eq!(sim.call(client, &put(table, &bytes(&item))), Reply::Written(None));
    }
    let keys: Vec<Vec<u8>> = (0..50).map(|n| key(&format!("k{n}"))).collect();
    let reads = BatchGetRequest {
        table,
        epoch: 0,
        keys: keys.iter().map(|key| &key[..]).collect(),
        projection: None,
    };
    let Reply::Items(items) = sim.call(client, &reads) else { panic!("items") };
    let read = items.iter().filter(|got| matches!(got, Got::Item(_))).count();
    assert_eq!(items.len(), 50);
    assert_eq!(read, 43, "16 MiB of them");
    assert!(items[read..].iter().all(|got| *got == Got::NotRead));
}

#[test]
fn tables_are_created_described_listed_and_deleted() {
    let mut sim = Sim::new(SimConfig::SMALL, 12);
    let client = sim.connect(0);
    let table = sim.call(client, &create_table("first", b'S', Some(b'N'), 3)).table();
    assert_eq!(table.status, TableStatus::Active);
    assert_eq!(table.partitions.len(), 3);
    assert_eq!(table.schema.sort.as_ref().map(|sort| sort.name.as_str()), Some("sk"));
    assert!(table.created_unix_millis > 1_700_000_000_000);
    let described = sim.call(client, &DescribeTableRequest { name: "first" }).table();
    assert_eq!(described, table);
    let again = sim.call(client, &create_table("first", b'S', None, 1));
    assert_eq!(again.code(), Some(ErrorCode::TableExists));
    for n in 0..5 {
        sim.create_table(&format!("tb{n}"), None, 0);
    }
    let names = |sim: &mut Sim, start_after, limit| {
        sim.call(client, &ListTablesRequest { start_after, limit })
    };
    let all = ["first", "tb0", "tb1", "tb2", "tb3", "tb4"].map(str::to_owned);
    assert_eq!(names(&mut sim, "", 0), Reply::Names(all.to_vec(), false));
    assert_eq!(names(&mut sim, "", 2), Reply::Names(all[..2].to_vec(), true));
    assert_eq!(names(&mut sim, "tb0", 2), Reply::Names(all[2..4].to_vec(), true));
    assert_eq!(names(&mut sim, "tb2", 2), Reply::Names(all[4..].to_vec(), false));
    assert_eq!(names(&mut sim, "zzz", 2), Reply::Names(Vec::new(), false));
    let id = table.id.0;
    let row = bytes(&sorted_item("p", 1, 1));
    assert_eq!(sim.call(client, &put(id, &row)), Reply::Written(None));
    let gone = sim.call(client, &DeleteTableRequest { name: "first" }).table();
    assert_eq!((gone.status, gone.id), (TableStatus::Deleting, table.id));
    assert_eq!(sim.call(client, &put(id, &row)).code(), Some(ErrorCode::UnknownTable));
    let absent = sim.call(client, &DescribeTableRequest { name: "first" });
    assert_eq!(absent.code(), Some(ErrorCode::UnknownTable));
    let absent = sim.call(client, &DeleteTableRequest { name: "first" });
    assert_eq!(absent.code(), Some(ErrorCode::UnknownTable));
    // The name is free for another table with nothing in it.
    let second = sim.call(client, &create_table("first", b'S', Some(b'N'), 3)).table();
    assert_ne!(second.id, table.id);
    assert_eq!(sim.call(client, &query(second.id.0, b"p")).page().items, []);
    let node = sim.call(client, &DescribeNodeRequest { protocol_version: 1 });
    assert_eq!(node, Reply::Node(vec![(0, 4700)]));
}

#[test]
fn what_is_known_of_a_table_is_chosen_before_it_is_told() {
    let mut sim = Sim::new(SimConfig::SMALL, 13);
    let client = sim.connect(0);
    sim.hosts[0].hold_log = true;
    let created = sim.ask(client, &create_table("early", b'S', None, 1));
    let described = sim.ask(client, &DescribeTableRequest { name: "early" });
    let listed = sim.ask(client, &ListTablesRequest { start_after: "", limit: 0 });
    let again = sim.ask(client, &create_table("early", b'S', None, 1));
    let deleted = sim.ask(client, &DeleteTableRequest { name: "early" });
    sim.steps(100);
    assert!(sim.peer(client).replies.is_empty(), "nothing is chosen yet");
    sim.hosts[0].hold_log = false;
    assert_eq!(sim.wait(client, created).table().status, TableStatus::Active);
    let status = sim.wait(client, described).table().status;
    assert!(matches!(status, TableStatus::Creating | TableStatus::Active));
    assert_eq!(sim.wait(client, listed), Reply::Names(vec!["early".to_owned()], false));
    assert_eq!(sim.wait(client, again).code(), Some(ErrorCode::TableExists));
    match sim.wait(client, deleted) {
        Reply::Table(table) => assert_eq!(table.status, TableStatus::Deleting),
        other => assert_eq!(other.code(), Some(ErrorCode::TableNotActive)),
    }
}
