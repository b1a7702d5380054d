//! What every stream adapter promises, as a suite that each of them passes.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use headwater_common::clock::{Clock, ManualClock};
use headwater_common::event::Event;
use headwater_common::position::{Position, ShardId};
use headwater_common::timestamp::Timestamp;
use headwater_stream::{Error, Put, Read, Sink, Source, StartAt};

/// A fresh stream, both sides of it.
pub struct Stream {
    /// The reading side.
    pub source: Arc<dyn Source>,
    /// The writing side.
    pub sink: Arc<dyn Sink>,
    /// Removes the three oldest of the five events of the only shard.
    pub forget_old: Box<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>,
    /// Whatever must live as long as the stream.
    pub keep: Box<dyn Send + Sync>,
    /// Where it differs from others.
    pub can: Can,
}

/// What streams differ in, as far as the contract leaves it open. Every case runs on every stream.
pub struct Can {
    /// The clock that its arrival times are of, which nobody moves; `None` when that is the suite's.
    pub own_clock: Option<Arc<dyn Clock>>,
    /// Numbers count events from 1: a read without events is the end, and a place before all events can be forgotten.
    /// Where they do not, a read says until when it is complete, and the place before all events is the oldest one's.
    pub counts: bool,
    /// A partition key may be empty.
    pub empty_keys: bool,
}

impl Can {
    /// A stream on this machine: it takes the clock it is given, and counts.
    pub const LOCAL: Self = Self { own_clock: None, counts: true, empty_keys: true };
}

/// When every stream of the suite begins.
pub const START: Timestamp = Timestamp::from_micros(1_000_000_000_000_000);

/// How long what was put may take until it can be read, and what is forgotten until that is noticed.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long a reader pauses after a read without events.
const PAUSE: Duration = Duration::from_millis(2);

/// Runs the suite. `make` gives a fresh stream with so many shards and that clock.
pub async fn suite<F: Future<Output = Stream>>(make: impl Fn(u32, Arc<dyn Clock>) -> F) {
    let fresh = |shards| {
        let clock = Arc::new(ManualClock::at(START));
        let making = make(shards, Arc::clone(&clock) as Arc<dyn Clock>);
        async move { (making.await, clock) }
    };
    reads_what_was_put(fresh(3).await).await;
    keeps_the_order_of_a_key(fresh(4).await).await;
    reads_after_a_position(fresh(1).await).await;
    respects_the_size_of_a_read(fresh(1).await).await;
    finds_places_by_time(fresh(1).await).await;
    never_jumps_silently(fresh(1).await).await;
    knows_its_shards(fresh(5).await).await;
    takes_any_bytes(fresh(1).await).await;
}

type Fresh = (Stream, Arc<ManualClock>);

fn put(key: &str, payload: &str) -> Put {
    Put { partition_key: Bytes::copy_from_slice(key.as_bytes()), payload: Bytes::copy_from_slice(payload.as_bytes()) }
}

impl Stream {
    fn now(&self) -> Timestamp {
        self.can.own_clock.as_ref().map_or(START, |clock| clock.now())
    }

    /// Reads until there is something, or certainly nothing, or an error.
    async fn read(&self, shard: &ShardId, after: Position, bytes_max: usize) -> Result<Read, Error> {
        let asked_at = self.now();
        let reading = async {
            loop {
                let read = self.source.read(shard, after, bytes_max).await?;
                let is_end = self.can.counts || read.ended || read.complete_until.is_some_and(|time| time >= asked_at);
                if is_end || !read.events.is_empty() {
                    return Ok::<Read, Error>(read);
                }
                tokio::time::sleep(PAUSE).await;
            }
        };
        tokio::time::timeout(PATIENCE, reading).await.expect("a read comes to the end of what there is")
    }

    async fn read_events(&self, shard: &ShardId, mut after: Position, bytes_max: usize) -> Vec<Event> {
        let asked_at = self.now();
        let mut seen = Vec::new();
        loop {
            let read = self.read(shard, after, bytes_max).await.unwrap();
            let Some(last) = read.events.last() else {
                return seen;
            };
            assert!(read.events.is_sorted_by_key(|event| event.position), "positions grow");
            assert!(read.events[0].position > after, "nothing comes twice");
            after = last.position;
            seen.extend(read.events);
            if read.complete_until.is_some_and(|time| time >= asked_at) {
                return seen;
            }
        }
    }

    async fn read_all(&self, shard: &ShardId, after: Position, bytes_max: usize) -> Vec<String> {
        let events = self.read_events(shard, after, bytes_max).await;
        events.iter().map(|event| String::from_utf8_lossy(&event.payload).into_owned()).collect()
    }

    /// Lets the clock of arrival times come to another second, which streams tell apart.
    async fn another_second(&self, clock: &ManualClock) {
        let Some(own) = &self.can.own_clock else {
            clock.advance(Duration::from_secs(10));
            return;
        };
        let second = |time: Timestamp| time.micros().div_euclid(1_000_000);
        let before = second(own.now());
        while second(own.now()) == before {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

async fn reads_what_was_put((stream, _): Fresh) {
    let batch: Vec<_> = (0..300).map(|n| put(&format!("key {n}"), &format!("event {n}"))).collect();
    let accepted = stream.sink.put(batch.clone()).await.unwrap();
    assert_eq!(accepted.positions.len(), batch.len());
    let mut found = BTreeMap::new();
    for shard in stream.source.shards().await.unwrap() {
        for payload in stream.read_all(&shard.id, Position::START, 1 << 20).await {
            *found.entry(payload).or_insert(0) += 1;
        }
    }
    let expected: BTreeMap<_, _> = (0..300).map(|n| (format!("event {n}"), 1)).collect();
    assert_eq!(found, expected);
}

async fn keeps_the_order_of_a_key((stream, _): Fresh) {
    for round in 0..5 {
        let batch = (0..40).map(|n| put(&format!("key {}", n % 7), &format!("{} {round} {n:02}", n % 7))).collect();
        stream.sink.put(batch).await.unwrap();
    }
    for shard in stream.source.shards().await.unwrap() {
        let seen = stream.read_all(&shard.id, Position::START, 100).await;
        for key in 0..7 {
            let of_key: Vec<_> = seen.iter().filter(|payload| payload.starts_with(&format!("{key} "))).collect();
            assert!(of_key.is_sorted(), "{of_key:?}");
        }
    }
}

async fn reads_after_a_position((stream, _): Fresh) {
    let accepted = stream.sink.put((0..10).map(|n| put("k", &n.to_string())).collect()).await.unwrap();
    for (index, (shard, position)) in accepted.positions.iter().enumerate() {
        let rest = stream.read_all(shard, *position, 1 << 20).await;
        let expected: Vec<_> = (index + 1..10).map(|n| n.to_string()).collect();
        assert_eq!(rest, expected);
    }
    let (shard, last) = accepted.positions.last().unwrap();
    assert!(stream.read(shard, *last, 100).await.unwrap().events.is_empty(), "the end is no error");
}

async fn respects_the_size_of_a_read((stream, _): Fresh) {
    stream.sink.put((0..10).map(|_| put("k", &"x".repeat(100))).collect()).await.unwrap();
    let shard = stream.source.shards().await.unwrap()[0].id.clone();
    let read = stream.read(&shard, Position::START, 350).await.unwrap();
    assert!((1..=3).contains(&read.events.len()), "{}", read.events.len());
    let read = stream.read(&shard, Position::START, 1).await.unwrap();
    assert_eq!(read.events.len(), 1, "an event larger than the read still comes");
}

async fn finds_places_by_time((stream, clock): Fresh) {
    let source = stream.source.as_ref();
    for n in 0..5 {
        stream.sink.put(vec![put("k", &n.to_string())]).await.unwrap();
        stream.another_second(&clock).await;
    }
    let shard = source.shards().await.unwrap()[0].id.clone();
    let oldest = source.resolve(&shard, StartAt::TrimHorizon).await.unwrap();
    let events = stream.read_events(&shard, oldest, 1 << 20).await;
    let arrived: Vec<_> = events.iter().map(|event| event.arrived_at).collect();
    assert_eq!(arrived.len(), 5);
    if stream.can.own_clock.is_none() {
        let every_ten_seconds = (0..5).map(|n| START.plus(Duration::from_secs(n * 10)));
        assert!(arrived.iter().copied().eq(every_ten_seconds), "{arrived:?}");
    }
    let from = async |at| {
        let position = source.resolve(&shard, at).await.unwrap();
        stream.read_all(&shard, position, 1 << 20).await.join(" ")
    };
    assert_eq!(from(StartAt::TrimHorizon).await, "0 1 2 3 4");
    assert_eq!(from(StartAt::Latest).await, "");
    assert_eq!(from(StartAt::At(arrived[0])).await, "0 1 2 3 4");
    assert_eq!(from(StartAt::At(arrived[2])).await, "2 3 4");
    assert_eq!(from(StartAt::At(arrived[2].plus(Duration::from_secs(1)))).await, "3 4");
    assert_eq!(from(StartAt::At(arrived[4].plus(Duration::from_secs(999)))).await, "");
    let latest = source.resolve(&shard, StartAt::Latest).await.unwrap();
    stream.sink.put(vec![put("k", "later")]).await.unwrap();
    assert_eq!(stream.read_all(&shard, latest, 1 << 20).await, ["later"], "the place stays where it was");
}

/// FM11: a checkpoint that is older than retention is a loud error.
async fn never_jumps_silently((stream, clock): Fresh) {
    let source = stream.source.as_ref();
    let mut positions = Vec::new();
    for n in 0..5 {
        let accepted = stream.sink.put(vec![put("k", &n.to_string())]).await.unwrap();
        positions.extend(accepted.positions.into_iter().map(|(_, position)| position));
        clock.advance(Duration::from_secs(10));
    }
    (stream.forget_old)().await;
    let shard = source.shards().await.unwrap()[0].id.clone();
    let mut gone = vec![positions[0], positions[1]];
    gone.extend(stream.can.counts.then_some(Position::START));
    for after in gone {
        let error = stream.read(&shard, after, 100).await.unwrap_err();
        assert!(matches!(error, Error::Expired { .. }), "{after}: {error}");
    }
    let oldest = source.resolve(&shard, StartAt::TrimHorizon).await.unwrap();
    assert_eq!(stream.read_all(&shard, oldest, 100).await, ["3", "4"], "what is left can be read");
    let never = Position::of_record(1_000_000.into());
    let error = stream.read(&shard, never, 100).await.unwrap_err();
    assert!(matches!(error, Error::Ahead { .. } | Error::ForeignPosition { .. }), "{error}");
}

async fn knows_its_shards((stream, _): Fresh) {
    let shards = stream.source.shards().await.unwrap();
    assert_eq!(shards.len(), 5);
    assert_eq!(shards[0].first_hash_key, 0);
    assert!(shards.is_sorted_by_key(|shard| shard.first_hash_key));
    let error = stream.read(&ShardId::from("no such shard"), Position::START, 100).await.unwrap_err();
    assert!(matches!(error, Error::NoSuchShard { .. }), "{error}");
}

async fn takes_any_bytes((stream, _): Fresh) {
    let payloads: Vec<Vec<u8>> = vec![vec![], vec![0], (0..=255).collect(), vec![b'x'; 100_000]];
    let key = Bytes::from_static(if stream.can.empty_keys { b"" } else { b"k" });
    let puts = payloads.iter().map(|payload| Put { partition_key: key.clone(), payload: payload.clone().into() });
    stream.sink.put(puts.collect()).await.unwrap();
    let shard = stream.source.shards().await.unwrap()[0].id.clone();
    let read = stream.read(&shard, Position::START, 1 << 20).await.unwrap();
    let found: Vec<Vec<u8>> = read.events.iter().map(|event| event.payload.to_vec()).collect();
    assert_eq!(found, payloads);
}
