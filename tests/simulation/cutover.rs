//! Cutover, rollback and other lanes, looked for in many schedules. The seeds are printed; `HEADWATER_SEED=n` runs one again.

use std::num::NonZero;

use harness::cutover_world::{self, Moment, SABOTAGES, Sabotage, Statistics};

/// Schedules in which every action gets its crash.
const ENUMERATED_SCHEDULES: u64 = 8;

/// Schedules in which a missing sentence must be noticed. Most are within a few hundred; that a candidate passes a later
/// seal takes some ten thousand.
const SABOTAGED_SCHEDULES: u64 = 200_000;

/// Runs the schedules on all cores, and returns what happened in them.
fn run_all(seeds: &std::ops::Range<u64>) -> Statistics {
    let workers = std::thread::available_parallelism().map_or(1, NonZero::get);
    let run_some = |worker: usize| {
        let mut total = Statistics::default();
        for seed in seeds.clone().skip(worker).step_by(workers) {
            let run = cutover_world::run(seed, Sabotage::None);
            total.add(&run.unwrap_or_else(|broken| panic!("seed {seed}: {broken}")));
        }
        total
    };
    let run_some = &run_some;
    std::thread::scope(|scope| {
        let started: Vec<_> = (0..workers).map(|worker| scope.spawn(move || run_some(worker))).collect();
        let mut total = Statistics::default();
        for worker in started {
            total.add(&worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        total
    })
}

#[test]
fn k1_to_k9_n1_to_n6_cutover_rollback_and_other_lanes_lose_and_double_no_event_whatever_happens() {
    let seeds = crate::seeds();
    println!("seeds {seeds:?}");
    let total = run_all(&seeds);
    println!("{total:?}");
    assert!(total.all().iter().all(|count| *count > 0) || seeds.count() == 1, "the schedules are too tame: {total:?}");
}

#[test]
fn k1_n1_a_crash_before_and_after_every_single_action_of_a_cutover_or_a_change_of_lanes_changes_nothing() {
    let mut crashes = 0;
    for seed in 0..ENUMERATED_SCHEDULES {
        for moment in [Moment::Before, Moment::After] {
            let there_was = |at: &usize| {
                let result = cutover_world::run_with_crash(seed, *at, moment);
                result.unwrap_or_else(|broken| panic!("seed {seed}, action {at}, {moment:?}: {broken}"))
            };
            crashes += (0..).take_while(there_was).count();
        }
    }
    println!("{crashes} crashes, one a schedule");
    assert!(crashes > 2_000, "{crashes}");
}

#[test]
fn each_sentence_of_cutover_rollback_and_other_lanes_is_missed() {
    for sabotage in SABOTAGES {
        let broken = (0..SABOTAGED_SCHEDULES).find_map(|seed| {
            match std::panic::catch_unwind(|| cutover_world::run(seed, sabotage)) {
                Ok(Ok(_)) => None,
                Ok(Err(broken)) => Some((seed, broken)),
                // The machines' own assertions notice some of it first.
                Err(_) => Some((seed, "an assertion of a machine failed".to_owned())),
            }
        });
        let (seed, broken) = broken.unwrap_or_else(|| panic!("nobody misses the sentence behind {sabotage:?}"));
        println!("{sabotage:?}: seed {seed}: {broken}");
    }
}
