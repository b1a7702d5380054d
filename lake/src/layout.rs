//! Where things lie in a lake. Keys are functions of generation, lane, epoch, window and part: no clock, no random id.
//!
//! ```text
//! <lake>/<table>/_pointer/00000007.json
//! <lake>/<table>/g00003/_generation.json
//! <lake>/<table>/g00003/_rebuild.json
//! <lake>/<table>/g00003/_lanes/00000002.json, 00000002.begins.json
//! <lake>/<table>/g00003/_delta_log/
//! <lake>/<table>/g00003/_cuts/<lane>/00000000000000000042.json
//! <lake>/<table>/g00003/year=2026/month=11/day=21/<lane>-<epoch>-<part>.parquet
//! <lake>/__archive/<stream>/g00001/…                  an archive is laid out like a table of one output
//! ```

use std::fmt;
use std::str::FromStr;

use headwater_common::window::Start;
use object_store::path::Path;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::archive::ArchiveName;
use crate::generation::PartitionKey;

/// The folder that holds a lake's archives. No table can have its name.
const ARCHIVES: &str = "__archive";

/// The name of a table: letters, digits and underscores, a letter first, at most 128, no double underscore at the end.
/// Also the place of an archive, which no text is parsed to: see [`TableName::of_archive`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableName(String);

/// The number of a generation: 1, 2, 3 …
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct GenerationNumber(pub u32);

/// The number of a pointer: 1, 2, 3 … without a gap. The highest one says which generation is live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PointerNumber(pub u32);

/// The number of a set of lanes of a generation: 1, 2, 3 … without a gap. The description says what set 1 is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LaneSetNumber(pub u32);

/// A lane's set, its number in there, and how many lanes the set has. Its name carries all three: `0of4` is of set 1,
/// `0of8s2` of set 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lane {
    /// Its set. Lanes of a later set begin where those of the set before have ended.
    pub set: LaneSetNumber,
    /// 0 to `count - 1`.
    pub index: u32,
    /// Lanes in the set.
    pub count: u32,
}

/// The number of an epoch of a lane: 0 for the start positions, then 1, 2, 3 …
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

/// An output of a pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Output {
    /// The table itself; of an archive, the records.
    Events,
    /// The events that cannot be rows.
    DeadLetters,
}

/// A name or number that cannot be.
#[derive(Debug, thiserror::Error)]
#[error("`{text}` is not {wanted}")]
pub struct ParseError {
    text: String,
    wanted: &'static str,
}

impl TableName {
    /// Returns the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the place of a stream's archive: `__archive/<stream>`.
    pub fn of_archive(name: &ArchiveName) -> Self {
        Self(format!("{ARCHIVES}/{name}"))
    }

    /// Returns true for the place of an archive.
    pub fn is_archive(&self) -> bool {
        self.0.starts_with(ARCHIVES)
    }

    /// Returns the outputs that are written here, in the order they are written; the first one keeps the cuts. An
    /// archive has records only: there is no dead letter, because nothing is decoded.
    pub fn outputs(&self) -> &'static [Output] {
        if self.is_archive() { &[Output::Events] } else { &Output::ALL }
    }
}

impl FromStr for TableName {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let good = text.len() <= 128
            && text.starts_with(|first: char| first.is_ascii_alphabetic())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
            && !text.contains("__");
        let wanted = "a table name: letters, digits and single underscores, a letter first, at most 128";
        if good { Ok(Self(text.to_owned())) } else { Err(ParseError { text: text.to_owned(), wanted }) }
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl GenerationNumber {
    /// The first generation of every table.
    pub const FIRST: Self = Self(1);

    /// Returns the number after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl FromStr for GenerationNumber {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let error = || ParseError { text: text.to_owned(), wanted: "a generation such as g00003" };
        let number = Self(text.strip_prefix('g').and_then(|digits| digits.parse().ok()).ok_or_else(error)?);
        // Only what is written that way is a generation's folder: `g3` and `g+0003` are somebody else's.
        if number.to_string() == text && number.0 > 0 { Ok(number) } else { Err(error()) }
    }
}

impl PointerNumber {
    /// The pointer that makes a table's first generation live.
    pub const FIRST: Self = Self(1);

    /// Returns the number after this one: the only one that who has read this pointer may create.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for PointerNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08}", self.0)
    }
}

impl fmt::Display for GenerationNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "g{:05}", self.0)
    }
}

impl LaneSetNumber {
    /// The set that a generation is made with.
    pub const FIRST: Self = Self(1);

    /// Returns the number after this one: the set whose lanes begin where these end.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// Returns the number before this one; `None` for the first set.
    pub fn before(self) -> Option<Self> {
        (self > Self::FIRST).then(|| Self(self.0 - 1))
    }
}

impl fmt::Display for LaneSetNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl Lane {
    /// Returns a lane of the set that a generation is made with.
    pub const fn of_first_set(index: u32, count: u32) -> Self {
        Self { set: LaneSetNumber::FIRST, index, count }
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}of{}", self.index, self.count)?;
        // Lanes had no sets once: those of the first keep their names.
        if self.set == LaneSetNumber::FIRST { Ok(()) } else { write!(f, "s{}", self.set) }
    }
}

impl FromStr for Lane {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let error = || ParseError { text: text.to_owned(), wanted: "a lane such as 0of1 or 0of4s2" };
        let number = |digits: &str| digits.parse::<u32>().map_err(|_| error());
        let (index, rest) = text.split_once("of").ok_or_else(error)?;
        let (count, set) = match rest.split_once('s') {
            Some((count, set)) => (count, LaneSetNumber(number(set)?)),
            None => (rest, LaneSetNumber::FIRST),
        };
        let lane = Self { set, index: number(index)?, count: number(count)? };
        // Only what is written that way is a lane: `0of4s1` and `00of4` are nobody's.
        let is_lane = lane.index < lane.count && lane.set >= LaneSetNumber::FIRST && lane.to_string() == text;
        if is_lane { Ok(lane) } else { Err(error()) }
    }
}

impl Serialize for Lane {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Lane {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Epoch {
    /// Returns the epoch after this one.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl Output {
    /// Every output of a pipeline, in the order they are written; the first one keeps the cuts. An archive has fewer:
    /// see [`TableName::outputs`].
    pub const ALL: [Self; 2] = [Self::Events, Self::DeadLetters];

    /// Returns the folder of this output's table below the lake.
    pub fn folder(self, table: &TableName) -> String {
        match self {
            Self::Events => table.0.clone(),
            Self::DeadLetters => format!("{table}__dead_letters"),
        }
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Events => "events",
            Self::DeadLetters => "dead_letters",
        })
    }
}

/// Returns the folder that holds the archives.
pub fn archives() -> Path {
    Path::from(ARCHIVES)
}

/// Returns the folder with the shards that an archive knows.
pub fn archived_shards(table: &TableName, number: GenerationNumber) -> Path {
    Path::from(format!("{table}/{number}/_shards"))
}

/// Returns the key of pointer number `number`.
pub fn pointer(table: &TableName, number: PointerNumber) -> Path {
    Path::from(format!("{table}/_pointer/{number}.json"))
}

/// Returns the folder that holds the pointers.
pub fn pointers(table: &TableName) -> Path {
    Path::from(format!("{table}/_pointer"))
}

/// Returns the folder of one output's generation: the root of a Delta table.
pub fn generation(table: &TableName, output: Output, number: GenerationNumber) -> Path {
    Path::from(format!("{}/{number}", output.folder(table)))
}

/// Returns the key of the generation's description.
pub fn generation_file(table: &TableName, number: GenerationNumber) -> Path {
    Path::from(format!("{table}/{number}/_generation.json"))
}

/// Returns the key of what a generation's rebuild was asked for.
pub fn rebuild_file(table: &TableName, number: GenerationNumber) -> Path {
    Path::from(format!("{table}/{number}/_rebuild.json"))
}

/// Returns the key of the description of a set of lanes. Set 1 has none: the generation's says what it is.
pub fn lane_set(table: &TableName, number: GenerationNumber, set: LaneSetNumber) -> Path {
    Path::from(format!("{table}/{number}/_lanes/{:08}.json", set.0))
}

/// Returns the key of where the lanes of a later set begin.
pub fn lane_set_beginning(table: &TableName, number: GenerationNumber, set: LaneSetNumber) -> Path {
    Path::from(format!("{table}/{number}/_lanes/{:08}.begins.json", set.0))
}

/// Returns the folder with the descriptions of the later sets of lanes.
pub fn lane_sets(table: &TableName, number: GenerationNumber) -> Path {
    Path::from(format!("{table}/{number}/_lanes"))
}

/// Returns the key of a commit in a table's Delta log.
pub fn delta_commit(table: &TableName, output: Output, number: GenerationNumber, version: u64) -> Path {
    Path::from(format!("{}/{number}/_delta_log/{version:020}.json", output.folder(table)))
}

/// Returns the folder with the cuts of all lanes.
pub fn cuts(table: &TableName, number: GenerationNumber) -> Path {
    Path::from(format!("{table}/{number}/_cuts"))
}

/// Returns the key of a cut.
pub fn cut(table: &TableName, number: GenerationNumber, lane: Lane, epoch: Epoch) -> Path {
    Path::from(format!("{table}/{number}/_cuts/{lane}/{:020}.json", epoch.0))
}

/// Returns the key of `verify`'s resume point, below the generation.
pub fn verified(table: &TableName, number: GenerationNumber, lane: Lane) -> Path {
    Path::from(format!("{table}/{number}/_verified/{lane}.json"))
}

/// Returns the key of a data file below the lake; `path` is its key below the generation's folder.
pub fn data_object(table: &TableName, output: Output, number: GenerationNumber, path: &str) -> Path {
    Path::from(format!("{}/{path}", generation(table, output, number)))
}

/// Returns the key of a data file, below its generation's folder.
pub fn data_file(keys: &[PartitionKey], window: Start, lane: Lane, epoch: Epoch, part: u32) -> String {
    let mut path = String::new();
    for key in keys {
        path.push_str(&format!("{}={}/", key.column, key.kind.path_value(window)));
    }
    path.push_str(&format!("{lane}-{epoch}-{part}.parquet"));
    path
}

/// Returns the lane and epoch in a data file's key.
pub fn epoch_of(path: &str) -> Option<(Lane, Epoch)> {
    let name = path.rsplit('/').next()?.strip_suffix(".parquet")?;
    let mut parts = name.split('-');
    let lane = parts.next()?.parse().ok()?;
    let epoch = parts.next()?.parse().ok()?;
    Some((lane, Epoch(epoch)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s1_s9_keys_differ_by_lane_epoch_window_and_part() {
        let keys = PartitionKey::of(&"year,month,day".parse().unwrap(), |_| false);
        let window = |text: &str| Start(text.parse().unwrap());
        let lane = Lane::of_first_set(0, 2);
        let key = |window, lane, epoch, part| data_file(&keys, window, lane, Epoch(epoch), part);
        let day = window("2026-11-21T00:00:00Z");
        assert_eq!(key(day, lane, 42, 0), "year=2026/month=11/day=21/0of2-42-0.parquet");
        assert_eq!(epoch_of(&key(day, lane, 42, 0)), Some((lane, Epoch(42))));
        let others = [
            key(window("2026-11-22T00:00:00Z"), lane, 42, 0),
            key(day, Lane::of_first_set(1, 2), 42, 0),
            key(day, Lane { set: LaneSetNumber(2), ..lane }, 42, 0),
            key(day, lane, 43, 0),
            key(day, lane, 42, 1),
        ];
        assert!(others.iter().all(|other| *other != key(day, lane, 42, 0)));
    }

    #[test]
    fn a_lane_is_named_with_its_set_and_the_first_one_as_before() {
        let later = Lane { set: LaneSetNumber(2), index: 7, count: 8 };
        for (lane, name) in [(Lane::of_first_set(0, 4), "0of4"), (later, "7of8s2")] {
            assert_eq!(lane.to_string(), name);
            assert_eq!(name.parse::<Lane>().unwrap(), lane);
            assert_eq!(serde_json::to_string(&lane).unwrap(), format!("\"{name}\""));
            let file = data_file(&[], Start("2026-11-21T00:00:00Z".parse().unwrap()), lane, Epoch(9), 0);
            assert_eq!(epoch_of(&file), Some((lane, Epoch(9))));
        }
        for text in ["", "of", "0of0", "4of4", "00of4", "0of4s1", "0of4s0", "0of4s", "0of4s02", "0of+4", "0of4s2s2"] {
            assert!(text.parse::<Lane>().is_err(), "{text}");
        }
        assert!(Lane::of_first_set(3, 4) < later, "the earlier set first");
    }

    #[test]
    fn an_archive_has_one_output_and_no_table_is_one() {
        let archive = TableName::of_archive(&"log__1".parse().unwrap());
        let number = GenerationNumber::FIRST;
        assert_eq!(archive.outputs(), [Output::Events]);
        assert_eq!(generation(&archive, Output::Events, number).as_ref(), "__archive/log__1/g00001");
        assert!(archive.as_str().parse::<TableName>().is_err(), "no user can name it as a table");
        assert!("__archive".parse::<TableName>().is_err());
        assert_eq!("t".parse::<TableName>().unwrap().outputs(), Output::ALL);
    }

    #[test]
    fn folders_of_generations_are_told_from_others() {
        assert_eq!("g00003".parse::<GenerationNumber>().unwrap(), GenerationNumber(3));
        assert_eq!("g123456".parse::<GenerationNumber>().unwrap(), GenerationNumber(123_456));
        for text in ["", "g", "g3", "g00000", "g+0003", "00003", "current", "_pointer", "g00003x"] {
            assert!(text.parse::<GenerationNumber>().is_err(), "{text}");
        }
    }

    #[test]
    fn table_names() {
        for good in ["a", "flights", "f_2", "A9"] {
            assert!(good.parse::<TableName>().is_ok(), "{good}");
        }
        for bad in ["", "_a", "9a", "a-b", "a/b", "../x", "a__b", "a b", "ä"] {
            assert!(bad.parse::<TableName>().is_err(), "{bad}");
        }
    }
}
