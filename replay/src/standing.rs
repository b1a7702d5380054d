//! Where a generation stands in the stream.

use std::collections::BTreeSet;

use headwater_common::position::{Position, ShardId};
use headwater_lake::Error;
use headwater_lake::commit::{
    committed_everywhere, committed_everywhere_of, furthest_after, lanes_with_cuts, read_cut,
};
use headwater_lake::cut::POSITIONS_EVERY;
use headwater_lake::generation::{self, OpenGeneration};
use headwater_lake::lanes;
use headwater_lake::layout::{self, Epoch, GenerationNumber, TableName};
use headwater_lake::pointer;
use headwater_lake::store::LakeStore;
use headwater_stream::lineage::is_underway;

use crate::range::Positions;

/// Which epochs count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counting {
    /// Those that are committed in every output.
    Committed,
    /// Also the next one when its cut is published: a restart redoes it, mostly without the log.
    Published,
}

/// Returns the generations that have a description and are not retired: the others are gone, or going.
///
/// # Errors
/// When the lake does not answer.
pub async fn usable(store: &LakeStore, table: &TableName) -> Result<BTreeSet<GenerationNumber>, Error> {
    let retired = pointer::highest(store, table).await?.map(|highest| highest.retired).unwrap_or_default();
    let mut usable = BTreeSet::new();
    for number in generation::in_folders(store, table).await? {
        let is_there = store.head(&layout::generation_file(table, number)).await?.is_some();
        if is_there && !retired.contains(&number) {
            usable.insert(number);
        }
    }
    Ok(usable)
}

/// Returns where each shard stands in a generation.
///
/// # Errors
/// When the lake does not answer or a cut is missing.
pub async fn positions(generation: &OpenGeneration, counting: Counting) -> Result<Positions, Error> {
    let lanes = lanes::current(generation).await?.set.lanes();
    let mut epochs = committed_everywhere_of(generation, lanes).await?;
    if counting == Counting::Published {
        for (lane, epoch) in &mut epochs {
            if read_cut(generation, *lane, epoch.next()).await?.is_some() {
                *epoch = epoch.next();
            }
        }
    }
    furthest_after(generation, epochs).await
}

/// Returns for each shard the earliest event that a generation is known to have taken, up to the accuracy of its
/// epochs. What a stream has lost of its history is told by events that were there once.
///
/// # Errors
/// When the lake does not answer or a cut is damaged.
pub async fn first_taken(generation: &OpenGeneration) -> Result<Positions, Error> {
    let mut first = Positions::new();
    for lane in lanes_with_cuts(generation).await? {
        let committed = committed_everywhere(generation, lane).await?;
        let mut epoch = Epoch(1);
        while epoch <= committed {
            let Some(cut) = read_cut(generation, lane, epoch).await? else {
                break;
            };
            let taken = cut.segments.into_iter().filter(|segment| !segment.is_without_events());
            let listed = cut.positions.into_iter().flatten().filter(|(_, position)| is_underway(*position));
            for (shard, position) in taken.map(|segment| (segment.shard, segment.to)).chain(listed) {
                first.entry(shard).or_insert(position.unmarked());
            }
            // One by one as far as a restart would read; then those that list all positions, fewer and fewer.
            epoch = if epoch.0 < POSITIONS_EVERY { epoch.next() } else { Epoch(epoch.0 * 2) };
        }
    }
    Ok(first)
}

/// Returns how many events there are between two standings, where sequence numbers have no gaps.
pub fn events_between(from: &Positions, to: &Positions) -> u64 {
    let start = |shard: &ShardId| from.get(shard).copied().unwrap_or(Position::START);
    to.iter().map(|(shard, to)| crate::coverage::events_between(start(shard), *to)).sum()
}
