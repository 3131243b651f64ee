//! Projections: the parts of an item that a read asks for.
//!
//! The result has the item's own shape: `a.b[2]` yields the map `a` with the entry `b`, a list of
//! one element. List elements keep their order and close ranks. What the item lacks is left out,
//! and so is a map or list of which nothing was found.

use core::iter::Peekable;
use core::ops::Range;

use rkyv::{Archive, Deserialize, Serialize};

use super::path::{ArchivedPath, Path, StepRef, check_targets};
use super::{ExpressionError, OPERANDS_MAX};
use crate::item::{EncodedAttributes, Item, ItemRef, ItemWriter, Map, Value, ValueRef};

/// The paths to return, ascending, none inside another.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
#[rkyv(derive(Debug))]
pub struct Projection {
    paths: Vec<Path>,
}

impl Projection {
    /// Compiles a projection of these paths, in any order.
    pub fn new(
        paths: impl IntoIterator<Item = impl Into<Path>>,
    ) -> Result<Projection, ExpressionError> {
        let mut paths: Vec<Path> = paths.into_iter().map(Into::into).collect();
        paths.sort_unstable();
        let projection = Projection { paths };
        super::builder::checked(&projection, ArchivedProjection::check)?;
        Ok(projection)
    }
}

impl ArchivedProjection {
    /// Checks count, form and order of the paths. Once, when the frame arrives.
    pub fn check(&self) -> Result<(), ExpressionError> {
        let found = self.paths.len();
        if found == 0 {
            return Err(ExpressionError::Empty);
        }
        if found > OPERANDS_MAX {
            return Err(ExpressionError::TooManyOperands { found, max: OPERANDS_MAX });
        }
        check_targets(self.paths.iter())
    }

    /// The projected part of `item`; empty if it has none of the paths.
    pub fn apply(&self, item: ItemRef<'_>) -> Result<Item, ExpressionError> {
        let mut out = Vec::new();
        Ok(Item::from(ItemRef::trusted(self.apply_into(item, &mut out)?)))
    }

    /// Appends the encoding of the projected part of `item` to `out`, and returns it. Attributes
    /// that are wanted whole are copied as they are, without building anything.
    pub fn apply_into<'b>(
        &self,
        item: ItemRef<'_>,
        out: &'b mut Vec<u8>,
    ) -> Result<&'b [u8], ExpressionError> {
        project_into(item, &|index| self.paths.get(index), out)
    }
}

/// Appends the part of `item` that ascending paths select. `path_at` yields the path of each index,
/// and None after the last one.
pub(super) fn project_into<'p, 'b>(
    item: ItemRef<'_>,
    path_at: &impl Fn(usize) -> Option<&'p ArchivedPath>,
    out: &'b mut Vec<u8>,
) -> Result<&'b [u8], ExpressionError> {
    let mut writer = ItemWriter::new(out);
    let mut attributes = item.iter_encoded().peekable();
    let mut first = 0;
    while let Some(path) = path_at(first) {
        let end = group_end(path_at, first, 0);
        if let Some(encoded) = seek(&mut attributes, path.name()) {
            if path.len() == 1 {
                writer.push_encoded(path.name(), encoded)?;
            } else if let Some(value) = project_value(encoded, path_at, first..end, 1) {
                writer.push_encoded(path.name(), &value.to_bytes()?)?;
            }
        }
        first = end;
    }
    Ok(writer.finish()?)
}

/// The value of `name` among ascending entries, none of which is needed again up to it.
fn seek<'i>(entries: &mut Peekable<EncodedAttributes<'i>>, name: &str) -> Option<&'i [u8]> {
    while entries.next_if(|(found, _)| *found < name).is_some() {}
    entries.next_if(|(found, _)| *found == name).map(|(_, value)| value)
}

/// The end of the run of paths that share the element at `depth` with path `first`.
pub(super) fn group_end<'p>(
    path_at: &impl Fn(usize) -> Option<&'p ArchivedPath>,
    first: usize,
    depth: usize,
) -> usize {
    let step = path_at(first).and_then(|path| path.step(depth));
    let mut end = first + 1;
    while path_at(end).is_some_and(|path| path.step(depth) == step) {
        end += 1;
    }
    end
}

/// Paths ascend as entries and elements do, so this is one walk over both. Recursion is bounded by
/// the length of a checked path.
fn project_value<'p>(
    encoded: &[u8],
    path_at: &impl Fn(usize) -> Option<&'p ArchivedPath>,
    group: Range<usize>,
    depth: usize,
) -> Option<Value> {
    let value = ValueRef::trusted(encoded);
    if path_at(group.start)?.len() == depth {
        return Some(value.to_value());
    }
    let mut first = group.start;
    let mut next_group = || {
        let step = path_at(first).filter(|_| first < group.end)?.step(depth)?;
        let end = group_end(path_at, first, depth).min(group.end);
        let range = first..end;
        first = end;
        Some((step, range))
    };
    match value {
        ValueRef::M(map) => {
            let mut before = map.iter_encoded().peekable();
            let mut entries = Map::new();
            while let Some((StepRef::Name(name), range)) = next_group() {
                let found = seek(&mut before, name);
                if let Some(found) = found.and_then(|v| project_value(v, path_at, range, depth + 1))
                {
                    entries.insert(name.to_owned(), found);
                }
            }
            (!entries.is_empty()).then_some(Value::M(entries))
        }
        ValueRef::L(list) => {
            let mut before = (0u32..).zip(list.iter_encoded());
            let mut elements = Vec::new();
            while let Some((StepRef::Index(index), range)) = next_group() {
                let found = before.find(|(at, _)| *at == index).map(|(_, element)| element);
                elements.extend(found.and_then(|v| project_value(v, path_at, range, depth + 1)));
            }
            (!elements.is_empty()).then_some(Value::L(elements))
        }
        _ => None,
    }
}
