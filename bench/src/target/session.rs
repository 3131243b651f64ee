//! A target over blocking sockets, for what happens before and after a measured run.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use forebay_net::machine::SendBuf;

use super::{Codec, Outcome, Request, Target};
use crate::error::BenchError;

/// Connections to every address of a target; of replicas, to those that can be reached.
#[derive(Debug)]
pub(crate) struct Session<T: Target> {
    links: Vec<Option<Link<T::Codec>>>,
}

#[derive(Debug)]
struct Link<C> {
    codec: C,
    stream: TcpStream,
    out: SendBuf,
    outstanding: usize,
}

impl<T: Target> Session<T> {
    /// Connects to every address of `target`.
    pub(crate) fn connect(target: &T, timeout: Duration) -> Result<Session<T>, BenchError> {
        let mut links = Vec::new();
        for &address in target.addresses() {
            match super::dial(address, timeout) {
                Ok(stream) => {
                    let (codec, out) = (target.codec(), SendBuf::new());
                    links.push(Some(Link { codec, stream, out, outstanding: 0 }));
                }
                Err(_) if target.replicas() > 1 => links.push(None),
                Err(source) => return Err(BenchError::connection(address, source)),
            }
        }
        Ok(Session { links })
    }

    /// Encodes `request`; nothing leaves before [`Session::exchange`].
    pub(crate) fn ask(
        &mut self,
        target: &T,
        request: Request<'_>,
        correlation: u64,
    ) -> Result<(), BenchError> {
        let at = super::open_route(target, request.key(), |at| self.links[at].is_some());
        let Some(link) = at.and_then(|at| self.links[at].as_mut()) else {
            let address = target.addresses()[0];
            let source = std::io::Error::from(std::io::ErrorKind::NotConnected);
            return Err(BenchError::connection(address, source));
        };
        link.codec.encode(request, correlation, &mut link.out);
        link.outstanding += 1;
        Ok(())
    }

    /// Sends all that was asked and waits for every reply.
    pub(crate) fn exchange(
        &mut self,
        mut reply: impl FnMut(u64, Outcome<'_>),
    ) -> Result<(), BenchError> {
        for link in self.links.iter_mut().flatten() {
            link.stream.write_all(&link.out).map_err(|source| link.failed(source))?;
            link.out.clear();
        }
        let mut piece = vec![0; 64 * 1024];
        for link in self.links.iter_mut().flatten() {
            while link.outstanding > 0 {
                let read = match link.stream.read(&mut piece) {
                    Ok(0) => return Err(link.failed(std::io::ErrorKind::UnexpectedEof.into())),
                    Ok(read) => read,
                    Err(source) => return Err(link.failed(source)),
                };
                let outstanding = &mut link.outstanding;
                link.codec.decode(&piece[..read], &mut |correlation, outcome| {
                    *outstanding -= 1;
                    reply(correlation, outcome);
                })?;
                link.codec.speak(&mut link.out);
                if !link.out.is_empty() {
                    link.stream.write_all(&link.out).map_err(|source| link.failed(source))?;
                    link.out.clear();
                }
            }
        }
        Ok(())
    }
}

impl<C> Link<C> {
    fn failed(&self, source: std::io::Error) -> BenchError {
        match self.stream.peer_addr() {
            Ok(address) => BenchError::connection(address, source),
            Err(_) => BenchError::Io { what: "talking to the target", source },
        }
    }
}
