//! stub
#![allow(missing_docs)]
use rkyv::{Archive, Serialize};
#[derive(Debug, Archive, Serialize)]
pub struct Condition {
    x: u8,
}
#[derive(Debug, Archive, Serialize)]
pub struct Projection {
    x: u8,
}
#[derive(Debug, Archive, Serialize)]
pub struct Update {
    x: u8,
}
#[derive(Debug, Archive, Serialize)]
pub struct SortKeyCondition {
    x: u8,
}
