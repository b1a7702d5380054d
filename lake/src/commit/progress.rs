//! Where a lane and a generation stand, from the cuts and the tables: nothing else knows.

use std::collections::{BTreeMap, BTreeSet};

use headwater_common::position::{Position, ShardId};

use crate::cut::{self, Cut, POSITIONS_EVERY};
use crate::error::Error;
use crate::generation::OpenGeneration;
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

/// Returns where each shard stands after an epoch, from the cuts since the last one that lists all positions.
///
/// # Errors
/// When a cut is missing or damaged.
pub async fn positions_after(
    generation: &OpenGeneration,
    lane: Lane,
    epoch: Epoch,
) -> Result<BTreeMap<ShardId, Position>, Error> {
    let listed = epoch.0 - epoch.0 % POSITIONS_EVERY;
    let mut positions = generation.description.start.clone();
    for number in listed.max(1)..=epoch.0 {
        let cut = read_cut(generation, lane, Epoch(number)).await?.ok_or_else(|| Error::Damaged {
            key: layout::cut(&generation.table, generation.description.number, lane, Epoch(number)),
            source: "it is missing: cuts are never deleted while their generation exists".into(),
        })?;
        if let Some(all) = cut.positions {
            positions = all;
        }
        cut::advance(&mut positions, &cut.segments);
    }
    Ok(positions)
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
    let mut least: Option<Epoch> = None;
    for output in generation.table.outputs().iter().copied() {
        let epoch = DeltaLog::new(generation, output)?.load(lane).await?.committed;
        least = Some(least.map_or(epoch, |least| least.min(epoch)));
    }
    Ok(least.unwrap_or_default())
}

/// Returns where each shard stands after these epochs of the generation's lanes. Each lane moves its own shards only:
/// the furthest of all lanes is where a shard stands.
///
/// # Errors
/// As [`positions_after`].
pub async fn furthest_after(
    generation: &OpenGeneration,
    epochs: impl IntoIterator<Item = (Lane, Epoch)>,
) -> Result<BTreeMap<ShardId, Position>, Error> {
    let mut furthest = generation.description.start.clone();
    for (lane, epoch) in epochs {
        for (shard, position) in positions_after(generation, lane, epoch).await? {
            let known = furthest.entry(shard).or_insert(position);
            *known = position.max(*known);
        }
    }
    Ok(furthest)
}
