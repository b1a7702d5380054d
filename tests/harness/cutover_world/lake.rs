//! What is stored, and what no reader may ever see.

use std::collections::BTreeMap;

use headwater_common::position::{Position, ShardId};
use headwater_lake::commit::{SealState, Standing, Table, seal_state};
use headwater_lake::cut::Cut;
use headwater_lake::cutover::{End, Positions, Progress};
use headwater_lake::digest::RowDigest;
use headwater_lake::lanes::{Current, LaneSet};
use headwater_lake::layout::{Epoch, GenerationNumber, Lane, LaneSetNumber, Output, PointerNumber};
use headwater_lake::pointer::Pointer;

use super::{Chance, EVENTS_PER_SHARD, GENERATIONS, LANES, SHARDS, Sabotage, Statistics};
pub(super) use crate::parts::Version;
use crate::parts::index;

/// The last event of each shard.
pub(super) type Numbers = [u64; SHARDS];

/// Events of one shard: after the first number, up to the second.
pub(super) type Stretch = (usize, u64, u64);

/// A request to write.
#[derive(Debug, Clone)]
pub(super) enum Request {
    Cut { cut: Cut, standing: Option<Standing> },
    File { generation: GenerationNumber, lane: Lane, epoch: Epoch, stretches: Vec<Stretch> },
    Commit { generation: GenerationNumber, lane: Lane, epoch: Epoch, output: Output, base: Version, standing: Standing },
    Pointer { pointer: Pointer, by_tool: bool },
    Lanes { generation: GenerationNumber, set: LaneSet },
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
    /// The newest event of each shard.
    pub(super) produced: Numbers,
    /// The last event of each shard that readers have seen.
    shown: Numbers,
    shards: Vec<ShardId>,
    pub(super) sabotage: Sabotage,
    pub(super) statistics: Statistics,
}

#[derive(Clone)]
struct Tables {
    lanes: BTreeMap<Lane, LaneTables>,
    /// Lanes of each set.
    sets: Vec<u32>,
    versions: [Version; 2],
    is_removed: bool,
}

#[derive(Default, Clone)]
struct LaneTables {
    /// Cut n is at n - 1.
    cuts: Vec<Cut>,
    /// Where the lane's shards stand after each cut.
    ends: Vec<Numbers>,
    /// The last committed epoch of each output.
    committed: [Epoch; 2],
    /// The files by epoch.
    files: BTreeMap<Epoch, Vec<Stretch>>,
    /// Whether a candidate has passed the seals that the lane was left with.
    is_opened: bool,
}

impl LaneTables {
    fn committed_everywhere(&self) -> Epoch {
        self.committed[0].min(self.committed[1])
    }

    fn cut(&self, epoch: Epoch) -> Option<&Cut> {
        self.cuts.get(index(epoch.0.checked_sub(1)?))
    }

    /// The cuts that an output lacks.
    fn uncommitted(&self) -> &[Cut] {
        &self.cuts[index(self.committed_everywhere().0)..]
    }

    fn is_closed(&self) -> bool {
        self.cuts.last().is_some_and(|cut| cut.closes.is_some())
    }

    fn is_closed_and_committed(&self) -> bool {
        self.is_closed() && self.uncommitted().is_empty()
    }
}

impl Tables {
    fn new() -> Self {
        let mut tables = Self { lanes: BTreeMap::new(), sets: Vec::new(), versions: [0; 2], is_removed: false };
        tables.add_set(LaneSet { number: LaneSetNumber::FIRST, count: LANES });
        tables
    }

    fn add_set(&mut self, set: LaneSet) {
        self.sets.truncate(index(u64::from(set.number.0) - 1));
        self.sets.push(set.count);
        for lane in set.lanes() {
            self.lanes.entry(lane).or_default();
        }
    }

    fn set(&self, number: LaneSetNumber) -> Option<LaneSet> {
        let count = self.sets.get(index(u64::from(number.0) - 1))?;
        Some(LaneSet { number, count: *count })
    }

    fn of_set(&self, set: LaneSet) -> impl Iterator<Item = &LaneTables> {
        set.lanes().map(|lane| &self.lanes[&lane])
    }

    /// Where the shards stand in all, as far as `epoch_of` counts.
    fn furthest(&self, epoch_of: impl Fn(&LaneTables) -> Epoch) -> Numbers {
        let mut furthest = Numbers::default();
        for lane in self.lanes.values() {
            let end = index(epoch_of(lane).0).checked_sub(1).map(|at| lane.ends[at]).unwrap_or_default();
            (0..SHARDS).for_each(|shard| furthest[shard] = furthest[shard].max(end[shard]));
        }
        furthest
    }

    fn published(&self) -> Numbers {
        self.furthest(|lane| Epoch(lane.cuts.len() as u64))
    }
}

impl Lake {
    pub(super) fn new(sabotage: Sabotage) -> Self {
        Self {
            pointers: vec![Pointer::first(GenerationNumber::FIRST)],
            generations: (0..GENERATIONS).map(|_| Tables::new()).collect(),
            late: Vec::new(),
            produced: Numbers::default(),
            shown: Numbers::default(),
            shards: (0..SHARDS).map(|shard| shard.to_string().as_str().into()).collect(),
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

    pub(super) fn shard(&self, shard: usize) -> ShardId {
        self.shards[shard].clone()
    }

    pub(super) fn highest_set(&self, generation: GenerationNumber) -> LaneSet {
        let tables = self.tables(generation);
        let number = u32::try_from(tables.sets.len()).expect("toy numbers are small");
        tables.set(LaneSetNumber(number)).expect("every generation has a set")
    }

    /// Returns the set that is worked on: the highest whose lanes may begin.
    pub(super) fn current(&self, generation: GenerationNumber) -> Current {
        let tables = self.tables(generation);
        let mut current = Current { set: self.highest_set(generation), next: None };
        while let Some(before) = current.set.number.before().and_then(|number| tables.set(number)) {
            let mut lanes = tables.of_set(before);
            let may_begin = match self.sabotage {
                Sabotage::OneClosedLaneIsEnough => lanes.any(LaneTables::is_closed_and_committed),
                Sabotage::ClosingIsNotCommitted => lanes.all(LaneTables::is_closed),
                _ => lanes.all(LaneTables::is_closed_and_committed),
            };
            if may_begin {
                break;
            }
            current = Current { set: before, next: Some(current.set) };
        }
        current
    }

    pub(super) fn table(&self, generation: GenerationNumber, lane: Lane, output: Output) -> Table<Version> {
        let committed = self.lane(generation, lane).committed[output as usize];
        Table { committed, snapshot: self.tables(generation).versions[output as usize] }
    }

    pub(super) fn cut(&self, generation: GenerationNumber, lane: Lane, epoch: Epoch) -> Option<&Cut> {
        self.lane(generation, lane).cut(epoch)
    }

    /// Returns where the shards stand for a lane after an epoch: before its first, where the set before has ended.
    pub(super) fn end_at(&self, generation: GenerationNumber, lane: Lane, epoch: Epoch) -> Numbers {
        if let Some(at) = index(epoch.0).checked_sub(1) {
            return self.lane(generation, lane).ends[at];
        }
        let tables = self.tables(generation);
        let mut beginning = Numbers::default();
        let before = lane.set.before().and_then(|number| tables.set(number));
        for lane in before.into_iter().flat_map(LaneSet::lanes).filter(|_| self.sabotage != Sabotage::LanesBeginAnew) {
            let end = self.end_at(generation, lane, self.lane(generation, lane).committed_everywhere());
            (0..SHARDS).for_each(|shard| beginning[shard] = beginning[shard].max(end[shard]));
        }
        beginning
    }

    pub(super) fn file(&self, generation: GenerationNumber, lane: Lane, epoch: Epoch) -> Option<RowDigest> {
        self.lane(generation, lane).files.get(&epoch).map(|stretches| digest(stretches))
    }

    /// Returns the last committed event of each shard.
    pub(super) fn committed(&self, generation: GenerationNumber) -> Numbers {
        self.tables(generation).furthest(LaneTables::committed_everywhere)
    }

    pub(super) fn positions(&self, numbers: Numbers) -> Positions {
        let positions = numbers.map(|number| Position::of_record(number.into()));
        self.shards.iter().cloned().zip(positions).collect()
    }

    pub(super) fn end(&self, generation: GenerationNumber, lane: Lane, wanted: PointerNumber) -> End {
        let lane = self.lane(generation, lane);
        let is_sealed = lane.uncommitted().iter().any(|cut| cut.seal == Some(wanted));
        End { free: Epoch(lane.cuts.len() as u64 + 1), is_sealed, is_closed: lane.is_closed() }
    }

    pub(super) fn progress(&self, live: GenerationNumber, target: GenerationNumber) -> Progress {
        let tables = self.tables(live);
        let is_unfinished = |lane: &LaneTables| lane.uncommitted().iter().any(|cut| cut.seal.is_none());
        Progress {
            is_unfinished: tables.of_set(self.current(live).set).any(is_unfinished),
            live: self.positions(tables.published()),
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
            Request::File { generation, lane, epoch, stretches } => {
                let files = &mut self.lane_mut(generation, lane).files;
                let is_new = !files.contains_key(&epoch);
                files.entry(epoch).or_insert(stretches);
                Ok(is_new)
            }
            Request::Commit { generation, lane, epoch, output, base, standing } => {
                self.commit(generation, lane, epoch, output, base, standing)
            }
            Request::Pointer { pointer, by_tool } => self.create_pointer(pointer, by_tool),
            Request::Lanes { generation, set } => Ok(self.create_set(generation, set)),
        }
    }

    fn create_set(&mut self, generation: GenerationNumber, set: LaneSet) -> bool {
        let replaces = self.sabotage == Sabotage::SetIsReplaced;
        let tables = self.tables_mut(generation);
        let is_there = tables.set(set.number).is_some();
        if tables.is_removed || (is_there && !replaces) {
            self.statistics.taken += 1;
            return false;
        }
        tables.add_set(set);
        self.statistics.asked += 1;
        true
    }

    fn create_cut(&mut self, cut: Cut, standing: Option<Standing>) -> Result<bool, String> {
        let generation = cut.generation;
        let (lane, tables) = (self.lane(generation, cut.lane), self.tables(generation));
        let next = lane.cuts.len() as u64 + 1;
        if cut.epoch.0 < next || tables.is_removed {
            return Ok(false);
        }
        let place = || format!("{generation} lane {} epoch {}", cut.lane, cut.epoch);
        if cut.epoch.0 > next {
            return Err(format!("{}: there is a gap before it", place()));
        }
        if lane.is_closed() {
            return Err(format!("{}: it stands behind a closing cut", place()));
        }
        if let Some(before) = cut.lane.set.before().and_then(|number| tables.set(number))
            && !tables.of_set(before).all(LaneTables::is_closed_and_committed)
            && self.sabotage != Sabotage::OneClosedLaneIsEnough
        {
            return Err(format!("{}: set {} of the lanes is not closed", place(), before.number));
        }
        let published = tables.published();
        let mut end = self.end_at(generation, cut.lane, Epoch(next - 1));
        for segment in &cut.segments {
            let shard = self.shards.iter().position(|shard| *shard == segment.shard).expect("there are no others");
            if number_of(segment.from) != published[shard] {
                let (from, left) = (segment.from, published[shard]);
                return Err(format!("{}: begins after {from}, shard {shard} was left at {left}", place()));
            }
            end[shard] = number_of(segment.to);
        }
        let live = self.live();
        let is_for_readers = !cut.segments.is_empty() && standing == Some(Standing::Live);
        if is_for_readers && generation != live && !self.is_opened(generation, cut.lane) {
            return Err(format!("{}: an event is published for readers while {live} is live", place()));
        }
        self.statistics.begun += u64::from(next == 1 && cut.lane.set > LaneSetNumber::FIRST);
        let lane = self.lane_mut(generation, cut.lane);
        lane.ends.push(end);
        lane.cuts.push(cut);
        Ok(true)
    }

    /// Whether a candidate has passed what the lane was left with, or, where it is of a later set, what kept it from
    /// beginning.
    fn is_opened(&self, generation: GenerationNumber, lane: Lane) -> bool {
        let lanes = &self.tables(generation).lanes;
        lanes.iter().any(|(other, tables)| tables.is_opened && (*other == lane || other.set < lane.set))
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
        let of_lane = tables.lanes.get_mut(&lane).expect("a lane is made with its set");
        let before = of_lane.committed[output as usize];
        if epoch != before.next() {
            return Err(format!("{generation} lane {lane}: {output} commits epoch {epoch} after {before}"));
        }
        let cut = of_lane.cut(epoch).ok_or_else(|| format!("{generation} {lane}: epoch {epoch} has no cut"))?;
        let has_file = cut.output(output).files.is_empty() || of_lane.files.contains_key(&epoch);
        if !has_file {
            return Err(format!("{generation} lane {lane}: epoch {epoch} is committed without its file"));
        }
        let is_first = u64::from(output == Output::Events);
        self.statistics.closed += if cut.closes.is_some() { is_first } else { 0 };
        if cut.seal.is_some() {
            self.statistics.passed += is_first;
            of_lane.is_opened |= generation != live && standing != Standing::Live;
        }
        of_lane.committed[output as usize] = epoch;
        tables.versions[output as usize] += 1;
        self.check_readers()?;
        Ok(true)
    }

    /// What is done to a seal in effect when the sentence that forbids it is taken out.
    pub(super) fn commit_seal_in_effect(&mut self, generation: GenerationNumber, lane: Lane) {
        let tables = self.tables_mut(generation);
        let of_lane = tables.lanes.get_mut(&lane).expect("a lane is made with its set");
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
        for lane in self.tables_mut(target).lanes.values_mut() {
            lane.is_opened = false;
        }
        self.check_readers()?;
        Ok(true)
    }

    pub(super) fn remove(&mut self, generation: GenerationNumber) -> Result<(), String> {
        self.statistics.removed += 1;
        let tables = self.tables_mut(generation);
        tables.lanes.values_mut().for_each(|lane| *lane = LaneTables::default());
        tables.is_removed = true;
        self.check_readers()
    }

    /// The generation that is left is whole, and the one that becomes live has what it published.
    fn check_handover(&self, target: GenerationNumber) -> Result<(), String> {
        let live = self.live();
        for (lane, left) in &self.tables(live).lanes {
            if left.uncommitted().iter().any(|cut| cut.seal.is_none()) {
                return Err(format!("{live} is left with an epoch of lane {lane} that is not committed"));
            }
        }
        let (published, reached) = (self.tables(live).published(), self.committed(target));
        match (0..SHARDS).find(|shard| reached[*shard] < published[*shard]) {
            Some(shard) => {
                let (has, had) = (reached[shard], published[shard]);
                Err(format!("{target} becomes live with event {has} of shard {shard}, {live} had {had}"))
            }
            None => Ok(()),
        }
    }

    /// What readers have seen they see for ever.
    fn check_readers(&mut self) -> Result<(), String> {
        let live = self.live();
        let visible = self.tables(live).furthest(|lane| lane.committed[Output::Events as usize]);
        for (shard, shown) in self.shown.iter_mut().enumerate() {
            if visible[shard] < *shown {
                let sees = visible[shard];
                return Err(format!("readers of {live} see events up to {sees} of shard {shard}, and saw {shown}"));
            }
            *shown = visible[shard];
        }
        Ok(())
    }

    /// All is committed, and no change of lanes is half done.
    pub(super) fn is_complete(&self) -> bool {
        let live = self.live();
        // A void seal in a lane that has nothing to read may wait for its commit for ever.
        let is_done = |lane: &LaneTables| lane.uncommitted().iter().all(|cut| cut.segments.is_empty());
        self.committed(live) == [EVENTS_PER_SHARD; SHARDS]
            && self.tables(live).lanes.values().all(is_done)
            && self.current(live).next.is_none()
    }

    /// Every event is a row of the live generation once, for who reads the Delta log and for who lists files.
    pub(super) fn check_complete(&self) -> Result<(), String> {
        let live = self.live();
        let expected: Vec<u64> = (1..=EVENTS_PER_SHARD).collect();
        let (mut in_log, mut listed) = ([const { Vec::new() }; SHARDS], [const { Vec::new() }; SHARDS]);
        for tables in self.tables(live).lanes.values() {
            for (epoch, stretches) in &tables.files {
                for (shard, from, to) in stretches {
                    listed[*shard].extend(from + 1..=*to);
                    if *epoch <= tables.committed[Output::Events as usize] {
                        in_log[*shard].extend(from + 1..=*to);
                    }
                }
            }
        }
        for (who, rows) in [("of the Delta log", in_log), ("that list", listed)] {
            for (shard, mut found) in rows.into_iter().enumerate() {
                found.sort_unstable();
                if found != expected {
                    return Err(format!("{live} shard {shard}: readers {who} get {found:?}"));
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

    fn tables_mut(&mut self, generation: GenerationNumber) -> &mut Tables {
        &mut self.generations[index(u64::from(generation.0) - 1)]
    }

    fn lane(&self, generation: GenerationNumber, lane: Lane) -> &LaneTables {
        &self.tables(generation).lanes[&lane]
    }

    fn lane_mut(&mut self, generation: GenerationNumber, lane: Lane) -> &mut LaneTables {
        self.tables_mut(generation).lanes.get_mut(&lane).expect("a lane is made with its set")
    }
}

pub(super) fn digest(stretches: &[Stretch]) -> RowDigest {
    let add = |sum: u128, (shard, from, to): &Stretch| {
        sum.wrapping_mul(1_000_003) + ((*shard as u128) << 64 | u128::from(*from) << 32 | u128::from(*to)) + 1
    };
    RowDigest(stretches.iter().fold(0, add))
}

pub(super) fn number_of(position: Position) -> u64 {
    position.sequence.as_u64().expect("toy numbers are small")
}
