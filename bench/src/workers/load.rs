//! `load --workers`: every worker writes its part of the records.
//!
//! Part and process are the same as for threads: record `n` falls to thread `n` modulo all threads.
//! Nothing is measured, so nothing needs a common start or a clock. A worker that is lost ends the load
//! with an error, because its part is not there; loading again writes the same bytes again.

use std::sync::mpsc::channel;
use std::thread;

use indicatif::ProgressBar;

use super::coordinator::{Link, next_message, out_of_turn, prepare, with_workers};
use super::error::WorkerError;
use super::message::{Job, Task, ToCoordinator, ToWorker};
use crate::cli::LoadArgs;
use crate::error::BenchError;
use crate::loading::Order;
use crate::workload::Shape;

/// Has `order`, the load of all, carried out by the workers of `args`; returns how many records there
/// are then.
pub(crate) fn coordinate_load(
    args: &LoadArgs,
    order: &Order,
    ca_pem: Option<String>,
    bar: &ProgressBar,
) -> Result<u64, BenchError> {
    let job = job(args, order, ca_pem);
    let (_, loaded) = with_workers(&args.workers, &order.plan, |links| {
        prepare(links, &job)?;
        for link in links {
            link.wire.send(&ToWorker::Start { at: AT_ONCE }).map_err(|error| named(link, error))?;
        }
        gather(links, bar)
    })?;
    match order.records - loaded.min(order.records) {
        0 => Ok(loaded),
        failed => {
            let first = "the workers' parts are not the whole".to_owned();
            Err(BenchError::LoadIncomplete { failed, records: order.records, first })
        }
    }
}

/// A moment that has passed on every clock.
const AT_ONCE: u64 = 1;

fn named(link: &Link, source: WorkerError) -> BenchError {
    BenchError::Worker { address: link.address.clone(), source }
}

fn job(args: &LoadArgs, order: &Order, ca_pem: Option<String>) -> Job {
    let (traffic, plan) = (&args.traffic, &order.plan);
    Job {
        task: Task::Load,
        workload: "load".to_owned(),
        target: traffic.data.target.to_string(),
        table: traffic.data.table.clone(),
        ca_pem,
        key_bytes: traffic.data.key_bytes,
        sort_digits: traffic.shape.sort_digits,
        consistent: true,
        timeout_millis: plan.timeout_millis,
        records: order.records,
        seed: order.seed,
        shape: Shape::of(order.sizes.clone()),
        phases: Vec::new(),
        arrivals: plan.arrivals,
        interval_millis: plan.interval_millis,
        think_nanos: 0,
        realtime: false,
        spin: false,
        threads: plan.threads,
        connections: plan.connections,
        depth: plan.depth,
        share: plan.share(),
    }
}

/// Waits until every part is there.
fn gather(links: &[Link], bar: &ProgressBar) -> Result<u64, BenchError> {
    let (events, incoming) = channel();
    thread::scope(|scope| {
        for (number, link) in links.iter().enumerate() {
            let events = events.clone();
            scope.spawn(move || {
                loop {
                    let message = next_message(&link.wire);
                    let is_last = !matches!(message, Ok(ToCoordinator::Loaded { .. }));
                    if events.send((number, message)).is_err() || is_last {
                        return;
                    }
                }
            });
        }
        drop(events);
        let mut loaded = vec![0; links.len()];
        let mut first_error = None;
        for (number, message) in incoming {
            let taken = match message {
                Ok(ToCoordinator::Loaded { records } | ToCoordinator::LoadEnded { records }) => {
                    loaded[number] = records;
                    bar.set_position(loaded.iter().sum());
                    Ok(())
                }
                Ok(other) => Err(out_of_turn(&other, "Loaded")),
                Err(error) => Err(error),
            };
            if let Err(error) = taken
                && first_error.is_none()
            {
                first_error = Some(named(&links[number], error));
                // The other workers stop, and the threads that listen to them end.
                links.iter().for_each(|link| link.wire.close());
            }
        }
        first_error.map_or_else(|| Ok(loaded.iter().sum()), Err)
    })
}
