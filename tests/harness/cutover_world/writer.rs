//! One lane's writer: the product's machine, and what it asks for done to the toy lake.

use std::collections::BTreeMap;

use headwater_common::accounts::Account;
use headwater_common::position::{Position, Segment};
use headwater_common::timestamp::Timestamp;
use headwater_common::window::Start;
use headwater_lake::commit::{Action, Fact, Machine, Proposal, Standing};
use headwater_lake::cut::{self, Cut, FileIntent, OutputIntent};
use headwater_lake::layout::{Epoch, GenerationNumber, Lane, Output, PointerNumber};
use headwater_lake::pointer::Pointer;
use headwater_lake::schema::SchemaVersion;

use super::lake::{Answer, Lake, Numbers, Request, Stretch, Version, digest, number_of};
use super::{Chance, SHARDS, Sabotage, reads};

pub(super) struct Writer {
    pub(super) generation: GenerationNumber,
    pub(super) lane: Lane,
    pub(super) machine: Machine<Version>,
    standing: Standing,
    /// The last event of each shard that is read.
    pub(super) positions: Numbers,
    /// What the epoch at hand takes.
    taken: Vec<Stretch>,
    /// Positions of another generation, kept when they should not be.
    pub(super) carried: Option<Numbers>,
    /// Whether it passes every seal, as it should not.
    pub(super) is_bold: bool,
}

/// What one action came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// It goes on.
    Went,
    /// An epoch is done.
    Released,
    /// There is nothing to read up to the limit.
    Idle,
    /// The lane is sealed.
    Blocked(PointerNumber),
    /// The lane is closed.
    Closed,
    /// The generation is gone: the process stops with an error.
    Gone,
}

/// What a writer is to do when it has nothing at hand.
#[derive(Debug, Clone, Copy)]
pub(super) enum Orders {
    /// Take events up to these.
    Read(Numbers),
    /// Close the lane.
    Close,
}

impl Writer {
    pub(super) fn new(generation: GenerationNumber, lane: Lane, standing: Standing) -> Self {
        let machine = Machine::new(standing);
        let (positions, taken) = (Numbers::default(), Vec::new());
        Self { generation, lane, machine, standing, positions, taken, carried: None, is_bold: false }
    }

    pub(super) fn is_closed(&self) -> bool {
        matches!(self.machine.next(), Action::Closed(_))
    }

    /// Does one thing.
    pub(super) fn act(&mut self, lake: &mut Lake, orders: Orders, chance: &mut Chance) -> Result<Step, String> {
        let (generation, lane) = (self.generation, self.lane);
        if lake.is_removed(generation) {
            return Ok(Step::Gone);
        }
        let mut step = Step::Went;
        let fact = match self.machine.next() {
            Action::Idle(after) => return Ok(self.propose(after.next(), orders, lake, chance)),
            Action::Blocked(seal) => return Ok(Step::Blocked(seal)),
            Action::Closed(_) => return Ok(Step::Closed),
            Action::EncodeAgain | Action::ChangeSchema(_) => return Err("nothing has a schema here".to_owned()),
            Action::ReadTable(output) => Fact::Table(lake.table(generation, lane, output)),
            Action::ReadCut(epoch) => Fact::Cut(self.read_cut(epoch, lake).map(Box::new)),
            Action::ReadPointer => Fact::Pointer(self.pointer(lake)),
            Action::Resume(after) => {
                self.taken.clear();
                self.positions = self.carried.take().unwrap_or_else(|| lake.end_at(generation, lane, after));
                Fact::Resumed
            }
            Action::PublishCut => {
                let cut = self.cut()?.clone();
                self.ask(lake, Request::Cut { cut, standing: Some(self.standing) }, chance)?
            }
            Action::Inspect(_) => Fact::File(lake.file(generation, lane, self.cut()?.epoch)),
            Action::MakeFiles(_) => Fact::Made,
            Action::Put(_) => {
                let (epoch, stretches) = (self.cut()?.epoch, self.stretches(lake)?);
                self.ask(lake, Request::File { generation, lane, epoch, stretches }, chance)?
            }
            Action::Commit(output) => self.commit(output, lake, chance)?,
            Action::Release => {
                for (shard, _, to) in self.taken.drain(..) {
                    self.positions[shard] = self.positions[shard].max(to);
                }
                step = Step::Released;
                Fact::Released
            }
        };
        self.machine.apply(fact).map_err(|violation| violation.to_string())?;
        if let Action::Blocked(_) = self.machine.next() {
            lake.statistics.blocked += 1;
        }
        Ok(step)
    }

    /// The cut, or what a writer that does not look for a closing one takes it for.
    fn read_cut(&self, epoch: Epoch, lake: &Lake) -> Option<Cut> {
        let mut found = lake.cut(self.generation, self.lane, epoch).cloned()?;
        let is_committed = Output::ALL.iter().all(|output| {
            let table = self.machine.table(*output);
            table.is_some_and(|table| table.committed >= epoch)
        });
        if is_committed && lake.sabotage == Sabotage::ClosingIsForgotten {
            found.closes = None;
        }
        Some(found)
    }

    fn commit(&mut self, output: Output, lake: &mut Lake, chance: &mut Chance) -> Result<Fact<Version>, String> {
        let (generation, lane, epoch, standing) = (self.generation, self.lane, self.cut()?.epoch, self.standing);
        let base = self.machine.table(output).expect("it was read").snapshot;
        let request = Request::Commit { generation, lane, epoch, output, base, standing };
        let is_lost = chance.trouble_one_in(9);
        Ok(match lake.ask(request, is_lost, chance)? {
            Answer::Yes => Fact::Committed(base + 1),
            Answer::No => Fact::Conflict,
            Answer::Unknown => Fact::Unknown,
        })
    }

    fn ask(&self, lake: &mut Lake, request: Request, chance: &mut Chance) -> Result<Fact<Version>, String> {
        let is_lost = chance.trouble_one_in(9);
        Ok(match lake.ask(request, is_lost, chance)? {
            Answer::Yes => Fact::Created,
            Answer::No => Fact::Exists,
            Answer::Unknown => Fact::Unknown,
        })
    }

    /// The highest pointer, or what a writer without one of the sentences takes for it.
    fn pointer(&self, lake: &Lake) -> Pointer {
        let mut pointer = lake.highest().clone();
        let is_candidate = self.standing != Standing::Live;
        match lake.sabotage {
            Sabotage::CandidatePassesEverySeal if is_candidate => {
                pointer = Pointer { number: PointerNumber(u32::MAX), generation: self.generation, ..pointer };
            }
            _ if is_candidate => {}
            Sabotage::SealHasNoNumber => pointer.number = PointerNumber(u32::MAX),
            Sabotage::VoidWhoeverIsLive => pointer.generation = self.generation,
            Sabotage::VoidSealBlocks => pointer.number = PointerNumber(0),
            _ => {}
        }
        if self.is_bold {
            pointer = Pointer { number: PointerNumber(u32::MAX), generation: self.generation, ..pointer };
        }
        pointer
    }

    /// Takes a few events of some of the lane's shards and offers them as the next epoch, or closes the lane.
    fn propose(&mut self, epoch: Epoch, orders: Orders, lake: &Lake, chance: &mut Chance) -> Step {
        debug_assert!(self.taken.is_empty(), "what was taken is released or forgotten");
        let cut = match orders {
            Orders::Close => {
                let place = (self.generation, self.lane, epoch);
                Cut::closing(place, String::new(), &BTreeMap::new(), lake.positions(self.positions))
            }
            Orders::Read(limits) => {
                let left = |shard: usize| limits[shard].saturating_sub(self.positions[shard]);
                let mine: Vec<_> = (0..SHARDS).filter(|shard| reads(self.lane, *shard) && left(*shard) > 0).collect();
                if mine.is_empty() {
                    return Step::Idle;
                }
                let first = mine[chance.below(mine.len())];
                let also = chance.one_in(2);
                for shard in mine.into_iter().filter(|shard| *shard == first || also) {
                    let from = self.positions[shard];
                    let count = 1 + chance.below(left(shard).min(3) as usize) as u64;
                    self.taken.push((shard, from, from + count));
                }
                self.new_cut(epoch, lake)
            }
        };
        self.machine.propose(Proposal { cut, schema_changes: Vec::new() });
        Step::Went
    }

    fn new_cut(&self, epoch: Epoch, lake: &Lake) -> Cut {
        let file = FileIntent {
            key: String::new(),
            window: Start(Timestamp::from_micros(0)),
            first_row: 0,
            rows: self.taken.iter().map(|(_, from, to)| to - from).sum(),
            digest: digest(&self.taken),
        };
        let intent = |files| OutputIntent { schema: SchemaVersion::FIRST, files };
        let at = |number: &u64| Position::of_record((*number).into());
        let segment = |(shard, from, to): &Stretch| Segment { shard: lake.shard(*shard), from: at(from), to: at(to) };
        Cut {
            version: cut::VERSION,
            generation: self.generation,
            lane: self.lane,
            epoch,
            pipeline: String::new(),
            segments: self.taken.iter().map(segment).collect(),
            account: Account::default(),
            bytes: 0,
            outputs: BTreeMap::from([(Output::Events, intent(vec![file])), (Output::DeadLetters, intent(Vec::new()))]),
            positions: None,
            seal: None,
            closes: None,
        }
        .versioned()
    }

    fn cut(&self) -> Result<&Cut, String> {
        self.machine.cut().ok_or_else(|| "the machine has no cut at hand".to_owned())
    }

    /// What the cut at hand takes.
    fn stretches(&self, lake: &Lake) -> Result<Vec<Stretch>, String> {
        let shard_of = |segment: &Segment| (0..SHARDS).find(|shard| lake.shard(*shard) == segment.shard);
        let stretch = |segment: &Segment| {
            let shard = shard_of(segment).expect("there are no others");
            (shard, number_of(segment.from), number_of(segment.to))
        };
        Ok(self.cut()?.segments.iter().map(stretch).collect())
    }
}
