//! What becomes of a worker while its lease table does not answer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use harness::lease_contract;
use headwater_common::clock::SystemClock;
use headwater_common::outcome::{Again, Effect};
use headwater_common::retry::Policy;
use headwater_consumer::driver::{Consumer, Progress, SEAL_WAIT_DEFAULT, Until};
use headwater_consumer::lease::row::{LeaseKey, Row};
use headwater_consumer::lease::store::{MemoryLeases, Outcome};
use headwater_consumer::lease::{Claim, Error, LeaseStore, Leases, Timing};
use headwater_consumer::pipeline::Pipeline;
use headwater_consumer::policy::Limits;
use headwater_lake::generation::{self, Generation, StreamFacts};
use headwater_lake::layout::Output;
use headwater_lake::reading;
use headwater_lake::store::LakeStore;
use headwater_lake::verify::{self, Options};
use headwater_stream::memory::MemoryLog;
use headwater_stream::{Put, Sink, Source, StartAt};
use object_store::memory::InMemory;
use tokio::sync::watch;

use crate::leases::until;

const SEED: u64 = 20_261_121;

#[tokio::test]
async fn lanes_end_with_their_leases_when_the_lease_table_does_not_answer_and_go_on_when_it_does() {
    let leases = Arc::new(Unreachable::default());
    let log = MemoryLog::new("events", 4, Arc::new(SystemClock));
    let lake = LakeStore::on_store(Arc::new(InMemory::new()));
    let table = "t".parse().unwrap();
    let description = description(&log, 2).await;
    let open = generation::open_or_create(&lake, &table, description).await.unwrap();
    let put = async |numbers: std::ops::Range<u64>| {
        let put = |n| Put { partition_key: format!("key {n}").into(), payload: format!(r#"{{"n":{n}}}"#).into() };
        log.put(numbers.map(put).collect()).await.unwrap();
    };
    let rows = async || reading::totals(&open, Output::Events).await.map_or(0, |totals| totals.rows);
    let until_rows = async |expected: u64| {
        until(async || {
            let found = rows().await;
            (found == expected).then_some(()).ok_or(format!("{found} rows instead of {expected}"))
        })
        .await;
    };
    let consumer = Consumer {
        source: Arc::new(log.clone()),
        generation: Arc::new(open.clone()),
        pipeline: Pipeline::default(),
        limits: Limits { idle: Duration::from_millis(20), ..Limits::default() },
        spill_folder: std::env::temp_dir(),
        until: Until::Forever,
        recorded: None,
        clock: Arc::new(SystemClock),
        retry: Policy::STORE,
        seed: SEED,
        seal_wait: SEAL_WAIT_DEFAULT,
        progress: Arc::new(Progress::default()),
    };
    let timing = Timing { duration: Duration::from_secs(2), hand_over: Duration::from_secs(2) };
    let worker = lease_contract::worker("one");
    let shared = Leases { store: Arc::clone(&leases) as Arc<dyn LeaseStore>, worker, max_leases: 9, timing };
    let (stop, stopped) = watch::channel(false);
    let running = tokio::spawn(consumer.share(shared, stopped));
    put(0..100).await;
    until_rows(100).await;
    leases.is_down.store(true, Ordering::SeqCst);
    // The leases last for a while yet, and so do the lanes.
    put(100..200).await;
    until_rows(200).await;
    // Two durations on, whoever could reach the table would have taken the lanes.
    tokio::time::sleep(2 * timing.duration).await;
    put(200..300).await;
    tokio::time::sleep(timing.duration / 2).await;
    assert_eq!(rows().await, 200, "a lane that may be another's is left alone");
    leases.is_down.store(false, Ordering::SeqCst);
    until_rows(300).await;
    stop.send(true).unwrap();
    running.await.unwrap().unwrap();
    let report = verify::verify(&open, Options { full: true, from_beginning: true }).await.unwrap();
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    assert_eq!(report.account.read, 300);
    let left = leases.inner.read(&[lease_key("0of2"), lease_key("1of2")]).await.unwrap();
    assert!(left.len() == 2 && left.iter().all(|row| row.claim.owner.is_none()), "released: {left:?}");
}

fn lease_key(lane: &str) -> LeaseKey {
    format!("v1/t/g00001/{lane}").parse().unwrap()
}

/// Leases in memory behind a line that can be cut.
#[derive(Debug, Default)]
struct Unreachable {
    inner: MemoryLeases,
    is_down: AtomicBool,
}

impl Unreachable {
    fn line(&self) -> Result<&MemoryLeases, Error> {
        if !self.is_down.load(Ordering::SeqCst) {
            return Ok(&self.inner);
        }
        Err(Error::Store {
            place: self.place(),
            operation: "any",
            hint: None,
            effect: Effect::Unknown,
            again: Again::MayHelp,
            source: "the line is cut".into(),
        })
    }
}

#[async_trait]
impl LeaseStore for Unreachable {
    fn place(&self) -> String {
        self.inner.place()
    }

    async fn keys(&self, prefix: &str) -> Result<Vec<String>, Error> {
        self.line()?.keys(prefix).await
    }

    async fn read(&self, keys: &[LeaseKey]) -> Result<Vec<Row>, Error> {
        self.line()?.read(keys).await
    }

    async fn create(&self, row: &Row) -> Result<Outcome, Error> {
        self.line()?.create(row).await
    }

    async fn update(&self, expected: &Claim, row: &Row) -> Result<Outcome, Error> {
        self.line()?.update(expected, row).await
    }

    async fn delete(&self, key: &LeaseKey, expected: &Claim) -> Result<Outcome, Error> {
        self.line()?.delete(key, expected).await
    }
}

async fn description(log: &MemoryLog, lanes: u32) -> Generation {
    let mut start = BTreeMap::new();
    for shard in log.shards().await.unwrap() {
        start.insert(shard.id.clone(), log.resolve(&shard.id, StartAt::TrimHorizon).await.unwrap());
    }
    let (identity, sequence_digits) = (log.identity().0, log.sequence_digits());
    let pipeline = Pipeline::default();
    let facts = StreamFacts { identity, sequence_digits, gap_free: true, start };
    Generation::first(pipeline.canonical(), pipeline.hash(), pipeline.partition_by.clone(), lanes, facts)
}
