//! Load generators of others, run to their end: what this tool's own cost is held against.

use std::process::{Command, Stdio};
use std::time::Instant;

use super::Place;
use super::process::OwnedDir;
use super::spawn::{Output, Spawned, does_not_start, spawn};
use crate::error::BenchError;
use crate::sys;

/// A client that has ended.
#[derive(Clone, Debug)]
pub(crate) struct Ended {
    /// As one would type it.
    pub(crate) command: String,
    /// User and system time of all its threads, as the kernel accounts for it at the end.
    pub(crate) cpu_micros: u64,
    /// From its start to its end.
    pub(crate) seconds: f64,
}

/// What `program --version` says; None if it is not installed.
pub(crate) fn version(program: &str) -> Option<String> {
    let output = Command::new(program).arg("--version").stdin(Stdio::null()).output().ok()?;
    let said = String::from_utf8_lossy(&output.stdout);
    Some(said.lines().next().unwrap_or(program).trim().to_owned())
}

/// Runs `program` with `words` in `place` and waits for its end.
pub(crate) fn run(program: &str, words: &[String], place: &Place) -> Result<Ended, BenchError> {
    let dir = OwnedDir::create(&place.data_dir, program)?;
    let words: Vec<String> =
        [program.to_owned()].into_iter().chain(words.iter().cloned()).collect();
    let began = Instant::now();
    let Spawned { process, command } = spawn(program, &words, place, dir.path(), Output::Log)?;
    let cpu_micros = sys::wait_for_cpu_micros(process.pid())
        .map_err(|source| BenchError::Io { what: "waiting for a client", source })?;
    let seconds = began.elapsed().as_secs_f64();
    match process.ended().as_deref() {
        Some("exit code 0") => Ok(Ended { command, cpu_micros, seconds }),
        _ => Err(does_not_start(program, &command, &process)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(dir: &tempfile::TempDir) -> Place {
        Place { data_dir: dir.path().to_owned(), core: None, forebay: Vec::new() }
    }

    #[test]
    fn a_client_is_charged_for_its_own_work_alone() {
        let dir = tempfile::tempdir().unwrap();
        let run = |script: &str| run("sh", &["-c".to_owned(), script.to_owned()], &place(&dir));
        let busy = run("i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done").unwrap();
        let idle = run("sleep 0.2").unwrap();
        assert!(busy.cpu_micros > 10_000, "{busy:?}");
        assert!(idle.seconds >= 0.2 && idle.cpu_micros < busy.cpu_micros, "{idle:?} {busy:?}");
    }

    #[test]
    fn a_client_that_fails_leaves_its_last_words() {
        let dir = tempfile::tempdir().unwrap();
        let words = ["-c", "echo no such server >&2; exit 1"].map(str::to_owned);
        let error = run("sh", &words, &place(&dir)).unwrap_err().to_string();
        assert!(error.contains("no such server") && error.contains("exit code 1"), "{error}");
        assert_eq!(version("no-such-program-anywhere"), None);
    }
}
