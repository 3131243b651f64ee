//! The bytes of archived programs. A change here is a new version of every message that holds one.

use super::*;
use crate::expression::{Comparison, ConditionExpression, Operand, UpdateExpression};

fn hex(bytes: &[u8]) -> String {
    let lines = bytes
        .chunks(16)
        .map(|line| line.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" "));
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn the_bytes_of_a_condition_never_change() {
    let condition = ConditionExpression::compare(Operand::path("a"), Comparison::Equal, s("x"))
        .and(ConditionExpression::not_exists(path("b.c[3]")))
        .compile()
        .unwrap();
    assert_eq!(hex(&archive_condition(&condition)), CONDITION.join("\n"));
}

#[test]
fn the_bytes_of_an_update_never_change() {
    let update = UpdateExpression::new().set("a", n(1)).remove("b").compile().unwrap();
    assert_eq!(hex(&archive_update(&update)), UPDATE.join("\n"));
}

const CONDITION: &[&str] = &[
    "00 00 00 00 00 00 01 00 00 00 00 00 00 00 01 00",
    "fe ff 03 00 01 00 00 00 00 00 00 00 00 00 00 00",
    "fe ff ff ff 00 00 00 00 61 ff ff ff ff ff ff ff",
    "00 00 00 00 62 ff ff ff ff ff ff ff 00 00 00 00",
    "63 ff ff ff ff ff ff ff 01 00 00 00 03 00 00 00",
    "00 00 00 00 d0 ff ff ff 01 00 00 00 d4 ff ff ff",
    "03 00 00 00 01 01 00 00 78 00 00 00 05 00 00 00",
    "90 ff ff ff 02 00 00 00 ac ff ff ff 00 00 00 00",
    "d4 ff ff ff 02 00 00 00 dc ff ff ff 05 00 00 00",
    "dc ff ff ff 01 00 00 00",
];

const UPDATE: &[&str] = &[
    "00 00 00 00 61 ff ff ff ff ff ff ff 00 00 00 00",
    "62 ff ff ff ff ff ff ff e8 ff ff ff 01 00 00 00",
    "00 00 00 00 00 00 00 00 e4 ff ff ff 01 00 00 00",
    "04 00 00 00 00 00 00 00 01 00 00 00 02 02 00 00",
    "c1 01 00 00 06 00 00 00 d0 ff ff ff 02 00 00 00",
    "e8 ff ff ff 01 00 00 00 e4 ff ff ff 00 00 00 00",
    "dc ff ff ff 06 00 00 00 dc ff ff ff 01 00 00 00",
];
