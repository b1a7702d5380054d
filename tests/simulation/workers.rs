//! Many workers at one stream that is split and merged, looked for in many worlds. The seeds are printed;
//! `HEADWATER_SEED=n` runs one again and says what happens in it.

use std::num::NonZero;
use std::ops::Range;

use harness::worker_world::{self, Plan, SABOTAGES, Sabotage, Statistics};

/// Worlds in which the stream has 2, 4, 8 and 3 shards under load.
const RESHARDS: u64 = 1_000;

/// Worlds of any size.
const WORLDS: u64 = 600;

/// Worlds in which a missing rule must be noticed. Most are within a few.
const SABOTAGED: u64 = 3_000;

/// Runs the worlds on all cores, and returns what happened in them.
fn run_all(seeds: &Range<u64>, plan: fn(u64) -> Plan) -> Statistics {
    println!("seeds {seeds:?}");
    let workers = std::thread::available_parallelism().map_or(1, NonZero::get);
    let is_alone = seeds.end - seeds.start == 1;
    let run_some = |worker: usize| {
        let mut total = Statistics::default();
        for seed in seeds.clone().skip(worker).step_by(workers) {
            let plan = if is_alone { plan(seed).told() } else { plan(seed) };
            let run = worker_world::run(plan, seed, Sabotage::None);
            total.add(&run.unwrap_or_else(|broken| panic!("seed {seed}: {broken}")));
        }
        total
    };
    let run_some = &run_some;
    let total = std::thread::scope(|scope| {
        let started: Vec<_> = (0..workers).map(|worker| scope.spawn(move || run_some(worker))).collect();
        let mut total = Statistics::default();
        for worker in started {
            total.add(&worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        total
    });
    println!("{total:?}");
    total
}

/// Looks that the worlds were eventful, when there were many.
fn expect_all(total: &Statistics, seeds: &Range<u64>, expected: &[&str]) {
    let absent: Vec<_> = expected.iter().filter(|what| total.of(what) == 0).collect();
    assert!(absent.is_empty() || seeds.end - seeds.start < 100, "the worlds are too tame: no {absent:?} in {total:?}");
}

#[test]
fn w1_to_w7_fm09_reshard_under_load_loses_doubles_and_reorders_nothing() {
    let seeds = crate::seeds_of(RESHARDS);
    let total = run_all(&seeds, Plan::reshard_under_load);
    let expected = [
        "splits",
        "merges",
        "crashes",
        "workers that left",
        "lanes that were handed over",
        "lanes that were released",
        "expired leases that were taken",
        "lost races for a lease",
    ];
    expect_all(&total, &seeds, &expected);
}

/// Worlds of every extreme first, then of any size.
fn of_any_size(seed: u64) -> Plan {
    let extremes = [(1, 1, 1), (50, 64, 200), (50, 1, 200), (1, 64, 200), (50, 64, 1)];
    match usize::try_from(seed).ok().and_then(|index| extremes.get(index)) {
        Some((workers, lanes, shards)) => Plan::of_size(seed, *workers, *lanes, *shards),
        None => Plan::any(seed),
    }
}

#[test]
fn w1_to_w7_fm01_fm13_any_number_of_workers_lanes_and_shards_keeps_every_promise() {
    let seeds = crate::seeds_of(WORLDS);
    let total = run_all(&seeds, of_any_size);
    let expected = [
        "splits",
        "merges",
        "shards that were forgotten",
        "crashes",
        "pauses longer than a lease",
        "workers that left",
        "requests without an answer",
        "actions of zombies",
        "runs that were fenced",
        "epochs that were made again",
        "files that were adopted",
        "lanes that were handed over",
        "expired leases that were taken",
        "leases that were taken by force",
        "runs that were dropped",
    ];
    expect_all(&total, &seeds, &expected);
}

#[test]
fn each_rule_of_workers_and_shards_is_missed() {
    for (sabotage, promise) in SABOTAGES {
        let broken = (0..SABOTAGED).find_map(|seed| {
            // The machines' own assertions may notice it first: then another seed tells.
            let plan = Plan::reshard_under_load(seed);
            let run = std::panic::catch_unwind(|| worker_world::run(plan, seed, sabotage));
            let broken = run.ok().and_then(Result::err);
            broken.filter(|broken| broken.starts_with(promise)).map(|broken| (seed, broken))
        });
        let (seed, broken) = broken.unwrap_or_else(|| panic!("{promise} holds without the rule behind {sabotage:?}"));
        println!("{sabotage:?}: seed {seed}: {broken}");
    }
}
