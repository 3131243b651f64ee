//! Conditions as jump programs.
//!
//! AND, OR and NOT leave no trace in the compiled form. Each test says where to go when it holds
//! and when it does not (Aho, Sethi, Ullman, "Compilers", section 8.4: short-circuit code), so
//! evaluation is a loop without a stack, and stops at the first test that decides:
//!
//! ```text
//!   a = 1 AND (NOT attribute_exists(b) OR c < 5)
//!
//!     0: a = 1               holds -> 1        fails -> REJECT
//!     1: attribute_exists(b) holds -> 2        fails -> ACCEPT
//!     2: c < 5               holds -> ACCEPT   fails -> REJECT
//! ```
//!
//! Invariant: every jump goes to a later test or to an outcome, so a program of n tests ends after
//! at most n of them, whatever its sender meant. [`ArchivedCondition::check`] proves it once.
//!
//! Semantics (DynamoDB's): an absent item is an empty one. A missing operand makes every comparison
//! false, except `<>`, which is true, also between two missing operands. Values of different types
//! are not equal and have no order. A *literal* of a type that the operator does not take is an
//! error of the request, found by `check`; an *attribute* of such a type just makes the test fail.

use core::cmp::Ordering;

use rkyv::{Archive, Deserialize, Serialize};

use super::error::{ArchivedValueType, Operator};
use super::path::Path;
use super::values::Values;
use super::{ExpressionError, IN_CHOICES_MAX, OPERANDS_MAX, ValueType};
use crate::item::{ItemRef, Number, ValueRef};
use crate::limits;

/// Jump target: the condition holds.
pub(super) const ACCEPT: u16 = u16::MAX;
/// Jump target: the condition does not hold.
pub(super) const REJECT: u16 = u16::MAX - 1;

/// A compiled condition or filter, to be sent; see [`super::ConditionExpression`] for how to make
/// one, and [`ArchivedCondition`] for how to evaluate it.
///
/// The archive's root (rkyv: little-endian; a table is a relative pointer, i32, and a count, u32):
///
/// | offset | bytes | field |
/// |--------|-------|-------|
/// | 0 | 8 | tests, 18 bytes each: predicate (14), target if it holds (u16), if not (u16) |
/// | 8 | 8 | choices of all INs, 4 bytes each: kind (u8), 0 (u8), index (u16) |
/// | 16 | 8 | paths |
/// | 24 | 8 | bytes of all values, in the item encoding |
/// | 32 | 8 | where each value ends in those bytes, u32 each |
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
#[rkyv(derive(Debug))]
pub struct Condition {
    pub(super) tests: Vec<Test>,
    /// The lists of IN, one after the other.
    pub(super) choices: Vec<OperandIndex>,
    pub(super) paths: Vec<Path>,
    pub(super) values: Values,
}

const _: () = assert!(size_of::<ArchivedCondition>() == 40);
const _: () = assert!(size_of::<ArchivedTest>() == 18 && size_of::<ArchivedPredicate>() == 14);
const _: () = assert!(size_of::<ArchivedOperandIndex>() == 4);

/// One test and where it leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
#[rkyv(derive(Debug))]
pub(super) struct Test {
    pub(super) predicate: Predicate,
    pub(super) if_true: u16,
    pub(super) if_false: u16,
}

/// What a test asks. `attribute_not_exists` is `attribute_exists` with its jumps exchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
#[rkyv(derive(Debug))]
pub(super) enum Predicate {
    Compare { comparison: Comparison, left: OperandIndex, right: OperandIndex },
    Between { operand: OperandIndex, low: OperandIndex, high: OperandIndex },
    In { operand: OperandIndex, first_choice: u16, choices: u16 },
    Exists { path: u16 },
    Type { operand: OperandIndex, is: ValueType },
    BeginsWith { operand: OperandIndex, prefix: OperandIndex },
    Contains { operand: OperandIndex, part: OperandIndex },
}

/// An operand, as an index into the program's tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
#[rkyv(derive(Clone, Copy, Debug, PartialEq, Eq))]
pub(super) enum OperandIndex {
    Path(u16),
    Value(u16),
    /// `size(path)`
    Size(u16),
}

/// The six comparisons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Archive, Serialize, Deserialize)]
#[rkyv(derive(Clone, Copy, Debug, PartialEq, Eq))]
pub enum Comparison {
    /// `=`
    Equal,
    /// `<>`
    NotEqual,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
}

/// What an operand stands for in one item.
enum Term<'a> {
    Missing,
    Value(ValueRef<'a>),
    Size(Number),
}

impl Term<'_> {
    fn view(&self) -> Option<ValueRef<'_>> {
        match self {
            Term::Missing => None,
            Term::Value(value) => Some(*value),
            Term::Size(size) => Some(ValueRef::N(size.as_ref())),
        }
    }
}

impl ArchivedCondition {
    /// Whether the condition holds for `item`; None is an item that does not exist.
    ///
    /// Allocates nothing and takes at most as many steps as the program has tests. Call it on
    /// programs that passed [`ArchivedCondition::check`]; on others the answer means nothing.
    pub fn evaluate(&self, item: Option<ItemRef<'_>>) -> Result<bool, ExpressionError> {
        let mut at = 0;
        loop {
            let test = self.test(at)?;
            let holds = self.holds(&test.predicate, item)?;
            let target = if holds { &test.if_true } else { &test.if_false }.to_native();
            match target {
                ACCEPT => return Ok(true),
                REJECT => return Ok(false),
                _ if usize::from(target) <= at => {
                    return Err(self.bad_jump(at, target));
                }
                _ => at = usize::from(target),
            }
        }
    }

    fn holds(
        &self,
        predicate: &ArchivedPredicate,
        item: Option<ItemRef<'_>>,
    ) -> Result<bool, ExpressionError> {
        let term = |operand: &ArchivedOperandIndex| self.term(operand, item);
        Ok(match predicate {
            ArchivedPredicate::Compare { comparison, left, right } => {
                compare(*comparison, &term(left)?, &term(right)?)
            }
            ArchivedPredicate::Between { operand, low, high } => {
                let operand = term(operand)?;
                order(&operand, &term(low)?).is_some_and(Ordering::is_ge)
                    && order(&operand, &term(high)?).is_some_and(Ordering::is_le)
            }
            ArchivedPredicate::In { operand, first_choice, choices } => {
                let operand = term(operand)?;
                for choice in self.choices(first_choice.to_native(), choices.to_native())? {
                    if equal(&operand, &term(choice)?) {
                        return Ok(true);
                    }
                }
                false
            }
            ArchivedPredicate::Exists { path } => {
                self.path(path.to_native())?.resolve(item).is_some()
            }
            ArchivedPredicate::Type { operand, is } => match term(operand)? {
                Term::Value(value) => ValueType::of(&value) == native_type(*is),
                Term::Missing | Term::Size(_) => false,
            },
            ArchivedPredicate::BeginsWith { operand, prefix } => {
                match (term(operand)?, term(prefix)?) {
                    (Term::Value(value), Term::Value(prefix)) => begins_with(&value, &prefix),
                    _ => false,
                }
            }
            ArchivedPredicate::Contains { operand, part } => match (term(operand)?, term(part)?) {
                (Term::Value(value), Term::Value(part)) => contains(&value, &part),
                _ => false,
            },
        })
    }

    fn term<'a>(
        &'a self,
        operand: &ArchivedOperandIndex,
        item: Option<ItemRef<'a>>,
    ) -> Result<Term<'a>, ExpressionError> {
        Ok(match operand {
            ArchivedOperandIndex::Value(index) => Term::Value(self.values.get(index.to_native())?),
            ArchivedOperandIndex::Path(index) => {
                self.path(index.to_native())?.resolve(item).map_or(Term::Missing, Term::Value)
            }
            ArchivedOperandIndex::Size(index) => {
                let value = self.path(index.to_native())?.resolve(item);
                value.and_then(|value| size(&value)).map_or(Term::Missing, Term::Size)
            }
        })
    }

    fn test(&self, at: usize) -> Result<&ArchivedTest, ExpressionError> {
        let count = self.tests.len();
        self.tests.get(at).ok_or(ExpressionError::BadIndex { index: at, count })
    }

    fn path(&self, index: u16) -> Result<&super::ArchivedPath, ExpressionError> {
        let (index, count) = (usize::from(index), self.paths.len());
        self.paths.get(index).ok_or(ExpressionError::BadIndex { index, count })
    }

    fn choices(
        &self,
        first: u16,
        choices: u16,
    ) -> Result<&[ArchivedOperandIndex], ExpressionError> {
        let end = usize::from(first) + usize::from(choices);
        let count = self.choices.len();
        let range = self.choices.get(usize::from(first)..end);
        range.ok_or(ExpressionError::BadIndex { index: end, count })
    }

    fn bad_jump(&self, test: usize, target: u16) -> ExpressionError {
        ExpressionError::BadJump { test, target: target.into(), count: self.tests.len() }
    }
}

fn compare(comparison: ArchivedComparison, left: &Term<'_>, right: &Term<'_>) -> bool {
    match comparison {
        ArchivedComparison::Equal => equal(left, right),
        ArchivedComparison::NotEqual => !equal(left, right),
        ArchivedComparison::Less => order(left, right).is_some_and(Ordering::is_lt),
        ArchivedComparison::LessOrEqual => order(left, right).is_some_and(Ordering::is_le),
        ArchivedComparison::Greater => order(left, right).is_some_and(Ordering::is_gt),
        ArchivedComparison::GreaterOrEqual => order(left, right).is_some_and(Ordering::is_ge),
    }
}

fn equal(left: &Term<'_>, right: &Term<'_>) -> bool {
    left.view().zip(right.view()).is_some_and(|(left, right)| left == right)
}

fn order(left: &Term<'_>, right: &Term<'_>) -> Option<Ordering> {
    left.view()?.compare(&right.view()?)
}

/// `size`: bytes of strings and binaries, entries of sets, lists and maps; no others have one.
fn size(value: &ValueRef<'_>) -> Option<Number> {
    let size = match value {
        ValueRef::S(text) => text.len(),
        ValueRef::B(bytes) => bytes.len(),
        ValueRef::M(map) => map.len(),
        ValueRef::L(list) => list.len(),
        ValueRef::Ss(set) | ValueRef::Ns(set) | ValueRef::Bs(set) => set.len(),
        ValueRef::N(_) | ValueRef::Bool(_) | ValueRef::Null => return None,
    };
    Some(Number::from(size as u64))
}

fn begins_with(value: &ValueRef<'_>, prefix: &ValueRef<'_>) -> bool {
    match (value, prefix) {
        (ValueRef::S(text), ValueRef::S(prefix)) => text.starts_with(*prefix),
        (ValueRef::B(bytes), ValueRef::B(prefix)) => bytes.starts_with(prefix),
        _ => false,
    }
}

/// A substring of a string or binary, an element of a list, or a member of a set of that type.
fn contains(value: &ValueRef<'_>, part: &ValueRef<'_>) -> bool {
    match (value, part) {
        (ValueRef::S(text), ValueRef::S(part)) => memmem(text.as_bytes(), part.as_bytes()),
        (ValueRef::B(bytes), ValueRef::B(part)) => memmem(bytes, part),
        (ValueRef::L(list), part) => list.iter().any(|element| element == *part),
        (ValueRef::Ss(set), ValueRef::S(part)) => set.contains(part.as_bytes()),
        (ValueRef::Ns(set), ValueRef::N(part)) => set.contains(part.as_bytes()),
        (ValueRef::Bs(set), ValueRef::B(part)) => set.contains(part),
        _ => false,
    }
}

/// Linear in the length of both, so that a condition cannot hold its shard up with a repetitive
/// pattern.
fn memmem(bytes: &[u8], part: &[u8]) -> bool {
    memchr::memmem::find(bytes, part).is_some()
}

impl ArchivedCondition {
    /// Checks the whole program: sizes, jumps, indices, paths, values, and the operand types that
    /// can be judged without an item. Once per program, when its frame arrives.
    pub fn check(&self) -> Result<(), ExpressionError> {
        let (found, max) = (self.tests.len(), limits::EXPRESSION_NODES_MAX);
        if found == 0 {
            return Err(ExpressionError::Empty);
        }
        if found > max {
            return Err(ExpressionError::TooManyNodes { found, max });
        }
        for found in [self.choices.len(), self.paths.len()] {
            if found > OPERANDS_MAX {
                return Err(ExpressionError::TooManyOperands { found, max: OPERANDS_MAX });
            }
        }
        self.values.check()?;
        for path in self.paths.iter() {
            path.check()?;
        }
        for choice in self.choices.iter() {
            self.check_operand(choice)?;
        }
        let mut next_choice = 0;
        for (at, test) in self.tests.iter().enumerate() {
            for target in [test.if_true.to_native(), test.if_false.to_native()] {
                let forward = usize::from(target) > at && usize::from(target) < self.tests.len();
                if target != ACCEPT && target != REJECT && !forward {
                    return Err(self.bad_jump(at, target));
                }
            }
            if let ArchivedPredicate::In { first_choice, choices, .. } = &test.predicate {
                // Each IN owns its choices, so the work of all tests is bounded by the tables.
                let index = usize::from(first_choice.to_native());
                if index != next_choice {
                    return Err(ExpressionError::MisplacedOperand { index });
                }
                next_choice += usize::from(choices.to_native());
            }
            self.check_predicate(&test.predicate)?;
        }
        if next_choice < self.choices.len() {
            return Err(ExpressionError::MisplacedOperand { index: next_choice });
        }
        Ok(())
    }

    fn check_predicate(&self, predicate: &ArchivedPredicate) -> Result<(), ExpressionError> {
        match predicate {
            ArchivedPredicate::Compare { comparison, left, right } => {
                let operator = operator(*comparison);
                self.check_operand(left)?;
                self.check_operand(right)?;
                if !matches!(operator, Operator::Equal | Operator::NotEqual) {
                    self.check_ordered(operator, left)?;
                    self.check_ordered(operator, right)?;
                }
                self.check_distinct(operator, left, right)
            }
            ArchivedPredicate::Between { operand, low, high } => {
                for operand in [operand, low, high] {
                    self.check_operand(operand)?;
                    self.check_ordered(Operator::Between, operand)?;
                }
                self.check_distinct(Operator::Between, operand, low)?;
                self.check_distinct(Operator::Between, operand, high)?;
                self.check_bounds(low, high)
            }
            ArchivedPredicate::In { operand, first_choice, choices } => {
                self.check_operand(operand)?;
                let (found, max) = (usize::from(choices.to_native()), IN_CHOICES_MAX);
                if found == 0 || found > max {
                    return Err(ExpressionError::InChoices { found, max });
                }
                for choice in self.choices(first_choice.to_native(), choices.to_native())? {
                    self.check_distinct(Operator::In, operand, choice)?;
                }
                Ok(())
            }
            ArchivedPredicate::Exists { path } => self.path(path.to_native()).map(|_| ()),
            ArchivedPredicate::Type { operand, .. } => self.check_no_size(operand),
            ArchivedPredicate::BeginsWith { operand, prefix } => {
                for operand in [operand, prefix] {
                    self.check_no_size(operand)?;
                    self.check_literal(Operator::BeginsWith, operand, |found| {
                        matches!(found, ValueType::S | ValueType::B)
                    })?;
                }
                self.check_distinct(Operator::BeginsWith, operand, prefix)
            }
            ArchivedPredicate::Contains { operand, part } => {
                self.check_no_size(operand)?;
                self.check_no_size(part)?;
                self.check_distinct(Operator::Contains, operand, part)
            }
        }
    }

    fn check_operand(&self, operand: &ArchivedOperandIndex) -> Result<(), ExpressionError> {
        let (index, count) = match operand {
            ArchivedOperandIndex::Value(index) => (index, self.values.len()),
            ArchivedOperandIndex::Path(index) | ArchivedOperandIndex::Size(index) => {
                (index, self.paths.len())
            }
        };
        let index = usize::from(index.to_native());
        if index >= count {
            return Err(ExpressionError::BadIndex { index, count });
        }
        Ok(())
    }

    fn check_no_size(&self, operand: &ArchivedOperandIndex) -> Result<(), ExpressionError> {
        if matches!(operand, ArchivedOperandIndex::Size(_)) {
            return Err(ExpressionError::SizeNotAllowed);
        }
        self.check_operand(operand)
    }

    fn check_ordered(
        &self,
        operator: Operator,
        operand: &ArchivedOperandIndex,
    ) -> Result<(), ExpressionError> {
        self.check_literal(operator, operand, ValueType::is_ordered)
    }

    fn check_literal(
        &self,
        operator: Operator,
        operand: &ArchivedOperandIndex,
        accepts: impl Fn(ValueType) -> bool,
    ) -> Result<(), ExpressionError> {
        if let ArchivedOperandIndex::Value(index) = operand {
            let operand = ValueType::of(&self.values.get(index.to_native())?);
            if !accepts(operand) {
                return Err(ExpressionError::IncorrectOperandType { operator, operand });
            }
        }
        Ok(())
    }

    fn check_bounds(
        &self,
        low: &ArchivedOperandIndex,
        high: &ArchivedOperandIndex,
    ) -> Result<(), ExpressionError> {
        let (ArchivedOperandIndex::Value(low), ArchivedOperandIndex::Value(high)) = (low, high)
        else {
            return Ok(());
        };
        let (low, high) = (self.values.get(low.to_native())?, self.values.get(high.to_native())?);
        match low.compare(&high) {
            None => Err(ExpressionError::BetweenTypes {
                low: ValueType::of(&low),
                high: ValueType::of(&high),
            }),
            Some(Ordering::Greater) => Err(ExpressionError::BetweenOrder),
            Some(_) => Ok(()),
        }
    }

    fn check_distinct(
        &self,
        operator: Operator,
        first: &ArchivedOperandIndex,
        other: &ArchivedOperandIndex,
    ) -> Result<(), ExpressionError> {
        if let (ArchivedOperandIndex::Path(first), ArchivedOperandIndex::Path(other)) =
            (first, other)
        {
            let (first, other) = (self.path(first.to_native())?, self.path(other.to_native())?);
            if first.same(other) {
                let operand = first.to_string();
                return Err(ExpressionError::OperandsNotDistinct { operator, operand });
            }
        }
        Ok(())
    }
}

fn operator(comparison: ArchivedComparison) -> Operator {
    match comparison {
        ArchivedComparison::Equal => Operator::Equal,
        ArchivedComparison::NotEqual => Operator::NotEqual,
        ArchivedComparison::Less => Operator::Less,
        ArchivedComparison::LessOrEqual => Operator::LessOrEqual,
        ArchivedComparison::Greater => Operator::Greater,
        ArchivedComparison::GreaterOrEqual => Operator::GreaterOrEqual,
    }
}

fn native_type(archived: ArchivedValueType) -> ValueType {
    match archived {
        ArchivedValueType::S => ValueType::S,
        ArchivedValueType::N => ValueType::N,
        ArchivedValueType::B => ValueType::B,
        ArchivedValueType::Bool => ValueType::Bool,
        ArchivedValueType::Null => ValueType::Null,
        ArchivedValueType::M => ValueType::M,
        ArchivedValueType::L => ValueType::L,
        ArchivedValueType::Ss => ValueType::Ss,
        ArchivedValueType::Ns => ValueType::Ns,
        ArchivedValueType::Bs => ValueType::Bs,
    }
}
