//! One operation: where it is sent, and what is done when it comes back without an answer.
//!
//! | what happened | a write | a read |
//! |---|---|---|
//! | not sent, the connection broke | another connection or node | the same |
//! | not sent, time is up | `Timeout` or `Connect` | the same |
//! | sent, the connection broke | **`Unknown`** | sent again once, then `Lost` |
//! | sent, time is up | **`Unknown`** | sent again once at half time, then `Timeout` |
//! | "the leader is …" | sent to that leader | the same |
//! | nobody is known to lead, or the node stops | after a pause, to another node | the same |
//! | its state is too old for the read | | to the leader, if it is known, or another node |
//! | the node does not know the partition | to the next node; if none does, or none that does can be asked for a second, the description is old | the same |
//! | the node is busy | sent again after its pause, `retries_max` times | the same |
//! | the shard failed, or lost its leadership, with it begun | **`Unknown`** | to another node |
//! | refused otherwise | the named error | the same |
//!
//! All of it ends with the deadline, and each attempt has what those before it left.
//!
//! **What is sent again.** A request of which no byte was handed to a socket; one that a shard refused
//! before it began it; and reads. Never a write that may have reached a node, and that holds for plain
//! Puts too, though doing one twice leaves the same item: between its two executions another client's
//! write may be acknowledged, and the second execution would undo it.
//!
//! ```text
//!   this client   Put x=1 ───────────── no answer ── Put x=1 again ─► done
//!   another                Put x=2 ─► done                             reads 1: its own write is gone
//! ```
//!
//! No condition on the item's value tells the two executions apart, and neither would returned old
//! values. So the answer is `Unknown`, and only the application, which may know that nobody else writes
//! this item, can repeat it. DynamoDB's own SDKs do repeat such writes; this client does not, because a
//! history with them is not linearizable.

use std::sync::Arc;
use std::time::Duration;

use forebay_core::message::ErrorCode;
use tokio::time::Instant;

use super::cluster::{Choice, Cluster, Place, can_be_asked};
use super::config::ClientConfig;
use super::connection::CallError;
use super::deadline::{Deadline, back_off};
use super::endpoint::{Endpoint, State};
use super::error::{ClientError, Lost, ProtocolError, UnknownCause};
use super::exchange::NoReply;
use super::wire::{Answer, Call, Received, Refusal};

/// Longest pause while a leader is looked for: a group without one has a new one well within a second.
const ELECTION_PAUSE_MAX: Duration = Duration::from_millis(100);
/// So many answers "the leader is …" are followed at once, one after the other; members that send a
/// request in a circle are asked again after a pause.
const FOLLOWED_AT_ONCE: u32 = 3;

/// Until there is a connection to a leader that had failed and is back, if it is: nobody waits for it, because
/// members name a leader that has died until they know.
const RECONNECT_PAUSE: Duration = Duration::from_millis(2);

/// Longer than nobody leads after a death: members that can be asked say so within that time, if there
/// are any.
const STRANGE_MAX: Duration = Duration::from_secs(1);

/// One operation on its way; see the module's docs.
pub(super) struct Attempts<'a> {
    cluster: &'a Cluster,
    config: &'a ClientConfig,
    call: Call<'a>,
    place: Place,
    deadline: Deadline,
    /// The number of the node to begin with.
    turn: usize,
    asked: Option<Arc<Endpoint>>,
    /// A read that was sent once without an answer, and one that has had its half of the time.
    sent_before: bool,
    halved: bool,
    /// How often a node was busy.
    busy: u32,
    /// How often the request went on to another node, and how many pauses that took.
    redirects: u32,
    waits: u32,
    followed: u32,
    /// Nodes that do not know the partition, since one last did.
    strangers: Vec<Arc<Endpoint>>,
    strange_since: Option<Instant>,
}

/// How the operation goes on after an attempt.
enum Next {
    Again,
    Over(Result<Received, ClientError>),
}

impl<'a> Attempts<'a> {
    pub(super) fn new(
        cluster: &'a Cluster,
        config: &'a ClientConfig,
        call: Call<'a>,
        place: Place,
        deadline: Deadline,
    ) -> Attempts<'a> {
        Attempts {
            cluster,
            config,
            call,
            place,
            deadline,
            // Groups are led by different nodes, and their first guesses are as different.
            turn: place.group.0 as usize,
            asked: None,
            sent_before: false,
            halved: false,
            busy: 0,
            redirects: 0,
            waits: 0,
            followed: 0,
            strangers: Vec::new(),
            strange_since: None,
        }
    }

    /// Begins with node number `turn`, leader or not.
    pub(super) fn begin_at(mut self, turn: usize) -> Attempts<'a> {
        self.turn = turn;
        self
    }

    /// Sends the request until it is answered or nothing more can be done.
    pub(super) async fn run(mut self) -> Result<Received, ClientError> {
        loop {
            // A request that any replica may answer goes to the leader once one was named.
            let leads = self.call.leads || self.redirects > 0;
            let asked = self.asked.as_ref();
            let endpoint = match self.cluster.choose(self.place, leads, self.turn, asked) {
                Choice::Ask(endpoint) => endpoint,
                Choice::Later(pause, dead) => {
                    if self.deadline.pause(pause).await {
                        continue;
                    }
                    return Err(connect_error(&dead, dead.error()));
                }
                Choice::NoShard => {
                    return Err(no_shard(self.place.shard.0));
                }
            };
            match self.ask(&endpoint).await {
                Next::Again => self.asked = Some(endpoint),
                Next::Over(result) => return result,
            }
        }
    }

    async fn ask(&mut self, endpoint: &Arc<Endpoint>) -> Next {
        let connection = match endpoint.connection(self.deadline).await {
            Ok(connection) => connection,
            Err(error) => {
                self.go_on(endpoint);
                return match self.deadline.is_over() {
                    true => Next::Over(Err(connect_error(endpoint, error))),
                    // It rests now, so it is not what is chosen next.
                    false => Next::Again,
                };
            }
        };
        self.cluster.hear(endpoint);
        let whole = self.call.write || self.sent_before || self.halved;
        let until = if whole { self.deadline.at } else { self.deadline.half() };
        match connection.call(&self.call, until).await {
            Ok(received) => self.answered(endpoint, received).await,
            Err(CallError::NoReply(NoReply { sent, lost })) => {
                endpoint.bury();
                self.go_on(endpoint);
                self.lost(sent, lost)
            }
            Err(CallError::Deadline { sent: true }) if self.call.write => {
                let cause = UnknownCause::Timeout { waited: self.deadline.waited() };
                Next::Over(Err(ClientError::Unknown { cause }))
            }
            Err(CallError::Deadline { .. }) if whole => Next::Over(Err(self.deadline.timeout())),
            Err(CallError::Deadline { sent }) => {
                (self.sent_before, self.halved) = (sent, true);
                // The same shard on another connection is as good as another node.
                Next::Again
            }
        }
    }

    fn lost(&mut self, sent: bool, lost: Lost) -> Next {
        if !sent {
            return Next::Again;
        }
        if self.call.write {
            return Next::Over(Err(ClientError::Unknown { cause: UnknownCause::Lost(lost) }));
        }
        if !self.sent_before {
            self.sent_before = true;
            return Next::Again;
        }
        Next::Over(Err(match lost {
            Lost::Protocol(error) => ClientError::Protocol(error),
            lost => ClientError::Lost(lost),
        }))
    }

    async fn answered(&mut self, endpoint: &Arc<Endpoint>, received: Received) -> Next {
        let refusal = match received.answer(endpoint.addr().ip(), self.call.write) {
            Ok(Answer::Reply) => {
                if self.call.leads {
                    self.cluster.remember(self.place.group, endpoint);
                }
                return Next::Over(Ok(received));
            }
            Ok(Answer::Refused(refusal)) => refusal,
            Err(error) => return Next::Over(Err(error)),
        };
        match refusal.code {
            ErrorCode::NotLeader => self.redirected(endpoint, refusal).await,
            ErrorCode::LeadershipLost if !self.call.write => {
                self.redirected(endpoint, refusal).await
            }
            ErrorCode::ShuttingDown => self.elsewhere(endpoint, refusal).await,
            ErrorCode::ShardFailed if !self.call.write => self.elsewhere(endpoint, refusal).await,
            // Another replica may be fresher, and the leader is.
            ErrorCode::TooStale => self.elsewhere(endpoint, refusal).await,
            ErrorCode::UnknownTable | ErrorCode::WrongPartition if self.place != Place::SYSTEM => {
                self.estranged(endpoint, refusal).await
            }
            code => {
                let pause = match refusal.retry_after {
                    Some(pause) if code.had_no_effect() => Some(pause),
                    None if code == ErrorCode::Overloaded => Some(back_off(self.busy + 1)),
                    _ => None,
                };
                match pause {
                    Some(pause) if self.busy < self.config.retries_max => {
                        self.busy += 1;
                        if self.call.leads {
                            // It is the right place, only busy.
                            self.cluster.remember(self.place.group, endpoint);
                        }
                        match self.deadline.pause(pause).await {
                            true => Next::Again,
                            false => self.over(refusal),
                        }
                    }
                    _ => self.over(refusal),
                }
            }
        }
    }

    /// The node cannot do it. Another one may.
    async fn elsewhere(&mut self, endpoint: &Arc<Endpoint>, refusal: Refusal) -> Next {
        match self.cluster.has_several_nodes() {
            true => self.redirected(endpoint, refusal).await,
            false => self.over(refusal),
        }
    }

    /// The node has no member of the group, or the description is old. If no node knows the partition,
    /// it is the description; but those that do may be dead, and their successors on their way.
    async fn estranged(&mut self, endpoint: &Arc<Endpoint>, refusal: Refusal) -> Next {
        self.go_on(endpoint);
        let again = self.strangers.iter().any(|known| Arc::ptr_eq(known, endpoint));
        if !again {
            self.strangers.push(endpoint.clone());
        }
        let since = *self.strange_since.get_or_insert_with(Instant::now);
        if self.strangers.len() >= self.cluster.node_count() || since.elapsed() >= STRANGE_MAX {
            return self.over(refusal);
        }
        if !again {
            return Next::Again;
        }
        self.waits += 1;
        match self.deadline.pause(back_off(self.waits).min(ELECTION_PAUSE_MAX)).await {
            true => Next::Again,
            false => self.over(refusal),
        }
    }

    /// Another one leads, perhaps a named one.
    async fn redirected(&mut self, endpoint: &Arc<Endpoint>, refusal: Refusal) -> Next {
        self.strangers.clear();
        self.strange_since = None;
        self.go_on(endpoint);
        self.redirects += 1;
        if self.redirects > self.config.redirects_max {
            return self.over(refusal);
        }
        let named = refusal.leader.filter(|leader| *leader != endpoint.addr());
        let mut is_back = false;
        if let Some(leader) = named {
            let leader = self.cluster.endpoint_at(leader);
            if can_be_asked(&leader) {
                self.cluster.remember(self.place.group, &leader);
                self.followed += 1;
                if self.followed <= FOLLOWED_AT_ONCE {
                    return Next::Again;
                }
            } else if leader.state() == State::Due {
                leader.wake();
                is_back = true;
            }
        }
        self.followed = 0;
        self.waits += 1;
        // Soon at first, because a hand-over takes milliseconds; then as often as the member wishes.
        let pause = match is_back {
            true => RECONNECT_PAUSE,
            false => back_off(self.waits).min(ELECTION_PAUSE_MAX),
        };
        let pause = refusal.retry_after.map_or(pause, |wish| wish.min(pause));
        match self.deadline.pause(pause).await {
            true => Next::Again,
            false => self.over(refusal),
        }
    }

    /// `endpoint` was not the right one.
    fn go_on(&mut self, endpoint: &Arc<Endpoint>) {
        self.cluster.forget(self.place.group, endpoint);
        self.turn = self.turn.wrapping_add(1);
    }

    fn over(&self, refusal: Refusal) -> Next {
        Next::Over(Err(refusal.into_error(self.call.write)))
    }
}

fn connect_error(endpoint: &Endpoint, source: std::io::Error) -> ClientError {
    ClientError::Connect { addr: endpoint.addr().to_string(), source }
}

/// The shard that a description names and no node has.
pub(super) fn no_shard(shard: u16) -> ClientError {
    ClientError::Protocol(ProtocolError::NoShard { shard })
}
