//! Starting a program as a store: its core, its output, its last words.

use std::fs::{File, OpenOptions};
use std::path::Path;
use std::process::{Command, Stdio};

use forebay_net::ring::cores_allowed;

use super::Place;
use super::process::OwnedProcess;
use crate::error::BenchError;

/// Where a program's stdout goes; stderr always goes to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Output {
    /// To this tool, which reads a line of it.
    Pipe,
    /// To the log too: some programs say there why they end.
    Log,
}

/// A program that runs.
#[derive(Debug)]
pub(super) struct Spawned {
    pub(super) process: OwnedProcess,
    /// As one would type it.
    pub(super) command: String,
}

/// Starts `words` in `place`; what it says goes to a log in `dir`.
pub(super) fn spawn(
    name: &str,
    words: &[String],
    place: &Place,
    dir: &Path,
    output: Output,
) -> Result<Spawned, BenchError> {
    if let Some(core) = place.core
        && !cores_allowed().contains(&core)
    {
        let allowed = cores_allowed();
        return Err(BenchError::Usage(format!(
            "--server-core {core}: this process may use cores {allowed:?}"
        )));
    }
    let command_shown = shown(words, place.core);
    let log = dir.join("log-of-this-run");
    let failed = |source| BenchError::File { path: log.clone(), source };
    let errors = File::create(&log).map_err(failed)?;
    let stdout = match output {
        Output::Pipe => Stdio::piped(),
        // Its own handle that appends, so that the two do not write over each other.
        Output::Log => OpenOptions::new().append(true).open(&log).map_err(failed)?.into(),
    };
    drop(errors);
    let errors = OpenOptions::new().append(true).open(&log).map_err(failed)?;
    let started = OwnedProcess::start(name, &log, || {
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).stdin(Stdio::null()).stdout(stdout).stderr(errors);
        crate::sys::prepare_child(&mut command, place.core);
        command.spawn()
    });
    match started {
        Ok(process) => Ok(Spawned { process, command: command_shown }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(BenchError::NotInstalled {
                name: name.to_owned(),
                program: words[0].clone(),
                remedy: remedy(&words[0]),
            })
        }
        Err(error) => Err(BenchError::DoesNotStart {
            name: name.to_owned(),
            words: error.to_string(),
            command: command_shown,
        }),
    }
}

/// How to get a program that is not there.
fn remedy(program: &str) -> &'static str {
    match program {
        "etcd" => "install it (Debian, Ubuntu: apt-get install etcd-server) or leave it out",
        "memcached" => "install it (Debian, Ubuntu: apt-get install memcached) or leave it out",
        _ => "install it (Debian, Ubuntu: apt-get install redis-server) or leave it out",
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

/// The error for a program that ended or never served.
pub(super) fn does_not_start(name: &str, command: &str, process: &OwnedProcess) -> BenchError {
    BenchError::DoesNotStart {
        name: name.to_owned(),
        words: process.last_words(),
        command: command.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_shown_as_typed_without_directories_of_the_machine() {
        let words = ["/a/b/forebay", "dev", "--data", "/x/.forebay-bench-1-0-f/data", "--save", ""];
        let words = words.map(str::to_owned);
        assert_eq!(shown(&words, Some(0)), "taskset -c 0 forebay dev --data DIR --save ''");
        assert_eq!(shown(&words[..2], None), "forebay dev");
    }

    #[test]
    fn a_program_that_is_not_there_says_how_to_get_it() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place { data_dir: dir.path().to_owned(), core: None, forebay: Vec::new() };
        let words = ["no-such-program-anywhere".to_owned()];
        let error = spawn("redis", &words, &place, dir.path(), Output::Log).unwrap_err();
        assert!(error.to_string().contains("apt-get install redis-server"), "{error}");
    }

    #[test]
    fn a_program_that_ends_at_once_leaves_its_last_words() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place { data_dir: dir.path().to_owned(), core: None, forebay: Vec::new() };
        let words = ["sh", "-c", "echo out; echo and err >&2; exit 7"].map(str::to_owned);
        let Spawned { process, command } =
            spawn("x", &words, &place, dir.path(), Output::Log).unwrap();
        let began = std::time::Instant::now();
        while process.ended().is_none() {
            assert!(began.elapsed().as_secs() < 10);
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let said = does_not_start("x", &command, &process).to_string();
        assert!(said.contains("exit code 7"), "{said}");
        assert!(said.contains("out\n") && said.contains("and err"), "{said}");
    }
}
