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

use super::lake::{Answer, Lake, Request, Version, digest, number_of};
use super::{Chance, Sabotage};

pub(super) struct Writer {
    pub(super) generation: GenerationNumber,
    pub(super) lane: Lane,
    pub(super) machine: Machine<Version>,
    standing: Standing,
    /// The last event that is read.
    pub(super) position: u64,
    /// The last event of the epoch at hand.
    to: u64,
    /// Positions of another generation, kept when they should not be.
    pub(super) carried: Option<u64>,
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
    /// The generation is gone: the process stops with an error.
    Gone,
}

impl Writer {
    pub(super) fn new(generation: GenerationNumber, lane: Lane, standing: Standing) -> Self {
        let machine = Machine::new(standing);
        Self { generation, lane, machine, standing, position: 0, to: 0, carried: None, is_bold: false }
    }

    /// Does one thing. Events up to `limit` can be read.
    pub(super) fn act(&mut self, lake: &mut Lake, limit: u64, chance: &mut Chance) -> Result<Step, String> {
        let (generation, lane) = (self.generation, self.lane);
        if lake.is_removed(generation) {
            return Ok(Step::Gone);
        }
        let mut step = Step::Went;
        let fact = match self.machine.next() {
            Action::Idle(after) => return Ok(self.propose(after.next(), limit, chance)),
            Action::Blocked(seal) => return Ok(Step::Blocked(seal)),
            Action::EncodeAgain | Action::ChangeSchema(_) => return Err("nothing has a schema here".to_owned()),
            Action::ReadTable(output) => Fact::Table(lake.table(generation, lane, output)),
            Action::ReadCut(epoch) => Fact::Cut(lake.cut(generation, lane, epoch).cloned().map(Box::new)),
            Action::ReadPointer => Fact::Pointer(self.pointer(lake)),
            Action::Resume(after) => {
                self.position = self.carried.take().unwrap_or_else(|| lake.end_at(generation, lane, after));
                Fact::Resumed
            }
            Action::PublishCut => {
                let cut = self.cut()?.clone();
                self.ask(lake, Request::Cut { cut, standing: Some(self.standing) }, chance)?
            }
            Action::Inspect(_) => Fact::File(lake.file(generation, lane, self.cut()?.epoch)),
            Action::MakeFiles(_) => Fact::Made,
            Action::Put(_) => {
                let (epoch, events) = (self.cut()?.epoch, self.events()?);
                self.ask(lake, Request::File { generation, lane, epoch, events }, chance)?
            }
            Action::Commit(output) => self.commit(output, lake, chance)?,
            Action::Release => {
                self.position = self.position.max(self.to);
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

    /// Takes a few events and offers them as the next epoch.
    fn propose(&mut self, epoch: Epoch, limit: u64, chance: &mut Chance) -> Step {
        let left = limit.saturating_sub(self.position);
        if left == 0 {
            return Step::Idle;
        }
        let taken = 1 + chance.below(left.min(3) as usize) as u64;
        self.to = self.position + taken;
        let cut = self.new_cut(epoch);
        self.machine.propose(Proposal { cut, schema_changes: Vec::new() });
        Step::Went
    }

    fn new_cut(&self, epoch: Epoch) -> Cut {
        let file = FileIntent {
            key: String::new(),
            window: Start(Timestamp::from_micros(0)),
            first_row: 0,
            rows: self.to - self.position,
            digest: digest((self.position, self.to)),
        };
        let intent = |files| OutputIntent { schema: SchemaVersion::FIRST, files };
        let at = |number: u64| Position::of_record(number.into());
        Cut {
            version: cut::VERSION,
            generation: self.generation,
            lane: self.lane,
            epoch,
            pipeline: String::new(),
            segments: vec![Segment { shard: "0".into(), from: at(self.position), to: at(self.to) }],
            account: Account::default(),
            bytes: 0,
            outputs: BTreeMap::from([(Output::Events, intent(vec![file])), (Output::DeadLetters, intent(Vec::new()))]),
            positions: None,
            seal: None,
        }
        .versioned()
    }

    fn cut(&self) -> Result<&Cut, String> {
        self.machine.cut().ok_or_else(|| "the machine has no cut at hand".to_owned())
    }

    fn events(&self) -> Result<(u64, u64), String> {
        let segment = &self.cut()?.segments[0];
        Ok((number_of(segment.from), number_of(segment.to)))
    }
}
