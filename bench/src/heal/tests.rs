//! Steps, ratios, and the page.

use super::report::{Results, WindowResult};
use super::steps::Steps;
use super::*;
use crate::failover::load::Verdict;
use crate::failover::observe::Seen;
use crate::generator::Interval;
use crate::workload::OpKind;

fn seen(text: &str) -> Vec<(usize, Seen)> {
    serde_json::from_str(text).unwrap()
}

const LEADER: &str =
    r#""group": 7, "role": "leading", "lease": true, "chosen_slot": 90, "applied_slot": 90"#;

#[test]
fn steps_are_what_the_members_say_one_after_the_other() {
    let mut steps = Steps { victim: 2, ..Steps::default() };
    let leader =
        |more: &str, members: &str| format!("[0, {{{LEADER}{more}, \"members\": {members}}}]");
    let old = r#"[[0, 1, "storage"], [256, 2, "storage"], [512, 3, "storage"]]"#;
    let new = r#"[[0, 1, "storage"], [512, 3, "storage"], [768, 4, "log"]]"#;
    let whole = r#"[[0, 1, "storage"], [512, 3, "storage"], [768, 4, "storage"]]"#;
    let spare = |more: &str| {
        format!(
            "[3, {{\"group\": 7, \"role\": \"filling\", \"lease\": false, \"chosen_slot\": 90, \
             \"applied_slot\": 0, \"last_slot\": 90{more}}}]"
        )
    };
    assert!(!steps.look(&seen(&format!("[{}]", leader("", old))), 1.0));
    assert_eq!(steps, Steps { victim: 2, ..Steps::default() });
    assert!(!steps.look(&seen(&format!("[{}]", leader(", \"spare\": 768", old))), 5.0));
    assert_eq!((steps.detected_s, steps.log_replica_s), (Some(5.0), None));
    assert!(!steps.look(&seen(&format!("[{}, {}]", leader("", new), spare(""))), 5.5));
    assert_eq!((steps.replaced_s(), steps.spare), (Some(0.5), Some(4)));
    assert_eq!(steps.log_filled_s, Some(5.5));
    let half = spare(", \"snapshot_bytes\": [50, 100]");
    assert!(!steps.look(&seen(&format!("[{}, {half}]", leader("", new))), 6.0));
    let all = spare(", \"snapshot_bytes\": [100, 100]");
    assert!(!steps.look(&seen(&format!("[{}, {all}]", leader("", new))), 8.0));
    assert_eq!((steps.copied_bytes, steps.copy_rate()), (100, Some(50.0)));
    assert!(steps.look(&seen(&format!("[{}, {}]", leader("", whole), spare(""))), 9.0));
    assert_eq!(steps.whole_s, Some(9.0));
}

fn window(name: &str, put_us: u64) -> WindowResult {
    let mut interval = Interval::new(|kind| kind == OpKind::Put, true);
    interval.latencies[OpKind::Put as usize].as_mut().unwrap().record(put_us * 1000).unwrap();
    WindowResult { name: name.to_owned(), ..WindowResult::healing(1.0, &interval) }
}

#[test]
fn the_page_shows_what_was_reached_and_what_was_missed() {
    let line = "forebay-bench heal --gigabytes 0.5 --nodes 6 --victim leader";
    let cli = <crate::cli::Cli as clap::Parser>::try_parse_from(line.split_whitespace()).unwrap();
    let crate::cli::Command::Heal(args) = cli.command else { panic!("another command") };
    let mut results = Results {
        hardware: "a machine".to_owned(),
        disk: "a disk".to_owned(),
        commands: vec!["forebay node".to_owned()],
        settings: args.settings(),
        loaded_seconds: 12.0,
        steps: Steps {
            victim: 2,
            spare: Some(4),
            detected_s: Some(5.4),
            log_replica_s: Some(5.6),
            ..Steps::default()
        },
        windows: vec![window("before", 1000), window("healing", 1500)],
        rows: Vec::new(),
        first_error: None,
        ledger: LedgerResult { verdict: Verdict::default(), ..LedgerResult::default() },
    };
    let page = results.markdown();
    for words in ["6 nodes", "log replica on node 4", "0.20, reached", "1.50 times", "not seen"] {
        assert!(page.contains(words), "{words} in\n{page}");
    }
    results.windows[1] = window("healing", 3000);
    let page = results.markdown();
    assert!(page.contains("missed") && page.contains("3.00 times"), "{page}");
    assert_eq!(results.errors(), 0);
}
