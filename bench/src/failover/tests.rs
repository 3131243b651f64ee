//! Gaps, verdicts, and the page.

use forebay_core::item::Item;

use super::gap::Gaps;
use super::load::{Key, Verdict};
use super::report::{Results, Trial};
use super::*;

#[test]
fn a_gap_is_the_longest_time_between_neighbours_the_ends_included() {
    let gaps = Gaps::of(&[30, 10, 20, 95]);
    assert_eq!(gaps.longest(10, 100), 65);
    assert_eq!(gaps.longest(0, 30), 10);
    assert_eq!(gaps.longest(31, 90), 59, "no success at all");
    assert_eq!(gaps.longest(95, 300), 205, "no success until the end");
    assert_eq!(Gaps::of(&[]).longest(5, 5), 0);
    assert_eq!([9, 10, 94, 99].map(|at| gaps.last_before(at)), [0, 10, 30, 95]);
}

fn holding(number: u64) -> Result<Option<Item>, String> {
    Ok(Some(Item::new().with("id", "k").with("number", number)))
}

#[test]
fn a_key_may_hold_what_was_acknowledged_last_or_is_open_and_nothing_else() {
    let key = |open| Key { id: "k".to_owned(), acknowledged: 5, open };
    let judged = |key: &Key, found| {
        let mut verdict = Verdict::default();
        verdict.judge(key, found);
        verdict
    };
    assert_eq!(judged(&key(None), holding(5)).violations(), 0);
    assert_eq!(judged(&key(Some(6)), holding(6)).open_done, 1);
    assert_eq!(judged(&key(Some(6)), holding(5)).violations(), 0);
    assert_eq!(judged(&key(Some(6)), holding(4)).lost, 1);
    assert_eq!(judged(&key(None), Ok(None)).lost, 1);
    assert_eq!(judged(&key(None), holding(6)).wrong, 1);
    assert_eq!(judged(&key(None), Err("no leader".to_owned())).not_served, 1);
    let never = Key { id: "n".to_owned(), acknowledged: 0, open: None };
    assert_eq!((judged(&never, Ok(None)).violations(), judged(&never, Ok(None)).keys), (0, 0));
}

#[test]
fn the_page_shows_every_kind_with_its_aim_and_what_missed_it() {
    let trial = |how, gap_ms| Trial {
        how,
        node: 1,
        broken: (how == How::Gray).then_some("leader to follower"),
        elections: (how == How::Gray).then_some(if gap_ms > 100.0 { 1 } else { 0 }),
        recovered: true,
        calm_ms: 3.0,
        gap_ms,
        return_gap_ms: (how != How::HandOver).then_some(2.0),
        caught_up_ms: 1.0,
        asked: 10,
        acknowledged: 9,
        unknown: 1,
        refused: 0,
        not_asked: 0,
        first_refusal: None,
    };
    let results = Results {
        hardware: "a machine".to_owned(),
        disk: "a disk".to_owned(),
        commands: vec!["forebay node".to_owned()],
        rate: 2000,
        keys: 4,
        value_bytes: 100,
        trials: vec![
            trial(How::Kill, 500.0),
            trial(How::Kill, 900.0),
            trial(How::HandOver, 4.0),
            trial(How::Gray, 9.0),
            trial(How::Gray, 400.0),
        ],
        verdict: Verdict::default(),
    };
    let page = results.markdown();
    for words in ["| kill ", "700.0", "900.0", "< 800", "1 of 2", "| hand-over ", "< 20", "1 of 1"]
    {
        assert!(page.contains(words), "{words} in\n{page}");
    }
    assert!(!page.contains("| stop"), "{page}");
    assert!(results.trials[1].line().contains("over the aim"));
    assert!(results.trials[3].line().contains("leader to follower, 0 elections: gap 9.0 ms,"));
    assert!(results.trials[4].line().contains("over the aim"), "somebody was elected");
    let gray = page.lines().find(|line| line.contains("| gray ")).expect("it has a row");
    assert!(gray.contains("1 of 2") && gray.trim_end().ends_with("1 |"), "{gray}");
}
