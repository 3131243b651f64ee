//! Links over a network that cuts, delays, resets and pauses; bad peers; and three shells with the
//! production machines that exchange real frames.

mod bad_peers;
mod crowds;
mod delivery;
mod shells;
mod world;
