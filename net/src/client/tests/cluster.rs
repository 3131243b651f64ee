//! Several nodes: who is asked, whose word is followed, and for how long.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use forebay_core::message::{
    ArchivedBatchWriteRequest, ArchivedPutRequest, BatchWriteReply, ErrorCode, Kind,
};

use super::fake::{Act, Asked, FakeNode, description};
use super::{echo_get, hasty, key, one_connection};
use crate::client::{BatchWrite, Client, ClientConfig, ClientError, Table};

/// Who leads, as all nodes know it; None while nobody does. By shard, because the fakes' groups have
/// one each.
#[derive(Clone, Default)]
struct Leaders(Arc<Mutex<Vec<Option<usize>>>>);

impl Leaders {
    fn set(&self, shard: usize, node: Option<usize>) {
        self.0.lock().unwrap()[shard] = node;
    }
}

/// Nodes that share a view of who leads.
struct Nodes {
    nodes: Vec<FakeNode>,
    leaders: Leaders,
    /// Requests that each of them refused because it does not lead.
    redirected: Arc<Vec<AtomicUsize>>,
    /// Requests that each of them has done.
    done: Arc<Vec<AtomicUsize>>,
}

fn counters(count: usize) -> Arc<Vec<AtomicUsize>> {
    Arc::new((0..count).map(|_| AtomicUsize::new(0)).collect())
}

fn answer(asked: &Asked) -> Act {
    match asked.kind {
        Kind::Get => echo_get(asked),
        Kind::BatchWrite => {
            let operations = &asked.message::<ArchivedBatchWriteRequest<'_>>().operations;
            asked.reply(&BatchWriteReply { outcomes: vec![0; operations.len()] })
        }
        _ => asked.written(),
    }
}

/// Waits until so many nodes have answered; all but the first do in the background.
async fn know_all(client: &Client, count: usize) {
    let cluster = &client.inner.cluster;
    while cluster.node_count() < count {
        tokio::time::sleep(Duration::from_millis(1)).await;
        cluster.given().iter().for_each(|at| drop(cluster.hear(at)));
    }
}

impl Nodes {
    async fn start(count: usize, shards: u16) -> Nodes {
        let leaders = Leaders(Arc::new(Mutex::new(vec![Some(0); usize::from(shards)])));
        let addrs: Arc<Mutex<Vec<Vec<SocketAddr>>>> = Arc::default();
        let (redirected, done) = (counters(count), counters(count));
        let mut nodes = Vec::new();
        for index in 0..count {
            let (leaders, addrs) = (leaders.clone(), addrs.clone());
            let (redirected, done) = (redirected.clone(), done.clone());
            let node = FakeNode::start(shards, move |asked| {
                let leader = leaders.0.lock().unwrap()[usize::from(asked.shard)];
                if leader == Some(index) {
                    done[index].fetch_add(1, Ordering::Relaxed);
                    return answer(&asked);
                }
                redirected[index].fetch_add(1, Ordering::Relaxed);
                let addrs = addrs.lock().unwrap();
                asked.not_leader(leader.map(|leader| addrs[leader][usize::from(asked.shard)]))
            });
            nodes.push(node.await);
        }
        *addrs.lock().unwrap() = nodes.iter().map(|node| node.addrs().to_vec()).collect();
        Nodes { nodes, leaders, redirected, done }
    }

    fn addrs(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(FakeNode::addr).collect()
    }

    async fn table(&self, config: ClientConfig) -> Table {
        let client = Client::connect(self.addrs(), config).await.unwrap();
        let table = client.table("tab").await.unwrap();
        know_all(&client, self.nodes.len()).await;
        table
    }

    fn redirected(&self) -> usize {
        self.redirected.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    fn done(&self, node: usize) -> usize {
        self.done[node].load(Ordering::Relaxed)
    }
}

#[tokio::test]
async fn one_address_that_answers_is_enough() {
    let mut nodes = Nodes::start(3, 1).await;
    nodes.nodes[0].kill().await;
    nodes.nodes[1].freeze();
    nodes.leaders.set(0, Some(2));
    let began = Instant::now();
    let client = Client::connect(nodes.addrs(), ClientConfig::default()).await.unwrap();
    assert!(began.elapsed() < Duration::from_millis(500), "the frozen one is not waited for");
    let table = client.table("tab").await.unwrap();
    table.put(&key(1)).send().await.unwrap();
    nodes.nodes[2].kill().await;
    let error = Client::connect(nodes.addrs(), hasty()).await.unwrap_err();
    assert!(matches!(error, ClientError::Connect { .. }), "{error}");
}

#[tokio::test]
async fn a_node_that_is_still_starting_is_waited_for() {
    let node = FakeNode::start(1, |asked| answer(&asked)).await;
    node.freeze();
    let config = ClientConfig { connect_timeout: Duration::from_millis(50), ..hasty() };
    let connecting = tokio::spawn(Client::connect(node.addr(), config));
    tokio::time::sleep(Duration::from_millis(200)).await;
    node.thaw();
    connecting.await.unwrap().unwrap().table("tab").await.unwrap();
}

#[tokio::test]
async fn the_named_leader_is_asked_and_remembered_until_it_leads_no_more() {
    let nodes = Nodes::start(3, 1).await;
    let table = nodes.table(ClientConfig::default()).await;
    for leader in [2, 0, 1] {
        nodes.leaders.set(0, Some(leader));
        let before = nodes.redirected();
        for _ in 0..10 {
            table.put(&key(1)).send().await.unwrap();
        }
        assert_eq!(nodes.done(leader), 10);
        assert!(nodes.redirected() <= before + 1, "one question finds the new leader");
    }
}

#[tokio::test]
async fn each_group_has_a_leader_of_its_own() {
    let nodes = Nodes::start(3, 3).await;
    (0..3).for_each(|shard| nodes.leaders.set(shard, Some((shard + 1) % 3)));
    let table = nodes.table(ClientConfig::default()).await;
    // Finds each leader once.
    for id in 0..60 {
        table.put(&key(id)).send().await.unwrap();
    }
    assert!(nodes.redirected() <= 3, "{}", nodes.redirected());
    let writes: Vec<BatchWrite> = (0..60).map(|id| BatchWrite::Put(key(id))).collect();
    // Other leaders: every part of a batch finds its own.
    (0..3).for_each(|shard| nodes.leaders.set(shard, Some((shard + 2) % 3)));
    let results = table.batch_write(&writes).await.unwrap();
    assert!(results.iter().all(Result::is_ok), "{results:?}");
}

#[tokio::test]
async fn a_port_without_an_address_is_on_the_node_that_named_it() {
    let port = Arc::new(Mutex::new(0));
    let (told, follower_port) = (Arc::new(AtomicUsize::new(0)), port.clone());
    let counter = told.clone();
    let follower = FakeNode::start(1, move |asked| {
        counter.fetch_add(1, Ordering::Relaxed);
        asked.not_leader(Some(([0, 0, 0, 0], *follower_port.lock().unwrap()).into()))
    })
    .await;
    let leader = FakeNode::start(1, |asked| answer(&asked)).await;
    *port.lock().unwrap() = leader.addr().port();
    // The leader's address is not one that the application gave.
    let table = follower.table(one_connection()).await;
    table.put(&key(1)).send().await.unwrap();
    table.put(&key(2)).send().await.unwrap();
    assert_eq!(told.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn while_nobody_leads_a_request_waits_for_the_next_leader() {
    let nodes = Nodes::start(3, 1).await;
    let table = nodes.table(ClientConfig::default()).await;
    nodes.leaders.set(0, None);
    let leaders = nodes.leaders.clone();
    let election = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(400)).await;
        leaders.set(0, Some(1));
    });
    let began = Instant::now();
    let (key_1, key_2) = (key(1), key(2));
    let (put, get) = tokio::join!(table.put(&key_1).send(), table.get(&key_2).send());
    assert_eq!((put.unwrap(), get.unwrap()), (None, Some(key(2))));
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(390) && took < Duration::from_millis(700), "{took:?}");
    assert!(nodes.redirected() < 40, "{} questions in the meantime", nodes.redirected());
    election.await.unwrap();
}

#[tokio::test]
async fn the_search_for_a_leader_ends_with_the_deadline_or_the_bound_and_nothing_was_done() {
    let nodes = Nodes::start(3, 1).await;
    let table = nodes.table(ClientConfig { redirects_max: 5, ..ClientConfig::default() }).await;
    nodes.leaders.set(0, None);
    let error = table.put(&key(1)).send().await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::NotLeader), "{error}");
    assert_eq!(nodes.redirected(), 6);
    let table = nodes.table(ClientConfig::default()).await;
    let began = Instant::now();
    let time = Duration::from_millis(300);
    let error = table.put(&key(1)).timeout(time).send().await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::NotLeader), "{error}");
    assert!(began.elapsed() <= time + Duration::from_millis(500));
}

#[tokio::test]
async fn nodes_without_a_member_are_not_believed_while_one_with_a_member_waits_for_a_leader() {
    let leads = Arc::new(AtomicBool::new(false));
    let asked_strangers = Arc::new(AtomicUsize::new(0));
    let counter = asked_strangers.clone();
    let stranger = FakeNode::start(1, move |asked| {
        counter.fetch_add(1, Ordering::Relaxed);
        asked.refuse(ErrorCode::WrongPartition, 0)
    });
    let wait = leads.clone();
    let member = FakeNode::start(1, move |asked| match wait.load(Ordering::Relaxed) {
        true => answer(&asked),
        false => asked.not_leader(None),
    });
    let dead = FakeNode::start(1, |asked| answer(&asked));
    let mut nodes = [stranger.await, member.await, dead.await];
    let addrs: Vec<SocketAddr> = nodes.iter().map(FakeNode::addr).collect();
    let client = Client::connect(addrs, ClientConfig::default()).await.unwrap();
    let table = client.table("tab").await.unwrap();
    know_all(&client, nodes.len()).await;
    nodes[2].kill().await;
    let election = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(400)).await;
        leads.store(true, Ordering::Relaxed);
    });
    for number in 0..4 {
        table.put(&key(number)).send().await.unwrap();
    }
    election.await.unwrap();
    assert!(asked_strangers.load(Ordering::Relaxed) > 1);
    // Without the member there is nobody to wait for, but not for long.
    nodes[1].kill().await;
    let began = Instant::now();
    let error = table.put(&key(9)).timeout(Duration::from_secs(20)).send().await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::WrongPartition), "{error}");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

#[tokio::test]
async fn members_that_send_a_request_in_a_circle_are_asked_with_pauses() {
    let addrs: Arc<Mutex<Vec<SocketAddr>>> = Arc::default();
    let asked_times = Arc::new(AtomicUsize::new(0));
    let mut nodes = Vec::new();
    for index in 0..2 {
        let (addrs, counter) = (addrs.clone(), asked_times.clone());
        let node = FakeNode::start(1, move |asked| {
            counter.fetch_add(1, Ordering::Relaxed);
            asked.not_leader(Some(addrs.lock().unwrap()[1 - index]))
        });
        nodes.push(node.await);
    }
    *addrs.lock().unwrap() = nodes.iter().map(FakeNode::addr).collect();
    let list = addrs.lock().unwrap().clone();
    let client = Client::connect(list, one_connection()).await.unwrap();
    let table = client.table("tab").await.unwrap();
    let time = Duration::from_millis(500);
    let error = table.put(&key(1)).timeout(time).send().await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::NotLeader));
    assert!(asked_times.load(Ordering::Relaxed) < 60, "{asked_times:?}");
}

#[tokio::test]
async fn when_the_leader_dies_what_it_had_is_unknown_and_the_rest_goes_to_the_next() {
    let mut nodes = Nodes::start(3, 1).await;
    let table = nodes.table(ClientConfig::default()).await;
    table.put(&key(1)).send().await.unwrap();
    // The others still name the dead one for a while.
    nodes.nodes[0].kill().await;
    let leaders = nodes.leaders.clone();
    let election = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(150)).await;
        leaders.set(0, None);
        tokio::time::sleep(Duration::from_millis(150)).await;
        leaders.set(0, Some(2));
    });
    let began = Instant::now();
    for id in 0..20 {
        match table.put(&key(id)).send().await {
            Ok(_) => {}
            // One that was handed to the dead node's socket just before its end was seen.
            Err(error) => assert!(error.outcome_unknown() && id < 2, "{error}"),
        }
    }
    assert!(began.elapsed() < Duration::from_millis(600), "{:?}", began.elapsed());
    assert_eq!(table.get(&key(1)).send().await.unwrap(), Some(key(1)));
    election.await.unwrap();
    // The dead node returns and is not the leader; later it is again.
    nodes.nodes[0].restart().await;
    table.put(&key(1)).send().await.unwrap();
    nodes.leaders.set(0, Some(0));
    tokio::time::sleep(Duration::from_millis(1100)).await;
    table.put(&key(1)).send().await.unwrap();
}

#[tokio::test]
async fn when_the_leader_freezes_its_writes_are_unknown_and_reads_go_on() {
    let nodes = Nodes::start(3, 1).await;
    let config =
        ClientConfig { silence_max: Duration::from_millis(100), ..ClientConfig::default() };
    let table = nodes.table(config).await;
    table.put(&key(1)).send().await.unwrap();
    nodes.nodes[0].freeze();
    let leaders = nodes.leaders.clone();
    let election = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(200)).await;
        leaders.set(0, Some(1));
    });
    let began = Instant::now();
    let (key_1, key_2) = (key(1), key(2));
    let (put, get) = tokio::join!(table.put(&key_1).send(), table.get(&key_2).send());
    assert!(put.unwrap_err().outcome_unknown());
    assert_eq!(get.unwrap(), Some(key(2)));
    table.put(&key(3)).send().await.unwrap();
    assert!(began.elapsed() < Duration::from_millis(900), "{:?}", began.elapsed());
    election.await.unwrap();
}

#[tokio::test]
async fn a_node_that_comes_back_is_connected_before_it_leads_again() {
    let nodes = Nodes::start(2, 1).await;
    nodes.leaders.set(0, Some(0));
    let config =
        ClientConfig { silence_max: Duration::from_millis(100), ..ClientConfig::default() };
    let table = nodes.table(config).await;
    // Each time as promptly as the first: what had been wrong before was over.
    for _ in 0..4 {
        nodes.leaders.set(0, Some(0));
        table.put(&key(1)).send().await.unwrap();
        nodes.nodes[0].freeze();
        assert!(table.put(&key(1)).send().await.unwrap_err().outcome_unknown());
        nodes.leaders.set(0, Some(1));
        table.put(&key(2)).send().await.unwrap();
        nodes.nodes[0].thaw();
        tokio::time::sleep(Duration::from_millis(100)).await;
        nodes.leaders.set(0, Some(0));
        let began = Instant::now();
        table.put(&key(3)).send().await.unwrap();
        assert!(began.elapsed() < Duration::from_millis(100), "{:?}", began.elapsed());
    }
}

#[tokio::test]
async fn reads_that_need_no_leader_go_to_the_nodes_in_turn() {
    let asked_times: Vec<_> = (0..3).map(|_| Arc::new(AtomicUsize::new(0))).collect();
    let mut nodes = Vec::new();
    for counter in &asked_times {
        let counter = counter.clone();
        let node = FakeNode::start(1, move |asked| {
            counter.fetch_add(1, Ordering::Relaxed);
            answer(&asked)
        });
        nodes.push(node.await);
    }
    let addrs: Vec<SocketAddr> = nodes.iter().map(FakeNode::addr).collect();
    let client = Client::connect(addrs, ClientConfig::default()).await.unwrap();
    let table = client.table("tab").await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    for _ in 0..30 {
        table.get(&key(1)).consistent(false).send().await.unwrap();
    }
    assert!(asked_times.iter().all(|count| count.load(Ordering::Relaxed) >= 9), "{asked_times:?}");
    nodes[1].kill().await;
    for _ in 0..30 {
        table.get(&key(1)).consistent(false).send().await.unwrap();
    }
}

#[tokio::test]
async fn a_node_that_stops_sends_its_requests_elsewhere() {
    let nodes = Nodes::start(2, 1).await;
    let stopping = FakeNode::start(1, |asked| asked.refuse(ErrorCode::ShuttingDown, 0)).await;
    let mut addrs = vec![stopping.addr()];
    addrs.extend(nodes.addrs());
    let client = Client::connect(addrs, ClientConfig::default()).await.unwrap();
    let table = client.table("tab").await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    for id in 0..5 {
        table.put(&key(id)).send().await.unwrap();
    }
    // Alone, it is taken at its word.
    let table = stopping.table(ClientConfig::default()).await;
    let error = table.put(&key(1)).send().await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::ShuttingDown));
}

#[tokio::test]
async fn writes_of_a_batch_that_lost_their_leader_half_way_are_sent_again() {
    let mut first = true;
    let node = FakeNode::start(1, move |asked| {
        let operations = &asked.message::<ArchivedBatchWriteRequest<'_>>().operations;
        let mut outcomes = vec![0; operations.len()];
        if std::mem::take(&mut first) {
            outcomes[1..3].fill(ErrorCode::NotLeader as u16);
            outcomes[3] = ErrorCode::LeadershipLost as u16;
        } else {
            assert_eq!(outcomes.len(), 2, "only what was not begun");
        }
        asked.reply(&BatchWriteReply { outcomes })
    })
    .await;
    let table = node.table(ClientConfig::default()).await;
    let writes: Vec<BatchWrite> = (0..5).map(|id| BatchWrite::Put(key(id))).collect();
    for (index, result) in table.batch_write(&writes).await.unwrap().iter().enumerate() {
        match (index, result) {
            (3, Err(error)) => assert!(error.outcome_unknown(), "{error}"),
            (index, result) => assert!(result.is_ok(), "write {index}: {result:?}"),
        }
    }
}

#[tokio::test]
async fn two_addresses_of_one_node_are_one_node() {
    let node = FakeNode::start(2, |asked| {
        assert_eq!(asked.message::<ArchivedPutRequest<'_>>().epoch.to_native(), 1);
        asked.written()
    })
    .await;
    node.describe_as(description(2, 1));
    let client = Client::connect(node.addrs(), ClientConfig::default()).await.unwrap();
    let table = client.table("tab").await.unwrap();
    for id in 0..20 {
        table.put(&key(id)).send().await.unwrap();
    }
    assert_eq!(client.inner.cluster.node_count(), 1);
    assert!(!client.inner.cluster.has_several_nodes());
}
