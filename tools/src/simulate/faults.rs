//! Carries out a plan's faults on the world.

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
                let file = forebay_storage::block::ShardFile::Pages;
                self.nodes[node].disk.inject(file, sim_disk::Fault::Flush(EIO));
            }
            Fault::FailWrite { node, file } => {
                self.nodes[node].disk.inject(file, sim_disk::Fault::Write(EIO));
            }
            Fault::BadSectors { node, file, at, blocks } => {
                let first = self.nodes[node].disk.spoil(index, file, at, blocks);
                self.trace.say(now, || format!("from block {first} of {file:?}"));
            }
            Fault::FlipBit { node, file, at, bit } => {
                let offset = self.nodes[node].disk.flip(file, at, bit);
                self.trace.say(now, || format!("in byte {offset} of {file:?}"));
            }
            Fault::MisdirectWrite { node, at } => {
                let offset = self.nodes[node].disk.misdirect(at);
                self.trace.say(now, || format!("the next one lands at {offset}"));
            }
            Fault::LoseWrite { node } => {
                let file = forebay_storage::block::ShardFile::Pages;
                self.nodes[node].disk.inject(file, sim_disk::Fault::LoseWrite);
            }
        }
    }

    fn end_fault(&mut self, index: usize, fault: Fault) {
        let now = self.now;
        match fault {
            Fault::PowerCut { node } => self.starts_again(node, true),
            Fault::Kill { node } => self.starts_again(node, false),
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
            | Fault::MisdirectWrite { .. }
            | Fault::LoseWrite { .. } => {}
        }
    }

    /// All nodes lose power.
    pub(super) fn power_goes(&mut self) {
        self.trace.say(self.now, || "the power is gone everywhere".to_owned());
        (0..self.nodes.len()).for_each(|node| self.cut_power(node));
    }

    fn cut_power(&mut self, number: usize) {
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
    fn starts_again(&mut self, node: usize, with_power: bool) {
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
