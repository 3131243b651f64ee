//! Why certificates cannot be used, before anything is connected.

use std::io;
use std::path::PathBuf;

/// Something about the files of certificates is wrong. Mend the file that is named and start again.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file cannot be read. Look at its name and its permissions.
    #[error("{path}: {source}", path = .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file holds no such thing in PEM. Make it with `forebay certs`.
    #[error("{path} holds no {what} in PEM; `forebay certs` makes one", path = .path.display())]
    NotPem {
        /// Which.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
    },
    /// The certificate in the file is not to be used as it is.
    #[error("{path}: {problem}", path = .path.display())]
    Certificate {
        /// Which.
        path: PathBuf,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// Certificate and key do not belong together, or the key is of an unknown kind.
    #[error("the key in {key} does not fit the certificate in {certificate}: {source}",
            key = .key.display(), certificate = .certificate.display())]
    Key {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What rustls said.
        source: rustls::Error,
    },
    /// A running node keeps its name: the cluster knows it by it. Restart it to change it.
    #[error(
        "the new certificate is for node.{found}, and this node is node.{expected}: nothing was changed"
    )]
    OtherName {
        /// The node's.
        expected: String,
        /// In the new certificate.
        found: String,
    },
    /// The threads for handshakes could not be made: a limit on processes or memory.
    #[error("the threads for TLS handshakes cannot start: {0}")]
    Threads(io::Error),
}
