//! The whole tool against a real memcached, where one is installed. Without `memcached` the tests
//! say so and pass.

mod support;

use support::stores::{MEMCACHED, Store};
use support::{Hits, fails};

#[test]
fn load_then_run_gives_a_report_of_hits() {
    let Some(memcached) = Store::start(MEMCACHED) else { return };
    let hits = Hits {
        records: 2000,
        value_bytes: 5000,
        shape: "--connections 4 --depth 8",
        workloads: &["a", "d", "f", "puts", "gets"],
        says: &["memcached_version", "in memory alone"],
    };
    hits.are_reported(|args| memcached.bench(args), memcached.dir.path());
}

#[test]
fn what_it_cannot_do_says_why() {
    let Some(memcached) = Store::start(MEMCACHED) else { return };
    fails(&memcached.bench("run --target TARGET --workload e"), 2);
    let words = fails(&memcached.bench("run --target TARGET --workload gets --key-bytes 300"), 2);
    assert!(words.contains("at most 250 bytes"), "{words}");
}
