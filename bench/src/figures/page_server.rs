//! An HTTP server with nothing behind it: what a flood of the operator HTTP is compared with.
//!
//! It serves one page to everybody, keeps connections, and knows no store. So a flood of it costs
//! the client's core about what a flood of a node costs it, and whatever it does to a store on the
//! same machine is the machine's doing.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;

use crate::error::BenchError;

/// Longest head of a request.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Arguments of `forebay-bench serve-page`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct PageArgs {
    /// The page.
    #[arg(long, value_name = "FILE")]
    pub(crate) page: PathBuf,
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1:0")]
    pub(crate) listen: SocketAddr,
}

/// Serves until killed; prints `ready native=ADDR http=ADDR` when it serves.
pub(crate) fn serve_page(args: &PageArgs) -> Result<(), BenchError> {
    let file = |source| BenchError::File { path: args.page.clone(), source };
    let page = std::fs::read(&args.page).map_err(file)?;
    let io = |source| BenchError::Io { what: "listening", source };
    let listener = TcpListener::bind(args.listen).map_err(io)?;
    let address = listener.local_addr().map_err(io)?;
    println!("ready native={address} http={address}");
    let _ = std::io::stdout().flush();
    serve(&listener, &page)
}

fn serve(listener: &TcpListener, page: &[u8]) -> Result<(), BenchError> {
    let mut answer =
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", page.len()).into_bytes();
    answer.extend_from_slice(page);
    let answer: Arc<[u8]> = answer.into();
    for stream in listener.incoming() {
        let Ok(stream) = stream else { continue };
        let answer = Arc::clone(&answer);
        std::thread::Builder::new()
            .name("page".to_owned())
            // The client's leaving ends a connection; there is nobody to tell.
            .spawn(move || drop(converse(stream, &answer)))
            .map_err(|source| BenchError::Io { what: "starting a thread", source })?;
    }
    Ok(())
}

/// One answer for every request head, until the client leaves.
fn converse(mut stream: TcpStream, answer: &[u8]) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut got = Vec::new();
    let mut piece = [0; 4096];
    loop {
        while let Some(at) = got.windows(4).position(|window| window == b"\r\n\r\n") {
            got.drain(..at + 4);
            stream.write_all(answer)?;
        }
        let read = stream.read(&mut piece)?;
        if read == 0 || got.len() > HEAD_BYTES_MAX {
            return Ok(());
        }
        got.extend_from_slice(&piece[..read]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::http::HttpConnection;

    #[test]
    fn every_request_gets_the_page() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || serve(&listener, b"# a page\nx 1\n"));
        for _ in 0..2 {
            let mut connection = HttpConnection::open(address, "/metrics").unwrap();
            for _ in 0..3 {
                assert_eq!(connection.ask().unwrap(), b"# a page\nx 1\n");
            }
        }
    }
}
