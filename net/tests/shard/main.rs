//! A shard end to end, without ring or socket: requests in, replies out, over a simulated disk.
//!
//! | file | idea |
//! |---|---|
//! | `shell` | the node in memory that the tests drive |
//! | `operations` | what every request does |
//! | `refusals` | what bad requests and bad bytes get |
//! | `in_flight` | replies wait for what they depend on; failed logs |
//! | `waiting` | parked reads, stalled writes, slow peers |
//! | `cluster` | several nodes in memory |
//! | `healing` | members of dead nodes are replaced, nodes join |
//! | `lifecycle` | clean stops, restarts, tables through power cuts, several shards |
//! | `unreadable` | checksummed bytes that say nothing end the shard by name |
//! | `workload` | seeded random work against a model, with crashes in between |

mod cluster;
mod healing;
mod in_flight;
mod lifecycle;
mod operations;
mod refusals;
mod requests;
mod shell;
mod unreadable;
mod waiting;
mod workload;
