//! What may go on beside a measurement: threads that burn a core, and threads that flood the
//! operator HTTP. They end when dropped.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;

use forebay_net::ring::pin_to_core;

use crate::error::BenchError;
use crate::fleet::metrics::fetch;

/// Threads that work until they are dropped.
#[derive(Debug)]
pub(crate) struct Crew {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Crew {
    /// Threads on `core` that call `work` over and over.
    fn start(
        threads: u32,
        core: Option<usize>,
        work: impl Fn() + Send + Sync + 'static,
    ) -> Result<Crew, BenchError> {
        let work = Arc::new(work);
        let mut crew = Crew { stop: Arc::default(), threads: Vec::new() };
        for _ in 0..threads {
            let (work, stop) = (Arc::clone(&work), Arc::clone(&crew.stop));
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
    let work = || {
        for _ in 0..1000 {
            std::hint::spin_loop();
        }
    };
    Crew::start(threads, core, work)
}

/// `threads` on `core` that ask `address` for its metrics over and over, each on a new connection;
/// `answered` counts.
pub(crate) fn flood(
    threads: u32,
    core: Option<usize>,
    address: SocketAddr,
    answered: &Arc<AtomicU64>,
) -> Result<Crew, BenchError> {
    let answered = Arc::clone(answered);
    let work = move || match fetch(address, "/metrics") {
        Ok(_) => {
            answered.fetch_add(1, Relaxed);
        }
        // Refused because of too many: asking again is what a flood does.
        Err(_) => std::thread::yield_now(),
    };
    Crew::start(threads, core, work)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crew_works_until_it_is_dropped() {
        let done = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&done);
        let crew = Crew::start(2, None, move || {
            counter.fetch_add(1, Relaxed);
            std::thread::yield_now();
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
}
