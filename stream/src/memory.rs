//! A stream in memory, for tests and the simulated world. Passes the contract suite like every adapter.
//!
//! A log is of one of three kinds. [`MemoryLog::new`]: numbers without gaps, and the same shards for ever.
//! [`MemoryLog::reshardable`]: shards are split and merged as those of Kinesis are; numbers grow over the whole log.
//! [`MemoryLog::without_numbers`]: besides, it cannot name its newest position, and so begins and ends with times; and
//! it tells a position that retention has passed only as Kinesis can, by the record that should be there.

use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use headwater_common::clock::Clock;
use headwater_common::event::Event;
use headwater_common::hash;
use headwater_common::position::{Position, Sequence, ShardId};
use headwater_common::timestamp::Timestamp;

use crate::{Accepted, Error, Put, Read, Shard, Sink, Source, StartAt, StreamIdentity};

/// A log in memory. Clones share it.
#[derive(Clone)]
pub struct MemoryLog {
    name: String,
    clock: Arc<dyn Clock>,
    kind: Kind,
    state: Arc<Mutex<State>>,
}

/// What a log can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    GapFree,
    Reshardable,
    WithoutNumbers,
}

#[derive(Debug, Default)]
struct State {
    shards: Vec<ShardLog>,
    /// The newest number of a log that has one sequence.
    sequence: u64,
    /// When the newest event of a log that has one sequence arrived.
    newest_arrived_at: Timestamp,
    /// What arrives from now on arrives at this time or later, because somebody was told so.
    promised: Timestamp,
}

#[derive(Debug)]
struct ShardLog {
    hash_keys: RangeInclusive<u128>,
    parents: Vec<ShardId>,
    is_closed: bool,
    is_forgotten: bool,
    /// The newest event that retention removed, and when it arrived.
    trimmed: Option<(Position, Timestamp)>,
    events: Vec<Event>,
}

impl ShardLog {
    fn new(hash_keys: RangeInclusive<u128>, parents: Vec<ShardId>) -> Self {
        Self { hash_keys, parents, is_closed: false, is_forgotten: false, trimmed: None, events: Vec::new() }
    }

    /// Returns the position before the oldest event that is there.
    fn begin(&self) -> Position {
        self.trimmed.map_or(Position::START, |(position, _)| position)
    }

    fn newest(&self) -> Position {
        self.events.last().map_or_else(|| self.begin(), |event| event.position)
    }

    /// Returns the position behind everything that is there.
    fn end(&self) -> Position {
        if self.is_closed { Position::SHARD_END } else { self.newest() }
    }

    fn expired(&self, shard: &ShardId, after: Position) -> Error {
        let next = || Position::of_record((number(self.newest()) + 1).into());
        let oldest = self.events.first().map_or_else(next, |event| event.position);
        Error::Expired { shard: shard.clone(), after, oldest }
    }
}

impl State {
    /// Returns a moment before which everything that arrives has arrived.
    fn promise(&mut self, now: Timestamp) -> Timestamp {
        let after_newest = self.newest_arrived_at.plus(Duration::from_micros(1));
        self.promised = self.promised.max(now).max(after_newest);
        self.promised
    }

    fn add(&mut self, hash_keys: RangeInclusive<u128>, parents: Vec<ShardId>) -> ShardId {
        self.shards.push(ShardLog::new(hash_keys, parents));
        shard_id(self.shards.len() - 1)
    }
}

fn shard_id(index: usize) -> ShardId {
    index.to_string().as_str().into()
}

fn number(position: Position) -> u64 {
    position.sequence.as_u64().unwrap_or(0)
}

impl std::fmt::Debug for MemoryLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryLog").field("name", &self.name).finish_non_exhaustive()
    }
}

impl MemoryLog {
    /// Returns an empty log; `name` is its identity.
    pub fn new(name: &str, shard_count: u32, clock: Arc<dyn Clock>) -> Self {
        Self::of_kind(Kind::GapFree, name, shard_count, clock)
    }

    /// Returns an empty log whose shards can be split and merged.
    pub fn reshardable(name: &str, shard_count: u32, clock: Arc<dyn Clock>) -> Self {
        Self::of_kind(Kind::Reshardable, name, shard_count, clock)
    }

    /// Returns an empty log whose shards can be split and merged, and that has no numbers for where it ends.
    pub fn without_numbers(name: &str, shard_count: u32, clock: Arc<dyn Clock>) -> Self {
        Self::of_kind(Kind::WithoutNumbers, name, shard_count, clock)
    }

    fn of_kind(kind: Kind, name: &str, shard_count: u32, clock: Arc<dyn Clock>) -> Self {
        let first = |index| hash::first_of_slice(index, shard_count);
        let last = |index| if index + 1 == shard_count { u128::MAX } else { first(index + 1) - 1 };
        let shards = (0..shard_count).map(|index| ShardLog::new(first(index)..=last(index), Vec::new())).collect();
        let state = State { shards, ..State::default() };
        Self { name: name.to_owned(), clock, kind, state: Arc::new(Mutex::new(state)) }
    }

    /// Removes the `count` oldest events of a shard, as retention does.
    pub fn trim(&self, shard: u32, count: usize) {
        let mut state = self.lock();
        let log = &mut state.shards[shard as usize];
        if let Some(last) = log.events.drain(..count).next_back() {
            log.trimmed = Some((last.position, last.arrived_at));
        }
    }

    /// Forgets a closed shard, as a stream does when retention has removed all of its events.
    ///
    /// # Panics
    /// When the shard is open.
    pub fn forget(&self, shard: &ShardId) {
        let mut state = self.lock();
        let log = self.shard_mut(&mut state, shard);
        assert!(log.is_closed, "shard {shard} is open");
        log.is_forgotten = true;
        log.events.clear();
    }

    /// Returns the shards that take events, with their hash keys, in the order of these.
    pub fn open_shards(&self) -> Vec<(ShardId, RangeInclusive<u128>)> {
        let state = self.lock();
        let open = state.shards.iter().enumerate().filter(|(_, log)| !log.is_closed);
        let mut open: Vec<_> = open.map(|(index, log)| (shard_id(index), log.hash_keys.clone())).collect();
        open.sort_by_key(|(_, hash_keys)| *hash_keys.start());
        open
    }

    /// Closes a shard and opens two: one for its hash keys below `at`, one for the rest.
    ///
    /// # Panics
    /// When the shard is closed, or `at` is not above its first hash key and among the others.
    pub fn split(&self, shard: &ShardId, at: u128) -> [ShardId; 2] {
        let mut state = self.lock();
        let log = self.shard_mut(&mut state, shard);
        let (first, last) = (*log.hash_keys.start(), *log.hash_keys.end());
        assert!(!log.is_closed && first < at && at <= last, "shard {shard} cannot be split at {at}");
        log.is_closed = true;
        [first..=at - 1, at..=last].map(|hash_keys| state.add(hash_keys, vec![shard.clone()]))
    }

    /// Closes two shards and opens one for the hash keys of both.
    ///
    /// # Panics
    /// When one of them is closed, or the first hash key of the second does not follow the last of the first.
    pub fn merge(&self, one: &ShardId, next: &ShardId) -> ShardId {
        let mut state = self.lock();
        let [one_keys, next_keys] = [one, next].map(|shard| {
            let log = self.shard_mut(&mut state, shard);
            assert!(!log.is_closed, "shard {shard} is closed");
            log.hash_keys.clone()
        });
        assert!(one_keys.end().checked_add(1) == Some(*next_keys.start()), "{one} and {next} are no neighbours");
        for shard in [one, next] {
            self.shard_mut(&mut state, shard).is_closed = true;
        }
        state.add(*one_keys.start()..=*next_keys.end(), vec![one.clone(), next.clone()])
    }

    /// Splits and merges shards until so many equal ones are open.
    pub fn update_shard_count(&self, count: u32) {
        let borders: Vec<_> = (1..count).map(|index| hash::first_of_slice(index, count)).collect();
        for border in &borders {
            let crosses = |hash_keys: &RangeInclusive<u128>| hash_keys.contains(border) && hash_keys.start() != border;
            if let Some((shard, _)) = self.open_shards().into_iter().find(|(_, hash_keys)| crosses(hash_keys)) {
                self.split(&shard, *border);
            }
        }
        let is_superfluous = |pair: &&[(ShardId, RangeInclusive<u128>)]| !borders.contains(pair[1].1.start());
        while let Some(pair) = self.open_shards().windows(2).find(is_superfluous) {
            self.merge(&pair[0].0, &pair[1].0);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shard_mut<'a>(&self, state: &'a mut State, shard: &ShardId) -> &'a mut ShardLog {
        assert!(self.kind != Kind::GapFree, "a log without gaps keeps its shards");
        let index = shard.as_str().parse::<usize>().ok().filter(|index| *index < state.shards.len());
        &mut state.shards[index.expect("the shard is one of this log")]
    }

    fn index_of(&self, shard: &ShardId) -> Result<usize, Error> {
        let state = self.lock();
        let is_there = |index: &usize| state.shards.get(*index).is_some_and(|log| !log.is_forgotten);
        let index = shard.as_str().parse().ok().filter(is_there);
        index.ok_or_else(|| Error::NoSuchShard { url: self.name.clone(), shard: shard.clone() })
    }

    /// Returns how many of the events that are there stand at a position or before it.
    fn skipped(&self, shard: &ShardId, log: &ShardLog, after: Position) -> Result<usize, Error> {
        let (place, time) = (after.unmarked(), after.complete_until());
        let has_numbers = self.kind != Kind::WithoutNumbers;
        if !has_numbers && place == Position::START {
            // The oldest event that is there, or the first that arrived at the time of the mark or later.
            let Some(time) = time else { return Ok(0) };
            if log.trimmed.is_some_and(|(_, arrived_at)| arrived_at >= time) {
                return Err(log.expired(shard, after));
            }
            return Ok(log.events.partition_point(|event| event.arrived_at < time));
        }
        if place > log.newest() {
            return Err(Error::Ahead { shard: shard.clone(), after, newest: log.newest() });
        }
        let is_gone = log.trimmed.is_some_and(|(trimmed, arrived_at)| match has_numbers {
            true => trimmed > place,
            false => trimmed >= place && time.is_none_or(|time| time <= arrived_at),
        });
        if is_gone {
            return Err(log.expired(shard, after));
        }
        Ok(log.events.partition_point(|event| event.position <= place))
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
        self.kind == Kind::GapFree
    }

    async fn shards(&self) -> Result<Vec<Shard>, Error> {
        let state = self.lock();
        let listed = state.shards.iter().enumerate().filter(|(_, log)| !log.is_forgotten);
        let shard = |(index, log): (usize, &ShardLog)| Shard {
            id: shard_id(index),
            first_hash_key: *log.hash_keys.start(),
            parents: log.parents.clone(),
        };
        Ok(listed.map(shard).collect())
    }

    async fn resolve(&self, shard: &ShardId, at: StartAt) -> Result<Position, Error> {
        let (index, now) = (self.index_of(shard)?, self.clock.now());
        let mut state = self.lock();
        if self.kind == Kind::WithoutNumbers {
            return Ok(match at {
                StartAt::TrimHorizon => Position::START,
                StartAt::Latest => Position::before(state.promise(now)),
                StartAt::At(time) => Position::before(time),
            });
        }
        let log = &state.shards[index];
        let skipped = match at {
            StartAt::TrimHorizon => return Ok(log.begin()),
            StartAt::Latest => return Ok(log.end()),
            StartAt::At(time) => log.events.partition_point(|event| event.arrived_at < time),
        };
        Ok(match skipped {
            _ if skipped == log.events.len() => log.end(),
            0 => log.begin(),
            _ => log.events[skipped - 1].position,
        })
    }

    async fn read(&self, shard: &ShardId, after: Position, bytes_max: usize) -> Result<Read, Error> {
        let (index, now) = (self.index_of(shard)?, self.clock.now());
        let mut state = self.lock();
        let log = &state.shards[index];
        let skipped = match after == Position::SHARD_END && log.is_closed {
            true => log.events.len(),
            false => self.skipped(shard, log, after)?,
        };
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
        let is_all = skipped + events.len() == log.events.len();
        let ended = is_all && log.is_closed;
        let is_complete = is_all && !ended && self.kind == Kind::WithoutNumbers;
        let complete_until = is_complete.then(|| state.promise(now));
        Ok(Read { events, behind_latest, ended, complete_until })
    }
}

#[async_trait]
impl Sink for MemoryLog {
    fn url(&self) -> String {
        Source::url(self)
    }

    async fn put(&self, batch: Vec<Put>) -> Result<Accepted, Error> {
        let now = self.clock.now();
        let mut state = self.lock();
        let mut positions = Vec::with_capacity(batch.len());
        for put in batch {
            let hash = hash::of_partition_key(&put.partition_key);
            let takes = |log: &ShardLog| !log.is_closed && log.hash_keys.contains(&hash);
            let index = state.shards.iter().position(takes).expect("the open shards have all hash keys");
            let mut arrived_at = now.max(state.promised).max(state.newest_arrived_at);
            let sequence = match self.kind {
                Kind::GapFree => {
                    let log = &state.shards[index];
                    arrived_at = log.events.last().map_or(now, |last| last.arrived_at.max(now));
                    number(log.newest()) + 1
                }
                Kind::Reshardable | Kind::WithoutNumbers => {
                    state.newest_arrived_at = arrived_at;
                    state.sequence += 1;
                    state.sequence
                }
            };
            let position = Position::of_record(Sequence::from(sequence));
            let Put { partition_key, payload } = put;
            state.shards[index].events.push(Event { position, arrived_at, partition_key, payload });
            positions.push((shard_id(index), position));
        }
        Ok(Accepted { positions, rejected: Vec::new() })
    }
}

#[cfg(test)]
mod tests {
    use headwater_common::clock::ManualClock;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn log(make: fn(&str, u32, Arc<dyn Clock>) -> MemoryLog, shards: u32) -> (MemoryLog, Arc<ManualClock>) {
        let clock = Arc::new(ManualClock::at(Timestamp::from_micros(1_000_000_000)));
        (make("test", shards, Arc::clone(&clock) as Arc<dyn Clock>), clock)
    }

    async fn put(log: &MemoryLog, keys: std::ops::Range<u32>) {
        let one = |key: u32| Put { partition_key: key.to_string().into(), payload: key.to_string().into() };
        log.put(keys.map(one).collect()).await.unwrap();
    }

    #[tokio::test]
    async fn a_split_and_a_merge_close_shards_and_open_others() {
        let (log, _) = log(MemoryLog::reshardable, 1);
        put(&log, 0..50).await;
        let [low, high] = log.split(&"0".into(), 1 << 127);
        put(&log, 50..100).await;
        let merged = log.merge(&low, &high);
        put(&log, 100..150).await;
        let parents: Vec<_> = log.shards().await.unwrap().into_iter().map(|shard| shard.parents).collect();
        assert_eq!(parents, [vec![], vec!["0".into()], vec!["0".into()], vec![low.clone(), high.clone()]]);
        let mut newest = Position::START;
        for (shards, is_closed) in [(vec!["0".into()], true), (vec![low, high], true), (vec![merged], false)] {
            let (mut seen, mut last) = (0, newest);
            for shard in shards {
                let read = log.read(&shard, Position::START, usize::MAX).await.unwrap();
                assert_eq!(read.ended, is_closed, "{shard}");
                assert!(read.events[0].position > newest, "numbers of children are above those of their parents");
                seen += read.events.len();
                last = last.max(read.events[read.events.len() - 1].position);
            }
            assert_eq!(seen, 50);
            newest = last;
        }
        log.forget(&"0".into());
        assert_eq!(log.shards().await.unwrap().len(), 3);
        assert!(matches!(log.read(&"0".into(), Position::START, 1).await, Err(Error::NoSuchShard { .. })));
    }

    #[tokio::test]
    async fn the_count_of_shards_can_be_changed_as_one_likes() {
        let (log, _) = log(MemoryLog::reshardable, 2);
        for count in [4, 8, 3, 5, 1, 7] {
            log.update_shard_count(count);
            let open = log.open_shards();
            assert_eq!(open.len(), count as usize);
            for (index, (_, hash_keys)) in (0..).zip(&open) {
                assert_eq!(*hash_keys.start(), hash::first_of_slice(index, count));
            }
            put(&log, 0..20).await;
        }
    }

    #[tokio::test]
    async fn a_log_without_numbers_begins_and_ends_with_times() {
        let (log, clock) = log(MemoryLog::without_numbers, 1);
        let shard = ShardId::from("0");
        put(&log, 0..3).await;
        let latest = log.resolve(&shard, StartAt::Latest).await.unwrap();
        assert!(latest.unmarked() == Position::START && latest.complete_until().is_some());
        put(&log, 3..5).await;
        let payloads = |read: Read| read.events.iter().map(|event| event.payload.clone()).collect::<Vec<_>>();
        let read = log.read(&shard, latest, 1000).await.unwrap();
        assert!(read.complete_until > latest.complete_until());
        assert_eq!(payloads(read), ["3", "4"]);
        clock.advance(SECOND);
        let first = log.read(&shard, Position::START, 1).await.unwrap();
        assert_eq!((first.events.len(), first.complete_until), (1, None), "there is more");
    }

    #[tokio::test]
    async fn fm11_a_log_without_numbers_resumes_by_the_record_or_by_the_time() {
        let (log, clock) = log(MemoryLog::without_numbers, 1);
        let shard = ShardId::from("0");
        put(&log, 0..3).await;
        let read = log.read(&shard, Position::START, 1000).await.unwrap();
        let (position, time) = (read.events[2].position, read.complete_until.unwrap());
        log.trim(0, 3);
        clock.advance(SECOND);
        put(&log, 3..5).await;
        let error = log.read(&shard, position, 1000).await.unwrap_err();
        assert!(matches!(error, Error::Expired { .. }), "{error}");
        assert_eq!(log.read(&shard, position.marked(time), 1000).await.unwrap().events.len(), 2);
        log.trim(0, 1);
        assert!(log.read(&shard, position.marked(time), 1000).await.is_err(), "one of them is gone");
        assert_eq!(log.read(&shard, Position::START, 1000).await.unwrap().events.len(), 1);
    }
}
