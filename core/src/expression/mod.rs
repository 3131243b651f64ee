//! Conditions, updates and projections in compiled form, evaluated where the item lives.
//!
//! ```text
//!   text (HTTP API) ---parser---.
//!                                +--> builder --> flat program --rkyv--> frame
//!   Rust client ----------------'                                          |
//!                                  check() once, when the frame arrives <--'
//!                                  evaluate() / apply() in place, per request
//! ```
//!
//! A compiled expression is a few flat tables, never a recursive type: a frame cannot make the
//! server recurse, and nothing is rebuilt on the heap to be evaluated.
//!
//! * [`Condition`]: a jump program of tests; it runs forward only, so it always ends.
//! * [`Update`]: actions sorted by target path; every read sees the item before the update.
//! * [`Projection`]: paths sorted, so that one walk over the item finds them all.
//! * [`SortKeyCondition`]: a range of sort keys, for Query.
//!
//! The semantics are DynamoDB's, taken from its developer guide ("Expressions" and "Comparison
//! operator and function reference") and, where the guide is silent, from the behaviour that
//! clients see of the service. Two decisions worth knowing:
//!
//! * `size` of a string is its length in UTF-8 bytes. The guide says "the length of the string";
//!   its PartiQL page says that `SIZE` is "in bytes", and items are measured in UTF-8 bytes too.
//! * `size` of a type without one (number, Boolean, null) counts as a missing operand: every
//!   comparison with it is false, except `<>`.
//!
//! Left out on purpose: the text grammar, with its `#name` and `:value` placeholders and its
//! 4 KB limit, belongs to the HTTP API, which ends in the same [`builder`] as Rust code does.

pub mod builder;
mod condition;
mod error;
mod path;
mod projection;
mod sort_key;
mod update;
mod values;

pub use builder::{ConditionExpression, Operand, SetValue, UpdateExpression, UpdateOperand};
pub use condition::{ArchivedCondition, Comparison, Condition};
pub use error::{ExpressionError, Operator, ValueType};
pub use path::{ArchivedPath, Path, Step};
pub use projection::{ArchivedProjection, Projection};
pub use sort_key::{ArchivedSortKeyCondition, SortKeyCondition, UpperEdge};
pub use update::{ArchivedUpdate, Update};

use crate::limits;

/// Entries of each operand table of one expression (paths, values, choices of IN). DynamoDB's 4 KB
/// of text has room for about that many `:v0,`. With the rule that every operand is used once, it
/// also bounds the work of one expression: that many look-ups in one item.
pub const OPERANDS_MAX: usize = 2 * limits::EXPRESSION_NODES_MAX;
/// Values to choose from in one IN.
pub const IN_CHOICES_MAX: usize = 100;
/// Elements of a document path: DynamoDB allows 31 dereferences after the first name.
pub const PATH_STEPS_MAX: usize = 32;

// Indices and jump targets are u16, with two targets reserved for the outcomes.
const _: () = assert!(OPERANDS_MAX < u16::MAX as usize);
const _: () = assert!(limits::EXPRESSION_NODES_MAX < condition::REJECT as usize);
const _: () = assert!(limits::EXPRESSION_VALUE_BYTES_MAX < u32::MAX as usize);
const _: () = assert!(PATH_STEPS_MAX <= limits::NESTING_DEPTH_MAX);

#[cfg(test)]
mod tests;
