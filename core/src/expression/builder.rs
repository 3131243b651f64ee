//! How expressions are made: the seam where Rust code and, later, the HTTP API's text parser meet.
//!
//! ```
//! use forebay_core::expression::{Comparison, ConditionExpression, Operand, Path, UpdateExpression};
//! use forebay_core::item::Value;
//!
//! let on_sale = ConditionExpression::compare(
//!     Operand::path("price"), Comparison::Less, Operand::value(100),
//! );
//! let known = ConditionExpression::exists(Path::attribute("stock").entry("berlin"));
//! let condition = on_sale.and(known.not()).compile().unwrap();
//!
//! let update = UpdateExpression::new()
//!     .set("state", Value::from("listed"))
//!     .add("revision", 1)
//!     .remove(Path::attribute("tags").element(0))
//!     .compile()
//!     .unwrap();
//! # let _ = (condition, update);
//! ```
//!
//! `compile` checks what the server will check, so a mistake shows where it is made; key attributes
//! alone are known to the server only. Compile once and send often: compiling allocates.

use rkyv::api::high::{HighSerializer, HighValidator};
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::Error as ArchiveError;
use rkyv::ser::allocator::ArenaHandle;
use rkyv::util::AlignedVec;
use rkyv::{Archive, Portable, Serialize};

use super::condition::{
    ACCEPT, ArchivedCondition, Comparison, Condition, OperandIndex, Predicate, REJECT, Test,
};
use super::path::Path;
use super::update::{Action, ArchivedUpdate, OperandNode, Update, Verb};
use super::values::Values;
use super::{ExpressionError, IN_CHOICES_MAX, OPERANDS_MAX, ValueType};
use crate::item::Value;
use crate::limits;

/// An operand of a condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operand {
    /// The value at a path of the item.
    Path(Path),
    /// A value of the expression.
    Value(Value),
    /// `size(path)`
    Size(Path),
}

impl Operand {
    /// The value at a path of the item.
    #[must_use]
    pub fn path(path: impl Into<Path>) -> Operand {
        Operand::Path(path.into())
    }

    /// A value of the expression.
    #[must_use]
    pub fn value(value: impl Into<Value>) -> Operand {
        Operand::Value(value.into())
    }

    /// The size of what is at a path of the item.
    #[must_use]
    pub fn size(path: impl Into<Path>) -> Operand {
        Operand::Size(path.into())
    }
}

impl From<Path> for Operand {
    fn from(path: Path) -> Operand {
        Operand::Path(path)
    }
}

impl From<Value> for Operand {
    fn from(value: Value) -> Operand {
        Operand::Value(value)
    }
}

/// A condition or filter under construction.
///
/// It is a jump program already: AND, OR and NOT only redirect jumps, so nothing here is recursive
/// and a chain of any length costs no stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConditionExpression {
    tests: Vec<DraftTest>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct DraftTest {
    predicate: DraftPredicate,
    if_true: Target,
    if_false: Target,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    Accept,
    Reject,
    Test(usize),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum DraftPredicate {
    Compare(Operand, Comparison, Operand),
    Between(Operand, Operand, Operand),
    In(Operand, Vec<Operand>),
    Exists(Path),
    Type(Operand, ValueType),
    BeginsWith(Operand, Operand),
    Contains(Operand, Operand),
}

impl ConditionExpression {
    /// `left comparison right`
    #[must_use]
    pub fn compare(
        left: impl Into<Operand>,
        comparison: Comparison,
        right: impl Into<Operand>,
    ) -> Self {
        Self::test(DraftPredicate::Compare(left.into(), comparison, right.into()))
    }

    /// `operand BETWEEN low AND high`
    #[must_use]
    pub fn between(
        operand: impl Into<Operand>,
        low: impl Into<Operand>,
        high: impl Into<Operand>,
    ) -> Self {
        Self::test(DraftPredicate::Between(operand.into(), low.into(), high.into()))
    }

    /// `operand IN (choices)`; 1 to 100 of them.
    #[must_use]
    pub fn is_in(
        operand: impl Into<Operand>,
        choices: impl IntoIterator<Item = impl Into<Operand>>,
    ) -> Self {
        let choices = choices.into_iter().map(Into::into).collect();
        Self::test(DraftPredicate::In(operand.into(), choices))
    }

    /// `attribute_exists(path)`
    #[must_use]
    pub fn exists(path: impl Into<Path>) -> Self {
        Self::test(DraftPredicate::Exists(path.into()))
    }

    /// `attribute_not_exists(path)`
    #[must_use]
    pub fn not_exists(path: impl Into<Path>) -> Self {
        Self::exists(path).not()
    }

    /// `attribute_type(operand, type)`
    #[must_use]
    pub fn attribute_type(operand: impl Into<Operand>, is: ValueType) -> Self {
        Self::test(DraftPredicate::Type(operand.into(), is))
    }

    /// `begins_with(operand, prefix)`
    #[must_use]
    pub fn begins_with(operand: impl Into<Operand>, prefix: impl Into<Operand>) -> Self {
        Self::test(DraftPredicate::BeginsWith(operand.into(), prefix.into()))
    }

    /// `contains(operand, part)`
    #[must_use]
    pub fn contains(operand: impl Into<Operand>, part: impl Into<Operand>) -> Self {
        Self::test(DraftPredicate::Contains(operand.into(), part.into()))
    }

    /// `self AND other`
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        self.then(other, Target::Accept)
    }

    /// `self OR other`
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        self.then(other, Target::Reject)
    }

    /// `NOT self`
    #[must_use]
    #[expect(clippy::should_implement_trait, reason = "it stands beside and() and or()")]
    pub fn not(mut self) -> Self {
        self.redirect(|target| match target {
            Target::Accept => Target::Reject,
            Target::Reject => Target::Accept,
            test => test,
        });
        self
    }

    fn test(predicate: DraftPredicate) -> Self {
        let test = DraftTest { predicate, if_true: Target::Accept, if_false: Target::Reject };
        ConditionExpression { tests: vec![test] }
    }

    /// Runs `other` where this one would end in `undecided`.
    fn then(mut self, mut other: Self, undecided: Target) -> Self {
        let offset = self.tests.len();
        self.redirect(|target| if target == undecided { Target::Test(offset) } else { target });
        other.redirect(|target| match target {
            Target::Test(index) => Target::Test(index + offset),
            outcome => outcome,
        });
        self.tests.append(&mut other.tests);
        self
    }

    fn redirect(&mut self, to: impl Fn(Target) -> Target) {
        for test in &mut self.tests {
            test.if_true = to(test.if_true);
            test.if_false = to(test.if_false);
        }
    }

    /// Lays the program out in its tables and checks it.
    pub fn compile(self) -> Result<Condition, ExpressionError> {
        let (found, max) = (self.tests.len(), limits::EXPRESSION_NODES_MAX);
        if found > max {
            return Err(ExpressionError::TooManyNodes { found, max });
        }
        let mut tables = Tables::default();
        let mut choices = Vec::new();
        let mut tests = Vec::with_capacity(found);
        for DraftTest { predicate, if_true, if_false } in self.tests {
            let predicate = match predicate {
                DraftPredicate::Compare(left, comparison, right) => {
                    let (left, right) = (tables.operand(left)?, tables.operand(right)?);
                    Predicate::Compare { comparison, left, right }
                }
                DraftPredicate::Between(operand, low, high) => Predicate::Between {
                    operand: tables.operand(operand)?,
                    low: tables.operand(low)?,
                    high: tables.operand(high)?,
                },
                DraftPredicate::In(operand, list) => {
                    let (found, first_choice) = (list.len(), choices.len());
                    if found > IN_CHOICES_MAX {
                        return Err(ExpressionError::InChoices { found, max: IN_CHOICES_MAX });
                    }
                    check_count(first_choice + found)?;
                    let operand = tables.operand(operand)?;
                    for choice in list {
                        choices.push(tables.operand(choice)?);
                    }
                    let (first_choice, choices) = (first_choice as u16, found as u16);
                    Predicate::In { operand, first_choice, choices }
                }
                DraftPredicate::Exists(path) => Predicate::Exists { path: tables.path(path)? },
                DraftPredicate::Type(operand, is) => {
                    Predicate::Type { operand: tables.operand(operand)?, is }
                }
                DraftPredicate::BeginsWith(operand, prefix) => Predicate::BeginsWith {
                    operand: tables.operand(operand)?,
                    prefix: tables.operand(prefix)?,
                },
                DraftPredicate::Contains(operand, part) => Predicate::Contains {
                    operand: tables.operand(operand)?,
                    part: tables.operand(part)?,
                },
            };
            let (if_true, if_false) = (if_true.encode(), if_false.encode());
            tests.push(Test { predicate, if_true, if_false });
        }
        let condition = Condition { tests, choices, paths: tables.paths, values: tables.values };
        checked(&condition, ArchivedCondition::check)?;
        Ok(condition)
    }
}

impl Target {
    fn encode(self) -> u16 {
        match self {
            Target::Accept => ACCEPT,
            Target::Reject => REJECT,
            Target::Test(index) => {
                assert!(index < limits::EXPRESSION_NODES_MAX, "a jump stays in its program");
                index as u16
            }
        }
    }
}

/// An operand of SET.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpdateOperand {
    /// The value at a path, before the update; an error if there is none.
    Path(Path),
    /// A value of the expression.
    Value(Value),
    /// `if_not_exists(path, otherwise)`
    IfNotExists(Path, Box<UpdateOperand>),
}

impl UpdateOperand {
    /// `if_not_exists(path, otherwise)`
    #[must_use]
    pub fn if_not_exists(path: impl Into<Path>, otherwise: impl Into<UpdateOperand>) -> Self {
        UpdateOperand::IfNotExists(path.into(), Box::new(otherwise.into()))
    }
}

impl From<Path> for UpdateOperand {
    fn from(path: Path) -> UpdateOperand {
        UpdateOperand::Path(path)
    }
}

impl From<Value> for UpdateOperand {
    fn from(value: Value) -> UpdateOperand {
        UpdateOperand::Value(value)
    }
}

/// What SET makes of its target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SetValue {
    /// The operand itself.
    Operand(UpdateOperand),
    /// `left + right`
    Sum(UpdateOperand, UpdateOperand),
    /// `left - right`
    Difference(UpdateOperand, UpdateOperand),
    /// `list_append(first, second)`
    ListAppend(UpdateOperand, UpdateOperand),
}

impl SetValue {
    /// `left + right`
    #[must_use]
    pub fn sum(left: impl Into<UpdateOperand>, right: impl Into<UpdateOperand>) -> SetValue {
        SetValue::Sum(left.into(), right.into())
    }

    /// `left - right`
    #[must_use]
    pub fn difference(left: impl Into<UpdateOperand>, right: impl Into<UpdateOperand>) -> SetValue {
        SetValue::Difference(left.into(), right.into())
    }

    /// `list_append(first, second)`
    #[must_use]
    pub fn list_append(
        first: impl Into<UpdateOperand>,
        second: impl Into<UpdateOperand>,
    ) -> SetValue {
        SetValue::ListAppend(first.into(), second.into())
    }
}

impl<T: Into<UpdateOperand>> From<T> for SetValue {
    fn from(operand: T) -> SetValue {
        SetValue::Operand(operand.into())
    }
}

/// An update under construction. The order of the actions has no meaning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpdateExpression {
    actions: Vec<(Path, DraftVerb)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum DraftVerb {
    Set(SetValue),
    Remove,
    Add(Value),
    Delete(Value),
}

impl UpdateExpression {
    /// An update without actions: it only makes sure that the item exists.
    #[must_use]
    pub fn new() -> UpdateExpression {
        UpdateExpression::default()
    }

    /// `SET path = value`
    #[must_use]
    pub fn set(self, path: impl Into<Path>, value: impl Into<SetValue>) -> UpdateExpression {
        self.action(path, DraftVerb::Set(value.into()))
    }

    /// `REMOVE path`
    #[must_use]
    pub fn remove(self, path: impl Into<Path>) -> UpdateExpression {
        self.action(path, DraftVerb::Remove)
    }

    /// `ADD path value`: a number to a number, or members to a set.
    #[must_use]
    pub fn add(self, path: impl Into<Path>, value: impl Into<Value>) -> UpdateExpression {
        self.action(path, DraftVerb::Add(value.into()))
    }

    /// `DELETE path value`: members from a set.
    #[must_use]
    pub fn delete(self, path: impl Into<Path>, value: impl Into<Value>) -> UpdateExpression {
        self.action(path, DraftVerb::Delete(value.into()))
    }

    fn action(mut self, path: impl Into<Path>, verb: DraftVerb) -> UpdateExpression {
        self.actions.push((path.into(), verb));
        self
    }

    /// Sorts the actions, lays the update out in its tables and checks it.
    pub fn compile(mut self) -> Result<Update, ExpressionError> {
        self.actions.sort_by(|(a, _), (b, _)| a.cmp(b));
        let mut tables = Tables::default();
        let mut operands = Vec::new();
        let mut actions = Vec::with_capacity(self.actions.len());
        for (target, verb) in self.actions {
            let mut operand = |operand| tables.update_operand(operand, &mut operands);
            let verb = match verb {
                DraftVerb::Set(SetValue::Operand(value)) => Verb::Set { operand: operand(value)? },
                DraftVerb::Set(SetValue::Sum(left, right)) => {
                    Verb::SetSum { left: operand(left)?, right: operand(right)? }
                }
                DraftVerb::Set(SetValue::Difference(left, right)) => {
                    Verb::SetDifference { left: operand(left)?, right: operand(right)? }
                }
                DraftVerb::Set(SetValue::ListAppend(first, second)) => {
                    Verb::SetListAppend { first: operand(first)?, second: operand(second)? }
                }
                DraftVerb::Remove => Verb::Remove,
                DraftVerb::Add(value) => Verb::Add { value: tables.values.push(&value)? },
                DraftVerb::Delete(value) => Verb::Delete { value: tables.values.push(&value)? },
            };
            actions.push(Action { target, verb });
        }
        let update = Update { actions, operands, paths: tables.paths, values: tables.values };
        checked(&update, |update: &ArchivedUpdate| update.check(&[]))?;
        Ok(update)
    }
}

/// The operand tables of a program.
#[derive(Default)]
struct Tables {
    paths: Vec<Path>,
    values: Values,
}

impl Tables {
    fn path(&mut self, path: Path) -> Result<u16, ExpressionError> {
        if let Some(index) = self.paths.iter().position(|known| *known == path) {
            return Ok(index as u16);
        }
        check_count(self.paths.len() + 1)?;
        self.paths.push(path);
        Ok((self.paths.len() - 1) as u16)
    }

    fn operand(&mut self, operand: Operand) -> Result<OperandIndex, ExpressionError> {
        Ok(match operand {
            Operand::Path(path) => OperandIndex::Path(self.path(path)?),
            Operand::Value(value) => OperandIndex::Value(self.values.push(&value)?),
            Operand::Size(path) => OperandIndex::Size(self.path(path)?),
        })
    }

    /// Innermost first: what stands behind an if_not_exists comes right before it.
    fn update_operand(
        &mut self,
        mut operand: UpdateOperand,
        operands: &mut Vec<OperandNode>,
    ) -> Result<u16, ExpressionError> {
        let mut preferred = Vec::new();
        while let UpdateOperand::IfNotExists(path, otherwise) = operand {
            preferred.push(path);
            operand = *otherwise;
        }
        check_count(operands.len() + preferred.len() + 1)?;
        operands.push(match operand {
            UpdateOperand::Path(path) => OperandNode::Path(self.path(path)?),
            UpdateOperand::Value(value) => OperandNode::Value(self.values.push(&value)?),
            UpdateOperand::IfNotExists(..) => unreachable!("the loop took these off"),
        });
        for path in preferred.into_iter().rev() {
            operands.push(OperandNode::IfNotExists(self.path(path)?));
        }
        Ok((operands.len() - 1) as u16)
    }
}

fn check_count(found: usize) -> Result<(), ExpressionError> {
    if found > OPERANDS_MAX {
        return Err(ExpressionError::TooManyOperands { found, max: OPERANDS_MAX });
    }
    Ok(())
}

/// Runs the receiver's check on what was compiled: one set of rules, in one place.
pub(super) fn checked<T>(
    program: &T,
    check: impl FnOnce(&T::Archived) -> Result<(), ExpressionError>,
) -> Result<(), ExpressionError>
where
    T: for<'a> Serialize<HighSerializer<AlignedVec, ArenaHandle<'a>, ArchiveError>> + Archive,
    T::Archived: Portable + for<'a> CheckBytes<HighValidator<'a, ArchiveError>>,
{
    let bytes = rkyv::to_bytes::<ArchiveError>(program).expect("memory takes any archive");
    let archived = rkyv::access::<T::Archived, ArchiveError>(&bytes);
    check(archived.expect("what was just archived is an archive"))
}
