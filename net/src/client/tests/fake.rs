//! A node made of scripts: it speaks frames over real sockets and answers what a test tells it to.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use forebay_core::ids::{GroupId, ShardId, TableId};
use forebay_core::message::{
    ArchivedDescribeTableRequest, DescribeNodeReply, ErrorCode, ErrorReply, Kind, Message,
    NotLeaderReply, ShardAddress, TableReply, WriteReply,
};
use forebay_core::table::{
    KeySchema, KeyType, PartitionDescription, TableDescription, TableStatus, split_evenly,
};
use rkyv::Portable;
use rkyv::api::high::HighValidator;
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::Failure;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::client::{Client, ClientConfig, Table};
use crate::frame::{self, FrameSerializer, Inbox};
use crate::machine::SendBuf;

/// A request as a script sees it.
pub(super) struct Asked {
    /// Which connection of the node, counted from 0 in the order they came.
    pub(super) connection: usize,
    pub(super) shard: u16,
    pub(super) kind: Kind,
    pub(super) correlation: u64,
    payload: SendBuf,
}

impl Asked {
    pub(super) fn message<T>(&self) -> &T
    where
        T: Portable + for<'c> CheckBytes<HighValidator<'c, Failure>>,
    {
        rkyv::access::<T, Failure>(&self.payload).expect("clients send valid messages")
    }

    pub(super) fn reply<M>(&self, message: &M) -> Act
    where
        M: Message + for<'a> rkyv::Serialize<FrameSerializer<'a>>,
    {
        let mut out = SendBuf::new();
        frame::append(&mut out, self.correlation, message);
        Act::Send(out)
    }

    pub(super) fn written(&self) -> Act {
        self.reply(&WriteReply { attributes: None })
    }

    pub(super) fn refuse(&self, code: ErrorCode, retry_after_micros: u64) -> Act {
        let message = "as scripted";
        self.reply(&ErrorReply { code: code as u16, retry_after_micros, message, item: None })
    }

    /// "The leader is …", or that none is known.
    pub(super) fn not_leader(&self, leader: Option<SocketAddr>) -> Act {
        let unknown = NotLeaderReply::unknown(0);
        self.reply(&leader.map_or(unknown, NotLeaderReply::leader_is))
    }
}

/// What the node does about a request.
pub(super) enum Act {
    Send(SendBuf),
    SendLater(SendBuf, Duration),
    /// Sends this, as if it were all, and closes.
    SendAndClose(SendBuf),
    Ignore,
    Close,
}

/// How a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Running,
    /// Its process is stopped; the kernel goes on to accept connections and bytes.
    Frozen,
    Dead,
}

type Script = Box<dyn FnMut(Asked) -> Act + Send>;

struct Shared {
    node_id: [u8; 16],
    mode: watch::Sender<Mode>,
    script: Mutex<Script>,
    addrs: Vec<SocketAddr>,
    description: Mutex<TableDescription>,
    described: AtomicUsize,
    connections: AtomicUsize,
}

/// See the module's docs. Requests to describe node and table are answered without the script.
pub(super) struct FakeNode {
    shared: Arc<Shared>,
    listeners: tokio::task::JoinSet<()>,
}

impl FakeNode {
    pub(super) async fn start(
        shards: u16,
        script: impl FnMut(Asked) -> Act + Send + 'static,
    ) -> FakeNode {
        let (mut sockets, mut addrs) = (Vec::new(), Vec::new());
        for _ in 0..shards {
            let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
            addrs.push(socket.local_addr().unwrap());
            sockets.push(socket);
        }
        let mut node_id = [0; 16];
        node_id[..2].copy_from_slice(&addrs[0].port().to_be_bytes());
        let shared = Arc::new(Shared {
            node_id,
            mode: watch::Sender::new(Mode::Running),
            script: Mutex::new(Box::new(script)),
            addrs,
            description: Mutex::new(description(shards, 1)),
            described: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
        });
        let mut node = FakeNode { shared, listeners: tokio::task::JoinSet::new() };
        node.listen(sockets);
        node
    }

    fn listen(&mut self, sockets: Vec<TcpListener>) {
        for (shard, socket) in sockets.into_iter().enumerate() {
            let shared = self.shared.clone();
            self.listeners.spawn(async move {
                loop {
                    let (stream, _) = socket.accept().await.unwrap();
                    let connection = shared.connections.fetch_add(1, Ordering::Relaxed);
                    tokio::spawn(serve(shared.clone(), shard as u16, connection, stream));
                }
            });
        }
    }

    /// Ends as a killed process does: connections and listeners are gone.
    pub(super) async fn kill(&mut self) {
        self.shared.mode.send_replace(Mode::Dead);
        self.stop_listening().await;
    }

    /// Starts again where it was.
    pub(super) async fn restart(&mut self) {
        let mut sockets = Vec::new();
        for addr in &self.shared.addrs {
            sockets.push(TcpListener::bind(addr).await.unwrap());
        }
        self.shared.mode.send_replace(Mode::Running);
        self.listen(sockets);
    }

    /// Stops as a process does at SIGSTOP.
    pub(super) fn freeze(&self) {
        self.shared.mode.send_replace(Mode::Frozen);
    }

    /// Goes on after [`FakeNode::freeze`].
    pub(super) fn thaw(&self) {
        self.shared.mode.send_replace(Mode::Running);
    }

    pub(super) fn addr(&self) -> SocketAddr {
        self.shared.addrs[0]
    }

    /// Of its shards.
    pub(super) fn addrs(&self) -> &[SocketAddr] {
        &self.shared.addrs
    }

    /// How often the table was described.
    pub(super) fn described(&self) -> usize {
        self.shared.described.load(Ordering::Relaxed)
    }

    /// How many connections there have been.
    pub(super) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }

    pub(super) fn describe_as(&self, description: TableDescription) {
        *self.shared.description.lock().unwrap() = description;
    }

    pub(super) async fn table(&self, config: ClientConfig) -> Table {
        let client = Client::connect(self.addr(), config).await.unwrap();
        client.table("tab").await.unwrap()
    }

    /// Accepts no more connections.
    pub(super) async fn stop_listening(&mut self) {
        self.listeners.shutdown().await;
    }
}

/// A table with one partition a shard, all in this epoch.
pub(super) fn description(shards: u16, epoch: u64) -> TableDescription {
    let partitions = split_evenly(u64::from(shards)).into_iter().enumerate();
    let partitions = partitions.map(|(index, (hash_first, hash_last))| PartitionDescription {
        group: GroupId(index as u64 + 1),
        founders: [None; 3],
        members: None,
        shard: ShardId(index as u16),
        hash_first,
        hash_last,
        epoch,
    });
    TableDescription {
        id: TableId(77),
        name: String::from("tab"),
        schema: KeySchema::partition_only("id", KeyType::N),
        hash_seed: *b"0123456789abcdef",
        partitions: partitions.collect(),
        status: TableStatus::Active,
        created_unix_millis: 0,
    }
}

impl Shared {
    fn act(&self, asked: Asked) -> Act {
        match asked.kind {
            Kind::DescribeNode => {
                let shards = self
                    .addrs
                    .iter()
                    .enumerate()
                    .map(|(shard, addr)| ShardAddress { shard: shard as u16, port: addr.port() });
                let shards = shards.collect();
                let node_id = self.node_id;
                asked.reply(&DescribeNodeReply { node_id, shards, protocol_version: 1 })
            }
            Kind::DescribeTable => {
                let name = asked.message::<ArchivedDescribeTableRequest<'_>>().name.get();
                if name != "tab" {
                    return asked.refuse(ErrorCode::UnknownTable, 0);
                }
                self.described.fetch_add(1, Ordering::Relaxed);
                let description = self.description.lock().unwrap().to_item().to_bytes().unwrap();
                asked.reply(&TableReply { description: &description })
            }
            _ => (self.script.lock().unwrap())(asked),
        }
    }
}

async fn serve(shared: Arc<Shared>, shard: u16, connection: usize, mut stream: TcpStream) {
    let (mut inbox, mut chunk) = (Inbox::default(), vec![0; 4096]);
    let mut mode = shared.mode.subscribe();
    loop {
        let read = tokio::select! {
            _ = mode.wait_for(|mode| *mode == Mode::Dead) => return,
            read = stream.read(&mut chunk) => read,
        };
        let bytes = match read {
            Ok(0) | Err(_) => return,
            Ok(bytes) => &chunk[..bytes],
        };
        let still = *mode.wait_for(|mode| *mode != Mode::Frozen).await.unwrap();
        if still == Mode::Dead {
            return;
        }
        let mut acts = Vec::new();
        inbox
            .receive(bytes, |frame| {
                let mut payload = SendBuf::new();
                payload.extend_from_slice(frame.payload);
                let kind = Kind::from_wire(frame.kind).expect("clients send known kinds");
                let correlation = frame.correlation;
                acts.push(shared.act(Asked { connection, shard, kind, correlation, payload }));
            })
            .expect("clients send valid frames");
        for act in acts {
            match act {
                Act::Send(bytes) => stream.write_all(&bytes).await.unwrap_or(()),
                Act::SendLater(bytes, pause) => {
                    tokio::time::sleep(pause).await;
                    stream.write_all(&bytes).await.unwrap_or(());
                }
                Act::SendAndClose(bytes) => return stream.write_all(&bytes).await.unwrap_or(()),
                Act::Ignore => {}
                Act::Close => return,
            }
        }
    }
}
