//! Where a lane stops by itself.
//!
//! Until caught up: an event that arrived before the run began can only be in a shard that existed then, so these are
//! the shards that are read, a closed one to its end and an open one to its newest event, or until a read finds no more;
//! children that come later need no reading. Until given positions: these name the shards themselves, children too.

use std::collections::{BTreeMap, BTreeSet};

use headwater_common::position::{Position, ShardId};
use headwater_stream::lineage::is_underway;
use headwater_stream::stretch::Bound;
use headwater_stream::{Error as StreamError, Shard, Source, StartAt};

use crate::shards::{Positions, position_of};

/// Where to stop in each shard of a lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bounds {
    shards: BTreeMap<ShardId, Bound>,
    /// Shards of which a read said that nothing up to the bound follows, although they do not stand at it.
    reached: BTreeSet<ShardId>,
    /// Shards that cannot be begun in this run, and of which nothing is asked for.
    behind: BTreeSet<ShardId>,
}

/// A shard is to be read, and its parent is not to be read to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LeftOut {
    /// The shard.
    pub(super) shard: ShardId,
    /// The parent.
    pub(super) parent: ShardId,
}

/// Finds where reading ends in these shards when what there is now is read.
pub(crate) async fn newest(
    source: &dyn Source,
    listed: &[Shard],
    wanted: &[ShardId],
) -> Result<BTreeMap<ShardId, Bound>, StreamError> {
    let mut shards = BTreeMap::new();
    for shard in wanted {
        let newest = Bound::from(source.resolve(shard, StartAt::Latest).await?);
        // Others wait for its end, which is there.
        let is_closed = listed.iter().any(|child| child.parents.contains(shard));
        let bound = match newest {
            Bound::Before(_) if is_closed => Bound::End,
            // The time is the reader's, the arrivals are the stream's: what is there already counts as before.
            Bound::Before(time) => Bound::Tip(time),
            exact => exact,
        };
        shards.insert(shard.clone(), bound);
    }
    Ok(shards)
}

impl Bounds {
    fn of(shards: BTreeMap<ShardId, Bound>) -> Self {
        Self { shards, reached: BTreeSet::new(), behind: BTreeSet::new() }
    }

    /// Returns the bounds of the lane's shards; one that came after they were found has none.
    pub(super) fn of_own(found: &BTreeMap<ShardId, Bound>, own: &[ShardId]) -> Self {
        let bound = |shard: &ShardId| Some((shard.clone(), *found.get(shard)?));
        Self::of(own.iter().filter_map(bound).collect())
    }

    /// Returns the bounds of a run that ends when what there is now is read.
    pub(super) async fn caught_up(source: &dyn Source, listed: &[Shard], own: &[ShardId]) -> Result<Self, StreamError> {
        newest(source, listed, own).await.map(Self::of)
    }

    /// Returns the bounds of a run that ends at given positions.
    pub(super) fn given(wanted: &Positions, own: &[ShardId]) -> Self {
        let bound = |shard: &ShardId| Some((shard.clone(), Bound::from(*wanted.get(shard)?)));
        Self::of(own.iter().filter_map(bound).collect())
    }

    /// Returns where to stop in a shard; `None` when it is not to be read.
    pub(super) fn get(&self, shard: &ShardId) -> Option<Bound> {
        self.shards.get(shard).copied()
    }

    /// Notes that a read came to the bound of a shard.
    pub(super) fn reach(&mut self, shard: &ShardId) {
        self.reached.insert(shard.clone());
    }

    /// Forgets what reads have said: the positions are others.
    pub(super) fn forget(&mut self) {
        self.reached.clear();
    }

    /// Returns true when nothing of a shard is left to be read.
    pub(super) fn is_reached(&self, shard: &ShardId, position: Position) -> bool {
        let is_at = self.get(shard).is_none_or(|bound| bound.is_reached_at(position));
        is_at || self.reached.contains(shard) || self.behind.contains(shard)
    }

    /// Returns true when nothing of any shard is left to be read.
    pub(super) fn are_reached(&self, positions: &Positions) -> bool {
        self.shards.keys().all(|shard| self.is_reached(shard, position_of(positions, shard)))
    }

    /// Returns how many events there are up to the bounds, where sequence numbers have no gaps.
    pub(super) fn events_after(&self, positions: &Positions) -> u64 {
        let number = |position: Position| position.sequence.as_u64().unwrap_or(0);
        let left = |(shard, bound): (&ShardId, &Bound)| match bound {
            Bound::At(last) => number(*last).saturating_sub(number(position_of(positions, shard))),
            Bound::Before(_) | Bound::Tip(_) | Bound::End => 0,
        };
        self.shards.iter().map(left).sum()
    }

    /// Finds the shards that would wait for ever, because this run ends before the end of a parent. `wanted` are the
    /// positions of all lanes, `known` where shards stand.
    ///
    /// # Errors
    /// When events of one of them are asked for.
    pub(super) fn find_behind(
        &mut self,
        listed: &[Shard],
        wanted: &Positions,
        known: &Positions,
    ) -> Result<(), LeftOut> {
        let mut stopped: BTreeMap<&ShardId, &ShardId> = BTreeMap::new();
        for shard in listed {
            let position = position_of(known, &shard.id);
            if position == Position::SHARD_END || is_underway(position) {
                continue;
            }
            let ends = |parent: &ShardId| {
                let is_read_to_end = wanted.get(parent) == Some(&Position::SHARD_END) && !stopped.contains_key(parent);
                let is_listed = listed.iter().any(|listed| listed.id == *parent);
                is_read_to_end || !is_listed || position_of(known, parent) == Position::SHARD_END
            };
            if let Some(parent) = shard.parents.iter().find(|parent| !ends(parent)) {
                stopped.insert(&shard.id, parent);
            }
        }
        for (shard, parent) in &stopped {
            match self.get(shard) {
                Some(bound @ Bound::At(_)) if bound.is_reached_at(position_of(known, shard)) => {}
                Some(Bound::At(_) | Bound::End) => {
                    return Err(LeftOut { shard: (*shard).clone(), parent: (*parent).clone() });
                }
                // Nobody has seen an event there.
                Some(Bound::Before(_) | Bound::Tip(_)) | None => {}
            }
        }
        self.behind = stopped.into_keys().filter(|shard| self.shards.contains_key(*shard)).cloned().collect();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(id: &str, parents: &[&str]) -> Shard {
        Shard { id: id.into(), first_hash_key: 0, parents: parents.iter().map(|parent| (*parent).into()).collect() }
    }

    fn positions(pairs: &[(&str, &str)]) -> Positions {
        pairs.iter().map(|(shard, position)| ((*shard).into(), position.parse().unwrap())).collect()
    }

    #[test]
    fn a_run_ends_when_every_shard_is_at_its_bound_or_was_said_to_be() {
        let shards = ["a", "b", "c"].map(ShardId::from);
        let mut bounds = Bounds::given(&positions(&[("a", "7:0"), ("b", "0:0@5"), ("d", "1:0")]), &shards);
        assert!(!bounds.are_reached(&positions(&[])));
        assert!(!bounds.are_reached(&positions(&[("a", "7:0")])), "b has a time to come to");
        bounds.reach(&"b".into());
        assert!(bounds.are_reached(&positions(&[("a", "7:0@3")])), "c is not asked for, d is of another lane");
        bounds.forget();
        assert!(!bounds.are_reached(&positions(&[("a", "7:0")])));
        assert!(bounds.are_reached(&positions(&[("a", "SHARD_END"), ("b", "0:0@5")])));
    }

    #[test]
    fn a_child_whose_parent_stops_before_its_end_is_not_waited_for() {
        let listed = [shard("a", &[]), shard("b", &["a"]), shard("c", &["b"])];
        let check = |wanted: &[(&str, &str)], known: &[(&str, &str)], expect: Result<&[&str], (&str, &str)>| {
            let wanted = positions(wanted);
            let mut bounds = Bounds::given(&wanted, &["a", "b", "c"].map(ShardId::from));
            let found = bounds.find_behind(&listed, &wanted, &positions(known));
            let found = found.map(|()| bounds.behind.iter().map(ShardId::as_str).collect::<Vec<_>>());
            let expect = expect.map(<[&str]>::to_vec);
            let expect = expect.map_err(|(shard, parent)| LeftOut { shard: shard.into(), parent: parent.into() });
            assert_eq!(found, expect, "{wanted:?} {known:?}");
        };
        check(&[("a", "SHARD_END"), ("b", "SHARD_END"), ("c", "9:0")], &[], Ok(&[]));
        check(&[("a", "SHARD_END"), ("b", "5:0"), ("c", "0:0@5")], &[], Ok(&["c"]));
        check(&[("a", "3:0"), ("b", "0:0@5"), ("c", "0:0@5")], &[], Ok(&["b", "c"]));
        check(&[("a", "3:0"), ("b", "0:0")], &[], Ok(&["b"]));
        check(&[("b", "5:0")], &[], Err(("b", "a")));
        check(&[("b", "5:0")], &[("a", "SHARD_END")], Ok(&[]));
        check(&[("b", "5:0")], &[("b", "4:0")], Ok(&[]));
        check(&[("a", "3:0"), ("b", "SHARD_END"), ("c", "9:0")], &[], Err(("b", "a")));
    }
}
