//! What every stream adapter promises, as a suite that each of them passes.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use headwater_common::clock::{Clock, ManualClock};
use headwater_common::position::{Position, ShardId};
use headwater_common::timestamp::Timestamp;
use headwater_stream::{Error, Put, Sink, Source, StartAt};

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
}

/// When every stream of the suite begins.
pub const START: Timestamp = Timestamp::from_micros(1_000_000_000_000_000);

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

async fn read_all(source: &dyn Source, shard: &ShardId, mut after: Position, bytes_max: usize) -> Vec<String> {
    let mut seen = Vec::new();
    loop {
        let read = source.read(shard, after, bytes_max).await.unwrap();
        let Some(last) = read.events.last() else {
            return seen;
        };
        assert!(read.events.is_sorted_by_key(|event| event.position), "positions grow");
        assert!(read.events[0].position > after, "nothing comes twice");
        after = last.position;
        seen.extend(read.events.iter().map(|event| String::from_utf8_lossy(&event.payload).into_owned()));
    }
}

async fn reads_what_was_put((stream, _): Fresh) {
    let batch: Vec<_> = (0..300).map(|n| put(&format!("key {n}"), &format!("event {n}"))).collect();
    let accepted = stream.sink.put(batch.clone()).await.unwrap();
    assert_eq!(accepted.positions.len(), batch.len());
    let mut found = BTreeMap::new();
    for shard in stream.source.shards().await.unwrap() {
        for payload in read_all(stream.source.as_ref(), &shard.id, Position::START, 1 << 20).await {
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
        let seen = read_all(stream.source.as_ref(), &shard.id, Position::START, 100).await;
        for key in 0..7 {
            let of_key: Vec<_> = seen.iter().filter(|payload| payload.starts_with(&format!("{key} "))).collect();
            assert!(of_key.is_sorted(), "{of_key:?}");
        }
    }
}

async fn reads_after_a_position((stream, _): Fresh) {
    let accepted = stream.sink.put((0..10).map(|n| put("k", &n.to_string())).collect()).await.unwrap();
    for (index, (shard, position)) in accepted.positions.iter().enumerate() {
        let rest = read_all(stream.source.as_ref(), shard, *position, 1 << 20).await;
        let expected: Vec<_> = (index + 1..10).map(|n| n.to_string()).collect();
        assert_eq!(rest, expected);
    }
    let (shard, last) = accepted.positions.last().unwrap();
    assert!(stream.source.read(shard, *last, 100).await.unwrap().events.is_empty(), "the end is no error");
}

async fn respects_the_size_of_a_read((stream, _): Fresh) {
    stream.sink.put((0..10).map(|_| put("k", &"x".repeat(100))).collect()).await.unwrap();
    let shard = stream.source.shards().await.unwrap()[0].id.clone();
    let read = stream.source.read(&shard, Position::START, 350).await.unwrap();
    assert!((1..=3).contains(&read.events.len()), "{}", read.events.len());
    let read = stream.source.read(&shard, Position::START, 1).await.unwrap();
    assert_eq!(read.events.len(), 1, "an event larger than the read still comes");
}

async fn finds_places_by_time((stream, clock): Fresh) {
    let source = stream.source.as_ref();
    for n in 0..5 {
        stream.sink.put(vec![put("k", &n.to_string())]).await.unwrap();
        clock.advance(Duration::from_secs(10));
    }
    let shard = source.shards().await.unwrap()[0].id.clone();
    let from = async |at| {
        let position = source.resolve(&shard, at).await.unwrap();
        read_all(source, &shard, position, 1 << 20).await.join(" ")
    };
    assert_eq!(from(StartAt::TrimHorizon).await, "0 1 2 3 4");
    assert_eq!(from(StartAt::Latest).await, "");
    assert_eq!(from(StartAt::At(START)).await, "0 1 2 3 4");
    assert_eq!(from(StartAt::At(START.plus(Duration::from_secs(20)))).await, "2 3 4");
    assert_eq!(from(StartAt::At(START.plus(Duration::from_secs(21)))).await, "3 4");
    assert_eq!(from(StartAt::At(START.plus(Duration::from_secs(999)))).await, "");
}

/// FM11: a checkpoint that is older than retention is a loud error.
async fn never_jumps_silently((stream, clock): Fresh) {
    let source = stream.source.as_ref();
    for n in 0..5 {
        stream.sink.put(vec![put("k", &n.to_string())]).await.unwrap();
        clock.advance(Duration::from_secs(10));
    }
    (stream.forget_old)().await;
    let shard = source.shards().await.unwrap()[0].id.clone();
    let error = source.read(&shard, Position::START, 100).await.unwrap_err();
    assert!(matches!(error, Error::Expired { .. }), "{error}");
    let oldest = source.resolve(&shard, StartAt::TrimHorizon).await.unwrap();
    assert!(!read_all(source, &shard, oldest, 100).await.is_empty(), "what is left can be read");
    let never = Position::of_record(1_000_000.into());
    let error = source.read(&shard, never, 100).await.unwrap_err();
    assert!(matches!(error, Error::Ahead { .. }), "{error}");
}

async fn knows_its_shards((stream, _): Fresh) {
    let shards = stream.source.shards().await.unwrap();
    assert_eq!(shards.len(), 5);
    assert_eq!(shards[0].first_hash_key, 0);
    assert!(shards.is_sorted_by_key(|shard| shard.first_hash_key));
    let error = stream.source.read(&ShardId::from("no such shard"), Position::START, 100).await.unwrap_err();
    assert!(matches!(error, Error::NoSuchShard { .. }), "{error}");
}

async fn takes_any_bytes((stream, _): Fresh) {
    let payloads: Vec<Vec<u8>> = vec![vec![], vec![0], (0..=255).collect(), vec![b'x'; 100_000]];
    let puts = payloads.iter().map(|payload| Put { partition_key: Bytes::new(), payload: payload.clone().into() });
    stream.sink.put(puts.collect()).await.unwrap();
    let shard = stream.source.shards().await.unwrap()[0].id.clone();
    let read = stream.source.read(&shard, Position::START, 1 << 20).await.unwrap();
    let found: Vec<Vec<u8>> = read.events.iter().map(|event| event.payload.to_vec()).collect();
    assert_eq!(found, payloads);
}
