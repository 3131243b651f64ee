//! Three `forebay node` processes that form one cluster, each with its own directory and zone.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::own::{announced, certificates_part, forebay};
use super::ports::{attempts, free_port};
use super::process::OwnedDir;
use super::{Member, Place, url};
use crate::error::BenchError;

/// Of the smallest cluster that outlives one member.
const NODES: usize = 3;
/// For each node, in MiB: what one that stands alone gets is divided.
const MEMORY_MIB: u64 = 512 / NODES as u64;

/// With `tls`, links and clients speak TLS with certificates made for the occasion.
pub(super) fn start_forebay3(name: &str, place: &Place, tls: bool) -> Result<Member, BenchError> {
    attempts(|| {
        let program = forebay(name)?;
        let dir = OwnedDir::create(&place.data_dir, name)?;
        let (mut processes, mut commands, mut natives) = (Vec::new(), Vec::new(), Vec::new());
        let certificates = dir.path().join("certificates");
        if tls {
            commands.push(make_certificates(name, &program, &certificates)?);
        }
        for number in 1..=NODES {
            let own = dir.path().join(format!("n{number}"));
            let config = own.join("forebay.toml");
            let file = |source| BenchError::File { path: config.clone(), source };
            std::fs::create_dir(&own).map_err(file)?;
            let native = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
            let peer = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
            let text = format!(
                "data = {:?}\nnative = \"{native}\"\nhttp = \"off\"\nmemory = \"{MEMORY_MIB}MiB\"\n\
                 pin_cores = false\n{}[cluster]\npeer = \"{peer}\"\naz = {number}\n",
                own.join("data"),
                security(tls.then_some(&certificates), number)
            );
            std::fs::write(&config, text).map_err(file)?;
            let words = ["node", "--config", &config.display().to_string()].map(str::to_owned);
            let words: Vec<String> = std::iter::once(program.clone()).chain(words).collect();
            let (spawned, _) = announced(name, &words, place, &own)?;
            processes.push(spawned.process);
            commands.push(spawned.command);
            natives.push(native.to_string());
        }
        let mut words = vec!["admin".to_owned(), "init".to_owned()];
        if tls {
            words.extend(["--certificates".to_owned(), certificates.display().to_string()]);
        }
        words.extend(natives.iter().cloned());
        commands.push(carry_out(name, &program, &words)?);
        let (scheme, part) = match tls {
            true => ("forebay+tls", certificates_part(&certificates)?),
            false => ("forebay", String::new()),
        };
        Ok(Member {
            name: name.to_owned(),
            url: url(&format!("{scheme}://{}{part}", natives.join(","))),
            http: None,
            command: commands.join("\n    "),
            processes,
            dir: Some(dir),
        })
    })
}

/// The part of a node's configuration that is about certificates.
fn security(certificates: Option<&PathBuf>, number: usize) -> String {
    let Some(certificates) = certificates else { return "insecure = true\n".to_owned() };
    format!(
        "[tls]\ncertificate = {:?}\nkey = {:?}\nauthority = {:?}\n",
        certificates.join(format!("n{number}.pem")),
        certificates.join(format!("n{number}.key")),
        certificates.join("authority.pem")
    )
}

fn make_certificates(name: &str, program: &str, to: &Path) -> Result<String, BenchError> {
    let names = (1..=NODES).map(|number| format!("n{number}"));
    let words = ["certs".to_owned(), to.display().to_string()].into_iter().chain(names);
    carry_out(name, program, &words.collect::<Vec<_>>())
}

/// Runs `forebay` to its end; returns the command for the reader.
fn carry_out(name: &str, program: &str, words: &[String]) -> Result<String, BenchError> {
    let command = format!("forebay {}", words.join(" "));
    let failed =
        |words| BenchError::DoesNotStart { name: name.to_owned(), words, command: command.clone() };
    let output = Command::new(program).args(words).stdin(Stdio::null()).output();
    let output = output.map_err(|error| failed(error.to_string()))?;
    match output.status.success() {
        true => Ok(command),
        false => Err(failed(String::from_utf8_lossy(&output.stderr).into_owned())),
    }
}
