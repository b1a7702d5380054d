//! Cutover and rollback: one tool, both ways.

use super::writer::{At, Orders, Who, Writer};
use super::{Cut, Kappa, Kind, POINTERS, Positions, Sabotage, Standing, State, furthest, places};
use crate::engine::Steps;

/// A tool on its way to its pointer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Tool {
    phase: Phase,
    /// The number of the pointer that it wants to create; it has read the one before.
    wanted: u8,
    target: u8,
    /// The set that is sealed, its number of lanes, and the lane that is looked at.
    set: u8,
    count: u8,
    lane: u8,
    /// Whether one of these lanes is sealed. The others are sealed or closed.
    is_sealed: bool,
    pub(super) hands: Option<Writer>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
enum Phase {
    #[default]
    Idle,
    Seal,
    Assess,
    /// What is published in the generation that is left is being committed.
    Finish,
    /// The target is being brought up to date.
    CatchUp,
    Create,
}

impl<const SETS: usize> Kappa<SETS> {
    pub(super) fn use_tool(&self, state: &State<SETS>, index: usize, steps: &mut Steps<State<SETS>>) {
        let tool = state.tools[index];
        let me = u8::try_from(index).unwrap_or(1);
        if tool.phase == Phase::Idle {
            if state.runs > 0 && usize::from(state.highest()) < POINTERS {
                let live = state.live();
                let mut next = state.clone();
                next.runs -= 1;
                let wanted = state.highest() + 1;
                let target = u8::try_from(1 - live).unwrap_or(0);
                next.tools[index] = self.begin_to_seal(state, live, Tool { wanted, target, ..Tool::default() });
                steps.add("a tool starts", [me, wanted, target], self.is_about_tools, next);
            }
            return;
        }
        if state.crashes > 0 {
            let mut next = state.clone();
            next.crashes -= 1;
            next.tools[index] = Tool::default();
            steps.unfair("a tool crashes", [me, 0, 0], next);
        }
        let left = state.named_by(tool.wanted - 1);
        match tool.phase {
            Phase::Seal => self.seal_next(state, index, left, steps),
            Phase::Finish | Phase::CatchUp => self.work(state, index, left, steps),
            _ => {
                let (name, next) = self.assess(state, index, left);
                steps.add(name, [me, tool.wanted, 0], self.is_about_tools, next);
            }
        }
    }

    /// Takes the set of lanes that is worked on as the one to be sealed.
    fn begin_to_seal(&self, state: &State<SETS>, left: usize, tool: Tool) -> Tool {
        let set = if self.is(Sabotage::ToolKnowsFirstSet) { 0 } else { self.current_set(state, left) };
        let count = state.counts[left][set];
        let set = u8::try_from(set).unwrap_or(u8::MAX);
        Tool { phase: Phase::Seal, set, count, lane: 0, is_sealed: false, hands: None, ..tool }
    }

    /// Looks at the next lane, and seals it unless it is sealed or closed.
    fn seal_next(&self, state: &State<SETS>, index: usize, left: usize, steps: &mut Steps<State<SETS>>) {
        let tool = state.tools[index];
        let about = [u8::try_from(index).unwrap_or(1), tool.wanted, tool.lane];
        let place = places(tool.count).start + usize::from(tool.lane);
        let chain = &state.chains[left][usize::from(tool.set)][place];
        let is_sealed = chain.uncommitted().any(|cut| cut == Kind::Seal(tool.wanted));
        let mut next = state.clone();
        if !chain.is_closed() && !is_sealed {
            if chain.is_full() {
                return;
            }
            next.chains[left][usize::from(tool.set)][place].cuts[usize::from(chain.end())] = Cut::seal(tool.wanted);
        }
        let own = &mut next.tools[index];
        own.lane += 1;
        own.is_sealed |= !chain.is_closed();
        if own.lane == own.count || self.is(Sabotage::LaneIsNotSealed) {
            // Where every lane is closed there is a next set, and that one is not sealed.
            let is_stopped = self.is(Sabotage::ClosedIsSealed) || self.is(Sabotage::ToolKnowsFirstSet);
            own.phase = if own.is_sealed || is_stopped { Phase::Assess } else { Phase::Finish };
        }
        steps.add("seal a lane, or find it sealed or closed", about, self.is_about_tools, next);
    }

    /// Decides what is to be done before the pointer, or creates it.
    fn assess(&self, state: &State<SETS>, index: usize, left: usize) -> (&'static str, State<SETS>) {
        let tool = state.tools[index];
        let target = usize::from(tool.target);
        let mut next = state.clone();
        let is_taken = state.highest() >= tool.wanted && !self.is(Sabotage::PointerIsNotFixed);
        if is_taken || usize::from(state.highest()) == POINTERS {
            next.tools[index] = Tool::default();
            return ("the pointer is there, the tool stops", next);
        }
        if tool.phase == Phase::Create {
            self.create_pointer(&mut next, target);
            next.tools[index] = Tool::default();
            return ("create the pointer", next);
        }
        let (had, has) = self.progress(state, left, target);
        let set = &state.chains[left][usize::from(tool.set)];
        let is_published = |cut| matches!(cut, Kind::Events(_) | Kind::Closing);
        let is_unfinished = set.iter().any(|chain| chain.uncommitted().any(is_published));
        let (name, phase) = if is_unfinished && !self.is(Sabotage::CutIsLeftUncommitted) {
            ("something is not committed", Phase::Finish)
        } else if furthest(had, has) != has && !self.is(Sabotage::TargetIsBehind) {
            ("the target is behind", Phase::CatchUp)
        } else {
            ("all is there", Phase::Create)
        };
        next.tools[index].phase = phase;
        (name, next)
    }

    /// Returns where the generation that is left ends, and how far the target is committed.
    fn progress(&self, state: &State<SETS>, left: usize, target: usize) -> (Positions, Positions) {
        let first_or = |set: usize| if self.is(Sabotage::ToolKnowsFirstSet) { 0 } else { set };
        let left_set = first_or(self.current_set(state, left));
        let target_set = first_or(self.current_set(state, target));
        (state.published(left, left_set), state.committed(target, target_set))
    }

    /// Lets the hands do one thing, or sees that they are at their end.
    fn work(&self, state: &State<SETS>, index: usize, left: usize, steps: &mut Steps<State<SETS>>) {
        let tool = state.tools[index];
        let is_finish = tool.phase == Phase::Finish;
        let about = [u8::try_from(index).unwrap_or(1), tool.wanted, u8::from(is_finish)];
        let mut next = state.clone();
        let Some(hands) = tool.hands else {
            let generation = if is_finish { left } else { usize::from(tool.target) };
            next.tools[index].hands = Some(self.writer(state, generation));
            steps.add("the hands begin", about, self.is_about_tools, next);
            return;
        };
        let limit = (!is_finish).then(|| self.progress(state, left, usize::from(tool.target)).0);
        let standing = if is_finish { Standing::Live } else { Standing::Candidate(tool.wanted - 1) };
        let orders = Orders { who: Who::Hands(index), standing, limit, is_fair: self.is_about_tools };
        self.write(state, hands, orders, steps);
        if self.is_at_end(state, hands, limit) {
            let own = &mut next.tools[index];
            own.hands = None;
            own.phase = Phase::Assess;
            if is_finish && !tool.is_sealed {
                next.tools[index] = self.begin_to_seal(state, left, tool);
            }
            steps.add("the hands are done", about, self.is_about_tools, next);
        }
    }

    /// Whether the hands have nothing left to do, or may not: in each lane.
    fn is_at_end(&self, state: &State<SETS>, hands: Writer, limit: Option<Positions>) -> bool {
        let set = &state.chains[usize::from(hands.generation)][usize::from(hands.set)];
        let is_idle = |(lane, at): (usize, &At)| match at {
            At::Ready(epoch) => {
                let place = places(hands.count).start + lane;
                let is_free = set[place].cut(*epoch) == Kind::None;
                let stands = self.stands(state, hands, place);
                is_free && limit.is_none_or(|limit| self.ends(place, stands, limit).is_empty())
            }
            At::Blocked(_) | At::Closed => true,
            At::Published(_) => false,
        };
        let is_overtaken = limit.is_some() && hands.lanes.iter().any(|at| matches!(at, At::Blocked(_)));
        is_overtaken || hands.lanes[..usize::from(hands.count)].iter().enumerate().all(is_idle)
    }
}
