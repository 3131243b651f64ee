//! Peers that have no business here, on the real sockets of a real cluster: each is refused by name,
//! counted, spoken of in the log, and disturbs nobody.

mod support;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use forebay_core::ids::{Ballot, GroupId, Slot};
use forebay_core::liveness::SHARDS_PER_NODE;
use forebay_core::message::peer::{
    Ack, Authentication, BatchBuilder, Expected, Heartbeat, Hello, HelloRefusal, Identity,
    PEER_PROTOCOL_NEWEST, PeerFrame, PeerKind, PeerMessage, Route, decode,
};
use forebay_core::paxos::{MemberId, Message};
use forebay_net::frame::{self, FrameSerializer};
use forebay_net::machine::SendBuf;
use forebay_net::replication::Topology;
use support::nodes::{Nodes, PATIENCE};
use support::process::{code, forebay, stdout};
use support::scratch;
use support::writers::{Load, check, create, longest_gap};

/// A start of a node that no real one comes to.
const LATE: u64 = 1 << 40;

/// One that speaks the peers' protocol to a node.
struct Stranger(TcpStream);

impl Stranger {
    fn at(nodes: &Nodes, place: usize) -> Stranger {
        let stream = TcpStream::connect(nodes.peer(place)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        Stranger(stream)
    }

    fn says(&mut self, bytes: &[u8]) {
        // It may be refused before it has said everything.
        let _ = self.0.write_all(bytes);
    }

    fn sends<M>(&mut self, message: &M)
    where
        M: PeerMessage + for<'a> rkyv::Serialize<FrameSerializer<'a>>,
    {
        let mut bytes = SendBuf::new();
        frame::append_peer(&mut bytes, message);
        self.says(&bytes);
    }

    fn sends_to(&mut self, route: Route, message: &Message) {
        let mut buffer = SendBuf::new();
        frame::begin(&mut buffer);
        let mut batch = BatchBuilder::default();
        batch.begin(buffer);
        assert!(batch.push(route, message));
        let mut buffer = batch.finish();
        let kind = PeerKind::GroupBatch;
        frame::seal(&mut buffer, 0, kind as u16, kind.version(), 0);
        self.says(&buffer);
    }

    /// The first answer: a refusal's name, or that it is welcome.
    fn hears(&mut self) -> Result<(), HelloRefusal> {
        let mut bytes = SendBuf::new();
        let mut chunk = [0; 1024];
        loop {
            if let Some(first) = frame::split(&bytes).unwrap() {
                match decode(first.kind, first.message_version, first.payload).unwrap() {
                    PeerFrame::Refused(reason) => return Err(reason),
                    PeerFrame::Welcome(_) => return Ok(()),
                    _ => panic!("kind {}", first.kind),
                }
            }
            let count = self.0.read(&mut chunk).unwrap();
            assert!(count > 0, "closed without an answer");
            bytes.extend_from_slice(&chunk[..count]);
        }
    }

    /// The other side ends the connection.
    fn is_closed(&mut self) {
        let mut chunk = [0; 4096];
        loop {
            match self.0.read(&mut chunk) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return,
                Err(error) => panic!("it is not closed: {error}"),
            }
        }
    }
}

fn topology(nodes: &Nodes) -> Topology {
    let text = std::fs::read_to_string(nodes.data_dir(0).join("cluster.json")).unwrap();
    let known: serde_json::Value = serde_json::from_str(&text).unwrap();
    serde_json::from_value(known["topology"].clone()).unwrap()
}

/// What the shard of the node at `from` would say to that of the one at `to`, in its latest start.
fn greeting(topology: &Topology, from: usize, to: usize, dial: u64) -> Hello {
    let peer = |place: usize| place as u32 * SHARDS_PER_NODE;
    let [me, other] = [&topology.nodes[from], &topology.nodes[to]];
    let identity = Identity {
        cluster_id: topology.cluster_id,
        node_id: me.node_id,
        peer: peer(from),
        shard: 0,
        az: me.az,
        incarnation: LATE,
        authentication: Authentication::Dev,
    };
    let expected = Expected { node_id: other.node_id, peer: peer(to), shard: 0, az: other.az };
    identity.hello(&expected, dial)
}

fn counted(nodes: &Nodes, place: usize, metric: &str) -> u64 {
    nodes.node(place).metric(&format!("forebay_shard_{metric}"))
}

fn link_refusals(reason: &str) -> String {
    format!("link_refusals_total{{shard=\"0\",reason=\"{reason}\"}}")
}

/// The gauges are brought up to date a few times a second.
fn wait_until_counted(nodes: &Nodes, place: usize, metric: &str, wanted: u64) {
    let deadline = Instant::now() + PATIENCE;
    while counted(nodes, place, metric) < wanted {
        assert!(Instant::now() < deadline, "{metric}: {}", counted(nodes, place, metric));
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_peers_are_refused_by_name_counted_logged_and_disturb_nobody() {
    let Some(dir) = scratch() else { return };
    let mut nodes = Nodes::start(dir.path(), 3);
    nodes.init(3);
    let client = nodes.connect().await;
    let table = create(&client, "ledger", 1).await;
    nodes.wait_until_whole(3);
    let leader = nodes.leader("ledger");
    // A third one that was and is no more, in whose name the last ones here speak.
    let (victim, gone) = ((leader + 1) % 3, (leader + 2) % 3);
    let members = nodes.members();
    let (group, members) = members
        .iter()
        .find(|(_, members)| members.iter().any(|(_, member)| member["table"] == "ledger"))
        .unwrap();
    let member = |place: usize| {
        let found = members.iter().find(|(at, _)| *at == place).expect("it has a member");
        MemberId(found.1["member"].as_u64().unwrap())
    };
    let group = GroupId(*group);
    nodes.kill(gone);
    let topology = topology(&nodes);
    let load = Load::begin_with_reads(&table, 0);
    let mut names = BTreeSet::new();

    // Greetings.
    let good = greeting(&topology, gone, victim, 1);
    let newest = PEER_PROTOCOL_NEWEST;
    use HelloRefusal as R;
    for (hello, reason) in [
        (Hello { cluster_id: [9; 16], ..good }, R::WrongCluster),
        (Hello { node_id: [9; 16], ..good }, R::UnknownNode),
        (Hello { to: good.to + 1, ..good }, R::WrongShard),
        (Hello { protocol_oldest: 0, protocol_newest: 0, ..good }, R::VersionTooOld),
        (
            Hello { protocol_oldest: newest + 1, protocol_newest: newest + 2, ..good },
            R::VersionTooNew,
        ),
        (Hello { az: good.az + 1, ..good }, R::WrongAz),
        (
            Hello { authentication: Authentication::Certificate as u8, ..good },
            R::WrongAuthentication,
        ),
    ] {
        let mut stranger = Stranger::at(&nodes, victim);
        stranger.sends(&hello);
        assert_eq!(stranger.hears(), Err(reason));
        stranger.is_closed();
        wait_until_counted(&nodes, victim, &link_refusals(reason.name()), 1);
        names.insert(reason.name());
    }

    // Bytes that are no frame, or no message.
    let mut hello = SendBuf::new();
    frame::append_peer(&mut hello, &good);
    let changed = |at: usize| {
        let mut bytes = hello.to_vec();
        bytes[at] ^= 0x40;
        bytes
    };
    let mut garbage = SendBuf::new();
    frame::begin(&mut garbage);
    garbage.extend_from_slice(&[0xff; 7]);
    frame::seal(&mut garbage, 0, PeerKind::Hello as u16, 1, 0);
    let huge = [&0x7fff_fff0u32.to_le_bytes()[..], &[0; 60]].concat();
    for (bytes, name) in [
        (huge, "length"),
        (changed(40), "checksum"),
        (changed(8), "version"),
        (garbage.to_vec(), "archive"),
    ] {
        let mut stranger = Stranger::at(&nodes, victim);
        stranger.says(&bytes);
        assert_eq!(stranger.hears(), Err(R::Malformed), "{name}");
        stranger.is_closed();
        wait_until_counted(&nodes, victim, &link_refusals(name), 1);
        names.insert(name);
    }

    // One who is let in, and then speaks of what is over, or to whom it does not concern.
    let mut link = Stranger::at(&nodes, victim);
    link.sends(&greeting(&topology, gone, victim, 2));
    link.hears().unwrap();
    let route = Route { group, from: member(gone), to: member(victim) };
    let (last, configuration_slot) = (Slot(1 << 40), Slot(1 << 40));
    // Of a round before the first.
    let stale = Message::Canvass { ballot: Ballot(1), last, configuration_slot };
    link.sends_to(route, &stale);
    wait_until_counted(&nodes, victim, "messages_stale_ballot_total{shard=\"0\"}", 1);
    link.sends_to(Route { to: MemberId(12_345), ..route }, &stale);
    link.sends_to(Route { from: member(leader), ..route }, &stale);
    wait_until_counted(&nodes, victim, "messages_misdirected_total{shard=\"0\"}", 2);
    for incarnation in [LATE, 1] {
        link.sends(&Heartbeat { incarnation, sent_at: 1, claims: &[] });
    }
    link.sends(&Ack { incarnation: 0, echo: 1, epoch_incarnation: LATE, epoch_count: 1 });
    wait_until_counted(&nodes, victim, "messages_stale_epoch_total{shard=\"0\"}", 2);
    names.extend(["stale_ballot", "misdirected", "stale_epoch"]);
    // The link has lived through all that; a greeting in its middle ends it.
    link.sends(&good);
    link.is_closed();
    wait_until_counted(&nodes, victim, &link_refusals("out_of_place"), 1);
    names.insert("out_of_place");

    // An operator sees all of it, and clients saw nothing.
    let at = nodes.node(victim).http().to_string();
    let shown = forebay(&["status", "--http", &at]);
    assert_eq!(code(&shown), 0);
    for name in &names {
        assert!(stdout(&shown).contains(name), "no {name} in {}", stdout(&shown));
    }
    let written = load.end().await;
    assert!(longest_gap(&written) < Duration::from_secs(5), "{:?}", longest_gap(&written));
    check(&table, &written).await;
    // The log is looked after once a second.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    for (place, said) in nodes.stop() {
        if place != victim {
            continue;
        }
        for name in &names {
            let begins = [":", ","].map(|end| format!("forebay: shard 0: {name}{end}"));
            let about = |line: &&str| begins.iter().any(|words| line.starts_with(words));
            // Once, or again after an interval, where the machine is busy.
            let lines = said.lines().filter(about).count();
            assert!((1..=5).contains(&lines), "{lines} lines about {name} in: {said}");
        }
    }
}

#[test]
fn a_node_that_is_refused_says_so_too() {
    let Some(dir) = scratch() else { return };
    let mut nodes = Nodes::start(dir.path(), 3);
    nodes.init(3);
    nodes.kill(0);
    // As if another cluster's data had been put in its place.
    let file = nodes.data_dir(0).join("cluster.json");
    let mut known: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    let mut other: Topology = serde_json::from_value(known["topology"].clone()).unwrap();
    other.cluster_id = [7; 16];
    known["topology"] = serde_json::to_value(other).unwrap();
    std::fs::write(&file, serde_json::to_vec(&known).unwrap()).unwrap();
    nodes.restart(0);
    let refused = "link_refused_by_peers_total{shard=\"0\",reason=\"wrong_cluster\"}";
    wait_until_counted(&nodes, 0, refused, 1);
    std::thread::sleep(Duration::from_millis(2500));
    for (place, said) in nodes.stop() {
        let expected = match place {
            0 => "refused_by_peer",
            _ => "wrong_cluster",
        };
        assert!(said.contains(&format!("forebay: shard 0: {expected}")), "{place}: {said}");
    }
}
