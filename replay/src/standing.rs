//! Where a generation stands in the stream.

use std::collections::BTreeSet;

use headwater_common::position::{Position, ShardId};
use headwater_lake::Error;
use headwater_lake::commit::{committed_everywhere_of, furthest_after, read_cut};
use headwater_lake::generation::{self, OpenGeneration};
use headwater_lake::lanes;
use headwater_lake::layout::{self, GenerationNumber, TableName};
use headwater_lake::pointer;
use headwater_lake::store::LakeStore;

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

/// Returns how many events there are between two standings, where sequence numbers have no gaps.
pub fn events_between(from: &Positions, to: &Positions) -> u64 {
    let start = |shard: &ShardId| from.get(shard).copied().unwrap_or(Position::START);
    to.iter().map(|(shard, to)| crate::coverage::events_between(start(shard), *to)).sum()
}
