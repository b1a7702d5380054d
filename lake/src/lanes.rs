//! The sets of lanes of a generation: which there are, which one is worked on, and where one has ended.
//!
//! ```text
//!  0of2    [1][2][3 closes]                          set 1: said by the generation's description
//!  1of2    [1][2 closes]
//!  0of3s2                    [1][2]                  set 2: said by _lanes/00000002.json; where its lanes begin,
//!  1of3s2                    [1]                     by _lanes/00000002.begins.json
//!  2of3s2                    [1][2][3]
//! ```
//!
//! Guarantees: what a set is, is said once, by who is first. Lanes of a set begin when every lane of the set before is
//! closed and that is committed in every output; from then on nothing moves those, so that all who look find the same
//! positions. Relies on: nobody publishes anything behind a closing cut, which the commit protocol keeps.
//!
//! The format is described in `docs/formats/lanes.md`, the protocol in `docs/adr/0009-lane-sets.md`.

use std::collections::BTreeMap;

use headwater_common::position::{Position, ShardId};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::commit::{committed_everywhere_of, missing_cut, read_cut};
use crate::error::Error;
use crate::generation::{OpenGeneration, create_surely};
use crate::layout::{self, Epoch, Lane, LaneSetNumber};

/// The newest version of the format.
const VERSION: u32 = 1;

/// A set of lanes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaneSet {
    /// Its number.
    pub number: LaneSetNumber,
    /// How many lanes it has; above 0.
    pub count: u32,
}

/// The set that is worked on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Current {
    /// The set.
    pub set: LaneSet,
    /// The set after it, when there is one: then every lane of this one is to be closed.
    pub next: Option<LaneSet>,
}

/// What came of asking for another number of lanes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// The highest set has so many; nothing was done.
    AsBefore,
    /// The next set has so many.
    Next(LaneSet),
    /// Somebody was faster, and has said that the next set is another.
    Lost {
        /// That one.
        winner: LaneSet,
    },
}

/// Where each shard stands.
type Positions = BTreeMap<ShardId, Position>;

/// `_lanes/00000002.json`: what a set is.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    version: u32,
    set: LaneSetNumber,
    lanes: u32,
}

/// `_lanes/00000002.begins.json`: where its lanes begin. It is there once the lanes before are closed, and follows from
/// their closing cuts: whoever writes it writes the same.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Beginning {
    version: u32,
    set: LaneSetNumber,
    positions: Positions,
}

impl LaneSet {
    /// Returns the lanes, in order.
    pub fn lanes(self) -> impl Iterator<Item = Lane> {
        let Self { number: set, count } = self;
        (0..count).map(move |index| Lane { set, index, count })
    }

    /// Returns the bytes that are stored. The same set always gives the same bytes.
    fn to_bytes(self) -> Vec<u8> {
        let stored = Stored { version: VERSION, set: self.number, lanes: self.count };
        serde_json::to_vec(&stored).expect("a set is plain JSON")
    }
}

/// Returns the highest set of lanes that there is.
///
/// # Errors
/// When the store does not answer or a set is damaged.
pub async fn highest(generation: &OpenGeneration) -> Result<LaneSet, Error> {
    let folder = layout::lane_sets(&generation.table, generation.description.number);
    let names = generation.store.names_in(Some(&folder)).await?;
    let numbers = names.iter().filter_map(|name| name.strip_suffix(".json")?.parse::<u32>().ok().map(LaneSetNumber));
    let number = numbers.max().unwrap_or(LaneSetNumber::FIRST);
    surely(generation, number).await
}

/// Returns the set after this one, when there is one. One small request.
///
/// # Errors
/// When the store does not answer or the set is damaged.
pub async fn after(generation: &OpenGeneration, number: LaneSetNumber) -> Result<Option<LaneSet>, Error> {
    read(generation, number.next()).await
}

/// Returns the set that is worked on: the highest whose lanes may begin. Changes nothing.
///
/// # Errors
/// When the store does not answer, or a set or a cut is damaged.
pub async fn current(generation: &OpenGeneration) -> Result<Current, Error> {
    let mut current = Current { set: highest(generation).await?, next: None };
    while let Some(before) = current.set.number.before() {
        let earlier = surely(generation, before).await?;
        let is_begun = read_beginning(generation, current.set.number).await?.is_some();
        if is_begun || end_of(generation, earlier).await?.is_some() {
            break;
        }
        current = Current { set: earlier, next: Some(current.set) };
    }
    Ok(current)
}

/// Returns the set that is worked on, for who works on it: writes down where its lanes begin, unless that is there.
///
/// # Errors
/// As [`current`].
pub async fn open(generation: &OpenGeneration) -> Result<Current, Error> {
    let current = current(generation).await?;
    let number = current.set.number;
    if number > LaneSetNumber::FIRST && read_beginning(generation, number).await?.is_none() {
        let beginning = Beginning { version: VERSION, set: number, positions: beginning_of(generation, number).await? };
        let bytes = serde_json::to_vec(&beginning).expect("positions are plain JSON");
        let key = layout::lane_set_beginning(&generation.table, generation.description.number, number);
        create_surely(&generation.store, &key, bytes).await?;
    }
    Ok(current)
}

/// Asks for so many lanes: says what the next set is, unless the highest one has as many. Nothing is closed by that;
/// whoever works on the lanes does it.
///
/// # Errors
/// When the store does not answer or a set is damaged.
pub async fn ask(generation: &OpenGeneration, count: u32) -> Result<Asked, Error> {
    let highest = highest(generation).await?;
    if highest.count == count {
        return Ok(Asked::AsBefore);
    }
    claim(generation, LaneSet { number: highest.number.next(), count }).await
}

/// Says what a set is, unless that was said already.
async fn claim(generation: &OpenGeneration, wanted: LaneSet) -> Result<Asked, Error> {
    let key = layout::lane_set(&generation.table, generation.description.number, wanted.number);
    create_surely(&generation.store, &key, wanted.to_bytes()).await?;
    let found = surely(generation, wanted.number).await?;
    Ok(if found == wanted { Asked::Next(found) } else { Asked::Lost { winner: found } })
}

/// Returns where the lanes of a set have ended, all together; `None` while one of them is not closed, or that is not
/// committed in every output.
///
/// # Errors
/// When the store does not answer or a cut is missing or damaged.
pub async fn end_of(generation: &OpenGeneration, set: LaneSet) -> Result<Option<Positions>, Error> {
    let mut furthest = Positions::new();
    for (lane, epoch) in committed_everywhere_of(generation, set.lanes()).await? {
        if epoch == Epoch(0) {
            return Ok(None);
        }
        let last = read_cut(generation, lane, epoch).await?.ok_or_else(|| missing_cut(generation, lane, epoch))?;
        let is_closing = last.closes.is_some();
        let Some(positions) = last.positions.filter(|_| is_closing) else {
            return Ok(None);
        };
        merge_furthest(&mut furthest, positions);
    }
    Ok(Some(furthest))
}

/// Returns where the lanes of a set begin: at the start of the generation, or where the set before has ended.
///
/// # Errors
/// As [`end_of`], and when the set before has not ended.
pub async fn beginning_of(generation: &OpenGeneration, number: LaneSetNumber) -> Result<Positions, Error> {
    let Some(before) = number.before() else {
        return Ok(generation.description.start.clone());
    };
    if let Some(positions) = read_beginning(generation, number).await? {
        return Ok(positions);
    }
    let set = surely(generation, before).await?;
    end_of(generation, set).await?.ok_or_else(|| Error::LanesNotClosed {
        table: generation.table.clone(),
        generation: generation.description.number,
        set: before,
    })
}

/// Says what is wrong with where a set begins: it is where the set before has ended.
///
/// # Errors
/// As [`end_of`].
pub(crate) async fn wrong_beginning(
    generation: &OpenGeneration,
    number: LaneSetNumber,
) -> Result<Option<String>, Error> {
    let Some(before) = number.before() else {
        return Ok(None);
    };
    let ended = end_of(generation, surely(generation, before).await?).await?;
    let begins = read_beginning(generation, number).await?;
    Ok(match (ended, begins) {
        (None, _) => Some(format!("set {number} of the lanes has begun, and set {before} is not closed")),
        (Some(ended), Some(begins)) if ended != begins => {
            Some(format!("set {number} of the lanes begins elsewhere than set {before} has ended"))
        }
        _ => None,
    })
}

/// Moves each shard to where the furthest of the two has it.
pub(crate) fn merge_furthest(furthest: &mut Positions, positions: impl IntoIterator<Item = (ShardId, Position)>) {
    for (shard, position) in positions {
        let known = furthest.entry(shard).or_insert(position);
        *known = position.max(*known);
    }
}

/// Reads a set; `None` when there is none of that number.
async fn read(generation: &OpenGeneration, number: LaneSetNumber) -> Result<Option<LaneSet>, Error> {
    if number == LaneSetNumber::FIRST {
        return Ok(Some(LaneSet { number, count: generation.description.lanes }));
    }
    let key = layout::lane_set(&generation.table, generation.description.number, number);
    let Some(Stored { set, lanes, .. }) = read_versioned(generation, &key).await? else {
        return Ok(None);
    };
    if set != number || lanes == 0 {
        return Err(Error::Damaged { key, source: format!("it says that set {set} has {lanes} lanes").into() });
    }
    Ok(Some(LaneSet { number, count: lanes }))
}

/// Reads where the lanes of a later set begin; `None` while that is not written down.
async fn read_beginning(generation: &OpenGeneration, number: LaneSetNumber) -> Result<Option<Positions>, Error> {
    let key = layout::lane_set_beginning(&generation.table, generation.description.number, number);
    match read_versioned(generation, &key).await? {
        None => Ok(None),
        Some(Beginning { set, positions, .. }) if set == number => Ok(Some(positions)),
        Some(Beginning { set, .. }) => {
            Err(Error::Damaged { key, source: format!("it says that it is of set {set}").into() })
        }
    }
}

async fn read_versioned<T: DeserializeOwned>(
    generation: &OpenGeneration,
    key: &object_store::path::Path,
) -> Result<Option<T>, Error> {
    let Some(bytes) = generation.store.read(key).await? else {
        return Ok(None);
    };
    let damaged = |error: serde_json::Error| Error::Damaged { key: key.clone(), source: Box::new(error) };
    let value: Value = serde_json::from_slice(&bytes).map_err(damaged)?;
    let found = value["version"].as_u64().and_then(|version| u32::try_from(version).ok()).unwrap_or(0);
    if found != VERSION {
        return Err(Error::UnknownFormat { key: key.clone(), found, known: VERSION });
    }
    serde_json::from_value(value).map(Some).map_err(damaged)
}

/// Reads a set that was seen, or whose successor was: sets have no gaps and are never deleted.
async fn surely(generation: &OpenGeneration, number: LaneSetNumber) -> Result<LaneSet, Error> {
    let key = layout::lane_set(&generation.table, generation.description.number, number);
    read(generation, number).await?.ok_or_else(|| Error::Damaged { key, source: "it is missing".into() })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use headwater_common::window::Partitioning;
    use object_store::memory::InMemory;

    use super::*;
    use crate::generation::{Generation, StreamFacts};
    use crate::store::LakeStore;

    fn generation() -> OpenGeneration {
        let (identity, start) = ("s".to_owned(), BTreeMap::new());
        let facts = StreamFacts { identity, sequence_digits: 20, gap_free: true, start };
        OpenGeneration {
            store: LakeStore::on_store(Arc::new(InMemory::new())),
            table: "t".parse().unwrap(),
            description: Generation::first(BTreeMap::new(), "h".into(), Partitioning::default(), 2, facts),
        }
    }

    fn set(number: u32, count: u32) -> LaneSet {
        LaneSet { number: LaneSetNumber(number), count }
    }

    #[tokio::test]
    async fn golden_bytes_of_version_1() {
        let golden = include_str!("../golden/lanes-v1.json").trim_end();
        assert_eq!(String::from_utf8(set(2, 5).to_bytes()).unwrap(), golden);
        let open = generation();
        open.store.overwrite(&"t/g00001/_lanes/00000002.json".into(), golden.into()).await.unwrap();
        assert_eq!(highest(&open).await.unwrap(), set(2, 5));
        // Written down once, and read in place of the closing cuts.
        let golden = include_str!("../golden/lanes-begins-v1.json").trim_end();
        open.store.overwrite(&"t/g00001/_lanes/00000002.begins.json".into(), golden.into()).await.unwrap();
        let positions = BTreeMap::from([(ShardId::from("0"), "4:0".parse().unwrap())]);
        let beginning = Beginning { version: VERSION, set: LaneSetNumber(2), positions: positions.clone() };
        assert_eq!(serde_json::to_string(&beginning).unwrap(), golden);
        assert_eq!(beginning_of(&open, LaneSetNumber(2)).await.unwrap(), positions);
        assert_eq!(current(&open).await.unwrap(), Current { set: set(2, 5), next: None });
    }

    #[tokio::test]
    async fn n1_of_two_that_ask_at_once_the_first_says_what_the_set_is() {
        let open = generation();
        assert_eq!(highest(&open).await.unwrap(), set(1, 2));
        assert_eq!(ask(&open, 2).await.unwrap(), Asked::AsBefore);
        assert_eq!(after(&open, LaneSetNumber::FIRST).await.unwrap(), None);
        // Both have seen that set 1 is the highest.
        assert_eq!(claim(&open, set(2, 5)).await.unwrap(), Asked::Next(set(2, 5)));
        assert_eq!(claim(&open, set(2, 3)).await.unwrap(), Asked::Lost { winner: set(2, 5) });
        assert_eq!(claim(&open, set(2, 5)).await.unwrap(), Asked::Next(set(2, 5)), "it wants the very same");
        assert_eq!(after(&open, LaneSetNumber::FIRST).await.unwrap(), Some(set(2, 5)));
        assert_eq!(ask(&open, 5).await.unwrap(), Asked::AsBefore);
        assert_eq!(ask(&open, 2).await.unwrap(), Asked::Next(set(3, 2)), "set 2 need not have begun");
    }

    #[tokio::test]
    async fn a_set_that_is_wanted_is_not_worked_on_before_the_lanes_are_closed() {
        let open = generation();
        ask(&open, 5).await.unwrap();
        let found = current(&open).await.unwrap();
        assert_eq!(found, Current { set: set(1, 2), next: Some(set(2, 5)) });
        let early = beginning_of(&open, LaneSetNumber(2)).await.unwrap_err();
        assert!(matches!(early, Error::LanesNotClosed { set: LaneSetNumber::FIRST, .. }), "{early}");
        let names: Vec<_> = set(2, 3).lanes().map(|lane| lane.to_string()).collect();
        assert_eq!(names, ["0of3s2", "1of3s2", "2of3s2"]);
    }

    #[tokio::test]
    async fn a_newer_or_damaged_set_is_refused() {
        for (text, expect) in [
            (r#"{"version":2,"set":2,"lanes":5}"#, "upgrade headwater"),
            (r#"{"version":1,"set":3,"lanes":5}"#, "is damaged"),
            (r#"{"version":1,"set":2,"lanes":0}"#, "is damaged"),
            (r#"{"version":1,"set":2,"lanes":5,"more":1}"#, "is damaged"),
        ] {
            let open = generation();
            open.store.overwrite(&"t/g00001/_lanes/00000002.json".into(), text.into()).await.unwrap();
            let error = highest(&open).await.unwrap_err().to_string();
            assert!(error.contains(expect), "{error}");
        }
    }
}
