//! The addresses that an application names.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;

use tokio::net::lookup_host;
use tokio::time::timeout_at;

use super::deadline::Deadline;
use super::error::ClientError;

/// Where a cluster may be reached: `host:port` of any shards of any of its nodes. Several stand in
/// one text with commas between them, or in a list. Name more than one node: one of them may be down
/// when the application starts.
pub trait IntoAddresses {
    /// Each address by itself, as `host:port`.
    fn into_addresses(self) -> Vec<String>;
}

impl IntoAddresses for &str {
    fn into_addresses(self) -> Vec<String> {
        let places = self.split(',').map(str::trim).filter(|place| !place.is_empty());
        places.map(str::to_owned).collect()
    }
}

impl IntoAddresses for String {
    fn into_addresses(self) -> Vec<String> {
        self.as_str().into_addresses()
    }
}

impl IntoAddresses for &String {
    fn into_addresses(self) -> Vec<String> {
        self.as_str().into_addresses()
    }
}

impl IntoAddresses for SocketAddr {
    fn into_addresses(self) -> Vec<String> {
        vec![self.to_string()]
    }
}

impl<A: IntoAddresses> IntoAddresses for Vec<A> {
    fn into_addresses(self) -> Vec<String> {
        self.into_iter().flat_map(A::into_addresses).collect()
    }
}

impl<A: IntoAddresses, const N: usize> IntoAddresses for [A; N] {
    fn into_addresses(self) -> Vec<String> {
        self.into_iter().flat_map(A::into_addresses).collect()
    }
}

impl<A: IntoAddresses + Clone> IntoAddresses for &[A] {
    fn into_addresses(self) -> Vec<String> {
        self.iter().cloned().flat_map(A::into_addresses).collect()
    }
}

/// The addresses behind the names, each once, in the order given. A name that cannot be resolved is
/// an error only if no other can.
pub(super) async fn resolve(
    addrs: impl IntoAddresses,
    deadline: Deadline,
) -> Result<Vec<SocketAddr>, ClientError> {
    let mut found: Vec<SocketAddr> = Vec::new();
    let nothing = io::Error::new(io::ErrorKind::InvalidInput, "expected host:port");
    let mut failed = (String::from("the empty list of addresses"), nothing);
    for name in addrs.into_addresses() {
        let looked_up = match timeout_at(deadline.at, lookup_host(name.as_str())).await {
            Ok(looked_up) => looked_up.map(Vec::from_iter),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        };
        match looked_up {
            Ok(addrs) => found.extend(addrs),
            Err(error) => failed = (name, error),
        }
    }
    let mut seen = HashSet::new();
    found.retain(|addr| seen.insert(*addr));
    match found.is_empty() {
        false => Ok(found),
        true => Err(ClientError::Connect { addr: failed.0, source: failed.1 }),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn lists_and_texts_name_the_same_addresses() {
        let expected = ["a:1", "b:2", "c:3"];
        assert_eq!("a:1, b:2,c:3".into_addresses(), expected);
        assert_eq!(expected.into_addresses(), expected);
        assert_eq!(vec![String::from("a:1,b:2"), String::from("c:3")].into_addresses(), expected);
        assert_eq!((&expected[..]).into_addresses(), expected);
        let addr: SocketAddr = "127.0.0.1:7".parse().unwrap();
        assert_eq!(addr.into_addresses(), ["127.0.0.1:7"]);
    }

    #[tokio::test]
    async fn a_name_that_means_nothing_does_not_hide_the_others() {
        let deadline = Deadline::after(Duration::from_secs(5));
        let found =
            resolve("nonsense,127.0.0.1:7,127.0.0.1:8,127.0.0.1:7", deadline).await.unwrap();
        assert_eq!(found.iter().map(SocketAddr::port).collect::<Vec<_>>(), [7, 8]);
        for bad in ["", "nonsense"] {
            let error = resolve(bad, deadline).await.unwrap_err();
            assert!(matches!(error, ClientError::Connect { .. }), "{error}");
        }
    }
}
