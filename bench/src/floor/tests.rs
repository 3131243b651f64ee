//! Both floors with a real client.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc;

use forebay_net::ring::testing::{require_direct, require_io_uring};

use super::*;

fn args(mode: Mode, file: Option<PathBuf>, durable: Durable) -> FloorArgs {
    FloorArgs {
        mode,
        listen: "127.0.0.1:0".parse().expect("an address"),
        file,
        file_bytes: 4 << 20,
        batches_in_flight: 2,
        durable,
        core: None,
        busy_poll_micros: 0,
        report_every: None,
    }
}

/// Sends frames of all small sizes without waiting; expects the replies in order.
fn drive_clients(args: FloorArgs) {
    let (ready, started) = mpsc::channel();
    let server = std::thread::spawn(move || {
        serve(&args, |addr, stop, _, floor| ready.send((addr, stop, floor)).expect("waited for"))
    });
    let (addr, stop, counters) = started.recv().expect("serves");
    let clients: Vec<_> = (0..8u64)
        .map(|client| {
            std::thread::spawn(move || {
                let mut stream = TcpStream::connect(addr).expect("connects");
                for id in 0..200u64 {
                    let length = 32 + 16 * (id as u32 % 40);
                    let mut frame = vec![id as u8; length as usize];
                    frame[..4].copy_from_slice(&length.to_le_bytes());
                    frame[16..24].copy_from_slice(&(client << 32 | id).to_le_bytes());
                    stream.write_all(&frame).expect("writes");
                }
                for id in 0..200u64 {
                    let mut reply = [0; frames::REPLY_BYTES];
                    stream.read_exact(&mut reply).expect("reads");
                    assert_eq!(reply[..4], 48u32.to_le_bytes());
                    assert_eq!(reply[16..24], (client << 32 | id).to_le_bytes());
                }
            })
        })
        .collect();
    for client in clients {
        client.join().expect("no client panics");
    }
    let mut bad = TcpStream::connect(addr).expect("connects");
    bad.write_all(&[0xff; 64]).expect("writes");
    assert_eq!(bad.read(&mut [0; 16]).expect("closed in order"), 0);
    assert_eq!(counters.requests.load(Relaxed), 8 * 200);
    stop.stop();
    server.join().expect("no panic").expect("no error");
}

#[test]
fn the_echo_replies_to_every_frame_in_order() {
    if require_io_uring() {
        drive_clients(args(Mode::Echo, None, Durable::Dsync));
    }
}

#[test]
fn the_log_replies_to_every_frame_in_order_in_both_durable_modes() {
    let dir = tempfile::tempdir().expect("a directory");
    if !require_io_uring() || !require_direct(dir.path()) {
        return;
    }
    for durable in [Durable::Dsync, Durable::Fdatasync] {
        drive_clients(args(Mode::Log, Some(dir.path().join("log")), durable));
    }
}

#[test]
fn a_log_file_too_short_for_its_batches_is_named() {
    let dir = tempfile::tempdir().expect("a directory");
    if !require_io_uring() || !require_direct(dir.path()) {
        return;
    }
    let short = FloorArgs {
        file_bytes: 8192,
        ..args(Mode::Log, Some(dir.path().join("log")), Durable::Dsync)
    };
    let error = serve(&short, |_, _, _, _| ()).expect_err("too short");
    assert!(matches!(error, FloorError::FileLength { bytes: 8192, .. }), "{error}");
}
