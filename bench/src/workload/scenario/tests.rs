//! Good files, bad files with their lines, and the examples in `bench/scenarios`.

use super::file::{Wrong, parse};
use super::*;
use crate::workload::{Distribution, OpKind, Sizes};

fn otherwise() -> Shape {
    Shape::of(Sizes::Fixed(100))
}

const WHOLE: &str = r#"
name = "shop"
records = 5_000
seed = 7
connections = 8
depth = 2
arrivals = "poisson"
sort_digits = 2
consistency = "eventual"
keys = "hotspot:20,80"
values = "list:100x70,1000x30"
items = [1, 20]

[mix]
get = 60
put = 20
conditional_put = 10
query = 10

[[phase]]
name = "warm-up"
seconds = 5
rate = 1000
warmup = true

[[phase]]
name = "ramp"
seconds = 10
rate_from = 1000
rate_to = 20_000
"#;

#[test]
fn a_whole_file_is_read() {
    let scenario = parse(WHOLE, "stem", otherwise()).unwrap();
    assert_eq!(scenario.name, "shop");
    assert_eq!((scenario.records, scenario.seed), (Some(5000), Some(7)));
    assert_eq!((scenario.connections, scenario.depth), (Some(8), Some(2)));
    assert_eq!((scenario.is_poisson, scenario.is_eventual), (Some(true), Some(true)));
    assert_eq!(scenario.sort_digits, Some(2));
    assert_eq!(scenario.shape.distribution, Distribution::Hotspot { keys: 0.2, ops: 0.8 });
    assert_eq!(scenario.shape.sizes.mean(), 370.0);
    assert_eq!(scenario.shape.items, (1, 20));
    assert!(scenario.shape.mix.has(OpKind::Query) && !scenario.shape.mix.has(OpKind::Scan));
    let phase = |name: &str, seconds, from, to, is_warmup| PhaseSpec {
        name: name.to_owned(),
        seconds,
        rate: Some((from, to)),
        is_warmup,
    };
    assert_eq!(
        scenario.phases,
        [phase("warm-up", 5, 1e3, 1e3, true), phase("ramp", 10, 1e3, 2e4, false)]
    );
}

#[test]
fn what_a_file_leaves_open_is_left_to_the_command_line() {
    let scenario = parse("mix = { get = 100 }\nvalues = 77\n", "stem", otherwise()).unwrap();
    assert_eq!((scenario.name.as_str(), scenario.records), ("stem", None));
    assert_eq!(scenario.shape.sizes, Sizes::Fixed(77));
    assert!(scenario.phases.is_empty() && scenario.think_time.is_none());
}

#[test]
fn a_wrong_file_names_its_line_and_its_reason() {
    let cases = [
        ("get = ", 1, "string values must be quoted"),
        ("\n\nnmae = \"x\"\n[mix]\nget = 100", 3, "unknown field `nmae`"),
        ("name = \"x\"\n", 1, "missing field `mix`"),
        ("[mix]\nget = 60\nput = 30", 1, "adds up to 90 percent"),
        ("[mix]\ngte = 60", 2, "unknown field `gte`"),
        ("records = 0\n[mix]\nget = 100", 1, "records 0: from 1"),
        ("seed = 1\nkeys = \"zipf\"\n[mix]\nget = 100", 2, "no way to choose records"),
        ("seed = 1\nvalues = \"5-7\"\n[mix]\nget = 100", 2, "expected BYTES"),
        ("seed = 1\nvalues = 0\n[mix]\nget = 100", 2, "0 bytes"),
        ("items = [5, 1]\n[mix]\nget = 100", 1, "the fewest"),
        ("arrivals = \"often\"\n[mix]\nget = 100", 1, "\"poisson\" or \"fixed\""),
        ("consistency = \"weak\"\n[mix]\nget = 100", 1, "\"eventual\" or \"strong\""),
        ("connections = -1\n[mix]\nget = 100", 1, "invalid"),
        ("[mix]\nget = 100\n[[phase]]\nname = \"a\"\nseconds = 0", 5, "seconds 0: from 1"),
        (
            "[mix]\nget = 100\n[[phase]]\nname = \"a\"\nseconds = 1\nrate = 1\nrate_to = 2",
            3,
            "a phase has a rate, or",
        ),
        ("[mix]\nget = 100\n[[phase]]\nname = \"a\"\nseconds = 1\nwarmup = true", 3, "nothing is"),
        ("[mix]\nget = 100\n[[phase]]\nname = \"a\"\nseconds = 1\nrate = 0", 3, "every rate is 0"),
        (
            "[mix]\nget = 100\n[[phase]]\nname = \"a\"\nseconds = 1\n\n[[phase]]\nname = \"b\"\n\
             seconds = 1\nrate = 5",
            7,
            "one loop, open or closed",
        ),
        (
            "[mix]\nget = 100\n[[phase]]\nname = \"a\"\nseconds = 1\n[[phase]]\nname = \"b\"\n\
             seconds = 1\nwarmup = true",
            6,
            "a warm-up comes before",
        ),
        (
            "think_ms = 5\n[mix]\nget = 100\n[[phase]]\nname = \"a\"\nseconds = 1\nrate = 5",
            1,
            "belongs to a closed loop",
        ),
        ("name = \"\"\n[mix]\nget = 100", 1, "an empty name"),
    ];
    let many = "[[phase]]\nname = \"a\"\nseconds = 1\n".repeat(PHASES_MAX + 1);
    let many = format!("[mix]\nget = 100\n{many}");
    let beyond = 3 + 3 * PHASES_MAX;
    for (text, line, words) in cases.into_iter().chain([(&*many, beyond, "at most 1000 phases")]) {
        let Wrong { line: found, reason } = parse(text, "x", otherwise()).unwrap_err();
        assert!(reason.contains(words), "{text:?}: {reason}");
        assert_eq!(found, line, "{text:?}: {reason}");
    }
}

#[test]
fn every_example_is_a_scenario() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let mut count = 0;
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        Scenario::of(&WorkloadArg::File(path.clone()), otherwise())
            .unwrap_or_else(|error| panic!("{error}"));
        count += 1;
    }
    assert!(count >= 6, "{count} examples");
}
