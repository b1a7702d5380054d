//! Which cut of a lane holds the record after a position: decided here, read elsewhere.
//!
//! Every cut whose epoch is a multiple of [`POSITIONS_EVERY`] lists the positions of all shards. So the block of epochs
//! is found by halving, with a few cuts read, however many there are; inside a block they are read one by one.

use std::ops::RangeInclusive;

use headwater_common::position::{Position, Segment, ShardId};
use headwater_lake::cut::{Cut, POSITIONS_EVERY};
use headwater_lake::layout::Epoch;

/// Looks for the first block of epochs after which a shard stands beyond a position.
#[derive(Debug)]
pub(super) struct Search {
    /// Blocks below this one end at the position or before it.
    low: u64,
    /// This block, if it is whole, ends beyond it.
    high: u64,
    committed: Epoch,
}

impl Search {
    /// Returns a search among the committed epochs of a lane.
    pub(super) fn among(committed: Epoch) -> Self {
        Self { low: 0, high: committed.0 / POSITIONS_EVERY, committed }
    }

    /// Returns the epoch whose cut is to be read now, for the positions it lists; `None` when the block is found.
    pub(super) fn next(&self) -> Option<Epoch> {
        (self.low < self.high).then(|| Epoch((self.middle() + 1) * POSITIONS_EVERY))
    }

    /// Takes whether the shard stands beyond the position after the epoch that [`Search::next`] named.
    pub(super) fn tell(&mut self, is_beyond: bool) {
        if is_beyond { self.high = self.middle() } else { self.low = self.middle() + 1 }
    }

    /// Returns the epochs of the block that was found.
    pub(super) fn block(&self) -> RangeInclusive<u64> {
        let first = self.low * POSITIONS_EVERY + 1;
        first..=block_end(Epoch(first), self.committed)
    }

    fn middle(&self) -> u64 {
        self.low + (self.high - self.low) / 2
    }
}

/// Returns the last epoch of the block that an epoch is in.
pub(super) fn block_end(epoch: Epoch, committed: Epoch) -> u64 {
    epoch.0.next_multiple_of(POSITIONS_EVERY).min(committed.0)
}

/// Returns what a cut took of a shard; a cut of an archive takes one stretch with records at most.
pub(super) fn records_of<'a>(cut: &'a Cut, shard: &ShardId) -> Option<&'a Segment> {
    cut.segments.iter().find(|segment| segment.shard == *shard && !segment.is_without_events())
}

/// Returns true when a cut says that a shard ended.
pub(super) fn ends(cut: &Cut, shard: &ShardId) -> bool {
    cut.segments.iter().any(|segment| segment.shard == *shard && segment.to == Position::SHARD_END)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_block_of_every_epoch_is_found_with_few_looks() {
        for committed in [1, 63, 64, 65, 128, 200, 6_400, 100_000] {
            for wanted in [1, 2, 63, 64, 65, 127, 128, 129, committed / 2, committed] {
                if wanted == 0 || wanted > committed {
                    continue;
                }
                let mut search = Search::among(Epoch(committed));
                let mut looks = 0;
                while let Some(epoch) = search.next() {
                    assert!(epoch.0 <= committed && epoch.0.is_multiple_of(POSITIONS_EVERY));
                    search.tell(epoch.0 >= wanted);
                    looks += 1;
                }
                assert!(search.block().contains(&wanted), "{wanted} of {committed}: {:?}", search.block());
                assert!(search.block().count() as u64 <= POSITIONS_EVERY);
                assert!(looks <= 12, "{looks}");
            }
        }
    }
}
