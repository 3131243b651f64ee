//! Stores of this project: `forebay` beside this program, and this program's own floors.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;

use super::process::OwnedDir;
use super::spawn::{Output, Spawned, does_not_start, spawn};
use super::{Member, Place, READY_TIMEOUT, url};
use crate::error::BenchError;

/// Where a program of this project is.
pub(crate) fn beside(program: &str) -> PathBuf {
    let own = std::env::current_exe().unwrap_or_default();
    own.with_file_name(program)
}

/// The `forebay` beside this program.
pub(super) fn forebay(name: &str) -> Result<String, BenchError> {
    let program = beside("forebay");
    if program.is_file() {
        return Ok(program.display().to_string());
    }
    Err(BenchError::NotInstalled {
        name: name.to_owned(),
        program: program.display().to_string(),
        remedy: "build it beside this program: cargo build --release --workspace",
    })
}

pub(super) fn start_forebay(name: &str, place: &Place) -> Result<Member, BenchError> {
    start_dev(name, place, false)
}

pub(super) fn start_forebay_tls(name: &str, place: &Place) -> Result<Member, BenchError> {
    start_dev(name, place, true)
}

/// What stands behind the addresses in a URL of forebay+tls. A command line with it is read word by word.
pub(super) fn certificates_part(directory: &Path) -> Result<String, BenchError> {
    let directory = directory.display().to_string();
    match directory.contains(char::is_whitespace) {
        true => Err(BenchError::Usage(format!("--data-dir: {directory} has blanks in its name"))),
        false => Ok(format!("?certificates={directory}")),
    }
}

fn start_dev(name: &str, place: &Place, tls: bool) -> Result<Member, BenchError> {
    let program = forebay(name)?;
    let dir = OwnedDir::create(&place.data_dir, name)?;
    let data = dir.path().join("data");
    let (scheme, part) = match tls {
        true => ("forebay+tls", certificates_part(&data.join("certificates"))?),
        false => ("forebay", String::new()),
    };
    let data = data.display().to_string();
    let mut words = vec![program, "dev".to_owned(), "--data".to_owned(), data];
    words.extend(tls.then(|| "--tls".to_owned()));
    // One node, whose cost is its own.
    let addresses = ["--nodes", "1", "--native", "127.0.0.1:0", "--http", "127.0.0.1:0"];
    words.extend(addresses.map(str::to_owned));
    words.extend(place.forebay.iter().cloned());
    start_announced(name, &words, place, dir, (scheme, &part))
}

pub(super) fn start_floor(name: &str, place: &Place, mode: &str) -> Result<Member, BenchError> {
    let dir = OwnedDir::create(&place.data_dir, name)?;
    let program = std::env::current_exe()
        .map_err(|source| BenchError::Io { what: "finding this program", source })?;
    let mut words = vec![program.display().to_string(), "floor".to_owned()];
    words.extend(["--mode", mode, "--listen", "127.0.0.1:0"].map(str::to_owned));
    if mode == "log" {
        words.push("--file".to_owned());
        words.push(dir.path().join("log").display().to_string());
    }
    start_announced(name, &words, place, dir, ("floor", ""))
}

/// `serve-page` of this program.
pub(super) fn start_page_server(page: &[u8], place: &Place) -> Result<Member, BenchError> {
    let name = "page-server";
    let dir = OwnedDir::create(&place.data_dir, name)?;
    let path = dir.path().join("page");
    std::fs::write(&path, page)
        .map_err(|source| BenchError::File { path: path.clone(), source })?;
    let program = std::env::current_exe()
        .map_err(|source| BenchError::Io { what: "finding this program", source })?;
    let words = [
        program.display().to_string(),
        "serve-page".to_owned(),
        "--page".to_owned(),
        path.display().to_string(),
    ];
    // It is no store: the scheme is that of something that stores nothing.
    start_announced(name, &words, place, dir, ("floor", ""))
}

/// Starts a program of this project and waits for its line `ready …`.
pub(super) fn announced(
    name: &str,
    words: &[String],
    place: &Place,
    dir: &Path,
) -> Result<(Spawned, String), BenchError> {
    let mut spawned = spawn(name, words, place, dir, Output::Pipe)?;
    let stdout = spawned.process.child().stdout.take().expect("stdout is a pipe");
    let (sender, ready) = channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        let mut stdout = BufReader::new(stdout);
        let _ = stdout.read_line(&mut line);
        let _ = sender.send(line);
    });
    let line = ready.recv_timeout(READY_TIMEOUT).unwrap_or_default();
    match line.starts_with("ready ") {
        true => Ok((spawned, line)),
        false => Err(does_not_start(name, &spawned.command, &spawned.process)),
    }
}

/// Starts a program of this project, which says `ready native=ADDR [http=ADDR] …` when it serves.
fn start_announced(
    name: &str,
    words: &[String],
    place: &Place,
    dir: OwnedDir,
    (scheme, part): (&str, &str),
) -> Result<Member, BenchError> {
    let (Spawned { process, command }, line) = announced(name, words, place, dir.path())?;
    let field = |name: &str| {
        line.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
    };
    let Some(native) = field("native") else {
        return Err(does_not_start(name, &command, &process));
    };
    Ok(Member {
        name: name.to_owned(),
        url: url(&format!("{scheme}://{native}{part}")),
        http: field("http").and_then(|address| address.parse().ok()),
        command,
        processes: vec![process],
        dir: Some(dir),
    })
}
