//! Where a lane and a generation stand, from the cuts and the tables: nothing else knows.

use std::collections::{BTreeMap, BTreeSet};

use headwater_common::position::{Position, ShardId};

use crate::cut::{self, Cut, POSITIONS_EVERY};
use crate::error::Error;
use crate::generation::OpenGeneration;
use crate::lanes;
use crate::layout::{self, Epoch, Lane};
use crate::table::DeltaLog;

/// Reads a cut; `None` when there is none.
///
/// # Errors
/// When the store does not answer or the cut is damaged.
pub async fn read_cut(generation: &OpenGeneration, lane: Lane, epoch: Epoch) -> Result<Option<Cut>, Error> {
    let key = layout::cut(&generation.table, generation.description.number, lane, epoch);
    let Some(bytes) = generation.store.read(&key).await? else {
        return Ok(None);
    };
    let cut = Cut::from_bytes(&bytes).map_err(|error| Error::Damaged { key: key.clone(), source: Box::new(error) })?;
    let named = (cut.generation, cut.lane, cut.epoch);
    if named != (generation.description.number, lane, epoch) {
        return Err(Error::Damaged { key, source: format!("it says that it is {named:?}").into() });
    }
    Ok(Some(cut))
}

/// Returns where each shard stands after an epoch, from the cuts since the last one that lists all positions, or since
/// the lane began.
///
/// # Errors
/// When a cut is missing or damaged, or the lane may not begin yet.
pub async fn positions_after(
    generation: &OpenGeneration,
    lane: Lane,
    epoch: Epoch,
) -> Result<BTreeMap<ShardId, Position>, Error> {
    let listed = epoch.0 - epoch.0 % POSITIONS_EVERY;
    let mut positions = match listed {
        0 => lanes::beginning_of(generation, lane.set).await?,
        _ => generation.description.start.clone(),
    };
    for number in listed.max(1)..=epoch.0 {
        let found = read_cut(generation, lane, Epoch(number)).await?;
        let cut = found.ok_or_else(|| missing_cut(generation, lane, Epoch(number)))?;
        if let Some(all) = cut.positions {
            positions = all;
        }
        cut::advance(&mut positions, &cut.segments);
    }
    Ok(positions)
}

/// Returns the error that a cut is not there although a later one is, or its epoch is committed.
pub(crate) fn missing_cut(generation: &OpenGeneration, lane: Lane, epoch: Epoch) -> Error {
    let key = layout::cut(&generation.table, generation.description.number, lane, epoch);
    Error::Damaged { key, source: "it is missing: cuts are never deleted while their generation exists".into() }
}

/// Returns the lanes that have cuts, from the folders there are.
///
/// # Errors
/// When the store does not answer.
pub async fn lanes_with_cuts(generation: &OpenGeneration) -> Result<BTreeSet<Lane>, Error> {
    let folder = layout::cuts(&generation.table, generation.description.number);
    let names = generation.store.names_in(Some(&folder)).await?;
    Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
}

/// Returns the last epoch of a lane that every output has committed.
///
/// # Errors
/// When the store does not answer or a table is damaged.
pub async fn committed_everywhere(generation: &OpenGeneration, lane: Lane) -> Result<Epoch, Error> {
    let epochs = committed_everywhere_of(generation, [lane]).await?;
    Ok(epochs.get(&lane).copied().unwrap_or_default())
}

/// Returns the last epoch of each of these lanes that every output has committed. Each table is opened once.
///
/// # Errors
/// As [`committed_everywhere`].
pub async fn committed_everywhere_of(
    generation: &OpenGeneration,
    lanes: impl IntoIterator<Item = Lane>,
) -> Result<BTreeMap<Lane, Epoch>, Error> {
    let lanes: Vec<_> = lanes.into_iter().collect();
    let mut least: BTreeMap<Lane, Epoch> = BTreeMap::new();
    for output in generation.table.outputs().iter().copied() {
        for (lane, epoch) in DeltaLog::new(generation, output)?.committed(&lanes).await? {
            let known = least.entry(lane).or_insert(epoch);
            *known = epoch.min(*known);
        }
    }
    Ok(least)
}

/// Returns where each shard stands after these epochs of a set of lanes. Each lane moves its own shards only: the
/// furthest of all lanes is where a shard stands.
///
/// # Errors
/// As [`positions_after`].
pub async fn furthest_after(
    generation: &OpenGeneration,
    epochs: impl IntoIterator<Item = (Lane, Epoch)>,
) -> Result<BTreeMap<ShardId, Position>, Error> {
    let mut furthest = generation.description.start.clone();
    let mut begun = BTreeSet::new();
    for (lane, epoch) in epochs {
        // All lanes of a set begin at the same positions.
        if epoch == Epoch(0) && !begun.insert(lane.set) {
            continue;
        }
        lanes::merge_furthest(&mut furthest, positions_after(generation, lane, epoch).await?);
    }
    Ok(furthest)
}
