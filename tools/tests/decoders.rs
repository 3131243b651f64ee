//! The fuzz targets with a seeded mutator instead of a fuzzer, so that the ordinary tests cover
//! them: every target, some thousand inputs, the same ones each time. `tools/fuzz/run` does it for
//! real, with coverage and sanitizers.

#[allow(unreachable_pub, reason = "the fuzz package uses the same files as a library")]
#[path = "../fuzz/src/mutate.rs"]
mod mutate;
#[allow(unreachable_pub, reason = "the fuzz package uses the same files as a library")]
#[path = "../fuzz/src/targets/mod.rs"]
mod targets;

use mutate::Mutator;

/// Prints the input when the target panics: put it into a file and give it to the fuzz binary.
struct Tell<'a>(&'a str, &'a [u8]);

impl Drop for Tell<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let bytes: String = self.1.iter().map(|byte| format!("{byte:02x}")).collect();
            eprintln!("target {}, input of {} bytes: {bytes}", self.0, self.1.len());
        }
    }
}

fn run(name: &str) {
    let target = targets::find(name);
    let try_one = |input: &[u8]| {
        let _tell = Tell(name, input);
        (target.run)(input);
    };
    let mut mutator = Mutator::new((target.seeds)(), 1);
    try_one(&[]);
    for seed in mutator.seeds() {
        try_one(seed);
    }
    for _ in 0..target.test_rounds {
        let input = mutator.next();
        try_one(&input);
    }
}

macro_rules! each_alone {
    ($($target:ident,)*) => {
        $(#[test]
        fn $target() {
            run(stringify!($target));
        })*

        #[test]
        fn every_target_is_here() {
            let here = [$(stringify!($target),)*];
            assert!(targets::ALL.iter().map(|target| target.name).eq(here));
        }
    };
}

each_alone! {
    frame,
    message,
    peer,
    item,
    number,
    key,
    table,
    log,
    page,
    superblock,
    space,
    catalog,
    member,
    recovery,
    shard,
}
