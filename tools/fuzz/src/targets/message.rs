//! Every request and reply, in every version. Input: the kind's place in `Kind::ALL` (1 byte, plus 128
//! for the version of reads that need not be strong), then the payload.

use forebay_core::expression::{
    ArchivedCondition, ArchivedProjection, ArchivedSortKeyCondition, ArchivedUpdate, Comparison,
    Condition, ConditionExpression, Operand, Path, Projection, SetValue, SortKeyCondition, Update,
    UpdateExpression, UpdateOperand, ValueType,
};
use forebay_core::item::{Item, ItemRef, Value};
use forebay_core::key::{KeyBuf, KeyRef};
use forebay_core::message::*;
use forebay_core::table::validate_table_name;
use forebay_net::frame::{self, Frame};
use forebay_net::machine::SendBuf;

use super::item::every_type;
use super::{item, key};

/// In an input's first byte: the message is wrapped in [`Eventual`] or [`Lagging`].
const EVENTUAL: u8 = 0x80;

/// The request or reply of a frame, wrapped or not; ends the function if its bytes are no such message.
macro_rules! message {
    ($frame:ident, $plain:ident, $outer:ident of $inner:ident, $field:ident) => {
        match $frame.message_version {
            EVENTUAL_VERSION => match $frame.message::<$outer<$inner<'_>>>() {
                Some(wrapped) => &wrapped.$field,
                None => return,
            },
            _ => match $frame.message::<$plain<'_>>() {
                Some(plain) => plain,
                None => return,
            },
        }
    };
}

/// A message that validates can be used in place: its expressions are checked, then evaluated on
/// items, and whatever an update or projection makes is a valid item.
pub fn run(data: &[u8]) {
    let Some((place, payload)) = data.split_first() else { return };
    let kind = Kind::ALL[usize::from(place & !EVENTUAL) % Kind::ALL.len()];
    let wrapped = place & EVENTUAL != 0 && newest_version_of(kind) == EVENTUAL_VERSION;
    assert_eq!(Kind::from_wire(kind as u16), Some(kind));
    let mut aligned = SendBuf::new();
    aligned.extend_from_slice(payload);
    let frame = Frame {
        kind: kind as u16,
        message_version: if wrapped { EVENTUAL_VERSION } else { version_of(kind) },
        correlation: 1,
        payload: &aligned,
        frame_bytes: 0,
    };
    if kind.is_request() { request(kind, &frame) } else { reply(kind, &frame) }
}

fn request(kind: Kind, frame: &Frame<'_>) {
    match kind {
        Kind::Put => {
            let Some(put) = frame.message::<ArchivedPutRequest<'_>>() else { return };
            item::run(&put.item);
            put.condition.iter().for_each(|condition| check_condition(condition, &put.item));
        }
        Kind::Get => {
            let get = message!(frame, ArchivedGetRequest, ArchivedEventual of GetRequest, read);
            item::run(&get.key);
            get.projection.iter().for_each(check_projection);
        }
        Kind::Delete => {
            let Some(delete) = frame.message::<ArchivedDeleteRequest<'_>>() else { return };
            delete.condition.iter().for_each(|condition| check_condition(condition, &delete.key));
        }
        Kind::Update => {
            let Some(update) = frame.message::<ArchivedUpdateRequest<'_>>() else { return };
            check_update(&update.update);
            update.condition.iter().for_each(|condition| check_condition(condition, &update.key));
        }
        Kind::Query => {
            let query =
                message!(frame, ArchivedQueryRequest, ArchivedEventual of QueryRequest, read);
            query.sort_key.iter().for_each(|condition| check_sort_key(condition, frame.payload));
            query.filter.iter().for_each(|filter| check_condition(filter, &[]));
            query.projection.iter().for_each(check_projection);
            query.resume.iter().for_each(|resume| key::run(resume));
        }
        Kind::Scan => {
            let scan = message!(frame, ArchivedScanRequest, ArchivedEventual of ScanRequest, read);
            scan.filter.iter().for_each(|filter| check_condition(filter, &[]));
            scan.projection.iter().for_each(check_projection);
            scan.resume.iter().for_each(|resume| key::run(resume));
        }
        Kind::BatchGet => {
            let batch =
                message!(frame, ArchivedBatchGetRequest, ArchivedEventual of BatchGetRequest, read);
            batch.keys.iter().for_each(|key| item::run(key));
            batch.projection.iter().for_each(check_projection);
        }
        Kind::BatchWrite => {
            let Some(batch) = frame.message::<ArchivedBatchWriteRequest<'_>>() else { return };
            batch.operations.iter().for_each(|operation| item::run(&operation.bytes));
        }
        Kind::CreateTable => {
            let Some(create) = frame.message::<ArchivedCreateTableRequest<'_>>() else { return };
            let _ = validate_table_name(&create.name);
            assert!(create.partition_key.len() + create.sort_key.len() <= frame.payload.len());
        }
        Kind::DescribeTable => {
            let Some(table) = frame.message::<ArchivedDescribeTableRequest<'_>>() else { return };
            let _ = validate_table_name(&table.name);
        }
        Kind::ListTables => {
            let Some(list) = frame.message::<ArchivedListTablesRequest<'_>>() else { return };
            let _ = validate_table_name(&list.start_after);
        }
        Kind::DeleteTable => {
            let Some(table) = frame.message::<ArchivedDeleteTableRequest<'_>>() else { return };
            let _ = validate_table_name(&table.name);
        }
        Kind::DescribeNode => {
            frame.message::<ArchivedDescribeNodeRequest>();
        }
        Kind::Admin => {
            let Some(admin) = frame.message::<ArchivedAdminRequest<'_>>() else { return };
            assert!(admin.command.len() <= frame.payload.len());
        }
        reply => unreachable!("{reply:?} is no request"),
    }
}

/// What a client reads of each reply. Nothing that a reply holds is longer than its payload.
fn reply(kind: Kind, frame: &Frame<'_>) {
    let max = frame.payload.len();
    match kind {
        Kind::WriteReply => {
            let Some(reply) = frame.message::<ArchivedWriteReply<'_>>() else { return };
            reply.attributes.iter().for_each(|bytes| item::run(bytes));
        }
        Kind::GetReply => {
            let reply = message!(frame, ArchivedGetReply, ArchivedLagging of GetReply, reply);
            reply.item.iter().for_each(|bytes| item::run(bytes));
        }
        Kind::PageReply => {
            let reply = message!(frame, ArchivedPageReply, ArchivedLagging of PageReply, reply);
            assert!(reply.items.len() <= max);
            reply.resume.iter().for_each(|resume| key::run(resume));
        }
        Kind::BatchGetReply => {
            let reply =
                message!(frame, ArchivedBatchGetReply, ArchivedLagging of BatchGetReply, reply);
            assert!(reply.items.len() <= max);
        }
        Kind::BatchWriteReply => {
            let Some(reply) = frame.message::<ArchivedBatchWriteReply>() else { return };
            let outcomes = reply.outcomes.iter().map(|outcome| outcome.to_native());
            assert!(outcomes.filter_map(ErrorCode::from_wire).count() <= max);
        }
        Kind::TableReply => {
            let Some(reply) = frame.message::<ArchivedTableReply<'_>>() else { return };
            super::table::run(&reply.description);
        }
        Kind::ListTablesReply => {
            let Some(reply) = frame.message::<ArchivedListTablesReply>() else { return };
            assert!(reply.names.len() <= max);
            reply.names.iter().for_each(|name| assert!(name.as_str().len() <= max));
        }
        Kind::DescribeNodeReply => {
            let Some(reply) = frame.message::<ArchivedDescribeNodeReply>() else { return };
            assert!(reply.shards.len() <= max);
        }
        Kind::AdminReply => {
            let Some(reply) = frame.message::<ArchivedAdminReply<'_>>() else { return };
            assert!(reply.answer.len() <= max);
        }
        Kind::NotLeaderReply => {
            let Some(reply) = frame.message::<ArchivedNotLeaderReply>() else { return };
            let reached = std::net::IpAddr::from([192, 0, 2, 1]);
            // An IPv4 address may be spelled in more than one way; the port may not.
            if let Some(leader) = reply.leader(reached) {
                let again = NotLeaderReply::leader_is(leader);
                assert_eq!(again.leader_port, reply.leader_port.to_native());
            }
        }
        Kind::ErrorReply => {
            let Some(reply) = frame.message::<ArchivedErrorReply<'_>>() else { return };
            if let Some(code) = ErrorCode::from_wire(reply.code.to_native()) {
                assert_eq!(code as u16, reply.code.to_native());
            }
            assert!(reply.message.len() <= max);
            reply.item.iter().for_each(|bytes| item::run(bytes));
        }
        request => unreachable!("{request:?} is no reply"),
    }
}

fn current_item() -> Vec<u8> {
    every_type().to_bytes().expect("within the limits")
}

fn key_item() -> Vec<u8> {
    Item::new().with("at", 7).with("id", "one").to_bytes().expect("within the limits")
}

fn check_condition(condition: &ArchivedCondition, own: &[u8]) {
    if condition.check().is_err() {
        return;
    }
    let current = current_item();
    for item in [None, Some(ItemRef::trusted(&current)), ItemRef::validate(own).ok()] {
        assert_eq!(condition.evaluate(item), condition.evaluate(item));
    }
}

fn check_projection(projection: &ArchivedProjection) {
    if projection.check().is_err() {
        return;
    }
    let current = current_item();
    let current = ItemRef::trusted(&current);
    let mut out = vec![0xee];
    if let Ok(bytes) = projection.apply_into(current, &mut out) {
        let projected = ItemRef::validate(bytes).expect("a projection makes a valid item");
        assert!(projected.size_bytes() <= current.size_bytes());
        for (name, value) in projected.iter() {
            let whole = current.get(name).expect("an attribute of the item");
            assert_eq!(value.type_name(), whole.type_name());
        }
        let projected = projected.bytes().to_vec();
        let mut again = Vec::new();
        assert_eq!(projection.apply_into(current, &mut again), Ok(&projected[..]));
    }
}

fn check_update(update: &ArchivedUpdate) {
    if update.check(&["id", "at"]).is_err() {
        return;
    }
    let (key, current) = (key_item(), current_item());
    let (key, current) = (ItemRef::trusted(&key), ItemRef::trusted(&current));
    for old in [None, Some(current)] {
        let mut out = vec![0xee];
        match update.apply_into(old, key, &mut out) {
            Err(_) => assert_eq!(out, [0xee], "an update that fails leaves nothing behind"),
            Ok(None) => assert!(old.is_none()),
            Ok(Some(bytes)) => {
                // The size limit is for the caller to check; everything else holds.
                let Ok(new) = ItemRef::validate(bytes) else {
                    panic!("an update made an invalid item: {:?}", ItemRef::validate(bytes));
                };
                for name in ["id", "at"] {
                    assert_eq!(new.get(name), key.get(name), "no update changes the key");
                }
                for item in [Some(new), old].into_iter().flatten() {
                    let mut touched = Vec::new();
                    if let Ok(touched) = update.updated_into(item, &mut touched) {
                        assert!(ItemRef::validate(touched).is_ok());
                    }
                }
            }
        }
    }
}

/// The interval of encoded keys is exactly the set of sort keys that match.
fn check_sort_key(condition: &ArchivedSortKeyCondition, payload: &[u8]) {
    let ok = [true, false].map(|numeric| condition.check(numeric).is_ok());
    assert!(!ok[0] || ok[1], "what suits numbers suits all");
    if !ok[1] {
        return;
    }
    let mut prefix = KeyBuf::new();
    prefix.set_partition(&key::SEED, b"partition").expect("a short key");
    let (mut lower, mut upper) = (prefix.as_bytes().to_vec(), prefix.as_bytes().to_vec());
    condition.append_lower(&mut lower);
    condition.append_upper(&mut upper);
    let samples = payload.chunks(5).chain(payload.windows(3).take(64));
    for sort_key in samples.chain([&b"a"[..], &[0xff; 4], &[0]]) {
        for sort_key in [sort_key, &[sort_key, &[0]].concat()] {
            let encoded = [prefix.as_bytes(), sort_key].concat();
            assert!(KeyRef::validate(&encoded).is_ok());
            let inside = encoded >= lower && encoded < upper;
            assert_eq!(condition.matches(sort_key), inside, "{condition:?} {sort_key:?}");
        }
    }
}

/// A condition with every kind of test.
pub(super) fn condition() -> Condition {
    use ConditionExpression as C;
    let list = Path::from("list").element(1);
    C::compare(Operand::path("count"), Comparison::Less, Operand::value(100))
        .and(C::exists("map").or(C::not_exists(Path::from("map").entry("deep").element(0))))
        .and(C::between(Operand::path("at"), Operand::value(1), Operand::value(9)))
        .and(C::is_in(Operand::path("id"), [Operand::value("one"), Operand::value("two")]))
        .and(C::attribute_type(Operand::path("blob"), ValueType::B))
        .and(C::begins_with(Operand::path("id"), Operand::value("o")))
        .and(C::contains(Operand::path("ss"), Operand::value("bb")).not())
        .or(C::compare(Operand::size(list), Comparison::GreaterOrEqual, Operand::value(1)))
        .compile()
        .expect("a good condition")
}

/// An update with every verb.
pub(super) fn update() -> Update {
    let or_zero = UpdateOperand::if_not_exists("total", Value::from(0));
    let more = Value::L(vec![Value::from("more")]);
    UpdateExpression::new()
        .set("total", SetValue::sum(or_zero, Value::from(3)))
        .set("count", SetValue::difference(Path::from("count"), Value::from(1)))
        .set("list", SetValue::list_append(Path::from("list"), more))
        .set(Path::from("map").entry("flag"), Value::Null)
        .remove(Path::from("map").entry("deep").element(0))
        .remove("null")
        .add("ns", Value::Ns([forebay_core::item::Number::from(9)].into()))
        .delete("ss", Value::Ss(["a".to_owned()].into()))
        .compile()
        .expect("a good update")
}

pub(super) fn projection() -> Projection {
    let paths = ["id", "ss"].map(Path::from).into_iter();
    let nested = [Path::from("map").entry("deep").element(1), Path::from("list").element(2)];
    Projection::new(paths.chain(nested)).expect("a good projection")
}

fn eventual<R>(read: R) -> Eventual<R> {
    Eventual { read, staleness_max_millis: 250 }
}

/// Requests to `table`, all good, as frames: for this target and for the shard's.
pub(super) fn requests(table: u64, key: &[u8], item: &[u8], encoded_key: &[u8]) -> Vec<SendBuf> {
    let mut frames = Vec::new();
    let mut correlation = 0;
    macro_rules! add {
        ($($message:expr),* $(,)?) => {$({
            let mut out = SendBuf::new();
            correlation += 1;
            frame::append(&mut out, correlation, &$message);
            frames.push(out);
        })*};
    }
    let epoch = 0;
    let query = |sort_key, descending, resume| QueryRequest {
        table,
        epoch,
        partition_key: b"one",
        sort_key,
        descending,
        limit: 2,
        filter: Some(condition()),
        projection: None,
        resume,
        consistent: true,
    };
    let operation = |delete, bytes| BatchOperation { delete, bytes };
    add!(
        PutRequest {
            table,
            epoch,
            item,
            condition: None,
            return_values: ReturnValues::None,
            return_old_on_failure: false,
        },
        PutRequest {
            table,
            epoch,
            item,
            condition: Some(condition()),
            return_values: ReturnValues::AllOld,
            return_old_on_failure: true,
        },
        GetRequest { table, epoch, key, projection: None, consistent: true },
        GetRequest { table, epoch, key, projection: Some(projection()), consistent: false },
        UpdateRequest {
            table,
            epoch,
            key,
            update: update(),
            condition: Some(condition()),
            return_values: ReturnValues::UpdatedNew,
            return_old_on_failure: true,
        },
        query(Some(SortKeyCondition::Less(vec![0xc1, 9])), false, None),
        query(Some(SortKeyCondition::Less(vec![0xc1, 2])), false, Some(encoded_key)),
        query(Some(SortKeyCondition::Greater(vec![0xc1, 9])), true, Some(encoded_key)),
        query(Some(SortKeyCondition::Between(vec![0xc1, 1], vec![0xc1, 8])), true, None),
        query(None, false, None),
        ScanRequest {
            table,
            epoch,
            hash_first: 0,
            hash_last: u64::MAX,
            limit: 1,
            filter: None,
            projection: Some(projection()),
            resume: None,
        },
        ScanRequest {
            table,
            epoch,
            hash_first: 0,
            hash_last: u64::MAX,
            limit: 0,
            filter: None,
            projection: None,
            resume: Some(encoded_key),
        },
        BatchGetRequest { table, epoch, keys: vec![key, key], projection: None },
        eventual(GetRequest {
            table,
            epoch,
            key,
            projection: Some(projection()),
            consistent: false
        }),
        eventual(query(Some(SortKeyCondition::Less(vec![0xc1, 9])), false, Some(encoded_key))),
        eventual(ScanRequest {
            table,
            epoch,
            hash_first: 0,
            hash_last: u64::MAX,
            limit: 1,
            filter: None,
            projection: None,
            resume: Some(encoded_key),
        }),
        eventual(BatchGetRequest { table, epoch, keys: vec![key], projection: None }),
        BatchWriteRequest {
            table,
            epoch,
            operations: vec![operation(false, item), operation(true, key)],
        },
        BatchWriteRequest { table, epoch, operations: vec![operation(true, key)] },
        DeleteRequest {
            table,
            epoch,
            key,
            condition: Some(condition()),
            return_values: ReturnValues::AllOld,
            return_old_on_failure: true,
        },
        CreateTableRequest {
            name: "another",
            partition_key: "id",
            partition_key_type: b'S',
            sort_key: "",
            sort_key_type: 0,
            partitions: 3,
        },
        DescribeTableRequest { name: "orders" },
        ListTablesRequest { start_after: "", limit: 0 },
        DeleteTableRequest { name: "another" },
        DescribeNodeRequest { protocol_version: 1 },
        AdminRequest { command: b"\"describe\"" },
    );
    frames
}

fn replies() -> Vec<SendBuf> {
    let item = current_item();
    let listed = [&(item.len() as u32).to_le_bytes(), &item[..]].concat();
    let table = super::table::description(2, true).to_item().to_bytes().expect("a valid item");
    let lag = Lag { behind_slots: 3, age_millis: Lag::UNKNOWN_AGE };
    let mut frames = Vec::new();
    macro_rules! add {
        ($($message:expr),* $(,)?) => {$({
            let mut out = SendBuf::new();
            frame::append(&mut out, 1, &$message);
            frames.push(out);
        })*};
    }
    add!(
        WriteReply { attributes: Some(&item) },
        GetReply { item: Some(&item) },
        GetReply { item: None },
        PageReply {
            items: &listed,
            count: 1,
            scanned_count: 2,
            resume: Some(&key::seeds()[0]),
            next_hash: Some(77),
        },
        BatchGetReply { items: &listed },
        Lagging { reply: GetReply { item: Some(&item) }, lag },
        Lagging { reply: BatchGetReply { items: &listed }, lag: Lag::NONE },
        Lagging {
            reply: PageReply {
                items: &listed,
                count: 1,
                scanned_count: 1,
                resume: None,
                next_hash: None,
            },
            lag,
        },
        BatchWriteReply { outcomes: vec![0, 50] },
        TableReply { description: &table },
        ListTablesReply { names: vec!["orders".into(), "users".into()], more: true },
        DescribeNodeReply {
            node_id: [7; 16],
            shards: vec![ShardAddress { shard: 0, port: 4700 }],
            protocol_version: 1,
        },
        AdminReply { answer: b"\"accepted\"" },
        NotLeaderReply::leader_is(([10, 0, 0, 2], 4701).into()),
        ErrorReply { code: 30, retry_after_micros: 9, message: "no", item: Some(&item) },
    );
    frames
}

/// One message of each kind and version, some more of the rich ones.
pub fn seeds() -> Vec<Vec<u8>> {
    let requests = requests(99, &key_item(), &current_item(), &key::seeds()[0]);
    requests
        .iter()
        .chain(&replies())
        .map(|bytes| {
            let frame = frame::split(bytes).ok().flatten().expect("a good frame");
            let place = Kind::ALL.iter().position(|kind| *kind as u16 == frame.kind);
            let place = place.expect("a known kind") as u8;
            let wrapped = frame.message_version == EVENTUAL_VERSION;
            [&[place | if wrapped { EVENTUAL } else { 0 }], frame.payload].concat()
        })
        .collect()
}
