//! Sort-key conditions: the range of one partition key's items that a Query reads.
//!
//! Operands are sort keys in key form (see [`crate::key`]), whose memcmp order is the order of the
//! values, so a condition is an interval of byte strings. In the tree's order it is half open,
//! from `lower` to just before `upper`, both with the encoded partition key in front:
//!
//! ```text
//!   condition            lower          upper
//!   = k                  k              k 00
//!   < k                  (start)        k
//!   <= k                 (start)        k 00          k 00 is the first string after k
//!   > k                  k 00           (end)
//!   >= k                 k              (end)
//!   BETWEEN a AND b      a              b 00
//!   begins_with p        p              p + 1         the first string after all that begin with p
//!
//!   (start) = partition key prefix      (end) = partition key prefix + 1
//! ```
//!
//! `x + 1` drops trailing FF bytes and increments the last byte that is left. A partition key's
//! prefix has a length in front of the key that is never FFFF, so there always is one.

use rkyv::{Archive, Deserialize, Serialize};

use super::ExpressionError;
use crate::limits;

/// A condition on the sort key, over key-form bytes.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
#[rkyv(derive(Debug))]
pub enum SortKeyCondition {
    /// `=`
    Equal(Vec<u8>),
    /// `<`
    Less(Vec<u8>),
    /// `<=`
    LessOrEqual(Vec<u8>),
    /// `>`
    Greater(Vec<u8>),
    /// `>=`
    GreaterOrEqual(Vec<u8>),
    /// `BETWEEN`, both ends included.
    Between(Vec<u8>, Vec<u8>),
    /// `begins_with`; not for numbers.
    BeginsWith(Vec<u8>),
}

/// Where a range of sort keys ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpperEdge<'a> {
    /// At the end of the partition key's items.
    Unbounded,
    /// Before this sort key.
    Before(&'a [u8]),
    /// After this sort key.
    After(&'a [u8]),
    /// After every sort key that begins with this.
    AfterPrefix(&'a [u8]),
}

/// Where a range of sort keys begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LowerEdge<'a> {
    Unbounded,
    At(&'a [u8]),
    After(&'a [u8]),
}

impl ArchivedSortKeyCondition {
    /// Checks the operands. `numeric` says that the table's sort key is a number.
    pub fn check(&self, numeric: bool) -> Result<(), ExpressionError> {
        let (first, second) = match self {
            Self::Equal(key)
            | Self::Less(key)
            | Self::LessOrEqual(key)
            | Self::Greater(key)
            | Self::GreaterOrEqual(key) => (key.as_slice(), None),
            Self::BeginsWith(_) if numeric => {
                return Err(ExpressionError::SortKeyBeginsWithNumber);
            }
            Self::BeginsWith(prefix) => (prefix.as_slice(), None),
            Self::Between(low, high) => (low.as_slice(), Some(high.as_slice())),
        };
        for key in [Some(first), second].into_iter().flatten() {
            let (found, max) = (key.len(), limits::SORT_KEY_BYTES_MAX);
            if found == 0 || found > max {
                return Err(ExpressionError::SortKeyBytes { found, max });
            }
        }
        if second.is_some_and(|second| first > second) {
            return Err(ExpressionError::BetweenOrder);
        }
        Ok(())
    }

    /// Whether a sort key lies in the range.
    #[must_use]
    pub fn matches(&self, sort_key: &[u8]) -> bool {
        let above = match self.lower_edge() {
            LowerEdge::Unbounded => true,
            LowerEdge::At(key) => sort_key >= key,
            LowerEdge::After(key) => sort_key > key,
        };
        above
            && match self.upper_edge() {
                UpperEdge::Unbounded => true,
                UpperEdge::Before(key) => sort_key < key,
                UpperEdge::After(key) => sort_key <= key,
                UpperEdge::AfterPrefix(prefix) => sort_key < prefix || sort_key.starts_with(prefix),
            }
    }

    /// Turns `key`, an encoded partition key, into the first encoded key of the range.
    pub fn append_lower(&self, key: &mut Vec<u8>) {
        match self.lower_edge() {
            LowerEdge::Unbounded => {}
            LowerEdge::At(edge) => key.extend_from_slice(edge),
            LowerEdge::After(edge) => {
                key.extend_from_slice(edge);
                key.push(0);
            }
        }
    }

    /// Turns `key`, an encoded partition key, into the first encoded key after the range.
    pub fn append_upper(&self, key: &mut Vec<u8>) {
        self.upper_edge().append_to(key);
    }

    fn lower_edge(&self) -> LowerEdge<'_> {
        match self {
            Self::Less(_) | Self::LessOrEqual(_) => LowerEdge::Unbounded,
            Self::Greater(key) => LowerEdge::After(key),
            Self::Equal(key)
            | Self::GreaterOrEqual(key)
            | Self::Between(key, _)
            | Self::BeginsWith(key) => LowerEdge::At(key),
        }
    }

    fn upper_edge(&self) -> UpperEdge<'_> {
        match self {
            Self::Greater(_) | Self::GreaterOrEqual(_) => UpperEdge::Unbounded,
            Self::Less(key) => UpperEdge::Before(key),
            Self::Equal(key) | Self::LessOrEqual(key) | Self::Between(_, key) => {
                UpperEdge::After(key)
            }
            Self::BeginsWith(prefix) => UpperEdge::AfterPrefix(prefix),
        }
    }
}

impl UpperEdge<'_> {
    /// Turns `key`, an encoded partition key, into the first encoded key after this edge; with
    /// [`UpperEdge::Unbounded`], into the end of the partition key's items.
    pub fn append_to(self, key: &mut Vec<u8>) {
        match self {
            UpperEdge::Unbounded => increment(key),
            UpperEdge::Before(edge) => key.extend_from_slice(edge),
            UpperEdge::After(edge) => {
                key.extend_from_slice(edge);
                key.push(0);
            }
            UpperEdge::AfterPrefix(prefix) => {
                key.extend_from_slice(prefix);
                increment(key);
            }
        }
    }
}

/// The first byte string after all that begin with `key`.
fn increment(key: &mut Vec<u8>) {
    while let Some(last) = key.pop() {
        if last < u8::MAX {
            key.push(last + 1);
            return;
        }
    }
    unreachable!("an encoded partition key holds a byte below FF");
}
