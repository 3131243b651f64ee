//! Document paths: where in an item, as in `attribute.nested[3].x`.
//!
//! Paths that change or choose parts of an item (updates, projections) are kept in ascending order:
//! element by element, names (by their UTF-8 bytes, as in items) before list indices. Then all paths
//! below one place are neighbours, one walk over the item serves them all, and two paths that
//! overlap or conflict stand next to each other, so that a check of neighbours finds them.

use core::cmp::Ordering;
use core::fmt;

use rkyv::{Archive, Deserialize, Serialize};

use super::{ExpressionError, PATH_STEPS_MAX};
use crate::item::{ItemRef, ValueRef};
use crate::limits;

/// A place in an item: an attribute, and inside it map entries and list elements.
///
/// ```text
/// archived path   offset  bytes  field
///                 0       4      steps, relative pointer
///                 4       4      steps, count
///
/// archived step   0       1      0 name, 1 index (at a multiple of 4)
///                 4       8      name: rkyv's string; or index: u32
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Archive, Serialize, Deserialize)]
#[rkyv(derive(Debug))]
pub struct Path {
    steps: Vec<Step>,
}

/// One element of a path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Archive, Serialize, Deserialize)]
#[rkyv(derive(Debug))]
pub enum Step {
    /// An attribute of the item or an entry of a map.
    Name(String),
    /// An element of a list, from 0.
    Index(u32),
}

// Sizes of the archived forms, on which the formats of conditions and updates build.
const _: () = assert!(size_of::<ArchivedPath>() == 8 && size_of::<ArchivedStep>() == 12);

/// A borrowed [`Step`], with the same order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum StepRef<'a> {
    Name(&'a str),
    Index(u32),
}

impl Path {
    /// The path of a top-level attribute.
    #[must_use]
    pub fn attribute(name: impl Into<String>) -> Path {
        Path { steps: vec![Step::Name(name.into())] }
    }

    /// This path's map entry `name`.
    #[must_use]
    pub fn entry(mut self, name: impl Into<String>) -> Path {
        self.steps.push(Step::Name(name.into()));
        self
    }

    /// This path's list element `index`.
    #[must_use]
    pub fn element(mut self, index: u32) -> Path {
        self.steps.push(Step::Index(index));
        self
    }

    /// The elements, outermost first.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }
}

impl From<&str> for Path {
    /// The top-level attribute of this name; dots and brackets are part of the name.
    fn from(name: &str) -> Path {
        Path::attribute(name)
    }
}

impl From<String> for Path {
    fn from(name: String) -> Path {
        Path::attribute(name)
    }
}

impl ArchivedPath {
    pub(super) fn len(&self) -> usize {
        self.steps.len()
    }

    pub(super) fn step(&self, depth: usize) -> Option<StepRef<'_>> {
        self.steps.get(depth).map(|step| match step {
            ArchivedStep::Name(name) => StepRef::Name(name.as_str()),
            ArchivedStep::Index(index) => StepRef::Index(index.to_native()),
        })
    }

    pub(super) fn steps(&self) -> impl Iterator<Item = StepRef<'_>> {
        (0..self.len()).filter_map(|depth| self.step(depth))
    }

    /// The top-level attribute's name; a checked path has one.
    pub(super) fn name(&self) -> &str {
        match self.step(0) {
            Some(StepRef::Name(name)) => name,
            _ => "",
        }
    }

    pub(super) fn check(&self) -> Result<(), ExpressionError> {
        if !matches!(self.step(0), Some(StepRef::Name(_))) {
            return Err(ExpressionError::PathWithoutName);
        }
        if self.len() > PATH_STEPS_MAX {
            let (found, max) = (self.len(), PATH_STEPS_MAX);
            return Err(ExpressionError::PathTooDeep { found, max });
        }
        for step in self.steps() {
            if let StepRef::Name(name) = step
                && (name.is_empty() || name.len() > limits::ATTRIBUTE_NAME_BYTES_MAX)
            {
                let (found, max) = (name.len(), limits::ATTRIBUTE_NAME_BYTES_MAX);
                return Err(ExpressionError::NameBytes { found, max });
            }
        }
        Ok(())
    }

    /// The value at this path; None where the item, or a level of it, has no such entry.
    pub(super) fn resolve<'i>(&self, item: Option<ItemRef<'i>>) -> Option<ValueRef<'i>> {
        let mut value = item?.get(self.name())?;
        for depth in 1..self.len() {
            value = child(&value, self.step(depth)?)?;
        }
        Some(value)
    }

    pub(super) fn same(&self, other: &ArchivedPath) -> bool {
        self.steps().eq(other.steps())
    }

    /// Checks that `self` may stand right before `next` in a list of targets: it sorts before it,
    /// and neither contains it nor takes one of its maps for a list.
    fn check_before(&self, next: &ArchivedPath, next_index: usize) -> Result<(), ExpressionError> {
        let differ = self.steps().zip(next.steps()).find(|(a, b)| a != b);
        match differ {
            None if self.len() <= next.len() => Err(ExpressionError::PathsOverlap {
                first: self.to_string(),
                second: next.to_string(),
            }),
            None => Err(ExpressionError::OutOfOrder { index: next_index }),
            Some((StepRef::Name(_), StepRef::Index(_))) => Err(ExpressionError::PathsConflict {
                first: self.to_string(),
                second: next.to_string(),
            }),
            Some((a, b)) if a.cmp(&b) == Ordering::Greater => {
                Err(ExpressionError::OutOfOrder { index: next_index })
            }
            Some(_) => Ok(()),
        }
    }
}

/// The entry or element of a map or list.
fn child<'i>(value: &ValueRef<'i>, step: StepRef<'_>) -> Option<ValueRef<'i>> {
    match (value, step) {
        (ValueRef::M(map), StepRef::Name(name)) => map.get(name),
        (ValueRef::L(list), StepRef::Index(index)) => list.get(index as usize),
        _ => None,
    }
}

/// Checks a list of target paths: each one well formed, ascending, no two overlapping.
pub(super) fn check_targets<'a>(
    targets: impl Iterator<Item = &'a ArchivedPath>,
) -> Result<(), ExpressionError> {
    let mut before: Option<&ArchivedPath> = None;
    for (index, path) in targets.enumerate() {
        path.check()?;
        if let Some(before) = before {
            before.check_before(path, index)?;
        }
        before = Some(path);
    }
    Ok(())
}

impl fmt::Display for ArchivedPath {
    /// As DynamoDB's errors print paths: `[a, b, [0]]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (depth, step) in self.steps().enumerate() {
            f.write_str(if depth == 0 { "[" } else { ", " })?;
            match step {
                StepRef::Name(name) => f.write_str(name)?,
                StepRef::Index(index) => write!(f, "[{index}]")?,
            }
        }
        f.write_str("]")
    }
}
