//! Three `forebay node` processes that form one cluster, each with its own directory and zone.
//!
//! ```text
//!   DIR/n1/forebay.toml, DIR/n1/data     node 1: process, client's port
//!   DIR/n2 …, DIR/n3 …                   each may be killed, started again, stopped, continued
//! ```

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::own::{announced, certificates_part, forebay};
use super::ports::{attempts, free_port};
use super::process::{OwnedDir, OwnedProcess};
use super::{Member, Place, url};
use crate::error::BenchError;

/// Of the smallest cluster that outlives one member.
const NODES: usize = 3;
/// For each node, in MiB: what one that stands alone gets is divided.
const MEMORY_MIB: u64 = 512 / NODES as u64;

/// One of the processes.
#[derive(Debug)]
struct Node {
    native: SocketAddr,
    own: PathBuf,
    words: Vec<String>,
    process: Option<OwnedProcess>,
}

/// See the module's docs.
#[derive(Debug)]
pub(crate) struct Cluster {
    name: String,
    program: String,
    place: Place,
    commands: Vec<String>,
    /// Where they are, if nodes and clients speak TLS.
    certificates: Option<PathBuf>,
    // In this order: the processes end before their directory goes.
    nodes: Vec<Node>,
    dir: OwnedDir,
}

impl Cluster {
    /// Starts three nodes and makes a cluster of them; returns when it has a leader.
    pub(crate) fn start(name: &str, place: &Place) -> Result<Cluster, BenchError> {
        Cluster::start_with(name, place, false)
    }

    /// The same; with `tls`, links and clients speak TLS with certificates made for the occasion.
    fn start_with(name: &str, place: &Place, tls: bool) -> Result<Cluster, BenchError> {
        attempts(|| {
            let program = forebay(name)?;
            let dir = OwnedDir::create(&place.data_dir, name)?;
            let (name, place) = (name.to_owned(), place.clone());
            let certificates = tls.then(|| dir.path().join("certificates"));
            let (commands, nodes) = (Vec::new(), Vec::new());
            let mut cluster = Cluster { name, program, place, commands, certificates, nodes, dir };
            if let Some(directory) = &cluster.certificates {
                let names = (1..=NODES).map(|number| format!("n{number}"));
                let words = ["certs".to_owned(), directory.display().to_string()];
                let words: Vec<String> = words.into_iter().chain(names).collect();
                cluster.forebay(&words)?;
                cluster.commands.push(format!("forebay {}", words.join(" ")));
            }
            for number in 1..=NODES {
                cluster.add(number)?;
            }
            let natives = cluster.natives();
            let natives = natives.iter().map(SocketAddr::to_string);
            let mut words: Vec<String> = ["admin", "init"].map(str::to_owned).into();
            if let Some(directory) = &cluster.certificates {
                words.extend(["--certificates".to_owned(), directory.display().to_string()]);
            }
            let words: Vec<String> = words.into_iter().chain(natives).collect();
            cluster.forebay(&words)?;
            cluster.commands.push(format!("forebay {}", words.join(" ")));
            Ok(cluster)
        })
    }

    fn add(&mut self, number: usize) -> Result<(), BenchError> {
        let own = self.dir.path().join(format!("n{number}"));
        let config = own.join("forebay.toml");
        let file = |source| BenchError::File { path: config.clone(), source };
        std::fs::create_dir(&own).map_err(file)?;
        let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let [native, peer] = [free_port()?, free_port()?].map(loopback);
        let text = format!(
            "data = {:?}\nnative = \"{native}\"\nhttp = \"off\"\nmemory = \"{MEMORY_MIB}MiB\"\n\
             pin_cores = false\n{}[cluster]\npeer = \"{peer}\"\naz = {number}\n",
            own.join("data"),
            security(self.certificates.as_ref(), number)
        );
        std::fs::write(&config, text).map_err(file)?;
        let words = ["node", "--config", &config.display().to_string()].map(str::to_owned);
        let words = std::iter::once(self.program.clone()).chain(words).collect();
        self.nodes.push(Node { native, own, words, process: None });
        let command = self.run(number - 1)?;
        self.commands.push(command);
        Ok(())
    }

    /// Starts the process of a node that has none, and waits until it serves. Its command line.
    pub(crate) fn run(&mut self, node: usize) -> Result<String, BenchError> {
        let Cluster { name, place, nodes, .. } = self;
        let node = &mut nodes[node];
        let (spawned, _) = announced(name, &node.words, place, &node.own)?;
        node.process = Some(spawned.process);
        Ok(spawned.command)
    }

    /// Ends a node with SIGKILL.
    pub(crate) fn kill(&mut self, node: usize) {
        self.nodes[node].process = None;
    }

    /// Stops a node with SIGSTOP.
    pub(crate) fn pause(&self, node: usize) {
        self.nodes[node].process.iter().for_each(OwnedProcess::pause);
    }

    /// Lets a stopped node go on.
    pub(crate) fn resume(&self, node: usize) {
        self.nodes[node].process.iter().for_each(OwnedProcess::resume);
    }

    /// Where the nodes serve clients, in order.
    pub(crate) fn natives(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(|node| node.native).collect()
    }

    /// How it was started, as one would type it.
    pub(crate) fn commands(&self) -> &[String] {
        &self.commands
    }

    /// What `forebay` with these words prints; it must succeed.
    pub(crate) fn forebay(&self, words: &[String]) -> Result<String, BenchError> {
        let failed = |said: String| BenchError::DoesNotStart {
            name: self.name.clone(),
            words: said,
            command: format!("forebay {}", words.join(" ")),
        };
        let ran = Command::new(&self.program).args(words).stdin(Stdio::null()).output();
        let ran = ran.map_err(|error| failed(error.to_string()))?;
        match ran.status.success() {
            true => Ok(String::from_utf8_lossy(&ran.stdout).into_owned()),
            false => Err(failed(String::from_utf8_lossy(&ran.stderr).into_owned())),
        }
    }

    fn into_member(self) -> Result<Member, BenchError> {
        let (scheme, part) = match &self.certificates {
            Some(directory) => ("forebay+tls", certificates_part(directory)?),
            None => ("forebay", String::new()),
        };
        let natives: Vec<String> = self.natives().iter().map(SocketAddr::to_string).collect();
        let processes = self.nodes.into_iter().filter_map(|node| node.process);
        Ok(Member {
            name: self.name,
            url: url(&format!("{scheme}://{}{part}", natives.join(","))),
            http: None,
            command: self.commands.join("\n    "),
            processes: processes.collect(),
            dir: Some(self.dir),
        })
    }
}

pub(super) fn start_forebay3(name: &str, place: &Place, tls: bool) -> Result<Member, BenchError> {
    Cluster::start_with(name, place, tls)?.into_member()
}

/// The part of a node's configuration that is about certificates.
fn security(certificates: Option<&PathBuf>, number: usize) -> String {
    let Some(certificates) = certificates else { return "insecure = true\n".to_owned() };
    format!(
        "[tls]\ncertificate = {:?}\nkey = {:?}\nauthority = {:?}\n",
        certificates.join(format!("n{number}.pem")),
        certificates.join(format!("n{number}.key")),
        certificates.join("authority.pem")
    )
}
