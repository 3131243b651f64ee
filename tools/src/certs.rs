//! `certs`: an authority for one cluster, and the certificates of its nodes, clients and operators.
//!
//! ```text
//!   DIR/authority.pem   everybody gets it        DIR/authority.key   nobody does; it makes further ones
//!   DIR/NAME.pem .key   node.NAME                DIR/client.pem .key client.client
//!                                                DIR/operator.pem .key operator.operator
//! ```
//!
//! Keys are ECDSA on P-256, readable by their owner only. What is there stays: run it again with more
//! names for more nodes, and with `--renew` before certificates expire. Whoever has an authority of
//! his own makes certificates with these names in the subjectAltName and needs none of this.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use forebay_net::tls::Role;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use crate::exit::{Exit, Failure};

const EXAMPLES: &str = "Examples:
  forebay certs certificates a b c          for three nodes, and for their clients
  forebay certs certificates d              one more node, later
  forebay certs certificates a --renew      before it expires; then kill -HUP the node

Give each node authority.pem and its own two files, and name them in [tls] of its configuration.
Give clients authority.pem, client.pem and client.key, and operators operator.pem and operator.key
beside them: commands to nodes want those. Keep authority.key where nobody serves.";

/// Subject of the authority's certificate. Its own certificates are told by their signatures.
const AUTHORITY: &str = "forebay authority";
const AUTHORITY_DAYS: u64 = 3650;
const DAY: Duration = Duration::from_secs(86_400);

/// Make certificates for the nodes and clients of a cluster
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Where they are, or will be
    directory: PathBuf,
    /// A name for each node: letters, digits, '-' and '.'
    #[arg(required = true, value_name = "NODE", value_parser = node_name)]
    nodes: Vec<String>,
    /// Of each certificate; the authority's is valid for ten years
    #[arg(long, value_name = "DAYS", default_value_t = 825,
          value_parser = clap::value_parser!(u64).range(1..=AUTHORITY_DAYS))]
    days: u64,
    /// Make those that are there anew, but for the authority
    #[arg(long)]
    renew: bool,
}

fn node_name(text: &str) -> Result<String, String> {
    let is_fine = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let label = |label: &str| {
        (1..=32).contains(&label.len())
            && label.bytes().all(|byte| is_fine(byte) || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if matches!(text, "authority" | "client" | "operator") {
        return Err("that is another file's name here".to_owned());
    }
    match text.len() <= 128 && text.split('.').all(label) {
        true => Ok(text.to_owned()),
        false => Err("a name is of a-z, 0-9, '-' and '.', as in `a` or `east.rack-1`".to_owned()),
    }
}

/// `forebay certs`.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let made = make(&args.directory, &args.nodes, args.days, args.renew)?;
    for path in made {
        crate::say(&format!("{}\n", path.display()));
    }
    Ok(())
}

/// Makes what is missing for these nodes, for clients and for operators; says which certificates it made.
pub(crate) fn make(
    directory: &Path,
    nodes: &[String],
    days: u64,
    renew: bool,
) -> Result<Vec<PathBuf>, Failure> {
    std::fs::create_dir_all(directory).map_err(|error| failed(directory, error))?;
    let mut made = Vec::new();
    let issuer = authority(directory, &mut made)?;
    let names = nodes.iter().map(|name| (Role::Node, name.as_str()));
    for (role, name) in names.chain([(Role::Client, "client"), (Role::Operator, "operator")]) {
        let path = directory.join(format!("{name}.pem"));
        if path.exists() && (!renew || role != Role::Node && !nodes.is_empty()) {
            continue;
        }
        let full = format!("{}{name}", role.prefix());
        let mut params = CertificateParams::new(vec![full.clone()]).expect("it was checked");
        params.distinguished_name.push(DnType::CommonName, full);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = match role {
            Role::Node => {
                vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth]
            }
            Role::Client | Role::Operator => vec![ExtendedKeyUsagePurpose::ClientAuth],
        };
        valid_for(&mut params, days);
        let key = generate(&path)?;
        let certificate = params.signed_by(&key, &issuer).map_err(|error| failed(&path, error))?;
        // The key first: a certificate that is there has its key.
        write(&directory.join(format!("{name}.key")), &key.serialize_pem(), true)?;
        write(&path, &certificate.pem(), false)?;
        made.push(path);
    }
    Ok(made)
}

/// The authority that is there, or a new one.
fn authority(
    directory: &Path,
    made: &mut Vec<PathBuf>,
) -> Result<Issuer<'static, KeyPair>, Failure> {
    let (pem, key) = (directory.join("authority.pem"), directory.join("authority.key"));
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.distinguished_name.push(DnType::CommonName, AUTHORITY);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    valid_for(&mut params, AUTHORITY_DAYS);
    if pem.exists() {
        let text = std::fs::read_to_string(&key).map_err(|error| {
            let message = format!(
                "{}: {error}; without the authority's key no further certificate can be made: \
                 bring it back, or name an empty directory and begin again",
                key.display()
            );
            Failure::new(Exit::Usage, message)
        })?;
        let pair = KeyPair::from_pem(&text).map_err(|error| failed(&key, error))?;
        return Ok(Issuer::new(params, pair));
    }
    let pair = generate(&pem)?;
    let certificate = params.self_signed(&pair).map_err(|error| failed(&pem, error))?;
    write(&key, &pair.serialize_pem(), true)?;
    write(&pem, &certificate.pem(), false)?;
    made.push(pem);
    Ok(Issuer::new(params, pair))
}

fn valid_for(params: &mut CertificateParams, days: u64) {
    let now = SystemTime::now();
    // Clocks differ.
    params.not_before = (now - DAY).into();
    params.not_after = (now + DAY * u32::try_from(days).expect("a few thousand")).into();
}

fn generate(path: &Path) -> Result<KeyPair, Failure> {
    KeyPair::generate().map_err(|error| failed(path, error))
}

/// In place of what was there, whole or not at all.
fn write(path: &Path, text: &str, secret: bool) -> Result<(), Failure> {
    let new = path.with_extension("new");
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(if secret { 0o600 } else { 0o644 });
    options
        .open(&new)
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
        .and_then(|()| std::fs::rename(&new, path))
        .map_err(|error| failed(path, error))
}

fn failed(path: &Path, error: impl std::fmt::Display) -> Failure {
    Failure::new(Exit::Other, format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use forebay_net::tls::{ClientTls, NodeTls, TlsFiles};

    use super::*;

    fn names(of: &[&str]) -> Vec<String> {
        of.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn what_is_made_is_what_nodes_and_clients_believe() {
        let dir = tempfile::tempdir().unwrap();
        let made = make(dir.path(), &names(&["a", "east.rack-1"]), 30, false).unwrap();
        assert_eq!(made.len(), 5);
        for name in ["a", "east.rack-1"] {
            let node = NodeTls::read(&TlsFiles::in_directory(dir.path(), name)).unwrap();
            assert_eq!(node.name(), name);
        }
        assert_eq!(ClientTls::in_directory(dir.path()).unwrap().name(), "client");
        assert_eq!(ClientTls::operator_in_directory(dir.path()).unwrap().name(), "operator");
        use std::os::unix::fs::PermissionsExt as _;
        for key in ["authority.key", "a.key", "client.key", "operator.key"] {
            let mode = std::fs::metadata(dir.path().join(key)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{key}");
        }
    }

    #[test]
    fn what_is_there_stays_and_more_names_come_from_the_same_authority() {
        let dir = tempfile::tempdir().unwrap();
        let read = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
        make(dir.path(), &names(&["a"]), 30, false).unwrap();
        let before = ["authority.pem", "a.pem", "client.pem", "operator.pem"].map(read);
        let made = make(dir.path(), &names(&["a", "d"]), 30, false).unwrap();
        assert_eq!(made, [dir.path().join("d.pem")]);
        assert_eq!(["authority.pem", "a.pem", "client.pem", "operator.pem"].map(read), before);
        NodeTls::read(&TlsFiles::in_directory(dir.path(), "d")).unwrap();
        let made = make(dir.path(), &names(&["a"]), 30, true).unwrap();
        assert_eq!(made, [dir.path().join("a.pem")]);
        assert_ne!(read("a.pem"), before[1]);
        NodeTls::read(&TlsFiles::in_directory(dir.path(), "a")).unwrap();
        std::fs::remove_file(dir.path().join("authority.key")).unwrap();
        let failure = make(dir.path(), &names(&["e"]), 30, false).unwrap_err();
        assert!(failure.message.contains("authority.key"), "{}", failure.message);
    }

    #[test]
    fn names_that_no_certificate_could_bear_are_refused() {
        for bad in [
            "",
            "A",
            "a_b",
            "-a",
            "a..b",
            "client",
            "operator",
            "authority",
            "a/b",
            &"x".repeat(40),
        ] {
            assert!(node_name(bad).is_err(), "{bad}");
        }
    }
}
