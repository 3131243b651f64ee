//! `node`: a node on a real machine, configured by a file.

use std::path::PathBuf;

use forebay_net::node::config::NodeConfig;

use crate::config;
use crate::exit::Failure;

const EXAMPLES: &str = "Examples:
  forebay node --print-sample-config > forebay.toml   every value, its default and its meaning
  forebay node --config forebay.toml
  forebay probe-disk /var/lib/forebay                 once, before the first start

The smallest file is one line:
  data = \"/var/lib/forebay\"";

/// Run a node configured by a file
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The configuration, in TOML
    #[arg(long, value_name = "FILE", required_unless_present = "print_sample_config")]
    config: Option<PathBuf>,
    /// Print a configuration with every value and end
    #[arg(long)]
    print_sample_config: bool,
}

impl Args {
    /// The configuration to run with, or None if a sample was printed instead.
    pub(crate) fn resolve(&self) -> Result<Option<NodeConfig>, Failure> {
        match &self.config {
            Some(path) if !self.print_sample_config => config::read(path).map(Some),
            _ => {
                crate::say(config::SAMPLE);
                Ok(None)
            }
        }
    }
}
