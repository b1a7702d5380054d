//! Which shards may be read, on random trees of splits and merges.

use std::collections::{BTreeMap, BTreeSet};

use headwater_common::position::{Position, ShardId};
use headwater_stream::Shard;
use headwater_stream::lineage::{self, Lineage};
use proptest::prelude::*;

/// What happens next.
#[derive(Debug, Clone)]
enum Step {
    /// An open shard is split.
    Split(usize),
    /// Two open shards are merged.
    Merge(usize, usize),
    /// Some events of a readable shard are read.
    Read(usize),
    /// A readable shard is read as far as it goes: to its end, when it is closed.
    Drain(usize),
    /// The stream forgets an ended shard.
    Forget(usize),
}

fn any_steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => any::<usize>().prop_map(Step::Split),
        2 => any::<(usize, usize)>().prop_map(|(one, other)| Step::Merge(one, other)),
        2 => any::<usize>().prop_map(Step::Read),
        3 => any::<usize>().prop_map(Step::Drain),
        1 => any::<usize>().prop_map(Step::Forget),
    ];
    prop::collection::vec(step, 0..60)
}

/// A stream, and how far it is read.
#[derive(Debug, Default)]
struct World {
    shards: Vec<Shard>,
    closed: BTreeSet<ShardId>,
    forgotten: BTreeSet<ShardId>,
    positions: BTreeMap<ShardId, Position>,
    read: u64,
}

impl World {
    fn add(&mut self, parents: Vec<ShardId>) {
        self.closed.extend(parents.iter().cloned());
        let id = ShardId::from(self.shards.len().to_string().as_str());
        self.shards.push(Shard { id, first_hash_key: 0, parents });
    }

    fn listed(&self) -> Vec<Shard> {
        self.shards.iter().filter(|shard| !self.forgotten.contains(&shard.id)).cloned().collect()
    }

    fn open(&self) -> Vec<ShardId> {
        self.shards.iter().map(|shard| shard.id.clone()).filter(|shard| !self.closed.contains(shard)).collect()
    }

    fn look(&self) -> Lineage {
        lineage::look(&self.listed(), &BTreeMap::from([("0".into(), Position::START)]), &self.positions)
    }

    fn position(&self, shard: &ShardId) -> Position {
        self.positions.get(shard).copied().unwrap_or(Position::START)
    }

    fn read_some(&mut self, shard: &ShardId) {
        self.read += 1;
        self.positions.insert(shard.clone(), Position::of_record(self.read.into()));
    }

    fn drain(&mut self, shard: &ShardId) {
        if self.closed.contains(shard) {
            self.positions.insert(shard.clone(), Position::SHARD_END);
        } else {
            self.read_some(shard);
        }
    }

    fn take(&mut self, step: &Step) {
        let (open, readable) = (self.open(), self.look().readable);
        let any = |shards: &[ShardId], index: usize| shards.get(index % shards.len().max(1)).cloned();
        match *step {
            Step::Split(index) => {
                let parent = any(&open, index).expect("one is always open");
                self.add(vec![parent.clone()]);
                self.add(vec![parent]);
            }
            Step::Merge(one, other) => {
                let parents: BTreeSet<_> = [one, other].into_iter().filter_map(|index| any(&open, index)).collect();
                if parents.len() == 2 {
                    self.add(parents.into_iter().collect());
                }
            }
            Step::Read(index) => any(&readable, index).iter().for_each(|shard| self.read_some(shard)),
            Step::Drain(index) => any(&readable, index).iter().for_each(|shard| self.drain(shard)),
            Step::Forget(index) => self.forgotten.extend(any(&self.look().ended, index)),
        }
    }

    fn check(&self) {
        let Lineage { readable, waiting, ended, gone } = self.look();
        assert!(gone.is_empty(), "what was read to its end may be forgotten: {gone:?}");
        let waiting_ids = waiting.iter().map(|waiting| &waiting.shard);
        let said: Vec<_> = readable.iter().chain(waiting_ids).chain(&ended).cloned().collect();
        let listed: BTreeSet<_> = self.listed().into_iter().map(|shard| shard.id).collect();
        assert_eq!(said.iter().cloned().collect::<BTreeSet<_>>(), listed, "no shard is forgotten");
        assert_eq!(said.len(), listed.len(), "and none is said twice");
        for shard in &self.shards {
            let is_done = |parent: &ShardId| self.position(parent) == Position::SHARD_END;
            let unfinished: Vec<_> = shard.parents.iter().filter(|parent| !is_done(parent)).cloned().collect();
            if readable.contains(&shard.id) {
                assert!(unfinished.is_empty(), "{} is read before the end of {unfinished:?}", shard.id);
            }
            if let Some(waiting) = waiting.iter().find(|waiting| waiting.shard == shard.id) {
                assert_eq!(waiting.parents, unfinished, "a merge waits for both");
            }
        }
    }
}

proptest! {
    #[test]
    fn fm07_parents_come_before_children_and_no_shard_is_forgotten(steps in any_steps()) {
        let mut world = World::default();
        world.add(Vec::new());
        for step in &steps {
            world.take(step);
            world.check();
        }
        // Read on: in as many rounds as there are generations everything is read.
        for _ in 0..world.shards.len() {
            for shard in world.look().readable {
                world.drain(&shard);
            }
            world.check();
        }
        let Lineage { readable, waiting, .. } = world.look();
        prop_assert!(waiting.is_empty(), "{:?}", waiting);
        prop_assert_eq!(readable, world.open());
    }
}
