//! Cutover, rollback and gc on a real lake in memory, with the consumer's own lanes as the hands.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use harness::faulty_store::{Fate, FaultyStore};
use headwater_common::clock::{Clock, ManualClock, SystemClock};
use headwater_common::retry::Policy;
use headwater_common::timestamp::Timestamp;
use headwater_consumer::driver::{Consumer, Progress, SEAL_WAIT_DEFAULT, Until};
use headwater_consumer::pipeline::Pipeline;
use headwater_consumer::policy::Limits;
use headwater_lake::commit;
use headwater_lake::cut::Cut;
use headwater_lake::cutover::{self, CaughtUp, Failure, Hands, Outcome, Positions};
use headwater_lake::gc;
use headwater_lake::generation::{self, Generation, OpenGeneration, StreamFacts};
use headwater_lake::layout::{self, GenerationNumber, Output, PointerNumber, TableName};
use headwater_lake::pointer::{self, Pointer, Publish};
use headwater_lake::reading;
use headwater_lake::store::{Create, LakeStore};
use headwater_lake::table::DeltaLog;
use headwater_lake::vacuum;
use headwater_lake::verify::{self, Options};
use headwater_stream::memory::MemoryLog;
use headwater_stream::{Put, Sink, Source, StartAt};
use object_store::memory::InMemory;
use tokio::sync::watch;

const G1: GenerationNumber = GenerationNumber(1);
const G2: GenerationNumber = GenerationNumber(2);

/// Pauses without which a test takes as long as a store with trouble.
const QUICK: Policy =
    Policy { tries_max: 20, pause_first: Duration::from_micros(1), pause_max: Duration::from_micros(1) };

#[derive(Clone)]
struct World {
    log: MemoryLog,
    lake: LakeStore,
    table: TableName,
    clock: Arc<dyn Clock>,
    limits: Limits,
    seal_wait: Duration,
}

impl World {
    /// A stream with 300 events, and a table whose first generation of two lanes has them all.
    async fn new() -> Self {
        let world = Self {
            log: MemoryLog::new("events", 2, Arc::new(ManualClock::at(harness::contract::START))),
            lake: LakeStore::on_store(Arc::new(InMemory::new())),
            table: "t".parse().unwrap(),
            clock: Arc::new(ManualClock::at(harness::contract::START)),
            limits: Limits { rows: 50, ..Limits::default() },
            seal_wait: SEAL_WAIT_DEFAULT,
        };
        world.produce(0..300).await;
        let wanted = world.description("year,month,day", 2).await;
        let open = generation::open_or_create(&world.lake, &world.table, wanted).await.unwrap();
        world.consumer(open, Until::CaughtUp).run(running()).await.unwrap();
        world
    }

    async fn produce(&self, numbers: std::ops::Range<u64>) {
        let put = |n| Put { partition_key: format!("key {n}").into(), payload: format!(r#"{{"n":{n}}}"#).into() };
        self.log.put(numbers.map(put).collect()).await.unwrap();
    }

    async fn description(&self, partition_by: &str, lanes: u32) -> Generation {
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
        let pipeline = Pipeline { partition_by: partition_by.parse().unwrap(), ..Pipeline::default() };
        Generation::first(pipeline.canonical(), pipeline.hash(), pipeline.partition_by.clone(), lanes, facts)
    }

    /// Adds generation 2: another partitioning, one lane.
    async fn second_generation(&self) {
        let wanted = self.description("year", 1).await;
        let open = generation::create_next(&self.lake, &self.table, wanted).await.unwrap();
        assert_eq!(open.description.number, G2);
    }

    fn consumer(&self, generation: OpenGeneration, until: Until) -> Consumer {
        Consumer {
            source: Arc::new(self.log.clone()),
            pipeline: Pipeline::of(&generation.description).unwrap(),
            generation: Arc::new(generation),
            limits: self.limits,
            spill_folder: std::env::temp_dir(),
            until,
            recorded: None,
            clock: Arc::clone(&self.clock),
            retry: QUICK,
            seed: 1,
            seal_wait: self.seal_wait,
            progress: Arc::new(Progress::default()),
        }
    }

    async fn open(&self, number: GenerationNumber) -> OpenGeneration {
        generation::open(&self.lake, &self.table, number).await.unwrap()
    }

    async fn cut_over(
        &self,
        target: GenerationNumber,
        hands: &mut dyn Hands,
    ) -> Result<Outcome, headwater_lake::Error> {
        let (store, table) = (self.lake.clone(), self.table.clone());
        cutover::cut_over(cutover::Settings { store, table, target, retry: QUICK }, hands).await
    }

    async fn highest(&self) -> Pointer {
        pointer::highest(&self.lake, &self.table).await.unwrap().unwrap()
    }

    /// Returns the rows of the live generation, after all of it was verified.
    async fn rows(&self) -> u64 {
        let open = generation::open_live(&self.lake, &self.table).await.unwrap();
        let report = verify::verify(&open, Options { full: true, from_beginning: true }).await.unwrap();
        assert!(report.problems.is_empty(), "{:?}", report.problems);
        reading::totals(&open, Output::Events).await.unwrap().rows
    }
}

fn running() -> watch::Receiver<bool> {
    let (sender, receiver) = watch::channel(false);
    // A sender that is gone tells nothing, as one that is silent.
    drop(sender);
    receiver
}

fn pointer_of(number: u32, generation: GenerationNumber) -> Pointer {
    Pointer { number: PointerNumber(number), ..Pointer::first(generation) }
}

/// Works with the consumer's own lanes, so often; then it is dead.
struct Lanes {
    world: World,
    calls_left: u32,
}

impl Lanes {
    fn of(world: &World) -> Self {
        Self { world: world.clone(), calls_left: u32::MAX }
    }

    fn call(&mut self) -> Result<(), Failure> {
        self.calls_left = self.calls_left.checked_sub(1).ok_or("killed")?;
        Ok(())
    }
}

#[async_trait]
impl Hands for Lanes {
    async fn finish(&mut self, generation: &OpenGeneration) -> Result<(), Failure> {
        self.call()?;
        Ok(self.world.consumer(generation.clone(), Until::Forever).finish().await?)
    }

    async fn catch_up(
        &mut self,
        generation: &OpenGeneration,
        after: PointerNumber,
        positions: &Positions,
    ) -> Result<CaughtUp, Failure> {
        self.call()?;
        let consumer = self.world.consumer(generation.clone(), Until::Reached(positions.clone()));
        consumer.catch_up(after, &running()).await?.ok_or_else(|| "interrupted".into())
    }
}

/// Says that it has done it, and has not.
struct Idle;

#[async_trait]
impl Hands for Idle {
    async fn finish(&mut self, _: &OpenGeneration) -> Result<(), Failure> {
        Ok(())
    }

    async fn catch_up(&mut self, _: &OpenGeneration, _: PointerNumber, _: &Positions) -> Result<CaughtUp, Failure> {
        Ok(CaughtUp::Reached)
    }
}

#[tokio::test]
async fn k1_there_and_back_and_there_again_with_events_in_between() {
    let world = World::new().await;
    world.second_generation().await;
    let old_consumer = world.consumer(world.open(G1).await, Until::CaughtUp);
    let mut events = 300;
    for (number, target) in [(2, G2), (3, G1), (4, G2), (5, G1)] {
        let outcome = world.cut_over(target, &mut Lanes::of(&world)).await.unwrap();
        assert_eq!(outcome, Outcome::Moved(pointer_of(number, target)));
        assert_eq!(world.rows().await, events, "{target} is up to date when it becomes live");
        world.produce(events..events + 100).await;
        events += 100;
        // A consumer that was started for generation 1 goes where the pointer points.
        old_consumer.clone().run(running()).await.unwrap();
        assert_eq!(world.rows().await, events);
    }
    let again = world.cut_over(G1, &mut Lanes::of(&world)).await.unwrap();
    assert_eq!(again, Outcome::AlreadyLive(pointer_of(5, G1)));
}

#[tokio::test]
async fn k4_a_dead_tool_stops_the_stream_for_a_set_time_only() {
    let mut world = World::new().await;
    world.second_generation().await;
    // The tool dies when the lanes are sealed.
    world.produce(300..320).await;
    let consumer = world.consumer(world.open(G1).await, Until::CaughtUp);
    let mut dying = Lanes { world: world.clone(), calls_left: 0 };
    world.cut_over(G2, &mut dying).await.unwrap_err();
    assert_eq!(world.rows().await, 300);
    consumer.clone().run(running()).await.unwrap();
    assert_eq!(world.rows().await, 320, "nothing was sealed before it died");

    struct DiesSealed;
    #[async_trait]
    impl Hands for DiesSealed {
        async fn finish(&mut self, _: &OpenGeneration) -> Result<(), Failure> {
            Err("killed".into())
        }
        async fn catch_up(&mut self, _: &OpenGeneration, _: PointerNumber, p: &Positions) -> Result<CaughtUp, Failure> {
            // The first call is for the approach; the second one comes when the lanes are sealed.
            static CALLS: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
            assert!(!p.is_empty());
            match CALLS.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
                0 => Ok(CaughtUp::Reached),
                _ => Err("killed".into()),
            }
        }
    }
    world.cut_over(G2, &mut DiesSealed).await.unwrap_err();
    assert_eq!(world.highest().await, pointer_of(1, G1));
    world.produce(320..400).await;
    world.seal_wait = Duration::ZERO;
    world.consumer(world.open(G1).await, Until::CaughtUp).run(running()).await.unwrap();
    assert_eq!(world.rows().await, 400, "the consumer went on");
    assert_eq!(world.highest().await, pointer_of(2, G1), "by the very pointer that the tool wanted");
    // The tool wakes up, and has lost; started again it succeeds.
    let wanted = pointer_of(2, G2);
    let late = pointer::create(&world.lake, &world.table, &wanted).await.unwrap();
    assert_eq!(late, Publish::Lost { winner: pointer_of(2, G1) });
    let outcome = world.cut_over(G2, &mut Lanes::of(&world)).await.unwrap();
    assert_eq!(outcome, Outcome::Moved(pointer_of(3, G2)));
    assert_eq!(world.rows().await, 400);
}

/// Puts a seal at the end of every lane, as a tool does that has slept since long ago.
async fn seal_late(world: &World, generation: GenerationNumber, seal: PointerNumber) {
    let open = world.open(generation).await;
    for lane in open.description.first_lanes() {
        let end = cutover::published(&open, lane).await.unwrap().end;
        let positions = commit::positions_after(&open, lane, end).await.unwrap();
        let place = (generation, lane, end.next());
        let hash = open.description.pipeline_hash.clone();
        let cut = Cut::sealing(seal, place, hash, &BTreeMap::new(), positions);
        let key = layout::cut(&world.table, generation, lane, end.next());
        assert_eq!(world.lake.create(&key, cut.to_bytes().into()).await.unwrap(), Create::Created);
    }
}

#[tokio::test]
async fn k2_the_seals_of_a_tool_that_wakes_up_late_stop_nobody() {
    let world = World::new().await;
    world.second_generation().await;
    world.cut_over(G2, &mut Lanes::of(&world)).await.unwrap();
    world.cut_over(G1, &mut Lanes::of(&world)).await.unwrap();
    // In the live generation they are void, in the other one a cutover passes them.
    for (generation, seal) in [(G1, 2), (G1, 3), (G2, 2), (G2, 3)] {
        seal_late(&world, generation, PointerNumber(seal)).await;
    }
    world.produce(300..400).await;
    world.consumer(world.open(G1).await, Until::CaughtUp).run(running()).await.unwrap();
    assert_eq!(world.highest().await, pointer_of(3, G1), "nobody had to break anything");
    assert_eq!(world.rows().await, 400);
    let outcome = world.cut_over(G2, &mut Lanes::of(&world)).await.unwrap();
    assert_eq!(outcome, Outcome::Moved(pointer_of(4, G2)));
    assert_eq!(world.rows().await, 400);
}

#[tokio::test]
async fn k6_seals_where_a_restart_looks_for_positions_lose_none() {
    // Epoch 64 lists the positions of all shards; let it be a seal.
    let world = World::new().await;
    world.second_generation().await;
    let open = world.open(G1).await;
    let lane = open.description.first_lanes().next().unwrap();
    world.cut_over(G2, &mut Lanes::of(&world)).await.unwrap();
    while cutover::published(&open, lane).await.unwrap().end.0 <= 64 {
        seal_late(&world, G1, PointerNumber(2)).await;
    }
    world.cut_over(G1, &mut Lanes::of(&world)).await.unwrap();
    world.produce(300..400).await;
    world.consumer(open, Until::CaughtUp).run(running()).await.unwrap();
    assert_eq!(world.rows().await, 400);
}

#[tokio::test]
async fn fm31_of_many_that_move_the_pointer_one_wins_and_all_know_which() {
    let world = World::new().await;
    let tries = (1..=16).map(|generation| {
        let world = world.clone();
        tokio::spawn(async move {
            let wanted = pointer_of(2, GenerationNumber(generation));
            (wanted.clone(), pointer::create(&world.lake, &world.table, &wanted).await.unwrap())
        })
    });
    let mut winners = Vec::new();
    for attempt in tries.collect::<Vec<_>>() {
        winners.push(match attempt.await.unwrap() {
            (wanted, Publish::Stands) => wanted,
            (_, Publish::Lost { winner }) => winner,
        });
    }
    assert!(winners.iter().all(|winner| *winner == winners[0]), "{winners:?}");
    assert_eq!(world.highest().await, winners[0]);
}

#[tokio::test]
async fn fm32_readers_never_go_back_to_a_generation_that_is_behind() {
    let world = World::new().await;
    world.second_generation().await;
    let error = world.cut_over(G2, &mut Idle).await.unwrap_err();
    assert!(error.to_string().contains("gave up on pointer 00000002"), "{error}");
    assert_eq!(world.highest().await, pointer_of(1, G1));
    // The seals stand; the next run finds them and goes on.
    let outcome = world.cut_over(G2, &mut Lanes::of(&world)).await.unwrap();
    assert_eq!(outcome, Outcome::Moved(pointer_of(2, G2)));
    assert_eq!(world.rows().await, 300);
}

#[tokio::test]
async fn fm35_a_retired_generation_is_gone_for_good_and_its_number_too() {
    let world = World::new().await;
    world.second_generation().await;
    world.cut_over(G2, &mut Lanes::of(&world)).await.unwrap();
    let outcome = gc::collect(&world.lake, &world.table, Duration::from_secs(1), Timestamp::LATEST).await.unwrap();
    let gc::Outcome::Done(removed) = outcome else { panic!("{outcome:?}") };
    assert!(removed[&G1] > 0);
    let retired = world.highest().await;
    assert_eq!((retired.number, retired.generation), (PointerNumber(3), G2));
    let refused = world.cut_over(G1, &mut Lanes::of(&world)).await.unwrap();
    assert_eq!(refused, Outcome::Retired(retired));
    assert_eq!(world.rows().await, 300);
    let wanted = world.description("date", 1).await;
    let third = generation::create_next(&world.lake, &world.table, wanted).await.unwrap();
    assert_eq!(third.description.number, GenerationNumber(3));
    world.cut_over(GenerationNumber(3), &mut Lanes::of(&world)).await.unwrap();
    assert_eq!(world.rows().await, 300);
    assert!(world.highest().await.retired.contains(&G1), "what is retired stays so");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn k7_running_consumers_follow_a_cutover_and_a_rollback() {
    let mut world = World::new().await;
    world.clock = Arc::new(SystemClock);
    world.limits.idle = Duration::from_millis(20);
    world.second_generation().await;
    let (stop, stopped) = watch::channel(false);
    let mut consumers = Vec::new();
    for _ in 0..2 {
        let consumer = world.consumer(world.open(G1).await, Until::Forever);
        consumers.push(tokio::spawn(consumer.run(stopped.clone())));
    }
    let mut events = 300;
    for target in [G2, G1, G2] {
        let producing = world.clone();
        let producer = tokio::spawn(async move {
            for n in events..events + 50 {
                producing.produce(n..n + 1).await;
                tokio::task::yield_now().await;
            }
        });
        let outcome = world.cut_over(target, &mut Lanes::of(&world)).await.unwrap();
        assert!(matches!(outcome, Outcome::Moved(_)), "{outcome:?}");
        producer.await.unwrap();
        events += 50;
        let open = generation::open_live(&world.lake, &world.table).await.unwrap();
        assert_eq!(open.description.number, target);
        let is_there = async {
            while reading::totals(&open, Output::Events).await.unwrap().rows < events {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), is_there).await.expect("the consumers went on in the target");
    }
    stop.send(true).unwrap();
    for consumer in consumers {
        consumer.await.unwrap().unwrap();
    }
    assert_eq!(world.rows().await, events);
}

/// A table with two pointers on a store that fails from now on as it is told.
async fn faulty() -> (Arc<FaultyStore>, LakeStore, TableName) {
    let store = Arc::new(FaultyStore::new(|_| Fate::Done));
    let lake = LakeStore::on_store(store.clone());
    let table: TableName = "t".parse().unwrap();
    for pointer in [pointer_of(1, G1), pointer_of(2, G2)] {
        pointer::create(&lake, &table, &pointer).await.unwrap();
    }
    for key in ["t/g00001/_generation.json", "t/g00002/_generation.json"] {
        lake.overwrite(&key.into(), "{}".into()).await.unwrap();
    }
    (store, lake, table)
}

#[tokio::test]
async fn fm29_gc_removes_nothing_while_it_does_not_know_whether_its_pointer_is_there() {
    let (store, lake, table) = faulty().await;
    store.change_plan(|path| if path.as_ref().contains("_pointer") { Fate::RequestLost } else { Fate::Done });
    gc::collect(&lake, &table, Duration::from_secs(1), Timestamp::LATEST).await.unwrap_err();
    assert!(lake.read(&"t/g00001/_generation.json".into()).await.unwrap().is_some());
    store.change_plan(|_| Fate::Done);
    gc::collect(&lake, &table, Duration::from_secs(1), Timestamp::LATEST).await.unwrap();
    assert!(lake.read(&"t/g00001/_generation.json".into()).await.unwrap().is_none());
    assert!(lake.read(&"t/g00002/_generation.json".into()).await.unwrap().is_some());
}

#[tokio::test]
async fn fm30_a_pointer_whose_answer_was_lost_is_read_back_and_not_written_again() {
    let (store, lake, table) = faulty().await;
    let before = store.writes();
    store.change_plan(|_| Fate::AnswerLost);
    let wanted = pointer_of(3, G1);
    assert_eq!(pointer::create(&lake, &table, &wanted).await.unwrap(), Publish::Stands);
    assert_eq!(store.writes(), before + 1);
    let late = pointer_of(3, G2);
    assert_eq!(pointer::create(&lake, &table, &late).await.unwrap(), Publish::Lost { winner: wanted.clone() });
    assert_eq!(pointer::highest(&lake, &table).await.unwrap(), Some(wanted));
}

#[tokio::test]
async fn k10_vacuum_deletes_what_was_taken_out_and_nothing_else() {
    let world = World::new().await;
    let open = world.open(G1).await;
    let named_by_a_cut = reading::view(&open, Output::Events).await.unwrap().unwrap().files[0].clone();
    let at = |name: &str| layout::data_object(&world.table, Output::Events, G1, &format!("_compacted/{name}"));
    let mut compacted = named_by_a_cut.clone();
    (compacted.path, compacted.key) = ("_compacted/taken-out.parquet".to_owned(), at("taken-out.parquet"));
    for key in [at("taken-out.parquet"), at("on-its-way.parquet")] {
        world.lake.overwrite(&key, "x".into()).await.unwrap();
    }
    let log = DeltaLog::new(&open, Output::Events).unwrap();
    let base = log.newest().await.unwrap().unwrap();
    let removed_at = world.clock.now();
    log.remove(&base, &[named_by_a_cut.clone(), compacted], removed_at.micros() / 1_000).await.unwrap();

    let hour = Duration::from_secs(3_600);
    assert!(vacuum::removable(&open, hour, removed_at.plus(hour / 2)).await.unwrap().is_empty(), "too young");
    let removable = vacuum::removable(&open, hour, removed_at.plus(hour * 2)).await.unwrap();
    assert_eq!(removable, [at("taken-out.parquet")]);
    assert_eq!(vacuum::remove(&open, &removable).await.unwrap(), 1);
    assert!(vacuum::removable(&open, hour, removed_at.plus(hour * 2)).await.unwrap().is_empty(), "it is gone");
    for kept in [named_by_a_cut.key, at("on-its-way.parquet")] {
        assert!(world.lake.head(&kept).await.unwrap().is_some(), "{kept}");
    }
}
