//! Updates: SET, REMOVE, ADD and DELETE, applied to an encoded item in one pass.
//!
//! Actions are sorted by their target path, as attributes are by name, so applying them is a merge:
//!
//! ```text
//!   item before   a ----------> b ---------> d -----------> e
//!   actions            b = 5          c = 1    d[2].x = 7
//!   item after    a (copied)    b (new)      c (new)   d (rebuilt)   e (copied)
//! ```
//!
//! Untouched attributes are copied as encoded bytes, and a new value for a whole attribute is written
//! straight from its operand; only an attribute that changes inside is taken apart.
//!
//! Semantics (DynamoDB's):
//! * Every read sees the item before the update, and list indices mean positions before it: removed
//!   elements leave only at the end, and a SET beyond the end appends, in the order of the indices.
//! * Targets may not overlap, so the order of actions has no meaning.
//! * The parent of a target must exist and be a map or list. Removing what is not there does nothing.
//! * An item that does not exist is made from its key, unless the update only removes.

use rkyv::{Archive, Deserialize, Serialize};

use super::error::Operator;
use super::path::{ArchivedPath, Path, StepRef, check_targets};
use super::projection::{group_end, project_into};
use super::values::Values;
use super::{ExpressionError, OPERANDS_MAX, ValueType};
use crate::item::{Item, ItemRef, ItemWriter, Number, Value, ValueRef};
use crate::limits;

/// A compiled update, to be sent; see [`super::UpdateExpression`] for how to make one, and
/// [`ArchivedUpdate`] for how to apply it.
///
/// The archive's root (rkyv: little-endian; a table is a relative pointer, i32, and a count, u32):
///
/// | offset | bytes | field |
/// |--------|-------|-------|
/// | 0 | 8 | actions, 16 bytes each: target path (8), verb (u8), 0 (u8), two indices (u16), 0 (u16) |
/// | 8 | 8 | operands of SET, 4 bytes each: kind (u8), 0 (u8), index (u16) |
/// | 16 | 8 | paths |
/// | 24 | 8 | bytes of all values, in the item encoding |
/// | 32 | 8 | where each value ends in those bytes, u32 each |
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
#[rkyv(derive(Debug))]
pub struct Update {
    /// Ascending by target.
    pub(super) actions: Vec<Action>,
    pub(super) operands: Vec<OperandNode>,
    pub(super) paths: Vec<Path>,
    pub(super) values: Values,
}

const _: () = assert!(size_of::<ArchivedUpdate>() == 40);
const _: () = assert!(size_of::<ArchivedAction>() == 16 && size_of::<ArchivedOperandNode>() == 4);

/// One action.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
#[rkyv(derive(Debug))]
pub(super) struct Action {
    pub(super) target: Path,
    pub(super) verb: Verb,
}

/// What happens to the target. SET takes indices of operands, ADD and DELETE of values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
#[rkyv(derive(Debug))]
pub(super) enum Verb {
    Set { operand: u16 },
    SetSum { left: u16, right: u16 },
    SetDifference { left: u16, right: u16 },
    SetListAppend { first: u16, second: u16 },
    Remove,
    Add { value: u16 },
    Delete { value: u16 },
}

/// An operand of SET, used by one verb. What stands behind an if_not_exists is the operand right
/// before it, so a chain of them is a run in the table, and the verb names its last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
#[rkyv(derive(Debug))]
pub(super) enum OperandNode {
    Path(u16),
    Value(u16),
    IfNotExists(u16),
}

/// What an action makes of its target.
enum Outcome<'a> {
    Keep,
    Remove,
    Borrowed(ValueRef<'a>),
    Number(Number),
    Owned(Value),
}

impl ArchivedUpdate {
    /// Appends the encoding of the updated item to `out` and returns it. `old` is the item before,
    /// None if there is none; `key` is an item of the key attributes, the base of a new one.
    ///
    /// None means that there still is no item: the update only removes, and there was none. After an
    /// error, `out` is as it was. Call it on updates that passed [`ArchivedUpdate::check`].
    pub fn apply_into<'b>(
        &self,
        old: Option<ItemRef<'_>>,
        key: ItemRef<'_>,
        out: &'b mut Vec<u8>,
    ) -> Result<Option<&'b [u8]>, ExpressionError> {
        if old.is_none() && !self.creates() {
            return Ok(None);
        }
        let start = out.len();
        if let Err(error) = self.write(old, key, out) {
            out.truncate(start);
            return Err(error);
        }
        Ok(Some(&out[start..]))
    }

    /// [`ArchivedUpdate::apply_into`], as an owned item.
    pub fn apply(
        &self,
        old: Option<ItemRef<'_>>,
        key: ItemRef<'_>,
    ) -> Result<Option<Item>, ExpressionError> {
        let mut out = Vec::new();
        let updated = self.apply_into(old, key, &mut out)?;
        Ok(updated.map(|bytes| Item::from(ItemRef::trusted(bytes))))
    }

    /// Appends the attributes that this update changes, as they stand in `item`: for UPDATED_OLD
    /// the item before, for UPDATED_NEW the one after. Nested targets come inside their parents.
    pub fn updated_into<'b>(
        &self,
        item: ItemRef<'_>,
        out: &'b mut Vec<u8>,
    ) -> Result<&'b [u8], ExpressionError> {
        project_into(item, &|index| self.target(index), out)
    }

    /// [`ArchivedUpdate::updated_into`], as an owned item.
    pub fn updated(&self, item: ItemRef<'_>) -> Result<Item, ExpressionError> {
        let mut out = Vec::new();
        Ok(Item::from(ItemRef::trusted(self.updated_into(item, &mut out)?)))
    }

    /// Whether the update makes an item where there is none. Without actions it does, too.
    fn creates(&self) -> bool {
        let removes = |verb: &ArchivedVerb| {
            matches!(verb, ArchivedVerb::Remove | ArchivedVerb::Delete { .. })
        };
        self.actions.is_empty() || self.actions.iter().any(|action| !removes(&action.verb))
    }

    fn write(
        &self,
        old: Option<ItemRef<'_>>,
        key: ItemRef<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), ExpressionError> {
        let mut writer = ItemWriter::new(out);
        let mut before = old.unwrap_or(key).iter_encoded().peekable();
        let mut first = 0;
        while let Some(target) = self.target(first) {
            while let Some((name, value)) = before.next_if(|(name, _)| *name < target.name()) {
                writer.push_encoded(name, value)?;
            }
            let current = before.next_if(|(name, _)| *name == target.name());
            let current = current.map(|(_, value)| ValueRef::trusted(value));
            let end = group_end(&|index| self.target(index), first, 0);
            self.write_attribute(&mut writer, old, current, first..end)?;
            first = end;
        }
        for (name, value) in before {
            writer.push_encoded(name, value)?;
        }
        writer.finish()?;
        Ok(())
    }

    /// Writes the attribute that all actions of `group` change.
    fn write_attribute(
        &self,
        writer: &mut ItemWriter<'_>,
        old: Option<ItemRef<'_>>,
        current: Option<ValueRef<'_>>,
        group: core::ops::Range<usize>,
    ) -> Result<(), ExpressionError> {
        let action = &self.actions[group.start];
        let name = action.target.name();
        if action.target.len() > 1 {
            let Some(current) = current else { return self.check_ignored(old, group) };
            let rebuilt = self.rebuild(current.to_value(), old, group, 1)?;
            return Ok(writer.push_encoded(name, &rebuilt.to_bytes()?)?);
        }
        match self.outcome(action, old)? {
            Outcome::Keep | Outcome::Remove => {}
            Outcome::Borrowed(value) => writer.push(name, value)?,
            Outcome::Number(number) => writer.push(name, ValueRef::N(number.as_ref()))?,
            Outcome::Owned(value) => writer.push_encoded(name, &value.to_bytes()?)?,
        }
        Ok(())
    }

    /// Nested targets of an attribute that is not there are invalid, except that there is nothing
    /// wrong with removing from an item that does not exist.
    fn check_ignored(
        &self,
        old: Option<ItemRef<'_>>,
        group: core::ops::Range<usize>,
    ) -> Result<(), ExpressionError> {
        let removes = |index: usize| {
            let verb = &self.actions[index].verb;
            matches!(verb, ArchivedVerb::Remove | ArchivedVerb::Delete { .. })
        };
        if old.is_none() && group.into_iter().all(removes) {
            return Ok(());
        }
        Err(ExpressionError::InvalidPath)
    }

    /// Applies the actions of `group`, whose targets lie inside `value`, which stands at `depth`.
    /// Recursion is bounded by the length of a checked path.
    fn rebuild(
        &self,
        value: Value,
        old: Option<ItemRef<'_>>,
        group: core::ops::Range<usize>,
        depth: usize,
    ) -> Result<Value, ExpressionError> {
        let mut first = group.start;
        let mut next_group = || {
            let step = self.target(first).filter(|_| first < group.end)?.step(depth)?;
            let end = group_end(&|index| self.target(index), first, depth).min(group.end);
            let range = first..end;
            first = end;
            Some((step, range))
        };
        match value {
            Value::M(mut map) => {
                while let Some((step, range)) = next_group() {
                    let StepRef::Name(name) = step else {
                        return Err(ExpressionError::InvalidPath);
                    };
                    if let Some(change) = self.terminal(&range, old, depth)? {
                        match change {
                            Change::Keep => {}
                            Change::Remove => drop(map.remove(name)),
                            Change::Set(value) => drop(map.insert(name.to_owned(), value)),
                        }
                    } else {
                        let entry = map.get_mut(name).ok_or(ExpressionError::InvalidPath)?;
                        let inner = core::mem::replace(entry, Value::Null);
                        *entry = self.rebuild(inner, old, range, depth + 1)?;
                    }
                }
                Ok(Value::M(map))
            }
            Value::L(list) => {
                let mut rebuilt = Vec::with_capacity(list.len() + 1);
                let mut before = (0u32..).zip(list).peekable();
                while let Some((step, range)) = next_group() {
                    let StepRef::Index(index) = step else {
                        return Err(ExpressionError::InvalidPath);
                    };
                    while let Some((_, element)) = before.next_if(|(at, _)| *at < index) {
                        rebuilt.push(element);
                    }
                    // None is a place beyond the end: set there, and the element is appended.
                    let element = before.next_if(|(at, _)| *at == index).map(|(_, value)| value);
                    match (self.terminal(&range, old, depth)?, element) {
                        (Some(Change::Set(value)), _) => rebuilt.push(value),
                        (Some(Change::Keep), Some(element)) => rebuilt.push(element),
                        (Some(Change::Remove), _) | (Some(Change::Keep), None) => {}
                        (None, Some(element)) => {
                            rebuilt.push(self.rebuild(element, old, range, depth + 1)?);
                        }
                        (None, None) => return Err(ExpressionError::InvalidPath),
                    }
                }
                rebuilt.extend(before.map(|(_, element)| element));
                Ok(Value::L(rebuilt))
            }
            _ => Err(ExpressionError::InvalidPath),
        }
    }

    /// The change of the one action in `range`, if its target ends at this depth.
    fn terminal(
        &self,
        range: &core::ops::Range<usize>,
        old: Option<ItemRef<'_>>,
        depth: usize,
    ) -> Result<Option<Change>, ExpressionError> {
        let action = &self.actions[range.start];
        if action.target.len() > depth + 1 {
            return Ok(None);
        }
        Ok(Some(match self.outcome(action, old)? {
            Outcome::Keep => Change::Keep,
            Outcome::Remove => Change::Remove,
            Outcome::Borrowed(value) => Change::Set(value.to_value()),
            Outcome::Number(number) => Change::Set(Value::N(number)),
            Outcome::Owned(value) => Change::Set(value),
        }))
    }

    fn outcome<'a>(
        &'a self,
        action: &'a ArchivedAction,
        old: Option<ItemRef<'a>>,
    ) -> Result<Outcome<'a>, ExpressionError> {
        let operand = |index: &rkyv::rend::u16_le| self.operand(index.to_native(), old);
        Ok(match &action.verb {
            ArchivedVerb::Set { operand: value } => Outcome::Borrowed(operand(value)?),
            ArchivedVerb::SetSum { left, right } => {
                let (left, right) = (number(operand(left)?)?, number(operand(right)?)?);
                Outcome::Number(sum(Operator::Plus, &left, &right)?)
            }
            ArchivedVerb::SetDifference { left, right } => {
                let (left, right) = (number(operand(left)?)?, number(operand(right)?)?);
                let difference = left.checked_sub(&right);
                let overflow = ExpressionError::NumberOverflow { operator: Operator::Minus };
                Outcome::Number(difference.map_err(|_| overflow)?)
            }
            ArchivedVerb::SetListAppend { first, second } => {
                let (ValueRef::L(first), ValueRef::L(second)) = (operand(first)?, operand(second)?)
                else {
                    return Err(ExpressionError::OperandDataType);
                };
                let elements = first.iter().chain(second.iter());
                Outcome::Owned(Value::L(elements.map(|value| value.to_value()).collect()))
            }
            ArchivedVerb::Remove => Outcome::Remove,
            ArchivedVerb::Add { value } => {
                let value = self.values.get(value.to_native())?;
                match action.target.resolve(old) {
                    None => Outcome::Borrowed(value),
                    Some(current) => add(current, value)?,
                }
            }
            ArchivedVerb::Delete { value } => {
                let value = self.values.get(value.to_native())?;
                match action.target.resolve(old) {
                    None => Outcome::Keep,
                    Some(current) => delete(current, value)?,
                }
            }
        })
    }

    /// What an operand of SET stands for, before the update.
    fn operand<'a>(
        &'a self,
        index: u16,
        old: Option<ItemRef<'a>>,
    ) -> Result<ValueRef<'a>, ExpressionError> {
        let mut index = usize::from(index);
        loop {
            match self.operand_node(index)? {
                ArchivedOperandNode::Value(value) => return self.values.get(value.to_native()),
                ArchivedOperandNode::Path(path) => {
                    let value = self.path(path.to_native())?.resolve(old);
                    return value.ok_or(ExpressionError::MissingAttribute);
                }
                ArchivedOperandNode::IfNotExists(path) => {
                    if let Some(value) = self.path(path.to_native())?.resolve(old) {
                        return Ok(value);
                    }
                    index =
                        index.checked_sub(1).ok_or(ExpressionError::MisplacedOperand { index })?;
                }
            }
        }
    }

    fn target(&self, index: usize) -> Option<&ArchivedPath> {
        self.actions.get(index).map(|action| &action.target)
    }

    fn operand_node(&self, index: usize) -> Result<&ArchivedOperandNode, ExpressionError> {
        let count = self.operands.len();
        self.operands.get(index).ok_or(ExpressionError::BadIndex { index, count })
    }

    fn path(&self, index: u16) -> Result<&ArchivedPath, ExpressionError> {
        let (index, count) = (usize::from(index), self.paths.len());
        self.paths.get(index).ok_or(ExpressionError::BadIndex { index, count })
    }
}

/// An [`Outcome`] inside an attribute that is being rebuilt.
enum Change {
    Keep,
    Remove,
    Set(Value),
}

fn number(value: ValueRef<'_>) -> Result<Number, ExpressionError> {
    match value {
        ValueRef::N(number) => Ok(number.to_number()),
        _ => Err(ExpressionError::OperandDataType),
    }
}

fn sum(operator: Operator, left: &Number, right: &Number) -> Result<Number, ExpressionError> {
    left.checked_add(right).map_err(|_| ExpressionError::NumberOverflow { operator })
}

/// ADD to what is there: a sum, or the union of two sets of one type.
fn add<'a>(current: ValueRef<'a>, value: ValueRef<'a>) -> Result<Outcome<'a>, ExpressionError> {
    if let (ValueRef::N(current), ValueRef::N(value)) = (current, value) {
        let sum = sum(Operator::Add, &current.to_number(), &value.to_number())?;
        return Ok(Outcome::Number(sum));
    }
    let owned = match (current.to_value(), value.to_value()) {
        (Value::Ss(mut current), Value::Ss(more)) => {
            current.extend(more);
            Value::Ss(current)
        }
        (Value::Ns(mut current), Value::Ns(more)) => {
            current.extend(more);
            Value::Ns(current)
        }
        (Value::Bs(mut current), Value::Bs(more)) => {
            current.extend(more);
            Value::Bs(current)
        }
        _ => return Err(ExpressionError::OperandDataType),
    };
    Ok(Outcome::Owned(owned))
}

/// DELETE from what is there: the members that stay. There is no empty set, so the last one takes
/// the attribute with it.
fn delete<'a>(current: ValueRef<'a>, value: ValueRef<'a>) -> Result<Outcome<'a>, ExpressionError> {
    let gone = match value {
        ValueRef::Ss(gone) | ValueRef::Ns(gone) | ValueRef::Bs(gone) => gone,
        _ => return Err(ExpressionError::OperandDataType),
    };
    // Both ascend, so one walk over each finds what they share.
    let mut gone = gone.iter().peekable();
    let mut stays = |member: &[u8]| {
        while gone.next_if(|gone| *gone < member).is_some() {}
        gone.peek() != Some(&member)
    };
    let (empty, rest) = match (current.to_value(), value) {
        (Value::Ss(mut set), ValueRef::Ss(_)) => {
            set.retain(|member| stays(member.as_bytes()));
            (set.is_empty(), Value::Ss(set))
        }
        (Value::Ns(mut set), ValueRef::Ns(_)) => {
            set.retain(|member| stays(member.as_bytes()));
            (set.is_empty(), Value::Ns(set))
        }
        (Value::Bs(mut set), ValueRef::Bs(_)) => {
            set.retain(|member| stays(member));
            (set.is_empty(), Value::Bs(set))
        }
        _ => return Err(ExpressionError::OperandDataType),
    };
    Ok(if empty { Outcome::Remove } else { Outcome::Owned(rest) })
}

impl ArchivedUpdate {
    /// Checks the whole update: sizes, order and overlap of targets, indices, values, operand types
    /// that can be judged without an item, and that no key attribute is a target. Once, when the
    /// frame arrives.
    pub fn check(&self, key_attributes: &[&str]) -> Result<(), ExpressionError> {
        let (found, max) = (self.actions.len(), limits::EXPRESSION_NODES_MAX);
        if found > max {
            return Err(ExpressionError::TooManyNodes { found, max });
        }
        for found in [self.operands.len(), self.paths.len()] {
            if found > OPERANDS_MAX {
                return Err(ExpressionError::TooManyOperands { found, max: OPERANDS_MAX });
            }
        }
        self.values.check()?;
        for path in self.paths.iter() {
            path.check()?;
        }
        for operand in self.operands.iter() {
            match operand {
                ArchivedOperandNode::Path(path) | ArchivedOperandNode::IfNotExists(path) => {
                    self.path(path.to_native())?;
                }
                ArchivedOperandNode::Value(value) => {
                    self.value(value.to_native())?;
                }
            }
        }
        check_targets(self.actions.iter().map(|action| &action.target))?;
        let mut used = 0;
        for action in self.actions.iter() {
            let name = action.target.name();
            if key_attributes.contains(&name) {
                return Err(ExpressionError::KeyAttribute { name: name.to_owned() });
            }
            self.check_verb(&action.verb, &mut used)?;
        }
        if used < self.operands.len() {
            return Err(ExpressionError::MisplacedOperand { index: used });
        }
        Ok(())
    }

    /// `used` counts the operands of the verbs so far.
    fn check_verb(&self, verb: &ArchivedVerb, used: &mut usize) -> Result<(), ExpressionError> {
        let is_number = |found| found == ValueType::N;
        let is_list = |found| found == ValueType::L;
        match verb {
            ArchivedVerb::Set { operand } => self.check_chain(operand.to_native(), used),
            ArchivedVerb::SetSum { left, right } => {
                self.check_operand(Operator::Plus, left.to_native(), used, is_number)?;
                self.check_operand(Operator::Plus, right.to_native(), used, is_number)
            }
            ArchivedVerb::SetDifference { left, right } => {
                self.check_operand(Operator::Minus, left.to_native(), used, is_number)?;
                self.check_operand(Operator::Minus, right.to_native(), used, is_number)
            }
            ArchivedVerb::SetListAppend { first, second } => {
                self.check_operand(Operator::ListAppend, first.to_native(), used, is_list)?;
                self.check_operand(Operator::ListAppend, second.to_native(), used, is_list)
            }
            ArchivedVerb::Remove => Ok(()),
            ArchivedVerb::Add { value } => {
                self.check_value(Operator::Add, value.to_native(), |t| {
                    t == ValueType::N || t.is_set()
                })
            }
            ArchivedVerb::Delete { value } => {
                self.check_value(Operator::Delete, value.to_native(), ValueType::is_set)
            }
        }
    }

    /// Checks an operand, and its type if it is a value of the expression.
    fn check_operand(
        &self,
        operator: Operator,
        last: u16,
        used: &mut usize,
        accepts: impl Fn(ValueType) -> bool,
    ) -> Result<(), ExpressionError> {
        self.check_chain(last, used)?;
        match self.operand_node(last.into())? {
            ArchivedOperandNode::Value(value) => {
                self.check_value(operator, value.to_native(), accepts)
            }
            ArchivedOperandNode::Path(_) | ArchivedOperandNode::IfNotExists(_) => Ok(()),
        }
    }

    /// Checks that the operands from the first unused one to `last` are a single chain.
    fn check_chain(&self, last: u16, used: &mut usize) -> Result<(), ExpressionError> {
        let (first, last) = (*used, usize::from(last));
        self.operand_node(last)?;
        for index in first..=last.max(first) {
            let link = matches!(self.operand_node(index)?, ArchivedOperandNode::IfNotExists(_));
            if last < first || link != (index > first) {
                return Err(ExpressionError::MisplacedOperand { index });
            }
        }
        *used = last + 1;
        Ok(())
    }

    fn check_value(
        &self,
        operator: Operator,
        index: u16,
        accepts: impl Fn(ValueType) -> bool,
    ) -> Result<(), ExpressionError> {
        let operand = self.value(index)?;
        if !accepts(operand) {
            return Err(ExpressionError::IncorrectOperandType { operator, operand });
        }
        Ok(())
    }

    fn value(&self, index: u16) -> Result<ValueType, ExpressionError> {
        Ok(ValueType::of(&self.values.get(index)?))
    }
}
