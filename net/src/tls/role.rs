//! What the names in certificates mean, and whom each side believes.
//!
//! ```text
//!   subjectAltName, dNSName   node.NAME       a node: serves clients and peers, and dials peers
//!                             client.NAME     a client: dials nodes
//!                             operator.NAME   an operator: the same, and commands them
//! ```
//!
//! | whose certificate | peers' port | requests | operators' commands (`forebay admin`) |
//! |---|---|---|---|
//! | `node.NAME` | its own node's messages | yes | yes: nodes take lost ones in again |
//! | `operator.NAME` | `wrong_role` | yes | yes |
//! | `client.NAME` | `wrong_role` | yes | `AccessDenied` |
//! | anything else | refused | refused | refused |
//!
//! A certificate is believed if the cluster's authority has signed it, at this time, for that side of a
//! TLS connection, and it bears a name of the wanted role. NAME is of letters, digits, `-` and `.`.
//! The first part is a role and no host, so that no certificate that was made for something else
//! passes for one of these.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible,
    RootCertStore, SignatureScheme,
};

/// What a certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It serves, and dials other nodes.
    Node,
    /// It dials nodes.
    Client,
    /// It dials nodes, and gives them operators' commands.
    Operator,
}

impl Role {
    /// Who may come to the port for clients; of several names in a certificate the first here counts.
    pub(crate) const DIALERS: &'static [Role] = &[Role::Operator, Role::Node, Role::Client];
    /// Who may come to the port for peers.
    pub(crate) const PEERS: &'static [Role] = &[Role::Node];

    /// Whether it may give operators' commands.
    #[must_use]
    pub fn operates(self) -> bool {
        self != Role::Client
    }

    /// What its names begin with.
    #[must_use]
    pub fn prefix(self) -> &'static str {
        match self {
            Role::Node => "node.",
            Role::Client => "client.",
            Role::Operator => "operator.",
        }
    }

    /// The name of this role in a certificate, without its prefix.
    pub(crate) fn name_in(self, certificate: &CertificateDer<'_>) -> Option<String> {
        let parsed = webpki::EndEntityCert::try_from(certificate).ok()?;
        let mut names =
            parsed.valid_dns_names().filter_map(|name| name.strip_prefix(self.prefix()));
        names.next().filter(|name| !name.is_empty()).map(str::to_owned)
    }

    /// The first of these roles that the certificate is for, and its name in that.
    pub(crate) fn first_of(
        roles: &[Role],
        certificate: &CertificateDer<'_>,
    ) -> Option<(Role, String)> {
        roles.iter().find_map(|role| Some((*role, role.name_in(certificate)?)))
    }

    fn check(roles: &[Role], certificate: &CertificateDer<'_>) -> Result<(), Error> {
        match Role::first_of(roles, certificate) {
            Some(_) => Ok(()),
            None => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
    }
}

/// Believes nodes, whatever their address.
#[derive(Debug)]
pub(super) struct NodeVerifier {
    roots: Arc<RootCertStore>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl NodeVerifier {
    pub(super) fn new(roots: Arc<RootCertStore>, provider: &CryptoProvider) -> NodeVerifier {
        NodeVerifier { roots, algorithms: provider.signature_verification_algorithms }
    }
}

impl ServerCertVerifier for NodeVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.algorithms.all;
        verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &self.roots,
            intermediates,
            now,
            algorithms,
        )?;
        Role::check(&[Role::Node], end_entity).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls13RequiredForQuic.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Believes those who dial in one of some roles.
#[derive(Debug)]
pub(super) struct DialerVerifier {
    roles: &'static [Role],
    inner: Arc<dyn ClientCertVerifier>,
}

impl DialerVerifier {
    /// None if there is no authority to believe in.
    pub(super) fn new(
        roles: &'static [Role],
        roots: Arc<RootCertStore>,
        provider: Arc<CryptoProvider>,
    ) -> Option<DialerVerifier> {
        let inner = WebPkiClientVerifier::builder_with_provider(roots, provider);
        Some(DialerVerifier { roles, inner: inner.build().ok()? })
    }
}

impl ClientCertVerifier for DialerVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.inner.verify_client_cert(end_entity, intermediates, now)?;
        Role::check(self.roles, end_entity).map(|()| verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
