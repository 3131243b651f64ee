//! What the generator itself costs, and how exact its clock is: a tool that uses much of its core, or
//! that looks at its watch too late, measures itself.
//!
//! | part | figure | asked |
//! |---|---|---|
//! | beside redis-benchmark | CPU for each operation, both against one redis, in turn | at most two thirds |
//! | against the bare echo | CPU for each operation at depth 32 | at most 0.5 us |
//! | timing | percentiles of a server that answers after a known delay | within 10 us or 2 % |
//!
//! CPU is that of the whole process, user and system: of redis-benchmark what the kernel says when it
//! has ended, of this tool the same clock before and after. What each needs for a run of next to no
//! operations (to look at the machine, to connect) is measured too, shown, and taken off. Both send
//! the same number of operations on the same keys from the same core.

use crate::compare::BenchArgs;
use crate::compare::contest;
use crate::compare::statistics::{Spread, quotient};
use crate::compare::table::{Table, micros, whole};
use crate::error::BenchError;
use crate::fleet::client::{self, Ended};
use crate::fleet::{Member, Place, Store, share_cores};
use crate::selftest::{self, Setup};
use crate::sys;
use crate::target::TargetUrl;
use crate::workload::WorkloadName;

use super::Bench;

/// Of redis-benchmark's CPU.
const OF_REDIS_BENCHMARK_MAX: f64 = 2.0 / 3.0;
/// Against the bare echo.
const ECHO_MICROS_MAX: f64 = 0.5;
const ECHO_DEPTH: u32 = 32;
/// Operations a second of a run that does next to nothing but start up.
const STARTUP_RATE: u64 = 10;
/// redis-benchmark writes this many digits where `__rand_int__` stands.
const RANDOM_DIGITS: usize = 12;
/// Of this tool's keys: `user` and digits.
const KEY_BYTES: usize = 24;

/// All three parts.
pub(super) fn generator(bench: &mut Bench<'_>) -> Result<(), BenchError> {
    bench.begin(
        "The generator's own cost",
        "CPU: of the whole client process, user and system, for each operation, without what it uses \
         to start up; the client is pinned to its core, the server to its own.",
    );
    beside_redis_benchmark(bench)?;
    against_the_echo(bench)?;
    timing(bench)
}

/// What a client used for its operations.
#[derive(Clone, Copy, Debug)]
struct Spent {
    ops: u64,
    /// Of the whole process.
    cpu_us: f64,
    ops_s: f64,
}

impl Spent {
    /// For each operation, without what starting up takes.
    fn each_us(&self, startup_us: f64) -> f64 {
        quotient((self.cpu_us - startup_us).max(0.0), self.ops as f64)
    }
}

/// This tool, with the words of a `run` without warm-up.
fn own(words: &str) -> Result<Spent, BenchError> {
    let cpu = sys::own_cpu_nanos();
    let report = contest::run(words)?;
    let cpu_us = (sys::own_cpu_nanos() - cpu) as f64 / 1e3;
    let ops = report.overall.count + report.errors;
    Ok(Spent { ops, cpu_us, ops_s: report.achieved_ops_s })
}

/// This tool's CPU for as good as no operations.
fn own_startup(
    member: &Member,
    workload: WorkloadName,
    args: &BenchArgs,
) -> Result<f64, BenchError> {
    let args = BenchArgs { duration: 1, ..args.clone() };
    let words = run_words(member, workload, 1, &args);
    Ok(own(&format!("{words} --rate {STARTUP_RATE}"))?.cpu_us)
}

fn of_another(ops: u64, ended: &Ended) -> Spent {
    Spent { ops, cpu_us: ended.cpu_micros as f64, ops_s: quotient(ops as f64, ended.seconds) }
}

/// Rounds of one client, and what it needs to start up.
#[derive(Debug, Default)]
struct Rounds {
    startup_us: f64,
    spent: Vec<Spent>,
}

impl Rounds {
    fn each_us(&self) -> Vec<f64> {
        self.spent.iter().map(|spent| spent.each_us(self.startup_us)).collect()
    }

    fn ops_s(&self) -> f64 {
        Spread::of(&self.spent.iter().map(|spent| spent.ops_s).collect::<Vec<_>>()).median
    }

    fn startup(&self) -> String {
        format!("{:.1} ms", self.startup_us / 1e3)
    }
}

/// Both clients against one redis, in turn.
fn beside_redis_benchmark(bench: &mut Bench<'_>) -> Result<(), BenchError> {
    let args = BenchArgs { warmup: 0, ..bench.args.bench.clone() };
    let version = match client::version("redis-benchmark") {
        Some(version) => version,
        None => {
            bench.say("### Beside redis-benchmark\n\nLeft out: it is not installed (Debian, Ubuntu: apt-get install redis-tools).\n");
            return Ok(());
        }
    };
    bench.say(&format!("### Beside {version}\n"));
    let member = match Member::start(&Store::Redis, "redis", &args.place()) {
        Err(error @ BenchError::NotInstalled { .. }) => {
            bench.say(&format!("Left out: {error}\n"));
            return Ok(());
        }
        member => member?,
    };
    let mut commands = vec![member.command.clone(), args.fill(&member)?];
    let place = Place { core: args.client(), ..args.place() };
    let mut table = Table::new([
        "load, median of rounds",
        "us/op",
        "its us/op",
        "ratio",
        "min–max",
        "ops/s",
        "its ops/s",
        "start-up",
        "its start-up",
        "asked",
        "",
    ]);
    for workload in [WorkloadName::Gets, WorkloadName::Puts] {
        for &depth in &bench.args.depths {
            let words = run_words(&member, workload, depth, &args);
            commands.push(contest::shown(&words));
            let benchmark = |ops| -> Result<Ended, BenchError> {
                let words = benchmark_words(&member.url, workload, depth, ops, &args)?;
                client::run("redis-benchmark", &words, &place)
            };
            let nothing = benchmark(u64::from(args.connections))?.cpu_micros as f64;
            let mut its = Rounds { startup_us: nothing, ..Rounds::default() };
            let nothing = own_startup(&member, workload, &args)?;
            let mut ours = Rounds { startup_us: nothing, ..Rounds::default() };
            for round in 1..=args.rounds {
                let own = own(&words)?;
                // As many operations, so that both meet the store for about as long.
                let ended = benchmark(own.ops)?;
                if round == 1 {
                    commands.push(ended.command.clone());
                }
                ours.spent.push(own);
                its.spent.push(of_another(own.ops, &ended));
            }
            let (our_cpu, its_cpu) = (ours.each_us(), its.each_us());
            eprintln!("{}, depth {depth}: {our_cpu:.2?} us/op and {its_cpu:.2?}", workload.label());
            let ratio = Spread::ratio(&our_cpu, &its_cpu);
            table.row([
                format!("{}, {} x {depth}", workload.label(), args.connections),
                digits(Spread::of(&our_cpu).median),
                digits(Spread::of(&its_cpu).median),
                digits(ratio.median),
                format!("{:.2}–{:.2}", ratio.min, ratio.max),
                whole(ours.ops_s()),
                whole(its.ops_s()),
                ours.startup(),
                its.startup(),
                format!("≤ {OF_REDIS_BENCHMARK_MAX:.2}"),
                verdict(ratio.median <= OF_REDIS_BENCHMARK_MAX),
            ]);
        }
    }
    bench.say_commands(&commands);
    bench.say(&table.render());
    Ok(())
}

/// Words of a closed loop against `member`.
fn run_words(member: &Member, workload: WorkloadName, depth: u32, args: &BenchArgs) -> String {
    format!("run --target {} {}", member.url, args.load_words(workload, depth))
}

/// The same load for redis-benchmark: this tool's keys and lengths, chosen evenly too.
fn benchmark_words(
    url: &TargetUrl,
    workload: WorkloadName,
    depth: u32,
    ops: u64,
    args: &BenchArgs,
) -> Result<Vec<String>, BenchError> {
    let address = url.resolve()?;
    let zeros = "0".repeat(KEY_BYTES - "user".len() - RANDOM_DIGITS);
    let key = format!("user{zeros}__rand_int__");
    let mut words = vec!["-h".to_owned(), address.ip().to_string()];
    let numbers = [
        ("-p", u64::from(address.port())),
        ("-c", u64::from(args.connections)),
        ("-P", u64::from(depth)),
        ("-n", ops),
        ("-r", args.records),
    ];
    words.extend(numbers.iter().flat_map(|(flag, n)| [(*flag).to_owned(), n.to_string()]));
    // Its quietest way: no line is printed while it runs.
    words.push("--csv".to_owned());
    match workload {
        WorkloadName::Gets => words.extend(["GET".to_owned(), key]),
        _ => words.extend(["SET".to_owned(), key, "x".repeat(args.value_bytes as usize)]),
    }
    Ok(words)
}

/// CPU for each operation where the server does next to nothing.
fn against_the_echo(bench: &mut Bench<'_>) -> Result<(), BenchError> {
    let args = BenchArgs { warmup: 0, ..bench.args.bench.clone() };
    bench.say(&format!("### Against the bare echo, depth {ECHO_DEPTH}\n"));
    let member = Member::start(&Store::FloorEcho, "floor-echo", &args.place())?;
    let mut commands = vec![member.command.clone()];
    let mut table = Table::new([
        "load, median of rounds",
        "us/op",
        "min–max",
        "ops/s",
        "start-up",
        "asked",
        "",
    ]);
    for workload in [WorkloadName::Gets, WorkloadName::Puts] {
        let words = run_words(&member, workload, ECHO_DEPTH, &args);
        let startup_us = own_startup(&member, workload, &args)?;
        let mut rounds = Rounds { startup_us, ..Rounds::default() };
        for _ in 0..args.rounds {
            rounds.spent.push(own(&words)?);
        }
        commands.push(contest::shown(&words));
        let cpu = Spread::of(&rounds.each_us());
        table.row([
            format!("{}, {} x {ECHO_DEPTH}", workload.label(), args.connections),
            digits(cpu.median),
            format!("{:.2}–{:.2}", cpu.min, cpu.max),
            whole(rounds.ops_s()),
            rounds.startup(),
            format!("≤ {ECHO_MICROS_MAX} us"),
            verdict(cpu.median <= ECHO_MICROS_MAX),
        ]);
    }
    bench.say_commands(&commands);
    bench.say(&table.render());
    Ok(())
}

/// Percentiles of known delays.
fn timing(bench: &mut Bench<'_>) -> Result<(), BenchError> {
    let args = &bench.args.bench;
    let (server_core, client_core) = share_cores(args.server_core, args.client_core);
    let (attempts, seconds) = (args.rounds, args.duration);
    let setup = Setup { server_core, client_core, server_spins: true, client_spins: true };
    bench.say(&format!(
        "### Timing\n\nA server that answers after a known delay and measures that itself, at a rate of \
         its own, the client spinning; each delay is measured until it holds, {attempts} times at \
         most, because what disturbs the machine only ever makes it worse.\n"
    ));
    let mut waits = Vec::new();
    let mut table = Table::new(["delay", "server's", "reported", "off by", "asked", ""]);
    let checks = selftest::delays(&setup, attempts, seconds, &mut |line| eprintln!("{line}"))?;
    for check in checks.iter().filter(|check| !check.is_shown_only || check.at_most == 0.0) {
        if check.is_shown_only {
            // Why the lines below it are wrong, if they are.
            waits.push(format!("{} {} us", check.name, whole(check.reported)));
            continue;
        }
        table.row([
            check.name.clone(),
            format!("{} us", micros(check.expected)),
            format!("{} us", micros(check.reported)),
            format!("{:+.1} us", check.reported - check.expected),
            format!("± {} us", micros(check.at_most)),
            verdict(check.holds()),
        ]);
    }
    let command = format!("self-test --duration {seconds} --attempts {attempts}");
    bench.say_commands([&contest::shown(&command)]);
    bench.say(&table.render());
    bench.say(&format!("Others had its core meanwhile: {}.\n", waits.join("; ")));
    Ok(())
}

fn digits(value: f64) -> String {
    format!("{value:.2}")
}

fn verdict(is_reached: bool) -> String {
    if is_reached { "reached" } else { "**missed**" }.to_owned()
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    fn bench_args(words: &str) -> BenchArgs {
        let words = ["forebay-bench", "figures"].into_iter().chain(words.split_whitespace());
        match Cli::parse_from(words).command {
            Command::Figures(args) => args.bench,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn redis_benchmark_is_asked_for_the_same_load() {
        let args = bench_args("--records 5000 --value-bytes 3 --connections 64");
        let url: TargetUrl = "redis://127.0.0.1:6390".parse().unwrap();
        let words =
            |workload| benchmark_words(&url, workload, 16, 12_345, &args).unwrap().join(" ");
        let load = "-h 127.0.0.1 -p 6390 -c 64 -P 16 -n 12345 -r 5000 --csv";
        let key = "user00000000__rand_int__";
        assert_eq!(words(WorkloadName::Gets), format!("{load} GET {key}"));
        assert_eq!(words(WorkloadName::Puts), format!("{load} SET {key} xxx"));
        let spelled = key.replace("__rand_int__", &"7".repeat(RANDOM_DIGITS));
        assert_eq!(spelled.len(), KEY_BYTES);
    }

    #[test]
    fn cost_is_by_operation_and_nothing_is_divided_by_nothing() {
        let ended = Ended { command: String::new(), cpu_micros: 300, seconds: 0.5 };
        let spent = of_another(100, &ended);
        assert_eq!((spent.each_us(0.0), spent.each_us(100.0), spent.ops_s), (3.0, 2.0, 200.0));
        assert_eq!((spent.each_us(400.0), of_another(0, &ended).each_us(0.0)), (0.0, 0.0));
        assert_eq!((verdict(true).as_str(), verdict(false).as_str()), ("reached", "**missed**"));
    }
}
