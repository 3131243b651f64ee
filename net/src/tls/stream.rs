//! A client's side over blocking sockets: for commands that ask one question.

use std::io::{self, Read, Write};
use std::net::TcpStream;

use rustls::{ClientConnection, StreamOwned};

use super::ClientTls;
use super::files::any_node;
use super::refusal::explain;

/// A blocking TLS connection to a node. Deadlines are those of the socket.
#[derive(Debug)]
pub struct TlsStream {
    inner: StreamOwned<ClientConnection, TcpStream>,
}

impl ClientTls {
    /// TLS over a connected socket. The handshake happens here.
    ///
    /// # Errors
    /// In this program's words, if it is TLS that fails.
    pub fn wrap(&self, stream: TcpStream) -> io::Result<TlsStream> {
        let connection = ClientConnection::new(self.config(), any_node());
        let connection = connection.expect("the configuration is complete");
        let mut inner = StreamOwned::new(connection, stream);
        inner.conn.complete_io(&mut inner.sock).map_err(in_words)?;
        Ok(TlsStream { inner })
    }
}

/// rustls's errors come wrapped; what a reader wants to know is inside.
fn in_words(error: io::Error) -> io::Error {
    let known = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let words = match known {
        Some(rustls::Error::InvalidMessage(_)) => "the other side speaks no TLS".to_owned(),
        Some(known) => explain(known),
        None => return error,
    };
    io::Error::new(error.kind(), words)
}

impl Read for TlsStream {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.inner.read(bytes).map_err(in_words)
    }
}

impl Write for TlsStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.inner.write(bytes).map_err(in_words)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush().map_err(in_words)
    }
}
