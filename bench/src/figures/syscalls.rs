//! System calls for each request: the shard's one, counted by the ring itself.

use crate::compare::contest;
use crate::compare::table::{Table, whole};
use crate::error::BenchError;
use crate::fleet::{Member, Store};
use crate::workload::WorkloadName;

use super::{Bench, published};

/// io_uring_enter by requests, and submissions and completions beside it.
pub(super) fn syscalls(bench: &mut Bench<'_>) -> Result<(), BenchError> {
    bench.begin(
        "System calls for each request",
        "`io_uring_enter` is the only system call of a shard once it serves; its ring counts it, \
         in `/metrics`.",
    );
    let args = &bench.args.bench;
    let member = Member::start(&Store::Forebay, "forebay", &args.place())?;
    let mut commands = vec![member.command.clone(), args.fill(&member)?];
    let mut table =
        Table::new(["load", "requests/s", "enters/request", "requests/turn", "requests/batch"]);
    for workload in [WorkloadName::Puts, WorkloadName::Gets] {
        for &depth in &bench.args.depths {
            let words = format!("run --target {} {}", member.url, args.load_words(workload, depth));
            let before = published(&member)?;
            let report = contest::run(&words)?;
            let after = published(&member)?;
            let requests = after.grown(&before, "requests_total").max(1.0);
            let per_batch = match after.grown(&before, "log_batches_total") {
                batches if batches > 0.0 && workload == WorkloadName::Puts => {
                    format!("{:.1}", requests / batches)
                }
                _ => "none".to_owned(),
            };
            table.row([
                format!("{}, {} x {depth}", workload.label(), args.connections),
                whole(report.achieved_ops_s),
                format!("{:.3}", after.grown(&before, "ring_enters_total") / requests),
                format!("{:.1}", requests / after.grown(&before, "turns_total").max(1.0)),
                per_batch,
            ]);
            commands.push(contest::shown(&words));
        }
    }
    bench.say_commands(&commands);
    bench.say(&table.render());
    Ok(())
}
