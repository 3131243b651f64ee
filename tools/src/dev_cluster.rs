//! `dev` with several nodes: a cluster in one process, each node in a directory and a zone of its own.
//!
//! ```text
//!   DATA/cluster.toml      the cluster's id, and whether its system group exists
//!   DATA/node-1 …          data directories like those of `forebay node`
//! ```
//!
//! The nodes find each other through this process: the ports on which they listen for peers are any
//! free ones of the loopback interface, told to all at every start.
//!
//! So that a loss can be watched, SIGUSR1 stops a node, and SIGUSR2 starts it again: the third, then the
//! second, because the first three hold whatever was made first.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use forebay_net::metrics::{ShardMetrics, ShardPhase};
use forebay_net::node::config::{ClusterPlace, NodeConfig};
use forebay_net::node::{Node, NodeError};
use forebay_net::replication::{Topology, TopologyNode};
use forebay_net::tls::TlsFiles;
use forebay_storage::directory::{DataDirectory, replace_file};
use rand::TryRngCore;
use serde::{Deserialize, Serialize};

use crate::exit::{Exit, Failure};
use crate::run::Running;

const FILE: &str = "cluster.toml";
const FILE_NEW: &str = "cluster.toml.new";

/// Nodes of one process, at most: more help nobody on one machine.
pub(crate) const NODES_MAX: u32 = 16;

/// Nodes that hold the system group, and a table's first partition, when they are made.
const FOUNDERS: usize = 3;

/// What DATA/cluster.toml says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ClusterFile {
    /// 32 hexadecimal digits.
    cluster_id: String,
    nodes: u32,
    /// Of each node; absent where an older program made the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    shards: Option<u16>,
    /// The system group exists.
    bootstrapped: bool,
    /// The nodes that ever were, by place, each by the id that is kept with its data. A directory that
    /// was deleted comes back as another node, in another place.
    #[serde(default)]
    places: Vec<String>,
}

impl ClusterFile {
    /// Every node in its place: those that are there, and those whose data are gone.
    fn place(&mut self, nodes: Vec<TopologyNode>) -> Vec<TopologyNode> {
        let name = |node_id: [u8; 16]| format!("{:032x}", u128::from_be_bytes(node_id));
        for node in &nodes {
            let name = name(node.node_id);
            if !self.places.contains(&name) {
                self.places.push(name);
            }
        }
        let in_place = |place: &String| {
            let found = nodes.iter().find(|node| name(node.node_id) == *place);
            found.cloned().unwrap_or_else(|| {
                let node_id = u128::from_str_radix(place, 16).unwrap_or_default().to_be_bytes();
                let (native, peer) = (Vec::new(), Vec::new());
                TopologyNode { node_id, az: 0, certified: None, native, peer }
            })
        };
        self.places.iter().map(in_place).collect()
    }
}

/// What a directory holds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Nothing that anybody would miss.
    Nothing,
    /// A node that stands alone.
    One,
    /// A cluster of this program's.
    Several {
        /// How many nodes.
        nodes: u32,
        /// Of each node, if the directory says.
        shards: Option<u16>,
    },
}

/// Names in a directory that holds nothing yet: of a creation that was cut short, or of its owner.
const HARMLESS: [&str; 7] = [
    "forebay.lock",
    "node.toml.new",
    "disk.toml",
    "disk.toml.new",
    "lost+found",
    "certificates",
    FILE_NEW,
];

/// Looks at what is in `data`.
pub(crate) fn find(data: &Path) -> Result<Found, Failure> {
    if let Some(file) = read(data)? {
        return Ok(Found::Several { nodes: file.nodes, shards: file.shards });
    }
    if data.join("node.toml").exists() {
        return Ok(Found::One);
    }
    let Ok(entries) = std::fs::read_dir(data) else { return Ok(Found::Nothing) };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !HARMLESS.contains(&name.as_str()) && !name.starts_with("node-") {
            let message = format!("{} holds {name}; take an empty --data", data.display());
            return Err(Failure::new(Exit::Usage, message));
        }
    }
    Ok(Found::Nothing)
}

/// The number of nodes, if it is what was asked for.
pub(crate) fn same(data: &Path, nodes: u32, asked: u32) -> Result<u32, Failure> {
    match nodes == asked {
        true => Ok(nodes),
        false => {
            let message = format!(
                "--nodes {asked}: {} has {nodes} node(s) and stays so; leave --nodes out, or take \
                 another --data",
                data.display()
            );
            Err(Failure::new(Exit::Usage, message))
        }
    }
}

/// One configuration for each node, from that of a single one: its memory is divided, its ports
/// follow each other.
pub(crate) fn configs(config: &NodeConfig, nodes: u32) -> Vec<NodeConfig> {
    let shards = config.shards.unwrap_or(NodeConfig::NEW_DIRECTORY.shards);
    let plus = |address: SocketAddr, step: u32| {
        let port = match address.port() {
            0 => 0,
            first => u16::try_from(u32::from(first) + step).unwrap_or(u16::MAX),
        };
        SocketAddr::new(address.ip(), port)
    };
    let of = |place: u32| NodeConfig {
        data_dir: config.data_dir.join(format!("node-{}", place + 1)),
        native: plus(config.native, place * u32::from(shards)),
        http: config.http.map(|http| plus(http, place)),
        memory_bytes: config.memory_bytes / u64::from(nodes),
        tls: config.tls.as_ref().map(|_| {
            let certificates = crate::dev::certificates(&config.data_dir);
            TlsFiles::in_directory(&certificates, &format!("node-{}", place + 1))
        }),
        // The nodes share the cores.
        pin_cores: false,
        cluster: Some(ClusterPlace {
            advertise: None,
            az: place as u16,
            peer: SocketAddr::from(([127, 0, 0, 1], 0)),
        }),
        ..config.clone()
    };
    (0..nodes).map(of).collect()
}

/// Whether a node runs.
enum State {
    Running(Box<Node>),
    /// It was told to stop.
    Ending(JoinHandle<Result<(), NodeError>>),
    Away,
}

/// A node, and what it takes to start it again.
struct Seat {
    config: NodeConfig,
    described: TopologyNode,
    state: State,
}

impl Seat {
    fn node(&self) -> Option<&Node> {
        match &self.state {
            State::Running(node) => Some(node),
            _ => None,
        }
    }

    fn node_mut(&mut self) -> Option<&mut Node> {
        match &mut self.state {
            State::Running(node) => Some(node),
            _ => None,
        }
    }

    /// Starts the node in its directory, where it listened before.
    fn start(&mut self) -> Result<(), Failure> {
        let mut config = self.config.clone();
        if let ([native], [peer]) = (&self.described.native[..], &self.described.peer[..]) {
            config.native = *native;
            config.cluster = config.cluster.map(|place| ClusterPlace { peer: *peer, ..place });
        }
        let request = config.directory_request();
        let directory = DataDirectory::open_or_create(&config.data_dir, &request, &mut |_| {})?;
        let node = Node::start(&config, directory)?;
        self.described = node.topology_node().expect("it is one of a cluster");
        self.state = State::Running(Box::new(node));
        Ok(())
    }
}

/// The nodes of a cluster in this process.
struct Cluster {
    seats: Vec<Seat>,
    data: PathBuf,
    file: ClusterFile,
    cluster_id: [u8; 16],
}

impl Cluster {
    fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.seats.iter().filter_map(Seat::node)
    }

    /// Tells all nodes of each other.
    fn introduce(&mut self, bootstrap: bool) -> Result<(), Failure> {
        let places = self.file.places.clone();
        let described = self.seats.iter().map(|seat| seat.described.clone()).collect();
        let nodes = self.file.place(described);
        if self.file.places != places {
            write(&self.data, &self.file)?;
        }
        let topology = Arc::new(Topology { cluster_id: self.cluster_id, nodes });
        for node in self.seats.iter_mut().filter_map(Seat::node_mut) {
            node.set_topology(&topology, bootstrap);
        }
        Ok(())
    }

    /// Stops the last of the first three nodes that run, or of all.
    fn lose(&mut self) -> String {
        let last = |seats: &[Seat]| seats.iter().rposition(|seat| seat.node().is_some());
        let first = &self.seats[..self.seats.len().min(FOUNDERS)];
        let Some(place) = last(first).or_else(|| last(&self.seats)) else {
            return "no node runs".to_owned();
        };
        let seat = &mut self.seats[place];
        let State::Running(node) = std::mem::replace(&mut seat.state, State::Away) else {
            unreachable!("just looked")
        };
        seat.state = State::Ending(std::thread::spawn(move || Node::stop(*node)));
        let name = place + 1;
        format!(
            "node {name} stops, and SIGUSR2 starts it again; see `forebay admin groups` meanwhile"
        )
    }

    /// Starts the first node that was lost.
    fn bring_back(&mut self) -> String {
        let Some(place) = self.seats.iter().position(|seat| seat.node().is_none()) else {
            return "all nodes run".to_owned();
        };
        let name = place + 1;
        if matches!(self.seats[place].state, State::Ending(_)) {
            return format!("node {name} has not ended yet; once more in a moment");
        }
        let started = self.seats[place].start().and_then(|()| self.introduce(false));
        match started {
            Ok(()) => format!("node {name} starts again"),
            Err(failure) => format!("node {name} does not start: {}", failure.message),
        }
    }
}

/// Starts the nodes and tells them of each other.
pub(crate) fn start(
    data: &Path,
    opened: Vec<(NodeConfig, DataDirectory)>,
) -> Result<Box<dyn Running>, Failure> {
    let shards = opened.first().map_or(1, |(_, directory)| directory.geometry().shards);
    let file = read_or_draw(data, opened.len() as u32, shards)?;
    if opened.iter().any(|(config, _)| config.tls.is_some()) {
        crate::dev::make_certificates(data, opened.len() as u32)?;
    }
    let digits = u128::from_str_radix(&file.cluster_id, 16);
    let cluster_id = digits.map_err(|error| bad_file(data, &error.to_string()))?.to_be_bytes();
    let mut seats = Vec::with_capacity(opened.len());
    for (config, directory) in opened {
        let node = Node::start(&config, directory)?;
        let described = node.topology_node().expect("it is one of a cluster");
        seats.push(Seat { config, described, state: State::Running(Box::new(node)) });
    }
    let bootstrap = !file.bootstrapped;
    let mut cluster = Cluster { seats, data: data.to_owned(), file, cluster_id };
    cluster.introduce(bootstrap)?;
    Ok(Box::new(cluster))
}

/// A fresh cluster's id.
pub(crate) fn draw_id() -> Result<[u8; 16], impl std::fmt::Display> {
    let mut id = [0; 16];
    rand::rngs::OsRng.try_fill_bytes(&mut id).map(|()| id)
}

fn bad_file(data: &Path, problem: &str) -> Failure {
    let path = data.join(FILE);
    Failure::new(Exit::Usage, format!("{}: {problem}; take another --data", path.display()))
}

fn read(data: &Path) -> Result<Option<ClusterFile>, Failure> {
    match std::fs::read_to_string(data.join(FILE)) {
        Ok(text) => {
            toml::from_str(&text).map(Some).map_err(|error| bad_file(data, error.message()))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(bad_file(data, &error.to_string())),
    }
}

fn read_or_draw(data: &Path, nodes: u32, shards: u16) -> Result<ClusterFile, Failure> {
    if let Some(file) = read(data)? {
        same(data, file.nodes, nodes)?;
        return Ok(file);
    }
    let id = draw_id().map_err(|error| bad_file(data, &format!("no randomness: {error}")))?;
    let cluster_id = format!("{:032x}", u128::from_be_bytes(id));
    let (shards, places) = (Some(shards), Vec::new());
    let file = ClusterFile { cluster_id, nodes, shards, bootstrapped: false, places };
    write(data, &file)?;
    Ok(file)
}

fn write(data: &Path, file: &ClusterFile) -> Result<(), Failure> {
    let text = toml::to_string(file).expect("plain fields serialize");
    let text = format!("# Written by forebay when it made this cluster. Do not edit.\n{text}");
    Ok(replace_file(data, FILE_NEW, FILE, text.as_bytes())?)
}

impl Running for Cluster {
    fn native_addrs(&self) -> Vec<SocketAddr> {
        self.nodes().filter_map(|node| node.native_addrs().first().copied()).collect()
    }

    fn http_addrs(&self) -> Vec<SocketAddr> {
        self.nodes().filter_map(Node::http_addr).collect()
    }

    fn metrics(&self) -> Vec<Arc<ShardMetrics>> {
        self.nodes().flat_map(Node::metrics).collect()
    }

    fn is_ready(&mut self) -> bool {
        let metrics = self.metrics();
        let serving = metrics.iter().all(|shard| shard.phase() == ShardPhase::Serving);
        let led = metrics.iter().any(|shard| shard.groups_led.get() > 0);
        if serving && led && !self.file.bootstrapped {
            self.file.bootstrapped = true;
            // Not written: the next start says again what the nodes know by then.
            if let Err(failure) = write(&self.data, &self.file) {
                eprintln!("forebay: {}", failure.message);
            }
        }
        serving && led
    }

    fn step(&mut self) -> Result<(), Failure> {
        for seat in &mut self.seats {
            if matches!(&seat.state, State::Ending(thread) if thread.is_finished())
                && let State::Ending(thread) = std::mem::replace(&mut seat.state, State::Away)
            {
                thread.join().expect("stopping a node does not panic")?;
            }
        }
        Ok(())
    }

    fn user_signal(&mut self, first: bool) -> Option<String> {
        Some(if first { self.lose() } else { self.bring_back() })
    }

    fn failure(&mut self) -> Option<Failure> {
        let mut nodes = self.seats.iter_mut().filter_map(Seat::node_mut);
        nodes.find_map(Node::failure).map(Failure::from)
    }

    fn stop(self: Box<Self>) -> Result<(), Failure> {
        // All at once: each hands over what it leads while somebody is there to take it.
        let stop = |seat: Seat| match seat.state {
            State::Running(node) => Some(std::thread::spawn(move || Node::stop(*node))),
            State::Ending(thread) => Some(thread),
            State::Away => None,
        };
        let stopping: Vec<_> = self.seats.into_iter().filter_map(stop).collect();
        let mut first = Ok(());
        for thread in stopping {
            let ended = thread.join().expect("stopping a node does not panic");
            first = first.and(ended.map_err(Failure::from));
        }
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_node_has_a_directory_a_zone_and_ports_of_its_own() {
        let config = NodeConfig { shards: Some(2), ..NodeConfig::new("data".into()) };
        let configs = configs(&config, 3);
        let ports: Vec<u16> = configs.iter().map(|config| config.native.port()).collect();
        assert_eq!(ports, [4700, 4702, 4704]);
        let azs: Vec<u16> = configs.iter().map(|config| config.cluster.unwrap().az).collect();
        assert_eq!(azs, [0, 1, 2]);
        assert_eq!(configs[2].data_dir, Path::new("data/node-3"));
        assert_eq!(configs[1].memory_bytes, config.memory_bytes / 3);
    }

    #[test]
    fn a_node_whose_data_are_gone_is_another_one_in_another_place() {
        let data = tempfile::tempdir().unwrap();
        let mut file = read_or_draw(data.path(), 3, 1).unwrap();
        let at = |port: u16| vec![SocketAddr::from(([127, 0, 0, 1], port))];
        let node = |n: u8| TopologyNode {
            node_id: [n; 16],
            az: n.into(),
            certified: None,
            native: at(1000 + u16::from(n)),
            peer: at(2000 + u16::from(n)),
        };
        let first = file.place(vec![node(1), node(2), node(3)]);
        assert_eq!(first, [node(1), node(2), node(3)]);
        let later = file.place(vec![node(1), node(9), node(3)]);
        assert_eq!(later.len(), 4);
        assert_eq!((&later[0], &later[2], &later[3]), (&node(1), &node(3), &node(9)));
        assert_eq!((later[1].node_id, later[1].peer.len()), ([2; 16], 0));
        assert_eq!(file.place(vec![node(1), node(9), node(3)]), later);
    }

    #[test]
    fn a_cluster_keeps_its_id_and_its_number_of_nodes() {
        let data = tempfile::tempdir().unwrap();
        let first = read_or_draw(data.path(), 3, 2).unwrap();
        assert!(!first.bootstrapped);
        assert_eq!(read_or_draw(data.path(), 3, 2).unwrap().cluster_id, first.cluster_id);
        assert_eq!(find(data.path()).unwrap(), Found::Several { nodes: 3, shards: Some(2) });
        let failure = read_or_draw(data.path(), 5, 2).unwrap_err();
        assert!(failure.message.contains("has 3 node(s)"), "{}", failure.message);
        std::fs::write(data.path().join(FILE), "nonsense").unwrap();
        assert!(read_or_draw(data.path(), 3, 2).is_err());
    }

    #[test]
    fn a_directory_is_known_by_what_is_in_it() {
        let data = tempfile::tempdir().unwrap();
        assert_eq!(find(&data.path().join("absent")).unwrap(), Found::Nothing);
        std::fs::write(data.path().join("disk.toml"), "").unwrap();
        std::fs::create_dir(data.path().join("node-1")).unwrap();
        assert_eq!(find(data.path()).unwrap(), Found::Nothing, "a creation was cut short");
        std::fs::write(data.path().join("node.toml"), "").unwrap();
        assert_eq!(find(data.path()).unwrap(), Found::One);
        let foreign = tempfile::tempdir().unwrap();
        std::fs::write(foreign.path().join("letter.txt"), "dear").unwrap();
        assert!(find(foreign.path()).unwrap_err().message.contains("letter.txt"));
    }
}
