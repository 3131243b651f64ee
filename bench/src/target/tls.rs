//! Any codec over TLS: rustls between the protocol's bytes and the socket's.
//!
//! ```text
//!   encode ─► inner ─► plain ─► ╭─────────╮ ─► records ─► out
//!                               │ rustls  │                       no thread, no socket: bytes in,
//!   reply  ◄─ inner ◄─ plain ◄─ ╰─────────╯ ◄─ records ◄── in     bytes out, as every codec here
//! ```
//!
//! A connection carries operations only when its handshake is over ([`Codec::is_ready`]), so a
//! handshake is in no latency; encryption is, and in the client's CPU: that is what this way of
//! asking costs. Sessions are resumed where the server offers it, as in an application.
//!
//! Endpoints of DynamoDB's API are believed on the word of this system's certificate authorities, or of
//! those in the file of `--ca-file` alone, and are shown no certificate. Nodes of this project are
//! believed and shown what the directory in the URL holds.

use std::net::SocketAddr;
use std::sync::Arc;

use forebay_net::machine::SendBuf;
use forebay_net::tls::ClientTls;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::dynamodb::{DynamoDb, Stream};
use super::forebay::Forebay;
use super::{Codec, Outcome, ProtocolError, Request, Setup, Target, TargetUrl};
use crate::error::{BenchError, in_words};
use crate::workload::OpKind;

/// DynamoDB's API over TLS, found at `url`.
pub(crate) fn dynamodb(
    url: &TargetUrl,
    setup: &Setup<'_>,
) -> Result<OverTls<DynamoDb>, BenchError> {
    let tls = Tls::new(url, setup.ca_pem)?;
    let mut spoken = String::new();
    let inner = DynamoDb::setup_over(url, setup, |mut stream| {
        let mut connection = tls.connection();
        while connection.is_handshaking() {
            connection.complete_io(&mut stream).map_err(|source| BenchError::Tls {
                authority: url.authority.clone(),
                source: in_words(source),
            })?;
        }
        spoken = words_of(&connection);
        Ok(Box::new(StreamOwned::new(connection, stream)) as Box<dyn Stream>)
    })?;
    let fact = ("tls".to_owned(), format!("{spoken}; trust: {}", tls.trust));
    let facts = inner.facts().iter().cloned().chain([fact]).collect();
    Ok(OverTls { inner, tls, facts })
}

/// This project's native protocol over TLS, found at `url`.
pub(crate) fn forebay(url: &TargetUrl, setup: &Setup<'_>) -> Result<OverTls<Forebay>, BenchError> {
    let directory = url.certificates.as_deref().expect("the URL was checked");
    let client = ClientTls::in_directory(directory)
        .map_err(|error| BenchError::Usage(format!("{url}: {error}")))?;
    let inner = Forebay::setup_over(url, setup, &client)?;
    let fact = ("tls".to_owned(), "TLS 1.3, both sides with certificates".to_owned());
    let facts = inner.facts().iter().cloned().chain([fact]).collect();
    let name = ServerName::try_from("node").expect("a name");
    let trust = directory.display().to_string();
    Ok(OverTls { inner, tls: Tls { config: client.config(), name, trust }, facts })
}

/// Version and cipher suite.
fn words_of(connection: &ClientConnection) -> String {
    let version = connection.protocol_version().and_then(|version| version.as_str());
    let suite = connection.negotiated_cipher_suite();
    let suite = suite.and_then(|suite| suite.suite().as_str()).unwrap_or("unknown");
    format!("{} {suite}", version.unwrap_or("unknown"))
}

/// What all connections to one server share.
#[derive(Clone, Debug)]
struct Tls {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    /// Who vouches for the server, for the report.
    trust: String,
}

impl Tls {
    fn new(url: &TargetUrl, ca_pem: Option<&[u8]>) -> Result<Tls, BenchError> {
        let (roots, trust) = match ca_pem {
            Some(pem) => roots_of(pem)?,
            None => system_roots()?,
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider speaks TLS 1.2 and 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let host = url.host();
        let name = ServerName::try_from(host.to_owned()).map_err(|_| {
            BenchError::Usage(format!("`{host}` is no name that a certificate could be for"))
        })?;
        Ok(Tls { config: Arc::new(config), name, trust })
    }

    fn connection(&self) -> ClientConnection {
        let mut connection = ClientConnection::new(Arc::clone(&self.config), self.name.clone())
            .expect("the configuration is complete");
        // Requests are bounded by depth, not by bytes.
        connection.set_buffer_limit(None);
        connection
    }
}

fn roots_of(pem: &[u8]) -> Result<(RootCertStore, String), BenchError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate
            .map_err(|error| BenchError::Usage(format!("--ca-file: no PEM: {error:?}")))?;
        roots.add(certificate).map_err(|error| BenchError::Usage(format!("--ca-file: {error}")))?;
    }
    match roots.len() {
        0 => Err(BenchError::Usage("--ca-file: no certificate in it".to_owned())),
        count => Ok((roots, format!("{count} of --ca-file"))),
    }
}

fn system_roots() -> Result<(RootCertStore, String), BenchError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    match added {
        0 => Err(BenchError::Usage(
            "dynamodb+https: this system has no certificate authorities that could vouch for a \
             server; install them (ca-certificates), or name one with --ca-file"
                .to_owned(),
        )),
        added => Ok((roots, format!("{added} of this system"))),
    }
}

/// A target whose connections are TLS.
#[derive(Debug)]
pub(crate) struct OverTls<T> {
    inner: T,
    tls: Tls,
    facts: Vec<(String, String)>,
}

impl<T: Target> Target for OverTls<T> {
    type Codec = TlsCodec<T::Codec>;

    fn codec(&self) -> TlsCodec<T::Codec> {
        TlsCodec::new(self.inner.codec(), self.tls.connection())
    }

    fn addresses(&self) -> &[SocketAddr] {
        self.inner.addresses()
    }

    fn route(&self, key: &[u8]) -> usize {
        self.inner.route(key)
    }

    fn replicas(&self) -> usize {
        self.inner.replicas()
    }

    fn lead(&self, key: &[u8], from: usize, to: usize) {
        self.inner.lead(key, from, to);
    }

    fn facts(&self) -> &[(String, String)] {
        &self.facts
    }

    fn refuses(&self, kind: OpKind) -> Option<&'static str> {
        self.inner.refuses(kind)
    }

    fn refuses_keys(&self, key_bytes: usize) -> Option<&'static str> {
        self.inner.refuses_keys(key_bytes)
    }
}

/// One connection.
#[derive(Debug)]
pub(crate) struct TlsCodec<C> {
    inner: C,
    connection: ClientConnection,
    /// On its way into records.
    plain: SendBuf,
    /// Out of records.
    received: Vec<u8>,
}

impl<C> TlsCodec<C> {
    fn new(inner: C, connection: ClientConnection) -> TlsCodec<C> {
        TlsCodec { inner, connection, plain: SendBuf::new(), received: Vec::new() }
    }

    /// Appends to `out` what is due: handshake, alerts, and what `plain` holds, once it may.
    fn push(&mut self, out: &mut SendBuf) {
        use std::io::Write as _;
        if !self.plain.is_empty() {
            self.connection
                .writer()
                .write_all(&self.plain)
                .expect("a buffer without a limit takes all");
            self.plain.clear();
        }
        while self.connection.wants_write() {
            self.connection.write_tls(&mut Appending(out)).expect("memory takes all");
        }
    }
}

/// A buffer as something to write to.
struct Appending<'a>(&'a mut SendBuf);

impl std::io::Write for Appending<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// In words that need no memory.
fn refusal(error: &rustls::Error) -> ProtocolError {
    let what = match error {
        rustls::Error::InvalidCertificate(_) => "the server's certificate is not to be believed",
        rustls::Error::AlertReceived(_) => "the server ends it with an alert",
        rustls::Error::DecryptError => "a record that does not decrypt",
        rustls::Error::PeerIncompatible(_) => "the server offers no version or cipher in common",
        _ => "bytes that are no TLS",
    };
    ProtocolError::Tls { what }
}

impl<C: Codec> Codec for TlsCodec<C> {
    fn encode(&mut self, request: Request<'_>, correlation: u64, out: &mut SendBuf) {
        self.inner.encode(request, correlation, &mut self.plain);
        self.push(out);
    }

    fn decode(
        &mut self,
        bytes: &[u8],
        reply: &mut impl FnMut(u64, Outcome<'_>),
    ) -> Result<(), ProtocolError> {
        use std::io::Read as _;
        let mut rest = bytes;
        while !rest.is_empty() {
            let full = ProtocolError::Tls { what: "more than a record's bytes without a record" };
            match self.connection.read_tls(&mut rest) {
                Ok(read) if read > 0 => {}
                _ => return Err(full),
            }
            let state = self.connection.process_new_packets().map_err(|error| refusal(&error))?;
            let ready = state.plaintext_bytes_to_read();
            if ready == 0 {
                continue;
            }
            self.received.resize(ready, 0);
            self.connection
                .reader()
                .read_exact(&mut self.received)
                .map_err(|_| ProtocolError::Tls { what: "less than was announced" })?;
            self.inner.decode(&self.received, reply)?;
        }
        Ok(())
    }

    fn speak(&mut self, out: &mut SendBuf) {
        self.inner.speak(&mut self.plain);
        self.push(out);
    }

    fn probe(&mut self, out: &mut SendBuf) {
        self.inner.probe(&mut self.plain);
        self.push(out);
    }

    fn is_ready(&self) -> bool {
        !self.connection.is_handshaking() && self.inner.is_ready()
    }
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::PrivateKeyDer;
    use rustls::{ServerConfig, ServerConnection};

    use super::*;

    /// Answers nothing; notes what it is asked.
    #[derive(Debug, Default)]
    struct Echo {
        asked: u64,
    }

    impl Codec for Echo {
        fn encode(&mut self, request: Request<'_>, _correlation: u64, out: &mut SendBuf) {
            self.asked += 1;
            out.extend_from_slice(request.key());
        }

        fn decode(
            &mut self,
            bytes: &[u8],
            reply: &mut impl FnMut(u64, Outcome<'_>),
        ) -> Result<(), ProtocolError> {
            reply(bytes.len() as u64, Outcome::Value(bytes));
            Ok(())
        }
    }

    fn certified(name: &str) -> (String, ServerConfig) {
        let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        (made.cert.pem(), server)
    }

    fn url() -> TargetUrl {
        "dynamodb+https://localhost:443".parse().unwrap()
    }

    /// Carries bytes both ways, in pieces of `piece`, until nobody has anything to say.
    fn carry(
        codec: &mut TlsCodec<Echo>,
        out: &mut SendBuf,
        server: &mut ServerConnection,
        piece: usize,
        replies: &mut Vec<Vec<u8>>,
    ) -> Result<Vec<u8>, ProtocolError> {
        use std::io::Read as _;
        let mut heard = Vec::new();
        loop {
            for mut bytes in out.chunks(piece) {
                while !bytes.is_empty() {
                    server.read_tls(&mut bytes).unwrap();
                    // The client's complaint about a certificate, for instance.
                    let _ = server.process_new_packets();
                }
            }
            out.clear();
            let mut some = [0; 1000];
            while let Ok(read) = server.reader().read(&mut some) {
                if read == 0 {
                    break;
                }
                heard.extend_from_slice(&some[..read]);
            }
            let mut said = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut said).unwrap();
            }
            if said.is_empty() {
                return Ok(heard);
            }
            for bytes in said.chunks(piece) {
                codec.decode(bytes, &mut |_, outcome| {
                    let Outcome::Value(bytes) = outcome else { panic!("{outcome:?}") };
                    replies.push(bytes.to_vec());
                })?;
                codec.speak(out);
            }
        }
    }

    #[test]
    fn a_codec_over_tls_speaks_first_shakes_hands_and_then_carries_in_pieces_of_any_size() {
        use std::io::Write as _;
        let (pem, server) = certified("localhost");
        let tls = Tls::new(&url(), Some(pem.as_bytes())).unwrap();
        let server = Arc::new(server);
        for piece in [1, 7, 1000, 100_000] {
            let mut server = ServerConnection::new(Arc::clone(&server)).unwrap();
            let mut codec = TlsCodec::new(Echo::default(), tls.connection());
            let (mut out, mut replies) = (SendBuf::new(), Vec::new());
            codec.speak(&mut out);
            assert!(!out.is_empty(), "a client speaks first");
            assert!(!codec.is_ready());
            carry(&mut codec, &mut out, &mut server, piece, &mut replies).unwrap();
            assert!(codec.is_ready(), "in pieces of {piece}");
            codec.encode(Request::Get { key: b"user1" }, 1, &mut out);
            server.writer().write_all(&[9; 40_000]).unwrap();
            let heard = carry(&mut codec, &mut out, &mut server, piece, &mut replies).unwrap();
            assert_eq!(heard, b"user1");
            assert_eq!(replies.concat(), [9; 40_000], "in pieces of {piece}");
        }
    }

    #[test]
    fn a_certificate_of_another_name_or_of_nobody_known_is_refused() {
        let (_, other) = certified("localhost");
        let (named, wrong_name) = certified("example.org");
        let (pem, _) = certified("localhost");
        for (trusted, server) in [(pem, other), (named, wrong_name)] {
            let tls = Tls::new(&url(), Some(trusted.as_bytes())).unwrap();
            let mut server = ServerConnection::new(Arc::new(server)).unwrap();
            let mut codec = TlsCodec::new(Echo::default(), tls.connection());
            let mut out = SendBuf::new();
            codec.speak(&mut out);
            let error =
                carry(&mut codec, &mut out, &mut server, 1000, &mut Vec::new()).unwrap_err();
            assert!(error.to_string().contains("certificate"), "{error}");
            assert!(!codec.is_ready());
        }
    }

    #[test]
    fn bytes_that_are_no_tls_and_files_that_are_no_certificates_are_named() {
        let (pem, _) = certified("localhost");
        let tls = Tls::new(&url(), Some(pem.as_bytes())).unwrap();
        let mut codec = TlsCodec::new(Echo::default(), tls.connection());
        let error = codec.decode(b"HTTP/1.1 400 Bad Request\r\n\r\n", &mut |_, _| {}).unwrap_err();
        assert!(matches!(error, ProtocolError::Tls { .. }), "{error}");
        for bad in ["", "-----BEGIN CERTIFICATE-----\n????\n-----END CERTIFICATE-----\n"] {
            let error = Tls::new(&url(), Some(bad.as_bytes())).unwrap_err().to_string();
            assert!(error.contains("--ca-file"), "{error}");
        }
    }
}
