//! A relay between a coordinator and a worker. It notes the intervals that it has let pass, and may
//! cut the connection in the middle of one.
//!
//! It takes the control protocol's frames (a length of four bytes, big-endian, then JSON) apart by
//! itself, and counts a histogram's content with HdrHistogram's own decoder: what the tool made of the
//! same bytes is compared with this.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;
use serde_json::Value;

/// One that serves as long as the process lives.
pub(crate) struct Relay {
    /// Where the coordinator finds it.
    pub(crate) address: String,
    told: Arc<Mutex<Vec<u64>>>,
}

impl Relay {
    /// In front of `worker`; with `cut_after`, the message after so many intervals passes in half, and
    /// then the connection ends.
    pub(crate) fn start(worker: String, cut_after: Option<usize>) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let told = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&told);
        std::thread::spawn(move || {
            let (coordinator, _) = listener.accept().unwrap();
            let worker = TcpStream::connect(worker).unwrap();
            for stream in [&coordinator, &worker] {
                stream.set_nodelay(true).unwrap();
            }
            let (mut from, mut to) =
                (coordinator.try_clone().unwrap(), worker.try_clone().unwrap());
            // Goes on when the worker is gone: bytes left unread would reset the connection, and what
            // the coordinator had not read yet would be lost with it.
            std::thread::spawn(move || {
                let mut bytes = [0; 4096];
                while let Ok(read @ 1..) = from.read(&mut bytes) {
                    let _ = to.write_all(&bytes[..read]);
                }
                let _ = to.shutdown(Shutdown::Both);
            });
            let _ = answers(&worker, &coordinator, &noted, cut_after);
            let _ = coordinator.shutdown(Shutdown::Write);
            let _ = worker.shutdown(Shutdown::Both);
        });
        Relay { address, told }
    }

    /// Operations in each interval that has passed, the first one first.
    pub(crate) fn told(&self) -> Vec<u64> {
        self.told.lock().unwrap().clone()
    }
}

fn answers(
    mut worker: &TcpStream,
    mut coordinator: &TcpStream,
    told: &Mutex<Vec<u64>>,
    cut_after: Option<usize>,
) -> std::io::Result<()> {
    loop {
        let mut frame = vec![0; 4];
        worker.read_exact(&mut frame)?;
        let bytes = u32::from_be_bytes([frame[0], frame[1], frame[2], frame[3]]) as usize;
        frame.resize(4 + bytes, 0);
        worker.read_exact(&mut frame[4..])?;
        let message: Value = serde_json::from_slice(&frame[4..])?;
        let interval = &message["Interval"];
        if interval.is_null() {
            coordinator.write_all(&frame)?;
            continue;
        }
        let mut told = told.lock().unwrap();
        if cut_after == Some(told.len()) {
            return coordinator.write_all(&frame[..frame.len() / 2]);
        }
        assert_eq!(interval["index"].as_u64(), Some(told.len() as u64), "in their order");
        told.push(operations(interval));
        coordinator.write_all(&frame)?;
    }
}

fn operations(interval: &Value) -> u64 {
    let parts = interval["parts"].as_array().unwrap();
    let histograms = parts.iter().flat_map(|part| part["latencies"].as_array().unwrap());
    let count = |text: &str| {
        let bytes = base64::engine::general_purpose::STANDARD.decode(text).unwrap();
        let read: Histogram<u64> = Deserializer::new().deserialize(&mut bytes.as_slice()).unwrap();
        read.len()
    };
    histograms.filter_map(Value::as_str).map(count).sum()
}
