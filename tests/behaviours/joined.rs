//! An archive and its stream are one log, wherever the archive was cut and whatever either of them has forgotten.

use std::sync::Arc;
use std::time::Duration;

use harness::archive::{Archived, Forgetting};
use harness::contract::START;
use headwater_common::clock::{Clock, ManualClock};
use headwater_common::event::Event;
use headwater_common::position::{Position, ShardId};
use headwater_stream::joined::Joined;
use headwater_stream::memory::MemoryLog;
use headwater_stream::{Error, Put, Sink, Source, StartAt};
use proptest::prelude::*;

const SHARDS: u32 = 2;

/// What happens to the log and its archive.
#[derive(Debug, Clone)]
enum Step {
    /// So many records are put, one a second.
    Put(u64),
    /// All there is is archived, in epochs of so many records.
    Archive(u64),
    /// The log forgets so many of a shard's oldest records, as far as it has them.
    ForgetInLog(u32, u64),
    /// The archive forgets what arrived more than so many seconds ago.
    ForgetInArchive(u64),
}

fn any_steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (1_u64..20).prop_map(Step::Put),
        3 => (4_u64..20).prop_map(Step::Archive),
        2 => (0..SHARDS, 1_u64..20).prop_map(|(shard, count)| Step::ForgetInLog(shard, count)),
        1 => (5_u64..60).prop_map(Step::ForgetInArchive),
    ];
    prop::collection::vec(step, 1..12)
}

struct World {
    clock: Arc<ManualClock>,
    log: MemoryLog,
    /// The same log, that never forgot anything.
    truth: MemoryLog,
    archived: Archived,
    put: u64,
}

impl World {
    async fn new() -> Self {
        let clock = Arc::new(ManualClock::at(START));
        let shared = || Arc::clone(&clock) as Arc<dyn Clock>;
        let log = MemoryLog::new("world", SHARDS, shared());
        let truth = MemoryLog::new("world", SHARDS, shared());
        let archived = Archived::new(log.clone(), shared(), Forgetting::Nothing).await;
        Self { clock, log, truth, archived, put: 0 }
    }

    async fn take(&mut self, step: &Step) {
        match step {
            Step::Put(count) => {
                for _ in 0..*count {
                    self.put += 1;
                    let put = Put {
                        partition_key: format!("key {}", self.put % 7).into(),
                        payload: format!("record {}", self.put).into(),
                    };
                    self.log.put(vec![put.clone()]).await.unwrap();
                    self.truth.put(vec![put]).await.unwrap();
                    self.clock.advance(Duration::from_secs(1));
                }
            }
            Step::Archive(records) => match self.archived.catch_up(*records).await {
                // It stops loudly where the log has forgotten what it has not got yet.
                Ok(()) | Err(headwater_consumer::driver::Error::Stream { source: Error::Expired { .. }, .. }) => {}
                Err(error) => panic!("{error}"),
            },
            Step::ForgetInLog(shard, count) => {
                let id = ShardId::from(shard.to_string().as_str());
                let held =
                    number(&self.log, &id, StartAt::Latest).await - number(&self.log, &id, StartAt::TrimHorizon).await;
                self.log.trim(*shard, usize::try_from(held.min(*count)).unwrap());
            }
            Step::ForgetInArchive(seconds) => {
                self.archived.retain(Duration::from_secs(*seconds), self.clock.now()).await;
            }
        }
    }
}

async fn number(source: &dyn Source, shard: &ShardId, at: StartAt) -> u64 {
    source.resolve(shard, at).await.unwrap().sequence.as_u64().unwrap()
}

/// Reads on until there is nothing or an error.
async fn read_on(source: &dyn Source, shard: &ShardId, mut after: Position) -> (Vec<Event>, Option<Error>) {
    let mut events: Vec<Event> = Vec::new();
    loop {
        match source.read(shard, after, 40).await {
            Err(error) => return (events, Some(error)),
            Ok(read) if read.events.is_empty() => return (events, None),
            Ok(read) => {
                after = read.events[read.events.len() - 1].position;
                events.extend(read.events);
            }
        }
    }
}

/// How a source is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    /// At every position.
    Everywhere,
    /// At some positions, and not at those that the archive has forgotten: it may still have them in memory.
    Here,
}

async fn check(world: &World, joined: &Joined, shard: &ShardId, look: Look) {
    let archive = world.archived.source().await;
    let archived = number(&archive, shard, StartAt::TrimHorizon).await..number(&archive, shard, StartAt::Latest).await;
    let logged =
        number(&world.log, shard, StartAt::TrimHorizon).await..number(&world.log, shard, StartAt::Latest).await;
    let whole = read_on(&world.truth, shard, Position::START).await.0;
    let positions =
        if look == Look::Everywhere { 0..=logged.end } else { archived.start.min(logged.start)..=logged.end };
    for after in positions.step_by(if look == Look::Everywhere { 1 } else { 5 }) {
        let in_archive = archived.contains(&after);
        let reached = match after >= logged.start || (in_archive && archived.end >= logged.start) {
            true => logged.end,
            false if in_archive => archived.end,
            false => after,
        };
        let (events, error) = read_on(joined, shard, Position::of_record(after.into())).await;
        let index = |number: u64| usize::try_from(number).unwrap();
        assert_eq!(events, whole[index(after)..index(reached)], "after {after}: {archived:?} {logged:?}");
        match error {
            None => assert_eq!(reached, logged.end, "a gap is said: {archived:?} {logged:?}"),
            Some(Error::Expired { after: at, .. }) => {
                assert!(reached < logged.end && at == Position::of_record(reached.into()), "{at} instead of {reached}");
            }
            Some(error) => panic!("{error}"),
        }
    }
    let begins = joined.resolve(shard, StartAt::TrimHorizon).await;
    match begins {
        Ok(begins) if archived.is_empty() => assert_eq!(begins, Position::of_record(logged.start.into())),
        Ok(begins) => {
            assert!(archived.end >= logged.start);
            assert_eq!(begins, Position::of_record(archived.start.min(logged.start).into()));
        }
        Err(error) => assert!(archived.end < logged.start && matches!(error, Error::Expired { .. }), "{error}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn v1_archive_and_stream_read_as_one_log(steps in any_steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut world = World::new().await;
            let shards = world.log.shards().await.unwrap();
            // One that was opened before anything happened, and so has to look again; it is read from in between, too.
            let early: Arc<dyn Source> = Arc::new(world.archived.source().await);
            let early = Joined::new(early, Arc::new(world.log.clone())).await.unwrap();
            for step in &steps {
                world.take(step).await;
                if matches!(step, Step::Archive(_)) {
                    for shard in &shards {
                        check(&world, &early, &shard.id, Look::Here).await;
                    }
                }
            }
            let late: Arc<dyn Source> = Arc::new(world.archived.source().await);
            let late = Joined::new(late, Arc::new(world.log.clone())).await.unwrap();
            for shard in &shards {
                check(&world, &late, &shard.id, Look::Everywhere).await;
            }
        });
    }
}

#[tokio::test]
async fn an_archive_and_another_stream_are_not_joined() {
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(START));
    let log = MemoryLog::new("one", 1, Arc::clone(&clock));
    let archived = Archived::new(log, Arc::clone(&clock), Forgetting::Nothing).await;
    let other: Arc<dyn Source> = Arc::new(MemoryLog::new("other", 1, clock));
    let error = Joined::new(Arc::new(archived.source().await), other).await.unwrap_err();
    assert!(matches!(error, Error::NotOneStream { .. }), "{error}");
}
