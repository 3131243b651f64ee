//! Words and decisions of Forebay.
//!
//! Everything here is a pure function or a state machine: no I/O, no clock, no randomness, no
//! thread. Time and random numbers are arguments, so that the same code runs under the ring and
//! under the simulator.
#![forbid(unsafe_code)]

pub mod capacity;
pub mod digest;
pub mod expression;
pub mod group;
pub mod ids;
pub mod item;
pub mod key;
pub mod limits;
pub mod liveness;
pub mod message;
pub mod paxos;
pub mod planted;
pub mod table;
pub mod time;
