//! Nodes with nothing to do sleep: before there is a cluster, in one, alone in one whose other nodes are gone,
//! and where the operator gave the process a real-time policy.

mod support;

use std::process::Command;
use std::time::{Duration, Instant};

use support::nodes::Nodes;
use support::process::{Node, command, piped, smallest_config};
use support::scratch;

/// Looked at for so long.
const WATCHED: Duration = Duration::from_millis(1500);
/// Heartbeats, their answers, the ticks of healing and the pages read in the background are some sixty turns a
/// second; a loop that does not sleep is hundreds of thousands.
const TURNS_PER_SECOND_MAX: f64 = 500.0;
/// Of one core, in all threads of a process.
const CPU_PART_MAX: f64 = 0.25;

/// CPU time of the process, in seconds.
fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // After the name, which may hold anything.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().unwrap()).sum();
    // USER_HZ is 100 on every Linux.
    ticks as f64 / 100.0
}

fn assert_idle(what: &str, node: &Node) {
    let figures = || {
        let turns = node.metric("forebay_shard_turns_total{shard=\"0\"}");
        let enters = node.metric("forebay_shard_ring_enters_total{shard=\"0\"}");
        (turns.max(enters), cpu_seconds(node.pid()))
    };
    let (begun, (turns, cpu)) = (Instant::now(), figures());
    std::thread::sleep(WATCHED);
    let (turns_after, cpu_after) = figures();
    let seconds = begun.elapsed().as_secs_f64();
    let rate = (turns_after - turns) as f64 / seconds;
    let part = (cpu_after - cpu) / seconds;
    eprintln!("{what}: {rate:.0} turns a second, {part:.3} of a core");
    assert!(rate < TURNS_PER_SECOND_MAX, "{what}: {rate} turns a second");
    assert!(part < CPU_PART_MAX, "{what}: {part} of a core");
}

#[test]
fn nodes_sleep_before_they_are_a_cluster_and_in_one_and_alone() {
    let Some(dir) = scratch() else { return };
    let mut nodes = Nodes::start(dir.path(), 3);
    assert_idle("in no cluster", nodes.node(0));
    nodes.init(3);
    nodes.wait_until_whole(3);
    for place in 0..3 {
        assert_idle("in a cluster", nodes.node(place));
    }
    nodes.kill(1);
    nodes.kill(2);
    assert_idle("left alone", nodes.node(0));
    nodes.kill(0);
    nodes.restart(0);
    assert_idle("started alone", nodes.node(0));
    nodes.kill(0);
}

#[test]
fn a_node_with_a_real_time_policy_on_one_core_starts_and_sleeps() {
    let Some(dir) = scratch() else { return };
    let allowed = Command::new("chrt").args(["-f", "1", "true"]).status();
    if !allowed.is_ok_and(|status| status.success()) {
        eprintln!("skipped: this process may not have a real-time policy");
        return;
    }
    let file = dir.path().join("node.toml");
    smallest_config(&file, &dir.path().join("data"), 1);
    let plain = command();
    // The core that this process may use first: kernel workers then have no other one.
    let core = std::fs::read_to_string("/proc/self/status").unwrap();
    let list = core.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap();
    let core = list.trim().split([',', '-']).next().unwrap().to_owned();
    let mut command = Command::new("taskset");
    command.args(["-c", &core, "chrt", "-f", "1"]).arg(plain.get_program());
    command.arg("node").arg("--config").arg(&file);
    piped(&mut command);
    let node = Node::spawn(command);
    assert_idle("with a real-time policy", &node);
    node.stop();
}
