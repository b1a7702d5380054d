//! Generations, their sets of lanes, and the pointers that say which generation is live; `docs/kappa.md`,
//! `docs/INVARIANTS.md` K1 to K9 and N1 to N6. Consumers and tools are in `writer` and `tool`.
//!
//! A stream of two shards, whose events are all there from the beginning. A lane's commit is two steps, cut and
//! transaction: that these are right is the business of `commit`. Rows are positions here: a cut takes the events of
//! the lane's shards up to some position.

mod tool;
mod writer;

use std::ops::Range;

use self::tool::Tool;
use self::writer::Writer;
use crate::engine::{Model, Steps};

const GENERATIONS: usize = 2;
const SHARDS: usize = 2;
/// The lanes that a set may have: `0of1`, or `0of2` and `1of2`.
const PLACES: usize = 3;
/// Cuts of a lane, and pointers: a state that has come that far counts as complete.
const CUTS: usize = 6;
const POINTERS: usize = 4;

pub(crate) const TWICE: &str = "an event is taken twice";
pub(crate) const LOST: &str = "an event is passed over";
pub(crate) const EARLY: &str = "a lane begins before every lane of the set before is closed and committed";
pub(crate) const BEHIND_CLOSING: &str = "something is published behind a lane's closing cut";
pub(crate) const LEFT: &str = "an event is published for readers in a generation that is left";
pub(crate) const UNFINISHED: &str = "a generation is left with a cut that is not committed";
pub(crate) const BACK: &str = "readers go back: the generation that becomes live is behind";

/// The sentence that is taken out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Sabotage {
    None,
    /// The tool seals the first lane only.
    LaneIsNotSealed,
    /// The tool creates whatever pointer is next.
    PointerIsNotFixed,
    /// The tool does not commit what is published in the generation that is left.
    CutIsLeftUncommitted,
    /// The tool does not look how far the target is.
    TargetIsBehind,
    /// A seal is void as soon as its generation is live, whatever its number.
    SealHasNoNumber,
    /// A seal is void when its pointer exists, whoever is live.
    VoidWhoeverIsLive,
    /// A seal in effect is committed as an empty epoch.
    SealIsCommitted,
    /// A void seal blocks.
    VoidSealBlocks,
    /// Nobody breaks an overdue seal.
    OverdueSealIsKept,
    /// Consumers look for the next pointer in front of seals only.
    PointerIsNotLookedFor,
    /// A candidate passes every seal.
    CandidatePassesEverySeal,
    /// A candidate judges seals as consumers do.
    CandidateJudgesAsLive,
    /// A writer that finds its lane's last epoch committed does not look whether that one closes it.
    ClosingIsForgotten,
    /// A set is opened when one of the lanes before is closed.
    OneClosedLaneIsEnough,
    /// A set is opened when the lanes before are closed, and not yet committed.
    ClosingIsNotCommitted,
    /// Lanes of a later set begin where the generation begins.
    BeginsAnew,
    /// A set that is there is written again.
    SetIsReplaced,
    /// Consumers do not look for the next set.
    SetIsNotLookedFor,
    /// The tool knows the first set only.
    ToolKnowsFirstSet,
    /// A tool that finds all lanes closed takes them for sealed.
    ClosedIsSealed,
    /// A candidate does not close the lanes of a set that is to end.
    CandidateClosesNothing,
}

/// A scope.
#[derive(Clone, Copy)]
pub(crate) struct Kappa<const SETS: usize> {
    pub(crate) consumers: usize,
    pub(crate) tools: usize,
    /// How often a tool is started.
    pub(crate) runs: u8,
    /// Events of each shard, at most 3.
    pub(crate) events: u8,
    /// Lanes of the first sets: 1 or 2.
    pub(crate) lanes: u8,
    /// How often other lanes are asked for.
    pub(crate) asks: u8,
    /// Epochs that a rebuild commits in the other generation before anything else happens to it.
    pub(crate) replays: u8,
    pub(crate) crashes: u8,
    /// Whether the tools come to their end, and that is what counts.
    pub(crate) is_about_tools: bool,
    pub(crate) sabotage: Sabotage,
}

/// Positions of all shards.
type Positions = [u8; SHARDS];

/// A cut; see [`Cut::kind`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Cut(u8);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    None,
    /// Takes events; the shards of the lane then stand there.
    Events(Positions),
    /// Blocks the lane for the pointer of this number.
    Seal(u8),
    /// Ends the lane.
    Closing,
}

impl Cut {
    const CLOSING: Self = Self(64);

    fn events(to: Positions) -> Self {
        Self(1 + to[0] + 4 * to[1])
    }

    fn seal(pointer: u8) -> Self {
        Self(32 + pointer)
    }

    fn kind(self) -> Kind {
        match self.0 {
            0 => Kind::None,
            64 => Kind::Closing,
            seal if seal > 32 => Kind::Seal(seal - 32),
            events => Kind::Events([(events - 1) % 4, (events - 1) / 4]),
        }
    }
}

/// The cuts of a lane, and how many of them are committed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Chain {
    cuts: [Cut; CUTS],
    committed: u8,
}

impl Chain {
    /// Returns the cut of an epoch; epochs are counted from 1.
    fn cut(&self, epoch: u8) -> Kind {
        let index = usize::from(epoch).checked_sub(1);
        index.and_then(|index| self.cuts.get(index)).map_or(Kind::None, |cut| cut.kind())
    }

    /// Returns the last epoch that has a cut.
    fn end(&self) -> u8 {
        let count = self.cuts.iter().take_while(|cut| cut.0 != 0).count();
        u8::try_from(count).unwrap_or(u8::MAX)
    }

    fn is_full(&self) -> bool {
        usize::from(self.end()) == CUTS
    }

    /// Returns true when there is a closing cut, committed or not.
    fn is_closed(&self) -> bool {
        self.cuts.contains(&Cut::CLOSING)
    }

    fn is_closed_and_committed(&self) -> bool {
        self.cut(self.committed) == Kind::Closing
    }

    fn uncommitted(&self) -> impl Iterator<Item = Kind> {
        (self.committed + 1..=self.end()).map(|epoch| self.cut(epoch))
    }

    /// Returns where the shards stand after an epoch, as far as this lane has moved them.
    fn positions(&self, epoch: u8) -> Positions {
        let events = (1..=epoch).rev().find_map(|epoch| match self.cut(epoch) {
            Kind::Events(positions) => Some(positions),
            _ => None,
        });
        events.unwrap_or_default()
    }
}

/// The lanes of a set with so many lanes.
fn places(count: u8) -> Range<usize> {
    if count == 1 { 0..1 } else { 1..3 }
}

/// Whether a lane reads a shard.
fn reads(place: usize, shard: usize) -> bool {
    place == 0 || place == shard + 1
}

fn furthest(one: Positions, other: Positions) -> Positions {
    [one[0].max(other[0]), one[1].max(other[1])]
}

/// What a writer writes for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    Live,
    /// For the pointer after this one.
    Candidate(u8),
}

#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct State<const SETS: usize> {
    chains: [[[Chain; PLACES]; SETS]; GENERATIONS],
    /// Lanes of each set; 0: there is no such set.
    counts: [[u8; SETS]; GENERATIONS],
    /// The generation that each pointer names, plus one; 0: there is no such pointer. They are counted from 1.
    pointers: [u8; POINTERS],
    /// Whether a candidate has passed the seals that a generation was left with.
    is_opened: [bool; GENERATIONS],
    consumers: [Option<Writer>; 2],
    tools: [Tool; 2],
    runs: u8,
    asks: u8,
    replays: u8,
    crashes: u8,
    broken: Option<Promise>,
}

/// A promise that a step has broken.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Promise(u8);

const PROMISES: [&str; 7] = [TWICE, LOST, EARLY, BEHIND_CLOSING, LEFT, UNFINISHED, BACK];

impl<const SETS: usize> State<SETS> {
    /// Returns the highest pointer's number.
    fn highest(&self) -> u8 {
        let count = self.pointers.iter().take_while(|generation| **generation != 0).count();
        u8::try_from(count).unwrap_or(u8::MAX)
    }

    /// Returns the generation that a pointer names.
    fn named_by(&self, pointer: u8) -> usize {
        usize::from(self.pointers[usize::from(pointer) - 1]) - 1
    }

    fn live(&self) -> usize {
        self.named_by(self.highest())
    }

    /// Returns the lanes of a set that is there.
    fn set(&self, generation: usize, set: usize) -> impl Iterator<Item = &Chain> {
        self.chains[generation][set][places(self.counts[generation][set])].iter()
    }

    /// Returns true when every lane of the set is closed, and that is committed.
    fn is_over(&self, generation: usize, set: usize) -> bool {
        self.set(generation, set).all(Chain::is_closed_and_committed)
    }

    /// Returns the highest set that there is.
    fn highest_set(&self, generation: usize) -> usize {
        (0..SETS).rev().find(|set| self.counts[generation][*set] != 0).unwrap_or(0)
    }

    /// Returns where the shards stand in a generation's sets up to this one.
    fn published(&self, generation: usize, set: usize) -> Positions {
        let chains = self.chains[generation][..=set].iter().flatten();
        chains.map(|chain| chain.positions(chain.end())).fold(Positions::default(), furthest)
    }

    /// The same with what is committed.
    fn committed(&self, generation: usize, set: usize) -> Positions {
        let chains = self.chains[generation][..=set].iter().flatten();
        chains.map(|chain| chain.positions(chain.committed)).fold(Positions::default(), furthest)
    }

    fn breaks(&mut self, promise: &str) {
        let index = PROMISES.iter().position(|known| *known == promise);
        self.broken = index.and_then(|index| u8::try_from(index).ok()).map(Promise);
    }
}

impl<const SETS: usize> Kappa<SETS> {
    fn is(&self, sabotage: Sabotage) -> bool {
        self.sabotage == sabotage
    }

    /// Returns the set that is worked on: the highest that may be opened.
    fn current_set(&self, state: &State<SETS>, generation: usize) -> usize {
        let is_open = |set: &usize| {
            let before =
                |is_closed: fn(&Chain) -> bool| state.set(generation, set - 1).map(is_closed).collect::<Vec<_>>();
            *set == 0
                || match self.sabotage {
                    Sabotage::OneClosedLaneIsEnough => before(Chain::is_closed_and_committed).contains(&true),
                    Sabotage::ClosingIsNotCommitted => !before(Chain::is_closed).contains(&false),
                    _ => state.is_over(generation, set - 1),
                }
        };
        (0..=state.highest_set(generation)).rev().find(is_open).unwrap_or(0)
    }

    /// Creates a pointer, which is the next one. What is promised then is looked at.
    fn create_pointer(&self, state: &mut State<SETS>, generation: usize) {
        let left = state.live();
        if generation != left {
            let is_unfinished = |chain: &Chain| chain.uncommitted().any(|cut| matches!(cut, Kind::Events(_)));
            if state.chains[left].iter().flatten().any(is_unfinished) {
                state.breaks(UNFINISHED);
            }
            let (had, has) = (state.published(left, SETS - 1), state.committed(generation, SETS - 1));
            if furthest(had, has) != has {
                state.breaks(BACK);
            }
        }
        state.is_opened[generation] = false;
        let number = usize::from(state.highest());
        state.pointers[number] = u8::try_from(generation).unwrap_or(1) + 1;
    }

    /// A rebuild commits an epoch in the generation that was never live.
    fn replay(&self, state: &State<SETS>, steps: &mut Steps<State<SETS>>) {
        if state.replays == 0 || state.highest() > 1 || state.counts[1][1..].iter().any(|count| *count != 0) {
            return;
        }
        for place in places(state.counts[1][0]) {
            let chain = state.chains[1][0][place];
            if chain.committed != chain.end() || chain.is_full() {
                continue;
            }
            for to in self.ends(place, chain.positions(chain.committed), [self.events; SHARDS]) {
                let mut next = state.clone();
                let chain = &mut next.chains[1][0][place];
                chain.cuts[usize::from(chain.committed)] = Cut::events(to);
                chain.committed += 1;
                next.replays -= 1;
                steps.unfair("a rebuild commits an epoch", [u8::try_from(place).unwrap_or(0), to[0], to[1]], next);
            }
        }
    }

    /// Returns where a cut of the lane may end.
    fn ends(&self, place: usize, from: Positions, limit: Positions) -> Vec<Positions> {
        let range =
            |shard: usize| from[shard]..=if reads(place, shard) { limit[shard].max(from[shard]) } else { from[shard] };
        let all = range(0).flat_map(|one| range(1).map(move |other| [one, other]));
        all.filter(|to| *to != from).collect()
    }
}

impl<const SETS: usize> Model for Kappa<SETS> {
    type State = State<SETS>;

    fn initial(&self) -> State<SETS> {
        let mut counts = [[0; SETS]; GENERATIONS];
        counts.iter_mut().for_each(|sets| sets[0] = self.lanes);
        let mut pointers = [0; POINTERS];
        pointers[0] = 1;
        State {
            chains: [[[Chain::default(); PLACES]; SETS]; GENERATIONS],
            counts,
            pointers,
            is_opened: [false; GENERATIONS],
            consumers: [None; 2],
            tools: [Tool::default(); 2],
            runs: self.runs,
            asks: self.asks,
            replays: self.replays,
            crashes: self.crashes,
            broken: None,
        }
    }

    fn steps(&self, state: &State<SETS>, steps: &mut Steps<State<SETS>>) {
        (0..self.consumers).for_each(|index| self.consume(state, index, steps));
        (0..self.tools).for_each(|index| self.use_tool(state, index, steps));
        self.replay(state, steps);
    }

    fn broken(&self, state: &State<SETS>) -> Option<&'static str> {
        state.broken.map(|Promise(index)| PROMISES[usize::from(index)])
    }

    fn is_complete(&self, state: &State<SETS>) -> bool {
        let is_bounded =
            usize::from(state.highest()) == POINTERS || state.chains.iter().flatten().flatten().any(Chain::is_full);
        if self.is_about_tools {
            return is_bounded || (state.runs == 0 && state.tools.iter().all(|tool| *tool == Tool::default()));
        }
        let live = state.live();
        let is_astray = |consumer: &Writer| usize::from(consumer.generation) != live;
        let is_done = state.committed(live, SETS - 1) == [self.events; SHARDS]
            && !state.consumers.iter().flatten().any(is_astray);
        is_bounded || (is_done && self.current_set(state, live) == state.highest_set(live))
    }

    fn describe(&self, state: &State<SETS>) -> String {
        let mut text = format!("pointers {:?}", state.pointers);
        for generation in 0..GENERATIONS {
            for set in 0..SETS {
                let count = state.counts[generation][set];
                for place in places(count.max(1)).filter(|_| count > 0) {
                    let Chain { cuts, committed } = &state.chains[generation][set][place];
                    let cuts: Vec<_> = cuts.iter().map(|cut| cut.0).take_while(|cut| *cut != 0).collect();
                    text.push_str(&format!("; g{generation} set {set} place {place}: {cuts:?} {committed} committed"));
                }
            }
        }
        text
    }
}
