//! What Kinesis allows, with where it says so. Both sides of the adapter take their bounds from here; what only we
//! chose (pauses, budgets) stands beside the code that uses it.
//!
//! Sources, as of 2026: the quotas <https://docs.aws.amazon.com/streams/latest/dev/service-sizes-and-limits.html>
//! (called "quotas" below), the pages of the operations
//! <https://docs.aws.amazon.com/kinesis/latest/APIReference/API_Operations.html> (called by the operation's name), and
//! large records <https://docs.aws.amazon.com/streams/latest/dev/large-records.html>.

use std::time::Duration;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// The most records of one GetRecords (GetRecords: `Limit`).
pub const GET_RECORDS_MAX: usize = 10_000;

/// The most payload of one GetRecords in bytes (GetRecords).
pub const GET_RECORDS_BYTES_MAX: usize = 10 * MIB;

/// GetRecords a second and shard, all readers together (GetRecords).
pub const READS_PER_SECOND: u32 = 5;

/// Bytes a second that a shard gives to all who poll it together, and to each subscriber of its own (quotas).
pub const READ_BYTES_PER_SECOND: usize = 2 * MIB;

/// How long a shard iterator can be used (GetShardIterator).
pub const ITERATOR_LIFE: Duration = Duration::from_secs(5 * 60);

/// The most shards of one answer of ListShards (ListShards: `MaxResults`).
pub const LIST_SHARDS_MAX: usize = 10_000;

/// How long a subscription lasts (SubscribeToShard).
pub const SUBSCRIPTION_LIFE: Duration = Duration::from_secs(5 * 60);

/// How far apart a consumer may subscribe to the same shard (SubscribeToShard).
pub const SUBSCRIBE_APART: Duration = Duration::from_secs(5);

/// The longest retention (quotas: 8,760 hours).
pub const RETENTION_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// The most records of one PutRecords (PutRecords).
pub const PUT_RECORDS_MAX: usize = 500;

/// The most payload and partition keys of one PutRecords in bytes (PutRecords; 5 MiB until October 2025).
pub const PUT_RECORDS_BYTES_MAX: usize = 10 * MIB;

/// The largest record in bytes, payload and partition key together, where the stream's `MaxRecordSizeInKiB` was not
/// raised (large records).
pub const RECORD_BYTES_DEFAULT: usize = MIB;

/// The largest record in bytes, payload and partition key together, on any stream (large records).
pub const RECORD_BYTES_MAX: usize = 10 * MIB;

/// The longest partition key in Unicode characters; the shortest has one
/// (<https://docs.aws.amazon.com/kinesis/latest/APIReference/API_PutRecordsRequestEntry.html>).
pub const PARTITION_KEY_CHARACTERS_MAX: usize = 256;

/// Records a second that a shard takes (quotas).
pub const WRITE_RECORDS_PER_SECOND: usize = 1_000;

/// Bytes a second that a shard takes, payload and partition keys together (quotas).
pub const WRITE_BYTES_PER_SECOND: usize = MIB;

/// What one PUT payload unit holds in bytes: a provisioned stream bills each record in units, rounded up
/// (<https://aws.amazon.com/kinesis/data-streams/pricing/>).
pub const PAYLOAD_UNIT_BYTES: usize = 25 * KIB;

/// What a record is rounded up to in bytes where an on-demand stream bills it
/// (<https://aws.amazon.com/kinesis/data-streams/pricing/>).
pub const ON_DEMAND_UNIT_BYTES: usize = KIB;

/// The digits of a sequence number. The service promises at most 128
/// (<https://docs.aws.amazon.com/kinesis/latest/APIReference/API_Record.html>) and gives 56.
pub const SEQUENCE_DIGITS: usize = 56;
