//! The self-test in short, with bounds that hold on a busy machine with two cores: counts and orders
//! of magnitude, no tight times. The command is the tight form.

use forebay_net::ring::testing::require_io_uring;

use super::*;

const GENTLE: Setup =
    Setup { server_core: None, client_core: None, server_spins: false, client_spins: false };

/// Latencies are even over the stall, whatever the machine adds to them.
#[test]
fn a_stall_shows_a_late_sample_for_each_operation_that_was_meant_to_start_in_it() {
    if !require_io_uring() {
        return;
    }
    let checks = checks::stall(&GENTLE, Duration::from_secs(1)).unwrap();
    let named = |part: &str| -> Vec<_> {
        checks.iter().filter(|check| check.name.contains(part)).collect()
    };
    for samples in named("samples") {
        assert_eq!(samples.reported, samples.expected, "{}", samples.line());
    }
    for late in named("over 1 ms") {
        // What is late beyond the stall is the machine's; a tool that hides it shows some dozens.
        assert!(late.reported >= 9_000.0, "{}", late.line());
    }
    for late in named("over 0.50 s") {
        assert!((4_000.0..=9_000.0).contains(&late.reported), "{}", late.line());
    }
}

#[test]
fn reported_delays_are_never_shorter_than_the_servers_own() {
    if !require_io_uring() {
        return;
    }
    let checks = checks::delay(&GENTLE, Duration::from_millis(5), 1).unwrap();
    for check in checks.iter().filter(|check| check.name.contains("from start")) {
        assert!(check.expected >= 5_000.0, "{}", check.line());
        // Histograms hold three digits.
        assert!(check.reported >= check.expected * 0.998, "{}", check.line());
    }
}

#[test]
fn a_check_that_is_off_fails_and_says_so() {
    let check = |reported, is_shown_only| Check {
        name: "x".to_owned(),
        expected: 200.0,
        reported,
        at_most: 10.0,
        unit: "us",
        is_shown_only,
    };
    assert!(check(209.0, false).holds() && check(209.0, false).line().ends_with("ok"));
    assert!(!check(189.0, false).holds() && check(189.0, false).line().ends_with("WRONG"));
    assert!(check(500.0, true).holds());
}
