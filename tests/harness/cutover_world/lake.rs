//! What is stored, and what no reader may ever see.

use headwater_common::position::{Position, ShardId};
use headwater_lake::commit::{SealState, Standing, Table, seal_state};
use headwater_lake::cut::Cut;
use headwater_lake::cutover::{End, Positions, Progress};
use headwater_lake::digest::RowDigest;
use headwater_lake::layout::{Epoch, GenerationNumber, Lane, Output, PointerNumber};
use headwater_lake::pointer::Pointer;

use super::{Chance, EVENTS_PER_LANE, GENERATIONS, LANES, Sabotage, Statistics, lanes};
pub(super) use crate::parts::Version;
use crate::parts::{LaneTables, index};

/// A request to write.
#[derive(Debug, Clone)]
pub(super) enum Request {
    Cut { cut: Cut, standing: Option<Standing> },
    File { generation: GenerationNumber, lane: Lane, epoch: Epoch, events: (u64, u64) },
    Commit { generation: GenerationNumber, lane: Lane, epoch: Epoch, output: Output, base: Version, standing: Standing },
    Pointer { pointer: Pointer, by_tool: bool },
}

/// What comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// It was written.
    Yes,
    /// Something was there, or had moved.
    No,
    /// None.
    Unknown,
}

pub(super) struct Lake {
    pub(super) pointers: Vec<Pointer>,
    generations: Vec<Tables>,
    /// Requests that are still on their way.
    late: Vec<Request>,
    /// The newest event of each lane.
    pub(super) produced: Vec<u64>,
    /// The last event of each lane that readers have seen.
    shown: Vec<u64>,
    shards: Vec<ShardId>,
    pub(super) sabotage: Sabotage,
    pub(super) statistics: Statistics,
}

#[derive(Default)]
struct Tables {
    lanes: Vec<LaneState>,
    versions: [Version; 2],
    is_removed: bool,
}

#[derive(Default, Clone)]
struct LaneState {
    /// A file holds the events after one, up to another.
    tables: LaneTables<(u64, u64)>,
    /// The last event after each cut.
    ends: Vec<u64>,
    /// Whether a candidate has passed the seals that the lane was left with.
    is_opened: bool,
}

impl LaneState {
    fn end_at(&self, epoch: Epoch) -> u64 {
        match epoch.0 {
            0 => 0,
            number => self.ends[index(number - 1)],
        }
    }

    fn end(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }
}

impl Lake {
    pub(super) fn new(sabotage: Sabotage) -> Self {
        let tables = || Tables { lanes: vec![LaneState::default(); LANES as usize], ..Tables::default() };
        Self {
            pointers: vec![Pointer::first(GenerationNumber::FIRST)],
            generations: (0..GENERATIONS).map(|_| tables()).collect(),
            late: Vec::new(),
            produced: vec![0; LANES as usize],
            shown: vec![0; LANES as usize],
            shards: lanes().map(|lane| lane.index.to_string().as_str().into()).collect(),
            sabotage,
            statistics: Statistics::default(),
        }
    }

    pub(super) fn highest(&self) -> &Pointer {
        self.pointers.last().expect("there is one from the beginning")
    }

    pub(super) fn live(&self) -> GenerationNumber {
        self.highest().generation
    }

    pub(super) fn pointer(&self, number: PointerNumber) -> Option<&Pointer> {
        self.pointers.get(index(u64::from(number.0) - 1))
    }

    pub(super) fn is_removed(&self, generation: GenerationNumber) -> bool {
        self.tables(generation).is_removed
    }

    pub(super) fn shard(&self, lane: Lane) -> ShardId {
        self.shards[lane.index as usize].clone()
    }

    pub(super) fn table(&self, generation: GenerationNumber, lane: Lane, output: Output) -> Table<Version> {
        let committed = self.lane(generation, lane).tables.committed[output as usize];
        Table { committed, snapshot: self.tables(generation).versions[output as usize] }
    }

    pub(super) fn cut(&self, generation: GenerationNumber, lane: Lane, epoch: Epoch) -> Option<&Cut> {
        self.lane(generation, lane).tables.cut(epoch)
    }

    pub(super) fn end_at(&self, generation: GenerationNumber, lane: Lane, epoch: Epoch) -> u64 {
        self.lane(generation, lane).end_at(epoch)
    }

    pub(super) fn file(&self, generation: GenerationNumber, lane: Lane, epoch: Epoch) -> Option<RowDigest> {
        self.lane(generation, lane).tables.files.get(&epoch).map(|events| digest(*events))
    }

    /// Returns the last committed event of each lane.
    pub(super) fn committed(&self, generation: GenerationNumber) -> Vec<u64> {
        let end = |lane: &LaneState| lane.end_at(lane.tables.committed_everywhere());
        lanes().map(|lane| end(self.lane(generation, lane))).collect()
    }

    pub(super) fn positions(&self, numbers: impl IntoIterator<Item = u64>) -> Positions {
        self.shards.iter().cloned().zip(numbers.into_iter().map(|number| Position::of_record(number.into()))).collect()
    }

    pub(super) fn end(&self, generation: GenerationNumber, lane: Lane, wanted: PointerNumber) -> End {
        let lane = &self.lane(generation, lane).tables;
        let is_sealed = lane.uncommitted().iter().any(|cut| cut.seal == Some(wanted));
        End { free: Epoch(lane.cuts.len() as u64 + 1), is_sealed }
    }

    pub(super) fn progress(&self, live: GenerationNumber, target: GenerationNumber) -> Progress {
        let is_unfinished = |lane| self.lane(live, lane).tables.uncommitted().iter().any(|cut| cut.seal.is_none());
        Progress {
            is_unfinished: lanes().any(is_unfinished),
            live: self.positions(lanes().map(|lane| self.lane(live, lane).end())),
            target: self.positions(self.committed(target)),
        }
    }

    /// Writes something. A lost answer: the request happens now, later, or never.
    pub(super) fn ask(&mut self, request: Request, is_lost: bool, chance: &mut Chance) -> Result<Answer, String> {
        if !is_lost {
            return Ok(if self.arrive(request)? { Answer::Yes } else { Answer::No });
        }
        self.statistics.unknowns += 1;
        match chance.below(3) {
            0 => _ = self.arrive(request)?,
            1 => self.late.push(request),
            _ => {}
        }
        Ok(Answer::Unknown)
    }

    pub(super) fn deliver_one(&mut self, chance: &mut Chance) -> Result<(), String> {
        if !self.late.is_empty() {
            let request = self.late.swap_remove(chance.below(self.late.len()));
            self.arrive(request)?;
        }
        Ok(())
    }

    pub(super) fn deliver_all(&mut self) -> Result<(), String> {
        for request in std::mem::take(&mut self.late) {
            self.arrive(request)?;
        }
        Ok(())
    }

    fn arrive(&mut self, request: Request) -> Result<bool, String> {
        match request {
            Request::Cut { cut, standing } => self.create_cut(cut, standing),
            Request::File { generation, lane, epoch, events } => {
                Ok(self.lane_mut(generation, lane).tables.put(epoch, events))
            }
            Request::Commit { generation, lane, epoch, output, base, standing } => {
                self.commit(generation, lane, epoch, output, base, standing)
            }
            Request::Pointer { pointer, by_tool } => self.create_pointer(pointer, by_tool),
        }
    }

    fn create_cut(&mut self, cut: Cut, standing: Option<Standing>) -> Result<bool, String> {
        let live = self.live();
        let generation = cut.generation;
        let is_removed = self.is_removed(generation);
        let lane = self.lane_mut(generation, cut.lane);
        let place = || format!("{generation} lane {} epoch {}", cut.lane, cut.epoch);
        if is_removed || !lane.tables.is_free(cut.epoch).map_err(|broken| format!("{}: {broken}", place()))? {
            return Ok(false);
        }
        let mut end = lane.end();
        if let Some(segment) = cut.segments.first() {
            if number_of(segment.from) != end {
                return Err(format!("{}: begins after {}, the lane was left at {end}", place(), segment.from));
            }
            if standing == Some(Standing::Live) && generation != live && !lane.is_opened {
                return Err(format!("{}: an event is published for readers while {live} is live", place()));
            }
            end = number_of(segment.to);
        }
        lane.ends.push(end);
        lane.tables.cuts.push(cut);
        Ok(true)
    }

    fn commit(
        &mut self,
        generation: GenerationNumber,
        lane: Lane,
        epoch: Epoch,
        output: Output,
        base: Version,
        standing: Standing,
    ) -> Result<bool, String> {
        let live = self.live();
        let tables = &mut self.generations[index(u64::from(generation.0) - 1)];
        if tables.is_removed || tables.versions[output as usize] != base {
            return Ok(false);
        }
        let of_lane = &mut tables.lanes[lane.index as usize];
        of_lane.tables.commit(output, epoch).map_err(|broken| format!("{generation} lane {lane}: {broken}"))?;
        if of_lane.tables.cut(epoch).is_some_and(|cut| cut.seal.is_some()) {
            self.statistics.passed += u64::from(output == Output::Events);
            of_lane.is_opened |= generation != live && standing != Standing::Live;
        }
        tables.versions[output as usize] += 1;
        self.check_readers()?;
        Ok(true)
    }

    /// What is done to a seal in effect when the sentence that forbids it is taken out.
    pub(super) fn commit_seal_in_effect(&mut self, generation: GenerationNumber, lane: Lane) {
        let tables = &mut self.generations[index(u64::from(generation.0) - 1)];
        let of_lane = &mut tables.lanes[lane.index as usize].tables;
        for output in Output::ALL {
            let next = of_lane.committed[output as usize].next();
            if of_lane.cut(next).is_some_and(|cut| cut.seal.is_some()) {
                of_lane.committed[output as usize] = next;
                tables.versions[output as usize] += 1;
            }
        }
    }

    fn create_pointer(&mut self, pointer: Pointer, by_tool: bool) -> Result<bool, String> {
        let place = index(u64::from(pointer.number.0) - 1);
        let replaces = by_tool && self.sabotage == Sabotage::PointerIsReplaced;
        if place < self.pointers.len() && !replaces {
            return Ok(false);
        }
        if place > self.pointers.len() {
            return Err(format!("pointer {} is created after {}", pointer.number, self.highest().number));
        }
        let target = pointer.generation;
        if self.pointers.iter().any(|earlier| earlier.retired.contains(&target)) {
            return Err(format!("pointer {} names {target}, which is retired", pointer.number));
        }
        if target != self.live() {
            self.check_handover(target)?;
            self.statistics.moves += 1;
            self.statistics.rollbacks += u64::from(self.pointers.iter().any(|earlier| earlier.generation == target));
        }
        self.pointers.truncate(place);
        self.pointers.push(pointer);
        for lane in &mut self.generations[index(u64::from(target.0) - 1)].lanes {
            lane.is_opened = false;
        }
        self.check_readers()?;
        Ok(true)
    }

    pub(super) fn remove(&mut self, generation: GenerationNumber) -> Result<(), String> {
        self.statistics.removed += 1;
        let tables = &mut self.generations[index(u64::from(generation.0) - 1)];
        *tables = Tables { lanes: vec![LaneState::default(); LANES as usize], is_removed: true, ..Tables::default() };
        self.check_readers()
    }

    /// The generation that is left is whole, and the one that becomes live has what it published.
    fn check_handover(&self, target: GenerationNumber) -> Result<(), String> {
        let live = self.live();
        for lane in lanes() {
            let (left, taken) = (self.lane(live, lane), self.lane(target, lane));
            if left.tables.uncommitted().iter().any(|cut| cut.seal.is_none()) {
                return Err(format!("{live} is left with an epoch of lane {lane} that is not committed"));
            }
            let (published, reached) = (left.end(), taken.end_at(taken.tables.committed_everywhere()));
            if reached < published {
                let how = format!("with event {reached} of lane {lane}, {live} had {published}");
                return Err(format!("{target} becomes live {how}"));
            }
        }
        Ok(())
    }

    /// What readers have seen they see for ever.
    fn check_readers(&mut self) -> Result<(), String> {
        let live = self.live();
        for lane in lanes() {
            let of_lane = self.lane(live, lane);
            let visible = of_lane.end_at(of_lane.tables.committed[Output::Events as usize]);
            let shown = &mut self.shown[lane.index as usize];
            if visible < *shown {
                return Err(format!("readers of {live} see events up to {visible} of lane {lane}, and saw {shown}"));
            }
            *shown = visible;
        }
        Ok(())
    }

    pub(super) fn is_complete(&self) -> bool {
        lanes()
            .map(|lane| (self.lane(self.live(), lane), self.lane(self.live(), lane).tables.committed))
            .all(|(lane, committed)| committed[0] == committed[1] && lane.end_at(committed[0]) == EVENTS_PER_LANE)
    }

    /// Every event is a row of the live generation once, for who reads the Delta log and for who lists files.
    pub(super) fn check_complete(&self) -> Result<(), String> {
        let live = self.live();
        let expected: Vec<u64> = (1..=EVENTS_PER_LANE).collect();
        for lane in lanes() {
            let tables = &self.lane(live, lane).tables;
            let committed = |epoch: &Epoch| *epoch <= tables.committed[Output::Events as usize];
            let rows = |files: Vec<(u64, u64)>| {
                let mut rows: Vec<u64> = files.into_iter().flat_map(|(from, to)| from + 1..=to).collect();
                rows.sort_unstable();
                rows
            };
            let in_log = rows(tables.files.iter().filter(|(epoch, _)| committed(epoch)).map(|(_, at)| *at).collect());
            let listed = rows(tables.files.values().copied().collect());
            for (who, found) in [("of the Delta log", in_log), ("that list", listed)] {
                if found != expected {
                    return Err(format!("{live} lane {lane}: readers {who} get {found:?}"));
                }
            }
        }
        Ok(())
    }

    /// Returns true when a writer that looked now would be blocked by the seal.
    pub(super) fn is_in_effect(&self, seal: PointerNumber, generation: GenerationNumber, standing: Standing) -> bool {
        seal_state(seal, generation, standing, self.highest()) == SealState::InEffect
    }

    fn tables(&self, generation: GenerationNumber) -> &Tables {
        &self.generations[index(u64::from(generation.0) - 1)]
    }

    fn lane(&self, generation: GenerationNumber, lane: Lane) -> &LaneState {
        &self.tables(generation).lanes[lane.index as usize]
    }

    fn lane_mut(&mut self, generation: GenerationNumber, lane: Lane) -> &mut LaneState {
        &mut self.generations[index(u64::from(generation.0) - 1)].lanes[lane.index as usize]
    }
}

pub(super) fn digest((from, to): (u64, u64)) -> RowDigest {
    RowDigest(u128::from(from) << 64 | u128::from(to))
}

pub(super) fn number_of(position: Position) -> u64 {
    position.sequence.as_u64().expect("toy numbers are small")
}
