//! A stream in memory, for tests and the simulated world. Passes the contract suite like every adapter.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use headwater_common::clock::Clock;
use headwater_common::event::Event;
use headwater_common::hash;
use headwater_common::position::{Position, Sequence, ShardId};

use crate::{Accepted, Error, Put, Read, Shard, Sink, Source, StartAt, StreamIdentity};

/// A log in memory. Clones share it.
#[derive(Clone)]
pub struct MemoryLog {
    name: String,
    clock: Arc<dyn Clock>,
    shards: Arc<Mutex<Vec<ShardLog>>>,
}

#[derive(Debug, Default)]
struct ShardLog {
    /// How many events retention removed from the front.
    trimmed: u64,
    events: Vec<Event>,
}

impl std::fmt::Debug for MemoryLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryLog").field("name", &self.name).finish_non_exhaustive()
    }
}

impl MemoryLog {
    /// Returns an empty log; `name` is its identity.
    pub fn new(name: &str, shard_count: u32, clock: Arc<dyn Clock>) -> Self {
        let shards = (0..shard_count).map(|_| ShardLog::default()).collect();
        Self { name: name.to_owned(), clock, shards: Arc::new(Mutex::new(shards)) }
    }

    /// Removes the `count` oldest events of a shard, as retention does.
    pub fn trim(&self, shard: u32, count: usize) {
        let mut shards = self.lock();
        let log = &mut shards[shard as usize];
        log.events.drain(..count);
        log.trimmed += count as u64;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<ShardLog>> {
        self.shards.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn index_of(&self, shard: &ShardId) -> Result<usize, Error> {
        let count = self.lock().len();
        let index = shard.as_str().parse().ok().filter(|index| *index < count);
        index.ok_or_else(|| Error::NoSuchShard { url: self.name.clone(), shard: shard.clone() })
    }
}

#[async_trait]
impl Source for MemoryLog {
    fn url(&self) -> String {
        format!("memory:{}", self.name)
    }

    fn identity(&self) -> StreamIdentity {
        StreamIdentity(self.name.clone())
    }

    fn sequence_digits(&self) -> usize {
        20
    }

    fn is_gap_free(&self) -> bool {
        true
    }

    async fn shards(&self) -> Result<Vec<Shard>, Error> {
        let count = u32::try_from(self.lock().len()).expect("made from a u32");
        let shard = |index: u32| Shard {
            id: index.to_string().as_str().into(),
            first_hash_key: hash::first_of_slice(index, count),
            parents: Vec::new(),
        };
        Ok((0..count).map(shard).collect())
    }

    async fn resolve(&self, shard: &ShardId, at: StartAt) -> Result<Position, Error> {
        let index = self.index_of(shard)?;
        let shards = self.lock();
        let log = &shards[index];
        let skipped = match at {
            StartAt::TrimHorizon => 0,
            StartAt::Latest => log.events.len(),
            StartAt::At(time) => log.events.partition_point(|event| event.arrived_at < time),
        };
        Ok(Position::of_record(Sequence::from(log.trimmed + skipped as u64)))
    }

    async fn read(&self, shard: &ShardId, after: Position, bytes_max: usize) -> Result<Read, Error> {
        let index = self.index_of(shard)?;
        let shards = self.lock();
        let log = &shards[index];
        let newest = log.trimmed + log.events.len() as u64;
        let asked = after.sequence.as_u64().unwrap_or(u64::MAX);
        if asked > newest {
            let newest = Position::of_record(newest.into());
            return Err(Error::Ahead { shard: shard.clone(), after, newest });
        }
        if asked < log.trimmed {
            let oldest = Position::of_record((log.trimmed + 1).into());
            return Err(Error::Expired { shard: shard.clone(), after, oldest });
        }
        let skipped = usize::try_from(asked - log.trimmed).expect("an index of events in memory");
        let mut bytes = 0;
        let mut events = Vec::new();
        for event in &log.events[skipped..] {
            bytes += event.payload.len();
            if bytes > bytes_max && !events.is_empty() {
                break;
            }
            events.push(event.clone());
        }
        let behind_latest = match (events.last(), log.events.last()) {
            (Some(last), Some(newest)) => newest.arrived_at.since(last.arrived_at),
            _ => Duration::ZERO,
        };
        Ok(Read { events, behind_latest, ended: false, complete_until: None })
    }
}

#[async_trait]
impl Sink for MemoryLog {
    fn url(&self) -> String {
        Source::url(self)
    }

    async fn put(&self, batch: Vec<Put>) -> Result<Accepted, Error> {
        let now = self.clock.now();
        let mut shards = self.lock();
        let count = u32::try_from(shards.len()).expect("made from a u32");
        let mut positions = Vec::with_capacity(batch.len());
        for put in batch {
            let index = hash::slice_of(hash::of_partition_key(&put.partition_key), count);
            let log = &mut shards[index as usize];
            let position = Position::of_record((log.trimmed + log.events.len() as u64 + 1).into());
            let arrived_at = log.events.last().map_or(now, |last| last.arrived_at.max(now));
            log.events.push(Event { position, arrived_at, partition_key: put.partition_key, payload: put.payload });
            positions.push((index.to_string().as_str().into(), position));
        }
        Ok(Accepted { positions, rejected: Vec::new() })
    }
}
