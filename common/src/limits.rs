//! Bounds that hold in every crate. A bound that only one crate needs is in that crate.

/// The largest event in bytes. Kinesis takes records of up to 10 MiB where the stream allows it
/// (<https://docs.aws.amazon.com/streams/latest/dev/large-records.html>).
pub const EVENT_BYTES_MAX: usize = 10 * 1024 * 1024;

/// The longest partition key in bytes; Kinesis allows 256 characters
/// (<https://docs.aws.amazon.com/kinesis/latest/APIReference/API_PutRecordsRequestEntry.html>).
pub const PARTITION_KEY_BYTES_MAX: usize = 1024;

/// The most shards of an embedded log. Each is a database of the same LMDB environment.
pub const SHARDS_MAX: u32 = 1000;

/// The most lanes of a generation.
pub const LANES_MAX: u32 = 1000;
