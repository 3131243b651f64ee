//! Every way in which a connection is refused or broken has a name, a counter, and a line in the log
//! now and then.
//!
//! ```text
//!   lobby, shards ── count ──► counts ◄── load ── metrics
//!                          └─► last words of each ──► log: once a name and interval
//! ```
//!
//! Any thread may count. A shard that counts waits for nobody: if the words cannot be left at once,
//! they are not left, and the count is what remains.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use rustls::{AlertDescription, CertificateError, Error};

use crate::refusals;

macro_rules! refusals {
    ($($(#[$doc:meta])* $name:ident = $text:literal $words:literal,)*) => {
        /// Why a TLS connection was refused or ended.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Refusal { $($(#[$doc])* $name,)* }

        impl Refusal {
            /// Every reason, in the order of the counters.
            pub const ALL: &'static [Refusal] = &[$(Refusal::$name,)*];

            /// A short name for metrics.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Refusal::$name => $text,)* }
            }

            /// For people.
            #[must_use]
            pub fn words(self) -> &'static str {
                match self { $(Refusal::$name => $words,)* }
            }
        }
    };
}

refusals! {
    /// Plain text arrived where TLS was expected. Give the other side certificates, or another port.
    NotTls = "not_tls" "plain text where TLS is spoken",
    /// The other side has no certificate. Give it one.
    NoCertificate = "no_certificate" "no certificate was shown",
    /// Another authority signed the certificate. Use one cluster's certificates throughout.
    UnknownAuthority = "unknown_authority" "the certificate is signed by another authority",
    /// The certificate's time is over. Make a new one; a running node reads it on SIGHUP.
    Expired = "expired" "the certificate has expired",
    /// The certificate's time has not begun. Look at both clocks.
    NotYetValid = "not_yet_valid" "the certificate is not valid yet",
    /// A client's certificate where a node's is wanted, or the reverse.
    WrongRole = "wrong_role" "the certificate is for another role",
    /// A peer's greeting names another node than its certificate, or one that no node of the cluster has.
    /// Give each node its own certificate.
    WrongNode = "wrong_node" "the certificate is another node's",
    /// Anything else that is wrong with a certificate. Make a new one.
    BadCertificate = "bad_certificate" "the certificate cannot be used",
    /// The other side refused this one's certificate, or gave up; the alert says why.
    RefusedByPeer = "refused_by_peer" "the other side refuses",
    /// No version or cipher in common: this program speaks TLS 1.3 only.
    Incompatible = "incompatible" "no version or cipher of TLS in common",
    /// Bytes that are no record, or do not decrypt. A fault on the way, or in the other program.
    BadRecord = "bad_record" "a record that does not decrypt, or is none",
    /// The handshake took too long.
    HandshakeTimeout = "handshake_timeout" "the handshake was not finished in time",
    /// Too many handshakes were under way; the newest was turned away. It may try again.
    TooManyHandshakes = "too_many_handshakes" "too many handshakes at once",
    /// The connection ended during the handshake.
    BrokenOff = "broken_off" "the connection ended during the handshake",
    /// The shard took no more connections. The other side may try again.
    ShardFull = "shard_full" "the shard takes no more connections",
}

impl Refusal {
    /// The name of what rustls says.
    pub(crate) fn of(error: &Error) -> Refusal {
        match error {
            Error::NoCertificatesPresented => Refusal::NoCertificate,
            Error::InvalidCertificate(error) => match error {
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                    Refusal::Expired
                }
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                    Refusal::NotYetValid
                }
                // A foreign authority of the same name is known by its signature only.
                CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                    Refusal::UnknownAuthority
                }
                CertificateError::ApplicationVerificationFailure
                | CertificateError::InvalidPurpose
                | CertificateError::InvalidPurposeContext { .. } => Refusal::WrongRole,
                _ => Refusal::BadCertificate,
            },
            Error::AlertReceived(_) => Refusal::RefusedByPeer,
            Error::PeerIncompatible(_) => Refusal::Incompatible,
            _ => Refusal::BadRecord,
        }
    }
}

/// What rustls says, in this program's words.
pub(crate) fn explain(error: &Error) -> String {
    let refusal = Refusal::of(error).words();
    match error {
        Error::AlertReceived(alert) => {
            let why = match alert {
                AlertDescription::UnknownCA | AlertDescription::DecryptError => {
                    "this side's certificate is signed by another authority"
                }
                AlertDescription::CertificateExpired => {
                    "this side's certificate has expired, or is not valid yet"
                }
                AlertDescription::AccessDenied | AlertDescription::UnsupportedCertificate => {
                    "this side's certificate is for another role"
                }
                AlertDescription::CertificateRequired => "this side has shown no certificate",
                AlertDescription::ProtocolVersion | AlertDescription::HandshakeFailure => {
                    "no version or cipher of TLS in common"
                }
                _ => return format!("{refusal}: {alert:?}"),
            };
            format!("{refusal}: {why}")
        }
        Error::InvalidCertificate(detail) => format!("{refusal}: {detail}"),
        _ => format!("{refusal}: {error}"),
    }
}

const COUNT: usize = Refusal::ALL.len();

/// All refusals of a node. See the module's docs.
#[derive(Debug, Default)]
pub struct Refusals {
    counts: [AtomicU64; COUNT],
    handshakes: AtomicU64,
    last: Mutex<[Option<String>; COUNT]>,
}

impl Refusals {
    /// One more; `detail` says who and what.
    pub(crate) fn count(&self, refusal: Refusal, detail: impl FnOnce() -> String) {
        self.counts[refusal as usize].fetch_add(1, Relaxed);
        if let Ok(mut last) = self.last.try_lock() {
            last[refusal as usize] = Some(detail());
        }
    }

    pub(crate) fn shaken(&self) {
        self.handshakes.fetch_add(1, Relaxed);
    }

    /// Handshakes that ended well.
    #[must_use]
    pub fn handshakes(&self) -> u64 {
        self.handshakes.load(Relaxed)
    }

    /// How often it was refused for this reason.
    #[must_use]
    pub fn get(&self, refusal: Refusal) -> u64 {
        self.counts[refusal as usize].load(Relaxed)
    }
}

/// What the log has said so far.
#[derive(Debug, Default)]
pub(crate) struct Log {
    said: refusals::Log<Refusal>,
}

impl Log {
    /// The lines that are due.
    pub(crate) fn due(&mut self, refusals: &Refusals, now: Instant) -> Vec<String> {
        let mut lines = Vec::new();
        for &refusal in Refusal::ALL {
            let words = || {
                let last = refusals.last.lock();
                let mut last = last.unwrap_or_else(|poisoned| poisoned.into_inner());
                last[refusal as usize].take()
            };
            let count = refusals.get(refusal);
            let line = self.said.due(refusal, refusal.name(), count, now, words);
            lines.extend(line.map(|line| format!("TLS: {line}")));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::refusals::LOG_INTERVAL;

    #[test]
    fn each_name_is_logged_once_an_interval_with_its_count() {
        let (refusals, mut log, start) = (Refusals::default(), Log::default(), Instant::now());
        assert!(log.due(&refusals, start).is_empty());
        refusals.count(Refusal::Expired, || "from a".to_owned());
        assert_eq!(log.due(&refusals, start), ["TLS: expired: from a"]);
        for from in ["b", "c"] {
            refusals.count(Refusal::Expired, || format!("from {from}"));
        }
        refusals.count(Refusal::NotTls, || "from d".to_owned());
        let soon = start + LOG_INTERVAL / 2;
        assert_eq!(log.due(&refusals, soon), ["TLS: not_tls: from d"]);
        let later = start + LOG_INTERVAL;
        assert_eq!(log.due(&refusals, later), ["TLS: expired, 2 times; the last: from c"]);
        assert_eq!(refusals.get(Refusal::Expired), 3);
    }

    #[test]
    fn names_are_distinct_and_in_the_order_of_the_counters() {
        for (index, refusal) in Refusal::ALL.iter().enumerate() {
            assert_eq!(*refusal as usize, index);
            assert!(Refusal::ALL[..index].iter().all(|other| other.name() != refusal.name()));
        }
    }
}
