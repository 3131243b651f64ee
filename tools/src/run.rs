//! Running a node in this process: from a configuration to a clean shutdown.
//!
//! ```text
//!   validate ─► preflight ─► data directory ─► start ─► recovery ─► "ready …" ─► signal ─► stop
//!               (ring,        (lock, prewrite,           (progress                (a second
//!                memlock)      progress)                  on stderr)               one: exit)
//! ```
//!
//! Standard output gets one line, when the node serves; everything else goes to standard error.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use forebay_net::metrics::{ShardMetrics, ShardPhase};
use forebay_net::node::config::NodeConfig;
use forebay_net::refusals::ShardsLog;
use forebay_storage::directory::DataDirectory;
use indicatif::{ProgressBar, ProgressStyle};

use crate::exit::{Exit, Failure};
use crate::preflight;

/// How often it is looked whether there is something to say about what was refused of peers.
const REFUSED_LOOK: Duration = Duration::from_secs(1);

/// What `run_node` needs of a started node.
pub(crate) trait Running {
    /// Where the first shard of each node listens.
    fn native_addrs(&self) -> Vec<SocketAddr>;
    /// Where the nodes' operator HTTP listens.
    fn http_addrs(&self) -> Vec<SocketAddr>;
    /// The metrics of all shards, in order.
    fn metrics(&self) -> Vec<Arc<ShardMetrics>>;
    /// Whether all of it serves.
    fn is_ready(&mut self) -> bool {
        self.metrics().iter().all(|shard| shard.phase() == ShardPhase::Serving)
    }
    /// Does what is to be done now and then, outside of the shards.
    fn step(&mut self) -> Result<(), Failure> {
        Ok(())
    }
    /// Reads its certificates again; None if it has none.
    fn reload(&mut self) -> Option<Result<(), Failure>> {
        None
    }
    /// What was done at SIGUSR1 (`first`) or SIGUSR2, in words; None if they mean nothing here.
    fn user_signal(&mut self, _first: bool) -> Option<String> {
        None
    }
    /// The reason, once a shard has ended by itself.
    fn failure(&mut self) -> Option<Failure>;
    /// Stops every shard in order and waits for them.
    fn stop(self: Box<Self>) -> Result<(), Failure>;
}

/// Starts a node on a locked directory. Returns at once; recovery shows in the metrics.
pub(crate) type Start = fn(NodeConfig, DataDirectory) -> Result<Box<dyn Running>, Failure>;

/// Runs a node until a signal or a failure.
pub(crate) fn run_node(config: NodeConfig, start: Start) -> Result<(), Failure> {
    let signals = listen_for_signals()?;
    let (config, directory) = open(config)?;
    let running = start(config, directory)?;
    serve(running, &signals, &mut std::io::stdout())
}

/// Runs what `start` makes of several nodes' directories, until a signal or a failure.
pub(crate) fn run_nodes(
    configs: Vec<NodeConfig>,
    start: impl FnOnce(Vec<(NodeConfig, DataDirectory)>) -> Result<Box<dyn Running>, Failure>,
) -> Result<(), Failure> {
    let signals = listen_for_signals()?;
    if let Some(first) = configs.first() {
        // One process, one limit.
        let shards =
            |config: &NodeConfig| config.shards.unwrap_or(NodeConfig::NEW_DIRECTORY.shards);
        preflight::check(first, configs.iter().map(shards).sum())?;
    }
    let opened = configs.into_iter().map(open).collect::<Result<_, _>>()?;
    serve(start(opened)?, &signals, &mut std::io::stdout())
}

/// Checks the machine, and opens the node's directory, or makes it.
fn open(config: NodeConfig) -> Result<(NodeConfig, DataDirectory), Failure> {
    config.validate()?;
    let asked = config.shards.unwrap_or(NodeConfig::NEW_DIRECTORY.shards);
    preflight::check(&config, asked)?;
    let bar = bytes_bar("preparing the log");
    let directory = DataDirectory::open_or_create(
        &config.data_dir,
        &config.directory_request(),
        &mut |progress| {
            bar.set_length(progress.total_bytes);
            bar.set_position(progress.done_bytes);
        },
    )?;
    bar.finish_and_clear();
    let shards = directory.geometry().shards;
    preflight::check(&config, shards)?;
    let config = NodeConfig { shards: Some(shards), ..config };
    // Again: the directory may have more shards than its caller knew.
    config.validate()?;
    let path = directory.path().display();
    if directory.was_created() {
        eprintln!("forebay: created {path} with {shards} shard(s)");
    } else {
        eprintln!("forebay: opening {path} with {shards} shard(s)");
    }
    Ok((config, directory))
}

/// Waits until the node serves, says so on `out`, waits for the end.
fn serve(
    mut running: Box<dyn Running>,
    signals: &Receiver<&'static str>,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let bar = bytes_bar("recovering");
    let mut is_ready = false;
    let mut refused = ShardsLog::default();
    let mut look_at = Instant::now();
    loop {
        if look_at.elapsed() >= REFUSED_LOOK {
            look_at = Instant::now();
            for line in refused.due(&running.metrics(), look_at) {
                eprintln!("forebay: {line}");
            }
        }
        let stepped = running.step().err();
        if let Some(failure) = running.failure().or(stepped) {
            bar.finish_and_clear();
            let stopped = running.stop();
            if let Err(second) = stopped {
                eprintln!("forebay: while stopping: {}", second.message);
            }
            return Err(failure);
        }
        if !is_ready {
            let metrics = running.metrics();
            show_recovery(&bar, &metrics);
            is_ready = running.is_ready();
            if is_ready {
                bar.finish_and_clear();
                say_recovered(&metrics);
                // A closed pipe is the reader's choice, not a reason to stop serving.
                let _ = writeln!(out, "{}", ready_line(&*running)).and_then(|()| out.flush());
            }
        }
        let wait = Duration::from_millis(if is_ready { 100 } else { 5 });
        match signals.recv_timeout(wait) {
            Ok(HANGUP) if let Some(reloaded) = running.reload() => match reloaded {
                Ok(()) => eprintln!("forebay: SIGHUP, the certificates were read again"),
                Err(failure) => {
                    eprintln!(
                        "forebay: SIGHUP, the certificates stay as they are: {}",
                        failure.message
                    );
                }
            },
            Ok(signal @ (USER_1 | USER_2))
                if let Some(words) = running.user_signal(signal == USER_1) =>
            {
                eprintln!("forebay: {signal}, {words}");
            }
            Ok(signal) => {
                bar.finish_and_clear();
                eprintln!("forebay: {signal}, stopping; once more to stop at once");
                return running.stop();
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                // Without its signal thread the process can only be killed; go on serving.
                std::thread::sleep(wait);
            }
        }
    }
}

/// `ready native=ADDR http=ADDR shards=N`: the address of each node's first shard, with commas
/// between them, from which clients learn the others.
fn ready_line(running: &dyn Running) -> String {
    let text = |addresses: Vec<SocketAddr>| {
        addresses.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(",")
    };
    let mut line = format!("ready native={}", text(running.native_addrs()));
    let http = running.http_addrs();
    if !http.is_empty() {
        line.push_str(&format!(" http={}", text(http)));
    }
    line.push_str(&format!(" shards={}", running.metrics().len()));
    line
}

fn show_recovery(bar: &ProgressBar, metrics: &[Arc<ShardMetrics>]) {
    let total: u64 = metrics.iter().map(|shard| shard.recovery_total_bytes.get()).sum();
    let done: u64 = metrics.iter().map(|shard| shard.recovery_replayed_bytes.get()).sum();
    bar.set_length(total);
    bar.set_position(done.min(total));
}

fn say_recovered(metrics: &[Arc<ShardMetrics>]) {
    for shard in metrics {
        let applied = shard.recovery_applied_entries.get();
        if applied > 0 {
            let millis = shard.recovery_duration_microseconds.get() as f64 / 1e3;
            let bytes = crate::size::ByteSize(shard.recovery_replayed_bytes.get());
            let number = shard.shard();
            eprintln!(
                "forebay: shard {number} recovered {applied} entries from {bytes} of log in \
                 {millis:.1} ms"
            );
        }
    }
}

/// A progress bar of bytes on standard error; silent when that is no terminal.
pub(crate) fn bytes_bar(what: &'static str) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} [{bar:40}] {bytes}/{total_bytes} {eta}")
        .expect("a constant template")
        .progress_chars("=> ");
    ProgressBar::new(0).with_style(style).with_message(what)
}

/// What a SIGHUP is called. It ends a node that has no certificates to read again, as any process.
const HANGUP: &str = "SIGHUP";
/// For `dev`; they end any other node, as any process.
const USER_1: &str = "SIGUSR1";
const USER_2: &str = "SIGUSR2";

/// A thread that sends each SIGHUP, SIGUSR1 and SIGUSR2, and the first SIGINT or SIGTERM, and ends the process at the second.
pub(crate) fn listen_for_signals() -> Result<Receiver<&'static str>, Failure> {
    use tokio::signal::unix::{SignalKind, signal};
    let cannot =
        |error: std::io::Error| Failure::new(Exit::Other, format!("cannot watch signals: {error}"));
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(cannot)?;
    let (mut interrupt, mut terminate, mut hangup, mut user_1, mut user_2) = {
        let _inside = runtime.enter();
        (
            signal(SignalKind::interrupt()).map_err(cannot)?,
            signal(SignalKind::terminate()).map_err(cannot)?,
            signal(SignalKind::hangup()).map_err(cannot)?,
            signal(SignalKind::user_defined1()).map_err(cannot)?,
            signal(SignalKind::user_defined2()).map_err(cannot)?,
        )
    };
    let (sender, receiver) = channel();
    let watch = async move {
        loop {
            let name = tokio::select! {
                _ = interrupt.recv() => "SIGINT",
                _ = terminate.recv() => "SIGTERM",
                _ = hangup.recv() => {
                    let _ = sender.send(HANGUP);
                    continue;
                }
                _ = user_1.recv() => {
                    let _ = sender.send(USER_1);
                    continue;
                }
                _ = user_2.recv() => {
                    let _ = sender.send(USER_2);
                    continue;
                }
            };
            static SEEN: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);
            if SEEN.swap(true, std::sync::atomic::Ordering::Relaxed) {
                // What is acknowledged is durable; recovery does the rest.
                std::process::exit(130);
            }
            let _ = sender.send(name);
        }
    };
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || runtime.block_on(watch))
        .map_err(cannot)?;
    Ok(receiver)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

    use forebay_core::ids::ShardId;
    use forebay_net::metrics::MetricNames;

    use super::*;

    struct Fake {
        metrics: Arc<ShardMetrics>,
        fails: bool,
        stopped: Arc<AtomicBool>,
    }

    impl Running for Fake {
        fn native_addrs(&self) -> Vec<SocketAddr> {
            vec!["127.0.0.1:1".parse().unwrap()]
        }
        fn http_addrs(&self) -> Vec<SocketAddr> {
            vec!["127.0.0.1:3".parse().unwrap()]
        }
        fn metrics(&self) -> Vec<Arc<ShardMetrics>> {
            vec![Arc::clone(&self.metrics)]
        }
        fn failure(&mut self) -> Option<Failure> {
            self.fails.then(|| Failure::new(Exit::ShardFailed, "shard 0 failed"))
        }
        fn stop(self: Box<Self>) -> Result<(), Failure> {
            self.stopped.store(true, Relaxed);
            Ok(())
        }
    }

    fn fake(fails: bool) -> (Box<Fake>, Arc<ShardMetrics>, Arc<AtomicBool>) {
        let names = MetricNames { requests: &[], replies: &[], refusals: &[] };
        let metrics = Arc::new(ShardMetrics::new(ShardId(0), names));
        let stopped = Arc::new(AtomicBool::new(false));
        let fake = Fake { metrics: Arc::clone(&metrics), fails, stopped: Arc::clone(&stopped) };
        (Box::new(fake), metrics, stopped)
    }

    #[test]
    fn one_ready_line_appears_only_when_every_shard_serves() {
        let (node, metrics, stopped) = fake(false);
        let (sender, signals) = channel();
        metrics.set_phase(ShardPhase::Recovering);
        let helper = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            metrics.set_phase(ShardPhase::Serving);
            std::thread::sleep(Duration::from_millis(150));
            sender.send("SIGTERM").unwrap();
        });
        let mut out = Vec::new();
        serve(node, &signals, &mut out).unwrap();
        helper.join().unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text, "ready native=127.0.0.1:1 http=127.0.0.1:3 shards=1\n");
        assert!(stopped.load(Relaxed));
    }

    #[test]
    fn a_signal_during_recovery_stops_without_a_ready_line() {
        let (node, metrics, stopped) = fake(false);
        metrics.set_phase(ShardPhase::Recovering);
        let (sender, signals) = channel();
        sender.send("SIGINT").unwrap();
        let mut out = Vec::new();
        serve(node, &signals, &mut out).unwrap();
        assert!(out.is_empty() && stopped.load(Relaxed));
    }

    #[test]
    fn a_failed_shard_ends_the_process_with_its_reason() {
        let (node, _metrics, stopped) = fake(true);
        let (_sender, signals) = channel();
        let failure = serve(node, &signals, &mut Vec::new()).unwrap_err();
        assert_eq!(failure.exit, Exit::ShardFailed);
        assert!(stopped.load(Relaxed));
    }
}
