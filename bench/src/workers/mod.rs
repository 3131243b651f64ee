//! One load from several machines: workers that wait, a coordinator that shares out, one report.
//!
//! ```text
//!                    ┌─ control: job, clock, start ──► worker a: threads 0, 1  ──load──►┐
//!   run --workers a,b ┤                                                                 store
//!                    └─ control ─────────────────────► worker b: threads 2, 3  ──load──►┘
//!         ◄──────────── intervals: compressed histograms, merged as those of threads are
//! ```
//!
//! The workers' threads are numbered through, and a thread's number is all that schedule, seed,
//! inserts and sequences depend on: two workers of two threads offer exactly what one process of four
//! would, on one grid of intended starts, without a record written twice. They begin at one moment,
//! told to each in its own clock ([`clock`]); each measures with its own clock alone, so an error of
//! the offset moves a worker's intervals against the others' and is in no latency.
//!
//! | what happens | what comes of it |
//! |---|---|
//! | a worker is not there, busy, of another build, or cannot reach the target | a named error, before any load |
//! | a worker dies or falls silent in the run | the others go on; the report has all of the intervals that it had told, each of them whole, nothing of later ones, and names the moment in between |
//! | a worker dies in a load | the load ends with an error that names it; loading again is harmless |
//! | the coordinator dies | its workers stop and wait for the next |
//! | a signal | all end with the same interval; the report says so |
//!
//! An interval holds what ended in it. What a lost worker had under way belongs to the interval that it
//! did not tell any more; so do its CPU and its longest silence, which are told at the end.
//!
//! Left out: encryption and passwords. Whoever reaches a worker can make it send load anywhere, so
//! it listens on loopback unless told otherwise. Ledgers, whose file is on one machine. Shares of
//! different sizes: every worker has the same number of threads.

mod clock;
mod coordinator;
mod error;
mod load;
mod message;
mod wire;
mod worker;

pub(crate) use coordinator::coordinate;
pub(crate) use error::WorkerError;
pub(crate) use load::coordinate_load;
pub(crate) use worker::{WorkerArgs, worker};

/// A coordinator has at most so many workers.
pub(crate) const WORKERS_MAX: usize = 256;

/// `HOST:PORT`, as one writes it.
pub(crate) fn worker_place(text: &str) -> Result<String, String> {
    match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => {
            Ok(text.to_owned())
        }
        _ => Err("expected HOST:PORT of a `forebay-bench worker`".to_owned()),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    //! A plan for tests elsewhere.

    /// A worker's share of a small run.
    pub(crate) fn plan() -> crate::generator::Plan {
        super::message::tests::job().plan(&[])
    }
}
