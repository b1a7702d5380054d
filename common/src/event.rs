//! Records as a stream gives them.

use bytes::Bytes;

use crate::position::{Position, ShardId};
use crate::timestamp::Timestamp;

/// One user record of a stream, at its position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Where it stands in its shard.
    pub position: Position,
    /// When the stream accepted it.
    pub arrived_at: Timestamp,
    /// The key that chose its shard.
    pub partition_key: Bytes,
    /// The bytes as they were sent, normally a JSON object.
    pub payload: Bytes,
}

/// Some events of one shard, in the order of their positions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The shard they were read from.
    pub shard: ShardId,
    /// The events; every position is above the one that was read after.
    pub events: Vec<Event>,
}
