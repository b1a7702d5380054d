//! Many workers at one stream and one lake, in a simulated world. The product decides: which lanes a worker has
//! ([`headwater_consumer::lease::machine`]), which shards may be read ([`headwater_stream::lineage`]), and how an epoch
//! is written ([`headwater_lake::commit::Machine`]). This world acts, in a time of its own, on one thread.
//!
//! ```text
//!  producer -> stream (splits, merges, forgets) --read--> run of a lane --cut, file, commit--> lake
//!                                                            ^ orders
//!              table of leases <--look, conditional write-- coordinator of a process
//! ```
//!
//! Processes pause for any time and go on as zombies, some with their clock; they crash at any action, are cut off from
//! the leases, the lake or the stream, join, and leave in order. Clocks show anything and go up to three percent
//! wrongly. Requests are lost, or their answers, or they come true late; reads are throttled; lists are old. What
//! happens is a function of the plan and the seed. [`Sabotage`] takes one rule out at a time; the tests show that each
//! is missed.
//!
//! What is promised:
//! - W1: every event is in the lake once; a cut says of no shard that it has ended, or how far it is known, when that is
//!   not so; an epoch that is made again is the same.
//! - W2: within a lane the events of a key are in the order of their positions, by epoch and row in file.
//! - W3: across lanes too: a parent's events of a key are committed before its children's.
//! - W4: a lane is owned again within two lease periods of its owner's death, if somebody could have taken it.
//! - W5: at rest the workers' counts of lanes differ by at most one, but for their own bounds, and no lane moves.
//! - W6: who was fenced writes nothing: files and commits are those of the published cut.
//! - W7: cuts join up, shard by shard.

mod checks;
mod clock;
mod lake;
mod lane_run;
mod leases;
mod network;
mod plan;
mod reader;
mod sabotage;
mod stream;
mod trouble;
mod workers;

use std::collections::BTreeMap;
use std::time::Duration;

use headwater_common::position::{Position, ShardId};
use headwater_lake::layout::Lane;
use rand::Rng;

use self::checks::Watched;
use self::clock::{Queue, Time};
use self::lake::Lake;
use self::leases::Leases;
use self::network::{Answer, Request, Sender};
pub use self::plan::Plan;
pub use self::sabotage::{SABOTAGES, Sabotage};
use self::stream::Stream;
use self::workers::Process;
use crate::parts::Chance;

/// A lease period.
const LEASE: Duration = Duration::from_secs(10);

/// What happened, for tests that want to know that it was eventful.
#[derive(Debug, Clone, Default)]
pub struct Statistics(BTreeMap<&'static str, u64>);

impl Statistics {
    fn count(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }

    fn count_if(&mut self, is_so: bool, what: &'static str) {
        if is_so {
            self.count(what);
        }
    }

    /// Adds another world's.
    pub fn add(&mut self, other: &Self) {
        for (what, count) in &other.0 {
            *self.0.entry(*what).or_default() += count;
        }
    }

    /// Returns how often something happened.
    pub fn of(&self, what: &str) -> u64 {
        self.0.get(what).copied().unwrap_or(0)
    }
}

/// Runs one world.
///
/// # Errors
/// Says which promise was broken, its id first.
pub fn run(plan: Plan, seed: u64, sabotage: Sabotage) -> Result<Statistics, String> {
    let mut world = World::new(plan, seed, sabotage);
    let end = world.begin();
    world.go_on_until(end)?;
    world.end_trouble()?;
    world.come_to_rest()?;
    world.lake.check_complete(&world.stream)?;
    Ok(world.statistics)
}

#[derive(Debug)]
enum Happening {
    /// A request reaches its place; its sender hears of it, or gave up.
    Arrive {
        sender: Sender,
        request: Request,
        is_heard: bool,
    },
    Hear {
        sender: Sender,
        answer: Answer,
    },
    /// A coordinator's sleep is over.
    Wake(usize, u64),
    /// A lane's pause is over.
    Turn(usize, Lane, u64),
    /// A run that was told to end had its time.
    Overdue(usize, Lane, u64),
    /// A process that was paused goes on.
    GoOn(usize),
    /// A process starts.
    Start,
    Put,
    Reshard,
    Trouble,
    Script(usize),
    Check,
}

impl Happening {
    /// Returns the process that it happens to.
    fn process(&self) -> Option<usize> {
        match self {
            Self::Hear { sender, .. } => Some(sender.process),
            Self::Wake(index, _) | Self::Turn(index, ..) | Self::Overdue(index, ..) => Some(*index),
            _ => None,
        }
    }
}

struct World {
    plan: Plan,
    sabotage: Sabotage,
    chance: Chance,
    queue: Queue<Happening>,
    stream: Stream,
    leases: Leases,
    lake: Lake,
    processes: Vec<Process>,
    lanes: Vec<Lane>,
    watched: Vec<Watched>,
    /// How far each lane was read, which nobody should rely on.
    hints: BTreeMap<Lane, BTreeMap<ShardId, Position>>,
    puts_left: usize,
    turns: u64,
    statistics: Statistics,
}

impl World {
    fn new(plan: Plan, seed: u64, sabotage: Sabotage) -> Self {
        let mut chance = Chance::new(seed, true);
        Self {
            stream: Stream::new(&plan, sabotage, &mut chance),
            lake: Lake::new(plan.lanes, plan.keys, sabotage),
            lanes: plan.lanes(),
            watched: (0..plan.lanes).map(|_| Watched::default()).collect(),
            puts_left: plan.puts,
            sabotage,
            chance,
            queue: Queue::new(),
            leases: Leases::default(),
            processes: Vec::new(),
            hints: BTreeMap::new(),
            turns: 0,
            statistics: Statistics::default(),
            plan,
        }
    }

    /// Plans the beginning; returns when the trouble ends.
    fn begin(&mut self) -> Time {
        self.tell(|| format!("{:?}", self.plan));
        for _ in 0..self.plan.workers {
            let pause = self.about(LEASE / 4);
            self.queue.after(pause, Happening::Start);
        }
        for (index, (time, _)) in self.plan.script.iter().enumerate() {
            self.queue.at(*time, Happening::Script(index));
        }
        for happening in [Happening::Put, Happening::Check] {
            self.queue.after(Duration::ZERO, happening);
        }
        self.plan_next(self.plan.trouble_every, Happening::Trouble);
        self.plan_next(self.plan.reshard_every, Happening::Reshard);
        self.plan.trouble_for
    }

    fn go_on_until(&mut self, time: Time) -> Result<(), String> {
        while let Some(happening) = self.queue.next(time) {
            self.happen(happening)?;
        }
        Ok(())
    }

    fn happen(&mut self, happening: Happening) -> Result<(), String> {
        let happening = match happening.process() {
            None => happening,
            Some(index) => match self.now_or_later(index, happening) {
                Some(happening) => happening,
                None => return Ok(()),
            },
        };
        match happening {
            Happening::Arrive { sender, request, is_heard } => {
                let answer = self.arrive(sender, request)?;
                if is_heard { self.happen(Happening::Hear { sender, answer }) } else { Ok(()) }
            }
            Happening::Hear { sender, answer } => self.hear(sender, answer),
            Happening::Wake(index, sleep) => self.wake(index, sleep),
            Happening::Turn(index, lane, turn) => self.turn(index, lane, turn),
            Happening::Overdue(index, lane, term) => self.drop_run(index, lane, term),
            Happening::GoOn(index) => self.go_on(index),
            Happening::Check => {
                self.queue.after(LEASE / 10, Happening::Check);
                self.check()
            }
            // The rest is trouble, and it is over.
            _ if !self.chance.is_troubled => Ok(()),
            Happening::Start => self.join(),
            Happening::Put => {
                self.put();
                let pause = self.about(self.plan.put_every());
                self.queue.after(pause, Happening::Put);
                Ok(())
            }
            Happening::Reshard => self.reshard(),
            Happening::Trouble => self.make_trouble(),
            Happening::Script(index) => self.follow_script(index),
        }
    }

    fn put(&mut self) {
        if self.puts_left > 0 {
            self.puts_left -= 1;
            self.stream.put(self.queue.now(), &mut self.chance);
        }
    }

    /// Returns the processes that are neither dead nor paused.
    fn up(&self) -> Vec<usize> {
        (0..self.processes.len()).filter(|index| self.processes[*index].is_up()).collect()
    }

    /// Plans what happens about every so often.
    fn plan_next(&mut self, every: Option<Duration>, happening: Happening) {
        if let Some(every) = every {
            let pause = self.about(every);
            self.queue.after(pause, happening);
        }
    }

    fn about(&mut self, pause: Duration) -> Duration {
        pause.mul_f64(self.chance.random.random_range(0.0..2.0))
    }

    /// Says what happens, when one world is looked at.
    fn tell(&self, what: impl FnOnce() -> String) {
        if self.plan.is_told {
            println!("{:9.3} {}", self.queue.now().as_secs_f64(), what());
        }
    }
}
