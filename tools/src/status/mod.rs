//! `status`: what a running node is doing, from its operator HTTP.

mod get;
mod table;

use std::net::SocketAddr;

use forebay_net::control::status::NodeStatus;

use crate::exit::{Exit, Failure};

const EXAMPLES: &str = "Examples:
  forebay status                            the node of this machine
  forebay status --http 127.0.0.1:5690      another port
  forebay status --json | jq .shards[0].log";

/// Show a running node's shards, partitions, queues, log, cache and checkpoints
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The node's operator HTTP
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:4690")]
    http: SocketAddr,
    /// Print the node's answer as it is
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let body = get::get(args.http, "/status")?;
    if args.json {
        crate::say(&body);
        return Ok(());
    }
    let status: NodeStatus = serde_json::from_str(&body).map_err(|error| {
        let at = args.http;
        Failure::new(Exit::Unreachable, format!("{at} answers, but not as a forebay node: {error}"))
    })?;
    crate::say(&table::render(&status));
    Ok(())
}
