//! The embedded log: a durable stream on this machine, in LMDB.
//!
//! Guarantees: sequence numbers of a shard are 1, 2, 3 … without a gap; arrival times never decrease in a shard; what
//! [`Log::append`] returned for is on the disk. Any number of processes read while one or more write.
//! Relies on: a local disk (network file systems are refused).
//!
//! One database a shard, keyed by shard and sequence, so that an append goes to the last page and fills it; one
//! database `meta` with the header and the state of each shard. See `docs/formats/log.md`.

mod environment;
mod record;
mod sink;
mod state;

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use headwater_common::event::Event;
use headwater_common::hash;
use headwater_common::limits;
use headwater_common::position::{Position, Sequence, ShardId};
use headwater_common::timestamp::Timestamp;
use heed::types::Bytes as Raw;
use heed::{Database, Env, PutFlags, ReservedSpace, RoTxn, WithoutTls};

pub use self::environment::Options;
pub use self::sink::{LogSink, Retention, SyncPolicy};
use self::state::{Header, ShardState};
use crate::{Error, Put, Read, Shard, Source, StartAt, StreamIdentity};

type Records = Database<Raw, Raw>;

/// The digits of the largest sequence number, `u64::MAX`.
const SEQUENCE_DIGITS: usize = 20;

/// Records that retention deletes in one transaction, so that a writer never waits long for it.
const DELETE_RECORDS_MAX: u64 = 10_000;

/// Records that one read returns at most: it bounds how long a reader's transaction pins pages.
const READ_RECORDS_MAX: usize = 100_000;

/// The embedded log. Clones share the environment.
#[derive(Clone)]
pub struct Log {
    path: PathBuf,
    env: Env<WithoutTls>,
    meta: Records,
    shards: Vec<Records>,
    header: Header,
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log").field("path", &self.path).finish_non_exhaustive()
    }
}

/// What a shard holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShardSummary {
    /// Records that are there.
    pub records: u64,
    /// Payload and key bytes that are there.
    pub bytes: u64,
    /// The oldest sequence number that is there, or the next one to come.
    pub oldest: u64,
    /// The newest sequence number ever given; 0 when none was.
    pub newest: u64,
    /// When the newest record arrived.
    pub newest_arrived_at: Timestamp,
}

impl Log {
    /// Returns the log's folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns how many shards the log has.
    pub fn shard_count(&self) -> u32 {
        self.header.shards
    }

    /// Appends a batch in one durable transaction and returns where each record is.
    ///
    /// # Errors
    /// When the disk or the map is full nothing of the batch is there.
    pub fn append(&self, batch: &[Put], now: Timestamp) -> Result<Vec<(u32, u64)>, Error> {
        batch.iter().try_for_each(check_put)?;
        self.append_in_transaction(batch, now).map_err(|error| self.engine_error("append to", error))
    }

    fn append_in_transaction(&self, batch: &[Put], now: Timestamp) -> heed::Result<Vec<(u32, u64)>> {
        let mut transaction = self.env.write_txn()?;
        let mut states: Vec<Option<ShardState>> = vec![None; self.shards.len()];
        let mut places = Vec::with_capacity(batch.len());
        for put in batch {
            let shard = hash::slice_of(hash::of_partition_key(&put.partition_key), self.header.shards);
            let slot = &mut states[shard as usize];
            let state = match slot {
                Some(state) => state,
                None => slot.insert(self.checked_state(&transaction, shard)?),
            };
            let (sequence, arrived_at) = state.accept(put.payload.len() + put.partition_key.len(), now);
            let Put { partition_key, payload } = put;
            let (key, length) = (record::key(shard, sequence), record::stored_bytes(partition_key, payload));
            let records = self.shards[shard as usize];
            // Straight into the database's page: a record may have ten MiB, and once is enough to copy it.
            let write = |space: &mut ReservedSpace<'_>| {
                space.fill_zeroes();
                record::write(arrived_at, partition_key, payload, space.written_mut());
                Ok(())
            };
            let flags = PutFlags::APPEND;
            let taken = records.get_or_put_reserved_with_flags(&mut transaction, flags, &key, length, write)?;
            if taken.is_some() {
                // The state says a number is free that the database has: one of them is damaged.
                return Err(heed::Error::Mdb(heed::MdbError::Corrupted));
            }
            places.push((shard, sequence));
        }
        for (shard, state) in (0..).zip(&states) {
            if let Some(state) = state {
                state.store(self.meta, &mut transaction, shard)?;
            }
        }
        transaction.commit()?;
        Ok(places)
    }

    /// Returns a shard's state, when the newest record is the one that it says.
    fn checked_state(&self, transaction: &RoTxn<'_, WithoutTls>, shard: u32) -> heed::Result<ShardState> {
        let state = ShardState::load(self.meta, transaction, shard)?;
        let newest = self.shards[shard as usize].last(transaction)?;
        let newest = newest.map(|(key, _)| record::sequence_of(key));
        let expected = (state.oldest < state.next).then(|| Ok(state.next - 1));
        if newest == expected { Ok(state) } else { Err(heed::Error::Mdb(heed::MdbError::Corrupted)) }
    }

    /// Gives back the pages that readers pin who were killed.
    pub(crate) fn clear_stale_readers(&self) {
        if let Err(error) = self.env.clear_stale_readers() {
            tracing::warn!(%error, "stale readers of the log not cleared");
        }
    }

    /// Returns what each shard holds, in the order of the shards.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn summary(&self) -> Result<Vec<ShardSummary>, Error> {
        let read = || {
            let transaction = self.env.read_txn()?;
            (0..self.header.shards)
                .map(|shard| ShardState::load(self.meta, &transaction, shard).map(|state| state.summary()))
                .collect::<heed::Result<Vec<_>>>()
        };
        read().map_err(|error| self.engine_error("read", error))
    }

    /// Returns how full the map is: bytes used, and bytes there may be.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn map_usage(&self) -> Result<(u64, u64), Error> {
        let used = self.env.non_free_pages_size().map_err(|error| self.engine_error("read", error))?;
        Ok((used, self.env.info().map_size as u64))
    }

    /// Deletes records that are older than `age_max` or beyond `bytes_max` a log, oldest first, in bounded
    /// transactions. Returns how many it deleted.
    ///
    /// # Errors
    /// When the log cannot be written.
    pub fn apply_retention(&self, retention: &Retention, now: Timestamp) -> Result<u64, Error> {
        let mut deleted = 0;
        for shard in 0..self.header.shards {
            loop {
                let count = self
                    .delete_some(shard, retention, now)
                    .map_err(|error| self.engine_error("apply the retention to", error))?;
                deleted += count;
                if count < DELETE_RECORDS_MAX {
                    break;
                }
            }
        }
        Ok(deleted)
    }

    fn delete_some(&self, shard: u32, retention: &Retention, now: Timestamp) -> heed::Result<u64> {
        let mut transaction = self.env.write_txn()?;
        let mut state = ShardState::load(self.meta, &transaction, shard)?;
        let bytes_max = retention.bytes_max.map(|bytes| bytes / u64::from(self.header.shards));
        let mut doomed = 0;
        for entry in self.shards[shard as usize].iter(&transaction)? {
            let (_, value) = entry?;
            // A damaged record is removed by size only: its age is not known.
            let arrived_at = record::parse(value).ok().map(|stored| stored.arrived_at);
            let too_old = retention.age_max.zip(arrived_at).is_some_and(|(age, arrived)| now.since(arrived) > age);
            let too_much = bytes_max.is_some_and(|bytes_max| state.bytes > bytes_max);
            if !(too_old || too_much) || doomed == DELETE_RECORDS_MAX {
                break;
            }
            state.forget_oldest((value.len() - record::HEADER_BYTES.min(value.len())) as u64);
            doomed += 1;
        }
        if doomed > 0 {
            let end = record::key(shard, state.oldest);
            let range = (std::ops::Bound::Unbounded, std::ops::Bound::Excluded(&end[..]));
            self.shards[shard as usize].delete_range(&mut transaction, &range)?;
            state.store(self.meta, &mut transaction, shard)?;
        }
        transaction.commit()?;
        Ok(doomed)
    }

    fn read_blocking(&self, shard: u32, after: Position, bytes_max: usize) -> Result<Read, Error> {
        let transaction = self.env.read_txn().map_err(|error| self.engine_error("read", error))?;
        let state =
            ShardState::load(self.meta, &transaction, shard).map_err(|error| self.engine_error("read", error))?;
        let asked = self.check_position(shard, after, &state)?;
        let stretch = self.copy_stretch(&transaction, shard, asked + 1, bytes_max)?;
        drop(transaction);
        let behind_latest = match stretch.last() {
            Some(last) => state.last_arrived_at.since(last.arrived_at),
            None => Duration::ZERO,
        };
        Ok(Read { events: stretch, behind_latest, ended: false, complete_until: None })
    }

    /// Returns the sequence number to read after, when it is one that this log gave and still has the successor of.
    fn check_position(&self, shard: u32, after: Position, state: &ShardState) -> Result<u64, Error> {
        let shard = shard_id(shard);
        let newest = state.next - 1;
        let asked = after.sequence.as_u64().unwrap_or(u64::MAX);
        if asked > newest {
            return Err(Error::Ahead { shard, after, newest: Position::of_record(newest.into()) });
        }
        if asked + 1 < state.oldest {
            return Err(Error::Expired { shard, after, oldest: Position::of_record(state.oldest.into()) });
        }
        Ok(asked)
    }

    /// Copies records from `first` on. The pages are pinned no longer than this takes.
    fn copy_stretch(
        &self,
        transaction: &RoTxn<'_, WithoutTls>,
        shard: u32,
        first: u64,
        bytes_max: usize,
    ) -> Result<Vec<Event>, Error> {
        let corrupt = |sequence: u64, what: String| Error::Corrupt {
            path: self.path.clone(),
            what: format!("{what}, at shard {shard}, sequence {sequence}"),
        };
        let start = record::key(shard, first);
        let range = (std::ops::Bound::Included(&start[..]), std::ops::Bound::Unbounded);
        let records =
            self.shards[shard as usize].range(transaction, &range).map_err(|error| self.engine_error("read", error))?;
        let mut arena = BytesMut::with_capacity(bytes_max.min(limits::EVENT_BYTES_MAX));
        let mut spans = Vec::new();
        for (expected, entry) in (first..).zip(records) {
            let (key, value) = entry.map_err(|error| self.engine_error("read", error))?;
            let sequence = record::sequence_of(key).map_err(|what| corrupt(expected, what))?;
            if sequence != expected {
                return Err(corrupt(expected, format!("a record is missing: sequence {sequence} follows")));
            }
            let stored = record::parse(value).map_err(|what| corrupt(sequence, what))?;
            let bytes = stored.partition_key.len() + stored.payload.len();
            let full = arena.len() + bytes > bytes_max || spans.len() == READ_RECORDS_MAX;
            if full && !spans.is_empty() {
                break;
            }
            let key_start = arena.len();
            arena.extend_from_slice(stored.partition_key);
            let payload_start = arena.len();
            arena.extend_from_slice(stored.payload);
            spans.push((sequence, stored.arrived_at, key_start, payload_start, arena.len()));
        }
        let arena: Bytes = arena.freeze();
        let event = |(sequence, arrived_at, key_start, payload_start, end): (u64, _, usize, usize, usize)| Event {
            position: Position::of_record(Sequence::from(sequence)),
            arrived_at,
            partition_key: arena.slice(key_start..payload_start),
            payload: arena.slice(payload_start..end),
        };
        Ok(spans.into_iter().map(event).collect())
    }

    fn resolve_blocking(&self, shard: u32, at: StartAt) -> Result<Position, Error> {
        let resolve = || {
            let transaction = self.env.read_txn()?;
            let state = ShardState::load(self.meta, &transaction, shard)?;
            let after = match at {
                StartAt::TrimHorizon => state.oldest - 1,
                StartAt::Latest => state.next - 1,
                StartAt::At(time) => self.last_before(&transaction, shard, &state, time)?,
            };
            Ok(Position::of_record(after.into()))
        };
        resolve().map_err(|error| self.engine_error("read", error))
    }

    /// Returns the newest sequence number that arrived before `time`: arrival times never decrease, so a binary
    /// search over the gap-free numbers finds it.
    fn last_before(
        &self,
        transaction: &RoTxn<'_, WithoutTls>,
        shard: u32,
        state: &ShardState,
        time: Timestamp,
    ) -> heed::Result<u64> {
        let (mut low, mut high) = (state.oldest, state.next);
        while low < high {
            let middle = low + (high - low) / 2;
            let value = self.shards[shard as usize].get(transaction, &record::key(shard, middle))?;
            let arrived_at = value.and_then(|value| record::parse(value).ok()).map(|stored| stored.arrived_at);
            if arrived_at.is_some_and(|arrived_at| arrived_at < time) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low - 1)
    }

    fn index_of(&self, shard: &ShardId) -> Result<u32, Error> {
        let index = shard.as_str().parse().ok().filter(|index| *index < self.header.shards);
        index.ok_or_else(|| Error::NoSuchShard { url: self.url(), shard: shard.clone() })
    }

    fn engine_error(&self, action: &'static str, error: heed::Error) -> Error {
        environment::classify(&self.path, self.env.info().map_size, action, error)
    }
}

#[async_trait]
impl Source for Log {
    fn url(&self) -> String {
        format!("log:{}", self.path.display())
    }

    fn identity(&self) -> StreamIdentity {
        StreamIdentity(format!("log:{}", self.header.uuid))
    }

    fn sequence_digits(&self) -> usize {
        SEQUENCE_DIGITS
    }

    fn is_gap_free(&self) -> bool {
        true
    }

    async fn shards(&self) -> Result<Vec<Shard>, Error> {
        let count = self.header.shards;
        let shard = |index| Shard {
            id: shard_id(index),
            first_hash_key: hash::first_of_slice(index, count),
            parents: Vec::new(),
        };
        Ok((0..count).map(shard).collect())
    }

    async fn resolve(&self, shard: &ShardId, at: StartAt) -> Result<Position, Error> {
        let (log, index) = (self.clone(), self.index_of(shard)?);
        blocking(move || log.resolve_blocking(index, at)).await
    }

    async fn read(&self, shard: &ShardId, after: Position, bytes_max: usize) -> Result<Read, Error> {
        let (log, index) = (self.clone(), self.index_of(shard)?);
        blocking(move || log.read_blocking(index, after, bytes_max)).await
    }
}

fn shard_id(index: u32) -> ShardId {
    ShardId::from(index.to_string().as_str())
}

fn check_put(put: &Put) -> Result<(), Error> {
    check_size(put.payload.len(), limits::EVENT_BYTES_MAX)?;
    check_size(put.partition_key.len(), limits::PARTITION_KEY_BYTES_MAX)
}

fn check_size(bytes: usize, bytes_max: usize) -> Result<(), Error> {
    if bytes > bytes_max { Err(Error::TooLarge { bytes, bytes_max }) } else { Ok(()) }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(panicked) if panicked.is_panic() => std::panic::resume_unwind(panicked.into_panic()),
        // The runtime is shutting down: nobody waits for the answer any more.
        Err(_) => Err(Error::WriterGone),
    }
}

#[cfg(test)]
mod tests;
