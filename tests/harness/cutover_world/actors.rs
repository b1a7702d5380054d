//! The processes: consumers that follow the pointer, and tools that move it.

use std::collections::BTreeMap;
use std::time::Duration;

use headwater_lake::commit::{Standing, Unblock, unblock};
use headwater_lake::cut::Cut;
use headwater_lake::cutover::{Action, End, Fact, Machine, Outcome, Positions};
use headwater_lake::layout::{GenerationNumber, Lane, PointerNumber};
use headwater_lake::pointer::Pointer;

use super::lake::{Lake, Request, number_of};
use super::writer::{Step, Writer};
use super::{Chance, LANES, Sabotage, lanes};

/// How long a seal may block: here only whether it has been so long counts.
const SEAL_WAIT: Duration = Duration::from_secs(60);

/// A consumer; without writers it has yet to open the live generation.
#[derive(Default)]
pub(super) struct Consumer {
    writers: Vec<Writer>,
}

impl Consumer {
    pub(super) fn is_in(&self, generation: GenerationNumber) -> bool {
        self.writers.first().is_some_and(|writer| writer.generation == generation)
    }

    pub(super) fn act(&mut self, lake: &mut Lake, chance: &mut Chance) -> Result<(), String> {
        if self.writers.is_empty() {
            self.open(lake.live(), lake.sabotage);
            return Ok(());
        }
        let index = chance.below(LANES as usize);
        let limit = lake.produced[index];
        match self.writers[index].act(lake, limit, chance)? {
            Step::Went => {}
            Step::Gone => self.writers.clear(),
            Step::Idle => self.look(lake),
            // It looks at each cut; how soon afterwards makes no difference to safety.
            Step::Released => {
                if chance.one_in(2) {
                    self.look(lake);
                }
            }
            Step::Blocked(seal) => self.blocked(index, seal, lake, chance)?,
        }
        Ok(())
    }

    fn open(&mut self, generation: GenerationNumber, sabotage: Sabotage) {
        let carries = sabotage == Sabotage::PositionsAreKept;
        let positions: Vec<_> = self.writers.iter().map(|writer| writer.position).collect();
        self.writers = lanes().map(|lane| Writer::new(generation, lane, Standing::Live)).collect();
        for (writer, position) in self.writers.iter_mut().zip(positions).filter(|_| carries) {
            writer.carried = Some(position);
        }
    }

    fn look(&mut self, lake: &Lake) {
        if !self.is_in(lake.live()) && lake.sabotage != Sabotage::PointerIsNotLookedFor {
            self.open(lake.live(), lake.sabotage);
        }
    }

    fn blocked(
        &mut self,
        index: usize,
        seal: PointerNumber,
        lake: &mut Lake,
        chance: &mut Chance,
    ) -> Result<(), String> {
        let writer = &mut self.writers[index];
        let (own, lane, highest) = (writer.generation, writer.lane, lake.highest().clone());
        if lake.sabotage == Sabotage::SealInEffectIsCommitted && lake.is_in_effect(seal, own, Standing::Live) {
            lake.commit_seal_in_effect(own, lane);
        }
        let is_overdue = chance.one_in(100);
        if is_overdue && lake.sabotage == Sabotage::SealIsBrokenWithoutPointer {
            writer.is_bold = true;
            writer.machine.look_again();
            return Ok(());
        }
        if is_overdue && lake.sabotage == Sabotage::BrokenByAnyPointer {
            let request = Request::Pointer { pointer: highest.following(own), by_tool: false };
            return lake.ask(request, false, chance).map(drop);
        }
        let waited = if is_overdue { SEAL_WAIT } else { Duration::ZERO };
        match unblock(seal, own, &highest, waited, SEAL_WAIT) {
            Unblock::MoveTo(pointer) => self.open(pointer.generation, lake.sabotage),
            Unblock::Pass => writer.machine.look_again(),
            Unblock::Break(pointer) => self.breaks(pointer, lake, chance)?,
            Unblock::Wait => {}
        }
        Ok(())
    }

    fn breaks(&self, pointer: Pointer, lake: &mut Lake, chance: &mut Chance) -> Result<(), String> {
        if lake.sabotage == Sabotage::OverdueSealIsKept {
            return Ok(());
        }
        lake.statistics.broken += 1;
        let is_lost = chance.trouble_one_in(9);
        lake.ask(Request::Pointer { pointer, by_tool: false }, is_lost, chance).map(drop)
    }
}

/// A cutover or a rollback on its way.
pub(super) struct Tool {
    target: GenerationNumber,
    /// The generation that the pointer it read names.
    left: Option<GenerationNumber>,
    machine: Machine,
    /// Who works for it, lane by lane; `None` where that is done.
    hands: Option<Vec<Option<Writer>>>,
    /// How far the hands read.
    limits: Vec<u64>,
}

/// How the hands' work ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    GoesOn,
    Done,
    Overtaken,
}

impl Tool {
    pub(super) fn new(target: GenerationNumber) -> Self {
        Self { target, left: None, machine: Machine::new(target), hands: None, limits: Vec::new() }
    }

    /// Does one thing; true when the tool is at its end.
    pub(super) fn act(&mut self, lake: &mut Lake, chance: &mut Chance) -> Result<bool, String> {
        let is_gone = [Some(self.target), self.left].into_iter().flatten().any(|number| lake.is_removed(number));
        if is_gone && lake.sabotage != Sabotage::RetiredIsNotRefused {
            // A description that cannot be opened: an error that stops the tool.
            lake.statistics.refused += 1;
            return Ok(true);
        }
        let fact = match self.machine.next() {
            Action::Done(outcome) => {
                match outcome {
                    Outcome::Lost { .. } => lake.statistics.lost += 1,
                    Outcome::Retired(_) => lake.statistics.refused += 1,
                    Outcome::Moved(_) | Outcome::AlreadyLive(_) => {}
                }
                return Ok(true);
            }
            Action::ReadPointer => {
                let mut highest = lake.highest().clone();
                if lake.sabotage == Sabotage::RetiredIsNotRefused {
                    highest.retired.clear();
                }
                self.left = Some(highest.generation);
                Fact::Start { highest, lanes: lanes().collect() }
            }
            // Nothing depends on how far this gets.
            Action::Approach { .. } if self.hands.is_none() && chance.one_in(3) => Fact::CaughtUp,
            Action::Approach { live, target, after } => {
                let limits = lake.committed(live);
                match self.work(target, Standing::Candidate { after }, limits, lake, chance)? {
                    Work::GoesOn => return Ok(false),
                    Work::Done => Fact::CaughtUp,
                    Work::Overtaken => Fact::Overtaken,
                }
            }
            Action::FindEnd(live, lane, wanted) => Fact::End(find_end(live, lane, wanted, lake)),
            Action::Seal(live, lane, epoch, wanted) => {
                let positions = BTreeMap::from([(lake.shard(lane), headwater_common::position::Position::START)]);
                let cut = Cut::sealing(wanted, (live, lane, epoch), String::new(), &BTreeMap::new(), positions);
                let is_lost = chance.trouble_one_in(9);
                lake.ask(Request::Cut { cut, standing: None }, is_lost, chance)?;
                Fact::Tried
            }
            Action::ReadNext(number) => {
                let is_blind = lake.sabotage == Sabotage::PointerIsReplaced && self.wants_to_replace(lake);
                Fact::Next(lake.pointer(number).filter(|_| !is_blind).cloned())
            }
            Action::Assess { live, target } => {
                let mut progress = lake.progress(live, target);
                progress.is_unfinished &= lake.sabotage != Sabotage::CutIsLeftUncommitted;
                if lake.sabotage == Sabotage::TargetIsBehind {
                    progress.target.clone_from(&progress.live);
                }
                Fact::Progress(progress)
            }
            Action::Finish(live) => {
                let limits = vec![0; LANES as usize];
                match self.work(live, Standing::Live, limits, lake, chance)? {
                    Work::GoesOn => return Ok(false),
                    Work::Done | Work::Overtaken => Fact::Finished,
                }
            }
            Action::CatchUp { target, after, positions } => {
                let limits = numbers(&positions, lake);
                match self.work(target, Standing::Candidate { after }, limits, lake, chance)? {
                    Work::GoesOn => return Ok(false),
                    Work::Done => Fact::CaughtUp,
                    Work::Overtaken => Fact::Overtaken,
                }
            }
            Action::Create(mut pointer) => {
                if lake.sabotage == Sabotage::AnyPointerIsCreated {
                    pointer = lake.highest().following(pointer.generation);
                }
                let is_lost = chance.trouble_one_in(9);
                lake.ask(Request::Pointer { pointer, by_tool: true }, is_lost, chance)?;
                Fact::Tried
            }
        };
        self.machine.apply(fact);
        Ok(false)
    }

    /// Whether the pointer it wants is there and says something else: then a tool that replaces it does not see it.
    fn wants_to_replace(&self, lake: &Lake) -> bool {
        let wanted = self.machine.wanted();
        wanted.is_some_and(|wanted| lake.pointer(wanted.number).is_some_and(|found| *found != wanted))
    }

    /// Lets one of the hands do one thing.
    fn work(
        &mut self,
        generation: GenerationNumber,
        standing: Standing,
        limits: Vec<u64>,
        lake: &mut Lake,
        chance: &mut Chance,
    ) -> Result<Work, String> {
        if self.hands.is_none() {
            // A target may run ahead of the live generation.
            let runs_ahead = standing != Standing::Live && chance.one_in(4);
            self.limits = if runs_ahead { lake.produced.clone() } else { limits };
            self.hands = Some(lanes().map(|lane| Some(Writer::new(generation, lane, standing))).collect());
        }
        let hands = self.hands.as_mut().expect("they were just called");
        let start = chance.below(LANES as usize);
        let mut order = (start..LANES as usize).chain(0..start);
        let Some(index) = order.find(|index| hands[*index].is_some()) else {
            self.hands = None;
            return Ok(Work::Done);
        };
        let writer = hands[index].as_mut().expect("it was just found");
        match writer.act(lake, self.limits[index], chance)? {
            Step::Went | Step::Released => {}
            Step::Idle => hands[index] = None,
            Step::Blocked(_) if standing == Standing::Live => hands[index] = None,
            Step::Blocked(_) | Step::Gone => {
                lake.statistics.overtaken += 1;
                self.hands = None;
                return Ok(Work::Overtaken);
            }
        }
        Ok(Work::GoesOn)
    }
}

fn find_end(live: GenerationNumber, lane: Lane, wanted: PointerNumber, lake: &Lake) -> End {
    let mut end = lake.end(live, lane, wanted);
    end.is_sealed |= lake.sabotage == Sabotage::LaneIsNotSealed && lane.index == 1;
    end
}

fn numbers(positions: &Positions, lake: &Lake) -> Vec<u64> {
    lanes().map(|lane| positions.get(&lake.shard(lane)).map_or(0, |position| number_of(*position))).collect()
}
