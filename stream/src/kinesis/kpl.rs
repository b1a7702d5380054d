//! The aggregation format of the Kinesis Producer Library: many user records in one Kinesis record.
//! <https://github.com/awslabs/amazon-kinesis-producer/blob/master/aggregation-format.md>
//!
//! ```text
//! F3 89 9A C2 | protobuf AggregatedRecord | MD5 of the protobuf, 16 bytes
//!
//! AggregatedRecord { repeated string partition_key_table = 1; repeated string explicit_hash_key_table = 2;
//!                    repeated Record records = 3; }
//! Record { required uint64 partition_key_index = 1; optional uint64 explicit_hash_key_index = 2;
//!          required bytes data = 3; repeated Tag tags = 4; }
//! ```
//!
//! Reading copies no payload, and takes an aggregate whole or not at all: what is not exactly as above is
//! [`Malformed`], and the caller goes on with the record as it came. Tags are passed over. Writing knows the exact size
//! before it adds a record. Partition keys are protobuf strings: one that is not UTF-8 cannot be in an aggregate (nor
//! in any record of Kinesis).

use std::collections::HashMap;

use bytes::{BufMut, Bytes, BytesMut};
use md5::{Digest, Md5};
use prost::{Message, length_delimiter_len};

const MAGIC: [u8; 4] = [0xF3, 0x89, 0x9A, 0xC2];
const DIGEST_BYTES: usize = 16;

/// The messages, as prost reads and writes them. Strings are read as bytes, without a copy; the fields of a record are
/// optional here, so that one that is required and missing is noticed.
#[allow(unreachable_pub, reason = "prost derives a public getter for every optional field")]
mod wire {
    use bytes::Bytes;

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct AggregatedRecord {
        #[prost(bytes = "bytes", repeated, tag = "1")]
        pub(super) partition_keys: Vec<Bytes>,
        #[prost(bytes = "bytes", repeated, tag = "2")]
        pub(super) explicit_hash_keys: Vec<Bytes>,
        #[prost(message, repeated, tag = "3")]
        pub(super) records: Vec<Record>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Record {
        #[prost(uint64, optional, tag = "1")]
        pub(super) partition_key: Option<u64>,
        #[prost(uint64, optional, tag = "2")]
        pub(super) explicit_hash_key: Option<u64>,
        #[prost(bytes = "bytes", optional, tag = "3")]
        pub(super) payload: Option<Bytes>,
    }
}

/// One record that was in an aggregate, in the place that its sub-sequence number says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserRecord {
    /// The partition key that it was put with.
    pub partition_key: Bytes,
    /// Its bytes.
    pub payload: Bytes,
}

/// A record begins like an aggregate and is none.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Malformed {
    /// It does not begin like one, or is too short.
    #[error("it does not begin like an aggregate")]
    NoMagic,
    /// The digest is that of other bytes.
    #[error("the digest of the aggregate does not match its bytes")]
    Digest,
    /// The bytes between are not the message.
    #[error("the message of the aggregate cannot be read")]
    Message(#[source] prost::DecodeError),
    /// A record lacks its payload, or its partition key.
    #[error("record {index} of the aggregate has no {what}")]
    Incomplete {
        /// The record's place, from 0.
        index: usize,
        /// What it lacks.
        what: &'static str,
    },
    /// It holds nothing.
    #[error("the aggregate holds no record")]
    Empty,
}

/// A partition key is not text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the partition key is not UTF-8")]
pub struct NotText;

/// Returns true when a record begins like an aggregate. Whether it is one, [`split`] says.
pub fn is_aggregate(payload: &Bytes) -> bool {
    payload.len() > MAGIC.len() + DIGEST_BYTES && payload.starts_with(&MAGIC)
}

/// Returns the user records of an aggregate, at least one, in order.
///
/// # Errors
/// When it is not exactly what the format says. Nothing of it may be used then.
pub fn split(record: &Bytes) -> Result<Vec<UserRecord>, Malformed> {
    if !is_aggregate(record) {
        return Err(Malformed::NoMagic);
    }
    let end = record.len() - DIGEST_BYTES;
    let message = record.slice(MAGIC.len()..end);
    if record[end..] != digest(&message) {
        return Err(Malformed::Digest);
    }
    let wire::AggregatedRecord { partition_keys, records, .. } =
        wire::AggregatedRecord::decode(message).map_err(Malformed::Message)?;
    if records.is_empty() {
        return Err(Malformed::Empty);
    }
    let user_record = |(index, record): (usize, wire::Record)| {
        let lacks = |what| Malformed::Incomplete { index, what };
        let key = record.partition_key.and_then(|key| usize::try_from(key).ok());
        let partition_key = key.and_then(|key| partition_keys.get(key)).ok_or_else(|| lacks("partition key"))?;
        let payload = record.payload.ok_or_else(|| lacks("payload"))?;
        Ok(UserRecord { partition_key: partition_key.clone(), payload })
    };
    records.into_iter().enumerate().map(user_record).collect()
}

/// An aggregate that is being made.
#[derive(Debug, Clone, Default)]
pub struct Aggregate {
    message: wire::AggregatedRecord,
    partition_keys: HashMap<Bytes, u64>,
    explicit_hash_keys: HashMap<u128, u64>,
    message_bytes: usize,
}

impl Aggregate {
    /// Returns an aggregate that holds nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns how many user records are in it.
    pub fn len(&self) -> usize {
        self.message.records.len()
    }

    /// Returns true when no user record is in it.
    pub fn is_empty(&self) -> bool {
        self.message.records.is_empty()
    }

    /// Returns the size of the Kinesis record in bytes, without its partition key.
    pub fn encoded_len(&self) -> usize {
        MAGIC.len() + self.message_bytes + DIGEST_BYTES
    }

    /// Returns the size that it has once this user record is added, exactly.
    pub fn encoded_len_with(&self, partition_key: &[u8], explicit_hash_key: Option<u128>, payload: &[u8]) -> usize {
        let (key, new_key) = match self.partition_keys.get(partition_key) {
            Some(index) => (*index, 0),
            None => (self.partition_keys.len() as u64, delimited_len(partition_key.len())),
        };
        let (hash_key, new_hash_key) = match explicit_hash_key.map(|hash| (hash, self.explicit_hash_keys.get(&hash))) {
            None => (0, 0),
            Some((_, Some(index))) => (tagged_len(*index), 0),
            Some((hash, None)) => (tagged_len(self.explicit_hash_keys.len() as u64), delimited_len(decimal_len(hash))),
        };
        let record = delimited_len(tagged_len(key) + hash_key + delimited_len(payload.len()));
        self.encoded_len() + new_key + new_hash_key + record
    }

    /// Adds a user record behind the others. `explicit_hash_key` is where it was to go, when that was not left to its
    /// partition key.
    ///
    /// # Errors
    /// When the partition key is not UTF-8; nothing is added then.
    pub fn push(
        &mut self,
        partition_key: Bytes,
        explicit_hash_key: Option<u128>,
        payload: Bytes,
    ) -> Result<(), NotText> {
        std::str::from_utf8(&partition_key).map_err(|_| NotText)?;
        self.message_bytes =
            self.encoded_len_with(&partition_key, explicit_hash_key, &payload) - MAGIC.len() - DIGEST_BYTES;
        let next = self.partition_keys.len() as u64;
        let key = *self.partition_keys.entry(partition_key).or_insert_with_key(|key| {
            self.message.partition_keys.push(key.clone());
            next
        });
        let next = self.explicit_hash_keys.len() as u64;
        let explicit_hash_key = explicit_hash_key.map(|hash| {
            *self.explicit_hash_keys.entry(hash).or_insert_with(|| {
                self.message.explicit_hash_keys.push(hash.to_string().into());
                next
            })
        });
        let record = wire::Record { partition_key: Some(key), explicit_hash_key, payload: Some(payload) };
        self.message.records.push(record);
        Ok(())
    }

    /// Returns the Kinesis record's bytes.
    pub fn finish(self) -> Bytes {
        let mut record = BytesMut::with_capacity(self.encoded_len());
        record.put_slice(&MAGIC);
        self.message.encode(&mut record).expect("a buffer that grows has room");
        debug_assert_eq!(record.len(), MAGIC.len() + self.message_bytes, "the size is known before");
        let digest = digest(&record[MAGIC.len()..]);
        record.put_slice(&digest);
        record.freeze()
    }
}

fn digest(message: &[u8]) -> [u8; DIGEST_BYTES] {
    Md5::digest(message).into()
}

/// The size of a field with a length before it: its tag, its length, and itself.
fn delimited_len(length: usize) -> usize {
    1 + length_delimiter_len(length) + length
}

/// The size of a field that is a number: its tag, and the number in groups of seven bits.
fn tagged_len(number: u64) -> usize {
    1 + (64 - (number | 1).leading_zeros()).div_ceil(7) as usize
}

fn decimal_len(number: u128) -> usize {
    number.checked_ilog10().map_or(1, |digits| digits as usize + 1)
}

#[cfg(test)]
mod tests;
