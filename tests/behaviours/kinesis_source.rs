//! Kinesis is read right: through splits and merges, from the middle of an aggregate, when iterators expire, and by
//! enhanced fan-out as by polling.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ferrokinesis::store::StoreOptions;
use harness::kinesis::{Server, quick};
use headwater_common::clock::{Clock, SystemClock};
use headwater_common::event::Event;
use headwater_common::position::{Position, ShardId};
use headwater_stream::kinesis::kpl::Aggregate;
use headwater_stream::kinesis::source::{KinesisSource, SourceOptions};
use headwater_stream::{Source, StartAt};

const READ_BYTES: usize = 1 << 20;

/// How long a reader pauses after a read.
const PAUSE: Duration = Duration::from_millis(2);

/// When a test has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// The first shard of every stream.
const FIRST: &str = "shardId-000000000000";

async fn open(server: &Server, fan_out: Option<&str>) -> KinesisSource {
    let options = SourceOptions { fan_out: fan_out.map(str::to_owned) };
    KinesisSource::open(server.client(), "s", Arc::new(SystemClock), options).await.unwrap()
}

/// Reads on until `enough` says so of all events, or the shard ends; returns true then.
async fn read_on(
    source: &KinesisSource,
    shard: &ShardId,
    events: &mut Vec<Event>,
    enough: impl Fn(&[Event]) -> bool,
) -> bool {
    let reading = async {
        while !enough(events) {
            let after = events.last().map_or(Position::START, |last| last.position);
            let read = source.read(shard, after, READ_BYTES).await.unwrap();
            assert!(read.events.first().is_none_or(|first| first.position > after), "nothing comes twice");
            events.extend(read.events);
            if read.ended {
                return true;
            }
            tokio::time::sleep(PAUSE).await;
        }
        false
    };
    tokio::time::timeout(PATIENCE, reading).await.expect("it comes")
}

/// Up to where a reader goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum To {
    /// What there is when it is asked; the shard does not end before.
    Tip,
    /// The end of a closed shard.
    End,
}

/// Reads everything after a position.
async fn drain(source: &KinesisSource, shard: &ShardId, mut after: Position, to: To) -> Vec<Event> {
    let asked_at = SystemClock.now();
    let mut events = Vec::new();
    let reading = async {
        loop {
            let read = source.read(shard, after, READ_BYTES).await.unwrap();
            events.extend(read.events);
            after = events.last().map_or(after, |last: &Event| last.position);
            assert!(!read.ended || to == To::End, "the shard is open");
            if read.ended || to == To::Tip && read.complete_until.is_some_and(|time| time >= asked_at) {
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    tokio::time::timeout(PATIENCE, reading).await.expect("it comes to the end");
    events
}

fn texts(events: &[Event]) -> Vec<String> {
    events.iter().map(|event| String::from_utf8_lossy(&event.payload).into_owned()).collect()
}

async fn put_some(server: &Server, name: &str) {
    for n in 0..20 {
        server.put("s", &format!("key {n}"), format!("{name} {n:02}")).await;
    }
}

fn some(name: &str) -> BTreeSet<String> {
    (0..20).map(|n| format!("{name} {n:02}")).collect()
}

fn aggregate(payloads: &[&'static str]) -> Vec<u8> {
    let mut aggregate = Aggregate::new();
    for payload in payloads {
        aggregate.push(Bytes::from_static(b"user"), None, Bytes::from_static(payload.as_bytes())).unwrap();
    }
    aggregate.finish().to_vec()
}

#[tokio::test]
async fn fm05_closed_shard_is_drained_and_its_children_begin_with_their_first_event() {
    let server = Server::start().await;
    server.create_stream("s", 1).await;
    let source = open(&server, None).await;
    put_some(&server, "before").await;
    server.split("s", FIRST).await;
    put_some(&server, "after").await;
    let shards = source.shards().await.unwrap();
    assert_eq!(shards.iter().map(|shard| shard.parents.len()).collect::<Vec<_>>(), [0, 1, 1]);
    assert_eq!(shards[2].parents, [shards[0].id.clone()]);

    let before = drain(&source, &shards[0].id, Position::START, To::End).await;
    assert_eq!(texts(&before), some("before").into_iter().collect::<Vec<_>>());
    let mut after = BTreeSet::new();
    for child in &shards[1..] {
        let events = drain(&source, &child.id, Position::START, To::Tip).await;
        assert!(!events.is_empty(), "{}", child.id);
        after.extend(texts(&events));
    }
    assert_eq!(after, some("after"));

    // Another reader, that had read some of it.
    let rest = drain(&open(&server, None).await, &shards[0].id, before[12].position, To::End).await;
    assert_eq!(texts(&rest), texts(&before[13..]));
}

#[tokio::test]
async fn fm09_a_merge_names_both_parents_and_begins_behind_them() {
    let server = Server::start().await;
    server.create_stream("s", 2).await;
    let source = open(&server, None).await;
    put_some(&server, "before").await;
    server.merge("s", FIRST, "shardId-000000000001").await;
    put_some(&server, "after").await;
    let shards = source.shards().await.unwrap();
    assert_eq!(shards[2].parents, [shards[0].id.clone(), shards[1].id.clone()]);
    let mut before = BTreeSet::new();
    for parent in &shards[..2] {
        before.extend(texts(&drain(&source, &parent.id, Position::START, To::End).await));
    }
    assert_eq!(before, some("before"));
    let after = drain(&source, &shards[2].id, Position::START, To::Tip).await;
    assert_eq!(texts(&after), some("after").into_iter().collect::<Vec<_>>());
}

#[tokio::test]
async fn fm15_reading_resumes_in_the_middle_of_an_aggregate() {
    let server = Server::start().await;
    server.create_stream("s", 1).await;
    server.put("s", "k", "a").await;
    server.put("s", "k", aggregate(&["b", "c", "d"])).await;
    let mut broken = aggregate(&["never seen"]);
    *broken.last_mut().unwrap() ^= 1;
    server.put("s", "k", broken.clone()).await;
    server.put("s", "k", "e").await;
    let shard = ShardId::from(FIRST);
    let all = drain(&open(&server, None).await, &shard, Position::START, To::Tip).await;
    assert_eq!(all.len(), 6);
    assert_eq!(all[4].payload, broken, "what cannot be taken apart is passed on as it is");
    let places: Vec<_> = all.iter().map(|event| event.position.sub_sequence).collect();
    assert_eq!(places, [0, 0, 1, 2, 0, 0]);
    assert_eq!((all[0].partition_key.as_ref(), all[2].partition_key.as_ref()), (&b"k"[..], &b"user"[..]));
    for (index, event) in all.iter().enumerate() {
        let rest = drain(&open(&server, None).await, &shard, event.position, To::Tip).await;
        assert_eq!(rest, all[index + 1..], "after {}", event.position);
    }
}

#[tokio::test]
async fn fm10_expired_iterators_lose_and_repeat_nothing() {
    // They live about as long as a quiet shard is left alone.
    let server = Server::start_with(StoreOptions { iterator_ttl_seconds: 1, ..quick() }).await;
    server.create_stream("s", 1).await;
    let source = open(&server, None).await;
    let (shard, mut events) = (ShardId::from(FIRST), Vec::new());
    for (round, iterators) in [2, 3].into_iter().enumerate() {
        put_some(&server, &format!("round {round}")).await;
        let wanted = 20 * (round + 1);
        let enough = |events: &[Event]| {
            events.len() >= wanted && server.calls().get("GetShardIterator").is_some_and(|calls| *calls >= iterators)
        };
        read_on(&source, &shard, &mut events, enough).await;
    }
    let expected: Vec<_> = (0..2).flat_map(|round| some(&format!("round {round}"))).collect();
    assert_eq!(texts(&events), expected);
}

#[tokio::test]
async fn fm06_latest_is_for_the_shards_of_the_beginning_and_their_children_begin_with_their_first_event() {
    let server = Server::start().await;
    server.create_stream("s", 1).await;
    put_some(&server, "before").await;
    let source = open(&server, None).await;
    let shard = ShardId::from(FIRST);
    // Arrival times are whole seconds: the next one is certainly later.
    let second = || SystemClock.now().micros().div_euclid(1_000_000);
    let before = second();
    while second() == before {
        tokio::time::sleep(PAUSE).await;
    }
    let latest = source.resolve(&shard, StartAt::Latest).await.unwrap();
    server.put("s", "k", "after").await;
    server.split("s", FIRST).await;
    put_some(&server, "in a child").await;
    assert_eq!(texts(&drain(&source, &shard, latest, To::End).await), ["after"]);
    let mut children = BTreeSet::new();
    for child in &source.shards().await.unwrap()[1..] {
        children.extend(texts(&drain(&source, &child.id, Position::START, To::Tip).await));
    }
    assert_eq!(children, some("in a child"));
}

#[tokio::test]
async fn fan_out_gives_what_polling_gives_through_renewals_and_a_split() {
    let options =
        StoreOptions { subscribe_to_shard_event_record_limit: 7, subscribe_to_shard_session_ms: 1_000, ..quick() };
    let server = Server::start_with(options).await;
    server.create_stream("s", 1).await;
    let source = open(&server, Some("reader")).await;
    let (shard, mut pushed) = (ShardId::from(FIRST), Vec::new());
    put_some(&server, "first").await;
    server.put("s", "k", aggregate(&["x", "y", "z"])).await;
    let renewed = |events: &[Event]| {
        events.len() >= 23 && server.calls().get("SubscribeToShard").is_some_and(|calls| *calls >= 2)
    };
    assert!(!read_on(&source, &shard, &mut pushed, renewed).await);
    put_some(&server, "second").await;
    server.split("s", FIRST).await;
    put_some(&server, "third").await;
    assert!(read_on(&source, &shard, &mut pushed, |_| false).await, "the shard ends");
    assert!(!server.calls().contains_key("GetRecords"));

    let polling = open(&server, None).await;
    let polled = drain(&polling, &shard, Position::START, To::End).await;
    assert_eq!(pushed, polled);
    for child in &source.shards().await.unwrap()[1..] {
        let pushed = drain(&source, &child.id, Position::START, To::Tip).await;
        assert_eq!(pushed, drain(&polling, &child.id, Position::START, To::Tip).await);
        assert!(!pushed.is_empty());
    }

    // Another process takes the consumer that is there, and goes on in the middle of the aggregate.
    let again = open(&server, Some("reader")).await;
    assert_eq!(drain(&again, &shard, polled[20].position, To::End).await, polled[21..]);
    assert_eq!(server.calls().get("RegisterStreamConsumer"), Some(&1));
}
