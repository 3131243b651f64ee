//! Certificates for tests, right ones and wrong ones.

use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use crate::tls::{ClientTls, NodeTls, TlsFiles};

const DAY: Duration = Duration::from_secs(86_400);

/// When a certificate is valid.
#[derive(Clone, Copy)]
pub(super) enum Time {
    Now,
    Past,
    Future,
}

/// Signs for whomever.
pub(super) struct Authority {
    dir: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// All of them bear the same name.
    pub(super) fn new() -> Authority {
        let dir = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "forebay authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        std::fs::write(dir.path().join("authority.pem"), certificate.pem()).unwrap();
        Authority { dir, issuer: Issuer::new(params, key) }
    }

    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Writes `file.pem` and `file.key`, for `name`.
    pub(super) fn issue(&self, file: &str, name: &str, time: Time) -> TlsFiles {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let now = SystemTime::now();
        let (from, to) = match time {
            Time::Now => (now - DAY, now + DAY),
            Time::Past => (now - 2 * DAY, now - DAY),
            Time::Future => (now + DAY, now + 2 * DAY),
        };
        (params.not_before, params.not_after) = (from.into(), to.into());
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        std::fs::write(self.path().join(format!("{file}.pem")), certificate.pem()).unwrap();
        std::fs::write(self.path().join(format!("{file}.key")), key.serialize_pem()).unwrap();
        TlsFiles::in_directory(self.path(), file)
    }

    pub(super) fn node(&self, name: &str) -> NodeTls {
        NodeTls::read(&self.issue(name, &format!("node.{name}"), Time::Now)).unwrap()
    }

    pub(super) fn client(&self) -> ClientTls {
        self.issue("client", "client.test", Time::Now);
        ClientTls::in_directory(self.path()).unwrap()
    }
}
