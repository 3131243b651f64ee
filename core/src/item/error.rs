//! Why bytes are not an item, or a value cannot become one.

use super::number::NumberError;

/// Why bytes are not an item, or a value cannot become one. Offsets count from the start of the
/// buffer that was given.
///
/// All of them are the sender's fault: answer with a validation error and do not retry. From a disk
/// or a peer, where the bytes were valid once, they mean damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ItemError {
    /// A length points beyond the end: the bytes were cut or a length is wrong.
    #[error("the encoding is cut short at offset {offset}")]
    Truncated {
        /// Where more bytes were expected.
        offset: usize,
    },
    /// Another version of the encoding: upgrade this program.
    #[error("item version {found}; this program reads version 1")]
    Version {
        /// The version byte.
        found: u8,
    },
    /// The stated total length is not the length of the bytes.
    #[error("the encoding states {stated} bytes but has {found}")]
    Length {
        /// What the header or the head says.
        stated: usize,
        /// What is there.
        found: usize,
    },
    /// The stated size is not what the size rule gives.
    #[error("the item states a size of {stated} but counts {found}")]
    SizeMismatch {
        /// What the header says.
        stated: usize,
        /// What the attributes add up to.
        found: usize,
    },
    /// A tag that names no type, or a payload on a type that has none.
    #[error("tag {tag} at offset {offset} is no attribute type")]
    Tag {
        /// Where the tag is.
        offset: usize,
        /// The tag.
        tag: u8,
    },
    /// A name or string is not UTF-8.
    #[error("the text at offset {offset} is not UTF-8")]
    NotUtf8 {
        /// Where the text starts.
        offset: usize,
    },
    /// An attribute without a name.
    #[error("an attribute name is empty")]
    EmptyName,
    /// A name longer than 65535 bytes.
    #[error("an attribute name has {bytes} bytes; 65535 are allowed")]
    NameTooLong {
        /// Its length.
        bytes: usize,
    },
    /// Names are not strictly ascending; a repeated name is the usual cause.
    #[error("the attribute name at offset {offset} is repeated or out of order")]
    NameOrder {
        /// Where the name's entry starts.
        offset: usize,
    },
    /// A set without members; DynamoDB has none.
    #[error("a set is empty")]
    EmptySet,
    /// Members of a set are not strictly ascending; a repeated member is the usual cause.
    #[error("the set member at offset {offset} is repeated or out of order")]
    MemberOrder {
        /// Where the member starts.
        offset: usize,
    },
    /// Bytes that are not the canonical form of a number.
    #[error("the number at offset {offset} is not valid: {source}")]
    Number {
        /// Where the number starts.
        offset: usize,
        /// What is wrong with it.
        source: NumberError,
    },
    /// Maps and lists nested deeper than 32 levels.
    #[error("nested deeper than 32 levels")]
    TooDeep,
    /// Larger than an item may be: store less, or in several items.
    #[error("the item has {size} bytes; {limit} are allowed")]
    TooLarge {
        /// Its size.
        size: usize,
        /// The most that is allowed.
        limit: usize,
    },
}

impl ItemError {
    /// True if the value is well formed and only breaks a limit of size, depth or name length.
    #[must_use]
    pub fn is_limit(&self) -> bool {
        matches!(self, Self::TooDeep | Self::TooLarge { .. } | Self::NameTooLong { .. })
    }
}
