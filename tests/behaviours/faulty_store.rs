//! The whole consumer on a store that loses requests and answers: what is in the lake is right all the same.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use futures::StreamExt;
use harness::faulty_store::{Fate, FaultyStore, sometimes};
use headwater_common::clock::ManualClock;
use headwater_common::retry::Policy;
use headwater_consumer::driver::{Consumer, Error, Progress, SEAL_WAIT_DEFAULT, Until};
use headwater_consumer::pipeline::Pipeline;
use headwater_consumer::policy::Limits;
use headwater_lake::generation::{self, Generation, StreamFacts};
use headwater_lake::layout::{GenerationNumber, Output};
use headwater_lake::reading;
use headwater_lake::store::LakeStore;
use headwater_replay::beginning::Beginning;
use headwater_replay::compare;
use headwater_replay::range::{Since, Until as ReplayUntil};
use headwater_replay::rebuild::{self, Ended, Means, Request};
use headwater_stream::memory::MemoryLog;
use headwater_stream::{Put, Sink, Source, StartAt};
use object_store::ObjectStore;
use tokio::sync::watch;

const SEED: u64 = 20_261_121;
const EVENTS: u64 = 1_000;
const EVENTS_AN_EPOCH: u64 = 100;

/// Pauses without which a test takes as long as a store with trouble.
const QUICK: Policy =
    Policy { tries_max: 20, pause_first: Duration::from_micros(1), pause_max: Duration::from_micros(1) };

struct World {
    log: MemoryLog,
    store: Arc<FaultyStore>,
}

impl World {
    async fn new(store: FaultyStore) -> Self {
        let log = MemoryLog::new("events", 2, Arc::new(ManualClock::at(harness::contract::START)));
        let put = |n| Put {
            partition_key: format!("key {n}").into(),
            payload: format!(r#"{{"n":{n},"text":"event {n}"}}"#).into(),
        };
        log.put((0..EVENTS).map(put).collect()).await.unwrap();
        Self { log, store: Arc::new(store) }
    }

    fn lake(&self) -> LakeStore {
        LakeStore::on_store(Arc::clone(&self.store) as Arc<dyn ObjectStore>)
    }

    /// Consumes all there is, as a fresh process would.
    async fn consume(&self) -> Result<(), Error> {
        let mut start = BTreeMap::new();
        for shard in self.log.shards().await.unwrap() {
            let position = self.log.resolve(&shard.id, StartAt::TrimHorizon).await.unwrap();
            start.insert(shard.id, position);
        }
        let facts = StreamFacts {
            identity: self.log.identity().0,
            sequence_digits: self.log.sequence_digits(),
            gap_free: true,
            start,
        };
        let pipeline = Pipeline::default();
        let wanted = Generation::first(pipeline.canonical(), pipeline.hash(), pipeline.partition_by.clone(), 1, facts);
        let lake_failed = |source| Error::Lake { table: "t".into(), source };
        let table = "t".parse().unwrap();
        let generation = generation::open_or_create(&self.lake(), &table, wanted).await.map_err(lake_failed)?;
        let consumer = Consumer {
            source: Arc::new(self.log.clone()),
            generation: Arc::new(generation),
            pipeline,
            limits: Limits { rows: EVENTS_AN_EPOCH, ..Limits::default() },
            spill_folder: std::env::temp_dir(),
            until: Until::CaughtUp,
            recorded: None,
            clock: Arc::new(ManualClock::at(harness::contract::START)),
            retry: QUICK,
            seed: SEED,
            seal_wait: SEAL_WAIT_DEFAULT,
            progress: Arc::new(Progress::default()),
        };
        let (_keep, shutdown) = watch::channel(false);
        consumer.run(shutdown).await
    }

    /// Builds the table again, as a fresh process would.
    async fn rebuild(&self) -> Result<(), headwater_replay::Error> {
        let live = generation::open_live(&self.lake(), &"t".parse().unwrap()).await?;
        let request = Request {
            source: Arc::new(self.log.clone()),
            stream: Arc::new(self.log.clone()),
            archives: Vec::new(),
            live,
            pipeline: Pipeline::default(),
            lanes: Some(1),
            beginning: Beginning::FinalSchema,
            since: Since::Generation,
            until: ReplayUntil::Now,
            anew: false,
        };
        let range = request.range().await?;
        let means = Means {
            limits: Limits { rows: EVENTS_AN_EPOCH, ..Limits::default() },
            spill_folder: std::env::temp_dir(),
            clock: Arc::new(ManualClock::at(harness::contract::START)),
            retry: QUICK,
            seed: SEED,
            progress: Arc::new(Progress::default()),
            inferred: Arc::new(AtomicU64::new(0)),
        };
        let consumer = request.open(&range, means).await?;
        let (_keep, shutdown) = watch::channel(false);
        assert_eq!(rebuild::run(&consumer, &shutdown).await?, Ended::Done);
        Ok(())
    }

    /// Returns the rows that the table says it has, and those of the files that a listing finds.
    async fn rows(&self) -> (u64, u64) {
        let open = generation::open_live(&self.lake(), &"t".parse().unwrap()).await.unwrap();
        let in_table = reading::totals(&open, Output::Events).await.unwrap().rows;
        let mut listed = 0;
        let mut objects = self.store.list(Some(&"t/g00001".into()));
        while let Some(object) = objects.next().await {
            let path = object.unwrap().location;
            if path.as_ref().ends_with(".parquet") && !path.as_ref().contains("/_") {
                let facts = headwater_lake::file::inspect(&self.lake(), &path).await.unwrap().unwrap();
                listed += facts.rows;
            }
        }
        (in_table, listed)
    }
}

#[tokio::test]
async fn p2_lost_requests_and_answers_neither_lose_nor_double_a_row() {
    println!("seeds from {SEED}");
    for seed in SEED..SEED + 20 {
        let faults = &[Fate::AnswerLost, Fate::RequestLost];
        let world = World::new(FaultyStore::new(sometimes(seed, 0.25, faults))).await;
        world.consume().await.unwrap();
        assert_eq!(world.rows().await, (EVENTS, EVENTS), "seed {seed}");
    }
}

#[tokio::test]
async fn fm29_fm30_fm32_fm33_unclear_answers_change_nothing_in_a_rebuild() {
    println!("seeds from {SEED}");
    for seed in SEED..SEED + 10 {
        let world = World::new(FaultyStore::new(|_| Fate::Done)).await;
        world.consume().await.unwrap();
        world.store.change_plan(sometimes(seed, 0.25, &[Fate::AnswerLost, Fate::RequestLost]));
        world.rebuild().await.unwrap();
        world.store.change_plan(|_| Fate::Done);
        // What an earlier try left is gone on with, or stands beside.
        world.rebuild().await.unwrap();
        let live = generation::open_live(&world.lake(), &"t".parse().unwrap()).await.unwrap();
        assert_eq!(live.description.number, GenerationNumber::FIRST, "seed {seed}: the pointer is as it was");
        let number = compare::newest_other(&live).await.unwrap();
        let other = generation::open(&world.lake(), &live.table, number).await.unwrap();
        let report = compare::compare(&live, &other, &Arc::new(AtomicU64::new(0))).await.unwrap();
        assert!(!report.differs(), "seed {seed}: {}", report.text());
        assert_eq!(report.outputs[0].rows, [EVENTS, EVENTS], "seed {seed}");
    }
}

#[tokio::test]
async fn s3_a_failed_upload_commits_nothing_and_loses_nothing() {
    let mut files = 0;
    let world = World::new(FaultyStore::new(move |path| {
        files += u32::from(path.as_ref().ends_with(".parquet"));
        if files == 3 { Fate::Refused } else { Fate::Done }
    }))
    .await;
    let error = world.consume().await.unwrap_err();
    assert!(format!("{:#}", anyhow::Error::from(error)).contains("cannot create"), "it is said");
    assert_eq!(world.rows().await, (2 * EVENTS_AN_EPOCH, 2 * EVENTS_AN_EPOCH), "the third epoch is not there");
    world.store.change_plan(|_| Fate::Done);
    world.consume().await.unwrap();
    assert_eq!(world.rows().await, (EVENTS, EVENTS));
}

#[tokio::test]
async fn fm50_a_store_that_never_answers_gets_few_requests_and_no_second_copy() {
    // Everything happens and no answer comes, once the lake is set up.
    let world =
        World::new(FaultyStore::new(
            |path| {
                if path.as_ref().contains("_cuts") { Fate::AnswerLost } else { Fate::Done }
            },
        ))
        .await;
    // An answer that got lost is found out by reading back: no error, and one write a cut.
    world.consume().await.unwrap();
    assert_eq!(world.rows().await, (EVENTS, EVENTS));

    let world = World::new(FaultyStore::new(|_| Fate::Done)).await;
    world.store.change_plan(|path| if path.as_ref().contains("_cuts") { Fate::RequestLost } else { Fate::Done });
    let error = world.consume().await.unwrap_err();
    assert!(format!("{:#}", anyhow::Error::from(error)).contains("without a clear answer"));
    assert!(world.store.writes() <= u64::from(QUICK.tries_max) + 10, "{} writes", world.store.writes());
    world.store.change_plan(|_| Fate::Done);
    world.consume().await.unwrap();
    assert_eq!(world.rows().await, (EVENTS, EVENTS));
}
