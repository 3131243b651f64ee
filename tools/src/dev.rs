//! `dev`: nodes for trying things out, with everything on the command line: three, each in a zone of its
//! own, as in production; or one.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use forebay_net::node::config::NodeConfig;
use forebay_net::tls::TlsFiles;
use forebay_storage::directory::DataDirectory;

use crate::certs;
use crate::config::{HttpAt, apply_profile};
use crate::dev_cluster::{self, Found, NODES_MAX};
use crate::disk_profile::DiskProfile;
use crate::exit::{Exit, Failure};
use crate::run::Running;
use crate::serve;
use crate::size::ByteSize;

const EXAMPLES: &str = "Prints one line beginning 'ready native=ADDR' on standard output when it \
serves, with a
comma between the addresses of several nodes, as clients take them. SIGINT (Ctrl-C)
or SIGTERM stops it; the data stays and is there again the next time.

With several nodes, SIGUSR1 stops the third one (then the second), for good as far as the others know, and
SIGUSR2 starts it again. `forebay admin groups 127.0.0.1:4700` shows where members go meanwhile: after five
seconds log replicas take the lost ones' places, then they get full copies.

Examples:
  forebay dev                                        three nodes, ports 4700 to 4702, three copies
  forebay dev --data /mnt/nvme/fb --memory 4GiB      a real disk, more memory
  forebay dev --nodes 1 --data ./one                 one node, one copy
  forebay dev --nodes 4 --data ./four                four nodes: lost members are replaced on the fourth
  forebay dev --native 127.0.0.1:0 --http off        any free port, no operator HTTP";

/// Of those that `--tls` makes.
const CERTIFICATE_DAYS: u64 = 3650;

/// Run a cluster for development: one machine, one process, nothing to configure
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Where the data is; created if it does not exist
    #[arg(long, value_name = "DIR", default_value = "./forebay-data")]
    data: PathBuf,
    /// Nodes to run in this process, each in a directory and a zone of its own; three keep every
    /// item three times [default: what the directory has, 3 for a new one]
    #[arg(long, value_name = "N")]
    nodes: Option<u32>,
    /// Event loops [default: what the directory has, 1 for a new one]
    #[arg(long, value_name = "N")]
    shards: Option<u16>,
    /// Where shard 0 listens; shard n takes this port plus n, the next node those behind; port 0
    /// takes any free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:4700")]
    native: SocketAddr,
    /// Where health, metrics and status are served, or 'off'; the next node takes the next port
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:4690")]
    http: HttpAt,
    /// Memory for new writes and page caches of all nodes; the process takes up to 64 MiB more for each
    /// shard
    #[arg(long, value_name = "BYTES", default_value = "512MiB")]
    memory: ByteSize,
    /// Log of each shard, for a new directory; a multiple of 16MiB [default: half of a shard's memory, 256MiB to 4GiB]
    #[arg(long, value_name = "BYTES")]
    log: Option<ByteSize>,
    /// Longest time between two checkpoints
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    checkpoint_seconds: u32,
    /// For measurements only: 'off' fills the log and then refuses writes
    #[arg(long, value_name = "on|off", default_value = "on", hide = true)]
    checkpoint: Switch,
    /// How long an idle shard watches for events before it sleeps; uses the whole core
    #[arg(long, value_name = "MICROSECONDS", default_value_t = 0)]
    busy_poll_microseconds: u32,
    /// Speak TLS with clients and between nodes, with certificates made in DIR/certificates of --data
    #[arg(long)]
    pub(crate) tls: bool,
    /// Do not pin shards to cores
    #[arg(long)]
    no_pin: bool,
}

/// Where the certificates of `--tls` are.
pub(crate) fn certificates(data: &Path) -> PathBuf {
    data.join("certificates")
}

/// Makes the certificates that are missing, and says where the clients' are.
pub(crate) fn make_certificates(data: &Path, nodes: u32) -> Result<(), Failure> {
    let directory = certificates(data);
    let names: Vec<String> = (1..=nodes).map(|place| format!("node-{place}")).collect();
    certs::make(&directory, &names, CERTIFICATE_DAYS, false)?;
    let shown = directory.display();
    eprintln!(
        "forebay: clients show the certificate in {shown}: forebay admin --certificates {shown} …, \
         forebay-bench … --target 'forebay+tls://HOST:PORT?certificates={shown}'"
    );
    Ok(())
}

/// Starts a node that speaks TLS, with certificates of its own making.
pub(crate) fn start_with_certificates(
    config: NodeConfig,
    directory: DataDirectory,
) -> Result<Box<dyn Running>, Failure> {
    make_certificates(&config.data_dir, 1)?;
    serve::start(config, directory)
}

/// On or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Switch {
    On,
    Off,
}

/// What `dev` is to run.
#[derive(Debug)]
pub(crate) enum Plan {
    /// A node that stands alone.
    One(Box<NodeConfig>),
    /// The nodes of a cluster, with their common directory.
    Several(PathBuf, Vec<NodeConfig>),
}

/// Nodes of a new directory: the smallest cluster that outlives any one of them.
const NODES_NEW: u32 = 3;

impl Args {
    /// What these arguments mean in their directory: a directory goes on as it was made.
    pub(crate) fn resolve(self) -> Result<Plan, Failure> {
        let asked = self.nodes;
        if let Some(nodes) = asked.filter(|nodes| !(1..=NODES_MAX).contains(nodes)) {
            let message = format!("--nodes {nodes}: 1 to {NODES_MAX}");
            return Err(Failure::new(Exit::Usage, message));
        }
        let mut config = self.config()?;
        let data = config.data_dir.clone();
        let found = dev_cluster::find(&data)?;
        let nodes = match (&found, asked) {
            (Found::Nothing, asked) => asked.unwrap_or(NODES_NEW),
            (Found::One, None) => {
                let path = data.display();
                eprintln!(
                    "forebay: {path} is a single node's and stays it; a new directory gets three"
                );
                1
            }
            (Found::Several { nodes, .. }, None) => *nodes,
            (Found::One, Some(asked)) => dev_cluster::same(&data, 1, asked)?,
            (Found::Several { nodes, .. }, Some(asked)) => dev_cluster::same(&data, *nodes, asked)?,
        };
        if nodes == 1 && !matches!(found, Found::Several { .. }) {
            return Ok(Plan::One(Box::new(config)));
        }
        if let Found::Several { shards: Some(shards), .. } = found {
            config.shards.get_or_insert(shards);
        }
        let configs = dev_cluster::configs(&config, nodes);
        for config in &configs {
            config.validate().map_err(|error| {
                let option = error.field.replace('_', "-");
                let message = format!("--{option}, for each of {nodes} nodes: {}", error.problem);
                Failure::new(Exit::Usage, message)
            })?;
        }
        Ok(Plan::Several(data, configs))
    }

    /// The configuration of a node that has everything.
    fn config(self) -> Result<NodeConfig, Failure> {
        let profile = DiskProfile::read(&self.data)?;
        let mut config = NodeConfig::new(self.data);
        apply_profile(&mut config, profile.as_ref());
        config.shards = self.shards;
        config.native = self.native;
        config.http = self.http.0;
        config.memory_bytes = self.memory.0;
        config.checkpoint.interval_seconds = self.checkpoint_seconds;
        config.checkpoint.enabled = self.checkpoint == Switch::On;
        config.pin_cores = !self.no_pin;
        if self.tls {
            config.tls = Some(TlsFiles::in_directory(&certificates(&config.data_dir), "node-1"));
        }
        config.busy_poll_microseconds = self.busy_poll_microseconds;
        if let Some(ByteSize(bytes)) = self.log {
            let segment_bytes = NodeConfig::NEW_DIRECTORY.log_segment_bytes;
            let segments = u32::try_from(bytes / segment_bytes).unwrap_or(u32::MAX);
            if !bytes.is_multiple_of(segment_bytes) {
                let message = format!("--log: {bytes} is not a multiple of 16MiB");
                return Err(Failure::new(Exit::Usage, message));
            }
            config.log_segments = Some(segments);
        }
        config.validate().map_err(|error| {
            let option = error.field.replace('_', "-");
            Failure::new(Exit::Usage, format!("--{option}: {}", error.problem))
        })?;
        Ok(config)
    }
}
