//! The world's connections: who hears of their beginnings, bytes and ends.

use forebay_net::machine::{CloseReason, Machine};

use super::network::{Dialed, Dialer, Item, Listening, Network, Owner, WireId};
use super::node::{Conn, Down, Pending};
use super::queue::What;
use super::world::World;

impl World {
    pub(super) fn dial_arrives(&mut self, index: usize) {
        let dial = self.network.dialing(index);
        if let Dialer::Node { node, incarnation, .. } = dial.dialer
            && self.nodes[node].incarnation != incarnation
        {
            return self.network.forget_dial(index);
        }
        let listening = match self.nodes[dial.to].down {
            None => Listening::Yes,
            Some(Down::Process) => Listening::Refused,
            Some(Down::Power) => Listening::Silent,
        };
        match self.network.dial_arrives(index, listening, self.now, &mut self.queue) {
            Dialed::Later | Dialed::Opened(_) => {}
            Dialed::Failed(errno) => match dial.dialer {
                Dialer::Node { node, token, .. } => {
                    let local = self.nodes[node].clock.local(self.now);
                    let shard = self.nodes[node].shard.as_mut().expect("of this incarnation");
                    shard.connect_failed(token, errno, local);
                    self.turn_soon(node);
                }
                Dialer::Client(client) => {
                    self.clients[client].pause(dial.to, self.now);
                    self.wake_client(client);
                }
            },
        }
    }

    pub(super) fn opened(&mut self, wire: WireId, side: usize) {
        match self.network.owner(wire, side) {
            Some(Owner::Opening { node: number, listener, token }) => {
                let node = &mut self.nodes[number];
                let id = node.conns.insert(Conn { wire, side, closing: false });
                self.network.set_owner(wire, side, Owner::Node { node: number, conn: id });
                let local = node.clock.local(self.now);
                let shard = node.shard.as_mut().expect("its connections end with it");
                shard.connected(id, listener, token, local);
                self.turn_soon(number);
            }
            Some(Owner::Client { client, node }) => {
                self.clients[client].opened(node, wire);
                self.act(client);
            }
            Some(Owner::Node { .. } | Owner::Nobody) | None => {}
        }
    }

    pub(super) fn deliver(&mut self, wire: WireId, side: usize) {
        while let Some(item) = self.network.take(wire, side, self.now, &mut self.queue) {
            match (self.network.owner(wire, side), item) {
                (Some(Owner::Node { node, conn }), Item::Bytes(bytes)) => {
                    let found = &mut self.nodes[node];
                    let open = found.conns.get(conn).is_some_and(|conn| !conn.closing);
                    if found.stop_inside > 0 {
                        let far = self.network.owner(wire, 1 - side);
                        found.is_asked |= match far {
                            // A leader is stopped between a read and its reply.
                            Some(Owner::Client { client, .. }) => {
                                !found.serves() || self.clients[client].awaits_read(node)
                            }
                            _ => false,
                        };
                    }
                    if open {
                        let local = found.clock.local(self.now);
                        let shard = found.shard.as_mut().expect("its connections end with it");
                        shard.received(conn, &bytes, local, &mut found.fx);
                        self.turn_soon(node);
                    }
                    self.network.recycle(bytes);
                }
                (Some(Owner::Client { client, node }), Item::Bytes(bytes)) => {
                    let found = &mut self.clients[client];
                    if found.uses(node, wire) {
                        found.received(node, &bytes, self.now, &mut self.work);
                        self.act(client);
                    }
                    self.network.recycle(bytes);
                }
                (_, Item::End(reason)) => return self.ended(wire, side, reason),
                (_, Item::Bytes(bytes)) => self.network.recycle(bytes),
            }
            self.give_back(wire, side);
        }
    }

    /// The sender's buffer, if it waited for the room that there is now.
    fn give_back(&mut self, wire: WireId, side: usize) {
        let Some((owner, buf, closes)) = self.network.room(wire, side) else { return };
        let Owner::Node { node: number, conn } = owner else { return };
        let node = &mut self.nodes[number];
        node.pending.push(Pending::Sent(conn, buf));
        if closes {
            node.conns.remove(conn);
            node.pending.push(Pending::Closed(conn, CloseReason::Asked));
            let far = 1 - side;
            self.network.close(wire, far, CloseReason::Peer, false, self.now, &mut self.queue);
        }
        self.turn_soon(number);
    }

    /// An end learns that the connection is over.
    fn ended(&mut self, wire: WireId, side: usize, reason: CloseReason) {
        let owner = self.network.owner(wire, side);
        let waited = self.network.close(wire, side, reason, true, self.now, &mut self.queue);
        match owner {
            Some(Owner::Node { node: number, conn }) => {
                let node = &mut self.nodes[number];
                if let Some(buf) = waited {
                    node.pending.push(Pending::Sent(conn, buf));
                }
                if node.conns.remove(conn).is_some() {
                    node.pending.push(Pending::Closed(conn, reason));
                }
                self.turn_soon(number);
            }
            Some(Owner::Client { client, node }) => {
                if self.clients[client].uses(node, wire) {
                    self.clients[client].lost(node, self.now, &mut self.work);
                    self.wake_client(client);
                }
            }
            Some(Owner::Opening { .. } | Owner::Nobody) | None => {}
        }
    }

    /// A connection breaks in the middle.
    pub(super) fn reset(&mut self, wire: WireId) {
        let of_node =
            |side| self.network.owner(wire, side).is_some_and(|owner| owner.node().is_some());
        if of_node(0) && of_node(1) {
            self.work.staleness.breaks(self.now);
            self.trace.say(self.now, || "a connection between two nodes breaks".to_owned());
        }
        for side in 0..2 {
            if self.network.owner(wire, side).is_some_and(|owner| owner != Owner::Nobody) {
                self.ended(wire, side, CloseReason::Error(libc::ECONNRESET));
            }
        }
    }

    pub(super) fn wake_client(&mut self, number: usize) {
        let client = &mut self.clients[number];
        let Some(at) = client.due_at(self.work.stage) else { return };
        let at = at.max(self.now);
        if client.due.is_none_or(|due| at < due) {
            client.due = Some(at);
            self.queue.push(at, What::Client { client: number });
        }
    }

    /// A client acts, and what it wants is done.
    pub(super) fn act(&mut self, number: usize) {
        let places = self.nodes.len();
        let client = &mut self.clients[number];
        client.act(self.now, &mut self.work);
        for wire in client.closes.drain(..) {
            let reason = CloseReason::Peer;
            self.network.close(wire, 0, reason, false, self.now, &mut self.queue);
        }
        for link in &mut client.links {
            if !link.out.is_empty() {
                let wire = link.wire().expect("only an open connection is written to");
                self.network.send(wire, 0, &link.out, self.now, &mut self.queue);
                link.out.clear();
            }
        }
        for node in client.dials.drain(..) {
            let dial = Network::dial_of(places, node, 0, Dialer::Client(number));
            self.network.dial(dial, self.now, &mut self.queue);
        }
        self.wake_client(number);
    }
}
