//! What writes epochs: consumers, and the hands of tools.

use super::{
    BEHIND_CLOSING, CUTS, Chain, Cut, EARLY, Kappa, Kind, LEFT, LOST, POINTERS, Positions, SHARDS, Sabotage, Standing,
    State, TWICE, places, reads,
};
use crate::engine::Steps;

/// A process at work in one set of lanes of one generation.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Writer {
    pub(super) generation: u8,
    pub(super) set: u8,
    pub(super) count: u8,
    pub(super) lanes: [At; 2],
}

/// Where a writer is in a lane. What it has read of the table may be long ago.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum At {
    /// At the cut of this epoch, to be found or published.
    Ready(u8),
    /// The cut is published, and is to be committed.
    Published(u8),
    /// In front of this seal.
    Blocked(u8),
    /// The lane is closed.
    Closed,
}

/// Whose writer it is.
#[derive(Clone, Copy)]
pub(super) enum Who {
    Consumer(usize),
    Hands(usize),
}

/// What a writer may do.
#[derive(Clone, Copy)]
pub(super) struct Orders {
    pub(super) who: Who,
    pub(super) standing: Standing,
    /// Where it stops reading; `None`: it publishes nothing at all.
    pub(super) limit: Option<Positions>,
    pub(super) is_fair: bool,
}

impl Who {
    fn number(self) -> u8 {
        match self {
            Self::Consumer(index) => u8::try_from(index).unwrap_or(1),
            Self::Hands(index) => 10 + u8::try_from(index).unwrap_or(1),
        }
    }
}

impl<const SETS: usize> State<SETS> {
    fn put(&mut self, who: Who, writer: Option<Writer>) {
        match who {
            Who::Consumer(index) => self.consumers[index] = writer,
            Who::Hands(index) => self.tools[index].hands = writer,
        }
    }
}

impl<const SETS: usize> Kappa<SETS> {
    pub(super) fn writer(&self, state: &State<SETS>, generation: usize) -> Writer {
        let set = self.current_set(state, generation);
        let count = state.counts[generation][set];
        let number = |index: usize| u8::try_from(index).unwrap_or(u8::MAX);
        let mut lanes = [At::Closed; 2];
        for (lane, place) in places(count).enumerate() {
            lanes[lane] = self.recover(&state.chains[generation][set][place]);
        }
        Writer { generation: number(generation), set: number(set), count, lanes }
    }

    /// Reads the table and, unless that is forgotten, the lane's last cut in it.
    fn recover(&self, chain: &Chain) -> At {
        let is_closed = chain.is_closed_and_committed() && !self.is(Sabotage::ClosingIsForgotten);
        if is_closed { At::Closed } else { At::Ready(chain.committed + 1) }
    }

    pub(super) fn consume(&self, state: &State<SETS>, index: usize, steps: &mut Steps<State<SETS>>) {
        let me = u8::try_from(index).unwrap_or(1);
        let live = state.live();
        let open = |name, steps: &mut Steps<State<SETS>>| {
            let mut next = state.clone();
            next.consumers[index] = Some(self.writer(state, live));
            steps.add(name, [me, state.highest(), 0], !self.is_about_tools, next);
        };
        let Some(writer) = state.consumers[index] else {
            return open("a consumer starts", steps);
        };
        if state.crashes > 0 {
            let mut next = state.clone();
            next.consumers[index] = None;
            next.crashes -= 1;
            steps.unfair("a consumer crashes", [me, 0, 0], next);
        }
        let is_blocked = writer.lanes.iter().any(|lane| matches!(lane, At::Blocked(_)));
        if usize::from(writer.generation) != live && (is_blocked || !self.is(Sabotage::PointerIsNotLookedFor)) {
            open("a consumer finds another pointer", steps);
        }
        self.ask_for_lanes(state, index, writer, steps);
        let limit = Some([self.events; SHARDS]);
        let orders =
            Orders { who: Who::Consumer(index), standing: Standing::Live, limit, is_fair: !self.is_about_tools };
        self.write(state, writer, orders, steps);
        for lane in 0..usize::from(writer.count) {
            if let At::Blocked(epoch) = writer.lanes[lane] {
                self.unblock(state, index, writer, (lane, epoch), steps);
            }
        }
    }

    /// Somebody wants another number of lanes: the first one says what the next set is.
    fn ask_for_lanes(&self, state: &State<SETS>, index: usize, writer: Writer, steps: &mut Steps<State<SETS>>) {
        let generation = usize::from(writer.generation);
        let highest = state.highest_set(generation);
        let wanted = 3 - state.counts[generation][highest];
        if state.asks == 0 {
            return;
        }
        let about = [u8::try_from(index).unwrap_or(1), writer.generation, wanted];
        let mut next = state.clone();
        next.asks -= 1;
        if highest + 1 < SETS {
            next.counts[generation][highest + 1] = wanted;
            steps.unfair("a consumer asks for other lanes", about, next);
        }
        if self.is(Sabotage::SetIsReplaced) && highest > 0 {
            let mut next = state.clone();
            next.asks -= 1;
            next.counts[generation][highest] = wanted;
            steps.unfair("a consumer replaces the lanes", about, next);
        }
    }

    fn unblock(
        &self,
        state: &State<SETS>,
        index: usize,
        writer: Writer,
        (lane, epoch): (usize, u8),
        steps: &mut Steps<State<SETS>>,
    ) {
        let (generation, set) = (usize::from(writer.generation), usize::from(writer.set));
        let chain = &state.chains[generation][set][places(writer.count).start + lane];
        let Kind::Seal(seal) = chain.cut(epoch) else {
            return;
        };
        if generation != state.live() {
            return;
        }
        let about = [u8::try_from(index).unwrap_or(1), u8::try_from(lane).unwrap_or(1), seal];
        let mut next = state.clone();
        let is_room = usize::from(state.highest()) < POINTERS;
        if seal <= state.highest() {
            let mut lanes = writer.lanes;
            lanes[lane] = self.recover(chain);
            next.consumers[index] = Some(Writer { lanes, ..writer });
            steps.add("a consumer looks again", about, !self.is_about_tools, next);
        } else if seal == state.highest() + 1 && is_room && !self.is(Sabotage::OverdueSealIsKept) {
            self.create_pointer(&mut next, generation);
            steps.add("a consumer breaks an overdue seal", about, !self.is_about_tools, next);
        }
    }

    /// Lets a writer do one thing in one of its lanes, or go on to the next set.
    pub(super) fn write(&self, state: &State<SETS>, writer: Writer, orders: Orders, steps: &mut Steps<State<SETS>>) {
        let count = usize::from(writer.count);
        let generation = usize::from(writer.generation);
        let is_closed = writer.lanes[..count].iter().all(|lane| *lane == At::Closed);
        let may_open = orders.limit.is_some();
        let current = self.current_set(state, generation);
        let may_leave = self.is(Sabotage::OneClosedLaneIsEnough) && writer.lanes.contains(&At::Closed);
        if (is_closed || may_leave) && may_open && current > usize::from(writer.set) {
            let mut next = state.clone();
            next.put(orders.who, Some(self.writer(state, generation)));
            let about = [orders.who.number(), writer.generation, u8::try_from(current).unwrap_or(u8::MAX)];
            steps.add("open the next set", about, orders.is_fair, next);
        }
        for lane in 0..count {
            self.write_lane(state, writer, lane, orders, steps);
        }
    }

    fn write_lane(
        &self,
        state: &State<SETS>,
        writer: Writer,
        lane: usize,
        orders: Orders,
        steps: &mut Steps<State<SETS>>,
    ) {
        let (generation, set) = (usize::from(writer.generation), usize::from(writer.set));
        let place = places(writer.count).start + lane;
        let chain = &state.chains[generation][set][place];
        let about = [orders.who.number(), writer.set, u8::try_from(place).unwrap_or(u8::MAX)];
        let goes = |name, at: At, mut next: State<SETS>, steps: &mut Steps<State<SETS>>| {
            let mut lanes = writer.lanes;
            lanes[lane] = at;
            next.put(orders.who, Some(Writer { lanes, ..writer }));
            steps.add(name, about, orders.is_fair, next);
        };
        match writer.lanes[lane] {
            At::Ready(epoch) => match chain.cut(epoch) {
                _ if chain.committed >= epoch => goes("find it committed", self.recover(chain), state.clone(), steps),
                Kind::Events(_) | Kind::Closing => {
                    let (at, next) = self.commit(state, writer, place, epoch, orders.standing);
                    goes("commit what is found", at, next, steps);
                }
                Kind::Seal(seal) if self.is_void(state, seal, generation, orders.standing) => {
                    goes("find a void seal", At::Published(epoch), state.clone(), steps);
                }
                Kind::Seal(_) => goes("find a seal in effect", At::Blocked(epoch), state.clone(), steps),
                Kind::None if usize::from(epoch) > CUTS => {}
                Kind::None => {
                    let cuts = self.next_cuts(state, writer, place, orders);
                    for cut in cuts {
                        let mut next = state.clone();
                        next.chains[generation][set][place].cuts[usize::from(epoch) - 1] = cut;
                        self.check_cut(&mut next, state, writer, place, cut, orders.standing);
                        goes("publish a cut", At::Published(epoch), next, steps);
                    }
                }
            },
            At::Published(epoch) => {
                let (at, next) = self.commit(state, writer, place, epoch, orders.standing);
                goes("commit", at, next, steps);
            }
            At::Blocked(epoch) if self.is(Sabotage::SealIsCommitted) => {
                let mut next = state.clone();
                if chain.committed + 1 == epoch {
                    next.chains[generation][set][place].committed = epoch;
                }
                goes("commit a seal in effect", At::Ready(epoch + 1), next, steps);
            }
            At::Blocked(_) | At::Closed => {}
        }
    }

    /// Commits an epoch, unless it or a later one is; goes on behind it.
    fn commit(
        &self,
        state: &State<SETS>,
        writer: Writer,
        place: usize,
        epoch: u8,
        standing: Standing,
    ) -> (At, State<SETS>) {
        let generation = usize::from(writer.generation);
        let chain = &state.chains[generation][usize::from(writer.set)][place];
        let mut next = state.clone();
        if chain.committed + 1 == epoch {
            next.chains[generation][usize::from(writer.set)][place].committed = epoch;
            let is_seal = matches!(chain.cut(epoch), Kind::Seal(_));
            next.is_opened[generation] |= is_seal && standing != Standing::Live && generation != state.live();
        }
        let at = match chain.cut(epoch) {
            _ if chain.committed + 1 < epoch => self.recover(chain),
            Kind::Closing if !self.is(Sabotage::ClosingIsForgotten) => At::Closed,
            _ => At::Ready(epoch + 1),
        };
        (at, next)
    }

    /// Returns the cuts that a writer may publish next: events up to its limit, or the closing one.
    fn next_cuts(&self, state: &State<SETS>, writer: Writer, place: usize, orders: Orders) -> Vec<Cut> {
        let (generation, set) = (usize::from(writer.generation), usize::from(writer.set));
        let Some(limit) = orders.limit else {
            return Vec::new();
        };
        let mut cuts = Vec::new();
        let from = self.stands(state, writer, place);
        cuts.extend(self.ends(place, from, limit).into_iter().map(Cut::events));
        let is_next_there = state.counts[generation].get(set + 1).is_some_and(|count| *count != 0);
        let is_blind = match orders.standing {
            Standing::Live => self.is(Sabotage::SetIsNotLookedFor),
            Standing::Candidate(_) => self.is(Sabotage::CandidateClosesNothing),
        };
        if is_next_there && !is_blind {
            cuts.push(Cut::CLOSING);
        }
        cuts
    }

    /// Returns where the shards stand for a lane: after its own epochs, or where the set before has ended.
    pub(super) fn stands(&self, state: &State<SETS>, writer: Writer, place: usize) -> Positions {
        let (generation, set) = (usize::from(writer.generation), usize::from(writer.set));
        let chain = &state.chains[generation][set][place];
        let own = chain.positions(chain.end());
        if set == 0 || own != Positions::default() || self.is(Sabotage::BeginsAnew) {
            return own;
        }
        let all = state.committed(generation, set - 1);
        let mut mine = Positions::default();
        (0..SHARDS).filter(|shard| reads(place, *shard)).for_each(|shard| mine[shard] = all[shard]);
        mine
    }

    /// Looks at what is promised of a cut that is published.
    fn check_cut(
        &self,
        next: &mut State<SETS>,
        before: &State<SETS>,
        writer: Writer,
        place: usize,
        cut: Cut,
        standing: Standing,
    ) {
        let (generation, set) = (usize::from(writer.generation), usize::from(writer.set));
        // Where a sentence is taken out that this looks at directly, what comes of it is looked for.
        if before.chains[generation][set][place].is_closed() && !self.is(Sabotage::ClosingIsForgotten) {
            return next.breaks(BEHIND_CLOSING);
        }
        if set > 0 && !before.is_over(generation, set - 1) && !self.is(Sabotage::OneClosedLaneIsEnough) {
            return next.breaks(EARLY);
        }
        let Kind::Events(to) = cut.kind() else {
            return;
        };
        let from = self.stands(before, writer, place);
        let all = before.published(generation, SETS - 1);
        for shard in (0..SHARDS).filter(|shard| to[*shard] != from[*shard]) {
            if from[shard] != all[shard] {
                return next.breaks(if from[shard] < all[shard] { TWICE } else { LOST });
            }
        }
        let is_left = generation != before.live() && !before.is_opened[generation];
        if is_left && standing == Standing::Live {
            next.breaks(LEFT);
        }
    }

    /// Judges a seal.
    fn is_void(&self, state: &State<SETS>, seal: u8, generation: usize, standing: Standing) -> bool {
        let (is_decided, is_live) = (seal <= state.highest(), state.live() == generation);
        match (standing, self.sabotage) {
            (Standing::Live, Sabotage::SealHasNoNumber) => is_live,
            (Standing::Live, Sabotage::VoidWhoeverIsLive) => is_decided,
            (Standing::Live, Sabotage::VoidSealBlocks) => false,
            (Standing::Candidate(_), Sabotage::CandidatePassesEverySeal) => true,
            (Standing::Live, _) | (Standing::Candidate(_), Sabotage::CandidateJudgesAsLive) => is_decided && is_live,
            (Standing::Candidate(after), _) => seal <= after || (is_decided && is_live),
        }
    }
}
