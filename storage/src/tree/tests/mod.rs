//! The tree, the cache, the space map and the superblock together, against a model.

mod crash;
mod harness;
mod model;
mod packing;
mod pages;
