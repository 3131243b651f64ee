//! Every example in `bench/scenarios`, for a moment: against the bare echo, and against the `forebay`
//! beside the tool where that was built. And the search for a rate, and files that are wrong.

mod support;

use std::path::{Path, PathBuf};

use support::{Server, bench, durable_dir, fails, forebay, report, succeeds};

/// The example at `path` with phases of a second, few records and a rate that any machine takes.
fn shortened(path: &Path, dir: &Path) -> PathBuf {
    let text = std::fs::read_to_string(path).unwrap();
    let lines = text.lines().map(|line| match line.split(" = ").next().unwrap() {
        "seconds" => "seconds = 1".to_owned(),
        "records" => "records = 1000".to_owned(),
        name @ ("rate" | "rate_from" | "rate_to") if line != "rate = 0" => format!("{name} = 200"),
        "connections" => "connections = 8".to_owned(),
        _ => line.to_owned(),
    });
    let short = dir.join(path.file_name().unwrap());
    std::fs::write(&short, lines.collect::<Vec<_>>().join("\n")).unwrap();
    short
}

fn examples() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty());
    paths
}

/// Runs every example against `target`, after loading its records if `is_store`.
fn run_examples(target: &str, is_store: bool, dir: &Path) {
    for path in examples() {
        let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
        let short = shortened(&path, dir);
        let common = format!("--target {target} --table {stem} --workload {}", short.display());
        if is_store {
            succeeds(&bench(&format!("load {common}"), dir));
        }
        let text =
            succeeds(&bench(&format!("run {common} --duration 1 --warmup 0 --report {stem}"), dir));
        let json = report(&dir.join(&stem));
        assert_eq!(json["errors"], 0, "{stem}: {json}");
        assert!(json["overall"]["count"].as_u64().unwrap() > 0, "{stem}: {text}");
        if is_store {
            assert_eq!(json["reads_that_found_nothing"], 0, "{stem}");
        }
        let names: Vec<&str> = json["phases"]
            .as_array()
            .unwrap()
            .iter()
            .map(|p| p["name"].as_str().unwrap())
            .collect();
        let written = std::fs::read_to_string(&path).unwrap();
        for name in names {
            assert!(written.contains(name) || stem == "bulk", "{name} in {stem}");
        }
        let remarks = json["remarks"].to_string();
        assert!(remarks.contains(&format!("the scenario {stem}.toml")), "{remarks}");
    }
}

#[test]
fn every_example_runs_against_the_bare_echo() {
    let dir = tempfile::tempdir().unwrap();
    let floor = Server::floor();
    run_examples(&format!("floor://{}", floor.address), false, dir.path());
}

#[test]
fn every_example_runs_against_a_node_without_an_error() {
    let Some(forebay) = forebay() else { return };
    let dir = durable_dir();
    let args = [
        "dev",
        "--nodes",
        "1",
        "--data",
        "data",
        "--native",
        "127.0.0.1:0",
        "--http",
        "127.0.0.1:0",
    ];
    let node = Server::start(&forebay, &args, dir.path());
    run_examples(&format!("forebay://{}", node.address), true, dir.path());
}

#[test]
fn a_search_finds_a_rate_confirms_it_and_says_every_step() {
    let dir = tempfile::tempdir().unwrap();
    let floor = Server::floor();
    // A limit that only a rate beyond this machine breaks, and a first rate that ends soon.
    let output = bench(
        &format!(
            "run --target floor://{} --workload gets --records 100 --connections 4 --warmup 0 \
             --duration 1 --find-rate --p99-us 20000 --rate 20000 --report r",
            floor.address
        ),
        dir.path(),
    );
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("step 1 ") && text.contains("step 2 "), "{text}");
    // On a machine that is busy with other things even the first rates may fail: that is said too.
    if output.status.success() {
        assert!(text.contains("confirmation 1 ") && text.contains("highest rate"), "{text}");
        let json = report(&dir.path().join("r"));
        assert!(json["overall"]["p99_us"].as_f64().unwrap() <= 20_000.0);
        assert!(json["remarks"].to_string().contains("confirms a search"));
    } else {
        assert!(fails(&output, 1).contains("no rate was held"));
    }
}

#[test]
fn a_wrong_scenario_names_its_line_and_a_missing_one_its_path() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("bad.toml"), "records = 5\n\n[mix]\ngte = 100\n").unwrap();
    for (args, code, words) in [
        ("run --workload bad.toml", 2, "bad.toml:4: unknown field `gte`"),
        ("load --workload bad.toml", 2, "bad.toml:4: unknown field `gte`"),
        ("run --workload absent.toml", 4, "absent.toml"),
        ("run --workload puts --sort-digits 2 --find-rate --p99-us 0", 2, "0 is not in"),
    ] {
        let said = fails(&bench(args, dir.path()), code);
        assert!(said.contains(words), "{args}: {said}");
    }
    let ramp = examples().into_iter().find(|path| path.ends_with("ramp.toml")).unwrap();
    for more in ["--rate 5", "--find-rate --p99-us 5"] {
        let args = format!("run --workload {} {more}", ramp.display());
        let said = fails(&bench(&args, dir.path()), 2);
        assert!(said.contains("phases have rates of their own"), "{said}");
    }
}
