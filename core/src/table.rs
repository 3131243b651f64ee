//! Tables: key schemas, names, and the description that says where each partition lives.
//!
//! A table's key order (module [`key`](crate::key)) is divided into partitions by hash alone:
//!
//! ```text
//! hash  0 ........................................................ 2^64-1
//!       |  partition 0  |   partition 1   |      partition 2        |
//!       group 7,        group 8,          group 9,
//!       shard 0         shard 1           shard 0
//! ```
//!
//! Invariants of a [`TableDescription`], checked whenever one is read: partitions ascend, the first
//! begins at 0, the last ends at 2^64-1, and each begins right after the one before. So every hash
//! belongs to exactly one partition.
//!
//! Descriptions are items themselves, in the system group's partition, under the key attribute
//! `name` ([`KeySchema::of_descriptions`]). An item of 400 KB holds about 4000 partitions, 40 TB at
//! 10 GB each.

use crate::ids::{GroupId, ShardId, TableId};
use crate::item::{
    Item, ItemRef, ItemWriter, Map, MapRef, Number, NumberRef, RawValue, TAG_B, TAG_N, TAG_S,
    Value, ValueRef,
};
use crate::key::{KeyBuf, KeyError, KeyPart, KeyRef};
use crate::limits::{KEY_ATTRIBUTE_NAME_BYTES_MAX, TABLE_NAME_BYTES_MAX, TABLE_NAME_BYTES_MIN};
use crate::liveness::Peer;
use crate::paxos::{Az, CONFIGURATION_AT_BYTES_MAX, ConfigurationAt, MemberId};

/// Type of a key attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyType {
    /// Text, ordered by its UTF-8 bytes.
    S,
    /// A number, ordered by value.
    N,
    /// Bytes.
    B,
}

impl KeyType {
    /// DynamoDB's name of the type.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            KeyType::S => "S",
            KeyType::N => "N",
            KeyType::B => "B",
        }
    }

    /// The type of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<KeyType> {
        match name {
            "S" => Some(KeyType::S),
            "N" => Some(KeyType::N),
            "B" => Some(KeyType::B),
            _ => None,
        }
    }

    fn tag(self) -> u8 {
        match self {
            KeyType::S => TAG_S,
            KeyType::N => TAG_N,
            KeyType::B => TAG_B,
        }
    }

    /// The value in the bytes of an encoded key.
    pub fn value_of<'a>(self, key_bytes: &'a [u8]) -> Result<ValueRef<'a>, KeyError> {
        let malformed = KeyError::Malformed { bytes: key_bytes.len() };
        match self {
            KeyType::S => core::str::from_utf8(key_bytes).map(ValueRef::S).map_err(|_| malformed),
            KeyType::N => NumberRef::validate(key_bytes).map(ValueRef::N).map_err(|_| malformed),
            KeyType::B => Ok(ValueRef::B(key_bytes)),
        }
    }
}

/// Name and type of a key attribute.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KeyAttribute {
    /// The attribute's name.
    pub name: String,
    /// Its type.
    pub key_type: KeyType,
}

impl KeyAttribute {
    /// A key attribute.
    pub fn new(name: impl Into<String>, key_type: KeyType) -> KeyAttribute {
        KeyAttribute { name: name.into(), key_type }
    }

    /// The value's bytes as they stand in a key.
    #[inline]
    fn key_bytes<'a>(&self, part: KeyPart, item: ItemRef<'a>) -> Result<&'a [u8], KeyError> {
        let RawValue { tag, payload } =
            item.get_raw(&self.name).ok_or(KeyError::Missing { part })?;
        if tag != self.key_type.tag() {
            let found = item.get(&self.name).map_or("", |value| value.type_name());
            return Err(KeyError::WrongType { part, expected: self.key_type.name(), found });
        }
        if payload.is_empty() {
            return Err(KeyError::Empty { part });
        }
        Ok(payload)
    }
}

/// The attributes that make a table's key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KeySchema {
    /// The attribute that is hashed.
    pub partition: KeyAttribute,
    /// The attribute that orders items of one partition key.
    pub sort: Option<KeyAttribute>,
}

impl KeySchema {
    /// A schema with a partition key only.
    pub fn partition_only(name: impl Into<String>, key_type: KeyType) -> KeySchema {
        KeySchema { partition: KeyAttribute::new(name, key_type), sort: None }
    }

    /// The schema with a sort key.
    #[must_use]
    pub fn with_sort(mut self, name: impl Into<String>, key_type: KeyType) -> KeySchema {
        self.sort = Some(KeyAttribute::new(name, key_type));
        self
    }

    /// The schema of the table descriptions themselves.
    #[must_use]
    pub fn of_descriptions() -> KeySchema {
        KeySchema::partition_only(NAME, KeyType::S)
    }

    /// Checks the attributes' names.
    pub fn validate(&self) -> Result<(), TableError> {
        for attribute in [Some(&self.partition), self.sort.as_ref()].into_iter().flatten() {
            let bytes = attribute.name.len();
            if bytes == 0 || bytes > KEY_ATTRIBUTE_NAME_BYTES_MAX {
                return Err(TableError::KeyAttributeNameLength { bytes });
            }
        }
        match &self.sort {
            Some(sort) if sort.name == self.partition.name => Err(TableError::SameKeyAttribute),
            _ => Ok(()),
        }
    }

    /// Number of key attributes.
    #[must_use]
    pub fn attributes(&self) -> usize {
        1 + usize::from(self.sort.is_some())
    }

    /// The key of an item that is to be stored.
    pub fn extract_from_item(
        &self,
        seed: &[u8; 16],
        item: ItemRef<'_>,
        key: &mut KeyBuf,
    ) -> Result<(), KeyError> {
        let partition_key = self.partition.key_bytes(KeyPart::Partition, item)?;
        let sort_key = match &self.sort {
            Some(sort) => sort.key_bytes(KeyPart::Sort, item)?,
            None => &[],
        };
        key.set(seed, partition_key, sort_key)
    }

    /// Appends the item that names a key: where a page resumes. Fails if the key is not of this
    /// schema.
    pub fn write_key(&self, key: KeyRef<'_>, out: &mut Vec<u8>) -> Result<(), KeyError> {
        let malformed = KeyError::Malformed { bytes: key.as_bytes().len() };
        let partition = self.partition.key_type.value_of(key.partition_key())?;
        let sort = match &self.sort {
            Some(sort) => Some((sort, sort.key_type.value_of(key.sort_key())?)),
            None if key.sort_key().is_empty() => None,
            None => return Err(malformed),
        };
        let mut attributes = [Some((&self.partition, partition)), sort];
        attributes.sort_by_key(|attribute| attribute.map(|(attribute, _)| &attribute.name));
        let mut writer = ItemWriter::new(out);
        for (attribute, value) in attributes.into_iter().flatten() {
            writer.push(&attribute.name, value).map_err(|_| malformed)?;
        }
        writer.finish().map_err(|_| malformed)?;
        Ok(())
    }

    /// The key that a request names: the key attributes and no others.
    pub fn extract_from_key(
        &self,
        seed: &[u8; 16],
        key_attributes: ItemRef<'_>,
        key: &mut KeyBuf,
    ) -> Result<(), KeyError> {
        self.extract_from_item(seed, key_attributes, key)?;
        let (found, expected) = (key_attributes.len(), self.attributes());
        if found == expected { Ok(()) } else { Err(KeyError::ExtraAttributes { found, expected }) }
    }
}

/// Why a table cannot be described so, or a stored description cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// Name shorter than 3 or longer than 255 bytes: choose another.
    #[error("a table name has 3 to 255 characters, not {bytes}")]
    NameLength {
        /// Its length.
        bytes: usize,
    },
    /// A character other than a-z, A-Z, 0-9, '_', '-' and '.': choose another name.
    #[error("a table name has only a-z, A-Z, 0-9, '_', '-' and '.'; see offset {offset}")]
    NameCharacter {
        /// Where it stands.
        offset: usize,
    },
    /// Name of a key attribute empty or longer than 255 bytes: choose another.
    #[error("a key attribute name has 1 to 255 bytes, not {bytes}")]
    KeyAttributeNameLength {
        /// Its length.
        bytes: usize,
    },
    /// Partition key and sort key are one attribute: name two.
    #[error("partition key and sort key are the same attribute")]
    SameKeyAttribute,
    /// A stored description lacks an attribute or has one of another shape: it is newer than this
    /// program or damaged.
    #[error("the stored description of a table has no valid '{attribute}'")]
    Malformed {
        /// The attribute's name.
        attribute: &'static str,
    },
    /// Partitions that do not cover all hashes exactly once: damaged.
    #[error("partition {index} does not begin where the one before it ends")]
    Coverage {
        /// The first partition that does not fit, or the count if the last one ends early.
        index: usize,
    },
}

/// Checks a table's name: 3 to 255 of a-z, A-Z, 0-9, `_`, `-` and `.`.
pub fn validate_table_name(name: &str) -> Result<(), TableError> {
    if !(TABLE_NAME_BYTES_MIN..=TABLE_NAME_BYTES_MAX).contains(&name.len()) {
        return Err(TableError::NameLength { bytes: name.len() });
    }
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    match name.bytes().position(|byte| !allowed(byte)) {
        Some(offset) => Err(TableError::NameCharacter { offset }),
        None => Ok(()),
    }
}

/// Where a table is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TableStatus {
    /// Its partitions are being set up; it serves nothing yet.
    Creating,
    /// It serves.
    Active,
    /// Its partitions are being removed; it serves nothing any more.
    Deleting,
}

impl TableStatus {
    /// DynamoDB's name of the status.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            TableStatus::Creating => "CREATING",
            TableStatus::Active => "ACTIVE",
            TableStatus::Deleting => "DELETING",
        }
    }

    /// The status of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<TableStatus> {
        [TableStatus::Creating, TableStatus::Active, TableStatus::Deleting]
            .into_iter()
            .find(|status| status.name() == name)
    }
}

/// Attribute that a node adds to a description in a reply: where the cluster's nodes serve clients.
pub const NODES_ATTRIBUTE: &str = "nodes";

/// Members that a partition's group can begin with.
pub const FOUNDERS_MAX: usize = 3;

/// A member that a partition's group begins with. Who they are later, the group itself says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Founder {
    /// The member's identity.
    pub id: MemberId,
    /// Its shard.
    pub peer: Peer,
    /// Where that shard's node stands.
    pub az: Az,
}

/// One partition: a range of hashes, and the group that keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PartitionDescription {
    /// The group.
    pub group: GroupId,
    /// The shard that holds it, by its number on each node that does.
    pub shard: ShardId,
    /// The members that the group begins with; none in a group of one, nor once its members have
    /// changed: **nobody founds a group a second time**.
    pub founders: [Option<Founder>; FOUNDERS_MAX],
    /// The members since they changed for the first time, as far as the system group has heard. The
    /// group's own log is the authority.
    pub members: Option<ConfigurationAt>,
    /// Lowest hash.
    pub hash_first: u64,
    /// Highest hash, inclusive.
    pub hash_last: u64,
    /// Raised whenever range or place changes; a request under another one is refused.
    pub epoch: u64,
}

impl PartitionDescription {
    /// True if keys of this hash belong here.
    #[must_use]
    pub fn contains(&self, hash: u64) -> bool {
        (self.hash_first..=self.hash_last).contains(&hash)
    }

    /// The members that the group begins with; none in a group of one.
    pub fn founders(&self) -> impl Iterator<Item = &Founder> {
        self.founders.iter().flatten()
    }

    /// The shards that hold a member, as far as the system group has heard.
    pub fn peers(&self) -> impl Iterator<Item = Peer> + '_ {
        let members = self.members.iter().flat_map(|at| at.configuration.members());
        self.founders().map(|founder| founder.peer).chain(members.map(|member| member.peer))
    }

    /// Takes in what the group's log says of its members, if that is news.
    pub fn learn_members(&mut self, at: &ConfigurationAt) -> bool {
        let known = self.members.map_or(0, |known| known.slot.0);
        if at.slot.0 <= known {
            return false;
        }
        self.founders = [None; FOUNDERS_MAX];
        self.members = Some(*at);
        true
    }
}

/// A table and the place of its partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableDescription {
    /// Identity; a table created again under the same name has another one.
    pub id: TableId,
    /// Name.
    pub name: String,
    /// Key attributes.
    pub schema: KeySchema,
    /// Seed of the partition hash; a secret of the servers and trusted clients.
    pub hash_seed: [u8; 16],
    /// Partitions in ascending order of hash.
    pub partitions: Vec<PartitionDescription>,
    /// Where the table is in its life.
    pub status: TableStatus,
    /// When it was created, since 1970.
    pub created_unix_millis: u64,
}

const AZ: &str = "az";
const CREATED: &str = "created_unix_millis";
const EPOCH: &str = "epoch";
const FOUNDERS: &str = "founders";
const GROUP: &str = "group";
const HASH_FIRST: &str = "hash_first";
const HASH_LAST: &str = "hash_last";
const HASH_SEED: &str = "hash_seed";
const ID: &str = "id";
const MEMBERS: &str = "members";
const NAME: &str = "name";
const PARTITION_KEY: &str = "partition_key";
const PARTITIONS: &str = "partitions";
const PEER: &str = "peer";
const SHARD: &str = "shard";
const SORT_KEY: &str = "sort_key";
const STATUS: &str = "status";
const TYPE: &str = "type";

impl TableDescription {
    /// The partition to which keys of this hash belong.
    ///
    /// # Panics
    /// If the partitions do not cover all hashes.
    #[inline]
    #[must_use]
    pub fn partition_of(&self, hash: u64) -> &PartitionDescription {
        let after = self.partitions.partition_point(|partition| partition.hash_first <= hash);
        let partition = &self.partitions[after - 1];
        assert!(partition.contains(hash), "partitions cover every hash");
        partition
    }

    /// Checks name, schema and coverage.
    pub fn validate(&self) -> Result<(), TableError> {
        validate_table_name(&self.name)?;
        self.schema.validate()?;
        let mut expected = Some(0);
        for (index, partition) in self.partitions.iter().enumerate() {
            if expected != Some(partition.hash_first) || partition.hash_last < partition.hash_first
            {
                return Err(TableError::Coverage { index });
            }
            expected = partition.hash_last.checked_add(1);
        }
        match expected {
            None => Ok(()),
            Some(_) => Err(TableError::Coverage { index: self.partitions.len() }),
        }
    }

    /// The description as it is stored.
    #[must_use]
    pub fn to_item(&self) -> Item {
        let key_attribute = |attribute: &KeyAttribute| {
            Item::new().with(NAME, attribute.name.as_str()).with(TYPE, attribute.key_type.name()).0
        };
        let founder = |founder: &Founder| {
            let item = Item::new().with(ID, founder.id.0).with(PEER, u64::from(founder.peer.0));
            Value::M(item.with(AZ, u64::from(founder.az.0)).0)
        };
        let partition = |partition: &PartitionDescription| {
            let item = Item::new()
                .with(GROUP, partition.group.0)
                .with(SHARD, u64::from(partition.shard.0))
                .with(HASH_FIRST, partition.hash_first)
                .with(HASH_LAST, partition.hash_last)
                .with(EPOCH, partition.epoch);
            let founders: Vec<Value> = partition.founders().map(founder).collect();
            let item = if founders.is_empty() { item } else { item.with(FOUNDERS, founders) };
            let Some(members) = &partition.members else { return Value::M(item.0) };
            let mut bytes = Vec::with_capacity(CONFIGURATION_AT_BYTES_MAX);
            members.encode(&mut bytes);
            Value::M(item.with(MEMBERS, bytes).0)
        };
        let item = Item::new()
            .with(ID, self.id.0)
            .with(NAME, self.name.as_str())
            .with(PARTITION_KEY, key_attribute(&self.schema.partition))
            .with(HASH_SEED, self.hash_seed.to_vec())
            .with(PARTITIONS, self.partitions.iter().map(partition).collect::<Vec<Value>>())
            .with(STATUS, self.status.name())
            .with(CREATED, self.created_unix_millis);
        match &self.schema.sort {
            Some(sort) => item.with(SORT_KEY, Value::M(key_attribute(sort) as Map)),
            None => item,
        }
    }

    /// Reads a stored description and checks its invariants.
    pub fn from_item(item: ItemRef<'_>) -> Result<TableDescription, TableError> {
        let attributes = item.as_map();
        let seed = match attributes.get(HASH_SEED) {
            Some(ValueRef::B(bytes)) => bytes.try_into().ok(),
            _ => None,
        };
        let sort = match attributes.get(SORT_KEY) {
            None => None,
            Some(ValueRef::M(sort)) => Some(read_key_attribute(sort, SORT_KEY)?),
            Some(_) => return Err(TableError::Malformed { attribute: SORT_KEY }),
        };
        let Some(ValueRef::M(partition)) = attributes.get(PARTITION_KEY) else {
            return Err(TableError::Malformed { attribute: PARTITION_KEY });
        };
        let Some(ValueRef::L(partitions)) = attributes.get(PARTITIONS) else {
            return Err(TableError::Malformed { attribute: PARTITIONS });
        };
        let table = TableDescription {
            id: TableId(read_u64(attributes, ID)?),
            name: read_text(attributes, NAME)?.to_owned(),
            schema: KeySchema { partition: read_key_attribute(partition, PARTITION_KEY)?, sort },
            hash_seed: seed.ok_or(TableError::Malformed { attribute: HASH_SEED })?,
            partitions: partitions.iter().map(read_partition).collect::<Result<_, _>>()?,
            status: TableStatus::from_name(read_text(attributes, STATUS)?)
                .ok_or(TableError::Malformed { attribute: STATUS })?,
            created_unix_millis: read_u64(attributes, CREATED)?,
        };
        table.validate()?;
        Ok(table)
    }
}

fn read_partition(value: ValueRef<'_>) -> Result<PartitionDescription, TableError> {
    let ValueRef::M(map) = value else {
        return Err(TableError::Malformed { attribute: PARTITIONS });
    };
    Ok(PartitionDescription {
        group: GroupId(read_u64(map, GROUP)?),
        founders: read_founders(map)?,
        members: read_members(map)?,
        shard: u16::try_from(read_u64(map, SHARD)?)
            .map(ShardId)
            .map_err(|_| TableError::Malformed { attribute: SHARD })?,
        hash_first: read_u64(map, HASH_FIRST)?,
        hash_last: read_u64(map, HASH_LAST)?,
        epoch: read_u64(map, EPOCH)?,
    })
}

fn read_members(map: MapRef<'_>) -> Result<Option<ConfigurationAt>, TableError> {
    let malformed = TableError::Malformed { attribute: MEMBERS };
    match map.get(MEMBERS) {
        None => Ok(None),
        Some(ValueRef::B(bytes)) => ConfigurationAt::decode(bytes).map(Some).ok_or(malformed),
        Some(_) => Err(malformed),
    }
}

fn read_founders(map: MapRef<'_>) -> Result<[Option<Founder>; FOUNDERS_MAX], TableError> {
    let malformed = TableError::Malformed { attribute: FOUNDERS };
    let mut founders = [None; FOUNDERS_MAX];
    let list = match map.get(FOUNDERS) {
        None => return Ok(founders),
        Some(ValueRef::L(list)) => list,
        Some(_) => return Err(malformed),
    };
    for (index, value) in list.iter().enumerate() {
        let ValueRef::M(map) = value else { return Err(malformed) };
        let place = founders.get_mut(index).ok_or(malformed.clone())?;
        let number = |name| read_u64(map, name);
        *place = Some(Founder {
            id: MemberId(number(ID)?),
            peer: Peer(u32::try_from(number(PEER)?).map_err(|_| malformed.clone())?),
            az: Az(u16::try_from(number(AZ)?).map_err(|_| malformed.clone())?),
        });
    }
    Ok(founders)
}

fn read_key_attribute(
    map: MapRef<'_>,
    attribute: &'static str,
) -> Result<KeyAttribute, TableError> {
    let key_type = KeyType::from_name(read_text(map, TYPE)?);
    let key_type = key_type.ok_or(TableError::Malformed { attribute })?;
    Ok(KeyAttribute::new(read_text(map, NAME)?, key_type))
}

fn read_text<'a>(map: MapRef<'a>, attribute: &'static str) -> Result<&'a str, TableError> {
    match map.get(attribute) {
        Some(ValueRef::S(text)) => Ok(text),
        _ => Err(TableError::Malformed { attribute }),
    }
}

fn read_u64(map: MapRef<'_>, attribute: &'static str) -> Result<u64, TableError> {
    let whole = match map.get(attribute) {
        Some(ValueRef::N(number)) => Number::to_u64(&number.to_number()),
        _ => None,
    };
    whole.ok_or(TableError::Malformed { attribute })
}

/// All hashes in `parts` ranges of equal length, give or take one: first and last, inclusive.
///
/// # Panics
/// If `parts` is 0.
#[must_use]
pub fn split_evenly(parts: u64) -> Vec<(u64, u64)> {
    assert!(parts > 0, "a table has at least one partition");
    let start = |part: u64| ((u128::from(part) << 64) / u128::from(parts)) as u64;
    (0..parts)
        .map(|part| (start(part), if part + 1 == parts { u64::MAX } else { start(part + 1) - 1 }))
        .collect()
}

#[cfg(test)]
mod tests;
