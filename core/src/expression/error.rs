//! What can be wrong with an expression, and the words for operators and types that errors use.

use core::fmt;

use rkyv::{Archive, Deserialize, Serialize};

use crate::item::ValueRef;

/// Why an expression was refused.
///
/// Two families. *Malformed* programs (bad indices, jumps, ranges, order) come from a client that
/// does not use the builder, or from damage that the frame's checksum missed: close the connection
/// or answer with the error, and never evaluate. All the others are the application's mistake, and
/// carry DynamoDB's wording; the request is answered with the error and must not be retried as is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExpressionError {
    /// Malformed: nothing to evaluate. Leave the expression out instead.
    #[error("the expression can not be empty")]
    Empty,
    /// Too many tests, actions or paths: simplify the expression.
    #[error("the expression has {found} nodes, more than {max}")]
    TooManyNodes {
        /// Nodes in this expression.
        found: usize,
        /// Most nodes allowed.
        max: usize,
    },
    /// Too many operands in one of the tables: simplify the expression.
    #[error("the expression has {found} operands, more than {max}")]
    TooManyOperands {
        /// Operands in this expression.
        found: usize,
        /// Most operands allowed.
        max: usize,
    },
    /// The operand values are too big together: send less.
    #[error("the expression's values take {found} bytes, more than {max}")]
    ValueBytes {
        /// Bytes of values in this expression.
        found: usize,
        /// Most bytes allowed.
        max: usize,
    },
    /// Malformed: a value's range is not inside the value bytes.
    #[error("value {index} of the expression has a bad range")]
    BadValueRange {
        /// Which value.
        index: usize,
    },
    /// A value is not a valid encoded value.
    #[error("value {index} of the expression is invalid: {reason}")]
    BadValue {
        /// Which value.
        index: usize,
        /// What the item format says about it.
        reason: crate::item::ItemError,
    },
    /// Malformed: a test jumps backward, to itself, or out of the program.
    #[error("test {test} jumps to {target}, of {count} tests")]
    BadJump {
        /// The test.
        test: usize,
        /// Where it jumps.
        target: usize,
        /// Tests in the program.
        count: usize,
    },
    /// Malformed: an index into a table that is shorter.
    #[error("operand index {index} is outside a table of {count}")]
    BadIndex {
        /// The index.
        index: usize,
        /// Entries in the table.
        count: usize,
    },
    /// Malformed: every operand of a list belongs to one user, in order, so that the work of an
    /// expression is bounded by its size; the builder lays them out so.
    #[error("operand {index} is shared, unused or out of place")]
    MisplacedOperand {
        /// The operand's index.
        index: usize,
    },
    /// Malformed: paths must ascend, so that one walk finds them all; the builder sorts them.
    #[error("path {index} of the expression is out of order")]
    OutOfOrder {
        /// The later of the two paths.
        index: usize,
    },
    /// Malformed: a path without elements, or one that begins with a list index.
    #[error("a document path must begin with an attribute name")]
    PathWithoutName,
    /// The path is nested too deeply.
    #[error("the document path has {found} elements, more than {max}")]
    PathTooDeep {
        /// Elements in the path.
        found: usize,
        /// Most elements allowed.
        max: usize,
    },
    /// An attribute name is empty or too long.
    #[error("an attribute name of {found} bytes is outside 1 to {max}")]
    NameBytes {
        /// Bytes in the name.
        found: usize,
        /// Most bytes allowed.
        max: usize,
    },
    /// IN needs 1 to 100 values.
    #[error("IN has {found} values, outside 1 to {max}")]
    InChoices {
        /// Values given.
        found: usize,
        /// Most values allowed.
        max: usize,
    },
    /// A value given in the expression has a type that the operator does not take.
    #[error(
        "incorrect operand type for operator or function; operator or function: {operator}, \
         operand type: {operand}"
    )]
    IncorrectOperandType {
        /// The operator or function.
        operator: Operator,
        /// The operand's type.
        operand: ValueType,
    },
    /// The two bounds of a BETWEEN, both given in the expression, have different types.
    #[error(
        "the BETWEEN operator requires same data type for lower and upper bounds; lower bound: \
         {low}, upper bound: {high}"
    )]
    BetweenTypes {
        /// Type of the lower bound.
        low: ValueType,
        /// Type of the upper bound.
        high: ValueType,
    },
    /// The two bounds of a BETWEEN, both given in the expression, are the wrong way round.
    #[error("the BETWEEN operator requires upper bound to be greater than or equal to lower bound")]
    BetweenOrder,
    /// The first operand occurs again among the others, so that the result would be a constant.
    #[error(
        "the first operand must be distinct from the remaining operands for this operator or \
         function; operator: {operator}, operand: {operand}"
    )]
    OperandsNotDistinct {
        /// The operator or function.
        operator: Operator,
        /// The repeated path.
        operand: String,
    },
    /// `size` stands where only a path or a value may.
    #[error("the function is not allowed to be used this way in an expression; function: size")]
    SizeNotAllowed,
    /// Two paths of an update or projection touch the same place.
    #[error(
        "two document paths overlap with each other; must remove or rewrite one of these paths; \
         path one: {first}, path two: {second}"
    )]
    PathsOverlap {
        /// The shorter one.
        first: String,
        /// The other one.
        second: String,
    },
    /// Two paths cannot both exist: one takes a map where the other takes a list.
    #[error(
        "two document paths conflict with each other; must remove or rewrite one of these paths; \
         path one: {first}, path two: {second}"
    )]
    PathsConflict {
        /// One of them.
        first: String,
        /// The other one.
        second: String,
    },
    /// Key attributes never change: delete the item and put another one.
    #[error("cannot update attribute {name}; this attribute is part of the key")]
    KeyAttribute {
        /// Name of the key attribute.
        name: String,
    },
    /// A SET reads a path that the item does not have: use if_not_exists.
    #[error("the provided expression refers to an attribute that does not exist in the item")]
    MissingAttribute,
    /// The path's parent is absent, or is no map or list: create it first.
    #[error("the document path provided in the update expression is invalid for update")]
    InvalidPath,
    /// An attribute of the item has a type that the action cannot work with.
    #[error("an operand in the update expression has an incorrect data type")]
    OperandDataType,
    /// The sum or difference is outside the range or precision of numbers.
    #[error("number overflow: the result of {operator} is outside the range of numbers")]
    NumberOverflow {
        /// The operator.
        operator: Operator,
    },
    /// The updated item breaks a limit of items: size or nesting.
    #[error("the updated item is invalid: {0}")]
    Item(#[from] crate::item::ItemError),
    /// An operand of a sort-key condition is empty or longer than a sort key can be.
    #[error("a sort key operand of {found} bytes is outside 1 to {max}")]
    SortKeyBytes {
        /// Bytes in the operand.
        found: usize,
        /// Most bytes allowed.
        max: usize,
    },
    /// `begins_with` on a numeric sort key.
    #[error("begins_with is not supported on a sort key of type N")]
    SortKeyBeginsWithNumber,
}

impl ExpressionError {
    /// Whether the program itself is malformed: a builder never makes one, so the sender is broken.
    #[must_use]
    pub fn is_malformed(&self) -> bool {
        matches!(
            self,
            Self::BadValueRange { .. }
                | Self::BadJump { .. }
                | Self::BadIndex { .. }
                | Self::MisplacedOperand { .. }
                | Self::OutOfOrder { .. }
                | Self::PathWithoutName
        )
    }
}

/// An operator, function or clause, as errors name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
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
    /// `BETWEEN`
    Between,
    /// `IN`
    In,
    /// `attribute_type`
    AttributeType,
    /// `begins_with`
    BeginsWith,
    /// `contains`
    Contains,
    /// `list_append`
    ListAppend,
    /// `+`
    Plus,
    /// `-`
    Minus,
    /// `ADD`
    Add,
    /// `DELETE`
    Delete,
}

impl fmt::Display for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Equal => "=",
            Self::NotEqual => "<>",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
            Self::Between => "BETWEEN",
            Self::In => "IN",
            Self::AttributeType => "attribute_type",
            Self::BeginsWith => "begins_with",
            Self::Contains => "contains",
            Self::ListAppend => "list_append",
            Self::Plus => "+",
            Self::Minus => "-",
            Self::Add => "ADD",
            Self::Delete => "DELETE",
        })
    }
}

/// The ten types of attribute values, as `attribute_type` asks for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Archive, Serialize, Deserialize)]
#[rkyv(derive(Clone, Copy, Debug, PartialEq, Eq))]
pub enum ValueType {
    /// String.
    S,
    /// Number.
    N,
    /// Binary.
    B,
    /// Boolean.
    Bool,
    /// Null.
    Null,
    /// Map.
    M,
    /// List.
    L,
    /// Set of strings.
    Ss,
    /// Set of numbers.
    Ns,
    /// Set of binaries.
    Bs,
}

impl ValueType {
    /// The type of a value.
    #[must_use]
    pub fn of(value: &ValueRef<'_>) -> ValueType {
        match value {
            ValueRef::S(_) => Self::S,
            ValueRef::N(_) => Self::N,
            ValueRef::B(_) => Self::B,
            ValueRef::Bool(_) => Self::Bool,
            ValueRef::Null => Self::Null,
            ValueRef::M(_) => Self::M,
            ValueRef::L(_) => Self::L,
            ValueRef::Ss(_) => Self::Ss,
            ValueRef::Ns(_) => Self::Ns,
            ValueRef::Bs(_) => Self::Bs,
        }
    }

    /// The type that DynamoDB calls by this name ("S", "BOOL", ...), if there is one.
    #[must_use]
    pub fn named(name: &str) -> Option<ValueType> {
        Some(match name {
            "S" => Self::S,
            "N" => Self::N,
            "B" => Self::B,
            "BOOL" => Self::Bool,
            "NULL" => Self::Null,
            "M" => Self::M,
            "L" => Self::L,
            "SS" => Self::Ss,
            "NS" => Self::Ns,
            "BS" => Self::Bs,
            _ => return None,
        })
    }

    /// Whether values of this type have an order: strings, numbers and binaries.
    #[must_use]
    pub fn is_ordered(self) -> bool {
        matches!(self, Self::S | Self::N | Self::B)
    }

    /// Whether this is one of the three set types.
    #[must_use]
    pub fn is_set(self) -> bool {
        matches!(self, Self::Ss | Self::Ns | Self::Bs)
    }
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::S => "S",
            Self::N => "N",
            Self::B => "B",
            Self::Bool => "BOOL",
            Self::Null => "NULL",
            Self::M => "M",
            Self::L => "L",
            Self::Ss => "SS",
            Self::Ns => "NS",
            Self::Bs => "BS",
        })
    }
}
