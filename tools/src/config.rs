//! The configuration file of `forebay node`.
//!
//! Every value has a default except `data`. An unknown name, a wrong type and a value out of range
//! are errors that name the line and the field.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use forebay_net::node::config::{ClusterPlace, ConfigError, DurableMode, NodeConfig};
use forebay_net::tls::TlsFiles;
use serde::Deserialize;

use crate::disk_profile::DiskProfile;
use crate::exit::{Exit, Failure};
use crate::size::ByteSize;

/// A file with every value, its default and its meaning.
pub(crate) const SAMPLE: &str = r#"# Configuration of `forebay node`. Values that are commented out show their defaults.

# Where the data is: ext4, xfs or btrfs on a local disk. Required.
data = "/var/lib/forebay"

# Event loops, one for each core. Fixed when the directory is created.
# shards = 1

# Where shard 0 listens; shard n takes this port plus n.
# native = "127.0.0.1:4700"

# Operator HTTP (health, metrics, status), or "off". It has no authentication.
# http = "127.0.0.1:4690"

# Memory for new writes and page caches of all shards. The process takes up to 64 MiB more for each
# shard.
# memory = "512MiB"

# Of it, for new writes of each shard. Default: a quarter of the shard's share.
# overlay_bytes = "128MiB"

# The log of each shard. Fixed when the directory is created. Default: twice overlay_bytes, but at
# least 256MiB and at most 4GiB, in segments of 16MiB.
# log_segment_bytes = "16MiB"
# log_segments = 16

# How log writes are made durable, "dsync" or "linked_fdatasync", and how many are in flight.
# Default: as `forebay probe-disk` wrote into the data directory; "dsync" and 8 without it.
# durable_mode = "dsync"
# batches_in_flight = 8

# Pin each shard to a core, if there are more cores than shards.
# pin_cores = true

# How long an idle shard watches for events before it sleeps, for machines with a core to give each
# shard: it saves the time that waking takes, and uses the whole core.
# busy_poll_microseconds = 0

# Connections of each shard.
# connections_max = 4096

# Disk buffers of each shard that count against the memlock limit.
# registered_bytes = "2MiB"

# A checkpoint begins after this time, or when this part of the log or of the overlay is in use.
# checkpoint_seconds = 30
# checkpoint_log_fill_percent = 50
# checkpoint_overlay_fill_percent = 75

# Longest slice of checkpoint work between requests.
# checkpoint_slice_microseconds = 200

# In a cluster, what each shard sends, and what it fetches, when a member needs another one's state:
# bytes a second. Slower leaves more to requests; too slow, and the logs have gone on meanwhile.
# snapshot_bytes_per_second = "64MiB"

# Every page of every tree is read from the disk and checked once in this time, in the background, so that
# what a disk forgets is found while others have it; 0: only pages that are asked for. Two weeks.
# scrub_seconds = 1209600

# Go without certificates although others could connect: clients and peers speak plain text, and nobody
# shows who he is. For measurements, on a machine or network of one's own.
# insecure = false

# Certificates, which `forebay certs` makes. With them clients and nodes speak TLS and show theirs; a
# SIGHUP has them read again. Required of a node of a cluster, and of one that listens beyond loopback.
# [tls]
# This node's certificate and key, and the certificate of the authority that vouches for all.
# certificate = "/etc/forebay/a.pem"
# key = "/etc/forebay/a.key"
# authority = "/etc/forebay/authority.pem"

# With this section the node is one of a cluster, which `forebay admin init` makes of running nodes.
# [cluster]
# Where shard 0 listens for the other nodes; shard n takes this port plus n.
# peer = "0.0.0.0:4800"
# Where the other nodes reach that, if it is elsewhere for them (a translated address, a container's
# port). Default: peer, at the address that the operator's command named for 0.0.0.0.
# advertise = "192.0.2.1:4800"
# Availability zone; members of a group stand in different ones where there are enough.
# az = 0
# A node that was not heard for so long is taken for lost: its members are replaced on other nodes, by
# full copies in the end. Longer leaves time for maintenance, and leaves groups with two of three members
# meanwhile. The same for all nodes: whichever leads the system group decides.
# replace_after_seconds = 5
"#;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileConfig {
    data: PathBuf,
    shards: Option<u16>,
    native: Option<SocketAddr>,
    http: Option<HttpAt>,
    memory: Option<ByteSize>,
    overlay_bytes: Option<ByteSize>,
    log_segment_bytes: Option<ByteSize>,
    log_segments: Option<u32>,
    batches_in_flight: Option<u32>,
    durable_mode: Option<ModeName>,
    pin_cores: Option<bool>,
    busy_poll_microseconds: Option<u32>,
    connections_max: Option<u32>,
    registered_bytes: Option<ByteSize>,
    checkpoint_seconds: Option<u32>,
    checkpoint_log_fill_percent: Option<u8>,
    checkpoint_overlay_fill_percent: Option<u8>,
    checkpoint_slice_microseconds: Option<u32>,
    snapshot_bytes_per_second: Option<ByteSize>,
    scrub_seconds: Option<u32>,
    #[serde(default)]
    insecure: bool,
    tls: Option<FileTls>,
    cluster: Option<FileCluster>,
}

/// The section `[tls]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileTls {
    certificate: PathBuf,
    key: PathBuf,
    authority: PathBuf,
}

/// The section `[cluster]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileCluster {
    peer: SocketAddr,
    advertise: Option<SocketAddr>,
    #[serde(default)]
    az: u16,
    replace_after_seconds: Option<u32>,
}

/// An address, or `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct HttpAt(pub(crate) Option<SocketAddr>);

impl std::str::FromStr for HttpAt {
    type Err = String;
    fn from_str(text: &str) -> Result<HttpAt, String> {
        if text == "off" {
            return Ok(HttpAt(None));
        }
        let address = text.parse();
        address
            .map(|at| HttpAt(Some(at)))
            .map_err(|_| format!("'{text}' is neither an address such as 127.0.0.1:4690 nor off"))
    }
}

impl TryFrom<String> for HttpAt {
    type Error = String;
    fn try_from(text: String) -> Result<HttpAt, String> {
        text.parse()
    }
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "String")]
struct ModeName(DurableMode);

impl TryFrom<String> for ModeName {
    type Error = String;
    fn try_from(text: String) -> Result<ModeName, String> {
        DurableMode::from_name(&text)
            .map(ModeName)
            .ok_or_else(|| format!("'{text}' is neither dsync nor linked_fdatasync"))
    }
}

/// Reads a file, and the disk profile in the data directory that it names.
pub(crate) fn read(path: &Path) -> Result<NodeConfig, Failure> {
    let named =
        |problem: String| Failure::new(Exit::Usage, format!("{}: {problem}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| named(error.to_string()))?;
    let config = parse(&text).map_err(named)?;
    Ok(config)
}

fn parse(text: &str) -> Result<NodeConfig, String> {
    let file: FileConfig =
        toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())?;
    let profile = DiskProfile::read(&file.data).map_err(|failure| failure.message)?;
    let insecure = file.insecure;
    let config = file.resolve(profile.as_ref());
    check_security(&config, insecure)?;
    config.validate().map_err(|error| with_line(text, &error))?;
    Ok(config)
}

/// Nobody exposes a node without certificates by accident.
fn check_security(config: &NodeConfig, insecure: bool) -> Result<(), String> {
    if config.tls.is_some() {
        return match insecure {
            true => Err("insecure = true and a [tls] section: choose one".to_owned()),
            false => Ok(()),
        };
    }
    let why = match config.cluster {
        Some(_) => "a node of a cluster",
        None if !config.native.ip().is_loopback() => "a node that listens beyond loopback",
        None => return Ok(()),
    };
    if insecure {
        return Ok(());
    }
    Err(format!(
        "{why} needs certificates: make them with `forebay certs` and name them in a [tls] section \
         (see `forebay node --print-sample-config`), or say `insecure = true` above all sections to go \
         without, for measurements"
    ))
}

/// Adds the line on which the field is set; a default has none.
fn with_line(text: &str, error: &ConfigError) -> String {
    let sets = |line: &str| {
        let rest = line.trim_start().strip_prefix(error.field);
        rest.is_some_and(|rest| rest.trim_start().starts_with('='))
    };
    match text.lines().position(sets) {
        Some(index) => format!("line {}: {error}", index + 1),
        None => error.to_string(),
    }
}

impl FileConfig {
    fn resolve(self, profile: Option<&DiskProfile>) -> NodeConfig {
        let mut config = NodeConfig::new(self.data);
        apply_profile(&mut config, profile);
        let bytes = |size: Option<ByteSize>| size.map(|ByteSize(bytes)| bytes);
        config.shards = self.shards;
        config.overlay_bytes = bytes(self.overlay_bytes);
        config.log_segment_bytes = bytes(self.log_segment_bytes);
        config.log_segments = self.log_segments;
        set(&mut config.native, self.native);
        set(&mut config.http, self.http.map(|HttpAt(at)| at));
        set(&mut config.memory_bytes, bytes(self.memory));
        set(&mut config.batches_in_flight, self.batches_in_flight);
        set(&mut config.durable_mode, self.durable_mode.map(|ModeName(mode)| mode));
        set(&mut config.pin_cores, self.pin_cores);
        set(&mut config.busy_poll_microseconds, self.busy_poll_microseconds);
        set(&mut config.connections_max, self.connections_max);
        set(&mut config.registered_bytes, bytes(self.registered_bytes));
        if let Some(FileCluster { peer, advertise, az, replace_after_seconds }) = self.cluster {
            config.cluster = Some(ClusterPlace { az, peer, advertise });
            set(&mut config.replace_after_seconds, replace_after_seconds);
        }
        set(&mut config.snapshot_bytes_per_second, bytes(self.snapshot_bytes_per_second));
        set(&mut config.scrub_seconds, self.scrub_seconds);
        let files =
            |FileTls { certificate, key, authority }| TlsFiles { certificate, key, authority };
        config.tls = self.tls.map(files);
        let pacing = &mut config.checkpoint;
        set(&mut pacing.interval_seconds, self.checkpoint_seconds);
        set(&mut pacing.log_fill_percent, self.checkpoint_log_fill_percent);
        set(&mut pacing.overlay_fill_percent, self.checkpoint_overlay_fill_percent);
        set(&mut pacing.slice_microseconds, self.checkpoint_slice_microseconds);
        config
    }
}

/// Takes what `probe-disk` found.
pub(crate) fn apply_profile(config: &mut NodeConfig, profile: Option<&DiskProfile>) {
    if let Some(profile) = profile {
        set(&mut config.durable_mode, profile.mode());
        config.batches_in_flight = profile.batches_in_flight;
    }
}

fn set<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}

#[cfg(test)]
#[allow(unreachable_pub, reason = "the fuzz package's own file")]
#[path = "../fuzz/src/mutate.rs"]
mod mutate;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changed_files_are_read_or_refused_and_never_panic() {
        let shown = SAMPLE.replace("# memory", "memory").replace("# http", "http");
        let mut mutator = mutate::Mutator::new(vec![SAMPLE.into(), shown.into()], 3);
        assert!(mutator.seeds().iter().all(|seed| parse(str::from_utf8(seed).unwrap()).is_ok()));
        for _ in 0..3_000 {
            if let Err(error) = parse(&String::from_utf8_lossy(&mutator.next())) {
                assert!(!error.is_empty());
            }
        }
    }

    #[test]
    fn the_sample_is_the_defaults_with_and_without_its_comments() {
        let expected = NodeConfig::new("/var/lib/forebay".into());
        assert_eq!(parse(SAMPLE).unwrap(), expected);
        let shown: String = SAMPLE
            .lines()
            .map(|line| match line.strip_prefix("# ") {
                Some(rest)
                    if rest.starts_with('[')
                        || rest.split_once(" = ").is_some_and(|(name, _)| !name.contains(' ')) =>
                {
                    format!("{rest}\n")
                }
                _ => format!("{line}\n"),
            })
            .collect();
        let explicit = parse(&shown).unwrap();
        let defaults = NodeConfig {
            shards: Some(NodeConfig::NEW_DIRECTORY.shards),
            overlay_bytes: Some(expected.memory_bytes / 4),
            log_segment_bytes: Some(NodeConfig::NEW_DIRECTORY.log_segment_bytes),
            log_segments: Some(NodeConfig::NEW_DIRECTORY.log_segments),
            cluster: Some(ClusterPlace {
                az: 0,
                peer: "0.0.0.0:4800".parse().unwrap(),
                advertise: Some("192.0.2.1:4800".parse().unwrap()),
            }),
            tls: Some(TlsFiles {
                certificate: "/etc/forebay/a.pem".into(),
                key: "/etc/forebay/a.key".into(),
                authority: "/etc/forebay/authority.pem".into(),
            }),
            ..expected
        };
        assert_eq!(explicit, defaults);
    }

    #[test]
    fn errors_name_the_line_and_the_field() {
        for (text, needles) in [
            ("data = \"d\"\nshard = 2", ["line 2", "shard"]),
            ("data = \"d\"\n\nshards = \"two\"", ["line 3", "shards"]),
            ("data = \"d\"\nmemory = \"lots\"", ["line 2", "memory"]),
            ("data = \"d\"\nhttp = \"nowhere\"", ["line 2", "http"]),
            ("data = \"d\"\nbatches_in_flight = 64", ["line 2", "batches_in_flight"]),
            ("data = \"d\"\n  log_segments=1", ["line 2", "log_segments"]),
            ("data = \"d\"\nshards = -1", ["line 2", "shards"]),
            ("shards = 1", ["missing field", "data"]),
            ("data = ", ["line 1", "data"]),
        ] {
            let error = parse(text).unwrap_err();
            for needle in needles {
                assert!(error.contains(needle), "no '{needle}' in: {error}");
            }
        }
    }

    #[test]
    fn what_the_file_says_wins_over_the_disk_profile() {
        let dir = tempfile::tempdir().unwrap();
        let profile = "durable_mode = \"linked_fdatasync\"\nbatches_in_flight = 3\n";
        std::fs::write(dir.path().join("disk.toml"), profile).unwrap();
        let data = format!("data = {:?}\n", dir.path());
        let config = parse(&data).unwrap();
        assert_eq!(config.durable_mode, DurableMode::LinkedFdatasync);
        assert_eq!(config.batches_in_flight, 3);
        let config = parse(&format!("{data}batches_in_flight = 5\n")).unwrap();
        assert_eq!(config.batches_in_flight, 5);
        assert_eq!(config.durable_mode, DurableMode::LinkedFdatasync);
    }

    #[test]
    fn a_node_that_others_can_reach_has_certificates_or_says_that_it_goes_without() {
        let cluster = "[cluster]\npeer = \"127.0.0.1:4800\"\n";
        let tls = "[tls]\ncertificate = \"a\"\nkey = \"b\"\nauthority = \"c\"\n";
        let outside = "native = \"0.0.0.0:4700\"\n";
        for text in [cluster, outside] {
            let refused = parse(&format!("data = \"d\"\n{text}")).unwrap_err();
            for needle in ["forebay certs", "[tls]", "insecure = true"] {
                assert!(refused.contains(needle), "{refused}");
            }
            parse(&format!("data = \"d\"\ninsecure = true\n{text}")).unwrap();
            parse(&format!("data = \"d\"\n{text}{tls}")).unwrap();
        }
        parse("data = \"d\"").unwrap();
        let both = format!("data = \"d\"\ninsecure = true\n{tls}");
        assert!(parse(&both).unwrap_err().contains("choose one"));
    }

    #[test]
    fn the_operators_http_is_on_loopback_unless_told_otherwise() {
        let config = parse("data = \"d\"\ninsecure = true\nnative = \"0.0.0.0:4700\"").unwrap();
        assert!(config.http.unwrap().ip().is_loopback());
        let told = parse("data = \"d\"\nhttp = \"0.0.0.0:4690\"").unwrap();
        assert!(!told.http.unwrap().ip().is_loopback());
    }

    #[test]
    fn the_operators_http_can_be_off() {
        assert_eq!(parse("data = \"d\"\nhttp = \"off\"").unwrap().http, None);
    }
}
