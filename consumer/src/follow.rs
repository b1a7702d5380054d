//! Following the pointer: how a running consumer learns that another generation is live, or that other lanes are
//! asked for, and what tells its lanes to stop. Safety does not rest on when it looks; a seal blocks who has not
//! looked, and a closing cut fences.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering};
use std::time::Duration;

use headwater_common::timestamp::Timestamp;
use headwater_lake::Error as LakeError;
use headwater_lake::generation::OpenGeneration;
use headwater_lake::lanes;
use headwater_lake::layout::{LaneSetNumber, PointerNumber};
use headwater_lake::pointer;
use tokio::sync::watch;

/// How long apart the lanes of an idle consumer look for the next pointer and the next set of lanes, all together: two
/// small requests each time.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Looks for the next pointer, and for the next set of lanes. The lanes of a consumer share one.
#[derive(Debug)]
pub(crate) struct Follower {
    generation: Arc<OpenGeneration>,
    /// The highest pointer that was read; it names the generation.
    known: AtomicU32,
    /// The set of lanes that is worked on.
    lanes: LaneSetNumber,
    /// Whether there is a set after it.
    has_next_lanes: AtomicBool,
    looked_at_micros: AtomicI64,
}

impl Follower {
    /// Returns a follower that knows the pointer which names the generation, and works on this set of its lanes.
    pub(crate) fn new(
        generation: Arc<OpenGeneration>,
        known: PointerNumber,
        lanes: LaneSetNumber,
        now: Timestamp,
    ) -> Self {
        Self {
            generation,
            known: AtomicU32::new(known.0),
            lanes,
            has_next_lanes: AtomicBool::new(false),
            looked_at_micros: AtomicI64::new(now.micros()),
        }
    }

    /// Returns true when one of the lanes has found that there is a next set.
    pub(crate) fn knows_next_lanes(&self) -> bool {
        self.has_next_lanes.load(Ordering::Relaxed)
    }

    /// There is a next set of lanes.
    pub(crate) fn learn_next_lanes(&self) {
        self.has_next_lanes.store(true, Ordering::Relaxed);
    }

    /// Looks now; true when another generation is live. Learns by the way whether there is a next set of lanes.
    pub(crate) async fn has_moved(&self, now: Timestamp) -> Result<bool, LakeError> {
        self.looked_at_micros.store(now.micros(), Ordering::Relaxed);
        if !self.knows_next_lanes() && lanes::after(&self.generation, self.lanes).await?.is_some() {
            self.learn_next_lanes();
        }
        let OpenGeneration { store, table, description } = self.generation.as_ref();
        let known = PointerNumber(self.known.load(Ordering::Relaxed));
        let Some(newer) = pointer::newer(store, table, known).await? else {
            return Ok(false);
        };
        if newer.generation == description.number {
            // A cutover that did not come about, or gc: this generation goes on.
            self.known.fetch_max(newer.number.0, Ordering::Relaxed);
            return Ok(false);
        }
        Ok(true)
    }

    /// Looks, unless a lane of the consumer looked not long ago.
    pub(crate) async fn has_moved_at_times(&self, now: Timestamp) -> Result<bool, LakeError> {
        let looked_at = Timestamp::from_micros(self.looked_at_micros.load(Ordering::Relaxed));
        if now.since(looked_at) < LOOK_EVERY { Ok(false) } else { self.has_moved(now).await }
    }
}

/// What the lanes of a consumer are told by it. A later one of these goes before an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Told {
    /// Nothing.
    GoOn,
    /// Cut what is buffered and stop.
    Cut,
    /// Stop; what is buffered belongs to a generation that is live no more.
    Leave,
}

/// Everything that may stop a lane.
#[derive(Debug, Clone)]
pub(crate) struct Signals {
    /// Turns true when the process is to stop.
    pub(crate) shutdown: watch::Receiver<bool>,
    /// What the consumer says.
    pub(crate) told: watch::Receiver<Told>,
}

impl Signals {
    /// Returns true when the lane is to stop.
    pub(crate) fn is_stopped(&self) -> bool {
        *self.shutdown.borrow() || *self.told.borrow() != Told::GoOn
    }

    /// Does something that may be given up, unless the lane is to stop: then says how. The only `select!` of a lane.
    pub(crate) async fn unless_stopped<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Told> {
        tokio::select! {
            biased;
            () = is_true(&mut self.shutdown) => Err(Told::Cut),
            told = is_told(&mut self.told) => Err(told),
            done = work => Ok(done),
        }
    }
}

/// Waits until the value turns true; for ever when its sender is gone.
pub(crate) async fn is_true(value: &mut watch::Receiver<bool>) {
    if value.wait_for(|told| *told).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Waits until the lanes are told something; for ever when the sender is gone.
async fn is_told(value: &mut watch::Receiver<Told>) -> Told {
    let told = value.wait_for(|told| *told != Told::GoOn).await.map(|told| *told);
    match told {
        Ok(told) => told,
        Err(_) => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use headwater_lake::generation::{Generation, StreamFacts};
    use headwater_lake::layout::GenerationNumber;
    use headwater_lake::pointer::Pointer;
    use headwater_lake::store::LakeStore;
    use object_store::memory::InMemory;

    use super::*;
    use crate::pipeline::Pipeline;

    #[tokio::test]
    async fn k7_a_consumer_looks_for_the_next_pointer_and_for_the_next_lanes_and_passes_pointers_of_its_generation() {
        let store = LakeStore::on_store(Arc::new(InMemory::new()));
        let table = "t".parse().unwrap();
        let pipeline = Pipeline::default();
        let facts = StreamFacts {
            identity: "s".into(),
            sequence_digits: 20,
            gap_free: true,
            start: std::collections::BTreeMap::new(),
        };
        let description =
            Generation::first(pipeline.canonical(), pipeline.hash(), pipeline.partition_by.clone(), 1, facts);
        let generation = Arc::new(OpenGeneration { store: store.clone(), table, description });
        let second = |seconds: u64| Timestamp::from_micros(0).plus(Duration::from_secs(seconds));
        let first = Pointer::first(GenerationNumber::FIRST);
        let create = async |pointer: &Pointer| pointer::create(&store, &generation.table, pointer).await.unwrap();
        create(&first).await;
        let first_set = LaneSetNumber::FIRST;
        let follower = Follower::new(Arc::clone(&generation), first.number, first_set, second(0));
        assert!(!follower.has_moved(second(0)).await.unwrap());
        let same = first.following(GenerationNumber::FIRST);
        create(&same).await;
        assert!(!follower.has_moved(second(0)).await.unwrap(), "the same generation goes on");
        create(&same.following(GenerationNumber(2))).await;
        assert!(!follower.has_moved_at_times(second(0)).await.unwrap(), "it has just looked");
        assert!(follower.has_moved_at_times(second(1)).await.unwrap());
        assert!(!follower.knows_next_lanes());
        lanes::ask(&generation, 5).await.unwrap();
        follower.has_moved_at_times(second(1)).await.unwrap();
        assert!(!follower.knows_next_lanes(), "it has just looked");
        follower.has_moved_at_times(second(2)).await.unwrap();
        assert!(follower.knows_next_lanes());
    }
}
