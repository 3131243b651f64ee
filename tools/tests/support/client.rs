//! A blocking client of the native protocol: what is sent is what is asked, nothing is retried.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use forebay_core::item::{Item, ItemRef};
use forebay_core::message::{
    ArchivedBatchWriteReply, ArchivedDescribeNodeReply, ArchivedErrorReply, ArchivedGetReply,
    ArchivedPageReply, ArchivedTableReply, ArchivedWriteReply, CreateTableRequest, DeleteRequest,
    DescribeNodeRequest, DescribeTableRequest, ErrorCode, GetRequest, Kind, Message, PutRequest,
    ReturnValues,
};
use forebay_core::table::TableDescription;
use forebay_net::frame::{self, Frame, FrameSerializer, PROTOCOL_VERSION};
use forebay_net::machine::SendBuf;
use rkyv::Serialize;
use rkyv::util::AlignedVec;

/// A node that does not answer for so long has failed its test.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a request came to.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    Written(Option<Item>),
    Got(Option<Item>),
    Batch(Vec<u16>),
    Page { items: Vec<Item>, more: bool },
    Table(TableDescription),
    Ports(Vec<u16>),
    Refused { code: ErrorCode, message: String, retry_after: Duration },
}

impl Answer {
    #[track_caller]
    pub fn written(self) -> Option<Item> {
        match self {
            Answer::Written(item) => item,
            other => panic!("a write came to {other:?}"),
        }
    }

    #[track_caller]
    pub fn got(self) -> Option<Item> {
        match self {
            Answer::Got(item) => item,
            other => panic!("a read came to {other:?}"),
        }
    }

    /// The error's name.
    #[track_caller]
    pub fn refused(self) -> ErrorCode {
        match self {
            Answer::Refused { code, .. } => code,
            other => panic!("not refused: {other:?}"),
        }
    }
}

/// One connection to one shard.
pub struct Client {
    stream: TcpStream,
    out: SendBuf,
    received: AlignedVec<16>,
    taken: usize,
    correlation: u64,
}

impl Client {
    pub fn connect(at: SocketAddr) -> io::Result<Client> {
        let stream = TcpStream::connect_timeout(&at, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let (out, received) = (SendBuf::new(), AlignedVec::new());
        Ok(Client { stream, out, received, taken: 0, correlation: 0 })
    }

    /// The bare stream, for bytes that are no frames.
    pub fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    /// Adds a request to what the next [`Client::flush`] sends; returns its correlation id.
    pub fn queue<M>(&mut self, message: &M) -> u64
    where
        M: Message + for<'a> Serialize<FrameSerializer<'a>>,
    {
        self.correlation += 1;
        frame::append(&mut self.out, self.correlation, message);
        self.correlation
    }

    pub fn flush(&mut self) -> io::Result<()> {
        let sent = self.stream.write_all(&self.out);
        self.out.clear();
        sent
    }

    /// The next answer, to whichever request.
    pub fn receive(&mut self) -> io::Result<(u64, Answer)> {
        loop {
            if let Some(answer) = self.take()? {
                return Ok(answer);
            }
            self.fill()?;
        }
    }

    /// An answer that has arrived already.
    pub fn take(&mut self) -> io::Result<Option<(u64, Answer)>> {
        // Frames are multiples of 16 bytes, so what is left stays aligned.
        let found = frame::split(&self.received[self.taken..])
            .map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
        let Some(frame) = found else { return Ok(None) };
        let answer = (frame.correlation, answer(&frame)?);
        self.taken += frame.frame_bytes;
        Ok(Some(answer))
    }

    fn fill(&mut self) -> io::Result<()> {
        let left = self.received.len() - self.taken;
        self.received.copy_within(self.taken.., 0);
        self.received.resize(left + 64 * 1024, 0);
        self.taken = 0;
        let got = self.stream.read(&mut self.received[left..]);
        self.received.resize(left + got.as_ref().map_or(0, |bytes| *bytes), 0);
        match got {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Sends one request and waits for its answer; nothing else may be on its way.
    pub fn try_call<M>(&mut self, message: &M) -> io::Result<Answer>
    where
        M: Message + for<'a> Serialize<FrameSerializer<'a>>,
    {
        let asked = self.queue(message);
        self.flush()?;
        let (correlation, answer) = self.receive()?;
        assert_eq!(correlation, asked, "an answer to another request: {answer:?}");
        Ok(answer)
    }

    #[track_caller]
    pub fn call<M>(&mut self, message: &M) -> Answer
    where
        M: Message + for<'a> Serialize<FrameSerializer<'a>>,
    {
        self.try_call(message).unwrap_or_else(|error| panic!("no answer: {error}"))
    }

    /// The ports of the node's shards.
    pub fn ports(&mut self) -> Vec<u16> {
        match self.call(&DescribeNodeRequest { protocol_version: PROTOCOL_VERSION }) {
            Answer::Ports(ports) => ports,
            other => panic!("{other:?}"),
        }
    }

    /// Creates a table with the partition key `k`, a string, one partition a shard.
    pub fn create_table(&mut self, name: &str) -> TableDescription {
        match self.call(&create_table(name, "")) {
            Answer::Table(table) => table,
            other => panic!("{other:?}"),
        }
    }

    pub fn describe_table(&mut self, name: &str) -> TableDescription {
        match self.call(&DescribeTableRequest { name }) {
            Answer::Table(table) => table,
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    pub fn put(&mut self, table: u64, item: &Item) -> Answer {
        self.call(&put(table, &item.to_bytes().unwrap()))
    }

    #[track_caller]
    pub fn get(&mut self, table: u64, k: &str) -> Option<Item> {
        self.call(&get(table, &key(k))).got()
    }

    #[track_caller]
    pub fn delete(&mut self, table: u64, k: &str) -> Answer {
        self.call(&delete(table, &key(k)))
    }

    /// Whether the node closes the connection, after answers that are handed to `on_answer`.
    pub fn is_closed_within(
        &mut self,
        patience: Duration,
        mut on_answer: impl FnMut(Answer),
    ) -> bool {
        let deadline = Instant::now() + patience;
        self.stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        while Instant::now() < deadline {
            match self.receive() {
                Ok((_, answer)) => on_answer(answer),
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(_) => return true,
            }
        }
        false
    }
}

/// The encoded key `k`.
pub fn key(k: &str) -> Vec<u8> {
    Item::new().with("k", k).to_bytes().unwrap()
}

pub fn put(table: u64, item: &[u8]) -> PutRequest<'_> {
    PutRequest {
        table,
        epoch: 0,
        item,
        condition: None,
        return_values: ReturnValues::None,
        return_old_on_failure: false,
    }
}

pub fn get(table: u64, key: &[u8]) -> GetRequest<'_> {
    GetRequest { table, epoch: 0, key, projection: None, consistent: true }
}

pub fn delete(table: u64, key: &[u8]) -> DeleteRequest<'_> {
    DeleteRequest {
        table,
        epoch: 0,
        key,
        condition: None,
        return_values: ReturnValues::None,
        return_old_on_failure: false,
    }
}

pub fn create_table<'a>(name: &'a str, sort_key: &'a str) -> CreateTableRequest<'a> {
    CreateTableRequest {
        name,
        partition_key: "k",
        partition_key_type: b'S',
        sort_key,
        sort_key_type: if sort_key.is_empty() { 0 } else { b'S' },
        partitions: 0,
    }
}

fn answer(frame: &Frame<'_>) -> io::Result<Answer> {
    let bad = || io::Error::new(ErrorKind::InvalidData, format!("reply kind {:#06x}", frame.kind));
    let item = |bytes: &[u8]| ItemRef::validate(bytes).map(Item::from).map_err(io::Error::other);
    Ok(match Kind::from_wire(frame.kind).ok_or_else(bad)? {
        Kind::WriteReply => {
            let reply = frame.message::<ArchivedWriteReply<'_>>().ok_or_else(bad)?;
            let attributes = reply.attributes.as_ref();
            Answer::Written(attributes.map(|bytes| item(bytes)).transpose()?)
        }
        Kind::GetReply => {
            let reply = frame.message::<ArchivedGetReply<'_>>().ok_or_else(bad)?;
            Answer::Got(reply.item.as_ref().map(|bytes| item(bytes)).transpose()?)
        }
        Kind::BatchWriteReply => {
            let reply = frame.message::<ArchivedBatchWriteReply>().ok_or_else(bad)?;
            Answer::Batch(reply.outcomes.iter().map(|code| code.to_native()).collect())
        }
        Kind::PageReply => {
            let reply = frame.message::<ArchivedPageReply<'_>>().ok_or_else(bad)?;
            let mut items = Vec::new();
            let mut rest: &[u8] = &reply.items;
            while let Some((length, after)) = rest.split_first_chunk::<4>() {
                let length = u32::from_le_bytes(*length) as usize;
                items.push(item(after.get(..length).ok_or_else(bad)?)?);
                rest = &after[length..];
            }
            Answer::Page { items, more: reply.resume.is_some() || reply.next_hash.is_some() }
        }
        Kind::TableReply => {
            let reply = frame.message::<ArchivedTableReply<'_>>().ok_or_else(bad)?;
            let description = ItemRef::validate(&reply.description).map_err(io::Error::other)?;
            Answer::Table(TableDescription::from_item(description).map_err(io::Error::other)?)
        }
        Kind::DescribeNodeReply => {
            let reply = frame.message::<ArchivedDescribeNodeReply>().ok_or_else(bad)?;
            Answer::Ports(reply.shards.iter().map(|shard| shard.port.to_native()).collect())
        }
        Kind::ErrorReply => {
            let reply = frame.message::<ArchivedErrorReply<'_>>().ok_or_else(bad)?;
            Answer::Refused {
                code: ErrorCode::from_wire(reply.code.to_native()).ok_or_else(bad)?,
                message: reply.message.to_string(),
                retry_after: Duration::from_micros(reply.retry_after_micros.to_native()),
            }
        }
        _ => return Err(bad()),
    })
}
