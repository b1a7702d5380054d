//! What every stream adapter promises.
//!
//! Reading is by position, and positions are all a reader keeps: a [`Source`] has no state that a restart could lose.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use headwater_common::event::Event;
use headwater_common::position::{Position, ShardId};
use headwater_common::timestamp::Timestamp;
use serde::{Deserialize, Serialize};

use crate::Error;

/// What tells a stream from every other, also from one of the same name that was deleted and made anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StreamIdentity(pub String);

/// One shard of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shard {
    /// Its name.
    pub id: ShardId,
    /// The first hash key of its slice; decides the lane.
    pub first_hash_key: u128,
    /// The shards it came from by a split or a merge; they are read to their end first.
    pub parents: Vec<ShardId>,
}

/// Where a new reader begins in a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StartAt {
    /// With the oldest record that is still there.
    TrimHorizon,
    /// With the first record that arrives after the question was asked.
    Latest,
    /// With the first record that arrived at that time or later.
    At(Timestamp),
}

/// What one read gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    /// Events after the asked position, in order, without a gap. Empty when there are none yet.
    pub events: Vec<Event>,
    /// How far the last of them (or the asked position) is behind the shard's newest record.
    pub behind_latest: Duration,
    /// True when the shard is closed and nothing follows these events. Its children may be read then.
    pub ended: bool,
    /// A moment before which everything that arrived is in these events or before them: the read came to the end of
    /// what there was. `None` when there is more, and from streams whose numbers tell where their end is.
    pub complete_until: Option<Timestamp>,
}

/// A stream to read from. Every method may be cancelled and called again: a read changes nothing.
#[async_trait]
pub trait Source: Send + Sync + fmt::Debug {
    /// Returns the stream's URL, for messages.
    fn url(&self) -> String;

    /// Returns what tells this stream from others.
    fn identity(&self) -> StreamIdentity;

    /// Returns how many digits the largest sequence number has; the lake pads to it.
    fn sequence_digits(&self) -> usize;

    /// Returns true when sequence numbers of a shard have no gaps, so that a segment's length counts its events.
    fn is_gap_free(&self) -> bool;

    /// Returns the shards that exist, parents before children. Shards come and go while a stream is resharded; one that
    /// is closed is listed as long as it has records.
    async fn shards(&self) -> Result<Vec<Shard>, Error>;

    /// Returns the position after which reading begins for `at`. `Latest` gives the newest position. A stream that
    /// cannot tell answers `Latest` and `At` with a mark before every event ([`Position::before`]), which its `read`
    /// understands. One that can answers [`Position::SHARD_END`] for a closed shard that has nothing after that.
    async fn resolve(&self, shard: &ShardId, at: StartAt) -> Result<Position, Error>;

    /// Returns events after `after`, at most `bytes_max` of payload but at least one event when there is one. Does not
    /// wait for events that are not there yet. What may work later (a throttle, a lost connection) is tried again by
    /// the adapter, and until then is an empty read. After [`Position::SHARD_END`] a shard is ended.
    ///
    /// # Errors
    /// [`Error::Expired`] when retention has passed `after`: never a silent jump.
    async fn read(&self, shard: &ShardId, after: Position, bytes_max: usize) -> Result<Read, Error>;
}

/// One record to be put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Put {
    /// Chooses the shard by its hash.
    pub partition_key: Bytes,
    /// The record's bytes.
    pub payload: Bytes,
}

/// A batch that the stream holds durably.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// Where each record is, in the order of the batch, without those that are rejected.
    pub positions: Vec<(ShardId, Position)>,
    /// The records that the stream did not take however often it was asked, by their index in the batch, with the
    /// reason; ascending.
    pub rejected: Vec<(usize, String)>,
}

/// A stream to write to.
#[async_trait]
pub trait Sink: Send + Sync + fmt::Debug {
    /// Returns the stream's URL, for messages.
    fn url(&self) -> String;

    /// Puts a batch and returns once all of it is durable or rejected. Batches put one after another keep their order
    /// for each partition key, also when parts of them are sent again. When the call fails or is cancelled the outcome
    /// is unknown: any part of the batch may be there.
    async fn put(&self, batch: Vec<Put>) -> Result<Accepted, Error>;
}
