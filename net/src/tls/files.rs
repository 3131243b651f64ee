//! From PEM files to what rustls needs, for a node and for a client.
//!
//! What would be refused by everybody is refused here, at the start and by name: a certificate of
//! another authority or role, one that has expired, a key that does not fit.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::client::Resumption;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::cipher_suite::{
    TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::ClientCertVerifier;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use super::refusal::{Refusals, explain};
use super::role::{DialerVerifier, NodeVerifier, Role};
use super::{Records, TlsError};

/// Where the certificates are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// This side's certificate, and those between it and the authority, in PEM.
    pub certificate: PathBuf,
    /// Its private key, in PEM.
    pub key: PathBuf,
    /// The certificate of the authority that vouches for everybody, in PEM.
    pub authority: PathBuf,
}

impl TlsFiles {
    /// As `forebay certs` names them: `authority.pem`, `NAME.pem` and `NAME.key` in a directory.
    #[must_use]
    pub fn in_directory(directory: &Path, name: &str) -> TlsFiles {
        TlsFiles {
            certificate: directory.join(format!("{name}.pem")),
            key: directory.join(format!("{name}.key")),
            authority: directory.join("authority.pem"),
        }
    }
}

/// AES first, as fast as the processors that this program is for make it.
fn provider() -> Arc<CryptoProvider> {
    let mut provider = rustls::crypto::ring::default_provider();
    provider.cipher_suites =
        vec![TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256];
    Arc::new(provider)
}

/// What the files hold.
struct Credentials {
    provider: Arc<CryptoProvider>,
    roots: Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let file = |source| TlsError::File { path: path.to_owned(), source };
    let none = || TlsError::NotPem { path: path.to_owned(), what: "certificate" };
    let pem = std::fs::read(path).map_err(file)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    found.ok().filter(|found| !found.is_empty()).ok_or_else(none)
}

impl Credentials {
    fn read(files: &TlsFiles) -> Result<Credentials, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&files.authority)? {
            roots.add(certificate).map_err(|error| TlsError::Certificate {
                path: files.authority.clone(),
                problem: format!("no certificate of an authority: {error}"),
            })?;
        }
        let chain = certificates(&files.certificate)?;
        let pem = std::fs::read(&files.key)
            .map_err(|source| TlsError::File { path: files.key.clone(), source })?;
        let key = PrivateKeyDer::from_pem_slice(&pem)
            .map_err(|_| TlsError::NotPem { path: files.key.clone(), what: "private key" })?;
        Ok(Credentials { provider: provider(), roots: Arc::new(roots), chain, key })
    }

    /// The name in the certificate, which everybody else will check as it is checked here.
    fn name(&self, files: &TlsFiles, roles: &'static [Role]) -> Result<String, TlsError> {
        let problem = |problem: String| {
            Err(TlsError::Certificate { path: files.certificate.clone(), problem })
        };
        let [own, between @ ..] = &*self.chain else { unreachable!("an empty file was refused") };
        let Some((role, name)) = Role::first_of(roles, own) else {
            let prefixes: Vec<&str> = roles.iter().map(|role| role.prefix()).collect();
            let prefixes = prefixes.join(" or ");
            return problem(format!("it bears no name that begins with {prefixes}"));
        };
        let now = UnixTime::now();
        let dialer =
            DialerVerifier::new(roles, Arc::clone(&self.roots), Arc::clone(&self.provider));
        let dialer = dialer.expect("there is an authority");
        if let Err(error) = dialer.verify_client_cert(own, between, now) {
            return problem(explain(&error));
        }
        if role == Role::Node {
            let nobody = ServerName::try_from("node").expect("a name");
            let verifier = NodeVerifier::new(Arc::clone(&self.roots), &self.provider);
            if let Err(error) = verifier.verify_server_cert(own, between, &nobody, &[], now) {
                return problem(explain(&error));
            }
        }
        Ok(name)
    }

    /// For those who dial in one of `roles`.
    fn server(
        &self,
        files: &TlsFiles,
        roles: &'static [Role],
    ) -> Result<Arc<ServerConfig>, TlsError> {
        let roots = Arc::clone(&self.roots);
        let verifier = DialerVerifier::new(roles, roots, Arc::clone(&self.provider));
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&TLS13])
            .expect("the provider speaks TLS 1.3")
            .with_client_cert_verifier(Arc::new(verifier.expect("there is an authority")))
            .with_single_cert(self.chain.clone(), self.key.clone_key())
            .map_err(|source| key_error(files, source))?;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.ignore_client_order = true;
        Ok(Arc::new(config))
    }

    /// For dialing nodes.
    fn client(&self, files: &TlsFiles) -> Result<Arc<ClientConfig>, TlsError> {
        let verifier = NodeVerifier::new(Arc::clone(&self.roots), &self.provider);
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&TLS13])
            .expect("the provider speaks TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_auth_cert(self.chain.clone(), self.key.clone_key())
            .map_err(|source| key_error(files, source))?;
        config.resumption = Resumption::disabled();
        config.enable_sni = false;
        Ok(Arc::new(config))
    }
}

fn key_error(files: &TlsFiles, source: rustls::Error) -> TlsError {
    TlsError::Key { certificate: files.certificate.clone(), key: files.key.clone(), source }
}

/// A node's configurations, of one reading of its files.
#[derive(Debug)]
pub(super) struct Loaded {
    name: String,
    /// For clients that dial.
    pub(super) clients: Arc<ServerConfig>,
    /// For peers that dial.
    pub(super) peers: Arc<ServerConfig>,
    /// For dialing peers.
    pub(super) dialing: Arc<ClientConfig>,
}

impl Loaded {
    fn read(files: &TlsFiles) -> Result<Loaded, TlsError> {
        let credentials = Credentials::read(files)?;
        Ok(Loaded {
            name: credentials.name(files, Role::PEERS)?,
            clients: credentials.server(files, Role::DIALERS)?,
            peers: credentials.server(files, Role::PEERS)?,
            dialing: credentials.client(files)?,
        })
    }
}

/// A node's certificates, and what it counts about those of others.
#[derive(Debug)]
pub struct NodeTls {
    files: TlsFiles,
    name: String,
    loaded: RwLock<Arc<Loaded>>,
    refusals: Refusals,
}

impl NodeTls {
    /// Reads a node's files.
    ///
    /// # Errors
    /// A file is wrong; the error says which and how.
    pub fn read(files: &TlsFiles) -> Result<NodeTls, TlsError> {
        let loaded = Loaded::read(files)?;
        Ok(NodeTls {
            files: files.clone(),
            name: loaded.name.clone(),
            loaded: RwLock::new(Arc::new(loaded)),
            refusals: Refusals::default(),
        })
    }

    /// Reads the files again, for connections from here on.
    ///
    /// # Errors
    /// A file is wrong, or for another node; nothing has changed.
    pub fn reload(&self) -> Result<(), TlsError> {
        let loaded = Loaded::read(&self.files)?;
        if loaded.name != self.name {
            return Err(TlsError::OtherName { expected: self.name.clone(), found: loaded.name });
        }
        *self.loaded.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(loaded);
        Ok(())
    }

    /// The node's name in its certificate, without `node.`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What was refused so far.
    #[must_use]
    pub fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    pub(super) fn loaded(&self) -> Arc<Loaded> {
        Arc::clone(&self.loaded.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Whom rustls is told that it dials; nobody looks at it (see the module `role`).
pub(super) fn any_node() -> ServerName<'static> {
    ServerName::try_from("node").expect("a name")
}

/// A client's certificates.
#[derive(Clone, Debug)]
pub struct ClientTls {
    config: Arc<ClientConfig>,
    name: String,
}

impl ClientTls {
    /// Reads the files of a client, an operator, or a node.
    ///
    /// # Errors
    /// A file is wrong; the error says which and how.
    pub fn read(files: &TlsFiles) -> Result<ClientTls, TlsError> {
        let credentials = Credentials::read(files)?;
        let name = credentials.name(files, Role::DIALERS)?;
        Ok(ClientTls { config: credentials.client(files)?, name })
    }

    /// Reads `authority.pem`, `client.pem` and `client.key` in a directory, as `forebay certs` makes
    /// them.
    ///
    /// # Errors
    /// A file is wrong; the error says which and how.
    pub fn in_directory(directory: &Path) -> Result<ClientTls, TlsError> {
        ClientTls::read(&TlsFiles::in_directory(directory, "client"))
    }

    /// The same of an operator: `operator.pem` and `operator.key`.
    ///
    /// # Errors
    /// A file is wrong; the error says which and how.
    pub fn operator_in_directory(directory: &Path) -> Result<ClientTls, TlsError> {
        ClientTls::read(&TlsFiles::in_directory(directory, "operator"))
    }

    /// The name in the certificate, without its role.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// For those who drive rustls themselves. Nodes are believed by their role, whatever the name that
    /// is dialed.
    #[must_use]
    pub fn config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.config)
    }

    pub(crate) fn records(&self) -> Records {
        Records::dialing(Arc::clone(&self.config))
    }
}

/// What a client with these files would dial with, right or wrong.
#[cfg(test)]
pub(super) fn unchecked(files: &TlsFiles) -> Arc<ClientConfig> {
    Credentials::read(files).unwrap().client(files).unwrap()
}

/// The same, without showing a certificate.
#[cfg(test)]
pub(super) fn anonymous(files: &TlsFiles) -> Arc<ClientConfig> {
    let credentials = Credentials::read(files).unwrap();
    let verifier = NodeVerifier::new(Arc::clone(&credentials.roots), &credentials.provider);
    let config = ClientConfig::builder_with_provider(credentials.provider)
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    Arc::new(config.with_no_client_auth())
}

#[cfg(test)]
impl NodeTls {
    /// Serves with these files, right or wrong.
    pub(super) fn replace_unchecked(&self, files: &TlsFiles) {
        let credentials = Credentials::read(files).unwrap();
        let loaded = Loaded {
            name: self.name.clone(),
            clients: credentials.server(files, Role::DIALERS).unwrap(),
            peers: credentials.server(files, Role::PEERS).unwrap(),
            dialing: credentials.client(files).unwrap(),
        };
        *self.loaded.write().unwrap() = Arc::new(loaded);
    }
}
