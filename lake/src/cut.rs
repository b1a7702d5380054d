//! The cut: the intent of an epoch, and the only thing the lake is a function of besides the log.
//!
//! The format is described in `docs/formats/cut.md`. Versions are frozen: version 2 adds the seal, and only seals are
//! written as version 2, so that an epoch of events has the bytes it always had; version 3 adds marks and shards' ends,
//! version 4 the sets of lanes.

use std::collections::BTreeMap;

use headwater_common::accounts::Account;
use headwater_common::position::{Position, Segment, ShardId};
use headwater_common::window::Start;
use serde::{Deserialize, Serialize};

use crate::digest::RowDigest;
use crate::layout::{Epoch, GenerationNumber, Lane, LaneSetNumber, Output, PointerNumber};
use crate::schema::SchemaVersion;

/// The version of a cut that takes events.
pub const VERSION: u32 = 1;

/// The version of a seal.
pub const SEAL_VERSION: u32 = 2;

/// The version of a cut that names marks or shards' ends.
pub const MARK_VERSION: u32 = 3;

/// The newest version of the format: that of a cut that closes its lane, and of every cut of a later set of lanes.
pub const LANE_SET_VERSION: u32 = 4;

/// A cut whose epoch is a multiple of this lists the positions of all shards, so that a restart reads few cuts however
/// long a shard has been idle.
pub const POSITIONS_EVERY: u64 = 64;

/// The intent of one epoch of one lane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cut {
    /// Version of the format.
    pub version: u32,
    /// The generation it belongs to.
    pub generation: GenerationNumber,
    /// The lane.
    pub lane: Lane,
    /// Its number; 0 holds the start positions.
    pub epoch: Epoch,
    /// Hash of the pipeline that made it.
    pub pipeline: String,
    /// What was taken, in the order it was read; a shard may come more than once. Only shards that moved.
    pub segments: Vec<Segment>,
    /// What became of the events.
    pub account: Account,
    /// Bytes of payload read.
    pub bytes: u64,
    /// The files of every output, and the schema they are encoded with.
    pub outputs: BTreeMap<Output, OutputIntent>,
    /// Positions of all shards after this cut; present when the epoch is a multiple of [`POSITIONS_EVERY`],
    /// and in a closing cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub positions: Option<BTreeMap<ShardId, Position>>,
    /// Set in a seal: an empty cut that ends the lane for the pointer of this number. See [`crate::commit::seal_state`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seal: Option<PointerNumber>,
    /// Set in a closing cut: an empty cut that is the lane's last, because lanes of this set go on where the lanes of
    /// its own have ended. It is always the set after the lane's. See [`crate::lanes`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closes: Option<LaneSetNumber>,
}

/// What an epoch adds to one output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutputIntent {
    /// The schema that the rows are encoded with, also by a redo.
    pub schema: SchemaVersion,
    /// The files; none when the epoch gives this output no row.
    pub files: Vec<FileIntent>,
}

/// One file of a cut.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileIntent {
    /// Its key below the generation's folder.
    pub key: String,
    /// The window its rows are in.
    pub window: Start,
    /// Its first row, counted among the rows of this window and epoch in lane order.
    pub first_row: u64,
    /// How many rows it has; above 0.
    pub rows: u64,
    /// Digest of the rows.
    pub digest: RowDigest,
}

/// What a cut's bytes were not.
#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    /// Not the JSON of a cut.
    #[error("it is not the JSON of a cut")]
    Json(#[from] serde_json::Error),
    /// A format from the future.
    #[error("it has format {found}, this version reads {LANE_SET_VERSION}; upgrade headwater")]
    UnknownVersion {
        /// The version it says.
        found: u32,
    },
    /// A seal that takes something, or that says it is a cut without one.
    #[error("it is a seal and takes events, or has format 1, which knows no seals")]
    BadSeal,
    /// A closing cut that takes something, or does not say which set is next, or where the shards stand.
    #[error("it closes its lane, and takes events, names another set than the next one or lists no positions")]
    BadClosing,
}

impl Cut {
    /// Returns the seal of a lane: nothing is taken, so nothing can get lost in it. `schemas` are those that the tables
    /// have, `positions` are listed where a restart looks for them.
    pub fn sealing(
        seal: PointerNumber,
        place: (GenerationNumber, Lane, Epoch),
        pipeline: String,
        schemas: &BTreeMap<Output, SchemaVersion>,
        positions: BTreeMap<ShardId, Position>,
    ) -> Self {
        let listed = place.2.0.is_multiple_of(POSITIONS_EVERY).then_some(positions);
        Self { seal: Some(seal), positions: listed, ..Self::empty(place, pipeline, schemas) }.versioned()
    }

    /// Returns the cut that closes a lane: nothing is taken, and `positions` is where the shards stand for good.
    pub fn closing(
        place: (GenerationNumber, Lane, Epoch),
        pipeline: String,
        schemas: &BTreeMap<Output, SchemaVersion>,
        positions: BTreeMap<ShardId, Position>,
    ) -> Self {
        let closes = Some(place.1.set.next());
        Self { closes, positions: Some(positions), ..Self::empty(place, pipeline, schemas) }.versioned()
    }

    /// Returns a cut that takes nothing.
    fn empty(
        (generation, lane, epoch): (GenerationNumber, Lane, Epoch),
        pipeline: String,
        schemas: &BTreeMap<Output, SchemaVersion>,
    ) -> Self {
        let nothing = |output: Output| {
            let schema = schemas.get(&output).copied().unwrap_or(SchemaVersion::FIRST);
            (output, OutputIntent { schema, files: Vec::new() })
        };
        Self {
            version: VERSION,
            generation,
            lane,
            epoch,
            pipeline,
            segments: Vec::new(),
            account: Account::default(),
            bytes: 0,
            outputs: BTreeMap::from(Output::ALL.map(nothing)),
            positions: None,
            seal: None,
            closes: None,
        }
    }

    /// Returns the cut in the oldest version of the format that can say what it says, so that older readers go on
    /// reading what they know.
    #[must_use]
    pub fn versioned(mut self) -> Self {
        let is_plain = |position: &Position| position.unmarked() == *position && *position != Position::SHARD_END;
        let in_segments = self.segments.iter().all(|segment| is_plain(&segment.from) && is_plain(&segment.to));
        let is_plain_all = in_segments && self.positions.iter().flat_map(BTreeMap::values).all(is_plain);
        self.version = if self.closes.is_some() || self.lane.set > LaneSetNumber::FIRST {
            LANE_SET_VERSION
        } else if !is_plain_all {
            MARK_VERSION
        } else if self.seal.is_some() {
            SEAL_VERSION
        } else {
            VERSION
        };
        self
    }

    /// Returns the bytes that are stored. The same cut always gives the same bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec(self).expect("a cut has string keys only");
        bytes.push(b'\n');
        bytes
    }

    /// Reads a stored cut.
    ///
    /// # Errors
    /// When the bytes are not a cut, or one of a newer format.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ParseError> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let Versioned { version } = serde_json::from_slice(bytes)?;
        if !(VERSION..=LANE_SET_VERSION).contains(&version) {
            return Err(ParseError::UnknownVersion { found: version });
        }
        let cut: Self = serde_json::from_slice(bytes)?;
        let takes_events = !cut.segments.is_empty() || cut.outputs.values().any(|intent| !intent.files.is_empty());
        if cut.seal.is_some() && (takes_events || version < SEAL_VERSION) {
            return Err(ParseError::BadSeal);
        }
        if let Some(next) = cut.closes {
            let is_whole = next == cut.lane.set.next() && cut.positions.is_some() && cut.seal.is_none();
            if takes_events || !is_whole || version < LANE_SET_VERSION {
                return Err(ParseError::BadClosing);
            }
        }
        Ok(cut)
    }

    /// Returns the intent for one output; every cut names every output of its table.
    pub fn output(&self, output: Output) -> &OutputIntent {
        self.outputs.get(&output).expect("a cut names every output")
    }
}

/// Moves positions forward by a cut's segments.
pub fn advance(positions: &mut BTreeMap<ShardId, Position>, segments: &[Segment]) {
    for segment in segments {
        positions.insert(segment.shard.clone(), segment.to);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Cut {
        let at = |text: &str| text.parse::<Position>().unwrap();
        let window = Start("2026-11-21T00:00:00Z".parse().unwrap());
        let file = FileIntent {
            key: "year=2026/month=11/day=21/0of1-1-0.parquet".into(),
            window,
            first_row: 0,
            rows: 3,
            digest: RowDigest(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef),
        };
        Cut {
            version: VERSION,
            generation: GenerationNumber(1),
            lane: Lane::of_first_set(0, 1),
            epoch: Epoch(1),
            pipeline: "00ff".into(),
            segments: vec![Segment { shard: "0".into(), from: at("0:0"), to: at("4:0") }],
            account: Account { read: 4, kept: 3, filtered: 0, dead_letters: 1, duplicates: 0 },
            bytes: 100,
            outputs: [
                (Output::Events, OutputIntent { schema: SchemaVersion(1), files: vec![file] }),
                (Output::DeadLetters, OutputIntent { schema: SchemaVersion(1), files: Vec::new() }),
            ]
            .into(),
            positions: None,
            seal: None,
            closes: None,
        }
    }

    fn seal(epoch: u64) -> Cut {
        let place = (GenerationNumber(1), Lane::of_first_set(0, 1), Epoch(epoch));
        let schemas = BTreeMap::from(Output::ALL.map(|output| (output, SchemaVersion(1))));
        let positions = BTreeMap::from([(ShardId::from("0"), "4:0".parse::<Position>().unwrap())]);
        Cut::sealing(PointerNumber(8), place, "00ff".into(), &schemas, positions)
    }

    #[test]
    fn golden_bytes_of_version_2() {
        let golden = include_str!("../golden/cut-v2.json");
        assert_eq!(String::from_utf8(seal(2).to_bytes()).unwrap(), golden);
        assert_eq!(Cut::from_bytes(golden.as_bytes()).unwrap(), seal(2));
    }

    #[test]
    fn a_seal_lists_the_positions_where_a_restart_looks_for_them() {
        assert_eq!(seal(POSITIONS_EVERY - 1).positions, None);
        assert!(seal(POSITIONS_EVERY).positions.is_some_and(|positions| positions.len() == 1));
    }

    #[test]
    fn a_seal_that_takes_events_is_refused() {
        let full = Cut { seal: Some(PointerNumber(8)), version: SEAL_VERSION, ..example() };
        assert!(matches!(Cut::from_bytes(&full.to_bytes()), Err(ParseError::BadSeal)));
        let old = Cut { version: VERSION, ..seal(2) };
        assert!(matches!(Cut::from_bytes(&old.to_bytes()), Err(ParseError::BadSeal)));
    }

    #[test]
    fn golden_bytes_of_version_1() {
        let golden = include_str!("../golden/cut-v1.json");
        assert_eq!(String::from_utf8(example().to_bytes()).unwrap(), golden);
        assert_eq!(Cut::from_bytes(golden.as_bytes()).unwrap(), example());
    }

    #[test]
    fn a_newer_format_is_refused_by_name() {
        let newer = String::from_utf8(example().to_bytes()).unwrap().replace("\"version\":1", "\"version\":5");
        assert!(matches!(Cut::from_bytes(newer.as_bytes()), Err(ParseError::UnknownVersion { found: 5 })));
    }

    #[test]
    fn golden_bytes_of_version_3() {
        let at = |text: &str| text.parse::<Position>().unwrap();
        let segment = |shard: &str, from, to| Segment { shard: shard.into(), from: at(from), to: at(to) };
        let mut cut = example();
        cut.segments.push(segment("1", "7:2", "7:2@1763737200000000"));
        cut.segments.push(segment("2", "9:0", "SHARD_END"));
        let cut = cut.versioned();
        let golden = include_str!("../golden/cut-v3.json");
        assert_eq!(String::from_utf8(cut.to_bytes()).unwrap(), golden);
        assert_eq!(Cut::from_bytes(golden.as_bytes()).unwrap(), cut);
        assert_eq!(example().versioned(), example(), "older readers read what they know");
    }

    fn closing(lane: Lane) -> Cut {
        let schemas = BTreeMap::from(Output::ALL.map(|output| (output, SchemaVersion(1))));
        let positions = BTreeMap::from([(ShardId::from("0"), "4:0".parse::<Position>().unwrap())]);
        Cut::closing((GenerationNumber(1), lane, Epoch(2)), "00ff".into(), &schemas, positions)
    }

    #[test]
    fn golden_bytes_of_version_4() {
        let (cut, golden) = (closing(Lane::of_first_set(0, 1)), include_str!("../golden/cut-v4.json"));
        assert_eq!(String::from_utf8(cut.to_bytes()).unwrap(), golden);
        assert_eq!(Cut::from_bytes(golden.as_bytes()).unwrap(), cut);
    }

    #[test]
    fn every_cut_of_a_later_set_has_the_version_that_knows_sets() {
        let later = Lane { set: LaneSetNumber(2), index: 0, count: 1 };
        assert_eq!(Cut { lane: later, ..example() }.versioned().version, LANE_SET_VERSION);
        let place = (GenerationNumber(1), later, Epoch(1));
        let seal = Cut::sealing(PointerNumber(8), place, "00ff".into(), &BTreeMap::new(), BTreeMap::new());
        assert_eq!(seal.version, LANE_SET_VERSION);
    }

    #[test]
    fn a_closing_cut_that_says_too_little_or_takes_events_is_refused() {
        let good = closing(Lane::of_first_set(0, 1));
        let bad = [
            Cut { segments: example().segments, ..good.clone() },
            Cut { positions: None, ..good.clone() },
            Cut { closes: Some(LaneSetNumber(3)), ..good.clone() },
            Cut { seal: Some(PointerNumber(8)), ..good.clone() },
            Cut { version: MARK_VERSION, ..good },
        ];
        for cut in bad {
            assert!(matches!(Cut::from_bytes(&cut.to_bytes()), Err(ParseError::BadClosing)), "{cut:?}");
        }
    }
}
