//! A table of a stream that is split and merged is built again, up to now or to a time, and becomes live.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use harness::contract::START;
use harness::stream_world::{Make, World};
use headwater_common::clock::{Clock, ManualClock};
use headwater_common::position::{Position, ShardId};
use headwater_common::retry::Policy;
use headwater_consumer::driver::Progress;
use headwater_consumer::pipeline::Pipeline;
use headwater_lake::cutover::Outcome;
use headwater_lake::generation::{self, OpenGeneration};
use headwater_lake::layout::{GenerationNumber, Output};
use headwater_lake::reading;
use headwater_replay::Error;
use headwater_replay::beginning::Beginning;
use headwater_replay::compare;
use headwater_replay::cutover::Cutover;
use headwater_replay::range::{Since, Until};
use headwater_replay::rebuild::{self, Ended, Means, Request};
use headwater_stream::StartAt;
use headwater_stream::memory::MemoryLog;
use tokio::sync::watch;

const MAKES: [Make; 2] = [MemoryLog::reshardable, MemoryLog::without_numbers];

async fn request(world: &World, since: Since, until: Until) -> Request {
    let live = world.open().await;
    Request {
        source: Arc::clone(&world.source),
        stream: Arc::new(world.log.clone()),
        archives: Vec::new(),
        pipeline: Pipeline::default(),
        // Not as many as the live generation has, where it has several.
        lanes: Some(live.description.lanes.min(2)),
        live,
        beginning: Beginning::FinalSchema,
        since,
        until,
        anew: false,
    }
}

fn means(world: &World) -> Means {
    Means {
        limits: world.limits,
        spill_folder: std::env::temp_dir(),
        clock: Arc::clone(&world.clock),
        retry: Policy::STORE,
        seed: 1,
        progress: Arc::new(Progress::default()),
        inferred: Arc::new(AtomicU64::new(0)),
    }
}

/// Runs a rebuild, and returns the generation that it made.
async fn rebuild(world: &World, since: Since, until: Until) -> OpenGeneration {
    let request = request(world, since, until).await;
    let range = request.range().await.unwrap();
    let consumer = request.open(&range, means(world)).await.unwrap();
    let (_keep, shutdown) = watch::channel(false);
    assert_eq!(rebuild::run(&consumer, &shutdown).await.unwrap(), Ended::Done);
    let number = compare::newest_other(&world.open().await).await.unwrap();
    generation::open(&world.lake, &world.table, number).await.unwrap()
}

async fn cut_over(world: &World, allows_shorter_history: bool) -> Result<Outcome, Error> {
    let cutover = Cutover {
        store: world.lake.clone(),
        table: world.table.clone(),
        source: Arc::clone(&world.source),
        means: means(world),
        allows_shorter_history,
    };
    let (_keep, shutdown) = watch::channel(false);
    cutover.run(GenerationNumber(2), &shutdown).await
}

#[tokio::test]
async fn g2_a_table_of_a_resharded_stream_is_built_again_and_becomes_live() {
    for make in MAKES {
        let world = World::new(make, 1);
        world.create(3, StartAt::TrimHorizon).await;
        let mut put = 0;
        for shards in [3, 5, 2] {
            world.put(put..put + 50).await;
            put += 50;
            world.log.update_shard_count(shards);
        }
        world.catch_up().await;
        let built = rebuild(&world, Since::Generation, Until::Now).await;
        let live = world.open().await;
        let report = compare::compare(&live, &built, &Arc::new(AtomicU64::new(0))).await.unwrap();
        assert!(!report.differs(), "{}", report.text());
        assert_eq!(report.outputs[0].rows, [put, put]);
        // Shards that come between two runs, and others between the last run and the cutover.
        for shards in [4, 3] {
            world.put(put..put + 50).await;
            put += 50;
            world.log.update_shard_count(shards);
            world.put(put..put + 20).await;
            put += 20;
            world.catch_up().await;
            if shards == 4 {
                let again = rebuild(&world, Since::Generation, Until::Now).await;
                assert_eq!(again.description.number, built.description.number, "it goes on");
                assert_eq!(reading::totals(&again, Output::Events).await.unwrap().rows, put);
            }
        }
        let outcome = cut_over(&world, false).await.unwrap();
        assert!(matches!(outcome, Outcome::Moved(_)), "{outcome:?}");
        world.put(put..put + 10).await;
        world.catch_up().await;
        assert_eq!(world.open().await.description.number, built.description.number);
        world.check(0..put + 10).await;
    }
}

#[tokio::test]
async fn a_rebuild_up_to_a_time_ends_there_also_in_a_shard_that_was_split_later() {
    for make in MAKES {
        for is_split_before in [true, false] {
            let clock = Arc::new(ManualClock::at(START));
            let world = World::with_clock(make, 1, Arc::clone(&clock) as Arc<dyn Clock>);
            world.create(1, StartAt::TrimHorizon).await;
            world.put(0..20).await;
            let second = Duration::from_secs(1);
            if is_split_before {
                world.log.update_shard_count(2);
                world.put(20..30).await;
            }
            clock.advance(second * 10);
            let time = clock.now();
            clock.advance(second * 10);
            world.put(30..60).await;
            world.log.update_shard_count(5);
            world.put(60..90).await;
            world.catch_up().await;
            let built = rebuild(&world, Since::Generation, Until::At(time)).await;
            let rows = reading::totals(&built, Output::Events).await.unwrap().rows;
            assert_eq!(rows, if is_split_before { 30 } else { 20 }, "{is_split_before}");
        }
    }
}

#[tokio::test]
async fn g3_what_a_stream_without_numbers_has_lost_is_said_and_not_made_live_unasked() {
    let world = World::new(MemoryLog::without_numbers, 1);
    world.create(1, StartAt::TrimHorizon).await;
    world.put(0..100).await;
    world.catch_up().await;
    let whole = request(&world, Since::Generation, Until::Now).await.range().await.unwrap();
    assert!(whole.lost().is_empty(), "{:?}", whole.lost());
    world.log.trim(0, 60);
    let range = request(&world, Since::Generation, Until::Now).await.range().await.unwrap();
    let lost = range.lost();
    assert!(lost.len() == 1 && lost[0].to == Position::of_record(61.into()), "{lost:?}");
    // What is left is another history.
    let built = rebuild(&world, Since::Oldest, Until::Now).await;
    assert_eq!(reading::totals(&built, Output::Events).await.unwrap().rows, 40);
    let refused = cut_over(&world, false).await;
    assert!(matches!(refused, Err(Error::ShorterHistory { .. })), "{refused:?}");
    assert!(matches!(cut_over(&world, true).await.unwrap(), Outcome::Moved(_)));
}

#[tokio::test]
async fn g3_shards_that_a_stream_has_forgotten_are_lost_to_a_rebuild() {
    let world = World::new(MemoryLog::without_numbers, 1);
    world.create(2, StartAt::TrimHorizon).await;
    world.put(0..40).await;
    let children = world.log.split(&ShardId::from("0"), 1 << 127);
    world.put(40..80).await;
    world.catch_up().await;
    world.log.forget(&ShardId::from("0"));
    let range = request(&world, Since::Generation, Until::Now).await.range().await.unwrap();
    let lost: Vec<_> = range.lost().into_iter().map(|stretch| (stretch.shard, stretch.to)).collect();
    assert_eq!(lost, [(ShardId::from("0"), Position::SHARD_END)]);
    // Without it, and said to be without it.
    let built = rebuild(&world, Since::Oldest, Until::Now).await;
    let expected: BTreeMap<_, _> = children.into_iter().map(|child| (child, Position::START)).collect();
    let mut start = built.description.start.clone();
    assert_eq!(start.remove(&ShardId::from("0")), Some(Position::SHARD_END));
    assert_eq!(start, expected);
    assert!(matches!(cut_over(&world, false).await, Err(Error::ShorterHistory { .. })));
    assert!(matches!(cut_over(&world, true).await.unwrap(), Outcome::Moved(_)));
    world.put(80..100).await;
    world.catch_up().await;
    world.check(40..100).await;
}
