//! Cutover, rollback and other lanes in a simulated world: the product's own machines decide, for lanes
//! ([`headwater_lake::commit::Machine`]) and for tools ([`headwater_lake::cutover::Machine`]); this world acts.
//!
//! Events keep coming into two shards, two consumers and two tools work on three generations, somebody asks for other
//! lanes now and then, and between any two actions one of them may crash, pause for any length while another takes its
//! place (a zombie), lose an answer, or have it come true later. Nothing bounds pointers, sets or cuts. A schedule is a
//! function of its seed. [`Sabotage`] takes one sentence of the protocol out at a time; the tests show that each of
//! them is missed.
//!
//! What is promised, and looked at after every action (`lake.rs`): readers of the live generation never lose sight of
//! an event; nothing is published for readers in a generation that is left; a generation that is left has committed
//! what it published; cuts join up, from one set of lanes to the next as well; nothing stands behind a closing cut. At
//! the end of every schedule, with nothing but fair steps, every event is in the live generation once, for Delta
//! readers and for listing readers, every consumer works there, and the lanes are those that were asked for last.

mod actors;
mod lake;
mod sabotage;
mod writer;

use std::collections::BTreeMap;
use std::time::Duration;

use headwater_common::timestamp::Timestamp;
use headwater_lake::gc;
use headwater_lake::lanes::LaneSet;
use headwater_lake::layout::{GenerationNumber, Lane, LaneSetNumber};
use rand::Rng;

use self::actors::{Consumer, Tool};
use self::lake::{Lake, Request};
pub use self::sabotage::{SABOTAGES, Sabotage};
pub use super::simulation::Moment;
use crate::parts::Chance;

const SHARDS: usize = 2;
/// Lanes of every generation's first set, and how many a later one may have: then some have no shard.
const LANES: u32 = 2;
const LANES_MAX: u32 = 3;
const GENERATIONS: u32 = 3;
const CONSUMERS: usize = 2;
const TOOLS: usize = 2;
const ZOMBIES_MAX: usize = 3;
const EVENTS_PER_SHARD: u64 = 6;
/// How often a tool is started.
const TOOL_RUNS: u32 = 5;
/// How often other lanes are asked for.
const ASKS: u32 = 3;
/// Steps of a schedule in which things go wrong; afterwards everything must come to a good end.
const TROUBLED_STEPS: usize = 500;
/// Steps in which a world without trouble must be done.
const CALM_STEPS: usize = 20_000;

/// What happened in a schedule, for tests that want to know that it was eventful.
#[derive(Debug, Clone, Copy, Default)]
pub struct Statistics {
    /// Processes that crashed.
    pub crashes: u64,
    /// Answers that were lost.
    pub unknowns: u64,
    /// Pointers that made another generation live.
    pub moves: u64,
    /// Moves back to a generation that was live before.
    pub rollbacks: u64,
    /// Overdue seals that a consumer broke.
    pub broken: u64,
    /// Void seals that were passed.
    pub passed: u64,
    /// Lanes that found a seal in effect.
    pub blocked: u64,
    /// Tools that found their pointer taken.
    pub lost: u64,
    /// Candidates that met a seal for a later pointer.
    pub overtaken: u64,
    /// Actions of zombies.
    pub zombies: u64,
    /// Generations that were removed.
    pub removed: u64,
    /// Tools that were refused a retired generation.
    pub refused: u64,
    /// Sets of lanes that were asked for.
    pub asked: u64,
    /// Those among them that somebody else had said already.
    pub taken: u64,
    /// Lanes that were closed.
    pub closed: u64,
    /// Lanes of later sets that began.
    pub begun: u64,
}

impl Statistics {
    /// Returns the counters, in order.
    pub fn all(&self) -> [u64; 16] {
        [
            self.crashes,
            self.unknowns,
            self.moves,
            self.rollbacks,
            self.broken,
            self.passed,
            self.blocked,
            self.lost,
            self.overtaken,
            self.zombies,
            self.removed,
            self.refused,
            self.asked,
            self.taken,
            self.closed,
            self.begun,
        ]
    }

    /// Adds another schedule's.
    pub fn add(&mut self, other: &Self) {
        self.crashes += other.crashes;
        self.unknowns += other.unknowns;
        self.moves += other.moves;
        self.rollbacks += other.rollbacks;
        self.broken += other.broken;
        self.passed += other.passed;
        self.blocked += other.blocked;
        self.lost += other.lost;
        self.overtaken += other.overtaken;
        self.zombies += other.zombies;
        self.removed += other.removed;
        self.refused += other.refused;
        self.asked += other.asked;
        self.taken += other.taken;
        self.closed += other.closed;
        self.begun += other.begun;
    }
}

/// Runs one schedule.
///
/// # Errors
/// Says which promise was broken.
pub fn run(seed: u64, sabotage: Sabotage) -> Result<Statistics, String> {
    let mut world = World::new(seed, sabotage, true);
    for _ in 0..TROUBLED_STEPS {
        world.step()?;
    }
    world.settle()?;
    world.lake.check_complete()?;
    Ok(world.lake.statistics)
}

/// Runs a schedule whose only trouble is one crash, at action number `at`; returns whether there was such an action.
///
/// # Errors
/// Says which promise was broken.
pub fn run_with_crash(seed: u64, at: usize, moment: Moment) -> Result<bool, String> {
    let mut world = World::new(seed, Sabotage::None, false);
    for _ in 0..at {
        if world.tool_runs_left == 0 && world.asks_left == 0 && world.is_settled() {
            return Ok(false);
        }
        world.step()?;
    }
    let actor = world.choose();
    if moment == Moment::After {
        world.act(actor)?;
    }
    world.crash(actor);
    world.settle()?;
    world.lake.check_complete()?;
    Ok(true)
}

/// Who acts next.
#[derive(Debug, Clone, Copy)]
enum Actor {
    Consumer(usize),
    Tool(usize),
    ZombieConsumer(usize),
    ZombieTool(usize),
    Gc,
}

struct World {
    chance: Chance,
    lake: Lake,
    consumers: Vec<Consumer>,
    tools: Vec<Option<Tool>>,
    /// Processes whose place was taken although they are still there.
    zombie_consumers: Vec<Consumer>,
    zombie_tools: Vec<Tool>,
    tool_runs_left: u32,
    asks_left: u32,
    /// The generation that gc has in mind, and whether it may begin at all.
    doomed: Option<GenerationNumber>,
    gc_may_begin: bool,
}

impl World {
    fn new(seed: u64, sabotage: Sabotage, is_troubled: bool) -> Self {
        let mut chance = Chance::new(seed, is_troubled);
        let gc_may_begin = is_troubled && chance.one_in(3);
        Self {
            chance,
            lake: Lake::new(sabotage),
            consumers: (0..CONSUMERS).map(|_| Consumer::default()).collect(),
            tools: (0..TOOLS).map(|_| None).collect(),
            zombie_consumers: Vec::new(),
            zombie_tools: Vec::new(),
            tool_runs_left: TOOL_RUNS,
            asks_left: ASKS,
            doomed: None,
            gc_may_begin,
        }
    }

    /// Lets one process do one thing, an event come, or the network deliver something late.
    fn step(&mut self) -> Result<(), String> {
        if self.chance.one_in(10) {
            let produced = &mut self.lake.produced[self.chance.below(SHARDS)];
            *produced = (*produced + 1).min(EVENTS_PER_SHARD);
        }
        if self.chance.one_in(6) {
            self.lake.deliver_one(&mut self.chance)?;
        }
        if self.tool_runs_left > 0 && self.chance.one_in(12) {
            self.start_tool();
        }
        if self.asks_left > 0 && self.chance.one_in(60) {
            self.ask_for_lanes()?;
        }
        let actor = self.choose();
        if self.chance.trouble_one_in(100) {
            self.crash(actor);
            return Ok(());
        }
        self.act(actor)?;
        if self.chance.trouble_one_in(100) {
            self.crash(actor);
        }
        Ok(())
    }

    fn start_tool(&mut self) {
        let live = self.lake.live();
        let target = GenerationNumber(self.chance.random.random_range(1..=GENERATIONS));
        if let Some(slot) = self.tools.iter_mut().find(|slot| slot.is_none())
            && target != live
        {
            *slot = Some(Tool::new(target));
            self.tool_runs_left -= 1;
        }
    }

    /// A consumer is started with another number of lanes; mostly where readers are.
    fn ask_for_lanes(&mut self) -> Result<(), String> {
        self.asks_left -= 1;
        let stale = GenerationNumber(self.chance.random.random_range(1..=GENERATIONS));
        let generation = if self.chance.one_in(4) { stale } else { self.lake.live() };
        let highest = self.lake.highest_set(generation);
        let count = self.chance.random.random_range(1..=LANES_MAX);
        if count == highest.count {
            return Ok(());
        }
        // It may have looked before somebody else asked.
        let is_late = self.chance.trouble_one_in(4) && highest.number > LaneSetNumber::FIRST;
        let number = if is_late { highest.number } else { highest.number.next() };
        let is_lost = self.chance.trouble_one_in(9);
        let request = Request::Lanes { generation, set: LaneSet { number, count } };
        self.lake.ask(request, is_lost, &mut self.chance).map(drop)
    }

    fn choose(&mut self) -> Actor {
        let consumer = Actor::Consumer(self.chance.below(CONSUMERS));
        match self.chance.below(20) {
            0..9 => consumer,
            9..17 => {
                let index = self.chance.below(TOOLS);
                let other = (index + 1) % TOOLS;
                let busy = [index, other].into_iter().find(|index| self.tools[*index].is_some());
                busy.map_or(consumer, Actor::Tool)
            }
            17..19 => {
                let zombies = self.zombie_consumers.len() + self.zombie_tools.len();
                match self.chance.below(zombies.max(1)) {
                    _ if zombies == 0 => consumer,
                    index if index < self.zombie_consumers.len() => Actor::ZombieConsumer(index),
                    index => Actor::ZombieTool(index - self.zombie_consumers.len()),
                }
            }
            _ => Actor::Gc,
        }
    }

    fn act(&mut self, actor: Actor) -> Result<(), String> {
        let (lake, chance) = (&mut self.lake, &mut self.chance);
        match actor {
            Actor::Consumer(index) => self.consumers[index].act(lake, chance),
            Actor::Tool(index) => {
                if let Some(tool) = &mut self.tools[index]
                    && tool.act(lake, chance)?
                {
                    self.tools[index] = None;
                }
                Ok(())
            }
            Actor::ZombieConsumer(index) => {
                lake.statistics.zombies += 1;
                self.zombie_consumers[index].act(lake, chance)
            }
            Actor::ZombieTool(index) => {
                lake.statistics.zombies += 1;
                if self.zombie_tools[index].act(lake, chance)? {
                    self.zombie_tools.swap_remove(index);
                }
                Ok(())
            }
            Actor::Gc => self.collect(),
        }
    }

    /// A process dies, or only seems to: then another takes its place and it goes on when nobody thinks of it any more.
    fn crash(&mut self, actor: Actor) {
        self.lake.statistics.crashes += 1;
        let lives_on = self.chance.trouble_one_in(2);
        match actor {
            Actor::Consumer(index) => {
                let old = std::mem::take(&mut self.consumers[index]);
                if lives_on && self.zombie_consumers.len() < ZOMBIES_MAX {
                    self.zombie_consumers.push(old);
                }
            }
            Actor::Tool(index) => {
                let old = self.tools[index].take();
                if lives_on && self.zombie_tools.len() < ZOMBIES_MAX {
                    self.zombie_tools.extend(old);
                }
            }
            Actor::ZombieConsumer(index) => _ = self.zombie_consumers.swap_remove(index),
            Actor::ZombieTool(index) => {
                _ = (index < self.zombie_tools.len()).then(|| self.zombie_tools.swap_remove(index))
            }
            Actor::Gc => self.doomed = None,
        }
    }

    /// gc, one step at a time: retires by a pointer, and later removes what it finds retired.
    fn collect(&mut self) -> Result<(), String> {
        let highest = self.lake.highest().clone();
        if let Some(doomed) = self.doomed {
            if !self.chance.one_in(8) {
                return Ok(());
            }
            self.doomed = None;
            let is_retired = highest.retired.contains(&doomed) && highest.generation != doomed;
            if is_retired || self.lake.sabotage == Sabotage::RemovedBeforeRetired {
                return self.lake.remove(doomed);
            }
            return Ok(());
        }
        let chosen = GenerationNumber(self.chance.random.random_range(1..=GENERATIONS));
        if !self.gc_may_begin || chosen == highest.generation || !self.chance.one_in(4) {
            return Ok(());
        }
        self.gc_may_begin = false;
        self.doomed = Some(chosen);
        let facts = gc::Facts { highest, last_used: BTreeMap::from([(chosen, Some(Timestamp::from_micros(0)))]) };
        let plan = gc::plan(&facts, Duration::from_secs(1), Timestamp::from_micros(2_000_000));
        let Some(pointer) = plan.retire.filter(|_| self.lake.sabotage != Sabotage::RemovedBeforeRetired) else {
            return Ok(());
        };
        let is_lost = self.chance.trouble_one_in(9);
        self.lake.ask(Request::Pointer { pointer, by_tool: false }, is_lost, &mut self.chance).map(drop)
    }

    /// Without trouble everything must come to a good end: with the tools that run, or without them.
    fn settle(&mut self) -> Result<(), String> {
        self.chance.is_troubled = false;
        self.tool_runs_left = 0;
        self.asks_left = 0;
        self.gc_may_begin = false;
        self.lake.produced = [EVENTS_PER_SHARD; SHARDS];
        self.lake.deliver_all()?;
        if self.chance.one_in(2) {
            self.tools = (0..TOOLS).map(|_| None).collect();
            self.zombie_tools.clear();
        }
        for _ in 0..CALM_STEPS {
            if self.is_settled() {
                return Ok(());
            }
            self.step()?;
        }
        let live = self.lake.live();
        let astray = self.consumers.iter().filter(|consumer| !consumer.is_in(live)).count();
        Err(format!("without any trouble there is no end: stuck, {astray} consumers are not in {live}"))
    }

    fn is_settled(&self) -> bool {
        let live = self.lake.live();
        self.tools.iter().all(Option::is_none)
            && self.lake.is_complete()
            && self.consumers.iter().all(|consumer| consumer.is_in(live))
    }
}

/// Whether a lane reads a shard.
fn reads(lane: Lane, shard: usize) -> bool {
    shard * lane.count as usize / SHARDS == lane.index as usize
}
