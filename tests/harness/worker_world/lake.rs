//! The lake: cuts, files and commits of every lane, and what no writer may ever do to them (W1 to W3, W6, W7).

use std::collections::BTreeMap;

use headwater_common::position::{Position, Segment, ShardId};
use headwater_lake::commit::Table;
use headwater_lake::cut::Cut;
use headwater_lake::digest::RowDigest;
use headwater_lake::layout::{Epoch, Lane, Output};

use super::Sabotage;
use super::stream::{Row, Stream};
use crate::parts::{LaneTables, Version, index};

pub(super) struct Lake {
    lanes: Vec<LaneState>,
    /// The commits of each output's table, of all lanes.
    versions: [Version; 2],
    /// The last event of each key that readers of the events see.
    shown: Vec<u32>,
    /// Grows whenever a shard's end is published or committed.
    pub(super) ends: u64,
    sabotage: Sabotage,
}

#[derive(Default)]
struct LaneState {
    /// A file holds rows.
    tables: LaneTables<Vec<Row>>,
    /// Where the lane's shards stand after its last cut.
    published: BTreeMap<ShardId, Position>,
    /// Where they stand after the last epoch that is committed in every output.
    committed: BTreeMap<ShardId, Position>,
}

impl Lake {
    pub(super) fn new(lanes: u32, keys: usize, sabotage: Sabotage) -> Self {
        let lanes = (0..lanes).map(|_| LaneState::default()).collect();
        Self { lanes, versions: [0; 2], shown: vec![0; keys], ends: 0, sabotage }
    }

    pub(super) fn table(&self, lane: Lane, output: Output) -> Table<Version> {
        let committed = self.lane(lane).tables.committed[output as usize];
        Table { committed, snapshot: self.versions[output as usize] }
    }

    pub(super) fn cut(&self, lane: Lane, epoch: Epoch) -> Option<&Cut> {
        self.lane(lane).tables.cut(epoch)
    }

    pub(super) fn file(&self, lane: Lane, epoch: Epoch) -> Option<RowDigest> {
        self.lane(lane).tables.files.get(&epoch).map(|rows| digest(rows))
    }

    /// Returns where a lane's shards stand after an epoch, by its cuts.
    pub(super) fn positions_after(&self, lane: Lane, epoch: Epoch) -> BTreeMap<ShardId, Position> {
        let mut positions = BTreeMap::new();
        for cut in &self.lane(lane).tables.cuts[..index(epoch.0)] {
            headwater_lake::cut::advance(&mut positions, &cut.segments);
        }
        positions
    }

    /// Returns where the shards of all other lanes stand by what is committed.
    pub(super) fn others(&self, than: Lane) -> BTreeMap<ShardId, Position> {
        let others = self.lanes.iter().enumerate().filter(|(index, _)| *index != than.index as usize);
        let is_hasty = self.sabotage == Sabotage::PublishedIsEnough;
        let positions = others.flat_map(|(_, lane)| if is_hasty { &lane.published } else { &lane.committed });
        positions.map(|(shard, position)| (shard.clone(), *position)).collect()
    }

    /// Returns true when all of a shard is committed, and its end.
    pub(super) fn has_all_of(&self, shard: &ShardId, lane: u32) -> bool {
        self.lanes[lane as usize].committed.get(shard) == Some(&Position::SHARD_END)
    }

    /// Creates a cut if absent, and checks W7.
    pub(super) fn publish(&mut self, cut: Cut, stream: &Stream) -> Result<bool, String> {
        let (lane, epoch) = (cut.lane, cut.epoch);
        let place = || format!("lane {lane} epoch {epoch}");
        let tables = &mut self.lanes[lane.index as usize].tables;
        if !tables.is_free(epoch).map_err(|broken| format!("W7: {}: {broken}", place()))? {
            if self.sabotage == Sabotage::CutIsOverwritten {
                tables.cuts[index(epoch.0 - 1)] = cut;
                return Ok(true);
            }
            return Ok(self.sabotage == Sabotage::FenceIsIgnored);
        }
        for segment in &cut.segments {
            self.check_segment(lane, segment, stream).map_err(|broken| format!("{broken}: {}", place()))?;
            let published = &mut self.lanes[lane.index as usize].published;
            published.insert(segment.shard.clone(), segment.to);
            self.ends += u64::from(segment.to == Position::SHARD_END);
        }
        self.lanes[lane.index as usize].tables.cuts.push(cut);
        Ok(true)
    }

    fn check_segment(&self, lane: Lane, segment: &Segment, stream: &Stream) -> Result<(), String> {
        let Segment { shard, from, to } = segment;
        let known = self.lane(lane).published.get(shard).copied().unwrap_or(Position::START);
        if *from != known {
            return Err(format!("W7: {shard} is taken from {from}, and the lane stands at {known}"));
        }
        if from >= to {
            return Err(format!("W7: {shard} is taken from {from} to {to}"));
        }
        if stream.lane_of(shard) != lane.index {
            return Err(format!("W7: {shard} is lane {}'s", stream.lane_of(shard)));
        }
        if *to == Position::SHARD_END && !stream.is_closed(shard) {
            return Err(format!("W1: {shard} is said to have ended, and is open"));
        }
        match stream.denied_by(segment) {
            Some(event) => Err(format!("W1: {shard} is said to stand at {to}, and {event} would never be read")),
            None => Ok(()),
        }
    }

    /// Creates a file if absent, and checks W6.
    pub(super) fn put(&mut self, lane: Lane, epoch: Epoch, rows: Vec<Row>) -> Result<bool, String> {
        let put = Some(digest(&rows));
        if self.named(lane, epoch) != put {
            return Err(format!("W6: lane {lane} epoch {epoch}: somebody puts rows that are not those of its cut"));
        }
        if self.file(lane, epoch).is_some_and(|there| Some(there) != put) {
            return Err(format!("W6: lane {lane} epoch {epoch}: somebody puts other rows than are there"));
        }
        Ok(self.lanes[lane.index as usize].tables.put(epoch, rows))
    }

    /// Commits an epoch to an output if nothing was committed there since `base`, and checks W6 and what readers see.
    /// `rows` is the digest of those that the writer means to commit.
    pub(super) fn commit(
        &mut self,
        lane: Lane,
        epoch: Epoch,
        output: Output,
        base: Version,
        rows: Option<RowDigest>,
    ) -> Result<bool, String> {
        if self.versions[output as usize] != base {
            return Ok(false);
        }
        if self.named(lane, epoch) != rows {
            return Err(format!(
                "W6: lane {lane}: somebody commits epoch {epoch} with other rows than those of its cut"
            ));
        }
        let of_lane = &mut self.lanes[lane.index as usize];
        of_lane.tables.commit(output, epoch).map_err(|broken| format!("W6: lane {lane}: {broken}"))?;
        self.versions[output as usize] += 1;
        if of_lane.tables.committed_everywhere() == epoch {
            let cut = of_lane.tables.cut(epoch).expect("it was just committed");
            headwater_lake::cut::advance(&mut of_lane.committed, &cut.segments);
            self.ends += cut.segments.iter().filter(|segment| segment.to == Position::SHARD_END).count() as u64;
        }
        if output == Output::Events { self.show(lane, epoch).map(|()| true) } else { Ok(true) }
    }

    /// Readers see the rows of an epoch: all events of a key once, one after another, whichever lane they are in.
    fn show(&mut self, lane: Lane, epoch: Epoch) -> Result<(), String> {
        for row in self.lanes[lane.index as usize].tables.files.get(&epoch).into_iter().flatten() {
            let shown = &mut self.shown[row.key as usize];
            let what = || format!("event {} of key {} comes after {shown} in lane {lane}", row.counter, row.key);
            if row.counter <= *shown {
                return Err(format!("W1: {}, a second time", what()));
            }
            if row.counter > *shown + 1 {
                let id = if row.lane_before == lane.index { "W2" } else { "W3" };
                return Err(format!("{id}: {}, and the one before it was in lane {}", what(), row.lane_before));
            }
            *shown = row.counter;
        }
        Ok(())
    }

    /// Returns true when everything that is in the stream is committed, and every shard's end.
    pub(super) fn is_complete(&self, stream: &Stream) -> bool {
        let is_committed = |lane: &LaneState| lane.tables.uncommitted().is_empty();
        stream.counters().eq(self.shown.iter().copied())
            && self.lanes.iter().all(is_committed)
            && stream.closed().all(|shard| self.has_all_of(shard, stream.lane_of(shard)))
    }

    /// Every event is in the files once, for readers that list them.
    pub(super) fn check_complete(&self, stream: &Stream) -> Result<(), String> {
        let files = self.lanes.iter().flat_map(|lane| lane.tables.files.values());
        let mut listed: Vec<(u32, u32)> = files.flatten().map(|row| (row.key, row.counter)).collect();
        listed.sort_unstable();
        let events = |(key, counter): (usize, u32)| (1..=counter).map(move |number| (key as u32, number));
        let expected: Vec<(u32, u32)> = stream.counters().enumerate().flat_map(events).collect();
        if listed == expected {
            return Ok(());
        }
        let astray = listed.iter().zip(&expected).find(|(one, other)| one != other);
        Err(format!("W1: of {} events {} are in the files, at first {astray:?}", expected.len(), listed.len()))
    }

    /// Returns the digest of the rows that a lane's cut names.
    fn named(&self, lane: Lane, epoch: Epoch) -> Option<RowDigest> {
        let files = &self.cut(lane, epoch)?.output(Output::Events).files;
        files.first().map(|file| file.digest)
    }

    fn lane(&self, lane: Lane) -> &LaneState {
        &self.lanes[lane.index as usize]
    }
}

pub(super) fn digest(rows: &[Row]) -> RowDigest {
    RowDigest(rows.iter().fold(rows.len() as u128, |sum, row| {
        sum.wrapping_mul(0x0100_0193).wrapping_add(u128::from(row.key) << 64 | u128::from(row.counter))
    }))
}
