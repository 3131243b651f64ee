//! `forebay node` processes that form one cluster, each with its own directory and zone.
//!
//! ```text
//!   DIR/n1/forebay.toml, DIR/n1/data     node 1: process, client's port, operator HTTP
//!   DIR/n2 …, DIR/n3 …                   each may be killed, started again, stopped, continued
//! ```

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use forebay_net::relay::Relay;

use super::own::{announced, certificates_part, forebay};
use super::ports::{attempts, free_port};
use super::process::{OwnedDir, OwnedProcess};
use super::{Member, Place, url};
use crate::error::BenchError;

/// Of the smallest cluster that outlives one member.
const NODES: usize = 3;
/// For each node, in MiB: what one that stands alone gets is divided.
const MEMORY_MIB: u64 = 512 / NODES as u64;

/// What a cluster is made of.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    /// So many nodes.
    pub(crate) nodes: usize,
    /// Links and clients speak TLS, with certificates made for the occasion.
    pub(crate) tls: bool,
    /// Of each node.
    pub(crate) memory_mib: u64,
    /// Further lines of each node's configuration, before its sections.
    pub(crate) lines: String,
    /// Links run through a relay that can break them. Not with `tls`.
    pub(crate) relayed: bool,
}

impl Default for Shape {
    fn default() -> Shape {
        Shape {
            nodes: NODES,
            tls: false,
            memory_mib: MEMORY_MIB,
            lines: String::new(),
            relayed: false,
        }
    }
}

/// One of the processes.
#[derive(Debug)]
struct Node {
    native: SocketAddr,
    http: SocketAddr,
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
    relay: Option<Relay>,
    dir: OwnedDir,
}

impl Cluster {
    /// Starts three nodes and makes a cluster of them; returns when it has a leader. With `tls`, links and clients speak TLS with certificates made for the occasion; with so
    /// much memory for each node.
    pub(crate) fn start_with(
        name: &str,
        place: &Place,
        tls: bool,
        memory_mib: u64,
    ) -> Result<Cluster, BenchError> {
        Cluster::start_of(name, place, &Shape { tls, memory_mib, ..Shape::default() })
    }

    /// The same, of this shape.
    pub(crate) fn start_of(
        name: &str,
        place: &Place,
        shape: &Shape,
    ) -> Result<Cluster, BenchError> {
        attempts(|| {
            let program = forebay(name)?;
            let dir = OwnedDir::create(&place.data_dir, name)?;
            let (name, place) = (name.to_owned(), place.clone());
            let certificates = shape.tls.then(|| dir.path().join("certificates"));
            let (commands, nodes) = (Vec::new(), Vec::new());
            let relay = None;
            let mut cluster =
                Cluster { name, program, place, commands, certificates, nodes, relay, dir };
            if let Some(directory) = &cluster.certificates {
                let names = (1..=shape.nodes).map(|number| format!("n{number}"));
                let words = ["certs".to_owned(), directory.display().to_string()];
                let words: Vec<String> = words.into_iter().chain(names).collect();
                cluster.forebay(&words)?;
                cluster.commands.push(format!("forebay {}", words.join(" ")));
            }
            let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            let peers = (0..shape.nodes).map(|_| free_port().map(loopback));
            let peers = peers.collect::<Result<Vec<_>, _>>()?;
            if shape.relayed {
                let relay = Relay::start(&peers);
                let what = "starting the relay between the nodes";
                cluster.relay = Some(relay.map_err(|source| BenchError::Io { what, source })?);
            }
            for (place, peer) in peers.into_iter().enumerate() {
                cluster.add(place + 1, peer, shape)?;
            }
            let natives = cluster.natives();
            let natives = natives.iter().map(SocketAddr::to_string);
            let words = std::iter::once("init".to_owned()).chain(natives);
            let words = cluster.admin_words(words.collect());
            cluster.forebay(&words)?;
            cluster.commands.push(format!("forebay {}", words.join(" ")));
            Ok(cluster)
        })
    }

    fn add(&mut self, number: usize, peer: SocketAddr, shape: &Shape) -> Result<(), BenchError> {
        let own = self.dir.path().join(format!("n{number}"));
        let config = own.join("forebay.toml");
        let file = |source| BenchError::File { path: config.clone(), source };
        std::fs::create_dir(&own).map_err(file)?;
        let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let [native, http] = [free_port()?, free_port()?].map(loopback);
        let advertise = self.relay.as_ref().map_or_else(String::new, |relay| {
            format!("advertise = \"{}\"\n", relay.addresses()[number - 1])
        });
        let Shape { memory_mib, lines, .. } = shape;
        let text = format!(
            "data = {:?}\nnative = \"{native}\"\nhttp = \"{http}\"\nmemory = \"{memory_mib}MiB\"\n\
             pin_cores = false\n{lines}{}[cluster]\npeer = \"{peer}\"\n{advertise}az = {number}\n",
            own.join("data"),
            security(self.certificates.as_ref(), number)
        );
        std::fs::write(&config, text).map_err(file)?;
        let words = ["node", "--config", &config.display().to_string()].map(str::to_owned);
        let words = std::iter::once(self.program.clone()).chain(words).collect();
        self.nodes.push(Node { native, http, own, words, process: None });
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

    /// The nodes' operator HTTP, in order.
    pub(crate) fn https(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(|node| node.http).collect()
    }

    /// CPU time of all its processes, in microseconds.
    pub(crate) fn cpu_micros(&self) -> u64 {
        let processes = self.nodes.iter().filter_map(|node| node.process.as_ref());
        processes.filter_map(|process| crate::sys::process_cpu_micros(process.pid())).sum()
    }

    /// The largest memory that its processes ever had in use, together.
    pub(crate) fn resident_peak_bytes(&self) -> u64 {
        let processes = self.nodes.iter().filter_map(|node| node.process.as_ref());
        processes.filter_map(|process| crate::sys::resident_peak_bytes(process.pid())).sum()
    }

    /// How it was started, as one would type it.
    pub(crate) fn commands(&self) -> &[String] {
        &self.commands
    }

    /// What the links run through, if they do.
    pub(crate) fn relay(&self) -> Option<&Relay> {
        self.relay.as_ref()
    }

    /// Where the certificates are, if nodes and clients speak TLS.
    pub(crate) fn certificates(&self) -> Option<&Path> {
        self.certificates.as_deref()
    }

    fn admin_words(&self, words: Vec<String>) -> Vec<String> {
        let mut all = vec!["admin".to_owned()];
        if let Some(directory) = &self.certificates {
            all.extend(["--certificates".to_owned(), directory.display().to_string()]);
        }
        all.extend(words);
        all
    }

    /// What `forebay admin` with these words prints, shown certificates where nodes want them; it must
    /// succeed.
    pub(crate) fn admin<const N: usize>(&self, words: [&str; N]) -> Result<String, BenchError> {
        self.forebay(&self.admin_words(words.map(str::to_owned).into()))
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
    Cluster::start_with(name, place, tls, MEMORY_MIB)?.into_member()
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
