//! `--target`: which protocol, where.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::str::FromStr;

use crate::error::BenchError;

/// Protocols by URL scheme.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    /// This project's native protocol.
    Forebay,
    /// The same over TLS, with a client's certificate.
    ForebayTls,
    /// RESP2.
    Redis,
    /// gRPC over HTTP/2 without TLS.
    Etcd,
    /// DynamoDB's JSON over HTTP/1.1, signed.
    DynamoDb,
    /// The same over TLS.
    DynamoDbTls,
    /// Memcached's text protocol.
    Memcached,
    /// The bare echo servers of `forebay-bench floor`.
    Floor,
}

/// What is expected of a URL, for messages and help.
const EXPECTED: &str = "expected forebay://HOST:PORT[,HOST:PORT…], \
     forebay+tls://HOST:PORT[,HOST:PORT…]?certificates=DIR, redis://HOST:PORT, \
     etcd://HOST:PORT[,HOST:PORT…], dynamodb+http://HOST:PORT, dynamodb+https://HOST:PORT, memcached://HOST:PORT or \
     floor://HOST:PORT";

impl Scheme {
    const ALL: [Scheme; 8] = [
        Scheme::Forebay,
        Scheme::ForebayTls,
        Scheme::Redis,
        Scheme::Etcd,
        Scheme::DynamoDb,
        Scheme::DynamoDbTls,
        Scheme::Memcached,
        Scheme::Floor,
    ];

    /// As it stands in URLs.
    fn name(self) -> &'static str {
        match self {
            Scheme::Forebay => "forebay",
            Scheme::ForebayTls => "forebay+tls",
            Scheme::Redis => "redis",
            Scheme::Etcd => "etcd",
            Scheme::DynamoDb => "dynamodb+http",
            Scheme::DynamoDbTls => "dynamodb+https",
            Scheme::Memcached => "memcached",
            Scheme::Floor => "floor",
        }
    }

    /// What is expected there, for messages.
    pub(crate) fn store(self) -> &'static str {
        match self {
            Scheme::Forebay | Scheme::ForebayTls => "forebay node",
            Scheme::Redis => "redis",
            Scheme::Etcd => "etcd",
            Scheme::DynamoDb | Scheme::DynamoDbTls => "endpoint of DynamoDB's API",
            Scheme::Memcached => "memcached",
            Scheme::Floor => "floor server",
        }
    }

    /// How to start one, for messages.
    pub(crate) fn start_hint(self) -> &'static str {
        match self {
            Scheme::Forebay => "start nodes with `forebay dev --native HOST:PORT`",
            Scheme::ForebayTls => "start a node with `forebay dev --tls --native HOST:PORT`",
            Scheme::Redis => {
                "start one with `redis-server --port PORT --appendonly yes --appendfsync always`"
            }
            Scheme::Etcd => {
                "start one with `etcd --listen-client-urls http://HOST:PORT \
                 --advertise-client-urls http://HOST:PORT`"
            }
            Scheme::DynamoDb | Scheme::DynamoDbTls => {
                "start the endpoint, or a proxy to it, on that address"
            }
            Scheme::Memcached => "start one with `memcached -l HOST -p PORT`",
            Scheme::Floor => {
                "start one with `forebay-bench floor` (see `forebay-bench floor --help`)"
            }
        }
    }
}

/// The value of `--target`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TargetUrl {
    /// Which protocol.
    pub(crate) scheme: Scheme,
    /// `HOST:PORT`; forebay and etcd take more of them, with commas between.
    pub(crate) authority: String,
    /// Of forebay+tls: where authority.pem, client.pem and client.key are.
    pub(crate) certificates: Option<PathBuf>,
}

/// What stands before the directory of certificates.
const CERTIFICATES: &str = "?certificates=";

impl FromStr for TargetUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<TargetUrl, String> {
        let (name, authority) = text.split_once("://").ok_or(EXPECTED)?;
        let scheme = Scheme::ALL
            .into_iter()
            .find(|scheme| scheme.name() == name)
            .ok_or_else(|| format!("unknown store `{name}`: {EXPECTED}"))?;
        let (authority, certificates) = match authority.split_once(CERTIFICATES) {
            Some((authority, directory)) => (authority, Some(directory)),
            None => (authority, None),
        };
        let is_fine = match certificates {
            Some(directory) => scheme == Scheme::ForebayTls && !directory.is_empty(),
            None => scheme != Scheme::ForebayTls,
        };
        if !is_fine {
            return Err(format!(
                "certificates belong to forebay+tls, which needs them: {EXPECTED}"
            ));
        }
        let authority = authority.strip_suffix('/').unwrap_or(authority);
        let places: Vec<&str> = match scheme {
            Scheme::Etcd | Scheme::Forebay | Scheme::ForebayTls => authority.split(',').collect(),
            _ => vec![authority],
        };
        for place in places {
            match place.rsplit_once(':') {
                Some((host, port))
                    if !host.is_empty() && !host.contains(',') && port.parse::<u16>().is_ok() => {}
                _ => return Err(format!("`{place}` is no HOST:PORT: {EXPECTED}")),
            }
        }
        let certificates = certificates.map(PathBuf::from);
        Ok(TargetUrl { scheme, authority: authority.to_owned(), certificates })
    }
}

impl std::fmt::Display for TargetUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}://{}", self.scheme.name(), self.authority)?;
        match &self.certificates {
            Some(directory) => write!(f, "{CERTIFICATES}{}", directory.display()),
            None => Ok(()),
        }
    }
}

impl TargetUrl {
    /// The name or the number of the machine, without brackets; of the last, if there are more.
    pub(crate) fn host(&self) -> &str {
        let host = self.authority.rsplit_once(':').map_or(&*self.authority, |(host, _)| host);
        host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
    }

    /// Its address; the first, if it has more.
    pub(crate) fn resolve(&self) -> Result<SocketAddr, BenchError> {
        Ok(self.resolve_all()?[0])
    }

    /// Its addresses, at least one, in the order given; of each host IPv4 first, because servers
    /// here often listen on 127.0.0.1 alone.
    pub(crate) fn resolve_all(&self) -> Result<Vec<SocketAddr>, BenchError> {
        self.authority
            .split(',')
            .map(|place| {
                let failed = |source| BenchError::Resolve { authority: place.to_owned(), source };
                let found = place.to_socket_addrs().map_err(failed)?;
                found
                    .min_by_key(|address| !address.is_ipv4())
                    .ok_or_else(|| failed(std::io::Error::other("the name has no address")))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn target_urls_are_read_and_bad_ones_say_what_is_expected() {
        for text in [
            "forebay://[::1]:7000",
            "redis://localhost:6379",
            "etcd://127.0.0.1:1,127.0.0.1:2",
            "forebay://10.0.0.1:4700,10.0.0.2:4700,[::1]:4700",
            "dynamodb+http://h:8000",
            "dynamodb+https://h:443",
            "memcached://h:11211",
            "floor://h:1",
            "forebay+tls://10.0.0.1:4700,[::1]:4700?certificates=/etc/forebay",
        ] {
            let url: TargetUrl = text.parse().unwrap();
            assert_eq!(url.to_string(), text);
        }
        assert!("forebay://[::1]:7000/".parse::<TargetUrl>().is_ok());
        for bad in [
            "localhost:1",
            "mysql://x:1",
            "redis://x",
            "redis://x:99999",
            "redis://:1",
            "redis://a:1,b:2",
            "etcd://a:1,",
            "forebay+tls://a:1",
            "forebay+tls://a:1?certificates=",
            "forebay://a:1?certificates=d",
        ] {
            let error = bad.parse::<TargetUrl>().unwrap_err();
            assert!(error.contains("HOST:PORT"), "{bad}: {error}");
        }
        for (text, host) in [("redis://h:1", "h"), ("forebay://[::1]:7000", "::1")] {
            assert_eq!(text.parse::<TargetUrl>().unwrap().host(), host);
        }
    }

    #[test]
    fn several_places_are_resolved_in_order() {
        let url: TargetUrl = "etcd://127.0.0.1:5,127.0.0.1:3".parse().unwrap();
        let ports: Vec<u16> = url.resolve_all().unwrap().iter().map(SocketAddr::port).collect();
        assert_eq!(ports, [5, 3]);
    }
}
