//! Three `forebay node` processes that form one cluster, each with its own directory and zone.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};

use super::own::{announced, forebay};
use super::ports::{attempts, free_port};
use super::process::OwnedDir;
use super::{Member, Place, url};
use crate::error::BenchError;

/// Of the smallest cluster that outlives one member.
const NODES: usize = 3;
/// For each node, in MiB: what one that stands alone gets is divided.
const MEMORY_MIB: u64 = 512 / NODES as u64;

pub(super) fn start_forebay3(name: &str, place: &Place) -> Result<Member, BenchError> {
    attempts(|| {
        let program = forebay(name)?;
        let dir = OwnedDir::create(&place.data_dir, name)?;
        let (mut processes, mut commands, mut natives) = (Vec::new(), Vec::new(), Vec::new());
        for number in 1..=NODES {
            let own = dir.path().join(format!("n{number}"));
            let config = own.join("forebay.toml");
            let file = |source| BenchError::File { path: config.clone(), source };
            std::fs::create_dir(&own).map_err(file)?;
            let native = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
            let peer = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
            let text = format!(
                "data = {:?}\nnative = \"{native}\"\nhttp = \"off\"\nmemory = \"{MEMORY_MIB}MiB\"\n\
                 pin_cores = false\n[cluster]\npeer = \"{peer}\"\naz = {number}\n",
                own.join("data")
            );
            std::fs::write(&config, text).map_err(file)?;
            let words = ["node", "--config", &config.display().to_string()].map(str::to_owned);
            let words: Vec<String> = std::iter::once(program.clone()).chain(words).collect();
            let (spawned, _) = announced(name, &words, place, &own)?;
            processes.push(spawned.process);
            commands.push(spawned.command);
            natives.push(native.to_string());
        }
        let words = ["admin", "init"].into_iter().chain(natives.iter().map(String::as_str));
        let made = Command::new(&program).args(words).stdin(Stdio::null()).output();
        let command = format!("forebay admin init {}", natives.join(" "));
        let failed = |words: String| BenchError::DoesNotStart {
            name: name.to_owned(),
            words,
            command: command.clone(),
        };
        let made = made.map_err(|error| failed(error.to_string()))?;
        if !made.status.success() {
            return Err(failed(String::from_utf8_lossy(&made.stderr).into_owned()));
        }
        commands.push(command);
        Ok(Member {
            name: name.to_owned(),
            url: url(&format!("forebay://{}", natives.join(","))),
            http: None,
            command: commands.join("\n    "),
            processes,
            dir: Some(dir),
        })
    })
}
