//! What of the tools is a library, so that tests reach it: the simulator.
#![deny(unsafe_code)]

pub mod simulate;
