//! The consuming side of Kinesis.
//!
//! Guarantees: every event of a shard once and in order, from a position on, also one inside an aggregate; never a
//! silent jump (see `plan`); a closed shard ends behind its last event, and its children begin with their first.
//! Relies on: sequence numbers that grow inside a shard, as Kinesis promises.
//!
//! ```text
//!           Source::read --> reader (one a shard) --> buffer --> events     kpl takes aggregates apart
//!                              |        ^
//!                 what is asked|        |what came
//!                              v        |
//!                     cursor, plan (pure)                pace, stream: when, and how much memory
//!                              |        ^
//!                              v        |
//!                     fetch (GetRecords) or fan_out (SubscribeToShard), a task of their own
//! ```
//!
//! A shard is polled at most five times a second, once a second while it is quiet; one answer a shard is fetched ahead;
//! all answers together take at most 64 MiB. What may work later is tried again for ever, and a read is empty until
//! then. What Kinesis cannot tell: when the retention is shortened below the lag of a reader, the minute until that is
//! noticed; and what the producer library itself sent again, which is there twice, with one event id.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_kinesis::Client;
use headwater_common::clock::Clock;
use headwater_common::hash;
use headwater_common::outcome::Again;
use headwater_common::position::{Position, ShardId};
use headwater_common::timestamp::Timestamp;
use tokio::time::Instant;

use super::limits::SEQUENCE_DIGITS;
use super::reader::{ShardReader, Step};
use super::service_clock::{AnswerDates, ServiceClock};
use super::stream::{Stream, persist};
use super::{fan_out, plan, shards};
use crate::{Error, Read, Shard, Source, StartAt, StreamIdentity, aws};

/// How long a read waits for an answer that is under way.
const WAIT_MAX: Duration = Duration::from_millis(5);

/// How a stream is read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SourceOptions {
    /// The consumer whose subscriptions are read (enhanced fan-out); registered when there is none of that name, and
    /// it stays registered. Without one the shards are polled.
    pub fan_out: Option<String>,
}

/// A Kinesis stream to read from.
#[derive(Debug)]
pub struct KinesisSource {
    stream: Arc<Stream>,
    /// The shards that were ever listed.
    listed: Mutex<HashSet<ShardId>>,
    /// The shards of the last listing.
    current: Mutex<HashSet<ShardId>>,
    readers: Mutex<HashMap<ShardId, Arc<Mutex<ShardReader>>>>,
    salt: u64,
}

/// How often a listing is asked for again that lacks shards of the one before, and how long apart: servers need not
/// agree at once on what there is, and a shard that is gone is an error for whoever reads it.
const LISTINGS_AGAIN: u32 = 3;
const LISTINGS_APART: Duration = Duration::from_millis(500);

impl KinesisSource {
    /// Opens the stream of a name or an ARN, and waits until it is there when it is being made. The client should try
    /// once: what is tried again is decided here.
    ///
    /// # Errors
    /// When there is no such stream, it may not be read, or the service did not answer for a while.
    pub async fn open(
        client: Client,
        stream: &str,
        clock: Arc<dyn Clock>,
        options: SourceOptions,
    ) -> Result<Self, Error> {
        let clock = Arc::new(ServiceClock::new(clock));
        let config = client.config().to_builder().interceptor(AnswerDates(Arc::clone(&clock)));
        let client = Client::from_conf(config.build());
        let mut opened = Stream::open(client, stream, clock).await?;
        if let Some(name) = &options.fan_out {
            opened.consumer = Some(fan_out::register(&opened, name).await?);
        }
        let salt = u64::try_from(opened.clock.now().micros()).unwrap_or(0);
        let stream = Arc::new(opened);
        let (listed, current) = (Mutex::default(), Mutex::default());
        Ok(Self { stream, listed, current, readers: Mutex::default(), salt })
    }

    fn reader(&self, shard: &ShardId, now: Instant) -> Arc<Mutex<ShardReader>> {
        let mut readers = lock(&self.readers);
        let reader = readers.entry(shard.clone()).or_insert_with(|| {
            // Shards that were throttled together must not come back together.
            let seed = self.salt ^ u64::try_from(hash::of_partition_key(shard.as_str().as_bytes()) >> 64).unwrap_or(0);
            Arc::new(Mutex::new(ShardReader::new(shard.clone(), now, seed)))
        });
        Arc::clone(reader)
    }

    /// When memory is short, takes back what readers hold whom nobody asks any more: their lane may have stopped, or
    /// another worker may have it.
    fn relieve(&self, now: Instant) {
        if self.stream.has_room() {
            return;
        }
        let readers: Vec<_> = lock(&self.readers).values().cloned().collect();
        for reader in readers {
            // One that is locked is being asked.
            if let Ok(mut reader) = reader.try_lock() {
                reader.leave_if_abandoned(now);
            }
        }
    }

    /// Returns true when the shard is, or was, one of this stream; `None` when that cannot be found out now.
    async fn knows(&self, shard: &ShardId) -> Result<Option<bool>, Error> {
        if lock(&self.listed).contains(shard) {
            return Ok(Some(true));
        }
        match shards::list(&self.stream).await {
            Ok(listed) => {
                self.remember(&listed);
                Ok(Some(lock(&self.listed).contains(shard)))
            }
            Err(error) if aws::classify(&error).again == Again::MayHelp => {
                self.stream.warn(shard, &self.stream.target.failed(LIST, error));
                Ok(None)
            }
            Err(error) => Err(self.stream.target.failed(LIST, error)),
        }
    }

    async fn list(&self) -> Result<Vec<Shard>, Error> {
        let list = || shards::list(&self.stream);
        let listed = persist(&self.stream.target, LIST, u32::MAX, self.salt, list).await;
        listed.map_err(|error| self.stream.target.failed(LIST, error))
    }

    /// Returns true when a shard of the last listing is not in this one: retention has taken it, or the listing is old.
    fn lacks_known(&self, listed: &[Shard]) -> bool {
        let names: HashSet<&ShardId> = listed.iter().map(|shard| &shard.id).collect();
        lock(&self.current).iter().any(|shard| !names.contains(shard))
    }

    fn remember(&self, listed: &[Shard]) {
        lock(&self.listed).extend(listed.iter().map(|shard| shard.id.clone()));
    }

    fn no_such_shard(&self, shard: &ShardId) -> Error {
        Error::NoSuchShard { url: self.url(), shard: shard.clone() }
    }
}

const LIST: &str = "ListShards";

#[async_trait]
impl Source for KinesisSource {
    fn url(&self) -> String {
        self.stream.target.url()
    }

    fn identity(&self) -> StreamIdentity {
        self.stream.identity.clone()
    }

    fn sequence_digits(&self) -> usize {
        SEQUENCE_DIGITS
    }

    fn is_gap_free(&self) -> bool {
        false
    }

    async fn shards(&self) -> Result<Vec<Shard>, Error> {
        self.stream.look_again().await?;
        let mut listed = self.list().await?;
        for _ in 0..LISTINGS_AGAIN {
            if !self.lacks_known(&listed) {
                break;
            }
            tokio::time::sleep(LISTINGS_APART).await;
            listed = self.list().await?;
        }
        *lock(&self.current) = listed.iter().map(|shard| shard.id.clone()).collect();
        self.remember(&listed);
        Ok(listed)
    }

    async fn resolve(&self, shard: &ShardId, at: StartAt) -> Result<Position, Error> {
        if !lock(&self.listed).contains(shard) {
            self.shards().await?;
            if !lock(&self.listed).contains(shard) {
                return Err(self.no_such_shard(shard));
            }
        }
        let facts = self.stream.facts();
        Ok(match at {
            StartAt::TrimHorizon => Position::START,
            StartAt::Latest => Position::before(plan::whole_second(facts.now)),
            // All that is there arrived later; up to ten minutes earlier, where that is as long ago as the retention.
            StartAt::At(time) if !facts.keeps(time) => Position::START,
            StartAt::At(time) => Position::before(time),
        })
    }

    async fn read(&self, shard: &ShardId, after: Position, bytes_max: usize) -> Result<Read, Error> {
        let mut read = self.read_shard(shard, after, bytes_max).await?;
        // What the caller has said itself is no news; of a time to come it says that nothing is wanted before.
        let now = self.stream.facts().now;
        let is_news = |until: &Timestamp| Some(*until) != after.complete_until() || *until > now;
        read.complete_until = read.complete_until.filter(is_news);
        Ok(read)
    }
}

impl KinesisSource {
    async fn read_shard(&self, shard: &ShardId, after: Position, bytes_max: usize) -> Result<Read, Error> {
        if after == Position::SHARD_END {
            // Nothing will ever come, and asking would only be refused.
            lock(&self.readers).remove(shard);
            return Ok(Read { ended: true, ..nothing() });
        }
        match self.knows(shard).await? {
            Some(true) => {}
            Some(false) => return Err(self.no_such_shard(shard)),
            None => return Ok(nothing()),
        }
        let now = Instant::now();
        let reader = self.reader(shard, now);
        let step = lock(&reader).step(&self.stream, after, bytes_max, now)?;
        let ready = match step {
            Step::Read(read) if !read.events.is_empty() => return Ok(read),
            Step::Read(read) => {
                self.relieve(now);
                return Ok(read);
            }
            Step::Wait(ready) => ready,
        };
        self.relieve(now);
        // Whether it came or not is seen in the next step.
        let _ = tokio::time::timeout(WAIT_MAX, ready.notified()).await;
        let mut reader = lock(&reader);
        match reader.step(&self.stream, after, bytes_max, Instant::now())? {
            Step::Read(read) => Ok(read),
            Step::Wait(_) => Ok(reader.nothing_yet()),
        }
    }
}

fn nothing() -> Read {
    Read { events: Vec::new(), behind_latest: Duration::ZERO, ended: false, complete_until: None }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
