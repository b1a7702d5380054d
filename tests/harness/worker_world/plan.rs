//! How large a world is and what happens in it.

use std::time::Duration;

use headwater_lake::layout::Lane;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::LEASE;
use super::lane_run::Limits;

/// Something that happens at a set time.
#[derive(Debug, Clone, Copy)]
pub(super) enum Scripted {
    /// The stream has so many shards.
    Shards(usize),
    /// A worker joins.
    Join,
    /// A worker leaves in order.
    Leave,
    /// A worker dies.
    Kill,
}

/// How large a world is and what happens in it.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Workers at the beginning, and at most.
    pub(super) workers: usize,
    pub(super) workers_max: usize,
    pub(super) lanes: u32,
    /// Shards at the beginning, and at most.
    pub(super) shards: u32,
    pub(super) shards_max: usize,
    pub(super) keys: usize,
    pub(super) puts: usize,
    /// How long things go wrong.
    pub(super) trouble_for: Duration,
    pub(super) trouble_every: Option<Duration>,
    pub(super) reshard_every: Option<Duration>,
    /// One request in so many has no answer.
    pub(super) loss_one_in: Option<u32>,
    /// One action in so many is a process's last.
    pub(super) crash_one_in: Option<u32>,
    /// One read of a shard in so many gives nothing.
    pub(super) throttle_one_in: u32,
    /// Some workers have a bound of lanes.
    pub(super) has_bounds: bool,
    pub(super) limits: Limits,
    pub(super) script: Vec<(Duration, Scripted)>,
    /// What happens is printed.
    pub(super) is_told: bool,
}

/// The largest worlds.
const WORKERS_MAX: u32 = 50;
const LANES_MAX: u32 = 64;
const SHARDS_MAX: u32 = 200;

impl Plan {
    /// Returns a world in which the stream has 2, 4, 8 and 3 shards while events come, and workers join, leave and die;
    /// most of them with every other trouble.
    pub fn reshard_under_load(seed: u64) -> Self {
        let mut random = SmallRng::seed_from_u64(!seed);
        let workers = random.random_range(2..=4);
        let lanes = random.random_range(1..=8);
        let steps = [
            (2.0, Scripted::Shards(4)),
            (3.0, Scripted::Join),
            (4.5, Scripted::Shards(8)),
            (6.0, Scripted::Kill),
            (7.0, Scripted::Leave),
            (8.0, Scripted::Join),
            (9.0, Scripted::Shards(3)),
        ];
        let script = steps.map(|(leases, step)| (LEASE.mul_f64(leases + random.random_range(0.0..2.0)), step)).into();
        let calm = Self {
            workers_max: workers + 3,
            shards_max: 8,
            keys: 24,
            puts: 300,
            trouble_for: LEASE * 12,
            script,
            ..Self::quiet(&mut random, (workers, lanes, 2))
        };
        if random.random_range(0..3) > 0 { calm.troubled(&mut random) } else { calm }
    }

    /// Returns a world of any size up to 50 workers, 64 lanes and 200 shards, with every trouble. Small ones are as
    /// frequent as large ones.
    pub fn any(seed: u64) -> Self {
        let mut random = SmallRng::seed_from_u64(!seed);
        let workers = up_to(&mut random, WORKERS_MAX) as usize;
        let lanes = up_to(&mut random, LANES_MAX);
        let shards = up_to(&mut random, SHARDS_MAX);
        Self::of_size(seed, workers, lanes, shards)
    }

    /// Returns a world of that size, with every trouble.
    pub fn of_size(seed: u64, workers: usize, lanes: u32, shards: u32) -> Self {
        let mut random = SmallRng::seed_from_u64(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let quiet = Self {
            workers: random.random_range(1..=workers),
            workers_max: workers,
            shards_max: shards.max(2) as usize,
            keys: (shards as usize * 2).clamp(8, 200),
            puts: random.random_range(100..=600),
            trouble_for: LEASE * random.random_range(6..=16_u32),
            reshard_every: Some(LEASE.mul_f64(random.random_range(0.3..3.0))),
            has_bounds: random.random_range(0..3) == 0,
            ..Self::quiet(&mut random, (workers, lanes, shards))
        };
        quiet.troubled(&mut random)
    }

    /// Returns the world with what happens printed.
    #[must_use]
    pub fn told(self) -> Self {
        Self { is_told: true, ..self }
    }

    fn quiet(random: &mut SmallRng, (workers, lanes, shards): (usize, u32, u32)) -> Self {
        Self {
            workers,
            workers_max: workers,
            lanes,
            shards,
            shards_max: shards as usize,
            keys: 8,
            puts: 100,
            trouble_for: LEASE * 10,
            trouble_every: None,
            reshard_every: None,
            loss_one_in: None,
            crash_one_in: None,
            throttle_one_in: random.random_range(2..=10),
            has_bounds: false,
            limits: Limits { rows: random.random_range(2..=12), age: LEASE.mul_f64(random.random_range(0.05..0.5)) },
            script: Vec::new(),
            is_told: false,
        }
    }

    fn troubled(self, random: &mut SmallRng) -> Self {
        let is_lossy = random.random_range(0..3) > 0;
        let is_deadly = random.random_range(0..3) > 0;
        // With more workers there is more trouble, and each of them has less.
        let every = LEASE.mul_f64(random.random_range(0.2..1.5)) / (1 + self.workers_max as u32 / 8);
        Self {
            trouble_every: Some(every),
            loss_one_in: is_lossy.then(|| random.random_range(10..=100)),
            crash_one_in: is_deadly.then(|| random.random_range(100..=2_000)),
            ..self
        }
    }

    pub(super) fn lanes(&self) -> Vec<Lane> {
        let lane = |index| format!("{index}of{}", self.lanes).parse().expect("it is a lane's name");
        (0..self.lanes).map(lane).collect()
    }

    pub(super) fn put_every(&self) -> Duration {
        self.trouble_for / u32::try_from(self.puts).expect("they are few")
    }
}

/// Draws a number of which each power of two is as likely as any other.
fn up_to(random: &mut SmallRng, most: u32) -> u32 {
    let power = random.random_range(0..=most.ilog2() + 1);
    random.random_range(1..=most.min(1 << power))
}
