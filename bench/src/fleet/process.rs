//! Child processes and directories that are gone when this process is, however it ends.
//!
//! | end | what cleans up |
//! |---|---|
//! | ordinary, an error, a panic | `Drop` of [`OwnedProcess`] and [`OwnedDir`] |
//! | SIGINT, SIGTERM | the thread of [`end_all_on_interrupt`], from the registry; the first one only ends a run that is under way with a report |
//! | SIGKILL | the kernel kills the children (PR_SET_PDEATHSIG); directories stay |
//!
//! *Invariant*: what is in the registry exists: a child leaves it before it is waited for, so its
//! number still is its own whenever a signal is sent to it.

use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::BenchError;
use crate::interrupt;
use crate::sys;

/// What an interrupt must end.
#[derive(Debug)]
struct Registry {
    children: Vec<Watched>,
    dirs: Vec<PathBuf>,
}

/// A child, and where to look for its last words.
#[derive(Clone, Debug)]
struct Watched {
    pid: u32,
    name: String,
    log: PathBuf,
}

static REGISTRY: Mutex<Registry> = Mutex::new(Registry { children: Vec::new(), dirs: Vec::new() });

fn registry() -> MutexGuard<'static, Registry> {
    // A panic elsewhere must not keep anything alive.
    REGISTRY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Exit code after SIGINT or SIGTERM, as shells count it.
const INTERRUPTED: i32 = 130;

/// SIGINT and SIGTERM end the children, remove the directories, and end this process; but a run that
/// knows how to end early is told so first. To be called before any other thread starts.
pub(crate) fn end_all_on_interrupt() -> Result<(), BenchError> {
    let end = || {
        if interrupt::run_ends_early() {
            return;
        }
        let registry = registry();
        for child in &registry.children {
            sys::signal(child.pid, libc::SIGKILL);
        }
        for dir in &registry.dirs {
            let _ = std::fs::remove_dir_all(dir);
        }
        match registry.children.is_empty() {
            true => eprintln!("forebay-bench: interrupted"),
            false => eprintln!("forebay-bench: interrupted; the stores it had started are stopped"),
        }
        // The lock is held: nobody starts anything more.
        std::process::exit(INTERRUPTED);
    };
    sys::on_interrupt(end).map_err(|source| BenchError::Io { what: "watching signals", source })
}

/// The first of this process's children that has ended by itself, as an error that says how and what
/// it said last; a store that dies under load is the cause of whatever else went wrong then.
pub(crate) fn none_has_died() -> Result<(), BenchError> {
    let registry = registry();
    for child in &registry.children {
        if let Some(status) = sys::ended(child.pid) {
            let words = last_words(&child.log);
            return Err(BenchError::StoreDied { name: child.name.clone(), status, words });
        }
    }
    Ok(())
}

/// The last lines of a log.
fn last_words(log: &Path) -> String {
    let said = std::fs::read(log).unwrap_or_default();
    let said = String::from_utf8_lossy(&said);
    let last: Vec<&str> = said.lines().rev().take(LAST_LINES).collect();
    match last.is_empty() {
        true => "it said nothing".to_owned(),
        false => last.into_iter().rev().collect::<Vec<_>>().join("\n"),
    }
}

/// Lines of a dead store's log that an error shows.
const LAST_LINES: usize = 5;

/// A child that ends with its owner.
#[derive(Debug)]
pub(crate) struct OwnedProcess {
    child: Child,
    log: PathBuf,
}

impl OwnedProcess {
    /// Takes charge of the child that `start` starts, called `name`, which writes to `log`.
    pub(crate) fn start(
        name: &str,
        log: &Path,
        start: impl FnOnce() -> std::io::Result<Child>,
    ) -> std::io::Result<OwnedProcess> {
        let mut registry = registry();
        let child = start()?;
        registry.children.push(Watched {
            pid: child.id(),
            name: name.to_owned(),
            log: log.to_owned(),
        });
        Ok(OwnedProcess { child, log: log.to_owned() })
    }

    /// How it ended, if it has. It is not waited for, so its number stays its own.
    pub(crate) fn ended(&self) -> Option<String> {
        sys::ended(self.pid())
    }

    /// How it ended, if it has, and the last lines of its log.
    pub(crate) fn last_words(&self) -> String {
        let words = last_words(&self.log);
        match self.ended() {
            Some(status) => format!("{status}; {words}"),
            None => words,
        }
    }

    /// Its number.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The child's own handle.
    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Stands still until [`OwnedProcess::resume`].
    pub(crate) fn pause(&self) {
        sys::signal(self.pid(), libc::SIGSTOP);
    }

    /// Goes on.
    pub(crate) fn resume(&self) {
        sys::signal(self.pid(), libc::SIGCONT);
    }
}

impl Drop for OwnedProcess {
    fn drop(&mut self) {
        let pid = self.pid();
        registry().children.retain(|child| child.pid != pid);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A fresh directory that goes with its owner.
#[derive(Debug)]
pub(crate) struct OwnedDir {
    path: PathBuf,
}

impl OwnedDir {
    /// Makes one below `parent`, which is created if need be.
    pub(crate) fn create(parent: &Path, name: &str) -> Result<OwnedDir, BenchError> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let number = MADE.fetch_add(1, Relaxed);
        let path = parent.join(format!(".forebay-bench-{}-{number}-{name}", std::process::id()));
        let mut registry = registry();
        std::fs::create_dir_all(&path)
            .map_err(|source| BenchError::File { path: path.clone(), source })?;
        registry.dirs.push(path.clone());
        Ok(OwnedDir { path })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for OwnedDir {
    fn drop(&mut self) {
        registry().dirs.retain(|dir| *dir != self.path);
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_child_and_its_directory_go_with_their_owner_also_when_it_panics() {
        let parent = tempfile::tempdir().unwrap();
        let (mut pid, mut path) = (0, PathBuf::new());
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let dir = OwnedDir::create(parent.path(), "x").unwrap();
            let process = OwnedProcess::start("x", dir.path(), || {
                let mut command = Command::new("sleep");
                sys::prepare_child(command.arg("1000"), None);
                command.spawn()
            })
            .unwrap();
            process.pause();
            (pid, path) = (process.pid(), dir.path().to_owned());
            assert!(path.is_dir() && Path::new(&format!("/proc/{pid}")).exists());
            panic!("as anything may");
        }));
        assert!(panicked.is_err());
        assert!(!path.exists() && !Path::new(&format!("/proc/{pid}")).exists());
        assert!(registry().children.iter().all(|child| child.pid != pid));
        assert!(!registry().dirs.contains(&path));
    }
}
