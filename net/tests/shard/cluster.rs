//! A cluster in memory: one shard a node, each over a simulated disk, with wires between them. No
//! ring, no socket, no thread; a seed repeats everything.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use forebay_core::ids::ShardId;
use forebay_core::item::ItemRef;
use forebay_core::message::{
    AdminRequest, ArchivedAdminReply, ArchivedTableReply, CreateTableRequest, Kind, Message,
};
use forebay_core::table::TableDescription;
use forebay_core::time::Nanos;
use forebay_net::frame::{self, FrameSerializer, Inbox};
use forebay_net::machine::{CloseReason, ConnId, Effects, Machine, SendBuf};
use forebay_net::metrics::ShardMetrics;
use forebay_net::replication::{
    AdminAnswer, AdminCommand, GroupDescription, Topology, TopologyNode,
};
use forebay_net::shard::{
    Clock, ClusterContext, METRIC_NAMES, PEER_LISTENER, Shard, ShardContext, ShardMail,
};
use forebay_storage::block::{BLOCK_BYTES, BlockBuf, DiskDone, DiskOp, OpId, ShardFile};
use forebay_storage::sim_disk::{SimDisk, SimRandom};
use forebay_storage::store::{self, BlockingDisk};

use super::shell::SimConfig;

const STEP_NANOS: u64 = 2 * Nanos::PER_MILLI;
const NATIVE_PORT: u16 = 4700;
const PEER_PORT: u16 = 4800;
/// Steps in which something must have an answer.
const PATIENCE: usize = 10_000;

struct Blocking<'a>(&'a mut SimDisk);

impl BlockingDisk for Blocking<'_> {
    fn carry_out(&mut self, op: DiskOp) -> DiskDone {
        let id = match &op {
            DiskOp::Read { op, .. }
            | DiskOp::Write { op, .. }
            | DiskOp::Flush { op, .. }
            | DiskOp::Grow { op, .. } => *op,
        };
        self.0.submit(op);
        self.0.complete(id).expect("just submitted")
    }
}

/// Where a wire ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Node(usize, ConnId),
    /// The test, which asks one question.
    Test,
}

#[derive(Debug)]
struct Wire {
    ends: [End; 2],
    /// Bytes on their way to each end.
    to: [Vec<u8>; 2],
}

/// A node: a process with one shard, and what it stands on.
pub(crate) struct Node {
    pub(crate) shard: Option<Shard>,
    node_id: u128,
    disk: SimDisk,
    fx: Effects,
    slots: u32,
    /// What its cluster.json says.
    known: Option<Topology>,
    incarnations: u64,
    /// The process is stopped (SIGSTOP).
    pub(crate) stopped: bool,
}

/// See the module's docs.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Node>,
    pub(crate) now: Nanos,
    pub(crate) random: SimRandom,
    wires: BTreeMap<u64, Wire>,
    next_wire: u64,
    azs: Vec<u16>,
    answer: Option<(Kind, Vec<u8>)>,
    inbox: Inbox,
}

fn address(port: u16, node: usize) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port + node as u16))
}

fn empty_disk() -> SimDisk {
    let config = SimConfig::SMALL;
    let mut disk = SimDisk::new(config.segment_bytes * u64::from(config.segments), 0);
    let file_bytes = 64 * BLOCK_BYTES as u64;
    let grow = DiskOp::Grow { op: OpId(1), file: ShardFile::Pages, file_bytes };
    Blocking(&mut disk).carry_out(grow);
    disk
}

impl Cluster {
    /// Nodes in these AZs, of which the first `founders` make a cluster.
    pub(crate) fn new(seed: u64, azs: &[u16], founders: usize) -> Cluster {
        let node = |place: usize| Node {
            shard: None,
            node_id: 0x5eed_0000 + place as u128,
            disk: empty_disk(),
            fx: Effects::default(),
            slots: 0,
            known: None,
            incarnations: 0,
            stopped: false,
        };
        let mut cluster = Cluster {
            nodes: (0..azs.len()).map(node).collect(),
            now: Nanos(Nanos::PER_SECOND),
            random: SimRandom::new(seed),
            wires: BTreeMap::new(),
            next_wire: 0,
            azs: azs.to_vec(),
            answer: None,
            inbox: Inbox::default(),
        };
        let nodes = (0..founders).map(|place| cluster.described(place)).collect();
        let topology = Topology { cluster_id: [0x5e; 16], nodes };
        for place in 0..azs.len() {
            let founds = place < founders;
            cluster.nodes[place].known = founds.then(|| topology.clone());
            cluster.start(place);
        }
        cluster
    }

    /// The node as the others must know it.
    pub(crate) fn described(&self, place: usize) -> TopologyNode {
        TopologyNode {
            node_id: self.nodes[place].node_id.to_be_bytes(),
            az: self.azs[place],
            certified: None,
            native: vec![address(NATIVE_PORT, place)],
            peer: vec![address(PEER_PORT, place)],
        }
    }

    /// Its data are gone: the next start is another node's.
    pub(crate) fn delete_data(&mut self, place: usize) {
        let node = &mut self.nodes[place];
        assert!(node.shard.is_none(), "it does not run");
        node.node_id += 0x1_0000;
        (node.disk, node.known, node.incarnations) = (empty_disk(), None, 0);
    }

    pub(crate) fn start(&mut self, place: usize) {
        let config = SimConfig::SMALL.store(0);
        let now = self.now;
        let seed = self.random.bits();
        let az = self.azs[place];
        let node = &mut self.nodes[place];
        let blocks = config.log.batch_bytes_max as usize / BLOCK_BYTES;
        let buffers = (0..config.log.buffers_wanted()).map(|_| BlockBuf::zeroed(blocks)).collect();
        let opened = store::open(
            config,
            node.node_id,
            buffers,
            &mut Blocking(&mut node.disk),
            now,
            &mut |_| {},
        );
        let context = ShardContext {
            shard: ShardId(0),
            node_id: node.node_id.to_be_bytes(),
            ports: vec![NATIVE_PORT + place as u16],
            random_seed: seed,
            unix_millis_at_zero: 1_700_000_000_000,
            metrics: Arc::new(ShardMetrics::new(ShardId(0), METRIC_NAMES)),
            cluster: Some(ClusterContext {
                az,
                peer: vec![address(PEER_PORT, place)],
                // Nothing stops a process in the middle of a turn here.
                clock: Clock(Arc::new(|| Nanos(0))),
                grows: true,
            }),
        };
        let mut shard = Shard::new(context, opened.expect("the store opens").store, now);
        if let Some(topology) = node.known.clone() {
            let (topology, bootstrap) = (Arc::new(topology), node.incarnations == 0);
            shard.mail(ShardMail::Topology { topology, bootstrap }, now);
        }
        node.incarnations += 1;
        node.shard = Some(shard);
    }

    pub(crate) fn kill(&mut self, place: usize) {
        let node = &mut self.nodes[place];
        if node.shard.take().is_none() {
            return;
        }
        node.disk = node.disk.after_process_crash(&mut self.random);
        node.fx = Effects::default();
        let ends = |wire: &Wire| {
            wire.ends.iter().any(|end| matches!(end, End::Node(at, _) if *at == place))
        };
        let gone: Vec<u64> =
            self.wires.iter().filter(|(_, wire)| ends(wire)).map(|(id, _)| *id).collect();
        gone.into_iter().for_each(|id| self.cut(id));
    }

    pub(crate) fn is_up(&self, place: usize) -> bool {
        self.nodes[place].shard.is_some()
    }

    /// The wire is over for whoever is still there.
    fn cut(&mut self, id: u64) {
        let Some(wire) = self.wires.remove(&id) else { return };
        for end in wire.ends {
            if let End::Node(place, conn) = end
                && let Some(shard) = &mut self.nodes[place].shard
            {
                shard.closed(conn, CloseReason::Peer, self.now);
            }
        }
    }

    fn opens(&mut self, place: usize, listener: usize, token: Option<u64>) -> ConnId {
        let node = &mut self.nodes[place];
        node.slots += 1;
        let conn = ConnId { slot: node.slots, generation: 1 };
        let shard = node.shard.as_mut().expect("it runs");
        shard.connected(conn, listener, token, self.now);
        conn
    }

    fn wire(&mut self, ends: [End; 2]) -> u64 {
        self.next_wire += 1;
        self.wires.insert(self.next_wire, Wire { ends, to: Default::default() });
        self.next_wire
    }

    fn deliver(&mut self) {
        let ids: Vec<u64> = self.wires.keys().copied().collect();
        for id in ids {
            for side in 0..2 {
                let Some(wire) = self.wires.get_mut(&id) else { break };
                if let End::Node(place, _) = wire.ends[side]
                    && self.nodes[place].stopped
                {
                    continue;
                }
                let bytes = std::mem::take(&mut wire.to[side]);
                if bytes.is_empty() {
                    continue;
                }
                match wire.ends[side] {
                    End::Node(place, conn) => {
                        let node = &mut self.nodes[place];
                        let shard = node.shard.as_mut().expect("its wires end with it");
                        shard.received(conn, &bytes, self.now, &mut node.fx);
                    }
                    End::Test => {
                        let answer = &mut self.answer;
                        let taken = self.inbox.receive(&bytes, |frame| {
                            let kind = Kind::from_wire(frame.kind).expect("a known kind");
                            *answer = Some((kind, frame.payload.to_vec()));
                        });
                        taken.expect("a shard sends whole frames");
                    }
                }
            }
        }
    }

    fn turn(&mut self, place: usize) {
        let (now, node) = (self.now, &mut self.nodes[place]);
        let Some(shard) = node.shard.as_mut().filter(|_| !node.stopped) else { return };
        while let Some(done) = node.disk.complete_next() {
            shard.disk_done(done, now);
        }
        shard.turn(now, &mut node.fx);
        if let Some(joined) = shard.take_joined() {
            let topology = Arc::new(joined.topology.clone());
            node.known = Some(joined.topology);
            shard.mail(ShardMail::Topology { topology, bootstrap: joined.founded }, now);
        }
        let mut fx = std::mem::take(&mut node.fx);
        fx.disk.drain(..).for_each(|op| node.disk.submit(op));
        for (conn, buf) in fx.send.drain(..) {
            let here = End::Node(place, conn);
            let wire = self.wires.values_mut().find(|wire| wire.ends.contains(&here));
            if let Some(wire) = wire {
                let there = usize::from(wire.ends[0] == here);
                wire.to[there].extend_from_slice(&buf);
            }
            self.nodes[place].shard.as_mut().expect("it runs").sent(conn, buf, now);
        }
        for conn in fx.close.drain(..) {
            let here = End::Node(place, conn);
            let found = self.wires.iter().find(|(_, wire)| wire.ends.contains(&here));
            match found.map(|(id, _)| *id) {
                Some(id) => {
                    // What was handed out before arrives before the end.
                    self.deliver();
                    self.cut(id);
                }
                None => self.nodes[place].shard.as_mut().expect("it runs").closed(
                    conn,
                    CloseReason::Asked,
                    now,
                ),
            }
        }
        for (token, to) in fx.connect.drain(..) {
            let peer = usize::from(to.port() - PEER_PORT);
            if !self.is_up(peer) {
                let shard = self.nodes[place].shard.as_mut().expect("it runs");
                shard.connect_failed(token, 111, now);
                continue;
            }
            let (from, to) =
                (self.opens(place, 0, Some(token)), self.opens(peer, PEER_LISTENER, None));
            self.wire([End::Node(place, from), End::Node(peer, to)]);
        }
        fx.wake_at = None;
        fx.run_again = false;
        self.nodes[place].fx = fx;
    }

    pub(crate) fn step(&mut self) {
        self.now = self.now + STEP_NANOS;
        self.deliver();
        for place in 0..self.nodes.len() {
            self.turn(place);
        }
    }

    pub(crate) fn millis(&mut self, millis: u64) {
        let until = self.now + millis * Nanos::PER_MILLI;
        while self.now < until {
            self.step();
        }
    }

    /// The answer of one node, if it gives one in time.
    pub(crate) fn ask<M>(&mut self, place: usize, request: &M) -> Option<(Kind, Vec<u8>)>
    where
        M: Message + for<'a> rkyv::Serialize<FrameSerializer<'a>>,
    {
        if !self.is_up(place) {
            return None;
        }
        let conn = self.opens(place, 0, None);
        let id = self.wire([End::Node(place, conn), End::Test]);
        let mut bytes = SendBuf::new();
        frame::append(&mut bytes, 1, request);
        self.wires.get_mut(&id).expect("just made").to[0].extend_from_slice(&bytes);
        (self.answer, self.inbox) = (None, Inbox::default());
        for _ in 0..1000 {
            self.step();
            if self.answer.is_some() || !self.wires.contains_key(&id) {
                break;
            }
        }
        self.cut(id);
        self.answer.take()
    }

    /// The answer of kind `wanted` of whichever node gives it.
    pub(crate) fn ask_all<M>(&mut self, request: &M, wanted: Kind) -> Vec<u8>
    where
        M: Message + for<'a> rkyv::Serialize<FrameSerializer<'a>>,
    {
        for turn in 0..PATIENCE {
            let place = turn % self.nodes.len();
            match self.ask(place, request) {
                Some((kind, payload)) if kind == wanted => return payload,
                _ => self.millis(10),
            }
        }
        panic!("no node answers with {wanted:?}");
    }

    pub(crate) fn create_table(&mut self, name: &str, partitions: u32) -> TableDescription {
        let request = CreateTableRequest {
            name,
            partition_key: "pk",
            partition_key_type: b'S',
            sort_key: "",
            sort_key_type: 0,
            partitions,
        };
        let payload = self.ask_all(&request, Kind::TableReply);
        let mut aligned = SendBuf::new();
        aligned.extend_from_slice(&payload);
        let reply = rkyv::access::<ArchivedTableReply<'_>, rkyv::rancor::Failure>(&aligned);
        let item = ItemRef::validate(reply.expect("an archive").description.get());
        TableDescription::from_item(item.expect("an item")).expect("a description")
    }

    pub(crate) fn admin(&mut self, place: usize, command: &AdminCommand) -> Option<AdminAnswer> {
        let command = serde_json::to_vec(command).expect("plain data");
        let (kind, payload) = self.ask(place, &AdminRequest { command: &command })?;
        assert_eq!(kind, Kind::AdminReply);
        let mut aligned = SendBuf::new();
        aligned.extend_from_slice(&payload);
        let reply = rkyv::access::<ArchivedAdminReply<'_>, rkyv::rancor::Failure>(&aligned);
        Some(serde_json::from_slice(&reply.expect("an archive").answer).expect("an answer"))
    }

    /// Every member that runs, with its node's place.
    pub(crate) fn members(&mut self) -> Vec<(usize, GroupDescription)> {
        let mut all = Vec::new();
        for place in 0..self.nodes.len() {
            if let Some(AdminAnswer::Groups(groups)) = self.admin(place, &AdminCommand::Groups) {
                all.extend(groups.into_iter().map(|group| (place, group)));
            }
        }
        all
    }

    /// Waits until `is_so` of what the members say.
    pub(crate) fn wait_until(
        &mut self,
        what: &str,
        is_so: impl Fn(&[(usize, GroupDescription)]) -> bool,
    ) {
        let until = self.now + 60 * Nanos::PER_SECOND;
        loop {
            let members = self.members();
            if is_so(&members) {
                return;
            }
            assert!(self.now < until, "not {what}: {members:#?}");
            self.millis(50);
        }
    }
}
