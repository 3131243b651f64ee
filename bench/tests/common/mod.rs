//! The tool as its users start it, and a floor server to measure.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

/// A bare echo server, gone with its owner.
pub(crate) struct Floor {
    child: Child,
    /// Where it serves.
    pub(crate) url: String,
}

impl Floor {
    /// Starts one on a port that the kernel chooses.
    pub(crate) fn start() -> Floor {
        let mut child = Command::new(env!("CARGO_BIN_EXE_forebay-bench"))
            .args(["floor", "--mode", "echo", "--listen", "127.0.0.1:0"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("ready native=").unwrap();
        Floor { url: format!("floor://{address}"), child }
    }

    /// Ends it at once.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        self.kill();
    }
}

/// `forebay-bench` with `args`, in `dir`.
pub(crate) fn bench(args: &str, dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_forebay-bench"));
    command.args(args.split_whitespace()).current_dir(dir);
    command
}

/// Both outputs, for messages.
pub(crate) fn said(output: &Output) -> String {
    let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    format!("{out}\n{err}")
}

/// A report's JSON.
pub(crate) fn report(dir: &Path) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(dir.join("report.json")).unwrap()).unwrap()
}

/// Sends the signal of this name, as a person at another terminal would.
#[allow(dead_code)]
pub(crate) fn signal(child: &Child, name: &str) {
    let kill = format!("kill -{name} {}", child.id());
    assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
}

impl Floor {
    /// Lets it stand still, connections and all.
    #[allow(dead_code)]
    pub(crate) fn pause(&self) {
        signal(&self.child, "STOP");
    }
}
