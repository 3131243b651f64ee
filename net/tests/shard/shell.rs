//! A node in memory: shards over simulated disks, simulated connections, and a clock that the test
//! turns. No ring, no socket, no thread; a seed repeats everything.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use forebay_core::ids::ShardId;
use forebay_core::item::{Item, ItemRef};
use forebay_core::message::{
    ArchivedBatchGetReply, ArchivedBatchWriteReply, ArchivedDescribeNodeReply, ArchivedErrorReply,
    ArchivedGetReply, ArchivedListTablesReply, ArchivedPageReply, ArchivedTableReply,
    ArchivedWriteReply, CreateTableRequest, ErrorCode, Kind, Message,
};
use forebay_core::table::TableDescription;
use forebay_core::time::Nanos;
use forebay_net::frame::{self, Frame, FrameSerializer, Inbox};
use forebay_net::machine::{CloseReason, ConnId, Effects, Machine, SendBuf};
use forebay_net::metrics::ShardMetrics;
use forebay_net::shard::{METRIC_NAMES, Shard, ShardContext};
use forebay_storage::block::{BLOCK_BYTES, BlockBuf, DiskDone, DiskOp, OpId, ShardFile};
use forebay_storage::log::LogConfig;
use forebay_storage::sim_disk::{SimDisk, SimRandom};
use forebay_storage::store::{self, BlockingDisk, Opened, StoreConfig};

/// Node id of every simulated node.
const NODE: u128 = 0x5eed;

/// A reply, copied out of its frame.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Reply {
    Written(Option<Item>),
    Item(Option<Item>),
    Page(Page),
    Items(Vec<Got>),
    Outcomes(Vec<u16>),
    Table(Box<TableDescription>),
    Names(Vec<String>, bool),
    Node(Vec<(u16, u16)>),
    Error(Refused),
}

/// One element of a BatchGet.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Got {
    Item(Item),
    Absent,
    NotRead,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Page {
    pub(crate) items: Vec<Item>,
    pub(crate) scanned: u32,
    pub(crate) resume: Option<Vec<u8>>,
    pub(crate) next_hash: Option<u64>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Refused {
    pub(crate) code: ErrorCode,
    pub(crate) retry_after_micros: u64,
    pub(crate) message: String,
    pub(crate) item: Option<Item>,
}

impl Reply {
    pub(crate) fn code(&self) -> Option<ErrorCode> {
        match self {
            Reply::Error(refused) => Some(refused.code),
            _ => None,
        }
    }

    pub(crate) fn page(self) -> Page {
        match self {
            Reply::Page(page) => page,
            other => panic!("not a page: {other:?}"),
        }
    }

    pub(crate) fn item(self) -> Option<Item> {
        match self {
            Reply::Item(item) => item,
            other => panic!("not an item: {other:?}"),
        }
    }

    pub(crate) fn table(self) -> TableDescription {
        match self {
            Reply::Table(table) => *table,
            other => panic!("not a table: {other:?}"),
        }
    }
}

fn item_of(bytes: &[u8]) -> Item {
    Item::from(ItemRef::validate(bytes).expect("replies hold valid items"))
}

fn lengths(bytes: &[u8]) -> Vec<Got> {
    let (mut rest, mut items) = (bytes, Vec::new());
    while !rest.is_empty() {
        let (length, after) = rest.split_at(4);
        let length = u32::from_le_bytes(length.try_into().expect("four bytes"));
        if length == 0 || length == u32::MAX {
            items.push(if length == 0 { Got::Absent } else { Got::NotRead });
            rest = after;
        } else {
            items.push(Got::Item(item_of(&after[..length as usize])));
            rest = &after[length as usize..];
        }
    }
    items
}

fn decode(frame: Frame<'_>) -> Reply {
    let kind = Kind::from_wire(frame.kind).expect("a known kind");
    macro_rules! read {
        ($type:ty) => {
            frame.message::<$type>().expect("replies are valid archives")
        };
    }
    match kind {
        Kind::WriteReply => {
            let reply = read!(ArchivedWriteReply<'_>);
            Reply::Written(reply.attributes.as_ref().map(|bytes| item_of(bytes.get())))
        }
        Kind::GetReply => {
            let reply = read!(ArchivedGetReply<'_>);
            Reply::Item(reply.item.as_ref().map(|bytes| item_of(bytes.get())))
        }
        Kind::PageReply => {
            let reply = read!(ArchivedPageReply<'_>);
            let items: Vec<Item> = lengths(reply.items.get())
                .into_iter()
                .map(|got| match got {
                    Got::Item(item) => item,
                    other => panic!("a page holds items only, not {other:?}"),
                })
                .collect();
            assert_eq!(items.len(), reply.count.to_native() as usize);
            Reply::Page(Page {
                items,
                scanned: reply.scanned_count.to_native(),
                resume: reply.resume.as_ref().map(|key| key.get().to_vec()),
                next_hash: reply.next_hash.as_ref().map(|hash| hash.to_native()),
            })
        }
        Kind::BatchGetReply => Reply::Items(lengths(read!(ArchivedBatchGetReply<'_>).items.get())),
        Kind::BatchWriteReply => {
            let reply = read!(ArchivedBatchWriteReply);
            Reply::Outcomes(reply.outcomes.iter().map(|code| code.to_native()).collect())
        }
        Kind::TableReply => {
            let item = ItemRef::validate(read!(ArchivedTableReply<'_>).description.get());
            let table = TableDescription::from_item(item.expect("an item"));
            Reply::Table(Box::new(table.expect("a description")))
        }
        Kind::ListTablesReply => {
            let reply = read!(ArchivedListTablesReply);
            let names = reply.names.iter().map(|name| name.as_str().to_owned()).collect();
            Reply::Names(names, reply.more)
        }
        Kind::DescribeNodeReply => {
            let reply = read!(ArchivedDescribeNodeReply);
            let shards = reply.shards.iter();
            Reply::Node(shards.map(|s| (s.shard.to_native(), s.port.to_native())).collect())
        }
        Kind::ErrorReply => {
            let reply = read!(ArchivedErrorReply<'_>);
            Reply::Error(Refused {
                code: ErrorCode::from_wire(reply.code.to_native()).expect("a known code"),
                retry_after_micros: reply.retry_after_micros.to_native(),
                message: reply.message.get().to_owned(),
                item: reply.item.as_ref().map(|bytes| item_of(bytes.get())),
            })
        }
        request => panic!("a shard sent a {request:?}"),
    }
}

/// The far end of a connection.
#[derive(Default)]
pub(crate) struct Peer {
    /// Not yet delivered to the shard.
    outgoing: Vec<u8>,
    incoming: Inbox,
    on_its_way: Option<SendBuf>,
    /// Replies that nobody has looked at, by correlation id, each with its place in the stream.
    pub(crate) replies: HashMap<u64, Reply>,
    /// Correlation ids in the order of the replies.
    pub(crate) order: Vec<u64>,
    pub(crate) taken_bytes: usize,
    pub(crate) takes_replies: bool,
    pub(crate) paused: bool,
    pub(crate) was_paused: bool,
    /// The shard asked for it.
    closing: bool,
    pub(crate) closed: bool,
}

/// Names a connection of a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Client {
    pub(crate) shard: usize,
    conn: ConnId,
}

/// One shard with its disk and its connections.
pub(crate) struct Host {
    pub(crate) shard: Shard,
    pub(crate) disk: SimDisk,
    pub(crate) metrics: Arc<ShardMetrics>,
    peers: BTreeMap<u32, (u32, Peer)>,
    fx: Effects,
    /// Nothing on the log completes.
    pub(crate) hold_log: bool,
    /// Nothing on the pages completes.
    pub(crate) hold_pages: bool,
    pub(crate) stopped: bool,
    /// Operations in flight: which file.
    files: HashMap<OpId, ShardFile>,
}

/// See the module's docs.
pub(crate) struct Sim {
    pub(crate) hosts: Vec<Host>,
    pub(crate) now: Nanos,
    pub(crate) random: SimRandom,
    pub(crate) config: SimConfig,
    next_correlation: u64,
    next_generation: u32,
    /// Mail between shards is held back.
    pub(crate) hold_mail: bool,
    mail: Vec<forebay_net::shard::Mail>,
}

/// Sizes of a simulated shard.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SimConfig {
    pub(crate) shards: usize,
    pub(crate) segment_bytes: u64,
    pub(crate) segments: u32,
    pub(crate) record_bytes_max: u32,
    pub(crate) batch_bytes_max: u32,
    pub(crate) generation_bytes: usize,
    pub(crate) cache_bytes: usize,
    pub(crate) checkpoint_interval_nanos: u64,
}

impl SimConfig {
    /// Small enough for thousands of restarts: items up to some 50 KB.
    pub(crate) const SMALL: SimConfig = SimConfig {
        shards: 1,
        segment_bytes: 256 << 10,
        segments: 8,
        record_bytes_max: 60 << 10,
        batch_bytes_max: 64 << 10,
        generation_bytes: 1 << 20,
        cache_bytes: 2 << 20,
        checkpoint_interval_nanos: 50 * Nanos::PER_MILLI,
    };

    /// Items of every size.
    pub(crate) const LARGE: SimConfig = SimConfig {
        shards: 1,
        segment_bytes: 16 << 20,
        segments: 4,
        record_bytes_max: forebay_storage::log::RECORD_BYTES_MAX as u32,
        batch_bytes_max: 256 << 10,
        generation_bytes: 16 << 20,
        cache_bytes: 24 << 20,
        checkpoint_interval_nanos: Nanos::PER_SECOND,
    };

    pub(crate) fn store(&self, shard: usize) -> StoreConfig {
        let mut log = LogConfig::standard(ShardId(shard as u16), 7);
        log.segment_bytes = self.segment_bytes;
        log.segments = self.segments;
        log.record_bytes_max = self.record_bytes_max;
        log.batch_bytes_max = self.batch_bytes_max;
        log.reserve_bytes = self.segment_bytes;
        log.validate().expect("a valid log");
        StoreConfig {
            log,
            overlay_generation_bytes: self.generation_bytes,
            cache_bytes: self.cache_bytes,
            checkpoint_interval_nanos: self.checkpoint_interval_nanos,
            overlay_fill_percent: 50,
            log_fill_percent: 50,
            checkpoints_off: false,
            merge_slice_micros: 200,
            marker_nanos: 5 * Nanos::PER_MILLI,
        }
    }
}

struct Blocking<'a>(&'a mut SimDisk);

impl BlockingDisk for Blocking<'_> {
    fn carry_out(&mut self, op: DiskOp) -> DiskDone {
        let id = op_id(&op).0;
        self.0.submit(op);
        self.0.complete(id).expect("just submitted")
    }
}

fn op_id(op: &DiskOp) -> (OpId, ShardFile) {
    match op {
        DiskOp::Read { op, file, .. }
        | DiskOp::Write { op, file, .. }
        | DiskOp::Flush { op, file }
        | DiskOp::Grow { op, file, .. } => (*op, *file),
    }
}

impl Host {
    fn open(config: &SimConfig, shard: usize, mut disk: SimDisk, now: Nanos, seed: u64) -> Host {
        let store_config = config.store(shard);
        let buffers = (0..store_config.log.buffers_wanted())
            .map(|_| BlockBuf::zeroed(store_config.log.batch_bytes_max as usize / BLOCK_BYTES))
            .collect();
        let Opened { store, .. } =
            store::open(store_config, NODE, buffers, &mut Blocking(&mut disk), now, &mut |_| {})
                .expect("the store opens");
        let id = ShardId(shard as u16);
        let metrics = Arc::new(ShardMetrics::new(id, METRIC_NAMES));
        let context = ShardContext {
            shard: id,
            node_id: NODE.to_be_bytes(),
            ports: (0..config.shards).map(|shard| 4700 + shard as u16).collect(),
            random_seed: seed,
            unix_millis_at_zero: 1_700_000_000_000,
            metrics: Arc::clone(&metrics),
            cluster: None,
        };
        Host {
            shard: Shard::new(context, store, now),
            disk,
            metrics,
            peers: BTreeMap::new(),
            fx: Effects::default(),
            hold_log: false,
            hold_pages: false,
            stopped: false,
            files: HashMap::new(),
        }
    }

    /// Delivers a piece of what each peer has sent.
    fn deliver(&mut self, random: &mut SimRandom, now: Nanos) {
        for (slot, (generation, peer)) in &mut self.peers {
            if peer.paused || peer.closing || peer.outgoing.is_empty() {
                continue;
            }
            let conn = ConnId { slot: *slot, generation: *generation };
            let all = peer.outgoing.len();
            let bytes = if random.chance(1, 2) { all } else { 1 + random.below(all) };
            let piece: Vec<u8> = peer.outgoing.drain(..bytes).collect();
            // Half of the time somewhere within a buffer, as after a cut frame.
            let mut shifted = vec![0; 1 + random.below(15)];
            let at = shifted.len();
            shifted.extend_from_slice(&piece);
            let bytes = if random.chance(1, 2) { &piece } else { &shifted[at..] };
            self.shard.received(conn, bytes, now, &mut self.fx);
        }
    }

    /// Completes a few disk operations in any order; returns whether there were any.
    fn complete(&mut self, random: &mut SimRandom, most: usize, now: Nanos) -> bool {
        let mut any = false;
        for _ in 0..most {
            let free: Vec<OpId> = self
                .disk
                .in_flight()
                .filter(|op| match self.files[op] {
                    ShardFile::Log => !self.hold_log,
                    ShardFile::Pages => !self.hold_pages,
                })
                .collect();
            if free.is_empty() {
                return any;
            }
            let op = free[random.below(free.len())];
            self.files.remove(&op);
            let done = self.disk.complete(op).expect("in flight");
            self.shard.disk_done(done, now);
            any = true;
        }
        any
    }

    /// Lets peers take what was sent to them.
    fn take_sent(&mut self, random: &mut SimRandom, now: Nanos) {
        for (slot, (generation, peer)) in &mut self.peers {
            let conn = ConnId { slot: *slot, generation: *generation };
            if peer.takes_replies
                && random.chance(3, 4)
                && let Some(buf) = peer.on_its_way.take()
            {
                peer.taken_bytes += buf.len();
                let Peer { replies, order, .. } = peer;
                peer.incoming
                    .receive(&buf, |frame| {
                        order.push(frame.correlation);
                        let old = replies.insert(frame.correlation, decode(frame));
                        assert!(old.is_none(), "one reply to request {}", frame.correlation);
                    })
                    .expect("a shard sends whole frames");
                self.shard.sent(conn, buf, now);
            }
        }
        let gone: Vec<u32> = self
            .peers
            .iter()
            .filter(|(_, (_, peer))| peer.closing && peer.on_its_way.is_none() && !peer.closed)
            .map(|(slot, _)| *slot)
            .collect();
        for slot in gone {
            let (generation, peer) = self.peers.get_mut(&slot).expect("listed");
            peer.closed = true;
            let conn = ConnId { slot, generation: *generation };
            self.shard.closed(conn, CloseReason::Asked, now);
        }
    }

    fn turn(&mut self, now: Nanos) {
        self.shard.turn(now, &mut self.fx);
        let fx = &mut self.fx;
        assert!(fx.connect.is_empty());
        for op in fx.disk.drain(..) {
            let (id, file) = op_id(&op);
            self.files.insert(id, file);
            self.disk.submit(op);
        }
        for (conn, buf) in fx.send.drain(..) {
            let (generation, peer) = self.peers.get_mut(&conn.slot).expect("open");
            assert_eq!(*generation, conn.generation);
            assert!(peer.on_its_way.is_none(), "one buffer in flight for each connection");
            assert!(!peer.closing, "nothing is sent after a close");
            peer.on_its_way = Some(buf);
        }
        for conn in fx.close.drain(..) {
            let (_, peer) = self.peers.get_mut(&conn.slot).expect("open");
            assert!(!peer.closing, "closed once");
            peer.closing = true;
        }
        for conn in fx.pause_receive.drain(..) {
            let (_, peer) = self.peers.get_mut(&conn.slot).expect("open");
            assert!(!peer.paused);
            (peer.paused, peer.was_paused) = (true, true);
        }
        for conn in fx.resume_receive.drain(..) {
            let (_, peer) = self.peers.get_mut(&conn.slot).expect("open");
            assert!(peer.paused);
            peer.paused = false;
        }
        self.stopped |= std::mem::take(&mut fx.stop);
        fx.run_again = false;
        fx.wake_at = None;
    }
}

impl Sim {
    pub(crate) fn new(config: SimConfig, seed: u64) -> Sim {
        let disks = (0..config.shards)
            .map(|_| SimDisk::new(config.segment_bytes * u64::from(config.segments), 0))
            .map(|disk| {
                let mut disk = disk;
                // The superblocks' two blocks are there from the start, as in a data directory.
                let grow = DiskOp::Grow {
                    op: OpId(1),
                    file: ShardFile::Pages,
                    file_bytes: 64 * BLOCK_BYTES as u64,
                };
                Blocking(&mut disk).carry_out(grow);
                disk
            })
            .collect();
        Sim::over(config, disks, seed)
    }

    fn over(config: SimConfig, disks: Vec<SimDisk>, seed: u64) -> Sim {
        let now = Nanos(Nanos::PER_SECOND);
        let hosts = disks.into_iter().enumerate();
        let mut sim = Sim {
            hosts: hosts
                .map(|(shard, disk)| Host::open(&config, shard, disk, now, seed + shard as u64))
                .collect(),
            now,
            random: SimRandom::new(seed),
            config,
            next_correlation: 1,
            next_generation: 1,
            hold_mail: false,
            mail: Vec::new(),
        };
        sim.steps(2);
        sim
    }

    /// The node after power was cut at this moment.
    pub(crate) fn after_power_cut(&mut self) -> Sim {
        let random = &mut self.random;
        let disks = self.hosts.iter().map(|host| host.disk.after_power_cut(random)).collect();
        let seed = self.random.bits();
        Sim::over(self.config, disks, seed)
    }

    /// The node started again after it stopped in order (or was killed with power on).
    pub(crate) fn after_kill(&mut self) -> Sim {
        let random = &mut self.random;
        let disks = self.hosts.iter().map(|host| host.disk.after_process_crash(random)).collect();
        let seed = self.random.bits();
        Sim::over(self.config, disks, seed)
    }

    pub(crate) fn connect(&mut self, shard: usize) -> Client {
        let host = &mut self.hosts[shard];
        // Slots are reused, as by the ring.
        let free = host.peers.iter().find(|(_, (_, peer))| peer.closed).map(|(slot, _)| *slot);
        let slot = free.unwrap_or(host.peers.len() as u32);
        let conn = ConnId { slot, generation: self.next_generation };
        self.next_generation += 1;
        let peer = Peer { takes_replies: true, ..Peer::default() };
        host.peers.insert(slot, (conn.generation, peer));
        host.shard.connected(conn, 0, None, self.now);
        Client { shard, conn }
    }

    pub(crate) fn peer(&mut self, client: Client) -> &mut Peer {
        let (generation, peer) =
            self.hosts[client.shard].peers.get_mut(&client.conn.slot).expect("connected");
        assert_eq!(*generation, client.conn.generation);
        peer
    }

    /// The peer hangs up.
    pub(crate) fn hang_up(&mut self, client: Client) {
        let (conn, now) = (client.conn, self.now);
        let peer = self.peer(client);
        let buf = peer.on_its_way.take();
        peer.closed = true;
        peer.outgoing.clear();
        peer.paused = false;
        let shard = &mut self.hosts[client.shard].shard;
        if let Some(buf) = buf {
            shard.sent(conn, buf, now);
        }
        shard.closed(conn, CloseReason::Peer, now);
    }

    /// Sends bytes as they are.
    pub(crate) fn send_bytes(&mut self, client: Client, bytes: &[u8]) {
        self.peer(client).outgoing.extend_from_slice(bytes);
    }

    /// Sends a request; its correlation id.
    pub(crate) fn ask<M>(&mut self, client: Client, message: &M) -> u64
    where
        M: Message + for<'a> rkyv::Serialize<FrameSerializer<'a>>,
    {
        let correlation = self.next_correlation;
        self.next_correlation += 1;
        let mut frame = SendBuf::new();
        frame::append(&mut frame, correlation, message);
        self.send_bytes(client, &frame);
        correlation
    }

    /// One round: everything may happen a little.
    pub(crate) fn step(&mut self) {
        self.now = Nanos(self.now.0 + 1_000 + self.random.bits() % 200_000);
        let now = self.now;
        for host in &mut self.hosts {
            host.deliver(&mut self.random, now);
            let most = 1 + self.random.below(8);
            host.complete(&mut self.random, most, now);
            host.take_sent(&mut self.random, now);
            host.turn(now);
            self.mail.extend(host.shard.take_mail());
        }
        if !self.hold_mail {
            for mail in std::mem::take(&mut self.mail) {
                self.hosts[usize::from(mail.to.0)].shard.mail(mail.message, now);
            }
        }
    }

    pub(crate) fn steps(&mut self, count: usize) {
        for _ in 0..count {
            self.step();
        }
    }

    /// Takes the reply to a request if it has come.
    pub(crate) fn reply(&mut self, client: Client, correlation: u64) -> Option<Reply> {
        self.peer(client).replies.remove(&correlation)
    }

    /// Steps until the reply is here.
    pub(crate) fn wait(&mut self, client: Client, correlation: u64) -> Reply {
        for _ in 0..200_000 {
            if let Some(reply) = self.reply(client, correlation) {
                return reply;
            }
            assert!(!self.peer(client).closed, "the connection was closed");
            self.step();
        }
        panic!("no reply to request {correlation}");
    }

    /// Asks and waits.
    pub(crate) fn call<M>(&mut self, client: Client, message: &M) -> Reply
    where
        M: Message + for<'a> rkyv::Serialize<FrameSerializer<'a>>,
    {
        let correlation = self.ask(client, message);
        self.wait(client, correlation)
    }

    /// Stops every shard in order.
    pub(crate) fn stop(&mut self) {
        for host in &mut self.hosts {
            host.shard.stop();
        }
        for _ in 0..200_000 {
            if self.hosts.iter().all(|host| host.stopped) {
                return;
            }
            self.step();
        }
        panic!("the node does not stop");
    }

    /// Creates a table and waits until it is active.
    pub(crate) fn create_table(
        &mut self,
        name: &str,
        sort: Option<u8>,
        partitions: u32,
    ) -> TableDescription {
        let client = self.connect(0);
        let table = self.call(client, &create_table(name, b'S', sort, partitions)).table();
        self.hang_up(client);
        table
    }
}

/// Partition key `pk`; sort key `sk` of the type given.
pub(crate) fn create_table(
    name: &str,
    key_type: u8,
    sort: Option<u8>,
    partitions: u32,
) -> CreateTableRequest<'_> {
    CreateTableRequest {
        name,
        partition_key: "pk",
        partition_key_type: key_type,
        sort_key: if sort.is_some() { "sk" } else { "" },
        sort_key_type: sort.unwrap_or(0),
        partitions,
    }
}
