//! What becomes of an operation whose connection ends at each moment: which are sent again, and which
//! end as unknown.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use forebay_core::expression::{ConditionExpression, UpdateExpression};
use forebay_core::message::{ErrorCode, Kind};
use forebay_core::table::{KeySchema, KeyType};

use super::fake::{Act, Asked, FakeNode};
use super::{echo_get, key, one_connection, sent};
use crate::client::{BatchWrite, ClientConfig, ClientError, Lost, Table, UnknownCause};

/// Every kind of write; each must have the same fate.
async fn write(table: &Table, which: usize) -> Result<(), ClientError> {
    let there = ConditionExpression::exists("id");
    match which {
        0 => table.put(&key(1)).send().await.map(drop),
        1 => table.put(&key(1)).return_old().send().await.map(drop),
        2 => table.put(&key(1)).condition(there).send().await.map(drop),
        3 => table.delete(&key(1)).send().await.map(drop),
        4 => {
            let update = UpdateExpression::new().add("n", 1);
            table.update(&key(1), update).send().await.map(drop)
        }
        5 => {
            let results = table.batch_write(&[BatchWrite::Put(key(1))]).await?;
            let error = results.into_iter().next().unwrap().unwrap_err();
            Err(Arc::into_inner(error).expect("one write, one error"))
        }
        6 => table.client().delete_table("tab").await,
        _ => {
            let schema = KeySchema::partition_only("id", KeyType::N);
            table.client().create_table("new", schema).send().await.map(drop)
        }
    }
}
const WRITES: usize = 8;

/// A node that meets every request with `act`, and how many it has met.
async fn node(
    mut act: impl FnMut(&Asked, usize) -> Act + Send + 'static,
) -> (FakeNode, Arc<AtomicUsize>) {
    let asked_times = Arc::new(AtomicUsize::new(0));
    let counter = asked_times.clone();
    let node = FakeNode::start(1, move |asked| {
        let nth = counter.fetch_add(1, Ordering::Relaxed);
        act(&asked, nth)
    });
    (node.await, asked_times)
}

async fn each_write_is_unknown_and_sent_once(
    config: ClientConfig,
    act: fn(&Asked) -> Act,
    expected: fn(&UnknownCause) -> bool,
) {
    for which in 0..WRITES {
        let (node, asked_times) = node(move |asked, _| act(asked)).await;
        let table = node.table(config.clone()).await;
        let error = write(&table, which).await.unwrap_err();
        assert!(error.outcome_unknown(), "write {which}: {error}");
        let ClientError::Unknown { cause } = error else { unreachable!() };
        assert!(expected(&cause), "write {which}: {cause}");
        assert_eq!(asked_times.load(Ordering::Relaxed), 1, "write {which} was sent again");
    }
}

#[tokio::test]
async fn a_write_whose_connection_closes_after_it_was_sent_is_unknown() {
    let closed =
        |cause: &UnknownCause| matches!(cause, UnknownCause::Lost(Lost::Closed | Lost::Io(_)));
    each_write_is_unknown_and_sent_once(one_connection(), |_| Act::Close, closed).await;
    // With another connection open it is not sent on that one either.
    each_write_is_unknown_and_sent_once(ClientConfig::default(), |_| Act::Close, closed).await;
}

#[tokio::test]
async fn a_write_with_half_an_answer_is_unknown() {
    let half = |asked: &Asked| {
        let mut answer = sent(asked.written());
        answer.resize(answer.len() / 2, 0);
        Act::SendAndClose(answer)
    };
    let closed = |cause: &UnknownCause| matches!(cause, UnknownCause::Lost(_));
    each_write_is_unknown_and_sent_once(one_connection(), half, closed).await;
}

#[tokio::test]
async fn a_write_without_an_answer_is_unknown_when_its_time_is_up() {
    let config = ClientConfig { request_timeout: Duration::from_millis(150), ..one_connection() };
    let timeout = |cause: &UnknownCause| matches!(cause, UnknownCause::Timeout { .. });
    each_write_is_unknown_and_sent_once(config, |_| Act::Ignore, timeout).await;
}

#[tokio::test]
async fn a_write_begun_by_a_member_that_stopped_leading_is_unknown() {
    let refuse = |asked: &Asked| asked.refuse(ErrorCode::LeadershipLost, 1000);
    let lost = |cause: &UnknownCause| matches!(cause, UnknownCause::LeadershipLost { .. });
    each_write_is_unknown_and_sent_once(one_connection(), refuse, lost).await;
}

#[tokio::test]
async fn a_write_on_a_connection_that_closed_before_goes_over_a_new_one() {
    let (mut node, asked_times) = node(|asked, _| asked.written()).await;
    let table = node.table(one_connection()).await;
    for _ in 0..5 {
        table.put(&key(1)).send().await.unwrap();
        node.kill().await;
        node.restart().await;
        // Time for the old connection's end to arrive.
        tokio::time::sleep(Duration::from_millis(50)).await;
        table.put(&key(2)).send().await.unwrap();
    }
    assert_eq!(asked_times.load(Ordering::Relaxed), 10);
}

#[tokio::test]
async fn a_read_is_sent_again_whatever_ends_its_connection() {
    let half = |asked: &Asked| {
        let mut answer = sent(echo_get(asked));
        answer.resize(answer.len() / 2, 0);
        Act::SendAndClose(answer)
    };
    let first: [fn(&Asked) -> Act; 4] = [
        |_| Act::Close,
        half,
        |_| Act::Ignore,
        |asked| asked.refuse(ErrorCode::LeadershipLost, 1000),
    ];
    for first in first {
        let (node, asked_times) = node(move |asked, nth| {
            assert_eq!(asked.kind, Kind::Get);
            if nth == 0 { first(asked) } else { echo_get(asked) }
        })
        .await;
        let table = node.table(one_connection()).await;
        let read = table.get(&key(1)).timeout(Duration::from_millis(600)).send().await;
        assert_eq!(read.unwrap(), Some(key(1)));
        assert_eq!(asked_times.load(Ordering::Relaxed), 2);
    }
}

#[tokio::test]
async fn a_calls_own_time_is_spent_over_all_its_attempts() {
    let (node, asked_times) = node(|asked, _| asked.refuse(ErrorCode::Overloaded, 40_000)).await;
    let config = ClientConfig { retries_max: 1000, ..one_connection() };
    let table = node.table(config).await;
    let calls = |millis| {
        let (table, time) = (table.clone(), Duration::from_millis(millis));
        async move {
            let began = Instant::now();
            let error = table.put(&key(1)).timeout(time).send().await.unwrap_err();
            assert_eq!(error.code(), Some(ErrorCode::Overloaded));
            began.elapsed()
        }
    };
    assert!(calls(210).await <= Duration::from_millis(210 + 100));
    assert!((2..=6).contains(&asked_times.load(Ordering::Relaxed)));
    // A handle with a time of its own gives it to everything.
    let hasty = table.with_request_timeout(Duration::from_millis(100));
    let began = Instant::now();
    assert!(hasty.get(&key(1)).send().await.is_err());
    assert!(hasty.query(1).send().await.is_err());
    let wanted = [key(1)];
    assert!(hasty.batch_get(&wanted).send().await.unwrap()[0].is_err());
    assert!(began.elapsed() < Duration::from_millis(600));
    assert!(table.scan().timeout(Duration::from_millis(50)).send().await.is_err());
}

#[tokio::test]
async fn a_node_that_is_slow_but_alive_is_waited_for() {
    let (node, asked_times) =
        node(|asked, _| Act::SendLater(sent(asked.written()), Duration::from_millis(50))).await;
    let config = ClientConfig { silence_max: Duration::from_millis(200), ..one_connection() };
    let table = node.table(config).await;
    table.put(&key(1)).send().await.unwrap();
    assert_eq!((asked_times.load(Ordering::Relaxed), node.connections()), (1, 1));
}

#[tokio::test]
async fn a_node_that_answers_nothing_but_what_it_is_keeps_its_writes_waiting() {
    // The fake answers questions for a sign of life without its script.
    let (node, _) = node(|_, _| Act::Ignore).await;
    let config = ClientConfig {
        silence_max: Duration::from_millis(50),
        request_timeout: Duration::from_millis(400),
        ..one_connection()
    };
    let table = node.table(config).await;
    let began = Instant::now();
    let error = table.put(&key(1)).send().await.unwrap_err();
    assert!(
        matches!(error, ClientError::Unknown { cause: UnknownCause::Timeout { .. } }),
        "{error}"
    );
    assert!(began.elapsed() >= Duration::from_millis(400));
    assert_eq!(node.connections(), 1);
}

#[tokio::test]
async fn a_frozen_node_is_noticed_before_the_deadline() {
    let (node, _) = node(|asked, _| asked.written()).await;
    let config =
        ClientConfig { silence_max: Duration::from_millis(100), ..ClientConfig::default() };
    let table = node.table(config).await;
    table.put(&key(1)).send().await.unwrap();
    node.freeze();
    let began = Instant::now();
    let error = table.put(&key(1)).send().await.unwrap_err();
    let silent = UnknownCause::Lost(Lost::Silent { silence: Duration::ZERO }).to_string();
    assert!(error.to_string().contains(&silent[..silent.len() - 3]), "{error}");
    assert!(began.elapsed() < Duration::from_millis(1000));
    // From here on nothing is sent to it: what is asked did certainly not happen.
    let error = table.put(&key(1)).timeout(Duration::from_millis(200)).send().await.unwrap_err();
    assert!(matches!(error, ClientError::Connect { .. }), "{error}");
}
