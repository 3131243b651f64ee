//! Carries out a plan's faults on the world.

use forebay_core::ids::GroupId;
use forebay_core::liveness::Peer;
use forebay_core::paxos::MemberRole;
use forebay_net::shard::Shard;
use forebay_storage::block::ShardFile;
use forebay_storage::sim_disk::{self, EIO};

use super::node::Down;
use super::plan::{Edge, Fault};
use super::queue::What;
use super::world::World;
use super::{between, clock::Clock};

const MILLI: u64 = 1_000_000;
const SECOND: u64 = 1_000_000_000;

impl World {
    /// A fault begins or ends.
    pub(super) fn fault(&mut self, index: usize, edge: Edge) {
        let planned = self.planned(index);
        let nodes = self.nodes.len();
        self.trace.say(self.now, || {
            let edge = if edge == Edge::Begins { "begins" } else { "is over" };
            format!("fault {index} {edge}: {}", planned.fault.describe(nodes))
        });
        if edge == Edge::Begins {
            self.stats.faults += 1;
            self.begin_fault(index, planned.fault, planned.nanos);
        } else {
            self.end_fault(index, planned.fault);
        }
    }

    fn begin_fault(&mut self, index: usize, fault: Fault, nanos: u64) {
        let now = self.now;
        match fault {
            Fault::PowerCut { node } => self.cut_power(node),
            Fault::Blackout { stuck } => {
                for node in &mut self.nodes {
                    node.disk.stuck_until = node.disk.stuck_until.max(now + stuck);
                }
                self.queue.push(now + stuck, What::PowerGoes);
            }
            Fault::Kill { node } if self.nodes[node].shard.is_some() => {
                self.crash(node, Down::Process);
            }
            Fault::Kill { .. } => {}
            Fault::Pause { node, inside: true, .. } if self.nodes[node].shard.is_some() => {
                self.nodes[node].stop_inside = nanos;
            }
            Fault::Pause { node, .. } => {
                let until = &mut self.nodes[node].paused_until;
                *until = (*until).max(now + nanos);
            }
            Fault::Plot { plot, roll } => self.begin_plot(index, plot, roll),
            Fault::Cut { from, to } => self.network.cut(from, to, true),
            Fault::CutBothWays { a, b } => {
                self.network.cut(a, b, true);
                self.network.cut(b, a, true);
            }
            Fault::Isolate { node } => self.isolate(node, self.nodes.len(), true),
            Fault::Sever { node } => self.isolate(node, self.nodes.len() - 1, true),
            Fault::SlowLink { from, to, nanos } => self.network.set_slow(from, to, nanos),
            Fault::Reset { a, b } => {
                for (wire, _) in self.network.between_places(a, b) {
                    self.reset(wire);
                }
            }
            Fault::Flaky { a, b, one_in } => self.network.set_flaky(a, b, one_in),
            Fault::Garble { from, to } => self.network.garble(from, to),
            Fault::Drift { node, ppm } => self.nodes[node].clock.set_rate(now, ppm),
            Fault::SlowDisk { node, times } => self.nodes[node].disk.times = times,
            Fault::StuckDisk { node } => {
                let until = &mut self.nodes[node].disk.stuck_until;
                *until = (*until).max(now + nanos);
            }
            Fault::FullDisk { node } => self.nodes[node].disk.set_full(true),
            Fault::FailFlush { node } => {
                let file = ShardFile::Pages;
                self.nodes[node].disk.inject(file, sim_disk::Fault::Flush(EIO));
            }
            Fault::FailWrite { node, file } => {
                self.nodes[node].disk.inject(file, sim_disk::Fault::Write(EIO));
            }
            Fault::BadSectors { node, file, at, blocks } => {
                let offset = self.place_in(node, file, at);
                let first = self.nodes[node].disk.spoil(index, file, offset, blocks);
                self.trace.say(now, || format!("from block {first} of {file:?}"));
            }
            Fault::FlipBit { node, file, at, bit } => {
                let offset = self.place_in(node, file, at);
                self.nodes[node].disk.flip(file, offset, bit);
                self.damages(node);
                self.trace.say(now, || format!("in byte {offset} of {file:?}"));
            }
            Fault::DeleteData { node } => self.lose_data(node, now + nanos),
            Fault::HandOver { roll } => self.hand_over(roll),
            Fault::MisdirectWrite { node, at } => {
                self.damages(node);
                let offset = self.nodes[node].disk.misdirect(at);
                self.trace.say(now, || format!("the next one lands at {offset}"));
            }
            Fault::LoseWrite { node } => {
                self.damages(node);
                let file = ShardFile::Pages;
                self.nodes[node].disk.inject(file, sim_disk::Fault::LoseWrite);
            }
        }
    }

    fn end_fault(&mut self, index: usize, fault: Fault) {
        let now = self.now;
        match fault {
            Fault::PowerCut { node } => self.starts_again(node, true),
            Fault::Kill { node } => self.starts_again(node, false),
            Fault::Plot { .. } => self.end_plot(index),
            Fault::Blackout { .. } => {
                (0..self.nodes.len()).for_each(|node| self.starts_again(node, true));
            }
            Fault::Cut { from, to } => {
                self.network.cut(from, to, false);
                self.network.resume_all(now, &mut self.queue);
            }
            Fault::CutBothWays { a, b } => {
                self.network.cut(a, b, false);
                self.network.cut(b, a, false);
                self.network.resume_all(now, &mut self.queue);
            }
            Fault::Isolate { node } => {
                self.isolate(node, self.nodes.len(), false);
                self.network.resume_all(now, &mut self.queue);
            }
            Fault::Sever { node } => {
                self.isolate(node, self.nodes.len() - 1, false);
                self.network.resume_all(now, &mut self.queue);
            }
            Fault::SlowLink { from, to, .. } => self.network.set_slow(from, to, 0),
            Fault::Flaky { a, b, .. } => self.network.set_flaky(a, b, 0),
            Fault::SlowDisk { node, .. } => self.nodes[node].disk.times = 1,
            Fault::FullDisk { node } => self.nodes[node].disk.set_full(false),
            Fault::BadSectors { node, .. } => self.nodes[node].disk.mend(index),
            Fault::Drift { node, .. } => {
                let ppm = between(&mut self.random, 0, 400) as i64 - 200;
                self.nodes[node].clock.set_rate(now, ppm);
            }
            // Over by themselves.
            Fault::Pause { .. }
            | Fault::StuckDisk { .. }
            | Fault::Reset { .. }
            | Fault::FailFlush { .. }
            | Fault::FailWrite { .. }
            | Fault::Garble { .. }
            | Fault::FlipBit { .. }
            | Fault::DeleteData { .. }
            | Fault::HandOver { .. }
            | Fault::MisdirectWrite { .. }
            | Fault::LoseWrite { .. } => {}
        }
    }

    /// Every group that a node leads is handed to another of its members.
    fn hand_over(&mut self, roll: u64) {
        for number in 0..self.nodes.len() {
            let node = &mut self.nodes[number];
            let local = node.clock.local(self.now);
            let Some(shard) = node.shard.as_mut().filter(|_| node.paused_until <= self.now) else {
                continue;
            };
            for (group, peers) in led_by(shard) {
                let to = peers[(roll.wrapping_add(group.0) % peers.len() as u64) as usize];
                self.stats.hand_overs += u64::from(shard.hand_over(group, to, local).is_ok());
            }
            self.turn_soon(number);
        }
    }

    /// What the disk holds is not what was written.
    fn damages(&mut self, node: usize) {
        self.nodes[node].is_damaged = true;
        self.stats.damages += 1;
    }

    /// Where a place of a file is that is given in millionths of what is in use.
    fn place_in(&self, node: usize, file: ShardFile, at: u64) -> u64 {
        let node = &self.nodes[node];
        match file {
            ShardFile::Log => node.log_offset(at),
            ShardFile::Pages => node.disk.offset(file, at),
        }
    }

    /// All nodes lose power.
    pub(super) fn power_goes(&mut self) {
        self.trace.say(self.now, || "the power is gone everywhere".to_owned());
        (0..self.nodes.len()).for_each(|node| self.cut_power(node));
    }

    pub(super) fn cut_power(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        if node.shard.is_some() {
            self.crash(number, Down::Power);
        } else if node.down != Some(Down::Power) {
            node.down = Some(Down::Power);
            node.incarnation += 1;
            node.disk.cut_power();
        }
    }

    /// The first of the faults that hold a node down to end has it start again.
    pub(super) fn starts_again(&mut self, node: usize, with_power: bool) {
        let found = &mut self.nodes[node];
        let boots = with_power && found.down == Some(Down::Power);
        if boots {
            // The machine's clock begins anew.
            let local = SECOND + between(&mut self.random, 0, 100 * SECOND);
            let ppm = found.clock.ppm();
            found.clock = Clock::new(self.now, local, ppm);
            found.down = Some(Down::Process);
        }
        if boots || found.down == Some(Down::Process) {
            let incarnation = found.incarnation;
            let at = self.now + between(&mut self.random, MILLI, 20 * MILLI);
            self.queue.push(at, What::Restart { node, incarnation });
        }
    }

    /// Cuts a node from all places up to `last`, or takes that back.
    fn isolate(&mut self, node: usize, last: usize, more: bool) {
        for other in (0..=last).filter(|other| *other != node) {
            self.network.cut(node, other, more);
            self.network.cut(other, node, more);
        }
    }
}

/// The groups that a shard leads, each with the shards of its other storage replicas.
fn led_by(shard: &Shard) -> Vec<(GroupId, Vec<Peer>)> {
    let Some(replication) = shard.replication() else { return Vec::new() };
    let me = replication.me().peer;
    let led = replication.statuses().filter(|status| status.serves).map(|status| {
        let members = replication.members_of(status.ordinal);
        let others =
            members.filter(|member| member.peer != me && member.role == MemberRole::Storage);
        (status.group, others.map(|member| member.peer).collect())
    });
    led.filter(|(_, others): &(_, Vec<_>)| !others.is_empty()).collect()
}
