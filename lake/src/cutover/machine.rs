//! The steps of a cutover, as a function from facts to the next action.
//!
//! ```text
//! ReadPointer(k, names g) -> Approach -> (FindEnd -> Seal)* -> ReadNext -> Assess --(all there)--> Create(k+1) -> Done
//!                                          each lane of g |       ^          |                        |
//!                                                   ^     |       +- Finish -+ g has a cut to commit  |
//!            all are closed: the lanes of the next  |     v       +- CatchUp-+ the target is behind   |
//!            set are to be sealed                  ReadLanes      +------------(no answer)------------+
//! ```
//!
//! Guarantees: pointer k + 1 is created only when every lane of g is sealed for it or closed, and one at least is
//! sealed; every published cut of g that takes events is committed, and the target has committed at least g's
//! positions. It creates no other pointer; finding k + 1 there it stops. Between the seals and the pointer nothing can
//! move g: whoever meets a seal for k + 1 before pointer k + 1 exists is blocked, and so is a lane that is to be closed
//! for the next set of lanes, which therefore cannot begin.

use std::collections::{BTreeMap, BTreeSet};

use headwater_common::position::{Position, ShardId};

use crate::layout::{Epoch, GenerationNumber, Lane, PointerNumber};
use crate::pointer::Pointer;

/// Where a generation stands in each shard.
pub type Positions = BTreeMap<ShardId, Position>;

/// The one thing to be done now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Read the highest pointer, and the lanes of the generation it names that are worked on: answer [`Fact::Start`].
    ReadPointer,
    /// Bring the target near to the live generation, so that the seals stand for a short time: answer
    /// [`Fact::CaughtUp`] or [`Fact::Overtaken`]. Nothing depends on how far that gets.
    Approach {
        /// The live generation.
        live: GenerationNumber,
        /// The generation to become live.
        target: GenerationNumber,
        /// The pointer that was read.
        after: PointerNumber,
    },
    /// Read which lanes of the live generation are worked on now: answer [`Fact::Lanes`].
    ReadLanes(GenerationNumber),
    /// Find the end of this lane of the live generation: answer [`Fact::End`].
    FindEnd(GenerationNumber, Lane, PointerNumber),
    /// Create the seal for this pointer as this epoch of the lane if absent: answer [`Fact::Tried`].
    Seal(GenerationNumber, Lane, Epoch, PointerNumber),
    /// Look for this pointer: answer [`Fact::Next`].
    ReadNext(PointerNumber),
    /// Find out how far both generations are: answer [`Fact::Progress`].
    Assess {
        /// The live generation.
        live: GenerationNumber,
        /// The generation to become live.
        target: GenerationNumber,
    },
    /// Commit what is published in the live generation, up to its seals, as its own consumer would: answer
    /// [`Fact::Finished`].
    Finish(GenerationNumber),
    /// Bring the target to at least these positions: answer [`Fact::CaughtUp`] or [`Fact::Overtaken`].
    CatchUp {
        /// The generation to become live.
        target: GenerationNumber,
        /// The pointer that was read.
        after: PointerNumber,
        /// Where the live generation ends.
        positions: Positions,
    },
    /// Create this pointer if absent: answer [`Fact::Tried`].
    Create(Pointer),
    /// Nothing more.
    Done(Outcome),
}

/// What came of an action.
#[derive(Debug, Clone)]
pub enum Fact {
    /// The highest pointer, and the lanes of the generation it names.
    Start {
        /// The pointer.
        highest: Pointer,
        /// The lanes.
        lanes: Vec<Lane>,
    },
    /// The target is at the positions asked for.
    CaughtUp,
    /// A later seal blocked the target: the pointer after the one that was read must be there.
    Overtaken,
    /// The lanes that are worked on now.
    Lanes(Vec<Lane>),
    /// Where the lane ends.
    End(End),
    /// A create was tried; whether it happened is read back.
    Tried,
    /// The pointer after the one that was read, if it is there.
    Next(Option<Pointer>),
    /// How far both generations are.
    Progress(Progress),
    /// The live generation has nothing left that is published and not committed.
    Finished,
}

/// Where a lane ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// The first epoch that has no cut.
    pub free: Epoch,
    /// Whether one of the cuts that are not committed is a seal for the pointer asked about.
    pub is_sealed: bool,
    /// Whether the last cut closes the lane, committed or not.
    pub is_closed: bool,
}

/// How far two generations are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Progress {
    /// Whether the live generation has a published cut with events that an output has not committed.
    pub is_unfinished: bool,
    /// Where the live generation's published cuts end.
    pub live: Positions,
    /// Where the target's committed epochs end, in every output.
    pub target: Positions,
}

impl Progress {
    /// Returns true when the target is at least where the live generation is, in every shard. Until when a shard was
    /// quiet is nothing that readers have.
    pub fn is_caught_up(&self) -> bool {
        let reached = |shard| self.target.get(shard).copied().unwrap_or(Position::START);
        self.live.iter().all(|(shard, position)| reached(shard).unmarked() >= position.unmarked())
    }
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The pointer names the target.
    Moved(Pointer),
    /// The target was live already; nothing was done.
    AlreadyLive(Pointer),
    /// Another decision was faster; whatever was sealed for it is void or in effect by that pointer. Start again if it
    /// is still wanted.
    Lost {
        /// That decision.
        winner: Pointer,
    },
    /// The target is retired: its objects are gone, or going.
    Retired(Pointer),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    ReadPointer,
    Approach,
    FindEnd,
    Seal(Epoch),
    /// Every lane is closed: that is committed first.
    FinishClosed,
    ReadLanes,
    ReadNext,
    Assess,
    Finish,
    CatchUp,
    Create,
    ReadBack,
    Done,
}

/// One tool's way to its pointer.
#[derive(Debug)]
pub struct Machine {
    target: GenerationNumber,
    phase: Phase,
    /// Pointer k; read before anything else is done, and never again.
    read: Option<Pointer>,
    /// Lanes of the live generation that are not known to be sealed or closed.
    open: BTreeSet<Lane>,
    /// Whether one of those that are not open is sealed: then no lane of a later set can begin.
    is_sealed: bool,
    progress: Progress,
    outcome: Option<Outcome>,
}

impl Machine {
    /// Returns a machine that makes `target` live.
    pub fn new(target: GenerationNumber) -> Self {
        Self {
            target,
            phase: Phase::ReadPointer,
            read: None,
            open: BTreeSet::new(),
            is_sealed: false,
            progress: Progress::default(),
            outcome: None,
        }
    }

    /// Returns the pointer that it wants to create, once it has read the one before.
    pub fn wanted(&self) -> Option<Pointer> {
        self.read.as_ref().map(|read| read.following(self.target))
    }

    /// Returns what is to be done now.
    pub fn next(&self) -> Action {
        let target = self.target;
        let Some(read) = self.read.as_ref() else {
            return Action::ReadPointer;
        };
        let (live, after, wanted) = (read.generation, read.number, read.number.next());
        match self.phase {
            Phase::ReadPointer => Action::ReadPointer,
            Phase::Approach => Action::Approach { live, target, after },
            Phase::FindEnd => Action::FindEnd(live, self.lane(), wanted),
            Phase::Seal(epoch) => Action::Seal(live, self.lane(), epoch, wanted),
            Phase::ReadNext | Phase::ReadBack => Action::ReadNext(wanted),
            Phase::Assess => Action::Assess { live, target },
            Phase::Finish | Phase::FinishClosed => Action::Finish(live),
            Phase::ReadLanes => Action::ReadLanes(live),
            Phase::CatchUp => Action::CatchUp { target, after, positions: self.progress.live.clone() },
            Phase::Create => Action::Create(read.following(target)),
            Phase::Done => Action::Done(self.outcome.clone().expect("it ends with an outcome")),
        }
    }

    /// Takes what came of the action that [`Machine::next`] named.
    ///
    /// # Panics
    /// When the fact does not answer the action: a bug of the caller.
    pub fn apply(&mut self, fact: Fact) {
        self.phase = match (self.phase, fact) {
            (Phase::ReadPointer, Fact::Start { highest, lanes }) => self.started(highest, lanes),
            // However far that got: what counts is assessed when the lanes are sealed.
            (Phase::Approach, Fact::CaughtUp | Fact::Overtaken) => self.seal_next(),
            (Phase::FindEnd, Fact::End(End { is_sealed, is_closed, .. })) if is_sealed || is_closed => {
                let lane = self.lane();
                self.open.remove(&lane);
                self.is_sealed |= !is_closed;
                self.seal_next()
            }
            (Phase::FindEnd, Fact::End(End { free, .. })) => Phase::Seal(free),
            // Created, lost to a consumer, or unknown: the lane is looked at again.
            (Phase::Seal(_), Fact::Tried) => Phase::FindEnd,
            (Phase::FinishClosed, Fact::Finished) => Phase::ReadLanes,
            (Phase::ReadLanes, Fact::Lanes(lanes)) => {
                self.open = lanes.into_iter().collect();
                self.is_sealed = false;
                self.seal_next()
            }
            (Phase::ReadNext, Fact::Next(None)) => Phase::Assess,
            (Phase::ReadNext | Phase::ReadBack, Fact::Next(Some(found))) => self.decided(found),
            (Phase::Assess, Fact::Progress(progress)) => self.assessed(progress),
            (Phase::Finish, Fact::Finished) => Phase::ReadNext,
            (Phase::CatchUp, Fact::CaughtUp | Fact::Overtaken) => Phase::ReadNext,
            (Phase::Create, Fact::Tried) => Phase::ReadBack,
            // It did not happen. The lanes are sealed, so that nothing has moved.
            (Phase::ReadBack, Fact::Next(None)) => Phase::Create,
            (phase, fact) => panic!("{fact:?} does not answer the action of {phase:?}"),
        };
    }

    fn started(&mut self, highest: Pointer, lanes: Vec<Lane>) -> Phase {
        let ends = if highest.retired.contains(&self.target) {
            Some(Outcome::Retired(highest.clone()))
        } else if highest.generation == self.target {
            Some(Outcome::AlreadyLive(highest.clone()))
        } else {
            None
        };
        self.read = Some(highest);
        self.open = lanes.into_iter().collect();
        match ends {
            Some(outcome) => self.ends(outcome),
            None => Phase::Approach,
        }
    }

    fn seal_next(&self) -> Phase {
        match (self.open.is_empty(), self.is_sealed) {
            (false, _) => Phase::FindEnd,
            (true, true) => Phase::ReadNext,
            // Lanes that are all closed hold nothing up: those of the next set go on.
            (true, false) => Phase::FinishClosed,
        }
    }

    fn assessed(&mut self, progress: Progress) -> Phase {
        self.progress = progress;
        if self.progress.is_unfinished {
            Phase::Finish
        } else if self.progress.is_caught_up() {
            Phase::Create
        } else {
            Phase::CatchUp
        }
    }

    /// The pointer is there. Two tools may want the very same one: then it does not matter who wrote it.
    fn decided(&mut self, found: Pointer) -> Phase {
        let is_ours = self.wanted().is_some_and(|wanted| wanted == found);
        self.ends(if is_ours { Outcome::Moved(found) } else { Outcome::Lost { winner: found } })
    }

    fn ends(&mut self, outcome: Outcome) -> Phase {
        self.outcome = Some(outcome);
        Phase::Done
    }

    fn lane(&self) -> Lane {
        *self.open.first().expect("a lane is looked at while one is open")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::LaneSetNumber;

    const G1: GenerationNumber = GenerationNumber(1);
    const G2: GenerationNumber = GenerationNumber(2);
    const LANE: Lane = Lane::of_first_set(0, 1);
    const FREE: End = End { free: Epoch(5), is_sealed: false, is_closed: false };
    const SEALED: End = End { free: Epoch(6), is_sealed: true, is_closed: false };
    const CLOSED: End = End { free: Epoch(6), is_sealed: false, is_closed: true };

    fn pointer(number: u32, generation: GenerationNumber) -> Pointer {
        Pointer { number: PointerNumber(number), ..Pointer::first(generation) }
    }

    fn at(number: u64) -> Positions {
        [(ShardId::from("0"), Position::of_record(number.into()))].into()
    }

    fn started() -> Machine {
        let mut machine = Machine::new(G2);
        assert_eq!(machine.next(), Action::ReadPointer);
        machine.apply(Fact::Start { highest: pointer(1, G1), lanes: vec![LANE] });
        machine
    }

    fn sealed() -> Machine {
        let mut machine = started();
        machine.apply(Fact::CaughtUp);
        machine.apply(Fact::End(FREE));
        assert_eq!(machine.next(), Action::Seal(G1, LANE, Epoch(5), PointerNumber(2)));
        machine.apply(Fact::Tried);
        machine.apply(Fact::End(SEALED));
        assert_eq!(machine.next(), Action::ReadNext(PointerNumber(2)));
        machine
    }

    #[test]
    fn k1_a_cutover_seals_finishes_catches_up_and_only_then_creates_the_pointer() {
        let mut machine = sealed();
        machine.apply(Fact::Next(None));
        machine.apply(Fact::Progress(Progress { is_unfinished: true, live: at(9), target: at(9) }));
        assert_eq!(machine.next(), Action::Finish(G1));
        machine.apply(Fact::Finished);
        machine.apply(Fact::Next(None));
        machine.apply(Fact::Progress(Progress { is_unfinished: false, live: at(9), target: at(8) }));
        let after = PointerNumber(1);
        assert_eq!(machine.next(), Action::CatchUp { target: G2, after, positions: at(9) });
        machine.apply(Fact::CaughtUp);
        machine.apply(Fact::Next(None));
        machine.apply(Fact::Progress(Progress { is_unfinished: false, live: at(9), target: at(10) }));
        assert_eq!(machine.next(), Action::Create(pointer(2, G2)));
        machine.apply(Fact::Tried);
        machine.apply(Fact::Next(None));
        assert_eq!(machine.next(), Action::Create(pointer(2, G2)), "the request was lost");
        machine.apply(Fact::Tried);
        machine.apply(Fact::Next(Some(pointer(2, G2))));
        assert_eq!(machine.next(), Action::Done(Outcome::Moved(pointer(2, G2))));
    }

    #[test]
    fn fm34_a_cutover_that_finds_its_pointer_taken_stops() {
        let lost = || Action::Done(Outcome::Lost { winner: pointer(2, G1) });
        let mut early = sealed();
        early.apply(Fact::Next(Some(pointer(2, G1))));
        assert_eq!(early.next(), lost());
        let mut late = sealed();
        late.apply(Fact::Next(None));
        late.apply(Fact::Progress(Progress { is_unfinished: false, live: at(9), target: at(9) }));
        late.apply(Fact::Tried);
        late.apply(Fact::Next(Some(pointer(2, G1))));
        assert_eq!(late.next(), lost());
    }

    #[test]
    fn k3_a_consumer_that_takes_the_epoch_makes_the_tool_look_again() {
        let mut machine = started();
        machine.apply(Fact::CaughtUp);
        machine.apply(Fact::End(FREE));
        machine.apply(Fact::Tried);
        machine.apply(Fact::End(End { free: Epoch(6), ..FREE }));
        assert_eq!(machine.next(), Action::Seal(G1, LANE, Epoch(6), PointerNumber(2)));
    }

    #[test]
    fn n5_a_tool_that_finds_every_lane_closed_seals_those_of_the_next_set() {
        let next = Lane { set: LaneSetNumber(2), index: 0, count: 1 };
        let mut machine = started();
        machine.apply(Fact::CaughtUp);
        machine.apply(Fact::End(CLOSED));
        assert_eq!(machine.next(), Action::Finish(G1), "that they are closed is committed");
        machine.apply(Fact::Finished);
        assert_eq!(machine.next(), Action::ReadLanes(G1));
        machine.apply(Fact::Lanes(vec![next]));
        assert_eq!(machine.next(), Action::FindEnd(G1, next, PointerNumber(2)));
        machine.apply(Fact::End(SEALED));
        assert_eq!(machine.next(), Action::ReadNext(PointerNumber(2)));
    }

    #[test]
    fn n5_a_closed_lane_beside_a_sealed_one_needs_no_seal() {
        let mut machine = Machine::new(G2);
        let lanes = [0, 1].map(|index| Lane::of_first_set(index, 2));
        machine.apply(Fact::Start { highest: pointer(1, G1), lanes: lanes.to_vec() });
        machine.apply(Fact::CaughtUp);
        for end in [SEALED, CLOSED] {
            machine.apply(Fact::End(end));
        }
        assert_eq!(machine.next(), Action::ReadNext(PointerNumber(2)), "the next set cannot begin");
    }

    #[test]
    fn fm35_a_retired_generation_is_refused_and_a_live_one_left_alone() {
        let mut retired = pointer(4, G1);
        retired.retired.insert(G2);
        let mut machine = Machine::new(G2);
        machine.apply(Fact::Start { highest: retired.clone(), lanes: vec![LANE] });
        assert_eq!(machine.next(), Action::Done(Outcome::Retired(retired)));
        let mut machine = Machine::new(G2);
        machine.apply(Fact::Start { highest: pointer(2, G2), lanes: vec![LANE] });
        assert_eq!(machine.next(), Action::Done(Outcome::AlreadyLive(pointer(2, G2))));
    }

    #[test]
    fn k5_the_target_needs_the_events_and_the_ends_of_the_live_generation_not_its_marks() {
        let check = |live: &str, target: Option<&str>, expect: bool| {
            let at = |text: &str| Positions::from([("0".into(), text.parse().unwrap())]);
            let progress =
                Progress { live: at(live), target: target.map(at).unwrap_or_default(), ..Progress::default() };
            assert_eq!(progress.is_caught_up(), expect, "{live} {target:?}");
        };
        check("7:0", Some("6:0"), false);
        check("7:0", Some("6:0@9"), false);
        check("7:0@9", Some("7:0"), true);
        check("0:0@9", None, true);
        check("SHARD_END", Some("7:0@9"), false);
        check("SHARD_END", Some("SHARD_END"), true);
    }
}
