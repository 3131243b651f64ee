//! The client against scripted nodes: every way in which a request can come back, or not.

mod cluster;
mod fake;
mod outcomes;
mod paging;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use forebay_core::expression::ConditionExpression;
use forebay_core::ids::ShardId;
use forebay_core::item::Item;
use forebay_core::key::{KeyError, KeyPart};
use forebay_core::message::{
    ArchivedGetRequest, ArchivedPutRequest, ErrorCode, ErrorReply, GetReply, Kind, WriteReply,
};

use self::fake::{Act, Asked, FakeNode, description};
use super::{Client, ClientConfig, ClientError, Lost, ProtocolError, UnknownCause};
use crate::machine::SendBuf;

fn one_connection() -> ClientConfig {
    ClientConfig { connections_per_shard: 1, ..ClientConfig::default() }
}

fn hasty() -> ClientConfig {
    ClientConfig { request_timeout: Duration::from_millis(800), ..ClientConfig::default() }
}

fn key(id: i64) -> Item {
    Item::new().with("id", id)
}

/// The bytes of a reply.
fn sent(act: Act) -> SendBuf {
    match act {
        Act::Send(bytes) => bytes,
        _ => panic!("the act sends"),
    }
}

/// Several replies in one write.
fn together<'a>(replies: impl IntoIterator<Item = &'a SendBuf>) -> SendBuf {
    let mut all = SendBuf::new();
    replies.into_iter().for_each(|reply| all.extend_from_slice(reply));
    all
}

/// Replies with the key itself as the item.
fn echo_get(asked: &Asked) -> Act {
    let item = asked.message::<ArchivedGetRequest<'_>>().key.get();
    asked.reply(&GetReply { item: Some(item) })
}

#[tokio::test]
async fn replies_out_of_order_reach_their_callers() {
    let mut held = Vec::new();
    let node = FakeNode::start(1, move |asked| {
        held.push(sent(echo_get(&asked)));
        if held.len() < 32 {
            return Act::Ignore;
        }
        Act::Send(together(held.iter().rev()))
    })
    .await;
    let table = node.table(one_connection()).await;
    let mut callers = tokio::task::JoinSet::new();
    for id in 0..32 {
        let table = table.clone();
        callers.spawn(async move {
            assert_eq!(table.get(&key(id)).send().await.unwrap(), Some(key(id)));
        });
    }
    while let Some(caller) = callers.join_next().await {
        caller.unwrap();
    }
    assert_eq!(node.connections(), 1);
}

#[tokio::test]
async fn a_write_without_an_answer_in_time_is_unknown() {
    let node = FakeNode::start(1, |_| Act::Ignore).await;
    let table = node.table(hasty()).await;
    let began = Instant::now();
    let error = table.put(&key(1)).send().await.unwrap_err();
    assert!(
        matches!(error, ClientError::Unknown { cause: UnknownCause::Timeout { .. } }),
        "{error}"
    );
    assert!(error.outcome_unknown() && !error.condition_failed());
    assert!(began.elapsed() >= Duration::from_millis(800));
}

#[tokio::test]
async fn a_read_on_a_silent_connection_is_answered_by_another() {
    let mut silent = None;
    let node = FakeNode::start(1, move |asked| {
        if *silent.get_or_insert(asked.connection) == asked.connection {
            Act::Ignore
        } else {
            echo_get(&asked)
        }
    })
    .await;
    let table = node.table(hasty()).await;
    assert_eq!(table.get(&key(5)).send().await.unwrap(), Some(key(5)));
}

#[tokio::test]
async fn a_read_that_nobody_answers_times_out_without_being_unknown() {
    let node = FakeNode::start(1, |_| Act::Ignore).await;
    let table = node.table(hasty()).await;
    let began = Instant::now();
    let error = table.get(&key(5)).send().await.unwrap_err();
    assert!(matches!(error, ClientError::Timeout { .. }), "{error}");
    assert!(began.elapsed() < Duration::from_millis(1600));
}

#[tokio::test]
async fn when_a_connection_dies_writes_are_unknown_and_reads_are_sent_again() {
    let mut writes = 0;
    let mut reads = 0;
    let node = FakeNode::start(1, move |asked| match asked.kind {
        Kind::Put => {
            writes += 1;
            assert_eq!(writes, 1, "a write is never sent again");
            Act::Close
        }
        _ => {
            reads += 1;
            if reads == 1 { Act::Close } else { echo_get(&asked) }
        }
    })
    .await;
    let table = node.table(one_connection()).await;
    let error = table.put(&key(1)).send().await.unwrap_err();
    assert!(matches!(error, ClientError::Unknown { cause: UnknownCause::Lost(_) }), "{error}");
    assert_eq!(table.get(&key(1)).send().await.unwrap(), Some(key(1)));
    assert_eq!(node.connections(), 3);
}

#[tokio::test]
async fn a_read_whose_connections_all_die_is_lost() {
    let node = FakeNode::start(1, |_| Act::Close).await;
    let table = node.table(one_connection()).await;
    let error = table.get(&key(1)).send().await.unwrap_err();
    assert!(matches!(error, ClientError::Lost(_)), "{error}");
}

#[tokio::test]
async fn a_write_that_was_not_sent_goes_over_another_connection() {
    let mut seen = 0;
    let node = FakeNode::start(1, move |asked| {
        seen += 1;
        if seen == 1 { Act::Close } else { asked.written() }
    })
    .await;
    // The second write waits for room behind the first, whose connection dies.
    let config = ClientConfig { in_flight_max: 1, ..one_connection() };
    let table = node.table(config).await;
    let (key_1, key_2) = (key(1), key(2));
    let (first, second) = tokio::join!(table.put(&key_1).send(), table.put(&key_2).send());
    assert!(first.unwrap_err().outcome_unknown());
    assert_eq!(second.unwrap(), None);
}

#[tokio::test]
async fn a_busy_node_is_asked_again_after_its_pause() {
    let mut refusals = 0;
    let node = FakeNode::start(1, move |asked| {
        refusals += 1;
        match refusals {
            1 => asked.refuse(ErrorCode::Overloaded, 60_000),
            2 => asked.refuse(ErrorCode::TableNotActive, 60_000),
            3 => asked.refuse(ErrorCode::Overloaded, 0),
            _ => asked.written(),
        }
    })
    .await;
    let table = node.table(ClientConfig::default()).await;
    let began = Instant::now();
    table.put(&key(1)).send().await.unwrap();
    assert!(began.elapsed() >= Duration::from_millis(120));
}

#[tokio::test]
async fn a_node_that_stays_busy_refuses_in_the_end() {
    let asked_times = Arc::new(AtomicUsize::new(0));
    let counter = asked_times.clone();
    let node = FakeNode::start(1, move |asked| {
        counter.fetch_add(1, Ordering::Relaxed);
        asked.refuse(ErrorCode::Overloaded, 1000)
    })
    .await;
    let table = node.table(ClientConfig { retries_max: 3, ..ClientConfig::default() }).await;
    let error = table.put(&key(1)).send().await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::Overloaded));
    assert_eq!(asked_times.load(Ordering::Relaxed), 4);
}

#[tokio::test]
async fn a_request_by_an_old_description_is_sent_to_the_right_place() {
    let node = FakeNode::start(2, |asked| {
        let epoch = asked.message::<ArchivedPutRequest<'_>>().epoch.to_native();
        if (asked.shard, epoch) == (1, 2) {
            asked.written()
        } else {
            asked.refuse(ErrorCode::WrongPartition, 0)
        }
    })
    .await;
    let table = node.table(ClientConfig::default()).await;
    assert_eq!(node.described(), 1);
    // Every partition has moved to shard 1.
    let mut moved = description(2, 2);
    moved.partitions.iter_mut().for_each(|part| part.shard = ShardId(1));
    node.describe_as(moved);
    let (key_1, key_2) = (key(1), key(2));
    let (first, second) = tokio::join!(table.put(&key_1).send(), table.put(&key_2).send());
    assert_eq!((first.unwrap(), second.unwrap()), (None, None));
    table.put(&key(3)).send().await.unwrap();
    assert_eq!(node.described(), 2, "one reading serves all");
}

#[tokio::test]
async fn the_description_is_read_again_only_once() {
    let node = FakeNode::start(1, |asked| asked.refuse(ErrorCode::UnknownTable, 0)).await;
    let table = node.table(ClientConfig::default()).await;
    let error = table.get(&key(1)).send().await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::UnknownTable));
    assert_eq!(node.described(), 2);
    let error = table.client().table("nope").await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::UnknownTable));
}

#[tokio::test]
async fn a_corrupted_reply_ends_the_connection() {
    let mut replies = 0;
    let node = FakeNode::start(1, move |asked| {
        replies += 1;
        let mut bytes = sent(asked.written());
        if replies == 1 {
            let last = bytes.len() - 1;
            bytes[last] ^= 0x10;
        }
        Act::Send(bytes)
    })
    .await;
    let table = node.table(one_connection()).await;
    let error = table.put(&key(1)).send().await.unwrap_err();
    assert!(
        matches!(error, ClientError::Unknown { cause: UnknownCause::Lost(Lost::Frame(_)) }),
        "{error}"
    );
    table.put(&key(1)).send().await.unwrap();
    assert_eq!(node.connections(), 2);
}

#[tokio::test]
async fn an_answer_that_nobody_asked_for_ends_the_connection() {
    let mut replies = 0;
    let node = FakeNode::start(1, move |mut asked| {
        replies += 1;
        if replies == 1 {
            asked.correlation += 5;
        }
        asked.written()
    })
    .await;
    let table = node.table(one_connection()).await;
    let error = table.put(&key(1)).send().await.unwrap_err();
    let cause = match error {
        ClientError::Unknown { cause: UnknownCause::Lost(Lost::Protocol(cause)) } => cause,
        error => panic!("{error}"),
    };
    assert!(matches!(cause, ProtocolError::Correlation { .. }));
    table.put(&key(1)).send().await.unwrap();
}

#[tokio::test]
async fn a_reply_of_the_wrong_kind_leaves_a_write_unknown_and_fails_a_read() {
    let node = FakeNode::start(1, |asked| match asked.kind {
        Kind::Put => asked.reply(&GetReply { item: None }),
        _ => asked.reply(&WriteReply { attributes: None }),
    })
    .await;
    let table = node.table(ClientConfig::default()).await;
    let error = table.put(&key(1)).send().await.unwrap_err();
    assert!(matches!(error, ClientError::Unknown { cause: UnknownCause::Protocol(_) }), "{error}");
    let error = table.get(&key(1)).send().await.unwrap_err();
    let wrong = ProtocolError::Kind { expected: 0x8002, found: 0x8001 };
    assert!(matches!(error, ClientError::Protocol(found) if found == wrong), "{error}");
}

#[tokio::test]
async fn the_last_words_of_a_node_are_passed_on() {
    let node = FakeNode::start(1, |mut asked| {
        asked.correlation = 0;
        asked.refuse(ErrorCode::MalformedMessage, 0)
    })
    .await;
    let table = node.table(one_connection()).await;
    let error = table.put(&key(1)).send().await.unwrap_err();
    assert!(
        matches!(
            &error,
            ClientError::Unknown { cause: UnknownCause::Lost(Lost::Refused { code: 1, message }) }
                if message == "as scripted"
        ),
        "{error}"
    );
}

#[tokio::test]
async fn requests_in_flight_never_exceed_the_bound() {
    let most = Arc::new(AtomicUsize::new(0));
    let mut held = Vec::new();
    let record = most.clone();
    let node = FakeNode::start(1, move |asked| {
        held.push(sent(asked.written()));
        record.fetch_max(held.len(), Ordering::Relaxed);
        if held.len() < 4 {
            return Act::Ignore;
        }
        let all = together(&held);
        held.clear();
        // Time for a fifth to arrive, if the client would send one.
        Act::SendLater(all, Duration::from_millis(20))
    })
    .await;
    let table = node.table(ClientConfig { in_flight_max: 4, ..one_connection() }).await;
    let mut callers = tokio::task::JoinSet::new();
    for id in 0..24 {
        let table = table.clone();
        callers.spawn(async move { table.put(&key(id)).send().await.unwrap() });
    }
    while let Some(caller) = callers.join_next().await {
        caller.unwrap();
    }
    assert_eq!(most.load(Ordering::Relaxed), 4);
}

#[tokio::test]
async fn a_dropped_caller_gives_its_room_back() {
    let mut requests = 0;
    let node = FakeNode::start(1, move |asked| {
        requests += 1;
        if requests == 1 { Act::Ignore } else { asked.written() }
    })
    .await;
    let table = node.table(ClientConfig { in_flight_max: 1, ..one_connection() }).await;
    let key_1 = key(1);
    let abandoned = table.put(&key_1).send();
    assert!(tokio::time::timeout(Duration::from_millis(100), abandoned).await.is_err());
    table.put(&key(2)).send().await.unwrap();
    assert_eq!(node.connections(), 1);
}

#[tokio::test]
async fn a_failed_condition_names_itself_and_returns_the_item() {
    let current = key(1).with("state", "taken").to_bytes().unwrap();
    let node = FakeNode::start(1, move |asked| {
        let request = asked.message::<ArchivedPutRequest<'_>>();
        assert!(request.condition.is_some() && request.return_old_on_failure);
        asked.reply(&ErrorReply {
            code: ErrorCode::ConditionFailed as u16,
            retry_after_micros: 0,
            message: "the condition does not hold",
            item: Some(&current),
        })
    })
    .await;
    let table = node.table(ClientConfig::default()).await;
    let free = ConditionExpression::not_exists("id");
    let put = table.put(&key(1)).condition(free).return_old_on_failure();
    let error = put.send().await.unwrap_err();
    assert!(error.condition_failed());
    let ClientError::Refused { item: Some(item), .. } = error else { panic!("no item") };
    assert_eq!(*item, key(1).with("state", "taken"));
}

#[tokio::test]
async fn a_failed_shard_leaves_writes_unknown_but_refuses_reads() {
    let node = FakeNode::start(1, |asked| asked.refuse(ErrorCode::ShardFailed, 0)).await;
    let table = node.table(ClientConfig::default()).await;
    let error = table.delete(&key(1)).send().await.unwrap_err();
    assert!(
        matches!(error, ClientError::Unknown { cause: UnknownCause::ShardFailed { .. } }),
        "{error}"
    );
    let error = table.get(&key(1)).send().await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::ShardFailed));
}

#[tokio::test]
async fn invalid_keys_and_names_are_refused_before_anything_is_sent() {
    let node = FakeNode::start(1, |_| panic!("nothing is sent")).await;
    let table = node.table(ClientConfig::default()).await;
    let missing = KeyError::Missing { part: KeyPart::Partition };
    let error = table.put(&Item::new().with("other", 1)).send().await.unwrap_err();
    assert!(matches!(error, ClientError::InvalidKey(found) if found == missing));
    let error = table.get(&key(1).with("more", 1)).send().await.unwrap_err();
    assert!(matches!(error, ClientError::InvalidKey(KeyError::ExtraAttributes { .. })));
    let big = key(1).with("value", vec![0; 500_000]);
    assert!(matches!(table.put(&big).send().await, Err(ClientError::InvalidItem(_))));
    let error = table.client().table("no").await.unwrap_err();
    assert!(matches!(error, ClientError::InvalidTable(_)));
}

#[tokio::test]
async fn a_node_that_is_gone_is_named_and_found_again() {
    let mut node =
        FakeNode::start(
            1,
            |asked| {
                if asked.connection == 0 { Act::Close } else { asked.written() }
            },
        )
        .await;
    let table = node.table(ClientConfig { connections_per_shard: 1, ..hasty() }).await;
    let addr = node.addr();
    node.stop_listening().await;
    assert!(table.put(&key(1)).send().await.unwrap_err().outcome_unknown());
    match table.put(&key(1)).send().await.unwrap_err() {
        ClientError::Connect { addr: named, .. } => assert_eq!(named, addr.to_string()),
        error => panic!("{error}"),
    }
    let error = Client::connect(addr, hasty()).await.unwrap_err();
    assert!(matches!(error, ClientError::Connect { .. }), "{error}");
    // The port serves again. An attempt that was refused just before may still be somebody's answer.
    let listener = tokio::net::TcpListener::bind(addr).await.unwrap();
    let served = tokio::spawn(async move { listener.accept().await.is_ok() });
    let came_back = async {
        while !served.is_finished() {
            assert!(matches!(
                table.put(&key(1)).send().await.unwrap_err(),
                ClientError::Unknown { .. } | ClientError::Connect { .. }
            ));
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), came_back).await.expect("the client comes back");
}
