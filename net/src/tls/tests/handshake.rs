//! Who is refused, and under which name, by a lobby with real sockets.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use forebay_core::message::peer::{HelloRefusal, KeepAlive, PeerFrame, decode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::authority::{Authority, Time};
use crate::client::{Client, ClientConfig, ClientError};
use crate::frame::Inbox;
use crate::lane::{Receiver, Wakeup, channel};
use crate::machine::SendBuf;
use crate::tls::files::NodeTls;
use crate::tls::lobby::{Arrival, Desk, Dial, Door, Lobby, LobbyPlan, Which};
use crate::tls::{ClientTls, Records, Refusal, Role, TlsError, TlsFiles, shake};

/// A lobby in front of one shard that takes nothing.
struct Front {
    tls: Arc<NodeTls>,
    native: SocketAddr,
    peer: SocketAddr,
    arrivals: Receiver<Arrival>,
    dials: tokio::sync::mpsc::Sender<Dial>,
    _lobby: Lobby,
    _wakeup: Wakeup,
}

impl Front {
    fn open(tls: NodeTls) -> Front {
        let tls = Arc::new(tls);
        let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [native, peer] = [0, 1].map(|at| listeners[at as usize].local_addr().unwrap());
        let doors = listeners.into_iter().zip([Which::Native, Which::Peer]);
        let doors = doors.map(|(listener, which)| Door { listener, shard: 0, which }).collect();
        let (sender, arrivals) = channel(16);
        let wakeup = Wakeup::new().unwrap();
        let desks = vec![Desk { arrivals: sender, waker: wakeup.waker() }];
        let (dials, to_dial) = tokio::sync::mpsc::channel(16);
        let plan = LobbyPlan { tls: tls.clone(), core: None, doors, desks, dials: to_dial };
        let lobby = Lobby::start(plan).unwrap();
        Front { tls, native, peer, arrivals, dials, _lobby: lobby, _wakeup: wakeup }
    }

    fn arrival(&mut self) -> Arrival {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            if let Ok(arrival) = self.arrivals.try_recv() {
                return arrival;
            }
            assert!(Instant::now() < deadline, "nobody arrives");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    async fn counted(&self, refusal: Refusal) -> u64 {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let count = self.tls.refusals().get(refusal);
            if count > 0 || Instant::now() > deadline {
                return count;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

/// A handshake as far as this side is concerned, and what the other side says of it.
async fn dial(address: SocketAddr, mut records: Records) -> Result<(), String> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let mut early = Vec::new();
    shake(&mut stream, &mut records, &mut early).await.map_err(|error| error.to_string())?;
    let (mut piece, mut scratch) = (vec![0; 1000], Vec::new());
    // A client's certificate is judged after the client is ready.
    let read = tokio::time::timeout(Duration::from_millis(300), stream.read(&mut piece)).await;
    let Ok(read) = read else { return Ok(()) };
    let bytes = &piece[..read.map_err(|error| error.to_string())?];
    records.receive(bytes, &mut scratch, |_| panic!()).map_err(|error| error.to_string())
}

/// A client's certificate that nobody would read as such at home.
fn client_of(files: &TlsFiles) -> Records {
    let config = crate::tls::files::unchecked(files);
    Records::dialing(config)
}

#[tokio::test]
async fn every_wrong_certificate_of_a_dialer_is_refused_by_name_and_counted() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let node = authority.issue("node", "node.a", Time::Now);
    let foreign = TlsFiles {
        authority: authority.path().join("authority.pem"),
        ..stranger.issue("client", "client.x", Time::Now)
    };
    for (files, refusal, words) in [
        (foreign, Refusal::UnknownAuthority, "another authority"),
        (authority.issue("old", "client.x", Time::Past), Refusal::Expired, "expired"),
        (authority.issue("new", "client.x", Time::Future), Refusal::NotYetValid, "not valid yet"),
        (authority.issue("host", "example.org", Time::Now), Refusal::WrongRole, "another role"),
        (authority.issue("bare", "client", Time::Now), Refusal::WrongRole, "another role"),
    ] {
        let front = Front::open(NodeTls::read(&node).unwrap());
        let told = dial(front.native, client_of(&files)).await.unwrap_err();
        assert!(told.contains(words), "{}: {told}", refusal.name());
        assert_eq!(front.counted(refusal).await, 1, "{}", refusal.name());
        assert_eq!(front.tls.refusals().handshakes(), 0);
    }
    // Clients and operators at the peers' door; the right ones last, so that the test's own doing is
    // not what is refused.
    for (name, role) in
        [("client.x", Role::Client), ("operator.x", Role::Operator), ("node.x", Role::Node)]
    {
        let mut front = Front::open(NodeTls::read(&node).unwrap());
        let files = authority.issue("dialer", name, Time::Now);
        if role != Role::Node {
            assert!(dial(front.peer, client_of(&files)).await.is_err());
            assert_eq!(front.counted(Refusal::WrongRole).await, 1);
        }
        dial(front.native, client_of(&files)).await.unwrap();
        assert_eq!(front.tls.refusals().handshakes(), 1);
        let Arrival::Connection(arrived) = front.arrival() else { panic!("it did not dial") };
        assert_eq!((arrived.role, arrived.role.operates()), (role, role != Role::Client));
    }
}

#[tokio::test]
async fn a_node_with_a_wrong_certificate_is_not_believed_by_those_who_dial_it() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let client = authority.client();
    for (serving, refusal) in [
        (stranger.node("a"), Refusal::UnknownAuthority),
        // As if another service of the same authority listened there.
        (authority.node("b"), Refusal::WrongRole),
    ] {
        let front = match refusal {
            Refusal::WrongRole => {
                let files = authority.issue("c", "client.c", Time::Now);
                serving.replace_unchecked(&files);
                Front::open(serving)
            }
            _ => Front::open(serving),
        };
        let told = dial(front.native, client.records()).await.unwrap_err();
        assert!(told.contains(refusal.words()), "{told}");
        // It is told, too.
        assert_eq!(front.counted(Refusal::RefusedByPeer).await, 1);
    }
}

#[tokio::test]
async fn a_dialer_without_a_certificate_is_refused() {
    let authority = Authority::new();
    let front = Front::open(authority.node("a"));
    let files = authority.issue("client", "client.x", Time::Now);
    let records = Records::dialing(crate::tls::files::anonymous(&files));
    let told = dial(front.native, records).await.unwrap_err();
    assert!(told.contains("no certificate"), "{told}");
    assert_eq!(front.counted(Refusal::NoCertificate).await, 1);
}

#[tokio::test]
async fn a_plain_client_is_told_that_the_port_speaks_tls() {
    let front = Front::open(Authority::new().node("a"));
    let error = Client::connect(front.native, ClientConfig::default()).await.unwrap_err();
    assert!(error.to_string().contains("this port speaks TLS"), "{error}");
    assert!(front.counted(Refusal::NotTls).await >= 1);
}

#[tokio::test]
async fn a_plain_peer_is_told_by_the_name_of_a_wrong_authentication() {
    let front = Front::open(Authority::new().node("a"));
    let mut stream = TcpStream::connect(front.peer).await.unwrap();
    let mut hello = SendBuf::new();
    crate::frame::append_peer(&mut hello, &KeepAlive { count: 1 });
    stream.write_all(&hello).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let mut refused = None;
    Inbox::default()
        .receive(&answer, |frame| {
            if let Ok(PeerFrame::Refused(reason)) =
                decode(frame.kind, frame.message_version, frame.payload)
            {
                refused = Some(reason);
            }
        })
        .unwrap();
    assert_eq!(refused, Some(HelloRefusal::WrongAuthentication));
}

#[tokio::test]
async fn a_tls_client_at_a_plain_port_says_so() {
    // What a plain node answers to what it cannot read.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let plain = tokio::spawn(async move {
        let mut reply = SendBuf::new();
        let refused = forebay_core::message::ErrorReply {
            code: forebay_core::message::ErrorCode::MalformedMessage as u16,
            retry_after_micros: 0,
            message: "no frame",
            item: None,
        };
        crate::frame::append(&mut reply, 0, &refused);
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(&reply).await;
            let _ = stream.read(&mut [0; 1000]).await;
        }
    });
    let config = ClientConfig { tls: Some(Authority::new().client()), ..ClientConfig::default() };
    let error = Client::connect(address, config).await.unwrap_err();
    let ClientError::Connect { source, .. } = &error else { panic!("{error}") };
    assert!(source.to_string().contains("plain text where TLS is spoken"), "{source}");
    plain.abort();
}

#[tokio::test]
async fn silence_and_half_handshakes_are_given_up_and_disturb_nobody() {
    let authority = Authority::new();
    let mut front = Front::open(authority.node("a"));
    // Looks whether the port is open: not worth a word.
    drop(TcpStream::connect(front.native).await.unwrap());
    let mut half = TcpStream::connect(front.native).await.unwrap();
    half.write_all(&[22, 3, 1, 2, 0, 1]).await.unwrap();
    drop(half);
    assert_eq!(front.counted(Refusal::BrokenOff).await, 1);
    let mut slow = TcpStream::connect(front.native).await.unwrap();
    slow.write_all(&[22, 3, 1, 2, 0, 1]).await.unwrap();
    dial(front.native, authority.client().records()).await.unwrap();
    let Arrival::Connection(adopted) = front.arrival() else { panic!() };
    assert_eq!((adopted.name.as_str(), adopted.listener, adopted.dialed), ("test", 0, None));
    assert_eq!(front.counted(Refusal::HandshakeTimeout).await, 1);
    assert_eq!(front.tls.refusals().get(Refusal::BrokenOff), 1);
}

#[tokio::test]
async fn a_dial_reaches_a_peer_and_both_shards_are_told_whom() {
    let authority = Authority::new();
    let (mut a, mut b) = (Front::open(authority.node("a")), Front::open(authority.node("b")));
    a.dials.send(Dial { shard: 0, token: 77, address: b.peer }).await.unwrap();
    let Arrival::Connection(dialed) = a.arrival() else { panic!() };
    assert_eq!((dialed.name.as_str(), dialed.listener, dialed.dialed), ("b", 1, Some(77)));
    let Arrival::Connection(accepted) = b.arrival() else { panic!() };
    assert_eq!((accepted.name.as_str(), accepted.listener, accepted.dialed), ("a", 1, None));
    // A dial that cannot come through is answered all the same.
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    a.dials.send(Dial { shard: 0, token: 78, address: nobody }).await.unwrap();
    assert!(matches!(a.arrival(), Arrival::DialFailed { token: 78 }));
}

#[test]
fn files_that_everybody_would_refuse_are_refused_at_the_start() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let refused = |files: &TlsFiles| NodeTls::read(files).unwrap_err().to_string();
    let good = authority.issue("good", "node.a", Time::Now);
    assert_eq!(NodeTls::read(&good).unwrap().name(), "a");
    let other = authority.issue("other", "node.b", Time::Now);
    let foreign = TlsFiles { authority: stranger.path().join("authority.pem"), ..good.clone() };
    let missing = TlsFiles { key: "nowhere.key".into(), ..good.clone() };
    for (files, words) in [
        (TlsFiles { key: other.key.clone(), ..good.clone() }, "does not fit"),
        (foreign, "another authority"),
        (missing, "nowhere.key"),
        (TlsFiles { key: good.certificate.clone(), ..good.clone() }, "no private key"),
        (TlsFiles { certificate: good.key.clone(), ..good.clone() }, "no certificate"),
        (authority.issue("old", "node.a", Time::Past), "expired"),
        (authority.issue("client", "client.a", Time::Now), "begins with node."),
    ] {
        let said = refused(&files);
        assert!(said.contains(words), "{words}: {said}");
    }
    // Whoever dials is a client, an operator, or a node.
    assert_eq!(ClientTls::read(&good).unwrap().name(), "a");
    let host = authority.issue("host", "example.org", Time::Now);
    let error = ClientTls::read(&host).unwrap_err();
    assert!(matches!(error, TlsError::Certificate { .. }), "{error}");
}

#[tokio::test]
async fn certificates_are_read_again_on_request_but_not_for_another_node() {
    let authority = Authority::new();
    let files = authority.issue("a", "node.a", Time::Now);
    let front = Front::open(NodeTls::read(&files).unwrap());
    authority.issue("a", "node.b", Time::Now);
    let error = front.tls.reload().unwrap_err();
    assert!(matches!(error, TlsError::OtherName { .. }), "{error}");
    // Another authority takes over, for everybody.
    let next = Authority::new();
    for file in ["authority.pem", "a.pem", "a.key"] {
        if file == "a.pem" {
            next.issue("a", "node.a", Time::Now);
        }
        std::fs::copy(next.path().join(file), authority.path().join(file)).unwrap();
    }
    assert!(dial(front.native, next.client().records()).await.is_err(), "not before it is told");
    front.tls.reload().unwrap();
    dial(front.native, next.client().records()).await.unwrap();
}
