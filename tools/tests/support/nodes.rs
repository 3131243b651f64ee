//! Clusters of real processes: nodes that are started together, made one cluster by the operator's own
//! commands, killed, started again, and asked what they know.
//!
//! ```text
//!   Layout::of(3).secured().start(dir)        DIR/node-0.toml, DIR/data-0        node 0
//!        │                                    DIR/node-1.toml, DIR/data-1        node 1   …
//!        ▼                                    DIR/certificates                   if secured
//!   Nodes ── init ──► one cluster ── kill, restart, signal ──► members, leader, wait_until_whole
//! ```
//!
//! A node is known by its *place*: its number here, and the place in the cluster that it was made with.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use forebay_net::client::{Client, ClientConfig};
use forebay_net::relay::Relay;
use forebay_net::tls::ClientTls;

use super::process::{Node, code, forebay, free_addresses, stderr, stdout};
use super::text;

/// What nothing in a test of clusters may take longer than, on a machine however busy.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// The members of each group that answer: the place of the node, and what its shard says.
pub type Members = BTreeMap<u64, Vec<(usize, serde_json::Value)>>;

/// How nodes are set up.
#[derive(Clone, Debug, Default)]
pub struct Layout {
    count: usize,
    secured: bool,
    relayed: bool,
    lines: String,
}

impl Layout {
    /// So many nodes, each in an AZ of its own, that speak plain text.
    pub fn of(count: usize) -> Layout {
        Layout { count, ..Layout::default() }
    }

    /// Nodes and clients speak TLS.
    pub fn secured(mut self) -> Layout {
        self.secured = true;
        self
    }

    /// Links run through a relay, which can break them.
    pub fn relayed(mut self) -> Layout {
        self.relayed = true;
        self
    }

    /// Further lines of every node's configuration, above its sections.
    pub fn lines(mut self, lines: &str) -> Layout {
        self.lines.push_str(lines);
        self
    }

    /// Running, and in no cluster yet.
    pub fn start(self, dir: &Path) -> Nodes {
        let addresses = free_addresses(2 * self.count);
        let (natives, peers) = addresses.split_at(self.count);
        let (natives, peers) = (natives.to_vec(), peers.to_vec());
        let names: Vec<String> = (0..self.count).map(certificate_name).collect();
        if self.secured {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            make_certificates(&dir.join("certificates"), &names);
        }
        let relay = self.relayed.then(|| Relay::start(&peers).expect("free ports"));
        let (dir, running) = (dir.to_owned(), Vec::new());
        let mut nodes = Nodes { dir, layout: self, natives, peers, running, relay };
        for (place, name) in names.iter().enumerate() {
            nodes.running.push(None);
            nodes.start_as(place, name);
        }
        nodes
    }
}

/// The name in a node's certificate: `a` for the first.
pub fn certificate_name(place: usize) -> String {
    char::from(b'a' + u8::try_from(place).expect("few nodes")).to_string()
}

/// `forebay certs`.
pub fn make_certificates(directory: &Path, names: &[&str]) {
    let mut args = vec!["certs", text(directory)];
    args.extend(names);
    let output = forebay(&args);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
}

/// A client that shows the certificate in this directory.
pub fn client_secured(certificates: &Path) -> ClientConfig {
    let tls = ClientTls::in_directory(certificates).expect("`forebay certs` made them");
    ClientConfig { tls: Some(tls), ..ClientConfig::default() }
}

/// Nodes, each in a process of its own. They end with their test.
pub struct Nodes {
    dir: PathBuf,
    layout: Layout,
    /// Where each listens for clients.
    pub natives: Vec<SocketAddr>,
    peers: Vec<SocketAddr>,
    running: Vec<Option<Node>>,
    relay: Option<Relay>,
}

impl Nodes {
    /// So many plain ones, running, and in no cluster yet.
    pub fn start(dir: &Path, count: usize) -> Nodes {
        Layout::of(count).start(dir)
    }

    /// Where a node listens for the others.
    pub fn peer(&self, place: usize) -> SocketAddr {
        self.peers[place]
    }

    /// What the links run through, where they do.
    pub fn relay(&self) -> &Relay {
        self.relay.as_ref().expect("the layout has one")
    }

    /// The node's data directory.
    pub fn data_dir(&self, place: usize) -> PathBuf {
        self.dir.join(format!("data-{place}"))
    }

    /// Where the certificates are, of nodes that have them.
    pub fn certificates(&self) -> PathBuf {
        assert!(self.layout.secured, "these have none");
        self.dir.join("certificates")
    }

    /// Starts a node that does not run, with the certificate of this name.
    pub fn start_as(&mut self, place: usize, name: &str) {
        assert!(self.running[place].is_none(), "node {place} runs");
        let mut config = format!(
            "data = {:?}\nnative = \"{}\"\nhttp = \"127.0.0.1:0\"\nmemory = \"64MiB\"\n\
             pin_cores = false\n{}",
            self.data_dir(place),
            self.natives[place],
            self.layout.lines
        );
        match self.layout.secured {
            true => config.push_str(&format!(
                "[tls]\ncertificate = {:?}\nkey = {:?}\nauthority = {:?}\n",
                self.certificates().join(format!("{name}.pem")),
                self.certificates().join(format!("{name}.key")),
                self.certificates().join("authority.pem")
            )),
            false => config.push_str("insecure = true\n"),
        }
        config.push_str(&format!("[cluster]\npeer = \"{}\"\naz = {place}\n", self.peers[place]));
        if let Some(relay) = &self.relay {
            config.push_str(&format!("advertise = \"{}\"\n", relay.addresses()[place]));
        }
        let file = self.dir.join(format!("node-{place}.toml"));
        std::fs::write(&file, config).unwrap();
        self.running[place] = Some(Node::configured(&file));
    }

    /// Starts a node that does not run, as it was.
    pub fn restart(&mut self, place: usize) {
        self.start_as(place, &certificate_name(place));
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(&mut self, place: usize) {
        let mut node = self.running[place].take().expect("it runs");
        node.kill();
        drop(node.end());
    }

    /// SIGTERM to all that run, one after the other, which must end well; what each of them said.
    pub fn stop(self) -> Vec<(usize, String)> {
        let running = self.running.into_iter().enumerate();
        running.filter_map(|(place, node)| Some((place, node?.stop()))).collect()
    }

    /// Whether the node's process runs.
    pub fn runs(&self, place: usize) -> bool {
        self.running.get(place).is_some_and(Option::is_some)
    }

    /// A node that runs.
    pub fn node(&self, place: usize) -> &Node {
        self.running[place].as_ref().expect("it runs")
    }

    /// `forebay admin` with these words, and certificates where they are needed.
    pub fn admin(&self, words: &[&str]) -> std::process::Output {
        let certificates = self.dir.join("certificates");
        let mut args = vec!["admin"];
        if self.layout.secured {
            args.extend(["--certificates", text(&certificates)]);
        }
        args.extend(words);
        forebay(&args)
    }

    /// Makes a cluster of the first so many.
    pub fn init(&self, count: usize) {
        let names: Vec<String> =
            self.natives.iter().take(count).map(SocketAddr::to_string).collect();
        let mut words = vec!["init"];
        words.extend(names.iter().map(String::as_str));
        let output = self.admin(&words);
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        assert!(stdout(&output).contains(&format!("of {count} nodes")), "{}", stdout(&output));
    }

    /// A client of the nodes at these places.
    pub async fn connect_to(&self, places: std::ops::Range<usize>) -> Client {
        let config = match self.layout.secured {
            true => client_secured(&self.certificates()),
            false => ClientConfig::default(),
        };
        Client::connect(&self.natives[places], config).await.expect("a node answers")
    }

    /// A client of them all.
    pub async fn connect(&self) -> Client {
        self.connect_to(0..self.natives.len()).await
    }

    /// Every member that answers, as a node that runs finds them.
    pub fn members(&self) -> Members {
        let up = self.running.iter().position(Option::is_some).expect("one runs");
        let output = self.admin(&["groups", &self.natives[up].to_string(), "--json"]);
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        let found: Vec<(SocketAddr, serde_json::Value)> =
            serde_json::from_str(&stdout(&output)).unwrap();
        let mut groups = Members::new();
        for (at, member) in found {
            let place = self.natives.iter().position(|native| *native == at).expect("it is ours");
            groups.entry(member["group"].as_u64().unwrap()).or_default().push((place, member));
        }
        groups
    }

    /// Looks until `check` finds what it looks for in the members of all groups.
    pub fn wait_for<T>(&self, what: &str, mut check: impl FnMut(&Members) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let groups = self.members();
            if let Some(found) = check(&groups) {
                return found;
            }
            assert!(Instant::now() < deadline, "not {what}: {groups:#?}");
            std::thread::sleep(PAUSE);
        }
    }

    /// Waits until `is_so` of every group, as its leader describes it; how long that took.
    pub fn wait_until(&self, what: &str, is_so: impl Fn(&serde_json::Value) -> bool) -> Duration {
        let begun = Instant::now();
        self.wait_for(what, |groups| {
            let so = |members: &Vec<(usize, serde_json::Value)>| {
                members.iter().any(|(_, member)| member["lease"] == true && is_so(member))
            };
            groups.values().all(so).then(|| begun.elapsed())
        })
    }

    /// Waits until every group has three members that run and say so themselves (one of a new table
    /// may not have begun yet), of which so many keep the state.
    pub fn wait_until_whole(&self, storage: usize) -> Duration {
        let begun = Instant::now();
        let whole = |found: &Vec<(usize, serde_json::Value)>| {
            let leader = found.iter().find(|(_, member)| member["lease"] == true);
            let members = leader.map(|(_, leader)| members_of(leader)).unwrap_or_default();
            let kept = members.iter().filter(|(_, keeps)| keeps == "storage").count();
            let is_here = |at: usize| self.runs(at) && found.iter().any(|(place, _)| *place == at);
            members.len() == 3 && kept >= storage && members.iter().all(|(at, _)| is_here(*at))
        };
        self.wait_for("whole", |groups| groups.values().all(whole).then(|| begun.elapsed()))
    }

    /// Waits until three members of every group have applied the same slot.
    pub fn wait_until_equal(&self) {
        self.wait_for("equal", |groups| {
            let slots = |members: &[(usize, serde_json::Value)]| -> Vec<u64> {
                let slots = members.iter().map(|(_, member)| member["applied_slot"].as_u64());
                slots.map(Option::unwrap).collect()
            };
            let equal = |slots: Vec<u64>| slots.len() == 3 && slots.iter().all(|s| *s == slots[0]);
            groups.values().all(|members| equal(slots(members))).then_some(())
        });
    }

    /// Who leads the first group of `table`, and its ballot.
    pub fn lead(&self, table: &str) -> (usize, u64) {
        self.wait_for("led", |groups| {
            let mut all = groups.values().flatten();
            let leads = all.find(|(_, member)| member["table"] == table && leads(member));
            leads.map(|(place, member)| (*place, member["ballot"].as_u64().unwrap()))
        })
    }

    /// How often a member has become leader of any group, over all nodes that run.
    pub fn elections(&self) -> u64 {
        let running = self.running.iter().flatten();
        running.map(|node| node.metric("forebay_shard_leads_won_total{shard=\"0\"}")).sum()
    }

    /// A node that leads some group of `table`, and serves.
    pub fn leader(&self, table: &str) -> usize {
        self.wait_for("led", |groups| {
            let mut all = groups.values().flatten();
            let leads = all.find(|(_, member)| member["table"] == table && leads(member));
            leads.map(|(place, _)| *place)
        })
    }
}

/// Whether this member leads, and serves.
pub fn leads(member: &serde_json::Value) -> bool {
    member["role"] == "leading" && member["lease"] == true
}

/// A metric of a node's shard 0.
pub fn metric(nodes: &Nodes, place: usize, name: &str) -> u64 {
    nodes.node(place).metric(&format!("forebay_shard_{name}{{shard=\"0\"}}"))
}

/// Waits until it is so.
pub fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "not {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The members of a group by its leader: the places of their nodes in the cluster, and what they keep.
pub fn members_of(leader: &serde_json::Value) -> Vec<(usize, String)> {
    let members = leader["members"].as_array().unwrap().iter();
    let member = |member: &serde_json::Value| {
        (member[0].as_u64().unwrap() as usize / 256, member[2].as_str().unwrap().to_owned())
    };
    members.map(member).collect()
}
