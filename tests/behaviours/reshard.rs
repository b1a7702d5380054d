//! A stream is split and merged: every event is in the lake once, parents before children, whoever reads.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use harness::contract::START;
use harness::stream_world::{Make, Throttled, Watched, World};
use headwater_common::clock::{Clock, ManualClock};
use headwater_common::position::{Position, Segment, ShardId};
use headwater_consumer::driver::{Error, Until};
use headwater_lake::commit::read_cut;
use headwater_lake::cut::MARK_VERSION;
use headwater_lake::layout::{Epoch, Output};
use headwater_lake::reading;
use headwater_stream::memory::MemoryLog;
use headwater_stream::{Error as StreamError, Source, StartAt};
use tokio::sync::watch;

const MAKES: [Make; 2] = [MemoryLog::reshardable, MemoryLog::without_numbers];

/// Returns the shards that are closed.
async fn closed(world: &World) -> BTreeSet<ShardId> {
    let open: BTreeSet<_> = world.log.open_shards().into_iter().map(|(shard, _)| shard).collect();
    let listed = world.log.shards().await.unwrap();
    listed.into_iter().map(|shard| shard.id).filter(|shard| !open.contains(shard)).collect()
}

fn shard(name: &str) -> ShardId {
    name.into()
}

#[tokio::test]
async fn fm05_fm09_closed_shards_are_drained_and_their_children_follow_them() {
    for make in MAKES {
        for lanes in [1, 3] {
            let world = World::new(make, 2);
            world.create(lanes, StartAt::TrimHorizon).await;
            let mut put = 0;
            for shards in [4, 8, 3] {
                world.put(put..put + 60).await;
                world.log.update_shard_count(shards);
                put += 60;
            }
            world.put(put..put + 60).await;
            world.catch_up().await;
            world.check(0..put + 60).await;
            let positions = world.positions().await;
            let closed = closed(&world).await;
            assert!(closed.len() >= 6, "{closed:?}");
            for shard in closed {
                assert_eq!(positions.get(&shard), Some(&Position::SHARD_END), "{shard}");
            }
        }
    }
}

#[tokio::test]
async fn fm06_a_child_is_read_from_its_first_event_whatever_the_start_says() {
    for make in MAKES {
        let world = World::new(make, 1);
        world.put(0..10).await;
        world.create(2, StartAt::Latest).await;
        world.log.split(&shard("0"), 1 << 127);
        world.put(10..60).await;
        // The consumer never saw the parent open, and the children are older than the consumer.
        world.catch_up().await;
        world.check(10..60).await;
    }
}

#[tokio::test]
async fn fm07_the_end_of_each_parent_is_committed_and_a_merge_waits_for_both() {
    let mut world = World::new(MemoryLog::without_numbers, 2);
    let open = world.create(2, StartAt::TrimHorizon).await;
    let watched = Arc::new(Watched::new(world.log.clone(), open));
    world.source = Arc::clone(&watched) as Arc<dyn Source>;
    world.put(0..60).await;
    let child = world.log.merge(&shard("0"), &shard("1"));
    world.put(60..100).await;
    // Each parent is in a lane of its own; the one is read to its end, and the other is not read at all.
    let first = [(shard("0"), Position::SHARD_END)].into();
    world.consume(Until::Reached(first)).await.unwrap();
    let positions = world.positions().await;
    assert_eq!(positions.get(&shard("0")), Some(&Position::SHARD_END));
    assert_eq!(positions.get(&shard("1")), Some(&Position::START));
    assert_eq!(positions.get(&child), None);
    world.catch_up().await;
    world.check(0..100).await;
    assert!(watched.take_reads().contains(&child));
    assert_eq!(world.positions().await.get(&shard("1")), Some(&Position::SHARD_END));
}

#[tokio::test]
async fn fm08_a_shard_that_ended_is_not_read_again() {
    let mut world = World::new(MemoryLog::without_numbers, 2);
    let open = world.create(2, StartAt::TrimHorizon).await;
    let watched = Arc::new(Watched::new(world.log.clone(), open));
    world.source = Arc::clone(&watched) as Arc<dyn Source>;
    world.put(0..30).await;
    world.log.update_shard_count(4);
    // One of the closed shards has no event, and so no last one that could be seen.
    world.log.update_shard_count(1);
    world.put(30..60).await;
    world.catch_up().await;
    let ended = closed(&world).await;
    assert_eq!(ended.len(), 8);
    watched.take_reads();
    world.put(60..90).await;
    world.catch_up().await;
    let read: BTreeSet<_> = watched.take_reads().into_iter().collect();
    assert!(read.is_disjoint(&ended), "{read:?}");
    world.check(0..90).await;
}

#[tokio::test]
async fn fm10_latest_is_resolved_once_and_stored_as_a_time() {
    let world = World::new(MemoryLog::without_numbers, 1);
    world.put(0..10).await;
    let open = world.create(1, StartAt::Latest).await;
    let start = open.description.start[&shard("0")];
    assert!(open.description.version == 2 && start.complete_until().is_some(), "{start}");
    // Put before anybody read, and after it was asked for.
    world.put(10..20).await;
    world.catch_up().await;
    world.check(10..20).await;
    // Whoever comes later finds what was stored.
    let again = world.create(1, StartAt::Latest).await;
    assert_eq!(again.description, open.description);
}

#[tokio::test]
async fn fm01_two_workers_on_every_lane_of_a_resharded_stream_write_every_event_once() {
    let world = World::new(MemoryLog::without_numbers, 2);
    world.create(3, StartAt::TrimHorizon).await;
    let mut put = 0;
    for shards in [5, 2, 4] {
        world.put(put..put + 100).await;
        put += 100;
        let (one, other) = tokio::join!(world.consume(Until::CaughtUp), world.consume(Until::CaughtUp));
        one.unwrap();
        other.unwrap();
        world.log.update_shard_count(shards);
    }
    world.put(put..put + 100).await;
    world.catch_up().await;
    world.check(0..put + 100).await;
}

#[tokio::test]
async fn a_running_consumer_follows_the_shards_over_all_lanes() {
    let world = World::new(MemoryLog::without_numbers, 1);
    world.create(4, StartAt::TrimHorizon).await;
    let (stop, shutdown) = watch::channel(false);
    let consumer = tokio::spawn(world.consumer(Until::Forever).await.run(shutdown));
    let mut put = 0;
    for shards in [4, 7, 2] {
        world.put(put..put + 50).await;
        put += 50;
        world.log.update_shard_count(shards);
    }
    world.put(put..put + 50).await;
    let open = world.open().await;
    while reading::totals(&open, Output::Events).await.unwrap().rows < put + 50 {
        assert!(!consumer.is_finished(), "it runs until it is told to stop");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stop.send(true).unwrap();
    consumer.await.unwrap().unwrap();
    world.check(0..put + 50).await;
}

#[tokio::test]
async fn fm11_a_shard_that_vanished_before_it_was_read_is_a_loud_error() {
    let world = World::new(MemoryLog::without_numbers, 1);
    world.create(2, StartAt::TrimHorizon).await;
    world.put(0..20).await;
    world.catch_up().await;
    let [low, high] = world.log.split(&shard("0"), 1 << 127);
    world.put(20..40).await;
    let gone = |result: Result<(), Error>| match result {
        Err(Error::Stream { source: StreamError::ShardGone { shard, .. }, .. }) => shard,
        other => panic!("{other:?}"),
    };
    // The end of the parent is known; the children come and go while nobody reads.
    world.consume(Until::Reached([(shard("0"), Position::SHARD_END)].into())).await.unwrap();
    world.log.merge(&low, &high);
    world.log.forget(&low);
    world.log.forget(&high);
    let found = gone(world.consume(Until::CaughtUp).await);
    assert!([low, high].contains(&found));
    world.check(0..20).await;
}

#[tokio::test]
async fn fm11_a_quiet_shard_is_not_taken_for_a_lost_one() {
    let hour = Duration::from_secs(3_600);
    for is_marked in [true, false] {
        let clock = Arc::new(ManualClock::at(START));
        let world = World::with_clock(MemoryLog::without_numbers, 1, Arc::clone(&clock) as Arc<dyn Clock>);
        let open = world.create(1, StartAt::TrimHorizon).await;
        world.put(0..10).await;
        world.catch_up().await;
        assert_eq!(world.commits(Output::Events).await.len(), 1, "what has just been read needs no mark");
        clock.advance(hour * 25);
        if is_marked {
            world.catch_up().await;
            let cut = read_cut(&open, "0of1".parse().unwrap(), Epoch(2)).await.unwrap().unwrap();
            assert_eq!((cut.version, cut.account.read), (MARK_VERSION, 0));
            let is_mark = |segment: &Segment| segment.is_without_events() && segment.to.complete_until().is_some();
            assert!(matches!(&cut.segments[..], [segment] if is_mark(segment)), "{:?}", cut.segments);
            // It is marked now: no further cut says so.
            world.catch_up().await;
            assert_eq!(world.commits(Output::Events).await.len(), 2);
        }
        world.log.trim(0, 10);
        clock.advance(hour);
        world.put(10..20).await;
        let result = world.consume(Until::CaughtUp).await;
        if is_marked {
            result.unwrap();
            world.check(0..20).await;
        } else {
            let lost = matches!(result, Err(Error::Stream { source: StreamError::Expired { .. }, .. }));
            assert!(lost, "nobody can tell that nothing was lost: {result:?}");
        }
    }
}

#[tokio::test]
async fn fm22_an_epoch_with_ends_and_marks_is_made_again_also_from_a_stream_that_is_throttled() {
    let clock = Arc::new(ManualClock::at(START));
    let mut world = World::with_clock(MemoryLog::without_numbers, 3, Arc::clone(&clock) as Arc<dyn Clock>);
    world.create(1, StartAt::TrimHorizon).await;
    world.put(0..30).await;
    world.catch_up().await;
    clock.advance(Duration::from_secs(2 * 3_600));
    world.log.split(&shard("0"), 1);
    world.log.merge(&shard("1"), &shard("2"));
    world.put(30..65).await;
    world.catch_up().await;
    let before = world.rows().await;
    let positions = world.positions().await;
    world.undo_last_commit().await;
    assert!(world.rows().await.len() < before.len());
    world.source = Arc::new(Throttled::new(world.log.clone(), 4));
    world.catch_up().await;
    assert_eq!(world.rows().await, before);
    // The run that made it again may have noted what was quiet since.
    let unmarked = |positions: &BTreeMap<ShardId, Position>| -> BTreeMap<ShardId, Position> {
        positions.iter().map(|(shard, position)| (shard.clone(), position.unmarked())).collect()
    };
    assert_eq!(unmarked(&world.positions().await), unmarked(&positions));
    world.check(0..65).await;
}

#[tokio::test]
async fn a_run_up_to_positions_reads_the_shards_that_they_name() {
    let world = World::new(MemoryLog::reshardable, 1);
    world.create(2, StartAt::TrimHorizon).await;
    world.put(0..20).await;
    let [low, high] = world.log.split(&shard("0"), 1 << 127);
    world.put(20..60).await;
    let newest = world.log.resolve(&low, StartAt::Latest).await.unwrap();
    let result = world.consume(Until::Reached([(low.clone(), newest)].into())).await;
    let left_out = matches!(&result, Err(Error::ParentLeftOut { shard, .. }) if *shard == low);
    assert!(left_out, "its parent is left out: {result:?}");
    let both = [(shard("0"), Position::SHARD_END), (low.clone(), newest)].into();
    world.consume(Until::Reached(both)).await.unwrap();
    let positions = world.positions().await;
    assert_eq!((positions.get(&low), positions.get(&high)), (Some(&newest), None));
    world.catch_up().await;
    world.check(0..60).await;
}
