//! Stores that this tool starts for itself, on a core of their own, and that end with it.
//!
//! ```text
//!   "redis,forebay,floor" ─► Store ─► Member { process, directory, url } ─► ready ─► measured
//!                                        └── paused while another is measured; killed by its pid
//! ```
//!
//! Every member runs pinned to one core with all its threads, as `taskset -c CORE PROGRAM` would,
//! and prints its command line, so that a reader can start the same by hand. A member that is not
//! being measured stands still (SIGSTOP): its background work cannot be charged to another.

pub(crate) mod metrics;
pub(crate) mod process;

use std::fmt;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use forebay_net::ring::cores_allowed;

use crate::error::BenchError;
use crate::target::TargetUrl;
use metrics::Metrics;
use process::{OwnedDir, OwnedProcess};

/// How long a store may take to serve; prewriting a large log on a slow disk takes its time.
const READY_TIMEOUT: Duration = Duration::from_secs(300);

/// What can stand in `--targets`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Store {
    /// `redis-server` from PATH, durable.
    Redis,
    /// The `forebay` beside this program.
    Forebay,
    /// The floor under the workload.
    Floor,
    /// `floor --mode echo` of this program.
    FloorEcho,
    /// `floor --mode log` of this program.
    FloorLog,
    /// One that runs already.
    Running(TargetUrl),
}

impl FromStr for Store {
    type Err = String;

    fn from_str(text: &str) -> Result<Store, String> {
        Ok(match text {
            "redis" => Store::Redis,
            "forebay" => Store::Forebay,
            "floor" => Store::Floor,
            "floor-echo" => Store::FloorEcho,
            "floor-log" => Store::FloorLog,
            url if url.contains("://") => Store::Running(url.parse()?),
            _ => {
                return Err(
                    "expected redis, forebay, floor, floor-echo, floor-log, or the URL of \
                            a running store"
                        .to_owned(),
                );
            }
        })
    }
}

impl fmt::Display for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Store::Redis => f.write_str("redis"),
            Store::Forebay => f.write_str("forebay"),
            Store::Floor => f.write_str("floor"),
            Store::FloorEcho => f.write_str("floor-echo"),
            Store::FloorLog => f.write_str("floor-log"),
            Store::Running(url) => url.fmt(f),
        }
    }
}

/// Where and how members run.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// Their directories are made below it.
    pub(crate) data_dir: PathBuf,
    /// The core that all threads of a member run on.
    pub(crate) core: Option<usize>,
    /// Further options of `forebay dev`.
    pub(crate) forebay: Vec<String>,
}

impl Place {
    /// The same place, with `options` for `forebay dev`.
    pub(crate) fn with<const N: usize>(&self, options: [&str; N]) -> Place {
        let mut place = self.clone();
        place.forebay.extend(options.map(str::to_owned));
        place
    }

    /// The same place, with no core of its own.
    pub(crate) fn unpinned(&self) -> Place {
        Place { core: None, ..self.clone() }
    }
}

/// Which cores the two sides get: those asked for, else the first two, else none.
pub(crate) fn share_cores(
    server: Option<usize>,
    client: Option<usize>,
) -> (Option<usize>, Option<usize>) {
    match cores_allowed().as_slice() {
        [first, second, ..] => (server.or(Some(*first)), client.or(Some(*second))),
        _ => (server, client),
    }
}

/// A store to measure.
#[derive(Debug)]
pub(crate) struct Member {
    /// Its name in tables.
    pub(crate) name: String,
    /// Where it serves.
    pub(crate) url: TargetUrl,
    /// Operator HTTP, of a forebay.
    pub(crate) http: Option<SocketAddr>,
    /// How it was started, as one would type it.
    pub(crate) command: String,
    // In this order: the process ends before its directory goes.
    process: Option<OwnedProcess>,
    dir: Option<OwnedDir>,
}

impl Member {
    /// Starts `store` and waits until it serves; `name` is for tables.
    pub(crate) fn start(store: &Store, name: &str, place: &Place) -> Result<Member, BenchError> {
        match store {
            Store::Redis => start_redis(name, place),
            Store::Forebay => start_forebay(name, place),
            Store::FloorEcho => start_floor(name, place, "echo"),
            Store::Floor | Store::FloorLog => start_floor(name, place, "log"),
            Store::Running(url) => Ok(Member {
                name: name.to_owned(),
                url: url.clone(),
                http: None,
                command: format!("{url} (was running)"),
                process: None,
                dir: None,
            }),
        }
    }

    /// Its process, if this tool started it.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(OwnedProcess::pid)
    }

    /// Its directory, if this tool made it.
    pub(crate) fn dir(&self) -> Option<&Path> {
        self.dir.as_ref().map(OwnedDir::path)
    }

    /// Stands still.
    pub(crate) fn pause(&self) {
        if let Some(process) = &self.process {
            process.pause();
        }
    }

    /// Goes on.
    pub(crate) fn resume(&self) {
        if let Some(process) = &self.process {
            process.resume();
        }
    }

    /// Its counters. Only a forebay that this tool started has them.
    pub(crate) fn metrics(&self) -> Result<Metrics, BenchError> {
        Metrics::read(self.http.expect("a started forebay has an operator HTTP"))
    }
}

fn start_redis(name: &str, place: &Place) -> Result<Member, BenchError> {
    let dir = OwnedDir::create(&place.data_dir, name)?;
    // A port that was free a moment ago; redis cannot choose one itself.
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|socket| socket.local_addr())
        .map_err(|source| BenchError::Io { what: "looking for a free port", source })?
        .port();
    let mut words: Vec<String> = ["redis-server", "--bind", "127.0.0.1", "--port"]
        .map(str::to_owned)
        .into_iter()
        .chain([port.to_string(), "--dir".to_owned(), dir.path().display().to_string()])
        .collect();
    words.extend(
        ["--appendonly", "yes", "--appendfsync", "always", "--save", ""].map(str::to_owned),
    );
    let (mut process, command) = spawn(name, &words, place, &dir)?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let began = Instant::now();
    while !answers_ping(address) {
        let ended = process.child().try_wait().ok().flatten().is_some();
        if ended || began.elapsed() > READY_TIMEOUT {
            return Err(does_not_start(name, &command, &dir));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(Member {
        name: name.to_owned(),
        url: url(&format!("redis://{address}")),
        http: None,
        command,
        process: Some(process),
        dir: Some(dir),
    })
}

fn answers_ping(address: SocketAddr) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(b"PING\r\n")?;
        let mut reply = [0; 5];
        stream.read_exact(&mut reply)?;
        Ok(&reply == b"+PONG")
    };
    ask().unwrap_or(false)
}

/// Where a program of this project is.
pub(crate) fn beside(program: &str) -> PathBuf {
    let own = std::env::current_exe().unwrap_or_default();
    own.with_file_name(program)
}

fn start_forebay(name: &str, place: &Place) -> Result<Member, BenchError> {
    let program = beside("forebay");
    if !program.is_file() {
        return Err(BenchError::NotInstalled {
            name: name.to_owned(),
            program: program.display().to_string(),
            remedy: "build it beside this program: cargo build --release --workspace",
        });
    }
    let dir = OwnedDir::create(&place.data_dir, name)?;
    let data = dir.path().join("data").display().to_string();
    let program = program.display().to_string();
    let mut words = vec![program, "dev".to_owned(), "--data".to_owned(), data];
    let addresses = ["--native", "127.0.0.1:0", "--http", "127.0.0.1:0"];
    words.extend(addresses.map(str::to_owned));
    words.extend(place.forebay.iter().cloned());
    start_announced(name, &words, place, dir, "forebay")
}

fn start_floor(name: &str, place: &Place, mode: &str) -> Result<Member, BenchError> {
    let dir = OwnedDir::create(&place.data_dir, name)?;
    let program = std::env::current_exe()
        .map_err(|source| BenchError::Io { what: "finding this program", source })?;
    let mut words = vec![program.display().to_string(), "floor".to_owned()];
    words.extend(["--mode", mode, "--listen", "127.0.0.1:0"].map(str::to_owned));
    if mode == "log" {
        words.push("--file".to_owned());
        words.push(dir.path().join("log").display().to_string());
    }
    start_announced(name, &words, place, dir, "floor")
}

/// Starts a program of this project, which says `ready native=ADDR [http=ADDR] …` when it serves.
fn start_announced(
    name: &str,
    words: &[String],
    place: &Place,
    dir: OwnedDir,
    scheme: &str,
) -> Result<Member, BenchError> {
    let (mut process, command) = spawn(name, words, place, &dir)?;
    let stdout = process.child().stdout.take().expect("stdout is a pipe");
    let (sender, ready) = channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        let mut stdout = BufReader::new(stdout);
        let _ = stdout.read_line(&mut line);
        let _ = sender.send(line);
    });
    let line = ready.recv_timeout(READY_TIMEOUT).unwrap_or_default();
    let field = |name: &str| {
        line.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
    };
    let Some(native) = field("native").filter(|_| line.starts_with("ready ")) else {
        return Err(does_not_start(name, &command, &dir));
    };
    Ok(Member {
        name: name.to_owned(),
        url: url(&format!("{scheme}://{native}")),
        http: field("http").and_then(|address| address.parse().ok()),
        command,
        process: Some(process),
        dir: Some(dir),
    })
}

fn url(text: &str) -> TargetUrl {
    text.parse().expect("an address makes a URL")
}

/// Starts `words` in `place`; stderr goes to a file in `dir`.
fn spawn(
    name: &str,
    words: &[String],
    place: &Place,
    dir: &OwnedDir,
) -> Result<(OwnedProcess, String), BenchError> {
    if let Some(core) = place.core
        && !cores_allowed().contains(&core)
    {
        let allowed = cores_allowed();
        return Err(BenchError::Usage(format!(
            "--server-core {core}: this process may use cores {allowed:?}"
        )));
    }
    let shown = shown(words, place.core);
    let path = dir.path().join("stderr");
    let errors = File::create(&path).map_err(|source| BenchError::File { path, source })?;
    let started = OwnedProcess::start(|| {
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors);
        if words[0] == "redis-server" {
            command.stdout(Stdio::null());
        }
        crate::sys::prepare_child(&mut command, place.core);
        command.spawn()
    });
    match started {
        Ok(process) => Ok((process, shown)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(BenchError::NotInstalled {
                name: name.to_owned(),
                program: words[0].clone(),
                remedy: "install it (Debian, Ubuntu: apt-get install redis-server) or leave it \
                         out of --targets",
            })
        }
        Err(error) => Err(BenchError::DoesNotStart {
            name: name.to_owned(),
            words: error.to_string(),
            command: shown,
        }),
    }
}

/// As one would type it. Directories of the machine are not a reader's business: programs show
/// their names, data directories their last part.
fn shown(words: &[String], core: Option<usize>) -> String {
    let pinned = core.map(|core| format!("taskset -c {core} "));
    let words = words.iter().map(|word| match word.as_str() {
        "" => "''".to_owned(),
        path if path.contains('/') && path.contains(".forebay-bench-") => "DIR".to_owned(),
        path if path.starts_with('/') => {
            Path::new(path).file_name().unwrap_or_default().to_string_lossy().into_owned()
        }
        word => word.to_owned(),
    });
    pinned.unwrap_or_default() + &words.collect::<Vec<_>>().join(" ")
}

fn does_not_start(name: &str, command: &str, dir: &OwnedDir) -> BenchError {
    let said = std::fs::read_to_string(dir.path().join("stderr")).unwrap_or_default();
    let last: Vec<&str> = said.lines().rev().take(5).collect();
    let words = match last.is_empty() {
        true => "it said nothing".to_owned(),
        false => last.into_iter().rev().collect::<Vec<_>>().join("\n"),
    };
    BenchError::DoesNotStart { name: name.to_owned(), words, command: command.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_name_or_a_url() {
        assert_eq!("redis".parse(), Ok(Store::Redis));
        assert!(matches!("redis://h:1".parse(), Ok(Store::Running(_))));
        assert!("rediss".parse::<Store>().unwrap_err().contains("floor-log"));
    }

    #[test]
    fn commands_are_shown_as_typed_without_directories_of_the_machine() {
        let words = ["/a/b/forebay", "dev", "--data", "/x/.forebay-bench-1-0-f/data", "--save", ""];
        let words = words.map(str::to_owned);
        assert_eq!(shown(&words, Some(0)), "taskset -c 0 forebay dev --data DIR --save ''");
        assert_eq!(shown(&words[..2], None), "forebay dev");
    }

    #[test]
    fn a_program_that_is_not_there_says_how_to_get_it() {
        let parent = tempfile::tempdir().unwrap();
        let place = Place { data_dir: parent.path().to_owned(), core: None, forebay: Vec::new() };
        let dir = OwnedDir::create(&place.data_dir, "x").unwrap();
        let words = ["no-such-program-anywhere".to_owned()];
        let error = spawn("redis", &words, &place, &dir).unwrap_err();
        assert!(error.to_string().contains("apt-get install redis-server"), "{error}");
    }
}
