//! What the builders accept as condition, update, projection and sort-key condition.
//!
//! An expression may be given as it is written or compiled. Compile once what is sent often.

use forebay_core::expression::{
    Condition, ConditionExpression, ExpressionError, Path, Projection, SortKeyCondition, Update,
    UpdateExpression,
};
use forebay_core::item::Value;
use forebay_core::key::{KeyError, KeyPart};
use forebay_core::limits::{PARTITION_KEY_BYTES_MAX, SORT_KEY_BYTES_MAX};
use forebay_core::table::{KeyAttribute, KeySchema, KeyType};

use super::error::ClientError;

/// A condition or filter, compiled or not.
pub trait IntoCondition {
    /// The compiled form.
    fn into_condition(self) -> Result<Condition, ExpressionError>;
}

impl IntoCondition for Condition {
    fn into_condition(self) -> Result<Condition, ExpressionError> {
        Ok(self)
    }
}

impl IntoCondition for ConditionExpression {
    fn into_condition(self) -> Result<Condition, ExpressionError> {
        self.compile()
    }
}

/// An update, compiled or not.
pub trait IntoUpdate {
    /// The compiled form.
    fn into_update(self) -> Result<Update, ExpressionError>;
}

impl IntoUpdate for Update {
    fn into_update(self) -> Result<Update, ExpressionError> {
        Ok(self)
    }
}

impl IntoUpdate for UpdateExpression {
    fn into_update(self) -> Result<Update, ExpressionError> {
        self.compile()
    }
}

/// A projection: compiled, or the paths of what to return.
pub trait IntoProjection {
    /// The compiled form.
    fn into_projection(self) -> Result<Projection, ExpressionError>;
}

impl IntoProjection for Projection {
    fn into_projection(self) -> Result<Projection, ExpressionError> {
        Ok(self)
    }
}

impl<P: Into<Path>, const N: usize> IntoProjection for [P; N] {
    fn into_projection(self) -> Result<Projection, ExpressionError> {
        Projection::new(self)
    }
}

impl<P: Into<Path>> IntoProjection for Vec<P> {
    fn into_projection(self) -> Result<Projection, ExpressionError> {
        Projection::new(self)
    }
}

/// Which sort keys a Query reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SortKey {
    /// `= value`
    Equal(Value),
    /// `< value`
    Less(Value),
    /// `<= value`
    LessOrEqual(Value),
    /// `> value`
    Greater(Value),
    /// `>= value`
    GreaterOrEqual(Value),
    /// `BETWEEN low AND high`, both included.
    Between(Value, Value),
    /// `begins_with(prefix)`; not for numbers.
    BeginsWith(Value),
}

impl SortKey {
    /// `= value`
    pub fn equal(value: impl Into<Value>) -> SortKey {
        SortKey::Equal(value.into())
    }

    /// `< value`
    pub fn less(value: impl Into<Value>) -> SortKey {
        SortKey::Less(value.into())
    }

    /// `<= value`
    pub fn less_or_equal(value: impl Into<Value>) -> SortKey {
        SortKey::LessOrEqual(value.into())
    }

    /// `> value`
    pub fn greater(value: impl Into<Value>) -> SortKey {
        SortKey::Greater(value.into())
    }

    /// `>= value`
    pub fn greater_or_equal(value: impl Into<Value>) -> SortKey {
        SortKey::GreaterOrEqual(value.into())
    }

    /// `BETWEEN low AND high`, both included.
    pub fn between(low: impl Into<Value>, high: impl Into<Value>) -> SortKey {
        SortKey::Between(low.into(), high.into())
    }

    /// `begins_with(prefix)`; not for numbers.
    pub fn begins_with(prefix: impl Into<Value>) -> SortKey {
        SortKey::BeginsWith(prefix.into())
    }

    /// In key form, for a table of this schema.
    pub(super) fn compile(&self, schema: &KeySchema) -> Result<SortKeyCondition, ClientError> {
        let sort = schema.sort.as_ref().ok_or(KeyError::Missing { part: KeyPart::Sort })?;
        let bytes = |value| key_bytes(sort, KeyPart::Sort, value);
        Ok(match self {
            SortKey::Equal(value) => SortKeyCondition::Equal(bytes(value)?),
            SortKey::Less(value) => SortKeyCondition::Less(bytes(value)?),
            SortKey::LessOrEqual(value) => SortKeyCondition::LessOrEqual(bytes(value)?),
            SortKey::Greater(value) => SortKeyCondition::Greater(bytes(value)?),
            SortKey::GreaterOrEqual(value) => SortKeyCondition::GreaterOrEqual(bytes(value)?),
            SortKey::Between(low, high) => {
                let (low, high) = (bytes(low)?, bytes(high)?);
                if low > high {
                    return Err(ExpressionError::BetweenOrder.into());
                }
                SortKeyCondition::Between(low, high)
            }
            SortKey::BeginsWith(_) if sort.key_type == KeyType::N => {
                return Err(ExpressionError::SortKeyBeginsWithNumber.into());
            }
            SortKey::BeginsWith(prefix) => SortKeyCondition::BeginsWith(bytes(prefix)?),
        })
    }
}

/// A key value as it stands in keys.
pub(super) fn key_bytes(
    attribute: &KeyAttribute,
    part: KeyPart,
    value: &Value,
) -> Result<Vec<u8>, KeyError> {
    let bytes = match (attribute.key_type, value) {
        (KeyType::S, Value::S(text)) => text.as_bytes(),
        (KeyType::N, Value::N(number)) => number.as_bytes(),
        (KeyType::B, Value::B(bytes)) => bytes,
        (key_type, value) => {
            let (expected, found) = (key_type.name(), value.type_name());
            return Err(KeyError::WrongType { part, expected, found });
        }
    };
    let limit = match part {
        KeyPart::Partition => PARTITION_KEY_BYTES_MAX,
        KeyPart::Sort => SORT_KEY_BYTES_MAX,
    };
    match bytes.len() {
        0 => Err(KeyError::Empty { part }),
        found if found > limit => Err(KeyError::TooLong { part, bytes: found, limit }),
        _ => Ok(bytes.to_vec()),
    }
}
