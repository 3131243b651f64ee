//! The process behind a local address, and where its data is.
//!
//! ```text
//!   address ─► /proc/net/tcp (listening, inode) ─► /proc/PID/fd (that socket) ─► PID
//!                                          largest file that PID has open for writing ─► its data
//! ```
//!
//! Only processes that this one may look into are found; a store on another machine or of another
//! user is left undescribed rather than guessed at.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What a reader must know of the process that serves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct StoreProcess {
    /// The program's name.
    pub(crate) name: String,
    /// The cores that it may use, as /proc lists them.
    pub(crate) cores: String,
    pub(crate) threads: u64,
    /// Its command line, without directories of the machine and without secrets.
    #[serde(default)]
    pub(crate) command: String,
}

impl StoreProcess {
    /// In one line.
    pub(crate) fn line(&self) -> String {
        let StoreProcess { name, cores, threads, command } = self;
        let plural = if *threads == 1 { "" } else { "s" };
        let how = if command.is_empty() { name } else { command };
        format!("`{how}`, {threads} thread{plural}, may use cores {cores}")
    }
}

/// A process, and its largest open file.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) pid: u32,
    pub(crate) process: StoreProcess,
    pub(crate) data: Option<PathBuf>,
}

/// The process that listens at `address`.
pub(crate) fn find(address: SocketAddr) -> Option<Found> {
    // Only this machine's own addresses can be bound.
    UdpSocket::bind((address.ip(), 0)).ok()?;
    let inode = listening_inode(address.port())?;
    let socket = format!("socket:[{inode}]");
    let pid =
        pids().find(|pid| open_files(*pid).any(|(_, to)| to.as_os_str() == socket.as_str()))?;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_default().trim().to_owned()
    };
    Some(Found {
        pid,
        process: StoreProcess {
            name: field("Name"),
            cores: field("Cpus_allowed_list"),
            threads: field("Threads").parse().unwrap_or(0),
            command: shown(&fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default()),
        },
        data: largest_written_file(pid),
    })
}

/// Words after which a secret stands.
const SECRETS: [&str; 6] = ["pass", "secret", "token", "auth", "credential", "key"];
/// Longer ones are cut: a page is no place for a class path.
const COMMAND_CHARS_MAX: usize = 400;

/// A command line as /proc has it, for strangers.
fn shown(line: &[u8]) -> String {
    let mut shown: Vec<String> = Vec::new();
    let mut is_secret = false;
    for word in line.split(|byte| *byte == 0).filter(|word| !word.is_empty()) {
        let word = String::from_utf8_lossy(word);
        let (flag, value) = match word.split_once('=') {
            Some((flag, value)) if flag.starts_with('-') => (Some(flag), value),
            _ => (None, &*word),
        };
        let names_secret = |flag: &str| {
            let flag = flag.to_lowercase();
            flag.starts_with('-') && SECRETS.iter().any(|secret| flag.contains(secret))
        };
        let value = match is_secret || flag.is_some_and(names_secret) {
            true => "…",
            // Where a file lies is the machine's business; what it is called may tell something.
            false if value.starts_with('/') => value.rsplit('/').next().unwrap_or_default(),
            false => value,
        };
        is_secret = flag.is_none() && names_secret(&word);
        shown.push(match flag {
            Some(flag) => format!("{flag}={value}"),
            None => value.to_owned(),
        });
    }
    let shown = shown.join(" ");
    match shown.char_indices().nth(COMMAND_CHARS_MAX) {
        Some((end, _)) => format!("{} …", &shown[..end]),
        None => shown,
    }
}

fn listening_inode(port: u16) -> Option<u64> {
    const LISTENING: &str = "0A";
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(fs::read_to_string);
    let text = tables.into_iter().flatten().collect::<String>();
    text.lines().find_map(|line| {
        // sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode
        let words: Vec<_> = line.split_whitespace().collect();
        let local = words.get(1)?.rsplit_once(':')?.1;
        let is_it = u16::from_str_radix(local, 16) == Ok(port) && words.get(3) == Some(&LISTENING);
        is_it.then(|| words.get(9)?.parse().ok()).flatten()
    })
}

fn pids() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Descriptors of `pid`, each with what it is open on.
fn open_files(pid: u32) -> impl Iterator<Item = (String, PathBuf)> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        Some((entry.file_name().to_str()?.to_owned(), fs::read_link(entry.path()).ok()?))
    })
}

fn largest_written_file(pid: u32) -> Option<PathBuf> {
    // O_ACCMODE: the low two bits; O_RDONLY is zero.
    let is_written = |number: &str| {
        let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")).ok()?;
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"))?;
        Some(u32::from_str_radix(flags.trim(), 8).ok()? & 3 != 0)
    };
    open_files(pid)
        // Standard input, output and errors are no data.
        .filter(|(number, _)| !matches!(number.as_str(), "0" | "1" | "2"))
        .filter(|(number, _)| is_written(number).unwrap_or(false))
        .filter_map(|(_, path)| {
            let data = fs::metadata(&path).ok().filter(fs::Metadata::is_file)?;
            // Files of /proc and /sys have no size.
            (data.size() > 0).then(|| (data.size(), path))
        })
        .max()
        .map(|(_, path)| path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_keeps_its_settings_and_no_secret_and_no_directory() {
        let line = b"/usr/bin/store\0--data=/home/me/data\0--dir\0/var/x\0--requirepass\0hush\0\
                     --auth-token=hush\0--save\0\0--port\0five\0";
        assert_eq!(
            shown(line),
            "store --data=data --dir x --requirepass … --auth-token=… --save --port five"
        );
        assert!(shown(&[b'x'; 9000]).chars().count() < COMMAND_CHARS_MAX + 5);
    }
}
