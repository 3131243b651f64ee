//! forebay: the one server and operator binary.
//!
//! ```text
//!   dev, node ──► run ──► serve (the node in forebay-net)
//!   probe-disk ─► disk.toml ─► read by dev and node
//!   admin ──────► the nodes of a cluster, over the native protocol
//!   certs ──────► certificates, read by dev, node, admin and clients
//!   status ─────► a running node's operator HTTP
//!   inspect ────► a data directory's files, read-only
//!   simulate ───► a simulated cluster, seed after seed (forebay_tools::simulate)
//! ```
//!
//! Standard output carries results only; progress and messages go to standard error. The exit code
//! tells a script what to do:
//!
//! | code | meaning |
//! |---|---|
//! | 0 | done, or a clean shutdown |
//! | 1 | anything without a number of its own |
//! | 2 | wrong arguments or a wrong configuration file |
//! | 10 | io_uring is missing, too old or forbidden |
//! | 11 | the file system has no O_DIRECT or is in memory |
//! | 12 | the memlock limit is too small |
//! | 13 | a port is taken |
//! | 14 | another process uses the data directory |
//! | 15 | the disk is full |
//! | 16 | the data is newer than this program |
//! | 17 | data that was there is not there as it was |
//! | 18 | no node answers (`status`, `admin`) |
//! | 19 | a shard failed while serving |
//! | 20 | a simulated run failed (`simulate`) |
//! | 130 | stopped at once by a second signal |

mod admin;
mod certs;
mod config;
mod dev;
mod dev_cluster;
mod disk_profile;
mod exit;
mod huge_pages;
mod inspect;
mod member_node;
mod node;
mod preflight;
mod probe_disk;
mod run;
mod serve;
mod simulate_command;
mod size;
mod status;

use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use exit::Failure;

/// A durable key-value and document store in the manner of DynamoDB, on io_uring shards.
#[derive(Debug, Parser)]
#[command(name = "forebay", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Dev(Box<dev::Args>),
    Node(node::Args),
    ProbeDisk(probe_disk::Args),
    Status(status::Args),
    Admin(admin::Args),
    Certs(certs::Args),
    Inspect(inspect::Args),
    Simulate(simulate_command::Args),
}

const EXAMPLES: &str = "Examples:
  forebay dev                          three nodes with their data in ./forebay-data
  forebay status                       what it is doing
  forebay probe-disk /var/lib/forebay  what a disk can do, before a real node uses it
  forebay node --config forebay.toml   a real node

";

fn main() -> ExitCode {
    let command = Cli::command().after_help(format!("{EXAMPLES}{}", exit::table()));
    let matches = command.get_matches();
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    if matches!(cli.command, Command::Dev(_) | Command::Node(_)) {
        huge_pages::prefer();
    }
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Dev(args) => match args.resolve()? {
            dev::Plan::One(config) if config.tls.is_some() => {
                run::run_node(*config, dev::start_with_certificates)
            }
            dev::Plan::One(config) => run::run_node(*config, serve::start),
            dev::Plan::Several(data, configs) => {
                run::run_nodes(configs, |opened| dev_cluster::start(&data, opened))
            }
        },
        Command::Node(args) => match args.resolve()? {
            Some(config) if config.cluster.is_some() => run::run_node(config, member_node::start),
            Some(config) => run::run_node(config, serve::start),
            None => Ok(()),
        },
        Command::ProbeDisk(args) => probe_disk::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Admin(args) => admin::run(&args),
        Command::Certs(args) => certs::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Simulate(args) => simulate_command::run(&args),
    }
}

/// Prints a result. A reader that went away (`| head`) has what it wanted.
fn say(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}
