//! What lies around a connection's bytes: nothing, or TLS.
//!
//! ```text
//!   requests ── seal ──► socket          a connection's two loops share one cover; neither holds it
//!   frames ◄── unseal ── socket          while it waits
//! ```

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::net::TcpStream;

use crate::machine::SendBuf;
use crate::tls::{ClientTls, Records, shake};

#[derive(Debug)]
struct Sealed {
    records: Records,
    scratch: Vec<u8>,
    /// Plain bytes that came with the handshake's end.
    early: Vec<u8>,
}

/// See the module's docs.
#[derive(Debug, Default)]
pub(super) struct Cover {
    sealed: Option<Mutex<Sealed>>,
}

fn in_words(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("TLS: {error}"))
}

impl Cover {
    /// Carries out the handshake, if there is to be one.
    pub(super) async fn put_on(
        stream: &mut TcpStream,
        tls: Option<&ClientTls>,
    ) -> io::Result<Cover> {
        let Some(tls) = tls else { return Ok(Cover::default()) };
        let (mut records, mut early) = (tls.records(), Vec::new());
        shake(stream, &mut records, &mut early).await.map_err(in_words)?;
        let sealed = Sealed { records, scratch: Vec::new(), early };
        Ok(Cover { sealed: Some(Mutex::new(sealed)) })
    }

    /// Hands what `bytes` hold to `deliver`.
    ///
    /// # Errors
    /// The connection is of no further use.
    pub(super) fn unseal(&self, bytes: &[u8], mut deliver: impl FnMut(&[u8])) -> io::Result<()> {
        let Some(sealed) = &self.sealed else {
            deliver(bytes);
            return Ok(());
        };
        let mut sealed = lock(sealed);
        let Sealed { records, scratch, early } = &mut *sealed;
        if !early.is_empty() {
            deliver(&std::mem::take(early));
        }
        records.receive(bytes, scratch, deliver).map_err(in_words)
    }

    /// What is to be written for `plain`: itself, or `out`.
    ///
    /// # Errors
    /// The connection is of no further use.
    pub(super) fn seal<'a>(
        &self,
        plain: &'a SendBuf,
        out: &'a mut SendBuf,
    ) -> io::Result<&'a SendBuf> {
        let Some(sealed) = &self.sealed else { return Ok(plain) };
        out.clear();
        lock(sealed).records.seal(plain, out).map_err(in_words)?;
        Ok(out)
    }
}

fn lock(sealed: &Mutex<Sealed>) -> MutexGuard<'_, Sealed> {
    sealed.lock().unwrap_or_else(PoisonError::into_inner)
}
