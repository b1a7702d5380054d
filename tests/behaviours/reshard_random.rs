//! Whatever happens to a stream and to its readers: each event is in the lake once, the events of a key in their order.

use std::time::Duration;

use harness::stream_world::{Make, World};
use headwater_common::position::{Position, ShardId};
use headwater_consumer::driver::Until;
use headwater_consumer::policy::Limits;
use headwater_stream::memory::MemoryLog;
use headwater_stream::{Source, StartAt};
use proptest::prelude::*;

/// What happens next.
#[derive(Debug, Clone)]
enum Step {
    /// So many events are put.
    Put(u64),
    /// An open shard is split in its middle.
    Split(usize),
    /// An open shard is merged with the next one.
    Merge(usize),
    /// The stream gets so many shards.
    Resize(u32),
    /// The stream forgets the closed shards that were read to their end.
    Forget,
    /// A worker reads all there is, in epochs of so many events.
    Consume(u64),
    /// A worker begins to, and is dead after so many milliseconds.
    Crash(u64, u64),
    /// Two workers do it at once.
    Race(u64),
}

fn any_steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        5 => (1_u64..60).prop_map(Step::Put),
        3 => (0_usize..8).prop_map(Step::Split),
        3 => (0_usize..8).prop_map(Step::Merge),
        1 => (1_u32..7).prop_map(Step::Resize),
        1 => Just(Step::Forget),
        3 => (3_u64..50).prop_map(Step::Consume),
        2 => (3_u64..50, 1_u64..60).prop_map(|(rows, millis)| Step::Crash(rows, millis)),
        1 => (3_u64..50).prop_map(Step::Race),
    ];
    prop::collection::vec(step, 1..16)
}

async fn forget_ended(world: &World) {
    let positions = world.positions().await;
    let open: Vec<_> = world.log.open_shards().into_iter().map(|(shard, _)| shard).collect();
    for shard in world.log.shards().await.unwrap() {
        if !open.contains(&shard.id) && positions.get(&shard.id) == Some(&Position::SHARD_END) {
            world.log.forget(&shard.id);
        }
    }
}

/// Takes a step; returns how many events were put by it.
async fn take(world: &mut World, step: &Step, put: u64) -> u64 {
    let open = world.log.open_shards();
    match step {
        Step::Put(count) => {
            world.put(put..put + count).await;
            return *count;
        }
        Step::Split(index) => {
            let (shard, hash_keys) = &open[index % open.len()];
            let middle = hash_keys.start() + (hash_keys.end() - hash_keys.start()) / 2 + 1;
            if middle <= *hash_keys.end() {
                world.log.split(shard, middle);
            }
        }
        Step::Merge(index) if open.len() > 1 => {
            let index = index % (open.len() - 1);
            world.log.merge(&open[index].0, &open[index + 1].0);
        }
        Step::Merge(_) => {}
        Step::Resize(count) => world.log.update_shard_count(*count),
        Step::Forget => forget_ended(world).await,
        Step::Consume(rows) => {
            world.limits = Limits { rows: *rows, ..Limits::default() };
            world.catch_up().await;
        }
        Step::Crash(rows, millis) => {
            world.limits = Limits { rows: *rows, ..Limits::default() };
            let consuming = world.consume(Until::CaughtUp);
            if let Ok(result) = tokio::time::timeout(Duration::from_millis(*millis), consuming).await {
                result.unwrap();
            }
        }
        Step::Race(rows) => {
            world.limits = Limits { rows: *rows, ..Limits::default() };
            let (one, other) = tokio::join!(world.consume(Until::CaughtUp), world.consume(Until::CaughtUp));
            one.unwrap();
            other.unwrap();
        }
    }
    0
}

async fn run(make: Make, lanes: u32, steps: &[Step]) {
    let mut world = World::new(make, 2);
    world.create(lanes, StartAt::TrimHorizon).await;
    let mut put = 0;
    for step in steps {
        put += take(&mut world, step, put).await;
    }
    // Something to end with, so that there is a table.
    world.put(put..put + 1).await;
    world.catch_up().await;
    world.check(0..put + 1).await;
    let positions = world.positions().await;
    let open: Vec<ShardId> = world.log.open_shards().into_iter().map(|(shard, _)| shard).collect();
    for shard in world.log.shards().await.unwrap() {
        let is_at_end = positions.get(&shard.id) == Some(&Position::SHARD_END);
        assert_eq!(is_at_end, !open.contains(&shard.id), "no shard is forgotten: {}", shard.id);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn fm07_fm09_lanes_that_crash_and_race_lose_and_reorder_nothing_while_shards_split_and_merge(
        has_numbers in any::<bool>(),
        lanes in 1_u32..5,
        steps in any_steps(),
    ) {
        let make: Make = if has_numbers { MemoryLog::reshardable } else { MemoryLog::without_numbers };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(make, lanes, &steps));
    }
}
