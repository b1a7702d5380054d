//! Which lanes this worker has, takes, asks for and hands over, as a function from facts to writes and orders.
//!
//! ```text
//!                    take, adopt, force                wish of another, or the end of the worker
//!   (another's) --------------------------> Working ----------------------------> Stopping
//!        ^                                   |   ^ renew every third of a duration   | the lane has committed
//!        |     another's, or not renewed     |   | fenced: renew, then run again     v
//!        +------------- Gone <---------------+---+-------------------------- Stopped: give, release
//! ```
//!
//! It performs nothing and waits for nothing. [`Machine::learned`] takes the rows that were read, [`Machine::decide`]
//! names the conditional writes to be done now, [`Machine::answered`] takes what came of each; [`Machine::orders`] says
//! which lanes are to run. So a simulation can crash, pause or cut off a worker between any two of them, and the product
//! runs the very same decisions.
//!
//! Guarantees, as long as clocks run at about the same pace (what time they show does not matter):
//! - M1: a lane whose owner died is owned again within two durations, where somebody may have one more lane;
//! - M2: at rest the counts of any two workers differ by at most one, unless a worker's own bound is lower;
//! - M3: two workers believe in one lane only after one of them took it because the other did not hand it over in time,
//!   and then for one duration at most.
//!
//! Relies on conditional writes only. A lease is a hint all the same: the cut is the fence, and a worker that is wrong
//! about a lane writes nothing wrong.
//!
//! How long M1 takes, in durations D. The last sign of life is seen a look (D/6) later at most, and D after that the
//! lease is expired; the next look (D/6) finds it: 4/3 D. Who has its share already waits for one more look (D/6), and
//! all is taken after four rounds (D/15 each): 1.7 D. The rest is for slow answers.

mod facts;
mod round;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use headwater_lake::layout::Lane;
use rand::SeedableRng;
use rand::rngs::SmallRng;

pub use self::facts::{Answer, Census, Course, Ending, Kind, Moment, Order, Settings, Timing, Write};
use super::claim::Claim;

/// What is known of a lane's row.
struct Seen {
    claim: Option<Claim>,
    /// When it was first seen with this owner and counter.
    since: Moment,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Holding {
    Working,
    /// The run was told to cut and end; the lease is renewed until it has.
    Stopping,
    /// The run has ended; the row is still to be written.
    Stopped,
    /// The lease is not this worker's any more; its run still has to end.
    Gone(Course),
}

/// A lane that this worker has, or whose run has not ended yet.
struct Mine {
    holding: Holding,
    /// When the last renewal that went through was begun.
    renewed: Moment,
    /// When the row is to be written next.
    due: Moment,
    term: u64,
    /// When the first renewal was begun of which no answer came.
    unclear: Option<Moment>,
    rest: Rest,
}

/// Whether a lane that this worker has, and is not asked for, has a run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rest {
    None,
    /// The run was fenced and has ended: a renewal tells whether the lane is still this worker's.
    Fenced,
    /// The run has come to its end. The lease is kept, so that nobody else begins it.
    Finished,
}

/// The coordinator of one worker.
pub struct Machine {
    settings: Settings,
    lanes: BTreeSet<Lane>,
    seen: BTreeMap<Lane, Seen>,
    mine: BTreeMap<Lane, Mine>,
    /// Lanes that this worker has asked for, and since when.
    wished: BTreeMap<Lane, Moment>,
    look_due: Moment,
    /// The rows were read since the last round.
    is_fresh: bool,
    ending: Option<Ending>,
    /// It is still to be told that this worker leaves.
    says_farewell: bool,
    terms: u64,
    census: Census,
    /// At the last round every lane was somebody's.
    is_all_taken: bool,
    lost: u64,
    strange_signs: u32,
    random: SmallRng,
}

/// Signs of life in this worker's name that are not its own, from which on another process must have that name. A
/// write of an earlier process that was long on its way is one.
const STRANGE_SIGNS_MAX: u32 = 3;

impl Machine {
    /// Returns a coordinator that knows of no row yet. The lanes are all that there are; `now` is any moment.
    pub fn new(settings: Settings, lanes: impl IntoIterator<Item = Lane>, now: Moment) -> Self {
        let random = SmallRng::seed_from_u64(settings.seed);
        Self {
            settings,
            lanes: lanes.into_iter().collect(),
            seen: BTreeMap::new(),
            mine: BTreeMap::new(),
            wished: BTreeMap::new(),
            look_due: now,
            is_fresh: false,
            ending: None,
            says_farewell: false,
            terms: 0,
            census: Census::default(),
            is_all_taken: false,
            lost: 0,
            strange_signs: 0,
            random,
        }
    }

    /// Returns the lanes whose rows are read.
    pub fn lanes(&self) -> &BTreeSet<Lane> {
        &self.lanes
    }

    /// Returns true when the rows are to be read now; what was read is decided upon first.
    pub fn wants_look(&self, now: Moment) -> bool {
        self.ending.is_none() && !self.is_fresh && now >= self.look_due
    }

    /// Puts the next look off: this one failed.
    pub fn look_failed(&mut self, now: Moment) {
        self.look_due = now.plus(self.settings.timing.retry_after());
    }

    /// Takes all rows as they were read: what is not among them is not there. `now` is after the read.
    pub fn learned(&mut self, mut rows: BTreeMap<Lane, Claim>, now: Moment) {
        for lane in self.lanes.clone() {
            self.learn(lane, rows.remove(&lane), now);
        }
        self.is_fresh = true;
    }

    /// Returns what is to be written now, at most one write a lane, in no order. All are answered before the next call.
    pub fn decide(&mut self, now: Moment) -> Vec<Write> {
        self.let_go_of_the_expired(now);
        self.hear_wishes(now);
        let mut writes = self.upkeep(now);
        if self.ending.is_some() {
            if std::mem::take(&mut self.says_farewell) {
                writes.extend(self.farewells());
            }
        } else if std::mem::take(&mut self.is_fresh) {
            writes.extend(self.round(now));
        }
        writes
    }

    /// Takes what came of a write that was begun at `began`.
    pub fn answered(&mut self, write: &Write, answer: Answer, began: Moment, now: Moment) {
        let lane = write.lane;
        match answer {
            Answer::Done => self.wrote(write, began, now),
            Answer::Lost(claim) => {
                self.learn(lane, claim, now);
                match self.mine.get_mut(&lane) {
                    Some(mine) => mine.due = now,
                    // It may have come to this worker meanwhile.
                    None => self.says_farewell |= self.ending.is_some(),
                }
            }
            Answer::Unclear => {
                if let Some(mine) = self.mine.get_mut(&lane) {
                    mine.due = now.plus(self.settings.timing.retry_after());
                    if write.kind == Kind::Renew {
                        mine.unclear.get_or_insert(began);
                    }
                }
            }
        }
    }

    /// Takes that a run has ended: what it had read is committed, or forgotten.
    pub fn stopped(&mut self, lane: Lane, term: u64, now: Moment) {
        let Some(mine) = self.mine.get_mut(&lane).filter(|mine| mine.term == term) else {
            return;
        };
        match mine.holding {
            Holding::Gone(_) => {
                self.mine.remove(&lane);
            }
            Holding::Working | Holding::Stopping => (mine.holding, mine.due) = (Holding::Stopped, now),
            Holding::Stopped => {}
        }
    }

    /// Takes that a run has ended because another writer was faster. If the lane is still this worker's it runs again.
    pub fn fenced(&mut self, lane: Lane, term: u64, now: Moment) {
        match self.mine.get_mut(&lane) {
            Some(mine) if mine.term == term && mine.holding == Holding::Working => {
                (mine.rest, mine.due) = (Rest::Fenced, now);
            }
            _ => self.stopped(lane, term, now),
        }
    }

    /// Takes that a run has come to its end. The lane is kept, and is not run again.
    pub fn finished(&mut self, lane: Lane, term: u64, now: Moment) {
        match self.mine.get_mut(&lane) {
            Some(mine) if mine.term == term && mine.holding == Holding::Working => mine.rest = Rest::Finished,
            _ => self.stopped(lane, term, now),
        }
    }

    /// Returns true when every lane is another worker's, or has come to its end here.
    pub fn is_finished(&self) -> bool {
        let is_done = |mine: &Mine| mine.holding == Holding::Working && mine.rest == Rest::Finished;
        self.is_all_taken && self.wished.is_empty() && self.mine.values().all(is_done)
    }

    /// Ends the worker: nothing is taken any more, and every lane is let go once its run has ended.
    pub fn close(&mut self, ending: Ending) {
        self.says_farewell |= self.ending.is_none();
        self.ending.get_or_insert(ending);
    }

    /// Returns true once the worker was told to end.
    pub fn is_ending(&self) -> bool {
        self.ending.is_some()
    }

    /// Returns true once there is nothing left to do.
    pub fn is_closed(&self) -> bool {
        self.ending.is_some() && !self.says_farewell && self.mine.is_empty()
    }

    /// Returns what is to become of each run. A lane that is not among them has none.
    pub fn orders(&self) -> BTreeMap<Lane, Order> {
        let order = |(lane, mine): (&Lane, &Mine)| {
            let course = match mine.holding {
                Holding::Working => Course::Run,
                Holding::Stopping => Course::Cut,
                Holding::Gone(course) => course,
                Holding::Stopped => return None,
            };
            Some((*lane, Order { term: mine.term, course }))
        };
        self.mine.iter().filter_map(order).collect()
    }

    /// Returns when there is something to do again, unless something happens before.
    pub fn wakes_at(&self) -> Moment {
        let look = self.ending.is_none().then_some(self.look_due);
        let mine = self.mine.values().filter_map(|mine| {
            let expires = mine.renewed.plus(self.settings.timing.duration);
            match mine.holding {
                Holding::Working | Holding::Stopping => Some(mine.due.min(expires)),
                Holding::Stopped => Some(mine.due),
                Holding::Gone(_) => None,
            }
        });
        look.into_iter().chain(mine).min().unwrap_or(Moment(Duration::MAX))
    }

    /// Returns true while this worker takes the lane for its own.
    pub fn believes_in(&self, lane: Lane, now: Moment) -> bool {
        self.mine.get(&lane).is_some_and(|mine| {
            let is_held = matches!(mine.holding, Holding::Working | Holding::Stopping);
            is_held && now < mine.renewed.plus(self.settings.timing.duration)
        })
    }

    /// Returns how the lanes are spread.
    pub fn census(&self) -> Census {
        let is_owned = |mine: &&Mine| !matches!(mine.holding, Holding::Gone(_));
        Census { owned: self.mine.values().filter(is_owned).count(), ..self.census }
    }

    /// Returns how many lanes were lost so far: taken by others, or not renewed in time.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Returns true when another process must have this worker's name.
    pub fn has_namesake(&self) -> bool {
        self.strange_signs >= STRANGE_SIGNS_MAX
    }

    /// A lease that could not be renewed in time may be another's by now.
    fn let_go_of_the_expired(&mut self, now: Moment) {
        let duration = self.settings.timing.duration;
        let is_expired = |mine: &Mine| {
            let is_held = matches!(mine.holding, Holding::Working | Holding::Stopping);
            is_held && now >= mine.renewed.plus(duration)
        };
        let expired: Vec<_> = self.mine.iter().filter(|(_, mine)| is_expired(mine)).map(|(lane, _)| *lane).collect();
        for lane in expired {
            self.let_go(lane, Course::Cut);
        }
    }

    /// Stops the runs that others ask for; all of them when the worker ends.
    fn hear_wishes(&mut self, now: Moment) {
        for (lane, mine) in self.mine.iter_mut().filter(|(_, mine)| mine.holding == Holding::Working) {
            let claim = self.seen.get(lane).and_then(|seen| seen.claim.as_ref());
            let wish = claim.and_then(|claim| claim.wish.as_ref());
            if self.ending.is_none() && wish.is_none_or(|wish| *wish == self.settings.worker) {
                continue;
            }
            match mine.rest {
                Rest::None => mine.holding = Holding::Stopping,
                Rest::Fenced | Rest::Finished => (mine.holding, mine.due) = (Holding::Stopped, now),
            }
        }
    }

    /// Returns what is due for the lanes that this worker has.
    fn upkeep(&self, now: Moment) -> Vec<Write> {
        let write = |(lane, mine): (&Lane, &Mine)| {
            let claim = self.seen.get(lane)?.claim.clone()?;
            let (kind, next) = match (mine.holding, self.ending) {
                (Holding::Gone(_), _) => return None,
                (Holding::Working | Holding::Stopping, _) => (Kind::Renew, Some(claim.renewed())),
                (Holding::Stopped, Some(Ending::Remove)) => (Kind::Remove, None),
                (Holding::Stopped, _) => {
                    let next = claim.handed_over();
                    (if next.owner.is_some() { Kind::Give } else { Kind::Release }, Some(next))
                }
            };
            Some(Write { lane: *lane, kind, expected: Some(claim), next })
        };
        self.mine.iter().filter(|(_, mine)| mine.due <= now).filter_map(write).collect()
    }

    /// Takes back what was asked for, and lets go of what came after the end.
    fn farewells(&self) -> Vec<Write> {
        let me = Some(&self.settings.worker);
        let write = |(lane, seen): (&Lane, &Seen)| {
            let claim = seen.claim.clone().filter(|_| !self.mine.contains_key(lane))?;
            let (kind, next) = if claim.owner.as_ref() == me {
                (Kind::Release, claim.handed_over())
            } else if claim.wish.as_ref() == me {
                (Kind::Withdraw, claim.withdrawn())
            } else {
                return None;
            };
            Some(Write { lane: *lane, kind, expected: Some(claim), next: Some(next) })
        };
        self.seen.iter().filter_map(write).collect()
    }

    /// Takes that a write went through.
    fn wrote(&mut self, write: &Write, began: Moment, now: Moment) {
        let lane = write.lane;
        self.note(lane, write.next.clone(), now);
        match write.kind {
            Kind::Create | Kind::Take | Kind::Adopt | Kind::Force => {
                self.terms += 1;
                let due = began.plus(self.settings.timing.renew_every());
                let (holding, term) = (Holding::Working, self.terms);
                let mine = Mine { holding, renewed: began, due, term, unclear: None, rest: Rest::None };
                self.mine.insert(lane, mine);
            }
            Kind::Renew => {
                let Some(mine) = self.mine.get_mut(&lane) else {
                    return;
                };
                (mine.renewed, mine.unclear) = (began, None);
                mine.due = began.plus(self.settings.timing.renew_every());
                if mine.rest == Rest::Fenced {
                    self.terms += 1;
                    (mine.term, mine.rest) = (self.terms, Rest::None);
                }
            }
            Kind::Give | Kind::Release | Kind::Remove => {
                self.mine.remove(&lane);
            }
            Kind::Ask | Kind::Withdraw => {}
        }
    }

    /// Takes what a row says, and judges by it whether the lane is still this worker's.
    fn learn(&mut self, lane: Lane, claim: Option<Claim>, now: Moment) {
        let counter = claim.as_ref().filter(|claim| claim.owner.as_ref() == Some(&self.settings.worker));
        let counter = counter.map(|claim| claim.counter);
        let known = self.seen.get(&lane).and_then(|seen| seen.claim.as_ref()).map(|claim| claim.counter);
        self.note(lane, claim, now);
        let Some(mine) = self.mine.get_mut(&lane) else {
            return;
        };
        match (mine.holding, counter) {
            (Holding::Gone(_), _) => {}
            (_, Some(_)) if counter == known => {}
            (_, Some(counter)) => match mine.unclear.take() {
                // The renewal whose answer was lost went through.
                Some(began) if known.is_some_and(|known| counter == known + 1) => {
                    mine.renewed = mine.renewed.max(began);
                    mine.due = mine.renewed.plus(self.settings.timing.renew_every());
                }
                _ => self.strange_signs += 1,
            },
            // The write whose answer was lost went through.
            (Holding::Stopped, None) => {
                self.mine.remove(&lane);
            }
            (Holding::Working | Holding::Stopping, None) => self.let_go(lane, Course::Leave),
        }
    }

    /// Writes down what a row says now.
    fn note(&mut self, lane: Lane, claim: Option<Claim>, now: Moment) {
        let me = Some(&self.settings.worker);
        let is_wished = claim.as_ref().is_some_and(|claim| claim.wish.as_ref() == me && claim.owner.as_ref() != me);
        if is_wished {
            self.wished.entry(lane).or_insert(now);
        } else {
            self.wished.remove(&lane);
        }
        let is_as_before = |seen: &&Seen| match (&seen.claim, &claim) {
            (Some(before), Some(now)) => before.is_as_alive_as(now),
            (before, now) => before.is_none() && now.is_none(),
        };
        let since = self.seen.get(&lane).filter(is_as_before).map_or(now, |seen| seen.since);
        self.seen.insert(lane, Seen { claim, since });
    }

    /// The lane is not this worker's any more; its run ends, unless it has.
    fn let_go(&mut self, lane: Lane, course: Course) {
        self.lost += 1;
        match self.mine.get_mut(&lane) {
            Some(mine) if mine.rest == Rest::None => mine.holding = Holding::Gone(course),
            _ => {
                self.mine.remove(&lane);
            }
        }
    }
}

#[cfg(test)]
mod tests;
