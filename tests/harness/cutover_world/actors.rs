//! The processes: consumers that follow the pointer, and tools that move it.

use std::collections::BTreeMap;
use std::time::Duration;

use headwater_lake::commit::{Standing, Unblock, unblock};
use headwater_lake::cut::Cut;
use headwater_lake::cutover::{Action, End, Fact, Machine, Outcome, Positions};
use headwater_lake::lanes::LaneSet;
use headwater_lake::layout::{GenerationNumber, Lane, LaneSetNumber, PointerNumber};
use headwater_lake::pointer::Pointer;

use super::lake::{Lake, Numbers, Request, number_of};
use super::writer::{Orders, Step, Writer};
use super::{Chance, LANES, SHARDS, Sabotage, reads};

/// How long a seal may block: here only whether it has been so long counts.
const SEAL_WAIT: Duration = Duration::from_secs(60);

/// A consumer; without writers it has yet to open the live generation.
#[derive(Default)]
pub(super) struct Consumer {
    writers: Vec<Writer>,
    /// Whether it knows that there is a next set of lanes.
    is_closing: bool,
}

impl Consumer {
    pub(super) fn is_in(&self, generation: GenerationNumber) -> bool {
        self.writers.first().is_some_and(|writer| writer.generation == generation)
    }

    pub(super) fn act(&mut self, lake: &mut Lake, chance: &mut Chance) -> Result<(), String> {
        if self.writers.is_empty() {
            self.open(lake);
            return Ok(());
        }
        let index = chance.below(self.writers.len());
        let orders = if self.is_closing { Orders::Close } else { Orders::Read(lake.produced) };
        match self.writers[index].act(lake, orders, chance)? {
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
            Step::Closed => self.closed(lake),
        }
        Ok(())
    }

    /// Opens the live generation, with the lanes that are worked on there.
    fn open(&mut self, lake: &Lake) {
        let mut carried = Numbers::default();
        for writer in &self.writers {
            let mine = (0..SHARDS).filter(|shard| reads(writer.lane, *shard));
            mine.for_each(|shard| carried[shard] = writer.positions[shard]);
        }
        let carries = lake.sabotage == Sabotage::PositionsAreKept && !self.writers.is_empty();
        let generation = lake.live();
        let current = lake.current(generation);
        self.is_closing = current.next.is_some() && lake.sabotage != Sabotage::NextLanesAreNotLookedFor;
        self.writers = current.set.lanes().map(|lane| Writer::new(generation, lane, Standing::Live)).collect();
        for writer in self.writers.iter_mut().filter(|_| carries) {
            writer.carried = Some(carried);
        }
    }

    /// Looks for the next pointer, and for the next set of lanes.
    fn look(&mut self, lake: &Lake) {
        if !self.is_in(lake.live()) && lake.sabotage != Sabotage::PointerIsNotLookedFor {
            return self.open(lake);
        }
        let writer = &self.writers[0];
        let has_next = lake.highest_set(writer.generation).number > writer.lane.set;
        self.is_closing |= has_next && lake.sabotage != Sabotage::NextLanesAreNotLookedFor;
    }

    /// One of the lanes is closed: so are the others to be, and then the next ones begin.
    fn closed(&mut self, lake: &Lake) {
        self.is_closing |= lake.sabotage != Sabotage::NextLanesAreNotLookedFor;
        let is_hasty = lake.sabotage == Sabotage::OneClosedLaneIsEnough;
        if is_hasty || self.writers.iter().all(Writer::is_closed) {
            self.open(lake);
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
            Unblock::MoveTo(_) => self.open(lake),
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
    hands: Option<Hands>,
}

/// Who works for a tool.
struct Hands {
    /// Lane by lane; `None` where it is done.
    writers: Vec<Option<Writer>>,
    /// What they are to do.
    orders: Orders,
    /// Whether one of the lanes is closed.
    has_closed: bool,
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
        Self { target, left: None, machine: Machine::new(target), hands: None }
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
                let lanes = lanes_to_seal(highest.generation, lake);
                Fact::Start { highest, lanes }
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
            Action::ReadLanes(live) => Fact::Lanes(lanes_to_seal(live, lake)),
            Action::FindEnd(live, lane, wanted) => Fact::End(find_end(live, lane, wanted, lake)),
            Action::Seal(live, lane, epoch, wanted) => {
                let cut = Cut::sealing(wanted, (live, lane, epoch), String::new(), &BTreeMap::new(), BTreeMap::new());
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
                let limits = Numbers::default();
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
        limits: Numbers,
        lake: &mut Lake,
        chance: &mut Chance,
    ) -> Result<Work, String> {
        let is_candidate = standing != Standing::Live;
        if self.hands.is_none() {
            // A target may run ahead of the live generation.
            let runs_ahead = is_candidate && chance.one_in(4);
            let current = lake.current(generation);
            let is_blind = lake.sabotage == Sabotage::CandidateClosesNothing;
            let orders = match current.next {
                Some(_) if is_candidate && !is_blind => Orders::Close,
                _ if runs_ahead => Orders::Read(lake.produced),
                _ => Orders::Read(limits),
            };
            let writers = current.set.lanes().map(|lane| Some(Writer::new(generation, lane, standing))).collect();
            self.hands = Some(Hands { writers, orders, has_closed: false });
        }
        let hands = self.hands.as_mut().expect("they were just called");
        let start = chance.below(hands.writers.len());
        let mut order = (start..hands.writers.len()).chain(0..start);
        let Some(index) = order.find(|index| hands.writers[*index].is_some()) else {
            // What is left of a change of lanes is carried out.
            let goes_on = hands.has_closed && is_candidate;
            self.hands = None;
            return Ok(if goes_on { Work::GoesOn } else { Work::Done });
        };
        let writer = hands.writers[index].as_mut().expect("it was just found");
        match writer.act(lake, hands.orders, chance)? {
            Step::Went | Step::Released => {}
            Step::Idle => hands.writers[index] = None,
            Step::Closed => (hands.writers[index], hands.has_closed) = (None, true),
            Step::Blocked(_) if !is_candidate => hands.writers[index] = None,
            Step::Blocked(_) | Step::Gone => {
                lake.statistics.overtaken += 1;
                self.hands = None;
                return Ok(Work::Overtaken);
            }
        }
        Ok(Work::GoesOn)
    }
}

/// The lanes that are worked on, or those that a tool takes for them.
fn lanes_to_seal(generation: GenerationNumber, lake: &Lake) -> Vec<Lane> {
    let mut set = lake.current(generation).set;
    if lake.sabotage == Sabotage::ToolKnowsFirstLanes {
        set = LaneSet { number: LaneSetNumber::FIRST, count: LANES };
    }
    set.lanes().collect()
}

fn find_end(live: GenerationNumber, lane: Lane, wanted: PointerNumber, lake: &Lake) -> End {
    let mut end = lake.end(live, lane, wanted);
    end.is_sealed |= lake.sabotage == Sabotage::LaneIsNotSealed && lane.index == 1;
    match lake.sabotage {
        Sabotage::ClosedIsSealed => (end.is_sealed, end.is_closed) = (end.is_sealed || end.is_closed, false),
        Sabotage::ToolKnowsFirstLanes => end.is_closed = false,
        _ => {}
    }
    end
}

fn numbers(positions: &Positions, lake: &Lake) -> Numbers {
    let mut numbers = Numbers::default();
    for (shard, number) in numbers.iter_mut().enumerate() {
        *number = positions.get(&lake.shard(shard)).map_or(0, |position| number_of(*position));
    }
    numbers
}
