//! DynamoDB's own API, over HTTP/1.1 at any endpoint: the JSON 1.0 protocol, every request signed.
//!
//! ```text
//!   encode ─► body ─► [queue] ─► head with signature, body ─► out      one request at a time on
//!   decode ◄─ answer: status, JSON ◄──────────────────────── in        each connection
//! ```
//!
//! A record is an item of `id` (S), `n` (S, where records have a sort key) and `v` (B, so base64 on
//! the wire: a third more bytes, which is part of what this API costs). Gets are strongly consistent
//! unless told otherwise. A scan is a `Scan` that starts behind the record; where records have a sort
//! key it is a `Query`, since nobody who knows the partition key would scan.
//!
//! HTTP/1.1 answers one request at a time, and pipelining is not something that endpoints promise.
//! So with a depth of more than one the rest waits in the connection's queue, as it would in an
//! application, and its latency counts from when it was meant to start: use connections, not depth.
//!
//! Credentials come from AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN and AWS_REGION,
//! as every SDK reads them; without them a fixed pair signs, which local endpoints accept. Over TLS,
//! [`tls`](super::tls) stands between this codec and the socket.

mod http1;
mod sigv4;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use forebay_net::machine::SendBuf;
use serde::Deserialize;

use super::{
    CONDITION_FAILED, Carry, Codec, Outcome, ProtocolError, Request, Scheme, Setup, Target,
    TargetUrl, split_key,
};
use crate::error::BenchError;
use sigv4::{AmzDate, Credentials, Signed, Signer};

/// How long a new table may take to serve.
const TABLE_READY: Duration = Duration::from_secs(120);
/// Between two looks at it.
const TABLE_POLL: Duration = Duration::from_millis(500);
const CONTENT_TYPE: &[u8] = b"application/x-amz-json-1.0";
/// How many buffers of bodies are kept.
const SPARE_MAX: usize = 1024;

/// What is asked for: the last part of `X-Amz-Target`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    GetItem,
    PutItem,
    Query,
    Scan,
    DescribeTable,
    CreateTable,
}

impl Operation {
    fn target(self) -> &'static [u8] {
        match self {
            Operation::GetItem => b"DynamoDB_20120810.GetItem",
            Operation::PutItem => b"DynamoDB_20120810.PutItem",
            Operation::Query => b"DynamoDB_20120810.Query",
            Operation::Scan => b"DynamoDB_20120810.Scan",
            Operation::DescribeTable => b"DynamoDB_20120810.DescribeTable",
            Operation::CreateTable => b"DynamoDB_20120810.CreateTable",
        }
    }
}

/// What all connections share.
#[derive(Clone, Debug)]
struct Endpoint {
    host: String,
    credentials: Credentials,
    /// As a JSON string, quotes included.
    table: String,
    sort_digits: usize,
    consistent: bool,
}

/// An endpoint, and a table there.
#[derive(Debug)]
pub(crate) struct DynamoDb {
    addresses: [SocketAddr; 1],
    endpoint: Endpoint,
    facts: Vec<(String, String)>,
}

impl DynamoDb {
    /// Finds or creates the table at `url`.
    pub(crate) fn setup(url: &TargetUrl, setup: &Setup<'_>) -> Result<DynamoDb, BenchError> {
        DynamoDb::setup_over(url, setup, |stream| Ok(Box::new(stream)))
    }

    /// As [`DynamoDb::setup`], over what `open` makes of a connection.
    pub(super) fn setup_over(
        url: &TargetUrl,
        setup: &Setup<'_>,
        open: impl FnOnce(TcpStream) -> Result<Box<dyn Stream>, BenchError>,
    ) -> Result<DynamoDb, BenchError> {
        let address = url.resolve()?;
        let (credentials, whose) = credentials_from(|name| std::env::var(name).ok());
        // The port that a scheme means by itself is not said: what is signed is what is sent.
        let host = match url.scheme {
            Scheme::DynamoDbTls => url.authority.strip_suffix(":443").unwrap_or(&url.authority),
            _ => &url.authority,
        };
        let endpoint = Endpoint {
            host: host.to_owned(),
            credentials,
            table: serde_json::to_string(setup.table).expect("a string is JSON"),
            sort_digits: setup.sort_digits,
            consistent: setup.consistent,
        };
        let stream = TcpStream::connect_timeout(&address, setup.timeout)
            .map_err(|source| BenchError::unreachable(url, address, source))?;
        stream
            .set_read_timeout(Some(setup.timeout))
            .and_then(|()| stream.set_write_timeout(Some(setup.timeout)))
            .and_then(|()| stream.set_nodelay(true))
            .map_err(|source| BenchError::connection(address, source))?;
        let codec = DynamoDbCodec::new(endpoint.clone());
        let mut asker = Asker { stream: open(stream)?, address, codec, server: None };
        let mut facts = find_or_create(&mut asker, &endpoint, setup.table)?;
        let server = asker.server.unwrap_or_else(|| "does not say".to_owned());
        facts.push(("server".to_owned(), server));
        facts.push(("region".to_owned(), endpoint.credentials.region.clone()));
        facts.push(("credentials".to_owned(), whose.to_owned()));
        let reads = if setup.consistent { "strongly consistent" } else { "eventually consistent" };
        facts.push(("reads".to_owned(), reads.to_owned()));
        let durability = "the endpoint's own; this API has no setting for it and tells nothing";
        facts.push(("durability".to_owned(), durability.to_owned()));
        Ok(DynamoDb { addresses: [address], endpoint, facts })
    }
}

/// From the environment that `variable` reads; and, for the report, whose they are.
fn credentials_from(variable: impl Fn(&str) -> Option<String>) -> (Credentials, &'static str) {
    let region = variable("AWS_REGION").or_else(|| variable("AWS_DEFAULT_REGION"));
    let region = region.unwrap_or_else(|| "us-east-1".to_owned());
    match (variable("AWS_ACCESS_KEY_ID"), variable("AWS_SECRET_ACCESS_KEY")) {
        (Some(access_key), Some(secret_key)) => {
            let session_token = variable("AWS_SESSION_TOKEN");
            let credentials = Credentials { access_key, secret_key, session_token, region };
            (credentials, "from the environment")
        }
        _ => {
            let (access_key, secret_key) = ("local".to_owned(), "local".to_owned());
            let credentials = Credentials { access_key, secret_key, session_token: None, region };
            (credentials, "a fixed pair: none in the environment")
        }
    }
}

impl Target for DynamoDb {
    type Codec = DynamoDbCodec;

    fn codec(&self) -> DynamoDbCodec {
        DynamoDbCodec::new(self.endpoint.clone())
    }

    fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    fn facts(&self) -> &[(String, String)] {
        &self.facts
    }
}

/// A request that waits for its connection.
#[derive(Debug)]
struct Queued {
    correlation: u64,
    operation: Operation,
    body: Vec<u8>,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct DynamoDbCodec {
    endpoint: Endpoint,
    signer: Signer,
    /// The moment that the last request was signed at, in seconds since 1970.
    signed_at: (u64, AmzDate),
    under_way: Option<(u64, Operation)>,
    queue: VecDeque<Queued>,
    spare: Vec<Vec<u8>>,
    carry: Carry,
    /// A chunked answer's body.
    joined: Vec<u8>,
    /// A value, decoded.
    value: Vec<u8>,
    /// An error's words.
    words: String,
}

impl DynamoDbCodec {
    fn new(endpoint: Endpoint) -> DynamoDbCodec {
        let signer = Signer::new(endpoint.credentials.clone(), "dynamodb");
        DynamoDbCodec {
            endpoint,
            signer,
            signed_at: (0, AmzDate::of(0)),
            under_way: None,
            queue: VecDeque::new(),
            spare: Vec::new(),
            carry: Carry::default(),
            joined: Vec::new(),
            value: Vec::new(),
            words: String::new(),
        }
    }

    /// Writes the body of `request`, and says what it asks for.
    fn write_body(&self, request: Request<'_>, body: &mut Vec<u8>) -> Operation {
        let Endpoint { table, sort_digits, consistent, .. } = &self.endpoint;
        let (partition, sort) = split_key(request.key(), *sort_digits);
        let mut push = |parts: &[&[u8]]| parts.iter().for_each(|part| body.extend_from_slice(part));
        push(&[b"{\"TableName\":", table.as_bytes()]);
        // Keys are letters and digits: nothing to escape.
        let key_fields = |push: &mut dyn FnMut(&[&[u8]])| {
            push(&[b"\"id\":{\"S\":\"", partition, b"\"}"]);
            if !sort.is_empty() {
                push(&[b",\"n\":{\"S\":\"", sort, b"\"}"]);
            }
        };
        let reads: &[u8] = if *consistent { b",\"ConsistentRead\":true}" } else { b"}" };
        match request {
            Request::Get { .. } => {
                push(&[b",\"Key\":{"]);
                key_fields(&mut push);
                push(&[b"}", reads]);
                Operation::GetItem
            }
            Request::Put { value, .. } | Request::PutExisting { value, .. } => {
                push(&[b",\"Item\":{"]);
                key_fields(&mut push);
                push(&[b",\"v\":{\"B\":\""]);
                let from = body.len();
                body.resize(from + value.len().div_ceil(3) * 4, 0);
                BASE64.encode_slice(value, &mut body[from..]).expect("the length is base64's");
                body.extend_from_slice(b"\"}}");
                if let Request::PutExisting { .. } = request {
                    body.extend_from_slice(b",\"ConditionExpression\":\"attribute_exists(id)\"");
                }
                body.push(b'}');
                Operation::PutItem
            }
            Request::Scan { items, .. } if sort.is_empty() => {
                push(&[b",\"ExclusiveStartKey\":{"]);
                key_fields(&mut push);
                push(&[b"},\"Limit\":", items.to_string().as_bytes(), reads]);
                Operation::Scan
            }
            Request::Query { items, .. } | Request::Scan { items, .. } => {
                let from: &[u8] = if sort.is_empty() { b"" } else { b" AND n >= :n" };
                push(&[
                    b",\"KeyConditionExpression\":\"id = :id",
                    from,
                    b"\",\"ExpressionAttributeValues\":{\":id\":{\"S\":\"",
                    partition,
                    b"\"}",
                ]);
                if !sort.is_empty() {
                    push(&[b",\":n\":{\"S\":\"", sort, b"\"}"]);
                }
                push(&[b"},\"Limit\":", items.to_string().as_bytes(), reads]);
                Operation::Query
            }
        }
    }

    /// Appends a signed request.
    fn send(&mut self, operation: Operation, body: &[u8], out: &mut SendBuf) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let seconds = now.map_or(0, |since| since.as_secs());
        if self.signed_at.0 != seconds {
            self.signed_at = (seconds, AmzDate::of(seconds));
        }
        let date = self.signed_at.1;
        let token = self.signer.credentials().session_token.clone();
        let host = self.endpoint.host.as_bytes();
        let all: [(&str, &[u8]); 5] = [
            ("content-type", CONTENT_TYPE),
            ("host", host),
            ("x-amz-date", date.bytes()),
            ("x-amz-target", operation.target()),
            ("", b""),
        ];
        let mut headers = all;
        let count = match &token {
            None => 4,
            Some(token) => {
                // In the order of their names.
                headers[4] = headers[3];
                headers[3] = ("x-amz-security-token", token.as_bytes());
                5
            }
        };
        let headers = &headers[..count];
        let mut push = |part: &[u8]| out.extend_from_slice(part);
        push(b"POST / HTTP/1.1\r\ncontent-length: ");
        push(body.len().to_string().as_bytes());
        for (name, value) in headers {
            push(b"\r\n");
            push(name.as_bytes());
            push(b": ");
            push(value);
        }
        push(b"\r\nauthorization: ");
        let signed = Signed { method: "POST", path: "/", query: "", headers, body };
        self.signer.authorize(&signed, &date, &mut push);
        push(b"\r\n\r\n");
        push(body);
    }
}

impl Codec for DynamoDbCodec {
    fn encode(&mut self, request: Request<'_>, correlation: u64, out: &mut SendBuf) {
        let mut body = self.spare.pop().unwrap_or_default();
        body.clear();
        let operation = self.write_body(request, &mut body);
        if self.under_way.is_some() {
            self.queue.push_back(Queued { correlation, operation, body });
            return;
        }
        self.under_way = Some((correlation, operation));
        self.send(operation, &body, out);
        if self.spare.len() < SPARE_MAX {
            self.spare.push(body);
        }
    }

    fn decode(
        &mut self,
        bytes: &[u8],
        reply: &mut impl FnMut(u64, Outcome<'_>),
    ) -> Result<(), ProtocolError> {
        let DynamoDbCodec { under_way, carry, joined, value, words, .. } = self;
        carry.feed(bytes, |bytes| {
            let Some((answer, used)) = http1::split(bytes, joined)? else { return Ok(None) };
            let (correlation, operation) = under_way.take().ok_or(ProtocolError::Unasked)?;
            reply(correlation, outcome_of(operation, &answer, value, words)?);
            Ok(Some(used))
        })
    }

    fn speak(&mut self, out: &mut SendBuf) {
        if self.under_way.is_some() {
            return;
        }
        if let Some(Queued { correlation, operation, body }) = self.queue.pop_front() {
            self.under_way = Some((correlation, operation));
            self.send(operation, &body, out);
            self.spare.push(body);
        }
    }
}

/// What is read of GetItem's answer.
#[derive(Deserialize)]
struct GetAnswer<'a> {
    #[serde(rename = "Item", borrow)]
    item: Option<Item<'a>>,
}

#[derive(Deserialize)]
struct Item<'a> {
    #[serde(borrow)]
    v: Option<Binary<'a>>,
}

#[derive(Deserialize)]
struct Binary<'a> {
    #[serde(rename = "B", borrow)]
    base64: Cow<'a, str>,
}

/// What is read of an error.
#[derive(Deserialize)]
struct ErrorAnswer<'a> {
    #[serde(rename = "__type", borrow, default)]
    kind: Cow<'a, str>,
    #[serde(borrow, default, alias = "Message")]
    message: Cow<'a, str>,
}

impl ErrorAnswer<'_> {
    /// The name alone: `com.amazonaws.dynamodb.v20120810#ThrottlingException`.
    fn name(&self) -> &str {
        self.kind.rsplit('#').next().unwrap_or_default()
    }
}

fn outcome_of<'a>(
    operation: Operation,
    answer: &http1::Answer<'_>,
    value: &'a mut Vec<u8>,
    words: &'a mut String,
) -> Result<Outcome<'a>, ProtocolError> {
    if answer.status != 200 {
        words.clear();
        match serde_json::from_slice::<ErrorAnswer<'_>>(answer.body) {
            Ok(error) if error.name() == "ConditionalCheckFailedException" => {
                return Ok(Outcome::Refused(CONDITION_FAILED));
            }
            Ok(error) => words.extend([error.name(), ": ", &error.message]),
            Err(_) => words.extend(["HTTP status ", &answer.status.to_string()]),
        }
        return Ok(Outcome::Refused(words));
    }
    if operation != Operation::GetItem {
        return Ok(Outcome::Done);
    }
    let damaged = ProtocolError::Damaged { what: "the JSON of GetItem" };
    let found: GetAnswer<'_> = serde_json::from_slice(answer.body).map_err(|_| damaged)?;
    let Some(item) = found.item else { return Ok(Outcome::Missing) };
    value.clear();
    if let Some(Binary { base64 }) = item.v {
        BASE64.decode_vec(base64.as_bytes(), value).map_err(|_| damaged)?;
    }
    Ok(Outcome::Value(value))
}

/// A blocking connection, plain or over TLS.
pub(super) trait Stream: Read + Write {}

impl<S: Read + Write> Stream for S {}

/// One question at a time over a blocking connection, for setup.
struct Asker {
    stream: Box<dyn Stream>,
    address: SocketAddr,
    codec: DynamoDbCodec,
    /// What the endpoint calls itself.
    server: Option<String>,
}

impl Asker {
    /// The answer's status and body.
    fn ask(&mut self, operation: Operation, body: &str) -> Result<(u16, Vec<u8>), BenchError> {
        let failed = |source| BenchError::connection(self.address, source);
        let mut out = SendBuf::new();
        self.codec.send(operation, body.as_bytes(), &mut out);
        self.stream.write_all(&out).and_then(|()| self.stream.flush()).map_err(failed)?;
        let (mut got, mut joined, mut piece) = (Vec::new(), Vec::new(), [0; 4096]);
        loop {
            if !got.is_empty()
                && let Some((answer, _)) = http1::split(&got, &mut joined)?
            {
                self.server = answer.server.map(str::to_owned);
                return Ok((answer.status, answer.body.to_vec()));
            }
            match self.stream.read(&mut piece).map_err(failed)? {
                0 => return Err(failed(std::io::ErrorKind::UnexpectedEof.into())),
                read => got.extend_from_slice(&piece[..read]),
            }
        }
    }
}

/// What is read of DescribeTable's answer.
#[derive(Deserialize)]
struct Described {
    #[serde(rename = "Table")]
    table: DescribedTable,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DescribedTable {
    table_status: String,
    #[serde(default)]
    key_schema: Vec<KeyElement>,
    billing_mode_summary: Option<BillingMode>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct KeyElement {
    attribute_name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct BillingMode {
    billing_mode: String,
}

/// Waits until the table is there, creating it if need be; the facts about it.
fn find_or_create(
    asker: &mut Asker,
    endpoint: &Endpoint,
    name: &str,
) -> Result<Vec<(String, String)>, BenchError> {
    let refused = |what, status: u16, body: &[u8]| {
        let words = match serde_json::from_slice::<ErrorAnswer<'_>>(body) {
            Ok(error) => format!("{}: {}", error.name(), error.message),
            Err(_) => format!("HTTP status {status}"),
        };
        BenchError::Refused { what, words }
    };
    let is_error = |body: &[u8], expected: &str| {
        serde_json::from_slice::<ErrorAnswer<'_>>(body).is_ok_and(|error| error.name() == expected)
    };
    let keys: &[&str] = if endpoint.sort_digits == 0 { &["id"] } else { &["id", "n"] };
    let began = Instant::now();
    let mut created = false;
    while began.elapsed() < TABLE_READY {
        let describe = format!("{{\"TableName\":{}}}", endpoint.table);
        match asker.ask(Operation::DescribeTable, &describe)? {
            (200, body) => {
                let Described { table } = serde_json::from_slice(&body)
                    .map_err(|_| ProtocolError::Damaged { what: "the JSON of DescribeTable" })?;
                let found: Vec<&str> =
                    table.key_schema.iter().map(|key| key.attribute_name.as_str()).collect();
                if found != keys {
                    return Err(BenchError::Usage(format!(
                        "table {name} has the key {found:?}, not {keys:?}: choose another --table"
                    )));
                }
                if table.table_status == "ACTIVE" {
                    let billing = table.billing_mode_summary.map(|mode| mode.billing_mode);
                    let billing = billing.unwrap_or_else(|| "PROVISIONED".to_owned());
                    return Ok(vec![("billing".to_owned(), billing)]);
                }
            }
            (400, body) if !created && is_error(&body, "ResourceNotFoundException") => {
                created = true;
                match asker.ask(Operation::CreateTable, &create_body(endpoint, keys))? {
                    (200, _) => {}
                    // Another client was faster: its table is as good.
                    (_, body) if is_error(&body, "ResourceInUseException") => {}
                    (status, body) => return Err(refused("to create the table", status, &body)),
                }
                continue;
            }
            // Created, and not yet known everywhere.
            (400, body) if created && is_error(&body, "ResourceNotFoundException") => {}
            (status, body) => return Err(refused("to describe the table", status, &body)),
        }
        std::thread::sleep(TABLE_POLL);
    }
    let words = format!("{name} is not active after {} s", TABLE_READY.as_secs());
    Err(BenchError::Refused { what: "to serve the table", words })
}

fn create_body(endpoint: &Endpoint, keys: &[&str]) -> String {
    let attributes: Vec<String> = keys
        .iter()
        .map(|key| format!("{{\"AttributeName\":\"{key}\",\"AttributeType\":\"S\"}}"))
        .collect();
    let schema: Vec<String> = keys
        .iter()
        .zip(["HASH", "RANGE"])
        .map(|(key, kind)| format!("{{\"AttributeName\":\"{key}\",\"KeyType\":\"{kind}\"}}"))
        .collect();
    format!(
        "{{\"TableName\":{},\"AttributeDefinitions\":[{}],\"KeySchema\":[{}],\
         \"BillingMode\":\"PAY_PER_REQUEST\"}}",
        endpoint.table,
        attributes.join(","),
        schema.join(",")
    )
}
