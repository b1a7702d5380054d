//! Both sides of the Kinesis adapter, and the consumer between, on a line that loses requests and answers, throttles,
//! and fails records: nothing is lost, nothing is doubled in the lake, and each key keeps its order.
//!
//! A producer that hears nothing sends again, so the stream may hold an event twice. The lake holds what the stream
//! holds, each of its events once; the two carry one event id.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use harness::faulty_http::FaultyHttp;
use harness::kinesis::Server;
use harness::process::Workplace;
use headwater_common::clock::{Clock, SystemClock};
use headwater_common::retry::Policy;
use headwater_consumer::driver::{Consumer, Progress, SEAL_WAIT_DEFAULT, Until};
use headwater_consumer::pipeline::Pipeline;
use headwater_consumer::policy::Limits;
use headwater_lake::generation::{self, Generation, StreamFacts};
use headwater_lake::store::LakeStore;
use headwater_stream::kinesis::kpl;
use headwater_stream::kinesis::sink::{KinesisSink, SinkOptions};
use headwater_stream::kinesis::source::{KinesisSource, SourceOptions};
use headwater_stream::{Put, Sink, Source, StartAt};
use serde_json::Value;
use tokio::sync::watch;

use crate::PROGRAM;

const SEED: u64 = 20_261_121;
/// So many of the requests meet a fault.
const SHARE: f64 = 0.3;
const EVENTS_A_ROUND: u64 = 1_000;
const BATCH: u64 = 250;
const KEYS: u64 = 31;
/// Rounds until each kind of fault was met.
const ROUNDS_MAX: u64 = 30;
/// Some forty events.
const AGGREGATE_BYTES: usize = 4 * 1024;
const EVENTS_AN_EPOCH: u64 = 170;

/// Pauses of the lake, which has no trouble here.
const QUICK: Policy =
    Policy { tries_max: 20, pause_first: Duration::from_micros(1), pause_max: Duration::from_micros(1) };

/// Where an event is in the stream, as the lake says it: shard, number padded with zeros, place in its record.
type Place = (String, String, u64);

struct World {
    server: Server,
    place: Workplace,
}

fn event(n: u64) -> Put {
    Put {
        partition_key: format!("key {}", n % KEYS).into(),
        payload: format!(r#"{{"n":{n},"key":"key {}","_event_id":"event {n}"}}"#, n % KEYS).into(),
    }
}

fn clock() -> Arc<dyn Clock> {
    Arc::new(SystemClock)
}

impl World {
    async fn new(shards: i32) -> Self {
        let server = Server::start().await;
        server.create_stream("s", shards).await;
        Self { server, place: Workplace::new(PROGRAM) }
    }

    async fn sink(&self, http: &FaultyHttp, aggregate: bool) -> KinesisSink {
        let aggregate_bytes = aggregate.then_some(AGGREGATE_BYTES);
        let options = SinkOptions { aggregate_bytes, ..SinkOptions::default() };
        KinesisSink::start(self.server.client_through(http.clone()), "s", options, SEED).await.unwrap()
    }

    async fn source(&self, http: &FaultyHttp, fan_out: Option<&str>) -> Arc<dyn Source> {
        let options = SourceOptions { fan_out: fan_out.map(str::to_owned) };
        let client = self.server.client_through(http.clone());
        Arc::new(KinesisSource::open(client, "s", clock(), options).await.unwrap())
    }

    /// Puts events until each kind of fault was met, and returns how many.
    async fn put(&self, http: &FaultyHttp, aggregate: bool) -> u64 {
        let sink = self.sink(http, aggregate).await;
        let mut sent = 0;
        for round in 0..ROUNDS_MAX {
            if round > 0 && http.has_done_all(&["PutRecords"]) {
                break;
            }
            for _ in 0..EVENTS_A_ROUND / BATCH {
                let accepted = sink.put((sent..sent + BATCH).map(event).collect()).await.unwrap();
                assert_eq!(accepted.positions.len() as u64, BATCH);
                assert!(accepted.rejected.is_empty(), "the stream would take them: {:?}", accepted.rejected);
                sent += BATCH;
            }
        }
        http.assert_all_happened(&["PutRecords"]);
        sent
    }

    /// Consumes all there is, as a fresh process would.
    async fn consume(&self, source: Arc<dyn Source>) {
        let mut start = BTreeMap::new();
        for shard in source.shards().await.unwrap() {
            let position = source.resolve(&shard.id, StartAt::TrimHorizon).await.unwrap();
            start.insert(shard.id, position);
        }
        let facts = StreamFacts {
            identity: source.identity().0,
            sequence_digits: source.sequence_digits(),
            gap_free: source.is_gap_free(),
            start,
        };
        let pipeline = Pipeline::default();
        let wanted = Generation::first(pipeline.canonical(), pipeline.hash(), pipeline.partition_by.clone(), 2, facts);
        let store = LakeStore::on_disk(&self.place.path("lake")).unwrap();
        let generation = generation::open_or_create(&store, &"t".parse().unwrap(), wanted).await.unwrap();
        let consumer = Consumer {
            source,
            generation: Arc::new(generation),
            pipeline,
            limits: Limits { rows: EVENTS_AN_EPOCH, ..Limits::default() },
            spill_folder: std::env::temp_dir(),
            until: Until::CaughtUp,
            recorded: None,
            clock: clock(),
            retry: QUICK,
            seed: SEED,
            seal_wait: SEAL_WAIT_DEFAULT,
            progress: Arc::new(Progress::default()),
        };
        let (_keep, shutdown) = watch::channel(false);
        consumer.run(shutdown).await.unwrap();
    }

    /// Returns the events of the stream, those in aggregates one by one, in the order of each shard.
    async fn in_stream(&self) -> Vec<(Place, Bytes)> {
        let mut found = Vec::new();
        for record in self.server.read_all("s").await {
            let payload = Bytes::from(record.payload);
            let events = kpl::split(&payload).map_or_else(
                |_| vec![payload.clone()],
                |users| users.into_iter().map(|user| user.payload).collect::<Vec<_>>(),
            );
            let sequence = format!("{:0>56}", record.sequence);
            for (index, event) in events.into_iter().enumerate() {
                found.push(((record.shard.clone(), sequence.clone(), index as u64), event));
            }
        }
        found
    }

    /// Asserts that the lake has each event of the stream once, and all that were sent.
    async fn check(&self, sent: u64) {
        let in_stream = self.in_stream().await;
        let question = "SELECT _shard, _sequence, _sub_sequence, _event_id FROM t";
        let rows = self.place.rows(question, "lake");
        let mut in_lake: Vec<(Place, String)> = rows.iter().map(row).collect();
        let mut expected: Vec<(Place, String)> =
            in_stream.into_iter().filter_map(|(place, event)| Some((place, id_of(&event)?))).collect();
        in_lake.sort();
        expected.sort();
        assert!(in_lake == expected, "{} rows for {} events of the stream", in_lake.len(), expected.len());
        let ids: BTreeSet<&String> = in_lake.iter().map(|(_, id)| id).collect();
        assert_eq!(ids.len() as u64, sent, "nothing is lost");
        println!("{} events sent, {} in the stream and in the lake", sent, in_lake.len());
        self.place.ok(&["verify", "--full", "--from-beginning", "--lake", "lake"]);
    }
}

fn row(row: &Value) -> (Place, String) {
    let text = |field: &str| row[field].as_str().unwrap().to_owned();
    ((text("_shard"), text("_sequence"), row["_sub_sequence"].as_u64().unwrap()), text("_event_id"))
}

fn id_of(event: &[u8]) -> Option<String> {
    let event: Value = serde_json::from_slice(event).ok()?;
    Some(event["_event_id"].as_str()?.to_owned())
}

/// Asserts that each event of a key comes first behind all that were put before it; what was sent again may follow
/// anywhere.
fn check_order(in_stream: &[(Place, Bytes)]) {
    let mut last: BTreeMap<String, u64> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for (place, event) in in_stream {
        let event: Value = serde_json::from_slice(event).unwrap();
        let (n, key) = (event["n"].as_u64().unwrap(), event["key"].as_str().unwrap().to_owned());
        if seen.insert(n) {
            let before = last.insert(key, n);
            assert!(before.is_none_or(|before| before < n), "{n} comes behind {before:?} at {place:?}");
        }
    }
}

async fn puts_under_faults(seed: u64, aggregate: bool) {
    let world = World::new(3).await;
    let http = FaultyHttp::new(seed, SHARE);
    let sent = world.put(&http, aggregate).await;
    let in_stream = world.in_stream().await;
    check_order(&in_stream);
    let ids: BTreeSet<_> = in_stream.iter().filter_map(|(_, event)| id_of(event)).collect();
    assert_eq!(ids.len() as u64, sent, "nothing is lost");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fm16_fm17_fm18_partial_failures_and_lost_answers_keep_every_event_and_each_keys_order() {
    puts_under_faults(SEED, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fm16_fm17_fm18_the_same_holds_for_aggregates() {
    puts_under_faults(SEED + 1, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fm10_fm15_expired_iterators_throttles_and_lost_answers_neither_lose_nor_double_an_event() {
    let (clean, http) = (FaultyHttp::new(SEED, 0.0), FaultyHttp::new(SEED + 2, SHARE));
    let world = World::new(3).await;
    let mut sent = 0;
    for round in 0..ROUNDS_MAX {
        if round > 1 && http.has_done_all(&["GetRecords"]) {
            break;
        }
        // Every other time as aggregates, which epochs end in the middle of.
        let sink = world.sink(&clean, round % 2 == 0).await;
        sink.put((sent..sent + EVENTS_A_ROUND).map(event).collect()).await.unwrap();
        sent += EVENTS_A_ROUND;
        world.consume(world.source(&http, None).await).await;
    }
    http.assert_all_happened(&["GetRecords"]);
    world.check(sent).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fm05_fm06_fm08_subscriptions_that_break_lose_nothing_while_the_stream_is_split_and_merged() {
    let (clean, http) = (FaultyHttp::new(SEED, 0.0), FaultyHttp::new(SEED + 3, SHARE));
    let options = ferrokinesis_with_short_subscriptions();
    let server = Server::start_with(options).await;
    server.create_stream("s", 2).await;
    let world = World { server, place: Workplace::new(PROGRAM) };
    let mut sent = 0;
    for shards in [2, 4, 3, 1] {
        world.server.reshard("s", shards).await;
        let sink = world.sink(&clean, false).await;
        sink.put((sent..sent + EVENTS_A_ROUND).map(event).collect()).await.unwrap();
        sent += EVENTS_A_ROUND;
        world.consume(world.source(&http, Some("reader")).await).await;
    }
    let happened = http.happened();
    assert!(happened.keys().any(|(operation, _)| operation == "SubscribeToShard"), "{happened:?}");
    world.check(sent).await;
}

/// Subscriptions end after a second, and an event has few records.
fn ferrokinesis_with_short_subscriptions() -> ferrokinesis::store::StoreOptions {
    ferrokinesis::store::StoreOptions {
        subscribe_to_shard_event_record_limit: 100,
        subscribe_to_shard_session_ms: 1_000,
        ..harness::kinesis::quick()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fm04_an_aggregate_whose_digest_is_wrong_is_a_dead_letter_with_all_its_bytes() {
    let (clean, http) = (FaultyHttp::new(SEED, 0.0), FaultyHttp::new(SEED + 4, SHARE));
    let world = World::new(1).await;
    let sink = world.sink(&clean, true).await;
    sink.put((0..EVENTS_A_ROUND).map(event).collect()).await.unwrap();
    let mut aggregate = kpl::Aggregate::new();
    aggregate.push(Bytes::from_static(b"k"), None, Bytes::from_static(b"{\"n\":1}")).unwrap();
    let mut broken = aggregate.finish().to_vec();
    *broken.last_mut().unwrap() ^= 1;
    world.server.put("s", "k", broken.clone()).await;
    sink.put((EVENTS_A_ROUND..2 * EVENTS_A_ROUND).map(event).collect()).await.unwrap();
    world.consume(world.source(&http, None).await).await;
    world.check(2 * EVENTS_A_ROUND).await;
    let letters = world.place.rows("SELECT reason, encode(\"rawData\", 'hex') AS bytes FROM t__dead_letters", "lake");
    let [letter] = letters.as_slice() else { panic!("{} dead letters", letters.len()) };
    let hexadecimal: String = broken.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(letter["bytes"], hexadecimal);
    assert!(["parse", "aggregation"].contains(&letter["reason"].as_str().unwrap()), "{letter}");
}
