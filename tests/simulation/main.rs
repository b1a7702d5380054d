//! What must never happen, looked for in many schedules. The seeds are printed; `HEADWATER_SEED=n` runs one again, and
//! `HEADWATER_SCHEDULES=n` so many of each kind.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test that panics has failed, and says so")]

mod cutover;
mod workers;

use harness::simulation::{self, Moment, SABOTAGES, Sabotage, Statistics};

/// Schedules that CI runs.
const SCHEDULES: u64 = 100_000;

/// Schedules in which every action gets its crash.
const ENUMERATED_SCHEDULES: u64 = 40;

/// Schedules in which a missing sentence must be noticed.
const SABOTAGED_SCHEDULES: u64 = 20_000;

fn seeds() -> std::ops::Range<u64> {
    seeds_of(SCHEDULES)
}

/// Returns the seeds of so many schedules, unless it is said by hand which.
fn seeds_of(schedules: u64) -> std::ops::Range<u64> {
    match (by_hand("HEADWATER_SEED"), by_hand("HEADWATER_SCHEDULES")) {
        (Some(seed), _) => seed..seed + 1,
        (None, many) => 0..many.unwrap_or(schedules),
    }
}

fn by_hand(variable: &str) -> Option<u64> {
    #[expect(clippy::disallowed_methods, reason = "a number given by hand")]
    let given = std::env::var(variable);
    given.ok().and_then(|number| number.parse().ok())
}

#[test]
fn p1_to_p9_every_event_is_in_the_lake_once_whatever_happens() {
    println!("seeds {:?}", seeds());
    let mut total = Statistics::default();
    for seed in seeds() {
        let statistics = simulation::run(seed, Sabotage::None).unwrap_or_else(|broken| panic!("seed {seed}: {broken}"));
        total.crashes += statistics.crashes;
        total.unknowns += statistics.unknowns;
        total.redos += statistics.redos;
        total.fenced += statistics.fenced;
        total.schema_conflicts += statistics.schema_conflicts;
        total.adopted += statistics.adopted;
    }
    println!("{total:?}");
    let rare = [total.crashes, total.unknowns, total.redos, total.fenced, total.schema_conflicts, total.adopted];
    assert!(rare.iter().all(|count| *count > 0) || seeds().count() == 1, "the schedules are too tame: {total:?}");
}

#[test]
fn p1_a_crash_before_and_after_every_single_action_changes_nothing() {
    let mut crashes = 0;
    for seed in 0..ENUMERATED_SCHEDULES {
        for moment in [Moment::Before, Moment::After] {
            let there_was = |at: &usize| {
                let result = simulation::run_with_crash(seed, *at, moment);
                result.unwrap_or_else(|broken| panic!("seed {seed}, action {at}, {moment:?}: {broken}"))
            };
            crashes += (0..).take_while(there_was).count();
        }
    }
    println!("{crashes} crashes, one a schedule");
    assert!(crashes > 4_000, "{crashes}");
}

#[test]
fn each_sentence_of_the_protocol_is_missed() {
    for sabotage in SABOTAGES {
        let broken = (0..SABOTAGED_SCHEDULES).find_map(|seed| {
            let result = std::panic::catch_unwind(|| simulation::run(seed, sabotage));
            match result {
                Ok(Ok(_)) => None,
                Ok(Err(broken)) => Some((seed, broken)),
                // The machine's own assertions notice some of it first.
                Err(_) => Some((seed, "an assertion of the machine failed".to_owned())),
            }
        });
        let (seed, broken) = broken.unwrap_or_else(|| panic!("nobody misses the sentence behind {sabotage:?}"));
        println!("{sabotage:?}: seed {seed}: {broken}");
    }
}
