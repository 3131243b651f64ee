//! Certificates on real processes: clusters whose links and clients speak TLS, nodes and clients that
//! show the wrong certificate, and the words that each is told.

mod support;

use std::io::Read as _;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use forebay_core::item::Item;
use forebay_net::client::{Client, ClientConfig, ClientError};
use forebay_net::tls::ClientTls;
use support::nodes::{Layout, PATIENCE, certificate_name, client_secured, make_certificates};
use support::process::{
    Node, code, command, forebay, free_addresses, piped, refused, stderr, stdout,
};
use support::writers::create;
use support::{scratch, text};

fn refusals(node: &Node, reason: &str) -> u64 {
    node.metric(&format!("forebay_tls_refusals_total{{reason=\"{reason}\"}}"))
}

fn item(number: u64) -> Item {
    Item::new().with("id", format!("k{number}")).with("number", number)
}

async fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_with_certificates_outlives_its_leader_and_loses_nothing() {
    let Some(dir) = scratch() else { return };
    let mut three = Layout::of(3).secured().start(dir.path());
    three.init(3);
    let client = three.connect().await;
    let table = create(&client, "kept", 3).await;
    for number in 0..200 {
        table.put(&item(number)).send().await.expect("it is written");
    }
    // Large ones go over in many records.
    let large = Item::new().with("id", "large").with("bytes", vec![7u8; 300_000]);
    table.put(&large).send().await.expect("it is written");
    let victim = three.leader("kept");
    three.kill(victim);
    let mut acknowledged = 200;
    let deadline = Instant::now() + PATIENCE;
    while acknowledged < 400 {
        match table.put(&item(acknowledged)).send().await {
            Ok(_) => acknowledged += 1,
            Err(error) => assert!(Instant::now() < deadline, "nobody takes over: {error}"),
        }
    }
    three.restart(victim);
    for number in 0..400 {
        let key = Item::new().with("id", format!("k{number}"));
        let found = table.get(&key).consistent(true).send().await.expect("it is read");
        assert_eq!(found, Some(item(number)));
    }
    let key = Item::new().with("id", "large");
    assert_eq!(table.get(&key).send().await.expect("it is read"), Some(large));
    for place in 0..3 {
        for reason in ["not_tls", "unknown_authority", "wrong_role", "wrong_node", "bad_record"] {
            assert_eq!(refusals(three.node(place), reason), 0, "{reason} at {place}");
        }
    }
    three.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_with_anothers_certificate_is_refused_by_name_and_disturbs_nobody() {
    let Some(dir) = scratch() else { return };
    let mut three = Layout::of(3).secured().start(dir.path());
    three.init(3);
    let client = three.connect().await;
    let table = create(&client, "kept", 1).await;
    let wrong = (three.leader("kept") + 1) % 3;
    three.kill(wrong);
    // It has the cluster's data and topology, and a certificate for a node that nobody knows.
    make_certificates(&three.certificates(), &["d"]);
    three.start_as(wrong, "d");
    let right = (wrong + 1) % 3;
    wait_for("it is refused and counted", || refusals(three.node(right), "wrong_node") > 0).await;
    for number in 0..100 {
        table.put(&item(number)).send().await.expect("two of three suffice");
    }
    // Or one of another authority.
    three.kill(wrong);
    let foreign = dir.path().join("foreign");
    make_certificates(&foreign, &["d"]);
    for file in ["d.pem", "d.key"] {
        std::fs::copy(foreign.join(file), three.certificates().join(file)).unwrap();
    }
    let authority = three.certificates().join("authority.pem");
    let ours = std::fs::read(&authority).unwrap();
    std::fs::copy(foreign.join("authority.pem"), &authority).unwrap();
    three.start_as(wrong, "d");
    std::fs::write(&authority, ours).unwrap();
    wait_for("it is refused and counted", || refusals(three.node(right), "unknown_authority") > 0)
        .await;
    for number in 0..100 {
        table.put(&item(number)).send().await.expect("two of three suffice");
    }
    // The log is looked after once a second.
    tokio::time::sleep(Duration::from_secs(3)).await;
    for (place, said) in three.stop() {
        if place == right {
            assert!(said.contains("TLS: wrong_node"), "{said}");
            let lines = said.lines().filter(|line| line.contains("TLS: unknown_authority"));
            // Hundreds of attempts, a line in ten seconds.
            assert!((1..=7).contains(&lines.count()), "{said}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_for_development_makes_its_own_certificates_and_keeps_them() {
    let Some(dir) = scratch() else { return };
    let data = dir.path().join("data");
    let certificates = data.join("certificates");
    let node = Node::dev(&data, &["--tls", "--http", "127.0.0.1:0"]);
    let client = Client::connect(node.native(), client_secured(&certificates)).await.unwrap();
    let table = create(&client, "kept", 1).await;
    table.put(&item(1)).send().await.unwrap();

    // Whoever speaks plain text is told.
    let error = Client::connect(node.native(), ClientConfig::default()).await.unwrap_err();
    assert!(error.to_string().contains("this port speaks TLS"), "{error}");
    refused(&["admin", "groups", &node.native().to_string()], 1, &["this port speaks TLS"]);
    // Whoever shows another authority's certificate, too, and both are counted.
    let foreign = dir.path().join("foreign");
    make_certificates(&foreign, &["a"]);
    std::fs::copy(certificates.join("authority.pem"), foreign.join("authority.pem")).unwrap();
    let error = ClientTls::in_directory(&foreign).unwrap_err();
    assert!(error.to_string().contains("another authority"), "{error}");
    assert!(refusals(&node, "not_tls") >= 2);
    assert_eq!(node.metric("forebay_tls_handshakes_total"), 2);
    // Handshakes are over: a silent connection costs nothing but itself.
    let mut silent = TcpStream::connect(node.native()).unwrap();

    // Certificates are read again on SIGHUP, and connections stay.
    let before = std::fs::read(certificates.join("node-1.pem")).unwrap();
    let output = forebay(&["certs", text(&certificates), "node-1", "--renew"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert_ne!(std::fs::read(certificates.join("node-1.pem")).unwrap(), before);
    node.signal("HUP");
    table.put(&item(2)).send().await.unwrap();
    let again = Client::connect(node.native(), client_secured(&certificates)).await.unwrap();
    assert!(again.table("kept").await.is_ok());
    silent.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    assert_eq!(silent.read(&mut [0; 10]).unwrap(), 0, "it is given up");
    drop((client, again, table));
    let said = node.stop();
    for words in ["clients show the certificate in", "TLS: not_tls", "were read again"] {
        assert!(said.contains(words), "no '{words}' in: {said}");
    }

    // The same certificates the next time, for one that speaks TLS.
    let kept = std::fs::read(certificates.join("node-1.pem")).unwrap();
    let node = Node::dev(&data, &["--tls", "--http", "off"]);
    let client = Client::connect(node.native(), client_secured(&certificates)).await.unwrap();
    let table = client.table("kept").await.unwrap();
    let key = Item::new().with("id", "k2");
    assert_eq!(table.get(&key).send().await.unwrap(), Some(item(2)));
    assert_eq!(std::fs::read(certificates.join("node-1.pem")).unwrap(), kept);
    drop((client, table));
    node.stop();
    // And one that does not says so to those who do.
    let node = Node::dev(&data, &["--http", "off"]);
    let error = Client::connect(node.native(), client_secured(&certificates)).await.unwrap_err();
    let ClientError::Connect { source, .. } = &error else { panic!("{error}") };
    assert!(source.to_string().contains("plain text where TLS is spoken"), "{source}");
    node.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_in_one_process_speak_tls_with_each_other_and_with_clients() {
    let Some(dir) = scratch() else { return };
    let data = dir.path().join("data");
    let mut command = command();
    command.args(["dev", "--nodes", "3", "--tls", "--data"]).arg(&data);
    command.args(["--native", "127.0.0.1:0", "--http", "off", "--memory", "192MiB"]);
    command.args(["--log", "64MiB"]);
    piped(&mut command);
    let node = Node::spawn(command);
    let addresses: Vec<SocketAddr> =
        node.value("native").split(',').map(|at| at.parse().unwrap()).collect();
    let config = client_secured(&data.join("certificates"));
    let client = Client::connect(&addresses[..], config).await.unwrap();
    let table = create(&client, "kept", 2).await;
    for number in 0..50 {
        table.put(&item(number)).send().await.expect("it is written");
    }
    drop((client, table));
    node.stop();
}

#[test]
fn a_node_of_a_cluster_without_certificates_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("forebay.toml");
    let config = format!("data = {:?}\n[cluster]\npeer = \"127.0.0.1:0\"\n", dir.path());
    std::fs::write(&file, config).unwrap();
    let words = ["forebay certs", "[tls]", "insecure = true"];
    refused(&["node", "--config", text(&file)], 2, &words);
    // Certificates that are not there are named.
    let missing = "[tls]\ncertificate = \"nowhere.pem\"\nkey = \"k\"\nauthority = \"authority\"\n";
    let config = format!("data = {:?}\nhttp = \"off\"\n{missing}", dir.path().join("data"));
    std::fs::write(&file, config).unwrap();
    refused(&["node", "--config", text(&file)], 2, &["authority"]);
}

/// Between ```LANGUAGE and the next fence, the block that holds `word`.
fn readme_block(language: &str, word: &str) -> String {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let readme = std::fs::read_to_string(readme).unwrap();
    let mark = format!("```{language}\n");
    let mut blocks = readme.split(&mark).skip(1).filter_map(|rest| rest.split("```").next());
    blocks.find(|block| block.contains(word)).expect("the README shows it").to_owned()
}

#[test]
fn the_readmes_way_to_a_cluster_with_certificates_works() {
    let Some(dir) = scratch() else { return };
    let certificates = dir.path().join("certificates");
    let block = readme_block("toml", "[tls]");
    let commands = readme_block("sh", "forebay certs certificates");
    let addresses = free_addresses(8);
    let run = |line: &str| {
        let mut words: Vec<String> =
            line.split('#').next().unwrap().split_whitespace().map(str::to_owned).collect();
        assert_eq!(words.remove(0), "forebay");
        for word in &mut words {
            if word == "certificates" {
                *word = text(&certificates).to_owned();
            }
            for (place, address) in addresses.iter().take(4).enumerate() {
                *word = word.replace(&format!("10.0.0.{}:4700", place + 1), &address.to_string());
            }
        }
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let output = forebay(&words);
        assert_eq!(code(&output), 0, "{line}: {}", stderr(&output));
        stdout(&output)
    };
    let lines: Vec<&str> = commands.lines().collect();
    let line = |part: &str| lines.iter().find(|line| line.contains(part)).expect("it is shown");
    run(line("forebay certs"));
    let start = |place: usize, name: &str| {
        let data = dir.path().join(format!("data-{place}"));
        let config = block
            .replace("/var/lib/forebay", text(&data))
            .replace("10.0.0.1:4700", &addresses[place].to_string())
            .replace("10.0.0.1:4800", &addresses[4 + place].to_string())
            .replace("/etc/forebay/a.", &format!("/etc/forebay/{name}."))
            .replace("/etc/forebay", text(&certificates))
            .replace("az = 1", &format!("az = {place}"));
        // What this machine needs and a real one does not.
        let config = format!("http = \"off\"\nmemory = \"64MiB\"\npin_cores = false\n{config}");
        let file = dir.path().join(format!("node-{place}.toml"));
        std::fs::write(&file, config).unwrap();
        Node::configured(&file)
    };
    let mut nodes: Vec<Node> = (0..3).map(|at| start(at, &certificate_name(at))).collect();
    assert!(run(line("admin --certificates certificates init")).contains("of 3 nodes"));
    assert!(run(line("groups")).contains("(system)"));
    let commands = readme_block("sh", "certificates join");
    let lines: Vec<&str> = commands.lines().collect();
    run(lines[0]);
    nodes.push(start(3, "d"));
    assert!(run(lines[1]).contains("in place 3"));
    for node in nodes {
        node.stop();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clients_certificate_gives_no_commands_and_makes_no_peer() {
    let Some(dir) = scratch() else { return };
    let nodes = Layout::of(3).secured().start(dir.path());
    nodes.init(3);
    let client = nodes.connect().await;
    let table = create(&client, "kept", 1).await;
    table.put(&item(1)).send().await.expect("clients write");
    // What a client has, and no more.
    let (all, own) = (nodes.certificates(), dir.path().join("own"));
    std::fs::create_dir(&own).unwrap();
    for file in ["authority.pem", "client.pem", "client.key"] {
        std::fs::copy(all.join(file), own.join(file)).unwrap();
    }
    let at = nodes.natives[0].to_string();
    let groups = ["admin", "--certificates", text(&own), "groups", &at];
    refused(&groups, 2, &["operator.pem"]);
    for file in ["pem", "key"] {
        std::fs::copy(own.join(format!("client.{file}")), own.join(format!("operator.{file}")))
            .unwrap();
    }
    refused(&groups, 1, &["operator's certificate", "forebay certs"]);
    let denied = "forebay_shard_replies_total{shard=\"0\",code=\"AccessDenied\"}";
    assert_eq!(nodes.node(0).metric(denied), 1);
    assert_eq!(nodes.admin(&["groups", &at]).status.code(), Some(0));
    // At the peers' port it is refused before it has said anything.
    let tls = ClientTls::in_directory(&own).unwrap();
    let stream = TcpStream::connect(nodes.peer(0)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    if let Ok(mut stream) = tls.wrap(stream) {
        assert!(!matches!(stream.read(&mut [0; 10]), Ok(1..)));
    }
    wait_for("it is refused and counted", || refusals(nodes.node(0), "wrong_role") == 1).await;
    table.put(&item(2)).send().await.expect("clients write");
    let said = nodes.stop().swap_remove(0).1;
    assert!(!said.contains("panic"), "{said}");
}
