//! One command to one node, over the native protocol.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use forebay_core::message::{AdminRequest, ArchivedAdminReply, ArchivedErrorReply, Kind};
use forebay_net::frame::{self, Inbox};
use forebay_net::machine::SendBuf;
use forebay_net::replication::{AdminAnswer, AdminCommand};
use forebay_net::tls::{ClientTls, TlsFiles};

use crate::exit::{Exit, Failure};

/// What this command shows to every node that it asks.
static CERTIFICATES: OnceLock<ClientTls> = OnceLock::new();

/// Speaks TLS from here on, with the operator's certificate in a directory.
pub(crate) fn show_certificates(directory: &Path) -> Result<(), Failure> {
    let tls = ClientTls::operator_in_directory(directory)?;
    CERTIFICATES.get_or_init(|| tls);
    Ok(())
}

/// Speaks TLS from here on, with a node's own certificate.
pub(crate) fn show_as_node(files: &TlsFiles) -> Result<(), Failure> {
    let tls = ClientTls::read(files)?;
    CERTIFICATES.get_or_init(|| tls);
    Ok(())
}

trait Stream: Read + Write {}

impl<T: Read + Write> Stream for T {}

/// For connecting, and for each piece of the answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The address behind a name.
pub(super) fn resolve(name: &str) -> Result<SocketAddr, Failure> {
    let found = name.to_socket_addrs().map(|mut found| found.next());
    match found {
        Ok(Some(address)) => Ok(address),
        Ok(None) => Err(Failure::new(Exit::Usage, format!("{name} has no address"))),
        Err(error) => Err(Failure::new(Exit::Usage, format!("{name}: {error}; write HOST:PORT"))),
    }
}

/// Asks the node at `address`.
pub(super) fn ask(address: SocketAddr, command: &AdminCommand) -> Result<AdminAnswer, Failure> {
    let unreachable = |error: std::io::Error| {
        Failure::new(Exit::Unreachable, format!("{address} does not answer: {error}"))
    };
    let stream = TcpStream::connect_timeout(&address, PATIENCE).map_err(unreachable)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(unreachable)?;
    stream.set_write_timeout(Some(PATIENCE)).map_err(unreachable)?;
    let mut stream: Box<dyn Stream> = match CERTIFICATES.get() {
        Some(tls) => Box::new(tls.wrap(stream).map_err(unreachable)?),
        None => Box::new(stream),
    };
    let command = serde_json::to_vec(command).expect("plain data serializes");
    let mut request = SendBuf::new();
    frame::append(&mut request, 1, &AdminRequest { command: &command });
    stream.write_all(&request).map_err(unreachable)?;
    let (mut inbox, mut bytes, mut answer) = (Inbox::default(), vec![0; 64 * 1024], None);
    while answer.is_none() {
        let read = stream.read(&mut bytes).map_err(unreachable)?;
        if read == 0 {
            let closed = format!("{address} closed the connection; is it a forebay node?");
            return Err(Failure::new(Exit::Unreachable, closed));
        }
        let received = inbox.receive(&bytes[..read], |frame| {
            answer.get_or_insert_with(|| match Kind::from_wire(frame.kind) {
                Some(Kind::AdminReply) => {
                    rkyv::access::<ArchivedAdminReply<'_>, rkyv::rancor::Failure>(frame.payload)
                        .map_err(|_| "an answer that cannot be read".to_owned())
                        .and_then(|reply| {
                            serde_json::from_slice(&reply.answer).map_err(|error| error.to_string())
                        })
                }
                Some(Kind::ErrorReply) => {
                    let reply = rkyv::access::<ArchivedErrorReply<'_>, rkyv::rancor::Failure>(
                        frame.payload,
                    );
                    Err(reply.map_or_else(
                        |_| "an error that cannot be read".to_owned(),
                        |reply| reply.message.get().to_owned(),
                    ))
                }
                _ => Err("an answer to another question".to_owned()),
            });
        });
        if let Err(error) = received {
            return Err(Failure::new(Exit::Unreachable, format!("{address}: {error}")));
        }
    }
    let answer = answer.expect("the loop ended");
    answer.map_err(|words| Failure::new(Exit::Other, format!("{address} refuses: {words}")))
}
