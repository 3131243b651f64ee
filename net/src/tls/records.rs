//! One connection's records: sealed bytes in, plain bytes out, and the reverse.
//!
//! ```text
//!   received ─► scratch: [ what was torn | what arrived ] ─► rustls ─► plain ─► deliver
//!                              ▲                               │
//!                              └── torn record, kept ◄─────────┤
//!   plain ──► seal ──► [ control | records ] ──► out           └─► control: handshake, key updates, alerts
//! ```
//!
//! A state machine over rustls's unbuffered connection: no socket, no thread, no clock of its own.
//! The same object goes through the handshake in the control lane and carries records on a shard.
//! Records are cut anywhere by the network: what is torn is kept until the rest arrives, and no more
//! than [`TORN_BYTES_MAX`] of it. Many connections of a shard share one scratch buffer, so an idle
//! connection holds no memory for bytes.
//!
//! *Invariants*: what rustls has to say goes before anything that is sealed later; after an error or
//! a close nothing is delivered any more.

use std::sync::Arc;

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::pki_types::CertificateDer;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus,
};
use rustls::{ClientConfig, Error, InvalidMessage, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::files::any_node;
use super::refusal::{Refusal, explain};
use super::role::Role;
use crate::machine::SendBuf;

/// Bytes of torn records, and of a handshake message in several of them, that are kept. The largest
/// record has 16 KiB and a little; handshake messages here have a few certificates.
const TORN_BYTES_MAX: usize = 64 * 1024;
/// A buffer for torn records that grew beyond this is given back when it is empty.
const TORN_KEEP_BYTES: usize = 1024;
/// A record's header, inner type and tag.
const RECORD_OVERHEAD_BYTES: usize = 5 + 1 + 16;
const RECORD_PLAIN_BYTES_MAX: usize = 16 * 1024;
/// The first byte of every record: change_cipher_spec to application_data. No frame of the native
/// protocol begins so, because its first byte is that of a multiple of 16.
const RECORD_TYPES: std::ops::RangeInclusive<u8> = 20..=23;

/// The connection is of no further use. What [`Records::take_control`] has tells the other side why.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum RecordError {
    /// What arrived first is no TLS.
    #[error("{}", Refusal::NotTls.words())]
    NotTls,
    /// rustls ends it.
    #[error("{}", explain(.0))]
    Tls(Error),
}

impl RecordError {
    pub(crate) fn refusal(&self) -> Refusal {
        match self {
            RecordError::NotTls => Refusal::NotTls,
            RecordError::Tls(error) => Refusal::of(error),
        }
    }
}

enum Side {
    Dialing(Box<UnbufferedClientConnection>),
    Serving(Box<UnbufferedServerConnection>),
}

/// What both of rustls's unbuffered connections do.
trait Process {
    type Data;
    fn process<'c, 'i>(&'c mut self, bytes: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
    /// Whether the next step is to encode something, whatever was received.
    fn has_words(&self) -> bool;
}

impl Process for UnbufferedClientConnection {
    type Data = ClientConnectionData;
    fn process<'c, 'i>(&'c mut self, bytes: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(bytes)
    }

    fn has_words(&self) -> bool {
        self.wants_write()
    }
}

impl Process for UnbufferedServerConnection {
    type Data = ServerConnectionData;
    fn process<'c, 'i>(&'c mut self, bytes: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(bytes)
    }

    fn has_words(&self) -> bool {
        self.wants_write()
    }
}

/// What one step came to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    /// There is more to do with what is there.
    Again,
    /// The other side closes.
    Closes,
    /// Nothing without more bytes; the handshake is not over.
    Shakes,
    /// Nothing without more bytes.
    Rests,
}

/// See the module's docs.
pub(crate) struct Records {
    side: Side,
    torn: Vec<u8>,
    control: Vec<u8>,
    has_heard: bool,
    is_ready: bool,
    is_over: bool,
    has_failed: bool,
}

impl std::fmt::Debug for Records {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let side = match self.side {
            Side::Dialing(_) => "dialing",
            Side::Serving(_) => "serving",
        };
        f.debug_struct("Records").field("side", &side).field("is_ready", &self.is_ready).finish()
    }
}

impl Records {
    /// The side that dialed; it speaks first.
    pub(crate) fn dialing(config: Arc<ClientConfig>) -> Records {
        let connection = UnbufferedClientConnection::new(config, any_node());
        Records::new(Side::Dialing(Box::new(connection.expect("the configuration is complete"))))
    }

    /// The side that was dialed.
    pub(crate) fn serving(config: Arc<ServerConfig>) -> Records {
        let connection = UnbufferedServerConnection::new(config);
        Records::new(Side::Serving(Box::new(connection.expect("the configuration is complete"))))
    }

    fn new(side: Side) -> Records {
        Records {
            side,
            torn: Vec::new(),
            control: Vec::new(),
            has_heard: false,
            is_ready: false,
            is_over: false,
            has_failed: false,
        }
    }

    /// Whether the handshake is over on this side.
    pub(crate) fn is_ready(&self) -> bool {
        self.is_ready
    }

    /// Whether the other side has closed, or the connection has failed.
    pub(crate) fn is_over(&self) -> bool {
        self.is_over
    }

    /// The first of these roles that the other side's certificate is for, and its name in that.
    pub(crate) fn peer_name(&self, roles: &[Role]) -> Option<(Role, String)> {
        let chain: Option<&[CertificateDer<'_>]> = match &self.side {
            Side::Dialing(connection) => connection.peer_certificates(),
            Side::Serving(connection) => connection.peer_certificates(),
        };
        Role::first_of(roles, chain?.first()?)
    }

    /// Whether there is something to send that is nobody's plain bytes.
    pub(crate) fn has_control(&self) -> bool {
        !self.control.is_empty()
    }

    /// Moves that to the end of `out`.
    pub(crate) fn take_control(&mut self, out: &mut SendBuf) {
        out.extend_from_slice(&self.control);
        self.control = Vec::new();
    }

    /// Takes what arrived, and hands what it holds to `deliver`. With no bytes it begins the dialing
    /// side's handshake.
    ///
    /// # Errors
    /// The connection is of no further use; what went before was delivered.
    pub(crate) fn receive(
        &mut self,
        bytes: &[u8],
        scratch: &mut Vec<u8>,
        mut deliver: impl FnMut(&[u8]),
    ) -> Result<(), RecordError> {
        if self.is_over {
            return Ok(());
        }
        if let (false, Some(first)) = (self.has_heard, bytes.first()) {
            if !RECORD_TYPES.contains(first) {
                self.is_over = true;
                return Err(RecordError::NotTls);
            }
            self.has_heard = true;
        }
        scratch.clear();
        scratch.extend_from_slice(&self.torn);
        scratch.extend_from_slice(bytes);
        let (mut used, control) = (0, &mut self.control);
        let result = match &mut self.side {
            Side::Dialing(side) => run(&mut **side, scratch, &mut used, control, &mut deliver),
            Side::Serving(side) => run(&mut **side, scratch, &mut used, control, &mut deliver),
        };
        self.torn.clear();
        self.torn.extend_from_slice(&scratch[used..]);
        match result {
            Ok(next) => {
                self.is_ready |= next != Next::Shakes;
                self.is_over |= next == Next::Closes;
                if self.torn.is_empty() && self.torn.capacity() > TORN_KEEP_BYTES {
                    self.torn = Vec::new();
                }
                if self.torn.len() > TORN_BYTES_MAX {
                    let error = Error::InvalidMessage(InvalidMessage::MessageTooLarge);
                    return Err(self.fail(error));
                }
                Ok(())
            }
            Err(error) => Err(self.fail(error)),
        }
    }

    /// Appends `plain` to `out` as records, behind what is to be said before.
    ///
    /// # Errors
    /// The connection is of no further use.
    pub(crate) fn seal(&mut self, plain: &[u8], out: &mut SendBuf) -> Result<(), RecordError> {
        if self.has_failed {
            return Err(RecordError::Tls(Error::HandshakeNotComplete));
        }
        let Records { side, torn, control, .. } = self;
        let sealed = match side {
            Side::Dialing(side) => seal(&mut **side, plain, torn, control, out),
            Side::Serving(side) => seal(&mut **side, plain, torn, control, out),
        };
        sealed.map_err(|error| self.fail(error))
    }

    /// Appends the word that nothing more will be sent.
    pub(crate) fn close(&mut self, out: &mut SendBuf) {
        let Records { side, torn, control, has_failed, .. } = self;
        match side {
            _ if *has_failed => {}
            Side::Dialing(side) => close(&mut **side, torn, control),
            Side::Serving(side) => close(&mut **side, torn, control),
        }
        self.take_control(out);
    }

    /// The keys for sending change with the next bytes that are sealed.
    #[cfg(test)]
    pub(super) fn change_keys(&mut self) {
        fn change<P: Process>(connection: &mut P, torn: &mut [u8]) {
            match connection.process(torn).state.unwrap() {
                ConnectionState::WriteTraffic(traffic) => traffic.refresh_traffic_keys().unwrap(),
                other => panic!("{other:?}"),
            }
        }
        match &mut self.side {
            Side::Dialing(side) => change(&mut **side, &mut self.torn),
            Side::Serving(side) => change(&mut **side, &mut self.torn),
        }
    }

    /// Notes the end, and what rustls has to say about it.
    fn fail(&mut self, error: Error) -> RecordError {
        (self.is_over, self.has_failed) = (true, true);
        let mut rest = std::mem::take(&mut self.torn);
        match &mut self.side {
            Side::Dialing(side) => last_words(&mut **side, &mut rest, &mut self.control),
            Side::Serving(side) => last_words(&mut **side, &mut rest, &mut self.control),
        }
        RecordError::Tls(error)
    }
}

/// Steps until more bytes are needed. `used` counts those at the front that are done with, also when
/// it ends in an error.
fn run<P: Process>(
    connection: &mut P,
    bytes: &mut [u8],
    used: &mut usize,
    control: &mut Vec<u8>,
    deliver: &mut impl FnMut(&[u8]),
) -> Result<Next, Error> {
    let mut closes = false;
    loop {
        match step(connection, bytes, used, control, deliver)? {
            Next::Again => {}
            Next::Closes => closes = true,
            _ if closes => return Ok(Next::Closes),
            next => return Ok(next),
        }
    }
}

fn step<P: Process>(
    connection: &mut P,
    bytes: &mut [u8],
    used: &mut usize,
    control: &mut Vec<u8>,
    deliver: &mut impl FnMut(&[u8]),
) -> Result<Next, Error> {
    let UnbufferedStatus { discard, state, .. } = connection.process(&mut bytes[*used..]);
    *used += discard;
    let next = match state? {
        ConnectionState::ReadTraffic(mut traffic) => {
            while let Some(record) = traffic.next_record() {
                let record = record?;
                *used += record.discard;
                deliver(record.payload);
            }
            Next::Again
        }
        ConnectionState::EncodeTlsData(data) => {
            encode(data, control);
            Next::Again
        }
        // Nothing overtakes what is in `control`: as good as transmitted.
        ConnectionState::TransmitTlsData(data) => {
            data.done();
            Next::Again
        }
        ConnectionState::PeerClosed => Next::Closes,
        ConnectionState::BlockedHandshake => Next::Shakes,
        ConnectionState::WriteTraffic(_) | ConnectionState::Closed => Next::Rests,
        // Early data is not offered, and other states are of another rustls.
        _ => return Err(Error::General("a state of TLS that was never agreed on".to_owned())),
    };
    Ok(next)
}

fn encode<Data>(mut data: EncodeTlsData<'_, Data>, control: &mut Vec<u8>) {
    let begin = control.len();
    loop {
        match data.encode(&mut control[begin..]) {
            Ok(written) => return control.truncate(begin + written),
            Err(EncodeError::InsufficientSize(error)) => {
                control.resize(begin + error.required_size, 0);
            }
            Err(EncodeError::AlreadyEncoded) => unreachable!("it is encoded once"),
        }
    }
}

fn seal<P: Process>(
    connection: &mut P,
    plain: &[u8],
    torn: &mut [u8],
    control: &mut Vec<u8>,
    out: &mut SendBuf,
) -> Result<(), Error> {
    loop {
        // rustls looks at its place in the received bytes even if it is only to send.
        match connection.process(torn).state? {
            ConnectionState::WriteTraffic(mut traffic) => {
                out.extend_from_slice(control);
                control.clear();
                let records = plain.len().div_ceil(RECORD_PLAIN_BYTES_MAX);
                let mut room = plain.len() + records * RECORD_OVERHEAD_BYTES;
                let begin = out.len();
                loop {
                    out.resize(begin + room, 0);
                    match traffic.encrypt(plain, &mut out[begin..]) {
                        Ok(written) => {
                            out.resize(begin + written, 0);
                            return Ok(());
                        }
                        // A change of keys goes before.
                        Err(EncryptError::InsufficientSize(error)) => room = error.required_size,
                        Err(EncryptError::EncryptExhausted) => {
                            out.resize(begin, 0);
                            return Err(Error::EncryptError);
                        }
                    }
                }
            }
            ConnectionState::EncodeTlsData(data) => encode(data, control),
            ConnectionState::TransmitTlsData(data) => data.done(),
            ConnectionState::PeerClosed => {}
            _ => return Err(Error::HandshakeNotComplete),
        }
    }
}

fn close<P: Process>(connection: &mut P, torn: &mut [u8], control: &mut Vec<u8>) {
    loop {
        match connection.process(torn).state {
            Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                let begin = control.len();
                let mut room = RECORD_OVERHEAD_BYTES + 2;
                loop {
                    control.resize(begin + room, 0);
                    match traffic.queue_close_notify(&mut control[begin..]) {
                        Ok(written) => return control.truncate(begin + written),
                        Err(EncryptError::InsufficientSize(error)) => room = error.required_size,
                        Err(EncryptError::EncryptExhausted) => return control.truncate(begin),
                    }
                }
            }
            Ok(ConnectionState::EncodeTlsData(data)) => encode(data, control),
            Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
            Ok(ConnectionState::PeerClosed) => {}
            // It has failed, or was closed before.
            _ => return,
        }
    }
}

/// Takes the alert that rustls has about its error. A connection that has failed must not be asked for
/// anything else.
fn last_words<P: Process>(connection: &mut P, rest: &mut [u8], control: &mut Vec<u8>) {
    while connection.has_words() {
        match connection.process(rest).state {
            Ok(ConnectionState::EncodeTlsData(data)) => encode(data, control),
            _ => return,
        }
    }
}

/// Why a handshake over a socket failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ShakeError {
    /// The socket failed, or the other side left.
    #[error("{words}: {0}", words = Refusal::BrokenOff.words())]
    Io(#[from] std::io::Error),
    /// The other side left without a word.
    #[error("{}", Refusal::BrokenOff.words())]
    Left {
        /// It had said nothing at all: a look whether the port is open.
        silently: bool,
    },
    /// What it said.
    #[error(transparent)]
    Records(#[from] RecordError),
}

/// Carries out the handshake. `early` gets the plain bytes that came with its end.
///
/// # Errors
/// The connection is of no use; what this side had to say about it was sent.
pub(crate) async fn shake(
    stream: &mut TcpStream,
    records: &mut Records,
    early: &mut Vec<u8>,
) -> Result<(), ShakeError> {
    let (mut scratch, mut piece, mut out) = (Vec::new(), vec![0; 8 * 1024], SendBuf::new());
    let mut bytes = 0;
    loop {
        let received =
            records.receive(&piece[..bytes], &mut scratch, |plain| early.extend_from_slice(plain));
        out.clear();
        records.take_control(&mut out);
        if !out.is_empty() {
            stream.write_all(&out).await?;
        }
        received?;
        if records.is_ready() {
            return Ok(());
        }
        bytes = match stream.read(&mut piece).await? {
            0 => return Err(ShakeError::Left { silently: !records.has_heard }),
            bytes => bytes,
        };
    }
}
