//! What may go on beside a measurement: threads that burn a core, and connections that flood an
//! HTTP server. They end when dropped.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use forebay_net::ring::pin_to_core;

use crate::error::BenchError;
use crate::fleet::http::HttpConnection;

/// Threads that work until they are dropped.
#[derive(Debug)]
pub(crate) struct Crew {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Crew {
    /// Threads on `core`, each of which calls its own `worker` over and over.
    fn start<W: FnMut() + Send + 'static>(
        threads: u32,
        core: Option<usize>,
        worker: impl Fn(u32) -> W,
    ) -> Result<Crew, BenchError> {
        let mut crew = Crew { stop: Arc::default(), threads: Vec::new() };
        for thread in 0..threads {
            let (mut work, stop) = (worker(thread), Arc::clone(&crew.stop));
            let body = move || {
                if let Some(core) = core
                    && let Err(error) = pin_to_core(core)
                {
                    eprintln!("forebay-bench: {error}");
                }
                while !stop.load(Relaxed) {
                    work();
                }
            };
            let thread = std::thread::Builder::new().name("beside".to_owned()).spawn(body);
            let failed = |source| BenchError::Io { what: "starting a thread", source };
            crew.threads.push(thread.map_err(failed)?);
        }
        Ok(crew)
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// `threads` that only burn CPU on `core`.
pub(crate) fn hog(threads: u32, core: Option<usize>) -> Result<Crew, BenchError> {
    Crew::start(threads, core, |_| {
        || {
            for _ in 0..1000 {
                std::hint::spin_loop();
            }
        }
    })
}

/// A flood of requests for one page.
#[derive(Clone, Debug)]
pub(crate) struct Flood {
    /// The server.
    pub(crate) address: SocketAddr,
    /// The page.
    pub(crate) path: &'static str,
    /// One thread for each.
    pub(crate) connections: u32,
    /// The core of all threads.
    pub(crate) core: Option<usize>,
    /// Requests a second of all together; None asks again as soon as there is an answer.
    pub(crate) rate: Option<f64>,
    /// Counts answers.
    pub(crate) answered: Arc<AtomicU64>,
}

impl Flood {
    /// Begins.
    pub(crate) fn start(&self) -> Result<Crew, BenchError> {
        let Flood { address, path, connections, core, rate, .. } = *self;
        let between = rate.map(|rate| Duration::from_secs_f64(f64::from(connections) / rate));
        Crew::start(connections, core, |thread| {
            let answered = Arc::clone(&self.answered);
            let mut connection = None;
            // Evenly apart from the first request on.
            let phase = f64::from(thread) / f64::from(connections);
            let mut due = Instant::now() + between.unwrap_or_default().mul_f64(phase);
            move || {
                if let Some(between) = between {
                    // In short steps, so that the end of the flood is heard.
                    let left = due.saturating_duration_since(Instant::now());
                    if !left.is_zero() {
                        std::thread::sleep(left.min(Duration::from_millis(50)));
                        return;
                    }
                    due += between;
                }
                if connection.is_none() {
                    connection = HttpConnection::open(address, path).ok();
                }
                match connection.as_mut().map(HttpConnection::ask) {
                    Some(Ok(_)) => {
                        answered.fetch_add(1, Relaxed);
                    }
                    // The server ends every connection some time; asking again is what a flood does.
                    _ => {
                        connection = None;
                        std::thread::yield_now();
                    }
                }
            }
        })
    }

    /// Answers a second without any pacing, over `time`.
    pub(crate) fn peak(&self, time: Duration) -> Result<f64, BenchError> {
        let flood = Flood { rate: None, answered: Arc::default(), ..self.clone() };
        let crew = flood.start()?;
        let began = Instant::now();
        std::thread::sleep(time);
        let answers = flood.answered.load(Relaxed) as f64 / began.elapsed().as_secs_f64();
        drop(crew);
        Ok(answers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crew_works_until_it_is_dropped() {
        let done = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&done);
        let crew = Crew::start(2, None, |_| {
            let counter = Arc::clone(&counter);
            move || {
                counter.fetch_add(1, Relaxed);
                std::thread::yield_now();
            }
        })
        .unwrap();
        while done.load(Relaxed) < 10 {
            std::thread::yield_now();
        }
        drop(crew);
        let after = done.load(Relaxed);
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert_eq!(done.load(Relaxed), after);
    }

    #[test]
    fn a_paced_flood_keeps_its_rate() {
        use std::io::{Read as _, Write as _};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                std::thread::spawn(move || {
                    while stream.read(&mut [0; 1024]).is_ok_and(|read| read > 0) {
                        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nx");
                    }
                });
            }
        });
        let flood = Flood {
            address,
            path: "/",
            connections: 4,
            core: None,
            rate: Some(200.0),
            answered: Arc::default(),
        };
        let crew = flood.start().unwrap();
        std::thread::sleep(Duration::from_millis(500));
        drop(crew);
        let answered = flood.answered.load(Relaxed);
        // A busy machine may make it late; it never runs ahead.
        assert!((20..=110).contains(&answered), "{answered}");
        assert!(flood.peak(Duration::from_millis(100)).unwrap() > 200.0);
    }
}
